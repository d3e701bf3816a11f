//! The functions that show clients, names and the last queries.

use mlua::{Function, Lua, Value};

use crate::config::error::{Fault, Sited};
use crate::config::functions::enumerations;
use crate::config::options;
use crate::config::options::{Key, Kind};
use crate::lua::front_end::argument::{named, number, switch, text, whole, wrong};
use crate::lua::front_end::arguments::{Arguments, items};
use crate::lua::front_end::context::{Call, Context, bounded, entry};
use crate::lua::front_end::values::{POOL, code};
use crate::lua::front_end::{argument, nearest, traffic_text};
use crate::stats::top::{
    By, Filter, Found, GrepRequest, LISTS, Only, QUERIES_MAX, ROWS_MAX, TopList, TopRequest, WINDOW_MAX,
    uncut,
};
use crate::stats::traffic_ring::End;
use crate::wire::codes::type_name;
use crate::wire::name;

/// Most labels of a name.
const LABELS_MAX: u8 = 127;
/// The longest latency that can be asked for, milliseconds.
const LATENCY_MS_MAX: u32 = 3_600_000;
/// Entries of the ring that functions return if nothing else is said.
const CONDITION: &str = "a network, a name, or a latency as \"100ms\"";
const NETWORK: &str = "a network, as \"192.0.2.0/24\"";
const NAME: &str = "a name, as \"example.com\"";
const RCODE: &str = "a response code, as DNSRCode.SERVFAIL or \"SERVFAIL\"";
const TYPE: &str = "a type, as DNSQType.AAAA or \"AAAA\"";

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define_printing(lua, entry("topClients")?, |call, a| {
        let request = TopRequest::new(By::Client, Only::All, rows(call, a, 0)?);
        top(call, a, 1, request)
    })?;
    context.define_printing(lua, entry("topBandwidth")?, |call, a| {
        let request = TopRequest { bytes: true, ..TopRequest::new(By::Client, Only::All, rows(call, a, 0)?) };
        top(call, a, 1, request)
    })?;
    context.define_printing(lua, entry("topQueries")?, |call, a| by_name(call, a, 1, Only::All))?;
    context.define_printing(lua, entry("topTimeouts")?, |call, a| by_name(call, a, 1, Only::Timeouts))?;
    context.define_printing(lua, entry("topResponses")?, |call, a| {
        let rcode = rcode(a.what(1), &a.value(1))?;
        by_name(call, a, 2, Only::Rcode(rcode))
    })?;
    context.define_printing(lua, entry("topSlow")?, |call, a| {
        let limit = a.whole(1, LATENCY_MS_MAX)?;
        by_name(call, a, 2, Only::SlowerThan(limit))
    })?;
    context.define_printing(lua, entry("top")?, |call, a| {
        let expected = || format!("one of {}", LISTS.join(", "));
        let what = a.text(0, &expected())?;
        let request = TopRequest::named(&what, rows(call, a, 1)?).ok_or_else(|| a.wrong(0, expected()))?;
        top(call, a, 2, request)
    })?;
    context.define_printing(lua, entry("grepq")?, grepq)?;
    define_returning(lua, context)?;
    define_ring(lua, context)?;
    define_tree(lua, context)
}

/// Defines the functions that return what others print.
fn define_returning(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define(lua, "getTopQueries", |call, a| returned_by_name(call, a, 1, Only::All))?;
    context.define(lua, "getTopResponses", |call, a| {
        let rcode = rcode(a.what(1), &a.value(1))?;
        returned_by_name(call, a, 2, Only::Rcode(rcode))
    })?;
    context.define(lua, "getSlowResponses", |call, a| {
        let limit = a.whole(1, LATENCY_MS_MAX)?;
        returned_by_name(call, a, 2, Only::SlowerThan(limit))
    })?;
    context.define(lua, "getTopBandwidth", |call, a| {
        let request = TopRequest { bytes: true, ..TopRequest::new(By::Client, Only::All, rows(call, a, 0)?) };
        returned(call, request)
    })
}

