//! What is decoded of the objects in a watch: the fields that somebody reads. All others are skipped byte for
//! byte: a pod's `managedFields`, environment, volumes and conditions are most of it.
//!
//! Services and EndpointSlices have little that is not read and are decoded whole.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use k8s_openapi::{
    api::{
        apps::v1::ReplicaSet,
        batch::v1::Job,
        core::v1::{Container, ContainerPort, Namespace, Pod, PodIP, PodSpec, PodStatus, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
};
use kube::Resource;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor},
};

use crate::source::{Kind, Object};

/// Annotations of others are skipped: `last-applied-configuration` alone can be as large as all the rest.
const ANNOTATION_PREFIX: &str = "mesh.internal/";

/// A type that a watch decodes.
pub(super) trait Watched:
    Resource<DynamicType = ()> + DeserializeOwned + Clone + fmt::Debug + Send + 'static
{
    /// The type as the API server knows it.
    type Of: Resource<DynamicType = ()> + 'static;
    const KIND: Kind;

    fn into_object(self) -> Object;
}

/// An object of kind `K` of which only the metadata is asked for.
#[derive(Deserialize)]
#[serde(bound = "")]
pub(super) struct MetadataOf<K> {
    #[serde(deserialize_with = "pruned")]
    metadata: ObjectMeta,
    #[serde(skip)]
    of: PhantomData<fn() -> K>,
}

/// A pod, pruned.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct SlimPod {
    #[serde(deserialize_with = "pruned")]
    metadata: ObjectMeta,
    spec: SlimPodSpec,
    #[serde(default)]
    status: SlimPodStatus,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimPodSpec {
    containers: Vec<SlimContainer>,
    #[serde(default)]
    init_containers: Vec<SlimContainer>,
    host_network: Option<bool>,
    node_name: Option<String>,
    service_account_name: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimContainer {
    name: String,
    ports: Option<Vec<ContainerPort>>,
    restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimPodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIP>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimMeta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(default, deserialize_with = "annotations")]
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

impl Watched for MetadataOf<Namespace> {
    type Of = Namespace;
    const KIND: Kind = Kind::Namespace;

    fn into_object(self) -> Object {
        Object::Namespace(Namespace {
            metadata: self.metadata,
            ..Namespace::default()
        })
    }
}

impl Watched for MetadataOf<ReplicaSet> {
    type Of = ReplicaSet;
    const KIND: Kind = Kind::ReplicaSet;

    fn into_object(self) -> Object {
        Object::ReplicaSet(self.metadata)
    }
}

impl Watched for MetadataOf<Job> {
    type Of = Job;
    const KIND: Kind = Kind::Job;

    fn into_object(self) -> Object {
        Object::Job(self.metadata)
    }
}

impl Watched for SlimPod {
    type Of = Pod;
    const KIND: Kind = Kind::Pod;

    fn into_object(self) -> Object {
        let containers = |slim: Vec<SlimContainer>| slim.into_iter().map(Container::from).collect();
        Object::Pod(Pod {
            metadata: self.metadata,
            spec: Some(PodSpec {
                containers: containers(self.spec.containers),
                init_containers: Some(containers(self.spec.init_containers)),
                host_network: self.spec.host_network,
                node_name: self.spec.node_name,
                service_account_name: self.spec.service_account_name,
                ..PodSpec::default()
            }),
            status: Some(PodStatus {
                phase: self.status.phase,
                pod_ip: self.status.pod_ip,
                pod_ips: self.status.pod_ips,
                ..PodStatus::default()
            }),
        })
    }
}

impl Watched for Service {
    type Of = Self;
    const KIND: Kind = Kind::Service;

    fn into_object(self) -> Object {
        Object::Service(self)
    }
}

impl Watched for EndpointSlice {
    type Of = Self;
    const KIND: Kind = Kind::EndpointSlice;

    fn into_object(self) -> Object {
        Object::EndpointSlice(self)
    }
}

impl From<SlimContainer> for Container {
    fn from(slim: SlimContainer) -> Self {
        Self {
            name: slim.name,
            ports: slim.ports,
            restart_policy: slim.restart_policy,
            ..Self::default()
        }
    }
}

impl From<SlimMeta> for ObjectMeta {
    fn from(slim: SlimMeta) -> Self {
        Self {
            name: slim.name,
            namespace: slim.namespace,
            uid: slim.uid,
            resource_version: slim.resource_version,
            creation_timestamp: slim.creation_timestamp,
            deletion_timestamp: slim.deletion_timestamp,
            labels: slim.labels,
            annotations: slim.annotations,
            owner_references: slim.owner_references,
            ..Self::default()
        }
    }
}

// Not derived: that would ask the same of K.
impl<K> Clone for MetadataOf<K> {
    fn clone(&self) -> Self {
        Self {
            metadata: self.metadata.clone(),
            of: PhantomData,
        }
    }
}

impl<K> fmt::Debug for MetadataOf<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.metadata.fmt(f)
    }
}

