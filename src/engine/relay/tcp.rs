//! Connections of forwards: bytes both ways by `splice`, half-close kept, resets passed on.
//!
//! ```text
//!  client ═══ out: pipe ═══► target        a pipe is there only while it holds bytes
//!         ◄══ back: pipe ═══
//! ```
//!
//! What one side does not take is not read from the other. One turn moves a bounded number of
//! bytes each way, so that nobody who sends much keeps others waiting. What a side had said before
//! it broke is passed on first.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, recv};
use socket2::Socket;

use crate::base::addr::{Endpoint, SessionSlot};
use crate::engine::readiness::Ready;
use crate::engine::relay::pipe::Pipes;
use crate::engine::relay::splice_pump::{Broken, Readiness, SplicePump, TURN, discard};
use crate::engine::relay::{failure, greeting, is_passing};
use crate::engine::socket;
use crate::shard::Shard;
use crate::shard::relay::{Attempt, Direction, RelayInterest};
use crate::stats::close_reason::RelayCloseReason;
use crate::stats::descriptors::Descriptors;
use crate::wire::proxy::Transport;

/// Bytes of a client that may go with the first packet of TCP Fast Open: they fit in one.
const FIRST: usize = 1_200;

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Target,
}

/// A connection between a client and its target.
#[derive(Debug)]
struct Relay {
    client: Socket,
    target: Option<Socket>,
    /// Which attempt `target` is for.
    attempt: Option<Attempt>,
    /// It has accepted.
    stands: bool,
    /// What the target is to hear first.
    greeting: Vec<u8>,
    /// Bytes of the client that went with the first packet, and still stand in its socket.
    early: usize,
    out: SplicePump,
    back: SplicePump,
    /// The side that was the first to close.
    closed_by: Option<RelayCloseReason>,
    /// What each side is watched for; none when it is not.
    watched: [Option<EpollFlags>; 2],
}

/// All connections of a shard's forwards.
#[derive(Debug)]
pub(crate) struct Relays {
    table: Vec<Option<Box<Relay>>>,
    pipes: Pipes,
}

impl Relays {
    /// None yet.
    pub(crate) const fn new(descriptors: Arc<Descriptors>) -> Self {
        Self { table: Vec::new(), pipes: Pipes::new(descriptors) }
    }

    /// A client has connected, and the shard has taken it.
    pub(crate) fn open(&mut self, epoll: &Epoll, session: SessionSlot, client: Socket, shard: &mut Shard) {
        // Nothing is read before there is a target; that the client goes is heard all the same.
        let watched = EpollFlags::empty();
        let event = EpollEvent::new(watched, Ready::RelaySession(session, Side::Client).pack());
        if epoll.add(&client, event).is_err() {
            return shard.on_session_closed(session, RelayCloseReason::Local);
        }
        if self.table.len() <= session.index() {
            self.table.resize_with(session.index() + 1, || None);
        }
        self.table[session.index()] = Some(Box::new(Relay {
            client,
            target: None,
            attempt: None,
            stands: false,
            greeting: Vec::new(),
            early: 0,
            out: SplicePump::default(),
            back: SplicePump::default(),
            closed_by: None,
            watched: [Some(watched), None],
        }));
    }

    /// Does what the shard wishes for a connection; false when it is none.
    pub(crate) fn serve(&mut self, epoll: &Epoll, session: SessionSlot, shard: &mut Shard) -> bool {
        loop {
            let Some(Some(relay)) = self.table.get_mut(session.index()) else { return false };
            match shard.relay_interest(session) {
                RelayInterest::Close(why) => {
                    self.close(session, why, shard);
                    return true;
                }
                RelayInterest::Connect(attempt) if relay.attempt != Some(attempt) => {
                    let begun = relay.connect(epoll, session, attempt, shard);
                    if let Err(e) = begun {
                        shard.on_target_failed(session, failure(&e));
                        continue;
                    }
                    return true;
                }
                RelayInterest::Connect(_) | RelayInterest::Serve(_) => return true,
            }
        }
    }

