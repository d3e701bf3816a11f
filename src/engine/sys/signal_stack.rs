//! A larger stack for signal handlers.

use std::ptr;

/// Bytes. The standard library gives a thread 8 kB, of which one handler takes up to 3.6 kB with
/// AVX-512 and 11 kB with AMX. All handlers may nest: five of the control plane's, the timer of
/// running Lua, and the one for faults.
const BYTES: usize = 128 << 10;

/// A larger alternate stack for the signal handlers of the calling thread, while it lives. It must
/// stay on that thread.
#[derive(Debug)]
pub struct SignalStack {
    memory: Box<[u8]>,
    before: libc::stack_t,
}

impl SignalStack {
    /// Installs it. Where the system refuses, the thread keeps its own.
    #[must_use]
    pub fn enlarge() -> Self {
        let mut memory = vec![0; BYTES].into_boxed_slice();
        let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: BYTES };
        let mut before = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: the memory is ours and does not move until `drop`, which first uninstalls it.
        unsafe { libc::sigaltstack(&raw const stack, &raw mut before) };
        Self { memory, before }
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        debug_assert_eq!(self.memory.len(), BYTES, "the stack is still installed");
        // SAFETY: the previous stack still exists: its owner, the standard library, frees it when
        // the thread ends. No handler runs on ours, because this code is no handler.
        unsafe { libc::sigaltstack(&raw const self.before, ptr::null_mut()) };
    }
}
