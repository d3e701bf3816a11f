//! Relayed TCP connections: the calls of the socket engine's relay module, in its order. Bytes are
//! copied where that one splices them.

use crate::base::addr::SessionSlot;
use crate::engine::relay::proxy_header;
use crate::engine::sim::network::Network;
use crate::engine::sim::node::Node;
use crate::engine::sim::stream::{Closed, Read, Readiness, Role, Stream, Written};
use crate::shard::Shard;
use crate::shard::relay::{Attempt, Direction, RelayInterest};
use crate::stats::close_reason::{ConnectFailure, RelayCloseReason};
use crate::wire::proxy::Transport;

/// Bytes moved in one direction per turn, as in the socket engine.
const TURN: usize = 256 * 1024;

/// A connection between a client and its target.
#[derive(Debug)]
pub(super) struct RelayedConnection {
    client: Stream,
    target: Option<Stream>,
    /// The attempt that `target` belongs to.
    attempt: Option<Attempt>,
    /// The target has accepted.
    is_connected: bool,
    /// The PROXY header that the target gets first.
    proxy_header: Vec<u8>,
    out: Pump,
    back: Pump,
    /// The side that closed first.
    closed_by: Option<RelayCloseReason>,
    /// A side broke, so the other one must see a reset, not an orderly end.
    is_broken: bool,
}

/// One direction.
#[derive(Debug, Default)]
struct Pump {
    /// Read, but not accepted by the receiver yet.
    held: Vec<u8>,
    has_ended: bool,
    shutdown_sent: bool,
}

/// The side of a direction that broke.
enum Broken {
    Sender,
    Receiver,
}

impl Pump {
    /// Returns whether it holds something of the sender that cannot be taken back, or its end.
    const fn is_used(&self) -> bool {
        !self.held.is_empty() || self.has_ended
    }

    /// Moves bytes while there are some, the receiver accepts them, and the turn's budget lasts;
    /// `ends` is false when an end of the sender is no orderly one to pass on.
    fn pump(
        &mut self,
        from: Stream,
        to: Stream,
        ends: bool,
        count: &mut usize,
        network: &mut Network,
    ) -> Result<(), Broken> {
        while *count < TURN {
            if self.held.is_empty() {
                if self.has_ended {
                    break;
                }
                match network.read(from) {
                    Read::Bytes(bytes, _) => self.held = bytes,
                    Read::End => self.has_ended = true,
                    Read::Broken => return Err(Broken::Sender),
                    Read::Nothing => break,
                }
            }
            if self.held.is_empty() {
                break;
            }
            match network.write(to, &self.held) {
                Written::Bytes(written) => {
                    self.held.drain(..written);
                    *count += written;
                }
                Written::Full => break,
                Written::Broken => return Err(Broken::Receiver),
            }
        }
        if self.held.is_empty() && self.has_ended && ends && !self.shutdown_sent {
            self.shutdown_sent = true;
            network.shut_down(to);
        }
        Ok(())
    }
}

impl Node {
    /// Adds a client's connection that the shard has accepted.
    pub(super) fn open_relay(&mut self, session: SessionSlot, client: Stream, network: &mut Network) {
        network.tcp(client).role = Role::Relayed(session);
        // Nothing is read before there is a target, but a reset by the client is still reported.
        network.watch(client, false, false);
        let relayed = RelayedConnection {
            client,
            target: None,
            attempt: None,
            is_connected: false,
            proxy_header: Vec::new(),
            out: Pump::default(),
            back: Pump::default(),
            closed_by: None,
            is_broken: false,
        };
        self.relays.insert(session, relayed);
        self.serve_relay(session, network);
    }

    /// Does the shard's pending work for a connection; false when there is no such connection.
    pub(super) fn serve_relay(&mut self, session: SessionSlot, network: &mut Network) -> bool {
        loop {
            let Some(relayed) = self.relays.get_mut(&session) else { return false };
            match self.shard.relay_interest(session) {
                RelayInterest::Close(why) => {
                    self.close_relay(session, why, network);
                    return true;
                }
                RelayInterest::Connect(attempt) if relayed.attempt != Some(attempt) => {
                    match relayed.connect(session, attempt, &self.shard, self.index, network) {
                        Ok(()) => return true,
                        Err(why) => self.shard.on_target_failed(session, why),
                    }
                }
                RelayInterest::Connect(_) | RelayInterest::Await(_) | RelayInterest::Serve(_) => return true,
            }
        }
    }

