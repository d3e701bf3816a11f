//! Writes lines to a descriptor that may block or fail: a bounded queue, and a thread that empties
//! it.
//!
//! Standard error and standard output may be a pipe without a reader, a stopped terminal, a full
//! disk. They are shared with other processes, so they cannot be made non-blocking. Writers queue
//! their lines and continue; what does not fit is dropped and counted, and the log reports how much
//! was lost once it can be written again.

#![expect(clippy::disallowed_methods, reason = "waits for a reader, for so long")]

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicI32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::control::privileges;

/// Most queued entries.
const ENTRIES_MAX: usize = 8_192;
/// Most queued bytes; an entry is accepted below this, so that a longer one is written too.
const BYTES_MAX: usize = 4 << 20;
/// Interval of notices about lost lines.
const NOTICE_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of checks whether everything is written.
const FLUSH_STEP: Duration = Duration::from_millis(1);

thread_local! {
    /// What a writing thread logs to its own target, which bypasses its queue: the owner, and the
    /// text.
    static NOTICE: RefCell<Option<(usize, Vec<u8>)>> = const { RefCell::new(None) };
}

/// A report about the target.
#[derive(Debug)]
pub enum Notice {
    /// Writing has begun to fail.
    Failed(io::Error),
    /// Writing succeeds again; contains the number of lines lost since the last notice.
    Lost(u64),
}

/// The queue in front of one descriptor, and the thread that empties it, which is never waited for.
#[derive(Debug)]
pub struct Writer {
    entries: Sender<Box<[u8]>>,
    shared: Arc<Shared>,
}

/// What both sides share.
#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicUsize,
    /// Entries ever queued, and those that the thread has finished.
    taken: AtomicU64,
    done: AtomicU64,
    /// Lines.
    lost: AtomicU64,
    /// The error number of the last write, 0 when it succeeded.
    error: AtomicI32,
}

impl Writer {
    /// Starts the thread. It calls `notify`, which may itself queue lines. Without a thread all lines
    /// are lost and counted.
    #[must_use]
    pub fn start(name: &str, target: impl AsFd + Send + 'static, notify: fn(Notice)) -> Self {
        let (entries, queue) = bounded(ENTRIES_MAX);
        let shared = Arc::<Shared>::default();
        let thread = Thread {
            target,
            notify,
            shared: Arc::clone(&shared),
            partial: false,
            reported: 0,
            report_at: Instant::now(),
            is_shed: false,
        };
        // Without it the queue has no receiver, and accepts nothing.
        let _ = std::thread::Builder::new().name(name.to_owned()).spawn(move || thread.run(&queue));
        Self { entries, shared }
    }

    /// Queues whole lines; false when they were dropped. Never blocks.
    pub fn push(&self, text: &[u8]) -> bool {
        let shared = &self.shared;
        if text.is_empty() || self.is_notice(text) {
            return true;
        }
        let is_taken = shared.bytes.fetch_add(text.len(), Relaxed) < BYTES_MAX && {
            // Counted before it can be finished.
            shared.taken.fetch_add(1, Relaxed);
            let sent = self.entries.try_send(text.into());
            if sent.is_err() {
                shared.taken.fetch_sub(1, Relaxed);
            }
            sent.is_ok()
        };
        if !is_taken {
            shared.bytes.fetch_sub(text.len(), Relaxed);
            self.count_lost(text);
        }
        is_taken
    }

    /// Takes a notice of the thread that writes here.
    fn is_notice(&self, text: &[u8]) -> bool {
        let take = |notice: &RefCell<Option<(usize, Vec<u8>)>>| match &mut *notice.borrow_mut() {
            Some((whose, notice_text)) if *whose == Arc::as_ptr(&self.shared).addr() => {
                notice_text.extend_from_slice(text);
                true
            }
            Some(_) | None => false,
        };
        // A thread that is ending has no such value any more.
        NOTICE.try_with(take).unwrap_or(false)
    }

    /// Counts lines that cannot be queued.
    pub fn count_lost(&self, text: &[u8]) {
        self.shared.lost.fetch_add(lines(text), Relaxed);
    }

    /// Returns the number of lines that were dropped or could not be written.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Relaxed)
    }

    /// Returns why the last write failed, if it did.
    #[must_use]
    pub fn error(&self) -> Option<io::Error> {
        let number = self.shared.error.load(Relaxed);
        (number != 0).then(|| io::Error::from_raw_os_error(number))
    }

    /// Waits until all lines are written or lost, until `deadline` if there is one. Returns whether
    /// they are.
    ///
    /// It polls, since it runs when the process ends, where nothing may be left to wake a thread.
    pub fn flush(&self, deadline: Option<Instant>) -> bool {
        loop {
            if self.shared.done.load(Acquire) >= self.shared.taken.load(Relaxed) {
                return true;
            }
            if deadline.is_some_and(|end| Instant::now() >= end) {
                return false;
            }
            std::thread::sleep(FLUSH_STEP);
        }
    }
}

