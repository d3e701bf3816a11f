//! Checks law 3: after the warm-up, a query and its answer cause no allocation.

// `GlobalAlloc` is an unsafe trait.
#![allow(unsafe_code)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use dnslob::base::packet::Packet;
use dnslob::base::rng::ShardRng;
use dnslob::base::time::{Tick, TickDelta};
use dnslob::config::Slots;
use dnslob::model::policy::{Kind, Policy};
use dnslob::model::{Retry, Snapshot};
use dnslob::shard::Shard;
use dnslob::shard::verdict::Verdict;
use dnslob::stats::live::{LiveState, State};
use dnslob::wire::header;
use support::config::{TestConfig, client, configured};
use support::message::message;

/// The system allocator, which also counts the allocations of each thread.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // Fails only during thread exit, when no test counts.
    let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
}

// SAFETY: every call is passed to the system allocator unchanged; counting touches no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and `System` gave these bytes.
        unsafe { System.dealloc(bytes, layout) }
    }

    unsafe fn realloc(&self, bytes: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `realloc`'s contract, and `System` gave these bytes.
        unsafe { System.realloc(bytes, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs rounds of 64 queries, 63 answers and a tick, 100 µs per round.
fn rounds(kind: Kind, retry: bool, warm_up: u32, measured: u32) -> (u64, u64) {
    let mut config = TestConfig::new(4);
    config.policy = Policy::new(kind);
    config.backends.iter_mut().flatten().for_each(|b| b.timeout = TickDelta::from_ms(30));
    config.retry = retry.then_some(Retry { after: TickDelta::from_ms(10), budget_ppm: 1_000_000 });
    let (shard, _live_state, snapshot) = config.shard(1);
    load(shard, &snapshot, warm_up, measured)
}

/// Runs the same load with rules that match every query.
fn ruled_rounds(rules: &str, warm_up: u32, measured: u32) -> (u64, u64) {
    let text = format!("newServer{{address='192.0.2.1', udpTimeoutMs=30, useClientSubnet=true}}\n{rules}");
    let snapshot = Arc::new(configured(&text, &Slots::default(), 1).snapshot);
    let live_state = Arc::new(LiveState::new(1, 8));
    snapshot.backends.iter().flatten().for_each(|b| live_state.set_state(b.slot, State::Up));
    load(Shard::new(0, live_state, snapshot.clone(), ShardRng::from_seed(7)), &snapshot, warm_up, measured)
}

fn load(mut shard: Shard, snapshot: &Arc<Snapshot>, warm_up: u32, measured: u32) -> (u64, u64) {
    let query = message("1234 RD www.example.com/A OPT=1232");
    let from = client("127.0.0.1:4000");
    let mut buffers = vec![[0_u8; 512]; 64];
    let mut now = Tick(0);
    let (mut delivered, mut before) = (0_u64, 0);
    for round in 0..warm_up + measured {
        if round == warm_up {
            before = ASKED.get();
            delivered = 0;
        }
        now = now + TickDelta::from_us(100);
        shard.begin_batch(now, snapshot);
        for (number, buffer) in buffers.iter_mut().enumerate() {
            buffer[..query.len()].copy_from_slice(&query);
            let mut packet = Packet::new(buffer, 0, query.len());
            let Verdict::Forward(route) = shard.on_query(from, &mut packet) else {
                panic!("not forwarded");
            };
            if number == 63 {
                continue;
            }
            packet.bytes_mut()[2] |= header::QR;
            if shard.on_response(route, &mut packet) == Verdict::Deliver(from) {
                delivered += 1;
            }
        }
        shard.on_tick(&mut |_, _| {});
    }
    let asked = ASKED.get() - before;
    assert_eq!(delivered, u64::from(measured) * 63, "each answer is delivered");
    (asked, delivered)
}

#[test]
fn a_query_and_its_answer_allocate_nothing() {
    for kind in [
        Kind::LeastOutstanding,
        Kind::FirstAvailable,
        Kind::RoundRobin,
        Kind::WRandom,
        Kind::WHashed,
        Kind::CHashed,
        Kind::OrderedWRandUntag,
        Kind::P2c,
        Kind::Concentrate,
    ] {
        for retry in [false, true] {
            let (asked, delivered) = rounds(kind, retry, 1_500, 700);
            assert_eq!(asked, 0, "{kind:?}, retry {retry}: allocations over {delivered} answers");
        }
    }
}

#[test]
fn rules_allocate_nothing() {
    let rules = "smn = newSuffixMatchNode(); smn:add({'a.example', 'b.example', 'c.example', 'd.example'})\n\
        addAction(SuffixMatchNodeRule(smn), DropAction())\n\
        addAction(RegexRule('^ads[0-9]+'), DropAction())\n\
        addAction(MaxQPSIPRule(1000000000), DropAction())\n\
        addAction(NotRule(MaxQPSRule(1000000000)), DropAction())\n\
        addAction(NetmaskGroupRule('192.0.2.0/24'), PoolAction('abuse'))\n\
        addAction(AndRule{RDRule(), QTypeRule(DNSQType.A)}, SetTagAction('rd', '1'))\n\
        addAction(AllRule(), SetNoRecurseAction())\n\
        addAction(AllRule(), SetEDNSOptionAction(65001, 'x'))\n\
        addResponseAction(TagRule('rd'), SetMaxTTLResponseAction(60))\n\
        addResponseAction(AllRule(), SetExtendedDNSErrorResponseAction(4, 'forged'))";
    let (asked, delivered) = ruled_rounds(rules, 1_500, 700);
    assert_eq!(asked, 0, "allocations over {delivered} answers");
}

#[test]
fn the_counter_counts() {
    let before = ASKED.get();
    drop(std::hint::black_box(vec![0_u8; 100]));
    assert_eq!(ASKED.get() - before, 1);
}
