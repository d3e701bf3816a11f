//! A paced UDP load that accounts for every query.
//!
//! One thread per socket, open loop: queries are sent at their time whether earlier ones were
//! answered or not, unless an endless load would flood the sockets. Each query is sent once; no
//! retransmission hides a loss.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::message;

/// Sockets (client ports) per load: enough for the kernel to spread over several shards.
const SOCKETS: u64 = 8;

/// The most outstanding queries per socket of an endless load: on a busy machine a late thread
/// sends all its queries at once, and the socket of a backend holds about 270 datagrams.
const WINDOW: usize = 12;

/// The parameters of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) target: SocketAddr,
    /// Queries per second over all sockets.
    pub(crate) rate: u32,
    /// The total number of queries; a load may be stopped earlier.
    pub(crate) count: u64,
    /// How long to wait for the last answers.
    pub(crate) patience: Duration,
}

/// The outcome of all queries.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) sent: u64,
    /// Queries answered at least once, with the correct id and question.
    pub(crate) answered: u64,
    /// Unanswered queries by number, and the times they were sent.
    pub(crate) lost: BTreeMap<u64, Instant>,
    /// Additional answers to answered queries.
    pub(crate) duplicates: u64,
    /// Datagrams that answer no query of this load.
    pub(crate) strange: u64,
    /// Answers with an RCODE other than NOERROR.
    pub(crate) failures: u64,
    /// Answers per backend.
    pub(crate) by_backend: BTreeMap<u8, u64>,
    /// The longest latency.
    pub(crate) slowest: Duration,
    /// All latencies, unsorted.
    waits: Vec<Duration>,
}

impl Report {
    /// Panics unless every query was answered exactly once, by a backend.
    pub(crate) fn assert_nothing_lost(&self, context: &dyn Fn() -> String) {
        assert!(
            self.lost.is_empty() && self.duplicates == 0 && self.strange == 0 && self.failures == 0,
            "of {} queries {} were lost ({:?} ...), {} answered twice, {} failed, {} datagrams were strange\n{}",
            self.sent,
            self.lost.len(),
            self.lost.keys().take(10).collect::<Vec<_>>(),
            self.duplicates,
            self.failures,
            self.strange,
            context(),
        );
        assert_eq!(self.answered, self.sent);
    }

    /// Returns the given percentile of the latencies.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        waits.get(waits.len() * percent / 100).copied().unwrap_or_default()
    }

    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.lost.extend(other.lost);
        self.duplicates += other.duplicates;
        self.strange += other.strange;
        self.failures += other.failures;
        for (who, n) in other.by_backend {
            *self.by_backend.entry(who).or_default() += n;
        }
        self.slowest = self.slowest.max(other.slowest);
        self.waits.extend(other.waits);
    }
}

/// A running load.
#[derive(Debug)]
pub(crate) struct Load {
    threads: Vec<JoinHandle<Report>>,
    finish: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
}

