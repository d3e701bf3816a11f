//! Client and backend connections: the calls of the socket engine's stream module, in its order.

use crate::base::addr::{ConnectionSlot, ListenerSlot, LocalSlot, Route};
use crate::engine::schedule::Weight;
use crate::engine::sim::datagram::Outgoing;
use crate::engine::sim::network::Network;
use crate::engine::sim::node::{Budget, Node};
use crate::engine::sim::stream::{Closed, Read, Readiness, Role, Stream, Written};
use crate::shard::backend::BackendInterest;
use crate::shard::client::ClientInterest;
use crate::shard::messages::PendingWork;
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason, ConnectFailure};

/// Checks of a draining connection, as in the socket engine.
const DRAINING_CHECKS: u8 = 5;

impl Node {
    /// Accepts the next connection of a listener; false when there is none, or it has to wait.
    pub(super) fn accept_next(
        &mut self,
        slot: ListenerSlot,
        network: &mut Network,
        out: &mut Outgoing,
    ) -> bool {
        let Some(Some(open)) = self.listeners.get_mut(slot.index()) else { return false };
        let is_relay = open.listener.service.relay().is_some();
        if open.waiting.is_empty() {
            return false;
        }
        if !is_relay
            && open.closes_at.is_none()
            && let Some(accepts_from) = self.shard.accepts_from()
        {
            open.paused = true;
            self.accepts_from = Some(accepts_from);
            return false;
        }
        let Some(stream) = open.waiting.pop_front() else { return false };
        let (listener, closing) = (open.listener.clone(), open.closes_at.is_some());
        let Some(peer) = network.tcp(stream).client else { return true };
        if is_relay {
            let taken = self.shard.on_relay_accept(peer, &listener, LocalSlot::LISTENER);
            self.close_evicted(network, out);
            match taken {
                Some(session) => self.open_relay(session, stream, network),
                None => network.close(stream, Closed::Refused),
            }
            return true;
        }
        let taken = self.shard.on_accept(peer, &listener, LocalSlot::LISTENER);
        self.close_evicted(network, out);
        let Some(connection) = taken else {
            network.close(stream, Closed::Refused);
            return true;
        };
        network.tcp(stream).role = Role::Client(connection);
        network.watch(stream, true, false);
        self.clients.insert(connection, stream);
        if closing {
            self.shard.finish_client(connection);
        }
        true
    }

    /// Closes what was just evicted for another connection or flow.
    pub(super) fn close_evicted(&mut self, network: &mut Network, out: &mut Outgoing) {
        if let Some(work @ (PendingWork::Client(_) | PendingWork::Relay(_))) = self.shard.take_evicted() {
            self.do_pending(work, network, out);
        }
    }

    /// Does the shard's pending work for a connection.
    pub(super) fn do_pending(&mut self, work: PendingWork, network: &mut Network, out: &mut Outgoing) {
        match work {
            PendingWork::Client(connection) => self.serve_client(connection, network),
            PendingWork::Backend(route) => self.serve_backend(route, network, out),
            PendingWork::Relay(session) => {
                if !self.serve_relay(session, network) {
                    self.serve_flow(session);
                }
            }
        }
    }

    /// Handles an event of a client connection.
    pub(super) fn on_client(
        &mut self,
        stream: Stream,
        what: Readiness,
        budget: &mut Budget,
        network: &mut Network,
        out: &mut Outgoing,
    ) {
        let Role::Client(connection) = network.tcp(stream).role else { return };
        if network.tcp(stream).closed.is_some() {
            return;
        }
        if what.readable && !self.shard.client_may_read(connection) {
            // Bytes that were read before come first. No read events are needed until then.
            let writing = network.tcp(stream).writing;
            network.watch(stream, false, writing);
        } else if what.readable || what.hung_up {
            match network.read(stream) {
                Read::Bytes(bytes, last) => {
                    let is_over = &mut || budget.ends_with(Weight::Heavy);
                    let out = &mut |verdict, bytes: &mut [u8]| out.push((verdict, bytes.to_vec()));
                    self.shard.on_client_bytes(connection, &bytes, is_over, out);
                    if last {
                        self.shard.on_client_end(connection);
                    }
                }
                Read::End => self.shard.on_client_end(connection),
                Read::Nothing => {}
                Read::Broken => return self.drop_client(connection, ClientCloseReason::Broken, network),
            }
        }
        if what.writable {
            self.serve_client(connection, network);
        }
    }

    /// Writes pending bytes, and updates the watched events.
    fn serve_client(&mut self, connection: ConnectionSlot, network: &mut Network) {
        let Some(stream) = self.clients.get(&connection).copied() else { return };
        let mut full = false;
        while !full && !self.shard.client_output(connection).is_empty() {
            match network.write(stream, self.shard.client_output(connection)) {
                Written::Bytes(count) => self.shard.client_written(connection, count),
                Written::Full => full = true,
                Written::Broken => return self.drop_client(connection, ClientCloseReason::Broken, network),
            }
        }
        match self.shard.client_interest(connection) {
            ClientInterest::Close(why) => self.drop_client(connection, why, network),
            ClientInterest::Serve { read } => {
                // Reading may resume before the next event: the shard schedules that.
                let reading = read || network.tcp(stream).reading;
                network.watch(stream, reading, full);
            }
        }
    }

