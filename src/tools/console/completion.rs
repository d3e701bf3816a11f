//! What can follow what is typed: functions, members of constants and objects, policies, keys of a
//! table, and names of what the server has.

use crate::config::functions::enumerations::ENUMERATIONS;
use crate::config::functions::policies::CONCENTRATE;
use crate::config::functions::{
    ADDRESS_METHODS, CACHE_METHODS, CACHE_OPTIONS, CHAINS, Entry, LOCAL_OPTIONS, NAME_METHODS,
    NAME_SET_METHODS, NETMASK_METHODS, NETWORK_SET_METHODS, POLICIES, POOL_METHODS, RELAY_ARGUMENTS,
    RULE_METHODS, SERVER_ARGUMENTS, SERVER_METHODS, SERVER_TLS_ARGUMENTS, TCP_RELAY_ARGUMENTS,
    TLS_LOCAL_OPTIONS, UDP_RELAY_ARGUMENTS, WEB_OPTIONS,
};
use crate::config::options::SETTINGS;
use crate::lua::front_end::every_function;
use crate::stats::top::LISTS;

/// Fields of a server that are no methods.
const SERVER_FIELDS: [&str; 7] = ["name", "id", "order", "weight", "qps", "pools", "upStatus"];
/// What narrows a list of the traffic.
const LIST_KEYS: [&str; 8] = ["window", "pool", "server", "client", "name", "rcode", "type", "slower"];
/// Functions of a policy.
const POLICY_SETTERS: [&str; 2] = ["setServerPolicy", "setPoolServerPolicy"];
/// Functions that return policies.
const POLICY_MAKERS: [&str; 4] = ["ordered", "hashBy", "bounded", "newServerPolicy"];
/// Most names that are listed.
const NAMES_MAX: usize = 1_000;

/// What is typed, as far as completion needs it.
#[derive(Debug, Default)]
struct Typed<'t> {
    /// The brackets that are open: which, the function in front of it, and how many arguments, or
    /// items, are complete.
    open: Vec<(char, &'t str, usize)>,
    /// The function whose call was closed last.
    closed: &'t str,
    /// Where the text begins that is open.
    quoted: Option<usize>,
}

const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Returns the word at the end of a text.
fn last_word(text: &str) -> &str {
    text.rsplit(|c| !is_word(c)).next().unwrap_or_default()
}

impl<'t> Typed<'t> {
    fn read(text: &'t str) -> Self {
        let mut typed = Self::default();
        let mut quote: Option<(char, usize)> = None;
        let mut escaped = false;
        for (at, c) in text.char_indices() {
            if let Some((mark, _)) = quote {
                let ends = c == mark && !escaped;
                escaped = c == '\\' && !escaped;
                quote = quote.filter(|_| !ends);
                continue;
            }
            match c {
                '"' | '\'' => quote = Some((c, at + 1)),
                '(' | '{' => {
                    let mut function = last_word(text[..at].trim_end());
                    // A table that is an argument is about the function.
                    if c == '{' && function.is_empty() {
                        function = typed.open.last().map_or("", |(_, outer, _)| outer);
                    }
                    typed.open.push((c, function, 0));
                }
                ')' | '}' => typed.closed = typed.open.pop().map_or("", |(_, function, _)| function),
                ',' => typed.open.iter_mut().last().into_iter().for_each(|(_, _, done)| *done += 1),
                _ => {}
            }
        }
        typed.quoted = quote.map(|(_, at)| at);
        typed
    }
}

/// Returns what can follow a text: how much of its end it takes the place of, and what that may be.
/// `ask`: returns the lines of the reply to a command.
pub(super) fn candidates(text: &str, ask: &mut dyn FnMut(&str) -> Vec<String>) -> (usize, Vec<String>) {
    let typed = Typed::read(text);
    let top = typed.open.last().copied();
    let (word, mut all) = match typed.quoted {
        Some(at) => (&text[at..], top.map_or_else(Vec::new, |(_, function, n)| names(function, n, ask))),
        None => {
            let word = last_word(text);
            let before = &text[..text.len() - word.len()];
            (word, of_word(before, (top, typed.closed), ask))
        }
    };
    all.retain(|name| name.starts_with(word));
    all.sort();
    all.dedup();
    (word.len(), all)
}

/// Returns the words that may stand behind a text.
fn of_word(
    before: &str,
    (top, closed): (Option<(char, &str, usize)>, &str),
    ask: &mut dyn FnMut(&str) -> Vec<String>,
) -> Vec<String> {
    if let Some(object) = before.strip_suffix(':').or_else(|| before.strip_suffix('.')) {
        return members((object, closed), before.ends_with('.'), ask);
    }
    match top {
        Some(('{', function, _)) if before.trim_end().ends_with(['{', ',']) => {
            let keys = keys(function);
            if !keys.is_empty() {
                return keys.into_iter().map(|key| format!("{key}=")).collect();
            }
        }
        Some(('(', function, 0)) if POLICY_SETTERS.contains(&function) => {
            let makers = POLICY_MAKERS.iter().map(|name| format!("{name}("));
            return POLICIES.iter().map(|name| (*name).to_owned()).chain(makers).collect();
        }
        _ => {}
    }
    let functions = every_function().map(|e| e.name);
    let settings = SETTINGS.iter().flat_map(|s| s.lua).map(|l| l.name);
    let functions = functions.chain(settings).map(|name| format!("{name}("));
    functions.chain(ENUMERATIONS.iter().map(|(name, _)| format!("{name}."))).collect()
}

