//! Where manifests come from: standard input, files, folders, addresses on the web.

use std::{
    fs,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

use crate::client::block_on;

/// Of a manifest from the web.
const LARGEST: usize = 64 << 20;
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
const MOST_REDIRECTS: usize = 5;

/// A stream of documents.
#[derive(Debug)]
pub(super) struct Input {
    /// For messages.
    pub(super) name: String,
    pub(super) text: String,
}

/// Reads all of them; `-` is standard input, and of a folder all manifests directly in it.
///
/// # Errors
/// One can't be read, or is not text.
pub(super) fn read(sources: &[String]) -> anyhow::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for source in sources {
        if source == "-" {
            inputs.push(standard_input()?);
        } else if source.starts_with("https://") || source.starts_with("http://") {
            let text = block_on(fetch(source)).with_context(|| format!("can't fetch {source}"))?;
            inputs.push(Input {
                name: source.clone(),
                text,
            });
        } else if Path::new(source).is_dir() {
            let files = manifests(Path::new(source))
                .with_context(|| format!("can't read the folder {source}"))?;
            if files.is_empty() {
                bail!("the folder {source} has no .yaml, .yml or .json file in it");
            }
            for path in files {
                inputs.push(file(&path)?);
            }
        } else {
            inputs.push(file(Path::new(source))?);
        }
    }
    Ok(inputs)
}

fn standard_input() -> anyhow::Result<Input> {
    if io::stdin().is_terminal() {
        eprintln!("Reading manifests from the terminal; Ctrl-D ends them.");
    }
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .context("can't read manifests from standard input")?;
    let name = "standard input".into();
    Ok(Input { name, text })
}

fn file(path: &Path) -> anyhow::Result<Input> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).with_context(|| format!("can't read {name}"))?;
    Ok(Input { name, text })
}

fn manifests(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let is_manifest = |path: &PathBuf| {
        let suffix = path.extension().unwrap_or_default();
        path.is_file() && ["yaml", "yml", "json"].iter().any(|known| suffix == *known)
    };
    let paths = entries.into_iter().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = paths.filter(is_manifest).collect();
    paths.sort();
    Ok(paths)
}

async fn fetch(address: &str) -> anyhow::Result<String> {
    tokio::time::timeout(FETCH_TIMEOUT, follow(address))
        .await
        .map_err(|_| anyhow::anyhow!("no answer within {} s", FETCH_TIMEOUT.as_secs()))?
}

async fn follow(address: &str) -> anyhow::Result<String> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(provider)
        .context("this machine's root certificates")?
        .https_or_http()
        .enable_http1()
        .build();
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let mut uri: Uri = address.parse().context("it is not an address")?;
    for _ in 0..=MOST_REDIRECTS {
        let request = Request::get(uri.clone())
            .header(
                header::USER_AGENT,
                concat!("mesh/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::<Bytes>::new())?;
        let response = client.request(request).await?;
        let status = response.status();
        if status.is_redirection()
            && let Some(location) = response.headers().get(header::LOCATION)
        {
            uri = redirected(&uri, location.to_str().context("a redirect to no address")?)?;
            continue;
        }
        if status != StatusCode::OK {
            bail!("the server answered {status}");
        }
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
        return String::from_utf8(body.to_bytes().into()).context("the answer is not text");
    }
    bail!("it redirects more than {MOST_REDIRECTS} times")
}

/// Never from https to http: who can read and change the answer would choose what is applied.
fn redirected(from: &Uri, location: &str) -> anyhow::Result<Uri> {
    let to: Uri = location.parse().context("a redirect to no address")?;
    let mut parts = to.into_parts();
    if parts.scheme.is_none() {
        parts.scheme = from.scheme().cloned();
        parts.authority = parts.authority.or_else(|| from.authority().cloned());
    }
    let to = Uri::from_parts(parts).context("a redirect to no address")?;
    if from.scheme_str() == Some("https") && to.scheme_str() != Some("https") {
        bail!("it redirects to {to}, which is not secured");
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects() {
        let from: Uri = "https://example.org/a/b.yaml".parse().unwrap();
        let to = |location| redirected(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("/c.yaml").unwrap(), "https://example.org/c.yaml");
        assert_eq!(to("https://other.org/c").unwrap(), "https://other.org/c");
        assert!(to("http://other.org/c").is_err());
    }

    #[test]
    fn a_folder_is_its_manifests_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", "c.json", "notes.txt", ".swp"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let inputs = read(&[folder.path().display().to_string()]).unwrap();
        let texts: Vec<&str> = inputs.iter().map(|input| input.text.as_str()).collect();
        assert_eq!(texts, ["a.yml", "b.yaml", "c.json"]);
        assert!(read(&["/nowhere.yaml".into()]).is_err());
    }
}
