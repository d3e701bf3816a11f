//! Edits of a message where it stands.

use super::edns;
use super::header::{self, Header};
use super::query::Question;
use crate::packet::Packet;

/// Writes the message id.
pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(octets) = message.first_chunk_mut() {
        *octets = id.to_be_bytes();
    }
}

/// EDNS in answers of our own.
#[derive(Clone, Copy, Debug)]
pub struct AnswerEdns {
    /// Put an OPT into the answer when the query had one.
    pub wanted: bool,
    /// UDP payload size in it, octets.
    pub payload: u16,
}

/// Turns a query into an answer without records: QR=1, the response code, the client's own
/// opcode, RD and CD, all other flags 0 (RFC 1035, 4.1.1), its question, and an OPT with the
/// client's DO if it had one (RFC 6891, 6.1.1; RFC 3225, 3). False, and the packet unusable, when it has
/// no whole header.
#[must_use]
pub fn answer_empty(packet: &mut Packet<'_>, code: u8, own: AnswerEdns) -> bool {
    let message = packet.bytes();
    let Some(head) = Header::parse(message) else { return false };
    let question_end = if head.qdcount() == 0 { None } else { Question::parse(message).map(|q| q.end) };
    let end = question_end.unwrap_or(header::LEN);
    let opt = if own.wanted { edns::find(message, end) } else { None };
    packet.truncate(end);
    let with_opt = match opt {
        Some(o) => packet.append(&edns::bare(own.payload, o.dnssec_ok)),
        None => false,
    };
    let message = packet.bytes_mut();
    message[2] = header::QR | (message[2] & (0x78 | header::RD));
    message[3] = (message[3] & header::CD) | (code & 0x0f);
    message[4..header::LEN].copy_from_slice(&[
        0,
        u8::from(question_end.is_some()),
        0,
        0,
        0,
        0,
        0,
        u8::from(with_opt),
    ]);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::header::rcode;
    use proptest::prelude::*;

    const OWN: AnswerEdns = AnswerEdns { wanted: true, payload: 1232 };

    fn answered(query: &[u8], code: u8, own: AnswerEdns) -> Vec<u8> {
        let mut buf = query.to_vec();
        buf.resize(query.len() + 32, 0);
        let mut packet = Packet::new(&mut buf, 0, query.len());
        assert!(answer_empty(&mut packet, code, own));
        packet.bytes().to_vec()
    }

    #[test]
    fn an_answer_keeps_id_question_rd_and_cd() {
        let query = b"\xab\xcd\x01\x30\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
        let answer = answered(query, rcode::SERVFAIL, OWN);
        assert_eq!(answer, b"\xab\xcd\x81\x12\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01");
    }

    #[test]
    fn an_answer_has_edns_if_the_query_had() {
        let mut query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\x01\x01a\0\0\x01\0\x01".to_vec();
        query.extend(edns::bare(4096, true));
        let mut expected = b"\0\x01\x81\x05\0\x01\0\0\0\0\0\x01\x01a\0\0\x01\0\x01".to_vec();
        expected.extend(edns::bare(1232, true));
        assert_eq!(answered(&query, rcode::REFUSED, OWN), expected);
        let without = answered(&query, rcode::REFUSED, AnswerEdns { wanted: false, ..OWN });
        assert_eq!(without[11], 0);
    }

    #[test]
    fn a_query_without_question_is_answered_with_its_header() {
        let answer = answered(&[0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], rcode::NOTIMP, OWN);
        assert_eq!(answer, [0, 7, 0x80, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn any_octets_are_survived(query in prop::collection::vec(any::<u8>(), 12..300)) {
            let answer = answered(&query, rcode::SERVFAIL, OWN);
            prop_assert!(answer.len() >= header::LEN && answer[2] & header::QR != 0);
        }
    }
}
