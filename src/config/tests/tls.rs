//! TLS: from listeners and servers with real certificates to the loaded objects, or to the message.

use std::sync::Arc;

use crate::config::functions::{SERVER_TLS_ARGUMENTS, TLS_LOCAL_OPTIONS, TLS_METHODS};
use crate::config::tests::{broken, good, only, snapshot};
use crate::config::{compile, diff};
use crate::model::{BackendTls, Listener, Probe, ProxyHeader, Service};
use crate::tls::fixture::{Authority, Directory};
use crate::tls::{ServerSpec, Version};

/// Certificates for two names, their keys, and the authority, as files; `X` in a text is their
/// directory.
struct Files(Directory);

impl Files {
    fn new() -> Self {
        let directory = Directory::new();
        let authority = Authority::new("test");
        authority.file(&directory);
        for name in ["one", "two"] {
            let issued = authority.issue(&[&format!("{name}.example")]);
            directory.write(&format!("{name}.pem"), &issued.certificate());
            directory.write(&format!("{name}.key"), &issued.key());
            directory.write(&format!("{name}.both"), &(issued.certificate() + &issued.key()));
        }
        Self(directory)
    }

    fn text(&self, text: &str) -> String {
        text.replace('X', &self.0.path("").display().to_string())
    }

    /// Returns the messages for an invalid text, with `X` for the directory.
    fn broken(&self, text: &str) -> Vec<String> {
        let path = self.0.path("").display().to_string();
        broken(&self.text(text)).iter().map(|e| e.replace(&path, "X")).collect()
    }

    /// Returns the warnings for a valid text, with `X` for the directory and `FILE` for the file.
    fn warnings(&self, text: &str) -> Vec<String> {
        let path = self.0.path("").display().to_string();
        let draft = good(&self.text(text)).0.draft;
        let changes = draft
            .warnings
            .clone()
            .into_list()
            .into_iter()
            .map(|w| w.to_string().replace(&path, "X").replace(w.origin.file_name(), "FILE"));
        changes.collect()
    }

    fn listeners(&self, text: &str) -> Vec<Arc<Listener>> {
        snapshot(&self.text(text)).listeners
    }

    fn spec(&self, options: &str) -> ServerSpec {
        let text = format!("addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key', {{{options}}})");
        self.listeners(&text)[0].service.tls().expect("TLS").spec().clone()
    }

    fn server(&self, arguments: &str) -> (String, BackendTls) {
        let text = format!("newServer{{address='192.0.2.1', {arguments}}}");
        let snapshot = snapshot(&self.text(&text));
        let server = only(&snapshot);
        assert!(server.connections.only);
        (server.address.to_string(), server.connections.tls.clone().expect("TLS"))
    }
}

#[test]
fn methods_of_a_listener_refuse_surplus_arguments() {
    let files = Files::new();
    for method in TLS_METHODS {
        let too_many = method.signature().most() + 1;
        let arguments = vec!["1"; too_many].join(", ");
        let messages = files.broken(&format!(
            "addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key')\ngetTLSFrontend(0):{}({arguments})",
            method.name
        ));
        let want = format!("FILE:2: {}: called with {too_many} argument", method.name);
        assert!(messages.len() == 1 && messages[0].starts_with(&want), "{}: {messages:#?}", method.name);
    }
}

