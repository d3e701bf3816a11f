//! `dnslob replay`: sends the queries of a capture to a server, or to two, when they had been sent, and
//! compares the answers.
//!
//! ```text
//!  capture ─► reader: feeder ─► batches ─► thread 0 … n: datagrams, sessions ─► server(s)
//!                                             │   ▲ answers ─► ledger: measured, compared
//!  main ◄── intervals, outcomes ──────────────┘
//! ```
//! Every client has its thread, which sends its queries in their order. The reader is ahead by a bounded
//! number of batches, so that neither the size of a capture nor its rate takes memory.

mod batch;
mod datagrams;
mod feeder;
pub mod filter;
mod flights;
mod ledger;
mod reader;
mod schedule;
mod sessions;
mod stamp;
mod times;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use ahash::RandomState;
use anyhow::{Context, bail, ensure};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, unbounded};

use crate::base::time::{Tick, TickDelta};
use crate::compare::Outcomes;
use crate::config::criteria::{Figures, Within};
use crate::config::replay::{Carrier, ReplayOptions, Timing};
use crate::engine::clock;
use crate::tls::client::{CaStores, ClientSpec, ClientTls};
use crate::tools::bench::Outcome;
use crate::tools::load::failures::Failures;
use crate::tools::load::interrupt::Interrupt;
use crate::tools::load::progress::Progress;
use crate::tools::load::spans::Spans;
use crate::tools::load::tally::{Interval, Tally};
use crate::tools::load::totals::{Join, Totals};
use crate::tools::load::waiter::Waiter;
use crate::tools::load::{random, sockets, threads};
use crate::tools::replay::feeder::Silence;
use crate::tools::replay::filter::Left;
use crate::tools::replay::ledger::{Against, Ledger};
use crate::tools::replay::reader::{BATCHES, Read, Reader};
use crate::tools::replay::sessions::Target;
use crate::tools::replay::times::{lasting, lateness, waits, wanted};
use crate::tools::replay::worker::{Control, Done, Setup, Worker};
use crate::tools::report::hdr::HdrLog;
use crate::tools::report::text::grouped;
use crate::tools::report::{self, Compared, Replayed, Report, Second};

/// What targets are called where there are two.
const TARGETS: [&str; 2] = ["first", "second"];
/// Connections at a time where nothing is said.
const CONNECTIONS: u64 = 10_000;
/// Time for all threads to start.
const START: TickDelta = TickDelta::from_ms(20);
/// How often signals are looked for.
const TURN: Duration = Duration::from_millis(50);

/// Replays a capture and prints its report.
///
/// # Errors
/// When it cannot be started or its report cannot be written, or there was no answer at all.
pub fn run(options: &ReplayOptions) -> anyhow::Result<Outcome> {
    let inputs = [Some(("the capture", options.capture.as_path())), options.tls.read()];
    report::check(&options.report, &inputs.into_iter().flatten().collect::<Vec<_>>())?;
    let mut interrupt = Interrupt::take().context("signals")?;
    let mut run = Run::start(options, &mut interrupt)?;
    run.watch(&mut interrupt);
    run.end(options)
}

/// What comes from the threads about one target.
struct Measured {
    intervals: Receiver<Interval>,
    join: Join,
    totals: Totals,
}

/// A run.
struct Run {
    reader: JoinHandle<Read>,
    threads: Vec<JoinHandle<Done>>,
    threads_begun: usize,
    control: Arc<Control>,
    begin: Tick,
    begun: u64,
    measured: Vec<Measured>,
    progress: Progress,
    /// Bytes of the capture, unless it is a pipe.
    length: Option<u64>,
    is_timed: bool,
    silences: Receiver<Silence>,
    /// The next one.
    silence: Option<Silence>,
    log: Option<HdrLog>,
    interrupted: bool,
}

