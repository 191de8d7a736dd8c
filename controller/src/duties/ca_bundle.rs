//! The webhook's `caBundle`: what the API server verifies the injector's certificate against.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt;
use k8s_openapi::{ByteString, api::admissionregistration::v1::MutatingWebhookConfiguration};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use mesh_api::names;
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use crate::ca::Bundle;

/// When what has failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Between two writes: somebody else who writes another bundle again and again must not make both spin.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps the webhook's bundle as it should be, for ever, whoever else writes or installs it anew.
pub(super) async fn keep(client: &Client, mut bundle: watch::Receiver<Arc<Bundle>>) {
    // Untyped, so that a field which this version does not know survives.
    let resource = ApiResource::erase::<MutatingWebhookConfiguration>(&());
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut changes = pin!(watcher::watch_object(api.clone(), names::WEBHOOK).default_backoff());
    let mut current: Option<DynamicObject> = None;
    loop {
        let pem = bundle.borrow_and_update().pem.clone();
        let mut failed = false;
        if let Some(patch) = current.as_ref().and_then(|current| patch(current, &pem)) {
            let result = api
                .patch(
                    names::WEBHOOK,
                    &PatchParams::default(),
                    &Patch::Merge(patch),
                )
                .await;
            match result {
                Ok(after) => {
                    tracing::info!(webhook = names::WEBHOOK, "caBundle written");
                    current = Some(after);
                }
                // It has changed meanwhile, which the watch is about to tell.
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {
                    current = None;
                }
                Err(error) => {
                    tracing::error!(%error, "caBundle can't be written: pods are created without their proxies");
                    failed = true;
                }
            }
            sleep(if failed { RETRY } else { PAUSE }).await;
        }
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(configuration)) => current = configuration,
                Some(Err(error)) => tracing::warn!(%error, "watching the webhook's configuration failed; it is tried again"),
                None => return,
            },
            Ok(()) = bundle.changed() => {}
            () = std::future::ready(()), if failed => {}
        }
    }
}

/// The patch that puts `pem` into every webhook of the configuration; `None` if it is there. It is refused if
/// the configuration has changed meanwhile.
fn patch(configuration: &DynamicObject, pem: &str) -> Option<Value> {
    let wanted = serde_json::to_value(ByteString(pem.into())).ok()?;
    let mut webhooks = configuration.data.get("webhooks")?.clone();
    let mut differs = false;
    for webhook in webhooks.as_array_mut()? {
        let client = webhook.get_mut("clientConfig")?.as_object_mut()?;
        differs |= client.insert("caBundle".into(), wanted.clone()).as_ref() != Some(&wanted);
    }
    let version = configuration.metadata.resource_version.as_deref();
    differs.then(|| json!({"metadata": {"resourceVersion": version}, "webhooks": webhooks}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(webhooks: Value) -> DynamicObject {
        let object = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "mesh-webhook", "resourceVersion": "7"}, "webhooks": webhooks,
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn every_webhook_gets_the_bundle_and_keeps_the_rest() {
        let before = configuration(json!([
            {"name": "a", "clientConfig": {"service": {"name": "s"}}, "unheardOf": [1]},
            {"name": "b", "clientConfig": {"caBundle": "b2xk"}},
        ]));
        let patch = patch(&before, "PEM").unwrap();
        assert_eq!(
            patch,
            json!({"metadata": {"resourceVersion": "7"}, "webhooks": [
                {"name": "a", "clientConfig": {"service": {"name": "s"}, "caBundle": "UEVN"}, "unheardOf": [1]},
                {"name": "b", "clientConfig": {"caBundle": "UEVN"}},
            ]})
        );
    }

    #[test]
    fn nothing_is_written_over_what_is_right() {
        let right = configuration(json!([{"name": "a", "clientConfig": {"caBundle": "UEVN"}}]));
        assert_eq!(patch(&right, "PEM"), None);
        assert_eq!(patch(&configuration(Value::Null), "PEM"), None);
    }
}
