//! Rotates ticket keys, and warns of certificates that expire.
//!
//! Both clocks are passed in; the findings are for the log. Certificates are reloaded by a reload
//! of the configuration, not here.

#![expect(clippy::disallowed_methods, reason = "complains of certificates by the calendar")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::base::time::{Tick, TickDelta};
use crate::model::Snapshot;
use crate::tls::ServerTls;
use crate::tls::date::{DAY_SECONDS, Date};

/// Days before expiry from which a warning is logged.
const WARNING_DAYS: u32 = 21;
/// Interval of the warnings.
const DAY: TickDelta = TickDelta::from_ms(DAY_SECONDS * 1_000);

/// Returns the Unix time.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs())
}

/// Returns seconds and milliseconds since 1970.
pub(crate) fn unix_time() -> (u64, u32) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_millis())
}

/// Ticket keys and certificates of the current configuration.
#[derive(Default)]
pub(crate) struct CertificateMonitor {
    /// Ticket keys, each with its last rotation.
    keys: Vec<(Arc<ServerTls>, Tick)>,
    /// Keys that were the first of their list at the last look, and those that have become so since.
    seen: BTreeSet<Vec<u8>>,
    added: Vec<Vec<u8>>,
    /// Time of the last warnings; `None` before the first configuration serves.
    complained: Option<Tick>,
}

impl CertificateMonitor {
    /// Takes a new configuration; returns warnings about its certificates.
    pub(crate) fn adopt(&mut self, snapshot: &Snapshot, now: Tick, unix: u64) -> Vec<String> {
        let before = std::mem::take(&mut self.keys);
        for tls in snapshot.listeners.iter().filter_map(|l| l.service.tls()) {
            // Listeners of one call share their keys, as do those of a reload with their
            // predecessors.
            if self.keys.iter().any(|(known, _)| known.same_tickets(tls)) {
                continue;
            }
            let known = before.iter().find(|(known, _)| known.same_tickets(tls));
            self.keys.push((Arc::clone(tls), known.map_or(now, |(_, at)| *at)));
        }
        self.see_keys();
        self.complained = Some(now);
        warnings_of(snapshot, unix)
    }

    /// Does what is due; returns warnings.
    pub(crate) fn turn(&mut self, snapshot: &Snapshot, now: Tick, unix: u64) -> Vec<String> {
        let (mut warnings, mut is_rotated) = (Vec::new(), false);
        for (tls, rotated) in &mut self.keys {
            let seconds = tls.spec().ticket_rotation_seconds;
            if seconds == 0 || now.since(*rotated) < TickDelta::from_ms(u64::from(seconds) * 1_000) {
                continue;
            }
            *rotated = now;
            if let Err(error) = tls.rotate() {
                warnings.push(format!("ticket keys stay as they are: {error}"));
            }
            is_rotated = true;
        }
        if is_rotated {
            self.see_keys();
        }
        if self.complained.is_some_and(|at| now.since(at) >= DAY) {
            self.complained = Some(now);
            warnings.extend(warnings_of(snapshot, unix));
        }
        warnings
    }
}

impl CertificateMonitor {
    /// Takes the keys that seal tickets since the last look.
    pub(crate) fn take_keys(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.added)
    }

    fn see_keys(&mut self) {
        let first = self.keys.iter().filter_map(|(tls, _)| tls.first_tickets_key());
        let seen = std::mem::replace(&mut self.seen, first.collect());
        self.added.extend(self.seen.difference(&seen).cloned());
    }
}

