//! Settings, listeners, the ACL, logging and includes.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlua::{Lua, Value};

use crate::base::prefix::Prefix;
use crate::config::draft::{DraftListener, Listed};
use crate::config::error::{ConfigError, Fault, Sited};
use crate::config::functions::LOCAL_OPTIONS;
use crate::config::functions::needs::LOCAL_NEEDS;
use crate::config::functions::signature::Signature;
use crate::config::options::{Key, Kind, SETTINGS, Setter, Setting, Settings};
use crate::config::{options, value};
use crate::lua::code::flow::When;
use crate::lua::front_end::anytime::define_anytime;
use crate::lua::front_end::argument::{parsed, shown, switch, text, texts, whole, wrong};
use crate::lua::front_end::arguments::Arguments;
use crate::lua::front_end::context::{Call, Context, bounded, entry};
use crate::lua::front_end::{Role, argument, caller, nearest, needs, read_list, run, unreadable};
use crate::model::{ConnectionOptions, ProxyHeader, Service};

/// The form of a network.
pub(crate) const NETWORK: &str = "ADDRESS or ADDRESS/LENGTH, as \"192.0.2.0/24\"";

/// Options of `addLocal` that are not implemented.
const LOCAL_MISSING: [&str; 2] = ["xskSocket", "additionalAddresses"];

/// Most concurrent connections of a listener, and most pending ones.
const CONNECTIONS_MAX: u32 = 10_000_000;
const BACKLOG_MAX: u32 = 65_535;
/// Deepest nesting of included directories: more than anyone needs, less than the stack allows.
const INCLUDES_MAX: usize = 16;

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    for setting in &SETTINGS {
        for setter in setting.lua {
            let form = setting.kind.to_string().into();
            context.define_as(lua, setter.name, Signature::new("value"), form, move |call, a| {
                set(call, setting, setter, a.at(0))
            })?;
        }
    }
    context.define(lua, "setUDPSocketBufferSizes", |call, a| {
        let mut read = Vec::new();
        for (at, key) in [(0, Key::ReceiveBuffer), (1, Key::SendBuffer)] {
            let Kind::Number { min, max, .. } = options::setting(key).kind else { continue };
            read.push((key, nearest::whole(call, a.what(at), a.at(at), min, max)?));
        }
        for (key, bytes) in read {
            let value = Sited { value: options::Value::Number(bytes), origin: call.origin.clone() };
            call.draft.settings.set(key, value);
        }
        Ok(Value::Nil)
    })?;
    context.define(lua, "addLocal", |call, a| {
        let listener = listener(call, a)?;
        call.draft.listeners.push(listener);
        Ok(Value::Nil)
    })?;
    context.define(lua, "setLocal", |call, a| {
        let errors = call.draft.errors.len();
        let listener = listener(call, a)?;
        if call.draft.errors.len() == errors {
            // Of plain DNS; listeners with TLS have a function of their own.
            call.draft.listeners.retain(|l| l.service.tls().is_some());
        }
        call.draft.listeners.push(listener);
        Ok(Value::Nil)
    })?;
    define_acl(lua, context)?;
    define_accepted(lua, context)?;
    context.define(lua, "setStructuredLogging", structured_logging)?;
    define_logging(lua, context)?;
    define_include(lua, context)
}

/// Applies a setter of the table.
fn set(call: &mut Call<'_>, setting: &Setting, setter: &Setter, argument: &Value) -> Result<Value, Fault> {
    let value = match setting.kind {
        Kind::Switch => {
            argument.as_boolean().map(options::Value::Switch).ok_or_else(|| setting.kind.to_string())
        }
        Kind::Number { min, max, .. } if setting.lenient => match argument::number(argument) {
            Some(n) if n >= 0.0 => Ok(nearest_number(call, setting, setter, (argument, n), (min, max))),
            _ => number(setting, setter, argument),
        },
        Kind::Factor => match argument::number(argument) {
            // As in dnsdist, which says so and keeps the factor that it has.
            Some(n) if n < 1.0 && n != 0.0 => {
                let expected = format!("{}; it is ignored", setting.kind);
                call.warn(wrong("", argument, expected));
                return Ok(Value::Nil);
            }
            Some(n) if n > options::FACTOR_MAX => {
                nearest::warn(call, "", argument, options::FACTOR_MAX);
                setting.from_number(options::FACTOR_MAX, 1)
            }
            n => setting.from_number(n.unwrap_or(f64::NAN), 1),
        },
        Kind::Number { .. } => number(setting, setter, argument),
        Kind::Span { .. } | Kind::Choice(_) | Kind::Cpus | Kind::Text(_) | Kind::FastOpenKey => {
            match argument.as_string() {
                Some(s) => setting.parse(&s.to_string_lossy()),
                None => Err(setting.kind.to_string()),
            }
        }
    };
    let value = value.map_err(|e| wrong("", argument, e.trim_start_matches("expected ")))?;
    call.draft.settings.set(setting.key, Sited { value, origin: call.origin.clone() });
    if setting.key == Key::LogClients {
        log_changes(call);
    }
    Ok(Value::Nil)
}

