//! Packets of one batch on their way out: queries by their route, answers by their listener.

use std::os::fd::AsFd;

use socket2::Socket;

use crate::base::addr::{ListenerSlot, Route};
use crate::engine::sys::{Arrivals, Departures, OutgoingDatagram, Segment};
use crate::shard::Shard;
use crate::stats::drop_reason::DropReason;

/// Packets of one batch on their way out.
#[derive(Debug)]
pub(crate) struct SendBatch {
    pub(crate) queries: Vec<(Route, OutgoingDatagram)>,
    pub(crate) deliveries: Vec<(ListenerSlot, OutgoingDatagram)>,
    pub(crate) datagrams: Vec<OutgoingDatagram>,
    pub(crate) refused: Vec<usize>,
    pub(crate) departures: Departures,
}

impl SendBatch {
    pub(crate) fn new(batch: usize) -> Self {
        Self {
            queries: Vec::with_capacity(batch),
            deliveries: Vec::with_capacity(batch),
            datagrams: Vec::with_capacity(batch),
            refused: Vec::with_capacity(batch),
            departures: Departures::new(batch),
        }
    }

    /// Sends answers to clients, one call a listener.
    #[inline]
    pub(crate) fn deliver<'s>(
        &mut self,
        socket: impl Fn(ListenerSlot) -> Option<&'s Socket>,
        arrivals: &Arrivals,
        shard: &Shard,
    ) {
        // Four times in each turn, and mostly there is none.
        if !self.deliveries.is_empty() {
            self.deliver_all(socket, arrivals, shard);
        }
    }

    fn deliver_all<'s>(
        &mut self,
        socket: impl Fn(ListenerSlot) -> Option<&'s Socket>,
        arrivals: &Arrivals,
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
            self.departures.send(socket, arrivals, &self.datagrams, Segment::Never, &mut |range, _| {
                range.for_each(|_| {
                    shard.drop(DropReason::AnswerSendError);
                });
            });
        }
        self.deliveries.clear();
    }
}
