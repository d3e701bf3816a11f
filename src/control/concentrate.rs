//! `concentrate`: as many queries on as few servers as can bear them.
//!
//! Every window the controller reads each server's queries, answers, time-outs and latency counts,
//! and says which part of the pool's queries each is to have. It fills the servers by order: the
//! first up to its *cap*, the rest to the next. A server has no cap until it was found full.
//!
//! ```text
//!           full: cap = 0.8 × what it answers           good and at its cap: +5 % per 10 s
//!  ┌──────┐ ──────────────────────────► ┌────────┐ ◄─────┐
//!  │no cap│                             │ capped │ ──────┘
//!  └──────┘ ◄── not usable, returned ── └────────┘
//!  share ≤ cap; share ≤ twice what it was a `join_double` ago (its cache must warm up)
//! ```
//!
//! Full is what the gauge says of the fast answers. Time-outs that its peers do not have count too,
//! unless the fast answers come as ever: then an authority is dead, or packets are lost, which is
//! for `eject` to judge. Outstanding queries and mean latency are never looked at: with a slow
//! authority both rise while the server is idle.
//!
//! After a death, and at the start, the load is spread evenly over all usable servers: nobody's
//! capacity is known and no cache is warm. Then it contracts. When the caps together do not hold
//! the load, everything is full, and it is spread evenly too.
//!
//! The [`Concentrator`] reads no clock and no counter; [`ConcentrateDriver`] does it for all pools.

mod driver;
mod gauge;

pub use crate::control::concentrate::driver::ConcentrateDriver;

use crate::base::addr::BackendSlot;
use crate::base::time::{Tick, TickDelta};
use crate::control::concentrate::gauge::Gauge;
use crate::model::policy::Concentrate;
use crate::stats::live::PPM;

/// Rates are smoothed over this long: a second has the five windows of a verdict.
const RATE_SPAN: TickDelta = TickDelta::from_ms(1_000);
/// The pool's rate falls over this long, so that a pause does not close servers.
const RATE_FALL_SPAN: TickDelta = TickDelta::from_ms(5_000);
/// Time-outs are judged over so many windows, and from so many time-outs.
const TIMEOUT_WINDOWS: usize = 5;
const TIMEOUTS_MIN: f64 = 5.0;
/// And only if they are this many times the peers': those of a dead authority come everywhere.
const TIMEOUT_EXCESS: f64 = 2.0;
/// Peers' queries from which their time-outs are a measure.
const PEER_QUERIES_MIN: f64 = 20.0;
/// An open server that may not close yet keeps this share: enough to stay warm and measured.
const HOLD_SHARE: f64 = 0.04;
/// A share that moved by less is not worth the misses of the names at its border.
const SHARE_STEP: f64 = 0.02;
/// A cap below this part of the pool's rate is a failure, which is the health check's.
const CAP_MIN: f64 = 0.02;
/// Latency that stays high though the rate fell to this part is not load: the floor moved.
const REBASE_RATE: f64 = 0.4;
/// A server had a share to lose from here on: its death spreads the load.
const DEATH_SHARE: f64 = 0.10;

/// What one window said of one server.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// The server.
    pub slot: BackendSlot,
    /// Lower is filled first.
    pub order: i32,
    /// Whether it may have queries.
    pub usable: bool,
    /// Queries sent to it in the window.
    pub queries: u64,
    /// Its answers in the window.
    pub responses: u64,
    /// Queries that it was given up on in the window.
    pub timeouts: u64,
    /// Its answers by latency, indexed by [`bucket`](crate::stats::live::bucket).
    pub latencies: &'a [u32],
}

/// A server's part of its pool's queries, parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The server.
    pub slot: BackendSlot,
    /// By name.
    pub share_ppm: u32,
    /// At random, beforehand.
    pub trickle_ppm: u32,
}

/// The controller of one pool.
#[derive(Debug)]
pub struct Concentrator {
    settings: Concentrate,
    members: Vec<Member>,
    shares: Vec<Share>,
    ticked: Option<Tick>,
    spread_until: Option<Tick>,
    /// Queries per second to the pool.
    rate: f64,
    opened: u64,
    /// A member left the configuration with a share that others must take.
    lost: bool,
}

