//! What stands in front of the queries of a connection: a PROXY header, over any segmentation.
//!
//! ```text
//!  listed peer ─► due ─► octets ─┬─► whole: whom it names, and its values, for all queries
//!                                └─► none, malformed, too long: the connection ends
//! ```

use super::{StreamEnd, Streams};
use crate::addr::StreamSlot;
use crate::config::snapshot::{ProxyLimits, StreamLimits};
use crate::shard::case::{ProxyValues, Via};
use crate::time::Tick;
use crate::wire::proxy::{self, Parsed};

/// The header of a connection that has one.
#[derive(Debug)]
pub(super) struct Preface {
    /// It has not come yet, or not all of it.
    due: bool,
    /// It stands in front of TLS, as its listener had it when the connection came.
    outside: bool,
    /// What there is of it so far.
    begun: Vec<u8>,
    via: Option<Via>,
    values: ProxyValues,
}

impl Preface {
    /// A header that is to come.
    pub(super) fn due(outside: bool) -> Box<Self> {
        Box::new(Self { due: true, outside, begun: Vec::new(), via: None, values: ProxyValues::default() })
    }

    /// Reads on; says how many of `octets` belong to the header. None when it is none.
    fn feed(&mut self, octets: &[u8], octets_max: usize) -> Option<usize> {
        let before = self.begun.len();
        // What is beyond the longest header cannot belong to it.
        let room = octets_max.max(proxy::LINE_MAX).saturating_sub(before);
        let taken = octets.len().min(room);
        self.begun.extend_from_slice(&octets[..taken]);
        match proxy::parse(&self.begun, octets_max.saturating_sub(proxy::FIXED)) {
            Parsed::Incomplete => (taken < room).then_some(taken),
            Parsed::Invalid(_) => None,
            Parsed::Header { header, len } => {
                self.via = Via::of(&header);
                if !header.tlvs.into_iter().all(|(kind, value)| self.values.add(kind, value)) {
                    return None;
                }
                self.due = false;
                self.begun = Vec::new();
                len.checked_sub(before)
            }
        }
    }
}

impl Streams {
    /// Whether the connection's header has not come yet.
    pub(in crate::shard) fn header_is_due(&self, slot: StreamSlot) -> bool {
        self.stream(slot).and_then(|s| s.preface.as_ref()).is_some_and(|p| p.due)
    }

    /// Whether a header that has not come yet stands in front of TLS.
    pub(in crate::shard) fn header_is_outside(&self, slot: StreamSlot) -> bool {
        self.stream(slot).and_then(|s| s.preface.as_ref()).is_some_and(|p| p.due && p.outside)
    }

    /// Whether nothing has been read of the connection's queries.
    pub(in crate::shard) fn is_fresh(&self, slot: StreamSlot) -> bool {
        self.stream(slot).is_some_and(|s| s.queries == 0 && s.begun.is_none() && s.preface.is_none())
    }

    /// Between whom the connection was made at first, as its header says, and what else it says.
    pub(in crate::shard) fn origin(&self, slot: StreamSlot) -> Option<(Option<Via>, &ProxyValues)> {
        let preface = self.stream(slot)?.preface.as_ref().filter(|p| !p.due)?;
        Some((preface.via, &preface.values))
    }

    /// Octets of a header; says how many of them belong to it.
    pub(in crate::shard) fn on_header(
        &mut self,
        slot: StreamSlot,
        octets: &[u8],
        proxy: &ProxyLimits,
        limits: &StreamLimits,
        now: Tick,
    ) -> Result<usize, StreamEnd> {
        let Some(stream) = self.stream_mut(slot) else { return Ok(0) };
        stream.begun = stream.begun.or(Some(now));
        let Some(preface) = stream.preface.as_mut().filter(|p| p.due) else { return Ok(0) };
        let used = preface.feed(octets, proxy.octets_max.into()).ok_or(StreamEnd::Proxy)?;
        if preface.due {
            return Ok(used);
        }
        let client = preface.via.map_or(stream.client.peer, |via| via.source);
        (stream.begun, stream.reads, stream.active) = (None, 0, now);
        if proxy.acl_to_client {
            // It was not counted when it came: nobody knew for whom.
            let visit = self.crowd.admit(client, limits, now)?;
            if let Some(stream) = self.stream_mut(slot) {
                stream.visit = visit;
            }
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Endpoint;
    use crate::wire::proxy::Transport;

    fn endpoint(text: &str) -> Endpoint {
        text.parse::<std::net::SocketAddr>().expect("an address").into()
    }

    fn header() -> Vec<u8> {
        let mut octets = Vec::new();
        let (from, to) = (endpoint("192.0.2.1:4711"), endpoint("192.0.2.53:53"));
        let values = [(5, &b"id"[..]), (0xe0, b"")];
        assert!(proxy::write_v2(&mut octets, Transport::Stream, from, to, values.into_iter()));
        octets
    }

    #[test]
    fn a_header_may_come_in_any_pieces_and_takes_no_octet_of_what_follows() {
        let mut v1 = Vec::new();
        proxy::write_v1(&mut v1, endpoint("192.0.2.1:4711"), endpoint("192.0.2.53:53"));
        for whole in [header(), v1] {
            let octets = [&whole[..], b"\0\x0cquery"].concat();
            for piece in 1..=octets.len() {
                let (mut preface, mut at) = (Preface::due(false), 0);
                while preface.due {
                    let end = octets.len().min(at + piece);
                    at += preface.feed(&octets[at..end], 512).expect("a header");
                }
                assert_eq!(at, whole.len(), "in pieces of {piece}");
                assert_eq!(preface.via.map(|via| via.source), Some(endpoint("192.0.2.1:4711")));
            }
        }
    }

    #[test]
    fn what_is_no_header_is_told_at_once_and_what_has_no_end_ends() {
        assert_eq!(Preface::due(false).feed(b"\0\x0c", 512), None, "a query");
        assert_eq!(Preface::due(false).feed(&header(), 35), None, "longer than may be");
        let mut preface = Preface::due(false);
        assert_eq!(preface.feed(b"PROXY UNKNOWN ", 16), Some(14));
        let endless = (0..200).all(|_| preface.feed(b"x", 16).is_some());
        assert!(!endless && preface.begun.len() <= proxy::LINE_MAX);
    }
}
