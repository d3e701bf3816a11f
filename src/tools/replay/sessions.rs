//! The connections of one thread of `dnslob replay`, over TCP or TLS: one for each that was recorded,
//! or for each client.
//!
//! ```text
//!  recorded:  opened and closed when it had been; its queries wait in it while it is being made
//!  a client:  opened by a query, for all of that address
//! ```
//! Either is closed, too, when it has been idle for too long: a capture may lack its end.
//! Whatever ends a connection, the next query of its client opens another. Where there are as many as
//! there may be to its server, it takes the place of the one that has been idle for longest. If each waits
//! for an answer, a query that is due is lost for want of a connection; one without a time waits for one.

#[cfg(test)]
mod pairs;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ahash::{AHashMap, RandomState};

use crate::base::time::{Tick, TickDelta};
use crate::engine::clock;
use crate::tls::client::ClientTls;
use crate::tls::session::Session;
use crate::tools::load::failures::{Failures, at_handshake, reason};
use crate::tools::load::sockets;
use crate::tools::load::stream::{Open, Stream};
use crate::tools::load::waiter::Waiter;
use crate::tools::replay::batch::{Batch, Job};
use crate::tools::replay::datagrams::intended;
use crate::tools::replay::ledger::Ledger;

/// What lanes and events of connections have that those of UDP sockets do not.
pub(crate) const STREAM: u32 = 1 << 31;

/// Entries of the list of idle connections that may be out of date, beside one for each connection.
const IDLE_SLACK: usize = 4_096;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Recorded(u64),
    Client(IpAddr),
}

/// A server.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ClientTls>>,
}

/// What connections are opened for.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) targets: Vec<Target>,
    /// Most connections at a time towards each target.
    pub(crate) most: usize,
    /// How long one may be idle.
    pub(crate) idle: TickDelta,
    /// How long an answer is waited for.
    pub(crate) timeout: TickDelta,
    /// Whether they come from the recorded addresses.
    pub(crate) spoof: bool,
    /// What tables are hashed with.
    pub(crate) hasher: RandomState,
}

#[derive(Debug)]
struct Connection {
    stream: Stream,
    key: Key,
    target: usize,
    is_connected: bool,
    /// Whether queries can go: the handshake of TLS is over, too.
    is_open: bool,
    /// The numbers of the queries that wait for that.
    queued: Vec<u32>,
    begun: Tick,
    /// Whether its recorded end has come.
    is_ending: bool,
    /// Whether it is waited until it can be written.
    writable: bool,
    /// Queries without an answer.
    owed: usize,
    used: Tick,
}

impl Connection {
    /// Notes that queries can go, if they can, and that those that have waited for that do.
    fn open(&mut self, ledger: &mut Ledger) {
        if self.is_open || !self.is_connected || self.stream.is_handshaking() {
            return;
        }
        self.is_open = true;
        ledger.counts(self.target).connections += 1;
        let now = clock::now();
        for number in self.queued.drain(..) {
            ledger.connected(number, self.target, now);
        }
    }
}

/// The connections.
#[derive(Debug)]
pub(crate) struct Sessions {
    plan: Plan,
    connections: Vec<Option<Connection>>,
    free: Vec<u32>,
    by_key: AHashMap<(Key, usize), u32>,
    /// Connections to each target.
    open: [usize; 2],
    /// Those to each target that owed nothing at a time, the earliest first; what has been used since then is
    /// passed over.
    idle: [VecDeque<(Tick, u32)>; 2],
    buffer: Vec<u8>,
    message: Vec<u8>,
    /// Connections that were closed before their time, because there were too many.
    pub(crate) evicted: u64,
    /// Why connections could not be made, to each target.
    pub(crate) failures: [Failures; 2],
}

