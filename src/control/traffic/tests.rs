use super::fixture::record;
use super::*;
use crate::base::addr::{BackendSlot, mapped};
use crate::control::fixture;
use crate::stats::drop_reason::DropReason;
use crate::stats::top::{LISTS, NXDOMAIN, SERVFAIL};
use crate::stats::traffic_ring::Finished;
use crate::wire::name;

/// A thread's state without the thread, and the rings that it reads.
struct Fixture {
    live_state: Arc<LiveState>,
    snapshot: Arc<Snapshot>,
    state: State,
    stats: TrafficStats,
    now: Tick,
}

const START: u64 = 1_000;

impl Fixture {
    fn new(records: usize) -> Self {
        let live_state = Arc::new(LiveState::new(2, 2));
        live_state.shards().iter().for_each(|shard| shard.traffic.open(1_024));
        let mut snapshot = fixture::snapshot(1, &[0], &[0, 1]);
        let other = crate::model::Pool { name: "other".to_owned(), ..snapshot.pools[0].clone() };
        snapshot.pools.push(other);
        let now = Tick(START * SECOND);
        let state = State::new(records, &mut ShardRng::from_seed(3), live_state.shards(), now);
        Self { live_state, snapshot: Arc::new(snapshot), state, stats: TrafficStats::default(), now }
    }

    /// A shard writes records of this name.
    fn write(&self, shard: usize, count: u64, qname: &str, of: impl Fn(&mut Finished)) {
        let mut finished = Finished { at: self.now, ..record(qname, START).finished };
        of(&mut finished);
        let wire = if qname.is_empty() { Vec::new() } else { name::from_text(qname).expect("a name") };
        (0..count).for_each(|_| self.live_state.shards()[shard].traffic.write(&finished, &wire));
    }

    fn drain(&mut self) {
        self.state.drain(&self.live_state, &self.snapshot, self.now, &self.stats);
    }

    fn pass(&mut self, seconds: u64) {
        self.now = Tick(self.now.0 + seconds * SECOND);
        self.drain();
    }

    fn list(&self, request: &TopRequest) -> TopList {
        self.state.top(request, self.now).expect("a list")
    }

    fn rows(&self, request: &TopRequest) -> Vec<(String, u64)> {
        self.list(request).rows.into_iter().map(|row| (row.label, row.count)).collect()
    }
}

fn named(what: &str) -> TopRequest {
    TopRequest::named(what, 10).expect("a list of this name")
}

fn row(label: &str, count: u64) -> (String, u64) {
    (label.to_owned(), count)
}

#[test]
fn each_list_has_what_it_is_named_after() {
    let mut traffic = Fixture::new(4_096);
    traffic.write(0, 20, "www.Example.com", |f| f.answer_bytes = 500);
    traffic.write(1, 5, "bad.example.org", |f| f.flags[1] = SERVFAIL);
    traffic.write(1, 4, "no.example.org", |f| {
        f.flags[1] = NXDOMAIN;
        f.ip = mapped([198, 51, 100, 9].into());
    });
    traffic.write(0, 3, "late.example.net", |f| f.end = End::Dropped(DropReason::Timeout));
    traffic.write(0, 2, "", |f| {
        f.end = End::Dropped(DropReason::Timeout);
        f.qtype = 0;
    });
    traffic.write(1, 6, "slow.example.net", |f| {
        f.latency_us = 250_000;
        f.qtype = 28;
    });
    traffic.drain();
    for (what, first) in [
        ("clients", row("192.0.2.1", 36)),
        ("networks", row("192.0.2.0/24", 36)),
        ("bandwidth", row("192.0.2.1", 11_600)),
        ("names", row("www.example.com.", 20)),
        ("tlds", row("com.", 20)),
        ("domains", row("example.com.", 20)),
        ("types", row("A", 32)),
        ("rcodes", row("NOERROR", 26)),
        ("slow-names", row("slow.example.net.", 6)),
        ("slow-domains", row("example.net.", 6)),
        ("timeout-names", row("late.example.net.", 3)),
        ("timeout-domains", row("example.net.", 3)),
        ("timeout-clients", row("192.0.2.1", 5)),
        ("servfail-names", row("bad.example.org.", 5)),
        ("servfail-domains", row("example.org.", 5)),
        ("servfail-clients", row("192.0.2.1", 5)),
        ("nxdomain-names", row("no.example.org.", 4)),
        ("nxdomain-domains", row("example.org.", 4)),
        ("nxdomain-clients", row("198.51.100.9", 4)),
    ] {
        let list = traffic.list(&named(what));
        let top = list.rows.first().map(|r| (r.label.clone(), r.count, r.error));
        assert_eq!(top, Some((first.0, first.1, 0)), "{what}");
        assert!(!list.is_estimate && list.share == 1.0, "{what}");
    }
    let timeouts = traffic.list(&named("timeout-names"));
    assert_eq!((timeouts.total, timeouts.unknown, timeouts.unlisted_max), (5, 2, Some(2)));
    // What is not known is missing in the lists of all queries, too, and no type or name of its own.
    for (what, all) in [("names", 40), ("types", 40), ("tlds", 40), ("clients", 40), ("rcodes", 35)] {
        let list = traffic.list(&named(what));
        let unknown = if matches!(what, "clients" | "rcodes") { 0 } else { 2 };
        assert_eq!((list.total, list.unknown), (all, unknown), "{what}");
    }
    for what in ["names", "types"] {
        let mut request = named(what);
        request.filter.networks = vec!["192.0.2.0/24".parse().expect("a network")];
        let list = traffic.list(&request);
        assert_eq!((list.unknown, list.unlisted_max), (2, Some(2)), "{what}");
        assert!(!list.rows.iter().any(|row| row.label == "TYPE0"), "{what}");
    }
    assert_eq!((traffic.stats.counted.get(), traffic.stats.missed.get()), (40, 0));
    assert_eq!(traffic.stats.types[QueryType::Aaaa].get(), 6);
    assert!(LISTS.iter().all(|what| TopRequest::named(what, 1).is_some()));
    assert!(TopRequest::named("others", 1).is_none());
}

