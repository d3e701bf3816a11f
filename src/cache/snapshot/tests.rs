//! Snapshots: what they keep, and what is refused.

use std::cell::Cell;
use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::cache::Wanted;
use crate::cache::key::About;
use crate::cache::removal::What;
use crate::cache::tests::{SECOND, cache, key_of, look_up, query, response};

const OPTIONS: fn() -> CacheOptions = || CacheOptions::new(1_000);

fn at(second: u64) -> Clocks {
    at_ms(second * 1_000)
}

fn at_ms(ms: u64) -> Clocks {
    // The machine was started in the second 1,000,000 of the other clock.
    Clocks { now: Tick(ms * 1_000_000), unix_ms: 1_000_000_000 + ms }
}

fn store(cache: &PacketCache, name: &str, ttl: u32, stale: u32, value: u8, second: u64) {
    let asked = query(name, 1);
    let key = key_of(cache, &asked, About::default()).expect("a key");
    let stored =
        cache.store(&key, &response(&asked, ttl, value), None, stale, Tick(second * SECOND), &mut Vec::new());
    assert!(stored.is_ok(), "{stored:?}");
}

fn written(cache: &PacketCache, clocks: Clocks) -> Vec<u8> {
    let mut bytes = Vec::new();
    let count = cache.write_snapshot(&mut bytes, clocks, &|| true).expect("memory");
    assert!(count <= cache.len() as u64);
    bytes
}

fn read(cache: &PacketCache, bytes: &[u8], clocks: Clocks) -> Result<Loaded, Refused> {
    cache.read_snapshot(&mut Cursor::new(bytes), clocks, &|| true)
}

fn fresh(cache: &PacketCache, name: &str, second: u64) -> Option<(u8, u32)> {
    look_up(cache, &query(name, 1), Wanted::Fresh, second)
}

/// A snapshot of three entries, made in second 130.
fn three() -> Vec<u8> {
    let cache = cache(OPTIONS());
    store(&cache, "a", 300, 0, 1, 100);
    store(&cache, "b", 60, 500, 2, 110);
    store(&cache, "c", 20, 3_600, 3, 100);
    written(&cache, at(130))
}

