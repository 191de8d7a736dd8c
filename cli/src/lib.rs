//! The command line of mesh, and the mesh on one machine.

#![forbid(unsafe_code)]

/// What one proxy believes.
pub mod belief;
/// `mesh check`.
pub mod check;
/// Finding a mesh, and calling it.
pub mod client;
/// Kubernetes, through its API server.
pub mod cluster;
/// `mesh completion`.
pub mod completion;
/// `mesh demo`.
pub mod demo;
/// `mesh diagnostics`.
pub mod diagnostics;
/// `mesh down`.
pub mod down;
/// `mesh edges`.
pub mod edges;
#[cfg(test)]
mod fake;
/// `mesh identity`.
pub mod identity;
/// `mesh inject` and `mesh uninject`.
pub mod inject;
/// `mesh install`, `mesh upgrade`, `mesh uninstall`.
pub mod install;
/// The mesh on one machine: sandbox, network, pods.
pub mod local;
/// `mesh local …`.
pub mod local_commands;
/// Printing.
pub mod output;
/// Naming what to look at.
pub mod resource;
/// `mesh stat`.
pub mod stat;
/// `mesh tap`.
pub mod tap;
/// `mesh top`.
pub mod top;
/// `mesh up`.
pub mod up;
/// `mesh version`.
pub mod version;
