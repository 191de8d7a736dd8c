//! How lists and maps of an object are merged: as one value, by key, or member by member.
//!
//! For the built-in kinds this is the typed schema of `client-go/applyconfigurations/internal`, said as rules over
//! field names, which are unambiguous enough among the kinds that are served; for custom resources it is what their own schema
//! says (`x-kubernetes-list-type` and the like).

use serde_json::Value;

use super::resource::Resource;

/// How the items of a list are told apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum List {
    /// They are not: the list is one value.
    Atomic,
    /// By their value.
    Set,
    /// By these fields.
    Map(Vec<String>),
}

/// A place in an object.
#[derive(Clone, Debug)]
pub(super) enum Schema<'a> {
    BuiltIn {
        kind: &'a str,
        field: String,
        parent: String,
    },
    Custom(&'a Value),
}

impl<'a> Schema<'a> {
    /// The root of a kind's objects.
    pub(super) fn of(resource: &'a Resource) -> Self {
        match &resource.custom {
            Some(custom) => Self::Custom(&custom.schema),
            None => Self::BuiltIn {
                kind: &resource.kind,
                field: String::new(),
                parent: String::new(),
            },
        }
    }

    /// A field of this map.
    pub(super) fn field(&self, name: &str) -> Self {
        match self {
            Self::BuiltIn { kind, field, .. } => Self::BuiltIn {
                kind,
                field: name.to_owned(),
                parent: field.clone(),
            },
            Self::Custom(schema) => match &schema["properties"][name] {
                // The schema of a custom resource says nothing of `metadata`.
                found if name == "metadata" && found.get("properties").is_none() => Self::BuiltIn {
                    kind: "",
                    field: name.to_owned(),
                    parent: String::new(),
                },
                Value::Null => Self::Custom(&schema["additionalProperties"]),
                found => Self::Custom(found),
            },
        }
    }

    /// An item of this list.
    pub(super) fn item(&self) -> Self {
        match self {
            Self::BuiltIn { .. } => self.clone(),
            Self::Custom(schema) => Self::Custom(&schema["items"]),
        }
    }

    /// How the items of this list are told apart.
    pub(super) fn list(&self) -> List {
        match self {
            Self::BuiltIn {
                kind,
                field,
                parent,
            } => built_in_list(kind, parent, field),
            Self::Custom(schema) => match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => List::Set,
                Some("map") => {
                    let keys = schema["x-kubernetes-list-map-keys"].as_array();
                    let keys = keys.into_iter().flatten().filter_map(Value::as_str);
                    List::Map(keys.map(str::to_owned).collect())
                }
                _ => List::Atomic,
            },
        }
    }

    /// Whether this map is one value.
    pub(super) fn is_atomic(&self) -> bool {
        match self {
            Self::BuiltIn { field, parent, .. } => match field.as_str() {
                "selector"
                | "labelSelector"
                | "namespaceSelector"
                | "objectSelector"
                | "podSelector"
                | "nodeSelector"
                | "configMapKeyRef"
                | "fieldRef"
                | "fileKeyRef"
                | "resourceFieldRef"
                | "secretKeyRef"
                | "secretRef"
                | "nodePublishSecretRef"
                | "dataSource"
                | "involvedObject"
                | "related"
                | "regarding"
                | "roleRef"
                | "imagePullSecrets"
                | "ownerReferences" => true,
                "requiredDuringSchedulingIgnoredDuringExecution" => parent == "nodeAffinity",
                "resource" => parent == "backend",
                "port" => parent == "service",
                _ => false,
            },
            Self::Custom(schema) => schema["x-kubernetes-map-type"] == "atomic",
        }
    }

    /// Whether the keys of this map are free, so that each is a member of its own beside its content.
    pub(super) fn is_free(&self) -> bool {
        match self {
            Self::BuiltIn { field, .. } => matches!(
                field.as_str(),
                "annotations"
                    | "labels"
                    | "data"
                    | "binaryData"
                    | "stringData"
                    | "limits"
                    | "requests"
                    | "overhead"
                    | "volumeAttributes"
                    | "options"
                    | "allocatable"
                    | "capacity"
                    | "disruptedPods"
            ),
            Self::Custom(schema) => schema.get("properties").is_none(),
        }
    }
}

fn built_in_list(kind: &str, parent: &str, field: &str) -> List {
    let map = |keys: &[&str]| List::Map(keys.iter().map(|&key| key.to_owned()).collect());
    match (parent, field) {
        ("metadata", "ownerReferences") => map(&["uid"]),
        ("metadata", "finalizers") => List::Set,
        ("spec", "podCIDRs") => List::Set,
        ("", "webhooks") | (_, "matchConditions") => map(&["name"]),
        ("spec", "containers" | "initContainers" | "ephemeralContainers" | "volumes") => {
            map(&["name"])
        }
        ("spec", "imagePullSecrets" | "resourceClaims" | "schedulingGates") => map(&["name"]),
        ("spec", "hostAliases") => map(&["ip"]),
        ("spec", "topologySpreadConstraints") => map(&["topologyKey", "whenUnsatisfiable"]),
        ("containers" | "initContainers" | "ephemeralContainers", field) => match field {
            "env" => map(&["name"]),
            "ports" => map(&["containerPort", "protocol"]),
            "volumeMounts" => map(&["mountPath"]),
            "volumeDevices" => map(&["devicePath"]),
            _ => List::Atomic,
        },
        ("resources", "claims") => map(&["name"]),
        ("spec", "ports") if kind == "Service" => map(&["port", "protocol"]),
        ("", "secrets") if kind == "ServiceAccount" => map(&["name"]),
        ("status", "conditions") if kind != "Job" => map(&["type"]),
        ("status", "addresses") if kind == "Node" => map(&["type"]),
        ("status", "podIPs") => map(&["ip"]),
        ("status", "resourceClaimStatuses") => map(&["name"]),
        _ => List::Atomic,
    }
}
