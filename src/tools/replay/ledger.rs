//! What becomes of the queries of a thread: it judges answers, measures and compares them, whatever
//! they travel by.
//!
//! ```text
//!  one target:   recorded answer, kept ─┐
//!                answer ────────────────┴─► compared
//!  two targets:  the answer that is first, kept ─┐
//!                the other one ──────────────────┴─► compared
//! ```

use crate::base::time::{Tick, TickDelta};
use crate::compare::{Aspects, Comparer, Outcomes};
use crate::tools::load::outstanding::{Settled, State};
use crate::tools::load::spans::Spans;
use crate::tools::load::tally::{Counts, Tally};
use crate::tools::replay::batch::{Batch, Job};
use crate::tools::replay::feeder::hash;
use crate::tools::replay::flights::{Flight, Flights, NOTHING};
use crate::wire::edns;
use crate::wire::header::{self, Header};
use crate::wire::records;

/// Bytes of answers that are kept at most, of one thread.
const KEPT_MAX: usize = 32 << 20;
/// Room that a buffer keeps for the next answer, bytes.
const BUFFER_MAX: usize = 2_048;

/// What answers are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    Nothing,
    /// Those of the capture.
    Recorded,
    /// Those of the other target.
    Second,
}

/// The ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    flights: Flights,
    /// Of each target.
    tallies: Vec<Tally>,
    against: Against,
    comparer: Comparer,
    outcomes: Outcomes,
    kept: Kept,
    timeout: TickDelta,
    /// By how much queries were handed over late, nanoseconds: that is this machine's doing.
    pub(crate) own_lag: Spans,
    /// When the last query has left for each target.
    pub(crate) sent_until: [Tick; 2],
}

/// Answers that wait to be compared.
#[derive(Debug, Default)]
struct Kept {
    buffers: Vec<Vec<u8>>,
    free: Vec<u32>,
    bytes: usize,
}

impl Ledger {
    /// Creates an empty one, with a tally for each target.
    pub(crate) fn new(
        first: u32,
        tallies: Vec<Tally>,
        against: Against,
        aspects: Aspects,
        timeout: TickDelta,
    ) -> Self {
        Self {
            flights: Flights::new(first),
            tallies,
            against,
            comparer: Comparer::new(aspects),
            outcomes: Outcomes::default(),
            kept: Kept::default(),
            timeout,
            own_lag: Spans::new(),
            sent_until: [Tick(0); 2],
        }
    }

    /// Returns the number of targets.
    pub(crate) const fn targets(&self) -> usize {
        self.tallies.len()
    }

    /// Returns what is counted of a target.
    pub(crate) fn counts(&mut self, target: usize) -> &mut Counts {
        self.tallies[target].counts()
    }

    /// Returns how many queries wait for an answer.
    pub(crate) const fn waiting(&self) -> usize {
        self.flights.waiting()
    }

    /// Returns how many queries may be asked at this time, of so many that are wanted.
    pub(crate) fn room(&mut self, wanted: usize, now: Tick) -> usize {
        self.flights.room(wanted, now)
    }

    /// Notes a query that is about to be sent by these lanes, of each target; returns its slot, and the
    /// id that it must have.
    pub(crate) fn ask(
        &mut self,
        batch: &Batch,
        job: &Job,
        lanes: [u32; 2],
        intended: Tick,
        now: Tick,
    ) -> (usize, u16) {
        let mut kept = NOTHING;
        if self.against == Against::Recorded
            && let Some(recorded) = &job.recorded
        {
            kept = self.kept.add(batch.bytes(recorded));
            self.outcomes.skipped += u64::from(kept == NOTHING);
        }
        let states = [State::Waiting, if self.targets() > 1 { State::Waiting } else { State::Free }];
        if self.tallies[0].is_timed() {
            self.own_lag.record(now.since(intended).0);
        }
        let Job { question, question_bytes, .. } = *job;
        self.flights.claim(Flight {
            intended,
            sent: now,
            lanes,
            question,
            kept,
            question_bytes,
            states,
            ..Flight::default()
        })
    }

