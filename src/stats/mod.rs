//! Statistics and limits shared by all threads: counters, reasons, live state, connection limits,
//! log queue.

pub mod carbon_failure;
pub mod check_failure;
pub mod claims;
pub mod close_reason;
pub mod connection_limits;
pub mod custom_metrics;
pub mod descriptors;
pub mod drop_reason;
pub mod histogram;
pub mod latency_average;
pub mod live;
pub mod log_queue;
pub mod meter;
pub mod metric_names;
mod metric_sets;
pub mod not_cached;
pub mod query_counts;
pub mod query_type;
pub mod registry;
pub mod response_code;
pub mod shadow_queue;
pub mod top;
pub mod traffic_ring;
pub mod web_refusal;
