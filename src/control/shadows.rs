//! Compares the two answers to each query that a shadow pool gets too.
//!
//! ```text
//!  shard ─► its queue ─► asked: waits for both sides ─► compared: counted by class, examples
//! ```
//!
//! The control thread does it, a queue of each shard at a time. A pair whose other half does not
//! come, because a queue was full, is given up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use crate::base::addr::BackendSlot;
use crate::base::printable::Printable;
use crate::base::time::{Tick, TickDelta};
use crate::compare::{Aspects, Class, Comparer, Verdict, describe, judge, question};
use crate::control::stats::servers::aligned;
use crate::control::stats::text::ms;
use crate::model::Snapshot;
use crate::stats::histogram::Latency;
use crate::stats::live::LiveState;
use crate::stats::registry::{ShadowReading, ShadowStats};
use crate::stats::shadow_queue::{End, ShadowEvent, ShadowId, Side};
use crate::wire::header::TC;

/// Pairs that wait for an answer, at most; more are not compared.
const PAIRS_MAX: usize = 65_536;
/// Bytes of responses that wait for the other side's, at most.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Events of one turn: some milliseconds.
const EVENTS_MAX: usize = 4_096;
/// How long a pair may take: longer than all attempts of a query.
const PAIR_MAX: TickDelta = TickDelta::from_ms(60_000);
/// Interval at which those that take longer are given up.
const SWEEP: TickDelta = TickDelta::from_ms(1_000);
/// Examples of each class, the newest ones.
const EXAMPLES: usize = 4;
/// Pools that are remembered when a reload has removed some. Those in force are all counted.
const POOLS_KEPT: usize = 256;

/// What was compared so far.
#[derive(Debug)]
pub(super) struct Shadows {
    pairs: BTreeMap<(usize, ShadowId), Pair>,
    pools: BTreeMap<Box<str>, Pool>,
    comparer: Comparer,
    swept: Tick,
    /// Bytes of responses that wait.
    waiting_bytes: usize,
    /// The shard that is asked first in the next turn.
    first: usize,
}

#[derive(Debug)]
struct Pair {
    pool: Box<str>,
    by_stream: bool,
    asked: Tick,
    live: Option<End>,
    shadow: Option<End>,
}

impl Pair {
    /// Returns the bytes of the responses that it has.
    fn bytes(&self) -> usize {
        let bytes = |end: &End| match end {
            End::Response { message, .. } => message.len(),
            End::None | End::TooLong => 0,
        };
        [&self.live, &self.shadow].into_iter().flatten().map(bytes).sum()
    }
}

/// What is known of a shadow pool.
#[derive(Debug, Default)]
struct Pool {
    stats: ShadowStats,
    examples: BTreeMap<usize, VecDeque<Example>>,
}

/// A pair with a difference.
#[derive(Clone, Debug)]
struct Example {
    class: Class,
    question: String,
    difference: String,
    /// Names of the servers.
    live: String,
    shadow: String,
}

impl Default for Shadows {
    fn default() -> Self {
        Self {
            pairs: BTreeMap::new(),
            pools: BTreeMap::new(),
            comparer: Comparer::new(Aspects::default()),
            swept: Tick(0),
            waiting_bytes: 0,
            first: 0,
        }
    }
}

impl Shadows {
    /// Takes what the shards have queued, and compares what is complete.
    pub(super) fn turn(&mut self, snapshot: &Snapshot, live_state: &LiveState, now: Tick) {
        let (shards, mut left) = (live_state.shards(), EVENTS_MAX);
        let first = self.first;
        for shard in (0..shards.len()).map(|at| (first + at) % shards.len()) {
            for event in shards[shard].shadow_queue.events(left) {
                left -= 1;
                self.take(shard, event, snapshot, now);
            }
        }
        self.first = (first + 1) % shards.len().max(1);
        if self.pairs.is_empty() || now.since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        let Self { pools, waiting_bytes, .. } = self;
        self.pairs.retain(|_, pair| {
            let is_new = now.since(pair.asked) < PAIR_MAX;
            if !is_new {
                *waiting_bytes -= pair.bytes();
                if let Some(pool) = pools.get(&pair.pool) {
                    pool.stats.incomplete.add(1);
                }
            }
            is_new
        });
    }

