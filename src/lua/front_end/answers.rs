//! Actions that answer queries: response codes, negative answers, spoofing, SVCB parameters.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use mlua::{Lua, UserData, Value};

use crate::config::error::{Fault, counted};
use crate::config::functions::{Entry, enumerations};
use crate::config::ruleset::RuleAction;
use crate::lua::front_end::actions::{TTL_MAX, define_actions, ttl};
use crate::lua::front_end::argument::{named, number, shown, switch, text, whole, wrong};
use crate::lua::front_end::arguments::{Arguments, bytes, items};
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::declared::{Declared, declared};
use crate::lua::front_end::missing::is_inert;
use crate::lua::front_end::networks::address;
use crate::lua::front_end::packet;
use crate::lua::front_end::selectors::stand_in;
use crate::lua::front_end::values::{code, low};
use crate::rules::action::{Action, Addresses, NegativeSoa, RawRecords};
use crate::wire::answer::Flags;
use crate::wire::svc::{SvcParams, SvcRecord};

/// What an action without content does.
const ANSWERS_NOTHING: &str = "nothing is answered by it, and queries go on to the next rule";
/// Most bytes of an answer's records: it must fit into a datagram.
const CONTENTS_BYTES: usize = 3_500;
/// Longest message, bytes: the most that is sent over UDP.
const MESSAGE_BYTES: usize = 4_096;

/// The actions that answer queries.
static ANSWERS: &[Declared<Action>] = &[
    declared("RCodeAction", "code [, {aa=, ad=, ra=}]", "Answers with this code.", |call, a| {
        let written = a.byte(0, u8::MAX)?;
        // As in dnsdist: the header has four bits for it.
        let code = written & 0x0f;
        if code != written {
            let note = format!("code is {written}, of which {code} is sent; ERCodeAction sends all of it");
            call.warn(Fault::Note(note));
        }
        Ok(Action::RCode(code.into(), flags(call, a.given(1), &[], &mut no_more)?))
    }),
    declared(
        "ERCodeAction",
        "code [, {aa=, ad=, ra=}]",
        "Answers with this code, including its extended part.",
        |call, a| {
            let code = a.whole(0, 4095)?;
            Ok(Action::RCode(low(code), flags(call, a.given(1), &[], &mut no_more)?))
        },
    ),
    declared("TCAction", "", "Answers TC=1 over UDP; no effect over TCP.", |_, _| {
        Ok(Action::Tc(Flags::default()))
    }),
    declared(
        "NegativeAndSOAAction",
        "nxd, zone, ttl, mname, rname, serial, refresh, retry, expire, minimum [, {aa=, ad=, ra=, \
         soaInAuthoritySection=false}]",
        "Answers NXDOMAIN, or NODATA, with a SOA.",
        negative,
    ),
    declared(
        "SpoofAction",
        "address | {address, ...} [, {aa=, ad=, ra=, ttl=60}] or v4, v6 [, {aa=, ad=, ra=, ttl=60}]",
        "Answers A, AAAA and ANY with these addresses.",
        spoof,
    ),
    declared("SpoofCNAMEAction", "name [, {aa=, ad=, ra=, ttl=60}]", "Answers with a CNAME.", |call, a| {
        let name = packet::wire(a.what(0), a.at(0))?;
        Ok(Action::SpoofCname(name.into(), flags(call, a.given(1), &["ttl"], &mut no_more)?))
    }),
    declared(
        "SpoofRawAction",
        "data | {data, ...} [, {aa=, ad=, ra=, ttl=60, typeForAny=}]",
        "Answers with records of the queried type and these contents; ANY only with `typeForAny`.",
        raw,
    ),
    declared(
        "SpoofSVCAction",
        "{parameters, ...} [, {aa=, ad=, ra=, ttl=60}]",
        "Answers SVCB and HTTPS with records of `newSVCRecordParameters`, their hints as additional records.",
        |call, a| {
            let records = services(call, a.at(0))?;
            Ok(Action::SpoofSvc(records.into(), flags(call, a.given(1), &["ttl"], &mut no_more)?))
        },
    ),
    declared(
        "SpoofPacketAction",
        "message [, length]",
        "Answers with this message and the query's id.",
        |_, a| {
            let mut message = a.bytes(0)?;
            let length = a.given(1).map_or(Ok(u32::MAX), |_| a.whole(1, u32::MAX))?;
            message.truncate(length as usize);
            if !(12..=MESSAGE_BYTES).contains(&message.len()) {
                let wrong = counted(message.len(), "byte");
                return Err(Fault::value(a.what(0), wrong, "a DNS message of 12 to 4096 bytes"));
            }
            Ok(Action::SpoofPacket(message.into()))
        },
    ),
];

