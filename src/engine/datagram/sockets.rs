//! UDP sockets: listener sockets, which receive clients' queries, and backend sockets. The reactor
//! decides when they are read and written.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::Socket;
use tracing::warn;

use crate::base::addr::{BackendSlot, Endpoint, ListenerSlot, Route, SocketSlot};
use crate::base::time::Tick;
use crate::engine::datagram::transparent;
use crate::engine::readiness::Ready;
use crate::engine::socket;
use crate::engine::sys::{Note, OutgoingDatagram, ReceiveBuffers, Segment, SendBuffers};
use crate::model::{Backend, Listener, Snapshot};
use crate::shard::Shard;
use crate::shard::dispatch::spoofing::Redraw;
use crate::stats::live::ShardStats;

/// A listener's UDP socket.
#[derive(Debug)]
pub(crate) struct ListenerSocket {
    pub(crate) listener: Arc<Listener>,
    pub(crate) socket: Socket,
    pub(crate) inherited: bool,
    pub(crate) note: Note,
    /// Set when it receives no new queries: the time to close it.
    pub(crate) closes_at: Option<Tick>,
}

/// The sockets towards one backend.
#[derive(Debug)]
pub(crate) struct BackendSockets {
    /// Also old ones that are still read.
    sockets: Vec<Option<Socket>>,
    /// The numbers of those that queries leave by.
    current: Range<usize>,
    /// When the old ones are closed.
    drained: Option<Tick>,
    /// The destination of each datagram, where the sockets are not connected.
    server: Option<Endpoint>,
    segment: Segment,
}

/// How sockets of DNS over UDP are watched: edge-triggered, see [`readiness`](crate::engine::readiness).
const EDGE: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLET);

/// The sockets, apart from the buffers, so that both can be borrowed at once.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) listener_sockets: Vec<Option<ListenerSocket>>,
    pub(crate) backends: Vec<Option<BackendSockets>>,
    /// A socket could not be opened: retry at the next idle wake-up.
    pub(crate) incomplete: bool,
}

impl Sockets {
    pub(crate) fn open_listener(
        &mut self,
        epoll: &Epoll,
        listener: Arc<Listener>,
        socket: Socket,
        inherited: bool,
    ) -> io::Result<()> {
        let at = listener.slot.index();
        let flags = if listener.service.relay().is_some() { EpollFlags::EPOLLIN } else { EDGE };
        epoll.add(&socket, EpollEvent::new(flags, Ready::ListenerSocket(listener.slot).pack()))?;
        let note = if listener.address.ip().is_unspecified() { Note::PeerAndLocal } else { Note::Peer };
        if self.listener_sockets.len() <= at {
            self.listener_sockets.resize_with(at + 1, || None);
        }
        self.listener_sockets[at] =
            Some(ListenerSocket { listener, socket, inherited, note, closes_at: None });
        Ok(())
    }

    /// Applies a new snapshot's options to listener sockets that stay open.
    pub(crate) fn revise(&mut self, snapshot: &Snapshot) {
        for listener_socket in self.listener_sockets.iter_mut().flatten().filter(|d| d.closes_at.is_none()) {
            let Some(listener) = snapshot.listener(listener_socket.listener.slot) else { continue };
            if !listener.same_options(&listener_socket.listener)
                && let Err(e) = socket::revise(&listener_socket.socket, listener)
            {
                warn!(listener = %listener.address, "cannot change the options of a socket: {e}");
            }
            listener_socket.listener = Arc::clone(listener);
        }
    }

    pub(crate) fn ignore_listener(&self, epoll: &Epoll, slot: ListenerSlot) {
        if let Some(Some(listener_socket)) = self.listener_sockets.get(slot.index()) {
            // Fails only for a socket that is not watched, which is the aim.
            let _ = epoll.delete(&listener_socket.socket);
        }
    }

    pub(crate) fn listener_socket(&self, slot: ListenerSlot) -> Option<&Socket> {
        Some(&self.listener_sockets.get(slot.index())?.as_ref()?.socket)
    }

    pub(crate) fn backend_sockets(&self, route: Route) -> Option<&Socket> {
        self.backends
            .get(route.backend.index())?
            .as_ref()?
            .sockets
            .get(usize::from(route.socket.number()))?
            .as_ref()
    }

