//! Nanoseconds per look-up and insertion of the packet cache's table, one and two threads, and what
//! is held: hit rates and bytes per entry. Targets: 200 ns for a hit in 10 million entries in batches
//! of 64; two threads 1.95 times as many look-ups as one; 1.3 times the bytes of an average answer
//! and 48 per entry; hit rates of LRU or better, and 0.95 of that under a flood. A snapshot of a million
//! entries is read while shards serve, and leaves 0.95 of the hit rate.

// criterion_group! makes a public function without documentation.
#![allow(missing_docs)]
#![allow(clippy::print_stderr)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dnslob::base::files;
use dnslob::base::packet::Packet;
use dnslob::base::time::Tick;
use dnslob::cache::key::{About, Key as QueryKey};
use dnslob::cache::snapshot::{Clocks, Refused};
use dnslob::cache::table::{Meta, Table};
use dnslob::cache::{CacheOptions, PacketCache, Wanted};

/// Packets of a batch: what one recvmmsg brings under load.
const BATCH: usize = 64;
const META: Meta = Meta { stored: 1, expires: 1000, gone: 1000, extra: 0 };
const NOW: u32 = 1;

/// The finalizer of MurmurHash3.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// The rank of a name under Zipf's law with exponent 1: by rejection, from the continuous law.
    fn zipf(&mut self, names: u64) -> u64 {
        let (first, last) = (1.5f64.ln() - 1.0, (names as f64 + 0.5).ln());
        loop {
            let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
            let at = last + unit * (first - last);
            let rank = (at.exp() + 0.5).floor().clamp(1.0, names as f64);
            if rank <= at.exp() || at >= (rank + 0.5).ln() - 1.0 / rank {
                return rank as u64 - 1;
            }
        }
    }
}

/// A name with its hash: 18 to 42 bytes, 30 on average.
struct Key([u8; 48], usize, u64);

