//! PROXY headers to servers: in front of a datagram, or at the start of a connection.

use std::hash::Hasher;

use crate::base::addr::BackendSlot;
use crate::base::packet::Packet;
use crate::model::ClientAddress;
use crate::rules::query_state::{ProxiedAddresses, ProxyValues};
use crate::shard::Connections;
use crate::shard::backend::ANY_CLIENT;
use crate::shard::context::Context;
use crate::shard::dispatch::Dispatcher;
use crate::shard::dispatch::outstanding::PendingQuery;
use crate::wire::proxy;
use crate::wire::proxy::{Parsed, Transport, tlv};

/// The client of a backend connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionKey {
    /// [`ANY_CLIENT`], or a value that identifies one client.
    pub(crate) key: u64,
    /// The source address of the connection, if that is the client's own.
    pub(crate) source: Option<[u8; 16]>,
}

impl Dispatcher {
    /// Writes the PROXY header of a query for a server; returns false when that server gets none.
    #[inline]
    fn write_header(
        &self,
        cx: &Context,
        connections: &Connections,
        backend: BackendSlot,
        pending: &PendingQuery,
        header: &mut Vec<u8>,
    ) -> bool {
        if !cx.needs.sends_proxy_headers {
            return false;
        }
        let address = cx.snapshot.backend(backend).map(|b| b.client_address);
        let Some(ClientAddress::Proxy { v1, advertise_tls }) = address else { return false };
        header.clear();
        let clients = &connections.clients;
        let entry = pending.waiter.entry();
        let proxied = self.queries.proxied(entry).unwrap_or_else(|| ProxiedAddresses {
            source: pending.client.peer,
            destination: clients.local_of(cx, pending.client),
        });
        if v1 {
            proxy::write_v1(header, proxied.source, proxied.destination);
        } else {
            let is_connection = pending.client.connection.is_some();
            let transport = if is_connection { Transport::Stream } else { Transport::Datagram };
            let says_tls = advertise_tls && clients.protocol(pending.client).is_encrypted();
            let values = self.queries.proxy_values(entry);
            let has_tls = values.is_some_and(|v| v.iter().any(|(kind, _)| kind == tlv::SSL));
            let tls = (says_tls && !has_tls).then_some((tlv::SSL, &proxy::SSL_PLAIN[..]));
            let tlvs = values.into_iter().flat_map(ProxyValues::iter).chain(tls);
            // What fits a query's state fits a header.
            let _ = proxy::write_v2(header, transport, proxied.source, proxied.destination, tlvs);
        }
        true
    }

    /// Prepends a server's PROXY header to a datagram; returns false when it does not fit.
    pub(super) fn prepend_header(
        &mut self,
        cx: &Context,
        connections: &Connections,
        backend: BackendSlot,
        pending: &PendingQuery,
        packet: &mut Packet<'_>,
    ) -> bool {
        let mut header = std::mem::take(&mut self.header);
        let fits =
            !self.write_header(cx, connections, backend, pending, &mut header) || packet.prepend(&header);
        self.header = header;
        fits
    }

    /// Removes the PROXY header from the front of a datagram to a server.
    pub(super) fn strip_header(cx: &Context, backend: BackendSlot, packet: &mut Packet<'_>) {
        let address = cx.snapshot.backend(backend).map(|b| b.client_address);
        if matches!(address, Some(ClientAddress::Proxy { .. }))
            && let Parsed::Header { len, .. } = proxy::parse(packet.bytes(), usize::MAX)
        {
            packet.advance(len);
        }
    }

    /// Returns the client of the connection that a query needs; writes the PROXY header at its
    /// begin to `header`.
    pub(super) fn connection_key(
        &self,
        cx: &Context,
        connections: &Connections,
        backend: BackendSlot,
        pending: &PendingQuery,
        header: &mut Vec<u8>,
    ) -> ConnectionKey {
        let mut hasher = cx.hasher();
        if self.write_header(cx, connections, backend, pending, header) {
            hasher.write(header);
            return ConnectionKey { key: hasher.finish() | 1, source: None };
        }
        let told = cx.snapshot.backend(backend).map(|b| (b.client_address, b.address.is_ipv4()));
        let client = self.client_of(pending);
        if let Some((ClientAddress::Transparent, is_ipv4)) = told
            && client.is_ipv4() == is_ipv4
        {
            hasher.write(&client.ip);
            return ConnectionKey { key: hasher.finish() | 1, source: Some(client.ip) };
        }
        ConnectionKey { key: ANY_CLIENT, source: None }
    }
}
