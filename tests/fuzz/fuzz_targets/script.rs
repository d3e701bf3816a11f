#![no_main]

#[path = "../targets/script.rs"]
mod script;

libfuzzer_sys::fuzz_target!(|data: &[u8]| script::target(data));
