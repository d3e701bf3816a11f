//! Tests TCP and UDP relays in the simulator: the target of a connection or flow, the next target
//! after a failure, limits, timeouts and accounting. First a table of cases, then a seeded
//! simulation.
//!
//! A failure of the simulation prints its seed; `SIM_SEED=` with that number replays only that run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use dnslob::base::addr::{BackendSlot, Client, Endpoint, ListenerSlot, LocalSlot, SessionSlot};
use dnslob::base::rng::ShardRng;
use dnslob::base::time::TickDelta;
use dnslob::config::Slots;
use dnslob::engine::sim::{Connects, Role, Seen, Sim, Stream};
use dnslob::engine::socket;
use dnslob::engine::socket::ShardPosition;
use dnslob::model::Steer;
use dnslob::model::{Backend, Listener, Snapshot};
use dnslob::shard::Shard;
use dnslob::shard::messages::PendingWork;
use dnslob::shard::relay::{Direction, RelayInterest};
use dnslob::stats::close_reason::{ConnectFailure, RelayCloseReason};
use dnslob::stats::descriptors::{Division, Use};
use dnslob::stats::live::{LiveState, State};
use dnslob::stats::log_queue::RelayLogEntry;
use support::config::configured;

/// Returns a configuration with a TCP relay to three targets; `more` are further arguments.
fn tcp(more: &str) -> String {
    format!(
        "setACL({{\"192.0.2.0/24\"}})\n\
         addTCPForward{{listen=\"127.0.0.1:2525\", to={{\"127.0.1.1:25\", \"127.0.1.2:25\", \"127.0.1.3:25\"}}{more}}}\n"
    )
}

fn udp(more: &str) -> String {
    tcp(more).replace("addTCPForward", "addUDPForward")
}

/// Clients and targets that play in the simulator, with one shard between them. Targets accept only
/// when a test says so.
struct Bench {
    sim: Sim,
    live_state: Arc<LiveState>,
    snapshot: Arc<Snapshot>,
    slots: Slots,
    /// Closed relay sessions, and their close reasons.
    closed: Vec<(SessionSlot, RelayCloseReason)>,
    /// The connections of each session: from its client, and to the target that it tries or uses.
    clients: BTreeMap<SessionSlot, Stream>,
    targets: BTreeMap<SessionSlot, Stream>,
}

impl Bench {
    fn new(text: &str) -> Self {
        let compiled = configured(text, &Slots::default(), 1);
        let (snapshot, slots) = (Arc::new(compiled.snapshot), compiled.slots);
        let live_state = Arc::new(LiveState::new(1, 16));
        snapshot.backends.iter().flatten().for_each(|b| live_state.set_state(b.slot, State::Up));
        let sim = Sim::new(7, &live_state, snapshot.clone());
        let (clients, targets) = (BTreeMap::new(), BTreeMap::new());
        let mut bench = Self { sim, live_state, snapshot, slots, closed: Vec::new(), clients, targets };
        bench.hang();
        bench.run();
        bench
    }

    /// Lets no target react to a connection.
    fn hang(&mut self) {
        for target in self.snapshot.backends.iter().flatten() {
            self.sim.set_connects(target.address, Connects::Hangs);
        }
    }

    /// Publishes another configuration for the next turn.
    /// Reloads so that all listeners are opened anew, as after a reload that removed them; the old
    /// sockets still receive for a while.
    fn reopen(&mut self, text: &str) {
        self.slots.assign_listeners(&mut []).expect("none is wanted");
        self.reload(text);
    }

    fn reload(&mut self, text: &str) {
        let compiled = configured(text, &self.slots, self.snapshot.generation + 1);
        (self.snapshot, self.slots) = (Arc::new(compiled.snapshot), compiled.slots);
        self.hang();
        self.sim.publish(self.snapshot.clone());
        self.pass(1);
    }

    fn shard(&self) -> &Shard {
        self.sim.shard(0)
    }

    /// Advances the time.
    fn pass(&mut self, ms: u64) {
        let until = self.sim.now() + TickDelta::from_ms(ms);
        while let Some(seen) = self.sim.next(until) {
            self.see(&seen);
        }
        self.run();
    }

    /// Lets the shard do all its work of this instant.
    fn run(&mut self) {
        while let Some(seen) = self.sim.next_at_once() {
            self.see(&seen);
        }
        self.closed.extend(self.sim.ended_sessions(0));
        self.shard().check_invariants();
    }

    fn see(&mut self, seen: &Seen) {
        if let Seen::Connect { stream, .. } = seen
            && let Role::Target(session) = self.sim.role(*stream)
        {
            self.targets.insert(session, *stream);
        }
    }

    /// Closes a session as its client or its target would.
    fn close(&mut self, session: SessionSlot, why: RelayCloseReason) {
        let (client, target) = (self.clients[&session], self.targets[&session]);
        if why == RelayCloseReason::ClientBroken {
            self.sim.reset(client);
        } else {
            self.open(session);
            let [first, second] =
                if why == RelayCloseReason::Client { [client, target] } else { [target, client] };
            self.sim.end(first);
            self.run();
            self.sim.end(second);
        }
        self.run();
        assert!(self.closed.contains(&(session, why)), "{session:?}: {:?}", self.closed);
    }

    fn listener(&self, at: usize) -> Arc<Listener> {
        Arc::clone(&self.snapshot.listeners[at])
    }

    fn connect(&mut self, from: &str) -> Option<SessionSlot> {
        self.connect_by(&self.listener(0), from)
    }

    fn connect_by(&mut self, listener: &Arc<Listener>, from: &str) -> Option<SessionSlot> {
        let stream = self.sim.connect(0, listener.slot, endpoint(from));
        self.run();
        let Role::Relayed(session) = self.sim.role(stream) else { return None };
        self.clients.insert(session, stream);
        Some(session)
    }

    fn send(&mut self, from: &str, at: usize) -> Option<SessionSlot> {
        self.send_by(&self.listener(at), from)
    }