/// Returns the members of what stands at the end of a text, which may be a call.
fn members(
    (text, called): (&str, &str),
    has_fields: bool,
    ask: &mut dyn FnMut(&str) -> Vec<String>,
) -> Vec<String> {
    let text = text.trim_end();
    let is_call = text.ends_with([')', '}']);
    let name = if is_call { called } else { last_word(text) };
    if let Some((_, constants)) = ENUMERATIONS.iter().find(|(of, _)| *of == name) {
        return constants.iter().map(|(constant, _)| (*constant).to_owned()).collect();
    }
    let tables = if is_call { object_of(name) } else { variable(name, ask) };
    let mut all: Vec<String> = tables.iter().copied().flatten().map(|e| format!("{}(", e.name)).collect();
    if has_fields && tables.iter().any(|table| std::ptr::eq(*table, SERVER_METHODS)) {
        all.extend(SERVER_FIELDS.map(str::to_owned));
    }
    all
}

/// The objects that have methods.
const OBJECTS: [&[Entry]; 6] =
    [SERVER_METHODS, POOL_METHODS, CACHE_METHODS, RULE_METHODS, NAME_SET_METHODS, NETWORK_SET_METHODS];

/// Returns the methods of what a function returns.
fn object_of(function: &str) -> Vec<&'static [Entry]> {
    let is_rule = || CHAINS.iter().any(|chain| chain.entries[9].name == function);
    match function {
        "getServer" | "newServer" => vec![SERVER_METHODS],
        "getPool" => vec![POOL_METHODS],
        "getCache" | "newPacketCache" => vec![CACHE_METHODS],
        "newSuffixMatchNode" | "newDNSNameSet" => vec![NAME_SET_METHODS],
        "newNMG" => vec![NETWORK_SET_METHODS],
        "newNetmask" => vec![NETMASK_METHODS],
        "newCA" | "ComboAddress" => vec![ADDRESS_METHODS],
        "newDNSName" => vec![NAME_METHODS],
        "newRuleAction" | "getAction" | "getCacheMissAction" => vec![RULE_METHODS],
        _ if is_rule() => vec![RULE_METHODS],
        _ => Vec::new(),
    }
}

/// Returns the methods of a variable of the server: of those objects whose first method it has.
fn variable(name: &str, ask: &mut dyn FnMut(&str) -> Vec<String>) -> Vec<&'static [Entry]> {
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Vec::new();
    }
    // A method of each, as of `OBJECTS`.
    let marks = ["setDown", "setCache", "expungeByName", "getSelector", "addFile", "addMask"];
    let command = format!(
        "local v = rawget(_G, '{name}') if type(v) ~= 'userdata' then return '' end \
         local t = {{}} for _, m in ipairs({{ '{}' }}) do \
         local ok, f = pcall(function() return v[m] end) t[#t + 1] = tostring(ok and f ~= nil) end \
         return table.concat(t, '\\n')",
        marks.join("', '")
    );
    let reply = ask(&command);
    let known: Vec<_> =
        OBJECTS.into_iter().zip(&reply).filter(|(_, is)| *is == "true").map(|(t, _)| t).collect();
    // A local variable, or one of another kind.
    if known.is_empty() { OBJECTS.to_vec() } else { known }
}

/// Returns the keys of the table that is an argument of a function.
fn keys(function: &str) -> Vec<String> {
    let of = |tables: &[&'static [Entry]]| -> Vec<String> {
        tables.iter().copied().flatten().map(|e| e.name.to_owned()).collect()
    };
    match function {
        "newServer" => of(&[SERVER_ARGUMENTS, SERVER_TLS_ARGUMENTS]),
        "addLocal" | "setLocal" => of(&[LOCAL_OPTIONS]),
        "addTLSLocal" => of(&[LOCAL_OPTIONS, TLS_LOCAL_OPTIONS]),
        "newPacketCache" => of(&[CACHE_OPTIONS]),
        "setWebserverConfig" => of(&[WEB_OPTIONS]),
        "addTCPForward" => of(&[RELAY_ARGUMENTS, TCP_RELAY_ARGUMENTS]),
        "addUDPForward" => of(&[RELAY_ARGUMENTS, UDP_RELAY_ARGUMENTS]),
        "concentrate" => CONCENTRATE.iter().map(|(name, _)| (*name).to_owned()).collect(),
        _ if function.starts_with("top") && !function.ends_with("Rules") => {
            LIST_KEYS.map(str::to_owned).to_vec()
        }
        _ => {
            let entry = every_function().find(|e| e.name == function);
            entry.map_or_else(Vec::new, |e| written_keys(e.arguments))
        }
    }
}

