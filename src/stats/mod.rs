//! Figures and limits that all threads share: counters, reasons, live state, connection limits, log queue.

pub mod close_reason;
pub mod connection_limits;
pub mod descriptors;
pub mod drop_reason;
pub mod live;
pub mod log_queue;
