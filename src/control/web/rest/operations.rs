//! The table of operations: paths, methods, what they take and answer. The router and the OpenAPI
//! document are made of it.

use axum::http::StatusCode;

/// A method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Put,
    Post,
    Patch,
    Delete,
}

impl Method {
    /// As it stands in a request.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Id {
    Index,
    OpenApi,
    Overview,
    History,
    Top,
    Events,
    Servers,
    Server,
    AddServer,
    SetServer,
    RemoveServer,
    Pools,
    Pool,
    Shadows,
    PutPool,
    RemovePool,
    Listeners,
    Chains,
    Rules,
    Rule,
    AddRule,
    PutRule,
    RemoveRule,
    Groups,
    Group,
    PutGroup,
    RemoveGroup,
    Difference,
    Acl,
    PutAcl,
    AddNetwork,
    RemoveNetwork,
    Settings,
    AllowFrom,
    PutAllowFrom,
    PurgeCache,
}

impl Id {
    /// Whether it is one of ours; the others are dnsdist's.
    pub(super) const fn is_v2(self) -> bool {
        !matches!(self, Self::AllowFrom | Self::PutAllowFrom | Self::PurgeCache)
    }
}

/// A parameter of the query string.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// `integer`, `boolean` or `string`.
    pub(super) kind: &'static str,
    pub(super) required: bool,
    pub(super) doc: &'static str,
}

/// An operation on a path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub(super) id: Id,
    pub(super) method: Method,
    /// With `{name}` for parameters.
    pub(super) path: &'static str,
    pub(super) doc: &'static str,
    /// The parameters of its query string.
    pub(super) query: &'static [Parameter],
    /// The schema of its body.
    pub(super) body: Option<&'static str>,
    /// The schema of its answer.
    pub(super) answer: &'static str,
}

impl Operation {
    /// Whether it changes the configuration.
    pub(super) const fn changes(&self) -> bool {
        !matches!(self.method, Method::Get) && !matches!(self.id, Id::PurgeCache)
    }

    /// The status of its success.
    pub(super) const fn status(&self) -> StatusCode {
        if matches!(self.id, Id::AddServer | Id::AddRule) { StatusCode::CREATED } else { StatusCode::OK }
    }
}

const DRY_RUN: Parameter = Parameter {
    name: "dry-run",
    kind: "boolean",
    required: false,
    doc: "Compile the change and say what it would change; nothing is published.",
};
const fn purge(name: &'static str, required: bool, kind: &'static str, doc: &'static str) -> Parameter {
    Parameter { name, kind, required, doc }
}
const PURGE: &[Parameter] = &[
    purge("pool", false, "string", "The pool; the default pool without."),
    purge("name", true, "string", "The name."),
    purge("type", false, "string", "Of one type, as AAAA; of all without."),
    purge("suffix", false, "boolean", "Those of all names below it too."),
];
const OFFSET: Parameter =
    Parameter { name: "offset", kind: "integer", required: false, doc: "Rules that are left out in front." };
const LIMIT: Parameter =
    Parameter { name: "limit", kind: "integer", required: false, doc: "Rules at most, 1000 unless given." };
const RANGE: Parameter =
    Parameter { name: "range", kind: "integer", required: true, doc: "Seconds: 300, 3600 or 86400." };
const FROM: Parameter =
    Parameter { name: "from", kind: "integer", required: false, doc: "The number of the first sample." };

/// Those of the lists of the traffic.
const TOP: &[Parameter] = &[
    Parameter { required: true, ..wanted("what", "string", "The list.") },
    wanted("window", "integer", "Seconds, 60 unless given."),
    wanted("n", "integer", "Rows at most, 10 unless given."),
    wanted("pool", "string", "Only queries of this pool."),
    wanted("server", "string", "Only what this server was asked."),
    wanted("client", "string", "Only clients with this address or of this network."),
    wanted("name", "string", "Only this name and what is below it."),
    wanted("rcode", "string", "Only answers with this response code, as SERVFAIL."),
    wanted("type", "string", "Only queries of this type, as AAAA."),
    wanted("slower", "integer", "Only answers that took as many milliseconds, or more."),
];

const fn wanted(name: &'static str, kind: &'static str, doc: &'static str) -> Parameter {
    Parameter { name, kind, required: false, doc }
}

/// Most rules that one answer lists.
pub(super) const RULES_MAX: usize = 10_000;

const fn get(id: Id, path: &'static str, answer: &'static str, doc: &'static str) -> Operation {
    Operation { id, method: Method::Get, path, doc, query: &[], body: None, answer }
}

const fn changing(
    id: Id,
    method: Method,
    path: &'static str,
    body: Option<&'static str>,
    doc: &'static str,
) -> Operation {
    Operation { id, method, path, doc, query: &[DRY_RUN], body, answer: "Change" }
}