impl Run {
    fn start(options: &ReplayOptions, interrupt: &mut Interrupt) -> anyhow::Result<Self> {
        let count = threads_of(options);
        let targets: Vec<SocketAddr> = [options.target].into_iter().chain(options.second).collect();
        let mut rng = random::seeded(None).context("random numbers")?;
        let hasher = RandomState::with_seeds(rng.u64(), rng.u64(), rng.u64(), rng.u64());
        let plans = plans(options, &targets, count as u64, &hasher)?;
        let log = options.report.hdr.as_ref().map(|path| {
            let names = targets.iter().map(ToString::to_string).collect::<Vec<_>>();
            let tags: Vec<(&str, &str)> = TARGETS.into_iter().zip(names.iter().map(String::as_str)).collect();
            let tags = if targets.len() > 1 { tags.as_slice() } else { &[] };
            let log = HdrLog::create(path, report::unix_time(), tags);
            log.with_context(|| path.display().to_string())
        });
        let log = log.transpose()?;
        let control = Arc::new(Control::default());
        let (outputs, inputs): (Vec<_>, Vec<_>) = (0..count).map(|_| bounded(BATCHES)).unzip();
        let (ready, begun) = bounded(1);
        let (told, silences) = unbounded();
        let reader = Reader::open(options, rng.u64(), outputs, Arc::clone(&control), ready, told)?;
        let reader =
            threads::start("replay-reader".to_owned(), None, move || reader.run()).context("a thread")?;
        wait(&begun, interrupt)?;
        let begin = clock::now() + START + Reader::delay(options);
        let (sends, intervals): (Vec<_>, Vec<_>) = targets.iter().map(|_| unbounded()).unzip();
        let cpus = threads::cpus(count, &options.cpus, threads::From::Last)?;
        let against = match (options.second, options.ignore_recorded) {
            (Some(_), _) => Against::Second,
            (None, true) => Against::Nothing,
            (None, false) => Against::Recorded,
        };
        let mut threads = Vec::new();
        for (number, jobs) in inputs.into_iter().enumerate() {
            let is_timed = options.timing != Timing::Max;
            let tallies =
                sends.iter().map(|send| Tally::new(number, begin, is_timed, send.clone())).collect();
            let first = rng.u64() as u32;
            let setup = Setup {
                ledger: Ledger::new(first, tallies, against, options.aspects, options.timeout),
                datagrams: datagrams::Plan { most: share(plans.0.most, number, count), ..plans.0.clone() },
                sessions: sessions::Plan { most: share(plans.1.most, number, count), ..plans.1.clone() },
                waiter: Waiter::new().context("a set of sockets")?,
                control: Arc::clone(&control),
                jobs,
                begin,
                is_timed,
                timeout: options.timeout,
            };
            let started =
                threads::start(format!("replay-{number}"), cpus[number], move || Worker::new(setup).run());
            threads.push(started.context("a thread")?);
        }
        let measured = intervals.into_iter().map(|intervals| Measured {
            intervals,
            join: Join::new(count),
            totals: Totals::new(),
        });
        let length = options.capture.metadata().ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
        Ok(Self {
            reader,
            threads,
            threads_begun: count,
            control,
            begin,
            begun: report::unix_time(),
            measured: measured.collect(),
            progress: Progress::of_bytes(length),
            length,
            is_timed: options.timing != Timing::Max,
            silences,
            silence: None,
            log,
            interrupted: false,
        })
    }

    /// Follows the threads until they have ended.
    fn watch(&mut self, interrupt: &mut Interrupt) {
        loop {
            let is_over = self.threads.iter().all(JoinHandle::is_finished);
            for (number, of) in self.measured.iter_mut().enumerate() {
                if number == 0
                    && let Ok(interval) = of.intervals.recv_timeout(TURN)
                {
                    of.join.take(&interval);
                }
                while let Ok(interval) = of.intervals.try_recv() {
                    of.join.take(&interval);
                }
                if is_over {
                    of.join.end();
                }
            }
            for target in 0..self.measured.len() {
                while let Some(interval) = self.measured[target].join.complete() {
                    self.take(target, &interval);
                }
            }
            if is_over {
                return;
            }
            self.show_place();
            self.say_silence();
            if interrupt.wait(Duration::ZERO) {
                let already = std::mem::replace(&mut self.interrupted, true);
                self.control.stopping.store(true, Relaxed);
                self.control.cut.store(already, Relaxed);
                if !already {
                    self.progress.say("interrupted: waits for the answers that are outstanding");
                }
            }
        }
    }

    /// Says when the next query is due, if that is long to come.
    fn say_silence(&mut self) {
        let passed = clock::now().since(self.begin);
        if self.silence.is_none() {
            self.silence = self.silences.try_recv().ok();
        }
        let begun = self.silence.take_if(|(from, _)| *from < passed);
        if let Some((from, until)) = begun.filter(|(_, until)| passed < *until) {
            let left = grouped((until.0 - passed.0).div_ceil(1_000_000_000));
            let from = grouped(from.0 / 1_000_000_000);
            self.progress
                .say(&format!("nothing is due for {left} s: the capture is silent behind second {from}"));
        }
    }

