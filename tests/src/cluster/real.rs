//! A real `etcd` and `kube-apiserver`, started as envtest starts them.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rcgen::KeyPair;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, Stream,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;

use super::pki::{Authority, Leaf};
use crate::{apiserver::RANGES, ports::free_port};

/// How long the API server may take until it is ready: its start-up is heavy, and tests start several at once.
const PATIENCE: Duration = Duration::from_secs(120);

/// The two processes and their data; dropping this ends them.
#[derive(Debug)]
pub(super) struct RealServer {
    address: SocketAddr,
    processes: Vec<Child>,
    /// Removed after the processes that use it have ended.
    _folder: TempDir,
}

impl RealServer {
    /// Starts both from a folder with the programs.
    ///
    /// # Panics
    /// A program is missing, or the API server does not become ready; its log's end is printed.
    pub(super) fn start(assets: &Path, authority: &Authority) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().to_owned();
        let etcd = spawn_etcd(assets, &data);
        let mut server = Self {
            address: etcd.1,
            processes: vec![etcd.0],
            _folder: folder,
        };
        let (process, address) = spawn_apiserver(assets, &data, etcd.1, authority);
        server.processes.push(process);
        server.address = address;
        server.wait(&data, authority);
        server
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    fn wait(&mut self, data: &Path, authority: &Authority) {
        let admin = authority.client("admin", &["system:masters"]);
        let deadline = Instant::now() + PATIENCE;
        while !is_ready(self.address, authority, &admin) {
            let ended = self
                .processes
                .iter_mut()
                .any(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || Instant::now() > deadline {
                for program in ["etcd", "kube-apiserver"] {
                    let log = fs::read_to_string(data.join(program).with_extension("log"));
                    let log = log.unwrap_or_default();
                    let lines: Vec<&str> = log.lines().rev().take(20).collect();
                    println!("{program}, its last lines first:\n{}", lines.join("\n"));
                }
                panic!(
                    "the API server at {} is not ready: see its log above",
                    self.address
                );
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        // The API server first: it would wait for an etcd that is gone.
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn spawn_etcd(assets: &Path, data: &Path) -> (Child, SocketAddr) {
    let (clients, peers) = (free_port(), free_port());
    let mut command = Command::new(assets.join("etcd"));
    command.arg(format!("--data-dir={}", data.join("etcd.data").display()));
    for (flag, address) in [
        ("listen-client-urls", clients),
        ("advertise-client-urls", clients),
        ("listen-peer-urls", peers),
        ("initial-advertise-peer-urls", peers),
    ] {
        command.arg(format!("--{flag}=http://{address}"));
    }
    command.arg(format!("--initial-cluster=default=http://{peers}"));
    // Nothing here is to survive a power cut.
    command.arg("--unsafe-no-fsync");
    (spawn(command, &data.join("etcd.log")), clients)
}

fn spawn_apiserver(
    assets: &Path,
    data: &Path,
    etcd: SocketAddr,
    authority: &Authority,
) -> (Child, SocketAddr) {
    let write = |name: &str, text: &str| {
        let path = data.join(name);
        fs::write(&path, text).expect("a file in the temporary folder");
        path.display().to_string()
    };
    let leaf = authority.server();
    let accounts = KeyPair::generate().expect("a key");
    let address = free_port();
    let mut command = Command::new(assets.join("kube-apiserver"));
    for (flag, value) in [
        ("etcd-servers", format!("http://{etcd}")),
        ("bind-address", address.ip().to_string()),
        ("advertise-address", address.ip().to_string()),
        ("secure-port", address.port().to_string()),
        ("cert-dir", data.display().to_string()),
        ("tls-cert-file", write("server.pem", &leaf.certificate)),
        ("tls-private-key-file", write("server.key", &leaf.key)),
        ("client-ca-file", write("ca.pem", &authority.pem())),
        (
            "service-account-issuer",
            crate::apiserver::ISSUER.to_owned(),
        ),
        (
            "service-account-key-file",
            write("accounts.pem", &accounts.public_key_pem()),
        ),
        (
            "service-account-signing-key-file",
            write("accounts.key", &accounts.serialize_pem()),
        ),
        ("service-cluster-ip-range", RANGES.to_owned()),
        ("authorization-mode", "RBAC".to_owned()),
        // It would want a default service account for every pod, which only a controller makes.
        ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ("allow-privileged", "true".to_owned()),
        // Its Service would appear in `default` some time after the start.
        ("endpoint-reconciler-type", "none".to_owned()),
    ] {
        command.arg(format!("--{flag}={value}"));
    }
    (spawn(command, &data.join("kube-apiserver.log")), address)
}

fn spawn(mut command: Command, log: &Path) -> Child {
    let program = command.get_program().to_owned();
    let log = File::create(log).expect("a log file in the temporary folder");
    let errors = log.try_clone().expect("a second handle of the log file");
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    command
        .spawn()
        .unwrap_or_else(|why| panic!("can't start {}: {why}", program.display()))
}

/// Whether `/readyz` says so; any failure on the way is a no.
fn is_ready(address: SocketAddr, authority: &Authority, admin: &Leaf) -> bool {
    let ask = || -> Result<String, Box<dyn std::error::Error>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes())?)?;
        let chain = vec![CertificateDer::from_pem_slice(
            admin.certificate.as_bytes(),
        )?];
        let key = PrivateKeyDer::from_pem_slice(admin.key.as_bytes())?;
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = config.with_client_auth_cert(chain, key)?;
        let name = ServerName::from(address.ip());
        let mut tls = ClientConnection::new(Arc::new(config), name)?;
        let mut socket = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut stream = Stream::new(&mut tls, &mut socket);
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        // The end of the connection may come without TLS's own farewell.
        let _ = stream.read_to_string(&mut answer);
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains(" 200 "))
}
