//! Admission and parsing of queries.

use crate::base::addr::{Client, PoolSlot};
use crate::base::packet::Packet;
use crate::model::ProxyHeader;
use crate::rules::context::Facts;
use crate::rules::query_state;
use crate::rules::query_state::{ProxiedAddresses, QueryState};
use crate::shard::Shard;
use crate::shard::context::Context;
use crate::shard::dispatch::outstanding::{PADDED, PendingQuery, Waiter, opcode_flags};
use crate::stats::drop_reason::DropReason;
use crate::wire::header::{Header, rcode};
use crate::wire::query::Question;
use crate::wire::{padding, proxy};

use crate::shard::pipeline::{Outcome, Query, own_answer};

impl Shard {
    /// Decides whether a query is admitted. The PROXY header of a datagram is removed; its content,
    /// if any, is in the query state.
    pub(super) fn admit(
        &mut self,
        from: Client,
        packet: &mut Packet<'_>,
    ) -> Result<Option<Box<QueryState>>, Outcome> {
        let cx = &self.cx;
        if !cx.needs.proxy_headers {
            return if cx.snapshot.acl.contains(&from.peer.ip) {
                Ok(None)
            } else {
                cx.count_refused(from);
                Err(Outcome::Dropped(DropReason::Acl))
            };
        }
        let mut state = self.new_state();
        let cx = &self.cx;
        let settings = &cx.snapshot.globals.proxy;
        let received = match from.connection {
            Some(connection) => {
                if let Some((addresses, values)) = self.connections.clients.proxied(connection) {
                    state.proxied = addresses;
                    if cx.needs.proxy_values {
                        state.proxy.copy(values);
                    }
                }
                true
            }
            None if cx.listener(from.listener).is_none_or(|l| l.proxy == ProxyHeader::Ignored) => true,
            None if settings.peers.contains(&from.peer.ip) => take_proxy_header(cx, packet, &mut state),
            None => !proxy::is_header(packet.bytes(), false),
        };
        let client = state.proxied.filter(|_| settings.acl_to_client).map_or(from.peer, |p| p.source);
        let refused = match received {
            false => Some(DropReason::ProxyHeader),
            true if !cx.snapshot.acl.contains(&client.ip) => Some(DropReason::Acl),
            true => None,
        };
        if refused.is_none() && (state.proxied.is_some() || !state.proxy.is_empty()) {
            return Ok(Some(state));
        }
        if refused == Some(DropReason::Acl) {
            cx.count_refused(from);
        }
        self.dispatcher.queries.recycle(state);
        refused.map_or(Ok(None), |reason| Err(Outcome::Dropped(reason)))
    }

    /// Parses a query as far as needed.
    pub(super) fn parse(
        &mut self,
        from: Client,
        state: Option<Box<QueryState>>,
        packet: &mut Packet<'_>,
    ) -> Result<Query, Outcome> {
        let cx = &self.cx;
        let message = packet.bytes();
        let refused = match Header::parse(message) {
            None => DropReason::QueryShort,
            Some(header) if header.is_response() => DropReason::QueryIsResponse,
            Some(header) if header.is_truncated() => DropReason::QueryTruncated,
            Some(header) if header.qdcount() == 0 => {
                cx.stats().empty_queries.add(1);
                if !cx.snapshot.globals.drop_empty_queries {
                    return Err(own_answer(cx, packet, rcode::NOTIMP));
                }
                DropReason::QueryEmpty
            }
            Some(header) => match Question::parse(message) {
                Some(question) => {
                    cx.stats().recursive_queries.add(u64::from(header.recursion_desired()));
                    let flags = query_state::flags_of(message);
                    let pending = PendingQuery {
                        client: from,
                        client_id: header.id(),
                        question: cx.hash(&question),
                        waiter: Waiter::Client(None),
                        pool: PoolSlot(0),
                        flags: query_state::packed(flags)
                            | self.padding_flag(from, message)
                            | opcode_flags(message),
                    };
                    let facts = Facts::from_question(&question);
                    return Ok(Query { pending, facts, state });
                }
                None => DropReason::QueryMalformed,
            },
        };
        if refused == DropReason::QueryShort {
            cx.count_refused(from);
        }
        if refused != DropReason::QueryEmpty {
            cx.count_noncompliant(from);
        }
        if let Some(state) = state {
            self.dispatcher.queries.recycle(state);
        }
        Err(Outcome::Dropped(refused))
    }
}

impl Shard {
    /// Returns the flag of a query whose answer is to be padded (RFC 8467): over an encrypted
    /// connection, from a client that pads its queries.
    fn padding_flag(&self, from: Client, message: &[u8]) -> u8 {
        let is_wanted = from.connection.is_some()
            && self.connections.clients.protocol(from).is_encrypted()
            && padding::is_padded(message);
        if is_wanted { PADDED } else { 0 }
    }
}

/// Removes the PROXY header from a datagram of a peer that must send one; returns false when there
/// is none.
pub(super) fn take_proxy_header(cx: &Context, packet: &mut Packet<'_>, state: &mut QueryState) -> bool {
    let bytes_max = usize::from(cx.snapshot.globals.proxy.bytes_max).saturating_sub(proxy::FIXED);
    // Version 1 is for connections only.
    let is_header = proxy::is_header(packet.bytes(), false);
    let (proxy::Parsed::Header { header, len }, true) = (proxy::parse(packet.bytes(), bytes_max), is_header)
    else {
        return false;
    };
    let mut tlvs = header.tlvs.into_iter().filter(|_| cx.needs.proxy_values);
    if !tlvs.all(|(kind, value)| state.proxy.add(kind, value)) {
        return false;
    }
    state.proxied = ProxiedAddresses::of(&header);
    packet.advance(len);
    true
}
