//! Writes the lines of log actions and relays, and TLS session secrets, to files or to the
//! program's log.
//!
//! Shards queue lines and continue; a thread collects them many times a second, so that no shard
//! waits for a disk. The files of a configuration are opened at the start, which fails where one
//! cannot be, and again at each reload, also a refused one, so that they can be rotated. A file that
//! cannot be written is reported once and retried every second; what exceeds its buffer meanwhile is
//! dropped and counted.

#![expect(clippy::disallowed_methods, reason = "lines of a log have the time of day")]

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use crate::base::time::{Tick, TickDelta};
use crate::control::log::FLUSH;
use crate::control::log::privacy::Shown;
use crate::engine::{clock, sys};
use crate::model::Snapshot;
use crate::stats::live::LiveState;
use crate::stats::log_queue::LogTarget;
use crate::stats::log_queue::{QueryLogEntry, RelayLogEntry};
use crate::tls;
use crate::wire::codes::type_name;
use crate::wire::header::QR;
use crate::wire::name;

/// Interval of the rounds, unless the last one found many lines.
const PERIOD: Duration = Duration::from_millis(50);
/// From this many lines per round the next one follows at once, before a shard's queue is full.
const BUSY: usize = 1_024;
/// Size at which a buffered file is written, bytes.
const CHUNK: usize = 8 << 10;
/// After this time it is written in any case.
const BUFFERED_MAX: TickDelta = TickDelta::from_ms(1_000);
/// Most that is buffered for a file that cannot be written, bytes.
const WAITING_MAX: usize = 64 << 10;
/// Interval of retries for a file that could not be opened or written.
const RETRY: TickDelta = TickDelta::from_ms(1_000);

/// The handle of the thread that writes the files.
#[derive(Debug)]
pub struct QueryLog {
    orders: Arc<Orders>,
    /// Dropping it makes the thread end.
    stop: Option<Sender<()>>,
    ended: Receiver<()>,
    /// The files to open, of the latest configuration; the thread reads the other end.
    reopen: (Sender<Targets>, Receiver<Targets>),
}

/// The files of a configuration, each once.
type Targets = Vec<Arc<LogTarget>>;

/// Returns the files that the rules of a configuration write to.
#[must_use]
pub fn targets(snapshot: &Snapshot) -> Targets {
    snapshot.chains.log_files().into_values().map(Arc::clone).collect()
}

/// Requests to the thread, and its counters, without blocking.
#[derive(Debug, Default)]
struct Orders {
    verbose: AtomicBool,
    /// Lines that were not written.
    lost: Arc<AtomicU64>,
}

impl QueryLog {
    /// Starts the thread, which writes to `files` first of all.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(live_state: Arc<LiveState>, files: Files) -> io::Result<Self> {
        let orders = Arc::<Orders>::default();
        let reopen = bounded(1);
        let reopened = Receiver::clone(&reopen.1);
        let (stop, stopped) = bounded::<()>(0);
        let (end, ended) = bounded(1);
        let thread_orders = Arc::clone(&orders);
        std::thread::Builder::new().name("query-log".into()).spawn(move || {
            run(files, &live_state, &thread_orders, &reopened, &stopped);
            // The receiver may be gone.
            let _ = end.send(());
        })?;
        Ok(Self { orders, stop: Some(stop), ended, reopen })
    }

    /// Sets whether to log lines that are only for a verbose log.
    pub fn set_verbose(&self, verbose: bool) {
        self.orders.verbose.store(verbose, Relaxed);
    }

    /// Closes every file, and opens those of the current configuration.
    pub fn reopen(&self, targets: Targets) {
        let (sender, receiver) = &self.reopen;
        let mut latest = targets;
        // Only the latest one counts where a disk has kept the thread from earlier ones.
        while let Err(TrySendError::Full(unsent)) = sender.try_send(latest) {
            let _ = receiver.try_recv();
            latest = unsent;
        }
    }

    /// Returns the counter of lines that files did not take.
    #[must_use]
    pub fn lost(&self) -> &Arc<AtomicU64> {
        &self.orders.lost
    }

    /// Writes all pending lines, and waits no longer than [`FLUSH`].
    pub fn finish(&mut self) {
        if self.stop.take().is_none() {
            return;
        }
        if self.ended.recv_timeout(FLUSH) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("cannot write a query log: its pending lines are lost");
        }
    }
}

