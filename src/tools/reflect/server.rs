//! One thread of the name server: its sockets, its connections, and the answers that it holds back.
//!
//! ```text
//!  datagrams, messages ─► impairment ─► answer ──────────────► sent in batches
//!                                          └─► held back ─due──┘
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::errno::Errno;
use socket2::Socket;

use crate::base::addr::Endpoint;
use crate::base::packet::Packet;
use crate::base::time::{Tick, TickDelta};
use crate::engine::clock;
use crate::engine::sys::{
    self, Local, MESSAGE_MAX, Note, OutgoingDatagram, ReceiveBuffers, Segment, SendBuffers,
};
use crate::tls::server::ServerTls;
use crate::tls::session::Session;
use crate::tools::load::stream::{Open, Stream};
use crate::tools::load::waiter::{Interest, Waiter};
use crate::tools::reflect::answer::{self, Shape};
use crate::tools::reflect::impairment::Impairment;
use crate::tools::reflect::tally::Tally;

/// Datagrams of one system call.
const BATCH: usize = 64;
/// Batches of one turn, so that connections and delays have theirs.
const BATCHES_MAX: usize = 16;
/// Longest sleep, so that the end is noticed.
const SLEEP: TickDelta = TickDelta::from_ms(50);
/// Most answers held back; further ones are lost, and counted.
const HELD_MAX: usize = 1 << 20;
/// Most connections of a thread; further ones are closed, and counted.
const CONNECTIONS_MAX: usize = 50_000;
/// Connections accepted in one turn.
const ACCEPTS_MAX: usize = 64;
/// Buffer of a message of a connection with its answer, bytes.
const SCRATCH: usize = 2 * MESSAGE_MAX;

/// What the events of the fixed sockets are known by; connections have numbers from [`FIRST`] on.
const UDP: u64 = 0;
const TCP: u64 = 1;
const TLS: u64 = 2;
const FIRST: u64 = 3;

/// The sockets of a thread.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) udp: Socket,
    pub(crate) tcp: Socket,
    pub(crate) tls: Option<(Socket, Arc<ServerTls>)>,
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Datagram(Option<Endpoint>, Option<Local>),
    Connection(u64),
}

/// An answer that waits, ordered by its time.
#[derive(Debug)]
struct Held {
    due: Tick,
    number: u64,
    to: To,
    message: Box<[u8]>,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// A client's connection.
#[derive(Debug)]
struct Connection {
    stream: Stream,
    /// Which of the connections that have had this place.
    generation: u32,
    /// What it is waited for.
    interest: Interest,
    /// Answers that are held back for it.
    owed: usize,
    /// Whether the client asks nothing more, and waits for what it has asked.
    is_ending: bool,
}

/// A thread.
pub(crate) struct Server {
    sockets: Sockets,
    /// A descriptor to be given up for a connection that is refused.
    spare: Option<File>,
    waiter: Waiter,
    received: ReceiveBuffers,
    staged: ReceiveBuffers,
    send: SendBuffers,
    segment: Segment,
    outgoing: Vec<OutgoingDatagram>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    generation: u32,
    held: BinaryHeap<Reverse<Held>>,
    held_number: u64,
    buffer: Vec<u8>,
    shape: Shape,
    impairment: Impairment,
    tally: Tally,
}

impl Server {
    /// Takes over its sockets.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn new(sockets: Sockets, shape: Shape, impairment: Impairment) -> io::Result<Self> {
        let waiter = Waiter::new()?;
        waiter.add(&sockets.udp, UDP, false)?;
        waiter.add(&sockets.tcp, TCP, false)?;
        if let Some((socket, _)) = &sockets.tls {
            waiter.add(socket, TLS, false)?;
        }
        Ok(Self {
            sockets,
            spare: File::open("/dev/null").ok(),
            waiter,
            received: ReceiveBuffers::new(BATCH),
            staged: ReceiveBuffers::new(BATCH),
            send: SendBuffers::new(BATCH),
            segment: Segment::Runs,
            outgoing: Vec::with_capacity(BATCH),
            connections: Vec::new(),
            free: Vec::new(),
            generation: 0,
            held: BinaryHeap::new(),
            held_number: 0,
            buffer: Vec::new(),
            shape,
            impairment,
            tally: Tally::default(),
        })
    }

    /// Answers until the end, and returns what was done.
    pub(crate) fn serve(mut self, ending: &AtomicBool) -> Tally {
        Waiter::be_exact();
        let mut scratch = vec![0; SCRATCH];
        while !ending.load(Relaxed) {
            let sleep = self.held.peek().map_or(SLEEP, |Reverse(held)| held.due.since(clock::now()));
            for event in 0..self.waiter.wait(sleep.min(SLEEP)) {
                let (which, readable, writable) = self.waiter.event(event);
                match which {
                    UDP => self.read_datagrams(),
                    TCP | TLS => self.accept(which == TLS),
                    connection => self.on_connection(connection, readable, writable, &mut scratch),
                }
            }
            self.release(clock::now());
        }
        self.tally
    }