#[derive(Debug)]
struct Member {
    slot: BackendSlot,
    order: i32,
    usable: bool,
    gauge: Gauge,
    /// Queries and answers per second.
    rate: f64,
    served: f64,
    answered: [u64; TIMEOUT_WINDOWS],
    timeouts: [u64; TIMEOUT_WINDOWS],
    /// What it can bear, queries per second, once it was full.
    cap: Option<f64>,
    raised: Tick,
    /// The most that it answered while it was good, queries per second.
    proven: f64,
    /// Its rate when it was first found full, until it is good again.
    full_rate: Option<f64>,
    share: f64,
    /// Share that its cache is warm for.
    warm: f64,
    /// Its cache did not bear more: no growth until then.
    held_until: Tick,
    /// When it last began to have a share; among equals the first opened is the first filled.
    opened: Option<u64>,
    /// Since when the servers before it could do without it.
    spare_since: Option<Tick>,
}

impl Concentrator {
    /// A controller that knows nothing yet.
    #[must_use]
    pub const fn new(settings: Concentrate) -> Self {
        Self {
            settings,
            members: Vec::new(),
            shares: Vec::new(),
            ticked: None,
            spread_until: None,
            rate: 0.0,
            opened: 0,
            lost: false,
        }
    }

    /// The settings.
    #[must_use]
    pub const fn settings(&self) -> &Concentrate {
        &self.settings
    }

    /// Changes the settings; what was learnt stays.
    pub fn set_settings(&mut self, settings: Concentrate) {
        self.settings = settings;
    }

    /// Forgets a server: another one has its slot.
    pub fn forget(&mut self, slot: BackendSlot) {
        self.drop_members(|m| m.slot == slot);
    }

    /// Takes in a window's readings, one per member, and gives each member's share.
    pub fn tick(&mut self, now: Tick, readings: &[Reading<'_>]) -> &[Share] {
        let span = self.ticked.map_or(self.settings.window, |before| now.since(before));
        let first = self.ticked.replace(now).is_none();
        if span.0 == 0 {
            return &self.shares;
        }
        self.drop_members(|m| !readings.iter().any(|r| r.slot == m.slot));
        let mut lost = std::mem::take(&mut self.lost);
        for reading in readings {
            lost |= self.observe(now, span, reading);
        }
        if lost || first {
            self.spread_until = Some(now + self.settings.spread_after_death);
        }
        let rate: f64 = self.members.iter().map(|m| m.rate).sum();
        let fall = smoothing(span, RATE_FALL_SPAN);
        self.rate = if rate > self.rate { rate } else { self.rate + (rate - self.rate) * fall };

        let spreading = self.spread_until.is_some_and(|until| now < until);
        let everything_full = self.everything_full();
        if !spreading && !everything_full {
            self.judge(now);
        }
        self.credit(now);
        let targets = if spreading || everything_full { self.even() } else { self.fill(now) };
        self.take(now, span, &targets);
        self.publish();
        &self.shares
    }

    fn drop_members(&mut self, gone: impl Fn(&Member) -> bool) {
        self.lost |= self.members.iter().any(|m| gone(m) && m.share >= DEATH_SHARE);
        self.members.retain(|m| !gone(m));
    }

    /// Updates the reading's member; true if it was lost with a share that others must take.
    fn observe(&mut self, now: Tick, span: TickDelta, reading: &Reading<'_>) -> bool {
        let at = self.members.iter().position(|m| m.slot == reading.slot);
        let at = at.unwrap_or_else(|| {
            self.members.push(Member::new(reading, now));
            self.members.len() - 1
        });
        let member = &mut self.members[at];
        member.order = reading.order;
        let lost = member.usable && !reading.usable && member.share >= DEATH_SHARE;
        if member.usable && !reading.usable {
            // Its cache will be cold at its return, and the caps it got while dying mean nothing.
            member.leave();
        }
        member.usable = reading.usable;
        let a = smoothing(span, RATE_SPAN);
        let seconds = span.0 as f64 / 1e9;
        member.rate += (reading.queries as f64 / seconds - member.rate) * a;
        member.served += (reading.responses as f64 / seconds - member.served) * a;
        member.answered.rotate_right(1);
        member.answered[0] = reading.responses;
        member.timeouts.rotate_right(1);
        member.timeouts[0] = reading.timeouts;
        if reading.usable {
            member.gauge.observe(now, reading.latencies, &self.settings);
        }
        lost
    }

    /// Caps the servers that are full.
    fn judge(&mut self, now: Tick) {
        let all = self.members.iter().map(Member::failed).fold((0.0, 0.0), add);
        for member in &mut self.members {
            // A trickle cannot fill a server: only one that has a share is judged.
            if !member.usable || member.share == 0.0 {
                continue;
            }
            let timing_out = !member.gauge.is_calm(now) && member.times_out(all, &self.settings);
            if !member.gauge.is_full() && !timing_out {
                continue;
            }
            let rate = member.served.min(member.rate);
            let full_rate = *member.full_rate.get_or_insert(rate);
            if !timing_out && rate < REBASE_RATE * full_rate {
                member.gauge.rebase();
                member.full_rate = None;
                continue;
            }
            // Its cache's limit is what holds it down, and not more than that was imposed on it.
            let limit = member.warm.max(self.settings.join_share);
            let warming = member.share < 0.9 && (0.9..=1.1).contains(&(member.share / limit));
            if warming && member.cap.is_none_or(|cap| rate < 0.8 * cap) && !timing_out {
                // Cold rather than too small: it grows more slowly.
                member.warm = member.share * self.settings.cap_factor;
                member.held_until = now + TickDelta(self.settings.join_double.0 / 2);
            } else {
                member.cap = Some((self.settings.cap_factor * rate).max(CAP_MIN * self.rate));
                member.raised = now;
            }
            member.gauge.forget();
            member.answered = [0; TIMEOUT_WINDOWS];
            member.timeouts = [0; TIMEOUT_WINDOWS];
        }
    }

    /// Raises the caps of the servers that bear theirs well.
    fn credit(&mut self, now: Tick) {
        for member in self.members.iter_mut().filter(|m| m.usable && m.gauge.is_good()) {
            member.full_rate = None;
            let rate = member.served.min(member.rate);
            member.proven = member.proven.max(rate);
            let Some(cap) = member.cap else { continue };
            if rate > cap * self.settings.raise_factor {
                // It bears more than it was thought to: an even spread does not ask for caps.
                member.cap = Some(rate);
                member.raised = now;
            } else if rate < 0.9 * cap {
                // Nothing is proven by bearing less.
                member.raised = now;
            } else if now.since(member.raised) >= self.settings.raise_interval {
                // Far below what it has borne, an accident made the cap, not its size.
                let borne = (cap * 2.0).min(member.proven * self.settings.cap_factor);
                member.cap = Some(borne.max(cap * self.settings.raise_factor));
                member.raised = now;
            }
        }
    }

    /// Whether the caps together do not hold the load.
    fn everything_full(&self) -> bool {
        let mut usable = self.members.iter().filter(|m| m.usable).peekable();
        usable.peek().is_some() && usable.map(|m| m.cap.unwrap_or(f64::INFINITY)).sum::<f64>() < self.rate
    }

    fn even(&self) -> Vec<f64> {
        let usable = self.members.iter().filter(|m| m.usable).count().max(1) as f64;
        self.members.iter().map(|m| if m.usable { 1.0 / usable } else { 0.0 }).collect()
    }

    /// Members in the order in which they are filled.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.members.len()).filter(|at| self.members[*at].usable).collect();
        order.sort_by_key(|at| {
            let m = &self.members[*at];
            (m.order, m.opened.unwrap_or(u64::MAX), *at)
        });
        order
    }

