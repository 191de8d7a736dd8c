//! Where the authority's roots are kept: one JSON document in a file, or in a Secret.
//!
//! One document, so that a crash can't leave a certificate without its key or half of a rotation.

use std::{
    fmt,
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    CaError,
    rotation::Stage,
    secret::{Revision, SecretStore},
};

/// Readable by the owner only.
const PRIVATE: u32 = 0o600;
/// Readable by everyone: trust anchors are no secret.
pub(super) const PUBLIC: u32 = 0o644;

/// Where roots are kept.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one of them in a process"
)]
pub enum Store {
    /// A file that only its owner can read, replaced atomically. One process writes it.
    File(PathBuf),
    /// A Secret that several replicas share.
    Secret(SecretStore),
}

/// A root as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredRoot {
    pub(super) stage: Stage,
    /// Seconds since the Unix epoch.
    pub(super) since: u64,
    pub(super) certificate_pem: String,
    pub(super) key_pem: String,
}

/// What was found, and what a replacement has to be based on.
pub(super) struct Found {
    /// `None`: there is nothing yet.
    pub(super) roots: Option<Vec<StoredRoot>>,
    pub(super) revision: Revision,
}

/// How writing ended, where nothing failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    Done,
    /// Somebody else was faster: read again.
    Conflict,
}

impl Store {
    pub(super) async fn load(&self) -> Result<Found, CaError> {
        match self {
            Self::Secret(secret) => secret.load().await,
            Self::File(path) => {
                let disk = |source| CaError::Disk {
                    path: path.clone(),
                    source,
                };
                let roots = match fs::read(path) {
                    Ok(text) => Some(parse(&text).map_err(|reason| self.corrupt(reason))?),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    Err(error) => return Err(disk(error)),
                };
                Ok(Found {
                    roots,
                    revision: Revision::default(),
                })
            }
        }
    }

    pub(super) async fn save(
        &self,
        roots: &[StoredRoot],
        revision: Revision,
    ) -> Result<Written, CaError> {
        let text = serde_json::to_vec_pretty(roots).map_err(|error| self.corrupt(error))?;
        match self {
            Self::Secret(secret) => secret.save(text, revision).await,
            Self::File(path) => replace(path, &text, PRIVATE)
                .map(|()| Written::Done)
                .map_err(|source| CaError::Disk {
                    path: path.clone(),
                    source,
                }),
        }
    }

    pub(super) fn corrupt(&self, reason: impl ToString) -> CaError {
        CaError::Corrupt {
            place: self.to_string(),
            reason: reason.to_string(),
        }
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Secret(secret) => write!(f, "{secret}"),
        }
    }
}

/// The JSON document.
pub(super) fn parse(text: &[u8]) -> Result<Vec<StoredRoot>, serde_json::Error> {
    serde_json::from_slice(text)
}

/// Writes a file so that a reader, or a restart after a crash, sees the old or the new content.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
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
    fs::File::open(folder(path))?.sync_all()
}

/// The folder that a file is in, which is not named where the path is only a name.
fn folder(path: &Path) -> &Path {
    let named = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_folder_is_in_the_current_one() {
        assert_eq!(folder(Path::new("bundle.pem")), Path::new("."));
        assert_eq!(folder(Path::new("run/bundle.pem")), Path::new("run"));
    }
}
