//! Runs the bodies of the fuzz targets with seeded inputs, on any toolchain: random bytes, and
//! mutations of the corpus below. The inputs are always the same; `FUZZ_SEED=` selects others, and
//! a failure prints the seed to repeat.

#![allow(clippy::expect_used)]

#[path = "fuzz/targets/cache_key.rs"]
mod cache_key;
#[path = "fuzz/targets/cache_snapshot.rs"]
mod cache_snapshot;
#[path = "fuzz/targets/capture.rs"]
mod capture;
#[path = "fuzz/targets/certificate.rs"]
mod certificate;
#[path = "fuzz/targets/compare.rs"]
mod compare;
#[path = "fuzz/targets/config.rs"]
mod config;
#[path = "fuzz/targets/connections.rs"]
mod connections;
#[path = "fuzz/targets/frames.rs"]
mod frames;
#[path = "fuzz/targets/networks.rs"]
mod networks;
#[path = "fuzz/targets/pattern.rs"]
mod pattern;
#[path = "fuzz/targets/probe.rs"]
mod probe;
#[path = "fuzz/targets/proxy.rs"]
mod proxy;
#[path = "fuzz/targets/records.rs"]
mod records;
#[path = "fuzz/targets/rules.rs"]
mod rules;
#[path = "fuzz/targets/script.rs"]
mod script;
#[path = "fuzz/targets/shard.rs"]
mod shard;
#[path = "fuzz/targets/svc.rs"]
mod svc;
#[path = "fuzz/targets/tls_session.rs"]
mod tls_session;
#[path = "fuzz/targets/transfer.rs"]
mod transfer;
#[path = "fuzz/targets/values.rs"]
mod values;
#[path = "fuzz/targets/wire.rs"]
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use dnslob::base::rng::ShardRng;
use dnslob::base::time::Tick;
use dnslob::cache::key::{About, Key};
use dnslob::cache::snapshot::Clocks;
use dnslob::cache::{CacheOptions, PacketCache};

/// Messages and fragments of messages to mutate.
const MESSAGES: &[&[u8]] = &[
    b"",
    b"\0\0\x01\0\0\0\0\0\0\0\0\0",
    b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01",
    // With an OPT record: payload size 1232, DO.
    b"\xab\xcd\x01\x20\0\x01\0\0\0\0\0\x01\x01a\0\0\x1c\0\x01\0\0\x29\x04\xd0\0\0\x80\0\0\0",
    // An answer with a compressed owner name, followed by an OPT record with a client subnet.
    b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\x01\x01a\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01\
      \0\0\x29\x10\0\0\0\0\0\0\x0b\0\x08\0\x07\0\x01\x18\0\xc0\0\x02",
    // Pointers to themselves and to each other; two questions; the root name.
    b"\0\0\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01",
    b"\0\0\x01\0\0\x02\0\0\0\0\0\0\x01a\xc0\x0c\0\x01\0\x01\xc0\x0e\0\x01\0\x01",
    b"\0\0\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01",
];

/// Two bytes that say how to split and stop a stream, then the stream: complete, truncated, empty
/// and too short frames.
const STREAMS: &[&[u8]] = &[
    b"\0\0\0\x0c\0\0\x01\0\0\0\0\0\0\0\0\0",
    b"\x05\x01\0\x0d.............\0\x0c............\0\x0e..............",
    b"\x3f\x02\x01\x02..............................",
    b"\x01\x03\0\x0c............\0\0\0\x0c............",
    b"\x02\x02\0\x0c............\0\x0b...........",
];

const PROXY_HEADERS: &[&[u8]] = &[
    b"PROXY TCP4 192.0.2.1 192.0.2.53 4711 53\r\n",
    b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 4711 0\r\nmore",
    b"PROXY UNKNOWN and so on\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\x04some",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\xc0\0\x02\x01\xc0\0\x02\x35\x12\x67\0\x35",
    // ALPN, and SSL with a version.
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x21\xc0\0\x02\x01\xc0\0\x02\x35\x12\x67\0\x35\
      \x01\0\x03dot\x20\0\x0c\x01\0\0\0\x01\x21\0\x04TLSv",
    // IPv6 with an IPv4-mapped address; a header with only a checksum.
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x2b................\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01\
      \x12\x67\0\x35\x03\0\x04\0\0\0\0",
];