impl Drop for QueryLog {
    fn drop(&mut self) {
        self.finish();
    }
}

fn run(
    mut files: Files,
    live_state: &LiveState,
    orders: &Orders,
    reopened: &Receiver<Targets>,
    stopped: &Receiver<()>,
) {
    loop {
        let ends = stopped.try_recv() == Err(crossbeam_channel::TryRecvError::Disconnected);
        if let Ok(targets) = reopened.try_recv() {
            files.reopen(&targets, clock::now());
        }
        let found = files.write(live_state, orders.verbose.load(Relaxed), clock::now());
        tls::write_key_logs();
        if ends {
            files.finish(clock::now());
        }
        orders.lost.store(files.lost, Relaxed);
        if ends {
            return;
        }
        if found < BUSY {
            // Nothing is ever sent; the other end is dropped.
            let _ = stopped.recv_timeout(PERIOD);
        }
    }
}

/// The files, by path.
#[derive(Debug, Default)]
pub struct Files {
    sinks: BTreeMap<String, Sink>,
    /// Opened before: their contents are ours and are kept.
    before: Vec<String>,
    lost: u64,
}

impl Files {
    /// Opens the files of the first configuration. A pipe that nobody reads may be opened later.
    ///
    /// # Errors
    /// The first file that cannot be opened, and why.
    pub fn open(targets: &[Arc<LogTarget>]) -> Result<Self, String> {
        let mut files = Self::default();
        for target in targets {
            match files.sink(target).open() {
                Err(e) if e.raw_os_error() != Some(libc::ENXIO) => {
                    return Err(format!("query log \"{}\": {e}", target.path));
                }
                _ => {}
            }
        }
        Ok(files)
    }

    /// Writes all queued lines; returns how many there were.
    fn write(&mut self, live_state: &LiveState, verbose: bool, now: Tick) -> usize {
        let (mut found, wall) = (0, SystemTime::now());
        for passed in live_state.shards().iter().flat_map(|s| s.log_queue.passed()) {
            tracing::info!("{}", session(&passed));
            found += 1;
        }
        for line in live_state.shards().iter().flat_map(|s| s.log_queue.lines()) {
            // One that was queued after the clocks were read is ahead of them.
            let seen = wall - Duration::from(now.since(line.at)) + Duration::from(line.at.since(now));
            self.line(&line, verbose, seen, now);
            found += 1;
        }
        for sink in self.sinks.values_mut() {
            if !sink.target.buffered
                || sink.file.is_none()
                || sink.waiting.len() >= CHUNK
                || now >= sink.write_at
            {
                self.lost += sink.write(now);
            }
        }
        found
    }

    /// Closes every file, and opens these.
    fn reopen(&mut self, targets: &[Arc<LogTarget>], now: Tick) {
        for (path, mut sink) in std::mem::take(&mut self.sinks) {
            self.lost += sink.write(now);
            if sink.was_open {
                self.before.push(path.clone());
            }
            if !sink.lines.is_empty() {
                // Unwritten lines go to whatever the path names at the next open.
                sink.close();
                self.sinks.insert(path, sink);
            }
        }
        self.before.sort_unstable();
        self.before.dedup();
        for target in targets {
            self.sink(target).write(now);
        }
    }

    fn sink(&mut self, target: &Arc<LogTarget>) -> &mut Sink {
        let kept = self.before.contains(&target.path);
        self.sinks.entry(target.path.clone()).or_insert_with(|| Sink::new(Arc::clone(target), kept))
    }

    /// Writes what is buffered, for the last time.
    fn finish(&mut self, now: Tick) {
        for (path, sink) in &mut self.sinks {
            sink.retry_at = Tick(0);
            self.lost += sink.write(now);
            let lines = sink.lines.len() as u64;
            if lines > 0 {
                tracing::warn!(lines, "query log \"{path}\": lines were lost at the end");
                self.lost += lines;
            }
        }
        self.sinks.clear();
    }

