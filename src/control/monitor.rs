//! The figures of the process for every thread that shows them, without asking the control loop.
//!
//! ```text
//!  control loop ──commits, drains──► Monitor ◄──figures── web server, console, SIGUSR1
//!                                      └ reads: the snapshot in force, the live state
//! ```

#![expect(
    clippy::disallowed_types,
    reason = "whoever takes a reading continues the totals of the reading before; no shard does"
)]

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;

use crate::base::addr::BackendSlot;
use crate::base::printable::{Printable, shortened};
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::control::certificate_monitor::unix_seconds;
use crate::control::console;
use crate::control::limits::open_files;
use crate::control::log;
use crate::control::notes::{Note, Notes};
use crate::control::process;
use crate::control::publisher::Feed;
use crate::control::rates::Rates;
use crate::control::shadows::Shadows;
use crate::control::stats::figures::{self, Figures};
use crate::control::stats::text::{Standing, line};
use crate::control::traffic::Traffic;
use crate::engine::clock;
use crate::model::Snapshot;
use crate::stats::live::LiveState;
use crate::stats::registry::{
    CarbonReading, CarbonStats, ProcessReading, TrafficReading, WebReading, WebStats,
};
use crate::tls;

/// What there is to know of the running process.
#[derive(Debug)]
pub struct Monitor {
    cell: Arc<ArcSwap<Snapshot>>,
    live_state: Arc<LiveState>,
    rates: Mutex<Rates>,
    shadows: Mutex<Shadows>,
    query_log_lines_lost: Arc<AtomicU64>,
    web: WebStats,
    notes: Notes,
    carbon: CarbonStats,
    changes_refused: AtomicU64,
    started: Tick,
    started_unix: u64,
    process: u64,
    traffic: OnceLock<Traffic>,
    /// The configuration of the file as it was read last, without what commands have changed.
    read: ArcSwap<Snapshot>,
    serving: AtomicBool,
    draining: AtomicBool,
}

impl Monitor {
    /// Of the process that starts; `query_log_lines_lost` is the query log's own counter.
    #[must_use]
    pub fn new(feed: &Feed, query_log_lines_lost: Arc<AtomicU64>) -> Self {
        let started = clock::now();
        Self {
            cell: feed.cell(),
            live_state: Arc::clone(feed.live_state()),
            rates: Mutex::new(Rates::new(started)),
            shadows: Mutex::default(),
            query_log_lines_lost,
            web: WebStats::default(),
            notes: Notes::default(),
            carbon: CarbonStats::default(),
            changes_refused: AtomicU64::new(0),
            started,
            started_unix: unix_seconds(),
            process: process::entropy().map_or_else(|_| unix_seconds(), |mut rng| rng.u64()),
            traffic: OnceLock::new(),
            read: ArcSwap::new(feed.current()),
            serving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }
    }

