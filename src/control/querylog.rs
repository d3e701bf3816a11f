//! Writes what log actions have to say: to files, or to the program's own log.
//!
//! A shard files a line and goes on; the control thread comes by several times a second. Files
//! are opened at their first line, and anew after a reload, so that they can be moved away first.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::live::Board;
use crate::shard::journal::{Line, Passed};
use crate::shard::rules::action::LogTarget;
use crate::wire::codes::type_name;
use crate::wire::header::QR;
use crate::wire::name;

/// The files that are open, by path.
#[derive(Debug, Default)]
pub struct QueryLog {
    /// None: it could not be opened, which has been said.
    open: BTreeMap<String, Option<BufWriter<File>>>,
    /// Opened before: what is in them is ours, and is kept.
    before: Vec<String>,
}

impl QueryLog {
    /// Writes all lines that wait.
    pub fn write(&mut self, board: &Board, verbose: bool) {
        let mut flush = false;
        for passed in board.shards().iter().flat_map(|s| s.journal.passed()) {
            tracing::info!("{}", passage(&passed));
        }
        for line in board.shards().iter().flat_map(|s| s.journal.lines()) {
            flush |= !line.target.buffered;
            self.line(&line, verbose);
        }
        if flush {
            self.flush();
        }
    }

    /// Closes every file; each is opened again at its next line.
    pub fn reopen(&mut self) {
        self.flush();
        self.before.extend(std::mem::take(&mut self.open).into_keys());
        self.before.sort_unstable();
        self.before.dedup();
    }

    /// Writes out what is buffered.
    pub fn flush(&mut self) {
        for (path, file) in &mut self.open {
            if let Some(Err(e)) = file.as_mut().map(Write::flush) {
                tracing::error!("query log \"{path}\": {e}");
                *file = None;
            }
        }
    }

    fn line(&mut self, line: &Line, verbose: bool) {
        if line.target.verbose_only && line.target.path.is_empty() && !verbose {
            return;
        }
        if line.target.path.is_empty() {
            tracing::info!("{}", text(line, None));
            return;
        }
        let kept = self.before.contains(&line.target.path);
        let file = self.open.entry(line.target.path.clone()).or_insert_with(|| {
            open(&line.target, kept)
                .inspect_err(|e| {
                    tracing::error!("query log \"{}\": {e}", line.target.path);
                })
                .ok()
                .map(BufWriter::new)
        });
        let Some(writer) = file else { return };
        let at = line.target.timestamp.then(SystemTime::now);
        let written = if line.target.binary {
            writer.write_all(&binary(line))
        } else {
            writeln!(writer, "{}", text(line, at))
        };
        if let Err(e) = written {
            tracing::error!("query log \"{}\": {e}; closed until the next reload", line.target.path);
            *file = None;
        }
    }
}

impl Drop for QueryLog {
    fn drop(&mut self) {
        self.flush();
    }
}

fn open(target: &LogTarget, kept: bool) -> io::Result<File> {
    let append = target.append || kept;
    OpenOptions::new().create(true).write(true).append(append).truncate(!append).open(&target.path)
}

/// One line for people.
fn text(line: &Line, at: Option<SystemTime>) -> String {
    let mut out = String::new();
    if let Some(since) = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()) {
        let _ = write!(out, "[{}.{:03}] ", since.as_secs(), since.subsec_millis());
    }
    let (qname, qtype) = (name::Text(line.qname.octets()), type_name(line.qtype));
    let _ = match line.latency {
        Some(latency) if line.flags[0] & QR != 0 => write!(
            out,
            "Answer to {} for {qname} {qtype} (rcode {}) in {} us with id {}",
            line.client,
            line.flags[1] & 0x0f,
            latency.0 / 1_000,
            line.id
        ),
        _ => write!(out, "Packet from {} for {qname} {qtype} with id {}", line.client, line.id),
    };
    out
}

/// What is said of a forward's connection or flow.
fn passage(passed: &Passed) -> String {
    let kind = if passed.tcp { "connection" } else { "flow" };
    let mut out = format!("{kind} {} -> {}", passed.client, passed.listener);
    for (address, why) in &passed.tried {
        let _ = write!(out, ", {} {address}", why.label());
    }
    if let Some(target) = passed.target {
        let _ = write!(out, ", to {target}");
    }
    let ms = passed.lasted.0 / 1_000_000;
    let [onward, back] = passed.octets;
    let _ = write!(
        out,
        ": {onward} octets there, {back} back, {}.{:03} s, ended by {}",
        ms / 1_000,
        ms % 1_000,
        passed.why.label()
    );
    out
}

/// One line for programs, numbers in network order: id (2 octets), name (wire format), type (2),
/// the client's address (16, IPv4 mapped) and port (2).
fn binary(line: &Line) -> Vec<u8> {
    let mut out = line.id.to_be_bytes().to_vec();
    out.extend_from_slice(line.qname.octets());
    out.extend_from_slice(&line.qtype.to_be_bytes());
    out.extend_from_slice(&line.client.ip);
    out.extend_from_slice(&line.client.port.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Endpoint;
    use crate::shard::journal::Name;
    use std::sync::Arc;

    fn target(path: &str) -> LogTarget {
        LogTarget {
            path: path.to_owned(),
            binary: false,
            append: false,
            buffered: false,
            verbose_only: true,
            timestamp: false,
        }
    }

    fn line(target: LogTarget, id: u16) -> Line {
        let client: std::net::SocketAddr = "192.0.2.1:5353".parse().expect("an address");
        Line {
            target: Arc::new(target),
            client: Endpoint::from(client),
            id,
            qtype: 1,
            qclass: 1,
            flags: [1, 0],
            size: 40,
            latency: None,
            qname: Name::new(b"\x03www\x04test\0"),
        }
    }

    #[test]
    fn a_file_is_begun_anew_once_and_kept_over_a_reload() {
        let path = std::env::temp_dir().join(format!("dnslob-querylog-{}", std::process::id()));
        std::fs::write(&path, "old\n").expect("a file");
        let name = path.display().to_string();
        let board = Board::new(1, 1);
        let mut log = QueryLog::default();
        for id in [1, 2] {
            assert!(board.shards()[0].journal.file(line(target(&name), id)));
            log.write(&board, false);
            log.reopen();
        }
        let text = std::fs::read_to_string(&path).expect("the file");
        std::fs::remove_file(&path).expect("to remove it");
        assert_eq!(
            text,
            "Packet from 192.0.2.1:5353 for www.test. A with id 1\n\
             Packet from 192.0.2.1:5353 for www.test. A with id 2\n"
        );
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_said_once_and_harms_nothing() {
        let mut log = QueryLog::default();
        for id in [1, 2] {
            log.line(&line(target("/nonexistent/log"), id), false);
        }
        assert_eq!(log.open.len(), 1);
    }

    #[test]
    fn a_binary_line_can_be_read_back() {
        let octets = binary(&line(target("x"), 0x1234));
        assert_eq!(octets[..2], [0x12, 0x34]);
        assert_eq!(octets.len(), 2 + 10 + 2 + 16 + 2);
        assert_eq!(octets[octets.len() - 2..], 5353_u16.to_be_bytes());
    }
}
