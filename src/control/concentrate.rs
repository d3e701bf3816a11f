//! `concentrate`: as many queries on as few servers as can handle them.
//!
//! In every window the controller reads each server's queries, responses, time-outs and latency
//! counts, and sets its share of the pool's queries. It fills the servers in order: the first up to
//! its *cap*, the rest to the next. A server has no cap until it was found full.
//!
//! ```text
//!           full: cap = 0.8 × what it answers           good and at its cap: +5 % per 10 s
//!  ┌──────┐ ──────────────────────────► ┌────────┐ ◄─────┐
//!  │no cap│                             │ capped │ ──────┘
//!  └──────┘ ◄── not usable, returned ── └────────┘
//!  share ≤ cap; share ≤ twice what it was a `join_double` ago (its cache must warm up)
//! ```
//!
//! Servers are taken to be alike: one that has not been full begins with the cap of the first that
//! was, and keeps it as long as it is not found to bear more or less.
//!
//! The gauge decides from the fast responses whether a server is full. Time-outs that its peers do
//! not have count too, unless the fast responses are as fast as usual: then an authority is down or
//! packets are lost, which `eject` judges. Outstanding queries and mean latency are ignored: with a
//! slow authority both rise while the server is idle.
//!
//! Latency alone does not prove that a server is full: the host's scheduling or the network may have
//! caused it. It is no proof when the standby shows it too, which load cannot fill. Otherwise the
//! first cap is an experiment:
//!
//! ```text
//!  full ─► cap ─► its rate has fallen ─┬ latency has fallen too ─► confirmed
//!                                      └ not ─► the share goes back, and this latency is its floor
//! ```
//!
//! A server that does not keep up with its queries is full without an experiment, and one that
//! falls silent while others respond is passed over until it responds.
//!
//! At the start the first server gets all: no cache is warmer than another. After the loss of a
//! server the load is spread evenly over all usable servers: no capacity is known. Then it
//! contracts. When the caps together do not cover the load, every server is full, and the load is
//! spread evenly as well.
//!
//! The [`Concentrator`] reads no clock and no counter; [`ConcentrateDriver`] does so for all pools.

mod driver;
mod gauge;
mod silence;
mod trial;

pub use crate::control::concentrate::driver::ConcentrateDriver;

use crate::base::addr::BackendSlot;
use crate::base::time::{Tick, TickDelta};
use crate::control::concentrate::gauge::Gauge;
use crate::control::concentrate::silence::PROBE_PPM;
use crate::control::concentrate::trial::Suspicion;
use crate::model::policy::Concentrate;
use crate::stats::live::PPM;

/// Rates are smoothed over this span: a second contains the five windows of a verdict.
const RATE_SPAN: TickDelta = TickDelta::from_ms(1_000);
/// A falling pool rate is smoothed over this span, so that a pause does not close servers.
const RATE_FALL_SPAN: TickDelta = TickDelta::from_ms(5_000);
/// Time-outs are judged over this many windows, and from this many time-outs.
const TIMEOUT_WINDOWS: usize = 5;
const TIMEOUTS_MIN: f64 = 5.0;
/// And only when they are this many times the peers': a dead authority affects all servers.
const TIMEOUT_EXCESS: f64 = 2.0;
/// Peers' queries from which their time-out rate is significant.
const PEER_QUERIES_MIN: f64 = 20.0;
/// Share kept by an open server that may not close yet: enough to stay warm and measured.
const HOLD_SHARE: f64 = 0.04;
/// A smaller change of share is not worth the cache misses that it causes.
const SHARE_STEP: f64 = 0.02;
/// A cap below this part of the pool's rate means failure, which the health check judges.
const CAP_MIN: f64 = 0.02;
/// If latency stays high although the rate fell to this part, it is not load: the floor has moved.
const REBASE_RATE: f64 = 0.4;
/// A server that was silent takes its share back at once if its cache is still warm for this one.
const KNOWN_WARM: f64 = 0.5;
/// The loss of a server with at least this share spreads the load.
const DEATH_SHARE: f64 = 0.10;

/// One server's counters in one window.
#[derive(Clone, Copy, Debug)]
pub struct WindowStats<'a> {
    /// The server.
    pub slot: BackendSlot,
    /// Lower orders are filled first.
    pub order: i32,
    /// Whether it may get queries.
    pub usable: bool,
    /// Queries sent to it.
    pub queries: u64,
    /// Its responses.
    pub responses: u64,
    /// Its queries that timed out.
    pub timeouts: u64,
    /// Its responses by latency, indexed by [`bucket`](crate::stats::histogram::bucket).
    pub latencies: &'a [u32],
}

