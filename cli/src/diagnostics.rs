//! `mesh diagnostics`: what one pod's proxy believes, for when its behaviour surprises.

use anyhow::Result;
use clap::Subcommand;

use crate::{
    belief::{Belief, PodArgs},
    client,
    output::{Cell, Output, Table, Tone, number},
};

/// What to look at.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Everything that a pod's proxy believes, as JSON
    ProxyConfig(PodArgs),
    /// Where a pod's proxy sends to: destinations that it has met, their endpoints, and how these stand
    Endpoints(PodArgs),
    /// How a pod's proxy treats what comes in, port by port
    Policy(PodArgs),
}

/// Runs `mesh diagnostics`.
///
/// # Errors
/// There is no such pod, or it has no proxy that answers.
pub fn run(command: Command) -> Result<()> {
    client::block_on(async {
        let mut output = Output::stdout();
        match command {
            Command::ProxyConfig(pod) => {
                output.text(&String::from_utf8_lossy(&pod.read().await?))?;
            }
            Command::Endpoints(pod) => output.table(&endpoints(&pod.belief().await?), false)?,
            Command::Policy(pod) => output.table(&policy(&pod.belief().await?), false)?,
        }
        Ok(())
    })
}

fn endpoints(belief: &Belief) -> Table {
    let mut table = Table::new(vec![
        "DESTINATION",
        "NAME",
        "PROTOCOL",
        "ENDPOINT",
        "POD",
        "WEIGHT",
        "LATENCY",
        "PENDING",
        "BREAKER",
        "SECURED",
    ]);
    for destination in &belief.destinations {
        let name = destination.name.as_deref().unwrap_or(&destination.kind);
        let start = || {
            [&destination.address, name, &destination.protocol]
                .map(Cell::text)
                .to_vec()
        };
        if destination.endpoints.is_empty() {
            let mut cells = start();
            let none = || Cell::figure(number::NONE).tone(Tone::Dim);
            cells.extend([Cell::text(number::NONE), Cell::text(number::NONE)]);
            cells.extend([none(), none(), none()]);
            cells.extend([Cell::text(number::NONE), Cell::text(number::NONE)]);
            table.row(cells);
        }
        for endpoint in &destination.endpoints {
            let mut cells = start();
            cells.extend([Cell::text(&endpoint.address), Cell::text(&endpoint.pod)]);
            cells.push(Cell::figure(endpoint.weight.to_string()));
            let (latency, pending, breaker) = match &endpoint.load {
                Some(load) => (
                    number::duration((load.ewma_ms * 1000.0) as u64),
                    load.pending.to_string(),
                    load.breaker.as_str(),
                ),
                None => (number::NONE.into(), number::NONE.into(), number::NONE),
            };
            let tone = match breaker {
                "open" => Tone::Bad,
                "probing" => Tone::Warn,
                _ => Tone::Plain,
            };
            cells.extend([Cell::figure(latency), Cell::figure(pending)]);
            cells.push(Cell::text(breaker).tone(tone));
            cells.push(match endpoint.identity {
                Some(_) => Cell::text("mTLS").tone(Tone::Good),
                None => Cell::text("no").tone(Tone::Warn),
            });
            table.row(cells);
        }
    }
    table
}

fn policy(belief: &Belief) -> Table {
    let mut table = Table::new(vec!["PORT", "PROTOCOL", "SERVICE"]);
    for port in &belief.inbound.ports {
        table.row(vec![
            Cell::figure(port.port.to_string()),
            Cell::text(&port.protocol),
            Cell::text(port.service.as_deref().unwrap_or(number::NONE)),
        ]);
    }
    table.row(vec![
        Cell::figure("other"),
        Cell::text("detect"),
        Cell::text(number::NONE),
    ]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::belief;

    const BELIEF: &str = r#"{
        "version": "0.1.0", "namespace": "shop", "pod": "web-1", "ready": true, "certificate": null,
        "inbound": {"workload": "shop/deployment/web", "zone": "", "ports": [
            {"port": 8080, "protocol": "http", "service": "shop/web:80"}
        ]},
        "destinations": [
            {"address": "10.96.0.7:80", "kind": "service", "name": "shop/cart:80", "protocol": "detect", "endpoints": [
                {"address": "10.0.0.2:8080", "pod": "cart-1", "workload": null, "zone": "", "weight": 1,
                 "identity": "spiffe://cluster.local/ns/shop/sa/cart",
                 "load": {"ewma_ms": 2.5, "pending": 1, "breaker": "open", "consecutive_failures": 7}}
            ]},
            {"address": "192.0.2.1:443", "kind": "outside", "protocol": "detect", "endpoints": []}
        ]
    }"#;

    fn text(table: &Table) -> String {
        let mut out = Vec::new();
        table.write(&mut out, false).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn tables_of_a_belief() {
        let belief: Belief = belief::parse(BELIEF.as_bytes()).unwrap();
        insta::assert_snapshot!(text(&endpoints(&belief)));
        insta::assert_snapshot!(text(&policy(&belief)));
    }
}
