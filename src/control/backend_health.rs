//! The health of all backends: writes the outcome of checks, live results and policies to the live
//! state.
//!
//! Time and outcomes are passed in, as to the checks that it owns; it does no I/O. Each change of
//! state is logged here once, with its reason, unless its server comes and goes all the time.

mod state_lines;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::addr::BackendSlot;
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::control::backend_health::state_lines::StateLines;
use crate::control::concentrate::ConcentrateDriver;
use crate::control::eject::Ejector;
use crate::control::health::{Check, Checks, Due, Live};
use crate::control::stats;
use crate::control::stats::text::state_name;
use crate::model::{Backend, HealthMode, Snapshot};
use crate::stats::check_failure::Failure;
use crate::stats::live::{LiveState, PPM, State};

/// Interval of the warning that checks cannot be made.
const UNMADE_WARNING_INTERVAL: TickDelta = TickDelta::from_ms(10_000);
/// Shortest interval of lines about other reasons of one server: checks can be a hundred a second.
const REASON_INTERVAL: TickDelta = TickDelta::from_ms(1_000);

/// The health of the backends of the current configuration.
#[derive(Debug)]
pub struct BackendHealth {
    live_state: Arc<LiveState>,
    checks: Checks,
    ejectors: BTreeMap<String, Ejector>,
    concentrate: ConcentrateDriver,
    /// Live results up to the last read.
    seen: BTreeMap<BackendSlot, Live>,
    /// States written to the live state.
    published: BTreeMap<BackendSlot, State>,
    /// The reason that was last logged for a failing backend, and when.
    reasons: BTreeMap<BackendSlot, (String, Tick)>,
    /// Which changes of state are a line of the log.
    lines: StateLines,
    /// Checks that could not be made since the last warning, and the time of that warning.
    unmade: u64,
    unmade_warned: Option<Tick>,
    /// Servers that came up or went down since somebody asked, by name and address.
    changes: Vec<(String, bool)>,
}

impl BackendHealth {
    /// Creates an instance without backends.
    #[must_use]
    pub fn new(live_state: Arc<LiveState>, rng: ShardRng) -> Self {
        Self {
            live_state,
            checks: Checks::new(rng),
            ejectors: BTreeMap::new(),
            concentrate: ConcentrateDriver::new(),
            seen: BTreeMap::new(),
            published: BTreeMap::new(),
            reasons: BTreeMap::new(),
            lines: StateLines::default(),
            unmade: 0,
            unmade_warned: None,
            changes: Vec::new(),
        }
    }

    /// Adds a backend with the result of its first check, before it is published; or one that stays and
    /// was checked anew, as its address or the way it is checked has changed.
    pub fn join(&mut self, backend: &Backend, check: Check, reason: &str, now: Tick) {
        let slot = backend.slot;
        // A new one is told of only if checks have found it down.
        let is_checked = matches!(backend.health.mode, HealthMode::Auto | HealthMode::Lazy);
        let is_up = check.state() == State::Up;
        let was_up = self.published.remove(&slot).map_or(is_up || is_checked, |before| before == State::Up);
        if was_up != is_up {
            self.changes.push((name_with_address(backend), is_up));
        }
        self.seen.insert(slot, stats::live(&self.live_state, slot));
        self.live_state.set_share(slot, 0, 0);
        self.live_state.set_warmth(slot, check.warmth_ppm(now));
        self.live_state.backend(slot).set_checks_failed(check.failed());
        self.live_state.backend(slot).set_state_changes(0);
        self.checks.insert(slot, check);
        self.update(backend, reason, now);
    }

    /// Applies the new settings of a backend that stays.
    pub fn revise(&mut self, backend: &Backend, now: Tick) {
        if let Some(check) = self.checks.at_mut(backend.slot) {
            check.revise(backend.health.clone(), now);
        }
        // What somebody has asked for is told in any case.
        if self.checks.at(backend.slot).map(Check::state) != self.published.get(&backend.slot).copied() {
            self.lines.forget(backend.slot);
        }
        self.update(backend, "configuration", now);
    }

    /// Forgets a backend that has left the configuration.
    pub fn leave(&mut self, slot: BackendSlot) {
        self.checks.remove(slot);
        self.seen.remove(&slot);
        self.published.remove(&slot);
        self.reasons.remove(&slot);
        self.lines.forget(slot);
    }

    /// Takes the servers that came up or went down, each with its name and address and whether it is up.
    pub fn take_changes(&mut self) -> Vec<(String, bool)> {
        std::mem::take(&mut self.changes)
    }

