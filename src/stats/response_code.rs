//! The response codes that answers are counted by.

use crate::base::reasons::reasons;

reasons! {
    /// The response code of an answer, as its header has it: the extended part is in the OPT record.
    ResponseCode as "rcode" {
        /// NOERROR, also where the answer is empty or truncated.
        NoError = "noerror",
        /// FORMERR.
        FormErr = "formerr",
        /// SERVFAIL.
        ServFail = "servfail",
        /// NXDOMAIN.
        NxDomain = "nxdomain",
        /// NOTIMP.
        NotImp = "notimp",
        /// REFUSED.
        Refused = "refused",
        /// Any other code.
        Other = "other",
    }
}

impl ResponseCode {
    /// Returns that of a message.
    #[must_use]
    #[inline]
    pub fn of(message: &[u8]) -> Self {
        let code = message.get(3).map_or(0, |byte| byte & 0x0f);
        Self::ALL[usize::from(code).min(Self::Other.index())]
    }
}

reasons! {
    /// What a rule has answered a query with.
    RuleAnswer as "answer" {
        /// NXDOMAIN.
        NxDomain = "nxdomain",
        /// REFUSED.
        Refused = "refused",
        /// SERVFAIL, also that of a Lua function that failed.
        ServFail = "servfail",
        /// A truncated answer: TC=1.
        Truncated = "truncated",
        /// Anything else: records of the configuration, other codes.
        Other = "other",
    }
}

impl RuleAnswer {
    /// Returns what this answer is.
    #[must_use]
    pub fn of(message: &[u8]) -> Self {
        match ResponseCode::of(message) {
            ResponseCode::NxDomain => Self::NxDomain,
            ResponseCode::Refused => Self::Refused,
            ResponseCode::ServFail => Self::ServFail,
            ResponseCode::NoError if message.get(2).is_some_and(|byte| byte & 0x02 != 0) => Self::Truncated,
            ResponseCode::NoError | ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::Other => {
                Self::Other
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_their_header() {
        for (flags, code, answer) in [
            ([0x81, 0x80], ResponseCode::NoError, RuleAnswer::Other),
            ([0x83, 0x80], ResponseCode::NoError, RuleAnswer::Truncated),
            ([0x81, 0x83], ResponseCode::NxDomain, RuleAnswer::NxDomain),
            ([0x81, 0x85], ResponseCode::Refused, RuleAnswer::Refused),
            ([0x81, 0x82], ResponseCode::ServFail, RuleAnswer::ServFail),
            ([0x81, 0x84], ResponseCode::NotImp, RuleAnswer::Other),
            ([0x81, 0x89], ResponseCode::Other, RuleAnswer::Other),
        ] {
            let message = [0, 0, flags[0], flags[1]];
            assert_eq!((ResponseCode::of(&message), RuleAnswer::of(&message)), (code, answer), "{flags:?}");
        }
        assert_eq!(ResponseCode::of(&[]), ResponseCode::NoError);
    }
}
