//! Options that have an effect only beside another one: for each function, which, and beside what.

use crate::config::error::Fault;

/// Options that need another one, or its absence.
#[derive(Debug, PartialEq)]
pub struct Need {
    /// The options.
    pub names: &'static [&'static str],
    /// The other option.
    pub other: &'static str,
    /// Its value; `None` for any but false and "".
    pub value: Option<&'static str>,
    /// Whether it must be so, or must not.
    pub wanted: bool,
}

const fn with(other: &'static str, names: &'static [&'static str]) -> Need {
    Need { names, other, value: None, wanted: true }
}

const fn with_value(other: &'static str, value: &'static str, names: &'static [&'static str]) -> Need {
    Need { names, other, value: Some(value), wanted: true }
}

const fn without(other: &'static str, names: &'static [&'static str]) -> Need {
    Need { names, other, value: None, wanted: false }
}

const fn without_value(other: &'static str, value: &'static str, names: &'static [&'static str]) -> Need {
    Need { names, other, value: Some(value), wanted: false }
}

/// What concerns a check by a DNS query.
const OF_QUERIES: &[&str] = &[
    "checkName",
    "checkType",
    "checkClass",
    "checkTCP",
    "checkFunction",
    "checkResponseFunction",
    "mustResolve",
    "setCD",
];
/// What concerns every check.
const OF_CHECKS: &[&str] = &[
    "check",
    "checkScript",
    "checkName",
    "checkType",
    "checkClass",
    "checkTCP",
    "checkFunction",
    "checkResponseFunction",
    "mustResolve",
    "setCD",
    "checkInterval",
    "checkIntervalMs",
    "checkTimeout",
    "rise",
    "maxCheckFailures",
];
/// What concerns connections of clients.
const OF_CONNECTIONS: &[&str] =
    &["tcpFastOpenQueueSize", "tcpListenQueueSize", "maxInFlight", "maxConcurrentTCPConnections"];

/// Those of `newServer`. Methods of the server change `healthCheckMode`: what needs it is judged once
/// the file has been read.
pub static SERVER_NEEDS: &[Need] = &[
    with("checkScript", &["checkScriptExit"]),
    without("checkScript", OF_QUERIES),
    without_value("check", "connect", OF_QUERIES),
    with_value(
        "healthCheckMode",
        "lazy",
        &[
            "lazyHealthCheckThreshold",
            "lazyHealthCheckSampleSize",
            "lazyHealthCheckMinSampleCount",
            "lazyHealthCheckFailedInterval",
            "lazyHealthCheckMode",
            "lazyHealthCheckUseExponentialBackOff",
            "lazyHealthCheckMaxBackOff",
        ],
    ),
    without_value("healthCheckMode", "up", OF_CHECKS),
    without_value("healthCheckMode", "down", OF_CHECKS),
    with("lazyHealthCheckUseExponentialBackOff", &["lazyHealthCheckMaxBackOff"]),
    with("useProxyProtocol", &["proxyProtocolAdvertiseTLS"]),
    without_value("useProxyProtocol", "v1", &["proxyProtocolAdvertiseTLS"]),
    without("tcpOnly", &["tcpWhileSpoofed"]),
    without("tls", &["tcpWhileSpoofed"]),
];

/// Those of `addLocal` and `setLocal`.
pub static LOCAL_NEEDS: &[Need] = &[without_value("doTCP", "false", OF_CONNECTIONS)];

/// Those of `addTLSLocal`.
pub static TLS_LOCAL_NEEDS: &[Need] = &[
    without_value("enableProxyProtocol", "false", &["proxyProtocolOutsideTLS"]),
    without_value(
        "sessionTickets",
        "false",
        &["ticketKeyFile", "numberOfTicketsKeys", "ticketsKeysRotationDelay"],
    ),
];

/// Those of `addTCPForward` and `addUDPForward`.
pub static RELAY_NEEDS: &[Need] = &[with("checkScript", &["checkScriptExit"])];

/// Those of `hashBy`, whose key is an argument.
pub static HASH_NEEDS: &[Need] =
    &[with_value("key", "zone", &["labels"]), with_value("key", "clientPrefix", &["v4", "v6"])];

impl Need {
    /// Returns whether the options have an effect beside this value of the other one; `None` if it
    /// is not given.
    #[must_use]
    pub fn is_met(&self, other: Option<&str>) -> bool {
        let given = other.filter(|text| match self.value {
            Some(value) => *text == value,
            None => !["", "false"].contains(text),
        });
        given.is_some() == self.wanted
    }

    /// Returns the warning of an option without an effect.
    #[must_use]
    pub fn fault(&self, name: &str) -> Fault {
        let other = match self.value {
            None => self.other.to_owned(),
            Some(value @ ("true" | "false")) => format!("{}={value}", self.other),
            Some(value) => format!("{}=\"{value}\"", self.other),
        };
        let (beside, expected) =
            if self.wanted { ("without", "both or neither") } else { ("beside", "one of them") };
        let wrong = format!("{name} has no effect {beside} {other}");
        Fault::Conflict { wrong, expected: expected.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::functions::{
        LOCAL_OPTIONS, RELAY_ARGUMENTS, SERVER_ARGUMENTS, SERVER_TLS_ARGUMENTS, TLS_LOCAL_OPTIONS,
    };

    #[test]
    fn every_name_is_an_option_of_its_function() {
        let tables = [
            (SERVER_NEEDS, [SERVER_ARGUMENTS, SERVER_TLS_ARGUMENTS].concat_names()),
            (LOCAL_NEEDS, [LOCAL_OPTIONS, &[]].concat_names()),
            (TLS_LOCAL_NEEDS, [LOCAL_OPTIONS, TLS_LOCAL_OPTIONS].concat_names()),
            (RELAY_NEEDS, [RELAY_ARGUMENTS, &[]].concat_names()),
        ];
        for (needs, known) in tables {
            for need in needs {
                for name in need.names.iter().chain([&need.other]) {
                    assert!(known.contains(name), "{name}");
                }
            }
        }
    }

    trait Names {
        fn concat_names(&self) -> Vec<&'static str>;
    }

    impl Names for [&'static [crate::config::functions::Entry]; 2] {
        fn concat_names(&self) -> Vec<&'static str> {
            self.iter().flat_map(|table| table.iter().map(|e| e.name)).collect()
        }
    }
}
