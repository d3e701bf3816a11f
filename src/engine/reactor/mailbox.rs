//! What the control thread tells a shard, and closing listeners.

use std::sync::Arc;

use tracing::{error, warn};

use crate::base::addr::ListenerSlot;
use crate::base::time::Tick;
use crate::engine::reactor::{Engine, LAST_DATAGRAMS};
use crate::engine::socket::ListenerSockets;
use crate::engine::turn::{BATCHES_LAST, Task};
use crate::engine::{Message, clock, socket};

impl Engine {
    /// Reads messages, up to one that closes listeners: what comes behind it waits until they are
    /// closed.
    pub(crate) fn read_mail(&mut self) {
        // Reading resets the count; nothing to read means that an earlier wake-up saw it all.
        let _ = self.wake.read();
        while self.round.is_free() {
            let Ok(message) = self.inbox.try_recv() else {
                self.has_mail = false;
                return;
            };
            match message {
                // Taken at the top of each round.
                Message::Snapshot => {}
                Message::Listen(listener, sockets) => {
                    let ListenerSockets { udp, tcp, passed } = sockets;
                    self.shard.close_flows(listener.slot, false);
                    let connected = self.connected.epoll();
                    let tcp_listener = tcp.map_or(Ok(()), |socket| {
                        self.connections.open_tcp_listener(connected, Arc::clone(&listener), socket, passed)
                    });
                    let relay = listener.service.relay().is_some();
                    let set = if relay { &self.forwarded } else { &self.datagrams };
                    let listener_socket = udp.map_or(Ok(()), |socket| {
                        self.sockets.open_listener(set.epoll(), listener, socket, passed)
                    });
                    if let Err(e) = tcp_listener.and(listener_socket) {
                        error!(shard = self.setup.index, "a listener's socket cannot be watched: {e}");
                    }
                }
                Message::Unlisten(slot) => {
                    self.close_listener(slot);
                    self.close_tcp_listener(slot);
                }
                Message::Stop => {
                    for slot in self.connections.tcp_listeners() {
                        self.close_tcp_listener(slot);
                    }
                    self.connections.hasten();
                    self.stopping = true;
                }
                Message::Abort => {
                    // What can be answered at once still is.
                    for at in 0..self.sockets.listener_sockets.len() {
                        let slot = ListenerSlot(at as u16);
                        self.close_listener(slot);
                        let _ = (0..BATCHES_LAST).find(|_| self.read_last(slot) == 0);
                    }
                    self.ended = true;
                }
            }
        }
    }

    /// Takes no new connections at a listener, which is closed when those that are being made have
    /// come. Connections that came by it end when what they asked is answered; what has arrived by
    /// now is read.
    fn close_tcp_listener(&mut self, slot: ListenerSlot) {
        self.connections.withdraw_tcp_listener(slot, clock::now());
        for connection in self.shard.clients_of(slot) {
            self.round.add(Task::ReadLast(connection));
        }
        self.round.add(Task::Finish(slot));
    }

    /// Closes listeners for connections whose time has come. A stop goes on to take datagrams until
    /// there is none, so that they are not refused for longer than it takes to answer the last ones.
    pub(crate) fn close_due(&mut self, now: Tick) {
        for slot in self.connections.due_to_close(now) {
            self.round.add(Task::close(slot));
        }
        if self.stopping && self.ends_at.is_none() && self.connections.tcp_listeners().next().is_none() {
            for at in 0..self.sockets.listener_sockets.len() {
                self.close_listener(ListenerSlot(at as u16));
            }
            self.ends_at = Some(now + LAST_DATAGRAMS);
        }
    }

    /// Takes a listener out of its group, has read what it still holds, and keeps its socket until
    /// every query that came by it is answered or timed out: no query falls between two listeners.
    fn close_listener(&mut self, slot: ListenerSlot) {
        let Some(Some(listener_socket)) = self.sockets.listener_sockets.get_mut(slot.index()) else { return };
        if listener_socket.closes_at.is_some() {
            return;
        }
        listener_socket.closes_at = Some(clock::now() + self.shard.longest_wait());
        if listener_socket.passed {
            // What waits in it, and what comes, is for whoever is started next.
            let relay = listener_socket.listener.service.relay().is_some();
            let set = if relay { &self.forwarded } else { &self.datagrams };
            self.sockets.ignore_listener(set.epoll(), slot);
            return self.shard.close_flows(slot, true);
        }
        match socket::withdraw(&listener_socket.socket) {
            Ok(()) => self.round.add(Task::empty(slot)),
            Err(e) => {
                warn!(listener = %listener_socket.listener.address, "cannot leave the port's group: {e}");
                self.shard.close_flows(slot, true);
            }
        }
    }
}
