//! The traffic as operators ask for it: most frequent clients and names, the last queries.
//!
//! ```text
//!  shard ─► its ring ─┐                          ┌─► windows: sketches by span of time
//!  shard ─► its ring ─┴─► thread, every 20 ms ───┼─► recent: the last queries, thinned
//!                             ▲                  └─► notable: those that failed or were slow
//!                             └── questions of console and web server, answered there
//! ```
//!
//! The thread owns all of it, so that there is no lock. A shard never waits for it: what it reads
//! too late is overwritten, counted, and said with each list. Whoever asks waits for a second at
//! most. After a panic the thread begins anew, with nothing counted.
//!
//! Memory: 20 MB of sketches at most, and 120 bytes for each record that is kept.

#[cfg(test)]
pub(super) mod fixture;
mod pools;
mod recent;
pub(crate) mod sketch;
mod windows;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use crate::base::addr::{BackendSlot, PoolSlot};
use crate::base::panics::caught;
use crate::base::rng::ShardRng;
use crate::base::time::Tick;
use crate::control::traffic::pools::PoolNames;
use crate::control::traffic::recent::Recent;
use crate::control::traffic::sketch::Merged;
use crate::control::traffic::windows::{Addresses, Counted, Windows};
use crate::engine::clock;
use crate::model::{Service, Snapshot};
use crate::stats::live::{LiveState, ShardStats};
use crate::stats::query_type::QueryType;
use crate::stats::registry::TrafficStats;
use crate::stats::top::{
    By, Filter, Found, FoundList, GrepRequest, Only, QUERIES_MAX, ROWS_MAX, SLOW_MS, TopList, TopRequest,
    TopRow, WINDOW_MAX,
};
use crate::stats::traffic_ring::{End, Reader, Record, SLOTS, ShortName};
use crate::wire::codes::{rcode_name, type_name};
use crate::wire::header::rcode;

/// Interval of the rounds: a ring has room for 400,000 queries per second.
const PERIOD: Duration = Duration::from_millis(20);
/// Records that are counted per second, over all rings, and at once after a quiet second. More would
/// cost the shards more than 6 % of their time where they share the thread's CPU; of more, a part is
/// counted, which tells nearly as much.
const COUNTED_MAX: u64 = 50_000;
/// Records of each ring that are counted in a round, even so.
const RING_MIN: usize = 32;
/// How long who asks waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Questions that wait at a time.
const QUESTIONS: usize = 8;
/// The failed and slow queries are kept apart, so that many good ones do not thin them: a fourth as
/// many.
const NOTABLE_PART: usize = 4;
/// Times that the thread begins anew after a panic.
const RESTARTS_MAX: u32 = 3;
/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

type Job = Box<dyn FnOnce(&mut State, Tick) + Send>;

/// A hold on the thread.
#[derive(Debug)]
pub(super) struct Traffic {
    jobs: Sender<Job>,
    /// Dropping it ends the thread.
    stop: Sender<()>,
    stats: Arc<TrafficStats>,
}

impl Traffic {
    /// Starts the thread, which keeps so many records, and opens the shards' rings for it; none of
    /// it without records to be kept.
    ///
    /// # Errors
    /// There can be no more threads.
    pub(super) fn start(
        live_state: &Arc<LiveState>,
        cell: Arc<ArcSwap<Snapshot>>,
        records: usize,
        mut rng: ShardRng,
    ) -> io::Result<Option<Self>> {
        if records == 0 {
            return Ok(None);
        }
        let (jobs, asked) = bounded::<Job>(QUESTIONS);
        let (stop, stopped) = bounded::<()>(1);
        let stats = Arc::<TrafficStats>::default();
        let (shared, counters) = (Arc::clone(live_state), Arc::clone(&stats));
        let mut new = move || State::new(records, &mut rng, shared.shards(), clock::now());
        // From here on nothing is missed.
        let mut state = new();
        let (shared, log) = (Arc::clone(live_state), tracing::dispatcher::get_default(Clone::clone));
        let body = move || {
            tracing::dispatcher::with_default(&log, || {
                for _ in 0..=RESTARTS_MAX {
                    let run = || state.run(&shared, &cell, &asked, &stopped, &counters);
                    match caught(run) {
                        Ok(()) => return,
                        Err(error) => tracing::error!("the thread that counts the traffic: {error}"),
                    }
                    state = new();
                }
            });
        };
        std::thread::Builder::new().name("traffic".to_owned()).spawn(body)?;
        live_state.shards().iter().for_each(|shard| shard.traffic.open(SLOTS));
        Ok(Some(Self { jobs, stop, stats }))
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        // It may have ended.
        let _ = self.stop.try_send(());
    }

