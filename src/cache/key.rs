//! Which queries are the same: the key of a query.
//!
//! ```text
//!  | marks | header 2..4 | type | name in lower case | payload, EDNS flags, options | subnet |
//!    1       2             2      1 to 255             only with EDNS                 with it
//! ```
//!
//! The id is not in it, nor what is skipped of the options. Queries of other kinds have no key:
//! other opcodes and classes, zone transfers and ANY, more than one question, records besides an
//! OPT, signatures among them.

use crate::base::narrow::to_u16;
use crate::cache::{CacheOptions, PacketCache};
use crate::wire::ecs::Ecs;
use crate::wire::edns::{code, options};
use crate::wire::header::Header;
use crate::wire::query::Question;
use crate::wire::{copied, edns, name};

pub(crate) use crate::wire::cookie::CODE as COOKIE;

/// EDNS option: padding (RFC 7830).
const PADDING: u16 = 12;
/// EDNS option: TCP keepalive (RFC 7828), which is between the client and us.
const KEEPALIVE: u16 = 11;
/// Bytes of options in a key, at most: what has more is no query that comes again.
const OPTIONS_MAX: usize = 200;
/// Where the type of the question is.
const TYPE_AT: usize = 3;
/// Where its name is.
const NAME_AT: usize = 5;

/// The query came over a connection: its answer may be longer than a datagram.
const STREAM: u8 = 1;
/// It has the padding option, and so has its answer.
const PADDED: u8 = 2;
/// The answer is valid for clients of every subnet.
const EVERY_SUBNET: u8 = 4;
/// A rule has added its OPT record, which the client does not get.
const OPT_ADDED: u8 = 8;
/// A rule has added an option, which the client does not get.
const OPTION_ADDED: u8 = 16;

/// A client subnet that a query's server gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// 1 for IPv4, 2 for IPv6.
    pub family: u8,
    /// Significant bits.
    pub prefix: u8,
    /// The address, the other bits 0.
    pub address: [u8; 16],
}

/// What a key needs to know besides the query.
#[derive(Clone, Copy, Debug, Default)]
pub struct About {
    /// It came over a connection.
    pub by_stream: bool,
    /// What rules have added to it.
    pub added: Ecs,
    /// The client subnet that its server will get, if that is not the query's own.
    pub subnet: Option<Subnet>,
}

/// The key of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Key {
    bytes: Vec<u8>,
    hash: u64,
    /// Where the subnet begins; 0 without one.
    subnet_at: u16,
    /// Number of the store that it is for.
    store: u64,
}

impl Key {
    /// Returns its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns its hash.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// Returns whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the number of the store that it is for.
    #[must_use]
    pub const fn store(&self) -> u64 {
        self.store
    }

    /// Returns whether it has a subnet, so that an answer for all subnets is of use too.
    #[must_use]
    pub const fn has_subnet(&self) -> bool {
        self.subnet_at > 0
    }

    /// Returns whether its subnet is this one.
    #[must_use]
    pub fn is_of_subnet(&self, family: u16, prefix: u8, address: &[u8]) -> bool {
        let subnet = self.bytes.get(usize::from(self.subnet_at)..).unwrap_or_default();
        self.has_subnet()
            && subnet.split_first_chunk::<2>().is_some_and(|(begin, bytes)| {
                u16::from(begin[0]) == family && begin[1] == prefix && bytes == address
            })
    }

    /// Removes it; the memory is kept.
    pub fn clear(&mut self) {
        self.bytes.clear();
        (self.hash, self.subnet_at, self.store) = (0, 0, 0);
    }

    /// Becomes a copy of another key, in its own memory.
    pub fn copy(&mut self, other: &Self) {
        self.bytes.clone_from(&other.bytes);
        (self.hash, self.subnet_at, self.store) = (other.hash, other.subnet_at, other.store);
    }

    /// Becomes the key under which an answer for all subnets is stored.
    pub fn for_every_subnet(&mut self, of: &Self, cache: &PacketCache) {
        self.copy(of);
        self.bytes.truncate(usize::from(of.subnet_at));
        if let Some(marks) = self.bytes.first_mut() {
            *marks |= EVERY_SUBNET;
        }
        self.subnet_at = 0;
        self.hash = cache.hash(&self.bytes);
    }

    /// Becomes the key of a query; false, and empty, when it has none.
    #[must_use]
    pub fn read(&mut self, query: &[u8], about: About, cache: &PacketCache) -> bool {
        self.clear();
        let known = self.write(query, about, cache.options());
        if known.is_some() {
            self.hash = cache.hash(&self.bytes);
            self.store = cache.id();
        } else {
            self.bytes.clear();
        }
        known.is_some()
    }

