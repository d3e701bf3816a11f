//! What rules and policies ask of a script: the shard's own Lua state, seen from here without
//! Lua: `lua::state` has the real one.

use std::fmt::Debug;
use std::net::IpAddr;

use crate::base::addr::BackendSlot;
use crate::base::time::Tick;
use crate::rules::context::{Environment, EvaluationContext};
use crate::wire::answer::{AnswerEdns, Flags};
use crate::wire::{answer, name};

/// Number of a function, in the order in which the configuration gives them away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FunctionId(pub u32);

/// What a function returned, its argument apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptAction {
    /// As if the rule had not matched: `DNSAction.None`.
    None,
    /// No further rule.
    Allow,
    /// Drop it.
    Drop,
    /// Answer with this code; RA as it is.
    RCode(u8),
    /// Answer with addresses or a name, which are the argument.
    Spoof,
    /// Answer with raw contents: the argument, once.
    SpoofRaw,
    /// The function changed the header: with QR=1 the packet is an answer, else it goes to a server.
    HeaderModify,
    /// To the pool that the argument names.
    Pool,
    /// Hold the answer back for so many milliseconds.
    Delay(u32),
    /// Answer TC=1.
    Truncate,
    /// Take RD away.
    NoRecurse,
    /// Ask again (`dr:restart()`).
    Restart,
}

/// What a function spoofs: addresses with commas between, or one name.
#[derive(Debug)]
pub enum Spoofed {
    /// IPv4 and IPv6 addresses.
    Addresses(Vec<[u8; 4]>, Vec<[u8; 16]>),
    /// An alias, wire format.
    Name(Vec<u8>),
}

impl Spoofed {
    /// None when there is nothing that a query of this type could be answered with.
    #[must_use]
    pub fn read(argument: &[u8], qtype: u16) -> Option<Self> {
        let text = std::str::from_utf8(argument).ok()?;
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for word in text.split([',', ' ']).filter(|w| !w.is_empty()) {
            match word.parse::<IpAddr>() {
                Ok(IpAddr::V4(ip)) => v4.push(ip.octets()),
                Ok(IpAddr::V6(ip)) => v6.push(ip.octets()),
                Err(_) => return name::from_text(text).ok().map(Self::Name),
            }
        }
        answer::addresses_match(qtype, !v4.is_empty(), !v6.is_empty()).then_some(Self::Addresses(v4, v6))
    }

    /// Makes the query into that answer; false when there is no room.
    pub fn answer(&self, context: &mut EvaluationContext<'_, '_>, edns: AnswerEdns) -> bool {
        match self {
            Self::Addresses(v4, v6) => answer::addresses(context.packet, v4, v6, Flags::default(), edns),
            Self::Name(target) => answer::cname(context.packet, target, Flags::default(), edns),
        }
    }
}

/// One usable server, as a policy in Lua sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its slot.
    pub slot: BackendSlot,
    /// Outstanding queries of the whole process.
    pub outstanding: u32,
    /// Smoothed latency, microseconds.
    pub latency_us: u32,
}

/// One shard's script.
pub trait Script: Debug {
    /// Runs an action's function; none after an error, which has been counted.
    fn act(
        &mut self,
        function: FunctionId,
        context: &mut EvaluationContext<'_, '_>,
        env: &mut Environment<'_>,
    ) -> Option<ScriptAction>;

    /// The argument of what [`Script::act`] said.
    fn argument(&self) -> &[u8];

    /// Runs a rule's function; none after an error.
    fn matches(
        &mut self,
        function: FunctionId,
        context: &mut EvaluationContext<'_, '_>,
        env: &mut Environment<'_>,
    ) -> Option<bool>;

    /// Runs a policy's function over the servers; its choice among them, if it made one. A choice
    /// outside of them, or an error, is none.
    fn choose(
        &mut self,
        function: FunctionId,
        servers: &[Candidate],
        context: &mut EvaluationContext<'_, '_>,
        now: Tick,
    ) -> Option<usize>;

    /// Calls `maintenance`, once a second.
    fn maintain(&mut self, now: Tick);

    /// Calls that ended in an error, ever.
    fn errors(&self) -> u64;
}
