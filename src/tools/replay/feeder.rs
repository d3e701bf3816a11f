//! Makes jobs of what a capture tells: filters queries, finds their recorded answers, stamps them, and
//! says when they are due. It reads no file and no clock.
//!
//! ```text
//!  events ─► wanted? ─► pending, oldest first ─► due, stamped ─► batch of the client's thread
//!                           ▲ answers                oldest leaves when it is answered, or after 2 s
//! ```
//! Queries leave in the order of the capture, and those of one client go to one thread.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use ahash::{AHashMap, RandomState};
use xxhash_rust::xxh3::xxh3_64;

use crate::base::time::TickDelta;
use crate::config::replay::{Carrier, Filter, ReplayOptions, Timing};
use crate::tools::capture::{Connection, Event, Message, Protocol};
use crate::tools::replay::batch::{Batch, Job, Kind};
use crate::tools::replay::filter::{self, Left};
use crate::tools::replay::schedule::Schedule;
use crate::tools::replay::stamp;
use crate::wire::edns;
use crate::wire::header::{self, Header};
use crate::wire::name;
use crate::wire::query::Question;

/// How long a recorded answer is waited for, nanoseconds of the capture.
pub(crate) const WINDOW: u64 = 2_000_000_000;
/// Bytes of queries and answers that wait at most.
const PENDING_BYTES: usize = 16 << 20;
/// What an entry takes besides its messages, bytes.
const ENTRY_BYTES: usize = 256;
/// Bytes of a datagram at most, with its PROXY header.
pub(crate) const DATAGRAM_MAX: usize = 2_048;
/// Nobody asks again so soon: what comes twice within this time was captured twice, nanoseconds.
const TWIN: u64 = 5_000_000;
/// How long nothing is due until that is said, nanoseconds,
const SILENCE: u64 = 10_000_000_000;
/// and how often at most.
const SILENCES_MAX: usize = 1_000;
/// Seconds whose queries are counted.
const SECONDS_MAX: usize = 100_000;

/// When the last query before a silence is due, and the first one behind it.
pub(crate) type Silence = (TickDelta, TickDelta);

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fed {
    /// Queries handed over.
    pub(crate) queries: u64,
    /// Queries left out, by their reason.
    pub(crate) left: [u64; Left::ALL.len()],
    /// Queries without the client subnet option that they should have.
    pub(crate) unstamped: u64,
    /// Queries with their recorded answer.
    pub(crate) paired: u64,
    /// Recorded responses that belong to none of them: their query is not there or left out, or has another
    /// one, or came more than two seconds before.
    pub(crate) unpaired: u64,
    /// Queries that were captured twice, and are sent twice.
    pub(crate) twins: u64,
    /// How often the capture's clock was set back.
    pub(crate) steps: u64,
    /// The time of the capture, nanoseconds.
    pub(crate) recorded: u64,
    /// When the last query is due.
    pub(crate) last_due: TickDelta,
    /// The queries that are due in each second.
    pub(crate) wanted: Vec<u64>,
}

/// What a recorded answer is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    client: SocketAddr,
    connection: Option<u64>,
    id: u16,
    question: u32,
}

/// Something recorded, with its bytes elsewhere.
#[derive(Clone, Copy, Debug)]
struct Item {
    kind: Kind,
    at: u64,
    client: SocketAddr,
    server: SocketAddr,
    connection: Option<u64>,
    by_stream: bool,
    question: u32,
    question_bytes: u16,
}

#[derive(Debug)]
struct Pending {
    item: Item,
    message: Vec<u8>,
    answer: Option<Vec<u8>>,
    key: Key,
}

