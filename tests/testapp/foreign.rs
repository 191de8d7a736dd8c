//! Peers whose certificates are not to be trusted, on either side of a connection.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use clap::Subcommand;
use mesh_api::v1::CertifyResponse;
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Duration, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Calls a meshed pod with certificates that it must refuse; prints what came back for each.
    Call {
        /// Address and port of the pod's app.
        address: String,
        #[arg(long, default_value = "mesh-http/1.1")]
        alpn: String,
        /// The certificate that a proxy has cached, instead of forged ones.
        #[arg(long)]
        stolen: Option<PathBuf>,
    },
    /// Takes connections as a proxy would, with the certificate that another proxy has cached, and prints how
    /// each handshake ended.
    Serve {
        port: u16,
        #[arg(long)]
        stolen: PathBuf,
    },
}

/// One line per attempt: "refused: …" or "ANSWERED: …".
pub(crate) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Call {
            address,
            alpn,
            stolen: file,
        } => {
            let attempts = match file {
                Some(file) => vec![("a stolen certificate", Some(stolen(&file)?))],
                None => forgeries()?,
            };
            for (name, credentials) in attempts {
                attempt(&address, &alpn, name, credentials).await;
            }
            Ok(())
        }
        Command::Serve { port, stolen: file } => serve(port, stolen(&file)?).await,
    }
}

type Credentials = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn forgeries() -> Result<Vec<(&'static str, Option<Credentials>)>> {
    let id = "spiffe://cluster.local/ns/default/sa/web";
    Ok(vec![
        ("a certificate of another authority", Some(forged(id)?)),
        (
            "another trust domain",
            Some(forged("spiffe://evil.example/ns/default/sa/web")?),
        ),
        ("no SPIFFE id", Some(forged("https://example.com/")?)),
        ("no certificate", None),
    ])
}

async fn attempt(address: &str, alpn: &str, name: &str, credentials: Option<Credentials>) {
    match timeout(Duration::from_secs(5), call(address, alpn, credentials)).await {
        Ok(Ok(answer)) if !answer.is_empty() => println!("ANSWERED: {name}: {answer}"),
        Ok(Ok(_)) => println!("refused: {name}: closed without an answer"),
        Ok(Err(error)) => println!("refused: {name}: {error:#}"),
        Err(_) => println!("ANSWERED: {name}: neither refused nor closed in 5 s"),
    }
}

/// What a proxy keeps in its state folder.
#[derive(Clone, PartialEq, Message)]
struct Cached {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    response: Option<CertifyResponse>,
}

fn stolen(file: &Path) -> Result<Credentials> {
    let content = std::fs::read(file).with_context(|| file.display().to_string())?;
    let cached = Cached::decode(content.as_slice())?;
    let chain = cached.response.context("no certificate")?.chain;
    let key = PrivatePkcs8KeyDer::from(cached.key);
    Ok((chain.into_iter().map(Into::into).collect(), key.into()))
}

async fn serve(port: u16, (chain, key): Credentials) -> Result<()> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = ["mesh-http/1.1", "mesh-h2", "mesh-tcp"]
        .map(|protocol| protocol.as_bytes().to_vec())
        .to_vec();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    println!("serving");
    loop {
        let (tcp, _) = listener.accept().await?;
        // The client may believe that it is done, and say no later: what counts is what it sends.
        let heard = async {
            let mut tls = acceptor.accept(tcp).await?;
            let mut heard = vec![0; 512];
            let length = tls.read(&mut heard).await?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&heard[..length]).into_owned())
        };
        match heard.await {
            Ok(heard) if !heard.is_empty() => println!("TRUSTED: {heard}"),
            Ok(_) => println!("refused: closed without a word"),
            Err(error) => println!("refused: {error}"),
        }
    }
}

/// A leaf for `id`, signed by an authority of our own.
fn forged(id: &str) -> Result<Credentials> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(authority, KeyPair::generate()?);
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(id.try_into()?)];
    let key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&key, &issuer)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok((vec![certificate.der().clone()], key.into()))
}

/// With TLS 1.3 a client may believe the handshake done before the server has refused it: only an
/// answer counts.
async fn call(address: &str, alpn: &str, credentials: Option<Credentials>) -> Result<String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible(provider)));
    let mut config = match credentials {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await.context("connect")?;
    let name = ServerName::try_from("mesh.internal")?;
    let mut tls = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    tls.write_all(b"GET /malformed HTTP/1.1\r\nHost: x\r\n\r\n")
        .await?;
    let mut answer = vec![0; 512];
    let length = tls.read(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Trusts every server: here the server is the one to be careful.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