    fn line(&mut self, line: &QueryLogEntry, verbose: bool, seen: SystemTime, now: Tick) {
        if line.target.verbose_only && line.target.path.is_empty() && !verbose {
            return;
        }
        if line.target.path.is_empty() {
            tracing::info!("{}", text(line, None));
            return;
        }
        let bytes = if line.target.binary {
            binary(line)
        } else {
            (text(line, line.target.timestamp.then_some(seen)) + "\n").into_bytes()
        };
        self.lost += self.sink(&line.target).push(&bytes, now);
    }
}

/// One file, and its unwritten lines.
#[derive(Debug)]
struct Sink {
    target: Arc<LogTarget>,
    file: Option<Output>,
    /// The file's contents are ours.
    was_open: bool,
    waiting: VecDeque<u8>,
    /// The lengths of the lines in `waiting`; for the first one, of its rest.
    lines: VecDeque<usize>,
    /// A part of the first line has been written.
    partial_line: bool,
    /// When a buffered file is written at the latest.
    write_at: Tick,
    retry_at: Tick,
    /// When it is looked at again whether the path names another file.
    check_at: Tick,
    /// The failure has been logged.
    is_logged: bool,
    /// Lost lines that are not reported yet, and when they may be.
    lost: u64,
    report_at: Tick,
}

impl Sink {
    const fn new(target: Arc<LogTarget>, was_open: bool) -> Self {
        Self {
            target,
            file: None,
            was_open,
            waiting: VecDeque::new(),
            lines: VecDeque::new(),
            partial_line: false,
            write_at: Tick(0),
            retry_at: Tick(0),
            check_at: Tick(0),
            is_logged: false,
            lost: 0,
            report_at: Tick(0),
        }
    }

    /// Queues a line; returns how many lines were dropped.
    fn push(&mut self, line: &[u8], now: Tick) -> u64 {
        let mut lost = 0;
        if self.waiting.len() + line.len() > WAITING_MAX {
            lost += self.write(now);
        }
        if self.waiting.len() + line.len() > WAITING_MAX {
            self.lost += 1;
            if !self.is_logged {
                tracing::error!(
                    "query log \"{}\": is not read fast enough; lines are lost",
                    self.target.path
                );
                self.is_logged = true;
            }
            return lost + 1;
        }
        if self.lines.is_empty() {
            self.write_at = now + BUFFERED_MAX;
        }
        self.waiting.extend(line);
        self.lines.push_back(line.len());
        lost
    }

    /// Opens the file if need be and writes as much as possible; returns how many lines were dropped.
    fn write(&mut self, now: Tick) -> u64 {
        if (self.lines.is_empty() && self.file.is_some()) || now < self.retry_at {
            return 0;
        }
        if now >= self.check_at {
            self.check_at = now + RETRY;
            if self.file.as_ref().is_some_and(|file| is_rotated(file, &self.target.path)) {
                self.file = None;
            }
        }
        match self.try_write() {
            Ok(()) => {
                if now < self.report_at {
                    return 0;
                }
                if self.lost > 0 {
                    let (path, lines) = (&self.target.path, self.lost);
                    tracing::warn!(lines, "query log \"{path}\": can be written again; lines were lost");
                } else if self.is_logged {
                    tracing::info!("query log \"{}\": can be written again", self.target.path);
                }
                if self.lost > 0 || self.is_logged {
                    (self.is_logged, self.lost) = (false, 0);
                    self.report_at = now + RETRY;
                }
                0
            }
            // A slow reader: the pipe is full.
            Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
            Err(e) => {
                if !self.is_logged {
                    tracing::error!("query log \"{}\": {e}; retrying every second", self.target.path);
                    self.is_logged = true;
                }
                self.file = None;
                self.retry_at = now + RETRY;
                // The next reader of a pipe has not seen the beginning of this line.
                if self.partial_line && e.kind() == ErrorKind::BrokenPipe {
                    self.partial_line = false;
                    let rest = self.lines.pop_front().unwrap_or_default();
                    self.waiting.drain(..rest);
                    self.lost += 1;
                    return 1;
                }
                0
            }
        }
    }

