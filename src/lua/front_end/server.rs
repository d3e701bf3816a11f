//! `newServer`, `rmServer`, `getServer`.

use std::net::{Ipv4Addr, SocketAddr};

use mlua::{Lua, Value};

use crate::base::time::TickDelta;
use crate::config::draft::{Draft, DraftServer};
use crate::config::error::Fault;
use crate::config::functions::enumerations;
use crate::config::functions::needs::{Need, SERVER_NEEDS};
use crate::config::functions::{SERVER_ARGUMENTS, SERVER_ARGUMENTS_MISSING, SERVER_TLS_ARGUMENTS};
use crate::config::value;
use crate::lua::front_end::argument::{
    function, named, number, parsed, shown, span, switch, text, texts, whole, wrong,
};
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::server_object::{Server, object};
use crate::lua::front_end::{missing, nearest, needs, tls, values};
use crate::model::{ClientAddress, HealthMode, Probe};

/// Largest order, weight and the like (dnsdist's own limit).
pub(crate) const WEIGHT_MAX: u32 = i32::MAX as u32;
/// A day, the longest span of any server setting, milliseconds.
const DAY_MS: f64 = 86_400_000.0;
/// Most servers to try.
const SERVERS_TO_TRY_MAX: u32 = 5;
/// The longest time-out, milliseconds.
const TIMEOUT_MS: f64 = 300_000.0;

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    let own = context.clone();
    context.define(lua, "newServer", move |call, a| {
        let server = new_server(call, a.at(0));
        let at = call.draft.add_server(server);
        object(call, &own, at)
    })?;
    context.define(lua, "rmServer", |call, a| {
        match find(call.draft, a.at(0))? {
            Some(at) => call.draft.remove_server(at),
            None => return Err(a.wrong(0, "a server, its number, id or name")),
        }
        Ok(Value::Nil)
    })?;
    let own = context.clone();
    context.define(lua, "getServer", move |call, a| match find(call.draft, a.at(0))? {
        Some(at) => object(call, &own, at),
        None => Ok(Value::Nil),
    })?;
    let own = context.clone();
    context.define(lua, "getServers", move |call, _| {
        let list = call.lua.create_table()?;
        for at in call.draft.servers_in_order().to_vec() {
            list.raw_push(object(call, &own, at)?)?;
        }
        Ok(Value::Table(list))
    })?;
    context.define(lua, "setHealthCheckResponseValidator", |call, a| {
        let judge = function("", a.at(0))?;
        call.draft.judge = Some(call.keep(judge)?);
        Ok(Value::Nil)
    })
}

/// Returns the indexes of the servers that were not removed.
pub(crate) fn standing(draft: &Draft) -> impl Iterator<Item = usize> + '_ {
    draft.servers.iter().enumerate().filter(|(_, s)| !s.removed).map(|(at, _)| at)
}

/// Returns the index of a server by object, number (as `showServers()` shows it), id or name.
fn find(draft: &mut Draft, value: &Value) -> Result<Option<usize>, Fault> {
    Ok(match value {
        Value::UserData(u) => match u.borrow::<Server>() {
            Ok(server) => Some(server.at(draft)?),
            Err(_) => None,
        },
        Value::String(s) => draft.server_called(&s.to_string_lossy()),
        _ => {
            let number = whole("", value, 0, u32::from(u16::MAX)).ok();
            number.and_then(|number| draft.servers_in_order().get(number as usize).copied())
        }
    })
}

