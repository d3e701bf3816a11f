//! How much is done in one turn of the loop, and what is left for the next one. It decides only; the
//! clock is handed in.
//!
//! ```text
//!  turn:   datagrams │ slice │ datagrams │ slice │ datagrams │ slice │ ...
//!  round:            │ read ─────── go on with what is held ───── write │ read ...
//! ```
//!
//! DNS over UDP is served in every turn. Connections are served in rounds: those that are ready are
//! read, those that hold messages go on, then all that this brought is written, so that what is written
//! is as much as can be. A round takes as many turns as it needs: each works on it for one slice. So
//! the wait of a datagram depends neither on how many connections there are nor on what they send.
//!
//! A slice is measured in time, because what one step costs differs by a factor of a thousand: a small
//! read, a TLS handshake, a query that meets rules in Lua. A step itself is bounded by number: queries
//! and answers of a connection, bytes of a relayed one, accepts, one handshake.

use std::collections::VecDeque;

use crate::base::addr::{ConnectionSlot, ListenerSlot};
use crate::base::time::{Tick, TickDelta};

/// Connections are worked on for so long before datagrams are read again: long enough that the turn
/// itself (two or three system calls) is one or two percent of it, and not much longer than a UDP
/// query takes anyhow.
const SLICE: TickDelta = TickDelta::from_us(100);
/// Without datagrams for a while: the first one that comes then waits a little longer, and the others do
/// not.
const SLICE_QUIET: TickDelta = TickDelta::from_us(250);
/// That while.
const QUIET_AFTER: TickDelta = TickDelta::from_ms(10);
/// And longer by so much for each datagram of the turn, which is about what one costs: however many
/// come, connections have their share.
const DATAGRAM: TickDelta = TickDelta::from_us(1);
/// Connections accepted from one listener in one step.
pub(super) const ACCEPTS: usize = 8;
/// And in one round: a listener that is flooded does not keep established connections waiting.
const ACCEPTS_PER_ROUND: usize = 64;
/// The same of a listener that is being closed: all that wait there, unless they never end.
const ACCEPTS_LAST: usize = 65_536;
/// Batches read from a socket that is being closed.
pub(super) const BATCHES_LAST: usize = 4_096;

/// Light steps between two looks at the clock, which costs a hundredth of one.
const LIGHT_STEPS: u32 = 4;

/// What a step costs, about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// A read or a write of a connection: some microseconds.
    Light,
    /// Perhaps much more: TLS handshakes, relayed bytes, accepts, many messages.
    Heavy,
}

/// A part of a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    ends: Tick,
    /// Light steps since the last look at the clock.
    light: u32,
    is_over: bool,
}

impl Slice {
    /// Begins after a turn's `datagrams`, so many; the last one came at that time.
    pub(super) fn begin(now: Tick, datagrams: usize, last: Tick) -> Self {
        let span = if now.since(last) < QUIET_AFTER { SLICE } else { SLICE_QUIET };
        let extra = DATAGRAM.0.saturating_mul(datagrams as u64);
        let ends = now + TickDelta(span.0.saturating_add(extra));
        Self { ends, light: 0, is_over: false }
    }

    /// Whether it has ended with this step. To be asked after it, so that there is one in each slice.
    pub(super) fn ends_with(&mut self, step: Weight, now: impl FnOnce() -> Tick) -> bool {
        self.light += 1;
        if !self.is_over && (step == Weight::Heavy || self.light >= LIGHT_STEPS) {
            self.light = 0;
            self.is_over = now() >= self.ends;
        }
        self.is_over
    }
}

/// Where a round stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// None has begun.
    #[default]
    Idle,
    /// Servers' connections are read.
    Answers,
    /// Clients' connections are read, and relayed ones served.
    Clients,
    /// Connections are accepted, listeners closed.
    Listeners,
    /// Connections go on with messages that they hold.
    Held,
    /// What there is to write is written, and what has ended is closed.
    Pending,
    /// Connections that are closed on our side are looked at.
    Closed,
}

/// One step at a listener, or of closing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Accept connections, at most so many.
    Accept(ListenerSlot, usize),
    /// Read datagrams of a listener that is being closed, at most so many batches.
    Empty(ListenerSlot, usize),
    /// Accept what waits at a listener that is being closed, at most so many, then close it.
    Close(ListenerSlot, usize),
    /// Read a connection for the last time that came by such a listener.
    ReadLast(ConnectionSlot),
    /// Connections of a listener bring no more queries.
    Finish(ListenerSlot),
}