/// Returns the keys that a signature shows: words in front of `=` within braces.
fn written_keys(arguments: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let mut keys = Vec::new();
    for (at, c) in arguments.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            '=' if depth > 0 => keys.push(last_word(&arguments[..at]).to_owned()),
            _ => {}
        }
    }
    keys
}

/// Returns what a text that is an argument of a function may be.
fn names(function: &str, argument: usize, ask: &mut dyn FnMut(&str) -> Vec<String>) -> Vec<String> {
    let pools = "getPoolNames()";
    let servers = "local t = {} for _, s in ipairs(getServers()) do t[#t + 1] = s:getName() end \
                   return table.concat(t, '\\n')";
    let of_chain = CHAINS.iter().find_map(|chain| {
        let [_, rm, _, to_top, .., one] = &chain.entries;
        [rm, to_top, one].iter().any(|e| e.name == function).then_some(one.name)
    });
    match (function, argument) {
        (
            "getPool"
            | "getPoolServers"
            | "PoolAction"
            | "PoolAvailableRule"
            | "showPoolServerPolicy"
            | "rmPool",
            0,
        )
        | ("addPool" | "QPSPoolAction" | "setPoolServerPolicy", _) => ask(pools),
        ("getServer" | "rmServer", 0) => ask(servers),
        ("rmACL", 0) => ask("getACL()"),
        ("top", 0) => LISTS.map(str::to_owned).to_vec(),
        (_, 0) => of_chain.map_or_else(Vec::new, |one| {
            ask(&format!(
                "local t = {{}} for i = 0, {} do local r = {one}(i) if not r then break end \
                 if r:getName() ~= '' then t[#t + 1] = r:getName() end end return table.concat(t, '\\n')",
                NAMES_MAX - 1
            ))
        }),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the candidates, on a server with a pool, a server and a rule.
    fn of(text: &str) -> (usize, Vec<String>) {
        candidates(text, &mut |command| {
            let reply = match command {
                "getPoolNames()" => "abuse\nauth",
                _ if command.contains("getServers") => "ns1\nns2",
                _ if command.contains("getResponseRule(") => "late",
                _ if command.contains("getRule(") => "block\nlimit",
                _ if command.contains("'pc'") => "false\nfalse\ntrue\nfalse\nfalse\nfalse",
                _ => "",
            };
            reply.lines().map(str::to_owned).collect()
        })
    }

    #[test]
    fn each_place_has_its_words() {
        for (text, length, some, none) in [
            ("show", 4, "showServers(", "newServer("),
            ("x = getSer", 6, "getServer(", "setServerPolicy("),
            ("DNSAc", 5, "DNSAction.", "DNSQType."),
            ("DNSAction.", 0, "Drop", "add("),
            ("DNSAction.Dr", 2, "Drop", "Allow"),
            ("QTypeRule(DNSQType.AA", 2, "AAAA", "A"),
            ("getServer(0):is", 2, "isUp(", "setDown("),
            ("getServer(0).", 0, "weight", "setCache("),
            ("getServer(\"a)b\"):", 0, "setDown(", "weight"),
            ("getPool(\"x\"):", 0, "getCache(", "setDown("),
            ("getPool(\"x\"):getCache():", 0, "expungeByName(", "getCache("),
            ("newServer{address='192.0.2.1'}:", 0, "setDown(", "getCache("),
            ("pc:", 0, "expungeByName(", "setDown("),
            ("unknown:", 0, "setDown(", "DNSAction."),
            ("setServerPolicy(le", 2, "leastOutstanding", "p2c"),
            ("setPoolServerPolicy(", 0, "ordered(", "newServer("),
            ("getPool('x'):setServerPolicy(p", 1, "p2c", "print("),
            ("newServer{addr", 4, "address=", "tls="),
            ("newServer({address=\"192.0.2.1\", we", 2, "weight=", "address="),
            ("newServer{tls=\"openssl\", sub", 3, "subjectName=", "address="),
            ("showRules({", 0, "showUUIDs=", "showServers("),
            ("topQueries(10, 2, {wi", 2, "window=", "pool="),
            ("addAction(\"x.\", DropAction(), {", 0, "group=", "DropAction("),
            ("newServer{address=new", 3, "newCA(", "address="),
            ("getPool(\"", 0, "auth", "ns1"),
            ("getPool('ab", 2, "abuse", "auth"),
            ("addAction('x.', PoolAction('ab", 2, "abuse", "auth"),
            ("getServer(\"ns", 2, "ns1", "auth"),
            ("rmRule(\"", 0, "block", "late"),
            ("getResponseRule('", 0, "late", "block"),
            ("top(\"serv", 4, "servfail-names", "names"),
        ] {
            let (word, all) = of(text);
            let has = |name: &str| all.iter().any(|one| one == name);
            assert!(word == length && has(some) && !has(none), "{text}: {word} {all:?}");
        }
        assert_eq!(of("addACL(\"").1, Vec::<String>::new(), "nobody knows");
    }
}
