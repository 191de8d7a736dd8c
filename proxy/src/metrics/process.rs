//! The process as the kernel sees it: the standard `process_*` metrics.

use std::fs;

/// Kernel clock ticks per second in `/proc`: USER_HZ, 100 in the ABI of all Linux architectures that the
/// proxy is built for.
const TICKS: f64 = 100.0;

/// What could not be read is `None`: `/proc` may not be mounted.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    /// Seconds since the Unix epoch.
    pub(super) start_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_files: Option<u64>,
    pub(super) max_files: Option<u64>,
}

impl Process {
    /// Reads this process.
    pub(super) fn read() -> Self {
        let file = |path| fs::read_to_string(path).unwrap_or_default();
        let (stat, status) = (file("/proc/self/stat"), file("/proc/self/status"));
        let (limits, boot) = (file("/proc/self/limits"), file("/proc/stat"));
        let cpu = stat_field(&stat, 14).zip(stat_field(&stat, 15));
        let started = stat_field(&stat, 22).zip(line(&boot, "btime"));
        Self {
            cpu_seconds: cpu.map(|(user, system)| (user + system) as f64 / TICKS),
            start_seconds: started.map(|(ticks, boot)| boot as f64 + ticks as f64 / TICKS),
            resident_bytes: line(&status, "VmRSS:").map(|kib| kib * 1024),
            virtual_bytes: line(&status, "VmSize:").map(|kib| kib * 1024),
            threads: line(&status, "Threads:"),
            open_files: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|files| files.count() as u64),
            max_files: line(&limits, "Max open files"),
        }
    }
}

/// A field of `/proc/<pid>/stat`, counted from 1 as in proc_pid_stat(5). The second is the command in
/// parentheses, which may itself have spaces and parentheses.
fn stat_field(stat: &str, number: usize) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields
        .split_ascii_whitespace()
        .nth(number - 3)?
        .parse()
        .ok()
}

/// The first number of the line that starts with `name`.
fn line(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_may_look_like_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 123 45 0 0 20 0 1 0 6789 1";
        assert_eq!(stat_field(stat, 14), Some(123));
        assert_eq!(stat_field(stat, 15), Some(45));
        assert_eq!(stat_field(stat, 22), Some(6789));
    }

    #[test]
    fn this_process_has_everything() {
        let process = Process::read();
        assert!(process.resident_bytes > Some(1 << 20));
        assert!(process.open_files > Some(2) && process.max_files >= process.open_files);
        assert!(process.threads >= Some(1));
        let start = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_secs_f64();
        assert!((start - process.start_seconds.unwrap()).abs() < 3600.0);
    }
}