impl Task {
    /// Connections wait at a listener.
    pub(super) const fn accept(listener: ListenerSlot) -> Self {
        Self::Accept(listener, ACCEPTS_PER_ROUND)
    }

    /// A listener for datagrams is being closed.
    pub(super) const fn empty(listener: ListenerSlot) -> Self {
        Self::Empty(listener, BATCHES_LAST)
    }

    /// A listener for connections is being closed.
    pub(super) const fn close(listener: ListenerSlot) -> Self {
        Self::Close(listener, ACCEPTS_LAST)
    }

    /// What is left of it after a step that found `more` to do; none when it has had its share.
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
/// Connections are opened by what follows the reading of those that were found ready, and closed by
/// their own event or after all reading: no event of a round is about the successor of its connection.
#[derive(Debug, Default)]
pub(super) struct Round {
    stage: Stage,
    tasks: VecDeque<Task>,
    /// Steps of the present stage that are still to come: what joins later waits for the next round.
    steps: usize,
}

impl Round {
    pub(super) const fn stage(&self) -> Stage {
        self.stage
    }

    /// Begins the next stage, which has so many steps.
    pub(super) const fn enter(&mut self, stage: Stage, steps: usize) {
        (self.stage, self.steps) = (stage, steps);
    }

    /// One of the steps is done.
    pub(super) const fn end_step(&mut self) {
        self.steps = self.steps.saturating_sub(1);
    }

    /// Whether the stage has steps left.
    pub(super) const fn has_steps(&self) -> bool {
        self.steps > 0
    }

    /// Something is to be done at a listener.
    pub(super) fn add(&mut self, task: Task) {
        self.tasks.push_back(task);
    }

    /// Whether nothing is to be done at listeners.
    pub(super) fn is_free(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Forgets what was to be done: the connections are closed.
    pub(super) fn abandon(&mut self) {
        *self = Self::default();
    }

    /// The next step at a listener. They take turns.
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
    fn a_slice_ends_on_time_or_with_the_step_that_takes_longer() {
        let mut slice = Slice::begin(us(1_000), 0, us(900));
        assert!(!slice.ends_with(Weight::Heavy, || us(1_000)));
        assert!(!slice.ends_with(Weight::Heavy, || us(1_099)));
        assert!(slice.ends_with(Weight::Heavy, || us(1_100)));
        assert!(slice.ends_with(Weight::Light, || panic!("known")), "it stays over");
    }

    #[test]
    fn the_clock_is_looked_at_after_a_heavy_step_or_some_light_ones() {
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
    fn slices_are_longer_while_no_datagrams_come() {
        let mut slice = Slice::begin(us(20_000), 0, us(5_000));
        assert!(!slice.ends_with(Weight::Heavy, || us(20_249)));
        assert!(slice.ends_with(Weight::Heavy, || us(20_250)));
    }

    #[test]
    fn connections_have_half_the_time_when_datagrams_come_without_end() {
        for datagrams in [0, 64, 4_096] {
            let mut slice = Slice::begin(us(0), datagrams, us(0));
            let lasts = (0..).find(|now| slice.ends_with(Weight::Heavy, || us(*now)));
            assert_eq!(lasts, Some(100 + datagrams as u64));
        }
    }

    #[test]
    fn what_joins_a_stage_waits_for_the_next_round() {
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
    fn listeners_take_turns_and_a_flooded_one_has_its_share() {
        let mut round = Round::default();
        round.add(Task::accept(ListenerSlot(1)));
        round.add(Task::accept(ListenerSlot(2)));
        let mut steps = Vec::new();
        while let Some(task) = round.next_task() {
            let Task::Accept(listener, _) = task else { panic!("{task:?}") };
            steps.push(listener.0);
            // The second one has nobody waiting after the first step.
            if let Some(rest) = task.after_step(listener.0 == 1) {
                round.add(rest);
            }
        }
        assert_eq!(steps, [1, 2, 1, 1, 1, 1, 1, 1, 1]);
        assert!(round.is_free());
    }

    #[test]
    fn closing_ends_however_much_comes() {
        for task in [Task::close(ListenerSlot(0)), Task::empty(ListenerSlot(0))] {
            let steps = std::iter::successors(Some(task), |task| task.after_step(true)).count();
            assert!(steps > 4_000 && steps <= 8_192, "{task:?}: {steps}");
            assert_eq!(task.after_step(false), None);
        }
        assert_eq!(Task::Finish(ListenerSlot(0)).after_step(true), None);
    }
}
