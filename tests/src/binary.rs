//! Finds the programs that the tests run.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// The `mesh` program: `$MESH_BIN`, or built now in the profile of the tests, or found beside them.
///
/// # Panics
/// There is none, and none can be built.
pub fn mesh() -> &'static Path {
    static MESH: OnceLock<PathBuf> = OnceLock::new();
    MESH.get_or_init(|| {
        if let Some(path) = env::var_os("MESH_BIN") {
            return path.into();
        }
        // target/<profile>/deps/e2e-<hash>
        let test = env::current_exe().expect("the path of this test");
        let folder = test
            .parent()
            .and_then(Path::parent)
            .expect("a target folder");
        // Cargo tells its own path to the tests that it runs; without it they were started by hand.
        if let Some(cargo) = env::var_os("CARGO") {
            build(Path::new(&cargo), folder);
        }
        let path = folder.join("mesh");
        assert!(
            path.is_file(),
            "{} is missing: build it with `cargo build -p mesh`, or set MESH_BIN",
            path.display()
        );
        path
    })
}

/// Whether a program is on the PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // Debian keeps servers where an ordinary user's PATH does not look.
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

fn build(cargo: &Path, folder: &Path) {
    let mut command = Command::new(cargo);
    // Of the whole workspace, whose dependencies have been compiled with these features already.
    command.args([
        "build",
        "--quiet",
        "--workspace",
        "--bin",
        "mesh",
        "--target-dir",
    ]);
    command.arg(folder.parent().expect("a target folder"));
    match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => {}
        Some(profile) => {
            command.args(["--profile", profile]);
        }
    }
    let status = command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .status()
        .expect("cargo starts");
    assert!(
        status.success(),
        "cargo build --workspace --bin mesh failed"
    );
}
