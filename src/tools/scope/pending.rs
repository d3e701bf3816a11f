//! Queries that wait for an answer, and those of the last seconds, by which answers are known as late or
//! repeated. Their number has a bound.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use ahash::{AHashMap, RandomState};

use crate::stats::traffic_ring::ShortName;

/// Most queries that are remembered, 70 MB of them: the last ten seconds of 50,000 per second.
pub(super) const REMEMBERED_MAX: usize = 1 << 19;
/// How long queries are remembered behind their time-out, at least, so that late answers are known, nanoseconds.
const LATE: u64 = 10_000_000_000;
/// How long an answer waits for a query that stands behind it, as several queues of a card or several threads
/// of a server write them, nanoseconds,
const EARLY: u64 = 1_000_000_000;
/// and how many do.
const EARLY_MAX: usize = 16_384;
/// Nobody asks again so soon: what comes twice within this time was captured twice, nanoseconds.
const TWIN: u64 = 5_000_000;
/// Servers that one query is looked for at.
const SERVERS_MAX: usize = 8;

/// What an answer without a question has of its query: client, port, id.
type Bare = (IpAddr, u16, u16);

/// A query.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query {
    /// What is alike in its answer: client, port, id, question.
    pub(super) key: u64,
    /// The server; 0 where it is not known.
    pub(super) server: u32,
    /// How many queries before it the last one with its key is, which another server was asked; 0 without one.
    pub(super) before: u32,
    /// When it was asked, nanoseconds.
    pub(super) at: u64,
    pub(super) name: ShortName,
    pub(super) client: IpAddr,
    /// The client's port and the id: what an answer without a question has.
    pub(super) port_and_id: (u16, u16),
}

impl Query {
    const fn bare(&self) -> Bare {
        (self.client, self.port_and_id.0, self.port_and_id.1)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    TimedOut,
    Answered,
}

/// What a query is to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing like it waits.
    New,
    /// The same again, before the time-out of the first: it is not counted as one of its own.
    Again,
    /// The same again behind that time-out.
    AgainLate,
}

/// What an answer is to the queries before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The first one to a query of this time.
    First(u64),
    /// The first one, behind the time-out of the query.
    Late,
    /// Another one.
    Again,
    /// No query is known that it answers.
    Unknown,
}

/// How a query ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// By its time-out.
    TimedOut,
    /// There were too many to follow all of them, or the clock was set back.
    Forgotten,
}

/// The queries.
#[derive(Debug)]
pub(super) struct Pending {
    /// In the order in which they were asked; each has a number, counted from `first`.
    ring: VecDeque<(Query, State)>,
    first: u64,
    /// The first one that has not been looked at for its time-out.
    unjudged: u64,
    numbers: AHashMap<u64, u64>,
    /// The last query of each client, port and id; from the first answer without a question on.
    bare: Option<AHashMap<Bare, u64>>,
    /// Answers whose query is not known yet: when they were captured, and whether they told of it.
    early: AHashMap<u64, (u64, bool)>,
    /// The same in their order.
    early_order: VecDeque<(u64, u64)>,
    /// Queries that were captured twice.
    pub(super) twins: u64,
    hasher: RandomState,
    timeout: u64,
    max: usize,
}

impl Pending {
    pub(super) fn new(hasher: RandomState, timeout: u64, max: usize) -> Self {
        Self {
            ring: VecDeque::new(),
            first: 0,
            unjudged: 0,
            numbers: AHashMap::with_hasher(hasher.clone()),
            bare: None,
            early: AHashMap::with_hasher(hasher.clone()),
            early_order: VecDeque::new(),
            twins: 0,
            hasher,
            timeout,
            max: max.max(1),
        }
    }

