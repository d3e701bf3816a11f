//! Names that functions of the configuration use and nothing defines: found when the file is read,
//! because most functions run later. What the file itself does has been done by then, and is not
//! looked at.

use std::collections::{BTreeMap, BTreeSet};

use mlua::{Function, Lua, RegistryKey, Value};

use crate::config::draft::Draft;
use crate::config::error::{ConfigError, Fault, Origin, nearest};
use crate::config::functions::enumerations::ENUMERATIONS;
use crate::config::functions::{
    CACHE_METHODS, Entry, FFI_MISSING, FOR_FUNCTIONS, FUNCTIONS_MISSING, NAME_SET_METHODS,
    NETWORK_SET_METHODS, POOL_METHODS, SERVER_METHODS,
};
use crate::lua::code::dump;
use crate::lua::code::dump::{Chunk, Prototype};
use crate::lua::code::flow::{
    DECISIONS, DECLARES, FFI, Kind, LIBRARIES, METRICS, Standing, Use, Walk, When, tail_calls,
};
use crate::lua::code::globals::Names;
use crate::lua::code::shape::Shape;
use crate::lua::ffi;
use crate::lua::front_end::captured;
use crate::lua::front_end::captured::Captured;
use crate::lua::front_end::lua_error::every_name;
use crate::lua::front_end::missing;
use crate::lua::limits::Interrupt;
use crate::lua::state;
use crate::lua::state::Members;
use crate::stats::custom_metrics;

/// The code of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Code {
    /// The names of the files' chunks.
    files: BTreeSet<String>,
    pieces: Vec<Piece>,
    /// When the functions that begin at a place run.
    when: BTreeMap<(String, u32), When>,
    /// What they get: an object, and as which argument.
    takes: BTreeMap<(String, u32), (u8, Shape)>,
    /// Those that shards run. In the registry, which can hold any number; Rust can hold few values.
    later: Vec<RegistryKey>,
}

/// Code as LuaJIT dumps it.
#[derive(Debug)]
struct Piece {
    dump: Vec<u8>,
    /// When it runs; none for a file, which has run.
    when: Option<When>,
    /// Where it is, if not in a file.
    origin: Option<Origin>,
}

impl Code {
    /// Adds a file.
    pub(crate) fn file(&mut self, chunk: &Function) {
        if self.files.insert(chunk.info().source.unwrap_or_default()) {
            self.pieces.push(Piece { dump: chunk.dump(false), when: None, origin: None });
        }
    }

    /// Returns the line of the main file that ends it by the call of a function, if there is one
    /// such line: an error of that function does not say where it was called.
    pub(crate) fn tail_call(&self) -> Option<u32> {
        let main = dump::read(&self.pieces.iter().find(|piece| piece.when.is_none())?.dump)?;
        let mut lines = tail_calls(&main.root);
        let line = lines.next()?;
        lines.all(|other| other == line).then_some(line)
    }

    /// Adds a text that is code of a function for shards.
    pub(crate) fn text(&mut self, chunk: &Function, origin: &Origin) {
        let when = Some(When::Shard);
        self.pieces.push(Piece { dump: chunk.dump(false), when, origin: Some(origin.clone()) });
    }

    /// Notes that a function gets an object as its argument of this number, from 0. One that is used
    /// for different ones gets none that is known.
    pub(crate) fn takes(&mut self, function: &Function, register: u8, shape: Shape) {
        let info = function.info();
        let (Some(source), Some(line)) = (info.source, info.line_defined) else { return };
        let place = (source, u32::try_from(line).unwrap_or(0));
        let taken = *self.takes.entry(place.clone()).or_insert((register, shape));
        let both = |shape| matches!(shape, Shape::Query | Shape::Response);
        if taken.0 != register {
            self.takes.remove(&place);
        } else if taken.1 != shape && both(shape) {
            // A query has fewer members.
            self.takes.insert(place, (register, Shape::Response));
        }
    }

