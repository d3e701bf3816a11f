//! Messages out of TCP segments: each side of a connection is a stream of frames.
//!
//! ```text
//!  segment ─► in order: frames ─► messages
//!          └► early: held until what is before it comes, or the other side has acknowledged it, or
//!             there is no room: then that is a gap, and the next message is looked for
//! ```

use std::collections::VecDeque;
use std::net::SocketAddr;

use ahash::{AHashMap, RandomState};

use crate::tools::capture::counts::{Counts, Skip};
use crate::tools::capture::message::{Connection, End, Event, Message, Protocol};
use crate::wire::frame::{self, Frames};
use crate::wire::header::{self, Header};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Most bytes of early segments that a side of a connection holds, and most segments.
const HELD_BYTES_MAX: usize = 256 << 10;
const HELD_MAX: usize = 256;
/// Most bytes that all connections hold.
const BYTES_MAX: usize = 64 << 20;
/// Closed connections that are remembered, so that what is repeated afterwards opens no new one.
const CLOSED_MAX: usize = 8_192;
/// No slot.
const NONE: u32 = u32::MAX;

/// A segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment<'p> {
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    payload: &'p [u8],
}

impl<'p> Segment<'p> {
    /// Reads its header.
    pub(super) fn parse(bytes: &'p [u8]) -> Option<Self> {
        let header: &[u8; 20] = bytes.first_chunk()?;
        let word =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = usize::from(header[12] >> 4) * 4;
        if length < 20 {
            return None;
        }
        let payload = bytes.get(length..)?;
        Some(Self { sequence: word(4), acknowledged: word(8), flags: header[13], payload })
    }

    /// Returns whether it accepts a connection.
    pub(super) const fn is_answer_to_syn(&self) -> bool {
        self.flags & (SYN | ACK) == SYN | ACK
    }

    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Side {
    /// The number of the next byte; none before the first one.
    next: Option<u32>,
    /// Whether it is known where messages begin.
    is_aligned: bool,
    frames: Frames,
    /// Early segments by their numbers.
    held: VecDeque<(u32, Vec<u8>)>,
    held_bytes: usize,
    /// The number of the byte behind the last one.
    end: Option<u32>,
    is_ended: bool,
}

#[derive(Debug)]
struct Slot {
    id: u64,
    client: SocketAddr,
    server: SocketAddr,
    /// The client's side, then the server's.
    sides: [Side; 2],
    is_closed: bool,
    /// Those used before and after it.
    older: u32,
    newer: u32,
}

/// The connections of a capture.
#[derive(Debug)]
pub(super) struct Connections {
    table: AHashMap<(SocketAddr, SocketAddr), u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
    closed: VecDeque<(u32, u64)>,
    max: usize,
    bytes: usize,
    ids: u64,
}

/// Returns how far a number is behind another one, which is negative if it is before it.
const fn distance(number: u32, from: u32) -> i32 {
    number.wrapping_sub(from).cast_signed()
}

impl Side {
    fn bytes(&self) -> usize {
        self.held_bytes + self.frames.capacity()
    }

    /// Takes what a segment carries.
    fn take(
        &mut self,
        sequence: u32,
        payload: &[u8],
        counts: &mut Counts,
        message: &mut dyn FnMut(&[u8]),
        is_response: bool,
    ) {
        let next = *self.next.get_or_insert(sequence);
        let ahead = distance(sequence, next);
        if ahead > 0 {
            counts.early_segments += 1;
            self.hold(sequence, payload);
            while self.held_bytes > HELD_BYTES_MAX || self.held.len() > HELD_MAX {
                self.jump(counts, message, is_response);
            }
            return;
        }
        let Some(fresh) = payload.get(ahead.unsigned_abs() as usize..).filter(|fresh| !fresh.is_empty())
        else {
            counts.repeated_segments += 1;
            return;
        };
        self.deliver(fresh, counts, message, is_response);
        self.drain(counts, message, is_response);
    }

