//! Tests backend connections that break, stall, are full or carry unsolicited messages.

use dnslob::stats::close_reason::ConnectFailure;

use super::*;

const AXFR: u16 = 252;

/// Returns a harness with `servers` servers; queries go to the first one first.
fn harness(servers: usize, set: impl Fn(&mut dnslob::model::Backend)) -> Harness {
    let mut config = TestConfig::new(servers);
    config.policy = dnslob::model::policy::Policy::new(dnslob::model::policy::Kind::FirstAvailable);
    for backend in config.backends.iter_mut().flatten() {
        backend.order = 1 + i32::from(backend.slot.0);
        set(backend);
    }
    Harness::new(&config, 20)
}

/// Returns the queries that the server has received, and clears them.
fn take_received(harness: &mut Harness) -> Vec<(Stream, Vec<u8>)> {
    let received = harness.received();
    harness.connections.values_mut().for_each(Vec::clear);
    received
}

fn retries(harness: &Harness) -> u64 {
    harness.live_state.shards()[0].retries.get()
}

#[test]
fn a_server_that_resets_after_each_answer_still_answers_every_query() {
    let mut harness = harness(1, |_| {});
    let stream = harness.connect(CLIENT).expect("taken");
    for n in 0..100 {
        harness.ask(stream, n, n.into());
    }
    for _ in 0..400 {
        harness.pass(1);
        // The kernel sends a reset when a server closes a socket with unread queries.
        let Some((route, query)) = harness.received().into_iter().next() else { break };
        harness.deliver(route, &framed(&answer(&query, &[], 0)));
        harness.break_off(route, BackendCloseReason::Broken);
    }
    assert_eq!(harness.got(stream).len(), 100);
    assert_eq!(harness.drops(DropReason::BackendConnectionFailed), 0);
    harness.shard().check_invariants();
}

#[test]
fn a_server_that_closes_early_gets_few_connections_and_is_not_blamed() {
    let mut harness = harness(1, |b| b.connections.connections = 64);
    let stream = harness.connect(CLIENT).expect("taken");
    let mut id = 0;
    let mut ask = |harness: &mut Harness, count: u16| {
        for _ in 0..count {
            harness.ask(stream, id, id.into());
            id += 1;
        }
    };
    ask(&mut harness, 50);
    harness.pass(1);
    let (route, query) = harness.received().remove(0);
    harness.deliver(route, &framed(&answer(&query, &[], 0)));
    harness.break_off(route, BackendCloseReason::Closed);
    assert_eq!(harness.connections.len(), 49, "one query on each");
    ask(&mut harness, 50);
    assert_eq!(harness.connections.len(), 64, "but no more connections than may be");
    // A single failure: more answers allow more queries.
    harness.settle();
    for _ in 0..20 {
        ask(&mut harness, 90);
        harness.settle();
    }
    ask(&mut harness, 90);
    let mut loads = BTreeMap::<_, u32>::new();
    harness.received().into_iter().for_each(|(route, _)| *loads.entry(route).or_default() += 1);
    assert!(loads.len() <= 3, "{loads:?}");
    harness.settle();
    assert_eq!(harness.got(stream).len(), usize::from(id));
}

#[test]
fn an_idle_connection_closed_as_a_query_is_sent_is_not_a_server_failure() {
    let mut harness = harness(1, |_| {});
    let stream = harness.connect(CLIENT).expect("taken");
    harness.ask(stream, 1, 1);
    harness.settle();
    harness.pass(5_000);
    harness.ask(stream, 2, 2);
    let (route, _) = take_received(&mut harness).remove(0);
    harness.break_off(route, BackendCloseReason::Closed);
    for n in 3..20 {
        harness.ask(stream, n, n.into());
    }
    assert_eq!(harness.connections.len(), 1, "they go by one connection");
    harness.settle();
    assert_eq!(harness.got(stream).len(), 19);
}

