//! The running process as the console's functions see it.

use crate::config::ruleset::ChainKey;
use crate::control::monitor::Monitor;
use crate::control::stats::tables;
use crate::lua::front_end::view::{ServerView, Table, View};
use crate::model::Snapshot;
use crate::rules::Chain;
use crate::stats::live::{LiveState, State};
use crate::stats::registry::RuleReading;

impl View for Monitor {
    fn table(&self, table: Table) -> String {
        let figures = self.figures();
        match table {
            Table::Servers => tables::servers(&figures),
            Table::Pools => tables::pools(&figures),
            Table::Listeners => tables::listeners(&figures),
            Table::Connections => tables::connections(&figures),
            Table::TlsErrors => tables::tls_errors(&figures),
            Table::TlsListeners => tables::tls_listeners(&figures),
            Table::Latency => tables::latency(&figures),
            Table::Metrics => tables::metrics(&figures),
        }
    }

    fn counters(&self) -> Vec<(String, f64)> {
        tables::counters(&self.figures())
    }

    fn server(&self, identity: &str) -> Option<ServerView> {
        let snapshot = self.snapshot();
        let backend = snapshot.backends.iter().flatten().find(|b| b.id == identity)?;
        let (slot, live_state) = (backend.slot, self.live_state());
        let figures = self.figures();
        let recent = figures.recent.backends.get(&slot).map(|b| &b.latency);
        let median = recent.and_then(|latency| latency.quantiles([0.5])).map_or(0, |[median]| median);
        Some(ServerView {
            up: live_state.backend(slot).state() == State::Up,
            outstanding: live_state.outstanding(slot).into(),
            latency_ms: median as f64 / 1e6,
            queries: figures.total.backends.get(&slot).map_or(0, |b| b.queries),
        })
    }

    fn rules(&self, chain: ChainKey) -> Vec<([u8; 16], u64)> {
        rules(&self.snapshot(), self.live_state(), chain)
    }
}

/// Returns UUID and hits of the rules of a chain.
fn rules(snapshot: &Snapshot, live_state: &LiveState, key: ChainKey) -> Vec<([u8; 16], u64)> {
    fn of<A>(chain: &Chain<A>, live_state: &LiveState) -> Vec<([u8; 16], u64)> {
        let hits = |slot| {
            let mut sum = RuleReading::default();
            live_state.shards().iter().filter_map(|s| s.rule_if_any(slot)).for_each(|r| r.read(&mut sum));
            sum.hits
        };
        chain.rules().iter().map(|rule| (rule.uuid, hits(rule.slot))).collect()
    }
    let chains = &snapshot.chains;
    match key {
        ChainKey::Query => of(&chains.query, live_state),
        ChainKey::CacheMiss => of(&chains.cache_miss, live_state),
        ChainKey::Response => of(&chains.response, live_state),
        ChainKey::CacheHit => of(&chains.cache_hit, live_state),
        ChainKey::CacheInserted => of(&chains.cache_inserted, live_state),
        ChainKey::SelfAnswered => of(&chains.self_answered, live_state),
        ChainKey::Timeout => of(&chains.timeout, live_state),
        ChainKey::Xfr => of(&chains.xfr, live_state),
    }
}
