//! The control plane.
pub mod eject;
pub mod feed;
pub mod health;
pub mod log;
pub mod privileges;
pub mod probe;
pub mod stats;
pub mod systemd;

#[cfg(test)]
mod fixture;
