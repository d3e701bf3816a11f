//! What a shard's functions work with besides the packet: what their calls keep, what they ask for,
//! and how their packet was before they changed it.
//!
//! ```text
//!  Scene ──lent for one call──► Open ◄── functions of dq / dr (Lua), dnsdist_ffi_* (C)
//!    edits go straight to it     └─ Before: a copy of what is about to change, put back after an error
//! ```
//!
//! Between calls nothing is lent (`engine::luaffi::place`): whoever still holds a `dq` gets an error,
//! or 0 through C. It has no Lua in it.

use std::net::SocketAddr;

use crate::base::addr::{BackendSlot, ListenerSlot, PoolSlot};
use crate::base::packet::Packet;
use crate::base::time::{Tick, TickDelta};
use crate::model::Snapshot;
use crate::rules::context::{EvaluationContext, Facts};
use crate::rules::query_state;
use crate::rules::query_state::{QueryState, Tags};
use crate::rules::script::Candidate;
use crate::wire::answer::{AnswerEdns, Flags};
use crate::wire::edns::Opt;
use crate::wire::records::Section;
use crate::wire::{answer, edns, header, name, rebuild, records};

/// Bytes that an answer of our own may be longer than its query: what MESSAGE buffers leave.
const GROWTH_MAX: usize = 4096;
/// QTYPE of all records.
const ANY: u16 = 255;
/// TTL of spoofed records, seconds (dnsdist's default).
const SPOOF_TTL: u32 = 60;

/// What calls keep and ask for.
#[derive(Debug, Default)]
pub(crate) struct Current {
    /// It is about an answer.
    pub(crate) response: bool,
    /// Tells calls apart, as the pointer that C functions are given; never 0, never twice in a row.
    pub(crate) token: usize,
    /// The message was changed.
    pub(crate) dirty: bool,
    /// The time of the batch.
    pub(crate) now: Tick,
    /// The argument of the function's decision.
    pub(crate) argument: Vec<u8>,
    /// `dr:restart()` was called.
    pub(crate) restart: bool,
    /// The servers to choose from, while a policy runs.
    pub(crate) candidates: Vec<Candidate>,
    /// Names of the configuration.
    pub(crate) configuration: ConfigurationView,
    /// What C functions have pointers to, until the next call begins.
    pub(crate) lent: Vec<Box<[u8]>>,
    /// Timed sets are to be changed so, once the call has ended well.
    pub(crate) timed: Vec<Timed>,
    /// A policy runs: the shard's limiters are out of reach.
    pub(crate) choosing: bool,
    /// Bytes on their way to Lua.
    pub(crate) answer: Vec<u8>,
    /// The name asked for, as C functions have a pointer to it.
    name: Vec<u8>,
    before: Before,
    own: Option<AnswerEdns>,
}

/// What the call has changed, as it was before. Each is copied when it is about to change for the
/// first time; the memory stays.
#[derive(Debug, Default)]
struct Before {
    has_message: bool,
    message: Vec<u8>,
    facts: Option<Facts>,
    has_case: bool,
    query_state: QueryState,
    has_tags: bool,
    tags: Tags,
}

/// The packet of a call that runs, with the rest.
#[derive(Debug)]
pub(crate) struct Open<'a, 's, 'p> {
    /// What the call keeps and asks for.
    pub(crate) current: &'a mut Current,
    /// The packet; what is to be undone after an error is changed through the functions here.
    context: &'a mut EvaluationContext<'s, 'p>,
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

impl Current {
    /// Takes a configuration up.
    pub(crate) fn adopt(&mut self, snapshot: &Snapshot) {
        self.configuration.refresh(snapshot);
        let globals = &snapshot.globals;
        let (wanted, payload) = (globals.self_answer_edns, globals.self_answer_payload);
        self.own = Some(AnswerEdns { wanted, payload });
    }

    /// Begins a call.
    pub(crate) fn enter(&mut self, response: bool, now: Tick) {
        self.now = now;
        self.response = response;
        self.argument.clear();
        self.candidates.clear();
        self.timed.clear();
        self.choosing = false;
        if !self.lent.is_empty() {
            self.lent.clear();
        }
        self.restart = false;
        self.dirty = false;
        (self.before.has_message, self.before.has_case, self.before.has_tags) = (false, false, false);
        // Servers' pointers have as many bits for it, and a double holds it.
        self.token = (self.token + 1) & 0xfff_ffff_ffff;
        self.token += usize::from(self.token == 0);
    }