/// The feeder.
#[derive(Debug)]
pub(crate) struct Feeder {
    carrier: Carrier,
    filter: Filter,
    /// Whether clients have to be of IPv4, or of IPv6, for their addresses to be sent from.
    of_ipv4: Option<bool>,
    count: u64,
    ecs: Option<(u8, u8)>,
    proxy: bool,
    /// Whether times are those of the capture.
    is_timed: bool,
    /// Whether recorded answers are looked for.
    pairs: bool,
    schedule: Schedule,
    pending: VecDeque<Pending>,
    /// The number of the oldest pending query.
    first: u64,
    by_key: AHashMap<Key, u64>,
    /// The last query by client, connection and id alone; from the first answer without a question on.
    by_id: Option<AHashMap<Key, u64>>,
    hasher: RandomState,
    pending_bytes: usize,
    /// The batch of each thread.
    batches: Vec<Batch>,
    /// Batches to be handed over, with their thread.
    pub(crate) ready: Vec<(usize, Batch)>,
    /// Times between which nothing is due for long.
    pub(crate) silences: Vec<Silence>,
    scratch: Vec<u8>,
    accepted: u64,
    fed: Fed,
}

impl Feeder {
    /// Prepares jobs for so many threads; tables are hashed with `hasher`.
    pub(crate) fn new(options: &ReplayOptions, threads: usize, hasher: RandomState) -> Self {
        Self {
            carrier: options.carrier,
            filter: options.filter.clone(),
            of_ipv4: options.spoof.then(|| options.target.is_ipv4()),
            count: options.count.unwrap_or(u64::MAX),
            ecs: options.ecs,
            proxy: options.proxy,
            is_timed: matches!(options.timing, Timing::Speed(_)),
            pairs: options.second.is_none() && !options.ignore_recorded,
            schedule: Schedule::new(options.timing),
            pending: VecDeque::new(),
            first: 0,
            by_key: AHashMap::with_hasher(hasher.clone()),
            by_id: None,
            hasher,
            pending_bytes: 0,
            batches: (0..threads).map(|_| Batch::default()).collect(),
            ready: Vec::new(),
            silences: Vec::new(),
            scratch: Vec::new(),
            accepted: 0,
            fed: Fed::default(),
        }
    }

    /// Returns whether all that is wanted has been handed over.
    pub(crate) fn is_done(&self) -> bool {
        self.accepted >= self.count && self.pending.is_empty()
    }

    /// Takes an event.
    pub(crate) fn take(&mut self, event: &Event<'_>) {
        match event {
            Event::Message(message) if message.is_response => self.answer(message),
            Event::Message(message) => self.query(message),
            Event::Opened(connection) => self.connection(connection, Kind::Open),
            Event::Closed(connection, _) => self.connection(connection, Kind::Close),
        }
    }

    /// Hands over what is there: nothing may come for a while. What is pending stays.
    pub(crate) fn flush(&mut self) {
        for thread in 0..self.batches.len() {
            if !self.batches[thread].jobs.is_empty() {
                self.ready.push((thread, std::mem::take(&mut self.batches[thread])));
            }
        }
    }

    /// Returns how many wait for their recorded answers.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Gives up waiting for the recorded answers of the oldest queries, so that so many are left.
    pub(crate) fn release(&mut self, left: usize) {
        while self.pending.len() > left {
            self.emit_oldest();
        }
    }

    /// Hands over everything.
    pub(crate) fn end(mut self) -> (Vec<(usize, Batch)>, Fed) {
        self.release(0);
        self.flush();
        let Self { ready, mut fed, schedule, .. } = self;
        (fed.steps, fed.recorded) = (schedule.steps, schedule.recorded());
        (ready, fed)
    }

    fn query(&mut self, message: &Message<'_>) {
        if self.accepted >= self.count {
            self.make_way(message.at);
            return;
        }
        let question = match filter::wanted(&self.filter, message.client.ip(), message.payload) {
            Ok(_) if !self.can_be_source(message.client) => {
                return self.fed.left[Left::OtherFamily.index()] += 1;
            }
            Ok(question) => question,
            Err(left) => return self.fed.left[left.index()] += 1,
        };
        self.accepted += 1;
        let by_stream = self.by_stream(message.protocol);
        let item = Item {
            kind: Kind::Query,
            at: message.at,
            client: message.client,
            server: message.server,
            connection: connection_of(message).filter(|_| by_stream),
            by_stream,
            question: hash(&message.payload[header::LEN..question.end]),
            // A name has at most 255 bytes.
            question_bytes: (question.end - header::LEN) as u16,
        };
        if !self.pairs {
            self.emit(&item, message.payload, None);
            return;
        }
        let key = key(message, item.question);
        self.push(Pending { item, message: message.payload.to_vec(), answer: None, key });
        self.make_way(message.at);
    }