    /// Returns what was counted since the start.
    pub(super) fn stats(&self) -> &TrafficStats {
        &self.stats
    }

    /// Returns a list.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) fn top(&self, request: TopRequest) -> Result<TopList, String> {
        self.ask(move |state, now| state.top(&request, now))?
    }

    /// Returns the last queries.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) fn grep(&self, request: GrepRequest) -> Result<FoundList, String> {
        self.ask(move |state, now| state.grep(&request, now))?
    }

    /// Lets the thread answer a question.
    fn ask<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State, Tick) -> R + Send + 'static,
    ) -> Result<R, String> {
        let (reply, answer) = bounded(1);
        let job: Job = Box::new(move |state, now| {
            // Who asked may have gone.
            let _ = reply.try_send(work(state, now));
        });
        let busy = || "the thread that counts the traffic does not answer; try again".to_owned();
        self.jobs.try_send(job).map_err(|_| busy())?;
        answer.recv_timeout(PATIENCE).map_err(|_| busy())
    }
}

/// What the thread owns.
#[derive(Debug)]
pub(super) struct State {
    windows: Windows,
    recent: Recent,
    notable: Recent,
    pools: PoolNames,
    readers: Vec<Reader>,
    snapshot: Option<Arc<Snapshot>>,
    /// Since when it counts.
    started: Tick,
    /// Records that may be counted, and when the last round was.
    budget: u64,
    drained: Tick,
}

impl State {
    fn new(records: usize, rng: &mut ShardRng, shards: &[Arc<ShardStats>], now: Tick) -> Self {
        let hasher = RandomState::with_seeds(rng.u64(), rng.u64(), rng.u64(), rng.u64());
        Self {
            windows: Windows::new(hasher, now.0 / SECOND),
            recent: Recent::new(records, rng.u64()),
            notable: Recent::new(records.div_ceil(NOTABLE_PART), rng.u64()),
            pools: PoolNames::default(),
            readers: shards.iter().map(|shard| Reader::behind(&shard.traffic)).collect(),
            snapshot: None,
            started: now,
            budget: COUNTED_MAX,
            drained: now,
        }
    }