#[test]
fn conditions_narrow_a_list() {
    let mut traffic = Fixture::new(4_096);
    traffic.write(0, 3, "a.example", |_| {});
    traffic.write(0, 4, "b.a.example", |f| f.backend = Some(BackendSlot(1)));
    traffic.write(1, 5, "c.example", |f| f.pool = PoolSlot(1));
    traffic.write(1, 6, "d.test", |f| f.ip = mapped("2001:db8::7".parse().expect("an address")));
    traffic.write(1, 7, "e.test", |f| f.flags[1] = 5);
    traffic.write(1, 8, "f.test", |f| f.latency_us = 30_000);
    traffic.drain();
    let backend = fixture::backend(1).address.to_string();
    let filter = Filter::default;
    for (filter, expected) in [
        (Filter { pool: Some("other".to_owned()), ..filter() }, vec![row("c.example.", 5)]),
        (Filter { server: Some(backend), ..filter() }, vec![row("b.a.example.", 4)]),
        (
            Filter { names: vec![b"\x01a\x07example\0".to_vec()], ..filter() },
            vec![row("b.a.example.", 4), row("a.example.", 3)],
        ),
        (
            Filter { networks: vec!["2001:db8::/64".parse().expect("a network")], ..filter() },
            vec![row("d.test.", 6)],
        ),
        (Filter { rcode: Some(5), ..filter() }, vec![row("e.test.", 7)]),
        (Filter { latency_us_min: Some(30_000), ..filter() }, vec![row("f.test.", 8)]),
        (Filter { qtype: Some(28), ..filter() }, vec![]),
    ] {
        let request = TopRequest { filter, ..named("names") };
        assert_eq!(traffic.rows(&request), expected, "{request:?}");
        assert!(!traffic.list(&request).is_estimate);
    }
    for filter in [
        Filter { pool: Some("none".to_owned()), ..filter() },
        Filter { server: Some("none".to_owned()), ..filter() },
    ] {
        let error = traffic.state.top(&TopRequest { filter, ..named("names") }, traffic.now);
        assert!(error.is_err_and(|e| e.starts_with("there is no ")));
    }
    // Without a sketch of its own: from the records.
    let slow = TopRequest::new(By::Name(0), Only::SlowerThan(20), 10);
    assert_eq!(traffic.rows(&slow), [row("f.test.", 8)]);
}

#[test]
fn windows_pass_and_reloads_do_not_interrupt_them() {
    let mut traffic = Fixture::new(4_096);
    traffic.write(0, 5, "early.example", |f| f.pool = PoolSlot(1));
    traffic.pass(0);
    // The pools of the next configuration are in another order.
    let mut next = (*traffic.snapshot).clone();
    next.generation += 1;
    next.pools.reverse();
    traffic.snapshot = Arc::new(next);
    traffic.pass(30);
    traffic.write(0, 3, "early.example", |f| f.pool = PoolSlot(0));
    traffic.drain();
    let in_pool = Filter { pool: Some("other".to_owned()), ..Filter::default() };
    let window =
        |window_s, filter: &Filter| TopRequest { window_s, filter: filter.clone(), ..named("names") };
    assert_eq!(traffic.rows(&window(60, &in_pool)), [row("early.example.", 8)]);
    assert_eq!(traffic.rows(&window(10, &in_pool)), [row("early.example.", 3)]);
    assert_eq!(traffic.rows(&window(60, &Filter::default())), [row("early.example.", 8)]);
    assert_eq!(traffic.rows(&window(10, &Filter::default())), [row("early.example.", 3)]);
    traffic.pass(1_000);
    assert_eq!(traffic.rows(&window(900, &Filter::default())), []);
    assert_eq!(traffic.rows(&window(900, &in_pool)), []);
}

