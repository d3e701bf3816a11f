//! The table against a model, its bounds, and threads that read and write at once.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A hash of test keys, spread like the caller's.
pub(super) fn hash(id: u64) -> u64 {
    Family { stamp: id, parts: 0, length: 0 }.spread(77)
}

/// A key between 18 and 42 bytes.
fn key(id: u64) -> Vec<u8> {
    let length = 18 + (hash(id) % 25) as usize;
    (0..length).map(|at| (id >> (at % 8 * 8)) as u8 ^ at as u8).collect()
}

/// A value that says of whom it is, and of which version.
fn value(id: u64, version: u64, length: usize) -> Vec<u8> {
    (0..length).map(|at| (hash(id ^ version << 32 ^ (at as u64 / 8) << 48) >> (at % 8 * 8)) as u8).collect()
}

pub(super) const fn meta(stored: u32, gone: u32) -> Meta {
    Meta { stored, expires: gone, gone, extra: 0 }
}

/// Bytes of an average answer without its question.
const AVERAGE: usize = 120;

fn put(table: &Table, id: u64) -> Insert {
    table.insert(hash(id), &key(id), &value(id, 0, AVERAGE), meta(1, 1000), 1)
}

fn has(table: &Table, id: u64) -> bool {
    let mut out = [0; 4096];
    let found = table.get(hash(id), &key(id), 1, &mut out);
    found.inspect(|&(length, _)| assert_eq!(out[..length], value(id, 0, AVERAGE))).is_some()
}

/// Counts by visiting, which must agree with the count that is kept.
fn count(table: &Table) -> usize {
    let mut count = 0;
    table.visit(0..table.sets(), |_, _, _| {
        count += 1;
        true
    });
    assert_eq!(table.len(), count);
    count
}

#[derive(Clone, Debug)]
enum Step {
    Insert { id: u64, length: usize, ttl: u32, stale: u32 },
    Get { id: u64 },
    Remove { id: u64 },
    Pass { seconds: u32 },
    Purge,
    Expunge { bit: u32 },
    Busy { id: u64 },
}

fn step(ids: u64, largest: usize) -> impl Strategy<Value = Step> {
    let length = prop_oneof![8 => 0..300usize, 2 => 0..1500usize, 1 => 0..largest];
    let ttl = prop_oneof![4 => 0..100u32, 1 => 0..5_000_000u32];
    let stale = prop_oneof![1 => Just(0), 1 => 0..1000u32];
    prop_oneof![
        20 => (0..ids, length, ttl, stale)
            .prop_map(|(id, length, ttl, stale)| Step::Insert { id, length, ttl, stale }),
        20 => (0..ids).prop_map(|id| Step::Get { id }),
        2 => (0..ids).prop_map(|id| Step::Remove { id }),
        2 => prop_oneof![4 => 0..20u32, 1 => 0..3_000_000u32].prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Purge),
        1 => (0..64u32).prop_map(|bit| Step::Expunge { bit }),
        1 => (0..ids).prop_map(|id| Step::Busy { id }),
    ]
}