#[test]
fn a_tls_listener_has_its_certificates() {
    let files = Files::new();
    let one = "addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key')";
    let listeners = files.listeners(one);
    assert_eq!(listeners.len(), 1);
    assert_eq!(listeners[0].address.to_string(), "127.0.0.1:853");
    assert!(listeners[0].service.takes_connections() && !listeners[0].service.takes_datagrams());
    assert_eq!(listeners[0].proxy, ProxyHeader::Inside);
    for two in [
        "addTLSLocal('127.0.0.1:8853', {'Xone.pem', 'Xtwo.pem'}, {'Xone.key', 'Xtwo.key'})",
        "addTLSLocal('127.0.0.1:8853', {newTLSCertificate('Xone.pem', {key='Xone.key'}), newTLSCertificate('Xtwo.both')})",
        // Keys are for certificates without one.
        "addTLSLocal('127.0.0.1:8853', {newTLSCertificate('Xone.pem', {key='Xone.key'}), newTLSCertificate('Xtwo.both')}, '')",
        "addTLSLocal('127.0.0.1:8853', {newTLSCertificate('Xone.both'), 'Xtwo.pem'}, 'Xtwo.key')",
    ] {
        let listeners = files.listeners(two);
        assert_eq!(listeners[0].address.port(), 8853);
        assert_eq!(listeners[0].service.tls().expect("TLS").certificates().len(), 2, "{two}");
    }
    let more = "addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key', {additionalAddresses={'127.0.0.2', '127.0.0.3:99'}})";
    let ports: Vec<_> = files.listeners(more).iter().map(|l| l.address.to_string()).collect();
    assert_eq!(ports, ["127.0.0.1:853", "127.0.0.2:853", "127.0.0.3:99"]);
}

#[test]
fn what_rustls_lacks_is_taken_with_a_warning() {
    let files = Files::new();
    for (text, name) in [
        ("addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key', {ktls=true})", "addTLSLocal: ktls"),
        (
            "addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key', {tlsAsyncMode=true})",
            "addTLSLocal: tlsAsyncMode",
        ),
        (
            "newServer{address='192.0.2.1', tls='openssl', caStore='Xauthority.pem', ktls=true}",
            "newServer: ktls",
        ),
    ] {
        let want = [format!("FILE:1: {name} has no effect: TLS is rustls, which does nothing of the kind")];
        assert_eq!(files.warnings(text), want, "{text}");
    }
}

#[test]
fn a_listener_takes_options_of_both_kinds() {
    let files = Files::new();
    let spec = files.spec("");
    assert_eq!(spec, ServerSpec { certificates: spec.certificates.clone(), ..ServerSpec::default() });
    let spec = files.spec(
        "minTLSVersion='tls1.3', ciphersTLS13='TLS_AES_128_GCM_SHA256', preferServerCiphers=false, \
         sessionTickets=true, numberOfTicketsKeys=3, ticketsKeysRotationDelay=60, sessionTimeout=100, \
         numberOfStoredSessions=7, provider='openssl', releaseBuffers=true, enableRenegotiation=false",
    );
    assert_eq!((spec.version_min, spec.ciphers_tls13.as_str()), (Version::Tls13, "TLS_AES_128_GCM_SHA256"));
    assert_eq!((spec.ticket_keys, spec.ticket_rotation_seconds), (3, 60));
    assert_eq!((spec.session_seconds, spec.sessions, spec.prefer_server_ciphers), (100, 7, false));
    let text = "addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key', {maxInFlight=9, maxConcurrentTCPConnections=8, \
                tcpListenQueueSize=7, interface='lo', proxyProtocolOutsideTLS=true})";
    let made = Arc::clone(&files.listeners(text)[0]);
    assert_eq!(
        (
            made.connection_options.in_flight,
            made.connection_options.connections,
            made.connection_options.backlog
        ),
        (9, 8, 7)
    );
    assert_eq!((made.interface.as_deref(), made.proxy), (Some("lo"), ProxyHeader::Outside));
    let text = "addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key', {proxyProtocolOutsideTLS=true, enableProxyProtocol=false})";
    assert_eq!(files.listeners(text)[0].proxy, ProxyHeader::Ignored);
}

