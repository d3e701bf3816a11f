//! Decides whether a server is full, from the latency of its fast responses alone.
//!
//! A resolver's responses are of two kinds: those from its cache, delayed only by its CPU, and those
//! that it had to fetch, as slow as the authority. Only the first kind shows whether the server is
//! full, so the gauge takes a quantile among them and compares it with the lowest value of the same
//! quantile: its floor.
//!
//! ```text
//!  responses  |▇▇▇▇▇▇▇▇▇▇▇▇▇▇         ▂▃▂▂   ▁   |      hits 70 %: p50 is among them
//!           |▇▇▇▇▇▇▇▇         ▂▃▅▆▅▃▂▂   ▁     |      hits 40 % (cold): p25 is
//!           |         ▂▃▅▇▇▇▇▅▃▂        ▂▃▂▂   |      full: every quantile has left its floor
//! ```
//!
//! It does not know rates, shares or other servers.

use crate::base::time::{Tick, TickDelta};
use crate::model::policy::Concentrate;
use crate::stats::histogram::{BUCKETS, bucket, bucket_ns};

/// Least responses per sample: fewer are kept for the next window. The median of 32 responses of a
/// loaded cache path varies by about a tenth.
const ANSWERS_MIN: u32 = 32;
/// Pending responses older than this are dropped: they belong to another load.
const PENDING_MAX: TickDelta = TickDelta::from_ms(5_000);
/// The quantiles, and for each the part of responses that must be fast for it to be used: a fifth
/// more, because the slowest of the fast responses are their tail.
const LEVELS: [(f64, f64); 3] = [(0.50, 0.60), (0.25, 0.30), (0.10, 0.0)];
/// Fast: below this multiple of the lowest quantile's floor. On a full server all quantiles leave
/// it together; then the lowest is compared, which has left its floor too.
const FAST_FACTOR: f64 = 4.0;
/// Samples of a verdict: full if at least FULL_MIN of them are.
const VERDICT: usize = 5;
const FULL_MIN: u32 = 3;
/// A queue grows before the server when each of the last FULL_MIN samples is this many times the one
/// before: delays that load does not cause come at once and stay, or go.
const QUEUE_GROWTH: f64 = 1.2;
/// The age at which a sample is stale.
const CALM_SPAN: TickDelta = TickDelta::from_ms(1_000);
/// Parts of the floor's span.
const SPANS: usize = 10;

/// One server's gauge.
#[derive(Debug)]
pub(super) struct Gauge {
    pending: Box<[u32]>,
    pending_count: u32,
    pending_since: Option<Tick>,
    /// Lowest latency per level and part of the floor's span, newest first; nanoseconds.
    floors: [[Option<u64>; SPANS]; LEVELS.len()],
    span_began: Option<Tick>,
    /// The last samples per level, for a median that a single outlier does not move.
    last: [[u64; VERDICT]; LEVELS.len()],
    samples: usize,
    read: Option<Tick>,
    /// One bit per sample, the newest lowest, since the last `forget`.
    full: u32,
    good: u32,
    judged: usize,
    /// The level of the last judgement.
    level: usize,
    /// Latency per level that load does not explain, and until when it counts as the floor.
    tolerated: Option<([u64; LEVELS.len()], Tick)>,
}

impl Gauge {
    pub(super) fn new() -> Self {
        Self {
            pending: vec![0; BUCKETS].into_boxed_slice(),
            pending_count: 0,
            pending_since: None,
            floors: [[None; SPANS]; LEVELS.len()],
            span_began: None,
            last: [[0; VERDICT]; LEVELS.len()],
            samples: 0,
            read: None,
            full: 0,
            good: 0,
            judged: 0,
            level: 0,
            tolerated: None,
        }
    }

    /// Takes a window's responses, counted by [`bucket`].
    pub(super) fn observe(&mut self, now: Tick, responses: &[u32], settings: &Concentrate) {
        if self.pending_since.is_some_and(|since| now.since(since) > PENDING_MAX) {
            self.clear_pending();
        }
        let count: u32 = responses.iter().sum();
        if count == 0 {
            return;
        }
        self.pending_since.get_or_insert(now);
        self.pending_count += count;
        for (pending, n) in self.pending.iter_mut().zip(responses) {
            *pending += n;
        }
        if self.pending_count >= ANSWERS_MIN {
            let sample = LEVELS.map(|(quantile, _)| self.quantile(quantile));
            self.read = Some(now);
            self.learn(now, sample, settings);
            self.judge(now, sample, settings);
            self.clear_pending();
        }
    }

    /// Returns whether most of the last samples were above the floor: the server is full.
    pub(super) const fn is_full(&self) -> bool {
        self.full.count_ones() >= FULL_MIN
    }

    /// Returns whether the last samples were above the floor, and each well above the one before: a
    /// queue grows.
    pub(super) fn is_queueing(&self) -> bool {
        let newest = (1 << FULL_MIN) - 1;
        let sample = |age: usize| self.last[self.level][(self.samples + VERDICT - 1 - age) % VERDICT] as f64;
        self.full & newest == newest
            && (1..FULL_MIN as usize).all(|age| sample(age - 1) > QUEUE_GROWTH * sample(age))
    }