/// The kind of transfer, then messages of that kind.
const TRANSFERS: &[&[u8]] = &[
    // An SOA, an address, and the SOA.
    b"\0\0\x01\x84\0\0\x01\0\x03\0\0\0\0\x01a\0\0\xfc\0\x01\
      \xc0\x0c\0\x06\0\x01\0\0\0\0\0\x16\0\0\0\0\0\x07................\
      \xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04\xc0\0\x02\x01\
      \xc0\x0c\0\x06\0\x01\0\0\0\0\0\x16\0\0\0\0\0\x07................",
    // Only SOA records: an incremental transfer from 5 to 7 without its end.
    b"\x40\0\x01\x84\0\0\0\0\x03\0\0\0\0\
      \0\0\x06\0\x01\0\0\0\0\0\x16\0\0\0\0\0\x07................\
      \0\0\x06\0\x01\0\0\0\0\0\x16\0\0\0\0\0\x05................\
      \0\0\x06\0\x01\0\0\0\0\0\x16\0\0\0\0\0\x07................",
    // Several messages with one SOA record each, 45 bytes.
    b"\x2c\0\x01\x84\0\0\0\0\x01\0\0\0\0\0\0\x06\0\x01\0\0\0\0\0\x16\0\0\0\0\0\x07................\
      \0\x01\x84\0\0\0\0\x01\0\0\0\0\0\0\x06\0\x01\0\0\0\0\0\x16\0\0\0\0\0\x07................",
    // A REFUSED answer, and a query with the serial of the client.
    b"\0\0\x01\x84\x05\0\0\0\0\0\0\0\0",
    b"\x40\0\x01\0\0\0\x01\0\0\0\x01\0\0\x01a\0\0\xfb\0\x01\
      \xc0\x0c\0\x06\0\x01\0\0\0\0\0\x16\0\0\0\0\0\x05................",
];

const NETWORKS: &[&[u8]] = &[
    b"10.0.0.0/8 192.168.0.0/16 127.0.0.1",
    b"0.0.0.0/0 ::/0 255.255.255.255/32",
    b"2001:db8::/32 ::1/128 fe80::/10 fe80::1",
    b"1.2.3.4/33 ::/129 /8 1.2.3/24 -1/1",
];

/// The example configurations, and fragments for functions that they do not use.
const CONFIGURATIONS: &[&[u8]] = &[
    include_bytes!("../examples/concentrate.lua"),
    include_bytes!("../examples/first-available.lua"),
    include_bytes!("../examples/hashed-by-zone.lua"),
    include_bytes!("../examples/health-checks.lua"),
    include_bytes!("../examples/minimal.lua"),
    include_bytes!("../examples/pools-and-retry.lua"),
    b"#!/usr/bin/dnslob\nsetLocal('[::1]:53') addLocal('127.0.0.1')\nsetACL({'10.0.0.0/8', '::/0'}) addACL('192.0.2.1')\n",
    b"newServer{address='192.0.2.1', id='a', pool={'x', 'y'}}\nsetPoolServerPolicy(chashed, 'x')\nrmServer(0)\n",
    b"setServerPolicy(concentrate)\nnewServer{address='[2001:db8::1]:53', pool={'', 'x'}, weight=3, qps=10}\n",
    b"for n = 1, 20 do newServer('192.0.2.' .. n) end\n",
    b"setBackendsMax(2) setUDPTimeout(1) setVerbose(true) setServFailWhenNoServer(true)\n",
    b"pcall(newServer, {address=1}) error('stop')\n",
    b"error({}) error('') error(nil, 0)\n",
    b"local s = getPool(''):setRetry{after='1s', budget=-1}\nsetEjection{} setPanicThreshold(101)\n",
];

