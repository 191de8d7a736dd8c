//! What the built-in kinds do not allow (`pkg/apis/*/validation`), as far as clients meet it.

use serde_json::{Value, json};

use crate::apiserver::{resource::Resource, status::Cause};

/// Checks an object that is to be stored, beside the one it replaces.
pub(in crate::apiserver) fn validate(
    resource: &Resource,
    new: &Value,
    old: Option<&Value>,
) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut check = Check {
        causes: &mut causes,
        new,
        old,
    };
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => check.pod(),
        ("", "services") => check.service(),
        ("", "secrets" | "configmaps") => check.immutable_data(),
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets") => check.workload(),
        ("batch", "jobs") => check.template("spec.template", &new["spec"]["template"]),
        ("discovery.k8s.io", "endpointslices") => check.endpoint_slice(),
        ("coordination.k8s.io", "leases") => check.lease(),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            check.unchanged("roleRef", "cannot change roleRef");
        }
        ("admissionregistration.k8s.io", plural) if plural.ends_with("configurations") => {
            check.webhooks();
        }
        ("apiextensions.k8s.io", _) => check.custom_resource(),
        _ => {}
    }
    causes
}

/// A pod's class by its resources.
pub(super) fn quality(pod: &Value) -> &'static str {
    let containers = ["containers", "initContainers"].into_iter();
    let containers =
        containers.flat_map(|field| pod["spec"][field].as_array().into_iter().flatten());
    let (mut some, mut all) = (false, true);
    for container in containers {
        let resources = &container["resources"];
        for resource in ["cpu", "memory"] {
            let (request, limit) = (
                &resources["requests"][resource],
                &resources["limits"][resource],
            );
            some |= !request.is_null() || !limit.is_null();
            all &= !limit.is_null() && (request.is_null() || request == limit);
        }
    }
    match (some, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

struct Check<'a> {
    causes: &'a mut Vec<Cause>,
    new: &'a Value,
    old: Option<&'a Value>,
}

