//! Lines towards servers that break off, stand still, are full, or send what nobody asked for.

use super::*;

const AXFR: u16 = 252;

/// A world before so many servers, of which queries are sent to the first one first.
fn world(servers: usize, set: impl Fn(&mut dnslob::model::Backend)) -> World {
    let mut farm = Farm::new(servers);
    farm.policy = dnslob::model::policy::Policy::new(dnslob::model::policy::Kind::FirstAvailable);
    for backend in farm.backends.iter_mut().flatten() {
        backend.order = 1 + i32::from(backend.slot.0);
        set(backend);
    }
    World::new(&farm, 20)
}

/// The server ends a line.
fn break_off(world: &mut World, line: Route, why: BackendCloseReason) {
    world.lines.remove(&(line.backend.0, line.socket.number()));
    world.close_backend(line, Some(why));
    world.pending();
}

/// The server has read what is on its lines.
fn take_heard(world: &mut World) -> Vec<(Route, Vec<u8>)> {
    let heard = world.heard();
    for far in world.lines.values_mut() {
        far.heard.clear();
    }
    heard
}

fn retries(world: &World) -> u64 {
    world.live_state.shards()[0].retries.get()
}

#[test]
fn a_server_that_resets_after_each_answer_answers_all_the_same() {
    let mut world = world(1, |_| {});
    let stream = world.connect(CLIENT).expect("taken");
    for n in 0..100 {
        world.ask(stream, n, n.into());
    }
    for _ in 0..400 {
        world.pass(1);
        // The kernel sends a reset when a server closes with queries unread.
        let Some((line, query)) = world.heard().into_iter().next() else { break };
        world.tell(line, &framed(&answer(&query, &[], 0)));
        break_off(&mut world, line, BackendCloseReason::Broken);
    }
    assert_eq!(world.got(stream).len(), 100);
    assert_eq!(world.drops(DropReason::BackendConnectionFailed), 0);
    world.shard.check_invariants();
}

#[test]
fn a_hasty_server_gets_few_lines_and_forgiveness() {
    let mut world = world(1, |b| b.connections.connections = 64);
    let stream = world.connect(CLIENT).expect("taken");
    let mut id = 0;
    let mut ask = |world: &mut World, count: u16| {
        for _ in 0..count {
            world.ask(stream, id, id.into());
            id += 1;
        }
    };
    ask(&mut world, 50);
    world.pass(1);
    let (line, query) = world.heard().remove(0);
    world.tell(line, &framed(&answer(&query, &[], 0)));
    break_off(&mut world, line, BackendCloseReason::Closed);
    assert_eq!(world.lines.len(), 49, "one query on each");
    ask(&mut world, 50);
    assert_eq!(world.lines.len(), 64, "but no more lines than may be");
    // It was one bad moment: what answers more gets more.
    world.settle();
    for _ in 0..20 {
        ask(&mut world, 90);
        world.settle();
    }
    ask(&mut world, 90);
    let mut loads = BTreeMap::<_, u32>::new();
    world.heard().into_iter().for_each(|(line, _)| *loads.entry(line.socket.number()).or_default() += 1);
    assert!(loads.len() <= 3, "{loads:?}");
    world.settle();
    assert_eq!(world.got(stream).len(), usize::from(id));
}

#[test]
fn an_idle_line_that_is_closed_just_as_it_is_asked_says_nothing_of_its_server() {
    let mut world = world(1, |_| {});
    let stream = world.connect(CLIENT).expect("taken");
    world.ask(stream, 1, 1);
    world.settle();
    world.pass(5_000);
    world.ask(stream, 2, 2);
    let (line, _) = take_heard(&mut world).remove(0);
    break_off(&mut world, line, BackendCloseReason::Closed);
    for n in 3..20 {
        world.ask(stream, n, n.into());
    }
    assert_eq!(world.lines.len(), 1, "they go by one line");
    world.settle();
    assert_eq!(world.got(stream).len(), 19);
}

#[test]
fn what_answers_nothing_is_not_taken_for_service() {
    let mut world = world(2, |_| {});
    let stream = world.connect(CLIENT).expect("taken");
    world.ask(stream, 1, 1);
    let mut lines = 0;
    // It sends something each time, then closes: a second line is not tried.
    while let Some((line, query)) = take_heard(&mut world).into_iter().next() {
        lines += 1;
        if line.backend == BackendSlot(0) {
            let mut foreign = answer(&query, &[], 0);
            foreign[0] ^= 0xff;
            world.tell(line, &framed(&foreign));
            break_off(&mut world, line, BackendCloseReason::Closed);
        } else {
            world.tell(line, &framed(&answer(&query, &[], 0)));
        }
    }
    assert_eq!((lines, world.got(stream).len()), (2, 1));
}