#[test]
fn what_was_missed_is_counted_and_scaled() {
    let mut traffic = Fixture::new(4_096);
    traffic.write(0, 4_096, "much.example", |_| {});
    traffic.drain();
    let list = traffic.list(&named("names"));
    assert!(list.is_estimate && (list.share - 0.25).abs() < 1e-9, "{list:?}");
    assert_eq!((list.total, list.rows[0].count), (4_096, 4_096));
    assert_eq!((traffic.stats.counted.get(), traffic.stats.missed.get()), (1_024, 3_072));
    let narrowed = TopRequest { filter: Filter { qtype: Some(1), ..Filter::default() }, ..named("names") };
    let list = traffic.list(&narrowed);
    assert!(list.is_estimate && list.rows[0].count == 4_096, "{list:?}");
}

#[test]
fn estimates_state_their_error() {
    let mut traffic = Fixture::new(2_048);
    for _ in 0..20 {
        for _ in 0..4 {
            traffic.write(0, 150, "often.example", |_| {});
            traffic.write(1, 50, "seldom.example", |_| {});
            traffic.drain();
        }
        traffic.pass(1);
    }
    let narrowed = TopRequest { filter: Filter { qtype: Some(1), ..Filter::default() }, ..named("names") };
    let list = traffic.list(&narrowed);
    assert!(list.is_estimate && list.share < 0.5, "{list:?}");
    assert_eq!(list.unlisted_max, None);
    for (row, (label, exact)) in
        list.rows.iter().zip([("often.example.", 12_000), ("seldom.example.", 4_000)])
    {
        assert_eq!(row.label, label);
        assert!(row.error > 0 && row.count.abs_diff(exact) <= 2 * row.error, "{row:?}");
    }
    // Those that failed are kept apart.
    traffic.write(0, 3, "failed.example", |f| f.flags[1] = SERVFAIL);
    traffic.drain();
    let failed = Filter { rcode: Some(SERVFAIL), ..Filter::default() };
    assert_eq!(traffic.rows(&TopRequest { filter: failed, ..named("names") }), [row("failed.example.", 3)]);
}

#[test]
fn the_last_queries_are_found() {
    let mut traffic = Fixture::new(4_096);
    traffic.write(0, 3, "a.example", |f| f.by_connection = true);
    traffic.pass(2);
    traffic.write(0, 3, "b.a.example", |f| f.latency_us = 5_000);
    traffic.drain();
    let grep = |filter: Filter, rows| {
        let list = traffic.state.grep(&GrepRequest { filter, rows }, traffic.now).expect("a list");
        list.found
            .iter()
            .map(|f| format!("{} {} {}", f.ago_us / SECOND_US, f.protocol, f.record.qname))
            .collect::<Vec<_>>()
    };
    const SECOND_US: u64 = 1_000_000;
    let name = Filter { names: vec![b"\x01a\x07example\0".to_vec()], ..Filter::default() };
    assert_eq!(
        grep(name.clone(), 4),
        ["2 DoTCP a.example", "0 DoUDP b.a.example", "0 DoUDP b.a.example", "0 DoUDP b.a.example"]
    );
    let slow = Filter { latency_us_min: Some(1_001), ..name };
    assert_eq!(grep(slow, 10).len(), 3);
    let elsewhere =
        Filter { networks: vec!["203.0.113.0/24".parse().expect("a network")], ..Filter::default() };
    assert_eq!(grep(elsewhere, 10), [] as [String; 0]);
    assert_eq!(grep(Filter::default(), 100).len(), 6);
}

#[test]
fn the_thread_answers_and_ends() {
    let live_state = Arc::new(LiveState::new(1, 1));
    let cell = Arc::new(ArcSwap::from_pointee(fixture::snapshot(1, &[0], &[0])));
    let none = Traffic::start(&live_state, Arc::clone(&cell), 0, ShardRng::from_seed(1)).expect("no thread");
    assert!(none.is_none() && !live_state.shards()[0].traffic.is_open());
    let traffic = Traffic::start(&live_state, cell, 1_024, ShardRng::from_seed(1)).expect("a thread");
    let traffic = traffic.expect("a thread");
    let finished = Finished { at: clock::now(), ..record("x", 0).finished };
    live_state.shards()[0].traffic.write(&finished, b"\x01x\0");
    let list = traffic.top(named("names")).expect("a list");
    assert_eq!(list.rows, [TopRow { label: "x.".to_owned(), count: 1, error: 0 }]);
    let panics = traffic.ask(|_, _| panic!("as asked"));
    assert!(panics.is_err(), "whoever asked gets an answer");
    let list = traffic.top(named("names")).expect("it begins anew");
    assert_eq!(list.total, 0);
    traffic.stop();
    while traffic.top(named("names")).is_ok() {}
}
