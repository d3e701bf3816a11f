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
    qname: [u8; name::LEN_MAX],
    qname_len: u8,
}

impl Line {
    /// A line about a name; the other fields are to be set.
    #[must_use]
    pub fn new(target: Arc<LogTarget>, client: Endpoint, qname: &[u8]) -> Self {
        let mut octets = [0; name::LEN_MAX];
        let len = qname.len().min(name::LEN_MAX);
        octets[..len].copy_from_slice(&qname[..len]);
        Self {
            target,
            client,
            id: 0,
            qtype: 0,
            qclass: 0,
            flags: [0; 2],
            size: 0,
            latency: None,
            qname: octets,
            qname_len: len as u8,
        }
    }

    /// The name asked for, wire format.
    #[must_use]
    pub fn qname(&self) -> &[u8] {
        &self.qname[..usize::from(self.qname_len)]
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

    /// The lines that wait.
    pub fn lines(&self) -> impl Iterator<Item = Line> {
        self.0.get().into_iter().flat_map(|(_, receiver)| receiver.try_iter())
    }
}