const VALUES: &[&[u8]] = &[
    b"192.0.2.1:5353",
    b"[2001:db8::1]:53",
    b"1.5m",
    b"0,2-5,4095",
    b"00112233-44556677-8899aabb-ccddeeff",
    b"192.0.2.1@eth0",
    b"www.ex\\.am\\255ple.com.",
    b"^ads?[0-9]+\\.track\\.(a|b)$",
    b"[[:alpha:]]{2,3}[^]x-z]",
    b"--shards 2 --stats 1s 127.0.0.1:5300 192.0.2.1",
];

/// The length of a Lua pattern, the pattern, and its subject.
const PATTERNS: &[&[u8]] = &[
    b"\x0b^(.-)%.(.-)$www.example.com",
    b"\x0c[^%s-a%d]+()aa 12 - xyz 9",
    b"\x0d%f[%w]%w+%f%W one two",
    b"\x07(%b())%1(a(b)c)(a(b)c)",
    b"\x0a((a*)b?)-c%2aaabaac",
    b"\x06[]x-]+]]x-",
    b"\x08%z[%z\x01]\0\0\x01\0\x01",
    b"\x05(()x)xx",
];

/// Parameters of SVCB records: kind, length, value.
const SERVICES: &[&[u8]] = &[
    b"\x01\x02h2\x01\x03dot\x03\x02\x03\x55\x04\x04\xc0\0\x02\x01\x05\x03abc\x06\x10................",
    b"\0\x02\0\x03\0\x02\0\x01\x01\x02h3\x02\0\x03\x02\x20\xfb\x09\x04\xff\0ab\x09\x02\0\x07",
    b"\x09\x02\0\x03\x03\x02\0\x35",
    b"\x07\x02\xff\xff\x08\x80",
];

/// The length of a name, options, a type, the name, and an answer or its beginning.
const PROBES: &[&[u8]] = &[
    b"\x07\x03\x01example\x12\x34\x81\x80\0\x01",
    b"\x0a\0\x1ca\\.b\\065.c.\x12\x34\x81\x85\0\0\0\0\0\0\0\0",
    b"\x01\x02\x02.\x12\x34\x81\x83\0\x01\0\0\0\0\0\0\0\0\x02\0\x01",
    b"\x03\x10\x01a\\1\x12\x34\x81\x82",
];

/// Edits of messages: their number, twice the space behind the message, and the edits.
fn edited() -> Vec<Vec<u8>> {
    let edits = b"\x0a\x40\x00\x0b\x14\x1f\x05\x23\x06\x25\x08\x09";
    MESSAGES.iter().map(|message| [&edits[..], message].concat()).collect()
}

/// A message beside itself with another byte, and two messages.
fn compared() -> Vec<Vec<u8>> {
    let places = [2, 3, 24, 30, 34, 45, 60];
    let alone = MESSAGES.iter().flat_map(|m| places.iter().map(move |place| [&[*place, 0, 0], *m].concat()));
    let both = MESSAGES.iter().flat_map(|first| {
        // Shorter than 256 bytes.
        MESSAGES.iter().map(move |second| [&[0, 0, first.len() as u8], *first, *second].concat())
    });
    alone.chain(both).collect()
}

/// Queries to the packet cache: options, what is known of the query, and the query.
fn cached() -> Vec<Vec<u8>> {
    let abouts = [[0, 0], [0x0f, 1], [2, 0x82], [1, 0xff]];
    abouts
        .iter()
        .flat_map(|about| MESSAGES.iter().map(move |message| [&about[..], message].concat()))
        .collect()
}

