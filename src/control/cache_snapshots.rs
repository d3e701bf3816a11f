//! Snapshots of packet caches in files: read when a cache begins, written when it ends, by a thread
//! of their own.
//!
//! ```text
//!  a cache is new ─► its file is read, while shards serve     the process stops ─► all are written
//!  a reload has removed it ─► it is written
//! ```
//!
//! The jobs run one after the other, so that a file is read before it is written. For a cache that a
//! reload has removed meanwhile nothing is read. A cache whose file was not read to its end is not
//! written: the file has more. A file that is no snapshot stays.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, eaccess};
use tokio::sync::oneshot;

use crate::base::{files, panics};
use crate::cache::PacketCache;
use crate::cache::snapshot::{Clocks, Loaded, MAGIC, Refused, time_of_writing};
use crate::control::certificate_monitor::unix_time;
use crate::control::privileges;
use crate::control::signals::Signals;
use crate::control::systemd::Notifier;
use crate::engine::clock;
use crate::model::Snapshot;

/// How long all caches are written at a stop, at most: some ten million entries on a slow disk.
const WRITING_MAX: Duration = Duration::from_secs(30);
/// How many snapshots that were refused are kept beside each file.
const REFUSED_MAX: usize = 10;
/// How long the thread has to notice that it is to end. A file system that hangs is not waited for.
const ENDING_MAX: Duration = Duration::from_secs(2);

/// The caches of a configuration, and the thread that reads and writes their files.
#[derive(Debug, Default)]
pub(super) struct CacheSnapshots {
    /// Each once, those without a file as well.
    caches: Vec<Adopted>,
    thread: Option<Thread>,
}

/// A cache, and what the thread has to know of it.
#[derive(Clone, Debug)]
struct Adopted {
    cache: Arc<PacketCache>,
    /// A reload has removed it.
    is_removed: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Thread {
    jobs: Sender<Job>,
    orders: Arc<Orders>,
    ended: oneshot::Receiver<()>,
}

/// What the thread is asked for.
#[derive(Debug)]
enum Job {
    Read(Adopted),
    Write(Adopted),
}

/// What it asks between two pieces of work.
#[derive(Debug, Default)]
struct Orders {
    /// Nothing is to be read any more.
    stops_reading: AtomicBool,
    /// Nor is anything to be written.
    stops: AtomicBool,
}

impl CacheSnapshots {
    /// Begins with the caches of the first configuration.
    pub(super) fn begin(first: &Snapshot) -> Self {
        let mut own = Self::default();
        own.adopt(first);
        own
    }

    /// Takes the caches of a configuration: reads the files of those that are new, and writes those
    /// of the ones that are removed.
    pub(super) fn adopt(&mut self, snapshot: &Snapshot) {
        let before = std::mem::take(&mut self.caches);
        for cache in snapshot.pools.iter().filter_map(|pool| pool.cache.as_ref()) {
            if of(&self.caches, cache).is_none() {
                let is_removed = of(&before, cache).map(|same| Arc::clone(&same.is_removed));
                let is_removed = is_removed.unwrap_or_default();
                self.caches.push(Adopted { cache: Arc::clone(cache), is_removed });
            }
        }
        let removed = before.iter().filter(|one| of(&self.caches, &one.cache).is_none());
        removed.clone().for_each(|one| one.is_removed.store(true, Relaxed));
        let new = self.caches.iter().filter(|one| of(&before, &one.cache).is_none());
        // First the removed ones: a cache of another size takes over the file.
        let jobs: Vec<Job> = removed.cloned().map(Job::Write).chain(new.cloned().map(Job::Read)).collect();
        self.order(jobs);
    }

    /// Hands jobs to the thread, which is started by the first cache with a file.
    fn order(&mut self, jobs: Vec<Job>) {
        for job in jobs.into_iter().filter(|job| job.adopted().cache.options().snapshot.is_some()) {
            if self.thread.is_none() {
                match Thread::start() {
                    Ok(thread) => self.thread = Some(thread),
                    Err(error) => {
                        tracing::error!(%error, "no thread for snapshots of caches");
                        return;
                    }
                }
            }
            if let Some(thread) = &self.thread {
                // It lives as long as this does.
                let _ = thread.jobs.send(job);
            }
        }
    }

    /// Stops reading: what is read no query would get.
    pub(super) fn stop_reading(&self) {
        if let Some(thread) = &self.thread {
            thread.orders.stops_reading.store(true, Relaxed);
        }
    }