    /// Fills the servers by order, each up to its cap and to what its cache is warm for.
    fn fill(&mut self, now: Tick) -> Vec<f64> {
        let order = self.order();
        let mut shutdown_handle = vec![0.0; self.members.len()];
        let mut caps_before = 0.0;
        for (nth, at) in order.iter().enumerate() {
            let member = &mut self.members[*at];
            if nth > 0 && member.share > 0.0 {
                let spare = self.rate <= self.settings.shrink_load * caps_before;
                member.spare_since = if spare { member.spare_since.or(Some(now)) } else { None };
                let since = member.spare_since.map_or(TickDelta(0), |at| now.since(at));
                // Without a cap nobody knows what the ones before can bear: they are tried.
                if caps_before.is_finite() && since < self.settings.shrink_after {
                    shutdown_handle[*at] = HOLD_SHARE;
                }
            }
            caps_before += member.cap.unwrap_or(f64::INFINITY);
        }
        let mut left = 1.0 - shutdown_handle.iter().sum::<f64>();
        let mut shares = shutdown_handle;
        for at in &order {
            let member = &self.members[*at];
            let cap = member.cap.map_or(1.0, |cap| cap / self.rate.max(1.0));
            let limit = cap.min(member.warm.max(self.settings.join_share));
            let more = (limit - shares[*at]).clamp(0.0, left.max(0.0));
            shares[*at] += more;
            left -= more;
        }
        if left > 1e-6 { self.level(&order, &shares) } else { shares }
    }

