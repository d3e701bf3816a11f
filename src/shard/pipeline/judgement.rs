//! What a server's response is to others than its client: whether they may have it, and whether an expired
//! answer is better.

use crate::cache::entry::is_bare_failure;
use crate::stats::not_cached::NotCached;
use crate::wire::edns;
use crate::wire::header::{Header, rcode};

use crate::shard::pipeline::coalesce::Share;

/// INFO-CODEs of answers that DNSSEC proves wrong (RFC 8914, 4.7 to 4.13), and of what a policy forbids (4.16 to
/// 4.19).
const BOGUS: u16 = 6;
const NSEC_MISSING: u16 = 12;
const BLOCKED: u16 = 15;
const PROHIBITED: u16 = 18;
/// The largest response code without EDNS.
const CODE_MAX: u16 = 15;

/// Returns what all who have asked the same may get of a response, which was stored or not for a reason.
pub(super) fn share(unstored: Option<NotCached>, response: &[u8]) -> Share {
    if !is_about_key(response) {
        return Share::Nothing;
    }
    match unstored {
        // A key without a cookie is that of clients with another one, and with none.
        Some(NotCached::Cookie) => Share::WithoutCookie,
        Some(NotCached::Malformed) if is_bare_failure(response) => Share::WithoutCookie,
        Some(NotCached::Malformed | NotCached::Signed | NotCached::Class) => Share::Nothing,
        Some(
            NotCached::Truncated
            | NotCached::NoTtl
            | NotCached::TtlInvalid
            | NotCached::TtlTooShort
            | NotCached::TooLarge
            | NotCached::Busy
            | NotCached::TableFull
            | NotCached::Rule,
        )
        | None => Share::All,
    }
}

/// Returns whether a response is about nothing of a query but what its key has. FORMERR may be about a
/// malformed cookie, and extended codes are about EDNS (RFC 6891, 9; RFC 7873, 8).
fn is_about_key(response: &[u8]) -> bool {
    Header::parse(response).is_some_and(|header| header.rcode() != rcode::FORMERR)
        && edns::rcode(response) <= CODE_MAX
}

/// Returns whether a response is a failure to refresh what is known. One that says why its name has no
/// answer, by policy or as DNSSEC finds it forged, is none: the old answer must not hide that.
pub(super) fn is_failure_to_refresh(response: &[u8]) -> bool {
    let Some(header) = Header::parse(response).filter(|_| is_failure(response)) else { return false };
    if !is_about_key(response) {
        return false;
    }
    let Some(opt) = edns::locate(response).filter(|_| header.arcount() > 0) else { return true };
    !edns::options(response, &opt)
        .filter(|(code, _)| *code == edns::code::EXTENDED_ERROR)
        .filter_map(|(_, data)| response.get(data)?.first_chunk().copied().map(u16::from_be_bytes))
        .any(|info| matches!(info, BOGUS..=NSEC_MISSING | BLOCKED..=PROHIBITED))
}

/// Returns whether a response says nothing of its name.
pub(super) fn is_failure(response: &[u8]) -> bool {
    Header::parse(response).is_none_or(|h| !matches!(h.rcode(), rcode::NOERROR | rcode::NXDOMAIN))
}
