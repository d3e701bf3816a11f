#![no_main]

#[path = "../targets/cache_snapshot.rs"]
mod cache_snapshot;

libfuzzer_sys::fuzz_target!(|data: &[u8]| cache_snapshot::target(data));