    /// Writes all caches, and ends the thread; within a limit, and until a third signal to stop. With
    /// `discards` nothing is written. `is_urgent`: the second one has come.
    pub(super) async fn finish(
        &mut self,
        discards: bool,
        notifier: &Notifier,
        signals: &mut Signals,
        is_urgent: bool,
    ) {
        self.stop_reading();
        let writes = std::mem::take(&mut self.caches).into_iter().map(Job::Write).collect();
        if !discards {
            self.order(writes);
        }
        let Some(Thread { jobs, orders, mut ended }) = self.thread.take() else { return };
        drop(jobs);
        notifier.extend(WRITING_MAX + ENDING_MAX);
        signals.set_writes(true);
        let stop = async || {
            tokio::select! {
                _ = signals.term.recv() => {}
                _ = signals.int.recv() => {}
            }
        };
        if !has_ended(&mut ended, is_urgent, stop).await {
            orders.stops.store(true, Relaxed);
            if tokio::time::timeout(ENDING_MAX, ended).await.is_err() {
                tracing::warn!("snapshots of caches are not written: the file system does not answer");
            }
        }
        signals.set_writes(false);
    }
}

/// Waits until the thread has ended, as long as files are written at most; returns false if it has not, or
/// a signal to stop is the third one. `signal`: waits for the next. The second one ends what shards do, and
/// the snapshots are written nevertheless.
async fn has_ended(
    ended: &mut oneshot::Receiver<()>,
    mut is_urgent: bool,
    mut signal: impl AsyncFnMut(),
) -> bool {
    let limit = tokio::time::sleep(WRITING_MAX);
    tokio::pin!(limit);
    loop {
        tokio::select! {
            biased;
            _ = &mut *ended => return true,
            () = signal() => {
                if std::mem::replace(&mut is_urgent, true) {
                    return false;
                }
            }
            () = &mut limit => return false,
        }
    }
}

impl Job {
    const fn adopted(&self) -> &Adopted {
        match self {
            Self::Read(adopted) | Self::Write(adopted) => adopted,
        }
    }
}

/// Returns the one that has the entries of a cache.
fn of<'a>(caches: &'a [Adopted], cache: &PacketCache) -> Option<&'a Adopted> {
    caches.iter().find(|other| other.cache.shares_entries(cache))
}

impl Thread {
    fn start() -> io::Result<Self> {
        let (jobs, queue) = unbounded();
        let (end, ended) = oneshot::channel();
        let orders = Arc::<Orders>::default();
        let own = Arc::clone(&orders);
        std::thread::Builder::new().name("cache-snapshot".into()).spawn(move || {
            if let Err(panic) = panics::caught(|| run(&queue, &own)) {
                tracing::error!("{panic}");
            }
            // The receiver may be gone.
            let _ = end.send(());
        })?;
        Ok(Self { jobs, orders, ended })
    }
}

fn run(queue: &Receiver<Job>, orders: &Orders) {
    // Files are those of the user alone.
    let _ = privileges::follow();
    // Stores whose file was not read to its end, each with this file: a reload may have given it another.
    let mut incomplete = BTreeSet::new();
    // Files that are good snapshots, but not for their caches.
    let mut refused = BTreeSet::new();
    for job in queue {
        let Adopted { cache, is_removed } = job.adopted();
        let Some(path) = &cache.options().snapshot else { continue };
        match job {
            Job::Read(_) => match read(path, cache, orders, is_removed) {
                Reading::Done => {}
                Reading::Incomplete => _ = incomplete.insert((cache.id(), path.clone())),
                Reading::Refused => _ = refused.insert(path.clone()),
            },
            // It is the last that is asked for it.
            Job::Write(_) if incomplete.remove(&(cache.id(), path.clone())) => {
                tracing::info!("the cache snapshot {path:?} stays as it is: it was not read to its end");
            }
            Job::Write(_) => {
                if refused.remove(path) {
                    set_aside(path);
                }
                write(path, cache, orders);
            }
        }
    }
}

/// Returns milliseconds since 1970.
fn unix_ms() -> u64 {
    let (seconds, milliseconds) = unix_time();
    seconds * 1_000 + u64::from(milliseconds)
}

/// What has come of reading a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// It was read, is not there, or is of no use to anybody.
    Done,
    /// There is one, and it was stopped or not begun.
    Incomplete,
    /// It would be good for a cache with other options or another size, another version or a right clock.
    Refused,
}

