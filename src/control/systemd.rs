//! The service manager's protocols: notices of our state, and inherited sockets.
//!
//! The protocol of sd_notify(3) is one datagram to `NOTIFY_SOCKET`; that of sd_listen_fds(3) is
//! three environment variables. Both are small enough to implement here. Without a service manager
//! everything here does nothing.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::time::Duration;

use crate::engine::sys;

/// The first descriptor that a service manager passes on (`SD_LISTEN_FDS_START`).
const FIRST_DESCRIPTOR: i32 = 3;
/// Most descriptors that are examined: a guard against a broken environment.
const DESCRIPTORS_MAX: i32 = 1024;
/// Most unsent notices that are kept; the latest count.
const WAITING_MAX: usize = 8;

/// The connection to the service manager.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// Unsent notices, oldest first: without READY=1 a start or a reload would never end for the
    /// service manager.
    waiting: RefCell<VecDeque<String>>,
}

impl Notifier {
    /// Connects to the value of `NOTIFY_SOCKET`: a path, or an abstract name after `@`. Without a
    /// value, the notifier does nothing.
    ///
    /// # Errors
    /// When there is a value but no such socket.
    /// When there is such a value but no such socket.
    pub fn connect(address: Option<&OsStr>) -> io::Result<Self> {
        let Some(address) = address.filter(|a| !a.is_empty()) else { return Ok(Self::default()) };
        let address = match address.as_bytes() {
            [b'@', name @ ..] => UnixAddr::from_abstract_name(name)?,
            _ => UnixAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // A manager that does not read must not block us.
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Some(socket), waiting: RefCell::default() })
    }

    /// Notifies that the start or a reload is complete.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// Notifies that a reload has begun, at `monotonic_us` of `CLOCK_MONOTONIC`.
    pub fn reloading(&self, monotonic_us: u64) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={monotonic_us}"));
    }

    /// Notifies that the process is stopping.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Asks for more time until the process has ended, from this moment on.
    pub fn extend(&self, time: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", time.as_micros()));
    }

    /// Notifies that all shards are alive.
    pub fn alive(&self) {
        self.retry();
        // A late one would be untrue.
        if self.waiting.borrow().is_empty() {
            self.try_send("WATCHDOG=1");
        }
    }

    /// Sends unsent notices.
    pub fn retry(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while waiting.front().is_some_and(|state| self.try_send(state)) {
            waiting.pop_front();
        }
    }

    fn send(&self, state: &str) {
        self.retry();
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.is_empty() || !self.try_send(state) {
            if waiting.len() == WAITING_MAX {
                waiting.pop_front();
            }
            waiting.push_back(state.to_owned());
        }
    }

    /// Returns whether the notice is done with: it was sent, or cannot be.
    fn try_send(&self, state: &str) -> bool {
        let Some(socket) = &self.socket else { return true };
        match socket.send(state.as_bytes()) {
            Ok(_) => true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            Err(e) => {
                tracing::debug!(error = %e, state, "cannot send a notice to the service manager");
                true
            }
        }
    }
}

/// Returns the watchdog interval, `WATCHDOG_USEC`, unless `WATCHDOG_PID` names another process.
#[must_use]
pub fn watchdog(usec: Option<&str>, for_pid: Option<&str>, pid: u32) -> Option<Duration> {
    let usec: u64 = usec?.parse().ok().filter(|u| *u > 0)?;
    let ours = for_pid.is_none_or(|p| p.parse() == Ok(pid));
    ours.then(|| Duration::from_micros(usec))
}

/// Returns the number of sockets passed to us (`LISTEN_FDS`), 0 if `LISTEN_PID` names another
/// process.
#[must_use]
pub fn socket_count(count: Option<&str>, for_pid: Option<&str>, pid: u32) -> i32 {
    let ours = for_pid.and_then(|p| p.parse().ok()) == Some(pid);
    let count = count.and_then(|c| c.parse().ok()).unwrap_or(0);
    if ours { i32::clamp(count, 0, DESCRIPTORS_MAX) } else { 0 }
}

/// Returns the bound UDP sockets and listening TCP sockets among those passed to us, each with its
/// address. Others are logged and left alone. Must be called once, before any other descriptor is
/// opened.
#[must_use]
pub fn sockets(count: i32) -> Vec<(SocketAddr, socket2::Socket)> {
    let mut out = Vec::new();
    for descriptor in FIRST_DESCRIPTOR..FIRST_DESCRIPTOR.saturating_add(count) {
        match sys::inherited_socket(descriptor).and_then(|s| Ok((usable(&s)?, s))) {
            Ok((address, socket)) => out.push((address, socket)),
            Err(e) => tracing::warn!(descriptor, error = %e, "a passed descriptor is not used"),
        }
    }
    out
}

/// Returns the address of a socket that a listener can use.
fn usable(socket: &socket2::Socket) -> io::Result<SocketAddr> {
    match socket.r#type()? {
        socket2::Type::DGRAM => {}
        socket2::Type::STREAM if socket.is_listener()? => {}
        _ => return Err(io::Error::other("neither a datagram socket nor a listening one")),
    }
    socket.set_nonblocking(true)?;
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))
}

