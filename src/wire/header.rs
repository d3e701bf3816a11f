//! The twelve-byte header of every message (RFC 1035, 4.1.1; AD and CD: RFC 4035, 3.1.6).
//!
//! ```text
//!  0      2                                    4        6        8        10
//!  | ID   |QR Opcode AA TC RD|RA Z AD CD RCODE | QDCOUNT| ANCOUNT| NSCOUNT| ARCOUNT|
//!          7  6..3   2  1  0  7  6 5  4  3..0
//! ```

/// Bytes of a header.
pub const LEN: usize = 12;

/// Query or response.
pub const QR: u8 = 0x80;
/// Authoritative answer.
pub const AA: u8 = 0x04;
/// Truncated.
pub const TC: u8 = 0x02;
/// Recursion desired.
pub const RD: u8 = 0x01;
/// Recursion available.
pub const RA: u8 = 0x80;
/// Authentic data.
pub const AD: u8 = 0x20;
/// Checking disabled.
pub const CD: u8 = 0x10;

/// Response codes that the data path uses (RFC 1035, 4.1.1).
pub mod rcode {
    /// No error.
    pub const NOERROR: u8 = 0;
    /// Format error.
    pub const FORMERR: u8 = 1;
    /// The server could not answer.
    pub const SERVFAIL: u8 = 2;
    /// No such name.
    pub const NXDOMAIN: u8 = 3;
    /// Not implemented.
    pub const NOTIMP: u8 = 4;
    /// Refused by policy.
    pub const REFUSED: u8 = 5;
}

/// Returns whether AA is set in a message.
#[must_use]
pub fn is_authoritative(message: &[u8]) -> bool {
    message.get(2).is_some_and(|byte| byte & AA != 0)
}

/// Returns whether AD is set in a message.
#[must_use]
pub fn is_authentic(message: &[u8]) -> bool {
    message.get(3).is_some_and(|byte| byte & AD != 0)
}

/// A view of a header.
#[derive(Clone, Copy, Debug)]
pub struct Header<'p>(&'p [u8; LEN]);

impl<'p> Header<'p> {
    /// Returns the header of a message; `None` when the message is shorter.
    #[must_use]
    pub fn parse(message: &'p [u8]) -> Option<Self> {
        message.first_chunk().map(Self)
    }

    const fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    /// Returns the message id.
    #[must_use]
    pub const fn id(&self) -> u16 {
        self.u16(0)
    }

    /// Returns whether this is a response.
    #[must_use]
    pub const fn is_response(&self) -> bool {
        self.0[2] & QR != 0
    }

    /// Returns whether TC is set.
    #[must_use]
    pub const fn is_truncated(&self) -> bool {
        self.0[2] & TC != 0
    }

    /// Returns whether RD is set.
    #[must_use]
    pub const fn recursion_desired(&self) -> bool {
        self.0[2] & RD != 0
    }

    /// Returns whether RA is set.
    #[must_use]
    pub const fn recursion_available(&self) -> bool {
        self.0[3] & RA != 0
    }

    /// Returns the low four bits of the response code; the rest is in the OPT record.
    #[must_use]
    pub const fn rcode(&self) -> u8 {
        self.0[3] & 0x0f
    }

    /// Returns the number of questions.
    #[must_use]
    pub const fn qdcount(&self) -> u16 {
        self.u16(4)
    }

    /// Returns the number of answer records.
    #[must_use]
    pub const fn ancount(&self) -> u16 {
        self.u16(6)
    }

    /// Returns the number of authority records.
    #[must_use]
    pub const fn nscount(&self) -> u16 {
        self.u16(8)
    }

    /// Returns the number of additional records.
    #[must_use]
    pub const fn arcount(&self) -> u16 {
        self.u16(10)
    }
}