/// Puts a right checksum at the end of what stands before it.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len() - 8;
    let sum = xxhash_rust::xxh3::xxh3_64(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn refused(bytes: &[u8]) -> Refused {
    let cache = cache(OPTIONS());
    let refused = read(&cache, bytes, at(140)).expect_err("a refusal");
    assert!(cache.is_empty(), "{refused}: nothing is inserted");
    refused
}

/// Returns whether there is an entry that cleaning leaves.
fn is_kept(cache: &PacketCache, name: &str, second: u64) -> bool {
    let key = key_of(cache, &query(name, 1), About::default()).expect("a key");
    let second = u32::try_from(second).expect("a second");
    cache.store.table.get(key.hash(), key.bytes(), second, &mut [0; 4_096]).is_some()
}

#[test]
fn entries_come_back_with_what_is_left_of_their_time() {
    let bytes = three();
    let cache = PacketCache::new(OPTIONS(), [5, 6, 7, 8]);
    let loaded = read(&cache, &bytes, at(140)).expect("a snapshot");
    assert_eq!(loaded, Loaded { entries: 3, expired: 0, others: 0, age: 10, is_cut: false });
    // Stored in second 100 and 110, with another hash.
    assert_eq!((fresh(&cache, "a", 140), fresh(&cache, "A", 399)), (Some((1, 260)), Some((1, 1))));
    assert_eq!((fresh(&cache, "a", 400), fresh(&cache, "b", 169)), (None, Some((2, 1))));
    assert_eq!((fresh(&cache, "b", 170), fresh(&cache, "c", 140)), (None, None));
    // Kept as stale ones as long as before.
    let stale = |name, second| look_up(&cache, &query(name, 1), Wanted::Stale(10_000), second);
    assert_eq!((stale("b", 669), stale("c", 3_719)), (Some((2, 60)), Some((3, 60))));
    let kept =
        [("b", 669), ("b", 670), ("c", 3_719), ("c", 3_720)].map(|(name, at)| is_kept(&cache, name, at));
    assert_eq!(kept, [true, false, true, false]);
    // A second snapshot says the same.
    let again = PacketCache::new(OPTIONS(), [9; 4]);
    read(&again, &written(&cache, at(150)), at(160)).expect("a snapshot");
    assert_eq!((fresh(&again, "a", 160), fresh(&again, "b", 160)), (Some((1, 240)), Some((2, 10))));
}

#[test]
fn time_that_has_passed_ages_them_also_on_a_clock_that_has_just_begun() {
    // The machine was started again: its clock says 7, and the entry was stored before it began.
    let bytes = three();
    for (dont_age, ttl, later) in [(false, 200, 100), (true, 300, 300)] {
        let cache = cache(CacheOptions { dont_age, ..OPTIONS() });
        let loaded = read(&cache, &bytes, Clocks { now: Tick(7 * SECOND), unix_ms: 1_000_200_000 })
            .expect("a snapshot");
        assert_eq!(loaded, Loaded { entries: 3, expired: 0, others: 0, age: 70, is_cut: false });
        assert_eq!((fresh(&cache, "a", 7), fresh(&cache, "a", 107)), (Some((1, ttl)), Some((1, later))));
        assert_eq!((fresh(&cache, "a", 206).is_some(), fresh(&cache, "a", 207)), (true, None));
        assert_eq!(fresh(&cache, "b", 7), None);
        let stale = |second| look_up(&cache, &query("b", 1), Wanted::Stale(10_000), second).is_some();
        assert_eq!((stale(476), stale(477)), (true, false));
        // Its end on this clock was before the first second, which can be written all the same.
        let again = PacketCache::new(OPTIONS(), [9; 4]);
        let clocks = Clocks { now: Tick(8 * SECOND), unix_ms: 1_000_201_000 };
        assert_eq!(read(&again, &written(&cache, clocks), clocks).expect("a snapshot").entries, 3);
    }
}

#[test]
fn what_is_over_stays_away_and_what_is_newer_stays() {
    let bytes = three();
    let cache = cache(OPTIONS());
    store(&cache, "a", 900, 0, 9, 1_000);
    // An hour later only the stale one is left.
    let loaded = read(&cache, &bytes, at(1_000)).expect("a snapshot");
    assert_eq!(loaded, Loaded { entries: 1, expired: 2, others: 0, age: 870, is_cut: false });
    assert_eq!(fresh(&cache, "a", 1_000), Some((9, 900)));
    let loaded = read(&cache, &bytes, at(131)).expect("a snapshot");
    assert_eq!((loaded.others, fresh(&cache, "a", 1_000)), (2, Some((9, 900))));
    // Gone entries are not even written.
    let gone = written(&cache, at(5_000));
    assert_eq!(gone.len(), written(&PacketCache::new(OPTIONS(), [0; 4]), at(0)).len());
}

#[test]
fn one_of_the_future_is_refused() {
    // The clock was set back by a minute, more than that, and to its beginning.
    let bytes = three();
    let clocks = |unix_ms| Clocks { unix_ms, ..at(130) };
    let cache = cache(OPTIONS());
    for (unix_ms, seconds) in [(1_000_069_999, 61), (1_000_000_000, 130), (0, 1_000_130)] {
        let refused = read(&cache, &bytes, clocks(unix_ms)).expect_err("a refusal");
        assert!(
            matches!(refused, Refused::Future(ahead) if ahead == seconds) && cache.is_empty(),
            "{refused}"
        );
    }
    let mut never = bytes.clone();
    never[12..20].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(refused(&sealed(never)), Refused::Future(_)));
    let loaded = read(&cache, &bytes, clocks(1_000_070_000)).expect("a snapshot");
    assert_eq!((loaded.age, fresh(&cache, "a", 130)), (0, Some((1, 270))));
}