/// A server's share of its pool's queries, parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The server.
    pub slot: BackendSlot,
    /// The share of names assigned to it.
    pub share_ppm: u32,
    /// A random share of all queries, taken first.
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
    /// A server left with a share that others must take.
    lost: bool,
}

#[derive(Debug)]
struct Member {
    slot: BackendSlot,
    order: i32,
    usable: bool,
    is_silent: bool,
    /// It came back with a cold cache.
    is_joining: bool,
    gauge: Gauge,
    /// Queries and responses per second.
    rate: f64,
    served: f64,
    responses: [u64; TIMEOUT_WINDOWS],
    timeouts: [u64; TIMEOUT_WINDOWS],
    /// Its capacity, queries per second, once it was full.
    cap: Option<f64>,
    /// Whether that is the cap of a peer: servers are taken to be alike until they are full.
    is_cap_assumed: bool,
    raised: Tick,
    /// The highest rate of responses while it was good, per second.
    proven: f64,
    /// Its rate when it was first found full, until it is good again.
    full_rate: Option<f64>,
    share: f64,
    /// The share that its cache is warm for.
    warm: f64,
    /// Its cache could not handle more: no growth until then.
    held_until: Tick,
    /// When it last got a share; among equals the first opened is filled first.
    opened: Option<u64>,
    /// Since when the servers before it could do without it.
    spare_since: Option<Tick>,
    suspicion: Suspicion,
}

impl Concentrator {
    /// Creates a controller without history.
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

    /// Returns the settings.
    #[must_use]
    pub const fn settings(&self) -> &Concentrate {
        &self.settings
    }

    /// Changes the settings and keeps what was measured.
    pub fn set_settings(&mut self, settings: Concentrate) {
        self.settings = settings;
    }

    /// Forgets a server whose slot was reused.
    pub fn forget(&mut self, slot: BackendSlot) {
        self.drop_members(|m| m.slot == slot);
    }

