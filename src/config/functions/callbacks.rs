//! The functions that say which functions are called when something happens.

use crate::config::functions::{Entry, entry};

/// The functions.
pub static CALLBACKS: &[Entry] = &[
    entry(
        "addMaintenanceCallback",
        "function",
        "Calls a function once per second in each shard, as `maintenance`.",
    ),
    entry(
        "addExitCallback",
        "function",
        "Calls a function when the process ends, after outstanding queries; all of them together may take 2 s, and \
         another signal ends that. Functions that are at work then, as those of addServerStateChangeCallback, are \
         ended first, after 2 s. It sees the globals of the file, not those of the functions of rules.",
    ),
    entry(
        "addServerStateChangeCallback",
        "function(server, up)",
        "Calls a function when a server comes up or goes down, by checks or by a command, or is added while it is \
         dead; with what `getNameWithAddr` returns and a boolean. It sees the globals of the file, and cannot change the configuration.",
    ),
    entry(
        "getAddressInfo",
        "name, function(name, addresses)",
        "Calls a function with the addresses of a name, as the system resolves it: a list of objects as newCA returns, \
         empty if it cannot within 5 s. It is called when the file or command has ended, and what it adds, as servers, \
         is in force with that; a reload looks the name up again. It cannot give away functions that shards run, as \
         those of LuaAction: shards look no names up.",
    ),
    entry(
        "setTicketsKeyAddedHook",
        "function(key, length)",
        "Calls a function with each new key that seals session tickets of listeners: its bytes, for loadTicketsKey of \
         other machines, and their number. It is called for the first key too.",
    ),
];
