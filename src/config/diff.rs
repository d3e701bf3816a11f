//! The changes of a reload, line by line, for the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use crate::base::time::TickDelta;
use crate::config::chains::rule_name;
use crate::config::error::counted;
use crate::config::functions::policies::name as policy_name;
use crate::config::value::span_text;
use crate::model::policy::{HashKey, Policy};
use crate::model::{
    Backend, BackendConnectionOptions, ConnectionOptions, Health, Listener, Pool, Probe, RelaySettings,
    Service, Snapshot,
};
use crate::rules::names::Names;
use crate::rules::networks::Networks;
use crate::rules::text::Sets;
use crate::rules::{Chain, Rule, text};
use crate::stats::connection_limits::ClientConnectionLimits;
use crate::tls::date::Date;
use crate::tls::leaf::Leaf;

/// Lines per kind of object; of the rest, the number is logged.
const LINES_MAX: usize = 100;
/// Lines about rules, which may come in hundreds of thousands.
const RULE_LINES: usize = 20;
/// Characters shown of a value.
const VALUE_CHARS: usize = 200;

/// Returns the differences from `old` to `new`, a line each; empty when there are none.
#[must_use]
pub fn diff(old: &Snapshot, new: &Snapshot) -> Vec<String> {
    let mut lines = compare("listener", &listeners(old), &listeners(new), |a, b| {
        changes(&listener_fields(a), &listener_fields(b))
    });
    lines.extend(compare("server", &servers(old), &servers(new), |a, b| changes(&fields(a), &fields(b))));
    lines.extend(compare("pool", &pools(old), &pools(new), |a, b| {
        changes(&pool_fields(a, old), &pool_fields(b, new))
    }));
    if old.acl != new.acl {
        lines.push(format!("acl changed: {} -> {} ranges", old.acl.len(), new.acl.len()));
    } else if old.shown.acl != new.shown.acl {
        lines.push("acl is written otherwise, and the same".to_owned());
    }
    lines.extend(rules(old, new));
    let globals = changes(&global_fields(old), &global_fields(new));
    lines.extend(globals.into_iter().map(|change| format!("setting {change}")));
    lines
}

/// Returns which rules were added, removed or changed, by name, or by UUID where they have none.
fn rules(old: &Snapshot, new: &Snapshot) -> Vec<String> {
    let (a, b) = (&old.chains, &new.chains);
    let mut all = Vec::new();
    chain(&mut all, "rule", &a.query, &b.query, text::action);
    chain(&mut all, "cache-miss rule", &a.cache_miss, &b.cache_miss, text::action);
    chain(&mut all, "response rule", &a.response, &b.response, text::response_action);
    chain(&mut all, "cache-hit rule", &a.cache_hit, &b.cache_hit, text::response_action);
    chain(&mut all, "cache-inserted rule", &a.cache_inserted, &b.cache_inserted, text::response_action);
    chain(&mut all, "self-answered rule", &a.self_answered, &b.self_answered, text::response_action);
    chain(&mut all, "time-out rule", &a.timeout, &b.timeout, text::response_action);
    chain(&mut all, "zone transfer rule", &a.xfr, &b.xfr, text::response_action);
    shortened(all, RULE_LINES, "rule")
}

/// Keeps at most `max` lines, and adds how many more there were.
fn shortened(mut lines: Vec<String>, max: usize, thing: &str) -> Vec<String> {
    if let Some(more) = lines.len().checked_sub(max).filter(|more| *more > 0) {
        lines.truncate(max);
        lines.push(format!("{} added, removed or changed", counted(more, &format!("more {thing}"))));
    }
    lines
}

/// Returns for how many changes a line of [`diff`] stands.
#[must_use]
pub fn stands_for(line: &str) -> usize {
    let more = line.split_once(" more ").and_then(|(number, _)| number.parse().ok());
    more.unwrap_or(1)
}

/// Sets are not compared: their contents are in files of their own.
struct Unopened;

impl Sets for Unopened {
    fn names(&self, _: &Names) -> String {
        "names".to_owned()
    }

    fn networks(&self, _: &Networks) -> String {
        "networks".to_owned()
    }
}