    /// Takes a window of all members, and returns each member's share.
    pub fn tick(&mut self, now: Tick, windows: &[WindowStats<'_>]) -> &[Share] {
        let span = self.ticked.map_or(self.settings.window, |before| now.since(before));
        self.ticked = Some(now);
        if span.0 == 0 {
            return &self.shares;
        }
        self.drop_members(|m| !windows.iter().any(|r| r.slot == m.slot));
        let mut lost = std::mem::take(&mut self.lost);
        let respond = windows.iter().any(|w| w.usable && w.responses > 0);
        for stats in windows {
            lost |= self.observe(now, span, stats, respond);
        }
        if lost {
            self.spread_until = Some(now + self.settings.spread_after_death);
        }
        let rate: f64 = self.members.iter().map(|m| m.rate).sum();
        let fall = smoothing(span, RATE_FALL_SPAN);
        self.rate = if rate > self.rate { rate } else { self.rate + (rate - self.rate) * fall };

        let spreading = self.spread_until.is_some_and(|until| now < until);
        let everything_full = self.everything_full();
        self.begin_with_the_first();
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

    /// Updates a member; returns whether it was lost with a share that others must take.
    fn observe(&mut self, now: Tick, span: TickDelta, stats: &WindowStats<'_>, respond: bool) -> bool {
        let at = self.members.iter().position(|m| m.slot == stats.slot);
        let at = at.unwrap_or_else(|| {
            self.members.push(Member::new(stats, now));
            self.members.len() - 1
        });
        let member = &mut self.members[at];
        member.order = stats.order;
        let was_silent = member.is_silent;
        let falls_silent = member.notice_silence(stats, respond);
        let lost = member.usable && (falls_silent || !stats.usable) && member.share >= DEATH_SHARE;
        if !stats.usable && (member.usable || was_silent) {
            // Its cache will be cold when it returns, and the caps of its last moments are
            // meaningless.
            member.leave();
        } else if was_silent && !member.is_silent && member.warm >= KNOWN_WARM {
            // Its cache is warm: the spread that its silence began can end.
            self.spread_until = None;
        }
        let usable = stats.usable && !member.is_silent;
        member.is_joining |= usable && !member.usable && member.warm == 0.0;
        member.usable = usable;
        let a = smoothing(span, RATE_SPAN);
        let seconds = span.0 as f64 / 1e9;
        member.rate += (stats.queries as f64 / seconds - member.rate) * a;
        member.served += (stats.responses as f64 / seconds - member.served) * a;
        member.responses.rotate_right(1);
        member.responses[0] = stats.responses;
        member.timeouts.rotate_right(1);
        member.timeouts[0] = stats.timeouts;
        if stats.usable {
            member.gauge.observe(now, stats.latencies, &self.settings);
        }
        lost
    }

    /// Where no cache is warm, the first server need not wait until its own is.
    fn begin_with_the_first(&mut self) {
        let order = self.order();
        if let Some(first) = order.first()
            && order.iter().all(|at| self.members[*at].warm == 0.0)
        {
            self.members[*first].warm = 1.0;
        }
    }

    /// Caps the servers that are full.
    fn judge(&mut self, now: Tick) {
        // Load cannot fill a server that gets a trickle.
        let mut standby = self.members.iter().filter(|m| m.usable && m.share == 0.0);
        let quickest = self.members.iter().filter_map(|m| m.gauge.lowest()).min().unwrap_or(0);
        let is_disturbed = standby.any(|m| m.gauge.is_disturbed(now, quickest, &self.settings));
        let all = self.members.iter().map(Member::failed).fold((0.0, 0.0), add);
        let mut alike = None;
        for member in &mut self.members {
            // A trickle cannot fill a server: only servers with a share are judged.
            if !member.usable || member.share == 0.0 {
                continue;
            }
            let timing_out = !member.gauge.is_calm(now) && member.times_out(all, &self.settings);
            if !timing_out && member.is_on_trial(now, &self.settings) {
                continue;
            }
            if !member.gauge.is_full() && !timing_out {
                member.suspicion.full_since = None;
                continue;
            }
            if !timing_out && !member.is_proven_full(now, is_disturbed) {
                continue;
            }
            let rate = member.served.min(member.rate);
            let full_rate = *member.full_rate.get_or_insert(rate);
            if !timing_out && rate < REBASE_RATE * full_rate {
                member.gauge.rebase();
                member.full_rate = None;
                continue;
            }
            // Limited by its cache, and by no more than the share that it was given.
            let limit = member.warm.max(self.settings.join_share);
            let warming = member.share < 0.9 && (0.9..=1.1).contains(&(member.share / limit));
            if warming && member.cap.is_none_or(|cap| rate < 0.8 * cap) && !timing_out {
                // Cold rather than too small: it grows more slowly.
                member.warm = member.share * self.settings.cap_factor;
                member.held_until = now + TickDelta(self.settings.join_double.0 / 2);
            } else {
                if !timing_out && member.cap.is_none() {
                    member.begin_trial(now);
                }
                let cap = (self.settings.cap_factor * rate).max(CAP_MIN * self.rate);
                if !timing_out {
                    alike = Some(cap);
                }
                member.cap = Some(cap);
                member.is_cap_assumed = false;
                member.raised = now;
            }
            member.gauge.forget();
            member.responses = [0; TIMEOUT_WINDOWS];
            member.timeouts = [0; TIMEOUT_WINDOWS];
        }
        self.assume_alike(now, alike);
    }

    /// Gives a cap that was just measured to servers without one, so that none is filled far beyond
    /// what its peers handle; without any measured cap, nothing is assumed.
    fn assume_alike(&mut self, now: Tick, measured: Option<f64>) {
        let is_any_measured = self.members.iter().any(|m| m.cap.is_some() && !m.is_cap_assumed);
        for member in &mut self.members {
            if !is_any_measured {
                member.cap = None;
            } else if let (None, Some(cap)) = (member.cap, measured)
                && member.usable
            {
                member.cap = Some(cap);
                member.is_cap_assumed = true;
                member.raised = now;
            }
        }
    }

    /// Raises the caps of servers that handle theirs well.
    fn credit(&mut self, now: Tick) {
        for member in self.members.iter_mut().filter(|m| m.usable && m.gauge.is_good()) {
            member.full_rate = None;
            let rate = member.served.min(member.rate);
            member.proven = member.proven.max(rate);
            let Some(cap) = member.cap else { continue };
            if rate > cap * self.settings.raise_factor {
                // It handles more than its cap: an even spread ignores caps.
                member.cap = Some(rate);
                member.raised = now;
            } else if rate < 0.9 * cap {
                // A lower rate proves nothing.
                member.raised = now;
            } else if now.since(member.raised) >= self.settings.raise_interval {
                // Far below its proven rate, the cap came from an incident, not from its size.
                let doubled = (cap * 2.0).min(member.proven * self.settings.cap_factor);
                member.cap = Some(doubled.max(cap * self.settings.raise_factor));
                member.raised = now;
            }
        }
    }

    /// Returns whether the caps together do not cover the load.
    fn everything_full(&self) -> bool {
        let mut usable = self.members.iter().filter(|m| m.usable).peekable();
        usable.peek().is_some() && usable.map(|m| m.cap.unwrap_or(f64::INFINITY)).sum::<f64>() < self.rate
    }

    /// Spreads the load evenly over all usable servers; one that joins gets no more than its cache is warm
    /// for, if there are others.
    fn even(&self) -> Vec<f64> {
        let usable = self.members.iter().filter(|m| m.usable).count().max(1) as f64;
        let even = 1.0 / usable;
        let warm = |m: &Member| m.warm.max(self.settings.join_share);
        let joins = |m: &Member| m.usable && m.is_joining && warm(m) < even;
        let others = self.members.iter().filter(|m| m.usable && !joins(m)).count() as f64;
        let held: f64 = self.members.iter().filter(|m| joins(m)).map(warm).sum();
        let share = |m: &Member| match m.usable {
            false => 0.0,
            true if others == 0.0 => even,
            true if joins(m) => warm(m),
            true => (1.0 - held) / others,
        };
        self.members.iter().map(share).collect()
    }

    /// Returns members in the order in which they are filled.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.members.len()).filter(|at| self.members[*at].usable).collect();
        order.sort_by_key(|at| {
            let m = &self.members[*at];
            (m.order, m.opened.unwrap_or(u64::MAX), *at)
        });
        order
    }

    /// Fills the servers in order, each up to its cap and to what its cache is warm for.
    fn fill(&mut self, now: Tick) -> Vec<f64> {
        let order = self.order();
        let mut held = vec![0.0; self.members.len()];
        let mut caps_before = 0.0;
        for (nth, at) in order.iter().enumerate() {
            let member = &mut self.members[*at];
            if nth > 0 && member.share > 0.0 {
                let spare = self.rate <= self.settings.shrink_load * caps_before;
                member.spare_since = if spare { member.spare_since.or(Some(now)) } else { None };
                let since = member.spare_since.map_or(TickDelta(0), |at| now.since(at));
                // Where the capacity of the servers before is unknown, they are tried.
                if caps_before.is_finite() && since < self.settings.shrink_after {
                    held[*at] = HOLD_SHARE;
                }
            }
            caps_before += member.cap.filter(|_| !member.is_cap_assumed).unwrap_or(f64::INFINITY);
        }
        let mut left = 1.0 - held.iter().sum::<f64>();
        let mut shares = held;
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

    /// Distributes what exceeds the warm caches to the least loaded first, within the caps, so that
    /// the highest share is as low as possible.
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

    /// Sets every member's share, and lets the caches warm up or cool down accordingly.
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
            member.is_joining &= member.warm < KNOWN_WARM;
            let limit = member.warm.max(self.settings.join_share);
            if *target >= limit * 0.95 {
                if now >= member.held_until {
                    member.warm = (limit * doublings.exp2()).min(1.0);
                }
            } else if *target < member.warm {
                // A quarter of the speed of warming: entries live on for their TTL.
                member.warm = target + (member.warm - target) * (-doublings / 4.0).exp2();
            }
        }
    }