    fn hold(&mut self, sequence: u32, payload: &[u8]) {
        let place = self.held.partition_point(|(other, _)| distance(*other, sequence) < 0);
        // Of two that begin together, the longer one has all.
        if let Some((_, other)) = self.held.get_mut(place).filter(|(other, _)| *other == sequence) {
            if other.len() < payload.len() {
                self.held_bytes += payload.len() - other.len();
                *other = payload.to_vec();
            }
            return;
        }
        self.held_bytes += payload.len();
        self.held.insert(place, (sequence, payload.to_vec()));
    }

    /// Takes the next bytes of the stream.
    fn deliver(
        &mut self,
        bytes: &[u8],
        counts: &mut Counts,
        message: &mut dyn FnMut(&[u8]),
        is_response: bool,
    ) {
        self.next = self.next.map(|next| next.wrapping_add(bytes.len() as u32));
        if !self.is_aligned {
            if !begins_message(bytes, is_response) {
                counts.skip(Skip::StreamUnaligned);
                return;
            }
            self.is_aligned = true;
        }
        let mut each = |bytes: &[u8]| {
            message(bytes);
            frame::Flow::Go
        };
        if self.frames.feed(bytes, &mut each).is_err() {
            counts.skip(Skip::StreamNotDns);
            self.lose();
        }
    }

    /// Forgets the message that has begun.
    fn lose(&mut self) {
        self.frames = Frames::new();
        self.is_aligned = false;
    }

    /// Delivers held segments that are next.
    fn drain(&mut self, counts: &mut Counts, message: &mut dyn FnMut(&[u8]), is_response: bool) {
        while let (Some(next), Some((sequence, _))) = (self.next, self.held.front()) {
            let ahead = distance(*sequence, next);
            if ahead > 0 {
                return;
            }
            let Some((_, bytes)) = self.held.pop_front() else { return };
            self.held_bytes -= bytes.len();
            if let Some(fresh) = bytes.get(ahead.unsigned_abs() as usize..).filter(|fresh| !fresh.is_empty())
            {
                self.deliver(fresh, counts, message, is_response);
            }
        }
    }

    /// Gives up what is missing before the first held segment.
    fn jump(&mut self, counts: &mut Counts, message: &mut dyn FnMut(&[u8]), is_response: bool) {
        let Some((sequence, _)) = self.held.front() else { return };
        self.next = Some(*sequence);
        counts.skip(Skip::StreamGap);
        self.lose();
        self.drain(counts, message, is_response);
    }

    /// Gives up what the other side has and the capture has not.
    fn acknowledged(
        &mut self,
        number: u32,
        counts: &mut Counts,
        message: &mut dyn FnMut(&[u8]),
        is_response: bool,
    ) {
        while self.held.front().is_some_and(|(sequence, _)| distance(number, *sequence) > 0) {
            self.jump(counts, message, is_response);
        }
    }

    /// Notes where the stream ends.
    fn ends_at(&mut self, number: u32) {
        self.end = Some(number);
        self.next.get_or_insert(number);
    }
}

/// Returns whether bytes look like the begin of a framed message that goes in this direction.
fn begins_message(bytes: &[u8], is_response: bool) -> bool {
    let Some((length, message)) = bytes.split_first_chunk() else { return false };
    let Some(header) = Header::parse(message) else { return false };
    usize::from(u16::from_be_bytes(*length)) >= header::LEN
        && header.is_response() == is_response
        && message[2] >> 3 & 15 <= 6
        && u16::from_be_bytes([message[4], message[5]]) <= 1
}

impl Connections {
    pub(super) fn new(hasher: RandomState, max: usize) -> Self {
        Self {
            table: AHashMap::with_hasher(hasher),
            slots: Vec::new(),
            free: Vec::new(),
            oldest: NONE,
            newest: NONE,
            closed: VecDeque::new(),
            max: max.clamp(1, NONE as usize - 1),
            bytes: 0,
            ids: 0,
        }
    }

    /// Returns whether there is a connection between these.
    pub(super) fn has(&self, client: SocketAddr, server: SocketAddr) -> bool {
        self.table.contains_key(&(client, server))
    }

