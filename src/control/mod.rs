//! The control plane: one ordinary thread that starts, watches, changes and stops the shards.
//!
//! It may block, lock and allocate, and never touches a packet. Decisions by time or outcome are
//! made in modules that are passed both ([`health`], [`eject`], [`backend_health`], [`reload`]);
//! this one owns the clock, the signals and the sockets of the probes.
//!
//! ```text
//!  SIGHUP ─► Source::load ─► Reload ─► Feed ─► shards        SIGTERM, SIGINT ─► drain ─► end
//!  probe outcomes, live counters ─► BackendHealth ─► shards  SIGUSR1, --stats ─► Gatherer ─► stdout
//! ```

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::config::{Compiled, Flags};
use crate::control::backend_health::BackendHealth;
use crate::control::budget::Budget;
use crate::control::cache_cleaner::CacheCleaner;
use crate::control::cache_snapshots::CacheSnapshots;
use crate::control::certificate_monitor::{CertificateMonitor, unix_seconds};
use crate::control::commands::Commands;
use crate::control::configured::Configured;
use crate::control::launcher::Launcher;
use crate::control::limits::Resources;
use crate::control::monitor::Monitor;
use crate::control::plan::{
    Evaluation, Fixed, Origin, Plan, Settings, Source, WATCH, load_contained, watch_period,
};
use crate::control::probe::{Runner, Script};
use crate::control::publisher::{Feed, Vacant};
use crate::control::querylog::QueryLog;
use crate::control::reload::{Refused, Reload};
use crate::control::report::Outcome;
use crate::control::request::Refusal;
use crate::control::shards::{Edge, Shards, SocketOpener};
use crate::control::signals::Signals;
use crate::control::spoofing::SpoofingMonitor;
use crate::control::systemd::{Environment, Notifier};
use crate::control::watchdog::Watchdog;
use crate::control::web::{Api, WebServer};
use crate::engine::{clock, sys};
use crate::lua::front_end::Loaded;
use crate::model::Listener;
use crate::rules::action::DELAY_MS_MAX;
use crate::shard::ATTEMPTS_MAX;
use crate::stats::live::{LiveState, State};

mod api;
pub mod backend_health;
mod budget;
mod cache_cleaner;
mod cache_snapshots;
mod callbacks;
pub mod certificate_monitor;
mod checks;
mod commands;
pub mod concentrate;
pub mod configured;
pub mod console;
pub mod eject;
mod events;
#[cfg(test)]
pub(crate) mod fixture;
pub mod health;
mod history;
pub mod launcher;
pub mod limits;
pub mod log;
pub mod monitor;
mod notes;
pub mod plan;
pub mod preconditions;
pub mod privileges;
pub mod probe;
mod process;
pub mod publisher;
pub mod querylog;
mod rates;
pub mod reload;
mod report;
pub mod request;
mod shadows;
pub mod shards;
pub mod shutdown_handle;
pub mod signals;
mod spoofing;
pub mod stats;
mod stop;
pub mod systemd;
pub(crate) mod traffic;
mod view;
mod watchdog;
mod web;
pub mod writer;

pub use crate::control::shutdown_handle::ShutdownHandle;

/// Interval while something is imminent: a reload's acknowledgement, the end of the threads.
const SOON: TickDelta = TickDelta::from_ms(10);
/// How long removed listeners wait for a shard that does not take the new configuration. A shard
/// checks at least every 500 ms.
const ACKNOWLEDGE: TickDelta = TickDelta::from_ms(2_000);
/// Longer than all attempts of a query and the longest delay, after which a shard has closed an
/// ended listener.
const CLOSING: TickDelta = TickDelta::from_ms(5_000);

