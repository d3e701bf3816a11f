//! Tests eviction: which connections are closed for a new one when descriptors are short.

use dnslob::stats::descriptors::{Division, Use};

use super::*;

/// Returns a harness with descriptors for `clients` client and `servers` backend connections.
fn harness(clients: u32, servers: u32) -> Harness {
    harness_of(TestConfig::new(1), clients, servers)
}

/// Returns the same with `backends` backends that are queried over connections only, the first one
/// first.
fn only_connections(backends: usize, servers: u32) -> Harness {
    let mut config = TestConfig::new(backends);
    config.policy = dnslob::model::policy::Policy::new(dnslob::model::policy::Kind::FirstAvailable);
    for backend in config.backends.iter_mut().flatten() {
        backend.order = 1 + i32::from(backend.slot.0);
        backend.connections.only = true;
    }
    harness_of(config, 10, servers)
}

fn harness_of(mut config: TestConfig, clients: u32, servers: u32) -> Harness {
    // Excludes the shorter idle timeout near the connection limit.
    config.globals.client_connections.overload_percent = 0;
    config.globals.client_connections.receive_timeout = TickDelta::from_ms(60_000);
    let harness = Harness::new(&config, 40);
    divide(&harness, clients, servers);
    harness
}

fn divide(harness: &Harness, clients: u32, servers: u32) {
    let mut pools = [0; Use::ALL.len()];
    (pools[Use::Clients.index()], pools[Use::Servers.index()]) = (clients, servers);
    harness.live_state.descriptors().divide(&Division { limit: 1_000, reserve: 0, pools });
}

/// Opens a connection. The evicted connection is closed first.
fn connect(harness: &mut Harness) -> Option<Stream> {
    let stream = harness.connect(CLIENT);
    assert!(harness.shard().clients_open() <= harness.live_state.descriptors().max(Use::Clients));
    harness.shard().check_invariants();
    stream
}

fn ended(harness: &Harness, why: ClientCloseReason) -> u64 {
    harness.live_state.shards()[0].clients.ended(why).get()
}

#[test]
fn connections_without_a_query_are_evicted_first_oldest_first() {
    let mut harness = harness(10, 10);
    let all: Vec<_> = (0..10).map(|_| connect(&mut harness).expect("room")).collect();
    harness.ask(all[0], 1, 1);
    harness.settle();
    harness.pass(2_000);
    for (n, gone) in all[1..].iter().enumerate().take(8) {
        connect(&mut harness).expect("another one is evicted");
        assert_eq!(harness.ended.get(gone), Some(&ClientCloseReason::Evicted));
        assert_eq!(ended(&harness, ClientCloseReason::Evicted), n as u64 + 1);
    }
    assert!(!harness.got(all[0]).is_empty(), "who has asked stays");
    harness.ask(all[0], 2, 2);
    harness.settle();
    assert_eq!(harness.got(all[0]).len(), 2, "and is answered");
}

#[test]
fn active_connections_are_not_evicted_and_the_new_one_is_refused() {
    let mut harness = harness(4, 10);
    harness.behaviours = vec![Behaviour::NeverAnswers];
    let all: Vec<_> = (0..4).map(|_| connect(&mut harness).expect("room")).collect();
    all.iter().enumerate().for_each(|(n, stream)| harness.ask(*stream, n as u16, n as u32));
    let next = harness.sim.connect(0, ListenerSlot(0), client(CLIENT).peer);
    harness.pass(100);
    assert_eq!(harness.sim.role(next), Role::Unaccepted, "another shard may have an idle one");
    harness.pass(500);
    assert_eq!(
        (ended(&harness, ClientCloseReason::Descriptors), ended(&harness, ClientCloseReason::Evicted)),
        (1, 0)
    );
    harness.behaviours = vec![Behaviour::Answers];
    harness.settle();
    assert_eq!(connect(&mut harness), None, "answered a moment ago");
    harness.pass(1_000);
    connect(&mut harness).expect("the first has been idle for a second");
    assert_eq!(ended(&harness, ClientCloseReason::Descriptors), 2);
    let evicted = ended(&harness, ClientCloseReason::Evicted);
    assert!(evicted >= 1, "for it, or for those that were refused");
    assert_eq!(harness.live_state.descriptors().evicted_and_refused(), (evicted, 2));
}

