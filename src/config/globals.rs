//! The settings of the data path that belong to no listener, server or pool, compiled.

use crate::base::time::TickDelta;
use crate::config::draft::Draft;
use crate::config::options::{Key, Settings};
use crate::model::{CacheCleaning, Globals, ProxyLimits};
use crate::stats::connection_limits::ClientConnectionLimits;

/// Returns these settings.
pub(crate) fn globals(draft: &Draft) -> Globals {
    let settings = &draft.settings;
    let prefix = |key, default| settings.number(key).and_then(|n| u8::try_from(n).ok()).unwrap_or(default);
    Globals {
        repeats_max: settings.number(Key::RepeatsMax).and_then(|n| u16::try_from(n).ok()).unwrap_or(u16::MAX),
        servfail_when_no_server: settings.switch(Key::Servfail),
        round_robin_fail_on_no_server: settings.switch(Key::RoundRobinFail),
        allow_empty_response: settings.switch(Key::AllowEmpty),
        drop_empty_queries: settings.switch(Key::DropEmpty),
        self_answer_payload: settings
            .number(Key::SelfPayload)
            .and_then(|n| u16::try_from(n).ok())
            .unwrap_or(1232),
        self_answer_edns: settings.switch(Key::SelfEdns),
        truncate_tc: settings.switch(Key::TruncateTc),
        fixup_case: settings.switch(Key::FixupCase),
        lua_errors_fail: settings.text(Key::LuaErrorAction).as_deref() != Some("ignore"),
        ecs_override: settings.switch(Key::EcsOverride),
        stale_cache_seconds: settings.number(Key::StaleCache).unwrap_or(0),
        cache_cleaning: CacheCleaning {
            every_seconds: settings.number(Key::CacheCleaningDelay).unwrap_or(60),
            percent: settings.number(Key::CacheCleaningPercentage).unwrap_or(100),
        },
        ecs_v4: prefix(Key::EcsV4, 24),
        ecs_v6: prefix(Key::EcsV6, 56),
        client_connections: client_connection_limits(settings),
        proxy: ProxyLimits {
            peers: draft.proxy_peers.iter().copied().collect(),
            acl_to_client: settings.switch(Key::ProxyAcl),
            bytes_max: settings
                .number(Key::ProxyBytes)
                .and_then(|n| u16::try_from(n).ok())
                .unwrap_or(ProxyLimits::default().bytes_max),
        },
    }
}

/// The table's defaults equal those of [`ClientConnectionLimits`], which a test checks.
fn client_connection_limits(settings: &Settings) -> ClientConnectionLimits {
    let number = |key| settings.number(key).unwrap_or(0);
    let span = |key| TickDelta::from_ms(number(key).into());
    // The table's ranges bound these.
    let byte = |key| u8::try_from(number(key)).unwrap_or(u8::MAX);
    ClientConnectionLimits {
        receive_timeout: span(Key::TcpReceiveTimeout),
        send_timeout: span(Key::TcpSendTimeout),
        duration: span(Key::TcpDuration),
        queries: number(Key::TcpQueries),
        connections: number(Key::TcpConnections),
        connections_per_client: number(Key::TcpConnectionsPerClient),
        rate_per_client: number(Key::TcpRate),
        sessions_per_client: number(Key::TlsSessionRate),
        resumptions_per_client: number(Key::TlsResumptionRate),
        rate_ban: span(Key::RateBan),
        reads_per_query: number(Key::TcpReads),
        reads_ban: span(Key::ReadsBan),
        overload_percent: byte(Key::TcpOverload),
        mask_v4: byte(Key::TcpMaskV4),
        mask_v6: byte(Key::TcpMaskV6),
        mask_v4_port: byte(Key::TcpMaskV4Port),
    }
}
