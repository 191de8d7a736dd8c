//! Compiles the demo's protobuf file without `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=src/demo/app/pricing.proto");
    let files = protox::compile(["pricing.proto"], ["src/demo/app"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(files)?;
    Ok(())
}
