//! `mesh tap`: single requests as they happen.

use anyhow::{Result, anyhow};
use futures_util::StreamExt;
use jiff::{Timestamp, tz::TimeZone};
use mesh_api::v1::{Direction, Selector, TapEvent, TapFilter, TapRequest, Workload};
use serde::Serialize;

use crate::{
    client::{self, Mesh, Target},
    edges,
    output::{Format, Output, Tone, number, shorten},
    resource::{self, Namespaced, Scope},
};

/// Arguments of `mesh tap`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Requests that these send or answer, such as deploy/web or deploy web [default: all]
    #[arg(value_name = "KIND[/NAME]")]
    resources: Vec<String>,
    /// Only requests to this workload
    #[arg(long, value_name = "KIND/NAME")]
    to: Option<String>,
    /// Only requests from this workload
    #[arg(long, value_name = "KIND/NAME")]
    from: Option<String>,
    /// Only requests with this method
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Only requests whose path starts so
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Only responses with this status: 404, 5xx or 400-499
    #[arg(long, value_parser = parse_status, value_name = "STATUS")]
    status: Option<(u32, u32)>,
    /// Only requests to this host
    #[arg(long, value_name = "HOST")]
    authority: Option<String>,
    /// Requests per second at most, per proxy
    #[arg(long, default_value_t = 100, value_name = "N")]
    max_rps: u32,
    /// Output format; json is one object a line
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    mesh: Target,
}

/// Runs `mesh tap` until it is interrupted.
///
/// # Errors
/// There is no mesh, it knows no such workload, or it ended meanwhile.
pub fn run(args: Args) -> Result<()> {
    client::block_on(async {
        let mesh = Mesh::find(&args.mesh).await?;
        let selected = args.scope.selectors(&mesh, &args.resources).await?;
        let request = args.request(&args.scope.of(&mesh), &selected)?;
        let mut output = Output::stdout();
        let mut events = mesh.observe().await?.tap(request).await?;
        while let Some(event) = events.next().await {
            let event = event?;
            if !selected.iter().any(|selector| involves(&event, selector)) {
                continue;
            }
            match args.output {
                Format::Json => output.json(&Event::from(&event), true)?,
                format => {
                    let line = line(&event, format, &TimeZone::system(), output.color);
                    output.line(&line)?;
                }
            }
        }
        Err(anyhow!("The mesh ended, and the tap with it."))
    })
}

impl Args {
    /// A tap has one filter: of several resources it is their namespace, and [`involves`] selects.
    fn request(&self, scope: &Namespaced, selected: &[Selector]) -> Result<TapRequest> {
        let side = |word: &Option<String>| -> Result<Option<Workload>> {
            let selector = word.as_ref().map(|w| scope.selector(w)).transpose()?;
            Ok(selector.map(resource::side))
        };
        let workload = match selected {
            [one] => resource::side(one.clone()),
            _ => resource::side(scope.everything()),
        };
        let (status_min, status_max) = self.status.unwrap_or_default();
        Ok(TapRequest {
            max_rps: self.max_rps,
            filter: Some(TapFilter {
                workload: (workload != Workload::default()).then_some(workload),
                to: side(&self.to)?,
                from: side(&self.from)?,
                method: self.method.as_deref().unwrap_or_default().to_uppercase(),
                path_prefix: self.path.clone().unwrap_or_default(),
                authority: self.authority.clone().unwrap_or_default(),
                status_min,
                status_max,
            }),
        })
    }
}

/// Whether a request is sent or answered by what is selected.
fn involves(event: &TapEvent, selector: &Selector) -> bool {
    let is = |wanted: &str, actual: &str| wanted.is_empty() || wanted == actual;
    let side = |workload: &Option<Workload>, pod: &str| {
        workload.as_ref().is_some_and(|workload| {
            is(&selector.namespace, &workload.namespace)
                && match selector.kind.as_str() {
                    "namespace" => is(&selector.name, &workload.namespace),
                    "pod" => is(&selector.name, pod),
                    "" => is(&selector.name, &workload.name),
                    kind => kind == workload.kind && is(&selector.name, &workload.name),
                }
        })
    };
    let service = matches!(selector.kind.as_str(), "" | "service")
        && event.service.as_ref().is_some_and(|service| {
            is(&selector.namespace, &service.namespace) && is(&selector.name, &service.name)
        });
    let anything = *selector == Selector::default();
    anything
        || service
        || side(&event.source, &event.source_pod)
        || side(&event.destination, &event.destination_pod)
}

