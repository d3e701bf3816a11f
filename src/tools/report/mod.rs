//! What a tool that measures says at the end: text, JSON, a page, a log of histograms.
//!
//! It is made of [`Totals`] and of words on the run; it measures nothing. In every form stand the
//! machine, the command line and the version, so that figures can be compared later.

pub(crate) mod findings;
pub(crate) mod hdr;
mod json;
mod machine;
mod page;
mod plot;
mod raster;
mod replay;
pub(crate) mod text;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, bail, ensure};

use crate::base::printable::Printable;
use crate::config::bench::ReportOptions;
use crate::tools::load::failures::Failures;
use crate::tools::load::totals::Totals;
use crate::tools::report::machine::Machine;
pub(crate) use crate::tools::report::replay::{Compared, Replayed, Second};

/// Percentiles that are told.
const PERCENTILES: [f64; 7] = [50.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999];

/// A report.
#[derive(Debug)]
pub(crate) struct Report {
    /// The tool, as it is typed.
    pub(crate) tool: &'static str,
    /// The server.
    pub(crate) target: String,
    pub(crate) transport: &'static str,
    /// The load in words.
    pub(crate) load: String,
    pub(crate) threads: usize,
    /// When it was begun, seconds since 1970.
    pub(crate) begun: u64,
    /// The rate that was asked for, queries per second.
    pub(crate) rate_wanted: Option<u32>,
    /// Whether it was ended by a signal.
    pub(crate) interrupted: bool,
    pub(crate) totals: Totals,
    /// The steps of a ramp, and the best of them.
    pub(crate) ramp: Option<Ramp>,
    /// The conditions of `--fail-if` that hold.
    pub(crate) failed: Vec<String>,
    /// Why connections to it could not be made.
    pub(crate) failures: Failures,
    /// What else is to be known.
    pub(crate) notes: Vec<String>,
    /// What only a replayed capture has.
    pub(crate) replayed: Option<Replayed>,
}

/// The search for the highest rate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ramp {
    /// Where it ends.
    pub(crate) limits: String,
    pub(crate) steps: Vec<Step>,
    /// The highest good rate, queries per second.
    pub(crate) best: Option<u32>,
    /// Why it is not higher.
    pub(crate) end: String,
}

/// A rate that was tried for a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) rate: u32,
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) p99_ns: u64,
    /// What was wrong with it; empty for a good one.
    pub(crate) wrong: String,
}

impl Report {
    /// Returns the second target, if there is one.
    fn second(&self) -> Option<&Second> {
        self.replayed.as_ref().and_then(|replayed| replayed.second.as_ref())
    }

    /// Makes sure that something was answered.
    ///
    /// # Errors
    /// When there is nothing to be measured, with the most frequent reason.
    pub(crate) fn ensure_answers(&self) -> anyhow::Result<()> {
        let first = (&self.target, &self.totals, &self.failures);
        let second = self.second().map(|second| (&second.target, &second.totals, &second.failures));
        for (name, totals, failures) in [Some(first), second].into_iter().flatten() {
            let why = failures.all().first().map_or_else(String::new, |(why, _)| format!(": {why}"));
            let counts = &totals.counts;
            ensure!(counts.asked() > 0 || counts.send_errors == 0, "nothing could be sent to {name}");
            ensure!(counts.answered > 0, "no answer from {name}{why}");
        }
        Ok(())
    }
}

/// Returns the seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    machine::unix_time().as_secs()
}

/// Returns the nanoseconds since 1970.
pub(crate) fn unix_time_ns() -> u64 {
    machine::unix_time().as_nanos() as u64
}

