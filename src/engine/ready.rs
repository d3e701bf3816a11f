//! Which sockets are ready: what an epoll event is about, in the 64 bits that the kernel keeps with each
//! descriptor, and the sets that sockets are watched in.
//!
//! ```text
//!  datagrams ◄── DNS over UDP, mail
//!      ▲ ▲
//!      │ └── forwarded ◄── datagrams of forwards
//!      └──── connections ◄── listeners, clients, servers, relayed connections
//! ```
//!
//! The first set has the other two in it, so that one call waits for everything; but its own
//! sockets are found ready however many of the others are. The kernel hands out the ready ones of a
//! set in turn, so that none is passed over.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::forward::tcp::Side;
use crate::addr::{BackendSlot, ListenerSlot, PassageSlot, Route, SocketSlot, StreamSlot};

/// What an epoll event is about, packed into its 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    Mail,
    /// A listener's datagrams.
    Door(ListenerSlot),
    /// A server's datagrams, or its line.
    Link(Route),
    /// A listener's connections.
    Gate(ListenerSlot),
    /// A client's connection.
    Stream(StreamSlot),
    /// One side of a forward's connection.
    Passage(PassageSlot, Side),
    /// What a target says to a flow.
    Flow(PassageSlot),
    /// Another set, which has something ready.
    Set(Group),
}

/// The sets that are in the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// Datagrams of forwards.
    Forwarded,
    /// All connections.
    Connections,
}

/// In which order the ready ones of a set are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// What servers and targets say: it frees what queries wait for.
    Answers,
    /// What clients say.
    Clients,
    /// Whoever is new.
    Others,
}

impl Ready {
    pub(super) const fn pack(self) -> u64 {
        match self {
            Self::Mail => 0,
            Self::Set(Group::Forwarded) => 8 << 32,
            Self::Set(Group::Connections) => 9 << 32,
            Self::Door(slot) => 1 << 32 | slot.0 as u64,
            Self::Gate(slot) => 3 << 32 | slot.0 as u64,
            Self::Stream(stream) => 4 << 32 | stream.0 as u64,
            Self::Flow(passage) => 7 << 32 | passage.0 as u64,
            Self::Passage(passage, Side::Client) => 5 << 32 | passage.0 as u64,
            Self::Passage(passage, Side::Target) => 6 << 32 | passage.0 as u64,
            Self::Link(route) => 2 << 32 | (route.backend.0 as u64) << 16 | route.socket.0 as u64,
        }
    }

    pub(super) const fn unpack(data: u64) -> Self {
        match data >> 32 {
            0 => Self::Mail,
            1 => Self::Door(ListenerSlot(data as u16)),
            3 => Self::Gate(ListenerSlot(data as u16)),
            4 => Self::Stream(StreamSlot(data as u32)),
            5 => Self::Passage(PassageSlot(data as u32), Side::Client),
            7 => Self::Flow(PassageSlot(data as u32)),
            6 => Self::Passage(PassageSlot(data as u32), Side::Target),
            8 => Self::Set(Group::Forwarded),
            9 => Self::Set(Group::Connections),
            _ => Self::Link(Route {
                backend: BackendSlot((data >> 16) as u16),
                socket: SocketSlot(data as u16),
            }),
        }
    }

    pub(super) const fn rank(self) -> Rank {
        match self {
            Self::Link(_) | Self::Flow(_) => Rank::Answers,
            Self::Door(_) | Self::Stream(_) | Self::Passage(..) => Rank::Clients,
            Self::Gate(_) | Self::Mail | Self::Set(_) => Rank::Others,
        }
    }
}

/// Sockets that are watched together, and those that were ready when the kernel was last asked.
#[derive(Debug)]
pub(super) struct ReadySet {
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
    pub(super) fn new(most: usize) -> nix::Result<Self> {
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
    pub(super) const fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// Watches another set in this one.
    pub(super) fn watch(&self, other: &Self, group: Group) -> nix::Result<()> {
        self.epoll.add(&other.epoll.0, EpollEvent::new(EpollFlags::EPOLLIN, Ready::Set(group).pack()))
    }

    /// Asks the kernel which sockets are ready; how many are. What was not served of an earlier wait is
    /// forgotten, and ready still.
    pub(super) fn wait(&mut self, timeout: EpollTimeout) -> nix::Result<usize> {
        self.forget();
        self.count = match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(e),
        };
        Ok(self.count)
    }

    /// The next ready one of a rank, each once. A rank whose successor was asked for is over.
    pub(super) fn next(&mut self, rank: Rank) -> Option<(Ready, EpollFlags)> {
        if rank < self.rank {
            return None;
        }
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
    pub(super) const fn is_served(&self) -> bool {
        self.served == self.count
    }

    /// Forgets what was found ready: the sockets are closed.
    pub(super) const fn forget(&mut self) {
        (self.count, self.rank, self.at, self.served) = (0, Rank::Answers, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::eventfd::EventFd;

    use super::*;

    #[test]
    fn every_kind_survives_being_packed() {
        let route = Route { backend: BackendSlot(7), socket: SocketSlot(300) };
        for ready in [
            Ready::Mail,
            Ready::Door(ListenerSlot(u16::MAX)),
            Ready::Gate(ListenerSlot(3)),
            Ready::Link(route),
            Ready::Stream(StreamSlot(u32::MAX)),
            Ready::Passage(PassageSlot(u32::MAX), Side::Client),
            Ready::Passage(PassageSlot(9), Side::Target),
            Ready::Flow(PassageSlot(0)),
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
        let line = Ready::Link(Route { backend: BackendSlot(0), socket: SocketSlot(300) });
        let [gate, stream, passage] = [
            Ready::Gate(ListenerSlot(1)),
            Ready::Stream(StreamSlot(2)),
            Ready::Passage(PassageSlot(3), Side::Client),
        ];
        let _open = [gate, stream, line, passage].map(|ready| add(&set, ready));
        assert_eq!(set.wait(EpollTimeout::ZERO), Ok(4));
        assert_eq!(all(&mut set), [line, stream, passage, gate]);
        assert_eq!((set.next(Rank::Answers), set.next(Rank::Others)), (None, None), "each once");
        assert_eq!(set.wait(EpollTimeout::ZERO), Ok(4), "all are ready still");
        set.forget();
        assert_eq!(all(&mut set), []);
    }

    #[test]
    fn no_number_of_ready_connections_hides_a_datagram() {
        let [mut datagrams, mut connections] = [2, 16].map(|most| ReadySet::new(most).expect("a set"));
        datagrams.watch(&connections, Group::Connections).expect("watched");
        let _open: Vec<_> = (0..100).map(|n| add(&connections, Ready::Stream(StreamSlot(n)))).collect();
        let _door = add(&datagrams, Ready::Door(ListenerSlot(0)));
        let mut served = std::collections::BTreeMap::new();
        for _ in 0..100 {
            assert_eq!(datagrams.wait(EpollTimeout::ZERO), Ok(2));
            assert_eq!(all(&mut datagrams), [Ready::Door(ListenerSlot(0)), Ready::Set(Group::Connections)]);
            assert_eq!(connections.wait(EpollTimeout::ZERO), Ok(16));
            all(&mut connections).into_iter().for_each(|ready| *served.entry(ready.pack()).or_insert(0) += 1);
        }
        assert_eq!(served.len(), 100);
        assert!(served.values().all(|times| *times == 16), "in turn: {served:?}");
    }
}
