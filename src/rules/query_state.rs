//! What is known of a query besides its bytes: what rules decided about it, and what must be undone
//! in its response. Most queries have no such state; the others keep a [`QueryState`] until they
//! are finished, in a bounded table of records that are reused.

use std::net::{IpAddr, Ipv6Addr};

use crate::base::addr::{Client, Endpoint, PoolSlot};
use crate::base::narrow::to_u16;
use crate::base::time::{Tick, TickDelta};
use crate::stats::shadow_queue::ShadowId;
use crate::wire::ecs::Ecs;
use crate::wire::{answer, ecs, header, proxy, signature};

/// Bytes of all tags of a query, names and values together.
const TAG_BYTES_MAX: usize = 4096;
/// Tags of a query, at most.
const TAGS_MAX: usize = 64;
/// Most bytes of the Extended DNS Errors that are added to a first one.
const ERRORS_BYTES_MAX: usize = 1024;

/// The protocol of a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    /// Plain, over UDP.
    #[default]
    DoUdp,
    /// Plain, over TCP.
    DoTcp,
    /// DNSCrypt over UDP.
    DnsCryptUdp,
    /// DNSCrypt over TCP.
    DnsCryptTcp,
    /// Over TLS.
    DoT,
    /// Over HTTPS.
    DoH,
    /// Over QUIC.
    DoQ,
    /// Over HTTP/3.
    DoH3,
}

impl Protocol {
    /// Returns whether it runs over a connection: nothing needs to be truncated.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        !matches!(self, Self::DoUdp | Self::DnsCryptUdp)
    }

    /// Returns whether it is encrypted.
    #[must_use]
    pub const fn is_encrypted(self) -> bool {
        !matches!(self, Self::DoUdp | Self::DoTcp)
    }
}

/// The tags of a query: few names with values, in one allocation that is reused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    bytes: Vec<u8>,
    /// Where each name begins, its value begins, and its value ends.
    spans: Vec<(u16, u16, u16)>,
}

impl Tags {
    /// Returns the value of a tag.
    #[must_use]
    pub fn value(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// Returns the tags with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let part = |from: u16, to: u16| &self.bytes[usize::from(from)..usize::from(to)];
        self.spans.iter().map(move |(name, value, end)| (part(*name, *value), part(*value, *end)))
    }

    /// Sets a tag, whose name may be empty as in dnsdist. Returns false, and changes nothing, when
    /// it does not fit: 64 tags, 4,096 bytes in all.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> bool {
        let old = self.value(name).map(|v| name.len() + v.len());
        let bytes = self.bytes.len() - old.unwrap_or(0) + name.len() + value.len();
        if bytes > TAG_BYTES_MAX || (old.is_none() && self.spans.len() >= TAGS_MAX) {
            return false;
        }
        self.unset(name);
        // The whole is at most TAG_BYTES_MAX.
        let start = to_u16(self.bytes.len());
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.spans.push((start, start + to_u16(name.len()), to_u16(self.bytes.len())));
        true
    }

    /// Removes a tag.
    pub fn unset(&mut self, name: &[u8]) {
        let Some(at) = self.iter().position(|(n, _)| n == name) else { return };
        let (start, _, end) = self.spans.remove(at);
        self.bytes.drain(usize::from(start)..usize::from(end));
        for span in &mut self.spans[at..] {
            let gone = end - start;
            *span = (span.0 - gone, span.1 - gone, span.2 - gone);
        }
    }

    /// Returns whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Removes all; the memory is kept.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
    }

    /// Becomes a copy of other tags, in its own memory.
    pub fn copy(&mut self, other: &Self) {
        self.bytes.clone_from(&other.bytes);
        self.spans.clone_from(&other.spans);
    }
}

/// The original addresses of a query, according to its PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxiedAddresses {
    /// The client.
    pub source: Endpoint,
    /// The address that the client sent it to.
    pub destination: Endpoint,
}

impl ProxiedAddresses {
    /// Returns the addresses of a header; none for LOCAL and for families other than IP.
    #[must_use]
    pub fn of(header: &proxy::Header<'_>) -> Option<Self> {
        Some(Self { source: header.source?, destination: header.destination? })
    }
}

/// Bytes of all PROXY values of a query together.
const PROXY_BYTES_MAX: usize = 4096;
/// PROXY values of a query, at most.
const PROXY_VALUES_MAX: usize = 64;

/// The values (TLVs) of the PROXY header that a query came with, and that its server gets: a list
/// in which a type may occur more than once, in one allocation that is reused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyValues {
    bytes: Vec<u8>,
    /// The type of each, and where it ends; it begins where the previous one ends.
    ends: Vec<(u8, u16)>,
}