/// Returns every action that answers queries.
pub fn answers() -> impl Iterator<Item = &'static Entry> {
    ANSWERS.iter().map(|action| &action.entry)
}

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    define_actions(lua, context, ANSWERS, RuleAction::Query)?;
    context.define(lua, "newSVCRecordParameters", |call, a| {
        let made = parameters(call, a).map(Parameters);
        stand_in(call, made)
    })
}

/// Reads an option besides those of every answer; false when it is unknown.
type Other<'f> = dyn FnMut(&str, &Value) -> Result<bool, Fault> + 'f;

fn no_more(_: &str, _: &Value) -> Result<bool, Fault> {
    Ok(false)
}

/// Reads `{aa=, ad=, ra=}` and, if it is among the `further` options, `ttl=`.
fn flags(
    call: &mut Call<'_>,
    value: Option<&Value>,
    further: &[&str],
    other: &mut Other<'_>,
) -> Result<Flags, Fault> {
    let mut flags = Flags::default();
    let Some(value) = value else { return Ok(flags) };
    for (name, v) in named("the table of options", value)? {
        match name.as_str() {
            "aa" => flags.aa = switch(&name, &v)?,
            "ad" => flags.ad = switch(&name, &v)?,
            "ra" => flags.ra = Some(switch(&name, &v)?),
            "ttl" if further.contains(&"ttl") => flags.ttl = ttl(call, &name, &v)?,
            _ => {
                if !other(&name, &v)? {
                    let known = ["aa", "ad", "ra"].into_iter().chain(further.iter().copied());
                    call.unknown("option", &name, known);
                }
            }
        }
    }
    Ok(flags)
}

fn negative(call: &mut Call<'_>, a: Arguments<'_>) -> Result<Action, Fault> {
    // serial, refresh, retry, expire, minimum
    let mut numbers = [0; 5];
    for (at, number) in numbers.iter_mut().enumerate() {
        *number = a.whole(5 + at, u32::MAX)?;
    }
    let mut in_authority = false;
    let mut other = |name: &str, v: &Value| {
        let known = name == "soaInAuthoritySection";
        if known {
            in_authority = switch(name, v)?;
        }
        Ok(known)
    };
    let mut flags = flags(call, a.given(10), &["soaInAuthoritySection"], &mut other)?;
    flags.ttl = a.nearest(call, 2, TTL_MAX)?;
    Ok(Action::NegativeAndSoa(Arc::new(NegativeSoa {
        nxdomain: a.switch(0)?,
        zone: packet::wire(a.what(1), a.at(1))?,
        mname: packet::wire(a.what(3), a.at(3))?,
        rname: packet::wire(a.what(4), a.at(4))?,
        numbers,
        in_authority,
        flags,
    })))
}

fn spoof(call: &mut Call<'_>, a: Arguments<'_>) -> Result<Action, Fault> {
    const ADDRESS: &str = "an address, as \"192.0.2.1\", or a list of them";
    let mut options = a.given(1);
    // The older form: SpoofAction(v4, v6 [, options]).
    let second = options.filter(|v| !v.is_table());
    if second.is_some() {
        options = a.given(2);
    } else {
        a.at_most(2)?;
    }
    let mut addresses = Addresses::default();
    for item in items(a.at(0))?.chain(second.map(|v| Ok(v.clone()))) {
        match address("the address", &item?, ADDRESS)?.ip() {
            IpAddr::V4(ip) => addresses.v4.push(ip.octets()),
            IpAddr::V6(ip) => addresses.v6.push(ip.octets()),
        }
    }
    if addresses.v4.is_empty() && addresses.v6.is_empty() {
        call.warn_empty_list("the address", ANSWERS_NOTHING);
    }
    fitting(addresses.v4.len() * 16 + addresses.v6.len() * 28)?;
    Ok(Action::Spoof(Arc::new(addresses), flags(call, options, &["ttl"], &mut no_more)?))
}

