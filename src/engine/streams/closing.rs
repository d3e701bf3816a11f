//! Listeners for connections that change or end: what new options are set on, and how nobody is lost
//! who is about to connect.

use std::sync::Arc;

use nix::sys::epoll::Epoll;
use tracing::warn;

use super::{ACCEPTS_LAST, Connections, Gate};
use crate::addr::ListenerSlot;
use crate::config::snapshot::Snapshot;
use crate::engine::locals::Locals;
use crate::engine::socket;
use crate::shard::Shard;
use crate::time::{Tick, TickDelta};

/// How long a listener that takes no new connections waits for those that are being made: longer
/// than the way around most of the world, and a fifth of the time after which a client repeats its
/// SYN (RFC 6298, 2).
const HANDSHAKES: TickDelta = TickDelta::from_ms(200);

impl Connections {
    /// Sets what a new snapshot says of listeners whose sockets stay.
    pub(in crate::engine) fn revise(&mut self, snapshot: &Snapshot) {
        for gate in self.gates.iter_mut().flatten().filter(|g| g.closes_at.is_none()) {
            let Some(listener) = snapshot.listener(gate.listener.slot) else { continue };
            if !listener.same_options(&gate.listener)
                && let Err(e) = socket::revise_stream(&gate.socket, listener, gate.passed)
            {
                warn!(listener = %listener.address, "cannot change a socket's options: {e}");
            }
            gate.listener = Arc::clone(listener);
        }
    }

    /// Takes no new connections at a listener, and what waits there; [`Connections::close_due`]
    /// closes it. Connections that another process passed the socket for stay for whoever is started
    /// next.
    pub(in crate::engine) fn close_gate(
        &mut self,
        epoll: &Epoll,
        slot: ListenerSlot,
        shard: &mut Shard,
        locals: &mut Locals,
        now: Tick,
    ) {
        let Some(place) = self.gates.get_mut(slot.index()) else { return };
        let Some(gate) = place.as_mut().filter(|g| g.closes_at.is_none()) else { return };
        if gate.passed {
            *place = None;
            return;
        }
        gate.closes_at = Some(now + HANDSHAKES);
        self.closes_at = self.closes_at.or(gate.closes_at);
        if let Err(e) = socket::withdraw_stream(&gate.socket) {
            warn!(listener = %gate.listener.address, "new connections may be lost: {e}");
        }
        self.accept(epoll, slot, shard, locals, ACCEPTS_LAST);
    }

    /// When the next listener is to be closed that takes no new connections.
    pub(in crate::engine) const fn next_close(&self) -> Option<Tick> {
        self.closes_at
    }

    /// Closes the listeners whose time has come, and takes what waits there first.
    pub(in crate::engine) fn close_due(
        &mut self,
        epoll: &Epoll,
        shard: &mut Shard,
        locals: &mut Locals,
        now: Tick,
    ) {
        for at in 0..self.gates.len() {
            let due = |g: &Gate| g.closes_at.filter(|at| *at <= now).map(|_| g.listener.slot);
            let Some(slot) = self.gates[at].as_ref().and_then(due) else { continue };
            self.accept(epoll, slot, shard, locals, ACCEPTS_LAST);
            self.gates[at] = None;
        }
        self.closes_at = self.gates.iter().flatten().filter_map(|g| g.closes_at).min();
    }
}
