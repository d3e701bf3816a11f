//! The certificates of a listener, and the choice among them.
//!
//! The name in the client's hello (SNI) decides: an exact name before a wildcard; the first
//! certificate when none has that name, or the client sent none. Of several for one name (one RSA,
//! one ECDSA) the first whose signatures the client supports.
//!
//! An OCSP response is stapled as long as it is valid, and for its certificate.

#![expect(clippy::disallowed_methods, reason = "certificates are good until a day of the calendar")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, SignatureScheme};

use crate::tls::date::Date;
use crate::tls::error::{Fault, TlsError};
use crate::tls::leaf::Leaf;
use crate::tls::{files, ocsp};

/// The files of a certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM: the certificate, then its chain.
    pub certificate: PathBuf,
    /// PEM: the private key; may be the same file.
    pub key: PathBuf,
    /// DER: the OCSP response to staple, if any.
    pub ocsp: Option<PathBuf>,
}

/// A listener's certificates.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    all: Vec<Certificate>,
    /// By name in lower case; a wildcard by what follows its `*`.
    by_name: HashMap<String, Vec<usize>>,
}

#[derive(Debug)]
struct Certificate {
    key: Arc<CertifiedKey>,
    /// The same with its OCSP response, and until when that is valid, unix seconds.
    stapled: Option<(Arc<CertifiedKey>, u64)>,
    /// Why its OCSP response is not stapled.
    staple_error: Option<&'static str>,
    leaf: Leaf,
}

impl Certificate {
    /// Returns warnings at this unix time: see [`Certificates::warnings`].
    fn warnings(&self, now: u64, days: u32) -> impl Iterator<Item = String> {
        let ended = self.stapled.as_ref().map(|(_, until)| *until).filter(|until| *until < now);
        let ended = ended.map(|until| format!("ended on {}", Date(until)));
        let staple = self.staple_error.map(str::to_owned).or(ended).map(|why| {
            let name = self.leaf.display_name();
            format!("the OCSP response of certificate {name} {why}: it is not stapled")
        });
        self.leaf.warning(now, days).into_iter().chain(staple)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes(), UnixTime::now().as_secs())
    }
}

impl Certificates {
    /// Loads all files, and checks that they belong together.
    ///
    /// # Errors
    ///
    /// The first invalid file, and the reason.
    pub(super) fn load(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Self, TlsError> {
        let mut table = Self::default();
        for pair in files {
            table.add(load(pair, provider)?);
        }
        if table.all.is_empty() { Err(Fault::NoCertificateGiven.into()) } else { Ok(table) }
    }

    fn add(&mut self, certificate: Certificate) {
        let at = self.all.len();
        for name in &certificate.leaf.names {
            let key = name.strip_prefix('*').unwrap_or(name);
            self.by_name.entry(key.to_owned()).or_default().push(at);
        }
        self.all.push(certificate);
    }

    /// Returns what the certificates contain, in the order of the configuration.
    pub(super) fn leaves(&self) -> impl Iterator<Item = &Leaf> {
        self.all.iter().map(|certificate| &certificate.leaf)
    }

    /// Returns warnings at this unix time: certificates that are not valid yet, have expired or
    /// expire within `days`; OCSP responses that are not stapled.
    pub(super) fn warnings(&self, now: u64, days: u32) -> Vec<String> {
        self.all.iter().flat_map(|certificate| certificate.warnings(now, days)).collect()
    }

    fn choose(&self, name: Option<&str>, known: &[SignatureScheme], now: u64) -> Option<Arc<CertifiedKey>> {
        let usable = |at: &usize| self.all[*at].key.key.choose_scheme(known).is_some();
        let exact = name.map(str::to_ascii_lowercase);
        // RFC 6125, section 6.4.3: a wildcard matches exactly one label, the first.
        let wildcard = exact.as_deref().and_then(|name| name.find('.').map(|dot| &name[dot..]));
        let named = [exact.as_deref(), wildcard].into_iter().flatten();
        let named = named.filter_map(|name| self.by_name.get(name)).flatten();
        let found = named.copied().find(usable).or_else(|| (0..self.all.len()).find(usable));
        // If the client supports none of them, rustls reports that.
        let certificate = self.all.get(found.unwrap_or(0))?;
        let stapled = certificate.stapled.as_ref().filter(|(_, until)| now <= *until);
        Some(Arc::clone(stapled.map_or(&certificate.key, |(key, _)| key)))
    }
}

fn load(pair: &CertificateFiles, provider: &CryptoProvider) -> Result<Certificate, TlsError> {
    let chain = files::certificates(&pair.certificate)?;
    let unreadable = |why: String| Fault::BadCertificate(why).of(&pair.certificate);
    let leaf = chain.first().map_or(&[][..], |first| first.as_ref());
    let leaf = Leaf::parse(leaf).map_err(|why| unreadable(why.0))?;
    let key = files::key(&pair.key)?;
    let key = provider.key_provider.load_private_key(key).map_err(|e| unusable(&e, &pair.key))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(Error::InconsistentKeys(_)) => {
            return Err(Fault::KeyMismatch(pair.certificate.clone()).of(&pair.key));
        }
        Err(other) => return Err(unreadable(other.to_string())),
    }
    let mut certificate = Certificate { key: Arc::new(certified), stapled: None, staple_error: None, leaf };
    if let Some(response) = pair.ocsp.as_deref().map(files::ocsp_response).transpose()? {
        match ocsp::valid_until(&response, &certificate.leaf.serial) {
            Ok(until) => {
                let stapled = CertifiedKey { ocsp: Some(response), ..CertifiedKey::clone(&certificate.key) };
                certificate.stapled = Some((Arc::new(stapled), until));
            }
            Err(why) => certificate.staple_error = Some(why),
        }
    }
    Ok(certificate)
}