fn fitting(bytes: usize) -> Result<(), Fault> {
    if bytes <= CONTENTS_BYTES {
        return Ok(());
    }
    let what = format!("{bytes} bytes of records");
    Err(Fault::Limit { what, limit: format!("{CONTENTS_BYTES}, which fit into a datagram") })
}

fn raw(call: &mut Call<'_>, a: Arguments<'_>) -> Result<Action, Fault> {
    let rdata: Vec<Vec<u8>> =
        items(a.at(0))?.map(|item| bytes("the data", &item?)).collect::<Result<_, _>>()?;
    if rdata.is_empty() {
        call.warn_empty_list("the data", ANSWERS_NOTHING);
        return Ok(Action::None);
    }
    fitting(rdata.iter().map(|r| r.len() + 12).sum())?;
    let mut type_for_any = None;
    let mut other = |name: &str, v: &Value| {
        let known = name == "typeForAny";
        if known {
            type_for_any = Some(code(name, v, "a type, as DNSQType.HINFO", enumerations::qtype)?);
        }
        Ok(known)
    };
    let flags = flags(call, a.given(1), &["ttl", "typeForAny"], &mut other)?;
    Ok(Action::SpoofRaw(Arc::new(RawRecords { rdata, type_for_any }), flags))
}

/// The result of `newSVCRecordParameters`.
#[derive(Clone, Debug)]
struct Parameters(SvcRecord);

impl UserData for Parameters {}

fn services(call: &mut Call<'_>, value: &Value) -> Result<Vec<SvcRecord>, Fault> {
    const RECORDS: &str = "a list of newSVCRecordParameters(...)";
    let mut records = Vec::new();
    for item in items(value).map_err(|_| wrong("the list", value, RECORDS))? {
        let item = item?;
        let record = item.as_userdata().and_then(|u| u.borrow::<Parameters>().ok().map(|p| p.0.clone()));
        match record {
            Some(record) => records.push(record),
            None if is_inert(&item) => {}
            None => return Err(wrong("the record", &item, RECORDS)),
        }
    }
    if records.is_empty() && !is_inert(value) && value.as_table().is_none_or(mlua::Table::is_empty) {
        call.warn_empty_list("the list", "SVCB and HTTPS are answered without records");
    }
    let is_alias = |r: &SvcRecord| r.priority == 0;
    if records.iter().any(is_alias) && !records.iter().all(is_alias) {
        return Err(Fault::Conflict {
            wrong: "records of priority 0 and of another one".to_owned(),
            expected: "either aliases or services: clients ignore the latter (RFC 9460, 2.4.1)".to_owned(),
        });
    }
    let bytes = |r: &SvcRecord| {
        let hints = r.v4.len() * 16 + r.v6.len() * 28;
        14 + r.target.len() + r.params.len() + hints
    };
    fitting(records.iter().map(bytes).sum())?;
    Ok(records)
}

/// SvcParamKeys with a name (RFC 9460, 14.3.2), and dnsdist's names.
const KEYS: [(&str, u16); 8] = [
    ("mandatory", 0),
    ("alpn", 1),
    ("noDefaultAlpn", 2),
    ("no-default-alpn", 2),
    ("port", 3),
    ("ipv4hint", 4),
    ("ech", 5),
    ("ipv6hint", 6),
];

fn parameters(call: &mut Call<'_>, a: Arguments<'_>) -> Result<SvcRecord, Fault> {
    let priority = a.word(0)?;
    let target = packet::wire(a.what(1), a.at(1))?;
    let mut params = SvcParams::default();
    let is_list = a.given(2).and_then(Value::as_table).is_none_or(|t| t.raw_len() > 0);
    if a.count() > 3 || (a.given(2).is_some() && is_list) {
        positional(a, &mut params)?;
    } else if let Some(value) = a.given(2) {
        let mut names: HashMap<u16, String> = HashMap::new();
        for (name, v) in named("the table of parameters", value)? {
            let Some(key) = key(&name) else {
                call.unknown("option", &name, KEYS.iter().map(|(n, _)| *n));
                continue;
            };
            if v.as_table().is_some_and(mlua::Table::is_empty) {
                call.warn_empty_list(&name, "the record is without this key");
                continue;
            }
            parameter(&name, key, &v, &mut params)?;
            if let Some(first) = names.insert(key, name.clone()) {
                let wrong = format!("{first} and {name} are the same key");
                return Err(Fault::Conflict { wrong, expected: "it once".to_owned() });
            }
        }
    }
    // Each is searched among all others below.
    fitting(2 * params.mandatory.len() + 4 * params.others.len())?;
    if let Some(key) = params.lacks() {
        let wrong = format!("key {key} is mandatory and not given");
        return Err(Fault::Conflict { wrong, expected: "only keys that are given (RFC 9460, 8)".to_owned() });
    }
    SvcRecord::new(priority, target, &params).map_err(|e| Fault::Conflict {
        wrong: e.to_owned(),
        expected: "parameters as in RFC 9460, 2.2".to_owned(),
    })
}

