//! DNS over UDP: batches of datagrams between the network and a shard.

use std::net::SocketAddr;

use crate::base::addr::{BackendSlot, Client, ListenerSlot, Route};
use crate::base::packet::Packet;
use crate::base::time::Tick;
use crate::engine::sim::network::{Network, What, batch};
use crate::engine::sim::node::Node;
use crate::engine::sim::{Port, Seen};
use crate::model::Snapshot;
use crate::shard::verdict::Verdict;
use crate::stats::drop_reason::DropReason;

/// Longest accepted message, bytes, as in the socket engine.
const MESSAGE_MAX: usize = 4096;
/// Tailroom behind a message for an OPT record of our own, bytes.
const TAILROOM: usize = 448;
/// Packets of one batch.
const BATCH: usize = 64;

/// Datagrams that leave one by one while connections are served, or by a tick.
pub(super) type Outgoing = Vec<(Verdict, Vec<u8>)>;

/// The sockets of one shard towards one backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackendSockets {
    pub(super) backend: SocketAddr,
    opened: u64,
    /// The sockets before these, and when they are closed.
    old: Option<(u64, Tick)>,
}

impl BackendSockets {
    /// Returns whether a port is open.
    fn has(&self, port: Port, now: Tick) -> bool {
        port.opened == self.opened || self.old.is_some_and(|(opened, at)| port.opened == opened && now < at)
    }
}

impl Node {
    pub(super) fn open_backends(&mut self, snapshot: &Snapshot, network: &mut Network) {
        for backend in snapshot.backends.iter().flatten() {
            let at = backend.slot.index();
            if self.backends.len() <= at {
                self.backends.resize(at + 1, None);
            }
            if self.backends[at].is_none() {
                network.opened += 1;
                self.backends[at] =
                    Some(BackendSockets { backend: backend.address, opened: network.opened, old: None });
            }
        }
    }

    pub(super) fn backend_sockets(&self, slot: BackendSlot) -> Option<BackendSockets> {
        self.backends.get(slot.index()).copied().flatten()
    }

    /// Reads a batch of responses, then one of queries. Returns the number of datagrams.
    pub(super) fn serve_datagrams(&mut self, network: &mut Network) -> usize {
        let responses = batch(&mut self.responses, BATCH);
        let count = responses.len();
        for (port, bytes) in responses {
            if let Some((route, bytes)) = self.read_response(port, bytes, network) {
                self.send(route, bytes, network);
            }
        }
        while let Some(redraw) = self.shard.next_redraw() {
            if let Some(Some(sockets)) = self.backends.get_mut(redraw.backend.index()) {
                network.opened += 1;
                sockets.old = Some((sockets.opened, redraw.drained));
                sockets.opened = network.opened;
                self.shard.redrawn(&redraw);
            }
        }
        count + self.read_queries(network)
    }

    fn read_queries(&mut self, network: &mut Network) -> usize {
        let queries = batch(&mut self.queries, BATCH);
        let (count, mut outgoing) = (queries.len(), Vec::new());
        for (client, bytes) in queries {
            self.read_query(client, bytes, &mut outgoing, network);
        }
        for (route, bytes) in outgoing {
            self.send(route, bytes, network);
        }
        count
    }

    /// Reads a batch of a listener that is being closed. Returns the number of datagrams.
    pub(super) fn read_last(&mut self, slot: ListenerSlot, network: &mut Network) -> usize {
        if self.listener(slot).is_some_and(|l| l.listener.service.relay().is_some()) {
            self.read_relayed(network)
        } else {
            self.read_queries(network)
        }
    }

    fn read_query(
        &mut self,
        client: Client,
        mut bytes: Vec<u8>,
        outgoing: &mut Vec<(Route, Vec<u8>)>,
        network: &mut Network,
    ) {
        if bytes.len() > MESSAGE_MAX {
            self.shard.drop(DropReason::Oversized);
            return;
        }
        let mut packet = roomy(&mut bytes);
        match self.shard.on_query(client, &mut packet) {
            Verdict::Forward(route) => outgoing.push((route, packet.bytes().to_vec())),
            Verdict::Answer(to) | Verdict::Deliver(to) => network.deliver(to, packet.bytes()),
            Verdict::Drop(_) | Verdict::Hold => {}
        }
    }

    /// Reads a response. Returns the query that must be resent because of it, if any.
    fn read_response(
        &mut self,
        port: Port,
        mut bytes: Vec<u8>,
        network: &mut Network,
    ) -> Option<(Route, Vec<u8>)> {
        if self.backend_sockets(port.route.backend).is_none_or(|l| !l.has(port, network.now)) {
            // The socket is closed.
            return None;
        }
        let was_cut = bytes.len() > MESSAGE_MAX;
        bytes.truncate(MESSAGE_MAX);
        let mut packet = roomy(&mut bytes);
        let verdict = if was_cut {
            self.shard.on_cut_response(port.route, &mut packet)
        } else {
            self.shard.on_response(port.route, &mut packet)
        };
        match verdict {
            Verdict::Answer(to) | Verdict::Deliver(to) => network.deliver(to, packet.bytes()),
            Verdict::Forward(route) => return Some((route, packet.bytes().to_vec())),
            Verdict::Drop(_) | Verdict::Hold => {}
        }
        None
    }

    /// Sends a query, or offers it to other backends when the kernel refuses.
    fn send(&mut self, route: Route, mut bytes: Vec<u8>, network: &mut Network) {
        let (index, backends) = (self.index, &self.backends);
        let mut send = |route: Route, bytes: &[u8]| {
            let sockets = backends.get(route.backend.index()).copied().flatten();
            let Some(BackendSockets { backend, opened, .. }) = sockets else { return false };
            if network.refuses(backend) {
                return false;
            }
            let port = Port { shard: index, route, opened };
            let seen = || What::Seen(Seen::Query { backend, port, bytes: bytes.to_vec() });
            network.travel(network.backends, seen);
            true
        };
        if !send(route, &bytes) {
            let mut packet = roomy(&mut bytes);
            self.shard.on_unsent(route, &mut packet, |_, route, bytes| send(route, bytes));
        }
    }

    /// Sends what was gathered.
    pub(super) fn flush(&mut self, out: Outgoing, network: &mut Network) {
        for (verdict, bytes) in out {
            match verdict {
                Verdict::Forward(route) => self.send(route, bytes, network),
                Verdict::Answer(to) | Verdict::Deliver(to) => network.deliver(to, &bytes),
                Verdict::Drop(_) | Verdict::Hold => {}
            }
        }
    }
}

fn roomy(bytes: &mut Vec<u8>) -> Packet<'_> {
    let length = bytes.len();
    bytes.resize(length + TAILROOM, 0);
    Packet::new(bytes, 0, length)
}
