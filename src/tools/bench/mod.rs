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
mod ramp;
mod streams;
mod worker;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::base::time::{Tick, TickDelta};
use crate::config::bench::{BenchOptions, Load, Transport};
use crate::engine::clock;
use crate::tls::client::{CaStores, ClientSpec, ClientTls};
use crate::tools::bench::asker::{Asker, Extras, Plan};
use crate::tools::bench::datagrams::Flows;
use crate::tools::bench::names::{Names, Picker};
use crate::tools::bench::ramp::Search;
use crate::tools::bench::streams::Streams;
use crate::tools::bench::worker::{Control, Setup, Worker};
use crate::tools::load::interrupt::Interrupt;
use crate::tools::load::pace::Pace;
use crate::tools::load::progress::Progress;
use crate::tools::load::tally::{INTERVAL, Interval, Tally};
use crate::tools::load::totals::{Join, Totals};
use crate::tools::load::waiter::Waiter;
use crate::tools::load::{random, sockets, threads};
use crate::tools::report::hdr::HdrLog;
use crate::tools::report::text::grouped;
use crate::tools::report::{self, Report};

/// UDP sockets of a thread: as many as perf/src/load.c has, so that what balances by ports has some.
const SOCKETS: usize = 16;
/// Most UDP sockets of a thread.
const SOCKETS_MAX: usize = 1_024;
/// Queries that one socket may have outstanding without a delay, by its ids.
const PER_SOCKET: u64 = 16_384;
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
    let mut interrupt = Interrupt::take().context("signals")?;
    let control = Arc::new(Control::default());
    let (send, intervals) = unbounded();
    let mut run = Run::start(options, &control, send)?;
    run.watch(&mut interrupt, &control, &intervals)?;
    run.end(options)
}

/// A run.
struct Run {
    threads: Vec<JoinHandle<()>>,
    begin: Tick,
    end: Tick,
    begun: u64,
    rate: Option<u32>,
    join: Join,
    totals: Totals,
    search: Option<Search>,
    progress: Progress,
    log: Option<HdrLog>,
    /// When sending was stopped before the end.
    stopped: Option<Tick>,
    interrupted: bool,
}

impl Run {
    fn start(options: &BenchOptions, control: &Arc<Control>, send: Sender<Interval>) -> anyhow::Result<Self> {
        let count = usize::from(options.threads);
        let per_thread = addresses(options, count);
        let needed: usize = per_thread.iter().map(Vec::len).sum();
        sockets::allow(needed as u64)?;
        let names = Arc::new(Names::load(options).context("names")?);
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
            let log = HdrLog::create(path, report::unix_time());
            log.with_context(|| path.display().to_string())
        });
        let log = log.transpose()?;
        let cpus = threads::cpus(count, &options.cpus, threads::From::Last);
        // Opening thousands of sockets takes its time: the run begins behind that.
        let mut prepared = Vec::new();
        for from in &per_thread {
            let waiter = Waiter::new().context("a set of sockets")?;
            prepared.push((waiter, from));
        }
        let open_begin = clock::now() + START + TickDelta::from_us(20 * needed as u64);
        let end = open_begin + options.duration;
        let mut threads = Vec::new();
        for (number, (waiter, from)) in prepared.into_iter().enumerate() {
            let picker = Picker::new(Arc::clone(&names), random::fork(&mut rng), number, count);
            let plan = plan(&options.load, open_begin, number, count);
            let mut asker = Asker::new(picker, extras, plan, Tally::new(number, open_begin, send.clone()));
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
            let control = Arc::clone(control);
            let (begin, timeout) = (open_begin, options.timeout);
            let setup = Setup { asker, transport, waiter, control, begin, end, timeout };
            let started =
                threads::start(format!("bench-{number}"), cpus[number], move || Worker::new(setup).run());
            threads.push(started.context("a thread")?);
        }
        let rate = if let Load::Rate(rate) = options.load { Some(rate) } else { None };
        Ok(Self {
            threads,
            begin: open_begin,
            end,
            begun: report::unix_time(),
            rate,
            join: Join::new(count),
            totals: Totals::new(),
            search,
            progress: Progress::start(options.duration.0.div_ceil(1_000_000_000)),
            log,
            stopped: None,
            interrupted: false,
        })
    }

    /// Follows the threads until they have ended.
    fn watch(
        &mut self,
        interrupt: &mut Interrupt,
        control: &Control,
        intervals: &Receiver<Interval>,
    ) -> anyhow::Result<()> {
        loop {
            match intervals.recv_timeout(TURN) {
                Ok(interval) => self.join.take(&interval),
                Err(_) if self.threads.iter().all(JoinHandle::is_finished) && intervals.is_empty() => break,
                Err(_) => {}
            }
            while let Some(interval) = self.join.complete() {
                self.take(&interval, control)?;
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
            self.take(&interval, control)?;
        }
        Ok(())
    }

    fn stop(&mut self, control: &Control) {
        control.stopping.store(true, Relaxed);
        self.stopped.get_or_insert_with(clock::now);
    }

    /// Takes an interval of all threads.
    fn take(&mut self, interval: &Interval, control: &Control) -> anyhow::Result<()> {
        if let Some(log) = &mut self.log {
            log.add(interval.number, &interval.latency).context("the log of histograms")?;
        }
        let sending = self.sending();
        let wanted = self.rate.map(|rate| {
            let begin = interval.number.saturating_mul(INTERVAL.0);
            let span = sending.0.saturating_sub(begin).min(INTERVAL.0);
            (u128::from(span) * u128::from(rate) / 1_000_000_000) as u64
        });
        let mut note = String::new();
        let mut next = None;
        if let Some(search) = &mut self.search
            && self.stopped.is_none()
        {
            next = Some(search.next(interval));
            if let Some(Some(rate)) = next {
                note = format!("; {} per second from here", grouped(rate.into()));
            }
        }
        let row = self.totals.add(interval, wanted);
        if row.sent + row.answered + row.lost > 0 {
            self.progress.show(row, &note);
        }
        match next {
            Some(Some(rate)) => control.rate.store(rate, Relaxed),
            Some(None) => self.stop(control),
            None => {}
        }
        Ok(())
    }

    /// Returns how long queries have been sent, or will have been.
    fn sending(&self) -> TickDelta {
        self.stopped.map_or(self.end, |stopped| stopped.min(self.end)).since(self.begin)
    }

    /// Says what was measured.
    fn end(mut self, options: &BenchOptions) -> anyhow::Result<Outcome> {
        self.progress.end();
        self.totals.seconds = self.sending().0 as f64 / 1e9;
        if let Some(log) = self.log.take() {
            log.end().context("the log of histograms")?;
        }
        let failed = self.threads.into_iter().map(JoinHandle::join).filter(Result::is_err).count();
        let mut totals = self.totals;
        let mut figures = totals.clone();
        let ramp = self.search.map(Search::end);
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
        let report = Report {
            tool: "dnslob bench",
            target: options.target.to_string(),
            transport: options.transport.label(),
            load: in_words(&options.load),
            threads: usize::from(options.threads),
            begun: self.begun,
            rate_wanted: self.rate,
            interrupted: self.interrupted,
            totals,
            ramp: ramp.map(|(ramp, _)| ramp),
            failed: held.iter().map(|(criterion, value)| format!("{criterion}: {value}")).collect(),
            notes: Vec::new(),
            replayed: None,
        };
        report::publish(&report, &options.report)?;
        ensure!(failed == 0, "{failed} threads failed");
        if !report.failed.is_empty() {
            return Ok(Outcome::Failed);
        }
        ensure!(report.totals.counts.answered > 0, "no answer from {}", options.target);
        Ok(Outcome::Measured)
    }
}

