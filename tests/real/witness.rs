//! A backend that records every query, for tests of what a server receives.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{message, place};

/// A running backend whose answers contain the number `who` (see [`message::answered_by`]).
#[derive(Debug)]
pub(crate) struct Witness {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    queries: Mutex<Vec<Vec<u8>>>,
    stop: AtomicBool,
}

impl Witness {
    pub(crate) fn start(who: u8) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], place::port()));
        let socket = UdpSocket::bind(address).expect("the witness's socket");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out");
        let shared = Arc::<Shared>::default();
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let mut buffer = [0; 4096];
                while !shared.stop.load(Ordering::Relaxed) {
                    let Ok((len, peer)) = socket.recv_from(&mut buffer) else { continue };
                    shared.queries.lock().expect("the queries").push(buffer[..len].to_vec());
                    if let Some(answer) = message::answer(&buffer[..len], who) {
                        let _ = socket.send_to(&answer, peer);
                    }
                }
            }
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// Returns the last datagram with a query for `name`, including any bytes before the query.
    pub(crate) fn last(&self, name: &str) -> Option<Vec<u8>> {
        let asked = message::query(0, name)[message::HEADER..].to_vec();
        let queries = self.shared.queries.lock().expect("the queries");
        queries.iter().rev().find(|q| q.windows(asked.len()).any(|w| w == asked)).cloned()
    }

    /// Returns the received queries for `name`.
    pub(crate) fn queries(&self, name: &str) -> Vec<Vec<u8>> {
        let asked = message::query(0, name)[message::HEADER..].to_vec();
        let queries = self.shared.queries.lock().expect("the queries");
        queries.iter().filter(|q| q[message::HEADER..].starts_with(&asked)).cloned().collect()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
