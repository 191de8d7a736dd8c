//! One mesh at a time: the figures of two tests on the same cores would be worth nothing.

use std::{fs::File, path::PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Held by the test whose turn it is, among all test processes of this user.
pub struct Turn {
    _lock: Flock<File>,
}

impl Turn {
    /// Waits for the turn.
    ///
    /// # Panics
    /// The lock file can't be made.
    pub fn wait() -> Self {
        let path = lock_file();
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("can't open {}: {error}", path.display()));
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => Self { _lock: lock },
            Err((_, error)) => panic!("can't lock {}: {error}", path.display()),
        }
    }
}

fn lock_file() -> PathBuf {
    std::env::temp_dir().join(format!("mesh-tests-{}.lock", nix::unistd::geteuid()))
}
