//! Serves connections: their work is done in slices, one per turn of the loop.
//! [`schedule`](crate::engine::schedule) says why what a round reads is finished in the same round.

use nix::sys::epoll::{EpollFlags, EpollTimeout};

use crate::base::addr::ListenerSlot;
use crate::engine::clock;
use crate::engine::reactor::Engine;
use crate::engine::readiness::{Priority, Ready};
use crate::engine::schedule::{ACCEPTS, Slice, Stage, Task, Weight};
use crate::shard::messages::Resumed;

impl Engine {
    /// Returns whether a round continues, or begins because there is work.
    pub(crate) fn has_round(&mut self) -> bool {
        if self.round.stage() == Stage::Idle {
            self.begin_round();
        }
        self.round.stage() != Stage::Idle
    }

    /// Goes on with the round.
    pub(crate) fn serve_connections(&mut self, mut slice: Slice) {
        while self.round.stage() != Stage::Idle && self.serve_stage(&mut slice) {
            match self.round.stage() {
                Stage::Idle => {}
                Stage::Responses => self.round.enter(Stage::Clients, 0),
                Stage::Clients => self.round.enter(Stage::Listeners, 0),
                Stage::Listeners => self.round.enter(Stage::Held, self.shard.resumable()),
                Stage::Held => self.round.enter(Stage::Pending, self.shard.pending()),
                Stage::Pending => self.round.enter(Stage::Closed, self.connections.closed_count()),
                Stage::Closed => self.round.enter(Stage::Idle, 0),
            }
        }
    }

    /// Asks which connections are ready. Mailbox messages are handled between rounds, so no event
    /// is about a connection that they opened or closed.
    fn begin_round(&mut self) {
        if self.has_mail {
            self.read_mail();
        }
        let mut any = !self.round.is_free();
        if std::mem::take(&mut self.connected_ready) {
            any |= self.connected.wait(EpollTimeout::ZERO).is_ok_and(|count| count > 0);
        }
        any |= self.shard.pending() > 0 || self.shard.resumable() > 0 || self.connections.closed_count() > 0;
        if any {
            self.round.enter(Stage::Responses, 0);
        }
    }

    /// Runs the current stage; false when the slice has ended first.
    fn serve_stage(&mut self, slice: &mut Slice) -> bool {
        match self.round.stage() {
            Stage::Idle => false,
            Stage::Responses => self.serve_responses(slice),
            Stage::Clients => self.serve_clients(slice),
            Stage::Listeners => self.serve_listeners(slice),
            Stage::Held => self.serve_held(slice),
            Stage::Pending => self.do_all_pending(slice),
            Stage::Closed => self.check_draining(slice),
        }
    }

    fn serve_responses(&mut self, slice: &mut Slice) -> bool {
        self.with_deferred(|connections, set, shard, out| {
            while let Some((ready, what)) = set.next(Priority::Responses) {
                let Ready::BackendConnection(route, generation) = ready else { continue };
                let step = connections.backend_weight(route);
                let is_over = &mut || slice.ends_with(Weight::Heavy, clock::now);
                connections.on_backend(set.epoll(), (route, generation), what, shard, is_over, out);
                if slice.ends_with(step, clock::now) {
                    return false;
                }
            }
            true
        })
    }

    fn serve_clients(&mut self, slice: &mut Slice) -> bool {
        self.with_deferred(|connections, set, shard, out| {
            while let Some((ready, what)) = set.next(Priority::Clients) {
                let step = match ready {
                    Ready::ClientConnection(connection) => {
                        let step = connections.client_weight(connection);
                        let is_over = &mut || slice.ends_with(Weight::Heavy, clock::now);
                        connections.on_client(set.epoll(), connection, what, shard, is_over, out);
                        step
                    }
                    Ready::RelaySession(session, side, attempt) => {
                        connections.relays.on_event(set.epoll(), session, (side, attempt), what, shard);
                        Weight::Heavy
                    }
                    Ready::Mail | Ready::Pulse | Ready::Set(_) | Ready::ListenerSocket(_) => continue,
                    Ready::BackendSockets(_) | Ready::BackendConnection(..) => continue,
                    Ready::TcpListenerSocket(_) | Ready::Flow(..) => continue,
                };
                if slice.ends_with(step, clock::now) {
                    return false;
                }
            }
            true
        })
    }

