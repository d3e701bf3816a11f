//! What a message adds to the figures.

use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;

use ahash::RandomState;

use crate::base::addr;
use crate::base::narrow::to_u32;
use crate::base::prefix::PrefixSet;
use crate::config::scope::Only;
use crate::stats::traffic_ring::ShortName;
use crate::tools::capture::{Event, Message, Protocol};
use crate::tools::load::tally::Counts;
use crate::tools::scope::pending::{Answer, Asked, Lost, Pending, Query, REMEMBERED_MAX};
use crate::tools::scope::seconds::Seconds;
use crate::tools::scope::tops::{Clients, Names, domain};
use crate::wire::edns;
use crate::wire::header::{Header, rcode};
use crate::wire::name::LEN_MAX;
use crate::wire::query::Question;

/// The protocols, in the order in which they are told.
pub(super) const PROTOCOLS: [Protocol; 6] =
    [Protocol::Udp, Protocol::Tcp, Protocol::Tls, Protocol::Https, Protocol::Quic, Protocol::DnsCrypt];

/// What was counted, besides what every tool counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Messages of clients.
    pub(super) queries: u64,
    /// Messages of servers.
    pub(super) responses: u64,
    /// Queries by their protocol.
    pub(super) protocols: [u64; PROTOCOLS.len()],
    /// Queries that are not in the capture: dnstap's answers tell when they were asked.
    pub(super) told: u64,
    /// Queries that came again before there was an answer.
    pub(super) retransmitted: u64,
    /// Queries that waited at the end.
    pub(super) open: u64,
    /// Queries that were not followed to their end: there were too many, or the clock was set back.
    pub(super) forgotten: u64,
    /// Answers to queries that are not known.
    pub(super) unmatched: u64,
    /// Answers with an earlier time than their query.
    pub(super) backwards: u64,
    /// Messages without a question.
    pub(super) without_question: u64,
    /// Messages that are not looked at.
    pub(super) filtered: u64,
    /// Bytes of queries, and of responses.
    pub(super) query_bytes: u64,
    pub(super) response_bytes: u64,
}

/// The lists.
#[derive(Debug)]
pub(super) struct Lists {
    pub(super) names: Names,
    pub(super) domains: Names,
    pub(super) clients: Clients,
    pub(super) servfail_names: Names,
    pub(super) servfail_domains: Names,
    pub(super) servfail_clients: Clients,
    pub(super) nxdomain_names: Names,
    pub(super) unanswered_names: Names,
    pub(super) unanswered_clients: Clients,
    pub(super) retransmitting_clients: Clients,
}

/// The figures of a capture.
pub(super) struct Analysis {
    clients: PrefixSet,
    only: Only,
    is_filtered: bool,
    hasher: RandomState,
    pub(super) pending: Pending,
    timeout: u64,
    pub(super) seconds: Seconds,
    pub(super) counts: Counts,
    pub(super) seen: Seen,
    pub(super) lists: Lists,
    /// Queries by type.
    pub(super) types: Box<[u64]>,
}

/// A name in lower case, and its hash.
struct Folded {
    bytes: [u8; LEN_MAX],
    length: usize,
    hash: u64,
}

impl Analysis {
    /// Begins. Queries count as unanswered after `timeout` nanoseconds; `seed` is what is hashed with.
    pub(super) fn new(only: &Only, timeout: u64, seed: u64, hdr: Option<PathBuf>) -> Self {
        let hasher = RandomState::with_seeds(seed, seed.rotate_left(16), !seed, 2);
        Self {
            clients: only.clients.iter().copied().collect(),
            is_filtered: *only != Only::default(),
            only: only.clone(),
            pending: Pending::new(hasher.clone(), timeout, REMEMBERED_MAX),
            timeout,
            hasher,
            seconds: Seconds::new(hdr),
            counts: Counts::default(),
            seen: Seen::default(),
            lists: Lists {
                names: Names::new(),
                domains: Names::new(),
                clients: Clients::new(),
                servfail_names: Names::new(),
                servfail_domains: Names::new(),
                servfail_clients: Clients::new(),
                nxdomain_names: Names::new(),
                unanswered_names: Names::new(),
                unanswered_clients: Clients::new(),
                retransmitting_clients: Clients::new(),
            },
            types: vec![0; 1 << 16].into(),
        }
    }

