//! Stable slots of backends, listeners, rules and pools over any number of reloads.
//!
//! ```text
//!  free ──assign──► held by an identity ──not wanted any more──► retired ──reclaim──► free
//! ```
//!
//! A retired slot still has sockets and outstanding queries in the shards; it is reused only after
//! every shard has released it. The caller of `reclaim` knows when.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use xxhash_rust::xxh3::xxh3_64;

use crate::base::addr::{BackendSlot, ListenerSlot, RuleSlot};
use crate::base::time::{Tick, TickDelta};
use crate::config::error::Fault;
use crate::model::{Backend, Listener};
use crate::stats::live::RULES_MAX;

/// Most listen addresses at a time, including retired ones.
pub use crate::base::addr::LISTENERS_MAX;

/// The key of a rule's slot: its chain and its UUID.
pub(super) type RuleIdentity = (u8, [u8; 16]);

/// The slots in use. A new configuration makes a new value and leaves the old one unchanged, so
/// that a refused configuration changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    backends: Vec<Held<Backend>>,
    listeners: Vec<Held<Listener>>,
    rules: Rules,
    /// Pools by slot.
    pools: Vec<HeldPool>,
}

#[derive(Clone, Debug)]
enum HeldPool {
    Free,
    By(String),
    /// With the time since which no query can enter it, once that is known.
    Retired(String, Option<Tick>),
}

/// A pool's slot is free this long after its last query can have begun: more than a query can wait,
/// with the longest time-out (300 s) at five servers.
const POOL_RETIRED: TickDelta = TickDelta::from_ms(1_800_000);

/// The slots of rules: far more than the others, so they are found by a map.
#[derive(Clone, Debug, Default)]
struct Rules {
    held: HashMap<RuleIdentity, u32>,
    /// Slots from here on were never used.
    end: u32,
    retired: Vec<u32>,
    free: Vec<u32>,
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
    /// Slots that removed objects still hold.
    pub retired: usize,
}

impl Slots {
    /// Gives each backend its slot: its old one if its sockets can stay, else a free one. Slots
    /// that are not wanted any more are retired. There can be `max` slots.
    ///
    /// # Errors
    /// When there are not enough slots; `self` is unusable then.
    pub fn assign_backends(&mut self, wanted: &mut [Backend], max: usize) -> Result<(), Full> {
        let key = |b: &Backend| xxh3_64(b.id.as_bytes());
        assign(&mut self.backends, wanted, max, key, Backend::same_sockets, |b, at| b.slot = BackendSlot(at))
    }

    /// The same for listeners, which are identified by address, interface and service.
    ///
    /// # Errors
    /// When there are not enough slots; `self` is unusable then.
    pub fn assign_listeners(&mut self, wanted: &mut [Listener]) -> Result<(), Full> {
        let key = |l: &Listener| l.address;
        assign(&mut self.listeners, wanted, LISTENERS_MAX, key, Listener::same_sockets, |l, at| {
            l.slot = ListenerSlot(at);
        })
    }

    /// Gives each rule its slot, its old one or a free one, and returns the new ones. Slots that
    /// are not wanted any more are retired. Identities must be unique.
    ///
    /// # Errors
    /// When there are not enough slots; `self` is unusable then.
    pub(super) fn assign_rules(
        &mut self,
        wanted: &[RuleIdentity],
    ) -> Result<(Vec<RuleSlot>, Vec<RuleSlot>), Full> {
        let Rules { held, end, retired, free } = &mut self.rules;
        let mut before = std::mem::take(held);
        let kept: Vec<Option<u32>> = wanted.iter().map(|identity| before.remove(identity)).collect();
        #[expect(clippy::disallowed_methods, reason = "sorted right below")]
        let mut gone: Vec<u32> = before.into_values().collect();
        gone.sort_unstable();
        retired.extend(gone);
        let (mut slots, mut fresh) = (Vec::with_capacity(wanted.len()), Vec::new());
        for (identity, kept) in wanted.iter().zip(kept) {
            let slot = match kept {
                Some(slot) => slot,
                None => {
                    let slot = free.pop().unwrap_or_else(|| {
                        *end += 1;
                        *end - 1
                    });
                    if slot as usize >= RULES_MAX {
                        return Err(Full { wanted: wanted.len(), retired: retired.len() });
                    }
                    fresh.push(RuleSlot(slot));
                    slot
                }
            };
            held.insert(*identity, slot);
            slots.push(RuleSlot(slot));
        }
        Ok((slots, fresh))
    }

