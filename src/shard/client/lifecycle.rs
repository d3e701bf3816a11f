//! What a connection may do in the state that it is in.

use crate::shard::client::{ClientConnection, ClientInterest, OUTPUT_FULL, State};
use crate::stats::close_reason::ClientCloseReason;
use crate::stats::connection_limits::ClientConnectionLimits;
use crate::stats::connection_limits::{ClientIdentity, ClientPermit};
use crate::wire::frame::Frames;

impl ClientConnection {
    /// As whose it counts where clients are told apart.
    pub(super) fn identity(&self, limits: &ClientConnectionLimits) -> ClientIdentity {
        self.client_permit
            .as_ref()
            .map_or_else(|| ClientIdentity::asks(self.client.peer, limits), ClientPermit::identity)
    }

    /// Whether another query that was read may be asked: of a client that has closed its end, too.
    pub(super) fn may_go_on(&self) -> bool {
        let state = match self.state {
            State::Open
            | State::Finishing(
                ClientCloseReason::Client | ClientCloseReason::Closing | ClientCloseReason::Duration,
            ) => true,
            State::Finishing(_) | State::Ended(_) | State::Gone => false,
        };
        state && self.in_flight < self.in_flight_share && self.output.len() <= OUTPUT_FULL
    }

    /// Whether whole queries that it holds may be asked now.
    pub(super) fn holds_queries(&self) -> bool {
        self.may_go_on() && self.frames.has_more()
    }

    /// Whether the engine may read.
    pub(super) fn may_read(&self) -> bool {
        self.state == State::Open && self.may_go_on() && !self.frames.has_more()
    }

    /// Gives the memory of an idle connection back.
    pub(super) fn rest(&mut self) {
        if self.in_flight == 0 {
            self.output.release();
        }
    }

    /// What the engine should do.
    pub(super) fn interest(&self) -> ClientInterest {
        match self.state {
            State::Open | State::Finishing(_) => ClientInterest::Serve { read: self.may_read() },
            State::Ended(why) => ClientInterest::Close(why),
            State::Gone => ClientInterest::Close(ClientCloseReason::Closing),
        }
    }

    /// Takes no more bytes; what it holds of a query is forgotten.
    pub(super) fn stop(&mut self, why: ClientCloseReason) {
        if self.state == State::Open {
            self.state = State::Finishing(why);
            if self.frames.is_partial() {
                self.frames = Frames::new();
            }
            self.begun = None;
        }
    }

    /// Why it is to end now that all it has asked is answered, if that is so.
    pub(super) fn is_finished(&self) -> Option<ClientCloseReason> {
        let State::Finishing(why) = self.state else { return None };
        (self.in_flight == 0 && self.output.is_empty() && !self.holds_queries()).then_some(why)
    }
}
