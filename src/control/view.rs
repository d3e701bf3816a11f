//! The running process as the console's functions see it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::ruleset::ChainKey;
use crate::control::monitor::Monitor;
use crate::control::stats::{caches, tables};
use crate::engine::clock;
use crate::lua::front_end::view::{RunningCache, ServerView, Table, View};
use crate::model::{Backend, Snapshot};
use crate::rules::Chain;
use crate::stats::live::{LiveState, State};
use crate::stats::query_counts::Counted;
use crate::stats::top::{FoundList, GrepRequest, TopList, TopRequest};

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
            Table::Certificates => tables::certificates(&figures),
            Table::Latency => tables::latencies(&figures),
            Table::Shadows => self.shadows().text(),
            Table::Metrics => tables::metrics(&figures),
        }
    }

    fn top(&self, request: TopRequest) -> Result<TopList, String> {
        self.traffic()?.top(request)
    }

    fn grep(&self, request: GrepRequest) -> Result<FoundList, String> {
        self.traffic()?.grep(request)
    }

    fn counters(&self) -> Vec<(String, f64)> {
        tables::counters(&self.figures())
    }

    fn servers(&self) -> HashMap<String, ServerView> {
        let figures = self.figures();
        let backends = figures.snapshot.backends.iter().flatten();
        let view = |b: &Backend| {
            let recent = figures.recent.backends.get(&b.slot).map(|reading| &reading.latency);
            let median = recent.and_then(|latency| latency.quantiles([0.5])).map_or(0, |[median]| median);
            ServerView {
                up: figures.standing(b.slot).state == State::Up,
                outstanding: figures.live_state.outstanding(b.slot).into(),
                latency_ms: median as f64 / 1e6,
            }
        };
        backends.map(|b| (b.id.clone(), view(b))).collect()
    }

    fn cache(&self, pool: &str) -> Option<RunningCache> {
        let snapshot = self.snapshot();
        let all = caches::of_pools(&snapshot, self.live_state());
        let found = all.iter().find(|cache| cache.pool.name == pool)?;
        let (cache, figures) = (Arc::clone(found.cache), found.figures().to_vec());
        Some(RunningCache { cache, figures, now: clock::now() })
    }

    fn query_counts(&self, rows: usize) -> Counted {
        self.live_state().query_counts(rows)
    }

    fn clear_query_counts(&self) {
        self.live_state().clear_query_counts();
    }

    fn tls_sessions(&self) -> usize {
        let snapshot = self.snapshot();
        let connections = snapshot.backends.iter().flatten().map(|backend| &backend.connections);
        connections.filter_map(|of| of.tls.as_ref()).map(|tls| tls.tls.sessions()).sum()
    }

    fn rules(&self, chain: ChainKey) -> Vec<([u8; 16], u64)> {
        rules(&self.snapshot(), self.live_state(), chain)
    }
}

/// Returns UUID and hits of the rules of a chain.
fn rules(snapshot: &Snapshot, live_state: &LiveState, key: ChainKey) -> Vec<([u8; 16], u64)> {
    fn of<A>(chain: &Chain<A>, live_state: &LiveState) -> Vec<([u8; 16], u64)> {
        chain.rules().iter().map(|rule| (rule.uuid, live_state.rule_hits(rule.slot))).collect()
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
