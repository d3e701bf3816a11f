//! The packet that the running call is about: a copy of its message, and what rules know of it.
//!
//! ```text
//!  Scene ──enter──► Current ◄── functions of dq / dr (Lua), dnsdist_ffi_* (C)
//!        ◄──leave── what was changed, if the call did not fail
//! ```
//!
//! Between calls it is closed: whoever still holds a `dq` gets an error, or 0 through C. It has no
//! Lua in it.

use std::net::SocketAddr;

use crate::base::addr::{BackendSlot, Endpoint, ListenerSlot, PoolSlot};
use crate::base::packet::Packet;
use crate::base::time::{Tick, TickDelta};
use crate::model::Snapshot;
use crate::rules::context::{Answered, EvaluationContext, Facts};
use crate::rules::query_state;
use crate::rules::query_state::QueryState;
use crate::rules::script::Candidate;
use crate::wire::answer::{AnswerEdns, Flags};
use crate::wire::edns::Opt;
use crate::wire::records::Section;
use crate::wire::{answer, edns, header, name, rebuild, records};

/// Bytes that an answer of our own may be longer than its query: what MESSAGE buffers leave.
const GROWTH_MAX: usize = 4096;
/// QTYPE of all records.
const ANY: u16 = 255;
/// Bytes of the longest message.
const MESSAGE_MAX: usize = 65_536;
/// TTL of spoofed records, seconds (dnsdist's default).
const SPOOF_TTL: u32 = 60;

/// The packet of the running call.
#[derive(Debug)]
pub(crate) struct Current {
    /// A call is running.
    pub(crate) open: bool,
    /// It is about an answer.
    pub(crate) response: bool,
    /// Tells calls apart, as the pointer that C functions are given; never 0, never twice in a row.
    pub(crate) token: usize,
    /// The message.
    pub(crate) message: Vec<u8>,
    /// The message was changed.
    pub(crate) dirty: bool,
    /// What has been read of the message.
    pub(crate) facts: Facts,
    /// Who asked.
    pub(crate) client: Endpoint,
    /// Which of our addresses was asked.
    pub(crate) local: Endpoint,
    /// By which listener.
    pub(crate) listener: ListenerSlot,
    /// What is known of the query; the shard's own, for as long as the call runs.
    pub(crate) query_state: QueryState,
    /// The time of the batch.
    pub(crate) now: Tick,
    /// Who answered.
    pub(crate) answered: Option<Answered>,
    /// The argument of the function's decision.
    pub(crate) argument: Vec<u8>,
    /// `dr:restart()` was called.
    pub(crate) restart: bool,
    /// The servers to choose from, while a policy runs.
    pub(crate) candidates: Vec<Candidate>,
    /// Names of the configuration.
    pub(crate) balancer: ConfigurationView,
    /// What C functions have pointers to, until the next call begins.
    pub(crate) lent: Vec<Box<[u8]>>,
    /// Timed sets are to be changed so, once the call has ended well.
    pub(crate) timed: Vec<Timed>,
    /// A policy runs: the shard's limiters are out of reach.
    pub(crate) choosing: bool,
    /// What was known of the query before the call.
    before: QueryState,
    /// Where the message stands; it never moves while a call runs, since C may have a pointer to it.
    place: usize,
    /// Bytes that the packet's buffer holds.
    room: usize,
    own: AnswerEdns,
}

/// A change of a timed set, by the number of its limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timed {
    /// Put an address (16 bytes, IPv4 mapped) in, for so long.
    Add(u32, [u8; 16], TickDelta),
    /// Empty it.
    Clear(u32),
}

/// What scripts can ask of the configuration, copied once a generation.
#[derive(Debug, Default)]
pub(crate) struct ConfigurationView {
    /// Whose it is; 0 before the first.
    generation: u64,
    pools: Vec<String>,
    /// By slot.
    servers: Vec<Option<Server>>,
    listeners: Vec<(ListenerSlot, String)>,
}