    /// Notes when a function runs, and adds it if no file that is known contains it.
    ///
    /// # Errors
    /// Those of Lua.
    pub(crate) fn function(&mut self, lua: &Lua, function: &Function, when: When) -> mlua::Result<()> {
        let info = function.info();
        let (Some(source), Some(line)) = (info.source, info.line_defined) else { return Ok(()) };
        let is_known = self.files.contains(&source);
        let line = u32::try_from(line).unwrap_or(0);
        if when == When::Shard {
            self.later.push(lua.create_registry_value(function)?);
        }
        let is_new = self.when.insert((source, line), when).is_none();
        if is_new && !is_known {
            self.pieces.push(Piece { dump: function.dump(false), when: Some(when), origin: None });
        }
        Ok(())
    }
}

/// Refuses calls of names that are not there, and warns of those of functions that shards run and
/// that work only while the configuration is evaluated.
///
/// # Errors
/// That of a state of a shard, if none can be made.
pub(crate) fn check(
    lua: &Lua,
    mut code: Code,
    draft: &mut Draft,
    interrupt: &Interrupt,
) -> Result<(), ConfigError> {
    let globals = lua.globals();
    if let Ok(Value::Function(maintenance)) = globals.raw_get("maintenance") {
        // One more handle is not missed if the state has no room for it.
        let _ = code.function(lua, &maintenance, When::Shard);
    }
    let later = std::mem::take(&mut code.later);
    let chunks: Vec<_> =
        code.pieces.iter().filter_map(|piece| Some((dump::read(&piece.dump)?, piece))).collect();
    if chunks.iter().all(|(chunk, piece)| piece.when.is_none() && chunk.root.functions().next().is_none()) {
        return Ok(());
    }
    let mut names = Names::default();
    chunks.iter().for_each(|(chunk, _)| names.add(chunk));
    // A table behind it may have any name.
    names.is_opaque |= globals.metatable().is_some();
    let asked: Vec<&str> = names.read.iter().map(String::as_str).collect();
    let shard = state::standing(&asked, interrupt)?;
    let members = shard.members;
    let standings: BTreeMap<&str, Standings> = asked
        .iter()
        .zip(shard.names)
        .map(|(name, shard)| (*name, standings(name, globals.raw_get(*name), shard, &names)))
        .collect();
    let fixed: Fixed<'_> = asked
        .iter()
        .filter(|name| !names.is_opaque && !names.set.contains(**name))
        .filter_map(|name| Some((*name, fixed(name, globals.raw_get(*name).ok()?, &members)?)))
        .collect();
    let table_lacks = |table: &str, member: &str| {
        fixed.get(table).is_some_and(|known| !known.contains(member)) && !names.set.contains(member)
    };
    let mut begun = BTreeMap::new();
    chunks.iter().for_each(|(chunk, _)| count(&chunk.name, &chunk.root, &mut begun));
    let when = |chunk: &str, line: u32| {
        // Of several that begin in one line it is not known which one it is.
        let is_alone = begun.get(&(chunk, line)) == Some(&1);
        let when = code.when.get(&(chunk.to_owned(), line)).filter(|_| is_alone);
        when.copied().unwrap_or(When::Unknown)
    };
    let takes = |chunk: &str, line: u32| {
        let is_alone = begun.get(&(chunk, line)) == Some(&1);
        code.takes.get(&(chunk.to_owned(), line)).filter(|_| is_alone).copied()
    };
    let functions: BTreeSet<&str> = ffi::family().into_iter().collect();
    let lacks = |kind: Kind, member: &str| match kind {
        Kind::Member(Shape::Other) => true,
        Kind::Ffi => member.starts_with(FFI) && !functions.contains(member),
        Kind::FfiType => ffi::is_unknown_type(lua, member),
        Kind::Written(shape) if configured(shape).is_some() => true,
        _ => members.of(kind).is_some_and(|known| !known.contains(member)),
    };
    let all: Vec<&Chunk> = chunks.iter().map(|(chunk, _)| chunk).collect();
    let captured = Captured::find(lua, later, &all).unwrap_or_default();
    let shares = |chunk: &str, line: u32| {
        let is_alone = begun.get(&(chunk, line)) == Some(&1);
        captured.shares.get(&(chunk.to_owned(), line)).filter(|_| is_alone).cloned()
    };
    let global = |name: &str| {
        let value = globals.raw_get::<Value>(name).ok()?;
        captured::shape(&value).filter(|_| !names.set_later.contains(name))
    };
    let mut walk = Walk {
        standing: &|name, when| standings.get(name).map_or(Standing::Open, |all| all[when as usize]),
        lacks: &lacks,
        table_lacks: &table_lacks,
        when: &when,
        takes: &takes,
        global: &global,
        shares: &shares,
        found: BTreeSet::new(),
    };
    let (mut declared, mut counted) = (BTreeSet::new(), Vec::new());
    for (chunk, piece) in &chunks {
        let before = std::mem::take(&mut walk.found);
        walk.chunk(chunk, piece.when);
        for found in std::mem::replace(&mut walk.found, before) {
            if found.kind == Kind::Declared {
                declared.insert(found.name);
                continue;
            }
            if found.kind == Kind::Metric {
                counted.push((found, piece.origin.as_ref()));
                continue;
            }
            let standing = (walk.standing)(&found.name, found.when);
            report(&found, standing, piece.origin.as_ref(), (&names, &members, &fixed), draft);
        }
    }
    let is_replaced = names.is_opaque || METRICS.iter().any(|function| names.set.contains(*function));
    if !is_replaced && !names.set.contains(DECLARES) {
        undeclared(&counted, &declared, draft);
    }
    Ok(())
}

