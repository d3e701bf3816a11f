//! Packets of one batch on their way out: queries by their route, answers by their listener.

use std::os::fd::AsFd;

use socket2::Socket;

use super::sys::{Arrivals, Departures, Parcel, Segment};
use crate::addr::{ListenerSlot, Route};
use crate::shard::Shard;
use crate::shard::verdict::DropReason;

/// Packets of one batch on their way out.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) forwards: Vec<(Route, Parcel)>,
    pub(super) deliveries: Vec<(ListenerSlot, Parcel)>,
    pub(super) parcels: Vec<Parcel>,
    pub(super) refused: Vec<usize>,
    pub(super) departures: Departures,
}

impl Outbox {
    pub(super) fn new(batch: usize) -> Self {
        Self {
            forwards: Vec::with_capacity(batch),
            deliveries: Vec::with_capacity(batch),
            parcels: Vec::with_capacity(batch),
            refused: Vec::with_capacity(batch),
            departures: Departures::new(batch),
        }
    }

    /// Sends answers to clients, one call a listener.
    pub(super) fn deliver<'s>(
        &mut self,
        socket: impl Fn(ListenerSlot) -> Option<&'s Socket>,
        arrivals: &Arrivals,
        shard: &Shard,
    ) {
        if self.deliveries.is_empty() {
            return;
        }
        self.deliveries.sort_by_key(|d| d.0);
        let mut from = 0;
        while let Some((listener, _)) = self.deliveries.get(from).copied() {
            self.parcels.clear();
            self.parcels.extend(self.deliveries[from..].iter().take_while(|d| d.0 == listener).map(|d| d.1));
            from += self.parcels.len();
            let Some(socket) = socket(listener) else {
                self.parcels.iter().for_each(|_| {
                    shard.drop(DropReason::ListenerGone);
                });
                continue;
            };
            let socket = socket.as_fd();
            self.departures.send(socket, arrivals, &self.parcels, Segment::Never, &mut |range, _| {
                range.for_each(|_| {
                    shard.drop(DropReason::AnswerSendError);
                });
            });
        }
        self.deliveries.clear();
    }
}
