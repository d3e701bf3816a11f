//! `dnslob bench`: asks a name server, checks its answers and measures them.
//!
//! ```text
//!  main ── control ──► thread 0 … n: names ─► asker ─► datagrams or streams ─► server
//!   ▲                        │
//!   └────── intervals ◄──────┘      joined, shown, searched for the highest rate, reported
//! ```
//! Threads share nothing but the list of names and three numbers of `Control`.

mod asker;
mod datagrams;
mod names;
mod plan;
mod ramp;
mod streams;
mod worker;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};

use crate::base::time::{Tick, TickDelta};
use crate::config::bench::{self, BenchOptions, Load, Transport};
use crate::engine::clock;
use crate::tls::client::{CaStores, ClientSpec, ClientTls};
use crate::tools::bench::asker::{Asker, Extras, Plan};
use crate::tools::bench::datagrams::Flows;
use crate::tools::bench::names::{Names, Picker};
use crate::tools::bench::plan::Shares;
use crate::tools::bench::ramp::{Next, Search};
use crate::tools::bench::streams::Streams;
use crate::tools::bench::worker::{Control, Done, PAUSED, Setup, Worker};
use crate::tools::load::failures::Failures;
use crate::tools::load::interrupt::Interrupt;
use crate::tools::load::pace::due_before;
use crate::tools::load::progress::Progress;
use crate::tools::load::tally::{INTERVAL, Interval, Tally};
use crate::tools::load::totals::{Join, Totals};
use crate::tools::load::waiter::Waiter;
use crate::tools::load::{random, sockets, threads};
use crate::tools::report::hdr::HdrLog;
use crate::tools::report::text::grouped;
use crate::tools::report::{self, Report};

/// Time for all threads to start.
const START: TickDelta = TickDelta::from_ms(20);
/// How often signals are looked for.
const TURN: Duration = Duration::from_millis(50);

/// What a run has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was measured.
    Measured,
    /// A condition of `--fail-if` holds.
    Failed,
}

/// Runs a benchmark and prints its report.
///
/// # Errors
/// When it cannot be started or its report cannot be written, or there was no answer at all.
pub fn run(options: &BenchOptions) -> anyhow::Result<Outcome> {
    // Before signals are taken over, so that they end it.
    let names = Arc::new(Names::load(options).context("names")?);
    let list = match &options.names {
        bench::Names::File(path) => Some(("the list of names", path.as_path())),
        bench::Names::Zipf(_) | bench::Names::Random => None,
    };
    let inputs: Vec<_> = [list, options.tls.read()].into_iter().flatten().collect();
    report::check(&options.report, &inputs)?;
    let mut interrupt = Interrupt::take().context("signals")?;
    let control = Arc::new(Control::default());
    let (mut run, intervals) = Run::start(options, &names, &control, &mut interrupt)?;
    run.watch(&mut interrupt, &control, &intervals);
    run.end(options)
}

/// A run.
struct Run {
    threads: Vec<JoinHandle<Done>>,
    begin: Tick,
    end: Tick,
    begun: u64,
    rate: Option<u32>,
    join: Join,
    totals: Totals,
    search: Option<Search>,
    progress: Progress,
    log: Option<HdrLog>,
    notes: Vec<String>,
    /// When sending was stopped before the end.
    stopped: Option<Tick>,
    interrupted: bool,
}

