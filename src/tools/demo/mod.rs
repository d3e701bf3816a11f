//! `dnslob demo`: load, balancer and backends in one process.
//!
//! ```text
//!  load ──► balancer (control plane, shards) ──► b1 … bn, each with a cache
//!    └────────────► table ◄── live state ───────────┘
//! ```
//! At 40 % of the time the second backend falls silent, its socket still open; at 65 % it answers
//! again, its cache empty. The table shows the consequences, the summary accounts for every query.
//! Everything runs on loopback, on ports of the kernel's choice.

#![expect(clippy::disallowed_methods, reason = "a live table is drawn so often")]

mod account;
mod backend;
mod balancer;
mod load;
mod summary;
mod table;

use std::fs;
use std::io::{self, Read};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::config::DemoOptions;
use crate::control::log;
use crate::control::stats::{Gatherer, Reading};
use crate::engine::clock;
use crate::stats::histogram::{BUCKETS, bucket_ns};
use crate::stats::live::{PPM, State};

use crate::tools::demo::account::{Account, KernelDrops};
use crate::tools::demo::backend::Embedded;
use crate::tools::demo::balancer::Balancer;
use crate::tools::demo::load::{Load, Tally};
use crate::tools::demo::summary::{Outage, Summary};
use crate::tools::demo::table::{Frame, Row, Screen, Standing, Table};
use crate::tools::report::text::grouped;

/// Shortest duration, seconds: below, the outage is over before it is noticed.
pub const SECONDS_MIN: u32 = 3;
/// Interval of the checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);
/// Interval of the tables.
const REDRAW_INTERVAL: TickDelta = TickDelta::from_ms(500);
/// Interval of the lines.
const PRINT_INTERVAL: TickDelta = TickDelta::from_ms(1_000);
/// Time for the counters to settle after the last time-out.
const GRACE: TickDelta = TickDelta::from_ms(1_000);
/// The backend that falls silent.
const OUTAGE_BACKEND: usize = 1;
/// Start and end of the outage, percent of the duration.
const OUTAGE_PERCENT: [u64; 2] = [40, 65];

/// Runs the demo and prints it to standard output.
///
/// # Errors
/// When something does not start, when the options are out of range, and when the counters do not
/// add up: a query sent that was neither answered nor lost for a known reason.
pub fn run(options: &DemoOptions) -> anyhow::Result<()> {
    let DemoOptions { seconds, backends, rate, cache } = *options;
    ensure!(seconds >= SECONDS_MIN, "the demo needs {SECONDS_MIN} seconds or more");
    ensure!((2..=64).contains(&backends), "the demo has 2 to 64 backends");
    ensure!((1..=load::RATE_MAX).contains(&rate), "the demo asks 1 to {} queries per second", load::RATE_MAX);

    let mut rng = entropy().context("random numbers")?;
    let embedded = (0..usize::from(backends))
        .map(|n| Embedded::start(&balancer::name(n), ShardRng::from_seed(rng.u64())))
        .collect::<io::Result<Vec<_>>>()
        .context("an embedded backend")?;
    let addresses: Vec<_> = embedded.iter().map(Embedded::address).collect();
    let balancer = Balancer::start(&addresses, cache)?;
    let load = Load::start(balancer.address, rate, rng).context("the load")?;
    let mut show = Show::new(options, embedded, balancer, load);
    show.play()?;
    // The load has outlived the balancer: its measurements mean nothing.
    ensure!(!show.balancer.has_ended(), "interrupted");
    let summary = show.finish()?;
    print(&summary.text())?;
    ensure!(summary.account.adds_up(), "the figures do not add up");
    Ok(())
}

fn entropy() -> io::Result<ShardRng> {
    let mut seed = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(ShardRng::from_entropy(seed))
}

/// Prints a text without blocking, or the load would stall; fails when nobody can read it.
fn print(text: &str) -> io::Result<()> {
    let output = log::output();
    output.push(text.as_bytes());
    output.error().map_or(Ok(()), Err)
}

