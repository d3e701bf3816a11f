//! I/O: the only modules with sockets, the operating system's clock and `unsafe`.
//!
//! The engine drives, the shard answers: each engine owns its loop and drives a
//! [`Shard`](crate::shard::Shard) by its `on_…` calls. The control thread reaches a running shard through its
//! [`Mailbox`]; configurations arrive through the one `ArcSwap` that all shards read.

pub mod clock;
pub mod datagram;
mod fast_open;
mod owned;
pub mod reactor;
pub mod readiness;
pub mod relay;
mod schedule;
pub mod sim;
pub mod socket;
pub mod stream;
pub mod sys;

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::base::addr::ListenerSlot;
use crate::engine::sys::STACK_BYTES;
use crate::model::{Listener, Snapshot};
use crate::stats::live::LiveState;

/// A message from the control thread to a shard. The shard is woken after each.
#[derive(Debug)]
pub enum Message {
    /// A new snapshot is in the `ArcSwap`: use it. The shard acknowledges by storing the snapshot's
    /// generation in its part of the live state.
    Snapshot,
    /// Serve these sockets too. [`socket::create`] and [`socket::bind`] have made and bound them on
    /// the control thread, so that their errors come before anything is published.
    Listen(Arc<Listener>, socket::ListenerSockets),
    /// Accept no more on this listener and read what its sockets still hold. They are closed when
    /// the outstanding queries that came by them are answered.
    Unlisten(ListenerSlot),
    /// Accept no more on any listener, read what their sockets still hold, finish what is
    /// outstanding, and end.
    Stop,
    /// End at once.
    Abort,
}

/// The parameters of a shard.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The shard's number, from 0.
    pub index: usize,
    /// The CPU to pin the thread to.
    pub cpu: Option<usize>,
    /// Entropy for ids and ports.
    pub seed: [u8; 32],
    /// How long to poll for more packets before sleeping, microseconds; 0 never polls.
    pub busy_poll_us: u32,
    /// Packets received or sent by one system call, 1 to 1024.
    pub batch_packets: usize,
}

/// The control thread's channel to one shard.
#[derive(Debug)]
pub struct Mailbox {
    messages: crossbeam_channel::Sender<Message>,
    wake: Arc<EventFd>,
}

impl Mailbox {
    /// Sends a message and wakes the shard.
    ///
    /// # Errors
    /// Fails when the shard has ended, or has 4096 unread messages.
    pub fn send(&self, message: Message) -> io::Result<()> {
        self.messages.try_send(message).map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.wake.write(1)?;
        Ok(())
    }
}

/// A running shard: its mailbox and its thread, which ends after [`Message::Stop`] or
/// [`Message::Abort`]. A panic in it is counted, and the shard continues with the same sockets.
#[derive(Debug)]
pub struct Running {
    /// The channel to the shard.
    pub mailbox: Mailbox,
    /// The shard's thread.
    pub thread: std::thread::JoinHandle<()>,
}

/// Messages that a shard may leave unread: far more than any reload sends.
const MAIL_MAX: usize = 4096;

/// Starts a shard on its own thread. It serves nothing until it gets [`Message::Listen`].
///
/// # Errors
/// Fails when the thread, its epoll set or its wake-up descriptor cannot be created.
pub fn spawn(setup: Setup, feed: Arc<ArcSwap<Snapshot>>, live_state: Arc<LiveState>) -> io::Result<Running> {
    let (messages, inbox) = crossbeam_channel::bounded(MAIL_MAX);
    let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
    let (started, start) = crossbeam_channel::bounded(1);
    let waker = wake.clone();
    let name = format!("shard-{}", setup.index);
    // A shard runs the Lua functions of the configuration.
    let thread = std::thread::Builder::new().name(name).stack_size(STACK_BYTES);
    let thread = thread.spawn(move || {
        let _signals = sys::SignalStack::enlarge();
        // Pinned first, so that memory is allocated near the CPU.
        if let Some(id) = setup.cpu
            && !core_affinity::set_for_current(core_affinity::CoreId { id })
        {
            tracing::warn!(cpu = id, "cannot pin the shard to its CPU");
        }
        match reactor::Engine::new(setup, feed, live_state, inbox, waker) {
            Ok(engine) => {
                // `spawn` waits for this.
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