#[test]
fn room_is_asked_for_only_while_a_connection_waits() {
    let mut harness = harness(4, 10);
    harness.behaviours = vec![Behaviour::NeverAnswers];
    let all: Vec<_> = (0..4).map(|_| connect(&mut harness).expect("room")).collect();
    all.iter().enumerate().for_each(|(n, stream)| harness.ask(*stream, n as u16, n as u32));
    let wanted = |harness: &Harness| harness.live_state.descriptors().excess(Use::Clients, harness.sim.now());
    for _ in 0..60 {
        harness.pass(10);
        assert_eq!(wanted(&harness), 0, "nobody waits");
    }
    let next = harness.sim.connect(0, ListenerSlot(0), client(CLIENT).peer);
    harness.pass(400);
    assert_eq!(wanted(&harness), 1);
    assert_eq!(
        (harness.sim.role(next), harness.sim.closed(next)),
        (Role::Unaccepted, None),
        "it has its time"
    );
    harness.leave(all[0]);
    assert_ne!(harness.sim.role(next), Role::Unaccepted);
    // The next shortage is another one.
    harness.ask(next, 9, 9);
    harness.pass(10_000);
    let last = harness.sim.connect(0, ListenerSlot(0), client(CLIENT).peer);
    harness.pass(400);
    assert_eq!((harness.sim.role(last), harness.sim.closed(last)), (Role::Unaccepted, None));
    harness.shard().check_invariants();
}

#[test]
fn a_shard_sleeps_while_it_accepts_no_connection() {
    let mut harness = harness(2, 10);
    let slot = ListenerSlot(0);
    let before = harness.sim.turns(0);
    let all: Vec<Stream> = (0..10).map(|_| harness.sim.connect(0, slot, client(CLIENT).peer)).collect();
    for at in 1..=10 {
        harness.pass(20);
        let accepted = all.iter().filter(|s| harness.sim.role(**s) != Role::Unaccepted).count();
        // The first two are accepted at once; each other one waits for an older one's query.
        assert!(accepted <= 2 + 2 * at, "{accepted} after {at} times 20 ms");
    }
    assert!(all.iter().all(|s| harness.sim.role(*s) != Role::Unaccepted));
    let turns = harness.sim.turns(0) - before;
    assert!(turns < 100, "{turns} turns in 200 ms");
    harness.shard().check_invariants();
}

#[test]
fn a_closed_connection_lets_the_next_one_be_accepted_at_once() {
    let mut harness = harness(2, 10);
    let first = harness.connect(CLIENT).expect("room");
    harness.connect(CLIENT).expect("room");
    let next = harness.sim.connect(0, ListenerSlot(0), client(CLIENT).peer);
    harness.pass(1);
    assert_eq!(harness.sim.role(next), Role::Unaccepted);
    harness.leave(first);
    assert_ne!(harness.sim.role(next), Role::Unaccepted);
    assert_eq!(ended(&harness, ClientCloseReason::Evicted), 0);
}

#[test]
fn a_shrunken_pool_closes_only_idle_connections() {
    let mut harness = harness(10, 10);
    let all: Vec<_> = (0..10).map(|_| connect(&mut harness).expect("room")).collect();
    harness.behaviours = vec![Behaviour::NeverAnswers];
    (8..10).for_each(|n| harness.ask(all[n], n as u16, n as u32));
    divide(&harness, 1, 10);
    harness.pass(100);
    assert_eq!((harness.shard().clients_open(), ended(&harness, ClientCloseReason::Evicted)), (2, 8));
    assert_eq!(harness.live_state.descriptors().used(Use::Clients), 2, "all is given back");
    harness.shard().check_invariants();
}

#[test]
fn an_idle_connection_is_closed_for_another_shard() {
    let mut harness = harness(10, 10);
    for _ in 0..10 {
        connect(&mut harness).expect("room");
    }
    harness.live_state.descriptors().want(Use::Clients, harness.sim.now());
    harness.live_state.descriptors().want(Use::Clients, harness.sim.now());
    harness.pass(100);
    assert_eq!((harness.shard().clients_open(), ended(&harness, ClientCloseReason::Evicted)), (8, 2));
    assert_eq!(harness.live_state.descriptors().excess(Use::Clients, harness.sim.now()), 0);
}

