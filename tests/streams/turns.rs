//! Connections that bring more than others: each has its turn, whatever the others bring, and no call
//! does more than a bounded amount of work.

use super::*;

/// As many queries as a client sends in one read, or a server answers.
const MANY: u16 = 1_000;
/// More than is looked at of one connection in one step, and in one turn.
const STEP: usize = 100;
const TURN: usize = 400;

/// One server whose lines, and clients whose connections, hold any number of queries.
fn world() -> World {
    let mut farm = Farm::new(1);
    let mut listener = (*farm.listeners[0]).clone();
    listener.connection_options.in_flight = u16::MAX;
    farm.listeners = vec![Arc::new(listener)];
    farm.backends[0].as_mut().expect("one").connections.in_flight = u16::MAX;
    World::new(&farm, 30)
}

/// So many queries whose numbers begin with `first`.
fn queries(first: u32, count: u16) -> Vec<u8> {
    (0..count).flat_map(|n| framed(&query(n, first + u32::from(n), 1))).collect()
}

/// Numbers of the queries that the server has heard, in order.
fn numbers(world: &World) -> Vec<u32> {
    world.heard().iter().map(|(_, query)| number(query)).collect()
}

#[test]
fn a_single_query_does_not_wait_for_the_thousand_of_another_client() {
    let mut world = world();
    let (busy, quiet) = (world.connect(CLIENT).expect("taken"), world.connect(CLIENT).expect("taken"));
    world.send(busy, &queries(0, MANY));
    world.send(quiet, &queries(5_000, 1));
    assert!(!world.shard.client_may_read(busy), "what it sent comes first");
    world.pass(0);
    let heard = numbers(&world);
    let place = heard.iter().position(|n| *n == 5_000).expect("asked");
    assert!(place < STEP, "behind {place} others");
    assert_eq!(heard.len(), usize::from(MANY) + 1, "nothing is lost");
    assert!(world.shard.client_may_read(busy) && world.shard.resumable() == 0);
    world.settle();
    assert_eq!((world.got(busy).len(), world.got(quiet).len()), (usize::from(MANY), 1));
    world.shard.check_invariants();
}

#[test]
fn clients_that_send_without_pause_are_served_in_turn() {
    let mut world = world();
    let clients: Vec<_> = (0..10).map(|_| world.connect(CLIENT).expect("taken")).collect();
    for (at, stream) in clients.iter().enumerate() {
        world.send(*stream, &queries(at as u32 * 10_000, MANY));
    }
    world.pass(0);
    let heard = numbers(&world);
    assert_eq!(heard.len(), 10 * usize::from(MANY));
    let mut served = [0_usize; 10];
    for number in heard {
        served[number as usize / 10_000] += 1;
        let (least, most) = (served.iter().min().expect("ten"), served.iter().max().expect("ten"));
        assert!(most - least <= TURN, "{served:?}");
    }
    world.settle();
    assert!(clients.iter().all(|stream| world.got(*stream).len() == usize::from(MANY)));
    world.shard.check_invariants();
}

#[test]
fn a_connection_that_is_at_its_limit_has_no_turns() {
    let mut farm = Farm::new(1);
    let mut listener = (*farm.listeners[0]).clone();
    listener.connection_options.in_flight = 150;
    farm.listeners = vec![Arc::new(listener)];
    let mut world = World::new(&farm, 31);
    let stream = world.connect(CLIENT).expect("taken");
    world.send(stream, &queries(0, MANY));
    world.pass(0);
    assert_eq!(world.heard().len(), 150);
    assert_eq!(
        (world.shard.resumable(), world.shard.pending()),
        (0, 0),
        "nothing to do, and nothing is done"
    );
    assert!(world.shard.next_deadline().is_some_and(|at| at > world.now));
    for _ in 0..10 {
        world.settle();
    }
    assert_eq!(world.got(stream).len(), usize::from(MANY));
    world.shard.check_invariants();
}