    fn read_datagrams(&mut self) {
        let wildcard = self
            .sockets
            .udp
            .local_addr()
            .is_ok_and(|a| a.as_socket().is_some_and(|a| a.ip().is_unspecified()));
        let note = if wildcard { Note::PeerAndLocal } else { Note::Peer };
        for _ in 0..BATCHES_MAX {
            let Ok(count) = self.received.receive(self.sockets.udp.as_fd(), 0, note) else { return };
            self.answer_datagrams(count);
            if count < BATCH {
                return;
            }
        }
    }

    fn answer_datagrams(&mut self, count: usize) {
        self.outgoing.clear();
        for at in 0..count {
            self.tally.udp += 1;
            let (to, from) = (self.received.peer(at), self.received.local(at));
            let Some(wanted) = self.impairment.decide(true) else {
                self.tally.dropped += 1;
                continue;
            };
            let mut packet = self.received.packet(at);
            let Some(made) = answer::make(&mut packet, &self.shape, wanted) else {
                self.tally.ignored += 1;
                continue;
            };
            self.tally.count(made);
            let (start, len) = (packet.start(), packet.len());
            let delay = self.impairment.delay();
            if delay.0 == 0 {
                self.outgoing.push(OutgoingDatagram { at, start, len, to, from });
            } else {
                let message = Box::from(packet.bytes());
                let _ = self.hold(clock::now() + delay, To::Datagram(to, from), message);
            }
        }
        transmit(
            &self.sockets.udp,
            &mut self.send,
            &mut self.segment,
            &self.received,
            &self.outgoing,
            &mut self.tally,
        );
    }

    /// Holds an answer back; returns whether there was room for it.
    fn hold(&mut self, due: Tick, to: To, message: Box<[u8]>) -> bool {
        if self.held.len() >= HELD_MAX {
            self.tally.not_held += 1;
            return false;
        }
        self.held_number += 1;
        self.held.push(Reverse(Held { due, number: self.held_number, to, message }));
        true
    }

    /// Sends what is due.
    fn release(&mut self, now: Tick) {
        self.outgoing.clear();
        while self.held.peek().is_some_and(|Reverse(held)| held.due <= now) {
            let Some(Reverse(held)) = self.held.pop() else { break };
            match held.to {
                To::Datagram(to, from) => {
                    let at = self.outgoing.len();
                    let mut packet = self.staged.packet_at(at, 0, 0);
                    if packet.append(&held.message) {
                        self.outgoing.push(OutgoingDatagram {
                            at,
                            start: 0,
                            len: held.message.len(),
                            to,
                            from,
                        });
                    }
                    if self.outgoing.len() == BATCH {
                        self.transmit_staged();
                    }
                }
                To::Connection(which) => {
                    if let Some(connection) = find(&mut self.connections, which) {
                        connection.owed -= 1;
                        if !connection.stream.push_anyway(&held.message) {
                            self.tally.send_errors += 1;
                        }
                        self.write(which);
                    }
                }
            }
        }
        self.transmit_staged();
    }

    fn transmit_staged(&mut self) {
        transmit(
            &self.sockets.udp,
            &mut self.send,
            &mut self.segment,
            &self.staged,
            &self.outgoing,
            &mut self.tally,
        );
        self.outgoing.clear();
    }

    fn accept(&mut self, tls: bool) {
        for _ in 0..ACCEPTS_MAX {
            let listener = match (&self.sockets.tls, tls) {
                (Some((socket, _)), true) => socket,
                _ => &self.sockets.tcp,
            };
            let socket = match sys::accept(listener.as_fd()) {
                Ok((socket, _)) => socket,
                Err(e) if is_out_of_files(&e) => {
                    // Left alone, the connection would wake the thread for ever.
                    self.spare = None;
                    let refused = sys::accept(listener.as_fd()).is_ok();
                    self.tally.refused += u64::from(refused);
                    self.spare = File::open("/dev/null").ok();
                    return;
                }
                Err(_) => return,
            };
            if self.connections.len() - self.free.len() >= CONNECTIONS_MAX {
                self.tally.refused += 1;
                continue;
            }
            let session = match &self.sockets.tls {
                Some((_, settings)) if tls => match Session::server(settings) {
                    Ok(session) => Some(session),
                    Err(_) => continue,
                },
                _ => None,
            };
            let at = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.generation = self.generation.wrapping_add(1);
            let connection = Connection {
                stream: Stream::new(socket, session),
                generation: self.generation,
                interest: Interest { readable: true, writable: false },
                owed: 0,
                is_ending: false,
            };
            if self.waiter.add(connection.stream.socket(), name(at, self.generation), false).is_ok() {
                self.connections[at] = Some(connection);
                self.tally.connections += 1;
            } else {
                self.free.push(at);
            }
        }
    }

