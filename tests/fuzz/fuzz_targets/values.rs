#![no_main]

#[path = "../targets/values.rs"]
mod values;

libfuzzer_sys::fuzz_target!(|data: &[u8]| values::target(data));
