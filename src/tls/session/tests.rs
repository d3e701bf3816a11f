use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::prelude::*;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;

use crate::tls::fixture::{Authority, Directory, Issued, self_signed};
use crate::tls::session::*;
use crate::tls::{CaStores, ClientSpec, ServerSpec};

const BACKEND: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A listener with one certificate, and a backend's side that trusts its authority.
struct Harness {
    directory: Directory,
    root: Authority,
    server: ServerSpec,
    client: ClientSpec,
}

impl Harness {
    fn new(names: &[&str]) -> Self {
        let root = Authority::new("Root");
        Self::of(root.issue(names), root)
    }

    fn of(issued: Issued, root: Authority) -> Self {
        let directory = Directory::new();
        let server = ServerSpec { certificates: vec![directory.pair(&issued)], ..ServerSpec::default() };
        let client = ClientSpec {
            subject_name: Some("dns.example".to_owned()),
            ca_store: Some(root.file(&directory)),
            ..ClientSpec::default()
        };
        Self { directory, root, server, client }
    }

    fn server(&self) -> ServerTls {
        ServerTls::load(&self.server).expect("a server")
    }

    fn client(&self) -> ClientTls {
        ClientTls::load(&self.client, BACKEND, &mut CaStores::default()).expect("a client")
    }

    fn pair(&self) -> Pair {
        Pair::new(&self.client(), &self.server())
    }

    /// Returns the client's error about the server's certificate.
    fn refusal(&self) -> String {
        let mut pair = self.pair();
        let failure = pair.run().expect_err("a bad certificate");
        assert_eq!(failure.reason, Reason::BadCertificate, "{failure}");
        // The server gets an alert.
        let alert = pair.run().expect_err("an alert");
        assert_eq!(alert.reason, Reason::CertificateRefused, "{alert}");
        failure.to_string()
    }
}

/// Both ends of a connection, and the bytes in flight.
struct Pair {
    client: Session,
    server: Session,
    at_client: Vec<u8>,
    at_server: Vec<u8>,
}

impl Pair {
    fn new(client: &ClientTls, server: &ServerTls) -> Self {
        Self::of(Session::client(client), server)
    }

    fn of(client: Result<Session, Failure>, server: &ServerTls) -> Self {
        Self {
            client: client.expect("a client"),
            server: Session::server(server).expect("a server"),
            at_client: Vec::new(),
            at_server: Vec::new(),
        }
    }

    /// Runs until neither side has output, or one fails.
    fn run(&mut self) -> Result<(), Failure> {
        self.run_in(&mut |_| usize::MAX)
    }

    /// The same with segments of these lengths, given how much is pending.
    fn run_in(&mut self, segment: &mut dyn FnMut(usize) -> usize) -> Result<(), Failure> {
        while self.client.wants_write() || self.server.wants_write() {
            flow(&mut self.client, &mut self.server, &mut self.at_server, segment)?;
            flow(&mut self.server, &mut self.client, &mut self.at_client, segment)?;
        }
        Ok(())
    }

    fn done(client: &ClientTls, server: &ServerTls) -> Self {
        let mut pair = Self::new(client, server);
        pair.run().expect("a handshake");
        pair
    }

    fn resumed(&self) -> bool {
        let client = self.client.facts().expect("established").resumed;
        assert_eq!(self.server.facts().expect("established").resumed, client);
        client
    }
}

fn flow(
    from: &mut Session,
    to: &mut Session,
    plaintext: &mut Vec<u8>,
    segment: &mut dyn FnMut(usize) -> usize,
) -> Result<(), Failure> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_to(&mut wire).expect("a vector takes all");
    }
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(segment(rest.len()).clamp(1, rest.len()));
        to.on_bytes(now, plaintext)?;
        rest = later;
    }
    Ok(())
}