    fn answer(&mut self, message: &Message<'_>) {
        if !self.pairs {
            return;
        }
        let Some(number) = self.number_of(message) else {
            self.fed.unpaired += 1;
            return;
        };
        let at = number.wrapping_sub(self.first);
        let place = usize::try_from(at).ok().and_then(|at| self.pending.get_mut(at));
        if let Some(pending) = place.filter(|pending| pending.answer.is_none()) {
            pending.answer = Some(message.payload.to_vec());
            self.pending_bytes += message.payload.len();
            self.fed.paired += 1;
        } else {
            self.fed.unpaired += 1;
        }
        self.make_way(message.at);
    }

    /// Returns the number of the pending query that a response belongs to.
    fn number_of(&mut self, message: &Message<'_>) -> Option<u64> {
        match Header::parse(message.payload)?.qdcount() {
            // An error may come without the question.
            0 if edns::rcode(message.payload) != 0 => self.number_by_id(key(message, 0)),
            1 => {
                let question = Question::parse(message.payload)?;
                let question = hash(&message.payload[header::LEN..question.end]);
                self.by_key.remove(&key(message, question))
            }
            0 | 2.. => None,
        }
    }

    /// Returns when the last query that was handed over is due.
    pub(crate) const fn last_due(&self) -> TickDelta {
        self.fed.last_due
    }

    /// Returns the number of the last pending query with this client, connection and id.
    fn number_by_id(&mut self, key: Key) -> Option<u64> {
        let Self { by_id, hasher, pending, first, by_key, .. } = self;
        let by_id = by_id.get_or_insert_with(|| {
            let mut all = AHashMap::with_hasher(hasher.clone());
            let queries = (*first..).zip(&*pending).filter(|(_, pending)| pending.item.kind == Kind::Query);
            all.extend(queries.map(|(number, pending)| (Key { question: 0, ..pending.key }, number)));
            all
        });
        let number = by_id.remove(&key)?;
        let at = usize::try_from(number.checked_sub(*first)?).ok()?;
        let found = pending.get(at)?;
        if by_key.get(&found.key) == Some(&number) {
            by_key.remove(&found.key);
        }
        Some(number)
    }

    fn connection(&mut self, connection: &Connection, kind: Kind) {
        // Without a query that is wanted, nobody needs it.
        let is_filtered =
            self.filter.rd.is_some() || !self.filter.names.is_empty() || !self.filter.types.is_empty();
        let is_wanted = filter::is_client(&self.filter, connection.client.ip())
            && self.can_be_source(connection.client)
            && self.by_stream(Protocol::Tcp)
            && self.accepted < self.count;
        if !is_wanted || is_filtered && kind == Kind::Open {
            return;
        }
        let item = Item {
            kind,
            at: connection.at,
            client: connection.client,
            server: connection.server,
            connection: Some(connection.id),
            by_stream: true,
            question: 0,
            question_bytes: 0,
        };
        if self.pending.is_empty() {
            self.emit(&item, &[], None);
        } else {
            let key = Key { client: item.client, connection: item.connection, id: 0, question: 0 };
            self.push(Pending { item, message: Vec::new(), answer: None, key });
        }
    }

    /// Returns whether what has to come from a client can come from there.
    fn can_be_source(&self, client: SocketAddr) -> bool {
        self.of_ipv4.is_none_or(|of_ipv4| of_ipv4 == client.is_ipv4())
    }

