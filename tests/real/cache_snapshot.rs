//! The packet cache in a file: a restart answers from it while no server does, and nothing that is
//! wrong with the file keeps dnslob from starting and stopping.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use dnslob::base::time::Tick;
use dnslob::cache::key::{About, Key};
use dnslob::cache::snapshot::Clocks;
use dnslob::cache::{CacheOptions, PacketCache};

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, backend, listen};
use crate::load::Load;
use crate::message::{self, answered_by, question_end};
use crate::place::{Directory, PATIENCE, wait_for};
use crate::reload::{endless, let_pass, local};
use crate::servers::{Kind, Server, ask, ask_from};

/// Names that are asked.
const NAMES: usize = 200;

fn cached(at: SocketAddr, server: SocketAddr, entries: usize, path: &Path) -> String {
    let cache = format!("newPacketCache({entries}, {{snapshot=\"{}\"}})", path.display());
    listen(at) + &backend(server, "") + &format!("getPool(''):setCache({cache})\n")
}

/// Waits for lines of the log that contain this text, and returns the first.
fn logged(instance: &Instance, text: &str) -> String {
    wait_for(
        || format!("{text:?} in the log; {}", instance.program.transcript()),
        || instance.program.lines_with(0, text).into_iter().next(),
    )
}

/// Returns the number after `name=` in a line.
fn number(line: &str, name: &str) -> u64 {
    let (_, rest) = line.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("{name} in {line}"));
    rest.split_whitespace().next().expect("a word").parse().expect("a number")
}

/// Asks all names, and returns who answered and the TTLs.
fn ask_all(at: SocketAddr, instance: &Instance) -> Vec<(u8, u32)> {
    let asked = (0..NAMES).map(|n| {
        let answer = ask(at, &format!("n{n}.test"))
            .unwrap_or_else(|| panic!("n{n}: {}", instance.program.transcript()));
        let ttl = question_end(&answer).and_then(|end| answer.get(end + 6..end + 10)).expect("a record");
        (answered_by(&answer).expect("a record"), u32::from_be_bytes(ttl.try_into().expect("four bytes")))
    });
    asked.collect()
}

/// Makes a snapshot older by so many seconds.
fn age(path: &Path, seconds: u64) {
    let mut bytes = fs::read(path).expect("the snapshot");
    // Magic and version are before it, the checksum is at the end.
    let written = u64::from_le_bytes(bytes[12..20].try_into().expect("eight bytes"));
    bytes[12..20].copy_from_slice(&(written - seconds * 1_000).to_le_bytes());
    let end = bytes.len() - 8;
    let sum = xxhash_rust::xxh3::xxh3_64(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum.to_le_bytes());
    fs::write(path, bytes).expect("the snapshot");
}

#[test]
fn a_restart_answers_from_the_cache_while_the_server_is_gone() {
    let mut server = Server::start(Kind::Unbound, 91);
    let (at, directory) = (local(), Directory::new());
    let path = directory.path().join("cache.bin");
    let lua = cached(at, server.address, 10_000, &path);

    let mut first = Instance::start(&lua);
    logged(&first, "is not there yet: the cache begins empty");
    let answers = ask_all(at, &first);
    assert!(answers.iter().all(|(who, ttl)| *who == 91 && *ttl == 60), "{answers:?}");
    assert_eq!(first.stop().code(), Some(0), "{}", first.program.transcript());
    assert_eq!(number(&logged(&first, "wrote the cache snapshot"), "entries"), NAMES as u64);
    let file = fs::metadata(&path).expect("the snapshot");
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    server.kill();

    // Twenty seconds later.
    age(&path, 20);
    let mut second = Instance::start(&lua);
    let line = logged(&second, "read the cache snapshot");
    assert_eq!(number(&line, "entries"), NAMES as u64, "{line}");
    assert!(number(&line, "age_seconds") >= 20, "{line}");
    let aged = ask_all(at, &second);
    assert!(aged.iter().all(|(who, ttl)| *who == 91 && (1..=40).contains(ttl)), "{aged:?}");
    assert_eq!(second.stop().code(), Some(0), "{}", second.program.transcript());

    // An hour later nothing is left.
    age(&path, 3_600);
    let third = Instance::start(&lua);
    let line = logged(&third, "read the cache snapshot");
    assert_eq!((number(&line, "entries"), number(&line, "expired")), (0, NAMES as u64), "{line}");
    assert_eq!(ask(at, "n1.test"), None);
}

#[test]
fn a_file_that_is_refused_keeps_nothing_from_starting() {
    let server = Backend::start(92, Behaviour::Prompt);
    let directory = Directory::new();
    let path = directory.path().join("cache.bin");
    let at = local();
    let mut instance = Instance::start(&cached(at, server.address, 1_000, &path));
    assert!(ask(at, "a.test").is_some());
    assert_eq!(instance.stop().code(), Some(0));
    let whole = fs::read(&path).expect("the snapshot");
    let mut newer = whole.clone();
    newer[8] = 99;
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    for (content, why, is_replaced) in [
        (whole[..whole.len() - 1].to_vec(), "its end is missing", true),
        (newer, "its format is 99; expected 2", true),
        (flipped, "", true),
        (b"-- somebody's configuration\n".to_vec(), "it is not a snapshot of a packet cache", false),
    ] {
        fs::write(&path, &content).expect("a file");
        let at = local();
        let mut instance = Instance::start(&cached(at, server.address, 1_000, &path));
        let line = logged(&instance, "is refused, the cache begins empty");
        assert!(line.contains(why), "{line}");
        assert_eq!(ask(at, "b.test").as_deref().and_then(answered_by), Some(92));
        assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
        let after = fs::read(&path).expect("a file");
        assert_eq!(after != content, is_replaced, "{}", instance.program.transcript());
    }
    let count = fs::read_dir(directory.path()).expect("a directory").count();
    assert_eq!(count, 2, "the file and the one of another version; nothing unfinished is left");
    assert_eq!(fs::read(directory.path().join("cache.bin.refused")).expect("the other version")[8], 99);
}