    /// Shows how far it is: by the times at which queries are due, if they have some.
    fn show_place(&self) {
        let Some(length) = self.length else { return };
        let (done, of) = if self.is_timed {
            (clock::now().since(self.begin).0, self.control.whole(length))
        } else {
            (self.control.done.load(Relaxed), length)
        };
        self.progress.reach(done, of);
    }

    /// Takes an interval of all threads about a target.
    fn take(&mut self, target: usize, interval: &Interval) {
        let name = (self.measured.len() > 1).then(|| TARGETS[target]);
        if let Some(log) = &mut self.log {
            log.add(name, interval.number, &interval.latency);
        }
        let row = self.measured[target].totals.add(interval, None);
        if row.sent + row.answered + row.lost > 0 {
            self.progress.show_second(name.unwrap_or_default(), row);
        }
    }

    /// Says what was measured.
    fn end(mut self, options: &ReplayOptions) -> anyhow::Result<Outcome> {
        self.progress.end();
        let logged = self.log.take().map_or(Ok(()), HdrLog::end);
        let (mut outcomes, mut notes, mut failed) = (Outcomes::default(), Vec::new(), 0);
        let (mut until, mut asked_until, mut own_lag) = ([self.begin; 2], self.begin, Spans::new());
        let mut failures = <[Failures; 2]>::default();
        for thread in self.threads {
            match thread.join() {
                Ok(done) => {
                    outcomes.join(done.outcomes);
                    failures.iter_mut().zip(&done.failures).for_each(|(all, of)| all.join(of));
                    notes.extend(done.notes);
                    until.iter_mut().zip(done.sent_until).for_each(|(all, of)| *all = of.max(*all));
                    asked_until = asked_until.max(done.asked_until);
                    own_lag.add(&done.own_lag);
                }
                Err(_) => failed += 1,
            }
        }
        let read = self.reader.join().ok().context("the thread that reads the capture failed")?;
        if let Some(error) = &read.error {
            notes.push(format!("the capture could not be read further: {error}"));
        }
        outcomes.examples.sort_by_key(|example| example.class.index());
        let mut all = self.measured.into_iter().map(|of| of.totals);
        let mut totals = all.next().unwrap_or_else(Totals::new);
        let mut second = all.next();
        for (of, until) in [Some(&mut totals), second.as_mut()].into_iter().zip(until) {
            let Some(of) = of else { continue };
            of.seconds = lasting(until.since(self.begin), of.counts.sent);
            for row in &mut of.rows {
                row.wanted = usize::try_from(row.second).ok().and_then(|n| read.fed.wanted.get(n)).copied();
            }
        }
        let wanted = wanted(options, &read);
        notes.extend(lateness(&own_lag, wanted, lasting(asked_until.since(self.begin), own_lag.len())));
        for (name, of) in TARGETS.into_iter().zip([Some(&totals), second.as_ref()]) {
            let of_target = if second.is_some() { format!(" to the {name}") } else { String::new() };
            notes.extend(of.and_then(|of| waits(&own_lag, of, &of_target)));
        }
        let compares = options.second.is_some() || read.fed.paired > 0;
        let judged =
            Judged { first: &totals, totals: second.as_ref().unwrap_or(&totals), outcomes: &outcomes };
        let held = options.report.fail_if.that_hold(&judged);
        let held: Vec<String> =
            held.iter().map(|(criterion, value)| format!("{criterion}: {value}")).collect();
        if read.fed.twins * 5 >= read.fed.queries * 2 && read.fed.twins > 0 {
            notes.push(format!(
                "{} queries come again at once: the packets seem to be captured twice, and are sent twice",
                grouped(read.fed.twins)
            ));
        }
        let [failures, to_second] = failures;
        let compared = compares.then(|| Compared {
            with: options.second.map_or_else(|| "the capture".to_owned(), |_| options.target.to_string()),
            aspects: options.aspects.to_string(),
            outcomes,
        });
        let report = Report {
            tool: "dnslob replay",
            target: options.target.to_string(),
            transport: options.carrier.label(),
            load: in_words(options),
            threads: self.threads_begun,
            begun: self.begun,
            rate_wanted: wanted,
            interrupted: self.interrupted,
            totals,
            ramp: None,
            failed: held,
            failures,
            notes,
            replayed: Some(Replayed {
                capture: capture(&read),
                second: options.second.zip(second).map(|(target, totals)| Second {
                    target: target.to_string(),
                    totals,
                    failures: to_second,
                }),
                compared,
            }),
        };
        report::publish(&report, &options.report)?;
        report::logged(logged, &options.report)?;
        ensure!(failed == 0, "{failed} threads failed");
        if read.fed.queries == 0 {
            let why = read.error.unwrap_or_else(|| "it has none, or they are left out".to_owned());
            bail!("no query of {} was to be sent: {why}", options.capture.display());
        }
        report.ensure_answers()?;
        match read.error {
            _ if !report.failed.is_empty() => Ok(Outcome::Failed),
            Some(error) => bail!("the capture could not be read further: {error}"),
            None => Ok(Outcome::Measured),
        }
    }
}