#[test]
fn quick_restarts_lengthen_no_ttl_and_hardly_shorten_one() {
    // Stored within a millisecond of a second; read and written again after odd times.
    let asked = query("a", 1);
    let mut cache = cache(OPTIONS());
    let key = key_of(&cache, &asked, About::default()).expect("a key");
    let stored = Tick(100 * SECOND + 999_900_000);
    assert!(cache.store(&key, &response(&asked, 100, 1), None, 0, stored, &mut Vec::new()).is_ok());
    let mut now = stored.0;
    for (restart, boots) in (1..=45_u64).zip([false, false, true].into_iter().cycle()) {
        // Each takes 1.2999 s; some of them are starts of the machine, whose clock begins anew.
        let clock = |ns: u64| Clocks { now: Tick(ns), unix_ms: 1_000_000_000 + ns / 1_000_000 };
        let bytes = written(&cache, clock(now + 399_900_000));
        now += 1_299_900_000;
        let next = PacketCache::new(OPTIONS(), [restart; 4]);
        let own = if boots { 40 * SECOND + 500_000_000 } else { now };
        read(&next, &bytes, Clocks { now: Tick(own), ..clock(now) }).expect("a snapshot");
        let exact = 100_000 - (now - stored.0) / 1_000_000;
        let is_there = |ns: u64| {
            let mut buffer = [&asked[..], &[0; 100]].concat();
            let mut packet = crate::base::packet::Packet::new(&mut buffer, 0, asked.len());
            let key = key_of(&next, &asked, About::default()).expect("a key");
            let mut scratch = vec![0; ENTRY_BYTES_MAX];
            next.answer(&key, &mut packet, asked.len(), Wanted::Fresh, Tick(ns), &mut scratch).is_some()
        };
        assert!(!is_there(own + exact * 1_000_000), "longer after {restart}");
        assert!(is_there(own + (exact - 5 * restart) * 1_000_000), "shorter after {restart}");
        if !boots {
            cache = next;
        }
    }
}

#[test]
fn limits_of_the_cache_that_reads_hold() {
    let bytes = three();
    let shorter = cache(CacheOptions { ttl_max: 50, ..OPTIONS() });
    let loaded = read(&shorter, &bytes, at(140)).expect("a snapshot");
    assert_eq!(
        (loaded.entries, fresh(&shorter, "a", 149).is_some(), fresh(&shorter, "a", 150)),
        (3, true, None)
    );
    // Each of them holds for those whose answers it is for: a positive one, NXDOMAIN, SERVFAIL, truncated.
    let all = cache(CacheOptions { truncated_ttl: 100, ..OPTIONS() });
    for (name, ttl, flags) in
        [("p", 300, [0x81, 0x80]), ("n", 200, [0x81, 0x83]), ("s", 1, [0x81, 0x82]), ("t", 1, [0x83, 0x80])]
    {
        let asked = query(name, 1);
        let mut answer = response(&asked, ttl, 1);
        answer[2..4].copy_from_slice(&flags);
        let key = key_of(&all, &asked, About::default()).expect("a key");
        assert!(all.store(&key, &answer, None, 0, Tick(100 * SECOND), &mut Vec::new()).is_ok());
    }
    let mixed = written(&all, at(110));
    // Until which second they are fresh; none: not at all.
    let (p, n, s, t) = (Some(400), Some(300), Some(160), Some(200));
    for (options, ends) in [
        (all.options().clone(), [p, n, s, t]),
        (CacheOptions { truncated_ttl: 100, ttl_min: 250, ..OPTIONS() }, [p, None, s, t]),
        (CacheOptions { truncated_ttl: 100, ttl_max: 50, ..OPTIONS() }, [Some(150), Some(150), Some(150), t]),
        (CacheOptions { truncated_ttl: 40, negative_ttl_max: 30, ..OPTIONS() }, [p, Some(130), s, Some(140)]),
        (CacheOptions { failure_ttl: 20, ..OPTIONS() }, [p, n, Some(120), None]),
        (CacheOptions { failure_ttl: 0, negative_ttl_max: 0, ..OPTIONS() }, [p, None, None, None]),
    ] {
        let other = cache(options);
        read(&other, &mixed, at(110)).expect("a snapshot");
        for (name, end) in ["p", "n", "s", "t"].into_iter().zip(ends) {
            let last = end.unwrap_or(110) - 1;
            assert_eq!(
                fresh(&other, name, last.max(110)).is_some(),
                end.is_some(),
                "{name} {}",
                other.options()
            );
            assert_eq!(fresh(&other, name, last + 1), None, "{name} {}", other.options());
        }
    }
    let smaller = cache(CacheOptions { entry_bytes_max: 34, ..OPTIONS() });
    let loaded = read(&smaller, &bytes, at(140)).expect("a snapshot");
    assert_eq!((loaded.entries, loaded.others), (0, 3));
    let fewer = cache(CacheOptions::new(2));
    read(&fewer, &bytes, at(140)).expect("a snapshot");
    assert!(fewer.len() <= 2);
}

