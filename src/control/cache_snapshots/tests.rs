//! Jobs of the thread: which files are read, written, and left alone.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use super::*;
use crate::base::time::Tick;
use crate::cache::CacheOptions;
use crate::control::fixture;
use crate::model::Pool;

/// A directory that is removed with its test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dnslob-snapshots-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("a directory");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn cache(entries_max: usize, path: &str) -> Arc<PacketCache> {
    let options = CacheOptions { snapshot: Some(path.to_owned()), ..CacheOptions::new(entries_max) };
    Arc::new(PacketCache::new(options, [1, 2, 3, 4]))
}

/// A cache with so many entries.
fn filled(count: u8, path: &str) -> Arc<PacketCache> {
    let cache = cache(1_000, path);
    (0..count).for_each(|n| fixture::store(&cache, n, 600, clock::now()));
    cache
}

fn configuration(caches: &[&Arc<PacketCache>]) -> Snapshot {
    let pool = |cache: &&Arc<PacketCache>| Pool { cache: Some(Arc::clone(cache)), ..Pool::default() };
    Snapshot { pools: caches.iter().map(pool).collect(), ..fixture::snapshot(1, &[], &[0]) }
}

/// Lets the thread end, as a stop does.
fn finish(mut snapshots: CacheSnapshots) {
    let writes = snapshots.caches.drain(..).map(Job::Write).collect();
    snapshots.order(writes);
    let Some(Thread { jobs, ended, .. }) = snapshots.thread else { return };
    drop(jobs);
    ended.blocking_recv().expect("it has ended");
}

/// Waits until the thread has done all that it was asked for.
fn settle(mut snapshots: CacheSnapshots) {
    snapshots.caches.clear();
    finish(snapshots);
}

#[test]
fn entries_survive_in_a_file_of_the_user_alone() {
    let place = Place::new("survive");
    let path = place.file("cache.bin");
    let old = filled(7, &path);
    // Two pools share it.
    finish(CacheSnapshots { caches: Vec::new(), ..CacheSnapshots::begin(&configuration(&[&old, &old])) });
    assert_eq!(place.names(), [""; 0], "it was read only");
    finish(CacheSnapshots::begin(&configuration(&[&old, &old])));
    assert_eq!(place.names(), ["cache.bin"]);
    assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
    let new = cache(1_000, &path);
    settle(CacheSnapshots::begin(&configuration(&[&new])));
    assert_eq!(new.len(), 7);
}

#[test]
fn a_reload_reads_the_file_of_a_new_cache_and_writes_that_of_a_removed_one() {
    let place = Place::new("reload");
    let (path, other) = (place.file("cache.bin"), place.file("other.bin"));
    let first = filled(5, &path);
    let mut snapshots = CacheSnapshots::begin(&configuration(&[&first]));
    // The entries are inherited, and the file is another one: nothing is read or written.
    let mut inherited =
        PacketCache::new(CacheOptions { snapshot: Some(other.clone()), ..CacheOptions::new(1_000) }, [9; 4]);
    assert!(inherited.inherit(&first));
    let inherited = Arc::new(inherited);
    snapshots.adopt(&configuration(&[&inherited]));
    // Another size: a new cache, which takes over the entries by the file.
    let larger = cache(5_000, &other);
    snapshots.adopt(&configuration(&[&larger]));
    settle(snapshots);
    assert_eq!((larger.len(), place.names()), (5, vec!["other.bin".to_owned()]));
    // Without caches there is no thread.
    assert!(CacheSnapshots::begin(&configuration(&[])).thread.is_none());
    let none = Arc::new(PacketCache::new(CacheOptions::new(10), [1; 4]));
    assert!(CacheSnapshots::begin(&configuration(&[&none])).thread.is_none());
}

#[test]
fn a_file_that_was_not_read_to_its_end_is_not_written() {
    let place = Place::new("incomplete");
    let path = place.file("cache.bin");
    finish(CacheSnapshots::begin(&configuration(&[&filled(9, &path)])));
    let before = fs::read(&path).expect("the file");
    let new = cache(1_000, &path);
    let (jobs, queue) = unbounded();
    let adopted = Adopted { cache: Arc::clone(&new), is_removed: Arc::default() };
    jobs.send(Job::Read(adopted.clone())).expect("a queue");
    jobs.send(Job::Write(adopted)).expect("a queue");
    // A reload has given the entries another file, which nothing is missing from.
    let other = place.file("other.bin");
    let options = CacheOptions { snapshot: Some(other.clone()), ..CacheOptions::new(1_000) };
    let mut inherited = PacketCache::new(options, [9; 4]);
    assert!(inherited.inherit(&new));
    let adopted = Adopted { cache: Arc::new(inherited), is_removed: Arc::default() };
    jobs.send(Job::Read(Adopted { cache: Arc::clone(&new), is_removed: Arc::default() })).expect("a queue");
    jobs.send(Job::Write(adopted)).expect("a queue");
    drop(jobs);
    let orders = Orders::default();
    orders.stops_reading.store(true, Relaxed);
    run(&queue, &orders);
    assert!(new.is_empty() && fs::read(&path).expect("the file") == before);
    assert!(Path::new(&other).exists());
}

