//! Any bytes as a snapshot of a packet cache, also with a right checksum: it is refused whole, or its
//! entries can be shown, given and written again.

use std::io::Cursor;

use dnslob::base::packet::Packet;
use dnslob::base::time::Tick;
use dnslob::cache::key::{About, Key};
use dnslob::cache::snapshot::{Clocks, Loaded, Refused};
use dnslob::cache::{CacheOptions, PacketCache, Wanted};
use xxhash_rust::xxh3::xxh3_64;

/// Longest input.
const BYTES_MAX: usize = 16_384;
const SECOND: u64 = 1_000_000_000;

/// The input is a byte about what follows, and a snapshot. Odd: the last 8 bytes are replaced by the
/// checksum of what is before them. The next bit: the clock of the machine has just begun.
pub(crate) fn target(data: &[u8]) {
    let Some((about, bytes)) = data.split_first() else { return };
    let mut bytes = bytes[..bytes.len().min(BYTES_MAX)].to_vec();
    if about & 1 != 0 && bytes.len() >= 8 {
        let end = bytes.len() - 8;
        let sum = xxh3_64(&bytes[..end]);
        bytes[end..].copy_from_slice(&sum.to_le_bytes());
    }
    let second = if about & 2 != 0 { 3 } else { 1_000_000 };
    let clocks = Clocks { now: Tick(second * SECOND), unix_ms: 2_000_000_000_000 };
    let one = empty();
    let Ok(loaded) = read(&one, &bytes, clocks) else {
        assert!(one.is_empty(), "nothing of it is inserted");
        return;
    };
    assert_eq!(one.len() as u64, loaded.entries);
    one.for_each(clocks.now, |seen| {
        let _ = seen.addresses();
        let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend_from_slice(seen.asked.qname);
        query.extend_from_slice(&seen.asked.qtype.to_be_bytes());
        query.extend_from_slice(&[0, 1]);
        answer(&one, &query, clocks.now);
    });
    let mut again = Vec::new();
    let written = one.write_snapshot(&mut again, clocks, &|| true).expect("memory");
    assert_eq!(written, loaded.entries);
    let other = empty();
    let reread = read(&other, &again, clocks).expect("what was written can be read");
    // One with a millisecond or two left has expired meanwhile.
    assert_eq!(reread, Loaded { entries: loaded.entries - reread.expired, ..reread });
    assert_eq!((reread.others, reread.age), (0, 0));
}

fn empty() -> PacketCache {
    PacketCache::new(CacheOptions { entry_bytes_max: 65_535, ..CacheOptions::new(1_000) }, [1, 2, 3, 4])
}

fn read(cache: &PacketCache, bytes: &[u8], clocks: Clocks) -> Result<Loaded, Refused> {
    cache.read_snapshot(&mut Cursor::new(bytes), clocks, &|| true)
}

/// Looks a query up, whether it is there or not.
fn answer(cache: &PacketCache, query: &[u8], now: Tick) {
    let mut key = Key::default();
    if !key.read(query, About::default(), cache) {
        return;
    }
    let mut buffer = query.to_vec();
    buffer.resize(query.len() + 512, 0xee);
    let mut packet = Packet::new(&mut buffer, 0, query.len());
    let wanted = Wanted::Stale(u32::MAX);
    if cache.answer(&key, &mut packet, query.len(), wanted, now, &mut vec![0; 65_535]).is_some() {
        assert_eq!(packet.bytes()[12..query.len()], query[12..], "the client's question");
    }
}
