//! What is stored of a response, and for how long.
//!
//! ```text
//!  | what follows the question | offset of each TTL (u16) | their number (u16) | header 2..12 |
//! ```
//!
//! The question is not stored: the answer gets the client's own, of the same length, so that the
//! compression pointers behind it hold.

use std::net::IpAddr;

use crate::base::narrow::{to_u16, to_u32};
use crate::base::packet::Packet;
use crate::base::rng::ShardRng;
use crate::cache::CacheOptions;
use crate::cache::key::{Asked, COOKIE, question};
use crate::cache::table::Meta;
use crate::stats::not_cached::NotCached;
use crate::wire::edns::options;
use crate::wire::header::{Header, LEN, rcode};
use crate::wire::query::Question;
use crate::wire::records::{Records, Section, rtype};
use crate::wire::{edns, name, signature};

/// Bytes of a stored header: all but the id.
const HEADER: usize = LEN - 2;
/// Bytes of the number of TTLs, and of each offset.
const OFFSET: usize = 2;
/// The longest TTL (RFC 2181, section 8).
const TTL_MAX: u32 = i32::MAX as u32;

/// Response codes that no lifetime follows from: FORMERR, and the extended ones from BADVERS on.
const FORMERR: u16 = rcode::FORMERR as u16;
const BADVERS: u16 = 16;

/// What becomes of the TTLs of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// They are as they were stored.
    Unchanged,
    /// They are lower by so many seconds.
    Aged(u32),
    /// All are these seconds.
    Fixed(u32),
}

impl Ttl {
    fn of(self, stored: u32) -> u32 {
        match self {
            Self::Unchanged => stored,
            Self::Aged(by) => stored.saturating_sub(by),
            Self::Fixed(ttl) => ttl,
        }
    }
}

/// Returns for how many seconds a response is fresh, at least 1. `failure_ttl`: in place of the
/// cache's own.
///
/// # Errors
/// Why it is not to be stored.
pub fn lifetime(response: &[u8], cache: &CacheOptions, failure_ttl: Option<u32>) -> Result<u32, NotCached> {
    let header = Header::parse(response).ok_or(NotCached::Malformed)?;
    let question = Question::parse(response).filter(|_| header.qdcount() == 1).ok_or(NotCached::Malformed)?;
    let (mut lowest, mut end, mut has_soa, mut has_opt) = (None, question.end, false, false);
    let (mut records, mut owner) = (Records::of(response), [0; name::LEN_MAX]);
    for record in records.by_ref() {
        end = record.end;
        if record.rtype == rtype::OPT {
            // "The OPT RR MAY be placed anywhere within the additional data section", once, "NAME ... MUST be
            // 0" (RFC 6891, 6.1.1 and 6.1.2): whatever else is one may be somebody's.
            if has_opt || record.section != Section::Additional || record.ttl_at != record.start + 5 {
                return Err(NotCached::Malformed);
            }
            has_opt = true;
            continue;
        }
        name::read(response, record.start, &mut owner).ok_or(NotCached::Malformed)?;
        if signature::covers_message(response, &record) {
            return Err(NotCached::Signed);
        }
        if record.class != question.qclass {
            return Err(NotCached::Class);
        }
        if record.ttl > TTL_MAX {
            return Err(NotCached::TtlInvalid);
        }
        has_soa |= record.section == Section::Authority && record.rtype == rtype::SOA;
        lowest = Some(lowest.map_or(record.ttl, |lowest: u32| lowest.min(record.ttl)));
    }
    if !records.whole() || end != response.len() {
        return Err(NotCached::Malformed);
    }
    if header.arcount() > 0 {
        let opt = edns::find(response, question.end);
        if opt.is_some_and(|opt| !edns::is_whole(response, &opt)) {
            return Err(NotCached::Malformed);
        }
        let has_cookie = opt.is_some_and(|opt| options(response, &opt).any(|(code, _)| code == COOKIE));
        if has_cookie && !cache.keys_have_cookies() {
            return Err(NotCached::Cookie);
        }
    }
    if header.is_truncated() {
        return if cache.truncated_ttl > 0 { Ok(cache.truncated_ttl) } else { Err(NotCached::Truncated) };
    }
    if matches!(edns::rcode(response), FORMERR | BADVERS..) {
        // They are about more of a query than its key.
        return Err(NotCached::NoTtl);
    }
    if matches!(header.rcode(), rcode::SERVFAIL | rcode::REFUSED) {
        let ttl = failure_ttl.unwrap_or(cache.failure_ttl);
        return if ttl > 0 { Ok(ttl.min(cache.ttl_max)) } else { Err(NotCached::TtlTooShort) };
    }
    let mut ttl = lowest.ok_or(NotCached::NoTtl)?;
    if header.rcode() == rcode::NXDOMAIN || header.ancount() == 0 && has_soa {
        ttl = ttl.min(cache.negative_ttl_max);
    }
    ttl = ttl.min(cache.ttl_max);
    if ttl < cache.ttl_min.max(1) { Err(NotCached::TtlTooShort) } else { Ok(ttl) }
}

