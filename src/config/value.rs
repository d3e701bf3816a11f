//! Parsers of values: addresses, spans of time, CPU lists, DNS names.
//!
//! From text to value; each error says what was expected.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::base::time::TickDelta;
use crate::model::console::ConsoleKey;

/// The default port.
pub const DNS_PORT: u16 = 53;

/// The form of an [`address`].
pub const ADDRESS: &str =
    "IP[:PORT], as \"192.0.2.1\", \"192.0.2.1:5353\", \"2001:db8::1\" or \"[2001:db8::1]:5353\"";

/// The default port of DNS over TLS (RFC 7858, 3.1).
pub const DOT_PORT: u16 = 853;

/// Parses `IP[:PORT]`; IPv6 bare, in brackets, or in brackets with a port. Host names are refused.
///
/// # Errors
/// What was expected.
pub fn address(text: &str) -> Result<SocketAddr, &'static str> {
    if let Some((front, rest)) = text.split_once('%') {
        return zoned(front, rest);
    }
    let bare = |t: &str| t.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DNS_PORT));
    let bracketed = || text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).filter(|t| t.contains(':'));
    text.parse::<SocketAddr>()
        .ok()
        .or_else(|| bare(text))
        .or_else(|| bracketed().and_then(bare))
        .filter(|a| a.port() != 0)
        .ok_or_else(|| port_or(text, ADDRESS))
        .and_then(reachable)
}

const PORT: &str = "a port from 1 to 65535 behind the address";

/// Returns what was expected: a port in range where only that is wrong, or the whole form.
fn port_or(text: &str, form: &'static str) -> &'static str {
    let Some((ip, port)) = text.rsplit_once(':') else { return form };
    let ip = ip.split_once('%').map_or_else(|| ip.to_owned(), |(ip, _)| format!("{ip}]"));
    let is_address = format!("{ip}:1").parse::<SocketAddr>().is_ok();
    let is_number = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if is_address && is_number { PORT } else { form }
}

/// Parses an address with or without a port, which is 0 then and may be 0.
///
/// # Errors
/// What was expected.
pub fn endpoint(text: &str) -> Result<SocketAddr, &'static str> {
    let bracketed = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let bare = bracketed.filter(|t| t.contains(':')).unwrap_or(text).parse::<IpAddr>();
    let bare = bare.map(|ip| SocketAddr::new(ip, 0)).ok();
    bare.or_else(|| text.parse().ok()).map_or_else(|| address(text), Ok)
}

/// Refuses an address that says nothing without a zone.
fn reachable(address: SocketAddr) -> Result<SocketAddr, &'static str> {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => Err(ZONE_MISSING),
        SocketAddr::V4(_) | SocketAddr::V6(_) => Ok(address),
    }
}

/// Parses an [`address`] whose default port is this one.
///
/// # Errors
/// What was expected.
pub fn address_of(text: &str, port: u16) -> Result<SocketAddr, &'static str> {
    let mut address = address(text)?;
    let has_port = text.rsplit_once("]:").is_some() || text.parse::<SocketAddr>().is_ok();
    if !has_port {
        address.set_port(port);
    }
    Ok(address)
}

/// The form of a [`console_key`].
pub const CONSOLE_KEY: &str = "32 bytes in base64, as makeKey() prints them";

/// Reads a key of the console.
///
/// # Errors
/// What was expected.
pub fn console_key(text: &str) -> Result<ConsoleKey, &'static str> {
    let bytes = STANDARD.decode(text.trim()).map_err(|_| CONSOLE_KEY)?;
    bytes.try_into().map(ConsoleKey).map_err(|_| CONSOLE_KEY)
}

const ZONE_MISSING: &str =
    "a zone too for a link-local address, as \"fe80::1%eth0\" or \"[fe80::1%eth0]:5353\"";
const ZONE: &str = "a zone that is the name or number of a network interface, as \"fe80::1%eth0\"";

