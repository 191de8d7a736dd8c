//! The process that owns a pod's namespaces.

use std::{fs, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::Child,
    time::{sleep, timeout},
};

/// The process that owns the pod's namespaces.
pub(super) struct Holder {
    pub(super) process: Child,
    pub(super) pid: u32,
}

impl Holder {
    /// Ends it, and with it the pod's namespaces and whatever still runs in them.
    pub(super) async fn end(mut self) {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let own = namespace(&self.pid.to_string());
        // Processes may fork while they are being looked for.
        for _ in 0..10 {
            let left: Vec<i32> = fs::read_dir("/proc")
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .filter(|pid| pid.parse() != Ok(self.pid) && own.is_some() && namespace(pid) == own)
                .filter_map(|pid| pid.parse().ok())
                .collect();
            if left.is_empty() {
                break;
            }
            for pid in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            sleep(Duration::from_millis(5)).await;
        }
        drop(self.process.stdin.take());
        if timeout(Duration::from_secs(2), self.process.wait())
            .await
            .is_err()
        {
            let _ = self.process.kill().await;
        }
    }
}
