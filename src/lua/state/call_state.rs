//! The state of a running call besides the packet: what calls keep, what they request, and the
//! packet as it was before they changed it.
//!
//! ```text
//!  EvaluationContext ──for one call──► Open ◄── functions of dq / dr (Lua), dnsdist_ffi_* (C)
//!    edits go straight to it            └─ Before: copies of what changes, restored after an error
//! ```
//!
//! Between calls there is no access to a packet (`lua::ffi::running_call`): using a `dq` that was kept is
//! an error, or returns 0 through C. There is no Lua in this module.

use std::sync::Arc;

use crate::base::packet::Packet;
use crate::base::time::{Tick, TickDelta};
use crate::lua::state::view::ConfigurationView;
use crate::model::Snapshot;
use crate::rules::apply::OPT_PAYLOAD;
use crate::rules::context::{EvaluationContext, Facts};
use crate::rules::query_state;
use crate::rules::query_state::{QueryState, Tags};
use crate::rules::script::Candidate;
use crate::stats::live::LiveState;
use crate::wire::answer::{AnswerEdns, Flags, Soa};
use crate::wire::ecs::Ecs;
use crate::wire::edns::Opt;
use crate::wire::header::Header;
use crate::wire::records::{Section, rtype};
use crate::wire::{answer, edit, edns, header, name, rebuild, records, signature};

/// Bytes by which a self-generated answer may exceed its query: what MESSAGE buffers leave.
const GROWTH_MAX: usize = 4096;
/// Longest message over a connection, bytes.
const FRAME_MAX: usize = u16::MAX as usize;
/// Longest message in a datagram, bytes: what an engine receives (the space behind it is for options
/// that are added later).
const DATAGRAM_MAX: usize = 4096;
/// TTL of spoofed records, seconds (dnsdist's default).
pub(crate) const SPOOF_TTL: u32 = 60;

/// What calls keep and request.
#[derive(Debug, Default)]
pub(crate) struct CallState {
    /// The call is about an answer.
    pub(crate) response: bool,
    /// Identifies the call, as the pointer that C functions get; never 0, never the same twice in a
    /// row.
    pub(crate) token: usize,
    /// The message was changed.
    pub(crate) dirty: bool,
    /// The time of the batch.
    pub(crate) now: Tick,
    /// The argument of the function's decision.
    pub(crate) argument: Vec<u8>,
    /// `dr:restart()` was called.
    pub(crate) restart: bool,
    /// The function has turned the query into an answer, as `dq:spoof` does.
    pub(crate) answered: bool,
    /// A C function that returns nothing could not do what it is for.
    pub(crate) failure: Option<&'static str>,
    /// The servers to choose from, while a policy runs.
    pub(crate) candidates: Vec<Candidate>,
    /// Names of the configuration.
    pub(crate) configuration: ConfigurationView,
    /// Memory that C functions have pointers to, until the next call begins.
    pub(crate) kept: Vec<Box<[u8]>>,
    /// Changes of timed sets, applied once the call has succeeded.
    pub(crate) timed_changes: Vec<TimedChange>,
    /// A policy runs: the shard's limiters are not accessible.
    pub(crate) choosing: bool,
    /// Bytes to be read by Lua.
    pub(crate) answer: Vec<u8>,
    /// The requested name, as C functions have a pointer to it.
    name: Vec<u8>,
    before: Before,
    own: Option<AnswerEdns>,
}

/// What the call has changed, as it was before. Each part is copied before its first change; the
/// memory is reused.
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

/// The packet of a running call, with the rest of its state.
#[derive(Debug)]
pub(crate) struct Open<'a, 's, 'p> {
    /// What the call keeps and requests.
    pub(crate) current: &'a mut CallState,
    /// The packet; what must be undone after an error is changed through the functions here.
    context: &'a mut EvaluationContext<'s, 'p>,
}

/// A change of a timed set, by the number of its limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimedChange {
    /// Adds an address (16 bytes, IPv4 mapped) for this time.
    Add(u32, [u8; 16], TickDelta),
    /// Empties it.
    Clear(u32),
}

impl CallState {
    /// Adopts a configuration.
    pub(crate) fn adopt(&mut self, snapshot: &Snapshot, live_state: &Arc<LiveState>) {
        self.configuration.refresh(snapshot, live_state);
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
        self.timed_changes.clear();
        self.choosing = false;
        if !self.kept.is_empty() {
            self.kept.clear();
        }
        self.restart = false;
        (self.answered, self.failure) = (false, None);
        self.dirty = false;
        (self.before.has_message, self.before.has_case, self.before.has_tags) = (false, false, false);
        // Handles of servers have as many bits for it, and a double holds it.
        self.token = (self.token + 1) & 0xfff_ffff_ffff;
        self.token += usize::from(self.token == 0);
    }

