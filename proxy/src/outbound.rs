//! The outbound story: a connection of this pod's own apps, from its first byte to an endpoint.