/// Warns of metrics that functions change and nothing declares: neither the file, nor a function (`declared`,
/// with an empty name for one that is not known).
fn undeclared(counted: &[(Use, Option<&Origin>)], declared: &BTreeSet<String>, draft: &mut Draft) {
    if declared.contains("") {
        return;
    }
    for (found, origin) in counted {
        let name = &found.name;
        let is_known = draft.metrics.metric(name).is_some() || custom_metrics::all().metric(name).is_ok();
        if is_known || declared.contains(name) {
            continue;
        }
        let (chunk, line) = &found.place;
        let own = || Origin::line(chunk.strip_prefix('@').unwrap_or("(a string)"), *line);
        let origin = (*origin).cloned().unwrap_or_else(own);
        let near = nearest(name, draft.metrics.names().chain(declared.iter().map(String::as_str)));
        let hint = near.map_or_else(
            || "declareMetric declares it".to_owned(),
            |near| format!("did you mean \"{near}\"?"),
        );
        let fault = Fault::Unknown { what: "metric", name: name.clone(), hint };
        draft.warnings.push_once(ConfigError::new(&origin, "", fault));
    }
}

/// Counts the functions that begin in each line.
fn count<'c>(chunk: &'c str, function: &Prototype, begun: &mut BTreeMap<(&'c str, u32), usize>) {
    for inner in function.functions() {
        *begun.entry((chunk, inner.first_line)).or_default() += 1;
        count(chunk, inner, begun);
    }
}

/// What is known of a name, by when a function runs.
type Standings = [Standing; 3];

/// Returns what is known of a name: `here` is its value in this state, `shard` how it stands in that
/// of a shard.
fn standings(name: &str, here: mlua::Result<Value>, shard: Standing, names: &Names) -> Standings {
    let is_own = match &here {
        Ok(Value::Nil) | Err(_) => false,
        Ok(Value::Function(f)) => {
            let info = f.info();
            info.what == "Lua" && !info.source.is_some_and(|s| s.starts_with('='))
        }
        // A table of ours, or whatever the file has put there.
        Ok(_) => name != "dnslob" && !DECISIONS.contains(&name),
    };
    let is_refused = family(name).is_some() || FOR_FUNCTIONS.contains(&name);
    if is_own || names.set.contains(name) || names.is_opaque && !is_refused && shard == Standing::Lacking {
        return [Standing::Open; 3];
    }
    let is_here = !matches!(here, Ok(Value::Nil) | Err(_)) && !is_refused;
    let check = if is_here { Standing::Open } else { Standing::Lacking };
    let unknown = match shard {
        _ if name == "dnslob" => Standing::There,
        Standing::There | Standing::Open => Standing::Open,
        Standing::Lacking | Standing::Configures => check,
    };
    let check = if name == "dnslob" { Standing::There } else { check };
    [unknown, shard, check]
}

/// The members of tables that the file has not replaced.
type Fixed<'n> = BTreeMap<&'n str, BTreeSet<String>>;

