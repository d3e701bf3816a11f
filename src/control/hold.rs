//! A hold on the control plane from within its process: `dnslob demo` sees its board and ends it.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::live::Board;

/// What the one who holds a control plane gave it.
#[derive(Debug)]
pub struct Hold {
    /// Gets the live state once the shards are to be started.
    pub board: crossbeam_channel::Sender<Arc<Board>>,
    /// Told or dropped: stop, as by SIGTERM.
    pub stop: oneshot::Receiver<()>,
}

impl Hold {
    /// Shows the board to the one who holds us, if there is one.
    pub(super) fn show(hold: Option<&Self>, board: &Arc<Board>) {
        if let Some(hold) = hold {
            // Whoever holds us may have gone; `stop` then says so.
            let _ = hold.board.send(Arc::clone(board));
        }
    }

    /// Ends when the one who holds us lets go; never, if nobody does.
    pub(super) async fn let_go(hold: &mut Option<Self>) {
        match hold {
            Some(hold) => drop((&mut hold.stop).await),
            None => std::future::pending().await,
        }
    }
}
