//! Who has which slot: stable indices for backends and listeners over any number of reloads.
//!
//! ```text
//!  free ──assign──► held by an identity ──no longer wanted──► retired ──reclaim──► free
//! ```
//!
//! A retired slot still has sockets and outstanding queries in the shards; it is given out again
//! only after every shard has let go of it. Nothing here knows when that is: `reclaim` is told.

use super::snapshot::{Backend, Listener};
use crate::addr::{BackendSlot, ListenerSlot};

/// Listen addresses there can be at a time, retired ones included.
pub const LISTENERS_MAX: usize = 1024;

/// The slots in use. A new configuration makes a new value and leaves the old one as it was, so
/// that a configuration that is refused changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    backends: Vec<Held<Backend>>,
    listeners: Vec<Held<Listener>>,
}

#[derive(Clone, Debug)]
enum Held<T> {
    Free,
    By(Box<T>),
    Retired,
}

/// There are not enough slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// Slots wanted.
    pub wanted: usize,
    /// Slots that removed ones still hold.
    pub retired: usize,
}

impl Slots {
    /// Gives each backend its slot: the one it had if its sockets can stay, a free one if not.
    /// Slots that nobody wants any more are retired. `max` slots there can be.
    ///
    /// # Errors
    /// When there are not enough slots; `self` is then of no use.
    pub fn assign_backends(&mut self, wanted: &mut [Backend], max: usize) -> Result<(), Full> {
        assign(&mut self.backends, wanted, max, Backend::same_sockets, |b, at| b.slot = BackendSlot(at))
    }

    /// The same for listeners; one with another address, interface or socket option is another.
    ///
    /// # Errors
    /// When there are not enough slots; `self` is then of no use.
    pub fn assign_listeners(&mut self, wanted: &mut [Listener]) -> Result<(), Full> {
        let same = |a: &Listener, b: &Listener| Listener { slot: b.slot, ..a.clone() } == *b;
        assign(&mut self.listeners, wanted, LISTENERS_MAX, same, |l, at| l.slot = ListenerSlot(at))
    }

    /// Frees the retired backend slots of which `gone` says that no shard holds anything there.
    pub fn reclaim(&mut self, gone: impl Fn(BackendSlot) -> bool) {
        free(&mut self.backends, |at| gone(BackendSlot(at)));
    }

    /// Frees the retired listener slots of which `gone` says so.
    pub fn reclaim_listeners(&mut self, gone: impl Fn(ListenerSlot) -> bool) {
        free(&mut self.listeners, |at| gone(ListenerSlot(at)));
    }

    /// The retired backend slots.
    pub fn retired(&self) -> impl Iterator<Item = BackendSlot> + '_ {
        let at = |at: usize| BackendSlot(u16::try_from(at).unwrap_or(u16::MAX));
        self.backends.iter().enumerate().filter(|(_, h)| matches!(h, Held::Retired)).map(move |(n, _)| at(n))
    }
}

fn assign<T: Clone>(
    held: &mut Vec<Held<T>>,
    wanted: &mut [T],
    max: usize,
    same: impl Fn(&T, &T) -> bool,
    give: impl Fn(&mut T, u16),
) -> Result<(), Full> {
    let mut kept = vec![false; held.len()];
    let mut new = Vec::new();
    for (n, item) in wanted.iter_mut().enumerate() {
        let has = |(at, h): (usize, &Held<T>)| !kept[at] && matches!(h, Held::By(old) if same(old, item));
        match held.iter().enumerate().position(has) {
            Some(at) => {
                kept[at] = true;
                give(item, index(at));
                held[at] = Held::By(Box::new(item.clone()));
            }
            None => new.push(n),
        }
    }
    for (h, kept) in held.iter_mut().zip(&kept) {
        if matches!(h, Held::By(_)) && !kept {
            *h = Held::Retired;
        }
    }
    let mut from = 0;
    for n in new {
        from += held[from..].iter().take_while(|h| !matches!(h, Held::Free)).count();
        if from >= max {
            let retired = held.iter().filter(|h| matches!(h, Held::Retired)).count();
            return Err(Full { wanted: wanted.len(), retired });
        }
        if from == held.len() {
            held.push(Held::Free);
        }
        give(&mut wanted[n], index(from));
        held[from] = Held::By(Box::new(wanted[n].clone()));
    }
    Ok(())
}

fn free<T>(held: &mut [Held<T>], gone: impl Fn(u16) -> bool) {
    for (at, h) in held.iter_mut().enumerate() {
        if matches!(h, Held::Retired) && gone(index(at)) {
            *h = Held::Free;
        }
    }
}

/// Bounded by the largest `backends-max`, 65535.
fn index(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}
