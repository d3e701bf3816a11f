//! The tables of TLS: options of `addTLSLocal`, arguments of `newServer`.

use crate::config::functions::{Entry, entry};

/// The options of `addTLSLocal`, besides those of `addLocal`.
pub static TLS_LOCAL_OPTIONS: &[Entry] = &[
    entry(
        "minTLSVersion",
        "\"tls1.2\"",
        "The lowest version: \"tls1.2\" or \"tls1.3\"; an older one is taken as \"tls1.2\", with a warning.",
    ),
    entry(
        "ciphers",
        "text",
        "Ciphers of TLS 1.2 by their OpenSSL names, separated by colons, or an expression of OpenSSL as \"HIGH:!aNULL\"; \
         those that are not supported are left out with a warning. By default all.",
    ),
    entry("ciphersTLS13", "text", "The same for TLS 1.3."),
    entry("preferServerCiphers", "true", "Whether our order of ciphers decides rather than the client's."),
    entry("sessionTickets", "true", "Whether clients get tickets to resume their sessions."),
    entry("numberOfTicketsKeys", "5", "Number of ticket keys kept."),
    entry(
        "ticketKeyFile",
        "path",
        "Ticket keys shared by several machines, 80 bytes each; by default random.",
    ),
    entry("ticketsKeysRotationDelay", "43200", "Interval of ticket key rotation, seconds; 0 never rotates."),
    entry("sessionTimeout", "43200", "How long a session can be resumed, seconds."),
    entry("numberOfStoredSessions", "20480", "Sessions kept for clients without tickets."),
    entry(
        "ocspResponses",
        "{path, ...}",
        "OCSP responses to staple while they are valid, one per certificate, DER.",
    ),
    entry(
        "keyLogFile",
        "path",
        "File for the secrets of all sessions, for debugging; only its owner can read it (0600).",
    ),
    entry(
        "proxyProtocolOutsideTLS",
        "false",
        "Whether the PROXY header precedes TLS rather than being within it.",
    ),
    entry("additionalAddresses", "{address, ...}", "Listens on these too; the default port is 853."),
    entry(
        "ignoreTLSConfigurationErrors",
        "false",
        "Makes errors in files warnings and omits this listener; at a reload it keeps its previous \
         state.",
    ),
    entry("provider", "text", "Accepted: \"openssl\" or \"gnutls\"; it is rustls."),
    entry("releaseBuffers", "true", "Accepted: buffers are always released."),
    entry("readAhead", "true", "Accepted: all available data is always read."),
    entry("enableRenegotiation", "false", "Accepted without effect: there is no renegotiation."),
    entry("tlsAsyncMode", "false", "Accepted without effect."),
    entry("ktls", "false", "Accepted without effect."),
];

/// The arguments of `newServer` about TLS.
pub static SERVER_TLS_ARGUMENTS: &[Entry] = &[
    entry(
        "tls",
        "\"openssl\"",
        "Query it over TLS only; the default port is 853. Any of true, \"openssl\", \"gnutls\" and \
         \"rustls\": it is always rustls.",
    ),
    entry("subjectName", "name", "The name that its certificate must have, also sent as SNI."),
    entry("subjectAddr", "\"IP\"", "The address that its certificate must have; by default its own."),
    entry("validateCertificates", "true", "Whether its certificate is verified."),
    entry("minTLSVersion", "\"tls1.2\"", "The lowest version, as of a listener. Not in dnsdist."),
    entry("caStore", "path", "The trusted authorities, PEM; by default the system's."),
    entry(
        "ciphers",
        "text",
        "Ciphers of TLS 1.2 by their OpenSSL names, separated by colons, or an expression of OpenSSL as \"HIGH:!aNULL\"; \
         those that are not supported are left out with a warning. By default all.",
    ),
    entry("ciphersTLS13", "text", "The same for TLS 1.3."),
    entry(
        "keyLogFile",
        "path",
        "File for the secrets of its sessions, for debugging; only its owner can read it (0600).",
    ),
    entry("releaseBuffers", "true", "Accepted: buffers are always released."),
    entry("enableRenegotiation", "false", "Accepted without effect: there is no renegotiation."),
    entry("ktls", "false", "Accepted without effect."),
];

/// The methods of the objects that `getTLSFrontend` and `getTLSContext` return.
pub static TLS_METHODS: &[Entry] = &[
    entry("loadTicketsKeys", "path", "Loads its ticket keys from this file, as with ticketKeyFile."),
    entry("loadNewCertificatesAndKeys", "certificates, keys", "Replaces its certificates."),
    entry(
        "loadTicketsKey",
        "key",
        "Puts a key of 80 or 48 bytes first, as another machine's setTicketsKeyAddedHook gets it; earlier ones still \
         open tickets.",
    ),
    entry(
        "rotateTicketsKey",
        "",
        "Puts a new random key first, or reads the ticketKeyFile again; earlier ones still open tickets.",
    ),
    entry("reloadCertificates", "", "Reads its certificates and keys again, on the console."),
    entry("getAddressAndPort", "", "Returns its address."),
];
