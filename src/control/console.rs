//! The console: commands over encrypted connections, on a thread of its own.
//!
//! ```text
//!  client ◄──► task of the connection ──Request──► control loop ──► Lua of the configuration
//!                      ▲                                │ draft → compile → publish
//!                      └───────────── reply ◄───────────┘
//! ```
//! A connection is one task, which waits for its client and for the control loop, so that a client
//! that never reads, or sends half a message, holds up nothing else. The control loop takes one
//! command after the other.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::base::addr::mapped;
use crate::control::console::channel::{Channel, LENGTH_BYTES, NONCE_BYTES, TAG_BYTES};
use crate::control::request::{Reply, Request, Terms};
use crate::model::console::Console;

pub mod channel;

/// Bytes of replies that clients have not read, and what each may have beyond that.
const REPLIES_MAX: usize = 64 << 20;
const REPLY_MIN: usize = 256 << 10;
/// Longest command, bytes.
const COMMAND_MAX: usize = 1 << 20;
/// How long the rest of a message, or the first bytes, may take.
const RECEIVE: Duration = Duration::from_secs(10);
/// How long a client may take to read a reply.
const SEND: Duration = Duration::from_secs(30);
/// Idle time after which the kernel asks whether the client is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// What the thread serves from here on.
#[derive(Debug)]
struct Update {
    /// None ends listening; connections go on.
    console: Option<Arc<Console>>,
    /// A listener in place of the present one.
    listener: Option<TcpListener>,
}

/// The console's thread, and what it serves.
#[derive(Debug)]
pub struct ConsoleServer {
    updates: mpsc::UnboundedSender<Update>,
    serving: Option<Arc<Console>>,
}

impl ConsoleServer {
    /// Starts the thread, which sends its commands to `requests`.
    ///
    /// # Errors
    /// The system has no thread or no descriptor for it.
    pub fn start(requests: mpsc::Sender<Request>) -> io::Result<Self> {
        let (updates, received) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let log = tracing::dispatcher::get_default(Clone::clone);
        let body = move || {
            tracing::dispatcher::with_default(&log, || {
                runtime.block_on(LocalSet::new().run_until(serve(received, requests)));
            });
        };
        std::thread::Builder::new().name("console".to_owned()).spawn(body)?;
        Ok(Self { updates, serving: None })
    }

    /// Opens the listener that a configuration needs beyond the present one.
    ///
    /// # Errors
    /// Its address cannot be bound.
    pub fn open(&self, console: Option<&Console>) -> Result<Option<TcpListener>, String> {
        let Some(console) = console else { return Ok(None) };
        if self.serving.as_ref().is_some_and(|serving| serving.address == console.address) {
            return Ok(None);
        }
        let listener = listen(console.address);
        listener.map(Some).map_err(|e| format!("controlSocket: cannot listen on {}: {e}", console.address))
    }

