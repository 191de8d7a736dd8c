//! Against a scripted API server that can do what a real one does on its bad days.

mod server;

use std::collections::BTreeSet;

use prometheus_client::encoding::text::encode;
use serde_json::json;

use super::*;
use crate::source::{Object, ObjectKey};
use server::{Server, pod};

/// Long enough for a loaded machine.
const SOON: Duration = Duration::from_secs(20);

struct Watching {
    server: Server,
    registry: Registry,
    events: mpsc::Receiver<Event>,
}

impl Watching {
    fn start(server: Server, check_every: Duration) -> Self {
        let mut registry = Registry::default();
        let source = Kubernetes::new(server.client(), &mut registry).check_every(check_every);
        let events = source.watch().unwrap();
        Self {
            server,
            registry,
            events,
        }
    }

    async fn next(&mut self) -> String {
        match tokio::time::timeout(SOON, self.events.recv()).await {
            Ok(Some(Event::Applied(object))) => format!("+{}", object.key().name),
            Ok(Some(Event::Deleted(key))) => format!("-{}", key.name),
            Ok(Some(Event::Synced)) => "synced".into(),
            Ok(None) => panic!("the source has ended"),
            Err(_) => panic!("nothing happens"),
        }
    }

    /// What is told until everything has been told.
    async fn initial(&mut self) -> BTreeSet<String> {
        let mut told = BTreeSet::new();
        loop {
            match self.next().await {
                step if step == "synced" => return told,
                step => assert!(told.insert(step)),
            }
        }
    }

    fn metric(&self, line: &str) -> bool {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text.lines().any(|it| it == line)
    }

    async fn until_metric(&self, line: &str) {
        let reached = async {
            while !self.metric(line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, reached)
            .await
            .unwrap_or_else(|_| panic!("no {line}"));
    }
}

const NEVER: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn what_exists_then_what_changes() {
    let server = Server::new(&[pod("a", 1), pod("b", 2), pod("c", 3)]);
    server.set_page(2);
    let mut watching = Watching::start(server, NEVER);
    assert_eq!(
        watching.initial().await,
        ["+a", "+b", "+c"].map(String::from).into()
    );
    watching.server.put(pod("d", 4)).await;
    assert_eq!(watching.next().await, "+d");
    watching.server.delete("a", 5).await;
    assert_eq!(watching.next().await, "-a");
    watching
        .until_metric("source_objects{kind=\"pods\"} 3")
        .await;
    assert!(watching.metric("source_connected{kind=\"pods\"} 1"));
}

#[tokio::test]
async fn a_broken_watch_goes_on_where_it_ended() {
    let mut watching = Watching::start(Server::new(&[pod("a", 1)]), NEVER);
    watching.initial().await;
    watching.server.put(pod("b", 2)).await;
    assert_eq!(watching.next().await, "+b");
    watching.server.cut().await;
    watching.server.put(pod("c", 3)).await;
    assert_eq!(watching.next().await, "+c");
    assert!(
        watching.metric("source_lists_total{kind=\"pods\"} 1"),
        "it was not listed again"
    );
}

#[tokio::test]
async fn a_watch_that_is_too_old_is_listed_again_and_deletions_are_found() {
    for as_response in [false, true] {
        let mut watching = Watching::start(Server::new(&[pod("a", 1), pod("b", 2)]), NEVER);
        watching.initial().await;
        watching.server.go_blind(as_response);
        watching.server.delete("a", 7).await;
        watching.server.put(pod("c", 8)).await;
        watching.server.cut().await;
        let told = [watching.next().await, watching.next().await];
        assert_eq!(told, ["+c", "-a"], "and nothing of b, which is the same");
        watching.server.put(pod("d", 9)).await;
        assert_eq!(watching.next().await, "+d");
    }
}

#[tokio::test]
async fn an_api_server_that_is_gone_deletes_nothing() {
    let mut watching = Watching::start(Server::new(&[pod("a", 1)]), NEVER);
    watching.initial().await;
    watching.server.stop().await;
    watching
        .until_metric("source_connected{kind=\"pods\"} 0")
        .await;
    watching
        .until_metric("source_failures_total{kind=\"pods\"} 2")
        .await;
    watching.server.put(pod("b", 2)).await;
    watching.server.start();
    assert_eq!(watching.next().await, "+b");
    watching
        .until_metric("source_connected{kind=\"pods\"} 1")
        .await;
}

#[tokio::test]
async fn an_api_server_that_comes_up_later_is_waited_for() {
    let server = Server::new(&[pod("a", 1)]);
    server.stop().await;
    let mut watching = Watching::start(server, NEVER);
    watching
        .until_metric("source_failures_total{kind=\"jobs\"} 1")
        .await;
    watching.server.start();
    assert_eq!(watching.initial().await.len(), 1);
}

#[tokio::test]
async fn what_a_watch_has_missed_is_found_and_corrected() {
    let server = Server::new(&[pod("a", 1), pod("b", 2)]);
    let mut watching = Watching::start(server, Duration::from_millis(100));
    watching.initial().await;
    watching.server.put_unseen(pod("a", 5));
    watching.server.delete_unseen("b");
    let told = [watching.next().await, watching.next().await];
    assert_eq!(told, ["+a", "-b"]);
    assert!(watching.metric("source_differences_total{kind=\"pods\"} 2"));
    // Nothing is wrong now, so that nothing more is found.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(watching.metric("source_differences_total{kind=\"pods\"} 2"));
}

#[tokio::test]
async fn owners_are_told_by_their_metadata() {
    let server = Server::new(&[]);
    server.put_job(json!({
        "metadata": {"namespace": "shop", "name": "nightly-1", "resourceVersion": "3",
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "nightly", "uid": "1", "controller": true}]},
    }));
    let mut watching = Watching::start(server, NEVER);
    let event = tokio::time::timeout(SOON, watching.events.recv()).await;
    let Ok(Some(Event::Applied(object))) = event else {
        panic!("{event:?}")
    };
    let Object::Job(meta) = &*object else {
        panic!("{object:?}")
    };
    assert_eq!(meta.owner_references.as_ref().unwrap()[0].name, "nightly");
    let expected = ObjectKey {
        kind: Kind::Job,
        namespace: "shop".into(),
        name: "nightly-1".into(),
    };
    assert_eq!(object.key(), expected);
    assert!(watching.server.asked_for_metadata("jobs"));
    assert!(!watching.server.asked_for_metadata("pods"));
}
