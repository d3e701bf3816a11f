//! One shard with everything that its engine owns, and the turns of its loop.
//!
//! ```text
//!  turn:  datagrams ─► relayed datagrams ─► a slice of the round ─► tick ─► close what is due ─► tidy
//!  round: answers ─► clients ─► listeners ─► held messages ─► pending work ─► draining connections
//! ```
//!
//! The same order, the same budget and the same stages as in the reactor.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::base::addr::{BackendSlot, Client, ConnectionSlot, ListenerSlot, Route, SessionSlot};
use crate::base::time::{Tick, TickDelta};
use crate::engine::schedule::{ACCEPTS, Round, Slice, Stage, Task, Weight};
use crate::engine::sim::Port;
use crate::engine::sim::datagram::{BackendSockets, Outgoing};
use crate::engine::sim::flow::{Flow, FlowPort};
use crate::engine::sim::network::{Arrival, Network};
use crate::engine::sim::relay::RelayedConnection;
use crate::engine::sim::stream::{Closed, Readiness, Role, Stream};
use crate::model::{Listener, Service, Snapshot};
use crate::shard::Shard;
use crate::shard::messages::Resumed;
use crate::stats::close_reason::RelayCloseReason;

/// An idle shard wakes this often, as in the socket engine.
const IDLE: TickDelta = TickDelta::from_ms(250);
/// How long a withdrawn listener accepts what is pending, as in the socket engine.
const HANDSHAKES: TickDelta = TickDelta::from_ms(200);
/// Turns at one instant; after these each takes [`TURN`], so that a shard that always has work does
/// not stop the time.
const TURNS_AT_ONCE: u32 = 64;
/// The time that a turn takes then.
pub(super) const TURN: TickDelta = TickDelta::from_us(1);

/// A listener of a shard.
#[derive(Debug)]
pub(super) struct OpenListener {
    pub(super) listener: Arc<Listener>,
    /// Connections that are not accepted yet.
    pub(super) waiting: VecDeque<Stream>,
    /// Set when it accepts no new connections: the time to close it.
    pub(super) closes_at: Option<Tick>,
    /// It is not watched, because its shard accepts no connection for a while.
    pub(super) paused: bool,
}

impl OpenListener {
    /// Returns whether it is watched and has something to accept.
    fn is_ready(&self) -> bool {
        !self.paused && !self.waiting.is_empty()
    }
}

/// The time that a turn has left for connections. A look at the clock takes time, so that slices
/// end; the turn as a whole takes none.
#[derive(Debug)]
pub(super) struct Budget {
    slice: Slice,
    now: Tick,
    step_cost: TickDelta,
}

impl Budget {
    /// Returns whether the slice ends with this step.
    pub(super) fn ends_with(&mut self, step: Weight) -> bool {
        let Self { slice, now, step_cost } = self;
        slice.ends_with(step, || {
            *now = *now + *step_cost;
            *now
        })
    }
}

/// A shard and what its engine would own.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) index: usize,
    pub(super) shard: Shard,
    pub(super) backends: Vec<Option<BackendSockets>>,
    pub(super) queries: VecDeque<(Client, Vec<u8>)>,
    pub(super) responses: VecDeque<(Port, Vec<u8>)>,
    /// Datagrams of relays, from clients and from targets.
    pub(super) relayed: VecDeque<(Client, Vec<u8>)>,
    pub(super) replies: VecDeque<(FlowPort, Option<Vec<u8>>)>,
    pub(super) listeners: Vec<Option<OpenListener>>,
    /// Listeners are paused until this time, or until another connection closes.
    pub(super) accepts_from: Option<Tick>,
    /// Listeners to be closed, from the control thread.
    pub(super) unlisten: VecDeque<ListenerSlot>,
    pub(super) clients: BTreeMap<ConnectionSlot, Stream>,
    /// By backend and connection.
    pub(super) links: BTreeMap<(u16, u16), Stream>,
    pub(super) relays: BTreeMap<SessionSlot, RelayedConnection>,
    pub(super) flows: BTreeMap<SessionSlot, Flow>,
    /// Sessions that have ended, and why, for the caller.
    pub(super) ended_sessions: Vec<(SessionSlot, RelayCloseReason)>,
    /// Shut down, but perhaps not yet closed by their clients: how often each is still checked.
    pub(super) draining: VecDeque<(Stream, u8)>,
    /// Those of them that are due for a check.
    draining_due: usize,
    round: Round,
    /// Events of the round: of backend connections, and of clients.
    answers: VecDeque<(Stream, Readiness)>,
    events: VecDeque<(Stream, Readiness)>,
    last_datagram: Tick,
    /// The valid wake-up; all others are stale.
    pub(super) wakes_at: Tick,
    /// Turns since the time has advanced.
    turns: u32,
    /// Turns since the start.
    pub(super) turns_total: u64,
    turned: Tick,
    tidied: Tick,
    opened_generation: u64,
}