/// Makes sure, before a run, that its report can be written behind it, and not over what is read: what that is,
/// and where.
///
/// # Errors
/// When it cannot.
pub(crate) fn check(options: &ReportOptions, inputs: &[(&str, &Path)]) -> anyhow::Result<()> {
    // Where a path leads that is not there yet.
    let place = |path: &Path| {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        (directory.unwrap_or(Path::new(".")).canonicalize().ok(), path.file_name().map(ToOwned::to_owned))
    };
    let is_same = |a: &Path, b: &Path| match (a.metadata(), b.metadata()) {
        // A terminal or /dev/null may be several things at once.
        (Ok(a), Ok(b)) => !a.file_type().is_char_device() && (a.dev(), a.ino()) == (b.dev(), b.ino()),
        (Err(_), Err(_)) => place(a) == place(b),
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    };
    if let (Some(page), Some(hdr)) = (&options.page, &options.hdr) {
        ensure!(!is_same(page, hdr), "--report and --hdr are one file: {}", Printable(page.display()));
    }
    if let Some(path) = &options.page {
        let Some(form) = Form::of(path) else {
            bail!(
                "--report {}: a report is a page, whose name ends with .html, or a plot, whose name ends with \
                 .svg or .png",
                Printable(path.display())
            );
        };
        if form == Form::Png {
            raster::check().with_context(|| format!("--report {}", Printable(path.display())))?;
        }
    }
    for (option, path) in [("--report", &options.page), ("--hdr", &options.hdr)] {
        if let Some(path) = path {
            if let Some((what, _)) = inputs.iter().find(|(_, from)| is_same(opened(from), path)) {
                bail!("{option} {}: that is {what}", Printable(path.display()));
            }
            check_file(path).with_context(|| format!("{option} {}", Printable(path.display())))?;
        }
    }
    Ok(())
}

/// Returns what is opened where this is to be read.
fn opened(path: &Path) -> &Path {
    if path == Path::new("-") { Path::new(STDIN) } else { path }
}

fn check_file(path: &Path) -> io::Result<()> {
    // Opening a pipe waits for its reader.
    if path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        return Ok(());
    }
    let mut open = fs::OpenOptions::new();
    open.write(true);
    // An earlier report stays until there is another.
    if path.exists() {
        open.open(path).map(drop)
    } else {
        open.create_new(true).open(path).and_then(|_| fs::remove_file(path))
    }
}

/// Names the log of histograms in what went wrong with it.
///
/// # Errors
/// What went wrong.
pub(crate) fn logged(ended: io::Result<()>, options: &ReportOptions) -> anyhow::Result<()> {
    let path = options.hdr.as_deref().unwrap_or(Path::new(""));
    ended.with_context(|| format!("--hdr {}", Printable(path.display())))
}

/// Prints text on standard output. Whoever reads it may be gone, as `head` is.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints a report, and writes its page.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn publish(report: &Report, options: &ReportOptions) -> anyhow::Result<()> {
    let machine = Machine::read();
    let printed = if options.json { as_json(report, &machine) } else { as_text(report, &machine) };
    // What cannot be written takes nothing of the rest away.
    let shown = print(&printed);
    write(options, || as_page(report, &machine), || as_picture(report))?;
    shown
}

/// Writes the file of `--report`, if there is to be one, in the form that its name tells.
fn write(
    options: &ReportOptions,
    page: impl FnOnce() -> String,
    picture: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    let Some(path) = &options.page else { return Ok(()) };
    let drawn = match Form::of(path).unwrap_or(Form::Page) {
        Form::Page => Ok(page().into_bytes()),
        Form::Svg => Ok(picture().into_bytes()),
        Form::Png => raster::png(&picture()),
    };
    let written = drawn.and_then(|drawn| Ok(fs::write(path, drawn)?));
    written.with_context(|| path.display().to_string())
}

/// What is read where a path is `-`.
const STDIN: &str = "/dev/stdin";

/// What a report is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Page,
    /// The plot of latencies alone.
    Svg,
    /// The same in points.
    Png,
}

impl Form {
    /// Returns the form that a file's name tells; a page where it has no end, nothing if its end is of
    /// another kind.
    fn of(path: &Path) -> Option<Self> {
        let Some(end) = path.extension() else { return Some(Self::Page) };
        [("html", Self::Page), ("htm", Self::Page), ("svg", Self::Svg), ("png", Self::Png)]
            .into_iter()
            .find_map(|(known, form)| end.eq_ignore_ascii_case(known).then_some(form))
    }
}

fn as_picture(report: &Report) -> String {
    let title = format!("{} {}: {}", report.tool, report.target, report.load);
    let mut lines = vec![("from the intended time", "a", &report.totals.latency)];
    match report.second() {
        Some(second) => {
            let target = second.target.as_str();
            lines = vec![(report.target.as_str(), "a", lines[0].2), (target, "b", &second.totals.latency)];
        }
        None => lines.push(("from the true time of sending", "b", &report.totals.naive)),
    }
    plot::picture(&title, &lines)
}

fn as_text(report: &Report, machine: &Machine) -> String {
    let more = report.replayed.as_ref().map(replay::text).unwrap_or_default();
    text::text(report, machine, &more)
}

