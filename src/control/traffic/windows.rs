//! Sketches of spans of time: one for each of the last seconds, coarser ones of the last quarter of
//! an hour, which are made of those.
//!
//! ```text
//!  coarse: 15 s each │ 15 s │ … │ 15 s ║ 1 s │ 1 s │ … the present second
//! ```

use std::collections::VecDeque;

use ahash::RandomState;

use crate::base::addr::Endpoint;
use crate::control::traffic::sketch::{Item, Merged, Sketch};
use crate::stats::top::{By, NXDOMAIN, Only, SERVFAIL, SLOW_MS, WINDOW_MAX};
use crate::stats::traffic_ring::{Record, ShortName};

/// Seconds of a coarse span. Windows up to this are made of seconds.
const COARSE: u64 = 15;
/// Coarse spans that are kept.
const COARSE_COUNT: usize = (WINDOW_MAX as u64 / COARSE) as usize;
/// Seconds that are kept, with the present one.
const SECONDS: usize = COARSE as usize + 1;

/// Seconds that the rate of the most frequent client is an average of: a burst is no high rate.
const RATE: usize = 10;

/// What clients are counted by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Addresses {
    Clients,
    Networks,
    Bandwidth,
    ServfailClients,
    NxdomainClients,
    TimeoutClients,
}

/// Places of each, in that order. Of a thousand places one counts the keys that have a thousandth
/// part of all at worst.
const ADDRESS_PLACES: [usize; 6] = [512, 256, 512, 128, 128, 128];

/// What names are counted by.
#[derive(Clone, Copy, Debug)]
enum Names {
    Whole,
    OneLabel,
    TwoLabels,
    ThreeLabels,
    Servfail,
    ServfailDomains,
    Nxdomain,
    NxdomainDomains,
    Timeouts,
    TimeoutDomains,
    Slow,
    SlowDomains,
}

const NAME_PLACES: [usize; 12] = [512, 64, 256, 256, 96, 96, 96, 96, 96, 96, 96, 96];

/// What numbers are counted by.
#[derive(Clone, Copy, Debug)]
enum Numbers {
    Types,
    Rcodes,
}

/// So many types and codes are counted exactly, nearly always.
const NUMBER_PLACES: [usize; 2] = [128, 16];

/// The sketches of a span.
#[derive(Debug)]
pub(super) struct Span {
    /// Its first second.
    pub(super) second: u64,
    /// Records that were counted.
    pub(super) read: u64,
    /// Records that were overwritten before they could be.
    pub(super) missed: u64,
    /// Time-outs without a known name.
    unknown: u64,
    addresses: [Sketch<[u8; 16]>; ADDRESS_PLACES.len()],
    names: [Sketch<ShortName>; NAME_PLACES.len()],
    numbers: [Sketch<u16>; NUMBER_PLACES.len()],
}

impl Span {
    fn new(second: u64) -> Self {
        Self {
            second,
            read: 0,
            missed: 0,
            unknown: 0,
            addresses: ADDRESS_PLACES.map(Sketch::new),
            names: NAME_PLACES.map(Sketch::new),
            numbers: NUMBER_PLACES.map(Sketch::new),
        }
    }

    /// Makes it the empty span of another second. It keeps its memory.
    fn begin(&mut self, second: u64) {
        (self.second, self.read, self.missed, self.unknown) = (second, 0, 0, 0);
        self.addresses.iter_mut().for_each(Sketch::clear);
        self.names.iter_mut().for_each(Sketch::clear);
        self.numbers.iter_mut().for_each(Sketch::clear);
    }

    /// Fills an empty span with what several have.
    fn condense(&mut self, spans: &[&Self]) {
        let sum = |of: fn(&Self) -> u64| spans.iter().map(|s| of(s)).sum();
        (self.read, self.missed, self.unknown) = (sum(|s| s.read), sum(|s| s.missed), sum(|s| s.unknown));
        for (at, sketch) in self.addresses.iter_mut().enumerate() {
            sketch.condense(spans.iter().map(move |s| &s.addresses[at]));
        }
        for (at, sketch) in self.names.iter_mut().enumerate() {
            sketch.condense(spans.iter().map(move |s| &s.names[at]));
        }
        for (at, sketch) in self.numbers.iter_mut().enumerate() {
            sketch.condense(spans.iter().map(move |s| &s.numbers[at]));
        }
    }

