//! `install/image.sh`: the archive is what container runtimes read, and what is in it runs on nothing.

use std::{
    env, fs,
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use mesh_tests::skip;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{failed, script, succeeded};

/// Looks a name up, which is what tends to break in an empty image.
const PROGRAM: &str = r#"
#include <netdb.h>
#include <stdio.h>
int main(int count, char **arguments) {
    struct addrinfo *found;
    int error = getaddrinfo(arguments[count - 1], "80", 0, &found);
    puts(error ? gai_strerror(error) : "found");
    return error != 0;
}
"#;

#[test]
fn an_archive_is_an_oci_layout_and_a_docker_archive() {
    let folder = TempDir::new().unwrap();
    let Some(program) = compile(folder.path(), "mesh-proxy", &["-static"]) else {
        return skip("an_archive", "gcc can't link statically here");
    };
    let archive = pack(&program, &["-r", "registry.example/mesh", "-v", "1.2.3"]);
    let image = Image::unpack(&archive);

    assert_eq!(image.json("oci-layout")["imageLayoutVersion"], "1.0.0");
    let index = image.json("index.json");
    let entry = &index["manifests"][0];
    let name = "registry.example/mesh/mesh-proxy:1.2.3";
    assert_eq!(entry["annotations"]["io.containerd.image.name"], name);
    assert_eq!(
        entry["annotations"]["org.opencontainers.image.ref.name"],
        "1.2.3"
    );

    let manifest: Value = serde_json::from_slice(&image.blob(entry)).unwrap();
    let config: Value = serde_json::from_slice(&image.blob(&manifest["config"])).unwrap();
    let layer = image.blob(&manifest["layers"][0]);
    assert_eq!(config["os"], "linux");
    let arch = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    assert_eq!(config["architecture"], arch);
    assert_eq!(entry["platform"]["architecture"], arch);
    assert_eq!(config["config"]["User"], "2102:2102");
    assert_eq!(
        config["config"]["Entrypoint"],
        serde_json::json!(["/mesh-proxy"])
    );

    let docker = image.json("manifest.json");
    assert_eq!(docker[0]["RepoTags"], serde_json::json!([name]));
    let path =
        |descriptor: &Value| format!("blobs/{}", text(&descriptor["digest"]).replace(':', "/"));
    assert_eq!(docker[0]["Config"], path(&manifest["config"]));
    assert_eq!(
        docker[0]["Layers"],
        serde_json::json!([path(&manifest["layers"][0])])
    );

    let unzipped = folder.path().join("layer.tar");
    fs::write(folder.path().join("layer.tar.gz"), layer).unwrap();
    run(Command::new("gzip")
        .arg("-d")
        .arg(folder.path().join("layer.tar.gz")));
    let digest = sha256(&fs::read(&unzipped).unwrap());
    assert_eq!(
        config["rootfs"]["diff_ids"],
        serde_json::json!([format!("sha256:{digest}")])
    );
    let listing = run(Command::new("tar").arg("-tvf").arg(&unzipped));
    let entries: Vec<_> = listing.lines().collect();
    assert_eq!(entries.len(), 4, "{listing}");
    for (entry, (mode, name)) in entries.iter().zip([
        ("drwxr-xr-x 0/0", "./"),
        ("drwxr-xr-x 0/0", "./etc/"),
        ("-rw-r--r-- 0/0", "./etc/nsswitch.conf"),
        ("-rwxr-xr-x 0/0", "./mesh-proxy"),
    ]) {
        assert!(entry.starts_with(mode) && entry.ends_with(name), "{entry}");
    }
}

/// What an app of the proxy's user sends is taken for the proxy's own, and passes by it.
#[test]
fn the_testapp_is_not_of_the_proxys_user() {
    let folder = TempDir::new().unwrap();
    let Some(program) = compile(folder.path(), "mesh-testapp", &["-static"]) else {
        return skip("the_testapp", "gcc can't link statically here");
    };
    let image = Image::unpack(&pack(&program, &[]));
    let index = image.json("index.json");
    let manifest: Value = serde_json::from_slice(&image.blob(&index["manifests"][0])).unwrap();
    let config: Value = serde_json::from_slice(&image.blob(&manifest["config"])).unwrap();
    assert_eq!(config["config"]["User"], "65532:65532");
}

#[test]
fn the_same_program_makes_the_same_bytes() {
    let folder = TempDir::new().unwrap();
    let Some(program) = compile(folder.path(), "mesh-proxy", &["-static"]) else {
        return skip("the_same_program", "gcc can't link statically here");
    };
    let first = fs::read(pack(&program, &[])).unwrap();
    // A copy of another time, mode and place.
    let other = TempDir::new().unwrap();
    let copy = other.path().join("mesh-proxy");
    fs::write(&copy, fs::read(&program).unwrap()).unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(0o700)).unwrap();
    assert!(first == fs::read(pack(&copy, &[])).unwrap());
}