#[test]
fn listener_errors_are_reported_with_their_place() {
    let files = Files::new();
    for (arguments, message) in [
        ("'Xnone.pem', 'Xone.key'", "Xnone.pem: cannot be read: No such file"),
        ("'Xone.key', 'Xone.key'", "Xone.key: "),
        ("'Xone.pem', 'Xtwo.key'", "Xtwo.key: "),
        ("{'Xone.pem', 'Xtwo.pem'}, 'Xone.key'", "2 certificates and 1 key are given; expected as many keys"),
        ("nil, 'Xone.key'", "the certificate is nil; expected the path of a certificate"),
        (
            "'Xone.pem', 'Xone.key', {minTLSVersion='tls1.4'}",
            "tls1.4 is no TLS version; use tls1.2 or tls1.3",
        ),
        ("'Xone.pem', 'Xone.key', {ciphers='NULL'}", "NULL"),
        ("'Xone.pem', 'Xone.key', {maxInFlight='x'}", "maxInFlight is \"x\"; expected a whole number"),
        (
            "'Xone.pem', 'Xone.key', {ocspResponses={'a', 'b'}}",
            "ocspResponses is a list of 2 files; expected at most",
        ),
        ("'Xone.pem', 'Xone.key', {ocspResponses='Xone.pem'}", "Xone.pem: "),
        ("'Xone.pem', 'Xone.key', {ticketKeyFile='Xone.pem'}", "Xone.pem: "),
    ] {
        let errors = files.broken(&format!("\naddTLSLocal('127.0.0.1', {arguments})"));
        assert_eq!(errors.len(), 1, "{arguments}: {errors:#?}");
        let want = format!("FILE:2: addTLSLocal: {message}");
        assert!(errors[0].starts_with(&want), "{arguments}:\n{}\n{want}", errors[0]);
    }
    let errors = files.broken("newTLSCertificate('Xone.p12', {password='x'})");
    assert!(
        errors[0].contains("option \"password\" (PKCS#12) is not implemented yet; convert"),
        "{errors:?}"
    );
    let twice = "addLocal('127.0.0.1:853')\naddTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key')";
    let errors = files.broken(twice);
    assert!(
        errors[0].starts_with("FILE:2: addTLSLocal: the listener 127.0.0.1:853 is already defined"),
        "{errors:?}"
    );
}

#[test]
fn a_listener_object_changes_its_listener() {
    let files = Files::new();
    let listeners = files.listeners(
        "addLocal('127.0.0.1:5300')\n\
         addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key')\naddTLSLocal('127.0.0.2', 'Xone.pem', 'Xone.key')\n\
         assert(getTLSFrontendCount() == 2 and getTLSFrontend(2) == nil)\n\
         local second = getTLSContext(1)\n\
         assert(second:getAddressAndPort() == '127.0.0.2:853')\n\
         second:loadNewCertificatesAndKeys({'Xtwo.pem'}, {'Xtwo.key'})\n\
         second:rotateTicketsKey() second:reloadCertificates() reloadAllCertificates()",
    );
    let shared = files.listeners(
        "addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key') getTLSFrontend(0):loadTicketsKey(('k'):rep(80))",
    );
    let key = shared[0].service.tls().and_then(|tls| tls.first_tickets_key());
    assert_eq!(key, Some(vec![b'k'; 80]));
    let names = |at: usize| listeners[at].service.tls().map(|tls| tls.certificates()[0].names.clone());
    assert_eq!(names(1), Some(vec!["one.example".to_owned()]));
    assert_eq!(names(2), Some(vec!["two.example".to_owned()]));
    let text =
        "addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key')\ngetTLSFrontend(0):loadTicketsKeys('Xone.pem')";
    let errors = files.broken(text);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].starts_with("FILE:2: loadTicketsKeys: Xone.pem: has "), "{errors:#?}");
}

#[test]
fn an_omitted_tls_listener_is_not_replaced_by_plain_dns() {
    let files = Files::new();
    let broken = "addTLSLocal('127.0.0.1', 'Xnone.pem', 'Xone.key', {ignoreTLSConfigurationErrors=true})";
    let text = format!("addLocal('127.0.0.1')\n{broken}");
    let services: Vec<_> = files.listeners(&text).iter().map(|l| l.service.clone()).collect();
    assert_eq!(services, [Service::Dns]);
    assert_eq!(files.listeners(&format!("{broken} newServer('192.0.2.1')")).len(), 0);
    let warnings = files.warnings(broken);
    assert!(warnings[0].starts_with("FILE:1: addTLSLocal: Xnone.pem: cannot be read"), "{warnings:#?}");
}

