//! The demo's clients: an open-loop load with a Zipf distribution of names, and its measurements.
//!
//! Open loop: queries are sent by the clock, whether or not answers arrive, so that a slow server
//! cannot reduce its own load and look good. Latency is from a query's `send` to its answer's
//! `recv`. Nothing is retried: a lost query stays lost, and is accounted for.

#![expect(clippy::disallowed_methods, reason = "an open-loop load has its own pace")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::base::rng::ShardRng;
use crate::base::time::Tick;
use crate::engine::clock;
use crate::stats::histogram::Histogram;
use crate::stats::meter::Counter;
use crate::wire::header::Header;

/// Client sockets: enough flows for the kernel to distribute over the shards.
const SOCKETS: usize = 8;
/// The highest rate at which a message id is reused (after 2.6 s) later than any answer can arrive:
/// above it an answer could match another query.
pub(crate) const RATE_MAX: u32 = 200_000;
/// Interval of sending.
const PACE: Duration = Duration::from_micros(500);
/// Most queries sent at once after a stall, as a multiple of the usual number.
const CATCH_UP: u64 = 4;
/// Number of names; the n-th most popular is queried in proportion to 1/n.
const NAMES: u32 = 20_000;
/// Number of message ids.
const IDS: usize = 1 << 16;
/// Requested receive buffer, bytes; the kernel may grant less.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Longest sleep of the receiver, so that it notices its end.
const SLEEP_MS: u16 = 20;

/// The clients' counters.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Queries sent.
    pub(crate) sent: Counter,
    /// Queries that the kernel refused; not part of `sent`.
    pub(crate) refused: Counter,
    /// First answers to them.
    pub(crate) answered: Counter,
    /// Datagrams that match no outstanding query.
    pub(crate) unexpected: Counter,
    /// Latency of the answers.
    pub(crate) latency: Histogram,
}

/// A running load.
#[derive(Debug)]
pub(crate) struct Load {
    tally: Arc<Tally>,
    ports: Vec<u16>,
    sending: Arc<AtomicBool>,
    receiving: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// A client socket, and when each message id was last sent; 0 once answered.
#[derive(Debug)]
struct Flow {
    socket: UdpSocket,
    sent_at: Box<[AtomicU64]>,
}

impl Load {
    /// Starts sending `rate` queries per second to `target`.
    ///
    /// # Errors
    /// When a socket or a thread cannot be created.
    pub(crate) fn start(target: SocketAddr, rate: u32, rng: ShardRng) -> io::Result<Self> {
        let flows: Arc<[Flow]> = (0..SOCKETS).map(|_| Flow::open(target)).collect::<io::Result<_>>()?;
        let ports = flows.iter().map(|f| Ok(f.socket.local_addr()?.port())).collect::<io::Result<_>>()?;
        let mut load = Self {
            tally: Arc::default(),
            ports,
            sending: Arc::new(AtomicBool::new(true)),
            receiving: Arc::new(AtomicBool::new(true)),
            threads: Vec::new(),
        };
        let (theirs, tally, receiving) =
            (Arc::clone(&flows), Arc::clone(&load.tally), Arc::clone(&load.receiving));
        let receiver = std::thread::Builder::new().name("demo-receive".into());
        load.threads.push(receiver.spawn(move || receive(&theirs, &tally, &receiving))?);
        let (tally, sending) = (Arc::clone(&load.tally), Arc::clone(&load.sending));
        let sender = std::thread::Builder::new().name("demo-send".into());
        load.threads.push(sender.spawn(move || send(&flows, &tally, &sending, rate, rng))?);
        Ok(load)
    }