    /// The configuration in force.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.cell.load_full()
    }

    /// The configuration of the file as it was read last, without what commands have changed.
    #[must_use]
    pub fn as_read(&self) -> Arc<Snapshot> {
        self.read.load_full()
    }

    /// The configuration of the file is in force.
    pub(super) fn has_read(&self, snapshot: &Arc<Snapshot>) {
        self.read.store(Arc::clone(snapshot));
    }

    /// What shards and control loop write.
    #[must_use]
    pub const fn live_state(&self) -> &Arc<LiveState> {
        &self.live_state
    }

    /// What the web server counts; only its thread writes it.
    pub(super) const fn web(&self) -> &WebStats {
        &self.web
    }

    /// Starts the thread that counts the traffic and keeps so many records; none for 0.
    ///
    /// # Errors
    /// There can be no more threads.
    pub(super) fn count_traffic(&self, feed: &Feed, records: usize, rng: ShardRng) -> Result<(), String> {
        let traffic = Traffic::start(feed.live_state(), feed.cell(), records, rng)
            .map_err(|e| format!("the thread that counts the traffic: {e}"))?;
        if let Some(traffic) = traffic {
            // There is one thread in the life of the process.
            let _ = self.traffic.set(traffic);
        }
        Ok(())
    }

    /// Who counts the traffic.
    ///
    /// # Errors
    /// Why nobody does.
    pub(super) fn traffic(&self) -> Result<&Traffic, String> {
        let off = || "the traffic is not counted: the setting traffic-ring is 0".to_owned();
        self.traffic.get().ok_or_else(off)
    }

    /// What was compared of queries that shadow pools get too.
    pub(super) fn shadows(&self) -> MutexGuard<'_, Shadows> {
        // After a panic it is what it was.
        self.shadows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the control loop has to say.
    pub(super) const fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Takes what the control loop has said.
    pub(super) fn take_notes(&self) -> Vec<Note> {
        self.notes.take()
    }

    /// What the reports to Carbon count; only their thread writes it.
    pub(super) const fn carbon(&self) -> &CarbonStats {
        &self.carbon
    }

    /// How long the process has run.
    #[must_use]
    pub fn uptime(&self) -> TickDelta {
        clock::now().since(self.started)
    }

    /// What tells the numbers of this process from those of an earlier one.
    #[must_use]
    pub const fn process(&self) -> u64 {
        self.process
    }

    /// When it started, seconds since 1970.
    #[must_use]
    pub const fn started_unix(&self) -> u64 {
        self.started_unix
    }

    /// Whether queries are welcome: a configuration is in force, and the process does not end.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.serving.load(Acquire) && !self.is_draining()
    }

    /// Whether the process finishes what it has begun, and then ends.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Acquire)
    }

    /// From here on a configuration is in force.
    pub(super) fn serve(&self) {
        self.serving.store(true, Release);
    }

    /// A change of the configuration was refused.
    pub(super) fn count_refused(&self) {
        self.changes_refused.fetch_add(1, Relaxed);
    }

    /// A change by a command or a request was refused: `what` it was, and whose.
    pub(super) fn refused(&self, by: &str, what: &str, errors: &[String]) {
        self.count_refused();
        let what = if what.is_empty() { String::new() } else { format!(" ({})", Printable(what)) };
        for error in errors.iter().flat_map(|errors| errors.lines()) {
            tracing::warn!("a change by {by}{what} was refused: {}", Printable(shortened(error)));
        }
        self.notes().add_lines("refused", errors);
    }

    /// From here on the process ends.
    pub(super) fn drain(&self) {
        self.draining.store(true, Release);
    }

    /// What is known of a backend beside its counters.
    #[must_use]
    pub fn standing(&self, slot: BackendSlot) -> Standing {
        Standing::of(&self.live_state, slot)
    }

    /// All figures at this moment.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let mut rates = self.rates();
        // With the lock, so that no slot gets another owner in between.
        let snapshot = self.snapshot();
        let (total, recent, span) = rates.peek(&self.live_state, &snapshot, clock::now());
        drop(rates);
        let mut web = WebReading::default();
        self.web.read(&mut web);
        let mut traffic = TrafficReading::default();
        if let Ok(watched) = self.traffic() {
            watched.stats().read(&mut traffic);
        }
        let mut carbon = CarbonReading::default();
        self.carbon.read(&mut carbon);
        let used = process::usage();
        let own = ProcessReading {
            log_lines_lost: log::error().lost(),
            output_lines_lost: log::output().lost(),
            query_log_lines_lost: self.query_log_lines_lost.load(Relaxed),
            key_log_lines_lost: tls::key_log_lines_lost(),
            console_refused: console::refused(),
            generation: snapshot.generation,
            changes_refused: self.changes_refused.load(Relaxed),
            shards_behind: self
                .live_state
                .shards()
                .iter()
                .filter(|shard| shard.generation.load(Relaxed) < snapshot.generation)
                .count() as u64,
            uptime_s: self.uptime().0 / 1_000_000_000,
            cpu_user_ms: used.user_ms,
            cpu_system_ms: used.system_ms,
            resident_memory: used.memory,
        };
        let open = open_files().unwrap_or_default();
        let descriptors = figures::descriptors(self.live_state.descriptors(), open);
        let live_state = Arc::clone(&self.live_state);
        let unix = unix_seconds();
        let (network, machine) = (process::network(), process::machine());
        let shadows = self.shadows().readings();
        Figures {
            snapshot,
            live_state,
            shadows,
            total,
            recent,
            span,
            process: own,
            network,
            machine,
            descriptors,
            web,
            traffic,
            carbon,
            unix,
        }
    }

    /// Ends the interval that rates are worked out from; returns its line.
    pub(super) fn line(&self, now: Tick) -> String {
        let mut rates = self.rates();
        let snapshot = self.snapshot();
        let (interval, span) = rates.take(&self.live_state, &snapshot, now);
        drop(rates);
        line(&interval, span, &snapshot, &|slot| self.standing(slot))
    }

    /// The totals of earlier readings; a slot gets another owner only while they are held.
    pub(super) fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;
    use crate::stats::check_failure::Failure;
    use crate::stats::live::State;

    const SLOT: BackendSlot = BackendSlot(0);

    fn monitor() -> Arc<Monitor> {
        let live_state = Arc::new(LiveState::new(1, 1));
        let feed = Feed::new(Arc::new(fixture::snapshot(7, &[], &[0])), live_state);
        Arc::new(Monitor::new(&feed, Arc::new(AtomicU64::new(3))))
    }

    #[test]
    fn any_thread_takes_figures() {
        let monitor = monitor();
        monitor.live_state().shards()[0].queries.add(5);
        monitor.live_state().shards()[0].backend(SLOT).queries.add(4);
        monitor.live_state().set_state(SLOT, State::Up);
        let mut failed = [0; Failure::ALL.len()];
        failed[Failure::Network.index()] = 2;
        monitor.live_state().backend(SLOT).set_checks_failed(&failed);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let monitor = Arc::clone(&monitor);
                std::thread::spawn(move || monitor.figures())
            })
            .collect();
        for thread in threads {
            let figures = thread.join().expect("figures");
            assert_eq!((figures.total.shards.queries, figures.total.backends[&SLOT].queries), (5, 4));
            assert_eq!((figures.process.generation, figures.process.query_log_lines_lost), (7, 3));
            assert_eq!(figures.standing(SLOT), Standing { state: State::Up, failed, changes: 0 });
            assert!(figures.descriptors.open > 0);
        }
    }

    #[test]
    fn it_is_ready_between_the_first_configuration_and_the_end() {
        let monitor = monitor();
        assert!(!monitor.is_ready());
        monitor.serve();
        assert!(monitor.is_ready());
        monitor.drain();
        assert!(!monitor.is_ready() && monitor.is_draining());
    }

    #[test]
    fn figures_beside_the_line_do_not_disturb_it() {
        let monitor = monitor();
        monitor.live_state().shards()[0].queries.add(100);
        assert_eq!(monitor.figures().total.shards.queries, 100);
        let at = Tick(monitor.started.0 + 1_000_000_000);
        assert!(monitor.line(at).starts_with("q/s 100 "));
    }
}
