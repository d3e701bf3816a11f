//! Objects that scripts make and free through C functions: what a script has is a number, so an
//! old or invented one is no object. They belong to their state, and can be kept between calls.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ptr;

use crate::lua::ffi::Token;
use crate::stats::traffic_ring::Record;
use crate::wire::records;
use crate::wire::svc::SvcParams;

/// Most objects of a state; a script that frees what it makes has a few.
const OBJECTS_MAX: usize = 256;
/// Most lists of the last queries among them: a megabyte each.
const RINGS_MAX: usize = 8;
/// Numbers begin here, above those of calls.
const FIRST: usize = 1 << 48;

/// An object.
#[derive(Debug)]
pub(crate) enum Object {
    /// A message that was read.
    Packet(ReadPacket),
    /// The parameters of an SVCB or HTTPS record.
    Service(Service),
    /// The last queries.
    Ring(RingEntries),
    /// Texts that end with a zero: names or addresses.
    Texts(Vec<Box<[u8]>>),
}

/// Some of the last queries.
#[derive(Debug, Default)]
pub(crate) struct RingEntries {
    /// The queries.
    pub(crate) entries: Vec<RingEntry>,
    /// Texts that scripts have pointers to, by entry and by what they say.
    pub(crate) texts: BTreeMap<(usize, usize), Box<[u8]>>,
}

/// One of the last queries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingEntry {
    /// What is known of it.
    pub(crate) record: Record,
    /// The numbers of records in the sections of its answer.
    pub(crate) counts: [u16; 3],
    /// It came by TLS, if over a connection.
    pub(crate) has_tls: bool,
    /// Its server.
    pub(crate) server: Option<SocketAddr>,
}

/// A message, and what was read of it.
#[derive(Debug, Default)]
pub(crate) struct ReadPacket {
    /// The message.
    pub(crate) message: Box<[u8]>,
    /// The name of its question.
    pub(crate) qname: Box<[u8]>,
    /// The type and class of its question.
    pub(crate) kind: (u16, u16),
    /// Its records, each with its owner's name.
    pub(crate) records: Vec<(Box<[u8]>, records::Record)>,
}

/// The parameters of an SVCB or HTTPS record.
#[derive(Debug, Default)]
pub(crate) struct Service {
    /// The record's priority.
    pub(crate) priority: u16,
    /// The record's target, in wire format.
    pub(crate) target: Vec<u8>,
    /// The rest.
    pub(crate) params: SvcParams,
    /// The bytes of the values that were added.
    pub(crate) bytes: usize,
}

/// The objects of a state.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    objects: HashMap<usize, Object>,
    made: usize,
    rings: usize,
}

impl Handles {
    /// Keeps an object, and returns its handle; null when there are too many.
    pub(crate) fn make(&mut self, object: Object) -> Token {
        let is_ring = matches!(object, Object::Ring(_));
        if self.objects.len() >= OBJECTS_MAX || is_ring && self.rings >= RINGS_MAX {
            return ptr::null();
        }
        self.rings += usize::from(is_ring);
        self.made += 1;
        let number = FIRST + self.made;
        self.objects.insert(number, object);
        ptr::without_provenance(number)
    }

    /// Frees an object.
    pub(crate) fn free(&mut self, token: Token) {
        let freed = self.objects.remove(&token.addr());
        self.rings -= usize::from(matches!(freed, Some(Object::Ring(_))));
    }

    /// Returns an object, to be changed.
    pub(crate) fn object_mut(&mut self, token: Token) -> Option<&mut Object> {
        self.objects.get_mut(&token.addr())
    }

    /// Returns an object.
    pub(crate) fn object(&self, token: Token) -> Option<&Object> {
        self.objects.get(&token.addr())
    }
}
