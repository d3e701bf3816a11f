//! Tests fairness between connections: each has its turn, whatever the others send, and every call
//! does a bounded amount of work.

use dnslob::shard::messages::PendingWork;

use super::*;

/// As many queries as a client sends, or a server answers, in one read.
const MANY: u16 = 1_000;
/// More messages than one step, and one turn, process of a connection.
const STEP: usize = 100;
const TURN: usize = 400;
/// Longer than a slice: each has one step.
const STEP_COST: TickDelta = TickDelta::from_ms(1);

/// Returns a harness with one server and no limit of queries per connection.
fn harness() -> Harness {
    let mut config = TestConfig::new(1);
    let mut listener = (*config.listeners[0]).clone();
    listener.connection_options.in_flight = u16::MAX;
    config.listeners = vec![Arc::new(listener)];
    config.backends[0].as_mut().expect("one").connections.in_flight = u16::MAX;
    let mut harness = Harness::new(&config, 30);
    harness.sim.set_step_cost(STEP_COST);
    harness
}

/// Returns `count` queries whose numbers start at `first`.
fn queries(first: u32, count: u16) -> Vec<u8> {
    (0..count).flat_map(|n| framed(&query(n, first + u32::from(n), 1))).collect()
}

/// Returns the numbers of the queries that the server has received, in order.
fn numbers(harness: &Harness) -> Vec<u32> {
    harness.received().iter().map(|(_, query)| number(query)).collect()
}

#[test]
fn a_single_query_does_not_wait_for_a_thousand_queries_of_another_client() {
    let mut harness = harness();
    let (busy, quiet) = (harness.connect(CLIENT).expect("taken"), harness.connect(CLIENT).expect("taken"));
    harness.sim.send(busy, &queries(0, MANY));
    harness.sim.send(quiet, &queries(5_000, 1));
    harness.turn();
    harness.turn();
    assert_eq!((harness.sim.unread(busy), harness.sim.unread(quiet)), (0, 0), "both are read");
    assert!(!harness.shard().client_may_read(harness.slot(busy)), "its own queries come first");
    harness.pass(0);
    let received = numbers(&harness);
    let place = received.iter().position(|n| *n == 5_000).expect("asked");
    assert!(place < STEP, "behind {place} others");
    assert_eq!(received.len(), usize::from(MANY) + 1, "nothing is lost");
    assert!(harness.shard().client_may_read(harness.slot(busy)) && harness.shard().resumable() == 0);
    harness.settle();
    assert_eq!((harness.got(busy).len(), harness.got(quiet).len()), (usize::from(MANY), 1));
    harness.shard().check_invariants();
}

#[test]
fn clients_that_send_without_pause_are_served_in_turn() {
    let mut harness = harness();
    let clients: Vec<_> = (0..10).map(|_| harness.connect(CLIENT).expect("taken")).collect();
    for (at, stream) in clients.iter().enumerate() {
        harness.sim.send(*stream, &queries(at as u32 * 10_000, MANY));
    }
    harness.run();
    let received = numbers(&harness);
    assert_eq!(received.len(), 10 * usize::from(MANY));
    let mut served = [0_usize; 10];
    for number in received {
        served[number as usize / 10_000] += 1;
        let (least, most) = (served.iter().min().expect("ten"), served.iter().max().expect("ten"));
        assert!(most - least <= TURN, "{served:?}");
    }
    harness.settle();
    assert!(clients.iter().all(|stream| harness.got(*stream).len() == usize::from(MANY)));
    harness.shard().check_invariants();
}

#[test]
fn a_connection_at_its_limit_gets_no_turn() {
    let mut config = TestConfig::new(1);
    let mut listener = (*config.listeners[0]).clone();
    listener.connection_options.in_flight = 150;
    config.listeners = vec![Arc::new(listener)];
    let mut harness = Harness::new(&config, 31);
    let stream = harness.connect(CLIENT).expect("taken");
    harness.send(stream, &queries(0, MANY));
    harness.pass(0);
    assert_eq!(harness.received().len(), 150);
    assert_eq!(
        (harness.shard().resumable(), harness.shard().pending()),
        (0, 0),
        "nothing to do, and nothing is done"
    );
    assert!(harness.shard().next_deadline().is_some_and(|at| at > harness.sim.now()));
    for _ in 0..10 {
        harness.settle();
    }
    assert_eq!(harness.got(stream).len(), usize::from(MANY));
    harness.shard().check_invariants();
}