    fn on_connection(&mut self, which: u64, readable: bool, writable: bool, scratch: &mut [u8]) {
        let Some(connection) = find(&mut self.connections, which) else { return };
        if readable && connection.is_ending {
            // Not waited for: the connection is broken.
            self.close(which);
            return;
        }
        let mut open = Ok(Open::Yes);
        // Who reads no answers is not read.
        if readable && !connection.stream.is_full() {
            let mut answers: Vec<(TickDelta, Box<[u8]>)> = Vec::new();
            let (tally, impairment, shape) = (&mut self.tally, &mut self.impairment, &self.shape);
            let mut answers_to = |message: &[u8]| {
                tally.tcp += 1;
                let Some(room) = scratch.get_mut(..message.len()) else {
                    tally.ignored += 1;
                    return;
                };
                room.copy_from_slice(message);
                let mut packet = Packet::new(scratch, 0, message.len());
                let made =
                    impairment.decide(false).and_then(|wanted| answer::make(&mut packet, shape, wanted));
                match made {
                    Some(made) => {
                        tally.count(made);
                        answers.push((impairment.delay(), Box::from(packet.bytes())));
                    }
                    None => tally.ignored += 1,
                }
            };
            open = connection.stream.read(&mut self.buffer, &mut answers_to);
            for (delay, message) in answers {
                if delay.0 > 0 {
                    let is_held = self.hold(clock::now() + delay, To::Connection(which), message);
                    if let Some(connection) = find(&mut self.connections, which) {
                        connection.owed += usize::from(is_held);
                    }
                } else if let Some(connection) = find(&mut self.connections, which)
                    && !connection.stream.push_anyway(&message)
                {
                    self.tally.send_errors += 1;
                }
            }
        }
        match open {
            Ok(Open::Yes) => {}
            // Who asks nothing more may still wait for answers.
            Ok(Open::Closed) => {
                if let Some(connection) = find(&mut self.connections, which) {
                    connection.is_ending = true;
                }
            }
            Err(_) => {
                self.close(which);
                return;
            }
        }
        if readable || writable {
            self.write(which);
        }
    }

    /// Writes what a connection takes, and waits for the rest.
    fn write(&mut self, which: u64) {
        let Some(connection) = find(&mut self.connections, which) else { return };
        let Ok(pending) = connection.stream.write() else {
            self.close(which);
            return;
        };
        if connection.is_ending && connection.owed == 0 && !pending {
            self.close(which);
            return;
        }
        // Who reads no answers is not read.
        let readable = !connection.stream.is_full() && !connection.is_ending;
        let interest = Interest { readable, writable: pending };
        if interest != connection.interest {
            connection.interest = interest;
            let changed = self.waiter.change(connection.stream.socket(), which, interest);
            if changed.is_err() {
                self.close(which);
            }
        }
    }

    fn close(&mut self, which: u64) {
        if find(&mut self.connections, which).is_some() {
            let at = index(which);
            self.connections[at] = None;
            self.free.push(at);
        }
    }
}

/// Sends datagrams, and those of a refused run again one by one.
fn transmit(
    socket: &Socket,
    send: &mut SendBuffers,
    segment: &mut Segment,
    bytes: &ReceiveBuffers,
    outgoing: &[OutgoingDatagram],
    tally: &mut Tally,
) {
    if outgoing.is_empty() {
        return;
    }
    let mut again = Vec::new();
    send.send(socket.as_fd(), bytes, outgoing, *segment, &mut |range, _| {
        if range.len() > 1 {
            again.extend_from_slice(&outgoing[range]);
        } else {
            tally.send_errors += 1;
        }
    });
    if !again.is_empty() {
        // The device cannot send segments (udp(7)).
        *segment = Segment::Never;
        send.send(socket.as_fd(), bytes, &again, Segment::Never, &mut |range, _| {
            tally.send_errors += range.len() as u64;
        });
    }
}

/// Returns whether there is no descriptor left.
fn is_out_of_files(error: &io::Error) -> bool {
    let out = [Errno::EMFILE, Errno::ENFILE].map(|errno| errno as i32);
    error.raw_os_error().is_some_and(|errno| out.contains(&errno))
}

/// The number of a connection: its generation and its place.
const fn name(at: usize, generation: u32) -> u64 {
    (generation as u64) << 32 | (at as u64 + FIRST)
}

const fn index(which: u64) -> usize {
    ((which & 0xffff_ffff) - FIRST) as usize
}

fn find(connections: &mut [Option<Connection>], which: u64) -> Option<&mut Connection> {
    let connection = connections.get_mut(index(which))?.as_mut()?;
    (u64::from(connection.generation) == which >> 32).then_some(connection)
}
