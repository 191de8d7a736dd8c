//! `mesh stat`: the golden figures per workload and service.

use anyhow::{Result, bail};
use mesh_api::v1::{self, EdgesRequest, EndpointsRequest, Selector, StatRequest};
use serde::Serialize;

use crate::{
    client::{self, Mesh, Replicas, Target},
    edges::{self, Edge, Resource},
    output::{Cell, Figures, Format, Print, Table, Tone, number},
    resource::{self, Scope},
};

/// Arguments of `mesh stat`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND, KIND/NAME or KIND NAME: deploy, sts, ds, job, po, svc or ns [default: workloads and services]
    #[arg(value_name = "KIND[/NAME]")]
    resources: Vec<String>,
    /// Only traffic to this resource
    #[arg(long, value_name = "KIND/NAME", conflicts_with = "from")]
    to: Option<String>,
    /// Only traffic from this resource
    #[arg(long, value_name = "KIND/NAME")]
    from: Option<String>,
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

/// What `mesh stat -o json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Seconds that the figures cover: less than asked when the mesh is younger.
    pub window_s: u32,
    /// One per workload or service.
    pub rows: Vec<Row>,
}

/// The figures of one resource.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its namespace.
    pub namespace: String,
    /// Lower-case kind: "deployment", "service", …
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Pods that belong to it.
    pub pods: u32,
    /// Pods with a proxy.
    pub meshed_pods: u32,
    /// Requests that it answered.
    #[serde(flatten)]
    pub figures: Figures,
    /// TCP connections to it, now.
    pub tcp_open: u64,
    /// Bytes that it received.
    pub read_bytes_per_s: f64,
    /// Bytes that it sent.
    pub written_bytes_per_s: f64,
}

/// Runs `mesh stat`.
///
/// # Errors
/// There is no mesh, it does not answer, or it knows no such resource.
pub fn run(args: Args) -> Result<()> {
    client::block_on(async {
        let mesh = Mesh::find(&args.mesh).await?;
        let selectors = args.scope.selectors(&mesh, &args.resources).await?;
        let scope = args.scope.of(&mesh);
        let other = |word: &Option<String>| word.as_ref().map(|w| scope.selector(w)).transpose();
        let (to, from) = (other(&args.to)?, other(&args.from)?);
        let requests: Vec<StatRequest> = selectors
            .into_iter()
            .map(|selector| StatRequest {
                selector: Some(selector),
                window_s: args.window,
                to: to.clone(),
                from: from.clone(),
            })
            .collect();
        let mut replicas = mesh.observe().await?;
        let ask = async || fetch(&mut replicas, &requests).await;
        let table = |report: &Report, format| Ok(table(&report.rows, format));
        args.print.answers(ask, table).await
    })
}

/// Asks for the figures of everything in `requests`; each resource is named once.
///
/// # Errors
/// The mesh does not answer, or it knows no such resource.
pub async fn fetch(replicas: &mut Replicas, requests: &[StatRequest]) -> Result<Report> {
    let mut report = Report {
        window_s: 0,
        rows: Vec::new(),
    };
    for request in requests {
        let response = replicas.stat(request.clone()).await?;
        report.window_s = report.window_s.max(response.window_s);
        report.rows.extend(response.rows.into_iter().map(Row::from));
    }
    if report.rows.is_empty() {
        bail!("{}", nothing(requests));
    }
    report.rows.sort_by(|a, b| a.key().cmp(&b.key()));
    report.rows.dedup_by(|a, b| a.key() == b.key());
    secure_connections(replicas, requests, &mut report.rows).await?;
    Ok(report)
}

/// Where no request tells how a resource is secured, the connections to its workloads do.
async fn secure_connections(
    replicas: &mut Replicas,
    requests: &[StatRequest],
    rows: &mut [Row],
) -> Result<()> {
    let silent = |row: &&mut Row| row.figures.requests() == 0;
    let window_s = requests.iter().map(|request| request.window_s).max();
    if rows.iter_mut().find(silent).is_none() {
        return Ok(());
    }
    let request = EdgesRequest {
        selector: Some(Selector::default()),
        window_s: window_s.unwrap_or_default(),
    };
    let edges = edges::fetch(replicas, &[request]).await?;
    for row in rows.iter_mut().filter(silent) {
        let resource = Resource {
            namespace: row.namespace.clone(),
            kind: row.kind.clone(),
            name: row.name.clone(),
        };
        let workloads = match row.kind.as_str() {
            "service" => workloads(replicas, resource).await?,
            _ => vec![resource],
        };
        let leads_here = |edge: &&Edge| {
            edge.destination
                .as_ref()
                .is_some_and(|to| workloads.contains(to))
        };
        let (mut all, mut secured) = (0, 0);
        for edge in edges.iter().filter(leads_here) {
            all += 1;
            secured += u32::from(edge.secured);
        }
        row.figures.secured_rate = (all > 0).then(|| f64::from(secured) / f64::from(all));
    }
    Ok(())
}

