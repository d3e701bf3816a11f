//! The secrets of sessions in a file, so that a capture of their packets can be read: for
//! debugging, and only when a configuration asks for it.
//!
//! Whoever reads the file reads the sessions: it is its owner's alone, and no link to another.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls::KeyLog;

use super::error::{Fault, TlsError};

/// The key logs that are open. A reload, which has fewer rights than the start, may not be able to
/// open one again: it goes on with that of the same path.
static OPEN: Mutex<Vec<(PathBuf, Weak<KeyLogFile>)>> = Mutex::new(Vec::new());

/// A key log in the format that Wireshark reads; lines are added at the end.
#[derive(Debug)]
pub(super) struct KeyLogFile {
    // Handshakes of several shards write whole lines in turn.
    file: Mutex<File>,
}

impl KeyLogFile {
    /// Opens the file, which nobody but its owner may read.
    pub(super) fn open(path: &Path) -> Result<Arc<dyn KeyLog>, TlsError> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        Self::keep(path, options.open(path)).map(|file| file as _)
    }

    /// The file that was opened, or the one that is open already where we may not.
    fn keep(path: &Path, opened: io::Result<File>) -> Result<Arc<Self>, TlsError> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, file)| file.strong_count() > 0);
        let file = match opened {
            Ok(file) => file,
            Err(e) => {
                let known = open.iter().rev().filter(|(known, _)| known == path);
                let known = known.filter_map(|(_, file)| file.upgrade()).next();
                return match known.filter(|_| e.kind() == ErrorKind::PermissionDenied) {
                    Some(known) => Ok(known),
                    None if e.raw_os_error() == Some(libc::ELOOP) => Err(Fault::Link.of(path)),
                    None => Err(Fault::Unwritable(e.to_string()).of(path)),
                };
            }
        };
        let mode =
            file.metadata().map_err(|e| Fault::Unwritable(e.to_string()).of(path))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Fault::OpenToOthers(mode & 0o777).of(path));
        }
        let file = Arc::new(Self { file: Mutex::new(file) });
        open.push((path.to_owned(), Arc::downgrade(&file)));
        Ok(file)
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = format!("{label} ");
        hex(&mut line, client_random);
        line.push(' ');
        hex(&mut line, secret);
        line.push('\n');
        // A full disk must not end the session; whoever reads the log sees that it is short.
        if let Ok(mut file) = self.file.lock() {
            let _ = file.write_all(line.as_bytes());
        }
    }
}

fn hex(line: &mut String, octets: &[u8]) {
    for octet in octets {
        // Writing to a String cannot fail.
        let _ = write!(line, "{octet:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Directory;
    use super::*;

    fn why(path: &Path) -> String {
        KeyLogFile::open(path).expect_err("an error").to_string()
    }

    #[test]
    fn a_file_that_others_may_read_and_a_link_are_refused() {
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
        KeyLogFile::open(&file).expect("its owner's alone");
        let link = directory.path("link");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        assert!(why(&link).ends_with("link: is a symbolic link, which is not followed"), "{}", why(&link));
        let new = directory.path("new");
        KeyLogFile::open(&new).expect("a new one");
        assert_eq!(std::fs::metadata(&new).expect("a file").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn who_may_not_open_a_file_again_goes_on_with_the_open_one() {
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
}