/// A backend connection, and the bytes its server sends over it.
type Reply = (Stream, Vec<u8>);

/// Returns a harness in which two clients have sent queries over one backend connection each: the
/// answers to the queries of the first client, and to the single query of the second.
fn asked() -> (Harness, [Stream; 2], [Reply; 2]) {
    let mut config = TestConfig::new(2);
    let mut listener = (*config.listeners[0]).clone();
    listener.connection_options.in_flight = u16::MAX;
    config.listeners = vec![Arc::new(listener)];
    config.policy = dnslob::model::policy::Policy::new(dnslob::model::policy::Kind::FirstAvailable);
    for backend in config.backends.iter_mut().flatten() {
        backend.connections.in_flight = u16::MAX;
        backend.order = 1 + i32::from(backend.slot.0);
    }
    let mut harness = Harness::new(&config, 32);
    let (busy, quiet) = (harness.connect(CLIENT).expect("taken"), harness.connect(CLIENT).expect("taken"));
    harness.send(busy, &queries(0, MANY));
    harness.pass(0);
    harness.live_state.set_state(BackendSlot(0), State::Down);
    harness.pass(1_000);
    harness.ask(quiet, 1, 5_000);
    let mut answers = BTreeMap::<u16, Reply>::new();
    for (route, query) in harness.received() {
        let reply = answers.entry(harness.route(route).backend.0).or_insert((route, Vec::new()));
        reply.1.extend(framed(&answer(&query, &[], 0)));
    }
    harness.connections.values_mut().for_each(Vec::clear);
    harness.sim.set_step_cost(STEP_COST);
    let answers: Vec<_> = answers.into_values().collect();
    (harness, [busy, quiet], answers.try_into().expect("two connections"))
}

#[test]
fn an_answer_does_not_wait_for_a_thousand_answers_of_another_connection() {
    let (mut harness, [busy, quiet], [(many, all), (single, one)]) = asked();
    harness.sim.send(many, &all);
    harness.sim.send(single, &one);
    harness.turn();
    harness.turn();
    let output = |stream| messages(harness.shard().client_output(harness.slot(stream))).len();
    assert_eq!(output(quiet), 1);
    let first = output(busy);
    assert!(first > 0 && first <= STEP, "{first} answers in one step");
    assert!(
        !harness.shard().backend_may_read(harness.route(many))
            && harness.shard().backend_may_read(harness.route(single))
    );
    harness.pass(0);
    assert_eq!((harness.got(busy).len(), harness.got(quiet).len()), (usize::from(MANY), 1));
    assert!(harness.shard().backend_may_read(harness.route(many)));
    harness.shard().check_invariants();
}

#[test]
fn queued_answers_outlive_their_backend_connection() {
    for why in [BackendCloseReason::Closed, BackendCloseReason::Broken] {
        let (mut harness, [busy, _], [(many, all), _]) = asked();
        harness.sim.send(many, &all);
        if why == BackendCloseReason::Closed {
            harness.sim.end_announced(many);
        }
        harness.turn();
        let answered = messages(harness.shard().client_output(harness.slot(busy))).len();
        assert!(answered > 0 && answered < usize::from(MANY), "others are queued");
        if why == BackendCloseReason::Broken {
            harness.sim.reset(many);
        }
        harness.run();
        assert_eq!(harness.sim.closed(many), Some(Closed::Backend(Some(why))));
        // No other query uses it.
        harness.live_state.set_state(BackendSlot(0), State::Up);
        harness.pass(20);
        harness.settle();
        assert_eq!(harness.got(busy).len(), usize::from(MANY), "{why:?}");
        assert_eq!(harness.drops(DropReason::BackendConnectionFailed), 0, "{why:?}");
        if why == BackendCloseReason::Closed {
            assert_eq!(harness.live_state.shards()[0].retries.get(), 0, "none is asked again");
        }
        assert_eq!(harness.shard().backend_connections_open(), harness.connections.len() as u32, "{why:?}");
        harness.shard().check_invariants();
    }
}