    /// Calls `each` with every edge-triggered socket that is open.
    pub(crate) fn each(&self, mut each: impl FnMut(Ready)) {
        for listener in self.listener_sockets.iter().flatten().map(|socket| &socket.listener) {
            if listener.service.relay().is_none() {
                each(Ready::ListenerSocket(listener.slot));
            }
        }
        for (backend, sockets) in self.backends.iter().enumerate() {
            let open = sockets.iter().flat_map(|sockets| sockets.sockets.iter().enumerate());
            for (socket, _) in open.filter(|(_, socket)| socket.is_some()) {
                let socket = SocketSlot::Datagram(socket as u8);
                each(Ready::BackendSockets(Route { backend: BackendSlot(backend as u16), socket }));
            }
        }
    }

    /// Opens the sockets that the snapshot's backends need and that are not open.
    pub(crate) fn open_backends(&mut self, epoll: &Epoll, snapshot: &Snapshot) {
        self.incomplete = false;
        for backend in snapshot.backends.iter().flatten().filter(|b| !b.target) {
            let at = backend.slot.index();
            if self.backends.len() <= at {
                self.backends.resize_with(at + 1, || None);
            }
            if self.backends[at].as_ref().is_some_and(BackendSockets::is_complete) {
                continue;
            }
            let warned = self.backends[at].is_some();
            let server = transparent::server(backend);
            let current = 0..usize::from(backend.sockets.max(1));
            let new = || BackendSockets {
                sockets: Vec::new(),
                current,
                drained: None,
                server,
                segment: Segment::Runs,
            };
            let mut backend_sockets = self.backends[at].take().unwrap_or_else(new);
            if let Err(e) = backend_sockets.fill(epoll, backend) {
                self.incomplete = true;
                if !warned {
                    warn!(server = backend.name, address = %backend.address, "cannot open a socket: {e}");
                }
            }
            self.backends[at] = Some(backend_sockets);
        }
    }

    /// Opens new sockets for a backend, by which its queries leave from then on; the old ones are
    /// still read for a while.
    pub(crate) fn redraw(&mut self, epoll: &Epoll, backend: &Backend, redraw: &Redraw) -> io::Result<()> {
        let open = self.backends.get_mut(backend.slot.index()).and_then(Option::as_mut);
        let Some(backend_sockets) = open else { return Ok(()) };
        let new = usize::from(redraw.sockets.start)..usize::from(redraw.sockets.end);
        let old = std::mem::replace(&mut backend_sockets.current, new);
        // Sockets of these numbers have been drained.
        backend_sockets.close_others(&old);
        if let Err(e) = backend_sockets.fill(epoll, backend) {
            backend_sockets.current = old;
            let current = backend_sockets.current.clone();
            backend_sockets.close_others(&current);
            return Err(e);
        }
        backend_sockets.drained = Some(redraw.drained);
        Ok(())
    }

    /// Closes old sockets by which no response can come any more.
    pub(crate) fn close_drained(&mut self, now: Tick) {
        for backend_sockets in self.backends.iter_mut().flatten() {
            if backend_sockets.drained.is_some_and(|at| at <= now) {
                backend_sockets.drained = None;
                let current = backend_sockets.current.clone();
                backend_sockets.close_others(&current);
            }
        }
    }

    /// Closes all sockets towards backends.
    pub(crate) fn close_backends(&mut self) {
        self.backends.iter_mut().for_each(|backend_sockets| *backend_sockets = None);
    }

    /// Closes a backend's sockets, which also removes them from the epoll set.
    pub(crate) fn close_backend(&mut self, slot: BackendSlot) {
        if let Some(backend_sockets) = self.backends.get_mut(slot.index()) {
            *backend_sockets = None;
        }
    }

    /// Closes the sockets of slots that the snapshot does not have, and releases the slots.
    pub(crate) fn close_removed_backends(&mut self, snapshot: &Snapshot, stats: &ShardStats) {
        for (at, backend_sockets) in self.backends.iter_mut().enumerate() {
            if backend_sockets.is_some() && snapshot.backend(BackendSlot(at as u16)).is_none() {
                *backend_sockets = None;
                stats.attached[at].store(0, Release);
            }
        }
    }