fn unusable(error: &Error, file: &Path) -> TlsError {
    let why = match error {
        Error::General(why) => why.clone(),
        other => other.to_string(),
    };
    Fault::BadKey(why).of(file)
}

#[cfg(test)]
mod tests {
    use rustls::crypto::ring;

    use super::*;
    use crate::tls::fixture::{Authority, Directory, Issued, ocsp_response};

    const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
    const ED25519: &[SignatureScheme] = &[SignatureScheme::ED25519];

    fn table(directory: &Directory, issued: &[&Issued]) -> Certificates {
        let files: Vec<_> = issued.iter().map(|issued| directory.pair(issued)).collect();
        Certificates::load(&files, &ring::default_provider()).expect("certificates")
    }

    fn chosen(table: &Certificates, name: Option<&str>, known: &[SignatureScheme]) -> Vec<String> {
        let key = table.choose(name, known, 0).expect("a certificate");
        Leaf::parse(&key.cert[0]).expect("a certificate").names
    }

    #[test]
    fn sni_chooses_the_certificate() {
        let (directory, root) = (Directory::new(), Authority::new("Root"));
        let first = root.issue(&["first.example"]);
        let exact = root.issue(&["a.second.example"]);
        let wild = root.issue(&["*.second.example"]);
        let table = table(&directory, &[&first, &wild, &exact]);
        for (name, expected) in [
            (None, "first.example"),
            (Some("first.example"), "first.example"),
            (Some("A.Second.Example"), "a.second.example"),
            (Some("b.second.example"), "*.second.example"),
            (Some("second.example"), "first.example"),
            (Some("c.b.second.example"), "first.example"),
            (Some("*.second.example"), "*.second.example"),
            (Some("other.example"), "first.example"),
            (Some(""), "first.example"),
        ] {
            assert_eq!(chosen(&table, name, ECDSA), [expected], "{name:?}");
        }
    }

    #[test]
    fn of_two_certificates_for_a_name_a_supported_one_is_chosen() {
        let (directory, root) = (Directory::new(), Authority::new("Root"));
        let ecdsa = root.issue(&["dns.example"]);
        let ed25519 = root.issue_ed25519(&["dns.example", "ed.example"]);
        let table = table(&directory, &[&ecdsa, &ed25519]);
        assert_eq!(chosen(&table, Some("dns.example"), ECDSA), ["dns.example"]);
        assert_eq!(chosen(&table, Some("dns.example"), ED25519).len(), 2);
        let both = [ED25519, ECDSA].concat();
        assert_eq!(chosen(&table, Some("dns.example"), &both), ["dns.example"]);
        // None is supported: the first one.
        assert_eq!(chosen(&table, Some("ed.example"), &[SignatureScheme::RSA_PSS_SHA256]), ["dns.example"]);
    }

    #[test]
    fn mismatched_files_are_reported() {
        let (directory, root) = (Directory::new(), Authority::new("Root"));
        let one = directory.pair(&root.issue(&["one.example"]));
        let two = directory.pair(&root.issue(&["two.example"]));
        let load = |files: &[CertificateFiles]| {
            Certificates::load(files, &ring::default_provider()).expect_err("an error").to_string()
        };
        let crossed = CertificateFiles { key: two.key.clone(), ..one.clone() };
        let why = load(&[one.clone(), crossed]);
        assert!(why.starts_with(&two.key.display().to_string()), "{why}");
        assert!(why.contains("does not belong to the certificate in"), "{why}");
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let broken = CertificateFiles { certificate: directory.write("junk", junk), ..one.clone() };
        assert!(load(&[broken]).contains("junk: the certificate cannot be read"));
        let junk = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let broken = CertificateFiles { key: directory.write("junk", junk), ..one.clone() };
        assert!(load(&[broken]).contains("junk: the private key cannot be used"));
        let stapled = CertificateFiles { ocsp: Some(one.key.clone()), ..one };
        assert!(load(&[stapled]).contains("is not an OCSP response"));
        assert_eq!(load(&[]), "TLS needs a certificate and its private key");
    }

    #[test]
    fn an_ocsp_response_is_stapled_while_it_is_valid() {
        /// 2026-01-02.
        const END: u64 = 1_767_312_000;
        let (directory, root) = (Directory::new(), Authority::new("Root"));
        let issued = root.issue(&["dns.example"]);
        let serial = Leaf::parse(issued.der()).expect("a certificate").serial;
        let with = |response: Vec<u8>| {
            let ocsp = Some(directory.write_bytes("response", &response));
            let files = [CertificateFiles { ocsp, ..directory.pair(&issued) }];
            Certificates::load(&files, &ring::default_provider()).expect("certificates")
        };
        let stapled =
            |table: &Certificates, now| table.choose(None, ECDSA, now).expect("a certificate").ocsp.is_some();
        let good = with(ocsp_response(&serial, true, Some("20260102000000Z")));
        assert!(stapled(&good, END) && !stapled(&good, END + 1));
        assert_eq!(good.warnings(END, 21), [] as [String; 0]);
        let warning = "the OCSP response of certificate dns.example ended on 2026-01-02: it is not stapled";
        assert_eq!(good.warnings(END + 1, 21), [warning]);
        for (response, why) in [
            (ocsp_response(&[1], true, None), "is about another certificate"),
            (ocsp_response(&serial, false, None), "does not have the status good"),
            (b"\x30\x03\x0a\x01\x06".to_vec(), "cannot be parsed, or has an error status"),
        ] {
            let table = with(response);
            assert!(!stapled(&table, END), "{why}");
            let warning = format!("the OCSP response of certificate dns.example {why}: it is not stapled");
            assert_eq!(table.warnings(END, 21), [warning]);
        }
    }
}
