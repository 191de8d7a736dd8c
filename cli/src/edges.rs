//! `mesh edges`: who talks to whom, with which identities, secured or why not.

use anyhow::{Result, bail};
use mesh_api::v1::{self, EdgesRequest, Security};
use serde::Serialize;

use crate::{
    client::{self, Mesh, Replicas, Target},
    output::{Cell, Figures, Format, Print, Table, Tone, number},
    resource::{self, Scope},
};

/// Arguments of `mesh edges`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND, KIND/NAME or KIND NAME at either end [default: all]
    #[arg(value_name = "KIND[/NAME]")]
    resources: Vec<String>,
    /// Time to look back, up to 10m
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = resource::parse_window)]
    window: u32,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    print: Print,
    #[command(flatten)]
    mesh: Target,
}

/// Traffic from one workload to another, or out of the mesh.
#[derive(Debug, Serialize)]
pub struct Edge {
    /// Who calls.
    pub source: Resource,
    /// Who is called; none outside of the mesh.
    pub destination: Option<Resource>,
    /// The host or address outside of the mesh; empty inside.
    pub authority: String,
    /// SPIFFE id of the caller; empty if unknown.
    pub client_identity: String,
    /// SPIFFE id of the called; empty if unknown.
    pub server_identity: String,
    /// Both ends proved who they are and the bytes are encrypted. Not in JSON, where `secured` counts requests as it does
    /// everywhere; `security` says the same.
    #[serde(skip)]
    pub secured: bool,
    /// In words: "mTLS", or why not.
    pub security: &'static str,
    /// How that looks.
    #[serde(skip)]
    tone: Tone,
    /// Requests on this edge.
    #[serde(flatten)]
    pub figures: Figures,
    /// TCP connections open now.
    pub tcp_open: u64,
}

/// A workload in JSON.
#[derive(Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    /// Its namespace.
    pub namespace: String,
    /// Lower-case kind: "deployment", …
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Runs `mesh edges`.
///
/// # Errors
/// There is no mesh, it does not answer, or it knows no such resource.
pub fn run(args: Args) -> Result<()> {
    client::block_on(async {
        let mesh = Mesh::find(&args.mesh).await?;
        let selectors = args.scope.selectors(&mesh, &args.resources).await?;
        let requests: Vec<EdgesRequest> = selectors
            .into_iter()
            .map(|selector| EdgesRequest {
                selector: Some(selector),
                window_s: args.window,
            })
            .collect();
        let mut replicas = mesh.observe().await?;
        let table = |edges: &Vec<Edge>, format| match edges.is_empty() && !args.print.watch {
            true => bail!("There was no traffic within {} s.", args.window),
            false => Ok(table(edges, format)),
        };
        let ask = async || fetch(&mut replicas, &requests).await;
        args.print.answers(ask, table).await
    })
}

/// Asks for the edges of everything in `requests`; each edge is named once.
///
/// # Errors
/// The mesh does not answer, or it knows no such resource.
pub async fn fetch(replicas: &mut Replicas, requests: &[EdgesRequest]) -> Result<Vec<Edge>> {
    let mut edges: Vec<Edge> = Vec::new();
    for request in requests {
        let response = replicas.edges(request.clone()).await?;
        edges.extend(response.edges.into_iter().map(Edge::from));
    }
    edges.sort_by(|a, b| a.key().cmp(&b.key()));
    edges.dedup_by(|a, b| a.key() == b.key());
    Ok(edges)
}

/// What a connection's security is called, whether it is mTLS, and the tone it deserves.
pub fn security(security: Security) -> (&'static str, bool, Tone) {
    match security {
        Security::Mtls => ("mTLS", true, Tone::Good),
        Security::PeerNotMeshed => ("no: peer not meshed", false, Tone::Warn),
        Security::Outside => ("no: outside the mesh", false, Tone::Dim),
        Security::AppTls => ("no: app's own TLS", false, Tone::Warn),
        Security::Loopback => ("no: loopback", false, Tone::Dim),
        Security::Probe => ("no: kubelet's probe", false, Tone::Dim),
        Security::Unspecified => ("unknown", false, Tone::Dim),
    }
}

impl Edge {
    fn key(&self) -> impl Ord + '_ {
        let ends = (&self.source, &self.destination, &self.authority);
        (
            ends,
            &self.client_identity,
            &self.server_identity,
            self.security,
        )
    }

    /// The far end for people: a workload, or a host outside of the mesh.
    pub fn destination_name(&self) -> String {
        match &self.destination {
            Some(resource) => resource.to_string(),
            None => self.authority.clone(),
        }
    }
}