impl Run {
    /// Starts the threads, and the run once they have opened all sockets and connections.
    fn start(
        options: &BenchOptions,
        names: &Arc<Names>,
        control: &Arc<Control>,
        interrupt: &mut Interrupt,
    ) -> anyhow::Result<(Self, Receiver<Interval>)> {
        let shares = Shares::of(options)?;
        let count = shares.threads();
        shares.check_clients(options)?;
        sockets::allow(shares.sockets() as u64)?;
        let cpus = threads::cpus(count, &options.cpus, threads::From::Last)?;
        let tls = client_tls(options).context("TLS")?;
        let mut rng = random::seeded(options.seed).context("random numbers")?;
        let search = match &options.load {
            Load::Ramp(limits) => Some(Search::new(limits.clone())),
            Load::Rate(_) | Load::Outstanding(_) => None,
        };
        let extras = Extras {
            edns: options.edns,
            dnssec: options.dnssec,
            cookie: options.cookie,
            padding: options.padding,
            verify: options.verify,
        };
        let log = options.report.hdr.as_ref().map(|path| {
            let log = HdrLog::create(path, report::unix_time(), &[]);
            log.with_context(|| path.display().to_string())
        });
        let log = log.transpose()?;
        let ((send, intervals), (prepared, ready)) = (unbounded(), unbounded());
        let mut threads = Vec::new();
        for (number, from) in shares.from.iter().enumerate() {
            let waiter = Waiter::new().context("a set of sockets")?;
            let picker = Picker::new(Arc::clone(names), random::fork(&mut rng), number, count);
            let plan = plan::of_thread(&options.load, number, count);
            let tally = Tally::new(number, Tick(0), matches!(plan, Plan::Open(_)), send.clone());
            let mut asker = Asker::new(picker, extras, plan, tally);
            let transport = match options.transport {
                Transport::Udp => {
                    let flows = Flows::open(options.target, from, &mut asker, &waiter);
                    let flows = flows.with_context(|| format!("UDP towards {}", options.target))?;
                    worker::Transport::Datagrams(flows, options.edns.unwrap_or(0))
                }
                Transport::Tcp | Transport::Tls => {
                    worker::Transport::Streams(Streams::new(options.target, from, tls.clone(), &mut asker))
                }
            };
            let (control, prepared) = (Arc::clone(control), prepared.clone());
            let (duration, timeout) = (options.duration, options.timeout);
            let setup = Setup { asker, transport, waiter, control, prepared, duration, timeout };
            let started =
                threads::start(format!("bench-{number}"), cpus[number], move || Worker::new(setup).run());
            threads.push(started.context("a thread")?);
        }
        drop(prepared);
        let open = wait(&ready, count, interrupt, control)?;
        let mut notes = shares.notes.clone();
        if options.transport != Transport::Udp && open < shares.sockets() {
            notes.push(format!(
                "{} of {} connections were open when the run began",
                grouped(open as u64),
                grouped(shares.sockets() as u64)
            ));
        }
        let begin = clock::now() + START;
        control.begin.store(begin.0, Relaxed);
        let run = Self {
            threads,
            begin,
            end: begin + options.duration,
            begun: report::unix_time(),
            rate: if let Load::Rate(rate) = options.load { Some(rate) } else { None },
            join: Join::new(count),
            totals: Totals::new(),
            search,
            progress: Progress::start(options.duration.0.div_ceil(1_000_000_000)),
            log,
            notes,
            stopped: None,
            interrupted: false,
        };
        Ok((run, intervals))
    }

    /// Follows the threads until they have ended.
    fn watch(&mut self, interrupt: &mut Interrupt, control: &Control, intervals: &Receiver<Interval>) {
        loop {
            match intervals.recv_timeout(TURN) {
                Ok(interval) => self.join.take(&interval),
                Err(_) if self.threads.iter().all(JoinHandle::is_finished) && intervals.is_empty() => break,
                Err(_) => {}
            }
            while let Some(interval) = self.join.complete() {
                self.take(&interval, control);
            }
            if interrupt.wait(Duration::ZERO) {
                if self.interrupted {
                    control.cut.store(true, Relaxed);
                } else {
                    self.interrupted = true;
                    self.stop(control);
                    self.progress.say("interrupted: waits for the answers that are outstanding");
                }
            }
        }
        self.join.end();
        while let Some(interval) = self.join.complete() {
            self.take(&interval, control);
        }
    }

    fn stop(&mut self, control: &Control) {
        control.stopping.store(true, Relaxed);
        self.stopped.get_or_insert_with(clock::now);
    }

    /// Takes an interval of all threads.
    fn take(&mut self, interval: &Interval, control: &Control) {
        if let Some(log) = &mut self.log {
            log.add(None, interval.number, &interval.latency);
        }
        let sending = self.sending();
        let begin = interval.number.saturating_mul(INTERVAL.0);
        let wanted = self.rate.and_then(|rate| {
            let until = TickDelta(sending.0.min(begin.saturating_add(INTERVAL.0)));
            (until.0 > begin).then(|| due_before(rate, until) - due_before(rate, TickDelta(begin)))
        });
        let mut note = String::new();
        let mut next = None;
        if let Some(search) = &mut self.search
            && self.stopped.is_none()
            // A rate is judged by a whole second.
            && begin + INTERVAL.0 <= sending.0
        {
            next = Some(search.next(interval));
            note = match next {
                Some(Next::Rate(rate)) => format!("; {} per second from here", grouped(rate.into())),
                Some(Next::Pause) => "; waits for the answers that are outstanding".to_owned(),
                Some(Next::Over) | None => String::new(),
            };
        }
        let row = self.totals.add(interval, wanted);
        // The last is none of a whole second.
        if row.sent + row.answered + row.lost > 0 || !interval.last {
            self.progress.show(row, &note);
        }
        match next {
            Some(Next::Rate(rate)) => control.rate.store(rate, Relaxed),
            Some(Next::Pause) => control.rate.store(PAUSED, Relaxed),
            Some(Next::Over) => self.stop(control),
            None => {}
        }
    }