    /// Sends queries by one route; `refused` gets the indexes of those that the kernel refused.
    pub(crate) fn send(
        &mut self,
        route: Route,
        received_datagrams: &ReceiveBuffers,
        datagrams: &[OutgoingDatagram],
        send_buffers: &mut SendBuffers,
        refused: &mut Vec<usize>,
    ) {
        let backend_sockets = self.backends.get_mut(route.backend.index()).and_then(Option::as_mut);
        let Some((entry, segment)) = backend_sockets
            .and_then(|l| Some((l.sockets.get_mut(usize::from(route.socket.number()))?, &mut l.segment)))
            .filter(|(entry, _)| entry.is_some())
        else {
            refused.extend(0..datagrams.len());
            return;
        };
        let Some(socket) = entry.as_ref() else { return };
        let (mut no_segments, mut stale) = (false, false);
        send_buffers.send(socket.as_fd(), received_datagrams, datagrams, *segment, &mut |range, error| {
            let code = error.raw_os_error();
            // EIO: the output device cannot compute checksums of segments (udp(7)). EINVAL,
            // EMSGSIZE: its MTU is too small.
            no_segments |= range.len() > 1 && matches!(code, Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE));
            // The local address or interface that the socket was bound to at connect is gone.
            stale |= range.len() == 1
                && matches!(
                    code,
                    Some(libc::EINVAL | libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::ENODEV)
                );
            refused.extend(range);
        });
        if no_segments {
            *segment = Segment::Never;
            let places = std::mem::take(refused);
            let again: Vec<OutgoingDatagram> = places.iter().map(|at| datagrams[*at]).collect();
            send_buffers.send(socket.as_fd(), received_datagrams, &again, Segment::Never, &mut |range, _| {
                refused.extend(&places[range]);
            });
        }
        if stale {
            // Opened again from whatever local address the kernel chooses then.
            *entry = None;
            self.incomplete = true;
        }
    }

    /// Returns the destination to set on a route's datagrams; `None` where its socket is connected.
    pub(crate) fn server(&self, route: Route) -> Option<Endpoint> {
        self.backends.get(route.backend.index())?.as_ref()?.server
    }

    pub(crate) fn send_one(&self, shard: &Shard, route: Route, bytes: &[u8]) -> bool {
        match (self.backend_sockets(route), self.server(route)) {
            (Some(socket), Some(server)) => transparent::send(socket, server, route, bytes, shard),
            _ => self.send_connected(route, bytes),
        }
    }

    /// Sends by a connected socket; false for others.
    pub(crate) fn send_connected(&self, route: Route, bytes: &[u8]) -> bool {
        let Some(socket) = self.backend_sockets(route).filter(|_| self.server(route).is_none()) else {
            return false;
        };
        // The first call may only report an earlier packet's ICMP error.
        socket.send(bytes).or_else(|_| socket.send(bytes)).is_ok()
    }
}

impl BackendSockets {
    fn is_complete(&self) -> bool {
        self.current.clone().all(|number| self.sockets.get(number).is_some_and(Option::is_some))
    }

    /// Opens what is not open of the sockets that queries leave by.
    fn fill(&mut self, epoll: &Epoll, backend: &Backend) -> io::Result<()> {
        if self.sockets.len() < self.current.end {
            self.sockets.resize_with(self.current.end, || None);
        }
        for number in self.current.clone() {
            if self.sockets[number].is_some() {
                continue;
            }
            let socket = socket::connect(backend)?;
            let route = Route { backend: backend.slot, socket: SocketSlot::Datagram(number as u8) };
            epoll.add(&socket, EpollEvent::new(EDGE, Ready::BackendSockets(route).pack()))?;
            self.sockets[number] = Some(socket);
        }
        Ok(())
    }

    /// Closes all sockets but those of these numbers.
    fn close_others(&mut self, kept: &Range<usize>) {
        for (number, entry) in self.sockets.iter_mut().enumerate() {
            if !kept.contains(&number) {
                *entry = None;
            }
        }
    }
}