impl ProxyValues {
    /// Returns the types with their values, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let mut from = 0;
        self.ends.iter().map(move |(kind, end)| {
            let value = &self.bytes[from..usize::from(*end)];
            from = usize::from(*end);
            (*kind, value)
        })
    }

    /// Adds a value. Returns false, and changes nothing, when it does not fit: 64 values, 4,096
    /// bytes in all.
    pub fn add(&mut self, kind: u8, value: &[u8]) -> bool {
        if self.bytes.len() + value.len() > PROXY_BYTES_MAX || self.ends.len() >= PROXY_VALUES_MAX {
            return false;
        }
        self.bytes.extend_from_slice(value);
        // The whole is at most PROXY_BYTES_MAX.
        self.ends.push((kind, to_u16(self.bytes.len())));
        true
    }

    /// Returns whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Removes all; the memory is kept.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Becomes a copy of another list, in its own memory.
    pub fn copy(&mut self, other: &Self) {
        self.bytes.clone_from(&other.bytes);
        self.ends.clone_from(&other.ends);
    }
}

/// Settings of the client subnet option (RFC 7871) of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EcsSettings {
    /// Add it for servers that want it.
    pub wanted: bool,
    /// Replace one that the query brings.
    pub replace: bool,
    /// Prefix length for IPv4 clients.
    pub v4: u8,
    /// For IPv6 clients.
    pub v6: u8,
    /// Add this address (mapped) in place of the client's.
    pub instead: Option<[u8; 16]>,
}

impl Default for EcsSettings {
    fn default() -> Self {
        Self { wanted: true, replace: false, v4: 24, v6: 56, instead: None }
    }
}

impl EcsSettings {
    /// Returns the address to send.
    #[must_use]
    pub fn address(&self, client: &Client) -> IpAddr {
        self.instead.map_or_else(|| client.peer.ip(), |ip| Ipv6Addr::from(ip).to_canonical())
    }
}

/// Whether a second pool gets a query too, whose client gets nothing of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shadow {
    /// It does not.
    #[default]
    No,
    /// It will, when the query goes to a server.
    Wanted(PoolSlot),
    /// It does.
    Asked(ShadowId),
}

/// What is known of a query besides its bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryState {
    /// Protocol, flags, pool and server name are set; before, only the values of the PROXY header
    /// are.
    pub is_filled: bool,
    /// When the query arrived.
    pub received: Tick,
    /// Its protocol.
    pub protocol: Protocol,
    /// The client's RD and CD, in the third and the fourth byte of the header, as they arrived.
    pub flags: [u8; 2],
    /// The pool selected so far.
    pub pool: PoolSlot,
    /// Its tags.
    pub tags: Tags,
    /// Its original addresses; none when the peer is the client.
    pub proxied: Option<ProxiedAddresses>,
    /// Values of the PROXY header that it came with, and that its server gets.
    pub proxy: ProxyValues,
    /// The server name (SNI) of the client's TLS handshake; empty without one.
    pub sni: Vec<u8>,
    /// Settings of the client subnet option.
    pub ecs: EcsSettings,
    /// What was added to it for its server and must not be in the answer: an OPT record or a client
    /// subnet option.
    pub added: Ecs,
    /// DO of the client's OPT record, if it has sent one; set where an answer may get options.
    pub client_opt: Option<bool>,
    /// The client's own client subnet option ([`ecs::whole`]) when the server got another one: it is
    /// put back in the answer.
    pub client_subnet: Vec<u8>,
    /// How long its answer is delayed.
    pub delay: TickDelta,
    /// Cap on the TTLs of its answer.
    pub ttl_max: Option<u32>,
    /// How long the cache keeps a failure, seconds.
    pub temporary_failure_ttl: Option<u32>,
    /// The cache is bypassed.
    pub skip_cache: bool,
    /// INFO-CODE of an Extended DNS Error for its answer; the text is in `error_text`.
    pub error: Option<u16>,
    /// Text of that error.
    pub error_text: Vec<u8>,
    /// Further errors, as options.
    pub errors_more: Vec<u8>,
    /// The client's question (name, type and class) when a rule changed the name: it is restored in
    /// the answer.
    pub original: Vec<u8>,
    /// The name that the server of a zone transfer was asked for in its place: later messages of the
    /// transfer may be without a question.
    pub transferred: Vec<u8>,
    /// The message belongs to a zone transfer whose query was signed: not each of them has a
    /// signature, but a later one covers them all (RFC 8945, 5.3.1).
    pub in_signed_transfer: bool,
    /// A function has failed on the message, which therefore becomes SERVFAIL: whoever walks the
    /// rules takes it.
    pub failed: bool,
    /// A function has failed in the selector that is being evaluated.
    pub selector_failed: bool,
    /// A function could not change the name of the answer, which therefore cannot be sent: whoever
    /// walks the rules takes it.
    pub not_renamed: bool,
    /// The pool that gets it too, so that both answers are compared.
    pub shadow: Shadow,
    /// The answer is one of the packet cache that has expired.
    pub is_stale: bool,
    /// Lua asked for the query to be kept, so that it can be restarted.
    pub restartable: bool,
    /// How often it was restarted.
    pub restarts: u8,
}

