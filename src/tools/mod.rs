//! Programs beside the server: the console's client, the demonstration, the tools that measure, the
//! documents.

pub mod bench;
pub mod capture;
pub mod console;
pub mod demo;
pub mod documents;
mod load;
pub mod reflect;
pub mod replay;
mod report;
pub mod scope;
