//! Makes one health check: probes the server and returns the outcome.
//!
//! Each probe is a future with its own socket, so that any number run in parallel and a slow one
//! delays no other. Whether the server is up is decided by [`health`](crate::control::health).

use std::io;
use std::os::unix::process::CommandExt;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::control::launcher::Launcher;
use crate::engine::socket::{bind_source, is_shortage};
use crate::model::{Backend, ClientAddress, LuaFunction, Probe, SendExpect};
use crate::stats::check_failure::Failure;
use crate::tls;

pub mod message;

/// Longest response, bytes: the maximum of DNS over TCP.
const RESPONSE_BYTES_MAX: usize = 65_535;

/// A failed probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The counter that it belongs to.
    pub reason: Failure,
    /// What happened, human-readable.
    pub detail: String,
}

impl Failed {
    pub(super) fn new(reason: Failure, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    fn timeout() -> Self {
        Self::new(Failure::Timeout, "no response in time")
    }

    /// A check that ended without an outcome.
    pub(super) fn unfinished() -> Self {
        Self::new(Failure::Invalid, "internal error: the check ended without an outcome")
    }
}

impl From<io::Error> for Failed {
    fn from(e: io::Error) -> Self {
        let reason = if is_shortage(&e) { Failure::Local } else { Failure::Network };
        Self::new(reason, e.to_string())
    }
}

/// Name, type and class.
pub type Question = (String, u16, u16);
/// The pending result of a Lua function; the time that it takes does not count as the server's.
pub type Called<R> = Pin<Box<dyn Future<Output = Result<R, Failed>>>>;

/// The configuration's Lua functions that take part in a health check.
pub trait Script {
    /// Chooses the query: name, type and class. `header` holds id, flags and counts in wire format
    /// and may be changed, except for the id.
    ///
    /// # Errors
    /// What the function raised.
    fn choose(
        &self,
        function: LuaFunction,
        qname: &str,
        qtype: u16,
        qclass: u16,
        header: [u8; 12],
    ) -> Called<(Question, [u8; 12])>;

    /// Judges a response in wire format.
    ///
    /// # Errors
    /// What the function raised.
    fn judge(&self, function: LuaFunction, server: &Backend, response: &[u8]) -> Called<bool>;