impl Key {
    fn of(id: u64) -> Self {
        let mut bytes = [0; 48];
        for (index, chunk) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *chunk = (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index as u64).to_le_bytes();
        }
        Self(bytes, 18 + (mix(id + 77) % 25) as usize, mix(id ^ 0x1234_5678_9abc))
    }

    fn bytes(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

/// Answers of 60 to 140 bytes, some of up to 400, few of 1,400: 120 on average.
const fn answer_length(id: u64) -> usize {
    let random = mix(id + 99);
    match random % 1000 {
        0..915 => 60 + (random >> 32) as usize % 81,
        915..995 => 140 + (random >> 32) as usize % 260,
        _ => 1400,
    }
}

fn insert(table: &Table, id: u64) {
    let key = Key::of(id);
    table.insert(key.2, key.bytes(), &[7; 1400][..answer_length(id)], META, NOW);
}

fn get(table: &Table, id: u64) -> bool {
    let (key, mut out) = (Key::of(id), [0; 1400]);
    black_box(table.get(key.2, key.bytes(), NOW, &mut out)).is_some()
}

/// `cargo test` runs every bench once, which must not take minutes.
fn scaled(names: u64) -> u64 {
    if std::env::args().any(|argument| argument == "--bench") { names } else { names / 100 }
}

/// A table for a tenth of the names as a resolver's clients fill it.
fn warm(names: u64) -> Table {
    let entries = (names / 10) as usize;
    let (table, mut random) = (Table::new(entries, Some(entries * 215), 4096), Random(1));
    for _ in 0..names * 4 {
        let id = random.zipf(names);
        if !get(&table, id) {
            insert(&table, id);
        }
    }
    table
}

/// Numbers of names that are in the table, in the order of `draw`.
fn present(table: &Table, mut draw: impl FnMut() -> u64) -> Vec<u64> {
    let count = scaled(1_000_000) as usize;
    std::iter::repeat_with(&mut draw).filter(|id| get(table, *id)).take(count).collect()
}

fn single(c: &mut Criterion) {
    let names = scaled(1_000_000);
    let (table, mut random) = (warm(names), Random(2));
    let zipf = present(&table, || random.zipf(names));
    let uniform = present(&table, || random.below(names));
    let mut group = c.benchmark_group("table");
    group.throughput(Throughput::Elements(1));
    for (what, ids) in [("hit, Zipf", &zipf), ("hit, uniform", &uniform)] {
        let mut ids = ids.iter().cycle();
        group.bench_function(what, |b| b.iter(|| get(&table, *ids.next().unwrap_or(&0))));
    }
    let mut new = names..;
    group.bench_function("miss", |b| b.iter(|| get(&table, new.next().unwrap_or(0))));
    group.bench_function("insert", |b| b.iter(|| insert(&table, new.next().unwrap_or(0))));
    for threads in [1, 2] {
        // Criterion's time is that of one look-up of each thread.
        group.throughput(Throughput::Elements(threads));
        group.bench_with_input(BenchmarkId::new("hit, Zipf, threads", threads), &threads, |b, &threads| {
            b.iter_custom(|rounds| {
                let begin = Instant::now();
                std::thread::scope(|scope| {
                    for thread in 0..threads as usize {
                        let (table, zipf) = (&table, &zipf);
                        scope.spawn(move || {
                            let ids = zipf.iter().cycle().skip(thread * zipf.len() / 2);
                            for id in ids.take(rounds as usize) {
                                black_box(get(table, *id));
                            }
                        });
                    }
                });
                begin.elapsed()
            });
        });
    }
}

fn batches(c: &mut Criterion) {
    let names = scaled(10_000_000);
    let table = Table::new(names as usize, None, 4096);
    (0..names).for_each(|id| insert(&table, id));
    let mut random = Random(3);
    let ids = present(&table, || random.below(names));
    let mut group = c.benchmark_group("batch of 64 in 10 million entries");
    group.throughput(Throughput::Elements(BATCH as u64));
    for passes in 0..3 {
        let mut batches = ids.as_chunks::<BATCH>().0.iter().cycle();
        group.bench_function(BenchmarkId::new("passes", passes), |b| {
            b.iter(|| {
                let Some(batch) = batches.next() else { return };
                let keys = batch.map(Key::of);
                if passes > 0 {
                    keys.iter().for_each(|key| table.prefetch_set(key.2));
                }
                if passes > 1 {
                    keys.iter().for_each(|key| table.prefetch_entry(key.2));
                }
                let mut out = [0; 1400];
                for key in &keys {
                    black_box(table.get(key.2, key.bytes(), NOW, &mut out));
                }
            });
        });
    }
}

/// Says what is held, which is no matter of time.
fn held(_: &mut Criterion) {
    let names = scaled(1_000_000);
    for (flood, what) in [(false, "undisturbed"), (true, "under a flood of unique names of equal rate")] {
        let entries = (names / 10) as usize;
        let (table, mut random) = (Table::new(entries, Some(entries * 215), 4096), Random(1));
        let (mut hits, mut all) = (0, 0);
        for round in 0..names * 6 {
            let id = random.zipf(names);
            let hit = get(&table, id);
            if !hit {
                insert(&table, id);
            }
            if round > names * 3 {
                (hits, all) = (hits + u64::from(hit), all + 1);
            }
            if flood {
                insert(&table, names + round);
            }
        }
        let share = hits as f64 * 100.0 / all as f64;
        let bytes = table.memory() / table.len().max(1);
        eprintln!("hit rate at 10 % of {names} names, {what}: {share:.2} %; {bytes} bytes per entry");
    }
}

/// The worst case of shared memory: all threads ask for one name, and one refreshes it.
fn hot(c: &mut Criterion) {
    let table = Arc::new(Table::new(1000, None, 4096));
    insert(&table, 1);
    let (stop, other) = (Arc::new(AtomicU64::new(0)), Arc::clone(&table));
    let stopped = Arc::clone(&stop);
    let writer = std::thread::spawn(move || {
        while stopped.load(Ordering::Relaxed) == 0 {
            insert(&other, 1);
        }
    });
    c.bench_function("table/hit, one name that is refreshed without pause", |b| b.iter(|| get(&table, 1)));
    stop.store(1, Ordering::Relaxed);
    drop(writer.join());
}

/// A question about a name of its own, in wire format.
fn question(id: u64) -> Vec<u8> {
    let label = format!("{:012x}-n{id}", mix(id));
    let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, label.len() as u8];
    message.extend_from_slice(label.as_bytes());
    message.extend_from_slice(b"\x07example\0\0\x01\0\x01");
    message
}

