//! The operator's configuration. Nothing in here has side effects.
//!
//! ```text
//!  flags ─┐
//!         ├─► load ─► Draft (as written) ─► compile ─► Boot + Snapshot + Slots, or all errors
//!  Lua ───┘     └───► LuaHost (functions of health checks)
//! ```
//!
//! The steps, for the control thread:
//! - [`flags::parse`] parses the command line once: serve, demo or generate.
//! - [`load`](crate::lua::front_end::load) evaluates the flags and their file, at the start and at each reload.
//! - [`compile::compile`] turns its [`Draft`] into the [`Compiled`]: [`Boot`] (compared with
//!   [`Boot::differences`] at a reload), [`Snapshot`](crate::model::Snapshot), and the new
//!   [`Slots`], to be kept if it is published and dropped if not. Call [`Slots::reclaim`] before.
//! - [`diff::diff`] lists what a reload changed.
//! - [`LuaHost`](crate::lua::front_end::LuaHost)'s `choose` and `judge` run the functions of a health check; a
//!   [`Snapshot`](crate::model::Snapshot) belongs to the `LuaHost` it was loaded with.
//!
//! The documents are generated from the tables [`options`] (process settings) and [`functions`], and
//! from what the Lua front end declares: [`documents`](crate::tools::documents).

pub mod bench;
pub mod caches;
pub mod carbon;
pub mod chains;
pub mod compile;
pub mod criteria;
pub mod diff;
pub mod draft;
pub mod error;
pub mod flags;
pub mod functions;
mod globals;
pub mod lists;
pub mod log_style;
pub(crate) mod loops;
mod older_options;
pub mod options;
pub mod password;
pub mod reflect;
pub mod relays;
pub mod replay;
pub mod ruleset;
pub mod scope;
pub mod slots;
pub mod value;
pub(crate) mod warnings;
pub mod web;

pub use crate::config::compile::{Boot, Compiled, compile};
pub use crate::config::diff::diff;
pub use crate::config::draft::Draft;
pub use crate::config::error::{ConfigError, Origin};
pub use crate::config::flags::{DemoOptions, Flags, Invocation};
pub use crate::config::slots::Slots;

/// Returns the exit code of the process if the file called `os.exit`.
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