    /// Returns whether all of the last samples were near the floor: it can take more.
    pub(super) const fn is_good(&self) -> bool {
        self.judged >= VERDICT && self.good.count_ones() as usize == VERDICT
    }

    /// Returns whether it answers from its cache as usual: there is a recent sample, and none was
    /// full.
    pub(super) fn is_calm(&self, now: Tick) -> bool {
        self.full == 0 && self.read.is_some_and(|at| now.since(at) <= CALM_SPAN)
    }

    /// Returns whether there are enough samples for a verdict since the last [`forget`](Self::forget).
    pub(super) const fn has_verdict(&self) -> bool {
        self.judged >= VERDICT
    }

    /// Returns whether the newest sample was above the floor, recently, and its floor is one of
    /// responses from a cache: not far above `quickest`, the lowest floor of the pool.
    pub(super) fn is_disturbed(&self, now: Tick, quickest: u64, settings: &Concentrate) -> bool {
        let is_recent = self.read.is_some_and(|at| now.since(at) <= CALM_SPAN);
        let limit = FAST_FACTOR * (quickest + settings.full_margin.0) as f64;
        is_recent && self.full & 1 == 1 && self.lowest().is_some_and(|floor| floor as f64 <= limit)
    }

    /// Returns the floor of the lowest quantile, nanoseconds.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.floor(LEVELS.len() - 1)
    }

    /// Returns the level of the last judgement and the median of its last samples, nanoseconds.
    pub(super) fn reading(&self) -> (usize, u64) {
        (self.level, self.median(self.level))
    }

    /// Returns the median of the last samples of a level, nanoseconds.
    pub(super) fn median(&self, level: usize) -> u64 {
        let mut sorted = self.last[level];
        sorted.sort_unstable();
        sorted[VERDICT / 2]
    }

    /// Takes the latency of the last samples for the floor until then: load is not its cause.
    pub(super) fn tolerate(&mut self, until: Tick) {
        let highest = self.last.map(|samples| samples.into_iter().max().unwrap_or(0));
        self.tolerated = Some((highest, until));
        self.forget();
    }

    /// Clears the verdict after a reaction.
    pub(super) const fn forget(&mut self) {
        self.full = 0;
        self.good = 0;
        self.judged = 0;
    }

    /// Forgets the floor: latency has changed for a reason other than load.
    pub(super) fn rebase(&mut self) {
        self.floors = [[None; SPANS]; LEVELS.len()];
        self.samples = 0;
        self.tolerated = None;
        self.forget();
    }

    /// Returns the server's idle latency as far as measured, nanoseconds.
    #[cfg(test)]
    pub(super) fn floor_ns(&self) -> Option<u64> {
        self.floor(0)
    }

    fn clear_pending(&mut self) {
        self.pending.fill(0);
        self.pending_count = 0;
        self.pending_since = None;
    }

    fn quantile(&self, quantile: f64) -> u64 {
        let rank = f64::from(self.pending_count) * quantile;
        let mut below = 0.0;
        for (at, n) in self.pending.iter().enumerate() {
            below += f64::from(*n);
            if below > rank {
                return bucket_ns(at);
            }
        }
        bucket_ns(BUCKETS - 1)
    }

    fn learn(&mut self, now: Tick, sample: [u64; LEVELS.len()], settings: &Concentrate) {
        let began = *self.span_began.get_or_insert(now);
        if now.since(began).0 > settings.floor_span.0 / SPANS as u64 {
            self.span_began = Some(now);
            for floors in &mut self.floors {
                floors.rotate_right(1);
                floors[0] = None;
            }
        }
        let at = self.samples % VERDICT;
        self.samples += 1;
        for (level, value) in sample.into_iter().enumerate() {
            self.last[level][at] = value;
            if self.samples >= VERDICT {
                let median = self.median(level);
                let floor = &mut self.floors[level][0];
                *floor = Some(floor.map_or(median, |f| f.min(median)));
            }
        }
    }

    fn floor(&self, level: usize) -> Option<u64> {
        self.floors[level].iter().flatten().min().copied()
    }

    fn judge(&mut self, now: Tick, sample: [u64; LEVELS.len()], settings: &Concentrate) {
        let Some(lowest) = self.floor(LEVELS.len() - 1) else { return };
        let margin = settings.full_margin.0 as f64;
        let limit = bucket((FAST_FACTOR * (lowest as f64 + margin)) as u64);
        let fast: u32 = self.pending[..=limit].iter().sum();
        let fast = f64::from(fast) / f64::from(self.pending_count);
        let level = LEVELS.iter().position(|(_, part)| fast >= *part).unwrap_or(LEVELS.len() - 1);
        let Some(floor) = self.floor(level) else { return };
        let tolerated = self.tolerated.filter(|(_, until)| now < *until);
        let floor = floor.max(tolerated.map_or(0, |(levels, _)| levels[level]));
        self.level = level;
        let (value, floor) = (sample[level] as f64, floor as f64);
        let full = value > settings.full_factor * floor + margin;
        // A fifth of the margin: at small floors the histogram's own steps are this wide.
        let good = value < settings.good_factor * floor + margin / 5.0;
        let keep = (1 << VERDICT) - 1;
        self.full = (self.full << 1 | u32::from(full)) & keep;
        self.good = (self.good << 1 | u32::from(good)) & keep;
        self.judged += 1;
    }
}