    /// Counts a query as sent to a target.
    pub(crate) fn sent(&mut self, slot: usize, target: usize) {
        let flight = self.flights.slot(slot);
        let (intended, left) = (flight.intended, flight.left(target));
        self.tallies[target].sent(intended, left);
        self.sent_until[target] = self.sent_until[target].max(left);
    }

    /// Notes that a query waits for a connection to a target; returns its number, by which it is known.
    pub(crate) fn queued(&mut self, slot: usize, target: usize) -> u32 {
        let flight = self.flights.slot(slot);
        flight.queued[target] = true;
        flight.number
    }

    /// Counts the query with this number as sent, which has waited for a connection, unless it was given up
    /// meanwhile.
    pub(crate) fn connected(&mut self, number: u32, target: usize, now: Tick) {
        if let Some(slot) = self.flights.find(number) {
            self.leave(slot, target, now);
        }
    }

    /// Counts a query as sent if it has waited for a connection until this time.
    fn leave(&mut self, slot: usize, target: usize, now: Tick) {
        let flight = self.flights.slot(slot);
        if std::mem::take(&mut flight.queued[target]) {
            flight.leave(target, now);
            self.sent(slot, target);
        }
    }

    /// Gives up a query for which there is no connection to a target: it was due.
    pub(crate) fn unconnected(&mut self, slot: usize, target: usize) {
        self.lose(slot, target, |counts| &mut counts.unconnected);
    }

    /// Notes that a query was not sent to a target in the end. What the other one answers, only that has.
    pub(crate) fn unsent(&mut self, slot: usize, target: usize) {
        self.lose(slot, target, |counts| &mut counts.send_errors);
    }

    /// Takes a message that came from a target by a lane.
    pub(crate) fn take(&mut self, target: usize, lane: u32, message: &[u8], now: Tick) {
        let Some(header) = Header::parse(message).filter(Header::is_response) else {
            self.counts(target).malformed += 1;
            return;
        };
        // What is behind its time-out is late, whenever that is looked for.
        self.expire(now);
        // An error may come without the question.
        let is_bare = header.qdcount() == 0 && edns::rcode(message) != 0;
        let settled = self.flights.settle(target, lane, header.id(), |flight| {
            let end = header::LEN + usize::from(flight.question_bytes);
            let question = message.get(header::LEN..end).filter(|_| header.qdcount() == 1);
            question.map_or(is_bare, |question| hash(question) == flight.question)
        });
        match settled {
            Settled::Answered(slot) => {
                // Whatever is answered has left.
                self.leave(slot, target, now);
                let flight = self.flights.slot(slot);
                let (intended, left) = (flight.intended, flight.left(target));
                let tally = &mut self.tallies[target];
                tally.answered(intended, left, now);
                let counts = tally.counts();
                counts.malformed += u64::from(!records::is_answer(message));
                counts.code(edns::rcode(message));
                counts.truncated += u64::from(header.is_truncated());
                self.compare(slot, target, message);
            }
            Settled::OtherQuestion => self.counts(target).wrong_question += 1,
            Settled::Late => self.counts(target).late += 1,
            Settled::Duplicate => self.counts(target).duplicate += 1,
            Settled::Unexpected => self.counts(target).unexpected += 1,
        }
    }

    /// Gives up what has been waited for too long.
    pub(crate) fn expire(&mut self, now: Tick) {
        let Some(until) = now.0.checked_sub(self.timeout.0) else { return };
        while let Some(slot) = self.flights.overdue(Tick(until)) {
            self.lose_all_of(slot, |counts| &mut counts.timed_out);
        }
    }

    /// Gives up everything.
    pub(crate) fn cut_short(&mut self) {
        while let Some(slot) = self.flights.overdue(Tick(u64::MAX)) {
            self.lose_all_of(slot, |counts| &mut counts.cut_short);
        }
    }