/// What scripts can ask of a server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Its name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) address: SocketAddr,
    /// Its order.
    pub(crate) order: i32,
    /// Its weight.
    pub(crate) weight: u32,
}

impl ConfigurationView {
    fn refresh(&mut self, snapshot: &Snapshot) {
        if self.generation == snapshot.generation && !self.pools.is_empty() {
            return;
        }
        let server = |b: &crate::model::Backend| Server {
            name: b.name.clone(),
            address: b.address,
            order: b.order,
            weight: b.weight,
        };
        self.generation = snapshot.generation;
        self.pools = snapshot.pools.iter().map(|p| p.name.clone()).collect();
        self.servers = snapshot.backends.iter().map(|b| b.as_deref().map(server)).collect();
        let listeners = snapshot.listeners.iter();
        self.listeners = listeners.map(|l| (l.slot, l.interface.clone().unwrap_or_default())).collect();
    }

    /// Counts configurations.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// A server.
    pub(crate) fn server(&self, slot: BackendSlot) -> Option<&Server> {
        self.servers.get(slot.index())?.as_ref()
    }

    /// A pool's name; empty for the default pool.
    pub(crate) fn pool(&self, slot: PoolSlot) -> &str {
        self.pools.get(slot.index()).map_or("", String::as_str)
    }

    /// The pool of a name.
    pub(crate) fn pool_named(&self, name: &[u8]) -> Option<PoolSlot> {
        let at = self.pools.iter().position(|p| p.as_bytes() == name)?;
        u16::try_from(at).ok().map(PoolSlot)
    }

    /// The interface that a listener is bound to; empty when it is bound to none.
    pub(crate) fn interface(&self, slot: ListenerSlot) -> &str {
        self.listeners.iter().find(|l| l.0 == slot).map_or("", |l| l.1.as_str())
    }
}

impl Default for Current {
    fn default() -> Self {
        let nowhere = Endpoint { ip: [0; 16], scope: 0, port: 0 };
        Self {
            open: false,
            response: false,
            token: 0,
            // Whatever a packet can hold: no call need ever move it.
            message: Vec::with_capacity(MESSAGE_MAX),
            dirty: false,
            facts: Facts::of(&[]),
            client: nowhere,
            local: nowhere,
            listener: ListenerSlot(0),
            query_state: QueryState::default(),
            now: Tick(0),
            answered: None,
            argument: Vec::new(),
            restart: false,
            candidates: Vec::new(),
            balancer: ConfigurationView::default(),
            lent: Vec::new(),
            timed: Vec::new(),
            choosing: false,
            before: QueryState::default(),
            place: 0,
            room: 0,
            own: AnswerEdns { wanted: true, payload: 1232 },
        }
    }
}

impl Current {
    /// Begins a call about a packet.
    pub(crate) fn enter(
        &mut self,
        context: &mut EvaluationContext<'_, '_>,
        response: bool,
        now: Tick,
        snapshot: &Snapshot,
    ) {
        self.balancer.refresh(snapshot);
        self.room = context.packet.len() + context.packet.tailroom();
        self.message.clear();
        // All edits stay within the room (see `set_content`, `resize`, `set_trailing`).
        self.message.reserve(self.room);
        self.place = self.message.as_ptr().addr();
        self.message.extend_from_slice(context.packet.bytes());
        self.facts = context.facts;
        self.client = context.client.peer;
        self.listener = context.client.listener;
        self.local = context.local;
        self.answered = context.answered;
        self.before = context.query_state.clone();
        std::mem::swap(&mut self.query_state, context.query_state);
        self.now = now;
        let globals = &snapshot.globals;
        self.own = AnswerEdns { wanted: globals.self_answer_edns, payload: globals.self_answer_payload };
        self.response = response;
        self.begin();
    }

    /// Begins a call about no packet.
    fn begin(&mut self) {
        self.argument.clear();
        self.candidates.clear();
        self.timed.clear();
        self.choosing = false;
        if !self.lent.is_empty() {
            self.lent.clear();
        }
        self.restart = false;
        self.dirty = false;
        // Light user data holds 47 bits.
        self.token = (self.token + 1) & 0x3fff_ffff_ffff;
        self.token += usize::from(self.token == 0);
        self.open = true;
    }