/// Serves what the command line and its file ask for until stopped; returns the exit code.
#[must_use]
pub fn run(flags: &Flags, loaded: Loaded, compiled: Compiled, signals: Signals) -> ExitCode {
    let (source, first) = Configured::new(flags.clone(), loaded, compiled);
    log::set_style(&first.settings.log);
    log::set_verbose(first.settings.verbose);
    let fixed = source.fixed();
    match run_held(source, &fixed, first, signals, None) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Each of several has a line of its own.
            error.lines().for_each(|line| tracing::error!("{line}"));
            ExitCode::FAILURE
        }
    }
}

/// The same with any source of configurations, and an optional handle to shut it down.
///
/// # Errors
/// Why it did not start, or ended unexpectedly.
pub fn run_held(
    source: impl Source,
    fixed: &Fixed,
    first: Plan,
    signals: Signals,
    shutdown_handle: Option<ShutdownHandle>,
) -> Result<(), String> {
    sys::map_large_allocations();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("the control thread: {e}"))?;
    runtime.block_on(LocalSet::new().run_until(serve(source, fixed, first, signals, shutdown_handle)))
}

async fn serve(
    source: impl Source,
    fixed: &Fixed,
    first: Plan,
    mut signals: Signals,
    mut shutdown_handle: Option<ShutdownHandle>,
) -> Result<(), String> {
    signals.attend();
    // Before there is a socket.
    let launcher = Launcher::start().map_err(|e| format!("the thread that starts programs: {e}"))?;
    let means = Resources { operators: first.settings.descriptors(), ..Resources::now(fixed.shards.len()) };
    let environment = Environment::read();
    let notifier = Notifier::connect(environment.notify.as_deref()).unwrap_or_else(|e| {
        tracing::warn!(error = %e, "cannot notify the service manager");
        Notifier::default()
    });
    let mut rng = process::entropy().map_err(|e| format!("random numbers: {e}"))?;

    // As the user of later reloads, whose sockets share ports with these, but with all capabilities
    // still held: everything that needs them, before anything is published.
    let inherited = systemd::sockets(environment.descriptors);
    privileges::assume(&fixed.identity)?;
    inherited.iter().for_each(|(_, socket)| privileges::own(socket));
    let divided = means.divide(None, &first.snapshot)?;
    let mut listener_sockets = SocketOpener::new(fixed, inherited);
    // Before anything is opened that they would be in the way of.
    listener_sockets.close_unfit(&first.snapshot.listeners);
    let mut web = WebServer::default();
    web.prepare(&first.settings.web, false)?;
    let change_rng = ShardRng::from_seed(rng.u64());
    let first = Reload::begin(None, first, &[], &mut listener_sockets, change_rng, clock::now());
    let first = first.map_err(|errors| errors.join("\n"))?;
    listener_sockets.close_unfit(&[]);
    let snapshot = Arc::clone(&first.plan().snapshot);
    privileges::shed(&fixed.identity, privileges::needs_raw_sockets(&snapshot))?;
    signals.shed();
    launcher.shed();
    // The thread that evaluated the configuration started before the capabilities were dropped.
    let shed = first.plan().script.within(Box::new(|| {
        let _ = privileges::follow();
    }));
    shed.await.map_err(|e| format!("dropping capabilities: {}", e.detail))?;

    let live_state = Arc::new(LiveState::new(fixed.shards.len(), fixed.backends_max));
    live_state.descriptors().divide(&divided.division);
    divided.warn();
    ShutdownHandle::send_live_state(shutdown_handle.as_ref(), &live_state);
    let feed = Feed::new(snapshot, Arc::clone(&live_state));
    let shards = Shards::start(fixed, &feed, listener_sockets, &mut rng)
        .map_err(|e| format!("cannot start a shard: {e}"))?;
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let mut control = Control::new(source, shards, feed, notifier, sender, first.plan(), rng)?;
    control.runner.launcher = Some(launcher);
    control.web = web;
    let rng = ShardRng::from_seed(control.rng.u64());
    control.monitor.count_traffic(&control.feed, fixed.traffic_ring, rng)?;
    let (evaluated, mut evaluations) = mpsc::unbounded_channel();
    control.evaluated = Some(evaluated);
    let (mut requests, mut pages, mut answers) = control.commands.receivers();
    control.watchdog = environment.watchdog.map(|w| Watchdog::new(w / 2, clock::now()));
    // The first change is from nothing to the configuration that the shards already hold.
    control.reload = Some(first);

    let fault = loop {
        let rest = control.wake_at().since(clock::now());
        tokio::select! {
            _ = signals.hup.recv() => control.reload_wanted = true,
            _ = signals.usr1.recv() => control.dump(),
            _ = signals.term.recv() => break None,
            _ = signals.int.recv() => break None,
            () = ShutdownHandle::stopped(&mut shutdown_handle) => break None,
            Some(outcome) = outcomes.recv() => control.settle(outcome),
            Some(()) = evaluations.recv() => control.evaluation = Evaluation::Ended,
            Some(request) = requests.recv(), if control.takes_commands() => control.run_command(request),
            Some(asked) = pages.recv() => control.make_page(asked),
            Some(answer) = answers.recv() => control.answered(answer, clock::now()),
            () = tokio::time::sleep(Duration::from(rest)) => {}
        }
        if let Err(error) = control.turn(clock::now()) {
            break Some(error);
        }
        if control.commands.stop {
            break None;
        }
    };
    control.commands.give_up((requests, pages, answers));
    // Received queries are answered, whatever the reason.
    control.stop(&mut signals).await;
    fault.map_or(Ok(()), Err)
}

