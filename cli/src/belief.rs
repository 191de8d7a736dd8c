//! What one proxy believes: the `/config` of its admin port, which is only shown within its pod.
//!
//! On Kubernetes the API server forwards into the pod; on this machine this program runs itself in the pod. Without
//! a pod, it is the one in which this program runs.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use mesh_api::{
    local::{ExecInput, ExecStart, exec_input, exec_output},
    names::ADMIN_PORT,
    v1::Selector,
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    client::{LocalMesh, Mesh, Target, explain},
    cluster::Cluster,
    local::sandbox::PROGRAM,
    resource::Scope,
};

/// More than a proxy with thousands of destinations believes.
const MAX_BODY: usize = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// Which pod.
#[derive(Debug, clap::Args)]
pub struct PodArgs {
    /// POD, or KIND/NAME of which one pod is taken [default: the pod in which this runs]
    #[arg(value_name = "POD")]
    pub pod: Option<String>,
    /// Namespace of the pod [default: the context's on Kubernetes, any on this machine]
    #[arg(short, long, env = "MESH_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Which mesh.
    #[command(flatten)]
    pub mesh: Target,
}

/// A pod by its full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name in it.
    pub name: String,
}

/// The part that commands read.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)] // As `/config` names them.
pub struct Belief {
    pub namespace: String,
    pub pod: String,
    pub ready: bool,
    pub certificate: Option<Certificate>,
    pub inbound: Inbound,
    pub destinations: Vec<Destination>,
}

/// The proxy's certificate.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Certificate {
    pub identity: String,
    /// The leaf first; empty of a proxy that does not tell.
    #[serde(default)]
    pub chain_pem: String,
}

/// How connections to the pod are treated.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Inbound {
    pub workload: Option<String>,
    pub ports: Vec<InboundPort>,
}

/// One port of the pod.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct InboundPort {
    pub port: u16,
    pub protocol: String,
    pub service: Option<String>,
}

/// Something that the pod has connected to.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Destination {
    pub address: String,
    pub kind: String,
    pub name: Option<String>,
    pub protocol: String,
    pub endpoints: Vec<Endpoint>,
}

/// One of the places where a destination is served.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Endpoint {
    pub address: String,
    pub pod: String,
    pub weight: u32,
    pub identity: Option<String>,
    pub load: Option<Load>,
}

/// How an endpoint stands.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Load {
    pub ewma_ms: f64,
    pub pending: u32,
    pub breaker: String,
}

impl PodArgs {
    /// What the pod's proxy believes, as it says it.
    ///
    /// # Errors
    /// There is no such pod, or it has no proxy that answers.
    pub async fn read(&self) -> Result<Bytes> {
        let Some(word) = &self.pod else {
            return here().await;
        };
        let mesh = Mesh::find(&self.mesh).await?;
        let pod = self.find(&mesh, word).await?;
        match &mesh {
            Mesh::Cluster(cluster) => of_cluster(cluster, &pod).await,
            Mesh::Local(mesh) => of_machine(mesh, &pod).await,
        }
    }

    /// The same, for programs.
    ///
    /// # Errors
    /// As [`PodArgs::read`]; or its version is too different.
    pub async fn belief(&self) -> Result<Belief> {
        parse(&self.read().await?)
    }

    async fn find(&self, mesh: &Mesh, word: &str) -> Result<PodName> {
        let scope = Scope {
            namespace: self.namespace.clone(),
            ..Scope::default()
        };
        let scope = scope.of(mesh);
        let selector = match word.contains('/') {
            true => scope.selector(word)?,
            false => scope.selector(&format!("pod/{word}"))?,
        };
        // A name is enough where the namespace is known: this works while the controller does not.
        if let ("pod", false) = (selector.kind.as_str(), selector.namespace.is_empty()) {
            return Ok(PodName {
                namespace: selector.namespace,
                name: selector.name,
            });
        }
        let proxies = mesh.observe().await?.inventory().await?.all.proxies;
        let is_it = |proxy: &&mesh_api::v1::ProxyInfo| {
            let workload = proxy.workload.clone().unwrap_or_default();
            let named = match selector.kind.as_str() {
                "pod" => proxy.pod == selector.name,
                kind => workload.kind == kind && workload.name == selector.name,
            };
            named && (selector.namespace.is_empty() || proxy.namespace == selector.namespace)
        };
        let proxy = proxies.iter().find(is_it);
        proxy.map_or_else(
            || Err(unknown(&selector)),
            |proxy| {
                Ok(PodName {
                    namespace: proxy.namespace.clone(),
                    name: proxy.pod.clone(),
                })
            },
        )
    }
}