    /// Sends a datagram; returns the flow by which its target receives it.
    fn send_by(&mut self, listener: &Arc<Listener>, from: &str) -> Option<SessionSlot> {
        self.sim.ask(0, Client { listener: listener.slot, ..client(from) }, b"a datagram");
        let mut taken = None;
        while let Some(seen) = self.sim.next_at_once() {
            if let Seen::Relayed { port, .. } = seen {
                taken = Some(port.session);
            }
        }
        self.run();
        taken
    }

    /// The target accepts.
    fn open(&mut self, session: SessionSlot) {
        self.sim.accept(self.targets[&session]);
        self.run();
    }

    /// Lets a number of bytes pass, or a datagram of that length.
    fn relay(&mut self, session: SessionSlot, way: Direction, count: usize) {
        let bytes = vec![7; count];
        match (self.sim.flow_port(0, session), way) {
            (Some(port), Direction::Back) => self.sim.reply(port, TickDelta(0), &bytes),
            (Some(_), Direction::Out) => {
                let (client, _) = self.shard().relay_client(session).expect("a flow");
                self.sim.ask(0, client, &bytes);
            }
            (None, Direction::Out) => self.sim.send(self.clients[&session], &bytes),
            (None, Direction::Back) => self.sim.send(self.targets[&session], &bytes),
        }
        self.run();
    }

    /// Returns the last byte of the target address that a session tries or uses.
    fn target(&self, session: SessionSlot) -> u8 {
        match self.shard().relay_interest(session) {
            RelayInterest::Connect(attempt)
            | RelayInterest::Await(attempt)
            | RelayInterest::Serve(attempt) => number(&self.snapshot, attempt.target),
            RelayInterest::Close(why) => panic!("{session:?} is over: {why:?}"),
        }
    }

    /// The attempt to reach the target fails.
    fn fail(&mut self, session: SessionSlot, why: ConnectFailure) {
        match self.sim.flow_port(0, session) {
            Some(port) => self.sim.refuse(port),
            None => self.sim.fail(self.targets[&session], why),
        }
        self.run();
    }

    fn slot(&self, number_wanted: u8) -> BackendSlot {
        let mut backends = self.snapshot.backends.iter().flatten();
        backends.find(|b| number(&self.snapshot, b.slot) == number_wanted).expect("a target").slot
    }

    fn set(&self, target: u8, state: State) {
        self.live_state.set_state(self.slot(target), state);
    }

    fn ended(&self, why: RelayCloseReason) -> u64 {
        self.live_state.shards()[0].relays.ended(why).get()
    }

    fn logged(&self) -> Vec<RelayLogEntry> {
        self.live_state.shards()[0].log_queue.passed().collect()
    }
}

fn number(snapshot: &Snapshot, slot: BackendSlot) -> u8 {
    match snapshot.backend(slot).expect("a target").address.ip() {
        std::net::IpAddr::V4(v4) => v4.octets()[3],
        std::net::IpAddr::V6(_) => panic!("no target is IPv6"),
    }
}

fn endpoint(text: &str) -> Endpoint {
    text.parse::<std::net::SocketAddr>().expect("an address").into()
}

fn client(text: &str) -> Client {
    Client { peer: endpoint(text), listener: ListenerSlot(0), local: LocalSlot::LISTENER, connection: None }
}

const ONE: &str = "192.0.2.1:4001";
const TWO: &str = "192.0.2.2:4002";

#[test]
fn targets_are_tried_in_order_until_one_accepts() {
    let mut bench = Bench::new(&tcp(", log=true"));
    let session = bench.connect(ONE).expect("taken");
    assert_eq!(bench.target(session), 1);
    bench.fail(session, ConnectFailure::Refused);
    assert_eq!(bench.target(session), 2);
    bench.fail(session, ConnectFailure::Unreachable);
    assert_eq!(bench.target(session), 3);
    bench.open(session);
    bench.relay(session, Direction::Out, 10);
    bench.relay(session, Direction::Back, 7);
    bench.pass(20);
    assert_eq!(bench.live_state.outstanding(bench.slot(3)), 1);
    bench.close(session, RelayCloseReason::Client);
    bench.pass(1);
    assert_eq!([1, 2, 3].map(|n| bench.live_state.outstanding(bench.slot(n))), [0; 3]);
    let stats = &bench.live_state.shards()[0];
    let of = |n: u8| stats.backend(bench.slot(n));
    assert_eq!([1, 2, 3].map(|n| of(n).queries.get()), [1; 3]);
    assert_eq!([1, 2, 3].map(|n| of(n).send_errors.get()), [1, 1, 0]);
    assert_eq!([1, 2, 3].map(|n| of(n).responses.get()), [0, 0, 1]);
    assert_eq!(stats.retries.get(), 2);
    let [entry] = &bench.logged()[..] else { panic!("one line") };
    assert_eq!(
        entry.tried,
        [
            ("127.0.1.1:25".parse().unwrap(), ConnectFailure::Refused),
            ("127.0.1.2:25".parse().unwrap(), ConnectFailure::Unreachable)
        ]
    );
    assert_eq!(entry.target, Some("127.0.1.3:25".parse().unwrap()));
    assert_eq!((entry.bytes, entry.why, entry.tcp), ([10, 7], RelayCloseReason::Client, true));
    assert_eq!(entry.lasted, TickDelta::from_ms(20));
    // The next client starts at the first target again: a refusal costs no time.
    let session = bench.connect(TWO).expect("taken");
    assert_eq!(bench.target(session), 1);
}

#[test]
fn the_client_is_closed_only_when_all_have_failed() {
    let mut bench = Bench::new(&tcp(""));
    let session = bench.connect(ONE).expect("taken");
    for _ in 0..2 {
        bench.fail(session, ConnectFailure::Refused);
        assert!(bench.closed.is_empty());
    }
    bench.fail(session, ConnectFailure::Refused);
    assert_eq!(bench.closed, [(session, RelayCloseReason::NoTarget)]);
    assert_eq!((bench.ended(RelayCloseReason::NoTarget), bench.shard().sessions_open()), (1, 0));
}

