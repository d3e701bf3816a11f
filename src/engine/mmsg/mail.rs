//! What the control thread tells a shard, and closing listeners.

use std::sync::Arc;

use tracing::{error, warn};

use super::{Engine, LAST_DATAGRAMS};
use crate::addr::ListenerSlot;
use crate::engine::socket::{self, Ear};
use crate::engine::turn::{BATCHES_LAST, Task};
use crate::engine::{Message, clock};
use crate::time::Tick;

impl Engine {
    /// Reads messages, up to one that closes listeners: what comes behind it waits until they are
    /// closed.
    pub(super) fn read_mail(&mut self) {
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
                Message::Listen(listener, ear) => {
                    let Ear { datagram, stream, passed } = ear;
                    self.shard.close_flows(listener.slot, false);
                    let connected = self.connected.epoll();
                    let gate = stream.map_or(Ok(()), |socket| {
                        self.connections.open_gate(connected, Arc::clone(&listener), socket, passed)
                    });
                    let forward = listener.service.forward().is_some();
                    let set = if forward { &self.forwarded } else { &self.datagrams };
                    let door = datagram.map_or(Ok(()), |socket| {
                        self.sockets.open_door(set.epoll(), listener, socket, passed)
                    });
                    if let Err(e) = gate.and(door) {
                        error!(shard = self.setup.index, "a listener's socket cannot be watched: {e}");
                    }
                }
                Message::Unlisten(slot) => {
                    self.close_door(slot);
                    self.close_gate(slot);
                }
                Message::Stop => {
                    for slot in self.connections.gates() {
                        self.close_gate(slot);
                    }
                    self.connections.hasten();
                    self.stopping = true;
                }
                Message::Abort => {
                    // What can be answered at once still is.
                    for at in 0..self.sockets.doors.len() {
                        let slot = ListenerSlot(at as u16);
                        self.close_door(slot);
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
    fn close_gate(&mut self, slot: ListenerSlot) {
        self.connections.withdraw_gate(slot, clock::now());
        for stream in self.shard.streams_of(slot) {
            self.round.add(Task::ReadLast(stream));
        }
        self.round.add(Task::Finish(slot));
    }

    /// Closes listeners for connections whose time has come. A stop goes on to take datagrams until
    /// there is none, so that they are not refused for longer than it takes to answer the last ones.
    pub(super) fn close_due(&mut self, now: Tick) {
        for slot in self.connections.due_to_close(now) {
            self.round.add(Task::close(slot));
        }
        if self.stopping && self.ends_at.is_none() && self.connections.gates().next().is_none() {
            for at in 0..self.sockets.doors.len() {
                self.close_door(ListenerSlot(at as u16));
            }
            self.ends_at = Some(now + LAST_DATAGRAMS);
        }
    }

    /// Takes a listener out of its group, has read what it still holds, and keeps its socket until
    /// every query that came by it is answered or timed out: no query falls between two listeners.
    fn close_door(&mut self, slot: ListenerSlot) {
        let Some(Some(door)) = self.sockets.doors.get_mut(slot.index()) else { return };
        if door.closes_at.is_some() {
            return;
        }
        door.closes_at = Some(clock::now() + self.shard.longest_wait());
        if door.passed {
            // What waits in it, and what comes, is for whoever is started next.
            let forward = door.listener.service.forward().is_some();
            let set = if forward { &self.forwarded } else { &self.datagrams };
            self.sockets.ignore_door(set.epoll(), slot);
            return self.shard.close_flows(slot, true);
        }
        match socket::withdraw(&door.socket) {
            Ok(()) => self.round.add(Task::empty(slot)),
            Err(e) => {
                warn!(listener = %door.listener.address, "cannot leave the port's group: {e}");
                self.shard.close_flows(slot, true);
            }
        }
    }
}
