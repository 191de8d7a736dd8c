use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use mesh_controller::inject::Settings;
use serde_json::json;

use super::*;
use crate::install::{Options, object::Reference};

/// The combinations that the manifests differ by.
fn variants() -> [(&'static str, Options); 3] {
    let set = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    [
        ("default", Options::default()),
        (
            "ha",
            Options {
                ha: Some(true),
                ..Options::default()
            },
        ),
        (
            "options",
            Options {
                ha: None,
                registry: Some("registry.example.com:5000/platform/mesh".into()),
                version: Some("1.2.3-rc.1".into()),
                trust_domain: Some("prod.example.com".into()),
                ca_secret: Some("own-root".into()),
                set: set(&[
                    ("clusterDomain", "k8s.example"),
                    ("controller.cpu.limit", "2"),
                    ("controller.logLevel", "debug"),
                    ("controller.memory.limit", ""),
                    ("proxy.cpu.limit", "1"),
                    ("proxy.cpu.request", "50m"),
                    ("proxy.memory.limit", "256Mi"),
                    ("proxy.nativeSidecar", "false"),
                ]),
            },
        ),
    ]
}

fn rendered(options: &Options) -> (String, Vec<Value>) {
    let text = render(&options.values().unwrap()).unwrap();
    let objects = objects(&text).unwrap();
    (text, objects)
}

#[test]
fn golden() {
    for (name, options) in variants() {
        insta::assert_snapshot!(name, rendered(&options).0);
    }
}

#[test]
fn the_order_is_one_in_which_each_object_can_be_applied() {
    let (_, objects) = rendered(&variants()[1].1);
    let kinds: Vec<_> = objects
        .iter()
        .map(|object| object["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "Namespace",
            "ServiceAccount",
            "ClusterRole",
            "ClusterRoleBinding",
            "Role",
            "RoleBinding",
            "ConfigMap",
            "Service",
            "Service",
            "Deployment",
            "PodDisruptionBudget",
            "MutatingWebhookConfiguration",
        ]
    );
}

#[test]
fn every_object_is_of_the_schema_and_is_labelled() {
    for (name, options) in variants() {
        for object in rendered(&options).1 {
            let reference = Reference::of(&object).unwrap();
            assert_eq!(
                reference.namespace.as_deref(),
                object["metadata"]["namespace"].as_str(),
                "{name}: {reference}"
            );
            let labels = &object["metadata"]["labels"];
            assert_eq!(labels["app.kubernetes.io/part-of"], "mesh", "{reference}");
            assert!(labels["mesh.internal/component"].is_string(), "{reference}");
            assert_eq!(through_types(&object), object, "{name}: {reference}");
        }
    }
}

/// The object, decoded into Kubernetes' type and encoded again: a field that the type does not have is lost
/// on the way, and one of another type is an error.
fn through_types(object: &Value) -> Value {
    use k8s_openapi::api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        apps::v1::Deployment,
        core::v1::{ConfigMap, Namespace, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    };
    fn through<T: serde::Serialize + serde::de::DeserializeOwned>(object: &Value) -> Value {
        let typed: T = serde_json::from_value(object.clone()).unwrap();
        serde_json::to_value(typed).unwrap()
    }
    match object["kind"].as_str().unwrap() {
        "Namespace" => through::<Namespace>(object),
        "ServiceAccount" => through::<ServiceAccount>(object),
        "ClusterRole" => through::<ClusterRole>(object),
        "ClusterRoleBinding" => through::<ClusterRoleBinding>(object),
        "Role" => through::<Role>(object),
        "RoleBinding" => through::<RoleBinding>(object),
        "ConfigMap" => through::<ConfigMap>(object),
        "Service" => through::<Service>(object),
        "Deployment" => through::<Deployment>(object),
        "PodDisruptionBudget" => through::<PodDisruptionBudget>(object),
        "MutatingWebhookConfiguration" => through::<MutatingWebhookConfiguration>(object),
        other => panic!("no type for {other}"),
    }
}

#[test]
fn the_injector_takes_its_settings() {
    let settings = |options: &Options| -> Settings {
        let (_, objects) = rendered(options);
        let config = objects.iter().find(|object| object["kind"] == "ConfigMap");
        serde_json::from_str(config.unwrap()["data"]["inject.json"].as_str().unwrap()).unwrap()
    };
    let [(_, default), _, (_, options)] = variants();
    assert_eq!(settings(&default), Settings::default());

    let settings = settings(&options);
    assert_eq!(
        settings.proxy_image,
        "registry.example.com:5000/platform/mesh/mesh-proxy:1.2.3-rc.1"
    );
    assert_eq!(settings.trust_domain, "prod.example.com");
    assert_eq!(settings.cluster_domain, "k8s.example");
    assert_eq!(settings.resources.cpu_request, "50m");
    assert_eq!(settings.resources.cpu_limit.as_deref(), Some("1"));
    assert_eq!(settings.resources.memory_limit.as_deref(), Some("256Mi"));
    assert!(!settings.native_sidecar);
}

#[test]
fn the_controller_takes_its_arguments() {
    #[derive(clap::Parser)]
    struct Program {
        #[command(subcommand)]
        command: mesh_controller::Command,
    }
    for (name, options) in variants() {
        let (_, objects) = rendered(&options);
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment");
        let container = &deployment.unwrap()["spec"]["template"]["spec"]["containers"][0];
        let arguments = container["args"].as_array().unwrap().iter();
        let arguments = ["mesh-controller"]
            .into_iter()
            .chain(arguments.map(|argument| argument.as_str().unwrap()));
        let program = <Program as clap::Parser>::try_parse_from(arguments);
        let program = program.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mesh_controller::Command::Run(run) = program.command;
        assert_eq!(run.source, mesh_controller::SourceKind::Kubernetes);
        assert_eq!(
            run.trust_domain,
            options.trust_domain.as_deref().unwrap_or("cluster.local")
        );
        assert_eq!(run.ca_secret, options.ca_secret, "{name}");
    }
}

#[test]
fn the_versions_of_the_chart_are_this_programs() {
    let version = env!("CARGO_PKG_VERSION");
    let chart: Value =
        serde_saphyr::from_str(include_str!("../../../../install/chart/Chart.yaml")).unwrap();
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (&json!(version), &json!(version))
    );
    assert_eq!(defaults().unwrap()["version"], version);
}

