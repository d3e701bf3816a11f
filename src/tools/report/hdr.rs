//! Logs of HdrHistograms, as the viewers and tools of that library read them: format 1.3, each
//! histogram in encoding V2, within zlib, in base64.
//!
//! ```text
//!  Tag=...,"begin","length","max","histogram"      seconds since the base time, seconds, milliseconds
//!
//!  cookie 0x1c849314 | length | zlib( cookie 0x1c849313 | length | offset 0 | digits | lowest |
//!                                     highest | ratio 1.0 | counts: ZigZag LEB128, -n = n zeros )
//! ```
//! The zlib stream is of stored blocks (RFC 1951, 3.2.4), which every reader takes: the runs of zeros,
//! nearly all of a histogram, are compressed before.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;

use crate::tools::load::tally::INTERVAL;
use crate::tools::report::machine::Machine;

const COOKIE: u32 = 0x1c84_9313;
const COOKIE_COMPRESSED: u32 = 0x1c84_9314;
/// Bytes of a stored block at most.
const BLOCK_MAX: usize = 65_535;

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct HdrLog {
    out: BufWriter<File>,
    /// What has ended it before its time: the run goes on without it.
    failure: Option<io::Error>,
}

impl HdrLog {
    /// Creates the file; times in it count from `begun`, seconds since 1970. Histograms may have tags, which are
    /// of these servers.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn create(path: &Path, begun: u64, tags: &[(&str, &str)]) -> io::Result<Self> {
        let (mut out, machine) = (BufWriter::new(File::create(path)?), Machine::read());
        writeln!(out, "#[Logged with dnslob {}: {}]", machine.version, machine.command)?;
        writeln!(out, "#[Machine: {}]", machine.hardware())?;
        for (tag, server) in tags {
            writeln!(out, "#[Tag {tag}: {server}]")?;
        }
        writeln!(out, "#[Histogram log format version 1.3]")?;
        writeln!(out, "#[StartTime: {begun}.000 (seconds since epoch)]")?;
        writeln!(out, "#[BaseTime: {begun}.000 (seconds since epoch)]")?;
        writeln!(
            out,
            "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""
        )?;
        Ok(Self { out, failure: None })
    }

    /// Adds the histogram of an interval.
    pub(crate) fn add(&mut self, tag: Option<&str>, number: u64, histogram: &Histogram<u64>) {
        if self.failure.is_none() {
            self.failure = self.write(tag, number, histogram).err();
        }
    }

    fn write(&mut self, tag: Option<&str>, number: u64, histogram: &Histogram<u64>) -> io::Result<()> {
        let seconds = INTERVAL.0 as f64 / 1e9;
        let max = histogram.max() as f64 / 1e6;
        let text = STANDARD.encode(compressed(histogram));
        if let Some(tag) = tag {
            write!(self.out, "Tag={tag},")?;
        }
        writeln!(self.out, "{:.3},{seconds:.3},{max:.3},{text}", number as f64 * seconds)
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// The operating system's, which may be of an earlier interval.
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.failure.take().map_or_else(|| self.out.flush(), Err)
    }
}

/// Encodes a histogram in V2.
fn encoded(histogram: &Histogram<u64>) -> Vec<u8> {
    let mut counts = Vec::new();
    let mut zeros = 0_i64;
    let max = histogram.max();
    for place in histogram.iter_all() {
        if place.count_at_value() == 0 {
            zeros += 1;
        } else {
            if zeros > 0 {
                leb128(&mut counts, if zeros == 1 { 0 } else { -zeros });
                zeros = 0;
            }
            leb128(&mut counts, i64::try_from(place.count_at_value()).unwrap_or(i64::MAX));
        }
        if place.value_iterated_to() >= max {
            break;
        }
    }
    let mut out = Vec::with_capacity(40 + counts.len());
    out.extend(COOKIE.to_be_bytes());
    out.extend((counts.len() as u32).to_be_bytes());
    out.extend(0_u32.to_be_bytes());
    out.extend(u32::from(histogram.sigfig()).to_be_bytes());
    out.extend(histogram.low().to_be_bytes());
    out.extend(histogram.high().to_be_bytes());
    out.extend(1.0_f64.to_be_bytes());
    out.extend(counts);
    out
}

