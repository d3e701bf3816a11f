//! Measures the memory of an idle TLS session: every idle client has one.

// `GlobalAlloc` is an unsafe trait.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};

use dnslob::tls::{CaStores, CertificateFiles, ClientSpec, ClientTls, ServerSpec, ServerTls, Session};

/// Heap bytes of an idle session after a few queries. Measured with rustls 0.23.46: 7,454 for a
/// server session (1,960 before the first bytes of the client) and 7,979 for a client session, of
/// which rustls keeps 4,096 as its read buffer.
const IDLE_BYTES_MAX: i64 = 12 * 1024;

/// The system allocator, which also sums the bytes of each thread.
struct Counting;

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
}

fn add(bytes: i64) {
    // Fails only during thread exit, when no test counts.
    let _ = HELD.try_with(|held| held.set(held.get() + bytes));
}

// SAFETY: every call is passed to the system allocator unchanged; counting touches no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as i64);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        add(-(layout.size() as i64));
        // SAFETY: the caller keeps `dealloc`'s contract, and `System` gave these bytes.
        unsafe { System.dealloc(bytes, layout) }
    }

    unsafe fn realloc(&self, bytes: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size as i64 - layout.size() as i64);
        // SAFETY: the caller keeps `realloc`'s contract, and `System` gave these bytes.
        unsafe { System.realloc(bytes, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns the growth of this thread's heap while `run` runs.
fn grown<T>(run: impl FnOnce() -> T) -> (T, i64) {
    let before = HELD.get();
    let result = run();
    (result, HELD.get() - before)
}

fn configured(least: dnslob::tls::Version) -> (ServerTls, ClientTls) {
    let directory = std::env::temp_dir().join(format!("dnslob-tls-memory-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["dns.example".to_owned()]).unwrap();
    let (certificate, key) = (directory.join("own.pem"), directory.join("own.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let client = ClientSpec {
        subject_name: Some("dns.example".to_owned()),
        ca_store: Some(certificate.clone()),
        ..ClientSpec::default()
    };
    let server = ServerSpec {
        certificates: vec![CertificateFiles { certificate, key, ocsp: None }],
        version_min: least,
        ..ServerSpec::default()
    };
    let server = ServerTls::load(&server).unwrap();
    let backend = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let client = ClientTls::load(&client, backend, &mut CaStores::default()).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    (server, client)
}

/// Moves the output of one session to the other through a shared buffer, as an engine does.
fn flow(from: &mut Session, to: &mut Session, wire: &mut Vec<u8>, plaintext: &mut Vec<u8>) {
    wire.clear();
    plaintext.clear();
    while from.wants_write() {
        from.write_to(wire).unwrap();
    }
    to.on_bytes(wire, plaintext).unwrap();
}

#[test]
fn an_idle_session_is_small() {
    let (server, client) = configured(dnslob::tls::Version::Tls12);
    let (mut wire, mut plaintext) = (Vec::with_capacity(1 << 17), Vec::with_capacity(1 << 17));
    // The first session fills what all sessions share.
    for round in 0..4 {
        let (mut there, client_new) = grown(|| Session::client(&client).unwrap());
        let (mut here, server_new) = grown(|| Session::server(&server).unwrap());
        let mut exchange = |there: &mut Session, here: &mut Session| {
            while there.wants_write() || here.wants_write() {
                flow(there, here, &mut wire, &mut plaintext);
                flow(here, there, &mut wire, &mut plaintext);
            }
        };
        exchange(&mut there, &mut here);
        for _ in 0..3 {
            assert_eq!(there.send(&[1; 60]), 60);
            exchange(&mut there, &mut here);
            assert_eq!(here.send(&[2; 1_200]), 1_200);
            exchange(&mut there, &mut here);
        }
        // The share of each session is the memory that dropping it frees.
        let ((), server_bytes) = grown(|| drop(here));
        let ((), client_bytes) = grown(|| drop(there));
        let (server_bytes, client_bytes) = (-server_bytes, -client_bytes);
        println!(
            "round {round}: a server's session holds {server_bytes} bytes ({server_new} when new), \
             a client's {client_bytes} ({client_new})"
        );
        if round > 0 {
            assert!(server_bytes <= IDLE_BYTES_MAX, "{server_bytes} bytes");
            assert!(client_bytes <= IDLE_BYTES_MAX, "{client_bytes} bytes");
        }
    }
}
