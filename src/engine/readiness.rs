//! Socket readiness: what an epoll event is about, in the 64 bits that the kernel keeps with each
//! descriptor, and the sets that sockets are watched in.
//!
//! ```text
//!  datagrams ◄── DNS over UDP, mailbox, pulse
//!      ▲ ▲
//!      │ └── relay datagrams
//!      └──── connections ◄── listeners, clients, backends, relay sessions
//! ```
//!
//! The first set contains the other two, so that one call waits for everything; its own sockets are
//! still found ready however many of the others are. The kernel returns the ready sockets of a set
//! in turn, so none starves.
//!
//! Sockets of DNS over UDP are edge-triggered: the kernel does not look at them once more before a
//! sleep. Who has not read one to its end keeps it ready (`ReadySet::keep`).

use std::collections::VecDeque;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::base::addr::{BackendSlot, ConnectionSlot, ListenerSlot, Route, SessionSlot, SocketSlot};
use crate::engine::sys;

/// One end of a relayed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Target,
}

/// Which of those that have had the same place in a table: an event may be of one that was closed
/// here, but whose socket another process still holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation(pub(crate) u16);

/// The subject of an epoll event, packed into its 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    Mail,
    /// A timer that limits each sleep of the shard.
    Pulse,
    /// A listener's UDP socket.
    ListenerSocket(ListenerSlot),
    /// A backend's UDP socket.
    BackendSockets(Route),
    /// A backend connection.
    BackendConnection(Route, Generation),
    /// A listener's TCP socket.
    TcpListenerSocket(ListenerSlot),
    /// A client connection; its slot has the generation.
    ClientConnection(ConnectionSlot),
    /// One side of a relayed connection, with the attempt of a target.
    RelaySession(SessionSlot, Side, Generation),
    /// The target side of a flow, with its attempt.
    Flow(SessionSlot, Generation),
    /// Another set with ready sockets.
    Set(Group),
}

/// The sets inside the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// Datagrams of relays.
    RelayDatagrams,
    /// All connections.
    Connections,
}

/// The order in which ready sockets of a set are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Priority {
    /// Backends and targets: their responses free what queries wait for.
    Responses,
    /// Clients.
    Clients,
    /// Listeners and other sets.
    Others,
}

impl Ready {
    pub(crate) const fn pack(self) -> u64 {
        match self {
            Self::Mail => 0,
            Self::Set(Group::RelayDatagrams) => 8 << 32,
            Self::Set(Group::Connections) => 9 << 32,
            Self::Pulse => 10 << 32,
            Self::ListenerSocket(slot) => 1 << 32 | slot.0 as u64,
            Self::TcpListenerSocket(slot) => 3 << 32 | slot.0 as u64,
            Self::ClientConnection(connection) => 4 << 32 | connection.0 as u64,
            Self::Flow(session, generation) => generation.bits() | 7 << 32 | session.0 as u64,
            Self::RelaySession(session, Side::Client, generation) => {
                generation.bits() | 5 << 32 | session.0 as u64
            }
            Self::RelaySession(session, Side::Target, generation) => {
                generation.bits() | 6 << 32 | session.0 as u64
            }
            Self::BackendSockets(route) => 2 << 32 | route_bits(route),
            Self::BackendConnection(route, generation) => generation.bits() | 11 << 32 | route_bits(route),
        }
    }

    pub(crate) const fn unpack(data: u64) -> Self {
        let generation = Generation((data >> Generation::SHIFT) as u16);
        let route =
            Route { backend: BackendSlot((data >> 16) as u16), socket: SocketSlot::from_number(data as u16) };
        match data >> 32 & 0xff {
            0 => Self::Mail,
            1 => Self::ListenerSocket(ListenerSlot(data as u16)),
            3 => Self::TcpListenerSocket(ListenerSlot(data as u16)),
            4 => Self::ClientConnection(ConnectionSlot(data as u32)),
            5 => Self::RelaySession(SessionSlot(data as u32), Side::Client, generation),
            7 => Self::Flow(SessionSlot(data as u32), generation),
            6 => Self::RelaySession(SessionSlot(data as u32), Side::Target, generation),
            8 => Self::Set(Group::RelayDatagrams),
            9 => Self::Set(Group::Connections),
            10 => Self::Pulse,
            11 => Self::BackendConnection(route, generation),
            _ => Self::BackendSockets(route),
        }
    }

    pub(crate) const fn priority(self) -> Priority {
        match self {
            Self::BackendSockets(_) | Self::BackendConnection(..) | Self::Flow(..) => Priority::Responses,
            Self::ListenerSocket(_) | Self::ClientConnection(_) | Self::RelaySession(..) => Priority::Clients,
            Self::TcpListenerSocket(_) | Self::Mail | Self::Pulse | Self::Set(_) => Priority::Others,
        }
    }
}