impl Load {
    pub(crate) fn start(plan: Plan) -> Self {
        let finish = Arc::new(AtomicBool::new(false));
        let (sent, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let begin = Instant::now();
        let threads = (0..SOCKETS)
            .map(|which| {
                let (finish, sent, answered) =
                    (Arc::clone(&finish), Arc::clone(&sent), Arc::clone(&answered));
                std::thread::spawn(move || Sender::new(plan, which, begin, sent, answered).run(&finish))
            })
            .collect();
        Self { threads, finish, sent, answered }
    }

    /// Returns the number of queries sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns the number of queries answered.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Stops sending, waits for outstanding queries, and reports.
    pub(crate) fn finish(self) -> Report {
        self.finish.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits until all queries are sent and accounted for.
    pub(crate) fn join(self) -> Report {
        let mut total = Report::default();
        for thread in self.threads {
            total.add(thread.join().expect("a sender"));
        }
        total
    }
}

/// Runs the whole plan and reports.
pub(crate) fn run(plan: Plan) -> Report {
    Load::start(plan).join()
}

/// Sends the share of one socket: the queries `which`, `which` + SOCKETS, …
struct Sender {
    plan: Plan,
    which: u64,
    begin: Instant,
    socket: UdpSocket,
    tag: String,
    /// Id and time by query number.
    outstanding: BTreeMap<u64, (u16, Instant)>,
    done: BTreeMap<u64, u16>,
    report: Report,
    sent: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
}

impl Sender {
    fn new(plan: Plan, which: u64, begin: Instant, sent: Arc<AtomicU64>, answered: Arc<AtomicU64>) -> Self {
        let any: SocketAddr = match plan.target {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).expect("a client socket");
        crate::place::widen(&socket);
        // Connected: the kernel drops answers from other addresses.
        socket.connect(plan.target).expect("a route to the target");
        let tag = format!("s{}", socket.local_addr().expect("an address").port());
        Self {
            plan,
            which,
            begin,
            socket,
            tag,
            outstanding: BTreeMap::new(),
            done: BTreeMap::new(),
            report: Report::default(),
            sent,
            answered,
        }
    }

    fn run(mut self, finish: &AtomicBool) -> Report {
        let mut number = self.which;
        while number < self.plan.count && !finish.load(Ordering::Relaxed) {
            let due = self.begin + Duration::from_secs_f64(number as f64 / f64::from(self.plan.rate));
            self.hear_until(due);
            while self.plan.count == u64::MAX && self.young() >= WINDOW {
                self.hear_until(Instant::now() + Duration::from_millis(1));
            }
            self.ask(number);
            number += SOCKETS;
        }
        let deadline = Instant::now() + self.plan.patience;
        while !self.outstanding.is_empty() && Instant::now() < deadline {
            self.hear_until((Instant::now() + Duration::from_millis(10)).min(deadline));
        }
        // A duplicate would follow the first answer immediately.
        self.hear_until(Instant::now() + Duration::from_millis(20));
        self.report.lost = self.outstanding.iter().map(|(n, (_, sent))| (*n, *sent)).collect();
        self.report
    }

    /// Returns the number of queries that may still be answered.
    fn young(&self) -> usize {
        let sent = self.outstanding.values().rev().map(|(_, sent)| sent);
        sent.take_while(|sent| sent.elapsed() < Duration::from_secs(1)).count()
    }

    fn ask(&mut self, number: u64) {
        // Uses all ids, in a different order in each socket.
        let id = ((number / SOCKETS).wrapping_mul(40_503) ^ (self.which << 11)) as u16;
        let message = message::query(id, &message::numbered(number, &self.tag));
        // The error belongs to an earlier datagram (ICMP port unreachable); this one must be sent
        // again.
        while self.socket.send(&message).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {}
        self.outstanding.insert(number, (id, Instant::now()));
        self.report.sent += 1;
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    fn hear_until(&mut self, until: Instant) {
        let mut buffer = [0; 4096];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // A late thread on a busy machine must read anyway: answers that do not fit into
                // the socket buffer are lost.
                self.socket.set_nonblocking(true).expect("set");
                while let Ok(len) = self.socket.recv(&mut buffer) {
                    self.settle(&buffer[..len]);
                }
                self.socket.set_nonblocking(false).expect("set");
                return;
            }
            // A timeout of zero would mean no timeout.
            self.socket.set_read_timeout(Some(left.max(Duration::from_micros(50)))).expect("a time-out");
            if let Ok(len) = self.socket.recv(&mut buffer) {
                self.settle(&buffer[..len]);
            }
        }
    }

    fn settle(&mut self, answer: &[u8]) {
        let id = answer.get(..2).map(|b| u16::from_be_bytes([b[0], b[1]]));
        let is_answer = answer.get(2).is_some_and(|b| b & 0x80 != 0);
        let expected = |n| message::query(id.unwrap_or(0), &message::numbered(n, &self.tag));
        let number = message::number_of(answer).filter(|n| {
            is_answer
                && answer
                    .get(message::HEADER..)
                    .is_some_and(|a| a.starts_with(&expected(*n)[message::HEADER..]))
        });
        let Some(number) = number else {
            self.report.strange += 1;
            return;
        };
        match self.outstanding.get(&number) {
            Some((own, sent)) if Some(*own) == id => {
                let wait = sent.elapsed();
                self.report.slowest = self.report.slowest.max(wait);
                self.report.waits.push(wait);
                self.done.insert(number, *own);
                self.outstanding.remove(&number);
                self.report.answered += 1;
                self.answered.fetch_add(1, Ordering::Relaxed);
                if answer[3] & 0x0f != 0 {
                    self.report.failures += 1;
                }
                if let Some(who) = message::answered_by(answer) {
                    *self.report.by_backend.entry(who).or_default() += 1;
                }
            }
            None if self.done.get(&number).copied() == id => self.report.duplicates += 1,
            Some(_) | None => self.report.strange += 1,
        }
    }
}
