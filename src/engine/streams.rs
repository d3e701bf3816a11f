//! Sockets of connections: clients' streams and lines towards servers.
//!
//! ```text
//!  epoll ─► listener: accept4 × n ─► on_accept      ┐
//!        ├► stream:   read ─► on_stream_octets      ├─► chores: write, watch, close
//!        └► line:     read ─► on_line_octets        ┘
//! ```
//!
//! One read per connection and round: nobody who sends much keeps others waiting. One buffer for
//! all: an idle connection costs its socket and what the shard knows of it. It decides nothing.

mod closing;
mod shortage;

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::Socket;
use tracing::{debug, warn};

use self::shortage::Shortage;
use super::carrier::{Came, Carrier};
use super::forward::is_passing;
use super::forward::tcp::Relays;
use super::forward::udp::Flows;
use super::linger::Lingering;
use super::locals::Locals;
use super::ready::Ready;
use super::socket;
use super::sys::Local;
use super::turn::Weight;
use crate::addr::{Endpoint, ListenerSlot, LocalSlot, Route, SocketSlot, StreamSlot};
use crate::config::snapshot::Listener;
use crate::descriptors::Descriptors;
use crate::shard::Shard;
use crate::shard::lines::LineWish;
use crate::shard::streamed::{Chore, IsOver};
use crate::shard::streams::{LineEnd, StreamEnd, StreamWish};
use crate::shard::verdict::{DropReason, Verdict};
use crate::time::Tick;
use crate::tls::Session;

/// Something can be read: octets, an end, or an error.
const READABLE: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLHUP).union(EpollFlags::EPOLLERR);
/// Octets read from a connection at a time.
const READ: usize = 64 * 1024;

/// A listener's socket for connections.
#[derive(Debug)]
struct Gate {
    listener: Arc<Listener>,
    socket: Socket,
    passed: bool,
    /// It takes no new connections; after this it is closed.
    closes_at: Option<Tick>,
}

impl Gate {
    /// What its shard is woken for. With one socket for all shards only one of them is woken by a
    /// connection.
    fn event(&self) -> EpollEvent {
        let flags =
            if self.passed { EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE } else { EpollFlags::EPOLLIN };
        EpollEvent::new(flags, Ready::Gate(self.listener.slot).pack())
    }
}

/// All sockets of connections of a shard.
#[derive(Debug)]
pub(super) struct Connections {
    gates: Vec<Option<Gate>>,
    /// When the next of them is to be closed.
    closes_at: Option<Tick>,
    streams: Vec<Option<Carrier>>,
    /// By backend, then by line.
    lines: Vec<Vec<Option<Carrier>>>,
    /// Connections of forwards.
    pub(super) relays: Relays,
    /// And their flows.
    pub(super) flows: Flows,
    buffer: Box<[u8]>,
    /// What TLS makes of it.
    plain: Vec<u8>,
    /// Whether new ones can be accepted.
    shortage: Shortage,
    /// Closed by us, and perhaps not yet by their clients.
    lingering: Lingering,
}

/// What leaves as datagrams while connections are looked at.
pub(super) type Out<'o> = &'o mut dyn FnMut(Verdict, &mut [u8]);

impl Connections {
    pub(super) fn new(descriptors: &Arc<Descriptors>) -> Self {
        Self {
            gates: Vec::new(),
            closes_at: None,
            streams: Vec::new(),
            lines: Vec::new(),
            relays: Relays::new(Arc::clone(descriptors)),
            flows: Flows::default(),
            buffer: vec![0; READ].into_boxed_slice(),
            plain: Vec::new(),
            shortage: Shortage::default(),
            lingering: Lingering::new(Arc::clone(descriptors)),
        }
    }

    /// Watches a listener's socket.
    pub(super) fn open_gate(
        &mut self,
        epoll: &Epoll,
        listener: Arc<Listener>,
        socket: Socket,
        passed: bool,
    ) -> io::Result<()> {
        let at = listener.slot.index();
        let gate = Gate { listener, socket, passed, closes_at: None };
        epoll.add(&gate.socket, gate.event())?;
        if self.gates.len() <= at {
            self.gates.resize_with(at + 1, || None);
        }
        self.gates[at] = Some(gate);
        Ok(())
    }

    /// Listeners that take connections.
    pub(super) fn gates(&self) -> impl Iterator<Item = ListenerSlot> + use<> {
        let open = self.gates.iter().flatten().map(|g| g.listener.slot);
        open.collect::<Vec<_>>().into_iter()
    }

