//! A paced UDP load that accounts for every query it sent.
//!
//! One thread per socket, open loop: queries leave at their time whether earlier ones were
//! answered or not, unless an endless load would flood the sockets. A query is sent once; there is no second try to hide a loss.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::message;

/// Sockets (client ports) of one load: enough for the kernel to spread over several shards.
const SOCKETS: u64 = 8;

/// Queries of a socket of an endless load that wait for their answers: on a busy machine whoever is
/// late sends all at once, and a backend's socket holds some 270 datagrams.
const WINDOW: usize = 12;

/// What is to be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) target: SocketAddr,
    /// Queries a second over all sockets.
    pub(crate) rate: u32,
    /// Queries in all; a load may also be finished early.
    pub(crate) count: u64,
    /// How long the last answers are waited for.
    pub(crate) patience: Duration,
}

/// What became of every query.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) sent: u64,
    /// Answered once or more, with the right id and question.
    pub(crate) answered: u64,
    /// Numbers of the queries that nobody answered, and when they were sent.
    pub(crate) lost: BTreeMap<u64, Instant>,
    /// Answers beyond the first to one query.
    pub(crate) duplicates: u64,
    /// Datagrams that are no answer to any query of this load.
    pub(crate) strange: u64,
    /// Answers with another RCODE than NOERROR.
    pub(crate) failures: u64,
    /// Answers by the backend that gave them.
    pub(crate) by_backend: BTreeMap<u8, u64>,
    /// The longest wait for an answer.
    pub(crate) slowest: Duration,
    /// All waits, in no order.
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

    /// The wait that so many percent of the answers did not exceed.
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

    /// Queries sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Queries answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Sends no more, waits for what is outstanding, and reports.
    pub(crate) fn finish(self) -> Report {
        self.finish.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits until the whole count is sent and accounted for.
    pub(crate) fn join(self) -> Report {
        let mut total = Report::default();
        for thread in self.threads {
            total.add(thread.join().expect("a sender"));
        }
        total
    }
}

/// Asks the whole plan and reports.
pub(crate) fn run(plan: Plan) -> Report {
    Load::start(plan).join()
}

/// One socket with its share of the queries: numbers `which`, `which` + SOCKETS, ...
struct Sender {
    plan: Plan,
    which: u64,
    begin: Instant,
    socket: UdpSocket,
    tag: String,
    /// By number: id and time.
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
        // Connected: an answer from any other address never gets here.
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
        // A second answer would follow the first at once.
        self.hear_until(Instant::now() + Duration::from_millis(20));
        self.report.lost = self.outstanding.iter().map(|(n, (_, sent))| (*n, *sent)).collect();
        self.report
    }

    /// Queries that may still be answered any moment.
    fn young(&self) -> usize {
        let sent = self.outstanding.values().rev().map(|(_, sent)| sent);
        sent.take_while(|sent| sent.elapsed() < Duration::from_secs(1)).count()
    }

    fn ask(&mut self, number: u64) {
        // Spread over all ids, and another order of them in each socket.
        let id = ((number / SOCKETS).wrapping_mul(40_503) ^ (self.which << 11)) as u16;
        let message = message::query(id, &message::numbered(number, &self.tag));
        // A refusal is an earlier datagram's (ICMP port unreachable); this one is still to be sent.
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
                // Whoever is late, on a busy machine, reads all the same: answers that find no room
                // in the socket are lost.
                self.socket.set_nonblocking(true).expect("set");
                while let Ok(len) = self.socket.recv(&mut buffer) {
                    self.settle(&buffer[..len]);
                }
                self.socket.set_nonblocking(false).expect("set");
                return;
            }
            // A time-out of zero would mean for ever.
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
