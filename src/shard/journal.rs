//! What log actions and forwards have to say, on its way from a shard to the thread that writes it.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::rules::action::LogTarget;
use super::streams::{ForwardEnd, TryEnd};
use crate::addr::Endpoint;
use crate::time::TickDelta;
use crate::wire::name;

/// Lines that wait to be written, at most: 1.5 MB a shard, made room for by the first one.
const LINES_MAX: usize = 4_096;

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Where it is to be written.
    pub target: Arc<LogTarget>,
    /// Who asked.
    pub client: Endpoint,
    /// The query's id.
    pub id: u16,
    /// The type asked for.
    pub qtype: u16,
    /// The class asked for.
    pub qclass: u16,
    /// The third and fourth octet of the header.
    pub flags: [u8; 2],
    /// Octets of the message.
    pub size: u16,
    /// Of an answer: how long its server took.
    pub latency: Option<TickDelta>,
    /// The name asked for.
    pub qname: Name,
}

/// A name of its own, in wire format.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    octets: [u8; name::LEN_MAX],
    len: u8,
}

impl Name {
    /// A copy of a name.
    #[must_use]
    pub fn new(name: &[u8]) -> Self {
        let mut octets = [0; name::LEN_MAX];
        let len = name.len().min(name::LEN_MAX);
        octets[..len].copy_from_slice(&name[..len]);
        Self { octets, len: len as u8 }
    }

    /// Its octets.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }
}

/// What is said of a forward's connection or flow at its end.
#[derive(Clone, Debug)]
pub struct Passed {
    /// Over TCP, rather than UDP.
    pub tcp: bool,
    /// Who connected, or sent.
    pub client: Endpoint,
    /// To which listener.
    pub listener: SocketAddr,
    /// Targets that were not taken, in the order they were tried, and why.
    pub tried: Vec<(SocketAddr, TryEnd)>,
    /// The target that was.
    pub target: Option<SocketAddr>,
    /// Octets to the target, and back.
    pub octets: [u64; 2],
    /// How long it lasted.
    pub lasted: TickDelta,
    /// Why it ended.
    pub why: ForwardEnd,
}

/// One shard's lines; neither side ever waits for the other.
#[derive(Debug, Default)]
pub struct Journal {
    lines: Queue<Line>,
    passed: Queue<Passed>,
}

impl Journal {
    /// Files a line; false when too many wait.
    pub fn file(&self, line: Line) -> bool {
        self.lines.file(line)
    }

    /// The lines that wait, and no more than can wait at a time: the shard may be faster than who
    /// writes them.
    pub fn lines(&self) -> impl Iterator<Item = Line> {
        self.lines.drain()
    }

    /// Files what is to be said of a connection or flow; false when too many wait.
    pub fn file_passed(&self, passed: Passed) -> bool {
        self.passed.file(passed)
    }

    /// What waits to be said of connections and flows, as [`Journal::lines`].
    pub fn passed(&self) -> impl Iterator<Item = Passed> {
        self.passed.drain()
    }
}

/// A bounded queue that takes no memory before its first entry.
#[derive(Debug)]
struct Queue<T>(OnceLock<(Sender<T>, Receiver<T>)>);

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> Queue<T> {
    fn file(&self, entry: T) -> bool {
        let (sender, _) = self.0.get_or_init(|| bounded(LINES_MAX));
        !matches!(sender.try_send(entry), Err(TrySendError::Full(_)))
    }

    fn drain(&self) -> impl Iterator<Item = T> {
        self.0.get().into_iter().flat_map(|(_, receiver)| receiver.try_iter().take(LINES_MAX))
    }
}
