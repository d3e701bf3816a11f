//! The last 24 hours at falling resolution, in fixed memory, for whoever draws them.
//!
//! ```text
//!  once a second: totals ─► what happened since the last ─┬─► seconds of 10 minutes
//!                                                         ├─► tens of seconds of 2 hours
//!                                                         └─► minutes of 24 hours
//! ```
//!
//! A sample holds rates over its interval. Where nobody took totals for a while, every interval in
//! between gets the average over that time, which is all that is known of it.

use std::collections::BTreeMap;

use crate::base::addr::BackendSlot;
use crate::base::time::{Tick, TickDelta};
use crate::control::stats::Reading;
use crate::model::{Backend, Snapshot};
use crate::stats::drop_reason::DropReason;
use crate::stats::histogram::Latency;
use crate::stats::registry::BackendReading;

/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// Seconds of a sample, and how many samples are kept.
const TIERS: [(u64, usize); 3] = [(1, 600), (10, 720), (60, 1_440)];

/// Servers that a sample tells apart: those with the most queries in it.
pub(super) const SERVERS_MAX: usize = 16;

/// The shares of latency that are kept.
pub(super) const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

/// How long the totals are kept that latencies are worked out from.
const RECENT: TickDelta = TickDelta::from_ms(10_000);

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// 300 samples of a second.
    FiveMinutes,
    /// 360 samples of ten seconds.
    Hour,
    /// 1440 samples of a minute.
    Day,
}

impl Range {
    /// The range of so many seconds.
    #[must_use]
    pub(super) const fn of_seconds(seconds: u64) -> Option<Self> {
        match seconds {
            300 => Some(Self::FiveMinutes),
            3_600 => Some(Self::Hour),
            86_400 => Some(Self::Day),
            _ => None,
        }
    }

    /// How many seconds it has.
    #[must_use]
    pub(super) const fn seconds(self) -> u64 {
        match self {
            Self::FiveMinutes => 300,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }
}

/// Rates over an interval, per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// Queries of clients.
    pub(super) queries: f32,
    /// Answers to clients.
    pub(super) answers: f32,
    /// Dropped packets.
    pub(super) drops: f32,
    /// Queries that a server did not answer or that could not be sent to it, and its SERVFAILs.
    pub(super) errors: f32,
    /// Queries to servers, without copies.
    pub(super) sent: f32,
    /// Latency in milliseconds by [`QUANTILES`]; none without an answer.
    pub(super) latency_ms: Option<[f32; QUANTILES.len()]>,
    servers: [Option<(BackendSlot, f32)>; SERVERS_MAX],
}

impl Sample {
    const NONE: Self = Self {
        queries: 0.0,
        answers: 0.0,
        drops: 0.0,
        errors: 0.0,
        sent: 0.0,
        latency_ms: None,
        servers: [None; SERVERS_MAX],
    };

    /// Queries to the servers that had the most.
    pub(super) fn servers(&self) -> impl Iterator<Item = (BackendSlot, f32)> {
        self.servers.iter().flatten().copied()
    }
}

/// Samples of a range.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    /// Seconds of a sample.
    pub(super) step: u64,
    /// The number of the first sample: its time in steps since the clock's origin.
    pub(super) first: u64,
    /// How long before the last totals its interval began, seconds.
    pub(super) age: u64,
    /// The samples; the last may be of an interval that is not over.
    pub(super) samples: Vec<Sample>,
}

/// Who has had a server's slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    id: String,
    /// The server's name.
    pub(super) name: String,
    /// Its address.
    pub(super) address: String,
}

/// What is kept.
#[derive(Debug)]
pub(super) struct History {
    tiers: [Tier; TIERS.len()],
    last: Option<Reading>,
    /// The second of the first totals.
    since: u64,
    /// What happened between the two last totals, and how long that was.
    second: (Reading, TickDelta),
    /// The totals of about ten and twenty seconds ago.
    recent: [Reading; 2],
    owners: BTreeMap<BackendSlot, Owner>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            tiers: TIERS.map(|(step, len)| Tier::new(step, len)),
            last: None,
            since: 0,
            second: (Reading::default(), TickDelta(0)),
            recent: Default::default(),
            owners: BTreeMap::new(),
        }
    }
}

impl History {
    /// Takes the totals of this moment; more often than once a second is of no use, and ignored.
    pub(super) fn feed(&mut self, total: &Reading, snapshot: &Snapshot) {
        let now = total.at.0 / SECOND;
        if self.last.as_ref().is_some_and(|last| now <= last.at.0 / SECOND) {
            return;
        }
        self.own(total, snapshot);
        let Some(last) = self.last.replace(total.clone()) else {
            self.recent = [total.clone(), total.clone()];
            self.since = now;
            return;
        };
        let span = total.since(&last);
        let elapsed = total.at.since(last.at);
        let sum = Sum::of(&span, elapsed, snapshot);
        for tier in &mut self.tiers {
            tier.feed(last.at.0 / SECOND, now, &sum);
        }
        self.second = (span, elapsed);
        if total.at.since(self.recent[1].at) >= RECENT {
            self.recent.swap(0, 1);
            self.recent[1] = total.clone();
        }
    }

