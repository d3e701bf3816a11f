//! What a connection may do in its state.

use crate::shard::client::{ClientConnection, ClientInterest, OUTPUT_FULL, State};
use crate::stats::close_reason::ClientCloseReason;
use crate::stats::connection_limits::ClientConnectionLimits;
use crate::stats::connection_limits::{ClientIdentity, ClientPermit};
use crate::wire::frame::Frames;

impl ClientConnection {
    /// Returns the client that it counts for in per-client limits.
    pub(super) fn identity(&self, limits: &ClientConnectionLimits) -> ClientIdentity {
        self.client_permit
            .as_ref()
            .map_or_else(|| ClientIdentity::asks(self.client.peer, limits), ClientPermit::identity)
    }

    /// Returns whether another query that was read may be handled, also if the client has closed
    /// its end.
    pub(super) fn may_continue(&self) -> bool {
        let state = match self.state {
            State::Open
            | State::Finishing(
                ClientCloseReason::Client | ClientCloseReason::Closing | ClientCloseReason::Duration,
            ) => true,
            State::Finishing(_) | State::Ended(_) | State::Gone => false,
        };
        state && self.in_flight < self.in_flight_share && self.output.len() <= OUTPUT_FULL
    }

    /// Returns whether complete queries that it holds may be handled now.
    pub(super) fn holds_queries(&self) -> bool {
        self.may_continue() && self.frames.has_more()
    }

    /// Returns whether the engine may read.
    pub(super) fn may_read(&self) -> bool {
        self.state == State::Open && self.may_continue() && !self.frames.has_more()
    }

    /// Frees the memory of an idle connection.
    pub(super) fn free_buffers(&mut self) {
        if self.in_flight == 0 {
            self.output.release();
        }
    }

    /// Returns what the engine must do.
    pub(super) fn interest(&self) -> ClientInterest {
        match self.state {
            State::Open | State::Finishing(_) => ClientInterest::Serve { read: self.may_read() },
            State::Ended(why) => ClientInterest::Close(why),
            State::Gone => ClientInterest::Close(ClientCloseReason::Closing),
        }
    }

    /// Stops reading; a partial query is dropped.
    pub(super) fn stop(&mut self, why: ClientCloseReason) {
        if self.state == State::Open {
            self.state = State::Finishing(why);
            if self.frames.is_partial() {
                self.frames = Frames::new();
            }
            self.partial_since = None;
        }
    }

    /// Returns why it ends, if all its queries are answered and it is to end.
    pub(super) fn is_finished(&self) -> Option<ClientCloseReason> {
        let State::Finishing(why) = self.state else { return None };
        (self.in_flight == 0 && self.output.is_empty() && !self.holds_queries()).then_some(why)
    }
}