/// Reads the arguments of `newServer`. Every invalid one is recorded; without a valid address the
/// server is a placeholder, so that the rest of the file can be checked.
fn new_server(call: &mut Call<'_>, given: &Value) -> DraftServer {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let mut server = DraftServer::new(call.origin.clone(), nowhere);
    server.removed = true;
    let entries = if given.is_string() {
        vec![("address".to_owned(), given.clone())]
    } else {
        match named("the argument", given) {
            Ok(entries) => entries,
            Err(fault) => {
                call.fail(fault);
                return server;
            }
        }
    };
    let has = |name: &str| entries.iter().any(|(n, _)| n == name);
    for (one, other) in [
        ("udpTimeout", "udpTimeoutMs"),
        ("checkInterval", "checkIntervalMs"),
        ("check", "checkScript"),
        ("tcpConnectTimeout", "tcpConnectTimeoutMs"),
        ("tcpSendTimeout", "tcpSendTimeoutMs"),
        ("tcpRecvTimeout", "tcpRecvTimeoutMs"),
    ] {
        if has(one) && has(other) {
            let wrong = format!("{one} and {other} are both given");
            call.fail(Fault::Conflict { wrong, expected: "one of them".to_owned() });
        }
    }
    if !has("address") {
        call.fail(Fault::value("address", "missing", value::ADDRESS));
    }
    let mut parts = Parts {
        backoff: false,
        backoff_max: TickDelta::from_ms(3_600_000),
        check_tcp: None,
        proxy: None,
        advertise_tls: false,
        transparent: false,
        left_out: false,
        tls: tls::ServerArguments::default(),
        dot_address: nowhere,
    };
    for (name, v) in &entries {
        if let Err(fault) = apply(call, &mut server, &mut parts, name, v) {
            call.fail(fault);
        }
    }
    if let Err(fault) = parts.join(call, &mut server) {
        call.fail(fault);
    }
    let is_by_mode = |need: &&Need| need.other == "healthCheckMode";
    needs::check(call, &entries, SERVER_NEEDS.iter().filter(|need| !is_by_mode(need)));
    // A mode that a method sets later can be left again, on the console too.
    let mode = server.mode_name();
    let concerns = |need: &&Need| need.wanted || !need.is_met(Some(mode));
    for need in SERVER_NEEDS.iter().filter(is_by_mode).filter(concerns) {
        server.by_mode.extend(needs::concerned(&entries, need).map(|name| (name.to_owned(), need)));
    }
    if server.health.lazy.sample_min > server.health.lazy.sample {
        call.fail(Fault::Conflict {
            wrong: "lazyHealthCheckMinSampleCount is above lazyHealthCheckSampleSize".to_owned(),
            expected: "a sample that can be reached".to_owned(),
        });
    }
    server.removed = server.address == nowhere || parts.left_out;
    server
}

/// Arguments that depend on others.
struct Parts {
    backoff: bool,
    backoff_max: TickDelta,
    check_tcp: Option<bool>,
    proxy: Option<ProxyVersion>,
    advertise_tls: bool,
    transparent: bool,
    /// dnsdist makes no such server.
    left_out: bool,
    tls: tls::ServerArguments,
    /// The address with the default port of DNS over TLS.
    dot_address: SocketAddr,
}

impl Parts {
    /// Combines the arguments.
    fn join(&self, call: &mut Call<'_>, server: &mut DraftServer) -> Result<(), Fault> {
        if self.tls.is_on() {
            server.address = self.dot_address;
        }
        server.connections.tls = self.tls.load(call, server.address.ip())?;
        server.connections.only |= server.connections.tls.is_some();
        if self.backoff {
            server.health.lazy.backoff_max = Some(self.backoff_max);
        }
        server.client_address = client_address(self.proxy, self.advertise_tls, self.transparent)?;
        // A datagram cannot carry version 1.
        server.connections.only |= self.proxy == Some(ProxyVersion::One);
        // Checked over the transport of queries by default.
        if server.connections.only && server.health.probe == Probe::Udp && self.check_tcp.is_none() {
            server.health.probe = Probe::Tcp;
        }
        if server.connections.tls.is_some() && matches!(server.health.probe, Probe::Udp | Probe::Tcp) {
            server.health.probe = Probe::Tls;
        }
        if self.transparent && server.source.is_some() {
            return Err(Fault::Conflict {
                wrong: "transparent and a source address are both given".to_owned(),
                expected: "one of them".to_owned(),
            });
        }
        Ok(())
    }
}

/// The versions of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyVersion {
    One,
    Two,
}

/// Reads whether a PROXY header is sent, and which.
pub(crate) fn proxy(name: &str, v: &Value) -> Result<Option<ProxyVersion>, Fault> {
    const VERSION: &str = "true, false, \"v1\" or \"v2\"";
    if let Some(on) = v.as_boolean() {
        return Ok(on.then_some(ProxyVersion::Two));
    }
    match text(name, v, VERSION)?.as_str() {
        "v1" => Ok(Some(ProxyVersion::One)),
        "v2" => Ok(Some(ProxyVersion::Two)),
        _ => Err(wrong(name, v, VERSION)),
    }
}