    /// Ends the call. `ended_well`: the message is written back, if it was changed. False when the
    /// packet has no room for it. Then, and when the call failed, the message and what is known of
    /// the query are as they were before it.
    pub(crate) fn leave(&mut self, context: &mut EvaluationContext<'_, '_>, ended_well: bool) -> bool {
        debug_assert_eq!(self.place, self.message.as_ptr().addr(), "the message moved during a call");
        self.open = false;
        let mut fits = true;
        if self.dirty && ended_well {
            fits = context.packet.replace(&self.message);
            context.reread();
        }
        if !ended_well || !fits {
            std::mem::swap(&mut self.query_state, &mut self.before);
            self.timed.clear();
        }
        std::mem::swap(&mut self.query_state, context.query_state);
        fits
    }

    /// The name asked for, wire format.
    pub(crate) fn qname(&self) -> &[u8] {
        let end = header::LEN + usize::from(self.facts.qname_len);
        match self.message.get(header::LEN..end) {
            Some(name) if !name.is_empty() => name,
            _ => &[0],
        }
    }

    /// An byte of the message, 0 behind its end.
    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.message.get(at).copied().unwrap_or(0)
    }

    /// Writes an byte of the message.
    pub(crate) fn set_byte(&mut self, at: usize, byte: u8) {
        if let Some(there) = self.message.get_mut(at) {
            *there = byte;
            self.dirty = true;
        }
    }

    /// The OPT record.
    pub(crate) fn opt(&self) -> Option<Opt> {
        edns::find(&self.message, usize::from(self.facts.question_end))
    }

    /// EDNS options: code and contents.
    pub(crate) fn options(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let opt = self.opt();
        // Behind owner (one byte), type, class, TTL and length.
        let mut rest = opt.and_then(|o| self.message.get(o.start + 11..o.end)).unwrap_or_default();
        std::iter::from_fn(move || {
            let (&[c0, c1, l0, l1], behind) = rest.split_first_chunk()?;
            let (data, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
            rest = behind;
            Some((u16::from_be_bytes([c0, c1]), data))
        })
    }

    /// Puts another message in its place; false when the packet's buffer has no room for it.
    pub(crate) fn set_content(&mut self, content: &[u8]) -> bool {
        if content.len() > self.room || content.len() < header::LEN {
            return false;
        }
        self.message.clear();
        self.message.extend_from_slice(content);
        self.changed();
        true
    }

    fn changed(&mut self) {
        self.dirty = true;
        self.facts = Facts::of(&self.message);
    }

    /// What stands behind the message.
    pub(crate) fn trailing(&self) -> &[u8] {
        records::end(&self.message).and_then(|end| self.message.get(end..)).unwrap_or_default()
    }

    /// Puts something else behind the message; false when there is no room for it.
    pub(crate) fn set_trailing(&mut self, bytes: &[u8]) -> bool {
        let Some(end) = records::end(&self.message) else { return false };
        if end + bytes.len() > self.room {
            return false;
        }
        self.message.truncate(end);
        self.message.extend_from_slice(bytes);
        self.dirty = true;
        true
    }

    /// Asks for another name, or gives an answer's own name this one; false when the message cannot
    /// be read or there is no room.
    pub(crate) fn change_name(&mut self, new: &[u8]) -> bool {
        if name::end_plain(new, 0) != Some(new.len()) || self.facts.qname_len == 0 {
            return false;
        }
        let question = self.message.get(header::LEN..usize::from(self.facts.question_end));
        let question = question.unwrap_or_default().to_vec();
        let done = self.rebuilt(|packet| rebuild::rename(packet, new));
        if done && !self.response && self.query_state.original.is_empty() {
            self.query_state.original = question;
        }
        done
    }

    /// Takes the records of a type away; false when the message cannot be read.
    pub(crate) fn clear_records(&mut self, rtype: u16) -> bool {
        self.rebuilt(|packet| rebuild::clear_types(packet, |t| t == rtype))
    }

    /// Lets an edit write the message anew; false, and nothing changed, when it cannot or its
    /// packet has no room for what comes of it.
    fn rebuilt(&mut self, edit: impl FnOnce(&mut Packet<'_>) -> bool) -> bool {
        let mut buffer = self.message.clone();
        let length = buffer.len();
        buffer.resize(self.room.max(length), 0);
        let mut packet = Packet::new(&mut buffer, 0, length);
        if !edit(&mut packet) {
            return false;
        }
        let length = packet.len();
        self.set_content(&buffer[..length])
    }

    /// Gives each record the TTL that `change` makes of section, class, type and TTL.
    pub(crate) fn edit_ttls(&mut self, change: impl FnMut(Section, u16, u16, u32) -> u32) {
        records::edit_ttls(&mut self.message, change);
        self.dirty = true;
    }

    /// Turns the query into an answer with those records, of these types and contents, that it asks
    /// for; leaves it alone when there is none. False when it cannot be an answer, or there is no
    /// room.
    pub(crate) fn spoof<'r>(&mut self, answers: impl Iterator<Item = (u16, &'r [u8])>) -> bool {
        if self.facts.qname_len == 0 {
            return false;
        }
        let qtype = self.facts.qtype;
        let mut answers = answers.filter(|a| a.0 == qtype || qtype == ANY).peekable();
        if answers.peek().is_none() {
            return true;
        }
        let mut buffer = self.message.clone();
        // What rules did to RD and CD was for servers.
        query_state::set_flags(&mut buffer, self.query_state.flags);
        let length = buffer.len();
        buffer.resize(length + GROWTH_MAX, 0);
        let mut packet = Packet::new(&mut buffer, 0, length);
        if !answer::rcode(&mut packet, u16::from(header::rcode::NOERROR), Flags::default(), self.own) {
            return false;
        }
        let message = packet.bytes();
        let end = usize::from(self.facts.question_end).min(message.len());
        let mut out = message[..end].to_vec();
        let mut count = 0_u16;
        for (rtype, rdata) in answers {
            let Ok(rdata_len) = u16::try_from(rdata.len()) else { return false };
            out.extend_from_slice(&[0xc0, 12]);
            out.extend_from_slice(&rtype.to_be_bytes());
            out.extend_from_slice(&self.facts.qclass.to_be_bytes());
            out.extend_from_slice(&SPOOF_TTL.to_be_bytes());
            out.extend_from_slice(&rdata_len.to_be_bytes());
            out.extend_from_slice(rdata);
            count = count.saturating_add(1);
            if out.len() > self.room {
                return false;
            }
        }
        out.extend_from_slice(&message[end..]);
        out[6..8].copy_from_slice(&count.to_be_bytes());
        self.set_content(&out)
    }

    /// Keeps bytes until the next call begins, for C to point to.
    pub(crate) fn lend(&mut self, bytes: &[u8]) -> &[u8] {
        self.lent.push(bytes.into());
        self.lent.last().map_or(&[], |b| b)
    }

    /// Puts other bytes in the place of the last ones lent; a pointer to `from` in them.
    pub(crate) fn replace_lent(&mut self, bytes: &[u8], from: usize) -> *const u8 {
        match self.lent.last_mut().filter(|l| l.len() == bytes.len() && from <= l.len()) {
            Some(lent) => {
                lent.copy_from_slice(bytes);
                lent[from..].as_ptr()
            }
            None => std::ptr::null(),
        }
    }

    /// Cuts or fills the message with zeros to `len` bytes; false when there is no room.
    pub(crate) fn resize(&mut self, len: usize) -> bool {
        if len < header::LEN || len > self.room {
            return false;
        }
        self.message.resize(len, 0);
        self.changed();
        true
    }
}

impl Server {
    /// Its name, and its address in brackets if that is another.
    pub(crate) fn name_with_address(&self) -> String {
        let address = self.address.to_string();
        if self.name == address { address } else { format!("{} ({address})", self.name) }
    }
}
