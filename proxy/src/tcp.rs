//! Bytes both ways between two connections.