    /// Gives up the queries that a lane has sent until then, since its port has refused one: the kernel tells
    /// of one refusal only, whatever came before it.
    pub(crate) fn refused(&mut self, target: usize, lane: u32, until: Tick) {
        self.lose_lane(target, lane, until, |counts| &mut counts.refused);
    }

    /// Gives up the queries of a lane that has been closed; returns how many.
    pub(crate) fn closed(&mut self, target: usize, lane: u32) -> usize {
        self.lose_lane(target, lane, Tick(u64::MAX), |counts| &mut counts.closed)
    }

    fn lose_lane(
        &mut self,
        target: usize,
        lane: u32,
        until: Tick,
        kind: fn(&mut Counts) -> &mut u64,
    ) -> usize {
        let (mut lost, mut from) = (0, self.flights.oldest());
        while let Some(slot) = self.flights.next_of(target, lane, until, &mut from) {
            self.lose(slot, target, kind);
            lost += 1;
        }
        lost
    }

    /// Hands over the intervals that are over.
    pub(crate) fn on_time(&mut self, now: Tick) {
        self.tallies.iter_mut().for_each(|tally| tally.on_time(now));
    }

    /// Returns when the interval is over.
    pub(crate) fn over_at(&self) -> Tick {
        self.tallies[0].over_at()
    }

    /// Hands over the last intervals; returns what comparisons have found.
    pub(crate) fn end(mut self) -> Outcomes {
        self.tallies.iter_mut().for_each(Tally::end);
        self.outcomes
    }

    fn lose_all_of(&mut self, slot: usize, kind: fn(&mut Counts) -> &mut u64) {
        for target in 0..self.targets() {
            if self.flights.slot(slot).states[target] == State::Waiting {
                self.lose(slot, target, kind);
            }
        }
    }

    /// Ends a query without an answer of a target.
    fn lose(&mut self, slot: usize, target: usize, kind: fn(&mut Counts) -> &mut u64) {
        self.flights.end(slot, target, State::Lost);
        // What waits for a connection was not sent, whatever ends its wait.
        let is_queued = std::mem::take(&mut self.flights.slot(slot).queued[target]);
        let counts = self.counts(target);
        *(if is_queued { &mut counts.unconnected } else { kind(counts) }) += 1;
        let other = self.flights.slot(slot).states[1 - target];
        match (self.against, other) {
            (Against::Recorded, _) => {
                let had_answer = self.flights.slot(slot).kept != NOTHING;
                self.outcomes.only_first += u64::from(had_answer);
                self.release(slot);
            }
            (Against::Second, State::Answered) => {
                self.only(1 - target);
                self.release(slot);
            }
            (Against::Second, State::Lost) => self.outcomes.neither += 1,
            (Against::Second | Against::Nothing, _) => {}
        }
    }

    fn only(&mut self, target: usize) {
        let only = if target == 0 { &mut self.outcomes.only_first } else { &mut self.outcomes.only_second };
        *only += 1;
    }

    /// Compares an answer, or keeps it until there is another.
    fn compare(&mut self, slot: usize, target: usize, message: &[u8]) {
        let Flight { kept, states, .. } = *self.flights.slot(slot);
        match (self.against, states[1 - target]) {
            (Against::Second, State::Waiting) => {
                let kept = self.kept.add(message);
                self.flights.slot(slot).kept = kept;
            }
            (Against::Second, State::Lost) => self.only(target),
            (Against::Recorded, _) | (Against::Second, State::Answered) => {
                if let Some(earlier) = self.kept.buffers.get(kept as usize) {
                    // The kept one is the first, unless it is that of the second target.
                    let (first, second): (&[u8], &[u8]) = match (self.against, target) {
                        (Against::Second, 0) => (message, earlier),
                        (Against::Second | Against::Recorded | Against::Nothing, _) => (earlier, message),
                    };
                    let found = self.comparer.compare(first, second);
                    self.outcomes.add(&found, first, second);
                } else if self.against == Against::Second {
                    self.outcomes.skipped += 1;
                }
                self.release(slot);
            }
            (Against::Second, State::Free) | (Against::Nothing, _) => {}
        }
    }

