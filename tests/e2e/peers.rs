//! Peers that are not who they should be.

use std::time::Duration;

use mesh_tests::{Mesh, Options, binary, figure, manifest::App, metrics, skip};

use crate::{server, testapp};

#[test]
fn foreign_certificates_are_refused_and_counted() {
    let apps = [server("web"), App::client("stranger").plain()];
    let Some(mesh) = Mesh::up("foreign clients", &apps, &Options::default()) else {
        return;
    };
    let web = mesh.pods("web")[0].clone();
    let pod = mesh_tests::path(&web);
    let errors = |mesh: &Mesh| metrics::sum(&mesh.metrics(&pod), "tcp_error_total", &["inbound"]);
    let before = errors(&mesh);
    for alpn in ["mesh-http/1.1", "mesh-h2", "mesh-tcp"] {
        let call = [
            testapp(),
            "foreign",
            "call",
            &format!("{}:8080", web.ip),
            "--alpn",
            alpn,
        ]
        .map(str::to_owned);
        let output = mesh.exec(&mesh.pod("stranger"), call).good();
        output.lines().for_each(|line| figure!("{alpn}: {line}"));
        assert_eq!(output.lines().count(), 4, "{output}");
        assert!(!output.contains("ANSWERED"), "{output}");
    }
    let counted = errors(&mesh) - before;
    figure!("{counted} refusals counted");
    assert!(counted >= 12.0, "{}", mesh.metrics(&pod));
    let seen = mesh
        .exec(&pod, ["curl", "-s", "http://127.0.0.1:8080/seen"])
        .good();
    assert!(
        seen.contains("\"malformed\":0"),
        "a request reached the app: {seen}"
    );
    let logs = mesh.cli(&["local", "logs", &pod]);
    let logs = String::from_utf8_lossy(&logs.stdout).to_lowercase();
    assert!(
        logs.contains("certificate"),
        "the refusal is not in the log:\n{logs}"
    );
}

/// A certificate and its key leak, but nobody comes to use them in time.
#[test]
fn expired_certificates_are_refused_and_counted() {
    const TEST: &str = "expired peers";
    const LIFE: Duration = Duration::from_secs(10);
    let Some(nft) = binary::find("nft") else {
        return skip(TEST, "nft is not installed");
    };
    let nft = nft.to_string_lossy();
    let apps = [
        server("web"),
        App::client("client"),
        App::client("thief").plain(),
    ];
    let arguments = ["--leaf-lifetime", "10s"].map(str::to_owned).to_vec();
    let Some(mesh) = Mesh::up(TEST, &apps, &Options { arguments }) else {
        return;
    };
    let (web, client, thief) = (mesh.pod("web"), mesh.pod("client"), mesh.pod("thief"));
    let (web_ip, thief_ip) = (
        mesh.pods("web")[0].ip.clone(),
        mesh.pods("thief")[0].ip.clone(),
    );
    let loot = mesh.shared().join("loot").display().to_string();
    let folder = format!("/dev/shm/mesh/pods/{}", web.replace('/', "."));
    let cached = format!("cp {folder}/proxy/identity {loot}");
    mesh.exec("", ["sh", "-c", &cached]).good();
    let call = || {
        let address = format!("{web_ip}:8080");
        let call = [testapp(), "foreign", "call", &address, "--stolen", &loot];
        mesh.exec(&thief, call).good()
    };
    let fresh = call();
    assert!(fresh.contains("ANSWERED"), "the loot is no good: {fresh}");
    std::thread::sleep(LIFE + Duration::from_secs(1));

    // As a client …
    let answer = call();
    figure!("as a client, {}", answer.trim());
    assert!(!answer.contains("ANSWERED"), "{answer}");
    let refusals = |pod: &str, direction: &str| {
        let labels = [
            &format!("direction=\"{direction}\""),
            "error=\"certificate_expired\"",
        ];
        metrics::sum(&mesh.metrics(pod), "tcp_error_total", &labels)
    };
    assert_eq!(refusals(&web, "inbound"), 1.0, "{}", mesh.metrics(&web));
    assert_expiry_is_logged(&mesh, &web);

    // … and in place of the server whose it was.
    let serve = [testapp(), "foreign", "serve", "8080", "--stolen", &loot];
    let server = mesh.start(&thief, serve);
    server.wait_for("serving", Duration::from_secs(5));
    let rules = format!(
        "add table ip theft; \
         add chain ip theft pre {{ type nat hook prerouting priority -150; }}; \
         add rule ip theft pre ip daddr {web_ip} tcp dport 8080 dnat to {thief_ip}:8080"
    );
    mesh.exec("", [nft.as_ref(), rules.as_str()]).good();
    let get = ["curl", "-s", "-i", "--max-time", "10", "http://web:8080/"];
    let answer = mesh.exec(&client, get).stdout;
    let why = answer.lines().find(|line| line.starts_with("mesh-error"));
    figure!("as a server, {}", why.unwrap_or("?"));
    assert!(answer.contains("certificate expired"), "{answer}");
    assert!(!server.peek().stdout.contains("TRUSTED"));
    assert!(refusals(&client, "outbound") >= 1.0);
    assert_expiry_is_logged(&mesh, &client);
    mesh.exec("", [nft.as_ref(), "delete table ip theft"])
        .good();
}

