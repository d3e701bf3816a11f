//! The packet of the running call, lent to the functions of one state for as long as the call runs.
//!
//! # Invariants
//! - The pointer to the packet is set exactly while [`Place::during`] runs, which borrows the packet.
//! - It is followed only while `current` is borrowed, so by one function at a time; none of them
//!   runs Lua meanwhile.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::Arc;

use crate::base::addr::Endpoint;
use crate::lua::state::Shared;
use crate::lua::state::current::{Current, Open};
use crate::rules::context::EvaluationContext;
use crate::wire::header;

/// What compiled Lua reads of the running call without a call into C: the type `dnslob_live`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Live {
    /// The number of the running call; 0 between calls. Objects of a call have it, too.
    generation: f64,
    /// The same, as the pointer that functions of the LuaFFI family are given.
    token: *mut c_void,
    /// The message, and its bytes.
    message: *const u8,
    length: u32,
    /// Bytes of what a function has just answered with.
    pub(crate) size: u32,
    /// Of the question.
    name_len: u16,
    qtype: u16,
    qclass: u16,
    /// The servers to choose from.
    candidates: u16,
    /// Counts configurations.
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

/// Where one state's functions find the packet of their call.
#[derive(Debug)]
pub(crate) struct Place {
    current: RefCell<Current>,
    context: Cell<Option<NonNull<EvaluationContext<'static, 'static>>>>,
    live: UnsafeCell<Live>,
    /// The header, as C functions are given a pointer to it: what is written there after the call is
    /// of no consequence.
    header: UnsafeCell<[u8; header::LEN]>,
    header_lent: Cell<bool>,
    /// The sets of the configuration.
    pub(crate) shared: Arc<Shared>,
}

thread_local! {
    /// That of the call that runs in this thread.
    static RUNNING: Cell<*const Place> = const { Cell::new(ptr::null()) };
}

impl Place {
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
            header_lent: Cell::default(),
            shared: Arc::clone(shared),
        })
    }

    /// What calls keep.
    pub(crate) const fn current(&self) -> &RefCell<Current> {
        &self.current
    }

    /// Runs `call` with this packet lent.
    pub(crate) fn during<R>(&self, context: &mut EvaluationContext<'_, '_>, call: impl FnOnce() -> R) -> R {
        /// Takes it back, also when `call` panics.
        struct Lent<'a>(&'a Place, *const Place);
        impl Drop for Lent<'_> {
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
        self.header_lent.set(false);
        if let Ok(current) = self.current.try_borrow() {
            // No double is exact beyond 53 bits; a token has 44.
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
        let lent = Lent(self, RUNNING.replace(self));
        self.context.set(Some(NonNull::from(&mut *context).cast()));
        let result = call();
        drop(lent);
        result
    }

    /// Works on the packet of the running call, if one runs and nobody else works on it.
    pub(crate) fn open<R>(&self, body: impl for<'a, 's, 'p> FnOnce(&mut Open<'a, 's, 'p>) -> R) -> Option<R> {
        let context = self.context.get()?;
        let mut current = self.current.try_borrow_mut().ok()?;
        // SAFETY: set only while `during` runs, which borrows the scene for itself alone. That
        // `current` is borrowed keeps others out until `body` returns, and `body` takes any
        // lifetime: it cannot keep the scene, nor put anything in that lives shorter.
        let context = unsafe { &mut *context.as_ptr() };
        let mut open = Open::new(&mut current, context);
        self.take_header(&mut open);
        let result = body(&mut open);
        if self.header_lent.get()
            && let Some(bytes) = open.message().first_chunk()
        {
            // SAFETY: scripts write there between our functions only.
            unsafe { *self.header.get() = *bytes };
        }
        if open.current.dirty {
            self.show(open.context());
        }
        Some(result)
    }

    /// Ends the call: takes over what it changed, or undoes that.
    pub(crate) fn leave(&self, context: &mut EvaluationContext<'_, '_>, ended_well: bool) {
        let Ok(mut current) = self.current.try_borrow_mut() else { return };
        self.take_header(&mut Open::new(&mut current, context));
        self.header_lent.set(false);
        current.leave(context, ended_well);
    }

    /// The client's address, for C.
    pub(crate) fn remote(&self) -> (*const u8, usize) {
        self.write(|live| bytes_of(&live.remote))
    }

    /// The address that was asked, for C.
    pub(crate) fn local(&self) -> (*const u8, usize) {
        self.write(|live| bytes_of(&live.local))
    }

    /// A pointer to the header, which can be written to until the call ends.
    pub(crate) fn lend_header(&self) -> *mut u8 {
        let lent = self.open(|open| {
            let bytes = open.message().first_chunk().copied();
            // SAFETY: as in `open`.
            bytes.map(|bytes| unsafe { *self.header.get() = bytes }).is_some()
        });
        if lent != Some(true) {
            return ptr::null_mut();
        }
        self.header_lent.set(true);
        self.header.get().cast()
    }

    /// Takes over what a script wrote to the header.
    fn take_header(&self, open: &mut Open<'_, '_, '_>) {
        if !self.header_lent.get() {
            return;
        }
        // SAFETY: as in `open`.
        let header = unsafe { *self.header.get() };
        if open.message().first_chunk().is_some_and(|bytes| *bytes != header) {
            open.packet_mut().bytes_mut()[..header.len()].copy_from_slice(&header);
        }
    }

    /// Shows the message to Lua.
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

    /// Writes what Lua reads.
    pub(crate) fn write<R>(&self, body: impl FnOnce(&mut Live) -> R) -> R {
        // SAFETY: Lua reads it between our functions only, and `body` is none that calls another.
        body(unsafe { &mut *self.live.get() })
    }

    /// Where Lua finds what it reads of the running call.
    pub(crate) const fn live(&self) -> *mut c_void {
        self.live.get().cast()
    }
}

/// An address as C has it: 4 bytes or 16.
fn bytes_of(mapped: &[u8; 16]) -> (*const u8, usize) {
    let bytes = mapped.strip_prefix(b"\0\0\0\0\0\0\0\0\0\0\xff\xff").unwrap_or(mapped);
    (bytes.as_ptr(), bytes.len())
}

/// The place of the running call, if `token` is its number.
pub(crate) fn running<R>(of: impl FnOnce(&Place) -> R) -> Option<R> {
    let place = RUNNING.get();
    // SAFETY: set only while that place is borrowed by `during`.
    (!place.is_null()).then(|| of(unsafe { &*place }))
}
