//! The budget of one turn of the loop, and what is left for the next. It only decides; the clock is
//! passed in.
//!
//! ```text
//!  turn:   datagrams │ slice │ datagrams │ slice │ datagrams │ slice │ ...
//!  round:            │ read ─────── go on with what is held ───── write │ read ...
//! ```
//!
//! DNS over UDP is served in every turn. Connections are served in rounds: ready ones are read,
//! those with buffered messages continue, then all output is written, so that one write carries as
//! much as possible. A round takes as many turns as it needs, one slice in each. So the latency of
//! a datagram depends neither on the number of connections nor on what they send.
//!
//! A slice is measured in time, because the cost of a step varies by a factor of a thousand: a
//! small read, a TLS handshake, a query that meets Lua rules. A step is bounded by number: queries
//! and answers of a connection, bytes of a relayed one, accepts, one handshake.

use std::collections::VecDeque;

use crate::base::addr::{ConnectionSlot, ListenerSlot};
use crate::base::time::{Tick, TickDelta};

/// Time for connections before datagrams are read again: long enough that the turn itself (two or
/// three system calls) is one or two percent of it, and not much longer than a UDP query takes in
/// any case.
const SLICE: TickDelta = TickDelta::from_us(100);
/// The same without recent datagrams: the first one that arrives waits a little longer, the others
/// do not.
const SLICE_QUIET: TickDelta = TickDelta::from_us(250);
/// Time without datagrams until the longer slice applies.
const QUIET_AFTER: TickDelta = TickDelta::from_ms(10);
/// Additional time for each datagram of the turn, about what one costs: connections get their share
/// under any load.
const DATAGRAM: TickDelta = TickDelta::from_us(1);
/// Connections accepted from one listener in one step.
pub(super) const ACCEPTS: usize = 8;
/// The same in one round: a flooded listener does not starve established connections.
const ACCEPTS_PER_ROUND: usize = 64;
/// The same for a listener that is being closed: all pending ones, within a bound.
const ACCEPTS_LAST: usize = 65_536;
/// Batches read from a socket that is being closed.
pub(super) const BATCHES_LAST: usize = 4_096;

/// Light steps between two clock reads, each of which costs a hundredth of a step.
const LIGHT_STEPS: u32 = 4;

/// The approximate cost of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// A read or write of a connection: some microseconds.
    Light,
    /// Possibly much more: TLS handshakes, relayed bytes, accepts, many messages.
    Heavy,
}

/// The part of a turn that connections get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    ends: Tick,
    /// Light steps since the last clock read.
    light: u32,
    is_over: bool,
}

impl Slice {
    /// Begins after a turn that read `datagrams`; `last` is the time of the last datagram.
    pub(super) fn begin(now: Tick, datagrams: usize, last: Tick) -> Self {
        let span = if now.since(last) < QUIET_AFTER { SLICE } else { SLICE_QUIET };
        let extra = DATAGRAM.0.saturating_mul(datagrams as u64);
        let ends = now + TickDelta(span.0.saturating_add(extra));
        Self { ends, light: 0, is_over: false }
    }

    /// Returns whether it ends with this step. Asked after each step, so every slice has at least
    /// one.
    pub(super) fn ends_with(&mut self, step: Weight, now: impl FnOnce() -> Tick) -> bool {
        self.light += 1;
        if !self.is_over && (step == Weight::Heavy || self.light >= LIGHT_STEPS) {
            self.light = 0;
            self.is_over = now() >= self.ends;
        }
        self.is_over
    }
}

/// The stage of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// No round has begun.
    #[default]
    Idle,
    /// Backend connections are read.
    Responses,
    /// Client connections are read, and relayed ones served.
    Clients,
    /// Connections are accepted, listeners closed.
    Listeners,
    /// Connections continue with messages that they have buffered.
    Held,
    /// Pending output is written, and ended connections are closed.
    Pending,
    /// Draining connections are checked.
    Closed,
}

/// Work at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Accept connections up to this number.
    Accept(ListenerSlot, usize),
    /// Read up to this number of batches of datagrams of a closing listener.
    Empty(ListenerSlot, usize),
    /// Accept up to this number of pending connections of a closing listener, then close it.
    Close(ListenerSlot, usize),
    /// Read a connection of such a listener for the last time.
    ReadLast(ConnectionSlot),
    /// Take no more queries from a listener's connections.
    Finish(ListenerSlot),
}

impl Task {
    /// Connections are pending at a listener.
    pub(super) const fn accept(listener: ListenerSlot) -> Self {
        Self::Accept(listener, ACCEPTS_PER_ROUND)
    }

    /// A UDP listener is being closed.
    pub(super) const fn empty(listener: ListenerSlot) -> Self {
        Self::Empty(listener, BATCHES_LAST)
    }

    /// A TCP listener is being closed.
    pub(super) const fn close(listener: ListenerSlot) -> Self {
        Self::Close(listener, ACCEPTS_LAST)
    }

    /// Returns what is left after a step that found `more` to do; `None` when its share is used up.
    pub(super) fn after_step(self, more: bool) -> Option<Self> {
        let left = |most: usize, step| most.checked_sub(step).filter(|left| more && *left > 0);
        match self {
            Self::Accept(listener, most) => Some(Self::Accept(listener, left(most, ACCEPTS)?)),
            Self::Close(listener, most) => Some(Self::Close(listener, left(most, ACCEPTS)?)),
            Self::Empty(listener, most) => Some(Self::Empty(listener, left(most, 1)?)),
            Self::ReadLast(_) | Self::Finish(_) => None,
        }
    }
}

