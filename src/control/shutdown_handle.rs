//! A hold on the control plane from within its process: `dnslob demo` sees its board and ends it.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::stats::live::LiveState;

/// What the one who holds a control plane gave it.
#[derive(Debug)]
pub struct ShutdownHandle {
    /// Gets the live state once the shards are to be started.
    pub live_state: crossbeam_channel::Sender<Arc<LiveState>>,
    /// Told or dropped: stop, as by SIGTERM.
    pub stop: oneshot::Receiver<()>,
}

impl ShutdownHandle {
    /// Shows the board to the one who holds us, if there is one.
    pub(crate) fn show(shutdown_handle: Option<&Self>, live_state: &Arc<LiveState>) {
        if let Some(shutdown_handle) = shutdown_handle {
            // Whoever holds us may have gone; `stop` then says so.
            let _ = shutdown_handle.live_state.send(Arc::clone(live_state));
        }
    }

    /// Ends when the one who holds us lets go; never, if nobody does.
    pub(crate) async fn let_go(shutdown_handle: &mut Option<Self>) {
        match shutdown_handle {
            Some(shutdown_handle) => drop((&mut shutdown_handle.stop).await),
            None => std::future::pending().await,
        }
    }
}