/// Parses an address with a zone (RFC 4007, 11), of which `front` precedes the `%`. A name is looked
/// up in the machine's table of interfaces.
fn zoned(front: &str, rest: &str) -> Result<SocketAddr, &'static str> {
    let (ip, zone, port) = match front.strip_prefix('[') {
        Some(ip) => {
            let (zone, port) = rest.split_once(']').ok_or(ADDRESS)?;
            let port = match port.strip_prefix(':') {
                Some(port) => {
                    let port = port.parse().ok().filter(|port| *port != 0);
                    port.ok_or_else(|| port_or(&format!("{front}%{rest}"), ADDRESS))?
                }
                None if port.is_empty() => DNS_PORT,
                None => return Err(ADDRESS),
            };
            (ip, zone, port)
        }
        None => (front, rest, DNS_PORT),
    };
    let ip: Ipv6Addr = ip.parse().map_err(|_| ADDRESS)?;
    let by_name = || nix::net::if_::if_nametoindex(zone).ok();
    let index = zone.parse().ok().or_else(by_name).filter(|index| *index != 0).ok_or(ZONE)?;
    Ok(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, index)))
}

/// The form of a [`service_address`].
pub const SERVICE_ADDRESS: &str = "IP:PORT, as \"192.0.2.1:25\" or \"[2001:db8::1]:25\"";

/// Parses `IP:PORT` of a service other than DNS, which has no default port.
///
/// # Errors
/// What was expected.
pub fn service_address(text: &str) -> Result<SocketAddr, &'static str> {
    if let Some((front, rest)) = text.split_once('%').filter(|(_, rest)| rest.contains("]:")) {
        return zoned(front, rest);
    }
    let address = text.parse::<SocketAddr>().ok().filter(|a| a.port() != 0);
    address.ok_or_else(|| port_or(text, SERVICE_ADDRESS)).and_then(reachable)
}

/// The form of a [`span`].
pub const SPAN: &str = "a duration, as \"200ms\", \"2s\" or \"1m\"";

/// Parses a span of time with its unit: `us`, `ms`, `s`, `m` or `h`; fractions are allowed. `0`
/// needs no unit.
///
/// # Errors
/// What was expected.
pub fn span(text: &str) -> Result<TickDelta, &'static str> {
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| SPAN)?;
    let ns = match unit {
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        "" if number == 0.0 => 1.0,
        _ => return Err(SPAN),
    };
    nanoseconds(number * ns).ok_or(SPAN)
}

/// Converts nanoseconds to a span; `None` for negative, not finite, or more than 500 years.
#[must_use]
pub fn nanoseconds(ns: f64) -> Option<TickDelta> {
    // The comparison bounds the cast.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (0.0..1.6e19).contains(&ns).then(|| TickDelta(ns.round() as u64))
}

/// Formats a span in the largest unit that divides it.
#[must_use]
pub fn span_text(span: TickDelta) -> String {
    const UNITS: [(u64, &str); 5] = [
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
    ];
    let whole = UNITS.iter().find(|(ns, _)| span.0 > 0 && span.0.is_multiple_of(*ns));
    match whole {
        Some((ns, unit)) => format!("{}{unit}", span.0 / ns),
        None if span.0 == 0 => "0s".to_owned(),
        None => format!("{}ns", span.0),
    }
}

/// The form of a [`fast_open_key`].
pub const FAST_OPEN_KEY: &str =
    "four groups of eight hexadecimal digits, as \"00112233-44556677-8899aabb-ccddeeff\"";

