//! What rules and policies exchange with the functions of a script
//! ([`Script`](crate::rules::context::Script)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::base::addr::BackendSlot;
use crate::base::packet::Packet;
use crate::wire::answer::{AnswerEdns, Flags};
use crate::wire::{answer, name};

/// Number of a function, in order of appearance in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FunctionId(pub u32);

/// What a function returned, without its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptAction {
    /// The rule counts as not matched: `DNSAction.None`.
    None,
    /// Evaluate no further rule.
    Allow,
    /// Drop the query.
    Drop,
    /// Answer with this code; RA is kept.
    RCode(u8),
    /// Answer with the addresses or the name in the argument.
    Spoof,
    /// Answer with raw RDATA: the argument.
    SpoofRaw,
    /// Answer with a whole message: the argument.
    SpoofPacket,
    /// The function changed the header: with QR=1 the packet is an answer, otherwise it goes to a
    /// server.
    HeaderModify,
    /// Go to the pool that the argument names.
    Pool,
    /// Delay the answer by this many milliseconds.
    Delay(u32),
    /// Answer TC=1.
    Truncate,
    /// Clear RD.
    NoRecurse,
    /// Restart the query (`dr:restart()`).
    Restart,
}

/// What a function spoofs: addresses between commas or spaces, or one name.
#[derive(Debug)]
pub enum Spoofed {
    /// IPv4 and IPv6 addresses.
    Addresses(Vec<[u8; 4]>, Vec<[u8; 16]>),
    /// Target of a CNAME, wire format.
    Name(Vec<u8>),
}

impl Spoofed {
    /// Parses the argument; returns none when it contains neither an address nor a name.
    #[must_use]
    pub fn read(argument: &[u8]) -> Option<Self> {
        // As in the configuration, an international name is written in its form with "xn--".
        let text = std::str::from_utf8(argument).ok().filter(|text| text.is_ascii())?;
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for word in text.split([',', ' ']).filter(|w| !w.is_empty()) {
            match address(word) {
                Some(IpAddr::V4(ip)) => v4.push(ip.octets()),
                Some(IpAddr::V6(ip)) => v6.push(ip.octets()),
                None if word == text && may_be_name(text) => {
                    return name::from_text(text).ok().map(Self::Name);
                }
                None => return None,
            }
        }
        (!v4.is_empty() || !v6.is_empty()).then_some(Self::Addresses(v4, v6))
    }

    /// Turns the query into that answer, without records when there is no address of the requested
    /// type; returns false when it does not fit.
    pub fn answer(&self, packet: &mut Packet<'_>, flags: Flags, edns: AnswerEdns) -> bool {
        match self {
            Self::Addresses(v4, v6) => answer::addresses(packet, v4, v6, flags, edns),
            Self::Name(target) => answer::cname(packet, target, flags, edns),
        }
    }
}

/// Reads an address, as dnsdist does: also with a port, in brackets, or as numbers of the forms of
/// inet_aton(3).
fn address(word: &str) -> Option<IpAddr> {
    let plain = || word.parse::<IpAddr>().ok();
    let with_port = || word.parse::<SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || word.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    plain()
        .or_else(with_port)
        .or_else(|| bracketed().map(IpAddr::V6))
        .or_else(|| numbers(word).map(IpAddr::V4))
}

/// Reads an IPv4 address as one to four numbers, decimal, octal or hexadecimal, of which the last has
/// all bytes that are left.
fn numbers(word: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| {
        let (digits, radix) = match part.as_bytes() {
            [b'0', b'x' | b'X', ..] => (&part[2..], 16),
            [b'0', _, ..] => (&part[1..], 8),
            _ => (part, 10),
        };
        let is_number = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_number.then(|| u32::from_str_radix(digits, radix).ok()).flatten()
    };
    let parts: Vec<u32> = word.split('.').map(number).collect::<Option<_>>()?;
    let (last, front) = parts.split_last()?;
    let left = 4_u32.checked_sub(u32::try_from(front.len()).ok()?).filter(|left| *left > 0)?;
    let high = front.iter().enumerate().try_fold(0, |high, (at, byte)| {
        u8::try_from(*byte).ok().map(|byte| high | u32::from(byte) << (24 - 8 * at))
    })?;
    (u64::from(*last) < 1 << (8 * left)).then(|| Ipv4Addr::from(high | last))
}

/// Returns whether a text may be a name: with a colon or bracket it is a bad address, and so it is
/// with a number as its last label (RFC 3696, 2); what is not printed is a mistake.
fn may_be_name(text: &str) -> bool {
    let last = text.strip_suffix('.').unwrap_or(text).rsplit('.').next().unwrap_or_default();
    let is_number = !last.is_empty() && last.bytes().all(|digit| digit.is_ascii_digit());
    !is_number && !text.contains([':', '[', ']']) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// An available server, as a policy in Lua sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its slot.
    pub slot: BackendSlot,
    /// Outstanding queries of the whole process.
    pub outstanding: u32,
    /// Smoothed latency, microseconds.
    pub latency_us: u32,
    /// One more query is within its `qps`.
    pub within_qps: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match Spoofed::read(text.as_bytes()) {
            Some(Spoofed::Addresses(v4, v6)) => {
                let v4 = v4.into_iter().map(|ip| IpAddr::from(ip).to_string());
                v4.chain(v6.into_iter().map(|ip| IpAddr::from(ip).to_string())).collect::<Vec<_>>().join(" ")
            }
            Some(Spoofed::Name(name)) => format!("name {}", name::Text(&name)),
            None => "-".to_owned(),
        }
    }

    #[test]
    fn every_form_of_an_address_is_one_and_no_name() {
        for (text, want) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1, 192.0.2.2", "192.0.2.1 192.0.2.2"),
            ("192.0.2.1:53", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:53", "2001:db8::1"),
            ("3232236028", "192.168.1.252"),
            ("10.1", "10.0.0.1"),
            ("10.1.258", "10.1.1.2"),
            ("0x0a000001", "10.0.0.1"),
            ("010.0.0.1", "8.0.0.1"),
            ("4294967296", "-"),
            ("256.1.1.1", "-"),
            ("1.2.3.4.5", "-"),
            ("192.0.2.1:x", "-"),
            ("[2001:db8::1", "-"),
            ("192.0.2.1 [", "-"),
            ("192.0.2.1,x.example", "-"),
            ("192.0.2.1, 192.0.2.300", "-"),
            ("x.example,192.0.2.1", "-"),
            ("two.example,one.example", "-"),
            ("a b", "-"),
            (" a", "-"),
            ("t\tab.example", "-"),
            ("two\\044one.example", "name two,one.example."),
            ("0x", "name 0x."),
            ("+1", "name +1."),
            ("a.example", "name a.example."),
            ("1.a.example.", "name 1.a.example."),
            ("1.2.0.192.in-addr.arpa", "name 1.2.0.192.in-addr.arpa."),
            ("", "-"),
        ] {
            assert_eq!(read(text), want, "{text}");
        }
    }
}