#[test]
fn a_target_that_does_not_accept_in_time_is_skipped() {
    let mut bench = Bench::new(&tcp(", connectTimeoutMs=200"));
    let session = bench.connect(ONE).expect("taken");
    bench.pass(150);
    assert_eq!(bench.target(session), 1);
    bench.pass(100);
    assert_eq!(bench.target(session), 2, "the second one at once");
    let stats = &bench.live_state.shards()[0];
    assert_eq!(stats.backend(bench.slot(1)).timeouts.get(), 1);
    let other = bench.connect(TWO).expect("taken");
    assert_eq!(bench.target(other), 2, "no other client waits for the first one");
    // If all other targets fail, it is tried, too.
    bench.fail(other, ConnectFailure::Refused);
    bench.fail(other, ConnectFailure::Refused);
    assert_eq!(bench.target(other), 1);
    bench.open(other);
    let third = bench.connect(TWO).expect("taken");
    assert_eq!(bench.target(third), 1, "it has accepted since");
}

#[test]
fn targets_that_are_down_are_tried_last() {
    let mut bench = Bench::new(&tcp(""));
    bench.set(1, State::Down);
    bench.pass(1);
    let session = bench.connect(ONE).expect("taken");
    assert_eq!(bench.target(session), 2);
    bench.fail(session, ConnectFailure::Refused);
    assert_eq!(bench.target(session), 3);
    bench.fail(session, ConnectFailure::Refused);
    assert_eq!(bench.target(session), 1, "it may be back since its last check");
    // If all targets are down, they are tried in order.
    bench.set(2, State::Down);
    bench.set(3, State::Down);
    bench.pass(1);
    let session = bench.connect(ONE).expect("taken");
    let mut order = vec![bench.target(session)];
    bench.fail(session, ConnectFailure::Refused);
    order.push(bench.target(session));
    bench.fail(session, ConnectFailure::Refused);
    order.push(bench.target(session));
    assert_eq!(order, [1, 2, 3]);
}

#[test]
fn connections_of_a_target_that_goes_down_end_or_stay() {
    for (more, closes) in [("", true), (", closeWhenDown=false", false)] {
        let mut bench = Bench::new(&tcp(more));
        let session = bench.connect(ONE).expect("taken");
        bench.open(session);
        bench.relay(session, Direction::Out, 10);
        // The other direction is closed already.
        let half = bench.connect(TWO).expect("taken");
        bench.open(half);
        bench.sim.end(bench.clients[&half]);
        bench.run();
        // Another target's state does not matter.
        bench.set(2, State::Down);
        bench.pass(1_000);
        assert_eq!(bench.closed, []);
        bench.set(1, State::Down);
        bench.pass(1_000);
        let mut ended = std::mem::take(&mut bench.closed);
        ended.sort_unstable_by_key(|(session, _)| *session);
        let all = [session, half].map(|session| (session, RelayCloseReason::TargetDown));
        assert_eq!(ended, if closes { all.to_vec() } else { Vec::new() }, "{more}");
        assert_eq!(bench.ended(RelayCloseReason::TargetDown), if closes { 2 } else { 0 });
        if !closes {
            bench.relay(session, Direction::Back, 10);
            bench.close(session, RelayCloseReason::Client);
        }
    }
}

#[test]
fn a_connection_that_chose_a_down_target_stays_until_that_was_up() {
    let mut bench = Bench::new(&tcp(""));
    for target in [1, 2, 3] {
        bench.set(target, State::Down);
    }
    bench.pass(1);
    let session = bench.connect(ONE).expect("taken");
    bench.open(session);
    bench.pass(2_000);
    assert_eq!(bench.closed, []);
    bench.set(1, State::Up);
    bench.pass(1_000);
    assert_eq!(bench.closed, []);
    bench.set(1, State::Down);
    bench.pass(1_000);
    assert_eq!(bench.closed, [(session, RelayCloseReason::TargetDown)]);
}

#[test]
fn a_connection_of_a_removed_target_goes_on() {
    let mut bench = Bench::new(&tcp(""));
    let session = bench.connect(ONE).expect("taken");
    bench.open(session);
    let first = bench.slot(1);
    bench.reload(&tcp("").replace("\"127.0.1.1:25\", ", ""));
    bench.live_state.set_state(first, State::Down);
    bench.pass(2_000);
    bench.relay(session, Direction::Back, 10);
    bench.close(session, RelayCloseReason::Client);
}

#[test]
fn a_connection_leaves_a_target_that_goes_down_before_it_accepts() {
    let mut bench = Bench::new(&tcp(", connectTimeout=60"));
    let session = bench.connect(ONE).expect("taken");
    bench.set(1, State::Down);
    bench.pass(1_000);
    assert_eq!(bench.target(session), 2);
    // With no other one up it waits for what it has.
    for target in [2, 3] {
        bench.set(target, State::Down);
    }
    bench.pass(1_000);
    assert_eq!(bench.target(session), 2);
    bench.open(session);
    bench.pass(1_000);
    assert_eq!(bench.closed, [(session, RelayCloseReason::TargetDown)]);
}

/// What a target, or the client, does while the target's first byte is awaited.
#[derive(Clone, Copy, Debug)]
enum Does {
    Nothing,
    Ends,
    Resets,
    Sends,
    SendsAndEnds,
    ClientSends,
    ClientEnds,
    GoesDown,
}

