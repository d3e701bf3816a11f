//! Lines: connections towards backends, all that is known of each but its socket.
//!
//! A query goes by the line of the last one, or another that has room for it, the fullest first, so
//! that few are open; or by a new one. What waits on a line that ends is asked again by the shard, here or elsewhere. How
//! many queries are on a line, the table of [`Outstanding`](super::outstanding) knows.

mod overdue;
mod pick;

use overdue::SWEEP;
pub(super) use pick::{ANYBODY, Need};

use std::collections::VecDeque;

use crate::addr::{BackendSlot, Route, SocketSlot};
use crate::descriptors::{Descriptors, Permit};
use crate::shard::streams::LineEnd;
use crate::time::{Tick, TickDelta};
use crate::wire::frame::{Frames, Outbound};
use crate::wire::transfer::Transfer;

use std::sync::Arc;

/// A server that refused a connection is passed over for so long, where there is another.
const TROUBLE: TickDelta = TickDelta::from_ms(1_000);
/// A server that closes a connection after so few answers, with queries unanswered, gets no more
/// than these at a time.
const HASTY_MAX: u64 = 4;
/// Queries at a time from which on it is as any other.
const PATIENT: u32 = 256;
/// Queries in a row without an answer that end a line.
const MISSED_MAX: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The engine is to open it, or has begun to.
    Connecting,
    /// Queries go and answers come.
    Open,
    /// The engine is to close it.
    Ended(LineEnd),
}

/// One connection to a backend.
#[derive(Debug)]
struct Line {
    state: State,
    chore: bool,
    opened: Tick,
    /// The last answer, or the first query after it was idle.
    active: Tick,
    /// Since when its output waits to be taken.
    blocked: Option<Tick>,
    /// Messages that were answers to its queries.
    answered: u64,
    /// The last message.
    heard_at: Tick,
    /// Queries in a row whose time was up, with nothing heard meanwhile.
    missed: u8,
    /// The server has closed it, with messages on it that have not been looked at yet.
    hung_up: bool,
    /// It has had no query yet.
    is_new: bool,
    /// Who it is for does not take more.
    paused: bool,
    /// Its place in `resumable` is taken.
    resuming: bool,
    frames: Frames,
    output: Outbound,
    /// It is used by a zone transfer, and by nothing else.
    transfer: Option<Transfer>,
    /// A part of that transfer has come.
    begun: bool,
    /// The trust in its server that it was opened with: once that is another, it gets no more
    /// queries, and ends with its last one.
    era: u64,
    /// Only for queries of this client: the server takes its address from the connection.
    key: u64,
    source: Option<[u8; 16]>,
    permit: Option<Permit>,
}

/// A backend's lines.
#[derive(Debug, Default)]
struct Farm {
    lines: Vec<Option<Line>>,
    /// By which the last query went.
    last: usize,
    open: u32,
    troubled_until: Tick,
    /// It closes its connections with queries unanswered, and gets so many at a time on each; 0 is
    /// as many as may be. Twice as many when a line has answered more.
    depth: u32,
}

/// All lines of a shard.
#[derive(Debug)]
pub(super) struct Lines {
    descriptors: Arc<Descriptors>,
    farms: Vec<Farm>,
    open: u32,
    /// Both are served in the order of their coming, so that none is passed over.
    chores: VecDeque<Route>,
    /// Lines that hold messages and may go on with them.
    resumable: VecDeque<Route>,
    swept: Tick,
    /// Backends that have refused a connection a moment ago, and those of them that have lines
    /// only.
    troubled: Vec<BackendSlot>,
    troubled_for_all: Vec<BackendSlot>,
}

/// What an engine should do with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineWish {
    /// Open it if it is not, write the output; read only if so.
    Serve {
        /// Whether it may be read.
        read: bool,
    },
    /// Close it, and forget it.
    Close,
}

/// What became of a line that is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    /// It has brought answers.
    pub(super) answered: u64,
    /// A transfer was on it, and had begun to arrive.
    pub(super) transferring: bool,
}

impl Lines {
    /// None yet.
    pub(super) const fn new(descriptors: Arc<Descriptors>) -> Self {
        Self {
            descriptors,
            farms: Vec::new(),
            open: 0,
            chores: VecDeque::new(),
            resumable: VecDeque::new(),
            swept: Tick(0),
            troubled: Vec::new(),
            troubled_for_all: Vec::new(),
        }
    }

    fn line(&self, route: Route) -> Option<&Line> {
        self.farms.get(route.backend.index())?.lines.get(index(route.socket))?.as_ref()
    }

