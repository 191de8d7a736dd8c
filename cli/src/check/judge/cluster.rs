//! The cluster itself: reachable, new enough, with the rights that are needed, on time.

use jiff::Timestamp;

use super::super::{
    codes::{K01, K02, K03, K04, K05, K06},
    facts::{Facts, Found, Right},
    line::{Line, few},
};

/// The oldest minor version whose APIs are all there.
const OLDEST: u32 = 25;
/// Native sidecars are on by default from here (KEP-753).
const NATIVE_SIDECARS: u32 = 29;
/// A leaf is valid from a minute before it was issued; half of that may be off before anything fails.
const CLOCK_TOLERANCE_S: i64 = 30;

pub(super) fn lines(facts: &Facts) -> Vec<Line> {
    let cluster = &facts.cluster;
    let (version, clock) = match &cluster.version {
        Ok(answer) => answer,
        Err(cause) => {
            let fix = "Check the context, the network and the credentials: kubectl version has to work first.";
            return vec![Line::failure(K01, cause, fix)];
        }
    };
    let mut lines = vec![Line::well(K01, format!("context {}", cluster.context))];
    lines.extend(version_lines(version));
    lines.push(rights(&cluster.rights));
    lines.extend(clock.map(|clock| time(facts.now, clock)));
    lines.push(match &cluster.gateway_api {
        Ok(versions) if versions.is_empty() => Line::well(
            K06,
            "not installed: no traffic rules, everything else works",
        ),
        Ok(versions) => Line::well(K06, format!("installed: {}", versions.join(", "))),
        Err(cause) => Line::warning(K06, cause, "Traffic rules were not looked at: try again."),
    });
    lines
}

fn version_lines(version: &str) -> Vec<Line> {
    let Some(minor) = minor(version) else {
        let cause = format!("The API server says that its version is {version:?}.");
        return vec![Line::warning(
            K02,
            cause,
            "Check that 1.25 or a later one is meant.",
        )];
    };
    let supported = if minor < OLDEST {
        Line::failure(
            K02,
            format!("Kubernetes {version} is older than 1.{OLDEST}."),
            "Upgrade the cluster.",
        )
    } else {
        Line::well(K02, version)
    };
    let native = if minor < NATIVE_SIDECARS {
        Line::warning(
            K03,
            format!(
                "Kubernetes {version} has no native sidecars: apps may start before their proxy."
            ),
            format!(
                "Upgrade the cluster to 1.{NATIVE_SIDECARS} or later, or know that pods of Jobs get no proxy."
            ),
        )
    } else {
        Line::well(K03, "")
    };
    vec![supported, native]
}

/// The minor version of Kubernetes 1.
fn minor(version: &str) -> Option<u32> {
    let rest = version.trim_start_matches('v').strip_prefix("1.")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn rights(rights: &Found<Vec<Right>>) -> Line {
    let rights = match rights {
        Ok(rights) => rights,
        Err(cause) => {
            return Line::warning(
                K04,
                cause,
                "What you have no right to will show below, or when you install.",
            );
        }
    };
    let missing = |needed: bool| -> Vec<String> {
        let missing = rights.iter().filter(|r| !r.allowed && r.needed == needed);
        missing.map(words).collect()
    };
    let (needed, useful) = (missing(true), missing(false));
    if !needed.is_empty() {
        Line::failure(
            K04,
            format!("You may not {}.", few(&needed)),
            "Ask an administrator of the cluster for these rights, or take a --context that has them.",
        )
    } else if !useful.is_empty() {
        Line::warning(
            K04,
            format!("You may not {}: some checks are left out.", few(&useful)),
            "Ask for these rights, or check one namespace with -n.",
        )
    } else {
        Line::well(K04, "")
    }
}

fn words(right: &Right) -> String {
    let place = match right.namespace.as_str() {
        "" => String::new(),
        namespace => format!(" in {namespace}"),
    };
    format!("{} {}{place}", right.verb, right.resource)
}

fn time(now: Timestamp, clock: Timestamp) -> Line {
    let off = now.as_second() - clock.as_second();
    match off.abs() {
        0..=CLOCK_TOLERANCE_S => Line::well(K05, ""),
        seconds => {
            let side = if off > 0 { "ahead of" } else { "behind" };
            Line::warning(
                K05,
                format!("This machine's clock is {seconds} s {side} the API server's."),
                "Synchronise the clocks (NTP): of this machine, and of the nodes if it is theirs that are wrong.",
            )
        }
    }
}
