#![no_main]

#[path = "../targets/compare.rs"]
mod compare;

libfuzzer_sys::fuzz_target!(|data: &[u8]| compare::target(data));