    fn drop_client(&mut self, connection: ConnectionSlot, why: ClientCloseReason, network: &mut Network) {
        let Some(stream) = self.clients.remove(&connection) else { return };
        if self.shard.client_close_drains(connection) {
            network.drain(stream, Closed::Client(why));
            self.draining.push_back((stream, DRAINING_CHECKS));
        } else {
            network.close(stream, Closed::Client(why));
        }
        self.shard.on_client_closed(connection, why);
    }

    /// Handles an event of a backend connection.
    pub(super) fn on_backend(
        &mut self,
        stream: Stream,
        what: Readiness,
        budget: &mut Budget,
        network: &mut Network,
        out: &mut Outgoing,
    ) {
        let Role::Backend(route) = network.tcp(stream).role else { return };
        if self.link(route) != Some(stream) {
            return;
        }
        if what.writable && std::mem::replace(&mut network.tcp(stream).is_connecting, false) {
            if let Some(Err(why)) = network.tcp(stream).outcome {
                return self.drop_backend(route, Some(failure(why)), network, out);
            }
            self.shard.on_backend_open(route);
        }
        let readable = (what.readable || what.hung_up) && self.shard.backend_may_read(route);
        if readable && (network.tcp(stream).reading || !what.readable) {
            match network.read(stream) {
                Read::Bytes(bytes, last) => {
                    let is_over = &mut || budget.ends_with(Weight::Heavy);
                    let emit = &mut |verdict, bytes: &mut [u8]| out.push((verdict, bytes.to_vec()));
                    self.shard.on_backend_bytes(route, &bytes, is_over, emit);
                    if last {
                        return self.drop_backend(route, Some(BackendCloseReason::Closed), network, out);
                    }
                }
                Read::End => {
                    return self.drop_backend(route, Some(BackendCloseReason::Closed), network, out);
                }
                Read::Broken => {
                    return self.drop_backend(route, Some(BackendCloseReason::Broken), network, out);
                }
                Read::Nothing => {}
            }
        }
        if what.writable {
            self.serve_backend(route, network, out);
        }
    }

    /// Opens a backend connection if needed, writes pending bytes, and updates the watched events.
    fn serve_backend(&mut self, route: Route, network: &mut Network, out: &mut Outgoing) {
        let BackendInterest::Serve { read } = self.shard.backend_interest(route) else {
            return self.drop_backend(route, None, network, out);
        };
        let Some(stream) = self.link(route) else {
            return self.open_backend(route, network, out);
        };
        if network.tcp(stream).is_connecting {
            return network.watch(stream, read, true);
        }
        let mut full = false;
        while !full && !self.shard.backend_output(route).is_empty() {
            match network.write(stream, self.shard.backend_output(route)) {
                Written::Bytes(count) => self.shard.backend_written(route, count),
                Written::Full => full = true,
                Written::Broken => {
                    return self.drop_backend(route, Some(BackendCloseReason::Broken), network, out);
                }
            }
        }
        network.watch(stream, read, full);
    }

    fn open_backend(&mut self, route: Route, network: &mut Network, out: &mut Outgoing) {
        let backend = self.shard.snapshot().backend(route.backend).map(|b| b.address);
        let why = match backend {
            None => BackendCloseReason::Local,
            Some(address) if network.unreachable.contains(&address) => BackendCloseReason::Refused,
            Some(address) => {
                let stream = network.connect(self.index, Role::Backend(route), address);
                network.watch(stream, true, true);
                self.links.insert((route.backend.0, route.socket.number()), stream);
                return;
            }
        };
        self.drop_backend(route, Some(why), network, out);
    }

    fn drop_backend(
        &mut self,
        route: Route,
        why: Option<BackendCloseReason>,
        network: &mut Network,
        out: &mut Outgoing,
    ) {
        if let Some(stream) = self.links.remove(&(route.backend.0, route.socket.number())) {
            network.close(stream, Closed::Backend(why));
        }
        let emit = &mut |verdict, bytes: &mut [u8]| out.push((verdict, bytes.to_vec()));
        self.shard.on_backend_closed(route, why, emit);
    }
}

const fn failure(why: ConnectFailure) -> BackendCloseReason {
    match why {
        ConnectFailure::Refused
        | ConnectFailure::Unreachable
        | ConnectFailure::Closed
        | ConnectFailure::Down => BackendCloseReason::Refused,
        ConnectFailure::Timeout | ConnectFailure::Silent => BackendCloseReason::ConnectTimeout,
        ConnectFailure::Local => BackendCloseReason::Local,
    }
}
