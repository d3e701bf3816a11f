//! The backends as they live: puts what checks, live results and policies say on the board.
//!
//! Told of time and outcomes like the checks it holds; it sends nothing. Each change of state is
//! logged here once, with its reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::addr::BackendSlot;
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::control::concentrate::ConcentrateDriver;
use crate::control::eject::Ejector;
use crate::control::health::{Check, Checks, Due, Live};
use crate::control::stats;
use crate::control::stats::text::{Standing, state_name};
use crate::model::{Backend, Snapshot};
use crate::stats::check_failure::Failure;
use crate::stats::live::{LiveState, PPM, State};

/// That checks cannot be made is said at most this often.
const UNMADE_SAID: TickDelta = TickDelta::from_ms(10_000);

/// The backends of the configuration in force.
#[derive(Debug)]
pub struct BackendHealth {
    live_state: Arc<LiveState>,
    checks: Checks,
    ejectors: BTreeMap<String, Ejector>,
    concentrate: ConcentrateDriver,
    /// Live results up to the last look.
    seen: BTreeMap<BackendSlot, Live>,
    /// States that have been put on the board.
    shown: BTreeMap<BackendSlot, State>,
    /// Checks that could not be made: since this was last said, and when that was.
    unmade: u64,
    unmade_said: Option<Tick>,
}

impl BackendHealth {
    /// A farm without backends.
    #[must_use]
    pub fn new(live_state: Arc<LiveState>, rng: ShardRng) -> Self {
        Self {
            live_state,
            checks: Checks::new(rng),
            ejectors: BTreeMap::new(),
            concentrate: ConcentrateDriver::new(),
            seen: BTreeMap::new(),
            shown: BTreeMap::new(),
            unmade: 0,
            unmade_said: None,
        }
    }

    /// Takes in a backend with what its first check found, before it is published.
    pub fn join(&mut self, backend: &Backend, check: Check, reason: &str, now: Tick) {
        let slot = backend.slot;
        self.shown.remove(&slot);
        self.seen.insert(slot, stats::live(&self.live_state, slot));
        self.live_state.set_share(slot, 0, 0);
        self.live_state.set_warmth(slot, check.warmth_ppm(now));
        self.checks.insert(slot, check);
        self.show(backend, reason);
    }

    /// Takes the new settings of a backend that stays.
    pub fn revise(&mut self, backend: &Backend, now: Tick) {
        if let Some(check) = self.checks.at_mut(backend.slot) {
            check.revise(backend.health.clone(), now);
        }
        self.show(backend, "configuration");
    }

    /// Forgets a backend that is no longer configured.
    pub fn leave(&mut self, slot: BackendSlot) {
        self.checks.remove(slot);
        self.seen.remove(&slot);
        self.shown.remove(&slot);
    }

