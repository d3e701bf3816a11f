//! An embedded name server: answers every A query, and has a cache that starts cold.
//!
//! It models only what a balancer can see of a caching resolver: a recently queried name is
//! answered at once, any other one after a round trip to an authority. It resolves nothing, and
//! loses its cache while it is silenced, like a restarted server.
//!
//! ```text
//!  query ─► cache ──hit──► answer
//!             └───miss──► wait 3 to 9 ms ─► cache ─► answer
//! ```

#![expect(clippy::disallowed_methods, reason = "names are those of the demo")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use ahash::{AHashMap, RandomState};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::engine::clock;
use crate::stats::meter::Counter;
use crate::wire::header;
use crate::wire::query::Question;

/// TTL of cached names and of answers.
const TTL: TickDelta = TickDelta::from_ms(2_000);
/// Least round trip to an authority; [`ROUND_TRIP_SPREAD_US`] is added at most.
const ROUND_TRIP: TickDelta = TickDelta::from_ms(3);
/// See [`ROUND_TRIP`]; microseconds.
const ROUND_TRIP_SPREAD_US: u32 = 6_000;
/// Most names in the cache: more than the demo's load uses.
const NAMES_MAX: usize = 100_000;
/// Most answers that wait for their authority; further queries are not answered.
const WAITING_MAX: usize = 100_000;
/// Queries read before due answers are sent.
const BATCH: usize = 64;
/// Longest sleep of the thread, so that it notices its end.
const SLEEP: TickDelta = TickDelta::from_ms(20);

/// A running name server on its own port.
#[derive(Debug)]
pub(crate) struct Embedded {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and its owner share.
#[derive(Debug, Default)]
struct Shared {
    silent: AtomicBool,
    ending: AtomicBool,
    hits: Counter,
    misses: Counter,
}

impl Embedded {
    /// Starts a name server on loopback, on a port of the kernel's choice.
    ///
    /// # Errors
    /// When the socket or the thread cannot be created.
    pub(crate) fn start(name: &str, rng: ShardRng) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || Server::new(socket, theirs, rng).serve())?;
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Returns its address.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns whether it has stopped answering.
    pub(crate) fn is_silent(&self) -> bool {
        self.shared.silent.load(Relaxed)
    }

    /// Stops or resumes answering; its socket stays open, so the failure is silent.
    pub(crate) fn silence(&self, silent: bool) {
        self.shared.silent.store(silent, Relaxed);
    }

    /// Returns the queries answered from its cache, and the others.
    pub(crate) fn hits_and_misses(&self) -> [u64; 2] {
        [self.shared.hits.get(), self.shared.misses.get()]
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shared.ending.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed already.
            let _ = thread.join();
        }
    }
}

/// An answer on its way from the authority; ordered by arrival.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PendingAnswer {
    due: Tick,
    name: u64,
    client: SocketAddr,
    answer: Vec<u8>,
}

struct Server {
    socket: UdpSocket,
    shared: Arc<Shared>,
    rng: ShardRng,
    hasher: RandomState,
    /// Expiry by hash of the name.
    cache: AHashMap<u64, Tick>,
    walks: BinaryHeap<Reverse<PendingAnswer>>,
}

impl Server {
    fn new(socket: UdpSocket, shared: Arc<Shared>, mut rng: ShardRng) -> Self {
        let hasher = RandomState::with_seeds(rng.u64(), rng.u64(), rng.u64(), rng.u64());
        Self { socket, shared, rng, hasher, cache: AHashMap::new(), walks: BinaryHeap::new() }
    }

    fn serve(mut self) {
        let mut buffer = [0; 4096];
        while !self.shared.ending.load(Relaxed) {
            self.sleep();
            let now = clock::now();
            let silent = self.shared.silent.load(Relaxed);
            if silent {
                self.cache.clear();
                self.walks.clear();
            }
            for _ in 0..BATCH {
                let Ok((length, client)) = self.socket.recv_from(&mut buffer) else { break };
                if !silent {
                    self.take(&buffer[..length], client, now);
                }
            }
            self.arrive(now);
        }
    }

