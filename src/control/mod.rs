//! The control plane.
pub mod eject;
pub mod health;
pub mod probe;
