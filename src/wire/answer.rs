//! Answers of our own, made of the query where it stands.

/// The header's flags, and the TTL, of an answer of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    /// AA.
    pub aa: bool,
    /// AD.
    pub ad: bool,
    /// RA; the query's RD when not said.
    pub ra: Option<bool>,
    /// TTL of its records, seconds.
    pub ttl: u32,
}

impl Default for Flags {
    fn default() -> Self {
        Self { aa: false, ad: false, ra: None, ttl: 60 }
    }
}

/// One SVCB or HTTPS record (RFC 9460).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SvcRecord {
    /// SvcPriority.
    pub priority: u16,
    /// TargetName, wire format.
    pub target: Vec<u8>,
    /// The parameters, encoded, keys ascending.
    pub params: Vec<u8>,
    /// Address hints, IPv4.
    pub v4: Vec<[u8; 4]>,
    /// Address hints, IPv6.
    pub v6: Vec<[u8; 16]>,
}
