//! Answers to UDP clients that become ready outside a receive batch: a backend has answered over a
//! connection, or a delayed answer is due.
//!
//! They borrow the receive buffers, which are free between two batches. When the buffers are full,
//! they are sent first.

use socket2::Socket;

use crate::base::addr::{Client, ListenerSlot};
use crate::engine::datagram::local_addresses::Locals;
use crate::engine::datagram::send_batch::SendBatch;
use crate::engine::sys::{OutgoingDatagram, ReceiveBuffers};
use crate::shard::Shard;
use crate::stats::drop_reason::DropReason;

/// The deferred answers of one piece of work.
#[derive(Debug)]
pub(crate) struct DeferredAnswers<'e> {
    send_batch: &'e mut SendBatch,
    buffers: &'e mut ReceiveBuffers,
    locals: &'e Locals,
    /// Buffers in use.
    used: usize,
    late: Vec<(Client, Vec<u8>)>,
    /// Answers too long for a buffer.
    too_long: u32,
}

impl<'e> DeferredAnswers<'e> {
    /// Creates an empty set; the buffers must be free.
    pub(crate) const fn new(
        send_batch: &'e mut SendBatch,
        buffers: &'e mut ReceiveBuffers,
        locals: &'e Locals,
    ) -> Self {
        Self { send_batch, buffers, locals, used: 0, late: Vec::new(), too_long: 0 }
    }

    /// Adds an answer, and sends the earlier ones if the buffers are full.
    pub(crate) fn push(&mut self, to: Client, bytes: &[u8]) {
        if self.used == self.buffers.capacity() {
            return self.late.push((to, bytes.to_vec()));
        }
        let mut packet = self.buffers.packet(self.used);
        if !packet.replace(bytes) {
            self.too_long += 1;
            return;
        }
        let (at, start, len) = (self.used, packet.start(), packet.len());
        let datagram =
            OutgoingDatagram { at, start, len, to: Some(to.peer), from: self.locals.local(to.local) };
        self.send_batch.deliveries.push((to.listener, datagram));
        self.used += 1;
    }

    /// Sends all answers, and counts those that are too long.
    pub(crate) fn deliver<'s>(mut self, socket: impl Fn(ListenerSlot) -> Option<&'s Socket>, shard: &Shard) {
        self.send_batch.deliver(&socket, self.buffers, shard);
        let late = std::mem::take(&mut self.late);
        for batch in late.chunks(self.buffers.capacity()) {
            self.used = 0;
            batch.iter().for_each(|(to, bytes)| self.push(*to, bytes));
            self.send_batch.deliver(&socket, self.buffers, shard);
        }
        (0..self.too_long).for_each(|_| {
            shard.drop(DropReason::AnswerTooLong);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addr::{Endpoint, LocalSlot};
    use crate::base::rng::ShardRng;
    use crate::engine::sys::MESSAGE_MAX;
    use crate::model::Snapshot;
    use crate::stats::live::LiveState;
    use std::net::UdpSocket;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn every_deferred_answer_is_sent_or_counted() {
        let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        let listener_socket = Socket::from(UdpSocket::bind("127.0.0.1:0").expect("a listener socket"));
        let peer = Endpoint::from(client.local_addr().expect("its address"));
        let to = Client { peer, listener: ListenerSlot(0), local: LocalSlot::LISTENER, connection: None };
        let live_state = Arc::new(LiveState::new(1, 1));
        let shard = Shard::new(0, live_state.clone(), Arc::new(Snapshot::default()), ShardRng::from_seed(1));
        let (mut send_batch, mut buffers, locals) =
            (SendBatch::new(2), ReceiveBuffers::new(2), Locals::new());
        // At the start, in the middle and at the end of a batch.
        let too_long = [1, 4, 8];
        for round in 0..2 {
            let mut deferred = DeferredAnswers::new(&mut send_batch, &mut buffers, &locals);
            for n in 0..9_u8 {
                deferred.push(to, &vec![n; if too_long.contains(&n) { 2 * MESSAGE_MAX } else { 40 }]);
            }
            deferred.deliver(|_| Some(&listener_socket), &shard);
            let mut buffer = [0; 64];
            for n in (0..9).filter(|n| !too_long.contains(n)) {
                let length = client.recv(&mut buffer).expect("an answer");
                assert_eq!(buffer[..length], [n; 40], "round {round}");
            }
            let counted = live_state.shards()[0].dropped(DropReason::AnswerTooLong).get();
            assert_eq!(counted, 3 * (round + 1), "round {round}");
        }
    }
}
