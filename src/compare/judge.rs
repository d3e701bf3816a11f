//! Whether an answer that differs from an earlier one is better or worse.

use crate::base::reasons::reasons;
use crate::compare::Found;
use crate::wire::edns;
use crate::wire::header::{Header, rcode};
use crate::wire::records;

reasons! {
    /// An answer beside an earlier one to the same question.
    Verdict {
        /// They do not differ.
        Same = "same",
        /// An error or a truncated answer has become one that can be used.
        Better = "better",
        /// An answer that could be used has become truncated, an error, or malformed.
        Worse = "worse",
        /// They differ, and neither is better: other records, or another name does not exist.
        Other = "other",
    }
}

/// Judges an answer by what a comparison with an earlier one has found.
#[must_use]
pub fn judge(found: &Found, earlier: &[u8], later: &[u8]) -> Verdict {
    if found.is_same() {
        return Verdict::Same;
    }
    match use_of(later).cmp(&use_of(earlier)) {
        std::cmp::Ordering::Greater => Verdict::Better,
        std::cmp::Ordering::Less => Verdict::Worse,
        std::cmp::Ordering::Equal => Verdict::Other,
    }
}

/// Returns how much use an answer is: malformed, an error, truncated, complete.
fn use_of(message: &[u8]) -> u8 {
    let Some(header) = Header::parse(message).filter(Header::is_response) else { return 0 };
    if records::end(message).is_none() {
        return 0;
    }
    let code = edns::rcode(message);
    if code != u16::from(rcode::NOERROR) && code != u16::from(rcode::NXDOMAIN) {
        return 1;
    }
    if header.is_truncated() { 2 } else { 3 }
}