    /// Returns when the next probe is due.
    #[must_use]
    pub fn next(&self) -> Option<Tick> {
        self.checks.next()
    }

    /// Begins all probes that are due.
    pub fn begin(&mut self, now: Tick, tickets: &mut u64) -> Vec<Due> {
        self.checks.begin(now, tickets)
    }

    /// Takes the outcome of a probe; the detail is for the log.
    pub fn settle(
        &mut self,
        backend: &Backend,
        ticket: u64,
        outcome: Result<(), (Failure, &str)>,
        now: Tick,
    ) {
        let Some(check) = self.checks.at_mut(backend.slot) else { return };
        check.settle(ticket, outcome.map_err(|(reason, _)| reason), now);
        self.live_state.backend(backend.slot).set_checks_failed(check.failed());
        // Before the state: no shard may see the backend back with its full share.
        warm(&self.live_state, backend.slot, check.warmth_ppm(now));
        match outcome {
            Ok(()) => {
                self.reasons.remove(&backend.slot);
                self.update(backend, "check passed", now);
            }
            Err((reason, detail)) => {
                if reason == Failure::Local && self.should_warn(now) {
                    let (server, checks) = (&backend.name, std::mem::take(&mut self.unmade));
                    tracing::warn!(
                        server,
                        checks,
                        "cannot make health checks, servers keep their state: {detail}"
                    );
                }
                let text = format!("{reason}: {detail}");
                self.update(backend, &text, now);
                // A shortage of our own says nothing about the server.
                if reason != Failure::Local && self.is_another(backend.slot, &text, now) {
                    let (server, address) = (&backend.name, backend.address);
                    tracing::warn!(server, %address, reason = text, "server still fails");
                }
            }
        }
    }

    /// Takes the reason of a failed check of a server; returns whether it is another one than the
    /// log has, of a server that is down.
    fn is_another(&mut self, slot: BackendSlot, reason: &str, now: Tick) -> bool {
        let down = self.published.get(&slot) == Some(&State::Down);
        let Some((logged, at)) = self.reasons.get_mut(&slot).filter(|_| down) else {
            self.reasons.insert(slot, (reason.to_owned(), now));
            return false;
        };
        let another = logged != reason && now.since(*at) >= REASON_INTERVAL;
        if another {
            (*logged, *at) = (reason.to_owned(), now);
        }
        another
    }

    /// Counts a check that could not be made; returns whether to warn.
    fn should_warn(&mut self, now: Tick) -> bool {
        self.unmade += 1;
        let warned = self.unmade_warned.is_some_and(|at| now.since(at) < UNMADE_WARNING_INTERVAL);
        if !warned {
            self.unmade_warned = Some(now);
        }
        !warned
    }

    /// Evaluates live traffic and the clock: lazy checks, ejection, slow start, concentration.
    pub fn watch(&mut self, snapshot: &Snapshot, now: Tick) {
        let live = self.read_live(snapshot);
        for (slot, check) in self.checks.iter_mut() {
            check.live(live.get(&slot).copied().unwrap_or_default(), now);
            check.pass(now);
            warm(&self.live_state, slot, check.warmth_ppm(now));
        }
        self.eject(snapshot, &live, now);
        for backend in snapshot.backends.iter().flatten() {
            self.update(backend, "time elapsed", now);
        }
        for (slot, changes) in self.lines.ended(now) {
            let (Some(backend), Some(state)) = (snapshot.backend(slot), self.published.get(&slot)) else {
                continue;
            };
            let (server, address) = (&backend.name, backend.address);
            let word = state_name(*state, backend.health.mode);
            tracing::warn!(server, %address, changes, "server comes and goes, and is {word}");
        }
        // Last, because it reads the state of every backend.
        self.concentrate.tick(now, snapshot, &self.live_state);
    }

    /// Returns the live results of all backends since the last call.
    fn read_live(&mut self, snapshot: &Snapshot) -> BTreeMap<BackendSlot, Live> {
        let mut out = BTreeMap::new();
        for backend in snapshot.backends.iter().flatten() {
            let total = stats::live(&self.live_state, backend.slot);
            let last = self.seen.insert(backend.slot, total).unwrap_or(total);
            out.insert(
                backend.slot,
                Live {
                    responses: total.responses.saturating_sub(last.responses),
                    timeouts: total.timeouts.saturating_sub(last.timeouts),
                    servfails: total.servfails.saturating_sub(last.servfails),
                },
            );
        }
        out
    }