    fn count(&mut self, hasher: &RandomState, record: &Record) {
        let (f, qname) = (&record.finished, &record.qname);
        self.read += 1;
        let rcode = f.rcode();
        let timeout = f.end.is_timeout();
        let slow = f.is_slow(SLOW_MS);
        let (is_servfail, is_nxdomain) = (rcode == Some(SERVFAIL), rcode == Some(NXDOMAIN));

        let client = hasher.hash_one(f.ip);
        let mut address = |which: Addresses, weight: u64| {
            self.addresses[which as usize].add(client, weight, || f.ip);
        };
        address(Addresses::Clients, 1);
        if f.answer_bytes > 0 {
            address(Addresses::Bandwidth, f.answer_bytes.into());
        }
        for (counts, which) in [
            (is_servfail, Addresses::ServfailClients),
            (is_nxdomain, Addresses::NxdomainClients),
            (timeout, Addresses::TimeoutClients),
        ] {
            if counts {
                address(which, 1);
            }
        }
        let network = network(f.client());
        self.addresses[Addresses::Networks as usize].add(hasher.hash_one(network), 1, || network);

        if let Some(rcode) = rcode {
            let rcode = u16::from(rcode);
            self.numbers[Numbers::Rcodes as usize].add(hasher.hash_one(rcode), 1, || rcode);
        }
        if f.qtype > 0 {
            self.numbers[Numbers::Types as usize].add(hasher.hash_one(f.qtype), 1, || f.qtype);
        }

        if !qname.is_known() {
            self.unknown += u64::from(timeout);
            return;
        }
        // The offsets of the last three labels, without another walk for each.
        let bytes = qname.bytes();
        let (mut last, mut at) = ([0; 3], 0);
        while let Some(length) = bytes.get(at).filter(|length| **length > 0) {
            last = [last[1], last[2], at];
            at += 1 + usize::from(*length);
        }
        let labels = |count: usize| bytes.get(last[3 - count]..).unwrap_or(bytes);
        let whole = hasher.hash_one(bytes);
        let mut name = |which: Names, hash: u64, zone: &[u8]| {
            let key = || if zone.len() == bytes.len() { *qname } else { ShortName::new(zone) };
            self.names[which as usize].add(hash, 1, key);
        };
        let two = hasher.hash_one(labels(2));
        name(Names::Whole, whole, bytes);
        name(Names::OneLabel, hasher.hash_one(labels(1)), labels(1));
        name(Names::TwoLabels, two, labels(2));
        name(Names::ThreeLabels, hasher.hash_one(labels(3)), labels(3));
        for (counts, names, domains) in [
            (is_servfail, Names::Servfail, Names::ServfailDomains),
            (is_nxdomain, Names::Nxdomain, Names::NxdomainDomains),
            (timeout, Names::Timeouts, Names::TimeoutDomains),
            (slow, Names::Slow, Names::SlowDomains),
        ] {
            if counts {
                name(names, whole, bytes);
                name(domains, two, labels(2));
            }
        }
    }
}

/// Returns the network of a client: /24 of IPv4, /48 of IPv6.
pub(super) fn network(client: Endpoint) -> [u8; 16] {
    let mut ip = client.ip;
    let kept = if client.is_ipv4() { 15 } else { 6 };
    ip[kept..].fill(0);
    ip
}

/// The keys of a window.
pub(super) enum Counted {
    Addresses(Merged<[u8; 16]>),
    Names(Merged<ShortName>),
    Numbers(Merged<u16>),
}

/// What is known of a window.
pub(super) struct Window {
    pub(super) counted: Counted,
    /// Its first second.
    pub(super) second: u64,
    pub(super) read: u64,
    pub(super) missed: u64,
    pub(super) unknown: u64,
}

/// The spans.
#[derive(Debug)]
pub(super) struct Windows {
    hasher: RandomState,
    coarse: VecDeque<Span>,
    seconds: VecDeque<Span>,
    present: Span,
    /// Spans that have passed, for those to come: new ones each second, of many sizes and ages, would leave
    /// gaps in the memory that nothing else fits into.
    spare: Vec<Span>,
    /// Buffer for addresses of one set.
    items: Vec<Item<[u8; 16]>>,
}

