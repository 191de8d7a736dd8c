//! What every test here relies on, asked of the in-memory server and of a real one alike.
