//! dnsdist's functions that dnslob does not implement yet, each with what to do meanwhile.

use crate::config::functions::Missing;

/// What does the work of dynamic blocks.
const INSTEAD_OF_BLOCKS: &str = "use MaxQPSIPRule for a rate per client, and a TimedIPSetRule for clients that a \
                                 function blocks for a time";

/// The functions of dnsdist that dnslob does not implement yet.
pub static FUNCTIONS_MISSING: &[Missing] = &[
    Missing {
        family: "rules on DNS over HTTPS",
        meanwhile: "remove the rule: this version has no DNS over HTTPS",
        names: &["HTTPHeaderRule", "HTTPPathRegexRule", "HTTPPathRule", "HTTPStatusAction"],
    },
    Missing {
        family: "hardware addresses of clients",
        meanwhile: "remove it: servers tell clients by their addresses",
        names: &["SetMacAddrAction", "MacAddrAction", "getMACAddress"],
    },
    Missing {
        family: "threads and messages",
        meanwhile: "use maintenance(), or another program",
        names: &[
            "newThread",
            "submitToMainThread",
            "getAsynchronousObject",
            "newNetworkEndpoint",
            "newNetworkListener",
        ],
    },
    Missing {
        family: "other functions",
        meanwhile: "remove it",
        names: &["parseCNAMERecord", "enableLuaConfiguration"],
    },
    Missing {
        family: "SNMP",
        meanwhile: "remove it: /metrics and the log say what traps would",
        names: &["snmpAgent", "sendCustomTrap", "SNMPTrapAction", "SNMPTrapResponseAction"],
    },
    Missing {
        family: "limits and dynamic blocks",
        meanwhile: INSTEAD_OF_BLOCKS,
        names: &[
            "addDynBlocks",
            "addDynBlockSMT",
            "addDynamicBlock",
            "addDynamicBlockSMT",
            "clearDynBlocks",
            "dynBlockRulesGroup",
            "setDynBlocksAction",
            "exceedQRate",
            "exceedServFails",
            "exceedNXDOMAINs",
            "exceedRespByterate",
            "exceedQTypeRate",
            "newBPFFilter",
            "newDynBPFFilter",
            "setDefaultBPFFilter",
            "registerDynBPFFilter",
            "unregisterDynBPFFilter",
            "addBPFFilterDynBlocks",
        ],
    },
    Missing {
        family: "keys of session tickets",
        meanwhile: "use the methods of what getTLSFrontend returns, which have these names",
        names: &["setTicketsKey", "loadTicketsKey", "loadTicketsKeys", "rotateTicketsKey"],
    },
    Missing {
        family: "encrypted DNS",
        meanwhile: "remove it: use DNS over TLS (addTLSLocal, newServer{tls=}), whose files SIGHUP reloads",
        names: &[
            "addDOHLocal",
            "requestDoHStatesDump",
            "addDOH3Local",
            "addDOQLocal",
            "getDOHFrontend",
            "getDOH3Frontend",
            "getDOQFrontend",
            "newDOHResponseMapEntry",
            "generateOCSPResponse",
            "loadTLSEngine",
            "loadTLSProvider",
            "addDNSCryptBind",
            "generateDNSCryptCertificate",
            "generateDNSCryptProviderKeys",
            "printDNSCryptProviderFingerprint",
            "getDNSCryptBind",
        ],
    },
    Missing {
        family: "logging of queries, tracing",
        meanwhile: "log at the servers, or capture with dnstap there",
        names: &[
            "newRemoteLogger",
            "RemoteLogAction",
            "RemoteLogResponseAction",
            "DnstapLogAction",
            "DnstapLogResponseAction",
            "newFrameStreamUnixLogger",
            "newFrameStreamTcpLogger",
            "makeIPCipherKey",
            "setOpenTelemetryTracing",
            "setOpenTelemetryInternalTrace",
            "SetTraceAction",
            "setSpanAttribute",
            "withTraceSpan",
            "newOtlpLogger",
            "sendOpenTelemetryTrace",
        ],
    },
    Missing {
        family: "key-value stores",
        meanwhile: "remove the look-up: this version has no key-value stores",
        names: &[
            "newLMDBKVStore",
            "newMMDBKVStore",
            "newCDBKVStore",
            "openMMDB",
            "KeyValueStoreLookupAction",
            "KeyValueStoreRangeLookupAction",
            "KeyValueStoreLookupRule",
            "KeyValueStoreRangeLookupRule",
            "KeyValueLookupKeySourceIP",
            "KeyValueLookupKeyQName",
            "KeyValueLookupKeySuffix",
            "KeyValueLookupKeyTag",
        ],
    },
    Missing { family: "AF_XDP", meanwhile: "remove it: ordinary UDP sockets are used", names: &["newXsk"] },
];