/// Reads dnsdist's longer form: mandatory, alpns, noDefaultAlpn, port, ech, hints, further keys.
fn positional(a: Arguments<'_>, params: &mut SvcParams) -> Result<(), Fault> {
    for (at, name, key) in [
        (2, "mandatory", 0),
        (3, "alpns", 1),
        (4, "noDefaultAlpn", 2),
        (7, "ipv4hints", 4),
        (8, "ipv6hints", 6),
    ] {
        let empty = |v: &&Value| v.as_table().is_some_and(mlua::Table::is_empty);
        if let Some(v) = a.given(at).filter(|v| !empty(v)) {
            parameter(name, key, v, params)?;
        }
    }
    if let Some(v) = a.given(5).filter(|v| number(v) != Some(0.0)) {
        parameter("port", 3, v, params)?;
    }
    params.ech = a.given(6).map_or(Ok(Vec::new()), |v| bytes("ech", v))?;
    let Some(further) = a.given(9) else { return Ok(()) };
    let table = further.as_table().ok_or_else(|| a.wrong(9, "a table of further keys, as {[42]=data}"))?;
    for pair in table.pairs::<Value, Value>() {
        let (name, v) = pair?;
        let key = low(whole("a key", &name, 0, u16::MAX.into())?);
        params.others.push((key, bytes(&format!("key {key}"), &v)?));
    }
    Ok(())
}

fn key(name: &str) -> Option<u16> {
    let known = KEYS.iter().find(|(n, _)| *n == name).map(|(_, key)| *key);
    let plain = || name.strip_prefix("key").and_then(|n| n.parse().ok());
    known.or_else(plain)
}

fn parameter(name: &str, key: u16, v: &Value, params: &mut SvcParams) -> Result<(), Fault> {
    match key {
        0 => {
            for item in items(v)? {
                let item = item?;
                let by_name = item.as_string().and_then(|s| self::key(&s.to_string_lossy()));
                params.mandatory.push(match by_name {
                    Some(key) => key,
                    None => low(whole(name, &item, 1, u16::MAX.into())?),
                });
            }
        }
        1 => {
            for item in items(v)? {
                params.alpn.push(bytes(name, &item?)?);
            }
        }
        2 => params.no_default_alpn = switch(name, v)?,
        3 => params.port = Some(low(whole(name, v, 0, u16::MAX.into())?)),
        4 => {
            let list = hints::<Ipv4Addr>(name, v, "an IPv4 address, or a list of them")?;
            params.v4 = list.iter().map(Ipv4Addr::octets).collect();
        }
        5 => {
            params.ech = bytes(name, v)?;
            if params.ech.is_empty() {
                return Err(Fault::value(name, "empty", "a list of configurations (ECHConfigList)"));
            }
        }
        6 => {
            let list = hints::<Ipv6Addr>(name, v, "an IPv6 address, or a list of them")?;
            params.v6 = list.iter().map(Ipv6Addr::octets).collect();
        }
        _ => params.others.push((key, bytes(name, v)?)),
    }
    Ok(())
}

fn hints<T: std::str::FromStr>(name: &str, v: &Value, expected: &str) -> Result<Vec<T>, Fault> {
    let read = |v: &Value| text(name, v, expected)?.parse().map_err(|_| wrong(name, v, expected));
    let list: Vec<T> = items(v)?.map(|item| read(&item?)).collect::<Result<_, _>>()?;
    if list.is_empty() { Err(Fault::value(name, shown(v), expected)) } else { Ok(list) }
}