    const fn by_stream(&self, recorded: Protocol) -> bool {
        match self.carrier {
            Carrier::Udp => false,
            Carrier::Tcp | Carrier::Tls => true,
            Carrier::Recorded => !matches!(recorded, Protocol::Udp | Protocol::DnsCrypt),
        }
    }

    fn push(&mut self, pending: Pending) {
        self.pending_bytes += pending.message.len() + ENTRY_BYTES;
        if pending.item.kind == Kind::Query {
            // A query that is repeated before its answer gets it: the first has to do without.
            let number = self.first + self.pending.len() as u64;
            let earlier = self.by_key.insert(pending.key, number);
            let earlier = earlier.and_then(|earlier| self.pending.get((earlier - self.first) as usize));
            let at = pending.item.at;
            self.fed.twins += u64::from(earlier.is_some_and(|twin| twin.item.at.abs_diff(at) <= TWIN));
            if let Some(by_id) = &mut self.by_id {
                by_id.insert(Key { question: 0, ..pending.key }, number);
            }
        }
        self.pending.push_back(pending);
    }

    /// Hands over the oldest ones that have their answers, or have waited for long enough.
    fn make_way(&mut self, at: u64) {
        while let Some(oldest) = self.pending.front() {
            let is_ready = oldest.item.kind != Kind::Query
                || oldest.answer.is_some()
                || at.saturating_sub(oldest.item.at) > WINDOW
                || self.pending_bytes > PENDING_BYTES;
            if !is_ready {
                break;
            }
            self.emit_oldest();
        }
    }

    fn emit_oldest(&mut self) {
        let Some(Pending { item, message, answer, key }) = self.pending.pop_front() else { return };
        let number = self.first;
        self.first += 1;
        self.pending_bytes -= message.len() + ENTRY_BYTES + answer.as_ref().map_or(0, Vec::len);
        if answer.is_none() && self.by_key.get(&key) == Some(&number) {
            self.by_key.remove(&key);
        }
        let key = Key { question: 0, ..key };
        if let Some(by_id) = self.by_id.as_mut().filter(|by_id| by_id.get(&key) == Some(&number)) {
            by_id.remove(&key);
        }
        self.emit(&item, &message, answer.as_deref());
    }

    /// Adds a job to the batch of its client's thread.
    fn emit(&mut self, item: &Item, message: &[u8], answer: Option<&[u8]>) {
        let is_query = item.kind == Kind::Query;
        let due = self.schedule.due(item.at, is_query);
        let threads = self.batches.len();
        let thread = thread_of(item.client.ip(), threads);
        let batch = &mut self.batches[thread];
        self.scratch.clear();
        if self.proxy {
            stamp::header(&mut self.scratch, item.by_stream, item.client, item.server);
        }
        let header_bytes = self.scratch.len();
        let header = batch.keep(&self.scratch);
        let mut place = 0..0;
        if is_query {
            self.scratch.clear();
            self.scratch.extend_from_slice(message);
            stamp::without_cookie(&mut self.scratch);
            if let Some(bits) = self.ecs
                && !stamp::subnet(&mut self.scratch, item.client.ip(), bits)
            {
                self.fed.unstamped += 1;
            }
            if !item.by_stream && header_bytes + self.scratch.len() > DATAGRAM_MAX {
                self.fed.left[Left::TooLong.index()] += 1;
                return;
            }
            place = batch.keep(&self.scratch);
            self.fed.queries += 1;
            if due.0.saturating_sub(self.fed.last_due.0) > SILENCE && self.silences.len() < SILENCES_MAX {
                self.silences.push((self.fed.last_due, due));
            }
            self.fed.last_due = due;
            let second = (due.0 / 1_000_000_000) as usize;
            if self.is_timed && second < SECONDS_MAX {
                if self.fed.wanted.len() <= second {
                    self.fed.wanted.resize(second + 1, 0);
                }
                self.fed.wanted[second] += 1;
            }
        }
        let recorded = answer.map(|answer| batch.keep(answer));
        let Item { kind, client, connection, by_stream, question, question_bytes, .. } = *item;
        let message = place;
        let job = Job {
            kind,
            due,
            client,
            connection,
            by_stream,
            header,
            message,
            recorded,
            question,
            question_bytes,
        };
        batch.jobs.push(job);
        if batch.is_full() {
            // Those of other threads, too: what they have may be due, however little it is.
            self.flush();
        }
    }
}

