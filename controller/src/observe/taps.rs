//! Live requests: which proxies are asked for them, and who hears of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_api::v1::{
    Direction, Security, Selector, ServicePort, StartTap, TapEvent, TapFilter, TelemetryCommand,
    Workload, telemetry_command,
};
use tokio::sync::mpsc;
use tonic::Status;

use super::selector::{NAMESPACE, POD, SERVICE, selects_side};
use crate::index::Name;

/// Taps at the same time: each costs every request of the tapped proxies a comparison.
const MAX_TAPS: usize = 32;
/// Events that a listener may lag behind; the rest is dropped.
const QUEUE: usize = 1024;
/// Commands to one proxy that are on their way: all taps could start and stop.
pub(super) const COMMANDS: usize = 4 * MAX_TAPS;
/// Where the listener names no rate: events per second and proxy.
const DEFAULT_RPS: u32 = 100;

/// The taps that are open and the proxies that are connected.
#[derive(Default)]
pub struct Taps(Mutex<State>);

#[derive(Default)]
struct State {
    next: u64,
    taps: HashMap<u64, Tap>,
    proxies: HashMap<u64, Proxy>,
}

struct Tap {
    filter: TapFilter,
    max_rps: u32,
    listener: mpsc::Sender<TapEvent>,
}

struct Proxy {
    pod: Name,
    workload: Workload,
    commands: mpsc::Sender<TelemetryCommand>,
}

/// An open tap; dropping it ends it at the proxies.
pub(super) struct Listener {
    taps: Arc<Taps>,
    id: u64,
    pub(super) events: mpsc::Receiver<TapEvent>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.taps.close(self.id);
    }
}

/// A connected proxy; dropping it forgets it.
pub(super) struct Connected {
    taps: Arc<Taps>,
    id: u64,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.taps.lock().proxies.remove(&self.id);
    }
}

impl Taps {
    /// Starts a tap at the proxies that are there, and at those that come.
    pub(super) fn open(
        self: &Arc<Self>,
        filter: TapFilter,
        max_rps: u32,
    ) -> Result<Listener, Status> {
        let mut state = self.lock();
        if state.taps.len() >= MAX_TAPS {
            return Err(Status::resource_exhausted(format!(
                "{MAX_TAPS} taps are open: end one of them first"
            )));
        }
        state.next += 1;
        let (id, (listener, events)) = (state.next, mpsc::channel(QUEUE));
        let max_rps = if max_rps == 0 { DEFAULT_RPS } else { max_rps };
        let tap = Tap {
            filter,
            max_rps,
            listener,
        };
        for proxy in state.proxies.values() {
            tap.start_at(id, proxy);
        }
        state.taps.insert(id, tap);
        Ok(Listener {
            taps: Arc::clone(self),
            id,
            events,
        })
    }

    /// A proxy has connected.
    pub(super) fn connect(
        self: &Arc<Self>,
        pod: Name,
        workload: Workload,
        commands: mpsc::Sender<TelemetryCommand>,
    ) -> Connected {
        let mut state = self.lock();
        state.next += 1;
        let (id, proxy) = (
            state.next,
            Proxy {
                pod,
                workload,
                commands,
            },
        );
        for (tap_id, tap) in &state.taps {
            tap.start_at(*tap_id, &proxy);
        }
        state.proxies.insert(id, proxy);
        Connected {
            taps: Arc::clone(self),
            id,
        }
    }

    /// Whether anybody listens.
    pub(super) fn any(&self) -> bool {
        !self.lock().taps.is_empty()
    }

    /// Hands an event to those who listen for it. A listener that is too slow misses it.
    pub(super) fn offer(&self, event: &TapEvent) {
        for tap in self.lock().taps.values() {
            if tap.wants(event) {
                let _ = tap.listener.try_send(event.clone());
            }
        }
    }

    fn close(&self, id: u64) {
        let mut state = self.lock();
        state.taps.remove(&id);
        for proxy in state.proxies.values() {
            proxy.command(telemetry_command::Kind::StopTap(id));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tap {
    fn start_at(&self, id: u64, proxy: &Proxy) {
        // Who sends a request tells of it: other proxies can't see what this source sends.
        let from = self.filter.from.as_ref();
        if from.is_none_or(|side| is_side(side, Some(&proxy.workload), &proxy.pod.name, None)) {
            let filter = TapFilter {
                workload: known_to_proxies(&self.filter.workload),
                to: known_to_proxies(&self.filter.to),
                from: known_to_proxies(&self.filter.from),
                ..self.filter.clone()
            };
            let start = StartTap {
                id,
                filter: Some(filter),
                max_rps: self.max_rps,
            };
            proxy.command(telemetry_command::Kind::StartTap(start));
        }
    }

    fn wants(&self, event: &TapEvent) -> bool {
        let source =
            |side: &Workload| is_side(side, event.source.as_ref(), &event.source_pod, None);
        let destination = |side: &Workload| {
            is_side(
                side,
                event.destination.as_ref(),
                &event.destination_pod,
                event.service.as_ref(),
            )
        };
        // Both proxies of a secured request see it. The one that sent it tells: it knows both workloads, the
        // service and the retries.
        let told_twice =
            event.direction() == Direction::Inbound && event.security() == Security::Mtls;
        !told_twice
            && self.filter.selects_request(event)
            && self
                .filter
                .workload
                .as_ref()
                .is_none_or(|side| source(side) || destination(side))
            && self.filter.to.as_ref().is_none_or(destination)
            && self.filter.from.as_ref().is_none_or(source)
    }
}

/// A side of a filter as proxies can match it. Pods and services are matched here.
fn known_to_proxies(side: &Option<Workload>) -> Option<Workload> {
    let side = side.as_ref()?;
    match side.kind.as_str() {
        SERVICE | POD => None,
        // A name of whatever kind may be a service's.
        "" if !side.name.is_empty() => None,
        NAMESPACE => Some(Workload {
            namespace: side.name.clone(),
            ..Workload::default()
        }),
        _ => Some(side.clone()),
    }
}

fn is_side(
    side: &Workload,
    workload: Option<&Workload>,
    pod: &str,
    service: Option<&ServicePort>,
) -> bool {
    let selector = Selector {
        namespace: side.namespace.clone(),
        kind: side.kind.clone(),
        name: side.name.clone(),
    };
    selects_side(&selector, workload, pod, service)
}

impl Proxy {
    fn command(&self, kind: telemetry_command::Kind) {
        // A proxy that does not read its commands is about to be disconnected by keepalive.
        let _ = self
            .commands
            .try_send(TelemetryCommand { kind: Some(kind) });
    }
}
