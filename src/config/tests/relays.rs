//! Relays: from a line to the listener, the pool and the hidden servers, or to the message.

use std::sync::Arc;

use crate::base::addr::{BackendSlot, mapped};
use crate::base::time::TickDelta;
use crate::config::functions::{RELAY_ARGUMENTS, TCP_RELAY_ARGUMENTS, UDP_RELAY_ARGUMENTS};
use crate::config::tests::{broken, good, only, snapshot};
use crate::config::{compile, diff};
use crate::model::policy::{HashKey, Kind};
use crate::model::{
    Backend, ClientAddress, HealthMode, Listener, Probe, RelaySettings, SendExpect, Service, Snapshot,
};

const TARGETS: &str = "listen='127.0.0.1:25', to={'192.0.2.1:25', '192.0.2.2:2525'}";

/// Returns the one relay of a snapshot, and the servers of its pool in order.
fn relay(snapshot: &Snapshot) -> (Arc<RelaySettings>, Vec<Arc<Backend>>) {
    let mut relays = snapshot.listeners.iter().filter_map(|l| l.service.relay());
    let relay = Arc::clone(relays.next().expect("a relay"));
    assert!(relays.next().is_none());
    let members = &snapshot.pool(relay.pool).members;
    let servers = members.iter().map(|slot| Arc::clone(snapshot.backend(*slot).expect("a target")));
    (relay, servers.collect())
}

fn tcp(arguments: &str) -> (Arc<RelaySettings>, Vec<Arc<Backend>>) {
    relay(&snapshot(&format!("addTCPForward{{{TARGETS}, {arguments}}}")))
}

fn udp(arguments: &str) -> (Arc<RelaySettings>, Vec<Arc<Backend>>) {
    relay(&snapshot(&format!("addUDPForward{{{TARGETS}, {arguments}}}")))
}

#[test]
fn a_tcp_relay_is_a_listener_a_pool_and_hidden_servers() {
    let snapshot = snapshot(&format!("addTCPForward{{{TARGETS}}}"));
    assert_eq!(snapshot.listeners.len(), 1, "a configuration with only relays serves no DNS");
    let listener = &snapshot.listeners[0];
    assert_eq!(listener.address.to_string(), "127.0.0.1:25");
    assert!(listener.service.takes_connections() && !listener.service.takes_datagrams());
    let (relay, targets) = relay(&snapshot);
    let pool = snapshot.pool(relay.pool);
    assert_eq!((pool.name.as_str(), pool.policy.kind), ("relay 127.0.0.1:25/tcp", Kind::FirstAvailable));
    assert_eq!(pool.panic_ppm, 1, "with all down all are tried");
    assert_eq!(snapshot.pools[0].members, []);
    let seen: Vec<_> = targets.iter().map(|b| (b.id.as_str(), b.order, b.sockets, b.target)).collect();
    let want = [
        ("relay 127.0.0.1:25/tcp -> 192.0.2.1:25", 0, 0, true),
        ("relay 127.0.0.1:25/tcp -> 192.0.2.2:2525", 1, 0, true),
    ];
    assert_eq!(seen, want);
    assert!(targets.iter().all(|b| b.health.probe == Probe::Connect && b.health.mode == HealthMode::Auto));
    assert!(targets.iter().all(|b| b.health.slow_start == TickDelta(0)));
    assert_eq!(relay.connect_timeout, TickDelta::from_ms(3000));
    assert_eq!(relay.idle_timeout, TickDelta::from_ms(600_000));
    assert_eq!((relay.connections, relay.connections_per_client, relay.log), (100_000, 0, false));
    assert_eq!((relay.greeting_timeout, relay.close_when_down), (TickDelta(0), true));
    assert!(relay.acl.contains(&mapped([10, 0, 0, 1].into())), "the process's ACL");
}

