#![no_main]

#[path = "../targets/networks.rs"]
mod networks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| networks::target(data));