fn chain<A>(
    lines: &mut Vec<String>,
    what: &str,
    old: &Chain<A>,
    new: &Chain<A>,
    action_text: impl Fn(&A) -> String,
) {
    let by_uuid =
        |chain: &'_ Chain<A>| -> BTreeSet<[u8; 16]> { chain.rules().iter().map(|r| r.uuid).collect() };
    let (before, after) = (by_uuid(old), by_uuid(new));
    let gone: Vec<&Rule<A>> = old.rules().iter().filter(|r| !after.contains(&r.uuid)).collect();
    let come: Vec<&Rule<A>> = new.rules().iter().filter(|r| !before.contains(&r.uuid)).collect();
    // The names whose rules have changed.
    let names = |rules: &[&Rule<A>]| -> BTreeSet<String> {
        rules.iter().filter(|r| !r.name.is_empty()).map(|r| r.name.clone()).collect()
    };
    let (gone_names, come_names) = (names(&gone), names(&come));
    for rule in gone.iter().filter(|r| !come_names.contains(&r.name)) {
        lines.push(format!("{what} {} removed", rule_name(rule)));
    }
    for rule in &come {
        let change = if gone_names.contains(&rule.name) { "changed" } else { "added" };
        lines.push(format!("{what} {} {change}", rule_name(rule)));
    }
    let text = |r: &Rule<A>| (text::matcher(&r.matcher, &Unopened), action_text(&r.action), r.name.clone());
    let texts: BTreeMap<[u8; 16], _> = old.rules().iter().map(|r| (r.uuid, text(r))).collect();
    for rule in new.rules() {
        if texts.get(&rule.uuid).is_some_and(|before| *before != text(rule)) {
            lines.push(format!("{what} {} changed", rule_name(rule)));
        }
    }
    let kept = |chain: &Chain<A>, others: &BTreeSet<[u8; 16]>| -> Vec<[u8; 16]> {
        chain.rules().iter().map(|r| r.uuid).filter(|uuid| others.contains(uuid)).collect()
    };
    if kept(old, &after) != kept(new, &before) {
        lines.push(format!("order of {what}s changed"));
    }
}

fn compare<T>(
    what: &str,
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    changed: impl Fn(&T, &T) -> Vec<String>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for name in old.keys().filter(|n| !new.contains_key(*n)) {
        lines.push(format!("{what} {name} removed"));
    }
    for (name, b) in new {
        match old.get(name) {
            None => lines.push(format!("{what} {name} added")),
            Some(a) => lines.extend(changed(a, b).into_iter().map(|c| format!("{what} {name} {c}"))),
        }
    }
    shortened(lines, LINES_MAX, what)
}

