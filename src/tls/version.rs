//! Versions of TLS, and the protocols that ALPN names.

use crate::tls::error::{Fault, TlsError};

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl Version {
    /// Parses dnsdist's `minTLSVersion`: `tls1.2`, `tls1.3`.
    ///
    /// # Errors
    ///
    /// Versions below 1.2, and other texts.
    pub fn parse(text: &str) -> Result<Self, TlsError> {
        match text.to_ascii_lowercase().as_str() {
            "tls1.2" => Ok(Self::Tls12),
            "tls1.3" => Ok(Self::Tls13),
            "tls1.0" | "tls1.1" | "ssl3" => Err(Fault::OldVersion(text.to_owned()).into()),
            _ => Err(Fault::UnknownVersion(text.to_owned()).into()),
        }
    }

    /// Returns the version's name in logs and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tls12 => "tls1.2",
            Self::Tls13 => "tls1.3",
        }
    }

    /// Returns this version and later ones for rustls.
    pub(super) fn and_above(self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        match self {
            Self::Tls12 => rustls::DEFAULT_VERSIONS,
            Self::Tls13 => TLS13_ALONE,
        }
    }
}

static TLS13_ALONE: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Encodes ALPN protocol names.
///
/// # Errors
///
/// RFC 7301, section 3.1: a name has 1 to 255 bytes.
pub(super) fn protocols(names: &[String]) -> Result<Vec<Vec<u8>>, TlsError> {
    let wrong = names.iter().find(|name| name.is_empty() || name.len() > 255);
    match wrong {
        Some(name) => Err(Fault::BadAlpn(name.clone()).into()),
        None => Ok(names.iter().map(|name| name.as_bytes().to_vec()).collect()),
    }
}

/// The ALPN name of DNS over TLS, as registered by IANA for RFC 7858.
pub const ALPN_DOT: &str = "dot";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_below_1_2_are_refused() {
        assert_eq!(Version::parse("tls1.2"), Ok(Version::Tls12));
        assert_eq!(Version::parse("TLS1.3"), Ok(Version::Tls13));
        let old = Version::parse("tls1.0").unwrap_err().to_string();
        assert_eq!(old, "tls1.0 is not supported; use tls1.2 or tls1.3");
        let odd = Version::parse("1.2").unwrap_err().to_string();
        assert_eq!(odd, "1.2 is no TLS version; use tls1.2 or tls1.3");
    }

    #[test]
    fn protocol_names_are_checked() {
        assert_eq!(protocols(&["dot".to_owned()]), Ok(vec![b"dot".to_vec()]));
        assert!(protocols(&[String::new()]).is_err());
        assert!(protocols(&["x".repeat(256)]).is_err());
    }
}
