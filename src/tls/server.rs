//! The TLS settings of a listener: loaded once, shared by all shards. A reload loads another, which
//! inherits what lets clients resume their sessions.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::{KeyLog, NoKeyLog, ServerConfig};

pub use crate::tls::certificates::CertificateFiles;
use crate::tls::certificates::Certificates;
use crate::tls::ciphers;
use crate::tls::error::{Fault, TlsError};
use crate::tls::keylog::KeyLogFile;
use crate::tls::leaf::Leaf;
use crate::tls::store::SessionStore;
use crate::tls::tickets::TicketKeys;
use crate::tls::version::{ALPN_DOT, Version, protocols};

/// RFC 8446, section 4.6.1: "Servers MUST NOT use any value greater than 604800 seconds".
pub const SESSION_SECONDS_MAX: u32 = 604_800;

/// The configured TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// The certificates; at least one.
    pub certificates: Vec<CertificateFiles>,
    /// The lowest version.
    pub version_min: Version,
    /// Ciphers of TLS 1.2 by their OpenSSL names, separated by colons; empty means all.
    pub ciphers: String,
    /// The same for TLS 1.3.
    pub ciphers_tls13: String,
    /// Whether our order of ciphers decides rather than the client's.
    pub prefer_server_ciphers: bool,
    /// Whether clients get session tickets.
    pub tickets: bool,
    /// Ticket keys kept: the first encrypts, all decrypt.
    pub ticket_keys: usize,
    /// A file of ticket keys shared by several machines; by default they are random.
    pub ticket_key_file: Option<PathBuf>,
    /// A key of another machine, which comes first until the next one; in place of the file.
    pub ticket_key: Option<TicketKey>,
    /// How often a new key was asked for.
    pub ticket_turn: u32,
    /// Seconds after which the owner of the clock calls [`ServerTls::rotate`]; 0 never.
    pub ticket_rotation_seconds: u32,
    /// Sessions kept for clients without tickets; 0 keeps none.
    pub sessions: usize,
    /// Seconds that a session can be resumed, at most [`SESSION_SECONDS_MAX`].
    pub session_seconds: u32,
    /// The protocols of ALPN; empty means no ALPN.
    pub alpn: Vec<String>,
    /// A file for session secrets, for debugging.
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
            ticket_key: None,
            ticket_turn: 0,
            ticket_rotation_seconds: 43_200,
            sessions: 20_480,
            session_seconds: 43_200,
            alpn: vec![ALPN_DOT.to_owned()],
            key_log: None,
        }
    }
}

/// The bytes of a ticket key, which no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey(pub Arc<[u8]>);

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey")
    }
}

/// The loaded TLS of a listener.
#[derive(Debug)]
pub struct ServerTls {
    spec: ServerSpec,
    config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
    tickets: Option<Arc<TicketKeys>>,
}