    /// Takes an event of a capture.
    #[inline]
    pub(super) fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Message(message) => self.message(message),
            Event::Opened(_) => self.counts.connections += 1,
            Event::Closed(..) => {}
        }
    }

    fn message(&mut self, message: &Message<'_>) {
        let Some(header) = Header::parse(message.payload) else { return };
        let question = if header.qdcount() > 0 { Question::parse(message.payload) } else { None };
        if self.is_filtered && !self.passes(message, header, question.as_ref()) {
            self.seen.filtered += 1;
            return;
        }
        self.advance(message.at);
        let Some(question) = question else {
            self.seen.without_question += 1;
            if message.is_response {
                self.response(message, header);
                self.bare(message, header);
            } else {
                self.query(message);
            }
            return;
        };
        let folded = self.folded(question.qname);
        let key = self.key(message, header.id(), &question, folded.hash);
        let name = &folded.bytes[..folded.length];
        if message.is_response {
            self.response(message, header);
            self.answer(message, header, Some(&question), key, name, folded.hash);
        } else {
            self.ask(message, &question, key, header.id(), name, folded.hash);
        }
    }

    /// Takes an answer without a question, as servers send that could not read it (RFC 1035, 7.3): it
    /// is that of the last query with its id.
    fn bare(&mut self, message: &Message<'_>, header: Header<'_>) {
        let asked = self.pending.last_of(message.client, header.id(), self.server(message));
        match asked.filter(|_| edns::rcode(message.payload) != 0) {
            Some((key, name)) => {
                let hash = self.hash(name.bytes());
                self.answer(message, header, None, key, name.bytes(), hash);
            }
            None => self.seen.unmatched += 1,
        }
    }

    /// Goes to the time at which a look ends, if there was anything to see.
    pub(super) fn end_of_look(&mut self, at: u64) {
        if self.seconds.have_begun() {
            self.advance(at);
        }
    }

    /// Goes to the time of a message.
    #[inline]
    fn advance(&mut self, at: u64) {
        self.seconds.advance(at);
        let Self { pending, seconds, counts, seen, lists, hasher, .. } = self;
        pending.advance(at, &mut |query, how| lose(query, how, seconds, counts, seen, lists, hasher));
    }

    fn passes(&self, message: &Message<'_>, header: Header<'_>, question: Option<&Question<'_>>) -> bool {
        let Only { names, types, rd, .. } = &self.only;
        // A query's bit comes back in its answer.
        let fits_rd = rd.is_none_or(|rd| rd == header.recursion_desired());
        let fits_client =
            self.clients.is_empty() || self.clients.contains(&addr::mapped(message.client.ip()));
        let fits_type = types.is_empty() || question.is_some_and(|q| types.contains(&q.qtype));
        let fits_name = || {
            let within = |q: &Question<'_>| names.iter().any(|name| is_below(q.qname, name));
            names.is_empty() || question.is_some_and(within)
        };
        fits_rd && fits_client && fits_type && fits_name()
    }

    #[inline]
    fn folded(&self, name: &[u8]) -> Folded {
        let mut bytes = [0; LEN_MAX];
        let length = name.len().min(LEN_MAX);
        bytes[..length].copy_from_slice(&name[..length]);
        // The length bytes are below any letter.
        bytes[..length].make_ascii_lowercase();
        let hash = self.hash(&bytes[..length]);
        Folded { bytes, length, hash }
    }

    #[inline]
    fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(bytes);
        hasher.finish()
    }

    /// Returns what a query and its answer have in common. The server is told apart: dnstap may leave it out,
    /// and hosts with several addresses answer from another one.
    #[inline]
    fn key(&self, message: &Message<'_>, id: u16, question: &Question<'_>, name: u64) -> u64 {
        let SocketAddrParts(ip, port) = parts(message.client);
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u128(u128::from_be_bytes(ip));
        let numbers = u64::from(port) << 48
            | u64::from(id) << 32
            | u64::from(question.qtype) << 16
            | u64::from(question.qclass);
        hasher.write_u64(numbers);
        hasher.write_u64(name ^ message.protocol as u64);
        hasher.finish()
    }

    /// Returns a number for a server; 0 where it is not known.
    #[inline]
    fn server(&self, message: &Message<'_>) -> u32 {
        let ip = message.server.ip();
        if ip.is_unspecified() { 0 } else { self.hash(&addr::mapped(ip)) as u32 | 1 }
    }

    #[inline]
    fn query(&mut self, message: &Message<'_>) {
        self.seen.query_bytes += u64::from(to_u32(message.payload.len()));
        self.add_query(message);
    }

    #[inline]
    fn add_query(&mut self, message: &Message<'_>) {
        self.seen.queries += 1;
        self.seconds.row().queries += 1;
        self.seen.protocols[message.protocol as usize] += 1;
    }

    /// Counts who asked for what.
    #[inline]
    fn list(&mut self, message: &Message<'_>, question: &Question<'_>, name: &[u8], hash: u64) {
        self.types[usize::from(question.qtype)] += 1;
        self.lists.names.add(hash, name);
        let domain = domain(name);
        self.lists.domains.add(self.hash(domain), domain);
        let client = message.client.ip();
        self.lists.clients.add(self.hash(&addr::mapped(client)), client);
    }

    #[inline]
    fn ask(
        &mut self,
        message: &Message<'_>,
        question: &Question<'_>,
        key: u64,
        id: u16,
        name: &[u8],
        hash: u64,
    ) {
        let early = self.pending.take_early(key, message.at);
        if early.is_some_and(|(_, is_told)| is_told) {
            // The answer has told of it, with all that counts.
            self.seen.told -= 1;
            self.seen.query_bytes += u64::from(to_u32(message.payload.len()));
            return;
        }
        self.query(message);
        self.list(message, question, name, hash);
        let query = self.asked(message, message.at, key, id, name);
        let asked = self.remember(query);
        if asked != Asked::New {
            self.seen.retransmitted += 1;
            let hash = self.hash(&addr::mapped(query.client));
            self.lists.retransmitting_clients.add(hash, query.client);
        }
        if asked != Asked::Again {
            self.counts.sent += 1;
            self.seconds.row().sent += 1;
        }
        if let Some((answered, _)) = early
            && matches!(self.pending.answer(key, query.server), Answer::First(_))
        {
            self.seen.unmatched -= 1;
            self.first(answered.checked_sub(message.at));
        }
    }

    #[inline]
    fn response(&mut self, message: &Message<'_>, header: Header<'_>) {
        self.seen.responses += 1;
        self.seen.response_bytes += u64::from(to_u32(message.payload.len()));
        self.counts.code(edns::rcode(message.payload));
        self.counts.truncated += u64::from(header.is_truncated());
    }

    /// Returns the query that a message is, or is the answer to.
    #[inline]
    fn asked(&self, message: &Message<'_>, at: u64, key: u64, id: u16, name: &[u8]) -> Query {
        let (client, port_and_id) = (message.client.ip(), (message.client.port(), id));
        let (server, name) = (self.server(message), ShortName::new(name));
        Query { key, server, before: 0, at, name, client, port_and_id }
    }

    #[inline]
    fn remember(&mut self, query: Query) -> Asked {
        let Self { pending, seconds, counts, seen, lists, hasher, .. } = self;
        pending.ask(query, &mut |query, how| lose(query, how, seconds, counts, seen, lists, hasher))
    }

    /// Counts the first answer to a query, with its latency.
    #[inline]
    fn first(&mut self, latency: Option<u64>) {
        self.counts.answered += 1;
        self.seconds.row().answered += 1;
        match latency {
            Some(latency) => self.seconds.latency(latency),
            None => self.seen.backwards += 1,
        }
    }

    #[inline]
    fn answer(
        &mut self,
        message: &Message<'_>,
        header: Header<'_>,
        question: Option<&Question<'_>>,
        key: u64,
        name: &[u8],
        hash: u64,
    ) {
        match self.pending.answer(key, self.server(message)) {
            Answer::First(asked) => self.first(message.at.checked_sub(asked)),
            Answer::Late => self.counts.late += 1,
            Answer::Again => self.counts.duplicate += 1,
            Answer::Unknown => self.unknown(message, question, key, name, hash),
        }
        if header.rcode() == rcode::SERVFAIL {
            let client = message.client.ip();
            self.lists.servfail_names.add(hash, name);
            let domain = domain(name);
            self.lists.servfail_domains.add(self.hash(domain), domain);
            self.lists.servfail_clients.add(self.hash(&addr::mapped(client)), client);
        } else if header.rcode() == rcode::NXDOMAIN {
            self.lists.nxdomain_names.add(hash, name);
        }
    }

    /// Takes an answer whose query was not captured, or stands behind it.
    #[cold]
    fn unknown(
        &mut self,
        message: &Message<'_>,
        question: Option<&Question<'_>>,
        key: u64,
        name: &[u8],
        hash: u64,
    ) {
        let latency = message.asked.and_then(|asked| message.at.checked_sub(asked));
        match (latency, question) {
            (Some(latency), Some(question)) if latency <= self.timeout => {
                self.seen.told += 1;
                self.add_query(message);
                self.list(message, question, name, hash);
                let id = Header::parse(message.payload).map_or(0, |header| header.id());
                let query = self.asked(message, message.at - latency, key, id, name);
                self.remember(query);
                self.pending.answer(key, query.server);
                self.counts.sent += 1;
                self.seconds.row().sent += 1;
                self.first(Some(latency));
                self.pending.keep_early(key, message.at, true);
            }
            (Some(_), Some(_)) => self.counts.late += 1,
            (Some(_) | None, _) => {
                self.seen.unmatched += 1;
                self.pending.keep_early(key, message.at, false);
            }
        }
    }

    /// Ends: queries that wait have no answer, and not for long enough to be unanswered.
    pub(super) fn end(&mut self) {
        self.seen.open = self.pending.open();
    }
}

/// Counts a query that ended without an answer.
fn lose(
    query: &Query,
    how: Lost,
    seconds: &mut Seconds,
    counts: &mut Counts,
    seen: &mut Seen,
    lists: &mut Lists,
    hasher: &RandomState,
) {
    if how == Lost::Forgotten {
        seen.forgotten += 1;
        return;
    }
    counts.timed_out += 1;
    seconds.row().lost += 1;
    lists.unanswered_names.add_short(hasher.hash_one(query.name.bytes()), query.name);
    lists.unanswered_clients.add(hasher.hash_one(query.client), query.client);
}

struct SocketAddrParts([u8; 16], u16);

#[inline]
fn parts(address: SocketAddr) -> SocketAddrParts {
    SocketAddrParts(addr::mapped(address.ip()), address.port())
}

/// Returns whether a name in any case is this one, or below it.
fn is_below(name: &[u8], zone: &[u8]) -> bool {
    let mut rest = name;
    loop {
        if rest.eq_ignore_ascii_case(zone) {
            return true;
        }
        let Some((&length, behind)) = rest.split_first() else { return false };
        let Some(next) = behind.get(usize::from(length)..).filter(|_| length > 0) else { return false };
        rest = next;
    }
}
