//! The functions and options of the web server, and of metrics that a configuration declares.

use crate::config::functions::{Entry, entry};

/// The functions of the web server.
pub static WEB_FUNCTIONS: &[Entry] = &[
    entry(
        "webserver",
        "address [, password [, apiKey [, customHeaders [, acl]]]]",
        "Serves metrics, statistics and health over HTTP on this address, as \"127.0.0.1:8083\". What \
         follows it is taken as from older versions of dnsdist: see setWebserverConfig.",
    ),
    entry("setWebserverConfig", "{password=, ...}", "Sets up the web server; its options are listed below."),
    entry(
        "setWebserverBindFatal",
        "switch",
        "Whether dnslob refuses to start, or to reload, when the address of the web server cannot be taken. \
         false, the default, logs an error.",
    ),
    entry(
        "registerWebHandler",
        "path, function(req, resp)",
        "Answers requests for this path of the web server by a function, which reads path, version, method, body, \
         getvars, postvars and headers of req, and sets status, body and headers of resp. Paths of dnslob's own \
         stay what they are.",
    ),
    entry(
        "setAPIWritable",
        "switch [, directory]",
        "Whether the API may change the configuration; by default it may not. What it changes is kept in two \
         files of the directory, acl.conf and api.conf, which are read after this file at each start and reload \
         unless includeDirectory has read them. Without a directory a reload takes it back.",
    ),
    entry(
        "hashPassword",
        "password [, workFactor]",
        "Returns the hash of a password or key, for setWebserverConfig: \"$scrypt$ln=10,p=1,r=8$SALT$HASH\". The \
         work factor is a power of two, 1024 unless given; checks of a greater one take longer.",
    ),
    entry("showWebserverConfig", "", "Prints the settings of the web server."),
];

/// The options of `setWebserverConfig`.
pub static WEB_OPTIONS: &[Entry] = &[
    entry("password", "text", "The password, of any user, as it is or as a hash of hashPassword."),
    entry("apiKey", "text", "The key that the header X-API-Key gives, likewise."),
    entry(
        "acl",
        "\"network, ...\" | {network, ...}",
        "Who may connect; `!` in front of a network makes an exception. By default 127.0.0.1 and ::1.",
    ),
    entry(
        "tlsCertificate",
        "path",
        "A file in PEM, the certificate and its chain: the web server speaks HTTPS, and HTTP no more. It is read \
         again with the configuration.",
    ),
    entry("tlsKey", "path", "The file in PEM with the private key of tlsCertificate."),
    entry(
        "customHeaders",
        "{name=value, ...}",
        "Headers of every answer; an empty value removes one that is sent by default.",
    ),
    entry("statsRequireAuthentication", "true", "Whether /metrics and /jsonstat ask for password or key."),
    entry("apiRequiresAuthentication", "true", "Whether /api asks for password or key."),
    entry("dashboardRequiresAuthentication", "true", "Whether / asks for password or key."),
    entry("maxConcurrentConnections", "100", "Most concurrent connections, up to 10000."),
    entry(
        "hashPlaintextCredentials",
        "false",
        "Keep only hashes of password and key in memory; each request with another one then costs some \
         milliseconds.",
    ),
];

/// The functions of metrics: whom they are reported to, and those that a configuration declares.
pub static METRIC_FUNCTIONS: &[Entry] = &[
    entry(
        "carbonServer",
        "address [, ourname [, interval [, namespace [, instance]]]]",
        "Sends the metrics that dnsdist has too, under its names, to this Carbon server (port 2003 unless given) every \
         interval, 30 seconds unless given: NAMESPACE.OURNAME.INSTANCE.METRIC, by default dnsdist.HOST.main. Each \
         call adds a server.",
    ),
    entry(
        "declareMetric",
        "name, type, description [, prometheusName | {name=, withLabels=, buckets=}]",
        "Declares a metric of type \"counter\", \"gauge\" or \"histogram\" for /metrics and SIGUSR1, and returns \
         whether it is one; at any time, and a second time without effect. A reload keeps the values of one that is \
         declared as before, and forgets one that the file does not declare. With withLabels=true it has a value for \
         each combination of labels, at most 1000. `buckets` are the upper bounds of a histogram's ranges, at most \
         50 growing numbers; by default those of Prometheus' libraries, 0.005 to 10. Histograms are not in dnsdist.",
    ),
    entry(
        "incMetric",
        "name [, step | {step=, labels={}}]",
        "Adds to a metric, 1 unless `step` says otherwise, and returns its value.",
    ),
    entry(
        "decMetric",
        "name [, step | {step=, labels={}}]",
        "Subtracts from a gauge, and returns its value.",
    ),
    entry("setMetric", "name, value [, {labels={}}]", "Sets a gauge, and returns its value."),
    entry(
        "observeMetric",
        "name, value [, {labels={}}]",
        "Counts a value of a histogram, and returns how many there are. Not in dnsdist.",
    ),
    entry(
        "getMetric",
        "name [, {labels={}}]",
        "Returns the value of a metric; of a histogram how many values it has.",
    ),
];
