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
struct World {
    directory: Directory,
    root: Authority,
    server: ServerSpec,
    client: ClientSpec,
}

impl World {
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

    /// What the client says to the server's certificate.
    fn refusal(&self) -> String {
        let mut pair = self.pair();
        let failure = pair.run().expect_err("a bad certificate");
        assert_eq!(failure.reason, Reason::BadCertificate, "{failure}");
        // The server hears of it.
        let heard = pair.run().expect_err("an alert");
        assert_eq!(heard.reason, Reason::CertificateRefused, "{heard}");
        failure.to_string()
    }
}

/// Both ends of a connection, and the bytes on their way.
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

    /// Until neither has anything to write, or one fails.
    fn run(&mut self) -> Result<(), Failure> {
        self.run_in(&mut |_| usize::MAX)
    }

    /// The same with segments of these lengths, given how much waits.
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
fn a_handshake_ends_in_facts() {
    let world = World::new(&["dns.example"]);
    let mut pair = world.pair();
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
fn the_backends_address_counts_without_a_name() {
    let mut world = World::new(&["192.0.2.1"]);
    world.client.subject_name = None;
    let pair = Pair::done(&world.client(), &world.server());
    assert_eq!(pair.server.facts().expect("established").sni, None);
    world.client.subject_address = Some("192.0.2.2".parse().expect("an address"));
    assert_eq!(world.refusal(), "certificate is for 192.0.2.1, not 192.0.2.2");
    world.client.subject_address = None;
    world.client.subject_name = Some("192.0.2.1".to_owned());
    Pair::done(&world.client(), &world.server());
}

#[test]
fn bad_certificates_are_refused_in_plain_words() {
    let world = World::new(&["other.example", "192.0.2.7"]);
    assert_eq!(world.refusal(), "certificate is for other.example, 192.0.2.7, not dns.example");

    let root = Authority::new("Root");
    let world = World::of(root.issue_until(&["dns.example"], 2026, 1, 2), root);
    assert_eq!(world.refusal(), "certificate has expired (on 2026-01-02)");

    let world = World::of(Authority::new("Stranger").issue(&["dns.example"]), Authority::new("Root"));
    assert_eq!(world.refusal(), "certificate is signed by an unknown authority");

    for authority in [false, true] {
        let own = self_signed(&["dns.example"], authority);
        let world = World::of(own, Authority::new("Root"));
        assert_eq!(world.refusal(), "self-signed certificate");
    }
}

#[test]
fn a_certificate_can_be_its_own_authority_where_the_operator_says_so() {
    for authority in [false, true] {
        let own = self_signed(&["dns.example"], authority);
        let mut world = World::of(own, Authority::new("Root"));
        world.client.ca_store = Some(world.server.certificates[0].certificate.clone());
        Pair::done(&world.client(), &world.server());
        world.client.subject_name = Some("other.example".to_owned());
        assert_eq!(world.refusal(), "certificate is for dns.example, not other.example");
    }
}

#[test]
fn nothing_is_checked_where_the_operator_says_so() {
    let mut world = World::of(self_signed(&["other.example"], true), Authority::new("Root"));
    world.client.validate = false;
    world.client.ca_store = None;
    Pair::done(&world.client(), &world.server());
}

/// A TLS 1.2 session: one side must not have 1.3, which no specification of ours can say.
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
fn what_both_sides_do_not_share_is_named() {
    let mut world = World::new(&["dns.example"]);
    world.server.ciphers_tls13 = "TLS_AES_128_GCM_SHA256".to_owned();
    world.server.version_min = Version::Tls13;
    world.client.ciphers_tls13 = "TLS_CHACHA20_POLY1305_SHA256".to_owned();
    let mut pair = world.pair();
    assert_eq!(pair.run().expect_err("no cipher").reason, Reason::NoSharedCipher);
    let heard = pair.run().expect_err("an alert");
    assert_eq!(heard.reason, Reason::NoSharedCipher, "{heard}");

    let mut server = Session::server(&world.server()).expect("a server");
    let old = server.on_bytes(&hello_of_tls12(), &mut Vec::new()).expect_err("too old");
    assert_eq!(old.reason, Reason::UnsupportedVersion, "{old}");

    world.client.ciphers_tls13 = String::new();
    world.client.alpn = vec!["h2".to_owned()];
    let mut pair = world.pair();
    assert_eq!(pair.run().expect_err("no protocol").reason, Reason::NoSharedProtocol);
    world.server.alpn = Vec::new();
    Pair::done(&world.client(), &world.server());
}

#[test]
fn what_is_not_tls_ends_with_that_reason() {
    let world = World::new(&["dns.example"]);
    let server = world.server();
    let query = b"\0\x1d\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01";
    for garbage in [&query[..], b"GET / HTTP/1.1\r\n\r\n", &[0; 64], &[0xff; 64], b"\x16\x03\x01\0\0\x16"] {
        let mut session = Session::server(&server).expect("a server");
        let mut plaintext = Vec::new();
        let failure = session.on_bytes(garbage, &mut plaintext).expect_err("garbage");
        assert_eq!(failure.reason, Reason::NotTls, "{garbage:x?}: {failure}");
        assert!(plaintext.is_empty());
        // It stays so, and says goodbye no further.
        assert_eq!(session.on_bytes(&hello_of_tls12(), &mut plaintext), Err(failure.clone()));
        assert_eq!(session.on_end(), Err(failure));
        assert_eq!(session.send(b"answer"), 0);
        session.write_to(&mut Vec::new()).expect("the alert");
        assert!(!session.wants_write());
    }
    // A backend that speaks something else.
    let mut session = Session::client(&world.client()).expect("a client");
    let failure = session.on_bytes(b"220 mail.example ESMTP\r\n", &mut Vec::new()).expect_err("garbage");
    assert_eq!(failure.reason, Reason::NotTls, "{failure}");
}

#[test]
fn a_handshake_cut_at_any_byte_ends_with_that_reason() {
    let world = World::new(&["dns.example"]);
    let (client, server) = (world.client(), world.server());
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
fn sealed_records_that_were_changed_end_the_session() {
    let world = World::new(&["dns.example"]);
    let mut pair = Pair::done(&world.client(), &world.server());
    assert_eq!(pair.client.send(b"question"), 8);
    let mut wire = Vec::new();
    pair.client.write_to(&mut wire).expect("a vector takes all");
    *wire.last_mut().expect("a record") ^= 1;
    let failure = pair.server.on_bytes(&wire, &mut Vec::new()).expect_err("changed");
    assert_eq!(failure.reason, Reason::Corrupt, "{failure}");
}

#[test]
fn closing_is_said_and_what_comes_after_forgotten() {
    let world = World::new(&["dns.example"]);
    let mut pair = Pair::done(&world.client(), &world.server());
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
    // An end without a goodbye is none of TLS's business.
    assert_eq!(pair.client.on_end(), Ok(()));
}

#[test]
fn what_waits_to_be_written_has_a_limit() {
    let world = World::new(&["dns.example"]);
    let mut pair = Pair::new(&world.client(), &world.server());
    // Before the handshake is done, plaintext waits.
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
    let world = World::new(&["dns.example"]);
    let (client, server) = (world.client(), world.server());
    assert!(!Pair::done(&client, &server).resumed());
    // Each resumption brings the ticket of the next one.
    for _ in 0..3 {
        assert!(Pair::done(&client, &server).resumed());
    }
    // A client of another backend, or one that begins anew, has none.
    assert!(!Pair::done(&world.client(), &server).resumed());
    // Another process has other keys.
    assert!(!Pair::done(&client, &world.server()).resumed());
}

#[test]
fn machines_with_a_key_file_resume_each_others_sessions() {
    let mut world = World::new(&["dns.example"]);
    world.server.ticket_key_file = Some(world.directory.write_bytes("keys", &[3; 80]));
    world.server.ticket_keys = 2;
    let client = world.client();
    assert!(!Pair::done(&client, &world.server()).resumed());
    assert!(Pair::done(&client, &world.server()).resumed());
    // One of them has got new keys, and still knows the old one; one that starts does not.
    let server = world.server();
    world.directory.write_bytes("keys", &[4; 80]);
    server.rotate().expect("rotation");
    assert!(Pair::done(&client, &server).resumed());
    assert!(Pair::done(&client, &world.server()).resumed());
    world.directory.write_bytes("keys", &[5; 80]);
    assert!(!Pair::done(&client, &world.server()).resumed());
}

#[test]
fn tickets_end_with_their_key() {
    let mut world = World::new(&["dns.example"]);
    world.server.ticket_keys = 2;
    let (client, server) = (world.client(), world.server());
    Pair::done(&client, &server);
    server.rotate().expect("rotation");
    assert!(Pair::done(&client, &server).resumed());
    server.rotate().expect("rotation");
    server.rotate().expect("rotation");
    assert!(!Pair::done(&client, &server).resumed());
}

#[test]
fn sessions_are_kept_for_clients_without_tickets() {
    let mut world = World::new(&["dns.example"]);
    world.server.tickets = false;
    let (client, server) = (world.client(), world.server());
    assert!(!Pair::done(&client, &server).resumed());
    assert!(Pair::done(&client, &server).resumed());
    server.rotate().expect("there is nothing to rotate");
    world.server.sessions = 0;
    let server = world.server();
    assert!(!Pair::done(&client, &server).resumed());
    assert!(!Pair::done(&client, &server).resumed());
}

#[test]
fn a_listener_loaded_anew_resumes_the_sessions_of_the_old_one() {
    let mut world = World::new(&["dns.example"]);
    let (client, server) = (world.client(), world.server());
    let mut pair = Pair::done(&client, &server);
    world.server.alpn.push("other".to_owned());
    let loaded = world.server();
    assert!(!Pair::done(&world.client(), &loaded).resumed());
    let renewed = loaded.inherit(&server);
    assert!(Pair::done(&client, &renewed).resumed(), "with the keys of the old one");
    world.server.session_seconds += 1;
    assert!(!Pair::done(&client, &world.server().inherit(&renewed)).resumed());
    // Connections are not touched.
    assert_eq!(pair.client.send(b"question"), 8);
    pair.run().expect("the old connection stands");
    assert_eq!(pair.at_server, b"question");
}

#[test]
fn keys_that_were_in_the_file_go_on_opening_tickets_after_a_reload() {
    let mut world = World::new(&["dns.example"]);
    world.server.ticket_key_file = Some(world.directory.write_bytes("keys", &[3; 80]));
    world.server.ticket_keys = 2;
    let (client, old) = (world.client(), world.server());
    Pair::done(&client, &old);
    world.directory.write_bytes("keys", &[4; 80]);
    let new = world.server().inherit(&old);
    assert_eq!((new.ticket_keys(), old.ticket_keys()), (2, 1), "the running one is left alone");
    assert!(Pair::done(&client, &new).resumed());
    // One too many, and those of another file.
    world.directory.write_bytes("keys", &[5; 80]);
    let newer = world.server().inherit(&new);
    assert_eq!(newer.ticket_keys(), 2);
    assert!(Pair::done(&client, &newer).resumed(), "the new key has sealed the last ticket");
    world.server.ticket_key_file = Some(world.directory.write_bytes("others", &[6; 80]));
    assert_eq!(world.server().inherit(&newer).ticket_keys(), 1);
}

#[test]
fn a_check_sees_the_certificate_and_a_bad_one_ends_all_resumption() {
    let mut world = World::new(&["dns.example"]);
    let (client, good) = (world.client(), world.server());
    Pair::done(&client, &good);
    assert!(Pair::done(&client, &good).resumed());
    let check = |server: &ServerTls| {
        let mut pair = Pair::of(Session::check(&client), server);
        let outcome = pair.run();
        assert!(outcome.is_err() || !pair.resumed());
        outcome
    };
    check(&good).expect("a good certificate");
    // Another certificate, with the ticket keys of before.
    let alone = self_signed(&["other.example"], false);
    world.server.certificates = vec![world.directory.pair(&alone)];
    let bad = world.server().inherit(&good);
    let mut standing = Pair::done(&client, &bad);
    assert!(standing.resumed(), "nobody has looked yet");
    let era = client.era();
    check(&good).expect("a good certificate");
    assert_eq!(client.era(), era);
    let failure = check(&bad).expect_err("a bad certificate");
    assert_ne!(client.era(), era, "connections of before are over");
    assert_eq!((failure.reason, &*failure.text), (Reason::BadCertificate, "self-signed certificate"));
    let why = Pair::new(&client, &bad).run().expect_err("nothing to be resumed");
    assert_eq!(why.reason, Reason::BadCertificate);
    // What stands goes on, and the good one is taken again.
    assert_eq!(standing.client.send(b"question"), 8);
    standing.run().expect("bytes");
    assert!(!Pair::done(&client, &good).resumed());
    assert!(Pair::done(&client, &good).resumed());
}

#[test]
fn the_end_of_a_renewed_certificate_is_known_by_the_next_check() {
    let root = Authority::new("Root");
    let issued = root.issue_until(&["dns.example"], 4000, 1, 1);
    let mut world = World::of(issued, root);
    let (client, old) = (world.client(), world.server());
    Pair::done(&client, &old);
    let before = client.certificate_until().expect("a certificate");
    let next = world.root.issue_until(&["dns.example"], 4001, 1, 1);
    world.server.certificates = vec![world.directory.pair(&next)];
    let new = world.server().inherit(&old);
    assert!(Pair::done(&client, &new).resumed());
    let mut pair = Pair::of(Session::check(&client), &new);
    pair.run().expect("a good certificate");
    assert_eq!(client.certificate_until(), Some(before + 366 * 86_400));
}

#[test]
fn certificates_are_complained_of() {
    let root = Authority::new("Root");
    let world = World::of(root.issue_until(&["dns.example"], 2026, 1, 2), root);
    let server = world.server();
    assert_eq!(server.complaints(1_767_312_000 - 30 * 86_400, 21), Vec::<String>::new());
    let said = server.complaints(1_767_312_001, 21);
    assert_eq!(said, ["certificate dns.example has expired (on 2026-01-02)"]);
}

#[test]
fn secrets_are_logged_where_the_operator_says_so() {
    let _alone = crate::tls::fixture::alone_with_key_logs();
    let mut world = World::new(&["dns.example"]);
    let (ours, theirs) = (world.directory.path("server.log"), world.directory.path("client.log"));
    world.server.key_log = Some(ours.clone());
    world.client.key_log = Some(theirs.clone());
    Pair::done(&world.client(), &world.server());
    crate::tls::write_key_logs();
    let read = |path| std::fs::read_to_string(path).expect("a log");
    let mut logs = [read(ours), read(theirs)].map(|log| log.lines().map(str::to_owned).collect::<Vec<_>>());
    logs.iter_mut().for_each(|log| log.sort());
    assert_eq!(logs[0], logs[1]);
    assert!(logs[0].iter().any(|line| line.starts_with("CLIENT_TRAFFIC_SECRET_0 ")));
    world.server.key_log = Some(world.directory.path("no/such/directory"));
    let why = ServerTls::load(&world.server).expect_err("no directory").to_string();
    assert!(why.contains("cannot be written"), "{why}");
}

#[test]
fn clients_are_told_what_is_wrong_with_their_settings() {
    let world = World::new(&["dns.example"]);
    let load = |spec: &ClientSpec| {
        let loaded = ClientTls::load(spec, BACKEND, &mut CaStores::default());
        loaded.expect_err("an error").to_string()
    };
    let spec = ClientSpec { subject_name: Some("not a name".to_owned()), ..world.client.clone() };
    assert_eq!(load(&spec), "\"not a name\" is neither a host name nor an address");
    let spec = ClientSpec { ca_store: Some(world.directory.path("missing")), ..world.client.clone() };
    assert!(load(&spec).contains("missing: cannot be read"));
    let key = world.server.certificates[0].key.clone();
    let spec = ClientSpec { ca_store: Some(key), ..world.client.clone() };
    assert!(load(&spec).contains("has no certificate in it"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_segmentation_carries_every_message(
        lengths in proptest::collection::vec(1usize..400, 1..40),
        there in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3_000), 1..6),
        back in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3_000), 1..6),
    ) {
        let world = World::new(&["dns.example"]);
        let mut pair = world.pair();
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
    fn garbage_at_any_time_is_a_failure_or_waits_for_more(
        garbage in proptest::collection::vec(any::<u8>(), 1..600),
        established: bool,
    ) {
        let world = World::new(&["dns.example"]);
        let mut pair = world.pair();
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