#[test]
fn unsolicited_messages_do_not_count_as_answers() {
    let mut harness = harness(2, |_| {});
    let stream = harness.connect(CLIENT).expect("taken");
    harness.ask(stream, 1, 1);
    let mut connections = 0;
    // It sends something each time, then closes: no second connection is tried.
    while let Some((route, query)) = take_received(&mut harness).into_iter().next() {
        connections += 1;
        if harness.route(route).backend == BackendSlot(0) {
            let mut foreign = answer(&query, &[], 0);
            foreign[0] ^= 0xff;
            harness.deliver(route, &framed(&foreign));
            harness.break_off(route, BackendCloseReason::Closed);
        } else {
            harness.deliver(route, &framed(&answer(&query, &[], 0)));
        }
    }
    assert_eq!((connections, harness.got(stream).len()), (2, 1));
}

#[test]
fn a_full_server_is_skipped() {
    let mut harness = harness(3, |b| b.outstanding_max = if b.slot.0 == 1 { 1 } else { 65_535 });
    harness.behaviours[0] = Behaviour::NeverConnects;
    let stream = harness.connect(CLIENT).expect("taken");
    for n in 0..3 {
        harness.ask(stream, n, n.into());
    }
    let first = *harness.connections.keys().next().expect("an attempt");
    assert_eq!(harness.route(first).backend, BackendSlot(0));
    harness.sim.fail(first, ConnectFailure::Refused);
    harness.run();
    assert_eq!(harness.sim.closed(first), Some(Closed::Backend(Some(BackendCloseReason::Refused))));
    harness.settle();
    assert_eq!(harness.got(stream).len(), 3);
    assert_eq!((harness.drops(DropReason::BackendConnectionFailed), retries(&harness)), (0, 3));
    harness.shard().check_invariants();
}

/// Asks ten queries, one each 100 ms, of a server that is silent. The first one then times out, and
/// its connection has brought nothing for the receive time-out. Returns the client.
fn ask_a_silent_server(harness: &mut Harness) -> Stream {
    harness.behaviours[0] = Behaviour::NeverAnswers;
    let stream = harness.connect(CLIENT).expect("taken");
    for n in 0..10 {
        harness.ask(stream, n, n.into());
        harness.pass(100);
    }
    stream
}

fn silent_ends(harness: &Harness) -> u64 {
    let stats = harness.live_state.shards()[0].backend(BackendSlot(0));
    stats.connections.ended(BackendCloseReason::Silent).get()
}

#[test]
fn queries_on_a_silent_connection_go_to_another_server() {
    let mut harness = harness(2, |b| b.connections.receive_timeout = TickDelta::from_ms(1_000));
    let stream = ask_a_silent_server(&mut harness);
    harness.pass(300);
    let waiting: BTreeSet<BackendSlot> =
        harness.received().iter().map(|(route, _)| harness.route(*route).backend).collect();
    assert_eq!((silent_ends(&harness), waiting), (1, BTreeSet::from([BackendSlot(1)])));
    harness.ask(stream, 10, 10);
    assert_eq!(harness.received().len(), 11, "the silent server is avoided");
    harness.settle();
    assert_eq!((harness.got(stream).len(), retries(&harness)), (11, 10));
    harness.shard().check_invariants();
}

#[test]
fn queries_on_a_silent_connection_go_by_a_new_one_to_the_only_server() {
    let mut harness = harness(1, |b| b.connections.receive_timeout = TickDelta::from_ms(1_000));
    let stream = ask_a_silent_server(&mut harness);
    harness.pass(300);
    assert_eq!((silent_ends(&harness), harness.received().len(), harness.connections.len()), (1, 9, 1));
    harness.behaviours[0] = Behaviour::Answers;
    harness.settle();
    assert_eq!((harness.got(stream).len(), harness.drops(DropReason::Timeout)), (9, 1));
    harness.shard().check_invariants();
}

#[test]
fn queries_that_time_out_one_after_another_end_a_silent_connection() {
    for servers in [1, 2] {
        let mut harness =
            harness(servers, |b| (b.connections.only, b.timeout) = (true, TickDelta::from_ms(1_000)));
        harness.behaviours[0] = Behaviour::NeverAnswers;
        for n in 0..10 {
            harness.sim.ask(0, client(CLIENT), &query(n, n.into(), 1));
            harness.pass(100);
        }
        harness.pass(300);
        let (moved_to, waiting) = (BackendSlot(servers as u16 - 1), harness.received());
        assert!(waiting.iter().all(|(route, _)| harness.route(*route).backend == moved_to), "{servers}");
        let lost = if servers == 1 { 3 } else { 0 };
        assert_eq!((silent_ends(&harness), waiting.len() as u64), (1, 10 - lost), "{servers}");
        harness.behaviours[0] = Behaviour::Answers;
        harness.settle();
        assert_eq!((harness.datagrams.len() as u64, harness.drops(DropReason::Timeout)), (10 - lost, lost));
        harness.shard().check_invariants();
    }
}

