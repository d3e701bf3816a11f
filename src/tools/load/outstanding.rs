//! The queries of one socket or connection that wait for their answers.
//!
//! ```text
//!  ids count up: | settled or lost | oldest ... waiting ... newest | next |
//!                                  └──── slot = id mod the size ───┘
//! ```
//! A slot keeps what has become of its query until another takes it, so that answers that come late or
//! twice are told from those that nobody asked for. Slots are in the order of sending. Those of lost
//! queries are not taken by others for a while: the table grows rather, until every id has a slot.

use crate::base::time::{Tick, TickDelta};

/// Slots of a UDP socket at first: 128 kB, so that the tables of 16 sockets stay in a CPU's cache.
pub(crate) const OF_SOCKET: usize = 4_096;
/// Slots of a connection at first, 2 kB: there may be tens of thousands, and no network repeats their
/// answers.
pub(crate) const OF_CONNECTION: usize = 64;
/// Slots at most: one for each id, 2 MB.
const SLOTS_MAX: usize = 65_536;
/// Ids from the oldest query that waits to the newest: half of all, so that an old answer does not fit
/// a new query.
pub(crate) const SPAN_MAX: usize = 32_768;
/// How long after its sending a lost query keeps its slot, if there can be others.
pub(crate) const KEPT: TickDelta = TickDelta::from_ms(10_000);

/// A query that has been sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Query {
    /// When it should have been sent.
    pub(crate) intended: Tick,
    /// When it was sent.
    pub(crate) sent: Tick,
    /// A hash of its question.
    pub(crate) question: u64,
    /// The bytes of its question.
    pub(crate) question_bytes: u16,
}

/// What has become of a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// It was not asked.
    #[default]
    Free,
    Waiting,
    Answered,
    Lost,
}

/// The members of a [`Query`] besides its own, in one place so that they share its last word.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    intended: Tick,
    sent: Tick,
    question: u64,
    question_bytes: u16,
    id: u16,
    state: State,
}

impl Slot {
    const fn query(&self) -> Query {
        let Self { intended, sent, question, question_bytes, .. } = *self;
        Query { intended, sent, question, question_bytes }
    }
}

const _: () = assert!(size_of::<Slot>() == 32, "two in a cache line");

/// What an answer is, to a query that is told so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled<Q> {
    /// The answer to this query.
    Answered(Q),
    /// A query with this id waits, but for the answer to another question.
    OtherQuestion,
    /// Its query was given up.
    Late,
    /// Its query was answered before.
    Duplicate,
    /// No query had this id lately.
    Unexpected,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Outstanding {
    slots: Vec<Slot>,
    oldest: u16,
    next: u16,
    waiting: usize,
}

impl Outstanding {
    /// Creates an empty table with so many slots, a power of two, whose ids begin here.
    pub(crate) fn new(first: u16, slots: usize) -> Self {
        Self { slots: vec![Slot::default(); slots], oldest: first, next: first, waiting: 0 }
    }

    /// Returns the id that the next query gets, at this time; `None` if there is none.
    pub(crate) fn next_id(&mut self, now: Tick) -> Option<u16> {
        if self.span() == self.slots.len().min(SPAN_MAX) {
            self.pass_over();
        }
        if self.span() == SPAN_MAX {
            return None;
        }
        let slot = &self.slots[self.at(self.next)];
        let is_kept = match slot.state {
            State::Waiting => true,
            State::Lost => now.since(slot.sent) < KEPT,
            State::Free | State::Answered => false,
        };
        if is_kept {
            // Where every id has a slot, an old query gives way.
            self.grow();
        }
        Some(self.next)
    }

    /// Adds a query with the id that [`next_id`](Self::next_id) has just returned.
    pub(crate) fn claim(&mut self, query: Query) {
        let id = self.next;
        let at = self.at(id);
        let Query { intended, sent, question, question_bytes } = query;
        self.slots[at] = Slot { intended, sent, question, question_bytes, id, state: State::Waiting };
        self.next = id.wrapping_add(1);
        self.waiting += 1;
    }

