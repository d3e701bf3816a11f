//! Compressed captures: gzip and zstd, told by their first bytes.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

/// Bytes by which the kind of a file is told.
pub(super) const MAGIC: usize = 4;
/// Bytes that are read of a compressed file at once.
const PACKED_BYTES: usize = 256 << 10;
/// The largest window of zstd: what its command line unpacks without being asked twice (`--long=27`).
const WINDOW_MAX: u64 = 128 << 20;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    /// Tells it by the first bytes.
    pub(super) fn of(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Unpacks what needs it.
pub(super) fn unpacked<R: Read + Send + 'static>(packing: Packing, packed: R) -> Box<dyn Read + Send> {
    match packing {
        Packing::None => Box::new(packed),
        Packing::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(PACKED_BYTES, packed))),
        Packing::Zstd => {
            Box::new(Zstd { packed: BufReader::with_capacity(PACKED_BYTES, packed), frame: None })
        }
    }
}

/// Frames of zstd, one behind the other, as several runs or several threads of compressors make them.
struct Zstd<R> {
    packed: BufReader<R>,
    frame: Option<Box<FrameDecoder>>,
}

impl<R: Read> Zstd<R> {
    /// Returns the error that a frame cannot be unpacked, which is another one where the file has ended.
    fn failed(&mut self, why: &str) -> io::Error {
        match self.packed.fill_buf() {
            Ok([]) => io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends within a frame of zstd"),
            Ok(_) => io::Error::new(io::ErrorKind::InvalidData, why),
            Err(error) => error,
        }
    }

    /// Begins with the next frame; returns whether there is one.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            if self.packed.fill_buf()?.is_empty() {
                return Ok(false);
            }
            let mut frame = Box::new(FrameDecoder::new());
            frame.set_max_window_size(WINDOW_MAX);
            match frame.init(&mut self.packed) {
                Ok(()) => {
                    self.frame = Some(frame);
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut (&mut self.packed).take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(self.failed(&format!("zstd: {error}"))),
            }
        }
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.frame.is_none() && !self.begin()? {
                return Ok(0);
            }
            let Some(frame) = &mut self.frame else { return Ok(0) };
            while frame.can_collect() == 0 && !frame.is_finished() {
                let one = ruzstd::decoding::BlockDecodingStrategy::UptoBlocks(1);
                if frame.decode_blocks(&mut self.packed, one).is_err() {
                    return Err(self.failed("a frame of zstd is damaged"));
                }
            }
            let count = frame.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.frame = None;
        }
    }
}
