//! Compiles the protobuf files without `protoc`.

use std::error::Error;

const PROTOS: [&str; 6] = [
    "types.proto",
    "identity.proto",
    "discovery.proto",
    "telemetry.proto",
    "observe.proto",
    "local.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(files)?;
    Ok(())
}