/// Reads a file into a cache, or else one that was set aside.
fn read(path: &str, cache: &PacketCache, orders: &Orders, is_removed: &AtomicBool) -> Reading {
    let reading = read_first(path, cache, orders, is_removed);
    // It may not even have begun.
    cache.end_reading();
    reading
}

fn read_first(path: &str, cache: &PacketCache, orders: &Orders, is_removed: &AtomicBool) -> Reading {
    let goes_on = || !orders.stops_reading.load(Relaxed) && !is_removed.load(Relaxed);
    if goes_on()
        && let Some(why) = unwritable(Path::new(path))
    {
        tracing::warn!("the cache snapshot {path:?} cannot be written at a stop: {why}");
    }
    let (read, took_ms) = read_into(Path::new(path), cache, &goes_on);
    match read {
        Ok(loaded) => report(path, loaded, took_ms),
        Err(Refused::Unreadable(error)) if error.kind() == ErrorKind::NotFound => {
            tracing::info!("the cache snapshot {path:?} is not there yet: the cache begins empty");
        }
        Err(Refused::Stopped) => {
            let why =
                if is_removed.load(Relaxed) { "a reload has removed the cache" } else { "the process stops" };
            tracing::info!("the cache snapshot {path:?} is not read to its end: {why}");
            return Reading::Incomplete;
        }
        Err(why) => {
            let is_good_for_others = matches!(
                why,
                Refused::Options | Refused::Version(_) | Refused::Future(_) | Refused::Huge(..)
            );
            let aside = if is_good_for_others { read_aside(path, cache, &goes_on) } else { None };
            match aside {
                Some((aside, loaded, took_ms)) => {
                    tracing::warn!(
                        "the cache snapshot {path:?} is refused, and {aside:?} read instead: {why}"
                    );
                    report(&aside.to_string_lossy(), loaded, took_ms);
                }
                None => {
                    tracing::warn!("the cache snapshot {path:?} is refused, the cache begins empty: {why}");
                }
            }
            if is_good_for_others {
                return Reading::Refused;
            }
        }
    }
    Reading::Done
}

/// Reads a file into a cache; returns how many milliseconds that has taken, too.
fn read_into(path: &Path, cache: &PacketCache, goes_on: &dyn Fn() -> bool) -> (Result<Loaded, Refused>, u64) {
    let begun = clock::now();
    // What passes between the two clocks is counted as passed, here and when it is written.
    let clocks = Clocks { now: begun, unix_ms: unix_ms() };
    let read = open(path)
        .map_err(Refused::Unreadable)
        .and_then(|file| if goes_on() { Ok(file) } else { Err(Refused::Stopped) })
        .and_then(|mut file| cache.read_snapshot(&mut file, clocks, &goes_on));
    (read, clock::now().since(begun).as_ms_ceil())
}

/// Reads the newest snapshot that fits of those that were set aside: a mistake that is corrected has cost
/// nothing, and what a later one has without an older entry does not have it again.
fn read_aside(path: &str, cache: &PacketCache, goes_on: &dyn Fn() -> bool) -> Option<(PathBuf, Loaded, u64)> {
    let file = files::resolved(Path::new(path)).ok()?;
    by_age(&file).into_iter().rev().find_map(|aside| {
        let (read, took_ms) = read_into(&aside, cache, goes_on);
        Some((aside, read.ok()?, took_ms))
    })
}

/// Returns the snapshots that were set aside, the oldest first.
fn by_age(file: &Path) -> Vec<PathBuf> {
    let written = |aside: &PathBuf| time_of_writing(open(aside).ok()?);
    let all = asides(file).enumerate().filter_map(|(at, aside)| Some((written(&aside)?, at, aside)));
    let mut all: Vec<_> = all.collect();
    all.sort_unstable();
    all.into_iter().map(|(_, _, aside)| aside).collect()
}

fn report(path: &str, loaded: Loaded, took_ms: u64) {
    tracing::info!(
        entries = loaded.entries,
        expired = loaded.expired,
        others = loaded.others,
        age_seconds = loaded.age,
        took_ms,
        "read the cache snapshot {path:?}"
    );
    if loaded.is_cut {
        tracing::warn!(
            "more names were removed from the cache while the snapshot {path:?} was read than are \
             remembered: the rest of it is left out"
        );
    }
}

