//! Changes of certificates and ticket keys at run time: kdig and openssl with dnslob, and dnslob as
//! a server of dnslob.

use std::fs;

use crate::console::{console, works};
use crate::instance::{Instance, listen};
use crate::pki::{Authority, SecureServer};
use crate::place::{Directory, wait_for};
use crate::servers::{Kind, Server};
use crate::tls::{count, dumped, has, kdig, listen_tls, local, s_client, secure};

/// Returns Lua for a server that is always up.
fn plain(server: &Server) -> String {
    format!("newServer {{address=\"{}\", healthCheckMode=\"up\"}}\n", server.address)
}

#[test]
fn a_server_with_an_invalid_certificate_is_down_despite_session_resumption() {
    // A new connection per query.
    goes_bad(61, "setMaxCachedTCPConnectionsPerDownstream(0)\n", true);
}

#[test]
fn connections_to_a_server_with_an_invalid_certificate_are_closed() {
    goes_bad(65, "", false);
}

fn goes_bad(who: u8, settings: &str, resumes: bool) {
    let authority = Authority::new();
    let pair = authority.issue("a", &["dns.test"]);
    let server = Server::start(Kind::Nsd, who);
    let answer = format!("192.0.2.{who}");
    let (secured, at) = (local(), local());
    // Its ticket keys survive its certificates.
    let behind = listen(local()) + &listen_tls(secured, &[&pair], "") + &plain(&server);
    let mut backend = Instance::start(&behind);
    // Round robin tries it even while it is down.
    let front = listen(at)
        + "setServerPolicy(roundrobin)\n"
        + settings
        + &secure(secured, &authority, ", name=\"b\", subjectName=\"dns.test\", checkIntervalMs=100");
    let instance = Instance::start_with(&front, &["--shards", "1"]);
    let handshakes = || dumped(&instance, "handshakes", |l| l.starts_with("tls server \"b\" "));
    wait_for(
        || format!("a resumed session: {}", handshakes()),
        || {
            has(&kdig(at, "a.test +short"), &answer, &instance);
            (!resumes || count(&handshakes(), "resumed") > 1).then_some(())
        },
    );
    let logged = |what: &str| {
        wait_for(
            || format!("{what}; {}", instance.program.transcript()),
            || instance.program.lines_with(0, what).into_iter().find(|l| l.contains("\"b\"")),
        )
    };
    authority.self_signed("a", &["other.test"]);
    backend.reload(&behind);
    has(&logged("server is down"), "self-signed certificate", &instance);
    // Neither over an open connection nor with an earlier session.
    let resumed = count(&handshakes(), "resumed");
    assert!(!kdig(at, "a.test +short").contains(&answer));
    let line = handshakes();
    assert!(count(&line, "bad-certificate") > 0 && count(&line, "resumed") == resumed, "{line}");
    authority.issue("a", &["dns.test"]);
    backend.reload(&behind);
    logged("server is up");
    wait_for(
        || format!("an answer; {}", instance.program.transcript()),
        || kdig(at, "a.test +short").contains(&answer).then_some(()),
    );
}

#[test]
fn a_listener_keeps_its_certificates_when_its_files_break_and_logs_a_renewal() {
    let authority = Authority::new();
    let pair = authority.issue("a", &["old.test"]);
    let server = Server::start(Kind::Nsd, 62);
    let at = local();
    let lua = listen_tls(at, &[&pair], "ignoreTLSConfigurationErrors=true") + &plain(&server);
    let mut instance = Instance::start(&lua);
    let good = format!("+tls +tls-ca={} +tls-hostname=old.test a.test +short", authority.pem.display());
    has(&kdig(at, &good), "192.0.2.62", &instance);
    // A truncated file.
    let whole = fs::read_to_string(&pair.pem).expect("the certificate");
    fs::write(&pair.pem, &whole[..whole.len() / 2]).expect("the certificate");
    instance.reload(&lua);
    has(&kdig(at, &good), "192.0.2.62", &instance);
    let warnings = instance.program.lines_with(0, "keeps its present certificates and keys");
    assert_eq!(warnings.len(), 1, "{}", instance.program.transcript());
    assert!(instance.program.lines_with(0, "removed").is_empty(), "{}", instance.program.transcript());
    authority.issue("a", &["new.test"]);
    instance.reload(&lua);
    let new = good.replace("hostname=old.test", "hostname=new.test");
    has(&kdig(at, &new), "192.0.2.62", &instance);
    let renewed = instance.program.lines_with(0, "certificates: old.test (serial ");
    assert!(
        renewed.len() == 1 && renewed[0].contains("-> new.test (serial "),
        "{}",
        instance.program.transcript()
    );
}