#[test]
fn caches_that_reloads_have_removed_meanwhile_hold_up_no_other() {
    let place = Place::new("removed");
    let path = place.file("cache.bin");
    finish(CacheSnapshots::begin(&configuration(&[&filled(9, &path)])));
    let before = fs::metadata(&path).expect("the file");
    // Reloads come faster than the thread works: it has not begun with anything.
    let (jobs, queue) = unbounded();
    let (_, ended) = oneshot::channel();
    let orders = Arc::<Orders>::default();
    let thread = Thread { jobs, orders: Arc::clone(&orders), ended };
    let mut snapshots = CacheSnapshots { caches: Vec::new(), thread: Some(thread) };
    let all: Vec<Arc<PacketCache>> = (1..=4).map(|n| cache(n * 1_000, &path)).collect();
    all.iter().for_each(|cache| snapshots.adopt(&configuration(&[cache])));
    // The last one is in two configurations, of which the second has another path for it.
    let mut inherited = PacketCache::clone(&all[3]);
    assert!(inherited.inherit(&all[3]));
    snapshots.adopt(&configuration(&[&Arc::new(inherited)]));
    drop(snapshots);
    run(&queue, &orders);
    assert_eq!(all.iter().map(|cache| cache.len()).collect::<Vec<_>>(), [0, 0, 0, 9]);
    let after = fs::metadata(&path).expect("the file");
    assert_eq!((before.ino(), before.dev()), (after.ino(), after.dev()), "it is not even written");
}

#[test]
fn reading_ends_when_a_reload_removes_the_cache() {
    let place = Place::new("ended");
    let path = place.file("cache.bin");
    finish(CacheSnapshots::begin(&configuration(&[&filled(9, &path)])));
    let new = cache(1_000, &path);
    assert_eq!(read(&path, &new, &Orders::default(), &AtomicBool::new(true)), Reading::Incomplete);
    assert!(new.is_empty());
    let (gone, none) = (AtomicBool::new(true), place.file("none.bin"));
    assert_eq!(
        read(&none, &new, &Orders::default(), &gone),
        Reading::Done,
        "nothing is missing where there is no file"
    );
    assert_eq!(read(&path, &new, &Orders::default(), &AtomicBool::new(false)), Reading::Done);
    assert_eq!(new.len(), 9);
}

#[test]
fn a_link_stays_one_and_its_file_is_replaced() {
    let (place, disk) = (Place::new("link"), Place::new("disk"));
    let (link, file) = (place.file("cache.bin"), disk.file("real.bin"));
    std::os::unix::fs::symlink(&file, &link).expect("a link");
    // First it leads to nothing, then to a snapshot.
    for count in [4, 5] {
        write(&link, &filled(count, &link), &Orders::default());
        assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
        let new = cache(1_000, &file);
        assert_eq!(read(&file, &new, &Orders::default(), &AtomicBool::default()), Reading::Done);
        assert_eq!(new.len(), usize::from(count));
    }
    assert_eq!((place.names(), disk.names()), (vec!["cache.bin".to_owned()], vec!["real.bin".to_owned()]));
    // What is no snapshot stays behind a link, too.
    fs::write(&file, "text").expect("a file");
    write(&link, &filled(3, &link), &Orders::default());
    assert_eq!(fs::read(&file).expect("the file"), b"text");
    // Only the file's own directory has to be there.
    assert_eq!(unwritable(Path::new(&link)), None);
    let nowhere = place.file("nowhere");
    std::os::unix::fs::symlink("/nonexistent/x", &nowhere).expect("a link");
    assert_eq!(unwritable(Path::new(&nowhere)).as_deref(), Some("No such file or directory (os error 2)"));
}

