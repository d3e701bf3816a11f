//! DNS wire format (RFC 1035): views and in-place edits. No I/O, no clock, and no allocation except
//! for configurations ([`name::from_text`], [`svc`]) and incomplete streams ([`frame`]). Every
//! function accepts whatever the network sends and never panics on it.

#![cfg_attr(
    not(test),
    warn(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::cast_lossless
    )
)]

pub mod answer;
pub mod codes;
pub mod cookie;
pub mod copied;
pub mod ecs;
pub mod edit;
pub mod edns;
pub mod frame;
pub mod header;
pub mod keepalive;
pub mod name;
pub mod padding;
pub mod proxy;
pub mod query;
pub mod rebuild;
pub mod records;
pub mod signature;
pub mod svc;
pub mod transfer;

#[cfg(test)]
mod tests;
