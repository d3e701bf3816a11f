//! A backend in this process that counts every query that reaches it.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::message;
use crate::place;

/// How it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Manner {
    /// At once.
    Prompt,
    /// Each query after so long.
    After(Duration),
    /// Never.
    Silent,
    /// From another port than it was asked on.
    ForeignPort,
    /// With another question than the one asked.
    OtherQuestion,
    /// Twice.
    Twice,
    /// With the query as it came, QR still 0.
    Echo,
    /// With fewer bytes than a header has.
    Short,
}

/// A running backend. Numbered queries (the load's) and others (health checks) are counted apart.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    queries: AtomicU64,
    others: AtomicU64,
    stop: AtomicBool,
}

impl Backend {
    /// `who` is its number in the answers it gives, see [`message::answered_by`].
    pub(crate) fn start(who: u8, manner: Manner) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], place::port())), who, manner)
    }

    pub(crate) fn start_at(address: SocketAddr, who: u8, manner: Manner) -> Self {
        let socket = UdpSocket::bind(address).unwrap_or_else(|e| panic!("the backend at {address}: {e}"));
        place::widen(&socket);
        let shared = Arc::<Shared>::default();
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || serve(&socket, who, manner, &shared)
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// Numbered queries that have arrived.
    pub(crate) fn queries(&self) -> u64 {
        self.shared.queries.load(Ordering::Relaxed)
    }

    /// Queries that were not numbered: health checks.
    pub(crate) fn others(&self) -> u64 {
        self.shared.others.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, who: u8, manner: Manner, shared: &Shared) {
    let foreign =
        UdpSocket::bind((socket.local_addr().expect("an address").ip(), 0)).expect("a second socket");
    let mut waiting = std::collections::VecDeque::<(Instant, Vec<u8>, SocketAddr)>::new();
    let mut buffer = [0; 65_536];
    while !shared.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        while waiting.front().is_some_and(|(due, ..)| *due <= now) {
            if let Some((_, message, peer)) = waiting.pop_front() {
                let _ = socket.send_to(&message, peer);
            }
        }
        let patience = waiting.front().map_or(Duration::from_millis(20), |(due, ..)| *due - now);
        // A time-out of zero would mean for ever.
        socket.set_read_timeout(Some(patience.max(Duration::from_micros(50)))).expect("a time-out");
        let Ok((len, peer)) = socket.recv_from(&mut buffer) else { continue };
        let query = &buffer[..len];
        let is_load = message::number_of(query).is_some();
        let count = if is_load { &shared.queries } else { &shared.others };
        count.fetch_add(1, Ordering::Relaxed);
        let Some(answer) = message::answer(query, who) else { continue };
        // Health checks are always answered properly: the manner is the load's.
        match if is_load { manner } else { Manner::Prompt } {
            Manner::Prompt => drop(socket.send_to(&answer, peer)),
            Manner::After(delay) => waiting.push_back((Instant::now() + delay, answer, peer)),
            Manner::Silent => {}
            Manner::ForeignPort => drop(foreign.send_to(&answer, peer)),
            Manner::OtherQuestion => {
                let mut other = answer;
                other[message::HEADER + 1] ^= 1; // another letter
                drop(socket.send_to(&other, peer));
            }
            Manner::Twice => {
                drop(socket.send_to(&answer, peer));
                drop(socket.send_to(&answer, peer));
            }
            Manner::Echo => drop(socket.send_to(query, peer)),
            Manner::Short => drop(socket.send_to(&answer[..message::HEADER - 1], peer)),
        }
    }
}