    /// When the next probe is due.
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
        // Before the state: a shard shall not see it back with its full share.
        warm(&self.live_state, backend.slot, check.warmth_ppm(now));
        match outcome {
            Ok(()) => self.show(backend, "check passed"),
            Err((reason, detail)) => {
                if reason == Failure::Local && self.is_to_be_said(now) {
                    let (server, checks) = (&backend.name, std::mem::take(&mut self.unmade));
                    tracing::warn!(
                        server,
                        checks,
                        "checks cannot be made, servers stay as they are: {detail}"
                    );
                }
                self.show(backend, &format!("{reason}: {detail}"));
            }
        }
    }

    /// Counts a check that could not be made; whether that is to be said now.
    fn is_to_be_said(&mut self, now: Tick) -> bool {
        self.unmade += 1;
        let said = self.unmade_said.is_some_and(|at| now.since(at) < UNMADE_SAID);
        if !said {
            self.unmade_said = Some(now);
        }
        !said
    }

    /// Looks at live traffic and at the clock: lazy checks, ejection, slow start, concentration.
    pub fn watch(&mut self, snapshot: &Snapshot, now: Tick) {
        let live = self.look(snapshot);
        for (slot, check) in self.checks.iter_mut() {
            check.live(live.get(&slot).copied().unwrap_or_default(), now);
            check.pass(now);
            warm(&self.live_state, slot, check.warmth_ppm(now));
        }
        self.eject(snapshot, &live, now);
        for backend in snapshot.backends.iter().flatten() {
            self.show(backend, "its time is over");
        }
        // Last, so that it knows every state of this moment.
        self.concentrate.tick(now, snapshot, &self.live_state);
    }

    /// What is known of a backend, for tables.
    #[must_use]
    pub fn standing(&self, slot: BackendSlot) -> Standing {
        let failed = self.checks.at(slot).map(|c| *c.failed()).unwrap_or_default();
        Standing { state: self.live_state.backend(slot).state(), failed }
    }

    /// Live results of all backends since the last look.
    fn look(&mut self, snapshot: &Snapshot) -> BTreeMap<BackendSlot, Live> {
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
                // At once, so that the next pool counts it as out.
                self.show(backend, "answers worse than its peers");
            }
        }
    }

    /// Puts a backend's state on the board if it has changed, and says so.
    fn show(&mut self, backend: &Backend, reason: &str) {
        let Some(state) = self.checks.at(backend.slot).map(Check::state) else { return };
        if self.shown.insert(backend.slot, state) == Some(state) {
            return;
        }
        self.live_state.set_state(backend.slot, state);
        let (server, address) = (&backend.name, backend.address);
        let word = state_name(state, backend.health.mode);
        match state {
            State::Up | State::Draining => tracing::info!(server, %address, reason, "server is {word}"),
            State::Down | State::Ejected => tracing::warn!(server, %address, reason, "server is {word}"),
        }
    }
}

/// Puts a backend's warmth on the board if it has changed enough.
fn warm(live_state: &LiveState, slot: BackendSlot, warmth: u32) {
    // Each write makes the shards rebuild what they derive: steps of a percent will do.
    let shown = live_state.backend(slot).warmth_ppm();
    if warmth != shown && (warmth == PPM || warmth.abs_diff(shown) >= PPM / 100) {
        live_state.set_warmth(slot, warmth);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;
    use crate::model::{Eject, HealthMode};
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
    fn outcomes_reach_the_board() {
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
        assert_eq!(backend_health.standing(a).failed, [3, 0, 0, 0, 0, 0]);
        backend_health.leave(a);
        assert_eq!(backend_health.next(), None);
    }

    #[test]
    fn what_cannot_be_checked_stays_as_it_is_and_that_is_said_once_in_a_while() {
        let live_state = Arc::new(LiveState::new(1, 1));
        let snapshot = fixture::snapshot(1, &[], &[0]);
        let mut backend_health = joined(&snapshot, &live_state);
        let (slot, backend) = (BackendSlot(0), snapshot.backend(BackendSlot(0)).expect("a backend"));
        let (mut tickets, mut said) = (0, Vec::new());
        for round in 0..25 {
            let now = at(round * 1_000);
            let due = backend_health.begin(now, &mut tickets);
            let before = backend_health.unmade_said;
            backend_health.settle(backend, due[0].ticket, Err((Failure::Local, "Too many open files")), now);
            assert_eq!(live_state.backend(slot).state(), State::Up);
            if backend_health.unmade_said != before {
                said.push(round);
            }
        }
        assert_eq!(
            (said, backend_health.standing(slot).failed[Failure::Local as usize]),
            (vec![0, 10, 20], 25)
        );
    }

    #[test]
    fn a_server_returns_with_its_first_share_at_once() {
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
    fn a_slots_past_is_not_its_new_owners() {
        let live_state = Arc::new(LiveState::new(1, 1));
        let snapshot = fixture::snapshot(1, &[], &[0]);
        let slot = BackendSlot(0);
        live_state.set_share(slot, 7, 7);
        live_state.set_warmth(slot, 7);
        live_state.shards()[0].backend(slot).timeouts.add(1000);
        let mut backend_health = joined(&snapshot, &live_state);
        assert_eq!(backend_health.look(&snapshot)[&slot], Live::default());
        assert_eq!((live_state.backend(slot).share_ppm(), live_state.backend(slot).warmth_ppm()), (0, PPM));
    }
}