/// Reads a number, or a time with a unit.
fn number(setting: &Setting, setter: &Setter, argument: &Value) -> Result<options::Value, String> {
    match (argument::number(argument), milliseconds(setting, argument)) {
        (None, Some(ms)) => setting.from_number(ms, 1),
        // Not a number: the table's error states the range.
        (n, _) => setting.from_number(n.unwrap_or(f64::NAN), setter.scale),
    }
}

/// Returns the value of a setting that is nearest to a number, with a warning if it is another one.
fn nearest_number(
    call: &mut Call<'_>,
    setting: &Setting,
    setter: &Setter,
    (argument, n): (&Value, f64),
    (min, max): (u32, u32),
) -> options::Value {
    let scale = f64::from(setter.scale);
    let zero = setting.zero.filter(|_| n == 0.0);
    // 0.29 times 1000 is a little less than 290.
    let taken = zero.unwrap_or_else(|| nearest::within((n * scale * 1e3).round() / 1e3, min, max));
    if f64::from(taken) / scale != n {
        nearest::warn(call, "", argument, f64::from(taken) / scale);
    }
    options::Value::Number(taken)
}

/// Reads a time with a unit, as "2s", for a setting in milliseconds.
fn milliseconds(setting: &Setting, argument: &Value) -> Option<f64> {
    let Kind::Number { unit: "ms", .. } = setting.kind else { return None };
    let span = value::span(&argument.as_string()?.to_string_lossy()).ok()?;
    // A day of nanoseconds is far below 2^53.
    #[allow(clippy::cast_precision_loss)]
    Some(span.0 as f64 / 1e6)
}

fn listener(call: &mut Call<'_>, a: Arguments<'_>) -> Result<DraftListener, Fault> {
    let address = parsed("", a.at(0), value::ADDRESS, value::address)?;
    let mut listener = DraftListener {
        origin: call.origin.clone(),
        address,
        interface: None,
        reuse_port: false,
        freebind: false,
        dscp: 0,
        service: Service::Dns,
        connection_options: ConnectionOptions::default(),
        proxy: ProxyHeader::default(),
    };
    if let Some(tcp) = a.at(1).as_boolean() {
        older_form(call, &mut listener, tcp, a)?;
    } else if let Some(options) = a.given(1) {
        let named = argument::named(a.what(1), options)?;
        a.at_most(2)?;
        for (name, v) in &named {
            if let Err(fault) = local_option(call, &mut listener, name, v) {
                call.fail(fault);
            }
        }
        needs::check(call, &named, LOCAL_NEEDS.iter());
    }
    Ok(listener)
}

/// Reads `addLocal(address, doTCP, reusePort, tcpFastOpenQueueSize)`.
fn older_form(
    call: &mut Call<'_>,
    listener: &mut DraftListener,
    tcp: bool,
    a: Arguments<'_>,
) -> Result<(), Fault> {
    if !tcp {
        listener.service = Service::DnsUdp;
    }
    if a.given(2).is_some() {
        listener.reuse_port = a.switch(2)?;
    }
    if a.given(3).is_some() {
        listener.connection_options.fast_open = a.nearest(call, 3, BACKLOG_MAX)?;
    }
    Ok(())
}

