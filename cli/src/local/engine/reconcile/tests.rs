use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Pod {
    name: String,
    revision: String,
    ordinal: Option<u32>,
    ready: bool,
    terminating: bool,
}

impl Pod {
    fn view(&self) -> Have<'_> {
        Have {
            name: &self.name,
            revision: &self.revision,
            ordinal: self.ordinal,
            ready: self.ready && !self.terminating,
            terminating: self.terminating,
            done: false,
        }
    }
}

/// Applies plans, making one waiting pod ready or one terminating pod gone in each round, until nothing changes.
/// Calls `check` after each plan.
fn settle(
    kind: Kind,
    replicas: u32,
    revision: &str,
    pods: &mut Vec<Pod>,
    mut check: impl FnMut(&[Pod]),
) {
    let mut made = pods.len();
    for _ in 0..200 {
        let views: Vec<_> = pods.iter().map(Pod::view).collect();
        let steps = plan(
            &Want {
                kind,
                replicas,
                revision,
            },
            &views,
        );
        let idle = steps.is_empty();
        for step in steps {
            match step {
                Step::Start(ordinal) => {
                    made += 1;
                    let name =
                        ordinal.map_or_else(|| format!("new-{made}"), |n| format!("set-{n}"));
                    assert!(pods.iter().all(|pod| pod.name != name), "{name} twice");
                    pods.push(Pod {
                        name,
                        revision: revision.into(),
                        ordinal,
                        ready: false,
                        terminating: false,
                    });
                }
                Step::End(name) => {
                    pods.iter_mut()
                        .find(|pod| pod.name == name)
                        .unwrap()
                        .terminating = true
                }
            }
        }
        check(pods);
        if let Some(at) = pods.iter().position(|pod| pod.terminating) {
            pods.remove(at);
        } else if let Some(pod) = pods.iter_mut().find(|pod| !pod.ready) {
            pod.ready = true;
        } else if idle {
            return;
        }
    }
    panic!("does not settle: {pods:?}");
}

fn pods(count: u32, kind: Kind) -> Vec<Pod> {
    let numbered = kind == Kind::StatefulSet;
    (0..count)
        .map(|n| Pod {
            name: if numbered {
                format!("set-{n}")
            } else {
                format!("old-{n}")
            },
            revision: "old".into(),
            ordinal: numbered.then_some(n),
            ready: true,
            terminating: false,
        })
        .collect()
}

proptest! {
    #[test]
    fn any_change_settles(before in 0u32..6, after in 0u32..6, set: bool, revision in "old|new") {
        let kind = if set { Kind::StatefulSet } else { Kind::Deployment };
        let mut all = pods(before, kind);
        settle(kind, after, &revision, &mut all, |_| {});
        prop_assert_eq!(all.len() as u32, after);
        prop_assert!(all.iter().all(|pod| pod.revision == revision));
    }

    #[test]
    fn a_rolling_restart_never_serves_less(replicas in 1u32..6) {
        let mut all = pods(replicas, Kind::Deployment);
        settle(Kind::Deployment, replicas, "new", &mut all, |pods| {
            let serving = pods.iter().filter(|pod| pod.ready && !pod.terminating).count() as u32;
            assert!(serving >= replicas, "{pods:?}");
            assert!(pods.iter().filter(|pod| !pod.terminating).count() as u32 <= replicas + 1, "{pods:?}");
        });
    }
}

#[test]
fn all_replicas_start_at_once() {
    let want = Want {
        kind: Kind::Deployment,
        replicas: 3,
        revision: "a",
    };
    assert_eq!(
        plan(&want, &[]),
        [Step::Start(None), Step::Start(None), Step::Start(None)]
    );
}