impl From<v1::Edge> for Edge {
    fn from(edge: v1::Edge) -> Self {
        let (words, secured, tone) = security(edge.security());
        Self {
            figures: Figures::from(&edge.traffic),
            source: edge.source.unwrap_or_default().into(),
            destination: edge.destination.map(Resource::from),
            authority: edge.authority,
            client_identity: edge.client_identity,
            server_identity: edge.server_identity,
            secured,
            security: words,
            tone,
            tcp_open: edge.tcp_open,
        }
    }
}

impl From<v1::Workload> for Resource {
    fn from(workload: v1::Workload) -> Self {
        Self {
            namespace: workload.namespace,
            kind: workload.kind,
            name: workload.name,
        }
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name.as_str() {
            // Told by the called side alone: the caller has no proxy, and so no name.
            "" => f.write_str("not meshed"),
            name => write!(f, "{}/{name}", resource::short(&self.kind)),
        }
    }
}

/// The columns of `mesh edges`.
pub(crate) fn table(edges: &[Edge], format: Format) -> Table {
    let wide = format == Format::Wide;
    let mut header = vec![
        "SOURCE",
        "DESTINATION",
        "CLIENT",
        "SERVER",
        "SECURED",
        "RPS",
        "TCP",
    ];
    if wide {
        header.extend(["NAMESPACES", "SUCCESS", "P50", "P95", "P99"]);
    }
    let mut table = Table::new(header);
    for edge in edges {
        // In the narrow table an identity is its namespace and service account; JSON and wide have all.
        let identity = |id: &str| {
            let text = match id
                .split_once("/ns/")
                .and_then(|(_, rest)| rest.split_once("/sa/"))
            {
                Some((namespace, account)) if !wide => format!("{namespace}/{account}"),
                _ if id.is_empty() => number::NONE.to_owned(),
                _ => id.to_owned(),
            };
            Cell::text(text)
        };
        let mut cells = vec![
            Cell::text(edge.source.to_string()),
            Cell::text(edge.destination_name()),
            identity(&edge.client_identity),
            identity(&edge.server_identity),
            Cell::text(edge.security).tone(edge.tone),
            Cell::figure(number::rate(edge.figures.rps)),
            Cell::figure(number::count(edge.tcp_open)),
        ];
        if wide {
            let far = edge
                .destination
                .as_ref()
                .map_or("-", |d| d.namespace.as_str());
            cells.push(Cell::text(format!("{} → {far}", edge.source.namespace)));
            let [success, _, p50, p95, p99] = edge.figures.cells();
            cells.extend([success, p50, p95, p99]);
        }
        table.row(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge() -> Edge {
        let workload = |name: &str| {
            Some(v1::Workload {
                namespace: "shop".into(),
                kind: "deployment".into(),
                name: name.into(),
            })
        };
        Edge::from(v1::Edge {
            source: workload("web"),
            destination: workload("cart"),
            client_identity: "spiffe://cluster.local/ns/shop/sa/web".into(),
            server_identity: "spiffe://cluster.local/ns/shop/sa/cart".into(),
            security: Security::Mtls.into(),
            tcp_open: 2,
            ..Default::default()
        })
    }

    fn text(edges: &[Edge], format: Format) -> String {
        let mut out = Vec::new();
        table(edges, format).write(&mut out, false).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn identities_are_short_unless_wide() {
        let narrow = text(&[edge()], Format::Table);
        assert!(
            narrow.contains("deploy/web  deploy/cart  shop/web  shop/cart  mTLS"),
            "{narrow}"
        );
        let wide = text(&[edge()], Format::Wide);
        assert!(
            wide.contains("spiffe://cluster.local/ns/shop/sa/cart"),
            "{wide}"
        );
        assert!(wide.contains("shop → shop"), "{wide}");
    }

    #[test]
    fn json_says_each_key_once() {
        let json = serde_json::to_string(&edge()).unwrap();
        assert_eq!(json.matches(r#""secured":"#).count(), 1, "{json}");
        assert!(json.contains(r#""security":"mTLS""#), "{json}");
    }

    #[test]
    fn outside_shows_its_host_and_the_reason() {
        let outside = Edge::from(v1::Edge {
            authority: "example.com:443".into(),
            security: Security::Outside.into(),
            ..Default::default()
        });
        let narrow = text(&[outside], Format::Table);
        assert!(narrow.contains("example.com:443"), "{narrow}");
        assert!(narrow.contains("no: outside the mesh"), "{narrow}");
    }
}
