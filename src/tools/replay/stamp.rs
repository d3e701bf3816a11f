//! What of a query is that of its client and its server: the client's address, for servers that see the
//! tool's (client subnet, PROXY), and cookies.

use std::net::{IpAddr, SocketAddr};

use crate::base::packet::Packet;
use crate::wire::ecs::{self, Ecs};
use crate::wire::proxy::{Transport, write_v2};
use crate::wire::{cookie, signature};

/// Bytes that a client subnet option and an OPT record for it take at most.
const ROOM: usize = 48;
/// The payload size of an OPT record that is only there for the option (DNS flag day 2020), bytes.
const PAYLOAD: u16 = 1232;

/// Puts the client's network into a query, in place of one that it may have; false, and nothing is
/// changed, if that is not possible, or would break a signature (RFC 8945, 5.5).
pub(crate) fn subnet(message: &mut Vec<u8>, client: IpAddr, bits: (u8, u8)) -> bool {
    if signature::is_signed(message) {
        return false;
    }
    let length = message.len();
    message.resize(length + ROOM, 0);
    let mut packet = Packet::new(message, 0, length);
    let done = ecs::set(&mut packet, client, bits.0, bits.1, true, PAYLOAD);
    let length = packet.len();
    message.truncate(length);
    !matches!(done, Ecs::Failed)
}

/// Takes the cookie of the server that was asked out of a query for another.
pub(crate) fn without_cookie(message: &mut Vec<u8>) {
    let length = message.len();
    let mut packet = Packet::new(message, 0, length);
    cookie::remove_of_server(&mut packet);
    let length = packet.len();
    message.truncate(length);
}

/// Appends a PROXY header with the recorded addresses.
pub(crate) fn header(out: &mut Vec<u8>, by_stream: bool, client: SocketAddr, server: SocketAddr) {
    let transport = if by_stream { Transport::Stream } else { Transport::Datagram };
    // Without TLVs it always fits.
    let _ = write_v2(out, transport, client.into(), server.into(), std::iter::empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proxy::{Parsed, parse};

    const QUERY: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01";

    #[test]
    fn a_subnet_is_added_and_replaced() {
        let mut message = QUERY.to_vec();
        assert!(subnet(&mut message, [192, 0, 2, 77].into(), (32, 128)));
        assert!(subnet(&mut message, [192, 0, 2, 77].into(), (24, 56)));
        let subnet = ecs::parse(&message).expect("an option");
        assert_eq!((subnet.source, &message[subnet.address.clone()]), (24, &[192, 0, 2][..]));
        assert_eq!(subnet.address.end, message.len());
    }

    #[test]
    fn a_query_that_cannot_be_stamped_stays() {
        let mut message = b"\0\0\x01\0\0\x01\0\0\0\0\0\x01\x01a\0\0\x01\0\x01cut".to_vec();
        let before = message.clone();
        assert!(!subnet(&mut message, [192, 0, 2, 77].into(), (24, 56)));
        assert_eq!(message, before);
    }

    #[test]
    fn a_signed_query_stays() {
        let mut message = QUERY.to_vec();
        message[11] = 1;
        // A TSIG record without anything in it.
        message.extend(b"\x01k\0\0\xfa\0\xff\0\0\0\0\0\0");
        let before = message.clone();
        assert!(!subnet(&mut message, [192, 0, 2, 77].into(), (24, 56)));
        assert_eq!(message, before);
    }

    #[test]
    fn a_header_has_the_recorded_addresses() {
        let mut out = Vec::new();
        let [client, server] = ["192.0.2.1:4711", "198.51.100.1:53"].map(|a| a.parse().expect("an address"));
        header(&mut out, false, client, server);
        let Parsed::Header { header, len: length } = parse(&out, 512) else { panic!("a header") };
        assert_eq!((header.source, header.destination), (Some(client.into()), Some(server.into())));
        assert_eq!((header.transport, length), (Transport::Datagram, out.len()));
    }
}
