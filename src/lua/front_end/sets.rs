//! Sets of names: `newSuffixMatchNode` and `newDNSNameSet`. The contents are collected while the
//! file is evaluated and converted for the shards at its end, so that rules see later additions
//! too.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use mlua::{Lua, MetaMethod, UserData, UserDataMethods, Value};

use crate::config::error::{ConfigError, Fault, Origin, counted};
use crate::config::functions::NAME_SET_METHODS;
use crate::config::value;
use crate::lua::front_end::argument::{text, wrong};
use crate::lua::front_end::arguments::items;
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::declared::{Methods, raised};
use crate::lua::front_end::packet;
use crate::lua::front_end::read_list;
use crate::lua::front_end::selectors::stand_in;
use crate::rules::names;
use crate::rules::names::Names;
use crate::wire::name::{Text, labels_of};

/// Invalid lines of a file that are reported one by one.
const WRONG_LINES_SHOWN: usize = 10;
/// Names of a set that are shown.
const NAMES_SHOWN: usize = 20;

/// The contents of a set.
#[derive(Debug, Default)]
pub(crate) struct NameContent {
    /// In lower-case wire format; empty once the set is filled.
    names: HashSet<Box<[u8]>>,
    /// Bytes of the names.
    bytes: usize,
    /// Number of names; kept when the set is filled.
    count: usize,
    /// The names are not shown.
    quiet: bool,
}

impl NameContent {
    fn add(&mut self, name: Vec<u8>) {
        let bytes = name.len();
        if self.names.insert(name.into_boxed_slice()) {
            self.bytes += bytes;
            self.count += 1;
        }
    }

    fn remove(&mut self, name: &[u8]) -> bool {
        let was = self.names.remove(name);
        if was {
            self.bytes -= name.len();
            self.count -= 1;
        }
        was
    }

    /// Returns a part of the contents, for lists of rules.
    pub(crate) fn shown(&self) -> String {
        if self.quiet || self.count > NAMES_SHOWN {
            return counted(self.count, "name");
        }
        #[expect(clippy::disallowed_methods, reason = "sorted when they are shown")]
        let names: Vec<&[u8]> = self.names.iter().map(|n| &**n).collect();
        shown(names)
    }

    /// Takes the names, sorted, to fill the set.
    pub(crate) fn take(&mut self) -> names::NameSet {
        let mut names: Vec<Vec<u8>> = std::mem::take(&mut self.names).into_iter().map(Vec::from).collect();
        // The order of a hash set is random: the same file must make the same set.
        names.sort_unstable();
        names.into_iter().collect()
    }
}

/// Formats names, sorted.
pub(crate) fn shown(mut names: Vec<&[u8]>) -> String {
    names.sort_unstable();
    let texts: Vec<String> = names.iter().map(|n| Text(n).to_string()).collect();
    texts.join(", ")
}

/// Reads one name or a list, in wire format. An empty list has none.
pub(crate) fn names(what: &str, value: &Value) -> Result<Vec<Vec<u8>>, Fault> {
    const NAMES: &str = "a domain name, or a list of them";
    if let Some(set) = value.as_userdata().and_then(|u| u.borrow::<NameSet>().ok()) {
        // The other rule takes it.
        let (made, rule) = match set.below {
            true => ("a newSuffixMatchNode", "QNameSuffixRule"),
            false => ("a newDNSNameSet", "QNameSetRule"),
        };
        return Err(Fault::value(what, made, format!("its rule, {rule}, or {NAMES}")));
    }
    let items = items(value).map_err(|_| wrong(what, value, NAMES))?;
    items.map(|item| packet::wire(what, &item?)).collect()
}

/// A set of names as a Lua object.
#[derive(Clone, Debug)]
pub(crate) struct NameSet {
    context: Context,
    /// Whether names below one of its names match too.
    below: bool,
    names: Names,
    content: Rc<RefCell<NameContent>>,
}

impl NameSet {
    /// Returns the set of a value, if it is one of `newDNSNameSet`.
    pub(crate) fn exact(value: &Value) -> Option<Names> {
        let set = value.as_userdata()?.borrow::<Self>().ok()?;
        (!set.below).then(|| set.names.clone())
    }

    /// Returns the set of a value, if it is one of `newSuffixMatchNode`.
    pub(crate) fn suffixes(value: &Value, quiet: bool) -> Option<Names> {
        let set = value.as_userdata()?.borrow::<Self>().ok()?;
        set.content.borrow_mut().quiet |= quiet;
        set.below.then(|| set.names.clone())
    }

    /// Returns the longest name of the set that equals `name` or is above it.
    fn best(&self, name: &[u8]) -> Option<Vec<u8>> {
        if let Some(set) = self.names.set() {
            return set.suffix_of(name).and_then(|at| name.get(at..)).map(<[u8]>::to_vec);
        }
        let content = self.content.borrow();
        let mut at = 0;
        for label in labels_of(name) {
            if content.names.contains(&name[at..]) {
                return Some(name[at..].to_vec());
            }
            at += 1 + label.len();
        }
        let root = content.names.contains(&[0][..]);
        root.then(|| vec![0])
    }

