//! What was read of a capture, and what was left out of it and why.

use crate::base::reasons::{Reasons, reasons};

reasons! {
    /// Why a packet, or a part of it, yields no message.
    Skip {
        /// The packet is neither IPv4 nor IPv6.
        NotIp = "not-ip",
        /// It is neither UDP nor TCP.
        OtherTransport = "other-transport",
        /// None of its ports is one of those looked at.
        OtherPort = "other-port",
        /// The capture has not the whole packet (see tcpdump's option -s).
        Cut = "cut",
        /// Its headers contradict each other.
        Malformed = "malformed",
        /// It is too short for a DNS header.
        NotDns = "not-dns",
        /// It says to be a query and comes from the server, or the reverse.
        Direction = "direction",
        /// How the link frames its packets is not known.
        UnknownLink = "unknown-link",
        /// The other fragments of a datagram did not come, or too late.
        FragmentLost = "fragment-lost",
        /// Fragments of a datagram overlap (RFC 5722, 4).
        FragmentOverlap = "fragment-overlap",
        /// Bytes of a stream are missing in the capture.
        StreamGap = "stream-gap",
        /// Where in a stream the next message begins is not known: it was joined midway, or bytes are missing.
        StreamUnaligned = "stream-unaligned",
        /// A stream has frames that cannot contain a message.
        StreamNotDns = "stream-not-dns",
        /// A dnstap message between a resolver and the servers that it asks.
        ResolverSide = "resolver-side",
        /// A dnstap frame without a message, without its time, or that cannot be read.
        BadFrame = "bad-frame",
    }
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets, or frames of dnstap.
    pub packets: u64,
    /// Messages of clients.
    pub queries: u64,
    /// Messages of servers.
    pub responses: u64,
    /// TCP connections.
    pub connections: u64,
    /// Datagrams made of fragments.
    pub reassembled: u64,
    /// Segments of TCP that had come before.
    pub repeated_segments: u64,
    /// Segments of TCP that came before earlier ones.
    pub early_segments: u64,
    /// Packets of an interface that came faster than they were read.
    pub dropped: u64,
    /// Packets with an earlier time than the one before them.
    pub backwards: u64,
    /// Packets far from the time of those around them, which were taken as captured with these.
    pub odd_times: u64,
    skipped: [u64; Skip::ALL.len()],
}

impl Counts {
    /// Counts something that yields no message.
    pub(crate) fn skip(&mut self, why: Skip) {
        self.skipped[why.index()] += 1;
    }

    /// Returns how often this was the reason.
    #[must_use]
    pub fn skipped(&self, why: Skip) -> u64 {
        self.skipped[why.index()]
    }

    /// Returns each reason with its sentence and its number.
    pub fn reasons(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        Skip::LABELS.iter().zip(self.skipped).map(|((label, doc), n)| (*label, *doc, n))
    }
}
