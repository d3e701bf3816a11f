//! Events of client connections besides their queries: accept, TLS, PROXY headers, close.

use crate::base::addr::{Client, ConnectionSlot, Endpoint, LocalSlot};
use crate::base::time::{Tick, TickDelta};
use crate::model::{Listener, ProxyHeader};
use crate::rules::query_state::Protocol;
use crate::shard::client::{Accepted, ClientConnections};
use crate::shard::context::Context;
use crate::stats::close_reason::ClientCloseReason;
use crate::tls::{Reason, TlsFacts};

/// Time that the client of a closed connection has to take its last answers.
const DRAIN: TickDelta = TickDelta::from_ms(1_000);

impl ClientConnections {
    /// A client has connected to a listener. Returns none, and counts it, when the connection must
    /// be closed at once.
    pub(crate) fn on_accept(
        &mut self,
        cx: &Context,
        peer: Endpoint,
        listener: &Listener,
        local: LocalSlot,
    ) -> Option<ConnectionSlot> {
        let taken = self.accept(cx, peer, listener, local);
        let stats = &cx.stats().clients;
        stats.opened.add(1);
        if let Err(why) = taken {
            stats.ended(why).add(1);
        }
        stats.open.set(self.open_count());
        taken.ok()
    }

    fn accept(
        &mut self,
        cx: &Context,
        peer: Endpoint,
        listener: &Listener,
        local: LocalSlot,
    ) -> Result<ConnectionSlot, ClientCloseReason> {
        // As in the current configuration, unless that has removed the listener.
        let listener = cx.listener(listener.slot).unwrap_or(listener);
        let proxy = &cx.snapshot.globals.proxy;
        let header_due = listener.proxy != ProxyHeader::Ignored && proxy.peers.contains(&peer.ip);
        let by_header = header_due && proxy.acl_to_client;
        if !by_header && !cx.snapshot.acl.contains(&peer.ip) {
            return Err(ClientCloseReason::Acl);
        }
        let tls = listener.service.tls().is_some();
        let accepted = Accepted {
            client: Client { peer, listener: listener.slot, local, connection: None },
            protocol: listener.service.protocol().unwrap_or(Protocol::DoTcp),
            handshake: tls,
            in_flight_max: listener.connection_options.in_flight,
            header_due,
            header_outside: listener.proxy == ProxyHeader::Outside,
            counts: !by_header,
            listener_max: listener.connection_options.connections,
        };
        self.open(accepted, cx.client_limits(), cx.now)
    }

    /// The TLS handshake of a connection has completed.
    pub(crate) fn on_handshake(&mut self, cx: &Context, connection: ConnectionSlot, facts: TlsFacts<'_>) {
        let Some((client, _)) = self.facts(connection) else { return };
        cx.stats().handshakes(client.listener).done(facts.resumed);
        self.handshake_done(connection, facts.sni, facts.resumed, cx.client_limits(), cx.now);
    }

    /// TLS has failed on a connection; the engine then closes it for the returned reason.
    pub(crate) fn on_failure(
        &mut self,
        cx: &Context,
        connection: ConnectionSlot,
        why: Reason,
    ) -> ClientCloseReason {
        if !self.is_handshaking(connection) {
            return ClientCloseReason::Broken;
        }
        if let Some((client, _)) = self.facts(connection) {
            cx.stats().handshakes(client.listener).failed(why).add(1);
        }
        ClientCloseReason::Handshake
    }

    /// Handles bytes at the start of a connection whose PROXY header is due; returns how many of
    /// them belong to it. The connection ends when they are no header, or name a client outside the
    /// ACL.
    pub(crate) fn on_header_bytes(
        &mut self,
        cx: &Context,
        connection: ConnectionSlot,
        bytes: &[u8],
    ) -> usize {
        let settings = &cx.snapshot.globals.proxy;
        let read = self.on_header(connection, bytes, settings, cx.client_limits(), cx.now);
        let read = read.and_then(|used| {
            let proxied = self.proxied(connection).and_then(|(proxied, _)| proxied);
            let peer = self.facts(connection).map(|(client, _)| client.peer);
            let judges = settings.acl_to_client && !self.header_is_due(connection);
            let client = proxied.map(|proxied| proxied.source).or(peer).filter(|_| judges);
            if client.is_none_or(|client| cx.snapshot.acl.contains(&client.ip)) {
                Ok(used)
            } else {
                Err(ClientCloseReason::Acl)
            }
        });
        read.unwrap_or_else(|why| {
            self.end(connection, why);
            bytes.len()
        })
    }

    /// The engine has closed a connection.
    pub(crate) fn on_closed(&mut self, cx: &Context, connection: ConnectionSlot, why: ClientCloseReason) {
        self.closed(connection);
        let stats = &cx.stats().clients;
        stats.ended(why).add(1);
        stats.open.set(self.open_count());
    }

    /// Returns whether a connection that is to be closed was answered a moment ago, while its
    /// client may still be sending.
    pub(crate) fn close_drains(&self, connection: ConnectionSlot, now: Tick) -> bool {
        self.was_just_answered(connection, DRAIN, now)
    }

    /// Returns the protocol of a client's query.
    pub(crate) fn protocol(&self, client: Client) -> Protocol {
        let facts = client.connection.and_then(|connection| self.facts(connection));
        facts.map_or(Protocol::DoUdp, |(_, protocol)| protocol)
    }

    /// Returns the address and port that a client, or the proxy in front of us, sent its query to.
    pub(crate) fn local_of(&self, cx: &Context, client: Client) -> Endpoint {
        const UNKNOWN: Endpoint = Endpoint { ip: [0; 16], scope: 0, port: 0 };
        let mut local = cx.listener(client.listener).map_or(UNKNOWN, |l| l.address.into());
        let facts = client.connection.and_then(|connection| self.facts(connection));
        let asked = facts.map_or(client.local, |(client, _)| client.local);
        if let Some(ip) = cx.local_address(asked) {
            local.ip = ip;
        }
        local
    }
}