    fn line_mut(&mut self, route: Route) -> Option<&mut Line> {
        self.farms.get_mut(route.backend.index())?.lines.get_mut(index(route.socket))?.as_mut()
    }

    /// Whether the connection has not come about yet.
    pub(super) fn is_connecting(&self, route: Route) -> bool {
        self.line(route).is_some_and(|l| l.state == State::Connecting)
    }

    /// Puts a query on a line, behind what is there; `alone`: no other one waits on it. False when
    /// it is longer than a frame can hold, as rules may have made it.
    pub(super) fn ask(&mut self, route: Route, query: &[u8], alone: bool, now: Tick) -> bool {
        let Some(line) = self.line_mut(route) else { return false };
        if !line.output.push_frame(query) {
            return false;
        }
        if alone {
            line.active = now;
        }
        line.is_new = false;
        line.blocked = line.blocked.or(Some(now));
        self.chore(route);
        true
    }

    /// A transfer's client does not take what there is: the line waits.
    pub(super) fn pause(&mut self, route: Route, paused: bool) {
        let Some(line) = self.line_mut(route) else { return };
        if std::mem::replace(&mut line.paused, paused) != paused {
            // The engine is to read, or not.
            self.chore(route);
        }
    }

    /// Whether who it is for does not take more.
    pub(super) fn is_paused(&self, route: Route) -> bool {
        self.line(route).is_some_and(|l| l.paused)
    }

    /// Whether the line's next message may be looked at.
    pub(super) fn goes_on(&self, route: Route) -> bool {
        self.line(route).is_some_and(|l| !l.paused)
    }

    /// A paused line may go on.
    pub(super) fn resume(&mut self, route: Route, now: Tick) {
        if let Some(line) = self.line_mut(route)
            && std::mem::take(&mut line.paused)
        {
            // The time that it was not read is not its server's.
            line.active = now;
            self.go_on(route);
        }
    }

    /// The line is to be looked at again: it may hold messages, or its server may have closed it.
    fn go_on(&mut self, route: Route) {
        if let Some(line) = self.line_mut(route)
            && !std::mem::replace(&mut line.resuming, true)
        {
            self.resumable.push_back(route);
        }
    }

    /// A line that may go on with what it holds.
    /// It keeps its turn until [`Lines::end_step`] says otherwise.
    pub(super) fn next_resumable(&mut self) -> Option<Route> {
        while let Some(route) = self.resumable.front().copied() {
            if self.line(route).is_some_and(|l| l.resuming) {
                return Some(route);
            }
            self.resumable.pop_front();
        }
        None
    }

    /// The line whose turn it is has done a step of it: whether it goes on. It does as long as it
    /// holds messages: they came by one read, and it is not read before they are used.
    pub(super) fn end_step(&mut self, route: Route) -> bool {
        let holds = self.line(route).is_some_and(Line::holds_messages);
        if !holds {
            self.resumable.pop_front();
            if let Some(line) = self.line_mut(route) {
                line.resuming = false;
            }
        }
        holds
    }

    /// Lines that may go on with what they hold; perhaps some more.
    pub(super) fn resumable_count(&self) -> usize {
        self.resumable.len()
    }

    /// Puts octets in front of a new line's first query: a PROXY header.
    pub(super) fn preface(&mut self, route: Route, octets: &[u8]) {
        if let Some(line) = self.line_mut(route).filter(|l| l.is_new && l.output.is_empty()) {
            line.output.push_raw(octets);
        }
    }

    /// The address that a line is to come from, where that is its client's own.
    pub(super) fn source(&self, route: Route) -> Option<[u8; 16]> {
        self.line(route)?.source
    }

    /// Whether a line has had no query yet.
    pub(super) fn is_new(&self, route: Route) -> bool {
        self.line(route).is_some_and(|l| l.is_new)
    }

    /// The connection stands.
    pub(super) fn opened(&mut self, route: Route, now: Tick) {
        if let Some(line) = self.line_mut(route).filter(|l| l.state == State::Connecting) {
            line.state = State::Open;
            // Its queries could not be taken before.
            line.blocked = line.blocked.map(|_| now);
            line.active = now;
        }
    }

    /// The line's frames, to be fed; to be given back with [`Lines::put_frames`].
    pub(super) fn take_frames(&mut self, route: Route) -> Option<Frames> {
        let line = self.line_mut(route).filter(|l| !matches!(l.state, State::Ended(_)))?;
        Some(std::mem::take(&mut line.frames))
    }

