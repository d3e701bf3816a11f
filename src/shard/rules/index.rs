//! Which rules of a chain can match a packet: one question to each kind of index.

use super::scene::{Env, Scene};

/// What must hold for a rule to match.
#[derive(Clone, Debug)]
pub enum Guard {
    /// Nothing that an index knows: it is asked each time.
    Always,
}

/// The indexes of a chain.
#[derive(Clone, Debug, Default)]
pub struct Index {
    rules: u32,
}

/// What the indexes are asked about.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'k> {
    /// The name asked for.
    pub qname: &'k [u8],
}

impl<'k> Keys<'k> {
    /// Those of a packet.
    #[must_use]
    pub fn of(scene: &'k Scene<'_, '_>) -> Self {
        Self { qname: scene.qname() }
    }
}

impl Index {
    /// An index over rules with these guards, in order.
    #[must_use]
    pub fn build(guards: impl Iterator<Item = Guard>) -> Self {
        Self { rules: guards.count() as u32 }
    }
}

/// The rules that can match, in order.
#[derive(Debug, Default)]
pub struct Candidates<'c> {
    index: std::marker::PhantomData<&'c Index>,
}

impl<'c> Candidates<'c> {
    /// The first one from `from` on.
    pub fn next(&mut self, index: &'c Index, from: u32, _: &Keys<'_>, _: &mut Env<'_>) -> Option<u32> {
        (from < index.rules).then_some(from)
    }
}
