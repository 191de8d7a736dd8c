//! Watches: the objects of a selection as they are, and then every change of them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, stream};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use super::{
    events,
    read::Selection,
    respond::Form,
    state::{Api, Call},
    status::Status,
    store::{Change, stamp},
};

/// How long a watch without `timeoutSeconds` lasts (`--min-request-timeout`).
const TIMEOUT: Duration = Duration::from_secs(1800);
/// How often a bookmark says how far a watch has come.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// How long before its end a watch sends a last bookmark.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

/// The annotation of the bookmark that ends the objects as they are.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// One watch.
struct Watch {
    api: Arc<Api>,
    call: Call,
    selection: Selection,
    form: Form,
    /// All changes up to this one have been looked at.
    revision: u64,
    /// Lines to send before any later change is looked at.
    ready: VecDeque<Bytes>,
    revisions: watch::Receiver<u64>,
    breaks: watch::Receiver<u64>,
    deadline: Instant,
    bookmark: Option<Instant>,
    over: bool,
}

/// Begins a watch; the stream gives its lines and ends with it.
///
/// # Errors
/// Bad parameters. That the revision is gone is no error but the watch's first event, as with the real one.
pub(super) fn watch(
    api: Arc<Api>,
    call: Call,
    form: Form,
) -> Result<impl Stream<Item = Bytes> + Send + 'static, Status> {
    let selection = Selection::new(&call)?;
    let query = &call.query;
    let timeout = query.timeout()?.unwrap_or(TIMEOUT);
    let bookmarks = query.flag("allowWatchBookmarks");
    let initial = query.find("sendInitialEvents").map(|value| value == "true");
    if initial == Some(true) && query.find("resourceVersionMatch") != Some("NotOlderThan") {
        return Err(Status::unprocessable(
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    let since: Option<u64> = query
        .number("resourceVersion")?
        .filter(|&revision| revision > 0);
    let deadline = Instant::now() + timeout;
    let mut watch = Watch {
        // Subscribed before the state is read, so that no change falls between.
        revisions: api.revisions(),
        breaks: api.faults.breaks(),
        api: api.clone(),
        call,
        selection,
        form,
        revision: since.unwrap_or_default(),
        ready: VecDeque::new(),
        deadline,
        bookmark: bookmarks.then(|| next_bookmark(deadline)),
        over: false,
    };
    if initial == Some(true) || (since.is_none() && initial.is_none()) {
        watch.begin(initial == Some(true) && bookmarks);
    } else if since.is_none() {
        watch.revision = api.lock().store.revision();
    }
    Ok(stream::unfold(watch, |mut watch| async {
        let line = watch.next().await?;
        Some((line, watch))
    }))
}

impl Watch {
    /// Sends the objects as they are now.
    fn begin(&mut self, say_end: bool) {
        let (objects, revision) = {
            let state = self.api.lock();
            let listed = state.store.list(&self.selection.scope);
            let wanted = listed.filter(|(_, object)| self.selection.wants(object));
            let objects: Vec<_> = wanted.map(|(_, object)| object.clone()).collect();
            (objects, state.store.revision())
        };
        for object in objects {
            let line = self.line("ADDED", &object);
            self.ready.push_back(line);
        }
        self.revision = revision;
        if say_end {
            let annotations = json!({ INITIAL_EVENTS_END: "true" });
            let line = self.bookmark_line(Some(annotations));
            self.ready.push_back(line);
        }
    }

    /// The next line, or `None` at the watch's end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            self.revisions.mark_unchanged();
            self.collect();
            if !self.ready.is_empty() {
                continue;
            }
            let bookmark = self.bookmark.unwrap_or(self.deadline);
            tokio::select! {
                changed = self.revisions.changed() => changed.ok()?,
                _ = self.breaks.changed() => return None,
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = tokio::time::sleep_until(bookmark), if self.bookmark.is_some() => {
                    self.bookmark = Some(next_bookmark(self.deadline))
                        .filter(|next| *next > Instant::now());
                    return Some(self.bookmark_line(None));
                }
            }
        }
    }

    /// Looks at the changes since the last look.
    fn collect(&mut self) {
        let found: Result<Vec<Change>, _> = {
            let state = self.api.lock();
            let current = state.store.revision();
            let changes = state.store.changes_after(self.revision);
            let changes = changes.map(|changes| {
                let here = changes.filter(|change| self.selection.scope.holds(&change.key));
                here.cloned().collect()
            });
            if changes.is_ok() {
                // A watch from a revision that is not there yet waits for it.
                self.revision = self.revision.max(current);
            }
            changes
        };
        match found {
            Ok(changes) => {
                for change in &changes {
                    if let Some(line) = self.event(change) {
                        self.ready.push_back(line);
                    }
                }
            }
            Err(compacted) => {
                let (asked, horizon) = (self.revision, compacted.horizon);
                let status =
                    Status::expired(format!("too old resource version: {asked} ({horizon})"));
                self.ready.push_back(line("ERROR", &status.object()));
                self.over = true;
            }
        }
    }

    /// What a change means for this selection.
    fn event(&self, change: &Change) -> Option<Bytes> {
        let wanted = |object: &Option<Arc<Value>>| {
            object.clone().filter(|object| self.selection.wants(object))
        };
        match (wanted(&change.before), wanted(&change.after)) {
            (None, Some(after)) => Some(self.line("ADDED", &after)),
            (Some(_), Some(after)) => Some(self.line("MODIFIED", &after)),
            (Some(before), None) => {
                // Gone, or out of the selection: as it was, with the number of this change.
                let mut last = Value::clone(&before);
                stamp(&mut last, change.revision);
                Some(self.line("DELETED", &last))
            }
            (None, None) => None,
        }
    }

    fn line(&self, kind: &str, object: &Value) -> Bytes {
        let object = events::view(object, &self.call.target.resource);
        line(kind, &self.form.of(&object))
    }

    fn bookmark_line(&self, annotations: Option<Value>) -> Bytes {
        let resource = &self.call.target.resource;
        let mut metadata = json!({ "resourceVersion": self.revision.to_string() });
        if let Some(annotations) = annotations {
            metadata["annotations"] = annotations;
        }
        let whole = json!({
            "kind": resource.kind,
            "apiVersion": resource.api_version(),
            "metadata": metadata,
        });
        line("BOOKMARK", &self.form.of(&whole))
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({ "type": kind, "object": object })).into()
}

fn next_bookmark(deadline: Instant) -> Instant {
    (Instant::now() + BOOKMARKS).min(deadline - LAST_BOOKMARK)
}