/// The counters at a point in time.
#[derive(Clone, Debug)]
struct Sample {
    balancer: Reading,
    caches: Vec<[u64; 2]>,
    /// Sent and answered, by the clients.
    clients: [u64; 2],
    latency: Box<[u64; BUCKETS]>,
}

struct Show {
    options: DemoOptions,
    title: String,
    embedded: Vec<Embedded>,
    balancer: Balancer,
    load: Load,
    gatherer: Gatherer,
    begin: Tick,
    table: Table,
    screen: Screen,
    last: Sample,
    news: Vec<(f64, String)>,
    outage: Outage,
}

impl Show {
    fn new(options: &DemoOptions, embedded: Vec<Embedded>, balancer: Balancer, load: Load) -> Self {
        let DemoOptions { backends, rate, cache, .. } = *options;
        let cached = if cache { ", packet cache" } else { "" };
        let mut gatherer = Gatherer::default();
        let now = clock::now();
        let last = sample(&mut gatherer, &balancer, &embedded, load.tally(), now);
        let screen = Screen::detect();
        Self {
            options: *options,
            title: format!(
                "{backends} backends, {} q/s offered, {}{cached}",
                grouped(rate.into()),
                balancer::POLICY
            ),
            embedded,
            balancer,
            load,
            gatherer,
            begin: now,
            table: Table::new(screen),
            screen,
            last,
            news: Vec::new(),
            outage: Outage { backend: balancer::name(OUTAGE_BACKEND), ..Outage::default() },
        }
    }

    /// Runs the demo, and shows it.
    fn play(&mut self) -> anyhow::Result<()> {
        let whole = TickDelta::from_ms(u64::from(self.options.seconds) * 1_000);
        let step = if self.screen.redraw { REDRAW_INTERVAL } else { PRINT_INTERVAL };
        let mut next = self.begin + step;
        loop {
            std::thread::sleep(CHECK_INTERVAL);
            let now = clock::now();
            self.control_outage(now, whole);
            if now >= next {
                next = next + step;
                self.show(now)?;
            }
            if now.since(self.begin) >= whole || self.balancer.has_ended() {
                return Ok(());
            }
        }
    }

    /// Controls the outage, and watches the balancer's reaction.
    fn control_outage(&mut self, now: Tick, whole: TickDelta) {
        let [falls, returns] = OUTAGE_PERCENT.map(|p| self.begin + TickDelta(whole.0 / 100 * p));
        let name = self.outage.backend.clone();
        let state = self.balancer.live_state.backend(balancer::slot(OUTAGE_BACKEND)).state();
        let silent = self.embedded[OUTAGE_BACKEND].is_silent();
        if !silent && now >= falls && now < returns {
            self.embedded[OUTAGE_BACKEND].silence(true);
            self.outage.fell = Some(now);
            self.outage.before = self.read(now);
            self.announce(now, format!("{name} falls silent; its socket stays open, so no error reports it"));
        } else if silent && now >= returns {
            self.embedded[OUTAGE_BACKEND].silence(false);
            self.outage.returned = Some(now);
            self.outage.after = self.read(now);
            self.announce(now, format!("{name} answers again, its cache empty"));
        }
        let seconds = |since: Option<Tick>| since.map_or(0.0, |t| now.since(t).0 as f64 / 1e9);
        if self.outage.fell.is_some() && self.outage.noticed.is_none() && state != State::Up {
            self.outage.noticed = Some(now);
            let after = seconds(self.outage.fell);
            self.announce(now, format!("{name} is out of use, {after:.2} s after its last answer"));
        }
        if self.outage.returned.is_some()
            && self.outage.noticed.is_some()
            && self.outage.used_again.is_none()
            && state == State::Up
        {
            self.outage.used_again = Some(now);
            let after = seconds(self.outage.returned);
            let warm = balancer::SLOW_START_S;
            self.announce(now, format!("{name} is in use again after {after:.2} s, warming up for {warm} s"));
        }
    }

