//! From packets to messages: links, IP, fragments, UDP, TCP.

use std::net::{IpAddr, SocketAddr};

use ahash::RandomState;

use crate::tools::capture::clock::{Clock, Timed};
use crate::tools::capture::counts::{Counts, Skip};
use crate::tools::capture::fragments::Fragments;
use crate::tools::capture::message::{Event, Message, Protocol};
use crate::tools::capture::tcp::{Connections, Segment};
use crate::tools::capture::{frame, ip, link};
use crate::wire::header::{self, Header};
use crate::wire::records;

/// A packet as it was captured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'p> {
    /// Nanoseconds since 1970.
    pub(super) at: u64,
    /// How its link frames it.
    pub(super) link: u16,
    /// What of it was captured.
    pub(super) bytes: &'p [u8],
    /// Whether these are not all of its bytes.
    pub(super) is_cut: bool,
}

/// A packet or a frame whose time is not confirmed yet.
#[derive(Clone, Debug)]
enum Held {
    Packet {
        link: u16,
        /// What the kernel says it is, where it has no link's header.
        kind: Option<u16>,
        bytes: Vec<u8>,
        is_cut: bool,
    },
    Frame(Vec<u8>),
}

/// Which ports are those of servers.
#[derive(Clone, Debug)]
struct Ports(Box<[u64; 1_024]>);

impl Ports {
    fn new(ports: &[u16]) -> Self {
        let mut bits = Box::new([0; 1_024]);
        for port in ports {
            bits[usize::from(port >> 6)] |= 1 << (port & 63);
        }
        Self(bits)
    }

    #[inline]
    fn has(&self, port: u16) -> bool {
        self.0[usize::from(port >> 6)] >> (port & 63) & 1 != 0
    }
}

/// Makes messages of packets.
#[derive(Debug)]
pub(super) struct Decoder {
    ports: Ports,
    fragments: Fragments,
    connections: Connections,
    pub(super) counts: Counts,
    clock: Clock<Held>,
    last: u64,
}

impl Decoder {
    pub(super) fn new(ports: &[u16], hasher: RandomState, connections_max: usize) -> Self {
        Self {
            ports: Ports::new(ports),
            fragments: Fragments::new(hasher.clone()),
            connections: Connections::new(hasher, connections_max),
            counts: Counts::default(),
            clock: Clock::default(),
            last: 0,
        }
    }

    /// Counts a packet or frame of this time.
    #[inline]
    fn begin(&mut self, at: u64) {
        self.counts.packets += 1;
        if at < self.last {
            self.counts.backwards += 1;
        }
        self.last = at;
    }