fn as_json(report: &Report, machine: &Machine) -> String {
    json::json(report, machine, report.replayed.as_ref().map(replay::json))
}

fn as_page(report: &Report, machine: &Machine) -> String {
    let more = report.replayed.as_ref().map(|replayed| replay::page(report, replayed)).unwrap_or_default();
    page::page(report, machine, &as_text(report, machine), &more)
}

/// A report for tests.
#[cfg(test)]
pub(crate) fn example() -> (Report, Machine) {
    let mut totals = Totals::new();
    for second in 0..5 {
        let mut interval = crate::tools::load::tally::Interval::new(second);
        for n in 0..1_000_u64 {
            interval.counts.sent += 1;
            interval.counts.answered += 1;
            interval.counts.codes[0] += 1;
            interval.latency.record(100_000 + n * n * 50);
            interval.naive.record(100_000 + n * 50);
            interval.lag.record(n * 10);
        }
        interval.counts.timed_out = 3;
        interval.counts.sent += 3;
        totals.add(&interval, Some(1_003));
    }
    totals.seconds = 5.0;
    let report = Report {
        tool: "dnslob bench",
        target: "127.0.0.1:5300".to_owned(),
        transport: "udp",
        load: "1,003 queries per second, open loop".to_owned(),
        threads: 1,
        begun: 1_700_000_000,
        rate_wanted: Some(1_003),
        interrupted: false,
        totals,
        ramp: None,
        failed: Vec::new(),
        failures: Failures::default(),
        notes: Vec::new(),
        replayed: None,
    };
    let machine = Machine {
        cpu: "A <CPU> & more".to_owned(),
        cpus: 2,
        kernel: "6.1".to_owned(),
        memory_mb: 4_096,
        command: "dnslob bench '<b>'".to_owned(),
        version: "0.1.0",
    };
    (report, machine)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn what_cannot_be_written_is_told_before_the_run() {
        let directory = std::env::temp_dir().join(format!("dnslob-report-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let path = |name: &str| directory.join(name);
        fs::write(path("capture"), "packets").expect("a file");
        let capture = path("capture");
        let inputs = [("the list of names", Path::new("-")), ("the capture", capture.as_path())];
        let check = |page: Option<PathBuf>, hdr: Option<PathBuf>| {
            let options = ReportOptions { page, hdr, ..ReportOptions::default() };
            check(&options, &inputs).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(check(Some(path("a")), Some(path("b"))), Ok(()));
        assert!(!path("a").exists() && !path("b").exists(), "nothing is left");
        for wrong in [path("none/x"), directory.clone(), path("capture")] {
            for (option, error) in
                [("--report", check(Some(wrong.clone()), None)), ("--hdr", check(None, Some(wrong.clone())))]
            {
                let error = error.expect_err("not to be written");
                assert!(error.starts_with(&format!("{option} {}: ", wrong.display())), "{error}");
            }
        }
        assert!(check(Some(path("a")), Some(path("a"))).is_err(), "one file for both");
        for other in ["a.jpg", "a.PDF", "a.json", "a.html.gz"] {
            let error = check(Some(path(other)), None).expect_err("no form of this kind");
            assert!(error.ends_with(".html, or a plot, whose name ends with .svg or .png"), "{error}");
        }
        assert_eq!(check(Some(path("A.HTM")), None), Ok(()));
        let error = check(Some(capture.clone()), None).expect_err("it is read");
        assert!(error.ends_with(": that is the capture"), "{error}");
        assert_eq!((check(Some(path("a.svg")), None), check(Some(path("a.html")), None)), (Ok(()), Ok(())));
        assert_eq!(fs::read(path("capture")).expect("the file"), b"packets");
        let pipe = path("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        assert_eq!(check(Some(pipe.clone()), None), Ok(()), "and is not waited for");
        assert!(check(Some(pipe.clone()), Some(pipe.clone())).is_err(), "one pipe for both");
        let options = ReportOptions { page: Some(pipe.clone()), ..ReportOptions::default() };
        assert!(super::check(&options, &[("it", &pipe)]).is_err(), "it is read, too");
        let detour = directory.join("..").join(directory.file_name().expect("a name")).join("a");
        assert!(check(Some(path("a")), Some(detour)).is_err(), "another way to one file");
        let null = PathBuf::from("/dev/null");
        assert_eq!(check(Some(null.clone()), Some(null)), Ok(()));
        fs::remove_dir_all(directory).expect("it is there");
    }
}