    /// Ends the call. After one that failed the packet and what is known of the query are as they
    /// were before it.
    pub(crate) fn leave(&mut self, context: &mut EvaluationContext<'_, '_>, ended_well: bool) {
        if ended_well {
            if self.dirty {
                context.reread();
            }
            return;
        }
        let before = &mut self.before;
        if before.has_message {
            // It was there: it fits.
            let _ = context.packet.replace(&before.message);
            context.facts = before.facts.unwrap_or(context.facts);
        }
        if before.has_case {
            std::mem::swap(context.query_state, &mut before.query_state);
        }
        // Tags may have changed before the rest was copied.
        if before.has_tags {
            std::mem::swap(&mut context.query_state.tags, &mut before.tags);
        }
        self.timed.clear();
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
}

impl<'a, 's, 'p> Open<'a, 's, 'p> {
    /// A packet with what its call keeps.
    pub(crate) const fn new(current: &'a mut Current, context: &'a mut EvaluationContext<'s, 'p>) -> Self {
        Self { current, context }
    }

    /// The packet and what is known of it, to be read.
    pub(crate) const fn context(&self) -> &EvaluationContext<'s, 'p> {
        self.context
    }

    /// The message.
    pub(crate) fn message(&self) -> &[u8] {
        self.context.packet.bytes()
    }

    /// What has been read of the message.
    pub(crate) const fn facts(&self) -> &Facts {
        &self.context.facts
    }

    /// What is known of the query.
    pub(crate) const fn query_state(&self) -> &QueryState {
        self.context.query_state
    }

    /// What is known of the query, to be changed.
    pub(crate) fn case_mut(&mut self) -> &mut QueryState {
        if !self.current.before.has_case {
            self.current.before.has_case = true;
            self.current.before.query_state.clone_from(self.context.query_state);
        }
        self.context.query_state
    }

    /// The query's tags, to be changed.
    pub(crate) fn tags_mut(&mut self) -> &mut Tags {
        if !self.current.before.has_tags {
            self.current.before.has_tags = true;
            self.current.before.tags.copy(&self.context.query_state.tags);
        }
        &mut self.context.query_state.tags
    }

    /// The packet, to be changed.
    pub(crate) fn packet_mut(&mut self) -> &mut Packet<'p> {
        let before = &mut self.current.before;
        if !before.has_message {
            before.has_message = true;
            before.message.clear();
            before.message.extend_from_slice(self.context.packet.bytes());
            before.facts = Some(self.context.facts);
        }
        self.current.dirty = true;
        self.context.packet
    }

    /// Bytes that the packet's buffer holds for a message.
    const fn room(&self) -> usize {
        self.context.packet.len() + self.context.packet.tailroom()
    }

    /// The name asked for, wire format.
    pub(crate) fn qname(&self) -> &[u8] {
        let end = header::LEN + usize::from(self.facts().qname_len);
        match self.message().get(header::LEN..end) {
            Some(name) if !name.is_empty() => name,
            _ => &[0],
        }
    }

    /// The name asked for, for C to point to: it never moves.
    pub(crate) fn keep_name(&mut self) -> &[u8] {
        let mut name = std::mem::take(&mut self.current.name);
        name.clear();
        name.reserve_exact(name::LEN_MAX);
        name.extend_from_slice(self.qname());
        self.current.name = name;
        &self.current.name
    }