#[test]
fn a_full_server_is_passed_over_for_the_next_one() {
    let mut world = world(3, |b| b.outstanding_max = if b.slot.0 == 1 { 1 } else { 65_535 });
    let stream = world.connect(CLIENT).expect("taken");
    for n in 0..3 {
        world.ask(stream, n, n.into());
    }
    let (first, _) = world.heard().remove(0);
    assert_eq!(first.backend, BackendSlot(0));
    break_off(&mut world, first, BackendCloseReason::Refused);
    world.settle();
    assert_eq!(world.got(stream).len(), 3);
    assert_eq!((world.drops(DropReason::BackendConnectionFailed), retries(&world)), (0, 3));
    world.shard.check_invariants();
}

#[test]
fn what_a_client_that_has_left_asked_is_not_asked_again() {
    let mut world = world(2, |_| {});
    let stream = world.connect(CLIENT).expect("taken");
    for n in 0..50 {
        world.ask(stream, n, n.into());
    }
    world.close(stream, ClientCloseReason::Broken);
    let (line, _) = world.heard().remove(0);
    break_off(&mut world, line, BackendCloseReason::Broken);
    assert_eq!((retries(&world), world.lines.len(), world.shard.outstanding()), (0, 0, 0));
    assert_eq!(
        (world.drops(DropReason::ClientGone), world.drops(DropReason::BackendConnectionFailed)),
        (50, 0)
    );
    world.shard.check_invariants();
}

#[test]
fn a_query_that_no_frame_can_hold_is_dropped_and_blames_nobody() {
    let farm = Farm::new(1);
    let mut world = World::new(&farm, 21);
    let mut snapshot = (*farm.snapshot()).clone();
    let mut backend = (**snapshot.backends[0].as_ref().expect("one")).clone();
    backend.use_client_subnet = true;
    snapshot.backends[0] = Some(Arc::new(backend));
    snapshot.generation = 2;
    world.snapshot = Arc::new(snapshot);
    world.pass(0);
    let stream = world.connect(CLIENT).expect("taken");
    let mut longest = query(7, 7, 1);
    // An OPT record whose one option fills the frame.
    longest[11] = 1;
    let data = usize::from(u16::MAX) - longest.len() - 11;
    let option = data - 4;
    longest.extend([0, 0, 41, 16, 0, 0, 0, 0, 0]);
    longest.extend((data as u16).to_be_bytes());
    longest.extend([0xfd, 0xe9]);
    longest.extend((option as u16).to_be_bytes());
    longest.resize(usize::from(u16::MAX), 0);
    world.send(stream, &framed(&longest));
    assert_eq!(world.drops(DropReason::QuerySendError), 1);
    assert_eq!((world.shard.outstanding(), world.heard().len()), (0, 0));
    world.pass(40_000);
    assert_eq!(world.live_state.shards()[0].backend(BackendSlot(0)).timeouts.get(), 0);
    world.shard.check_invariants();
}

#[test]
fn a_held_back_answer_is_cut_to_fit_a_datagram() {
    let mut world = World::new(&Farm::new(1), 22);
    let text = "newServer{address='127.0.1.0:53', tcpOnly=true, healthCheckMode='up'}\n\
                addResponseAction(AllRule(), DelayResponseAction(100))\n";
    let compiled = support::farm::configured(text, &dnslob::config::Slots::default(), 2);
    world.snapshot = Arc::new(compiled.snapshot);
    world.pass(0);
    let from: Client = client(CLIENT);
    world.answer_at_length(from);
    world.pass(50);
    assert!(world.datagrams.is_empty());
    world.pass(100);
    let (verdict, answer) = world.datagrams.pop_front().expect("an answer");
    assert_eq!(verdict, Verdict::Deliver(from));
    assert_eq!((answer[2] & 2, answer[7], answer.len() <= 512), (2, 0, true), "TC, no records");
}

#[test]
fn a_client_that_takes_a_zone_slowly_costs_its_server_nothing() {
    let mut world = world(1, |b| b.connections.receive_timeout = TickDelta::from_ms(2_000));
    let stream = world.connect(CLIENT).expect("taken");
    world.portion = 0;
    world.send(stream, &framed(&query(3, 3, AXFR)));
    let (line, heard) = take_heard(&mut world).remove(0);
    let filler = [&[0xc0, 0x0c, 0, 16, 0, 1, 0, 0, 0, 60, 0x75, 0x30][..], &[0; 30_000]].concat();
    world.tell(line, &framed(&answer(&heard, &soa(), 1)));
    for _ in 0..10 {
        world.tell(line, &framed(&answer(&heard, &filler, 1)));
    }
    world.tell(line, &framed(&answer(&heard, &soa(), 1)));
    // A little at a time, for a minute and more.
    world.portion = 5_000;
    for _ in 0..80 {
        world.serve_client(stream);
        world.pass(1_000);
    }
    assert_eq!(world.got(stream).len(), 12);
    let stats = world.live_state.shards()[0].backend(BackendSlot(0));
    assert_eq!((stats.timeouts.get(), stats.connections.ended(BackendCloseReason::Silent).get()), (0, 0));
    let timed: u32 = (0..dnslob::stats::histogram::BUCKETS).map(|b| stats.latency.count(b)).sum();
    assert_eq!(timed, 0, "how long it took is the client's doing");
    assert_eq!(world.shard.outstanding(), 0);
    world.shard.check_invariants();
}