fn assert_expiry_is_logged(mesh: &Mesh, pod: &str) {
    let logs = mesh.cli(&["local", "logs", pod]);
    let logs = String::from_utf8_lossy(&logs.stdout);
    let line = logs
        .lines()
        .find(|line| line.contains("certificate expired"));
    let line = line.unwrap_or_else(|| panic!("the refusal is not in the log of {pod}:\n{logs}"));
    assert!(line.contains("WARN"), "{line}");
    figure!("logged: {line}");
}

/// Another pod takes over the address of a server: the client must notice that it is not who it was.
#[test]
fn a_server_with_another_identity_is_refused_and_counted() {
    const TEST: &str = "wrong server";
    let Some(nft) = binary::find("nft") else {
        return skip(TEST, "nft is not installed");
    };
    let nft = nft.to_string_lossy();
    let apps = [server("web"), server("mallory"), App::client("client")];
    let Some(mesh) = Mesh::up(TEST, &apps, &Options::default()) else {
        return;
    };
    let (web, mallory) = (
        mesh.pods("web")[0].ip.clone(),
        mesh.pods("mallory")[0].ip.clone(),
    );
    let rules = format!(
        "add table ip theft; \
         add chain ip theft pre {{ type nat hook prerouting priority -150; }}; \
         add rule ip theft pre ip daddr {web} tcp dport 8080 dnat to {mallory}:8080"
    );
    mesh.exec("", [nft.as_ref(), rules.as_str()]).good();
    let client = mesh.pod("client");
    let get = [
        "curl",
        "-s",
        "-i",
        "--max-time",
        "10",
        "http://web:8080/echo",
    ];
    let answer = mesh.exec(&client, get).stdout;
    figure!(
        "{}",
        answer
            .lines()
            .find(|line| line.starts_with("mesh-error"))
            .unwrap_or("?")
    );
    assert!(
        !answer.starts_with("HTTP/1.1 200"),
        "mallory answered as web: {answer}"
    );
    assert!(
        answer.to_lowercase().contains("mesh-error:"),
        "no cause is named: {answer}"
    );
    let text = mesh.metrics(&client);
    let wrong = metrics::sum(&text, "tcp_error_total", &["outbound", "identity"]);
    figure!("{wrong} connections refused for their identity");
    assert!(wrong >= 1.0, "{text}");

    // With the address back, the same client recovers by itself.
    mesh.exec("", [nft.as_ref(), "delete table ip theft"])
        .good();
    let end = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let answer = mesh.exec(&client, get).stdout;
        if answer.starts_with("HTTP/1.1 200") {
            return;
        }
        assert!(std::time::Instant::now() < end, "still {answer}");
    }
}