#[test]
fn a_handshake_yields_the_session_parameters() {
    let harness = Harness::new(&["dns.example"]);
    let mut pair = harness.pair();
    assert!(pair.client.is_handshaking() && pair.server.is_handshaking());
    assert_eq!((pair.client.facts(), pair.server.facts()), (None, None));
    pair.run().expect("a handshake");
    let facts = pair.server.facts().expect("established");
    let expected = TlsFacts {
        version: Version::Tls13,
        resumed: false,
        sni: Some("dns.example"),
        cipher: "TLS_AES_256_GCM_SHA384",
        alpn: Some(b"dot"),
    };
    assert_eq!(facts, expected);
    assert_eq!(pair.client.facts(), Some(TlsFacts { sni: None, ..expected }));
    let leaf = pair.client.peer_certificate().expect("the server's");
    assert_eq!(leaf.names, ["dns.example"]);
    assert_eq!(pair.server.peer_certificate(), None);
}

#[test]
fn the_backend_address_is_verified_without_a_name() {
    let mut harness = Harness::new(&["192.0.2.1"]);
    harness.client.subject_name = None;
    let pair = Pair::done(&harness.client(), &harness.server());
    assert_eq!(pair.server.facts().expect("established").sni, None);
    harness.client.subject_address = Some("192.0.2.2".parse().expect("an address"));
    assert_eq!(harness.refusal(), "certificate is for 192.0.2.1, not 192.0.2.2");
    harness.client.subject_address = None;
    harness.client.subject_name = Some("192.0.2.1".to_owned());
    Pair::done(&harness.client(), &harness.server());
}

#[test]
fn invalid_certificates_are_refused_with_a_clear_message() {
    let harness = Harness::new(&["other.example", "192.0.2.7"]);
    assert_eq!(harness.refusal(), "certificate is for other.example, 192.0.2.7, not dns.example");

    let root = Authority::new("Root");
    let harness = Harness::of(root.issue_until(&["dns.example"], 2026, 1, 2), root);
    assert_eq!(harness.refusal(), "certificate has expired (on 2026-01-02)");

    let harness = Harness::of(Authority::new("Stranger").issue(&["dns.example"]), Authority::new("Root"));
    assert_eq!(harness.refusal(), "certificate is signed by an unknown authority");

    for authority in [false, true] {
        let own = self_signed(&["dns.example"], authority);
        let harness = Harness::of(own, Authority::new("Root"));
        assert_eq!(harness.refusal(), "self-signed certificate");
    }
}

#[test]
fn a_certificate_in_the_ca_store_can_be_its_own_authority() {
    for authority in [false, true] {
        let own = self_signed(&["dns.example"], authority);
        let mut harness = Harness::of(own, Authority::new("Root"));
        harness.client.ca_store = Some(harness.server.certificates[0].certificate.clone());
        Pair::done(&harness.client(), &harness.server());
        harness.client.subject_name = Some("other.example".to_owned());
        assert_eq!(harness.refusal(), "certificate is for dns.example, not other.example");
    }
}

#[test]
fn verification_can_be_disabled() {
    let mut harness = Harness::of(self_signed(&["other.example"], true), Authority::new("Root"));
    harness.client.validate = false;
    harness.client.ca_store = None;
    Pair::done(&harness.client(), &harness.server());
}

/// Returns the hello of a client that only has TLS 1.2, which our specifications cannot express.
fn hello_of_tls12() -> Vec<u8> {
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
    let name = ServerName::try_from("dns.example").expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut wire = Vec::new();
    client.write_tls(&mut wire).expect("a vector takes all");
    wire
}

#[test]
fn missing_common_parameters_are_reported() {
    let mut harness = Harness::new(&["dns.example"]);
    harness.server.ciphers_tls13 = "TLS_AES_128_GCM_SHA256".to_owned();
    harness.server.version_min = Version::Tls13;
    harness.client.ciphers_tls13 = "TLS_CHACHA20_POLY1305_SHA256".to_owned();
    let mut pair = harness.pair();
    assert_eq!(pair.run().expect_err("no cipher").reason, Reason::NoSharedCipher);
    let alert = pair.run().expect_err("an alert");
    assert_eq!(alert.reason, Reason::NoSharedCipher, "{alert}");

    let mut server = Session::server(&harness.server()).expect("a server");
    let old = server.on_bytes(&hello_of_tls12(), &mut Vec::new()).expect_err("too old");
    assert_eq!(old.reason, Reason::UnsupportedVersion, "{old}");

    harness.client.ciphers_tls13 = String::new();
    harness.client.alpn = vec!["h2".to_owned()];
    let mut pair = harness.pair();
    assert_eq!(pair.run().expect_err("no protocol").reason, Reason::NoSharedProtocol);
    harness.server.alpn = Vec::new();
    Pair::done(&harness.client(), &harness.server());
}