#[test]
fn a_directory_that_cannot_be_written_is_a_warning() {
    let server = Backend::start(93, Behaviour::Prompt);
    let directory = Directory::new();
    let closed = directory.path().join("closed");
    fs::create_dir(&closed).expect("a directory");
    fs::set_permissions(&closed, Permissions::from_mode(0o555)).expect("its permissions");
    for (path, why) in [
        (closed.join("cache.bin"), "Permission denied"),
        (directory.path().join("missing/cache.bin"), "No such file or directory"),
    ] {
        let at = local();
        let mut instance = Instance::start(&cached(at, server.address, 1_000, &path));
        let line = logged(&instance, "cannot be written at a stop");
        assert!(line.contains("WARN") && line.contains(why), "{line}");
        assert!(ask(at, "a.test").is_some());
        assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
        assert!(logged(&instance, "is not written: ").contains(why));
        assert!(!path.exists());
    }
    fs::set_permissions(&closed, Permissions::from_mode(0o755)).expect("its permissions");
}

#[test]
fn a_cache_of_another_size_takes_over_the_entries_under_load() {
    let server = Backend::start(94, Behaviour::Prompt);
    let (at, directory) = (local(), Directory::new());
    let path = directory.path().join("cache.bin");
    let mut instance = Instance::start(&cached(at, server.address, 100_000, &path));
    let before = ask_all(at, &instance);
    assert_eq!(server.others(), NAMES as u64);
    let load = Load::start(endless(at));
    let_pass(&load, 200);
    instance.reload(&cached(at, server.address, 200_000, &path));
    let line = logged(&instance, "read the cache snapshot");
    assert!(number(&line, "entries") >= NAMES as u64, "{line}");
    let_pass(&load, 200);
    load.finish().assert_nothing_lost(&|| instance.program.transcript());
    // No server is asked again.
    assert_eq!(ask_all(at, &instance).len(), before.len());
    assert_eq!(server.others(), NAMES as u64);
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
    assert_eq!(instance.program.lines_with(0, "wrote the cache snapshot").len(), 2);
}

/// Writes a snapshot of so many names.
fn write_large(path: &Path, count: u64) {
    let cache = PacketCache::new(CacheOptions::new(100_000), [1, 2, 3, 4]);
    let (mut key, mut buffer) = (Key::default(), Vec::new());
    for n in 0..count {
        let query = message::query(0, &format!("m{n}.test"));
        assert!(key.read(&query, About::default(), &cache));
        let answer = message::answer(&query, 96).expect("an answer");
        assert_eq!(cache.store(&key, &answer, None, 86_400, Tick(0), &mut buffer), Ok(true));
    }
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let unix_ms = u64::try_from(unix.as_millis()).expect("a time");
    let mut bytes = Vec::new();
    let written = cache.write_snapshot(&mut bytes, Clocks { now: Tick(0), unix_ms }, &|| true);
    assert_eq!(written.expect("memory"), count);
    fs::write(path, bytes).expect("the snapshot");
}

#[test]
fn a_stop_while_it_is_read_loses_nothing_of_it() {
    const COUNT: u64 = 30_000;
    let server = Backend::start(96, Behaviour::Prompt);
    let directory = Directory::new();
    let path = directory.path().join("cache.bin");
    write_large(&path, COUNT);
    // Whether it has been read when the signal comes is a race that may have either end.
    for _ in 0..2 {
        let mut instance = Instance::start(&cached(local(), server.address, 100_000, &path));
        assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
    }
    let at = local();
    let mut instance = Instance::start(&cached(at, server.address, 100_000, &path));
    let patient = |name| ask_from(at.ip(), at, name, PATIENCE).is_some();
    assert!(patient("other.test"), "it serves while it reads");
    let line = logged(&instance, "read the cache snapshot");
    assert_eq!(number(&line, "entries") + number(&line, "others"), COUNT, "{line}");
    assert!(patient("m1.test"));
    assert_eq!((server.others(), instance.stop().code()), (1, Some(0)), "{}", instance.program.transcript());
}

#[test]
fn the_file_is_that_of_the_user() {
    if !nix::unistd::geteuid().is_root() {
        // Only root can become another user.
        return;
    }
    let server = Backend::start(95, Behaviour::Prompt);
    let (at, directory) = (local(), Directory::new());
    let home = directory.path().join("state");
    fs::create_dir(&home).expect("a directory");
    std::os::unix::fs::chown(&home, Some(65_534), Some(65_534)).expect("another owner");
    let path = home.join("cache.bin");
    for entries in [0, 1] {
        let lua = cached(at, server.address, 1_000, &path);
        let mut instance = Instance::start_with(&lua, &["--shards", "1", "-u", "65534", "-g", "65534"]);
        if entries > 0 {
            let line = logged(&instance, "read the cache snapshot");
            assert_eq!(number(&line, "entries"), entries, "{line}");
        }
        assert!(ask(at, "a.test").is_some());
        assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
        let file = fs::metadata(&path).expect("the snapshot");
        assert_eq!((file.uid(), file.gid(), file.permissions().mode() & 0o777), (65_534, 65_534, 0o600));
    }
}
