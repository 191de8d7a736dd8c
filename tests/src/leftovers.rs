//! What a mesh must not leave behind: processes, namespaces, links, sockets, files.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// What of the machine a mesh could change.
#[derive(PartialEq)]
pub struct Snapshot {
    links: BTreeSet<String>,
    sockets: BTreeSet<String>,
}

impl Snapshot {
    /// The machine now.
    pub fn take() -> Self {
        let unix = fs::read_to_string("/proc/net/unix").unwrap_or_default();
        let sockets = unix
            .lines()
            .filter_map(|line| line.split_whitespace().nth(7))
            .filter(|path| path.starts_with("@mesh/"))
            .map(str::to_owned)
            .collect();
        Self {
            links: names(Path::new("/sys/class/net")),
            sockets,
        }
    }

    /// Waits until the machine is as it was, but for sockets of other meshes.
    ///
    /// # Panics
    /// It is not after ten seconds: says what is left.
    pub fn assert_nothing_left(&self, name: &str, processes: &Family, folder: &Path) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let now = Self::take();
            let mut left = Vec::new();
            left.extend(
                now.links
                    .difference(&self.links)
                    .map(|link| format!("link {link}")),
            );
            let own = format!("/{name}/");
            left.extend(
                now.sockets
                    .iter()
                    .filter(|path| path.contains(&own))
                    .cloned(),
            );
            left.extend(processes.alive());
            left.extend(names(folder).iter().map(|file| format!("file {file}")));
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "the mesh has left behind: {left:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The processes of one mesh, by the namespaces that it made.
#[derive(Default)]
pub struct Family {
    /// Namespaces as `/proc/<pid>/ns/*` names them: "net:[4026532]".
    namespaces: BTreeSet<String>,
}

impl Family {
    /// Descendants of `root` now, and all namespaces that are theirs but not ours.
    pub fn of(root: u32) -> Self {
        let own = namespaces(std::process::id());
        let namespaces = descendants(root).into_iter().flat_map(namespaces);
        Self {
            namespaces: namespaces
                .filter(|namespace| !own.contains(namespace))
                .collect(),
        }
    }

    /// Processes that are in one of the namespaces.
    fn alive(&self) -> Vec<String> {
        let inside = |pid: &u32| {
            namespaces(*pid)
                .iter()
                .any(|space| self.namespaces.contains(space))
        };
        let name = |pid: u32| format!("process {pid}: {}", command_line(pid));
        processes().into_iter().filter(inside).map(name).collect()
    }
}

/// The command line of a process, with spaces between.
pub(crate) fn command_line(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line)
        .replace('\0', " ")
        .trim_end()
        .to_owned()
}

/// All children of a process, and theirs.
pub(crate) fn descendants(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = processes()
        .into_iter()
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut family = vec![root];
    let mut at = 0;
    while let Some(&pid) = family.get(at) {
        family.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == pid)
                .map(|(child, _)| child),
        );
        at += 1;
    }
    family
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything, but ends with the last parenthesis: proc(5).
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn processes() -> Vec<u32> {
    names(Path::new("/proc"))
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect()
}

fn namespaces(pid: u32) -> Vec<String> {
    let link = |kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    let links = ["net", "pid", "mnt", "uts"].into_iter().filter_map(link);
    links
        .map(|link| link.to_string_lossy().into_owned())
        .collect()
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