#[test]
fn input_that_is_not_tls_is_reported() {
    let harness = Harness::new(&["dns.example"]);
    let server = harness.server();
    let query = b"\0\x1d\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01";
    for garbage in [&query[..], b"GET / HTTP/1.1\r\n\r\n", &[0; 64], &[0xff; 64], b"\x16\x03\x01\0\0\x16"] {
        let mut session = Session::server(&server).expect("a server");
        let mut plaintext = Vec::new();
        let failure = session.on_bytes(garbage, &mut plaintext).expect_err("garbage");
        assert_eq!(failure.reason, Reason::NotTls, "{garbage:x?}: {failure}");
        assert!(plaintext.is_empty());
        // It stays failed, and sends no second alert.
        assert_eq!(session.on_bytes(&hello_of_tls12(), &mut plaintext), Err(failure.clone()));
        assert_eq!(session.on_end(), Err(failure));
        assert_eq!(session.send(b"answer"), 0);
        session.write_to(&mut Vec::new()).expect("the alert");
        assert!(!session.wants_write());
    }
    // A backend that speaks another protocol.
    let mut session = Session::client(&harness.client()).expect("a client");
    let failure = session.on_bytes(b"220 mail.example ESMTP\r\n", &mut Vec::new()).expect_err("garbage");
    assert_eq!(failure.reason, Reason::NotTls, "{failure}");
}

#[test]
fn a_handshake_truncated_anywhere_is_reported() {
    let harness = Harness::new(&["dns.example"]);
    let (client, server) = (harness.client(), harness.server());
    let mut hello = Vec::new();
    Session::client(&client).expect("a client").write_to(&mut hello).expect("a vector takes all");
    for length in 0..=hello.len() {
        let mut session = Session::server(&server).expect("a server");
        session.on_bytes(&hello[..length], &mut Vec::new()).expect("no garbage");
        assert!(session.is_handshaking());
        assert_eq!(session.wants_write(), length == hello.len());
        assert_eq!(session.on_end().expect_err("cut").reason, Reason::UnexpectedEof, "{length} bytes");
    }
}

#[test]
fn modified_records_end_the_session() {
    let harness = Harness::new(&["dns.example"]);
    let mut pair = Pair::done(&harness.client(), &harness.server());
    assert_eq!(pair.client.send(b"question"), 8);
    let mut wire = Vec::new();
    pair.client.write_to(&mut wire).expect("a vector takes all");
    *wire.last_mut().expect("a record") ^= 1;
    let failure = pair.server.on_bytes(&wire, &mut Vec::new()).expect_err("changed");
    assert_eq!(failure.reason, Reason::Corrupt, "{failure}");
}

#[test]
fn bytes_after_the_close_alert_are_ignored() {
    let harness = Harness::new(&["dns.example"]);
    let mut pair = Pair::done(&harness.client(), &harness.server());
    pair.client.send(b"last");
    pair.client.close();
    let mut wire = Vec::new();
    while pair.client.wants_write() {
        pair.client.write_to(&mut wire).expect("a vector takes all");
    }
    let mut plaintext = Vec::new();
    pair.server.on_bytes(&wire, &mut plaintext).expect("a goodbye");
    assert_eq!(plaintext, b"last");
    assert!(pair.server.peer_closed());
    pair.server.on_bytes(&wire, &mut plaintext).expect("nothing");
    pair.server.on_bytes(b"garbage", &mut plaintext).expect("nothing");
    assert_eq!(plaintext, b"last");
    // Our direction is still open.
    assert_eq!(pair.server.send(b"answer"), 6);
    pair.run().expect("an answer");
    assert_eq!(pair.at_client, b"answer");
    assert_eq!(pair.server.on_end(), Ok(()));
    // An end without a close alert is no error.
    assert_eq!(pair.client.on_end(), Ok(()));
}

