//! Certificate signing requests from proxies.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

/// Longer than any request with one key: what is parsed before the caller is known to be honest is small.
const MAX_BYTES: usize = 16 * 1024;

/// The request can't be signed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CsrError {
    /// Not PKCS#10.
    #[error("the certificate signing request is not PKCS#10 in DER: {0}")]
    Malformed(String),
    /// The sender does not prove that it has the private key.
    #[error("the certificate signing request is not signed by its own key")]
    Signature,
    /// A key that this authority does not certify.
    #[error("the certificate signing request has an unsupported kind of key: use ECDSA P-256")]
    Key,
}

/// The public key of a request whose signature has been checked. Everything else in it is ignored.
///
/// # Errors
/// See [`CsrError`].
pub fn public_key(csr: &[u8]) -> Result<SubjectPublicKeyInfo, CsrError> {
    if csr.len() > MAX_BYTES {
        return Err(CsrError::Malformed(format!("{} bytes", csr.len())));
    }
    let (rest, csr) = X509CertificationRequest::from_der(csr)
        .map_err(|error| CsrError::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed("bytes after its end".into()));
    }
    csr.verify_signature().map_err(|_| CsrError::Signature)?;
    SubjectPublicKeyInfo::from_der(csr.certification_request_info.subject_pki.raw)
        .map_err(|_| CsrError::Key)
}