    fn write(&mut self, query: &[u8], about: About, cache: &CacheOptions) -> Option<()> {
        let header = Header::parse(query)?;
        // Bits 3 to 6 are the opcode, and 0 for a query.
        let flags = [query[2], query[3]];
        let is_plain = flags[0] & 0xfa == 0 && flags[1] & 0x0f == 0;
        let counts = (header.qdcount(), header.ancount(), header.nscount());
        if !is_plain || counts != (1, 0, 0) || header.arcount() > 1 {
            return None;
        }
        let question = Question::parse(query)?;
        let is_kept = question.qclass == 1 && !matches!(question.qtype, 0 | 41 | 128..=255);
        if !is_kept {
            return None;
        }
        let mut marks = match about.added {
            Ecs::OptAdded => OPT_ADDED,
            Ecs::OptionAdded => OPTION_ADDED,
            Ecs::Left => 0,
            Ecs::Replaced | Ecs::Failed => return None,
        };
        marks |= if about.by_stream { STREAM } else { 0 };
        self.bytes.extend_from_slice(&[marks, flags[0], flags[1]]);
        self.bytes.extend_from_slice(&question.qtype.to_be_bytes());
        self.bytes.extend_from_slice(question.qname);
        // Lengths of labels are below 64, and no letters.
        self.bytes[NAME_AT..].make_ascii_lowercase();
        if header.arcount() == 0 {
            // Bytes behind the message are the client's own.
            (question.end == query.len()).then_some(())?;
        } else {
            let opt = edns::find(query, question.end)?;
            (opt.start == question.end && opt.end == query.len()).then_some(())?;
            self.write_options(query, &opt, cache)?;
        }
        if let Some(subnet) = about.subnet {
            self.subnet_at = to_u16(self.bytes.len());
            self.bytes.extend_from_slice(&[subnet.family, subnet.prefix]);
            self.bytes.extend_from_slice(&subnet.address[..usize::from(subnet.prefix.min(128)).div_ceil(8)]);
        }
        Some(())
    }

    fn write_options(&mut self, query: &[u8], opt: &edns::Opt, cache: &CacheOptions) -> Option<()> {
        let fixed = query.get(opt.start + 5..opt.start + 9)?;
        self.bytes.extend_from_slice(&ranked(opt.payload, &cache.payload_ranks).to_be_bytes());
        self.bytes.extend_from_slice(fixed);
        let begin = self.bytes.len();
        let mut end = opt.start + 11;
        for (option, data) in options(query, opt) {
            end = data.end;
            let is_skipped = match option {
                KEEPALIVE => true,
                COOKIE => {
                    // A server refuses it (RFC 7873, 5.2.2), for a reason that is not in the key.
                    matches!(data.len(), 8 | 16..=40).then_some(())?;
                    !cache.keys_have_cookies()
                }
                // What a server adds to the answer must fit the client.
                code::CLIENT_SUBNET => false,
                // A copy of a query is answered as the query.
                copied::CODE => true,
                other => cache.skip_options.contains(&other),
            };
            if option == PADDING {
                self.bytes[0] |= PADDED;
            }
            if is_skipped {
                continue;
            }
            self.bytes.extend_from_slice(&option.to_be_bytes());
            self.bytes.extend_from_slice(&to_u16(data.len()).to_be_bytes());
            self.bytes.extend_from_slice(query.get(data)?);
            (self.bytes.len() - begin <= OPTIONS_MAX).then_some(())?;
        }
        // The last one is cut.
        (end == opt.end).then_some(())
    }
}

/// Returns a payload size as it counts: the highest rank that is not above it. Below 512 bytes it
/// counts as 512 (RFC 6891, 6.2.3).
fn ranked(payload: u16, ranks: &[u16]) -> u16 {
    let payload = payload.max(512);
    if ranks.is_empty() {
        return payload;
    }
    ranks.iter().copied().filter(|rank| *rank <= payload).max().unwrap_or(512)
}

/// The question of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'k> {
    /// The name in wire format, in lower case.
    pub qname: &'k [u8],
    /// The type.
    pub qtype: u16,
    /// Over a connection.
    pub by_stream: bool,
}

/// Returns the question in a key.
#[must_use]
pub fn question(key: &[u8]) -> Option<Asked<'_>> {
    let &[high, low] = key.get(TYPE_AT..NAME_AT)?.first_chunk()?;
    let end = name::end_plain(key, NAME_AT)?;
    let by_stream = key[0] & STREAM != 0;
    Some(Asked { qname: &key[NAME_AT..end], qtype: u16::from_be_bytes([high, low]), by_stream })
}

/// Returns whether a key is that of a question about a name (wire format, any case), or with `suffix`
/// about one in its zone; and of a type.
#[must_use]
pub fn is_about(key: &[u8], qname: &[u8], qtype: Option<u16>, suffix: bool) -> bool {
    question(key).is_some_and(|asked| {
        let is_named =
            if suffix { is_in_zone(asked.qname, qname) } else { asked.qname.eq_ignore_ascii_case(qname) };
        is_named && qtype.is_none_or(|qtype| qtype == asked.qtype)
    })
}

/// Returns whether a name (wire format, lower case) is a zone's, or in it.
#[must_use]
pub fn is_in_zone(qname: &[u8], zone: &[u8]) -> bool {
    let mut at = 0;
    loop {
        let Some(rest) = qname.get(at..) else { return false };
        if rest.len() <= zone.len() {
            return rest.eq_ignore_ascii_case(zone);
        }
        at += 1 + usize::from(rest[0]);
    }
}