    /// Accepts what waits at a listener, at most so many; whether there may be more.
    pub(super) fn accept(
        &mut self,
        epoll: &Epoll,
        slot: ListenerSlot,
        shard: &mut Shard,
        locals: &mut Locals,
        most: usize,
    ) -> bool {
        let mut made_room = false;
        for _ in 0..most {
            let Some(Some(gate)) = self.gates.get(slot.index()) else { return false };
            if gate.listener.service.forward().is_none() && !shard.may_accept() {
                return false;
            }
            let (socket, peer) = match socket::accept(&gate.socket) {
                Ok(taken) => taken,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                // Somebody who came and went.
                Err(e) if socket::concerns_one(&e) => continue,
                // Descriptors for those who come are worth more.
                Err(_) if self.lingering.close_all() => continue,
                // Once: whoever else runs short may have taken what was given up.
                Err(_) if !std::mem::replace(&mut made_room, true) && shard.make_room() => {
                    self.close_evicted(epoll, shard);
                    continue;
                }
                Err(e) => {
                    if self.shortage.begin() {
                        warn!(listener = %gate.listener.address, "cannot accept connections: {e}");
                    }
                    // Whoever waits there would wake us again and again.
                    let _ = epoll.delete(&gate.socket);
                    return false;
                }
            };
            self.shortage.end();
            made_room = false;
            let closing = gate.closes_at.is_some();
            if closing && let Err(e) = socket::accept_last(&socket) {
                debug!(listener = %gate.listener.address, "a connection may hear nothing: {e}");
            }
            if gate.listener.service.forward().is_some() {
                let taken = shard.on_forward_accept(peer, &gate.listener, LocalSlot::LISTENER);
                self.close_evicted(epoll, shard);
                if let Some(passage) = taken {
                    self.relays.open(epoll, passage, socket, shard);
                    self.relays.serve(epoll, passage, shard);
                }
                continue;
            }
            let local = if gate.listener.address.ip().is_unspecified() {
                local(&socket, shard, locals)
            } else {
                LocalSlot::LISTENER
            };
            let (taken, tls) =
                (shard.on_accept(peer, &gate.listener, local), gate.listener.service.tls().cloned());
            self.close_evicted(epoll, shard);
            let Some(stream) = taken else { continue };
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Ready::Stream(stream).pack());
            if epoll.add(&socket, event).is_err() {
                shard.on_stream_closed(stream, StreamEnd::Broken);
                continue;
            }
            if self.streams.len() <= stream.index() {
                self.streams.resize_with(stream.index() + 1, || None);
            }
            // As the configuration in force has it, unless it has let the listener go.
            let tls = shard.tls_of(slot).or(tls.as_deref());
            let carrier = match tls.map(Session::server) {
                None => Carrier::plain(socket, false),
                Some(Ok(session)) => Carrier::tls(socket, session, false),
                Some(Err(failure)) => {
                    let why = shard.on_stream_failure(stream, failure.reason);
                    shard.on_stream_closed(stream, why);
                    continue;
                }
            };
            self.streams[stream.index()] = Some(carrier);
            if closing {
                shard.finish_stream(stream);
            }
        }
        true
    }

    /// What it costs to see to an event of a client's connection.
    pub(super) fn stream_weight(&self, stream: StreamSlot) -> Weight {
        weight(self.streams.get(stream.index()).and_then(Option::as_ref))
    }

    /// The same of a line.
    pub(super) fn line_weight(&mut self, line: Route) -> Weight {
        weight(place(&mut self.lines, line).and_then(|carrier| carrier.as_ref()))
    }

    /// Closes what has just made room for another connection or flow.
    fn close_evicted(&mut self, epoll: &Epoll, shard: &mut Shard) {
        match shard.take_evicted() {
            Some(Chore::Stream(stream)) => self.serve_stream(epoll, stream, shard),
            Some(Chore::Passage(passage)) => {
                if !self.relays.serve(epoll, passage, shard) {
                    self.flows.serve(passage, shard);
                }
            }
            Some(Chore::Line(_)) | None => {}
        }
    }

    /// Something has happened to a client's connection.
    pub(super) fn on_stream(
        &mut self,
        epoll: &Epoll,
        stream: StreamSlot,
        what: EpollFlags,
        shard: &mut Shard,
        is_over: IsOver<'_>,
        out: Out<'_>,
    ) {
        let Some(Some(carrier)) = self.streams.get_mut(stream.index()) else { return };
        let mut serve = what.contains(EpollFlags::EPOLLOUT);
        if what.contains(EpollFlags::EPOLLIN) && !shard.stream_may_read(stream) {
            // What was read before comes first. To be told of more is of no use until then.
            let writing = carrier.writing;
            watch(epoll, carrier, Ready::Stream(stream), false, writing);
        } else if what.intersects(READABLE) {
            let shaking = carrier.is_handshaking();
            let came = carrier.receive(&mut self.buffer).map(|mut octets| {
                if shaking && !octets.is_empty() && shard.header_comes_first(stream) {
                    octets = &octets[shard.on_header_octets(stream, octets).min(octets.len())..];
                    if octets.is_empty() {
                        return Came::Octets { octets, last: false };
                    }
                }
                carrier.unwrap(octets, &mut self.plain)
            });
            if shaking && let Some(facts) = carrier.facts() {
                shard.on_stream_handshake(stream, facts);
            }
            // TLS may have something to say that no query asked for.
            serve |= carrier.has_unsent();
            match came {
                Ok(Came::Octets { octets, last }) => {
                    match octets {
                        [] => shard.on_stream_fragment(stream),
                        octets => shard.on_stream_octets(stream, octets, is_over, out),
                    }
                    if last {
                        shard.on_stream_end(stream);
                    }
                }
                Ok(Came::End) => shard.on_stream_end(stream),
                Ok(Came::Failed(failure)) => {
                    let why = shard.on_stream_failure(stream, failure.reason);
                    return self.drop_stream(epoll, stream, why, shard);
                }
                Err(e) if is_passing(&e) => {}
                Err(_) => return self.drop_stream(epoll, stream, StreamEnd::Broken, shard),
            }
        }
        if serve {
            self.serve_stream(epoll, stream, shard);
        }
    }

    /// Writes what there is, and watches for what is wanted.
    fn serve_stream(&mut self, epoll: &Epoll, stream: StreamSlot, shard: &mut Shard) {
        let Some(Some(carrier)) = self.streams.get_mut(stream.index()) else {
            return;
        };
        let mut sent = carrier.flush();
        while sent.is_ok() && carrier.takes_octets() && !shard.stream_output(stream).is_empty() {
            sent = carrier.write(shard.stream_output(stream));
            if let Ok(count) = sent {
                shard.stream_written(stream, count);
            }
        }
        let full = match sent {
            Ok(_) => false,
            Err(e) if is_passing(&e) => true,
            Err(_) => return self.drop_stream(epoll, stream, StreamEnd::Broken, shard),
        };
        match shard.stream_wish(stream) {
            StreamWish::Close(why) => self.drop_stream(epoll, stream, why, shard),
            StreamWish::Serve { read } => {
                // Not to be read may be over before something comes: that is seen to by who hears of it.
                let reading = read || carrier.reading;
                watch(epoll, carrier, Ready::Stream(stream), reading, full);
            }
        }
    }

    fn drop_stream(&mut self, epoll: &Epoll, stream: StreamSlot, why: StreamEnd, shard: &mut Shard) {
        let Some(carrier) = self.streams.get_mut(stream.index()).and_then(Option::take) else { return };
        // Closing takes it out of the epoll set; one that is only shut down must not stay there.
        if shard.stream_lingers(stream) && epoll.delete(&carrier).is_ok() {
            if let Some(socket) = carrier.close_writing() {
                self.lingering.take(socket);
            }
        } else {
            carrier.close();
        }
        shard.on_stream_closed(stream, why);
    }

    /// Connections that we have closed are to be looked at, four times a second.
    pub(super) fn look_after_closed(&mut self) {
        self.lingering.begin_look();
    }

    /// How many of these are to be looked at.
    pub(super) const fn closed_count(&self) -> usize {
        self.lingering.due()
    }

    /// Looks at the next of these; false when there is none.
    pub(super) fn look_at_closed(&mut self) -> bool {
        self.lingering.look(&mut self.buffer)
    }

    /// The process stops: closed connections are not waited for as long as otherwise.
    pub(super) fn hasten(&mut self) {
        self.lingering.hasten();
    }

    /// Whether the clients of some connections that we have closed may not have noticed yet.
    pub(super) fn lingers(&self) -> bool {
        !self.lingering.is_empty()
    }

    /// Something has happened to a line.
    pub(super) fn on_line(
        &mut self,
        epoll: &Epoll,
        line: Route,
        what: EpollFlags,
        shard: &mut Shard,
        is_over: IsOver<'_>,
        out: Out<'_>,
    ) {
        let Some(carrier) = place(&mut self.lines, line).and_then(Option::as_mut) else { return };
        let mut serve = what.contains(EpollFlags::EPOLLOUT);
        if serve && carrier.is_connecting() {
            if let Err(e) = carrier.connected() {
                return self.drop_line(line, Some(failure(&e)), shard, out);
            }
            // With TCP Fast Open the first octets make the connection.
            let begins = carrier.is_early() && !shard.line_output(line).is_empty();
            if !carrier.is_handshaking() && !begins {
                shard.on_line_open(line);
            }
        } else if carrier.is_answered() && !carrier.is_handshaking() {
            shard.on_line_open(line);
        }
        let readable = what.intersects(READABLE) && shard.line_may_read(line);
        if readable && (carrier.reading || !what.contains(EpollFlags::EPOLLIN)) {
            let shaking = carrier.is_handshaking();
            let came = carrier.read(&mut self.buffer, &mut self.plain);
            if shaking && let Some(facts) = carrier.facts() {
                shard.on_line_handshake(line, facts.resumed);
                // Queries have waited for it.
                serve = true;
            }
            serve |= carrier.has_unsent();
            match came {
                Ok(Came::Octets { octets, last }) => {
                    if !octets.is_empty() {
                        shard.on_line_octets(line, octets, is_over, out);
                    }
                    if last {
                        return self.drop_line(line, Some(LineEnd::Closed), shard, out);
                    }
                }
                Ok(Came::End) => return self.drop_line(line, Some(LineEnd::Closed), shard, out),
                Ok(Came::Failed(failure)) => {
                    let server = shard.snapshot().backend(line.backend).map_or("", |b| &b.name);
                    debug!(server, "TLS failed: {failure}");
                    let why = shard.on_line_failure(line, failure.reason);
                    return self.drop_line(line, Some(why), shard, out);
                }
                Err(e) if is_passing(&e) => {}
                Err(e) => return self.drop_line(line, Some(failure(&e)), shard, out),
            }
        }
        if serve {
            self.serve_line(epoll, line, shard, out);
        }
    }

    /// Opens a line that is not, writes what there is, and watches for what is wanted.
    fn serve_line(&mut self, epoll: &Epoll, line: Route, shard: &mut Shard, out: Out<'_>) {
        let LineWish::Serve { read } = shard.line_wish(line) else {
            return self.drop_line(line, None, shard, out);
        };
        if place(&mut self.lines, line).is_none_or(|p| p.is_none()) {
            return self.open_line(epoll, line, shard, out);
        }
        let Some(carrier) = place(&mut self.lines, line).and_then(Option::as_mut) else { return };
        if carrier.is_connecting() {
            return watch(epoll, carrier, Ready::Link(line), read, true);
        }
        let mut sent = carrier.flush();
        while sent.is_ok() && carrier.takes_octets() && !shard.line_output(line).is_empty() {
            sent = carrier.write(shard.line_output(line));
            if let Ok(count) = sent {
                shard.line_written(line, count);
            }
        }
        let full = match sent {
            Ok(_) => false,
            Err(e) if is_passing(&e) => true,
            Err(e) => return self.drop_line(line, Some(failure(&e)), shard, out),
        };
        // What is early can be written again when somebody has answered.
        let writing = full || carrier.is_early();
        watch(epoll, carrier, Ready::Link(line), read, writing);
    }

    fn open_line(&mut self, epoll: &Epoll, line: Route, shard: &mut Shard, out: Out<'_>) {
        let backend = shard.snapshot().backend(line.backend).cloned();
        let client = shard.line_source(line).map(|ip| Ipv6Addr::from(ip).to_canonical());
        let opened = backend.ok_or(io::Error::from(io::ErrorKind::NotFound)).and_then(|backend| {
            let session = backend.lines.tls.as_ref().map(|tls| Session::client(&tls.tls)).transpose();
            let session = session.map_err(io::Error::other)?;
            let mut socket = socket::connect_stream(&backend, client);
            if socket.as_ref().is_err_and(is_ours) && self.lingering.close_all() {
                socket = socket::connect_stream(&backend, client);
            }
            let socket = socket?;
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
            epoll.add(&socket, EpollEvent::new(flags, Ready::Link(line).pack()))?;
            Ok(match session {
                None => Carrier::plain(socket, true),
                Some(session) => Carrier::tls(socket, session, true),
            })
        });
        match opened {
            Ok(carrier) => {
                let by_backend = line.backend.index();
                if self.lines.len() <= by_backend {
                    self.lines.resize_with(by_backend + 1, Vec::new);
                }
                let (lines, at) = (&mut self.lines[by_backend], number(line));
                if lines.len() <= at {
                    lines.resize_with(at + 1, || None);
                }
                lines[at] = Some(carrier);
            }
            Err(e) => {
                let why = if is_ours(&e) { LineEnd::Local } else { LineEnd::Refused };
                self.drop_line(line, Some(why), shard, out);
            }
        }
    }

    fn drop_line(&mut self, line: Route, why: Option<LineEnd>, shard: &mut Shard, out: Out<'_>) {
        if let Some(carrier) = place(&mut self.lines, line).and_then(Option::take) {
            carrier.close();
        }
        shard.on_line_closed(line, why, out);
    }

    /// Does what the shard wishes for a connection.
    pub(super) fn do_chore(&mut self, epoll: &Epoll, chore: Chore, shard: &mut Shard, out: Out<'_>) {
        match chore {
            Chore::Stream(stream) => self.serve_stream(epoll, stream, shard),
            Chore::Line(line) => self.serve_line(epoll, line, shard, out),
            Chore::Passage(passage) => {
                if !self.relays.serve(epoll, passage, shard) {
                    self.flows.serve(passage, shard);
                }
            }
        }
    }

    /// Listeners that could not accept are watched again.
    pub(super) fn retry(&mut self, epoll: &Epoll) {
        if self.shortage.is_over() {
            for gate in self.gates.iter().flatten() {
                // Fails for those that are still watched.
                let _ = epoll.add(&gate.socket, gate.event());
            }
        }
    }

    /// Closes all connections: whose shard has lost what it knew of them.
    pub(super) fn drop_all(&mut self) {
        self.streams.clear();
        self.lines.clear();
        self.relays.drop_all();
        self.flows.drop_all();
    }
}

