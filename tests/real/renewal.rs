//! Certificates and ticket keys that change while all runs: kdig and openssl before dnslob, and
//! dnslob before dnslob.

use std::fs;

use crate::instance::{Instance, listen};
use crate::pki::{Authority, SecureServer};
use crate::place::{Directory, wait_for};
use crate::servers::{Kind, Server};
use crate::tls::{count, dumped, has, kdig, listen_tls, local, s_client, secure};

/// Lua for a server that counts as up.
fn plain(server: &Server) -> String {
    format!("newServer {{address=\"{}\", healthCheckMode=\"up\"}}\n", server.address)
}

#[test]
fn a_server_whose_certificate_goes_bad_is_down_whatever_sessions_it_resumes() {
    // A new connection for each query.
    goes_bad(61, "setMaxCachedTCPConnectionsPerDownstream(0)\n", true);
}

#[test]
fn a_server_whose_certificate_goes_bad_is_asked_by_no_connection_of_before() {
    goes_bad(65, "", false);
}

fn goes_bad(who: u8, settings: &str, resumes: bool) {
    let authority = Authority::new();
    let pair = authority.issue("a", &["dns.test"]);
    let server = Server::start(Kind::Nsd, who);
    let answer = format!("192.0.2.{who}");
    let (secured, at) = (local(), local());
    // Its ticket keys outlive its certificates.
    let behind = listen(local()) + &listen_tls(secured, &[&pair], "") + &plain(&server);
    let mut backend = Instance::start(&behind);
    // With roundrobin it is asked even while it is down.
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
    let said = |what: &str| {
        wait_for(
            || format!("{what}; {}", instance.program.transcript()),
            || instance.program.lines_with(0, what).into_iter().find(|l| l.contains("\"b\"")),
        )
    };
    authority.self_signed("a", &["other.test"]);
    backend.reload(&behind);
    has(&said("server is down"), "self-signed certificate", &instance);
    // Neither by a connection that stands nor by a session of before.
    let resumed = count(&handshakes(), "resumed");
    assert!(!kdig(at, "a.test +short").contains(&answer));
    let line = handshakes();
    assert!(count(&line, "bad-certificate") > 0 && count(&line, "resumed") == resumed, "{line}");
    authority.issue("a", &["dns.test"]);
    backend.reload(&behind);
    said("server is up");
    wait_for(
        || format!("an answer; {}", instance.program.transcript()),
        || kdig(at, "a.test +short").contains(&answer).then_some(()),
    );
}

#[test]
fn a_listener_whose_files_break_goes_on_as_it_was_and_a_renewed_one_is_told_of() {
    let authority = Authority::new();
    let pair = authority.issue("a", &["old.test"]);
    let server = Server::start(Kind::Nsd, 62);
    let at = local();
    let lua = listen_tls(at, &[&pair], "ignoreTLSConfigurationErrors=true") + &plain(&server);
    let mut instance = Instance::start(&lua);
    let good = format!("+tls +tls-ca={} +tls-hostname=old.test a.test +short", authority.pem.display());
    has(&kdig(at, &good), "192.0.2.62", &instance);
    // Written half.
    let whole = fs::read_to_string(&pair.pem).expect("the certificate");
    fs::write(&pair.pem, &whole[..whole.len() / 2]).expect("the certificate");
    instance.reload(&lua);
    has(&kdig(at, &good), "192.0.2.62", &instance);
    let warnings = instance.program.lines_with(0, "keeps the certificates and keys that it has");
    assert_eq!(warnings.len(), 1, "{}", instance.program.transcript());
    assert!(instance.program.lines_with(0, "removed").is_empty(), "{}", instance.program.transcript());
    authority.issue("a", &["new.test"]);
    instance.reload(&lua);
    let new = good.replace("hostname=old.test", "hostname=new.test");
    has(&kdig(at, &new), "192.0.2.62", &instance);
    let told = instance.program.lines_with(0, "certificates: old.test (serial ");
    assert!(told.len() == 1 && told[0].contains("-> new.test (serial "), "{}", instance.program.transcript());
}

#[test]
fn no_query_goes_by_a_connection_of_an_authority_that_was_removed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = SecureServer::start(Kind::Unbound, 64, &authority.issue("a", &["dns.test"]));
    let at = local();
    // Unchecked, so that it is asked whatever becomes of its certificate.
    let lua = listen(at)
        + &secure(
            server.address,
            &authority,
            ", name=\"b\", subjectName=\"dns.test\", healthCheckMode=\"up\"",
        );
    let mut instance = Instance::start_with(&lua, &["--shards", "1"]);
    has(&kdig(at, "a.test +short"), "192.0.2.64", &instance);
    // Read again, and the same: the connection stays.
    instance.reload(&lua);
    has(&kdig(at, "b.test +short"), "192.0.2.64", &instance);
    dumped(&instance, "one connection", |l| l == "backend-connections \"b\" opened 1");
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
fn tickets_of_a_key_file_outlive_its_next_keys() {
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
