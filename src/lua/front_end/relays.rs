//! `addTCPForward` and `addUDPForward`.

use std::net::{Ipv4Addr, SocketAddr};

use mlua::{Lua, Value};

use crate::base::time::TickDelta;
use crate::config::draft::DraftRelay;
use crate::config::error::{Fault, counted};
use crate::config::functions::needs::RELAY_NEEDS;
use crate::config::functions::{RELAY_ARGUMENTS, RELAY_POLICIES, TCP_RELAY_ARGUMENTS, UDP_RELAY_ARGUMENTS};
use crate::config::loops::{Machine, is_own};
use crate::config::value;
use crate::lua::front_end::argument::{named, parsed, span, switch, text, texts, whole, wrong};
use crate::lua::front_end::arguments::bytes;
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::needs;
use crate::lua::front_end::server::{client_address, proxy, relayd_exit, script};
use crate::lua::front_end::settings::{NETWORK, networks};
use crate::model::policy::{HashKey, Kind, Policy};
use crate::model::{ClientAddress, ConnectionOptions, Health, HealthMode, Probe, SendExpect};

/// Most targets of a relay.
const TARGETS_MAX: usize = 64;
/// The longest connect time-out and idle time-out, milliseconds.
const TIMEOUT_MS: f64 = 300_000.0;
const DAY_MS: f64 = 86_400_000.0;
/// Most concurrent connections or flows, and most pending connections.
const CONNECTIONS_MAX: u32 = 10_000_000;
const BACKLOG_MAX: u32 = 65_535;
/// Longest payload and expected answer of a check, bytes.
const CHECK_BYTES_MAX: usize = 4096;

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    for (name, tcp) in [("addTCPForward", true), ("addUDPForward", false)] {
        context.define(lua, name, move |call, a| {
            let wrong_before = call.draft.errors.len();
            let made = relay(call, tcp, a.at(0))?;
            // An invalid relay would only cause more errors.
            if call.draft.errors.len() == wrong_before {
                call.draft.relays.push(made);
            }
            Ok(Value::Nil)
        })?;
    }
    Ok(())
}

/// Arguments that require a check.
const OF_CHECKS: [&str; 6] =
    ["checkInterval", "checkIntervalMs", "checkTimeout", "rise", "maxCheckFailures", "closeWhenDown"];

/// Arguments that depend on others.
#[derive(Default)]
struct Parts {
    listen: bool,
    to: bool,
    policy: Option<&'static str>,
    key: Option<String>,
    v4: Option<u8>,
    v6: Option<u8>,
    check: Option<bool>,
    script: Option<Vec<String>>,
    send: Option<Vec<u8>>,
    expect: Option<Vec<u8>>,
    proxy: Option<crate::lua::front_end::server::ProxyVersion>,
    transparent: bool,
}

fn relay(call: &mut Call<'_>, tcp: bool, given: &Value) -> Result<DraftRelay, Fault> {
    let mut made = DraftRelay {
        origin: call.origin.clone(),
        tcp,
        listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        interface: None,
        reuse_port: false,
        freebind: false,
        to: Vec::new(),
        policy: Policy::new(Kind::FirstAvailable),
        acl: None,
        connection_options: ConnectionOptions::default(),
        connect_timeout: TickDelta::from_ms(3_000),
        greeting_timeout: TickDelta::default(),
        close_when_down: tcp,
        idle_timeout: TickDelta::from_ms(if tcp { 600_000 } else { 30_000 }),
        connections: if tcp { 100_000 } else { 65_536 },
        connections_per_client: 0,
        log: false,
        fast_open: false,
        source: None,
        client_address: ClientAddress::Hidden,
        health: Health::default(),
    };
    // A target needs no slow start: it has no cache to warm up.
    made.health.slow_start = TickDelta::default();
    made.health.interval = TickDelta::from_ms(5_000);
    let entries = named("the argument", given)?;
    let mut parts = Parts::default();
    for name in ["connectTimeout", "greetingTimeout", "idleTimeout", "checkInterval"] {
        let other = format!("{name}Ms");
        let has = |name: &str| entries.iter().any(|(n, _)| n == name);
        if has(name) && has(&other) {
            let wrong = format!("{name} and {other} are both given");
            call.fail(Fault::Conflict { wrong, expected: "one of them".to_owned() });
        }
    }
    for (name, v) in &entries {
        if let Err(fault) = apply(call, &mut made, &mut parts, name, v) {
            call.fail(fault);
        }
    }
    needs::check(call, &entries, RELAY_NEEDS.iter());
    for fault in join(&parts, &mut made) {
        call.fail(fault);
    }
    let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    without_effect(&names, &parts, &made).into_iter().for_each(|fault| call.warn(fault));
    Ok(made)
}

