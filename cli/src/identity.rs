//! `mesh identity`: the certificate of a pod.

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use x509_parser::{
    pem::Pem,
    prelude::{GeneralName, X509Certificate},
};

use crate::{
    belief::PodArgs,
    client,
    output::{Format, Output},
};

/// Arguments of `mesh identity`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pod: PodArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// A certificate, in words.
#[derive(Debug, Serialize)]
struct Report {
    pod: String,
    identity: String,
    subject: String,
    issuer: String,
    serial: String,
    key: String,
    not_before: String,
    not_after: String,
    /// Negative once it is over.
    expires_in_s: i64,
    pem: String,
}

/// Runs `mesh identity`.
///
/// # Errors
/// There is no such pod, or it has no certificate.
pub fn run(args: Args) -> Result<()> {
    client::block_on(async {
        let belief = args.pod.belief().await?;
        let pod = format!("{}/{}", belief.namespace, belief.pod);
        let certificate = belief.certificate.with_context(|| {
            format!(
                "{pod} has no certificate yet: its proxy's log says why the controller gave none"
            )
        })?;
        let report = report(pod, certificate.chain_pem, Timestamp::now())?;
        let mut output = Output::stdout();
        match args.output {
            Format::Json => output.json(&report, false)?,
            format => output.text(&text(&report, format == Format::Wide))?,
        }
        Ok(())
    })
}

fn report(pod: String, pem: String, now: Timestamp) -> Result<Report> {
    let unreadable = || format!("The certificate of {pod} can't be read");
    let leaf = Pem::iter_from_buffer(pem.as_bytes()).next();
    let leaf = leaf.with_context(unreadable)?.with_context(unreadable)?;
    let certificate = leaf.parse_x509().with_context(unreadable)?;
    let time = |at: x509_parser::time::ASN1Time| Timestamp::from_second(at.timestamp());
    let validity = certificate.validity();
    let not_after = time(validity.not_after)?;
    Ok(Report {
        identity: uri(&certificate).with_context(unreadable)?,
        subject: words(certificate.subject().to_string()),
        issuer: words(certificate.issuer().to_string()),
        serial: certificate.raw_serial_as_string(),
        key: key(&certificate),
        not_before: time(validity.not_before)?.to_string(),
        not_after: not_after.to_string(),
        expires_in_s: not_after.as_second() - now.as_second(),
        pod,
        pem,
    })
}

/// SPIFFE X509-SVID, section 2: the identity is the one URI among the names.
fn uri(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
}

fn key(certificate: &X509Certificate<'_>) -> String {
    use x509_parser::public_key::PublicKey;
    match certificate.public_key().parsed() {
        Ok(PublicKey::EC(point)) => format!("ECDSA P-{}", point.key_size()),
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        _ => certificate.public_key().algorithm.algorithm.to_id_string(),
    }
}

/// SVIDs have no subject; the identity is elsewhere.
fn words(name: String) -> String {
    if name.is_empty() {
        "(empty)".into()
    } else {
        name
    }
}

fn text(report: &Report, pem: bool) -> String {
    let left = match report.expires_in_s {
        left @ 0.. => format!("{:#} left", SignedDuration::from_mins(left / 60)),
        _ => "expired".into(),
    };
    let mut text = format!(
        "pod       {}\nidentity  {}\nsubject   {}\nissuer    {}\nserial    {}\nkey       {}\nvalid     {} to {} ({left})\n",
        report.pod,
        report.identity,
        report.subject,
        report.issuer,
        report.serial,
        report.key,
        report.not_before,
        report.not_after,
    );
    if pem {
        text.push_str(&report.pem);
    }
    text
}