impl Windows {
    /// Creates those of a process that starts in a second.
    pub(super) fn new(hasher: RandomState, second: u64) -> Self {
        let (present, spare, items) = (Span::new(second), Vec::new(), Vec::new());
        Self { hasher, coarse: VecDeque::new(), seconds: VecDeque::new(), present, spare, items }
    }

    /// Ends seconds that have passed; returns whether there were any.
    pub(super) fn advance(&mut self, second: u64) -> bool {
        let is_next = self.present.second < second;
        if self.present.second + u64::from(WINDOW_MAX) < second {
            *self = Self::new(self.hasher.clone(), second);
        }
        while self.present.second < second {
            let next = self.present.second + 1;
            let begun = self.begin(next);
            self.seconds.push_back(std::mem::replace(&mut self.present, begun));
            if next.is_multiple_of(COARSE) {
                let mut condensed = self.begin(next - COARSE);
                let spans: Vec<&Span> = self.seconds.iter().filter(|s| s.second + COARSE >= next).collect();
                condensed.condense(&spans);
                self.coarse.push_back(condensed);
            }
            while self.seconds.len() >= SECONDS {
                self.spare.extend(self.seconds.pop_front());
            }
            while self.coarse.front().is_some_and(|s| s.second + COARSE + u64::from(WINDOW_MAX) <= next)
                || self.coarse.len() > COARSE_COUNT
            {
                self.spare.extend(self.coarse.pop_front());
            }
        }
        is_next
    }

    /// Returns what the first of a list of addresses had per second, at least, in the last seconds
    /// that have ended.
    pub(super) fn rate_max(&mut self, which: Addresses) -> u32 {
        let spans = self.seconds.iter().rev().take(RATE);
        let sum = |of: fn(&Span) -> u64| spans.clone().map(of).sum::<u64>();
        let (read, missed) = (sum(|s| s.read), sum(|s| s.missed));
        let first = Sketch::first(spans.map(|s| &s.addresses[which as usize]), &mut self.items);
        let most = first.map_or(0, |item| item.count - item.error);
        // What was read is a random part of all.
        let all = u128::from(most) * u128::from(read + missed) / u128::from(read.max(1));
        u32::try_from(all / RATE as u128).unwrap_or(u32::MAX)
    }

    /// Counts a record in the present second.
    pub(super) fn count(&mut self, record: &Record) {
        self.present.count(&self.hasher, record);
    }

    /// Counts records that were overwritten.
    pub(super) const fn miss(&mut self, count: u64) {
        self.present.missed += count;
    }

    /// Returns an empty span.
    fn begin(&mut self, second: u64) -> Span {
        let mut span = self.spare.pop().unwrap_or_else(|| Span::new(second));
        span.begin(second);
        span
    }

    /// Returns the spans of the last seconds; more than these where coarse spans begin earlier.
    fn spans(&self, window_s: u32) -> Vec<&Span> {
        let first = self.present.second.saturating_sub(window_s.into());
        let seconds = self.seconds.iter().chain([&self.present]);
        if u64::from(window_s) <= COARSE {
            return seconds.filter(|s| s.second >= first).collect();
        }
        let end = self.coarse.back().map_or(0, |s| s.second + COARSE);
        let coarse = self.coarse.iter().filter(|s| s.second + COARSE > first);
        coarse.chain(seconds.filter(|s| s.second >= end)).collect()
    }