    fn entry(&mut self, number: u64) -> Option<&mut (Query, State)> {
        self.ring.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Ends what is too old at this time: a query by its time-out, and the memory of it after another one.
    /// A clock that steps makes all of them old, in either direction.
    #[inline]
    pub(super) fn advance(&mut self, now: u64, lost: &mut impl FnMut(&Query, Lost)) {
        let timeout = self.timeout;
        let is_old = |query: &Query, age: u64| now.abs_diff(query.at) > age;
        while let Some((query, state)) = self.entry(self.unjudged) {
            if !is_old(query, timeout) {
                break;
            }
            if *state == State::Open {
                *state = State::TimedOut;
                lost(query, if now < query.at { Lost::Forgotten } else { Lost::TimedOut });
            }
            self.unjudged += 1;
        }
        let kept = timeout.saturating_mul(2).max(timeout.saturating_add(LATE));
        while self.ring.front().is_some_and(|(query, _)| is_old(query, kept)) {
            self.drop_first(lost);
        }
    }

    fn drop_first(&mut self, lost: &mut impl FnMut(&Query, Lost)) {
        let Some((query, state)) = self.ring.pop_front() else { return };
        if state == State::Open {
            lost(&query, Lost::Forgotten);
        }
        if self.numbers.get(&query.key) == Some(&self.first) {
            self.numbers.remove(&query.key);
        }
        let bare = query.bare();
        if let Some(all) = self.bare.as_mut().filter(|all| all.get(&bare) == Some(&self.first)) {
            all.remove(&bare);
        }
        self.first += 1;
        self.unjudged = self.unjudged.max(self.first);
    }

    /// Returns the number of the query with this one's key that this server was asked, by the links from the
    /// last one.
    fn of_server(&mut self, last: u64, server: u32) -> Option<u64> {
        let mut number = last;
        for _ in 0..SERVERS_MAX {
            let (query, _) = self.entry(number)?;
            if query.server == server || query.server == 0 || server == 0 {
                return Some(number);
            }
            number = number.checked_sub(query.before.into()).filter(|earlier| *earlier < number)?;
        }
        None
    }

    /// Takes a query.
    pub(super) fn ask(&mut self, mut query: Query, lost: &mut impl FnMut(&Query, Lost)) -> Asked {
        let last = self.numbers.get(&query.key).copied();
        let earlier = last.and_then(|last| self.of_server(last, query.server));
        let earlier =
            earlier.and_then(|number| self.entry(number)).map(|(earlier, state)| (earlier.at, *state));
        self.twins += u64::from(earlier.is_some_and(|(at, _)| at.abs_diff(query.at) <= TWIN));
        let asked = match earlier.map(|(_, state)| state) {
            Some(State::Open) => return Asked::Again,
            Some(State::TimedOut) => Asked::AgainLate,
            Some(State::Answered) | None => Asked::New,
        };
        if self.ring.len() == self.max {
            self.drop_first(lost);
        }
        let number = self.first + self.ring.len() as u64;
        // One that is no longer remembered is found by nobody.
        query.before = last.map_or(0, |last| u32::try_from(number - last).unwrap_or(0));
        self.numbers.insert(query.key, number);
        if let Some(all) = &mut self.bare {
            all.insert(query.bare(), number);
        }
        self.ring.push_back((query, State::Open));
        asked
    }

    /// Takes an answer of a server. One of another server than was asked is that of the last query: hosts with
    /// several addresses answer so.
    pub(super) fn answer(&mut self, key: u64, server: u32) -> Answer {
        let Some(last) = self.numbers.get(&key).copied() else { return Answer::Unknown };
        let number = self.of_server(last, server).unwrap_or(last);
        let Some((query, state)) = self.entry(number) else { return Answer::Unknown };
        match std::mem::replace(state, State::Answered) {
            State::Open => Answer::First(query.at),
            State::TimedOut => Answer::Late,
            State::Answered => Answer::Again,
        }
    }

    /// Keeps an answer at a time whose query is not known: that may stand behind it.
    pub(super) fn keep_early(&mut self, key: u64, at: u64, is_told: bool) {
        while let Some((then, oldest)) = self.early_order.front().copied() {
            if self.early_order.len() < EARLY_MAX && at.abs_diff(then) <= EARLY {
                break;
            }
            self.early_order.pop_front();
            if self.early.get(&oldest).is_some_and(|(answered, _)| *answered == then) {
                self.early.remove(&oldest);
            }
        }
        self.early.insert(key, (at, is_told));
        self.early_order.push_back((at, key));
    }

    /// Returns when the answer to a query of this time was captured, if it stands before it, and whether it
    /// told of the query.
    #[inline]
    pub(super) fn take_early(&mut self, key: u64, at: u64) -> Option<(u64, bool)> {
        if self.early.is_empty() {
            return None;
        }
        let is_answer = |(answered, _): &(u64, bool)| (at..=at.saturating_add(EARLY)).contains(answered);
        let found = self.early.get(&key).copied().filter(is_answer)?;
        self.early.remove(&key);
        Some(found)
    }

    /// Returns the key and the name of the last query of a client, port and id to a server, if it has no answer.
    pub(super) fn last_of(&mut self, client: SocketAddr, id: u16, server: u32) -> Option<(u64, ShortName)> {
        let Self { ring, first, bare, hasher, .. } = self;
        let all = bare.get_or_insert_with(|| {
            let mut all = AHashMap::with_hasher(hasher.clone());
            all.extend((*first..).zip(&*ring).map(|(number, (query, _))| (query.bare(), number)));
            all
        });
        let last = all.get(&(client.ip(), client.port(), id)).copied()?;
        let number = self.of_server(last, server).unwrap_or(last);
        let (query, state) = self.entry(number)?;
        (*state != State::Answered).then_some((query.key, query.name))
    }

    /// Returns how many wait.
    pub(super) fn open(&self) -> u64 {
        self.ring.iter().filter(|(_, state)| *state == State::Open).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const MS: u64 = 1_000_000;

    fn pending(max: usize) -> Pending {
        Pending::new(RandomState::with_seeds(1, 2, 3, 4), 100 * MS, max)
    }

    fn query(key: u64, at: u64) -> Query {
        let (name, client) = (ShortName::UNKNOWN, Ipv4Addr::LOCALHOST.into());
        Query { key, server: 1, before: 0, at, name, client, port_and_id: (1, 1) }
    }

    /// Asks, and returns what was lost by it.
    fn ask(pending: &mut Pending, key: u64, at: u64) -> (Asked, Vec<(u64, Lost)>) {
        let mut lost = Vec::new();
        let mut note = |query: &Query, how| lost.push((query.key, how));
        pending.advance(at, &mut note);
        (pending.ask(query(key, at), &mut note), lost)
    }

    #[test]
    fn answers_are_first_late_or_repeated() {
        let mut pending = pending(100);
        assert_eq!(ask(&mut pending, 1, 0), (Asked::New, vec![]));
        assert_eq!(ask(&mut pending, 1, 50 * MS), (Asked::Again, vec![]));
        assert_eq!(pending.answer(1, 1), Answer::First(0), "latency counts from the first");
        assert_eq!([pending.answer(1, 1), pending.answer(2, 1)], [Answer::Again, Answer::Unknown]);
        assert_eq!(ask(&mut pending, 1, 60 * MS), (Asked::New, vec![]), "the same id once more");
        assert_eq!(ask(&mut pending, 3, 161 * MS), (Asked::New, vec![(1, Lost::TimedOut)]));
        assert_eq!(ask(&mut pending, 1, 170 * MS), (Asked::AgainLate, vec![]));
        assert_eq!(pending.answer(1, 1), Answer::First(170 * MS));
        assert_eq!(ask(&mut pending, 4, 265 * MS), (Asked::New, vec![(3, Lost::TimedOut)]));
        assert_eq!([pending.answer(3, 1), pending.answer(3, 1)], [Answer::Late, Answer::Again]);
        assert_eq!(pending.open(), 1);
        assert_eq!(pending.answer(3, 1), Answer::Again);
        assert_eq!(ask(&mut pending, 6, 8_000 * MS), (Asked::New, vec![(4, Lost::TimedOut)]));
        assert_eq!(pending.answer(4, 1), Answer::Late, "it is remembered for a while");
        assert_eq!(ask(&mut pending, 5, 30_000 * MS), (Asked::New, vec![(6, Lost::TimedOut)]));
        assert_eq!(
            (pending.answer(4, 1), pending.ring.len(), pending.numbers.len()),
            (Answer::Unknown, 1, 1)
        );
    }

    #[test]
    fn an_answer_without_a_question_finds_its_query_however_many_follow() {
        let mut pending = pending(100_000);
        let of = |id: u16| Query { port_and_id: (1, id), ..query(id.into(), 0) };
        let client: SocketAddr = (Ipv4Addr::LOCALHOST, 1).into();
        for id in 0..20_000 {
            pending.ask(of(id), &mut |_, _| {});
        }
        assert_eq!(pending.last_of(client, 3, 1).map(|(key, _)| key), Some(3));
        assert_eq!((pending.answer(3, 1), pending.last_of(client, 3, 1)), (Answer::First(0), None));
        // Those that are asked behind the first one, too, and none that is forgotten.
        pending.ask(of(20_001), &mut |_, _| {});
        assert_eq!(pending.last_of(client, 20_001, 1).map(|(key, _)| key), Some(20_001));
        let other: SocketAddr = (Ipv4Addr::LOCALHOST, 2).into();
        assert_eq!([pending.last_of(other, 4, 1), pending.last_of(client, 30_000, 1)], [None; 2]);
        pending.advance(150 * MS, &mut |_, _| {});
        assert_eq!(pending.last_of(client, 5, 1).map(|(key, _)| key), Some(5), "it is late");
        pending.advance(20_000 * MS, &mut |_, _| {});
        assert_eq!(
            (pending.last_of(client, 5, 1), pending.bare.as_ref().map(|all| all.len())),
            (None, Some(0))
        );
    }

    /// musl asks all resolvers at once, from one socket and with one id.
    #[test]
    fn each_server_has_its_own_query() {
        let mut pending = pending(100);
        let of = |server: u32| Query { server, ..query(7, 0) };
        let ask = |pending: &mut Pending, server: u32| pending.ask(of(server), &mut |_, _| {});
        assert_eq!([1, 2, 3].map(|server| ask(&mut pending, server)), [Asked::New; 3]);
        assert_eq!([3, 1, 2].map(|server| ask(&mut pending, server)), [Asked::Again; 3]);
        let client: SocketAddr = (Ipv4Addr::LOCALHOST, 1).into();
        assert!(pending.last_of(client, 1, 1).is_some());
        assert_eq!([1, 2].map(|server| pending.answer(7, server)), [Answer::First(0); 2]);
        assert_eq!((pending.answer(7, 1), pending.open()), (Answer::Again, 1));
        assert!(pending.last_of(client, 1, 1).is_none() && pending.last_of(client, 1, 3).is_some());
        // One that is not known, or that was not asked: the last query's.
        assert_eq!(pending.answer(7, 9), Answer::First(0));
        assert_eq!([pending.answer(7, 0), pending.answer(8, 0)], [Answer::Again, Answer::Unknown]);
    }

    #[test]
    fn an_answer_that_stands_before_its_query_is_found() {
        let mut pending = pending(100);
        pending.keep_early(1, 50 * MS, false);
        pending.keep_early(2, 51 * MS, true);
        assert_eq!(pending.take_early(1, 51 * MS), None, "it was captured before it was asked for");
        assert_eq!(pending.take_early(1, 49 * MS), Some((50 * MS, false)));
        assert_eq!(pending.take_early(1, 49 * MS), None, "once");
        assert_eq!(pending.take_early(2, 51 * MS), Some((51 * MS, true)));
        for n in 0..2 * EARLY_MAX as u64 {
            pending.keep_early(n, n, false);
        }
        assert_eq!((pending.early.len(), pending.early_order.len()), (EARLY_MAX, EARLY_MAX));
        pending.keep_early(1, 9 * EARLY, false);
        assert_eq!((pending.early.len(), pending.early_order.len()), (1, 1));
    }

    #[test]
    fn what_comes_twice_at_once_was_captured_twice() {
        let mut pending = pending(100);
        for (at, answered) in [(0, false), (TWIN, true), (2 * TWIN, false), (4 * TWIN, false)] {
            pending.ask(query(1, at), &mut |_, _| {});
            if answered {
                pending.answer(1, 1);
            }
        }
        assert_eq!(pending.twins, 1, "as of the query that counts");
    }

    #[test]
    fn there_is_a_bound() {
        let mut pending = pending(3);
        for key in 0..3 {
            assert_eq!(ask(&mut pending, key, key), (Asked::New, vec![]));
        }
        assert_eq!(pending.answer(0, 1), Answer::First(0));
        assert_eq!(ask(&mut pending, 3, 3), (Asked::New, vec![]), "an answered one makes room");
        assert_eq!(ask(&mut pending, 4, 4), (Asked::New, vec![(1, Lost::Forgotten)]));
        assert_eq!((pending.answer(1, 1), pending.answer(2, 1)), (Answer::Unknown, Answer::First(2)));
    }

    #[test]
    fn a_clock_that_steps_ends_everything() {
        for (now, how) in [(1_000_000 * MS, Lost::TimedOut), (0, Lost::Forgotten)] {
            let mut pending = pending(10);
            ask(&mut pending, 1, 50_000 * MS);
            ask(&mut pending, 2, 50_001 * MS);
            let (asked, lost) = ask(&mut pending, 3, now);
            assert_eq!((asked, lost, pending.ring.len()), (Asked::New, vec![(1, how), (2, how)], 1));
        }
    }
}
