//! The control plane: slow work on a thread of its own; it never touches a packet.

pub mod concentrate;
