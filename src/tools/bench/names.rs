//! The questions that are asked: those of a file, popular ones, new ones.
//!
//! ```text
//!  n000000000000002a.bench.test   the 42nd of the Zipf distribution
//!  r9f86d081884c7d65.bench.test   a new one, which no cache has
//! ```
//! Generated names of a zone have one length, so that queries of a batch can leave as one segmented
//! message.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::{Context, ensure};

use crate::base::files;
use crate::base::rng::ShardRng;
use crate::config::bench::{self, BenchOptions};
use crate::config::value;
use crate::tools::load::random::{Zipf, unit};

/// Most bytes of a file of names.
const FILE_MAX: u64 = 1 << 30;
/// Files from this size on take a while to be read, which is said.
const FILE_LARGE: u64 = 64 << 20;
/// Class IN.
const IN: [u8; 2] = [0, 1];
/// Letter and digits of a generated label.
const LABEL: usize = 17;

/// Where names come from, for all threads.
#[derive(Debug)]
pub(crate) struct Names {
    source: Source,
    /// The zone of generated names, in wire format.
    zone: Vec<u8>,
    qtype: u16,
    /// The part of the queries that are not for new names.
    known: f64,
}

#[derive(Debug)]
enum Source {
    /// Questions in wire format, and where each ends.
    File {
        questions: Vec<u8>,
        ends: Vec<usize>,
    },
    Zipf(Zipf),
    Random,
}

impl Names {
    /// Reads or prepares them.
    ///
    /// # Errors
    /// When a file cannot be read, or has something else than names.
    pub(crate) fn load(options: &BenchOptions) -> anyhow::Result<Self> {
        let source = match &options.names {
            bench::Names::File(path) => {
                let shown = path.display();
                if path.metadata().is_ok_and(|file| file.len() >= FILE_LARGE) {
                    // Who reads it may be gone.
                    let _ = writeln!(io::stderr(), "reading the names of {shown}");
                }
                let bytes = files::read(path, FILE_MAX).with_context(|| shown.to_string())?;
                parse(&bytes, options.qtype).with_context(|| shown.to_string())?
            }
            bench::Names::Zipf(count) => Source::Zipf(Zipf::new(*count)),
            bench::Names::Random => Source::Random,
        };
        let zone = value::wire_name(&options.zone).map_err(|e| anyhow::anyhow!("--zone: expected {e}"))?;
        Ok(Self { source, zone, qtype: options.qtype, known: options.hit_rate.unwrap_or(1.0) })
    }
}

/// Reads the lines of a file: a name and, unless it is the usual one, a type.
fn parse(bytes: &[u8], qtype: u16) -> anyhow::Result<Source> {
    let (mut questions, mut ends) = (Vec::new(), Vec::new());
    // Editors of Windows begin files with a byte order mark.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_whitespace().peekable();
        let Some(name) = words.next().filter(|word| !word.starts_with(['#', ';'])) else { continue };
        let wire = value::wire_name(name).map_err(|e| anyhow::anyhow!("line {number}: expected {e}"))?;
        // The class may be there as in zone files.
        let _ = words.next_if(|word| word.eq_ignore_ascii_case("IN"));
        let qtype = match words.next().map(bench::qtype) {
            None => qtype,
            Some(Ok(qtype)) => qtype,
            Some(Err(e)) => anyhow::bail!("line {number}: expected {e}"),
        };
        if let Some(word) = words.next() {
            anyhow::bail!("line {number}: expected a name and a type, and nothing behind them, as {word}");
        }
        questions.extend(wire);
        questions.extend(qtype.to_be_bytes());
        questions.extend(IN);
        ends.push(questions.len());
    }
    ensure!(!ends.is_empty(), "no names");
    Ok(Source::File { questions, ends })
}

/// The names of one thread.
#[derive(Debug)]
pub(crate) struct Picker {
    names: Arc<Names>,
    rng: ShardRng,
    /// The next line of a file, and the number of threads, which each take their part of it.
    next: usize,
    step: usize,
}

