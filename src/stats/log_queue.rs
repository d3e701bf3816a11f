//! Lines of log actions and relays, queued from a shard to the thread that writes them.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::base::addr::Endpoint;
use crate::base::time::{Tick, TickDelta};
use crate::stats::close_reason::{ConnectFailure, RelayCloseReason};
use crate::wire::name;

/// Where a log action writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTarget {
    /// The file; empty for the program's own log.
    pub path: String,
    /// Binary format with a small header rather than text.
    pub binary: bool,
    /// Appends to the file rather than replacing it.
    pub append: bool,
    /// Written when a buffer is full, or after a second, rather than at once.
    pub buffered: bool,
    /// Only in verbose mode.
    pub verbose_only: bool,
    /// Each line begins with the time.
    pub timestamp: bool,
    /// One of so many messages is logged, at random.
    pub one_in: u32,
}

/// Most queued lines: 1.5 MB per shard, allocated with the first one.
const LINES_MAX: usize = 4_096;

/// One line of a query log.
#[derive(Clone, Debug)]
pub struct QueryLogEntry {
    /// Where to write it.
    pub target: Arc<LogTarget>,
    /// When the message was seen.
    pub at: Tick,
    /// The client.
    pub client: Endpoint,
    /// The query's id.
    pub id: u16,
    /// The queried type.
    pub qtype: u16,
    /// The queried class.
    pub qclass: u16,
    /// The third and fourth byte of the header.
    pub flags: [u8; 2],
    /// Bytes of the message.
    pub size: u16,
    /// For an answer, the latency of its server.
    pub latency: Option<TickDelta>,
    /// The queried name.
    pub qname: Name,
}

/// An owned name in wire format.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    bytes: [u8; name::LEN_MAX],
    len: u8,
}

impl Name {
    /// Copies a name.
    #[must_use]
    pub fn new(name: &[u8]) -> Self {
        let mut bytes = [0; name::LEN_MAX];
        let len = name.len().min(name::LEN_MAX);
        bytes[..len].copy_from_slice(&name[..len]);
        Self { bytes, len: len as u8 }
    }

    /// Returns its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The log line of a relay session.
#[derive(Clone, Debug)]
pub struct RelayLogEntry {
    /// TCP, or else UDP.
    pub tcp: bool,
    /// The client.
    pub client: Endpoint,
    /// The listener.
    pub listener: SocketAddr,
    /// Targets that failed, in the order of the attempts, and why.
    pub tried: Vec<(SocketAddr, ConnectFailure)>,
    /// The target that was used.
    pub target: Option<SocketAddr>,
    /// Bytes to the target, and back.
    pub bytes: [u64; 2],
    /// Its duration.
    pub lasted: TickDelta,
    /// Why it ended.
    pub why: RelayCloseReason,
}

/// One shard's queues; neither side ever waits for the other.
#[derive(Debug, Default)]
pub struct LogQueue {
    lines: Queue<QueryLogEntry>,
    passed: Queue<RelayLogEntry>,
}

impl LogQueue {
    /// Queues a line; false when too many are queued.
    pub fn file(&self, line: QueryLogEntry) -> bool {
        self.lines.file(line)
    }

    /// Takes the queued lines, at most a full queue: the shard may be faster than the writer.
    pub fn lines(&self) -> impl Iterator<Item = QueryLogEntry> {
        self.lines.drain()
    }

    /// Queues the line of a relay session; false when too many are queued.
    pub fn file_passed(&self, passed: RelayLogEntry) -> bool {
        self.passed.file(passed)
    }

    /// Takes the queued lines of relay sessions, as [`LogQueue::lines`].
    pub fn passed(&self) -> impl Iterator<Item = RelayLogEntry> {
        self.passed.drain()
    }
}

/// A bounded queue that allocates memory with its first entry.
#[derive(Debug)]
pub(super) struct Queue<T>(OnceLock<(Sender<T>, Receiver<T>)>);

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> Queue<T> {
    pub(super) fn file(&self, entry: T) -> bool {
        let (sender, _) = self.0.get_or_init(|| bounded(LINES_MAX));
        !matches!(sender.try_send(entry), Err(TrySendError::Full(_)))
    }

    pub(super) fn drain(&self) -> impl Iterator<Item = T> {
        self.0.get().into_iter().flat_map(|(_, receiver)| receiver.try_iter().take(LINES_MAX))
    }
}
