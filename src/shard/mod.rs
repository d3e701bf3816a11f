//! The data plane: one thread, one owner, no locks.

pub mod policy;
pub mod rules;
pub mod verdict;