/// Removed listeners that still receive.
struct Retiring {
    listeners: Vec<Arc<Listener>>,
    until: Tick,
}

/// An ended listener, and when the shards have closed its sockets.
struct Closing {
    listener: Arc<Listener>,
    closed: Tick,
}

/// The state of the control loop.
struct Control<S> {
    source: S,
    shards: Shards,
    feed: Feed,
    backend_health: BackendHealth,
    script: Rc<dyn Script>,
    settings: Settings,
    reload: Option<Reload>,
    budget: Budget,
    /// The service manager has been notified that we serve.
    serving: bool,
    /// SIGHUP was received; during a reload, another one follows.
    reload_wanted: bool,
    evaluation: Evaluation,
    /// What the evaluation is of.
    origin: Origin,
    /// Notified when the evaluation has ended.
    evaluated: Option<mpsc::UnboundedSender<()>>,
    retiring: Option<Retiring>,
    closing: Vec<Closing>,
    monitor: Arc<Monitor>,
    commands: Commands,
    web: WebServer,
    querylog: QueryLog,
    certificate_monitor: CertificateMonitor,
    spoofing: SpoofingMonitor,
    cache_cleaner: CacheCleaner,
    cache_snapshots: CacheSnapshots,
    watch_at: Tick,
    watchdog: Option<Watchdog>,
    notifier: Notifier,
    runner: Runner,
    rng: ShardRng,
    tickets: u64,
    outcomes: mpsc::UnboundedSender<Outcome>,
}