    fn contains(&self, name: &[u8]) -> bool {
        if self.below {
            return self.best(name).is_some();
        }
        match self.names.set() {
            Some(set) => set.contains(name),
            None => self.content.borrow().names.contains(name),
        }
    }
}

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    for (name, below) in [("newSuffixMatchNode", true), ("newDNSNameSet", false)] {
        let own = context.clone();
        context.define(lua, name, move |call, _| {
            let (names, content) = call.new_names();
            stand_in(call, Ok(NameSet { context: own.clone(), below, names, content }))
        })?;
    }
    Ok(())
}

/// A method that changes a set while the file is evaluated.
type Change = fn(&mut Call<'_>, &NameSet, &Value) -> Result<Value, Fault>;

const CHANGES: [(&str, Change); 5] = [
    ("add", |call, set, v| {
        let names = names("", v)?;
        if names.is_empty() {
            call.warn_empty_list("", "nothing is added");
        }
        let mut content = set.content.borrow_mut();
        names.into_iter().for_each(|name| content.add(name));
        Ok(Value::Nil)
    }),
    ("remove", remove),
    ("delete", remove),
    ("addFile", add_file),
    ("clear", |_, set, _| {
        let quiet = set.content.borrow().quiet;
        *set.content.borrow_mut() = NameContent { quiet, ..NameContent::default() };
        Ok(Value::Nil)
    }),
];

fn remove(_: &mut Call<'_>, set: &NameSet, v: &Value) -> Result<Value, Fault> {
    let mut content = set.content.borrow_mut();
    let count = names("", v)?.iter().filter(|name| content.remove(name)).count();
    Ok(Value::Integer(i64::try_from(count).unwrap_or(i64::MAX)))
}

/// The error of changing a set that the shards read.
pub(crate) fn in_force() -> Fault {
    Fault::Conflict {
        wrong: "changes a set that is in force".to_owned(),
        expected: "a new set in a new rule, or a change of the file and a reload".to_owned(),
    }
}

/// Adds the names of a file, one per line.
fn add_file(call: &mut Call<'_>, set: &NameSet, v: &Value) -> Result<Value, Fault> {
    let path = text("", v, "the path of a file")?;
    let bytes = read_list(&path)?;
    let (mut names, mut wrong_lines) = (Vec::new(), 0);
    for (at, line) in bytes.split(|o| *o == b'\n').enumerate() {
        let line = line.split(|o| *o == b'#').next().unwrap_or_default().trim_ascii();
        if line.is_empty() {
            continue;
        }
        let name = std::str::from_utf8(line).map_err(|_| value::ASCII_NAME).and_then(value::wire_name);
        match name {
            Ok(name) => names.push(name),
            Err(expected) => {
                wrong_lines += 1;
                if wrong_lines <= WRONG_LINES_SHOWN {
                    let origin = Origin::line(&path, u32::try_from(at + 1).unwrap_or(u32::MAX));
                    let cut: String = String::from_utf8_lossy(line).chars().take(80).collect();
                    let fault = Fault::value("", format!("\"{}\"", cut.escape_debug()), expected);
                    call.draft.errors.push(ConfigError::new(&origin, call.function, fault));
                }
            }
        }
    }
    if wrong_lines > WRONG_LINES_SHOWN {
        let more = counted(wrong_lines - WRONG_LINES_SHOWN, "further invalid line");
        let wrong = format!("{path} has {more}");
        return Err(Fault::Conflict { wrong, expected: "a domain name per line".to_owned() });
    }
    if wrong_lines == 0 {
        let mut content = set.content.borrow_mut();
        names.into_iter().for_each(|name| content.add(name));
    }
    Ok(Value::Nil)
}

impl UserData for NameSet {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let mut all = Methods::new(methods, NAME_SET_METHODS);
        for (name, change) in CHANGES {
            all.add_recorded(
                name,
                |set| &set.context,
                move |call, set, a| {
                    if set.names.set().is_some() {
                        return Err(in_force());
                    }
                    change(call, set, a.at(0))
                },
            );
        }
        // These work at any time, for check functions.
        all.add("check", |lua, set, a| {
            packet::wire("", a.at(0))
                .map(|name| set.contains(&name))
                .map_err(|fault| raised(lua, "check", &fault))
        });
        all.add("getBestMatch", |lua, set, a| {
            let name = packet::wire("", a.at(0)).map_err(|fault| raised(lua, "getBestMatch", &fault))?;
            Ok(set.best(&name).map(|best| packet::Name::new(&Text(&best).to_string())))
        });
        for name in ["len", "size"] {
            all.add(name, |_, set, _| Ok(set.content.borrow().count));
        }
        all.add("memory", |_, set, _| {
            // Once filled, the memory of the shards' set; before, that of the names.
            Ok(if set.names.is_empty() { set.content.borrow().bytes } else { set.names.bytes() })
        });
        all.add("empty", |_, set, _| Ok(set.content.borrow().count == 0));
        all.add("toString", |_, set, _| Ok(set.content.borrow().shown()));
        methods.add_meta_method(MetaMethod::ToString, |_, set, ()| Ok(set.content.borrow().shown()));
    }
}