    /// Ends the call. After a failed one the packet and its query state are as they were before it.
    pub(crate) fn leave(&mut self, context: &mut EvaluationContext<'_, '_>, ended_well: bool) {
        self.candidates.clear();
        let before = &mut self.before;
        if ended_well {
            if self.dirty {
                keep_signed(context.packet, &before.message, context.query_state.in_signed_transfer);
                context.reread();
            }
            return;
        }
        if before.has_message {
            // It was there before, so it fits.
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
        self.timed_changes.clear();
    }

    /// Keeps bytes until the next call begins, for C to point to.
    pub(crate) fn keep(&mut self, bytes: &[u8]) -> &[u8] {
        self.kept.push(bytes.into());
        self.kept.last().map_or(&[], |b| b)
    }

    /// Replaces the bytes that were kept last; returns a pointer to `from` in them.
    pub(crate) fn replace_kept(&mut self, bytes: &[u8], from: usize) -> *const u8 {
        match self.kept.last_mut().filter(|l| l.len() == bytes.len() && from <= l.len()) {
            Some(kept) => {
                kept.copy_from_slice(bytes);
                kept[from..].as_ptr()
            }
            None => std::ptr::null(),
        }
    }
}

/// Undoes the edits of a signed message that is passed on; its id may change. A query that has become
/// an answer is another message.
fn keep_signed(packet: &mut Packet<'_>, before: &[u8], in_signed_transfer: bool) {
    let is_response = |message: &[u8]| Header::parse(message).map(|head| head.is_response());
    let is_signed = in_signed_transfer || signature::is_signed(before);
    if is_signed && is_response(packet.bytes()) == is_response(before) {
        let id = Header::parse(packet.bytes()).map(|head| head.id());
        // It was there before, so it fits.
        let _ = packet.replace(before);
        if let Some(id) = id {
            edit::set_id(packet.bytes_mut(), id);
        }
    }
}

impl<'a, 's, 'p> Open<'a, 's, 'p> {
    /// Combines a packet with the state of its call.
    pub(crate) const fn new(current: &'a mut CallState, context: &'a mut EvaluationContext<'s, 'p>) -> Self {
        Self { current, context }
    }

    /// Returns the packet and its query state, read-only.
    pub(crate) const fn context(&self) -> &EvaluationContext<'s, 'p> {
        self.context
    }

    /// Returns the message.
    pub(crate) fn message(&self) -> &[u8] {
        self.context.packet.bytes()
    }

    /// Returns what was parsed from the message.
    pub(crate) const fn facts(&self) -> &Facts {
        &self.context.facts
    }

    /// Returns the query state.
    pub(crate) const fn query_state(&self) -> &QueryState {
        self.context.query_state
    }

    /// Returns the query state, to be changed.
    pub(crate) fn query_state_mut(&mut self) -> &mut QueryState {
        if !self.current.before.has_case {
            self.current.before.has_case = true;
            self.current.before.query_state.clone_from(self.context.query_state);
        }
        self.context.query_state
    }

    /// Returns the query's tags, to be changed.
    pub(crate) fn tags_mut(&mut self) -> &mut Tags {
        if !self.current.before.has_tags {
            self.current.before.has_tags = true;
            self.current.before.tags.copy(&self.context.query_state.tags);
        }
        &mut self.context.query_state.tags
    }

    /// Returns the packet, to be changed.
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

    /// Returns the longest message that the packet's buffer and a frame can hold, bytes.
    fn capacity(&self) -> usize {
        (self.context.packet.len() + self.context.packet.tailroom()).min(FRAME_MAX)
    }

    /// Returns the requested name, wire format.
    pub(crate) fn qname(&self) -> &[u8] {
        let end = header::LEN + usize::from(self.facts().qname_len);
        match self.message().get(header::LEN..end) {
            Some(name) if !name.is_empty() => name,
            _ => &[0],
        }
    }

    /// Returns the requested name for C to point to: it does not move.
    pub(crate) fn keep_name(&mut self) -> &[u8] {
        let mut name = std::mem::take(&mut self.current.name);
        name.clear();
        name.reserve_exact(name::LEN_MAX);
        name.extend_from_slice(self.qname());
        self.current.name = name;
        &self.current.name
    }

