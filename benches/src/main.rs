//! Benchmarks of mesh. See README.md for what each figure means and what it was.

mod compare;
mod controller;
mod load;
mod micro;
mod open_files;

use clap::Parser;

#[derive(Parser)]
#[command(about = "Benchmarks of mesh")]
enum Bench {
    /// Instructions and allocations of what the proxy does for a request (valgrind installed).
    Micro(micro::MicroArgs),
    /// The same work through every proxy, side by side (root; nginx, curl and iproute2 installed).
    Compare(compare::CompareArgs),
    /// One controller under the streams and the telemetry of many proxies.
    Controller(controller::ControllerArgs),
    /// The load generator of `compare`.
    #[command(hide = true)]
    Load(load::LoadArgs),
}

fn main() -> anyhow::Result<()> {
    match Bench::parse() {
        Bench::Micro(args) => micro::run(&args),
        Bench::Compare(args) => compare::run(&args),
        Bench::Controller(args) => controller::run(&args),
        Bench::Load(args) => load::run(&args),
    }
}