    fn eject(&mut self, snapshot: &Snapshot, live: &BTreeMap<BackendSlot, Live>, now: Tick) {
        self.ejectors.retain(|name, _| snapshot.pools.iter().any(|p| p.name == *name && p.eject.is_some()));
        for pool in &snapshot.pools {
            let Some(settings) = &pool.eject else { continue };
            let ejector = self.ejectors.entry(pool.name.clone()).or_default();
            ejector.observe(pool.members.iter().filter_map(|s| Some((*s, *live.get(s)?))), now);
            let members: Vec<(BackendSlot, bool)> =
                pool.members.iter().map(|s| (*s, self.live_state.backend(*s).state() == State::Up)).collect();
            for slot in ejector.judge(settings, &members) {
                let (Some(check), Some(backend)) = (self.checks.at_mut(slot), snapshot.backend(slot)) else {
                    continue;
                };
                check.eject(now + settings.span);
                // At once, so that the next pool counts it as ejected.
                self.update(backend, "answers worse than its peers", now);
            }
        }
    }

    /// Writes a backend's state to the live state and logs it, if it has changed.
    fn update(&mut self, backend: &Backend, reason: &str, now: Tick) {
        let Some(state) = self.checks.at(backend.slot).map(Check::state) else { return };
        let before = self.published.insert(backend.slot, state);
        if before == Some(state) {
            return;
        }
        if before.is_some_and(|before| (before == State::Up) != (state == State::Up)) {
            self.changes.push((name_with_address(backend), state == State::Up));
            let live = self.live_state.backend(backend.slot);
            live.set_state_changes(live.state_changes() + 1);
        }
        self.live_state.set_state(backend.slot, state);
        if !self.lines.is_told(backend.slot, now) {
            return;
        }
        let (server, address) = (&backend.name, backend.address);
        let word = state_name(state, backend.health.mode);
        match state {
            State::Up | State::Draining => tracing::info!(server, %address, reason, "server is {word}"),
            State::Down | State::Ejected => tracing::warn!(server, %address, reason, "server is {word}"),
        }
    }
}

/// Returns what `getNameWithAddr` returns of a server.
fn name_with_address(backend: &Backend) -> String {
    let address = backend.address.to_string();
    let is_named = !backend.name.is_empty() && backend.name != address;
    if is_named { format!("{} ({address})", backend.name) } else { address }
}

