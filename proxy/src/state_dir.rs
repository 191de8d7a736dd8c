//! The folder where a proxy keeps what it starts from after a restart.
//!
//! It holds a private key, so it should be on a tmpfs. Nothing here is needed: what can't be read is asked of
//! the controller again.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A folder of small files, each replaced as a whole.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Makes the folder, if there is none, readable by its owner only.
    ///
    /// # Errors
    /// It can't be made.
    pub fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// The content of a file; None if it was never written.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(name)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces a file: readers, and a proxy that dies now, find either the old or the new content.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let new = self.path.join(format!("{name}.new"));
        // What a proxy that died in here left may have another mode.
        if let Err(error) = fs::remove_file(&new)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(content)?;
        fs::rename(&new, self.path.join(name))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_private_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(&folder.path().join("a/b")).unwrap();
        assert_eq!(state.read("key").unwrap(), None);
        for content in [b"one".as_slice(), b"two"] {
            state.write("key", content).unwrap();
            assert_eq!(state.read("key").unwrap().as_deref(), Some(content));
        }
        let mode = |path: &str| {
            fs::metadata(folder.path().join(path))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!((mode("a/b"), mode("a/b/key")), (0o700, 0o600));
        assert!(!folder.path().join("a/b/key.new").exists());
    }
}
