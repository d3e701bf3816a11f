//! Writes lines to a descriptor that may block or fail: a bounded queue, and a thread that empties it.
//!
//! Standard error and standard output are whatever we were started with: a pipe that nobody reads, a
//! terminal that is stopped, a full disk. They are shared with other processes, so they cannot be made
//! non-blocking. Whoever has something to say files it and goes on; what does not fit is dropped and
//! counted, and the log says how much was lost once it can be written again.

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

/// Entries that wait, at most.
const ENTRIES_MAX: usize = 8_192;
/// Bytes that wait, at most; an entry is taken while there are fewer, so that one that is longer than
/// this has its turn, too.
const BYTES_MAX: usize = 4 << 20;
/// Between two notices of lost lines.
const NOTICE_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks at whether all is written.
const FLUSH_STEP: Duration = Duration::from_millis(1);

thread_local! {
    /// What a writing thread has to say in its own target, which need not wait in its queue: whose it
    /// is, and the text.
    static NOTICE: RefCell<Option<(usize, Vec<u8>)>> = const { RefCell::new(None) };
}

/// What there is to be said of the target.
#[derive(Debug)]
pub enum Notice {
    /// Writing has begun to fail.
    Failed(io::Error),
    /// It can be written again, and so many lines were lost since the last notice.
    Lost(u64),
}

/// The queue in front of one descriptor, and the thread that empties it; the thread is never waited for.
#[derive(Debug)]
pub struct Writer {
    entries: Sender<Box<[u8]>>,
    state: Arc<State>,
}

/// What the two sides share.
#[derive(Debug, Default)]
struct State {
    bytes: AtomicUsize,
    /// Entries that were ever taken into the queue, and those that the thread has done with.
    taken: AtomicU64,
    done: AtomicU64,
    /// Lines.
    lost: AtomicU64,
    /// The error number of the last write, 0 when it succeeded.
    error: AtomicI32,
}

impl Writer {
    /// Starts the thread; `tell` is called by it, and may itself file a line. Where no thread can be
    /// had, everything is lost, and counted so.
    #[must_use]
    pub fn start(name: &str, target: impl AsFd + Send + 'static, tell: fn(Notice)) -> Self {
        let (entries, queue) = bounded(ENTRIES_MAX);
        let state = Arc::<State>::default();
        let thread = Thread {
            target,
            tell,
            state: Arc::clone(&state),
            torn: false,
            reported: 0,
            report_at: Instant::now(),
            is_shed: false,
        };
        // Without it the queue has no receiver, and takes nothing.
        let _ = std::thread::Builder::new().name(name.to_owned()).spawn(move || thread.run(&queue));
        Self { entries, state }
    }

    /// Files whole lines; false when they were dropped. Never waits.
    pub fn file(&self, text: &[u8]) -> bool {
        let state = &self.state;
        if text.is_empty() || self.is_notice(text) {
            return true;
        }
        let is_taken = state.bytes.fetch_add(text.len(), Relaxed) < BYTES_MAX && {
            // Counted before it can be done with.
            state.taken.fetch_add(1, Relaxed);
            let sent = self.entries.try_send(text.into());
            if sent.is_err() {
                state.taken.fetch_sub(1, Relaxed);
            }
            sent.is_ok()
        };
        if !is_taken {
            state.bytes.fetch_sub(text.len(), Relaxed);
            self.lose(text);
        }
        is_taken
    }

    /// Takes a notice of the thread that writes here.
    fn is_notice(&self, text: &[u8]) -> bool {
        let take = |notice: &RefCell<Option<(usize, Vec<u8>)>>| match &mut *notice.borrow_mut() {
            Some((whose, said)) if *whose == Arc::as_ptr(&self.state).addr() => {
                said.extend_from_slice(text);
                true
            }
            Some(_) | None => false,
        };
        // A thread that ends has nothing of the kind any more.
        NOTICE.try_with(take).unwrap_or(false)
    }

    /// Counts lines that cannot be filed.
    pub fn lose(&self, text: &[u8]) {
        self.state.lost.fetch_add(lines(text), Relaxed);
    }

