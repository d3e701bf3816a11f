//! Single steps as tables; long random runs against a model.

use std::collections::HashMap;

use proptest::prelude::*;

use crate::shard::dispatch::outstanding::*;

const A: BackendSlot = BackendSlot(0);
const B: BackendSlot = BackendSlot(3);

fn pending(question: u64) -> PendingQuery {
    let peer = Endpoint { ip: [1; 16], scope: 0, port: 99 };
    let client = Client { peer, listener: ListenerSlot(1), local: LocalSlot(2), connection: None };
    PendingQuery { client, client_id: 7, question, waiter: Waiter::Client(None), pool: PoolSlot(0), flags: 0 }
}

struct World {
    out: Outstanding,
    rng: ShardRng,
    queue: Queue,
    batch: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut out = Outstanding::default();
        out.attach(A, 4);
        out.attach(B, 1);
        let queue = out.queue(TickDelta::from_ms(1_000)).expect("a queue");
        Self { out, rng: ShardRng::from_seed(seed), queue, batch: 0 }
    }

    fn claim(&mut self, backend: BackendSlot, question: u64, max: u32, now: Tick) -> Option<Key> {
        self.batch += 1;
        let terms = Terms { max, now, batch: self.batch, queue: self.queue, connection: None };
        self.out.claim(backend, &pending(question), terms, &mut self.rng)
    }
}

fn ms(n: u64) -> Tick {
    Tick(n * 1_000_000)
}

#[test]
fn response_finds_its_query_once() {
    let mut w = World::new(1);
    let key = w.claim(A, 42, 10, ms(5)).expect("a slot");
    let Lookup::Live(in_flight) = w.out.find(key) else { panic!("live") };
    assert_eq!((in_flight.pending, in_flight.claimed_at), (pending(42), ms(5)));
    let stranger = Key { id: key.id.wrapping_add(1), ..key };
    assert_eq!(w.out.find(stranger), Lookup::Foreign);
    let other_socket = Route { socket: SocketSlot::from_number(key.route.socket.number() ^ 1), ..key.route };
    assert_eq!(w.out.find(Key { route: other_socket, ..key }), Lookup::Foreign);
    w.out.settle(key);
    assert_eq!(w.out.find(key), Lookup::Settled(42));
    w.out.settle(key);
    assert_eq!(w.out.totals(), [1, 1, 0, 0], "settled once");
    w.out.check_invariants();
}

#[test]
fn timeout_is_never_early_and_at_most_a_slice_late() {
    let mut w = World::new(2);
    let key = w.claim(A, 1, 10, ms(0)).expect("a slot");
    let deadline = w.out.next_deadline().expect("a deadline");
    assert!(deadline >= ms(1_000) && deadline <= ms(1_002), "{deadline:?}");
    assert_eq!(w.out.due(ms(1_000) - TickDelta(1)), None);
    assert_eq!(w.out.due(deadline).map(|d| d.0), Some(key));
    w.out.expire(key);
    assert_eq!(w.out.find(key), Lookup::Expired(1));
    assert_eq!(w.out.next_deadline(), None);
    w.out.check_invariants();
}

#[test]
fn full_table_refuses_and_counts_nothing() {
    let mut w = World::new(3);
    for n in 0..5 {
        assert!(w.claim(A, n, 5, ms(n)).is_some());
    }
    assert_eq!(w.claim(A, 9, 5, ms(9)), None);
    assert_eq!(w.out.live_of(A), 5);
    w.out.check_invariants();
}

#[test]
fn most_ids_of_a_socket_can_be_used() {
    let mut w = World::new(4);
    let mut keys = Vec::new();
    while let Some(key) = w.claim(B, 1, u32::MAX, ms(1)) {
        keys.push(key);
    }
    assert!(keys.len() > 40_000, "one socket had {}", keys.len());
    w.out.check_invariants();
    for key in keys {
        w.out.settle(key);
    }
    assert_eq!(w.out.live(), 0);
    w.out.check_invariants();
}

