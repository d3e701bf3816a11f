//! The types that queries are counted by.

use crate::base::reasons::reasons;

reasons! {
    /// The requested type.
    QueryType as "type" {
        /// An IPv4 address.
        A = "a",
        /// An IPv6 address.
        Aaaa = "aaaa",
        /// An HTTPS service.
        Https = "https",
        /// Another service, as SVCB.
        Svcb = "svcb",
        /// A name for an address, reverse.
        Ptr = "ptr",
        /// Any text.
        Txt = "txt",
        /// Mail servers.
        Mx = "mx",
        /// Name servers.
        Ns = "ns",
        /// The start of authority.
        Soa = "soa",
        /// An alias.
        Cname = "cname",
        /// Services by SRV.
        Srv = "srv",
        /// Delegation signers.
        Ds = "ds",
        /// Keys of a signed zone.
        Dnskey = "dnskey",
        /// Rules for names of telephone numbers and the like.
        Naptr = "naptr",
        /// Certificates that a service has.
        Tlsa = "tlsa",
        /// Certificate authorities that are allowed.
        Caa = "caa",
        /// Everything that there is.
        Any = "any",
        /// Any other type, and queries without a question that can be read.
        Other = "other",
    }
}

impl QueryType {
    /// Returns what a number counts as.
    #[must_use]
    pub const fn of(qtype: u16) -> Self {
        match qtype {
            1 => Self::A,
            2 => Self::Ns,
            5 => Self::Cname,
            6 => Self::Soa,
            12 => Self::Ptr,
            15 => Self::Mx,
            16 => Self::Txt,
            28 => Self::Aaaa,
            33 => Self::Srv,
            35 => Self::Naptr,
            43 => Self::Ds,
            48 => Self::Dnskey,
            52 => Self::Tlsa,
            64 => Self::Svcb,
            65 => Self::Https,
            255 => Self::Any,
            257 => Self::Caa,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codes::type_name;

    #[test]
    fn labels_are_the_names_of_types() {
        for qtype in 0..=u16::MAX {
            let counted = QueryType::of(qtype);
            let is_named = type_name(qtype).eq_ignore_ascii_case(counted.label());
            assert!(is_named || counted == QueryType::Other, "{qtype}");
        }
    }
}
