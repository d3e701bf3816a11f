//! The functions that ask the machine.

use crate::config::functions::{Entry, entry};

/// The functions. They work at any time, in functions of rules too.
pub static MACHINE: &[Entry] = &[
    entry("getListOfNetworkInterfaces", "", "Returns the names of the network interfaces, as a list."),
    entry(
        "getListOfAddressesOfNetworkInterface",
        "interface",
        "Returns the addresses of a network interface, as a list of texts.",
    ),
    entry(
        "getListOfRangesOfNetworkInterface",
        "interface",
        "Returns the networks of a network interface, as a list of texts like \"192.0.2.0/24\".",
    ),
    entry(
        "getResolvers",
        "path",
        "Returns the name servers of a file as /etc/resolv.conf, as a list of texts.",
    ),
];
