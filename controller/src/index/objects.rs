//! The objects as records, linked both ways, and which answers a change of one can touch.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use mesh_api::{SpiffeId, v1};

use super::{
    links::Links,
    owner::{self, Owner},
    record::{Name, Namespace, Pod, Service},
    slice::Slice,
};
use crate::source::{Event, Kind, Object, ObjectKey};

/// Everything that the source has told.
pub struct Objects {
    pub(super) trust_domain: String,
    pub(super) namespaces: HashMap<String, Namespace>,
    pub(super) pods: HashMap<Name, Pod>,
    pub(super) services: HashMap<Name, Service>,
    pub(super) slices: HashMap<Name, Slice>,
    /// What the pods of an owner are a part of, where they can't tell by themselves.
    pub(super) owners: HashMap<Owner, v1::Workload>,
    pub(super) pods_by_owner: Links<Owner>,
    pub(super) pods_by_ip: Links<IpAddr>,
    pub(super) services_by_ip: Links<IpAddr>,
    pub(super) slices_by_service: Links<Name>,
    /// Slices with an endpoint that names this pod.
    pub(super) slices_by_pod: Links<Name>,
    /// Slices with an endpoint of this address that names no pod.
    pub(super) slices_by_ip: Links<IpAddr>,
}

/// What a change can have touched: addresses of destinations, and pods for their inbound policy.
#[derive(Default)]
pub(super) struct Touched {
    pub(super) ips: BTreeSet<IpAddr>,
    pub(super) pods: BTreeSet<Name>,
    /// All pods of this namespace, also those that are not known yet.
    pub(super) namespace: Option<String>,
}

impl Touched {
    fn extend(&mut self, more: Self) {
        self.ips.extend(more.ips);
        self.pods.extend(more.pods);
        self.namespace = self.namespace.take().or(more.namespace);
    }
}

impl Objects {
    pub(super) fn new(trust_domain: &str) -> Self {
        Self {
            trust_domain: trust_domain.into(),
            namespaces: HashMap::new(),
            pods: HashMap::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            owners: HashMap::new(),
            pods_by_owner: Links::new(),
            pods_by_ip: Links::new(),
            services_by_ip: Links::new(),
            slices_by_service: Links::new(),
            slices_by_pod: Links::new(),
            slices_by_ip: Links::new(),
        }
    }

    pub(super) fn apply(&mut self, event: Event) -> Touched {
        match event {
            Event::Synced => Touched::default(),
            Event::Applied(object) => {
                let ObjectKey {
                    namespace, name, ..
                } = object.key();
                let key = Name::new(&namespace, &name);
                match &*object {
                    Object::Namespace(object) => self.set_namespace(name, Some(object.into())),
                    Object::Pod(object) => {
                        let mut pod = Pod::from(object);
                        let owner = pod.owner.as_ref();
                        let top = owner.and_then(|owner| self.owners.get(owner));
                        pod.set_owners_workload(top.cloned());
                        self.set_pod(key, Some(pod))
                    }
                    Object::Service(object) => self.set_service(key, Some(object.into())),
                    Object::EndpointSlice(object) => self.set_slice(key, Slice::of(object)),
                    Object::ReplicaSet(meta) | Object::Job(meta) => {
                        let kind = object.kind();
                        self.set_owner(Owner { kind, name: key }, owner::above(kind, meta))
                    }
                }
            }
            Event::Deleted(ObjectKey {
                kind,
                namespace,
                name,
            }) => {
                let key = Name::new(&namespace, &name);
                match kind {
                    Kind::Namespace => self.set_namespace(name, None),
                    Kind::Pod => self.set_pod(key, None),
                    Kind::Service => self.set_service(key, None),
                    Kind::EndpointSlice => self.set_slice(key, None),
                    Kind::ReplicaSet | Kind::Job => self.set_owner(Owner { kind, name: key }, None),
                }
            }
        }
    }

    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = (&Name, &Pod)> {
        self.pods.iter()
    }

    /// One pod.
    pub fn pod(&self, name: &Name) -> Option<&Pod> {
        self.pods.get(name)
    }

    /// All Services.
    pub fn services(&self) -> impl Iterator<Item = (&Name, &Service)> {
        self.services.iter()
    }

