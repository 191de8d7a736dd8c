//! `mesh stat`, `top`, `tap`, `identity` and `diagnostics`, through the API server's port-forward.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::{Value, json};

use crate::{install::assert_good, stage::Stage, workload::MESHED};

pub(crate) fn all(stage: &Stage) {
    assert_good(stage, "check --proxy");
    let load = stage.start(
        MESHED,
        "client",
        "load --url http://web/ --rate 50 --seconds 20",
    );

    let mut tap = stage
        .command(&format!("tap deploy/web -n {MESHED} -o json"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("mesh runs");
    // The kubelet's probes are seen too.
    let request = BufReader::new(tap.stdout.take().expect("a pipe"))
        .lines()
        .map(|line| serde_json::from_str(&line.expect("text")).expect("JSON"))
        .find(|request: &Value| request["path"] == "/")
        .expect("a request of the client's");
    tap.kill().expect("it runs");
    tap.wait().expect("its end");
    assert_eq!(request["security"], "mTLS", "{request:#}");

    let stat = stage.until("figures of the last seconds", || {
        let stat = stage.json(&format!("stat deploy/web -n {MESHED} --window 10s"));
        let row = &stat["rows"][0];
        // Until then, what an outsider has just asked is in them.
        let is_secured = row["secured_rate"] == 1.0;
        (is_secured && row["rps"].as_f64()? > 20.0).then_some(stat)
    });
    let row = &stat["rows"][0];
    assert_eq!(
        (&row["pods"], &row["meshed_pods"], &row["success_rate"]),
        (&json!(2), &json!(2), &json!(1.0)),
        "{row:#}"
    );
    let top = stage.mesh(&format!("top -n {MESHED} -o table"));
    assert!(top.contains("client") && top.contains("web"), "{top}");
    stage.end(load).good();

    let identity = stage.json(&format!("identity deploy/web -n {MESHED}"));
    assert_eq!(
        identity["identity"],
        format!("spiffe://cluster.local/ns/{MESHED}/sa/web")
    );
    stage.mesh(&format!("diagnostics endpoints deploy/client -n {MESHED}"));
    let versions = stage.json("version");
    assert_eq!(versions["skew"], false, "{versions:#}");
}
