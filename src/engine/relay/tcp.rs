//! Relayed TCP connections: bytes both ways by `splice`, half-close kept, resets passed on.
//!
//! ```text
//!  client ═══ out: pipe ═══► target        a pipe is there only while it holds bytes
//!         ◄══ back: pipe ═══
//! ```
//!
//! What one side does not accept is not read from the other. One turn moves a bounded number of
//! bytes each way, so that no busy connection starves others. Bytes that a side sent before it
//! broke are passed on first.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, recv};
use socket2::Socket;

use crate::base::addr::{Endpoint, SessionSlot};
use crate::engine::owned::Owned;
use crate::engine::readiness::{Generation, Ready, Side};
use crate::engine::relay::pipe::Pipes;
use crate::engine::relay::splice_pump::{Broken, Readiness, SplicePump, TURN, discard};
use crate::engine::relay::{failure, is_transient, proxy_header};
use crate::engine::socket;
use crate::shard::Shard;
use crate::shard::relay::{Attempt, Direction, RelayInterest};
use crate::stats::close_reason::{ConnectFailure, RelayCloseReason};
use crate::stats::descriptors::Descriptors;
use crate::wire::proxy::Transport;

/// Client bytes that may go with the first packet of TCP Fast Open: they fit in one.
const FIRST: usize = 1_200;

/// A connection between a client and its target.
#[derive(Debug)]
struct Relay {
    client: Socket,
    target: Option<Socket>,
    /// The attempt that `target` belongs to.
    attempt: Option<Attempt>,
    /// The target has accepted.
    connected: bool,
    /// The PROXY header that the target gets first.
    proxy_header: Vec<u8>,
    /// Client bytes that went with the first packet and are still in the client's socket.
    early: usize,
    out: SplicePump,
    back: SplicePump,
    /// The side that closed first.
    closed_by: Option<RelayCloseReason>,
    /// A side broke, so the other one must see a reset, not an orderly end.
    is_broken: bool,
    /// The events that each side is watched for; `None` when it is in no epoll set.
    watched: [Option<EpollFlags>; 2],
}

/// All relayed TCP connections of a shard.
#[derive(Debug)]
pub(crate) struct Relays {
    table: Owned<SessionSlot, Box<Relay>>,
    pipes: Pipes,
}

impl Relays {
    /// Creates an empty set.
    pub(crate) const fn new(descriptors: Arc<Descriptors>) -> Self {
        Self { table: Owned::new(), pipes: Pipes::new(descriptors) }
    }

    /// Adds a client's connection that the shard has accepted.
    pub(crate) fn open(&mut self, epoll: &Epoll, session: SessionSlot, client: Socket, shard: &mut Shard) {
        // Nothing is read before there is a target, but a reset by the client is still reported.
        let watched = EpollFlags::empty();
        let event = EpollEvent::new(
            watched,
            Ready::RelaySession(session, Side::Client, Generation::default()).pack(),
        );
        if epoll.add(&client, event).is_err() {
            return shard.on_session_closed(session, RelayCloseReason::Local);
        }
        let relay = Box::new(Relay {
            client,
            target: None,
            attempt: None,
            connected: false,
            proxy_header: Vec::new(),
            early: 0,
            out: SplicePump::default(),
            back: SplicePump::default(),
            closed_by: None,
            is_broken: false,
            watched: [Some(watched), None],
        });
        self.table.insert(session, relay);
    }

    /// Does the shard's pending work for a connection; false when there is no such connection.
    pub(crate) fn serve(&mut self, epoll: &Epoll, session: SessionSlot, shard: &mut Shard) -> bool {
        loop {
            let Some(relay) = self.table.get_mut(session) else { return false };
            match shard.relay_interest(session) {
                RelayInterest::Close(why) => {
                    self.close(session, why, shard);
                    return true;
                }
                RelayInterest::Connect(attempt) if relay.attempt != Some(attempt) => {
                    relay.leave_target(epoll, session, &mut self.pipes);
                    let begun = relay.connect(epoll, session, attempt, shard);
                    if let Err(e) = begun {
                        shard.on_target_failed(session, failure(&e));
                        continue;
                    }
                    return true;
                }
                RelayInterest::Connect(_) | RelayInterest::Await(_) | RelayInterest::Serve(_) => return true,
            }
        }
    }

