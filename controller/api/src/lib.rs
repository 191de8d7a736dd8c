//! The contracts between the proxy, the controller and the CLI.
//!
//! Nothing here does I/O. The protobuf files in `proto/` are compiled without `protoc`.

#![forbid(unsafe_code)]

mod address;
pub mod log_filter;
pub mod names;
pub mod sketch;
mod spiffe;
mod tap;
mod workload;

pub use sketch::Sketch;
pub use spiffe::{SpiffeId, SpiffeIdError};

/// Package `mesh.v1`: identity, discovery, telemetry and observe.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("mesh.v1");
}

/// Package `mesh.local.v1`: the mesh on one machine.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
pub mod local {
    tonic::include_proto!("mesh.local.v1");
}
