//! Reads captures of DNS traffic, a packet at a time and within bounds: pcap, pcapng, dnstap; plain,
//! gzip or zstd; of files, pipes and standard input.
//!
//! ```text
//!  file ─► stream ─► pcap, pcapng ─► link ─► ip ─► fragments ─┬─► UDP ──────────┬─► events
//!                 └► dnstap ──────────────────────────────────┼─► TCP: frames ──┤
//!                                                             └────────────────►┘
//! ```
//! What yields no message is counted by its reason ([`Skip`]). A file that is damaged ends with an error
//! that says where; what was read until then stays good.

mod clock;
mod counts;
mod decode;
mod dnstap;
mod error;
#[cfg(test)]
pub(super) mod fixture;
mod fragments;
mod frame;
mod ip;
mod link;
mod live;
mod message;
mod open;
mod pcap;
mod pcapng;
mod record;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;
mod unpack;

use std::collections::VecDeque;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use ahash::RandomState;

pub use crate::tools::capture::counts::{Counts, Skip};
use crate::tools::capture::decode::{Decoder, Packet};
use crate::tools::capture::dnstap::Dnstap;
pub use crate::tools::capture::error::{CaptureError, Fault};
use crate::tools::capture::live::Live;
pub use crate::tools::capture::message::{Connection, End, Event, Message, Protocol};
use crate::tools::capture::open::Source;
use crate::tools::capture::pcap::Pcap;
use crate::tools::capture::pcapng::Pcapng;
use crate::tools::capture::record::{Next, Record};
use crate::tools::capture::stream::{Fill, Input, Stream};
use crate::tools::capture::unpack::MAGIC;

/// Blocks of a file that are looked at for its first packet.
const BLOCKS_BEFORE_MAX: usize = 64;

/// What is read of captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureOptions {
    /// The ports of servers.
    pub ports: Vec<u16>,
    /// Most TCP connections at once; of more, those are forgotten that were idle for longest.
    pub connections_max: usize,
    /// What tables are hashed with: random where a capture may come from others.
    pub seed: u64,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self { ports: vec![53], connections_max: 131_072, seed: 0 }
    }
}

/// What a step has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A packet was read; there may be more.
    More,
    /// A pipe has been silent for some milliseconds.
    Idle,
    /// All files are read.
    End,
}

/// One or several captures, read one behind the other as if they were one.
pub struct Capture {
    waiting: VecDeque<PathBuf>,
    file: Option<Open>,
    live: Option<(PathBuf, Live)>,
    decoder: Decoder,
    is_ended: bool,
    /// Bytes of files that are done, and of all files if that is known.
    read: u64,
    length: Option<u64>,
}

struct Open {
    path: PathBuf,
    stream: Stream,
    source: Source,
    format: Format,
}

enum Format {
    /// Not read yet.
    Unknown,
    Pcap(Pcap),
    Pcapng(Pcapng),
    Dnstap(Dnstap),
}

impl Capture {
    /// Reads files in the order of their first packets, and those without one behind the others: a shell
    /// puts `cap.pcap10` before `cap.pcap2`, and the newest file of a rotation may still be empty. `-` is standard input. They are opened when their turn
    /// comes, except that one that cannot be found is told at once.
    ///
    /// # Errors
    /// When one of them does not exist.
    pub fn open(paths: &[PathBuf], options: &CaptureOptions) -> Result<Self, CaptureError> {
        let mut capture = Self::of(options);
        let mut length = Some(0);
        for path in paths {
            if path.as_os_str() == "-" {
                length = None;
                continue;
            }
            let metadata = path.metadata().map_err(|e| CaptureError::at_begin(path, Fault::Open(e)))?;
            length = length.filter(|_| metadata.is_file()).map(|length| length + metadata.len());
        }
        let mut waiting = paths.to_vec();
        if paths.len() > 1 && length.is_some() {
            // Those without a packet have nothing to be read, wherever they are.
            waiting.sort_by_cached_key(|path| begin_of(path).unwrap_or(u64::MAX));
        }
        capture.waiting = waiting.into();
        capture.length = length;
        Ok(capture)
    }

