//! The cache as a whole, against a model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::base::packet::Packet;
use crate::base::rng::ShardRng;
use crate::base::time::Tick;
use crate::cache::entry::{Ttl, is_bare_failure, lifetime, pack, shuffle, unpack};
use crate::cache::key::{About, Key, Subnet, is_in_zone, question};
use crate::cache::{CacheOptions, PacketCache, Wanted};
use crate::stats::not_cached::NotCached;
use crate::wire::ecs::Ecs;
use crate::wire::query::Question;

pub(super) const SECOND: u64 = 1_000_000_000;

pub(super) fn cache(options: CacheOptions) -> PacketCache {
    PacketCache::new(options, [1, 2, 3, 4])
}

pub(super) fn query(name: &str, qtype: u8) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.push(name.len() as u8);
    message.extend_from_slice(name.as_bytes());
    message.extend_from_slice(&[0, 0, qtype, 0, 1]);
    message
}

/// An answer with one record that says `value`.
pub(super) fn response(query: &[u8], ttl: u32, value: u8) -> Vec<u8> {
    let mut message = query.to_vec();
    (message[2], message[3], message[7]) = (0x81, 0x80, 1);
    message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
    message.extend_from_slice(&ttl.to_be_bytes());
    message.extend_from_slice(&[0, 4, 192, 0, 2, value]);
    message
}

pub(super) fn key_of(cache: &PacketCache, query: &[u8], about: About) -> Option<Key> {
    let mut key = Key::default();
    key.read(query, about, cache).then_some(key)
}

/// What a client gets for a query: the last byte of its address, and its TTL.
pub(super) fn look_up(cache: &PacketCache, query: &[u8], wanted: Wanted, at: u64) -> Option<(u8, u32)> {
    let key = key_of(cache, query, About::default())?;
    let mut buffer = query.to_vec();
    buffer.resize(512, 0xee);
    let mut packet = Packet::new(&mut buffer, 0, query.len());
    let mut scratch = vec![0; 65_535];
    cache.answer(&key, &mut packet, query.len(), wanted, Tick(at * SECOND), &mut scratch)?;
    let message = packet.bytes();
    assert_eq!(message[..2], query[..2], "the client's id");
    assert_eq!(message[12..query.len()], query[12..], "its question");
    let ttl = message[message.len() - 10..message.len() - 6].first_chunk().copied().expect("a TTL");
    Some((message[message.len() - 1], u32::from_be_bytes(ttl)))
}

pub(super) fn store(
    cache: &PacketCache,
    query: &[u8],
    ttl: u32,
    value: u8,
    at: u64,
) -> Result<bool, NotCached> {
    let key = key_of(cache, query, About::default()).expect("a key");
    cache.store(&key, &response(query, ttl, value), None, 0, Tick(at * SECOND), &mut Vec::new())
}

#[test]
fn an_entry_lives_as_long_as_its_lowest_ttl() {
    let cache = cache(CacheOptions::new(10));
    assert_eq!(store(&cache, &query("a", 1), 30, 7, 100), Ok(true));
    assert_eq!(look_up(&cache, &query("A", 1), Wanted::Fresh, 129), Some((7, 1)));
    assert_eq!(look_up(&cache, &query("a", 1), Wanted::Fresh, 130), None);
    assert!(store(&cache, &query("a", 1), 30, 8, 130).is_ok());
    assert_eq!(look_up(&cache, &query("a", 1), Wanted::Fresh, 130), Some((8, 30)));
}

#[test]
fn entries_are_removed_by_name_type_and_number() {
    let cache = cache(CacheOptions::new(10));
    for (name, qtype) in [("a", 1), ("a", 28), ("b", 1)] {
        assert_eq!(store(&cache, &query(name, qtype), 30, 7, 0), Ok(true));
    }
    assert_eq!(cache.expunge_by_name(b"\x01A\0", Some(28), false), 1);
    assert_eq!((cache.len(), cache.expunge_by_name(b"\x01c\0", None, true)), (2, 0));
    assert_eq!((cache.purge_expired(0, true, Tick(29 * SECOND)), cache.len()), (0, 2));
    assert_eq!((cache.purge_expired(1, true, Tick(30 * SECOND)), cache.len()), (1, 1));
    assert_eq!((cache.expunge(0), cache.is_empty()), (1, true));
}

