//! Why health checks fail.

use std::fmt;

use crate::base::reasons::reasons;

reasons! {
    /// Why a health check failed, or was not made.
    Failure {
        /// No response in time.
        Timeout = "timeout",
        /// The network, or the server's machine, refused.
        Network = "network",
        /// A response that is no DNS message.
        Parsing = "parsing",
        /// A response to something else: another id or question.
        Mismatch = "mismatch",
        /// A response that says no: SERVFAIL, a code `mustResolve` refuses, a script's exit code, a
        /// function's verdict.
        Invalid = "invalid",
        /// It could not be made: no descriptor, memory, port or process was left here. It says nothing of
        /// the server.
        Local = "local",
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
