//! The queries of one thread that wait for their answers, whatever they travel by.
//!
//! ```text
//!  numbers count up: | done | oldest ... waiting ... newest | next |
//!                           └── slot = number mod the size ──┘        id = number mod 65,536
//! ```
//! Sockets and connections, the *lanes*, have no tables of their own, so that many of them cost
//! nothing. An id belongs to several slots if more than 65,536 queries are kept; the lane and the
//! question tell them apart. A slot keeps what has become of its query until another takes it: late
//! and repeated answers are told from those that nobody asked for. Those of lost queries are not taken by
//! others for a while: the table grows rather, up to a bound. [`Outstanding`](crate::tools::load::outstanding::Outstanding)
//! is the same for one socket and one target, whose ids are its numbers, in half the memory.

use crate::base::time::{Tick, TickDelta};
use crate::tools::load::outstanding::{KEPT, Settled, State};

/// Slots at first, 224 kB.
const SLOTS_MIN: usize = 4_096;
/// Slots at most, 56 MB.
const SLOTS_MAX: usize = 1 << 20;
/// Slots to which it grows for lost queries, 14 MB: ten seconds of 26,000 a second.
const SLOTS_KEPT: usize = 1 << 18;
/// Ids.
const IDS: usize = 1 << 16;
/// What a slot has that keeps nothing.
pub(crate) const NOTHING: u32 = u32::MAX;

/// A query.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flight {
    /// When it should have been sent.
    pub(crate) intended: Tick,
    /// When it was handed over: sent, or given to a connection that is being made.
    pub(crate) sent: Tick,
    /// How long it waited for a connection to each target, microseconds.
    pub(crate) waited: [u32; 2],
    /// By what, at each target.
    pub(crate) lanes: [u32; 2],
    /// A hash of its question.
    pub(crate) question: u32,
    /// An answer that is kept for it, or [`NOTHING`].
    pub(crate) kept: u32,
    /// Its place in the order of all; set by the table.
    pub(crate) number: u32,
    /// The bytes of its question.
    pub(crate) question_bytes: u16,
    pub(crate) states: [State; 2],
    /// Whether it waits for a connection to be made, to each target.
    pub(crate) queued: [bool; 2],
}

const _: () = assert!(size_of::<Flight>() == 56, "sizes are written above");

impl Flight {
    /// Notes that it leaves only when there is a connection to a target.
    pub(crate) fn leave(&mut self, target: usize, now: Tick) {
        // Time-outs are far below 2^32 us.
        self.waited[target] = (now.since(self.sent).0 / 1_000) as u32;
    }

