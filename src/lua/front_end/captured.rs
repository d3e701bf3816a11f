//! Objects of the configuration that functions which run later use: they have them in variables of
//! the file, local ones or global ones. Which these are is known once the file is evaluated.

use std::collections::{BTreeMap, BTreeSet};

use mlua::{Function, Lua, RegistryKey, Table, Value};

use crate::config::functions::enumerations::ENUMERATIONS;
use crate::lua::code::dump::{Chunk, Prototype};
use crate::lua::code::flow::{LIBRARIES, Shares};
use crate::lua::code::shape::Shape;
use crate::lua::front_end::actions::ActionObject;
use crate::lua::front_end::cache::Cache;
use crate::lua::front_end::chains::RuleObject;
use crate::lua::front_end::networks::NetworkSet;
use crate::lua::front_end::pool::{PolicyObject, PoolObject};
use crate::lua::front_end::selectors::Rule;
use crate::lua::front_end::server_object::Server;
use crate::lua::front_end::sets::NameSet;
use crate::lua::limits;

/// The most functions that are looked at, and the most values of each.
const FUNCTIONS_MAX: usize = 100_000;
const VALUES_MAX: usize = 60;
/// The most functions that wait to be looked at: Rust can hold few values.
const WAITING_MAX: usize = 1_000;

/// Where a function is: its chunk, and the line that it begins in.
pub(super) type Place = (String, u32);

/// The objects that functions have.
#[derive(Debug, Default)]
pub(super) struct Captured {
    /// Those that each function shares with the file, by their numbers.
    pub(super) shares: BTreeMap<Place, Shares>,
}

impl Captured {
    /// Finds those of functions that run later, and of the functions that these call.
    ///
    /// # Errors
    /// Those of Lua.
    pub(super) fn find(lua: &Lua, functions: Vec<RegistryKey>, chunks: &[&Chunk]) -> mlua::Result<Self> {
        let value_of = limits::upvalues(lua)?;
        let mut prototypes = BTreeMap::new();
        chunks.iter().for_each(|chunk| index(chunk, &chunk.root, &mut prototypes));
        let globals = lua.globals();
        let tables = tables(&globals);
        let (mut found, mut seen) = (Self::default(), BTreeSet::new());
        let (mut keys, mut waiting) = (functions.into_iter(), Vec::<Function>::new());
        loop {
            let Some(function) = waiting.pop().map_or_else(
                || keys.next().map(|key| lua.registry_value(&key)).transpose(),
                |function| Ok(Some(function)),
            )?
            else {
                return Ok(found);
            };
            if seen.len() >= FUNCTIONS_MAX || !seen.insert(function.to_pointer().addr()) {
                continue;
            }
            let Some(place) = place(&function) else { continue };
            let mut add = |called: Function| {
                if waiting.len() < WAITING_MAX && !seen.contains(&called.to_pointer().addr()) {
                    waiting.push(called);
                }
            };
            let mut shapes = Shares::new();
            for at in 1..=VALUES_MAX {
                let (name, value): (Option<String>, Value) = value_of.call((&function, at))?;
                if name.is_none() {
                    break;
                }
                let table = || tables.get(&value.to_pointer().addr()).map(|name| Shape::Table(name));
                shapes.push(shape(&value).or_else(table));
                value.as_function().cloned().into_iter().for_each(&mut add);
            }
            for name in prototypes.get(&(place.0.as_str(), place.1)).into_iter().flat_map(|p| p.texts()) {
                if let Ok(Value::Function(called)) = globals.raw_get(name) {
                    add(called);
                }
            }
            let known = found.shares.entry(place).or_insert_with(|| shapes.clone());
            // Functions of one place that differ.
            known
                .iter_mut()
                .zip(shapes)
                .filter(|(known, shape)| **known != *shape)
                .for_each(|(k, _)| *k = None);
        }
    }
}

/// Returns the names of the tables whose members are fixed, by their addresses.
fn tables(globals: &Table) -> BTreeMap<usize, &'static str> {
    let names = ENUMERATIONS.iter().map(|(name, _)| *name).chain(LIBRARIES);
    let table = |name: &'static str| Some((globals.raw_get::<Table>(name).ok()?.to_pointer().addr(), name));
    names.filter_map(table).collect()
}

fn place(function: &Function) -> Option<Place> {
    let info = function.info();
    let (source, line) = (info.source?, u32::try_from(info.line_defined?).ok()?);
    (!source.starts_with('=')).then_some((source, line))
}

/// Notes the functions of a chunk by their places.
fn index<'c>(chunk: &'c Chunk, of: &'c Prototype, prototypes: &mut BTreeMap<(&'c str, u32), &'c Prototype>) {
    for inner in of.functions() {
        prototypes.insert((chunk.name.as_str(), inner.first_line), inner);
        index(chunk, inner, prototypes);
    }
}

/// Returns what a value is, if functions that run later see another one in its place.
pub(super) fn shape(value: &Value) -> Option<Shape> {
    let Value::UserData(object) = value else { return None };
    Some(match object {
        _ if object.is::<Cache>() => Shape::Cache,
        _ if object.is::<PoolObject>() => Shape::Pool,
        _ if object.is::<Server>() => Shape::Server,
        _ if object.is::<NameSet>() => Shape::Names,
        _ if object.is::<NetworkSet>() => Shape::Networks,
        _ if object.is::<Rule>() || object.is::<ActionObject>() || object.is::<RuleObject>() => Shape::Other,
        _ if object.borrow::<PolicyObject>().is_ok_and(|policy| policy.is_written()) => Shape::Other,
        _ => return None,
    })
}