/// Returns warnings about the certificates of listeners and of the web server, and about those that
/// backends have presented.
fn warnings_of(snapshot: &Snapshot, unix: u64) -> Vec<String> {
    let mut warnings = BTreeSet::new();
    for (listener, tls) in snapshot.listeners.iter().filter_map(|l| Some((l, l.service.tls()?))) {
        let all = tls.warnings(unix, WARNING_DAYS);
        warnings.extend(all.into_iter().map(|c| format!("listener {}: {c}", listener.address)));
    }
    if let Some((address, tls)) = &snapshot.shown.web_tls {
        let all = tls.0.warnings(unix, WARNING_DAYS);
        warnings.extend(all.into_iter().map(|c| format!("web server {address}: {c}")));
    }
    for backend in snapshot.backends.iter().flatten() {
        let until = backend.connections.tls.as_ref().and_then(|tls| tls.tls.certificate_until());
        let soon = unix + u64::from(WARNING_DAYS) * DAY_SECONDS;
        if let Some(until) = until.filter(|until| *until < soon) {
            let ends = if until < unix { "has expired" } else { "ends" };
            warnings.insert(format!("server {}: its certificate {ends} on {}", backend.name, Date(until)));
        }
    }
    warnings.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addr::ListenerSlot;
    use crate::control::fixture;
    use crate::model::{Listener, ListenerTls, Service};
    use crate::tls::ServerSpec;
    use crate::tls::fixture::{Authority, Directory};

    /// 2026-01-02.
    const END: u64 = 1_767_312_000;
    /// Long before.
    const GOOD: u64 = END - 300 * DAY_SECONDS;

    fn at(seconds: u64) -> Tick {
        Tick(seconds * 1_000_000_000)
    }

    fn snapshot(tls: &[&Arc<ServerTls>]) -> Snapshot {
        let mut snapshot = fixture::snapshot(1, &[], &[]);
        for (n, tls) in tls.iter().enumerate() {
            let plain = fixture::listener(u16::try_from(n).expect("few"));
            let service = Service::Dot(ListenerTls(Arc::clone(tls)));
            snapshot.listeners.push(Arc::new(Listener { slot: ListenerSlot(n as u16), service, ..plain }));
        }
        snapshot
    }

    #[test]
    fn shared_keys_are_rotated_once_and_across_reloads() {
        let directory = Directory::new();
        let pair = directory.pair(&Authority::new("Root").issue_until(&["dns.example"], 2026, 1, 2));
        let spec =
            ServerSpec { certificates: vec![pair], ticket_rotation_seconds: 100, ..ServerSpec::default() };
        let tls = Arc::new(ServerTls::load(&spec).expect("a listener"));
        let first = snapshot(&[&tls, &tls]);
        let mut certificate_monitor = CertificateMonitor::default();
        assert_eq!(certificate_monitor.adopt(&first, at(0), GOOD), [] as [String; 0]);
        assert_eq!(certificate_monitor.take_keys(), [tls.first_tickets_key().expect("a key")]);
        certificate_monitor.turn(&first, at(99), GOOD);
        assert_eq!((tls.ticket_keys(), certificate_monitor.take_keys().len()), (1, 0));
        certificate_monitor.turn(&first, at(100), GOOD);
        assert_eq!(tls.ticket_keys(), 2);
        assert_eq!(certificate_monitor.take_keys(), [tls.first_tickets_key().expect("another key")]);
        let loaded = Arc::new(ServerTls::load(&spec).expect("a listener").inherit(&tls));
        let second = snapshot(&[&loaded]);
        certificate_monitor.adopt(&second, at(150), GOOD);
        assert!(certificate_monitor.take_keys().is_empty(), "a reload keeps the keys");
        certificate_monitor.turn(&second, at(199), GOOD);
        assert_eq!(loaded.ticket_keys(), 2, "a reload keeps the rotation time");
        certificate_monitor.turn(&second, at(200), GOOD);
        assert_eq!((loaded.ticket_keys(), tls.ticket_keys()), (3, 3));
    }

    #[test]
    fn the_certificate_of_the_web_server_is_warned_of() {
        let directory = Directory::new();
        let pair = directory.pair(&Authority::new("Root").issue_until(&["web.example"], 2026, 1, 2));
        let spec = ServerSpec { certificates: vec![pair], ..ServerSpec::default() };
        let tls = ListenerTls(Arc::new(ServerTls::load(&spec).expect("a listener")));
        let mut snapshot = snapshot(&[]);
        snapshot.shown.web_tls = Some((([127, 0, 0, 1], 8083).into(), tls));
        let mut monitor = CertificateMonitor::default();
        assert_eq!(monitor.adopt(&snapshot, at(0), GOOD), [] as [String; 0]);
        let warnings = monitor.adopt(&snapshot, at(0), END - 20 * DAY_SECONDS);
        assert!(
            warnings.len() == 1
                && warnings[0].starts_with("web server 127.0.0.1:8083: certificate web.example expires"),
            "{warnings:?}"
        );
    }

    #[test]
    fn an_expiring_certificate_is_warned_of_once_a_day() {
        let directory = Directory::new();
        let pair = directory.pair(&Authority::new("Root").issue_until(&["dns.example"], 2026, 1, 2));
        let spec = ServerSpec { certificates: vec![pair], ..ServerSpec::default() };
        let tls = Arc::new(ServerTls::load(&spec).expect("a listener"));
        let snapshot = snapshot(&[&tls]);
        let mut certificate_monitor = CertificateMonitor::default();
        let early = END - 30 * DAY_SECONDS;
        let unserved = certificate_monitor.turn(&snapshot, at(9 * DAY_SECONDS), END);
        assert_eq!(unserved, [] as [String; 0], "the clock counts from the start of the machine");
        assert_eq!(certificate_monitor.adopt(&snapshot, at(0), early), [] as [String; 0]);
        let warnings = certificate_monitor.adopt(&snapshot, at(0), END - 20 * DAY_SECONDS);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("dns.example expires in 20 days (on 2026-01-02)"), "{warnings:?}");
        assert_eq!(certificate_monitor.turn(&snapshot, at(DAY_SECONDS - 1), END), [] as [String; 0]);
        assert_eq!(certificate_monitor.turn(&snapshot, at(DAY_SECONDS), END + 1).len(), 1);
        assert_eq!(certificate_monitor.turn(&snapshot, at(DAY_SECONDS + 1), END + 1), [] as [String; 0]);
    }
}
