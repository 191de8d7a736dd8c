//! The harness of the end-to-end tests: it runs a mesh with `mesh up`, and sees to it that nothing of it stays.

#![forbid(unsafe_code)]

use std::io::{self, Write as _};

mod apiserver;
pub mod binary;
pub mod cluster;
mod exec;
mod leftovers;
pub mod link;
mod local;
pub mod manifest;
mod mesh;
pub mod metrics;
pub mod pattern;
pub mod ports;
pub mod report;
pub mod screen;
mod turn;

pub use exec::{Output, Running};
pub use leftovers::{Family, Snapshot};
pub use mesh::{Mesh, Options, namespaces_possible, path};
pub use turn::Turn;

/// The gRPC service of `mesh-testapp`.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
pub mod echo {
    tonic::include_proto!("mesh.testapp");
}

/// The standard health service.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// Says that a test can't run here, and why; the test returns. Not by `println!`, which is shown of failed tests only.
pub fn skip(test: &str, why: &str) {
    // Where nobody can read it, nobody is told.
    let _ = writeln!(io::stdout(), "{test}: skipped: {why}");
}

/// Prints a measured figure.
#[macro_export]
macro_rules! figure {
    ($($text:tt)*) => {
        println!("    {}", format_args!($($text)*))
    };
}
