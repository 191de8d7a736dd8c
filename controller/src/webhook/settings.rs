//! The injector's settings: a file (a mounted ConfigMap) that is read again when it changes.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use mesh_api::names;
use tokio::sync::watch;

use crate::inject::Settings;

/// Reads the settings, and returns what keeps them up to date: it compares the file every `look`.
///
/// # Errors
/// The file can't be read, or is not what it has to be: better to find out at the start.
pub(crate) fn open(
    path: Option<PathBuf>,
    trust_domain: &str,
    look: Duration,
) -> anyhow::Result<(
    watch::Receiver<Arc<Settings>>,
    impl Future<Output = ()> + Send + use<>,
)> {
    let trust_domain = trust_domain.to_owned();
    let mut content = path.as_ref().map(std::fs::read).transpose();
    let place = path.clone().unwrap_or_default();
    let first = match &content {
        Ok(None) => Settings {
            trust_domain: trust_domain.clone(),
            ..Settings::default()
        },
        Ok(Some(content)) => parse(content, &trust_domain).with_context(|| {
            format!(
                "{}: not settings of the injector (--inject-settings)",
                place.display()
            )
        })?,
        Err(error) => anyhow::bail!(
            "reading {} (--inject-settings) failed: {error}",
            place.display()
        ),
    };
    let (sender, receiver) = watch::channel(Arc::new(first));
    let keep = async move {
        let Some(path) = path else {
            return;
        };
        let mut every = tokio::time::interval(look);
        loop {
            every.tick().await;
            let now = tokio::fs::read(&path).await;
            if same(&content, &now) {
                continue;
            }
            let settings = match &now {
                Ok(text) => parse(text, &trust_domain),
                Err(error) => Err(anyhow::anyhow!("{error}")),
            };
            match settings {
                Ok(settings) => {
                    tracing::info!(path = %path.display(), "the injector's settings have changed");
                    sender.send_replace(Arc::new(settings));
                }
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "the injector's settings can't be used; those before are used on")
                }
            }
            content = now.map(Some);
        }
    };
    Ok((receiver, keep))
}

fn same(before: &io::Result<Option<Vec<u8>>>, after: &io::Result<Vec<u8>>) -> bool {
    match (before, after) {
        (Ok(Some(before)), Ok(after)) => before == after,
        (Err(_), Err(_)) => true,
        _ => false,
    }
}

fn parse(content: &[u8], trust_domain: &str) -> anyhow::Result<Settings> {
    let settings: Settings = serde_json::from_slice(content)?;
    anyhow::ensure!(
        settings.trust_domain == trust_domain,
        "its trustDomain is {:?}, the controller's --trust-domain {trust_domain:?}: change {} in {}",
        settings.trust_domain,
        names::CONFIG_KEY,
        names::CONFIG_MAP
    );
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK_IN_TESTS: Duration = Duration::from_millis(5);

    #[tokio::test]
    async fn a_change_is_seen_and_nonsense_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inject.json");
        std::fs::write(&path, r#"{"logLevel": "info"}"#).unwrap();
        let (mut settings, keep) =
            open(Some(path.clone()), "cluster.local", LOOK_IN_TESTS).unwrap();
        assert_eq!(settings.borrow_and_update().log_level, "info");
        let keep = tokio::spawn(keep);
        std::fs::write(&path, r#"{"logLevel": "debug"}"#).unwrap();
        settings.changed().await.unwrap();
        assert_eq!(settings.borrow_and_update().log_level, "debug");
        std::fs::write(&path, "{").unwrap();
        tokio::time::sleep(LOOK_IN_TESTS * 3).await;
        std::fs::write(&path, r#"{"logLevel": "warn"}"#).unwrap();
        settings.changed().await.unwrap();
        assert_eq!(settings.borrow().log_level, "warn");
        keep.abort();
    }

    #[test]
    fn a_start_with_nonsense_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inject.json");
        assert!(
            open(Some(path.clone()), "cluster.local", LOOK_IN_TESTS).is_err(),
            "absent"
        );
        std::fs::write(&path, r#"{"trustDomain": "other"}"#).unwrap();
        let error = open(Some(path), "cluster.local", LOOK_IN_TESTS)
            .err()
            .unwrap();
        assert!(format!("{error:#}").contains("--trust-domain"), "{error:#}");
    }
}
