//! The tables of what `addTLSLocal` and its objects take.

use super::{Entry, Missing, entry};

/// The options of `addTLSLocal`, besides those of `addLocal`.
pub static TLS_LOCAL_OPTIONS: &[Entry] = &[
    entry(
        "minTLSVersion",
        "\"tls1.2\"",
        "The least version: \"tls1.2\" or \"tls1.3\"; older ones are refused.",
    ),
    entry("ciphers", "all", "Ciphers of TLS 1.2 by their OpenSSL names, separated by colons."),
    entry("ciphersTLS13", "all", "The same of TLS 1.3."),
    entry("preferServerCiphers", "true", "Whether our order of ciphers decides, not the client's."),
    entry("sessionTickets", "true", "Whether clients get tickets, by which they resume a session."),
    entry("numberOfTicketsKeys", "5", "Ticket keys that are kept: the newest seals, each one opens."),
    entry("ticketsKeysRotationDelay", "43200", "A new ticket key comes after so many seconds; 0 is never."),
    entry(
        "ticketKeyFile",
        "path",
        "Ticket keys that machines share, 80 octets each; read again at each rotation. Random ones without it.",
    ),
    entry("sessionTimeout", "43200", "How long a session can be resumed, seconds; 0 is the default."),
    entry("numberOfStoredSessions", "20480", "Sessions that are kept for clients without tickets."),
    entry(
        "ocspResponses",
        "{path, ...}",
        "OCSP responses in DER to be stapled, in the order of the certificates.",
    ),
    entry("keyLogFile", "path", "The secrets of all sessions go there, for debugging with a packet capture."),
    entry(
        "additionalAddresses",
        "{address, ...}",
        "Listens on these, too, with the same certificates and tickets.",
    ),
    entry("proxyProtocolOutsideTLS", "false", "The PROXY header stands in front of TLS, not within it."),
    entry(
        "ignoreTLSConfigurationErrors",
        "false",
        "With a bad certificate or key, go on without this listener.",
    ),
    entry("provider", "\"openssl\"", "Accepted, does nothing: the one implementation is rustls."),
    entry("releaseBuffers", "true", "Accepted: an idle connection has none."),
    entry("readAhead", "true", "Accepted, does nothing: as much is read as there is."),
];

/// Options of `addTLSLocal` that dnsdist has and dnslob has not.
pub static TLS_LOCAL_MISSING: &[Missing] = &[
    Missing {
        family: "offloading",
        meanwhile: "remove it: handshakes are spread over the shards",
        names: &["ktls", "tlsAsyncMode"],
    },
    Missing {
        family: "what TLS 1.3 has done away with",
        meanwhile: "remove it: sessions are never renegotiated",
        names: &["enableRenegotiation"],
    },
    Missing {
        family: "curves",
        meanwhile: "remove it: X25519, P-256 and P-384 are offered",
        names: &["ecdheCurves"],
    },
    Missing { family: "AF_XDP", meanwhile: "remove it: ordinary sockets are used", names: &["xskSocket"] },
];

/// The methods of what `getTLSFrontend` and `getTLSContext` return.
pub static TLS_METHODS: &[Entry] = &[
    entry("loadTicketsKeys", "path", "Its ticket keys are those of this file; see ticketKeyFile."),
    entry("loadNewCertificatesAndKeys", "certificates, keys", "Its certificates are these."),
    entry("rotateTicketsKey", "", "Accepted, does nothing: the keys have just been made."),
    entry("reloadCertificates", "", "Accepted, does nothing: they have just been read."),
    entry("getAddressAndPort", "", "Where it listens."),
];