    fn announce(&mut self, now: Tick, words: String) {
        let at = now.since(self.begin).0 as f64 / 1e9;
        if !self.screen.redraw {
            // A lost line does no harm.
            let _ = print(&format!("{at:5.1} s  * {words}\n"));
        }
        self.news.push((at, words));
    }

    fn read(&mut self, now: Tick) -> Reading {
        let slots = (0..self.embedded.len()).map(balancer::slot);
        self.gatherer.gather(&self.balancer.live_state, slots, now)
    }

    /// Shows what happened since the last time.
    fn show(&mut self, now: Tick) -> anyhow::Result<()> {
        let kernel = self.kernel()?;
        let new = sample(&mut self.gatherer, &self.balancer, &self.embedded, self.load.tally(), now);
        let span = new.balancer.since(&self.last.balancer);
        let seconds = now.since(self.last.balancer.at).0.max(1) as f64 / 1e9;
        let whole = span.backends.values().map(|b| b.queries).sum::<u64>().max(1) as f64;
        let rows = (0..self.embedded.len())
            .filter_map(|n| {
                let slot = balancer::slot(n);
                let totals = span.backends.get(&slot)?;
                let live = self.balancer.live_state.backend(slot);
                Some(Row {
                    name: balancer::name(n),
                    standing: Some(Standing {
                        state: live.state(),
                        warming: live.warmth_ppm() < PPM,
                        silent: self.embedded[n].is_silent(),
                    }),
                    share: totals.queries as f64 / whole,
                    rate: totals.queries as f64 / seconds,
                    outstanding: totals.outstanding,
                    latency: totals.latency.quantiles(SHARES),
                    hits: hit_rate(&[(self.last.caches[n], new.caches[n])]),
                })
            })
            .collect();
        let caches: Vec<_> = self.last.caches.iter().copied().zip(new.caches.iter().copied()).collect();
        let latency = std::array::from_fn(|b| new.latency[b].saturating_sub(self.last.latency[b]));
        let all = Row {
            name: "all".to_owned(),
            standing: None,
            share: 1.0,
            rate: (new.clients[0] - self.last.clients[0]) as f64 / seconds,
            outstanding: new.balancer.shards.outstanding_total,
            latency: quantiles(&latency),
            hits: hit_rate(&caches),
        };
        let frame = Frame {
            title: &self.title,
            elapsed: now.since(self.begin).0 as f64 / 1e9,
            seconds: self.options.seconds,
            rows,
            all,
            totals: [
                new.clients[0],
                new.clients[1],
                account::lost(&new.balancer) + kernel.total(),
                new.balancer.shards.retries,
            ],
            news: &self.news,
        };
        let text = if self.screen.redraw { self.table.draw(&frame) } else { table::line(&frame) + "\n" };
        self.last = new;
        Ok(print(&text)?)
    }

    /// Stops the load, waits for what is outstanding, and adds everything up.
    fn finish(mut self) -> anyhow::Result<Summary> {
        let ended = clock::now();
        self.load.finish();
        let sent = self.load.tally().sent.get();
        // Everything outstanding ends by answer or time-out; then the last answers have to leave
        // the clients' buffers.
        let deadline = clock::now() + balancer::QUERY_MAX + GRACE;
        let (totals, kernel) = loop {
            let now = clock::now();
            let kernel = self.kernel()?;
            let totals = self.read(now);
            let account = Account::new(sent, 0, self.load.tally().answered.get(), &totals, kernel);
            if account.adds_up() || now >= deadline {
                break (totals, kernel);
            }
            std::thread::sleep(CHECK_INTERVAL);
        };
        let tally = self.load.tally();
        let account = Account::new(sent, tally.refused.get(), tally.answered.get(), &totals, kernel);
        let summary = Summary {
            account,
            span: ended.since(self.begin),
            offered: self.options.rate,
            shards: self.balancer.shards,
            sockets: self.load.ports().len(),
            latency: quantiles(&counts(tally)),
            unexpected: tally.unexpected.get(),
            shares: shares(&totals),
            cached: self.options.cache.then_some(totals.shards.cache_hits),
            outage: self.outage,
        };
        drop(self.load);
        self.balancer.stop()?;
        Ok(summary)
    }