/// A field's name and its value as text.
type Fields = Vec<(&'static str, String)>;

fn changes(old: &Fields, new: &Fields) -> Vec<String> {
    let changed = old.iter().zip(new).filter(|(a, b)| a.1 != b.1);
    changed.map(|((name, a), (_, b))| format!("{name}: {} -> {}", cut(a), cut(b))).collect()
}

/// Returns a value, or its beginning: a pool may have thousands of servers.
fn cut(value: &str) -> String {
    match value.char_indices().nth(VALUE_CHARS) {
        Some((at, _)) => format!("{}... ({} bytes)", &value[..at], value.len()),
        None => value.to_owned(),
    }
}

fn listeners(snapshot: &Snapshot) -> BTreeMap<String, &Arc<Listener>> {
    let name = |l: &Listener| {
        let mut name = l.address.to_string();
        match &l.service {
            Service::Dns | Service::DnsUdp => {}
            Service::Dot(_) => name += " over TLS",
            Service::TcpRelay(_) => name += "/tcp",
            Service::UdpRelay(_) => name += "/udp",
        }
        if let Some(interface) = &l.interface {
            name += &format!(" on {interface}");
        }
        if l.dscp != 0 {
            name += &format!(" dscp {}", l.dscp);
        }
        if l.sockets.receive_buffer != 0 || l.sockets.send_buffer != 0 {
            name += &format!(" buffers {}/{}", l.sockets.receive_buffer, l.sockets.send_buffer);
        }
        name
    };
    snapshot.listeners.iter().map(|l| (name(l), l)).collect()
}

/// Returns what can change while the sockets stay; anything else makes another listener.
fn listener_fields(l: &Listener) -> Fields {
    let ConnectionOptions { backlog, fast_open, fast_open_key: _, in_flight, connections } =
        l.connection_options;
    let mut fields = vec![
        ("service", service_name(&l.service).to_owned()),
        ("tcpListenQueueSize", backlog.to_string()),
        ("tcpFastOpenQueueSize", fast_open.to_string()),
        ("maxInFlight", in_flight.to_string()),
        ("maxConcurrentTCPConnections", connections.to_string()),
        ("PROXY header", shown(l.proxy).to_lowercase()),
    ];
    if let Some(tls) = l.service.tls() {
        fields.push(("certificates", certificates(&tls.certificates())));
    }
    if let Some(relay) = l.service.relay() {
        // Its targets are reported as servers, and their policy as that of a pool.
        let RelaySettings {
            pool: _,
            acl,
            connect_timeout,
            greeting_timeout,
            close_when_down,
            idle_timeout,
            connections,
            connections_per_client,
            log,
        } = &**relay;
        fields.extend([
            ("acl", format!("{} ranges", acl.len())),
            ("connectTimeout", span_text(*connect_timeout)),
            ("greetingTimeout", span_text(*greeting_timeout)),
            ("closeWhenDown", close_when_down.to_string()),
            ("idleTimeout", span_text(*idle_timeout)),
            ("connections", connections.to_string()),
            ("connections per client", connections_per_client.to_string()),
            ("log", log.to_string()),
        ]);
    }
    fields
}

/// Returns what distinguishes a certificate from its predecessor in the same file.
fn certificates(leaves: &[Leaf]) -> String {
    let shown = leaves.iter().map(|leaf| {
        let serial: String = leaf.serial.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{} (serial {serial}, ends on {})", leaf.display_name(), Date(leaf.not_after))
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn service_name(service: &Service) -> &'static str {
    match service {
        Service::Dns => "DNS over UDP and TCP",
        Service::DnsUdp => "DNS over UDP",
        Service::Dot(_) => "DNS over TLS",
        Service::TcpRelay(_) => "TCP relay",
        Service::UdpRelay(_) => "UDP relay",
    }
}

fn servers(snapshot: &Snapshot) -> BTreeMap<String, &Arc<Backend>> {
    snapshot.backends.iter().flatten().map(|b| (b.id.clone(), b)).collect()
}

fn pools(snapshot: &Snapshot) -> BTreeMap<String, &Pool> {
    // Behind the default pool, a slot without a name has no pool.
    let default = snapshot.pools.iter().take(1);
    let others = snapshot.pools.iter().skip(1).filter(|p| !p.name.is_empty());
    default.chain(others).map(|p| (format!("\"{}\"", p.name), p)).collect()
}

fn shown(value: impl Debug) -> String {
    format!("{value:?}")
}

fn option(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), |v| v.to_string())
}

fn fields(b: &Backend) -> Fields {
    // Destructured, so that a new field cannot be forgotten.
    let Backend {
        slot: _,
        id: _,
        name,
        address,
        order,
        weight,
        qps,
        timeout,
        sockets,
        outstanding_max,
        outstanding_soft_max,
        source,
        source_interface,
        dscp,
        socket_options,
        health,
        use_client_subnet,
        tee: _,
        target: _,
        connections,
        client_address,
    } = b;
    let mut fields = vec![
        ("name", name.clone()),
        ("address", address.to_string()),
        ("order", order.to_string()),
        ("weight", weight.to_string()),
        ("qps", qps.to_string()),
        ("udpTimeout", span_text(*timeout)),
        ("sockets", sockets.to_string()),
        ("maxOutstanding", outstanding_max.to_string()),
        ("maxOutstandingQueries", outstanding_soft_max.to_string()),
        ("source", option(*source)),
        ("interface", option(source_interface.clone())),
        ("dscp", dscp.to_string()),
        ("buffers", format!("{}/{}", socket_options.receive_buffer, socket_options.send_buffer)),
        ("useClientSubnet", use_client_subnet.to_string()),
    ];
    fields.extend(backend_connection_fields(connections));
    fields.push(("client's address", shown(client_address).to_lowercase()));
    fields.extend(health_fields(health));
    fields
}

fn backend_connection_fields(lines: &BackendConnectionOptions) -> Fields {
    let BackendConnectionOptions {
        only,
        while_spoofed,
        connect_timeout,
        send_timeout,
        receive_timeout,
        in_flight,
        tries,
        fast_open,
        connections,
        kept,
        idle,
        tls,
    } = lines;
    vec![
        ("tcpOnly", only.to_string()),
        ("tcpWhileSpoofed", while_spoofed.to_string()),
        ("tcpConnectTimeout", span_text(*connect_timeout)),
        ("tcpSendTimeout", span_text(*send_timeout)),
        ("tcpRecvTimeout", span_text(*receive_timeout)),
        ("maxInFlight", in_flight.to_string()),
        ("retries", tries.to_string()),
        ("tcpFastOpen", fast_open.to_string()),
        ("maxConcurrentTCPConnections", connections.to_string()),
        ("idle connections", kept.to_string()),
        ("idle time", span_text(*idle)),
        ("tls", option(tls.as_ref().map(|tls| shown(&tls.spec)))),
    ]
}

fn health_fields(h: &Health) -> Fields {
    // The indices of Lua functions are meaningless; whether there is one is not.
    let Health {
        mode,
        probe,
        qname,
        qtype,
        qclass,
        set_cd,
        must_resolve,
        relayd_exit,
        interval,
        timeout,
        rise,
        fall,
        choose,
        judge,
        slow_start,
        lazy,
    } = h;
    let probe = match probe {
        Probe::Udp => "dns".to_owned(),
        Probe::Tcp => "dns over TCP".to_owned(),
        Probe::Tls => "dns over TLS".to_owned(),
        Probe::Connect => "connect".to_owned(),
        Probe::SendExpect(talk) => format!(
            "{}send \"{}\", expect \"{}\"",
            if talk.datagram { "over UDP " } else { "" },
            talk.send.escape_ascii(),
            talk.expect.escape_ascii()
        ),
        Probe::Script(words) if *relayd_exit => format!("{} (relayd)", words.join(" ")),
        Probe::Script(words) => words.join(" "),
    };
    vec![
        ("healthCheckMode", shown(mode).to_lowercase()),
        ("check", probe),
        ("checkName", qname.clone()),
        ("checkType", qtype.to_string()),
        ("checkClass", qclass.to_string()),
        ("setCD", set_cd.to_string()),
        ("mustResolve", must_resolve.to_string()),
        ("checkInterval", span_text(*interval)),
        ("checkTimeout", span_text(*timeout)),
        ("rise", rise.to_string()),
        ("maxCheckFailures", fall.to_string()),
        ("checkFunction", choose.is_some().to_string()),
        ("checkResponseFunction", judge.is_some().to_string()),
        ("slowStart", span_text(*slow_start)),
        ("lazyHealthCheckThreshold", lazy.threshold_percent.to_string()),
        ("lazyHealthCheckSampleSize", lazy.sample.to_string()),
        ("lazyHealthCheckMinSampleCount", lazy.sample_min.to_string()),
        ("lazyHealthCheckFailedInterval", span_text(lazy.failed_interval)),
        ("lazyHealthCheckMaxBackOff", option(lazy.backoff_max.map(span_text))),
        (
            "lazyHealthCheckMode",
            if lazy.servfail_counts { "TimeoutOrServFail" } else { "TimeoutOnly" }.to_owned(),
        ),
    ]
}

fn pool_fields(pool: &Pool, of: &Snapshot) -> Fields {
    let Pool {
        name: _,
        members,
        policy,
        ring: _,
        retry,
        panic_ppm,
        eject,
        tcp_to_udp,
        cache,
        cache_number: _,
        sends_subnet: _,
        zero_scope,
    } = pool;
    let percent = |ppm: u32| format!("{} %", f64::from(ppm) / 10_000.0);
    let span = |s: TickDelta| span_text(s);
    let ids: Vec<&str> = members.iter().filter_map(|s| of.backend(*s)).map(|b| b.id.as_str()).collect();
    vec![
        ("servers", ids.join(", ")),
        ("policy", policy_text(policy)),
        (
            "retry",
            option(retry.map(|r| format!("after {}, budget {}", span(r.after), percent(r.budget_ppm)))),
        ),
        ("panic threshold", percent(*panic_ppm)),
        ("tcpToUdp", tcp_to_udp.to_string()),
        ("disableZeroScope", (!zero_scope).to_string()),
        ("packet cache", option(cache.as_ref().map(|cache| cache.options().to_string()))),
        (
            "ejection",
            option(eject.map(|e| {
                format!(
                    "excess {}, for {}, share {}, from {} queries",
                    percent(e.excess_ppm),
                    span(e.span),
                    percent(e.share_max_ppm),
                    e.queries_min
                )
            })),
        ),
    ]
}

/// Formats a policy as it would be written.
fn policy_text(policy: &Policy) -> String {
    let mut text = policy_name(policy.kind).to_owned();
    if policy.concentrate != crate::model::policy::Concentrate::default() {
        text += &shown(&policy.concentrate).replace("Concentrate ", "");
    }
    text = match policy.hash_key {
        HashKey::QName => text,
        HashKey::Zone(labels) => format!("hashBy({text}, \"zone\", {{labels={labels}}})"),
        HashKey::Client => format!("hashBy({text}, \"client\")"),
        HashKey::ClientPrefix(v4, v6) => format!("hashBy({text}, \"clientPrefix\", {{v4={v4}, v6={v6}}})"),
    };
    if let Some(factor) = policy.bounded {
        text = format!("bounded({text}, {factor})");
    }
    if policy.ordered {
        text = format!("ordered({text})");
    }
    if policy.seed != 0 {
        text += &format!(" perturbed by {}", policy.seed);
    }
    text
}

fn global_fields(snapshot: &Snapshot) -> Fields {
    let g = &snapshot.globals;
    let mut fields = vec![
        ("setServFailWhenNoServer", g.servfail_when_no_server.to_string()),
        ("setRoundRobinFailOnNoServer", g.round_robin_fail_on_no_server.to_string()),
        ("setAllowEmptyResponse", g.allow_empty_response.to_string()),
        ("setDropEmptyQueries", g.drop_empty_queries.to_string()),
        ("setMaxRepeatedQueries", g.repeats_max.to_string()),
        ("setPayloadSizeOnSelfGeneratedAnswers", g.self_answer_payload.to_string()),
        ("setAddEDNSToSelfGeneratedResponses", g.self_answer_edns.to_string()),
        ("truncateTC", g.truncate_tc.to_string()),
        ("fixupCase", g.fixup_case.to_string()),
        ("setLuaErrorAction", if g.lua_errors_fail { "servfail" } else { "ignore" }.to_owned()),
        ("setECSOverride", g.ecs_override.to_string()),
        ("setStaleCacheEntriesTTL", g.stale_cache_seconds.to_string()),
        ("setCacheCleaningDelay", g.cache_cleaning.every_seconds.to_string()),
        ("setCacheCleaningPercentage", g.cache_cleaning.percent.to_string()),
        ("setECSSourcePrefixV4", g.ecs_v4.to_string()),
        ("setECSSourcePrefixV6", g.ecs_v6.to_string()),
    ];
    fields.extend(connection_fields(&g.client_connections));
    fields.extend([
        ("setProxyProtocolACL", format!("{} ranges", g.proxy.peers.len())),
        ("setProxyProtocolApplyACLToProxiedClients", g.proxy.acl_to_client.to_string()),
        ("setProxyProtocolMaximumPayloadSize", g.proxy.bytes_max.to_string()),
    ]);
    fields
}

fn connection_fields(limits: &ClientConnectionLimits) -> Fields {
    let ClientConnectionLimits {
        receive_timeout,
        send_timeout,
        duration,
        queries,
        connections,
        connections_per_client,
        rate_per_client,
        sessions_per_client,
        resumptions_per_client,
        rate_ban,
        reads_per_query,
        reads_ban,
        overload_percent,
        mask_v4,
        mask_v6,
        mask_v4_port,
    } = limits;
    vec![
        ("setTCPRecvTimeout", span_text(*receive_timeout)),
        ("setTCPSendTimeout", span_text(*send_timeout)),
        ("setMaxTCPConnectionDuration", span_text(*duration)),
        ("setMaxTCPQueriesPerConnection", queries.to_string()),
        ("setMaxTCPConnections", connections.to_string()),
        ("setMaxTCPConnectionsPerClient", connections_per_client.to_string()),
        ("setMaxTCPConnectionRatePerClient", rate_per_client.to_string()),
        ("setMaxTLSNewSessionRatePerClient", sessions_per_client.to_string()),
        ("setMaxTLSResumedSessionRatePerClient", resumptions_per_client.to_string()),
        ("setBanDurationForExceedingTCPTLSRate", span_text(*rate_ban)),
        ("setMaxTCPReadIOsPerQuery", reads_per_query.to_string()),
        ("setBanDurationForExceedingMaxReadIOsPerQuery", span_text(*reads_ban)),
        ("setTCPConnectionsOverloadThreshold", overload_percent.to_string()),
        ("setTCPConnectionsMaskV4", mask_v4.to_string()),
        ("setTCPConnectionsMaskV6", mask_v6.to_string()),
        ("setTCPConnectionsMaskV4Port", mask_v4_port.to_string()),
    ]
}
