//! Answers of our own: turns a query into its answer, in place; and shortens or simplifies answers.
//!
//! The client's id, opcode, RD and CD stay, and its first question; QR becomes 1, TC and Z 0 (RFC
//! 1035, 4.1.1). Trailing data are dropped. There is an OPT record only if the query had one, with
//! its DO (RFC 6891, 6.1.1; RFC 3225, 3) and without options. Records are owned by the question's
//! name (a pointer to it) and have its class.
//!
//! When a builder returns false (no header, no question where one is needed, no space), the packet
//! is unusable and must be dropped.

use crate::base::packet::Packet;
use crate::wire::edns::{Outcome, code};
use crate::wire::header::Header;
use crate::wire::header::rcode::NXDOMAIN;
use crate::wire::query::Question;
use crate::wire::records::{Section, rtype};
use crate::wire::{edns, header, name, records};

pub use crate::wire::svc::{SvcParams, SvcRecord};

/// A compression pointer to the name of the first question.
const OWNER: [u8; 2] = {
    let [.., low] = header::LEN.to_be_bytes();
    [0xc0, low]
};
/// Longest question, bytes.
const QUESTION_MAX: usize = name::LEN_MAX + 4;
/// Bytes that every UDP client accepts (RFC 1035, 4.2.1).
const UDP_MIN: u16 = 512;

/// EDNS in answers of our own.
#[derive(Clone, Copy, Debug)]
pub struct AnswerEdns {
    /// Add an OPT record when the query had one.
    pub wanted: bool,
    /// Its UDP payload size, bytes.
    pub payload: u16,
}

/// Header bits and TTL of an answer of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    /// Authoritative answer.
    pub aa: bool,
    /// Authentic data.
    pub ad: bool,
    /// Recursion available; `None` copies the query's RD.
    pub ra: Option<bool>,
    /// TTL of its records, seconds.
    pub ttl: u32,
}

impl Default for Flags {
    fn default() -> Self {
        Self { aa: false, ad: false, ra: None, ttl: 60 }
    }
}

/// A start of authority for negative answers (RFC 2308, 2); names are plain wire names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soa<'a> {
    /// The zone, which owns the record.
    pub zone: &'a [u8],
    /// Its primary name server.
    pub mname: &'a [u8],
    /// The mailbox of the responsible person.
    pub rname: &'a [u8],
    /// Serial, refresh, retry, expire and minimum; all but the serial are seconds.
    pub numbers: [u32; 5],
}

/// Answers with a response code and no records. Only clients with EDNS get the code's bits above 4.
/// Without a parsable question the answer is a header and has no EDNS.
#[must_use]
pub fn rcode(packet: &mut Packet<'_>, code: u16, flags: Flags, own: AnswerEdns) -> bool {
    Draft::begin(packet, code, flags, own).is_some_and(Draft::finish)
}

/// Answers with TC=1 and no records, so that the client retries over TCP.
#[must_use]
pub fn truncated(packet: &mut Packet<'_>, flags: Flags, own: AnswerEdns) -> bool {
    let answered = rcode(packet, 0, flags, own);
    answered && set_tc(packet.bytes_mut())
}

/// Returns whether [`addresses`] can answer a query of this type, given whether there are addresses
/// of each family.
#[must_use]
pub const fn addresses_match(qtype: u16, v4: bool, v6: bool) -> bool {
    match qtype {
        rtype::A => v4,
        rtype::AAAA => v6,
        rtype::ANY => v4 || v6,
        _ => false,
    }
}

/// Answers an A query with `v4`, AAAA with `v6`, ANY with both, and any other without records.
#[must_use]
pub fn addresses(
    packet: &mut Packet<'_>,
    v4: &[[u8; 4]],
    v6: &[[u8; 16]],
    flags: Flags,
    own: AnswerEdns,
) -> bool {
    let Some(mut draft) = Draft::begin(packet, 0, flags, own) else { return false };
    let Some((qtype, _)) = draft.asked else { return false };
    let all = |family| qtype == family || qtype == rtype::ANY;
    (!all(rtype::A) || v4.iter().all(|ip| draft.answer(rtype::A, &[ip])))
        && (!all(rtype::AAAA) || v6.iter().all(|ip| draft.answer(rtype::AAAA, &[ip])))
        && draft.finish()
}

