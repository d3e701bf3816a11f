#![no_main]

#[path = "../targets/transfer.rs"]
mod transfer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| transfer::target(data));