    fn run(
        &mut self,
        live_state: &LiveState,
        cell: &ArcSwap<Snapshot>,
        asked: &Receiver<Job>,
        stopped: &Receiver<()>,
        stats: &TrafficStats,
    ) {
        loop {
            if stopped.try_recv() != Err(TryRecvError::Empty) {
                return;
            }
            self.drain(live_state, &cell.load_full(), clock::now(), stats);
            match asked.recv_timeout(PERIOD) {
                // With what has come until here.
                Ok(job) => {
                    self.drain(live_state, &cell.load_full(), clock::now(), stats);
                    job(self, clock::now());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Counts what the shards have written, or part of it.
    fn drain(&mut self, live_state: &LiveState, snapshot: &Arc<Snapshot>, now: Tick, stats: &TrafficStats) {
        let second = now.0 / SECOND;
        if self.windows.advance(second) {
            stats.client_rate_max.set(self.windows.rate_max(Addresses::Clients));
            stats.network_rate_max.set(self.windows.rate_max(Addresses::Networks));
            stats.client_bandwidth_max.set(self.windows.rate_max(Addresses::Bandwidth));
        }
        self.recent.forget(second);
        self.notable.forget(second);
        self.pools.adopt(snapshot);
        self.snapshot = Some(Arc::clone(snapshot));
        let elapsed = now.since(std::mem::replace(&mut self.drained, now)).0;
        self.budget = (self.budget + elapsed.min(SECOND) * COUNTED_MAX / SECOND).min(COUNTED_MAX);
        let mut readers = std::mem::take(&mut self.readers);
        let most = (self.budget as usize / readers.len().max(1)).max(RING_MIN);
        for (reader, shard) in readers.iter_mut().zip(live_state.shards()) {
            let before = reader.missed;
            let read = reader.drain(&shard.traffic, most, |record, queries| {
                stats.types[QueryType::of(record.finished.qtype)].add(queries);
                self.count(*record, second);
            });
            self.windows.miss(reader.missed - before);
            stats.missed.add(reader.missed - before);
            stats.counted.add(read as u64);
            self.budget = self.budget.saturating_sub(read as u64);
        }
        self.readers = readers;
    }

    fn count(&mut self, mut record: Record, second: u64) {
        record.finished.pool = self.pools.lasting(record.finished.pool);
        self.windows.count(&record);
        self.recent.add(&record, second);
        if is_notable(&record) {
            self.notable.add(&record, second);
        }
    }

    fn top(&self, request: &TopRequest, now: Tick) -> Result<TopList, String> {
        let window_s = request.window_s.clamp(1, WINDOW_MAX);
        let rows = request.rows.min(ROWS_MAX);
        let known = request
            .filter
            .is_empty()
            .then(|| self.windows.window(request.by, request.only, request.bytes, window_s));
        let Some(window) = known.flatten() else {
            return self.estimate(&TopRequest { window_s, rows, ..request.clone() }, now);
        };
        let mut list = match window.counted {
            Counted::Addresses(merged) => listed(merged, rows, |ip| address_text(ip, request.by)),
            Counted::Names(merged) => listed(merged, rows, |name| name.dotted()),
            Counted::Numbers(merged) => listed(merged, rows, |n| number_text(n, request.by)),
        };
        let share = share(window.read, window.missed);
        for row in &mut list.rows {
            let noise = noise(row.count, share);
            (row.count, row.error) = (scaled(row.count, share), scaled(row.error, share) + noise);
        }
        list.total = scaled(list.total + window.unknown, share);
        list.unlisted_max =
            list.unlisted_max.filter(|_| window.missed == 0).map(|most| most + window.unknown);
        list.unknown = scaled(window.unknown, share);
        list.share = share;
        list.window_s = self.span(window.second, now);
        list.is_estimate = window.missed > 0;
        Ok(list)
    }

    /// Makes a list of the records that are kept.
    fn estimate(&self, request: &TopRequest, now: Tick) -> Result<TopList, String> {
        let matching = self.matching(&request.filter)?;
        let first = (now.0 / SECOND).saturating_sub(request.window_s.into());
        let (read, missed) = self.windows.coverage(request.window_s);
        let store = self.store(&request.filter, request.only);
        let (mut sums, mut kept, mut seen) = (BTreeMap::<Key, (f64, f64)>::new(), 0, 0);
        let (mut total, mut unknown) = (0.0, 0.0);
        for stratum in store.since(first) {
            kept += stratum.records.len() as u64;
            seen += stratum.seen;
            for record in stratum.records {
                if !counts(record, request.only) || !matching.takes(record) {
                    continue;
                }
                let one = if request.bytes { f64::from(record.finished.answer_bytes) } else { 1.0 };
                let Some(key) = Key::of(record, request.by) else {
                    let is_asked_for = matches!(request.by, By::Name(_) | By::Type);
                    unknown += if is_asked_for { one * stratum.weight } else { 0.0 };
                    continue;
                };
                let (sum, variance) = sums.entry(key).or_default();
                *sum += one * stratum.weight;
                *variance += one * one * stratum.weight * (stratum.weight - 1.0);
                total += one * stratum.weight;
            }
        }
        let share = share(read, missed);
        let whole = |x: f64| (x / share).round() as u64;
        let mut rows: Vec<_> = sums
            .into_iter()
            .map(|(key, (sum, variance))| (whole(sum), whole(2.0 * variance.sqrt()), key))
            .collect();
        rows.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.2.cmp(&b.2)));
        let unlisted_max = rows.get(request.rows).map(|row| row.0);
        rows.truncate(request.rows);
        let row = |(count, error, key): (u64, u64, Key)| TopRow { label: key.text(request.by), count, error };
        let is_complete = kept == seen && missed == 0;
        Ok(TopList {
            rows: rows.into_iter().map(row).collect(),
            total: whole(total + unknown),
            unlisted_max: is_complete.then(|| unlisted_max.unwrap_or(0) + whole(unknown)),
            window_s: self.span(store.begin(first), now),
            share: if seen == 0 { 1.0 } else { kept as f64 / seen as f64 * share },
            is_estimate: !is_complete,
            unknown: whole(unknown),
        })
    }

    /// Returns the records that have everything that a filter lets pass, as many as possible.
    fn store(&self, filter: &Filter, only: Only) -> &Recent {
        let is_slow = |us: u32| us >= SLOW_MS * 1_000;
        let notable = match only {
            Only::Timeouts => true,
            Only::Rcode(code) => is_failure(code),
            Only::SlowerThan(ms) => ms >= SLOW_MS,
            Only::All => false,
        };
        let is_part =
            notable || filter.rcode.is_some_and(is_failure) || filter.latency_us_min.is_some_and(is_slow);
        if is_part { &self.notable } else { &self.recent }
    }

    /// Returns how many seconds there are since the beginning of a second, or the start.
    fn span(&self, second: u64, now: Tick) -> f64 {
        let begin = Tick(second * SECOND).max(self.started);
        now.since(begin).0 as f64 / SECOND as f64
    }

    fn grep(&self, request: &GrepRequest, now: Tick) -> Result<FoundList, String> {
        let matching = self.matching(&request.filter)?;
        let store = self.store(&request.filter, Only::All);
        let (mut found, mut kept, mut seen, mut first) = (Vec::new(), 0, 0, now.0 / SECOND);
        'all: for stratum in store.since(0).rev() {
            kept += stratum.records.len() as u64;
            seen += stratum.seen;
            first = stratum.second;
            for record in stratum.records.iter().rev() {
                if matching.takes(record) {
                    found.push(self.shown(record, now));
                    if found.len() >= request.rows.min(QUERIES_MAX) {
                        break 'all;
                    }
                }
            }
        }
        found.sort_by_key(|f| std::cmp::Reverse(f.ago_us));
        let share = if seen == 0 { 1.0 } else { kept as f64 / seen as f64 };
        Ok(FoundList { found, share, window_s: self.span(first, now) })
    }

    fn shown(&self, record: &Record, now: Tick) -> Found {
        let f = &record.finished;
        let snapshot = self.snapshot.as_deref();
        let listener = snapshot.and_then(|s| s.listener(f.listener));
        let protocol = match listener.map(|l| &l.service) {
            Some(Service::Dot(_)) => "DoT",
            _ if f.by_connection => "DoTCP",
            _ => "DoUDP",
        };
        let backend = f.backend.and_then(|slot| snapshot.and_then(|s| s.backend(slot)));
        Found {
            record: *record,
            ago_us: now.since(f.at).0 / 1_000,
            protocol,
            server: backend.map(|b| b.address.to_string()).unwrap_or_default(),
            pool: self.pools.name(f.pool).to_owned(),
        }
    }

    fn matching<'f>(&self, filter: &'f Filter) -> Result<Matching<'f>, String> {
        let pool = filter
            .pool
            .as_ref()
            .map(|name| self.pools.slot(name).ok_or_else(|| format!("there is no pool \"{name}\"")));
        let server = filter.server.as_ref().map(|wanted| {
            let snapshot = self.snapshot.as_deref();
            let backends = snapshot.into_iter().flat_map(|s| s.backends.iter().flatten());
            let address = wanted.parse::<SocketAddr>().ok();
            let is = |name: &str, at: SocketAddr| {
                name == wanted || Some(at) == address || at.ip().to_string() == *wanted
            };
            let slots: Vec<_> = backends.filter(|b| is(&b.name, b.address)).map(|b| Some(b.slot)).collect();
            if slots.is_empty() { Err(format!("there is no server \"{wanted}\"")) } else { Ok(slots) }
        });
        Ok(Matching { filter, pool: pool.transpose()?, servers: server.transpose()? })
    }
}

