//! A difference in words, for people.

use std::fmt::Write;
use std::ops::Range;

use crate::compare::{Class, Found};
use crate::wire::header::Header;
use crate::wire::query::Question;
use crate::wire::records::{Record, Records, rtype};
use crate::wire::{codes, edns, header, name};

/// Bytes of data that are shown,
const DATA_MAX: usize = 24;
/// or of text,
const TEXT_MAX: usize = 80;
/// and of the former in front of the first difference, at most.
const FRONT_MAX: usize = 4;
/// Records that are looked at for their order.
const RECORDS_MAX: usize = 64;

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
        Class::Missing => format!("without {}", record(first, found.missing_at, 0)),
        Class::Extra => format!("with {}", record(second, found.extra_at, 0)),
        Class::Data => {
            let (a, b) = (found.data_at.map(|at| at.0), found.data_at.map(|at| at.1));
            let from = alike(first, a, second, b);
            format!("{}, then {}", record(first, a, from), record(second, b, from))
        }
        Class::Flags => format!("flags {}, then {}", flags(first), flags(second)),
        Class::Ttl => {
            let [a, b] = [(first, found.ttl_at.map(|at| at.0)), (second, found.ttl_at.map(|at| at.1))]
                .map(|(message, at)| find(message, at).map_or(0, |record| record.ttl));
            format!("TTL {a}, then {b} of {}", record(first, found.ttl_at.map(|at| at.0), 0))
        }
        Class::Order => order(first, second).unwrap_or_else(|| "another order".to_owned()),
        Class::Edns => {
            let [a, b] = [opt(first), opt(second)];
            if a == b { format!("OPT {a}, with other data") } else { format!("OPT {a}, then {b}") }
        }
    }
}

/// Names the records that are the first to have changed their places.
fn order(first: &[u8], second: &[u8]) -> Option<String> {
    let all = |message| {
        let records = Records::of(message).take(RECORDS_MAX);
        // A message has less than 65,536 bytes.
        records.map(move |r| (r.section, record(message, Some(r.start as u16), 0)))
    };
    let mut pairs = all(first).zip(all(second)).filter(|((a, _), (b, _))| a == b);
    let ((_, a), (_, b)) = pairs.find(|((_, a), (_, b))| !a.eq_ignore_ascii_case(b))?;
    Some(format!("in one place {a}, then {b}"))
}

/// Writes what an OPT record has.
fn opt(message: &[u8]) -> String {
    let Some(opt) = edns::locate(message) else { return "none".to_owned() };
    let mut out = opt.payload.to_string();
    if opt.version > 0 {
        let _ = write!(out, " version {}", opt.version);
    }
    out += if opt.dnssec_ok { " DO" } else { "" };
    let options: Vec<String> =
        edns::options(message, &opt).map(|(code, data)| format!("{code} of {} bytes", data.len())).collect();
    if !options.is_empty() {
        let _ = write!(out, " with options {}", options.join(", "));
    }
    out
}

/// Writes the data of a TXT record: its strings in quotes.
fn strings(out: &mut String, mut data: &[u8]) -> Option<()> {
    let mut said = Vec::new();
    while let Some((length, rest)) = data.split_first() {
        let (string, rest) = rest.split_at_checked((*length).into())?;
        said.push(format!("\"{}\"", string.escape_ascii()));
        data = rest;
    }
    let said = said.join(" ");
    // Longer ones are shown where they differ.
    (said.len() <= TEXT_MAX).then(|| *out += &said)
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

/// Returns how many bytes of data two records have in common at the begin.
fn alike(first: &[u8], a: Option<u16>, second: &[u8], b: Option<u16>) -> usize {
    let data = |message, at| {
        let record = find(message, at);
        record.and_then(|record| message.get(record.rdata)).unwrap_or_default()
    };
    data(first, a).iter().zip(data(second, b)).take_while(|(a, b)| a == b).count()
}

/// Writes a record as `NAME TYPE DATA`. Long data is shown from these bytes on.
fn record(message: &[u8], at: Option<u16>, from: usize) -> String {
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
            Err(_) => hex(&mut out, data, from),
        },
        rtype::NS | rtype::CNAME | rtype::PTR | rtype::DNAME => {
            match name::read(message, record.rdata.start, &mut buffer) {
                Some((length, _)) => drop(write!(out, "{}", name::Text(&buffer[..length]))),
                None => hex(&mut out, data, from),
            }
        }
        rtype::SOA => {
            if start_of_authority(&mut out, message, record.rdata.clone()).is_none() {
                hex(&mut out, data, from);
            }
        }
        rtype::TXT => {
            if strings(&mut out, data).is_none() {
                hex(&mut out, data, from);
            }
        }
        _ => hex(&mut out, data, from),
    }
    out
}

/// Writes the data of a SOA record: two names, serial, refresh, retry, expire, minimum.
fn start_of_authority(out: &mut String, message: &[u8], data: Range<usize>) -> Option<()> {
    let mut buffer = [0; name::LEN_MAX];
    let mut said = String::new();
    let mut at = data.start;
    for _ in 0..2 {
        let (length, end) = name::read(message, at, &mut buffer)?;
        let _ = write!(said, "{} ", name::Text(&buffer[..length]));
        at = end;
    }
    let numbers = message.get(at..data.end).filter(|numbers| numbers.len() == 20)?;
    let (numbers, _) = numbers.as_chunks::<4>();
    let numbers: Vec<String> = numbers.iter().map(|n| u32::from_be_bytes(*n).to_string()).collect();
    *out += &said;
    *out += &numbers.join(" ");
    Some(())
}

/// Writes data as RFC 3597, section 5, does, cut where it is long: what is left out is `…`.
fn hex(out: &mut String, data: &[u8], from: usize) {
    let _ = write!(out, "\\# {} ", data.len());
    let from = if from < DATA_MAX { 0 } else { from.min(data.len()) - FRONT_MAX };
    if from > 0 {
        out.push('…');
    }
    for byte in data.iter().skip(from).take(DATA_MAX) {
        let _ = write!(out, "{byte:02x}");
    }
    if data.len() > from + DATA_MAX {
        out.push('…');
    }
}