/// Where the API server has a type that is decoded as another.
macro_rules! resource_as {
    ($of:ty, $metadata_only:literal) => {
        type DynamicType = ();
        type Scope = <$of as Resource>::Scope;

        fn kind((): &()) -> std::borrow::Cow<'_, str> {
            <$of>::kind(&())
        }

        fn group((): &()) -> std::borrow::Cow<'_, str> {
            <$of>::group(&())
        }

        fn version((): &()) -> std::borrow::Cow<'_, str> {
            <$of>::version(&())
        }

        fn plural((): &()) -> std::borrow::Cow<'_, str> {
            <$of>::plural(&())
        }

        fn metadata_api() -> bool {
            $metadata_only
        }

        fn meta(&self) -> &ObjectMeta {
            &self.metadata
        }

        fn meta_mut(&mut self) -> &mut ObjectMeta {
            &mut self.metadata
        }
    };
}

impl<K: Resource<DynamicType = ()>> Resource for MetadataOf<K> {
    resource_as!(K, true);
}

impl Resource for SlimPod {
    resource_as!(Pod, false);
}

fn pruned<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    SlimMeta::deserialize(deserializer).map(ObjectMeta::from)
}

fn annotations<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    deserializer.deserialize_option(OurAnnotations)
}

/// Keeps the annotations of the mesh.
struct OurAnnotations;

impl<'de> Visitor<'de> for OurAnnotations {
    type Value = Option<BTreeMap<String, String>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("annotations")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut kept = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name.starts_with(ANNOTATION_PREFIX) {
                kept.insert(name, map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok((!kept.is_empty()).then_some(kept))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_what_the_index_reads_of_it() {
        let json = json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {
                "name": "web-1", "namespace": "shop", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "2026-11-23T03:00:00Z", "labels": {"app": "web"},
                "annotations": {"mesh.internal/proxy": "true", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d", "uid": "r", "controller": true}],
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
            },
            "spec": {
                "serviceAccountName": "web", "nodeName": "n1", "volumes": [{"name": "v", "unheardOf": {}}],
                "containers": [{"name": "web", "image": "i", "env": [{"name": "A", "value": "b"}], "ports": [{"containerPort": 8080}]}],
                "initContainers": [{"name": "mesh-proxy", "image": "i", "restartPolicy": "Always"}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready"}]},
        });
        let whole: Pod = serde_json::from_value(json.clone()).unwrap();
        let slim: SlimPod = serde_json::from_value(json).unwrap();
        let Object::Pod(pod) = slim.into_object() else {
            panic!("not a pod")
        };
        assert_eq!(
            crate::index::Pod::from(&pod),
            crate::index::Pod::from(&whole)
        );
        assert_eq!(pod.metadata.managed_fields, None);
        assert_eq!(pod.metadata.annotations.unwrap().len(), 1);
    }

    #[test]
    fn what_is_absent_or_null_is_absent() {
        let slim = json!({
            "metadata": {"name": "a", "annotations": null, "labels": null},
            "spec": {"containers": []},
        });
        let slim: SlimPod = serde_json::from_value(slim).unwrap();
        assert_eq!(slim.meta().annotations, None);
        let meta: MetadataOf<Job> =
            serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        assert_eq!(
            MetadataOf::<Job>::url_path(&(), None),
            "/apis/batch/v1/jobs"
        );
        assert_eq!(meta.into_object().key().kind, Kind::Job);
    }
}
