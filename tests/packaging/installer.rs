//! `install/install.sh`, from a release that `install/release.sh` made, served on loopback.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

use tempfile::TempDir;

use crate::{failed, script, succeeded};

#[test]
fn a_release_is_installed() {
    let release = Release::new();
    let home = TempDir::new().unwrap();
    let target = home.path().join("mesh home");
    let output = release.install(&target);
    let said = succeeded(&output);
    assert!(said.contains("Installed mesh 9.9.9"), "{said}");
    let bin = target.join("bin");
    assert!(
        said.contains(&format!("export PATH=\"{}:$PATH\"", bin.display())),
        "{said}"
    );
    assert!(said.contains("mesh check --pre"), "{said}");
    assert_eq!(names(&bin), ["mesh"]);
    let mode = fs::metadata(bin.join("mesh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    assert_eq!(
        succeeded(&Command::new(bin.join("mesh")).output().unwrap()),
        "mesh 9.9.9\n"
    );

    // Once more, over the first, with the folder in the PATH.
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let said = succeeded(&release.command(&target).env("PATH", path).output().unwrap());
    assert!(!said.contains("export PATH"), "{said}");
}

#[test]
fn a_download_that_is_not_the_released_program_is_not_installed() {
    let release = Release::new();
    let program = release.program();
    let mut content = fs::read(&program).unwrap();
    content.push(b'#');
    fs::write(&program, content).unwrap();
    release.refuses("is not what was released");
}

#[test]
fn what_is_missing_is_named() {
    let release = Release::new();
    fs::remove_file(release.program()).unwrap();
    release.refuses("Can't download http://127.0.0.1:");

    let release = Release::new();
    fs::remove_file(release.folder.path().join("SHA256SUMS")).unwrap();
    release.refuses("/SHA256SUMS: ");

    let release = Release::new();
    fs::write(release.folder.path().join("SHA256SUMS"), "").unwrap();
    release.refuses("does not name it");
}

#[test]
fn a_program_that_does_not_run_here_is_not_installed() {
    let release = Release::of("#!/bin/sh\necho 'no such processor' >&2\nexit 1\n");
    release.refuses("does not run here: no such processor");
}

#[test]
fn an_old_program_survives_a_failure() {
    let release = Release::new();
    let home = TempDir::new().unwrap();
    succeeded(&release.install(home.path()));
    fs::remove_file(release.program()).unwrap();
    failed(&release.install(home.path()));
    assert_eq!(names(&home.path().join("bin")), ["mesh"]);
    let program = home.path().join("bin/mesh");
    assert_eq!(
        succeeded(&Command::new(program).output().unwrap()),
        "mesh 9.9.9\n"
    );
}

#[test]
fn a_script_that_arrives_in_part_does_nothing() {
    let release = Release::new();
    let script = fs::read_to_string(release.folder.path().join("install.sh")).unwrap();
    let home = TempDir::new().unwrap();
    for part in [script.len() / 4, script.len() / 2, script.len() - 6] {
        let mut command = release.command(home.path());
        run(&mut command, &script[..part]);
        assert!(names(home.path()).is_empty());
    }
}

#[test]
fn places_that_can_not_be_written_to_are_named() {
    let release = Release::new();
    let home = TempDir::new().unwrap();
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let sentence = failed(&release.install(&file));
    assert!(
        sentence.contains("mesh: Can't make the folder"),
        "{sentence}"
    );
    let unset = release
        .command(&file)
        .env_remove("MESH_HOME")
        .env_remove("HOME")
        .output();
    let sentence = failed(&unset.unwrap());
    assert!(sentence.contains("There is no HOME"), "{sentence}");
}

#[test]
fn the_script_of_no_release_says_so() {
    let output = script("install.sh")
        .env_remove("MESH_URL")
        .output()
        .unwrap();
    let sentence = failed(&output);
    assert!(sentence.contains("set MESH_URL"), "{sentence}");
}

#[test]
fn a_release_refuses_what_it_could_not_serve() {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("mesh");
    fs::write(&program, "").unwrap();
    for (url, expected) in [
        ("ftp://a", "not a URL"),
        ("https://a/'; rm -rf /; '", "has characters"),
        ("https://a", "not in a folder named"),
    ] {
        let mut command = script("release.sh");
        let release = folder.path().join("release");
        let sentence = failed(
            &command
                .arg(url)
                .arg(release)
                .arg(&program)
                .output()
                .unwrap(),
        );
        assert!(sentence.contains(expected), "{url}: {sentence}");
    }
}

/// A release on loopback.
struct Release {
    folder: TempDir,
    url: String,
}

impl Release {
    fn new() -> Self {
        Self::of("#!/bin/sh\necho mesh 9.9.9\n")
    }

    fn of(program: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let address = serve(folder.path().to_owned());
        // A path in it, as most releases have, and a slash at its end, which people type.
        let url = format!("http://{address}/mesh/9.9.9");
        let build = TempDir::new().unwrap();
        let mut command = script("release.sh");
        command.arg(format!("{url}/")).arg(folder.path());
        for platform in ["linux-amd64", "linux-arm64"] {
            let path = build.path().join(platform);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("mesh"), program).unwrap();
            command.arg(path.join("mesh"));
        }
        succeeded(&command.output().unwrap());
        let expected = [
            "SHA256SUMS",
            "install.sh",
            "mesh-linux-amd64",
            "mesh-linux-arm64",
        ];
        assert_eq!(names(folder.path()), expected);
        Self { folder, url }
    }

    /// The one for this machine.
    fn program(&self) -> PathBuf {
        let arch = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        self.folder.path().join(format!("mesh-linux-{arch}"))
    }

    /// `sh`, which has the script on its standard input, as from `curl … | sh`.
    fn command(&self, home: &Path) -> Command {
        let script = fs::File::open(self.folder.path().join("install.sh")).unwrap();
        let mut command = Command::new("sh");
        command
            .stdin(script)
            .env("MESH_HOME", home)
            .env_remove("MESH_URL");
        for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command
    }

    fn install(&self, home: &Path) -> Output {
        self.command(home).output().unwrap()
    }

    /// The installation fails with this sentence, and leaves nothing.
    fn refuses(&self, expected: &str) {
        let home = TempDir::new().unwrap();
        let sentence = failed(&self.install(home.path()));
        assert!(
            sentence.starts_with("mesh: ") && sentence.contains(expected),
            "{} {sentence}",
            self.url
        );
        assert!(names(&home.path().join("bin")).is_empty());
    }
}

/// Runs a command with this text as its standard input, whatever comes of it.
fn run(command: &mut Command, input: &str) {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // The shell may have ended before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait().unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Serves the files of a folder below `/mesh/9.9.9/`, until the test ends.
fn serve(folder: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away is its own affair.
            let _ = answer(stream, &folder);
        }
    });
    address
}

fn answer(mut stream: TcpStream, folder: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or(Ok(String::new()))?;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let name = request
        .strip_prefix("GET /mesh/9.9.9/")
        .and_then(|rest| rest.split(' ').next());
    let content = name.and_then(|name| fs::read(folder.join(name)).ok());
    let (status, body) = match content {
        Some(content) => ("200 OK", content),
        None => ("404 Not Found", Vec::new()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)
}
