//! Whether a server has fallen silent: seen within a window, sooner than by a health check.
//!
//! ```text
//!            a window with queries and no response, while others respond
//!  ┌──────┐ ─────────────────────────────────────────────────────────────► ┌──────┐
//!  │serves│                                                                │silent│ gets PROBE_PPM
//!  └──────┘ ◄───────────────────────────────────────────────────────────── └──────┘
//!            a response
//! ```
//!
//! It keeps its cap and what its cache is warm for: a pause of the host ends soon.

use crate::control::concentrate::{Member, WindowStats};
use crate::stats::live::PPM;

/// Queries of a window from which no response at all means silence.
const QUERIES_MIN: u64 = 40;
/// It responded to this part of the queries of the last second: one that only begins, or is far
/// away, is not silent.
const RESPONDED: f64 = 0.5;
/// The share of all queries that asks a silent server whether it is back.
pub(super) const PROBE_PPM: u32 = PPM / 1_000;

impl Member {
    /// Takes a window before its rates are updated; returns whether the server has just fallen
    /// silent.
    pub(super) fn notice_silence(&mut self, stats: &WindowStats<'_>, others_respond: bool) -> bool {
        if self.is_silent {
            self.is_silent = stats.usable && stats.responses == 0;
            return false;
        }
        self.is_silent = stats.usable
            && others_respond
            && self.share > 0.0
            && stats.responses == 0
            && stats.queries >= QUERIES_MIN
            && self.served >= RESPONDED * self.rate;
        self.is_silent
    }
}
