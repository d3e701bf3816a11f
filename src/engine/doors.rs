//! Sockets for datagrams: doors, where clients' queries come in, and links, by which servers are
//! asked. What is read and sent by them, and when, is the loop's affair.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::Socket;
use tracing::warn;

use super::ready::Ready;
use super::sys::{Arrivals, Departures, Note, Parcel, Segment};
use super::{socket, transparent};
use crate::addr::{BackendSlot, Endpoint, ListenerSlot, Route, SocketSlot};
use crate::config::snapshot::{Backend, Listener, Snapshot};
use crate::live::ShardPage;
use crate::packet::Packet;
use crate::shard::Shard;
use crate::shard::verdict::Verdict;
use crate::time::Tick;

/// Servers that a query which the kernel refuses to send is offered to.
const UNSENT_TRIES: usize = 4;

/// A listener's socket.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) listener: Arc<Listener>,
    pub(super) socket: Socket,
    pub(super) passed: bool,
    pub(super) note: Note,
    /// It hears no new queries; after this it is closed.
    pub(super) closes_at: Option<Tick>,
}

/// The sockets towards one backend.
#[derive(Debug)]
pub(super) struct Link {
    sockets: Vec<Option<Socket>>,
    /// What is written on each datagram, where its sockets are not connected.
    server: Option<Endpoint>,
    segment: Segment,
}

/// The sockets, apart from the buffers, so that both can be borrowed at once.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    pub(super) doors: Vec<Option<Door>>,
    pub(super) links: Vec<Option<Link>>,
    /// Some socket could not be opened: try again at the next idle wake-up.
    pub(super) incomplete: bool,
}

impl Sockets {
    pub(super) fn open_door(
        &mut self,
        epoll: &Epoll,
        listener: Arc<Listener>,
        socket: Socket,
        passed: bool,
    ) -> io::Result<()> {
        let at = listener.slot.index();
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, Ready::Door(listener.slot).pack()))?;
        let note = if listener.address.ip().is_unspecified() { Note::PeerAndLocal } else { Note::Peer };
        if self.doors.len() <= at {
            self.doors.resize_with(at + 1, || None);
        }
        self.doors[at] = Some(Door { listener, socket, passed, note, closes_at: None });
        Ok(())
    }

    /// Sets what a new snapshot says of listeners whose sockets stay.
    pub(super) fn revise(&mut self, snapshot: &Snapshot) {
        for door in self.doors.iter_mut().flatten().filter(|d| d.closes_at.is_none()) {
            let Some(listener) = snapshot.listener(door.listener.slot) else { continue };
            if !listener.same_options(&door.listener)
                && let Err(e) = socket::revise(&door.socket, listener)
            {
                warn!(listener = %listener.address, "cannot change a socket's options: {e}");
            }
            door.listener = Arc::clone(listener);
        }
    }

    pub(super) fn ignore_door(&self, epoll: &Epoll, slot: ListenerSlot) {
        if let Some(Some(door)) = self.doors.get(slot.index()) {
            // Only fails for a socket that is not watched, which is what is wanted.
            let _ = epoll.delete(&door.socket);
        }
    }

    pub(super) fn door(&self, slot: ListenerSlot) -> Option<&Socket> {
        Some(&self.doors.get(slot.index())?.as_ref()?.socket)
    }

    pub(super) fn link(&self, route: Route) -> Option<&Socket> {
        self.links.get(route.backend.index())?.as_ref()?.sockets.get(route.socket.index())?.as_ref()
    }

    /// Opens what the snapshot's backends need and is not open.
    pub(super) fn link_all(&mut self, epoll: &Epoll, snapshot: &Snapshot) {
        self.incomplete = false;
        for backend in snapshot.backends.iter().flatten().filter(|b| !b.target) {
            let at = backend.slot.index();
            if self.links.len() <= at {
                self.links.resize_with(at + 1, || None);
            }
            if self.links[at].as_ref().is_some_and(|l| l.sockets.iter().all(Option::is_some)) {
                continue;
            }
            let said = self.links[at].is_some();
            let server = transparent::server(backend);
            let new = || Link { sockets: Vec::new(), server, segment: Segment::Runs };
            let mut link = self.links[at].take().unwrap_or_else(new);
            link.sockets.resize_with(usize::from(backend.sockets.max(1)), || None);
            if let Err(e) = fill(epoll, backend, &mut link) {
                self.incomplete = true;
                if !said {
                    warn!(server = backend.name, address = %backend.address, "cannot open a socket: {e}");
                }
            }
            self.links[at] = Some(link);
        }
    }

    /// Closing a socket takes it out of the epoll set.
    pub(super) fn unlink(&mut self, slot: BackendSlot) {
        if let Some(link) = self.links.get_mut(slot.index()) {
            *link = None;
        }
    }

    /// Closes the sockets of slots that the snapshot does not have, and gives the slots back.
    pub(super) fn unlink_all_but(&mut self, snapshot: &Snapshot, page: &ShardPage) {
        for (at, link) in self.links.iter_mut().enumerate() {
            if link.is_some() && snapshot.backend(BackendSlot(at as u16)).is_none() {
                *link = None;
                page.attached[at].store(0, Release);
            }
        }
    }

    /// Sends queries by one route; `refused` gets the indexes of those the kernel would not take.
    pub(super) fn send(
        &mut self,
        route: Route,
        arrivals: &Arrivals,
        parcels: &[Parcel],
        departures: &mut Departures,
        refused: &mut Vec<usize>,
    ) {
        let link = self.links.get_mut(route.backend.index()).and_then(Option::as_mut);
        let Some((place, segment)) = link
            .and_then(|l| Some((l.sockets.get_mut(route.socket.index())?, &mut l.segment)))
            .filter(|(place, _)| place.is_some())
        else {
            refused.extend(0..parcels.len());
            return;
        };
        let Some(socket) = place.as_ref() else { return };
        let (mut no_segments, mut stale) = (false, false);
        departures.send(socket.as_fd(), arrivals, parcels, *segment, &mut |range, error| {
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
            let again: Vec<Parcel> = places.iter().map(|at| parcels[*at]).collect();
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
    pub(super) fn server(&self, route: Route) -> Option<Endpoint> {
        self.links.get(route.backend.index())?.as_ref()?.server
    }

    pub(super) fn send_one(&self, shard: &Shard, route: Route, octets: &[u8]) -> bool {
        match (self.link(route), self.server(route)) {
            (Some(socket), Some(server)) => transparent::send(socket, server, route, octets, shard),
            _ => self.send_connected(route, octets),
        }
    }

    /// The same by a socket that knows its server; false of others.
    pub(super) fn send_connected(&self, route: Route, octets: &[u8]) -> bool {
        let Some(socket) = self.link(route).filter(|_| self.server(route).is_none()) else { return false };
        // The first call may only report an earlier packet's ICMP error.
        socket.send(octets).or_else(|_| socket.send(octets)).is_ok()
    }
}

fn fill(epoll: &Epoll, backend: &Backend, link: &mut Link) -> io::Result<()> {
    for (number, place) in link.sockets.iter_mut().enumerate().filter(|(_, s)| s.is_none()) {
        let socket = socket::connect(backend)?;
        let route = Route { backend: backend.slot, socket: SocketSlot(number as u16) };
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, Ready::Link(route).pack()))?;
        *place = Some(socket);
    }
    Ok(())
}

/// A query that the kernel would not take: the shard offers it to servers that have not refused it.
pub(super) fn resend(shard: &mut Shard, sockets: &Sockets, mut route: Route, packet: &mut Packet<'_>) {
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