#[test]
fn a_target_that_does_not_greet_is_left_for_the_next() {
    use Does::{ClientEnds, ClientSends, Ends, GoesDown, Nothing, Resets, Sends, SendsAndEnds};
    // What happens, the target after it, and the number of failures that are counted.
    let greeted = ", greetingTimeoutMs=200, log=true";
    for (more, does, target, why) in [
        (greeted, Nothing, 2, Some(ConnectFailure::Silent)),
        (greeted, Ends, 2, Some(ConnectFailure::Closed)),
        (greeted, Resets, 2, Some(ConnectFailure::Closed)),
        (greeted, GoesDown, 2, Some(ConnectFailure::Down)),
        (greeted, Sends, 1, None),
        (greeted, SendsAndEnds, 1, None),
        (greeted, ClientSends, 1, None),
        (greeted, ClientEnds, 1, None),
        (", log=true", Nothing, 1, None),
        (", log=true", Ends, 1, None),
    ] {
        let mut bench = Bench::new(&tcp(more));
        let session = bench.connect(ONE).expect("taken");
        bench.open(session);
        let (client, first) = (bench.clients[&session], bench.targets[&session]);
        match does {
            Nothing => {}
            Ends => bench.sim.end(first),
            Resets => bench.sim.reset(first),
            Sends => bench.sim.send(first, b"220 mail"),
            SendsAndEnds => {
                bench.sim.send(first, b"421 busy");
                bench.sim.end(first);
            }
            ClientSends => bench.sim.send(client, b"EHLO"),
            ClientEnds => bench.sim.end(client),
            GoesDown => bench.set(1, State::Down),
        }
        bench.run();
        // The sweep looks at the only session each 50 ms.
        bench.pass(if matches!(does, GoesDown) { 190 } else { 250 });
        let context = format!("{more} {does:?}");
        assert_eq!(bench.target(session), target, "{context}");
        if target == 2 {
            assert!(bench.sim.closed(first).is_some(), "{context}");
            bench.open(session);
            bench.relay(session, Direction::Back, 8);
            bench.relay(session, Direction::Out, 4);
        }
        // A target that has spoken is silent as long as it likes.
        bench.pass(1_000);
        assert_eq!((bench.target(session), &bench.closed[..]), (target, &[][..]), "{context}");
        bench.close(
            session,
            if matches!(does, Ends | SendsAndEnds) && target == 1 {
                RelayCloseReason::Target
            } else {
                RelayCloseReason::Client
            },
        );
        let [entry] = &bench.logged()[..] else { panic!("one line") };
        assert_eq!(
            entry.tried.iter().map(|(_, why)| *why).collect::<Vec<_>>(),
            Vec::from_iter(why),
            "{context}"
        );
        let bytes = match does {
            Sends | SendsAndEnds => [0, 8],
            ClientSends => [4, 0],
            _ if target == 2 => [4, 8],
            Nothing | Ends | Resets | GoesDown | ClientEnds => [0, 0],
        };
        assert_eq!(entry.bytes, bytes, "{context}");
        let stats = &bench.live_state.shards()[0];
        let responses = [1, 2].map(|n| stats.backend(bench.slot(n)).responses.get());
        assert_eq!(responses, if target == 1 { [1, 0] } else { [0, 1] }, "{context}");
        assert_eq!(stats.retries.get(), u64::from(target == 2));
    }
}

#[test]
fn a_silent_target_is_skipped_by_the_next_clients() {
    let mut bench = Bench::new(&tcp(", greetingTimeoutMs=200"));
    let session = bench.connect(ONE).expect("taken");
    bench.open(session);
    bench.pass(250);
    assert_eq!(bench.target(session), 2);
    let other = bench.connect(TWO).expect("taken");
    assert_eq!(bench.target(other), 2);
    // The client is closed when none is left.
    for _ in 0..2 {
        bench.open(session);
        bench.pass(250);
    }
    assert!(bench.closed.contains(&(session, RelayCloseReason::NoTarget)), "{:?}", bench.closed);
}

#[test]
fn policies_choose_by_round_robin_connections_and_client() {
    let mut bench = Bench::new(&tcp(", policy=\"roundrobin\""));
    let mut turns: Vec<u8> = (0..6)
        .map(|_| {
            let session = bench.connect(ONE).expect("taken");
            bench.target(session)
        })
        .collect();
    turns.sort_unstable();
    assert_eq!(turns, [1, 1, 2, 2, 3, 3]);

    let mut bench = Bench::new(&tcp(", policy=\"leastOutstanding\""));
    let open: Vec<_> = (0..6).map(|_| bench.connect(ONE).expect("taken")).collect();
    let on = |bench: &Bench, n| open.iter().filter(|p| bench.target(**p) == n).count();
    assert_eq!([1, 2, 3].map(|n| on(&bench, n)), [2, 2, 2]);
    let leaves = *open.iter().find(|p| bench.target(**p) == 2).expect("one");
    bench.close(leaves, RelayCloseReason::Client);
    let next = bench.connect(TWO).expect("taken");
    assert_eq!(bench.target(next), 2, "it has one connection fewer");
}

#[test]
fn connections_and_flows_of_a_client_reach_the_same_server() {
    let one = tcp(", policy=\"sourceHash\"");
    let other =
        udp(", policy=\"sourceHash\"").replace("setACL({\"192.0.2.0/24\"})", "").replace(":25\"", ":53\"");
    let mut bench = Bench::new(&(one + &other));
    let mut seen = [0; 4];
    for n in 1..=60 {
        let from = format!("192.0.2.{n}:4000");
        let connection = bench.connect(&from).expect("taken");
        let flow = bench.send(&from, 1).expect("taken");
        assert_eq!(bench.target(connection), bench.target(flow), "client {n}");
        seen[usize::from(bench.target(flow))] += 1;
    }
    assert!(seen[1..].iter().all(|n| *n > 5), "all three are used: {seen:?}");
}

#[test]
fn limits_are_enforced_and_counted() {
    let mut bench = Bench::new(&tcp(", maxConnections=3, maxConnectionsPerClient=2"));
    let first = bench.connect(ONE).expect("taken");
    bench.connect("192.0.2.1:4999").expect("another port of the same client");
    assert_eq!(bench.connect(ONE), None);
    assert_eq!(bench.ended(RelayCloseReason::PerClient), 1);
    bench.connect(TWO).expect("taken");
    assert_eq!(bench.connect(TWO), None);
    assert_eq!(bench.ended(RelayCloseReason::Connections), 1);
    assert_eq!(bench.connect("198.51.100.1:1"), None);
    assert_eq!(bench.ended(RelayCloseReason::Acl), 1);
    bench.close(first, RelayCloseReason::Target);
    bench.connect(ONE).expect("there is room again");
    assert_eq!(bench.live_state.shards()[0].relays.opened.get(), 4);
}

