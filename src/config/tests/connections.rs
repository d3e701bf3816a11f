//! Connections, PROXY headers and relays: from a line to the snapshot's fields, or to the message.

use crate::base::addr::mapped;
use crate::base::time::TickDelta;
use crate::config::tests::{broken, good, only, server, snapshot};
use crate::config::{compile, diff};
use crate::model::{
    BackendConnectionOptions, ClientAddress, ConnectionOptions, Globals, Listener, Probe, ProxyHeader,
    ProxyLimits, Service,
};
use crate::stats::connection_limits::ClientConnectionLimits;

fn ms(ms: u64) -> TickDelta {
    TickDelta::from_ms(ms)
}

fn listener(options: &str) -> Listener {
    let snapshot = snapshot(&format!("addLocal('127.0.0.1:5300', {options})"));
    assert_eq!(snapshot.listeners.len(), 1);
    Listener::clone(&snapshot.listeners[0])
}

fn globals(text: &str) -> Globals {
    snapshot(text).globals
}

/// Checks invalid texts, each with the beginning of its one message.
fn refuses(cases: &[(&str, &str)]) {
    for (text, message) in cases {
        let errors = broken(text);
        assert_eq!(errors.len(), 1, "{text}: {errors:#?}");
        assert!(errors[0].starts_with(message), "{text}:\n{}\n{message}", errors[0]);
    }
}

#[test]
fn the_defaults_of_table_and_types_agree() {
    assert_eq!(globals("").client_connections, ClientConnectionLimits::default());
    assert_eq!(globals("").proxy, ProxyLimits::default());
    let text = "newServer('192.0.2.1')";
    assert_eq!(only(&snapshot(text)).connections, BackendConnectionOptions::default());
    assert_eq!(only(&snapshot(text)).client_address, ClientAddress::Hidden);
    let listener = listener("{}");
    assert_eq!(listener.connection_options, ConnectionOptions::default());
    assert_eq!((listener.service, listener.proxy), (Service::Dns, ProxyHeader::Inside));
}

#[test]
fn listener_options_are_read() {
    let options = "{doTCP=true, tcpFastOpenQueueSize=64, tcpListenQueueSize=512, maxInFlight=20, \
                   maxConcurrentTCPConnections=1000, reusePort=true, cpus={0, 1}, enableProxyProtocol=false}";
    let made = listener(options);
    let want = ConnectionOptions {
        backlog: 512,
        fast_open: 64,
        fast_open_key: None,
        in_flight: 20,
        connections: 1000,
    };
    assert_eq!(made.connection_options, want);
    assert_eq!((made.service, made.proxy), (Service::Dns, ProxyHeader::Ignored));
    assert_eq!(listener("{doTCP=false}").service, Service::DnsUdp);
    assert_eq!(listener("{maxInFlight=0}").connection_options.in_flight, 1);
    assert_eq!(
        listener("{tcpListenQueueSize=0}").connection_options.backlog,
        ConnectionOptions::default().backlog
    );
    // The form of dnsdist 1.2: doTCP, reusePort, tcpFastOpenQueueSize.
    assert_eq!(listener("false").service, Service::DnsUdp);
    assert_eq!(listener("true, false, 7").connection_options.fast_open, 7);
    refuses(&[
        ("addLocal('127.0.0.1', {doTCP=1})", "FILE:1: addLocal: doTCP is 1; expected true or false"),
        (
            "addLocal('127.0.0.1', {maxInFlight=-1})",
            "FILE:1: addLocal: maxInFlight is -1; expected a whole number from 0 to 65535",
        ),
        (
            "\naddLocal('127.0.0.1', {tcpFastOpenQueueSize='x'})",
            "FILE:2: addLocal: tcpFastOpenQueueSize is \"x\"; expected a whole number from 0 to 65535",
        ),
        (
            "setStrict(true) addLocal('127.0.0.1', {maxConcurentTCPConnections=1})",
            "FILE:1: addLocal: unknown option \"maxConcurentTCPConnections\"; did you mean",
        ),
        (
            "addLocal('127.0.0.1', {additionalAddresses={'127.0.0.2'}})",
            "FILE:1: addLocal: option \"additionalAddresses\" is not implemented yet; remove it",
        ),
    ]);
}

