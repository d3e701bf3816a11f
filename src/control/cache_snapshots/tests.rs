//! Jobs of the thread: which files are read, written, and left alone.

use std::os::unix::fs::PermissionsExt;
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
    jobs.send(Job::Read(Arc::clone(&new))).expect("a queue");
    jobs.send(Job::Write(Arc::clone(&new))).expect("a queue");
    drop(jobs);
    let orders = Orders::default();
    orders.stops_reading.store(true, Relaxed);
    run(&queue, &orders);
    assert!(new.is_empty() && fs::read(&path).expect("the file") == before);
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
    assert!(read(&path, &cache, &orders));
    write(&path, &cache, &orders);
    assert_eq!(fs::read(&path).expect("the file"), b"newServer('192.0.2.1')\n");
    for (name, begin) in [("empty", &b""[..]), ("cut", &MAGIC), ("newer", b"\x89dnslob\n\xff\0\0\0\0")] {
        let path = place.file(name);
        fs::write(&path, begin).expect("a file");
        assert!(read(&path, &cache, &orders));
        write(&path, &cache, &orders);
        assert!(fs::read(&path).expect("the file").len() > 100, "{name} is replaced");
    }
    // A directory, a pipe without a writer, a device without end.
    let fifo = place.file("fifo");
    nix::unistd::mkfifo(&*fifo, nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
    for path in [place.0.display().to_string(), fifo, "/dev/zero".to_owned(), "/dev/null".to_owned()] {
        assert!(read(&path, &cache, &orders));
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
    assert!(read("/nonexistent/x", &cache, &Orders::default()));
    write("/nonexistent/x", &cache, &Orders::default());
}