impl QueryState {
    /// Resets it for another query; the memory is kept.
    pub fn reset(&mut self, received: Tick, ecs: EcsSettings, flags: [u8; 2]) {
        let mut tags = std::mem::take(&mut self.tags);
        let mut original = std::mem::take(&mut self.original);
        let mut transferred = std::mem::take(&mut self.transferred);
        let mut error_text = std::mem::take(&mut self.error_text);
        let mut errors_more = std::mem::take(&mut self.errors_more);
        let mut proxy = std::mem::take(&mut self.proxy);
        let mut sni = std::mem::take(&mut self.sni);
        let mut client_subnet = std::mem::take(&mut self.client_subnet);
        tags.clear();
        original.clear();
        transferred.clear();
        error_text.clear();
        errors_more.clear();
        proxy.clear();
        sni.clear();
        client_subnet.clear();
        *self = Self {
            received,
            ecs,
            flags,
            tags,
            proxy,
            sni,
            original,
            transferred,
            error_text,
            errors_more,
            client_subnet,
            ..Self::default()
        };
    }

    /// Keeps the client's own client subnet option, before the first one that replaces
    /// it; returns whether it is that.
    pub fn keep_client_subnet(&mut self, message: &[u8]) -> bool {
        let is_first = self.client_subnet.is_empty();
        if is_first {
            self.client_subnet.extend_from_slice(ecs::whole(message).unwrap_or_default());
        }
        is_first
    }

    /// Returns its number if a second pool gets it too; once.
    pub fn take_shadow(&mut self) -> Option<ShadowId> {
        let Shadow::Asked(id) = self.shadow else { return None };
        self.shadow = Shadow::No;
        Some(id)
    }

    /// Adds an Extended DNS Error to those of the answer; false when there would be too much of them.
    pub fn add_error(&mut self, code: u16, text: &[u8]) -> bool {
        if self.error.is_none() {
            self.set_error(code, text);
            return true;
        }
        self.errors_more.len() + text.len() <= ERRORS_BYTES_MAX
            && answer::ede_option(&mut self.errors_more, code, text)
    }

    /// Sets the Extended DNS Error of the answer.
    pub fn set_error(&mut self, code: u16, text: &[u8]) {
        self.errors_more.clear();
        self.error = Some(code);
        self.error_text.clear();
        self.error_text.extend_from_slice(text);
    }

    /// Returns whether what it says of the answer may make that longer than the client can take.
    #[must_use]
    pub fn may_grow(&self) -> bool {
        self.added != Ecs::Left || self.error.is_some() || !self.original.is_empty()
    }

    /// Returns whether nothing in it affects the answer, tags and flags apart.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.added == Ecs::Left
            && self.client_subnet.is_empty()
            && self.delay == TickDelta::default()
            && self.ttl_max.is_none()
            && self.temporary_failure_ttl.is_none()
            && self.error.is_none()
            && self.original.is_empty()
            && self.proxied.is_none()
            && self.proxy.is_empty()
            && self.shadow == Shadow::No
            && !self.restartable
    }
}

/// Returns RD and CD of a message, in their bits of the third and the fourth byte of the header.
#[must_use]
pub fn flags_of(message: &[u8]) -> [u8; 2] {
    let byte = |at: usize| message.get(at).copied().unwrap_or(0);
    [byte(2) & header::RD, byte(3) & header::CD]
}

/// Packs RD and CD into one byte: their bits differ.
#[must_use]
pub const fn packed(flags: [u8; 2]) -> u8 {
    flags[0] & header::RD | flags[1] & header::CD
}

/// Unpacks RD and CD from one byte.
#[must_use]
pub const fn unpacked(flags: u8) -> [u8; 2] {
    [flags & header::RD, flags & header::CD]
}

