//! Answers that are a function of the query, so that a client can check them without a zone.
//!
//! ```text
//!  question ─► hash ─► number of records, TTL
//!                 └──► record n: A 198.18.0.0/15, AAAA 2001:2::/48, TXT 16 hexadecimal digits
//! ```
//! The networks are those of benchmarks (RFC 2544, RFC 5180). Case does not matter, nor does anything
//! behind the question, except that an OPT record and a cookie in it are answered with theirs. What is
//! no good query gets the error that a name server gives, so that clients can be tried with it.

use std::ops::RangeInclusive;

use xxhash_rust::xxh3::xxh3_64;

use crate::base::packet::Packet;
use crate::wire::edns;
use crate::wire::header::{self, Header};
use crate::wire::name;
use crate::wire::query::Question;
use crate::wire::records::rtype;

use crate::wire::cookie::BOTH as COOKIES;
pub(crate) use crate::wire::cookie::CODE as COOKIE;

/// Bytes of a client's cookie.
pub(crate) const CLIENT_COOKIE: usize = 8;
/// The payload size of our OPT records, bytes (DNS flag day 2020).
const PAYLOAD: u16 = 1232;
/// The least that a client takes over UDP, bytes (RFC 1035, 4.2.1).
const PLAIN_MAX: usize = 512;
const TYPE_A: u16 = 1;
const TYPE_TXT: u16 = 16;
const TYPE_AAAA: u16 = 28;
/// Transfers, of changes and whole.
const TYPE_IXFR: u16 = 251;
const TYPE_AXFR: u16 = 252;
const FORMERR: u16 = 1;
const NOTIMP: u16 = 4;
const BADVERS: u16 = 16;

/// Bytes of an OPT record before its options.
const OPT_FIXED: usize = 11;

/// What answers have.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Seconds.
    pub(crate) ttl: RangeInclusive<u32>,
    pub(crate) records: RangeInclusive<u32>,
}

/// What an answer is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The response code; any but 0 has no records.
    pub(crate) code: u8,
    /// TC, without records.
    pub(crate) truncate: bool,
    /// Whether it has to fit a datagram of the client's.
    pub(crate) datagram: bool,
}

/// What an answer has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) code: u16,
    pub(crate) truncated: bool,
}

/// Makes the answer out of the query, in place. `None`, and nothing is changed, if it is no query.
pub(crate) fn make(packet: &mut Packet<'_>, shape: &Shape, wanted: Wanted) -> Option<Made> {
    let message = packet.bytes();
    let header = Header::parse(message)?;
    if header.is_response() {
        return None;
    }
    let [b2, b3] = [message[2], message[3]];
    let is_query = b2 >> 3 & 0x0f == 0;
    let question = if header.qdcount() == 1 { Question::parse(message) } else { None };
    let Some(question) = question else {
        let code = if is_query { FORMERR } else { NOTIMP };
        packet.truncate(header::LEN);
        let bytes = packet.bytes_mut();
        (bytes[2], bytes[3]) = (0x80 | b2 & 0x79, 0x80 | b3 & 0x10 | code as u8);
        bytes[4..].fill(0);
        return Some(Made { code, truncated: false });
    };
    let (end, qtype, qclass, hash) = (question.end, question.qtype, question.qclass, hash(&question));
    let extension = extension(message, end);
    let (opt, cookie) = extension.unwrap_or_default();
    let limit = opt.map_or(PLAIN_MAX, |opt| usize::from(opt.payload).max(PLAIN_MAX));
    let code = if !is_query || matches!(qtype, TYPE_IXFR | TYPE_AXFR) {
        NOTIMP
    } else if extension.is_none() {
        FORMERR
    } else if opt.is_some_and(|opt| opt.version != 0) {
        BADVERS
    } else {
        wanted.code.into()
    };

    packet.truncate(end);
    let mut records = 0;
    // There are records of class IN only.
    if code == 0 && !wanted.truncate && qclass == 1 {
        for number in 0..from_range(&shape.records, hash) {
            if !append(packet, qtype, hash, number, from_range(&shape.ttl, hash)) {
                break;
            }
            records += 1;
        }
    }
    let own = opt.map(|opt| our_opt(opt.dnssec_ok, code, cookie));
    let mut truncated = wanted.truncate;
    let whole = packet.len() + own.as_ref().map_or(0, Vec::len);
    if wanted.datagram && whole > limit {
        packet.truncate(end);
        (records, truncated) = (0, true);
    }
    let has_opt = own.is_some_and(|own| packet.append(&own));
    let bytes = packet.bytes_mut();
    // QR, opcode, TC, RD; RA, CD, the code.
    bytes[2] = 0x80 | b2 & 0x79 | u8::from(truncated) << 1;
    bytes[3] = 0x80 | b3 & 0x10 | (code & 0x0f) as u8;
    bytes[4..header::LEN].copy_from_slice(&[0, 1, 0, records, 0, 0, 0, u8::from(has_opt)]);
    Some(Made { code, truncated })
}

