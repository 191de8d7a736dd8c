//! Objects as JSON files: `<plural>/<namespace>.<name>.json`, replaced atomically by rename.
//!
//! inotify tells which files changed; every [`RESCAN`] the whole folder is compared as well, because inotify
//! drops events when its queue overflows and misses what happens in a subfolder before it is watched. A file
//! that can't be read or parsed is named in the log and in a metric, and its last good object stays.
//!
//! Tokens are `tokens/<SHA-256 of the token, hex>.json`. Looking a token up by its digest needs no
//! constant-time comparison: to learn anything from the timing of the lookup one would have to choose digests.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::mpsc as std_mpsc,
    time::{Duration, Instant},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{Caller, Event, Kind, Object, ObjectKey, ReviewError, Source, SourceError};

/// How often everything is compared although inotify reported nothing.
const RESCAN: Duration = Duration::from_secs(10);
/// Events between the watching thread and the index.
const QUEUE: usize = 1024;

/// A folder of objects.
pub struct Directory {
    root: PathBuf,
    bad: Family<FileLabel, Gauge>,
}

impl Directory {
    /// The folder need not have its subfolders yet. Registers the gauge `source_bad_file`.
    pub fn new(root: PathBuf, registry: &mut Registry) -> Self {
        let bad = Family::default();
        registry.register(
            "source_bad_file",
            "Files that could not be read or parsed; the last good object stays in use",
            Family::clone(&bad),
        );
        Self { root, bad }
    }
}

impl Source for Directory {
    fn watch(&self) -> Result<mpsc::Receiver<Event>, SourceError> {
        let failed = |error: notify::Error| SourceError {
            path: self.root.clone(),
            reason: error.to_string(),
        };
        let (changed, changes) = std_mpsc::channel();
        let watcher = watcher(&self.root, changed).map_err(failed)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let files = Files {
            root: self.root.clone(),
            known: HashMap::new(),
            bad: self.bad.clone(),
        };
        std::thread::Builder::new()
            .name("source".into())
            .spawn(move || {
                let _watcher = watcher;
                follow(files, &changes, &sender);
            })
            .map_err(|error| failed(notify::Error::io(error)))?;
        Ok(receiver)
    }

    async fn review(&self, token: &str) -> Result<Caller, ReviewError> {
        let digest = Sha256::digest(token.as_bytes());
        let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = self.root.join("tokens").join(format!("{name}.json"));
        let text = match tokio::fs::read(&path).await {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ReviewError::Invalid);
            }
            Err(error) => return Err(ReviewError::Unavailable(format!("{path:?}: {error}"))),
        };
        serde_json::from_slice(&text)
            .map_err(|error| ReviewError::Unavailable(format!("{path:?}: {error}")))
    }
}

/// Reports what changes in the folder.
fn watcher(
    root: &Path,
    changed: std_mpsc::Sender<notify::Result<notify::Event>>,
) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event| {
        if !is_only_read(&event) {
            // The reader ends only when nobody wants events any more.
            let _ = changed.send(event);
        }
    })?;
    watcher.watch(root, RecursiveMode::Recursive)?;
    Ok(watcher)
}

/// Nothing has changed: to look at the folder causes such events, which must not cause another look.
fn is_only_read(event: &notify::Result<notify::Event>) -> bool {
    let Ok(event) = event else {
        return false;
    };
    let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
    event.kind.is_access() && event.kind != written
}

