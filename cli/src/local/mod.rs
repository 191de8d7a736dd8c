//! The mesh on one machine.

pub mod sandbox;