impl Node {
    pub(super) fn new(index: usize, shard: Shard) -> Self {
        Self {
            index,
            shard,
            backends: Vec::new(),
            queries: VecDeque::new(),
            responses: VecDeque::new(),
            relayed: VecDeque::new(),
            replies: VecDeque::new(),
            listeners: Vec::new(),
            accepts_from: None,
            unlisten: VecDeque::new(),
            clients: BTreeMap::new(),
            links: BTreeMap::new(),
            relays: BTreeMap::new(),
            flows: BTreeMap::new(),
            ended_sessions: Vec::new(),
            draining: VecDeque::new(),
            draining_due: 0,
            round: Round::default(),
            answers: VecDeque::new(),
            events: VecDeque::new(),
            last_datagram: Tick(0),
            wakes_at: Tick(0),
            turns: 0,
            turns_total: 0,
            turned: Tick(0),
            tidied: Tick(0),
            opened_generation: u64::MAX,
        }
    }

    /// Puts what has arrived into the socket that it is for.
    pub(super) fn arrive(&mut self, arrival: Arrival, network: &mut Network) {
        match arrival {
            Arrival::Query(client, bytes) => {
                let listener = self.listener(client.listener);
                let is_relay = listener.is_some_and(|l| matches!(l.listener.service, Service::UdpRelay(_)));
                let queue = if is_relay { &mut self.relayed } else { &mut self.queries };
                queue.push_back((client, bytes));
            }
            Arrival::Response(port, bytes) => self.responses.push_back((port, bytes)),
            Arrival::Reply(port, bytes) => self.replies.push_back((port, bytes)),
            Arrival::Connection(stream, slot) => {
                let listener = self.listeners.get_mut(slot.index()).and_then(Option::as_mut);
                match listener.filter(|l| l.listener.service.takes_connections()) {
                    Some(listener) => listener.waiting.push_back(stream),
                    None => {
                        network.tcp(stream).closed = Some(Closed::Refused);
                        network.break_off(stream);
                    }
                }
            }
            Arrival::Outcome(stream, _)
            | Arrival::Bytes(stream, _)
            | Arrival::End(stream, _)
            | Arrival::Reset(stream) => network.arrive(stream, arrival),
        }
    }

    pub(super) fn listener(&self, slot: ListenerSlot) -> Option<&OpenListener> {
        self.listeners.get(slot.index()).and_then(Option::as_ref)
    }

    /// Returns whether there is work that needs no event of the network.
    pub(super) fn has_work(&self, network: &Network) -> bool {
        let queries = self.queries.len() + self.responses.len();
        let relayed = self.relayed.len() + self.replies.len();
        let shard = self.shard.pending() + self.shard.resumable();
        queries + relayed + shard + self.unlisten.len() + self.draining_due > 0
            || self.round.stage() != Stage::Idle
            || !self.round.is_free()
            || self.listeners.iter().flatten().any(OpenListener::is_ready)
            || network.has_ready(self.index)
    }

    /// Runs one turn of the loop; returns when the next one is.
    pub(super) fn turn(
        &mut self,
        snapshot: &Arc<Snapshot>,
        step_cost: TickDelta,
        network: &mut Network,
    ) -> Tick {
        let now = network.now;
        self.turns_total += 1;
        self.begin(snapshot, network);
        let datagrams = self.serve_datagrams(network);
        if datagrams > 0 {
            self.last_datagram = now;
        }
        let slice = Slice::begin(now, datagrams, self.last_datagram);
        self.serve_relayed_datagrams(&mut Budget { slice, now, step_cost }, network);
        self.begin_round(network);
        self.serve_connections(&mut Budget { slice, now, step_cost }, network);
        self.tick(network);
        self.resume_listeners();
        self.close_due(now);
        if now.since(self.tidied) >= IDLE {
            self.tidy(now);
        }
        self.turns = if self.turned == now { self.turns + 1 } else { 0 };
        self.turned = now;
        self.next_turn(network)
    }

    fn next_turn(&self, network: &Network) -> Tick {
        let now = network.now;
        let closes = self.listeners.iter().flatten().filter_map(|l| l.closes_at);
        let due = self.shard.next_deadline().into_iter().chain(closes).chain(self.accepts_from).min();
        let wait = if self.has_work(network) {
            TickDelta(0)
        } else {
            due.map_or(IDLE, |at| TickDelta::from_ms(at.since(now).as_ms_ceil()))
        };
        let least = if self.turns < TURNS_AT_ONCE { 0 } else { TURN.0 };
        now + TickDelta(wait.0.clamp(least, IDLE.0))
    }

