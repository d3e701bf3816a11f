//! The health check of a backend: a state machine that is passed time and outcomes.
//!
//! It decides when a probe is due and what its outcome means. It reads no clock, sends nothing and
//! logs nothing: [`probe`](crate::control::probe) sends, the control loop logs.
//!
//! ```text
//!  auto   Unknown ──first outcome──► Up ◄──rise successes── Down
//!                                    └────fall failures───►
//!  lazy   Unknown ──first outcome──► Healthy ──live sample bad──► Suspect ──fall failures──► Failed
//!                                       ▲◄───────rise successes──────┘                          │
//!                                       └───────────────────rise successes──────────────────────┘
//! ```
//! `up`, `down` and `drain` are forced by the operator: no probe is due. Suspect is still up. On
//! top of these states are *ejection* (worse than its peers, see [`eject`](crate::control::eject))
//! and *warmth* (slow start after a return).

use std::collections::{BTreeMap, VecDeque};

use crate::base::addr::BackendSlot;
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::model::{Health, HealthMode, Lazy};
use crate::stats::check_failure::Failure;
use crate::stats::live::{PPM, State};

/// Part of its usual share that a returning backend starts with: enough to fill its cache, too
/// little to overload it (a cold server saturates far below a warm one).
pub const WARMTH_FIRST_PPM: u32 = 50_000;

/// When a probe that could not be made is repeated, unless the interval is shorter.
const RETRY: TickDelta = TickDelta::from_ms(1_000);

/// What live traffic said of a backend since it was last asked: differences of counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Responses.
    pub responses: u64,
    /// Queries without an answer.
    pub timeouts: u64,
    /// Responses with SERVFAIL; part of `responses`.
    pub servfails: u64,
}

impl Live {
    /// Returns the number of finished queries.
    #[must_use]
    pub const fn ended(self) -> u64 {
        self.responses + self.timeouts
    }
}

/// A probe to make: the outcome comes back with the same ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The backend.
    pub slot: BackendSlot,
    /// Distinguishes the probe from one that a reload has overtaken.
    pub ticket: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Never probed: down, and the first outcome alone decides.
    Unknown,
    Up,
    /// Lazy only: live answers fail and probes decide. Still up.
    Suspect,
    Down,
}

/// One backend's health.
#[derive(Debug)]
pub struct Check {
    settings: Health,
    stage: Stage,
    successes: u32,
    failures: u32,
    /// When the next probe is due; `None` while live traffic is sufficient.
    due: Option<Tick>,
    running: Option<u64>,
    started: Tick,
    /// Offset of the second probe, so that many backends are not probed at once.
    phase: TickDelta,
    sample: Sample,
    ejected_until: Option<Tick>,
    warming_since: Option<Tick>,
    warm_first: bool,
    /// The last probe could not be made.
    unmade: bool,
    failed: [u64; Failure::ALL.len()],
}

impl Check {
    /// Creates the check of an unknown backend; its first probe is due at once. With `warm_first`
    /// even its first appearance has a slow start, as for one added under load.
    #[must_use]
    pub fn new(settings: Health, now: Tick, phase: TickDelta, warm_first: bool) -> Self {
        let probed = probed(settings.mode);
        Self {
            settings,
            stage: Stage::Unknown,
            successes: 0,
            failures: 0,
            due: probed.then_some(now),
            running: None,
            started: now,
            phase,
            sample: Sample::default(),
            ejected_until: None,
            warming_since: None,
            warm_first,
            unmade: false,
            failed: [0; Failure::ALL.len()],
        }
    }

    /// Returns its state, as the shards see it.
    #[must_use]
    pub fn state(&self) -> State {
        match self.settings.mode {
            HealthMode::Up => State::Up,
            HealthMode::Down => State::Down,
            HealthMode::Drain => State::Draining,
            HealthMode::Auto | HealthMode::Lazy => match self.stage {
                Stage::Unknown | Stage::Down => State::Down,
                Stage::Up | Stage::Suspect if self.ejected_until.is_some() => State::Ejected,
                Stage::Up | Stage::Suspect => State::Up,
            },
        }
    }