#[test]
fn a_connection_waits_for_one_of_another_shard_to_end() {
    let mut harness = harness(10, 10);
    let descriptors = Arc::clone(harness.live_state.descriptors());
    let (one, others) = (descriptors.take(Use::Clients, 1), descriptors.take(Use::Clients, 9));
    let next = harness.sim.connect(0, ListenerSlot(0), client(CLIENT).peer);
    harness.pass(100);
    assert_eq!(harness.sim.role(next), Role::Unaccepted);
    assert_eq!(
        descriptors.excess(Use::Clients, harness.sim.now()),
        1,
        "one for one, however often it is asked for"
    );
    drop(one);
    descriptors.met(Use::Clients);
    harness.pass(20);
    assert_ne!(harness.sim.role(next), Role::Unaccepted);
    assert_eq!(ended(&harness, ClientCloseReason::Descriptors), 0);
    drop(others);
}

#[test]
fn a_connection_is_not_given_up_before_its_query_is_read() {
    let mut harness = harness(100, 10);
    for opened in 1..=60 {
        connect(&mut harness).expect("room");
        let now = harness.sim.now();
        (0..64).for_each(|_| harness.live_state.descriptors().want(Use::Clients, now));
        harness.pass(5);
        let open = harness.shard().clients_open();
        assert!(open >= opened.min(3), "{open} of {opened} are open, three are younger than 20 ms");
    }
    assert!(ended(&harness, ClientCloseReason::Evicted) > 0, "older ones are given up");
}

#[test]
fn without_a_descriptor_a_query_is_dropped_without_a_server_failure() {
    let mut harness = only_connections(1, 0);
    let stream = connect(&mut harness).expect("room");
    harness.ask(stream, 1, 1);
    harness.settle();
    let stats = &harness.live_state.shards()[0];
    assert_eq!(stats.dropped(DropReason::Descriptors).get(), 1);
    assert_eq!(stats.backend(BackendSlot(0)).timeouts.get(), 0);
    divide(&harness, 10, 1);
    harness.ask(stream, 2, 2);
    harness.settle();
    assert_eq!(harness.got(stream).len(), 1, "the next one finds it as it was");
}

#[test]
fn without_a_descriptor_a_query_goes_by_a_datagram() {
    let mut harness = harness(10, 0);
    let stream = connect(&mut harness).expect("room");
    harness.ask(stream, 1, 1);
    let Some(Seen::Query { port, bytes, .. }) = harness.datagrams.pop_front() else { panic!("no datagram") };
    harness.sim.answer(port, TickDelta(0), &answer(&bytes, &[], 0));
    harness.run();
    assert_eq!(harness.got(stream).len(), 1);
    // A zone transfer has to use a connection.
    harness.send(stream, &framed(&query(2, 2, 252)));
    assert_eq!((harness.datagrams.len(), harness.drops(DropReason::Descriptors)), (0, 1));
    harness.shard().check_invariants();
}

#[test]
fn without_a_descriptor_a_query_waits_behind_others() {
    let mut harness = only_connections(1, 1);
    let stream = connect(&mut harness).expect("room");
    (0..5).for_each(|n| harness.ask(stream, n, n.into()));
    let (link, query) = harness.received().remove(0);
    harness.deliver(link, &framed(&answer(&query, &[], 0)));
    // A server that closes early gets one query per connection, where there may be more than one.
    harness.break_off(link, BackendCloseReason::Closed);
    assert_eq!((harness.connections.len(), harness.received().len()), (1, 4));
    harness.settle();
    assert_eq!(harness.got(stream).len(), 5);
    harness.shard().check_invariants();
}

#[test]
fn an_idle_connection_makes_room_for_one_to_another_server() {
    let mut harness = only_connections(2, 1);
    let stream = connect(&mut harness).expect("room");
    harness.ask(stream, 1, 1);
    harness.settle();
    harness.live_state.set_state(BackendSlot(0), State::Down);
    harness.ask(stream, 2, 2);
    harness.settle();
    assert_eq!(harness.got(stream).len(), 2);
    assert_eq!(harness.live_state.descriptors().used(Use::Servers), 1);
    harness.shard().check_invariants();
}

