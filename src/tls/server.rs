//! What a listener needs for TLS: loaded once, shared by all shards. A reload loads another, which
//! inherits what lets clients resume their sessions.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::{KeyLog, NoKeyLog, ServerConfig};

pub use crate::tls::certificates::CertificateFiles;
use crate::tls::certificates::Certificates;
use crate::tls::error::{Fault, TlsError};
use crate::tls::expiry::Leaf;
use crate::tls::keylog::KeyLogFile;
use crate::tls::store::SessionStore;
use crate::tls::tickets::TicketKeys;
use crate::tls::{ALPN_DOT, Version, ciphers, protocols};

/// RFC 8446, section 4.6.1: "Servers MUST NOT use any value greater than 604800 seconds".
pub const SESSION_SECONDS_MAX: u32 = 604_800;

/// What a configuration asks of a listener with TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// The certificates; at least one.
    pub certificates: Vec<CertificateFiles>,
    /// The least version.
    pub version_min: Version,
    /// Ciphers of TLS 1.2 by their OpenSSL names, separated by colons; empty is all.
    pub ciphers: String,
    /// The same of TLS 1.3.
    pub ciphers_tls13: String,
    /// Whether our order of ciphers decides, not the client's.
    pub prefer_server_ciphers: bool,
    /// Whether clients get session tickets.
    pub tickets: bool,
    /// Ticket keys that are kept: the first seals, each one opens.
    pub ticket_keys: usize,
    /// A file of ticket keys that machines share; without it they are random.
    pub ticket_key_file: Option<PathBuf>,
    /// Seconds after which whoever has a clock shall call [`ServerTls::rotate`]; 0 is never.
    pub ticket_rotation_seconds: u32,
    /// Sessions that are kept for clients without tickets; 0 is none.
    pub sessions: usize,
    /// Seconds that a session can be resumed, at most [`SESSION_SECONDS_MAX`].
    pub session_seconds: u32,
    /// The protocols of ALPN; empty is no ALPN.
    pub alpn: Vec<String>,
    /// A file for the secrets of sessions, for debugging.
    pub key_log: Option<PathBuf>,
}

impl Default for ServerSpec {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            version_min: Version::Tls12,
            ciphers: String::new(),
            ciphers_tls13: String::new(),
            prefer_server_ciphers: true,
            tickets: true,
            ticket_keys: 5,
            ticket_key_file: None,
            ticket_rotation_seconds: 43_200,
            sessions: 20_480,
            session_seconds: 43_200,
            alpn: vec![ALPN_DOT.to_owned()],
            key_log: None,
        }
    }
}

/// A listener's TLS.
#[derive(Debug)]
pub struct ServerTls {
    spec: ServerSpec,
    config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
    tickets: Option<Arc<TicketKeys>>,
}

impl ServerTls {
    /// Reads every file that a specification names.
    ///
    /// A certificate that has expired is no error, for one that is about to must not keep a
    /// server from starting: see [`ServerTls::certificates`].
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its file.
    pub fn load(spec: &ServerSpec) -> Result<Self, TlsError> {
        let provider = ciphers::provider(&spec.ciphers, &spec.ciphers_tls13, spec.version_min)?;
        let certificates = Arc::new(Certificates::load(&spec.certificates, &provider)?);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(spec.version_min.and_above())
            .map_err(|e| Fault::Refused(e.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificates) as _);
        let tickets = tickets(spec)?.map(Arc::new);
        if let Some(tickets) = &tickets {
            config.ticketer = Arc::clone(tickets) as _;
        }
        config.session_storage =
            SessionStore::of(spec.sessions, spec.session_seconds.min(SESSION_SECONDS_MAX));
        // One, where rustls would send two: a client of DNS has one connection, and gets the next
        // ticket when it comes back.
        config.send_tls13_tickets = 1;
        config.ignore_client_order = spec.prefer_server_ciphers;
        config.alpn_protocols = protocols(&spec.alpn)?;
        config.key_log = key_log(spec.key_log.as_ref())?;
        Ok(Self { spec: spec.clone(), config: Arc::new(config), certificates, tickets })
    }

    /// This one with what lets the clients of another resume their sessions, for the same listener:
    /// its random ticket keys and kept sessions, where both are of the same kind; keys that were in
    /// the same file before go on opening tickets. No file is read.
    #[must_use]
    pub fn inherit(&self, old: &Self) -> Self {
        let (spec, mut config) = (self.spec.clone(), ServerConfig::clone(&self.config));
        let mut tickets = self.tickets.clone();
        let same = old.spec.ticket_key_file == spec.ticket_key_file;
        if let (true, Some(new), Some(before)) = (same, &self.tickets, &old.tickets) {
            if spec.ticket_key_file.is_some() {
                // The old one's ring is in use, and this one may yet be refused.
                tickets = Some(Arc::new(new.succeeding(before)));
            } else if old.spec.ticket_keys == spec.ticket_keys
                && old.spec.session_seconds == spec.session_seconds
            {
                tickets = Some(Arc::clone(before));
            }
        }
        if let Some(tickets) = &tickets {
            config.ticketer = Arc::clone(tickets) as _;
        }
        if old.spec.sessions == spec.sessions && old.spec.session_seconds == spec.session_seconds {
            config.session_storage = Arc::clone(&old.config.session_storage);
        }
        let certificates = Arc::clone(&self.certificates);
        Self { spec, config: Arc::new(config), certificates, tickets }
    }

    /// Puts a new ticket key first, or reads the file of them again. To be called by one thread.
    ///
    /// # Errors
    ///
    /// The file; the keys stay as they were.
    pub fn rotate(&self) -> Result<(), TlsError> {
        self.tickets.as_ref().map_or(Ok(()), |tickets| tickets.rotate())
    }

    /// Whether this and another seal tickets with the same keys.
    #[must_use]
    pub fn same_tickets(&self, other: &Self) -> bool {
        match (&self.tickets, &other.tickets) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => std::ptr::eq(self, other),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Ticket keys that are kept.
    #[must_use]
    pub fn ticket_keys(&self) -> usize {
        self.tickets.as_ref().map_or(0, |keys| keys.count())
    }

    /// What was asked for.
    #[must_use]
    pub fn spec(&self) -> &ServerSpec {
        &self.spec
    }

    /// What the certificates say, in the order of the configuration.
    #[must_use]
    pub fn certificates(&self) -> Vec<Leaf> {
        self.certificates.leaves().cloned().collect()
    }

    /// What is to be said of certificates at this unix time in seconds: not good yet, expired, or
    /// about to within these days; and of OCSP responses that are not stapled.
    #[must_use]
    pub fn complaints(&self, now: u64, days: u32) -> Vec<String> {
        self.certificates.complaints(now, days)
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

fn tickets(spec: &ServerSpec) -> Result<Option<TicketKeys>, TlsError> {
    if !spec.tickets {
        return Ok(None);
    }
    let seconds = spec.session_seconds.min(SESSION_SECONDS_MAX);
    match &spec.ticket_key_file {
        Some(file) => TicketKeys::from_file(file.clone(), spec.ticket_keys, seconds).map(Some),
        None => TicketKeys::random(spec.ticket_keys, seconds).map(Some),
    }
}

/// The key log in a file, or none.
pub(super) fn key_log(file: Option<&PathBuf>) -> Result<Arc<dyn KeyLog>, TlsError> {
    match file {
        Some(file) => KeyLogFile::open(file),
        None => Ok(Arc::new(NoKeyLog)),
    }
}