/// Parses a TCP Fast Open key in the kernel's format (`net.ipv4.tcp_fastopen_key`): four numbers,
/// each with the least significant byte first.
///
/// # Errors
/// What was expected.
pub fn fast_open_key(text: &str) -> Result<[u8; 16], &'static str> {
    let mut key = [0; 16];
    let mut groups = text.split('-');
    for bytes in key.chunks_exact_mut(4) {
        let group = groups.next().filter(|g| g.len() == 8 && g.bytes().all(|b| b.is_ascii_hexdigit()));
        let number = u32::from_str_radix(group.ok_or(FAST_OPEN_KEY)?, 16).map_err(|_| FAST_OPEN_KEY)?;
        bytes.copy_from_slice(&number.to_le_bytes());
    }
    if groups.next().is_some() { Err(FAST_OPEN_KEY) } else { Ok(key) }
}

/// The form of [`cpus`].
pub const CPUS: &str = "a list of CPU numbers and ranges below 4096, as \"0,2-5\"";

/// Parses a list of CPUs in the kernel's format; keeps the order, refuses duplicates.
///
/// # Errors
/// What was expected.
pub fn cpus(text: &str) -> Result<Vec<u16>, &'static str> {
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |t: &str| t.trim().parse::<u16>().ok().filter(|n| *n < 4096).ok_or(CPUS);
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(CPUS);
        }
        for cpu in first..=last {
            if list.contains(&cpu) {
                return Err(CPUS);
            }
            list.push(cpu);
        }
    }
    Ok(list)
}

/// Formats CPU numbers as a list, with ranges joined.
#[must_use]
pub fn cpus_text(cpus: &[u16]) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for cpu in cpus {
        match runs.last_mut() {
            Some(run) if run.1 + 1 == *cpu => run.1 = *cpu,
            _ => runs.push((*cpu, *cpu)),
        }
    }
    let texts: Vec<String> =
        runs.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
    texts.join(",")
}

/// Parses a domain name into lower-case wire format; the final dot is optional.
///
/// # Errors
/// What was expected.
pub fn wire_name(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut wire = name(text)?;
    // The length bytes are below any letter.
    wire.make_ascii_lowercase();
    Ok(wire)
}

/// The form of a [`qname`].
pub const QNAME: &str = "a domain name of at most 255 bytes with labels of 1 to 63";

/// Parses a domain name in presentation format (RFC 1035, 5.1, with `\.` and `\DDD`) of printable
/// ASCII, and returns it as it is formatted everywhere: with its final dot, escaped where needed.
///
/// # Errors
/// What was expected.
pub fn qname(text: &str) -> Result<String, &'static str> {
    Ok(crate::wire::name::Text(&name(text)?).to_string())
}

/// Says of bytes that are no UTF-8, and so no ASCII, what a name has to be.
pub const ASCII_NAME: &str = "a domain name in ASCII; an international one has a form with \"xn--\" for the DNS \
                              (IDNA), and other bytes are written as \\DDD";

/// Parses a domain name of printable ASCII into wire format, in the letter case that it is written in.
///
/// # Errors
/// What was expected.
pub fn name(text: &str) -> Result<Vec<u8>, &'static str> {
    // An empty text or spaces are a mistake rather than a name.
    if text.is_empty() {
        return Err(QNAME);
    }
    if !text.is_ascii() {
        return Err(ASCII_NAME);
    }
    if text.bytes().any(|byte| byte == b' ') {
        return Err("a domain name without spaces");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a domain name without control characters");
    }
    crate::wire::name::from_text(text).map_err(|reason| match reason {
        "has an empty label" => "a domain name without an empty label",
        "has a label longer than 63 bytes" => "a domain name with labels of at most 63 bytes",
        "is longer than 255 bytes" => "a domain name of at most 255 bytes",
        _ => "a domain name in which \\ precedes a character, or three digits of at most 255",
    })
}

/// The form of a [`source`].
pub const SOURCE: &str = "\"ADDRESS\", \"INTERFACE\", \"ADDRESS@INTERFACE\" or \"ADDRESS%INTERFACE\"";

