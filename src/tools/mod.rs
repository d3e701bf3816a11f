//! Programs beside the server: the demonstration.

pub mod demo;
