//! The control plane's access to the shards: open listeners, send messages, watch for their end.
//!
//! [`Edge`] is what a reload needs of an engine, [`Open`] the part of it that exists before the
//! engine runs; tests use a recording one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::{Socket, Type};

use crate::base::rng::ShardRng;
use crate::control::plan::Fixed;
use crate::control::publisher::Feed;
use crate::engine;
use crate::engine::socket::{Inherited, ListenerSockets, ShardPosition};
use crate::engine::{Message, Running, Setup, socket};
use crate::model::Listener;
use crate::model::Steer;

/// Opens listeners step by step: what is not bound can be dropped without effect.
pub trait Open {
    /// Creates a listener's sockets, or takes inherited ones. Returns pairs of shard and sockets.
    ///
    /// # Errors
    /// The kernel's; none is left open then.
    fn create(&mut self, listener: &Listener) -> io::Result<Vec<(usize, ListenerSockets)>>;

    /// Returns the address of a passed socket within that of a listener which none of these listeners reads:
    /// it takes what comes for its address, and nobody would answer.
    fn unread(&self, _listener: &Listener, _all: &[Arc<Listener>]) -> Option<SocketAddr> {
        None
    }

    /// Binds them; `alone` fails where any other socket has the address. Without it they may take
    /// traffic from others at once.
    ///
    /// # Errors
    /// The kernel's.
    fn bind(
        &mut self,
        listener: &Listener,
        sockets: &[(usize, ListenerSockets)],
        alone: bool,
    ) -> io::Result<()>;

    /// Starts accepting connections on bound sockets.
    ///
    /// # Errors
    /// The kernel's.
    fn listen(&mut self, listener: &Listener, sockets: &[(usize, ListenerSockets)]) -> io::Result<()>;
}

/// The operations of a reload on the engine.
pub trait Edge: Open {
    /// Sends a message to one shard.
    ///
    /// # Errors
    /// When it has ended, or does not read its messages.
    fn send(&mut self, shard: usize, message: Message) -> io::Result<()>;

    /// Returns the number of shards.
    fn count(&self) -> usize;
}

/// The shards of this process.
#[derive(Debug)]
pub struct Shards {
    running: Vec<Running>,
    listener_sockets: SocketOpener,
}

/// Opens listener sockets, also before there are shards.
#[derive(Debug)]
pub struct SocketOpener {
    cpus: Vec<Option<usize>>,
    steer: Steer,
    inherited: Vec<(SocketAddr, Socket)>,
    /// Those of them that a listener has got, for later ones of their address: the service manager has them
    /// open in any case, so that a socket of our own beside one would get a part of what comes.
    kept: Vec<(SocketAddr, Socket)>,
}

impl SocketOpener {
    /// Creates an opener for the shards of `fixed`; `inherited` sockets are used for listeners of
    /// their address.
    #[must_use]
    pub fn new(fixed: &Fixed, inherited: Vec<(SocketAddr, Socket)>) -> Self {
        Self { cpus: fixed.shards.clone(), steer: fixed.steer, inherited, kept: Vec::new() }
    }

    /// Closes the inherited sockets that fit none of these listeners: nobody would read them.
    pub fn close_unfit(&mut self, listeners: &[Arc<Listener>]) {
        let fits = |one: &(SocketAddr, Socket)| listeners.iter().any(|listener| fits(one, listener));
        for (address, socket) in self.inherited.extract_if(.., |one| !fits(one)) {
            let kind = match socket.r#type() {
                Ok(Type::STREAM) => "TCP",
                _ => "UDP",
            };
            tracing::warn!(%address, kind, "a passed socket fits no listener of the configuration and is closed");
        }
    }

    /// Takes the inherited socket of this kind and the listener's address, and prepares it.
    fn take_inherited(
        &mut self,
        listener: &Listener,
        kind: Type,
        prepare: fn(&Socket, &Listener) -> io::Result<()>,
    ) -> io::Result<Option<Socket>> {
        let is_that =
            |one: &(SocketAddr, Socket)| fits(one, listener) && one.1.r#type().is_ok_and(|t| t == kind);
        if let Some(at) = self.inherited.iter().position(is_that) {
            self.kept.push(self.inherited.swap_remove(at));
        }
        let Some((_, socket)) = self.kept.iter().find(|one| is_that(one)) else { return Ok(None) };
        let socket = socket.try_clone()?;
        prepare(&socket, listener)?;
        Ok(Some(socket))
    }
}

/// Returns whether a listener can take an inherited socket.
fn fits((address, socket): &(SocketAddr, Socket), listener: &Listener) -> bool {
    let service = &listener.service;
    let takes = match socket.r#type() {
        Ok(Type::STREAM) => service.takes_connections(),
        Ok(Type::DGRAM) => service.takes_datagrams(),
        _ => false,
    };
    *address == listener.address && takes
}

