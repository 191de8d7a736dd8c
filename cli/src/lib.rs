//! The command line of mesh, and the mesh on one machine.

#![forbid(unsafe_code)]

/// `mesh down`.
pub mod down;
/// The mesh on one machine: sandbox, network, pods.
pub mod local;
/// `mesh local …`.
pub mod local_commands;
/// `mesh up`.
pub mod up;