/// Returns a hash of a question, whatever its case.
pub(crate) fn hash(question: &Question<'_>) -> u64 {
    let mut lower = [0; name::LEN_MAX + 4];
    let length = question.qname.len();
    let Some(room) = lower.get_mut(..length + 4) else { return 0 };
    room[..length].copy_from_slice(question.qname);
    room[..length].make_ascii_lowercase();
    room[length..length + 2].copy_from_slice(&question.qtype.to_be_bytes());
    room[length + 2..].copy_from_slice(&question.qclass.to_be_bytes());
    xxh3_64(room)
}

/// Returns whether the records of an answer are those that its question has here: some of them, in
/// order, with any TTL.
pub(crate) fn is_ours(answer: &[u8]) -> bool {
    let (Some(header), Some(question)) = (Header::parse(answer), Question::parse(answer)) else {
        return false;
    };
    if header.is_truncated() || edns::rcode(answer) != 0 {
        return header.ancount() == 0;
    }
    let has_records = matches!(question.qtype, TYPE_A | TYPE_AAAA | TYPE_TXT) && question.qclass == 1;
    let (hash, mut at) = (hash(&question), question.end);
    for number in 0..u32::from(header.ancount()) {
        let Some(owner_end) = name::end(answer, at) else { return false };
        let Some(&[t0, t1, c0, c1, _, _, _, _, l0, l1]) =
            answer.get(owner_end..).and_then(|r| r.first_chunk())
        else {
            return false;
        };
        let begin = owner_end + 10;
        let end = begin + usize::from(u16::from_be_bytes([l0, l1]));
        let (data, length) = data(question.qtype, hash, number);
        let is_same = has_records
            && u16::from_be_bytes([t0, t1]) == question.qtype
            && u16::from_be_bytes([c0, c1]) == question.qclass
            && name::is_at(answer, at, question.qname)
            && answer.get(begin..end) == Some(&data[..length]);
        if !is_same {
            return false;
        }
        at = end;
    }
    header.ancount() > 0 || !has_records
}

/// Draws from a range by a hash.
fn from_range(range: &RangeInclusive<u32>, hash: u64) -> u32 {
    let span = u64::from(range.end() - range.start()) + 1;
    range.start() + (mix(hash, u32::MAX) % span) as u32
}

/// Appends a record; false when the type has none, or there is no room.
fn append(packet: &mut Packet<'_>, qtype: u16, hash: u64, number: u32, ttl: u32) -> bool {
    let (data, length) = data(qtype, hash, number);
    if length == 0 {
        return false;
    }
    let ([t0, t1], [s0, s1, s2, s3]) = (qtype.to_be_bytes(), ttl.to_be_bytes());
    // The name by a pointer to the question's (RFC 1035, 4.1.4), class IN.
    let fixed = [0xc0, header::LEN as u8, t0, t1, 0, 1, s0, s1, s2, s3, 0, length as u8];
    packet.tailroom() >= fixed.len() + length && packet.append(&fixed) && packet.append(&data[..length])
}

