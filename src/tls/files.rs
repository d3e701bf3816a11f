//! Reads certificates, keys and OCSP responses from files. Keeps nothing.

use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::base::files;
use crate::base::files::CERTIFICATE_BYTES_MAX;
use crate::tls::error::{Fault, TlsError};

/// Reads all bytes of a file.
pub(super) fn bytes(file: &Path) -> Result<Vec<u8>, TlsError> {
    files::read(file, CERTIFICATE_BYTES_MAX).map_err(|e| Fault::Unreadable(e.to_string()).of(file))
}

/// Reads the certificates of a PEM file, in their order; at least one.
pub(super) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = bytes(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|e| pem_fault(&e).of(file))?;
    match found.is_empty() {
        true if is_pem(&text) => Err(Fault::NoCertificate.of(file)),
        true => Err(Fault::NotPem.of(file)),
        false => Ok(found),
    }
}

/// Reads the first private key of a PEM file.
pub(super) fn key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = bytes(file)?;
    // PKCS #8 marks it in its label, the older form in a header (RFC 1421, section 4.6.1.1).
    if contains(&text, b"BEGIN ENCRYPTED PRIVATE KEY") || contains(&text, b"Proc-Type: 4,ENCRYPTED") {
        return Err(Fault::EncryptedKey.of(file));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|e| match e {
        pem::Error::NoItemsFound if is_pem(&text) => Fault::NoKey.of(file),
        pem::Error::NoItemsFound => Fault::NotPem.of(file),
        other => pem_fault(&other).of(file),
    })
}

/// Reads an OCSP response in DER, as `openssl ocsp -respout` writes it.
///
/// Only its frame is checked: one SEQUENCE (RFC 6960, section 4.2.1) that is the whole file.
/// Clients verify the rest.
pub(super) fn ocsp_response(file: &Path) -> Result<Vec<u8>, TlsError> {
    let bytes = bytes(file)?;
    let length = match bytes.as_slice() {
        [0x30, short @ ..=0x7f, ..] => 2 + usize::from(*short),
        [0x30, 0x81, a, ..] => 3 + usize::from(*a),
        [0x30, 0x82, a, b, ..] => 4 + usize::from(u16::from_be_bytes([*a, *b])),
        _ => 0,
    };
    if length > 2 && length == bytes.len() { Ok(bytes) } else { Err(Fault::NotOcsp.of(file)) }
}

fn is_pem(text: &[u8]) -> bool {
    contains(text, b"-----BEGIN ")
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn pem_fault(error: &pem::Error) -> Fault {
    Fault::BadPem(match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no line with END".to_owned(),
        pem::Error::IllegalSectionStart { line } => {
            format!("{:?} begins no section", String::from_utf8_lossy(line))
        }
        pem::Error::Base64Decode(why) => format!("a section is not base64: {why}"),
        other => format!("{other:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::fixture::{Authority, Directory};

    fn why<T>(result: Result<T, TlsError>) -> String {
        result.err().expect("an error").to_string()
    }

    #[test]
    fn errors_name_the_file_and_the_reason() {
        let directory = Directory::new();
        let cases: &[(&str, &str, &str)] = &[
            ("empty", "", "is not PEM"),
            ("noise", "hello", "is not PEM"),
            ("other", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "has no certificate"),
            ("cut", "-----BEGIN CERTIFICATE-----\nAAAA\n", "no line with END"),
            ("base64", "-----BEGIN CERTIFICATE-----\n?!\n-----END CERTIFICATE-----\n", "not base64"),
        ];
        for (name, text, expected) in cases {
            let file = directory.write(name, text);
            let message = why(certificates(&file));
            assert!(message.starts_with(&format!("{}: ", file.display())), "{message}");
            assert!(message.contains(expected), "{name}: {message}");
        }
        let missing = directory.path("missing");
        assert!(why(certificates(&missing)).contains("cannot be read: No such file"));
    }

    #[test]
    fn keys_are_found_and_encrypted_ones_reported() {
        let directory = Directory::new();
        let issued = Authority::new("Root").issue(&["dns.example"]);
        let (certificate, private) = (issued.certificate(), issued.key());
        // The chain may be in the same file.
        assert!(key(&directory.write("both", &format!("{certificate}{private}"))).is_ok());
        assert!(why(key(&directory.write("certificate", &certificate))).contains("has no private key"));
        for text in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        ] {
            assert!(why(key(&directory.write("encrypted", text))).contains("is encrypted"));
        }
    }

    #[test]
    fn an_ocsp_response_is_one_sequence() {
        let directory = Directory::new();
        for (bytes, good) in [
            (&b"\x30\x03\x0a\x01\x00"[..], true),
            (b"\x30\x81\x01\x00", true),
            (b"\x30\x82\x00\x01\x00", true),
            (b"\x30\x03\x0a\x01", false),
            (b"\x30\x03\x0a\x01\x00\x00", false),
            (b"\x30\x00", false),
            (b"\x04\x03\x0a\x01\x00", false),
            (b"", false),
        ] {
            let file = directory.write_bytes("response", bytes);
            assert_eq!(ocsp_response(&file).is_ok(), good, "{bytes:x?}");
        }
    }
}