#[test]
fn queries_to_a_server_that_stays_silent_end_as_timeouts() {
    let mut harness = Harness::new(&TestConfig::new(2), 24);
    let text = "newServer{address='127.0.1.0:53', tcpRecvTimeoutMs=1000, healthCheckMode='up'}\n\
                newServer{address='127.0.1.1:53', pool='late', healthCheckMode='up'}\n\
                addTimeoutResponseAction('q9.example', RestartResponseAction('late'))\n";
    let compiled = support::config::configured(text, &dnslob::config::Slots::default(), 2);
    harness.publish(Arc::new(compiled.snapshot));
    let stream = ask_a_silent_server(&mut harness);
    for _ in 0..40 {
        harness.pass(100);
    }
    harness.settle();
    let asked = harness.live_state.shards()[0].backend(BackendSlot(0)).queries.get();
    assert_eq!(asked, 19, "those that could go by a new connection did so once");
    assert_eq!(
        (harness.drops(DropReason::Timeout), harness.drops(DropReason::BackendConnectionFailed)),
        (9, 0)
    );
    assert_eq!((harness.got(stream).len(), harness.shard().outstanding()), (1, 0), "a rule restarted one");
    harness.shard().check_invariants();
}

#[test]
fn queries_move_on_from_a_server_that_a_reload_has_removed() {
    for why in [BackendCloseReason::Closed, BackendCloseReason::Broken] {
        let mut harness = harness(2, |b| b.use_client_subnet = true);
        let stream = harness.connect(CLIENT).expect("taken");
        for n in 0..3 {
            harness.ask(stream, n, n.into());
        }
        let (first, _) = harness.received().remove(0);
        assert_eq!(harness.route(first).backend, BackendSlot(0));
        let mut next = Snapshot::clone(&harness.snapshot);
        next.generation += 1;
        next.backends[0] = None;
        next.pools[0].members = vec![BackendSlot(1)];
        harness.publish(Arc::new(next));
        harness.break_off(first, why);
        harness.settle();
        assert_eq!(harness.got(stream).len(), 3, "{why:?}");
        assert_eq!(harness.drops(DropReason::BackendConnectionFailed), 0, "{why:?}");
        harness.shard().check_invariants();
    }
}

#[test]
fn a_subnet_that_one_server_got_is_not_sent_to_another_after_a_reload() {
    let mut harness = harness(2, |b| b.use_client_subnet = true);
    let stream = harness.connect(CLIENT).expect("taken");
    harness.ask(stream, 1, 1);
    let (first, query) = take_received(&mut harness).remove(0);
    assert!(query.windows(4).any(|w| w == [0, 8, 0, 7]), "the option, with 24 bits of an address");
    // Neither server gets it by the next configuration.
    let mut next = Snapshot::clone(&harness.snapshot);
    next.generation += 1;
    for backend in next.backends.iter_mut().flatten() {
        Arc::make_mut(backend).use_client_subnet = false;
    }
    harness.publish(Arc::new(next));
    harness.break_off(first, BackendCloseReason::Broken);
    harness.settle();
    assert_eq!(harness.received().len(), 0, "the query would reveal it");
    assert_eq!(harness.drops(DropReason::BackendConnectionFailed), 1);
    harness.shard().check_invariants();
}

#[test]
fn answers_for_a_closed_client_are_dropped() {
    let mut harness = harness(2, |_| {});
    let stream = harness.connect(CLIENT).expect("taken");
    for n in 0..50 {
        harness.ask(stream, n, n.into());
    }
    harness.leave(stream);
    harness.servers_turn();
    let stats = &harness.live_state.shards()[0];
    assert_eq!((stats.responses.get(), harness.drops(DropReason::ClientGone)), (0, 50));
    assert_eq!((harness.shard().outstanding(), harness.shard().clients_open()), (0, 0));
    harness.shard().check_invariants();
}