/// Reads one argument.
fn apply(
    call: &mut Call<'_>,
    made: &mut DraftRelay,
    parts: &mut Parts,
    name: &str,
    v: &Value,
) -> Result<(), Fault> {
    let small = |max: u8| whole(name, v, 0, max.into()).map(|n| u8::try_from(n).unwrap_or(max));
    // The tables know the arguments of each kind.
    let own = if made.tcp { TCP_RELAY_ARGUMENTS } else { UDP_RELAY_ARGUMENTS };
    if !RELAY_ARGUMENTS.iter().chain(own).any(|e| e.name == name) {
        let known = RELAY_ARGUMENTS.iter().chain(own).map(|e| e.name);
        call.unknown("argument", name, known);
        return Ok(());
    }
    if call.is_unset(name, v) {
        return Ok(());
    }
    let idle_min = if made.tcp { 0.0 } else { 100.0 };
    match name {
        "listen" => {
            parts.listen = true;
            made.listen = parsed(name, v, value::SERVICE_ADDRESS, value::service_address)?;
        }
        "to" => {
            parts.to = true;
            made.to = targets(name, v)?;
        }
        "policy" => parts.policy = Some(policy(name, v)?),
        "key" => parts.key = Some(text(name, v, KEYS)?),
        "v4" => parts.v4 = Some(small(32)?),
        "v6" => parts.v6 = Some(small(128)?),
        "acl" => {
            let list = texts(name, v, NETWORK)?;
            let acl = networks(call, list.iter().map(String::as_str))?;
            if acl.is_empty() {
                call.warn_empty_list(name, "nobody may use it");
            }
            made.acl = Some(acl);
        }
        "log" => made.log = switch(name, v)?,
        "reusePort" => made.reuse_port = switch(name, v)?,
        "freebind" => made.freebind = switch(name, v)?,
        "interface" => made.interface = Some(parsed(name, v, value::INTERFACE, value::interface)?),
        "source" => {
            made.source = Some(parsed(name, v, "an address", |t| t.parse().map_err(|_| "an address"))?);
        }
        "transparent" => parts.transparent = switch(name, v)?,
        "useProxyProtocol" => parts.proxy = proxy(name, v)?,
        "connectTimeout" => made.connect_timeout = span(name, v, 1000, 1.0, TIMEOUT_MS)?,
        "connectTimeoutMs" => made.connect_timeout = span(name, v, 1, 1.0, TIMEOUT_MS)?,
        "greetingTimeout" => made.greeting_timeout = span(name, v, 1000, 1.0, TIMEOUT_MS)?,
        "greetingTimeoutMs" => made.greeting_timeout = span(name, v, 1, 1.0, TIMEOUT_MS)?,
        "closeWhenDown" => made.close_when_down = switch(name, v)?,
        "idleTimeout" => made.idle_timeout = span(name, v, 1000, idle_min, DAY_MS)?,
        "idleTimeoutMs" => made.idle_timeout = span(name, v, 1, idle_min, DAY_MS)?,
        "maxConnections" => made.connections = whole(name, v, 0, CONNECTIONS_MAX)?,
        "maxFlows" => made.connections = whole(name, v, 1, CONNECTIONS_MAX)?,
        "maxConnectionsPerClient" | "maxFlowsPerClient" => {
            made.connections_per_client = whole(name, v, 0, CONNECTIONS_MAX)?;
        }
        "tcpListenQueueSize" => made.connection_options.backlog = whole(name, v, 1, BACKLOG_MAX)?,
        "tcpFastOpenQueueSize" => made.connection_options.fast_open = whole(name, v, 0, BACKLOG_MAX)?,
        "tcpFastOpen" => made.fast_open = switch(name, v)?,
        "check" => {
            const CHECKS: &str = "\"connect\" or \"none\"";
            parts.check = Some(match text(name, v, CHECKS)?.as_str() {
                "connect" => true,
                "none" => false,
                _ => return Err(wrong(name, v, CHECKS)),
            });
        }
        "checkScript" => parts.script = Some(script(name, v)?),
        "checkScriptExit" => made.health.relayd_exit = relayd_exit(name, v)?,
        "checkSend" => parts.send = Some(check_bytes(name, v)?),
        "checkExpect" => parts.expect = Some(check_bytes(name, v)?),
        "checkInterval" => made.health.interval = span(name, v, 1000, 10.0, DAY_MS)?,
        "checkIntervalMs" => made.health.interval = span(name, v, 1, 10.0, DAY_MS)?,
        "checkTimeout" => made.health.timeout = span(name, v, 1, 1.0, TIMEOUT_MS)?,
        "rise" => made.health.rise = whole(name, v, 1, 255)?,
        "maxCheckFailures" => made.health.fall = whole(name, v, 1, 255)?,
        // The tables and this match have the same names, as a test checks.
        _ => {}
    }
    Ok(())
}

