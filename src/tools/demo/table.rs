//! The demo's display: a table that is redrawn on a terminal, plain lines elsewhere.
//!
//! It is less than 80 columns wide, because the last column would be erased with the rest of its
//! line. On a narrower terminal lines are truncated rather than wrapped, so that redrawing always
//! finds the first line. Colour adds no information.

use std::fmt::Write;
use std::io::{self, IsTerminal};

use crate::stats::live::State;
use crate::tools::report::text::grouped;

/// Most backends shown; more would not fit 24 lines.
const ROWS_MAX: usize = 9;
/// Most lines of events below the table.
const NEWS_MAX: usize = 4;
/// Cells of a bar.
const BAR: usize = 8;

/// The recent activity of one backend, or of all.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// Its name.
    pub(crate) name: String,
    /// The state; `None` for all.
    pub(crate) standing: Option<Standing>,
    /// Part of all queries, 0 to 1.
    pub(crate) share: f64,
    /// Queries per second.
    pub(crate) rate: f64,
    /// Outstanding queries.
    pub(crate) outstanding: u64,
    /// p50, p90, p99, p99.9, nanoseconds; `None` without an answer.
    pub(crate) latency: Option<[u64; 4]>,
    /// Cache hit rate, 0 to 1; `None` without an answer.
    pub(crate) hits: Option<f64>,
}

/// The state of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The state as the balancer sees it.
    pub(crate) state: State,
    /// Its share is still growing.
    pub(crate) warming: bool,
    /// It has stopped answering, whether or not the balancer knows.
    pub(crate) silent: bool,
}

/// All that is shown at a point in time.
#[derive(Clone, Debug)]
pub(crate) struct Frame<'a> {
    /// The title.
    pub(crate) title: &'a str,
    /// Seconds since the start.
    pub(crate) elapsed: f64,
    /// Duration, seconds.
    pub(crate) seconds: u32,
    /// A row per backend.
    pub(crate) rows: Vec<Row>,
    /// All backends; its latency is measured at the clients.
    pub(crate) all: Row,
    /// Queries since the start: sent, answered, lost, retried.
    pub(crate) totals: [u64; 4],
    /// What happened, oldest first: seconds and text.
    pub(crate) news: &'a [(f64, String)],
}

/// The capabilities of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Screen {
    /// Redraw the table; otherwise print lines.
    pub(crate) redraw: bool,
    /// Use colour.
    pub(crate) colour: bool,
    /// Draw bars with block characters.
    pub(crate) blocks: bool,
}

impl Screen {
    /// Detects them from standard output and the environment (`NO_COLOR`, `TERM`, the locale).
    pub(crate) fn detect() -> Self {
        let set = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        let redraw = io::stdout().is_terminal() && set("TERM").is_none_or(|t| t != "dumb");
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
        let locale = locale.to_ascii_lowercase();
        Self {
            redraw,
            colour: redraw && set("NO_COLOR").is_none(),
            blocks: redraw && (locale.contains("utf-8") || locale.contains("utf8")),
        }
    }

