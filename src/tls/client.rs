//! The TLS settings of a backend: loaded once, shared by all shards.

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
use crate::tls::version::{ALPN_DOT, Version, protocols};
use crate::tls::{ciphers, files};

/// Where systems keep the certificates of authorities: Debian, Fedora, openSUSE, Alpine and BSD.
pub const SYSTEM_AUTHORITIES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The configured TLS of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSpec {
    /// The name to send (SNI) and to verify; may be an address, which is not sent.
    pub subject_name: Option<String>,
    /// The address to verify when there is no name; by default the backend's.
    pub subject_address: Option<IpAddr>,
    /// A PEM file of authorities; by default the system's.
    pub ca_store: Option<PathBuf>,
    /// Whether the certificate is verified.
    pub validate: bool,
    /// The lowest version.
    pub version_min: Version,
    /// Ciphers of TLS 1.2 by their OpenSSL names, separated by colons; empty means all.
    pub ciphers: String,
    /// The same for TLS 1.3.
    pub ciphers_tls13: String,
    /// The protocols of ALPN; empty means no ALPN.
    pub alpn: Vec<String>,
    /// A file for session secrets, for debugging.
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

/// Authorities by file, so that backends share them and each file is read once.
///
/// A new instance is needed each time a configuration is read.
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
    // System stores contain old certificates that cannot be used.
    let (good, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    if good == 0 { Err(Fault::NoAuthority.of(file)) } else { Ok(Arc::new(roots)) }
}

/// The loaded TLS of a backend.
#[derive(Debug)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    /// The same without session resumption: the backend has to present its certificate.
    full: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// `None` when certificates are not verified.
    authorities: Option<Arc<Authorities>>,
    trust: Arc<Trust>,
}

impl ClientTls {
    /// Loads every file of a specification, for a backend with this address.
    ///
    /// # Errors
    ///
    /// The first error, with its file.
    pub fn load(spec: &ClientSpec, backend: IpAddr, stores: &mut CaStores) -> Result<Self, TlsError> {
        let provider = ciphers::provider(&spec.ciphers, &spec.ciphers_tls13, spec.version_min)?;
        let name = match &spec.subject_name {
            // An absolute name is the same host, and RFC 6066 requires it without the final dot.
            Some(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
                .map_err(|_| Fault::BadSubjectName(name.clone()))?,
            None => ServerName::from(spec.subject_address.unwrap_or(backend)),
        };
        let authorities = spec.validate.then(|| stores.load(spec.ca_store.as_ref())).transpose()?;
        let trust = Arc::new(Trust::new(spec.validate));
        let verifier = Verifier::new(authorities.clone(), &provider, Arc::clone(&trust))?;
        let mut full = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(spec.version_min.and_above())
            .map_err(|e| Fault::Refused(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        full.resumption = Resumption::disabled();
        full.alpn_protocols = protocols(&spec.alpn)?;
        full.key_log = key_log(spec.key_log.as_ref())?;
        let mut config = full.clone();
        config.resumption = Resumption::store(Arc::clone(&trust) as _);
        Ok(Self { config: Arc::new(config), full: Arc::new(full), name, authorities, trust })
    }

    /// Returns whether this and another, loaded from the same specification at another time, accept
    /// the same certificates, so that sessions can be carried over.
    #[must_use]
    pub fn trusts_like(&self, other: &Self) -> bool {
        let roots = |tls: &Self| tls.authorities.as_ref().map(|a| (a.roots.roots.clone(), a.own.clone()));
        self.name == other.name && roots(self) == roots(other)
    }

    /// Returns when the certificate expires that the backend presented in its last full handshake,
    /// unix seconds; `None` before the first.
    #[must_use]
    pub fn certificate_until(&self) -> Option<u64> {
        Some(self.trust.until()).filter(|until| *until > 0)
    }

    /// Returns how many sessions are kept that may be resumed.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.trust.sessions()
    }

    /// Returns the trust era of new connections, above 0: unique to this `ClientTls`, and new after
    /// every refused certificate of the backend.
    #[must_use]
    pub fn era(&self) -> u64 {
        self.trust.era()
    }

    /// Returns the name or address that the certificate must have.
    #[must_use]
    pub fn subject(&self) -> String {
        self.name.to_str().into_owned()
    }

    /// Returns the rustls configuration of a connection; with `full`, one that resumes no session.
    pub(super) fn config(&self, full: bool) -> Arc<ClientConfig> {
        Arc::clone(if full { &self.full } else { &self.config })
    }

    pub(super) fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }
}