/// Sends what is there, then every change, until the receiver is gone.
fn follow(
    mut files: Files,
    changes: &std_mpsc::Receiver<notify::Result<notify::Event>>,
    sender: &mpsc::Sender<Event>,
) {
    let mut events = files.rescan();
    events.push(Event::Synced);
    let mut scanned = Instant::now();
    loop {
        for event in events.drain(..) {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
        let wait = RESCAN.saturating_sub(scanned.elapsed());
        match changes.recv_timeout(wait) {
            Ok(Ok(event))
                if !event.need_rescan()
                    && !event.paths.iter().any(|path| files.is_folder(path)) =>
            {
                for path in &event.paths {
                    events.extend(files.look(path));
                }
            }
            // A new subfolder, a lost event, or time for a full look.
            Ok(_) | Err(std_mpsc::RecvTimeoutError::Timeout) => {
                events = files.rescan();
                scanned = Instant::now();
            }
            Err(std_mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What is known about the folder's files.
struct Files {
    root: PathBuf,
    known: HashMap<PathBuf, Known>,
    bad: Family<FileLabel, Gauge>,
}

struct Known {
    stamp: Stamp,
    /// The last good object; `None` if there never was one.
    object: Option<ObjectKey>,
}

/// Changes whenever a file is replaced or written.
#[derive(PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FileLabel {
    file: String,
}

impl Files {
    /// Compares everything with what is known.
    fn rescan(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for kind in Kind::ALL {
            // A missing subfolder is an empty one.
            let Ok(entries) = fs::read_dir(self.root.join(kind.plural())) else {
                continue;
            };
            for entry in entries.flatten() {
                events.extend(self.look(&entry.path()));
            }
        }
        let gone: Vec<PathBuf> = self
            .known
            .keys()
            .filter(|path| !path.exists())
            .cloned()
            .collect();
        events.extend(gone.iter().filter_map(|path| self.look(path)));
        events
    }

    /// Compares one file with what is known.
    fn look(&mut self, path: &Path) -> Option<Event> {
        let kind = self.kind_of(path)?;
        let read = Stamp::of(path).and_then(|stamp| {
            if self
                .known
                .get(path)
                .is_some_and(|known| known.stamp == stamp)
            {
                return Ok(None);
            }
            Ok(Some((stamp, fs::read(path)?)))
        });
        let (stamp, text) = match read {
            Ok(None) => return None,
            Ok(Some(read)) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.bad.remove(&label(path));
                return self.known.remove(path)?.object.map(Event::Deleted);
            }
            Err(error) => {
                self.mark_bad(path, &error.to_string());
                return None;
            }
        };
        let before = self.known.remove(path).and_then(|known| known.object);
        let (object, event) = match parse(path, kind, &text) {
            Ok(object) => {
                self.bad.remove(&label(path));
                (Some(object.key()), Some(Event::Applied(Box::new(object))))
            }
            Err(reason) => {
                self.mark_bad(path, &reason);
                (before, None)
            }
        };
        self.known.insert(path.to_owned(), Known { stamp, object });
        event
    }

    fn mark_bad(&self, path: &Path, reason: &str) {
        self.bad.get_or_create(&label(path)).set(1);
        tracing::warn!(file = %path.display(), reason, "this file can't be used; the last good object stays in use");
    }

    fn is_folder(&self, path: &Path) -> bool {
        path.parent() == Some(&self.root)
    }

    /// `None` for what is not an object's file: temporary files, tokens.
    fn kind_of(&self, path: &Path) -> Option<Kind> {
        let name = path.file_name()?.to_str()?;
        let folder = path.parent()?;
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| folder == self.root.join(kind.plural()))?;
        (name.ends_with(".json") && !name.starts_with('.')).then_some(kind)
    }
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self {
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

/// The file's name must be that of its object: then a file that changes is always the same object, and two
/// files are never one.
fn parse(path: &Path, kind: Kind, text: &[u8]) -> Result<Object, String> {
    let object = match kind {
        Kind::Namespace => Object::Namespace(typed(text)?),
        Kind::Pod => Object::Pod(typed(text)?),
        Kind::Service => Object::Service(typed(text)?),
        Kind::EndpointSlice => Object::EndpointSlice(typed(text)?),
        Kind::ReplicaSet => Object::ReplicaSet(typed::<MetadataOnly>(text)?.metadata),
        Kind::Job => Object::Job(typed::<MetadataOnly>(text)?.metadata),
    };
    let key = object.key();
    let expected = match kind {
        Kind::Namespace => format!("{}.json", key.name),
        _ => format!("{}.{}.json", key.namespace, key.name),
    };
    if path.file_name().is_none_or(|name| name != &*expected) {
        return Err(format!(
            "the object in it belongs into a file named {expected}"
        ));
    }
    Ok(object)
}

/// An object of which only the metadata is read.
#[derive(Deserialize)]
struct MetadataOnly {
    metadata: ObjectMeta,
}

fn typed<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

fn label(path: &Path) -> FileLabel {
    FileLabel {
        file: path.display().to_string(),
    }
}

#[cfg(test)]
mod tests;
