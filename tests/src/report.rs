//! What `mesh-testapp` prints as JSON and the tests read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One named check of a client.
#[derive(Debug, Serialize, Deserialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// Why it failed.
    pub error: Option<String>,
    /// A figure worth printing; may be empty.
    pub detail: String,
    /// How long it took.
    pub ms: f64,
}

/// What a load generator saw.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Load {
    /// Requests sent.
    pub sent: u64,
    /// Requests that were answered well.
    pub ok: u64,
    /// The others.
    pub failed: u64,
    /// The others by what happened.
    pub errors: BTreeMap<String, u64>,
    /// Good answers per replica.
    pub replicas: BTreeMap<String, u64>,
    /// Latency from the intended time of sending, milliseconds.
    pub p50_ms: f64,
    /// As above.
    pub p95_ms: f64,
    /// As above.
    pub p99_ms: f64,
    /// As above.
    pub max_ms: f64,
    /// Per second of the run, by the intended time of sending.
    pub seconds: Vec<Second>,
}

/// One second of a [`Load`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Second {
    /// Requests that were answered well.
    pub ok: u64,
    /// The others.
    pub failed: u64,
    /// 95th percentile of the latency, milliseconds.
    pub p95_ms: f64,
    /// All answers per replica, good or not.
    pub replicas: BTreeMap<String, u64>,
}

/// What a raw capture of all links saw.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Capture {
    /// Frames that carry TCP to or from the watched port.
    pub frames: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Those with the marker in clear.
    pub marker: u64,
    /// Those that begin with a TLS 1.2/1.3 application-data record.
    pub tls: u64,
}

/// The answer of the proxy to one malformed request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Malformed {
    /// What is wrong with the request.
    pub name: String,
    /// What the table asks for.
    pub expected: String,
    /// What came.
    pub got: String,
    /// Whether that is the same.
    pub ok: bool,
}

/// What a client that strains a proxy's memory saw.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Strain {
    /// Connections that were opened.
    pub opened: u64,
    /// Of these, how many the other side had closed at the end.
    pub closed: u64,
    /// Requests that were answered well.
    pub answered: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// How long it took.
    pub ms: f64,
    /// The first thing that went wrong; empty if nothing did.
    pub error: String,
}
