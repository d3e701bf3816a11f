//! Captures for tests, made byte by byte.

use std::net::{IpAddr, SocketAddr};

use crate::tools::capture::{Capture, CaptureError, CaptureOptions, Connection, Counts, End, Event, Step};

/// A client and a server.
pub(crate) const CLIENT: &str = "192.0.2.7:40000";
pub(crate) const SERVER: &str = "198.51.100.1:53";
pub(crate) const CLIENT6: &str = "[2001:db8::7]:40000";
pub(crate) const SERVER6: &str = "[2001:db8:1::1]:53";

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A DNS message about `www.example` or another first label.
pub(crate) fn dns(id: u16, is_response: bool, label: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend(if is_response { [0x81, 0x80] } else { [1, 0] });
    message.extend([0, 1, 0, 0, 0, 0, 0, 0, label.len() as u8]);
    message.extend(label.as_bytes());
    message.extend(b"\x07example\0\0\x01\0\x01");
    message
}

/// A message with its length in front.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// An IP packet; of a fragment the identity, the offset in bytes, and whether more follow.
pub(crate) fn ip(
    from: SocketAddr,
    to: SocketAddr,
    protocol: u8,
    payload: &[u8],
    fragment: Option<(u16, u16, bool)>,
) -> Vec<u8> {
    let mut packet;
    if from.is_ipv4() {
        packet = vec![0x45, 0];
        packet.extend((20 + payload.len() as u16).to_be_bytes());
        let (id, offset, more) = fragment.unwrap_or_default();
        packet.extend(id.to_be_bytes());
        packet.extend(((offset / 8) | if more { 0x2000 } else { 0 }).to_be_bytes());
        packet.extend([64, protocol, 0, 0]);
    } else {
        let extra = if fragment.is_some() { 8 } else { 0 };
        packet = vec![0x60, 0, 0, 0];
        packet.extend((extra + payload.len() as u16).to_be_bytes());
        packet.extend([if fragment.is_some() { 44 } else { protocol }, 64]);
    }
    packet.extend(octets(from.ip()));
    packet.extend(octets(to.ip()));
    if let (true, Some((id, offset, more))) = (from.is_ipv6(), fragment) {
        packet.extend([protocol, 0]);
        packet.extend((offset | u16::from(more)).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(id.to_be_bytes());
    }
    packet.extend(payload);
    packet
}

/// A UDP header and its payload.
pub(crate) fn udp_payload(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut datagram = from.port().to_be_bytes().to_vec();
    datagram.extend(to.port().to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// An IP packet with a UDP datagram.
pub(crate) fn udp(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let (from, to) = (address(from), address(to));
    ip(from, to, 17, &udp_payload(from, to, payload), None)
}

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// An IP packet with a TCP segment.
pub(crate) fn tcp(from: &str, to: &str, flags: u8, numbers: (u32, u32), payload: &[u8]) -> Vec<u8> {
    let (from, to) = (address(from), address(to));
    let mut segment = from.port().to_be_bytes().to_vec();
    segment.extend(to.port().to_be_bytes());
    segment.extend(numbers.0.to_be_bytes());
    segment.extend(numbers.1.to_be_bytes());
    // With an option, as most have.
    segment.extend([6 << 4, flags, 0xff, 0xff, 0, 0, 0, 0, 1, 1, 1, 1]);
    segment.extend(payload);
    ip(from, to, 6, &segment, None)
}

/// A frame of Ethernet, with tags.
pub(crate) fn ethernet(tags: &[u16], packet: &[u8]) -> Vec<u8> {
    let mut frame = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02".to_vec();
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 42]);
    }
    frame.extend(if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] });
    frame.extend(packet);
    // The padding of short frames.
    frame.resize(frame.len().max(60), 0);
    frame
}

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Little,
    Big,
}

impl Order {
    pub(crate) fn u16(self, n: u16) -> [u8; 2] {
        if self == Self::Little { n.to_le_bytes() } else { n.to_be_bytes() }
    }
    pub(crate) fn u32(self, n: u32) -> [u8; 4] {
        if self == Self::Little { n.to_le_bytes() } else { n.to_be_bytes() }
    }
}

/// A file of pcap with packets and their times in nanoseconds.
pub(crate) fn pcap(order: Order, is_nano: bool, link: u16, packets: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut file = order.u32(if is_nano { 0xa1b2_3c4d } else { 0xa1b2_c3d4 }).to_vec();
    file.extend([order.u16(2), order.u16(4)].concat());
    file.extend([0; 8]);
    file.extend(order.u32(262_144));
    file.extend(order.u32(link.into()));
    for (at, packet) in packets {
        file.extend(order.u32((at / 1_000_000_000) as u32));
        let part = at % 1_000_000_000 / if is_nano { 1 } else { 1_000 };
        file.extend(order.u32(part as u32));
        file.extend(order.u32(packet.len() as u32));
        file.extend(order.u32(packet.len() as u32));
        file.extend(packet);
    }
    file
}

/// A capture of Ethernet frames with IP packets.
pub(crate) fn frames(packets: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let frames: Vec<_> = packets.iter().map(|(at, packet)| (*at, ethernet(&[], packet))).collect();
    pcap(Order::Little, true, 1, &frames)
}

/// A block of pcapng.
pub(crate) fn block(order: Order, kind: u32, content: &[u8]) -> Vec<u8> {
    let padded = content.len().next_multiple_of(4);
    let length = order.u32(12 + padded as u32);
    let mut block = [&order.u32(kind)[..], &length, content].concat();
    block.resize(8 + padded, 0);
    block.extend(length);
    block
}

/// What a capture says.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Time, client, server, whether it is a response, payload.
    pub(crate) messages: Vec<(u64, SocketAddr, SocketAddr, bool, Vec<u8>)>,
    pub(crate) opened: Vec<Connection>,
    pub(crate) closed: Vec<(Connection, End)>,
    pub(crate) errors: Vec<CaptureError>,
    pub(crate) counts: Counts,
}

impl Read {
    pub(crate) fn payloads(&self) -> Vec<Vec<u8>> {
        self.messages.iter().map(|message| message.4.clone()).collect()
    }
}

/// Reads a capture to its end.
pub(crate) fn read(file: Vec<u8>) -> Read {
    read_with(file, &CaptureOptions::default())
}

pub(crate) fn read_with(file: Vec<u8>, options: &CaptureOptions) -> Read {
    drain(Capture::from_bytes(file, options))
}

pub(crate) fn drain(mut capture: Capture) -> Read {
    let mut read = Read::default();
    loop {
        let step = capture.step(&mut |event| match event {
            Event::Message(m) => {
                read.messages.push((m.at, m.client, m.server, m.is_response, m.payload.to_vec()));
            }
            Event::Opened(connection) => read.opened.push(connection),
            Event::Closed(connection, end) => read.closed.push((connection, end)),
        });
        match step {
            Ok(Step::End) => break,
            Ok(Step::More | Step::Idle) => {}
            Err(error) => read.errors.push(error),
        }
    }
    read.counts = capture.counts().clone();
    read
}