    fn begin(&mut self, snapshot: &Arc<Snapshot>, network: &mut Network) {
        self.shard.begin_batch(network.now, snapshot);
        if self.opened_generation == snapshot.generation {
            return;
        }
        self.opened_generation = snapshot.generation;
        self.open_backends(snapshot, network);
        for listener in &snapshot.listeners {
            let at = listener.slot.index();
            if self.listeners.len() <= at {
                self.listeners.resize_with(at + 1, || None);
            }
            if let Some(open) = self.listeners[at].as_mut().filter(|l| l.closes_at.is_none()) {
                open.listener = Arc::clone(listener);
                continue;
            }
            self.shard.close_flows(listener.slot, false);
            let (listener, waiting) = (Arc::clone(listener), VecDeque::new());
            self.listeners[at] = Some(OpenListener { listener, waiting, closes_at: None, paused: false });
        }
    }

    /// Watches paused listeners again, when the shard accepts connections.
    fn resume_listeners(&mut self) {
        if self.accepts_from.is_some() {
            self.accepts_from = self.shard.accepts_from();
            if self.accepts_from.is_none() {
                self.listeners.iter_mut().flatten().for_each(|l| l.paused = false);
            }
        }
    }

    fn begin_round(&mut self, network: &mut Network) {
        if self.round.stage() != Stage::Idle {
            return;
        }
        while self.round.is_free()
            && let Some(slot) = self.unlisten.pop_front()
        {
            self.withdraw(slot, network.now);
        }
        for (stream, what) in network.ready(self.index) {
            let is_backend = matches!(network.tcp(stream).role, Role::Backend(_));
            let events = if is_backend { &mut self.answers } else { &mut self.events };
            events.push_back((stream, what));
        }
        let waiting = self.listeners.iter().flatten().filter(|l| l.is_ready());
        let accepts: Vec<_> = waiting.map(|l| Task::accept(l.listener.slot)).collect();
        accepts.into_iter().for_each(|task| self.round.add(task));
        let events = self.answers.len() + self.events.len();
        let shard = self.shard.pending() + self.shard.resumable();
        if events + shard + self.draining_due > 0 || !self.round.is_free() {
            self.round.enter(Stage::Responses, 0);
        }
    }

    /// Stops accepting at a listener: its connections end when they are answered.
    fn withdraw(&mut self, slot: ListenerSlot, now: Tick) {
        let Some(Some(open)) = self.listeners.get_mut(slot.index()) else { return };
        if open.closes_at.is_some() {
            return;
        }
        open.closes_at = Some(now + HANDSHAKES);
        self.round.add(Task::empty(slot));
        for connection in self.shard.clients_of(slot) {
            self.round.add(Task::ReadLast(connection));
        }
        self.round.add(Task::Finish(slot));
    }

    fn serve_connections(&mut self, budget: &mut Budget, network: &mut Network) {
        while self.round.stage() != Stage::Idle {
            let mut out = Outgoing::new();
            let done = self.serve_stage(budget, network, &mut out);
            self.flush(out, network);
            if !done {
                return;
            }
            match self.round.stage() {
                Stage::Idle => {}
                Stage::Responses => self.round.enter(Stage::Clients, 0),
                Stage::Clients => self.round.enter(Stage::Listeners, 0),
                Stage::Listeners => self.round.enter(Stage::Held, self.shard.resumable()),
                Stage::Held => self.round.enter(Stage::Pending, self.shard.pending()),
                Stage::Pending => self.round.enter(Stage::Closed, self.draining_due),
                Stage::Closed => self.round.enter(Stage::Idle, 0),
            }
        }
    }

