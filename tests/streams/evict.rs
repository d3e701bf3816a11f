//! Descriptors used up: who makes room for a new connection, and who does not.

use dnslob::stats::descriptors::{Division, Use};

use super::*;

/// A world in which clients may have so many connections, and each server's lines so many.
fn world(clients: u32, servers: u32) -> World {
    let mut farm = Farm::new(1);
    // What is looked at here is not that connections go sooner near the limit.
    farm.globals.client_connections.overload_percent = 0;
    farm.globals.client_connections.receive_timeout = TickDelta::from_ms(60_000);
    let world = World::new(&farm, 40);
    divide(&world, clients, servers);
    world
}

fn divide(world: &World, clients: u32, servers: u32) {
    let mut pools = [0; Use::ALL.len()];
    (pools[Use::Clients.index()], pools[Use::Servers.index()]) = (clients, servers);
    world.live_state.descriptors().divide(&Division { limit: 1_000, reserve: 0, pools });
}

/// A new connection; what made room for it is closed first, as engines do.
fn connect(world: &mut World) -> Option<ConnectionSlot> {
    let listener = world.snapshot.listeners[0].clone();
    let stream = world.shard.on_accept(client(CLIENT).peer, &listener, LocalSlot::LISTENER);
    if let Some(PendingWork::Client(evicted)) = world.shard.take_evicted() {
        assert_eq!(world.shard.client_interest(evicted), ClientInterest::Close(ClientCloseReason::Evicted));
        world.close(evicted, ClientCloseReason::Evicted);
    }
    assert!(world.shard.clients_open() <= world.live_state.descriptors().max(Use::Clients));
    if let Some(stream) = stream {
        world.got.insert(stream.0, Vec::new());
        world.ended.remove(&stream.0);
    }
    world.shard.check_invariants();
    stream
}

fn ended(world: &World, why: ClientCloseReason) -> u64 {
    world.live_state.shards()[0].clients.ended(why).get()
}

#[test]
fn those_that_never_asked_go_first_the_oldest_of_them_first() {
    let mut world = world(10, 10);
    let all: Vec<_> = (0..10).map(|_| connect(&mut world).expect("room")).collect();
    world.ask(all[0], 1, 1);
    world.settle();
    world.pass(2_000);
    for (n, gone) in all[1..].iter().enumerate().take(8) {
        connect(&mut world).expect("another makes room");
        assert_eq!(world.ended.get(&gone.0), Some(&ClientCloseReason::Evicted));
        assert_eq!(ended(&world, ClientCloseReason::Evicted), n as u64 + 1);
    }
    assert!(!world.got(all[0]).is_empty(), "who has asked stays");
    world.ask(all[0], 2, 2);
    world.settle();
    assert_eq!(world.got(all[0]).len(), 2, "and is answered");
}

#[test]
fn who_waits_for_an_answer_or_has_just_had_one_stays_and_the_new_one_is_refused() {
    let mut world = world(4, 10);
    world.tempers = vec![Temper::NeverAnswers];
    let all: Vec<_> = (0..4).map(|_| connect(&mut world).expect("room")).collect();
    all.iter().enumerate().for_each(|(n, stream)| world.ask(*stream, n as u16, n as u32));
    assert_eq!(connect(&mut world), None);
    assert_eq!(
        (ended(&world, ClientCloseReason::Descriptors), ended(&world, ClientCloseReason::Evicted)),
        (1, 0)
    );
    world.tempers = vec![Temper::Answers];
    world.settle();
    assert_eq!(connect(&mut world), None, "answered a moment ago");
    world.pass(1_000);
    connect(&mut world).expect("the first has been idle for a second");
    assert_eq!(ended(&world, ClientCloseReason::Descriptors), 2);
    let evicted = ended(&world, ClientCloseReason::Evicted);
    assert!(evicted >= 1, "for it, or for those that were refused");
    assert_eq!(world.live_state.descriptors().evicted_and_refused(), (evicted, 2));
}

#[test]
fn a_pool_that_shrinks_ends_idle_connections_and_only_those() {
    let mut world = world(10, 10);
    let all: Vec<_> = (0..10).map(|_| connect(&mut world).expect("room")).collect();
    world.tempers = vec![Temper::NeverAnswers];
    (8..10).for_each(|n| world.ask(all[n], n as u16, n as u32));
    divide(&world, 1, 10);
    world.pass(100);
    assert_eq!((world.shard.clients_open(), ended(&world, ClientCloseReason::Evicted)), (2, 8));
    assert_eq!(world.live_state.descriptors().used(Use::Clients), 2, "all is given back");
    world.shard.check_invariants();
}

#[test]
fn what_another_shard_wants_an_idle_connection_gives() {
    let mut world = world(10, 10);
    for _ in 0..10 {
        connect(&mut world).expect("room");
    }
    world.live_state.descriptors().want(Use::Clients);
    world.live_state.descriptors().want(Use::Clients);
    world.pass(100);
    assert_eq!((world.shard.clients_open(), ended(&world, ClientCloseReason::Evicted)), (8, 2));
    assert_eq!(world.live_state.descriptors().excess(Use::Clients), 0);
}

#[test]
fn without_a_descriptor_for_a_line_a_query_is_dropped_and_its_server_is_not_to_blame() {
    let mut world = world(10, 0);
    let stream = connect(&mut world).expect("room");
    world.ask(stream, 1, 1);
    world.settle();
    let stats = &world.live_state.shards()[0];
    assert_eq!(stats.dropped(DropReason::OutstandingFull).get(), 1);
    assert_eq!(stats.backend(BackendSlot(0)).timeouts.get(), 0);
    divide(&world, 10, 1);
    world.ask(stream, 2, 2);
    world.settle();
    assert_eq!(world.got(stream).len(), 1, "the next one finds it as it was");
}
