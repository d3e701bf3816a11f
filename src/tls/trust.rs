//! Trust in one backend: when it last presented its certificate, and the sessions that may be
//! resumed as a result.
//!
//! ```text
//!  full handshake ─┬─ certificate accepted ─► sessions are stored and resumed, for an hour
//!                  └─ refused ──────────────► all are dropped, and none is stored until the next
//! ```
//!
//! A resumed handshake presents no certificate (RFC 8446, section 2.2), and each resumption brings
//! the tickets for the next ones: without a limit, an expired or replaced certificate would never
//! be noticed.

#![expect(clippy::disallowed_methods, reason = "trust lasts until a day of the calendar")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use rustls::NamedGroup;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::{ServerName, UnixTime};

/// Sessions kept per backend; rustls keeps 8 tickets per name, and each backend has one name.
const SESSIONS_MAX: usize = 8;

/// How long after a full handshake sessions are resumed, seconds. A backend that is checked over
/// TLS presents its certificate far more often.
const RESUMED_SECONDS: u64 = 3_600;

/// The state of a backend's certificate, and its sessions. The locks are rustls', taken once or
/// twice per handshake.
#[derive(Debug)]
pub(super) struct Trust {
    /// Whether an expired certificate ends the trust: not without verification.
    validated: bool,
    /// When the last presented certificate expires, unix seconds; 0 before the first.
    until: AtomicU64,
    /// When one was last accepted, unix seconds; 0 before the first, and after a refusal.
    taken: AtomicU64,
    /// See [`next_era`]; changes at each refusal.
    era: AtomicU64,
    sessions: ArcSwap<Sessions>,
}

/// Sessions, and how many there are, which rustls does not tell.
#[derive(Debug)]
struct Sessions {
    cache: ClientSessionMemoryCache,
    /// Tickets of TLS 1.3.
    tickets: AtomicUsize,
    /// A session of TLS 1.2.
    older: AtomicBool,
}

impl Sessions {
    fn count(&self) -> usize {
        self.tickets.load(Relaxed) + usize::from(self.older.load(Relaxed))
    }
}

/// Returns a number that no trust has had.
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
            sessions: ArcSwap::new(empty_cache()),
        }
    }

    /// Returns when the last presented certificate expires, unix seconds; 0 before the first.
    pub(super) fn until(&self) -> u64 {
        self.until.load(Relaxed)
    }

    /// Returns a number for this trust since the last refusal.
    pub(super) fn era(&self) -> u64 {
        self.era.load(Relaxed)
    }

    /// Notes that a certificate with this expiry was presented; it is not verified yet.
    pub(super) fn present(&self, until: u64) {
        self.until.store(until, Relaxed);
    }

    /// Notes that the certificate is valid, and possession of its key was proved.
    pub(super) fn accept(&self, now: u64) {
        if self.taken.swap(now, Relaxed) == 0 {
            // Drops what a connection that outlived the refusal may have stored.
            self.sessions.store(empty_cache());
        }
    }

    /// Notes that the certificate is invalid: the stored sessions may be another server's.
    pub(super) fn refuse(&self) {
        self.taken.store(0, Relaxed);
        self.era.store(next_era(), Relaxed);
        self.sessions.store(empty_cache());
    }

    /// Returns whether a session may be resumed.
    fn is_valid(&self, now: u64) -> bool {
        let taken = self.taken.load(Relaxed);
        taken > 0
            && now.saturating_sub(taken) <= RESUMED_SECONDS
            && (!self.validated || now <= self.until.load(Relaxed))
    }

    /// Returns how many sessions may be resumed.
    pub(super) fn sessions(&self) -> usize {
        self.trusted().map_or(0, |sessions| sessions.count())
    }

    /// Returns the sessions, if they may be resumed.
    fn trusted(&self) -> Option<Arc<Sessions>> {
        self.is_valid(UnixTime::now().as_secs()).then(|| self.sessions.load_full())
    }
}

fn empty_cache() -> Arc<Sessions> {
    let cache = ClientSessionMemoryCache::new(SESSIONS_MAX);
    Arc::new(Sessions { cache, tickets: AtomicUsize::new(0), older: AtomicBool::new(false) })
}

impl ClientSessionStore for Trust {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.sessions.load().cache.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.sessions.load().cache.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, session: Tls12ClientSessionValue) {
        if let Some(sessions) = self.trusted() {
            sessions.cache.set_tls12_session(name, session);
            sessions.older.store(true, Relaxed);
        }
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.trusted()?.cache.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        let sessions = self.sessions.load();
        sessions.cache.remove_tls12_session(name);
        sessions.older.store(false, Relaxed);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        if let Some(sessions) = self.trusted() {
            sessions.cache.insert_tls13_ticket(name, ticket);
            // The oldest makes room.
            let more = |n: usize| Some((n + 1).min(SESSIONS_MAX));
            let _ = sessions.tickets.fetch_update(Relaxed, Relaxed, more);
        }
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let sessions = self.trusted()?;
        let ticket = sessions.cache.take_tls13_ticket(name)?;
        let _ = sessions.tickets.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        Some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn trust_lasts_an_hour_and_no_longer_than_its_certificate() {
        let trust = Trust::new(true);
        trust.present(NOW + 9_000);
        assert!(!trust.is_valid(NOW), "no certificate was accepted yet");
        trust.accept(NOW);
        assert!(trust.is_valid(NOW) && trust.is_valid(NOW + RESUMED_SECONDS));
        assert!(!trust.is_valid(NOW + RESUMED_SECONDS + 1));
        trust.accept(NOW + 8_000);
        assert!(trust.is_valid(NOW + 9_000) && !trust.is_valid(NOW + 9_001));
        trust.refuse();
        assert!(!trust.is_valid(NOW + 8_000));
        let unchecked = Trust::new(false);
        unchecked.present(NOW - 1);
        unchecked.accept(NOW);
        assert!(unchecked.is_valid(NOW + RESUMED_SECONDS) && !unchecked.is_valid(NOW + RESUMED_SECONDS + 1));
    }
}