#[test]
fn queries_of_a_closed_client_are_not_retried() {
    let mut harness = harness(2, |_| {});
    let stream = harness.connect(CLIENT).expect("taken");
    for n in 0..50 {
        harness.ask(stream, n, n.into());
    }
    harness.leave(stream);
    let (route, _) = harness.received().remove(0);
    harness.break_off(route, BackendCloseReason::Broken);
    assert_eq!((retries(&harness), harness.connections.len(), harness.shard().outstanding()), (0, 0, 0));
    assert_eq!(
        (harness.drops(DropReason::ClientGone), harness.drops(DropReason::BackendConnectionFailed)),
        (50, 0)
    );
    harness.shard().check_invariants();
}

#[test]
fn a_query_that_fills_its_frame_goes_without_the_clients_subnet() {
    let config = TestConfig::new(1);
    let mut harness = Harness::new(&config, 21);
    let mut snapshot = (*config.snapshot()).clone();
    let mut backend = (**snapshot.backends[0].as_ref().expect("one")).clone();
    backend.use_client_subnet = true;
    snapshot.backends[0] = Some(Arc::new(backend));
    snapshot.generation = 2;
    harness.publish(Arc::new(snapshot));
    let stream = harness.connect(CLIENT).expect("taken");
    let mut longest = query(7, 7, 1);
    // An OPT record whose only option fills the frame.
    longest[11] = 1;
    let data = usize::from(u16::MAX) - longest.len() - 11;
    let option = data - 4;
    longest.extend([0, 0, 41, 16, 0, 0, 0, 0, 0]);
    longest.extend((data as u16).to_be_bytes());
    longest.extend([0xfd, 0xe9]);
    longest.extend((option as u16).to_be_bytes());
    longest.resize(usize::from(u16::MAX), 0);
    harness.send(stream, &framed(&longest));
    assert_eq!(harness.drops(DropReason::QuerySendError), 0);
    assert_eq!(harness.received().iter().map(|(_, query)| query.len()).collect::<Vec<_>>(), [longest.len()]);
    assert_eq!(harness.live_state.shards()[0].backend(BackendSlot(0)).timeouts.get(), 0);
    harness.shard().check_invariants();
}

#[test]
fn a_delayed_answer_is_truncated_to_fit_a_datagram() {
    let mut harness = Harness::new(&TestConfig::new(1), 22);
    let text = "newServer{address='127.0.1.0:53', tcpOnly=true, healthCheckMode='up'}\n\
                addResponseAction(AllRule(), DelayResponseAction(100))\n";
    let compiled = support::config::configured(text, &dnslob::config::Slots::default(), 2);
    harness.publish(Arc::new(compiled.snapshot));
    let from: Client = client(CLIENT);
    harness.answer_at_length(from);
    harness.pass(50);
    assert!(harness.datagrams.is_empty());
    harness.pass(100);
    let (to, answer) = harness.answered();
    assert_eq!(to, from);
    assert_eq!((answer[2] & 2, answer[7], answer.len() <= 512), (2, 0, true), "TC, no records");
}

#[test]
fn a_slow_transfer_client_does_not_count_against_its_server() {
    let mut harness = harness(1, |b| b.connections.receive_timeout = TickDelta::from_ms(2_000));
    let stream = harness.connect(CLIENT).expect("taken");
    harness.set_portion(0);
    harness.send(stream, &framed(&query(3, 3, AXFR)));
    let (route, received) = take_received(&mut harness).remove(0);
    let filler = [&[0xc0, 0x0c, 0, 16, 0, 1, 0, 0, 0, 60, 0x75, 0x30][..], &[0; 30_000]].concat();
    harness.deliver(route, &framed(&answer(&received, &soa(), 1)));
    for _ in 0..10 {
        harness.deliver(route, &framed(&answer(&received, &filler, 1)));
    }
    harness.deliver(route, &framed(&answer(&received, &soa(), 1)));
    // A little at a time, for more than a minute.
    for _ in 0..80 {
        harness.take(stream, 5_000);
        harness.pass(1_000);
    }
    assert_eq!(harness.got(stream).len(), 12);
    let stats = harness.live_state.shards()[0].backend(BackendSlot(0));
    assert_eq!((stats.timeouts.get(), stats.connections.ended(BackendCloseReason::Silent).get()), (0, 0));
    let timed: u64 = (0..dnslob::stats::histogram::BUCKETS).map(|b| stats.latency.count(b)).sum();
    assert_eq!(timed, 0, "how long it took is the client's doing");
    assert_eq!(harness.shard().outstanding(), 0);
    harness.shard().check_invariants();
}

