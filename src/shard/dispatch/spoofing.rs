//! Datagrams from servers that answer nothing we asked: whether somebody may be guessing answers.
//!
//! ```text
//!  no such query ─┬ of an attempt that has timed out ─► late: explained
//!                 ├ of one that has been answered ────► duplicate: explained
//!                 └ anything else ────────────────────► foreign
//!
//!  more than FOREIGN_MAX foreign ones in a second than explained ones: a burst
//!       ├► new sockets; the old ones receive until their queries have ended
//!       └► queries go over TCP until CALM after the last burst, where the server's setting says so
//! ```
//!
//! A server that was stalled answers thousands of queries after their time-outs, whose slots have
//! other queries by then. So the keys of attempts that have timed out are remembered for a while,
//! in a filter of fixed size. Who guesses has to guess these, too, to be taken for late. When the
//! filter has forgotten some of many, or a network doubles packets, as many others are still
//! recognised, which the bound rises by. Each shard has ports of its own to be guessed, so it
//! reckons alone.
//!
//! A datagram that matches its query passes nothing of this.

use std::ops::Range;

use crate::base::addr::BackendSlot;
use crate::base::time::{Tick, TickDelta};
use crate::shard::dispatch::outstanding::Key;

/// Foreign datagrams of a server in a second that are no burst. With 4 ports each of them has one
/// chance in 262,144 to hit a query; broken networks and servers cause a few.
pub(crate) const FOREIGN_MAX: u32 = 100;
/// How long a burst is over before all is calm.
pub const CALM: TickDelta = TickDelta::from_ms(60_000);
/// The span of the bound.
const SPAN: TickDelta = TickDelta::from_ms(1_000);
/// How long an attempt that has timed out is remembered, at least; twice that at most.
const REMEMBERED: TickDelta = TickDelta::from_ms(10_000);
/// Bits of a generation of the filter: 16 kB.
const BITS: usize = 1 << 17;
/// Attempts of one generation: with these one foreign datagram of twenty is taken for late.
const ATTEMPTS_MAX: u32 = 1 << 14;

/// What is known of a server's datagrams.
#[derive(Debug, Default)]
struct Watch {
    /// The current span, and what it has brought.
    since: Tick,
    foreign: u32,
    explained: u32,
    is_burst: bool,
    /// Until when it is under attack.
    until: Option<Tick>,
    /// Until when old sockets receive.
    drained: Tick,
    late: Option<Box<TimedOut>>,
}

/// New sockets for a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redraw {
    /// The server.
    pub backend: BackendSlot,
    /// The numbers of the new ones.
    pub sockets: Range<u16>,
    /// When no query is outstanding on the old ones any more.
    pub drained: Tick,
}

/// The datagrams of all servers that answer nothing we asked.
#[derive(Debug, Default)]
pub(crate) struct SpoofingWatch {
    servers: Vec<Option<Box<Watch>>>,
    /// Servers that are to have new sockets.
    redraws: Vec<BackendSlot>,
    /// Servers under attack.
    attacked: u32,
}

impl SpoofingWatch {
    fn server(&mut self, backend: BackendSlot) -> &mut Watch {
        if self.servers.len() <= backend.index() {
            self.servers.resize_with(backend.index() + 1, || None);
        }
        self.servers[backend.index()].get_or_insert_default()
    }

    /// An attempt by datagram has timed out.
    pub(crate) fn timed_out(&mut self, key: Key, question: u64, now: Tick) {
        self.server(key.route.backend).late.get_or_insert_default().insert(hash(key, question), now);
    }

    /// Returns whether a datagram answers an attempt that has timed out.
    pub(crate) fn is_late(&self, key: Key, question: u64) -> bool {
        let server = self.servers.get(key.route.backend.index()).and_then(Option::as_ref);
        server.and_then(|server| server.late.as_ref()).is_some_and(|late| late.contains(hash(key, question)))
    }

    /// Counts a late or a second answer.
    pub(crate) fn on_explained(&mut self, backend: BackendSlot, now: Tick) {
        let server = self.server(backend);
        server.begin(now);
        server.explained += 1;
    }

    /// Counts a foreign datagram. Returns whether it makes a burst, once in each.
    pub(crate) fn on_foreign(&mut self, backend: BackendSlot, now: Tick) -> bool {
        let server = self.server(backend);
        server.begin(now);
        server.foreign += 1;
        if server.is_burst || server.foreign <= FOREIGN_MAX.saturating_add(server.explained) {
            return false;
        }
        server.is_burst = true;
        let is_new = server.until.replace(now + CALM).is_none();
        let is_drained = server.drained <= now;
        self.attacked += u32::from(is_new);
        if is_drained && !self.redraws.contains(&backend) {
            self.redraws.push(backend);
        }
        true
    }

    /// Returns whether a server is under attack.
    pub(crate) fn is_attacked(&self, backend: BackendSlot) -> bool {
        self.servers.get(backend.index()).and_then(Option::as_ref).is_some_and(|s| s.until.is_some())
    }

    /// Returns the next server that is to have new sockets.
    pub(crate) fn next_redraw(&mut self) -> Option<BackendSlot> {
        self.redraws.pop()
    }

    /// A server has new sockets; its old ones receive until `drained`.
    pub(crate) fn redrawn(&mut self, backend: BackendSlot, drained: Tick) {
        self.server(backend).drained = drained;
    }

    /// Calls `each` with the servers that are under attack no more.
    pub(crate) fn calm(&mut self, now: Tick, mut each: impl FnMut(BackendSlot)) {
        if self.attacked == 0 {
            return;
        }
        for (at, server) in (0..).zip(&mut self.servers) {
            if let Some(server) = server
                && server.until.is_some_and(|until| until <= now)
            {
                server.until = None;
                self.attacked -= 1;
                each(BackendSlot(at));
            }
        }
    }

