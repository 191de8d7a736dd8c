//! The controller's process, and what the kernel says of it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

const READY: Duration = Duration::from_secs(60);

/// A running controller; dropping it ends it.
pub(super) struct Controller {
    child: Child,
    address: SocketAddr,
}

impl Controller {
    /// Starts it on the objects in `folder` and waits until it has read them.
    pub(super) async fn start(binary: &Path, folder: &Path) -> anyhow::Result<Self> {
        let (address, admin) = (free_port()?, free_port()?);
        let mut command = Command::new(binary);
        command
            .args(["run", "--source", "directory", "--log-level", "warn"])
            .args(["--listen", &address.to_string()])
            .args(["--admin-listen", &admin.to_string()])
            .arg("--directory")
            .arg(folder.join("objects"))
            .arg("--state-dir")
            .arg(folder.join("ca"))
            .arg("--bundle-file")
            .arg(folder.join("bundle.pem"))
            .stdin(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let mut controller = Self { child, address };
        let deadline = Instant::now() + READY;
        while !is_ready(admin).await {
            if let Some(status) = controller.child.try_wait()? {
                bail!("the controller has ended with {status}");
            }
            ensure!(
                Instant::now() < deadline,
                "the controller does not get ready"
            );
            sleep(Duration::from_millis(50)).await;
        }
        Ok(controller)
    }

    /// Where proxies connect.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// CPU time so far, of all threads, ended ones too: `schedstat` would be finer, but knows of the living only.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name of the command, in brackets, may hold anything; utime and stime are the fields 14 and 15.
        let fields = text.rsplit_once(')').context("/proc/PID/stat")?.1;
        let ticks = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse::<u64>);
        let ticks: u64 = ticks.sum::<Result<_, _>>().context("/proc/PID/stat")?;
        // USER_HZ is 100 on every architecture that Rust has Linux for.
        Ok(Duration::from_millis(10 * ticks))
    }

    /// "12.3 MB".
    pub(super) fn memory(&self) -> anyhow::Result<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.unwrap_or_default().trim().trim_end_matches(" kB");
        let kibibytes: f64 = kibibytes.parse().context("VmRSS")?;
        Ok(format!("{:.1} MB resident", kibibytes * 1024.0 / 1e6))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It has ended already, or ends now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

async fn is_ready(admin: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(admin).await?;
        stream
            .write_all(b"GET /ready HTTP/1.1\r\nhost: controller\r\nconnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    ask.await
        .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
