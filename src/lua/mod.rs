//! Everything that runs or reads Lua: the configuration front end, and the functions of each shard.

pub(crate) mod code;
pub mod ffi;
pub mod front_end;
pub mod limits;
pub(crate) mod machine;
pub mod state;
