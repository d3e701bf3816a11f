//! The figures of the whole process at one moment, for whoever shows them: the dump of SIGUSR1, the
//! web server, the console.

use std::sync::Arc;

use crate::base::addr::BackendSlot;
use crate::base::time::TickDelta;
use crate::control::stats::Reading;
use crate::control::stats::text::Standing;
use crate::model::Snapshot;
use crate::stats::descriptors::Descriptors;
use crate::stats::live::LiveState;
use crate::stats::meter::Counts;
use crate::stats::registry::{
    CarbonReading, DescriptorReading, MachineReading, NetworkReading, ProcessReading, ShadowReading,
    TrafficReading, WebReading,
};

/// What there is to say of the process at one moment.
#[derive(Clone, Debug)]
pub struct Figures {
    /// The configuration in force.
    pub snapshot: Arc<Snapshot>,
    /// What is read only as far as it is shown, as it is long: listeners, rules.
    pub live_state: Arc<LiveState>,
    /// What was counted since the start.
    pub total: Reading,
    /// What was counted lately, for rates.
    pub recent: Reading,
    /// In which time that was.
    pub span: TickDelta,
    /// What the process counts beside its shards.
    pub process: ProcessReading,
    /// What the kernel counts of its network; none where that cannot be read.
    pub network: Option<NetworkReading>,
    /// What the kernel counts of the machine; none where that cannot be read.
    pub machine: Option<MachineReading>,
    /// Its file descriptors.
    pub descriptors: DescriptorReading,
    /// The web server.
    pub web: WebReading,
    /// The traffic that is watched.
    pub traffic: TrafficReading,
    /// Reports to Carbon.
    pub carbon: CarbonReading,
    /// Queries that shadow pools get too, by pool.
    pub shadows: Vec<(String, ShadowReading)>,
    /// Seconds since 1970.
    pub unix: u64,
}

impl Figures {
    /// What is known of a backend beside its counters.
    #[must_use]
    pub fn standing(&self, slot: BackendSlot) -> Standing {
        Standing::of(&self.live_state, slot)
    }
}

/// The descriptors of a process that has this many open.
#[must_use]
pub fn descriptors(descriptors: &Descriptors, open: u64) -> DescriptorReading {
    let (limit, reserve) = descriptors.limit_and_reserve();
    let (evicted, refused) = descriptors.evicted_and_refused();
    DescriptorReading {
        open,
        limit: limit.into(),
        reserve: reserve.into(),
        evicted,
        refused,
        used: Counts::of(|usage| descriptors.used(usage).into()),
        max: Counts::of(|usage| descriptors.max(usage).into()),
    }
}
