//! Session secrets in a file, so that captured packets can be decrypted: for debugging, and only
//! when configured.
//!
//! Whoever reads the file can read the sessions: it is private to its owner, and no symbolic link
//! is followed.
//!
//! Handshakes queue their lines and continue, since a disk may be slow; [`write()`] writes them.

#![expect(clippy::disallowed_types, reason = "the secrets of all connections go to one file")]

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustls::KeyLog;

use crate::tls::error::{Fault, TlsError};

/// Most queued lines per file: 0.8 MB. A handshake has five.
const LINES_MAX: usize = 4_096;

/// The open key logs. A reload has fewer privileges than the start and may not be able to open one
/// again: it keeps using the open one with the same path.
static OPEN: Mutex<Vec<(PathBuf, Arc<KeyLogFile>)>> = Mutex::new(Vec::new());
/// Lines that were not written.
static LOST: AtomicU64 = AtomicU64::new(0);

/// A key log in Wireshark's format; lines are appended.
#[derive(Debug)]
pub(super) struct KeyLogFile {
    file: File,
    lines: Sender<Box<str>>,
    waiting: Receiver<Box<str>>,
    /// The last line was not written, or not completely.
    partial: AtomicBool,
}

/// Writes the queued lines of all key logs; may take as long as the disks. Called by one thread.
pub fn write() {
    // The lock is not held while writing: a reload may look for an open file.
    let open: Vec<_> = {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, log)| log.is_used());
        open.iter().map(|(_, log)| Arc::clone(log)).collect()
    };
    open.iter().for_each(|log| log.write());
}

/// Returns the number of key log lines that were lost.
#[must_use]
pub fn lost() -> u64 {
    LOST.load(Relaxed)
}

impl KeyLogFile {
    /// Opens the file, private to its owner.
    pub(super) fn open(path: &Path) -> Result<Arc<dyn KeyLog>, TlsError> {
        let mut options = OpenOptions::new();
        // Does not wait for the reader of a pipe.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        options.append(true).create(true).mode(0o600).custom_flags(flags);
        Self::keep(path, options.open(path)).map(|file| file as _)
    }

    /// Returns the opened file, or the one that is already open where permission is denied.
    fn keep(path: &Path, opened: io::Result<File>) -> Result<Arc<Self>, TlsError> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, log)| log.is_used());
        let file = match opened {
            Ok(file) => file,
            Err(e) => {
                let known = open.iter().rev().find(|(known, _)| known == path);
                return match known
                    .map(|(_, log)| Arc::clone(log))
                    .filter(|_| e.kind() == ErrorKind::PermissionDenied)
                {
                    Some(known) => Ok(known),
                    None if e.raw_os_error() == Some(libc::ELOOP) => Err(Fault::SymbolicLink.of(path)),
                    None => Err(Fault::Unwritable(e.to_string()).of(path)),
                };
            }
        };
        let mode =
            file.metadata().map_err(|e| Fault::Unwritable(e.to_string()).of(path))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Fault::OpenToOthers(mode & 0o777).of(path));
        }
        let (lines, waiting) = bounded(LINES_MAX);
        let log = Arc::new(Self { file, lines, waiting, partial: AtomicBool::new(false) });
        open.push((path.to_owned(), Arc::clone(&log)));
        Ok(log)
    }

    /// Returns whether a configuration uses it, or lines are queued.
    fn is_used(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1 || !self.waiting.is_empty()
    }

    /// Writes the queued lines. A full disk loses them, but ends no session.
    fn write(&self) {
        for line in self.waiting.try_iter().take(LINES_MAX) {
            let begin = if self.partial.load(Relaxed) { "\n" } else { "" };
            let written = (&self.file).write_all(format!("{begin}{line}").as_bytes());
            self.partial.store(written.is_err(), Relaxed);
            if written.is_err() {
                LOST.fetch_add(1, Relaxed);
            }
        }
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = format!("{label} ");
        hex(&mut line, client_random);
        line.push(' ');
        hex(&mut line, secret);
        line.push('\n');
        if self.lines.try_send(line.into()).is_err() {
            LOST.fetch_add(1, Relaxed);
        }
    }
}

fn hex(line: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(line, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::fixture::{Directory, alone_with_key_logs};

    fn why(path: &Path) -> String {
        KeyLogFile::open(path).expect_err("an error").to_string()
    }

    #[test]
    fn files_readable_by_others_and_symbolic_links_are_refused() {
        let directory = Directory::new();
        let file = directory.write("log", "");
        for mode in [0o644, 0o640, 0o602] {
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("a mode");
            assert!(
                why(&file).contains(&format!("log: others may use it (mode {mode:o})")),
                "{}",
                why(&file)
            );
        }
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("a mode");
        KeyLogFile::open(&file).expect("private to its owner");
        let link = directory.path("link");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        assert!(why(&link).ends_with("link: is a symbolic link, which is not followed"), "{}", why(&link));
        let new = directory.path("new");
        KeyLogFile::open(&new).expect("a new one");
        assert_eq!(std::fs::metadata(&new).expect("a file").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_open_file_is_kept_when_permission_is_denied() {
        let _alone = alone_with_key_logs();
        let directory = Directory::new();
        let path = directory.path("log");
        let denied = || Err(ErrorKind::PermissionDenied.into());
        let file = || Ok(File::create(&path).expect("a file"));
        std::fs::set_permissions(directory.write("log", ""), PermissionsExt::from_mode(0o600))
            .expect("a mode");
        assert!(KeyLogFile::keep(&path, denied()).is_err(), "nothing is open");
        let first = KeyLogFile::keep(&path, file()).expect("a log");
        let second = KeyLogFile::keep(&path, denied()).expect("the same log");
        assert!(Arc::ptr_eq(&first, &second));
        assert!(KeyLogFile::keep(&path, Err(ErrorKind::NotFound.into())).is_err());
        assert!(KeyLogFile::keep(&directory.path("other"), denied()).is_err());
        drop((first, second));
        assert!(KeyLogFile::keep(&path, denied()).is_err(), "it was closed");
    }

    #[test]
    fn a_session_never_waits_for_the_file() {
        let _alone = alone_with_key_logs();
        let directory = Directory::new();
        let path = directory.path("log");
        let log = KeyLogFile::open(&path).expect("a log");
        let before = lost();
        for _ in 0..LINES_MAX + 10 {
            log.log("CLIENT_RANDOM", &[1, 2], &[3]);
        }
        assert_eq!(lost() - before, 10, "the queue is full");
        drop(log);
        write();
        let text = std::fs::read_to_string(&path).expect("the log");
        assert_eq!(text, "CLIENT_RANDOM 0102 03\n".repeat(LINES_MAX), "including a closed log");

        let pipe = directory.path("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)
            .expect("a pipe");
        assert!(why(&pipe).contains("No such device"), "without a reader: {}", why(&pipe));
    }
}