    fn release(&mut self, slot: usize) {
        let kept = std::mem::replace(&mut self.flights.slot(slot).kept, NOTHING);
        self.kept.remove(kept);
    }
}

impl Kept {
    /// Keeps an answer; [`NOTHING`] if there is no room for it.
    fn add(&mut self, message: &[u8]) -> u32 {
        if self.bytes + message.len() > KEPT_MAX {
            return NOTHING;
        }
        self.bytes += message.len();
        let at = self.free.pop().unwrap_or_else(|| {
            self.buffers.push(Vec::new());
            // One for each query that waits.
            self.buffers.len() as u32 - 1
        });
        self.buffers[at as usize].extend_from_slice(message);
        at
    }

    fn remove(&mut self, at: u32) {
        let Some(buffer) = self.buffers.get_mut(at as usize) else { return };
        self.bytes -= buffer.len();
        buffer.clear();
        buffer.shrink_to(BUFFER_MAX);
        self.free.push(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::ShardRng;
    use crate::compare::{Class, Verdict};
    use crate::tools::load::tally::Interval;
    use crate::tools::replay::batch::Kind;
    use crossbeam_channel::{Receiver, unbounded};

    const TIMEOUT: TickDelta = TickDelta::from_ms(1_000);

    fn ledger(targets: usize, against: Against) -> (Ledger, Vec<Receiver<Interval>>) {
        let (sends, receives): (Vec<_>, Vec<_>) = (0..targets).map(|_| unbounded()).unzip();
        let tallies = sends.into_iter().map(|send| Tally::new(0, Tick(0), true, send)).collect();
        (Ledger::new(0, tallies, against, Aspects::default(), TIMEOUT), receives)
    }

    fn message(number: u8, code: u8, is_response: bool) -> Vec<u8> {
        let flags = if is_response { 0x81 } else { 1 };
        [&[0, 0, flags, code, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a' + number][..], b"\0\0\x01\0\x01"].concat()
    }

    /// Asks for a name at this time; returns the id.
    fn ask(ledger: &mut Ledger, number: u8, recorded: Option<&[u8]>, at: u64) -> u16 {
        let id = prepare(ledger, number, recorded, at);
        let slot = usize::from(id);
        (0..ledger.targets()).for_each(|target| ledger.sent(slot, target));
        id
    }

    fn job(batch: &mut Batch, number: u8, recorded: Option<&[u8]>) -> Job {
        let query = message(number, 0, false);
        Job {
            kind: Kind::Query,
            due: TickDelta(0),
            client: ([192, 0, 2, 1], 4_000).into(),
            connection: None,
            by_stream: false,
            header: 0..0,
            message: batch.keep(&query),
            recorded: recorded.map(|answer| batch.keep(answer)),
            question: hash(&query[header::LEN..]),
            question_bytes: (query.len() - header::LEN) as u16,
        }
    }

    /// Prepares to ask; ids are the numbers of slots.
    fn prepare(ledger: &mut Ledger, number: u8, recorded: Option<&[u8]>, at: u64) -> u16 {
        let mut batch = Batch::default();
        let job = job(&mut batch, number, recorded);
        assert_eq!(ledger.room(1, Tick(at)), 1);
        let (slot, id) = ledger.ask(&batch, &job, [3, 4], Tick(at), Tick(at));
        assert_eq!(slot, usize::from(id));
        id
    }

    /// Answers for a target.
    fn answer(ledger: &mut Ledger, target: usize, number: u8, code: u8, id: u16, now: u64) {
        let mut bytes = message(number, code, true);
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        ledger.take(target, 3 + target as u32, &bytes, Tick(now));
    }

    #[test]
    fn answers_are_compared_with_recorded_ones() {
        let (mut ledger, _receives) = ledger(1, Against::Recorded);
        let [good, failed] = [0, 2].map(|code| message(0, code, true));
        let recorded = [Some(&good), Some(&failed), Some(&good), None, Some(&good), None];
        let ids: Vec<u16> =
            recorded.iter().map(|recorded| ask(&mut ledger, 0, recorded.map(Vec::as_slice), 0)).collect();
        for (id, code) in ids.iter().zip([0, 0, 2, 0]) {
            answer(&mut ledger, 0, 0, code, *id, 1_000);
        }
        ledger.expire(Tick(0) + TIMEOUT);
        assert_eq!((ledger.waiting(), ledger.kept.bytes, ledger.counts(0).timed_out), (0, 0, 2));
        let outcomes = ledger.end();
        assert_eq!((outcomes.compared(), outcomes.of(Class::Rcode), outcomes.only_first), (3, 2, 1));
        let verdicts = [Verdict::Same, Verdict::Better, Verdict::Worse].map(|v| outcomes.judged(v));
        assert_eq!(verdicts, [1, 1, 1]);
    }

    #[test]
    fn answers_of_two_targets_are_compared_whichever_is_first() {
        let (mut ledger, receives) = ledger(2, Against::Second);
        let ids: Vec<u16> = (0..6).map(|number| ask(&mut ledger, number, None, 0)).collect();
        // The second is worse, whichever comes first.
        answer(&mut ledger, 0, 0, 0, ids[0], 10_000);
        answer(&mut ledger, 1, 0, 2, ids[0], 20_000);
        answer(&mut ledger, 1, 1, 2, ids[1], 10_000);
        answer(&mut ledger, 0, 1, 0, ids[1], 20_000);
        // The same; only one, only the other, none.
        answer(&mut ledger, 1, 2, 0, ids[2], 10_000);
        answer(&mut ledger, 0, 2, 0, ids[2], 10_000);
        answer(&mut ledger, 0, 3, 0, ids[3], 10_000);
        answer(&mut ledger, 1, 4, 0, ids[4], 10_000);
        assert_eq!(ledger.waiting(), 4);
        ledger.expire(Tick(0) + TIMEOUT);
        assert_eq!((ledger.waiting(), ledger.kept.bytes), (0, 0));
        let outcomes = ledger.end();
        assert_eq!(
            (outcomes.compared(), outcomes.judged(Verdict::Worse), outcomes.judged(Verdict::Better)),
            (3, 2, 0)
        );
        assert_eq!((outcomes.only_first, outcomes.only_second, outcomes.neither), (1, 1, 1));
        let of = |target: usize| {
            receives[target].try_iter().fold((0, 0), |sum: (u64, u64), interval| {
                (sum.0 + interval.counts.answered, sum.1 + interval.counts.lost())
            })
        };
        assert_eq!([of(0), of(1)], [(4, 2), (4, 2)]);
    }

    #[test]
    fn what_comes_is_counted_by_its_kind() {
        let (mut ledger, _receives) = ledger(1, Against::Nothing);
        let ids: Vec<u16> = (0..3).map(|number| ask(&mut ledger, number, None, 0)).collect();
        answer(&mut ledger, 0, 1, 0, ids[0], 5);
        answer(&mut ledger, 0, 0, 0, ids[0], 5);
        answer(&mut ledger, 0, 0, 0, ids[0], 5);
        answer(&mut ledger, 0, 0, 0, 999, 5);
        ledger.take(0, 3, b"", Tick(5));
        ledger.take(0, 3, &message(0, 0, false), Tick(5));
        // An error without the question.
        let mut bare = vec![0; header::LEN];
        bare[..2].copy_from_slice(&ids[1].to_be_bytes());
        (bare[2], bare[3]) = (0x80, 1);
        ledger.take(0, 3, &bare, Tick(5));
        assert_eq!(ledger.closed(0, 3), 1);
        answer(&mut ledger, 0, 2, 0, ids[2], 5);
        let counts = ledger.counts(0).clone();
        assert_eq!(
            (counts.answered, counts.wrong_question, counts.duplicate, counts.unexpected),
            (2, 1, 1, 1)
        );
        assert_eq!((counts.malformed, counts.closed, counts.late, counts.codes[1]), (2, 1, 1, 1));
    }

    #[test]
    fn what_one_target_was_not_sent_only_the_other_has_answered() {
        let (mut ledger, _receives) = ledger(2, Against::Second);
        // The second, behind and before the answer of the first; the first; both.
        let ids: Vec<u16> = (0..5).map(|number| ask(&mut ledger, number, None, 0)).collect();
        answer(&mut ledger, 0, 0, 0, ids[0], 5);
        ledger.unsent(0, 1);
        ledger.unsent(1, 1);
        answer(&mut ledger, 0, 1, 0, ids[1], 5);
        ledger.unsent(2, 0);
        answer(&mut ledger, 1, 2, 0, ids[2], 5);
        (0..2).for_each(|target| ledger.unsent(3, target));
        (0..2).for_each(|target| answer(&mut ledger, target, 4, 0, ids[4], 5));
        assert_eq!((ledger.waiting(), ledger.kept.bytes), (0, 0));
        for (target, unsent) in [(0, 2), (1, 3)] {
            assert_eq!((ledger.counts(target).unsent(), ledger.counts(target).lost()), (unsent, 0));
        }
        let outcomes = ledger.end();
        assert_eq!((outcomes.only_first, outcomes.only_second, outcomes.neither), (2, 1, 1));
        assert_eq!((outcomes.compared(), outcomes.different(), outcomes.worse()), (1, 3, 2));
    }

    #[test]
    fn a_recorded_answer_to_what_was_not_sent_stands_alone() {
        let (mut ledger, _receives) = ledger(1, Against::Recorded);
        ask(&mut ledger, 0, Some(&message(0, 0, true)), 0);
        ledger.unsent(0, 0);
        assert_eq!((ledger.waiting(), ledger.kept.bytes), (0, 0));
        let outcomes = ledger.end();
        assert_eq!((outcomes.only_first, outcomes.different(), outcomes.any()), (1, 1, true));
    }

    #[test]
    fn a_port_that_refuses_has_refused_what_was_sent_before() {
        let (mut ledger, _receives) = ledger(2, Against::Second);
        let ids: Vec<u16> = (0..5).map(|n| ask(&mut ledger, n as u8, None, n * 10)).collect();
        answer(&mut ledger, 1, 1, 0, ids[1], 40);
        ledger.refused(1, 4, Tick(30));
        assert_eq!((ledger.counts(1).refused, ledger.counts(1).answered), (3, 1));
        ledger.refused(1, 4, Tick(30));
        ledger.refused(1, 9, Tick(90));
        assert_eq!((ledger.counts(1).refused, ledger.counts(0).refused), (3, 0), "of that target and socket");
        ledger.expire(Tick(90) + TIMEOUT);
        assert_eq!((ledger.counts(1).timed_out, ledger.counts(0).timed_out, ledger.waiting()), (1, 5, 0));
    }

    #[test]
    fn what_waits_for_a_connection_is_not_sent() {
        let (mut ledger, _receives) = ledger(1, Against::Nothing);
        let ids: Vec<u16> = (0..4).map(|number| prepare(&mut ledger, number, None, 0)).collect();
        let numbers: Vec<u32> = (0..4).map(|slot| ledger.queued(slot, 0)).collect();
        assert_eq!(ledger.counts(0).sent, 0);
        ledger.connected(numbers[0], 0, Tick(4));
        ledger.connected(numbers[0], 0, Tick(4));
        ledger.connected(4_711, 0, Tick(4));
        answer(&mut ledger, 0, 0, 0, ids[0], 5);
        ledger.connected(numbers[3], 0, Tick(5));
        assert_eq!(ledger.closed(0, 3), 3);
        ledger.connected(numbers[1], 0, Tick(5));
        let counts = ledger.counts(0).clone();
        assert_eq!((counts.sent, counts.answered, counts.closed, counts.unconnected), (2, 1, 1, 2));
        assert_eq!((counts.asked(), counts.lost(), counts.unsent(), counts.outstanding()), (4, 3, 2, 0));
        prepare(&mut ledger, 4, None, 0);
        ledger.queued(4, 0);
        ledger.expire(Tick(0) + TIMEOUT);
        assert_eq!((ledger.counts(0).timed_out, ledger.counts(0).unconnected), (0, 3));
    }

    #[test]
    fn a_table_that_grows_forgets_no_query_that_waits() {
        let (mut ledger, _receives) = ledger(1, Against::Nothing);
        // The table begins with 4,096 slots.
        let numbers: Vec<u32> = (0..10_000)
            .map(|_| {
                assert_eq!(ledger.room(1, Tick(0)), 1);
                let mut batch = Batch::default();
                let job = job(&mut batch, 0, None);
                let (slot, _) = ledger.ask(&batch, &job, [3, 4], Tick(0), Tick(0));
                ledger.queued(slot, 0)
            })
            .collect();
        numbers.iter().for_each(|number| ledger.connected(*number, 0, Tick(9)));
        assert_eq!(ledger.closed(0, 3), 10_000);
        let counts = ledger.counts(0).clone();
        assert_eq!((counts.sent, counts.closed, counts.unconnected), (10_000, 10_000, 0));
    }

    #[test]
    fn what_waited_for_a_connection_left_late() {
        const MS: u64 = 1_000_000;
        let (mut ledger, receives) = ledger(1, Against::Nothing);
        // One that is due at 10 ms is handed over 2 ms later, and has its connection 700 ms after that.
        let late = prepare(&mut ledger, 0, None, 12 * MS);
        ledger.flights.slot(0).intended = Tick(10 * MS);
        let number = ledger.queued(0, 0);
        let prompt = ask(&mut ledger, 1, None, 12 * MS);
        ledger.connected(number, 0, Tick(712 * MS));
        answer(&mut ledger, 0, 0, 0, late, 715 * MS);
        answer(&mut ledger, 0, 1, 0, prompt, 17 * MS);
        // The answer tells that its query has left.
        let unseen = prepare(&mut ledger, 2, None, 20 * MS);
        ledger.queued(2, 0);
        answer(&mut ledger, 0, 2, 0, unseen, 26 * MS);
        assert_eq!((ledger.sent_until, ledger.own_lag.len()), ([Tick(712 * MS), Tick(0)], 3));
        assert!(ledger.own_lag.most() < Some(3 * MS), "that is not this machine's doing");
        ledger.end();
        let interval = receives[0].iter().next().expect("an interval");
        assert_eq!((interval.counts.sent, interval.counts.answered), (3, 3));
        let spread =
            |of: &[f64], all: &dyn Fn(f64) -> u64| of.iter().map(|q| all(*q) / MS).collect::<Vec<_>>();
        let thirds = [0.3, 0.6, 1.0];
        assert_eq!(spread(&thirds, &|q| interval.lag.value_at_quantile(q)), [0, 6, 702]);
        assert_eq!(spread(&thirds, &|q| interval.naive.value_at_quantile(q)), [0, 3, 5]);
        assert_eq!(spread(&thirds, &|q| interval.latency.value_at_quantile(q)), [5, 6, 705]);
    }

    /// Whatever happens to queries, in whatever order: each that is answered or lost was sent, or not.
    #[test]
    fn sums_add_up() {
        for seed in 0..20 {
            let mut rng = ShardRng::from_seed(seed);
            let targets = 1 + rng.below(2) as usize;
            let against = if targets > 1 { Against::Second } else { Against::Nothing };
            let (mut ledger, receives) = ledger(targets, against);
            let (mut waiting, mut asked, mut now) = (Vec::new(), 0, 0);
            for _ in 0..20_000 {
                now += u64::from(rng.below(400_000));
                let target = rng.below(targets as u32) as usize;
                match rng.below(16) {
                    0..=8 if ledger.room(1, Tick(now)) == 1 => {
                        let mut batch = Batch::default();
                        let job = job(&mut batch, 0, None);
                        let lane = 3 + 2 * rng.below(40);
                        let (slot, id) = ledger.ask(&batch, &job, [lane, lane + 1], Tick(now), Tick(now));
                        asked += 1;
                        for target in 0..targets {
                            match rng.below(4) {
                                0 => ledger.sent(slot, target),
                                1 => ledger.unconnected(slot, target),
                                _ => waiting.push((ledger.queued(slot, target), target)),
                            }
                        }
                        // Many come at once.
                        if rng.below(3) == 0 {
                            let mut bytes = message(0, 0, true);
                            bytes[..2].copy_from_slice(&id.to_be_bytes());
                            ledger.take(target, lane + target as u32, &bytes, Tick(now));
                        }
                    }
                    9..=12 if !waiting.is_empty() => {
                        let at = rng.below(waiting.len() as u32) as usize;
                        let (number, target) = waiting.swap_remove(at);
                        ledger.connected(number, target, Tick(now));
                    }
                    13 => ledger.expire(Tick(now)),
                    14 => {
                        ledger.closed(target, 3 + target as u32 + 2 * rng.below(40));
                    }
                    _ => ledger.refused(target, 3 + target as u32 + 2 * rng.below(40), Tick(now)),
                }
            }
            ledger.cut_short();
            ledger.end();
            for receive in receives.iter().take(targets) {
                let mut counts = Counts::default();
                receive.try_iter().for_each(|interval| counts.add(&interval.counts));
                assert_eq!(counts.due(), asked, "seed {seed}: {counts:?}");
                assert_eq!(counts.sent + counts.unconnected, counts.answered + counts.lost(), "{counts:?}");
                assert!(counts.answered > 100 && counts.unconnected > 100, "{counts:?}");
            }
        }
    }

    #[test]
    fn answers_that_cannot_be_read_are_malformed() {
        let (mut ledger, _receives) = ledger(1, Against::Nothing);
        let record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x01";
        let whole = [&message(0, 0, true)[..], record].concat();
        for (malformed, change) in [
            (0, &(|_: &mut Vec<u8>| {}) as &dyn Fn(&mut Vec<u8>)),
            (1, &|m| m.truncate(m.len() - 1)),
            (1, &|m| m[2] |= 0x28),
        ] {
            let id = ask(&mut ledger, 0, None, 0);
            let mut bytes = whole.clone();
            bytes[..2].copy_from_slice(&id.to_be_bytes());
            bytes[7] = 1;
            change(&mut bytes);
            let before = ledger.counts(0).clone();
            ledger.take(0, 3, &bytes, Tick(5));
            let after = ledger.counts(0);
            assert_eq!(
                (after.answered, after.malformed),
                (before.answered + 1, before.malformed + malformed)
            );
        }
    }

    #[test]
    fn a_version_that_is_not_known_is_an_error_without_the_question() {
        let (mut ledger, _receives) = ledger(1, Against::Nothing);
        let id = ask(&mut ledger, 0, None, 0);
        let mut bare =
            [&[0; 2][..], &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1], b"\0\0\x29\x04\xd0\x01\0\0\0\0\0"].concat();
        bare[..2].copy_from_slice(&id.to_be_bytes());
        ledger.take(0, 3, &bare, Tick(5));
        assert_eq!((ledger.counts(0).answered, ledger.counts(0).codes[16]), (1, 1));
    }

    #[test]
    fn answers_are_kept_within_a_limit() {
        let mut kept = Kept::default();
        let large = vec![0; 60_000];
        let all: Vec<u32> = (0..KEPT_MAX / 60_000).map(|_| kept.add(&large)).collect();
        assert_eq!((kept.add(&large), all.contains(&NOTHING)), (NOTHING, false));
        all.into_iter().for_each(|at| kept.remove(at));
        kept.remove(NOTHING);
        assert_eq!(kept.bytes, 0);
        assert!(kept.buffers.iter().all(|buffer| buffer.capacity() <= BUFFER_MAX));
    }
}