#[test]
fn an_unanswered_query_times_out_before_its_connection_counts_as_dead() {
    for seconds in [1, 5, 12, 30, 300] {
        let mut harness = harness(1, |b| b.connections.receive_timeout = TickDelta::from_ms(seconds * 1_000));
        let stream = harness.connect(CLIENT).expect("taken");
        harness.ask(stream, 1, 1);
        for _ in 0..seconds * 102 {
            harness.pass(10);
        }
        let stats = harness.live_state.shards()[0].backend(BackendSlot(0));
        let silent = stats.connections.ended(BackendCloseReason::Silent).get();
        assert_eq!((stats.timeouts.get(), silent), (1, 0), "{seconds} s");
        harness.shard().check_invariants();
    }
}

#[test]
fn a_transfer_closes_an_idle_backend_connection_to_get_its_own() {
    let mut harness = harness(1, |b| b.connections.connections = 1);
    let stream = harness.connect(CLIENT).expect("taken");
    harness.ask(stream, 1, 1);
    harness.settle();
    assert_eq!(harness.connections.len(), 1, "kept");
    harness.send(stream, &framed(&query(2, 2, AXFR)));
    let zone = [framed(&answer(&query(2, 2, AXFR), &[soa(), soa()].concat(), 2))].concat();
    assert_eq!(harness.drops(DropReason::OutstandingFull), 0);
    let (route, received) = take_received(&mut harness).remove(0);
    let mut zone = zone;
    zone[2..4].copy_from_slice(&received[..2]);
    harness.deliver(route, &zone);
    assert_eq!(harness.got(stream).len(), 2);
}

#[test]
fn a_transfer_with_an_invalid_first_message_goes_to_the_next_server() {
    let mut harness = harness(2, |_| {});
    let stream = harness.connect(CLIENT).expect("taken");
    harness.send(stream, &framed(&query(3, 3, AXFR)));
    let (route, received) = take_received(&mut harness).remove(0);
    assert_eq!(harness.route(route).backend, BackendSlot(0));
    // An answer to another question.
    let mut other = answer(&received, &soa(), 1);
    other[13] ^= 1;
    harness.deliver(route, &framed(&other));
    let (route, received) = take_received(&mut harness).remove(0);
    assert_eq!(harness.route(route).backend, BackendSlot(1));
    harness.deliver(route, &framed(&answer(&received, &[soa(), soa()].concat(), 2)));
    assert_eq!((harness.got(stream).len(), harness.ended.get(&stream)), (1, None));
    harness.shard().check_invariants();
}

#[test]
fn a_transfer_without_an_answer_closes_its_backend_connection() {
    let mut harness = harness(1, |b| b.connections.receive_timeout = TickDelta::from_ms(1_000));
    let stream = harness.connect(CLIENT).expect("taken");
    harness.send(stream, &framed(&query(3, 3, AXFR)));
    harness.pass(3_000);
    assert_eq!((harness.shard().backend_connections_open(), harness.shard().outstanding()), (0, 0));
    harness.shard().check_invariants();
}

