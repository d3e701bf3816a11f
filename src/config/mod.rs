//! What the operator asked for. Nothing in here has side effects.
//!
//! ```text
//!  flags ─┐
//!         ├─► load ─► Draft (as written) ─► compile ─► Boot + Snapshot + Slots, or all errors
//!  Lua ───┘     └───► LuaHost (functions of health checks)
//! ```
//!
//! The way through, for the control thread:
//! - [`flags::parse`] reads the command line once: serve, demo or generate.
//! - [`load`](crate::lua::front_end::load) evaluates the flags and the file they name, at the start and at each reload.
//! - [`compile::compile`] makes of its [`Draft`] the [`Compiled`]: [`Boot`] (compare with
//!   [`Boot::differences`] at a reload), [`Snapshot`](crate::model::Snapshot), and the new [`Slots`],
//!   to be kept if it is published and dropped if not. Call [`Slots::reclaim`] before.
//! - [`diff::diff`] says in lines what a reload changed.
//! - [`LuaHost`](crate::lua::front_end::LuaHost)'s `choose` and `judge` run the functions that a health check names; a
//!   [`Snapshot`](crate::model::Snapshot) goes with the `LuaHost` it was loaded with.
//! - [`generate::document`] prints the man page, completions and the reference.
//!
//! The tables that everything is made from: [`options`] (process settings) and [`functions`].

mod chains;
pub mod compile;
pub mod diff;
pub mod draft;
pub mod error;
pub mod flags;
pub mod functions;
pub mod generate;
pub mod options;
pub mod relays;
pub mod ruleset;
pub mod slots;
pub mod value;

pub use crate::config::compile::{Boot, Compiled, compile};
pub use crate::config::diff::diff;
pub use crate::config::draft::Draft;
pub use crate::config::error::{ConfigError, Origin};
pub use crate::config::flags::{DemoOptions, Flags, Invocation};
pub use crate::config::slots::Slots;

/// The code that the process is to end with, if the file called `os.exit`.
#[must_use]
pub fn exit_code(errors: &[ConfigError]) -> Option<u8> {
    // The low eight bits, as the kernel takes them.
    errors.iter().find_map(|e| {
        let error::Fault::Exit(code) = e.fault else { return None };
        Some(code.to_le_bytes()[0])
    })
}

#[cfg(test)]
pub(crate) mod tests;
