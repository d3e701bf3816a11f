//! I/O: the only rooms with sockets, the operating system's clock and `unsafe`.
//!
//! The engine drives, the shard answers: each engine owns its loop and makes the same five calls
//! on a [`Shard`](crate::shard::Shard). The control thread talks to a running shard through its
//! [`Mailbox`]; configurations arrive through the one `ArcSwap` that all shards read.

pub mod clock;
pub mod datagram;
pub mod reactor;
pub mod readiness;
pub mod relay;
pub mod sim;
pub mod socket;
pub mod stream;
pub mod sys;
mod turn;

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::base::addr::ListenerSlot;
use crate::engine::sys::STACK_BYTES;
use crate::model::{Listener, Snapshot};
use crate::stats::live::LiveState;

/// What the control thread can tell a shard. After each, the shard is woken.
#[derive(Debug)]
pub enum Message {
    /// A new snapshot stands in the `ArcSwap`: begin to use it. The shard answers by storing its
    /// generation in its page of the board.
    Snapshot,
    /// Hear on these sockets too; made and bound by [`socket::create`] and [`socket::bind`] on the
    /// control thread, so that their errors come before anything is published.
    Listen(Arc<Listener>, socket::ListenerSockets),
    /// Take no more there, and read what that listener still holds; outstanding queries that came by
    /// it are still answered, then its sockets are closed.
    Unlisten(ListenerSlot),
    /// Take no more anywhere, read what all listeners still hold, finish what is outstanding, and
    /// end.
    Stop,
    /// End at once.
    Abort,
}

/// How a shard is started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its number, from 0.
    pub index: usize,
    /// The CPU to run on, if it is to be pinned.
    pub cpu: Option<usize>,
    /// Entropy for ids and ports.
    pub seed: [u8; 32],
    /// Spin so long for more packets before sleeping, microseconds; 0 never spins.
    pub busy_poll_us: u32,
    /// Packets read or sent by one system call, 1 to 1024.
    pub batch_packets: usize,
}

/// The control thread's way to one shard.
#[derive(Debug)]
pub struct Mailbox {
    messages: crossbeam_channel::Sender<Message>,
    wake: Arc<EventFd>,
}

impl Mailbox {
    /// Sends a message and wakes the shard.
    ///
    /// # Errors
    /// When the shard has ended, or has not read its last 4096 messages.
    pub fn send(&self, message: Message) -> io::Result<()> {
        self.messages.try_send(message).map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.wake.write(1)?;
        Ok(())
    }
}

/// A running shard: its mailbox and its thread, which ends after [`Message::Stop`] or
/// [`Message::Abort`]. A panic inside is counted, and the shard goes on with the same sockets.
#[derive(Debug)]
pub struct Running {
    /// The way to it.
    pub mailbox: Mailbox,
    /// Its thread.
    pub thread: std::thread::JoinHandle<()>,
}

/// Messages that a shard may leave unread: far more than any reload sends.
const MAIL_MAX: usize = 4096;

/// Starts a shard on a thread of its own; it serves no listener until told of one.
///
/// # Errors
/// When the thread, its epoll set or its wake-up descriptor cannot be made.
pub fn spawn(setup: Setup, feed: Arc<ArcSwap<Snapshot>>, live_state: Arc<LiveState>) -> io::Result<Running> {
    let (messages, inbox) = crossbeam_channel::bounded(MAIL_MAX);
    let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
    let (started, start) = crossbeam_channel::bounded(1);
    let waker = wake.clone();
    let name = format!("shard-{}", setup.index);
    // A shard runs the configuration's functions.
    let thread = std::thread::Builder::new().name(name).stack_size(STACK_BYTES);
    let thread = thread.spawn(move || {
        let _signals = sys::SignalStack::enlarge();
        // Pinned first: what the engine allocates is then near its CPU.
        if let Some(id) = setup.cpu
            && !core_affinity::set_for_current(core_affinity::CoreId { id })
        {
            tracing::warn!(cpu = id, "the shard cannot be pinned to its CPU");
        }
        match reactor::Engine::new(setup, feed, live_state, inbox, waker) {
            Ok(engine) => {
                // Whoever started us waits for this word.
                let _ = started.send(Ok(()));
                engine.run();
            }
            Err(e) => {
                let _ = started.send(Err(e));
            }
        }
    })?;
    start.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
    Ok(Running { mailbox: Mailbox { messages, wake }, thread })
}
