//! What processes print.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Mutex,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    sync::broadcast,
};

/// Lines kept per source.
const KEPT: usize = 1000;
/// Bytes of one line; the rest is cut off.
const LONGEST: usize = 16 * 1024;
/// Lines that a slow reader may lag behind.
const LAG: usize = 4096;

/// One line of one process.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// "controller", or "namespace/pod/container".
    pub(crate) source: String,
    pub(crate) text: String,
}

/// The last lines of every process.
#[derive(Debug)]
pub(crate) struct Logs {
    kept: Mutex<BTreeMap<String, VecDeque<String>>>,
    live: broadcast::Sender<Line>,
}

impl Logs {
    pub(crate) fn new() -> Self {
        Self {
            kept: Mutex::default(),
            live: broadcast::Sender::new(LAG),
        }
    }

    /// Adds a line.
    pub(crate) fn add(&self, source: &str, text: String) {
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        let lines = kept.entry(source.into()).or_default();
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(text.clone());
        // Sent under the lock, so that nobody misses or repeats a line in `subscribe`.
        let _ = self.live.send(Line {
            source: source.into(),
            text,
        });
    }

    /// The last lines of all sources that match, then those to come.
    pub(crate) fn subscribe(
        &self,
        matches: impl Fn(&str) -> bool,
        tail: usize,
    ) -> (Vec<Line>, broadcast::Receiver<Line>) {
        let kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        let mut found = Vec::new();
        for (source, lines) in kept.iter().filter(|(source, _)| matches(source)) {
            let skip = lines.len().saturating_sub(tail);
            found.extend(lines.iter().skip(skip).map(|text| Line {
                source: source.clone(),
                text: text.clone(),
            }));
        }
        (found, self.live.subscribe())
    }

    /// The last line of a source that is not empty.
    pub(crate) fn last(&self, source: &str) -> Option<String> {
        let kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        let lines = kept.get(source)?.iter().rev();
        lines
            .map(|line| line.trim())
            .find(|line| !line.is_empty())
            .map(str::to_owned)
    }

    /// Forgets a pod that has been gone for a while.
    pub(crate) fn forget(&self, pod: &str) {
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        kept.retain(|source, _| {
            source
                .strip_prefix(pod)
                .is_none_or(|rest| !rest.starts_with('/'))
        });
    }

    /// Copies a stream to the end.
    pub(crate) async fn copy(&self, source: &str, stream: impl AsyncRead + Unpin) {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            let available = match reader.fill_buf().await {
                Ok([]) | Err(_) => break,
                Ok(available) => available,
            };
            let end = available.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(available.len());
            let room = LONGEST.saturating_sub(line.len());
            line.extend_from_slice(&available[..taken.min(room)]);
            reader.consume(end.map_or(taken, |end| end + 1));
            if end.is_some() {
                self.add(source, String::from_utf8_lossy(&line).into_owned());
                line.clear();
            }
        }
        if !line.is_empty() {
            self.add(source, String::from_utf8_lossy(&line).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_and_kept() {
        let logs = Logs::new();
        let long = "x".repeat(LONGEST * 2);
        logs.copy("shop/web-1/web", format!("one\n{long}\nlast").as_bytes())
            .await;
        let (lines, _) = logs.subscribe(|source| source.starts_with("shop/web-1"), 10);
        let lengths: Vec<_> = lines.iter().map(|line| line.text.len()).collect();
        assert_eq!(lengths, [3, LONGEST, 4]);
        assert_eq!(logs.last("shop/web-1/web").as_deref(), Some("last"));
        logs.forget("shop/web");
        assert!(logs.last("shop/web-1/web").is_some());
        logs.forget("shop/web-1");
        assert!(logs.last("shop/web-1/web").is_none());
    }
}
