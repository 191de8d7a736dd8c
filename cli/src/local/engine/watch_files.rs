//! Notices changed manifests.

use std::path::Path;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::mpsc,
    time::{Duration, sleep},
};

use super::Event;
use crate::local::config::Source;

/// Editors write a file in several steps.
const SETTLE: Duration = Duration::from_millis(200);

/// Sends an event after each change, as long as the result lives. `None`: there is nothing to watch, or it can't be.
pub(super) fn watch(
    sources: &[Source],
    events: mpsc::UnboundedSender<Event>,
) -> Option<RecommendedWatcher> {
    let paths: Vec<&Path> = sources
        .iter()
        .filter_map(|source| match source {
            Source::Path(path) => Some(path.as_path()),
            Source::Text { .. } => None,
        })
        .collect();
    if paths.is_empty() {
        return None;
    }
    let (changed, mut changes) = mpsc::unbounded_channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the files is an event too.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = changed.send(());
        }
    })
    .ok()?;
    for path in paths {
        // The folder, not the file: editors put a new file in the old one's place.
        let folder = if path.is_dir() { path } else { path.parent()? };
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        watcher.watch(folder, RecursiveMode::NonRecursive).ok()?;
    }
    tokio::spawn(async move {
        while changes.recv().await.is_some() {
            sleep(SETTLE).await;
            while changes.try_recv().is_ok() {}
            if events.send(Event::ManifestsChanged).is_err() {
                return;
            }
        }
    });
    Some(watcher)
}
