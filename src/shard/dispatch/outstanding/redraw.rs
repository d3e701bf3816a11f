//! New sockets for a backend, while its old ones still receive.
//!
//! ```text
//!  numbers of 4 sockets:  0 1 2 3 ─► 4 5 6 7 ─► 0 1 2 3 …
//! ```
//!
//! The numbers change with the sockets, so that a response counts only on the socket that its query
//! left by.

use std::ops::Range;

use crate::base::addr::BackendSlot;
use crate::shard::dispatch::outstanding::Outstanding;

/// Numbers that UDP sockets of one backend can have.
const NUMBERS: u16 = 256;

impl Outstanding {
    /// Returns the numbers that new sockets of a backend would have. Returns none when it has no
    /// table, or more than half of all numbers.
    pub(crate) fn other_sockets(&self, backend: BackendSlot) -> Option<Range<u16>> {
        let table = self.table(backend)?;
        let sockets = u16::from(table.sockets);
        let first = if table.first == 0 { sockets } else { 0 };
        (first + sockets <= NUMBERS).then_some(first..first + sockets)
    }

    /// Sends queries by new sockets, the first of which has this number.
    pub(crate) fn use_sockets(&mut self, backend: BackendSlot, first: u8) {
        if let Some(table) = self.tables.get_mut(backend.index()).and_then(Option::as_deref_mut) {
            table.first = first;
            // The socket of this batch is one of the old ones.
            table.batch = u64::MAX;
        }
    }
}
