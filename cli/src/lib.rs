//! The command line of mesh, and the mesh on one machine.

#![forbid(unsafe_code)]

/// `mesh up`.
pub mod up;
/// `mesh down`.
pub mod down;
/// `mesh local …`.
pub mod local_commands;
/// The mesh on one machine: sandbox, network, pods.
pub mod local;