    /// Handles an event of a connection.
    pub(super) fn on_relayed(
        &mut self,
        session: SessionSlot,
        stream: Stream,
        what: Readiness,
        network: &mut Network,
    ) {
        let Some(relayed) = self.relays.get_mut(&session) else { return };
        let is_client = stream == relayed.client;
        if !is_client && relayed.target != Some(stream) {
            return;
        }
        if let RelayInterest::Connect(attempt) = self.shard.relay_interest(session)
            && relayed.attempt != Some(attempt)
        {
            // It is about to leave this target; what is still there is reported again.
            return;
        }
        if !relayed.is_connected {
            if is_client {
                // It is not watched for reading or writing yet: the client has reset it, or this is
                // from the time of the target before.
                if !what.hung_up {
                    return;
                }
                relayed.is_broken = true;
                return self.close_relay(session, RelayCloseReason::ClientBroken, network);
            }
            match network.tcp(stream).outcome {
                Some(Ok(())) if what.writable => {
                    relayed.is_connected = true;
                    self.shard.on_target_open(session);
                }
                Some(Ok(())) | None => return,
                Some(Err(why)) => {
                    self.shard.on_target_failed(session, why);
                    self.serve_relay(session, network);
                    return;
                }
            }
        }
        let Some(relayed) = self.relays.get_mut(&session) else { return };
        let awaits = |shard: &Shard| matches!(shard.relay_interest(session), RelayInterest::Await(_));
        let mut left = awaits(&self.shard) && !is_client && network.has_ended(stream);
        let turn =
            if left { Ok(()) } else { relayed.turn(session, is_client, what, &mut self.shard, network) };
        if awaits(&self.shard) {
            if relayed.out.is_used() || relayed.back.is_used() {
                self.shard.on_spoken(session);
            } else {
                left |= turn == Err(RelayCloseReason::TargetBroken);
            }
        }
        if left {
            self.shard.on_target_failed(session, ConnectFailure::Closed);
            self.serve_relay(session, network);
            return;
        }
        match turn {
            Err(why) => self.close_relay(session, why, network),
            Ok(()) if relayed.out.shutdown_sent && relayed.back.shutdown_sent => {
                let why = relayed.closed_by.unwrap_or(RelayCloseReason::Client);
                self.close_relay(session, why, network);
            }
            Ok(()) => relayed.watch(is_client, what, network),
        }
    }

    fn close_relay(&mut self, session: SessionSlot, why: RelayCloseReason, network: &mut Network) {
        let Some(relayed) = self.relays.remove(&session) else { return };
        for stream in [Some(relayed.client), relayed.target].into_iter().flatten() {
            // The bytes that a lost target still owes must not seem complete.
            if relayed.is_broken || why == RelayCloseReason::TargetDown {
                network.break_off(stream);
            }
            network.close(stream, Closed::Relay(why));
        }
        self.end_session(session, why);
    }
}

impl RelayedConnection {
    fn connect(
        &mut self,
        session: SessionSlot,
        attempt: Attempt,
        shard: &Shard,
        index: usize,
        network: &mut Network,
    ) -> Result<(), ConnectFailure> {
        if let Some(earlier) = self.target.take() {
            network.close(earlier, Closed::Abandoned);
            network.watch(self.client, false, false);
        }
        (self.out, self.back) = (Pump::default(), Pump::default());
        (self.is_connected, self.is_broken, self.closed_by) = (false, false, None);
        self.attempt = Some(attempt);
        let target = shard.snapshot().backend(attempt.target).ok_or(ConnectFailure::Unreachable)?;
        let (client, listener) = shard.relay_client(session).ok_or(ConnectFailure::Unreachable)?;
        let asked = || Some(listener.address.into());
        self.proxy_header.clear();
        proxy_header(target.client_address, Transport::Stream, client.peer, asked, &mut self.proxy_header);
        if network.unreachable.contains(&target.address) {
            return Err(ConnectFailure::Unreachable);
        }
        let stream = network.connect(index, Role::Target(session), target.address);
        network.watch(stream, false, true);
        self.target = Some(stream);
        Ok(())
    }

