//! Enums of named reasons: each has a label for metrics, a sentence for people, and a place in arrays
//! of counters.

macro_rules! reasons {
    ($(#[doc = $title:literal])+ $kind:ident { $($(#[doc = $doc:literal])+ $name:ident = $label:literal,)* }) => {
        $(#[doc = $title])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $kind { $($(#[doc = $doc])+ $name,)* }

        impl $kind {
            /// Every reason, in the order of `index`.
            pub const ALL: [Self; [$(Self::$name),*].len()] = [$(Self::$name),*];

            /// The reason's name in metrics and logs.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)* }
            }

            /// Position in `ALL` and in counter arrays.
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

pub(crate) use reasons;