/// The functions that only functions of rules and policies can call, besides those that work everywhere.
pub static FOR_FUNCTIONS: &[&str] = &[
    "newDNSPacketOverlay",
    "newDNSNameFromRaw",
    "newCAFromRaw",
    "parseARecord",
    "parseAAAARecord",
    "parseAddressRecord",
    "getCurrentTime",
];

/// The functions of dnsdist that set what dnslob does by itself, or what concerns a part that it does
/// not have; each is accepted with a warning.
pub static WITHOUT_EFFECT: &[Missing] = &[
    Missing {
        family: "threads, pipes and queues",
        meanwhile: "the shards serve connections themselves, without threads or pipes between them",
        names: &[
            "setMaxTCPClientThreads",
            "setMaxTCPQueuedConnections",
            "setTCPUseSinglePipe",
            "setTCPInternalPipeBufferSize",
        ],
    },
    Missing {
        family: "connections and sessions with servers",
        meanwhile: "idle connections are closed when their time-out expires, and there are tickets for every shard",
        names: &[
            "setTCPDownstreamCleanupInterval",
            "setOutgoingTLSSessionsCacheCleanupDelay",
            "setOutgoingTLSSessionsCacheMaxTicketValidity",
            "setOutgoingTLSSessionsCacheMaxTicketsPerBackend",
        ],
    },
    Missing {
        family: "dynamic blocks",
        meanwhile: "there are no dynamic blocks; entries of a TimedIPSetRule expire by themselves",
        names: &["setDynBlocksPurgeInterval"],
    },
    Missing {
        family: "DNS over HTTPS towards servers",
        meanwhile: "no server is reached by DNS over HTTPS",
        names: &[
            "setDoHDownstreamCleanupInterval",
            "setDoHDownstreamMaxIdleTime",
            "setMaxCachedDoHConnectionsPerDownstream",
            "setMaxIdleDoHConnectionsPerDownstream",
            "setOutgoingDoHWorkerThreads",
        ],
    },
    Missing {
        family: "capabilities",
        meanwhile: "those that sockets may need are kept, and no other",
        names: &["addCapabilitiesToRetain"],
    },
    Missing {
        family: "names and logs of the process",
        meanwhile: "the log has all lines, and metrics are named by who collects them",
        names: &["setServerID", "setVerboseLogDestination"],
    },
    Missing {
        family: "advisories",
        meanwhile: "dnslob does not poll for advisories",
        names: &["setSecurityPollInterval"],
    },
    Missing {
        family: "who reads the file",
        meanwhile: "it returns nothing: the client of the console and a check evaluate the file as the start does",
        names: &["inClientStartup", "inConfigCheck"],
    },
    Missing {
        family: "syslog",
        meanwhile: "log lines go to standard error, where the service manager reads them",
        names: &["setSyslogFacility"],
    },
];

/// The functions of the LuaFFI family that dnslob does not implement yet, without `dnsdist_ffi_`.
pub static FFI_MISSING: &[Missing] = &[
    Missing {
        family: "answers of DNS over HTTPS",
        meanwhile: "refuse the query with DNSAction.Refused, or answer it with dnsquestion_spoof_raw",
        names: &["dnsquestion_set_http_response"],
    },
    Missing {
        family: "metadata of exported messages",
        meanwhile: "remove it: nothing exports it; dnsquestion_set_tag tells other rules",
        names: &[
            "dnsquestion_meta_begin_key",
            "dnsquestion_meta_add_str_value_to_key",
            "dnsquestion_meta_add_int64_value_to_key",
            "dnsquestion_meta_end_key",
            "dnsresponse_meta_begin_key",
            "dnsresponse_meta_add_str_value_to_key",
            "dnsresponse_meta_add_int64_value_to_key",
            "dnsresponse_meta_end_key",
        ],
    },
    Missing {
        family: "asynchronous processing",
        meanwhile: "decide within the function, or send the query to a pool whose server decides",
        names: &[
            "dnsquestion_set_async",
            "dnsresponse_set_async",
            "resume_from_async",
            "resume_from_async_with_alternate_name",
            "drop_from_async",
            "set_answer_from_async",
            "set_rcode_from_async",
        ],
    },
    Missing {
        family: "messages of other programs",
        meanwhile: "use maintenance(), which can read files, or another program and the API",
        names: &[
            "network_endpoint_new",
            "network_endpoint_is_valid",
            "network_endpoint_send",
            "network_endpoint_free",
            "network_message_get_payload",
            "network_message_get_payload_size",
            "network_message_get_endpoint_id",
        ],
    },
    Missing {
        family: "dynamic blocks",
        meanwhile: INSTEAD_OF_BLOCKS,
        names: &[
            "dynamic_blocks_add",
            "dynamic_blocks_smt_add",
            "dynamic_blocks_get_entries",
            "dynamic_blocks_smt_get_entries",
            "dynamic_blocks_list_get",
            "dynamic_blocks_list_free",
        ],
    },
];
