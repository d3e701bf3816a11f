//! Packet caches at the console.

use super::*;
use crate::cache::CacheOptions;
use crate::cache::key::{About, Key};

/// Stores the answer to a question: an address.
fn store(cache: &PacketCache, name: &[u8], qtype: u8, address: &[u8], ttl: u8) {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend_from_slice(name);
    query.extend_from_slice(&[0, qtype, 0, 1]);
    let mut key = Key::default();
    assert!(key.read(&query, About::default(), cache), "a query with a key");
    let mut response = query;
    (response[2], response[3], response[7]) = (0x81, 0x80, 1);
    response.extend_from_slice(&[
        0xc0,
        0x0c,
        0,
        qtype,
        0,
        1,
        0,
        0,
        0,
        ttl,
        0,
        u8::try_from(address.len()).unwrap(),
    ]);
    response.extend_from_slice(address);
    assert_eq!(cache.store(&key, &response, None, 0, Tick(5_000_000_000), &mut Vec::new()), Ok(true));
}

/// A console whose default pool has a cache with four entries, one of which has expired.
fn console() -> Console {
    let cache = PacketCache::new(CacheOptions::new(100), [1, 2, 3, 4]);
    store(&cache, b"\x01a\x04test\0", 1, &[192, 0, 2, 1], 60);
    store(&cache, b"\x01a\x04test\0", 28, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 60);
    store(&cache, b"\x01b\x01a\x04test\0", 1, &[192, 0, 2, 1], 60);
    store(&cache, b"\x03old\0", 1, &[192, 0, 2, 2], 2);
    let text = "c = newPacketCache(100) getPool(''):setCache(c) other = newPacketCache(50) getPool('x'):setCache(other)\n";
    Console { cache: Some(Arc::new(cache)), ..Console::new(text) }
}

#[test]
fn a_cache_is_shown() {
    let console = console();
    for (command, reply) in [
        ("c", "4/100\n"),
        ("c:toString()", "4/100\n"),
        ("getPool(''):getCache():toString()", "4/100\n"),
        ("other", "0/50\n"),
        ("c:getStats().hits", "7\n"),
        ("other:getStats().hits", "0\n"),
        ("c:printStats()", "Entries: 4/100\nHits: 7\n"),
        ("c:isFull()", "false\n"),
        ("other:isFull()", "false\n"),
        ("c:getAddressListByDomain('A.test')", "192.0.2.1\n2001:db8::1\n"),
        ("#other:getAddressListByDomain('a.test')", "0\n"),
        ("c:getDomainListByAddress('192.0.2.1')", "a.test.\nb.a.test.\n"),
        ("c:getDomainListByAddress(newCA('2001:db8::1'))", "a.test.\n"),
        ("#c:getDomainListByAddress('192.0.2.9')", "0\n"),
        ("getPool('none'):getCache()", ""),
    ] {
        assert_eq!(console.reply(command), reply, "{command}");
    }
}

#[test]
fn entries_are_removed_without_a_change_of_the_configuration() {
    for (command, count, left) in [
        ("c:expunge(1)", "3", 1),
        ("c:expunge(0)", "4", 0),
        ("c:purgeExpired(0)", "1", 3),
        ("c:purgeExpired(4)", "0", 4),
        ("c:expungeByName('A.TEST')", "2", 2),
        ("c:expungeByName(newDNSName('a.test.'), DNSQType.AAAA)", "1", 3),
        ("c:expungeByName('a.test', DNSQType.ANY, true)", "3", 1),
        ("c:expungeByName('test', DNSQType.A, true)", "2", 2),
        ("other:expunge(0)", "0", 4),
    ] {
        let console = console();
        assert_eq!(console.reply(command), format!("{count}\n"), "{command}");
        assert_eq!(console.cache.as_ref().map(|cache| cache.len()), Some(left), "{command}");
    }
}

#[test]
fn entries_are_dumped() {
    let console = console();
    let text = console.reply("c:dump('-')");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "; packet cache: 4 of 100 entries",
            "a.test. 55 A ; rcode 0, age 5, size 40, over UDP",
            "a.test. 55 AAAA ; rcode 0, age 5, size 52, over UDP",
            "b.a.test. 55 A ; rcode 0, age 5, size 42, over UDP",
            "old. -3 A ; rcode 0, age 5, size 37, over UDP",
        ]
    );
    let path = std::env::temp_dir().join(format!("dnslob-dump-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let command = format!("c:dump('{}')", path.display());
    assert_eq!(console.reply(&command), "");
    assert_eq!(std::fs::read_to_string(&path).expect("the dump").lines().count(), 5);
    assert!(console.error(&command).contains("expected the path of a new file"), "it overwrites nothing");
    std::fs::remove_file(&path).expect("the dump");
}

#[test]
fn a_cache_is_given_to_a_pool_and_taken() {
    let console = console();
    let draft = console.change("getPool('x'):setCache(c)");
    assert_eq!(draft.pools.iter().map(|pool| pool.cache).collect::<Vec<_>>(), [Some(0), Some(0)]);
    let draft = console.change("getPool('x'):unsetCache()");
    assert_eq!(draft.pools.iter().map(|pool| pool.cache).collect::<Vec<_>>(), [Some(0), None]);
    let draft = console.change("getPool('x'):setCache(newPacketCache(7))");
    assert_eq!((draft.caches.len(), draft.pools[1].cache), (3, Some(2)));
    assert!(console.error("c:expunge()").contains("expected a whole number"));
    assert!(console.error("c:expungeByName('a..b')").contains("without an empty label"));
}
