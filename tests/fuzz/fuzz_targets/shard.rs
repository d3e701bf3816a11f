#![no_main]

#[path = "../targets/shard.rs"]
mod shard;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shard::target(data));