    /// What happened in the last second, and how long that was.
    #[must_use]
    pub(super) const fn second(&self) -> (&Reading, TickDelta) {
        (&self.second.0, self.second.1)
    }

    /// What happened in the last ten to twenty seconds, and how long that was.
    #[must_use]
    pub(super) fn recent(&self) -> (Reading, TickDelta) {
        let Some(last) = &self.last else { return Default::default() };
        (last.since(&self.recent[0]), last.at.since(self.recent[0].at))
    }

    /// When totals were last taken.
    #[must_use]
    pub(super) fn at(&self) -> Option<Tick> {
        self.last.as_ref().map(|last| last.at)
    }

    /// The server that samples mean by a slot.
    #[must_use]
    pub(super) fn owner(&self, slot: BackendSlot) -> Option<&Owner> {
        self.owners.get(&slot)
    }

    /// The samples of a range, only those from number `from` on.
    #[must_use]
    pub(super) fn series(&self, range: Range, from: u64) -> Series {
        let tier = &self.tiers[range as usize];
        let now = self.last.as_ref().map_or(0, |last| last.at.0 / SECOND);
        // The present interval, as far as it is known, or the end of the last one.
        let present = tier.sum.sample();
        let end = now / tier.step + u64::from(present.is_some());
        let count = range.seconds() / tier.step;
        let first = end.saturating_sub(count).max(from.max(self.since / tier.step).min(end));
        let past = (first..now / tier.step).map(|number| tier.at(number));
        let samples = past.chain(present.filter(|_| first < end)).collect();
        Series { step: tier.step, first, age: now.saturating_sub(first * tier.step), samples }
    }

    /// Forgets what a slot's earlier owners did, where it has another one.
    fn own(&mut self, total: &Reading, snapshot: &Snapshot) {
        for backend in snapshot.backends.iter().flatten() {
            let slot = backend.slot;
            let queries = |reading: &Reading| reading.backends.get(&slot).map_or(0, |b| b.queries);
            // One that was removed and came back counts from nothing as well.
            let restarted = self.last.as_ref().is_some_and(|last| queries(total) < queries(last));
            let owner = self.owners.entry(slot).or_default();
            if owner.id != backend.id {
                for sample in self.tiers.iter_mut().flat_map(|tier| tier.ring.iter_mut()) {
                    for server in &mut sample.servers {
                        *server = server.filter(|(of, _)| *of != slot);
                    }
                }
                self.tiers.iter_mut().for_each(|tier| _ = tier.sum.servers.remove(&slot));
            }
            if owner.id != backend.id || restarted {
                let kept = self.last.iter_mut().chain(&mut self.recent);
                kept.for_each(|reading| _ = reading.backends.remove(&slot));
            }
            if (&owner.id, &owner.name) != (&backend.id, &backend.name) {
                let (id, name, address) =
                    (backend.id.clone(), backend.name.clone(), backend.address.to_string());
                *owner = Owner { id, name, address };
            }
        }
    }
}

/// Whether queries to a server are part of the traffic that servers share: not those to a relay's
/// target, nor copies.
#[must_use]
pub(super) const fn has_share(backend: &Backend) -> bool {
    !backend.target && !backend.tee
}

/// Queries to a server that failed: those that it did not answer, or with SERVFAIL. Not those to a server
/// that only gets copies.
#[must_use]
pub(super) fn errors(span: &Reading, snapshot: &Snapshot) -> u64 {
    let counted = span.backends.iter().filter(|(slot, reading)| {
        let only_copies = reading.copies > 0 && reading.shared() == 0;
        !only_copies && snapshot.backend(**slot).is_some_and(|b| has_share(b))
    });
    counted.map(|(_, reading)| reading.lost() + reading.servfails).sum()
}

/// Dropped packets, for whatever reason; responses to copies are not missed by anybody.
#[must_use]
pub(super) fn drops(span: &Reading) -> u64 {
    let missed = DropReason::ALL.iter().filter(|reason| **reason != DropReason::TeeResponse);
    missed.map(|reason| span.shards.drops[*reason]).sum()
}

/// Samples of one resolution.
#[derive(Debug)]
struct Tier {
    step: u64,
    /// By number modulo its length.
    ring: Box<[Sample]>,
    /// What happened in the present interval.
    sum: Sum,
    /// The second in which that began.
    since: u64,
}

