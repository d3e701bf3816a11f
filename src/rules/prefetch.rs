//! Memory of a chain that is so large that a packet waits for it, and that a batch can read
//! together: sets of names, tables of clients.
//!
//! ```text
//!  batch ─► pass 1: names and clients of all packets ─► loads that do not wait for each other
//!      └──► pass 2: each packet walks the chain, with its cache lines loaded
//! ```
//!
//! It covers what rules access for every packet. What few packets reach is not worth a pass.

use crate::rules::limits::{ClientLimit, Limits};
use crate::rules::matcher::Matcher;
use crate::rules::names::Names;

/// Tables of each kind that are prefetched. More would evict each other from the first-level cache
/// (32 or 48 KiB; a batch of 64 takes up to 12 KiB for each).
const TABLES_MAX: usize = 2;

/// The large memory of a chain.
#[derive(Debug, Default)]
pub(crate) struct PrefetchSet {
    names: Vec<Names>,
    clients: Vec<ClientLimit>,
    timed: Vec<u32>,
}

impl PrefetchSet {
    /// Collects that of matchers which are evaluated for every packet.
    pub(crate) fn of<'m>(matchers: impl Iterator<Item = &'m Matcher>) -> Self {
        let mut prefetch_set = Self::default();
        matchers.for_each(|matcher| prefetch_set.add(matcher));
        prefetch_set
    }

    fn add(&mut self, matcher: &Matcher) {
        if let Matcher::And(list) | Matcher::Or(list) = matcher {
            list.iter().for_each(|m| self.add(m));
        } else if let Matcher::Not(not) = matcher {
            self.add(not);
        } else if let Matcher::QNameSet(names) | Matcher::QNameSuffix(names) = matcher {
            let known = self.names.iter().any(|n| n.key() == names.key());
            if !known && self.names.len() < TABLES_MAX && names.set().is_some_and(|set| set.needs_prefetch())
            {
                self.names.push(names.clone());
            }
        } else if let Matcher::MaxQpsIp(limit) = matcher {
            if !self.clients.contains(limit) && self.clients.len() < TABLES_MAX {
                self.clients.push(limit.clone());
            }
        } else if let Matcher::TimedSet(set) = matcher
            && !self.timed.contains(&set.state)
            && self.timed.len() < TABLES_MAX
        {
            self.timed.push(set.state);
        }
    }

    /// Returns whether there is none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.names.is_empty() && self.clients.is_empty() && self.timed.is_empty()
    }

    /// Reads what a batch will access.
    pub(crate) fn prefetch(&self, names: &[&[u8]], clients: &[[u8; 16]], limits: &Limits) {
        for set in self.names.iter().filter_map(Names::set) {
            set.prefetch(names.iter().copied());
        }
        for limit in &self.clients {
            limits.prefetch_clients(limit, clients);
        }
        for state in &self.timed {
            limits.prefetch_timed(*state, clients);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::names::NameSet;

    #[test]
    fn large_sets_of_every_packet_are_found() {
        let name = |n: u32| [&[8][..], format!("{n:08}").as_bytes(), &[0]].concat();
        let set = |count| Names::from((0..count).map(name).collect::<NameSet>());
        let (large, small) = (set(200_000), set(10));
        let limit = ClientLimit { state: 3, qps: 1, burst: 1, v4: 32, v6: 64, expiration_s: 60 };
        let all = [
            Matcher::And([Matcher::All, Matcher::QNameSet(large.clone())].into()),
            Matcher::Not(Matcher::QNameSuffix(large.clone()).into()),
            Matcher::Or([Matcher::QNameSet(small), Matcher::MaxQpsIp(limit.clone())].into()),
            Matcher::MaxQpsIp(limit.clone()),
        ];
        let prefetch_set = PrefetchSet::of(all.iter());
        assert_eq!(prefetch_set.names.iter().map(Names::key).collect::<Vec<_>>(), [large.key()]);
        assert_eq!((prefetch_set.clients.len(), prefetch_set.timed.len()), (1, 0));
        assert!(PrefetchSet::of([Matcher::All].iter()).is_empty());
        // A newer configuration may have other limits than the shard.
        prefetch_set.prefetch(&[&name(7), b"\x01", b""], &[[0; 16], [0xff; 16]], &Limits::default());
    }
}