/// A round of work on connections.
///
/// Connections are opened after the ready ones have been read, and closed by their own event or
/// after all reading: no event of a round can refer to the successor of its connection.
#[derive(Debug, Default)]
pub(super) struct Round {
    stage: Stage,
    tasks: VecDeque<Task>,
    /// Steps left in this stage: work added later waits for the next round.
    steps: usize,
}

impl Round {
    pub(super) const fn stage(&self) -> Stage {
        self.stage
    }

    /// Begins the next stage with this number of steps.
    pub(super) const fn enter(&mut self, stage: Stage, steps: usize) {
        (self.stage, self.steps) = (stage, steps);
    }

    /// Notes that one step is done.
    pub(super) const fn end_step(&mut self) {
        self.steps = self.steps.saturating_sub(1);
    }

    /// Returns whether the stage has steps left.
    pub(super) const fn has_steps(&self) -> bool {
        self.steps > 0
    }

    /// Adds work at a listener.
    pub(super) fn add(&mut self, task: Task) {
        self.tasks.push_back(task);
    }

    /// Returns whether there is no work at listeners.
    pub(super) fn is_free(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Drops all work, because the connections are closed.
    pub(super) fn abandon(&mut self) {
        *self = Self::default();
    }

    /// Returns the next work at a listener, in turn.
    pub(super) fn next_task(&mut self) -> Option<Task> {
        self.tasks.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(n: u64) -> Tick {
        Tick(n * 1_000)
    }

    #[test]
    fn a_slice_ends_when_its_time_is_used() {
        let mut slice = Slice::begin(us(1_000), 0, us(900));
        assert!(!slice.ends_with(Weight::Heavy, || us(1_000)));
        assert!(!slice.ends_with(Weight::Heavy, || us(1_099)));
        assert!(slice.ends_with(Weight::Heavy, || us(1_100)));
        assert!(slice.ends_with(Weight::Light, || panic!("the clock is not needed")), "it stays ended");
    }

    #[test]
    fn the_clock_is_read_after_a_heavy_step_or_some_light_ones() {
        let mut slice = Slice::begin(us(0), 0, us(0));
        for _ in 0..3 {
            for _ in 1..LIGHT_STEPS {
                assert!(!slice.ends_with(Weight::Light, || panic!("too often")));
            }
            let mut looked = false;
            assert!(!slice.ends_with(Weight::Light, || {
                looked = true;
                us(1)
            }));
            assert!(looked);
        }
        assert!(slice.ends_with(Weight::Heavy, || us(200)));
    }

    #[test]
    fn slices_are_longer_without_datagrams() {
        let mut slice = Slice::begin(us(20_000), 0, us(5_000));
        assert!(!slice.ends_with(Weight::Heavy, || us(20_249)));
        assert!(slice.ends_with(Weight::Heavy, || us(20_250)));
    }

    #[test]
    fn connections_get_half_the_time_under_a_datagram_flood() {
        for datagrams in [0, 64, 4_096] {
            let mut slice = Slice::begin(us(0), datagrams, us(0));
            let lasts = (0..).find(|now| slice.ends_with(Weight::Heavy, || us(*now)));
            assert_eq!(lasts, Some(100 + datagrams as u64));
        }
    }

    #[test]
    fn work_added_to_a_stage_waits_for_the_next_round() {
        let mut round = Round::default();
        let mut waiting = VecDeque::from([1, 2, 3]);
        let mut served = Vec::new();
        for _ in 0..2 {
            round.enter(Stage::Held, waiting.len());
            while round.has_steps()
                && let Some(one) = waiting.pop_front()
            {
                round.end_step();
                served.push(one);
                // It always has more.
                waiting.push_back(one);
            }
            waiting.push_back(4);
        }
        assert_eq!(served, [1, 2, 3, 1, 2, 3, 4]);
    }

    #[test]
    fn listeners_take_turns_and_a_flooded_one_is_bounded() {
        let mut round = Round::default();
        round.add(Task::accept(ListenerSlot(1)));
        round.add(Task::accept(ListenerSlot(2)));
        let mut steps = Vec::new();
        while let Some(task) = round.next_task() {
            let Task::Accept(listener, _) = task else { panic!("{task:?}") };
            steps.push(listener.0);
            // The second one has nothing pending after the first step.
            if let Some(rest) = task.after_step(listener.0 == 1) {
                round.add(rest);
            }
        }
        assert_eq!(steps, [1, 2, 1, 1, 1, 1, 1, 1, 1]);
        assert!(round.is_free());
    }

    #[test]
    fn closing_ends_under_any_load() {
        for task in [Task::close(ListenerSlot(0)), Task::empty(ListenerSlot(0))] {
            let steps = std::iter::successors(Some(task), |task| task.after_step(true)).count();
            assert!(steps > 4_000 && steps <= 8_192, "{task:?}: {steps}");
            assert_eq!(task.after_step(false), None);
        }
        assert_eq!(Task::Finish(ListenerSlot(0)).after_step(true), None);
    }
}