#[test]
fn pending_output_is_bounded() {
    let harness = Harness::new(&["dns.example"]);
    let mut pair = Pair::new(&harness.client(), &harness.server());
    // Before the handshake is complete, plaintext waits.
    assert_eq!(pair.client.send(b"early"), 5);
    pair.run().expect("a handshake");
    assert_eq!(pair.at_server, b"early");
    let message = [7; 65_537];
    let (mut sent, mut rounds) = (0, 0);
    while sent < message.len() {
        let taken = pair.server.send(&message[sent..]);
        assert!(taken > 0 && taken <= SEND_BYTES_MAX);
        // It is full: a slow reader costs no more than that.
        assert_eq!(pair.server.send(&message[sent + taken..]), 0);
        sent += taken;
        rounds += 1;
        pair.run().expect("bytes");
    }
    assert_eq!(pair.at_client, message);
    assert!(rounds <= 4, "{rounds}");
}

#[test]
fn sessions_are_resumed_by_ticket() {
    let harness = Harness::new(&["dns.example"]);
    let (client, server) = (harness.client(), harness.server());
    assert_eq!(client.sessions(), 0);
    assert!(!Pair::done(&client, &server).resumed());
    assert!((1..=8).contains(&client.sessions()), "{}", client.sessions());
    // Each resumption brings the ticket for the next one.
    for _ in 0..3 {
        assert!(Pair::done(&client, &server).resumed());
    }
    // Another `ClientTls` has no ticket.
    assert!(!Pair::done(&harness.client(), &server).resumed());
    // Another process has other keys.
    assert!(!Pair::done(&client, &harness.server()).resumed());
}

#[test]
fn machines_with_a_key_file_resume_each_others_sessions() {
    let mut harness = Harness::new(&["dns.example"]);
    harness.server.ticket_key_file = Some(harness.directory.write_bytes("keys", &[3; 80]));
    harness.server.ticket_keys = 2;
    let client = harness.client();
    assert!(!Pair::done(&client, &harness.server()).resumed());
    assert!(Pair::done(&client, &harness.server()).resumed());
    // One of them gets new keys, and still knows the old one; one that starts does not.
    let server = harness.server();
    harness.directory.write_bytes("keys", &[4; 80]);
    server.rotate().expect("rotation");
    assert!(Pair::done(&client, &server).resumed());
    assert!(Pair::done(&client, &harness.server()).resumed());
    harness.directory.write_bytes("keys", &[5; 80]);
    assert!(!Pair::done(&client, &harness.server()).resumed());
}

#[test]
fn tickets_expire_with_their_key() {
    let mut harness = Harness::new(&["dns.example"]);
    harness.server.ticket_keys = 2;
    let (client, server) = (harness.client(), harness.server());
    Pair::done(&client, &server);
    server.rotate().expect("rotation");
    assert!(Pair::done(&client, &server).resumed());
    server.rotate().expect("rotation");
    server.rotate().expect("rotation");
    assert!(!Pair::done(&client, &server).resumed());
}

#[test]
fn sessions_are_stored_for_clients_without_tickets() {
    let mut harness = Harness::new(&["dns.example"]);
    harness.server.tickets = false;
    let (client, server) = (harness.client(), harness.server());
    assert!(!Pair::done(&client, &server).resumed());
    assert!(Pair::done(&client, &server).resumed());
    server.rotate().expect("there is nothing to rotate");
    harness.server.sessions = 0;
    let server = harness.server();
    assert!(!Pair::done(&client, &server).resumed());
    assert!(!Pair::done(&client, &server).resumed());
}

