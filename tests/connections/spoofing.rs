//! Answers that match no query: guesses are noticed and met by new ports or by TCP; what a slow
//! server sends is no attack.

use dnslob::engine::sim::Port;

use super::*;

/// Foreign datagrams in a second that are no burst.
const BOUND: u16 = 100;

fn harness(set: impl Fn(&mut dnslob::model::Backend)) -> Harness {
    let mut config = TestConfig::new(1);
    config.backends.iter_mut().flatten().for_each(set);
    let mut harness = Harness::new(&config, 20);
    harness.pass(1_000);
    harness
}

/// Sends queries by UDP; returns what the server gets.
fn ask(harness: &mut Harness, numbers: std::ops::Range<u16>) -> Vec<(Port, Vec<u8>)> {
    for number in numbers {
        harness.sim.ask(0, client(CLIENT), &query(number, number.into(), 1));
    }
    harness.run();
    let queries = harness.datagrams.drain(..).map(|seen| {
        let Seen::Query { port, bytes, .. } = seen else { panic!("{seen:?}") };
        (port, bytes)
    });
    queries.collect()
}

/// Sends answers to a query with other ids than its own to a port.
fn guess(harness: &mut Harness, port: Port, of: &[u8], count: u16) {
    for number in 1..=count {
        let mut forged = answer(of, &[], 0);
        let id = u16::from_be_bytes([forged[0], forged[1]]).wrapping_add(number);
        forged[..2].copy_from_slice(&id.to_be_bytes());
        harness.sim.answer(port, TickDelta(0), &forged);
    }
    harness.run();
}

/// Returns what was counted of the server: foreign answers, bursts, changes of sockets.
fn counted(harness: &Harness) -> (u64, u64, u64) {
    let stats = harness.live_state.shards()[0].backend(BackendSlot(0));
    (stats.foreign.get(), stats.foreign_bursts.get(), stats.redraws.get())
}

#[test]
fn a_burst_of_guesses_is_met_by_new_sockets_and_no_query_is_lost() {
    let mut harness = harness(|_| {});
    let before = ask(&mut harness, 0..200);
    let (port, of) = before[0].clone();
    guess(&mut harness, port, &of, BOUND);
    assert_eq!(counted(&harness), (BOUND.into(), 0, 0), "a few are none");
    guess(&mut harness, port, &of, 5_000);
    assert_eq!(counted(&harness), (u64::from(BOUND) + 5_000, 1, 1), "once in a second");
    let after = ask(&mut harness, 200..400);
    let old: BTreeSet<_> = before.iter().map(|(port, _)| port.route.socket).collect();
    assert!(after.iter().all(|(port, _)| !old.contains(&port.route.socket)), "all leave by new sockets");
    // A true answer counts on the socket of its query, and nowhere else.
    let (other, _) = after[0];
    harness.sim.answer(other, TickDelta(0), &answer(&of, &[], 0));
    harness.run();
    assert!(harness.datagrams.is_empty(), "an old query by a new socket");
    for (port, query) in before.iter().chain(&after) {
        harness.sim.answer(*port, TickDelta(0), &answer(query, &[], 0));
    }
    harness.run();
    assert_eq!(harness.datagrams.len(), 400, "by old and by new sockets");
    harness.datagrams.clear();
    // The old ones are closed when nothing can be outstanding on them: guesses have lost their aim.
    harness.pass(3_500);
    let foreign = counted(&harness).0;
    guess(&mut harness, port, &of, 5_000);
    assert_eq!(counted(&harness), (foreign, 1, 1));
    // Who finds the new ones makes them change once more.
    let next = ask(&mut harness, 400..401);
    guess(&mut harness, next[0].0, &next[0].1, 5_000);
    assert_eq!(counted(&harness).1, 2);
    assert!(ask(&mut harness, 401..500).iter().all(|(port, _)| port.route != next[0].0.route));
    harness.shard().check_invariants();
}

#[test]
fn other_questions_under_a_right_id_are_guesses_too() {
    let mut harness = harness(|_| {});
    let (port, of) = ask(&mut harness, 7..8).remove(0);
    let mut forged = answer(&query(0, 8, 1), &[], 0);
    forged[..2].copy_from_slice(&of[..2]);
    for _ in 0..=BOUND {
        harness.sim.answer(port, TickDelta(0), &forged);
    }
    harness.run();
    assert_eq!(counted(&harness), (u64::from(BOUND) + 1, 1, 1));
    assert_eq!(harness.drops(DropReason::ResponseMismatch), u64::from(BOUND) + 1);
}

#[test]
fn queries_go_over_tcp_while_it_lasts_where_the_server_says_so() {
    let mut harness = harness(|backend| backend.connections.while_spoofed = true);
    let (port, of) = ask(&mut harness, 0..1).remove(0);
    guess(&mut harness, port, &of, 200);
    assert!(ask(&mut harness, 1..50).is_empty(), "none leaves as a datagram");
    assert_eq!(harness.received().len(), 49);
    harness.settle();
    assert_eq!(harness.datagrams.len(), 49, "and all are answered");
    harness.datagrams.clear();
    harness.sim.answer(port, TickDelta(0), &answer(&of, &[], 0));
    harness.run();
    assert_eq!(harness.datagrams.len(), 1, "as is the one from before");
    harness.datagrams.clear();
    // A new configuration does not end it.
    let mut snapshot = (*harness.snapshot).clone();
    snapshot.generation += 1;
    harness.sim.publish(Arc::new(snapshot));
    harness.pass(50_000);
    assert!(ask(&mut harness, 50..60).is_empty());
    harness.settle();
    harness.datagrams.clear();
    harness.pass(11_000);
    assert_eq!(ask(&mut harness, 60..70).len(), 10, "a minute after the last burst");
    harness.shard().check_invariants();
}

#[test]
fn answers_after_their_time_outs_are_no_attack() {
    let mut harness = harness(|_| {});
    let asked = ask(&mut harness, 0..3_000);
    harness.pass(2_100);
    assert_eq!(harness.drops(DropReason::Timeout), 3_000);
    // Their slots have other queries by then.
    let mut current = Vec::new();
    for _ in 0..10 {
        for (port, query) in ask(&mut harness, 10_000..11_500) {
            current.push((port, query));
        }
        for (port, query) in current.drain(..) {
            harness.sim.answer(port, TickDelta(0), &answer(&query, &[], 0));
        }
        harness.run();
        harness.datagrams.clear();
    }
    for (port, query) in &asked {
        harness.sim.answer(*port, TickDelta(0), &answer(query, &[], 0));
    }
    harness.run();
    assert_eq!(counted(&harness), (0, 0, 0));
    assert_eq!(harness.drops(DropReason::ResponseLate), 3_000, "and all are known to be late");
    // Guesses among them are still found.
    let (port, of) = asked[0].clone();
    guess(&mut harness, port, &of, 5_000);
    assert_eq!(counted(&harness).1, 1);
}

#[test]
fn a_network_that_doubles_every_packet_is_no_attack() {
    let mut harness = harness(|_| {});
    for _ in 0..20 {
        for (port, query) in ask(&mut harness, 0..1_000) {
            harness.sim.answer(port, TickDelta(0), &answer(&query, &[], 0));
            harness.sim.answer(port, TickDelta(0), &answer(&query, &[], 0));
        }
        harness.run();
        harness.datagrams.clear();
    }
    assert_eq!(counted(&harness).1, 0);
    assert!(harness.drops(DropReason::ResponseDuplicate) > 19_000);
}
