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
//!
//! Whoever has not proved yet that he has the key makes room for the next one when there are as many
//! connections as there may be: an idle one costs nothing, and must not keep the operator out. Where
//! all have proved it, the next one gets an answer that says why, and no more.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::base::addr::mapped;
use crate::base::time::{Tick, TickDelta};
use crate::control::console::channel::{Channel, LENGTH_BYTES, NONCE_BYTES, TAG_BYTES};
use crate::control::request::{Reply, Request, Terms};
use crate::engine::clock;
use crate::model::console::{Console, ConsoleKey};

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
/// Connections that are told that there are too many, at a time.
const TOLD_MAX: usize = 8;
/// Interval of lines in the log about connections that were refused.
const LOG_INTERVAL: TickDelta = TickDelta::from_ms(10_000);
/// What a client is told that is one too many.
const FULL: &[u8] =
    b"Error: the console has as many connections as setConsoleMaximumConcurrentConnections allows\n";
/// What a client is told whose command nobody carries out any more.
const ENDS: &[u8] = b"Error: the process ends\n";
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

    /// Serves what a configuration asks for, with the listener that [`ConsoleServer::open`] gave. Where its
    /// address could not be bound, there is no console until a later configuration binds it.
    pub fn serve(&mut self, console: Option<&Console>, listener: Option<TcpListener>) {
        let bound = self.serving.as_ref().map(|serving| serving.address);
        let console = console.filter(|new| listener.is_some() || bound == Some(new.address));
        if console == self.serving.as_deref() {
            return;
        }
        self.serving = console.cloned().map(Arc::new);
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
    let (admission, replies) = (Rc::<Admission>::default(), Replies::default());
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
                admit(stream, peer, console, &admission, &requests, &replies);
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

/// Connections that were refused, or closed for others.
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// Returns how many connections were refused, or closed for others before they had proved the key.
pub(in crate::control) fn refused() -> u64 {
    REFUSED.load(Relaxed)
}

/// Who is there.
#[derive(Debug, Default)]
struct Admission {
    /// Those that are served.
    served: Lane,
    /// Those that are told that there are too many.
    told: Lane,
    /// When the log said last that connections were refused, and how many there have been since.
    logged: Cell<Option<Tick>>,
    unsaid: Cell<u64>,
}

/// Connections of one kind.
#[derive(Debug, Default)]
struct Lane {
    open: Cell<usize>,
    /// Those that have not proved the key, oldest first: dropping what is here closes one.
    unproved: RefCell<VecDeque<(u64, oneshot::Sender<()>)>>,
    next: Cell<u64>,
}

/// A connection of a lane, which leaves it when this is dropped.
struct Place {
    admission: Rc<Admission>,
    is_served: bool,
    number: u64,
}

impl Admission {
    const fn lane(&self, is_served: bool) -> &Lane {
        if is_served { &self.served } else { &self.told }
    }

    /// Returns a place for a new connection, and what ends when it is to be closed for another one.
    /// `most`: as many may be served; 0 is no limit.
    fn enter(self: &Rc<Self>, most: usize) -> (Place, oneshot::Receiver<()>) {
        let is_full = |lane: &Lane, most: usize| most > 0 && lane.open.get() >= most;
        let may_stay = !is_full(&self.served, most) || self.served.evict();
        let is_served = may_stay;
        if !may_stay && is_full(&self.told, TOLD_MAX) {
            self.told.evict();
        }
        let lane = self.lane(is_served);
        let number = lane.next.replace(lane.next.get() + 1);
        let (closes, closed) = oneshot::channel();
        lane.unproved.borrow_mut().push_back((number, closes));
        lane.open.set(lane.open.get() + 1);
        (Place { admission: Rc::clone(self), is_served, number }, closed)
    }

    /// Counts a connection that was refused, and says so now and then.
    fn refuse(&self, reason: &str) {
        REFUSED.fetch_add(1, Relaxed);
        self.unsaid.set(self.unsaid.get() + 1);
        let now = clock::now();
        if self.logged.get().is_none_or(|at| now.since(at) >= LOG_INTERVAL) {
            self.logged.set(Some(now));
            let connections = self.unsaid.replace(0);
            tracing::warn!(connections, "console connections were refused; the last one: {reason}");
        }
    }
}

impl Lane {
    /// Closes the oldest connection that has not proved the key; returns whether there was one.
    fn evict(&self) -> bool {
        let oldest = self.unproved.borrow_mut().pop_front();
        if oldest.is_some() {
            // Its task ends later, and must not leave twice.
            self.open.set(self.open.get().saturating_sub(1));
        }
        oldest.is_some()
    }

    /// Takes a connection from those that can be closed for others; returns whether it was among
    /// them.
    fn settle(&self, number: u64) -> bool {
        let mut unproved = self.unproved.borrow_mut();
        let at = unproved.iter().position(|(of, _)| *of == number);
        at.and_then(|at| unproved.remove(at)).is_some()
    }
}

impl Place {
    /// The client has proved that it has the key.
    fn prove(&mut self) {
        self.admission.lane(self.is_served).settle(self.number);
        // From here on it is nobody's.
        self.number = u64::MAX;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let lane = self.admission.lane(self.is_served);
        if self.number == u64::MAX || lane.settle(self.number) {
            lane.open.set(lane.open.get().saturating_sub(1));
        }
    }
}

/// Serves a connection in a task of its own, if it may be there.
fn admit(
    stream: TcpStream,
    peer: SocketAddr,
    console: &Arc<Console>,
    admission: &Rc<Admission>,
    requests: &mpsc::Sender<Request>,
    replies: &Replies,
) {
    let refused = if !console.acl.contains(&mapped(peer.ip())) {
        Some("the ACL does not allow it")
    } else if console.key.is_none() {
        Some("there is no setKey")
    } else {
        None
    };
    if let Some(reason) = refused {
        tracing::debug!(%peer, reason, "console connection refused");
        admission.refuse(reason);
        return;
    }
    let (mut place, closed) = admission.enter(console.connections_max);
    if !place.is_served {
        admission
            .refuse("there are too many that have proved the key (setConsoleMaximumConcurrentConnections)");
    }
    let (console, requests, replies) = (Arc::clone(console), requests.clone(), replies.clone());
    tokio::task::spawn_local(async move {
        let log = console.log_connections;
        if log {
            tracing::info!(%peer, "console connection opened");
        }
        let ended = converse(stream, &console, (&mut place, closed), &requests, &replies).await;
        match ended {
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
                tracing::debug!(%peer, %error, "console connection closed");
                place.admission.refuse("it had not proved the key, and another one needed its place");
            }
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
    (place, closes): (&mut Place, oneshot::Receiver<()>),
    requests: &mpsc::Sender<Request>,
    replies: &Replies,
) -> io::Result<()> {
    let Some(key) = &console.key else { return Ok(()) };
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let mut begun = tokio::select! {
        begun = begin(&mut stream, key) => begun?,
        _ = closes => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "another one needs its place")),
    };
    let Some((channel, first)) = &mut begun else { return Ok(()) };
    place.prove();
    if !place.is_served {
        let sealed = channel.seal(FULL).map_err(io::Error::other)?;
        return within(SEND, stream.write_all(&sealed)).await;
    }
    let by = format!("the console of {}", stream.peer_addr()?);
    let mut next = Some(std::mem::take(first));
    while let Some(opened) = next {
        // dnsdist's client counts the tag among what it takes.
        let mut share = replies.share(console.output_max.saturating_sub(TAG_BYTES));
        let reply = match String::from_utf8(opened) {
            Ok(text) if text.is_empty() => Vec::new(),
            Ok(text) => {
                // A client that has gone does not want its command to be run any more.
                tokio::select! {
                    reply = ask(text, by.clone(), share.bytes, requests) => reply,
                    () = closed(&stream) => return Ok(()),
                }
            }
            Err(_) => b"Error: the command is not UTF-8\n".to_vec(),
        };
        share.shrink(reply.len());
        let sealed = channel.seal(&reply).map_err(io::Error::other)?;
        drop(reply);
        within(SEND, stream.write_all(&sealed)).await?;
        drop(share);
        next = command(&mut stream, channel).await?;
    }
    Ok(())
}

/// Exchanges the first bytes, and reads the first command, which proves that the client has the key;
/// none if the client closes the connection before.
async fn begin(stream: &mut TcpStream, key: &ConsoleKey) -> io::Result<Option<(Channel, Vec<u8>)>> {
    let own = channel::nonce().map_err(io::Error::other)?;
    let mut peer = [0; NONCE_BYTES];
    within(RECEIVE, stream.read_exact(&mut peer)).await?;
    within(SEND, stream.write_all(&own)).await?;
    let mut channel = Channel::new(key, &own, &peer);
    let first = command(stream, &mut channel).await?;
    Ok(first.map(|first| (channel, first)))
}

/// Reads a command; none if the client closes the connection. It may think as long as it likes about
/// the next one, but not within one.
async fn command(stream: &mut TcpStream, channel: &mut Channel) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; LENGTH_BYTES];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    within(RECEIVE, stream.read_exact(&mut length[1..])).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > COMMAND_MAX + TAG_BYTES {
        return Err(io::Error::other("the command is too long"));
    }
    let mut sealed = vec![0; length];
    within(RECEIVE, stream.read_exact(&mut sealed)).await?;
    let opened = channel.open(&sealed);
    opened.map(Some).map_err(|e| io::Error::new(io::ErrorKind::PermissionDenied, e))
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
async fn ask(text: String, by: String, output_max: usize, requests: &mpsc::Sender<Request>) -> Vec<u8> {
    let (reply, answered) = oneshot::channel();
    let request = Request { text, by, output_max, terms: Terms::default(), reply };
    // Either may fail from the moment that the process ends.
    let reply = match requests.send(request).await {
        Ok(()) => answered.await.ok(),
        Err(_) => None,
    };
    reply.map_or_else(|| ENDS.to_vec(), Reply::into_text)
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prefix::PrefixSet;

    /// As beside a process that ends later: `setConsoleBindFatal(false)`.
    #[test]
    fn a_console_whose_address_was_taken_is_opened_by_a_later_configuration() {
        let other = TcpListener::bind("127.0.0.1:0").expect("a port");
        let console = Console {
            address: other.local_addr().expect("its address"),
            key: None,
            acl: PrefixSet::default(),
            log_connections: false,
            output_max: 1_000,
            connections_max: 1,
            bind_fatal: false,
        };
        let mut server = ConsoleServer::start(mpsc::channel(1).0).expect("a thread");
        assert!(server.open(Some(&console)).is_err());
        server.serve(Some(&console), None);
        drop(other);
        let listener = server.open(Some(&console)).expect("the address is free");
        assert!(listener.is_some());
        server.serve(Some(&console), listener);
        assert!(server.open(Some(&console)).expect("served").is_none(), "it listens");
    }

    #[test]
    fn who_has_not_proved_the_key_makes_room() {
        let admission = Rc::<Admission>::default();
        let is_closed = |closed: &mut oneshot::Receiver<()>| {
            closed.try_recv() == Err(oneshot::error::TryRecvError::Closed)
        };
        let (first, mut first_closed) = admission.enter(2);
        let (mut second, mut second_closed) = admission.enter(2);
        second.prove();
        let (mut third, mut third_closed) = admission.enter(2);
        assert!(first.is_served && third.is_served, "the oldest without a proof goes");
        assert!(is_closed(&mut first_closed) && !is_closed(&mut third_closed));
        third.prove();
        // The second one's end was dropped when it had proved the key; nobody waits for it any more.
        assert!(is_closed(&mut second_closed));
        let (fourth, _) = admission.enter(2);
        assert!(!fourth.is_served, "all have proved it");
        drop(first);
        assert_eq!((admission.served.open.get(), admission.told.open.get()), (2, 1), "nobody leaves twice");
        drop(second);
        assert!(admission.enter(2).0.is_served);
        drop((third, fourth));
        assert_eq!((admission.served.open.get(), admission.told.open.get()), (0, 0));
        let told: Vec<_> = (0..100)
            .map(|_| {
                let (mut place, closed) = admission.enter(1);
                if place.is_served {
                    place.prove();
                }
                (place, closed)
            })
            .collect();
        assert_eq!((admission.served.open.get(), admission.told.open.get()), (1, TOLD_MAX));
        drop(told);
        assert_eq!((admission.served.open.get(), admission.told.open.get()), (0, 0));
    }

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
