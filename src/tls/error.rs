//! Errors in the TLS part of a configuration: the file, and what is wrong with it.
//!
//! Worded for the operator; errors of one connection are a
//! [`Failure`](crate::tls::failure::Failure).

use std::fmt;
use std::path::{Path, PathBuf};

/// An error, and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    /// The file; `None` when a setting is wrong.
    pub file: Option<PathBuf>,
    /// The error.
    pub fault: Fault,
}

/// The kinds of errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operating system's reason.
    Unreadable(String),
    /// The operating system's reason.
    Unwritable(String),
    /// A symbolic link to a file of secrets.
    SymbolicLink,
    /// A file of secrets that others can read or write: its mode.
    OpenToOthers(u32),
    /// A file without a PEM section.
    NotPem,
    /// A PEM section that cannot be decoded, and why.
    BadPem(String),
    /// PEM without a certificate.
    NoCertificate,
    /// A certificate that cannot be parsed, and why.
    BadCertificate(String),
    /// PEM without a private key.
    NoKey,
    /// A private key with a passphrase.
    EncryptedKey,
    /// A private key that cannot be parsed or used, and why.
    BadKey(String),
    /// A private key of another certificate; that certificate's file.
    KeyMismatch(PathBuf),
    /// Not an OCSP response.
    NotOcsp,
    /// More OCSP responses than certificates: the number of each.
    TooManyOcsp(usize, usize),
    /// A file of ticket keys with this number of bytes.
    BadTicketKeys(usize),
    /// A ticket key of this number of bytes.
    BadTicketKey(usize),
    /// A listener without a certificate.
    NoCertificateGiven,
    /// A TLS version that is too old.
    OldVersion(String),
    /// A text that is no TLS version.
    UnknownVersion(String),
    /// An unsupported cipher, and those of its version that are supported.
    UnknownCipher(String, Vec<&'static str>),
    /// No cipher is left for a version.
    NoCipherLeft,
    /// An invalid ALPN protocol name.
    BadAlpn(String),
    /// A subject name that is neither a host name nor an address.
    BadSubjectName(String),
    /// A file without a usable authority.
    NoAuthority,
    /// No system store of authorities was found.
    NoSystemAuthorities,
    /// An error of rustls.
    Refused(String),
    /// The operating system returned no random bytes.
    NoRandomness,
}

impl Fault {
    /// Adds the file to the fault.
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
            Self::SymbolicLink => f.write_str("is a symbolic link, which is not followed"),
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
                write!(f, "{responses} OCSP responses are given for {certificates} certificates")
            }
            Self::BadTicketKeys(bytes) => write!(
                f,
                "has {bytes} bytes; ticket keys are 80 bytes each (or 48 each, where that is no multiple of 80)"
            ),
            Self::BadTicketKey(bytes) => write!(f, "a ticket key has {bytes} bytes; expected 80, or 48"),
            Self::NoCertificateGiven => f.write_str("TLS needs a certificate and its private key"),
            Self::OldVersion(text) => {
                write!(f, "{text} is not supported; use tls1.2 or tls1.3")
            }
            Self::UnknownVersion(text) => {
                write!(f, "{text} is no TLS version; use tls1.2 or tls1.3")
            }
            Self::UnknownCipher(name, known) => {
                write!(f, "{name} is not a supported cipher: {}", known.join(", "))
            }
            Self::NoCipherLeft => f.write_str("no cipher is left for the configured TLS versions"),
            Self::BadAlpn(name) => write!(f, "{name:?} is no protocol name of 1 to 255 bytes"),
            Self::BadSubjectName(name) => write!(f, "{name:?} is neither a host name nor an address"),
            Self::NoAuthority => f.write_str("has no usable certificate of an authority"),
            Self::NoSystemAuthorities => f.write_str(
                "the system's certificate authorities were not found; install ca-certificates or set caStore",
            ),
            Self::Refused(why) => f.write_str(why),
            Self::NoRandomness => f.write_str("the system returned no random bytes"),
        }
    }
}
