//! Arbitrary bytes for a TLS server session, alone or as changes to the bytes of a real client: no
//! panic, a failed session stays failed, and no plaintext appears that the client did not send.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;

use dnslob::tls::{CaStores, CertificateFiles, ClientSpec, ClientTls, ServerSpec, ServerTls, Session};

/// The client's data after the handshake.
const SENT: &[u8] = b"\0\x1d\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01";

pub(crate) fn target(data: &[u8]) {
    let Some(([mode, segment], rest)) = data.split_first_chunk() else { return };
    let (server, client) = both();
    let mut here = Session::server(server).expect("a server's session");
    let mut plaintext = Vec::new();
    // 0: the input itself. Otherwise the client's first or second flight with changes; the second
    // one contains the queries.
    let flight = mode % 3;
    if flight == 0 {
        feed(&mut here, rest, *segment, &mut plaintext);
    } else {
        let mut there = Session::client(client).expect("a client's session");
        assert_eq!(there.send(SENT), SENT.len());
        for number in 1..=2 {
            let mut wire = written(&mut there);
            if number == flight {
                change(&mut wire, rest);
            }
            feed(&mut here, &wire, *segment, &mut plaintext);
            if there.on_bytes(&written(&mut here), &mut Vec::new()).is_err() {
                break;
            }
        }
    }
    assert!(SENT.starts_with(&plaintext), "{plaintext:x?}");
    let _ = here.on_end();
    here.close();
    written(&mut here);
}

/// Passes bytes in segments until the session fails.
fn feed(session: &mut Session, bytes: &[u8], segment: u8, plaintext: &mut Vec<u8>) {
    for part in bytes.chunks(usize::from(segment) + 1) {
        if let Err(failure) = session.on_bytes(part, plaintext) {
            assert_eq!(session.on_bytes(part, plaintext), Err(failure));
            return;
        }
    }
}

fn written(session: &mut Session) -> Vec<u8> {
    let mut wire = Vec::new();
    while session.wants_write() {
        session.write_to(&mut wire).expect("a vector takes all");
    }
    wire
}

/// Applies changes: two bytes of position and the new byte, repeatedly.
fn change(wire: &mut [u8], edits: &[u8]) {
    for edit in edits.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % wire.len().max(1);
        if let Some(byte) = wire.get_mut(at) {
            *byte = edit[2];
        }
    }
}

/// Returns a listener and its client, with a certificate created for this run.
fn both() -> &'static (ServerTls, ClientTls) {
    static BOTH: OnceLock<(ServerTls, ClientTls)> = OnceLock::new();
    BOTH.get_or_init(|| {
        let directory = std::env::temp_dir().join(format!("dnslob-fuzz-tls-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let made = rcgen::generate_simple_self_signed(vec!["dns.example".to_owned()]).expect("a certificate");
        let (certificate, key) = (directory.join("own.pem"), directory.join("own.key"));
        std::fs::write(&certificate, made.cert.pem()).expect("a file");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
        let files = CertificateFiles { certificate, key, ocsp: None };
        let server = ServerTls::load(&ServerSpec { certificates: vec![files], ..ServerSpec::default() });
        let spec = ClientSpec { validate: false, ..ClientSpec::default() };
        let backend = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let client = ClientTls::load(&spec, backend, &mut CaStores::default());
        std::fs::remove_dir_all(&directory).expect("a directory");
        (server.expect("a listener"), client.expect("a client"))
    })
}