/// Returns whether a response is still of use when it has expired: it says something of its question.
#[must_use]
pub fn is_worth_keeping(response: &[u8]) -> bool {
    Header::parse(response)
        .is_some_and(|h| !h.is_truncated() && matches!(h.rcode(), rcode::NOERROR | rcode::NXDOMAIN))
}

/// The same of what is stored of one.
pub(in crate::cache) fn is_stored_worth_keeping(stored: &[u8]) -> bool {
    let Some(header) = stored.last_chunk::<HEADER>() else { return false };
    let mut whole = [0; LEN];
    whole[2..].copy_from_slice(header);
    is_worth_keeping(&whole)
}

/// Returns whether a response says that its server could not answer, and nothing else: without a
/// question, as servers send that have not read it.
#[must_use]
pub fn is_bare_failure(response: &[u8]) -> bool {
    let Some(header) = Header::parse(response) else { return false };
    let ends = if header.arcount() == 0 { Some(LEN) } else { edns::find(response, LEN).map(|opt| opt.end) };
    matches!(header.rcode(), rcode::SERVFAIL | rcode::REFUSED)
        && (header.qdcount(), header.ancount(), header.nscount()) == (0, 0, 0)
        && header.arcount() <= 1
        && ends == Some(response.len())
}

/// Writes what is stored of a response, whose records can all be read, to `out`. None when it has no
/// question and is no bare failure, or has more records than can be counted.
pub fn pack(response: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.clear();
    let is_bare = is_bare_failure(response);
    let question_end = if is_bare { LEN } else { Question::parse(response)?.end };
    out.extend_from_slice(&response[question_end..]);
    let mut count = 0_u16;
    for record in Records::of(response).filter(|record| record.rtype != rtype::OPT) {
        out.extend_from_slice(&u16::try_from(record.ttl_at - question_end).ok()?.to_be_bytes());
        count = count.checked_add(1)?;
    }
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(response.get(2..LEN)?);
    if is_bare && let Some(header) = out.last_chunk_mut::<HEADER>() {
        // It is given with the question of its client.
        header[3] = 1;
    }
    Some(())
}

/// The parts of what is stored of a response.
struct Parts<'v> {
    rest: &'v [u8],
    offsets: &'v [[u8; OFFSET]],
    header: &'v [u8; HEADER],
}

impl<'v> Parts<'v> {
    fn of(stored: &'v [u8]) -> Option<Self> {
        let (stored, header) = stored.split_last_chunk::<HEADER>()?;
        let (stored, count) = stored.split_last_chunk::<OFFSET>()?;
        let at = stored.len().checked_sub(OFFSET * usize::from(u16::from_be_bytes(*count)))?;
        let (rest, offsets) = stored.split_at_checked(at)?;
        Some(Self { rest, offsets: offsets.as_chunks().0, header })
    }
}

/// Puts a stored response behind the question of `packet`, which ends at `question_end`; its id and
/// question stay. False, and nothing changed, when there is no space.
#[must_use]
pub fn unpack(stored: &[u8], packet: &mut Packet<'_>, question_end: usize, ttl: Ttl) -> bool {
    let Some(parts) = Parts::of(stored) else { return false };
    if question_end > packet.len() || !packet.resume(question_end, parts.rest) {
        return false;
    }
    let message = packet.bytes_mut();
    message[2..LEN].copy_from_slice(parts.header);
    if ttl != Ttl::Unchanged {
        for offset in parts.offsets {
            let at = question_end + usize::from(u16::from_be_bytes(*offset));
            if let Some(bytes) = message.get_mut(at..at + 4).and_then(|bytes| bytes.first_chunk_mut::<4>()) {
                *bytes = ttl.of(u32::from_be_bytes(*bytes)).to_be_bytes();
            }
        }
    }
    true
}

/// Lowers the TTLs of a stored response.
pub(in crate::cache) fn age(stored: &mut [u8], by: u32) {
    let Some(Parts { offsets, .. }) = Parts::of(stored) else { return };
    let offsets = offsets.to_vec();
    for offset in offsets {
        let at = usize::from(u16::from_be_bytes(offset));
        if let Some(bytes) = stored.get_mut(at..at + 4).and_then(|bytes| bytes.first_chunk_mut::<4>()) {
            *bytes = Ttl::Aged(by).of(u32::from_be_bytes(*bytes)).to_be_bytes();
        }
    }
}

