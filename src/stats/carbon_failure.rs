//! Why reports to Carbon are lost.

use crate::base::reasons::reasons;

reasons! {
    /// Why a report to a Carbon server was lost.
    CarbonFailure {
        /// The server could not be reached, or refused the connection.
        Connect = "connect",
        /// The server did not take the report in time.
        Timeout = "timeout",
        /// The connection broke before the report was sent.
        Broken = "broken",
    }
}
