//! Connections in the dump on SIGUSR1: how many, why they ended, and what TLS has to say.

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use crate::control::limits::open_files;
use crate::model::Snapshot;
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason};
use crate::stats::descriptors::{Descriptors, Use};
use crate::stats::live::{HandshakeStats, LiveState};
use crate::tls::Reason;

/// A line for each counter of clients' connections, for each server with connections, and for
/// each listener and server with TLS, with the seconds until its certificates expire at this unix
/// time.
#[must_use]
pub fn dump(snapshot: &Snapshot, live_state: &LiveState, unix: u64) -> String {
    let mut out = String::new();
    let pages = || live_state.shards().iter();
    let _ = writeln!(
        out,
        "client-connections-open {}",
        pages().map(|p| u64::from(p.clients.open.load(Relaxed))).sum::<u64>()
    );
    let _ =
        writeln!(out, "client-connections-opened {}", pages().map(|p| p.clients.opened.get()).sum::<u64>());
    for why in ClientCloseReason::ALL {
        let count: u64 = pages().map(|p| p.clients.ended(why).get()).sum();
        let _ = writeln!(out, "client-connection-end-{} {count}", why.label());
    }
    descriptors(&mut out, live_state.descriptors());
    for backend in snapshot.backends.iter().flatten() {
        let lines = || pages().filter_map(|p| p.backend_if_used(backend.slot)).map(|b| &b.connections);
        let opened: u64 = lines().map(|l| l.opened.get()).sum();
        let ends: Vec<String> = BackendCloseReason::ALL
            .iter()
            .map(|why| (why.label(), lines().map(|l| l.ended(*why).get()).sum::<u64>()))
            .filter(|(_, count)| *count > 0)
            .map(|(label, count)| format!(" {label} {count}"))
            .collect();
        if opened > 0 || !ends.is_empty() {
            let _ =
                writeln!(out, "backend-connections \"{}\" opened {opened}{}", backend.name, ends.concat());
        }
    }
    for (listener, tls) in snapshot.listeners.iter().filter_map(|l| Some((l, l.service.tls()?))) {
        let name = format!("listener {}", listener.address);
        handshakes(&mut out, &name, pages().filter_map(|p| p.handshakes_if_any(listener.slot)));
        for leaf in tls.certificates() {
            let subject = leaf.names.first().map_or("-", String::as_str);
            certificate(&mut out, &format!("{name} {subject}"), leaf.not_after, unix);
        }
    }
    for backend in snapshot.backends.iter().flatten() {
        let Some(tls) = &backend.connections.tls else { continue };
        let name = format!("server \"{}\"", backend.name);
        let lines =
            pages().filter_map(|p| p.backend_if_used(backend.slot)).map(|b| &b.connections.handshakes);
        handshakes(&mut out, &name, lines);
        if let Some(until) = tls.tls.certificate_until() {
            certificate(&mut out, &format!("{name} {}", tls.tls.subject()), until, unix);
        }
    }
    out
}

fn descriptors(out: &mut String, descriptors: &Descriptors) {
    let (limit, reserve) = descriptors.limit_and_reserve();
    let (evicted, refused) = descriptors.evicted_and_refused();
    let open = open_files().unwrap_or_default();
    let _ = writeln!(out, "descriptors-open {open}");
    let _ = writeln!(out, "descriptors-limit {limit}\ndescriptors-reserve {reserve}");
    let _ = writeln!(out, "descriptors-evicted {evicted}\ndescriptors-refused {refused}");
    for usage in Use::ALL {
        let (used, max) = (descriptors.used(usage), descriptors.max(usage));
        let _ = writeln!(out, "descriptors-{} {used} of {max}", usage.label());
    }
}

fn handshakes<'p>(out: &mut String, name: &str, pages: impl Iterator<Item = &'p HandshakeStats>) {
    let (mut full, mut resumed, mut failed) = (0, 0, [0; Reason::ALL.len()]);
    for stats in pages {
        full += stats.full.get();
        resumed += stats.resumed.get();
        for why in Reason::ALL {
            failed[why.index()] += stats.failed(why).get();
        }
    }
    let _ = write!(out, "tls {name} full {full} resumed {resumed}");
    for why in Reason::ALL.into_iter().filter(|why| failed[why.index()] > 0) {
        let _ = write!(out, " {} {}", why.label(), failed[why.index()]);
    }
    out.push('\n');
}

/// Below 0 when it has expired.
fn certificate(out: &mut String, name: &str, until: u64, unix: u64) {
    let _ = writeln!(out, "certificate {name} expires-in-s {}", until as i64 - unix as i64);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::addr::{BackendSlot, ListenerSlot};
    use crate::control::fixture;
    use crate::model::{Listener, ListenerTls, Service};
    use crate::tls::fixture::{Authority, Directory};
    use crate::tls::{ServerSpec, ServerTls};

    #[test]
    fn every_end_is_told_and_every_listener_with_tls() {
        let directory = Directory::new();
        let pair = directory.pair(&Authority::new("Root").issue_until(&["dns.example"], 2026, 1, 2));
        let spec = ServerSpec { certificates: vec![pair], ..ServerSpec::default() };
        let tls = ServerTls::load(&spec).expect("a listener");
        let mut snapshot = fixture::snapshot(1, &[], &[0]);
        let service = Service::Dot(ListenerTls(Arc::new(tls)));
        let listener = Listener { slot: ListenerSlot(7), service, ..fixture::listener(7) };
        let address = listener.address;
        snapshot.listeners.push(Arc::new(listener));
        let live_state = LiveState::new(2, 1);
        for shard in live_state.shards() {
            shard.handshakes(ListenerSlot(7)).done(false);
            shard.handshakes(ListenerSlot(7)).failed(Reason::NotTls).add(2);
            shard.clients.ended(ClientCloseReason::Handshake).add(2);
            shard.backend(BackendSlot(0)).connections.opened.add(1);
            shard.backend(BackendSlot(0)).connections.ended(BackendCloseReason::Idle).add(1);
        }
        live_state.shards()[1].handshakes(ListenerSlot(7)).done(true);
        let text = dump(&snapshot, &live_state, 1_767_312_000 - 60);
        for why in ClientCloseReason::ALL {
            assert!(text.contains(&format!("\nclient-connection-end-{} ", why.label())), "{why:?}");
        }
        for line in [
            "client-connection-end-handshake 4".to_owned(),
            "backend-connections \"ns0\" opened 2 idle 2".to_owned(),
            format!("tls listener {address} full 2 resumed 1 not-tls 4"),
            format!("certificate listener {address} dns.example expires-in-s 60"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}:\n{text}");
        }
    }
}