impl Open for SocketOpener {
    fn unread(&self, listener: &Listener, all: &[Arc<Listener>]) -> Option<SocketAddr> {
        // Within that of a listener are others only if it is the wildcard.
        let is_wide = listener.address.ip().is_unspecified();
        let is_within = |one: &(SocketAddr, Socket)| {
            let its = Listener { address: one.0, ..listener.clone() };
            is_wide && fits(one, &its) && its.address != listener.address && its.overlaps(listener)
        };
        let is_read = |one: &(SocketAddr, Socket)| all.iter().any(|other| fits(one, other));
        self.kept.iter().find(|one| is_within(one) && !is_read(one)).map(|(address, _)| *address)
    }

    fn create(&mut self, listener: &Listener) -> io::Result<Vec<(usize, ListenerSockets)>> {
        let shards = self.cpus.len();
        let udp = if listener.service.takes_datagrams() {
            self.take_inherited(listener, Type::DGRAM, socket::prepare_listener)?
        } else {
            None
        };
        let tcp = if listener.service.takes_connections() {
            self.take_inherited(listener, Type::STREAM, socket::prepare_tcp_listener)?
        } else {
            None
        };
        let inherited = Inherited { udp: udp.is_some(), tcp: tcp.is_some() };
        for (unit, kind, lacks) in [
            ("ListenDatagram", "UDP", inherited.tcp && !inherited.udp && listener.service.takes_datagrams()),
            ("ListenStream", "TCP", inherited.udp && !inherited.tcp && listener.service.takes_connections()),
        ] {
            if lacks {
                tracing::warn!(
                    address = %listener.address,
                    "the service manager passed no {kind} socket, which dnslob opens itself; with {unit}= in its unit \
                     nothing is lost during a restart"
                );
            }
        }
        // An inherited one is one queue for all shards: it need not share its port, and its owner may
        // be another user, with whom no port can be shared.
        let copy = |socket: &Option<Socket>| socket.as_ref().map(Socket::try_clone).transpose();
        let sockets = |shard| {
            let ours = socket::create_others(listener, inherited)?;
            Ok((
                shard,
                ListenerSockets { udp: copy(&udp)?.or(ours.udp), tcp: copy(&tcp)?.or(ours.tcp), inherited },
            ))
        };
        (0..shards).map(sockets).collect()
    }

    fn bind(
        &mut self,
        listener: &Listener,
        sockets: &[(usize, ListenerSockets)],
        alone: bool,
    ) -> io::Result<()> {
        // The shards share the port with each other in any case.
        sockets.iter().try_for_each(|(shard, sockets)| socket::bind(sockets, listener, alone && *shard == 0))
    }

    fn listen(&mut self, listener: &Listener, sockets: &[(usize, ListenerSockets)]) -> io::Result<()> {
        let shards = self.cpus.len();
        sockets.iter().try_for_each(|(shard, sockets)| {
            let position = ShardPosition { shard: *shard, shards, cpu: self.cpus[*shard] };
            socket::listen(sockets, listener, self.steer, position)
        })
    }
}

impl Shards {
    /// Starts all shards; they serve nothing yet.
    ///
    /// # Errors
    /// The operating system's; the shards started before are stopped.
    pub fn start(
        fixed: &Fixed,
        feed: &Feed,
        listener_sockets: SocketOpener,
        rng: &mut ShardRng,
    ) -> io::Result<Self> {
        let mut shards = Self { running: Vec::with_capacity(fixed.shards.len()), listener_sockets };
        for (index, cpu) in fixed.shards.iter().enumerate() {
            let setup = Setup {
                index,
                cpu: *cpu,
                seed: seed(rng),
                busy_poll_us: fixed.busy_poll_us,
                batch_packets: fixed.batch_packets,
            };
            match engine::spawn(setup, feed.cell(), Arc::clone(feed.live_state())) {
                Ok(running) => shards.running.push(running),
                Err(e) => {
                    shards.send_all(&|| Message::Abort);
                    return Err(e);
                }
            }
        }
        Ok(shards)
    }

    /// Sends a message to all shards; one that has ended needs none.
    pub fn send_all(&self, message: &dyn Fn() -> Message) {
        for shard in &self.running {
            let _ = shard.mailbox.send(message());
        }
    }

    /// Returns the shards whose thread has ended.
    #[must_use]
    pub fn ended(&self) -> Vec<usize> {
        let all = self.running.iter().enumerate();
        all.filter(|(_, r)| r.thread.is_finished()).map(|(n, _)| n).collect()
    }

    /// Returns whether no thread is running.
    #[must_use]
    pub fn all_ended(&self) -> bool {
        self.running.iter().all(|r| r.thread.is_finished())
    }
}

