//! The functions that show parts of dnsdist that dnslob does not have: they show none.

use crate::config::functions::{Entry, entry};

/// The functions.
pub static ABSENT: &[Entry] = &[
    entry("showDynBlocks", "", "Prints a table without rows, and says that there are no dynamic blocks."),
    entry("getDynamicBlocks", "", "Returns an empty table: there are no dynamic blocks."),
    entry("getDynamicBlocksSMT", "", "Returns an empty table: there are no dynamic blocks."),
    entry("showDOHFrontends", "", "Prints a table without rows, and says that there is no DNS over HTTPS."),
    entry("showDOH3Frontends", "", "The same of DNS over HTTP/3."),
    entry("showDOQFrontends", "", "The same of DNS over QUIC."),
    entry("showDOHResponseCodes", "", "The same of DNS over HTTPS."),
    entry("showDNSCryptBinds", "", "The same of DNSCrypt."),
    entry("getDOHFrontendCount", "", "Returns 0: there is no DNS over HTTPS."),
    entry("getDOH3FrontendCount", "", "Returns 0: there is no DNS over HTTP/3."),
    entry("getDOQFrontendCount", "", "Returns 0: there is no DNS over QUIC."),
    entry("getDNSCryptBindCount", "", "Returns 0: there is no DNSCrypt."),
    entry("showSecurityStatus", "", "Says that dnslob does not poll for advisories."),
];
