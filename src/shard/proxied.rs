//! Whose query it is: PROXY headers that queries come with, and those that servers get.
//!
//! ```text
//!  in:  datagram ─► header off ┐                    out: datagram: header in front of it
//!       stream: its preface    ┴─► case.via ─►           line: at its beginning; one client a line
//! ```
//!
//! An answer goes to the peer that sent the query, whoever it was for at first; rules, policies
//! and servers see the client that the header names.

use std::hash::{BuildHasher, Hasher};

use crate::base::addr::{BackendSlot, Client, ConnectionSlot, Endpoint, ListenerSlot, LocalSlot, Route};
use crate::base::packet::Packet;
use crate::model::{ClientAddress, Listener, ProxyHeader, Snapshot};
use crate::rules::query_state::{ProxiedAddresses, ProxyValues};
use crate::shard::Shard;
use crate::shard::backend::ANYBODY;
use crate::shard::dispatch::outstanding::{Asked, Found, Key};
use crate::shard::verdict::Verdict;
use crate::stats::close_reason::ClientCloseReason;
use crate::stats::drop_reason::DropReason;
use crate::wire::header::Header;
use crate::wire::proxy;
use crate::wire::proxy::{Parsed, Transport, tlv};

/// What a configuration has to do with clients' addresses; found out once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// Somebody may send PROXY headers.
    pub(crate) headers: bool,
    /// Somebody may ask for their values.
    values: bool,
    /// Some server gets one.
    sends: bool,
}

impl Needs {
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let tells = |c: ClientAddress| matches!(c, ClientAddress::Proxy { .. });
        let sends = snapshot.backends.iter().flatten().any(|b| tells(b.client_address));
        Self {
            headers: !snapshot.globals.proxy.peers.is_empty(),
            values: sends || snapshot.script.is_some() || !snapshot.chains.query.is_empty(),
            sends,
        }
    }
}

/// What is known of where a query comes from, before it has a case.
#[derive(Debug, Default)]
pub(crate) struct Proxied {
    proxied: Option<ProxiedAddresses>,
    values: ProxyValues,
}

impl Shard {
    /// Whether a query may be asked, where headers are looked for: takes that of a datagram off.
    /// Says whether the query was sent by somebody else at first, or has values.
    pub(crate) fn arrive(&mut self, from: Client, packet: &mut Packet<'_>) -> Result<bool, DropReason> {
        self.proxied_query.values.clear();
        let snapshot = &self.snapshot;
        let proxy = &snapshot.globals.proxy;
        self.proxied_query.proxied = match from.connection {
            Some(connection) => match self.clients.proxied(connection) {
                Some((proxied, values)) => {
                    if self.wants.proxied.values {
                        self.proxied_query.values.copy(values);
                    }
                    proxied
                }
                None => None,
            },
            None if self.listener(from.listener).is_none_or(|l| l.proxy == ProxyHeader::Ignored) => None,
            None if proxy.peers.contains(&from.peer.ip) => {
                let bytes_max = usize::from(proxy.bytes_max).saturating_sub(proxy::FIXED);
                // A line of version 1 is for connections.
                let is_header = proxy::is_header(packet.bytes(), false);
                let (Parsed::Header { header, len }, true) =
                    (proxy::parse(packet.bytes(), bytes_max), is_header)
                else {
                    return Err(DropReason::ProxyHeader);
                };
                let proxied_query = &mut self.proxied_query;
                let mut tlvs = header.tlvs.into_iter().filter(|_| self.wants.proxied.values);
                if !tlvs.all(|(kind, value)| proxied_query.values.add(kind, value)) {
                    return Err(DropReason::ProxyHeader);
                }
                let proxied = ProxiedAddresses::of(&header);
                packet.advance(len);
                proxied
            }
            None if proxy::is_header(packet.bytes(), false) => return Err(DropReason::ProxyHeader),
            None => None,
        };
        let client = self
            .proxied_query
            .proxied
            .filter(|_| proxy.acl_to_client)
            .map_or(from.peer, |proxied| proxied.source);
        if !snapshot.acl.contains(&client.ip) {
            return Err(DropReason::Acl);
        }
        Ok(self.proxied_query.proxied.is_some() || !self.proxied_query.values.is_empty())
    }