#[test]
fn a_zone_makes_room_for_itself_among_idle_lines() {
    let mut world = world(1, |b| b.connections.connections = 1);
    let stream = world.connect(CLIENT).expect("taken");
    world.ask(stream, 1, 1);
    world.settle();
    assert_eq!(world.lines.len(), 1, "kept");
    world.send(stream, &framed(&query(2, 2, AXFR)));
    let zone = [framed(&answer(&query(2, 2, AXFR), &[soa(), soa()].concat(), 2))].concat();
    assert_eq!(world.drops(DropReason::OutstandingFull), 0);
    let (line, heard) = take_heard(&mut world).remove(0);
    let mut zone = zone;
    zone[2..4].copy_from_slice(&heard[..2]);
    world.tell(line, &zone);
    assert_eq!(world.got(stream).len(), 2);
}

#[test]
fn a_zone_whose_first_message_is_none_is_asked_for_at_the_next_server() {
    let mut world = world(2, |_| {});
    let stream = world.connect(CLIENT).expect("taken");
    world.send(stream, &framed(&query(3, 3, AXFR)));
    let (line, heard) = take_heard(&mut world).remove(0);
    assert_eq!(line.backend, BackendSlot(0));
    // An answer to another question.
    let mut other = answer(&heard, &soa(), 1);
    other[13] ^= 1;
    world.tell(line, &framed(&other));
    let (line, heard) = take_heard(&mut world).remove(0);
    assert_eq!(line.backend, BackendSlot(1));
    world.tell(line, &framed(&answer(&heard, &[soa(), soa()].concat(), 2)));
    assert_eq!((world.got(stream).len(), world.ended.get(&stream.0)), (1, None));
    world.shard.check_invariants();
}

#[test]
fn a_zone_that_never_begins_leaves_no_line_behind() {
    let mut world = world(1, |b| b.connections.receive_timeout = TickDelta::from_ms(1_000));
    let stream = world.connect(CLIENT).expect("taken");
    world.send(stream, &framed(&query(3, 3, AXFR)));
    world.pass(3_000);
    assert_eq!((world.shard.backend_connections_open(), world.shard.outstanding()), (0, 0));
    world.shard.check_invariants();
}

#[test]
fn a_line_that_its_server_closed_is_not_opened_again_for_what_it_holds() {
    let mut world = world(1, |_| {});
    let stream = world.connect(CLIENT).expect("taken");
    world.portion = 0;
    world.send(stream, &framed(&query(3, 3, AXFR)));
    let (line, heard) = take_heard(&mut world).remove(0);
    let filler = [&[0xc0, 0x0c, 0, 16, 0, 1, 0, 0, 0, 60, 0x75, 0x30][..], &[0; 30_000]].concat();
    let mut bytes = framed(&answer(&heard, &soa(), 1));
    (0..10).for_each(|_| bytes.extend(framed(&answer(&heard, &filler, 1))));
    bytes.extend(framed(&answer(&heard, &soa(), 1)));
    // The last bytes and the end in one: the wish to read no more has not been heard yet.
    let World { shard, datagrams, .. } = &mut world;
    shard.on_backend_bytes(line, &bytes, &mut || true, &mut |v, o| datagrams.push_back((v, o.to_vec())));
    break_off(&mut world, line, BackendCloseReason::Closed);
    assert!(world.lines.is_empty(), "no new line");
    world.portion = usize::MAX;
    for _ in 0..20 {
        world.serve_client(stream);
        world.pass(0);
    }
    assert_eq!(world.got(stream).len(), 12);
    assert_eq!(world.live_state.shards()[0].backend(BackendSlot(0)).connections.opened.get(), 1);
    assert_eq!((world.shard.backend_connections_open(), world.shard.outstanding()), (0, 0));
    world.shard.check_invariants();
}

#[test]
fn a_zone_that_a_rule_drops_a_message_of_ends_with_its_connection() {
    let mut world = World::new(&Farm::new(1), 23);
    let text = "newServer{address='127.0.1.0:53', healthCheckMode='up'}\n\
                addXFRResponseAction(QTypeRule('AXFR'), DropResponseAction())\n";
    let compiled = support::farm::configured(text, &dnslob::config::Slots::default(), 2);
    world.snapshot = Arc::new(compiled.snapshot);
    world.pass(0);
    let stream = world.connect(CLIENT).expect("taken");
    world.send(stream, &framed(&query(3, 3, AXFR)));
    let (line, heard) = take_heard(&mut world).remove(0);
    world.tell(line, &framed(&answer(&heard, &soa(), 1)));
    assert_eq!((world.got(stream).len(), world.ended[&stream.0]), (0, ClientCloseReason::Transfer));
    assert_eq!((world.drops(DropReason::ResponseRule), world.lines.len()), (1, 0));
    assert_eq!(world.shard.outstanding(), 0);
    world.shard.check_invariants();
}