/// What conditions are on: the figures of the target that is judged. What either was not sent is not
/// compared.
struct Judged<'t> {
    first: &'t Totals,
    totals: &'t Totals,
    outcomes: &'t Outcomes,
}

impl Judged<'_> {
    /// Returns the figures of the target that was not sent more of the queries.
    fn least_sent(&self) -> &Totals {
        if self.first.unsent() > self.totals.unsent() { self.first } else { self.totals }
    }
}

impl Figures for Judged<'_> {
    fn percentile_ns(&self, percentile: f64) -> Option<Within> {
        self.totals.percentile_ns(percentile)
    }
    fn lag_ns(&self, percentile: f64) -> Option<Within> {
        self.totals.lag_ns(percentile)
    }
    fn mean_ns(&self) -> Option<f64> {
        self.totals.mean_ns()
    }
    fn max_ns(&self) -> Option<u64> {
        self.totals.max_ns()
    }
    fn sent(&self) -> u64 {
        self.totals.sent()
    }
    fn unsent(&self) -> u64 {
        self.least_sent().unsent()
    }
    fn due(&self) -> u64 {
        self.least_sent().due()
    }
    fn lost(&self) -> u64 {
        self.totals.lost()
    }
    fn wrong(&self) -> u64 {
        self.totals.wrong()
    }
    fn with_code(&self, code: u16) -> u64 {
        self.totals.with_code(code)
    }
    fn rate(&self) -> f64 {
        self.totals.rate()
    }
    fn different(&self) -> Option<u64> {
        self.outcomes.any().then(|| self.outcomes.different())
    }
    fn worse(&self) -> Option<u64> {
        self.outcomes.any().then(|| self.outcomes.worse())
    }
}

