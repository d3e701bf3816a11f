//! What can be wrong with what a configuration asks of TLS: the file, and what is wrong with it.
//!
//! Worded for the operator; what goes wrong with one connection is a
//! [`Failure`](crate::tls::failure::Failure).

use std::fmt;
use std::path::{Path, PathBuf};

use crate::tls::ciphers;

/// One thing that is wrong, and with which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    /// The file; none when a setting itself is wrong.
    pub file: Option<PathBuf>,
    /// What.
    pub fault: Fault,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operating system's reason.
    Unreadable(String),
    /// The operating system's reason.
    Unwritable(String),
    /// A symbolic link where secrets are written.
    BackendSockets,
    /// A file of secrets that others may read or write: its mode.
    OpenToOthers(u32),
    /// A file without a PEM section.
    NotPem,
    /// A PEM section that cannot be read, and why.
    BadPem(String),
    /// PEM, but no certificate in it.
    NoCertificate,
    /// A certificate that cannot be read, and why.
    BadCertificate(String),
    /// PEM, but no private key in it.
    NoKey,
    /// A private key behind a passphrase.
    EncryptedKey,
    /// A private key that cannot be read or used, and why.
    BadKey(String),
    /// A private key of another certificate; the certificate's file.
    KeyMismatch(PathBuf),
    /// Not an OCSP response.
    NotOcsp,
    /// More OCSP responses than certificates: how many of each.
    TooManyOcsp(usize, usize),
    /// A file of ticket keys with this many bytes.
    BadTicketKeys(usize),
    /// A listener without a certificate.
    NoCertificateGiven,
    /// A TLS version that is too old.
    OldVersion(String),
    /// A word that is no TLS version.
    UnknownVersion(String),
    /// A cipher that rustls does not have; whether it was asked for TLS 1.3.
    UnknownCipher(String, bool),
    /// Ciphers that leave none for a version.
    NoCipherLeft,
    /// A protocol that ALPN cannot name.
    BadAlpn(String),
    /// A subject name that is neither a host name nor an address.
    BadSubjectName(String),
    /// A file of authorities with nobody in it.
    NoAuthority,
    /// None of the places where systems keep their authorities.
    NoSystemAuthorities,
    /// What rustls itself says.
    Refused(String),
    /// The operating system gave no random bytes.
    NoRandomness,
}

impl Fault {
    /// The fault with the file it is in.
    pub(super) fn of(self, file: &Path) -> TlsError {
        TlsError { file: Some(file.to_owned()), fault: self }
    }
}

impl From<Fault> for TlsError {
    fn from(fault: Fault) -> Self {
        Self { file: None, fault }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        self.fault.fmt(f)
    }
}

impl std::error::Error for TlsError {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
            Self::Unwritable(why) => write!(f, "cannot be written: {why}"),
            Self::BackendSockets => f.write_str("is a symbolic link, which is not followed"),
            Self::OpenToOthers(mode) => write!(f, "others may use it (mode {mode:o}): chmod 600 FILE"),
            Self::NotPem => f.write_str("is not PEM: there is no line with BEGIN in it"),
            Self::BadPem(why) => write!(f, "is broken PEM: {why}"),
            Self::NoCertificate => f.write_str("has no certificate in it"),
            Self::BadCertificate(why) => write!(f, "the certificate cannot be read: {why}"),
            Self::NoKey => f.write_str("has no private key in it"),
            Self::EncryptedKey => f.write_str(
                "the private key is encrypted; write it without its passphrase (openssl pkey -in FILE -out FILE)",
            ),
            Self::BadKey(why) => write!(f, "the private key cannot be used: {why}"),
            Self::KeyMismatch(certificate) => {
                write!(f, "the private key does not belong to the certificate in {}", certificate.display())
            }
            Self::NotOcsp => f.write_str("is not an OCSP response in DER"),
            Self::TooManyOcsp(responses, certificates) => {
                write!(f, "there are {responses} OCSP responses for {certificates} certificates")
            }
            Self::BadTicketKeys(bytes) => write!(
                f,
                "has {bytes} bytes; ticket keys are 80 bytes each (or 48 each, where that is no multiple of 80)"
            ),
            Self::NoCertificateGiven => f.write_str("TLS needs a certificate and its private key"),
            Self::OldVersion(text) => {
                write!(f, "{text} is not supported; tls1.2 is the least, tls1.3 the other")
            }
            Self::UnknownVersion(text) => {
                write!(f, "{text} is no TLS version; there are tls1.2 and tls1.3")
            }
            Self::UnknownCipher(name, tls13) => {
                let known = if *tls13 { ciphers::TLS13 } else { ciphers::TLS12 };
                let known: Vec<&str> = known.iter().map(|cipher| cipher.0).collect();
                write!(f, "{name} is not among the ciphers there are: {}", known.join(", "))
            }
            Self::NoCipherLeft => f.write_str("no cipher is left for the TLS versions asked for"),
            Self::BadAlpn(name) => write!(f, "{name:?} is no protocol name of 1 to 255 bytes"),
            Self::BadSubjectName(name) => write!(f, "{name:?} is neither a host name nor an address"),
            Self::NoAuthority => f.write_str("has no certificate of an authority in it that can be used"),
            Self::NoSystemAuthorities => f.write_str(
                "the system's certificate authorities were not found; install ca-certificates or set caStore",
            ),
            Self::Refused(why) => f.write_str(why),
            Self::NoRandomness => f.write_str("the system gave no random bytes"),
        }
    }
}