    /// Returns a byte of the message, 0 after its end.
    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.message().get(at).copied().unwrap_or(0)
    }

    /// Writes a byte of the message.
    pub(crate) fn set_byte(&mut self, at: usize, byte: u8) {
        if at < self.context.packet.len() {
            self.packet_mut().bytes_mut()[at] = byte;
        }
    }

    /// Returns the OPT record.
    pub(crate) fn opt(&self) -> Option<Opt> {
        edns::find(self.message(), usize::from(self.facts().question_end))
    }

    /// Returns the EDNS options: code and contents.
    pub(crate) fn options(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let opt = self.opt();
        // After owner (one byte), type, class, TTL and length.
        let mut rest = opt.and_then(|o| self.message().get(o.start + 11..o.end)).unwrap_or_default();
        std::iter::from_fn(move || {
            let (&[c0, c1, l0, l1], behind) = rest.split_first_chunk()?;
            let (data, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
            rest = behind;
            Some((u16::from_be_bytes([c0, c1]), data))
        })
    }

    /// Replaces the message; returns false when it does not fit the packet's buffer.
    pub(crate) fn set_content(&mut self, content: &[u8]) -> bool {
        let fits = (header::LEN..=self.capacity()).contains(&content.len());
        fits && self.edit(|packet| packet.replace(content))
    }

    /// Lets an edit change the packet and parses it again; returns false when the edit does, and
    /// has changed nothing.
    fn edit(&mut self, edit: impl FnOnce(&mut Packet<'p>) -> bool) -> bool {
        let done = edit(self.packet_mut());
        if done {
            self.context.reread();
            let is_answer = Header::parse(self.message()).is_some_and(|head| head.is_response());
            self.current.answered = is_answer && !self.current.response;
        }
        done
    }

    /// Returns the bytes after the message.
    pub(crate) fn trailing(&self) -> &[u8] {
        let message = self.message();
        records::end(message).and_then(|end| message.get(end..)).unwrap_or_default()
    }

    /// Replaces the bytes after the message; returns false when the whole is longer than 4,096 bytes
    /// in a datagram or 65,535 over a connection, or does not fit.
    pub(crate) fn set_trailing(&mut self, bytes: &[u8]) -> bool {
        let Some(end) = records::end(self.message()) else { return false };
        let most = if self.query_state().protocol.is_stream() { FRAME_MAX } else { DATAGRAM_MAX };
        if end + bytes.len() > most.min(self.capacity()) {
            return false;
        }
        let packet = self.packet_mut();
        packet.truncate(end);
        packet.append(bytes)
    }

    /// Changes the requested name, or the owner name of an answer; returns false when the message
    /// is malformed or does not fit. Such an answer is dropped: its name is not for the client.
    pub(crate) fn change_name(&mut self, new: &[u8]) -> bool {
        if name::end_plain(new, 0) != Some(new.len()) || self.facts().qname_len == 0 {
            return false;
        }
        let question = self.message().get(header::LEN..usize::from(self.facts().question_end));
        let question = question.unwrap_or_default().to_vec();
        let done = self.edit(|packet| rebuild::rename(packet, new));
        if self.current.response {
            self.query_state_mut().not_renamed = !done;
        } else if done && self.query_state().original.is_empty() {
            self.query_state_mut().original = question;
        }
        done
    }

    /// Removes the records of a type; returns false when the message is malformed.
    pub(crate) fn clear_records(&mut self, rtype: u16) -> bool {
        self.edit(|packet| rebuild::clear_types(packet, |t| t == rtype))
    }

    /// Sets the TTL of each record to what `change` returns for section, class, type and TTL.
    pub(crate) fn edit_ttls(&mut self, change: impl FnMut(Section, u16, u16, u32) -> u32) {
        records::edit_ttls(self.packet_mut().bytes_mut(), change);
    }

    /// Turns the query into an answer with those of the records, by type and contents, that it
    /// requests; without records when there is none. AA stays as the function left it. Returns
    /// false when it cannot be answered or the answer does not fit.
    pub(crate) fn spoof<'r>(&mut self, answers: impl Iterator<Item = (u16, &'r [u8])>, ttl: u32) -> bool {
        let facts = *self.facts();
        let Some(own) = self.current.own.filter(|_| facts.qname_len > 0) else { return false };
        // There are no records of type ANY.
        let answers =
            answers.filter(|a| a.0 != rtype::ANY && (a.0 == facts.qtype || facts.qtype == rtype::ANY));
        let flags = Flags { aa: header::is_authoritative(self.message()), ..Flags::default() };
        let mut buffer = self.message().to_vec();
        // What rules changed in RD and CD was for servers.
        query_state::set_flags(&mut buffer, self.query_state().flags);
        let length = buffer.len();
        buffer.resize(length + GROWTH_MAX, 0);
        let mut packet = Packet::new(&mut buffer, 0, length);
        let rcode = u16::from(header::rcode::NOERROR);
        if !answer::rcode(&mut packet, rcode, flags, own) {
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
            out.extend_from_slice(&ttl.to_be_bytes());
            out.extend_from_slice(&rdata_len.to_be_bytes());
            out.extend_from_slice(rdata);
            count = count.saturating_add(1);
            if out.len() > self.capacity() {
                return false;
            }
        }
        out.extend_from_slice(&message[end..]);
        out[6..8].copy_from_slice(&count.to_be_bytes());
        self.set_content(&out)
    }