pub(crate) fn local_option(
    call: &mut Call<'_>,
    listener: &mut DraftListener,
    name: &str,
    v: &Value,
) -> Result<(), Fault> {
    if call.is_unset(name, v) {
        return Ok(());
    }
    let options = &mut listener.connection_options;
    match name {
        "interface" => listener.interface = Some(parsed(name, v, value::INTERFACE, value::interface)?),
        "dscp" => listener.dscp = u8::try_from(whole(name, v, 0, 63)?).unwrap_or(0),
        "doTCP" => listener.service = if switch(name, v)? { Service::Dns } else { Service::DnsUdp },
        "tcpFastOpenQueueSize" => options.fast_open = nearest::whole(call, name, v, 0, BACKLOG_MAX)?,
        "tcpFastOpenSize" => {
            options.fast_open = nearest::whole(call, name, v, 0, BACKLOG_MAX)?;
            call.warn(Fault::Note(
                "tcpFastOpenSize is of an older version; write tcpFastOpenQueueSize".to_owned(),
            ));
        }
        // As in dnsdist, 0 means the kernel's limit.
        "tcpListenQueueSize" => {
            let size = nearest::whole(call, name, v, 0, BACKLOG_MAX)?;
            options.backlog = if size == 0 { ConnectionOptions::default().backlog } else { size };
        }
        "maxInFlight" => {
            // No further query beside the current one: 1.
            options.in_flight = nearest::word(call, name, v, 0, u16::MAX)?.max(1);
        }
        "maxConcurrentTCPConnections" => {
            options.connections = nearest::whole(call, name, v, 0, CONNECTIONS_MAX)?;
        }
        "enableProxyProtocol" => {
            listener.proxy = if switch(name, v)? { ProxyHeader::Inside } else { ProxyHeader::Ignored };
        }
        "reusePort" => listener.reuse_port = switch(name, v)?,
        "freebind" => listener.freebind = switch(name, v)?,
        // `--cpus` and `--steer` decide which CPU serves what.
        "cpus" => call.warn(Fault::Note("cpus has no effect: use --cpus and --steer".to_owned())),
        missing if LOCAL_MISSING.contains(&missing) => {
            if v.as_boolean() != Some(false) {
                let meanwhile = "remove it; use one addLocal per address".to_owned();
                return Err(Fault::Missing { what: format!("option \"{name}\""), meanwhile });
            }
        }
        _ => {
            let known = LOCAL_OPTIONS.iter().map(|e| e.name).chain(LOCAL_MISSING);
            call.unknown("option", name, known);
        }
    }
    Ok(())
}

/// Reads a network, or with `!` an exception (`false`).
pub(crate) fn network(call: &mut Call<'_>, written: &str) -> Result<(Prefix, bool), Fault> {
    let wrong = || Fault::value("", format!("\"{written}\""), NETWORK);
    let (text, is_in) = written.strip_prefix('!').map_or((written, true), |rest| (rest, false));
    if let Ok(net) = text.parse() {
        return Ok((net, is_in));
    }
    if let Some((ip, rest)) = text.split_once('%') {
        let bare = rest.split_once('/').map_or_else(|| ip.to_owned(), |(_, length)| format!("{ip}/{length}"));
        let net = bare.parse().ok().filter(|net: &Prefix| !net.is_ipv4()).ok_or_else(wrong)?;
        call.warn(Fault::Note(format!(
            "\"{written}\" is taken as \"{bare}\": a network is that of every zone"
        )));
        return Ok((net, is_in));
    }
    let bare = text.replacen('[', "", 1).replacen(']', "", 1);
    let net = text.starts_with('[').then(|| bare.parse().ok()).flatten().ok_or_else(wrong)?;
    call.warn(Fault::Note(format!("\"{written}\" is taken as \"{bare}\": a network has no brackets")));
    Ok((net, is_in))
}

fn define_acl(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define(lua, "addACL", |call, a| {
        let net = network(call, &text("", a.at(0), NETWORK)?)?;
        call.draft.acl.push(net);
        Ok(Value::Nil)
    })?;
    context.define(lua, "setACL", |call, a| {
        let texts = texts("", a.at(0), NETWORK)?;
        let acl = networks(call, texts.iter().map(String::as_str))?;
        if acl.is_empty() {
            call.warn_empty_list("", "no query is answered");
        }
        call.draft.set_acl(acl);
        Ok(Value::Nil)
    })?;
    context.define(lua, "setProxyProtocolACL", |call, a| {
        let texts = texts("", a.at(0), NETWORK)?;
        call.draft.proxy_peers = networks(call, texts.iter().map(String::as_str))?;
        Ok(Value::Nil)
    })?;
    context.define(lua, "setACLFromFile", |call, a| {
        let path = text("", a.at(0), "the path of a file")?;
        let unreadable = |reason| Fault::Unreadable { path: path.clone(), reason };
        let content =
            String::from_utf8(read_list(&path)?).map_err(|_| unreadable("it is not UTF-8".to_owned()))?;
        let lines = content.lines().map(|l| l.split('#').next().unwrap_or_default().trim());
        let acl = networks(call, lines.filter(|l| !l.is_empty()))?;
        call.draft.set_acl(acl);
        Ok(Value::Nil)
    })
}

