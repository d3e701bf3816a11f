//! Enums of named reasons: each has a label for metrics, a description, and an index into arrays of
//! counters.

/// An enum of named reasons, as `reasons!` declares it.
pub trait Reasons: Copy + 'static {
    /// Label and sentence of every reason, in the order of `position`.
    const LABELS: &'static [(&'static str, &'static str)];

    /// What one of them is called, in labels of metrics.
    const WORD: &'static str;

    /// A value for each reason.
    type Array<T>: AsRef<[T]> + AsMut<[T]>;

    /// A value for each reason, made by `of`.
    fn array<T>(of: impl FnMut(Self) -> T) -> Self::Array<T>;

    /// Its place in such an array.
    fn position(self) -> usize;
}

macro_rules! reasons {
    (@word) => { "reason" };
    (@word $word:literal) => { $word };
    ($(#[doc = $title:literal])+ $kind:ident $(as $word:literal)? { $($(#[doc = $doc:literal])+ $name:ident = $label:literal,)* }) => {
        $(#[doc = $title])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $kind { $($(#[doc = $doc])+ $name,)* }

        impl $kind {
            /// Every reason, in the order of `index`.
            pub const ALL: [Self; [$(Self::$name),*].len()] = [$(Self::$name),*];

            /// Returns the reason's name in metrics and logs.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// Returns a description in one sentence.
            #[must_use]
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)* }
            }

            /// Returns the position in `ALL` and in counter arrays.
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }

        impl $crate::base::reasons::Reasons for $kind {
            const LABELS: &'static [(&'static str, &'static str)] =
                &[$(($label, concat!($($doc),+).trim_ascii())),*];

            const WORD: &'static str = $crate::base::reasons::reasons!(@word $($word)?);

            type Array<T> = [T; Self::ALL.len()];

            fn array<T>(of: impl FnMut(Self) -> T) -> Self::Array<T> {
                Self::ALL.map(of)
            }

            fn position(self) -> usize {
                self.index()
            }
        }
    };
}

pub(crate) use reasons;