impl<S: Source> Control<S> {
    fn new(
        source: S,
        shards: Shards,
        feed: Feed,
        notifier: Notifier,
        outcomes: mpsc::UnboundedSender<Outcome>,
        first: &Plan,
        mut rng: ShardRng,
    ) -> Result<Self, String> {
        let ids = privileges::runner();
        let files = querylog::Files::open(&querylog::targets(&first.snapshot))?;
        let querylog = QueryLog::start(Arc::clone(feed.live_state()), files)
            .map_err(|e| format!("the query logs' thread: {e}"))?;
        let monitor = Monitor::new(&feed, Arc::clone(querylog.lost()));
        Ok(Self {
            source,
            budget: Budget::new(feed.live_state().descriptors(), shards.count()),
            shards,
            backend_health: BackendHealth::new(Arc::clone(feed.live_state()), ShardRng::from_seed(rng.u64())),
            feed,
            script: Rc::clone(&first.script),
            settings: first.settings.clone(),
            reload: None,
            serving: false,
            reload_wanted: false,
            evaluation: Evaluation::None,
            origin: Origin::File,
            evaluated: None,
            retiring: None,
            closing: Vec::new(),
            monitor: Arc::new(monitor),
            commands: Commands::start(first.settings.console.as_ref())?,
            web: WebServer::default(),
            querylog,
            certificate_monitor: CertificateMonitor::default(),
            spoofing: SpoofingMonitor::default(),
            cache_cleaner: CacheCleaner::default(),
            cache_snapshots: CacheSnapshots::begin(&first.snapshot),
            watch_at: clock::now() + WATCH,
            watchdog: None,
            notifier,
            runner: Runner { launcher: None, uid: ids.map(|(uid, _)| uid), gid: ids.map(|(_, gid)| gid) },
            rng,
            tickets: 0,
            outcomes,
        })
    }

    /// Returns when the next thing is due.
    fn wake_at(&self) -> Tick {
        let now = clock::now();
        if self.reload_due() || self.evaluation == Evaluation::Ended || self.may_commit(now) {
            return now;
        }
        let waits = self.retiring.is_some() || self.reload.as_ref().is_some_and(Reload::is_ready);
        let soon = waits.then(|| now + SOON);
        let probes = [self.backend_health.next(), self.reload.as_ref().and_then(Reload::next)];
        let cleaning = self.cache_cleaner.at(&self.feed.current());
        let watchdog = self.watchdog.as_ref().map(|w| w.at);
        let due =
            [Some(self.watch_at), Some(self.monitor.rates().at(&self.settings)), watchdog, soon, cleaning];
        due.into_iter().chain(probes).flatten().min().unwrap_or(now)
    }

    /// Does everything that is due.
    fn turn(&mut self, now: Tick) -> Result<(), String> {
        if let Some(shard) = self.shards.ended().first() {
            return Err(format!("shard {shard} ended unexpectedly"));
        }
        if self.reload_due() {
            self.reload_wanted = false;
            self.evaluate(Origin::File, now);
        }
        if self.evaluation == Evaluation::Ended {
            self.evaluation = Evaluation::None;
            // Compiling may take long, and begins up to half the watchdog interval after the last
            // notice.
            self.notify_alive();
            self.load(now);
            self.notify_alive();
        }
        self.probe(now);
        if self.may_commit(now) {
            self.commit(now)?;
        }
        self.retire(now);
        if now >= self.watch_at {
            let snapshot = self.feed.current();
            self.watch_at = now + watch_period(&snapshot);
            self.feed.drop_former();
            self.backend_health.watch(&snapshot, now);
            spoofing::log(&self.spoofing.turn(&snapshot, self.feed.live_state(), now));
            self.budget.warn(now);
            if self.reload.is_none() && self.ending(now).is_empty() {
                self.budget.reclaim(&snapshot);
            }
        }
        let live_state = self.feed.live_state();
        self.monitor.shadows().turn(&self.feed.current(), live_state, now);
        let is_up = |slot| live_state.backend(slot).state() == State::Up;
        self.cache_cleaner.turn(&self.feed.current(), is_up, now);
        let warnings = self.certificate_monitor.turn(&self.feed.current(), now, unix_seconds());
        self.monitor.notes().warn("certificate", &warnings);
        self.tell();
        if now >= self.monitor.rates().at(&self.settings) {
            self.print_line(now);
        }
        self.notifier.retry();
        if self.serving && self.watchdog.as_mut().is_some_and(|w| w.is_alive(self.feed.live_state(), now)) {
            self.notifier.alive();
        }
        Ok(())
    }

    /// Sends an extra sign of life, unless the shards last seemed to hang.
    fn notify_alive(&mut self) {
        if self.serving
            && self.watchdog.as_mut().is_some_and(|w| w.was_alive(self.feed.live_state(), clock::now()))
        {
            self.notifier.alive();
        }
    }