/// Returns whether a query is kept among those that failed or were slow.
fn is_notable(record: &Record) -> bool {
    let f = &record.finished;
    f.is_slow(SLOW_MS) || f.end.is_timeout() || f.rcode().is_some_and(is_failure)
}

const fn is_failure(code: u8) -> bool {
    !matches!(code, rcode::NOERROR | rcode::NXDOMAIN)
}

fn counts(record: &Record, only: Only) -> bool {
    match only {
        Only::All => true,
        Only::Rcode(code) => record.finished.rcode() == Some(code),
        Only::Timeouts => record.finished.end.is_timeout(),
        Only::SlowerThan(ms) => record.finished.is_slow(ms),
    }
}

/// A filter with the slots of what it names.
struct Matching<'f> {
    filter: &'f Filter,
    pool: Option<PoolSlot>,
    servers: Option<Vec<Option<BackendSlot>>>,
}

impl Matching<'_> {
    fn takes(&self, record: &Record) -> bool {
        let (f, filter) = (&record.finished, self.filter);
        self.pool.is_none_or(|pool| f.pool == pool)
            && self.servers.as_ref().is_none_or(|slots| slots.contains(&f.backend))
            && filter.rcode.is_none_or(|code| f.rcode() == Some(code))
            && filter.qtype.is_none_or(|qtype| f.qtype == qtype)
            && filter.latency_us_min.is_none_or(|us| f.end == End::Response && f.latency_us >= us)
            && filter.networks.iter().all(|net| {
                let (first, last) = net.bounds();
                (first..=last).contains(&u128::from_be_bytes(f.ip))
            })
            && filter.names.iter().all(|name| is_below(record.qname.bytes(), name))
    }
}

