//! The whole controller over real sockets.

mod large;
mod mesh;

use std::{fs, path::Path};

use mesh_api::v1::{
    CertifyRequest, Direction, InventoryRequest, RequestStats, Security, Selector, StatRequest,
    TapEvent, TapRequest, TelemetryReport, Workload, discovery_request, discovery_update,
    identity_client::IdentityClient, telemetry_command,
};
use tonic::Code;

use super::*;
use crate::listen::{Listen, Listener};
use mesh::{Mesh, Stream, address, report, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_are_for_those_with_a_token() {
    let mut mesh = Mesh::new();
    mesh.start();
    let forged = soon(mesh.certify("forged")).await.err().unwrap();
    assert_eq!(forged.code(), Code::Unauthenticated);
    let mut client = IdentityClient::new(mesh.connect(None).await);
    let bad = CertifyRequest {
        token: "secret".into(),
        csr: b"nonsense".to_vec(),
    };
    assert_eq!(
        client.certify(bad).await.unwrap_err().code(),
        Code::InvalidArgument
    );

    let identity = soon(mesh.certify("secret")).await.unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&identity.certified.chain[0]).unwrap();
    let names = leaf
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names[0]
        .to_string();
    assert!(
        names.contains("spiffe://cluster.local/ns/shop/sa/web"),
        "{names}"
    );
    assert_eq!(
        leaf.validity().not_after.timestamp() as u64,
        identity.certified.not_after
    );

    let anonymous = Stream::open(mesh.connect(None).await).await.err().unwrap();
    assert_eq!(anonymous.code(), Code::Unauthenticated);
    for (namespace, pod) in [("other", "web-1"), ("shop", "api-1")] {
        let mut stream = Stream::open(mesh.connect(Some(&identity)).await)
            .await
            .unwrap();
        stream.hello(namespace, pod).await;
        let denied = soon(stream.updates.message()).await.unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied, "{namespace}/{pod}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_pushes_what_changes_and_survives_a_restart() {
    let mut mesh = Mesh::new();
    mesh.start();
    let identity = soon(mesh.certify("secret")).await.unwrap();
    let mut stream = Stream::open(mesh.connect(Some(&identity)).await)
        .await
        .unwrap();
    stream.hello("shop", "web-1").await;
    let discovery_update::Kind::Bundle(bundle) = soon(stream.next()).await else {
        panic!("no bundle")
    };
    assert_eq!(Some(&bundle), identity.certified.bundle.as_ref());
    let discovery_update::Kind::Inbound(inbound) = soon(stream.next()).await else {
        panic!("no policy")
    };
    assert_eq!(inbound.workload.unwrap().to_string(), "deployment/web");

    stream
        .say(discovery_request::Kind::Subscribe(address("10.96.0.1:80")))
        .await;
    let discovery_update::Kind::Destination(api) = soon(stream.next()).await else {
        panic!("no destination")
    };
    assert_eq!(
        api.endpoints[0].identity,
        "spiffe://cluster.local/ns/shop/sa/api"
    );
    mesh.write_slice(false);
    let discovery_update::Kind::Delta(delta) = soon(stream.next()).await else {
        panic!("no delta")
    };
    assert_eq!(delta.remove, [address("10.0.0.2:8080")]);
    mesh.write_slice(true);
    let discovery_update::Kind::Delta(delta) = soon(stream.next()).await else {
        panic!("no delta")
    };
    assert_eq!(delta.upsert[0].address, Some(address("10.0.0.2:8080")));

    soon(mesh.stop()).await;
    let end = soon(stream.updates.message()).await;
    assert!(end.is_err() || end.unwrap().is_none());
    mesh.start();
    let mut stream = soon(async {
        Stream::open(mesh.connect(Some(&identity)).await)
            .await
            .unwrap()
    })
    .await;
    stream.hello("shop", "web-1").await;
    let discovery_update::Kind::Bundle(after) = soon(stream.next()).await else {
        panic!("no bundle")
    };
    assert_eq!(after, bundle, "the same root");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_sees_what_proxies_report() {
    let mut mesh = Mesh::new();
    mesh.start();
    let identity = soon(mesh.certify("secret")).await.unwrap();
    let api = Workload {
        namespace: "shop".into(),
        kind: "deployment".into(),
        name: "api".into(),
    };
    let template = TelemetryReport {
        namespace: "shop".into(),
        pod: "web-1".into(),
        window_ms: 50,
        requests: vec![RequestStats {
            direction: Direction::Outbound.into(),
            peer: Some(api.clone()),
            security: Security::Mtls.into(),
            method: "GET".into(),
            route: "/".into(),
            success: 1,
            ..RequestStats::default()
        }],
        taps: vec![TapEvent {
            direction: Direction::Outbound.into(),
            source_address: Some(address("10.0.0.1:5000")),
            destination: Some(api.clone()),
            path: "/seen".into(),
            ..TapEvent::default()
        }],
        ..TelemetryReport::default()
    };
    let (mut commands, _reports) = report(mesh.connect(Some(&identity)).await, template).await;
    let mut observe = mesh.observe().await;

    let inventory = soon(async {
        loop {
            let inventory = observe
                .inventory(InventoryRequest {})
                .await
                .unwrap()
                .into_inner();
            if !inventory.proxies.is_empty() {
                break inventory;
            }
        }
    })
    .await;
    assert_eq!(inventory.namespaces, ["shop"]);
    assert_eq!(inventory.workloads.len(), 2);
    assert_eq!(
        inventory.proxies[0].identity,
        "spiffe://cluster.local/ns/shop/sa/web"
    );

    let web = Selector {
        kind: "deployment".into(),
        name: "web".into(),
        ..Selector::default()
    };
    let to_api = StatRequest {
        selector: Some(web),
        window_s: 10,
        to: Some(Selector {
            name: "api".into(),
            ..Selector::default()
        }),
        from: None,
    };
    let rows = observe.stat(to_api).await.unwrap().into_inner().rows;
    assert!(rows[0].traffic.as_ref().unwrap().secured > 0);
    let unknown = StatRequest {
        selector: Some(Selector {
            name: "aip".into(),
            ..Selector::default()
        }),
        ..StatRequest::default()
    };
    let unknown = observe.stat(unknown).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(
        unknown.message().contains("did you mean \"api\""),
        "{}",
        unknown.message()
    );

    let mut tap = observe
        .tap(TapRequest::default())
        .await
        .unwrap()
        .into_inner();
    let started = soon(commands.message())
        .await
        .unwrap()
        .unwrap()
        .kind
        .unwrap();
    let telemetry_command::Kind::StartTap(start) = started else {
        panic!("{started:?}")
    };
    let event = soon(tap.message()).await.unwrap().unwrap();
    assert_eq!(event.path, "/seen");
    assert_eq!(
        event.source.unwrap().to_string(),
        "deployment/web",
        "named by its address"
    );
    drop(tap);
    assert_eq!(
        soon(commands.message()).await.unwrap().unwrap().kind,
        Some(telemetry_command::Kind::StopTap(start.id))
    );
    mesh.stop().await;
}

#[tokio::test]
async fn the_observe_socket_is_replaced_but_files_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("observe");
    drop(Listener::bind(&Listen::Path(path.clone())).await.unwrap());
    assert!(
        Listener::bind(&Listen::Path(path.clone())).await.is_ok(),
        "left by a predecessor"
    );
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    assert!(Listener::bind(&Listen::Path(path.clone())).await.is_err());
    assert_eq!(fs::read_to_string(Path::new(&path)).unwrap(), "precious");
}