/// The slot of the address that a connection was made to; the listener's own if there is no room.
fn local(socket: &Socket, shard: &mut Shard, locals: &mut Locals) -> LocalSlot {
    let Some(address) = socket.local_addr().ok().and_then(|a| a.as_socket()) else {
        return LocalSlot::LISTENER;
    };
    let local = Local { ip: Endpoint::from(address).ip, interface: 0 };
    let Some((slot, new)) = locals.slot(local) else {
        shard.drop(DropReason::LocalTableFull);
        return LocalSlot::LISTENER;
    };
    if new {
        shard.on_local(slot, local.ip);
    }
    slot
}

/// Watches a connection for what is wanted, if that is not what it is watched for.
fn watch(epoll: &Epoll, carrier: &mut Carrier, ready: Ready, reading: bool, writing: bool) {
    if (carrier.reading, carrier.writing) == (reading, writing) {
        return;
    }
    (carrier.reading, carrier.writing) = (reading, writing);
    let mut flags = EpollFlags::empty();
    flags.set(EpollFlags::EPOLLIN, reading);
    flags.set(EpollFlags::EPOLLOUT, writing);
    // Only fails for a socket that is not in the set.
    let _ = epoll.modify(carrier.as_fd(), &mut EpollEvent::new(flags, ready.pack()));
}

