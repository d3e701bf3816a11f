//! How far a run is: a bar on a terminal, a line a second elsewhere. Always on standard error, so that
//! standard output has the report only.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::tools::load::totals::Row;
use crate::tools::report::text::{grouped, latency};

/// The display.
#[derive(Debug)]
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Starts it for a run of so many seconds.
    pub(crate) fn start(seconds: u64) -> Self {
        if !shows_bars() {
            return Self(None);
        }
        let bar = ProgressBar::new(seconds.max(1));
        if let Ok(style) = ProgressStyle::with_template("{bar:10} {pos}/{len} s, {eta} left  {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Self(Some(bar))
    }

    /// Starts it for so many bytes, or for an unknown number.
    pub(crate) fn of_bytes(bytes: Option<u64>) -> Self {
        if !shows_bars() {
            return Self(None);
        }
        let (bar, template) = match bytes {
            Some(bytes) => (ProgressBar::new(bytes.max(1)), "{bar:10} {percent} %, {eta} left  {wide_msg}"),
            None => (ProgressBar::no_length(), "{spinner} {elapsed}  {wide_msg}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(Some(bar))
    }

    /// Moves the bar to a place of so many, in any unit; the end may still be a guess.
    pub(crate) fn reach(&self, done: u64, of: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(of.max(1));
            bar.set_position(done.min(of));
        }
    }

    /// Shows a second of a target, whose name may be empty, wherever the bar is.
    pub(crate) fn show_second(&self, target: &str, row: &Row) {
        let space = if target.is_empty() { "" } else { ": " };
        match &self.0 {
            Some(bar) => bar.set_message(format!("{target}{space}{}", short_line(row, ""))),
            None => drop(writeln!(io::stderr(), "{:>4} s  {target}{space}{}", row.second + 1, line(row, ""))),
        }
    }

    /// Shows how many bytes are done.
    pub(crate) fn show_bytes(&self, done: u64, text: String) {
        match &self.0 {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(text);
                bar.tick();
            }
            None => drop(writeln!(io::stderr(), "{text}")),
        }
    }

    /// Shows a second.
    pub(crate) fn show(&self, row: &Row, note: &str) {
        match &self.0 {
            Some(bar) => {
                // Answers may come behind the end.
                bar.set_position((row.second + 1).min(bar.length().unwrap_or(u64::MAX)));
                bar.set_message(short_line(row, note));
            }
            // Whoever reads it may be gone.
            None => drop(writeln!(io::stderr(), "{:>4} s  {}", row.second + 1, line(row, note))),
        }
    }

    /// Says something in between.
    pub(crate) fn say(&self, text: &str) {
        match &self.0 {
            Some(bar) => bar.println(text),
            None => drop(writeln!(io::stderr(), "{text}")),
        }
    }

    /// Removes the bar.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Returns whether standard error is a terminal that can go back to the begin of a line.
fn shows_bars() -> bool {
    io::stderr().is_terminal() && !matches!(std::env::var("TERM").as_deref(), Ok("dumb") | Err(_))
}

/// Returns a latency of a second for people.
fn of_second(row: &Row, ns: u64) -> String {
    latency((row.answered > 0).then_some(ns))
}

/// Writes what fits a terminal of 80 columns beside a bar.
fn short_line(row: &Row, note: &str) -> String {
    format!(
        "answered {}, lost {}, wrong {}, p99 {} ms{note}",
        grouped(row.answered),
        grouped(row.lost),
        grouped(row.wrong),
        of_second(row, row.p99_ns),
    )
}

fn line(row: &Row, note: &str) -> String {
    let wanted = row.wanted.map_or_else(String::new, |wanted| format!(" of {}", grouped(wanted)));
    format!(
        "sent {}{wanted}, answered {}, lost {}, wrong {}, p50 {} ms, p99 {} ms{note}",
        grouped(row.sent),
        grouped(row.answered),
        grouped(row.lost),
        grouped(row.wrong),
        of_second(row, row.p50_ns),
        of_second(row, row.p99_ns),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_where_the_run_is() {
        let bar = ProgressBar::hidden();
        let progress = Progress(Some(bar.clone()));
        progress.reach(2_000, 6_000);
        assert_eq!((bar.position(), bar.length()), (2_000, Some(6_000)));
        // The end was guessed, and is not beyond what is known.
        progress.reach(3_000, 2_500);
        assert_eq!((bar.position(), bar.length()), (2_500, Some(2_500)));
        progress.show_second("second", &Row::default());
        assert_eq!(
            (bar.position(), bar.message().as_str()),
            (2_500, "second: answered 0, lost 0, wrong 0, p99 - ms")
        );
    }

    #[test]
    fn a_second_is_one_line() {
        let row = Row {
            second: 3,
            wanted: Some(50_000),
            sent: 49_990,
            answered: 49_000,
            lost: 12,
            p50_ns: 120_400,
            p99_ns: 2_000_000,
            ..Row::default()
        };
        assert_eq!(
            line(&row, ""),
            "sent 49,990 of 50,000, answered 49,000, lost 12, wrong 0, p50 0.120 ms, p99 2.000 ms"
        );
        let short = short_line(&row, "");
        assert_eq!(short, "answered 49,000, lost 12, wrong 0, p99 2.000 ms");
        assert!("██████████ 100/100 s, 100s left  ".chars().count() + short.len() <= 80, "beside its bar");
        assert_eq!(
            line(&Row::default(), "; x"),
            "sent 0, answered 0, lost 0, wrong 0, p50 - ms, p99 - ms; x"
        );
    }
}