    /// Returns a window's keys; none when there is no sketch of these.
    pub(super) fn window(&self, by: By, only: Only, bytes: bool, window_s: u32) -> Option<Window> {
        let spans = self.spans(window_s);
        let addresses = |which: Addresses| {
            Counted::Addresses(Sketch::merge(spans.iter().map(|s| &s.addresses[which as usize])))
        };
        let names =
            |which: Names| Counted::Names(Sketch::merge(spans.iter().map(|s| &s.names[which as usize])));
        let numbers = |which: Numbers| {
            Counted::Numbers(Sketch::merge(spans.iter().map(|s| &s.numbers[which as usize])))
        };
        let counted = match (by, only, bytes) {
            (By::Client, Only::All, true) => addresses(Addresses::Bandwidth),
            (_, _, true) => return None,
            (By::Client, Only::All, _) => addresses(Addresses::Clients),
            (By::Client, Only::Rcode(SERVFAIL), _) => addresses(Addresses::ServfailClients),
            (By::Client, Only::Rcode(NXDOMAIN), _) => addresses(Addresses::NxdomainClients),
            (By::Client, Only::Timeouts, _) => addresses(Addresses::TimeoutClients),
            (By::Network, Only::All, _) => addresses(Addresses::Networks),
            (By::Name(0), Only::All, _) => names(Names::Whole),
            (By::Name(1), Only::All, _) => names(Names::OneLabel),
            (By::Name(2), Only::All, _) => names(Names::TwoLabels),
            (By::Name(3), Only::All, _) => names(Names::ThreeLabels),
            (By::Name(0), Only::Rcode(SERVFAIL), _) => names(Names::Servfail),
            (By::Name(2), Only::Rcode(SERVFAIL), _) => names(Names::ServfailDomains),
            (By::Name(0), Only::Rcode(NXDOMAIN), _) => names(Names::Nxdomain),
            (By::Name(2), Only::Rcode(NXDOMAIN), _) => names(Names::NxdomainDomains),
            (By::Name(0), Only::Timeouts, _) => names(Names::Timeouts),
            (By::Name(2), Only::Timeouts, _) => names(Names::TimeoutDomains),
            (By::Name(0), Only::SlowerThan(SLOW_MS), _) => names(Names::Slow),
            (By::Name(2), Only::SlowerThan(SLOW_MS), _) => names(Names::SlowDomains),
            (By::Type, Only::All, _) => numbers(Numbers::Types),
            (By::Rcode, Only::All, _) => numbers(Numbers::Rcodes),
            _ => return None,
        };
        let sum = |of: fn(&Span) -> u64| spans.iter().map(|s| of(s)).sum();
        let second = spans.iter().map(|s| s.second).min().unwrap_or(self.present.second);
        let by_question = matches!(by, By::Name(_) | By::Type);
        // What is not known has timed out.
        let unknown =
            if by_question && matches!(only, Only::All | Only::Timeouts) { sum(|s| s.unknown) } else { 0 };
        Some(Window { counted, second, read: sum(|s| s.read), missed: sum(|s| s.missed), unknown })
    }

