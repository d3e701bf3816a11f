//! Makes one health check: asks the server, or has it asked, and says what came of it.
//!
//! Each probe is a future of its own with its own socket, so that any number run side by side and
//! a slow one delays nobody. Whether the server is up is not decided here but by
//! [`health`](crate::control::health).

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::engine::socket::{bind_source, is_shortage};
use crate::model::{Backend, ClientAddress, LuaFunction, Probe, SendExpect};
use crate::stats::check_failure::Failure;
use crate::tls;

mod message;

/// The largest answer that is read; DNS over TCP cannot be longer.
const ANSWER_BYTES_MAX: usize = 65_535;

/// A failed probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The counter it belongs to.
    pub reason: Failure,
    /// What happened, for people.
    pub detail: String,
}

impl Failed {
    pub(super) fn new(reason: Failure, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    fn timeout() -> Self {
        Self::new(Failure::Timeout, "no answer in time")
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
/// What a function gives once it has come back; the time that it takes is not the server's.
pub type Called<R> = Pin<Box<dyn Future<Output = Result<R, Failed>>>>;

/// The configuration's functions that take part in a health check.
pub trait Script {
    /// Chooses the query: name, type and class; `header` holds id, flags and counts in wire
    /// format and may be changed, except for the id.
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

    /// Does something in the thread that the functions run in, when it is another one: rights belong
    /// to threads.
    ///
    /// # Errors
    /// When that thread does not do it.
    fn within(&self, work: Box<dyn FnOnce() + Send>) -> Called<()> {
        drop(work);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Who runs external programs, when we are allowed to choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runner {
    /// User id; none runs them as ourselves.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
}

/// Checks `backend` once; `id` is the message id of a DNS query. Ends within its time-out.
///
/// # Errors
/// Why the server is not well.
pub async fn run(backend: &Backend, id: u16, script: &Rc<dyn Script>, runner: Runner) -> Result<(), Failed> {
    let limit = Duration::from(backend.health.timeout);
    match &backend.health.probe {
        Probe::Udp => over_udp(backend, id, script, limit).await,
        Probe::Tls => over_tls(backend, id, script, limit).await,
        Probe::Tcp => over_tcp(backend, id, script, limit).await,
        Probe::Connect => {
            let connect = async {
                let mut stream = connect(backend).await?;
                Ok(stream.write_all(greeting(backend.client_address)).await?)
            };
            within(limit, connect).await
        }
        Probe::SendExpect(talk) => by_talk(backend, talk, limit).await,
        Probe::Script(words) => by_program(backend, words, runner, limit).await,
    }
}

/// What a server must see first that expects a PROXY header: that this is no client's doing, but
/// the balancer's own (LOCAL, UNKNOWN).
const fn greeting(client_address: ClientAddress) -> &'static [u8] {
    match client_address {
        ClientAddress::Hidden | ClientAddress::Transparent => b"",
        ClientAddress::Proxy { v1: true, .. } => b"PROXY UNKNOWN\r\n",
        ClientAddress::Proxy { v1: false, .. } => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    }
}

/// The same with what is said behind it.
fn greeted(backend: &Backend, said: &[u8]) -> Vec<u8> {
    [greeting(backend.client_address), said].concat()
}

async fn within<R>(limit: Duration, f: impl Future<Output = Result<R, Failed>>) -> Result<R, Failed> {
    timeout(limit, f).await.unwrap_or_else(|_| Err(Failed::timeout()))
}

/// The question of this probe, as the settings or the configuration's function want it.
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

/// The answer's form, as far as it can be told without the configuration's functions.
type Form = Result<(), (Failure, String)>;

fn form(backend: &Backend, query: &[u8], answer: &[u8]) -> Form {
    message::judge(query, answer, backend.health.must_resolve)
}

/// The answer's verdict: its form, then the configuration's function if there is one, which replaces
/// the look at the response code.
async fn verdict(
    backend: &Backend,
    form: Form,
    answer: &[u8],
    script: &Rc<dyn Script>,
) -> Result<(), Failed> {
    match (backend.health.judge, form) {
        (Some(function), Ok(()) | Err((Failure::Invalid, _))) => {
            let healthy = script.judge(function, backend, answer).await?;
            healthy.then_some(()).ok_or_else(|| Failed::new(Failure::Invalid, "the check's function said no"))
        }
        (_, form) => form.map_err(|(reason, detail)| Failed { reason, detail }),
    }
}

/// Asks over UDP. An answer that is not ours is remembered and the socket kept open: anybody could
/// have sent it.
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
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    let ask = async {
        socket.send(&greeted(backend, &query)).await?;
        loop {
            let len = socket.recv(&mut answer).await?;
            match form(backend, &query, &answer[..len]) {
                Err((Failure::Mismatch, detail)) => wrong = Some(Failed::new(Failure::Mismatch, detail)),
                form => return Ok((len, form)),
            }
        }
    };
    match timeout(limit, ask).await {
        Ok(Ok((len, form))) => verdict(backend, form, &answer[..len], script).await,
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
        // A question is 12 + 255 + 4 bytes at most.
        let mut framed = greeted(backend, &(query.len() as u16).to_be_bytes());
        framed.extend_from_slice(&query);
        stream.write_all(&framed).await?;
        let len = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(len)];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    let answer = within(limit, ask).await?;
    verdict(backend, form(backend, &query, &answer), &answer, script).await
}

async fn over_tls(
    backend: &Backend,
    id: u16,
    script: &Rc<dyn Script>,
    limit: Duration,
) -> Result<(), Failed> {
    let query = question(backend, id, script).await?;
    let answer = within(limit, ask_over_tls(backend, &query)).await?;
    verdict(backend, form(backend, &query, &answer), &answer, script).await
}

/// Asks over TLS. A handshake that fails says why: that is what somebody has to fix.
async fn ask_over_tls(backend: &Backend, query: &[u8]) -> Result<Vec<u8>, Failed> {
    let failed = |e: tls::Failure| Failed::new(Failure::Network, format!("TLS: {e}"));
    let Some(tls) = &backend.connections.tls else {
        return Err(Failed::new(Failure::Invalid, "the server has no TLS"));
    };
    let mut stream = connect(backend).await?;
    // In full, or nobody would see that its certificate has expired, or is another one.
    let mut session = tls::Session::check(&tls.tls).map_err(failed)?;
    // A question is 12 + 255 + 4 bytes at most. Within TLS, as queries have it.
    session.send(&greeted(backend, &(query.len() as u16).to_be_bytes()));
    session.send(query);
    let (mut bytes, mut answer, mut out) = (vec![0; 4096], Vec::new(), Vec::new());
    loop {
        while session.wants_write() {
            session.write_to(&mut out)?;
        }
        stream.write_all(&out).await?;
        out.clear();
        if let Some((len, message)) = answer.split_first_chunk::<2>()
            && let Some(message) = message.get(..usize::from(u16::from_be_bytes(*len)))
        {
            return Ok(message.to_vec());
        }
        let len = stream.read(&mut bytes).await?;
        if len == 0 {
            session.on_end().map_err(failed)?;
            return Err(Failed::new(Failure::Network, "the connection ended without an answer"));
        }
        if let Err(e) = session.on_bytes(&bytes[..len], &mut answer) {
            // The server is told, too; whether it listens makes no difference.
            let _ = session.write_to(&mut out);
            let _ = stream.write_all(&out).await;
            return Err(failed(e));
        }
    }
}

/// Bytes of an answer that are searched for what is expected.
const TALK_BYTES_MAX: usize = 4096;

/// Says what is to be said, and waits for what is expected, with whatever stands around it.
async fn by_talk(backend: &Backend, talk: &SendExpect, limit: Duration) -> Result<(), Failed> {
    let mut heard = Vec::with_capacity(TALK_BYTES_MAX);
    match timeout(limit, hear(backend, talk, &mut heard)).await {
        Ok(result) => result?,
        Err(_) if heard.is_empty() => return Err(Failed::timeout()),
        // It says something, only not that.
        Err(_) => {}
    }
    let is_silent = heard.is_empty() && !talk.datagram;
    if holds(&heard, &talk.expect) && !is_silent { Ok(()) } else { Err(unexpected(&heard)) }
}

/// Listens until what is expected is there, or nothing more comes.
async fn hear(backend: &Backend, talk: &SendExpect, heard: &mut Vec<u8>) -> Result<(), Failed> {
    if talk.datagram {
        let socket = socket(backend, Type::DGRAM, Protocol::UDP)?;
        socket.connect(&backend.address.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        socket.send(&greeted(backend, &talk.send)).await?;
        socket.recv_buf(heard).await?;
        return Ok(());
    }
    let mut stream = connect(backend).await?;
    stream.write_all(&greeted(backend, &talk.send)).await?;
    let mut stream = stream.take(TALK_BYTES_MAX as u64);
    while stream.read_buf(heard).await? > 0 && !holds(heard, &talk.expect) {}
    Ok(())
}

fn holds(answer: &[u8], expected: &[u8]) -> bool {
    expected.is_empty() || answer.windows(expected.len()).any(|w| w == expected)
}

fn unexpected(answer: &[u8]) -> Failed {
    /// Of the answer, for people.
    const SHOWN: usize = 64;
    let shown = answer[..answer.len().min(SHOWN)].escape_ascii();
    Failed::new(Failure::Invalid, format!("answered \"{shown}\", which is not what is expected"))
}

async fn connect(backend: &Backend) -> io::Result<TcpStream> {
    let socket = socket(backend, Type::STREAM, Protocol::TCP)?;
    TcpSocket::from_std_stream(socket.into()).connect(backend.address).await
}

/// A socket that asks from where the data path asks from.
fn socket(backend: &Backend, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(backend.address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if let Some(interface) = &backend.source_interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if let Some(source) = backend.source {
        bind_source(&socket, source)?;
    }
    Ok(socket)
}

/// Runs a program with the address and the port behind its own arguments, in a process group of
/// its own, so that at the time limit its children end with it.
async fn by_program(
    backend: &Backend,
    words: &[String],
    runner: Runner,
    limit: Duration,
) -> Result<(), Failed> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Failed::new(Failure::Invalid, "no program is named"));
    };
    let mut command = tokio::process::Command::new(program);
    command
        .args(arguments)
        .args([backend.address.ip().to_string(), backend.address.port().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    // As root, the standard library drops the supplementary groups together with the user.
    if let Some(gid) = runner.gid {
        command.gid(gid);
    }
    if let Some(uid) = runner.uid {
        command.uid(uid);
    }
    let mut child = command.spawn().map_err(|e| {
        let detail = format!("{program}: {e}");
        Failed { detail, ..e.into() }
    })?;
    let mut group = Group(child.id());
    let Ok(ended) = timeout(limit, child.wait()).await else {
        // Dropped, both are killed and the child is reaped in the background: one that cannot be
        // killed must not hold up whoever waits for this outcome.
        return Err(Failed::new(Failure::Timeout, format!("{program} did not end in time")));
    };
    group.0 = None;
    let status = ended?;
    if status.success() { Ok(()) } else { Err(Failed::new(Failure::Invalid, format!("{program}: {status}"))) }
}

/// Kills a process group when it is dropped, also when the probe is given up half way.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) else { return };
        // It may have ended by itself in between; then there is nothing to do.
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests;
