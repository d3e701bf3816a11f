//! What shards count with, and what is read of it.
//!
//! ```text
//!  a shard adds to a meter ─► read: added to a reading, over all shards
//!                                │ since: what happened between two readings of the same
//!                                └ grow: puts such a span onto a total
//! ```
//!
//! A meter has one writer, its shard, and is read by any thread: a load and a store, no locked
//! instruction. A reading is true for each meter by itself; a sum of several may be a packet off.

use std::fmt;
use std::ops::{Index, IndexMut};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::base::reasons::Reasons;
use crate::stats::histogram::{Histogram, Latency};

/// What a metric's value does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It is a level at the time of the reading.
    Gauge,
    /// It counts values by their size.
    Histogram,
}

impl Kind {
    /// Its name in documents.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A type of metric.
pub trait Meter {
    /// What its value does over time.
    const KIND: Kind;
    /// Label and sentence of each reason that it is counted by; none where it is one value.
    const REASONS: &'static [(&'static str, &'static str)] = &[];
    /// What those are called; nothing where it is one value.
    const LABEL: &'static str = "";
    /// What is read of it.
    type Reading;

    /// What happened after `earlier`; a level stays as it is.
    fn since(reading: &Self::Reading, earlier: &Self::Reading) -> Self::Reading;
    /// Puts what happened in a span at its end; a level becomes the span's.
    fn grow(total: &mut Self::Reading, span: &Self::Reading);
    /// Adds the reading of another of its kind.
    fn add(sum: &mut Self::Reading, part: &Self::Reading);
    /// The reading, to be shown.
    fn value(reading: &Self::Reading) -> Value<'_>;
}

/// A metric that a shard keeps.
pub trait ShardMeter: Meter {
    /// Adds what the shard has counted.
    fn read(&self, sum: &mut Self::Reading);
}

/// What was read of a metric, to be shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'r> {
    /// A count, or a level.
    Count(u64),
    /// A level that may be below 0.
    Signed(i64),
    /// A count or level for each reason, in the order of [`Meter::REASONS`].
    Reasons(&'r [u64]),
    /// Latencies.
    Latency(&'r Latency),
}

/// A count of what has happened.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning shard calls this: a load and a store, no locked instruction.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Begins again at 0. Only the owning shard calls this.
    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }

    /// The count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Meter for Counter {
    const KIND: Kind = Kind::Counter;
    type Reading = u64;

    fn since(reading: &u64, earlier: &u64) -> u64 {
        reading.saturating_sub(*earlier)
    }

    fn grow(total: &mut u64, span: &u64) {
        *total += span;
    }

    fn add(sum: &mut u64, part: &u64) {
        *sum += part;
    }

    fn value(reading: &u64) -> Value<'_> {
        Value::Count(*reading)
    }
}

impl ShardMeter for Counter {
    fn read(&self, sum: &mut u64) {
        *sum += self.get();
    }
}

/// A level: how many there are at this time.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU32);

impl Gauge {
    /// Sets the level. Only the owning shard calls this.
    pub fn set(&self, level: u32) {
        self.0.store(level, Relaxed);
    }

    /// The level.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

impl Meter for Gauge {
    const KIND: Kind = Kind::Gauge;
    type Reading = u64;

    fn since(reading: &u64, _: &u64) -> u64 {
        *reading
    }

    fn grow(total: &mut u64, span: &u64) {
        *total = *span;
    }

    fn add(sum: &mut u64, part: &u64) {
        *sum += part;
    }

    fn value(reading: &u64) -> Value<'_> {
        Value::Count(*reading)
    }
}

impl ShardMeter for Gauge {
    fn read(&self, sum: &mut u64) {
        *sum += u64::from(self.get());
    }
}

/// A level that is kept somewhere else; whoever takes a reading fills it in.
#[derive(Debug, Default)]
pub struct GaugeElsewhere;

impl Meter for GaugeElsewhere {
    const KIND: Kind = Kind::Gauge;
    type Reading = u64;

    fn since(reading: &u64, earlier: &u64) -> u64 {
        Gauge::since(reading, earlier)
    }

    fn grow(total: &mut u64, span: &u64) {
        Gauge::grow(total, span);
    }

    fn add(sum: &mut u64, part: &u64) {
        Gauge::add(sum, part);
    }

    fn value(reading: &u64) -> Value<'_> {
        Gauge::value(reading)
    }
}

impl ShardMeter for GaugeElsewhere {
    fn read(&self, _: &mut u64) {}
}

/// A level that may be below 0; no shard keeps one.
#[derive(Debug)]
pub struct SignedGauge;

impl Meter for SignedGauge {
    const KIND: Kind = Kind::Gauge;
    type Reading = i64;

    fn since(reading: &i64, _: &i64) -> i64 {
        *reading
    }