/// Returns the addresses that each thread's sockets or connections come from.
fn addresses(options: &BenchOptions, threads: usize) -> Vec<Vec<Option<IpAddr>>> {
    let clients = options.clients.as_ref().map(sockets::Addresses::of);
    let per_thread = match options.transport {
        Transport::Tcp | Transport::Tls => (options.connections as usize).div_ceil(threads),
        Transport::Udp => {
            // Lost queries keep their ids until their time-out.
            let waiting = match options.load {
                Load::Rate(rate) => u64::from(rate) * options.timeout.0.div_ceil(1_000_000) / 1_000,
                Load::Outstanding(count) => count.into(),
                Load::Ramp(_) => 0,
            };
            let by_ids = waiting.div_ceil(PER_SOCKET) as usize / threads + 1;
            let by_clients = clients.map_or(0, |clients| {
                usize::try_from(clients.count()).unwrap_or(usize::MAX).div_ceil(threads)
            });
            by_ids.max(by_clients).clamp(SOCKETS, SOCKETS_MAX)
        }
    };
    let at = |thread: usize, number: usize| clients.map(|clients| clients.at(number * threads + thread));
    (0..threads).map(|thread| (0..per_thread).map(|number| at(thread, number)).collect()).collect()
}

fn plan(load: &Load, begin: Tick, thread: usize, threads: usize) -> Plan {
    match load {
        Load::Rate(rate) => Plan::Open(Pace::new(begin, *rate, thread, threads)),
        Load::Ramp(_) => Plan::Open(Pace::new(begin, ramp::FIRST, thread, threads)),
        Load::Outstanding(count) => {
            let (count, rest) = (*count as usize / threads, *count as usize % threads);
            Plan::Closed((count + usize::from(thread < rest)).max(1))
        }
    }
}

fn in_words(load: &Load) -> String {
    match load {
        Load::Rate(rate) => format!("{} queries per second, open loop", grouped((*rate).into())),
        Load::Outstanding(count) => format!("{} queries outstanding, closed loop", grouped((*count).into())),
        Load::Ramp(limits) => {
            format!("rising rates until {limits}, open loop; latencies are those of the best rate")
        }
    }
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
