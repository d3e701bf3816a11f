//! Sockets of connections: client connections and backend connections.
//!
//! ```text
//!  epoll ─► listener: accept4 × n ─► on_accept      ┐
//!        ├► client:   read ─► on_client_bytes      ├─► pending work: write, watch, close
//!        └► backend:  read ─► on_backend_bytes     ┘
//! ```
//!
//! One read per connection and round, so that no busy connection starves others. All share one read
//! buffer: an idle connection costs its socket and the shard's state of it. This module decides
//! nothing.

pub mod draining_close;
mod failure;
mod listeners;
mod shortage;
pub mod transport;

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::Socket;
use tracing::{debug, warn};

use crate::base::addr::{ConnectionSlot, Endpoint, ListenerSlot, LocalSlot, Route, SocketSlot};
use crate::base::time::Tick;
use crate::engine::datagram::local_addresses::Locals;
use crate::engine::owned::Owned;
use crate::engine::readiness::{Generation, Ready};
use crate::engine::relay::is_transient;
use crate::engine::relay::tcp::Relays;
use crate::engine::relay::udp::Flows;
use crate::engine::schedule::Weight;
use crate::engine::socket;
use crate::engine::stream::draining_close::DrainingCloses;
use crate::engine::stream::listeners::TcpListenerSocket;
use crate::engine::stream::shortage::Shortage;
use crate::engine::stream::transport::{Received, Transport};
use crate::engine::sys::Local;
use crate::model::Listener;
use crate::shard::Shard;
use crate::shard::backend::BackendInterest;
use crate::shard::client::ClientInterest;
use crate::shard::messages::{IsOver, PendingWork};
use crate::shard::verdict::Verdict;
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason};
use crate::stats::descriptors::Descriptors;
use crate::stats::drop_reason::DropReason;
use crate::tls::Session;

/// Something can be read: bytes, an end, or an error.
const READABLE: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLHUP).union(EpollFlags::EPOLLERR);
/// Bytes read from a connection at a time.
const READ: usize = 64 * 1024;

/// All TCP sockets of a shard.
#[derive(Debug)]
pub(crate) struct Connections {
    tcp_listeners: Vec<Option<TcpListenerSocket>>,
    /// When to close the next listener.
    closes_at: Option<Tick>,
    /// Listeners are paused until this time, or until another connection closes.
    accepts_from: Option<Tick>,
    clients: Owned<ConnectionSlot, Transport>,
    /// By backend, then by connection.
    backends: Vec<Vec<Option<(Generation, Transport)>>>,
    /// The generation of the last backend connection.
    generation: Generation,
    /// Relayed TCP connections.
    pub(crate) relays: Relays,
    /// Relayed UDP flows.
    pub(crate) flows: Flows,
    buffer: Box<[u8]>,
    /// Decrypted bytes.
    plain: Vec<u8>,
    /// Whether new connections can be accepted.
    shortage: Shortage,
    /// Closed by us, but perhaps not yet by their clients.
    draining: DrainingCloses,
}

/// Takes the datagrams that leave while connections are served.
pub(crate) type Out<'o> = &'o mut dyn FnMut(Verdict, &mut [u8]);

impl Connections {
    pub(crate) fn new(descriptors: &Arc<Descriptors>) -> Self {
        Self {
            tcp_listeners: Vec::new(),
            closes_at: None,
            accepts_from: None,
            clients: Owned::new(),
            backends: Vec::new(),
            generation: Generation::default(),
            relays: Relays::new(Arc::clone(descriptors)),
            flows: Flows::default(),
            buffer: vec![0; READ].into_boxed_slice(),
            plain: Vec::new(),
            shortage: Shortage::default(),
            draining: DrainingCloses::new(Arc::clone(descriptors)),
        }
    }

    /// Watches a listener's socket.
    pub(crate) fn open_tcp_listener(
        &mut self,
        epoll: &Epoll,
        listener: Arc<Listener>,
        socket: Socket,
        inherited: bool,
    ) -> io::Result<()> {
        let at = listener.slot.index();
        let tcp_listener = TcpListenerSocket { listener, socket, inherited, closes_at: None, paused: false };
        epoll.add(&tcp_listener.socket, tcp_listener.event())?;
        if self.tcp_listeners.len() <= at {
            self.tcp_listeners.resize_with(at + 1, || None);
        }
        self.tcp_listeners[at] = Some(tcp_listener);
        Ok(())
    }