    /// Sleeps until a query or the next answer from an authority.
    fn sleep(&self) {
        let until = self.walks.peek().map_or(SLEEP, |Reverse(w)| w.due.since(clock::now()));
        let span = Duration::from(until.min(SLEEP));
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        // A signal or an error wakes it, which is harmless.
        let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(span)), None);
    }

    fn take(&mut self, query: &[u8], client: SocketAddr, now: Tick) {
        let Some(question) = Question::parse(query) else { return };
        let answer = answer(query, &question);
        let name = self.hasher.hash_one(question.qname);
        if self.cache.get(&name).is_some_and(|until| now < *until) {
            self.shared.hits.add(1);
            self.send(&answer, client);
            return;
        }
        self.shared.misses.add(1);
        if self.walks.len() < WAITING_MAX {
            let spread = TickDelta::from_us(self.rng.below(ROUND_TRIP_SPREAD_US).into());
            self.walks.push(Reverse(PendingAnswer { due: now + ROUND_TRIP + spread, name, client, answer }));
        }
    }

    /// Sends what the authorities have answered by `now`.
    fn arrive(&mut self, now: Tick) {
        while self.walks.peek().is_some_and(|Reverse(w)| w.due <= now) {
            let Some(Reverse(walk)) = self.walks.pop() else { return };
            if self.cache.len() >= NAMES_MAX {
                self.cache.clear();
            }
            self.cache.insert(walk.name, now + TTL);
            self.send(&walk.answer, walk.client);
        }
    }

    fn send(&self, answer: &[u8], client: SocketAddr) {
        // A refused answer is lost, as on any network; the balancer counts it.
        let _ = self.socket.send_to(answer, client);
    }
}

/// Builds an answer with QR and RA set, and one A record after the question.
fn answer(query: &[u8], question: &Question<'_>) -> Vec<u8> {
    let mut message = query[..question.end].to_vec();
    message[2] |= 0x80;
    message[3] = 0x80;
    // One question, one answer, no authority, nothing additional.
    message[4..header::LEN].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0]);
    // The name by a pointer to the question's (RFC 1035, 4.1.4), type A, class IN.
    message.extend([0xc0, header::LEN as u8, 0, 1, 0, 1]);
    message.extend(((TTL.0 / 1_000_000_000) as u32).to_be_bytes());
    message.extend([0, 4, 192, 0, 2, 1]);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";

    fn client(server: &Embedded) -> UdpSocket {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        socket.connect(server.address()).expect("loopback");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
        socket
    }

    #[test]
    fn a_name_is_fetched_once() {
        let server = Embedded::start("b", ShardRng::from_seed(1)).expect("a server");
        let client = client(&server);
        let mut buffer = [0; 512];
        for n in 1..=3 {
            client.send(QUERY).expect("sent");
            let length = client.recv(&mut buffer).expect("an answer");
            assert_eq!(&buffer[..8], b"\x12\x34\x81\x80\0\x01\0\x01");
            assert!(buffer[..length].ends_with(&[0, 4, 192, 0, 2, 1]));
            assert_eq!(server.hits_and_misses(), [n - 1, 1]);
        }
    }

    #[test]
    fn silencing_clears_the_cache() {
        let server = Embedded::start("b", ShardRng::from_seed(1)).expect("a server");
        let client = client(&server);
        let mut buffer = [0; 512];
        client.send(QUERY).expect("sent");
        client.recv(&mut buffer).expect("an answer");
        server.silence(true);
        assert!(server.is_silent());
        client.send(QUERY).expect("sent");
        client.set_read_timeout(Some(Duration::from_millis(60))).expect("a time-out");
        client.recv(&mut buffer).expect_err("it is silent");
        server.silence(false);
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
        client.send(QUERY).expect("sent");
        client.recv(&mut buffer).expect("an answer");
        assert_eq!(server.hits_and_misses(), [0, 2], "both were fetched");
    }
}
