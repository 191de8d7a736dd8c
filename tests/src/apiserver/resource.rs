//! What this server serves: one table of resources, built in, and those that CustomResourceDefinitions add.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

/// A kind of object and the path under which it is served.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Resource {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) plural: String,
    pub(super) singular: String,
    pub(super) kind: String,
    pub(super) list_kind: String,
    pub(super) short_names: Vec<String>,
    pub(super) categories: Vec<String>,
    pub(super) namespaced: bool,
    /// "status", "scale", and the like.
    pub(super) subresources: Vec<String>,
    /// The rest, where a CustomResourceDefinition made this resource.
    pub(super) custom: Option<Custom>,
}

/// What a CustomResourceDefinition says of one of its versions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Custom {
    /// `schema.openAPIV3Schema`.
    pub(super) schema: Value,
    /// `subresources.scale`.
    pub(super) scale: Value,
    /// `selectableFields`, as paths without the leading dot.
    pub(super) selectable: Vec<String>,
}

impl Resource {
    /// `pods`, `deployments.apps`: the name that errors and the store use.
    pub(super) fn qualified(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// `v1`, `apps/v1`.
    pub(super) fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    pub(super) fn has(&self, subresource: &str) -> bool {
        self.subresources.iter().any(|name| name == subresource)
    }

    /// Whether it is this built-in one.
    pub(super) fn is(&self, group: &str, plural: &str) -> bool {
        self.custom.is_none() && self.group == group && self.plural == plural
    }
}

/// All resources that are served now, by `(group, version, plural)`.
#[derive(Clone, Debug)]
pub(super) struct Table {
    served: BTreeMap<(String, String, String), Arc<Resource>>,
}

impl Table {
    /// The built-in resources.
    pub(super) fn built_in() -> Self {
        let mut table = Self {
            served: BTreeMap::new(),
        };
        for line in BUILT_IN
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            table.insert(parse(line));
        }
        table
    }

    pub(super) fn insert(&mut self, resource: Resource) {
        let key = (
            resource.group.clone(),
            resource.version.clone(),
            resource.plural.clone(),
        );
        self.served.insert(key, Arc::new(resource));
    }

    /// Stops serving all versions of a custom resource.
    pub(super) fn remove_custom(&mut self, group: &str, plural: &str) {
        self.served.retain(|_, resource| {
            resource.custom.is_none() || resource.group != group || resource.plural != plural
        });
    }

    pub(super) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.served.get(&key).cloned()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.served.values()
    }
}

fn parse(line: &str) -> Resource {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [version, plural, kind, scope, short, subresources] = words[..] else {
        unreachable!("the built-in table has six columns: {line}");
    };
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let list = |word: &str| match word {
        "-" => Vec::new(),
        word => word.split(',').map(str::to_owned).collect(),
    };
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        short_names: list(short),
        categories: match plural {
            "pods"
            | "services"
            | "deployments"
            | "replicasets"
            | "statefulsets"
            | "daemonsets"
            | "jobs"
            | "cronjobs"
            | "replicationcontrollers"
            | "horizontalpodautoscalers" => {
                vec!["all".to_owned()]
            }
            _ => Vec::new(),
        },
        namespaced: scope == "namespaced",
        subresources: list(subresources),
        custom: None,
    }
}

/// Version, plural, kind, scope, short names, subresources.
const BUILT_IN: &str = "
v1 bindings Binding namespaced - -
v1 configmaps ConfigMap namespaced cm -
v1 endpoints Endpoints namespaced ep -
v1 events Event namespaced ev -
v1 limitranges LimitRange namespaced limits -
v1 namespaces Namespace cluster ns status,finalize
v1 nodes Node cluster no status
v1 persistentvolumeclaims PersistentVolumeClaim namespaced pvc status
v1 persistentvolumes PersistentVolume cluster pv status
v1 pods Pod namespaced po status,portforward,log,eviction,binding,ephemeralcontainers,resize
v1 podtemplates PodTemplate namespaced - -
v1 replicationcontrollers ReplicationController namespaced rc status,scale
v1 resourcequotas ResourceQuota namespaced quota status
v1 secrets Secret namespaced - -
v1 serviceaccounts ServiceAccount namespaced sa token
v1 services Service namespaced svc status
apps/v1 controllerrevisions ControllerRevision namespaced - -
apps/v1 daemonsets DaemonSet namespaced ds status
apps/v1 deployments Deployment namespaced deploy status,scale
apps/v1 replicasets ReplicaSet namespaced rs status,scale
apps/v1 statefulsets StatefulSet namespaced sts status,scale
batch/v1 cronjobs CronJob namespaced cj status
batch/v1 jobs Job namespaced - status
autoscaling/v2 horizontalpodautoscalers HorizontalPodAutoscaler namespaced hpa status
policy/v1 poddisruptionbudgets PodDisruptionBudget namespaced pdb status
networking.k8s.io/v1 ingressclasses IngressClass cluster - -
networking.k8s.io/v1 ingresses Ingress namespaced ing status
networking.k8s.io/v1 networkpolicies NetworkPolicy namespaced netpol -
discovery.k8s.io/v1 endpointslices EndpointSlice namespaced - -
coordination.k8s.io/v1 leases Lease namespaced - -
events.k8s.io/v1 events Event namespaced ev -
scheduling.k8s.io/v1 priorityclasses PriorityClass cluster pc -
storage.k8s.io/v1 storageclasses StorageClass cluster sc -
node.k8s.io/v1 runtimeclasses RuntimeClass cluster - -
rbac.authorization.k8s.io/v1 clusterroles ClusterRole cluster - -
rbac.authorization.k8s.io/v1 clusterrolebindings ClusterRoleBinding cluster - -
rbac.authorization.k8s.io/v1 roles Role namespaced - -
rbac.authorization.k8s.io/v1 rolebindings RoleBinding namespaced - -
apiextensions.k8s.io/v1 customresourcedefinitions CustomResourceDefinition cluster crd,crds status
apiregistration.k8s.io/v1 apiservices APIService cluster - status
admissionregistration.k8s.io/v1 mutatingwebhookconfigurations MutatingWebhookConfiguration cluster - -
admissionregistration.k8s.io/v1 validatingwebhookconfigurations ValidatingWebhookConfiguration cluster - -
admissionregistration.k8s.io/v1 validatingadmissionpolicies ValidatingAdmissionPolicy cluster - status
admissionregistration.k8s.io/v1 validatingadmissionpolicybindings ValidatingAdmissionPolicyBinding cluster - -
authentication.k8s.io/v1 tokenreviews TokenReview cluster - -
authentication.k8s.io/v1 selfsubjectreviews SelfSubjectReview cluster - -
authorization.k8s.io/v1 selfsubjectaccessreviews SelfSubjectAccessReview cluster - -
authorization.k8s.io/v1 selfsubjectrulesreviews SelfSubjectRulesReview cluster - -
authorization.k8s.io/v1 subjectaccessreviews SubjectAccessReview cluster - -
";
