//! What limiting rules remember: token buckets, by client too, and sets with an end.

/// A rate for all that reaches a rule, over all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Which bucket, in order of appearance in the configuration.
    pub state: u32,
    /// Queries per second.
    pub qps: u32,
    /// Size of the bucket.
    pub burst: u32,
}

/// A rate for each client network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLimit {
    /// Which table, in order of appearance in the configuration.
    pub state: u32,
    /// Queries per second.
    pub qps: u32,
    /// Size of a bucket.
    pub burst: u32,
    /// Prefix length that is one client, IPv4.
    pub v4: u8,
    /// The same for IPv6.
    pub v6: u8,
    /// A bucket unused for so many seconds is forgotten.
    pub expiration_s: u32,
}

/// A set of addresses, each with its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedSet {
    /// Which set, in order of appearance in the configuration.
    pub state: u32,
}

/// All that the limiting rules of one shard remember.
#[derive(Debug, Default)]
pub struct Limits {}