    /// Gives the frames back. A line that still holds messages goes on with them in its turn.
    pub(super) fn put_frames(&mut self, route: Route, frames: Frames) {
        let Some(line) = self.line_mut(route) else { return };
        line.frames = frames;
        if line.holds_messages() {
            self.go_on(route);
        }
    }

    /// Whether the engine may read: nothing that was read waits.
    pub(super) fn may_read(&self, route: Route) -> bool {
        self.line(route).is_some_and(|l| !l.holds_messages())
    }

    /// A message has arrived; `answers`: to one of its queries.
    pub(super) fn heard(&mut self, route: Route, answers: bool, now: Tick) {
        let Some(line) = self.line_mut(route) else { return };
        line.answered += u64::from(answers);
        line.missed = 0;
        line.heard_at = now;
        line.active = now;
        let answered = line.answered;
        let depth = &mut self.farms[route.backend.index()].depth;
        if *depth > 0 && answered > u64::from(*depth) {
            *depth = if *depth < PATIENT { *depth * 2 } else { 0 };
        }
    }

    /// The transfer on a line.
    pub(super) fn transfer(&mut self, route: Route) -> Option<&mut Transfer> {
        self.line_mut(route)?.transfer.as_mut()
    }

    /// Octets to be written.
    pub(super) fn output(&self, route: Route) -> &[u8] {
        self.line(route).map_or(&[], |l| l.output.pending())
    }

    /// So many of them were written.
    pub(super) fn written(&mut self, route: Route, count: usize, now: Tick) {
        let Some(line) = self.line_mut(route) else { return };
        line.output.advance(count);
        line.blocked = (!line.output.is_empty()).then_some(now);
    }

    /// The line has served its purpose, or failed: the engine is to close it.
    pub(super) fn end(&mut self, route: Route, why: LineEnd) {
        let Some(line) = self.line_mut(route) else { return };
        if !matches!(line.state, State::Ended(_)) {
            line.state = State::Ended(why);
            self.chore(route);
        }
    }

    /// Forgets a line that is closed; its number may be given to another. `only`: its backend is
    /// asked by lines alone. `owing`: since when queries wait on it.
    pub(super) fn forget(
        &mut self,
        route: Route,
        why: LineEnd,
        only: bool,
        owing: Option<Tick>,
        now: Tick,
    ) -> Option<Past> {
        let farm = self.farms.get_mut(route.backend.index())?;
        let line = farm.lines.get_mut(index(route.socket))?.take()?;
        farm.open -= 1;
        self.open -= 1;
        if matches!(why, LineEnd::Refused | LineEnd::ConnectTimeout | LineEnd::Handshake | LineEnd::Silent) {
            farm.troubled_until = now + TROUBLE;
            if !self.troubled.contains(&route.backend) {
                self.troubled.push(route.backend);
                if only {
                    self.troubled_for_all.push(route.backend);
                }
            }
        }
        // Not one that was idle and closed just as it was asked.
        let was_served = owing.is_some_and(|since| line.heard_at > since);
        let is_hasty = was_served && (1..=HASTY_MAX).contains(&line.answered);
        if is_hasty && matches!(why, LineEnd::Closed | LineEnd::Broken) && line.transfer.is_none() {
            farm.depth = line.answered as u32;
        }
        Some(Past { answered: line.answered, transferring: line.begun })
    }

    /// Backends that a query is better not sent to: those that have refused a connection a moment
    /// ago. `streams`: the query came by a connection, and goes by one.
    pub(super) fn avoided(&self, streams: bool) -> &[BackendSlot] {
        if streams { &self.troubled } else { &self.troubled_for_all }
    }

    /// Whether a zone transfer is on the line.
    pub(super) fn is_transfer(&self, route: Route) -> bool {
        self.line(route).is_some_and(|l| l.transfer.is_some())
    }

    /// A message of a zone transfer has arrived by the line, with more to come.
    pub(super) fn has_begun(&mut self, route: Route) {
        if let Some(line) = self.line_mut(route) {
            line.begun = true;
        }
    }

    /// Whether messages of a zone transfer have arrived by the line.
    pub(super) fn is_transferring(&self, route: Route) -> bool {
        self.line(route).is_some_and(|l| l.begun)
    }

    /// A query's time was up, with nothing heard since it was asked: a line of which that can be
    /// said a few times in a row is taken for dead.
    pub(super) fn missed(&mut self, route: Route, asked: Tick) {
        let Some(line) = self.line_mut(route) else { return };
        if line.heard_at <= asked {
            line.missed = line.missed.saturating_add(1);
            if line.missed >= MISSED_MAX {
                // Not its server's fault as far as we know: it may have a new one at once.
                self.end(route, LineEnd::Idle);
            }
        }
    }