impl Generation {
    /// Where it is in the bits of an event: above the kind.
    const SHIFT: u32 = 40;

    const fn bits(self) -> u64 {
        (self.0 as u64) << Self::SHIFT
    }
}

const fn route_bits(route: Route) -> u64 {
    (route.backend.0 as u64) << 16 | route.socket.number() as u64
}

/// Sockets that are watched together, and those that the last wait found ready.
#[derive(Debug)]
pub(crate) struct ReadySet {
    epoll: Epoll,
    /// Room for as many events as a wait returns, and as many kept ones.
    events: Box<[EpollEvent]>,
    /// Edge-triggered sockets that were not read to their end.
    kept: VecDeque<Ready>,
    /// Events of the last wait.
    count: usize,
    /// The priority that is being served, and the position in it.
    priority: Priority,
    at: usize,
    /// Events served, of all priorities.
    served: usize,
}

impl ReadySet {
    /// Creates an empty set whose wait returns at most `most` events.
    pub(crate) fn new(most: usize) -> nix::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            events: vec![EpollEvent::empty(); 2 * most].into_boxed_slice(),
            kept: VecDeque::new(),
            count: 0,
            priority: Priority::Responses,
            at: 0,
            served: 0,
        })
    }

    /// Returns the epoll set, to add and remove sockets.
    pub(crate) const fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// Watches another set in this one.
    pub(crate) fn watch(&self, other: &Self, group: Group) -> nix::Result<()> {
        self.epoll.add(&other.epoll.0, EpollEvent::new(EpollFlags::EPOLLIN, Ready::Set(group).pack()))
    }

    /// Keeps an edge-triggered socket ready for the next wait: it may hold more than was read.
    pub(crate) fn keep(&mut self, ready: Ready) {
        self.kept.push_back(ready);
    }

    /// Waits for ready sockets and returns how many there are, kept ones included. Unserved events
    /// of an earlier wait are dropped; level-triggered sockets are still ready.
    pub(crate) fn wait(&mut self, timeout: EpollTimeout) -> nix::Result<usize> {
        self.forget();
        let timeout = if self.kept.is_empty() { timeout } else { EpollTimeout::ZERO };
        let most = self.events.len() / 2;
        self.count = match sys::wait(&self.epoll, &mut self.events[..most], timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(e),
        };
        self.add_kept();
        Ok(self.count)
    }

    /// Adds the kept sockets that the kernel has not returned anyway, as far as there is room.
    fn add_kept(&mut self) {
        let returned = self.count;
        while self.count < self.events.len()
            && let Some(ready) = self.kept.pop_front()
        {
            let data = ready.pack();
            if self.events[..returned].iter().all(|event| event.data() != data) {
                self.events[self.count] = EpollEvent::new(EpollFlags::EPOLLIN, data);
                self.count += 1;
            }
        }
    }

    /// Returns the next ready socket of a priority, each once. Priorities are asked for in order.
    #[inline]
    pub(crate) fn next(&mut self, priority: Priority) -> Option<(Ready, EpollFlags)> {
        if priority < self.priority || self.is_served() { None } else { self.look_for(priority) }
    }

    fn look_for(&mut self, priority: Priority) -> Option<(Ready, EpollFlags)> {
        if priority > self.priority {
            (self.priority, self.at) = (priority, 0);
        }
        while let Some(event) = self.events[..self.count].get(self.at) {
            self.at += 1;
            let ready = Ready::unpack(event.data());
            if ready.priority() == priority {
                self.served += 1;
                return Some((ready, event.events()));
            }
        }
        None
    }

    /// Returns whether all ready sockets have been served.
    pub(crate) const fn is_served(&self) -> bool {
        self.served == self.count
    }

    /// Drops all events, because the sockets are closed.
    pub(crate) const fn forget(&mut self) {
        (self.count, self.priority, self.at, self.served) = (0, Priority::Responses, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::eventfd::EventFd;

    use super::*;

    #[test]
    fn a_kept_socket_is_ready_once_and_once_only() {
        let mut set = ReadySet::new(2).expect("a set");
        let descriptor = EventFd::new().expect("a counter");
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        let slot = |number| Ready::ListenerSocket(ListenerSlot(number));
        set.epoll().add(&descriptor, EpollEvent::new(edge, slot(0).pack())).expect("added");
        let found = |set: &mut ReadySet| {
            let count = set.wait(EpollTimeout::ZERO).expect("a wait");
            let ready: Vec<_> = std::iter::from_fn(|| set.next(Priority::Clients)).map(|(r, _)| r).collect();
            assert_eq!((ready.len(), set.is_served()), (count, true));
            ready
        };
        descriptor.write(1).expect("written");
        assert_eq!(found(&mut set), [slot(0)]);
        assert_eq!(found(&mut set), [], "unread, but no new edge");
        set.keep(slot(0));
        assert_eq!(found(&mut set), [slot(0)]);
        assert_eq!(found(&mut set), []);
        // Both kept, and with a new edge.
        set.keep(slot(0));
        descriptor.write(1).expect("written");
        assert_eq!(found(&mut set), [slot(0)]);
        // More than there is room for wait for the next turn.
        (1..=6).for_each(|number| set.keep(slot(number)));
        assert_eq!(found(&mut set), [1, 2, 3, 4].map(slot));
        assert_eq!(found(&mut set), [5, 6].map(slot));
    }

    #[test]
    fn every_kind_round_trips() {
        let route = Route { backend: BackendSlot(7), socket: SocketSlot::from_number(300) };
        for ready in [
            Ready::Mail,
            Ready::Pulse,
            Ready::ListenerSocket(ListenerSlot(u16::MAX)),
            Ready::TcpListenerSocket(ListenerSlot(3)),
            Ready::BackendSockets(route),
            Ready::ClientConnection(ConnectionSlot(u32::MAX)),
            Ready::BackendConnection(route, Generation(u16::MAX)),
            Ready::RelaySession(SessionSlot(u32::MAX), Side::Client, Generation(0)),
            Ready::RelaySession(SessionSlot(9), Side::Target, Generation(7)),
            Ready::Flow(SessionSlot(0), Generation(u16::MAX)),
            Ready::Set(Group::RelayDatagrams),
            Ready::Set(Group::Connections),
        ] {
            assert_eq!(Ready::unpack(ready.pack()), ready);
        }
    }

    /// Adds a descriptor that stays ready.
    fn add(set: &ReadySet, ready: Ready) -> EventFd {
        let descriptor = EventFd::from_value(1).expect("a descriptor");
        set.epoll().add(&descriptor, EpollEvent::new(EpollFlags::EPOLLIN, ready.pack())).expect("added");
        descriptor
    }

    fn all(set: &mut ReadySet) -> Vec<Ready> {
        let priorities = [Priority::Responses, Priority::Clients, Priority::Others];
        let mut found = Vec::new();
        for priority in priorities {
            found.extend(std::iter::from_fn(|| set.next(priority)).map(|(ready, _)| ready));
        }
        found
    }

    #[test]
    fn responses_are_served_before_clients_and_clients_before_listeners() {
        let mut set = ReadySet::new(8).expect("a set");
        let route =
            Ready::BackendSockets(Route { backend: BackendSlot(0), socket: SocketSlot::from_number(300) });
        let [tcp_listener, connection, session] = [
            Ready::TcpListenerSocket(ListenerSlot(1)),
            Ready::ClientConnection(ConnectionSlot(2)),
            Ready::RelaySession(SessionSlot(3), Side::Client, Generation(0)),
        ];
        let _open = [tcp_listener, connection, route, session].map(|ready| add(&set, ready));
        assert_eq!(set.wait(EpollTimeout::ZERO), Ok(4));
        assert_eq!(all(&mut set), [route, connection, session, tcp_listener]);
        assert_eq!((set.next(Priority::Responses), set.next(Priority::Others)), (None, None), "each once");
        assert_eq!(set.wait(EpollTimeout::ZERO), Ok(4), "all are still ready");
        set.forget();
        assert_eq!(all(&mut set), []);
    }

    #[test]
    fn ready_connections_never_hide_a_datagram() {
        let [mut datagrams, mut connections] = [2, 16].map(|most| ReadySet::new(most).expect("a set"));
        datagrams.watch(&connections, Group::Connections).expect("watched");
        let _open: Vec<_> =
            (0..100).map(|n| add(&connections, Ready::ClientConnection(ConnectionSlot(n)))).collect();
        let _listener_socket = add(&datagrams, Ready::ListenerSocket(ListenerSlot(0)));
        let mut served = std::collections::BTreeMap::new();
        for _ in 0..100 {
            assert_eq!(datagrams.wait(EpollTimeout::ZERO), Ok(2));
            assert_eq!(
                all(&mut datagrams),
                [Ready::ListenerSocket(ListenerSlot(0)), Ready::Set(Group::Connections)]
            );
            assert_eq!(connections.wait(EpollTimeout::ZERO), Ok(16));
            all(&mut connections).into_iter().for_each(|ready| *served.entry(ready.pack()).or_insert(0) += 1);
        }
        assert_eq!(served.len(), 100);
        assert!(served.values().all(|times| *times == 16), "in turn: {served:?}");
    }
}
