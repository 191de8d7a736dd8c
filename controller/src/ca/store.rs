//! The authority's roots on disk: one JSON file that only its owner can read, replaced atomically.
//!
//! One file, so that a crash can't leave a certificate without its key or half of a rotation.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::rotation::Stage;

/// Readable by the owner only.
pub(super) const PRIVATE: u32 = 0o600;
/// Readable by everyone: trust anchors are no secret.
pub(super) const PUBLIC: u32 = 0o644;

/// A root as it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredRoot {
    pub(super) stage: Stage,
    /// Seconds since the Unix epoch.
    pub(super) since: u64,
    pub(super) certificate_pem: String,
    pub(super) key_pem: String,
}

/// An absent file holds no roots.
pub(super) fn load(path: &Path) -> io::Result<Vec<StoredRoot>> {
    match fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

pub(super) fn save(path: &Path, roots: &[StoredRoot]) -> io::Result<()> {
    replace(path, &serde_json::to_vec_pretty(roots)?, PRIVATE)
}

/// Writes a file so that a reader, or a restart after a crash, sees the old or the new content.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)?;
    // The mode above is subject to the umask, and is ignored where a crash left the file behind.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(folder)?.sync_all()
}
