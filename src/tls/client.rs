//! What a backend needs for TLS: loaded once, shared by all shards.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use crate::tls::error::{Fault, TlsError};
use crate::tls::server::key_log;
use crate::tls::trust::Trust;
use crate::tls::verify::{Authorities, Verifier};
use crate::tls::{ALPN_DOT, Version, ciphers, files, protocols};

/// Where systems keep the certificates of authorities: Debian, Fedora, openSUSE, Alpine and BSD.
pub const SYSTEM_AUTHORITIES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What a configuration asks of a backend with TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSpec {
    /// The name to send (SNI) and to find in the certificate; may be an address, which is not
    /// sent.
    pub subject_name: Option<String>,
    /// The address to find in the certificate, when there is no name; else it is the backend's.
    pub subject_address: Option<IpAddr>,
    /// A file of authorities in PEM; the system's when none.
    pub ca_store: Option<PathBuf>,
    /// Whether the certificate is checked at all.
    pub validate: bool,
    /// The least version.
    pub version_min: Version,
    /// Ciphers of TLS 1.2 by their OpenSSL names, separated by colons; empty is all.
    pub ciphers: String,
    /// The same of TLS 1.3.
    pub ciphers_tls13: String,
    /// The protocols of ALPN; empty is no ALPN.
    pub alpn: Vec<String>,
    /// A file for the secrets of sessions, for debugging.
    pub key_log: Option<PathBuf>,
}

impl Default for ClientSpec {
    fn default() -> Self {
        Self {
            subject_name: None,
            subject_address: None,
            ca_store: None,
            validate: true,
            version_min: Version::Tls12,
            ciphers: String::new(),
            ciphers_tls13: String::new(),
            alpn: vec![ALPN_DOT.to_owned()],
            key_log: None,
        }
    }
}

/// Authorities by their file, so that backends share them and each file is read once.
///
/// To be made anew for each time a configuration is read.
#[derive(Debug, Default)]
pub struct CaStores {
    loaded: HashMap<Option<PathBuf>, Arc<Authorities>>,
}

impl CaStores {
    fn load(&mut self, file: Option<&PathBuf>) -> Result<Arc<Authorities>, TlsError> {
        if let Some(loaded) = self.loaded.get(&file.cloned()) {
            return Ok(Arc::clone(loaded));
        }
        let authorities = match file {
            Some(file) => {
                let own = files::certificates(file)?;
                Authorities { roots: roots(&own, file)?, own }
            }
            None => {
                let places = SYSTEM_AUTHORITIES.iter().map(Path::new);
                let file =
                    places.into_iter().find(|place| place.exists()).ok_or(Fault::NoSystemAuthorities)?;
                Authorities { roots: roots(&files::certificates(file)?, file)?, own: Vec::new() }
            }
        };
        let authorities = Arc::new(authorities);
        self.loaded.insert(file.cloned(), Arc::clone(&authorities));
        Ok(authorities)
    }
}

fn roots(
    certificates: &[rustls::pki_types::CertificateDer<'static>],
    file: &Path,
) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    // Stores of systems have old certificates in them that nobody can use.
    let (good, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    if good == 0 { Err(Fault::NoAuthority.of(file)) } else { Ok(Arc::new(roots)) }
}

/// A backend's TLS.
#[derive(Debug)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    /// The same without sessions: the server has to show its certificate.
    whole: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// None when certificates are not checked.
    authorities: Option<Arc<Authorities>>,
    trust: Arc<Trust>,
}

impl ClientTls {
    /// Reads every file that a specification names, for a backend with this address.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its file.
    pub fn load(spec: &ClientSpec, backend: IpAddr, stores: &mut CaStores) -> Result<Self, TlsError> {
        let provider = ciphers::provider(&spec.ciphers, &spec.ciphers_tls13, spec.version_min)?;
        let name = match &spec.subject_name {
            // An absolute name is the same host, and RFC 6066 wants it without its dot.
            Some(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
                .map_err(|_| Fault::BadSubjectName(name.clone()))?,
            None => ServerName::from(spec.subject_address.unwrap_or(backend)),
        };
        let authorities = spec.validate.then(|| stores.load(spec.ca_store.as_ref())).transpose()?;
        let trust = Arc::new(Trust::new(spec.validate));
        let verifier = Verifier::new(authorities.clone(), &provider, Arc::clone(&trust))?;
        let mut whole = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(spec.version_min.and_above())
            .map_err(|e| Fault::Refused(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        whole.resumption = Resumption::disabled();
        whole.alpn_protocols = protocols(&spec.alpn)?;
        whole.key_log = key_log(spec.key_log.as_ref())?;
        let mut config = whole.clone();
        config.resumption = Resumption::store(Arc::clone(&trust) as _);
        Ok(Self { config: Arc::new(config), whole: Arc::new(whole), name, authorities, trust })
    }

    /// Whether this and another, loaded from the same specification at another time, take the same
    /// certificates, so that one's sessions are the other's.
    #[must_use]
    pub fn trusts_as(&self, other: &Self) -> bool {
        let roots = |tls: &Self| tls.authorities.as_ref().map(|a| (a.roots.roots.clone(), a.own.clone()));
        self.name == other.name && roots(self) == roots(other)
    }

    /// When the certificate expires that the backend last showed in a whole handshake, unix
    /// seconds; none before the first.
    #[must_use]
    pub fn certificate_until(&self) -> Option<u64> {
        Some(self.trust.until()).filter(|until| *until > 0)
    }

    /// Which trust connections are opened with, above 0: another number than that of any other
    /// `ClientTls`, and another one whenever a certificate of the server was refused.
    #[must_use]
    pub fn era(&self) -> u64 {
        self.trust.era()
    }

    /// What is looked for in the certificate.
    #[must_use]
    pub fn subject(&self) -> String {
        self.name.to_str().into_owned()
    }

    /// What a connection is made by; `whole`: one that resumes nothing.
    pub(super) fn config(&self, whole: bool) -> Arc<ClientConfig> {
        Arc::clone(if whole { &self.whole } else { &self.config })
    }

    pub(super) fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }
}