    /// The namespaces that exist or have something in them.
    pub fn namespaces(&self) -> BTreeSet<&str> {
        let used = self.pods.keys().chain(self.services.keys());
        let used = used.map(|name| &*name.namespace);
        self.namespaces
            .keys()
            .map(String::as_str)
            .chain(used)
            .collect()
    }

    /// The identity that the pod's proxy has or would have; `None` if its names fit no SPIFFE id.
    pub fn identity(&self, name: &Name, pod: &Pod) -> Option<SpiffeId> {
        SpiffeId::new(&self.trust_domain, &name.namespace, &pod.service_account).ok()
    }

    /// The pod that has this address. Addresses are reused: a pod that is not on its way out wins, then the
    /// younger one.
    pub fn pod_at(&self, ip: IpAddr) -> Option<(&Name, &Pod)> {
        let pods = self
            .pods_by_ip
            .of(&ip)
            .filter_map(|name| self.pods.get_key_value(name));
        pods.max_by_key(|(name, pod)| (!pod.terminating, pod.created, *name))
    }

    fn set_namespace(&mut self, name: String, after: Option<Namespace>) -> Touched {
        let mut touched = Touched::default();
        let before = match after {
            Some(after) => {
                if self.namespaces.get(&name) == Some(&after) {
                    return touched;
                }
                self.namespaces.insert(name.clone(), after)
            }
            None => self.namespaces.remove(&name),
        };
        let opaque = |namespace: Option<&Namespace>| namespace.and_then(|n| n.opaque.clone());
        if opaque(before.as_ref()) == opaque(self.namespaces.get(&name)) {
            return touched;
        }
        for service in self.services.keys().filter(|key| *key.namespace == *name) {
            self.touch_service(service, &mut touched);
        }
        for pod in self.pods.keys().filter(|key| *key.namespace == *name) {
            self.touch_pod(pod, &mut touched);
        }
        touched.namespace = Some(name);
        touched
    }

    fn set_pod(&mut self, name: Name, after: Option<Pod>) -> Touched {
        let mut touched = Touched::default();
        if self.pods.get(&name) == after.as_ref() {
            return touched;
        }
        self.touch_pod(&name, &mut touched);
        self.touch_services_of_pod(&name, &mut touched);
        if let Some(before) = self.pods.remove(&name) {
            for ip in &before.ips {
                self.pods_by_ip.remove(ip, &name);
            }
            if let Some(owner) = &before.owner {
                self.pods_by_owner.remove(owner, &name);
            }
        }
        if let Some(after) = after {
            for ip in &after.ips {
                self.pods_by_ip.add(ip, &name);
            }
            if let Some(owner) = &after.owner {
                self.pods_by_owner.add(owner, &name);
            }
            self.pods.insert(name.clone(), after);
        }
        self.touch_pod(&name, &mut touched);
        self.touch_services_of_pod(&name, &mut touched);
        touched
    }

    fn set_owner(&mut self, owner: Owner, top: Option<v1::Workload>) -> Touched {
        let mut touched = Touched::default();
        if self.owners.get(&owner) == top.as_ref() {
            return touched;
        }
        let pods: Vec<Name> = self.pods_by_owner.of(&owner).cloned().collect();
        for name in pods {
            if let Some(mut pod) = self.pods.get(&name).cloned() {
                pod.set_owners_workload(top.clone());
                touched.extend(self.set_pod(name, Some(pod)));
            }
        }
        match top {
            Some(top) => self.owners.insert(owner, top),
            None => self.owners.remove(&owner),
        };
        touched
    }

    fn set_service(&mut self, name: Name, after: Option<Service>) -> Touched {
        let mut touched = Touched::default();
        if self.services.get(&name) == after.as_ref() {
            return touched;
        }
        self.touch_service(&name, &mut touched);
        if let Some(before) = self.services.remove(&name) {
            for ip in &before.cluster_ips {
                self.services_by_ip.remove(ip, &name);
            }
        }
        if let Some(after) = after {
            for ip in &after.cluster_ips {
                self.services_by_ip.add(ip, &name);
            }
            self.services.insert(name.clone(), after);
        }
        self.touch_service(&name, &mut touched);
        touched
    }

