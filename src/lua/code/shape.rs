//! What objects of a configuration are, which functions get or make.

/// A kind of object that functions get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    /// `dq`.
    Query,
    /// `dr`.
    Response,
    /// `dq.dh`.
    Header,
    /// `dq.qname`.
    Name,
    /// `dq.remoteaddr`.
    Address,
    /// What `getServer` returns.
    Server,
    /// What `getPool` returns.
    Pool,
    /// What `newPacketCache` returns.
    Cache,
    /// What `newSuffixMatchNode` and `newDNSNameSet` return.
    Names,
    /// What `newNMG` returns.
    Networks,
    /// Another object of the configuration, which functions that run later cannot use.
    Other,
    /// The table of a global name whose members are fixed, under another name.
    Table(&'static str),
}

impl Shape {
    /// Returns what a member is.
    pub(super) fn member(self, name: &str) -> Option<Self> {
        match (self, name) {
            (Self::Query | Self::Response, "qname") => Some(Self::Name),
            (Self::Query | Self::Response, "remoteaddr" | "localaddr") => Some(Self::Address),
            (Self::Query | Self::Response, "dh") => Some(Self::Header),
            _ => None,
        }
    }

    /// Returns what a method of it returns.
    pub(super) fn returned(self, method: &str) -> Option<Self> {
        (self == Self::Pool && method == "getCache").then_some(Self::Cache)
    }
}
