//! Ports and directories that no other test uses.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The longest wait for a program to be ready or for an event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// The first port: ports are allocated below the kernel's ephemeral range (32768 and up).
const PORT_FIRST: u16 = 20_000;
const PORT_COUNT: u16 = 10_000;

/// Returns a loopback port that is free for UDP and TCP and not used by another test of this run.
pub(crate) fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Another run at the same time starts at a different port.
    let offset = (std::process::id() % 97) as u16 * 100;
    for _ in 0..PORT_COUNT {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORT_FIRST + (offset + n) % PORT_COUNT;
        if !is_taken(port) {
            return port;
        }
    }
    panic!("no free port from {PORT_FIRST} on");
}

/// Returns whether a socket has this port. Binding it would be no safe test: a process that another
/// test starts at that moment would inherit the socket.
fn is_taken(port: u16) -> bool {
    let local = format!(":{port:04X}");
    ["udp", "udp6", "tcp", "tcp6"].iter().any(|table| {
        let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        text.lines().any(|line| line.split_whitespace().nth(1).is_some_and(|at| at.ends_with(&local)))
    })
}

/// A temporary directory, removed with its contents when the test ends.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dnslob-test-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file atomically: readers see the old text or the new one.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        let fresh = self.0.join(format!("{name}.new"));
        std::fs::write(&fresh, text).expect("a file in the temporary directory");
        std::fs::rename(&fresh, &path).expect("its rename");
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Polls until `condition` returns a value; on timeout, panics with the text of `describe`.
pub(crate) fn wait_for<T>(describe: impl Fn() -> String, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {}", describe());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Enlarges a socket's receive buffer for the burst after a pause of the program under test.
pub(crate) fn widen(socket: &std::net::UdpSocket) {
    const BYTES: usize = 4 << 20;
    let wide = socket2::SockRef::from(socket).set_recv_buffer_size(BYTES);
    wide.expect("a receive buffer");
}
