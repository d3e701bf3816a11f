//! Zone transfers on backend connections: each has one to itself.

use crate::base::addr::Route;
use crate::shard::backend::BackendConnections;
use crate::wire::transfer::Transfer;

/// The ids of a zone transfer, which has its connection to itself. On the wire it has the client's
/// own: a signature covers messages before it with the id that they had at the server (RFC 8945,
/// 5.3.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct TransferIds {
    on_wire: u16,
    in_table: u16,
}

impl BackendConnections {
    /// Returns the transfer on a connection.
    pub(crate) fn transfer(&mut self, route: Route) -> Option<&mut Transfer> {
        self.connection_mut(route)?.transfer.as_mut()
    }

    /// Returns the id on the wire for the query that the table has under `in_table`: a zone transfer
    /// gets `own`, the client's.
    pub(crate) fn id_on_wire(&mut self, route: Route, in_table: u16, own: u16) -> u16 {
        let Some(connection) = self.connection_mut(route).filter(|c| c.transfer.is_some()) else {
            return in_table;
        };
        connection.transfer_ids = Some(TransferIds { on_wire: own, in_table });
        own
    }

    /// Returns the id that the table has for the query of a message with the id `on_wire`; none when
    /// a zone transfer has another id.
    pub(crate) fn id_in_table(&self, route: Route, on_wire: u16) -> Option<u16> {
        match self.connection(route).and_then(|c| c.transfer_ids) {
            Some(ids) => (ids.on_wire == on_wire).then_some(ids.in_table),
            None => Some(on_wire),
        }
    }

    /// Returns whether a zone transfer is on the connection.
    pub(crate) fn is_transfer(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| l.transfer.is_some())
    }

    /// A message of a zone transfer has arrived on the connection, with more to come.
    pub(crate) fn on_transfer_started(&mut self, route: Route) {
        if let Some(connection) = self.connection_mut(route) {
            connection.transfer_started = true;
        }
    }

    /// Returns whether messages of a zone transfer have arrived on the connection.
    pub(crate) fn is_transferring(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| l.transfer_started)
    }
}