    /// Returns whether its first outcome is outstanding.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        probed(self.settings.mode) && self.stage == Stage::Unknown
    }

    /// Returns whether its first outcome is worth waiting for: not while no probe can be made.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.is_unknown() && !self.unmade
    }

    /// Returns whether it uses live results.
    #[must_use]
    pub fn is_lazy(&self) -> bool {
        self.settings.mode == HealthMode::Lazy
    }

    /// Returns failed probes by reason, in the order of [`Failure::ALL`].
    #[must_use]
    pub const fn failed(&self) -> &[u64; Failure::ALL.len()] {
        &self.failed
    }

    /// Returns when its next probe is due, if none is running.
    #[must_use]
    pub fn next(&self) -> Option<Tick> {
        self.due.filter(|_| self.running.is_none())
    }

    /// Returns the part of its usual share that it takes at `now`, parts per million.
    #[must_use]
    pub fn warmth_ppm(&self, now: Tick) -> u32 {
        let (Some(since), span) = (self.warming_since, self.settings.slow_start.0) else { return PPM };
        let elapsed = now.since(since).0;
        if elapsed >= span {
            return PPM;
        }
        let rest = u64::from(PPM - WARMTH_FIRST_PPM);
        let grown = (u128::from(rest) * u128::from(elapsed) / u128::from(span)) as u32;
        WARMTH_FIRST_PPM + grown
    }

    /// Ejects it until `until`. A forced state has precedence.
    pub fn eject(&mut self, until: Tick) {
        if probed(self.settings.mode) {
            self.ejected_until = Some(until);
        }
    }

    /// Ends ejection and slow start when their time is over.
    pub fn pass(&mut self, now: Tick) {
        if self.ejected_until.is_some_and(|t| t <= now) {
            self.ejected_until = None;
            self.warming_since = Some(now);
        }
        if self.warming_since.is_some_and(|t| now.since(t) >= self.settings.slow_start) {
            self.warming_since = None;
        }
    }

    /// Notes that the probe with this ticket has begun.
    pub fn begin(&mut self, ticket: u64, now: Tick) {
        debug_assert!(self.running.is_none(), "one probe at a time");
        let first = self.stage == Stage::Unknown;
        self.running = Some(ticket);
        self.started = now;
        self.due = Some(now + if first { self.phase } else { self.interval() });
    }

    /// Takes the outcome of a probe; outcomes of other tickets are ignored.
    pub fn settle(&mut self, ticket: u64, outcome: Result<(), Failure>, now: Tick) {
        if self.running != Some(ticket) {
            return;
        }
        self.running = None;
        self.unmade = outcome == Err(Failure::Local);
        let first = self.stage == Stage::Unknown;
        match outcome {
            // No result: neither a success nor a failure, and the running count stays.
            Err(Failure::Local) => self.failed[Failure::Local as usize] += 1,
            Ok(()) => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                if first || self.successes >= self.settings.rise.max(1) {
                    self.rise(now);
                }
            }
            Err(reason) => {
                self.failed[reason as usize] += 1;
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                if first || self.failures >= self.settings.fall.max(1) {
                    self.stage = Stage::Down;
                    self.ejected_until = None;
                    self.warming_since = None;
                }
            }
        }
        if self.is_lazy() {
            self.due = (self.stage != Stage::Up).then(|| self.started + self.interval());
        }
        if self.unmade {
            self.due = self.due.map(|t| t.min(now + RETRY));
        }
        // A probe may last longer than the interval: the next one follows at once, never in
        // parallel.
        self.due = self.due.map(|t| t.max(now));
    }

    /// Takes live results: with lazy checks, enough bad ones start the probes.
    pub fn live(&mut self, live: Live, now: Tick) {
        if !self.is_lazy() || self.stage != Stage::Up {
            return;
        }
        let lazy = self.settings.lazy;
        self.sample.add(live, &lazy);
        if self.sample.is_bad(&lazy) {
            self.sample = Sample::default();
            self.successes = 0;
            self.failures = 0;
            self.stage = Stage::Suspect;
            self.due = Some(now);
        }
    }

    /// Applies new settings and keeps what is known.
    pub fn revise(&mut self, settings: Health, now: Tick) {
        if settings == self.settings {
            return;
        }
        let was = self.settings.mode;
        self.settings = settings;
        if !probed(self.settings.mode) {
            // A pending outcome would be about the old settings.
            self.due = None;
            self.running = None;
            self.ejected_until = None;
        } else {
            if was == HealthMode::Up {
                self.stage = Stage::Up;
            } else if !probed(was) {
                self.stage = Stage::Unknown;
            }
            let idle = self.is_lazy() && self.stage == Stage::Up;
            self.due = (!idle).then_some(now);
        }
        self.successes = 0;
        self.failures = 0;
        self.sample = Sample::default();
    }

    fn rise(&mut self, now: Tick) {
        let returns = match self.stage {
            Stage::Down => true,
            Stage::Unknown => self.warm_first,
            Stage::Up | Stage::Suspect => false,
        };
        if returns {
            self.warming_since = Some(now);
        }
        self.stage = Stage::Up;
    }

    /// Returns the time from the start of one probe to the start of the next.
    fn interval(&self) -> TickDelta {
        if !self.is_lazy() || self.stage != Stage::Down {
            return self.settings.interval;
        }
        let Lazy { failed_interval, backoff_max, .. } = self.settings.lazy;
        let Some(most) = backoff_max else { return failed_interval };
        let beyond = self.failures.saturating_sub(self.settings.fall.max(1)).min(62);
        TickDelta(failed_interval.0.saturating_mul(1 << beyond).min(most.0.max(failed_interval.0)))
    }
}