#[test]
fn a_connection_closed_by_its_server_is_not_reopened_for_its_queries() {
    let mut harness = harness(1, |_| {});
    let stream = harness.connect(CLIENT).expect("taken");
    harness.set_portion(0);
    harness.send(stream, &framed(&query(3, 3, AXFR)));
    let (route, received) = take_received(&mut harness).remove(0);
    let filler = [&[0xc0, 0x0c, 0, 16, 0, 1, 0, 0, 0, 60, 0x75, 0x30][..], &[0; 30_000]].concat();
    let mut bytes = framed(&answer(&received, &soa(), 1));
    (0..10).for_each(|_| bytes.extend(framed(&answer(&received, &filler, 1))));
    bytes.extend(framed(&answer(&received, &soa(), 1)));
    // The last bytes arrive together with the close, before reading could be paused.
    harness.sim.set_read_max(bytes.len());
    harness.sim.send(route, &bytes);
    harness.sim.end_announced(route);
    harness.run();
    assert_eq!(harness.sim.closed(route), Some(Closed::Backend(Some(BackendCloseReason::Closed))));
    assert!(harness.connections.is_empty(), "no new connection");
    harness.take(stream, usize::MAX);
    harness.pass(0);
    assert_eq!(harness.got(stream).len(), 12);
    assert_eq!(harness.live_state.shards()[0].backend(BackendSlot(0)).connections.opened.get(), 1);
    assert_eq!((harness.shard().backend_connections_open(), harness.shard().outstanding()), (0, 0));
    harness.shard().check_invariants();
}

#[test]
fn a_transfer_with_a_message_dropped_by_a_rule_closes_its_connection() {
    let mut harness = Harness::new(&TestConfig::new(1), 23);
    let text = "newServer{address='127.0.1.0:53', healthCheckMode='up'}\n\
                addXFRResponseAction(QTypeRule('AXFR'), DropResponseAction())\n";
    let compiled = support::config::configured(text, &dnslob::config::Slots::default(), 2);
    harness.publish(Arc::new(compiled.snapshot));
    let stream = harness.connect(CLIENT).expect("taken");
    harness.send(stream, &framed(&query(3, 3, AXFR)));
    let (route, received) = take_received(&mut harness).remove(0);
    harness.deliver(route, &framed(&answer(&received, &soa(), 1)));
    assert_eq!((harness.got(stream).len(), harness.ended[&stream]), (0, ClientCloseReason::Transfer));
    assert_eq!((harness.drops(DropReason::ResponseRule), harness.connections.len()), (1, 0));
    assert_eq!(harness.shard().outstanding(), 0);
    harness.shard().check_invariants();
}

/// A new connection that is closed without an answer: the query is sent as often as `retries` says,
/// if need be to the same server.
#[test]
fn a_query_whose_only_server_closes_new_connections_has_its_tries() {
    // With and without a message of no length before.
    for (tries, servfail, sent) in
        [(1, false, &[][..]), (3, false, &[]), (5, true, &[]), (3, false, &[0, 0]), (5, true, &[0, 3, 1])]
    {
        let mut config = TestConfig::new(1);
        config.globals.servfail_when_no_server = servfail;
        config.backends[0].as_mut().expect("one").connections.tries = tries;
        let mut harness = Harness::new(&config, 24);
        let stream = harness.connect(CLIENT).expect("taken");
        harness.ask(stream, 7, 7);
        for attempt in 0..tries {
            let (route, _) =
                harness.received().into_iter().next().unwrap_or_else(|| panic!("no attempt {attempt}"));
            if sent.is_empty() {
                harness.break_off(route, BackendCloseReason::Closed);
            } else {
                harness.connections.remove(&route);
                harness.deliver(route, sent);
                assert_eq!(harness.sim.closed(route), Some(Closed::Backend(None)));
            }
        }
        assert!(harness.connections.is_empty(), "no further attempt");
        assert_eq!(retries(&harness), u64::from(tries) - 1);
        harness.pass(0);
        let got = harness.got(stream);
        if servfail {
            let [answer] = &got[..] else { panic!("one answer, not {got:?}") };
            assert_eq!((&answer[..2], answer[2] >> 7, answer[3] & 15), (&[0, 7][..], 1, 2));
        } else {
            assert!(got.is_empty());
            for _ in 0..100 {
                harness.pass(10);
            }
            assert_eq!(harness.ended.get(&stream), Some(&ClientCloseReason::Unanswered), "{tries} tries");
        }
        harness.shard().check_invariants();
    }
}

