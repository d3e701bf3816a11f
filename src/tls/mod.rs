//! TLS: certificates, keys, tickets and sessions, by rustls with ring.
//!
//! ```text
//!  ServerSpec ──load──► ServerTls ──► Session::server ─┐      bytes in ──► plaintext
//!  ClientSpec ──load──► ClientTls ──► Session::client ─┴─►    plaintext ──► bytes out
//! ```
//!
//! A specification is what a configuration asks; loading it reads every file it names, and fails
//! with the file and what is wrong with it. What was loaded is shared by all shards; a
//! [`session::Session`] is one connection's, and moves bytes without knowing of sockets.
//!
//! This room opens no socket, starts no thread, and never asks a shard. The only locks are those
//! that one handshake takes: the store of sessions. Established sessions share nothing. Key logs are
//! written by whoever calls [`write_key_logs`].
//!
//! TLS 1.2 and 1.3 only: rustls has no older version, and RFC 8996 forbids them.

// The enums of rustls and x509-parser may grow in any release; what is new has no name here.
#![allow(clippy::wildcard_enum_match_arm)]

pub mod certificates;
pub mod ciphers;
pub mod client;
mod der;
pub mod error;
pub mod expiry;
pub mod failure;
mod files;
#[cfg(test)]
pub(crate) mod fixture;
mod keylog;
mod ocsp;
pub mod server;
pub mod session;
mod store;
pub mod tickets;
mod trust;
mod verify;

pub use crate::tls::client::{CaStores, ClientSpec, ClientTls};
pub use crate::tls::error::{Fault, TlsError};
pub use crate::tls::failure::{Failure, Reason};
pub use crate::tls::keylog::{lost as key_log_lines_lost, write as write_key_logs};
pub use crate::tls::server::{CertificateFiles, ServerSpec, ServerTls};
pub use crate::tls::session::{Session, TlsFacts};

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl Version {
    /// The version as dnsdist's `minTLSVersion` writes it: `tls1.2`, `tls1.3`.
    ///
    /// # Errors
    ///
    /// Versions below 1.2, and words that are no version.
    pub fn parse(text: &str) -> Result<Self, TlsError> {
        match text.to_ascii_lowercase().as_str() {
            "tls1.2" => Ok(Self::Tls12),
            "tls1.3" => Ok(Self::Tls13),
            "tls1.0" | "tls1.1" | "ssl3" => Err(Fault::OldVersion(text.to_owned()).into()),
            _ => Err(Fault::UnknownVersion(text.to_owned()).into()),
        }
    }

    /// The version's name in logs and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tls12 => "tls1.2",
            Self::Tls13 => "tls1.3",
        }
    }

    /// This version and those above it, as rustls names them.
    fn and_above(self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        match self {
            Self::Tls12 => rustls::DEFAULT_VERSIONS,
            Self::Tls13 => TLS13_ALONE,
        }
    }
}

static TLS13_ALONE: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The protocols offered in ALPN, as the wire has them.
///
/// # Errors
///
/// RFC 7301, section 3.1: a name has 1 to 255 bytes.
fn protocols(names: &[String]) -> Result<Vec<Vec<u8>>, TlsError> {
    let wrong = names.iter().find(|name| name.is_empty() || name.len() > 255);
    match wrong {
        Some(name) => Err(Fault::BadAlpn(name.clone()).into()),
        None => Ok(names.iter().map(|name| name.as_bytes().to_vec()).collect()),
    }
}

/// The name of DNS over TLS in ALPN, as IANA registered it for RFC 7858.
pub const ALPN_DOT: &str = "dot";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_below_1_2_are_refused_with_the_reason() {
        assert_eq!(Version::parse("tls1.2"), Ok(Version::Tls12));
        assert_eq!(Version::parse("TLS1.3"), Ok(Version::Tls13));
        let old = Version::parse("tls1.0").unwrap_err().to_string();
        assert_eq!(old, "tls1.0 is not supported; tls1.2 is the least, tls1.3 the other");
        let odd = Version::parse("1.2").unwrap_err().to_string();
        assert_eq!(odd, "1.2 is no TLS version; there are tls1.2 and tls1.3");
    }

    #[test]
    fn a_protocol_has_a_name() {
        assert_eq!(protocols(&["dot".to_owned()]), Ok(vec![b"dot".to_vec()]));
        assert!(protocols(&[String::new()]).is_err());
        assert!(protocols(&["x".repeat(256)]).is_err());
    }
}