#[test]
fn a_reloaded_listener_resumes_old_sessions() {
    let mut harness = Harness::new(&["dns.example"]);
    let (client, server) = (harness.client(), harness.server());
    let mut pair = Pair::done(&client, &server);
    harness.server.alpn.push("other".to_owned());
    let loaded = harness.server();
    assert!(!Pair::done(&harness.client(), &loaded).resumed());
    let renewed = loaded.inherit(&server);
    assert!(Pair::done(&client, &renewed).resumed(), "with the keys of the old one");
    harness.server.session_seconds += 1;
    assert!(!Pair::done(&client, &harness.server().inherit(&renewed)).resumed());
    // Connections are not touched.
    assert_eq!(pair.client.send(b"question"), 8);
    pair.run().expect("the old connection stays open");
    assert_eq!(pair.at_server, b"question");
}

#[test]
fn earlier_file_keys_still_decrypt_tickets_after_a_reload() {
    let mut harness = Harness::new(&["dns.example"]);
    harness.server.ticket_key_file = Some(harness.directory.write_bytes("keys", &[3; 80]));
    harness.server.ticket_keys = 2;
    let (client, old) = (harness.client(), harness.server());
    Pair::done(&client, &old);
    harness.directory.write_bytes("keys", &[4; 80]);
    let new = harness.server().inherit(&old);
    assert_eq!((new.ticket_keys(), old.ticket_keys()), (2, 1), "the running one is unchanged");
    assert!(Pair::done(&client, &new).resumed());
    // One too many, and the keys of another file.
    harness.directory.write_bytes("keys", &[5; 80]);
    let newer = harness.server().inherit(&new);
    assert_eq!(newer.ticket_keys(), 2);
    assert!(Pair::done(&client, &newer).resumed(), "the new key has encrypted the last ticket");
    harness.server.ticket_key_file = Some(harness.directory.write_bytes("others", &[6; 80]));
    assert_eq!(harness.server().inherit(&newer).ticket_keys(), 1);
}

#[test]
fn a_check_with_an_invalid_certificate_ends_resumption() {
    let mut harness = Harness::new(&["dns.example"]);
    let (client, good) = (harness.client(), harness.server());
    Pair::done(&client, &good);
    assert!(Pair::done(&client, &good).resumed());
    let check = |server: &ServerTls| {
        let mut pair = Pair::of(Session::check(&client), server);
        let outcome = pair.run();
        assert!(outcome.is_err() || !pair.resumed());
        outcome
    };
    check(&good).expect("a good certificate");
    // Another certificate, with the same ticket keys.
    let alone = self_signed(&["other.example"], false);
    harness.server.certificates = vec![harness.directory.pair(&alone)];
    let bad = harness.server().inherit(&good);
    let mut standing = Pair::done(&client, &bad);
    assert!(standing.resumed(), "no check was made yet");
    let era = client.era();
    check(&good).expect("a good certificate");
    assert_eq!(client.era(), era);
    let failure = check(&bad).expect_err("a bad certificate");
    assert_ne!(client.era(), era, "earlier connections are outdated");
    assert_eq!(client.sessions(), 0, "they may be another server's");
    assert_eq!((failure.reason, &*failure.text), (Reason::BadCertificate, "self-signed certificate"));
    let why = Pair::new(&client, &bad).run().expect_err("nothing to be resumed");
    assert_eq!(why.reason, Reason::BadCertificate);
    // An open connection continues, and the valid certificate is accepted again.
    assert_eq!(standing.client.send(b"question"), 8);
    standing.run().expect("bytes");
    assert!(!Pair::done(&client, &good).resumed());
    assert!(Pair::done(&client, &good).resumed());
}

#[test]
fn the_next_check_sees_a_renewed_certificate() {
    let root = Authority::new("Root");
    let issued = root.issue_until(&["dns.example"], 4000, 1, 1);
    let mut harness = Harness::of(issued, root);
    let (client, old) = (harness.client(), harness.server());
    Pair::done(&client, &old);
    let before = client.certificate_until().expect("a certificate");
    let next = harness.root.issue_until(&["dns.example"], 4001, 1, 1);
    harness.server.certificates = vec![harness.directory.pair(&next)];
    let new = harness.server().inherit(&old);
    assert!(Pair::done(&client, &new).resumed());
    let mut pair = Pair::of(Session::check(&client), &new);
    pair.run().expect("a good certificate");
    assert_eq!(client.certificate_until(), Some(before + 366 * 86_400));
}