/// Answers with a CNAME to `target`, a plain wire name.
#[must_use]
pub fn cname(packet: &mut Packet<'_>, target: &[u8], flags: Flags, own: AnswerEdns) -> bool {
    let Some(mut draft) = Draft::begin(packet, 0, flags, own) else { return false };
    draft.answer(rtype::CNAME, &[target]) && draft.finish()
}

/// Answers with these record data, of the queried type; of `type_for_any` for ANY.
#[must_use]
pub fn raw(
    packet: &mut Packet<'_>,
    rdatas: &[impl AsRef<[u8]>],
    type_for_any: u16,
    flags: Flags,
    own: AnswerEdns,
) -> bool {
    let Some(mut draft) = Draft::begin(packet, 0, flags, own) else { return false };
    let Some((qtype, _)) = draft.asked else { return false };
    let kind = if qtype == rtype::ANY { type_for_any } else { qtype };
    rdatas.iter().all(|rdata| draft.answer(kind, &[rdata.as_ref()])) && draft.finish()
}

/// Answers with service bindings, of the queried type, and with their address hints as additional
/// records: all A, then all AAAA. The root as target means the queried name (RFC 9460, 2.5.2),
/// which then owns the hints. Bindings may share hints: each is one record (RFC 2181, 5).
#[must_use]
pub fn svc(packet: &mut Packet<'_>, bindings: &[SvcRecord], flags: Flags, own: AnswerEdns) -> bool {
    let Some(mut draft) = Draft::begin(packet, 0, flags, own) else { return false };
    let Some((qtype, _)) = draft.asked else { return false };
    bindings.iter().all(|b| draft.answer(qtype, &[&b.priority.to_be_bytes(), &b.target, &b.params]))
        && draft.hints(bindings, rtype::A, |b| &b.v4)
        && draft.hints(bindings, rtype::AAAA, |b| &b.v6)
        && draft.finish()
}

/// Answers NXDOMAIN, or NODATA, with the zone's SOA in the authority section, where resolvers look
/// for it, or in the additional section.
#[must_use]
pub fn negative_soa(
    packet: &mut Packet<'_>,
    nxdomain: bool,
    soa: &Soa<'_>,
    in_authority: bool,
    flags: Flags,
    own: AnswerEdns,
) -> bool {
    let code = if nxdomain { u16::from(NXDOMAIN) } else { 0 };
    let Some(mut draft) = Draft::begin(packet, code, flags, own) else { return false };
    let section = if in_authority { Section::Authority } else { Section::Additional };
    let numbers = soa.numbers.map(u32::to_be_bytes);
    let data: [&[u8]; 3] = [soa.mname, soa.rname, numbers.as_flattened()];
    draft.record(section, soa.zone, rtype::SOA, &data) && draft.finish()
}

/// Answers with a whole message: `template`, with the query's id and RD, QR set, and the query's
/// question where the template has one. False when the template is no message, or has pointers into
/// a question name that must change.
#[must_use]
pub fn message(packet: &mut Packet<'_>, template: &[u8]) -> bool {
    let query = packet.bytes();
    let Some(&[i0, i1, flags, ..]) = query.first_chunk::<{ header::LEN }>() else { return false };
    let asked = Header::parse(query).filter(|head| head.qdcount() > 0).and_then(|_| Question::parse(query));
    let mut question = [0; QUESTION_MAX];
    let length = asked.map_or(0, |q| q.end - header::LEN);
    question[..length].copy_from_slice(&query[header::LEN..header::LEN + length]);
    if template.len() < header::LEN || !packet.replace(template) {
        return false;
    }
    let answer = packet.bytes_mut();
    answer[..2].copy_from_slice(&[i0, i1]);
    answer[2] = answer[2] & !header::RD | flags & header::RD | header::QR;
    let echoed =
        Header::parse(answer).filter(|head| head.qdcount() == 1).and_then(|_| Question::parse(answer));
    match echoed.map(|q| header::LEN..q.end) {
        Some(place) if length > 0 => {
            let question = &question[..length];
            let name = length - 4;
            if answer[place.clone()].get(..name).is_some_and(|n| n.eq_ignore_ascii_case(&question[..name])) {
                answer[place].copy_from_slice(question);
                return true;
            }
            records::splice(packet, place, &[question], true)
        }
        _ => true,
    }
}