/// Returns how the client's address is passed on.
pub(crate) fn client_address(
    proxy: Option<ProxyVersion>,
    advertise_tls: bool,
    transparent: bool,
) -> Result<ClientAddress, Fault> {
    match (proxy, transparent) {
        (Some(_), true) => Err(Fault::Conflict {
            wrong: "useProxyProtocol and transparent are both given".to_owned(),
            expected: "one of them".to_owned(),
        }),
        (Some(version), false) => {
            // Version 1 has no TLVs.
            let v1 = version == ProxyVersion::One;
            Ok(ClientAddress::Proxy { v1, advertise_tls: advertise_tls && !v1 })
        }
        (None, true) => Ok(ClientAddress::Transparent),
        (None, false) => Ok(ClientAddress::Hidden),
    }
}

/// Reads one argument.
fn apply(
    call: &mut Call<'_>,
    server: &mut DraftServer,
    parts: &mut Parts,
    name: &str,
    v: &Value,
) -> Result<(), Fault> {
    if call.is_unset(name, v) {
        return Ok(());
    }
    // The ranges given to `whole` bound these.
    let health = &mut server.health;
    match name {
        "address" => {
            server.address = parsed(name, v, value::ADDRESS, value::address)?;
            parts.dot_address = parsed(name, v, value::ADDRESS, tls::address)?;
        }
        "id" => server.id = Some(label(name, v, "an identifier, not empty")?).filter(|id| !id.is_empty()),
        "name" => server.name = Some(label(name, v, "a name")?),
        "pool" => {
            server.pools = values::pools(name, v)?.into_iter().collect();
        }
        "order" => server.order = nearest::signed(call, name, v)?,
        // As in dnsdist, which says so and makes no server.
        "weight" if number(v).is_some_and(|n| n < 1.0) => {
            call.warn(Fault::Note(format!("weight is {}: the server is left out", shown(v))));
            parts.left_out = true;
        }
        "weight" => server.weight = nearest::whole(call, name, v, 1, WEIGHT_MAX)?,
        "qps" => server.qps = nearest::whole(call, name, v, 0, WEIGHT_MAX)?,
        "udpTimeout" => server.timeout = Some(nearest::span(call, name, v, 1000, (1.0, TIMEOUT_MS), 1000.0)?),
        "udpTimeoutMs" => server.timeout = Some(nearest::span(call, name, v, 1, (1.0, TIMEOUT_MS), 1000.0)?),
        "sockets" => server.sockets = Some(nearest::byte(call, name, v, 1, 255)?),
        "source" => {
            let (address, interface) = parsed(name, v, value::SOURCE, value::source)?;
            server.source = address;
            server.source_interface = interface.or_else(|| server.source_interface.take());
        }
        "interface" => server.source_interface = Some(parsed(name, v, value::INTERFACE, value::interface)?),
        "dscp" => server.dscp = u8::try_from(whole(name, v, 0, 63)?).unwrap_or(0),
        "maxOutstandingQueries" => {
            server.outstanding_soft_max = nearest::whole(call, name, v, 0, WEIGHT_MAX)?;
        }
        "maxOutstanding" => server.outstanding_max = Some(whole(name, v, 1, 65535)?),
        "healthCheckMode" if nearest::is_empty_text(v) => {
            call.warn_empty_text(name, "it is taken as \"auto\"");
            health.mode = HealthMode::Auto;
        }
        "healthCheckMode" => health.mode = mode(name, v)?,
        "check" => {
            health.probe = match text(name, v, CHECKS)?.as_str() {
                "dns" => Probe::Udp,
                "connect" => Probe::Connect,
                _ => return Err(wrong(name, v, CHECKS)),
            };
        }
        "checkScript" => health.probe = Probe::Script(script(name, v)?),
        "checkScriptExit" => health.relayd_exit = relayd_exit(name, v)?,
        "checkTCP" => {
            // `check` precedes it in the order of names: a TCP connection or a script is kept.
            parts.check_tcp = Some(switch(name, v)?);
            if parts.check_tcp == Some(true) && health.probe == Probe::Udp {
                health.probe = Probe::Tcp;
            }
        }
        "checkName" if nearest::is_empty_text(v) => {
            call.warn_empty_text(name, "the root (\".\") is asked for");
            ".".clone_into(&mut health.qname);
        }
        "checkName" => health.qname = parsed(name, v, value::QNAME, value::qname)?,
        "checkType" => health.qtype = code(name, v, "a type, as \"AAAA\" or 28", enumerations::qtype)?,
        "checkClass" => health.qclass = code(name, v, "a class, as \"IN\" or 1", enumerations::qclass)?,
        "checkInterval" => health.interval = nearest::span(call, name, v, 1000, (10.0, DAY_MS), 1000.0)?,
        "checkIntervalMs" => health.interval = span(name, v, 1, 10.0, DAY_MS)?,
        "checkTimeout" => health.timeout = nearest::span(call, name, v, 1, (1.0, TIMEOUT_MS), 1000.0)?,
        "checkFunction" => health.choose = Some(call.keep(function(name, v)?)?),
        "checkResponseFunction" => health.judge = Some(call.keep(function(name, v)?)?),
        "rise" => health.rise = nearest::whole(call, name, v, 1, 255)?,
        "maxCheckFailures" => health.fall = nearest::whole(call, name, v, 1, 255)?,
        "mustResolve" => health.must_resolve = switch(name, v)?,
        "setCD" => health.set_cd = switch(name, v)?,
        "slowStart" => health.slow_start = span(name, v, 1000, 0.0, DAY_MS)?,
        "lazyHealthCheckThreshold" => {
            health.lazy.threshold_percent = nearest::byte(call, name, v, 1, 100)?;
        }
        "lazyHealthCheckSampleSize" => health.lazy.sample = nearest::word(call, name, v, 1, u16::MAX)?,
        "lazyHealthCheckMinSampleCount" => {
            health.lazy.sample_min = nearest::word(call, name, v, 1, u16::MAX)?;
        }
        "lazyHealthCheckFailedInterval" => {
            health.lazy.failed_interval = nearest::span(call, name, v, 1000, (10.0, DAY_MS), 1000.0)?;
        }
        "lazyHealthCheckMode" => {
            const MODES: &str = "\"TimeoutOrServFail\" or \"TimeoutOnly\"";
            health.lazy.servfail_counts = match text(name, v, MODES)?.as_str() {
                "TimeoutOrServFail" => true,
                "TimeoutOnly" => false,
                _ => return Err(wrong(name, v, MODES)),
            };
        }
        "lazyHealthCheckUseExponentialBackOff" => parts.backoff = switch(name, v)?,
        "lazyHealthCheckMaxBackOff" => {
            parts.backoff_max = nearest::span(call, name, v, 1000, (10.0, DAY_MS), 1000.0)?;
        }
        "useClientSubnet" => server.use_client_subnet = switch(name, v)?,
        "tcpOnly" => server.connections.only = switch(name, v)?,
        "tcpWhileSpoofed" => server.connections.while_spoofed = switch(name, v)?,
        "tcpConnectTimeout" => {
            server.connections.connect_timeout =
                nearest::span(call, name, v, 1000, (1.0, TIMEOUT_MS), TIMEOUT_MS)?;
        }
        "tcpConnectTimeoutMs" => server.connections.connect_timeout = span(name, v, 1, 1.0, TIMEOUT_MS)?,
        "tcpSendTimeout" => {
            server.connections.send_timeout =
                nearest::span(call, name, v, 1000, (1.0, TIMEOUT_MS), TIMEOUT_MS)?;
        }
        "tcpSendTimeoutMs" => server.connections.send_timeout = span(name, v, 1, 1.0, TIMEOUT_MS)?,
        "tcpRecvTimeout" => {
            server.connections.receive_timeout =
                nearest::span(call, name, v, 1000, (1.0, TIMEOUT_MS), TIMEOUT_MS)?;
        }
        "tcpRecvTimeoutMs" => server.connections.receive_timeout = span(name, v, 1, 1.0, TIMEOUT_MS)?,
        "tcpFastOpen" => server.connections.fast_open = switch(name, v)?,
        // dnsdist's is any number of attempts on the same server; more servers than this are of no
        // use.
        "retries" => {
            let tries = nearest::whole(call, name, v, 0, WEIGHT_MAX)?.clamp(1, SERVERS_TO_TRY_MAX);
            server.connections.tries = u8::try_from(tries).unwrap_or(1);
        }
        "maxInFlight" => {
            let in_flight = nearest::whole(call, name, v, 0, 65_535)?.max(1);
            server.connections.in_flight = u16::try_from(in_flight).unwrap_or(u16::MAX);
        }
        "maxConcurrentTCPConnections" => {
            server.connections.connections = nearest::whole(call, name, v, 0, WEIGHT_MAX)?;
        }
        "useProxyProtocol" => parts.proxy = proxy(name, v)?,
        "proxyProtocolAdvertiseTLS" => parts.advertise_tls = switch(name, v)?,
        "transparent" => parts.transparent = switch(name, v)?,
        "disableZeroScope" => server.disable_zero_scope = switch(name, v)?,
        "reconnectOnUp" | "ipBindAddrNoPort" => {
            switch(name, v)?;
        }
        tls if SERVER_TLS_ARGUMENTS.iter().any(|e| e.name == tls) => parts.tls.read(call, tls, v)?,
        _ => return unusable(call, name, v).map_or(Ok(()), Err),
    }
    Ok(())
}

