//! Commands on a draft: whether they can come, and what one has changed.

use crate::config::draft::{Draft, DraftConsole};
use crate::config::error::{Fault, Sited};
use crate::config::ruleset::{ChainKey, DraftRule};
use crate::model::policy::Policy;

impl Draft {
    /// Returns whether commands can come: by the console, the API, or a page of the configuration.
    #[must_use]
    pub fn takes_commands(&self) -> bool {
        self.console.address.is_some() || self.web.writable || !self.web.handlers.is_empty()
    }

    /// Returns whether this says the same as an earlier draft of the same file: a command has changed
    /// nothing. Where that cannot be told, it has.
    #[must_use]
    pub fn says_the_same(&self, earlier: &Self) -> bool {
        let value = |policy: &Option<Sited<Policy>>| policy.as_ref().map(|p| p.value.clone());
        let console = |c: &DraftConsole| (c.address, c.key.clone(), c.acl.clone());
        let sizes = |d: &Self| {
            (d.left_out.len(), d.functions.len(), d.name_sets.len(), d.networks.len(), d.states.len())
        };
        let rules = |d: &Self| {
            let one = |(key, rule): (ChainKey, &DraftRule)| {
                (key, rule.origin.clone(), rule.uuid, rule.name.clone())
            };
            d.rules.iter().map(one).collect::<Vec<_>>()
        };
        // What is in sets and functions is not compared; neither changes without a method or another one.
        sizes(self) == sizes(earlier)
            && self.settings.says_the_same(&earlier.settings)
            && self.listeners == earlier.listeners
            && self.relays == earlier.relays
            && self.servers == earlier.servers
            && self.pools == earlier.pools
            && value(&self.policy) == value(&earlier.policy)
            && (&self.acl, self.acl_default) == (&earlier.acl, earlier.acl_default)
            && self.web == earlier.web
            && self.proxy_peers == earlier.proxy_peers
            && console(&self.console) == console(&earlier.console)
            && (self.judge, &self.callbacks) == (earlier.judge, &earlier.callbacks)
            && self.query_count == earlier.query_count
            && self.maintenance == earlier.maintenance
            && rules(self) == rules(earlier)
    }

    /// Returns whether something that was to be removed or moved was not there.
    #[must_use]
    pub fn misses(&self) -> bool {
        self.warnings.any(|fault| matches!(fault, Fault::Absent(_)))
    }

    /// Returns whether this has more of anything than an earlier draft of the same file.
    #[must_use]
    pub fn has_more_than(&self, earlier: &Self) -> bool {
        let standing = |d: &Self| d.servers.iter().filter(|server| !server.removed).count();
        let sizes = |d: &Self| {
            [
                d.listeners.len(),
                d.left_out.len(),
                d.relays.len(),
                standing(d),
                d.pools.len(),
                d.caches.len(),
                d.acl.len(),
                d.proxy_peers.len(),
                d.rules.iter().count(),
                d.functions.len(),
                d.name_sets.len(),
                d.networks.len(),
            ]
        };
        sizes(self).iter().zip(sizes(earlier)).any(|(own, before)| *own > before)
    }
}