#[test]
fn idle_connections_end_and_active_ones_stay() {
    let mut bench = Bench::new(&tcp(", idleTimeout=2"));
    let (idle, used) = (bench.connect(ONE).expect("taken"), bench.connect(TWO).expect("taken"));
    for session in [idle, used] {
        bench.open(session);
    }
    for _ in 0..8 {
        bench.pass(500);
        bench.relay(used, Direction::Back, 1);
    }
    assert_eq!(bench.closed, [(idle, RelayCloseReason::Idle)]);
    bench.pass(3_000);
    assert_eq!(bench.closed.len(), 2);
}

#[test]
fn a_reset_after_an_orderly_end_is_that_end() {
    // Who closes first, and who resets its side then.
    for (first, client_resets, want) in [
        (Some(RelayCloseReason::Target), true, RelayCloseReason::Target),
        (Some(RelayCloseReason::Target), false, RelayCloseReason::Target),
        (Some(RelayCloseReason::Client), true, RelayCloseReason::Client),
        // The client still waits for what it asked.
        (Some(RelayCloseReason::Client), false, RelayCloseReason::TargetBroken),
        (None, true, RelayCloseReason::ClientBroken),
        (None, false, RelayCloseReason::TargetBroken),
    ] {
        let mut bench = Bench::new(&tcp(""));
        let session = bench.connect("192.0.2.1:1000").expect("accepted");
        bench.open(session);
        let (client, target) = (bench.clients[&session], bench.targets[&session]);
        match first {
            Some(RelayCloseReason::Target) => bench.sim.end(target),
            Some(_) => bench.sim.end(client),
            None => {}
        }
        bench.run();
        bench.sim.reset(if client_resets { client } else { target });
        bench.run();
        assert!(bench.closed.contains(&(session, want)), "{first:?} {client_resets}: {:?}", bench.closed);
    }
}

#[test]
fn a_reload_keeps_connections() {
    let mut bench = Bench::new(&tcp(""));
    let (one, two) = (bench.connect(ONE).expect("taken"), bench.connect(TWO).expect("taken"));
    bench.open(one);
    let first = bench.slot(1);
    bench.reload(&tcp("").replace("\"127.0.1.1:25\", ", ""));
    bench.pass(2_000);
    assert_eq!(bench.shard().retired().count(), 0, "its connections hold the slot");
    let RelayInterest::Serve(attempt) = bench.shard().relay_interest(one) else { panic!("it goes on") };
    assert_eq!(attempt.target, first);
    bench.fail(two, ConnectFailure::Refused);
    assert_eq!(bench.target(two), 2, "a new try goes by the new configuration");
    bench.close(one, RelayCloseReason::Client);
    assert_eq!(bench.shard().retired().collect::<Vec<_>>(), [first]);
    bench.pass(300);
    assert_eq!(bench.shard().retired().count(), 0, "it is detached");
    // Its listener is removed, too.
    bench.open(two);
    bench.reload("newServer{address=\"127.0.1.9\"}\n");
    bench.pass(5_000);
    assert!(matches!(bench.shard().relay_interest(two), RelayInterest::Serve(_)));
    bench.close(two, RelayCloseReason::Client);
    assert_eq!(bench.shard().sessions_open(), 0);
}

#[test]
fn connections_of_a_reopened_listener_are_served() {
    let mut bench = Bench::new(&tcp(""));
    let old = bench.listener(0);
    let waits = bench.connect(ONE).expect("taken");
    bench.reopen(&tcp(", maxConnections=2").replace("127.0.1.2", "127.0.1.4"));
    assert_ne!(bench.listener(0).slot, old.slot);
    bench.set(4, State::Up);
    bench.pass(1);
    let session = bench.connect_by(&old, TWO).expect("taken by the old one");
    assert_eq!(bench.connect_by(&old, TWO), None, "the new configuration holds");
    for session in [waits, session] {
        assert_eq!(bench.target(session), 1);
        bench.fail(session, ConnectFailure::Refused);
        assert_eq!(bench.target(session), 4, "its targets are those of the new one");
        bench.close(session, RelayCloseReason::Client);
    }
    // Without a new listener, the session cannot be served.
    bench.reload("newServer{address=\"127.0.1.9\"}\n");
    assert_eq!(bench.connect_by(&old, TWO), None);
    assert_eq!(bench.ended(RelayCloseReason::Closing), 1);
}

#[test]
fn connections_of_a_listener_that_a_reload_changes_are_those_of_its_successor() {
    for changed in [
        tcp(", interface=\"lo\""),
        tcp("").replace("127.0.0.1:2525", "0.0.0.0:2525"),
        tcp(", interface=\"lo\"").replace("127.0.0.1:2525", "0.0.0.0:2525"),
    ] {
        let mut bench = Bench::new(&tcp(""));
        let old = bench.listener(0);
        bench.reload(&changed.replace("127.0.1.1", "127.0.1.4"));
        assert_ne!(bench.listener(0).slot, old.slot, "{changed}");
        bench.set(4, State::Up);
        bench.pass(1);
        let session = bench.connect_by(&old, ONE).expect("taken by the old one");
        assert_eq!(bench.target(session), 4, "{changed}");
        assert_eq!(bench.ended(RelayCloseReason::Closing), 0, "{changed}");
    }
    // Another port or kind is no successor.
    for changed in [tcp("").replace("127.0.0.1:2525", "127.0.0.1:2526"), udp("")] {
        let mut bench = Bench::new(&tcp(""));
        let old = bench.listener(0);
        bench.reload(&changed.replace("127.0.1.1", "127.0.1.4"));
        assert_eq!(bench.connect_by(&old, ONE), None, "{changed}");
        assert_eq!(bench.ended(RelayCloseReason::Closing), 1, "{changed}");
    }
}

#[test]
fn datagrams_of_a_reopened_listener_are_accepted() {
    let mut bench = Bench::new(&udp(""));
    let old = bench.listener(0);
    bench.reopen(&udp(""));
    assert_ne!(bench.listener(0).slot, old.slot);
    let flow = bench.send_by(&old, ONE).expect("taken");
    assert_eq!(bench.target(flow), 1);
    assert_ne!(bench.send(ONE, 0), Some(flow), "by the new one it is another flow");
    assert_eq!(bench.ended(RelayCloseReason::Closing), 0);
}