    /// Returns whether a reload is requested and none is in progress.
    fn reload_due(&self) -> bool {
        let changing = self.reload.is_some() || self.evaluation != Evaluation::None;
        self.reload_wanted && !changing && !self.commands.is_evaluating()
    }

    /// Starts evaluating the configuration on another thread.
    fn evaluate(&mut self, origin: Origin, now: Tick) {
        if origin == Origin::File {
            self.notifier.reloading(now.0 / 1_000);
            tracing::info!("reloading the configuration");
            self.monitor.notes().add("reload", "the configuration is read again");
        }
        self.evaluation = Evaluation::Running;
        self.origin = origin;
        let evaluated = self.evaluated.clone();
        let ending = self.ending(now);
        let vacancies = Vacant { feed: &self.feed, ending: &ending };
        let ended = move || {
            // The control loop may have ended.
            let _ = evaluated.map(|e| e.send(()));
        };
        self.source.begin(origin, &vacancies, Box::new(ended));
    }

    /// Returns listeners of earlier changes whose sockets may still be open.
    fn ending(&mut self, now: Tick) -> Vec<Arc<Listener>> {
        self.closing.retain(|c| c.closed > now);
        let retiring = self.retiring.iter().flat_map(|l| &l.listeners);
        self.closing.iter().map(|c| &c.listener).chain(retiring).cloned().collect()
    }

    /// Returns whether the pending change can commit: its servers have been checked, and
    /// descriptors for its sockets are free.
    fn may_commit(&self, now: Tick) -> bool {
        self.reload.as_ref().is_some_and(Reload::is_ready) && self.budget.is_ready(now)
    }

    /// Makes a change from the evaluation; on any error the current configuration stays.
    fn load(&mut self, now: Tick) {
        let ending = self.ending(now);
        let old = self.feed.current();
        let rng = ShardRng::from_seed(self.rng.u64());
        let loaded = load_contained(&mut self.source);
        if self.commands.is_dry_run() {
            let tried = loaded.map(|plan| plan.changes).map_err(Refusal::Wrong);
            self.source.refuse(&[]);
            self.commands.end(tried, old.generation);
            return;
        }
        let begun = loaded.and_then(|plan| {
            self.budget.operators = self.settings.descriptors().max(plan.settings.descriptors());
            self.budget.begin(&old, &plan.snapshot, now).map_err(|e| vec![e])?;
            self.commands.prepare(plan.settings.console.as_ref()).map_err(|e| vec![e])?;
            self.web.prepare(&plan.settings.web, self.asks_for_web(&plan.settings)).map_err(|e| vec![e])?;
            Reload::begin(Some(&old), plan, &ending, &mut self.shards, rng, now)
        });
        match begun {
            Ok(reload) => self.reload = Some(reload),
            Err(errors) => self.refuse(&errors),
        }
    }

    fn refuse(&mut self, errors: &[String]) {
        self.budget.refuse();
        self.web.discard();
        self.source.refuse(&[]);
        if self.commands.refuse(errors, self.generation(), &self.monitor) {
            return;
        }
        self.monitor.count_refused();
        for error in errors {
            tracing::error!("{error}");
        }
        tracing::error!(errors = errors.len(), "reload refused: the running configuration is kept");
        self.monitor.notes().add_lines("refused", errors);
        // Files may have been rotated all the same.
        self.querylog.reopen(querylog::targets(&self.feed.current()));
        self.ready();
    }