    fn kernel(&self) -> anyhow::Result<KernelDrops> {
        let table = fs::read_to_string("/proc/net/udp").context("/proc/net/udp")?;
        Ok(KernelDrops {
            listeners: account::kernel_drops(&table, &[self.balancer.address.port()]),
            clients: account::kernel_drops(&table, self.load.ports()),
        })
    }
}

/// The quantiles of latency that are shown.
const SHARES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

fn sample(
    gatherer: &mut Gatherer,
    balancer: &Balancer,
    embedded: &[Embedded],
    tally: &Tally,
    now: Tick,
) -> Sample {
    let slots = (0..embedded.len()).map(balancer::slot);
    Sample {
        balancer: gatherer.gather(&balancer.live_state, slots, now),
        caches: embedded.iter().map(Embedded::hits_and_misses).collect(),
        clients: [tally.sent.get(), tally.answered.get()],
        latency: Box::new(counts(tally)),
    }
}

/// Returns the clients' latency buckets. They wrap at 2^32, which takes a bucket six hours at the
/// highest rate, and every counter starts at 0.
fn counts(tally: &Tally) -> [u64; BUCKETS] {
    std::array::from_fn(|b| tally.latency.count(b))
}

/// Returns the latency that each of [`SHARES`] did not exceed, to the width of a bucket.
fn quantiles(counts: &[u64; BUCKETS]) -> Option<[u64; 4]> {
    let whole: u64 = counts.iter().sum();
    let at = |share: f64| {
        let rank = (share * whole as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        let bucket = counts.iter().position(|c| {
            below += c;
            below >= rank
        });
        bucket_ns(bucket.unwrap_or(BUCKETS - 1))
    };
    (whole > 0).then(|| SHARES.map(at))
}

/// Returns the hit rate between pairs of counters.
fn hit_rate(caches: &[([u64; 2], [u64; 2])]) -> Option<f64> {
    let grown = |at: usize| caches.iter().map(|(old, new)| new[at] - old[at]).sum::<u64>() as f64;
    let [hits, misses] = [grown(0), grown(1)];
    (hits + misses > 0.0).then(|| hits / (hits + misses))
}

/// Part of all queries by backend.
fn shares(reading: &Reading) -> Vec<(String, f64)> {
    let whole = reading.backends.values().map(|b| b.queries).sum::<u64>().max(1) as f64;
    let of = |b: &crate::stats::registry::BackendReading| b.queries as f64 / whole;
    reading.backends.iter().map(|(slot, b)| (balancer::name(slot.index()), of(b))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::histogram::bucket;

    #[test]
    fn quantiles_are_ranks() {
        let mut counts = [0; BUCKETS];
        assert_eq!(quantiles(&counts), None);
        counts[bucket(1_000_000)] = 90;
        counts[bucket(5_000_000)] = 9;
        counts[bucket(80_000_000)] = 1;
        let expected = [1_000_000, 1_000_000, 5_000_000, 80_000_000].map(|ns| bucket_ns(bucket(ns)));
        assert_eq!(quantiles(&counts), Some(expected));
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let good = DemoOptions { seconds: 10, backends: 4, rate: 20_000, cache: false };
        for bad in [
            DemoOptions { seconds: 2, ..good },
            DemoOptions { backends: 1, ..good },
            DemoOptions { backends: 65, ..good },
            DemoOptions { rate: 0, ..good },
            DemoOptions { rate: load::RATE_MAX + 1, ..good },
        ] {
            run(&bad).expect_err("out of range");
        }
    }

    #[test]
    fn hit_rates_cover_the_span() {
        assert_eq!(hit_rate(&[([5, 5], [5, 5])]), None);
        assert_eq!(hit_rate(&[([5, 5], [8, 6])]), Some(0.75));
        assert_eq!(hit_rate(&[([0, 0], [1, 0]), ([0, 0], [0, 1])]), Some(0.5));
    }
}