/// Snapshots of packet caches, of no entry and of three, each with a byte that asks for the right
/// checksum and one that does not.
fn snapshots() -> Vec<Vec<u8>> {
    let snapshot = |count: u8| {
        let cache = PacketCache::new(CacheOptions::new(100), [1, 2, 3, 4]);
        for n in 0..count {
            let query = [b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x02n", &[b'0' + n][..], b"\0\0\x01\0\x01"].concat();
            let mut key = Key::default();
            assert!(key.read(&query, About::default(), &cache));
            let mut response = query;
            (response[2], response[3], response[7]) = (0x81, 0x80, 1);
            response.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60 * n + 1, 0, 4, 192, 0, 2, n]);
            let stored = cache.store(&key, &response, None, 3_600, Tick(1_000_000_000), &mut Vec::new());
            assert_eq!(stored, Ok(true));
        }
        let clocks = Clocks { now: Tick(30_000_000_000), unix_ms: 1_999_999_990_000 };
        let mut bytes = Vec::new();
        cache.write_snapshot(&mut bytes, clocks, &|| true).expect("memory");
        bytes
    };
    let all = [0, 3].map(snapshot);
    all.iter().flat_map(|bytes| [0, 1, 3].map(|about| [&[about], &bytes[..]].concat())).collect()
}

/// A certificate with names, and one with only a common name.
fn certificates() -> Vec<Vec<u8>> {
    let key = rcgen::KeyPair::generate().expect("a key");
    [vec!["dns.example".to_owned(), "192.0.2.1".to_owned()], Vec::new()]
        .into_iter()
        .map(|names| {
            let params = rcgen::CertificateParams::new(names).expect("names");
            params.self_signed(&key).expect("a certificate").der().to_vec()
        })
        .collect()
}

fn parts(corpus: &[Vec<u8>]) -> Vec<&[u8]> {
    corpus.iter().map(Vec::as_slice).collect()
}

/// Writes the seeds where scripts/test lets cargo-fuzz find them.
fn seeds_of(name: &str, corpus: &[&[u8]]) {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("corpus").join(name);
    std::fs::create_dir_all(&directory).expect("a directory");
    for (number, seed) in corpus.iter().enumerate() {
        std::fs::write(directory.join(format!("seed-{number}")), seed).expect("a file");
    }
}

#[test]
fn seeds() {
    let (edited, certificates, compared) = (edited(), certificates(), compared());
    let (cached, snapshots, captures) = (cached(), snapshots(), captures());
    for (name, corpus) in [
        ("records", &parts(&edited)[..]),
        ("capture", &parts(&captures)),
        ("certificate", &parts(&certificates)),
        ("compare", &parts(&compared)),
        ("cache_key", &parts(&cached)),
        ("cache_snapshot", &parts(&snapshots)),
        ("values", VALUES),
        ("wire", MESSAGES),
        ("frames", STREAMS),
        ("proxy", PROXY_HEADERS),
        ("transfer", TRANSFERS),
        ("networks", NETWORKS),
        ("pattern", PATTERNS),
        ("svc", SERVICES),
        ("probe", PROBES),
        ("script", MESSAGES),
        ("config", CONFIGURATIONS),
    ] {
        seeds_of(name, corpus);
    }
}

/// Runs `body` with `count` inputs.
fn smoke(name: &str, corpus: &[&[u8]], length_max: u32, count: u32, body: fn(&[u8])) {
    let first = match std::env::var("FUZZ_SEED") {
        Ok(seed) => seed.parse().expect("FUZZ_SEED is a number"),
        Err(_) => 1,
    };
    for seed in first..first + u64::from(count) {
        let input = input(&mut ShardRng::from_seed(seed), corpus, length_max);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&input))) {
            eprintln!("{name}: repeat with FUZZ_SEED={seed} (an input of {} bytes)", input.len());
            resume_unwind(panic);
        }
    }
}

fn input(rng: &mut ShardRng, corpus: &[&[u8]], length_max: u32) -> Vec<u8> {
    if corpus.is_empty() || rng.below(8) == 0 {
        return (0..rng.below(length_max)).map(|_| rng.u32() as u8).collect();
    }
    let mut input = corpus[rng.below(corpus.len() as u32) as usize].to_vec();
    for _ in 0..rng.below(6) {
        mutate(rng, &mut input, corpus);
    }
    input
}

