//! Why a session failed: a reason for the counters, and a message.

use crate::base::reasons::reasons;

use std::fmt;

use rustls::{AlertDescription, Error, PeerIncompatible};

use crate::tls::verify;

reasons! {
    /// Why a session failed. The label is the metric's.
    Reason {
        /// The peer does not speak TLS.
        NotTls = "not-tls",
        /// The peer has no common TLS version.
        UnsupportedVersion = "unsupported-version",
        /// There is no common cipher, key exchange or signature.
        NoSharedCipher = "no-shared-cipher",
        /// There is no common ALPN protocol.
        NoSharedProtocol = "no-shared-alpn",
        /// The peer's certificate is invalid.
        BadCertificate = "bad-certificate",
        /// The peer refused our certificate.
        CertificateRefused = "certificate-refused",
        /// The connection ended during the handshake.
        UnexpectedEof = "unexpected-eof",
        /// The peer sent another alert.
        Alert = "alert",
        /// A record was modified, or encrypted with another key.
        Corrupt = "corrupt",
        /// Any other violation of TLS.
        Other = "other",
    }
}

/// The failure of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The counter.
    pub reason: Reason,
    /// A human-readable message without secrets.
    pub text: Box<str>,
}

impl Failure {
    pub(super) fn new(reason: Reason, text: impl Into<Box<str>>) -> Self {
        Self { reason, text: text.into() }
    }

    /// Converts an error of rustls; `handshake_started` tells whether a TLS message was understood before.
    pub(super) fn of(error: &Error, handshake_started: bool) -> Self {
        let text = match error {
            Error::InvalidCertificate(why) => verify::describe(why),
            Error::AlertReceived(alert) => format!("the peer sent an alert: {}", alert_text(*alert)),
            Error::InvalidMessage(_) if !handshake_started => "the peer does not speak TLS".to_owned(),
            other => other.to_string(),
        };
        Self::new(reason(error, handshake_started), text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

fn reason(error: &Error, handshake_started: bool) -> Reason {
    match error {
        Error::InvalidMessage(_) | Error::PeerSentOversizedRecord if !handshake_started => Reason::NotTls,
        Error::PeerIncompatible(why) => match why {
            PeerIncompatible::NoCipherSuitesInCommon
            | PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon
            | PeerIncompatible::NoEcPointFormatsInCommon
            | PeerIncompatible::NamedGroupsExtensionRequired
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired => Reason::NoSharedCipher,
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => Reason::UnsupportedVersion,
            _ => Reason::Other,
        },
        Error::NoApplicationProtocol => Reason::NoSharedProtocol,
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Reason::BadCertificate,
        Error::AlertReceived(alert) => match alert {
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA => Reason::CertificateRefused,
            AlertDescription::ProtocolVersion => Reason::UnsupportedVersion,
            AlertDescription::HandshakeFailure => Reason::NoSharedCipher,
            AlertDescription::NoApplicationProtocol => Reason::NoSharedProtocol,
            _ => Reason::Alert,
        },
        Error::DecryptError => Reason::Corrupt,
        _ => Reason::Other,
    }
}

/// Returns the alert's name as words: `UnknownCA` is "unknown CA".
fn alert_text(alert: AlertDescription) -> String {
    let name = format!("{alert:?}");
    let mut words = String::with_capacity(name.len() + 4);
    let mut last_upper = true;
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !last_upper {
            words.push(' ');
        }
        last_upper = letter.is_ascii_uppercase();
        words.push(letter);
    }
    let capitals = words.split(' ').map(|word| {
        let all = word.len() > 1 && word.chars().all(|letter| letter.is_ascii_uppercase());
        if all { word.to_owned() } else { word.to_ascii_lowercase() }
    });
    capitals.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_and_hyphenated() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(reason.label().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
            assert!(reason.doc().trim().ends_with('.'));
            assert_eq!(Reason::ALL.iter().filter(|other| other.label() == reason.label()).count(), 1);
        }
    }

    #[test]
    fn alerts_are_formatted_as_words() {
        assert_eq!(alert_text(AlertDescription::UnknownCA), "unknown CA");
        assert_eq!(alert_text(AlertDescription::HandshakeFailure), "handshake failure");
        let failure = Failure::of(&Error::AlertReceived(AlertDescription::UnknownCA), true);
        assert_eq!(failure.reason, Reason::CertificateRefused);
        assert_eq!(failure.to_string(), "the peer sent an alert: unknown CA");
    }
}
