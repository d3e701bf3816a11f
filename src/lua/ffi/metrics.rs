//! The C functions of the LuaFFI family that declare and change metrics of the configuration.

use std::ffi::c_char;

use crate::lua::ffi::{c_functions, passed, string};
use crate::lua::state::metrics;
use crate::stats::custom_metrics::{self, Labels};

c_functions! {
    "bool (*)(const char*, size_t, const char*, const char*, const char*)"
    fn dnsdist_ffi_metric_declare(name: *const c_char, length: usize, kind: *const c_char, description: *const c_char, prometheus: *const c_char) -> bool {
        // SAFETY: as the macro says.
        let (name, kind, description, prometheus) =
            unsafe { (passed(name, length), string(kind), string(description), string(prometheus)) };
        metrics::declare(name, kind, description, Some(prometheus), false, None).is_ok()
    }
    "void (*)(const char*, size_t)"
    fn dnsdist_ffi_metric_inc(name: *const c_char, length: usize) {
        // SAFETY: as the macro says.
        add(unsafe { passed(name, length) }, 1.0);
    }
    "void (*)(const char*, size_t, uint64_t)"
    fn dnsdist_ffi_metric_inc_by(name: *const c_char, length: usize, step: u64) {
        // SAFETY: as the macro says.
        add(unsafe { passed(name, length) }, step as f64);
    }
    "void (*)(const char*, size_t)"
    fn dnsdist_ffi_metric_dec(name: *const c_char, length: usize) {
        // SAFETY: as the macro says.
        add(unsafe { passed(name, length) }, -1.0);
    }
    "void (*)(const char*, size_t, double)"
    fn dnsdist_ffi_metric_set(name: *const c_char, length: usize, value: f64) {
        // SAFETY: as the macro says.
        let name = String::from_utf8_lossy(unsafe { passed(name, length) });
        if custom_metrics::all().set(&name, &Labels::new(), value).is_err() {
            // There is no other way to say it.
            metrics::failed();
        }
    }
    "double (*)(const char*, size_t, bool)"
    fn dnsdist_ffi_metric_get(name: *const c_char, length: usize, _is_counter: bool) -> f64 {
        // SAFETY: as the macro says.
        let name = String::from_utf8_lossy(unsafe { passed(name, length) });
        custom_metrics::all().value(&name, &Labels::new()).unwrap_or_default()
    }
}

fn add(name: &[u8], step: f64) {
    if custom_metrics::all().add(&String::from_utf8_lossy(name), &Labels::new(), step).is_err() {
        // There is no other way to say it.
        metrics::failed();
    }
}