    /// Runs the current stage; false when the slice has ended first.
    fn serve_stage(&mut self, budget: &mut Budget, network: &mut Network, out: &mut Outgoing) -> bool {
        match self.round.stage() {
            Stage::Idle => {}
            Stage::Responses => {
                while let Some((stream, what)) = self.answers.pop_front() {
                    self.on_backend(stream, what, budget, network, out);
                    if budget.ends_with(Weight::Light) {
                        return false;
                    }
                }
            }
            Stage::Clients => {
                while let Some((stream, what)) = self.events.pop_front() {
                    let step = match network.tcp(stream).role {
                        Role::Client(_) => {
                            self.on_client(stream, what, budget, network, out);
                            Weight::Light
                        }
                        Role::Relayed(session) | Role::Target(session) => {
                            self.on_relayed(session, stream, what, network);
                            Weight::Heavy
                        }
                        Role::Backend(_) | Role::Unaccepted => continue,
                    };
                    if budget.ends_with(step) {
                        return false;
                    }
                }
            }
            Stage::Listeners => return self.serve_listeners(budget, network, out),
            Stage::Held => {
                while self.round.has_steps() {
                    let is_over = &mut || budget.ends_with(Weight::Heavy);
                    match self.shard.resume_next(is_over, &mut |v, bytes| out.push((v, bytes.to_vec()))) {
                        Resumed::Nothing => return true,
                        Resumed::HasMore => {}
                        Resumed::Done => self.round.end_step(),
                    }
                    if budget.ends_with(Weight::Light) {
                        return false;
                    }
                }
            }
            Stage::Pending => {
                while self.round.has_steps()
                    && let Some(work) = self.shard.next_pending()
                {
                    self.round.end_step();
                    self.do_pending(work, network, out);
                    if budget.ends_with(Weight::Light) {
                        return false;
                    }
                }
            }
            Stage::Closed => {
                while self.round.has_steps() && self.check_draining(network) {
                    self.round.end_step();
                    if budget.ends_with(Weight::Heavy) {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn serve_listeners(&mut self, budget: &mut Budget, network: &mut Network, out: &mut Outgoing) -> bool {
        while let Some(task) = self.round.next_task() {
            let more = match task {
                Task::Accept(slot, _) | Task::Close(slot, _) => {
                    let accepted = (0..ACCEPTS).all(|_| self.accept_next(slot, network, out));
                    accepted && self.listener(slot).is_some_and(|l| !l.waiting.is_empty())
                }
                Task::Empty(slot, _) => self.read_last(slot, network) > 0,
                Task::ReadLast(connection) => {
                    if let Some(stream) = self.clients.get(&connection).copied() {
                        let what = Readiness { readable: true, writable: false, hung_up: false };
                        self.on_client(stream, what, budget, network, out);
                    }
                    false
                }
                Task::Finish(slot) => {
                    self.shard.finish_clients(Some(slot));
                    false
                }
            };
            match (task.after_step(more), task) {
                (Some(rest), _) => self.round.add(rest),
                (None, Task::Close(slot, _)) => self.close_listener(slot, network),
                (None, Task::Empty(slot, _)) => self.shard.close_flows(slot, true),
                (None, Task::Accept(..) | Task::ReadLast(_) | Task::Finish(_)) => {}
            }
            if budget.ends_with(Weight::Heavy) {
                return false;
            }
        }
        true
    }

    fn close_listener(&mut self, slot: ListenerSlot, network: &mut Network) {
        let Some(closed) = self.listeners.get_mut(slot.index()).and_then(Option::take) else { return };
        for stream in closed.waiting {
            network.tcp(stream).closed = Some(Closed::Refused);
            network.break_off(stream);
        }
    }

    fn close_due(&mut self, now: Tick) {
        for open in self.listeners.iter_mut().flatten() {
            if open.closes_at.is_some_and(|at| at <= now) {
                // Once: the task closes it.
                open.closes_at = Some(Tick(u64::MAX));
                self.round.add(Task::close(open.listener.slot));
            }
        }
    }

    /// Checks the next draining connection; false when none is due.
    fn check_draining(&mut self, network: &mut Network) -> bool {
        let Some(due) = self.draining_due.checked_sub(1) else { return false };
        self.draining_due = due;
        let Some((stream, checks_left)) = self.draining.pop_front() else { return false };
        if checks_left > 1 && !network.is_drained(stream) {
            self.draining.push_back((stream, checks_left - 1));
        } else {
            network.end_draining(stream);
        }
        true
    }

    fn tick(&mut self, network: &mut Network) {
        if self.shard.next_deadline().is_none_or(|at| at > network.now) {
            return self.shard.publish();
        }
        let mut out = Outgoing::new();
        self.shard.on_tick(&mut |verdict, bytes| out.push((verdict, bytes.to_vec())));
        self.flush(out, network);
    }

    /// Closes what is finished.
    fn tidy(&mut self, now: Tick) {
        let gone: Vec<BackendSlot> = self.shard.retired().collect();
        for slot in gone {
            // One that was replaced before the first turn has no sockets.
            if let Some(sockets) = self.backends.get_mut(slot.index()) {
                *sockets = None;
            }
            self.shard.detach(slot);
        }
        self.shard.calm_spoofing();
        self.draining_due = self.draining.len();
        self.tidied = now;
    }

    /// Reports to the shard that a session's sockets are closed.
    pub(super) fn end_session(&mut self, session: SessionSlot, why: RelayCloseReason) {
        self.shard.on_session_closed(session, why);
        self.ended_sessions.push((session, why));
    }

    /// Returns the connection of a route.
    pub(super) fn link(&self, route: Route) -> Option<Stream> {
        self.links.get(&(route.backend.0, route.socket.number())).copied()
    }
}