    /// Something has happened to a connection.
    pub(crate) fn on_event(
        &mut self,
        epoll: &Epoll,
        session: SessionSlot,
        side: Side,
        what: EpollFlags,
        shard: &mut Shard,
    ) {
        let Some(Some(relay)) = self.table.get_mut(session.index()) else { return };
        if !relay.stands {
            match side {
                // It cannot be read or written yet: the client has reset it.
                Side::Client => return self.close(session, RelayCloseReason::ClientBroken, shard),
                Side::Target => {
                    let Some(target) = &relay.target else { return };
                    match target.take_error().and_then(|e| e.map_or(Ok(()), Err)) {
                        Ok(()) if what.contains(EpollFlags::EPOLLOUT) => {
                            relay.stands = true;
                            shard.on_target_open(session);
                            relay.forget_early(session, shard);
                        }
                        Ok(()) => return,
                        Err(e) => {
                            shard.on_target_failed(session, failure(&e));
                            self.serve(epoll, session, shard);
                            return;
                        }
                    }
                }
            }
        }
        let Some(Some(relay)) = self.table.get_mut(session.index()) else { return };
        match relay.turn(session, side, what, &mut self.pipes, shard) {
            Err(why) => self.close(session, why, shard),
            Ok(()) if relay.out.is_over() && relay.back.is_over() => {
                let why = relay.closed_by.unwrap_or(RelayCloseReason::Client);
                self.close(session, why, shard);
            }
            Ok(()) => relay.watch(epoll, session, side, what),
        }
    }

    fn close(&mut self, session: SessionSlot, why: RelayCloseReason, shard: &mut Shard) {
        let Some(mut relay) = self.table.get_mut(session.index()).and_then(Option::take) else { return };
        relay.out.give_up(&mut self.pipes);
        relay.back.give_up(&mut self.pipes);
        if matches!(why, RelayCloseReason::ClientBroken | RelayCloseReason::TargetBroken) {
            // The other side is to hear that it broke, not that all was said.
            for socket in [Some(&relay.client), relay.target.as_ref()].into_iter().flatten() {
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
        }
        // Closing takes them out of the epoll set.
        drop(relay);
        shard.on_session_closed(session, why);
    }

    /// Closes all: whose shard has lost what it knew of them.
    pub(crate) fn drop_all(&mut self) {
        self.table.clear();
        self.pipes.forget_taken();
    }
}

impl Relay {
    fn connect(
        &mut self,
        epoll: &Epoll,
        session: SessionSlot,
        attempt: Attempt,
        shard: &Shard,
    ) -> io::Result<()> {
        self.target = None;
        self.watched[1] = None;
        self.attempt = Some(attempt);
        let gone = || io::Error::from(io::ErrorKind::HostUnreachable);
        let target = shard.snapshot().backend(attempt.target).ok_or_else(gone)?;
        let (client, _) = shard.relay_client(session).ok_or_else(gone)?;
        let asked = || self.client.local_addr().ok()?.as_socket().map(Endpoint::from);
        self.greeting.clear();
        greeting(target.client_address, Transport::Stream, client.peer, asked, &mut self.greeting);
        let mut first = [0; FIRST];
        let mut early = 0;
        if target.connections.fast_open && self.greeting.is_empty() {
            // They stay where they are, for the next target if this one fails.
            let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            early = recv(self.client.as_raw_fd(), &mut first, flags).unwrap_or(0);
        }
        // Without a word to say the connection would never begin: a server may have to speak first.
        let fast_open = target.connections.fast_open && (early > 0 || !self.greeting.is_empty());
        let socket = socket::connect_target(target, client.peer, false, fast_open)?;
        self.early = 0;
        if fast_open {
            let words = if early > 0 { &first[..early] } else { &self.greeting[..] };
            match (&socket).write(words) {
                Ok(count) if early > 0 => self.early = count,
                Ok(count) => drop(self.greeting.drain(..count)),
                // The kernel knows no cookie of this target: the connection begins in the usual way.
                Err(e) if is_passing(&e) || e.raw_os_error() == Some(libc::EINPROGRESS) => {}
                Err(e) => return Err(e),
            }
        }
        let flags = EpollFlags::EPOLLOUT;
        epoll.add(&socket, EpollEvent::new(flags, Ready::RelaySession(session, Side::Target).pack()))?;
        self.watched[1] = Some(flags);
        self.target = Some(socket);
        Ok(())
    }

    /// The target has what went with the first packet: it is taken out of the client's socket.
    fn forget_early(&mut self, session: SessionSlot, shard: &mut Shard) {
        let mut rest = [0; FIRST];
        let count = std::mem::take(&mut self.early);
        if count > 0 && discard(&self.client, &mut rest[..count]).is_ok() {
            shard.on_relayed(session, Direction::Out, count);
        }
    }

