//! Access to the control plane from within its process: `dnslob demo` reads its live state and ends
//! it.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::stats::live::LiveState;

/// What the owner of a control plane passes to it.
#[derive(Debug)]
pub struct ShutdownHandle {
    /// Gets the live state when the shards are about to start.
    pub live_state: crossbeam_channel::Sender<Arc<LiveState>>,
    /// Sent or dropped: stop, as by SIGTERM.
    pub stop: oneshot::Receiver<()>,
}

impl ShutdownHandle {
    /// Passes the live state to the owner, if there is one.
    pub(crate) fn send_live_state(shutdown_handle: Option<&Self>, live_state: &Arc<LiveState>) {
        if let Some(shutdown_handle) = shutdown_handle {
            // The owner may be gone; `stop` then reports it.
            let _ = shutdown_handle.live_state.send(Arc::clone(live_state));
        }
    }

    /// Waits until the owner drops the handle; forever without an owner.
    pub(crate) async fn stopped(shutdown_handle: &mut Option<Self>) {
        match shutdown_handle {
            Some(shutdown_handle) => drop((&mut shutdown_handle.stop).await),
            None => std::future::pending().await,
        }
    }
}