    /// Forgets a server that is gone.
    pub(crate) fn forget(&mut self, backend: BackendSlot) {
        self.redraws.retain(|slot| *slot != backend);
        if let Some(server) = self.servers.get_mut(backend.index()).and_then(Option::take) {
            self.attacked -= u32::from(server.until.is_some());
        }
    }
}

impl Watch {
    /// Begins a new span when the last one is over.
    fn begin(&mut self, now: Tick) {
        if now.since(self.since) >= SPAN {
            (self.since, self.foreign, self.explained, self.is_burst) = (now, 0, 0, false);
        }
    }
}

/// Returns one number for an attempt and its question. The hash of the question is keyed.
fn hash(key: Key, question: u64) -> u64 {
    let attempt = u64::from(key.route.socket.number()) << 16 | u64::from(key.id);
    let mixed = (question ^ attempt.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

/// Attempts that have timed out: a filter that may take others for them, and never the reverse.
#[derive(Debug)]
struct TimedOut {
    /// The current generation and the one before it.
    generations: [Box<[u64]>; 2],
    since: Tick,
    count: u32,
}

impl Default for TimedOut {
    fn default() -> Self {
        let bits = || vec![0; BITS / 64].into_boxed_slice();
        Self { generations: [bits(), bits()], since: Tick(0), count: 0 }
    }
}

impl TimedOut {
    fn insert(&mut self, hash: u64, now: Tick) {
        let age = now.since(self.since);
        if age >= REMEMBERED || self.count >= ATTEMPTS_MAX {
            self.generations.swap(0, 1);
            self.generations[0].fill(0);
            if age.0 >= 2 * REMEMBERED.0 {
                self.generations[1].fill(0);
            }
            (self.since, self.count) = (now, 0);
        }
        self.count += 1;
        for (word, bit) in places(hash) {
            self.generations[0][word] |= bit;
        }
    }

    fn contains(&self, hash: u64) -> bool {
        self.generations.iter().any(|bits| places(hash).iter().all(|(word, bit)| bits[*word] & bit != 0))
    }
}

/// Returns the two bits of a hash.
fn places(hash: u64) -> [(usize, u64); 2] {
    let [a, b, c, d, e, f, g, h] = hash.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])].map(|half| {
        let at = half as usize % BITS;
        (at / 64, 1 << (at % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addr::{Route, SocketSlot};

    const SERVER: BackendSlot = BackendSlot(3);

    fn key(id: u16) -> Key {
        Key { route: Route { backend: SERVER, socket: SocketSlot::Datagram(1) }, id }
    }

    const fn ms(ms: u64) -> Tick {
        Tick(ms * 1_000_000)
    }

    #[test]
    fn more_than_the_bound_within_a_second_is_a_burst_once() {
        let mut watch = SpoofingWatch::default();
        let bursts = |watch: &mut SpoofingWatch, count, at| {
            (0..count).filter(|_| watch.on_foreign(SERVER, at)).count()
        };
        for second in 1..5 {
            assert_eq!(bursts(&mut watch, FOREIGN_MAX, ms(second * 1_000)), 0, "for ever");
        }
        assert!(!watch.is_attacked(SERVER));
        assert_eq!(bursts(&mut watch, 1, ms(4_999)), 1);
        assert_eq!(bursts(&mut watch, 5_000, ms(4_999)), 0, "the same one");
        assert_eq!(
            (watch.is_attacked(SERVER), watch.next_redraw(), watch.next_redraw()),
            (true, Some(SERVER), None)
        );
        watch.redrawn(SERVER, ms(8_000));
        assert_eq!(bursts(&mut watch, 5_000, ms(6_000)), 1);
        assert_eq!(watch.next_redraw(), None, "the old sockets still receive");
        assert_eq!(bursts(&mut watch, 5_000, ms(8_000)), 1);
        assert_eq!(watch.next_redraw(), Some(SERVER));
        let mut calm = Vec::new();
        watch.calm(ms(8_000) + CALM, |slot| calm.push(slot));
        assert_eq!((calm, watch.is_attacked(SERVER)), (vec![SERVER], false));
    }

    #[test]
    fn explained_datagrams_raise_the_bound() {
        let mut watch = SpoofingWatch::default();
        for _ in 0..10_000 {
            watch.on_explained(SERVER, ms(5_000));
            assert!(!watch.on_foreign(SERVER, ms(5_000)));
        }
        assert!((0..200).any(|_| watch.on_foreign(SERVER, ms(5_000))));
    }

    #[test]
    fn attempts_are_remembered_for_a_while_and_others_are_not_taken_for_them() {
        let mut watch = SpoofingWatch::default();
        for id in 0..5_000 {
            watch.timed_out(key(id), 77, ms(1_000));
        }
        assert!((0..5_000).all(|id| watch.is_late(key(id), 77)));
        let taken = (5_000..u16::MAX).filter(|id| watch.is_late(key(*id), 77)).count();
        assert!(taken < 60_000 / 100, "{taken} guesses");
        let taken = (0..5_000).filter(|id| watch.is_late(key(*id), 78)).count();
        assert!(taken < 50, "{taken} of another question");
        watch.timed_out(key(9), 1, ms(12_000));
        assert!(watch.is_late(key(4_000), 77), "11 s later");
        watch.timed_out(key(9), 1, ms(23_000));
        assert!(!watch.is_late(key(4_000), 77), "22 s later");
    }
}
