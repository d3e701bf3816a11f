#![no_main]

#[path = "../targets/probe.rs"]
mod probe;

libfuzzer_sys::fuzz_target!(|data: &[u8]| probe::target(data));
