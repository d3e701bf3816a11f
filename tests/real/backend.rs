//! A backend in this process that counts every query.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::message;
use crate::place;

/// How a backend answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Behaviour {
    /// At once.
    Prompt,
    /// After a delay per query.
    After(Duration),
    /// Never.
    Silent,
    /// From another port than the queried one.
    ForeignPort,
    /// With another question than the queried one.
    OtherQuestion,
    /// Twice.
    Twice,
    /// With the unchanged query, QR still 0.
    Echo,
    /// With fewer bytes than a header.
    Short,
}

/// A running backend. It counts numbered queries (from the load) and others (health checks)
/// separately.
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
    /// `who` is the number of the backend in its answers, see [`message::answered_by`].
    pub(crate) fn start(who: u8, behaviour: Behaviour) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], place::port())), who, behaviour)
    }

    pub(crate) fn start_at(address: SocketAddr, who: u8, behaviour: Behaviour) -> Self {
        let socket = UdpSocket::bind(address).unwrap_or_else(|e| panic!("the backend at {address}: {e}"));
        place::widen(&socket);
        let shared = Arc::<Shared>::default();
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || serve(&socket, who, behaviour, &shared)
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// Returns the number of numbered queries received.
    pub(crate) fn queries(&self) -> u64 {
        self.shared.queries.load(Ordering::Relaxed)
    }

    /// Returns the number of queries without a number: health checks.
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

fn serve(socket: &UdpSocket, who: u8, behaviour: Behaviour, shared: &Shared) {
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
        // A timeout of zero would mean no timeout.
        socket.set_read_timeout(Some(patience.max(Duration::from_micros(50)))).expect("a time-out");
        let Ok((len, peer)) = socket.recv_from(&mut buffer) else { continue };
        let query = &buffer[..len];
        let is_load = message::number_of(query).is_some();
        let count = if is_load { &shared.queries } else { &shared.others };
        count.fetch_add(1, Ordering::Relaxed);
        let Some(answer) = message::answer(query, who) else { continue };
        // Health checks are always answered correctly: the behaviour applies to the load only.
        match if is_load { behaviour } else { Behaviour::Prompt } {
            Behaviour::Prompt => drop(socket.send_to(&answer, peer)),
            Behaviour::After(delay) => waiting.push_back((Instant::now() + delay, answer, peer)),
            Behaviour::Silent => {}
            Behaviour::ForeignPort => drop(foreign.send_to(&answer, peer)),
            Behaviour::OtherQuestion => {
                let mut other = answer;
                other[message::HEADER + 1] ^= 1; // another letter
                drop(socket.send_to(&other, peer));
            }
            Behaviour::Twice => {
                drop(socket.send_to(&answer, peer));
                drop(socket.send_to(&answer, peer));
            }
            Behaviour::Echo => drop(socket.send_to(query, peer)),
            Behaviour::Short => drop(socket.send_to(&answer[..message::HEADER - 1], peer)),
        }
    }
}
