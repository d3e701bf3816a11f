//! What log actions have to say, on its way from a shard to the control thread, which writes it.

use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::rules::action::LogTarget;
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

/// One shard's lines; neither side ever waits for the other.
#[derive(Debug, Default)]
pub struct Journal(OnceLock<(Sender<Line>, Receiver<Line>)>);

impl Journal {
    /// Files a line; false when too many wait.
    pub fn file(&self, line: Line) -> bool {
        let (sender, _) = self.0.get_or_init(|| bounded(LINES_MAX));
        !matches!(sender.try_send(line), Err(TrySendError::Full(_)))
    }

    /// The lines that wait, and no more than can wait at a time: the shard may be faster than who
    /// writes them.
    pub fn lines(&self) -> impl Iterator<Item = Line> {
        self.0.get().into_iter().flat_map(|(_, receiver)| receiver.try_iter().take(LINES_MAX))
    }
}
