use super::*;

fn read(text: &str) -> anyhow::Result<Manifests> {
    let source = Source::Text {
        name: "test.yaml".into(),
        text: text.into(),
    };
    Manifests::read(&[source], "default")
}

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: nginx:1.29
        command: [python3, -m, http.server]
        args: ["8000"]
        ports: [{name: http, containerPort: 8000}]
        resources: {limits: {memory: 64Mi}}
        readinessProbe: {httpGet: {port: http, path: /ready}, periodSeconds: 2}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
"#;

#[test]
fn a_deployment_and_its_service() {
    let all = read(WEB).unwrap();
    let (_, web) = all.workloads.first_key_value().unwrap();
    assert_eq!((web.replicas, web.namespace.as_str()), (3, "default"));
    let container = &web.template.containers[0];
    assert_eq!(container.command, ["python3", "-m", "http.server", "8000"]);
    let probe = container.readiness.as_ref().unwrap();
    assert_eq!(probe.period.as_secs(), 2);
    assert!(matches!(&probe.check, Check::Http { port: 8000, path, .. } if path == "/ready"));
    assert!(all.services.contains_key(&("default".into(), "web".into())));
    assert!(
        all.service_accounts
            .contains_key(&("default".into(), "default".into()))
    );
}

#[test]
fn what_is_not_honoured_is_named_with_its_path() {
    let all = read(WEB).unwrap();
    assert_eq!(
        all.warnings.iter().collect::<Vec<_>>(),
        [
            "deployment/web: spec.template.spec.containers[0].resources is not honoured on one machine"
        ]
    );
}

#[test]
fn a_container_without_a_command_says_what_to_do() {
    let text = WEB.replace("command: [python3, -m, http.server]", "");
    let error = format!("{:#}", read(&text).unwrap_err());
    assert!(error.contains("container web has no command"), "{error}");
    assert!(error.contains("test.yaml"), "{error}");
}

#[test]
fn lists_and_json_are_read() {
    let list = r#"{"kind":"List","apiVersion":"v1","items":[{"kind":"Namespace","metadata":{"name":"shop","labels":{"a":"b"}}}]}"#;
    let all = read(list).unwrap();
    assert_eq!(
        all.namespaces["shop"].metadata.labels.as_ref().unwrap()["a"],
        "b"
    );
}

#[test]
fn a_template_change_changes_the_hash_and_a_scale_does_not() {
    let hash = |text: &str| {
        read(text)
            .unwrap()
            .workloads
            .into_values()
            .next()
            .unwrap()
            .template
            .hash
    };
    assert_eq!(hash(WEB), hash(&WEB.replace("replicas: 3", "replicas: 5")));
    assert_ne!(hash(WEB), hash(&WEB.replace("8000\"]", "8001\"]")));
}

#[test]
fn a_cluster_ip_is_chosen_once_and_in_range() {
    let with = |ip: &str| {
        WEB.replace(
            "  ports: [{port: 80",
            &format!("  clusterIP: {ip}\n  ports: [{{port: 80"),
        )
    };
    assert!(read(&with("10.96.3.4")).is_ok());
    assert!(read(&with("None")).is_ok());
    assert!(read(&with("10.97.0.1")).is_err());
    assert!(read(&with("10.96.0.10")).is_err());
}

#[test]
fn two_of_the_same_name_are_refused() {
    let pod =
        "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, command: [sleep, '1']}]}\n";
    let error = format!("{:#}", read(&format!("{pod}---\n{pod}")).unwrap_err());
    assert_eq!(
        error,
        "in test.yaml: pod/a is there twice in namespace default: give one of them another name"
    );
    assert!(read(&format!("{WEB}---\n{WEB}")).is_err());
    let elsewhere = pod.replace("name: a}\nspec", "name: a, namespace: b}\nspec");
    assert_eq!(
        read(&format!("{pod}---\n{elsewhere}"))
            .unwrap()
            .workloads
            .len(),
        2
    );
}

#[test]
fn ports_and_names_that_cannot_be_are_refused() {
    for (from, to, expected) in [
        ("containerPort: 8000", "containerPort: 0", "0 is not a port"),
        ("port: 80,", "port: 70000,", "70000 is not a port"),
        ("{port: http, path", "{port: htp, path", "no port named htp"),
        (
            "name: web}\nspec:\n  replicas",
            "name: Web}\nspec:\n  replicas",
            "lower-case",
        ),
        (
            "name: web}\nspec:\n  replicas",
            "name: ../web}\nspec:\n  replicas",
            "lower-case",
        ),
        ("replicas: 3", "replicas: 5000", "from 0 to 1000"),
        ("- name: web", "- name: mesh-proxy", "the proxy's name"),
    ] {
        let text = WEB.replace(from, to);
        assert_ne!(text, WEB, "{from}");
        let error = format!("{:#}", read(&text).unwrap_err());
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn bad_yaml_is_one_sentence_with_its_place() {
    let error = format!("{:#}", read("kind: Pod\n  a: [\n").unwrap_err());
    assert!(
        error.starts_with("test.yaml is not valid YAML: "),
        "{error}"
    );
    assert!(error.contains("line 2") && !error.contains('\n'), "{error}");
}

#[test]
fn a_service_that_leads_nowhere_is_named() {
    let warnings = |text: &str| read(text).unwrap().warnings;
    let wrong = WEB.replace("selector: {app: web}", "selector: {app: wbe}");
    assert!(
        warnings(&wrong)
            .contains("service/web has no pods: none in namespace default has the labels app=wbe")
    );
    let wrong = WEB.replace("targetPort: http", "targetPort: https");
    assert!(
        warnings(&wrong)
            .contains("service/web: port 80 leads nowhere: no container has a port named https")
    );
}

#[test]
fn config_map_volumes_are_read_with_their_items() {
    let text = WEB.replace(
        "        readinessProbe",
        "        volumeMounts: [{name: conf, mountPath: /srv/a.conf, subPath: a.conf}]\n        readinessProbe",
    ) .replace(
        "      containers:",
        "      volumes: [{name: conf, configMap: {name: web, defaultMode: 256, items: [{key: a, path: a.conf}]}}]\n      containers:",
    );
    let all = read(&text).unwrap();
    let (_, web) = all.workloads.first_key_value().unwrap();
    let Volume::ConfigMap(files) = &web.template.volumes["conf"] else {
        panic!("{:?}", web.template.volumes);
    };
    assert_eq!(
        (files.mode, files.items.as_ref().unwrap().len()),
        (0o400, 1)
    );
    assert_eq!(
        web.template.containers[0].mounts[0].part.to_str(),
        Some("a.conf")
    );
    assert_eq!(all.warnings.len(), 1, "{:?}", all.warnings);
    let error = format!(
        "{:#}",
        read(&text.replace("path: a.conf", "path: ../a")).unwrap_err()
    );
    assert!(error.contains("without '..'"), "{error}");
}