const CHECKS: &str = "\"dns\" or \"connect\"";

/// Returns the error of an argument that is not read above; `None` when `false` disables something
/// that does not exist. An unknown one is warned of, as in dnsdist.
fn unusable(call: &mut Call<'_>, name: &str, v: &Value) -> Option<Fault> {
    let family = SERVER_ARGUMENTS_MISSING.iter().find(|m| m.names.contains(&name));
    match family {
        Some(_) if v.as_boolean() == Some(false) => None,
        Some(m) => Some(missing::fault(&format!("argument \"{name}\" ({})", m.family), m.meanwhile)),
        None => {
            let known = SERVER_ARGUMENTS.iter().chain(SERVER_TLS_ARGUMENTS).map(|e| e.name);
            let known = known.chain(SERVER_ARGUMENTS_MISSING.iter().flat_map(|m| m.names.iter().copied()));
            call.unknown("argument", name, known);
            None
        }
    }
}

/// Reads a text; a number is accepted.
/// Reads a name, which may be a number.
fn label(name: &str, v: &Value, expected: &str) -> Result<String, Fault> {
    if matches!(v, Value::Integer(_) | Value::Number(_)) {
        Ok(shown(v))
    } else {
        values::label(name, v, expected)
    }
}

fn mode(name: &str, v: &Value) -> Result<HealthMode, Fault> {
    const MODES: &str = "\"auto\", \"up\", \"down\" or \"lazy\"";
    match text(name, v, MODES)?.to_ascii_lowercase().as_str() {
        "auto" => Ok(HealthMode::Auto),
        "up" => Ok(HealthMode::Up),
        "down" => Ok(HealthMode::Down),
        "lazy" => Ok(HealthMode::Lazy),
        _ => Err(wrong(name, v, MODES)),
    }
}

