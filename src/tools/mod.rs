//! Programs beside the server: the console's client, the demonstration, the documents.

pub mod console;
pub mod demo;
pub mod documents;