#[test]
fn connection_limits_are_read() {
    type Read = fn(ClientConnectionLimits) -> u64;
    let cases: [(&str, Read, u64); 19] = [
        ("setTCPRecvTimeout(3)", |l| l.receive_timeout.0, ms(3000).0),
        ("setTCPRecvTimeout('1m')", |l| l.receive_timeout.0, ms(60_000).0),
        ("setTCPRecvTimeoutMs(250)", |l| l.receive_timeout.0, ms(250).0),
        ("setTCPSendTimeout(4)", |l| l.send_timeout.0, ms(4000).0),
        ("setMaxTCPConnectionDuration(60)", |l| l.duration.0, ms(60_000).0),
        ("setMaxTCPQueriesPerConnection(100)", |l| l.queries.into(), 100),
        ("setMaxTCPConnections(5000)", |l| l.connections.into(), 5000),
        ("setMaxTCPConnectionsPerClient(5)", |l| l.connections_per_client.into(), 5),
        ("setMaxTCPConnectionRatePerClient(50)", |l| l.rate_per_client.into(), 50),
        ("setMaxTLSNewSessionRatePerClient(6)", |l| l.sessions_per_client.into(), 6),
        ("setMaxTLSResumedSessionRatePerClient(7)", |l| l.resumptions_per_client.into(), 7),
        ("setBanDurationForExceedingTCPTLSRate(8)", |l| l.rate_ban.0, ms(8000).0),
        ("setMaxTCPReadIOsPerQuery(9)", |l| l.reads_per_query.into(), 9),
        ("setBanDurationForExceedingMaxReadIOsPerQuery(0)", |l| l.reads_ban.0, 0),
        ("setTCPConnectionsOverloadThreshold(75)", |l| l.overload_percent.into(), 75),
        ("setTCPConnectionsOverloadThreshold(0)", |l| l.overload_percent.into(), 0),
        ("setTCPConnectionsMaskV4(24)", |l| l.mask_v4.into(), 24),
        ("setTCPConnectionsMaskV6(64)", |l| l.mask_v6.into(), 64),
        ("setTCPConnectionsMaskV4Port(6)", |l| l.mask_v4_port.into(), 6),
    ];
    for (text, read, want) in cases {
        assert_eq!(read(globals(text).client_connections), want, "{text}");
    }
    refuses(&[
        (
            "setTCPSendTimeout('soon')",
            "FILE:1: setTCPSendTimeout: \"soon\" is not allowed; expected a number",
        ),
        (
            "setMaxTCPConnectionsPerClient(-1)",
            "FILE:1: setMaxTCPConnectionsPerClient: -1 is not allowed; expected a whole number",
        ),
    ]);
}

#[test]
fn settings_without_counterpart_are_accepted() {
    let text = "setMaxTCPClientThreads(10)\nsetMaxTCPQueuedConnections(1000)\nsetTCPUseSinglePipe(true)\n\
                setTCPInternalPipeBufferSize(1048576)\nsetTCPDownstreamCleanupInterval(60)";
    assert_eq!(globals(text), globals(""));
}

#[test]
fn the_fast_open_key_reaches_every_listener() {
    let text = "setTCPFastOpenKey('00112233-44556677-8899aabb-ccddeeff')\naddLocal('127.0.0.1')";
    let key = snapshot(text).listeners[0].connection_options.fast_open_key.expect("a key");
    // Each number with its least significant byte first, as in the kernel.
    assert_eq!(key[..8], [0x33, 0x22, 0x11, 0x00, 0x77, 0x66, 0x55, 0x44]);
    let message = "FILE:1: setTCPFastOpenKey: \"secret\" is not allowed; expected four groups of eight";
    refuses(&[("setTCPFastOpenKey('secret')", message)]);
}