/// Runs steps on a table and on a map. `keeps_all`: the table has room for everything.
fn agree(table: &Table, steps: Vec<Step>, keeps_all: bool) {
    let mut model = BTreeMap::<Vec<u8>, (Vec<u8>, Meta)>::new();
    let mut out = vec![0; table.largest];
    let mut now = 1000;
    for (version, step) in (1..).zip(steps) {
        match step {
            Step::Insert { id, length, ttl, stale } => {
                let (key, value) = (key(id), value(id, version, length));
                let expires = now + ttl;
                let meta = Meta { stored: now, expires, gone: expires + stale, extra: version as u32 };
                let expected = match model.get(&key) {
                    _ if key.len() + length > table.largest => Insert::TooLarge,
                    _ if meta.gone <= now => Insert::Gone,
                    Some((_, old)) if old.gone > now => Insert::Replaced,
                    _ => Insert::New,
                };
                let got = table.insert(hash(id), &key, &value, meta, now);
                let evicted = expected == Insert::Replaced && got == Insert::New && !keeps_all;
                assert!(got == expected || evicted, "{got:?} instead of {expected:?}");
                if matches!(got, Insert::New | Insert::Replaced) {
                    model.insert(key, (value, meta));
                }
            }
            Step::Get { id } => {
                let key = key(id);
                let expected = model.get(&key).filter(|(_, meta)| meta.gone > now);
                match table.get(hash(id), &key, now, &mut out) {
                    Some((length, meta)) => assert!(expected == Some(&(out[..length].to_vec(), meta))),
                    None if keeps_all => assert!(expected.is_none()),
                    // One that is gone may still be shown.
                    None if expected.is_some() => drop(model.remove(&key)),
                    None => {}
                }
            }
            Step::Remove { id } => {
                let there = table.remove(hash(id), &key(id));
                let expected = model.remove(&key(id));
                // One that is gone may have made room already.
                assert!(!there || expected.is_some());
                assert!(there || !keeps_all || expected.is_none_or(|(_, meta)| meta.gone <= now));
            }
            Step::Pass { seconds } => now = now.saturating_add(seconds).min(u32::MAX - 20_000_000),
            Step::Purge | Step::Expunge { .. } => {
                let keeps = |value: &[u8], meta: Meta| {
                    if let Step::Expunge { bit } = step {
                        value.first().is_none_or(|b| b % 64 != bit as u8)
                    } else {
                        meta.gone > now
                    }
                };
                let before = table.len();
                let mut seen = 0;
                let removed = table.visit(0..table.sets(), |key, value, meta| {
                    assert!(model.get(key) == Some(&(value.to_vec(), meta)));
                    let keep = keeps(value, meta);
                    seen += usize::from(!keep);
                    keep
                });
                // Values that have lost parts are removed without being shown.
                assert!(removed >= seen && (removed == seen || !keeps_all));
                assert_eq!(table.len(), before - removed);
                model.retain(|_, (value, meta)| keeps(value, *meta));
            }
            Step::Busy { id } => {
                let locked = table.set(table.place(hash(id)).set).map(Set::lock);
                let expected = Insert::Busy;
                assert_eq!(table.insert(hash(id), &key(id), b"x", meta(now, u32::MAX), now), expected);
                drop(locked);
            }
        }
        assert!(table.len() <= table.entries);
    }
    let length = table.len();
    table.visit(0..table.sets(), |_, _, _| true);
    assert!(table.len() == length || !keeps_all);
    assert_eq!(count(table), table.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_map_that_keeps_all(steps in prop::collection::vec(step(40, 9000), 1..600)) {
        agree(&Table::new(1000, Some(4 << 20), 9000), steps, true);
    }

    #[test]
    fn agrees_with_a_map_when_memory_is_short(steps in prop::collection::vec(step(300, 70_000), 1..800)) {
        agree(&Table::new(1000, Some(300 << 10), 66_000), steps, false);
    }

    #[test]
    fn agrees_with_a_map_when_entries_are_few(
        entries in 1..60usize,
        steps in prop::collection::vec(step(80, 3000), 1..600),
    ) {
        agree(&Table::new(entries, None, 4096), steps, false);
    }
}

#[test]
fn holds_as_many_entries_as_asked_for_and_never_more() {
    for entries in [1, 2, 3, 10, 28, 29, 100, 1000, 10_000] {
        let table = Table::new(entries, None, 4096);
        for id in 0..entries as u64 {
            assert_eq!(put(&table, id), Insert::New);
        }
        assert_eq!((count(&table), table.evicted()), (entries, 0));
        assert!((0..entries as u64).all(|id| has(&table, id)));
        assert!(table.is_full());
        for id in 0..3 * entries as u64 + 100 {
            put(&table, 1_000_000 + id);
            assert!(has(&table, 1_000_000 + id), "the newest one is there");
            assert!(table.len() <= entries);
        }
        assert_eq!(count(&table), entries);
        assert_eq!(table.evicted(), 3 * entries as u64 + 100);
    }
}

#[test]
fn a_large_value_makes_room_though_the_hand_meets_its_parts_first() {
    for id in 0..300 {
        let table = Table::new(1, None, 4096);
        let length = 4000;
        assert_eq!(table.insert(hash(id), &key(id), &value(id, 0, length), meta(1, 1000), 1), Insert::New);
        assert!(table.get(hash(id), &key(id), 1, &mut [0; 4096]).is_some());
        assert_eq!(put(&table, 1000 + id), Insert::New);
        assert_eq!((count(&table), table.evicted()), (1, 1));
    }
}

#[test]
fn an_entry_is_refreshed_once_until_it_is_replaced() {
    let table = Table::new(10, None, 4096);
    let claim = |id| table.claim_refresh(hash(id), &key(id)) == Some(true);
    assert!(!claim(1), "there is none");
    put(&table, 1);
    put(&table, 2);
    assert_eq!([claim(1), claim(1), claim(2), claim(2)], [true, false, true, false]);
    // In its place, in another one because it is larger, and after it was removed.
    put(&table, 1);
    assert_eq!([claim(1), claim(1), claim(2)], [true, false, false]);
    table.insert(hash(1), &key(1), &value(1, 0, 1000), meta(1, 1000), 1);
    assert_eq!([claim(1), claim(1)], [true, false]);
    table.remove(hash(1), &key(1));
    put(&table, 1);
    assert_eq!([claim(1), claim(1)], [true, false]);
}

#[test]
fn large_tables_hold_most_of_what_is_asked_for() {
    let table = Table::new(300_000, None, 4096);
    (0..300_000).for_each(|id| assert_eq!(put(&table, id), Insert::New));
    assert!(table.len() > 285_000, "{}", table.len());
    assert!(table.memory() < 300_000 * 260);
}

#[test]
fn memory_is_bounded_and_used_whatever_the_sizes() {
    let mut out = vec![0; 66_000];
    for lengths in [
        8..9,
        120..121,
        60..400,
        1..4097,
        1000..1001,
        1232..1233,
        1400..1401,
        2000..2001,
        4000..4097,
        8..66_000,
    ] {
        let table = Table::new(10_000_000, Some(4 << 20), 70_000);
        assert!(table.memory() <= 4 << 20 && table.memory() > 4_180_000);
        let length = |id: u64| lengths.start + (hash(id) % (lengths.end - lengths.start) as u64) as usize;
        for id in 0..60_000 {
            assert_eq!(
                table.insert(hash(id), &key(id), &value(id, 0, length(id)), meta(1, 9), 1),
                Insert::New
            );
            assert!(table.get(hash(id), &key(id), 1, &mut out).is_some(), "{lengths:?}");
            if id * length(id) as u64 > 20 << 20 {
                break;
            }
        }
        let mut held = 0;
        table.visit(0..table.sets(), |key, value, _| {
            held += key.len() + value.len();
            true
        });
        let share = held as f64 / table.memory() as f64;
        // The smallest ones are bounded by 28 for each page. Large ones lose what their families do.
        let wanted = match lengths.end {
            9 => 0.25,
            ..2000 => 0.69,
            2000.. => 0.55,
        };
        assert!(share > wanted, "{lengths:?}: {share}");
        assert!(table.is_full() || lengths.end > 5000, "{lengths:?}");
    }
}

#[test]
fn refuses_what_it_cannot_hold() {
    let table = Table::new(100, None, 4096);
    let insert = |key: &[u8], value: &[u8], gone| table.insert(5, key, value, meta(1, gone), 10);
    assert_eq!(insert(b"k", &[0; 4096], 11), Insert::TooLarge);
    assert_eq!(insert(b"k", &[0; 4095], 11), Insert::New);
    assert_eq!(insert(&[0; KEY_MAX + 1], b"", 11), Insert::TooLarge);
    assert_eq!(insert(&[0; KEY_MAX], &[1; 3000], 11), Insert::New);
    assert_eq!(insert(b"", b"", 11), Insert::New);
    assert_eq!(insert(b"k", b"v", 10), Insert::Gone);
    let mut out = [0; 4095];
    assert_eq!(table.get(5, &[0; KEY_MAX], 10, &mut out).map(|f| f.0), Some(3000));
    assert_eq!(table.get(5, b"k", 10, &mut out).map(|f| f.0), Some(4095));
    assert_eq!(table.get(5, b"k", 10, &mut out[..4094]), None, "it does not fit");
    assert_eq!(table.get(5, b"", 10, &mut []).map(|f| f.0), Some(0));
    assert_eq!(table.get(5, b"k", 11, &mut out), None, "it is gone");
    assert_eq!(Table::new(1, Some(1), 70_000).insert(1, b"k", &[0; 5000], meta(1, 2), 1), Insert::TooLarge);
    assert_eq!(Table::new(0, Some(0), 0).insert(1, b"", b"", meta(1, 2), 1), Insert::New);
}

#[test]
fn a_refreshed_name_stays_where_it_was() {
    // One set, full. The name that is asked for is refreshed again and again, and new names come.
    let table = Table::new(1000, Some(8 << 10), 1000);
    assert_eq!(table.sets(), 1);
    (0..40).for_each(|id| assert_eq!(put(&table, id), Insert::New));
    let mut id = 100;
    put(&table, 7);
    for _ in 0..200 {
        assert!(has(&table, 7));
        assert_eq!(put(&table, 7), Insert::Replaced);
        // As many new ones as the set has entries: the hand comes round.
        for _ in 0..10 {
            put(&table, id);
            id += 1;
        }
    }
}

/// Names of 0..`names` by Zipf's law with exponent 1, to within a step of the continuous law.
fn zipf(names: u64, random: u64) -> u64 {
    let unit = (random >> 11) as f64 / (1u64 << 53) as f64;
    (((names + 1) as f64).powf(unit) - 1.0) as u64
}

/// Returns the share of look-ups that hit, once the table is warm.
fn hit_rate(table: &Table, names: u64, flood: bool) -> f64 {
    let (mut hits, rounds) = (0, names * 8);
    for round in 0..rounds {
        let id = zipf(names, hash(round ^ 0x5a5a << 40));
        let hit = has(table, id);
        hits += u64::from(hit && round >= rounds / 2);
        if !hit {
            put(table, id);
        }
        if flood {
            put(table, names + round);
        }
    }
    hits as f64 / (rounds / 2) as f64
}

#[test]
fn popular_names_survive_a_flood_of_new_ones() {
    let (names, entries) = (10_000, 1000);
    for bytes in [None, Some(entries * 215)] {
        let rate = |flood| hit_rate(&Table::new(entries, bytes, 4096), names, flood);
        let (undisturbed, flooded) = (rate(false), rate(true));
        assert!(undisturbed > 0.65, "{bytes:?}: {undisturbed}");
        assert!(flooded > undisturbed * 0.94, "{bytes:?}: {flooded} of {undisturbed}");
    }
}

#[test]
fn torn_values_are_never_returned() {
    // Few sets, few names, values of all sizes: entries are replaced, moved and evicted all the time.
    let table = Table::new(1000, Some(48 << 10), 8000);
    let rounds = 60_000;
    let hits = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (table, hits) = (&table, &hits);
            scope.spawn(move || {
                let mut out = [0; 8000];
                for round in 0..rounds {
                    let random = hash(round << 2 | thread);
                    let id = random % 24;
                    if thread < 2 {
                        let length = match random >> 60 {
                            0 => 1000 + (random >> 20) as usize % 6000,
                            _ => 8 + (random >> 20) as usize % 600,
                        };
                        let version = random >> 8 & 0xff;
                        let meta = Meta { extra: version as u32, ..meta(1, 2 + (random >> 50) as u32 % 2) };
                        table.insert(hash(id), &key(id), &value(id, version, length), meta, 1);
                    } else if let Some((length, meta)) = table.get(hash(id), &key(id), 1, &mut out) {
                        assert_eq!(out[..length], value(id, u64::from(meta.extra), length));
                        hits.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        scope.spawn(|| {
            for round in 0..rounds / 100 {
                table.visit(0..table.sets(), |shown, value_shown, meta| {
                    let id = (0..24).find(|&id| key(id) == shown).expect("a key of these");
                    assert_eq!(value_shown, value(id, u64::from(meta.extra), value_shown.len()));
                    round % 10 != 0 || id % 8 != 0
                });
            }
        });
    });
    assert!(hits.into_inner() > rounds / 4);
    assert_eq!(count(&table), table.len());
}

#[test]
fn the_count_holds_with_many_writers() {
    let table = Table::new(50, None, 1000);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let table = &table;
            scope.spawn(move || {
                for id in 0..20_000 {
                    put(table, thread << 32 | id);
                    assert!(table.len() <= 50 + 4);
                }
            });
        }
    });
    assert_eq!(count(&table), 50);
}
