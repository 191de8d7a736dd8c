mod random;

use mesh_controller::inject::{Injection, NamespaceFacts, Settings, inject, opt_in};
use serde_json::{Value, json};

use super::{
    change::{Mode, change},
    document::{Format, parse, split},
    facts::Facts,
    report::{Line, Outcome},
};

/// The new text, and what is said.
fn changed(text: &str, mode: &Mode<'_>) -> (String, Vec<Line>) {
    let (mut output, mut lines) = (String::new(), Vec::new());
    for document in split("test", text).unwrap() {
        let change = change(&document, mode).unwrap();
        output += &change.text;
        lines.extend(change.lines);
    }
    (output, lines)
}

fn labelled(text: &str) -> String {
    changed(text, &Mode::Label(&Facts::default())).0
}

fn rendered(text: &str) -> String {
    changed(text, &Mode::Render(&Facts::default())).0
}

fn removed(text: &str) -> String {
    changed(text, &Mode::Remove).0
}

fn said(text: &str) -> String {
    let (_, lines) = changed(text, &Mode::Label(&Facts::default()));
    let words = lines.iter().map(|line| match &line.outcome {
        Outcome::Changed => format!("{line}: changed; {}", line.remarks.join("; ")),
        Outcome::Unchanged(why) | Outcome::Skipped(why) => format!("{line}: {why}"),
    });
    words.collect::<Vec<_>>().join("\n")
}

/// Labelled it is `after`, that uninjected is `before` again, and labelling twice is labelling once.
#[track_caller]
fn both_ways(before: &str, after: &str) {
    assert_eq!(labelled(before), after);
    assert_eq!(labelled(after), after);
    assert_eq!(removed(after), before);
    assert_eq!(removed(before), before);
}

const WEB: &str = "\
# The shop's front.
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}   # short
spec:
    replicas:   2
    template:
        metadata:
            labels:   # of each pod
                # found by the service
                app: 'web'
        spec:
            containers:
            - name: web
              image: web:1
              env: [{name: MODE, value: \"0644\"}]
";

#[test]
fn comments_and_formatting_stay() {
    let label = "                mesh.internal/inject: enabled\n";
    let after = WEB.replace("of each pod\n", &format!("of each pod\n{label}"));
    both_ways(WEB, &after);
}

#[test]
fn missing_maps_are_made() {
    let with = |metadata: &str| {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: j\nspec:\n  template:\n{metadata}    spec:\n      containers: [{{name: a}}]\n"
        )
    };
    let labels = "      labels:\n        mesh.internal/inject: enabled\n";
    both_ways(&with(""), &with(&format!("    metadata:\n{labels}")));
    let annotations = "      annotations: {a: b}\n";
    both_ways(
        &with(&format!("    metadata:\n{annotations}")),
        &with(&format!("    metadata:\n{labels}{annotations}")),
    );
    both_ways(
        &with("    metadata: {name: x}\n"),
        &with("    metadata: {labels: {mesh.internal/inject: enabled}, name: x}\n"),
    );
    both_ways(
        &with("    metadata:\n      labels: { app: web }\n"),
        &with("    metadata:\n      labels: { mesh.internal/inject: enabled, app: web }\n"),
    );
    for empty in ["labels:", "labels: {}"] {
        let text = with(&format!("    metadata:\n      {empty}\n      name: x\n"));
        let value = parse(Format::Yaml, &labelled(&text)).unwrap();
        let label = &value["spec"]["template"]["metadata"]["labels"]["mesh.internal/inject"];
        assert_eq!(label, "enabled", "{text}");
        assert!(
            labelled(&text).starts_with("apiVersion: batch/v1\n"),
            "it was written anew"
        );
    }
}

#[test]
fn json_keeps_its_form() {
    both_ways(
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"spec":{"containers":[{}]}}"#,
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{"labels": {"mesh.internal/inject": "enabled"},"name":"a"},"spec":{"containers":[{}]}}"#,
    );
    let pretty = serde_json::to_string_pretty(&json!({
        "kind": "Pod", "apiVersion": "v1", "spec": {"containers": [{}]},
        "metadata": {"name": "a", "labels": {"app": "\u{e9}\\\"{"}},
    }));
    let pretty = pretty.unwrap() + "\n";
    let after = pretty.replace(
        "\"labels\": {\n",
        "\"labels\": {\n      \"mesh.internal/inject\": \"enabled\",\n",
    );
    both_ways(&pretty, &after);
    both_ways(&format!("{pretty}{pretty}"), &format!("{after}{after}"));
}

#[test]
fn line_endings_and_separators_stay() {
    let crlf = WEB.replace('\n', "\r\n");
    both_ways(&crlf, &labelled(WEB).replace('\n', "\r\n"));
    let stream = format!(
        "%YAML 1.1\n--- # first\n{WEB}...\n%YAML 1.1\n---\n# nothing\n---\nkind: x\n--- \n{WEB}"
    );
    let after = labelled(&stream);
    assert_eq!(after.matches("mesh.internal/inject").count(), 2);
    both_ways(&stream, &after);
}

#[test]
fn lists_as_kubectl_prints_them() {
    let list = "\
apiVersion: v1
items:
- apiVersion: apps/v1
  kind: Deployment
  metadata:
    name: a
  spec:
    template:
      metadata:
        creationTimestamp: null
        labels:
          app: a
      spec:
        containers:
        - name: a
- apiVersion: v1
  kind: Service
  metadata:
    name: a
- apiVersion: batch/v1
  kind: CronJob
  metadata:
    name: c
  spec:
    jobTemplate:
      spec:
        template:
          spec:
            containers:
            - name: c
kind: List
metadata:
  resourceVersion: \"\"
";
    let after = labelled(list);
    assert_eq!(after.matches("mesh.internal/inject: enabled\n").count(), 2);
    let metadata =
        "          metadata:\n            labels:\n              mesh.internal/inject: enabled\n";
    assert!(
        after.contains(&format!("        template:\n{metadata}")),
        "{after}"
    );
    both_ways(list, &after);
    assert_eq!(said(list), "deployment/a: changed; \ncronjob/c: changed; ");
}

