//! Authorities, certificates and files for this module's tests.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ED25519, date_time_ymd,
};

use crate::tls::server::CertificateFiles;

/// A directory that is removed when dropped.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("dnslob-tls-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        self.write_bytes(name, text.as_bytes())
    }

    pub(crate) fn write_bytes(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// Writes a certificate and its key to separate files.
    pub(crate) fn pair(&self, issued: &Issued) -> CertificateFiles {
        let number = fs::read_dir(&self.0).expect("a directory").count();
        CertificateFiles {
            certificate: self.write(&format!("{number}.pem"), &issued.certificate()),
            key: self.write(&format!("{number}.key"), &issued.key()),
            ocsp: None,
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Issued {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    pub(crate) fn der(&self) -> &[u8] {
        self.0.der()
    }

    /// Writes its certificate to a file, for a `caStore`.
    pub(crate) fn file(&self, directory: &Directory) -> PathBuf {
        directory.write("authority.pem", &self.0.pem())
    }

    /// Issues a certificate with an ECDSA key and a long validity.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_until(names, 4096, 1, 1)
    }

    pub(crate) fn issue_until(&self, names: &[&str], year: i32, month: u8, day: u8) -> Issued {
        let mut params = params(names);
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, month, day);
        self.sign(&params, KeyPair::generate().expect("a key"))
    }

    /// Issues a certificate with an Ed25519 key.
    pub(crate) fn issue_ed25519(&self, names: &[&str]) -> Issued {
        self.sign(&params(names), KeyPair::generate_for(&PKCS_ED25519).expect("a key"))
    }

    fn sign(&self, params: &CertificateParams, key: KeyPair) -> Issued {
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Issued { certificate, key }
    }
}

/// Issues a self-signed certificate; with the CA flag, as `openssl req -x509` sets it, or without.
pub(crate) fn self_signed(names: &[&str], authority: bool) -> Issued {
    let mut params = params(names);
    if authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let key = KeyPair::generate().expect("a key");
    Issued { certificate: params.self_signed(&key).expect("a certificate"), key }
}

/// Builds an unsigned OCSP response about a certificate, good or revoked.
pub(crate) fn ocsp_response(serial: &[u8], good: bool, until: Option<&str>) -> Vec<u8> {
    let part = |tag: u8, inner: &[&[u8]]| {
        let inner = inner.concat();
        let length = u8::try_from(inner.len()).expect("a short part");
        let head = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
        [head, inner].concat()
    };
    let time = |text: &str| part(0x18, &[text.as_bytes()]);
    let hash = part(4, &[&[7; 20]]);
    let id = part(
        0x30,
        &[&part(0x30, &[&part(6, &[b"\x2b\x0e\x03\x02\x1a"])]), &hash, &hash, &part(2, &[serial])],
    );
    let status = if good { part(0x80, &[]) } else { part(0xa1, &[&time("20250101000000Z")]) };
    let until = until.map(|until| part(0xa0, &[&time(until)])).unwrap_or_default();
    let single = part(0x30, &[&id, &status, &time("20250101000000Z"), &until]);
    let by = part(0xa2, &[&hash]);
    let data = part(0x30, &[&by, &time("20250101000000Z"), &part(0x30, &[&single])]);
    let basic = part(0x30, &[&data, &part(0x30, &[]), &part(3, &[b"\0"])]);
    let bytes = part(0x30, &[&part(6, &[b"\x2b\x06\x01\x05\x05\x07\x30\x01\x01"]), &part(4, &[&basic])]);
    part(0x30, &[&part(0x0a, &[b"\0"]), &part(0xa0, &[&bytes])])
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("parameters")
}

impl Issued {
    pub(crate) fn der(&self) -> &[u8] {
        self.certificate.der()
    }

    pub(crate) fn certificate(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn key(&self) -> String {
        self.key.serialize_pem()
    }
}

/// Serialises the tests that count open key logs, which belong to the whole process.
pub(crate) fn alone_with_key_logs() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