/// Returns the bytes of the response to a question of which this is stored; none if that is no
/// response with all its TTLs. `message` is overwritten.
pub(in crate::cache) fn length(asked: &Asked<'_>, stored: &[u8], message: &mut Vec<u8>) -> Option<usize> {
    let parts = Parts::of(stored)?;
    message.clear();
    write(message, asked, parts.header, parts.rest);
    let question_end = message.len() - parts.rest.len();
    let (mut records, mut end) = (Records::of(message), question_end);
    let mut offsets = parts.offsets.iter().map(|offset| usize::from(u16::from_be_bytes(*offset)));
    for record in records.by_ref() {
        end = record.end;
        let is_known = record.rtype == rtype::OPT
            || record.ttl <= TTL_MAX && offsets.next() == Some(record.ttl_at - question_end);
        is_known.then_some(())?;
    }
    let is_one = Header::parse(message)?.qdcount() == 1
        && Question::parse(message)?.end == question_end
        && records.whole()
        && end == message.len()
        && offsets.next().is_none();
    is_one.then_some(message.len())
}

/// Writes a response whose id is 0.
fn write(message: &mut Vec<u8>, asked: &Asked<'_>, header: &[u8; HEADER], rest: &[u8]) {
    message.extend_from_slice(&[0; 2]);
    message.extend_from_slice(header);
    message.extend_from_slice(asked.qname);
    message.extend_from_slice(&asked.qtype.to_be_bytes());
    message.extend_from_slice(&1_u16.to_be_bytes());
    message.extend_from_slice(rest);
}

/// Addresses that are exchanged, at most.
const SHUFFLED_MAX: usize = 64;

/// Exchanges the addresses of an answer at random, the first 64 of each family.
pub fn shuffle(message: &mut [u8], rng: &mut ShardRng) {
    for (wanted, length) in [(rtype::A, 4), (rtype::AAAA, 16)] {
        let (mut at, mut count) = ([0; SHUFFLED_MAX], 0);
        // Only the last name of a chain of aliases has addresses, so they are one set. Those of another
        // name stay with it.
        let mut first = None;
        let addresses = Records::of(message).filter(|record| {
            let owner = message.get(record.start..record.ttl_at - 4);
            record.section == Section::Answer
                && record.rtype == wanted
                && record.rdata.len() == length
                && *first.get_or_insert(owner) == owner
        });
        for (place, record) in at.iter_mut().zip(addresses) {
            *place = record.rdata.start;
            count += 1;
        }
        for upper in (1..count).rev() {
            let (one, other) = (at[rng.below(to_u32(upper + 1)) as usize], at[upper]);
            for byte in 0..length {
                message.swap(one + byte, other + byte);
            }
        }
    }
}

/// An entry as people see it.
#[derive(Debug)]
pub struct Seen<'e> {
    /// Its question.
    pub asked: Asked<'e>,
    /// The response code.
    pub rcode: u8,
    /// Seconds until it expires; below 0 since it has.
    pub remaining: i64,
    /// Seconds since it was stored.
    pub age: u32,
    /// Bytes of the response.
    pub size: u16,
    parts_rest: &'e [u8],
    counts: &'e [u8; HEADER],
}

impl<'e> Seen<'e> {
    /// Reads an entry.
    #[must_use]
    pub(crate) fn of(key: &'e [u8], stored: &'e [u8], meta: Meta, now: u32) -> Option<Self> {
        let asked = question(key)?;
        let parts = Parts::of(stored)?;
        Some(Self {
            rcode: parts.header[1] & 0x0f,
            remaining: i64::from(meta.expires) - i64::from(now),
            age: now.saturating_sub(meta.stored),
            size: to_u16(LEN + asked.qname.len() + 4 + parts.rest.len()),
            parts_rest: parts.rest,
            counts: parts.header,
            asked,
        })
    }

    /// Returns the addresses in its answer section.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut message = Vec::new();
        write(&mut message, &self.asked, self.counts, self.parts_rest);
        let answers = Records::of(&message).filter(|record| record.section == Section::Answer);
        answers
            .filter_map(|record| {
                let data = message.get(record.rdata.clone())?;
                match record.rtype {
                    rtype::A => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
                    rtype::AAAA => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
                    _ => None,
                }
            })
            .collect()
    }
}