/// What the writing thread owns.
struct Thread<T> {
    target: T,
    notify: fn(Notice),
    shared: Arc<Shared>,
    /// A part of a line was written before an error.
    partial: bool,
    /// Lost lines that were reported.
    reported: u64,
    report_at: Instant,
    /// Its capabilities are dropped.
    is_shed: bool,
}

impl<T: AsFd> Thread<T> {
    fn run(mut self, queue: &Receiver<Box<[u8]>>) {
        loop {
            let text = if self.has_notice() {
                match queue.recv_deadline(self.report_at) {
                    Ok(text) => text,
                    Err(RecvTimeoutError::Timeout) => {
                        self.report();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                let Ok(text) = queue.recv() else { return };
                text
            };
            self.is_shed = self.is_shed || privileges::follow();
            self.shared.bytes.fetch_sub(text.len(), Relaxed);
            match self.write(&text) {
                Ok(()) => {
                    self.shared.error.store(0, Relaxed);
                    self.report();
                }
                Err(e) => {
                    self.shared.lost.fetch_add(lines(&text), Relaxed);
                    if self.shared.error.swap(e as i32, Relaxed) == 0 {
                        (self.notify)(Notice::Failed(e.into()));
                    }
                }
            }
            self.shared.done.fetch_add(1, Release);
        }
    }

    /// Writes everything, however long it takes.
    fn write(&mut self, text: &[u8]) -> Result<(), Errno> {
        if self.partial {
            all(self.target.as_fd(), b"\n").map_err(|(_, e)| e)?;
            self.partial = false;
        }
        all(self.target.as_fd(), text).map_err(|(written, e)| {
            self.partial = written > 0;
            e
        })
    }

    /// Returns whether unreported lines were lost and can be reported.
    fn has_notice(&self) -> bool {
        self.shared.lost.load(Relaxed) != self.reported && self.shared.error.load(Relaxed) == 0
    }

    fn report(&mut self) {
        if !self.has_notice() || Instant::now() < self.report_at {
            return;
        }
        let lost = self.shared.lost.load(Relaxed);
        let whose = Arc::as_ptr(&self.shared).addr();
        NOTICE.set(Some((whose, Vec::new())));
        (self.notify)(Notice::Lost(lost - self.reported));
        let notice_text = NOTICE.take().map(|(_, text)| text).unwrap_or_default();
        self.report_at = Instant::now() + NOTICE_INTERVAL;
        // A notice that cannot be written is repeated, with what is lost until then.
        if self.write(&notice_text).is_ok() {
            self.reported = lost;
        }
    }
}

/// Writes everything, or returns how much was written before the error.
fn all(target: BorrowedFd<'_>, text: &[u8]) -> Result<(), (usize, Errno)> {
    let mut written = 0;
    while written < text.len() {
        match nix::unistd::write(target, &text[written..]) {
            Ok(0) => return Err((written, Errno::EIO)),
            Ok(n) => written += n,
            Err(Errno::EINTR) => {}
            // Another process that shares the target has made it non-blocking.
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(target, PollFlags::POLLOUT)];
                match poll(&mut fds, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(e) => return Err((written, e)),
                }
            }
            Err(e) => return Err((written, e)),
        }
    }
    Ok(())
}

