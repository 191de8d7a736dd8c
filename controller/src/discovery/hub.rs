//! Who watches what: joins the index to the sessions of the proxies.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh_api::{SpiffeId, v1::DiscoveryUpdate};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use tokio::sync::Notify;
use tonic::Status;

use super::outbox::Outbox;
use crate::{
    ca::Bundle,
    index::{Index, Name, Objects},
    source::Event,
};

/// Destinations that one proxy may watch. It forgets idle ones, so that only a port scan gets near this.
const MAX_SUBSCRIPTIONS: usize = 65_536;

/// The index and those who watch it.
///
/// One lock, held for the microseconds of one change or one subscription. Inside of it sessions' own locks are
/// taken, never the other way round.
pub struct Hub {
    state: Mutex<State>,
    streams: Gauge,
    events: Counter,
    pushed: Counter,
}

struct State {
    index: Index,
    bundle: Arc<Bundle>,
    sessions: HashMap<u64, Arc<Session>>,
    destinations: HashMap<SocketAddr, BTreeMap<u64, Arc<Session>>>,
    pods: HashMap<Name, BTreeMap<u64, Arc<Session>>>,
}

/// One proxy's stream.
pub(super) struct Session {
    id: u64,
    state: Mutex<SessionState>,
    wake: Notify,
    gone: Notify,
}

#[derive(Default)]
struct SessionState {
    outbox: Outbox,
    pod: Option<Name>,
    /// The stream has ended, with what the proxy is still to hear.
    closed: Option<Option<Status>>,
}

impl Hub {
    /// A hub of an empty index.
    pub fn new(trust_domain: &str, bundle: Arc<Bundle>, registry: &mut Registry) -> Self {
        let hub = Self {
            state: Mutex::new(State {
                index: Index::new(trust_domain),
                bundle,
                sessions: HashMap::new(),
                destinations: HashMap::new(),
                pods: HashMap::new(),
            }),
            streams: Gauge::default(),
            events: Counter::default(),
            pushed: Counter::default(),
        };
        registry.register(
            "discovery_streams",
            "Proxies connected",
            hub.streams.clone(),
        );
        registry.register("source_events", "Changes of objects", hub.events.clone());
        registry.register(
            "discovery_changes",
            "Changes marked for a proxy",
            hub.pushed.clone(),
        );
        hub
    }

    /// Takes one step of the source, and tells those whom it concerns.
    pub fn apply(&self, event: Event) {
        self.events.inc();
        let mut state = self.lock();
        let changes = state.index.apply(event);
        for change in &changes.destinations {
            for session in state
                .destinations
                .get(&change.after.address)
                .into_iter()
                .flat_map(BTreeMap::values)
            {
                self.push(session, |outbox| outbox.change(change));
            }
        }
        for (pod, inbound) in &changes.inbounds {
            for session in state.pods.get(pod).into_iter().flat_map(BTreeMap::values) {
                self.push(session, |outbox| outbox.inbound(Arc::clone(inbound)));
            }
        }
    }

    /// From now on this is the trust bundle.
    pub fn trust(&self, bundle: Arc<Bundle>) {
        let mut state = self.lock();
        for session in state.sessions.values() {
            self.push(session, |outbox| outbox.bundle(bundle.wire()));
        }
        state.bundle = bundle;
    }

    /// The controller stops: every stream ends.
    pub fn close(&self) {
        for session in self.lock().sessions.values() {
            session.close(Some(Status::unavailable(
                "the controller is stopping: connect again",
            )));
        }
    }

    /// Answers from the objects as they are now.
    pub fn with_objects<T>(&self, answer: impl FnOnce(&Objects) -> T) -> T {
        answer(self.lock().index.objects())
    }

