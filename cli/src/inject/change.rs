//! One document, changed.

use anyhow::Context;
use mesh_api::names;
use mesh_controller::inject::{self, Injection};
use serde_json::Value;

use super::{
    document::{self, Document},
    edit,
    facts::Facts,
    report::{Line, Outcome},
    tree::Step,
    workload::{self, Caveat, Place},
};

const LABEL: [&str; 3] = ["metadata", "labels", names::LABEL_INJECT];

/// What is done to pods.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mode<'a> {
    /// Ask the webhook.
    Label(&'a Facts),
    /// Do as the webhook would.
    Render(&'a Facts),
    /// Undo both.
    Remove,
}

/// A document's new text, and what there is to say of it.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) text: String,
    pub(super) lines: Vec<Line>,
    /// Objects without pods.
    pub(super) others: usize,
}

/// Changes the pods of one document.
///
/// # Errors
/// A pod asks for what can't be done.
pub(super) fn change(document: &Document<'_>, mode: &Mode<'_>) -> anyhow::Result<Change> {
    let contents = workload::contents(&document.value);
    let mut value = document.value.clone();
    let (mut lines, mut changed) = (Vec::new(), Vec::new());
    for place in contents.places {
        let pod = workload::at(&document.value, &place.path);
        let (new, line) = decide(pod, &place, mode).with_context(|| place.title.clone())?;
        lines.push(line);
        if new != *pod {
            workload::replace(&mut value, &place.path, new);
            changed.push(place);
        }
    }
    let text = match changed.as_slice() {
        [] => document.text.to_owned(),
        places => match edited(document, places, mode, &value) {
            Some(text) => text,
            None => document.with_value(&value)?,
        },
    };
    Ok(Change {
        text,
        lines,
        others: contents.others,
    })
}

/// A pod as it shall be, and why.
fn decide(pod: &Value, place: &Place, mode: &Mode<'_>) -> anyhow::Result<(Value, Line)> {
    let (new, outcome, remarks) = match mode {
        Mode::Remove => {
            let new = inject::uninject(pod);
            let outcome = match new == *pod {
                true => Outcome::Unchanged("it has neither a proxy nor the label".into()),
                false => Outcome::Changed,
            };
            (new, outcome, Vec::new())
        }
        Mode::Label(facts) => injected(pod, place, facts, false)?,
        Mode::Render(facts) => injected(pod, place, facts, true)?,
    };
    let line = Line {
        title: place.title.clone(),
        namespace: place.namespace.clone(),
        outcome,
        remarks,
    };
    Ok((new, line))
}

fn injected(
    pod: &Value,
    place: &Place,
    facts: &Facts,
    render: bool,
) -> anyhow::Result<(Value, Outcome, Vec<String>)> {
    let stays = |outcome| Ok((pod.clone(), outcome, Vec::new()));
    if let Some(Caveat::Owned(owner)) = &place.caveat {
        return stays(Outcome::Skipped(format!("{owner} makes it: inject that")));
    }
    if pod["spec"]["containers"].is_null() {
        return stays(Outcome::Skipped("it has no pod template".into()));
    }
    // Also where the pod opted out, so that it is `inject` that says so.
    let opted_out = pod["metadata"]["labels"][names::LABEL_INJECT] == "disabled";
    let labelled = match opted_out {
        true => pod.clone(),
        false => inject::opt_in(pod)?,
    };
    let namespace = facts.namespace(place.namespace.as_deref());
    let new = match inject::inject(&labelled, &namespace, &facts.settings)? {
        Injection::Skipped(reason) => return stays(Outcome::Skipped(reason.to_string())),
        Injection::Injected(injected) if render => injected,
        Injection::Injected(_) => labelled,
    };
    let mut remarks: Vec<String> = inject::remarks(pod, &namespace)
        .iter()
        .map(ToString::to_string)
        .collect();
    if place.caveat == Some(Caveat::Immutable) {
        remarks.push(
            "it runs already and can't be changed: kubectl replace --force makes it anew".into(),
        );
    }
    let outcome = match new == *pod {
        true => Outcome::Unchanged("it has the label already".into()),
        false => Outcome::Changed,
    };
    Ok((new, outcome, remarks))
}

/// The document's text with only the label changed, if that makes it mean `wanted`.
fn edited(
    document: &Document<'_>,
    places: &[Place],
    mode: &Mode<'_>,
    wanted: &Value,
) -> Option<String> {
    let tree = document.tree()?;
    let mut edits = Vec::new();
    for place in places {
        let (mut parent, mut node) = (None, &tree);
        for step in &place.path {
            parent = match step {
                Step::Key(key) => node.entry(key),
                Step::Item(_) => None,
            };
            node = node.step(*step)?;
        }
        edits.push(match mode {
            Mode::Label(_) => edit::insert(document.text, parent, node, &LABEL, "enabled")?,
            Mode::Remove => edit::remove(document.text, node, &LABEL)?,
            Mode::Render(_) => return None,
        });
    }
    let text = edit::apply(document.text, edits);
    let means = document::parse(document.format, &text).ok()?;
    (means == *wanted).then_some(text)
}