impl Call<'_> {
    /// Returns what was made of a list, unless some of it is wrong: all of that is recorded.
    ///
    /// # Errors
    /// The last of them.
    pub(crate) fn unless_wrong<T>(&mut self, mut wrong: Vec<Fault>, made: T) -> Result<T, Fault> {
        let last = wrong.pop();
        wrong.into_iter().for_each(|fault| self.fail(fault));
        last.map_or(Ok(made), Err)
    }
}

/// Reads the networks of a list; each invalid one is an error.
pub(crate) fn networks<'t>(
    call: &mut Call<'_>,
    texts: impl Iterator<Item = &'t str>,
) -> Result<Listed, Fault> {
    let (mut list, mut wrong) = (Vec::new(), Vec::new());
    for text in texts {
        match network(call, text) {
            Ok(net) => list.push(net),
            Err(fault) => wrong.push(fault),
        }
    }
    call.unless_wrong(wrong, list)
}

/// Defines the functions that are accepted without effect.
fn define_accepted(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define(lua, "setSecurityPollSuffix", |_, _| Ok(Value::Nil))?;
    context.define(lua, "addMaintenanceCallback", |call, a| {
        let callback = a.at(0).as_function().ok_or_else(|| a.wrong(0, "a function"))?;
        call.code.function(call.lua, callback, When::Shard)?;
        call.draft.maintenance = true;
        Ok(Value::Nil)
    })?;
    for name in ["setRandomizedOutgoingSockets", "setRandomizedIdsOverUDP"] {
        context.define(lua, name, |call, a| {
            // Predictable ids invite forged answers (RFC 5452).
            if !switch(a.what(0), a.at(0))? {
                call.warn(Fault::Note("false has no effect: ids and sockets are always random".to_owned()));
            }
            Ok(Value::Nil)
        })?;
    }
    Ok(())
}

/// Reads the arguments of `setStructuredLogging`.
fn structured_logging(call: &mut Call<'_>, a: Arguments<'_>) -> Result<Value, Fault> {
    let on = switch(a.what(0), a.at(0))?;
    let mut written = vec![(Key::LogFormat, if on { "logfmt" } else { "text" }.to_owned())];
    let options = a.given(1).map(|options| argument::named(a.what(1), options)).transpose()?;
    for (name, v) in options.unwrap_or_default() {
        match name.as_str() {
            "levelPrefix" => {
                const NAME: &str = "a name of letters";
                let prefix = text(&name, &v, NAME)?;
                let is_taken = ["msg", "subsystem", "level", "ts"].contains(&prefix.as_str());
                if is_taken || prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_alphabetic()) {
                    return Err(wrong(&name, &v, NAME));
                }
                written.push((Key::LogLevelName, prefix));
            }
            "timeFormat" => {
                const FORMATS: &str = "\"numeric\" or \"ISO8601\"";
                let format = text(&name, &v, FORMATS)?.to_lowercase();
                if !["numeric", "iso8601"].contains(&format.as_str()) {
                    return Err(wrong(&name, &v, FORMATS));
                }
                written.push((Key::LogTime, format));
            }
            "backend" => match text(&name, &v, "\"default\" or \"json\"")?.as_str() {
                "default" => {}
                "json" if on => written[0].1 = "json".to_owned(),
                "json" => {}
                "systemd-journal" => call.warn(Fault::Note(
                    "backend \"systemd-journal\" is taken as \"default\": systemd reads standard error"
                        .to_owned(),
                )),
                _ => return Err(wrong(&name, &v, "\"default\" or \"json\"")),
            },
            _ => {
                let known = ["levelPrefix", "timeFormat", "backend"];
                call.warn(Fault::unknown("option", &name, known.into_iter()));
            }
        }
    }
    for (key, text) in written {
        let value = Sited { value: options::Value::Text(text), origin: call.origin.clone() };
        call.draft.settings.set(key, value);
    }
    log_changes(call);
    Ok(Value::Nil)
}

