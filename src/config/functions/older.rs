//! Functions of older versions of dnsdist, each with what it means today.

/// A function of an older version.
#[derive(Debug)]
pub struct Older {
    /// Its name.
    pub name: &'static str,
    /// What to write.
    pub today: &'static str,
    /// The body of a Lua function that does it.
    pub body: &'static str,
    /// It is another name of what there is today, and nobody needs to be told.
    pub is_alias: bool,
}

const fn renamed(name: &'static str, today: &'static str, body: &'static str) -> Older {
    Older { name, today, body, is_alias: false }
}

/// The functions.
pub static OLDER: &[Older] = &[
    renamed("NoRecurseAction", "SetNoRecurseAction()", "return SetNoRecurseAction(...)"),
    renamed(
        "DisableValidationAction",
        "SetDisableValidationAction()",
        "return SetDisableValidationAction(...)",
    ),
    renamed("TagAction", "SetTagAction(name, value)", "return SetTagAction(...)"),
    renamed("TagResponseAction", "SetTagResponseAction(name, value)", "return SetTagResponseAction(...)"),
    renamed("SkipCacheAction", "SetSkipCacheAction()", "return SetSkipCacheAction(...)"),
    renamed(
        "SkipCacheResponseAction",
        "SetSkipCacheResponseAction()",
        "return SetSkipCacheResponseAction(...)",
    ),
    renamed("DisableECSAction", "SetDisableECSAction()", "return SetDisableECSAction(...)"),
    renamed("ECSOverrideAction", "SetECSOverrideAction(switch)", "return SetECSOverrideAction(...)"),
    renamed(
        "ECSPrefixLengthAction",
        "SetECSPrefixLengthAction(v4, v6)",
        "return SetECSPrefixLengthAction(...)",
    ),
    renamed(
        "TempFailureCacheTTLAction",
        "SetTempFailureCacheTTLAction(ttl)",
        "return SetTempFailureCacheTTLAction(...)",
    ),
    Older { name: "show", today: "print(text)", body: "print(...)", is_alias: true },
    renamed("topRule", "mvRuleToTop()", "return mvRuleToTop(...)"),
    renamed("topResponseRule", "mvResponseRuleToTop()", "return mvResponseRuleToTop(...)"),
    renamed(
        "topCacheHitResponseRule",
        "mvCacheHitResponseRuleToTop()",
        "return mvCacheHitResponseRuleToTop(...)",
    ),
    renamed(
        "topSelfAnsweredResponseRule",
        "mvSelfAnsweredResponseRuleToTop()",
        "return mvSelfAnsweredResponseRuleToTop(...)",
    ),
    renamed("SetNegativeAndSOAAction", "NegativeAndSOAAction(...)", "return NegativeAndSOAAction(...)"),
    renamed(
        "addLuaAction",
        "addAction(selector, LuaAction(function))",
        "local selector, action, options = ... return addAction(selector, LuaAction(action), options)",
    ),
    renamed(
        "addLuaResponseAction",
        "addResponseAction(selector, LuaResponseAction(function))",
        "local selector, action, options = ... \
         return addResponseAction(selector, LuaResponseAction(action), options)",
    ),
    renamed(
        "addAnyTCRule",
        "addAction(AndRule({QTypeRule(DNSQType.ANY), TCPRule(false)}), TCAction())",
        "return addAction(AndRule({ QTypeRule(255), TCPRule(false) }), TCAction())",
    ),
    renamed(
        "addDelay",
        "addAction(selector, DelayAction(milliseconds))",
        "local selector, ms, options = ... return addAction(selector, DelayAction(ms), options)",
    ),
    renamed(
        "addDisableValidationRule",
        "addAction(selector, SetDisableValidationAction())",
        "local selector, options = ... return addAction(selector, SetDisableValidationAction(), options)",
    ),
    renamed(
        "addDomainBlock",
        "addAction(domain, DropAction())",
        "local domain = ... return addAction(domain, DropAction())",
    ),
    renamed(
        "addDomainSpoof",
        "addAction(domain, SpoofAction(addresses))",
        "local domain, one, other = ... \
         return addAction(domain, SpoofAction(other and { one, other } or one))",
    ),
    renamed(
        "addDomainCNAMESpoof",
        "addAction(domain, SpoofCNAMEAction(name))",
        "local domain, name = ... return addAction(domain, SpoofCNAMEAction(name))",
    ),
    renamed(
        "addNoRecurseRule",
        "addAction(selector, SetNoRecurseAction())",
        "local selector, options = ... return addAction(selector, SetNoRecurseAction(), options)",
    ),
    renamed(
        "addPoolRule",
        "addAction(selector, PoolAction(pool))",
        "local selector, pool, options = ... return addAction(selector, PoolAction(pool), options)",
    ),
    renamed(
        "addQPSLimit",
        "addAction(selector, QPSAction(qps))",
        "local selector, qps, options = ... return addAction(selector, QPSAction(qps), options)",
    ),
    renamed(
        "addQPSPoolRule",
        "addAction(selector, QPSPoolAction(qps, pool))",
        "local selector, qps, pool, options = ... \
         return addAction(selector, QPSPoolAction(qps, pool), options)",
    ),
];
