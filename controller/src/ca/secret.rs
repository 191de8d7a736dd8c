//! Roots in a Secret: read by every replica, replaced only on the revision that was read. And the Secret of
//! type `kubernetes.io/tls` with which somebody brings a root of their own.

use std::{collections::BTreeMap, fmt};

use futures_util::{Stream, StreamExt};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use mesh_api::names;

use super::{
    CaError,
    root::Material,
    store::{Found, StoredRoot, Written, parse},
};

/// The Secret that holds the roots, and the one from which they come if they are somebody else's.
pub struct SecretStore {
    api: Api<Secret>,
    namespace: String,
    /// Name of the Secret with somebody else's root.
    provided: Option<String>,
}

/// The Secret as it was read. Nothing for a file, and where there is no Secret yet.
#[derive(Default)]
pub(super) struct Revision(Option<Box<Secret>>);

impl SecretStore {
    /// Roots are kept in the Secret [`names::CA_SECRET`] of `namespace`. They are made here, unless `provided`
    /// names a Secret of the same namespace that holds one.
    pub fn new(client: Client, namespace: &str, provided: Option<&str>) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.into(),
            provided: provided.map(Into::into),
        }
    }

    pub(super) async fn load(&self) -> Result<Found, CaError> {
        let failed = |error| self.api_error("reading", names::CA_SECRET, error);
        let secret = self.api.get_opt(names::CA_SECRET).await.map_err(failed)?;
        Ok(Found {
            roots: secret
                .as_ref()
                .map(|secret| self.roots(secret))
                .transpose()?
                .flatten(),
            revision: Revision(secret.map(Box::new)),
        })
    }

    pub(super) async fn save(&self, text: Vec<u8>, revision: Revision) -> Result<Written, CaError> {
        let content = BTreeMap::from([(names::CA_KEY.to_owned(), ByteString(text))]);
        let params = PostParams::default();
        let result = match revision.0 {
            None => self.api.create(&params, &new_secret(content)).await,
            Some(mut secret) => {
                // Its resourceVersion makes the server refuse if it has changed since.
                secret.data.get_or_insert_default().extend(content);
                self.api.replace(names::CA_SECRET, &params, &secret).await
            }
        };
        match result {
            Ok(_) => Ok(Written::Done),
            Err(kube::Error::Api(status))
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
            {
                Ok(Written::Conflict)
            }
            Err(error) => Err(self.api_error("writing", names::CA_SECRET, error)),
        }
    }

    /// What the Secret holds whenever it changes; `None` when it is not there. Goes on for ever, also while the
    /// API server is away.
    pub(super) fn watch(
        &self,
    ) -> impl Stream<Item = Result<Option<Vec<StoredRoot>>, CaError>> + Send {
        let changes = watcher::watch_object(self.api.clone(), names::CA_SECRET).default_backoff();
        changes.map(|change| match change {
            Ok(Some(secret)) => self.roots(&secret),
            Ok(None) => Ok(None),
            Err(error) => Err(self.watch_error(names::CA_SECRET, error)),
        })
    }

    /// The root in somebody else's Secret; `None` if roots are made here.
    ///
    /// # Errors
    /// The Secret is not there, or does not hold what can sign certificates.
    pub(super) async fn provided(&self) -> Option<Result<Material, CaError>> {
        let name = self.provided.as_deref()?;
        Some(match self.api.get_opt(name).await {
            Ok(secret) => self.material(name, secret.as_ref()),
            Err(error) => Err(self.api_error("reading", name, error)),
        })
    }

    /// The same whenever it changes. Ends at once if roots are made here.
    pub(super) fn watch_provided(
        &self,
    ) -> impl Stream<Item = Result<Material, CaError>> + Send + Unpin {
        let names = futures_util::stream::iter(self.provided.as_deref());
        Box::pin(names.flat_map(move |name| {
            let changes = watcher::watch_object(self.api.clone(), name).default_backoff();
            changes.map(move |change| match change {
                Ok(secret) => self.material(name, secret.as_ref()),
                Err(error) => Err(self.watch_error(name, error)),
            })
        }))
    }

    /// A Secret without our key holds no roots yet.
    fn roots(&self, secret: &Secret) -> Result<Option<Vec<StoredRoot>>, CaError> {
        let text = secret
            .data
            .as_ref()
            .and_then(|data| data.get(names::CA_KEY));
        text.map(|text| parse(&text.0))
            .transpose()
            .map_err(|error| CaError::Corrupt {
                place: self.to_string(),
                reason: error.to_string(),
            })
    }

    fn material(&self, name: &str, secret: Option<&Secret>) -> Result<Material, CaError> {
        let unusable = |reason: String| CaError::Provided {
            secret: format!("{}/{name}", self.namespace),
            reason,
        };
        let secret = secret.ok_or_else(|| unusable("it does not exist".into()))?;
        let part = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            let bytes = bytes.ok_or_else(|| unusable(format!("it has no {key}")))?;
            String::from_utf8(bytes.0.clone())
                .map_err(|_| unusable(format!("its {key} is not PEM")))
        };
        Material::from_pem(&part("tls.crt")?, &part("tls.key")?).map_err(unusable)
    }

    fn api_error(&self, doing: &'static str, name: &str, error: kube::Error) -> CaError {
        CaError::Api {
            doing,
            secret: format!("{}/{name}", self.namespace),
            reason: error.to_string(),
        }
    }

    fn watch_error(&self, name: &str, error: watcher::Error) -> CaError {
        CaError::Api {
            doing: "watching",
            secret: format!("{}/{name}", self.namespace),
            reason: error.to_string(),
        }
    }
}

impl fmt::Display for SecretStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}/{}", self.namespace, names::CA_SECRET)
    }
}

fn new_secret(content: BTreeMap<String, ByteString>) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(names::CA_SECRET.into()),
            labels: Some(crate::duties::labels()),
            ..ObjectMeta::default()
        },
        data: Some(content),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests;