/// The columns of `mesh stat`.
pub(crate) fn table(rows: &[Row], format: Format) -> Table {
    let wide = format == Format::Wide;
    let namespaces = wide || rows.iter().any(|row| row.namespace != rows[0].namespace);
    let mut header = vec![
        "NAME", "MESHED", "SUCCESS", "RPS", "P50", "P95", "P99", "TCP", "SECURED",
    ];
    if namespaces {
        header.insert(0, "NAMESPACE");
    }
    if wide {
        header.extend(["REQUESTS", "FAILED", "RETRIED", "READ", "WRITTEN"]);
    }
    let mut table = Table::new(header);
    for row in rows {
        let mut cells = row.cells();
        if namespaces {
            cells.insert(0, Cell::text(row.namespace.as_str()));
        }
        if wide {
            cells.extend([
                Cell::figure(number::count(row.figures.requests())),
                Cell::figure(number::count(row.figures.failure)),
                Cell::figure(number::count(row.figures.retried)),
                Cell::figure(number::bytes_per_s(row.read_bytes_per_s)),
                Cell::figure(number::bytes_per_s(row.written_bytes_per_s)),
            ]);
        }
        table.row(cells);
    }
    table
}

/// The workloads behind a service, as far as proxies balance over them.
async fn workloads(replicas: &mut Replicas, service: Resource) -> Result<Vec<Resource>> {
    let request = EndpointsRequest {
        selector: Some(Selector {
            namespace: service.namespace,
            kind: service.kind,
            name: service.name,
        }),
    };
    let endpoints = replicas.endpoints(request).await?.rows;
    Ok(endpoints
        .into_iter()
        .filter_map(|row| row.load?.workload.map(Resource::from))
        .collect())
}

impl Row {
    // Workloads stand before services; `false` sorts first.
    fn key(&self) -> (&str, bool, &str, &str) {
        let service = self.kind == "service";
        (&self.namespace, service, &self.kind, &self.name)
    }

    fn cells(&self) -> Vec<Cell> {
        let meshed = match (self.meshed_pods, self.pods) {
            (_, 0) => Tone::Dim,
            (meshed, pods) if meshed == pods => Tone::Plain,
            _ => Tone::Warn,
        };
        let mut cells = vec![
            Cell::text(format!("{}/{}", resource::short(&self.kind), self.name)),
            Cell::figure(format!("{}/{}", self.meshed_pods, self.pods)).tone(meshed),
        ];
        cells.extend(self.figures.cells());
        cells.push(Cell::figure(number::count(self.tcp_open)));
        cells.push(self.figures.secured_cell());
        cells
    }
}

impl From<v1::StatRow> for Row {
    fn from(row: v1::StatRow) -> Self {
        Self {
            figures: Figures::from(&row.traffic),
            namespace: row.namespace,
            kind: row.kind,
            name: row.name,
            pods: row.pods,
            meshed_pods: row.meshed_pods,
            tcp_open: row.tcp_open,
            read_bytes_per_s: row.read_bytes_per_s,
            written_bytes_per_s: row.written_bytes_per_s,
        }
    }
}

fn nothing(requests: &[StatRequest]) -> String {
    let selector = requests
        .iter()
        .find_map(|request| request.selector.as_ref());
    match selector {
        Some(Selector {
            kind, namespace, ..
        }) => {
            let what = if kind.is_empty() { "workload" } else { kind };
            let place = match namespace.as_str() {
                "" => String::new(),
                name => format!(" in the namespace {name}"),
            };
            format!("There is no {what}{place}.")
        }
        None => "There is nothing to show.".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(namespace: &str, kind: &str, name: &str) -> Row {
        Row::from(v1::StatRow {
            namespace: namespace.into(),
            kind: kind.into(),
            name: name.into(),
            pods: 3,
            meshed_pods: 3,
            traffic: Some(v1::Traffic {
                success: 99,
                failure: 1,
                rps: 10.0,
                secured: 100,
                ..Default::default()
            }),
            tcp_open: 4,
            ..Default::default()
        })
    }

    fn text(rows: &[Row], format: Format) -> String {
        let mut out = Vec::new();
        table(rows, format).write(&mut out, false).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn namespaces_show_where_there_are_several() {
        let mut rows = vec![row("shop", "deployment", "web")];
        assert_eq!(
            text(&rows, Format::Table),
            "NAME        MESHED  SUCCESS   RPS  P50  P95  P99  TCP  SECURED\n\
             deploy/web     3/3   99.00%  10.0    -    -    -    4     100%\n"
        );
        rows.push(row("other", "service", "web"));
        assert!(text(&rows, Format::Table).starts_with("NAMESPACE  NAME"));
        assert!(text(&rows, Format::Wide).contains("WRITTEN"));
    }

    #[test]
    fn workloads_stand_before_services() {
        let mut rows = [
            row("a", "service", "a"),
            row("a", "statefulset", "z"),
            row("a", "deployment", "b"),
        ];
        rows.sort_by(|a, b| a.key().cmp(&b.key()));
        assert_eq!(rows[0].kind, "deployment");
        assert_eq!(rows[2].kind, "service");
    }
}