    fn open(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(open(&self.target, self.was_open)?);
            self.was_open = true;
        }
        Ok(())
    }

    fn try_write(&mut self) -> io::Result<()> {
        self.open()?;
        while let Some(file) = self.file.as_mut().filter(|_| !self.waiting.is_empty()) {
            let (first, _) = self.waiting.as_slices();
            match file.write(first) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.waiting.drain(..written);
                    self.count_off(written);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Removes written bytes from the pending lines.
    fn count_off(&mut self, mut written: usize) {
        self.partial_line = false;
        while let Some(line) = self.lines.front_mut().filter(|_| written > 0) {
            if written < *line {
                *line -= written;
                self.partial_line = true;
                return;
            }
            written -= *line;
            self.lines.pop_front();
        }
    }

    /// Closes the file and keeps the unwritten lines.
    fn close(&mut self) {
        self.file = None;
        self.retry_at = Tick(0);
        self.is_logged = false;
    }
}

/// What lines are written to.
#[derive(Debug)]
enum Output {
    File(File),
    /// A descriptor of the process that is a socket, as systemd gives for standard output.
    Socket(socket2::Socket),
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            // Others may write to the same socket, and must not find it changed.
            Self::Socket(socket) => socket.send_with_flags(bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL),
        }
    }
}

/// Returns the descriptor of the process that a path names.
fn descriptor(path: &str) -> Option<i32> {
    match path {
        "/dev/stdout" => Some(1),
        "/dev/stderr" => Some(2),
        _ => path.strip_prefix("/dev/fd/").or(path.strip_prefix("/proc/self/fd/"))?.parse().ok(),
    }
}

/// Opens what lines are written to. A path that names a descriptor cannot be opened if that is a
/// socket: the descriptor itself is used then.
fn open(target: &LogTarget, kept: bool) -> io::Result<Output> {
    match open_file(target, kept) {
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => {
            let socket = descriptor(&target.path).and_then(|number| sys::duplicate_socket(number).ok());
            socket.map(Output::Socket).ok_or(e)
        }
        opened => opened.map(Output::File),
    }
}

/// Opens a file. A pipe must not block, neither for a reader to open it nor for it to read.
fn open_file(target: &LogTarget, kept: bool) -> io::Result<File> {
    let append = target.append || kept;
    OpenOptions::new()
        .create(true)
        .write(true)
        .append(append)
        .truncate(!append)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(&target.path)
}

/// Returns whether a path names another file than the one that is open, or none.
fn is_rotated(output: &Output, path: &str) -> bool {
    let Output::File(file) = output else { return false };
    let Ok(open) = file.metadata() else { return false };
    // A pipe or device is what it is.
    open.is_file()
        && std::fs::metadata(path).map_or_else(
            |e| e.kind() == ErrorKind::NotFound,
            |named| (named.dev(), named.ino()) != (open.dev(), open.ino()),
        )
}

/// Formats a line as text.
fn text(line: &QueryLogEntry, at: Option<SystemTime>) -> String {
    let mut out = String::new();
    if let Some(since) = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()) {
        let _ = write!(out, "[{}.{:03}] ", since.as_secs(), since.subsec_millis());
    }
    let (qname, qtype) = (name::Text(line.qname.bytes()), type_name(line.qtype));
    let client = Shown::of(line.client);
    let _ = match line.latency {
        Some(latency) if line.flags[0] & QR != 0 => write!(
            out,
            "Answer to {client} for {qname} {qtype} (rcode {}) in {} us with id {}",
            line.flags[1] & 0x0f,
            latency.0 / 1_000,
            line.id
        ),
        _ => write!(out, "Packet from {client} for {qname} {qtype} with id {}", line.id),
    };
    out
}

/// Formats a relay session.
fn session(passed: &RelayLogEntry) -> String {
    let kind = if passed.tcp { "connection" } else { "flow" };
    let mut out = format!("{kind} {} -> {}", Shown::of(passed.client), passed.listener);
    for (address, why) in &passed.tried {
        let _ = write!(out, ", {} {address}", why.label());
    }
    if let Some(target) = passed.target {
        let _ = write!(out, ", to {target}");
    }
    let ms = passed.lasted.0 / 1_000_000;
    let [onward, back] = passed.bytes;
    let _ = write!(
        out,
        ": {onward} bytes there, {back} back, {}.{:03} s, ended by {}",
        ms / 1_000,
        ms % 1_000,
        passed.why.label()
    );
    out
}

