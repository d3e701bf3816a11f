//! A larger stack for signal handlers.

use std::ptr;

/// Bytes. The standard library gives a thread 8 kB, of which one handler takes up to 3.6 kB with
/// AVX-512 and 11 kB with AMX. As many may interrupt each other as there are handlers: five of the
/// control plane's, the tick of running Lua, and the one for faults.
const BYTES: usize = 128 << 10;

/// Replaces the calling thread's stack for signal handlers while it lives; not to be sent to another
/// thread.
#[derive(Debug)]
pub struct SignalStack {
    memory: Box<[u8]>,
    before: libc::stack_t,
}

impl SignalStack {
    /// For the calling thread. Where the system refuses, the thread keeps the one that it has.
    #[must_use]
    pub fn enlarge() -> Self {
        let mut memory = vec![0; BYTES].into_boxed_slice();
        let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: BYTES };
        let mut before = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: the memory is ours and stays where it is until this is dropped, which takes it away
        // from the thread first.
        unsafe { libc::sigaltstack(&raw const stack, &raw mut before) };
        Self { memory, before }
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        debug_assert_eq!(self.memory.len(), BYTES, "the stack is there until here");
        // SAFETY: what the thread had before is still there: its owner, the standard library, frees it
        // at the thread's end. No handler runs on ours, for this is no handler.
        unsafe { libc::sigaltstack(&raw const self.before, ptr::null_mut()) };
    }
}