/// Reads a type or class by name or number.
fn code(name: &str, v: &Value, expected: &str, by_name: fn(&str) -> Option<u16>) -> Result<u16, Fault> {
    let number = number(v).and_then(|_| whole(name, v, 1, 65535).ok()).and_then(|n| u16::try_from(n).ok());
    let named = || v.as_string().and_then(|s| by_name(&s.to_string_lossy()));
    number.or_else(named).ok_or_else(|| wrong(name, v, expected))
}

pub(crate) fn script(name: &str, v: &Value) -> Result<Vec<String>, Fault> {
    const SCRIPT: &str = "an absolute path, or a list of it and its arguments";
    let words = texts(name, v, SCRIPT)?;
    let fine = words.first().is_some_and(|w| w.starts_with('/')) && words.iter().all(|w| !w.contains('\0'));
    if fine { Ok(words) } else { Err(wrong(name, v, SCRIPT)) }
}

/// Reads which exit codes of a check's program are good; returns whether they are relayd's.
pub(crate) fn relayd_exit(name: &str, v: &Value) -> Result<bool, Fault> {
    const EXITS: &str = "\"monitoring\" or \"relayd\"";
    match text(name, v, EXITS)?.as_str() {
        "monitoring" => Ok(false),
        "relayd" => Ok(true),
        _ => Err(wrong(name, v, EXITS)),
    }
}
