//! The classes of differences.

use crate::base::reasons::reasons;

reasons! {
    /// What an answer has otherwise than another one; the most important first.
    Class as "difference" {
        /// There is no difference.
        Same = "same",
        /// One of the messages cannot be parsed.
        Malformed = "malformed",
        /// The response codes differ.
        Rcode = "rcode",
        /// The second answer lacks a record.
        Missing = "missing",
        /// The second answer has a record too many.
        Extra = "extra",
        /// Records of one name and type have other data.
        Data = "data",
        /// The flags of the headers differ.
        Flags = "flags",
        /// The TTLs of equal records differ.
        Ttl = "ttl",
        /// Equal records come in another order.
        Order = "order",
        /// The OPT records differ.
        Edns = "edns",
    }
}

/// A set of classes, without [`Class::Same`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classes(u16);

impl Classes {
    /// Adds one.
    pub(super) const fn add(&mut self, class: Class) {
        self.0 |= 1 << class.index();
    }

    /// Returns whether there is this one.
    #[must_use]
    pub const fn has(self, class: Class) -> bool {
        self.0 & 1 << class.index() != 0
    }

    /// Returns whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the most important one: [`Class::Same`] if there is none.
    #[must_use]
    pub fn first(self) -> Class {
        self.iter().next().unwrap_or(Class::Same)
    }

    /// Returns all, the most important first.
    pub fn iter(self) -> impl Iterator<Item = Class> {
        Class::ALL.into_iter().filter(move |class| self.has(*class))
    }
}