    /// Puts what [`Shard::arrive`] has found into the case at hand.
    pub(crate) fn take_up_origin(&mut self) {
        self.query_state.proxied = self.proxied_query.proxied;
        std::mem::swap(&mut self.query_state.proxy, &mut self.proxied_query.values);
    }

    /// The listener with this slot.
    pub(crate) fn listener(&self, slot: ListenerSlot) -> Option<&Listener> {
        self.snapshot.listener(slot).map(|l| &**l)
    }

    /// The address and port that a client, or the proxy in front of us, asked.
    pub(crate) fn local(&self, client: Client) -> Endpoint {
        const UNKNOWN: Endpoint = Endpoint { ip: [0; 16], scope: 0, port: 0 };
        let mut local = self.listener(client.listener).map_or(UNKNOWN, |l| l.address.into());
        let asked = client.connection.and_then(|s| self.clients.facts(s)).map_or(client.local, |f| f.0.local);
        if asked != LocalSlot::LISTENER
            && let Some(ip) = self.locals.get(asked.index())
        {
            local.ip = *ip;
        }
        local
    }

    /// Who asked, as rules and policies see it, of the query whose case is at hand.
    pub(crate) fn seen(&self, client: Client) -> Client {
        self.query_state.proxied.map_or(client, |proxied| Client { peer: proxied.source, ..client })
    }

    /// Who asked, of a query that has its claim.
    pub(crate) fn asker(&self, asked: &Asked) -> Endpoint {
        self.query_table.proxied(asked.query_state).map_or(asked.client.peer, |proxied| proxied.source)
    }

    /// The client whose query is on its way by one of a server's sockets: whose address it is to
    /// carry. None when there is no such query, or nobody waits for it.
    #[must_use]
    pub fn source_of(&self, route: Route, query: &[u8]) -> Option<Endpoint> {
        let key = Key { route, id: Header::parse(query)?.id() };
        let Found::Live(known) = self.outstanding.find(key) else { return None };
        Some(self.asker(&known.asked)).filter(|client| client.port != 0)
    }

    /// The address that a line is to come from, where that is its client's own.
    #[must_use]
    pub fn backend_source(&self, route: Route) -> Option<[u8; 16]> {
        self.backends.source(route)
    }

    /// Writes the PROXY header of a query for a server into `self.header`; false when that server
    /// gets none.
    fn compose(&mut self, backend: BackendSlot, asked: &Asked) -> bool {
        if !self.wants.proxied.sends {
            return false;
        }
        let applied = self.snapshot.backend(backend).map(|b| b.client_address);
        let Some(ClientAddress::Proxy { v1, advertise_tls }) = applied else { return false };
        let mut header = std::mem::take(&mut self.header);
        header.clear();
        let proxied = self.query_table.proxied(asked.query_state);
        let proxied = proxied.unwrap_or_else(|| ProxiedAddresses {
            source: asked.client.peer,
            destination: self.local(asked.client),
        });
        if v1 {
            proxy::write_v1(&mut header, proxied.source, proxied.destination);
        } else {
            let connection = asked.client.connection.is_some();
            let transport = if connection { Transport::Stream } else { Transport::Datagram };
            let says_tls = advertise_tls && self.protocol(asked.client).is_encrypted();
            let values = self.query_table.proxy_values(asked.query_state);
            let has_tls = values.is_some_and(|v| v.iter().any(|(kind, _)| kind == tlv::SSL));
            let tls = (says_tls && !has_tls).then_some((tlv::SSL, &proxy::SSL_PLAIN[..]));
            let tlvs = values.into_iter().flat_map(ProxyValues::iter).chain(tls);
            // What fits into a case fits into a header.
            let _ = proxy::write_v2(&mut header, transport, proxied.source, proxied.destination, tlvs);
        }
        self.header = header;
        true
    }

    /// Puts the header that a server wants in front of a datagram for it; false when there is no
    /// room for it.
    pub(crate) fn proxy_header(
        &mut self,
        backend: BackendSlot,
        asked: &Asked,
        packet: &mut Packet<'_>,
    ) -> bool {
        !self.compose(backend, asked) || packet.prepend(&self.header)
    }