    /// Lines that were dropped, or could not be written.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.state.lost.load(Relaxed)
    }

    /// Why the last write failed; none when it did not.
    #[must_use]
    pub fn error(&self) -> Option<io::Error> {
        let number = self.state.error.load(Relaxed);
        (number != 0).then(|| io::Error::from_raw_os_error(number))
    }

    /// Waits until everything filed is written or lost, but not beyond `deadline`; none is no limit.
    /// Whether it came to that.
    ///
    /// Asks again and again, since this runs when the process ends, where a thread may have nothing
    /// left to be woken by.
    pub fn flush(&self, deadline: Option<Instant>) -> bool {
        loop {
            if self.state.done.load(Acquire) >= self.state.taken.load(Relaxed) {
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
    tell: fn(Notice),
    state: Arc<State>,
    /// A part of a line was written, and then an error came.
    torn: bool,
    /// Lost lines that have been told of.
    reported: u64,
    report_at: Instant,
    /// It has no capabilities left.
    is_shed: bool,
}

impl<T: AsFd> Thread<T> {
    fn run(mut self, queue: &Receiver<Box<[u8]>>) {
        loop {
            let text = if self.owes_notice() {
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
            self.state.bytes.fetch_sub(text.len(), Relaxed);
            match self.write(&text) {
                Ok(()) => {
                    self.state.error.store(0, Relaxed);
                    self.report();
                }
                Err(e) => {
                    self.state.lost.fetch_add(lines(&text), Relaxed);
                    if self.state.error.swap(e as i32, Relaxed) == 0 {
                        (self.tell)(Notice::Failed(e.into()));
                    }
                }
            }
            self.state.done.fetch_add(1, Release);
        }
    }

    /// Writes everything, however long it takes.
    fn write(&mut self, text: &[u8]) -> Result<(), Errno> {
        if self.torn {
            all(self.target.as_fd(), b"\n").map_err(|(_, e)| e)?;
            self.torn = false;
        }
        all(self.target.as_fd(), text).map_err(|(written, e)| {
            self.torn = written > 0;
            e
        })
    }

    /// Whether lines were lost that have not been told of, and can be.
    fn owes_notice(&self) -> bool {
        self.state.lost.load(Relaxed) != self.reported && self.state.error.load(Relaxed) == 0
    }

    fn report(&mut self) {
        if !self.owes_notice() || Instant::now() < self.report_at {
            return;
        }
        let lost = self.state.lost.load(Relaxed);
        let whose = Arc::as_ptr(&self.state).addr();
        NOTICE.set(Some((whose, Vec::new())));
        (self.tell)(Notice::Lost(lost - self.reported));
        let said = NOTICE.take().map(|(_, text)| text).unwrap_or_default();
        self.report_at = Instant::now() + NOTICE_INTERVAL;
        // One that cannot be written is told again, with what is lost until then.
        if self.write(&said).is_ok() {
            self.reported = lost;
        }
    }
}

/// Writes everything; or says what came before the error.
fn all(target: BorrowedFd<'_>, text: &[u8]) -> Result<(), (usize, Errno)> {
    let mut written = 0;
    while written < text.len() {
        match nix::unistd::write(target, &text[written..]) {
            Ok(0) => return Err((written, Errno::EIO)),
            Ok(n) => written += n,
            Err(Errno::EINTR) => {}
            // Somebody who shares the target has made it so.
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

/// Lines of a text, the last one counted even without its end.
fn lines(text: &[u8]) -> u64 {
    let ends = text.iter().filter(|b| **b == b'\n').count() as u64;
    ends + u64::from(!text.ends_with(b"\n"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn quiet(_: Notice) {}

    /// Nothing can be waited for but the state itself.
    fn wait(what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < end, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let (mut reader, target) = std::io::pipe().expect("a pipe");
        let writer = Writer::start("test", target, quiet);
        let mut expected = Vec::new();
        for n in 0..1_000 {
            let line = format!("line {n}\n");
            expected.extend_from_slice(line.as_bytes());
            assert!(writer.file(line.as_bytes()));
        }
        assert!(writer.flush(None));
        drop(writer);
        let mut text = Vec::new();
        reader.read_to_end(&mut text).expect("the lines");
        assert_eq!(text, expected);
    }

    #[test]
    fn what_does_not_fit_is_lost_and_counted_and_told_when_somebody_reads_again() {
        static TOLD: AtomicU64 = AtomicU64::new(0);
        fn told(notice: Notice) {
            if let Notice::Lost(lines) = notice {
                TOLD.fetch_add(lines, Relaxed);
            }
        }
        let (mut reader, target) = std::io::pipe().expect("a pipe");
        let writer = Writer::start("test", target, told);
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        let begin = Instant::now();
        let taken = (0..20_000).filter(|_| writer.file(&line)).count() as u64;
        assert!(begin.elapsed() < Duration::from_secs(10), "filing waited for a reader");
        assert!((BYTES_MAX / 1_000..BYTES_MAX / 1_000 + 70).contains(&(taken as usize)), "{taken}");
        assert_eq!(writer.lost(), 20_000 - taken);
        assert!(!writer.flush(Some(Instant::now() + Duration::from_millis(50))), "nobody has read");
        let mut read = vec![0; taken as usize * 1_000];
        reader.read_exact(&mut read).expect("what was taken");
        assert!(writer.flush(None));
        wait("the notice", || TOLD.load(Relaxed) == 20_000 - taken);
    }

    #[test]
    fn the_number_of_entries_is_bounded_too() {
        let (_reader, target) = std::io::pipe().expect("a pipe");
        let writer = Writer::start("test", target, quiet);
        // 64 kB go into the pipe.
        let taken = (0..200_000).filter(|_| writer.file(b"\n")).count();
        assert!(taken <= ENTRIES_MAX + (64 << 10) + 1, "{taken}");
        assert_eq!(writer.lost(), 200_000 - taken as u64);
    }

    #[test]
    fn an_entry_longer_than_the_queue_has_its_turn_and_one_behind_it_has_not() {
        let (mut reader, target) = std::io::pipe().expect("a pipe");
        let writer = Writer::start("test", target, quiet);
        // The thread is busy with this one, or about to be: it is beyond what a pipe holds.
        assert!(writer.file(&vec![b'a'; 100_000]));
        wait("the thread to take it", || writer.state.bytes.load(Relaxed) == 0);
        assert!(writer.file(&vec![b'b'; 3 * BYTES_MAX]));
        assert!(!writer.file(b"c\n"));
        let mut read = vec![0; 100_000 + 3 * BYTES_MAX];
        reader.read_exact(&mut read).expect("both");
        assert!(writer.flush(None));
        assert!(writer.file(b"d\n"));
    }

    #[test]
    fn a_gone_reader_is_told_of_once_and_every_line_is_counted() {
        static FAILED: AtomicU64 = AtomicU64::new(0);
        fn told(notice: Notice) {
            if let Notice::Failed(e) = notice {
                assert_eq!(e.kind(), io::ErrorKind::BrokenPipe);
                FAILED.fetch_add(1, Relaxed);
            }
        }
        let (reader, target) = std::io::pipe().expect("a pipe");
        drop(reader);
        let writer = Writer::start("test", target, told);
        for _ in 0..100 {
            writer.file(b"one\ntwo\n");
        }
        assert!(writer.flush(None));
        assert_eq!((writer.lost(), FAILED.load(Relaxed)), (200, 1));
        assert_eq!(writer.error().map(|e| e.kind()), Some(io::ErrorKind::BrokenPipe));
    }

    #[test]
    fn a_full_disk_is_an_error_and_a_target_that_does_not_block_is_waited_for() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let writer = Writer::start("test", full, quiet);
        writer.file(b"one\n");
        assert!(writer.flush(None));
        assert_eq!(writer.error().map(|e| e.kind()), Some(io::ErrorKind::StorageFull));

        let (mut reader, target) = std::io::pipe().expect("a pipe");
        nix::fcntl::fcntl(&target, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
            .expect("a flag");
        let writer = Writer::start("test", target, quiet);
        writer.file(&vec![b'x'; 1 << 20]);
        let mut read = vec![0; 1 << 20];
        reader.read_exact(&mut read).expect("all of it");
        assert!(writer.flush(None));
        assert_eq!(writer.lost(), 0);
    }

    #[test]
    fn many_threads_lose_nothing_uncounted() {
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
                        writer.file(&line);
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