fn key(message: &Message<'_>, question: u32) -> Key {
    // A message has a whole header.
    let id = Header::parse(message.payload).map_or(0, |head| head.id());
    Key { client: message.client, connection: message.connection, id, question }
}

/// Returns a hash of a question, whatever its case.
pub(crate) fn hash(question: &[u8]) -> u32 {
    let mut lower = [0; name::LEN_MAX + 4];
    let Some(room) = lower.get_mut(..question.len()) else { return 0 };
    room.copy_from_slice(question);
    // Types and classes are folded, too, which two questions with one name hardly differ by.
    room.make_ascii_lowercase();
    xxh3_64(room) as u32
}

/// Returns the connection that a message was recorded in. Dnstap does not number them: there it is that of the
/// client's port.
fn connection_of(message: &Message<'_>) -> Option<u64> {
    let by_datagram = matches!(message.protocol, Protocol::Udp | Protocol::DnsCrypt);
    let by_port = || {
        let mut bytes = [0; 18];
        bytes[..16].copy_from_slice(&crate::base::addr::mapped(message.client.ip()));
        bytes[16..].copy_from_slice(&message.client.port().to_be_bytes());
        // Numbers do not reach the first bit.
        xxh3_64(&bytes) | 1 << 63
    };
    message.connection.or_else(|| (!by_datagram).then(by_port))
}

