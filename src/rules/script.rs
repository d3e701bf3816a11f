//! What rules and policies exchange with the functions of a script
//! ([`Script`](crate::rules::context::Script)).

use std::net::IpAddr;

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

/// What a function spoofs: comma-separated addresses, or one name.
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
            match word.parse::<IpAddr>() {
                Ok(IpAddr::V4(ip)) => v4.push(ip.octets()),
                Ok(IpAddr::V6(ip)) => v6.push(ip.octets()),
                Err(_) => return name::from_text(text).ok().map(Self::Name),
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