impl Tier {
    fn new(step: u64, len: usize) -> Self {
        let ring = vec![Sample::NONE; len].into_boxed_slice();
        Self { step, ring, sum: Sum::default(), since: 0 }
    }

    /// Adds what happened from one second to another.
    fn feed(&mut self, from: u64, to: u64, sum: &Sum) {
        if self.sum.span.0 == 0 {
            self.since = from;
        }
        self.sum.add(sum);
        let end = to / self.step;
        let len = self.ring.len() as u64;
        if end > self.since / self.step {
            let sample = self.sum.sample().unwrap_or(Sample::NONE);
            for number in (self.since / self.step).max(end.saturating_sub(len))..end {
                self.ring[(number % len) as usize] = sample;
            }
            self.sum = Sum::default();
        }
    }

    fn at(&self, number: u64) -> Sample {
        self.ring[(number % self.ring.len() as u64) as usize]
    }
}

/// What happened in an interval.
#[derive(Debug, Default)]
struct Sum {
    span: TickDelta,
    queries: u64,
    answers: u64,
    drops: u64,
    errors: u64,
    latency: Latency,
    servers: BTreeMap<BackendSlot, u64>,
}

impl Sum {
    fn of(span: &Reading, elapsed: TickDelta, snapshot: &Snapshot) -> Self {
        let shared = snapshot.backends.iter().flatten().filter(|b| has_share(b));
        let queries = |b: &Backend| span.backends.get(&b.slot).map_or(0, BackendReading::shared);
        Self {
            span: elapsed,
            queries: span.shards.queries,
            answers: span.answers(),
            drops: drops(span),
            errors: errors(span, snapshot),
            latency: span.latency().clone(),
            servers: shared.map(|b| (b.slot, queries(b))).filter(|(_, queries)| *queries > 0).collect(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.span.0 += other.span.0;
        self.queries += other.queries;
        self.answers += other.answers;
        self.drops += other.drops;
        self.errors += other.errors;
        self.latency.add(&other.latency);
        for (slot, queries) in &other.servers {
            *self.servers.entry(*slot).or_default() += queries;
        }
    }

    fn sample(&self) -> Option<Sample> {
        if self.span.0 == 0 {
            return None;
        }
        let rate = |count: u64| (count as f64 * 1e9 / self.span.0 as f64) as f32;
        let mut by_queries: Vec<_> = self.servers.iter().map(|(slot, n)| (*slot, rate(*n))).collect();
        by_queries.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut servers = [None; SERVERS_MAX];
        for (place, server) in servers.iter_mut().zip(by_queries) {
            *place = Some(server);
        }
        Some(Sample {
            queries: rate(self.queries),
            answers: rate(self.answers),
            drops: rate(self.drops),
            errors: rate(self.errors),
            sent: rate(self.servers.values().sum()),
            latency_ms: self.latency.quantiles(QUANTILES).map(|q| q.map(|ns| (ns as f64 / 1e6) as f32)),
            servers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;
    use crate::control::stats::Gatherer;
    use crate::stats::live::LiveState;

    const A: BackendSlot = BackendSlot(0);
    const B: BackendSlot = BackendSlot(1);
    /// The clock's origin is the start of the machine.
    const START: u64 = 86_000;

    struct Fed {
        history: History,
        live_state: LiveState,
        gatherer: Gatherer,
        snapshot: Snapshot,
    }

    impl Fed {
        fn new() -> Self {
            let snapshot = fixture::snapshot(1, &[], &[0, 1]);
            let mut fed = Self {
                history: History::default(),
                live_state: LiveState::new(1, 2),
                gatherer: Gatherer::default(),
                snapshot,
            };
            fed.at(START);
            fed
        }

        fn at(&mut self, second: u64) {
            let now = Tick(second * SECOND + 5);
            let total = self.gatherer.gather(&self.live_state, [A, B].into_iter(), now);
            self.history.feed(&total, &self.snapshot);
        }

        fn ask(&self, slot: BackendSlot, queries: u64) {
            self.live_state.shards()[0].queries.add(queries);
            self.live_state.shards()[0].backend(slot).queries.add(queries);
        }

        fn queries(&self, range: Range, from: u64) -> (u64, Vec<f32>) {
            let series = self.history.series(range, from);
            (series.first, series.samples.iter().map(|s| s.queries).collect())
        }
    }

    #[test]
    fn a_second_holds_what_happened_in_it() {
        let mut fed = Fed::new();
        let shard = &fed.live_state.shards()[0];
        shard.responses.add(60);
        shard.cache_hits.add(10);
        shard.self_answered.add(5);
        shard.dropped(DropReason::Acl).add(3);
        shard.backend(A).timeouts.add(2);
        shard.backend(B).servfails.add(1);
        (0..70).for_each(|_| shard.servers.latency.record(4_000_000));
        fed.ask(A, 90);
        fed.ask(B, 10);
        fed.at(START + 1);
        let series = fed.history.series(Range::FiveMinutes, START);
        assert_eq!((series.step, series.first, series.age), (1, START, 1));
        let [sample] = series.samples[..] else { panic!("{series:?}") };
        assert_eq!((sample.queries, sample.answers, sample.drops, sample.errors), (100.0, 75.0, 3.0, 3.0));
        assert_eq!((sample.sent, sample.servers().collect()), (100.0, vec![(A, 90.0), (B, 10.0)]));
        let [p50, .., p999] = sample.latency_ms.expect("answers");
        assert!((3.9..4.1).contains(&p50) && (3.9..4.1).contains(&p999), "{sample:?}");
        assert_eq!(fed.history.owner(B).expect("known").name, "ns1");
    }

    #[test]
    fn a_gap_gets_the_average_and_nothing_is_before_the_first_look() {
        let mut fed = Fed::new();
        fed.ask(A, 10);
        fed.at(START + 1);
        fed.ask(A, 60);
        fed.at(START + 4);
        // Twice in a second: the later one waits for the next.
        fed.ask(A, 7);
        fed.at(START + 4);
        fed.at(START + 5);
        let (first, queries) = fed.queries(Range::FiveMinutes, START - 2);
        assert_eq!((first, queries), (START, vec![10.0, 20.0, 20.0, 20.0, 7.0]));
        assert_eq!(fed.queries(Range::FiveMinutes, START + 4), (START + 4, vec![7.0]));
        assert_eq!(fed.queries(Range::FiveMinutes, START + 90), (START + 5, vec![]));
    }

    #[test]
    fn minutes_average_seconds_and_the_last_is_the_present() {
        let mut fed = Fed::new();
        let start = START / 60 * 60 + 60;
        fed.at(start);
        for second in 1..=90 {
            fed.ask(A, if second <= 60 { 6 } else { 12 });
            fed.at(start + second);
        }
        let (first, queries) = fed.queries(Range::Day, start / 60);
        assert_eq!((first, queries), (start / 60, vec![6.0, 12.0]));
        let (_, queries) = fed.queries(Range::Hour, start / 10);
        assert_eq!(queries, [vec![6.0; 6], vec![12.0; 3]].concat());
        assert_eq!(fed.history.series(Range::Day, start / 60).age, 90);
    }

    #[test]
    fn memory_is_fixed_and_the_oldest_goes_first() {
        let mut fed = Fed::new();
        let size = |history: &History| {
            let sums: usize = history.tiers.iter().map(|tier| tier.sum.servers.len()).sum();
            (history.tiers.iter().map(|tier| size_of_val(&*tier.ring)).sum::<usize>(), sums)
        };
        let (before, _) = size(&fed.history);
        assert!(before < 1 << 20, "{before} bytes");
        for second in 1..=1_300 {
            fed.ask(A, second);
            fed.at(START + second);
        }
        // A pause longer than the ring.
        let (first, queries) = fed.queries(Range::FiveMinutes, 0);
        assert_eq!((first, queries.len()), (START + 1_000, 300));
        assert_eq!((queries[0], queries[299]), (1_001.0, 1_300.0));
        assert_eq!(size(&fed.history).0, before);
        assert!(size(&fed.history).1 <= 6);
        fed.ask(A, 100_000);
        fed.at(START + 101_300);
        let (_, queries) = fed.queries(Range::Day, 0);
        assert_eq!(queries.len(), 1_440);
        assert!(queries.iter().all(|q| (0.9..1.1).contains(q)), "{queries:?}");
    }

    #[test]
    fn a_slots_next_owner_inherits_nothing() {
        let mut fed = Fed::new();
        fed.ask(A, 500);
        fed.ask(B, 10);
        fed.at(START + 1);
        fed.gatherer.rebase(&fed.live_state, A);
        let next = Backend { id: "next".into(), name: "next".into(), ..fixture::backend(0) };
        fed.snapshot.backends[0] = Some(std::sync::Arc::new(next));
        fed.ask(A, 30);
        fed.at(START + 2);
        let series = fed.history.series(Range::FiveMinutes, START);
        let servers: Vec<Vec<_>> = series.samples.iter().map(|s| s.servers().collect()).collect();
        assert_eq!(servers, [vec![(B, 10.0)], vec![(A, 30.0)]]);
        assert_eq!(fed.history.owner(A).expect("known").name, "next");
        let (recent, span) = fed.history.recent();
        assert_eq!((recent.backends[&A].queries, recent.shards.queries), (30, 540));
        assert_eq!(span, TickDelta(2 * SECOND));
    }
}