    /// Commits the pending change. Only the first one's failure ends the process.
    fn commit(&mut self, now: Tick) -> Result<(), String> {
        let Some(reload) = self.reload.take() else { return Ok(()) };
        // Until it is published, nobody takes figures.
        let mut rates = self.monitor.rates();
        let gatherer = &mut rates.gatherer;
        let committed = reload.commit(&mut self.shards, &self.feed, &mut self.backend_health, gatherer, now);
        drop(rates);
        match committed {
            Ok((plan, done)) => {
                for change in &plan.changes {
                    tracing::info!("{}", crate::base::printable::shortened(change));
                }
                let (generation, servers) =
                    (plan.snapshot.generation, plan.snapshot.backends.iter().flatten().count());
                tracing::info!(generation, servers, listeners = plan.snapshot.listeners.len(), "serving");
                if plan.serves_nothing() {
                    tracing::warn!(
                        "the configuration has no server, relay or rule: queries cannot be answered"
                    );
                }
                if self.origin == Origin::File {
                    self.monitor.has_read(&plan.snapshot);
                }
                self.script = plan.script;
                self.settings = plan.settings;
                self.commands.adopt(self.settings.console.as_ref());
                log::set_style(&self.settings.log);
                self.budget.operators = self.settings.descriptors();
                self.web.adopt(&self.settings.web, &self.monitor, || {
                    Api::new(self.commands.requests(), self.commands.pages())
                });
                log::set_verbose(self.settings.verbose);
                self.querylog.set_verbose(self.settings.verbose);
                self.querylog.reopen(querylog::targets(&plan.snapshot));
                self.cache_snapshots.adopt(&plan.snapshot);
                if self.serving {
                    self.source.accept();
                }
                self.budget.accept();
                self.serving = true;
                self.monitor.serve();
                let warnings = self.certificate_monitor.adopt(&self.feed.current(), now, unix_seconds());
                self.monitor.notes().warn("certificate", &warnings);
                self.monitor.notes().add_lines("change", &plan.changes);
                if !done.removed.is_empty() {
                    // Listeners of an earlier change are retired at the latest here.
                    self.retire(Tick(u64::MAX));
                    self.retiring = Some(Retiring { listeners: done.removed, until: now + ACKNOWLEDGE });
                }
                self.ready();
                self.commands.end(Ok(plan.changes), generation);
                Ok(())
            }
            Err(Refused { error, ending }) if self.serving => {
                self.source.refuse(&ending.iter().map(|l| l.slot).collect::<Vec<_>>());
                self.close(ending);
                self.refuse(&[error]);
                Ok(())
            }
            Err(Refused { error, .. }) => Err(error),
        }
    }

    fn ready(&self) {
        let snapshot = self.feed.current();
        let servers = snapshot.backends.iter().flatten().count();
        self.notifier.ready(&format!("Configuration {} with {servers} servers", snapshot.generation));
    }

    /// Ends removed listeners when every shard uses the new configuration, or after the time-out.
    fn retire(&mut self, now: Tick) {
        let Some(retiring) = &self.retiring else { return };
        let behind = self.feed.behind();
        if !behind.is_empty() && now < retiring.until {
            return;
        }
        if !behind.is_empty() {
            tracing::warn!(shards = ?behind, "these shards do not use the new configuration yet");
        }
        reload::retire(&retiring.listeners, &mut self.shards);
        if let Some(retiring) = self.retiring.take() {
            self.close(retiring.listeners);
        }
    }

    /// Remembers ended listeners until the shards have closed them.
    fn close(&mut self, listeners: Vec<Arc<Listener>>) {
        let waits = self.feed.current().backends.iter().flatten().map(|b| b.timeout).max();
        let closed = clock::now()
            + TickDelta(waits.unwrap_or_default().0.saturating_mul(ATTEMPTS_MAX))
            + TickDelta::from_ms(DELAY_MS_MAX.into())
            + CLOSING;
        self.closing.extend(listeners.into_iter().map(|listener| Closing { listener, closed }));
    }

    fn print_line(&self, now: Tick) {
        let line = self.monitor.line(now);
        if self.settings.stats.is_some() {
            log::output().push(format!("{line}\n").as_bytes());
        }
    }

    fn dump(&self) {
        log::output().push(stats::dump::text(&self.monitor.figures()).as_bytes());
    }
}