    fn take(&mut self, shard: usize, event: ShadowEvent, snapshot: &Snapshot, now: Tick) {
        match event {
            ShadowEvent::Asked { id, pool, by_stream } => {
                if !self.pools.contains_key(&pool) && self.pools.len() >= POOLS_KEPT {
                    // One that a reload has removed makes room.
                    let there: BTreeSet<&str> =
                        snapshot.pools.iter().map(|pool| pool.name.as_str()).collect();
                    let gone = self.pools.keys().find(|name| !there.contains(&***name)).cloned();
                    gone.map(|gone| self.pools.remove(&gone));
                }
                let known = self.pools.entry(pool.clone()).or_default();
                known.stats.queries.add(1);
                if self.pairs.len() == PAIRS_MAX {
                    known.stats.incomplete.add(1);
                    return;
                }
                self.pairs
                    .insert((shard, id), Pair { pool, by_stream, asked: now, live: None, shadow: None });
            }
            ShadowEvent::Ended { id, side, end } => {
                let Some(mut pair) = self.pairs.remove(&(shard, id)) else { return };
                self.waiting_bytes -= pair.bytes();
                match side {
                    Side::Live => pair.live = Some(end),
                    Side::Shadow => pair.shadow = Some(end),
                }
                if pair.live.is_some() && pair.shadow.is_some() {
                    self.compare(pair, snapshot);
                } else if self.waiting_bytes + pair.bytes() <= WAITING_BYTES_MAX {
                    self.waiting_bytes += pair.bytes();
                    self.pairs.insert((shard, id), pair);
                } else if let Some(pool) = self.pools.get(&pair.pool) {
                    pool.stats.incomplete.add(1);
                }
            }
        }
    }

    fn compare(&mut self, pair: Pair, snapshot: &Snapshot) {
        let Some(pool) = self.pools.get_mut(&pair.pool) else { return };
        let stats = &pool.stats;
        let (Some(live), Some(shadow)) = (pair.live, pair.shadow) else { return };
        for (end, latency) in [(&live, &stats.live_latency), (&shadow, &stats.latency)] {
            if let End::Response { latency: took, .. } = end {
                latency.record(took.0);
            }
        }
        let ((a, one), (b, other)) = match (live, shadow) {
            (
                End::Response { message: a, backend: one, .. },
                End::Response { message: b, backend: other, .. },
            ) => ((a, one), (b, other)),
            (End::TooLong, _) | (_, End::TooLong) => return stats.too_long.add(1),
            (End::None, End::None) => return stats.no_response.add(1),
            (End::None, End::Response { .. }) => return stats.only_shadow.add(1),
            (End::Response { .. }, End::None) => return stats.only_live.add(1),
        };
        let is_cut = |message: &[u8]| message.get(2).is_some_and(|flags| flags & TC != 0);
        if pair.by_stream && is_cut(&b) && !is_cut(&a) {
            // A datagram does not hold what the client's connection did.
            return stats.too_long.add(1);
        }
        let found = self.comparer.compare(&a, &b);
        let class = found.class();
        stats.answers[class].add(1);
        match judge(&found, &a, &b) {
            Verdict::Better => stats.better.add(1),
            Verdict::Worse => stats.worse.add(1),
            Verdict::Same | Verdict::Other => {}
        }
        if found.is_same() {
            return;
        }
        let examples = pool.examples.entry(class.index()).or_default();
        if examples.len() == EXAMPLES {
            examples.pop_front();
        }
        examples.push_back(Example {
            class,
            question: question(&a),
            difference: describe(&found, &a, &b),
            live: server(snapshot, one),
            shadow: server(snapshot, other),
        });
    }

    /// Returns what was counted, by pool.
    pub(super) fn readings(&self) -> Vec<(String, ShadowReading)> {
        let mut readings = Vec::new();
        for (name, pool) in &self.pools {
            let mut reading = ShadowReading::default();
            pool.stats.read(&mut reading);
            readings.push((name.to_string(), reading));
        }
        readings
    }

