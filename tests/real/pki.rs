//! A certificate authority, certificates, and real name servers that use them for DNS over TLS.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

use crate::place::{Directory, port, wait_for};
use crate::process::{Program, run};
use crate::servers::{Kind, ask, command};

/// A certificate authority with a directory for its files.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: Directory,
    /// The certificate of the authority.
    pub(crate) pem: PathBuf,
    key: PathBuf,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) pem: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let directory = Directory::new();
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        // A unique name: certificates of other authorities are then unknown, rather than badly
        // signed.
        let name = format!("Authority {}", directory.path().display());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let key_file = directory.write("authority.key", &key.serialize_pem());
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let pem = directory.write("authority.pem", &issuer.pem());
        Self { issuer, directory, pem, key: key_file }
    }

    /// Issues a certificate for names and addresses, in files named after `file`; an older
    /// certificate in that file is replaced.
    pub(crate) fn issue(&self, file: &str, names: &[&str]) -> Pair {
        self.issue_until(file, names, 4000)
    }

    /// Issues one that expires at the start of a year.
    pub(crate) fn issue_until(&self, file: &str, names: &[&str], year: i32) -> Pair {
        let mut params = params(names);
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        self.write(file, &certificate.pem(), &key)
    }

    /// Creates a self-signed certificate.
    pub(crate) fn self_signed(&self, file: &str, names: &[&str]) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(names).self_signed(&key).expect("a certificate");
        self.write(file, &certificate.pem(), &key)
    }

    fn write(&self, file: &str, pem: &str, key: &KeyPair) -> Pair {
        Pair {
            pem: self.directory.write(&format!("{file}.pem"), pem),
            key: self.directory.write(&format!("{file}.key"), &key.serialize_pem()),
        }
    }

    /// Writes an OCSP response with the status good beside a certificate.
    pub(crate) fn ocsp(&self, pair: &Pair) -> PathBuf {
        let response = pair.pem.with_extension("der");
        let file = |path: &Path| path.display().to_string();
        let (status, serial) = run("openssl", &["x509", "-in", &file(&pair.pem), "-noout", "-serial"]);
        assert!(status.success(), "openssl x509: {serial}");
        let serial = serial.trim().trim_start_matches("serial=").to_owned();
        // The index line that `openssl ca` would write: valid, expiry, not revoked, no file,
        // subject.
        let index = self.directory.write("index", &format!("V\t391231000000Z\t\t{serial}\tunknown\t/CN=x\n"));
        let (status, text) = run(
            "openssl",
            &[
                "ocsp".to_owned(),
                "-index".to_owned(),
                file(&index),
                "-CA".to_owned(),
                file(&self.pem),
                "-rsigner".to_owned(),
                file(&self.pem),
                "-rkey".to_owned(),
                file(&self.key),
                "-issuer".to_owned(),
                file(&self.pem),
                "-cert".to_owned(),
                file(&pair.pem),
                "-respout".to_owned(),
                file(&response),
                "-noverify".to_owned(),
                "-ndays".to_owned(),
                "1".to_owned(),
            ],
        );
        assert!(status.success() && response.exists(), "openssl ocsp: {text}");
        response
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("parameters")
}

/// A name server that serves DNS over TLS, and plain DNS on another port.
#[derive(Debug)]
pub(crate) struct SecureServer {
    /// The address for TLS.
    pub(crate) address: SocketAddr,
    program: Program,
    _directory: Directory,
}

impl SecureServer {
    /// Starts unbound or nsd with a certificate, and waits until it answers.
    pub(crate) fn start(kind: Kind, who: u8, pair: &Pair) -> Self {
        let directory = Directory::new();
        let plain = SocketAddr::from(([127, 0, 0, 1], port()));
        let address = SocketAddr::from(([127, 0, 0, 1], port()));
        let mut server = command(kind, &directory, plain, who);
        let config = directory.path().join("server.conf");
        let text = fs::read_to_string(&config).expect("the configuration");
        let interface = match kind {
            Kind::Unbound => "interface",
            Kind::Nsd => "ip-address",
            Kind::Knot => panic!("knotd has no DNS over TLS in Debian's version"),
        };
        let tls = format!(
            "server:\n {interface}: {}@{}\n tls-port: {}\n tls-service-key: \"{}\"\n tls-service-pem: \"{}\"\n",
            address.ip(),
            address.port(),
            address.port(),
            pair.key.display(),
            pair.pem.display(),
        );
        directory.write("server.conf", &text.replacen("server:\n", &tls, 1));
        Self::wait(Program::start(&mut server), plain, address, directory)
    }

    /// Starts dnsdist as a DNS over TLS server with a plain backend.
    pub(crate) fn dnsdist(before: SocketAddr, pair: &Pair) -> Self {
        let directory = Directory::new();
        let plain = SocketAddr::from(([127, 0, 0, 1], port()));
        let address = SocketAddr::from(([127, 0, 0, 1], port()));
        let lua = format!(
            "setLocal('{plain}')\naddTLSLocal('{address}', '{}', '{}')\nnewServer({{address='{before}', healthCheckMode='up', tcpOnly=false}})\nsetACL('127.0.0.0/8')\nsetSecurityPollSuffix('')\n",
            pair.pem.display(),
            pair.key.display()
        );
        let config = directory.write("dnsdist.conf", &lua);
        let mut command = Command::new("dnsdist");
        command.args(["--supervised", "--disable-syslog", "-C"]).arg(config);
        Self::wait(Program::start(&mut command), plain, address, directory)
    }

    fn wait(program: Program, plain: SocketAddr, address: SocketAddr, directory: Directory) -> Self {
        wait_for(|| format!("a server to answer; {}", program.transcript()), || ask(plain, "ready.test"));
        Self { address, program, _directory: directory }
    }

    pub(crate) fn transcript(&self) -> String {
        self.program.transcript()
    }
}