    /// Frees retired slots of rules for which `gone` returns true: no shard counts there.
    pub fn reclaim_rules(&mut self, gone: impl Fn(RuleSlot) -> bool) {
        let Rules { retired, free, .. } = &mut self.rules;
        retired.retain(|slot| {
            let is_gone = gone(RuleSlot(*slot));
            if is_gone {
                free.push(*slot);
            }
            !is_gone
        });
        // The lowest is used first.
        free.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// Returns the names of pools by slot; empty for a slot behind the first that no pool has. A
    /// name keeps its slot as long as it is wanted, and the slot of one that is not stays without a
    /// pool for a time: a query that is outstanding over a reload still refers to it.
    pub(super) fn order_pools<'w>(&mut self, wanted: &[&'w str]) -> Vec<&'w str> {
        let mut new: BTreeSet<&str> = wanted.iter().copied().collect();
        let mut names = Vec::with_capacity(self.pools.len());
        for held in &mut self.pools {
            let name = match held {
                HeldPool::By(name) | HeldPool::Retired(name, _) => new.take(name.as_str()),
                HeldPool::Free => None,
            };
            *held = match (std::mem::replace(held, HeldPool::Free), name) {
                (HeldPool::By(held) | HeldPool::Retired(held, _), Some(_)) => HeldPool::By(held),
                (HeldPool::By(gone), None) => HeldPool::Retired(gone, None),
                (is, _) => is,
            };
            names.push(name.unwrap_or_default());
        }
        let mut at = 0;
        for name in wanted {
            if !new.remove(name) {
                continue;
            }
            while self.pools.get(at).is_some_and(|held| !matches!(held, HeldPool::Free)) {
                at += 1;
            }
            if at == self.pools.len() {
                self.pools.push(HeldPool::Free);
                names.push("");
            }
            (self.pools[at], names[at]) = (HeldPool::By((*name).to_owned()), name);
        }
        names
    }

    /// Frees the slots of pools that were removed so long ago that no query refers to them.
    /// `is_current`: every shard uses the current configuration, so that no query enters them.
    pub fn reclaim_pools(&mut self, is_current: bool, now: Tick) {
        for held in &mut self.pools {
            match held {
                HeldPool::Retired(_, since @ None) if is_current => *since = Some(now),
                HeldPool::Retired(_, Some(since)) if now.since(*since) >= POOL_RETIRED => {
                    *held = HeldPool::Free;
                }
                HeldPool::Retired(..) | HeldPool::By(_) | HeldPool::Free => {}
            }
        }
    }

    /// Frees retired backend slots for which `gone` returns true: no shard holds anything there.
    pub fn reclaim(&mut self, gone: impl Fn(BackendSlot) -> bool) {
        free(&mut self.backends, |at| gone(BackendSlot(at)));
    }

    /// Frees retired listener slots for which `gone` returns true.
    pub fn reclaim_listeners(&mut self, gone: impl Fn(ListenerSlot) -> bool) {
        free(&mut self.listeners, |at| gone(ListenerSlot(at)));
    }

    /// Retires the listener slots of a refused configuration that shards still use.
    pub fn retire_listeners(&mut self, slots: &[ListenerSlot]) {
        for slot in slots {
            if self.listeners.len() <= slot.index() {
                self.listeners.resize_with(slot.index() + 1, || Held::Free);
            }
            if matches!(self.listeners[slot.index()], Held::Free) {
                self.listeners[slot.index()] = Held::Retired;
            }
        }
    }

    /// Returns the retired backend slots.
    pub fn retired(&self) -> impl Iterator<Item = BackendSlot> + '_ {
        let at = |at: usize| BackendSlot(u16::try_from(at).unwrap_or(u16::MAX));
        self.backends.iter().enumerate().filter(|(_, h)| matches!(h, Held::Retired)).map(move |(n, _)| at(n))
    }
}

