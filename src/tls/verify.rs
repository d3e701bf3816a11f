//! Verifies a backend's certificate, and reports in plain words why it is invalid.

#![expect(clippy::disallowed_methods, reason = "certificates are good until a day of the calendar")]

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};

use crate::tls::date::Date;
use crate::tls::error::{Fault, TlsError};
use crate::tls::leaf::Leaf;
use crate::tls::trust::Trust;

/// The trusted authorities.
#[derive(Debug)]
pub(super) struct Authorities {
    pub(super) roots: Arc<RootCertStore>,
    /// The certificates themselves, where the operator gave the file: a server's own certificate
    /// may be in it (as `openssl req -x509` makes them), and is then accepted for its names and
    /// validity.
    pub(super) own: Vec<CertificateDer<'static>>,
}

/// rustls' verifier, which also accepts a certificate that the operator gave, reports self-signed
/// ones as such, and records the result. Without authorities it accepts any certificate, but still
/// requires proof of its key.
#[derive(Debug)]
pub(super) struct Verifier {
    by: Option<(Arc<WebPkiServerVerifier>, Arc<Authorities>)>,
    algorithms: WebPkiSupportedAlgorithms,
    trust: Arc<Trust>,
}

impl Verifier {
    pub(super) fn new(
        authorities: Option<Arc<Authorities>>,
        provider: &Arc<CryptoProvider>,
        trust: Arc<Trust>,
    ) -> Result<Self, TlsError> {
        let by = authorities.map(|authorities| {
            let roots = Arc::clone(&authorities.roots);
            let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
            inner.map(|inner| (inner, authorities)).map_err(|e| Fault::Refused(e.to_string()))
        });
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self { by: by.transpose()?, algorithms, trust })
    }

    /// Records whether possession of the key was proved, which follows a valid certificate.
    fn record_signature(
        &self,
        result: Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &result {
            Ok(_) => self.trust.accept(UnixTime::now().as_secs()),
            Err(_) => self.trust.refuse(),
        }
        result
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = Leaf::parse(end_entity).ok();
        if let Some(leaf) = &leaf {
            self.trust.present(leaf.not_after);
        }
        let Some((inner, authorities)) = &self.by else { return Ok(ServerCertVerified::assertion()) };
        let verified = if authorities.own.iter().any(|own| own.as_ref() == end_entity.as_ref()) {
            verify_own(end_entity, server_name, now)
        } else {
            inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        verified.map_err(|error| {
            self.trust.refuse();
            // webpki reports the second for one with the CA flag.
            let nobody = matches!(
                error,
                Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_))
            );
            if nobody && leaf.is_some_and(|leaf| leaf.self_signed) {
                CertificateError::Other(OtherError(Arc::new(SelfSigned))).into()
            } else {
                error
            }
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.record_signature(verify_tls12_signature(message, certificate, signature, &self.algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.record_signature(verify_tls13_signature(message, certificate, signature, &self.algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Verifies a certificate that the operator gave: only validity and names.
fn verify_own(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let leaf = Leaf::parse(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let seconds = |time| UnixTime::since_unix_epoch(std::time::Duration::from_secs(time));
    if now.as_secs() > leaf.not_after {
        let not_after = seconds(leaf.not_after);
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    if now.as_secs() < leaf.not_before {
        let not_before = seconds(leaf.not_before);
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    Ok(ServerCertVerified::assertion())
}

/// Why a self-signed certificate is refused.
#[derive(Debug)]
struct SelfSigned;

impl fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("self-signed certificate")
    }
}

impl std::error::Error for SelfSigned {}

/// Returns what is wrong with a certificate, human-readable.
pub(super) fn describe(error: &CertificateError) -> String {
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("certificate has expired (on {})", Date(not_after.as_secs()))
        }
        CertificateError::Expired => "certificate has expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("certificate is not valid before {}", Date(not_before.as_secs()))
        }
        CertificateError::NotValidYet => "certificate is not valid yet".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<&str> = presented.iter().map(|name| unwrap_name(name)).collect();
            let names = if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") };
            format!("certificate is for {names}, not {}", expected.to_str())
        }
        CertificateError::NotValidForName => "certificate is for another name".to_owned(),
        CertificateError::UnknownIssuer => "certificate is signed by an unknown authority".to_owned(),
        CertificateError::Revoked => "certificate is revoked".to_owned(),
        CertificateError::BadEncoding => "certificate cannot be read".to_owned(),
        CertificateError::BadSignature => "certificate has a wrong signature".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate is not for servers".to_owned()
        }
        CertificateError::Other(other) if other.0.is::<SelfSigned>() => other.to_string(),
        CertificateError::Other(other) => format!("certificate is not accepted: {other}"),
        other => format!("certificate is not accepted: {other:?}"),
    }
}

/// Returns a name without webpki's wrapping: `DnsName("dns.example")`, `IpAddress(192.0.2.1)`.
fn unwrap_name(presented: &str) -> &str {
    let inner = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(presented).trim_matches('"')
}