/// Returns the number of lines, counting a last one without its end.
fn lines(text: &[u8]) -> u64 {
    let ends = text.iter().filter(|b| **b == b'\n').count() as u64;
    ends + u64::from(!text.ends_with(b"\n"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn quiet(_: Notice) {}

    /// Polls: there is nothing else to wait for.
    fn wait(what: &str, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < end, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn lines_are_written_completely_and_in_order() {
        let (mut reader, target) = std::io::pipe().expect("a pipe");
        let writer = Writer::start("test", target, quiet);
        let mut expected = Vec::new();
        for n in 0..1_000 {
            let line = format!("line {n}\n");
            expected.extend_from_slice(line.as_bytes());
            assert!(writer.push(line.as_bytes()));
        }
        assert!(writer.flush(None));
        drop(writer);
        let mut text = Vec::new();
        reader.read_to_end(&mut text).expect("the lines");
        assert_eq!(text, expected);
    }

    #[test]
    fn lost_lines_are_counted_and_reported_when_reading_resumes() {
        static NOTIFIED: AtomicU64 = AtomicU64::new(0);
        fn notify(notice: Notice) {
            if let Notice::Lost(lines) = notice {
                NOTIFIED.fetch_add(lines, Relaxed);
            }
        }
        let (mut reader, target) = std::io::pipe().expect("a pipe");
        let writer = Writer::start("test", target, notify);
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        let begin = Instant::now();
        let taken = (0..20_000).filter(|_| writer.push(&line)).count() as u64;
        assert!(begin.elapsed() < Duration::from_secs(10), "queueing never blocks");
        assert!((BYTES_MAX / 1_000..BYTES_MAX / 1_000 + 70).contains(&(taken as usize)), "{taken}");
        assert_eq!(writer.lost(), 20_000 - taken);
        assert!(!writer.flush(Some(Instant::now() + Duration::from_millis(50))), "nobody has read");
        let mut read = vec![0; taken as usize * 1_000];
        reader.read_exact(&mut read).expect("what was taken");
        assert!(writer.flush(None));
        wait("the notice", || NOTIFIED.load(Relaxed) == 20_000 - taken);
    }

    #[test]
    fn the_number_of_entries_is_bounded_too() {
        let (_reader, target) = std::io::pipe().expect("a pipe");
        let writer = Writer::start("test", target, quiet);
        // 64 kB go into the pipe.
        let taken = (0..200_000).filter(|_| writer.push(b"\n")).count();
        assert!(taken <= ENTRIES_MAX + (64 << 10) + 1, "{taken}");
        assert_eq!(writer.lost(), 200_000 - taken as u64);
    }

    #[test]
    fn an_entry_longer_than_the_queue_is_written() {
        let (mut reader, target) = std::io::pipe().expect("a pipe");
        let writer = Writer::start("test", target, quiet);
        // The thread is busy with this one, or about to be: it exceeds what a pipe holds.
        assert!(writer.push(&vec![b'a'; 100_000]));
        wait("the thread to take it", || writer.shared.bytes.load(Relaxed) == 0);
        assert!(writer.push(&vec![b'b'; 3 * BYTES_MAX]));
        assert!(!writer.push(b"c\n"));
        let mut read = vec![0; 100_000 + 3 * BYTES_MAX];
        reader.read_exact(&mut read).expect("both");
        assert!(writer.flush(None));
        assert!(writer.push(b"d\n"));
    }

    #[test]
    fn a_lost_reader_is_reported_once_and_every_line_counted() {
        static FAILED: AtomicU64 = AtomicU64::new(0);
        fn notify(notice: Notice) {
            if let Notice::Failed(e) = notice {
                assert_eq!(e.kind(), io::ErrorKind::BrokenPipe);
                FAILED.fetch_add(1, Relaxed);
            }
        }
        let (reader, target) = std::io::pipe().expect("a pipe");
        drop(reader);
        let writer = Writer::start("test", target, notify);
        for _ in 0..100 {
            writer.push(b"one\ntwo\n");
        }
        assert!(writer.flush(None));
        assert_eq!((writer.lost(), FAILED.load(Relaxed)), (200, 1));
        assert_eq!(writer.error().map(|e| e.kind()), Some(io::ErrorKind::BrokenPipe));
    }

    #[test]
    fn a_full_disk_is_an_error_and_a_nonblocking_target_is_retried() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let writer = Writer::start("test", full, quiet);
        writer.push(b"one\n");
        assert!(writer.flush(None));
        assert_eq!(writer.error().map(|e| e.kind()), Some(io::ErrorKind::StorageFull));

        let (mut reader, target) = std::io::pipe().expect("a pipe");
        nix::fcntl::fcntl(&target, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
            .expect("a flag");
        let writer = Writer::start("test", target, quiet);
        writer.push(&vec![b'x'; 1 << 20]);
        let mut read = vec![0; 1 << 20];
        reader.read_exact(&mut read).expect("all of it");
        assert!(writer.flush(None));
        assert_eq!(writer.lost(), 0);
    }

    #[test]
    fn many_threads_lose_no_line_uncounted() {
        let (mut reader, target) = std::io::pipe().expect("a pipe");
        let writer = Arc::new(Writer::start("test", target, quiet));
        let counted = std::thread::spawn(move || {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).expect("the lines");
            text.iter().filter(|b| **b == b'\n').count() as u64
        });
        let threads: Vec<_> = (0..16)
            .map(|_| {
                let writer = Arc::clone(&writer);
                std::thread::spawn(move || {
                    let line = [b"y".repeat(200), b"\n".to_vec()].concat();
                    for _ in 0..5_000 {
                        writer.push(&line);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().expect("a thread"));
        assert!(writer.flush(None));
        let lost = writer.lost();
        drop(writer);
        assert_eq!(counted.join().expect("the reader") + lost, 16 * 5_000);
    }
}