#[test]
fn without_a_descriptor_a_query_goes_to_a_server_that_has_a_connection() {
    let mut harness = only_connections(2, 1);
    harness.behaviours = vec![Behaviour::NeverAnswers; 2];
    let stream = connect(&mut harness).expect("room");
    harness.live_state.set_state(BackendSlot(0), State::Down);
    harness.ask(stream, 1, 1);
    harness.live_state.set_state(BackendSlot(0), State::Up);
    harness.ask(stream, 2, 2);
    let servers: Vec<u16> =
        harness.received().iter().map(|(link, _)| harness.route(*link).backend.0).collect();
    assert_eq!((servers, harness.drops(DropReason::Descriptors)), (vec![1, 1], 0));
    harness.shard().check_invariants();
}

#[test]
fn queries_wait_for_a_connection_that_may_have_one_at_a_time() {
    let mut config = TestConfig::new(1);
    let backend = config.backends[0].as_mut().expect("a server");
    (backend.connections.only, backend.connections.in_flight) = (true, 1);
    let mut harness = harness_of(config, 10, 1);
    let stream = connect(&mut harness).expect("room");
    (0..5).for_each(|n| harness.ask(stream, n, n.into()));
    for _ in 0..5 {
        assert!(harness.live_state.descriptors().used(Use::Servers) <= 1);
        harness.settle();
        harness.shard().check_invariants();
        harness.pass(5);
    }
    harness.settle();
    assert_eq!((harness.got(stream).len(), harness.drops(DropReason::Descriptors)), (5, 0));
}

#[test]
fn a_query_waits_for_another_shards_descriptor() {
    let mut harness = only_connections(1, 1);
    let stream = connect(&mut harness).expect("room");
    let descriptors = Arc::clone(harness.live_state.descriptors());
    let of_another = descriptors.take(Use::Servers, 1).expect("the only one");
    harness.ask(stream, 1, 1);
    harness.ask(stream, 2, 2);
    harness.pass(100);
    assert!(harness.connections.is_empty());
    let now = harness.sim.now();
    assert_eq!((descriptors.excess(Use::Servers, now), descriptors.is_awaited(Use::Servers, now)), (1, true));
    drop(of_another);
    harness.pass(5);
    harness.settle();
    assert_eq!((harness.got(stream).len(), harness.drops(DropReason::Descriptors)), (2, 0));
    harness.shard().check_invariants();
}

#[test]
fn a_query_that_waits_in_vain_for_a_descriptor_is_dropped_without_a_server_failure() {
    let mut harness = only_connections(1, 1);
    let stream = connect(&mut harness).expect("room");
    let of_another = harness.live_state.descriptors().take(Use::Servers, 1).expect("the only one");
    harness.ask(stream, 1, 1);
    harness.pass(400);
    assert_eq!(harness.drops(DropReason::Descriptors), 0);
    harness.pass(200);
    assert_eq!(harness.drops(DropReason::Descriptors), 1);
    let stats = &harness.live_state.shards()[0];
    assert_eq!(stats.backend(BackendSlot(0)).timeouts.get(), 0);
    assert_eq!((harness.shard().outstanding(), harness.shard().backend_connections_open()), (0, 0));
    drop(of_another);
    harness.ask(stream, 2, 2);
    harness.settle();
    assert_eq!(harness.got(stream).len(), 1, "the next one finds it as it was");
    harness.shard().check_invariants();
}

#[test]
fn a_busy_connection_is_given_up_for_a_query_that_waits() {
    let mut harness = only_connections(1, 1);
    harness.behaviours = vec![Behaviour::NeverAnswers];
    let stream = connect(&mut harness).expect("room");
    harness.ask(stream, 1, 1);
    let (link, query) = harness.received().remove(0);
    let descriptors = Arc::clone(harness.live_state.descriptors());
    for _ in 0..30 {
        // As another shard does for a query of its own.
        descriptors.await_one(Use::Servers, harness.sim.now());
        harness.pass(10);
    }
    harness.ask(stream, 2, 2);
    assert_eq!(harness.received().len(), 1, "it gets no more queries");
    harness.deliver(link, &framed(&answer(&query, &[], 0)));
    let mut other = None;
    for _ in 0..10 {
        harness.pass(5);
        other = other.or_else(|| descriptors.take(Use::Servers, 1));
    }
    assert_eq!(harness.got(stream).len(), 1);
    let has_another = harness.connections.keys().any(|stream| *stream != link);
    assert!(other.is_some() || has_another, "one of the two has it");
    harness.shard().check_invariants();
}

