//! What rules need besides a packet: limits, compiled expressions, the script.
//!
//! It sets up the evaluation of a chain on one packet; the pipeline decides which chain, and what
//! happens to the packet.

use crate::balance::{Balancer, PoolView};
use crate::base::addr::{Client, Endpoint};
use crate::base::packet::Packet;
use crate::base::time::{Tick, TickDelta};
use crate::model::{ConfiguredScript, Snapshot};
use crate::rules::apply::Effects;
use crate::rules::context::{Answered, Environment, EvaluationContext, Facts, Script};
use crate::rules::copies::Copies;
use crate::rules::limits::Limits;
use crate::rules::pattern::PatternCache;
use crate::rules::query_state::QueryState;
use crate::rules::script::Candidate;
use crate::shard::context::Context;

/// Interval of calls of the script's `maintenance`.
const MAINTENANCE: TickDelta = TickDelta::from_ms(1_000);

/// What rules need besides a packet.
#[derive(Debug)]
pub(crate) struct Evaluator {
    limits: Limits,
    patterns: PatternCache,
    script: Option<Box<dyn ConfiguredScript>>,
    /// Errors of the script that were counted.
    script_errors: u64,
    /// When `maintenance` was last called.
    maintained: Tick,
    /// The servers that a Lua policy selects from.
    pub(crate) candidates: Vec<Candidate>,
}

/// A message to be evaluated.
#[derive(Debug)]
pub(crate) struct Message<'a, 'p> {
    /// The client, as rules see it.
    pub(crate) client: Client,
    /// The address and port that it was sent to.
    pub(crate) local: Endpoint,
    /// What was parsed from it.
    pub(crate) facts: Facts,
    /// For a response, the server that sent it.
    pub(crate) answered: Option<Answered>,
    /// Its bytes.
    pub(crate) packet: &'a mut Packet<'p>,
    /// Its query state.
    pub(crate) state: &'a mut QueryState,
}

impl Evaluator {
    /// Creates the evaluator of one of `shards` shards.
    pub(crate) fn new(shards: usize, cx: &mut Context) -> Self {
        Self {
            limits: Limits::new(shards, &mut cx.rng),
            patterns: PatternCache::default(),
            script: None,
            script_errors: 0,
            maintained: Tick(0),
            candidates: Vec::new(),
        }
    }

    /// Adopts a configuration. A running script stays if the configuration's script is the same.
    pub(crate) fn adopt(&mut self, cx: &Context, before: &Snapshot, snapshot: &Snapshot) {
        let identity = |s: &Snapshot| s.script.as_ref().map(|s| s.identity());
        if self.script.is_none() || identity(snapshot) != identity(before) {
            self.script = snapshot.script.as_ref().and_then(|s| s.start(cx.index()));
            self.script_errors = 0;
        }
        if let Some(script) = &mut self.script {
            script.adopt(snapshot, cx.live_state());
        }
        self.limits.adopt(&snapshot.limits);
        self.patterns.clear();
    }

    /// Calls `evaluate` with the context and environment of a message.
    pub(crate) fn run<T>(
        &mut self,
        cx: &mut Context,
        balancer: &Balancer,
        copies: &mut Copies,
        message: Message<'_, '_>,
        evaluate: impl FnOnce(&mut EvaluationContext<'_, '_>, &mut Environment<'_>, &mut Effects<'_>) -> T,
    ) -> T {
        let Message { client, local, facts, answered, packet, state } = message;
        let mut context = EvaluationContext { packet, facts, query_state: state, client, local, answered };
        let (edns, now) = (cx.answer_edns(), cx.now);
        let (stats, snapshot, rng) = cx.parts();
        let mut effects = Effects { stats, copies, edns, limit: 0, opt_to_add: None };
        let mut environment = Environment {
            now,
            chains: &snapshot.chains,
            settings: snapshot.rule_settings(),
            limits: &mut self.limits,
            rng,
            pools: &PoolView { snapshot, balancer },
            script: self.script.as_deref_mut().map(|script| script as &mut dyn Script),
            patterns: &mut self.patterns,
        };
        evaluate(&mut context, &mut environment, &mut effects)
    }

    /// Prefetches what the query rules will read for these names and clients.
    pub(crate) fn prefetch(&self, cx: &Context, names: &[&[u8]], clients: &[[u8; 16]]) {
        cx.snapshot.chains.query.prefetch(names, clients, &self.limits);
    }

    /// Calls the script's `maintenance` once a second.
    pub(crate) fn maintain(&mut self, cx: &Context) {
        let Some(script) = &mut self.script else { return };
        if cx.now.since(self.maintained) < MAINTENANCE {
            return;
        }
        self.maintained = cx.now;
        script.maintain(cx.now);
        let errors = script.errors();
        let new = errors - std::mem::replace(&mut self.script_errors, errors);
        cx.stats().script_errors.add(new);
    }
}