    /// Returns the listeners with a TCP socket.
    pub(crate) fn tcp_listeners(&self) -> impl Iterator<Item = ListenerSlot> + use<> {
        let open = self.tcp_listeners.iter().flatten().map(|g| g.listener.slot);
        open.collect::<Vec<_>>().into_iter()
    }

    /// Accepts pending connections up to a limit; returns whether there may be more.
    pub(crate) fn accept(
        &mut self,
        epoll: &Epoll,
        slot: ListenerSlot,
        shard: &mut Shard,
        locals: &mut Locals,
        most: usize,
    ) -> bool {
        let mut made_room = false;
        for _ in 0..most {
            let Some(Some(tcp_listener)) = self.tcp_listeners.get(slot.index()) else { return false };
            // What a listener that closes has pending would be lost.
            if tcp_listener.listener.service.relay().is_none() && tcp_listener.closes_at.is_none() {
                // Without one that waits, nobody needs room.
                if shard.is_full() && !tcp_listener.has_pending() {
                    return false;
                }
                if let Some(accepts_from) = shard.accepts_from() {
                    self.pause_tcp_listener(epoll, slot, accepts_from);
                    return false;
                }
            }
            let (socket, peer) = match socket::accept(&tcp_listener.socket) {
                Ok(taken) => taken,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                // One connection failed, not the listener.
                Err(e) if socket::concerns_one(&e) => continue,
                // Descriptors are worth more to new connections.
                Err(_) if self.draining.close_all() => continue,
                // Once: another thread or process may have taken what was freed.
                Err(_) if !std::mem::replace(&mut made_room, true) && shard.make_room() => {
                    self.close_evicted(epoll, shard);
                    continue;
                }
                Err(e) => {
                    if self.shortage.begin() {
                        warn!(listener = %tcp_listener.listener.address, "cannot accept connections: {e}");
                    }
                    // Pending connections would wake us again and again.
                    let _ = epoll.delete(&tcp_listener.socket);
                    return false;
                }
            };
            self.shortage.end();
            made_room = false;
            let closing = tcp_listener.closes_at.is_some();
            if closing && let Err(e) = socket::accept_last(&socket) {
                debug!(listener = %tcp_listener.listener.address, "cannot watch a connection: {e}");
            }
            if tcp_listener.listener.service.relay().is_some() {
                let taken = shard.on_relay_accept(peer, &tcp_listener.listener, LocalSlot::LISTENER);
                self.close_evicted(epoll, shard);
                if let Some(session) = taken {
                    self.relays.open(epoll, session, socket, shard);
                    self.relays.serve(epoll, session, shard);
                }
                continue;
            }
            let local = if tcp_listener.listener.address.ip().is_unspecified() {
                local(&socket, shard, locals)
            } else {
                LocalSlot::LISTENER
            };
            let (taken, tls) = (
                shard.on_accept(peer, &tcp_listener.listener, local),
                tcp_listener.listener.service.tls().cloned(),
            );
            self.close_evicted(epoll, shard);
            let Some(connection) = taken else { continue };
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Ready::ClientConnection(connection).pack());
            if epoll.add(&socket, event).is_err() {
                shard.on_client_closed(connection, ClientCloseReason::Broken);
                continue;
            }
            // As the current configuration has it, unless that has dropped the listener.
            let tls = shard.tls_of(slot).or(tls.as_deref());
            let transport = match tls.map(Session::server) {
                None => Transport::plain(socket, false),
                Some(Ok(session)) => Transport::tls(socket, session, false),
                Some(Err(failure)) => {
                    let why = shard.on_client_failure(connection, failure.reason);
                    shard.on_client_closed(connection, why);
                    continue;
                }
            };
            self.clients.insert(connection, transport);
            if closing {
                shard.finish_client(connection);
            }
        }
        true
    }

    /// Returns the cost of an event of a client connection.
    pub(crate) fn client_weight(&self, connection: ConnectionSlot) -> Weight {
        weight(self.clients.get(connection))
    }

    /// Returns the cost of an event of a backend connection.
    pub(crate) fn backend_weight(&mut self, route: Route) -> Weight {
        weight(entry(&mut self.backends, route).and_then(|e| e.as_ref()).map(|(_, transport)| transport))
    }

    /// Closes what was just evicted for another connection or flow.
    fn close_evicted(&mut self, epoll: &Epoll, shard: &mut Shard) {
        match shard.take_evicted() {
            Some(PendingWork::Client(connection)) => self.serve_client(epoll, connection, shard),
            Some(PendingWork::Relay(session)) => {
                if !self.relays.serve(epoll, session, shard) {
                    self.flows.serve(session, shard);
                }
            }
            Some(PendingWork::Backend(_)) | None => {}
        }
    }

    /// Handles an event of a client connection.
    pub(crate) fn on_client(
        &mut self,
        epoll: &Epoll,
        connection: ConnectionSlot,
        what: EpollFlags,
        shard: &mut Shard,
        is_over: IsOver<'_>,
        out: Out<'_>,
    ) {
        let Some(transport) = self.clients.get_mut(connection) else { return };
        let mut serve = what.contains(EpollFlags::EPOLLOUT);
        if what.contains(EpollFlags::EPOLLIN) && !shard.client_may_read(connection) {
            // Bytes that were read before come first. No read events are needed until then.
            let writing = transport.writing;
            watch(epoll, transport, Ready::ClientConnection(connection), false, writing);
        } else if what.intersects(READABLE) {
            let shaking = transport.is_handshaking();
            let received = transport.receive(&mut self.buffer).map(|mut bytes| {
                if shaking && !bytes.is_empty() && shard.header_comes_first(connection) {
                    bytes = &bytes[shard.on_header_bytes(connection, bytes).min(bytes.len())..];
                    if bytes.is_empty() {
                        return Received::Bytes { bytes, last: false };
                    }
                }
                transport.unwrap(bytes, &mut self.plain)
            });
            if shaking && let Some(facts) = transport.facts() {
                shard.on_client_handshake(connection, facts);
            }
            // TLS may have something to send that no query asked for.
            serve |= transport.has_unsent();
            match received {
                Ok(Received::Bytes { bytes, last }) => {
                    match bytes {
                        [] => shard.on_client_fragment(connection),
                        bytes => shard.on_client_bytes(connection, bytes, is_over, out),
                    }
                    if last {
                        shard.on_client_end(connection);
                    }
                }
                Ok(Received::End) => shard.on_client_end(connection),
                Ok(Received::Failed(failure)) => {
                    let why = shard.on_client_failure(connection, failure.reason);
                    return self.drop_client(epoll, connection, why, shard);
                }
                Err(e) if is_transient(&e) => {}
                Err(_) => return self.drop_client(epoll, connection, ClientCloseReason::Broken, shard),
            }
        }
        if serve {
            self.serve_client(epoll, connection, shard);
        }
    }

    /// Writes pending bytes, and updates the watched events.
    fn serve_client(&mut self, epoll: &Epoll, connection: ConnectionSlot, shard: &mut Shard) {
        let Some(transport) = self.clients.get_mut(connection) else { return };
        let mut sent = transport.flush();
        while sent.is_ok() && transport.takes_bytes() && !shard.client_output(connection).is_empty() {
            sent = transport.write(shard.client_output(connection));
            if let Ok(count) = sent {
                shard.client_written(connection, count);
            }
        }
        let full = match sent {
            Ok(_) => false,
            Err(e) if is_transient(&e) => true,
            Err(_) => return self.drop_client(epoll, connection, ClientCloseReason::Broken, shard),
        };
        match shard.client_interest(connection) {
            ClientInterest::Close(why) => self.drop_client(epoll, connection, why, shard),
            ClientInterest::Serve { read } => {
                // Reading may resume before the next event: the shard schedules that.
                let reading = read || transport.reading;
                watch(epoll, transport, Ready::ClientConnection(connection), reading, full);
            }
        }
    }

    fn drop_client(
        &mut self,
        epoll: &Epoll,
        connection: ConnectionSlot,
        why: ClientCloseReason,
        shard: &mut Shard,
    ) {
        let Some(transport) = self.clients.take(connection) else { return };
        // Closing removes it from the epoll set; one that is only shut down must be removed here.
        if shard.client_close_drains(connection) && epoll.delete(&transport).is_ok() {
            if let Some(socket) = transport.close_writing() {
                self.draining.take(socket);
            }
        } else {
            transport.close();
        }
        shard.on_client_closed(connection, why);
    }

    /// Makes all draining connections due for a check; called four times a second.
    pub(crate) fn begin_draining_checks(&mut self) {
        self.draining.begin_checks();
    }

    /// Returns how many are due.
    pub(crate) const fn closed_count(&self) -> usize {
        self.draining.due()
    }

    /// Checks the next one; false when none is due.
    pub(crate) fn check_draining(&mut self) -> bool {
        self.draining.check(&mut self.buffer)
    }

    /// Shortens the draining of closed connections, because the process stops.
    pub(crate) fn shorten_draining(&mut self) {
        self.draining.shorten();
    }

    /// Returns whether some closed connections are still draining.
    pub(crate) fn is_draining(&self) -> bool {
        !self.draining.is_empty()
    }

    /// Handles an event of a backend connection.
    pub(crate) fn on_backend(
        &mut self,
        epoll: &Epoll,
        (route, generation): (Route, Generation),
        what: EpollFlags,
        shard: &mut Shard,
        is_over: IsOver<'_>,
        out: Out<'_>,
    ) {
        let connection = entry(&mut self.backends, route).and_then(Option::as_mut);
        let Some((_, transport)) = connection.filter(|(own, _)| *own == generation) else { return };
        let mut serve = what.contains(EpollFlags::EPOLLOUT);
        if serve && transport.is_connecting() {
            if let Err(e) = transport.connected() {
                return self.drop_backend(route, Some(failure::before_open(&e)), shard, out);
            }
            // With TCP Fast Open the first bytes make the connection.
            let begins = transport.is_early() && !shard.backend_output(route).is_empty();
            if !transport.is_handshaking() && !begins {
                shard.on_backend_open(route);
            }
        } else if transport.is_answered() && !transport.is_handshaking() {
            shard.on_backend_open(route);
        }
        let readable = what.intersects(READABLE) && shard.backend_may_read(route);
        if readable && (transport.reading || !what.contains(EpollFlags::EPOLLIN)) {
            let shaking = transport.is_handshaking();
            let received = transport.read(&mut self.buffer, &mut self.plain);
            if shaking && let Some(facts) = transport.facts() {
                shard.on_backend_handshake(route, facts.resumed);
                // Queries have waited for the handshake.
                serve = true;
            }
            serve |= transport.has_unsent();
            match received {
                Ok(Received::Bytes { bytes, last }) => {
                    if !bytes.is_empty() {
                        shard.on_backend_bytes(route, bytes, is_over, out);
                    }
                    if last {
                        return self.drop_backend(route, Some(BackendCloseReason::Closed), shard, out);
                    }
                }
                Ok(Received::End) => {
                    return self.drop_backend(route, Some(BackendCloseReason::Closed), shard, out);
                }
                Ok(Received::Failed(failure)) => {
                    let server = shard.snapshot().backend(route.backend).map_or("", |b| &b.name);
                    debug!(server, "TLS failed: {failure}");
                    let why = shard.on_backend_failure(route, failure.reason);
                    return self.drop_backend(route, Some(why), shard, out);
                }
                Err(e) if is_transient(&e) => {}
                Err(e) => {
                    return self.drop_backend(route, Some(failure::after_open(&e)), shard, out);
                }
            }
        }
        if serve {
            self.serve_backend(epoll, route, shard, out);
        }
    }

    /// Opens a backend connection if needed, writes pending bytes, and updates the watched events.
    fn serve_backend(&mut self, epoll: &Epoll, route: Route, shard: &mut Shard, out: Out<'_>) {
        let BackendInterest::Serve { read } = shard.backend_interest(route) else {
            return self.drop_backend(route, None, shard, out);
        };
        if entry(&mut self.backends, route).is_none_or(|p| p.is_none()) {
            return self.open_backend(epoll, route, shard, out);
        }
        let connection = entry(&mut self.backends, route).and_then(Option::as_mut);
        let Some((generation, transport)) = connection else { return };
        let ready = Ready::BackendConnection(route, *generation);
        if transport.is_connecting() {
            return watch(epoll, transport, ready, read, true);
        }
        let mut sent = transport.flush();
        while sent.is_ok() && transport.takes_bytes() && !shard.backend_output(route).is_empty() {
            sent = transport.write(shard.backend_output(route));
            if let Ok(count) = sent {
                shard.backend_written(route, count);
            }
        }
        let full = match sent {
            Ok(_) => false,
            Err(e) if is_transient(&e) => true,
            Err(e) => {
                return self.drop_backend(route, Some(failure::after_open(&e)), shard, out);
            }
        };
        // Early data may only be continued once the backend has answered.
        let writing = full || transport.is_early();
        watch(epoll, transport, ready, read, writing);
    }

    fn open_backend(&mut self, epoll: &Epoll, route: Route, shard: &mut Shard, out: Out<'_>) {
        let backend = shard.snapshot().backend(route.backend).cloned();
        let client = shard.backend_source(route).map(|ip| Ipv6Addr::from(ip).to_canonical());
        let generation = Generation(self.generation.0.wrapping_add(1));
        self.generation = generation;
        let opened = backend.ok_or(io::Error::from(io::ErrorKind::NotFound)).and_then(|backend| {
            let session = backend.connections.tls.as_ref().map(|tls| Session::client(&tls.tls)).transpose();
            let session = session.map_err(io::Error::other)?;
            let mut socket = socket::connect_client(&backend, client);
            if socket.as_ref().is_err_and(failure::is_local) && self.draining.close_all() {
                socket = socket::connect_client(&backend, client);
            }
            let socket = socket?;
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
            epoll.add(&socket, EpollEvent::new(flags, Ready::BackendConnection(route, generation).pack()))?;
            Ok(match session {
                None => Transport::plain(socket, true),
                Some(session) => Transport::tls(socket, session, true),
            })
        });
        match opened {
            Ok(transport) => {
                let by_backend = route.backend.index();
                if self.backends.len() <= by_backend {
                    self.backends.resize_with(by_backend + 1, Vec::new);
                }
                let (backends, at) = (&mut self.backends[by_backend], index_of(route));
                if backends.len() <= at {
                    backends.resize_with(at + 1, || None);
                }
                backends[at] = Some((generation, transport));
            }
            Err(e) => {
                let is_local = failure::is_local(&e);
                let why = if is_local { BackendCloseReason::Local } else { BackendCloseReason::Refused };
                self.drop_backend(route, Some(why), shard, out);
            }
        }
    }

    fn drop_backend(
        &mut self,
        route: Route,
        why: Option<BackendCloseReason>,
        shard: &mut Shard,
        out: Out<'_>,
    ) {
        if let Some((_, transport)) = entry(&mut self.backends, route).and_then(Option::take) {
            transport.close();
        }
        shard.on_backend_closed(route, why, out);
    }

    /// Does the shard's pending work for a connection.
    pub(crate) fn do_pending(&mut self, epoll: &Epoll, work: PendingWork, shard: &mut Shard, out: Out<'_>) {
        match work {
            PendingWork::Client(connection) => self.serve_client(epoll, connection, shard),
            PendingWork::Backend(route) => self.serve_backend(epoll, route, shard, out),
            PendingWork::Relay(session) => {
                if !self.relays.serve(epoll, session, shard) {
                    self.flows.serve(session, shard);
                }
            }
        }
    }

    /// Closes all connections: the shard has lost its state of them.
    pub(crate) fn drop_all(&mut self) {
        self.clients.clear();
        self.backends.clear();
        self.relays.drop_all();
        self.flows.drop_all();
    }
}