#[test]
fn detach_releases_live_queries() {
    let mut w = World::new(5);
    for n in 0..3 {
        w.claim(A, n, 10, ms(n));
    }
    w.claim(B, 0, 10, ms(3));
    w.out.detach(A);
    assert_eq!(w.out.totals(), [4, 0, 0, 3]);
    assert_eq!(w.claim(A, 0, 10, ms(4)), None, "no table, no slot");
    w.out.check_invariants();
}

#[test]
fn unused_spans_of_old_configurations_are_replaced() {
    let mut w = World::new(8);
    for generation in 0..10 {
        w.out.renew_queues();
        let kept = w.out.queue(TickDelta::from_ms(1_000)).expect("a queue");
        assert_eq!(kept, w.queue, "generation {generation}");
        for span in 0..100 {
            w.out.queue(TickDelta::from_ms(2_000 + generation * 100 + span)).expect("old ones are replaced");
        }
    }
    let more = (0..400).filter_map(|n| w.out.queue(TickDelta::from_ms(9_000 + n))).count();
    assert!(more < 255, "a span in use is never given away: {more}");
    assert_eq!(w.out.queue(TickDelta::from_ms(1_000)), Some(w.queue));
}

#[test]
fn ids_are_spread_over_all_sixteen_bits() {
    let mut w = World::new(7);
    let mut high = 0;
    for n in 0..4_000 {
        let key = w.claim(A, n, u32::MAX, ms(0)).expect("a slot");
        high += u32::from(key.id >> 15);
        w.out.settle(key);
    }
    assert!((1_800..2_200).contains(&high), "{high} of 4000 ids had their top bit set");
}

proptest! {
    #[test]
    fn long_run_agrees_with_a_map(
        seed in any::<u64>(),
        steps in prop::collection::vec((0_u8..4, any::<u16>(), 0_u64..400), 1..400)
    ) {
        let mut w = World::new(seed);
        let slow = w.out.queue(TickDelta::from_ms(3_000)).expect("a queue");
        let mut model: HashMap<(u16, u16, u16), (Key, u64, Tick)> = HashMap::new();
        let mut now = ms(1);
        for (n, (what, pick, wait)) in steps.into_iter().enumerate() {
            now = now + TickDelta::from_ms(wait);
            while let Some((key, in_flight)) = w.out.due(now) {
                let name = (key.route.backend.0, key.route.socket.number(), key.id);
                let (_, question, armed) = model.remove(&name).expect("what is due was claimed");
                prop_assert_eq!(question, in_flight.pending.question);
                prop_assert!(now >= armed);
                w.out.expire(key);
            }
            prop_assert!(model.values().all(|m| m.2 + TickDelta::from_ms(7) > now), "nothing is overdue");
            let backend = if pick % 3 == 0 { B } else { A };
            let chosen = model.values().nth(usize::from(pick) % model.len().max(1)).copied();
            match (what, chosen) {
                (0 | 1, _) => {
                    let key = w.claim(backend, n as u64, 300, now);
                    if let Some(key) = key {
                        let name = (key.route.backend.0, key.route.socket.number(), key.id);
                        let span = TickDelta::from_ms(1_000);
                        prop_assert!(model.insert(name, (key, n as u64, now + span)).is_none(), "a live id is not drawn");
                    }
                }
                (2, Some((key, ..))) => {
                    prop_assert!(matches!(w.out.find(key), Lookup::Live(_)));
                    w.out.settle(key);
                    model.remove(&(key.route.backend.0, key.route.socket.number(), key.id));
                }
                (_, Some((key, question, _))) => {
                    w.out.rearm(key, now, slow);
                    let name = (key.route.backend.0, key.route.socket.number(), key.id);
                    model.insert(name, (key, question, now + TickDelta::from_ms(3_000)));
                }
                (_, None) => {}
            }
            prop_assert_eq!(w.out.live() as usize, model.len());
            w.out.check_invariants();
        }
        let end = now + TickDelta::from_ms(10_000);
        while let Some((key, _)) = w.out.due(end) {
            w.out.expire(key);
        }
        prop_assert_eq!(w.out.live(), 0, "drains to zero");
        w.out.check_invariants();
    }
}