#[test]
fn a_udp_relay_has_flows() {
    let snapshot = snapshot(&format!("newServer('192.0.2.53')\naddUDPForward{{{TARGETS}}}"));
    let addresses: Vec<_> = snapshot.listeners.iter().map(|l| l.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1:53", "127.0.0.1:25"], "with a server DNS is served beside it");
    assert!(
        snapshot.listeners[1].service.takes_datagrams() && !snapshot.listeners[1].service.takes_connections()
    );
    let (relay, targets) = relay(&snapshot);
    assert_eq!((relay.idle_timeout, relay.connections), (TickDelta::from_ms(30_000), 65_536));
    assert!(targets.iter().all(|b| b.health.mode == HealthMode::Up), "there is no default check");
    assert_eq!(snapshot.pools[0].members, [BackendSlot(0)]);
}

#[test]
fn relays_of_two_interfaces_have_their_own_targets() {
    let of = |interface, to| {
        format!("addTCPForward{{listen='0.0.0.0:25', interface='{interface}', to='192.0.2.{to}:25'}}\n")
    };
    let snapshot = snapshot(&(of("lo", 1) + &of("eth0", 2) + &of("lo", 1).replace("TCP", "UDP")));
    let targets: Vec<_> = snapshot
        .listeners
        .iter()
        .map(|l| {
            let pool = snapshot.pool(l.service.relay().expect("a relay").pool);
            let [target] = pool.members[..] else { panic!("{pool:?}") };
            let target = snapshot.backend(target).expect("a target");
            (pool.name.as_str(), target.id.as_str())
        })
        .collect();
    assert_eq!(
        targets,
        [
            ("relay 0.0.0.0:25@lo/tcp", "relay 0.0.0.0:25@lo/tcp -> 192.0.2.1:25"),
            ("relay 0.0.0.0:25@eth0/tcp", "relay 0.0.0.0:25@eth0/tcp -> 192.0.2.2:25"),
            ("relay 0.0.0.0:25@lo/udp", "relay 0.0.0.0:25@lo/udp -> 192.0.2.1:25"),
        ]
    );
}

#[test]
fn every_setting_reaches_the_snapshot() {
    let (f, targets) =
        tcp("connectTimeoutMs=250, idleTimeout=0, maxConnections=10, maxConnectionsPerClient=2, \
                            log=true, acl={'198.51.100.0/24'}, tcpFastOpen=true, rise=2, maxCheckFailures=3, \
                            checkInterval=0.5, checkTimeout=200, source='127.0.0.9', \
                            greetingTimeout=1.5, closeWhenDown=false");
    assert_eq!((f.greeting_timeout, f.close_when_down), (TickDelta::from_ms(1500), false));
    assert_eq!(f.connect_timeout, TickDelta::from_ms(250));
    assert_eq!((f.idle_timeout, f.connections, f.connections_per_client, f.log), (TickDelta(0), 10, 2, true));
    assert!(
        f.acl.contains(&mapped([198, 51, 100, 7].into())) && !f.acl.contains(&mapped([10, 0, 0, 1].into()))
    );
    let b = &targets[1];
    assert_eq!((b.health.rise, b.health.fall), (2, 3));
    assert_eq!((b.health.interval, b.health.timeout), (TickDelta::from_ms(500), TickDelta::from_ms(200)));
    assert_eq!((b.connections.connect_timeout, b.connections.fast_open), (f.connect_timeout, true));
    assert_eq!(b.source.map(|ip| ip.to_string()).as_deref(), Some("127.0.0.9"));

    let text =
        format!("addTCPForward{{{TARGETS}, interface='lo', tcpListenQueueSize=9, tcpFastOpenQueueSize=8}}");
    let listener = Listener::clone(&snapshot(&text).listeners[0]);
    assert_eq!((listener.connection_options.backlog, listener.connection_options.fast_open), (9, 8));
    assert_eq!(listener.interface.as_deref(), Some("lo"));
    assert_eq!(udp("maxFlows=5, maxFlowsPerClient=1, idleTimeoutMs=900").0.connections, 5);
}

#[test]
fn targets_are_chosen_by_the_client() {
    let policy = |arguments: &str| {
        let snapshot = snapshot(&format!("addTCPForward{{{TARGETS}, {arguments}}}"));
        snapshot.pool(relay(&snapshot).0.pool).policy.clone()
    };
    assert_eq!(policy("policy='ordered'").kind, Kind::FirstAvailable);
    assert_eq!(policy("policy='roundrobin'").kind, Kind::RoundRobin);
    assert_eq!(policy("policy='leastOutstanding'").kind, Kind::LeastOutstanding);
    let hash = policy("policy='sourceHash'");
    assert_eq!((hash.kind, hash.hash_key), (Kind::CHashed, HashKey::Client));
    let hash = policy("policy='sourceHash', key='clientPrefix', v4=16, v6=48");
    assert_eq!(hash.hash_key, HashKey::ClientPrefix(16, 48));
}

#[test]
fn relays_to_the_same_machines_have_the_same_ring() {
    let snapshot = snapshot(
        "addTCPForward{listen='127.0.0.1:1080', to={'192.0.2.1:1080', '192.0.2.2:1080', '192.0.2.3:1080'}, \
         policy='sourceHash'}\n\
         addUDPForward{listen='127.0.0.1:1080', to={'192.0.2.1:1081', '192.0.2.2:1081', '192.0.2.3:1081'}, \
         policy='sourceHash'}",
    );
    let owners = |at: usize| {
        let pool = snapshot.pool(snapshot.listeners[at].service.relay().expect("a relay").pool);
        let ring = pool.ring.as_ref().expect("a ring");
        let place = |slot| pool.members.iter().position(|m| *m == slot).expect("a member");
        ring.owners().map(place).collect::<Vec<_>>()
    };
    assert!(owners(0).len() >= 300);
    assert_eq!(owners(0), owners(1));
}

#[test]
fn health_checks_are_read() {
    let probe = |arguments: &str| tcp(arguments).1[0].health.probe.clone();
    assert_eq!(tcp("check='none'").1[0].health.mode, HealthMode::Up);
    assert_eq!(probe("check='connect'"), Probe::Connect);
    assert_eq!(
        probe("checkScript={'/bin/check', '-v'}"),
        Probe::Script(vec!["/bin/check".into(), "-v".into()])
    );
    let talk = |datagram, send: &[u8], expect: &[u8]| {
        Probe::SendExpect(SendExpect { datagram, send: send.into(), expect: expect.into() })
    };
    assert_eq!(probe("checkExpect='220'"), talk(false, b"", b"220"));
    assert_eq!(probe(r"checkSend='\5\1\0', checkExpect='\5\0'"), talk(false, &[5, 1, 0], &[5, 0]));
    let targets = udp("checkSend='ping', checkExpect='pong'").1;
    assert_eq!(targets[0].health.probe, talk(true, b"ping", b"pong"));
    assert_eq!(targets[0].health.mode, HealthMode::Auto, "what is checked may be down");
}

#[test]
fn targets_can_learn_the_client_address() {
    let proxy = |v1| ClientAddress::Proxy { v1, advertise_tls: false };
    assert_eq!(tcp("useProxyProtocol=true").1[0].client_address, proxy(false));
    assert_eq!(tcp("useProxyProtocol='v1'").1[1].client_address, proxy(true));
    assert_eq!(udp("useProxyProtocol='v2'").1[1].client_address, proxy(false));
    assert_eq!(tcp("transparent=true").1[0].client_address, ClientAddress::Transparent);
}

#[test]
fn targets_of_datagrams_can_be_asked_over_a_connection() {
    for (function, check, datagram) in [
        ("addUDPForward", "checkSend='a', checkExpect='b'", true),
        ("addUDPForward", "check='connect', checkSend='a', checkExpect='b'", false),
        ("addUDPForward", "check='connect', checkExpect='b'", false),
        ("addTCPForward", "check='connect', checkExpect='b'", false),
    ] {
        let text = format!("{function}{{listen='192.0.2.55:25', to='192.0.2.1:25', {check}}}");
        let made = snapshot(&text);
        let Probe::SendExpect(exchange) = &only(&made).health.probe else { panic!("{text}") };
        assert_eq!(exchange.datagram, datagram, "{text}");
    }
}

#[test]
fn an_invalid_relay_is_reported_with_its_place() {
    for (arguments, message) in [
        ("", "addTCPForward: listen is missing; expected IP:PORT"),
        ("listen='127.0.0.1:25'", "addTCPForward: to is missing; expected the address of a target"),
        ("listen='127.0.0.1', to='192.0.2.1:25'", "addTCPForward: listen is \"127.0.0.1\"; expected IP:PORT"),
        ("listen='127.0.0.1:25', to={'mail:25'}", "addTCPForward: to is \"mail:25\"; expected IP:PORT"),
        (
            "listen='127.0.0.1:25', to={'192.0.2.1:25', '192.0.2.1:25'}",
            "addTCPForward: to is \"192.0.2.1:25\" twice; expected each target once",
        ),
        ("listen='127.0.0.1:25', to={}", "addTCPForward: to is a list of 0 targets; expected 1 to 64"),
        (
            "policy='random'",
            "addTCPForward: policy is \"random\"; expected one of \"ordered\", \"roundrobin\"",
        ),
        ("policy='sourceHash', key='qname'", "addTCPForward: key is \"qname\"; expected \"client\" or"),
        ("check='dns'", "addTCPForward: check is \"dns\"; expected \"connect\" or \"none\""),
        ("checkSend='x'", "addTCPForward: checkExpect is missing; expected what a good answer holds"),
        (
            "check='none', checkExpect='x'",
            "addTCPForward: more than one check is given; expected one of check, checkScript",
        ),
        ("connectTimeout=0", "addTCPForward: connectTimeout is 0; expected a number of seconds from 0.001"),
        (
            "idleTimeout=1, idleTimeoutMs=1",
            "addTCPForward: idleTimeout and idleTimeoutMs are both given; expected one of them",
        ),
        ("acl={'x'}", "addTCPForward: \"x\" is not allowed; expected ADDRESS or ADDRESS/LENGTH"),
        (
            "transparent=true, useProxyProtocol=true",
            "addTCPForward: useProxyProtocol and transparent are both",
        ),
        (
            "transparent=true, to='[2001:db8::1]:25'",
            "addTCPForward: to is of another family; expected targets of the family of `listen`",
        ),
        (
            "listen='127.0.0.1:25', to={'192.0.2.1:25', '127.0.0.1:25'}",
            "addTCPForward: to is \"127.0.0.1:25\"; expected another address than `listen`",
        ),
        (
            "listen='[::]:25', to='[::1]:25'",
            "addTCPForward: to is \"[::1]:25\"; expected another address than `listen`",
        ),
        ("source='::1'", "addTCPForward: source is of another family than a target; expected all IPv4"),
    ] {
        let whole = match arguments {
            "" => "to='192.0.2.1:25'".to_owned(),
            written if written.contains("listen=") => written.to_owned(),
            written if written.contains("to=") => format!("listen='127.0.0.1:25', {written}"),
            written => format!("{TARGETS}, {written}"),
        };
        let errors = broken(&format!("\naddTCPForward{{{whole}}}"));
        assert_eq!(errors.len(), 1, "{whole}: {errors:#?}");
        assert!(errors[0].starts_with(&format!("FILE:2: {message}")), "{whole}:\n{}\n{message}", errors[0]);
    }
    for (text, message) in [
        ("addTCPForward('x')", "FILE:1: addTCPForward: the argument is \"x\"; expected a table"),
        (
            "addUDPForward{listen='127.0.0.1:9', to='192.0.2.1:9', useProxyProtocol='v1'}",
            "FILE:1: addUDPForward: useProxyProtocol is \"v1\"; expected \"v2\": datagrams have no version 1",
        ),
        (
            "addUDPForward{listen='127.0.0.1:9', to='192.0.2.1:9', checkExpect='x'}",
            "FILE:1: addUDPForward: checkSend is missing; expected what makes a server answer",
        ),
        (
            "addLocal('127.0.0.1:25')\naddTCPForward{listen='127.0.0.1:25', to='192.0.2.1:25'}",
            "FILE:2: addTCPForward: the listener 127.0.0.1:25 is already defined at FILE:1; expected it once",
        ),
        (
            "getPool('relay 127.0.0.1:25/tcp')\naddTCPForward{listen='127.0.0.1:25', to='192.0.2.1:25'}",
            "FILE:2: addTCPForward: a pool is called \"relay 127.0.0.1:25/tcp\", like the pool of this relay",
        ),
    ] {
        let errors = broken(text);
        assert_eq!(errors.len(), 1, "{text}: {errors:#?}");
        assert!(errors[0].starts_with(message), "{text}:\n{}\n{message}", errors[0]);
    }
}

#[test]
fn dns_over_udp_and_a_tcp_relay_share_an_address() {
    let text = "newServer('192.0.2.53')\naddLocal('127.0.0.1:25', {doTCP=false})\n\
                addTCPForward{listen='127.0.0.1:25', to='192.0.2.1:25'}";
    let services: Vec<_> = snapshot(text).listeners.iter().map(|l| l.service.takes_connections()).collect();
    assert_eq!(services, [false, true]);
}

#[test]
fn every_argument_of_the_tables_is_read() {
    for (function, own) in [("addTCPForward", TCP_RELAY_ARGUMENTS), ("addUDPForward", UDP_RELAY_ARGUMENTS)] {
        for argument in RELAY_ARGUMENTS.iter().chain(own) {
            // A coroutine is no valid argument.
            let name = argument.name;
            let text = format!("{function}{{{TARGETS}, {name}=coroutine.create(function() end)}}");
            let errors = broken(&text);
            assert!(
                errors.iter().any(|e| e.starts_with(&format!("FILE:1: {function}: {name} is a thread"))),
                "{text}: {errors:#?}"
            );
        }
    }
}

#[test]
fn a_reload_keeps_unchanged_sockets() {
    let text = |idle: u32, second: &str| {
        format!(
            "addTCPForward{{listen='127.0.0.1:25', to={{'192.0.2.1:25', '{second}'}}, idleTimeout={idle}}}\n\
             addUDPForward{{listen='127.0.0.1:25', to='192.0.2.1:25'}}"
        )
    };
    let old = good(&text(60, "192.0.2.2:25")).1;
    let (loaded, _) = good(&text(90, "192.0.2.3:25"));
    let new = compile(&loaded.draft, &old.slots, 2).expect("good");
    let slots = |s: &Snapshot| s.listeners.iter().map(|l| l.slot).collect::<Vec<_>>();
    assert_eq!(slots(&old.snapshot), slots(&new.snapshot), "the sockets stay");
    let pools = |s: &Snapshot| -> Vec<_> {
        s.listeners.iter().filter_map(|l| l.service.relay().map(|f| f.pool)).collect()
    };
    assert_eq!(pools(&old.snapshot), pools(&new.snapshot));
    let lines = diff(&old.snapshot, &new.snapshot);
    let has = |part: &str| lines.iter().filter(|l| l.contains(part)).count();
    assert_eq!(has("idleTimeout: 1m -> 90s"), 1, "{lines:#?}");
    assert_eq!(has("server relay 127.0.0.1:25/tcp -> 192.0.2.2:25 removed"), 1, "{lines:#?}");
    assert_eq!(has("server relay 127.0.0.1:25/tcp -> 192.0.2.3:25 added"), 1, "{lines:#?}");
    assert_eq!(has("pool \"relay 127.0.0.1:25/tcp\" servers:"), 1, "{lines:#?}");
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(matches!(new.snapshot.listeners[1].service, Service::UdpRelay(_)));
}

#[test]
fn relays_that_lead_back_to_themselves_are_refused() {
    let relay =
        |kind: &str, listen: &str, to: &str| format!("add{kind}Forward{{listen='{listen}', to={{{to}}}}}\n");
    let (a, b, c) = ("127.0.0.1:25", "127.0.0.1:26", "127.0.0.1:27");
    for kind in ["TCP", "UDP"] {
        let of = |listen: &str, to: &str| relay(kind, listen, to);
        for (text, line, to) in [
            (of(a, &format!("'{b}'")) + &of(b, &format!("'{a}'")), 2, a),
            (
                of(a, &format!("'192.0.2.1:25', '{b}'"))
                    + &of(b, "'127.0.0.1:27'")
                    + &of("0.0.0.0:27", &format!("'{a}'")),
                3,
                a,
            ),
            (
                of(a, &format!("'{b}'")) + &of(c, "'192.0.2.1:25'") + &of(b, "'192.0.2.1:25', '0.0.0.0:25'"),
                3,
                "0.0.0.0:25",
            ),
        ] {
            let want = format!(
                "FILE:{line}: add{kind}Forward: to is \"{to}\"; expected targets that do not lead back to `listen` \
                 through other relays"
            );
            assert_eq!(broken(&text), [want], "{text}");
        }
        good(&(of(a, &format!("'{b}'")) + &of(b, &format!("'{c}'")) + &of(c, "'192.0.2.1:25'")));
        let own = broken(&of(a, "'0.0.0.0:25'"));
        assert!(own.len() == 1 && own[0].contains("it would relay to itself"), "{own:#?}");
    }
    good(&(relay("TCP", a, "'127.0.0.1:26'") + &relay("UDP", b, "'127.0.0.1:25'")));
}