/// Returns the members of a table, here and in the state of a shard, if these are fixed.
fn fixed(name: &str, here: Value, members: &Members) -> Option<BTreeSet<String>> {
    let is_fixed = LIBRARIES.contains(&name) || ENUMERATIONS.iter().any(|(table, _)| *table == name);
    let Value::Table(table) = here else { return None };
    if !is_fixed || DECISIONS.contains(&name) || table.metatable().is_some() {
        return None;
    }
    let mut known = members.of_table(name).cloned().unwrap_or_default();
    for pair in table.pairs::<Value, Value>() {
        let (Value::String(member), _) = pair.ok()? else { continue };
        known.insert(member.to_string_lossy());
    }
    Some(known)
}

/// Returns the family of missing functions that a name belongs to.
fn family(name: &str) -> Option<&'static crate::config::functions::Missing> {
    FUNCTIONS_MISSING.iter().find(|m| m.names.contains(&name))
}

/// Returns what a member is one of.
const fn what_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Member(Shape::Query) => "member of a query",
        Kind::Member(Shape::Response) => "member of an answer",
        Kind::Member(Shape::Header) => "method of a header",
        Kind::Member(Shape::Name) => "method of a name",
        Kind::Member(Shape::Address) => "method of an address",
        Kind::Member(Shape::Server) => "member of a server",
        Kind::Member(Shape::Pool) => "method of a pool",
        Kind::Member(Shape::Cache) => "method of a packet cache",
        Kind::Member(Shape::Names) => "method of a set of names",
        Kind::Member(Shape::Networks) => "method of a set of networks",
        Kind::Member(Shape::Other) => "member of an object of the configuration",
        Kind::Fixed | Kind::Member(Shape::Table(_)) => "member of a table",
        Kind::Written(_) => "member that can be set",
        Kind::Decision => "decision of a function",
        Kind::Metric | Kind::Declared => "metric",
        Kind::Call | Kind::Ffi | Kind::FfiType => "name",
    }
}

/// Returns the methods of an object of the configuration, as the file has them; none for an object that
/// functions get.
const fn configured(shape: Shape) -> Option<&'static [Entry]> {
    match shape {
        Shape::Query | Shape::Response | Shape::Header | Shape::Name | Shape::Address | Shape::Table(_) => {
            None
        }
        Shape::Server => Some(SERVER_METHODS),
        Shape::Pool => Some(POOL_METHODS),
        Shape::Cache => Some(CACHE_METHODS),
        Shape::Names => Some(NAME_SET_METHODS),
        Shape::Networks => Some(NETWORK_SET_METHODS),
        Shape::Other => Some(&[]),
    }
}

/// Returns whether the file can use a member; of objects without methods, any.
fn knows(methods: &[Entry], member: &str) -> bool {
    /// Members of servers that are no methods.
    const FIELDS: [&str; 5] = ["order", "weight", "qps", "id", "pools"];
    methods.is_empty() || FIELDS.contains(&member) || methods.iter().any(|entry| entry.name == member)
}

/// Creates the error of a member that works only while the configuration is evaluated.
fn only_configures(found: &Use, shape: Shape, members: &Members) -> Fault {
    let of = |what: &str, instead: &str| Fault::Conflict {
        wrong: format!(
            "of {what}, works only while the configuration is evaluated, and a function that runs later uses it"
        ),
        expected: instead.to_owned(),
    };
    let there: Vec<&str> =
        members.of(Kind::Member(shape)).into_iter().flatten().map(String::as_str).collect();
    let there = there.join(", ");
    match shape {
        Shape::Server => of(
            "a server",
            &format!("the console, or PATCH /api/v2/servers/ID, to change it; a function can use {there}"),
        ),
        Shape::Pool => of(
            "a pool",
            &format!("the console, or PATCH /api/v2/pools/NAME, to change it; a function can use {there}"),
        ),
        Shape::Cache => of("a packet cache", &format!("the console for it; a function can use {there}")),
        Shape::Names => of("a set of names", &format!("its use in the file; a function can use {there}")),
        Shape::Networks => {
            of("a set of networks", &format!("its use in the file; a function can use {there}"))
        }
        Shape::Query
        | Shape::Response
        | Shape::Header
        | Shape::Name
        | Shape::Address
        | Shape::Other
        | Shape::Table(_) => {
            let what = format!("an object of the configuration ({})", found.name);
            of(&what, "its use in the file: a tag or a pool tells rules what a function has found")
        }
    }
}