    /// Returns how long queries have been sent, or will have been.
    fn sending(&self) -> TickDelta {
        self.stopped.map_or(self.end, |stopped| stopped.min(self.end)).since(self.begin)
    }

    /// Says what was measured.
    fn end(mut self, options: &BenchOptions) -> anyhow::Result<Outcome> {
        self.progress.end();
        self.totals.seconds = self.sending().0 as f64 / 1e9;
        let logged = self.log.take().map_or(Ok(()), HdrLog::end);
        let (mut failures, mut apart, mut failed) = (Failures::default(), TickDelta(0), 0);
        for thread in self.threads {
            match thread.join() {
                Ok(done) => {
                    failures.join(&done.failures);
                    apart = apart.max(done.apart);
                }
                Err(_) => failed += 1,
            }
        }
        let mut notes = self.notes;
        if apart.0 > 0 {
            notes.push(format!("there was no connection for {:.3} s", apart.0 as f64 / 1e9));
        }
        let mut totals = self.totals;
        let mut figures = totals.clone();
        let cut = match (self.stopped, self.interrupted) {
            (_, true) => Some("interrupted"),
            (None, false) => Some("the time was over"),
            (Some(_), false) => None,
        };
        let ramp = self.search.map(|search| search.end(cut));
        if let Some((_, Some(best))) = &ramp {
            // A ramp is judged by its best second, not by those that were too much.
            figures = Totals::new();
            figures.add(best, None);
            // Its time is its own, not that since the begin of the run.
            (figures.seconds, figures.answered_until) = (INTERVAL.0 as f64 / 1e9, 0.0);
            (totals.latency, totals.naive, totals.lag) =
                (best.latency.clone(), best.naive.clone(), best.lag.clone());
        }
        let held = options.report.fail_if.that_hold(&figures);
        let has_best = ramp.as_ref().is_some_and(|(_, best)| best.is_some());
        let report = Report {
            tool: "dnslob bench",
            target: options.target.to_string(),
            transport: options.transport.label(),
            load: plan::in_words(&options.load, has_best),
            threads: self.join.threads(),
            begun: self.begun,
            rate_wanted: self.rate,
            interrupted: self.interrupted,
            totals,
            ramp: ramp.map(|(ramp, _)| ramp),
            failed: held.iter().map(|(criterion, value)| format!("{criterion}: {value}")).collect(),
            failures,
            notes,
            replayed: None,
        };
        report::publish(&report, &options.report)?;
        report::logged(logged, &options.report)?;
        ensure!(failed == 0, "{failed} threads failed");
        report.ensure_answers()?;
        Ok(if report.failed.is_empty() { Outcome::Measured } else { Outcome::Failed })
    }
}

/// Waits until all threads are prepared; returns the number of connections that are open.
fn wait(
    ready: &Receiver<usize>,
    threads: usize,
    interrupt: &mut Interrupt,
    control: &Control,
) -> anyhow::Result<usize> {
    let (mut open, mut left) = (0, threads);
    while left > 0 {
        match ready.recv_timeout(TURN) {
            Ok(of_thread) => (open, left) = (open + of_thread, left - 1),
            // A thread has failed, which is told at the end.
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if interrupt.wait(Duration::ZERO) {
            control.cut.store(true, Relaxed);
            bail!("interrupted before the first query");
        }
    }
    Ok(open)
}

fn client_tls(options: &BenchOptions) -> anyhow::Result<Option<Arc<ClientTls>>> {
    if options.transport != Transport::Tls {
        return Ok(None);
    }
    let spec = ClientSpec {
        subject_name: options.tls.name.clone(),
        ca_store: options.tls.authorities.clone(),
        validate: options.tls.authorities.is_some(),
        ..ClientSpec::default()
    };
    let loaded = ClientTls::load(&spec, options.target.ip(), &mut CaStores::default())?;
    Ok(Some(Arc::new(loaded)))
}
