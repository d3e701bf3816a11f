//! The operating system's clock, read once per batch.

#![expect(clippy::disallowed_methods, reason = "the clock that all others are handed")]

use nix::time::{ClockId, clock_gettime};

use crate::base::time::Tick;

/// Returns monotonic time. All threads share its origin.
#[must_use]
pub fn now() -> Tick {
    // The monotonic clock cannot fail on Linux; 0 would only delay time-outs.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(Tick(0), |t| Tick(t.tv_sec().unsigned_abs() * 1_000_000_000 + t.tv_nsec().unsigned_abs()))
}
