//! From facts to lines. Pure: the same facts always give the same lines.

mod cluster;
mod control;
mod data;
pub(super) mod machine;

use super::{facts::Facts, line::Line};

/// What is to be said of a cluster.
pub(super) fn all(facts: &Facts) -> Vec<Line> {
    let mut lines = cluster::lines(facts);
    if let Some(control) = &facts.control {
        lines.extend(control::lines(facts, control));
    }
    if let Some(data) = &facts.data {
        lines.extend(data::lines(facts, data));
    }
    lines.sort_by_key(|line| (line.code.section, line.code.code));
    lines
}
