//! A proxy beside a pod: the pod as it is wanted in, the pod with its proxy out.
//!
//! One pure function, shared by the webhook and `mesh inject --manual`, so that both give the same pod. Pods
//! are JSON values, so that no field is lost that this version does not know. What keeps a pod from getting a
//! proxy is a [`Reason`]; an annotation that can't be read is [`Invalid`].

mod overrides;
mod pod;
mod probe;
mod reason;
mod remark;
mod settings;
mod sidecar;

use mesh_api::names;
pub use overrides::Invalid;
pub use pod::NamespaceFacts;
pub use reason::Reason;
pub use remark::{Remark, remarks};
use serde_json::Value;
pub use settings::{Resources, Settings};

/// What became of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Injection {
    /// The pod with its proxy.
    Injected(Value),
    /// The pod stays as it is.
    Skipped(Reason),
}

/// Puts a proxy beside a pod.
///
/// `pod` is anything with `metadata` and `spec`: a Pod or a pod template. The same input always gives the same
/// output, and injecting a pod that has a proxy is [`Reason::AlreadyInjected`].
///
/// # Errors
/// An annotation of the pod or of its namespace says what can't be done.
pub fn inject(
    pod: &Value,
    namespace: &NamespaceFacts,
    settings: &Settings,
) -> Result<Injection, Invalid> {
    pod::check_shape(pod)?;
    if let Some(reason) = reason::to_skip(pod, namespace) {
        return Ok(Injection::Skipped(reason));
    }
    let overrides = overrides::read(pod, namespace, settings)?;
    if let Some(reason) = reason::to_skip_unless_native(pod, overrides.native_sidecar) {
        return Ok(Injection::Skipped(reason));
    }
    Ok(Injection::Injected(pod::with_proxy(
        pod, &overrides, settings,
    )))
}

/// Opts a pod in: the label that has the webhook inject it.
///
/// # Errors
/// It is no pod.
pub fn opt_in(pod: &Value) -> Result<Value, Invalid> {
    pod::check_shape(pod)?;
    let mut pod = pod.clone();
    pod["metadata"]["labels"][names::LABEL_INJECT] = "enabled".into();
    Ok(pod)
}

/// The pod without proxy and without the label that asks for one: the inverse of [`opt_in`] and [`inject`].
///
/// A pod that opted out stays opted out.
pub fn uninject(pod: &Value) -> Value {
    let mut pod = pod::without_proxy(pod);
    if pod::label(&pod, names::LABEL_INJECT) == Some("enabled") {
        pod::remove_from_metadata(&mut pod, "labels", names::LABEL_INJECT);
    }
    pod
}

#[cfg(test)]
mod tests;