/// The service manager's variables, read once at the start.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `NOTIFY_SOCKET`.
    pub notify: Option<OsString>,
    /// From `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub watchdog: Option<Duration>,
    /// From `LISTEN_FDS` and `LISTEN_PID`.
    pub descriptors: i32,
}

impl Environment {
    /// Reads the environment of this process.
    #[must_use]
    pub fn read() -> Self {
        let var = |name| std::env::var(name).ok();
        let pid = std::process::id();
        Self {
            notify: std::env::var_os("NOTIFY_SOCKET"),
            watchdog: watchdog(var("WATCHDOG_USEC").as_deref(), var("WATCHDOG_PID").as_deref(), pid),
            descriptors: socket_count(var("LISTEN_FDS").as_deref(), var("LISTEN_PID").as_deref(), pid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buf = [0; 256];
        let len = socket.recv(&mut buf).expect("a notice");
        String::from_utf8_lossy(&buf[..len]).into_owned()
    }

    #[test]
    fn notices_arrive_at_a_path() {
        let path = std::env::temp_dir().join(format!("dnslob-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let sockets = UnixDatagram::bind(&path).expect("a socket");
        let notifier = Notifier::connect(Some(path.as_os_str())).expect("a notifier");
        notifier.ready("serving 2 servers");
        assert_eq!(received(&sockets), "READY=1\nSTATUS=serving 2 servers");
        notifier.reloading(17);
        assert_eq!(received(&sockets), "RELOADING=1\nMONOTONIC_USEC=17");
        notifier.alive();
        assert_eq!(received(&sockets), "WATCHDOG=1");
        std::fs::remove_file(&path).expect("cleaned up");
    }

    #[test]
    fn a_slow_manager_gets_its_notices_later_and_never_blocks_us() {
        let name = format!("dnslob-notify-full-{}", std::process::id());
        let name = UnixAddr::from_abstract_name(&name).expect("a name");
        let sockets = UnixDatagram::bind_addr(&name).expect("a socket");
        let notifier =
            Notifier { socket: Some(UnixDatagram::unbound().expect("a socket")), ..Notifier::default() };
        let socket = notifier.socket.as_ref().expect("a socket");
        socket.connect_addr(&name).expect("a connection");
        socket.set_nonblocking(true).expect("a flag");
        let mut full = 0;
        while socket.send(b"x").is_ok() {
            full += 1;
        }
        notifier.reloading(17);
        notifier.alive();
        (0..2 * WAITING_MAX).for_each(|n| notifier.ready(&n.to_string()));
        for _ in 0..full {
            assert_eq!(received(&sockets), "x");
        }
        notifier.retry();
        sockets.set_nonblocking(true).expect("a flag");
        let mut buf = [0; 256];
        let mut last = String::new();
        for _ in 0..WAITING_MAX {
            if let Ok(len) = sockets.recv(&mut buf) {
                last = String::from_utf8_lossy(&buf[..len]).into_owned();
            }
            notifier.retry();
        }
        assert_eq!(last, format!("READY=1\nSTATUS={}", 2 * WAITING_MAX - 1));
        notifier.alive();
        assert_eq!(received(&sockets), "WATCHDOG=1");
    }

    #[test]
    fn notices_arrive_at_an_abstract_name() {
        let name = format!("dnslob-notify-{}", std::process::id());
        let sockets = UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(&name).expect("a name"));
        let sockets = sockets.expect("a socket");
        let notifier = Notifier::connect(Some(OsStr::new(&format!("@{name}")))).expect("a notifier");
        notifier.stopping();
        assert_eq!(received(&sockets), "STOPPING=1");
    }

    #[test]
    fn no_manager_is_fine_and_a_wrong_one_is_an_error() {
        Notifier::connect(None).expect("silence").ready("");
        Notifier::connect(Some(OsStr::new(""))).expect("silence").ready("");
        Notifier::connect(Some(OsStr::new("/nonexistent/notify"))).expect_err("nobody there");
    }

    #[test]
    fn variables_for_another_process_are_ignored() {
        assert_eq!(watchdog(Some("30000000"), None, 7), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(Some("30000000"), Some("7"), 7), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(Some("30000000"), Some("8"), 7), None);
        assert_eq!(watchdog(Some("0"), None, 7), None);
        assert_eq!(watchdog(Some("soon"), None, 7), None);
        assert_eq!(socket_count(Some("2"), Some("7"), 7), 2);
        assert_eq!(socket_count(Some("2"), Some("8"), 7), 0);
        assert_eq!(socket_count(Some("2"), None, 7), 0);
        assert_eq!(socket_count(Some("-3"), Some("7"), 7), 0);
        assert_eq!(socket_count(Some("2000000"), Some("7"), 7), DESCRIPTORS_MAX);
    }

    #[test]
    fn bound_udp_and_listening_tcp_sockets_are_taken() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let address = udp.local_addr().expect("its address");
        assert_eq!(usable(&udp.into()).expect("usable"), address);
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = tcp.local_addr().expect("its address");
        assert_eq!(usable(&tcp.into()).expect("usable"), address);
        let idle = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        usable(&idle.expect("a socket")).expect_err("not a listening socket");
    }
}
