//! Messages of servers that match no query.

use crate::base::addr::Route;
use crate::base::packet::Packet;
use crate::shard::Shard;
use crate::shard::dispatch::outstanding::{Key, Lookup};
use crate::shard::dispatch::spoofing::Redraw;
use crate::shard::verdict::Verdict;
use crate::stats::drop_reason::DropReason;
use crate::wire::header::Header;
use crate::wire::query::Question;

impl Shard {
    /// Drops a message that matches no query, or not its question, and says why.
    #[cold]
    pub(super) fn on_unmatched(&mut self, key: Key, found: Lookup, packet: &Packet<'_>) -> Verdict {
        let (from, backend) = (key.route, key.route.backend);
        if from.is_connection() {
            // Only the server itself can send it.
            let reason = match found {
                Lookup::Settled(_) => DropReason::ResponseDuplicate,
                Lookup::Expired(_) => DropReason::ResponseLate,
                Lookup::Foreign => DropReason::ResponseForeign,
                Lookup::Live(_) => DropReason::ResponseMismatch,
            };
            return self.cx.unexpected(from, reason);
        }
        let question = Question::parse(packet.bytes()).map(|question| self.cx.hash(&question));
        // A server that refuses may not have parsed the question.
        let has_none = Header::parse(packet.bytes()).is_some_and(|header| header.qdcount() == 0);
        let is_of = |known: u64| has_none || question == Some(known);
        let spoofing = &mut self.dispatcher.spoofing;
        let explained = match found {
            Lookup::Settled(known) if is_of(known) => Some(DropReason::ResponseDuplicate),
            Lookup::Expired(known) if is_of(known) => Some(DropReason::ResponseLate),
            Lookup::Live(_) | Lookup::Settled(_) | Lookup::Expired(_) | Lookup::Foreign => {
                question.filter(|question| spoofing.is_late(key, *question)).map(|_| DropReason::ResponseLate)
            }
        };
        match explained {
            Some(reason) => {
                spoofing.on_explained(backend, self.cx.now);
                self.cx.unexpected(from, reason)
            }
            None if matches!(found, Lookup::Live(_)) => self.on_foreign(from, DropReason::ResponseMismatch),
            None => self.on_foreign(from, DropReason::ResponseForeign),
        }
    }

    /// A datagram has come to a backend's socket from another address.
    pub fn on_stranger(&mut self, from: Route) -> Verdict {
        self.on_foreign(from, DropReason::ResponseForeign)
    }

    fn on_foreign(&mut self, from: Route, reason: DropReason) -> Verdict {
        let (cx, backend) = (&self.cx, from.backend);
        let stats = cx.stats().backend(backend);
        stats.foreign.add(1);
        if self.dispatcher.spoofing.on_foreign(backend, cx.now) {
            stats.foreign_bursts.add(1);
            self.dispatcher.revise_connections(cx, backend);
        }
        cx.unexpected(from, reason)
    }

    /// Returns the next backend that is to have new sockets. Once these are open, the engine calls
    /// [`Shard::redrawn`].
    pub fn next_redraw(&mut self) -> Option<Redraw> {
        while let Some(backend) = self.dispatcher.spoofing.next_redraw() {
            if let Some(sockets) = self.dispatcher.outstanding.other_sockets(backend) {
                return Some(Redraw {
                    backend,
                    sockets,
                    drained: self.dispatcher.drained(&self.cx, backend),
                });
            }
        }
        None
    }

    /// New sockets of a backend are open: its queries leave by these. The old ones are to receive
    /// until the time that was said.
    pub fn redrawn(&mut self, redraw: &Redraw) {
        let Redraw { backend, ref sockets, drained } = *redraw;
        let Ok(first) = u8::try_from(sockets.start) else { return };
        self.dispatcher.outstanding.use_sockets(backend, first);
        self.dispatcher.spoofing.redrawn(backend, drained);
        self.cx.stats().backend(backend).redraws.add(1);
    }

    /// Ends what bursts of foreign answers have begun and is over.
    pub fn calm_spoofing(&mut self) {
        let mut calm = Vec::new();
        self.dispatcher.spoofing.calm(self.cx.now, |backend| calm.push(backend));
        for backend in calm {
            self.dispatcher.revise_connections(&self.cx, backend);
        }
    }
}