/// How the log is to look, as far as the file has said: called while the first one is evaluated.
pub(crate) type LogWatch = Arc<dyn Fn(&Settings) + Send + Sync>;

/// Tells the log how it is to look.
fn log_changes(call: &Call<'_>) {
    if let Some(watch) = call.lua.app_data_ref::<LogWatch>() {
        watch(&call.draft.settings);
    }
}

/// The log functions work at any time.
fn define_logging(lua: &Lua, context: &Context) -> mlua::Result<()> {
    let define = |name: &'static str, write: fn(&str, &str)| {
        define_anytime(lua, context, name, move |lua, a| {
            let text = a.at(0).as_string().map_or_else(|| shown(a.at(0)), |s| s.to_string_lossy());
            write(&caller(lua).to_string(), &text);
            Ok(Value::Nil)
        })
    };
    define("errlog", |place, text| tracing::error!(place, "{text}"))?;
    define("warnlog", |place, text| tracing::warn!(place, "{text}"))?;
    define("infolog", |place, text| tracing::info!(place, "{text}"))?;
    define("vinfolog", |place, text| tracing::debug!(place, "{text}"))?;
    let own = context.clone();
    let print = lua.create_function(move |lua, line: mlua::String| {
        if own.prints(&line.as_bytes()) {
            return Ok(());
        }
        tracing::info!(place = caller(lua).to_string(), "{}", line.to_string_lossy());
        Ok(())
    })?;
    lua.load(crate::lua::state::PRINT).set_name("=print").call(print)
}

/// Evaluates a directory's `.conf` files; their functions record into the same draft, which must not
/// be borrowed meanwhile.
fn define_include(lua: &Lua, context: &Context) -> mlua::Result<()> {
    let included = context.clone();
    let depth = Cell::new(0_usize);
    let entry = entry("includeDirectory")?;
    let include = bounded(lua, entry.name, move |lua, values| {
        let a = Arguments::new(entry.signature(), values);
        if depth.get() == INCLUDES_MAX {
            let wrong = format!("more than {INCLUDES_MAX} directories include each other");
            let fault = Fault::Conflict { wrong, expected: "no such loop".to_owned() };
            // Raised rather than recorded: each level would continue with all of its files.
            return Err(mlua::Error::external(ConfigError::new(&caller(lua), "includeDirectory", fault)));
        }
        let (mut files, mut directory) = (Vec::new(), String::new());
        included.call(lua, "includeDirectory", |call| {
            if let Some(fault) = a.surplus(entry.arguments) {
                return Err(fault);
            }
            directory = a.text(0, "the path of a directory")?;
            files = conf_files(call, Path::new(&directory))?;
            Ok(Value::Nil)
        })?;
        depth.set(depth.get() + 1);
        let ended = files.iter().try_for_each(|file| run(lua, &included, Role::Included(&directory), file));
        depth.set(depth.get() - 1);
        ended.map(|()| Value::Nil)
    })?;
    lua.globals().raw_set(entry.name, include)
}

/// Returns the configuration files of a directory. What is no regular file is skipped, as in dnsdist.
fn conf_files(call: &mut Call<'_>, directory: &Path) -> Result<Vec<PathBuf>, Fault> {
    let entries = std::fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let name = directory.display().to_string();
    let mut files: Vec<PathBuf> = entries
        .map_err(|e| unreadable(&name, &e).fault)?
        .iter()
        .map(std::fs::DirEntry::path)
        .filter(|p| p.extension().is_some_and(|e| e == "conf"))
        // Editors keep locks and copies as hidden files, whose names begin with a dot.
        .filter(|p| !p.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b".")))
        .filter(|path| match std::fs::metadata(path) {
            Ok(found) => found.is_file(),
            // Its reader says so.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => true,
            Err(e) => {
                call.warn(Fault::Note(format!("\"{}\" is skipped: {e}", path.display())));
                false
            }
        })
        .collect();
    files.sort();
    Ok(files)
}