    /// Moves what can be moved.
    fn turn(
        &mut self,
        session: SessionSlot,
        side: Side,
        what: EpollFlags,
        pipes: &mut Pipes,
        shard: &mut Shard,
    ) -> Result<(), RelayCloseReason> {
        let Some(target) = &self.target else { return Ok(()) };
        let socket = if side == Side::Client { &self.client } else { target };
        if what.contains(EpollFlags::EPOLLERR) && !matches!(socket.take_error(), Ok(None)) {
            return Err(self.broke(session, side, pipes, shard));
        }
        while !self.greeting.is_empty() {
            match (&mut &*target).write(&self.greeting) {
                Ok(count) => {
                    self.greeting.drain(..count);
                    if self.greeting.is_empty() {
                        self.greeting = Vec::new();
                    }
                }
                Err(e) if is_passing(&e) => return Ok(()),
                Err(_) => return Err(self.broke(session, Side::Target, pipes, shard)),
            }
        }
        // What this side has said goes one way, and what it has room for the other.
        let ends = what.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP);
        let (came, buffers) =
            (what.contains(EpollFlags::EPOLLIN) || ends, what.contains(EpollFlags::EPOLLOUT));
        let other = if side == Side::Client { Side::Target } else { Side::Client };
        for (sender, goes, came) in [(side, came, came), (other, buffers, false)] {
            let readiness = Readiness { came, ends, broke: false };
            if goes && let Err(broken) = self.carry(session, sender, readiness, pipes, shard) {
                return Err(self.broke(session, broken.side(sender), pipes, shard));
            }
        }
        if self.closed_by.is_none() {
            if self.out.ended() {
                self.closed_by = Some(RelayCloseReason::Client);
            } else if self.back.ended() {
                self.closed_by = Some(RelayCloseReason::Target);
            }
        }
        Ok(())
    }

    /// Moves what one side has said to the other; says how many bytes.
    fn carry(
        &mut self,
        session: SessionSlot,
        sender: Side,
        readiness: Readiness,
        pipes: &mut Pipes,
        shard: &mut Shard,
    ) -> Result<usize, Broken> {
        let Some(target) = &self.target else { return Ok(0) };
        let (way, pump, from, to) = match sender {
            Side::Client => (Direction::Out, &mut self.out, &self.client, target),
            Side::Target => (Direction::Back, &mut self.back, target, &self.client),
        };
        let mut bytes = 0;
        let carried = pump.carry(from, to, pipes, readiness, &mut bytes);
        if bytes > 0 {
            shard.on_relayed(session, way, bytes);
        }
        carried.map(|()| bytes)
    }

    /// A side has broken: what it had said before is passed on, as far as the other side takes it.
    fn broke(
        &mut self,
        session: SessionSlot,
        side: Side,
        pipes: &mut Pipes,
        shard: &mut Shard,
    ) -> RelayCloseReason {
        // Nothing more arrives there, so that this ends. A target that has not heard the greeting
        // would take a client's bytes for it.
        let readiness = Readiness { came: true, ends: true, broke: true };
        while (side == Side::Target || self.greeting.is_empty())
            && matches!(self.carry(session, side, readiness, pipes, shard), Ok(TURN..))
        {}
        side.broken()
    }

    /// Watches both sides for what can be done next.
    fn watch(&mut self, epoll: &Epoll, session: SessionSlot, side: Side, what: EpollFlags) {
        let Some(target) = &self.target else { return };
        let stretches = [
            (Side::Client, &self.client, &self.out, &self.back),
            (Side::Target, target, &self.back, &self.out),
        ];
        for (at, (this, socket, from, to)) in stretches.into_iter().enumerate() {
            let mut flags = EpollFlags::empty();
            let greets = !self.greeting.is_empty();
            flags
                .set(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, !from.waits() && !from.ended() && !greets);
            flags.set(EpollFlags::EPOLLOUT, to.waits() || greets && this == Side::Target);
            let packed = Ready::RelaySession(session, this).pack();
            // A side that is closed both ways says so without end: it is no longer listened to.
            let wanted =
                (!flags.is_empty() || this != side || !what.contains(EpollFlags::EPOLLHUP)).then_some(flags);
            if self.watched[at] == wanted {
                continue;
            }
            // These only fail for a socket that is, or is not, in the set.
            let _ = match (self.watched[at], wanted) {
                (Some(_), Some(flags)) => epoll.modify(socket, &mut EpollEvent::new(flags, packed)),
                (None, Some(flags)) if !flags.is_empty() => epoll.add(socket, EpollEvent::new(flags, packed)),
                (Some(_), None) => epoll.delete(socket),
                (None, _) => continue,
            };
            self.watched[at] = wanted;
        }
    }
}

impl Broken {
    /// Which side that is, when the sender is `sender`.
    const fn side(self, sender: Side) -> Side {
        match (self, sender) {
            (Self::Sender, side) => side,
            (Self::Receiver, Side::Client) => Side::Target,
            (Self::Receiver, Side::Target) => Side::Client,
        }
    }
}

impl Side {
    const fn broken(self) -> RelayCloseReason {
        match self {
            Self::Client => RelayCloseReason::ClientBroken,
            Self::Target => RelayCloseReason::TargetBroken,
        }
    }
}
