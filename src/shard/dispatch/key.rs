//! What an attempt is known by: in its server's table, in its timer, and in its query's entry.

use crate::base::addr::Route;

/// The identity of an attempt: the backend's socket and the id on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The route that it was sent on.
    pub route: Route,
    /// Its id on the wire.
    pub id: u16,
}
