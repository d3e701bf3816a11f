//! The PROXY header at the start of a connection, in any segmentation.
//!
//! ```text
//!  listed peer ─► due ─► bytes ─┬─► complete: its client and values, for all queries
//!                                └─► none, malformed, too long: the connection ends
//! ```

use crate::base::addr::ConnectionSlot;
use crate::base::time::Tick;
use crate::model::ProxyLimits;
use crate::rules::query_state::{ProxiedAddresses, ProxyValues};
use crate::shard::client::ClientConnections;
use crate::stats::close_reason::ClientCloseReason;
use crate::stats::connection_limits::ClientConnectionLimits;
use crate::wire::proxy;
use crate::wire::proxy::Parsed;

/// The header of a connection that has one.
#[derive(Debug)]
pub(crate) struct HeaderReader {
    /// It has not arrived completely.
    due: bool,
    /// It is before TLS, by its listener's setting when the connection was accepted.
    outside: bool,
    /// The part of it that has arrived.
    received: Vec<u8>,
    proxied: Option<ProxiedAddresses>,
    values: ProxyValues,
}

impl HeaderReader {
    /// Expects a header.
    pub(crate) fn due(outside: bool) -> Box<Self> {
        Box::new(Self {
            due: true,
            outside,
            received: Vec::new(),
            proxied: None,
            values: ProxyValues::default(),
        })
    }

    /// Parses more bytes; returns how many of them belong to the header, or none when it is
    /// malformed.
    fn feed(&mut self, bytes: &[u8], bytes_max: usize) -> Option<usize> {
        let before = self.received.len();
        // Bytes beyond the longest header cannot belong to it.
        let room = bytes_max.max(proxy::LINE_MAX).saturating_sub(before);
        let taken = bytes.len().min(room);
        self.received.extend_from_slice(&bytes[..taken]);
        match proxy::parse(&self.received, bytes_max.saturating_sub(proxy::FIXED)) {
            Parsed::Incomplete => (taken < room).then_some(taken),
            Parsed::Invalid(_) => None,
            Parsed::Header { header, len } => {
                self.proxied = ProxiedAddresses::of(&header);
                if !header.tlvs.into_iter().all(|(kind, value)| self.values.add(kind, value)) {
                    return None;
                }
                self.due = false;
                self.received = Vec::new();
                len.checked_sub(before)
            }
        }
    }
}

impl ClientConnections {
    /// Returns whether the connection's header has not arrived yet.
    pub(crate) fn header_is_due(&self, slot: ConnectionSlot) -> bool {
        self.connection(slot).and_then(|s| s.proxy_header.as_ref()).is_some_and(|p| p.due)
    }

    /// Returns whether a header that has not arrived yet is before TLS.
    pub(crate) fn header_is_outside(&self, slot: ConnectionSlot) -> bool {
        self.connection(slot).and_then(|s| s.proxy_header.as_ref()).is_some_and(|p| p.due && p.outside)
    }

    /// Returns whether no byte of the connection's queries was read.
    pub(crate) fn is_fresh(&self, slot: ConnectionSlot) -> bool {
        self.connection(slot)
            .is_some_and(|s| s.queries == 0 && s.partial_since.is_none() && s.proxy_header.is_none())
    }

    /// Returns the original addresses of the connection and the values, as in its header.
    pub(crate) fn proxied(&self, slot: ConnectionSlot) -> Option<(Option<ProxiedAddresses>, &ProxyValues)> {
        let proxy_header = self.connection(slot)?.proxy_header.as_ref().filter(|p| !p.due)?;
        Some((proxy_header.proxied, &proxy_header.values))
    }

    /// Handles bytes of a header; returns how many of them belong to it.
    pub(crate) fn on_header(
        &mut self,
        slot: ConnectionSlot,
        bytes: &[u8],
        proxy: &ProxyLimits,
        limits: &ClientConnectionLimits,
        now: Tick,
    ) -> Result<usize, ClientCloseReason> {
        let Some(connection) = self.connection_mut(slot) else { return Ok(0) };
        connection.partial_since = connection.partial_since.or(Some(now));
        let Some(proxy_header) = connection.proxy_header.as_mut().filter(|p| p.due) else { return Ok(0) };
        let used = proxy_header.feed(bytes, proxy.bytes_max.into()).ok_or(ClientCloseReason::Proxy)?;
        if proxy_header.due {
            return Ok(used);
        }
        let client = proxy_header.proxied.map_or(connection.client.peer, |proxied| proxied.source);
        (connection.partial_since, connection.reads, connection.active) = (None, 0, now);
        if proxy.acl_to_client {
            // It was not counted when it was accepted: its client was unknown.
            let client_permit = self.connection_limits.admit(client, limits, now)?;
            if let Some(connection) = self.connection_mut(slot) {
                connection.client_permit = client_permit;
            }
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addr::Endpoint;
    use crate::wire::proxy::Transport;

    fn endpoint(text: &str) -> Endpoint {
        text.parse::<std::net::SocketAddr>().expect("an address").into()
    }

    fn header() -> Vec<u8> {
        let mut bytes = Vec::new();
        let (from, to) = (endpoint("192.0.2.1:4711"), endpoint("192.0.2.53:53"));
        let values = [(5, &b"id"[..]), (0xe0, b"")];
        assert!(proxy::write_v2(&mut bytes, Transport::Stream, from, to, values.into_iter()));
        bytes
    }

    #[test]
    fn header_is_parsed_in_any_segmentation() {
        let mut v1 = Vec::new();
        proxy::write_v1(&mut v1, endpoint("192.0.2.1:4711"), endpoint("192.0.2.53:53"));
        for whole in [header(), v1] {
            let bytes = [&whole[..], b"\0\x0cquery"].concat();
            for piece in 1..=bytes.len() {
                let (mut proxy_header, mut at) = (HeaderReader::due(false), 0);
                while proxy_header.due {
                    let end = bytes.len().min(at + piece);
                    at += proxy_header.feed(&bytes[at..end], 512).expect("a header");
                }
                assert_eq!(at, whole.len(), "in pieces of {piece}");
                assert_eq!(
                    proxy_header.proxied.map(|proxied| proxied.source),
                    Some(endpoint("192.0.2.1:4711"))
                );
            }
        }
    }

    #[test]
    fn invalid_header_is_refused_at_once() {
        assert_eq!(HeaderReader::due(false).feed(b"\0\x0c", 512), None, "a query");
        assert_eq!(HeaderReader::due(false).feed(&header(), 35), None, "longer than allowed");
        let mut proxy_header = HeaderReader::due(false);
        assert_eq!(proxy_header.feed(b"PROXY UNKNOWN ", 16), Some(14));
        let endless = (0..200).all(|_| proxy_header.feed(b"x", 16).is_some());
        assert!(!endless && proxy_header.received.len() <= proxy::LINE_MAX);
    }
}