/// Records what was found.
fn report(
    found: &Use,
    standing: Standing,
    origin: Option<&Origin>,
    (names, members, fixed): (&Names, &Members, &Fixed<'_>),
    draft: &mut Draft,
) {
    let (chunk, line) = &found.place;
    let own = || Origin::line(chunk.strip_prefix('@').unwrap_or("(a string)"), *line);
    let origin = origin.cloned().unwrap_or_else(own);
    let unknown = |what, near: Option<&str>, otherwise: &str| Fault::Unknown {
        what,
        name: found.name.clone(),
        hint: near.map_or_else(|| otherwise.to_owned(), |near| format!("did you mean \"{near}\"?")),
    };
    let fault = match (found.kind, family(&found.name)) {
        (Kind::Ffi, _) => {
            let short = found.name.strip_prefix(FFI).unwrap_or(&found.name);
            match FFI_MISSING.iter().find(|missing| missing.names.contains(&short)) {
                Some(missing) => {
                    let what = format!("the function ({})", missing.family);
                    let fault = missing::fault(&what, missing.meanwhile);
                    draft.errors.push_once(ConfigError::new(&origin, &found.name, fault));
                    return;
                }
                None => {
                    let near = nearest(&found.name, ffi::family().into_iter());
                    unknown("function of the LuaFFI family", near, "docs/how-to/lua.md says which there are")
                }
            }
        }
        (Kind::FfiType, _) => unknown("C type", None, "docs/how-to/lua.md says which functions there are"),
        (Kind::Member(shape) | Kind::Written(shape), _)
            if configured(shape).is_some_and(|known| knows(known, &found.name)) =>
        {
            let fault = only_configures(found, shape, members);
            // A function that others call may be one that the file has called, too.
            let to = if found.when == When::Shard { &mut draft.errors } else { &mut draft.warnings };
            to.push_once(ConfigError::new(&origin, &found.name, fault));
            return;
        }
        (kind @ (Kind::Member(_) | Kind::Written(_) | Kind::Decision), _) => {
            let known = members.of(kind).into_iter().flatten().map(String::as_str);
            let near = nearest(&found.name, known);
            unknown(what_of(kind), near, "docs/how-to/lua.md says which there are")
        }
        (Kind::Fixed, _) => {
            let (table, member) = found.name.split_once('.').unwrap_or((&found.name, ""));
            let near = nearest(member, fixed.get(table).into_iter().flatten().map(String::as_str));
            let near = near.map(|near| format!("{table}.{near}"));
            let what = if LIBRARIES.contains(&table) { "function" } else { "constant" };
            unknown(what, near.as_deref(), "there is none of this name")
        }
        // Whether they are known shows behind all code.
        (Kind::Metric | Kind::Declared, _) => return,
        (Kind::Call, _) if standing == Standing::Configures => {
            let note =
                "works only while the configuration is evaluated, and a function that runs later calls it";
            let warning = ConfigError::new(&origin, &found.name, Fault::Note(note.to_owned()));
            draft.warnings.push_once(warning);
            return;
        }
        (Kind::Call, Some(family)) => {
            let fault = missing::fault(&format!("the function ({})", family.family), family.meanwhile);
            draft.errors.push_once(ConfigError::new(&origin, &found.name, fault));
            return;
        }
        (Kind::Call, None) if FOR_FUNCTIONS.contains(&&*found.name) => {
            let fault = missing::only_for_functions();
            draft.errors.push_once(ConfigError::new(&origin, &found.name, fault));
            return;
        }
        (Kind::Call, None) => {
            let known: Vec<&str> = every_name().collect();
            let near = nearest(&found.name, known.into_iter().chain(names.set.iter().map(String::as_str)));
            unknown("name", near, "neither dnslob nor this configuration defines it")
        }
    };
    draft.errors.push_once(ConfigError::new(&origin, "", fault));
}