/// Writes a signed number in ZigZag LEB128 of at most nine bytes, the last of which has eight bits.
fn leb128(out: &mut Vec<u8>, number: i64) {
    let mut rest = (number << 1 ^ number >> 63) as u64;
    for _ in 0..8 {
        if rest < 0x80 {
            out.push(rest as u8);
            return;
        }
        out.push(rest as u8 & 0x7f | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn compressed(histogram: &Histogram<u64>) -> Vec<u8> {
    let plain = encoded(histogram);
    // Deflate with a window of 32 kB, no dictionary, the fastest level.
    let mut zlib = vec![0x78, 0x01];
    let blocks = plain.len().div_ceil(BLOCK_MAX);
    for (number, block) in (1..).zip(plain.chunks(BLOCK_MAX)) {
        let length = block.len() as u16;
        zlib.push(u8::from(number == blocks));
        zlib.extend(length.to_le_bytes());
        zlib.extend((!length).to_le_bytes());
        zlib.extend(block);
    }
    zlib.extend(adler32(&plain).to_be_bytes());
    let mut out = Vec::with_capacity(8 + zlib.len());
    out.extend(COOKIE_COMPRESSED.to_be_bytes());
    out.extend((zlib.len() as u32).to_be_bytes());
    out.extend(zlib);
    out
}

/// The checksum of zlib (RFC 1950, 8.2).
fn adler32(bytes: &[u8]) -> u32 {
    const BASE: u32 = 65_521;
    let (mut a, mut b) = (1, 0);
    for byte in bytes {
        a = (a + u32::from(*byte)) % BASE;
        b = (b + a) % BASE;
    }
    b << 16 | a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::load::spans::Spans;

    /// Reads the counts back: index and count of each that is not 0.
    fn decoded(mut bytes: &[u8]) -> Vec<(usize, i64)> {
        let (mut at, mut counts) = (0, Vec::new());
        while !bytes.is_empty() {
            let (mut bits, mut shift) = (0_u64, 0);
            loop {
                let (byte, rest) = (bytes[0], &bytes[1..]);
                bytes = rest;
                if shift == 56 {
                    bits |= u64::from(byte) << 56;
                    break;
                }
                bits |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    break;
                }
            }
            let number = (bits >> 1) as i64 ^ -((bits & 1) as i64);
            match number {
                0 => at += 1,
                ..0 => at += usize::try_from(-number).expect("a run"),
                _ => {
                    counts.push((at, number));
                    at += 1;
                }
            }
        }
        counts
    }

    #[test]
    fn numbers_are_as_the_library_writes_them() {
        let bytes = |n: i64| {
            let mut out = Vec::new();
            leb128(&mut out, n);
            out
        };
        assert_eq!([bytes(0), bytes(-1), bytes(1), bytes(63)], [vec![0], vec![1], vec![2], vec![126]]);
        assert_eq!([bytes(64), bytes(-64)], [vec![0x80, 1], vec![127]]);
        assert_eq!(bytes(i64::MIN), [255; 9]);
    }

    #[test]
    fn checksums_are_those_of_zlib() {
        assert_eq!([adler32(b""), adler32(b"Wikipedia")], [1, 0x11e6_0398]);
    }

    #[test]
    fn a_histogram_is_all_there() {
        let mut all = Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3).expect("bounds");
        // Units of 512 ns: the first 2,048 places are of one unit each, later ones of two, of four ...
        for (ns, times) in [(512, 1), (1_024, 2), (512 * 2_047, 3), (512 * 2_050, 400)] {
            all.record_n(ns, times).expect("within the bounds");
        }
        let bytes = encoded(&all);
        assert_eq!(&bytes[..4], &COOKIE.to_be_bytes());
        assert_eq!(bytes[4..8], ((bytes.len() - 40) as u32).to_be_bytes());
        assert_eq!(bytes[12..16], 3_u32.to_be_bytes());
        assert_eq!(decoded(&bytes[40..]), [(1, 1), (2, 2), (2_047, 3), (2_049, 400)]);

        let outer = compressed(&all);
        assert_eq!(outer[4..8], ((outer.len() - 8) as u32).to_be_bytes());
        assert_eq!(&outer[8..11], &[0x78, 1, 1]);
        assert_eq!(&outer[15..15 + bytes.len()], bytes);
    }

    #[test]
    fn what_cannot_be_written_is_told_at_the_end() {
        let mut log = HdrLog::create(Path::new("/dev/full"), 0, &[]).expect("the file is there");
        let mut all = Spans::new();
        (0..200_u64).for_each(|n| all.record(n * n * 10_000));
        (0..1_000).for_each(|number| log.add(None, number, &all));
        assert_eq!(log.end().expect_err("full").raw_os_error(), Some(libc::ENOSPC));
    }

    #[test]
    fn histograms_of_two_servers_are_told_apart() {
        let path = std::env::temp_dir().join(format!("dnslob-hdr-{}", std::process::id()));
        let tags = [("first", "192.0.2.1:53"), ("second", "192.0.2.2:53")];
        let mut log = HdrLog::create(&path, 7, &tags).expect("a file");
        for (tag, _) in tags {
            log.add(Some(tag), 3, &Spans::new());
        }
        log.add(None, 4, &Spans::new());
        log.end().expect("written");
        let text = std::fs::read_to_string(&path).expect("the log");
        std::fs::remove_file(path).expect("it is there");
        assert!(text.contains("#[Tag first: 192.0.2.1:53]\n#[Tag second: 192.0.2.2:53]\n"), "{text}");
        let begins: Vec<&str> =
            text.lines().filter_map(|line| line.split(",1.000,").next()).rev().take(3).collect();
        assert_eq!(begins, ["4.000", "Tag=second,3.000", "Tag=first,3.000"]);
    }

    #[test]
    fn an_empty_histogram_can_be_written() {
        assert!(encoded(&Spans::new()).len() <= 41);
    }
}
