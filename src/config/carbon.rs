//! Carbon servers, to which reports are sent, as the configuration asks for them.

use std::net::SocketAddr;

/// The port of Carbon's plain text protocol.
pub const PORT: u16 = 2003;
/// Most of them.
pub const SERVERS_MAX: usize = 16;
/// Longest part of a name, bytes.
pub const NAME_MAX: usize = 200;

/// A Carbon server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarbonServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// The name of this machine; `None` for its host name.
    pub host: Option<String>,
    /// Seconds between two reports.
    pub interval_s: u32,
    /// What names begin with.
    pub namespace: String,
    /// What stands behind the machine's name.
    pub instance: String,
}

/// Returns whether a text may be part of a name: a space or a line end would end that.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}