#[test]
fn a_network_counts_as_one_client_where_the_masks_say_so() {
    let text = tcp(", maxConnectionsPerClient=1, acl=\"2001:db8::/32\"");
    let mut bench = Bench::new(&("setTCPConnectionsMaskV6(64)\n".to_owned() + &text));
    bench.connect("[2001:db8::1]:1").expect("taken");
    assert_eq!(bench.connect("[2001:db8::2]:1"), None, "the same network");
    bench.connect("[2001:db8:0:1::1]:1").expect("another network");
    assert_eq!(bench.ended(RelayCloseReason::PerClient), 1);
}

#[test]
fn relay_sockets_have_keepalive_and_inline_urgent_data() {
    let snapshot = configured(&tcp(""), &Slots::default(), 1).snapshot;
    let any = "127.0.0.1:0".parse().expect("an address");
    let listener = Listener { address: any, ..Listener::clone(&snapshot.listeners[0]) };
    let position = ShardPosition { shard: 0, shards: 1, cpu: None };
    let sockets = socket::create(&listener).expect("made");
    socket::bind(&sockets, &listener, true).expect("bound");
    socket::listen(&sockets, &listener, Steer::Flow, position).expect("a listener");
    let open = sockets.tcp.expect("for connections");
    let at = open.local_addr().expect("told").as_socket().expect("an IP address");
    let _client = std::net::TcpStream::connect(at).expect("connected");
    open.set_nonblocking(false).expect("set");
    let (accepted, who) = socket::accept(&open).expect("accepted");
    let some = snapshot.backends.iter().flatten().next().expect("a target");
    let target = Backend { address: at, ..Backend::clone(some) };
    let connected = socket::connect_target(&target, who, false, false).expect("begun");
    for socket in [accepted, connected] {
        assert!(socket.keepalive().expect("told"));
        assert!(socket.out_of_band_inline().expect("told"));
    }
}

#[test]
fn a_flow_is_identified_by_client_address_and_port() {
    let mut bench = Bench::new(&udp(", policy=\"roundrobin\""));
    let one = bench.send(ONE, 0).expect("taken");
    assert_eq!(bench.send(ONE, 0), Some(one));
    let other = bench.send("192.0.2.1:4999", 0).expect("taken");
    assert_ne!((one, bench.target(one)), (other, bench.target(other)));
    // A refusal moves the flow, and its next datagram goes to the new target.
    let before = bench.target(one);
    bench.fail(one, ConnectFailure::Refused);
    assert_eq!(bench.send(ONE, 0), Some(one));
    assert_ne!(bench.target(one), before);
}

#[test]
fn a_flow_leaves_a_target_that_is_known_to_be_down() {
    let mut bench = Bench::new(&udp(", log=true"));
    let flow = bench.send(ONE, 0).expect("taken");
    assert_eq!(bench.target(flow), 1);
    bench.set(1, State::Down);
    bench.pass(1);
    assert_eq!(bench.send(ONE, 0), Some(flow));
    assert_eq!(bench.target(flow), 2);
    bench.set(1, State::Up);
    bench.pass(1);
    assert_eq!(bench.send(ONE, 0), Some(flow));
    assert_eq!(bench.target(flow), 2, "it stays where it is served");
    bench.relay(flow, Direction::Back, 5);
    bench.set(2, State::Down);
    bench.pass(1);
    bench.send(ONE, 0).expect("taken");
    assert_eq!(bench.target(flow), 1, "after an answer all may be asked again");
}

#[test]
fn a_flow_without_answers_goes_back_to_a_target_that_is_up_again() {
    let mut bench = Bench::new(&udp("").replace(", \"127.0.1.3:25\"", ""));
    let flow = bench.send(ONE, 0).expect("taken");
    for (dead, alive) in [(1, 2), (2, 1), (1, 2), (2, 1)] {
        bench.set(alive, State::Up);
        bench.set(dead, State::Down);
        bench.pass(1);
        assert_eq!(bench.send(ONE, 0), Some(flow));
        assert_eq!(bench.target(flow), alive, "{dead} is down");
    }
}

#[test]
fn a_flow_without_a_target_is_replaced_by_the_next_datagram() {
    let mut bench = Bench::new(&udp(""));
    let flow = bench.send(ONE, 0).expect("taken");
    for _ in 0..3 {
        bench.fail(flow, ConnectFailure::Refused);
    }
    assert_eq!(bench.closed, [(flow, RelayCloseReason::NoTarget)]);
    let next = bench.send(ONE, 0).expect("a new one");
    assert_eq!(bench.target(next), 1);
}

#[test]
fn unanswered_flows_are_evicted_first() {
    let mut bench = Bench::new(&udp(", maxFlows=4"));
    let served = bench.send(ONE, 0).expect("taken");
    bench.relay(served, Direction::Back, 100);
    for n in 10..60 {
        bench.pass(1);
        bench.send(&format!("192.0.2.{n}:1"), 0).expect("another one makes room");
        assert!(bench.shard().sessions_open() <= 4, "the table is bounded");
    }
    assert_eq!(bench.ended(RelayCloseReason::EvictedAtLimit), 47);
    assert_eq!(bench.send(ONE, 0), Some(served), "who is served stays");
}

/// Divides the descriptors: two per relayed connection, one per flow.
fn divide(bench: &Bench, relayed: u32, flows: u32) {
    let mut pools = [0; Use::ALL.len()];
    (pools[Use::Relayed.index()], pools[Use::Flows.index()]) = (relayed, flows);
    bench.live_state.descriptors().divide(&Division { limit: 1_000, reserve: 0, pools });
}