    fn serve_listeners(&mut self, slice: &mut Slice) -> bool {
        while let Some((ready, _)) = self.connected.next(Priority::Others) {
            if let Ready::TcpListenerSocket(slot) = ready {
                self.round.add(Task::accept(slot));
            }
        }
        while let Some(task) = self.round.next_task() {
            let more = match task {
                Task::Accept(slot, _) | Task::Close(slot, _) => self.accept(slot),
                Task::Empty(slot, _) => self.read_last(slot) > 0,
                Task::ReadLast(connection) => {
                    self.with_deferred(|connections, set, shard, out| {
                        let is_over = &mut || slice.ends_with(Weight::Heavy, clock::now);
                        connections.on_client(
                            set.epoll(),
                            connection,
                            EpollFlags::EPOLLIN,
                            shard,
                            is_over,
                            out,
                        );
                    });
                    false
                }
                Task::Finish(slot) => {
                    self.shard.finish_clients(Some(slot));
                    false
                }
            };
            match (task.after_step(more), task) {
                (Some(rest), _) => self.round.add(rest),
                (None, Task::Close(slot, _)) => self.connections.close_tcp_listener(slot),
                (None, Task::Empty(slot, _)) => self.shard.close_flows(slot, true),
                (None, Task::Accept(..) | Task::ReadLast(_) | Task::Finish(_)) => {}
            }
            if slice.ends_with(Weight::Heavy, clock::now) {
                return false;
            }
        }
        true
    }

    fn accept(&mut self, slot: ListenerSlot) -> bool {
        let Self { connections, connected, shard, locals, .. } = self;
        connections.accept(connected.epoll(), slot, shard, locals, ACCEPTS)
    }

    /// Reads a batch of a listener that is being closed. Returns the number of datagrams.
    pub(crate) fn read_last(&mut self, slot: ListenerSlot) -> usize {
        let listener_socket = self.sockets.listener_sockets.get(slot.index()).and_then(Option::as_ref);
        if listener_socket.is_some_and(|d| d.listener.service.relay().is_some()) {
            self.read_clients(slot)
        } else {
            self.read_listener(slot)
        }
    }

    fn serve_held(&mut self, slice: &mut Slice) -> bool {
        if !self.round.has_steps() {
            return true;
        }
        let mut round = std::mem::take(&mut self.round);
        let done = self.with_deferred(|_, _, shard, out| {
            while round.has_steps() {
                let is_over = &mut || slice.ends_with(Weight::Heavy, clock::now);
                match shard.resume_next(is_over, out) {
                    Resumed::Nothing => return true,
                    Resumed::HasMore => {}
                    Resumed::Done => round.end_step(),
                }
                if slice.ends_with(Weight::Light, clock::now) {
                    return false;
                }
            }
            true
        });
        self.round = round;
        done
    }

    fn do_all_pending(&mut self, slice: &mut Slice) -> bool {
        if !self.round.has_steps() {
            return true;
        }
        let mut round = std::mem::take(&mut self.round);
        let done = self.with_deferred(|connections, set, shard, out| {
            while round.has_steps()
                && let Some(work) = shard.next_pending()
            {
                round.end_step();
                connections.do_pending(set.epoll(), work, shard, out);
                if slice.ends_with(Weight::Light, clock::now) {
                    return false;
                }
            }
            true
        });
        self.round = round;
        done
    }

    fn check_draining(&mut self, slice: &mut Slice) -> bool {
        while self.round.has_steps() && self.connections.check_draining() {
            self.round.end_step();
            if slice.ends_with(Weight::Heavy, clock::now) {
                return false;
            }
        }
        true
    }
}