/// Returns whether a name is another one or below it.
fn is_below(name: &[u8], zone: &[u8]) -> bool {
    let mut rest = name;
    while rest.len() > zone.len() {
        let Some(next) = rest.first().and_then(|length| rest.get(1 + usize::from(*length)..)) else {
            return false;
        };
        rest = next;
    }
    rest == zone
}

/// What a row of an estimate is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Address([u8; 16]),
    Name(ShortName),
    Number(u16),
}

impl Key {
    fn of(record: &Record, by: By) -> Option<Self> {
        let f = &record.finished;
        Some(match by {
            By::Client => Self::Address(f.ip),
            By::Network => Self::Address(windows::network(f.client())),
            By::Name(_) | By::Type if !record.qname.is_known() => return None,
            By::Name(0) => Self::Name(record.qname),
            By::Name(labels) => Self::Name(record.qname.zone(labels)),
            By::Type => Self::Number(f.qtype),
            By::Rcode => Self::Number(f.rcode()?.into()),
        })
    }

    fn text(self, by: By) -> String {
        match self {
            Self::Address(ip) => address_text(ip, by),
            Self::Name(name) => name.dotted(),
            Self::Number(number) => number_text(number, by),
        }
    }
}

fn address_text(ip: [u8; 16], by: By) -> String {
    let address = Ipv6Addr::from(ip).to_canonical();
    match by {
        By::Network if address.is_ipv4() => format!("{address}/24"),
        By::Network => format!("{address}/48"),
        By::Client | By::Name(_) | By::Type | By::Rcode => address.to_string(),
    }
}

fn number_text(number: u16, by: By) -> String {
    if by == By::Rcode { rcode_name(number) } else { type_name(number) }
}

fn listed<K>(merged: Merged<K>, rows: usize, label: impl Fn(K) -> String) -> TopList {
    let mut items = merged.items.into_iter();
    let listed = items.by_ref().take(rows);
    let rows = listed.map(|i| TopRow { label: label(i.key), count: i.count, error: i.error }).collect();
    let rest = items.map(|i| i.count).max().unwrap_or(0);
    TopList {
        rows,
        total: merged.total,
        unlisted_max: Some(merged.unlisted_max.max(rest)),
        ..TopList::default()
    }
}

/// Returns the part of the records that was read.
fn share(read: u64, missed: u64) -> f64 {
    if missed == 0 || read == 0 { 1.0 } else { read as f64 / (read + missed) as f64 }
}

/// Returns two standard errors of what a count of a random part stands for.
fn noise(count: u64, share: f64) -> u64 {
    (2.0 * (count as f64 * (1.0 - share).max(0.0)).sqrt() / share).ceil() as u64
}

/// Returns what a count of a part stands for.
fn scaled(count: u64, share: f64) -> u64 {
    if share >= 1.0 { count } else { (count as f64 / share).round() as u64 }
}

#[cfg(test)]
mod tests;