    /// The caches are not warm for what is left: it goes to the least loaded first, within the
    /// caps, so that the highest share is as low as can be.
    fn level(&self, order: &[usize], shares: &[f64]) -> Vec<f64> {
        let raised = |at: usize, level: f64| {
            let cap = self.members[at].cap.map_or(1.0, |cap| cap / self.rate.max(1.0));
            level.min(cap).max(shares[at])
        };
        let sum = |level: f64| order.iter().map(|at| raised(*at, level)).sum::<f64>();
        if sum(1.0) < 1.0 {
            return self.even();
        }
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..30 {
            let middle = (low + high) / 2.0;
            *(if sum(middle) < 1.0 { &mut low } else { &mut high }) = middle;
        }
        let mut shares = vec![0.0; self.members.len()];
        order.iter().for_each(|at| shares[*at] = raised(*at, high));
        shares
    }

    /// Gives every member its share and lets the caches warm up or cool down with it.
    fn take(&mut self, now: Tick, span: TickDelta, targets: &[f64]) {
        let doublings = span.0 as f64 / self.settings.join_double.0.max(1) as f64;
        for (member, target) in self.members.iter_mut().zip(targets) {
            if member.share == 0.0 && *target > 0.0 && member.opened.is_none() {
                self.opened += 1;
                member.opened = Some(self.opened);
            } else if *target == 0.0 {
                member.opened = None;
                member.spare_since = None;
            }
            member.share = *target;
            let limit = member.warm.max(self.settings.join_share);
            if *target >= limit * 0.95 {
                if now >= member.held_until {
                    member.warm = (limit * doublings.exp2()).min(1.0);
                }
            } else if *target < member.warm {
                // A quarter as fast as it warmed up: entries live on for their TTL.
                member.warm = target + (member.warm - target) * (-doublings / 4.0).exp2();
            }
        }
    }

    /// Rounds shares to what is worth moving names for, and names the standby.
    fn publish(&mut self) {
        let ppm = |part: f64| (part.clamp(0.0, 1.0) * f64::from(PPM)) as u32;
        let standby = self.order().into_iter().find(|at| self.members[*at].share == 0.0);
        let before = std::mem::take(&mut self.shares);
        let old = |m: &Member| before.iter().find(|s| s.slot == m.slot).map(|s| s.share_ppm);
        let moved = self.members.iter().any(|m| {
            old(m).is_none_or(|old| {
                (old == 0) != (ppm(m.share) == 0) || old.abs_diff(ppm(m.share)) > ppm(SHARE_STEP)
            })
        });
        self.shares = (self.members.iter().enumerate())
            .map(|(at, m)| Share {
                slot: m.slot,
                share_ppm: if moved { ppm(m.share) } else { old(m).unwrap_or(0) },
                trickle_ppm: if standby == Some(at) { ppm(self.settings.standby_share) } else { 0 },
            })
            .collect();
    }
}

impl Member {
    fn new(reading: &Reading<'_>, now: Tick) -> Self {
        Self {
            slot: reading.slot,
            order: reading.order,
            usable: reading.usable,
            gauge: Gauge::new(),
            rate: 0.0,
            served: 0.0,
            answered: [0; TIMEOUT_WINDOWS],
            timeouts: [0; TIMEOUT_WINDOWS],
            cap: None,
            raised: now,
            proven: 0.0,
            full_rate: None,
            share: 0.0,
            warm: 0.0,
            held_until: now,
            opened: None,
            spare_since: None,
        }
    }

    fn leave(&mut self) {
        self.cap = None;
        self.proven = 0.0;
        self.full_rate = None;
        self.share = 0.0;
        self.warm = 0.0;
        self.opened = None;
        self.spare_since = None;
        self.gauge.forget();
        self.answered = [0; TIMEOUT_WINDOWS];
        self.timeouts = [0; TIMEOUT_WINDOWS];
    }

    /// Time-outs and all finished queries of the last second.
    fn failed(&self) -> (f64, f64) {
        let timeouts = self.timeouts.iter().sum::<u64>() as f64;
        (timeouts, timeouts + self.answered.iter().sum::<u64>() as f64)
    }

    fn times_out(&self, all: (f64, f64), settings: &Concentrate) -> bool {
        let (timeouts, finished) = self.failed();
        let part = timeouts / finished.max(1.0);
        let peers = (all.0 - timeouts, all.1 - finished);
        let usual = if peers.1 >= PEER_QUERIES_MIN { peers.0 / peers.1 } else { 0.0 };
        timeouts >= TIMEOUTS_MIN
            && part > f64::from(settings.full_timeouts_ppm) / f64::from(PPM)
            && part > TIMEOUT_EXCESS * usual
    }
}

/// How much of a new reading over `span` goes into a mean over `over`.
fn smoothing(span: TickDelta, over: TickDelta) -> f64 {
    1.0 - (-(span.0 as f64) / over.0 as f64).exp()
}

fn add(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    (a.0 + b.0, a.1 + b.1)
}

#[cfg(test)]
mod tests;
