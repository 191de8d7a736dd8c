//! What of a manifest is honoured on one machine, and what is said of the rest.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use mesh_tests::{Mesh, Options, binary, figure, namespaces_possible, path, skip};
use serde_json::{Value, json};

use crate::testapp;

/// A Deployment of one pod with one container "app".
fn deployment(name: &str, container: &Value, volumes: &Value) -> Value {
    let mut container = container.clone();
    container["name"] = "app".into();
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container], "volumes": volumes},
            },
        },
    })
}

fn yaml(documents: &[Value]) -> String {
    documents
        .iter()
        .map(|document| format!("---\n{document:#}\n"))
        .collect()
}

/// What a file holds once it holds `lines` lines.
fn lines(file: &Path, lines: usize) -> Vec<String> {
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        if text.lines().count() >= lines || Instant::now() > end {
            return text.lines().map(str::to_owned).collect();
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn volumes_show_what_is_asked_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    for name in ["items", "all", "cache"] {
        fs::create_dir(at(name)).expect("a place for a volume");
    }
    fs::write(at("file"), "of the host").expect("a place for a file");
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf"},
        "data": {"a.conf": "one", "b.conf": "two"},
    });
    let volumes = json!([
        {"name": "items", "configMap": {"name": "conf", "items": [{"key": "a.conf", "path": "sub/x.conf", "mode": 256}]}},
        {"name": "all", "configMap": {"name": "conf"}},
        {"name": "missing", "secret": {"secretName": "nowhere", "optional": true}},
        {"name": "scratch", "emptyDir": {}},
    ]);
    let container = json!({
        "command": ["sleep", "100000"],
        "volumeMounts": [
            {"name": "items", "mountPath": at("items")},
            {"name": "all", "mountPath": at("all")},
            {"name": "all", "mountPath": at("file"), "subPath": "b.conf"},
            {"name": "scratch", "mountPath": at("cache"), "subPath": "deep/cache"},
        ],
    });
    // One pod on the one node: what a cluster of one node would run.
    let mut agent = deployment(
        "agent",
        &json!({"command": ["sleep", "100000"]}),
        &json!([]),
    );
    agent["kind"] = "DaemonSet".into();
    agent["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"});
    let manifests = yaml(&[config, deployment("files", &container, &volumes), agent]);
    let Some(mesh) = Mesh::up_with("volumes", &manifests, &Options::default()) else {
        return;
    };
    let pod = mesh.pod("files");
    let sh = |script: &str| mesh.exec(&pod, ["sh", "-c", script]).good();
    assert_eq!(sh(&format!("cat {}", at("items/sub/x.conf"))), "one");
    assert_eq!(
        sh(&format!("stat -c %a {}", at("items/sub/x.conf"))),
        "400\n"
    );
    assert_eq!(sh(&format!("ls {}", at("items"))), "sub\n");
    assert_eq!(sh(&format!("ls {}", at("all"))), "a.conf\nb.conf\n");
    assert_eq!(sh(&format!("cat {}", at("file"))), "two");
    sh(&format!("echo kept > {}/x", at("cache")));
    assert_eq!(sh(&format!("cat {}/x", at("cache"))), "kept\n");
    assert_eq!(fs::read_dir(at("cache")).expect("the host's").count(), 0);
    assert_eq!(
        fs::read_to_string(at("file")).expect("the host's"),
        "of the host"
    );

    assert_eq!(mesh.pods("agent").len(), 1);
    let output = mesh.cli(&["local", "scale", "ds/agent", "3"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("only Deployments and StatefulSets"),
        "{error}"
    );
    assert_eq!(mesh.list().warnings, [""; 0]);
}

#[test]
fn probes_and_hooks_of_every_kind() {
    let Some(openssl) = binary::find("openssl") else {
        return skip("probes and hooks", "openssl is not installed");
    };
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let made = rcgen::generate_simple_self_signed(["app".to_owned()]).expect("a certificate");
    fs::write(at("cert"), made.cert.pem()).expect("the certificate");
    fs::write(at("key"), made.signing_key.serialize_pem()).expect("the key");
    fs::create_dir(at("executed")).expect("a folder");

    let grpc = json!({
        "command": [testapp(), "serve", "--grpc", "9090", "--http", "8080", "--executed", at("executed")],
        "readinessProbe": {"grpc": {"port": 9090, "service": "mesh.testapp.Echo"}, "periodSeconds": 1},
        "livenessProbe": {"grpc": {"port": 9090}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"httpGet": {
            "path": "/once", "port": 8080, "httpHeaders": [{"name": "x-request-id", "value": "hook"}],
        }}},
    });
    let tls = json!({
        "command": [
            openssl, "s_server", "-quiet", "-www", "-accept", "8443", "-cert", at("cert"), "-key", at("key"),
        ],
        "startupProbe": {"httpGet": {"scheme": "HTTPS", "port": 8443}, "periodSeconds": 1, "failureThreshold": 30},
        "readinessProbe": {"httpGet": {"scheme": "HTTPS", "port": 8443}, "periodSeconds": 1},
    });
    let words = at("words");
    let slow = json!({
        "command": ["sh", "-c", format!("trap 'echo ended >> {words}; exit 0' TERM; while :; do sleep 0.1; done")],
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", format!("sleep 0.5; echo hook >> {words}")]}}},
    });
    let none = json!([]);
    let manifests = yaml(&[
        deployment("grpc", &grpc, &none),
        deployment("tls", &tls, &none),
        deployment("slow", &slow, &none),
    ]);
    let Some(mesh) = Mesh::up_with("probes and hooks", &manifests, &Options::default()) else {
        return;
    };
    assert_eq!(mesh.list().warnings, [""; 0]);
    let pod = mesh.pods("grpc").remove(0);
    mesh.delete(&pod, 10);
    let executed = folder.path().join("executed").join(&pod.name);
    assert_eq!(lines(&executed, 1), ["hook"]);
    mesh.delete(&mesh.pods("slow")[0], 10);
    assert_eq!(lines(Path::new(&words), 2), ["hook", "ended"]);

    // A probe whose answer is no says so.
    let unknown = manifests.replace("mesh.testapp.Echo", "mesh.testapp.Nothing");
    fs::write(mesh.manifests().join("apps.yaml"), unknown).expect("changed manifests");
    mesh.wait_until("a reason", Duration::from_secs(20), |list| {
        let reason = |pod: &mesh_api::local::Pod| pod.reason.contains("is not served here");
        list.pods.iter().any(reason)
    });
    let pods = mesh.list().pods;
    let waiting = pods
        .iter()
        .find(|pod| !pod.ready && pod.phase != "Terminating");
    figure!(
        "{}: {}",
        path(waiting.expect("a pod")),
        waiting.expect("a pod").reason
    );
}

