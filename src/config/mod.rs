//! What the operator asked for. Nothing in here has side effects.

pub mod prefix;
pub mod snapshot;