    /// Calls `visit` with what a packet tells.
    #[inline]
    pub(super) fn packet(&mut self, packet: &Packet<'_>, visit: &mut impl FnMut(Event<'_>)) {
        if self.clock.passes(packet.at) {
            self.timed(packet, None, visit);
        } else {
            self.hold_packet(packet, None, visit);
        }
    }

    /// Does the same for a packet without its link's header, of this type.
    pub(super) fn cooked(&mut self, packet: &Packet<'_>, kind: u16, visit: &mut impl FnMut(Event<'_>)) {
        if self.clock.passes(packet.at) {
            self.timed(packet, Some(kind), visit);
        } else {
            self.hold_packet(packet, Some(kind), visit);
        }
    }

    /// Calls `visit` with the message of a frame of dnstap.
    pub(super) fn frame(&mut self, bytes: &[u8], visit: &mut impl FnMut(Event<'_>)) {
        match frame::message(bytes) {
            Ok(message) if self.clock.passes(message.at) => {
                self.begin(message.at);
                self.message(message, visit);
            }
            Ok(message) => {
                let released = self.clock.hold(message.at, Held::Frame(bytes.to_vec()));
                self.pass_on(released, visit);
            }
            Err(why) => {
                self.counts.packets += 1;
                self.counts.skip(why);
            }
        }
    }

    /// Calls `visit` with what packets tell whose times are not confirmed: nothing comes for a while.
    pub(super) fn release(&mut self, visit: &mut impl FnMut(Event<'_>)) {
        let released = self.clock.end();
        self.pass_on(released, visit);
    }

    #[cold]
    fn hold_packet(&mut self, packet: &Packet<'_>, kind: Option<u16>, visit: &mut impl FnMut(Event<'_>)) {
        let Packet { at, link, bytes, is_cut } = *packet;
        let released = self.clock.hold(at, Held::Packet { link, kind, bytes: bytes.to_vec(), is_cut });
        self.pass_on(released, visit);
    }

    fn pass_on(&mut self, released: Vec<Timed<Held>>, visit: &mut impl FnMut(Event<'_>)) {
        for Timed { at, is_odd, packet } in released {
            self.counts.odd_times += u64::from(is_odd);
            match packet {
                Held::Packet { link, kind, bytes, is_cut } => {
                    self.timed(&Packet { at, link, bytes: &bytes, is_cut }, kind, visit);
                }
                Held::Frame(bytes) => {
                    self.begin(at);
                    // It was read before.
                    if let Ok(message) = frame::message(&bytes) {
                        let asked = message.asked.filter(|_| at == message.at);
                        self.message(Message { at, asked, ..message }, visit);
                    }
                }
            }
        }
    }

    /// Calls `visit` with what a packet tells whose time is good.
    #[inline]
    fn timed(&mut self, packet: &Packet<'_>, kind: Option<u16>, visit: &mut impl FnMut(Event<'_>)) {
        self.begin(packet.at);
        let inner = match kind {
            Some(kind) => link::behind_tags(kind, packet.bytes),
            None => link::packet(packet.link, packet.bytes),
        };
        if let Err(why) = self.try_packet(packet, inner, visit) {
            self.counts.skip(why);
        }
    }

    #[inline]
    fn try_packet(
        &mut self,
        packet: &Packet<'_>,
        inner: Result<&[u8], Skip>,
        visit: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Skip> {
        let bytes = match inner {
            Err(Skip::Malformed) if packet.is_cut => return Err(Skip::Cut),
            other => other?,
        };
        let inner = ip::parse(bytes, packet.is_cut)?;
        let Some(fragment) = inner.fragment else {
            return self.transport(packet.at, &inner, visit);
        };
        if inner.is_cut {
            return Err(Skip::Cut);
        }
        let Some(payload) = self.fragments.add(packet.at, &inner, fragment, &mut self.counts) else {
            return Ok(());
        };
        let mut whole = ip::Packet { payload: &payload, fragment: None, ..inner };
        if whole.source.is_ipv6() {
            (whole.protocol, whole.payload, whole.fragment) =
                ip::behind_headers(whole.protocol, &payload, false)?;
        }
        // A fragment of fragments is nothing that anybody sends.
        if whole.fragment.is_some() {
            return Err(Skip::Malformed);
        }
        self.transport(packet.at, &whole, visit)
    }

    #[inline]
    fn transport(
        &mut self,
        at: u64,
        packet: &ip::Packet<'_>,
        visit: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Skip> {
        match packet.protocol {
            ip::UDP => self.datagram(at, packet, visit),
            ip::TCP => self.segment(at, packet, visit),
            _ => Err(Skip::OtherTransport),
        }
    }

    #[inline]
    fn datagram(
        &mut self,
        at: u64,
        packet: &ip::Packet<'_>,
        visit: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Skip> {
        let short = if packet.is_cut { Skip::Cut } else { Skip::Malformed };
        let (&[s0, s1, d0, d1, l0, l1, _, _], payload) = packet.payload.split_first_chunk().ok_or(short)?;
        let (source, destination) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
        if !self.ports.has(source) && !self.ports.has(destination) {
            return Err(Skip::OtherPort);
        }
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        // 0 as of a jumbogram, or where a network card makes datagrams of one.
        let length = if length == 0 { payload.len() + 8 } else { length };
        let payload = payload.get(..length.checked_sub(8).ok_or(Skip::Malformed)?).ok_or(short)?;
        let header = Header::parse(payload).ok_or(Skip::NotDns)?;
        let is_response = header.is_response();
        let (client, server) = if is_response {
            ((packet.destination, destination), (packet.source, source))
        } else {
            ((packet.source, source), (packet.destination, destination))
        };
        if !self.ports.has(server.1) {
            return Err(Skip::Direction);
        }
        for payload in payload.chunks(datagram_bytes(payload)) {
            let message = Message {
                at,
                asked: None,
                client: SocketAddr::from(client),
                server: SocketAddr::from(server),
                protocol: Protocol::Udp,
                connection: None,
                is_response,
                payload,
            };
            self.message(message, visit);
        }
        Ok(())
    }

    fn segment(
        &mut self,
        at: u64,
        packet: &ip::Packet<'_>,
        visit: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Skip> {
        let short = if packet.is_cut { Skip::Cut } else { Skip::Malformed };
        let bytes = packet.payload;
        let header: &[u8; 4] = bytes.first_chunk().ok_or(short)?;
        let (source, destination) =
            (u16::from_be_bytes([header[0], header[1]]), u16::from_be_bytes([header[2], header[3]]));
        let ports = [self.ports.has(source), self.ports.has(destination)];
        if ports == [false, false] {
            return Err(Skip::OtherPort);
        }
        let segment = Segment::parse(bytes).ok_or(short)?;
        let [source, destination]: [SocketAddr; 2] =
            [(packet.source, source), (packet.destination, destination)]
                .map(|(ip, port): (IpAddr, u16)| (ip, port).into());
        let Self { connections, counts, .. } = self;
        let is_known = |client, server| connections.has(client, server);
        let from_client = match ports {
            [false, _] => true,
            [true, false] => false,
            // Both are those of servers: whoever opened it is the client.
            [true, true] => !is_known(destination, source) && !segment.is_answer_to_syn(),
        };
        let (client, server) = if from_client { (source, destination) } else { (destination, source) };
        connections.segment(at, client, server, from_client, &segment, counts, visit);
        // What of it was captured is of use: the rest is a gap of the stream.
        if packet.is_cut { Err(Skip::Cut) } else { Ok(()) }
    }

    /// Hands over a message that is known to be one.
    #[inline]
    pub(super) fn message(&mut self, message: Message<'_>, visit: &mut impl FnMut(Event<'_>)) {
        debug_assert!(message.payload.len() >= header::LEN, "a whole header");
        if message.is_response {
            self.counts.responses += 1;
        } else {
            self.counts.queries += 1;
        }
        visit(Event::Message(message));
    }

    /// Ends what is open at the end of a capture.
    pub(super) fn end(&mut self, visit: &mut impl FnMut(Event<'_>)) {
        self.release(visit);
        self.fragments.end(&mut self.counts);
        self.connections.end(self.last, &mut self.counts, visit);
    }
}

/// Returns how many bytes of a payload each datagram has. Where a sender has the kernel cut datagrams
/// of one size from one piece (UDP_SEGMENT), a capture on the same host has the piece.
fn datagram_bytes(payload: &[u8]) -> usize {
    let whole = payload.len().max(1);
    let Some(end) = records::end(payload).filter(|end| *end < payload.len()) else { return whole };
    let is_response = |message: &[u8]| message.get(2).map(|bits| bits & header::QR);
    let is_message =
        |part: &[u8]| records::end(part) == Some(part.len()) && is_response(part) == is_response(payload);
    // Anything else behind a message is its trailing data.
    if payload.chunks(end).all(is_message) { end } else { whole }
}
