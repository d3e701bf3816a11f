//! What log actions and forwards have to say, on its way from a shard to the thread that writes it.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::base::addr::Endpoint;
use crate::base::time::TickDelta;
use crate::stats::close_reason::{ConnectFailure, RelayCloseReason};
use crate::wire::name;

/// Where a log action writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTarget {
    /// The file; empty for the program's own log.
    pub path: String,
    /// Wire format with a small header, rather than text.
    pub binary: bool,
    /// Behind what the file holds.
    pub append: bool,
    /// Written when a buffer is full, rather than at once.
    pub buffered: bool,
    /// Only when verbose.
    pub verbose_only: bool,
    /// Each line begins with the time.
    pub timestamp: bool,
}

/// Lines that wait to be written, at most: 1.5 MB a shard, made room for by the first one.
const LINES_MAX: usize = 4_096;

/// One line.
#[derive(Clone, Debug)]
pub struct QueryLogEntry {
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
    /// The third and fourth byte of the header.
    pub flags: [u8; 2],
    /// Bytes of the message.
    pub size: u16,
    /// Of an answer: how long its server took.
    pub latency: Option<TickDelta>,
    /// The name asked for.
    pub qname: Name,
}

/// A name of its own, in wire format.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    bytes: [u8; name::LEN_MAX],
    len: u8,
}

impl Name {
    /// A copy of a name.
    #[must_use]
    pub fn new(name: &[u8]) -> Self {
        let mut bytes = [0; name::LEN_MAX];
        let len = name.len().min(name::LEN_MAX);
        bytes[..len].copy_from_slice(&name[..len]);
        Self { bytes, len: len as u8 }
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What is said of a forward's connection or flow at its end.
#[derive(Clone, Debug)]
pub struct RelayLogEntry {
    /// Over TCP, rather than UDP.
    pub tcp: bool,
    /// Who connected, or sent.
    pub client: Endpoint,
    /// To which listener.
    pub listener: SocketAddr,
    /// Targets that were not taken, in the order they were tried, and why.
    pub tried: Vec<(SocketAddr, ConnectFailure)>,
    /// The target that was.
    pub target: Option<SocketAddr>,
    /// Bytes to the target, and back.
    pub bytes: [u64; 2],
    /// How long it lasted.
    pub lasted: TickDelta,
    /// Why it ended.
    pub why: RelayCloseReason,
}

/// One shard's lines; neither side ever waits for the other.
#[derive(Debug, Default)]
pub struct LogQueue {
    lines: Queue<QueryLogEntry>,
    passed: Queue<RelayLogEntry>,
}

impl LogQueue {
    /// Files a line; false when too many wait.
    pub fn file(&self, line: QueryLogEntry) -> bool {
        self.lines.file(line)
    }

    /// The lines that wait, and no more than can wait at a time: the shard may be faster than who
    /// writes them.
    pub fn lines(&self) -> impl Iterator<Item = QueryLogEntry> {
        self.lines.drain()
    }

    /// Files what is to be said of a connection or flow; false when too many wait.
    pub fn file_passed(&self, passed: RelayLogEntry) -> bool {
        self.passed.file(passed)
    }

    /// What waits to be said of connections and flows, as [`LogQueue::lines`].
    pub fn passed(&self) -> impl Iterator<Item = RelayLogEntry> {
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