    fn set_slice(&mut self, name: Name, after: Option<Slice>) -> Touched {
        let mut touched = Touched::default();
        if self.slices.get(&name) == after.as_ref() {
            return touched;
        }
        let before = self.unlink_slice(&name);
        for slice in before.iter().chain(&after) {
            self.touch_addresses_of_service(&slice.service, &mut touched);
        }
        // Readiness changes often and does not matter to what is in front of a pod's ports: only the pods
        // that joined or left the slice are touched, unless the slice is about another service or ports.
        let same_front = matches!((&before, &after), (Some(a), Some(b)) if a.service == b.service && a.ports == b.ports);
        let members = |slice: Option<&Slice>| -> BTreeSet<(IpAddr, Option<Name>, String)> {
            let endpoints = slice.into_iter().flat_map(|slice| &slice.endpoints);
            endpoints
                .map(|endpoint| (endpoint.ip, endpoint.pod.clone(), endpoint.zone.clone()))
                .collect()
        };
        let (old, new) = (members(before.as_ref()), members(after.as_ref()));
        let moved: Vec<_> = if same_front {
            old.symmetric_difference(&new).collect()
        } else {
            old.union(&new).collect()
        };
        for (ip, pod, _) in moved {
            touched.ips.insert(*ip);
            touched.pods.extend(self.pods_by_ip.of(ip).cloned());
            if let Some(pod) = pod {
                self.touch_pod(pod, &mut touched);
            }
        }
        if let Some(after) = after {
            self.link_slice(name, after);
        }
        touched
    }

    fn link_slice(&mut self, name: Name, slice: Slice) {
        self.slices_by_service.add(&slice.service, &name);
        for endpoint in &slice.endpoints {
            match &endpoint.pod {
                Some(pod) => self.slices_by_pod.add(pod, &name),
                None => self.slices_by_ip.add(&endpoint.ip, &name),
            }
        }
        self.slices.insert(name, slice);
    }

    fn unlink_slice(&mut self, name: &Name) -> Option<Slice> {
        let slice = self.slices.remove(name)?;
        self.slices_by_service.remove(&slice.service, name);
        for endpoint in &slice.endpoints {
            match &endpoint.pod {
                Some(pod) => self.slices_by_pod.remove(pod, name),
                None => self.slices_by_ip.remove(&endpoint.ip, name),
            }
        }
        Some(slice)
    }

    /// The pod's policy and addresses, and those of pods that claim the same address.
    fn touch_pod(&self, name: &Name, touched: &mut Touched) {
        touched.pods.insert(name.clone());
        for ip in self.pods.get(name).iter().flat_map(|pod| &pod.ips) {
            touched.ips.insert(*ip);
            touched.pods.extend(self.pods_by_ip.of(ip).cloned());
        }
    }

    fn touch_services_of_pod(&self, name: &Name, touched: &mut Touched) {
        let ips = self.pods.get(name).into_iter().flat_map(|pod| &pod.ips);
        let by_ip = ips.flat_map(|ip| self.slices_by_ip.of(ip));
        for slice in self.slices_by_pod.of(name).chain(by_ip) {
            if let Some(slice) = self.slices.get(slice) {
                self.touch_addresses_of_service(&slice.service, touched);
            }
        }
    }

    /// The service's addresses, and the pods behind it.
    fn touch_service(&self, name: &Name, touched: &mut Touched) {
        self.touch_addresses_of_service(name, touched);
        let slices = self
            .slices_by_service
            .of(name)
            .filter_map(|slice| self.slices.get(slice));
        for endpoint in slices.flat_map(|slice| &slice.endpoints) {
            touched.ips.insert(endpoint.ip);
            touched
                .pods
                .extend(self.pods_by_ip.of(&endpoint.ip).cloned());
            if let Some(pod) = &endpoint.pod {
                self.touch_pod(pod, touched);
            }
        }
    }

    fn touch_addresses_of_service(&self, name: &Name, touched: &mut Touched) {
        if let Some(service) = self.services.get(name) {
            touched.ips.extend(&service.cluster_ips);
        }
    }
}