impl ServerTls {
    /// Loads every file of a specification.
    ///
    /// An expired certificate is no error, because one that is about to expire must not prevent a
    /// start: see [`ServerTls::certificates`].
    ///
    /// # Errors
    ///
    /// The first error, with its file.
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
        // One, where rustls would send two: a DNS client has one connection, and gets the next
        // ticket when it returns.
        config.send_tls13_tickets = 1;
        config.ignore_client_order = spec.prefer_server_ciphers;
        config.alpn_protocols = protocols(&spec.alpn)?;
        config.key_log = key_log(spec.key_log.as_ref())?;
        Ok(Self { spec: spec.clone(), config: Arc::new(config), certificates, tickets })
    }

    /// Takes over what lets the clients of another, for the same listener, resume their sessions:
    /// its random ticket keys and stored sessions, where both are of the same kind; earlier keys of
    /// the same file, and those before one that was asked for, still decrypt tickets. Reads no file.
    #[must_use]
    pub fn inherit(&self, old: &Self) -> Self {
        let (spec, mut config) = (self.spec.clone(), ServerConfig::clone(&self.config));
        let mut tickets = self.tickets.clone();
        let same = old.spec.ticket_key_file == spec.ticket_key_file;
        if let (true, Some(new), Some(before)) = (same, &self.tickets, &old.tickets) {
            let renewed =
                (old.spec.ticket_turn, &old.spec.ticket_key) != (spec.ticket_turn, &spec.ticket_key);
            if spec.ticket_key_file.is_some() || renewed {
                // The old one's keys are in use, and this one may still be refused.
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

    /// Puts a new ticket key first, or reloads the key file. Called by one thread.
    ///
    /// # Errors
    ///
    /// Those of the file; the keys stay as they are.
    pub fn rotate(&self) -> Result<(), TlsError> {
        self.tickets.as_ref().map_or(Ok(()), |tickets| tickets.rotate())
    }

    /// Returns whether this and another share their ticket keys.
    #[must_use]
    pub fn same_tickets(&self, other: &Self) -> bool {
        match (&self.tickets, &other.tickets) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => std::ptr::eq(self, other),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Returns the number of ticket keys.
    #[must_use]
    pub fn ticket_keys(&self) -> usize {
        self.tickets.as_ref().map_or(0, |keys| keys.count())
    }

    /// Returns the bytes of the key that seals tickets, to be shared with other machines.
    #[must_use]
    pub fn first_tickets_key(&self) -> Option<Vec<u8>> {
        self.tickets.as_ref()?.first()
    }

    /// Returns the specification.
    #[must_use]
    pub fn spec(&self) -> &ServerSpec {
        &self.spec
    }

    /// Returns what the certificates contain, in the order of the configuration.
    #[must_use]
    pub fn certificates(&self) -> Vec<Leaf> {
        self.certificates.leaves().cloned().collect()
    }

    /// Returns warnings at this unix time: certificates that are not valid yet, have expired or
    /// expire within `days`; OCSP responses that are not stapled.
    #[must_use]
    pub fn warnings(&self, now: u64, days: u32) -> Vec<String> {
        self.certificates.warnings(now, days)
    }

    /// Returns what rustls needs for a connection.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

fn tickets(spec: &ServerSpec) -> Result<Option<TicketKeys>, TlsError> {
    if !spec.tickets {
        return Ok(None);
    }
    let seconds = spec.session_seconds.min(SESSION_SECONDS_MAX);
    if let Some(key) = &spec.ticket_key {
        return TicketKeys::given(&key.0, spec.ticket_keys, seconds).map(Some);
    }
    match &spec.ticket_key_file {
        Some(file) => TicketKeys::from_file(file.clone(), spec.ticket_keys, seconds).map(Some),
        None => TicketKeys::random(spec.ticket_keys, seconds).map(Some),
    }
}

/// Opens the key log, if there is one.
pub(super) fn key_log(file: Option<&PathBuf>) -> Result<Arc<dyn KeyLog>, TlsError> {
    match file {
        Some(file) => KeyLogFile::open(file),
        None => Ok(Arc::new(NoKeyLog)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::fixture::{Authority, Directory};

    #[test]
    fn a_key_that_is_asked_for_comes_first_and_earlier_ones_stay() {
        let directory = Directory::new();
        let pair = directory.pair(&Authority::new("Root").issue_until(&["dns.example"], 2026, 1, 2));
        let spec = ServerSpec { certificates: vec![pair], ..ServerSpec::default() };
        let load = |spec: &ServerSpec| ServerTls::load(spec).expect("a listener");
        let first = load(&spec);
        let key = |tls: &ServerTls| tls.first_tickets_key().expect("a key");
        assert_eq!(key(&load(&spec).inherit(&first)), key(&first), "a reload keeps it");
        let turned = ServerSpec { ticket_turn: 1, ..spec.clone() };
        let second = load(&turned).inherit(&first);
        assert_eq!(second.ticket_keys(), 2);
        assert_ne!(key(&second), key(&first));
        assert_eq!(key(&load(&turned).inherit(&second)), key(&second));
        let given = ServerSpec { ticket_key: Some(TicketKey([7; 80].into())), ..turned };
        let third = load(&given).inherit(&second);
        assert_eq!((key(&third), third.ticket_keys()), (vec![7; 80], 3));
        assert!(!format!("{given:?}").contains("7, 7"), "it is in no log");
        let wrong = ServerSpec { ticket_key: Some(TicketKey([7; 79].into())), ..given };
        let why = ServerTls::load(&wrong).expect_err("another length").to_string();
        assert!(why.contains("a ticket key has 79 bytes"), "{why}");
    }
}
