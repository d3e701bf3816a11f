#![no_main]

#[path = "../targets/connections.rs"]
mod connections;

libfuzzer_sys::fuzz_target!(|data: &[u8]| connections::target(data));
