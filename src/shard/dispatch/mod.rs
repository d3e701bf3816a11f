//! Queries on their way: who asked, whom we asked, until when, and how often.

pub mod attempts;
pub mod delayed;
pub mod outstanding;
pub mod query_table;