#[test]
fn no_query_uses_a_connection_trusted_by_a_removed_authority() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = SecureServer::start(Kind::Unbound, 64, &authority.issue("a", &["dns.test"]));
    let at = local();
    // Without checks, so that queries go to it despite its certificate.
    let lua = listen(at)
        + &secure(
            server.address,
            &authority,
            ", name=\"b\", subjectName=\"dns.test\", healthCheckMode=\"up\"",
        );
    let mut instance = Instance::start_with(&lua, &["--shards", "1"]);
    has(&kdig(at, "a.test +short"), "192.0.2.64", &instance);
    // The certificates are read again and unchanged: the connection stays.
    instance.reload(&lua);
    has(&kdig(at, "b.test +short"), "192.0.2.64", &instance);
    dumped(&instance, "one connection", |l| l.starts_with("backend-connections \"b\" opened 1 ended 0 "));
    let good = fs::read(&authority.pem).expect("the authority");
    fs::copy(&other.pem, &authority.pem).expect("another");
    instance.reload(&lua);
    assert!(!kdig(at, "c.test +short").contains("192.0.2.64"), "{}", instance.program.transcript());
    dumped(&instance, "a refusal", |l| l.starts_with("tls server \"b\" ") && count(l, "bad-certificate") > 0);
    fs::write(&authority.pem, good).expect("the authority");
    instance.reload(&lua);
    wait_for(
        || format!("an answer; {}", instance.program.transcript()),
        || kdig(at, "d.test +short").contains("192.0.2.64").then_some(()),
    );
}

#[test]
fn tickets_survive_a_rotation_of_the_key_file() {
    let authority = Authority::new();
    let pair = authority.issue("a", &["dns.test"]);
    let directory = Directory::new();
    let keys = directory.path().join("keys");
    fs::write(&keys, [1; 80]).expect("the keys");
    let at = local();
    let lua = listen(local())
        + &listen_tls(at, &[&pair], &format!("ticketKeyFile=\"{}\"", keys.display()))
        + "newServer('127.0.0.1:9')\n";
    let mut instance = Instance::start(&lua);
    let session = directory.path().join("session");
    s_client(at, &format!("-tls1_2 -sess_out {}", session.display()));
    fs::write(&keys, [2; 80]).expect("the keys");
    instance.reload(&lua);
    let resumed = s_client(at, &format!("-tls1_2 -sess_in {}", session.display()));
    has(&resumed, "Reused, TLSv1.2", &instance);
}

#[test]
fn commands_renew_certificates_and_ticket_keys() {
    let authority = Authority::new();
    let pair = authority.issue("a", &["old.test"]);
    let (at, commands) = (local(), local());
    let lua = listen(local())
        + &listen_tls(at, &[&pair], "")
        + &console(commands)
        + "newServer('127.0.0.1:9')\n\
           setTicketsKeyAddedHook(function(key, length) print('a key of ' .. length .. ', ' .. #key) end)\n";
    let instance = Instance::start(&lua);
    let directory = Directory::new();
    let session = directory.path().join("session");
    s_client(at, &format!("-tls1_2 -sess_out {}", session.display()));
    has(&works(commands, "showTLSCertificates()"), "old.test", &instance);
    authority.issue("a", &["new.test"]);
    works(commands, "reloadAllCertificates()");
    has(&works(commands, "showTLSCertificates()"), "new.test", &instance);
    works(commands, "getTLSFrontend(0):rotateTicketsKey()");
    // The earlier key still opens tickets.
    let resumed = s_client(at, &format!("-tls1_2 -sess_in {}", session.display()));
    has(&resumed, "Reused, TLSv1.2", &instance);
    // The first one, and that of the command.
    wait_for(
        || format!("two keys; {}", instance.program.transcript()),
        || (instance.program.lines_with(0, "a key of 80, 80").len() == 2).then_some(()),
    );
}
