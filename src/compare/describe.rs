//! A difference in words, for people.

use std::fmt::Write;

use crate::compare::{Class, Found};
use crate::wire::header::Header;
use crate::wire::query::Question;
use crate::wire::records::{Record, Records, rtype};
use crate::wire::{codes, edns, header, name};

/// Bytes of data that are shown.
const DATA_MAX: usize = 24;

/// Returns the question of a message as `NAME TYPE`.
#[must_use]
pub fn question(message: &[u8]) -> String {
    let asked = Header::parse(message).filter(|head| head.qdcount() > 0);
    match asked.and_then(|_| Question::parse(message)) {
        Some(question) => {
            format!("{} {}", name::Text(question.qname), codes::type_name(question.qtype))
        }
        None => "no question".to_owned(),
    }
}

/// Describes what has been found in two messages.
#[must_use]
pub fn describe(found: &Found, first: &[u8], second: &[u8]) -> String {
    let said: Vec<String> = found.classes.iter().map(|class| words(class, found, first, second)).collect();
    if said.is_empty() { Class::Same.label().to_owned() } else { said.join("; ") }
}

fn words(class: Class, found: &Found, first: &[u8], second: &[u8]) -> String {
    match class {
        Class::Same => class.label().to_owned(),
        Class::Malformed => "cannot be parsed".to_owned(),
        Class::Rcode => {
            let [a, b] = [first, second].map(|message| codes::rcode_name(edns::rcode(message)));
            format!("{a}, then {b}")
        }
        Class::Missing => format!("without {}", record(first, found.missing_at)),
        Class::Extra => format!("with {}", record(second, found.extra_at)),
        Class::Data => {
            format!("{}, then {}", record(first, found.missing_at), record(second, found.extra_at))
        }
        Class::Flags => format!("flags {}, then {}", flags(first), flags(second)),
        Class::Ttl => {
            let [a, b] = [(first, found.ttl_at.map(|at| at.0)), (second, found.ttl_at.map(|at| at.1))]
                .map(|(message, at)| find(message, at).map_or(0, |record| record.ttl));
            format!("TTL {a}, then {b} of {}", record(first, found.ttl_at.map(|at| at.0)))
        }
        Class::Order => "another order".to_owned(),
        Class::Edns => "another OPT record".to_owned(),
    }
}

fn flags(message: &[u8]) -> String {
    let Some(&[high, low]) = message.get(2..).and_then(<[u8]>::first_chunk) else { return String::new() };
    let all = [
        (high & header::AA, "AA"),
        (high & header::TC, "TC"),
        (high & header::RD, "RD"),
        (low & header::RA, "RA"),
        (low & header::AD, "AD"),
        (low & header::CD, "CD"),
        (low & 0x40, "Z"),
        (high & 0x78, "opcode"),
    ];
    let set: Vec<&str> = all.iter().filter(|(bit, _)| *bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "none".to_owned() } else { set.join(" ") }
}

fn find(message: &[u8], at: Option<u16>) -> Option<Record> {
    let at = usize::from(at?);
    Records::of(message).find(|record| record.start == at)
}

/// Writes a record as `NAME TYPE DATA`.
fn record(message: &[u8], at: Option<u16>) -> String {
    let Some(record) = find(message, at) else { return "a record".to_owned() };
    let mut out = String::new();
    let mut buffer = [0; name::LEN_MAX];
    if let Some((length, _)) = name::read(message, record.start, &mut buffer) {
        let _ = write!(out, "{} ", name::Text(&buffer[..length]));
    }
    let _ = write!(out, "{} ", codes::type_name(record.rtype));
    let data = message.get(record.rdata.clone()).unwrap_or_default();
    match record.rtype {
        rtype::A if data.len() == 4 => {
            let _ = write!(out, "{}.{}.{}.{}", data[0], data[1], data[2], data[3]);
        }
        rtype::AAAA => match <[u8; 16]>::try_from(data) {
            Ok(address) => drop(write!(out, "{}", std::net::Ipv6Addr::from(address))),
            Err(_) => hex(&mut out, data),
        },
        rtype::NS | rtype::CNAME | rtype::PTR | rtype::DNAME => {
            match name::read(message, record.rdata.start, &mut buffer) {
                Some((length, _)) => drop(write!(out, "{}", name::Text(&buffer[..length]))),
                None => hex(&mut out, data),
            }
        }
        _ => hex(&mut out, data),
    }
    out
}

/// Writes data as RFC 3597, section 5, does, cut where it is long.
fn hex(out: &mut String, data: &[u8]) {
    let _ = write!(out, "\\# {} ", data.len());
    for byte in data.iter().take(DATA_MAX) {
        let _ = write!(out, "{byte:02x}");
    }
    if data.len() > DATA_MAX {
        out.push('…');
    }
}