#[test]
fn spoofed_addresses_do_not_evict_active_flows() {
    for (max_flows, pool) in [(", maxFlows=64", 1_000), ("", 64)] {
        let mut bench = Bench::new(&udp(max_flows));
        divide(&bench, 0, pool);
        let served: Vec<_> = (0..56).map(|n| format!("192.0.2.{n}:1")).collect();
        for from in &served {
            let flow = bench.send(from, 0).expect("taken");
            bench.relay(flow, Direction::Out, 10);
            bench.relay(flow, Direction::Back, 10);
            bench.relay(flow, Direction::Out, 10);
        }
        bench.pass(1_000);
        for n in 0..60_000_u32 {
            let from = format!("192.0.2.{}:{}", 100 + n % 100, 2 + n / 100);
            let flow = bench.send(&from, 0).expect("another one makes room");
            if n % 2 == 0 {
                // The target answers every client.
                bench.relay(flow, Direction::Back, 10);
            }
            assert!(bench.shard().sessions_open() <= 64);
        }
        let opened = bench.live_state.shards()[0].relays.opened.get();
        let left = served.iter().filter(|from| bench.send(from, 0).is_some()).count();
        assert_eq!(left, 56);
        let fresh = bench.live_state.shards()[0].relays.opened.get() - opened;
        // An eighth of the flows without an answer, and as many with one answer.
        assert!(fresh <= 10, "{fresh} of 56 were pushed out {max_flows}");
    }
}

#[test]
fn the_relay_with_the_most_flows_is_evicted_from() {
    let two = udp("") + "addUDPForward{listen=\"127.0.0.1:2626\", to=\"127.0.1.1:25\"}\n";
    let mut bench = Bench::new(&two);
    divide(&bench, 0, 20);
    let small: Vec<_> = (0..5).map(|n| bench.send(&format!("192.0.2.{n}:1"), 1).expect("taken")).collect();
    for n in 0..100 {
        bench.send(&format!("192.0.2.7:{}", 1 + n), 0).expect("another one makes room");
    }
    assert_eq!(bench.ended(RelayCloseReason::Evicted), 85);
    assert!(bench.closed.iter().all(|(flow, _)| !small.contains(flow)), "flows of the other relay stay");
}

#[test]
fn idle_connections_are_evicted_and_active_ones_stay() {
    let mut bench = Bench::new(&tcp(""));
    divide(&bench, 8, 0);
    let mut all = Vec::new();
    for n in 1..=4 {
        let session = bench.connect(&format!("192.0.2.{n}:1")).expect("taken");
        bench.open(session);
        bench.relay(session, Direction::Back, 1);
        all.push(session);
    }
    assert_eq!(bench.connect("192.0.2.9:1"), None, "all were used a moment ago");
    assert_eq!((bench.ended(RelayCloseReason::Local), bench.ended(RelayCloseReason::Evicted)), (1, 0));
    bench.pass(500);
    bench.relay(all[0], Direction::Out, 1);
    bench.pass(500);
    // The refusal above requested a descriptor, and this shard has evicted a session since.
    bench.connect("192.0.2.9:1").expect("taken");
    bench.connect("192.0.2.9:2").expect("the second has been idle for longest");
    assert!(bench.closed.contains(&(all[1], RelayCloseReason::Evicted)), "{:?}", bench.closed);
    assert!(!bench.closed.iter().any(|(session, _)| *session == all[0]));
    assert!(bench.live_state.descriptors().used(Use::Relayed) <= 8);
}

#[test]
fn descriptor_exhaustion_is_not_a_target_failure() {
    let mut bench = Bench::new(&tcp(""));
    let session = bench.connect(ONE).expect("taken");
    for _ in 0..3 {
        bench.fail(session, ConnectFailure::Local);
    }
    assert_eq!(bench.closed, [(session, RelayCloseReason::Local)]);
    for target in 0..3 {
        let stats = bench.live_state.shards()[0].backend(BackendSlot(target));
        assert_eq!((stats.send_errors.get(), stats.timeouts.get()), (0, 0));
    }
}

/// The cost of a new flow in a full table must not depend on the number of connections.
#[test]
fn eviction_examines_only_flows() {
    const FLOWS: u32 = 20;
    let many = tcp(", maxConnections=0");
    let some = udp(&format!(", maxFlows={FLOWS}")).replace("setACL({\"192.0.2.0/24\"})", "");
    let mut bench = Bench::new(&(many + &some));
    let [tcp, udp] = [bench.listener(0), bench.listener(1)];
    let mut flows = 0..;
    let mut cost = |bench: &mut Bench| {
        let shard = bench.sim.shard_mut(0);
        let mut round = || {
            let begun = std::time::Instant::now();
            for n in flows.by_ref().take(500) {
                let from = Client { listener: udp.slot, ..client(&format!("192.0.2.{}:{n}", n % 250)) };
                shard.on_datagram(from, &udp).expect("another one makes room");
                while let Some(PendingWork::Relay(session)) = shard.next_pending() {
                    if let RelayInterest::Close(why) = shard.relay_interest(session) {
                        shard.on_session_closed(session, why);
                    }
                }
            }
            begun.elapsed()
        };
        (0..9).map(|_| round()).min().expect("rounds")
    };
    let alone = cost(&mut bench);
    for n in 0..50_000_u16 {
        let from = endpoint(&format!("192.0.2.{}:{n}", n % 250));
        bench.sim.shard_mut(0).on_relay_accept(from, &tcp, LocalSlot::LISTENER).expect("taken");
    }
    let beside = cost(&mut bench);
    assert!(beside < alone * 8, "{beside:?} with connections beside, {alone:?} without");
    bench.shard().check_invariants();
    assert_eq!(bench.shard().sessions_of(udp.slot), FLOWS);
}

#[test]
fn flows_of_a_closed_listener_end_despite_target_traffic() {
    let mut bench = Bench::new(&udp(", idleTimeout=60"));
    let flow = bench.send(ONE, 0).expect("taken");
    bench.pass(3_000);
    assert!(bench.closed.is_empty());
    assert_eq!(bench.live_state.connection_limits().by_listener(ListenerSlot(0)), 1);
    bench.sim.unlisten(ListenerSlot(0));
    bench.run();
    assert_eq!(bench.send(TWO, 0), None, "no new ones");
    bench.pass(500);
    assert!(bench.closed.is_empty(), "last words");
    for _ in 0..15 {
        if bench.closed.is_empty() {
            bench.relay(flow, Direction::Back, 3);
        }
        bench.pass(100);
    }
    assert_eq!(bench.closed, [(flow, RelayCloseReason::Closing)]);
    // Only then may another listener use its slot.
    assert_eq!(bench.live_state.connection_limits().by_listener(ListenerSlot(0)), 0);
}