#[test]
fn other_documents_are_not_touched() {
    for text in [
        "kind:   ConfigMap\ndata: {a: \"---\",   b: |\n    ---\n    x}\n",
        "# only words\n",
        "",
        "---\n---\n",
        "apiVersion: batch.volcano.sh/v1\nkind: Job\nspec: {template: {spec: {containers: [{}]}}}\n",
    ] {
        let parts = split("test", text);
        let Ok(parts) = parts else {
            continue;
        };
        let whole: String = parts.iter().map(|document| document.text).collect();
        assert_eq!(whole, text);
        assert_eq!(
            (labelled(text), rendered(text), removed(text)),
            (text.into(), text.into(), text.into())
        );
    }
}

#[test]
fn shared_labels_are_not_changed_elsewhere() {
    let text = "\
apiVersion: apps/v1
kind: Deployment
spec:
  selector:
    matchLabels: &labels
      app: web
  template:
    metadata:
      labels: *labels
    spec:
      containers: [{name: web}]
";
    let value = parse(Format::Yaml, &labelled(text)).unwrap();
    assert_eq!(
        value["spec"]["selector"]["matchLabels"],
        json!({"app": "web"})
    );
    let labels = &value["spec"]["template"]["metadata"]["labels"];
    assert_eq!(
        *labels,
        json!({"app": "web", "mesh.internal/inject": "enabled"})
    );
}

#[test]
fn yaml_means_what_kubectl_takes_it_for() {
    let text = "a: 0644\nb: yes\nc: \"yes\"\nd: 1e3\ne: '0644'\nf: 1.0\ng: ~\n";
    let value = parse(Format::Yaml, text).unwrap();
    assert_eq!(value["a"], 420);
    assert_eq!(value["b"], true);
    assert_eq!((&value["c"], &value["e"]), (&json!("yes"), &json!("0644")));
    let written = super::document::render(Format::Yaml, &value).unwrap();
    assert_eq!(parse(Format::Yaml, &written).unwrap(), value, "{written}");
}

#[test]
fn rendering_is_what_the_webhook_would_do() {
    let text = format!("# kept\n{WEB}---\nkind: x\n");
    let output = rendered(&text);
    assert!(
        output.starts_with("# kept\n# The shop's front.\n"),
        "{output}"
    );
    assert!(output.ends_with("\n---\nkind: x\n"), "{output}");
    let rendered = parse(Format::Yaml, output.split("---").next().unwrap()).unwrap();
    let template = &parse(Format::Yaml, WEB).unwrap()["spec"]["template"];
    let webhook = inject(
        &opt_in(template).unwrap(),
        &NamespaceFacts::default(),
        &Settings::default(),
    );
    let template = rendered["spec"]["template"].clone();
    assert_eq!(webhook, Ok(Injection::Injected(template)));
    assert_eq!(removed(&output), removed(&removed(&output)));
    assert!(!removed(&output).contains("mesh"));
}

#[test]
fn reasons_are_given() {
    let pod = |more: Value| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
        pod["spec"] = json!({"containers": [{"name": "a"}]});
        let merged = [pod, more].into_iter().reduce(|mut pod, more| {
            for (name, fields) in more.as_object().into_iter().flatten() {
                for (field, value) in fields.as_object().into_iter().flatten() {
                    pod[name][field] = value.clone();
                }
            }
            pod
        });
        said(&merged.unwrap().to_string())
    };
    let host = pod(json!({"spec": {"hostNetwork": true}}));
    assert!(
        host.starts_with("pod/p: it uses its node's network"),
        "{host}"
    );
    let out = pod(json!({"metadata": {"labels": {"mesh.internal/inject": "disabled"}}}));
    assert!(out.contains("inject: disabled"), "{out}");
    let udp = json!([{"name": "a", "ports": [{"containerPort": 53, "protocol": "UDP"}]}]);
    let udp = pod(json!({"spec": {"containers": udp}}));
    assert!(
        udp.contains("changed; ports 53/UDP of a are not TCP"),
        "{udp}"
    );
    let owner = json!([{"kind": "ReplicaSet", "name": "web-1", "controller": true}]);
    let owned = pod(json!({"metadata": {"ownerReferences": owner, "namespace": "shop"}}));
    assert_eq!(
        owned,
        "pod/p in shop: replicaset/web-1 makes it: inject that"
    );
    let live = pod(json!({"metadata": {"uid": "1"}}));
    assert!(live.contains("can't be changed"), "{live}");
    let bare = said("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n");
    assert_eq!(bare, "deployment/d: it has no pod template");
}

#[test]
fn nonsense_is_refused_with_its_place() {
    let error = split("app.yaml", "a: b\n---\na: [\n").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("app.yaml: the document at line 2"),
        "{error}"
    );
    let bad = WEB.replace(
        "labels:   #",
        "annotations: {mesh.internal/log-level: loud}\n            labels: #",
    );
    let documents = split("app.yaml", &bad).unwrap();
    let error = change(&documents[0], &Mode::Label(&Facts::default())).unwrap_err();
    assert!(
        format!("{error:#}").starts_with("deployment/web: the annotation mesh.internal/log-level")
    );
}
