//! Peers whose certificates are not to be trusted, on either side of a connection.

use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Subcommand;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, timeout},
};
use tokio_rustls::TlsConnector;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Calls a meshed pod with certificates that it must refuse; prints what came back for each.
    Call {
        /// Address and port of the pod's app.
        address: String,
        #[arg(long, default_value = "mesh-http/1.1")]
        alpn: String,
    },
}

/// One line per attempt: "refused: …" or "ANSWERED: …".
pub(crate) async fn run(command: Command) -> Result<()> {
    let Command::Call { address, alpn } = command;
    let id = "spiffe://cluster.local/ns/default/sa/web";
    for (name, credentials) in [
        ("a certificate of another authority", Some(forged(id)?)),
        (
            "another trust domain",
            Some(forged("spiffe://evil.example/ns/default/sa/web")?),
        ),
        ("no SPIFFE id", Some(forged("https://example.com/")?)),
        ("no certificate", None),
    ] {
        match timeout(Duration::from_secs(5), call(&address, &alpn, credentials)).await {
            Ok(Ok(answer)) if !answer.is_empty() => println!("ANSWERED: {name}: {answer}"),
            Ok(Ok(_)) => println!("refused: {name}: closed without an answer"),
            Ok(Err(error)) => println!("refused: {name}: {error:#}"),
            Err(_) => println!("ANSWERED: {name}: neither refused nor closed in 5 s"),
        }
    }
    Ok(())
}

type Credentials = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

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
