//! TCP listeners that change or end: new options on open sockets, and a close that loses no pending
//! connection.

use std::os::fd::AsFd;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::Socket;
use tracing::warn;

use crate::base::addr::ListenerSlot;
use crate::base::time::{Tick, TickDelta};
use crate::engine::readiness::Ready;
use crate::engine::socket;
use crate::engine::stream::Connections;
use crate::model::{Listener, Snapshot};
use crate::shard::Shard;

/// How long a withdrawn listener waits for pending handshakes: longer than most round trips, and a
/// fifth of the time after which a client repeats its SYN (RFC 6298, 2).
const HANDSHAKES: TickDelta = TickDelta::from_ms(200);

/// A listener's TCP socket.
#[derive(Debug)]
pub(super) struct TcpListenerSocket {
    pub(super) listener: Arc<Listener>,
    pub(super) socket: Socket,
    pub(super) inherited: bool,
    /// Set when it accepts no new connections: the time to close it.
    pub(super) closes_at: Option<Tick>,
    /// It is not watched, because its shard accepts no connection for a while.
    pub(super) paused: bool,
}

impl TcpListenerSocket {
    /// Returns the events that wake its shard. Where all shards share one socket, a connection
    /// wakes only one of them.
    pub(super) fn event(&self) -> EpollEvent {
        let flags = if self.inherited {
            EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE
        } else {
            EpollFlags::EPOLLIN
        };
        EpollEvent::new(flags, Ready::TcpListenerSocket(self.listener.slot).pack())
    }

    /// Returns whether a connection waits to be accepted.
    pub(super) fn has_pending(&self) -> bool {
        let mut sockets = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut sockets, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }
}

impl Connections {
    /// Applies a new snapshot's options to listener sockets that stay open.
    pub(crate) fn revise(&mut self, snapshot: &Snapshot) {
        for tcp_listener in self.tcp_listeners.iter_mut().flatten().filter(|g| g.closes_at.is_none()) {
            let Some(listener) = snapshot.listener(tcp_listener.listener.slot) else { continue };
            if !listener.same_options(&tcp_listener.listener)
                && let Err(e) =
                    socket::revise_tcp_listener(&tcp_listener.socket, listener, tcp_listener.inherited)
            {
                warn!(listener = %listener.address, "cannot change the options of a socket: {e}");
            }
            tcp_listener.listener = Arc::clone(listener);
        }
    }

    /// Stops accepting new connections at a listener; it is [due to be
    /// closed](Connections::due_to_close) when pending handshakes have completed. Connections on a
    /// socket that another process passed are left to the next process.
    pub(crate) fn withdraw_tcp_listener(&mut self, epoll: &Epoll, slot: ListenerSlot, now: Tick) {
        let Some(entry) = self.tcp_listeners.get_mut(slot.index()) else { return };
        let Some(tcp_listener) = entry.as_mut().filter(|g| g.closes_at.is_none()) else { return };
        if tcp_listener.inherited {
            // Others have it open, so it would be watched further when it is closed here.
            let _ = epoll.delete(&tcp_listener.socket);
            *entry = None;
            return;
        }
        tcp_listener.closes_at = Some(now + HANDSHAKES);
        self.closes_at = self.closes_at.or(tcp_listener.closes_at);
        if let Err(e) = socket::withdraw_tcp_listener(&tcp_listener.socket) {
            warn!(listener = %tcp_listener.listener.address, "cannot withdraw the socket, new connections may be lost: {e}");
        }
    }

    /// Returns when to close the next withdrawn listener.
    pub(crate) const fn next_close(&self) -> Option<Tick> {
        self.closes_at
    }

    /// Returns the listeners that are due, once each; the caller accepts what is pending first.
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

    /// Stops watching a listener until its shard accepts connections: pending ones would wake it
    /// again and again.
    pub(super) fn pause_tcp_listener(&mut self, epoll: &Epoll, slot: ListenerSlot, accepts_from: Tick) {
        let Some(Some(tcp_listener)) = self.tcp_listeners.get_mut(slot.index()) else { return };
        tcp_listener.paused = epoll.delete(&tcp_listener.socket).is_ok();
        self.accepts_from = Some(accepts_from);
    }

    /// Watches paused listeners again, when the shard accepts connections.
    pub(crate) fn resume_tcp_listeners(&mut self, epoll: &Epoll, shard: &mut Shard) {
        if self.accepts_from.is_none() {
            return;
        }
        self.accepts_from = shard.accepts_from();
        if self.accepts_from.is_some() {
            return;
        }
        for tcp_listener in self.tcp_listeners.iter_mut().flatten() {
            if std::mem::take(&mut tcp_listener.paused) {
                // Fails only when it is watched.
                let _ = epoll.add(&tcp_listener.socket, tcp_listener.event());
            }
        }
    }

    /// Returns when to call [`Connections::resume_tcp_listeners`], at the latest.
    pub(crate) const fn next_accept(&self) -> Option<Tick> {
        self.accepts_from
    }

    /// Watches listeners again that could not accept.
    pub(crate) fn retry(&mut self, epoll: &Epoll) {
        if self.shortage.is_over() {
            for tcp_listener in self.tcp_listeners.iter().flatten().filter(|g| !g.paused) {
                // Fails for those that are still watched.
                let _ = epoll.add(&tcp_listener.socket, tcp_listener.event());
            }
        }
    }

    /// Closes a listener's socket.
    pub(crate) fn close_tcp_listener(&mut self, slot: ListenerSlot) {
        if let Some(tcp_listener) = self.tcp_listeners.get_mut(slot.index()) {
            *tcp_listener = None;
        }
    }
}