/// A step of a TLS handshake takes a signature, or the check of one; whatever else comes by TLS is to be
/// decrypted.
fn weight(carrier: Option<&Carrier>) -> Weight {
    if carrier.is_some_and(Carrier::is_encrypted) { Weight::Heavy } else { Weight::Light }
}

fn place(lines: &mut [Vec<Option<Carrier>>], line: Route) -> Option<&mut Option<Carrier>> {
    lines.get_mut(line.backend.index())?.get_mut(number(line))
}

const fn number(line: Route) -> usize {
    (line.socket.0 - SocketSlot::LINES.0) as usize
}

/// Whether it says nothing of a server: something is used up here, or TLS could not begin.
fn is_ours(e: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, Other};
    socket::is_shortage(e) || e.raw_os_error().is_none() && [Other, NotFound].contains(&e.kind())
}

// Kinds of errors are the standard library's; a new one is as bad as the rest.
#[allow(clippy::wildcard_enum_match_arm)]
fn failure(e: &io::Error) -> LineEnd {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    if [ConnectionRefused, HostUnreachable, NetworkUnreachable].contains(&e.kind()) {
        LineEnd::Refused
    } else if e.kind() == TimedOut {
        LineEnd::ConnectTimeout
    } else {
        LineEnd::Broken
    }
}
