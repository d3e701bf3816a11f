//! The outgoing datagrams of one batch: queries by route, answers by listener.

use std::os::fd::AsFd;

use socket2::Socket;

use crate::base::addr::{ListenerSlot, Route};
use crate::engine::sys::{OutgoingDatagram, ReceiveBuffers, Segment, SendBuffers};
use crate::shard::Shard;
use crate::stats::drop_reason::DropReason;

/// The outgoing datagrams of one batch.
#[derive(Debug)]
pub(crate) struct SendBatch {
    pub(crate) queries: Vec<(Route, OutgoingDatagram)>,
    pub(crate) deliveries: Vec<(ListenerSlot, OutgoingDatagram)>,
    pub(crate) datagrams: Vec<OutgoingDatagram>,
    pub(crate) refused: Vec<usize>,
    pub(crate) send_buffers: SendBuffers,
}

impl SendBatch {
    pub(crate) fn new(batch: usize) -> Self {
        Self {
            queries: Vec::with_capacity(batch),
            deliveries: Vec::with_capacity(batch),
            datagrams: Vec::with_capacity(batch),
            refused: Vec::with_capacity(batch),
            send_buffers: SendBuffers::new(batch),
        }
    }

    /// Sends answers to clients, with one call per listener.
    #[inline]
    pub(crate) fn deliver<'s>(
        &mut self,
        socket: impl Fn(ListenerSlot) -> Option<&'s Socket>,
        received_datagrams: &ReceiveBuffers,
        shard: &Shard,
    ) {
        // Called four times in each turn, mostly with nothing to send.
        if !self.deliveries.is_empty() {
            self.deliver_all(socket, received_datagrams, shard);
        }
    }

    fn deliver_all<'s>(
        &mut self,
        socket: impl Fn(ListenerSlot) -> Option<&'s Socket>,
        received_datagrams: &ReceiveBuffers,
        shard: &Shard,
    ) {
        self.deliveries.sort_by_key(|d| d.0);
        let mut from = 0;
        while let Some((listener, _)) = self.deliveries.get(from).copied() {
            self.datagrams.clear();
            self.datagrams
                .extend(self.deliveries[from..].iter().take_while(|d| d.0 == listener).map(|d| d.1));
            from += self.datagrams.len();
            let Some(socket) = socket(listener) else {
                self.datagrams.iter().for_each(|_| {
                    shard.drop(DropReason::ListenerGone);
                });
                continue;
            };
            let socket = socket.as_fd();
            self.send_buffers.send(
                socket,
                received_datagrams,
                &self.datagrams,
                Segment::Never,
                &mut |range, _| {
                    range.for_each(|_| {
                        shard.drop(DropReason::AnswerSendError);
                    });
                },
            );
        }
        self.deliveries.clear();
    }
}