#[test]
fn expired_certificates_are_warned_of() {
    let root = Authority::new("Root");
    let harness = Harness::of(root.issue_until(&["dns.example"], 2026, 1, 2), root);
    let server = harness.server();
    assert_eq!(server.warnings(1_767_312_000 - 30 * 86_400, 21), Vec::<String>::new());
    let warnings = server.warnings(1_767_312_001, 21);
    assert_eq!(warnings, ["certificate dns.example has expired (on 2026-01-02)"]);
}

#[test]
fn secrets_are_logged_when_configured() {
    let _alone = crate::tls::fixture::alone_with_key_logs();
    let mut harness = Harness::new(&["dns.example"]);
    let (ours, theirs) = (harness.directory.path("server.log"), harness.directory.path("client.log"));
    harness.server.key_log = Some(ours.clone());
    harness.client.key_log = Some(theirs.clone());
    Pair::done(&harness.client(), &harness.server());
    crate::tls::write_key_logs();
    let read = |path| std::fs::read_to_string(path).expect("a log");
    let mut logs = [read(ours), read(theirs)].map(|log| log.lines().map(str::to_owned).collect::<Vec<_>>());
    logs.iter_mut().for_each(|log| log.sort());
    assert_eq!(logs[0], logs[1]);
    assert!(logs[0].iter().any(|line| line.starts_with("CLIENT_TRAFFIC_SECRET_0 ")));
    harness.server.key_log = Some(harness.directory.path("no/such/directory"));
    let why = ServerTls::load(&harness.server).expect_err("no directory").to_string();
    assert!(why.contains("cannot be written"), "{why}");
}

#[test]
fn errors_in_client_settings_are_reported() {
    let harness = Harness::new(&["dns.example"]);
    let load = |spec: &ClientSpec| {
        let loaded = ClientTls::load(spec, BACKEND, &mut CaStores::default());
        loaded.expect_err("an error").to_string()
    };
    let spec = ClientSpec { subject_name: Some("not a name".to_owned()), ..harness.client.clone() };
    assert_eq!(load(&spec), "\"not a name\" is neither a host name nor an address");
    let spec = ClientSpec { ca_store: Some(harness.directory.path("missing")), ..harness.client.clone() };
    assert!(load(&spec).contains("missing: cannot be read"));
    let key = harness.server.certificates[0].key.clone();
    let spec = ClientSpec { ca_store: Some(key), ..harness.client.clone() };
    assert!(load(&spec).contains("has no certificate in it"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_segmentation_delivers_every_message(
        lengths in proptest::collection::vec(1usize..400, 1..40),
        there in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3_000), 1..6),
        back in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3_000), 1..6),
    ) {
        let harness = Harness::new(&["dns.example"]);
        let mut pair = harness.pair();
        let mut next = lengths.iter().cycle().copied();
        let mut segment = |_: usize| next.next().unwrap_or(1);
        pair.run_in(&mut segment).expect("a handshake");
        for message in &there {
            prop_assert_eq!(pair.client.send(message), message.len());
        }
        for message in &back {
            prop_assert_eq!(pair.server.send(message), message.len());
        }
        pair.run_in(&mut segment).expect("messages");
        prop_assert_eq!(&pair.at_server, &there.concat());
        prop_assert_eq!(&pair.at_client, &back.concat());
    }

    #[test]
    fn garbage_at_any_time_fails_or_waits_for_more(
        garbage in proptest::collection::vec(any::<u8>(), 1..600),
        established: bool,
    ) {
        let harness = Harness::new(&["dns.example"]);
        let mut pair = harness.pair();
        if established {
            pair.run().expect("a handshake");
        }
        let mut plaintext = Vec::new();
        for bytes in garbage.chunks(97) {
            if pair.server.on_bytes(bytes, &mut plaintext).is_err() {
                break;
            }
        }
        prop_assert!(plaintext.is_empty());
    }
}
