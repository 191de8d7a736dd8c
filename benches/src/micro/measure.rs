//! What one operation of a case costs, by running this program again under callgrind.

use std::{path::Path, process::Command};

use anyhow::{Context as _, bail};

use super::cases::Case;

/// The longest case takes a tenth of it on a busy machine.
const LIMIT_SECONDS: &str = "180";

/// Of one operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    /// In user space.
    pub(super) instructions: f64,
    /// On the heap, growing included.
    pub(super) allocations: f64,
}

/// Of a whole run.
struct Counts {
    instructions: u64,
    allocations: u64,
}

/// Whether instructions can be counted here, and if not, why.
pub(super) fn can_count() -> Result<(), String> {
    match Command::new("valgrind").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("valgrind does not run: {}", output.status)),
        Err(error) => Err(format!(
            "valgrind does not run: {error} (Debian: apt-get install valgrind)"
        )),
    }
}

/// Two runs, and what the second did more.
pub(super) fn cost(case: &Case) -> anyhow::Result<Cost> {
    let (once, twice) = (
        counts(case.name, case.operations)?,
        counts(case.name, 2 * case.operations)?,
    );
    let per_operation =
        |once: u64, twice: u64| twice.saturating_sub(once) as f64 / case.operations as f64;
    Ok(Cost {
        instructions: per_operation(once.instructions, twice.instructions),
        allocations: per_operation(once.allocations, twice.allocations),
    })
}

fn counts(name: &str, operations: u64) -> anyhow::Result<Counts> {
    let folder = tempfile::tempdir()?;
    let profile = folder.path().join("callgrind.out");
    let mut out_file = std::ffi::OsString::from("--callgrind-out-file=");
    out_file.push(&profile);
    // A request that never ends must not hold up CI; a watch inside of the process would be counted.
    let output = Command::new("timeout")
        .args([LIMIT_SECONDS, "valgrind", "--tool=callgrind", "--quiet"])
        .arg(out_file)
        .arg(std::env::current_exe()?)
        .args([
            "micro",
            "--run",
            name,
            "--operations",
            &operations.to_string(),
        ])
        .output()?;
    if !output.status.success() {
        bail!(
            "{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let allocations = String::from_utf8(output.stdout)?;
    Ok(Counts {
        instructions: total(&profile)?,
        allocations: allocations
            .trim()
            .parse()
            .context("the number of allocations")?,
    })
}

/// The "totals:" or "summary:" line of callgrind's profile.
fn total(profile: &Path) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(profile).context("callgrind's profile")?;
    let total = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("totals: "));
    total
        .context("callgrind's profile has no total")?
        .trim()
        .parse()
        .context("the total")
}