/// The connection of a query ends while another shard takes its descriptor: the next attempt waits as
/// the first one does.
#[test]
fn a_query_whose_connection_ends_waits_for_a_descriptor() {
    for close in [BackendCloseReason::Closed, BackendCloseReason::Broken] {
        for (servers, served) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
            let mut harness = only_connections(servers, 1);
            let stream = connect(&mut harness).expect("room");
            (0..=served).for_each(|n| harness.ask(stream, n, n.into()));
            let received = harness.received();
            for (link, query) in &received[..served.into()] {
                harness.deliver(*link, &framed(&answer(query, &[], 0)));
            }
            let descriptors = Arc::clone(harness.live_state.descriptors());
            divide(&harness, 10, 2);
            let of_another = descriptors.take(Use::Servers, 1).expect("the second one");
            divide(&harness, 10, 1);
            harness.break_off(received[0].0, close);
            harness.pass(100);
            assert!(harness.connections.is_empty(), "it waits");
            assert_eq!(harness.drops(DropReason::Descriptors), 0);
            drop(of_another);
            harness.pass(5);
            harness.settle();
            let got = harness.got(stream).len();
            assert_eq!(
                (got, harness.drops(DropReason::Descriptors)),
                (usize::from(served) + 1, 0),
                "{close:?}"
            );
            harness.shard().check_invariants();
        }
    }
}

#[test]
fn a_query_whose_datagram_was_truncated_waits_for_a_descriptor() {
    let mut harness = tcp_to_udp(41);
    divide(&harness, 10, 1);
    let stream = connect(&mut harness).expect("room");
    let descriptors = Arc::clone(harness.live_state.descriptors());
    let of_another = descriptors.take(Use::Servers, 1).expect("the only one");
    harness.ask(stream, 1, 1);
    let Some(Seen::Query { port, bytes, .. }) = harness.datagrams.pop_front() else { panic!("no datagram") };
    let mut truncated = answer(&bytes, &[], 0);
    truncated[2] |= 2;
    harness.sim.answer(port, TickDelta(0), &truncated);
    harness.run();
    harness.pass(100);
    assert_eq!((harness.got(stream).len(), harness.drops(DropReason::Descriptors)), (0, 0));
    drop(of_another);
    harness.pass(5);
    harness.settle();
    assert_eq!(harness.got(stream).len(), 1);
    harness.shard().check_invariants();
}

#[test]
fn a_restarted_query_waits_for_a_descriptor() {
    let mut harness = harness_of(TestConfig::new(2), 10, 2);
    let text = "newServer{address='127.0.1.0:53', healthCheckMode='up', tcpOnly=true}\n\
                newServer{address='127.0.1.1:53', healthCheckMode='up', tcpOnly=true, pool='b'}\n\
                addResponseAction(RCodeRule(2), RestartResponseAction('b'))\n";
    harness.publish(Arc::new(configured(text, &Slots::default(), 2).snapshot));
    divide(&harness, 10, 2);
    let stream = connect(&mut harness).expect("room");
    harness.ask(stream, 1, 1);
    harness.ask(stream, 2, 2);
    let received = harness.received();
    let descriptors = Arc::clone(harness.live_state.descriptors());
    let of_another = descriptors.take(Use::Servers, 1).expect("the second one");
    let mut failed = answer(&received[0].1, &[], 0);
    failed[3] |= 2;
    harness.deliver(received[0].0, &framed(&failed));
    harness.pass(100);
    assert_eq!((harness.got(stream).len(), harness.drops(DropReason::Descriptors)), (0, 0));
    drop(of_another);
    harness.pass(5);
    harness.settle();
    assert_eq!((harness.got(stream).len(), harness.drops(DropReason::Descriptors)), (2, 0));
    harness.shard().check_invariants();
}