#[test]
fn a_listener_with_broken_files_keeps_its_tls_at_a_reload() {
    let files = Files::new();
    let options = "{ignoreTLSConfigurationErrors=true, additionalAddresses={'127.0.0.2'}}";
    let text = files.text(&format!("addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key', {options})"));
    let old = good(&text).1;
    files.0.write("one.pem", "-----BEGIN CERTIFICATE-----\nAAAA");
    let mut draft = good(&text).0.draft;
    assert_eq!(draft.keep_tls(&old.snapshot).len(), 2);
    let mut new = compile(&draft, &old.slots, 2).expect("good").snapshot;
    new.inherit(&old.snapshot);
    assert_eq!(new.listeners.len(), 2);
    for (before, after) in old.snapshot.listeners.iter().zip(&new.listeners) {
        assert_eq!(before.slot, after.slot);
        let names = |l: &Listener| l.service.tls().expect("TLS").certificates()[0].names.clone();
        assert_eq!(names(before), names(after));
    }
    // A new one has nothing to keep.
    let mut draft = good(&text.replace("127.0.0.1", "127.0.0.3")).0.draft;
    assert_eq!(draft.keep_tls(&old.snapshot).len(), 1);
    assert_eq!((draft.left_out.len(), draft.listeners.len()), (1, 1));
}

#[test]
fn options_without_effect_only_warn() {
    let files = Files::new();
    for (text, warning) in [
        (
            "addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key', {ciphers='HIGH', minTLSVersion='tls1.3'})",
            "FILE:1: addTLSLocal: ciphers has no effect beside minTLSVersion=\"tls1.3\"",
        ),
        (
            "addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key', {ticketKeyFile='/nonexistent', sessionTickets=false})",
            "FILE:1: addTLSLocal: ticketKeyFile has no effect beside sessionTickets=false",
        ),
        (
            "newServer{address='192.0.2.1', tls='openssl', caStore='Xauthority.pem', subjectName='a', subjectAddr='::1'}",
            "FILE:1: newServer: subjectAddr has no effect beside subjectName; expected one of them",
        ),
        (
            "newServer{address='192.0.2.1', tls='openssl', caStore='/nonexistent', validateCertificates=false}",
            "FILE:1: newServer: caStore has no effect beside validateCertificates=false; expected one of them",
        ),
    ] {
        let warnings = files.warnings(text);
        assert_eq!(warnings.len(), 1, "{text}: {warnings:#?}");
        assert!(warnings[0].starts_with(warning), "{text}:\n{}\n{warning}", warnings[0]);
    }
    let text = "addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key', {minTLSVersion='tls1.3'})\n\
                newServer{address='192.0.2.1', tls='openssl', caStore='Xauthority.pem', subjectName='a'}";
    assert_eq!(files.warnings(text), [] as [String; 0]);
}