/// Returns the error of more pools than there can be slots, of their names by slot.
pub(super) fn too_many_pools(by_slot: &[&str]) -> Fault {
    let removed = match by_slot.iter().skip(1).filter(|name| name.is_empty()).count() {
        0 => String::new(),
        count => format!(
            ", of which {count} were removed by reloads: a removed pool counts for half an hour, unless dnslob is restarted"
        ),
    };
    Fault::Limit { what: format!("{} pools{removed}", by_slot.len()), limit: u16::MAX.to_string() }
}

/// Objects that are the `same` have the same `key`.
fn assign<T: Clone, K: Eq + Hash>(
    held: &mut Vec<Held<T>>,
    wanted: &mut [T],
    max: usize,
    key: impl Fn(&T) -> K,
    same: impl Fn(&T, &T) -> bool,
    give: impl Fn(&mut T, u16),
) -> Result<(), Full> {
    let mut kept = vec![false; held.len()];
    let mut new = Vec::new();
    let mut by_key: HashMap<K, Vec<usize>> = HashMap::new();
    for (at, h) in held.iter().enumerate() {
        if let Held::By(old) = h {
            by_key.entry(key(old)).or_default().push(at);
        }
    }
    for (n, item) in wanted.iter_mut().enumerate() {
        let is_same = |at: &usize| !kept[*at] && matches!(&held[*at], Held::By(old) if same(old, item));
        match by_key.get(&key(item)).and_then(|places| places.iter().copied().find(is_same)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ConnectionOptions, ProxyHeader, Service, SocketOptions};
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// Builds a backend called `id`; `sockets` distinguishes those that cannot share sockets.
    fn backend(id: u8, sockets: u8, weight: u32) -> Backend {
        let address = ([192, 0, 2, id], 53).into();
        Backend { id: id.to_string(), weight, sockets, ..Backend::new(BackendSlot(u16::MAX), address) }
    }

    fn assigned(slots: &mut Slots, wanted: &[(u8, u8)], max: usize) -> Result<Vec<u16>, Full> {
        let mut backends: Vec<Backend> =
            wanted.iter().map(|(id, sockets)| backend(*id, *sockets, 1)).collect();
        slots.assign_backends(&mut backends, max)?;
        Ok(backends.iter().map(|b| b.slot.0).collect())
    }

    #[test]
    fn a_slot_is_kept_while_wanted_and_blocked_until_reclaimed() {
        let mut slots = Slots::default();
        assert_eq!(assigned(&mut slots, &[(1, 4), (2, 4), (3, 4)], 4), Ok(vec![0, 1, 2]));
        assert_eq!(assigned(&mut slots, &[(3, 4), (1, 4)], 4), Ok(vec![2, 0]));
        assert_eq!(slots.retired().collect::<Vec<_>>(), [BackendSlot(1)]);
        assert_eq!(assigned(&mut slots, &[(3, 4), (1, 4), (5, 4)], 4), Ok(vec![2, 0, 3]));
        let full = Full { wanted: 4, retired: 1 };
        assert_eq!(assigned(&mut slots.clone(), &[(3, 4), (1, 4), (5, 4), (6, 4)], 4), Err(full));
        slots.reclaim(|slot| slot == BackendSlot(1));
        assert_eq!(assigned(&mut slots, &[(3, 4), (1, 4), (5, 4), (6, 4)], 4), Ok(vec![2, 0, 3, 1]));
    }

    #[test]
    fn other_sockets_are_another_slot_but_another_weight_is_not() {
        let mut slots = Slots::default();
        assert_eq!(assigned(&mut slots, &[(1, 4)], 9), Ok(vec![0]));
        let mut heavier = [backend(1, 4, 7)];
        assert_eq!(slots.assign_backends(&mut heavier, 9), Ok(()));
        assert_eq!(heavier[0].slot, BackendSlot(0));
        assert_eq!(assigned(&mut slots, &[(1, 8)], 9), Ok(vec![1]));
        assert_eq!(slots.retired().collect::<Vec<_>>(), [BackendSlot(0)]);
    }

    #[test]
    fn a_rule_keeps_its_slot_until_it_is_reclaimed() {
        let mut slots = Slots::default();
        let assigned = |slots: &mut Slots, wanted: &[(u8, u8)]| {
            let wanted: Vec<RuleIdentity> = wanted.iter().map(|(chain, n)| (*chain, [*n; 16])).collect();
            let (given, fresh) = slots.assign_rules(&wanted).expect("slots");
            (given.iter().map(|s| s.0).collect::<Vec<_>>(), fresh.iter().map(|s| s.0).collect::<Vec<_>>())
        };
        assert_eq!(assigned(&mut slots, &[(0, 1), (0, 2), (1, 1)]), (vec![0, 1, 2], vec![0, 1, 2]));
        assert_eq!(assigned(&mut slots, &[(1, 1), (0, 3), (0, 2)]), (vec![2, 3, 1], vec![3]));
        slots.reclaim_rules(|_| false);
        assert_eq!(assigned(&mut slots, &[(0, 1)]), (vec![4], vec![4]), "retired slots are not reused");
        slots.reclaim_rules(|slot| slot.0 != 3);
        assert_eq!(assigned(&mut slots, &[(0, 1), (0, 5), (0, 6)]), (vec![4, 0, 1], vec![0, 1]));
    }

    #[test]
    fn a_pools_slot_is_free_when_no_query_can_refer_to_it() {
        let mut slots = Slots::default();
        let begin = Tick(1 << 40);
        assert_eq!(slots.order_pools(&["", "a", "b"]), ["", "a", "b"]);
        assert_eq!(slots.order_pools(&["", "b", "c"]), ["", "", "b", "c"]);
        slots.reclaim_pools(false, begin);
        slots.reclaim_pools(true, begin + TickDelta(1));
        slots.reclaim_pools(true, begin + POOL_RETIRED);
        assert_eq!(slots.clone().order_pools(&["", "b", "c", "d"]), ["", "", "b", "c", "d"]);
        assert_eq!(slots.clone().order_pools(&["", "a"]), ["", "a", "", ""], "the same slot again");
        slots.reclaim_pools(true, begin + POOL_RETIRED + TickDelta(1));
        assert_eq!(slots.order_pools(&["", "b", "c", "d", "e"]), ["", "d", "b", "c", "e"]);
        // Names of reloads do not add up.
        let mut now = begin;
        for reload in 0..10 {
            let names: Vec<String> = (0..20_000).map(|n| format!("{reload}-{n}")).collect();
            let mut wanted: Vec<&str> = names.iter().map(String::as_str).collect();
            wanted.insert(0, "");
            assert!(slots.order_pools(&wanted).len() <= 60_006);
            now = now + POOL_RETIRED;
            slots.reclaim_pools(true, now);
        }
    }

    fn listener() -> Listener {
        Listener {
            slot: ListenerSlot(0),
            address: ([127, 0, 0, 1], 53).into(),
            interface: None,
            reuse_port: false,
            freebind: false,
            sockets: SocketOptions::default(),
            dscp: 0,
            service: Service::Dns,
            connection_options: ConnectionOptions::default(),
            proxy: ProxyHeader::default(),
        }
    }

    #[test]
    fn a_listener_is_its_address_interface_and_service() {
        let listener =
            |port: u16, service| Listener { address: ([127, 0, 0, 1], port).into(), service, ..listener() };
        let mut slots = Slots::default();
        let mut first = [listener(53, Service::Dns), listener(54, Service::Dns)];
        assert_eq!(slots.assign_listeners(&mut first), Ok(()));
        let heavier = Listener { dscp: 8, ..listener(54, Service::Dns) };
        let mut second = [heavier, listener(53, Service::DnsUdp)];
        assert_eq!(slots.assign_listeners(&mut second), Ok(()));
        assert_eq!([second[0].slot.0, second[1].slot.0], [1, 2]);
        slots.reclaim_listeners(|slot| slot == ListenerSlot(0));
        let of = |port| listener(port, Service::Dns);
        let mut third = [of(54), listener(53, Service::DnsUdp), of(55)];
        assert_eq!(slots.assign_listeners(&mut third), Ok(()));
        assert_eq!(third[2].slot.0, 0);
    }

    #[test]
    fn a_key_of_fast_open_is_set_on_the_sockets_that_are_open() {
        let key = |byte: u8| Some([byte; 16]);
        for (before, after) in [
            ((5, key(1)), (5, key(2))),
            ((5, None), (5, key(1))),
            ((0, key(1)), (0, key(2))),
            ((0, key(1)), (0, None)),
            ((0, key(1)), (5, None)),
            ((5, key(1)), (0, None)),
            ((5, key(1)), (5, None)),
        ] {
            let listener = |(fast_open, fast_open_key)| {
                let connection_options =
                    ConnectionOptions { fast_open, fast_open_key, ..ConnectionOptions::default() };
                Listener { connection_options, ..listener() }
            };
            let mut slots = Slots::default();
            let [mut first, mut second] = [[listener(before)], [listener(after)]];
            assert_eq!(slots.assign_listeners(&mut first), Ok(()));
            assert_eq!(slots.assign_listeners(&mut second), Ok(()));
            assert_eq!(first[0].slot, second[0].slot, "{before:?} {after:?}");
            let is_used = before.0 > 0 || after.0 > 0;
            assert_eq!(first[0].same_options(&second[0]), !is_used, "{before:?} {after:?}");
        }
    }

    #[test]
    fn listener_slots_of_a_refused_configuration_are_reused_only_when_free() {
        let mut slots = Slots::default();
        let listener = |port: u16| Listener { address: ([127, 0, 0, 1], port).into(), ..listener() };
        let mut running = [listener(53)];
        assert_eq!(slots.assign_listeners(&mut running), Ok(()));
        slots.retire_listeners(&[ListenerSlot(0), ListenerSlot(2)]);
        let mut next = [listener(53), listener(54), listener(55)];
        assert_eq!(slots.clone().assign_listeners(&mut next), Ok(()));
        assert_eq!(next.each_ref().map(|l| l.slot.0), [0, 1, 3]);
        slots.reclaim_listeners(|slot| slot == ListenerSlot(2));
        assert_eq!(slots.assign_listeners(&mut next), Ok(()));
        assert_eq!(next.each_ref().map(|l| l.slot.0), [0, 1, 2]);
    }

    proptest! {
        #[test]
        fn slots_are_stable_unique_and_never_reused_early(
            reloads in prop::collection::vec(
                (prop::collection::hash_set((0_u8..8, 1_u8..3), 0..8), prop::collection::hash_set(0_u16..24, 0..24)),
                1..12,
            ),
        ) {
            let mut slots = Slots::default();
            let mut before: Vec<((u8, u8), u16)> = Vec::new();
            let mut retired: HashSet<u16> = HashSet::new();
            for (wanted, gone) in reloads {
                slots.reclaim(|slot| gone.contains(&slot.0));
                retired.retain(|slot| !gone.contains(slot));
                let wanted: Vec<(u8, u8)> = wanted.into_iter().collect();
                let Ok(now) = assigned(&mut slots, &wanted, 64) else {
                    return Err(TestCaseError::fail("64 slots are enough for any of these"));
                };
                let now: Vec<((u8, u8), u16)> = wanted.into_iter().zip(now).collect();
                prop_assert_eq!(now.iter().map(|n| n.1).collect::<HashSet<_>>().len(), now.len());
                for (who, slot) in &now {
                    prop_assert!(!retired.contains(slot), "{} is still in use", slot);
                    let old = before.iter().find(|b| b.0 == *who);
                    prop_assert!(old.is_none_or(|b| b.1 == *slot), "{:?} moved to {}", who, slot);
                }
                retired.extend(before.iter().filter(|b| !now.contains(b)).map(|b| b.1));
                let reported: HashSet<u16> = slots.retired().map(|s| s.0).collect();
                prop_assert_eq!(&reported, &retired);
                before = now;
            }
        }
    }
}
