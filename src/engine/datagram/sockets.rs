//! Sockets for datagrams: doors, where clients' queries come in, and links, by which servers are
//! asked. What is read and sent by them, and when, is the loop's affair.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::Socket;
use tracing::warn;

use crate::base::addr::{BackendSlot, Endpoint, ListenerSlot, Route, SocketSlot};
use crate::base::packet::Packet;
use crate::base::time::Tick;
use crate::engine::datagram::transparent;
use crate::engine::readiness::Ready;
use crate::engine::socket;
use crate::engine::sys::{Arrivals, Departures, Note, OutgoingDatagram, Segment};
use crate::model::{Backend, Listener, Snapshot};
use crate::shard::Shard;
use crate::shard::verdict::Verdict;
use crate::stats::live::ShardStats;

/// Servers that a query which the kernel refuses to send is offered to.
const UNSENT_TRIES: usize = 4;

/// A listener's socket.
#[derive(Debug)]
pub(crate) struct ListenerSocket {
    pub(crate) listener: Arc<Listener>,
    pub(crate) socket: Socket,
    pub(crate) passed: bool,
    pub(crate) note: Note,
    /// It hears no new queries; after this it is closed.
    pub(crate) closes_at: Option<Tick>,
}

/// The sockets towards one backend.
#[derive(Debug)]
pub(crate) struct BackendSockets {
    sockets: Vec<Option<Socket>>,
    /// What is written on each datagram, where its sockets are not connected.
    server: Option<Endpoint>,
    segment: Segment,
}

/// The sockets, apart from the buffers, so that both can be borrowed at once.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) listener_sockets: Vec<Option<ListenerSocket>>,
    pub(crate) backends: Vec<Option<BackendSockets>>,
    /// Some socket could not be opened: try again at the next idle wake-up.
    pub(crate) incomplete: bool,
}

impl Sockets {
    pub(crate) fn open_listener(
        &mut self,
        epoll: &Epoll,
        listener: Arc<Listener>,
        socket: Socket,
        passed: bool,
    ) -> io::Result<()> {
        let at = listener.slot.index();
        epoll.add(
            &socket,
            EpollEvent::new(EpollFlags::EPOLLIN, Ready::ListenerSocket(listener.slot).pack()),
        )?;
        let note = if listener.address.ip().is_unspecified() { Note::PeerAndLocal } else { Note::Peer };
        if self.listener_sockets.len() <= at {
            self.listener_sockets.resize_with(at + 1, || None);
        }
        self.listener_sockets[at] = Some(ListenerSocket { listener, socket, passed, note, closes_at: None });
        Ok(())
    }

    /// Sets what a new snapshot says of listeners whose sockets stay.
    pub(crate) fn revise(&mut self, snapshot: &Snapshot) {
        for listener_socket in self.listener_sockets.iter_mut().flatten().filter(|d| d.closes_at.is_none()) {
            let Some(listener) = snapshot.listener(listener_socket.listener.slot) else { continue };
            if !listener.same_options(&listener_socket.listener)
                && let Err(e) = socket::revise(&listener_socket.socket, listener)
            {
                warn!(listener = %listener.address, "cannot change a socket's options: {e}");
            }
            listener_socket.listener = Arc::clone(listener);
        }
    }