/// Combines the arguments; returns all errors.
fn join(parts: &Parts, made: &mut DraftRelay) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !parts.listen {
        faults.push(Fault::value("listen", "missing", value::SERVICE_ADDRESS));
    }
    if !parts.to {
        faults.push(Fault::value("to", "missing", "the address of a target, or a list of them"));
    }
    match joined_policy(parts) {
        Ok(policy) => made.policy = policy,
        Err(fault) => faults.push(fault),
    }
    match client_address(parts.proxy, false, parts.transparent) {
        Ok(address) => made.client_address = address,
        Err(fault) => faults.push(fault),
    }
    if let Err(fault) = check(parts, made) {
        faults.push(fault);
    }
    if !made.tcp && matches!(made.client_address, ClientAddress::Proxy { v1: true, .. }) {
        faults.push(Fault::value("useProxyProtocol", "\"v1\"", "\"v2\": datagrams have no version 1"));
    }
    // Whether another address of the machine leads to it is told when all of them are read.
    let own = |to: &&SocketAddr| is_own(made.listen, made.interface.as_deref(), **to, &Machine::default());
    if let Some(own) = made.to.iter().find(own) {
        let expected = "another address than `listen`, or it would relay to itself";
        faults.push(Fault::value("to", format!("\"{own}\""), expected));
    }
    let other_family = |v4: bool| made.to.iter().any(|a| a.is_ipv4() != v4);
    if parts.transparent && other_family(made.listen.is_ipv4()) {
        let expected = "targets of the family of `listen`, which is that of the clients";
        faults.push(Fault::value("to", "of another family", expected));
    }
    if made.source.is_some_and(|ip| other_family(ip.is_ipv4())) {
        faults.push(Fault::value("source", "of another family than a target", "all IPv4 or all IPv6"));
    }
    if parts.transparent && made.source.is_some() {
        faults.push(Fault::Conflict {
            wrong: "transparent and a source address are both given".to_owned(),
            expected: "one of them".to_owned(),
        });
    }
    faults
}

const KEYS: &str = "\"client\" or \"clientPrefix\"";

fn joined_policy(parts: &Parts) -> Result<Policy, Fault> {
    let kind = match parts.policy {
        Some("roundrobin") => Kind::RoundRobin,
        Some("leastOutstanding") => Kind::LeastOutstanding,
        Some("sourceHash") => Kind::CHashed,
        _ => Kind::FirstAvailable,
    };
    let mut policy = Policy::new(kind);
    policy.hash_key = match parts.key.as_deref() {
        None | Some("client") => HashKey::Client,
        Some("clientPrefix") => HashKey::ClientPrefix(parts.v4.unwrap_or(24), parts.v6.unwrap_or(56)),
        Some(other) => return Err(Fault::value("key", format!("\"{other}\""), KEYS)),
    };
    Ok(policy)
}