    fn grow(total: &mut i64, span: &i64) {
        *total = *span;
    }

    fn add(sum: &mut i64, part: &i64) {
        *sum += part;
    }

    fn value(reading: &i64) -> Value<'_> {
        Value::Signed(*reading)
    }
}

/// A counter for each reason.
pub struct CounterBy<R: Reasons>(R::Array<Counter>);

impl<R: Reasons> Default for CounterBy<R> {
    fn default() -> Self {
        Self(R::array(|_| Counter::default()))
    }
}

impl<R: Reasons> fmt::Debug for CounterBy<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.as_ref()).finish()
    }
}

impl<R: Reasons> Index<R> for CounterBy<R> {
    type Output = Counter;

    fn index(&self, reason: R) -> &Counter {
        &self.0.as_ref()[reason.position()]
    }
}

impl<R: Reasons> Meter for CounterBy<R> {
    const KIND: Kind = Kind::Counter;
    const REASONS: &'static [(&'static str, &'static str)] = R::LABELS;
    const LABEL: &'static str = R::WORD;
    type Reading = Counts<R>;

    fn since(reading: &Counts<R>, earlier: &Counts<R>) -> Counts<R> {
        Counts::of(|reason| reading[reason].saturating_sub(earlier[reason]))
    }

    fn grow(total: &mut Counts<R>, span: &Counts<R>) {
        Self::add(total, span);
    }

    fn add(sum: &mut Counts<R>, part: &Counts<R>) {
        for (sum, part) in sum.0.as_mut().iter_mut().zip(part.0.as_ref()) {
            *sum += part;
        }
    }

    fn value(reading: &Counts<R>) -> Value<'_> {
        Value::Reasons(reading.0.as_ref())
    }
}

impl<R: Reasons> ShardMeter for CounterBy<R> {
    fn read(&self, sum: &mut Counts<R>) {
        for (sum, counter) in sum.0.as_mut().iter_mut().zip(self.0.as_ref()) {
            *sum += counter.get();
        }
    }
}

/// A level for each use of something; no shard keeps one.
#[derive(Debug)]
pub struct GaugeBy<R>(std::marker::PhantomData<R>);

impl<R: Reasons> Meter for GaugeBy<R> {
    const KIND: Kind = Kind::Gauge;
    const REASONS: &'static [(&'static str, &'static str)] = R::LABELS;
    const LABEL: &'static str = "use";
    type Reading = Counts<R>;

    fn since(reading: &Counts<R>, _: &Counts<R>) -> Counts<R> {
        reading.clone()
    }

    fn grow(total: &mut Counts<R>, span: &Counts<R>) {
        total.clone_from(span);
    }

    fn add(sum: &mut Counts<R>, part: &Counts<R>) {
        CounterBy::<R>::add(sum, part);
    }

    fn value(reading: &Counts<R>) -> Value<'_> {
        CounterBy::<R>::value(reading)
    }
}

/// What was read of a count or level by reasons.
pub struct Counts<R: Reasons>(R::Array<u64>);

impl<R: Reasons> Counts<R> {
    /// With these counts.
    #[must_use]
    pub fn of(count: impl FnMut(R) -> u64) -> Self {
        Self(R::array(count))
    }
}

impl<R: Reasons> Default for Counts<R> {
    fn default() -> Self {
        Self::of(|_| 0)
    }
}

impl<R: Reasons> Clone for Counts<R> {
    fn clone(&self) -> Self {
        Self::of(|reason| self[reason])
    }
}

impl<R: Reasons> PartialEq for Counts<R> {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ref() == other.0.as_ref()
    }
}

impl<R: Reasons> fmt::Debug for Counts<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(R::LABELS.iter().map(|(label, _)| label).zip(self.0.as_ref())).finish()
    }
}

impl<R: Reasons> Index<R> for Counts<R> {
    type Output = u64;

    fn index(&self, reason: R) -> &u64 {
        &self.0.as_ref()[reason.position()]
    }
}

impl<R: Reasons> IndexMut<R> for Counts<R> {
    fn index_mut(&mut self, reason: R) -> &mut u64 {
        &mut self.0.as_mut()[reason.position()]
    }
}

impl Meter for Histogram {
    const KIND: Kind = Kind::Histogram;
    type Reading = Latency;

    fn since(reading: &Latency, earlier: &Latency) -> Latency {
        reading.since(earlier)
    }

    fn grow(total: &mut Latency, span: &Latency) {
        total.add(span);
    }

    fn add(sum: &mut Latency, part: &Latency) {
        sum.add(part);
    }

    fn value(reading: &Latency) -> Value<'_> {
        Value::Latency(reading)
    }
}

impl ShardMeter for Histogram {
    fn read(&self, sum: &mut Latency) {
        sum.read(self);
    }
}
