//! Actions that answer queries: response codes, negative answers, spoofing, SVCB parameters.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use mlua::{Lua, UserData, Value};

use crate::config::error::Fault;
use crate::config::functions::enumerations;
use crate::lua::front_end::actions::{Make, TTL_MAX, ttl};
use crate::lua::front_end::argument::{named, number, shown, switch, text, whole, wrong};
use crate::lua::front_end::arguments::{Arguments, bytes, items};
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::missing::is_inert;
use crate::lua::front_end::networks::address;
use crate::lua::front_end::packet;
use crate::lua::front_end::selectors::{code, low, stand_in};
use crate::rules::action::{Action, Addresses, NegativeSoa, RawRecords};
use crate::wire::answer::Flags;
use crate::wire::svc::{SvcParams, SvcRecord};

/// Most bytes of an answer's records: it must fit into a datagram.
const CONTENTS_BYTES: usize = 3_500;
/// Longest message, bytes: the most that is sent over UDP.
const MESSAGE_BYTES: usize = 4_096;

/// Each action with its most arguments.
pub(crate) const MAKERS: [(&str, usize, Make<Action>); 9] = [
    ("RCodeAction", 2, |_, a| {
        let code = a.byte(0, "the code", 15)?;
        Ok(Action::RCode(code.into(), flags(a.given(1), &[], &mut no_more)?))
    }),
    ("ERCodeAction", 2, |_, a| {
        let code = a.whole(0, "the code", 4095)?;
        Ok(Action::RCode(low(code), flags(a.given(1), &[], &mut no_more)?))
    }),
    ("TCAction", 0, |_, _| Ok(Action::Tc(Flags::default()))),
    ("NegativeAndSOAAction", 11, negative),
    ("SpoofAction", 3, spoof),
    ("SpoofCNAMEAction", 2, |_, a| {
        let name = packet::wire("the name", a.at(0))?;
        Ok(Action::SpoofCname(name.into(), flags(a.given(1), &["ttl"], &mut no_more)?))
    }),
    ("SpoofRawAction", 2, raw),
    ("SpoofSVCAction", 2, |_, a| {
        let records = services(a.at(0))?;
        Ok(Action::SpoofSvc(records.into(), flags(a.given(1), &["ttl"], &mut no_more)?))
    }),
    ("SpoofPacketAction", 2, |_, a| {
        let mut message = a.bytes(0, "the message")?;
        let length = a.whole_or(1, "the length", u32::MAX, u32::MAX)?;
        message.truncate(length as usize);
        if !(12..=MESSAGE_BYTES).contains(&message.len()) {
            let wrong = format!("{} bytes", message.len());
            return Err(Fault::value("the message", wrong, "a DNS message of 12 to 4096 bytes"));
        }
        Ok(Action::SpoofPacket(message.into()))
    }),
];

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define(lua, "newSVCRecordParameters", |call, values| {
        let arguments = Arguments(values);
        let made = arguments.at_most(10).and_then(|()| parameters(arguments)).map(Parameters);
        stand_in(call, made)
    })
}

/// Reads an option besides those of every answer; false when it is unknown.
type Other<'f> = dyn FnMut(&str, &Value) -> Result<bool, Fault> + 'f;

fn no_more(_: &str, _: &Value) -> Result<bool, Fault> {
    Ok(false)
}

/// Reads `{aa=, ad=, ra=}` and, if it is among the `further` options, `ttl=`.
fn flags(value: Option<&Value>, further: &[&str], other: &mut Other<'_>) -> Result<Flags, Fault> {
    let mut flags = Flags::default();
    let Some(value) = value else { return Ok(flags) };
    for (name, v) in named("the options", value)? {
        match name.as_str() {
            "aa" => flags.aa = switch(&name, &v)?,
            "ad" => flags.ad = switch(&name, &v)?,
            "ra" => flags.ra = Some(switch(&name, &v)?),
            "ttl" if further.contains(&"ttl") => flags.ttl = ttl(&name, &v)?,
            _ => {
                if !other(&name, &v)? {
                    let known = ["aa", "ad", "ra"].into_iter().chain(further.iter().copied());
                    return Err(Fault::unknown("option", &name, known));
                }
            }
        }
    }
    Ok(flags)
}

fn negative(_: &mut Call<'_>, a: Arguments<'_>) -> Result<Action, Fault> {
    const NUMBERS: [&str; 5] = ["serial", "refresh", "retry", "expire", "minimum"];
    let mut numbers = [0; 5];
    for (at, what) in NUMBERS.into_iter().enumerate() {
        numbers[at] = a.whole(5 + at, what, u32::MAX)?;
    }
    let mut in_authority = false;
    let mut other = |name: &str, v: &Value| {
        let known = name == "soaInAuthoritySection";
        if known {
            in_authority = switch(name, v)?;
        }
        Ok(known)
    };
    let mut flags = flags(a.given(10), &["soaInAuthoritySection"], &mut other)?;
    flags.ttl = a.whole(2, "ttl", TTL_MAX)?;
    Ok(Action::NegativeAndSoa(Arc::new(NegativeSoa {
        nxdomain: switch("nxd", a.at(0))?,
        zone: packet::wire("zone", a.at(1))?,
        mname: packet::wire("mname", a.at(3))?,
        rname: packet::wire("rname", a.at(4))?,
        numbers,
        in_authority,
        flags,
    })))
}