fn mutate(rng: &mut ShardRng, input: &mut Vec<u8>, corpus: &[&[u8]]) {
    let len = input.len() as u32;
    let at = rng.below(len + 1) as usize;
    match rng.below(7) {
        0 if len > 0 => input[at.min(len as usize - 1)] ^= 1 << rng.below(8),
        1 if len > 0 => {
            input[at.min(len as usize - 1)] = [0, 1, 0x3f, 0x40, 0x7f, 0xc0, 0xff][rng.below(7) as usize];
        }
        2 => input.truncate(at),
        3 => input.insert(at, rng.u32() as u8),
        4 => {
            let other = corpus[rng.below(corpus.len() as u32) as usize];
            let from = rng.below(other.len() as u32 + 1) as usize;
            input.truncate(at);
            input.extend(&other[from..]);
        }
        5 => {
            // A long run: names with many labels, records with many bytes.
            let run = vec![[1, 63, b'a', 0xff][rng.below(4) as usize]; rng.below(600) as usize];
            input.splice(at..at, run);
        }
        _ => input.rotate_left(at),
    }
}

#[test]
fn wire() {
    smoke("wire", MESSAGES, 600, 100_000, wire::target);
}

#[test]
fn records() {
    smoke("records", &parts(&edited()), 600, 50_000, records::target);
}

/// Captures of each format: datagrams, a connection, a fragment.
fn captures() -> Vec<Vec<u8>> {
    let query = MESSAGES[2];
    let mut response = query.to_vec();
    response[2] = 0x81;
    let framed = |message: &[u8]| [&(message.len() as u16).to_be_bytes(), message].concat();
    let ip = |protocol: u8, part: [u8; 2], from_client: bool, payload: &[u8]| {
        let length = (20 + payload.len() as u16).to_be_bytes();
        let mut packet = [&[0x45, 0][..], &length, &[0, 1], &part, &[64, protocol, 0, 0]].concat();
        let ends = [[192, 0, 2, 7], [198, 51, 100, 1]];
        packet.extend(if from_client { ends.concat() } else { [ends[1], ends[0]].concat() });
        packet.extend(payload);
        packet
    };
    let ports = |from_client: bool| if from_client { b"\x9c\x40\0\x35" } else { b"\0\x35\x9c\x40" };
    let udp = |from_client: bool, message: &[u8]| {
        let length = (8 + message.len() as u16).to_be_bytes();
        [&ports(from_client)[..], &length, &[0, 0], message].concat()
    };
    let tcp = |from_client: bool, flags: u8, sequence: u8, message: &[u8]| {
        let header = [0, 0, 0, sequence, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0];
        ip(6, [0, 0], from_client, &[&ports(from_client)[..], &header, message].concat())
    };
    let packets = [
        ip(17, [0, 0], true, &udp(true, query)),
        ip(17, [0, 0], false, &udp(false, &response)),
        ip(17, [0x20, 0], false, &udp(false, &response)[..24]),
        ip(17, [0, 3], false, &udp(false, &response)[24..]),
        tcp(true, 2, 0, b""),
        tcp(false, 18, 0, b""),
        tcp(true, 16, 11, &framed(query)[10..]),
        tcp(true, 16, 1, &framed(query)),
        tcp(false, 16, 1, &framed(&response)),
        tcp(true, 17, 1 + 2 + query.len() as u8, b""),
        tcp(false, 4, 60, b""),
    ];
    let mut pcap = b"\xd4\xc3\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\x04\0\x65\0\0\0".to_vec();
    let mut pcapng =
        b"\n\r\r\n\0\0\0\x1c\x1a\x2b\x3c\x4d\0\x01\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\x1c\
                       \0\0\0\x01\0\0\0\x20\0\x65\0\0\0\0\0\0\0\x09\0\x01\x09\0\0\0\0\0\0\0\0\0\0\x20"
            .to_vec();
    for packet in &packets {
        let length = packet.len() as u32;
        pcap.extend([1_700_000_000, 5, length, length].map(u32::to_le_bytes).concat());
        pcap.extend(packet);
        let padded = length.next_multiple_of(4);
        pcapng.extend([6, 32 + padded, 0, 1, 5, length, length].map(u32::to_be_bytes).concat());
        pcapng.extend(packet);
        pcapng.resize(pcapng.len() + (padded - length) as usize, 0);
        pcapng.extend((32 + padded).to_be_bytes());
    }
    let mut dnstap = b"\0\0\0\0\0\0\0\x22\0\0\0\x02\0\0\0\x01\0\0\0\x16protobuf:dnstap.Dnstap".to_vec();
    for (kind, message) in [(5, query), (6, &response)] {
        let (seconds, field) = if kind == 5 { (8, 10) } else { (12, 14) };
        let mut inner = vec![8, kind, 24, 1, 0x22, 4, 192, 0, 2, 7, 0x30, 80, seconds << 3, 99];
        inner.extend([field << 3 | 2, message.len() as u8]);
        inner.extend(message);
        let frame = [&[0x72, inner.len() as u8], &inner[..], &[0x78, 1]].concat();
        dnstap.extend((frame.len() as u32).to_be_bytes());
        dnstap.extend(frame);
    }
    dnstap.extend(b"\0\0\0\0\0\0\0\x04\0\0\0\x03");
    vec![pcap, pcapng, dnstap]
}