    pub(crate) fn ignore_listener(&self, epoll: &Epoll, slot: ListenerSlot) {
        if let Some(Some(listener_socket)) = self.listener_sockets.get(slot.index()) {
            // Only fails for a socket that is not watched, which is what is wanted.
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

    /// Opens what the snapshot's backends need and is not open.
    pub(crate) fn open_backends(&mut self, epoll: &Epoll, snapshot: &Snapshot) {
        self.incomplete = false;
        for backend in snapshot.backends.iter().flatten().filter(|b| !b.target) {
            let at = backend.slot.index();
            if self.backends.len() <= at {
                self.backends.resize_with(at + 1, || None);
            }
            if self.backends[at].as_ref().is_some_and(|l| l.sockets.iter().all(Option::is_some)) {
                continue;
            }
            let said = self.backends[at].is_some();
            let server = transparent::server(backend);
            let new = || BackendSockets { sockets: Vec::new(), server, segment: Segment::Runs };
            let mut backend_sockets = self.backends[at].take().unwrap_or_else(new);
            backend_sockets.sockets.resize_with(usize::from(backend.sockets.max(1)), || None);
            if let Err(e) = fill(epoll, backend, &mut backend_sockets) {
                self.incomplete = true;
                if !said {
                    warn!(server = backend.name, address = %backend.address, "cannot open a socket: {e}");
                }
            }
            self.backends[at] = Some(backend_sockets);
        }
    }

    /// Closing a socket takes it out of the epoll set.
    pub(crate) fn unlink(&mut self, slot: BackendSlot) {
        if let Some(backend_sockets) = self.backends.get_mut(slot.index()) {
            *backend_sockets = None;
        }
    }

    /// Closes the sockets of slots that the snapshot does not have, and gives the slots back.
    pub(crate) fn unlink_all_but(&mut self, snapshot: &Snapshot, stats: &ShardStats) {
        for (at, backend_sockets) in self.backends.iter_mut().enumerate() {
            if backend_sockets.is_some() && snapshot.backend(BackendSlot(at as u16)).is_none() {
                *backend_sockets = None;
                stats.attached[at].store(0, Release);
            }
        }
    }

    /// Sends queries by one route; `refused` gets the indexes of those the kernel would not take.
    pub(crate) fn send(
        &mut self,
        route: Route,
        arrivals: &Arrivals,
        datagrams: &[OutgoingDatagram],
        departures: &mut Departures,
        refused: &mut Vec<usize>,
    ) {
        let backend_sockets = self.backends.get_mut(route.backend.index()).and_then(Option::as_mut);
        let Some((place, segment)) = backend_sockets
            .and_then(|l| Some((l.sockets.get_mut(usize::from(route.socket.number()))?, &mut l.segment)))
            .filter(|(place, _)| place.is_some())
        else {
            refused.extend(0..datagrams.len());
            return;
        };
        let Some(socket) = place.as_ref() else { return };
        let (mut no_segments, mut stale) = (false, false);
        departures.send(socket.as_fd(), arrivals, datagrams, *segment, &mut |range, error| {
            let code = error.raw_os_error();
            // EIO: the way out cannot compute checksums of segments (udp(7)); EINVAL, EMSGSIZE:
            // its MTU is too small.
            no_segments |= range.len() > 1 && matches!(code, Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE));
            // The address or interface that the socket was connected from is gone.
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
            departures.send(socket.as_fd(), arrivals, &again, Segment::Never, &mut |range, _| {
                refused.extend(&places[range]);
            });
        }
        if stale {
            // Opened anew, from whatever address there is then.
            *place = None;
            self.incomplete = true;
        }
    }

    /// The address that is written on what goes by a route; none where its socket is connected.
    pub(crate) fn server(&self, route: Route) -> Option<Endpoint> {
        self.backends.get(route.backend.index())?.as_ref()?.server
    }

    pub(crate) fn send_one(&self, shard: &Shard, route: Route, bytes: &[u8]) -> bool {
        match (self.backend_sockets(route), self.server(route)) {
            (Some(socket), Some(server)) => transparent::send(socket, server, route, bytes, shard),
            _ => self.send_connected(route, bytes),
        }
    }

    /// The same by a socket that knows its server; false of others.
    pub(crate) fn send_connected(&self, route: Route, bytes: &[u8]) -> bool {
        let Some(socket) = self.backend_sockets(route).filter(|_| self.server(route).is_none()) else {
            return false;
        };
        // The first call may only report an earlier packet's ICMP error.
        socket.send(bytes).or_else(|_| socket.send(bytes)).is_ok()
    }
}

fn fill(epoll: &Epoll, backend: &Backend, backend_sockets: &mut BackendSockets) -> io::Result<()> {
    for (number, place) in backend_sockets.sockets.iter_mut().enumerate().filter(|(_, s)| s.is_none()) {
        let socket = socket::connect(backend)?;
        let route = Route { backend: backend.slot, socket: SocketSlot::Datagram(number as u8) };
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, Ready::BackendSockets(route).pack()))?;
        *place = Some(socket);
    }
    Ok(())
}

/// A query that the kernel would not take: the shard offers it to servers that have not refused it.
pub(crate) fn resend(shard: &mut Shard, sockets: &Sockets, mut route: Route, packet: &mut Packet<'_>) {
    let mut refused = [route.backend; UNSENT_TRIES];
    for tries in 1..=UNSENT_TRIES {
        refused[tries - 1] = route.backend;
        match shard.on_unsent(route, packet, &refused[..tries]) {
            Verdict::Forward(other) if sockets.send_one(shard, other, packet.bytes()) => return,
            Verdict::Forward(other) => route = other,
            Verdict::Answer(_) | Verdict::Deliver(_) | Verdict::Drop(_) | Verdict::Hold => return,
        }
    }
    shard.abandon(route, packet);
}