    /// Moves bytes both ways.
    fn turn(
        &mut self,
        session: SessionSlot,
        is_client: bool,
        what: Readiness,
        shard: &mut Shard,
        network: &mut Network,
    ) -> Result<(), RelayCloseReason> {
        let Some(target) = self.target else { return Ok(()) };
        if network.is_broken(if is_client { self.client } else { target }) {
            return Err(self.on_broken(session, is_client, shard, network));
        }
        while !self.proxy_header.is_empty() {
            match network.write(target, &self.proxy_header) {
                Written::Bytes(count) => drop(self.proxy_header.drain(..count)),
                Written::Full => return Ok(()),
                Written::Broken => return Err(self.on_broken(session, false, shard, network)),
            }
        }
        // A readable side feeds one direction, a writable side drains the other.
        for (from_client, goes) in [(is_client, what.readable || what.hung_up), (!is_client, what.writable)] {
            if goes && let Err(broken) = self.pump(session, from_client, true, shard, network) {
                let by_client = matches!(broken, Broken::Sender) == from_client;
                return Err(self.on_broken(session, by_client, shard, network));
            }
        }
        self.note_close();
        Ok(())
    }

    /// Moves bytes from one side to the other.
    fn pump(
        &mut self,
        session: SessionSlot,
        from_client: bool,
        ends: bool,
        shard: &mut Shard,
        network: &mut Network,
    ) -> Result<usize, Broken> {
        let Some(target) = self.target else { return Ok(0) };
        let (way, pump, from, to) = if from_client {
            (Direction::Out, &mut self.out, self.client, target)
        } else {
            (Direction::Back, &mut self.back, target, self.client)
        };
        let mut count = 0;
        let pumped = pump.pump(from, to, ends, &mut count, network);
        if count > 0 {
            shard.on_relayed(session, way, count);
        }
        pumped.map(|()| count)
    }

    /// Handles a broken side: passes on the bytes that it sent before, as far as the other side
    /// accepts them.
    fn on_broken(
        &mut self,
        session: SessionSlot,
        by_client: bool,
        shard: &mut Shard,
        network: &mut Network,
    ) -> RelayCloseReason {
        // What is read of the broken side from here on is no orderly end.
        self.note_close();
        self.is_broken = true;
        // A target that has not got the PROXY header would take the client's bytes for it.
        while (!by_client || self.proxy_header.is_empty())
            && matches!(self.pump(session, by_client, false, shard, network), Ok(TURN..))
        {}
        RelayCloseReason::of_broken(by_client, self.closed_by)
    }

    /// Records which side closed first.
    fn note_close(&mut self) {
        if self.closed_by.is_none() {
            if self.out.has_ended {
                self.closed_by = Some(RelayCloseReason::Client);
            } else if self.back.has_ended {
                self.closed_by = Some(RelayCloseReason::Target);
            }
        }
    }

    /// Watches both sides for what can be done next.
    fn watch(&mut self, of_client: bool, what: Readiness, network: &mut Network) {
        let Some(target) = self.target else { return };
        let greets = !self.proxy_header.is_empty();
        let sides = [(true, self.client, &self.out, &self.back), (false, target, &self.back, &self.out)];
        for (is_client, stream, from, to) in sides {
            let reading = from.held.is_empty() && !from.has_ended && !greets;
            let writing = !to.held.is_empty() || greets && !is_client;
            network.watch(stream, reading, writing);
            // A side that is closed both ways would report it endlessly.
            let is_over = !reading && !writing && is_client == of_client && what.hung_up;
            network.tcp(stream).is_watched = !is_over;
        }
    }
}
