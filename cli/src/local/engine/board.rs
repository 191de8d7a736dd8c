//! What a pod's containers tell, and what that makes of the pod.

use std::collections::BTreeMap;

use super::container::Status;

/// How a pod is, for the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) ready: bool,
    pub(super) restarts: u32,
    /// Why it is not ready.
    pub(super) reason: String,
}

/// As in a pod's status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// Place of the proxy and of the first init container among a pod's statuses.
pub(super) const PROXY: usize = 1000;
pub(super) const INIT: usize = 2000;

/// What the containers have told.
pub(super) struct Board {
    pub(super) statuses: BTreeMap<usize, Status>,
    pub(super) phase: Phase,
}

impl Board {
    pub(super) fn ready(&self, index: usize) -> bool {
        self.statuses.get(&index).is_some_and(|status| status.ready)
    }

    /// Whether it ended for good, and well.
    pub(super) fn ended(&self, index: usize) -> Option<bool> {
        self.statuses.get(&index)?.done
    }

    /// Whether all containers have ended for good, and well.
    pub(super) fn done(&self, containers: usize) -> Option<bool> {
        (0..containers)
            .map(|index| self.ended(index))
            .try_fold(true, |all, done| Some(all && done?))
    }

    pub(super) fn state(&self) -> State {
        let containers = self.statuses.values();
        let running = self.phase == Phase::Running;
        let waiting = containers
            .clone()
            .find(|status| !status.ready && status.done.is_none());
        State {
            phase: self.phase,
            ready: running && containers.clone().all(|status| status.ready),
            restarts: containers.map(|status| status.restarts).sum(),
            reason: waiting
                .map(|status| status.reason.clone())
                .unwrap_or_default(),
        }
    }
}
