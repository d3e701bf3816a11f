//! The end of the process: shards finish what they have begun, or are cut off after the drain time.

use std::time::Duration;

use crate::base::time::TickDelta;
use crate::control::plan::Source;
use crate::control::signals::Signals;
use crate::control::{Control, SOON};
use crate::engine::{Message, clock};

/// Aborted shards end within a turn of their loop.
const ABORT: TickDelta = TickDelta::from_ms(2_000);

impl<S: Source> Control<S> {
    /// Lets the shards finish outstanding queries, within the drain time.
    pub(super) async fn stop(&mut self, signals: &mut Signals) {
        self.notifier.stopping();
        self.monitor.drain();
        self.source.interrupt();
        self.cache_snapshots.stop_reading();
        tracing::info!(drain_ms = self.settings.drain.as_ms_ceil(), "stopping");
        self.shards.send_all(&|| Message::Stop);
        let deadline = clock::now() + self.settings.drain;
        let mut is_urgent = false;
        while !self.shards.all_ended() && clock::now() < deadline {
            tokio::select! {
                _ = signals.term.recv() => is_urgent = true,
                _ = signals.int.recv() => is_urgent = true,
                () = tokio::time::sleep(Duration::from(SOON)) => {}
            }
            if is_urgent {
                break;
            }
        }
        if !self.shards.all_ended() {
            self.warn_of_cuts();
            self.shards.send_all(&|| Message::Abort);
            let deadline = clock::now() + ABORT;
            while !self.shards.all_ended() && clock::now() < deadline {
                tokio::time::sleep(Duration::from(SOON)).await;
            }
        }
        if let Ok(traffic) = self.monitor.traffic() {
            traffic.stop();
        }
        is_urgent = self.tell_exit(signals, is_urgent).await;
        self.querylog.finish();
        // A start that has failed leaves the files to the process that has its addresses.
        self.cache_snapshots.finish(!self.serving, &self.notifier, signals, is_urgent).await;
        tracing::info!("stopped");
    }

    /// Says what a stop cuts, because it has not finished in time.
    fn warn_of_cuts(&self) {
        let (mut queries, mut client_connections, mut relay_sessions) = (0, 0, 0);
        for shard in self.feed.live_state().shards() {
            queries += shard.outstanding_total.get();
            client_connections += shard.clients.open.get();
            relay_sessions += shard.relays.open.get();
        }
        tracing::warn!(queries, client_connections, relay_sessions, "aborting what has not finished");
    }
}
