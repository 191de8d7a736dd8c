//! Pods that want a proxy and run without one: created before they or their namespace opted in, or while the
//! injector was away. Each is told of once, by an Event on the pod that says what to do.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use mesh_api::names;
use tokio::time::{Instant, sleep_until};

use super::{Duties, census::Missed};
use crate::inject::{Injection, inject};

/// How long a pod may be without: who labels a namespace is most often about to restart what is in it.
const PATIENCE: Duration = Duration::from_secs(5);
/// When what has failed is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// The end of a name (Kubernetes: 253 bytes) that a pod's name has to leave room for.
const SUFFIX: &str = ".mesh-proxy-missing";
/// Limits of `events.k8s.io/v1` on `reportingInstance`, and on names.
const MAX_INSTANCE: usize = 128;
const MAX_NAME: usize = 253;

/// Tells of missed pods, for ever.
pub(super) async fn report(duties: &Duties) {
    let mut changed = duties.parts.census.changed();
    let mut watchlist = Watchlist::default();
    loop {
        changed.mark_unchanged();
        let (due, mut next) = watchlist.due(duties.parts.census.missed(), Instant::now());
        for missed in due {
            match tell(duties, &missed).await {
                Ok(()) => watchlist.done(&missed),
                Err(error) => {
                    tracing::warn!(pod = %missed.pod, %error, "a pod without its proxy could not be told of");
                    let again = watchlist.later(&missed, Instant::now());
                    next = next.into_iter().chain([again]).min();
                }
            }
        }
        tokio::select! {
            Ok(()) = changed.changed() => tokio::time::sleep(Duration::from_millis(100)).await,
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}

/// Which pods are missed, and when to tell of them. Pure.
#[derive(Default)]
struct Watchlist {
    /// By the pod's uid; `None`: told.
    pods: HashMap<String, Option<Instant>>,
}

impl Watchlist {
    /// The pods to tell of now, and when the next one is due.
    fn due(&mut self, missed: Vec<Missed>, now: Instant) -> (Vec<Missed>, Option<Instant>) {
        let mut before = std::mem::take(&mut self.pods);
        let (mut due, mut next) = (Vec::new(), None);
        for pod in missed {
            let at = before.remove(&pod.uid).unwrap_or(Some(now + PATIENCE));
            self.pods.insert(pod.uid.clone(), at);
            let Some(at) = at else { continue };
            if at <= now {
                due.push(pod);
            } else {
                next = next.into_iter().chain([at]).min();
            }
        }
        (due, next)
    }

    fn done(&mut self, missed: &Missed) {
        self.pods.insert(missed.uid.clone(), None);
    }

    /// Returns when.
    fn later(&mut self, missed: &Missed, now: Instant) -> Instant {
        let again = now + RETRY;
        self.pods.insert(missed.uid.clone(), Some(again));
        again
    }
}

/// Creates the Event, if the injector would have put a proxy beside the pod.
async fn tell(duties: &Duties, missed: &Missed) -> Result<(), kube::Error> {
    let (namespace, name) = (&*missed.pod.namespace, &*missed.pod.name);
    let pods: Api<Pod> = Api::namespaced(duties.parts.client.clone(), namespace);
    let Some(pod) = pods.get_opt(name).await? else {
        return Ok(());
    };
    let Some(facts) = duties.parts.census.facts(namespace) else {
        return Ok(());
    };
    let settings = duties.settings.borrow().clone();
    let value = serde_json::to_value(&pod).map_err(kube::Error::SerdeError)?;
    let why = match inject(&value, &facts, &settings) {
        Ok(Injection::Injected(_)) => {
            "it was created before it was opted in, or while the injector could not be reached"
                .to_owned()
        }
        Ok(Injection::Skipped(_)) => return Ok(()),
        Err(invalid) => invalid.to_string(),
    };
    if pod.metadata.uid.as_deref() != Some(&missed.uid) {
        return Ok(());
    }
    let workload = duties.parts.hub.with_objects(|objects| {
        let pod = objects.pod(&missed.pod)?;
        Some((pod.workload.kind.clone(), pod.workload.name.clone()))
    });
    let note = format!(
        "This pod is opted in to the mesh and has no proxy: {why}. Its traffic is neither encrypted nor measured. {}",
        remedy(namespace, name, workload)
    );
    let event = event(duties, missed, note);
    let events: Api<Event> = Api::namespaced(duties.parts.client.clone(), namespace);
    match events.create(&PostParams::default(), &event).await {
        Ok(_) => {
            tracing::info!(pod = %missed.pod, "a pod has no proxy: told by an Event");
            Ok(())
        }
        // An earlier leader has told of it; or the namespace is on its way out.
        Err(kube::Error::Api(status)) if status.is_already_exists() || status.is_not_found() => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn remedy(namespace: &str, pod: &str, workload: Option<(String, String)>) -> String {
    match workload {
        Some((kind, name)) if ["deployment", "statefulset", "daemonset"].contains(&&*kind) => {
            format!("Create its pods anew: kubectl rollout restart {kind}/{name} -n {namespace}")
        }
        Some((kind, _)) if kind != "pod" => {
            format!("Let its {kind} create it anew: kubectl delete pod {pod} -n {namespace}")
        }
        _ => format!("Delete it, and create it again: kubectl delete pod {pod} -n {namespace}"),
    }
}

/// Its name is the pod's, so that a second one is refused, whoever creates it.
fn event(duties: &Duties, missed: &Missed, note: String) -> Event {
    let (namespace, name) = (&*missed.pod.namespace, &*missed.pod.name);
    let mut own = format!("{}{SUFFIX}", missed.uid);
    let room = MAX_NAME.saturating_sub(own.len() + 1);
    own.insert_str(
        0,
        &format!(
            "{}.",
            name.get(..room)
                .unwrap_or(name)
                .trim_end_matches(['.', '-'])
        ),
    );
    Event {
        metadata: ObjectMeta {
            namespace: Some(namespace.into()),
            name: Some(own),
            labels: Some(super::labels()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        type_: Some("Warning".into()),
        reason: Some("ProxyMissing".into()),
        action: Some("Inject".into()),
        note: Some(note),
        reporting_controller: Some(format!("mesh.internal/{}", names::CONTROLLER)),
        reporting_instance: Some(duties.parts.pod.chars().take(MAX_INSTANCE).collect()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            uid: Some(missed.uid.clone()),
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Name;

    fn missed(name: &str) -> Missed {
        Missed {
            pod: Name::new("shop", name),
            uid: name.into(),
        }
    }

    #[test]
    fn a_pod_is_told_of_once() {
        let start = Instant::now();
        let mut list = Watchlist::default();
        let due = start + PATIENCE;
        assert_eq!(list.due(vec![missed("a")], start), (vec![], Some(due)));
        assert_eq!(list.due(vec![missed("a")], due), (vec![missed("a")], None));
        list.done(&missed("a"));
        assert_eq!(list.due(vec![missed("a")], due + PATIENCE), (vec![], None));
    }

    #[test]
    fn a_pod_that_is_replaced_in_time_is_not_told_of() {
        let start = Instant::now();
        let mut list = Watchlist::default();
        list.due(vec![missed("a")], start);
        assert_eq!(list.due(vec![], start + PATIENCE), (vec![], None));
        // The same name again is another pod, with a time of its own.
        let later = start + PATIENCE * 2;
        assert_eq!(list.due(vec![missed("a")], later).1, Some(later + PATIENCE));
    }

    #[test]
    fn what_fails_is_tried_again() {
        let start = Instant::now();
        let mut list = Watchlist::default();
        list.due(vec![missed("a")], start);
        let due = start + PATIENCE;
        list.due(vec![missed("a")], due);
        list.later(&missed("a"), due);
        assert_eq!(
            list.due(vec![missed("a")], due),
            (vec![], Some(due + RETRY))
        );
        assert_eq!(list.due(vec![missed("a")], due + RETRY).0, [missed("a")]);
    }

    #[test]
    fn the_remedy_fits_the_owner() {
        let owned = |kind: &str| Some((kind.to_owned(), "web".to_owned()));
        assert!(
            remedy("shop", "web-1", owned("deployment"))
                .ends_with("kubectl rollout restart deployment/web -n shop")
        );
        assert!(
            remedy("shop", "web-1", owned("job")).ends_with("kubectl delete pod web-1 -n shop")
        );
        assert!(remedy("shop", "web-1", None).starts_with("Delete it, and create it again"));
    }
}
