//! Connections to servers in the dump of SIGUSR1, and what TLS has to say of listeners and servers.

use crate::control::stats::text::labelled;
use crate::control::stats::{Reading, caches, latency};
use crate::model::Snapshot;
use crate::stats::live::LiveState;
use crate::stats::registry::{
    AnswerReading, BackendConnectionReading, BackendReading, CacheReading, CertificateReading,
    HandshakeReading, ListenerReading, PoolReading, ShadowReading,
};
use crate::stats::response_code::ResponseCode;

/// A line for each listener that was asked, for each pool and response code with answers, for each
/// server with connections, and for each listener and server with TLS, with the seconds until its certificates expire at this unix time.
pub(super) fn dump(
    out: &mut String,
    total: &Reading,
    snapshot: &Snapshot,
    live_state: &LiveState,
    shadows: &[(String, ShadowReading)],
    unix: u64,
) {
    for listener in snapshot.listeners.iter().filter(|l| l.service.relay().is_none()) {
        for (by_connection, how) in [(false, "by UDP"), (true, "over connections")] {
            let reading = live_state.listener(listener.slot, by_connection);
            if reading.queries > 0 {
                let name = format!("{} {how}", listener.address);
                labelled(out, &ListenerReading::SET, &name, reading.values());
            }
        }
    }
    for (slot, name) in latency::pools(snapshot) {
        let reading = live_state.pool(slot);
        if reading.latency.count() > 0 || reading.cache_hits + reading.cache_misses > 0 {
            labelled(out, &PoolReading::SET, &format!("\"{name}\""), reading.values());
        }
    }
    for (pool, reading) in shadows {
        labelled(out, &ShadowReading::SET, &format!("\"{pool}\""), reading.values());
    }
    for cache in caches::of_pools(snapshot, live_state) {
        labelled(out, &CacheReading::SET, &format!("\"{}\"", cache.label()), cache.reading.values());
    }
    for code in ResponseCode::ALL {
        let reading = live_state.answers(code);
        if reading.latency.count() > 0 {
            labelled(out, &AnswerReading::SET, code.label(), reading.values());
        }
    }
    let nothing = BackendReading::default();
    let of = |slot| &total.backends.get(&slot).unwrap_or(&nothing).connections;
    for backend in snapshot.backends.iter().flatten() {
        let reading = of(backend.slot);
        if *reading != nothing.connections {
            let name = format!("\"{}\"", backend.name);
            labelled(out, &BackendConnectionReading::SET, &name, reading.values());
        }
    }
    for (listener, tls) in snapshot.listeners.iter().filter_map(|l| Some((l, l.service.tls()?))) {
        let name = format!("listener {}", listener.address);
        let handshakes = live_state.handshakes(listener.slot);
        labelled(out, &HandshakeReading::SET, &name, handshakes.values());
        for leaf in tls.certificates() {
            let subject = leaf.names.first().map_or("-", String::as_str);
            certificate(out, &format!("{name} {subject}"), leaf.not_after, unix);
        }
    }
    if let Some((address, tls)) = &snapshot.shown.web_tls {
        for leaf in tls.0.certificates() {
            let subject = leaf.names.first().map_or("-", String::as_str);
            certificate(out, &format!("webserver {address} {subject}"), leaf.not_after, unix);
        }
    }
    for backend in snapshot.backends.iter().flatten() {
        let Some(tls) = &backend.connections.tls else { continue };
        let name = format!("server \"{}\"", backend.name);
        labelled(out, &HandshakeReading::SET, &name, of(backend.slot).handshakes.values());
        if let Some(until) = tls.tls.certificate_until() {
            certificate(out, &format!("{name} {}", tls.tls.subject()), until, unix);
        }
    }
}

fn certificate(out: &mut String, name: &str, until: u64, unix: u64) {
    let reading = CertificateReading { expires_in_s: until as i64 - unix as i64 };
    labelled(out, &CertificateReading::SET, name, reading.values());
}
