//! Why a session failed: a reason to be counted, and words for people.

use crate::base::reasons::reasons;

use std::fmt;

use rustls::{AlertDescription, Error, PeerIncompatible};

use crate::tls::verify;

reasons! {
    /// Why a session failed. The label is the metric's.
    Reason {
        /// What came is not TLS.
        NotTls = "not-tls",
        /// The other side has no TLS version that we have.
        UnsupportedVersion = "unsupported-version",
        /// No cipher, key exchange or signature is known to both sides.
        NoSharedCipher = "no-shared-cipher",
        /// No protocol of ALPN is known to both sides.
        NoSharedProtocol = "no-shared-alpn",
        /// The other side's certificate is not good.
        BadCertificate = "bad-certificate",
        /// The other side did not accept our certificate.
        CertificateRefused = "certificate-refused",
        /// The connection ended in the middle of the handshake.
        UnexpectedEof = "unexpected-eof",
        /// The other side ended it with an alert of another kind.
        Alert = "alert",
        /// A record that was changed on its way, or sealed with another key.
        Corrupt = "corrupt",
        /// Anything else that TLS does not allow.
        Other = "other",
    }
}

/// The end of a session that should not have ended so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// To be counted.
    pub reason: Reason,
    /// For people; without anything secret.
    pub text: Box<str>,
}

impl Failure {
    pub(super) fn new(reason: Reason, text: impl Into<Box<str>>) -> Self {
        Self { reason, text: text.into() }
    }

    /// What rustls says; whether a message of TLS was understood before.
    pub(super) fn of(error: &Error, begun: bool) -> Self {
        let text = match error {
            Error::InvalidCertificate(why) => verify::words(why),
            Error::AlertReceived(alert) => format!("the other side says: {}", alert_words(*alert)),
            Error::InvalidMessage(_) if !begun => "what came is not TLS".to_owned(),
            other => other.to_string(),
        };
        Self::new(reason(error, begun), text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

fn reason(error: &Error, begun: bool) -> Reason {
    match error {
        Error::InvalidMessage(_) | Error::PeerSentOversizedRecord if !begun => Reason::NotTls,
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

/// The alert's name as words: `UnknownCA` is "unknown CA".
fn alert_words(alert: AlertDescription) -> String {
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
    fn labels_are_words_with_hyphens_and_differ() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(reason.label().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
            assert!(reason.doc().trim().ends_with('.'));
            assert_eq!(Reason::ALL.iter().filter(|other| other.label() == reason.label()).count(), 1);
        }
    }

    #[test]
    fn alerts_read_as_words() {
        assert_eq!(alert_words(AlertDescription::UnknownCA), "unknown CA");
        assert_eq!(alert_words(AlertDescription::HandshakeFailure), "handshake failure");
        let failure = Failure::of(&Error::AlertReceived(AlertDescription::UnknownCA), true);
        assert_eq!(failure.reason, Reason::CertificateRefused);
        assert_eq!(failure.to_string(), "the other side says: unknown CA");
    }
}