impl Sessions {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            connections: Vec::new(),
            free: Vec::new(),
            by_key: AHashMap::with_hasher(plan.hasher.clone()),
            open: [0; 2],
            idle: <[VecDeque<(Tick, u32)>; 2]>::default(),
            buffer: Vec::new(),
            message: Vec::new(),
            evicted: 0,
            failures: <[Failures; 2]>::default(),
            plan,
        }
    }

    /// Opens the connections of a job; where there are too many, its queries will.
    pub(crate) fn open(&mut self, ledger: &mut Ledger, waiter: &Waiter, batch: &Batch, job: &Job) {
        for target in 0..self.plan.targets.len() {
            if self.open[target] < self.plan.most {
                self.lane(ledger, waiter, batch, job, target);
            }
        }
    }

    /// Closes the connections of a job, as soon as they have their answers.
    pub(crate) fn close(&mut self, ledger: &mut Ledger, job: &Job) {
        for target in 0..self.plan.targets.len() {
            let Some(at) = self.by_key.get(&(key(job), target)).copied() else { continue };
            let Some(Some(connection)) = self.connections.get_mut(at as usize) else { continue };
            connection.is_ending = true;
            if connection.owed == 0 && connection.is_open {
                self.end(ledger, at);
            }
        }
    }

    /// Returns whether there is a connection for a query to each target, or could be one.
    pub(crate) fn have_room(&mut self, job: &Job) -> bool {
        let key = key(job);
        (0..self.plan.targets.len()).all(|target| {
            self.by_key.contains_key(&(key, target))
                || self.open[target] < self.plan.most
                || self.longest_idle(target).is_some()
        })
    }

    /// Sends a query, for which the ledger has room. It was due from `begin` on; without it, at once.
    pub(crate) fn send(
        &mut self,
        ledger: &mut Ledger,
        waiter: &Waiter,
        batch: &Batch,
        job: &Job,
        begin: Option<Tick>,
    ) {
        let mut lanes = [None; 2];
        for (target, lane) in lanes.iter_mut().enumerate().take(self.plan.targets.len()) {
            *lane = self.lane(ledger, waiter, batch, job, target);
        }
        let now = clock::now();
        let numbers = lanes.map(|lane| lane.unwrap_or(0) | STREAM);
        let (slot, id) = ledger.ask(batch, job, numbers, intended(job, begin, now), now);
        self.message.clear();
        self.message.extend_from_slice(batch.bytes(&job.message));
        self.message[..2].copy_from_slice(&id.to_be_bytes());
        for (target, lane) in lanes.into_iter().enumerate().take(self.plan.targets.len()) {
            let place = lane.and_then(|at| self.connections.get_mut(at as usize));
            let Some(Some(connection)) = place else {
                ledger.unconnected(slot, target);
                continue;
            };
            if !connection.stream.push(&self.message) {
                ledger.unconnected(slot, target);
                continue;
            }
            connection.owed += 1;
            connection.used = now;
            if connection.is_open {
                ledger.sent(slot, target);
            } else {
                connection.queued.push(ledger.queued(slot, target));
            }
            if let Some(at) = lane {
                self.write(ledger, waiter, at);
            }
        }
    }

    /// Looks after a connection that has something to read or can be written.
    pub(crate) fn on_event(
        &mut self,
        ledger: &mut Ledger,
        waiter: &Waiter,
        at: u32,
        readable: bool,
        writable: bool,
    ) {
        let Some(Some(connection)) = self.connections.get_mut(at as usize) else { return };
        let target = connection.target;
        if !connection.is_connected {
            match connection.stream.socket().take_error() {
                Ok(None) if writable => {
                    connection.is_connected = true;
                }
                Ok(None) => return,
                Ok(Some(error)) | Err(error) => {
                    return self.fail(ledger, at, &reason(&error));
                }
            }
        }
        connection.open(ledger);
        if readable {
            let owed = &mut connection.owed;
            let owed_before = *owed;
            let outcome = connection.stream.read(&mut self.buffer, &mut |message| {
                *owed = owed.saturating_sub(1);
                ledger.take(target, at | STREAM, message, clock::now());
            });
            if connection.owed == 0 && owed_before > 0 {
                connection.used = clock::now();
                self.idle[target].push_back((connection.used, at));
            }
            connection.open(ledger);
            let why = match &outcome {
                Ok(Open::Closed) => Some("closed".to_owned()),
                Err(error) => Some(reason(error)),
                Ok(Open::Yes) => None,
            };
            if let Some(why) = why.filter(|_| !connection.is_open) {
                return self.fail(ledger, at, &why);
            }
            let is_partial = connection.stream.is_partial();
            match outcome {
                Ok(Open::Yes) if connection.is_ending && connection.owed == 0 => return self.end(ledger, at),
                Ok(Open::Yes) => {}
                Ok(Open::Closed) => {
                    // It is no DNS that ends so.
                    ledger.counts(target).malformed += u64::from(is_partial);
                    return self.end(ledger, at);
                }
                Err(error) => {
                    let is_nonsense = error.kind() == ErrorKind::InvalidData;
                    ledger.counts(target).malformed += u64::from(is_nonsense);
                    return self.end(ledger, at);
                }
            }
        }
        self.write(ledger, waiter, at);
    }

    /// Closes connections whose time is over.
    pub(crate) fn sweep(&mut self, ledger: &mut Ledger, now: Tick) {
        for target in 0..self.idle.len() {
            if self.idle[target].len() > 2 * self.open[target] + IDLE_SLACK {
                let mut idle = std::mem::take(&mut self.idle[target]);
                idle.retain(|(since, at)| self.is_idle_since(*since, *at));
                self.idle[target] = idle;
            }
        }
        for at in 0..self.connections.len() as u32 {
            let Some(Some(connection)) = self.connections.get_mut(at as usize) else { continue };
            if !connection.is_open && now.since(connection.begun) >= self.plan.timeout {
                self.fail(ledger, at, "timed out");
                continue;
            }
            let idle = now.since(connection.used);
            if connection.owed > 0 && idle > self.plan.timeout {
                // Nobody waits for its answers: it can make room for others.
                connection.owed = 0;
                self.idle[connection.target].push_back((connection.used, at));
            }
            // Whether the capture has its end is known only at that.
            let is_over = (connection.is_ending || idle > self.plan.idle) && connection.owed == 0;
            if is_over && connection.is_open {
                self.end(ledger, at);
            }
        }
    }

    /// Returns the number of a job's connection to a target, which may be a new one in the place of another.
    fn lane(
        &mut self,
        ledger: &mut Ledger,
        waiter: &Waiter,
        batch: &Batch,
        job: &Job,
        target: usize,
    ) -> Option<u32> {
        let key = key(job);
        if let Some(at) = self.by_key.get(&(key, target)) {
            return Some(*at);
        }
        if self.open[target] >= self.plan.most && !self.evict(ledger, target) {
            return None;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            // Limits are far below 2^31.
            self.connections.len() as u32 - 1
        });
        let opened = connect(&self.plan, target, job.client.ip()).and_then(|mut stream| {
            stream.begin_with(batch.bytes(&job.header));
            waiter.add(stream.socket(), u64::from(at | STREAM), true)?;
            Ok(stream)
        });
        let stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                ledger.counts(target).connect_errors += 1;
                self.failures[target].add(&reason(&error));
                self.free.push(at);
                return None;
            }
        };
        let used = clock::now();
        let connection = Connection {
            stream,
            key,
            target,
            is_connected: false,
            is_open: false,
            queued: Vec::new(),
            begun: used,
            is_ending: false,
            writable: true,
            owed: 0,
            used,
        };
        self.connections[at as usize] = Some(connection);
        self.by_key.insert((key, target), at);
        self.open[target] += 1;
        self.idle[target].push_back((used, at));
        Some(at)
    }

    /// Closes the connection to a target that has been idle for longest; false if each waits for an answer.
    fn evict(&mut self, ledger: &mut Ledger, target: usize) -> bool {
        let Some(at) = self.longest_idle(target) else { return false };
        self.evicted += 1;
        self.end(ledger, at);
        true
    }

    /// Returns the connection to a target that has been idle for longest.
    fn longest_idle(&mut self, target: usize) -> Option<u32> {
        while let Some((since, at)) = self.idle[target].front().copied() {
            if self.is_idle_since(since, at) {
                return Some(at);
            }
            self.idle[target].pop_front();
        }
        None
    }

    fn is_idle_since(&self, since: Tick, at: u32) -> bool {
        let connection = self.connections.get(at as usize).and_then(Option::as_ref);
        connection.is_some_and(|connection| connection.owed == 0 && connection.used == since)
    }

    /// Writes what a connection takes, and waits for the rest.
    fn write(&mut self, ledger: &mut Ledger, waiter: &Waiter, at: u32) {
        let Some(Some(connection)) = self.connections.get_mut(at as usize) else { return };
        if !connection.is_connected {
            return;
        }
        let pending = match connection.stream.write() {
            Ok(pending) => pending,
            Err(error) if !connection.is_open => return self.fail(ledger, at, &reason(&error)),
            Err(_) => return self.end(ledger, at),
        };
        if pending != connection.writable {
            connection.writable = pending;
            if waiter.modify(connection.stream.socket(), u64::from(at | STREAM), pending).is_err() {
                self.end(ledger, at);
            }
        }
    }

    /// Ends a connection that could not be made.
    fn fail(&mut self, ledger: &mut Ledger, at: u32, why: &str) {
        if let Some(Some(connection)) = self.connections.get(at as usize) {
            ledger.counts(connection.target).connect_errors += 1;
            self.failures[connection.target].add(&at_handshake(connection.is_connected, why));
        }
        self.end(ledger, at);
    }

    fn end(&mut self, ledger: &mut Ledger, at: u32) {
        let Some(connection) = self.connections.get_mut(at as usize).and_then(Option::take) else { return };
        self.by_key.remove(&(connection.key, connection.target));
        self.open[connection.target] -= 1;
        if connection.owed > 0 {
            ledger.closed(connection.target, at | STREAM);
        }
        self.free.push(at);
    }
}