#[test]
fn names_resolve_over_tcp() {
    let app = |name: &str, inject: &str| {
        let mut app = deployment(name, &json!({"command": ["sleep", "100000"]}), &json!([]));
        app["spec"]["template"]["metadata"]["labels"]["mesh.internal/inject"] = inject.into();
        app
    };
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "meshed"}, "ports": [{"port": 80}]},
    });
    let manifests = yaml(&[app("meshed", "enabled"), app("plain", "disabled"), service]);
    let Some(mesh) = Mesh::up_with("DNS over TCP", &manifests, &Options::default()) else {
        return;
    };
    for workload in ["meshed", "plain"] {
        let pod = mesh.pod(workload);
        // resolv.conf(5): use-vc makes glibc ask over TCP only.
        let script = "opens() { awk '/^Tcp: [0-9]/ {print $6}' /proc/self/net/snmp; }\n\
             a=$(opens); RES_OPTIONS=use-vc getent ahostsv4 web; echo opened $(($(opens) - a))";
        let output = mesh.exec(&pod, ["sh", "-c", script]).good();
        assert!(output.contains("10.96."), "{workload}: {output}");
        let opened = output.lines().find_map(|line| line.strip_prefix("opened "));
        let opened: u32 = opened.and_then(|n| n.parse().ok()).expect("a count");
        figure!("{workload}: {opened} TCP connections");
        assert!(opened > 0, "{workload} did not ask over TCP: {output}");
    }
}

#[test]
fn mistakes_are_sentences_and_leave_nothing() {
    const TEST: &str = "mistakes in manifests";
    if let Err(why) = namespaces_possible() {
        return skip(TEST, &why);
    }
    println!("{TEST}:");
    let pod = |container: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [container]}});
    let good = pod(json!({"name": "a", "command": ["sleep", "100000"]}));
    let ends = json!({"name": "a", "command": ["sh", "-c", "echo I am not well >&2; exit 3"]});
    let cases = [
        (
            "empty",
            String::new(),
            "nothing runs: there is no Deployment",
        ),
        (
            "bad YAML",
            "kind: Pod\n  a: [\n".to_owned(),
            "is not valid YAML",
        ),
        (
            "no manifest",
            "hello\n".to_owned(),
            "is it a Kubernetes manifest?",
        ),
        (
            "an unknown kind",
            yaml(&[json!({"kind": "Widget", "metadata": {"name": "w"}})]),
            "widget/w is ignored",
        ),
        (
            "two of a name",
            yaml(&[good.clone(), good]),
            "pod/a is there twice",
        ),
        (
            "port 0",
            yaml(&[pod(
                json!({"name": "a", "command": ["sleep", "9"], "ports": [{"containerPort": 0}]}),
            )]),
            "0 is not a port",
        ),
        (
            "no such command",
            yaml(&[pod(json!({"name": "a", "command": ["/no/such/program"]}))]),
            "the command must exist on this machine",
        ),
        (
            "an app that ends at once",
            yaml(&[pod(ends)]),
            "a exited with 3: I am not well",
        ),
    ];
    let name = format!("mistakes-{}", std::process::id());
    for (what, manifest, expected) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("a.yaml"), manifest).expect("a manifest");
        let output = Command::new(binary::mesh())
            .args(["up", "--detach", "--wait", "2s", "--name", &name, "--file"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("mesh starts");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        figure!("{what}: {}", error.trim());
        assert_eq!(output.status.code(), Some(1), "{what}: {error}");
        assert!(error.contains(expected), "{what}: {error}");
        assert!(!error.contains("panicked"), "{what}: {error}");
        let sockets = fs::read_to_string("/proc/net/unix").expect("the sockets");
        assert!(!sockets.contains(&name), "{what} has left a mesh behind");
    }
}