    /// Takes the header that [`Shard::proxy_header`] has put in front of a datagram off again.
    pub(crate) fn strip(&self, backend: BackendSlot, packet: &mut Packet<'_>) {
        let applied = self.snapshot.backend(backend).map(|b| b.client_address);
        if matches!(applied, Some(ClientAddress::Proxy { .. }))
            && let Parsed::Header { len, .. } = proxy::parse(packet.bytes(), usize::MAX)
        {
            packet.advance(len);
        }
    }

    /// For whom a line to a server is that a query goes by: the header at its beginning is then in
    /// `self.header`, or the address that it is to come from is said.
    pub(crate) fn connection_key(&mut self, backend: BackendSlot, asked: &Asked) -> (u64, Option<[u8; 16]>) {
        let mut hasher = self.hasher.build_hasher();
        if self.compose(backend, asked) {
            hasher.write(&self.header);
            return (hasher.finish() | 1, None);
        }
        let applied = self.snapshot.backend(backend).map(|b| (b.client_address, b.address.is_ipv4()));
        let client = self.asker(asked);
        if let Some((ClientAddress::Transparent, is_ipv4)) = applied
            && client.is_ipv4() == is_ipv4
        {
            hasher.write(&client.ip);
            return (hasher.finish() | 1, Some(client.ip));
        }
        (ANYBODY, None)
    }

    /// Writes the header that [`Shard::connection_key`] has composed at the beginning of a new line.
    pub(crate) fn begin_connection(&mut self, route: Route, key: u64) {
        if key != ANYBODY && self.backends.is_new(route) && self.backends.source(route).is_none() {
            self.backends.proxy_header(route, &self.header);
        }
    }

    /// Sends a query that has its claim and stands in memory of the shard's own, not in a packet.
    /// False when it could not be sent: its claim is taken back.
    pub(crate) fn send_copy(
        &mut self,
        key: Key,
        asked: &Asked,
        query: &mut [u8],
        out: &mut dyn FnMut(Verdict, &mut [u8]),
    ) -> bool {
        if key.route.is_connection() || !self.compose(key.route.backend, asked) {
            let length = query.len();
            if let Some(verdict) = self.put(key, asked, &mut Packet::new(query, 0, length)) {
                if let Verdict::Forward(_) = verdict {
                    out(verdict, query);
                }
                return true;
            }
            return false;
        }
        let mut sent = false;
        self.with_scratch(query, |shard, packet| {
            if let Some(verdict) = shard.put(key, asked, packet) {
                out(verdict, packet.bytes_mut());
                sent = true;
            }
        });
        sent
    }

    /// Whether a connection begins with a PROXY header in front of its TLS, and that has not come
    /// yet: its bytes are then for [`Shard::on_header_bytes`] as they are read.
    #[must_use]
    pub fn header_comes_first(&self, connection: ConnectionSlot) -> bool {
        // Its listener may be gone, or have changed its mind.
        self.clients.header_is_outside(connection)
    }

    /// Bytes at the beginning of a connection whose PROXY header is due; says how many of them
    /// belong to it. What is behind them is the client's. The connection ends when they are no
    /// header, or name a client that may not ask.
    pub fn on_header_bytes(&mut self, connection: ConnectionSlot, bytes: &[u8]) -> usize {
        let globals = &self.snapshot.globals;
        let read =
            self.clients.on_header(connection, bytes, &globals.proxy, &globals.client_connections, self.now);
        let read = read.and_then(|used| {
            let proxied = self.clients.proxied(connection).and_then(|(proxied, _)| proxied);
            let peer = self.clients.facts(connection).map(|(client, _)| client.peer);
            let due = self.clients.header_is_due(connection);
            let client = proxied
                .map(|proxied| proxied.source)
                .or(peer)
                .filter(|_| globals.proxy.acl_to_client && !due);
            if client.is_none_or(|client| self.snapshot.acl.contains(&client.ip)) {
                Ok(used)
            } else {
                Err(ClientCloseReason::Acl)
            }
        });
        read.unwrap_or_else(|why| {
            self.clients.end(connection, why);
            bytes.len()
        })
    }
}