/// The answer to it: an address or several, and an OPT record.
fn answer(question: &[u8], id: u64) -> Vec<u8> {
    let mut message = question.to_vec();
    let count = 1 + (mix(id) % 5) as u8;
    (message[2], message[3], message[7], message[11]) = (0x81, 0x80, count, 1);
    for last in 0..count {
        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 192, 0, 2, last]);
    }
    message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    message
}

/// Asks a cache, and stores the answer if it has none; returns whether it had.
fn ask(cache: &PacketCache, id: u64, key: &mut QueryKey, scratch: &mut Vec<u8>) -> bool {
    let (question, now) = (question(id), Tick(5_000_000_000_000));
    let mut buffer = [0; 1400];
    buffer[..question.len()].copy_from_slice(&question);
    let mut packet = Packet::new(&mut buffer, 0, question.len());
    assert!(key.read(&question, About::default(), cache));
    scratch.resize(65_535, 0);
    let hit = cache.answer(key, &mut packet, question.len(), Wanted::Fresh, now, scratch).is_some();
    if !hit {
        let _ = cache.store(key, &answer(&question, id), None, 0, now, scratch);
    }
    hit
}

/// A restart: how long a cache of a million entries is written and read, and what is left of its hit
/// rate.
fn snapshot(c: &mut Criterion) {
    let names = scaled(10_000_000);
    let new = |seed: u64| PacketCache::new(CacheOptions::new((names / 10) as usize), [seed; 4]);
    let (cache, mut random) = (new(1), Random(5));
    let (mut key, mut scratch) = (QueryKey::default(), Vec::new());
    let mut rate = |cache: &PacketCache, count: u64| {
        let hits = (0..count).filter(|_| ask(cache, random.zipf(names), &mut key, &mut scratch)).count();
        hits as f64 / count as f64
    };
    rate(&cache, names * 2);
    let before = rate(&cache, names / 10);
    let clocks = Clocks { now: Tick(5_000_000_000_000), unix_ms: 1_700_000_000_000 };
    let path = std::env::temp_dir().join(format!("dnslob-bench-{}.bin", std::process::id()));
    let write = || files::replace(&path, |file| cache.write_snapshot(file, clocks, &|| true)).unwrap_or(0);
    let read = |cache: &PacketCache| {
        let file = std::fs::File::open(&path).map_err(Refused::Unreadable);
        file.and_then(|mut file| cache.read_snapshot(&mut file, clocks, &|| true)).map_or(0, |l| l.entries)
    };
    let entries = write();
    let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
    let restarted = new(2);
    let loaded = read(&restarted);
    let after = rate(&restarted, names / 10);
    eprintln!(
        "snapshot: {entries} entries in {bytes} bytes, {loaded} read, {} held; hit rate {:.2} % before and {:.2} % \
         after: {:.3}",
        restarted.len(),
        before * 100.0,
        after * 100.0,
        after / before
    );
    let mut group = c.benchmark_group("snapshot");
    group.sample_size(10);
    group.throughput(Throughput::Elements(entries));
    group.bench_function("write", |b| b.iter(write));
    group.bench_function("read", |b| {
        b.iter_custom(|rounds| {
            let times = (0..rounds).map(|seed| {
                let cache = new(seed + 3);
                let begin = Instant::now();
                black_box(read(&cache));
                begin.elapsed()
            });
            times.sum()
        });
    });
    drop(std::fs::remove_file(&path));
}

criterion_group!(benches, single, batches, hot, held, snapshot);
criterion_main!(benches);
