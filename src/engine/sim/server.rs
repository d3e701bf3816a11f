//! The statistical behaviour of a name server, and what a spoofer knows.

use crate::base::addr::{Route, SocketSlot};
use crate::base::rng::ShardRng;
use crate::base::time::TickDelta;
use crate::engine::sim::Port;
use crate::wire::header;
use crate::wire::header::{Header, rcode};
use crate::wire::query::Question;

/// The statistical behaviour of a name server.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Whether it answers at all.
    pub alive: bool,
    /// Its least latency.
    pub latency: TickDelta,
    /// Mean of the additional latency, exponentially distributed.
    pub latency_tail: TickDelta,
    /// SERVFAIL responses, parts per million.
    pub servfail_ppm: u32,
    /// Invalid responses, which no client must get, parts per million.
    pub wrong_ppm: u32,
}

impl Server {
    /// Creates a server that answers everything after `latency`.
    #[must_use]
    pub const fn steady(latency: TickDelta) -> Self {
        Self { alive: true, latency, latency_tail: TickDelta(0), servfail_ppm: 0, wrong_ppm: 0 }
    }

    /// Returns its response to a query and the delay; `None` when it does not answer.
    #[must_use]
    pub fn answer(&self, query: &[u8], rng: &mut ShardRng) -> Option<(TickDelta, Vec<u8>)> {
        if !self.alive {
            return None;
        }
        let head = Header::parse(query)?;
        let end = if head.qdcount() == 0 { header::LEN } else { Question::parse(query)?.end };
        let mut bytes = query[..end].to_vec();
        bytes[2] |= header::QR;
        bytes[3] = header::RA | (bytes[3] & header::CD);
        bytes[6..header::LEN].fill(0);
        if rng.chance(self.wrong_ppm) {
            spoil(&mut bytes, rng);
        } else if rng.chance(self.servfail_ppm) {
            bytes[3] |= rcode::SERVFAIL;
        }
        // The inverse of the exponential distribution, from a uniform number in (0, 1].
        let uniform = (f64::from(rng.u32()) + 1.0) / 4_294_967_296.0;
        let tail = -uniform.ln() * self.latency_tail.0 as f64;
        Some((TickDelta(self.latency.0 + tail as u64), bytes))
    }
}

/// Makes a response invalid.
fn spoil(bytes: &mut Vec<u8>, rng: &mut ShardRng) {
    match rng.below(5) {
        0 => bytes[0] ^= 0x55,
        1 => bytes[2] &= !header::QR,
        2 => bytes.truncate(rng.below(header::LEN as u32) as usize),
        3 => {
            // Another type; the third byte from the end is its low half.
            let at = bytes.len() - 3;
            bytes[at] ^= 0x11;
        }
        _ => {
            bytes.truncate(header::LEN);
            bytes[5] = 0;
        }
    }
}

/// Returns the port of another socket of the same backend: a spoofer has to guess among them.
#[must_use]
pub const fn sibling(port: Port, socket: u16) -> Port {
    Port { route: Route { socket: SocketSlot::from_number(socket), ..port.route }, ..port }
}
