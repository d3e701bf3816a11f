//! Opens captures: files, pipes, standard input; plain or compressed.
//!
//! ```text
//!  plain file ──────────────────────────────────► stream
//!  pipe, compressed file ─► thread that unpacks ─► stream
//! ```
//! What may wait for somebody has a thread, so that whoever reads can look after other things.

use std::fs::File;
use std::io::{self, Cursor, ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crossbeam_channel::{Sender, bounded};

use crate::tools::capture::stream::{Input, READ_BYTES, Stream};
use crate::tools::capture::unpack::{MAGIC, Packing, unpacked};

/// Chunks that a thread may be ahead.
const CHUNKS: usize = 4;

/// What is known of a file besides its content.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    is_compressed: Arc<AtomicBool>,
    read: Arc<AtomicU64>,
    length: Option<u64>,
}

impl Source {
    /// Returns whether the content is not that of the file.
    pub(super) fn is_compressed(&self) -> bool {
        self.is_compressed.load(Relaxed)
    }

    /// Returns the bytes read of the file.
    pub(super) fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Returns the length of the file; none of a pipe.
    pub(super) const fn length(&self) -> Option<u64> {
        self.length
    }
}

/// Counts the bytes that are read.
struct Counting<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}

/// Opens a file; `-` is standard input.
pub(super) fn open(path: &Path) -> io::Result<(Stream, Source)> {
    // Opening a pipe waits for its writer, which then is the thread's to do.
    let is_pipe = path.as_os_str() == "-" || !path.metadata()?.is_file();
    if is_pipe && path.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    let mut source = Source::default();
    if is_pipe {
        let path = path.to_owned();
        let stream = threaded(&source, move || {
            if path.as_os_str() == "-" {
                Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
            } else {
                File::open(path)
            }
        })?;
        return Ok((stream, source));
    }
    let file = File::open(path)?;
    source.length = Some(file.metadata()?.len());
    let mut file = Counting(file, Arc::clone(&source.read));
    let head = head(&mut file)?;
    let is_plain = Packing::of(&head) == Packing::None;
    let whole = Cursor::new(head).chain(file);
    let stream =
        if is_plain { Stream::new(Input::Reader(Box::new(whole))) } else { threaded(&source, || Ok(whole))? };
    Ok((stream, source))
}

/// Reads as many bytes as tell how a file is compressed.
fn head(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(MAGIC as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Starts a thread that opens, reads and unpacks. It ends when nobody reads what it has read.
fn threaded<R: Read + Send + 'static>(
    source: &Source,
    open: impl FnOnce() -> io::Result<R> + Send + 'static,
) -> io::Result<Stream> {
    let (send, chunks) = bounded(CHUNKS);
    let source = source.clone();
    std::thread::Builder::new().name("capture".to_owned()).spawn(move || {
        if let Err(error) = read_all(&source, open, &send) {
            // Nobody is left to be told.
            let _ = send.send(Err(error));
        }
    })?;
    Ok(Stream::new(Input::Thread(chunks)))
}

fn read_all<R: Read + Send + 'static>(
    source: &Source,
    open: impl FnOnce() -> io::Result<R>,
    send: &Sender<io::Result<Vec<u8>>>,
) -> io::Result<()> {
    let count = if source.length.is_some() { Arc::default() } else { Arc::clone(&source.read) };
    let mut packed = Counting(open()?, count);
    let head = head(&mut packed)?;
    let packing = Packing::of(&head);
    source.is_compressed.store(packing != Packing::None, Relaxed);
    let mut plain = unpacked(packing, Cursor::new(head).chain(packed));
    loop {
        let mut chunk = vec![0; READ_BYTES];
        match plain.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => chunk.truncate(count),
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        if send.send(Ok(chunk)).is_err() {
            return Ok(());
        }
    }
}