fn spoof(_: &mut Call<'_>, a: Arguments<'_>) -> Result<Action, Fault> {
    const ADDRESS: &str = "an address, as \"192.0.2.1\", or a list of them";
    let mut options = a.given(1);
    // The older form: SpoofAction(v4, v6 [, options]).
    let second = options.filter(|v| !v.is_table());
    if second.is_some() {
        options = a.given(2);
    } else if a.given(2).is_some() {
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
        return Err(Fault::value("the address", "an empty list", ADDRESS));
    }
    fitting(addresses.v4.len() * 16 + addresses.v6.len() * 28)?;
    Ok(Action::Spoof(Arc::new(addresses), flags(options, &["ttl"], &mut no_more)?))
}

fn fitting(bytes: usize) -> Result<(), Fault> {
    if bytes <= CONTENTS_BYTES {
        return Ok(());
    }
    let what = format!("{bytes} bytes of records");
    Err(Fault::Limit { what, limit: format!("{CONTENTS_BYTES}, which fit into a datagram") })
}

fn raw(_: &mut Call<'_>, a: Arguments<'_>) -> Result<Action, Fault> {
    let rdata: Vec<Vec<u8>> =
        items(a.at(0))?.map(|item| bytes("the data", &item?)).collect::<Result<_, _>>()?;
    if rdata.is_empty() {
        return Err(Fault::value("the data", "an empty list", "a string of bytes, or a list of them"));
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
    let flags = flags(a.given(1), &["ttl", "typeForAny"], &mut other)?;
    Ok(Action::SpoofRaw(Arc::new(RawRecords { rdata, type_for_any }), flags))
}

/// The result of `newSVCRecordParameters`.
#[derive(Clone, Debug)]
struct Parameters(SvcRecord);

impl UserData for Parameters {}

fn services(value: &Value) -> Result<Vec<SvcRecord>, Fault> {
    const RECORDS: &str = "a list of newSVCRecordParameters(...)";
    let mut records = Vec::new();
    for item in items(value).map_err(|_| wrong("the records", value, RECORDS))? {
        let item = item?;
        let record = item.as_userdata().and_then(|u| u.borrow::<Parameters>().ok().map(|p| p.0.clone()));
        match record {
            Some(record) => records.push(record),
            None if is_inert(&item) => {}
            None => return Err(wrong("the records", &item, RECORDS)),
        }
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

fn parameters(a: Arguments<'_>) -> Result<SvcRecord, Fault> {
    let priority = a.word(0, "the priority")?;
    let target = packet::wire("the target", a.at(1))?;
    let mut params = SvcParams::default();
    let is_list = a.given(2).and_then(Value::as_table).is_none_or(|t| t.raw_len() > 0);
    if a.0.len() > 3 || (a.given(2).is_some() && is_list) {
        positional(a, &mut params)?;
    } else if let Some(value) = a.given(2) {
        for (name, v) in named("the parameters", value)? {
            parameter(&name, key(&name)?, &v, &mut params)?;
        }
    }
    // Each is searched among all others below.
    fitting(2 * params.mandatory.len() + 4 * params.others.len())?;
    if let Some(key) = params.mandatory.iter().find(|key| !is_given(&params, **key)) {
        let wrong = format!("key {key} is mandatory and not given");
        return Err(Fault::Conflict { wrong, expected: "only keys that are given (RFC 9460, 8)".to_owned() });
    }
    SvcRecord::new(priority, target, &params).map_err(|e| Fault::Conflict {
        wrong: e.to_owned(),
        expected: "parameters as in RFC 9460, 2.2".to_owned(),
    })
}

fn is_given(params: &SvcParams, key: u16) -> bool {
    match key {
        // The encoder checks that the key mandatory is not mandatory itself.
        0 => true,
        1 => !params.alpn.is_empty(),
        2 => params.no_default_alpn,
        3 => params.port.is_some(),
        4 => !params.v4.is_empty(),
        5 => !params.ech.is_empty(),
        6 => !params.v6.is_empty(),
        _ => params.others.iter().any(|(other, _)| *other == key),
    }
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
    let table =
        further.as_table().ok_or_else(|| wrong("the further keys", further, "a table, as {[42]=data}"))?;
    for pair in table.pairs::<Value, Value>() {
        let (name, v) = pair?;
        let key = low(whole("a key", &name, 0, u16::MAX.into())?);
        params.others.push((key, bytes(&format!("key {key}"), &v)?));
    }
    Ok(())
}

fn key(name: &str) -> Result<u16, Fault> {
    let known = KEYS.iter().find(|(n, _)| *n == name).map(|(_, key)| *key);
    let plain = || name.strip_prefix("key").and_then(|n| n.parse().ok());
    known.or_else(plain).ok_or_else(|| Fault::unknown("option", name, KEYS.iter().map(|(n, _)| *n)))
}

fn parameter(name: &str, key: u16, v: &Value, params: &mut SvcParams) -> Result<(), Fault> {
    match key {
        0 => {
            for item in items(v)? {
                let item = item?;
                let by_name = item.as_string().and_then(|s| self::key(&s.to_string_lossy()).ok());
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
        5 => params.ech = bytes(name, v)?,
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