/// A line, and what its server says by it.
type Told = (Route, Vec<u8>);

/// A world in which two clients have asked by a line each: the answers to the first one's queries,
/// and to the second one's single query.
fn asked() -> (World, [ConnectionSlot; 2], [Told; 2]) {
    let mut farm = Farm::new(2);
    let mut listener = (*farm.listeners[0]).clone();
    listener.connection_options.in_flight = u16::MAX;
    farm.listeners = vec![Arc::new(listener)];
    farm.policy = dnslob::model::policy::Policy::new(dnslob::model::policy::Kind::FirstAvailable);
    for backend in farm.backends.iter_mut().flatten() {
        backend.connections.in_flight = u16::MAX;
        backend.order = 1 + i32::from(backend.slot.0);
    }
    let mut world = World::new(&farm, 32);
    let (busy, quiet) = (world.connect(CLIENT).expect("taken"), world.connect(CLIENT).expect("taken"));
    world.send(busy, &queries(0, MANY));
    world.pass(0);
    world.live_state.set_state(BackendSlot(0), State::Down);
    world.pass(1_000);
    world.ask(quiet, 1, 5_000);
    let mut answers = BTreeMap::<u16, Told>::new();
    for (line, query) in world.heard() {
        let told = answers.entry(line.backend.0).or_insert((line, Vec::new()));
        told.1.extend(framed(&answer(&query, &[], 0)));
    }
    world.lines.values_mut().for_each(|far| far.heard.clear());
    let answers: Vec<_> = answers.into_values().collect();
    (world, [busy, quiet], answers.try_into().expect("two lines"))
}

#[test]
fn an_answer_does_not_wait_for_the_thousand_of_another_line() {
    let (mut world, [busy, quiet], [(many, all), (single, one)]) = asked();
    world.tell(many, &all);
    world.tell(single, &one);
    assert_eq!(world.got(quiet).len(), 1);
    let first = world.got(busy).len();
    assert!(first > 0 && first <= STEP, "{first} answers in one step");
    assert!(!world.shard.backend_may_read(many) && world.shard.backend_may_read(single));
    world.pass(0);
    assert_eq!(world.got(busy).len(), usize::from(MANY));
    assert!(world.shard.backend_may_read(many));
    world.shard.check_invariants();
}

#[test]
fn answers_that_wait_for_their_turn_outlive_their_connection() {
    for why in [BackendCloseReason::Closed, BackendCloseReason::Broken] {
        let (mut world, [busy, _], [(many, all), _]) = asked();
        world.tell(many, &all);
        world.lines.remove(&(many.backend.0, many.socket.number()));
        world.close_backend(many, Some(why));
        // No other query goes by it.
        world.live_state.set_state(BackendSlot(0), State::Up);
        world.pass(20);
        world.settle();
        assert_eq!(world.got(busy).len(), usize::from(MANY), "{why:?}");
        assert_eq!(world.drops(DropReason::BackendConnectionFailed), 0, "{why:?}");
        if why == BackendCloseReason::Closed {
            assert_eq!(world.live_state.shards()[0].retries.get(), 0, "none is asked again");
        }
        assert_eq!(world.shard.backend_connections_open(), world.lines.len() as u32, "{why:?}");
        world.shard.check_invariants();
    }
}