    /// Turns the query into an answer that `make` writes, with this TTL. AA stays as the function
    /// left it. Returns false when it cannot be answered or the answer does not fit.
    pub(crate) fn answer(
        &mut self,
        ttl: u32,
        make: impl FnOnce(&mut Packet<'_>, Flags, AnswerEdns) -> bool,
    ) -> bool {
        let Some(own) = self.current.own.filter(|_| self.facts().qname_len > 0) else { return false };
        let flags = Flags { aa: header::is_authoritative(self.message()), ttl, ..Flags::default() };
        let mut buffer = self.message().to_vec();
        // What rules changed in RD and CD was for servers.
        query_state::set_flags(&mut buffer, self.query_state().flags);
        let length = buffer.len();
        buffer.resize(length + GROWTH_MAX, 0);
        let mut packet = Packet::new(&mut buffer, 0, length);
        make(&mut packet, flags, own) && {
            let answer = packet.bytes().to_vec();
            answer.len() <= self.capacity() && self.set_content(&answer)
        }
    }

    /// Sets an EDNS option, as the actions do: of a query with an OPT record where there is none, of
    /// an answer where there is one. A message that is signed, and an answer to a client without EDNS,
    /// stay without it. Returns false, and changes nothing, if it does not fit.
    pub(crate) fn set_option(&mut self, code: u16, data: &[u8]) -> bool {
        if signature::is_signed(self.message()) || self.current.response && self.opt().is_none() {
            return true;
        }
        let mut kept = false;
        if !self.current.response {
            self.query_state_mut();
            let EvaluationContext { query_state, packet, .. } = &mut *self.context;
            kept = code == edns::code::CLIENT_SUBNET && query_state.keep_client_subnet(packet.bytes());
        }
        if self.current.response
            && self.context.opt().is_none()
            && self.context.query_state.client_opt.is_none()
        {
            // It is for a client without EDNS.
            return true;
        }
        let mut done = edns::Outcome::Failed;
        let fits = self.edit(|packet| {
            done = edns::set_option(packet, code, data, OPT_PAYLOAD);
            done != edns::Outcome::Failed
        });
        if self.current.response {
            return fits;
        }
        let state = self.query_state_mut();
        if kept && done != edns::Outcome::Replaced {
            state.client_subnet.clear();
        }
        match done {
            edns::Outcome::OptAdded => state.added = Ecs::OptAdded,
            edns::Outcome::Added if code == edns::code::CLIENT_SUBNET && state.added == Ecs::Left => {
                state.added = Ecs::OptionAdded;
            }
            edns::Outcome::Added | edns::Outcome::Replaced | edns::Outcome::Failed => {}
        }
        fits
    }

    /// Turns the query into a negative answer with a SOA record in the additional section.
    pub(crate) fn negative(&mut self, nxdomain: bool, ttl: u32, soa: &Soa<'_>) -> bool {
        self.answer(ttl, |packet, flags, own| answer::negative_soa(packet, nxdomain, soa, false, flags, own))
    }

    /// Turns the query into an answer that is this message, with the query's id, RD and question;
    /// returns false when it is no message or does not fit.
    pub(crate) fn spoof_message(&mut self, message: &[u8]) -> bool {
        let query = self.message().to_vec();
        self.edit(|packet| {
            let done = answer::message(packet, message);
            if !done {
                // It was there before, so it fits.
                let _ = packet.replace(&query);
            }
            done
        })
    }

    /// Truncates the message or pads it with zeros to `len` bytes; returns false when they do not
    /// fit.
    pub(crate) fn resize(&mut self, len: usize) -> bool {
        if len < header::LEN || len > self.capacity() {
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