/// Defines the function that shows the last answers as a tree of their names.
fn define_tree(lua: &Lua, context: &Context) -> mlua::Result<()> {
    const WALK: &str = "dnslob.name_tree";
    // Chunk names that begin with "=" are no origins of calls.
    let walk: Function = lua.load(include_str!("name_tree.lua")).set_name("=name_tree").eval()?;
    lua.set_named_registry_value(WALK, walk)?;
    let (own, entry) = (context.clone(), entry("statNodeRespRing")?);
    let visits = bounded(lua, entry.name, move |lua, values| {
        let a = Arguments::new(entry.signature(), values);
        let entries = own.look(lua, entry.name, |call| {
            if let Some(fault) = a.surplus(entry.arguments) {
                return Err(fault);
            }
            argument::function(a.what(0), a.at(0))?;
            let seconds = a.given(1).map(|_| a.whole(1, u32::MAX)).transpose()?;
            let is_recent = |found: &Found| seconds.is_none_or(|s| found.ago_us <= u64::from(s) * 1_000_000);
            let list = call.lua.create_table()?;
            for found in found(call, QUERIES_MAX)?.iter().filter(|found| is_recent(found)) {
                list.raw_push(ring_entry(call.lua, found)?)?;
            }
            Ok(Value::Table(list))
        })?;
        // Outside of the draft, so that the function can use it.
        if entries.is_table() {
            lua.named_registry_value::<Function>(WALK)?.call::<()>((a.at(0), entries))?;
        }
        Ok(Value::Nil)
    })?;
    lua.globals().raw_set(entry.name, visits)
}

fn define_ring(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define(lua, "getRingEntries", |call, a| {
        let list = call.lua.create_table()?;
        for found in last(call, a)? {
            list.raw_push(ring_entry(call.lua, &found)?)?;
        }
        Ok(Value::Table(list))
    })?;
    context.define(lua, "getResponseRing", |call, a| {
        let list = call.lua.create_table()?;
        for found in last(call, a)?.iter().filter(|found| found.record.finished.rcode().is_some()) {
            list.raw_push(ring_entry(call.lua, found)?)?;
        }
        Ok(Value::Table(list))
    })?;
    context.define(lua, "getRespRing", |call, a| {
        let list = call.lua.create_table()?;
        for found in last(call, a)? {
            let Some(rcode) = found.record.finished.rcode() else { continue };
            let one = call.lua.create_table()?;
            one.raw_set("qname", found.record.qname.dotted())?;
            one.raw_set("rcode", rcode)?;
            list.raw_push(one)?;
        }
        Ok(Value::Table(list))
    })?;
    context.define(lua, "setRingBuffersSize", |call, a| {
        let Kind::Number { min, max, .. } = options::setting(Key::TrafficRing).kind else {
            return Ok(Value::Nil);
        };
        let records = nearest::whole(call, a.what(0), a.at(0), min, max)?;
        set_ring(call, records);
        Ok(Value::Nil)
    })?;
    context.define(lua, "setRingBuffersOptions", |call, a| {
        let (mut queries, mut responses) = (true, true);
        for (name, v) in named(a.what(0), a.at(0))? {
            match name.as_str() {
                "recordQueries" => queries = switch(&name, &v)?,
                "recordResponses" => responses = switch(&name, &v)?,
                "lockRetries" | "samplingRate" => {
                    whole(&name, &v, 0, u32::MAX)?;
                }
                _ => {
                    let known = ["recordQueries", "recordResponses", "lockRetries", "samplingRate"];
                    call.unknown("option", &name, known);
                }
            }
        }
        if !queries && !responses {
            set_ring(call, 0);
        }
        Ok(Value::Nil)
    })?;
    context.define(lua, "setRingBuffersLockRetries", |_, a| {
        a.whole(0, u32::MAX)?;
        Ok(Value::Nil)
    })?;
    context.define(lua, "getRingBuffersSamplingRate", |_, _| Ok(Value::Integer(0)))
}

fn set_ring(call: &mut Call<'_>, records: u32) {
    let value = Sited { value: options::Value::Number(records), origin: call.origin.clone() };
    call.draft.settings.set(Key::TrafficRing, value);
}