/// Gives an answer that was edited out of its query our own OPT record in place of the client's: no
/// option of a query is meant for an answer (RFC 6891, 6.1.1). DO and the code's upper bits stay.
/// False, and nothing changed, when the answer has an OPT record that cannot be replaced.
#[must_use]
pub fn own_opt(packet: &mut Packet<'_>, own: AnswerEdns) -> bool {
    if own.wanted {
        edns::reset(packet, own.payload)
    } else {
        edns::strip(packet) || edns::locate(packet.bytes()).is_none()
    }
}

/// Adds an extended DNS error (RFC 8914) to an answer, replacing any that it has. False when the
/// answer has no OPT record, or there is no space.
#[must_use]
pub fn ede(packet: &mut Packet<'_>, info_code: u16, text: &[u8]) -> bool {
    edes(packet, info_code, text, &[])
}

/// The same, and `further` errors as [`ede_option`] makes them.
#[must_use]
pub fn edes(packet: &mut Packet<'_>, info_code: u16, text: &[u8], further: &[u8]) -> bool {
    let data = [&info_code.to_be_bytes(), text];
    edns::locate(packet.bytes()).is_some()
        && edns::put_options(packet, code::EXTENDED_ERROR, &data, further, 0) != Outcome::Failed
}

/// Appends an extended DNS error as an option; false when its text is too long.
#[must_use]
pub fn ede_option(to: &mut Vec<u8>, info_code: u16, text: &[u8]) -> bool {
    let Ok(length) = u16::try_from(text.len() + 2) else { return false };
    for part in [code::EXTENDED_ERROR, length, info_code] {
        to.extend_from_slice(&part.to_be_bytes());
    }
    to.extend_from_slice(text);
    true
}

/// Returns the longest answer over UDP, bytes, that the sender of a query accepts.
#[must_use]
pub fn udp_limit(query: &[u8]) -> usize {
    udp_limit_of(edns::locate(query))
}

/// Returns the same for a query with this OPT record.
#[must_use]
pub fn udp_limit_of(opt: Option<edns::Opt>) -> usize {
    usize::from(opt.map_or(UDP_MIN, |opt| opt.payload.max(UDP_MIN)))
}

/// Truncates an answer that is longer than `limit` bytes ([`udp_limit`]) to TC=1 without records.
/// Its OPT record stays: with all options if they fit, or else without the extended error, whose
/// text may be long; padding stays then. If that is still too long, it loses all. False when that
/// was needed and failed.
#[must_use]
pub fn fit(packet: &mut Packet<'_>, limit: usize) -> bool {
    packet.len() <= limit || shorten(packet, limit)
}

#[cold]
fn shorten(packet: &mut Packet<'_>, limit: usize) -> bool {
    if !to_tc(packet) {
        return false;
    }
    if packet.len() > limit {
        edns::remove_option(packet, code::EXTENDED_ERROR);
    }
    if packet.len() > limit {
        edns::remove_options(packet);
    }
    true
}

/// Removes the records of a response with TC=1, except its OPT. False when it has TC=1 and cannot
/// be parsed.
#[must_use]
pub fn truncate_tc(packet: &mut Packet<'_>) -> bool {
    match Header::parse(packet.bytes()) {
        Some(head) if head.is_truncated() => cut(packet),
        head => head.is_some(),
    }
}

/// Turns a response into one with TC=1 and no records but its OPT. False, and nothing changed, when
/// its question cannot be parsed.
#[must_use]
pub fn to_tc(packet: &mut Packet<'_>) -> bool {
    cut(packet) && set_tc(packet.bytes_mut())
}

/// Copies the letter case of `qname` to the question of a response. False when the names differ
/// otherwise or there is no question.
pub fn fixup_case(response: &mut [u8], qname: &[u8]) -> bool {
    let asked = Header::parse(response).is_some_and(|head| head.qdcount() > 0);
    let same = Question::parse(response).is_some_and(|q| q.qname.eq_ignore_ascii_case(qname));
    if asked && same {
        response[header::LEN..header::LEN + qname.len()].copy_from_slice(qname);
    }
    asked && same
}

fn set_tc(message: &mut [u8]) -> bool {
    message.get_mut(2).map(|byte| *byte |= header::TC).is_some()
}

/// Keeps header, questions and OPT of a message only.
fn cut(packet: &mut Packet<'_>) -> bool {
    let message = packet.bytes_mut();
    let Some(start) = records::start(message) else { return false };
    let opt = edns::locate(message);
    let kept = opt.map_or(0, |opt| {
        message.copy_within(opt.start..opt.end, start);
        opt.end - opt.start
    });
    message[6..header::LEN].copy_from_slice(&[0, 0, 0, 0, 0, u8::from(opt.is_some())]);
    packet.truncate(start + kept);
    true
}