#[test]
fn set_local_replaces_plain_listeners_only() {
    let files = Files::new();
    let text =
        "addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key')\naddLocal('127.0.0.1')\nsetLocal('127.0.0.2')";
    let addresses: Vec<_> = files.listeners(text).iter().map(|l| l.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1:853", "127.0.0.2:53"]);
}

#[test]
fn a_server_with_tls_is_verified() {
    let files = Files::new();
    let (address, tls) = files.server("tls='openssl', subjectName='one.example', caStore='Xauthority.pem'");
    assert_eq!(address, "192.0.2.1:853");
    assert_eq!(tls.spec.subject_name.as_deref(), Some("one.example"));
    assert!(tls.spec.validate);
    assert_eq!(tls.tls.subject(), "one.example");
    let (_, tls) = files.server("tls='gnutls', subjectAddr='192.0.2.9', caStore='Xauthority.pem'");
    assert_eq!(tls.tls.subject(), "192.0.2.9");
    let (_, tls) =
        files.server("tls=true, validateCertificates=false, ciphersTLS13='TLS_AES_128_GCM_SHA256'");
    assert!(!tls.spec.validate);
    let text = "newServer{address='192.0.2.1:53', tls='openssl', caStore='Xauthority.pem'}";
    let snapshot = snapshot(&files.text(text));
    assert_eq!(only(&snapshot).address.port(), 53, "as written");
    assert_eq!(only(&snapshot).health.probe, Probe::Tls);
    let plain = crate::config::tests::server("tls=false");
    assert!(plain.connections.tls.is_none() && !plain.connections.only && plain.address.port() == 53);
}

#[test]
fn server_errors_are_reported_with_their_place() {
    let files = Files::new();
    for (arguments, message) in [
        ("tls='schannel'", "tls is \"schannel\"; expected true, false, \"openssl\""),
        ("tls='openssl', caStore='Xnone.pem'", "Xnone.pem: cannot be read: No such file"),
        ("tls='openssl', caStore='Xone.key'", "Xone.key: "),
        ("tls='openssl', caStore='Xauthority.pem', subjectName='a b'", ""),
        (
            "tls='openssl', caStore='Xauthority.pem', subjectAddr='x'",
            "subjectAddr is \"x\"; expected an IP address",
        ),
        (
            "tls='openssl', caStore='Xauthority.pem', dohPath='/dns-query'",
            "argument \"dohPath\" (DNS over HTTPS towards servers, upgrades) is not implemented yet",
        ),
    ] {
        let errors = files.broken(&format!("\nnewServer{{address='192.0.2.1', {arguments}}}"));
        assert_eq!(errors.len(), 1, "{arguments}: {errors:#?}");
        let want = format!("FILE:2: newServer: {message}");
        assert!(errors[0].starts_with(&want), "{arguments}:\n{}\n{want}", errors[0]);
    }
}

#[test]
fn a_reload_reads_certificates_again_and_keeps_the_sockets() {
    let files = Files::new();
    let text = files.text("addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key')");
    let old = good(&text).1;
    // Replace the files by those of another certificate, as an ACME client would.
    for kind in ["pem", "key"] {
        std::fs::copy(files.0.path(&format!("two.{kind}")), files.0.path(&format!("one.{kind}")))
            .expect("copied");
    }
    let (loaded, _) = good(&text);
    let mut new = compile(&loaded.draft, &old.slots, 2).expect("good").snapshot;
    new.inherit(&old.snapshot);
    assert_eq!(old.snapshot.listeners[0].slot, new.listeners[0].slot);
    let changes = diff(&old.snapshot, &new);
    assert_eq!(changes.len(), 1, "one change: {changes:#?}");
    assert!(changes[0].starts_with("listener 127.0.0.1:853 over TLS "), "{changes:#?}");
    assert!(changes[0].contains(" certificates: one.example (serial "), "{changes:#?}");
    assert!(changes[0].contains(" -> two.example (serial "), "{changes:#?}");
    let tls = |l: &Listener| Arc::clone(l.service.tls().expect("TLS"));
    let (before, after) = (tls(&old.snapshot.listeners[0]), tls(&new.listeners[0]));
    assert_ne!(format!("{:?}", before.certificates()), format!("{:?}", after.certificates()));
}

#[test]
fn every_entry_of_the_tables_is_read() {
    let files = Files::new();
    // A coroutine is no valid value.
    for name in TLS_LOCAL_OPTIONS.iter().map(|e| e.name) {
        let text = format!(
            "addTLSLocal('127.0.0.1', 'Xone.pem', 'Xone.key', {{{name}=coroutine.create(function() end)}})"
        );
        let errors = files.broken(&text);
        assert!(errors[0].starts_with(&format!("FILE:1: addTLSLocal: {name} is a thread")), "{errors:#?}");
    }
    for name in SERVER_TLS_ARGUMENTS.iter().map(|e| e.name) {
        let text = format!("newServer{{address='192.0.2.1', {name}=coroutine.create(function() end)}}");
        let errors = files.broken(&text);
        assert!(errors[0].starts_with(&format!("FILE:1: newServer: {name} is a thread")), "{errors:#?}");
    }
}
