//! `mesh demo` without a terminal.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Command,
    time::Instant,
};

use mesh_tests::{Turn, binary, figure, namespaces_possible, skip};
use serde_json::Value;

/// Runs the demo and gives what it printed.
fn demo(mut command: Command, home: &Path) -> Value {
    let start = Instant::now();
    let output = command
        .args(["demo", "--for", "10s", "-o", "json"])
        .current_dir("/")
        .env("HOME", home)
        .env("TMPDIR", home)
        .env("XDG_RUNTIME_DIR", home)
        .output()
        .expect("mesh starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    figure!(
        "{} after {:.1} s",
        output.status,
        start.elapsed().as_secs_f64()
    );
    assert!(output.status.success(), "{text}{error}");
    let left: Vec<_> = fs::read_dir(home).expect("the folder").flatten().collect();
    assert!(left.is_empty(), "files are left: {left:?}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// At least six services and ten pods, with traffic.
fn judge(statistics: &Value) {
    let rows = |name: &str| statistics[name].as_array().cloned().unwrap_or_default();
    let busy = |rows: Vec<Value>| {
        let rate = |row: &Value| row["rps"].as_f64().unwrap_or_default();
        rows.iter().filter(|row| rate(row) > 0.0).count()
    };
    let services = rows("services").len();
    let pods = statistics["totals"]["meshed_pods"]
        .as_u64()
        .unwrap_or_default();
    let edges = busy(rows("edges"));
    figure!("{services} services, {pods} meshed pods, requests on {edges} edges");
    assert_eq!(statistics["ok"], true, "{statistics}");
    assert!(services >= 6, "{statistics}");
    assert!(pods >= 10, "{statistics}");
    assert!(edges >= 3, "{statistics}");
    assert!(busy(rows("workloads")) >= 3, "{statistics}");
}

#[test]
fn as_this_user() {
    const TEST: &str = "demo as this user";
    if let Err(why) = namespaces_possible() {
        return skip(TEST, &why);
    }
    let _turn = Turn::wait();
    println!("{TEST}:");
    let home = tempfile::tempdir().expect("a folder");
    judge(&demo(Command::new(binary::mesh()), home.path()));
}

#[test]
fn as_an_ordinary_user() {
    const TEST: &str = "demo as an ordinary user";
    if !nix::unistd::geteuid().is_root() {
        return skip(TEST, "this is an ordinary user already");
    }
    let Ok(Some(nobody)) = nix::unistd::User::from_name("nobody") else {
        return skip(TEST, "there is no user nobody");
    };
    let _turn = Turn::wait();
    println!("{TEST}:");
    // The target folder may be below one that only root can enter.
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    let program = folder.path().join("mesh");
    fs::copy(binary::mesh(), &program).expect("a copy of mesh");
    let home = folder.path().join("home");
    fs::create_dir(&home).expect("a home");
    nix::unistd::chown(&home, Some(nobody.uid), Some(nobody.gid)).expect("chown");
    let mut probe = Command::new("unshare");
    probe
        .args(["-r", "-n", "true"])
        .uid(nobody.uid.as_raw())
        .gid(nobody.gid.as_raw());
    if !probe.output().is_ok_and(|output| output.status.success()) {
        return skip(TEST, "ordinary users can't make user namespaces here");
    }
    let mut command = Command::new(&program);
    command.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw());
    judge(&demo(command, &home));
}