#[test]
fn thousands_of_simultaneous_timeouts_are_processed_in_portions() {
    const WAITING: u32 = 5_000;
    let config = TestConfig::new(1);
    let mut harness = Harness::new(&config, 33);
    for n in 0..WAITING {
        harness.sim.ask(0, client(CLIENT), &query(n as u16, n, 1));
    }
    harness.pass(0);
    assert_eq!(harness.datagrams.len(), WAITING as usize, "all are forwarded");
    // Ticks alone, and all of them late.
    let now = harness.sim.now() + TickDelta::from_ms(10_000);
    let shard = harness.sim.shard_mut(0);
    shard.begin_batch(now, &harness.snapshot);
    let mut ticks = 0;
    while shard.outstanding() > 0 {
        let before = shard.outstanding();
        assert!(shard.next_deadline().is_some_and(|at| at <= now), "the rest is due at once");
        shard.on_tick(&mut |_, _| {});
        let ended = before - shard.outstanding();
        assert!(ended > 0 && ended <= 1_000, "{ended} at once");
        ticks += 1;
    }
    assert!(ticks > 4, "{ticks}");
    assert_eq!(harness.drops(DropReason::Timeout), u64::from(WAITING));
    harness.shard().check_invariants();
}

#[test]
fn queued_connection_queries_do_not_block_datagrams() {
    let mut config = TestConfig::new(1);
    config.backends[0].as_mut().expect("one").outstanding_max = 50;
    let mut harness = Harness::new(&config, 34);
    let stream = harness.connect(CLIENT).expect("taken");
    harness.send(stream, &queries(0, 80));
    harness.pass(0);
    assert_eq!(harness.drops(DropReason::OutstandingFull), 30);
    for n in 0..60 {
        harness.sim.ask(0, client(CLIENT), &query(n, n.into(), 1));
        harness.run();
        let forwarded = matches!(harness.datagrams.pop_front(), Some(Seen::Query { .. }));
        assert_eq!(forwarded, n < 50, "{n}");
    }
    harness.shard().check_invariants();
    harness.settle();
    assert_eq!(harness.got(stream).len(), 50);
}

#[test]
fn every_kind_of_work_has_its_turn() {
    let mut harness = harness();
    let streams: Vec<_> = (0..20).map(|_| harness.connect(CLIENT).expect("taken")).collect();
    let one = harness.connect(CLIENT).expect("taken");
    // The other connections are closed: each has pending work.
    let streams: Vec<_> = streams.into_iter().map(|stream| harness.slot(stream)).collect();
    let one = harness.slot(one);
    let shard = harness.sim.shard_mut(0);
    streams.into_iter().for_each(|stream| shard.on_client_end(stream));
    let mut done = Vec::new();
    for n in 0..20 {
        // And repeatedly for one backend connection.
        shard.on_client_bytes(one, &framed(&query(n, n.into(), 1)), &mut || true, &mut |_, _| {});
        done.extend((0..2).filter_map(|_| shard.next_pending()));
    }
    let connections = done.iter().filter(|work| matches!(work, PendingWork::Backend(_))).count();
    assert_eq!((done.len(), connections), (40, 20), "{done:?}");
}

#[test]
fn many_busy_clients_do_not_delay_a_single_query() {
    const CLIENTS: u32 = 2_000;
    let mut harness = harness();
    for at in 0..CLIENTS {
        let busy = harness.connect(CLIENT).expect("taken");
        harness.sim.send(busy, &queries(at * 1_000, 100));
    }
    harness.pass(0);
    let quiet = harness.connect(CLIENT).expect("taken");
    harness.ask(quiet, 1, 9_000_000);
    let received = numbers(&harness);
    assert!(received.contains(&9_000_000));
    assert!(received.len() < 65_535, "{} at a time", received.len());
    assert_eq!(harness.drops(DropReason::OutstandingFull), 0);
    // A client that is alone again may have as many as before.
    for _ in 0..20 {
        harness.settle();
    }
    let mut answered = BTreeMap::<usize, usize>::new();
    harness.got.values().for_each(|bytes| *answered.entry(messages(bytes).len()).or_default() += 1);
    assert_eq!(answered, [(1, 1), (100, CLIENTS as usize)].into());
    let before = harness.received().len();
    harness.send(quiet, &queries(9_100_000, MANY));
    harness.pass(0);
    assert_eq!(harness.received().len() - before, usize::from(MANY));
    harness.shard().check_invariants();
}
