//! Time in the data plane: passed in by an engine, never read from a clock.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in monotonic time, nanoseconds since an origin of the engine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tick(pub u64);

/// A span between two [`Tick`]s, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TickDelta(pub u64);

impl Tick {
    /// Returns the span since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> TickDelta {
        TickDelta(self.0.saturating_sub(earlier.0))
    }
}

impl TickDelta {
    /// Returns a span of `ms` milliseconds.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// Returns a span of `us` microseconds.
    #[must_use]
    pub const fn from_us(us: u64) -> Self {
        Self(us.saturating_mul(1_000))
    }

    /// Returns whole milliseconds, rounded up.
    #[must_use]
    pub const fn as_ms_ceil(self) -> u64 {
        self.0.div_ceil(1_000_000)
    }
}

impl From<Duration> for TickDelta {
    fn from(d: Duration) -> Self {
        Self(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<TickDelta> for Duration {
    fn from(d: TickDelta) -> Self {
        Self::from_nanos(d.0)
    }
}

impl Add<TickDelta> for Tick {
    type Output = Self;
    fn add(self, d: TickDelta) -> Self {
        Self(self.0.saturating_add(d.0))
    }
}

impl Sub<TickDelta> for Tick {
    type Output = Self;
    fn sub(self, d: TickDelta) -> Self {
        Self(self.0.saturating_sub(d.0))
    }
}