    /// A proxy speaks for the pod whose service account its certificate names, and for no other.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn admit(&self, id: &SpiffeId, namespace: &str, pod: &str) -> Result<Name, Status> {
        let denied = |reason: String| Err(Status::permission_denied(reason));
        if namespace != id.namespace() {
            return denied(format!("{id} is not in namespace {namespace:?}"));
        }
        let pod = Name::new(namespace, pod);
        let expected = self.with_objects(|objects| objects.identity(&pod, objects.pod(&pod)?));
        match expected {
            Some(expected) if expected != *id => {
                denied(format!("pod {pod} is {expected}, not {id}"))
            }
            // A pod that the source has not told of yet is welcome: the rest of its policy follows.
            _ => Ok(pod),
        }
    }

    pub(super) fn join(&self, session: &Arc<Session>, pod: &Name) {
        let mut state = self.lock();
        if session.lock().closed.is_some() {
            return;
        }
        session.lock().pod = Some(pod.clone());
        state.sessions.insert(session.id, Arc::clone(session));
        state
            .pods
            .entry(pod.clone())
            .or_default()
            .insert(session.id, Arc::clone(session));
        self.streams.set(state.sessions.len() as i64);
        let (bundle, inbound) = (state.bundle.wire(), state.index.watch_inbound(pod));
        self.push(session, |outbox| {
            outbox.bundle(bundle);
            outbox.inbound(inbound);
        });
    }

    pub(super) fn subscribe(
        &self,
        session: &Arc<Session>,
        address: SocketAddr,
    ) -> Result<(), Status> {
        let mut state = self.lock();
        let (subscribed, closed) = {
            let own = session.lock();
            (own.outbox.subscriptions(), own.closed.is_some())
        };
        if closed {
            return Ok(());
        }
        if subscribed >= MAX_SUBSCRIPTIONS {
            return Err(Status::resource_exhausted(format!(
                "more than {MAX_SUBSCRIPTIONS} destinations"
            )));
        }
        let snapshot = state.index.watch_destination(address);
        state
            .destinations
            .entry(address)
            .or_default()
            .insert(session.id, Arc::clone(session));
        self.push(session, |outbox| outbox.subscribe(snapshot));
        Ok(())
    }

    pub(super) fn unsubscribe(&self, session: &Session, address: SocketAddr) {
        let mut state = self.lock();
        session.lock().outbox.unsubscribe(address);
        state.forget(session.id, address);
    }

    pub(super) fn leave(&self, session: &Session) {
        let mut state = self.lock();
        let (pod, addresses) = {
            let mut own = session.lock();
            (own.pod.take(), own.outbox.clear())
        };
        for address in addresses {
            state.forget(session.id, address);
        }
        if let Some(pod) = pod {
            state.sessions.remove(&session.id);
            if let Some(watchers) = state.pods.get_mut(&pod) {
                watchers.remove(&session.id);
                if watchers.is_empty() {
                    state.pods.remove(&pod);
                    state.index.forget_inbound(&pod);
                }
            }
        }
        self.streams.set(state.sessions.len() as i64);
    }

    fn push(&self, session: &Session, put: impl FnOnce(&mut Outbox)) {
        self.pushed.inc();
        put(&mut session.lock().outbox);
        session.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in between leaves at worst a watcher that is not told; to go on is better than to stop.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, session: u64, address: SocketAddr) {
        if let Some(watchers) = self.destinations.get_mut(&address) {
            watchers.remove(&session);
            if watchers.is_empty() {
                self.destinations.remove(&address);
                self.index.forget_destination(address);
            }
        }
    }
}

impl Session {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            state: Mutex::default(),
            wake: Notify::new(),
            gone: Notify::new(),
        }
    }

    /// The next update; `None` when the stream is over.
    pub(super) async fn next(&self) -> Option<Result<DiscoveryUpdate, Status>> {
        loop {
            {
                let mut state = self.lock();
                if let Some(update) = state.outbox.next() {
                    return Some(Ok(update));
                }
                if let Some(end) = &mut state.closed {
                    return end.take().map(Err);
                }
            }
            self.wake.notified().await;
        }
    }

    /// The proxy could not use this version: it gets the whole state once, in case it was a delta.
    pub(super) fn refused(&self, version: u64) {
        self.lock().outbox.refused(version);
        self.wake.notify_one();
    }

    pub(super) fn close(&self, end: Option<Status>) {
        self.lock().closed.get_or_insert(end);
        self.wake.notify_one();
        self.gone.notify_one();
    }

    pub(super) async fn closed(&self) {
        self.gone.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, SessionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