/// What `mesh tap -o json` prints.
#[derive(Serialize)]
struct Event<'a> {
    at: String,
    direction: &'static str,
    source: edges::Resource,
    source_pod: &'a str,
    destination: edges::Resource,
    destination_pod: &'a str,
    service: Option<String>,
    security: &'static str,
    peer_identity: &'a str,
    version: &'a str,
    method: &'a str,
    authority: &'a str,
    path: &'a str,
    status: Option<u32>,
    grpc_status: Option<i32>,
    latency_ms: f64,
    retries: u32,
    error: &'a str,
    request_bytes: u64,
    response_bytes: u64,
}

impl<'a> From<&'a TapEvent> for Event<'a> {
    fn from(event: &'a TapEvent) -> Self {
        Self {
            at: timestamp(event).to_string(),
            direction: match event.direction() {
                Direction::Inbound => "inbound",
                Direction::Outbound => "outbound",
                Direction::Unspecified => "unknown",
            },
            source: event.source.clone().unwrap_or_default().into(),
            source_pod: &event.source_pod,
            destination: event.destination.clone().unwrap_or_default().into(),
            destination_pod: &event.destination_pod,
            service: event.service.as_ref().map(ToString::to_string),
            security: edges::security(event.security()).0,
            peer_identity: &event.peer_identity,
            version: &event.version,
            method: &event.method,
            authority: &event.authority,
            path: &event.path,
            status: (event.status != 0).then_some(event.status),
            grpc_status: (event.grpc_status >= 0).then_some(event.grpc_status),
            latency_ms: event.latency_us as f64 / 1000.0,
            retries: event.retries,
            error: &event.error,
            request_bytes: event.request_bytes,
            response_bytes: event.response_bytes,
        }
    }
}

/// One request on one line. The first columns have fixed widths, so that lines align without knowing the
/// next one.
fn line(event: &TapEvent, format: Format, zone: &TimeZone, color: bool) -> String {
    let wide = format == Format::Wide;
    let time = timestamp(event).to_zoned(zone.clone());
    let time = time.strftime("%H:%M:%S%.3f").to_string();
    let source = end(event.source.as_ref(), &event.source_pod, "");
    let destination = end(
        event.destination.as_ref(),
        &event.destination_pod,
        &event.authority,
    );
    let (status, tone) = status(event);
    let mut parts = vec![
        Tone::Dim.paint(&time, color),
        match wide {
            true => format!("{source} → {destination}"),
            false => format!(
                "{:<16} → {:<16}",
                shorten(&source, 16),
                shorten(&destination, 16)
            ),
        },
        tone.paint(&format!("{status:<8}"), color),
        format!("{:>6}", number::duration(event.latency_us)),
        format!("{} {}", event.method, event.path),
    ];
    let (security, secured, security_tone) = edges::security(event.security());
    if wide || !secured {
        parts.push(security_tone.paint(security, color));
    }
    if event.retries > 0 {
        parts.push(Tone::Warn.paint(&format!("retries={}", event.retries), color));
    }
    if wide {
        parts.push(format!(
            "{} {} {}→{}B {}",
            event.version,
            event.authority,
            event.request_bytes,
            event.response_bytes,
            event.peer_identity
        ));
    }
    if !event.error.is_empty() {
        parts.push(Tone::Bad.paint(&format!("mesh-error={:?}", event.error), color));
    }
    parts.join("  ").trim_end().to_owned()
}

/// The pod's name where it is known: it says which replica. Else the workload's, else the host.
fn end(workload: Option<&Workload>, pod: &str, authority: &str) -> String {
    match (pod, workload) {
        ("", Some(workload)) if !workload.name.is_empty() => resource::workload_name(workload),
        ("", _) if authority.is_empty() => "unknown".into(),
        ("", _) => authority.into(),
        (pod, _) => pod.into(),
    }
}

/// The HTTP status, with the gRPC status beside it, and the tone of both.
fn status(event: &TapEvent) -> (String, Tone) {
    let tone = match (event.status, event.grpc_status) {
        (0 | 500.., _) => Tone::Bad,
        (400.., _) => Tone::Warn,
        (_, ..=0) => Tone::Good,
        (_, _) => Tone::Bad,
    };
    let text = match (event.status, event.grpc_status) {
        (0, _) => "none".into(),
        (status, ..0) => status.to_string(),
        (status, grpc) => format!("{status}/{grpc}"),
    };
    (text, tone)
}