    /// Returns how many records were counted and missed in the last seconds, and since which second.
    pub(super) fn coverage(&self, window_s: u32) -> (u64, u64) {
        let spans = self.spans(window_s);
        (spans.iter().map(|s| s.read).sum(), spans.iter().map(|s| s.missed).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::traffic::fixture::record;

    fn windows() -> Windows {
        Windows::new(RandomState::with_seeds(1, 2, 3, 4), 100)
    }

    fn count_of(windows: &Windows, name: &str, window_s: u32) -> u64 {
        let window = windows.window(By::Name(0), Only::All, false, window_s).expect("a sketch");
        let Counted::Names(merged) = window.counted else { panic!("no names") };
        merged.items.iter().find(|item| item.key.to_string() == name).map_or(0, |item| item.count)
    }

    #[test]
    fn old_seconds_leave() {
        let mut windows = windows();
        for second in 100..1_300 {
            windows.advance(second);
            windows.count(&record("steady.example", second));
            if second == 200 {
                windows.count(&record("once.example", second));
            }
            let age = second - 200.min(second);
            if second >= 200 {
                assert_eq!(count_of(&windows, "once.example", 5), u64::from(age <= 5), "at {second}");
                let minute = count_of(&windows, "once.example", 60);
                assert!(minute == u64::from(age <= 60) || (61..75).contains(&age), "at {second}");
                let longest = count_of(&windows, "once.example", WINDOW_MAX);
                assert!(longest == u64::from(age <= 900) || (900..916).contains(&age), "at {second}");
            }
        }
        assert_eq!(count_of(&windows, "steady.example", 5), 6, "five seconds and the present one");
        assert!((60..=76).contains(&count_of(&windows, "steady.example", 60)));
        assert!((900..=916).contains(&count_of(&windows, "steady.example", 900)));
        windows.advance(10_000);
        assert_eq!(count_of(&windows, "steady.example", 900), 0);
    }

    #[test]
    fn the_rate_of_the_first_is_that_of_seconds_that_have_ended() {
        let mut windows = windows();
        let from = |client: u8, second: u64| {
            let mut record = record("a.example", second);
            record.finished.ip[15] = client;
            record
        };
        let mut rates = Vec::new();
        for second in 100..115 {
            assert_eq!(windows.advance(second), second > 100);
            rates.push(windows.rate_max(Addresses::Clients));
            (0..20).for_each(|_| windows.count(&from(1, second)));
            (0..30).for_each(|_| windows.count(&from((second % 2) as u8 + 2, second)));
        }
        // One asks 20 each second; two take turns with 30.
        let rising: Vec<u32> = (0..15).map(|seconds| 20 * seconds.min(10) / 10).collect();
        let rising = rising.iter().enumerate().map(|(at, rate)| (*rate).max([0, 3, 3][at.min(2)]));
        assert_eq!(rates, rising.collect::<Vec<_>>());
        assert_eq!(windows.rate_max(Addresses::Networks), 50);
        assert_eq!(windows.rate_max(Addresses::Bandwidth), 2_000);
        // Of half that was not read, as much again.
        for second in 115..126 {
            windows.advance(second);
            (0..20).for_each(|_| windows.count(&from(1, second)));
            windows.miss(20);
        }
        assert_eq!(windows.rate_max(Addresses::Clients), 40);
        windows.advance(136);
        assert_eq!(windows.rate_max(Addresses::Clients), 0);
    }

    #[test]
    fn a_record_is_counted_wherever_it_belongs() {
        let mut windows = windows();
        let mut failed = record("a.b.c.example", 100);
        failed.finished.flags = [0x81, SERVFAIL];
        failed.finished.latency_us = 150_000;
        windows.count(&failed);
        for (by, only) in [
            (By::Client, Only::All),
            (By::Network, Only::All),
            (By::Name(0), Only::All),
            (By::Name(1), Only::All),
            (By::Name(2), Only::All),
            (By::Name(3), Only::All),
            (By::Name(0), Only::Rcode(SERVFAIL)),
            (By::Name(2), Only::Rcode(SERVFAIL)),
            (By::Client, Only::Rcode(SERVFAIL)),
            (By::Name(0), Only::SlowerThan(SLOW_MS)),
            (By::Type, Only::All),
            (By::Rcode, Only::All),
        ] {
            let window = windows.window(by, only, false, 1).expect("a sketch");
            let total = match &window.counted {
                Counted::Addresses(merged) => merged.total,
                Counted::Names(merged) => {
                    let shown = merged.items[0].key.to_string();
                    let By::Name(labels) = by else { panic!("{by:?}") };
                    let expected = ["a.b.c.example", "example", "c.example", "b.c.example"];
                    assert_eq!(shown, expected[usize::from(labels)]);
                    merged.total
                }
                Counted::Numbers(merged) => merged.total,
            };
            assert_eq!((total, window.read, window.missed), (1, 1, 0), "{by:?} {only:?}");
        }
        assert!(windows.window(By::Name(3), Only::Timeouts, false, 1).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let span = Span::new(0);
        let bytes = span.addresses.iter().map(Sketch::bytes).sum::<usize>()
            + span.names.iter().map(Sketch::bytes).sum::<usize>()
            + span.numbers.iter().map(Sketch::bytes).sum::<usize>();
        // The present one, and one that is made before another has passed.
        let spans = SECONDS + COARSE_COUNT + 2;
        assert!(bytes * spans <= 20 << 20, "{bytes} bytes a span");
        let mut windows = Windows::new(RandomState::with_seed(1), 0);
        for second in 0..3 * u64::from(WINDOW_MAX) {
            windows.advance(second);
            let made = 1 + windows.seconds.len() + windows.coarse.len() + windows.spare.len();
            assert!(made <= spans, "{made} spans after {second} s");
        }
    }
}