/// Returns the warnings of arguments that have no effect as the others are.
fn without_effect(names: &[&str], parts: &Parts, made: &DraftRelay) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut add = |wrong: String, expected: &str| {
        faults.push(Fault::Conflict { wrong, expected: expected.to_owned() });
    };
    if parts.key.is_some() && made.policy.kind != Kind::CHashed {
        add("key is given, and the policy hashes nothing".to_owned(), "policy=\"sourceHash\"");
    }
    if made.policy.hash_key == HashKey::Client {
        for name in names.iter().filter(|name| ["v4", "v6"].contains(name)) {
            add(
                format!("{name} is given, and no prefix is hashed"),
                "policy=\"sourceHash\" and key=\"clientPrefix\" too, or neither",
            );
        }
    }
    if made.health.mode == HealthMode::Up {
        for name in names.iter().filter(|name| OF_CHECKS.contains(name)) {
            add(format!("{name} is given, and nothing is checked"), "a check too, or neither");
        }
    }
    faults
}

fn check(parts: &Parts, made: &mut DraftRelay) -> Result<(), Fault> {
    let talks = parts.send.is_some() || parts.expect.is_some();
    // By a connection, also where datagrams are relayed.
    let by_connection = made.tcp || parts.check == Some(true);
    let given =
        [parts.check == Some(false) || parts.check.is_some() && !talks, parts.script.is_some(), talks];
    if given.iter().filter(|g| **g).count() > 1 {
        return Err(Fault::Conflict {
            wrong: "more than one check is given".to_owned(),
            expected: "one of check, checkScript, and checkSend with checkExpect; check=\"connect\" may \
                       stand with the latter"
                .to_owned(),
        });
    }
    let health = &mut made.health;
    if let Some(words) = &parts.script {
        health.probe = Probe::Script(words.clone());
    } else if talks {
        let (send, expect) =
            (parts.send.clone().unwrap_or_default(), parts.expect.clone().unwrap_or_default());
        if expect.is_empty() || (!by_connection && send.is_empty()) {
            let (what, expected) = if expect.is_empty() {
                ("checkExpect", "what a good answer holds")
            } else {
                ("checkSend", "what makes a server answer")
            };
            return Err(Fault::value(what, "missing", expected));
        }
        health.probe = Probe::SendExpect(SendExpect { datagram: !by_connection, send, expect });
    } else if parts.check.unwrap_or(made.tcp) {
        health.probe = Probe::Connect;
    } else {
        health.probe = Probe::Connect;
        health.mode = HealthMode::Up;
    }
    Ok(())
}

fn targets(name: &str, v: &Value) -> Result<Vec<SocketAddr>, Fault> {
    let texts = texts(name, v, value::SERVICE_ADDRESS)?;
    if !(1..=TARGETS_MAX).contains(&texts.len()) {
        let expected = format!("1 to {TARGETS_MAX}");
        return Err(Fault::value(name, format!("a list of {}", counted(texts.len(), "target")), expected));
    }
    let mut list = Vec::with_capacity(texts.len());
    for text in &texts {
        let address =
            value::service_address(text).map_err(|e| Fault::value(name, format!("\"{text}\""), e))?;
        if list.contains(&address) {
            return Err(Fault::value(name, format!("\"{text}\" twice"), "each target once"));
        }
        list.push(address);
    }
    Ok(list)
}

fn policy(name: &str, v: &Value) -> Result<&'static str, Fault> {
    let expected = RELAY_POLICIES.map(|(name, _)| format!("\"{name}\"")).join(", ");
    let written = text(name, v, &format!("one of {expected}"))?;
    let known = RELAY_POLICIES.iter().find(|(name, _)| *name == written);
    known.map(|(name, _)| *name).ok_or_else(|| wrong(name, v, format!("one of {expected}")))
}

fn check_bytes(name: &str, v: &Value) -> Result<Vec<u8>, Fault> {
    let bytes = bytes(name, v)?;
    if bytes.is_empty() || bytes.len() > CHECK_BYTES_MAX {
        return Err(wrong(name, v, format!("a string of 1 to {CHECK_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}