    /// Returns when it left for a target.
    pub(crate) fn left(&self, target: usize) -> Tick {
        self.sent + TickDelta(u64::from(self.waited[target]) * 1_000)
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct Flights {
    slots: Vec<Flight>,
    oldest: u32,
    next: u32,
    /// Queries that wait, of each target.
    waiting: [usize; 2],
}

impl Flights {
    /// Creates an empty table, whose numbers begin here.
    pub(crate) fn new(first: u32) -> Self {
        Self { slots: vec![Flight::default(); SLOTS_MIN], oldest: first, next: first, waiting: [0; 2] }
    }

    /// Returns how many queries wait.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting[0] + self.waiting[1]
    }

    /// Returns for how many queries there is room at this time, of so many that are wanted.
    pub(crate) fn room(&mut self, wanted: usize, now: Tick) -> usize {
        if self.slots.len() - self.span() < wanted {
            self.pass_over();
        }
        while self.slots.len() - self.span() < wanted && self.grow() {}
        while self.slots.len() < SLOTS_KEPT && self.takes_from_lost(wanted, now) && self.grow() {}
        wanted.min(self.slots.len() - self.span())
    }

    /// Adds a query for which there is [`room`](Self::room); returns its slot and its id.
    pub(crate) fn claim(&mut self, flight: Flight) -> (usize, u16) {
        let number = self.next;
        let at = self.at(number);
        self.slots[at] = Flight { number, ..flight };
        for (target, state) in flight.states.iter().enumerate() {
            self.waiting[target] += usize::from(*state == State::Waiting);
        }
        self.next = number.wrapping_add(1);
        // The low 16 bits.
        (at, number as u16)
    }

    /// Returns the slot of the query with this number, unless another one has it: a table that grows gives each
    /// another slot.
    pub(crate) fn find(&self, number: u32) -> Option<usize> {
        let at = self.at(number);
        (self.slots[at].number == number).then_some(at)
    }

    /// Returns the query in a slot.
    pub(crate) fn slot(&mut self, at: usize) -> &mut Flight {
        &mut self.slots[at]
    }

    /// Ends a query's wait for a target.
    pub(crate) fn end(&mut self, at: usize, target: usize, state: State) {
        if self.slots[at].states[target] == State::Waiting {
            self.waiting[target] -= 1;
        }
        self.slots[at].states[target] = state;
    }

    /// Takes an answer that came from a target by a lane; `fits` says whether it has the question of
    /// that query.
    pub(crate) fn settle(
        &mut self,
        target: usize,
        lane: u32,
        id: u16,
        fits: impl Fn(&Flight) -> bool,
    ) -> Settled<usize> {
        let mask = self.slots.len() - 1;
        let mut settled = Settled::Unexpected;
        for at in (usize::from(id) & mask..=mask).step_by(IDS) {
            let flight = &self.slots[at];
            let state = flight.states[target];
            if state == State::Free || flight.number as u16 != id || flight.lanes[target] != lane {
                continue;
            }
            match (fits(flight), state) {
                (true, State::Waiting) => {
                    self.end(at, target, State::Answered);
                    return Settled::Answered(at);
                }
                (true, State::Lost) => settled = Settled::Late,
                (true, State::Answered | State::Free) => settled = Settled::Duplicate,
                (false, State::Waiting) if settled == Settled::Unexpected => settled = Settled::OtherQuestion,
                (false, State::Waiting | State::Answered | State::Lost | State::Free) => {}
            }
        }
        settled
    }

    /// Returns the oldest query that waits and was sent at `until` or before.
    pub(crate) fn overdue(&mut self, until: Tick) -> Option<usize> {
        self.pass_over();
        if self.oldest == self.next {
            return None;
        }
        let at = self.at(self.oldest);
        (self.slots[at].sent <= until).then_some(at)
    }

    /// Returns the next query that waits for a target by this lane and was sent at `until` or before; `from` is
    /// where to look on, [`oldest`](Self::oldest) at first.
    pub(crate) fn next_of(&self, target: usize, lane: u32, until: Tick, from: &mut u32) -> Option<usize> {
        while *from != self.next {
            let at = self.at(*from);
            let flight = &self.slots[at];
            if flight.sent > until {
                return None;
            }
            *from = from.wrapping_add(1);
            if flight.lanes[target] == lane && flight.states[target] == State::Waiting {
                return Some(at);
            }
        }
        None
    }

    /// Returns the number of the oldest query that waits.
    pub(crate) fn oldest(&mut self) -> u32 {
        self.pass_over();
        self.oldest
    }

    /// Returns whether so many queries take the slot of one that was lost a short time ago.
    fn takes_from_lost(&self, wanted: usize, now: Tick) -> bool {
        let mut places = (0..wanted as u32).map(|n| &self.slots[self.at(self.next.wrapping_add(n))]);
        places.any(|flight| flight.states.contains(&State::Lost) && now.since(flight.sent) < KEPT)
    }

    const fn span(&self) -> usize {
        self.next.wrapping_sub(self.oldest) as usize
    }

    const fn at(&self, number: u32) -> usize {
        number as usize & (self.slots.len() - 1)
    }

    /// Advances to the oldest query that waits.
    fn pass_over(&mut self) {
        while self.oldest != self.next && !self.slots[self.at(self.oldest)].states.contains(&State::Waiting) {
            self.oldest = self.oldest.wrapping_add(1);
        }
    }

    fn grow(&mut self) -> bool {
        let size = self.slots.len() * 2;
        if size > SLOTS_MAX {
            return false;
        }
        let old = std::mem::replace(&mut self.slots, vec![Flight::default(); size]);
        for flight in old.into_iter().filter(|flight| flight.states != [State::Free; 2]) {
            let at = self.at(flight.number);
            self.slots[at] = flight;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(table: &mut Flights, at: u64, lane: u32) -> (usize, u16) {
        assert_eq!(table.room(1, Tick(at)), 1);
        let states = [State::Waiting, State::Free];
        let sent = Tick(at);
        table.claim(Flight {
            intended: sent,
            sent,
            lanes: [lane; 2],
            question: at as u32,
            states,
            ..Flight::default()
        })
    }

    fn lose(table: &mut Flights, until: u64) -> u64 {
        let mut lost = 0;
        while let Some(at) = table.overdue(Tick(until)) {
            table.end(at, 0, State::Lost);
            lost += 1;
        }
        lost
    }

    #[test]
    fn answers_are_what_they_are() {
        let mut table = Flights::new(u32::MAX);
        let [(_, a), (second, b)] = [1, 2].map(|at| send(&mut table, at, 7));
        assert_eq!((a, b, table.waiting()), (65_535, 0, 2));
        assert_eq!(table.settle(0, 7, a, |_| false), Settled::OtherQuestion);
        assert_eq!(table.settle(0, 8, a, |_| true), Settled::Unexpected, "another socket");
        assert_eq!(table.settle(1, 7, a, |_| true), Settled::Unexpected, "another server");
        assert!(matches!(table.settle(0, 7, a, |f| f.question == 1), Settled::Answered(_)));
        assert_eq!(table.settle(0, 7, a, |_| true), Settled::Duplicate);
        let mut from = table.oldest();
        assert_eq!(table.next_of(0, 7, Tick(1), &mut from), None, "it was sent later");
        assert_eq!(table.next_of(0, 7, Tick(2), &mut from), Some(second));
        assert_eq!(table.next_of(0, 7, Tick(2), &mut from), None, "there is no other one");
        assert_eq!((lose(&mut table, 2), table.waiting()), (1, 0));
        assert_eq!(table.settle(0, 7, b, |_| true), Settled::Late);
        assert_eq!(table.settle(0, 7, 9, |_| true), Settled::Unexpected);
    }

    #[test]
    fn many_wait_and_each_is_found() {
        let mut table = Flights::new(3);
        let ids: Vec<u16> = (0..200_000_u64).map(|at| send(&mut table, at, at as u32 % 16).1).collect();
        assert_eq!(table.waiting(), 200_000);
        for (at, id) in ids.into_iter().enumerate().rev() {
            let at = at as u64;
            let settled = table.settle(0, at as u32 % 16, id, |f| u64::from(f.question) == at);
            assert!(matches!(settled, Settled::Answered(_)), "{at}: {settled:?}");
        }
        assert_eq!((table.waiting(), lose(&mut table, u64::MAX)), (0, 0));
    }

    #[test]
    fn the_table_is_bounded_and_lost_queries_make_room() {
        let mut table = Flights::new(0);
        for at in 0..SLOTS_MAX as u64 {
            send(&mut table, at, 0);
        }
        assert_eq!(table.room(1, Tick(9)), 0);
        assert_eq!(lose(&mut table, 9), 10);
        assert_eq!(table.room(20, Tick(9)), 10);
        assert_eq!(lose(&mut table, u64::MAX), SLOTS_MAX as u64 - 10);
    }

    /// 20,000 queries a second, each answered a second after a time-out of a tenth.
    #[test]
    fn late_answers_are_known_at_high_rates() {
        const GAP_NS: u64 = 50_000;
        let mut table = Flights::new(60_000);
        let mut late = std::collections::VecDeque::new();
        for number in 0..60_000 {
            let now = number * GAP_NS;
            lose(&mut table, now.saturating_sub(100_000_000));
            let (_, id) = send(&mut table, now, 1);
            late.push_back((now, id));
            if late.front().is_some_and(|(sent, _)| sent + 1_100_000_000 <= now) {
                let (sent, id) = late.pop_front().expect("one");
                let settled = table.settle(0, 1, id, |flight| flight.question == sent as u32);
                assert_eq!(settled, Settled::Late, "{number}");
            }
        }
    }

    #[test]
    fn lost_queries_take_no_room_without_end() {
        let mut slow = Flights::new(0);
        let mut fast = Flights::new(0);
        for number in 0..2 * SLOTS_KEPT as u64 {
            let now = number * (KEPT.0 / SLOTS_MIN as u64 + 1);
            lose(&mut slow, now);
            send(&mut slow, now, 1);
            lose(&mut fast, number);
            send(&mut fast, number, 1);
        }
        assert_eq!([slow.slots.len(), fast.slots.len()], [SLOTS_MIN, SLOTS_KEPT]);
    }

    #[test]
    fn a_query_waits_for_both_targets() {
        let mut table = Flights::new(0);
        assert_eq!(table.room(1, Tick(0)), 1);
        let (at, id) =
            table.claim(Flight { states: [State::Waiting; 2], lanes: [1, 2], ..Flight::default() });
        assert_eq!(table.waiting(), 2);
        assert_eq!(table.settle(1, 2, id, |_| true), Settled::Answered(at));
        assert_eq!((table.waiting(), table.overdue(Tick(1))), (1, Some(at)));
        assert_eq!(table.settle(0, 1, id, |_| true), Settled::Answered(at));
        assert_eq!(table.slot(at).states, [State::Answered; 2]);
    }
}