/// The operations.
pub(super) const OPERATIONS: &[Operation] = &[
    get(Id::Index, "/api/v2", "Index", "What there is: version, generation, whether changes are allowed."),
    get(Id::OpenApi, "/api/v2/openapi.json", "Document", "This document."),
    get(Id::Overview, "/api/v2/overview", "Overview", "The figures of this moment."),
    Operation {
        query: &[RANGE, FROM],
        ..get(Id::History, "/api/v2/history", "History", "What the charts of the dashboard draw.")
    },
    Operation { query: TOP, ..get(Id::Top, "/api/v2/top", "Top", "The most frequent of the traffic.") },
    get(
        Id::Events,
        "/api/v2/events",
        "Events",
        "What happens, as server-sent events; Last-Event-ID goes on where a stream ended.",
    ),
    get(Id::Servers, "/api/v2/servers", "Servers", "The servers."),
    changing(Id::AddServer, Method::Post, "/api/v2/servers", Some("NewServer"), "Adds a server."),
    get(Id::Server, "/api/v2/servers/{server}", "Server", "A server, by id or name."),
    changing(
        Id::SetServer,
        Method::Patch,
        "/api/v2/servers/{server}",
        Some("ServerChange"),
        "Changes a server: what is given replaces what is there.",
    ),
    changing(Id::RemoveServer, Method::Delete, "/api/v2/servers/{server}", None, "Removes a server."),
    get(Id::Pools, "/api/v2/pools", "Pools", "The pools."),
    get(Id::Pool, "/api/v2/pools/{pool}", "Pool", "A pool; the default one is called _default_."),
    changing(
        Id::PutPool,
        Method::Put,
        "/api/v2/pools/{pool}",
        Some("PoolChange"),
        "Sets the policy of a pool, which is created if there is none. A pool without servers and rules is \
         as good as none; servers are put into pools and taken out of them by changes of the servers.",
    ),
    changing(
        Id::RemovePool,
        Method::Delete,
        "/api/v2/pools/{pool}",
        None,
        "Removes a pool with its policy. One that has servers, or that a rule names, is kept.",
    ),
    get(
        Id::Shadows,
        "/api/v2/shadows",
        "Shadows",
        "What was compared of queries that ShadowAction has sent to a second pool.",
    ),
    get(Id::Listeners, "/api/v2/listeners", "Listeners", "The listeners."),
    get(Id::Chains, "/api/v2/rules", "Chains", "The chains of rules, with their lengths."),
    Operation {
        query: &[OFFSET, LIMIT],
        ..get(Id::Rules, "/api/v2/rules/{chain}", "Rules", "The rules of a chain, in order.")
    },
    changing(
        Id::AddRule,
        Method::Post,
        "/api/v2/rules/{chain}",
        Some("NewRule"),
        "Adds a rule at the end of a chain, or in front of all others.",
    ),
    get(Id::Rule, "/api/v2/rules/{chain}/{uuid}", "Rule", "A rule."),
    changing(
        Id::PutRule,
        Method::Put,
        "/api/v2/rules/{chain}/{uuid}",
        Some("RuleChange"),
        "Puts another rule in the place of this one; it keeps the UUID.",
    ),
    changing(Id::RemoveRule, Method::Delete, "/api/v2/rules/{chain}/{uuid}", None, "Removes a rule."),
    get(
        Id::Groups,
        "/api/v2/groups/{chain}",
        "Groups",
        "The groups of rules of a chain, with their lengths.",
    ),
    get(Id::Group, "/api/v2/groups/{chain}/{group}", "Group", "The rules of a group, in order."),
    changing(
        Id::PutGroup,
        Method::Put,
        "/api/v2/groups/{chain}/{group}",
        Some("GroupChange"),
        "Replaces the rules of a group, at the place of its first one, or at the end of the chain. There is a \
         group as long as a rule is in it.",
    ),
    changing(
        Id::RemoveGroup,
        Method::Delete,
        "/api/v2/groups/{chain}/{group}",
        None,
        "Removes the rules of a group.",
    ),
    get(
        Id::Difference,
        "/api/v2/difference",
        "Difference",
        "What commands and the API have changed since the configuration file was read.",
    ),
    get(Id::Acl, "/api/v2/acl", "Acl", "The networks that may query."),
    changing(
        Id::PutAcl,
        Method::Put,
        "/api/v2/acl",
        Some("AclChange"),
        "Replaces the networks that may query.",
    ),
    changing(
        Id::AddNetwork,
        Method::Put,
        "/api/v2/acl/{network}",
        None,
        "Lets a network query; its slash is written as %2F.",
    ),
    changing(
        Id::RemoveNetwork,
        Method::Delete,
        "/api/v2/acl/{network}",
        None,
        "Removes a network from those that may query.",
    ),
    get(Id::Settings, "/api/v2/settings", "Settings", "Settings of the process."),
    get(
        Id::AllowFrom,
        "/api/v1/servers/localhost/config/allow-from",
        "AllowFrom",
        "The networks that may query, as dnsdist's clients read them.",
    ),
    Operation {
        query: &[],
        answer: "AllowFrom",
        ..changing(
            Id::PutAllowFrom,
            Method::Put,
            "/api/v1/servers/localhost/config/allow-from",
            Some("AllowFrom"),
            "Replaces the networks that may query, as dnsdist's clients do.",
        )
    },
    Operation {
        method: Method::Delete,
        query: PURGE,
        ..get(
            Id::PurgeCache,
            "/api/v1/cache",
            "Purged",
            "Removes the entries of a name from the packet cache of a pool.",
        )
    },
];