#[test]
fn captures_are_good_seeds() {
    for seed in captures() {
        assert!(capture::messages(&seed) >= 2);
    }
}

#[test]
fn capture() {
    smoke("capture", &parts(&captures()), 600, 30_000, capture::target);
}

#[test]
fn certificate() {
    smoke("certificate", &parts(&certificates()), 400, 20_000, certificate::target);
}

#[test]
fn compare() {
    smoke("compare", &parts(&compared()), 900, 50_000, compare::target);
}

#[test]
fn cache_key() {
    smoke("cache_key", &parts(&cached()), 600, 10_000, cache_key::target);
}

#[test]
fn cache_snapshot() {
    smoke("cache_snapshot", &parts(&snapshots()), 600, 5_000, cache_snapshot::target);
}

#[test]
fn values() {
    smoke("values", VALUES, 100, 5_000, values::target);
}

#[test]
fn frames() {
    smoke("frames", STREAMS, 600, 20_000, frames::target);
}

#[test]
fn proxy() {
    smoke("proxy", PROXY_HEADERS, 600, 50_000, proxy::target);
}

#[test]
fn transfer() {
    smoke("transfer", TRANSFERS, 600, 50_000, transfer::target);
}

#[test]
fn pattern() {
    smoke("pattern", PATTERNS, 100, 20_000, pattern::target);
}

#[test]
fn svc() {
    smoke("svc", SERVICES, 300, 20_000, svc::target);
}

#[test]
fn probe() {
    smoke("probe", PROBES, 300, 50_000, probe::target);
}

#[test]
fn networks() {
    smoke("networks", NETWORKS, 100, 5_000, networks::target);
}

#[test]
fn shard() {
    smoke("shard", &[], 4_000, 1_000, shard::target);
}

#[test]
fn connections() {
    smoke("connections", &[], 3_000, 1_000, connections::target);
}

#[test]
fn script() {
    smoke("script", MESSAGES, 600, 5_000, script::target);
}

#[test]
fn rules() {
    smoke("rules", &[], 3_000, 1_500, rules::target);
}

#[test]
fn tls_session() {
    smoke("tls_session", &[], 400, 3_000, tls_session::target);
}

#[test]
fn config() {
    CONFIGURATIONS.iter().for_each(|text| config::target(text));
    for text in
        ["while true do end", "error({})", "error('')", "error()", "error('x', 0)", "\n error(nil, 0)"]
    {
        config::target(text.as_bytes());
    }
    smoke("config", CONFIGURATIONS, 400, 1_500, config::target);
}
