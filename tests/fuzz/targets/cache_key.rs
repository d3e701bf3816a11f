//! Any bytes as a query to the packet cache, and what its key must not depend on: the id and the case
//! of the name. What has a key is found again under it, with the client's own question.

use dnslob::base::packet::Packet;
use dnslob::base::time::Tick;
use dnslob::cache::key::{About, Key, Subnet, question};
use dnslob::cache::{CacheOptions, PacketCache, Wanted};
use dnslob::wire::ecs::Ecs;
use dnslob::wire::header;
use dnslob::wire::query::Question;

/// Longest query: one with more is not asked again.
const QUERY_MAX: usize = 4_096;
/// Longest key that the table takes, bytes.
const KEY_MAX: usize = 512;

/// The input is a byte of options, one about the query, and the query.
pub(crate) fn target(data: &[u8]) {
    let Some((&[options, about], query)) = data.split_first_chunk::<2>() else { return };
    let query = &query[..query.len().min(QUERY_MAX)];
    let cache = cache(options);
    let about = describe(about);
    let mut key = Key::default();
    if !key.read(query, about, &cache) {
        assert!(key.is_empty());
        return;
    }
    let asked = Question::parse(query).expect("a query with a key has a question");
    let seen = question(key.bytes()).expect("a key has a question");
    assert!(key.bytes().len() <= KEY_MAX, "{} bytes", key.bytes().len());
    assert_eq!((seen.qname, seen.qtype), (&*asked.qname.to_ascii_lowercase(), asked.qtype));
    assert!(asked.qclass == 1 && !matches!(asked.qtype, 0 | 41 | 128..=255));
    assert_eq!(seen.by_stream, about.by_stream);

    let mut same = query.to_vec();
    same[0] ^= 0x55;
    for letter in same[header::LEN..][..asked.qname.len()].iter_mut().filter(|b| b.is_ascii_lowercase()) {
        // Lengths of labels are no letters.
        letter.make_ascii_uppercase();
    }
    let mut other = Key::default();
    assert!(other.read(&same, about, &cache) && other == key, "the same query");
    if key.has_subnet() {
        other.for_every_subnet(&key, &cache);
        assert!(other != key && !other.has_subnet());
        assert_eq!(question(other.bytes()), Some(seen));
    }

    let mut buffer = same.clone();
    buffer.resize(same.len() + 64, 0xee);
    let mut scratch = vec![0; 65_535];
    let stored = cache.store(&key, &response(query, asked.end), None, 0, Tick(0), &mut Vec::new());
    assert_eq!(stored, Ok(true));
    let mut packet = Packet::new(&mut buffer, 0, same.len());
    let hit = cache.answer(&key, &mut packet, asked.end, Wanted::Fresh, Tick(0), &mut scratch);
    assert!(hit.is_some(), "it is found again");
    let answer = packet.bytes();
    assert_eq!(answer[..2], same[..2], "the client's id");
    assert_eq!(answer[header::LEN..asked.end], same[header::LEN..asked.end], "its question");
}

/// A cache of the options that these bits say.
fn cache(options: u8) -> PacketCache {
    let has = |bit: u8| options & (1 << bit) != 0;
    let mut cache = CacheOptions {
        parse_ecs: has(0),
        hash_cookies: has(1),
        payload_ranks: if has(2) { vec![512, 1232, 4096] } else { Vec::new() },
        ..CacheOptions::new(4)
    };
    cache.skip_options = if has(3) { vec![10, 12, 65_001] } else { cache.skip_options };
    PacketCache::new(cache, [1, 2, 3, 4])
}

/// What these bits say about a query.
fn describe(about: u8) -> About {
    let mut address = [0; 16];
    address[0] = about;
    let family = 1 + (about >> 3 & 1);
    let prefix = if family == 1 { 24 } else { 128 };
    About {
        by_stream: about & 1 != 0,
        added: [Ecs::Left, Ecs::OptAdded, Ecs::OptionAdded, Ecs::Replaced][usize::from(about >> 1 & 3)],
        subnet: (about & 0x80 != 0).then_some(Subnet { family, prefix, address }),
    }
}

/// The answer with one address to the question of a query.
fn response(query: &[u8], question_end: usize) -> Vec<u8> {
    let mut message = query[..question_end].to_vec();
    (message[2], message[3]) = (0x81, 0x80);
    message[6..header::LEN].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    message
}
