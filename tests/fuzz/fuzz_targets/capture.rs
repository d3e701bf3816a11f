#![no_main]

#[path = "../targets/capture.rs"]
mod capture;

libfuzzer_sys::fuzz_target!(|data: &[u8]| capture::target(data));
