//! No choice of any policy touches the heap, nor does the bookkeeping around it.

mod farm;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

use dnslob::addr::{BackendSlot, Endpoint, PoolSlot};
use dnslob::live::{Board, State};
use dnslob::rng::ShardRng;
use dnslob::shard::policy::{Kind, Policy, Selector, Subject};
use dnslob::time::{Tick, TickDelta};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, with a count for this thread.
struct Counting;

// SAFETY: every call is passed on unchanged to the system's allocator, which upholds the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promises about `layout` are those that System asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from System with this layout, by the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn no_policy_allocates() {
    let kinds = [
        Kind::LeastOutstanding,
        Kind::FirstAvailable,
        Kind::RoundRobin,
        Kind::WRandom,
        Kind::WHashed,
        Kind::CHashed,
        Kind::OrderedWRandUntag,
        Kind::P2c,
        Kind::Concentrate,
    ];
    for (kind, ordered, bounded) in kinds.into_iter().flat_map(|k| [(k, false, None), (k, true, Some(1.2))]) {
        let mut policy = Policy::new(kind);
        (policy.ordered, policy.bounded) = (ordered, bounded);
        let snapshot = farm::snapshot(policy, 8);
        let board = Arc::new(Board::new(2, 16));
        for slot in (0..8).map(BackendSlot) {
            board.set_state(slot, if slot.0 == 3 { State::Down } else { State::Up });
            board.set_share(slot, 100_000, 10_000);
            board.set_warmth(slot, 300_000 + 100_000 * u32::from(slot.0));
        }
        let mut selector = Selector::new(board, 0);
        let mut rng = ShardRng::from_seed(1);
        let client = Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 53)));
        let subject = Subject { qname: b"\x03www\x07Example\x03org\0", client: &client };
        selector.begin_batch(Tick(0), &snapshot);
        let before = ALLOCATIONS.with(Cell::get);
        let mut avoid = None;
        for batch in 1..200 {
            selector.begin_batch(Tick(0) + TickDelta::from_ms(batch), &snapshot);
            for _ in 0..10 {
                let slot = selector.select(&snapshot, PoolSlot(0), &subject, avoid, &mut rng);
                let slot = slot.expect("a server");
                selector.claimed(slot);
                selector.settled(slot, Some(TickDelta::from_us(100)));
                avoid = if batch % 3 == 0 { Some(slot) } else { None };
            }
            selector.publish();
        }
        let allocated = ALLOCATIONS.with(Cell::get) - before;
        assert_eq!(allocated, 0, "{kind:?}, ordered {ordered}, bounded {bounded:?}");
        assert_ne!(before, 0, "the count counts");
    }
}