/// Parses the local end towards a backend.
///
/// # Errors
/// What was expected.
pub fn source(text: &str) -> Result<(Option<IpAddr>, Option<String>), &'static str> {
    // An address may have its zone as usual, too.
    let zoned = text.split_once('%').filter(|(ip, _)| ip.parse::<Ipv6Addr>().is_ok());
    let (address, interface) = match zoned.or_else(|| text.split_once('@')) {
        Some((a, i)) => (Some(a), Some(i)),
        None if text.parse::<IpAddr>().is_ok() => (Some(text), None),
        None => (None, Some(text)),
    };
    let address = address.map(|a| a.parse().map_err(|_| SOURCE)).transpose()?;
    let mut interface = interface.map(|i| self::interface(i).map_err(|_| SOURCE)).transpose()?;
    // Sockets are bound to names. Of a number that no interface has, the library returns an empty one.
    let name_of = |number| nix::net::if_::if_indextoname(number).ok()?.into_string().ok();
    if zoned.is_some()
        && let Some(number) = interface.as_deref().and_then(|zone| zone.parse().ok())
        && let Some(name) = name_of(number).filter(|name| !name.is_empty())
    {
        interface = Some(name);
    }
    Ok((address, interface))
}

/// The form of an [`interface`].
pub const INTERFACE: &str = "the name of a network interface, 1 to 15 bytes";