    /// Handles an event of a connection.
    pub(crate) fn on_event(
        &mut self,
        epoll: &Epoll,
        session: SessionSlot,
        (side, generation): (Side, Generation),
        what: EpollFlags,
        shard: &mut Shard,
    ) {
        let Some(relay) = self.table.get_mut(session) else { return };
        if generation != relay.generation(side) {
            return;
        }
        if let RelayInterest::Connect(attempt) = shard.relay_interest(session)
            && relay.attempt != Some(attempt)
        {
            // It is about to leave this target; what is still there is reported again.
            return;
        }
        if !relay.connected {
            match side {
                // It is not watched for reading or writing yet: the client has reset it, or this is
                // from the time of the target before.
                Side::Client => {
                    if !what.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
                        return;
                    }
                    relay.is_broken = true;
                    return self.close(session, RelayCloseReason::ClientBroken, shard);
                }
                Side::Target => {
                    let Some(target) = &relay.target else { return };
                    match target.take_error().and_then(|e| e.map_or(Ok(()), Err)) {
                        Ok(()) if what.contains(EpollFlags::EPOLLOUT) => {
                            relay.connected = true;
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
        let Some(relay) = self.table.get_mut(session) else { return };
        let awaits = |shard: &Shard| matches!(shard.relay_interest(session), RelayInterest::Await(_));
        let mut left = awaits(shard) && side == Side::Target && relay.has_target_ended();
        let turn = if left { Ok(()) } else { relay.turn(session, side, what, &mut self.pipes, shard) };
        if awaits(shard) {
            if relay.out.is_used() || relay.back.is_used() {
                shard.on_spoken(session);
            } else {
                left |= turn == Err(RelayCloseReason::TargetBroken);
            }
        }
        if left {
            shard.on_target_failed(session, ConnectFailure::Closed);
            self.serve(epoll, session, shard);
            return;
        }
        match turn {
            Err(why) => self.close(session, why, shard),
            Ok(()) if relay.out.is_over() && relay.back.is_over() => {
                let why = relay.closed_by.unwrap_or(RelayCloseReason::Client);
                self.close(session, why, shard);
            }
            Ok(()) => relay.watch(epoll, session, side, what),
        }
    }

    fn close(&mut self, session: SessionSlot, why: RelayCloseReason, shard: &mut Shard) {
        let Some(mut relay) = self.table.take(session) else { return };
        relay.out.close(&mut self.pipes);
        relay.back.close(&mut self.pipes);
        // The bytes that a lost target still owes must not seem complete.
        if relay.is_broken || why == RelayCloseReason::TargetDown {
            for socket in [Some(&relay.client), relay.target.as_ref()].into_iter().flatten() {
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
        }
        // Closing removes them from the epoll set.
        drop(relay);
        shard.on_session_closed(session, why);
    }

    /// Closes all connections: the shard has lost its state of them.
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
        self.attempt = Some(attempt);
        let gone = || io::Error::from(io::ErrorKind::HostUnreachable);
        let target = shard.snapshot().backend(attempt.target).ok_or_else(gone)?;
        let (client, _) = shard.relay_client(session).ok_or_else(gone)?;
        let asked = || self.client.local_addr().ok()?.as_socket().map(Endpoint::from);
        self.proxy_header.clear();
        proxy_header(target.client_address, Transport::Stream, client.peer, asked, &mut self.proxy_header);
        let mut first = [0; FIRST];
        let mut early = 0;
        if target.connections.fast_open && self.proxy_header.is_empty() {
            // The bytes stay in the socket, for the next target if this one fails.
            let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            early = recv(self.client.as_raw_fd(), &mut first, flags).unwrap_or(0);
        }
        // Without data to send the connection would never begin, and the target may have to speak
        // first.
        let fast_open = target.connections.fast_open && (early > 0 || !self.proxy_header.is_empty());
        let socket = socket::connect_target(target, client.peer, false, fast_open)?;
        self.early = 0;
        if fast_open {
            let first_bytes = if early > 0 { &first[..early] } else { &self.proxy_header[..] };
            match (&socket).write(first_bytes) {
                Ok(count) if early > 0 => self.early = count,
                Ok(count) => drop(self.proxy_header.drain(..count)),
                // The kernel has no cookie of this target: the connection begins in the usual way.
                Err(e) if is_transient(&e) || e.raw_os_error() == Some(libc::EINPROGRESS) => {}
                Err(e) => return Err(e),
            }
        }
        let flags = EpollFlags::EPOLLOUT;
        let ready = Ready::RelaySession(session, Side::Target, self.generation(Side::Target));
        epoll.add(&socket, EpollEvent::new(flags, ready.pack()))?;
        self.watched[1] = Some(flags);
        self.target = Some(socket);
        Ok(())
    }

    /// Returns which of its sockets on a side it has: that of a target is the attempt's.
    fn generation(&self, side: Side) -> Generation {
        match (side, self.attempt) {
            (Side::Target, Some(attempt)) => Generation(attempt.number),
            (Side::Client | Side::Target, _) => Generation::default(),
        }
    }

    /// Closes the connection to a target that nothing was relayed to or from.
    fn leave_target(&mut self, epoll: &Epoll, session: SessionSlot, pipes: &mut Pipes) {
        self.out.close(pipes);
        self.back.close(pipes);
        (self.out, self.back) = (SplicePump::default(), SplicePump::default());
        (self.target, self.watched[1]) = (None, None);
        (self.connected, self.is_broken, self.closed_by) = (false, false, None);
        let none = EpollFlags::empty();
        if self.watched[0].is_some_and(|flags| flags != none) {
            let mut event = EpollEvent::new(
                none,
                Ready::RelaySession(session, Side::Client, Generation::default()).pack(),
            );
            // It is in the set.
            let _ = epoll.modify(&self.client, &mut event);
            self.watched[0] = Some(none);
        }
    }

    /// Returns whether the target has closed or broken the connection without a byte.
    fn has_target_ended(&self) -> bool {
        let Some(target) = &self.target else { return false };
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(target.as_raw_fd(), &mut [0], flags) {
            Ok(count) => count == 0,
            Err(e) => !is_transient(&e.into()),
        }
    }

    /// The target has the bytes that went with the first packet: removes them from the client's
    /// socket.
    fn forget_early(&mut self, session: SessionSlot, shard: &mut Shard) {
        let mut rest = [0; FIRST];
        let count = std::mem::take(&mut self.early);
        if count > 0 && discard(&self.client, &mut rest[..count]).is_ok() {
            shard.on_relayed(session, Direction::Out, count);
        }
    }

    /// Moves bytes both ways.
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
            return Err(self.on_broken(session, side, pipes, shard));
        }
        while !self.proxy_header.is_empty() {
            match (&mut &*target).write(&self.proxy_header) {
                Ok(count) => {
                    self.proxy_header.drain(..count);
                    if self.proxy_header.is_empty() {
                        self.proxy_header = Vec::new();
                    }
                }
                Err(e) if is_transient(&e) => return Ok(()),
                Err(_) => return Err(self.on_broken(session, Side::Target, pipes, shard)),
            }
        }
        // A readable side feeds one direction, a writable side drains the other.
        let closing = what.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP);
        let (readable, buffers) =
            (what.contains(EpollFlags::EPOLLIN) || closing, what.contains(EpollFlags::EPOLLOUT));
        let other = if side == Side::Client { Side::Target } else { Side::Client };
        for (sender, goes, readable) in [(side, readable, readable), (other, buffers, false)] {
            let readiness = Readiness { readable, closing, broken: false };
            if goes && let Err(broken) = self.pump(session, sender, readiness, pipes, shard) {
                return Err(self.on_broken(session, broken.side(sender), pipes, shard));
            }
        }
        self.note_close();
        Ok(())
    }

    /// Moves bytes from one side to the other; returns how many.
    fn pump(
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
        let carried = pump.pump(from, to, pipes, readiness, &mut bytes);
        if bytes > 0 {
            shard.on_relayed(session, way, bytes);
        }
        carried.map(|()| bytes)
    }

    /// Handles a broken side: passes on the bytes that it sent before, as far as the other side
    /// accepts them.
    fn on_broken(
        &mut self,
        session: SessionSlot,
        side: Side,
        pipes: &mut Pipes,
        shard: &mut Shard,
    ) -> RelayCloseReason {
        // What is read of the broken side from here on is no orderly end.
        self.note_close();
        self.is_broken = true;
        // Nothing more arrives, so this ends. A target that has not got the PROXY header would take
        // the client's bytes for it.
        let readiness = Readiness { readable: true, closing: true, broken: true };
        while (side == Side::Target || self.proxy_header.is_empty())
            && matches!(self.pump(session, side, readiness, pipes, shard), Ok(TURN..))
        {}
        RelayCloseReason::of_broken(side == Side::Client, self.closed_by)
    }

    /// Records which side closed first.
    fn note_close(&mut self) {
        if self.closed_by.is_none() {
            if self.out.ended() {
                self.closed_by = Some(RelayCloseReason::Client);
            } else if self.back.ended() {
                self.closed_by = Some(RelayCloseReason::Target);
            }
        }
    }

    /// Watches both sides for what can be done next.
    fn watch(&mut self, epoll: &Epoll, session: SessionSlot, side: Side, what: EpollFlags) {
        let Some(target) = &self.target else { return };
        let directions = [
            (Side::Client, &self.client, &self.out, &self.back),
            (Side::Target, target, &self.back, &self.out),
        ];
        for (at, (this, socket, from, to)) in directions.into_iter().enumerate() {
            let mut flags = EpollFlags::empty();
            let greets = !self.proxy_header.is_empty();
            flags
                .set(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, !from.waits() && !from.ended() && !greets);
            flags.set(EpollFlags::EPOLLOUT, to.waits() || greets && this == Side::Target);
            let packed = Ready::RelaySession(session, this, self.generation(this)).pack();
            // A side that is closed both ways would report it endlessly: it is removed from the
            // set.
            let wanted =
                (!flags.is_empty() || this != side || !what.contains(EpollFlags::EPOLLHUP)).then_some(flags);
            if self.watched[at] == wanted {
                continue;
            }
            // Fails only for a socket that already is, or is not, in the set.
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
    /// Returns the side whose direction it is, when the sender is `sender`.
    const fn side(self, sender: Side) -> Side {
        match (self, sender) {
            (Self::Sender, side) => side,
            (Self::Receiver, Side::Client) => Side::Target,
            (Self::Receiver, Side::Target) => Side::Client,
        }
    }
}
