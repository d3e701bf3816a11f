//! The macros behind the [`registry`](crate::stats::registry): of each set of metrics they make a
//! reading, and the meters of a shard where it has some. Names are those of the module that calls
//! them.

macro_rules! registry {
    ($(
        #[doc = $title:literal]
        $reading:ident $(from $stats:ident)? = $name:literal $labels:tt $metrics:tt
    )*) => {
        /// Every set of metrics.
        pub const METRIC_SETS: &[&Set] = &[$(&$reading::SET),*];

        $(
            reading! { $title $reading $name $labels $metrics }
            $(meters! { $title $stats $reading $metrics })?
        )*
    };
}

macro_rules! reading {
    ($title:literal $reading:ident $name:literal [$($label:literal),*] {
        $($(#[doc = $help:literal])+ $field:ident: $meter:ty = $metric:literal, $unit:ident;)*
        $(parts { $($(#[doc = $about:literal])+ $part:ident: $part_stats:ty => $part_reading:ty;)* })?
    }) => {
        #[doc = concat!($title, " What was read at one moment, or happened in a span.")]
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $reading {
            $($(#[doc = $help])+ pub $field: <$meter as Meter>::Reading,)*
            $($($(#[doc = $about])+ pub $part: $part_reading,)*)?
        }

        impl $reading {
            /// The set and its metrics.
            pub const SET: Set = Set {
                name: $name,
                labels: &[$($label),*],
                metrics: &[$(Metric {
                    name: $metric,
                    kind: <$meter as Meter>::KIND,
                    unit: Unit::$unit,
                    help: concat!($($help),+).trim_ascii(),
                    reasons: <$meter as Meter>::REASONS,
                    label: <$meter as Meter>::LABEL,
                }),*],
            };

            /// Each metric with its value, without those of the sets inside.
            pub fn values(&self) -> impl Iterator<Item = (&'static Metric, Value<'_>)> {
                Self::SET.metrics.iter().zip([$(<$meter as Meter>::value(&self.$field)),*])
            }

            /// What happened after `earlier`; levels stay as they are.
            #[must_use]
            pub fn since(&self, earlier: &Self) -> Self {
                Self {
                    $($field: <$meter as Meter>::since(&self.$field, &earlier.$field),)*
                    $($($part: self.$part.since(&earlier.$part),)*)?
                }
            }

            /// Puts what happened in a span at its end; levels become the span's.
            pub fn grow(&mut self, span: &Self) {
                $(<$meter as Meter>::grow(&mut self.$field, &span.$field);)*
                $($(self.$part.grow(&span.$part);)*)?
            }

            /// Adds the reading of another such set.
            pub fn add(&mut self, part: &Self) {
                $(<$meter as Meter>::add(&mut self.$field, &part.$field);)*
                $($(self.$part.add(&part.$part);)*)?
            }
        }
    };
}

macro_rules! meters {
    ($title:literal $stats:ident $reading:ident {
        $($(#[doc = $help:literal])+ $field:ident: $meter:ty = $metric:literal, $unit:ident;)*
        $(parts { $($(#[doc = $about:literal])+ $part:ident: $part_stats:ty => $part_reading:ty;)* })?
    }) => {
        #[doc = concat!($title, " What one shard has counted.")]
        #[derive(Debug, Default)]
        pub struct $stats {
            $($(#[doc = $help])+ pub $field: $meter,)*
            $($($(#[doc = $about])+ pub $part: $part_stats,)*)?
        }

        impl $stats {
            /// Adds what this shard has counted.
            pub fn read(&self, sum: &mut $reading) {
                $(self.$field.read(&mut sum.$field);)*
                $($(self.$part.read(&mut sum.$part);)*)?
            }
        }
    };
}

pub(crate) use {meters, reading, registry};