/// Reads the number of rows, of which there are at most so many.
fn rows_of(call: &mut Call<'_>, a: Arguments<'_>, n: usize, most: usize) -> Result<usize, Fault> {
    let asked = a.whole(n, u32::MAX)? as usize;
    if asked > most {
        call.warn(Fault::Note(format!("{asked} are asked for: the list ends after {most}")));
    }
    Ok(asked.min(most))
}

fn rows(call: &mut Call<'_>, a: Arguments<'_>, n: usize) -> Result<usize, Fault> {
    rows_of(call, a, n, ROWS_MAX)
}

/// Prints a list of names, whose labels are an argument.
fn by_name(call: &mut Call<'_>, a: Arguments<'_>, n: usize, only: Only) -> Result<String, Fault> {
    // The table may take the place of the labels.
    let rest = if a.at(n).is_table() { n } else { n + 1 };
    let labels = if rest == n { 0 } else { labels(a, n)? };
    let request = TopRequest::new(By::Name(labels), only, rows(call, a, 0)?);
    top(call, a, rest, request)
}

/// Prints a list; the argument `n` may narrow it.
fn top(call: &mut Call<'_>, a: Arguments<'_>, n: usize, mut request: TopRequest) -> Result<String, Fault> {
    if let Some(options) = a.given(n) {
        for (name, v) in named(a.what(n), options)? {
            option(call, &mut request, &name, &v)?;
        }
    }
    let unit = if request.bytes { "bytes" } else { "queries" };
    Ok(ask(call, request)?.map_or_else(String::new, |list| traffic_text::top(&list, unit)))
}

/// Returns a list; none while the configuration is read.
fn ask(call: &Call<'_>, request: TopRequest) -> Result<Option<TopList>, Fault> {
    let list = call.session.as_ref().map(|session| session.view.top(request));
    list.transpose().map_err(unanswered)
}

fn unanswered(why: String) -> Fault {
    Fault::Script(why)
}

fn option(call: &mut Call<'_>, request: &mut TopRequest, name: &str, v: &Value) -> Result<(), Fault> {
    let filter = &mut request.filter;
    match name {
        "window" => request.window_s = whole(name, v, 1, WINDOW_MAX)?,
        "pool" => filter.pool = Some(text(name, v, POOL)?),
        "server" => filter.server = Some(text(name, v, "the name or address of a server")?),
        "client" => {
            let net = text(name, v, NETWORK)?.parse().map_err(|_| wrong(name, v, NETWORK))?;
            filter.networks.push(net);
        }
        "name" => {
            let wire = wire_name(&text(name, v, NAME)?).ok_or_else(|| wrong(name, v, NAME))?;
            filter.names.push(wire);
        }
        "rcode" => filter.rcode = Some(rcode(name, v)?),
        "type" => filter.qtype = Some(code(name, v, TYPE, enumerations::qtype)?),
        "slower" => {
            let us = latency_us(&text(name, v, CONDITION)?);
            filter.latency_us_min = Some(us.ok_or_else(|| wrong(name, v, "a latency, as \"100ms\""))?);
        }
        _ => {
            const KNOWN: [&str; 8] =
                ["window", "pool", "server", "client", "name", "rcode", "type", "slower"];
            call.unknown("option", name, KNOWN);
        }
    }
    Ok(())
}

fn rcode(what: &str, v: &Value) -> Result<u8, Fault> {
    let by_number = number(v).map(|_| whole(what, v, 0, 15)).transpose()?;
    let by_name = v.as_string().and_then(|s| enumerations::rcode(&s.to_string_lossy()));
    let found = by_number.map(u16::try_from).and_then(Result::ok).or(by_name);
    found.and_then(|code| u8::try_from(code).ok()).ok_or_else(|| wrong(what, v, RCODE))
}

fn wire_name(text: &str) -> Option<Vec<u8>> {
    name::from_text(uncut(text)).ok().map(|wire| wire.to_ascii_lowercase())
}

/// Reads "100ms", as microseconds.
fn latency_us(text: &str) -> Option<u32> {
    let ms: f64 = text.strip_suffix("ms")?.trim().parse().ok()?;
    let us = (ms * 1e3).round();
    // The range bounds the cast.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (0.0..=f64::from(u32::MAX)).contains(&us).then_some(us as u32)
}