    /// Rounds the shares to steps that are worth moving names for, and picks the standby.
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
                trickle_ppm: match m.is_silent {
                    true => PROBE_PPM,
                    false if standby == Some(at) => ppm(self.settings.standby_share),
                    false => 0,
                },
            })
            .collect();
    }
}

impl Member {
    fn new(stats: &WindowStats<'_>, now: Tick) -> Self {
        Self {
            slot: stats.slot,
            order: stats.order,
            usable: stats.usable,
            is_silent: false,
            is_joining: false,
            gauge: Gauge::new(),
            rate: 0.0,
            served: 0.0,
            responses: [0; TIMEOUT_WINDOWS],
            timeouts: [0; TIMEOUT_WINDOWS],
            cap: None,
            is_cap_assumed: false,
            raised: now,
            proven: 0.0,
            full_rate: None,
            share: 0.0,
            warm: 0.0,
            held_until: now,
            opened: None,
            spare_since: None,
            suspicion: Suspicion::default(),
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
        self.suspicion = Suspicion::default();
        self.gauge.forget();
        self.responses = [0; TIMEOUT_WINDOWS];
        self.timeouts = [0; TIMEOUT_WINDOWS];
    }

    /// Returns time-outs and all finished queries of the last second.
    fn failed(&self) -> (f64, f64) {
        let timeouts = self.timeouts.iter().sum::<u64>() as f64;
        (timeouts, timeouts + self.responses.iter().sum::<u64>() as f64)
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

/// Returns the weight of a new value over `span` in a mean over `over`.
fn smoothing(span: TickDelta, over: TickDelta) -> f64 {
    1.0 - (-(span.0 as f64) / over.0 as f64).exp()
}

fn add(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    (a.0 + b.0, a.1 + b.1)
}

#[cfg(test)]
mod tests;