impl Open for Shards {
    fn unread(&self, listener: &Listener, all: &[Arc<Listener>]) -> Option<SocketAddr> {
        self.listener_sockets.unread(listener, all)
    }

    fn create(&mut self, listener: &Listener) -> io::Result<Vec<(usize, ListenerSockets)>> {
        self.listener_sockets.create(listener)
    }

    fn bind(
        &mut self,
        listener: &Listener,
        sockets: &[(usize, ListenerSockets)],
        alone: bool,
    ) -> io::Result<()> {
        self.listener_sockets.bind(listener, sockets, alone)
    }

    fn listen(&mut self, listener: &Listener, sockets: &[(usize, ListenerSockets)]) -> io::Result<()> {
        self.listener_sockets.listen(listener, sockets)
    }
}

impl Edge for Shards {
    fn send(&mut self, shard: usize, message: Message) -> io::Result<()> {
        self.running[shard].mailbox.send(message)
    }

    fn count(&self) -> usize {
        self.running.len()
    }
}

fn seed(rng: &mut ShardRng) -> [u8; 32] {
    let mut seed = [0; 32];
    for part in seed.chunks_exact_mut(8) {
        part.copy_from_slice(&rng.u64().to_ne_bytes());
    }
    seed
}

#[cfg(test)]
mod tests {
    use socket2::Domain;

    use super::*;
    use crate::control::fixture;
    use crate::model::Service;

    #[test]
    fn a_passed_socket_serves_each_listener_of_its_address_and_leaves_room_for_a_part_of_it() {
        let bound = |ip: [u8; 4], port: u16, kind| {
            let socket = Socket::new(Domain::IPV4, kind, None).expect("a socket");
            socket.bind(&SocketAddr::from((ip, port)).into()).expect("bound");
            crate::control::privileges::own(&socket);
            let address = socket.local_addr().ok().and_then(|a| a.as_socket()).expect("its address");
            (address, socket)
        };
        let datagrams = bound([0, 0, 0, 0], 0, Type::DGRAM);
        let all = datagrams.0;
        let connections = bound([0, 0, 0, 0], all.port(), Type::STREAM);
        connections.1.listen(5).expect("listening");
        let mut opener = SocketOpener {
            cpus: vec![None, None],
            steer: Steer::default(),
            inherited: vec![datagrams, connections],
            kept: Vec::new(),
        };
        let plain = &fixture::snapshot(1, &[0], &[]).listeners[0];
        let listener = |address| Listener { address, service: Service::Dns, ..Listener::clone(plain) };
        // Taken away by a reload, and back again.
        for _ in 0..2 {
            let sockets = opener.create(&listener(all)).expect("the passed ones");
            assert!(sockets.iter().all(|(_, of)| of.inherited == Inherited { udp: true, tcp: true }));
            // As the start does, which closes what no listener has got.
            opener.close_unfit(&[]);
        }
        let part = listener(SocketAddr::from(([127, 0, 0, 1], all.port())));
        let sockets = opener.create(&part).expect("our own");
        assert!(sockets.iter().all(|(_, of)| of.inherited == Inherited::default()));
        opener.bind(&part, &sockets, false).expect("beside the passed ones");
        opener.listen(&part, &sockets).expect("listening");
        assert_eq!(opener.unread(&part, &[]), None);
        // A larger address leaves one for a part of it to nobody, unless that has a listener too.
        let of_part = bound([127, 0, 0, 1], 0, Type::DGRAM);
        let (passed, all) = (of_part.0, listener(SocketAddr::from(([0, 0, 0, 0], of_part.0.port()))));
        opener.kept.push(of_part);
        assert_eq!(opener.unread(&all, &[]), Some(passed));
        assert_eq!(opener.unread(&all, &[Arc::new(listener(passed))]), None);
    }

    #[test]
    fn passed_sockets_that_fit_no_listener_are_closed() {
        let listeners = &fixture::snapshot(1, &[0], &[]).listeners;
        let at = listeners[0].address;
        let other = SocketAddr::from(([0, 0, 0, 0], at.port()));
        let socket = |kind| Socket::new(Domain::IPV4, kind, None).expect("a socket");
        let inherited = [
            (other, socket(Type::DGRAM)),
            (at, socket(Type::DGRAM)),
            (at, socket(Type::STREAM)),
            (other, socket(Type::STREAM)),
        ];
        let mut opener = SocketOpener {
            cpus: vec![None],
            steer: Steer::default(),
            inherited: inherited.into(),
            kept: Vec::new(),
        };
        opener.close_unfit(listeners);
        assert!(opener.inherited.iter().all(|(address, _)| *address == at) && opener.inherited.len() == 2);
        opener.close_unfit(&[]);
        assert!(opener.inherited.is_empty());
    }
}