    /// Serves what a configuration asks for, with the listener that [`ConsoleServer::open`] gave.
    pub fn serve(&mut self, console: Option<&Console>, listener: Option<TcpListener>) {
        if console == self.serving.as_deref() {
            return;
        }
        self.serving = console.cloned().map(Arc::new);
        if self.serving.as_ref().is_some_and(|c| c.key.is_none()) {
            tracing::warn!("the console refuses every connection: there is no setKey");
        }
        if let Some(console) = self.serving.as_ref().filter(|_| listener.is_some()) {
            tracing::info!(address = %console.address, "the console listens");
        }
        // The thread ends with the process.
        let _ = self.updates.send(Update { console: self.serving.clone(), listener });
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves connections until the process ends.
async fn serve(mut updates: mpsc::UnboundedReceiver<Update>, requests: mpsc::Sender<Request>) {
    let (mut console, mut listener) = (None::<Arc<Console>>, None::<tokio::net::TcpListener>);
    let (open, replies) = (Arc::new(AtomicUsize::new(0)), Replies::default());
    loop {
        tokio::select! {
            update = updates.recv() => {
                let Some(update) = update else { return };
                if update.console.is_none() {
                    listener = None;
                }
                if let Some(new) = update.listener {
                    listener = tokio::net::TcpListener::from_std(new)
                        .inspect_err(|e| tracing::error!("the console does not listen: {e}"))
                        .ok();
                }
                console = update.console;
            }
            accepted = accept(listener.as_ref()) => {
                let (Some(console), Some((stream, peer))) = (&console, accepted) else { continue };
                admit(stream, peer, console, &open, &requests, &replies);
            }
        }
    }
}

/// Accepts a connection; without a listener, never.
async fn accept(listener: Option<&tokio::net::TcpListener>) -> Option<(TcpStream, SocketAddr)> {
    let Some(listener) = listener else { return std::future::pending().await };
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(e) => {
            // No descriptors, most likely; some will be free again.
            tracing::debug!("the console cannot accept a connection: {e}");
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}

/// The memory of all replies that their clients have not read.
#[derive(Clone, Debug, Default)]
struct Replies(Rc<Cell<usize>>);

/// What one reply may have of it.
#[derive(Debug)]
struct Share<'r> {
    replies: &'r Replies,
    bytes: usize,
}

impl Replies {
    /// Returns a share of at most `most` bytes; less where clients hold replies without reading
    /// them, so that a reply is cut rather than that memory grows.
    fn share(&self, most: usize) -> Share<'_> {
        let left = REPLIES_MAX.saturating_sub(self.0.get()).max(REPLY_MIN);
        let bytes = most.min(left);
        self.0.set(self.0.get() + bytes);
        Share { replies: self, bytes }
    }
}

impl Share<'_> {
    /// Gives back what the reply does not need.
    fn shrink(&mut self, bytes: usize) {
        let rest = self.bytes.saturating_sub(bytes);
        self.replies.0.set(self.replies.0.get().saturating_sub(rest));
        self.bytes -= rest;
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

/// Counts an open connection.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Serves a connection in a task of its own, if it may be there.
fn admit(
    stream: TcpStream,
    peer: SocketAddr,
    console: &Arc<Console>,
    open: &Arc<AtomicUsize>,
    requests: &mpsc::Sender<Request>,
    replies: &Replies,
) {
    let is_full = console.connections_max > 0 && open.load(Relaxed) >= console.connections_max;
    let refused = if !console.acl.contains(&mapped(peer.ip())) {
        Some("the ACL does not allow it")
    } else if is_full {
        Some("there are too many")
    } else if console.key.is_none() {
        Some("there is no setKey")
    } else {
        None
    };
    if let Some(reason) = refused {
        tracing::debug!(%peer, reason, "console connection refused");
        return;
    }
    open.fetch_add(1, Relaxed);
    let counted = Counted(Arc::clone(open));
    let (console, requests, replies) = (Arc::clone(console), requests.clone(), replies.clone());
    tokio::task::spawn_local(async move {
        let _counted = counted;
        let log = console.log_connections;
        if log {
            tracing::info!(%peer, "console connection opened");
        }
        let ended = converse(stream, &console, &requests, &replies).await;
        match ended {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(%peer, %error, "console connection closed");
            }
            _ if log => tracing::info!(%peer, "console connection closed"),
            _ => {}
        }
    });
}

/// Serves a client until it closes, or misbehaves.
async fn converse(
    mut stream: TcpStream,
    console: &Console,
    requests: &mpsc::Sender<Request>,
    replies: &Replies,
) -> io::Result<()> {
    let Some(key) = &console.key else { return Ok(()) };
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let own = channel::nonce().map_err(io::Error::other)?;
    let mut peer = [0; NONCE_BYTES];
    within(RECEIVE, stream.read_exact(&mut peer)).await?;
    within(SEND, stream.write_all(&own)).await?;
    let mut channel = Channel::new(key, &own, &peer);
    loop {
        let mut length = [0; LENGTH_BYTES];
        // A client may think as long as it likes about its next command, but not within one.
        if stream.read(&mut length[..1]).await? == 0 {
            return Ok(());
        }
        within(RECEIVE, stream.read_exact(&mut length[1..])).await?;
        let length = u32::from_be_bytes(length) as usize;
        if length > COMMAND_MAX + TAG_BYTES {
            return Err(io::Error::other("the command is too long"));
        }
        let mut sealed = vec![0; length];
        within(RECEIVE, stream.read_exact(&mut sealed)).await?;
        let opened = channel.open(&sealed);
        let opened = opened.map_err(|e| io::Error::new(io::ErrorKind::PermissionDenied, e))?;
        // dnsdist's client counts the tag among what it takes.
        let mut share = replies.share(console.output_max.saturating_sub(TAG_BYTES));
        let reply = match String::from_utf8(opened) {
            Ok(text) if text.is_empty() => Vec::new(),
            Ok(text) => {
                // A client that has gone does not want its command to be run any more.
                tokio::select! {
                    reply = ask(text, share.bytes, requests) => reply?,
                    () = closed(&stream) => return Ok(()),
                }
            }
            Err(_) => b"Error: the command is not UTF-8\n".to_vec(),
        };
        share.shrink(reply.len());
        let sealed = channel.seal(&reply).map_err(io::Error::other)?;
        drop(reply);
        within(SEND, stream.write_all(&sealed)).await?;
    }
}

/// Waits until the client has closed the connection; for ever once it has sent something more.
async fn closed(stream: &TcpStream) {
    let mut next = [0];
    match stream.peek(&mut next).await {
        Ok(0) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// Lets the control loop run a command; returns its reply.
async fn ask(text: String, output_max: usize, requests: &mpsc::Sender<Request>) -> io::Result<Vec<u8>> {
    let (reply, answered) = oneshot::channel();
    let ended = || io::Error::other("the process ends");
    let request = Request { text, output_max, terms: Terms::default(), reply };
    requests.send(request).await.map_err(|_| ended())?;
    answered.await.map(Reply::into_text).map_err(|_| ended())
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_that_nobody_reads_have_an_end() {
        const MOST: usize = 10_000_000;
        let replies = Replies::default();
        let mut held: Vec<Share<'_>> = Vec::new();
        for _ in 0..100 {
            held.push(replies.share(MOST));
        }
        assert_eq!((held[0].bytes, held[99].bytes), (MOST, REPLY_MIN));
        assert!(replies.0.get() < REPLIES_MAX + MOST + 100 * REPLY_MIN, "{}", replies.0.get());
        // One that is short gives back the rest.
        held[0].shrink(1_000);
        assert_eq!(held[0].bytes, 1_000);
        held.clear();
        assert_eq!(replies.0.get(), 0);
        assert_eq!(replies.share(MOST).bytes, MOST);
    }
}
