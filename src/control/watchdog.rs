//! The service manager's watchdog: a sign of life while every shard makes progress.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::base::time::{Tick, TickDelta};
use crate::stats::live::LiveState;

/// Decides whether to send the sign of life.
#[derive(Debug)]
pub(super) struct Watchdog {
    period: TickDelta,
    pub(super) at: Tick,
    heartbeats: BTreeMap<usize, u64>,
    /// The result of the last check.
    alive: bool,
}

impl Watchdog {
    pub(super) fn new(period: Duration, now: Tick) -> Self {
        let period = TickDelta::from(period);
        Self { period, at: now + period, heartbeats: BTreeMap::new(), alive: true }
    }

    /// Returns whether a sign of life is due and every shard has made progress since the last one.
    pub(super) fn is_alive(&mut self, live_state: &LiveState, now: Tick) -> bool {
        if now < self.at {
            return false;
        }
        self.at = now + self.period;
        let mut alive = true;
        for (shard, stats) in live_state.shards().iter().enumerate() {
            let beat = stats.heartbeat.load(Relaxed);
            if self.heartbeats.insert(shard, beat) == Some(beat) {
                tracing::error!(shard, "a shard hangs: the service manager gets no sign of life");
                alive = false;
            }
        }
        self.alive = alive;
        alive
    }

    /// Returns the result of the last check, or of a new one if it is due. Between two checks a
    /// shard without traffic may sleep, which proves nothing.
    pub(super) fn was_alive(&mut self, live_state: &LiveState, now: Tick) -> bool {
        self.is_alive(live_state, now) || self.alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_hanging_shard_stops_the_sign_of_life() {
        let live_state = LiveState::new(2, 1);
        let mut watchdog = Watchdog::new(Duration::from_secs(1), Tick(0));
        let second = |n: u64| Tick(n * 1_000_000_000);
        assert!(!watchdog.is_alive(&live_state, Tick(1)), "not yet due");
        assert!(watchdog.is_alive(&live_state, second(1)));
        live_state.shards()[0].heartbeat.store(1, Relaxed);
        live_state.shards()[1].heartbeat.store(1, Relaxed);
        assert!(watchdog.is_alive(&live_state, second(2)));
        live_state.shards()[0].heartbeat.store(2, Relaxed);
        assert!(!watchdog.is_alive(&live_state, second(3)), "shard 1 hangs");
    }

    #[test]
    fn between_checks_the_last_result_counts() {
        let live_state = LiveState::new(1, 1);
        let mut watchdog = Watchdog::new(Duration::from_secs(1), Tick(0));
        let ms = |n: u64| Tick(n * 1_000_000);
        assert!(watchdog.was_alive(&live_state, ms(1)), "nothing is known to hang");
        assert!(watchdog.was_alive(&live_state, ms(1_000)), "the first check has nothing to compare with");
        assert!(watchdog.was_alive(&live_state, ms(1_500)), "too early for another");
        assert!(!watchdog.was_alive(&live_state, ms(2_000)), "a check is due: it hangs");
        assert!(!watchdog.was_alive(&live_state, ms(2_500)), "and is remembered");
        live_state.shards()[0].heartbeat.store(1, Relaxed);
        assert!(watchdog.was_alive(&live_state, ms(3_000)));
    }
}