/// Waits until there is something to send, or nothing will come.
fn wait(begun: &Receiver<()>, interrupt: &mut Interrupt) -> anyhow::Result<()> {
    loop {
        match begun.recv_timeout(TURN) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) if interrupt.wait(Duration::ZERO) => {
                bail!("interrupted before there was a query");
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Returns how many threads send: each has a socket, or a connection.
fn threads_of(options: &ReplayOptions) -> usize {
    let sockets = match options.carrier {
        Carrier::Udp | Carrier::Recorded => options.sockets,
        Carrier::Tcp | Carrier::Tls => u32::MAX,
    };
    let connections = match options.carrier {
        Carrier::Udp => u32::MAX,
        Carrier::Recorded | Carrier::Tcp | Carrier::Tls => options.connections.unwrap_or(u32::MAX),
    };
    // Both are limited to millions.
    usize::from(options.threads).min(sockets.min(connections) as usize).max(1)
}

/// Returns a thread's part of all.
fn share(all: usize, thread: usize, threads: usize) -> usize {
    all / threads + usize::from(thread < all % threads)
}

/// Makes sure that there may be so many sockets, and says what all threads open them for.
fn plans(
    options: &ReplayOptions,
    targets: &[SocketAddr],
    threads: u64,
    hasher: &RandomState,
) -> anyhow::Result<(datagrams::Plan, sessions::Plan)> {
    let by_datagrams = !matches!(options.carrier, Carrier::Tcp | Carrier::Tls);
    if options.spoof {
        ensure!(
            targets.windows(2).all(|pair| pair[0].is_ipv4() == pair[1].is_ipv4()),
            "--spoof-sources: both servers have to be of one address family, as the clients are"
        );
        for target in targets {
            sockets::ask_transparently(*target).context(
                "--spoof-sources: sending from other addresses needs CAP_NET_ADMIN: run it as root, or give the \
                 program the right with 'setcap cap_net_admin+ep'",
            )?;
        }
    }
    let ports = sockets::ports();
    if by_datagrams && u64::from(options.sockets) > ports {
        bail!(
            "{} sockets need a port each, and the system has {ports} for them: use --sockets {ports}, or widen \
             net.ipv4.ip_local_port_range",
            options.sockets
        );
    }
    let servers = targets.len() as u64;
    let flows = if by_datagrams { u64::from(options.sockets) } else { 0 };
    let connections = match (options.carrier, options.connections) {
        (Carrier::Udp, _) => 0,
        (_, Some(connections)) => connections.into(),
        (_, None) => {
            let most = (sockets::limit()? / servers).saturating_sub(flows);
            CONNECTIONS.min(most.max(threads))
        }
    };
    let few = if flows + connections > threads {
        "too many sockets: lower --sockets or --connections, or allow more files"
    } else {
        "too few files: allow more"
    };
    sockets::allow((flows + connections) * servers).context(few)?;
    let streams =
        targets.iter().map(|address| Ok(Target { address: *address, tls: client_tls(options, *address)? }));
    let streams: anyhow::Result<Vec<Target>> = streams.collect();
    let datagrams = datagrams::Plan {
        targets: targets.to_vec(),
        most: options.sockets as usize,
        spoof: options.spoof,
        hasher: hasher.clone(),
    };
    let sessions = sessions::Plan {
        targets: streams.context("TLS")?,
        most: connections as usize,
        idle: options.idle,
        timeout: options.timeout,
        spoof: options.spoof,
        hasher: hasher.clone(),
    };
    Ok((datagrams, sessions))
}

fn client_tls(options: &ReplayOptions, target: SocketAddr) -> anyhow::Result<Option<Arc<ClientTls>>> {
    if options.carrier != Carrier::Tls {
        return Ok(None);
    }
    let spec = ClientSpec {
        subject_name: options.tls.name.clone(),
        ca_store: options.tls.authorities.clone(),
        validate: options.tls.authorities.is_some(),
        ..ClientSpec::default()
    };
    Ok(Some(Arc::new(ClientTls::load(&spec, target.ip(), &mut CaStores::default())?)))
}

fn in_words(options: &ReplayOptions) -> String {
    let capture = options.capture.display();
    match options.timing {
        Timing::Speed(speed) if (speed - 1.0).abs() < f64::EPSILON => {
            format!("{capture} as recorded, open loop")
        }
        Timing::Speed(speed) => format!("{capture} at {speed} times its speed, open loop"),
        Timing::Rate(rate) => {
            format!("{capture} at {} queries per second, open loop", grouped(rate.into()))
        }
        Timing::Max => format!("{capture} as fast as possible"),
    }
}

/// Says what the capture had.
fn capture(read: &Read) -> Vec<(String, u64)> {
    let counts = &read.counts;
    let mut all = vec![
        ("packets".to_owned(), counts.packets),
        ("queries".to_owned(), counts.queries),
        ("responses".to_owned(), counts.responses),
        ("connections".to_owned(), counts.connections),
        ("taken".to_owned(), read.fed.queries),
        ("recorded answers".to_owned(), read.fed.paired),
        ("responses of no query".to_owned(), read.fed.unpaired),
        ("captured twice".to_owned(), read.fed.twins),
        ("clock set back".to_owned(), read.fed.steps),
        ("odd times".to_owned(), counts.odd_times),
        ("without client subnet".to_owned(), read.fed.unstamped),
    ];
    all.extend(
        Left::ALL.iter().map(|left| (format!("left out: {}", left.label()), read.fed.left[left.index()])),
    );
    all.extend(counts.reasons().map(|(label, _, n)| (format!("skipped: {label}"), n)));
    all.retain(|(name, n)| *n > 0 || matches!(name.as_str(), "packets" | "queries" | "responses" | "taken"));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_what_there_is_and_no_more() {
        for all in [1, 2, 3, 64, 1_000] {
            for count in 1..=all.min(9) {
                let shares: Vec<usize> = (0..count).map(|thread| share(all, thread, count)).collect();
                assert_eq!(shares.iter().sum::<usize>(), all, "{shares:?}");
                assert!(shares.iter().all(|share| share.abs_diff(all / count) <= 1), "{shares:?}");
            }
        }
        let threads = |arguments: &[&str]| {
            let all = ["replay", "x", "127.0.0.1", "--threads", "8"].iter().chain(arguments);
            let matches = crate::config::replay::command().try_get_matches_from(all).expect("options");
            threads_of(&crate::config::replay::options(&matches))
        };
        assert_eq!(threads(&[]), 8);
        assert_eq!(threads(&["--sockets", "3"]), 3, "each has a socket");
        assert_eq!(threads(&["--connections", "2"]), 2);
        assert_eq!(threads(&["--sockets", "3", "--transport", "tcp"]), 8, "there are none");
        assert_eq!(threads(&["--sockets", "3", "--transport", "udp", "--connections", "2"]), 3);
    }
}
