//! What of two answers is compared: `rcode,flags,answer,authority,additional,ttl,order,edns`.

use std::fmt;

/// A part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Aspect {
    /// The response code, with its high bits from the OPT record.
    Rcode,
    /// The other bits of the header: AA, TC, RD, RA, AD, CD, and the opcode.
    Flags,
    /// The records of the answer section.
    Answer,
    /// The records of the authority section.
    Authority,
    /// The records of the additional section without OPT and TSIG.
    Additional,
    /// The TTLs of equal records.
    Ttl,
    /// The order of records within a section.
    Order,
    /// The OPT record without cookie, padding and keepalive.
    Edns,
}

const ALL: [(Aspect, &str); 8] = [
    (Aspect::Rcode, "rcode"),
    (Aspect::Flags, "flags"),
    (Aspect::Answer, "answer"),
    (Aspect::Authority, "authority"),
    (Aspect::Additional, "additional"),
    (Aspect::Ttl, "ttl"),
    (Aspect::Order, "order"),
    (Aspect::Edns, "edns"),
];

/// A set of aspects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aspects(u8);

impl Default for Aspects {
    /// TTLs count down in caches, and servers rotate records: without these, and without EDNS.
    fn default() -> Self {
        let default = [Aspect::Rcode, Aspect::Flags, Aspect::Answer, Aspect::Authority, Aspect::Additional];
        Self(default.iter().fold(0, |bits, aspect| bits | bit(*aspect)))
    }
}

impl Aspects {
    /// Returns all of them.
    #[must_use]
    pub const fn all() -> Self {
        Self(0xff)
    }

    /// Reads names separated by commas.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str =
            "some of rcode, flags, answer, authority, additional, ttl, order, edns, with commas between them";
        let mut bits = 0;
        for word in text.split(',').map(str::trim) {
            let known = ALL.iter().find(|(_, name)| name.eq_ignore_ascii_case(word)).ok_or(EXPECTED)?;
            bits |= bit(known.0);
        }
        Ok(Self(bits))
    }

    /// Returns whether there is this one.
    #[must_use]
    pub const fn has(self, aspect: Aspect) -> bool {
        self.0 & bit(aspect) != 0
    }
}

const fn bit(aspect: Aspect) -> u8 {
    1 << aspect as u8
}

impl fmt::Display for Aspects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (_, name) in ALL.iter().filter(|(aspect, _)| self.has(*aspect)) {
            write!(f, "{comma}{name}")?;
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aspects_are_read_and_written() {
        let default = "rcode,flags,answer,authority,additional";
        assert_eq!(Aspects::default().to_string(), default);
        assert_eq!(Aspects::parse(default), Ok(Aspects::default()));
        assert_eq!(Aspects::parse(&Aspects::all().to_string()), Ok(Aspects::all()));
        assert_eq!(Aspects::parse(" TTL , rcode ").expect("two").to_string(), "rcode,ttl");
        for wrong in ["", "rcode,", "ttls"] {
            Aspects::parse(wrong).expect_err(wrong);
        }
    }
}
