//! What an error of a backend connection says about its server.

use std::io;

use crate::engine::socket;
use crate::stats::close_reason::BackendCloseReason;

/// Returns whether the error says nothing about the backend: a local shortage, or TLS could not be
/// set up.
pub(super) fn is_local(e: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, Other};
    socket::is_shortage(e) || e.raw_os_error().is_none() && [Other, NotFound].contains(&e.kind())
}

/// Returns why a connection was not established.
pub(super) fn before_open(e: &io::Error) -> BackendCloseReason {
    of(e, BackendCloseReason::ConnectTimeout)
}

/// Returns why an established connection has failed. It times out when bytes were not acknowledged.
pub(super) fn after_open(e: &io::Error) -> BackendCloseReason {
    of(e, BackendCloseReason::Silent)
}

// The standard library's kinds grow; an unknown one is treated like the rest.
#[allow(clippy::wildcard_enum_match_arm)]
fn of(e: &io::Error, timed_out: BackendCloseReason) -> BackendCloseReason {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    if [ConnectionRefused, HostUnreachable, NetworkUnreachable].contains(&e.kind()) {
        BackendCloseReason::Refused
    } else if e.kind() == TimedOut {
        timed_out
    } else {
        BackendCloseReason::Broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_path_counts_as_silence() {
        let timed_out = io::Error::from_raw_os_error(libc::ETIMEDOUT);
        assert_eq!(before_open(&timed_out), BackendCloseReason::ConnectTimeout);
        assert_eq!(after_open(&timed_out), BackendCloseReason::Silent);
        let reset = io::Error::from_raw_os_error(libc::ECONNRESET);
        assert_eq!(
            (before_open(&reset), after_open(&reset)),
            (BackendCloseReason::Broken, BackendCloseReason::Broken)
        );
    }
}