/// Writes a backend's warmth to the live state, if it has changed enough.
fn warm(live_state: &LiveState, slot: BackendSlot, warmth: u32) {
    // Each write makes the shards rebuild their tables: steps of a percent suffice.
    let published = live_state.backend(slot).warmth_ppm();
    if warmth != published && (warmth == PPM || warmth.abs_diff(published) >= PPM / 100) {
        live_state.set_warmth(slot, warmth);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;
    use crate::model::Eject;

    fn at(ms: u64) -> Tick {
        Tick(ms * 1_000_000)
    }

    fn joined(snapshot: &Snapshot, live_state: &Arc<LiveState>) -> BackendHealth {
        let mut backend_health = BackendHealth::new(Arc::clone(live_state), ShardRng::from_seed(1));
        for backend in snapshot.backends.iter().flatten() {
            let mut check = Check::new(backend.health.clone(), at(0), TickDelta(0), false);
            if check.is_unknown() {
                check.begin(u64::MAX, at(0));
                check.settle(u64::MAX, Ok(()), at(0));
            }
            backend_health.join(backend, check, "", at(0));
        }
        backend_health
    }

    #[test]
    fn each_change_of_the_reason_of_a_failing_server_is_reported_once() {
        let live_state = Arc::new(LiveState::new(1, 1));
        let snapshot = fixture::snapshot(1, &[], &[0]);
        let mut backend_health = joined(&snapshot, &live_state);
        let (slot, backend) = (BackendSlot(0), snapshot.backend(BackendSlot(0)).expect("a backend"));
        let mut tickets = 0;
        let mut reported = Vec::new();
        let rounds = [
            (Failure::Network, "refused"),
            (Failure::Network, "refused"),
            (Failure::Timeout, "so"),
            (Failure::Timeout, "so"),
            (Failure::Local, "no descriptor"),
            (Failure::Invalid, "SERVFAIL"),
            (Failure::Invalid, "REFUSED"),
        ];
        // Until it is down, whatever its `maxCheckFailures`.
        for (round, (reason, detail)) in std::iter::repeat_n(rounds[0], 5).chain(rounds).enumerate() {
            let now = at(round as u64 * 2000);
            for due in backend_health.begin(now, &mut tickets) {
                backend_health.settle(backend, due.ticket, Err((reason, detail)), now);
            }
            reported.push(backend_health.reasons.get(&slot).map(|(reason, _)| reason.clone()));
        }
        assert_eq!(live_state.backend(slot).state(), State::Down);
        let last: Vec<_> = reported[5..].iter().flatten().cloned().collect();
        let text = |reason: Failure, detail| format!("{reason}: {detail}");
        let want = [
            text(Failure::Network, "refused"),
            text(Failure::Network, "refused"),
            text(Failure::Timeout, "so"),
            text(Failure::Timeout, "so"),
            text(Failure::Timeout, "so"),
            text(Failure::Invalid, "SERVFAIL"),
            text(Failure::Invalid, "REFUSED"),
        ];
        assert_eq!(last, want);
        let soon = at(60_000);
        assert!(!backend_health.is_another(slot, &want[6], soon));
        assert!(backend_health.is_another(slot, "another", soon));
        assert!(!backend_health.is_another(slot, &want[6], Tick(soon.0 + 1)), "too soon");
    }

    #[test]
    fn a_first_check_is_told_of_as_any_other() {
        let live_state = Arc::new(LiveState::new(1, 1));
        let mut backend_health = BackendHealth::new(Arc::clone(&live_state), ShardRng::from_seed(1));
        let mut join = |mode, outcome: Result<(), Failure>| {
            let mut backend = fixture::backend(0);
            backend.health = fixture::health(mode);
            let mut check = Check::new(backend.health.clone(), at(0), TickDelta(0), false);
            if check.is_unknown() {
                check.begin(u64::MAX, at(0));
                check.settle(u64::MAX, outcome, at(0));
            }
            backend_health.join(&backend, check, "", at(0));
            backend_health.take_changes().into_iter().map(|(_, up)| up).collect::<Vec<_>>()
        };
        let dead = Err(Failure::Timeout);
        assert_eq!(join(HealthMode::Auto, dead), [false], "added while it is dead");
        assert_eq!(join(HealthMode::Auto, Ok(())), [true], "another address");
        assert_eq!(join(HealthMode::Drain, Ok(())), [false]);
        assert_eq!(join(HealthMode::Auto, Ok(())), [true], "setAuto()");
        assert_eq!(join(HealthMode::Lazy, Ok(())), [false; 0]);
        assert_eq!(join(HealthMode::Down, Ok(())), [false]);
        assert_eq!(join(HealthMode::Lazy, dead), [false; 0]);
        assert_eq!(join(HealthMode::Lazy, Ok(())), [true]);
        backend_health.leave(BackendSlot(0));
        let mut draining = fixture::backend(0);
        draining.health = fixture::health(HealthMode::Drain);
        let check = Check::new(draining.health.clone(), at(0), TickDelta(0), false);
        backend_health.join(&draining, check, "", at(0));
        assert_eq!(backend_health.take_changes(), [], "as the configuration says");
    }

    #[test]
    fn outcomes_reach_the_live_state() {
        let live_state = Arc::new(LiveState::new(1, 2));
        let mut snapshot = fixture::snapshot(1, &[], &[0, 1]);
        let mut forced = fixture::backend(1);
        forced.health = fixture::health(HealthMode::Drain);
        snapshot.backends[1] = Some(Arc::new(forced));
        let mut backend_health = joined(&snapshot, &live_state);
        let (a, b) = (BackendSlot(0), BackendSlot(1));
        assert_eq!(
            (live_state.backend(a).state(), live_state.backend(b).state()),
            (State::Up, State::Draining)
        );
        let mut tickets = 0;
        for round in 0..3 {
            let now = at(round * 1000);
            let due = backend_health.begin(now, &mut tickets);
            assert_eq!(due.len(), 1, "only one of them is probed");
            let backend = snapshot.backend(a).expect("a backend");
            backend_health.settle(backend, due[0].ticket, Err((Failure::Timeout, "late")), now);
        }
        assert_eq!(live_state.backend(a).state(), State::Down);
        assert_eq!([a, b].map(|slot| live_state.backend(slot).state_changes()), [1, 0]);
        assert_eq!(backend_health.take_changes(), [("ns0 (192.0.2.0:53)".to_owned(), false)]);
        assert!(backend_health.take_changes().is_empty());
        assert_eq!(live_state.backend(a).checks_failed(), [3, 0, 0, 0, 0, 0]);
        backend_health.leave(a);
        assert_eq!(backend_health.next(), None);
    }

    #[test]
    fn a_backend_that_cannot_be_checked_keeps_its_state_and_warnings_are_rare() {
        let live_state = Arc::new(LiveState::new(1, 1));
        let snapshot = fixture::snapshot(1, &[], &[0]);
        let mut backend_health = joined(&snapshot, &live_state);
        let (slot, backend) = (BackendSlot(0), snapshot.backend(BackendSlot(0)).expect("a backend"));
        let (mut tickets, mut warned) = (0, Vec::new());
        for round in 0..25 {
            let now = at(round * 1_000);
            let due = backend_health.begin(now, &mut tickets);
            let before = backend_health.unmade_warned;
            backend_health.settle(backend, due[0].ticket, Err((Failure::Local, "Too many open files")), now);
            assert_eq!(live_state.backend(slot).state(), State::Up);
            if backend_health.unmade_warned != before {
                warned.push(round);
            }
        }
        assert_eq!(
            (warned, live_state.backend(slot).checks_failed()[Failure::Local as usize]),
            (vec![0, 10, 20], 25)
        );
    }

    #[test]
    fn a_returning_backend_starts_with_its_first_share() {
        let live_state = Arc::new(LiveState::new(1, 1));
        let mut snapshot = fixture::snapshot(1, &[], &[0]);
        let mut slow = fixture::backend(0);
        slow.health.slow_start = TickDelta::from_ms(1000);
        snapshot.backends[0] = Some(Arc::new(slow));
        let mut backend_health = joined(&snapshot, &live_state);
        let (slot, backend) = (BackendSlot(0), Arc::clone(snapshot.backends[0].as_ref().expect("a backend")));
        let (mut tickets, mut now) = (0, at(0));
        let mut until = |state: State, outcome: Result<(), (Failure, &str)>| {
            for _ in 0..10 {
                now = backend_health.next().expect("another probe");
                let due = backend_health.begin(now, &mut tickets);
                backend_health.settle(&backend, due[0].ticket, outcome, now);
                if live_state.backend(slot).state() == state {
                    return live_state.backend(slot).warmth_ppm();
                }
            }
            panic!("never {state:?}");
        };
        until(State::Down, Err((Failure::Timeout, "late")));
        assert_eq!(until(State::Up, Ok(())), 50_000);
    }

    #[test]
    fn an_outlier_is_ejected_and_warmed_up_again() {
        let live_state = Arc::new(LiveState::new(1, 4));
        let mut snapshot = fixture::snapshot(1, &[], &[0, 1, 2, 3]);
        let span = TickDelta::from_ms(5000);
        let eject = Eject { excess_ppm: 200_000, span, share_max_ppm: 500_000, queries_min: 50 };
        snapshot.pools[0].eject = Some(eject);
        let mut slow = fixture::backend(2);
        slow.health.slow_start = TickDelta::from_ms(1000);
        snapshot.backends[2] = Some(Arc::new(slow));
        let mut backend_health = joined(&snapshot, &live_state);
        let bad = BackendSlot(2);
        for slot in 0..4 {
            let stats = live_state.shards()[0].backend(BackendSlot(slot));
            stats.responses.add(if slot == 2 { 10 } else { 100 });
            stats.timeouts.add(if slot == 2 { 90 } else { 0 });
        }
        backend_health.watch(&snapshot, at(200));
        assert_eq!(live_state.backend(bad).state(), State::Ejected);
        backend_health.watch(&snapshot, at(5000));
        assert_eq!(live_state.backend(bad).state(), State::Ejected);
        backend_health.watch(&snapshot, at(5200));
        assert_eq!(
            (live_state.backend(bad).state(), live_state.backend(bad).warmth_ppm()),
            (State::Up, 50_000)
        );
        backend_health.watch(&snapshot, at(5700));
        assert_eq!(live_state.backend(bad).warmth_ppm(), 525_000);
        backend_health.watch(&snapshot, at(6200));
        assert_eq!(live_state.backend(bad).warmth_ppm(), PPM);
    }

    #[test]
    fn a_reused_slot_inherits_nothing() {
        let live_state = Arc::new(LiveState::new(1, 1));
        let snapshot = fixture::snapshot(1, &[], &[0]);
        let slot = BackendSlot(0);
        live_state.set_share(slot, 7, 7);
        live_state.set_warmth(slot, 7);
        live_state.backend(slot).set_checks_failed(&[7; Failure::ALL.len()]);
        live_state.backend(slot).set_state_changes(7);
        live_state.shards()[0].backend(slot).timeouts.add(1000);
        let mut backend_health = joined(&snapshot, &live_state);
        assert_eq!(backend_health.read_live(&snapshot)[&slot], Live::default());
        assert_eq!((live_state.backend(slot).share_ppm(), live_state.backend(slot).warmth_ppm()), (0, PPM));
        assert_eq!(live_state.backend(slot).checks_failed(), [0; Failure::ALL.len()]);
        assert_eq!(live_state.backend(slot).state_changes(), 0);
    }
}
