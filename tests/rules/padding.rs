//! Tests the padding of answers to clients over TLS (RFC 8467).

use std::path::PathBuf;

use crate::bench::Bench;

/// A certificate and its key, in files.
struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("dnslob-padding-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let made = rcgen::generate_simple_self_signed(["dns.test".to_owned()]).expect("a certificate");
        std::fs::write(dir.join("cert.pem"), made.cert.pem()).expect("written");
        std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).expect("written");
        Self(dir)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Padding that ends a message of a question and an OPT record at `block` bytes, behind `others`.
fn padding(block: usize, others: usize) -> String {
    format!("12:{}", "00".repeat(block - 19 - 11 - 4 - others))
}

/// Whoever pads a query wants nobody to see how long the answer is, whatever that is made of.
#[test]
fn answers_over_tls_are_padded_for_clients_that_pad() {
    const RECORD: usize = 16;
    let files = Files::new();
    let dir = files.0.display();
    let config = |listener: &str| {
        format!(
            "newServer('127.0.1.1') {listener} setTCPToUDP(true) getPool(''):setCache(newPacketCache(10))
             addAction('b', SpoofAction('192.0.2.1')) addAction('c', RCodeAction(5))
             addAction('d', SetSkipCacheAction())"
        )
    };
    let tls = config(&format!("addTLSLocal('127.0.0.1:8853', '{dir}/cert.pem', '{dir}/key.pem')"));
    let (one, none) = (padding(468, RECORD), padding(468, 0));
    let transcript = format!(
        "stream
         q 1 a/A OPT=4096,12:000000
         > 1 * a/A OPT=4096,12:000000
         a * QR a/A A=192.0.2.1 OPT=1232
         < 0001 QR a/A A=192.0.2.1 OPT=1232,{one}
         q 1 a/A OPT=4096,12:000000
         < 0001 QR a/A A=192.0.2.1 OPT=1232,{one}
         q 1 b/A OPT=4096,12:
         < 0001 QR b/A A=192.0.2.1 OPT=1232,{one}
         q 1 c/A OPT=4096,12:
         < 0001 QR REFUSED c/A OPT=1232,{none}
         q 1 c/A OPT=4096
         < 0001 QR REFUSED c/A OPT=1232
         q 1 d/A OPT=4096,12:
         > 1 * d/A OPT=4096,12:
         a * QR d/A
         < 0001 QR d/A
         q 1 d/A OPT=4096,12:
         > 1 * d/A OPT=4096,12:
         a * QR d/A OPT=1232 RR=3,k,250,0,6d6163
         < 0001 QR d/A OPT=1232 RR=3,k,250,0,6d6163
         q 1 d/A OPT=4096,12:
         > 1 * d/A OPT=4096,12:
         a * QR d/A OPT=1232,{}
         < 0001 QR d/A OPT=1232,{}",
        padding(128, 0),
        padding(128, 0),
    );
    Bench::new(&tls).play("TLS", &transcript);
    // In clear text, everything can be read anyway.
    Bench::new(&config("setLocal('127.0.0.1:5300')")).play(
        "TCP",
        "stream
         q 1 c/A OPT=4096,12:
         < 0001 QR REFUSED c/A OPT=1232",
    );
}