    /// Takes an answer; `fits` says whether it has the question of that query.
    pub(crate) fn settle(&mut self, id: u16, fits: impl FnOnce(&Query) -> bool) -> Settled<Query> {
        let at = self.at(id);
        let slot = &mut self.slots[at];
        if slot.state == State::Free || slot.id != id {
            return Settled::Unexpected;
        }
        let query = slot.query();
        match (fits(&query), slot.state) {
            (true, State::Waiting) => {
                slot.state = State::Answered;
                self.waiting -= 1;
                Settled::Answered(query)
            }
            (true, State::Lost) => Settled::Late,
            (true, _) => Settled::Duplicate,
            (false, State::Waiting) => Settled::OtherQuestion,
            (false, _) => Settled::Unexpected,
        }
    }

    /// Gives up the queries sent at `sent_until` or before, and returns how many.
    pub(crate) fn expire(&mut self, sent_until: Tick) -> u64 {
        let mut lost = 0;
        while self.oldest != self.next {
            let at = self.at(self.oldest);
            let slot = &mut self.slots[at];
            if slot.state == State::Waiting {
                if slot.sent > sent_until {
                    break;
                }
                slot.state = State::Lost;
                self.waiting -= 1;
                lost += 1;
            }
            self.oldest = self.oldest.wrapping_add(1);
        }
        lost
    }

    /// Forgets a query that could not be sent.
    pub(crate) fn release(&mut self, id: u16) {
        let at = self.at(id);
        let slot = &mut self.slots[at];
        if slot.id == id && slot.state == State::Waiting {
            slot.state = State::Free;
            self.waiting -= 1;
        }
    }

    /// Gives up all queries, and returns how many.
    pub(crate) fn lose_all(&mut self) -> u64 {
        self.expire(Tick(u64::MAX))
    }

    const fn span(&self) -> usize {
        self.next.wrapping_sub(self.oldest) as usize
    }

    const fn at(&self, id: u16) -> usize {
        id as usize & (self.slots.len() - 1)
    }

    /// Advances to the oldest query that waits.
    fn pass_over(&mut self) {
        while self.oldest != self.next && self.slots[self.at(self.oldest)].state != State::Waiting {
            self.oldest = self.oldest.wrapping_add(1);
        }
    }