#[test]
fn connection_options_of_servers_are_read() {
    let made = server(
        "tcpOnly=true, tcpWhileSpoofed=true, tcpConnectTimeout=2, tcpSendTimeoutMs=300, tcpRecvTimeout=4, tcpFastOpen=true, retries=2, \
         maxInFlight=10, maxConcurrentTCPConnections=20",
    );
    let want = BackendConnectionOptions {
        only: true,
        while_spoofed: true,
        connect_timeout: ms(2000),
        send_timeout: ms(300),
        receive_timeout: ms(4000),
        in_flight: 10,
        tries: 2,
        fast_open: true,
        connections: 20,
        ..BackendConnectionOptions::default()
    };
    assert_eq!(made.connections, want);
    assert_eq!(made.health.probe, Probe::Tcp, "checked over TCP as well");
    assert_eq!(server("tcpOnly=true, checkTCP=false").health.probe, Probe::Udp);
    assert_eq!(server("maxInFlight=0").connections.in_flight, 1);
    assert_eq!((server("retries=0").connections.tries, server("retries=9").connections.tries), (1, 5));
    refuses(&[
        (
            "newServer{address='192.0.2.1', tcpOnly='yes'}",
            "FILE:1: newServer: tcpOnly is \"yes\"; expected true or false",
        ),
        (
            "newServer{address='192.0.2.1', tcpRecvTimeout=1, tcpRecvTimeoutMs=1}",
            "FILE:1: newServer: tcpRecvTimeout and tcpRecvTimeoutMs are both given; expected one of them",
        ),
        (
            "newServer{address='192.0.2.1', retries=-1}",
            "FILE:1: newServer: retries is -1; expected a whole number from 0 to 2147483647",
        ),
    ]);
}

#[test]
fn limits_of_idle_backend_connections_apply_to_all_servers() {
    let text =
        "newServer('192.0.2.1')\nsetTCPDownstreamMaxIdleTime(20)\nsetMaxCachedTCPConnectionsPerDownstream(3)";
    let lines = only(&snapshot(text)).connections.clone();
    assert_eq!((lines.idle, lines.kept), (ms(20_000), 3));
    let text = "newServer('192.0.2.1')\nsetMaxIdleTCPConnectionsPerDownstream(0)";
    assert_eq!(only(&snapshot(text)).connections.kept, 0);
}

#[test]
fn tcp_to_udp_is_set_per_pool() {
    let pools = snapshot("setTCPToUDP(true)\ngetPool('x')\ngetPool('y'):setTCPToUDP(true)").pools;
    let crossing: Vec<_> = pools.iter().map(|p| (p.name.as_str(), p.tcp_to_udp)).collect();
    assert_eq!(crossing, [("", true), ("x", false), ("y", true)]);
    let message = "FILE:1: setTCPToUDP: 1 is not allowed; expected true or false";
    refuses(&[("getPool('x'):setTCPToUDP(1)", message)]);
}

#[test]
fn zone_transfer_rules_are_read() {
    let text = "addXFRResponseAction(AllRule(), DropResponseAction(), {name='none'})\n\
                addXFRResponseAction(QTypeRule(DNSQType.AXFR), AllowResponseAction())\nmvXFRResponseRuleToTop()";
    let chains = snapshot(text).chains;
    let names: Vec<_> = chains.xfr.rules().iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["", "none"]);
    assert!(chains.response.is_empty());
    assert!(snapshot(&format!("{text}\nclearXFRResponseRules()")).chains.xfr.is_empty());
    let errors = broken("addXFRResponseAction(AllRule(), DropAction())");
    assert!(errors[0].starts_with("FILE:1: addXFRResponseAction:"), "{errors:?}");
}

