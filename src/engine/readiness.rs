//! Which sockets are ready: what an epoll event is about, in the 64 bits that the kernel keeps with each
//! descriptor, and the sets that sockets are watched in.
//!
//! ```text
//!  datagrams ◄── DNS over UDP, mail, pulse
//!      ▲ ▲
//!      │ └── forwarded ◄── datagrams of forwards
//!      └──── connections ◄── listeners, clients, servers, relayed connections
//! ```
//!
//! The first set has the other two in it, so that one call waits for everything; but its own
//! sockets are found ready however many of the others are. The kernel hands out the ready ones of a
//! set in turn, so that none is passed over.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::base::addr::{BackendSlot, ConnectionSlot, ListenerSlot, Route, SessionSlot, SocketSlot};
use crate::engine::relay::tcp::Side;
use crate::engine::sys;

/// What an epoll event is about, packed into its 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    Mail,
    /// A timer that lets no shard sleep for too long.
    Pulse,
    /// A listener's datagrams.
    ListenerSocket(ListenerSlot),
    /// A server's datagrams, or its line.
    BackendSockets(Route),
    /// A listener's connections.
    TcpListenerSocket(ListenerSlot),
    /// A client's connection.
    Stream(ConnectionSlot),
    /// One side of a forward's connection.
    RelaySession(SessionSlot, Side),
    /// What a target says to a flow.
    Flow(SessionSlot),
    /// Another set, which has something ready.
    Set(Group),
}

/// The sets that are in the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// Datagrams of forwards.
    Forwarded,
    /// All connections.
    Connections,
}

/// In which order the ready ones of a set are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// What servers and targets say: it frees what queries wait for.
    Answers,
    /// What clients say.
    Clients,
    /// Whoever is new.
    Others,
}

impl Ready {
    pub(crate) const fn pack(self) -> u64 {
        match self {
            Self::Mail => 0,
            Self::Set(Group::Forwarded) => 8 << 32,
            Self::Set(Group::Connections) => 9 << 32,
            Self::Pulse => 10 << 32,
            Self::ListenerSocket(slot) => 1 << 32 | slot.0 as u64,
            Self::TcpListenerSocket(slot) => 3 << 32 | slot.0 as u64,
            Self::Stream(connection) => 4 << 32 | connection.0 as u64,
            Self::Flow(session) => 7 << 32 | session.0 as u64,
            Self::RelaySession(session, Side::Client) => 5 << 32 | session.0 as u64,
            Self::RelaySession(session, Side::Target) => 6 << 32 | session.0 as u64,
            Self::BackendSockets(route) => {
                2 << 32 | (route.backend.0 as u64) << 16 | route.socket.number() as u64
            }
        }
    }

    pub(crate) const fn unpack(data: u64) -> Self {
        match data >> 32 {
            0 => Self::Mail,
            1 => Self::ListenerSocket(ListenerSlot(data as u16)),
            3 => Self::TcpListenerSocket(ListenerSlot(data as u16)),
            4 => Self::Stream(ConnectionSlot(data as u32)),
            5 => Self::RelaySession(SessionSlot(data as u32), Side::Client),
            7 => Self::Flow(SessionSlot(data as u32)),
            6 => Self::RelaySession(SessionSlot(data as u32), Side::Target),
            8 => Self::Set(Group::Forwarded),
            9 => Self::Set(Group::Connections),
            10 => Self::Pulse,
            _ => Self::BackendSockets(Route {
                backend: BackendSlot((data >> 16) as u16),
                socket: SocketSlot::from_number(data as u16),
            }),
        }
    }

    pub(crate) const fn rank(self) -> Rank {
        match self {
            Self::BackendSockets(_) | Self::Flow(_) => Rank::Answers,
            Self::ListenerSocket(_) | Self::Stream(_) | Self::RelaySession(..) => Rank::Clients,
            Self::TcpListenerSocket(_) | Self::Mail | Self::Pulse | Self::Set(_) => Rank::Others,
        }
    }
}

/// Sockets that are watched together, and those that were ready when the kernel was last asked.
#[derive(Debug)]
pub(crate) struct ReadySet {
    epoll: Epoll,
    events: Box<[EpollEvent]>,
    /// Events of the last wait.
    count: usize,
    /// The rank that is being served, and how far.
    rank: Rank,
    at: usize,
    /// Events that were served, of all ranks.
    served: usize,
}