/// Writes RD and CD, unless the message is signed.
pub fn set_flags(message: &mut [u8], flags: [u8; 2]) {
    if flags_of(message) == flags || signature::is_signed(message) {
        return;
    }
    if let Some(bytes) = message.get_mut(2..4) {
        bytes[0] = bytes[0] & !header::RD | flags[0];
        bytes[1] = bytes[1] & !header::CD | flags[1];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(tags: &Tags) -> Vec<(&[u8], &[u8])> {
        tags.iter().collect()
    }

    #[test]
    fn tags_are_set_and_removed() {
        let mut tags = Tags::default();
        assert!(tags.is_empty() && tags.value(b"a").is_none());
        assert!(tags.set(b"a", b"1") && tags.set(b"bb", b"") && tags.set(b"", b"3"));
        assert_eq!(list(&tags), [(&b"a"[..], &b"1"[..]), (b"bb", b""), (b"", b"3")]);
        assert_eq!(
            (tags.value(b"bb"), tags.value(b""), tags.value(b"b")),
            (Some(&b""[..]), Some(&b"3"[..]), None)
        );
        assert!(tags.set(b"a", b"longer than before"));
        assert_eq!(list(&tags), [(&b"bb"[..], &b""[..]), (b"", b"3"), (b"a", b"longer than before")]);
        tags.unset(b"none such");
        tags.unset(b"");
        assert_eq!(list(&tags), [(&b"bb"[..], &b""[..]), (b"a", b"longer than before")]);
        tags.clear();
        assert!(tags.is_empty() && tags.value(b"a").is_none());
    }

    #[test]
    fn proxy_values_are_a_bounded_list() {
        let mut values = ProxyValues::default();
        assert!(values.add(42, b"one") && values.add(0, b"") && values.add(42, b"two"));
        let listed: Vec<_> = values.iter().collect();
        assert_eq!(listed, [(42, &b"one"[..]), (0, b""), (42, b"two")]);
        let before = values.clone();
        assert!(!values.add(1, &[7; PROXY_BYTES_MAX - 5]), "one byte too many");
        assert_eq!(values, before);
        assert!(values.add(1, &[7; PROXY_BYTES_MAX - 6]));
        while values.ends.len() < PROXY_VALUES_MAX {
            assert!(values.add(2, b""));
        }
        assert!(!values.add(2, b""), "the list is full");
        values.clear();
        assert!(values.is_empty() && values.iter().next().is_none());
    }

    #[test]
    fn reset_forgets_the_last_query() {
        let mut query_state = QueryState::default();
        query_state.client_subnet.push(1);
        query_state.proxy.add(1, b"x");
        query_state.sni.extend_from_slice(b"dns.example");
        query_state.tags.set(b"a", b"b");
        query_state.reset(Tick(7), EcsSettings::default(), [0, 0]);
        assert_eq!(query_state, QueryState { received: Tick(7), ..QueryState::default() });
    }

    #[test]
    fn tag_that_does_not_fit_changes_nothing() {
        let mut tags = Tags::default();
        assert!(tags.set(b"a", &[7; TAG_BYTES_MAX - 2]));
        let before = tags.clone();
        assert!(!tags.set(b"b", b"xx") && !tags.set(b"a", &[7; TAG_BYTES_MAX]));
        assert!(!tags.set(&[1; 70_000], b"") && !tags.set(b"", &[1; 70_000]));
        assert_eq!(tags, before);
        assert!(tags.set(b"b", b""), "the last byte is usable");
        assert!(tags.set(b"a", b""), "a shorter value always fits");

        let mut tags = Tags::default();
        for n in 0..TAGS_MAX {
            assert!(tags.set(&[n as u8], b""));
        }
        let before = tags.clone();
        assert!(!tags.set(b"one more", b"") && !tags.set(b"", b""));
        assert_eq!(tags, before);
        assert!(tags.set(&[3], b"another value"));
    }

    proptest! {
        #[test]
        fn tags_are_a_map(steps in prop::collection::vec((0..5_u8, any::<bool>(), 0..2_000_usize), 0..60)) {
            let (mut tags, mut map) = (Tags::default(), std::collections::BTreeMap::new());
            for (name, set, bytes) in steps {
                let name = vec![b'n'; name.into()];
                if !set {
                    tags.unset(&name);
                    map.remove(&name);
                } else if tags.set(&name, &vec![bytes as u8; bytes]) {
                    map.insert(name, vec![bytes as u8; bytes]);
                } else {
                    let others: usize = map.iter().filter(|(n, _)| **n != name).map(|(n, v)| n.len() + v.len()).sum();
                    prop_assert!(others + name.len() + bytes > TAG_BYTES_MAX);
                }
                let mut listed: Vec<_> = tags.iter().collect();
                listed.sort_unstable();
                prop_assert_eq!(listed, map.iter().map(|(n, v)| (&n[..], &v[..])).collect::<Vec<_>>());
            }
        }
    }
}
