//! Two proxies without redirection, in this thread: what the kernel would tell them is said here.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_api::{names, v1};
use mesh_proxy::{
    config::{AccessLog, Config, LogFormat},
    discovery::Discovery,
    drain, inbound,
    io::{tune_local, tune_remote},
    listen,
    metrics::Metrics,
    outbound,
    tls::{Credentials, Tls, TrustBundle},
    worker::{Parts, Worker},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{net::TcpListener, task::spawn_local};

/// The Service that clients dial.
pub(super) const SERVICE: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 80);

const IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// An outbound proxy before `next`, which is meshed where there is `tls`; clients connect to the address.
pub(super) async fn outbound(next: SocketAddr, tls: Option<&Tls>) -> anyhow::Result<SocketAddr> {
    let discovery = Discovery::told();
    let worker = worker(tls.cloned().unwrap_or_default(), discovery.clone());
    // Kept by the worker from here on.
    worker.target(SERVICE);
    let endpoint = v1::Endpoint {
        address: Some(next.into()),
        identity: tls.map(|_| IDENTITY.to_owned()).unwrap_or_default(),
        ..endpoint(1, 1)
    };
    let told = discovery.tell(v1::Destination {
        endpoints: vec![endpoint],
        ..destination(0, 1)
    });
    anyhow::ensure!(told, "discovery refuses the endpoint {next}");
    let (listener, address) = proxy_listener(tune_local)?;
    spawn_local(async move {
        let start = |tcp, client| {
            spawn_local(outbound::connection(
                Rc::clone(&worker),
                tcp,
                client,
                SERVICE,
            ));
        };
        listen::accept(listener, std::future::pending(), start).await;
    });
    Ok(address)
}

/// An inbound proxy before the app at this address.
pub(super) async fn inbound(app: SocketAddr, tls: Option<&Tls>) -> anyhow::Result<SocketAddr> {
    let worker = worker(tls.cloned().unwrap_or_default(), Discovery::told());
    let (listener, address) = proxy_listener(tune_remote)?;
    spawn_local(async move {
        let start = |tcp, client| {
            spawn_local(inbound::connection(Rc::clone(&worker), tcp, client, app));
        };
        listen::accept(listener, std::future::pending(), start).await;
    });
    Ok(address)
}

/// A proxy's listener, as it binds it.
fn proxy_listener(tune: listen::Tune) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::from_std(listen::bind(0, tune)?)?;
    let port = listener.local_addr()?.port();
    Ok((listener, (Ipv4Addr::LOCALHOST, port).into()))
}

/// A server on loopback.
pub(super) async fn listener() -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn worker(tls: Tls, discovery: Discovery) -> Rc<Worker> {
    let config = Config {
        outbound_port: names::OUTBOUND_PORT,
        inbound_port: names::INBOUND_PORT,
        admin_port: names::ADMIN_PORT,
        workers: NonZeroUsize::MIN,
        mark: None,
        namespace: "shop".to_owned(),
        pod: "bench".to_owned(),
        trust_domain: names::TRUST_DOMAIN.to_owned(),
        controller: None,
        state_dir: None,
        drain_timeout: Duration::from_secs(1),
        access_log: AccessLog::Off,
        log_level: "warn".to_owned(),
        log_format: LogFormat::Plain,
    };
    let (_never, drain) = drain::channel(config.drain_timeout);
    Worker::new(Parts {
        config: Arc::new(config),
        tls,
        discovery,
        metrics: Metrics::new(),
        drain,
    })
}

/// A certificate and the root that signed it, as the controller gives them: ECDSA P-256.
pub(super) fn identity() -> anyhow::Result<Tls> {
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_der = root.self_signed(&root_key)?.der().clone();
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(IDENTITY.try_into()?)];
    let leaf = leaf
        .signed_by(&key, &Issuer::new(root, root_key))?
        .der()
        .clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs();
    let tls = Tls::new();
    let validity = (now - 60, now + 3600);
    tls.set_credentials(Credentials::new(
        vec![leaf],
        &key,
        names::TRUST_DOMAIN,
        validity,
    )?);
    tls.set_bundle(TrustBundle::new(names::TRUST_DOMAIN, vec![root_der])?);
    Ok(tls)
}

/// What discovery says of [`SERVICE`].
pub(super) fn destination(endpoints: u8, weight: u32) -> v1::Destination {
    v1::Destination {
        address: Some(SERVICE.into()),
        kind: Some(v1::destination::Kind::Service(v1::ServicePort {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            port: 80,
        })),
        protocol: v1::Protocol::Detect.into(),
        endpoints: (0..endpoints).map(|n| endpoint(n, weight)).collect(),
    }
}

/// One of its endpoints.
pub(super) fn endpoint(n: u8, weight: u32) -> v1::Endpoint {
    v1::Endpoint {
        address: Some(SocketAddr::from(([10, 244, 0, n], 8080)).into()),
        weight,
        identity: IDENTITY.to_owned(),
        workload: Some(v1::Workload {
            namespace: "shop".to_owned(),
            kind: "deployment".to_owned(),
            name: "web".to_owned(),
        }),
        pod: format!("web-{n}"),
        zone: "zone-1".to_owned(),
    }
}
