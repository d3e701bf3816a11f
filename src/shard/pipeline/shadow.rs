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
use crate::wire::{copied, ecs, signature, transfer};

use crate::shard::pipeline::emit;

impl Shard {
    /// Keeps a copy of a query that goes to a server, for a server of the pool that a rule has named,
    /// if there is one.
    pub(super) fn begin_shadow(&mut self, query: &mut Query, packet: &Packet<'_>) {
        let Some(state) = &mut query.state else { return };
        let Shadow::Wanted(pool) = std::mem::take(&mut state.shadow) else { return };
        // A transfer is no answer that could be compared.
        if transfer::is_transfer(query.facts.qtype) {
            return;
        }
        if copied::has(packet.bytes(), self.dispatcher.copies.mark()) {
            self.cx.drop(DropReason::TeeLoop);
        } else if self.copy_to_pool(pool, query, packet).is_none() {
            self.cx.drop(DropReason::ShadowNotSent);
        }
    }

    fn copy_to_pool(&mut self, pool: PoolSlot, query: &mut Query, packet: &Packet<'_>) -> Option<()> {
        let name = self.cx.snapshot.pools.get(pool.index())?.name.as_str().into();
        // It cannot be marked: it might come back for ever.
        if signature::is_signed(packet.bytes()) {
            return None;
        }
        let visible = visible_client(query.pending.client, query.state.as_deref());
        let id = self.shadows.next()?;
        let subject = Subject { qname: query.facts.qname(packet.bytes()), client: &visible.peer };
        let (cx, connections) = (&mut self.cx, &self.connections);
        let backend = self.dispatcher.select(cx, connections, pool, &subject, false, &[])?;
        if !cx.stats().shadow_queue.file(ShadowEvent::Asked { id, pool: name }) {
            return None;
        }
        let state = query.state.as_mut()?;
        state.shadow = Shadow::Asked(id);
        let (settings, sends_subnet) = (state.ecs, cx.sends_subnet(backend));
        // It goes by a datagram, whatever the client's was.
        let client = Client { connection: None, ..query.pending.client };
        let pending = PendingQuery { client, waiter: Waiter::Shadow(id), pool, ..query.pending };
        let mark = self.dispatcher.copies.mark();
        self.shadows.queue.push((backend, pending), packet.bytes(), |packet| {
            if sends_subnet && settings.wanted {
                let (address, EcsSettings { v4, v6, replace, .. }) = (settings.address(&visible), settings);
                // If it does not fit, the copy goes without it.
                let _ = ecs::set(packet, address, v4, v6, replace, apply::OPT_PAYLOAD);
            }
            // What has no room for it is malformed, and comes to nothing.
            let _ = copied::mark(packet, mark, apply::OPT_PAYLOAD);
            true
        });
        Some(())
    }

    /// Sends the copies that wait.
    pub(in crate::shard) fn send_shadows(&mut self, scratch: &mut Scratch, out: Out<'_>) {
        while let Some(((backend, pending), bytes)) = self.shadows.queue.take() {
            let mut packet = scratch.load(bytes);
            let (cx, connections) = (&mut self.cx, &mut self.connections);
            let sent = self.dispatcher.send_shadow(cx, connections, backend, &pending, &mut packet);
            match (sent, pending.waiter) {
                (Some(sent), _) => emit(Some((sent, packet)), out),
                (None, Waiter::Shadow(id)) => {
                    self.cx.drop(DropReason::ShadowNotSent);
                    shadows::ended(&self.cx, id, Side::Shadow, End::None);
                }
                (None, Waiter::Client(_) | Waiter::Nobody | Waiter::Copy) => {}
            }
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