impl Check<'_> {
    fn require(&mut self, path: &str, value: &Value) -> bool {
        let there = match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            _ => true,
        };
        if !there {
            self.causes.push(Cause::required(path, ""));
        }
        there
    }

    /// A field that an update may not change.
    fn unchanged(&mut self, path: &str, detail: &str) {
        let Some(old) = self.old else { return };
        let pointer = format!("/{}", path.replace('.', "/"));
        let (new, old) = (self.new.pointer(&pointer), old.pointer(&pointer));
        if new != old {
            let new = new.cloned().unwrap_or_default();
            self.causes.push(Cause::invalid(path, &new, detail));
        }
    }

    fn pod(&mut self) {
        self.pod_spec("spec", &self.new["spec"]);
        self.token_volumes();
        let Some(old) = self.old else { return };
        // Only these may change once a pod is there; gates may only go.
        let fixed = |pod: &Value| {
            let mut spec = pod["spec"].clone();
            for containers in ["containers", "initContainers"] {
                let containers = spec[containers].as_array_mut().into_iter().flatten();
                containers.for_each(|container| container["image"] = Value::Null);
            }
            for field in [
                "activeDeadlineSeconds",
                "tolerations",
                "terminationGracePeriodSeconds",
                "schedulingGates",
                "nodeName",
            ] {
                spec[field] = Value::Null;
            }
            spec
        };
        if fixed(self.new) != fixed(old) {
            self.causes.push(Cause {
                field: "spec".to_owned(),
                kind: "FieldValueForbidden",
                message: concat!(
                    "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,",
                    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` ",
                    "(only additions to existing tolerations),`spec.terminationGracePeriodSeconds` ",
                    "(allow it to be set to 1 if it was previously negative)"
                )
                .to_owned(),
            });
        }
    }

    /// A token is some account's; a template may leave that to admission, a pod may not.
    fn token_volumes(&mut self) {
        let spec = &self.new["spec"];
        if spec["serviceAccountName"]
            .as_str()
            .is_some_and(|name| !name.is_empty())
        {
            return;
        }
        for (volume, index) in spec["volumes"].as_array().into_iter().flatten().zip(0..) {
            let sources = volume["projected"]["sources"].as_array();
            for (source, place) in sources.into_iter().flatten().zip(0..) {
                if !source["serviceAccountToken"].is_null() {
                    self.causes.push(Cause {
                        field: format!(
                            "spec.volumes[{index}].projected.sources[{place}].serviceAccountToken"
                        ),
                        kind: "FieldValueForbidden",
                        message:
                            "Forbidden: must not be specified when serviceAccountName is not set"
                                .to_owned(),
                    });
                }
            }
        }
    }

    fn pod_spec(&mut self, path: &str, spec: &Value) {
        self.require(&format!("{path}.containers"), &spec["containers"]);
        let mut names: Vec<&str> = Vec::new();
        for field in ["initContainers", "containers"] {
            for (index, container) in spec[field].as_array().into_iter().flatten().enumerate() {
                let path = format!("{path}.{field}[{index}]");
                self.require(&format!("{path}.name"), &container["name"]);
                self.require(&format!("{path}.image"), &container["image"]);
                let name = container["name"].as_str().unwrap_or_default();
                if names.contains(&name) {
                    self.causes
                        .push(duplicate(&format!("{path}.name"), &container["name"]));
                }
                names.push(name);
                self.mounts(&path, container, spec);
            }
        }
        let mut volumes: Vec<&Value> = Vec::new();
        for (index, volume) in spec["volumes"].as_array().into_iter().flatten().enumerate() {
            let path = format!("{path}.volumes[{index}].name");
            self.require(&path, &volume["name"]);
            if volumes.contains(&&volume["name"]) {
                self.causes.push(duplicate(&path, &volume["name"]));
            }
            volumes.push(&volume["name"]);
        }
    }

    fn mounts(&mut self, path: &str, container: &Value, spec: &Value) {
        let volumes = spec["volumes"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        for (index, mount) in container["volumeMounts"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let path = format!("{path}.volumeMounts[{index}]");
            self.require(&format!("{path}.mountPath"), &mount["mountPath"]);
            if !volumes.iter().any(|volume| volume["name"] == mount["name"]) {
                self.causes.push(Cause {
                    field: format!("{path}.name"),
                    kind: "FieldValueNotFound",
                    message: format!("Not found: {}", mount["name"]),
                });
            }
        }
    }

    fn template(&mut self, path: &str, template: &Value) {
        self.pod_spec(&format!("{path}.spec"), &template["spec"]);
    }

    fn workload(&mut self) {
        let spec = &self.new["spec"];
        if self.require("spec.selector", &spec["selector"]) {
            let labels = &spec["template"]["metadata"]["labels"];
            for (label, value) in spec["selector"]["matchLabels"]
                .as_object()
                .into_iter()
                .flatten()
            {
                if labels[label] != *value {
                    let detail = "`selector` does not match template `labels`";
                    self.causes.push(Cause::invalid(
                        "spec.template.metadata.labels",
                        labels,
                        detail,
                    ));
                    break;
                }
            }
        }
        self.template("spec.template", &spec["template"]);
        self.unchanged("spec.selector", "field is immutable");
    }

    fn service(&mut self) {
        let spec = &self.new["spec"];
        let external = spec["type"] == "ExternalName";
        let headless = spec["clusterIP"] == "None";
        if external {
            self.require("spec.externalName", &spec["externalName"]);
        } else if !headless {
            self.require("spec.ports", &spec["ports"]);
        }
        let ports = spec["ports"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let mut seen: Vec<&Value> = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let path = format!("spec.ports[{index}]");
            if !port["port"]
                .as_i64()
                .is_some_and(|port| (1..=65535).contains(&port))
            {
                let detail = "must be between 1 and 65535, inclusive";
                let value = match &port["port"] {
                    Value::Null => json!(0),
                    value => value.clone(),
                };
                self.causes
                    .push(Cause::invalid(&format!("{path}.port"), &value, detail));
            }
            if ports.len() > 1 {
                let path = format!("{path}.name");
                if self.require(&path, &port["name"]) && seen.contains(&&port["name"]) {
                    self.causes.push(duplicate(&path, &port["name"]));
                }
                seen.push(&port["name"]);
            }
        }
        if self
            .old
            .is_some_and(|old| old["spec"]["type"] != "ExternalName")
            && !external
        {
            let path = "/spec/clusterIPs";
            let (new, old) = (
                self.new.pointer(path),
                self.old.and_then(|old| old.pointer(path)),
            );
            if let (Some(new), Some(old)) = (new, old)
                && new[0] != old[0]
            {
                let detail = "may not change once set";
                self.causes
                    .push(Cause::invalid("spec.clusterIPs[0]", new, detail));
            }
        }
    }

    fn immutable_data(&mut self) {
        if self.old.is_some_and(|old| old["immutable"] == true) {
            let detail = "field is immutable when `immutable` is set";
            let old = self.old.unwrap_or(&Value::Null);
            for field in ["immutable", "data", "binaryData"] {
                if self.new[field] != old[field] {
                    self.causes.push(Cause {
                        field: field.to_owned(),
                        kind: "FieldValueForbidden",
                        message: format!("Forbidden: {detail}"),
                    });
                }
            }
        }
        self.unchanged("type", "field is immutable");
    }

    fn endpoint_slice(&mut self) {
        let types = ["FQDN", "IPv4", "IPv6"];
        let kind = &self.new["addressType"];
        if self.require("addressType", kind) && !types.iter().any(|known| kind == known) {
            self.causes
                .push(Cause::unsupported("addressType", kind, &types));
        }
        for (index, endpoint) in self.new["endpoints"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let path = format!("endpoints[{index}].addresses");
            if endpoint["addresses"].as_array().is_none_or(Vec::is_empty) {
                let detail = "must contain at least 1 address";
                self.causes.push(Cause::required(&path, detail));
            }
        }
        self.unchanged("addressType", "field is immutable");
    }

    fn lease(&mut self) {
        let spec = &self.new["spec"];
        for field in ["leaseDurationSeconds", "leaseTransitions"] {
            let least = i64::from(field == "leaseDurationSeconds");
            if spec[field].as_i64().is_some_and(|value| value < least) {
                let detail = [
                    "must be greater than or equal to 0",
                    "must be greater than 0",
                ];
                let detail = detail[usize::from(least == 1)];
                self.causes.push(Cause::invalid(
                    &format!("spec.{field}"),
                    &spec[field],
                    detail,
                ));
            }
        }
        if spec["holderIdentity"] == "" {
            self.causes
                .push(Cause::required("spec.holderIdentity", "must not be empty"));
        }
    }

    fn webhooks(&mut self) {
        for (index, hook) in self.new["webhooks"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let path = format!("webhooks[{index}]");
            let name = hook["name"].as_str().unwrap_or_default();
            if name.split('.').filter(|part| !part.is_empty()).count() < 3 {
                let detail = "should be a domain with at least three segments separated by dots";
                self.causes.push(Cause::invalid(
                    &format!("{path}.name"),
                    &name.into(),
                    detail,
                ));
            }
            self.require(&format!("{path}.sideEffects"), &hook["sideEffects"]);
            self.require(
                &format!("{path}.admissionReviewVersions"),
                &hook["admissionReviewVersions"],
            );
            let config = &hook["clientConfig"];
            if config["url"].is_null() == config["service"].is_null() {
                let detail = "exactly one of url or service is required";
                self.causes
                    .push(Cause::required(&format!("{path}.clientConfig"), detail));
            }
            if let Some(url) = config["url"].as_str()
                && !url.starts_with("https://")
            {
                let detail =
                    "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                self.causes.push(Cause::invalid(
                    &format!("{path}.clientConfig.url"),
                    &url.into(),
                    detail,
                ));
            }
            let seconds = hook["timeoutSeconds"].as_i64().unwrap_or(10);
            if !(1..=30).contains(&seconds) {
                let detail = "the timeout value must be between 1 and 30 seconds";
                self.causes.push(Cause::invalid(
                    &format!("{path}.timeoutSeconds"),
                    &seconds.into(),
                    detail,
                ));
            }
        }
    }

    fn custom_resource(&mut self) {
        let spec = &self.new["spec"];
        for field in ["group", "versions", "scope"] {
            self.require(&format!("spec.{field}"), &spec[field]);
        }
        for field in ["plural", "kind"] {
            self.require(&format!("spec.names.{field}"), &spec["names"][field]);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let wanted = format!(
            "{}.{}",
            text(&spec["names"]["plural"]),
            text(&spec["group"])
        );
        if self.new["metadata"]["name"] != wanted.as_str() {
            let detail = "must be spec.names.plural+\".\"+spec.group";
            self.causes.push(Cause::invalid(
                "metadata.name",
                &self.new["metadata"]["name"],
                detail,
            ));
        }
        let group = text(&spec["group"]);
        let protected = group.ends_with(".k8s.io") || group.ends_with(".kubernetes.io");
        let approval = &self.new["metadata"]["annotations"]["api-approved.kubernetes.io"];
        if protected && approval.is_null() {
            self.causes.push(Cause::required(
                "metadata.annotations[api-approved.kubernetes.io]",
                "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
            ));
        }
        let versions = spec["versions"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let stored = versions
            .iter()
            .filter(|version| version["storage"] == true)
            .count();
        if !versions.is_empty() && stored != 1 {
            let detail = "must have exactly one version marked as storage version";
            self.causes
                .push(Cause::invalid("spec.versions", &spec["versions"], detail));
        }
        for (index, version) in versions.iter().enumerate() {
            let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
            if version["schema"]["openAPIV3Schema"].is_null() {
                self.causes
                    .push(Cause::required(&path, "schemas are required"));
            }
        }
    }
}

fn duplicate(path: &str, value: &Value) -> Cause {
    Cause {
        field: path.to_owned(),
        kind: "FieldValueDuplicate",
        message: format!("Duplicate value: {value}"),
    }
}