/// Returns the slot of a connection's local address; the listener's own if the table is full.
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

/// Updates the events that a connection is watched for, if they differ.
fn watch(epoll: &Epoll, transport: &mut Transport, ready: Ready, reading: bool, writing: bool) {
    if (transport.reading, transport.writing) == (reading, writing) {
        return;
    }
    (transport.reading, transport.writing) = (reading, writing);
    let mut flags = EpollFlags::empty();
    flags.set(EpollFlags::EPOLLIN, reading);
    flags.set(EpollFlags::EPOLLOUT, writing);
    // Fails only for a socket that is not in the set.
    let _ = epoll.modify(transport.as_fd(), &mut EpollEvent::new(flags, ready.pack()));
}

/// A step of a TLS handshake takes a signature or its verification; other TLS input must be
/// decrypted.
fn weight(transport: Option<&Transport>) -> Weight {
    if transport.is_some_and(Transport::is_encrypted) { Weight::Heavy } else { Weight::Light }
}

type Backends = [Vec<Option<(Generation, Transport)>>];

fn entry(backends: &mut Backends, route: Route) -> Option<&mut Option<(Generation, Transport)>> {
    backends.get_mut(route.backend.index())?.get_mut(index_of(route))
}

/// Returns the index of a connection among its backend's; a UDP socket has none.
const fn index_of(route: Route) -> usize {
    match route.socket {
        SocketSlot::Connection(connection) => connection as usize,
        SocketSlot::Datagram(_) => usize::MAX,
    }
}

#[cfg(test)]
mod tests;