/// What a server sends in answer to AXFR is passed on, even if it is no zone.
#[test]
fn a_transfer_that_does_not_begin_with_its_soa_is_passed_on() {
    let mut harness = harness(1, |_| {});
    let stream = harness.connect(CLIENT).expect("taken");
    harness.send(stream, &framed(&query(3, 3, AXFR)));
    let (route, received) = take_received(&mut harness).remove(0);
    let address = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01";
    harness.deliver(route, &framed(&answer(&received, address, 1)));
    assert_eq!(harness.got(stream).len(), 1);
    harness.deliver(route, &framed(&answer(&received, &soa(), 1)));
    assert_eq!(harness.got(stream).len(), 2);
    harness.break_off(route, BackendCloseReason::Closed);
    harness.pass(0);
    assert_eq!(harness.ended[&stream], ClientCloseReason::Transfer);
    harness.shard().check_invariants();
}

/// A function that fails on a message of a transfer: the client gets one SERVFAIL, and no more.
#[test]
fn a_transfer_on_whose_message_a_function_fails_ends_with_servfail() {
    let mut harness = Harness::new(&TestConfig::new(1), 29);
    let text = "newServer{address='127.0.1.0:53', healthCheckMode='up'}\n\
                addXFRResponseAction(AllRule(), LuaResponseAction(function() error('x') end))\n";
    let compiled = support::config::configured(text, &dnslob::config::Slots::default(), 2);
    harness.publish(Arc::new(compiled.snapshot));
    let stream = harness.connect(CLIENT).expect("taken");
    harness.send(stream, &framed(&query(3, 3, AXFR)));
    let (route, received) = take_received(&mut harness).remove(0);
    harness.deliver(route, &framed(&answer(&received, &soa(), 1)));
    harness.deliver(route, &framed(&answer(&received, &soa(), 1)));
    let got = harness.got(stream);
    let [answer] = &got[..] else { panic!("one answer, not {got:?}") };
    assert_eq!((&answer[..2], answer[2] >> 7, answer[3] & 15), (&[0, 3][..], 1, 2));
    assert_eq!((harness.connections.len(), harness.shard().outstanding()), (0, 0));
    harness.shard().check_invariants();
}

/// Not each message of a signed transfer has a signature: a later one covers them all.
#[test]
fn messages_of_a_signed_transfer_are_not_edited() {
    let text = "newServer{address='127.0.1.0:53', healthCheckMode='up'}\n\
                addXFRResponseAction(AllRule(), LimitTTLResponseAction(1, 2))\n\
                addXFRResponseAction(AllRule(), ClearRecordTypesResponseAction(DNSQType.TXT))\n";
    for signed in [false, true] {
        let mut harness = Harness::new(&TestConfig::new(1), 31);
        let compiled = support::config::configured(text, &dnslob::config::Slots::default(), 2);
        harness.publish(Arc::new(compiled.snapshot));
        let stream = harness.connect(CLIENT).expect("taken");
        let mut asked = query(3, 3, AXFR);
        // Which a server clears, or copies to the first message only.
        (asked[2], asked[3]) = (1, 0x10);
        if signed {
            asked[11] += 1;
            asked.extend([1, b'k', 0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 3, b'm', b'a', b'c']);
        }
        harness.send(stream, &framed(&asked));
        let (route, received) = take_received(&mut harness).remove(0);
        let mut message = answer(&received[..received.len() - if signed { 16 } else { 0 }], &soa(), 1);
        (message[2], message[3], message[11]) = (0x80, 0, 0);
        harness.deliver(route, &framed(&message));
        let got = harness.got(stream);
        let [passed] = &got[..] else { panic!("one message, not {got:?}") };
        assert_eq!(passed == &message, signed, "{signed}: {passed:?} {message:?}");
        assert_eq!(passed[2..4] == [0x81, 0x10], !signed, "the client's RD and CD");
        harness.shard().check_invariants();
    }
}

