//! Access of one state's functions to the packet of the running call, for as long as the call runs.
//!
//! # Invariants
//! - The pointer to the packet is set exactly while [`RunningCall::during`] runs, which borrows the packet.
//! - It is dereferenced only while `current` is borrowed, so by one function at a time; none of
//!   them runs Lua meanwhile.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::Arc;

use crate::base::addr::Endpoint;
use crate::lua::ffi::handles::Handles;
use crate::lua::state::Shared;
use crate::lua::state::call_state::{CallState, Open};
use crate::rules::context::EvaluationContext;
use crate::wire::header;

/// What compiled Lua reads of the running call without a call into C: the type `dnslob_live`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Live {
    /// The number of the running call; 0 between calls. The objects of a call hold the same number.
    generation: f64,
    /// The same number, as the pointer that functions of the LuaFFI family get.
    token: *mut c_void,
    /// The message, and its length.
    message: *const u8,
    length: u32,
    /// Bytes of the last function's result.
    pub(crate) size: u32,
    /// Of the question.
    name_len: u16,
    qtype: u16,
    qclass: u16,
    /// Number of servers to choose from.
    candidates: u16,
    /// Number of the configuration.
    configuration: f64,
    remote: [u8; 16],
    local: [u8; 16],
    remote_port: u16,
    local_port: u16,
}

/// That type for `ffi`.
pub(crate) const LIVE_TYPE: &str = "
typedef struct {
  double generation; void *token; const uint8_t *message; uint32_t length, size;
  uint16_t name_len, qtype, qclass, candidates; double configuration;
  uint8_t remote[16], localaddr[16]; uint16_t remote_port, local_port;
} dnslob_live;
";

/// Through which one state's functions reach the packet of their call.
#[derive(Debug)]
pub(crate) struct RunningCall {
    current: RefCell<CallState>,
    context: Cell<Option<NonNull<EvaluationContext<'static, 'static>>>>,
    live: UnsafeCell<Live>,
    /// The header to which C functions return a pointer: what is written there after the call has
    /// no effect.
    header: UnsafeCell<[u8; header::LEN]>,
    header_given: Cell<bool>,
    /// How often what functions asked for was refused, without an end of their calls.
    pub(crate) failed: Cell<u64>,
    /// What scripts made through C functions.
    pub(crate) handles: RefCell<Handles>,
    /// The sets of the configuration.
    pub(crate) shared: Arc<Shared>,
}

thread_local! {
    /// That of the call that runs in this thread.
    static RUNNING: Cell<*const RunningCall> = const { Cell::new(ptr::null()) };
}

impl RunningCall {
    pub(crate) fn new(shared: &Arc<Shared>) -> Rc<Self> {
        let live = Live {
            generation: 0.0,
            token: ptr::null_mut(),
            message: ptr::null(),
            length: 0,
            size: 0,
            name_len: 0,
            qtype: 0,
            qclass: 0,
            candidates: 0,
            configuration: 0.0,
            remote: [0; 16],
            local: [0; 16],
            remote_port: 0,
            local_port: 0,
        };
        Rc::new(Self {
            current: RefCell::default(),
            context: Cell::default(),
            live: UnsafeCell::new(live),
            header: UnsafeCell::default(),
            header_given: Cell::default(),
            failed: Cell::default(),
            handles: RefCell::default(),
            shared: Arc::clone(shared),
        })
    }

    /// Returns the state that outlives single calls.
    pub(crate) const fn current(&self) -> &RefCell<CallState> {
        &self.current
    }