fn timestamp(event: &TapEvent) -> Timestamp {
    i64::try_from(event.at_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or_default()
}

/// `404`, `5xx` or `400-499`, as an inclusive range.
fn parse_status(text: &str) -> Result<(u32, u32), String> {
    let one = |text: &str| {
        text.parse::<u32>()
            .ok()
            .filter(|status| (100..=999).contains(status))
    };
    let range = if let Some(class) = text.to_ascii_lowercase().strip_suffix("xx") {
        let class = class.parse::<u32>().ok().filter(|c| (1..=9).contains(c));
        class.map(|class| (class * 100, class * 100 + 99))
    } else if let Some((low, high)) = text.split_once('-') {
        one(low).zip(one(high)).filter(|(low, high)| low <= high)
    } else {
        one(text).map(|status| (status, status))
    };
    range.ok_or_else(|| "take a status like 404, 5xx or 400-499".into())
}

#[cfg(test)]
mod tests {
    use mesh_api::v1::Security;

    use super::*;

    fn event() -> TapEvent {
        let workload = |name: &str| {
            Some(Workload {
                namespace: "shop".into(),
                kind: "deployment".into(),
                name: name.into(),
            })
        };
        TapEvent {
            direction: Direction::Outbound.into(),
            source: workload("web"),
            source_pod: "web-1".into(),
            destination: workload("catalog"),
            security: Security::Mtls.into(),
            version: "HTTP/1.1".into(),
            method: "GET".into(),
            path: "/products/3".into(),
            status: 200,
            grpc_status: -1,
            latency_us: 12_000,
            at_ms: 1_800_000_000_123,
            ..Default::default()
        }
    }

    #[test]
    fn a_request_on_a_line() {
        let text = line(&event(), Format::Table, &TimeZone::UTC, false);
        assert_eq!(
            text,
            "08:00:00.123  web-1            → deploy/catalog    200         12ms  GET /products/3"
        );
    }

    #[test]
    fn what_is_odd_is_named() {
        let odd = TapEvent {
            status: 503,
            retries: 1,
            error: "no endpoint of shop/catalog:80 is ready".into(),
            security: Security::PeerNotMeshed.into(),
            ..event()
        };
        let text = line(&odd, Format::Table, &TimeZone::UTC, true);
        assert!(text.contains("\x1b[31m503"), "{text}");
        assert!(text.contains("retries=1"), "{text}");
        assert!(text.contains("no: peer not meshed"), "{text}");
        assert!(text.contains("mesh-error=\"no endpoint"), "{text}");
    }

    #[test]
    fn several_resources_are_selected_here() {
        let selects = |namespace: &str, kind: &str, name: &str| {
            let selector = Selector {
                namespace: namespace.into(),
                kind: kind.into(),
                name: name.into(),
            };
            involves(&event(), &selector)
        };
        assert!(selects("", "", "") && selects("shop", "", ""));
        assert!(selects("shop", "deployment", "web") && selects("", "deployment", "catalog"));
        assert!(selects("", "pod", "web-1") && selects("", "namespace", "shop"));
        assert!(!selects("other", "", "") && !selects("", "deployment", "cart"));
        assert!(!selects("", "statefulset", "web") && !selects("", "service", "web"));
    }

    #[test]
    fn grpc_failures_are_failures() {
        let grpc = |grpc_status| TapEvent {
            grpc_status,
            ..event()
        };
        assert_eq!(status(&grpc(0)), ("200/0".into(), Tone::Good));
        assert_eq!(status(&grpc(13)), ("200/13".into(), Tone::Bad));
        assert_eq!(status(&event()), ("200".into(), Tone::Good));
    }

    #[test]
    fn statuses() {
        assert_eq!(parse_status("404"), Ok((404, 404)));
        assert_eq!(parse_status("5xx"), Ok((500, 599)));
        assert_eq!(parse_status("5XX"), Ok((500, 599)));
        assert_eq!(parse_status("400-499"), Ok((400, 499)));
        for text in ["", "xx", "0xx", "99", "1000", "500-400", "ok", "-", "é"] {
            assert!(parse_status(text).is_err(), "{text}");
        }
    }
}