#[test]
fn thousands_of_time_outs_are_due_at_once_and_done_in_portions() {
    const WAITING: u32 = 5_000;
    let mut farm = Farm::new(1);
    farm.globals.clients_stay = false;
    let mut world = World::new(&farm, 33);
    for n in 0..WAITING {
        let mut bytes = query(n as u16, n, 1);
        let length = bytes.len();
        bytes.resize(600, 0);
        let verdict = world.shard.on_query(client(CLIENT), &mut Packet::new(&mut bytes, 0, length));
        assert!(matches!(verdict, Verdict::Forward(_)), "{verdict:?}");
    }
    world.pass(0);
    world.now = world.now + TickDelta::from_ms(10_000);
    world.shard.begin_batch(world.now, &world.snapshot);
    let mut ticks = 0;
    while world.shard.outstanding() > 0 {
        let before = world.shard.outstanding();
        assert!(world.shard.next_deadline().is_some_and(|at| at <= world.now), "the rest is due at once");
        world.shard.on_tick(&mut |_, _| {});
        let ended = before - world.shard.outstanding();
        assert!(ended > 0 && ended <= 1_000, "{ended} at once");
        ticks += 1;
    }
    assert!(ticks > 4, "{ticks}");
    assert_eq!(world.drops(DropReason::Timeout), u64::from(WAITING));
    world.shard.check_invariants();
}

#[test]
fn what_waits_by_connections_leaves_room_for_what_is_asked_by_datagrams() {
    let mut farm = Farm::new(1);
    farm.backends[0].as_mut().expect("one").outstanding_max = 50;
    let mut world = World::new(&farm, 34);
    let stream = world.connect(CLIENT).expect("taken");
    world.send(stream, &queries(0, 80));
    world.pass(0);
    assert_eq!(world.drops(DropReason::OutstandingFull), 30);
    for n in 0..60 {
        let mut bytes = query(n, n.into(), 1);
        let length = bytes.len();
        bytes.resize(600, 0);
        let verdict = world.shard.on_query(client(CLIENT), &mut Packet::new(&mut bytes, 0, length));
        assert_eq!(matches!(verdict, Verdict::Forward(_)), n < 50, "{n}: {verdict:?}");
    }
    world.shard.check_invariants();
    world.settle();
    assert_eq!(world.got(stream).len(), 50);
}

#[test]
fn every_kind_of_work_has_its_turn() {
    let mut world = world();
    let streams: Vec<_> = (0..20).map(|_| world.connect(CLIENT).expect("taken")).collect();
    let one = world.connect(CLIENT).expect("taken");
    // The others end: something is to be done for each.
    streams.iter().for_each(|stream| world.shard.on_client_end(*stream));
    let mut done = Vec::new();
    for n in 0..20 {
        // And for a line, again and again.
        world.shard.on_client_bytes(one, &framed(&query(n, n.into(), 1)), &mut || true, &mut |_, _| {});
        done.extend((0..2).filter_map(|_| world.shard.next_pending()));
    }
    let lines = done.iter().filter(|chore| matches!(chore, PendingWork::Backend(_))).count();
    assert_eq!((done.len(), lines), (40, 20), "{done:?}");
}

#[test]
fn many_who_ask_without_pause_leave_room_for_whoever_asks_once() {
    const CLIENTS: u32 = 2_000;
    let mut world = world();
    for at in 0..CLIENTS {
        let busy = world.connect(CLIENT).expect("taken");
        world.shard.on_client_bytes(busy, &queries(at * 1_000, 100), &mut || true, &mut |_, _| {});
    }
    world.pass(0);
    let quiet = world.connect(CLIENT).expect("taken");
    world.ask(quiet, 1, 9_000_000);
    let heard = numbers(&world);
    assert!(heard.contains(&9_000_000));
    assert!(heard.len() < 65_535, "{} at a time", heard.len());
    assert_eq!(world.drops(DropReason::OutstandingFull), 0);
    // Whoever is alone again may have as many as ever.
    for _ in 0..20 {
        world.settle();
    }
    let mut answered = BTreeMap::<usize, usize>::new();
    world.got.values().for_each(|bytes| *answered.entry(messages(bytes).len()).or_default() += 1);
    assert_eq!(answered, [(1, 1), (100, CLIENTS as usize)].into());
    let before = world.heard().len();
    world.send(quiet, &queries(9_100_000, MANY));
    world.pass(0);
    assert_eq!(world.heard().len() - before, usize::from(MANY));
    world.shard.check_invariants();
}