#[test]
fn no_template_is_forgotten() {
    let mut found: Vec<_> = fs::read_dir(folder().join("templates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut known = TEMPLATES.map(|(name, _)| name.to_owned()).to_vec();
    found.sort();
    known.sort();
    assert_eq!(found, known);
}

/// Helm itself, where it is installed. Elsewhere nothing is checked here: that the templates keep to what
/// `template.rs` knows is checked by every other test.
#[test]
fn helm_makes_the_same_objects() {
    if Command::new("helm").arg("version").output().is_err() {
        // Not by a macro, of which only failed tests' output is shown.
        let _ = writeln!(std::io::stdout(), "skipped: helm is not installed");
        return;
    }
    for (name, options) in variants() {
        let values = options.values().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), values.to_string()).unwrap();
        let output = Command::new("helm")
            .args(["template", "mesh"])
            .arg(folder())
            .arg("--values")
            .arg(file.path())
            // Helm looks for its settings in the home folder.
            .env("HOME", env::temp_dir())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut theirs = objects(&String::from_utf8(output.stdout).unwrap()).unwrap();
        let mut ours = rendered(&options).1;
        // Helm has an order of its own, by kind.
        let key = |object: &Value| Reference::of(object).unwrap().to_string();
        theirs.sort_by_key(key);
        ours.sort_by_key(key);
        assert_eq!(theirs, ours, "{name}");
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../install/chart")
}
