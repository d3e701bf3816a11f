//! Which global names code reads, and which ones it sets.

use std::collections::{BTreeMap, BTreeSet};

use crate::lua::code::dump::{Chunk, Prototype};
use crate::lua::code::op;

/// Functions after which names cannot be followed.
const OPAQUE: [&str; 3] = ["setfenv", "getfenv", "module"];
/// Functions that run code which is not seen.
const CODE: [&str; 4] = ["load", "loadstring", "loadfile", "dofile"];

/// Functions that change the members of a table.
const CHANGES: [&str; 2] = ["rawset", "setmetatable"];

/// The global names of some code.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Those that it may read.
    pub(crate) read: BTreeSet<String>,
    /// Those that it sets.
    pub(crate) set: BTreeSet<String>,
    /// Those of them that functions set, which run later.
    pub(crate) set_later: BTreeSet<String>,
    /// It may set others, too.
    pub(crate) is_opaque: bool,
}

impl Names {
    /// Adds those of a chunk.
    pub(crate) fn add(&mut self, chunk: &Chunk) {
        self.add_function(&chunk.root, true);
    }

    fn add_function(&mut self, function: &Prototype, is_root: bool) {
        // The register that holds the table of all names, until an instruction uses it.
        let mut table: Option<u8> = None;
        // The names that registers have got last.
        let mut got = BTreeMap::new();
        for (i, _) in &function.instructions {
            // A table that gets members which are not seen.
            let changed = match i.op {
                op::TSETV => got.get(&i.b),
                op::CALL if got.get(&i.a).is_some_and(|name| CHANGES.contains(name)) => {
                    got.get(&i.a.saturating_add(2))
                }
                _ => None,
            };
            self.set.extend(changed.map(|name: &&str| (*name).to_owned()));
            match i.op {
                op::GGET => {
                    let Some(name) = function.text(i.d()) else { continue };
                    // Replaced without a use that is understood.
                    self.is_opaque |= table.is_some_and(|t| t == i.a);
                    table = table.filter(|t| *t != i.a);
                    self.is_opaque |= OPAQUE.contains(&name) || !is_root && CODE.contains(&name);
                    if name == "_G" {
                        self.is_opaque |= table.replace(i.a).is_some();
                    }
                    self.read.insert(name.to_owned());
                    got.insert(i.a, name);
                }
                op::GSET => {
                    self.set.extend(function.text(i.d()).map(str::to_owned));
                    self.set_later.extend(function.text(i.d()).filter(|_| !is_root).map(str::to_owned));
                }
                op::TGETS if table == Some(i.b) => {
                    self.read.extend(function.text(i.c.into()).map(str::to_owned));
                    table = None;
                }
                op::TSETS => {
                    // Any table may be that of all names: it may have another name.
                    self.set.extend(function.text(i.c.into()).map(str::to_owned));
                    table = table.filter(|t| *t != i.b);
                }
                // What the configuration itself does has been done.
                op::TSETV | op::TGETV if table == Some(i.b) && is_root => table = None,
                op::CALL | op::CALLM if is_root && table.is_some_and(|t| t > i.a) => table = None,
                _ => {}
            }
        }
        self.is_opaque |= table.is_some();
        function.functions().for_each(|f| self.add_function(f, false));
    }
}