/// Formats a line in binary, numbers in network order: id (2 bytes), name (wire format), type (2),
/// the client's address (16, IPv4 mapped) and port (2), or what stands for them.
fn binary(line: &QueryLogEntry) -> Vec<u8> {
    let mut out = line.id.to_be_bytes().to_vec();
    out.extend_from_slice(line.qname.bytes());
    out.extend_from_slice(&line.qtype.to_be_bytes());
    let (address, port) = Shown::of(line.client).bytes();
    out.extend_from_slice(&address);
    out.extend_from_slice(&port.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addr::Endpoint;
    use crate::stats::log_queue::Name;
    use std::sync::Arc;

    fn target(path: &str) -> LogTarget {
        LogTarget {
            path: path.to_owned(),
            binary: false,
            append: false,
            buffered: false,
            verbose_only: true,
            timestamp: false,
            one_in: 1,
        }
    }

    fn line(target: LogTarget, id: u16) -> QueryLogEntry {
        let client: std::net::SocketAddr = "192.0.2.1:5353".parse().expect("an address");
        QueryLogEntry {
            target: Arc::new(target),
            client: Endpoint::from(client),
            at: Tick(0),
            id,
            qtype: 1,
            qclass: 1,
            flags: [1, 0],
            size: 40,
            latency: None,
            qname: Name::new(b"\x03www\x04test\0"),
        }
    }

    #[test]
    fn a_file_is_truncated_once_and_kept_across_a_reload() {
        let path = std::env::temp_dir().join(format!("dnslob-querylog-{}", std::process::id()));
        std::fs::write(&path, "old\n").expect("a file");
        let name = path.display().to_string();
        let live_state = LiveState::new(1, 1);
        let mut log = Files::default();
        for id in [1, 2] {
            assert!(live_state.shards()[0].log_queue.file(line(target(&name), id)));
            log.write(&live_state, false, Tick(0));
            log.reopen(&[], Tick(0));
        }
        let text = std::fs::read_to_string(&path).expect("the file");
        std::fs::remove_file(&path).expect("to remove it");
        assert_eq!(
            text,
            "Packet from 192.0.2.1:5353 for www.test. A with id 1\n\
             Packet from 192.0.2.1:5353 for www.test. A with id 2\n"
        );
    }

    #[test]
    fn a_file_that_was_moved_or_removed_is_made_anew_within_a_second() {
        let directory = Directory::new("rotated");
        let (path, moved) = (directory.path("log"), directory.path("log.1"));
        let live_state = LiveState::new(1, 1);
        let mut log = Files::default();
        let mut write = |id: u16, now: u64| {
            assert!(live_state.shards()[0].log_queue.file(line(target(&path), id)));
            log.write(&live_state, false, Tick(now * 1_000_000_000));
        };
        write(1, 0);
        std::fs::rename(&path, &moved).expect("moved");
        write(2, 2);
        std::fs::remove_file(&path).expect("removed");
        write(3, 4);
        let ids = |path: &str| -> Vec<String> {
            let text = std::fs::read_to_string(path).expect("the file");
            text.lines().filter_map(|line| Some(line.rsplit_once(' ')?.1.to_owned())).collect()
        };
        assert_eq!((ids(&moved), ids(&path)), (vec!["1".to_owned()], vec!["3".to_owned()]));
    }

    /// A temporary directory that is removed with its test.
    struct Directory(std::path::PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("dnslob-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a directory");
            Self(path)
        }

        fn path(&self, name: &str) -> String {
            self.0.join(name).display().to_string()
        }

        fn pipe(&self) -> String {
            let path = self.path("pipe");
            nix::unistd::mkfifo(path.as_str(), nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
            path
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn reader(path: &str) -> File {
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).expect("a reader")
    }

    /// Returns what a pipe's reader finds in it.
    fn read(from: &mut File) -> String {
        let (mut text, mut part) = (Vec::new(), [0; 4096]);
        while let Ok(len @ 1..) = io::Read::read(from, &mut part) {
            text.extend_from_slice(&part[..len]);
        }
        String::from_utf8(text).expect("text")
    }

    const SECOND: Tick = Tick(1_000_000_000);

    #[test]
    fn a_descriptor_that_is_a_socket_is_written_to() {
        let (mut reader, socket) = std::os::unix::net::UnixStream::pair().expect("two sockets");
        let number = std::os::fd::AsRawFd::as_raw_fd(&socket);
        for path in [format!("/dev/fd/{number}"), format!("/proc/self/fd/{number}")] {
            let target = target(&path);
            let mut files = Files::open(&[Arc::new(target.clone())]).expect("a socket");
            files.line(&line(target, 7), true, SystemTime::now(), Tick(0));
            files.finish(Tick(0));
            let mut bytes = [0; 200];
            let read = std::io::Read::read(&mut reader, &mut bytes).expect("a line");
            assert!(String::from_utf8_lossy(&bytes[..read]).contains("www.test"), "{path}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_retried_every_second() {
        let directory = Directory::new("unopened");
        let path = directory.path("later/log");
        let (live_state, mut log) = (LiveState::new(1, 1), Files::default());
        let file = |id| assert!(live_state.shards()[0].log_queue.file(line(target(&path), id)));
        file(1);
        assert_eq!(log.write(&live_state, false, Tick(1)), 1);
        std::fs::create_dir(directory.path("later")).expect("a directory");
        file(2);
        log.write(&live_state, false, Tick(2));
        assert!(!std::path::Path::new(&path).exists(), "too early");
        log.write(&live_state, false, SECOND + TickDelta(1));
        let text = std::fs::read_to_string(&path).expect("the file");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert_eq!(log.lost, 0);
    }

    #[test]
    fn lines_beyond_the_buffer_of_an_unwritable_file_are_counted() {
        let directory = Directory::new("full");
        let path = directory.path("log");
        std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
        let (live_state, mut log) = (LiveState::new(1, 1), Files::default());
        let mut filed = 0;
        for round in 0..10 {
            for _ in 0..500 {
                filed += 1;
                assert!(live_state.shards()[0].log_queue.file(line(target(&path), filed)));
            }
            log.write(&live_state, false, Tick(round));
        }
        let lost = log.lost;
        let length = text(&line(target(""), 1), None).len() + 1;
        assert!(lost > 0 && log.sinks[&path].waiting.len() > WAITING_MAX - 2 * length, "{lost}");
        std::fs::remove_file(&path).expect("to remove it");
        log.write(&live_state, false, SECOND + TickDelta(20));
        let kept = std::fs::read_to_string(&path).expect("the file");
        assert_eq!(kept.lines().count() as u64 + lost, u64::from(filed));
        assert!(kept.lines().all(|l| l.starts_with("Packet from ")), "whole lines");
    }

    #[test]
    fn a_pipe_never_blocks() {
        let directory = Directory::new("pipe");
        let path = directory.pipe();
        let (live_state, mut log) = (LiveState::new(1, 1), Files::default());
        let mut filed = 0;
        let mut file = |lines| {
            for _ in 0..lines {
                filed += 1;
                assert!(live_state.shards()[0].log_queue.file(line(target(&path), filed)));
            }
            filed
        };
        file(1);
        log.write(&live_state, false, Tick(1));
        // Without a reader; then with one, which stops reading.
        let mut slow = reader(&path);
        let mut now = SECOND + TickDelta(2);
        for _ in 0..10 {
            file(500);
            log.write(&live_state, false, now);
        }
        let lost = log.lost;
        assert!(lost > 0);
        let mut text = read(&mut slow);
        log.write(&live_state, false, now);
        text += &read(&mut slow);
        assert_eq!(text.lines().count() as u64 + lost, 5_001);
        assert!(text.starts_with("Packet from") && text.ends_with('\n'));
        // Readers leave in the middle of a line; the next one's first line is complete.
        for _ in 0..3 {
            file(500);
            log.write(&live_state, false, now);
        }
        let before = log.lost;
        drop(slow);
        let mut next = reader(&path);
        file(1);
        log.write(&live_state, false, now);
        now = now + RETRY;
        log.write(&live_state, false, now);
        let text = read(&mut next);
        assert!(text.lines().all(|l| l.starts_with("Packet from ")), "{text}");
        assert!(log.lost <= before + 1);
        file(1);
        log.write(&live_state, false, now + RETRY);
        log.finish(now + RETRY);
    }

    #[test]
    fn files_are_opened_without_a_line_and_a_wrong_one_is_an_error() {
        let directory = Directory::new("opened");
        let [path, other] = [directory.path("log"), directory.path("other")];
        std::fs::write(&path, "old\n").expect("a file");
        let at = |path: &str| Arc::new(target(path));
        let mut files = Files::open(&[at(&path), at(&directory.pipe())]).expect("both: a pipe may wait");
        assert_eq!(std::fs::read_to_string(&path).expect("the file"), "", "it is replaced");
        // It was rotated; another one is in the next configuration.
        std::fs::rename(&path, directory.path("log.1")).expect("renamed");
        files.reopen(&[at(&path), at(&other)], Tick(0));
        assert!(std::fs::exists(&path).is_ok_and(|is| is) && std::fs::exists(&other).is_ok_and(|is| is));
        let error = Files::open(&[at(&directory.path("none/log"))]).expect_err("no such directory");
        assert!(error.contains("none/log\": No such file or directory"), "{error}");
        let error = Files::open(&[at(&directory.path(""))]).expect_err("a directory");
        assert!(error.contains("Is a directory"), "{error}");
    }

    #[test]
    fn a_line_has_the_time_of_its_message() {
        let directory = Directory::new("stamps");
        let path = directory.path("log");
        let (live_state, mut log) = (LiveState::new(1, 1), Files::default());
        let now = SECOND + TickDelta::from_ms(60_000);
        let stamped = LogTarget { timestamp: true, ..target(&path) };
        let queued = QueryLogEntry { at: SECOND, ..line(stamped, 1) };
        assert!(live_state.shards()[0].log_queue.file(queued));
        let before = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        log.write(&live_state, false, now);
        let text = std::fs::read_to_string(&path).expect("the file");
        let seconds = text.trim_start_matches('[').split('.').next().and_then(|s| s.parse::<u64>().ok());
        let ago = before - seconds.expect("a time stamp");
        assert!((57..=60).contains(&ago), "{ago} s before it is written: {text}");
    }

    #[test]
    fn a_buffered_line_is_written_within_a_second() {
        let directory = Directory::new("buffered");
        let path = directory.path("log");
        let (live_state, mut log) = (LiveState::new(1, 1), Files::default());
        let buffered = LogTarget { buffered: true, ..target(&path) };
        log.reopen(&[Arc::new(buffered.clone())], Tick(0));
        assert!(live_state.shards()[0].log_queue.file(line(buffered, 1)));
        let mut length = |now| {
            log.write(&live_state, false, now);
            std::fs::metadata(&path).expect("the file").len()
        };
        assert_eq!(length(Tick(1)), 0);
        assert!(length(SECOND + TickDelta(1)) > 0);
    }

    #[test]
    fn unread_lines_are_counted_at_the_end() {
        let directory = Directory::new("end");
        let path = directory.pipe();
        let live_state = Arc::new(LiveState::new(1, 1));
        for id in 0..7 {
            assert!(live_state.shards()[0].log_queue.file(line(target(&path), id)));
        }
        let mut log = QueryLog::start(live_state, Files::default()).expect("a thread");
        log.finish();
        assert_eq!(log.lost().load(Relaxed), 7);
    }

    #[test]
    fn a_binary_line_can_be_read_back() {
        let bytes = binary(&line(target("x"), 0x1234));
        assert_eq!(bytes[..2], [0x12, 0x34]);
        assert_eq!(bytes.len(), 2 + 10 + 2 + 16 + 2);
        assert_eq!(bytes[bytes.len() - 2..], 5353_u16.to_be_bytes());
    }
}