    /// Runs `call` with access to this packet.
    pub(crate) fn during<R>(&self, context: &mut EvaluationContext<'_, '_>, call: impl FnOnce() -> R) -> R {
        /// Ends the access, also when `call` panics.
        struct Access<'a>(&'a RunningCall, *const RunningCall);
        impl Drop for Access<'_> {
            fn drop(&mut self) {
                self.0.context.set(None);
                // SAFETY: see `write`.
                unsafe {
                    let live = self.0.live.get();
                    (*live).generation = 0.0;
                    (*live).message = ptr::null();
                    (*live).length = 0;
                }
                RUNNING.set(self.1);
            }
        }
        self.header_given.set(false);
        if let Ok(current) = self.current.try_borrow() {
            // A double is exact up to 53 bits; a token has 44.
            self.write(|live| {
                live.generation = current.token as f64;
                live.token = ptr::without_provenance_mut(current.token);
                live.candidates = u16::try_from(current.candidates.len()).unwrap_or(u16::MAX);
                live.configuration = current.configuration.generation() as f64;
                let Endpoint { ip, port, .. } = context.client.peer;
                (live.remote, live.remote_port) = (ip, port);
                (live.local, live.local_port) = (context.local.ip, context.local.port);
            });
        }
        self.show(context);
        let kept = Access(self, RUNNING.replace(self));
        self.context.set(Some(NonNull::from(&mut *context).cast()));
        let result = call();
        drop(kept);
        result
    }

    /// Runs `call`, which is about no packet, with access to what scripts have made.
    pub(crate) fn without_packet<R>(&self, call: impl FnOnce() -> R) -> R {
        /// Ends the access, also when `call` panics.
        struct Access(*const RunningCall);
        impl Drop for Access {
            fn drop(&mut self) {
                RUNNING.set(self.0);
            }
        }
        let kept = Access(RUNNING.replace(self));
        let result = call();
        drop(kept);
        result
    }

    /// Calls `body` with the packet of the running call, if one runs and the packet is not in use.
    pub(crate) fn open<R>(&self, body: impl for<'a, 's, 'p> FnOnce(&mut Open<'a, 's, 'p>) -> R) -> Option<R> {
        let context = self.context.get()?;
        let mut current = self.current.try_borrow_mut().ok()?;
        // SAFETY: set only while `during` runs, which borrows the context exclusively. The borrow
        // of `current` keeps others out until `body` returns, and `body` takes any lifetime: it
        // cannot keep the context, nor store anything in it that lives shorter.
        let context = unsafe { &mut *context.as_ptr() };
        let mut open = Open::new(&mut current, context);
        self.take_header(&mut open);
        let result = body(&mut open);
        if self.header_given.get()
            && let Some(bytes) = open.message().first_chunk()
        {
            // SAFETY: scripts write there only between our functions.
            unsafe { *self.header.get() = *bytes };
        }
        if open.current.dirty {
            self.show(open.context());
        }
        Some(result)
    }

    /// Ends the call: keeps what it changed, or undoes it.
    pub(crate) fn leave(&self, context: &mut EvaluationContext<'_, '_>, ended_well: bool) {
        let Ok(mut current) = self.current.try_borrow_mut() else { return };
        self.take_header(&mut Open::new(&mut current, context));
        self.header_given.set(false);
        current.leave(context, ended_well);
    }

    /// Returns the client's address, for C.
    pub(crate) fn remote(&self) -> (*const u8, usize) {
        self.write(|live| bytes_of(&live.remote))
    }

    /// Returns the local address, for C.
    pub(crate) fn local(&self) -> (*const u8, usize) {
        self.write(|live| bytes_of(&live.local))
    }

    /// Returns a pointer to the header, which may be written to until the call ends.
    pub(crate) fn header_pointer(&self) -> *mut u8 {
        let kept = self.open(|open| {
            let bytes = open.message().first_chunk().copied();
            // SAFETY: as in `open`.
            bytes.map(|bytes| unsafe { *self.header.get() = bytes }).is_some()
        });
        if kept != Some(true) {
            return ptr::null_mut();
        }
        self.header_given.set(true);
        self.header.get().cast()
    }

    /// Writes back what a script wrote to the header.
    fn take_header(&self, open: &mut Open<'_, '_, '_>) {
        if !self.header_given.get() {
            return;
        }
        // SAFETY: as in `open`.
        let header = unsafe { *self.header.get() };
        if open.message().first_chunk().is_some_and(|bytes| *bytes != header) {
            open.packet_mut().bytes_mut()[..header.len()].copy_from_slice(&header);
        }
    }

    /// Publishes the number of the configuration to Lua: what runs between calls reads it, too.
    pub(crate) fn show_configuration(&self) {
        if let Ok(current) = self.current.try_borrow() {
            self.write(|live| live.configuration = current.configuration.generation() as f64);
        }
    }

    /// Publishes the message to Lua.
    fn show(&self, context: &EvaluationContext<'_, '_>) {
        let message = context.packet.bytes();
        self.write(|live| {
            live.message = message.as_ptr();
            live.length = u32::try_from(message.len()).unwrap_or(0);
            live.name_len = context.facts.qname_len;
            live.qtype = context.facts.qtype;
            live.qclass = context.facts.qclass;
        });
    }

    /// Calls `body` to write what Lua reads.
    pub(crate) fn write<R>(&self, body: impl FnOnce(&mut Live) -> R) -> R {
        // SAFETY: Lua reads it only between our functions, and `body` calls none of them.
        body(unsafe { &mut *self.live.get() })
    }

    /// Returns the address of what Lua reads of the running call.
    pub(crate) const fn live(&self) -> *mut c_void {
        self.live.get().cast()
    }
}

/// Returns an address in C's form: 4 bytes or 16.
fn bytes_of(mapped: &[u8; 16]) -> (*const u8, usize) {
    let bytes = mapped.strip_prefix(b"\0\0\0\0\0\0\0\0\0\0\xff\xff").unwrap_or(mapped);
    (bytes.as_ptr(), bytes.len())
}

/// Calls `of` with the state of the call that runs in this thread, if there is one.
pub(crate) fn running<R>(of: impl FnOnce(&RunningCall) -> R) -> Option<R> {
    let call = RUNNING.get();
    // SAFETY: set only while its target is borrowed by `during` or `without_packet`.
    (!call.is_null()).then(|| of(unsafe { &*call }))
}