/// An answer that is being appended to its question.
struct Draft<'p, 'b> {
    packet: &'p mut Packet<'b>,
    /// Type and class of the question; `None` without a question.
    asked: Option<(u16, u16)>,
    opt: Option<[u8; 11]>,
    ttl: u32,
    counts: [u16; 3],
}

impl<'p, 'b> Draft<'p, 'b> {
    /// Turns a query into the head of its answer. `None` when it has no complete header.
    fn begin(packet: &'p mut Packet<'b>, code: u16, flags: Flags, own: AnswerEdns) -> Option<Self> {
        let message = packet.bytes();
        let head = Header::parse(message)?;
        let question = if head.qdcount() == 0 { None } else { Question::parse(message) };
        let end = question.map_or(header::LEN, |q| q.end);
        let asked = question.map(|q| (q.qtype, q.qclass));
        // Whatever follows an invalid question cannot be located.
        let readable = own.wanted && (head.qdcount() == 0 || asked.is_some());
        let opt = if readable { edns::find(message, end) } else { None };
        let opt = opt.map(|theirs| {
            let mut opt = edns::bare(own.payload, theirs.dnssec_ok);
            // Of a code's twelve bits the high eight.
            [opt[5], _] = (code << 4).to_be_bytes();
            opt
        });
        packet.truncate(end);
        let message = packet.bytes_mut();
        let recursive = flags.ra.unwrap_or(message[2] & header::RD != 0);
        let bit = |set, bit| if set { bit } else { 0 };
        message[2] = header::QR | bit(flags.aa, header::AA) | (message[2] & (0x78 | header::RD));
        message[3] = bit(recursive, header::RA)
            | bit(flags.ad, header::AD)
            | (message[3] & header::CD)
            | (code & 0x0f) as u8;
        message[4..6].copy_from_slice(&[0, u8::from(asked.is_some())]);
        Some(Self { packet, asked, opt, ttl: flags.ttl, counts: [0; 3] })
    }

    fn answer(&mut self, rtype: u16, data: &[&[u8]]) -> bool {
        self.record(Section::Answer, &OWNER, rtype, data)
    }

    /// Appends the hints of one family. The configuration bounds their number.
    fn hints<'s, const N: usize>(
        &mut self,
        bindings: &'s [SvcRecord],
        rtype: u16,
        of: impl Fn(&'s SvcRecord) -> &'s [[u8; N]],
    ) -> bool {
        bindings.iter().enumerate().all(|(number, binding)| {
            let owner = if binding.target == [0] { &OWNER[..] } else { &binding.target };
            of(binding).iter().enumerate().all(|(at, ip)| {
                let earlier =
                    bindings[..number].iter().filter(|b| b.target.eq_ignore_ascii_case(&binding.target));
                let known = of(binding)[..at].contains(ip) || earlier.map(&of).any(|ips| ips.contains(ip));
                known || self.record(Section::Additional, owner, rtype, &[ip])
            })
        })
    }

    /// Appends a record; sections must come in order. False without a question or space.
    fn record(&mut self, section: Section, owner: &[u8], rtype: u16, data: &[&[u8]]) -> bool {
        let Some((_, class)) = self.asked else { return false };
        let Ok(length) = u16::try_from(data.iter().map(|part| part.len()).sum::<usize>()) else {
            return false;
        };
        let ([t0, t1], [c0, c1], [l0, l1]) = (rtype.to_be_bytes(), class.to_be_bytes(), length.to_be_bytes());
        let [s0, s1, s2, s3] = self.ttl.to_be_bytes();
        let count = &mut self.counts[section as usize];
        *count = count.saturating_add(1);
        self.packet.append(owner)
            && self.packet.append(&[t0, t1, c0, c1, s0, s1, s2, s3, l0, l1])
            && data.iter().all(|part| self.packet.append(part))
    }

    /// Appends the OPT record and writes the counts.
    fn finish(mut self) -> bool {
        if let Some(opt) = self.opt {
            self.counts[2] = self.counts[2].saturating_add(1);
            if !self.packet.append(&opt) {
                return false;
            }
        }
        let counts = self.counts.map(u16::to_be_bytes);
        self.packet.bytes_mut()[6..header::LEN].copy_from_slice(counts.as_flattened());
        true
    }
}

#[cfg(test)]
mod tests;
