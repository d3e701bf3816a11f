//! What the functions of a configuration do, without running them: their instructions, and which
//! global names these use.

pub(crate) mod dump;
pub(crate) mod flow;
pub(crate) mod globals;
mod op;
pub(crate) mod shape;