/// What the proxy in this pod believes: the one on this machine's loopback interface.
async fn here() -> Result<Bytes> {
    let stream = TcpStream::connect(("127.0.0.1", ADMIN_PORT)).await;
    let stream = stream.with_context(|| {
        format!(
            "No proxy answers on port {ADMIN_PORT} here. Say which POD is meant, or run this in one"
        )
    })?;
    get(stream, "/config").await
}

/// Reads JSON of a proxy.
///
/// # Errors
/// It is not what this version knows.
pub fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).context(
        "The proxy's answer can't be read: its version differs too much (mesh version tells)",
    )
}

async fn of_cluster(cluster: &Cluster, pod: &PodName) -> Result<Bytes> {
    let forwarded = cluster.forward(&pod.namespace, &pod.name, ADMIN_PORT).await;
    let (stream, complaint) = forwarded?;
    get(stream, "/config").await.map_err(|error| {
        let why = complaint.text().unwrap_or_else(|| format!("{error:#}"));
        anyhow!(
            "The proxy of {}/{} does not answer: {why}. Has it one? See: kubectl -n {} get pod {} -o yaml",
            pod.namespace,
            pod.name,
            pod.namespace,
            pod.name
        )
    })
}

/// Runs this program in the pod.
async fn of_machine(mesh: &LocalMesh, pod: &PodName) -> Result<Bytes> {
    let start = ExecStart {
        pod: format!("{}/{}", pod.namespace, pod.name),
        command: [PROGRAM, "diagnostics", "proxy-config"]
            .map(str::to_owned)
            .into(),
        env: HashMap::new(),
    };
    let (input, inputs) = tokio::sync::mpsc::channel(2);
    for kind in [
        exec_input::Kind::Start(start),
        exec_input::Kind::Close(true),
    ] {
        input.send(ExecInput { kind: Some(kind) }).await?;
    }
    let mut client = mesh.local().await?;
    let output = client.exec(ReceiverStream::new(inputs)).await;
    let mut output = output.map_err(|status| explain(&status))?.into_inner();
    let (mut body, mut complaint) = (Vec::new(), Vec::new());
    while let Some(piece) = output.message().await.map_err(|status| explain(&status))? {
        match piece.kind {
            Some(exec_output::Kind::Stdout(bytes)) => body.extend(bytes),
            Some(exec_output::Kind::Stderr(bytes)) => complaint.extend(bytes),
            Some(exec_output::Kind::ExitCode(0)) => return Ok(body.into()),
            Some(exec_output::Kind::ExitCode(_)) => {
                let words = String::from_utf8_lossy(&complaint);
                bail!("{}", words.trim().trim_start_matches("mesh: "));
            }
            None => {}
        }
    }
    bail!("The mesh ended meanwhile.")
}

/// The body of a GET on a connection of its own.
async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
) -> Result<Bytes> {
    let answer = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::get(path)
            .header(http::header::HOST, "localhost")
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        connection.abort();
        let body = body.map_err(|error| anyhow!("{error}"))?.to_bytes();
        anyhow::Ok((status, body))
    };
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok((StatusCode::OK, body))) => Ok(body),
        Ok(Ok((status, body))) => {
            bail!(
                "{path} answers {status}: {}",
                String::from_utf8_lossy(&body).trim()
            )
        }
        Ok(Err(error)) => Err(error),
        Err(_) => bail!("no answer within {} s", PATIENCE.as_secs()),
    }
}

fn unknown(selector: &Selector) -> anyhow::Error {
    let place = match selector.namespace.as_str() {
        "" => String::new(),
        namespace => format!(" in the namespace {namespace}"),
    };
    let what = match selector.kind.as_str() {
        "pod" => format!("No pod {:?}{place} has", selector.name),
        kind => format!("No pod of {kind} {:?}{place} has", selector.name),
    };
    anyhow!("{what} a proxy that the controller hears of.")
}
