//! Programs beside the server: the demonstration, the documents.

pub mod demo;
pub mod documents;