#[test]
fn what_could_not_run_is_refused() {
    let folder = TempDir::new().unwrap();
    let image = |arguments: &[&str], program: &Path| {
        let archive = folder.path().join("refused.tar");
        let mut command = script("image.sh");
        let output = command
            .args(arguments)
            .arg(program)
            .arg(&archive)
            .output()
            .unwrap();
        let sentence = failed(&output);
        assert!(!archive.exists());
        sentence
    };
    let missing = image(&[], &folder.path().join("mesh-proxy"));
    assert!(missing.contains("there is no file"), "{missing}");

    let text = folder.path().join("mesh-controller");
    fs::write(&text, "#!/bin/sh\necho I am a script\n").unwrap();
    let sentence = image(&[], &text);
    assert!(sentence.contains("not a Linux program"), "{sentence}");

    let Some(dynamic) = compile(folder.path(), "mesh-proxy", &[]) else {
        return skip("what_could_not_run", "there is no gcc");
    };
    let sentence = image(&[], &dynamic);
    assert!(sentence.contains("linked dynamically"), "{sentence}");
    let other = if cfg!(target_arch = "aarch64") {
        "amd64"
    } else {
        "arm64"
    };
    let sentence = image(&["-a", other], &dynamic);
    assert!(sentence.contains(&format!("not for {other}")), "{sentence}");

    let stranger = compile(folder.path(), "stranger", &[]).unwrap();
    let sentence = image(&[], &stranger);
    assert!(sentence.contains("takes its name from it"), "{sentence}");
}

/// A statically linked C library resolves names by itself, from files as from DNS: proxies find the controller.
#[test]
fn a_static_program_resolves_names_in_an_image() {
    let folder = TempDir::new().unwrap();
    let Some(program) = compile(folder.path(), "mesh-proxy", &["-static"]) else {
        return skip("a_static_program", "gcc can't link statically here");
    };
    let root = Image::unpack(&pack(&program, &[])).root();
    // What a kubelet puts into every container.
    fs::write(root.path().join("etc/hosts"), "10.9.8.7 written-in-hosts\n").unwrap();
    fs::write(
        root.path().join("etc/resolv.conf"),
        "nameserver 127.0.0.1\n",
    )
    .unwrap();
    match run_in(root.path(), "/mesh-proxy", &["written-in-hosts"]) {
        Some(output) => assert_eq!(output.trim(), "found"),
        None => skip("a_static_program", "this user can't make namespaces"),
    }
}

/// With `MESH_STATIC_DIR` set to a folder that `install/build.sh` has filled.
#[test]
fn the_real_programs_run_in_their_images() {
    let Some(folder) = env::var_os("MESH_STATIC_DIR").map(PathBuf::from) else {
        return skip(
            "the_real_programs",
            "MESH_STATIC_DIR does not say where install/build.sh has put them",
        );
    };
    for name in ["mesh-proxy", "mesh-controller"] {
        let archive = pack(&folder.join(name), &[]);
        let size = fs::metadata(&archive).unwrap().len();
        mesh_tests::figure!(
            "{name}: the archive has {:.1} MiB",
            size as f64 / f64::from(1 << 20)
        );
        let root = Image::unpack(&archive).root();
        let program = format!("/{name}");
        match run_in(root.path(), &program, &["--version"]) {
            Some(output) => assert!(output.starts_with(name), "{output}"),
            None => return skip("the_real_programs", "this user can't make namespaces"),
        }
        let help = run_in(root.path(), &program, &["run", "--help"]).unwrap();
        assert!(help.contains("--log-level"), "{help}");
    }
}

/// Compiles [`PROGRAM`] under a name; `None` where that can't be done.
fn compile(folder: &Path, name: &str, flags: &[&str]) -> Option<PathBuf> {
    let source = folder.join("program.c");
    fs::write(&source, PROGRAM).unwrap();
    let program = folder.join(name);
    let mut gcc = Command::new("gcc");
    gcc.args(flags).arg("-o").arg(&program).arg(&source);
    gcc.output().ok()?.status.success().then_some(program)
}

/// The path of the archive that the script makes.
fn pack(program: &Path, arguments: &[&str]) -> PathBuf {
    let archive = program.with_extension("tar");
    let mut command = script("image.sh");
    succeeded(
        &command
            .args(arguments)
            .arg(program)
            .arg(&archive)
            .output()
            .unwrap(),
    );
    archive
}

struct Image(TempDir);

impl Image {
    fn unpack(archive: &Path) -> Self {
        let folder = TempDir::new().unwrap();
        run(Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(folder.path()));
        Self(folder)
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.0.path().join(name)).unwrap()).unwrap()
    }

    /// What a descriptor describes; its digest and size are checked.
    fn blob(&self, descriptor: &Value) -> Vec<u8> {
        let (algorithm, digest) = text(&descriptor["digest"]).split_once(':').unwrap();
        assert_eq!(algorithm, "sha256");
        let content = fs::read(self.0.path().join("blobs/sha256").join(digest)).unwrap();
        assert_eq!(sha256(&content), digest);
        assert_eq!(descriptor["size"], content.len());
        content
    }

    /// The file system that a container of this image has.
    fn root(&self) -> TempDir {
        let index = self.json("index.json");
        let manifest: Value = serde_json::from_slice(&self.blob(&index["manifests"][0])).unwrap();
        let layer = self.0.path().join("layer.tar.gz");
        fs::write(&layer, self.blob(&manifest["layers"][0])).unwrap();
        let root = TempDir::new().unwrap();
        run(Command::new("tar")
            .arg("-xzf")
            .arg(&layer)
            .arg("-C")
            .arg(root.path()));
        root
    }
}

/// Runs a program with `root` as all that it sees. `None` where this user can't do that.
fn run_in(root: &Path, program: &str, arguments: &[&str]) -> Option<String> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net"]);
        command
    };
    if !unshare()
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        return None;
    }
    let output = unshare()
        .arg("chroot")
        .arg(root)
        .arg(program)
        .args(arguments)
        .output()
        .unwrap();
    Some(succeeded(&output))
}

fn run(command: &mut Command) -> String {
    succeeded(&command.output().unwrap())
}

fn sha256(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