    /// Whether messages wait on the line, for their turn or for its client to take them.
    pub(super) fn holds_back(&self, route: Route) -> bool {
        self.line(route).is_some_and(|l| !matches!(l.state, State::Ended(_)) && l.frames.has_more())
    }

    /// The server has closed a line that holds messages back.
    pub(super) fn hang_up(&mut self, route: Route) {
        if let Some(line) = self.line_mut(route) {
            line.hung_up = true;
        }
    }

    /// Whether a line whose server has closed it has nothing more to tell.
    pub(super) fn is_told(&self, route: Route) -> bool {
        self.line(route).is_some_and(|l| {
            l.hung_up && !l.paused && !l.holds_messages() && !matches!(l.state, State::Ended(_))
        })
    }

    /// A backend is no more: the next one in its slot begins anew.
    pub(super) fn detach(&mut self, backend: BackendSlot) {
        if let Some(farm) = self.farms.get_mut(backend.index()) {
            farm.depth = 0;
            farm.troubled_until = Tick(0);
        }
    }

    /// A line that was picked gets no query: a new one is not needed.
    pub(super) fn spare(&mut self, route: Route) {
        if self.is_new(route) {
            self.end(route, LineEnd::Done);
        }
    }

    /// Lines that are open or about to be.
    pub(super) const fn open_count(&self) -> u32 {
        self.open
    }

    /// The same of one backend.
    pub(super) fn open_of(&self, backend: BackendSlot) -> u32 {
        self.farms.get(backend.index()).map_or(0, |f| f.open)
    }

    pub(super) fn chore(&mut self, route: Route) {
        let Some(line) = self.line_mut(route) else { return };
        if line.hung_up && !matches!(line.state, State::Ended(_)) {
            // There is no socket to do anything with.
            return;
        }
        if !std::mem::replace(&mut line.chore, true) {
            self.chores.push_back(route);
        }
    }

    /// A line that the engine has something to do for.
    pub(super) fn next_chore(&mut self) -> Option<Route> {
        while let Some(route) = self.chores.pop_front() {
            if let Some(line) = self.line_mut(route) {
                line.chore = false;
                // What it was for, before its server closed it, is no more.
                if !line.hung_up || matches!(line.state, State::Ended(_)) {
                    return Some(route);
                }
            }
        }
        None
    }

    /// Lines that the engine has something to do for; perhaps some more.
    pub(super) fn chores_count(&self) -> usize {
        self.chores.len()
    }

    /// What the engine should do with it.
    pub(super) fn wish(&self, route: Route) -> LineWish {
        match self.line(route) {
            Some(Line { state: State::Connecting | State::Open, paused, .. }) => {
                LineWish::Serve { read: !paused }
            }
            Some(Line { state: State::Ended(_), .. }) | None => LineWish::Close,
        }
    }

    /// Why the line is to be closed.
    pub(super) fn why(&self, route: Route) -> LineEnd {
        match self.line(route).map(|l| l.state) {
            Some(State::Ended(why)) => why,
            Some(State::Connecting | State::Open) | None => LineEnd::Done,
        }
    }

    /// When [`Lines::sweep`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Tick> {
        if !self.resumable.is_empty() {
            return Some(Tick(0));
        }
        (self.open > 0 || !self.troubled.is_empty()).then(|| self.swept + SWEEP)
    }

    /// Checks what must hold between calls; for tests.
    pub(super) fn check_invariants(&self) {
        for farm in &self.farms {
            assert_eq!(farm.lines.iter().flatten().count(), farm.open as usize, "lines are counted");
        }
        assert_eq!(self.farms.iter().map(|f| f.open).sum::<u32>(), self.open, "lines are counted");
        for (at, farm) in self.farms.iter().enumerate() {
            for (place, line) in farm.lines.iter().enumerate() {
                let route = Route { backend: BackendSlot(at as u16), socket: number(place) };
                let waits = line.as_ref().is_some_and(Line::holds_messages);
                assert!(!waits || self.resumable.contains(&route), "what may go on does");
            }
        }
    }
}

impl Line {
    /// Whether it holds messages that may be looked at now.
    fn holds_messages(&self) -> bool {
        !self.paused && !matches!(self.state, State::Ended(_)) && self.frames.has_more()
    }
}

const fn index(socket: SocketSlot) -> usize {
    (socket.0 - SocketSlot::LINES.0) as usize
}

const fn number(at: usize) -> SocketSlot {
    SocketSlot(SocketSlot::LINES.0 + at as u16)
}
