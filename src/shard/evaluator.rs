//! What rules need besides a packet: limits, compiled expressions, the script.
//!
//! It sets up the evaluation of a chain on one packet; which chain, and what becomes of the packet,
//! the pipeline says.

use crate::balance::{PoolView, Selector};
use crate::base::addr::{Client, Endpoint};
use crate::base::packet::Packet;
use crate::base::time::{Tick, TickDelta};
use crate::model::{ConfiguredScript, Snapshot};
use crate::rules::apply::Effects;
use crate::rules::context::{Answered, Environment, EvaluationContext, Facts};
use crate::rules::copies::Copies;
use crate::rules::limits::Limits;
use crate::rules::pattern::PatternCache;
use crate::rules::query_state::QueryState;
use crate::rules::script::{Candidate, Script};
use crate::shard::context::Context;

/// Between two calls of the script's `maintenance`.
const MAINTENANCE: TickDelta = TickDelta::from_ms(1_000);

/// What rules need besides a packet.
#[derive(Debug)]
pub(crate) struct Evaluator {
    limits: Limits,
    patterns: PatternCache,
    script: Option<Box<dyn ConfiguredScript>>,
    /// Errors of the script that have been counted.
    script_errors: u64,
    /// When the script was last let do what it does every second.
    maintained: Tick,
    /// What a policy in Lua chooses from.
    pub(crate) candidates: Vec<Candidate>,
}

/// A message that rules look at.
#[derive(Debug)]
pub(crate) struct Message<'a, 'p> {
    /// Who asked, as rules see it.
    pub(crate) client: Client,
    /// The address and port that were asked.
    pub(crate) local: Endpoint,
    /// What has been read of it.
    pub(crate) facts: Facts,
    /// Of an answer, who gave it.
    pub(crate) answered: Option<Answered>,
    /// Its bytes.
    pub(crate) packet: &'a mut Packet<'p>,
    /// What is known of its query besides them.
    pub(crate) state: &'a mut QueryState,
}

impl Evaluator {
    /// For the shards of a process, so many of them.
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

    /// Takes a configuration up. A running script stays where the configuration's is the same.
    pub(crate) fn adopt(&mut self, shard: usize, before: &Snapshot, snapshot: &Snapshot) {
        let identity = |s: &Snapshot| s.script.as_ref().map(|s| s.identity());
        if self.script.is_none() || identity(snapshot) != identity(before) {
            self.script = snapshot.script.as_ref().and_then(|s| s.start(shard));
            self.script_errors = 0;
        }
        if let Some(script) = &mut self.script {
            script.adopt(snapshot);
        }
        self.limits.adopt(&snapshot.limits);
        self.patterns.clear();
    }

    /// Has `evaluate` happen on a message.
    pub(crate) fn run<T>(
        &mut self,
        cx: &mut Context,
        balancer: &Selector,
        copies: &mut Copies,
        message: Message<'_, '_>,
        evaluate: impl FnOnce(&mut EvaluationContext<'_, '_>, &mut Environment<'_>, &mut Effects<'_>) -> T,
    ) -> T {
        let Message { client, local, facts, answered, packet, state } = message;
        let mut context = EvaluationContext { packet, facts, query_state: state, client, local, answered };
        let (edns, now) = (cx.answer_edns(), cx.now);
        let (stats, snapshot, rng) = cx.parts();
        let mut effects = Effects { stats, copies, edns, limit: 0 };
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

    /// Brings near what the query rules will need of far memory for these names and clients.
    pub(crate) fn prefetch(&self, cx: &Context, names: &[&[u8]], clients: &[[u8; 16]]) {
        cx.snapshot.chains.query.prefetch(names, clients, &self.limits);
    }

    /// Lets the script do what it does every second.
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
