//! The cookie option (RFC 7873).
//!
//! ```text
//!  client's cookie: 8 bytes | server's cookie: 8 to 32 bytes, of a server that has answered this client
//! ```

use std::ops::RangeInclusive;

use crate::base::packet::Packet;
use crate::wire::{edns, signature};

/// The option's code.
pub const CODE: u16 = 10;
/// Bytes of an option with the server's part (RFC 7873, 4).
pub const BOTH: RangeInclusive<usize> = 16..=40;

/// Removes a cookie that a server has made: it belongs to one client and one server, and another server
/// that enforces cookies refuses it with BADCOOKIE. The client's half goes with it, since such a server
/// refuses that alone, too; a query without the option it answers (RFC 7873, 5.2.1). A client's cookie
/// that no server has completed stays, as does what is malformed or signed. Returns whether there was one.
pub fn remove_of_server(packet: &mut Packet<'_>) -> bool {
    let Some(opt) = edns::locate(packet.bytes()) else { return false };
    let is_of_server =
        edns::options(packet.bytes(), &opt).any(|(code, data)| code == CODE && BOTH.contains(&data.len()));
    is_of_server && !signature::is_signed(packet.bytes()) && edns::remove_option(packet, CODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query with a cookie of this length and an option behind it, and records behind OPT.
    fn query(cookie: usize, further: &[u8]) -> Vec<u8> {
        let mut query = b"\0\0\x01\0\0\x01\0\0\0\0\0\x01\x01a\0\0\x01\0\x01".to_vec();
        query[11] += u8::from(!further.is_empty());
        query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, cookie as u8 + 10, 0, 10, 0, cookie as u8]);
        query.extend(vec![7; cookie]);
        query.extend([0, 15, 0, 2, 0, 0]);
        query.extend(further);
        query
    }

    fn removed(mut message: Vec<u8>) -> (bool, Vec<u8>) {
        let length = message.len();
        message.resize(length + 64, 0);
        let mut packet = Packet::new(&mut message, 0, length);
        let done = remove_of_server(&mut packet);
        (done, packet.bytes().to_vec())
    }

    #[test]
    fn a_cookie_of_a_server_goes_and_nothing_else() {
        let mut without = query(0, &[]);
        without[29] -= 4;
        without.drain(30..34);
        for cookie in [16, 24, 40] {
            assert_eq!(removed(query(cookie, &[])), (true, without.clone()), "{cookie}");
        }
        // A client's alone, and lengths that there are not: the server is to say what it thinks of them.
        for cookie in [0, 7, 8, 9, 15, 41] {
            assert_eq!(removed(query(cookie, &[])), (false, query(cookie, &[])), "{cookie}");
        }
    }

    #[test]
    fn a_signed_query_stays() {
        let signed = query(24, b"\x01k\0\0\xfa\0\xff\0\0\0\0\0\0");
        assert_eq!(removed(signed.clone()), (false, signed));
        assert!(!removed(b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01".to_vec()).0);
    }
}