/// Reads the number of labels, 0 for whole names.
fn labels(a: Arguments<'_>, n: usize) -> Result<u8, Fault> {
    if a.given(n).is_some() { a.byte(n, LABELS_MAX) } else { Ok(0) }
}

/// Returns a list of names, whose labels are an argument.
fn returned_by_name(call: &mut Call<'_>, a: Arguments<'_>, n: usize, only: Only) -> Result<Value, Fault> {
    let request = TopRequest::new(By::Name(labels(a, n)?), only, rows(call, a, 0)?);
    returned(call, request)
}

/// Returns a list: name, count and percentage of each row, the rest last.
fn returned(call: &Call<'_>, request: TopRequest) -> Result<Value, Fault> {
    let list = ask(call, request)?.unwrap_or_default();
    let table = call.lua.create_table()?;
    let mut rest = list.total;
    let listed = list.rows.into_iter().map(|row| {
        rest = rest.saturating_sub(row.count);
        (row.label, row.count)
    });
    let mut all: Vec<_> = listed.collect();
    all.push(("Rest".to_owned(), rest));
    for (label, count) in all {
        let row = call.lua.create_table()?;
        row.raw_push(label)?;
        row.raw_push(count)?;
        row.raw_push(if list.total == 0 { 0.0 } else { 100.0 * count as f64 / list.total as f64 })?;
        table.raw_push(row)?;
    }
    Ok(Value::Table(table))
}

fn grepq(call: &mut Call<'_>, a: Arguments<'_>) -> Result<String, Fault> {
    let mut filter = Filter::default();
    for item in items(a.at(0))? {
        let item = item?;
        let written = text(a.what(0), &item, CONDITION)?;
        let bare = written.trim_matches(['[', ']']);
        if let Ok(net) = bare.parse() {
            filter.networks.push(net);
        } else if let Some(us) = latency_us(&written) {
            filter.latency_us_min = Some(us.max(filter.latency_us_min.unwrap_or(0)));
        } else {
            filter.names.push(wire_name(&written).ok_or_else(|| wrong(a.what(0), &item, CONDITION))?);
        }
    }
    let request = GrepRequest { filter, rows: rows_of(call, a, 1, QUERIES_MAX)? };
    let list = call.session.as_ref().map(|session| session.view.grep(request));
    Ok(list.transpose().map_err(unanswered)?.map_or_else(String::new, |list| traffic_text::grep(&list)))
}

/// Returns the last queries, as many as the first argument says.
fn last(call: &mut Call<'_>, a: Arguments<'_>) -> Result<Vec<Found>, Fault> {
    let rows = rows_of(call, a, 0, QUERIES_MAX)?;
    found(call, rows)
}

/// Returns the last queries.
fn found(call: &Call<'_>, rows: usize) -> Result<Vec<Found>, Fault> {
    let request = GrepRequest { filter: Filter::default(), rows };
    let list = call.session.as_ref().map(|session| session.view.grep(request));
    Ok(list.transpose().map_err(unanswered)?.unwrap_or_default().found)
}

fn ring_entry(lua: &Lua, found: &Found) -> mlua::Result<mlua::Table> {
    let f = &found.record.finished;
    let entry = lua.create_table()?;
    entry.raw_set("client", f.client().to_string())?;
    entry.raw_set("server", found.server.as_str())?;
    entry.raw_set("protocol", found.protocol)?;
    entry.raw_set("pool", found.pool.as_str())?;
    entry.raw_set("name", found.record.qname.dotted())?;
    entry.raw_set("type", type_name(f.qtype))?;
    entry.raw_set("id", f.id)?;
    if f.end == End::Response {
        entry.raw_set("latency", f64::from(f.latency_us) / 1e3)?;
    }
    entry.raw_set("size", f.answer_bytes)?;
    entry.raw_set("rcode", f.rcode())?;
    entry.raw_set("ended", traffic_text::ended(found))?;
    entry.raw_set("ago", found.ago_us as f64 / 1e6)?;
    Ok(entry)
}