#[test]
fn a_cut_one_is_refused_wherever_it_ends() {
    let bytes = three();
    for end in 0..bytes.len() {
        let expected = if end < 8 { "it is not a snapshot of a packet cache" } else { "its end is missing" };
        assert_eq!(refused(&bytes[..end]).to_string(), expected, "{end}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert_eq!(refused(&longer).to_string(), "something follows its end");
}

#[test]
fn any_changed_bit_is_noticed() {
    let bytes = three();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        refused(&changed);
    }
}

#[test]
fn others_are_refused_by_name() {
    let bytes = three();
    let mut foreign = bytes.clone();
    foreign[1] = b'D';
    assert!(matches!(refused(&foreign), Refused::Foreign));
    assert!(matches!(refused(b"-- a configuration\n"), Refused::Foreign));
    let mut newer = bytes.clone();
    newer[8] = 7;
    assert_eq!(refused(&sealed(newer)).to_string(), "its format is 7; expected 2");
    for options in [
        CacheOptions { parse_ecs: true, ..OPTIONS() },
        CacheOptions { hash_cookies: true, ..OPTIONS() },
        CacheOptions { skip_options: vec![10, 12, 65_001], ..OPTIONS() },
        CacheOptions { payload_ranks: vec![512, 1232], ..OPTIONS() },
    ] {
        let other = cache(options);
        assert!(matches!(read(&other, &bytes, at(140)), Err(Refused::Options)) && other.is_empty());
    }
    // The longest lists.
    let lists = CacheOptions {
        skip_options: (0..258).collect(),
        payload_ranks: (512..512 + 256).collect(),
        ..OPTIONS()
    };
    let (one, other) = (cache(lists.clone()), cache(lists));
    assert!(read(&other, &written(&one, at(1)), at(1)).is_ok());
}

#[test]
fn lengths_that_cannot_be_are_refused_though_the_checksum_fits() {
    let bytes = three();
    let begin = 8 + 4 + 8 + 2 + keyed_by(&OPTIONS()).len();
    let change = |at: usize, with: &[u8]| {
        let mut changed = bytes.clone();
        changed[at..at + with.len()].copy_from_slice(with);
        refused(&sealed(changed))
    };
    // What keys depend on, a key, a value, a time that begins at its end.
    assert!(matches!(change(20, &[0xff, 0xff]), Refused::Malformed(0)));
    assert!(matches!(change(begin, &[0xff, 0xff]), Refused::Malformed(0)));
    assert!(matches!(change(begin, &[1, 2, 0xff, 0xff]), Refused::Malformed(0)));
    assert!(matches!(change(begin + 2, &[0, 0]), Refused::Malformed(0) | Refused::Cut));
    assert!(matches!(change(begin + 2, &[0xff, 0xfe]), Refused::Cut | Refused::Malformed(0)));
    assert!(matches!(change(begin + 16, &[1, 0, 0, 0]), Refused::Malformed(0)));
    // The number of entries.
    assert!(matches!(change(bytes.len() - 16, &[4]), Refused::Malformed(3)));
    // Part of a key's name; its value's header, TTL and number of TTLs.
    assert!(matches!(change(begin + HEAD + 5, &[70]), Refused::Malformed(0)));
}

#[test]
fn a_value_that_is_no_response_is_refused() {
    let bytes = three();
    let begin = 8 + 4 + 8 + 2 + keyed_by(&OPTIONS()).len();
    let (key, value) = (usize::from(bytes[begin]), usize::from(bytes[begin + 2]));
    let value = begin + HEAD + key..begin + HEAD + key + value;
    // Its owner's name and length, offset and number of TTLs, the counts of its header. Addresses, the
    // TTL and flags may be any.
    let mut refusals = 0;
    for place in value.clone() {
        for with in [0xff, 0x00, 0x3f] {
            let mut changed = bytes.clone();
            changed[place] = with;
            let cache = cache(OPTIONS());
            match read(&cache, &sealed(changed), at(140)) {
                Err(Refused::Malformed(0)) => refusals += 1,
                Err(refused) => panic!("{refused}"),
                Ok(_) => cache.for_each(Tick(140 * SECOND), |seen| assert!(seen.addresses().len() <= 1)),
            }
        }
    }
    assert!(refusals > value.len(), "{refusals} of {}", 3 * value.len());
}

#[test]
fn a_huge_one_is_refused_before_it_is_read() {
    /// So many bytes, of which none may be read.
    struct Huge(u64);

    impl Read for Huge {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("it is not read");
        }
    }

    impl Seek for Huge {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            Ok(if matches!(to, SeekFrom::End(_)) { self.0 } else { 0 })
        }
    }

    let small = cache(OPTIONS());
    let refused = small.read_snapshot(&mut Huge(1 << 40), at(1), &|| true).expect_err("a refusal");
    assert_eq!(
        refused.to_string(),
        "it has 1099511627776 bytes; expected at most 67108864 for a cache of this size"
    );
}

