//! Which queries of a capture are sent.

use crate::base::addr::mapped;
use crate::base::reasons::reasons;
use crate::config::replay::Filter;
use crate::wire::header::Header;
use crate::wire::name;
use crate::wire::query::Question;
use std::net::IpAddr;

/// Types of questions that are answered with many messages: IXFR and AXFR.
const TRANSFERS: [u16; 2] = [251, 252];

reasons! {
    /// Why a query of a capture is not sent.
    Left {
        /// It has no question that can be parsed, or several.
        Malformed = "malformed",
        /// It is an update, a notification or something else but a query, which could change the server.
        Opcode = "opcode",
        /// It asks for a zone transfer.
        Transfer = "transfer",
        /// It is not one of those asked for by --rd, --name, --type or --client.
        Filtered = "filtered",
        /// Its client's address is none of the servers' family, so that --spoof-sources cannot send from it.
        OtherFamily = "other-family",
        /// It, or its PROXY header, is too long for a datagram.
        TooLong = "too-long",
    }
}

/// Returns the question of a query that is to be sent.
///
/// # Errors
/// Why it is not.
pub(crate) fn wanted<'m>(filter: &Filter, client: IpAddr, message: &'m [u8]) -> Result<Question<'m>, Left> {
    let header = Header::parse(message).filter(|head| !head.is_response()).ok_or(Left::Malformed)?;
    if message[2] >> 3 & 0x0f != 0 {
        return Err(Left::Opcode);
    }
    let question = Question::parse(message).filter(|_| header.qdcount() == 1).ok_or(Left::Malformed)?;
    if TRANSFERS.contains(&question.qtype) {
        return Err(Left::Transfer);
    }
    let is_wanted = filter.rd.is_none_or(|rd| rd == header.recursion_desired())
        && (filter.types.is_empty() || filter.types.contains(&question.qtype))
        && (filter.names.is_empty() || filter.names.iter().any(|zone| is_below(question.qname, zone)))
        && is_client(filter, client);
    if is_wanted { Ok(question) } else { Err(Left::Filtered) }
}

/// Returns whether what a client sends may be wanted.
pub(crate) fn is_client(filter: &Filter, client: IpAddr) -> bool {
    filter.clients.as_ref().is_none_or(|clients| clients.contains(&mapped(client)))
}

/// Returns whether a name is this zone or below it.
fn is_below(qname: &[u8], zone: &[u8]) -> bool {
    let labels = name::label_count(zone);
    // A name has at most 127 labels.
    name::zone(qname, labels as u8).eq_ignore_ascii_case(zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x01A\x07example\0\0\x01\0\x01";
    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn filters_choose_queries() {
        let names = |name: &[u8]| Filter { names: vec![name.to_vec()], ..Filter::default() };
        let clients = |net: &str| Filter {
            clients: Some([net.parse::<crate::base::prefix::Prefix>().expect(net)].into_iter().collect()),
            ..Filter::default()
        };
        for (filter, want) in [
            (Filter::default(), true),
            (Filter { rd: Some(true), ..Filter::default() }, true),
            (Filter { rd: Some(false), ..Filter::default() }, false),
            (Filter { types: vec![28, 1], ..Filter::default() }, true),
            (Filter { types: vec![28], ..Filter::default() }, false),
            (names(b"\x07example\0"), true),
            (names(b"\x01a\x07example\0"), true),
            (names(b"\x01b\x01a\x07example\0"), false),
            (names(b"\x06xample\0"), false),
            (names(b"\0"), true),
            (clients("192.0.2.0/24"), true),
            (clients("192.0.3.0/24"), false),
        ] {
            assert_eq!(wanted(&filter, CLIENT, QUERY).is_ok(), want, "{filter:?}");
        }
    }

    #[test]
    fn what_is_no_query_is_left_out() {
        let left = |at: usize, byte: u8| {
            let mut message = QUERY.to_vec();
            message[at] = byte;
            wanted(&Filter::default(), CLIENT, &message).expect_err("left out")
        };
        assert_eq!(left(2, 0x81), Left::Malformed, "an answer");
        assert_eq!(left(2, 0x28), Left::Opcode, "an update");
        assert_eq!(left(5, 2), Left::Malformed, "two questions");
        assert_eq!(left(12, 0xc0), Left::Malformed, "a pointer");
        assert_eq!(left(QUERY.len() - 3, 252), Left::Transfer);
        assert_eq!(wanted(&Filter::default(), CLIENT, &QUERY[..20]), Err(Left::Malformed));
    }
}