// ---- simulation ----

/// Runs `trial` for every seed, or for the seed in `SIM_SEED`.
fn seeds(count: u64, trial: impl Fn(u64)) {
    let range = match std::env::var("SIM_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("SIM_SEED is a number");
            seed..=seed
        }
        Err(_) => 1..=count,
    };
    for seed in range {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| trial(seed))) {
            eprintln!("replay with SIM_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

/// The model of a connection: the targets that it has tried.
#[derive(Debug, Default)]
struct Known {
    tried: Vec<u8>,
    open: bool,
}

const SIMULATED: &str = "setACL({\"192.0.2.0/24\"})\n\
    addTCPForward{listen=\"127.0.0.1:2525\", to={\"127.0.1.1:25\", \"127.0.1.2:25\", \"127.0.1.3:25\"}, \
    connectTimeout=1, idleTimeout=4,GREETING maxConnections=40, maxConnectionsPerClient=9, policy=\"POLICY\"}\n\
    addUDPForward{listen=\"127.0.0.1:5353\", to={\"127.0.1.1:53\", \"127.0.1.2:53\"}, maxFlows=12, idleTimeout=2}\n";

/// Runs random events in random order. The counters stay consistent, a connection is closed for
/// lack of a target only after each target was tried once, and nothing is left at the end.
#[test]
fn counters_stay_consistent_under_any_order_of_events() {
    let policies = ["ordered", "roundrobin", "leastOutstanding", "sourceHash"];
    seeds(40, |seed| {
        let greeting = if seed % 3 == 0 { " greetingTimeoutMs=500," } else { "" };
        let text = SIMULATED.replace("POLICY", policies[seed as usize % policies.len()]);
        let text = text.replace("GREETING", greeting);
        let mut bench = Bench::new(&text);
        let mut rng = ShardRng::from_seed(seed);
        // Listeners of earlier configurations, which may still receive.
        let mut tcp_listeners = vec![bench.listener(0)];
        let mut seen: BTreeMap<SessionSlot, Known> = BTreeMap::new();
        let mut refused = 0;
        for _ in 0..1_500 {
            let known: Vec<SessionSlot> = seen.keys().copied().collect();
            let some = (!known.is_empty()).then(|| known[rng.below(known.len() as u32) as usize]);
            let from = format!("192.0.2.{}:{}", 1 + rng.below(8), 1_024 + rng.below(50));
            match (rng.below(11), some) {
                (0..=2, _) => match bench
                    .connect_by(&tcp_listeners[rng.below(tcp_listeners.len() as u32) as usize], &from)
                {
                    Some(session) => {
                        assert!(seen.insert(session, Known::default()).is_none(), "a slot for each");
                    }
                    None => refused += 1,
                },
                (3, _) => {
                    // Flows are internal to the shard: their sum is checked at the end.
                    let _ = bench.send(&from, 1);
                }
                (4, Some(session)) if !seen[&session].open => {
                    bench.fail(session, ConnectFailure::Refused);
                }
                (5, Some(session)) if !seen[&session].open => {
                    bench.open(session);
                    seen.get_mut(&session).expect("known").open = true;
                }
                (6, Some(session)) => {
                    let is_back = rng.below(2) == 0 && seen[&session].open;
                    let way = if is_back { Direction::Back } else { Direction::Out };
                    bench.relay(session, way, rng.below(9_000) as usize);
                }
                (7, Some(session)) => bench.close(session, RelayCloseReason::ClientBroken),
                (8, _) => {
                    let state = if rng.below(3) == 0 { State::Down } else { State::Up };
                    let slots: Vec<_> = bench.snapshot.backends.iter().flatten().map(|b| b.slot).collect();
                    bench.live_state.set_state(slots[rng.below(slots.len() as u32) as usize], state);
                }
                (9, _) if rng.below(8) == 0 => {
                    let closes = bench.listener(1).slot;
                    bench.reopen(&text);
                    bench.sim.unlisten(closes);
                    bench.run();
                    tcp_listeners.push(bench.listener(0));
                }
                _ => bench.pass(u64::from(rng.below(400))),
            }
            for (session, why) in std::mem::take(&mut bench.closed) {
                let Some(over) = seen.remove(&session) else { continue };
                if why == RelayCloseReason::NoTarget {
                    let mut tried = over.tried;
                    tried.sort_unstable();
                    assert_eq!(tried, [1, 2, 3], "each was tried once before the client was closed");
                }
            }
            for (session, known) in &mut seen {
                let target = bench.target(*session);
                if known.tried.last() != Some(&target) {
                    assert!(!known.tried.contains(&target), "no target twice");
                    known.tried.push(target);
                    known.open = false;
                }
            }
        }
        let left: Vec<_> = seen.keys().copied().collect();
        left.into_iter().for_each(|p| bench.close(p, RelayCloseReason::Client));
        bench.pass(5_000);
        assert_eq!(bench.shard().sessions_open(), 0, "flows are idle by then");
        let outstanding =
            bench.snapshot.backends.iter().flatten().map(|b| bench.live_state.outstanding(b.slot));
        assert_eq!(outstanding.sum::<u32>(), 0, "nothing is left on any target");
        let stats = &bench.live_state.shards()[0].relays;
        let ends: u64 = RelayCloseReason::ALL.iter().map(|why| stats.ended(*why).get()).sum();
        let taken_away =
            stats.ended(RelayCloseReason::Connections).get() + stats.ended(RelayCloseReason::PerClient).get();
        assert_eq!(ends, stats.opened.get() + taken_away, "whatever was opened has ended, by name");
        assert!(refused <= taken_away && stats.opened.get() > 100, "there was something to see");
    });
}