#[test]
fn writing_and_reading_end_when_the_caller_wants_to() {
    let cache = cache(CacheOptions::new(100_000));
    for n in 0..5_000 {
        store(&cache, &format!("n{n}"), 300, 0, 1, 100);
    }
    let asked = Cell::new(0);
    let times = |most: u32| {
        asked.set(0);
        let asked = &asked;
        move || {
            asked.set(asked.get() + 1);
            asked.get() <= most
        }
    };
    let stopped = cache.write_snapshot(&mut Vec::new(), at(100), &times(1)).expect_err("it was stopped");
    assert_eq!(stopped.kind(), ErrorKind::TimedOut);
    let bytes = written(&cache, at(100));
    let other = PacketCache::new(CacheOptions::new(100_000), [7; 4]);
    let stopped = other.read_snapshot(&mut Cursor::new(&bytes), at(100), &times(2));
    assert!(matches!(stopped, Err(Refused::Stopped)) && other.is_empty());
    let loaded = read(&other, &bytes, at(100)).expect("a snapshot");
    assert_eq!((loaded.entries, other.len()), (5_000, 5_000));
}

#[test]
fn errors_of_the_file_are_told() {
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 < bytes.len() {
                return Err(io::Error::from(ErrorKind::StorageFull));
            }
            self.0 -= bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let cache = cache(OPTIONS());
    store(&cache, "a", 300, 0, 1, 100);
    let whole = written(&cache, at(100)).len();
    for room in 0..whole {
        let error = cache.write_snapshot(&mut Full(room), at(100), &|| true).expect_err("no room");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
    assert_eq!(cache.write_snapshot(&mut Full(whole), at(100), &|| true).expect("room"), 1);
}

#[test]
fn the_format_is_that_of_version_2() {
    // Where this has to be changed, VERSION has to be raised.
    assert_eq!(VERSION, 2);
    let cache = cache(OPTIONS());
    store(&cache, "a", 300, 50, 1, 100);
    let expected = b"\x89dnslob\n\x02\0\0\0\x3f\x59\x9c\x3b\0\0\0\0\x0a\0\0\0\x02\0\x0a\0\x0c\0\0\0\
        \x08\0\x1e\0\x9f\x08\0\0\0\0\0\0\x2c\x01\0\0\x5e\x01\0\0\
        \0\x01\0\0\x01\x01a\0\
        \xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\xc0\0\x02\x01\0\x06\0\x01\x81\x80\0\x01\0\x01\0\0\0\0\
        \0\0\x01\0\0\0\0\0\0\0";
    let bytes = written(&cache, at_ms(102_207));
    assert_eq!(bytes[..bytes.len() - 8].escape_ascii().to_string(), expected.escape_ascii().to_string());
}

proptest! {
    #[test]
    fn every_entry_survives_exactly(
        entries in prop::collection::vec((1..4_000_u32, 0..4_000_u32, 0..900_u64, any::<u8>()), 0..60),
        gap in 0..5_000_u64,
        begun in prop_oneof![Just(None), (0..3_000_u64).prop_map(Some)],
        dont_age in any::<bool>(),
    ) {
        let options = || CacheOptions { dont_age, ..OPTIONS() };
        let one = cache(options());
        for (n, (ttl, stale, stored, value)) in entries.iter().enumerate() {
            store(&one, &format!("n{n}"), *ttl, *stale, *value, *stored);
        }
        let bytes = written(&one, at(1_000));
        let other = PacketCache::new(options(), [8; 4]);
        // The second on the clock of who reads: the same clock, or one that has begun anew.
        let second = begun.unwrap_or(1_000 + gap);
        let clocks = Clocks { now: Tick(second * SECOND), ..at(1_000 + gap) };
        let loaded = read(&other, &bytes, clocks).expect("a snapshot");
        prop_assert_eq!(loaded.entries, other.len() as u64);
        for later in [0, 1, 500, 3_000] {
            for n in 0..entries.len() {
                let asked = query(&format!("n{n}"), 1);
                let was = look_up(&one, &asked, Wanted::Fresh, 1_000 + gap + later);
                let is = look_up(&other, &asked, Wanted::Fresh, second + later);
                prop_assert_eq!(was, is, "fresh n{} after {} and {}", n, gap, later);
                let name = format!("n{n}");
                let was = is_kept(&one, &name, 1_000 + gap + later);
                prop_assert_eq!(was, is_kept(&other, &name, second + later), "stale n{}", n);
            }
        }
    }

    #[test]
    fn no_bytes_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        seals in any::<bool>(),
    ) {
        let mut changed = three();
        for (place, with) in places {
            let at = place.index(changed.len());
            changed[at] = with;
        }
        let changed = if seals { sealed(changed) } else { changed };
        for bytes in [bytes, changed] {
            let cache = cache(OPTIONS());
            let read = read(&cache, &bytes, at(140));
            prop_assert!(read.is_ok() || cache.is_empty());
            cache.for_each(Tick(140 * SECOND), |seen| _ = seen.addresses());
        }
    }
}