/// Returns the thread of a client.
fn thread_of(client: IpAddr, threads: usize) -> usize {
    if threads == 1 {
        return 0;
    }
    (xxh3_64(&crate::base::addr::mapped(client)) % threads as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::capture::End;

    fn options(arguments: &[&str]) -> ReplayOptions {
        let all = ["replay", "x", "127.0.0.1"].iter().chain(arguments);
        let matches = crate::config::replay::command().try_get_matches_from(all).expect("options");
        crate::config::replay::options(&matches)
    }

    fn client(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 4_000))
    }

    fn message(id: u8, is_response: bool) -> Vec<u8> {
        let flags = if is_response { 0x81 } else { 1 };
        [&[0, id, flags, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a' + id][..], b"\x07Example\0\0\x01\0\x01"].concat()
    }

    fn take(feeder: &mut Feeder, at: u64, from: u8, protocol: Protocol, payload: &[u8]) {
        let connection = (protocol == Protocol::Tcp).then_some(u64::from(from));
        let server = SocketAddr::from(([198, 51, 100, 1], 53));
        let is_response = payload[2] & 0x80 != 0;
        feeder.take(&Event::Message(Message {
            at,
            asked: None,
            client: client(from),
            server,
            protocol,
            connection,
            is_response,
            payload,
        }));
    }

    fn fresh(arguments: &[&str], threads: usize) -> Feeder {
        Feeder::new(&options(arguments), threads, RandomState::with_seeds(1, 2, 3, 4))
    }

    /// A job with its query and the recorded answer.
    type Taken = (Job, Vec<u8>, Option<Vec<u8>>);

    fn jobs(feeder: Feeder) -> (Vec<Taken>, Fed) {
        let (ready, fed) = feeder.end();
        let all = ready.iter().flat_map(|(_, batch)| {
            batch.jobs.iter().map(|job| {
                let recorded = job.recorded.as_ref().map(|place| batch.bytes(place).to_vec());
                (job.clone(), batch.bytes(&job.message).to_vec(), recorded)
            })
        });
        (all.collect(), fed)
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn queries_get_their_recorded_answers_and_keep_their_order() {
        let mut feeder = fresh(&[], 1);
        for (at, id, from) in [(10, 0, 1), (11, 1, 2), (12, 2, 1)] {
            take(&mut feeder, at * SECOND, from, Protocol::Udp, &message(id, false));
        }
        // Out of order, one of another client, and one never.
        take(&mut feeder, 12 * SECOND, 1, Protocol::Udp, &message(2, true));
        take(&mut feeder, 12 * SECOND, 1, Protocol::Udp, &message(1, true));
        let upper = message(0, true).to_ascii_uppercase();
        take(&mut feeder, 12 * SECOND, 1, Protocol::Udp, &upper);
        assert_eq!(feeder.pending(), 2, "the first has its answer");
        let (jobs, fed) = jobs(feeder);
        let seen: Vec<_> = jobs.iter().map(|(job, m, r)| (job.due.0 / SECOND, m[1], r.is_some())).collect();
        assert_eq!(seen, [(0, 0, true), (1, 1, false), (2, 2, true)]);
        assert_eq!((fed.queries, fed.paired, fed.recorded), (3, 2, 2 * SECOND));
        assert_eq!(fed.wanted, [1, 1, 1]);
        assert_eq!(jobs[0].2.as_deref(), Some(&upper[..]));
    }

    #[test]
    fn errors_without_the_question_are_recorded_answers() {
        let mut feeder = fresh(&[], 1);
        let bare = |id: u8, code: u8| [0, id, 0x80, code, 0, 0, 0, 0, 0, 0, 0, 0];
        for id in [0, 1, 2, 3] {
            take(&mut feeder, 10, 1, Protocol::Udp, &message(id, false));
        }
        // Out of order; another client's; one that is no error; the same again.
        for (from, answer) in
            [(1, bare(2, 1)), (2, bare(0, 1)), (1, bare(1, 0)), (1, bare(0, 5)), (1, bare(0, 5))]
        {
            take(&mut feeder, 11, from, Protocol::Udp, &answer);
        }
        take(&mut feeder, 12, 1, Protocol::Udp, &message(4, false));
        take(&mut feeder, 13, 1, Protocol::Udp, &bare(4, 2));
        assert_eq!(feeder.by_id.as_ref().map(|by_id| by_id.len()), Some(2), "those that wait");
        let (jobs, fed) = jobs(feeder);
        let codes: Vec<_> = jobs.iter().map(|(.., recorded)| recorded.as_ref().map(|r| r[3])).collect();
        assert_eq!((codes, fed.paired), (vec![Some(5), None, Some(1), None, Some(2)], 3));
        assert_eq!(fed.unpaired, 3, "responses that are nobody's are not hidden");
    }

    #[test]
    fn what_was_captured_twice_is_noticed() {
        let mut feeder = fresh(&[], 1);
        for n in 0..4 {
            let at = u64::from(n) * SECOND;
            for at in [at, at + 20_000] {
                take(&mut feeder, at, 1, Protocol::Udp, &message(n, false));
            }
        }
        // A client that asks again.
        take(&mut feeder, 3 * SECOND + 2 * TWIN, 1, Protocol::Udp, &message(3, false));
        let (jobs, fed) = jobs(feeder);
        assert_eq!((jobs.len(), fed.twins), (9, 4));
    }

    #[test]
    fn the_cookie_of_the_server_that_was_asked_stays_with_it() {
        let with_cookie = |length: u8| {
            let mut query = message(0, false);
            query[11] = 1;
            query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, length + 4, 0, 10, 0, length]);
            query.extend(vec![7; length.into()]);
            query
        };
        let mut feeder = fresh(&["--ignore-recorded"], 1);
        for length in [24, 8] {
            take(&mut feeder, 0, 1, Protocol::Udp, &with_cookie(length));
        }
        let (jobs, _) = jobs(feeder);
        let mut without = message(0, false);
        without[11] = 1;
        without.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        assert_eq!((&jobs[0].1, &jobs[1].1), (&without, &with_cookie(8)));
    }

    #[test]
    fn answers_are_not_waited_for_without_end() {
        let mut feeder = fresh(&[], 1);
        take(&mut feeder, 0, 1, Protocol::Udp, &message(0, false));
        take(&mut feeder, WINDOW, 1, Protocol::Udp, &message(1, false));
        assert_eq!(feeder.pending(), 2);
        take(&mut feeder, WINDOW + 1, 1, Protocol::Udp, &message(2, false));
        assert_eq!(feeder.pending(), 2, "the first is too old");
        feeder.release(1);
        assert_eq!(feeder.pending(), 1);
        for n in 0..200_000 {
            take(&mut feeder, WINDOW + 1, 1, Protocol::Udp, &message(n as u8 % 20, false));
            feeder.ready.clear();
        }
        assert!(feeder.pending() * ENTRY_BYTES <= PENDING_BYTES && feeder.by_key.len() <= 21);
        let mut alone = fresh(&["--ignore-recorded"], 1);
        take(&mut alone, 0, 1, Protocol::Udp, &message(0, false));
        assert_eq!((alone.pairs, alone.pending()), (false, 0));
    }

    #[test]
    fn long_silences_are_told() {
        for (arguments, silences) in
            [(&[][..], &[(1, 12), (22, 40)][..]), (&["--speed", "2"], &[]), (&["--max"], &[])]
        {
            let mut feeder = fresh(&[&["--ignore-recorded"], arguments].concat(), 1);
            for at in [0, 1, 12, 22, 40] {
                take(&mut feeder, at * SECOND, 1, Protocol::Udp, &message(0, false));
            }
            let told: Vec<_> = feeder.silences.iter().map(|(a, b)| (a.0 / SECOND, b.0 / SECOND)).collect();
            assert_eq!(told, silences, "{arguments:?}");
        }
    }

    #[test]
    fn each_client_has_its_thread() {
        let mut feeder = fresh(&["--max"], 3);
        for n in 0..200 {
            take(&mut feeder, 0, n % 40, Protocol::Udp, &message(n % 7, false));
        }
        let (ready, fed) = feeder.end();
        assert_eq!((fed.queries, ready.len()), (200, 3));
        let mut seen = std::collections::BTreeMap::new();
        for (thread, batch) in &ready {
            assert!(batch.jobs.len() > 20, "clients are spread");
            for job in &batch.jobs {
                assert_eq!(seen.entry(job.client).or_insert(*thread), thread);
            }
        }
    }

    #[test]
    fn connections_are_opened_and_closed_where_they_are_used() {
        for (arguments, opened, streams) in [
            (&[][..], 2, 1),
            (&["--transport", "udp"], 0, 0),
            (&["--transport", "tcp"], 2, 2),
            (&["--type", "A"], 1, 1),
        ] {
            let mut feeder = fresh(arguments, 1);
            let connection = Connection {
                id: 7,
                at: 0,
                client: client(7),
                server: SocketAddr::from(([198, 51, 100, 1], 53)),
            };
            feeder.take(&Event::Opened(connection));
            take(&mut feeder, SECOND, 7, Protocol::Tcp, &message(0, false));
            take(&mut feeder, SECOND, 8, Protocol::Udp, &message(1, false));
            feeder.take(&Event::Closed(Connection { at: 2 * SECOND, ..connection }, End::Finished));
            let (jobs, _) = jobs(feeder);
            let of = |kind: Kind| jobs.iter().filter(|(job, ..)| job.kind == kind).count();
            assert_eq!(of(Kind::Open) + of(Kind::Close), opened, "{arguments:?}");
            assert_eq!(of(Kind::Query), 2);
            let by_stream = jobs.iter().filter(|(job, ..)| job.kind == Kind::Query && job.by_stream).count();
            assert_eq!(by_stream, streams, "{arguments:?}");
        }
    }

    #[test]
    fn connections_without_a_number_are_those_of_their_ports() {
        let connections = |protocol: Protocol, arguments: &[&str]| {
            let mut feeder = fresh(&[&["--ignore-recorded"], arguments].concat(), 1);
            let payload = message(0, false);
            for (host, port) in [(1, 4_000), (1, 4_000), (1, 4_001), (2, 4_000)] {
                feeder.take(&Event::Message(Message {
                    at: 0,
                    asked: None,
                    client: ([192, 0, 2, host], port).into(),
                    server: ([198, 51, 100, 1], 53).into(),
                    protocol,
                    connection: None,
                    is_response: false,
                    payload: &payload,
                }));
            }
            jobs(feeder).0.into_iter().map(|(job, ..)| job.connection).collect::<Vec<_>>()
        };
        let of = connections(Protocol::Tcp, &[]);
        assert!(of.iter().all(Option::is_some), "{of:?}");
        assert_eq!((of[0], of[0] == of[2], of[0] == of[3]), (of[1], false, false), "{of:?}");
        assert_eq!(connections(Protocol::Tcp, &["--transport", "udp"]), [None; 4]);
        assert_eq!(
            connections(Protocol::Udp, &["--transport", "tcp"]),
            [None; 4],
            "they are of their clients"
        );
    }

    #[test]
    fn clients_of_another_family_are_no_sources() {
        for (arguments, queries, left) in [
            (&["--spoof-sources"][..], 1, 1),
            (&[], 2, 0),
            (&["--spoof-sources", "--transport", "tcp"], 1, 1),
        ] {
            let mut feeder = fresh(&[&["--ignore-recorded"], arguments].concat(), 1);
            let payload = message(0, false);
            for client in ["192.0.2.1:4000", "[2001:db8::1]:4000"] {
                let client = client.parse().expect("an address");
                let server = SocketAddr::from(([198, 51, 100, 1], 53));
                feeder.take(&Event::Opened(Connection { id: 7, at: 0, client, server }));
                feeder.take(&Event::Message(Message {
                    at: 0,
                    asked: None,
                    client,
                    server,
                    protocol: Protocol::Tcp,
                    connection: Some(7),
                    is_response: false,
                    payload: &payload,
                }));
            }
            let (jobs, fed) = jobs(feeder);
            assert_eq!((fed.queries, fed.left[Left::OtherFamily.index()]), (queries, left), "{arguments:?}");
            assert_eq!(jobs.len() as u64, 2 * queries, "each opens a connection: {arguments:?}");
        }
    }

    #[test]
    fn queries_are_counted_filtered_and_stamped() {
        let arguments = ["--count", "2", "--client", "192.0.2.0/31", "--ecs-stamp=24,56", "--proxy"];
        let mut feeder = fresh(&arguments, 1);
        for n in [0, 1, 2, 0, 1] {
            take(&mut feeder, 0, n, Protocol::Udp, &message(n, false));
        }
        assert!(!feeder.is_done(), "they wait for their answers");
        take(&mut feeder, WINDOW + 1, 0, Protocol::Udp, &message(0, false));
        assert!(feeder.is_done());
        let (ready, fed) = feeder.end();
        let jobs = &ready[0].1.jobs;
        assert_eq!((jobs.len(), fed.queries, fed.left[Left::Filtered.index()]), (2, 2, 0));
        let batch = &ready[0].1;
        let subnet = crate::wire::ecs::parse(batch.bytes(&jobs[1].message)).expect("a subnet");
        assert_eq!((subnet.source, batch.bytes(&jobs[1].header).len()), (24, 28));
    }

    #[test]
    fn what_does_not_fit_a_datagram_is_left_out() {
        let mut long = message(0, false);
        long[11] = 1;
        long.extend([0, 0, 41, 4, 0, 0, 0, 0, 0, 8, 0, 0, 12, 7, 252]);
        long.resize(long.len() + 2_044, 0);
        let mut feeder = fresh(&[], 1);
        take(&mut feeder, 0, 1, Protocol::Udp, &long);
        let (jobs, fed) = jobs(feeder);
        assert_eq!((jobs.len(), fed.left[Left::TooLong.index()]), (0, 1));
    }
}
