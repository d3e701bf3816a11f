//! The certificates of a listener, and which of them a client gets.
//!
//! By the name it asks for (SNI): an exact name before a wildcard; the first certificate when
//! none is for that name, or none was asked for. Of several for one name (one RSA, one ECDSA) the
//! first whose signatures the client knows.
//!
//! The table is swapped as a whole: handshakes that have begun keep theirs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, SignatureScheme};

use super::error::{Fault, TlsError};
use super::expiry::Leaf;
use super::files;

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM: the certificate, then its chain.
    pub certificate: PathBuf,
    /// PEM: the private key, which may stand in the same file.
    pub key: PathBuf,
    /// DER: the OCSP response to be stapled, if any.
    pub ocsp: Option<PathBuf>,
}

/// Certificates that can be exchanged while they are used.
#[derive(Debug)]
pub(super) struct Certificates {
    table: ArcSwap<Table>,
}

/// One state of them.
#[derive(Debug, Default)]
pub(super) struct Table {
    all: Vec<Certificate>,
    /// By name in lower case; a wildcard under what follows its `*`.
    by_name: HashMap<String, Vec<usize>>,
}

#[derive(Debug)]
struct Certificate {
    key: Arc<CertifiedKey>,
    leaf: Leaf,
}

impl Certificates {
    pub(super) fn new(table: Table) -> Self {
        Self { table: ArcSwap::from_pointee(table) }
    }

    /// Exchanges them all.
    pub(super) fn swap(&self, table: Table) {
        self.table.store(Arc::new(table));
    }

    /// What each of them says, in the order of the configuration.
    pub(super) fn leaves(&self) -> Vec<Leaf> {
        self.table.load().all.iter().map(|certificate| certificate.leaf.clone()).collect()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.table.load().choose(hello.server_name(), hello.signature_schemes())
    }
}

impl Table {
    /// Reads all files, and checks that they belong together.
    ///
    /// # Errors
    ///
    /// The first file that is wrong, and how.
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

    fn choose(&self, name: Option<&str>, known: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = |at: &usize| self.all[*at].key.key.choose_scheme(known).is_some();
        let exact = name.map(str::to_ascii_lowercase);
        // RFC 6125, section 6.4.3: a wildcard stands for one label, the first.
        let wildcard = exact.as_deref().and_then(|name| name.find('.').map(|dot| &name[dot..]));
        let named = [exact.as_deref(), wildcard].into_iter().flatten();
        let named = named.filter_map(|name| self.by_name.get(name)).flatten();
        let found = named.copied().find(usable).or_else(|| (0..self.all.len()).find(usable));
        // With none that the client can check, rustls says so better than we can.
        self.all.get(found.unwrap_or(0)).map(|certificate| Arc::clone(&certificate.key))
    }
}

fn load(pair: &CertificateFiles, provider: &CryptoProvider) -> Result<Certificate, TlsError> {
    let chain = files::certificates(&pair.certificate)?;
    let unreadable = |why: String| Fault::BadCertificate(why).of(&pair.certificate);
    let leaf = chain.first().map_or(&[][..], |first| first.as_ref());
    let leaf = Leaf::parse(leaf).map_err(|why| unreadable(why.0))?;
    let key = files::key(&pair.key)?;
    let key = provider.key_provider.load_private_key(key).map_err(|e| unusable(&e, &pair.key))?;
    let mut certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(Error::InconsistentKeys(_)) => {
            return Err(Fault::KeyMismatch(pair.certificate.clone()).of(&pair.key));
        }
        Err(other) => return Err(unreadable(other.to_string())),
    }
    certified.ocsp = pair.ocsp.as_deref().map(files::ocsp_response).transpose()?;
    Ok(Certificate { key: Arc::new(certified), leaf })
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

    use super::super::fixture::{Authority, Directory, Issued};
    use super::*;

    const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
    const ED25519: &[SignatureScheme] = &[SignatureScheme::ED25519];

    fn table(directory: &Directory, issued: &[&Issued]) -> Table {
        let files: Vec<_> = issued.iter().map(|issued| directory.pair(issued)).collect();
        Table::load(&files, &ring::default_provider()).expect("certificates")
    }

    fn chosen(table: &Table, name: Option<&str>, known: &[SignatureScheme]) -> Vec<String> {
        let key = table.choose(name, known).expect("a certificate");
        Leaf::parse(&key.cert[0]).expect("a certificate").names
    }

    #[test]
    fn the_name_asked_for_chooses() {
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
    fn of_two_for_one_name_the_client_gets_what_it_can_check() {
        let (directory, root) = (Directory::new(), Authority::new("Root"));
        let ecdsa = root.issue(&["dns.example"]);
        let ed25519 = root.issue_ed25519(&["dns.example", "ed.example"]);
        let table = table(&directory, &[&ecdsa, &ed25519]);
        assert_eq!(chosen(&table, Some("dns.example"), ECDSA), ["dns.example"]);
        assert_eq!(chosen(&table, Some("dns.example"), ED25519).len(), 2);
        let both = [ED25519, ECDSA].concat();
        assert_eq!(chosen(&table, Some("dns.example"), &both), ["dns.example"]);
        // None that it can check: the first all the same.
        assert_eq!(chosen(&table, Some("ed.example"), &[SignatureScheme::RSA_PSS_SHA256]), ["dns.example"]);
    }

    #[test]
    fn files_that_do_not_belong_together_are_named() {
        let (directory, root) = (Directory::new(), Authority::new("Root"));
        let one = directory.pair(&root.issue(&["one.example"]));
        let two = directory.pair(&root.issue(&["two.example"]));
        let load = |files: &[CertificateFiles]| {
            Table::load(files, &ring::default_provider()).expect_err("an error").to_string()
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
}