impl Picker {
    /// Prepares a thread's part.
    pub(crate) fn new(names: Arc<Names>, rng: ShardRng, thread: usize, threads: usize) -> Self {
        Self { names, rng, next: thread, step: threads.max(1) }
    }

    /// Returns 64 random bits.
    pub(crate) fn random(&mut self) -> u64 {
        self.rng.u64()
    }

    /// Appends a question.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>) {
        let names = &self.names;
        if names.known < 1.0 && unit(&mut self.rng) >= names.known {
            generated(out, b'r', self.rng.u64(), names);
            return;
        }
        match &names.source {
            Source::File { questions, ends } => {
                let at = self.next % ends.len();
                self.next = at + self.step;
                let begin = at.checked_sub(1).map_or(0, |before| ends[before]);
                out.extend_from_slice(&questions[begin..ends[at]]);
            }
            Source::Zipf(zipf) => generated(out, b'n', zipf.draw(&mut self.rng).into(), names),
            Source::Random => generated(out, b'r', self.rng.u64(), names),
        }
    }
}

fn generated(out: &mut Vec<u8>, letter: u8, number: u64, names: &Names) {
    let mut label = [0; 1 + LABEL];
    (label[0], label[1]) = (LABEL as u8, letter);
    for (at, digit) in label[2..].iter_mut().enumerate() {
        let four = (number >> (60 - 4 * at) & 15) as u8;
        *digit = if four < 10 { b'0' + four } else { b'a' + four - 10 };
    }
    out.extend_from_slice(&label);
    out.extend_from_slice(&names.zone);
    out.extend_from_slice(&names.qtype.to_be_bytes());
    out.extend_from_slice(&IN);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn picker(source: Source, known: f64, thread: usize, threads: usize) -> Picker {
        let zone = b"\x05bench\x04test\0".to_vec();
        let names = Names { source, zone, qtype: 1, known };
        Picker::new(Arc::new(names), ShardRng::from_seed(4), thread, threads)
    }

    fn next(picker: &mut Picker) -> Vec<u8> {
        let mut out = Vec::new();
        picker.write(&mut out);
        out
    }

    #[test]
    fn files_have_names_and_types() {
        let text = b"\xef\xbb\xbfwww.Example\n\n# a comment\n; another\nmail.example. IN MX\n* TYPE65\n";
        let Ok(Source::File { questions, ends }) = parse(text, 28) else { panic!("no names") };
        assert_eq!(&questions[..ends[0]], b"\x03www\x07example\0\0\x1c\0\x01");
        assert_eq!(&questions[ends[0]..ends[1]], b"\x04mail\x07example\0\0\x0f\0\x01");
        assert_eq!(&questions[ends[1]..ends[2]], b"\x01*\0\0\x41\0\x01");
        for (text, want) in
            [("", "no names"), ("a..b", "line 1"), ("a\nb NOTYPE", "line 2"), ("a A b", "line 1")]
        {
            let error = parse(text.as_bytes(), 1).expect_err(text).to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn threads_share_the_lines_of_a_file() {
        let source = || parse(b"a\nb\nc\nd\ne", 1).expect("names");
        let first: Vec<u8> = [0, 1]
            .into_iter()
            .flat_map(|thread| {
                let mut picker = picker(source(), 1.0, thread, 2);
                (0..3).map(move |_| next(&mut picker)[1])
            })
            .collect();
        assert_eq!(first, b"acebda", "the second goes on with the first lines");
    }

    #[test]
    fn a_hit_rate_is_kept_by_new_names() {
        let mut picker = picker(Source::Zipf(Zipf::new(10)), 0.8, 0, 1);
        let all: Vec<Vec<u8>> = (0..20_000).map(|_| next(&mut picker)).collect();
        let new: Vec<&Vec<u8>> = all.iter().filter(|q| q[1] == b'r').collect();
        assert!(new.len().abs_diff(4_000) < 250, "{}", new.len());
        assert_eq!(new.iter().collect::<HashSet<_>>().len(), new.len(), "each is new");
        assert!(all.iter().all(|q| q.len() == all[0].len()), "one length");
        assert!(all.iter().filter(|q| q[1] == b'n').all(|q| q.starts_with(b"\x11n000000000000000")));
    }
}
