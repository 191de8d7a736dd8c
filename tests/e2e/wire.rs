//! What an eavesdropper between two pods sees.

use std::time::Duration;

use mesh_tests::{
    Mesh, Options, figure,
    manifest::App,
    report::{Capture, Load},
};

use crate::{load, server, testapp};

const MARKER: &str = "MARKER-7f3a9c51e2d84b06";

/// Sends the marker to `service` in a path, a header's place and a gRPC name, while all links are watched.
fn capture(mesh: &Mesh, service: &str) -> (Capture, Load) {
    let watch = [
        testapp(),
        "capture",
        "--marker",
        MARKER,
        "--port",
        "8080",
        "--seconds",
        "3",
    ];
    let watching = mesh.start("", watch);
    watching.wait_for("ready", Duration::from_secs(10));
    let url = format!("http://{service}:8080/bytes/100?{MARKER}");
    let load: Load = mesh
        .exec(&mesh.pod("client"), load("get", &url, 50, 1.0))
        .json();
    (watching.wait(Duration::from_secs(20)).json(), load)
}

#[test]
fn a_marker_is_not_seen_on_the_wire() {
    let apps = [server("web"), server("bare").plain(), App::client("client")];
    let Some(mesh) = Mesh::up("wire secrecy", &apps, &Options::default()) else {
        return;
    };
    let (secured, load) = capture(&mesh, "web");
    figure!("meshed: {secured:?}");
    assert_eq!((load.ok, load.failed), (50, 0), "{load:?}");
    assert!(
        secured.frames > 50,
        "the capture missed the traffic: {secured:?}"
    );
    assert_eq!(
        secured.marker, 0,
        "the marker crossed the link in clear: {secured:?}"
    );
    assert!(secured.tls > 0, "no TLS records: {secured:?}");

    // The same test sees the marker where there is no mTLS: it can fail.
    let (clear, load) = capture(&mesh, "bare");
    figure!("server not meshed: {clear:?}");
    assert_eq!((load.ok, load.failed), (50, 0), "{load:?}");
    assert!(clear.marker >= 50, "the capture is blind: {clear:?}");
}