/// Returns the names under which snapshots that were refused are kept.
fn asides(file: &Path) -> impl Iterator<Item = PathBuf> {
    let numbered = (1..REFUSED_MAX).map(|number| format!(".refused.{number}"));
    std::iter::once(".refused".to_owned()).chain(numbered).map(move |more| beside(file, &more))
}

/// Gives a snapshot that was refused another name, so that a mistake in the configuration does not cost it.
/// Those of before stay, as far as there is room for them: when the mistake is corrected, the snapshot of its
/// time is refused.
fn set_aside(path: &str) {
    let kept = files::resolved(Path::new(path)).and_then(|file| {
        let mut names = asides(&file);
        let is_free = |aside: &PathBuf| {
            fs::symlink_metadata(aside).is_err_and(|error| error.kind() == ErrorKind::NotFound)
        };
        // The newest must not be missing: entries that were removed would come back from an older one.
        match names.find(is_free).or_else(|| by_age(&file).into_iter().next()) {
            Some(aside) => fs::rename(&file, &aside).map(|()| aside),
            None => Err(io::Error::other(format!("{REFUSED_MAX} files have such names"))),
        }
    });
    match kept {
        Ok(aside) => tracing::info!("the cache snapshot {path:?} that was refused is kept as {aside:?}"),
        Err(error) => tracing::warn!("the cache snapshot {path:?} that was refused is not kept: {error}"),
    }
}

/// Opens a regular file. A pipe would be waited for, a terminal made that of the process.
fn open(path: impl AsRef<Path>) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

fn write(path: &str, cache: &PacketCache, orders: &Orders) {
    let goes_on = || !orders.stops.load(Relaxed);
    if let Some(why) = irreplaceable(path) {
        tracing::warn!("the cache snapshot {path:?} is not written: {why}");
        return;
    }
    let unix_ms = unix_ms();
    let begun = clock::now();
    let clocks = Clocks { now: begun, unix_ms };
    // A link stays one: the file that it leads to is replaced.
    let written = files::resolved(Path::new(path)).and_then(|file| {
        let unfinished = beside(&file, files::UNFINISHED);
        if let Some(why) = irreplaceable(&unfinished).filter(|_| !is_blank(&unfinished)) {
            return Err(io::Error::other(format!("{unfinished:?}: {why}")));
        }
        files::replace(&file, |file| cache.write_snapshot(file, clocks, &goes_on))
    });
    let took_ms = clock::now().since(begun).as_ms_ceil();
    match written {
        Ok(entries) => tracing::info!(entries, took_ms, "wrote the cache snapshot {path:?}"),
        Err(error) => tracing::warn!("the cache snapshot {path:?} is not written: {error}"),
    }
}

/// Returns the path of a file whose name ends with something more.
fn beside(file: &Path, more: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(more);
    path.into()
}

/// Returns the first bytes of a file, as many as tell a snapshot.
fn beginning(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut begin = Vec::new();
    open(path)?.take(MAGIC.len() as u64).read_to_end(&mut begin)?;
    Ok(begin)
}

/// Returns why a file may not be replaced; none if nothing is lost with it: it is not there, is empty, or
/// begins as a snapshot.
fn irreplaceable(path: impl AsRef<Path>) -> Option<String> {
    match beginning(path) {
        Ok(begin) if MAGIC.starts_with(&begin) => None,
        Ok(_) => Some("there is another file, which is no snapshot".to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        // What cannot be read may be anything.
        Err(error) => Some(error.to_string()),
    }
}

/// Returns whether a file begins with zeros: what a file system may have left, after a loss of power, of one
/// whose name is ours alone.
fn is_blank(path: &Path) -> bool {
    beginning(path).is_ok_and(|begin| begin.iter().all(|byte| *byte == 0))
}

/// Returns why there can be no file at a path.
fn unwritable(path: &Path) -> Option<String> {
    let parent = files::directory(path);
    match fs::metadata(parent) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Some(format!("{parent:?} is no directory")),
        Err(error) => return Some(format!("{parent:?}: {error}")),
    }
    let file = match files::resolved(path) {
        Ok(file) => file,
        Err(error) => return Some(error.to_string()),
    };
    let parent = files::directory(&file);
    let checked = eaccess(parent, AccessFlags::W_OK | AccessFlags::X_OK);
    Some(format!("{parent:?}: {}", checked.err()?.desc()))
}

#[cfg(test)]
mod tests;