#[test]
fn what_is_removed_while_a_snapshot_is_read_does_not_come_back() {
    let large = || CacheOptions::new(10_000);
    let original = cache(large());
    // More than are read before it is asked whether to go on.
    for n in 0..700 {
        store(&original, &format!("n{n}.a"), 300, 0, 1, 100);
        store(&original, &format!("n{n}.b"), 300, 0, 1, 100);
    }
    let bytes = written(&original, at(130));
    let all = original.len();
    let wire = |name| crate::wire::name::from_text(name).expect("a name");
    let read_and = |remove: &dyn Fn(&PacketCache)| {
        let restored = cache(large());
        let asked = Cell::new(0);
        // The first time is before anything is inserted.
        let goes_on = || {
            asked.set(asked.get() + 1);
            remove(&restored);
            true
        };
        let loaded = restored.read_snapshot(&mut Cursor::new(&bytes), at(140), &goes_on).expect("it is read");
        assert!(asked.get() > 0);
        assert!(loaded.entries <= all as u64);
        restored
    };
    let zone = read_and(&|cache| _ = cache.expunge_by_name(&wire("A"), None, true));
    assert_eq!(zone.expunge_by_name(&wire("a"), None, true), 0);
    assert!(!zone.is_empty());
    let soon = What::Named { qname: wire("b").into(), qtype: None, suffix: true };
    let by_rule = read_and(&|cache| _ = cache.remove_soon(soon.clone(), Tick(140 * SECOND)));
    assert_eq!(by_rule.expunge_by_name(&wire("b"), None, true), 0);
    let nothing = read_and(&|cache| _ = cache.expunge(0));
    assert!(nothing.is_empty(), "{}", nothing.len());
    assert_eq!(read_and(&|_| ()).len(), all);
    // So with what is removed before it begins.
    let options = CacheOptions { snapshot: Some("soon".to_owned()), ..large() };
    let early = cache(options);
    early.expunge_by_name(&wire("a"), None, true);
    read(&early, &bytes, at(140)).expect("it is read");
    assert_eq!(early.expunge_by_name(&wire("a"), None, true), 0);
    // A cache without one remembers nothing.
    let before = cache(large());
    before.expunge(0);
    read(&before, &bytes, at(140)).expect("it is read");
    assert_eq!(before.len(), all);
}
