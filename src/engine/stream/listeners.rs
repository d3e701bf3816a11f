//! Listeners for connections that change or end: what new options are set on, and how nobody is lost
//! who is about to connect.

use std::sync::Arc;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use socket2::Socket;
use tracing::warn;

use crate::base::addr::ListenerSlot;
use crate::base::time::{Tick, TickDelta};
use crate::engine::readiness::Ready;
use crate::engine::socket;
use crate::engine::stream::Connections;
use crate::model::{Listener, Snapshot};

/// How long a listener that takes no new connections waits for those that are being made: longer
/// than the way around most of the world, and a fifth of the time after which a client repeats its
/// SYN (RFC 6298, 2).
const HANDSHAKES: TickDelta = TickDelta::from_ms(200);

/// A listener's socket for connections.
#[derive(Debug)]
pub(super) struct TcpListenerSocket {
    pub(super) listener: Arc<Listener>,
    pub(super) socket: Socket,
    pub(super) passed: bool,
    /// It takes no new connections; after this it is closed.
    pub(super) closes_at: Option<Tick>,
}

impl TcpListenerSocket {
    /// What its shard is woken for. With one socket for all shards only one of them is woken by a
    /// connection.
    pub(super) fn event(&self) -> EpollEvent {
        let flags =
            if self.passed { EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE } else { EpollFlags::EPOLLIN };
        EpollEvent::new(flags, Ready::TcpListenerSocket(self.listener.slot).pack())
    }
}

impl Connections {
    /// Sets what a new snapshot says of listeners whose sockets stay.
    pub(crate) fn revise(&mut self, snapshot: &Snapshot) {
        for tcp_listener in self.tcp_listeners.iter_mut().flatten().filter(|g| g.closes_at.is_none()) {
            let Some(listener) = snapshot.listener(tcp_listener.listener.slot) else { continue };
            if !listener.same_options(&tcp_listener.listener)
                && let Err(e) =
                    socket::revise_tcp_listener(&tcp_listener.socket, listener, tcp_listener.passed)
            {
                warn!(listener = %listener.address, "cannot change a socket's options: {e}");
            }
            tcp_listener.listener = Arc::clone(listener);
        }
    }

    /// Takes no new connections at a listener; it is [due to be closed](Connections::due_to_close)
    /// when those that are being made have come. Connections at a socket that another process passed
    /// stay for whoever is started next.
    pub(crate) fn withdraw_tcp_listener(&mut self, slot: ListenerSlot, now: Tick) {
        let Some(place) = self.tcp_listeners.get_mut(slot.index()) else { return };
        let Some(tcp_listener) = place.as_mut().filter(|g| g.closes_at.is_none()) else { return };
        if tcp_listener.passed {
            *place = None;
            return;
        }
        tcp_listener.closes_at = Some(now + HANDSHAKES);
        self.closes_at = self.closes_at.or(tcp_listener.closes_at);
        if let Err(e) = socket::withdraw_tcp_listener(&tcp_listener.socket) {
            warn!(listener = %tcp_listener.listener.address, "new connections may be lost: {e}");
        }
    }

    /// When the next listener is to be closed that takes no new connections.
    pub(crate) const fn next_close(&self) -> Option<Tick> {
        self.closes_at
    }

    /// The listeners whose time has come, once each: what waits there is to be taken first.
    pub(crate) fn due_to_close(&mut self, now: Tick) -> Vec<ListenerSlot> {
        if self.closes_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let closing =
            || self.tcp_listeners.iter().flatten().filter_map(|g| Some((g.listener.slot, g.closes_at?)));
        let due = closing().filter(|(_, at)| *at <= now && Some(*at) >= self.closes_at);
        let due = due.map(|(slot, _)| slot).collect();
        self.closes_at = closing().map(|(_, at)| at).filter(|at| *at > now).min();
        due
    }

    /// Closes a listener's socket.
    pub(crate) fn close_tcp_listener(&mut self, slot: ListenerSlot) {
        if let Some(tcp_listener) = self.tcp_listeners.get_mut(slot.index()) {
            *tcp_listener = None;
        }
    }
}
