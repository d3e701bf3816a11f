//! Tests the memory of unfinished queries: the slowest of large ones make room.

use super::*;

const LONG: usize = 40_000;

/// Returns a harness without limits on time and reads.
fn harness() -> Harness {
    let mut config = TestConfig::new(1);
    let limits = &mut config.globals.client_connections;
    (limits.overload_percent, limits.reads_per_query) = (0, 0);
    limits.receive_timeout = TickDelta::from_ms(60_000);
    Harness::new(&config, 60)
}

/// Returns the beginning of a query of the greatest length.
fn stalled() -> Vec<u8> {
    let mut bytes = framed(&padded(9, 65_535));
    bytes.truncate(60_000);
    bytes
}

#[test]
fn the_slowest_unfinished_queries_make_room() {
    let mut harness = harness();
    let small = harness.connect(CLIENT).expect("taken");
    let (short, long) = (framed(&padded(1, 300)), framed(&padded(2, LONG)));
    harness.send(small, &short[..200]);
    let slow = harness.connect(CLIENT).expect("taken");
    let mut sent = 0;
    let mut stalls = Vec::new();
    while sent < long.len() {
        let part = &long[sent..(sent + 600).min(long.len())];
        harness.send(slow, part);
        sent += part.len();
        for _ in 0..10 {
            let stream = harness.connect(CLIENT).expect("taken");
            harness.send(stream, &stalled());
            stalls.push(stream);
        }
        // A byte now and then is no progress.
        if !harness.ended.contains_key(&stalls[0]) {
            harness.send(stalls[0], &[0]);
        }
        harness.pass(20);
        harness.shard().check_invariants();
    }
    assert_eq!(harness.ended.get(&small), None);
    harness.send(small, &short[200..]);
    harness.settle();
    assert_eq!((harness.got(small).len(), harness.got(slow).len()), (1, 1), "both are answered");
    let ended = harness.ends(ClientCloseReason::ReadBacklog);
    assert!((100..200).contains(&ended), "{ended} of {}", stalls.len());
    // The oldest, in their order.
    let gone = |stream| harness.ended.get(stream) == Some(&ClientCloseReason::ReadBacklog);
    let (first, last) = stalls.split_at(ended as usize);
    assert!(first.iter().all(gone) && !last.iter().any(gone));
    assert_eq!(harness.ended.len(), first.len());
    // What ends in another way is not counted any more.
    for stream in last {
        harness.leave(*stream);
    }
    harness.shard().check_invariants();
    for _ in 0..300 {
        let stream = harness.connect(CLIENT).expect("taken");
        harness.send(stream, &stalled());
    }
    assert_eq!(harness.ends(ClientCloseReason::ReadBacklog), ended);
    harness.shard().check_invariants();
}