    /// An byte of the message, 0 behind its end.
    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.message().get(at).copied().unwrap_or(0)
    }

    /// Writes an byte of the message.
    pub(crate) fn set_byte(&mut self, at: usize, byte: u8) {
        if at < self.context.packet.len() {
            self.packet_mut().bytes_mut()[at] = byte;
        }
    }

    /// The OPT record.
    pub(crate) fn opt(&self) -> Option<Opt> {
        edns::find(self.message(), usize::from(self.facts().question_end))
    }

    /// EDNS options: code and contents.
    pub(crate) fn options(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let opt = self.opt();
        // Behind owner (one byte), type, class, TTL and length.
        let mut rest = opt.and_then(|o| self.message().get(o.start + 11..o.end)).unwrap_or_default();
        std::iter::from_fn(move || {
            let (&[c0, c1, l0, l1], behind) = rest.split_first_chunk()?;
            let (data, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
            rest = behind;
            Some((u16::from_be_bytes([c0, c1]), data))
        })
    }

    /// Puts another message in its place; false when the packet's buffer has no room for it.
    pub(crate) fn set_content(&mut self, content: &[u8]) -> bool {
        content.len() >= header::LEN && self.edit(|packet| packet.replace(content))
    }

    /// Lets an edit change the packet and reads it anew; false when the edit says so, and has
    /// changed nothing.
    fn edit(&mut self, edit: impl FnOnce(&mut Packet<'p>) -> bool) -> bool {
        let done = edit(self.packet_mut());
        if done {
            self.context.reread();
        }
        done
    }

    /// What stands behind the message.
    pub(crate) fn trailing(&self) -> &[u8] {
        let message = self.message();
        records::end(message).and_then(|end| message.get(end..)).unwrap_or_default()
    }

    /// Puts something else behind the message; false when there is no room for it.
    pub(crate) fn set_trailing(&mut self, bytes: &[u8]) -> bool {
        let Some(end) = records::end(self.message()) else { return false };
        if end + bytes.len() > self.room() {
            return false;
        }
        let packet = self.packet_mut();
        packet.truncate(end);
        packet.append(bytes)
    }

    /// Asks for another name, or gives an answer's own name this one; false when the message cannot
    /// be read or there is no room.
    pub(crate) fn change_name(&mut self, new: &[u8]) -> bool {
        if name::end_plain(new, 0) != Some(new.len()) || self.facts().qname_len == 0 {
            return false;
        }
        let question = self.message().get(header::LEN..usize::from(self.facts().question_end));
        let question = question.unwrap_or_default().to_vec();
        let done = self.edit(|packet| rebuild::rename(packet, new));
        if done && !self.current.response && self.query_state().original.is_empty() {
            self.case_mut().original = question;
        }
        done
    }

    /// Takes the records of a type away; false when the message cannot be read.
    pub(crate) fn clear_records(&mut self, rtype: u16) -> bool {
        self.edit(|packet| rebuild::clear_types(packet, |t| t == rtype))
    }

    /// Gives each record the TTL that `change` makes of section, class, type and TTL.
    pub(crate) fn edit_ttls(&mut self, change: impl FnMut(Section, u16, u16, u32) -> u32) {
        records::edit_ttls(self.packet_mut().bytes_mut(), change);
    }

    /// Turns the query into an answer with those records, of these types and contents, that it asks
    /// for; leaves it alone when there is none. False when it cannot be an answer, or there is no
    /// room.
    pub(crate) fn spoof<'r>(&mut self, answers: impl Iterator<Item = (u16, &'r [u8])>) -> bool {
        let facts = *self.facts();
        let Some(own) = self.current.own.filter(|_| facts.qname_len > 0) else { return false };
        let mut answers = answers.filter(|a| a.0 == facts.qtype || facts.qtype == ANY).peekable();
        if answers.peek().is_none() {
            return true;
        }
        let mut buffer = self.message().to_vec();
        // What rules did to RD and CD was for servers.
        query_state::set_flags(&mut buffer, self.query_state().flags);
        let length = buffer.len();
        buffer.resize(length + GROWTH_MAX, 0);
        let mut packet = Packet::new(&mut buffer, 0, length);
        let rcode = u16::from(header::rcode::NOERROR);
        if !answer::rcode(&mut packet, rcode, Flags::default(), own) {
            return false;
        }
        let message = packet.bytes();
        let end = usize::from(facts.question_end).min(message.len());
        let mut out = message[..end].to_vec();
        let mut count = 0_u16;
        for (rtype, rdata) in answers {
            let Ok(rdata_len) = u16::try_from(rdata.len()) else { return false };
            out.extend_from_slice(&[0xc0, 12]);
            out.extend_from_slice(&rtype.to_be_bytes());
            out.extend_from_slice(&facts.qclass.to_be_bytes());
            out.extend_from_slice(&SPOOF_TTL.to_be_bytes());
            out.extend_from_slice(&rdata_len.to_be_bytes());
            out.extend_from_slice(rdata);
            count = count.saturating_add(1);
            if out.len() > self.room() {
                return false;
            }
        }
        out.extend_from_slice(&message[end..]);
        out[6..8].copy_from_slice(&count.to_be_bytes());
        self.set_content(&out)
    }

    /// Cuts or fills the message with zeros to `len` bytes; false when there is no room.
    pub(crate) fn resize(&mut self, len: usize) -> bool {
        if len < header::LEN || len > self.room() {
            return false;
        }
        self.edit(|packet| {
            packet.truncate(len);
            while packet.len() < len {
                let zeros = [0; 256];
                let missing = (len - packet.len()).min(zeros.len());
                if !packet.append(&zeros[..missing]) {
                    break;
                }
            }
            true
        })
    }
}

impl Server {
    /// Its name, and its address in brackets if that is another.
    pub(crate) fn name_with_address(&self) -> String {
        let address = self.address.to_string();
        if self.name == address { address } else { format!("{} ({address})", self.name) }
    }
}