impl ReadySet {
    /// An empty set, of which a wait takes `most` ready ones at a time.
    pub(crate) fn new(most: usize) -> nix::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            events: vec![EpollEvent::empty(); most].into_boxed_slice(),
            count: 0,
            rank: Rank::Answers,
            at: 0,
            served: 0,
        })
    }

    /// Where its sockets are added and taken out.
    pub(crate) const fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// Watches another set in this one.
    pub(crate) fn watch(&self, other: &Self, group: Group) -> nix::Result<()> {
        self.epoll.add(&other.epoll.0, EpollEvent::new(EpollFlags::EPOLLIN, Ready::Set(group).pack()))
    }

    /// Asks the kernel which sockets are ready; how many are. What was not served of an earlier wait is
    /// forgotten, and ready still.
    pub(crate) fn wait(&mut self, timeout: EpollTimeout) -> nix::Result<usize> {
        self.forget();
        self.count = match sys::wait(&self.epoll, &mut self.events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(e),
        };
        Ok(self.count)
    }

    /// The next ready one of a rank, each once. A rank whose successor was asked for is over.
    #[inline]
    pub(crate) fn next(&mut self, rank: Rank) -> Option<(Ready, EpollFlags)> {
        if rank < self.rank || self.is_served() { None } else { self.look_for(rank) }
    }

    fn look_for(&mut self, rank: Rank) -> Option<(Ready, EpollFlags)> {
        if rank > self.rank {
            (self.rank, self.at) = (rank, 0);
        }
        while let Some(event) = self.events[..self.count].get(self.at) {
            self.at += 1;
            let ready = Ready::unpack(event.data());
            if ready.rank() == rank {
                self.served += 1;
                return Some((ready, event.events()));
            }
        }
        None
    }

    /// Whether all that were found ready have been served.
    pub(crate) const fn is_served(&self) -> bool {
        self.served == self.count
    }

    /// Forgets what was found ready: the sockets are closed.
    pub(crate) const fn forget(&mut self) {
        (self.count, self.rank, self.at, self.served) = (0, Rank::Answers, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::eventfd::EventFd;

    use super::*;

    #[test]
    fn every_kind_survives_being_packed() {
        let route = Route { backend: BackendSlot(7), socket: SocketSlot::from_number(300) };
        for ready in [
            Ready::Mail,
            Ready::Pulse,
            Ready::ListenerSocket(ListenerSlot(u16::MAX)),
            Ready::TcpListenerSocket(ListenerSlot(3)),
            Ready::BackendSockets(route),
            Ready::Stream(ConnectionSlot(u32::MAX)),
            Ready::RelaySession(SessionSlot(u32::MAX), Side::Client),
            Ready::RelaySession(SessionSlot(9), Side::Target),
            Ready::Flow(SessionSlot(0)),
            Ready::Set(Group::Forwarded),
            Ready::Set(Group::Connections),
        ] {
            assert_eq!(Ready::unpack(ready.pack()), ready);
        }
    }

    /// Something that is ready for as long as it is in the set.
    fn add(set: &ReadySet, ready: Ready) -> EventFd {
        let descriptor = EventFd::from_value(1).expect("a descriptor");
        set.epoll().add(&descriptor, EpollEvent::new(EpollFlags::EPOLLIN, ready.pack())).expect("added");
        descriptor
    }

    fn all(set: &mut ReadySet) -> Vec<Ready> {
        let ranks = [Rank::Answers, Rank::Clients, Rank::Others];
        let mut found = Vec::new();
        for rank in ranks {
            found.extend(std::iter::from_fn(|| set.next(rank)).map(|(ready, _)| ready));
        }
        found
    }

    #[test]
    fn answers_are_served_before_clients_and_these_before_whoever_is_new() {
        let mut set = ReadySet::new(8).expect("a set");
        let route =
            Ready::BackendSockets(Route { backend: BackendSlot(0), socket: SocketSlot::from_number(300) });
        let [tcp_listener, connection, session] = [
            Ready::TcpListenerSocket(ListenerSlot(1)),
            Ready::Stream(ConnectionSlot(2)),
            Ready::RelaySession(SessionSlot(3), Side::Client),
        ];
        let _open = [tcp_listener, connection, route, session].map(|ready| add(&set, ready));
        assert_eq!(set.wait(EpollTimeout::ZERO), Ok(4));
        assert_eq!(all(&mut set), [route, connection, session, tcp_listener]);
        assert_eq!((set.next(Rank::Answers), set.next(Rank::Others)), (None, None), "each once");
        assert_eq!(set.wait(EpollTimeout::ZERO), Ok(4), "all are ready still");
        set.forget();
        assert_eq!(all(&mut set), []);
    }

    #[test]
    fn no_number_of_ready_connections_hides_a_datagram() {
        let [mut datagrams, mut connections] = [2, 16].map(|most| ReadySet::new(most).expect("a set"));
        datagrams.watch(&connections, Group::Connections).expect("watched");
        let _open: Vec<_> = (0..100).map(|n| add(&connections, Ready::Stream(ConnectionSlot(n)))).collect();
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