/// Returns the data of a record, and its length.
fn data(qtype: u16, hash: u64, number: u32) -> ([u8; 17], usize) {
    let bits = mix(hash, number).to_be_bytes();
    let mut data = [0; 17];
    match qtype {
        TYPE_A => {
            data[..4].copy_from_slice(&[198, 18 | bits[0] & 1, bits[1], bits[2]]);
            (data, 4)
        }
        TYPE_AAAA => {
            data[..4].copy_from_slice(&[0x20, 1, 0, 2]);
            data[8..16].copy_from_slice(&bits);
            (data, 16)
        }
        TYPE_TXT => {
            data[0] = 16;
            for (digits, byte) in data[1..].chunks_exact_mut(2).zip(bits) {
                for (digit, four) in digits.iter_mut().zip([byte >> 4, byte & 15]) {
                    *digit = if four < 10 { b'0' + four } else { b'a' + four - 10 };
                }
            }
            (data, 17)
        }
        _ => (data, 0),
    }
}

/// Makes other bits of a hash, by number (the finish of splitmix64).
fn mix(hash: u64, number: u32) -> u64 {
    let mut bits = hash.wrapping_add((u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// A query's OPT record, and its cookie.
type Extension = (Option<edns::Opt>, Option<[u8; CLIENT_COOKIE]>);

/// Returns what is behind the question; `None` if that is a format error: records or options that cannot
/// be parsed, a second OPT record (RFC 6891, 6.1.1), a cookie of a length that there is not (RFC 7873,
/// 5.2.2).
fn extension(message: &[u8], question_end: usize) -> Option<Extension> {
    let header = Header::parse(message)?;
    let records = u32::from(header.ancount()) + u32::from(header.nscount()) + u32::from(header.arcount());
    let (mut at, mut opts) = (question_end, 0);
    for _ in 0..records {
        let fixed = name::end(message, at)?;
        let &[t0, t1, _, _, _, _, _, _, l0, l1] = message.get(fixed..)?.first_chunk()?;
        at = fixed + 10 + usize::from(u16::from_be_bytes([l0, l1]));
        opts += u32::from(u16::from_be_bytes([t0, t1]) == rtype::OPT);
    }
    if at > message.len() || opts > 1 {
        return None;
    }
    let opt = edns::find(message, question_end);
    if opts == 1 && opt.is_none() {
        // Not among the additional records, or not of the root.
        return None;
    }
    let Some(opt) = opt else { return Some((None, None)) };
    if opt.version != 0 {
        // Nobody knows what another version has there.
        return Some((Some(opt), None));
    }
    let (mut end, mut cookie) = (opt.start + OPT_FIXED, None);
    for (code, data) in edns::options(message, &opt) {
        end = data.end;
        if code == COOKIE && cookie.is_none() {
            let data = message.get(data)?;
            if data.len() != CLIENT_COOKIE && !COOKIES.contains(&data.len()) {
                return None;
            }
            cookie = data.first_chunk().copied();
        }
    }
    (end == opt.end).then_some((Some(opt), cookie))
}

fn our_opt(dnssec_ok: bool, code: u16, cookie: Option<[u8; CLIENT_COOKIE]>) -> Vec<u8> {
    let mut opt = edns::bare(PAYLOAD, dnssec_ok).to_vec();
    // The eight bits of the code above those of the header.
    opt[5] = (code >> 4) as u8;
    if let Some(client) = cookie {
        let server = mix(u64::from_be_bytes(client), 0).to_be_bytes();
        opt[10] = 4 + 16;
        opt.extend([0, COOKIE as u8, 0, 16]);
        opt.extend(client);
        opt.extend(server);
    }
    opt
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03WwW\x07example\0\0\x01\0\x01";
    const SHAPE: Shape = Shape { ttl: 30..=300, records: 1..=4 };

    fn made(query: &[u8], wanted: Wanted) -> (Option<Made>, Vec<u8>) {
        made_with(query, wanted, &SHAPE)
    }

    fn made_with(query: &[u8], wanted: Wanted, shape: &Shape) -> (Option<Made>, Vec<u8>) {
        let mut buffer = query.to_vec();
        buffer.resize(4_096, 0);
        let mut packet = Packet::new(&mut buffer, 0, query.len());
        let made = make(&mut packet, shape, wanted);
        (made, packet.bytes().to_vec())
    }

    fn with_type(qtype: u16) -> Vec<u8> {
        let mut query = QUERY.to_vec();
        let at = query.len() - 4;
        query[at..at + 2].copy_from_slice(&qtype.to_be_bytes());
        query
    }

    #[test]
    fn answers_are_those_of_their_question() {
        for qtype in [1, 16, 28, 15] {
            let (made, answer) = made(&with_type(qtype), Wanted::default());
            assert_eq!(made, Some(Made { code: 0, truncated: false }));
            assert_eq!(&answer[..4], b"\x12\x34\x81\x80");
            assert!(is_ours(&answer), "{qtype}");
            let records = answer[7];
            assert_eq!(records > 0, qtype != 15, "{qtype}");
            for at in QUERY.len() + 12..answer.len() {
                let mut other = answer.clone();
                other[at] ^= 1;
                // Only the TTLs are free.
                let _ = is_ours(&other);
            }
        }
        let (_, answer) = made(QUERY, Wanted::default());
        let mut other = answer.clone();
        *other.last_mut().expect("data") ^= 1;
        assert!(!is_ours(&other), "other data");
        other = answer[..answer.len() - 1].to_vec();
        assert!(!is_ours(&other), "cut");
        other.clone_from(&answer);
        other[13] = b'x';
        assert!(!is_ours(&other), "another name");
        other = answer;
        other[QUERY.len() + 5] = 3;
        assert!(!is_ours(&other), "another class");
    }

    #[test]
    fn there_are_records_of_one_class() {
        let mut chaos = QUERY.to_vec();
        *chaos.last_mut().expect("a class") = 3;
        let (m, answer) = made(&chaos, Wanted::default());
        assert_eq!((m.map(|m| m.code), &answer[QUERY.len() - 1..]), (Some(0), &[3][..]));
        assert!(is_ours(&answer));
        let (_, mut other) = made(QUERY, Wanted::default());
        other[QUERY.len() - 1] = 3;
        assert!(!is_ours(&other), "records of class IN");
    }

    /// Returns a query with these OPT records.
    fn with_opt(records: &[&[u8]]) -> Vec<u8> {
        let mut query = QUERY.to_vec();
        query[11] = records.len() as u8;
        query.extend(records.concat());
        query
    }

    #[test]
    fn bad_queries_get_their_error() {
        let opt = |version: u8, options: &[u8]| {
            let mut opt = edns::bare(1232, false).to_vec();
            (opt[6], opt[10]) = (version, options.len() as u8);
            opt.extend(options);
            opt
        };
        let cookie = |length: u8| [&[0, 10, 0, length][..], &vec![7; length.into()]].concat();
        let mut lie = opt(0, b"");
        lie[10] = 9;
        let mut half = opt(0, &[0, 3]);
        half[10] = 2;
        let mut owner = opt(0, b"");
        owner.splice(0..1, [1, b'a', 0]);
        let is = |query: &[u8]| made(query, Wanted::default()).0.map(|m| m.code);
        for (what, records, want) in [
            ("no option", &[&opt(0, b"")[..]][..], 0),
            ("version 1", &[&opt(1, b"")], 16),
            ("version 1 with anything", &[&opt(1, &[1, 2, 3])], 16),
            ("two", &[&opt(0, b""), &opt(0, b"")], 1),
            ("a length that is a lie", &[&lie], 1),
            ("half an option", &[&half], 1),
            ("another owner", &[&owner], 1),
            ("a client's cookie", &[&opt(0, &cookie(8))], 0),
            ("both cookies", &[&opt(0, &cookie(16))], 0),
            ("the longest", &[&opt(0, &cookie(40))], 0),
            ("a short cookie", &[&opt(0, &cookie(7))], 1),
            ("half a server's cookie", &[&opt(0, &cookie(12))], 1),
            ("a long cookie", &[&opt(0, &cookie(41))], 1),
        ] {
            assert_eq!(is(&with_opt(records)), Some(want), "{what}");
        }
        let (_, answer) = made(&with_opt(&[&opt(1, b"")]), Wanted::default());
        assert_eq!((edns::rcode(&answer), answer[7]), (16, 0), "BADVERS, and no records");
        for (count, want) in [(0, 1), (2, 1)] {
            let mut query = QUERY.to_vec();
            query[5] = count;
            let (m, answer) = made(&query, Wanted::default());
            assert_eq!((m.map(|m| m.code), answer.len()), (Some(want), header::LEN), "{count} questions");
            assert_eq!(answer[..6], [0x12, 0x34, 0x81, 0x81, 0, 0]);
        }
        let (m, answer) = made(&QUERY[..20], Wanted::default());
        assert_eq!((m.map(|m| m.code), answer.len()), (Some(1), header::LEN), "half a question");
        assert_eq!([is(&with_type(252)), is(&with_type(251))], [Some(4); 2], "no transfers");
    }

    #[test]
    fn case_does_not_matter() {
        let mut lower = QUERY.to_vec();
        lower[13..16].make_ascii_lowercase();
        let [(_, a), (_, b)] = [made(QUERY, Wanted::default()), made(&lower, Wanted::default())];
        assert_eq!(a[QUERY.len()..], b[QUERY.len()..]);
    }

    #[test]
    fn codes_and_truncation_leave_the_records_out() {
        let (m, answer) = made(QUERY, Wanted { code: 3, ..Wanted::default() });
        assert_eq!((m.map(|m| m.code), &answer[2..8]), (Some(3), &b"\x81\x83\0\x01\0\0"[..]));
        let (m, answer) = made(QUERY, Wanted { truncate: true, ..Wanted::default() });
        assert_eq!((m.map(|m| m.truncated), answer[2], answer.len()), (Some(true), 0x83, QUERY.len()));
        assert!(is_ours(&answer));
        let mut notify = QUERY.to_vec();
        notify[2] = 4 << 3;
        assert_eq!(made(&notify, Wanted::default()).0.map(|m| m.code), Some(4));
    }

    #[test]
    fn an_answer_fits_what_the_client_takes() {
        let shape = Shape { ttl: 1..=1, records: 32..=32 };
        let wanted = Wanted { datagram: true, ..Wanted::default() };
        let (m, answer) = made_with(&with_type(28), wanted, &shape);
        assert_eq!((m.map(|m| m.truncated), answer.len()), (Some(true), QUERY.len()));
        let mut large = with_type(28);
        large[11] = 1;
        large.extend(edns::bare(1232, true));
        let (m, answer) = made_with(&large, wanted, &shape);
        assert_eq!((m.map(|m| m.truncated), answer[7], answer[11]), (Some(false), 32, 1));
        assert!(answer.len() <= 1232 && is_ours(&answer));
    }

    #[test]
    fn a_cookie_comes_back() {
        let mut query = QUERY.to_vec();
        query[11] = 1;
        query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8]);
        query.extend(*b"cookie!!");
        let (_, answer) = made(&query, Wanted::default());
        let end = Question::parse(&answer).expect("a question").end;
        let opt = edns::find(&answer, end).expect("an OPT record");
        let (code, at) = edns::options(&answer, &opt).next().expect("an option");
        assert_eq!((code, at.len(), &answer[at][..8]), (COOKIE, 16, &b"cookie!!"[..]));
    }

    #[test]
    fn what_is_no_query_gets_no_answer() {
        let mut answer = QUERY.to_vec();
        answer[2] |= 0x80;
        for message in [&answer[..], &QUERY[..11], b""] {
            assert_eq!(made(message, Wanted::default()).0, None);
        }
    }
}