    /// Returns the counters.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Returns the clients' ports.
    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Stops sending when this returns; answers are still received.
    pub(crate) fn finish(&mut self) {
        self.sending.store(false, Relaxed);
        if let Some(sender) = self.threads.pop_if(|_| true) {
            let _ = sender.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.sending.store(false, Relaxed);
        self.receiving.store(false, Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of the thread was printed already.
            let _ = thread.join();
        }
    }
}

impl Flow {
    fn open(target: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(target)?;
        socket.set_nonblocking(true)?;
        // A smaller buffer does no harm: the kernel counts what it drops.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
        Ok(Self { socket, sent_at: (0..IDS).map(|_| AtomicU64::new(0)).collect() })
    }
}

fn send(flows: &[Flow], tally: &Tally, sending: &AtomicBool, rate: u32, mut rng: ShardRng) {
    let popularity = Popularity::new();
    let mut query = Vec::with_capacity(64);
    let burst_max = (u64::from(rate) * PACE.as_micros() as u64 / 1_000_000 + 1) * CATCH_UP;
    let begin = clock::now();
    let mut tried = 0_u64;
    while sending.load(Relaxed) {
        let due = due(rate, begin, clock::now());
        for _ in 0..due.saturating_sub(tried).min(burst_max) {
            let flow = &flows[tried as usize % flows.len()];
            let id = (tried / flows.len() as u64) as u16;
            write_query(&mut query, id, popularity.draw(&mut rng));
            let slot = &flow.sent_at[usize::from(id)];
            slot.store(clock::now().0, Relaxed);
            if flow.socket.send(&query).is_ok() {
                tally.sent.add(1);
            } else {
                slot.store(0, Relaxed);
                tally.refused.add(1);
            }
            tried += 1;
        }
        std::thread::sleep(PACE);
    }
}

/// Returns the number of queries that should have been sent by `now`.
fn due(rate: u32, begin: Tick, now: Tick) -> u64 {
    (u128::from(now.since(begin).0) * u128::from(rate) / 1_000_000_000) as u64
}

fn receive(flows: &[Flow], tally: &Tally, receiving: &AtomicBool) {
    let mut buffer = [0; 4096];
    let mut fds: Vec<_> = flows.iter().map(|f| PollFd::new(f.socket.as_fd(), PollFlags::POLLIN)).collect();
    while receiving.load(Relaxed) {
        // A signal or an error wakes it, which is harmless.
        let _ = poll(&mut fds, PollTimeout::from(SLEEP_MS));
        for flow in flows {
            while let Ok(length) = flow.socket.recv(&mut buffer) {
                let now = clock::now();
                let sent_at = Header::parse(&buffer[..length])
                    .filter(Header::is_response)
                    .map_or(0, |h| flow.sent_at[usize::from(h.id())].swap(0, Relaxed));
                if sent_at == 0 {
                    tally.unexpected.add(1);
                } else {
                    tally.answered.add(1);
                    tally.latency.record(now.since(Tick(sent_at)).0);
                }
            }
        }
    }
}

/// Writes a query for the A records of a numbered name.
fn write_query(query: &mut Vec<u8>, id: u16, name: u32) {
    query.clear();
    query.extend(id.to_be_bytes());
    query.extend(b"\x01\0\0\x01\0\0\0\0\0\0\x06n");
    let mut digits = [0; 5];
    let mut rest = name;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    query.extend(digits);
    query.extend(b"\x04demo\x04test\0\0\x01\0\x01");
}

/// A Zipf distribution with exponent 1 over [`NAMES`] names.
struct Popularity {
    /// By name, the part of all queries for it or a more popular one, of 2^32.
    cumulative: Vec<u32>,
}

impl Popularity {
    fn new() -> Self {
        let whole: f64 = (1..=NAMES).map(|n| 1.0 / f64::from(n)).sum();
        let mut sum = 0.0;
        let cumulative = (1..=NAMES)
            .map(|n| {
                sum += 1.0 / f64::from(n);
                // At most 1 times u32::MAX; `as` also bounds a rounding error.
                (sum / whole * f64::from(u32::MAX)) as u32
            })
            .collect();
        Self { cumulative }
    }

    fn draw(&self, rng: &mut ShardRng) -> u32 {
        let point = rng.u32();
        let name = self.cumulative.partition_point(|c| *c < point) as u32;
        name.min(NAMES - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::query::Question;

    #[test]
    fn popular_names_are_queried_more() {
        let (popularity, mut rng) = (Popularity::new(), ShardRng::from_seed(7));
        let mut asked = vec![0_u32; NAMES as usize];
        for _ in 0..200_000 {
            asked[popularity.draw(&mut rng) as usize] += 1;
        }
        // The first has 1/10.48 of all, the tenth a tenth of that.
        assert!((18_000..20_000).contains(&asked[0]), "{}", asked[0]);
        assert!((1_600..2_200).contains(&asked[9]), "{}", asked[9]);
        assert!(asked[10_000..].iter().sum::<u32>() > 10_000, "the tail is queried too");
    }

    #[test]
    fn queries_are_well_formed() {
        let mut query = Vec::new();
        write_query(&mut query, 0x1234, 19_999);
        let question = Question::parse(&query).expect("a question");
        assert_eq!(question.qname, b"\x06n19999\x04demo\x04test\0");
        assert_eq!((question.qtype, question.end), (1, query.len()));
    }

    #[test]
    fn the_number_of_due_queries_follows_the_clock() {
        assert_eq!(due(20_000, Tick(5), Tick(5)), 0);
        assert_eq!(due(20_000, Tick(5), Tick(1_000_000_005)), 20_000);
        assert_eq!(due(RATE_MAX, Tick(0), Tick(86_400_000_000_000)), 17_280_000_000);
    }
}
