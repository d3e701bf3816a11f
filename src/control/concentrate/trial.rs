//! Whether load is the cause of a server's latency.
//!
//! The controller asks before it caps a server, and takes the first cap away when its experiment has
//! failed.

use crate::base::time::{Tick, TickDelta};
use crate::control::concentrate::Member;
use crate::model::policy::Concentrate;

/// A server keeps up when it answers this part of its queries in time.
const KEEPS_UP: f64 = 0.95;
/// Latency of a server that keeps up is believed after this time: a standby with 50 queries per
/// second has shown by then what it sees of the same.
const BELIEVED: TickDelta = TickDelta::from_ms(800);
/// An experiment is in force when the rate has fallen to this part.
const MOVED: f64 = 0.9;
/// Others take the share within this time, or the experiment says nothing.
const MOVES: TickDelta = TickDelta::from_ms(5_000);
/// It succeeds when the latency falls to this part ...
const IMPROVED: f64 = 0.75;
/// ... within this time.
const PATIENCE: TickDelta = TickDelta::from_ms(3_000);

/// What is suspected of a server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Suspicion {
    /// Since when it looks full.
    pub(super) full_since: Option<Tick>,
    trial: Option<Trial>,
}

/// An experiment.
#[derive(Clone, Copy, Debug)]
struct Trial {
    since: Tick,
    /// Its rate, the quantile and the latency before.
    rate: f64,
    level: usize,
    latency: u64,
    /// When its rate had fallen.
    moved: Option<Tick>,
}

impl Member {
    /// Returns whether a server that looks full is so for long enough, and not with the standby.
    pub(super) fn is_proven_full(&mut self, now: Tick, standby_is_disturbed: bool) -> bool {
        if self.served < KEEPS_UP * self.rate {
            return true;
        }
        if standby_is_disturbed {
            self.suspicion.full_since = None;
            self.gauge.forget();
            return false;
        }
        let since = *self.suspicion.full_since.get_or_insert(now);
        self.gauge.is_queueing() || now.since(since) >= BELIEVED
    }

    /// Begins the experiment of a first cap, unless the server falls behind.
    pub(super) fn begin_trial(&mut self, now: Tick) {
        self.suspicion.full_since = None;
        if self.served < KEEPS_UP * self.rate {
            return;
        }
        let (level, latency) = self.gauge.reading();
        self.suspicion.trial = Some(Trial { since: now, rate: self.rate, level, latency, moved: None });
    }

    /// Continues an experiment; returns whether it is not over.
    pub(super) fn is_on_trial(&mut self, now: Tick, settings: &Concentrate) -> bool {
        let Some(mut trial) = self.suspicion.trial else { return false };
        if self.served < KEEPS_UP * self.rate {
            self.suspicion.trial = None;
            return false;
        }
        let Some(moved) = trial.moved else {
            if self.rate <= MOVED * trial.rate {
                trial.moved = Some(now);
                self.gauge.forget();
            }
            let goes_on = now.since(trial.since) < MOVES || trial.moved.is_some();
            self.suspicion.trial = goes_on.then_some(trial);
            return goes_on;
        };
        let has_improved = (self.gauge.median(trial.level) as f64) < IMPROVED * trial.latency as f64;
        if self.gauge.has_verdict() && has_improved {
            self.suspicion.trial = None;
            return false;
        }
        if now.since(moved) < PATIENCE {
            return true;
        }
        self.suspicion.trial = None;
        if self.gauge.has_verdict() {
            self.gauge.tolerate(now + settings.floor_span);
            self.cap = None;
            self.full_rate = None;
            // Its cache is as warm as before.
            self.warm = 1.0;
        }
        false
    }
}
