//! Queries that a second pool gets too. Its response goes to who compares both, and to nobody else.

use crate::balance::Subject;
use crate::base::addr::{Client, PoolSlot};
use crate::base::packet::Packet;
use crate::rules::apply;
use crate::rules::query_state::{EcsSettings, Shadow};
use crate::shard::Shard;
use crate::shard::dispatch::outstanding::{PendingQuery, Waiter};
use crate::shard::dispatch::query_table::EntryId;
use crate::shard::pipeline::{Out, Query, visible_client};
use crate::shard::scratch::Scratch;
use crate::shard::shadows;
use crate::stats::drop_reason::DropReason;
use crate::stats::shadow_queue::{End, ShadowEvent, Side};
use crate::wire::{cookie, copied, ecs, signature, transfer};

use crate::shard::pipeline::emit;

/// The bits of the opcode in the third byte of a message; QUERY is 0.
const OPCODE: u8 = 0x78;
/// What a client without EDNS takes, bytes (RFC 1035, 2.3.4): its copy, which has an OPT record for the
/// mark, is truncated alike.
const PLAIN_PAYLOAD: u16 = 512;

impl Shard {
    /// Queues a copy of a query that goes to a server, for a server of the pool that a rule has named,
    /// if there is one; returns whether it has.
    pub(super) fn begin_shadow(&mut self, query: &mut Query, packet: &Packet<'_>) -> bool {
        let Some(state) = &mut query.state else { return false };
        let Shadow::Wanted(pool) = std::mem::take(&mut state.shadow) else { return false };
        // A transfer is no answer that could be compared. What changes something (UPDATE, NOTIFY) is for
        // its own server only.
        let is_query = packet.bytes().get(2).is_some_and(|flags| flags & OPCODE == 0);
        if !is_query || transfer::is_transfer(query.facts.qtype) {
            return false;
        }
        if copied::has(packet.bytes(), self.dispatcher.copies.mark()) {
            self.cx.drop(DropReason::TeeLoop);
            return false;
        }
        let is_queued = self.copy_to_pool(pool, query, packet).is_some();
        if !is_queued {
            self.cx.drop(DropReason::ShadowNotSent);
        }
        is_queued
    }

    fn copy_to_pool(&mut self, pool: PoolSlot, query: &mut Query, packet: &Packet<'_>) -> Option<()> {
        // It cannot be marked: it might come back for ever.
        if signature::is_signed(packet.bytes()) {
            return None;
        }
        let visible = visible_client(query.pending.client, query.state.as_deref());
        let id = self.shadows.next()?;
        let subject = Subject { qname: query.facts.qname(packet.bytes()), client: &visible.peer };
        let (cx, connections) = (&mut self.cx, &self.connections);
        let backend = self.dispatcher.select(cx, connections, pool, &subject, false, &[])?;
        let state = query.state.as_mut()?;
        state.shadow = Shadow::Asked(id);
        let (settings, sends_subnet) = (state.ecs, cx.sends_subnet(backend));
        // It goes by a datagram, whatever the client's was.
        let client = Client { connection: None, ..query.pending.client };
        let pending = PendingQuery { client, waiter: Waiter::Shadow(id), pool, ..query.pending };
        let mark = self.dispatcher.copies.mark();
        let by_stream = query.pending.came_by_connection();
        let payload = if by_stream { apply::OPT_PAYLOAD } else { PLAIN_PAYLOAD };
        self.shadows.queue.push((backend, pending, by_stream), packet.bytes(), |packet| {
            // It is of the client's server, and another may refuse it.
            cookie::remove_of_server(packet);
            if sends_subnet && settings.wanted {
                let (address, EcsSettings { v4, v6, replace, .. }) = (settings.address(&visible), settings);
                // If it does not fit, the copy goes without it.
                let _ = ecs::set(packet, address, v4, v6, replace, payload);
            }
            // What has no room for it is malformed, and comes to nothing.
            let _ = copied::mark(packet, mark, payload);
            true
        });
        Some(())
    }

    /// Sends the copies that wait.
    pub(in crate::shard) fn send_shadows(&mut self, scratch: &mut Scratch, out: Out<'_>) {
        while let Some(((backend, pending, by_stream), bytes)) = self.shadows.queue.take() {
            let mut packet = scratch.load(bytes);
            let Waiter::Shadow(id) = pending.waiter else { continue };
            let (cx, connections) = (&mut self.cx, &mut self.connections);
            let sent = self.dispatcher.send_unawaited(cx, connections, backend, &pending, &mut packet);
            let Some(sent) = sent else {
                self.cx.drop(DropReason::ShadowNotSent);
                continue;
            };
            let pool = self.cx.snapshot.pool(pending.pool).name.as_str().into();
            // When the queue is full, the pair is not compared.
            let _ = self.cx.stats().shadow_queue.file(ShadowEvent::Asked { id, pool, by_stream });
            emit(Some((sent, packet)), out);
        }
    }

    /// The query has ended without a response of its own server.
    pub(super) fn end_live_side(&mut self, entry: Option<EntryId>, shadow: Shadow) {
        let id = match shadow {
            Shadow::Asked(id) => Some(id),
            Shadow::No | Shadow::Wanted(_) => self.dispatcher.queries.take_shadow(entry),
        };
        if let Some(id) = id {
            shadows::ended(&self.cx, id, Side::Live, End::None);
        }
    }
}