    /// Takes a segment.
    #[expect(clippy::too_many_arguments, reason = "what a segment is known by")]
    pub(super) fn segment(
        &mut self,
        at: u64,
        client: SocketAddr,
        server: SocketAddr,
        from_client: bool,
        segment: &Segment<'_>,
        counts: &mut Counts,
        visit: &mut impl FnMut(Event<'_>),
    ) {
        let opens = segment.has(SYN) && !segment.has(ACK) && from_client;
        let mut found = self.table.get(&(client, server)).copied();
        if let Some(index) = found.filter(|_| opens) {
            let slot = &self.slots[index as usize];
            let first = segment.sequence.wrapping_add(1);
            let repeats = !slot.is_closed && slot.sides[0].next.is_none_or(|next| distance(next, first) == 0);
            if !repeats {
                self.close(index, at, End::Replaced, counts, visit);
                self.remove(index);
                found = None;
            }
        }
        let index = match found {
            Some(index) => index,
            // Whatever ends or acknowledges says nothing of a connection that is not known.
            None if segment.payload.is_empty() && !opens => return,
            None => self.open(at, client, server, counts, visit),
        };
        self.touch(index);
        let Slot { id, sides, is_closed, .. } = &mut self.slots[index as usize];
        if *is_closed {
            if !segment.payload.is_empty() {
                counts.repeated_segments += 1;
            }
            return;
        }
        let (id, before) = (*id, sides[0].bytes() + sides[1].bytes());
        let (mut queries, mut responses) = (0, 0);
        let mut emit = |is_response: bool, payload: &[u8]| {
            if Header::parse(payload).is_none_or(|header| header.is_response() != is_response) {
                return false;
            }
            *(if is_response { &mut responses } else { &mut queries }) += 1;
            visit(Event::Message(Message {
                at,
                asked: None,
                client,
                server,
                protocol: Protocol::Tcp,
                connection: Some(id),
                is_response,
                payload,
            }));
            true
        };
        let mut wrong = 0_u64;
        let [asks, answers] = &mut *sides;
        let (side, other) = if from_client { (asks, answers) } else { (answers, asks) };
        if segment.has(ACK) {
            other.acknowledged(
                segment.acknowledged,
                counts,
                &mut |bytes| wrong += u64::from(!emit(from_client, bytes)),
                from_client,
            );
        }
        let mut each = |bytes: &[u8]| wrong += u64::from(!emit(!from_client, bytes));
        let mut sequence = segment.sequence;
        if segment.has(SYN) {
            sequence = sequence.wrapping_add(1);
            if side.next.is_none() {
                (side.next, side.is_aligned) = (Some(sequence), true);
            }
        }
        if !segment.payload.is_empty() {
            side.take(sequence, segment.payload, counts, &mut each, !from_client);
        }
        if segment.has(FIN) {
            side.ends_at(sequence.wrapping_add(segment.payload.len() as u32));
        }
        for side in [&mut *side, other] {
            side.is_ended |=
                side.end.is_some_and(|end| side.next.is_some_and(|next| distance(next, end) >= 0));
        }
        let is_finished = sides.iter().all(|side| side.is_ended);
        let after = sides[0].bytes() + sides[1].bytes();
        for _ in 0..wrong {
            counts.skip(Skip::Direction);
        }
        counts.queries += queries;
        counts.responses += responses;
        self.bytes = self.bytes + after - before;
        if segment.has(RST) {
            self.close(index, at, End::Reset, counts, visit);
        } else if is_finished {
            self.close(index, at, End::Finished, counts, visit);
        }
        while self.bytes > BYTES_MAX && self.oldest != NONE {
            self.forget_oldest(at, counts, visit);
        }
    }

    /// Ends those that are open.
    pub(super) fn end(&mut self, at: u64, counts: &mut Counts, visit: &mut impl FnMut(Event<'_>)) {
        while self.oldest != NONE {
            let index = self.oldest;
            self.close(index, at, End::CaptureEnd, counts, visit);
            self.remove(index);
        }
    }

    fn open(
        &mut self,
        at: u64,
        client: SocketAddr,
        server: SocketAddr,
        counts: &mut Counts,
        visit: &mut impl FnMut(Event<'_>),
    ) -> u32 {
        if self.table.len() >= self.max {
            self.forget_oldest(at, counts, visit);
        }
        let id = self.ids;
        self.ids += 1;
        let slot = Slot {
            id,
            client,
            server,
            sides: Default::default(),
            is_closed: false,
            older: NONE,
            newer: NONE,
        };
        let index = if let Some(index) = self.free.pop() {
            self.slots[index as usize] = slot;
            index
        } else {
            self.slots.push(slot);
            self.slots.len() as u32 - 1
        };
        self.table.insert((client, server), index);
        self.append(index);
        counts.connections += 1;
        visit(Event::Opened(Connection { id, at, client, server }));
        index
    }

    /// Closes one, which is remembered.
    fn close(
        &mut self,
        index: u32,
        at: u64,
        end: End,
        counts: &mut Counts,
        visit: &mut impl FnMut(Event<'_>),
    ) {
        let Slot { id, client, server, sides, is_closed, .. } = &mut self.slots[index as usize];
        if *is_closed {
            return;
        }
        let (id, client, server) = (*id, *client, *server);
        self.bytes -= sides[0].bytes() + sides[1].bytes();
        for (side, is_response) in sides.iter_mut().zip([false, true]) {
            // What is held has a gap before it that nothing fills any more.
            let (mut messages, mut wrong) = (0, 0);
            let mut each = |payload: &[u8]| {
                if Header::parse(payload).is_none_or(|header| header.is_response() != is_response) {
                    wrong += 1;
                    return;
                }
                messages += 1;
                let (protocol, connection) = (Protocol::Tcp, Some(id));
                visit(Event::Message(Message {
                    at,
                    asked: None,
                    client,
                    server,
                    protocol,
                    connection,
                    is_response,
                    payload,
                }));
            };
            while !side.held.is_empty() {
                side.jump(counts, &mut each, is_response);
            }
            *(if is_response { &mut counts.responses } else { &mut counts.queries }) += messages;
            for _ in 0..wrong {
                counts.skip(Skip::Direction);
            }
            if side.frames.is_partial() {
                counts.skip(Skip::StreamGap);
            }
            *side = Side::default();
        }
        *is_closed = true;
        visit(Event::Closed(Connection { id, at, client, server }, end));
        self.closed.push_back((index, id));
        if self.closed.len() > CLOSED_MAX
            && let Some((index, id)) = self.closed.pop_front()
        {
            let slot = &self.slots[index as usize];
            // Its slot may have another one.
            if slot.id == id && slot.is_closed && self.table.get(&(slot.client, slot.server)) == Some(&index)
            {
                self.remove(index);
            }
        }
    }

    fn forget_oldest(&mut self, at: u64, counts: &mut Counts, visit: &mut impl FnMut(Event<'_>)) {
        let index = self.oldest;
        if index != NONE {
            self.close(index, at, End::Forgotten, counts, visit);
            self.remove(index);
        }
    }

    fn remove(&mut self, index: u32) {
        let Slot { client, server, .. } = self.slots[index as usize];
        // Another one may have been removed to make room, and this one too.
        if self.table.get(&(client, server)) == Some(&index) {
            self.table.remove(&(client, server));
            self.unlink(index);
            self.free.push(index);
        }
    }

    /// Makes it the newest.
    fn touch(&mut self, index: u32) {
        if self.newest != index {
            self.unlink(index);
            self.append(index);
        }
    }

    fn append(&mut self, index: u32) {
        let newest = self.newest;
        let slot = &mut self.slots[index as usize];
        (slot.older, slot.newer) = (newest, NONE);
        match self.slots.get_mut(newest as usize) {
            Some(newest) => newest.newer = index,
            None => self.oldest = index,
        }
        self.newest = index;
    }

    fn unlink(&mut self, index: u32) {
        let Slot { older, newer, .. } = self.slots[index as usize];
        match self.slots.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.slots.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
    }
}