#[test]
fn the_true_reason_is_said_for_a_file_that_is_not_replaced() {
    let place = Place::new("reasons");
    let file = place.file("file");
    fs::write(&file, "text").expect("a file");
    let looped = place.file("loop");
    std::os::unix::fs::symlink("loop", &looped).expect("a link");
    for (path, why) in [
        (file, "there is another file, which is no snapshot"),
        (looped, "Too many levels of symbolic links (os error 40)"),
        (place.file(&"x".repeat(256)), "File name too long (os error 36)"),
        (place.0.display().to_string(), "it is no regular file"),
    ] {
        assert_eq!(irreplaceable(&path).as_deref(), Some(why), "{path}");
    }
    assert_eq!(irreplaceable(place.file("none")), None);
}

#[test]
fn writing_that_is_stopped_leaves_the_old_file() {
    let place = Place::new("stopped");
    let path = place.file("cache.bin");
    finish(CacheSnapshots::begin(&configuration(&[&filled(3, &path)])));
    let before = fs::read(&path).expect("the file");
    let orders = Orders::default();
    orders.stops.store(true, Relaxed);
    write(&path, &filled(4, &path), &orders);
    assert_eq!((place.names(), fs::read(&path).expect("the file")), (vec!["cache.bin".to_owned()], before));
}

#[test]
fn what_is_no_snapshot_is_neither_read_nor_replaced() {
    let place = Place::new("foreign");
    let path = place.file("dnslob.lua");
    fs::write(&path, "newServer('192.0.2.1')\n").expect("a file");
    let cache = filled(3, &path);
    let orders = Orders::default();
    assert_eq!(read(&path, &cache, &orders, &AtomicBool::default()), Reading::Done);
    write(&path, &cache, &orders);
    assert_eq!(fs::read(&path).expect("the file"), b"newServer('192.0.2.1')\n");
    for (name, begin, outcome) in [
        ("empty", &b""[..], Reading::Done),
        ("cut", &MAGIC, Reading::Done),
        ("newer", b"\x89dnslob\n\xff\0\0\0\0", Reading::Refused),
    ] {
        let path = place.file(name);
        fs::write(&path, begin).expect("a file");
        assert_eq!(read(&path, &cache, &orders, &AtomicBool::default()), outcome);
        write(&path, &cache, &orders);
        assert!(fs::read(&path).expect("the file").len() > 100, "{name} is replaced");
    }
    // A directory, a pipe without a writer, a device without end.
    let fifo = place.file("fifo");
    nix::unistd::mkfifo(&*fifo, nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
    for path in [place.0.display().to_string(), fifo, "/dev/zero".to_owned(), "/dev/null".to_owned()] {
        assert_eq!(read(&path, &cache, &orders, &AtomicBool::default()), Reading::Done);
        write(&path, &cache, &orders);
        assert!(!fs::metadata(&path).expect("it is there").is_file());
    }
    assert_eq!(cache.len(), 3);
    assert!(place.names().iter().all(|name| !name.contains("unfinished")), "{:?}", place.names());
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    assert_eq!(
        unwritable(Path::new("/nonexistent/x")).as_deref(),
        Some("\"/nonexistent\": No such file or directory (os error 2)")
    );
    assert_eq!(unwritable(Path::new("/etc/passwd/x")).as_deref(), Some("\"/etc/passwd\" is no directory"));
    assert_eq!(unwritable(&std::env::temp_dir().join("x")), None);
    let cache = cache(10, "/nonexistent/x");
    fixture::store(&cache, 1, 60, Tick(0));
    // Both say so in the log, and go on.
    assert_eq!(read("/nonexistent/x", &cache, &Orders::default(), &AtomicBool::default()), Reading::Done);
    write("/nonexistent/x", &cache, &Orders::default());
}

#[test]
fn the_third_signal_to_stop_ends_the_writing_and_the_second_one_does_not() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    for (is_urgent, signals) in [(false, 2), (true, 1)] {
        let (_end, mut ended) = oneshot::channel();
        let mut seen = 0;
        assert!(!runtime.block_on(has_ended(&mut ended, is_urgent, async || seen += 1)), "{is_urgent}");
        assert_eq!(seen, signals, "the second one came before: {is_urgent}");
    }
    let (end, mut ended) = oneshot::channel();
    let mut end = Some(end);
    let written_meanwhile = async || _ = end.take().map(|end| end.send(()));
    assert!(runtime.block_on(has_ended(&mut ended, false, written_meanwhile)));
}

