//! `dnslob scope`: tells what captures of DNS traffic, or an interface, show.
//!
//! ```text
//!  capture ─► events ─► analysis ─┬─► pending: which answer is whose
//!                                 ├─► seconds: rates and latencies over time
//!                                 └─► tops: frequent names and clients        ─► summary ─► report
//! ```
//! One thread does it, in one pass and in fixed memory: 60 MB for queries that may still be answered, a
//! few for lists and connections.

mod analysis;
mod pending;
mod seconds;
mod summary;
#[cfg(test)]
mod tests;
mod tops;

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::base::time::{Tick, TickDelta};
use crate::config::scope::{From, ScopeOptions};
use crate::engine::clock;
use crate::tools::bench::Outcome;
use crate::tools::capture::{Capture, CaptureError, CaptureOptions, Step};
use crate::tools::load::interrupt::Interrupt;
use crate::tools::load::progress::Progress;
use crate::tools::load::random;
use crate::tools::report::text::grouped;
use crate::tools::report::{self, findings};
use crate::tools::scope::analysis::Analysis;
use crate::tools::scope::summary::Run;

/// Packets of a file until the clock and signals are looked at,
const TURN: usize = 16_384;
/// and of a pipe or an interface, where the next packet may take its time.
const TURN_OF_SLOW: usize = 8;
/// How often it is said how far it is.
const SAY: TickDelta = TickDelta::from_ms(1_000);

/// Reads captures or an interface to the end, and prints the report.
///
/// # Errors
/// When nothing could be read, or not all, or the report cannot be written.
pub fn run(options: &ScopeOptions) -> anyhow::Result<Outcome> {
    let inputs: Vec<_> = match &options.from {
        From::Captures(paths) => paths.iter().map(|path| ("the capture", path.as_path())).collect(),
        From::Interface { .. } => Vec::new(),
    };
    report::check(&options.report, &inputs)?;
    let mut interrupt = Interrupt::take().context("signals")?;
    let mut rng = random::seeded(None).context("random numbers")?;
    let capture_options =
        CaptureOptions { ports: options.ports.clone(), seed: rng.u64(), ..CaptureOptions::default() };
    let (mut capture, until) = match &options.from {
        From::Captures(paths) => (Capture::open(paths, &capture_options)?, None),
        From::Interface { name, duration } => {
            let capture = Capture::live(name, &capture_options)?;
            (capture, duration.map(|duration| clock::now() + duration))
        }
    };
    let hdr = options.report.hdr.clone();
    let mut analysis = Analysis::new(&options.only, options.timeout.0, rng.u64(), hdr);
    let (errors, interrupted) = follow(&mut capture, &mut analysis, &mut interrupt, until);
    if let From::Interface { .. } = &options.from {
        // What was asked before it became quiet may be overdue.
        analysis.end_of_look(report::unix_time_ns());
    }
    analysis.end();
    let run = Run { capture: &capture, analysis, errors: &errors, interrupted, timeout: options.timeout };
    let (findings, logged) = run.findings(options);
    findings::publish(&findings, &options.report)?;
    report::logged(logged, &options.report)?;
    if !findings.failed.is_empty() {
        return Ok(Outcome::Failed);
    }
    // Each was said when it came.
    ensure!(errors.is_empty(), "the report is of what could be read");
    let is_live = matches!(options.from, From::Interface { .. });
    let messages = capture.counts().queries + capture.counts().responses;
    ensure!(
        is_live || messages > 0,
        "no DNS message in the capture: see \"left out\", and the option --ports"
    );
    Ok(Outcome::Measured)
}

/// Reads until the end, a signal or this time. Returns what could not be read, and whether a signal came.
fn follow(
    capture: &mut Capture,
    analysis: &mut Analysis,
    interrupt: &mut Interrupt,
    until: Option<Tick>,
) -> (Vec<CaptureError>, bool) {
    let (mut errors, mut said) = (Vec::new(), clock::now());
    let length = capture.position().1;
    let progress = Progress::of_bytes(length);
    let turn = if length.is_some() { TURN } else { TURN_OF_SLOW };
    let mut visit = |event: crate::tools::capture::Event<'_>| analysis.event(&event);
    let interrupted = loop {
        let mut is_end = false;
        for _ in 0..turn {
            match capture.step(&mut visit) {
                Ok(Step::More) => {}
                Ok(Step::Idle) => break,
                Ok(Step::End) => {
                    is_end = true;
                    break;
                }
                Err(error) => {
                    progress.say(&error.to_string());
                    errors.push(error);
                    break;
                }
            }
        }
        let now = clock::now();
        if now.since(said) >= SAY {
            said = now;
            let counts = capture.counts();
            let messages = counts.queries + counts.responses;
            let text = format!("{} packets, {} messages", grouped(counts.packets), grouped(messages));
            progress.show_bytes(capture.position().0, text);
        }
        if is_end || until.is_some_and(|until| now >= until) {
            break false;
        }
        if interrupt.wait(Duration::ZERO) {
            break true;
        }
    };
    capture.end(&mut visit);
    progress.end();
    (errors, interrupted)
}
