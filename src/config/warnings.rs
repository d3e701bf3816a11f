//! Warns of what works as written, but hardly as it was meant: what has no effect without, or beside,
//! something else, a web server that is open to all, and a console that is open to nobody.

use crate::config::draft::Draft;
use crate::config::error::{ConfigError, Fault};
use crate::config::options::{Key, setting};

/// Warns of all of them, once the draft is complete.
pub(crate) fn add(draft: &mut Draft) {
    warn_of_modes(draft, 0);
    warn_of_open_web(draft);
    warn_of_closed_console(draft);
    warn_of_settings(draft);
}

/// Settings that need something else.
struct SettingNeed {
    keys: &'static [Key],
    /// What they need, in words.
    other: &'static str,
    is_met: fn(&Draft) -> bool,
}

const SETTING_NEEDS: [SettingNeed; 5] = [
    SettingNeed {
        keys: &[Key::SelfPayload],
        other: "beside setAddEDNSToSelfGeneratedResponses(false)",
        is_met: |draft| draft.settings.switch(Key::SelfEdns),
    },
    SettingNeed {
        keys: &[Key::RateBan],
        other: "without a limit that it is for: setMaxTCPConnectionRatePerClient, \
                setMaxTLSNewSessionRatePerClient or setMaxTLSResumedSessionRatePerClient",
        is_met: |draft| {
            let limits = [Key::TcpRate, Key::TlsSessionRate, Key::TlsResumptionRate];
            limits.iter().any(|key| draft.settings.number(*key) > Some(0))
        },
    },
    SettingNeed {
        keys: &[Key::ReadsBan],
        other: "beside setMaxTCPReadIOsPerQuery(0)",
        is_met: |draft| draft.settings.number(Key::TcpReads) > Some(0),
    },
    SettingNeed {
        keys: &[Key::StaleCache, Key::CacheCleaningDelay, Key::CacheCleaningPercentage],
        other: "without a packet cache: getPool(name):setCache(newPacketCache(entries))",
        is_met: |draft| draft.pools.iter().any(|pool| pool.cache.is_some()),
    },
    SettingNeed {
        keys: &[Key::ProxyBytes, Key::ProxyAcl],
        other: "without setProxyProtocolACL",
        is_met: |draft| !draft.proxy_peers.is_empty(),
    },
];

/// Warns of settings of the file that have no effect. What is written as it is by default was meant to
/// change nothing.
fn warn_of_settings(draft: &mut Draft) {
    for need in &SETTING_NEEDS {
        if (need.is_met)(draft) {
            continue;
        }
        for setting in need.keys.iter().map(|key| setting(*key)) {
            let Some(written) = draft.settings.written(setting.key) else { continue };
            if setting.parse(setting.default).is_ok_and(|default| default == written.value) {
                continue;
            }
            let name = setting.lua.first().map_or(setting.name, |setter| setter.name);
            let fault = Fault::Note(format!("has no effect {}", need.other));
            draft.warnings.push(ConfigError::new(&written.origin, name, fault));
        }
    }
}

/// Warns of options of servers that have no effect by their `healthCheckMode`, but for the first so many: a command
/// that sets another mode for a while is told nothing of options that were written before.
pub(crate) fn warn_of_modes(draft: &mut Draft, known: usize) {
    for server in draft.servers.iter().skip(known).filter(|s| !s.removed) {
        let mode = server.mode_name();
        for (name, need) in server.by_mode.iter().filter(|(_, need)| !need.is_met(Some(mode))) {
            draft.warnings.push(ConfigError::new(&server.origin, "newServer", need.fault(name)));
        }
    }
}

/// Warns of a console without a key, which nobody can use.
fn warn_of_closed_console(draft: &mut Draft) {
    let Some(origin) = draft.console.origin.as_ref().filter(|_| draft.console.key.is_none()) else { return };
    let fault = Fault::Note("the console refuses every connection: there is no setKey".to_owned());
    draft.warnings.push(ConfigError::new(origin, "controlSocket", fault));
}

/// Warns of a web server that others than this machine reach without a password.
fn warn_of_open_web(draft: &mut Draft) {
    let Some(origin) = &draft.web_origin else { return };
    let web = &draft.web;
    let Some(address) = web.address.filter(|address| !address.ip().to_canonical().is_loopback()) else {
        return;
    };
    if web.password.is_some() || web.api_key.is_some() {
        return;
    }
    let open = [web.stats_protected, web.api_protected, web.dashboard_protected];
    let what =
        if open.contains(&false) { "whoever may connect reads it" } else { "it shows next to nothing" };
    let text = format!("{address} is no loopback address, and there is no password: {what}");
    draft.warnings.push(ConfigError::new(origin, "webserver", Fault::Note(text)));
}