    /// Looks at an interface, or at all of them (`any`), as if it were a capture without end.
    ///
    /// # Errors
    /// When there is no such interface, or the process may not look at it.
    pub fn live(interface: &str, options: &CaptureOptions) -> Result<Self, CaptureError> {
        let path = PathBuf::from(interface);
        let live = Live::open(interface).map_err(|fault| CaptureError::at_begin(&path, fault))?;
        let mut capture = Self::of(options);
        capture.live = Some((path, live));
        Ok(capture)
    }

    /// Reads bytes as if they were a file.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>, options: &CaptureOptions) -> Self {
        let mut capture = Self::of(options);
        let stream = Stream::new(Input::Reader(Box::new(Cursor::new(bytes))));
        let (path, source) = (PathBuf::from("-"), Source::default());
        capture.file = Some(Open { path, stream, source, format: Format::Unknown });
        capture
    }

    fn of(options: &CaptureOptions) -> Self {
        let CaptureOptions { ports, connections_max, seed } = options;
        let hasher = RandomState::with_seeds(*seed, !seed, seed.rotate_left(32), 1);
        let decoder = Decoder::new(ports, hasher, *connections_max);
        let (waiting, length) = (VecDeque::new(), None);
        Self { waiting, file: None, live: None, decoder, is_ended: false, read: 0, length }
    }

    /// Returns what was read.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.decoder.counts
    }

    /// Returns the bytes read of all files, and their length if that is known.
    #[must_use]
    pub fn position(&self) -> (u64, Option<u64>) {
        let now = self.file.as_ref().map_or(0, |file| file.source.read());
        (self.read + now, self.length)
    }

    /// Reads the next packet and calls `visit` with what it tells: nothing, one or several events.
    ///
    /// # Errors
    /// That a file cannot be read further. The next step goes on with the next file.
    #[inline]
    pub fn step(&mut self, visit: &mut impl FnMut(Event<'_>)) -> Result<Step, CaptureError> {
        let Some(file) = &mut self.file else { return self.next_file(visit) };
        match file.step(&mut self.decoder, visit) {
            Ok(Step::End) => {
                self.close_file();
                Ok(Step::More)
            }
            Ok(step) => {
                if step == Step::Idle {
                    self.decoder.release(visit);
                }
                Ok(step)
            }
            Err(fault) => {
                let (offset, compressed) = (file.stream.offset(), file.source.is_compressed());
                let error = CaptureError { file: file.path.clone(), offset, compressed, fault };
                self.close_file();
                Err(error)
            }
        }
    }

    /// Ends what is open, as at the end of the last file: for who does not read all of it.
    pub fn end(&mut self, visit: &mut impl FnMut(Event<'_>)) {
        if !self.is_ended {
            self.is_ended = true;
            if let Some((_, live)) = &self.live {
                self.decoder.counts.dropped += live.dropped();
            }
            self.decoder.end(visit);
        }
    }

    #[cold]
    fn next_file(&mut self, visit: &mut impl FnMut(Event<'_>)) -> Result<Step, CaptureError> {
        if let Some((name, live)) = &mut self.live {
            let fault = match live.step(&mut self.decoder, visit) {
                Ok(step) => {
                    if step == Step::Idle {
                        self.decoder.release(visit);
                    }
                    return Ok(step);
                }
                Err(fault) => fault,
            };
            let error = CaptureError::at_begin(name, fault);
            self.decoder.counts.dropped += live.dropped();
            // What the kernel says once of an interface, it says again.
            self.live = None;
            return Err(error);
        }
        let Some(path) = self.waiting.pop_front() else {
            self.end(visit);
            return Ok(Step::End);
        };
        match open::open(&path) {
            Ok((stream, source)) => {
                self.file = Some(Open { path, stream, source, format: Format::Unknown });
                Ok(Step::More)
            }
            Err(error) => Err(CaptureError::at_begin(&path, Fault::Open(error))),
        }
    }

    fn close_file(&mut self) {
        if let Some(file) = self.file.take() {
            // A file that is not read to its end is done, too.
            self.read += file.source.length().unwrap_or_else(|| file.source.read());
        }
    }
}

/// Returns when the first packet of a file was captured, nanoseconds since 1970; none where that is not
/// soon found.
fn begin_of(path: &Path) -> Option<u64> {
    let (stream, source) = open::open(path).ok()?;
    let mut file = Open { path: path.to_owned(), stream, source, format: Format::Unknown };
    for _ in 0..BLOCKS_BEFORE_MAX {
        let next = match &mut file.format {
            Format::Pcap(pcap) => pcap.next(&mut file.stream),
            Format::Pcapng(pcapng) => pcapng.next(&mut file.stream),
            Format::Dnstap(dnstap) => {
                let (mut begin, mut decoder) =
                    (None, Decoder::new(&[], RandomState::with_seeds(0, 0, 0, 0), 1));
                let mut note = |event: Event<'_>| {
                    if let Event::Message(message) = event {
                        begin = Some(message.at);
                    }
                };
                let step = dnstap.step(&mut file.stream, &mut decoder, &mut note);
                decoder.release(&mut note);
                if begin.is_some() || !matches!(step, Ok(Step::More)) {
                    return begin;
                }
                continue;
            }
            Format::Unknown => match file.find_format() {
                Ok(Step::More) => continue,
                Ok(Step::Idle | Step::End) | Err(_) => return None,
            },
        };
        match next {
            Ok(Next::Record(record)) => return Some(record.at),
            Ok(Next::Other(whole)) => file.stream.consume(whole),
            Ok(Next::Idle | Next::End) | Err(_) => return None,
        }
    }
    None
}

impl Open {
    #[inline]
    fn step(&mut self, decoder: &mut Decoder, visit: &mut impl FnMut(Event<'_>)) -> Result<Step, Fault> {
        let stream = &mut self.stream;
        let next = match &mut self.format {
            Format::Pcap(pcap) => pcap.next(stream)?,
            Format::Pcapng(pcapng) => pcapng.next(stream)?,
            Format::Dnstap(dnstap) => return dnstap.step(stream, decoder, visit),
            Format::Unknown => return self.find_format(),
        };
        match next {
            Next::Record(Record { at, link, front, captured, is_cut, whole }) => {
                let bytes = &stream.bytes()[front..front + captured];
                decoder.packet(&Packet { at, link, bytes, is_cut }, visit);
                stream.consume(whole);
                Ok(Step::More)
            }
            Next::Other(whole) => {
                stream.consume(whole);
                Ok(Step::More)
            }
            Next::Idle => Ok(Step::Idle),
            Next::End => Ok(Step::End),
        }
    }

    #[cold]
    fn find_format(&mut self) -> Result<Step, Fault> {
        match self.stream.fill(MAGIC).map_err(Fault::Read)? {
            Fill::Idle => return Ok(Step::Idle),
            Fill::Ended if self.stream.bytes().is_empty() => return Err(Fault::Empty),
            Fill::Ended => {
                let there = self.stream.bytes().len();
                return Err(Fault::Cut { what: "the file's header", there, whole: MAGIC });
            }
            Fill::Enough => {}
        }
        let bytes = self.stream.bytes();
        let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if Pcap::is(magic) {
            let Some(pcap) = Pcap::open(&mut self.stream)? else { return Ok(Step::Idle) };
            self.format = Format::Pcap(pcap);
        } else if Pcapng::is(magic) {
            self.format = Format::Pcapng(Pcapng::default());
        } else if Dnstap::is(magic) {
            self.format = Format::Dnstap(Dnstap::default());
        } else {
            return Err(Fault::Unknown(magic));
        }
        Ok(Step::More)
    }
}

impl CaptureError {
    fn at_begin(path: &Path, fault: Fault) -> Self {
        Self { file: path.to_owned(), offset: 0, compressed: false, fault }
    }
}
