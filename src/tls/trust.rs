//! Trust in one server: when it last showed its certificate, and the sessions that are resumed
//! while that holds.
//!
//! ```text
//!  whole handshake ─┬─ certificate taken ──► sessions are kept and resumed, for an hour
//!                   └─ refused ────────────► all are forgotten, and none is kept until one is taken
//! ```
//!
//! A server that is resumed shows no certificate (RFC 8446, section 2.2), and each resumption
//! brings the tickets for the next ones: without an end to that, nobody would see that its
//! certificate has expired, or is another one.

#![expect(clippy::disallowed_methods, reason = "trust lasts until a day of the calendar")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use rustls::NamedGroup;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::{ServerName, UnixTime};

/// Sessions that are kept to be resumed with one server; rustls keeps 8 tickets for a name, and
/// each of ours has one name.
const SESSIONS_KEPT: usize = 8;

/// For so long after a whole handshake sessions are resumed, seconds. A server whose health is
/// checked over TLS shows its certificate far more often.
const RESUMED_SECONDS: u64 = 3_600;

/// What is known of a server's certificate, and its sessions. The locks are rustls', taken once or
/// twice in a handshake.
#[derive(Debug)]
pub(super) struct Trust {
    /// Whether an expired certificate ends it: not where nothing is checked.
    validated: bool,
    /// When the certificate expires that was shown last, unix seconds; 0 before the first.
    until: AtomicU64,
    /// When one was last taken, unix seconds; 0 before the first, and once one is refused.
    taken: AtomicU64,
    /// See [`next_era`]; another one at each refusal.
    era: AtomicU64,
    sessions: ArcSwap<ClientSessionMemoryCache>,
}

/// A number that no trust has had.
fn next_era() -> u64 {
    static ERA: AtomicU64 = AtomicU64::new(1);
    ERA.fetch_add(1, Relaxed)
}

impl Trust {
    pub(super) fn new(validated: bool) -> Self {
        Self {
            validated,
            until: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            era: AtomicU64::new(next_era()),
            sessions: ArcSwap::new(none_kept()),
        }
    }

    /// When the certificate expires that was shown last, unix seconds; 0 before the first.
    pub(super) fn until(&self) -> u64 {
        self.until.load(Relaxed)
    }

    /// A number for this trust, and for the time since its server was last refused.
    pub(super) fn era(&self) -> u64 {
        self.era.load(Relaxed)
    }

    /// A certificate was shown that ends then; whether it is good is not known yet.
    pub(super) fn show(&self, until: u64) {
        self.until.store(until, Relaxed);
    }

    /// The certificate is good, and its key was proved.
    pub(super) fn take(&self, now: u64) {
        if self.taken.swap(now, Relaxed) == 0 {
            // Whatever a connection brought that outlived the refusal of its server.
            self.sessions.store(none_kept());
        }
    }

    /// The certificate is not good: whoever has the sessions of before may be somebody else.
    pub(super) fn refuse(&self) {
        self.taken.store(0, Relaxed);
        self.era.store(next_era(), Relaxed);
        self.sessions.store(none_kept());
    }

    /// Whether a session may be resumed.
    fn holds(&self, now: u64) -> bool {
        let taken = self.taken.load(Relaxed);
        taken > 0
            && now.saturating_sub(taken) <= RESUMED_SECONDS
            && (!self.validated || now <= self.until.load(Relaxed))
    }

    /// The sessions, if they may be resumed.
    fn trusted(&self) -> Option<Arc<ClientSessionMemoryCache>> {
        self.holds(UnixTime::now().as_secs()).then(|| self.sessions.load_full())
    }
}

fn none_kept() -> Arc<ClientSessionMemoryCache> {
    Arc::new(ClientSessionMemoryCache::new(SESSIONS_KEPT))
}

impl ClientSessionStore for Trust {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.sessions.load().set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.sessions.load().kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, session: Tls12ClientSessionValue) {
        if let Some(sessions) = self.trusted() {
            sessions.set_tls12_session(name, session);
        }
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.trusted()?.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.sessions.load().remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        if let Some(sessions) = self.trusted() {
            sessions.insert_tls13_ticket(name, ticket);
        }
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.trusted()?.take_tls13_ticket(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn trust_lasts_an_hour_and_no_longer_than_its_certificate() {
        let trust = Trust::new(true);
        trust.show(NOW + 9_000);
        assert!(!trust.holds(NOW), "nothing was proved yet");
        trust.take(NOW);
        assert!(trust.holds(NOW) && trust.holds(NOW + RESUMED_SECONDS));
        assert!(!trust.holds(NOW + RESUMED_SECONDS + 1));
        trust.take(NOW + 8_000);
        assert!(trust.holds(NOW + 9_000) && !trust.holds(NOW + 9_001));
        trust.refuse();
        assert!(!trust.holds(NOW + 8_000));
        let unchecked = Trust::new(false);
        unchecked.show(NOW - 1);
        unchecked.take(NOW);
        assert!(unchecked.holds(NOW + RESUMED_SECONDS) && !unchecked.holds(NOW + RESUMED_SECONDS + 1));
    }
}
