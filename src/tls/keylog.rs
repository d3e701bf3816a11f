//! The secrets of sessions in a file, so that a capture of their packets can be read: for
//! debugging, and only when a configuration asks for it.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::KeyLog;

use super::error::{Fault, TlsError};

/// A key log in the format that Wireshark reads; lines are added at the end.
#[derive(Debug)]
pub(super) struct KeyLogFile {
    // Handshakes of several shards write whole lines in turn.
    file: Mutex<File>,
}

impl KeyLogFile {
    /// Opens the file, which nobody but its owner may read when it is new.
    pub(super) fn open(path: &Path) -> Result<Arc<dyn KeyLog>, TlsError> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        let file = file.map_err(|e| Fault::Unwritable(e.to_string()).of(path))?;
        Ok(Arc::new(Self { file: Mutex::new(file) }))
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