/// Parses a network interface's name (Linux: below `IFNAMSIZ`, no slash, no space, no colon).
///
/// # Errors
/// What was expected.
pub fn interface(text: &str) -> Result<String, &'static str> {
    let fine =
        (1..16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    if fine { Ok(text.to_owned()) } else { Err(INTERFACE) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_usual_form_of_address_is_parsed() {
        for (text, want) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("192.0.2.1:5353", "192.0.2.1:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]", "[2001:db8::1]:53"),
            ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
        ] {
            assert_eq!(address(text).map(|a| a.to_string()), Ok(want.to_owned()), "{text}");
        }
        for text in
            ["", "example.com", "example.com:0", "[192.0.2.1]", "[::1", "::1]:53", "1.2.3", "1.2.3.4:x"]
        {
            assert_eq!(address(text), Err(ADDRESS), "{text}");
        }
        for text in ["192.0.2.1:0", "192.0.2.1:65536", "[::1]:0", "[::1]:99999", "[fe80::1%1]:0"] {
            assert_eq!(address(text), Err(PORT), "{text}");
            assert_eq!(service_address(text), Err(PORT), "{text}");
        }
    }

    #[test]
    fn an_endpoint_need_not_have_a_port() {
        for (text, want) in [
            ("192.0.2.1", "192.0.2.1:0"),
            ("192.0.2.1:0", "192.0.2.1:0"),
            ("192.0.2.1:53", "192.0.2.1:53"),
            ("2001:db8::1", "[2001:db8::1]:0"),
            ("[2001:db8::1]", "[2001:db8::1]:0"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
        ] {
            assert_eq!(endpoint(text).map(|a| a.to_string()), Ok(want.to_owned()), "{text}");
        }
        assert_eq!([endpoint("x"), endpoint("[192.0.2.1]"), endpoint("")], [Err(ADDRESS); 3]);
    }

    #[test]
    fn spans_need_a_unit() {
        for (text, ns) in [
            ("200ms", 200_000_000),
            ("2s", 2_000_000_000),
            ("1m", 60_000_000_000),
            ("1.5s", 1_500_000_000),
            ("50us", 50_000),
            ("0", 0),
        ] {
            assert_eq!(span(text), Ok(TickDelta(ns)), "{text}");
        }
        for text in ["", "2", "s", "2 s", "-1s", "1e3s", "..s", "99999999999999h", "nans"] {
            assert_eq!(span(text), Err(SPAN), "{text}");
        }
    }

    #[test]
    fn names_are_checked_and_made_absolute() {
        for (text, want) in [
            ("example.net", "example.net."),
            (".", "."),
            ("a\\.b.c.", "a\\.b.c."),
            ("\\255.x", "\\255.x."),
            // The last dot is escaped, or follows an escaped backslash.
            ("a\\.", "a\\.."),
            ("a\\\\.", "a\\\\."),
            ("a\\\\", "a\\\\."),
            ("\\065\\b", "Ab."),
        ] {
            assert_eq!(qname(text), Ok(want.to_owned()), "{text}");
        }
        let (long_label, long_name) = ("a".repeat(64), "abc.".repeat(64));
        for (text, reason) in [
            ("", "of at most 255 bytes with labels of 1 to 63"),
            ("..", "without an empty label"),
            ("a..b", "without an empty label"),
            (".a", "without an empty label"),
            ("\\256.x", "in which"),
            ("a\\", "in which"),
            ("a b.example", "without spaces"),
            ("a\tb", "without control characters"),
            ("bücher.example", "in ASCII; an international one"),
            (long_label.as_str(), "with labels of at most 63 bytes"),
            (long_name.as_str(), "of at most 255 bytes"),
        ] {
            for refused in [qname(text).expect_err(text), wire_name(text).expect_err(text)] {
                let said = refused.strip_prefix("a domain name ").expect(refused);
                assert!(said.starts_with(reason), "{text}: {refused}");
            }
        }
        assert!(qname(&"a".repeat(63)).is_ok());
    }

    #[test]
    fn wire_names_are_lower_case_and_absolute() {
        assert_eq!(wire_name("WWW.Example"), Ok(b"\x03www\x07example\x00".to_vec()));
        assert_eq!(wire_name("a\\.b.\\065."), Ok(b"\x03a.b\x01a\x00".to_vec()));
        assert_eq!(wire_name("."), Ok(vec![0]));
        for text in ["", "..", ".a", "a..b", "a\\", "a\\25", "a\\256.b", "a b", &"a".repeat(64)] {
            assert!(wire_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sources_are_parsed() {
        assert_eq!(source("192.0.2.1"), Ok((Some("192.0.2.1".parse().expect("an address")), None)));
        assert_eq!(source("eth0"), Ok((None, Some("eth0".to_owned()))));
        assert_eq!(source("::1@lo"), Ok((Some("::1".parse().expect("an address")), Some("lo".to_owned()))));
        assert_eq!(source("fe80::1%lo"), source("fe80::1@lo"));
        let lo = nix::net::if_::if_nametoindex("lo").expect("every machine has it");
        assert_eq!(source(&format!("fe80::1%{lo}")), source("fe80::1%lo"));
        assert_eq!(source("fe80::1%987654321"), source("fe80::1@987654321"), "no interface has this number");
        for text in ["", "@", "eth0@192.0.2.1", "192.0.2.1@", "fe80::1%", "an-interface-too-long"] {
            assert_eq!(source(text), Err(SOURCE), "{text}");
        }
    }

    proptest! {
        #[test]
        fn both_parsers_accept_the_same_names(text in r"[a-zA-Z0-9. \\-]{0,80}") {
            prop_assert_eq!(wire_name(&text).is_ok(), qname(&text).is_ok(), "{}", text);
        }

        #[test]
        fn a_formatted_name_is_the_same_name(text in r"[a.\\0-9]{1,12}") {
            if let Ok(name) = qname(&text) {
                prop_assert_eq!(qname(&name), Ok(name.clone()));
                prop_assert_eq!(wire_name(&name), wire_name(&text));
            }
        }

        #[test]
        fn spans_round_trip(ms in 0_u64..10_000_000) {
            let span_written = TickDelta::from_ms(ms);
            prop_assert_eq!(span(&span_text(span_written)), Ok(span_written));
        }

        #[test]
        fn cpu_lists_round_trip(set in prop::collection::btree_set(0_u16..4096, 1..40)) {
            let list: Vec<u16> = set.into_iter().collect();
            prop_assert_eq!(cpus(&cpus_text(&list)), Ok(list));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = (address(&text), span(&text), cpus(&text), qname(&text), source(&text));
        }
    }
}