const fn probed(mode: HealthMode) -> bool {
    matches!(mode, HealthMode::Auto | HealthMode::Lazy)
}

/// The last live results, in the portions in which they were read.
#[derive(Debug, Default)]
struct Sample {
    parts: VecDeque<(u64, u64)>,
    bad: u64,
    all: u64,
}

impl Sample {
    fn add(&mut self, live: Live, lazy: &Lazy) {
        if live.ended() == 0 {
            return;
        }
        let bad = live.timeouts + if lazy.servfail_counts { live.servfails } else { 0 };
        self.parts.push_back((bad, live.ended()));
        self.bad += bad;
        self.all += live.ended();
        // Keep as few portions as contain a whole sample.
        while let Some(&(bad, all)) = self.parts.front() {
            if self.all - all < u64::from(lazy.sample) {
                break;
            }
            self.parts.pop_front();
            self.bad -= bad;
            self.all -= all;
        }
    }

    fn is_bad(&self, lazy: &Lazy) -> bool {
        self.all >= u64::from(lazy.sample_min).max(1)
            && self.bad > 0
            && self.bad * 100 >= self.all * u64::from(lazy.threshold_percent)
    }
}

/// The checks of a set of backends.
#[derive(Debug)]
pub struct Checks {
    by_slot: BTreeMap<BackendSlot, Check>,
    rng: ShardRng,
}

impl Checks {
    /// Creates an empty set; `rng` gives each check its phase.
    #[must_use]
    pub const fn new(rng: ShardRng) -> Self {
        Self { by_slot: BTreeMap::new(), rng }
    }

    /// Starts, or restarts, the check of a backend.
    pub fn add(&mut self, slot: BackendSlot, settings: &Health, now: Tick, warm_first: bool) {
        let interval_us = u32::try_from(settings.interval.0 / 1_000).unwrap_or(u32::MAX);
        let phase = TickDelta::from_us(u64::from(self.rng.below(interval_us)));
        self.by_slot.insert(slot, Check::new(settings.clone(), now, phase, warm_first));
    }

    /// Inserts a check under this slot, replacing an earlier one.
    pub fn insert(&mut self, slot: BackendSlot, check: Check) {
        self.by_slot.insert(slot, check);
    }

    /// Removes a backend's check.
    pub fn remove(&mut self, slot: BackendSlot) -> Option<Check> {
        self.by_slot.remove(&slot)
    }

    /// Returns one backend's check.
    #[must_use]
    pub fn at(&self, slot: BackendSlot) -> Option<&Check> {
        self.by_slot.get(&slot)
    }

    /// The same, mutable.
    pub fn at_mut(&mut self, slot: BackendSlot) -> Option<&mut Check> {
        self.by_slot.get_mut(&slot)
    }

    /// Returns all checks by slot.
    pub fn iter(&self) -> impl Iterator<Item = (BackendSlot, &Check)> {
        self.by_slot.iter().map(|(s, c)| (*s, c))
    }

    /// The same, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (BackendSlot, &mut Check)> {
        self.by_slot.iter_mut().map(|(s, c)| (*s, c))
    }

    /// Removes and returns all checks.
    pub fn drain(&mut self) -> impl Iterator<Item = (BackendSlot, Check)> {
        std::mem::take(&mut self.by_slot).into_iter()
    }

    /// Returns when the next probe is due.
    #[must_use]
    pub fn next(&self) -> Option<Tick> {
        self.by_slot.values().filter_map(Check::next).min()
    }

    /// Begins all probes that are due. `tickets` counts them over all sets, so that a check can
    /// move from one set to another.
    pub fn begin(&mut self, now: Tick, tickets: &mut u64) -> Vec<Due> {
        let mut due = Vec::new();
        for (slot, check) in &mut self.by_slot {
            if check.next().is_some_and(|t| t <= now) {
                *tickets += 1;
                check.begin(*tickets, now);
                due.push(Due { slot: *slot, ticket: *tickets });
            }
        }
        due
    }

    /// Returns whether any first outcome is outstanding.
    #[must_use]
    pub fn any_unknown(&self) -> bool {
        self.by_slot.values().any(Check::is_awaited)
    }
}

#[cfg(test)]
mod tests;