#[test]
fn the_client_address_is_passed_in_one_way() {
    let proxy = |v1, advertise_tls| ClientAddress::Proxy { v1, advertise_tls };
    for (arguments, want) in [
        ("useProxyProtocol=true", proxy(false, false)),
        ("useProxyProtocol='v2', proxyProtocolAdvertiseTLS=true", proxy(false, true)),
        ("useProxyProtocol='v1', proxyProtocolAdvertiseTLS=true", proxy(true, false)),
        ("proxyProtocolAdvertiseTLS=true", ClientAddress::Hidden),
        ("useProxyProtocol=false", ClientAddress::Hidden),
        ("transparent=true", ClientAddress::Transparent),
    ] {
        assert_eq!(server(arguments).client_address, want, "{arguments}");
    }
    assert!(server("useProxyProtocol='v1'").connections.only, "version 1 needs a connection");
    refuses(&[
        (
            "newServer{address='192.0.2.1', useProxyProtocol='v3'}",
            "FILE:1: newServer: useProxyProtocol is \"v3\"; expected true, false, \"v1\" or \"v2\"",
        ),
        (
            "newServer{address='192.0.2.1', useProxyProtocol=true, transparent=true}",
            "FILE:1: newServer: useProxyProtocol and transparent are both given; expected one of them",
        ),
        (
            "newServer{address='192.0.2.1', source='192.0.2.9', transparent=true}",
            "FILE:1: newServer: transparent and a source address are both given; expected one of them",
        ),
    ]);
}

#[test]
fn proxy_headers_are_accepted_from_listed_peers() {
    let text = "setProxyProtocolACL({'192.0.2.0/24', '2001:db8::/32'})\nsetProxyProtocolMaximumPayloadSize(1024)\n\
                setProxyProtocolApplyACLToProxiedClients(true)";
    let proxy = globals(text).proxy;
    assert_eq!((proxy.peers.len(), proxy.acl_to_client, proxy.bytes_max), (2, true, 1024));
    let contains = |ip: &str| proxy.peers.contains(&mapped(ip.parse().expect("an address")));
    assert!(contains("192.0.2.77") && contains("2001:db8::1") && !contains("127.0.0.1"));
    refuses(&[
        (
            "setProxyProtocolACL({'192.0.2.0/33'})",
            "FILE:1: setProxyProtocolACL: \"192.0.2.0/33\" is not allowed; expected ADDRESS or ADDRESS/LENGTH",
        ),
        (
            "setProxyProtocolApplyACLToProxiedClients(1)",
            "FILE:1: setProxyProtocolApplyACLToProxiedClients: 1 is not allowed; expected true or false",
        ),
    ]);
}

#[test]
fn changed_limits_keep_the_listener_sockets() {
    let old = good("addLocal('127.0.0.1', {maxInFlight=5})\nsetTCPRecvTimeout(5)").1;
    let reload = |text: &str| {
        let (loaded, _) = good(text);
        let new = compile(&loaded.draft, &old.slots, 2).expect("good");
        (diff(&old.snapshot, &new.snapshot), new.snapshot.listeners[0].slot)
    };
    let (lines, slot) = reload("addLocal('127.0.0.1', {maxInFlight=6})\nsetTCPRecvTimeout(6)");
    assert_eq!(slot, old.snapshot.listeners[0].slot);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("listener 127.0.0.1:53 ") && lines[0].ends_with(" maxInFlight: 5 -> 6"));
    assert_eq!(lines[1], "setting setTCPRecvTimeout: 5s -> 6s");
    let (_, slot) = reload("addLocal('127.0.0.1', {tcpListenQueueSize=9, dscp=3, tcpFastOpenQueueSize=7})");
    assert_eq!(slot, old.snapshot.listeners[0].slot, "options are set on the same sockets");
    let (_, slot) = reload("addLocal('127.0.0.1', {doTCP=false})");
    assert_ne!(slot, old.snapshot.listeners[0].slot, "another service takes other sockets");
}