    /// Doubles the table.
    fn grow(&mut self) {
        let size = self.slots.len() * 2;
        if size > SLOTS_MAX {
            return;
        }
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); size]);
        for slot in old.into_iter().filter(|slot| slot.state != State::Free) {
            let at = self.at(slot.id);
            self.slots[at] = slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(sent: u64) -> Query {
        Query { intended: Tick(sent), sent: Tick(sent), question: sent, question_bytes: 20 }
    }

    fn send(table: &mut Outstanding, at: u64) -> u16 {
        let id = table.next_id(Tick(at)).expect("an id");
        table.claim(query(at));
        id
    }

    #[test]
    fn answers_are_what_they_are() {
        let mut table = Outstanding::new(65_535, OF_SOCKET);
        let [a, b] = [1, 2].map(|at| send(&mut table, at));
        assert_eq!((a, b, table.waiting), (65_535, 0, 2));
        assert!(matches!(table.settle(a, |_| false), Settled::OtherQuestion));
        assert!(matches!(table.settle(a, |q| q.question == 1), Settled::Answered(q) if q.sent == Tick(1)));
        assert!(matches!(table.settle(a, |_| true), Settled::Duplicate));
        assert_eq!((table.expire(Tick(2)), table.waiting), (1, 0));
        assert!(matches!(table.settle(b, |_| true), Settled::Late));
        assert!(matches!(table.settle(7, |_| true), Settled::Unexpected));
        assert!(matches!(table.settle(b, |_| false), Settled::Unexpected));
    }

    #[test]
    fn queries_expire_in_their_order() {
        let mut table = Outstanding::new(9, OF_SOCKET);
        let ids: Vec<u16> = (0..10).map(|at| send(&mut table, at)).collect();
        assert!(matches!(table.settle(ids[3], |_| true), Settled::Answered(_)));
        assert_eq!(table.expire(Tick(4)), 4);
        assert_eq!(table.waiting, 5);
        assert_eq!((table.lose_all(), table.lose_all(), table.waiting), (5, 0, 0));
    }

    #[test]
    fn one_lost_query_does_not_stop_the_others() {
        let mut table = Outstanding::new(0, OF_SOCKET);
        send(&mut table, 1);
        for at in 2..=SPAN_MAX as u64 {
            let id = send(&mut table, at);
            assert!(matches!(table.settle(id, |q| q.question == at), Settled::Answered(_)));
        }
        assert_eq!(table.next_id(Tick(0)), None, "half of the ids may wait for one");
        assert_eq!(table.expire(Tick(1)), 1);
        assert!(table.next_id(Tick(0)).is_some());
    }

    /// 5,000 queries a second, each answered two seconds after a time-out of a tenth.
    #[test]
    fn late_answers_are_known_at_high_rates() {
        const GAP_NS: u64 = 200_000;
        let mut table = Outstanding::new(60_000, OF_SOCKET);
        let mut late = std::collections::VecDeque::new();
        for number in 0..200_000 {
            let now = number * GAP_NS;
            table.expire(Tick(now.saturating_sub(100_000_000)));
            let id = send(&mut table, now);
            late.push_back((now, id));
            if late.front().is_some_and(|(sent, _)| sent + 2_000_000_000 <= now) {
                let (sent, id) = late.pop_front().expect("one");
                assert!(matches!(table.settle(id, |q| q.question == sent), Settled::Late), "{number}");
            }
        }
        assert_eq!(table.slots.len(), SLOTS_MAX);
    }

    #[test]
    fn what_was_lost_long_ago_takes_no_room() {
        let mut table = Outstanding::new(0, OF_SOCKET);
        for number in 0..100_000 {
            let now = number * KEPT.0 / OF_SOCKET as u64;
            table.expire(Tick(now));
            send(&mut table, now);
        }
        assert_eq!(table.slots.len(), OF_SOCKET);
    }

    #[test]
    fn ids_last_for_ever() {
        let mut table = Outstanding::new(1_000, OF_SOCKET);
        for at in 0..200_000 {
            let id = send(&mut table, at);
            assert!(matches!(table.settle(id, |q| q.question == at), Settled::Answered(_)));
        }
        assert_eq!((table.slots.len(), table.waiting), (OF_SOCKET, 0));
    }

    /// As many as a connection may carry, of which the table begins with room for few.
    #[test]
    fn a_table_grows_with_what_waits() {
        let mut table = Outstanding::new(65_000, OF_CONNECTION);
        let ids: Vec<u16> = (0..10_000).map(|at| send(&mut table, at)).collect();
        assert_eq!((table.slots.len(), table.waiting), (16_384, 10_000));
        for (at, id) in ids.into_iter().enumerate() {
            assert!(matches!(table.settle(id, |q| q.question == at as u64), Settled::Answered(_)), "{at}");
        }
        for at in 0..100_000 {
            let id = send(&mut table, at);
            assert!(matches!(table.settle(id, |q| q.question == at), Settled::Answered(_)), "{at}");
        }
        assert_eq!((table.slots.len(), table.waiting), (16_384, 0));
    }

    #[test]
    fn what_was_not_sent_leaves_no_trace() {
        let mut table = Outstanding::new(5, OF_SOCKET);
        let ids = [1, 2, 3].map(|at| send(&mut table, at));
        table.release(ids[1]);
        table.release(ids[1]);
        assert_eq!(table.waiting, 2);
        assert!(matches!(table.settle(ids[1], |_| true), Settled::Unexpected));
        assert_eq!(table.expire(Tick(9)), 2);
    }
}