const fn key(job: &Job) -> Key {
    match job.connection {
        Some(id) => Key::Recorded(id),
        None => Key::Client(job.client.ip()),
    }
}

fn connect(plan: &Plan, target: usize, client: IpAddr) -> io::Result<Stream> {
    let Target { address, tls } = &plan.targets[target];
    let session = tls.as_ref().map(|tls| Session::client(tls).map_err(|e| io::Error::other(e.to_string())));
    let session = session.transpose()?;
    let socket = if plan.spoof {
        sockets::connect_transparently(*address, client)?
    } else {
        sockets::connect(*address, None)?
    };
    Ok(Stream::new(socket, session))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::compare::Aspects;
    use crate::tools::load::tally::Tally;
    use crate::tools::replay::batch::Kind;
    use crate::tools::replay::feeder::hash;
    use crate::tools::replay::ledger::Against;
    use crate::wire::header;

    const IDLE: TickDelta = TickDelta::from_ms(1_000);
    const QUERY: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";

    /// Passes on what sockets have to say until this is so.
    pub(super) fn until(
        sessions: &mut Sessions,
        waiter: &mut Waiter,
        ledger: &mut Ledger,
        is_so: impl Fn(&Sessions, &mut Ledger) -> bool,
    ) {
        for _ in 0..500 {
            if is_so(sessions, ledger) {
                return;
            }
            for event in 0..waiter.wait(TickDelta::from_ms(10)) {
                let (number, readable, writable) = waiter.event(event);
                sessions.on_event(ledger, waiter, number as u32 & !STREAM, readable, writable);
            }
        }
        panic!("it does not come about: {:?}", ledger.counts(0));
    }

    fn answer_one(peer: &mut TcpStream) {
        let mut frame = vec![0; 2 + QUERY.len()];
        peer.read_exact(&mut frame).expect("a query");
        frame[4] |= 0x80;
        peer.write_all(&frame).expect("an answer");
    }

    #[test]
    fn a_client_has_one_connection_whatever_its_ports() {
        let job = |host: u8, port: u16, connection: Option<u64>| Job {
            kind: Kind::Query,
            due: TickDelta(0),
            client: ([192, 0, 2, host], port).into(),
            connection,
            by_stream: true,
            header: 0..0,
            message: 0..0,
            recorded: None,
            question: 0,
            question_bytes: 0,
        };
        assert_eq!(key(&job(1, 4_000, None)), key(&job(1, 4_001, None)));
        assert_ne!(key(&job(1, 4_000, None)), key(&job(2, 4_000, None)));
        // What was recorded over TCP keeps its own.
        assert_ne!(key(&job(1, 4_000, Some(7))), key(&job(1, 4_000, Some(8))));
        assert_ne!(key(&job(1, 4_000, Some(7))), key(&job(1, 4_000, None)));
    }

    #[test]
    fn a_connection_without_its_end_is_closed_when_it_is_idle() {
        for connection in [Some(7), None] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
            let address = listener.local_addr().expect("an address");
            let mut waiter = Waiter::new().expect("a set of sockets");
            let mut sessions = Sessions::new(Plan {
                targets: vec![Target { address, tls: None }],
                most: 4,
                idle: IDLE,
                timeout: TickDelta::from_ms(5_000),
                spoof: false,
                hasher: RandomState::with_seeds(1, 2, 3, 4),
            });
            let (send, _intervals) = crossbeam_channel::unbounded();
            let tally = Tally::new(0, clock::now(), true, send);
            let timeout = TickDelta::from_ms(5_000);
            let mut ledger = Ledger::new(0, vec![tally], Against::Nothing, Aspects::default(), timeout);
            let mut batch = Batch::default();
            let message = batch.keep(QUERY);
            let job = Job {
                kind: Kind::Query,
                due: TickDelta(0),
                client: ([192, 0, 2, 1], 4_000).into(),
                connection,
                by_stream: true,
                header: 0..0,
                message,
                recorded: None,
                question: hash(&QUERY[header::LEN..]),
                question_bytes: (QUERY.len() - header::LEN) as u16,
            };
            let ask = |sessions: &mut Sessions, ledger: &mut Ledger, waiter: &Waiter| {
                assert_eq!(ledger.room(1, clock::now()), 1);
                sessions.send(ledger, waiter, &batch, &job, None);
            };
            ask(&mut sessions, &mut ledger, &waiter);
            let (mut peer, _) = listener.accept().expect("a connection");
            peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
            until(&mut sessions, &mut waiter, &mut ledger, |_, ledger| ledger.counts(0).sent == 1);
            answer_one(&mut peer);
            until(&mut sessions, &mut waiter, &mut ledger, |_, ledger| ledger.counts(0).answered == 1);
            // What waits for an answer is not idle.
            ask(&mut sessions, &mut ledger, &waiter);
            let asked = clock::now();
            sessions.sweep(&mut ledger, asked + IDLE + IDLE);
            assert_eq!(sessions.by_key.len(), 1, "{connection:?}");
            answer_one(&mut peer);
            until(&mut sessions, &mut waiter, &mut ledger, |_, ledger| ledger.counts(0).answered == 2);
            sessions.sweep(&mut ledger, asked);
            assert_eq!(sessions.by_key.len(), 1, "{connection:?}");
            sessions.sweep(&mut ledger, clock::now() + IDLE + IDLE);
            assert_eq!(sessions.by_key.len(), 0, "{connection:?}");
            assert_eq!(peer.read(&mut [0]).expect("its end"), 0);
            let counts = ledger.counts(0);
            assert_eq!((counts.connections, counts.closed, counts.lost()), (1, 0, 0));
        }
    }
}
