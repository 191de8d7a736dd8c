//! What the mesh is doing now: reports of the proxies in, answers for the CLI out.
//!
//! The [`Store`] keeps ten minutes of figures, [`Taps`] passes single requests on. Both are in memory and
//! bounded; after a restart of the controller the figures begin anew.

mod flows;
mod ring;
mod selector;
mod service;
mod stat;
mod store;
mod tally;
mod taps;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use mesh_api::{
    SpiffeId,
    v1::{Address, TapEvent, TelemetryCommand, TelemetryReport, Workload},
};
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio::sync::mpsc;
use tonic::Status;

use crate::{discovery::Hub, index::Name};
pub(crate) use service::ObserveService;
pub use store::Store;
pub use taps::Taps;

/// Everything that proxies told about their traffic.
pub struct Observatory {
    hub: Arc<Hub>,
    store: Mutex<Store>,
    taps: Arc<Taps>,
    series: Gauge,
    not_counted: Gauge,
}

/// A proxy that is connected; dropping it ends its taps.
pub struct Reporting {
    pod: Name,
    _connected: taps::Connected,
}

impl Observatory {
    /// Nothing yet.
    pub fn new(hub: Arc<Hub>, registry: &mut Registry) -> Self {
        let (series, not_counted) = (Gauge::default(), Gauge::default());
        registry.register(
            "telemetry_series",
            "Series of requests in memory",
            series.clone(),
        );
        registry.register(
            "telemetry_not_counted",
            "Requests that were not counted because there were too many series",
            not_counted.clone(),
        );
        Self {
            hub,
            store: Mutex::new(Store::new(Instant::now())),
            taps: Arc::default(),
            series,
            not_counted,
        }
    }

    /// Forgets what is too old. To be called every now and then: a store that hears of nothing forgets, too.
    pub fn age(&self, now: Instant) {
        let mut store = self.store();
        store.age(now);
        let (series, not_counted) = store.size();
        self.series.set(series as i64);
        self.not_counted.set(not_counted as i64);
    }

    /// A proxy begins to report; `report` is its first one.
    ///
    /// # Errors
    /// PERMISSION_DENIED if it is not the pod that it says it is.
    pub fn begin(
        &self,
        id: &SpiffeId,
        report: &TelemetryReport,
    ) -> Result<(Reporting, mpsc::Receiver<TelemetryCommand>), Status> {
        let pod = self.hub.admit(id, &report.namespace, &report.pod)?;
        let (commands, receiver) = mpsc::channel(taps::COMMANDS);
        let workload = self.workload(&pod, report);
        let _connected = self.taps.connect(pod.clone(), workload, commands);
        Ok((Reporting { pod, _connected }, receiver))
    }

    /// Takes a report of the proxy with this identity.
    pub fn report(
        &self,
        from: &Reporting,
        id: &SpiffeId,
        mut report: TelemetryReport,
        now: Instant,
    ) {
        let taps = std::mem::take(&mut report.taps);
        if self.taps.any() {
            for mut event in taps {
                self.name_sides(&mut event);
                self.taps.offer(&event);
            }
        }
        let workload = self.workload(&from.pod, &report);
        self.store()
            .record(&from.pod, workload, id.as_str(), report, now);
    }

    /// The source knows which workload a pod is of better than its proxy.
    fn workload(&self, pod: &Name, report: &TelemetryReport) -> Workload {
        let known = self
            .hub
            .with_objects(|objects| objects.pod(pod).map(|pod| pod.workload.clone()));
        known
            .or_else(|| report.workload.clone())
            .unwrap_or_else(|| Workload {
                namespace: pod.namespace.to_string(),
                kind: selector::POD.into(),
                name: pod.name.to_string(),
            })
    }

    /// A proxy knows its own workload, and its peer's only if it asked discovery: the rest is known here.
    fn name_sides(&self, event: &mut TapEvent) {
        let at = |address: &Option<Address>| {
            let address = SocketAddr::try_from(address.as_ref()?).ok()?;
            self.hub.with_objects(|objects| {
                let (name, pod) = objects.pod_at(address.ip())?;
                Some((pod.workload.clone(), name.name.to_string()))
            })
        };
        if event.source.is_none()
            && let Some((workload, pod)) = at(&event.source_address)
        {
            (event.source, event.source_pod) = (Some(workload), pod);
        }
        if event.destination.is_none()
            && let Some((workload, pod)) = at(&event.destination_address)
        {
            (event.destination, event.destination_pod) = (Some(workload), pod);
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
