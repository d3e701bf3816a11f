//! The console: where it listens, and for whom.

use std::fmt;
use std::net::SocketAddr;

use crate::base::prefix::PrefixSet;

/// The key that both ends of a console connection share: 32 random bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct ConsoleKey(pub [u8; 32]);

impl fmt::Debug for ConsoleKey {
    /// Without the key: what is printed may end in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConsoleKey")
    }
}

/// The console that a configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// Where it listens.
    pub address: SocketAddr,
    /// The key; without one every connection is closed.
    pub key: Option<ConsoleKey>,
    /// Who may connect.
    pub acl: PrefixSet,
    /// Whether connections are logged.
    pub log_connections: bool,
    /// Longest reply, bytes.
    pub output_max: usize,
    /// Most concurrent connections; 0 is no limit.
    pub connections_max: usize,
    /// Whether the process ends when it cannot listen at the start.
    pub bind_fatal: bool,
}

impl Console {
    /// Returns the file descriptors that it may take: its connections, two listeners while an
    /// address is replaced, and two for its runtime.
    #[must_use]
    pub fn descriptors(&self) -> u32 {
        /// What is set aside where connections have no limit.
        const MANY: usize = 1_000;
        let connections = if self.connections_max == 0 { MANY } else { self.connections_max };
        u32::try_from(connections).unwrap_or(u32::MAX - 4) + 4
    }
}
