//! When a root is prepared, issues, and goes: a pure state machine.
//!
//! A root is *published* first: it is in everyone's trust bundle, nothing is signed by it. After
//! [`Policy::publish_for`] it *issues*, and the one before it is *retiring*: still trusted, until every leaf it
//! signed has expired. So whoever has heard of the bundle during the last `publish_for` trusts every leaf, and
//! every leaf that is still valid is trusted. A root that comes late, when the issuing one has less left than
//! `publish_for`, issues after half of that: no leaf outlives its root, so that after it there would be none.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long each stage lasts.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Life of a root certificate.
    pub root_lifetime: Duration,
    /// New roots are made here. Otherwise they are somebody else's: [`Step::Prepare`] is never taken.
    pub own_roots: bool,
    /// How long a new root is only published. A leaf's life: a proxy that has heard nothing for longer has no
    /// valid certificate left either.
    pub publish_for: Duration,
    /// How long a root is trusted after it stopped issuing: a leaf's life, and some for clocks that differ.
    pub retire_for: Duration,
}

impl Policy {
    /// A year for roots; the other spans follow from the life of leaves.
    pub fn for_leaves(leaf_lifetime: Duration) -> Self {
        Self {
            root_lifetime: Duration::from_secs(365 * 24 * 3600),
            own_roots: true,
            publish_for: leaf_lifetime,
            retire_for: leaf_lifetime + Duration::from_secs(60),
        }
    }
}

/// What a root is used for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Trusted; will issue later.
    Published,
    /// Trusted, and signs new leaves.
    Issuing,
    /// Trusted; signs nothing any more.
    Retiring,
}

/// One root as the state machine sees it. Times are seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// What it is used for.
    pub stage: Stage,
    /// Since when.
    pub since: u64,
    /// When its certificate expires.
    pub not_after: u64,
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a root and put it into this stage.
    Prepare(Stage),
    /// Let this root issue; the one that did retires.
    Promote(usize),
    /// Remove this root.
    Drop(usize),
}

/// The next step that is due; ask again after taking it.
pub fn next(roots: &[Root], now: u64, policy: &Policy) -> Option<Step> {
    let find = |stage| roots.iter().position(|root| root.stage == stage);
    let over = |root: &Root, span: Duration| now >= root.since.saturating_add(span.as_secs());
    // A controller that was away for months finds roots that have expired.
    if let Some(expired) = roots.iter().position(|root| root.not_after <= now) {
        return Some(Step::Drop(expired));
    }
    let published = find(Stage::Published);
    let Some(issuing) = find(Stage::Issuing) else {
        let first = policy.own_roots.then_some(Step::Prepare(Stage::Issuing));
        return published.map(Step::Promote).or(first);
    };
    if let Some(published) = published {
        let since = roots[published].since;
        let halfway = since + roots[issuing].not_after.saturating_sub(since) / 2;
        let due = over(&roots[published], policy.publish_for) || now >= halfway;
        return due.then_some(Step::Promote(published));
    }
    let retiring = |root: &Root| root.stage == Stage::Retiring && over(root, policy.retire_for);
    if let Some(retired) = roots.iter().position(retiring) {
        return Some(Step::Drop(retired));
    }
    // 70 % of its life, as for leaves.
    let spare = policy.root_lifetime.as_secs() * 3 / 10;
    (policy.own_roots && now.saturating_add(spare) >= roots[issuing].not_after)
        .then_some(Step::Prepare(Stage::Published))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(roots: &mut Vec<Root>, now: u64, policy: &Policy) {
        while let Some(step) = next(roots, now, policy) {
            match step {
                Step::Prepare(stage) => roots.push(Root {
                    stage,
                    since: now,
                    not_after: now + policy.root_lifetime.as_secs(),
                }),
                Step::Promote(promoted) => {
                    for root in roots.iter_mut().filter(|root| root.stage == Stage::Issuing) {
                        (root.stage, root.since) = (Stage::Retiring, now);
                    }
                    (roots[promoted].stage, roots[promoted].since) = (Stage::Issuing, now);
                }
                Step::Drop(dropped) => {
                    roots.remove(dropped);
                }
            }
        }
    }

    proptest! {
        /// Time passes in random steps, none longer than a leaf lives. Every leaf that is still valid must be
        /// signed by a root in the bundle, and the signer of a new leaf must have been in the bundle before.
        #[test]
        fn every_valid_leaf_is_always_trusted(leaf in 10u64..100, steps in prop::collection::vec(1u64..10, 1..400)) {
            let policy = Policy {
                root_lifetime: Duration::from_secs(leaf * 10),
                ..Policy::for_leaves(Duration::from_secs(leaf))
            };
            let (mut now, mut roots) = (1_000_000, Vec::new());
            // Roots are told apart by the end of their lives.
            let mut leaves: Vec<(u64, u64)> = Vec::new();
            let mut bundles: Vec<(u64, Vec<u64>)> = Vec::new();
            for step in steps {
                take(&mut roots, now, &policy);
                let issuing: Vec<_> = roots.iter().filter(|r| r.stage == Stage::Issuing).collect();
                prop_assert_eq!(issuing.len(), 1);
                prop_assert!(roots.len() <= 3);
                bundles.push((now, roots.iter().map(|root| root.not_after).collect()));
                leaves.push((issuing[0].not_after, now + leaf));
                leaves.retain(|(_, expires)| *expires > now);
                for (signer, _) in &leaves {
                    prop_assert!(roots.iter().any(|root| root.not_after == *signer), "untrusted leaf");
                }
                let first = bundles[0].0;
                for (at, bundle) in bundles.iter().filter(|(at, _)| at + leaf > now && *at > first) {
                    prop_assert!(bundle.contains(&issuing[0].not_after), "bundle of {at} lacks the issuer at {now}");
                }
                now += step;
            }
        }
    }

    #[test]
    fn a_root_that_comes_late_issues_before_there_is_none() {
        let policy = Policy {
            own_roots: false,
            ..Policy::for_leaves(Duration::from_secs(100))
        };
        let root = |stage, since, not_after| Root {
            stage,
            since,
            not_after,
        };
        let mut roots = vec![
            root(Stage::Issuing, 0, 1000),
            root(Stage::Published, 960, 9000),
        ];
        take(&mut roots, 979, &policy);
        assert_eq!(roots[1].stage, Stage::Published);
        take(&mut roots, 980, &policy);
        assert_eq!(roots[0].stage, Stage::Retiring);
        assert_eq!(roots[1].stage, Stage::Issuing);
    }

    #[test]
    fn a_long_absence_starts_over() {
        let policy = Policy::for_leaves(Duration::from_secs(100));
        let mut roots = vec![Root {
            stage: Stage::Issuing,
            since: 0,
            not_after: 50,
        }];
        take(&mut roots, 1000, &policy);
        assert_eq!(
            roots,
            [Root {
                stage: Stage::Issuing,
                since: 1000,
                not_after: 1000 + policy.root_lifetime.as_secs()
            }]
        );
    }
}
