//! What the reader hands to the threads that send.
//!
//! ```text
//!  bytes: | PROXY header | query | recorded answer | PROXY header | query | ...
//!  jobs:  places in it, and when they are due
//! ```

use std::net::SocketAddr;
use std::ops::Range;

use crate::base::time::TickDelta;

/// Jobs of one batch: few enough that a thread soon has some, many enough that handing over costs
/// nothing.
pub(crate) const JOBS_MAX: usize = 256;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Send a query.
    Query,
    /// Open a connection, which had been opened at that time.
    Open,
    /// Close it.
    Close,
}

/// A job.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) kind: Kind,
    /// When, from the begin of the run.
    pub(crate) due: TickDelta,
    pub(crate) client: SocketAddr,
    /// The recorded connection.
    pub(crate) connection: Option<u64>,
    /// Whether it goes over a connection.
    pub(crate) by_stream: bool,
    /// A PROXY header; empty without one.
    pub(crate) header: Range<u32>,
    /// The query.
    pub(crate) message: Range<u32>,
    /// The recorded answer.
    pub(crate) recorded: Option<Range<u32>>,
    /// A hash of the question in lower case.
    pub(crate) question: u32,
    /// The bytes of the question.
    pub(crate) question_bytes: u16,
}

/// Jobs of one thread, in order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) jobs: Vec<Job>,
    /// How much of the capture had been read by then, bytes.
    pub(crate) read: u64,
    bytes: Vec<u8>,
}

impl Batch {
    /// Adds bytes, and returns their place.
    pub(crate) fn keep(&mut self, bytes: &[u8]) -> Range<u32> {
        let begin = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        // 256 jobs of at most three messages stay under 2^32 bytes.
        begin..self.bytes.len() as u32
    }

    /// Returns the bytes at a place.
    pub(crate) fn bytes(&self, place: &Range<u32>) -> &[u8] {
        self.bytes.get(place.start as usize..place.end as usize).unwrap_or_default()
    }

    /// Returns whether no more should be added.
    pub(crate) const fn is_full(&self) -> bool {
        self.jobs.len() >= JOBS_MAX
    }
}