    /// Returns a text in a colour, by its number (SGR); 0 is none.
    fn paint(self, colour: u8, text: &str) -> String {
        if self.colour && colour != 0 { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

const BOLD: u8 = 1;
const FAINT: u8 = 2;
const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const CYAN: u8 = 36;

/// Redraws tables.
#[derive(Debug)]
pub(crate) struct Table {
    screen: Screen,
    /// Lines of the last one.
    drawn: usize,
}

impl Table {
    pub(crate) const fn new(screen: Screen) -> Self {
        Self { screen, drawn: 0 }
    }

    /// Returns the text that replaces the last table by `frame`.
    pub(crate) fn draw(&mut self, frame: &Frame<'_>) -> String {
        let lines = table(self.screen, frame);
        let mut out = String::new();
        if self.drawn > 0 {
            let _ = write!(out, "\x1b[{}A", self.drawn);
        }
        // Without wrapping (DECAWM) while drawing.
        out.push_str("\x1b[?7l");
        for line in &lines {
            let _ = write!(out, "\r{line}\x1b[K\n");
        }
        out.push_str("\x1b[J\x1b[?7h");
        self.drawn = lines.len();
        out
    }
}

fn table(screen: Screen, frame: &Frame<'_>) -> Vec<String> {
    let clock = format!("{:.1} / {} s", frame.elapsed, frame.seconds);
    let title = screen.paint(BOLD, "dnslob demo");
    let rest = 79_usize.saturating_sub(" dnslob demo".len() + 2 + frame.title.chars().count());
    let mut lines = vec![
        String::new(),
        format!(" {title}  {}{clock:>rest$}", frame.title),
        String::new(),
        screen.paint(FAINT, &format!("{:>72}", "latency, ms")),
        screen.paint(
            FAINT,
            &format!(
                " {:<5}{:<8}{:<15}{:>8}{:>7}{:>7}{:>7}{:>7}{:>7}{:>7}",
                "", "state", "share", "q/s", "out", "p50", "p90", "p99", "p99.9", "hits"
            ),
        ),
    ];
    let most = frame.rows.iter().map(|r| r.share).fold(0.0, f64::max);
    lines.extend(frame.rows.iter().take(ROWS_MAX).map(|r| row(screen, r, r.share / most.max(1e-9))));
    if let Some(more) = frame.rows.len().checked_sub(ROWS_MAX).filter(|n| *n > 0) {
        lines.push(screen.paint(FAINT, &format!(" and {more} more")));
    }
    lines.push(row(screen, &frame.all, 0.0));
    lines.push(String::new());
    let [sent, answered, lost, twice] = frame.totals.map(grouped);
    let red = if frame.totals[2] > 0 { RED } else { 0 };
    let lost = screen.paint(red, &format!("lost {lost}"));
    lines.push(format!(" sent {sent}   answered {answered}   {lost}   retried {twice}"));
    lines.push(String::new());
    let old = frame.news.len().saturating_sub(NEWS_MAX);
    lines.extend(frame.news[old..].iter().map(|(at, words)| {
        let at = screen.paint(FAINT, &format!("{at:>6.2} s"));
        format!(" {at}  {words}")
    }));
    lines
}

fn row(screen: Screen, row: &Row, of_most: f64) -> String {
    let (word, colour) = row.standing.map_or(("", 0), Standing::word);
    let bar = if row.standing.is_some() { bar(screen.blocks, of_most) } else { " ".repeat(BAR) };
    let mut out = format!(" {:<5}{}", row.name, screen.paint(colour, &format!("{word:<8}")));
    let _ = write!(out, "{}{:>5.1} %", screen.paint(CYAN, &bar), row.share * 100.0);
    let _ = write!(out, "{:>8}{:>7}", grouped(row.rate.round() as u64), grouped(row.outstanding));
    for at in 0..4 {
        let text = row.latency.map_or_else(|| "-".to_owned(), |l| ms(l[at]));
        let _ = write!(out, "{text:>7}");
    }
    match row.hits {
        Some(part) => {
            let _ = write!(out, "{:>5.0} %", part * 100.0);
        }
        None => out.push_str("      -"),
    }
    out
}

impl Standing {
    /// Returns one word, and its colour.
    const fn word(self) -> (&'static str, u8) {
        match (self.state, self.silent) {
            (State::Up, true) => ("silent", YELLOW),
            (State::Up, false) if self.warming => ("warming", YELLOW),
            (State::Up, false) => ("up", GREEN),
            (State::Down, _) => ("down", RED),
            (State::Draining, _) => ("drain", YELLOW),
            (State::Ejected, _) => ("ejected", YELLOW),
        }
    }
}

/// Returns a bar that fills `part` (0 to 1) of its cells, to an eighth of a cell with block
/// characters.
fn bar(blocks: bool, part: f64) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (part.clamp(0.0, 1.0) * (BAR * 8) as f64).round() as usize;
    (0..BAR)
        .map(|cell| match eighths.saturating_sub(cell * 8) {
            8.. if blocks => '█',
            rest if blocks => EIGHTHS[rest],
            4.. => '#',
            _ => ' ',
        })
        .collect()
}

/// Returns one line, where the output is no terminal.
pub(crate) fn line(frame: &Frame<'_>) -> String {
    let [_, _, lost, twice] = frame.totals;
    let mut out = format!("{:5.1} s  q/s {:.0}  lost {lost}  retried {twice}", frame.elapsed, frame.all.rate);
    if let Some([p50, p90, p99, p999]) = frame.all.latency {
        let _ = write!(out, "  p50 {} p90 {} p99 {} p99.9 {} ms", ms(p50), ms(p90), ms(p99), ms(p999));
    }
    for row in &frame.rows {
        let state = row.standing.map_or("", |s| s.word().0);
        let _ = write!(out, " | {} {state} {:.1}%", row.name, row.share * 100.0);
        if let Some([p50, ..]) = row.latency {
            let _ = write!(out, " {} ms", ms(p50));
        }
        if let Some(part) = row.hits {
            let _ = write!(out, " hits {:.0}%", part * 100.0);
        }
    }
    out
}

/// Formats nanoseconds as milliseconds, with three significant digits.
pub(crate) fn ms(ns: u64) -> String {
    let ms = ns as f64 / 1e6;
    match ms {
        0.0..10.0 => format!("{ms:.2}"),
        10.0..100.0 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(news: &[(f64, String)]) -> Frame<'_> {
        let up = Standing { state: State::Up, warming: false, silent: false };
        let row = |name: &str, standing| Row {
            name: name.into(),
            standing,
            share: 1.0,
            rate: 123_456.0,
            outstanding: 65_535,
            latency: Some([51_234, 9_999_000, 99_900_000, 1_234_000_000]),
            hits: Some(1.0),
        };
        let rows = (1..=20).map(|n| row(&format!("b{n}"), Some(up))).collect();
        Frame {
            title: "20 backends, 200,000 q/s, leastOutstanding",
            elapsed: 86_399.5,
            seconds: 86_400,
            rows,
            all: row("all", None),
            totals: [17_280_000_000, 17_279_999_999, 1, 0],
            news,
        }
    }

    #[test]
    fn the_table_fits_a_terminal() {
        let news: Vec<_> = (0..9).map(|n| (f64::from(n), "b1 is silent".to_owned())).collect();
        for blocks in [false, true] {
            let screen = Screen { redraw: true, colour: false, blocks };
            let lines = table(screen, &frame(&news));
            assert!(lines.len() < 24, "{} lines", lines.len());
            for line in lines {
                assert!(line.chars().count() < 80, "{} columns: {line:?}", line.chars().count());
            }
        }
    }

    #[test]
    fn a_table_is_redrawn_in_place() {
        let mut table = Table::new(Screen { redraw: true, colour: true, blocks: true });
        let first = table.draw(&frame(&[]));
        let height = first.matches('\n').count();
        assert!(!first.contains(&format!("\x1b[{height}A")));
        let news = [(1.0, "something".to_owned())];
        assert!(table.draw(&frame(&news)).starts_with(&format!("\x1b[{height}A")));
        assert!(table.draw(&frame(&news)).starts_with(&format!("\x1b[{}A", height + 1)));
    }

    #[test]
    fn colour_is_optional() {
        let plain = Screen { redraw: true, colour: false, blocks: false };
        assert!(table(plain, &frame(&[])).iter().all(|l| !l.contains('\x1b')));
        assert!(!line(&frame(&[])).contains('\x1b'));
    }

    #[test]
    fn numbers_are_formatted() {
        assert_eq!([51_234, 9_994_000, 12_340_000, 500_400_000].map(ms), ["0.05", "9.99", "12.3", "500"]);
        assert_eq!(bar(true, 0.5), "████    ");
        assert_eq!(bar(true, 1.0 / 64.0), "▏       ");
        assert_eq!(bar(false, 1.0), "########");
    }
}