    /// Runs something on the thread of the functions, if that is another one: capabilities belong
    /// to threads.
    ///
    /// # Errors
    /// When that thread cannot run it.
    fn within(&self, work: Box<dyn FnOnce() + Send>) -> Called<()> {
        drop(work);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What runs external programs.
#[derive(Clone, Debug, Default)]
pub struct Runner {
    /// The thread that starts them.
    pub launcher: Option<Launcher>,
    /// User id, where we may choose; `None` runs them as ourselves.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
}

/// Checks `backend` once; `id` is the message id of a DNS query. Ends within its time-out.
///
/// # Errors
/// Why the check failed.
pub async fn run(backend: &Backend, id: u16, script: &Rc<dyn Script>, runner: Runner) -> Result<(), Failed> {
    let limit = Duration::from(backend.health.timeout);
    match &backend.health.probe {
        Probe::Udp => over_udp(backend, id, script, limit).await,
        Probe::Tls => over_tls(backend, id, script, limit).await,
        Probe::Tcp => over_tcp(backend, id, script, limit).await,
        Probe::Connect => {
            let connect = async {
                let mut stream = connect(backend).await?;
                Ok(stream.write_all(proxy_header(backend.client_address)).await?)
            };
            within(limit, connect).await
        }
        Probe::SendExpect(exchange) => by_send_expect(backend, exchange, limit).await,
        Probe::Script(words) => by_program(backend, words, &runner, limit).await,
    }
}

/// Returns the PROXY header for a server that expects one: it says that the connection is the
/// balancer's own (LOCAL, UNKNOWN).
const fn proxy_header(client_address: ClientAddress) -> &'static [u8] {
    match client_address {
        ClientAddress::Hidden | ClientAddress::Transparent => b"",
        ClientAddress::Proxy { v1: true, .. } => b"PROXY UNKNOWN\r\n",
        ClientAddress::Proxy { v1: false, .. } => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    }
}

/// Returns that header followed by `payload`.
fn with_proxy_header(backend: &Backend, payload: &[u8]) -> Vec<u8> {
    [proxy_header(backend.client_address), payload].concat()
}

async fn within<R>(limit: Duration, f: impl Future<Output = Result<R, Failed>>) -> Result<R, Failed> {
    timeout(limit, f).await.unwrap_or_else(|_| Err(Failed::timeout()))
}

/// Builds the query, from the settings or by the configuration's function.
async fn question(backend: &Backend, id: u16, script: &Rc<dyn Script>) -> Result<Vec<u8>, Failed> {
    let h = &backend.health;
    let flags = message::RD | if h.set_cd { message::CD } else { 0 };
    let invalid = |e| Failed::new(Failure::Invalid, e);
    let Some(choose) = h.choose else {
        return message::query(id, flags, &h.qname, h.qtype, h.qclass).map_err(invalid);
    };
    let mut header = [0; message::HEADER];
    header[..2].copy_from_slice(&id.to_be_bytes());
    header[2..4].copy_from_slice(&flags.to_be_bytes());
    header[5] = 1;
    let ((qname, qtype, qclass), header) = script.choose(choose, &h.qname, h.qtype, h.qclass, header).await?;
    let flags = u16::from_be_bytes([header[2], header[3]]);
    message::query(id, flags, &qname, qtype, qclass).map_err(invalid)
}

/// Whether the response is well-formed, apart from the configuration's function.
type Form = Result<(), (Failure, String)>;

fn form(backend: &Backend, query: &[u8], response: &[u8]) -> Form {
    message::judge(query, response, backend.health.must_resolve)
}

/// Judges the response: its form, then by the configuration's function, which replaces the check of
/// the response code.
async fn verdict(
    backend: &Backend,
    form: Form,
    response: &[u8],
    script: &Rc<dyn Script>,
) -> Result<(), Failed> {
    match (backend.health.judge, form) {
        (Some(function), Ok(()) | Err((Failure::Invalid, _))) => {
            let healthy = script.judge(function, backend, response).await?;
            healthy
                .then_some(())
                .ok_or_else(|| Failed::new(Failure::Invalid, "the check function returned false"))
        }
        (_, form) => form.map_err(|(reason, detail)| Failed { reason, detail }),
    }
}

/// Queries over UDP. A response that does not match is remembered and the socket stays open: it may
/// be forged.
async fn over_udp(
    backend: &Backend,
    id: u16,
    script: &Rc<dyn Script>,
    limit: Duration,
) -> Result<(), Failed> {
    let query = question(backend, id, script).await?;
    let socket = socket(backend, Type::DGRAM, Protocol::UDP)?;
    socket.connect(&backend.address.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    let mut wrong = None;
    let mut response = vec![0; RESPONSE_BYTES_MAX];
    let ask = async {
        socket.send(&with_proxy_header(backend, &query)).await?;
        loop {
            let len = socket.recv(&mut response).await?;
            match form(backend, &query, &response[..len]) {
                Err((Failure::Mismatch, detail)) => wrong = Some(Failed::new(Failure::Mismatch, detail)),
                form => return Ok((len, form)),
            }
        }
    };
    match timeout(limit, ask).await {
        Ok(Ok((len, form))) => verdict(backend, form, &response[..len], script).await,
        Ok(Err(failed)) => Err(failed),
        Err(_) => Err(wrong.unwrap_or_else(Failed::timeout)),
    }
}

async fn over_tcp(
    backend: &Backend,
    id: u16,
    script: &Rc<dyn Script>,
    limit: Duration,
) -> Result<(), Failed> {
    let query = question(backend, id, script).await?;
    let ask = async {
        let mut stream = connect(backend).await?;
        // A query has at most 12 + 255 + 4 bytes.
        let mut framed = with_proxy_header(backend, &(query.len() as u16).to_be_bytes());
        framed.extend_from_slice(&query);
        stream.write_all(&framed).await?;
        let len = stream.read_u16().await?;
        let mut response = vec![0; usize::from(len)];
        stream.read_exact(&mut response).await?;
        Ok(response)
    };
    let response = within(limit, ask).await?;
    verdict(backend, form(backend, &query, &response), &response, script).await
}

async fn over_tls(
    backend: &Backend,
    id: u16,
    script: &Rc<dyn Script>,
    limit: Duration,
) -> Result<(), Failed> {
    let query = question(backend, id, script).await?;
    let response = within(limit, ask_over_tls(backend, &query)).await?;
    verdict(backend, form(backend, &query, &response), &response, script).await
}

/// Queries over TLS. A failed handshake is reported with its reason, for the operator to fix.
async fn ask_over_tls(backend: &Backend, query: &[u8]) -> Result<Vec<u8>, Failed> {
    let failed = |e: tls::Failure| Failed::new(Failure::Network, format!("TLS: {e}"));
    let Some(tls) = &backend.connections.tls else {
        return Err(Failed::new(Failure::Invalid, "the server has no TLS"));
    };
    let mut stream = connect(backend).await?;
    // A full handshake: a resumed one would not show that the certificate has expired or changed.
    let mut session = tls::Session::check(&tls.tls).map_err(failed)?;
    // A query has at most 12 + 255 + 4 bytes. The header is within TLS, as for queries.
    session.send(&with_proxy_header(backend, &(query.len() as u16).to_be_bytes()));
    session.send(query);
    let (mut bytes, mut response, mut out) = (vec![0; 4096], Vec::new(), Vec::new());
    loop {
        while session.wants_write() {
            session.write_to(&mut out)?;
        }
        stream.write_all(&out).await?;
        out.clear();
        if let Some((len, message)) = response.split_first_chunk::<2>()
            && let Some(message) = message.get(..usize::from(u16::from_be_bytes(*len)))
        {
            return Ok(message.to_vec());
        }
        let len = stream.read(&mut bytes).await?;
        if len == 0 {
            session.on_end().map_err(failed)?;
            return Err(Failed::new(Failure::Network, "the connection ended without a response"));
        }
        if let Err(e) = session.on_bytes(&bytes[..len], &mut response) {
            // The alert is sent as a courtesy; it may fail.
            let _ = session.write_to(&mut out);
            let _ = stream.write_all(&out).await;
            return Err(failed(e));
        }
    }
}

/// Bytes of a response that are searched for the expected text.
const SEARCHED_BYTES_MAX: usize = 4096;

/// Sends text and waits for the expected text, wherever it stands in the response.
async fn by_send_expect(backend: &Backend, exchange: &SendExpect, limit: Duration) -> Result<(), Failed> {
    let mut received = Vec::with_capacity(SEARCHED_BYTES_MAX);
    match timeout(limit, read_response(backend, exchange, &mut received)).await {
        Ok(result) => result?,
        Err(_) if received.is_empty() => return Err(Failed::timeout()),
        // It has answered, but not as expected.
        Err(_) => {}
    }
    let is_silent = received.is_empty() && !exchange.datagram;
    if contains(&received, &exchange.expect) && !is_silent { Ok(()) } else { Err(unexpected(&received)) }
}

/// Reads until the expected text is there, or nothing more comes.
async fn read_response(
    backend: &Backend,
    exchange: &SendExpect,
    received: &mut Vec<u8>,
) -> Result<(), Failed> {
    if exchange.datagram {
        let socket = socket(backend, Type::DGRAM, Protocol::UDP)?;
        socket.connect(&backend.address.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        socket.send(&with_proxy_header(backend, &exchange.send)).await?;
        socket.recv_buf(received).await?;
        return Ok(());
    }
    let mut stream = connect(backend).await?;
    stream.write_all(&with_proxy_header(backend, &exchange.send)).await?;
    let mut stream = stream.take(SEARCHED_BYTES_MAX as u64);
    while stream.read_buf(received).await? > 0 && !contains(received, &exchange.expect) {}
    Ok(())
}

fn contains(response: &[u8], expected: &[u8]) -> bool {
    expected.is_empty() || response.windows(expected.len()).any(|w| w == expected)
}

fn unexpected(response: &[u8]) -> Failed {
    /// Characters of the response shown in the message.
    const SHOWN: usize = 64;
    let shown = response[..response.len().min(SHOWN)].escape_ascii();
    Failed::new(Failure::Invalid, format!("answered \"{shown}\", which is not the expected text"))
}

async fn connect(backend: &Backend) -> io::Result<TcpStream> {
    let socket = socket(backend, Type::STREAM, Protocol::TCP)?;
    TcpSocket::from_std_stream(socket.into()).connect(backend.address).await
}

/// Opens a socket with the source address of the data path.
fn socket(backend: &Backend, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(backend.address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if let Some(interface) = &backend.source_interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if let Some(source) = backend.source {
        bind_source(&socket, source, backend.address)?;
    }
    Ok(socket)
}

/// The only variable of a program's environment: where a shell finds the usual programs.
const PROGRAM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a program with address and port appended to its arguments, in its own process group, so
/// that its children end with it at the time-out.
async fn by_program(
    backend: &Backend,
    words: &[String],
    runner: &Runner,
    limit: Duration,
) -> Result<(), Failed> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Failed::new(Failure::Invalid, "no program is given"));
    };
    let Some(launcher) = &runner.launcher else {
        return Err(Failed::new(Failure::Local, "programs cannot be started"));
    };
    let mut command = Command::new(program);
    command
        // What the environment of dnslob holds is not the program's concern.
        .env_clear()
        .env("PATH", PROGRAM_PATH)
        .args(arguments)
        .args([backend.address.ip().to_string(), backend.address.port().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    // As root, the standard library drops the supplementary groups together with the user.
    if let Some(gid) = runner.gid {
        command.gid(gid);
    }
    if let Some(uid) = runner.uid {
        command.uid(uid);
    }
    let status = launcher.run(command, limit).await.map_err(|e| {
        let detail = format!("{program}: {e}");
        Failed { detail, ..e.into() }
    })?;
    let Some(status) = status else {
        return Err(Failed::new(Failure::Timeout, format!("{program} did not end in time")));
    };
    let healthy = match status.code() {
        Some(code) => (code == 0) != backend.health.relayd_exit,
        None => false,
    };
    if healthy { Ok(()) } else { Err(Failed::new(Failure::Invalid, format!("{program}: {status}"))) }
}

#[cfg(test)]
mod tests;
