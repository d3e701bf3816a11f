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
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos}/{len} s, {eta} left  {wide_msg}") {
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
            Some(bytes) => (ProgressBar::new(bytes.max(1)), "{bar:20} {percent} %, {eta} left  {wide_msg}"),
            None => (ProgressBar::no_length(), "{spinner} {elapsed}  {wide_msg}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(Some(bar))
    }

    /// Shows a second, and how many bytes are done.
    pub(crate) fn show_second(&self, row: &Row, done: u64) {
        match &self.0 {
            Some(_) => self.show_bytes(done, line(row, "")),
            None => self.show(row, ""),
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
        let line = line(row, note);
        match &self.0 {
            Some(bar) => {
                bar.set_position(row.second + 1);
                bar.set_message(line);
            }
            // Whoever reads it may be gone.
            None => drop(writeln!(io::stderr(), "{:>4} s  {line}", row.second + 1)),
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

fn line(row: &Row, note: &str) -> String {
    let latency = |ns: u64| latency((row.answered > 0).then_some(ns));
    let wanted = row.wanted.map_or_else(String::new, |wanted| format!(" of {}", grouped(wanted)));
    format!(
        "sent {}{wanted}, answered {}, lost {}, wrong {}, p50 {} ms, p99 {} ms{note}",
        grouped(row.sent),
        grouped(row.answered),
        grouped(row.lost),
        grouped(row.wrong),
        latency(row.p50_ns),
        latency(row.p99_ns),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(
            line(&Row::default(), "; x"),
            "sent 0, answered 0, lost 0, wrong 0, p50 - ms, p99 - ms; x"
        );
    }
}
