//! Messages from the control thread, and the closing of listeners.

use std::sync::Arc;

use tracing::{error, warn};

use crate::base::addr::ListenerSlot;
use crate::base::time::Tick;
use crate::engine::reactor::{Engine, LAST_DATAGRAMS};
use crate::engine::schedule::{BATCHES_LAST, Task};
use crate::engine::socket::ListenerSockets;
use crate::engine::{Message, clock, socket};

impl Engine {
    /// Reads messages up to one that closes listeners: later ones wait until these are closed.
    pub(crate) fn read_mail(&mut self) {
        // Reading resets the counter; an empty read means that an earlier wake-up read it.
        let _ = self.wake.read();
        while self.round.is_free() {
            let Ok(message) = self.inbox.try_recv() else {
                self.has_mail = false;
                return;
            };
            match message {
                // Read at the start of each round.
                Message::Snapshot => {}
                Message::Listen(listener, sockets) => {
                    let ListenerSockets { udp, tcp, inherited } = sockets;
                    self.shard.close_flows(listener.slot, false);
                    let connected = self.connected.epoll();
                    let tcp_listener = tcp.map_or(Ok(()), |socket| {
                        self.connections.open_tcp_listener(
                            connected,
                            Arc::clone(&listener),
                            socket,
                            inherited.tcp,
                        )
                    });
                    let relay = listener.service.relay().is_some();
                    let set = if relay { &self.relay_datagrams } else { &self.datagrams };
                    let listener_socket = udp.map_or(Ok(()), |socket| {
                        self.sockets.open_listener(set.epoll(), listener, socket, inherited.udp)
                    });
                    if let Err(e) = tcp_listener.and(listener_socket) {
                        error!(shard = self.setup.index, "cannot watch a listener's socket: {e}");
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
                    self.connections.shorten_draining();
                    self.shard.stop_own_queries();
                    self.stopping = true;
                }
                Message::Abort => {
                    // Read what can still be answered.
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

    /// Stops accepting at a listener. It is closed when pending handshakes have completed; its
    /// connections end when their outstanding queries are answered. What has arrived is read.
    fn close_tcp_listener(&mut self, slot: ListenerSlot) {
        self.connections.withdraw_tcp_listener(self.connected.epoll(), slot, clock::now());
        for connection in self.shard.clients_of(slot) {
            self.round.add(Task::ReadLast(connection));
        }
        self.round.add(Task::Finish(slot));
    }

    /// Closes listeners whose time has come. A stopping shard goes on reading datagrams until there
    /// are none, so that clients see refusals as briefly as possible.
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

    /// Takes a listener out of its port group, reads what it holds, and keeps its socket until
    /// every query that came by it is answered or timed out: no query is lost between two
    /// listeners.
    fn close_listener(&mut self, slot: ListenerSlot) {
        let Some(Some(listener_socket)) = self.sockets.listener_sockets.get_mut(slot.index()) else { return };
        if listener_socket.closes_at.is_some() {
            return;
        }
        listener_socket.closes_at = Some(clock::now() + self.shard.longest_wait());
        if listener_socket.inherited {
            // Unread and later datagrams are left to the next process.
            let relay = listener_socket.listener.service.relay().is_some();
            let set = if relay { &self.relay_datagrams } else { &self.datagrams };
            self.sockets.ignore_listener(set.epoll(), slot);
            return self.shard.close_flows(slot, true);
        }
        match socket::withdraw(&listener_socket.socket) {
            Ok(()) => self.round.add(Task::empty(slot)),
            Err(e) => {
                // From an address that the machine does not have nothing can be connected.
                if !listener_socket.listener.freebind {
                    warn!(listener = %listener_socket.listener.address, "cannot leave the port group: {e}");
                }
                self.shard.close_flows(slot, true);
            }
        }
    }
}
