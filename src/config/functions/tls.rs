//! The tables of what concerns TLS: options of `addTLSLocal`, arguments of `newServer`.

use crate::config::functions::{Entry, entry};

/// The options of `addTLSLocal`, besides those of `addLocal`.
pub static TLS_LOCAL_OPTIONS: &[Entry] = &[
    entry(
        "minTLSVersion",
        "\"tls1.2\"",
        "The least version: \"tls1.2\" or \"tls1.3\"; there are no older ones.",
    ),
    entry(
        "ciphers",
        "text",
        "Ciphers of TLS 1.2 by their OpenSSL names, separated by colons; all without it.",
    ),
    entry("ciphersTLS13", "text", "The same for TLS 1.3."),
    entry("preferServerCiphers", "true", "Our order of ciphers decides, not the client's."),
    entry("sessionTickets", "true", "Clients get tickets to resume their sessions."),
    entry("numberOfTicketsKeys", "5", "Ticket keys that are kept."),
    entry("ticketKeyFile", "path", "Ticket keys that machines share: 80 bytes each; random ones without it."),
    entry("ticketsKeysRotationDelay", "43200", "A new ticket key so often, seconds; 0 never."),
    entry("sessionTimeout", "43200", "For how long a session can be resumed, seconds."),
    entry("numberOfStoredSessions", "20480", "Sessions that are kept for clients without tickets."),
    entry(
        "ocspResponses",
        "{path, ...}",
        "OCSP responses to be stapled while they are good, one for each certificate, DER.",
    ),
    entry(
        "keyLogFile",
        "path",
        "Secrets of all sessions are written here, for debugging; nobody else may read it (0600).",
    ),
    entry("proxyProtocolOutsideTLS", "false", "A PROXY header stands in front of TLS, not within it."),
    entry("additionalAddresses", "{address, ...}", "Listens on these, too, port 853 unless given."),
    entry(
        "ignoreTLSConfigurationErrors",
        "false",
        "What is wrong with a file is a warning, and this listener left out; at a reload it goes on as it was.",
    ),
    entry("provider", "text", "Accepted: \"openssl\" or \"gnutls\"; it is rustls."),
    entry("releaseBuffers", "true", "Accepted: buffers are given back anyhow."),
    entry("readAhead", "true", "Accepted: as much is read as there is."),
    entry("enableRenegotiation", "false", "Accepted: there is no renegotiation; true is an error."),
    entry("tlsAsyncMode", "false", "Accepted; true is an error."),
    entry("ktls", "false", "Accepted; true is an error."),
];

/// The arguments of `newServer` that concern TLS.
pub static SERVER_TLS_ARGUMENTS: &[Entry] = &[
    entry(
        "tls",
        "\"openssl\"",
        "Ask it over TLS alone, port 853 unless given. Any of true, \"openssl\", \"gnutls\" and \"rustls\": it is \
         rustls.",
    ),
    entry("subjectName", "name", "The name that its certificate must have, and that the handshake names."),
    entry(
        "subjectAddr",
        "\"IP\"",
        "The address that its certificate must have; without both its own address.",
    ),
    entry("validateCertificates", "true", "Whether its certificate is checked at all."),
    entry("minTLSVersion", "\"tls1.2\"", "The least version: \"tls1.2\" or \"tls1.3\"; dnslob's own."),
    entry("caStore", "path", "The authorities that it is checked by, PEM; the system's without it."),
    entry(
        "ciphers",
        "text",
        "Ciphers of TLS 1.2 by their OpenSSL names, separated by colons; all without it.",
    ),
    entry("ciphersTLS13", "text", "The same for TLS 1.3."),
    entry(
        "keyLogFile",
        "path",
        "Secrets of its sessions are written here, for debugging; nobody else may read it (0600).",
    ),
    entry("releaseBuffers", "true", "Accepted: buffers are given back anyhow."),
    entry("enableRenegotiation", "false", "Accepted: there is no renegotiation; true is an error."),
    entry("ktls", "false", "Accepted; true is an error."),
];

/// The methods of what `getTLSFrontend` and `getTLSContext` return.
pub static TLS_METHODS: &[Entry] = &[
    entry("loadTicketsKeys", "path", "Its ticket keys are those of this file, as with ticketKeyFile."),
    entry("loadNewCertificatesAndKeys", "certificates, keys", "Its certificates are these."),
    entry("rotateTicketsKey", "", "Accepted, does nothing: the keys have just been made."),
    entry("reloadCertificates", "", "Accepted, does nothing: they have just been read."),
    entry("getAddressAndPort", "", "Where it listens."),
];