/// What rules say of answers is true of each message of a transfer.
#[test]
fn the_messages_of_a_transfer_get_what_rules_set() {
    let text = "newServer{address='127.0.1.0:53', healthCheckMode='up'}\n\
                addXFRResponseAction(AllRule(), SetMaxReturnedTTLResponseAction(7))\n\
                addXFRResponseAction(AllRule(), SetExtendedDNSErrorResponseAction(15))\n";
    let mut harness = Harness::new(&TestConfig::new(1), 32);
    let compiled = support::config::configured(text, &dnslob::config::Slots::default(), 2);
    harness.publish(Arc::new(compiled.snapshot));
    let stream = harness.connect(CLIENT).expect("taken");
    harness.send(stream, &framed(&query(3, 3, AXFR)));
    let (route, received) = take_received(&mut harness).remove(0);
    let opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";
    for _ in 0..2 {
        let mut message = answer(&received, &[&soa()[..], opt].concat(), 1);
        message[11] = 1;
        harness.deliver(route, &framed(&message));
    }
    let got = harness.got(stream);
    assert_eq!(got.len(), 2);
    for message in got {
        let ttl = received.len() + 6;
        assert_eq!(message[ttl..ttl + 4], [0, 0, 0, 7]);
        assert!(message.ends_with(b"\0\x06\0\x0f\0\x02\0\x0f"), "{message:x?}");
    }
    harness.shard().check_invariants();
}

/// A signature covers messages before it with the id that they had at the server: a transfer has the
/// client's there, whatever ids other queries have.
#[test]
fn a_transfer_has_its_clients_id_at_its_server() {
    let mut harness = harness(1, |_| {});
    let stream = harness.connect(CLIENT).expect("taken");
    for n in 0..100 {
        harness.ask(stream, n, n.into());
    }
    let taken: Vec<u16> =
        take_received(&mut harness).iter().map(|(_, q)| u16::from_be_bytes([q[0], q[1]])).collect();
    assert_eq!(taken.len(), 100);
    let stream = harness.connect("127.0.0.1:4001").expect("taken");
    for id in taken {
        harness.send(stream, &framed(&query(id, 3, AXFR)));
        let (route, received) = take_received(&mut harness).remove(0);
        assert_eq!(received[..2], id.to_be_bytes());
        let mut other = answer(&received, &soa(), 1);
        other[0] ^= 0x55;
        let before = harness.got(stream).len();
        harness.deliver(route, &framed(&other));
        assert_eq!(harness.got(stream).len(), before, "a message with another id");
        harness.deliver(route, &framed(&answer(&received, &[soa(), soa()].concat(), 2)));
        let got = harness.got(stream);
        assert_eq!((got.len(), &got[before][..2]), (before + 1, &id.to_be_bytes()[..]));
    }
    assert_eq!((harness.drops(DropReason::ResponseForeign), harness.shard().outstanding()), (100, 100));
    harness.shard().check_invariants();
}

/// The server drops SYNs, as behind a filter: each query that tries it waits.
#[test]
fn a_server_that_accepts_no_connection_is_passed_over() {
    let mut harness = harness(2, |b| b.connections.connect_timeout = TickDelta::from_ms(5_000));
    harness.behaviours[0] = Behaviour::NeverConnects;
    let stream = harness.connect(CLIENT).expect("taken");
    let mut n = 0;
    let mut ask = |harness: &mut Harness| {
        harness.ask(stream, n, n.into());
        n += 1;
        let before = harness.got(stream).len();
        let mut waited = 0;
        harness.settle();
        while harness.got(stream).len() == before && waited < 6_000 {
            harness.pass(50);
            harness.settle();
            waited += 50;
        }
        waited
    };
    for avoided_s in [8, 16, 32, 64, 64] {
        let waited = ask(&mut harness);
        assert!((1_500..=1_600).contains(&waited), "{waited} ms");
        for _ in 0..avoided_s - 1 {
            assert!(ask(&mut harness) <= 50, "it is avoided for {avoided_s} s");
            harness.pass(900);
        }
        harness.pass(2_000 + avoided_s * 100);
    }
    harness.shard().check_invariants();
}

#[test]
fn the_only_server_has_all_the_time_to_accept_a_connection() {
    let mut harness = harness(1, |b| b.connections.connect_timeout = TickDelta::from_ms(5_000));
    harness.behaviours[0] = Behaviour::NeverConnects;
    let stream = harness.connect(CLIENT).expect("taken");
    harness.ask(stream, 1, 1);
    let ended = |harness: &Harness| {
        let stats = harness.live_state.shards()[0].backend(BackendSlot(0));
        stats.connections.ended(BackendCloseReason::ConnectTimeout).get()
    };
    harness.pass(4_900);
    assert_eq!(ended(&harness), 0);
    harness.pass(200);
    assert_eq!(ended(&harness), 1);
}
