//! What the sandbox and its pods see of the file system: the host's, except for a few files.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::Path,
};

use anyhow::Context;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Where the sandbox keeps its state. /dev/shm is a tmpfs of the sandbox's own (nothing that uses POSIX shared
/// memory leaves a segment behind), and of each pod's own, so that apps don't see this folder.
pub(crate) const STATE_DIR: &str = "/dev/shm/mesh";
const SHM: &str = "/dev/shm";

/// Cuts the tie to the host's mounts, and makes the state folder with the configuration in it.
pub(super) fn prepare(config: &str) -> anyhow::Result<()> {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("cannot make the mounts private")?;
    private_shm()?;
    fs::DirBuilder::new().mode(0o700).create(STATE_DIR)?;
    fs::write(Path::new(STATE_DIR).join("config.json"), config)
        .context("cannot write the configuration")
}

/// The processes of a pid namespace are seen through a /proc that was mounted in it.
pub(super) fn mount_proc() -> anyhow::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).context(
        "cannot mount /proc; in a container, its /proc must not be masked (docker: --privileged)",
    )
}

/// An empty /dev/shm.
pub(super) fn private_shm() -> anyhow::Result<()> {
    tmpfs(Path::new(SHM), "mode=1777")
}

/// An empty folder in place of another.
pub(super) fn tmpfs(target: &Path, options: &str) -> anyhow::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options))
        .with_context(|| format!("cannot mount a tmpfs on {}", target.display()))
}

/// The files by which programs find names, in place of the host's.
pub(crate) struct NameFiles {
    /// /etc/resolv.conf
    pub(crate) resolv_conf: String,
    /// /etc/hosts
    pub(crate) hosts: String,
    /// /etc/hostname
    pub(crate) hostname: String,
}

/// Puts the name files into the current mount namespace. They are kept in `dir`, which lies on the state tmpfs.
pub(crate) fn name_files(dir: &Path, files: &NameFiles) -> anyhow::Result<()> {
    fs::create_dir_all(dir)?;
    let mut files = vec![
        ("resolv.conf", files.resolv_conf.clone()),
        ("hosts", files.hosts.clone()),
        ("hostname", files.hostname.clone()),
    ];
    if let Ok(host) = fs::read_to_string("/etc/nsswitch.conf") {
        files.push(("nsswitch.conf", plain_lookups(&host)));
    }
    let in_place = files
        .iter()
        .all(|(name, _)| Path::new("/etc").join(name).exists());
    if !in_place {
        replace_etc(dir)?;
    }
    for (name, text) in files {
        let source = dir.join(name);
        fs::write(&source, text)?;
        bind(&source, &Path::new("/etc").join(name))?;
    }
    // A name service cache would answer from the host's view.
    for cache in ["/run/nscd", "/var/run/nscd"] {
        if Path::new(cache).is_dir() {
            tmpfs(Path::new(cache), "mode=0755")?;
        }
    }
    Ok(())
}

/// `source` in place of `target` (a symlink is followed).
pub(super) fn bind(source: &Path, target: &Path) -> anyhow::Result<()> {
    let (flags, none) = (MsFlags::MS_BIND, None::<&str>);
    mount(Some(source), target, none, flags, none)
        .with_context(|| format!("cannot mount {} on {}", source.display(), target.display()))
}

/// Where the host lacks one of the files (or has a dangling link), there is nothing to mount over: /etc becomes a
/// folder of links to all that the host has in it, with empty files for what is missing.
fn replace_etc(dir: &Path) -> anyhow::Result<()> {
    let stage = dir.join("etc");
    let host = dir.join("host-etc");
    fs::create_dir_all(&stage)?;
    fs::create_dir_all(&host)?;
    let (recursive, none) = (MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>);
    mount(
        Some(Path::new("/etc")),
        host.as_path(),
        none,
        recursive,
        none,
    )
    .context("cannot bind /etc")?;
    tmpfs(&stage, "mode=0755")?;
    // The links must hold in a pod too, where the state folder is hidden: the host's /etc moves inside of the new one.
    let inner = stage.join(".host");
    fs::create_dir(&inner)?;
    mount(Some(host.as_path()), &inner, none, recursive, none).context("cannot bind /etc")?;
    umount2(&host, MntFlags::MNT_DETACH)?;
    for entry in fs::read_dir("/etc")? {
        let name = entry?.file_name();
        let exists = Path::new("/etc").join(&name).exists();
        if exists {
            symlink(Path::new(".host").join(&name), stage.join(&name))?;
        }
    }
    for name in ["resolv.conf", "hosts", "hostname"] {
        let target = stage.join(name);
        match fs::remove_file(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => fs::write(target, "")?,
        }
    }
    mount(Some(stage.as_path()), "/etc", none, recursive, none).context("cannot replace /etc")
}

/// `nsswitch.conf` with hosts looked up in the file and in DNS only: modules such as nss-resolve ask services of
/// the host, which know nothing of the mesh.
fn plain_lookups(host: &str) -> String {
    let mut text: String = host
        .lines()
        .filter(|line| !line.trim_start().starts_with("hosts:"))
        .flat_map(|line| [line, "\n"])
        .collect();
    text.push_str("hosts: files dns\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_looked_up_in_dns_only() {
        let host = "passwd: files systemd\nhosts: mymachines resolve [!UNAVAIL=return] dns\n";
        assert_eq!(
            plain_lookups(host),
            "passwd: files systemd\nhosts: files dns\n"
        );
    }
}