#[test]
fn names_in_a_zone_are_found() {
    let zone = b"\x01b\x01c\0";
    for (name, is_in) in [
        (&b"\x01a\x01b\x01c\0"[..], true),
        (b"\x01b\x01c\0", true),
        (b"\x02ab\x01c\0", false),
        (b"\x01c\0", false),
    ] {
        assert_eq!(is_in_zone(name, zone), is_in, "{name:?}");
        assert!(is_in_zone(name, b"\0"));
    }
}

#[test]
fn subnets_connections_and_what_rules_add_are_told_apart() {
    let cache = cache(CacheOptions { parse_ecs: true, ..CacheOptions::new(10) });
    let subnet = |last| Subnet {
        family: 1,
        prefix: 24,
        address: [192, 0, last, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    };
    let abouts = [
        About::default(),
        About { by_stream: true, ..About::default() },
        About { added: Ecs::OptAdded, ..About::default() },
        About { added: Ecs::OptionAdded, ..About::default() },
        About { subnet: Some(subnet(1)), ..About::default() },
        About { subnet: Some(subnet(2)), ..About::default() },
    ];
    let keys: Vec<Key> = abouts.map(|about| key_of(&cache, &query("a", 1), about).expect("a key")).into();
    for (at, key) in keys.iter().enumerate() {
        assert!(keys[..at].iter().all(|other| other.bytes() != key.bytes() && other.hash() != key.hash()));
        let asked = question(key.bytes()).expect("a question");
        assert_eq!((asked.qname, asked.qtype, asked.by_stream), (&b"\x01a\0"[..], 1, at == 1));
    }
    let (mut one, mut other) = (Key::default(), Key::default());
    one.for_every_subnet(&keys[4], &cache);
    other.for_every_subnet(&keys[5], &cache);
    assert_eq!(one, other);
    assert!(keys.iter().all(|key| key.bytes() != one.bytes()));
}

#[test]
fn what_is_not_stored_removes_what_was_there_if_it_says_anything_of_the_name() {
    let asked = query("a", 1);
    let answer = |ttl, code: u8| {
        let mut message = response(&asked, ttl, 9);
        message[3] |= code;
        message
    };
    let mut truncated = answer(0, 0);
    truncated[2] |= 2;
    let mut surplus = answer(60, 0);
    surplus.push(0);
    for (later, is_left) in [
        (answer(0, 0), false),
        (answer(0, 3), false),
        (answer(u32::MAX, 0), false),
        (answer(4, 0), false),
        (answer(0, 2), true),
        (answer(0, 5), true),
        (answer(0, 1), true),
        (truncated, true),
        (surplus, true),
    ] {
        let cache = cache(CacheOptions { ttl_min: 5, failure_ttl: 0, ..CacheOptions::new(10) });
        let key = key_of(&cache, &asked, About::default()).expect("a key");
        let at = |second| Tick(second * SECOND);
        assert!(cache.store(&key, &response(&asked, 30, 7), None, 3_600, at(0), &mut Vec::new()).is_ok());
        let reason = cache.store(&key, &later, None, 3_600, at(40), &mut Vec::new()).expect_err("not kept");
        cache.give_way(&key, &later, reason, 3_600, at(40), &mut Vec::new());
        let found = look_up(&cache, &asked, Wanted::Stale(3_600), 50);
        assert_eq!((found, cache.len()), (is_left.then_some((7, 60)), usize::from(is_left)), "{later:?}");
    }
}

#[test]
fn what_may_be_somebodys_is_not_kept_wherever_it_stands() {
    let query = query("a", 1);
    // Answer, authority and additional records behind a record of each section.
    let with = |section: usize, records: &[&[u8]]| {
        let mut message = response(&query, 60, 1);
        message[7 + 2 * section] += u8::try_from(records.len()).expect("few");
        message.extend_from_slice(&records.concat());
        message
    };
    let opt = |name: &[u8], options: &[u8]| {
        [name, b"\0\x29\x04\xd0\0\0\0\0\0", &[u8::try_from(options.len()).expect("short")], options].concat()
    };
    let cookie = b"\0\x0a\0\x08abcdefgh";
    let (bare, with_cookie) = (opt(b"\0", b""), opt(b"\0", cookie));
    let tsig = |class: u8| [b"\x01k\0\0\xfa\0", &[class][..], b"\0\0\0\x3c\0\x03mac"].concat();
    let sig = |class: u8| [b"\0\0\x18\0", &[class][..], b"\0\0\0\x3c\0\x04\0\0ab"].concat();
    let of_type = b"\x01k\0\0\x18\0\x01\0\0\0\x3c\0\x04\0\x01ab";
    let rows: [(&str, Vec<u8>, Result<u32, NotCached>); 18] = [
        ("an OPT", with(2, &[&bare]), Ok(60)),
        ("one with a cookie", with(2, &[&with_cookie]), Err(NotCached::Cookie)),
        (
            "an option that is cut",
            with(2, &[&opt(b"\0", b"\0\x0a\0\x09abcdefgh")]),
            Err(NotCached::Malformed),
        ),
        ("half an option", with(2, &[&opt(b"\0", b"\0\x0a\0")]), Err(NotCached::Malformed)),
        ("two OPT", with(2, &[&bare, &with_cookie]), Err(NotCached::Malformed)),
        ("an OPT with a name", with(2, &[&opt(b"\x01a\0", cookie)]), Err(NotCached::Malformed)),
        ("an OPT in the answer", with(0, &[&with_cookie]), Err(NotCached::Malformed)),
        ("an OPT in the authority", with(1, &[&with_cookie]), Err(NotCached::Malformed)),
        ("TSIG", with(2, &[&tsig(255)]), Err(NotCached::Signed)),
        ("TSIG of another class", with(2, &[&tsig(1)]), Err(NotCached::Signed)),
        ("TSIG before an OPT", with(2, &[&tsig(255), &bare]), Err(NotCached::Signed)),
        ("TSIG in the answer", with(0, &[&tsig(1)]), Err(NotCached::Signed)),
        ("SIG(0)", with(2, &[&sig(255)]), Err(NotCached::Signed)),
        ("SIG(0) of another class", with(2, &[&sig(1)]), Err(NotCached::Signed)),
        ("SIG(0) in the authority", with(1, &[&sig(1)]), Err(NotCached::Signed)),
        ("SIG of a type", with(0, &[of_type]), Ok(60)),
        (
            "a name that is its own end",
            with(0, &[b"\xc0\x23\0\x01\0\x01\0\0\0\x3c\0\0"]),
            Err(NotCached::Malformed),
        ),
        (
            "a name behind itself",
            with(0, &[b"\xc0\x29\0\x01\0\x01\0\0\0\x3c\0\0"]),
            Err(NotCached::Malformed),
        ),
    ];
    for (name, message, wanted) in rows {
        assert_eq!(lifetime(&message, &CacheOptions::new(1), None), wanted, "{name}");
    }
}

#[test]
fn stale_entries_last_as_long_as_is_wanted_when_they_are_asked_for() {
    let cache = cache(CacheOptions::new(10));
    let (good, failed) = (query("a", 1), query("b", 1));
    let put = |asked: &[u8], code: u8| {
        let mut answer = response(asked, 30, 7);
        answer[3] |= code;
        let key = key_of(&cache, asked, About::default()).expect("a key");
        assert!(cache.store(&key, &answer, Some(30), 5, Tick(0), &mut Vec::new()).is_ok());
    };
    put(&good, 0);
    put(&failed, 2);
    assert_eq!(look_up(&cache, &good, Wanted::Stale(5), 36), None);
    assert_eq!(look_up(&cache, &good, Wanted::Stale(3_600), 3_630), Some((7, 60)));
    assert_eq!(look_up(&cache, &good, Wanted::Stale(3_600), 3_631), None);
    assert_eq!(look_up(&cache, &failed, Wanted::Stale(3_600), 31), None, "a failure is not kept");
    let clean = |stale_seconds, second| {
        assert_eq!(cache.clean(0, usize::MAX, 0, stale_seconds, Tick(second * SECOND)), None);
        cache.len()
    };
    assert_eq!((clean(3_600, 34), clean(3_600, 3_629), clean(3_600, 3_630)), (1, 1, 0));
}

#[test]
fn a_failure_without_a_question_gets_that_of_each_client() {
    let asked = query("a", 1);
    let bare = |code: u8, rest: &[u8], additional: u8| {
        let mut message = vec![0, 0, 0x81, 0x80 | code, 0, 0, 0, 0, 0, 0, 0, additional];
        message.extend_from_slice(rest);
        message
    };
    let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    for (response, rest) in [(bare(2, b"", 0), &[][..]), (bare(5, &opt, 1), &opt[..])] {
        assert!(is_bare_failure(&response), "{response:?}");
        let (mut packed, mut buffer) = (Vec::new(), asked.clone());
        buffer.resize(100, 0);
        pack(&response, &mut packed).expect("packed");
        let mut packet = Packet::new(&mut buffer, 0, asked.len());
        assert!(unpack(&packed, &mut packet, asked.len(), Ttl::Unchanged));
        let mut wanted = [&asked[..], rest].concat();
        (wanted[2], wanted[3], wanted[11]) = (0x81, response[3], response[11]);
        assert_eq!(packet.bytes(), wanted);
    }
    for other in [bare(0, b"", 0), bare(1, b"", 0), bare(2, b"\0", 0), bare(2, b"", 1), bare(2, &opt, 2)] {
        assert!(!is_bare_failure(&other), "{other:?}");
    }
}

#[test]
fn addresses_of_two_names_stay_with_them() {
    let mut message = response(&query("a", 1), 60, 1);
    message.extend_from_slice(b"\x01b\0\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x02");
    message[7] = 2;
    let before = message.clone();
    let mut rng = ShardRng::from_seed(1);
    (0..100).for_each(|_| shuffle(&mut message, &mut rng));
    assert_eq!(message, before);
}

#[test]
fn addresses_are_shuffled_within_their_set() {
    let mut message = response(&query("a", 1), 60, 1);
    for value in 2..=8 {
        let next = response(&query("a", 1), 60, value);
        message.extend_from_slice(&next[next.len() - 16..]);
        message[7] += 1;
    }
    let (mut rng, mut orders) = (ShardRng::from_seed(1), BTreeMap::new());
    for _ in 0..100 {
        let mut shuffled = message.clone();
        shuffle(&mut shuffled, &mut rng);
        let order: Vec<u8> = shuffled.chunks(1).skip(19 + 15).step_by(16).map(|b| b[0]).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [1, 2, 3, 4, 5, 6, 7, 8]);
        *orders.entry(order).or_insert(0) += 1;
    }
    assert!(orders.len() > 90, "{}", orders.len());
}