    /// Returns all that is known, for people.
    pub(super) fn text(&self) -> String {
        if self.pools.is_empty() {
            return "no query has gone to a shadow pool\n".to_owned();
        }
        self.readings()
            .iter()
            .map(|(name, reading)| self.text_of(name, reading))
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn text_of(&self, name: &str, reading: &ShadowReading) -> String {
        let compared: u64 = Class::ALL.iter().map(|class| reading.answers[*class]).sum();
        let mut out = format!(
            "Pool \"{}\": {} queries, {compared} compared, {} the same, {} better, {} worse; {} answered by their own server \
             alone, {} by the shadow pool alone, {} by neither, {} too long, {} incomplete\n",
            Printable(name),
            reading.queries,
            reading.answers[Class::Same],
            reading.better,
            reading.worse,
            reading.only_live,
            reading.only_shadow,
            reading.no_response,
            reading.too_long,
            reading.incomplete,
        );
        let mut rows =
            vec![["".to_owned(), "p50".into(), "p90".into(), "p99".into(), "p99.9 ms".into()].to_vec()];
        for (side, latency) in [("own server", &reading.live_latency), ("shadow pool", &reading.latency)] {
            if let Some(times) = latency.quantiles(SHOWN) {
                rows.push(std::iter::once(side.to_owned()).chain(times.map(ms)).collect());
            }
        }
        if rows.len() > 1 {
            out += &aligned(&rows);
        }
        let differing =
            Class::ALL.iter().filter(|class| **class != Class::Same && reading.answers[**class] > 0);
        let mut rows = vec![["difference", "number", "share %"].map(str::to_owned).to_vec()];
        rows.extend(differing.map(|class| {
            let count = reading.answers[*class];
            let share = count as f64 * 100.0 / compared.max(1) as f64;
            vec![class.label().to_owned(), count.to_string(), format!("{share:.3}")]
        }));
        if rows.len() > 1 {
            out += &aligned(&rows);
        }
        for example in self.examples(name) {
            let Example { class, question, difference, live, shadow } = example;
            let (question, difference) = (Printable(question), Printable(difference));
            out += &format!(
                "{}: {question}: {difference} ({} and {})\n",
                class.label(),
                Printable(live),
                Printable(shadow)
            );
        }
        out
    }

    fn examples(&self, pool: &str) -> impl Iterator<Item = &Example> {
        self.pools.get(pool).into_iter().flat_map(|pool| pool.examples.values().flatten())
    }

    /// Returns all that is known, for programs.
    pub(super) fn json(&self) -> Value {
        let latency = |latency: &Latency| {
            let times = latency.quantiles(SHOWN).map(|times| times.map(|ns| ns as f64 / 1e6));
            times.map(|[p50, p90, p99, p999]| json!({"p50": p50, "p90": p90, "p99": p99, "p99.9": p999}))
        };
        let pools: Vec<Value> = self
            .readings()
            .iter()
            .map(|(name, reading)| {
                let classes: BTreeMap<&str, u64> =
                    Class::ALL.iter().map(|class| (class.label(), reading.answers[*class])).collect();
                let examples: Vec<Value> = self
                    .examples(name)
                    .map(|e| {
                        json!({"difference": e.class.label(), "question": e.question, "text": e.difference,
                               "server": e.live, "shadowServer": e.shadow})
                    })
                    .collect();
                json!({
                    "pool": name, "queries": reading.queries, "answers": classes,
                    "better": reading.better, "worse": reading.worse,
                    "onlyOwn": reading.only_live, "onlyShadow": reading.only_shadow,
                    "neither": reading.no_response, "tooLong": reading.too_long,
                    "incomplete": reading.incomplete,
                    "ownLatencyMs": latency(&reading.live_latency), "shadowLatencyMs": latency(&reading.latency),
                    "examples": examples,
                })
            })
            .collect();
        json!({ "shadows": pools })
    }
}

/// The quantiles of latency that are shown.
const SHOWN: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

fn server(snapshot: &Snapshot, slot: BackendSlot) -> String {
    snapshot
        .backend(slot)
        .map_or_else(|| "a server that was removed".to_owned(), |backend| backend.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;
    use crate::model::Pool;

    fn message(rcode: u8, address: [u8; 4]) -> Box<[u8]> {
        let mut bytes = vec![0, 1, 0x80, rcode, 0, 1, 0, 1, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        bytes.extend(address);
        bytes.into()
    }

    fn response(message: Box<[u8]>, server: u16, ms: u64) -> End {
        End::Response { message, backend: BackendSlot(server), latency: TickDelta::from_ms(ms) }
    }

    /// Lets shards say this of one query each, and returns what is known then.
    fn after(ends: &[(Side, u32, End)], asked: u32, now: Tick) -> (Shadows, LiveState) {
        let live_state = LiveState::new(1, 4);
        let queue = &live_state.shards()[0].shadow_queue;
        for id in 1..=asked {
            assert!(queue.file(ShadowEvent::Asked {
                id: ShadowId(id),
                pool: "next".into(),
                by_stream: false
            }));
        }
        for (side, id, end) in ends {
            assert!(queue.file(ShadowEvent::Ended { id: ShadowId(*id), side: *side, end: end.clone() }));
        }
        let mut shadows = Shadows::default();
        shadows.turn(&fixture::snapshot(1, &[0], &[0, 1]), &live_state, now);
        (shadows, live_state)
    }

    #[test]
    fn pairs_are_compared_in_whatever_order_they_end() {
        let (same, other) = (message(0, [192, 0, 2, 1]), message(0, [192, 0, 2, 2]));
        let ends = [
            (Side::Live, 1, response(same.clone(), 0, 2)),
            (Side::Shadow, 2, response(other, 1, 8)),
            (Side::Shadow, 1, response(same.clone(), 1, 4)),
            (Side::Live, 2, response(same.clone(), 0, 2)),
            (Side::Live, 3, response(same.clone(), 0, 2)),
            (Side::Shadow, 3, response(message(2, [192, 0, 2, 1]), 1, 4)),
            (Side::Live, 4, End::None),
            (Side::Shadow, 4, response(same.clone(), 1, 4)),
            (Side::Live, 5, response(same.clone(), 0, 2)),
            (Side::Shadow, 5, End::None),
            (Side::Live, 6, End::TooLong),
            (Side::Shadow, 6, response(same, 1, 4)),
            (Side::Live, 7, End::None),
            (Side::Shadow, 7, End::None),
        ];
        let (shadows, _) = after(&ends, 7, Tick(0));
        let (_, reading) = &shadows.readings()[0];
        let answers = [Class::Same, Class::Data, Class::Rcode].map(|class| reading.answers[class]);
        assert_eq!((reading.queries, answers), (7, [1, 1, 1]));
        assert_eq!(
            (reading.only_live, reading.only_shadow, reading.too_long, reading.no_response),
            (1, 1, 1, 1)
        );
        assert_eq!((reading.live_latency.count(), reading.latency.count()), (4, 5));
        assert_eq!(reading.incomplete, 0);
        let text = shadows.text();
        assert!(
            text.starts_with("Pool \"next\": 7 queries, 3 compared, 1 the same, 0 better, 1 worse;"),
            "{text}"
        );
        assert!(text.contains("rcode: a. A: NOERROR, then SERVFAIL (ns0 and ns1)"), "{text}");
        assert!(text.contains("192.0.2.1") && text.contains("192.0.2.2"), "{text}");
        let json = shadows.json();
        assert_eq!(json["shadows"][0]["answers"]["rcode"], 1);
        assert_eq!(json["shadows"][0]["examples"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn every_pool_in_force_is_counted_and_those_that_are_gone_make_room() {
        let (live_state, mut shadows) = (LiveState::new(1, 4), Shadows::default());
        let mut snapshot = fixture::snapshot(1, &[0], &[0, 1]);
        let ask = |shadows: &mut Shadows, snapshot: &Snapshot, name: &str, id: u32| {
            let event = ShadowEvent::Asked { id: ShadowId(id), pool: name.into(), by_stream: false };
            assert!(live_state.shards()[0].shadow_queue.file(event));
            shadows.turn(snapshot, &live_state, Tick(0));
        };
        let names: Vec<String> = (0..POOLS_KEPT + 44).map(|n| format!("candidate-{n}")).collect();
        snapshot.pools = names.iter().map(|name| Pool { name: name.clone(), ..Pool::default() }).collect();
        for (id, name) in (0..).zip(&names) {
            ask(&mut shadows, &snapshot, name, id);
        }
        assert_eq!(
            shadows.readings().iter().filter(|(_, reading)| reading.queries == 1).count(),
            names.len()
        );
        assert_eq!(shadows.text().matches(": 1 queries").count(), names.len());
        // A reload removes them, and others come.
        for n in 0..100 {
            snapshot.pools = vec![Pool { name: format!("next-{n}"), ..Pool::default() }];
            ask(&mut shadows, &snapshot, &format!("next-{n}"), 1_000 + n);
        }
        let readings = shadows.readings();
        assert!(readings.iter().any(|(name, _)| name == "next-99"));
        assert_eq!(readings.len(), names.len(), "it does not grow");
    }

    #[test]
    fn examples_are_bounded_and_the_newest() {
        let ends: Vec<_> = (1..=100_u8)
            .flat_map(|n| {
                let id = u32::from(n);
                [
                    (Side::Live, id, response(message(0, [192, 0, 2, 0]), 0, 1)),
                    (Side::Shadow, id, response(message(0, [192, 0, 2, n]), 1, 1)),
                ]
            })
            .collect();
        let (shadows, _) = after(&ends, 100, Tick(0));
        let shown: Vec<String> = shadows.examples("next").map(|e| e.difference.clone()).collect();
        assert_eq!(shown.len(), EXAMPLES);
        assert!(shown[EXAMPLES - 1].contains("192.0.2.100"), "{shown:?}");
    }

    #[test]
    fn what_waits_for_the_other_side_is_bounded() {
        let long: Box<[u8]> = vec![0; 8_192].into();
        let most = WAITING_BYTES_MAX / long.len();
        let snapshot = fixture::snapshot(1, &[0], &[0, 1]);
        let (live_state, mut shadows) = (LiveState::new(1, 4), Shadows::default());
        for id in (1..).map(ShadowId).take(most + 10) {
            let queue = &live_state.shards()[0].shadow_queue;
            assert!(queue.file(ShadowEvent::Asked { id, pool: "next".into(), by_stream: false }));
            let end = response(long.clone(), 0, 1);
            assert!(queue.file(ShadowEvent::Ended { id, side: Side::Live, end }));
            shadows.turn(&snapshot, &live_state, Tick(0));
        }
        assert_eq!((shadows.waiting_bytes, shadows.pairs.len()), (WAITING_BYTES_MAX, most));
        assert_eq!(shadows.readings()[0].1.incomplete, 10);
        shadows.turn(&snapshot, &live_state, Tick(0) + TickDelta::from_ms(61_000));
        assert_eq!((shadows.waiting_bytes, shadows.pairs.len()), (0, 0));
    }

    #[test]
    fn a_turn_is_bounded_and_no_shard_is_left_out() {
        let snapshot = fixture::snapshot(1, &[0], &[0, 1]);
        let (live_state, mut shadows) = (LiveState::new(2, 4), Shadows::default());
        for stats in live_state.shards() {
            for id in (0..EVENTS_MAX as u32).map(ShadowId) {
                assert!(stats.shadow_queue.file(ShadowEvent::Asked {
                    id,
                    pool: "next".into(),
                    by_stream: false
                }));
            }
        }
        for turn in 1..=2 {
            shadows.turn(&snapshot, &live_state, Tick(0));
            assert_eq!(shadows.pairs.len(), turn * EVENTS_MAX, "turn {turn}");
        }
    }

    #[test]
    fn a_half_pair_is_given_up() {
        let ends = [(Side::Live, 1, response(message(0, [192, 0, 2, 1]), 0, 2))];
        let (mut shadows, live_state) = after(&ends, 1, Tick(0));
        let snapshot = fixture::snapshot(1, &[0], &[0, 1]);
        shadows.turn(&snapshot, &live_state, Tick(0) + TickDelta::from_ms(59_000));
        assert_eq!(shadows.readings()[0].1.incomplete, 0);
        shadows.turn(&snapshot, &live_state, Tick(0) + TickDelta::from_ms(61_000));
        assert_eq!((shadows.readings()[0].1.incomplete, shadows.pairs.len()), (1, 0));
        // What comes later belongs to nobody.
        let late = ShadowEvent::Ended { id: ShadowId(1), side: Side::Shadow, end: End::None };
        assert!(live_state.shards()[0].shadow_queue.file(late));
        shadows.turn(&snapshot, &live_state, Tick(0) + TickDelta::from_ms(62_000));
        assert_eq!(shadows.readings()[0].1.incomplete, 1);
    }
}