#[test]
fn a_snapshot_with_other_options_is_set_aside() {
    let place = Place::new("aside");
    let path = place.file("cache.bin");
    finish(CacheSnapshots::begin(&configuration(&[&filled(9, &path)])));
    let before = fs::read(&path).expect("the file");
    let options = CacheOptions {
        snapshot: Some(path.clone()),
        payload_ranks: vec![512, 1_232],
        ..CacheOptions::new(1_000)
    };
    let other = Arc::new(PacketCache::new(options, [1, 2, 3, 4]));
    finish(CacheSnapshots::begin(&configuration(&[&other])));
    assert_eq!(place.names(), ["cache.bin", "cache.bin.refused"]);
    assert!(fs::read(place.file("cache.bin.refused")).expect("the old one") == before);
    assert!(fs::read(&path).expect("the new one") != before);
}

#[test]
fn no_other_file_makes_room_for_an_unfinished_or_refused_one() {
    let place = Place::new("beside");
    let path = place.file("cache.bin");
    let other = place.file("cache.bin.unfinished");
    fs::write(&other, "mine").expect("a file");
    write(&path, &filled(3, &path), &Orders::default());
    assert_eq!(
        (place.names(), fs::read(&other).expect("it")),
        (vec!["cache.bin.unfinished".into()], b"mine".to_vec())
    );
    // Of a process that was killed, and of a loss of power.
    for left in [&MAGIC[..], &MAGIC[..3], &[0; 4_096]] {
        fs::write(&other, left).expect("a file");
        write(&path, &filled(3, &path), &Orders::default());
        assert_eq!(place.names(), ["cache.bin"]);
    }
    // The file that a link leads to is set aside, not the link.
    std::os::unix::fs::symlink("cache.bin", place.file("link")).expect("a link");
    set_aside(&place.file("link"));
    assert_eq!(place.names(), ["cache.bin.refused", "link"]);
    fs::write(&path, "other").expect("a file");
    fs::write(place.file("cache.bin.refused"), "mine").expect("a file");
    set_aside(&path);
    assert_eq!(fs::read(place.file("cache.bin.refused")).expect("it"), b"mine");
    assert_eq!(fs::read(place.file("cache.bin.refused.1")).expect("it"), b"other");
}

#[test]
fn a_mistake_that_is_corrected_costs_no_snapshot() {
    let place = Place::new("corrected");
    let path = place.file("cache.bin");
    let run = |ranks: &[u16]| {
        let options = CacheOptions {
            snapshot: Some(path.clone()),
            payload_ranks: ranks.to_vec(),
            ..CacheOptions::new(1_000)
        };
        let cache = Arc::new(PacketCache::new(options, [1, 2, 3, 4]));
        finish(CacheSnapshots::begin(&configuration(&[&cache])));
        cache.len()
    };
    finish(CacheSnapshots::begin(&configuration(&[&filled(9, &path)])));
    let good = fs::read(&path).expect("the file");
    assert_eq!(run(&[512, 1_232]), 0);
    assert_eq!(run(&[]), 9, "what was set aside fits");
    assert_eq!(place.names(), ["cache.bin", "cache.bin.refused", "cache.bin.refused.1"]);
    assert!(fs::read(place.file("cache.bin.refused")).expect("the good one") == good);
    finish(CacheSnapshots::begin(&configuration(&[&filled(12, &path)])));
    assert_eq!(run(&[512, 1_232]), 0);
    assert_eq!(run(&[]), 12, "the newest that fits is read");
    for round in 0..2 * REFUSED_MAX {
        run(if round % 2 == 0 { &[512, 1_232] } else { &[] });
    }
    assert_eq!(place.names().len(), 1 + REFUSED_MAX, "there is an end of them");
    assert!(!fs::read(place.file("cache.bin.refused")).expect("the oldest").eq(&good), "the oldest has gone");
    assert_eq!(run(&[512, 1_232]), 0);
    let now = File::open(place.file("cache.bin.refused")).expect("one of them");
    now.set_modified(std::time::SystemTime::now()).expect("a time");
    assert_eq!(run(&[]), 12, "the newest is there, whatever the files' own times");
}

#[test]
fn a_snapshot_that_is_too_large_is_set_aside() {
    let place = Place::new("huge");
    let path = place.file("cache.bin");
    let file = File::create(&path).expect("a file");
    file.set_len(1 << 30).expect("a file with a hole");
    std::os::unix::fs::FileExt::write_all_at(&file, &MAGIC, 0).expect("its beginning");
    finish(CacheSnapshots::begin(&configuration(&[&filled(9, &path)])));
    assert_eq!(place.names(), ["cache.bin", "cache.bin.refused"]);
}