proptest! {
    #[test]
    fn it_is_a_map_with_times(
        steps in prop::collection::vec((0..6_u8, any::<bool>(), 0..40_u32, any::<u8>(), 0..20_u64), 1..80)
    ) {
        let cache = cache(CacheOptions { ttl_max: 25, ttl_min: 2, ..CacheOptions::new(100) });
        let (mut model, mut now) = (BTreeMap::new(), 0);
        for (name, stores, ttl, value, pass) in steps {
            now += pass;
            let asked = query(&char::from(b'a' + name).to_string(), 1);
            if stores {
                let stored = store(&cache, &asked, ttl, value, now);
                prop_assert_eq!(stored.is_ok(), ttl >= 2);
                model.insert(name, (value, ttl, now));
                if let Err(reason) = stored {
                    let key = key_of(&cache, &asked, About::default()).expect("a key");
                    let (later, at) = (response(&asked, ttl, value), Tick(now * SECOND));
                    cache.give_way(&key, &later, reason, 0, at, &mut Vec::new());
                    model.remove(&name);
                }
            } else {
                let wanted = model.get(&name).filter(|(_, ttl, at)| now < at + u64::from(*ttl.min(&25)));
                let wanted = wanted.map(|(value, ttl, at)| (*value, ttl - (now - at) as u32));
                prop_assert_eq!(look_up(&cache, &asked, Wanted::Fresh, now), wanted);
            }
        }
    }

    #[test]
    fn no_message_panics(message in prop::collection::vec(any::<u8>(), 0..200), at in 0..12_usize, with in any::<u8>()) {
        let cache = cache(CacheOptions::new(10));
        let mut odd = response(&query("a", 1), 60, 1);
        odd.extend_from_slice(&message);
        let place = at.min(odd.len() - 1);
        odd[place] = with;
        for bytes in [&message, &odd] {
            let key = key_of(&cache, bytes, About::default());
            prop_assert!(key.is_none_or(|key| question(key.bytes()).is_some()));
            if lifetime(bytes, cache.options(), None).is_ok() {
                let (mut packed, end) = (Vec::new(), Question::parse(bytes).expect("a question").end);
                prop_assert!(pack(bytes, &mut packed).is_some());
                let mut buffer = bytes.clone();
                let mut packet = Packet::new(&mut buffer, 0, end);
                prop_assert!(unpack(&packed, &mut packet, end, Ttl::Unchanged));
                prop_assert_eq!(packet.bytes(), &bytes[..]);
            }
            let _ = unpack(bytes, &mut Packet::new(&mut odd.clone(), 0, 20), 15, Ttl::Aged(7));
        }
    }
}
