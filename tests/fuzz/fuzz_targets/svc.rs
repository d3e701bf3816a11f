#![no_main]

#[path = "../targets/svc.rs"]
mod svc;

libfuzzer_sys::fuzz_target!(|data: &[u8]| svc::target(data));
