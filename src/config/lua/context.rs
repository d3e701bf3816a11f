//! What the Lua functions share while a file is evaluated: the draft they fill, and where the
//! running call stands.

use std::cell::RefCell;
use std::rc::Rc;

use mlua::{Function, Lua, MultiValue, Value};

use super::networks::{self, NetworkContent};
use super::sets::{self, NameContent};
use crate::config::draft::Draft;
use crate::config::error::{ConfigError, Fault, Origin};
use crate::config::ruleset::SetText;
use crate::config::snapshot::LuaFunction;
use crate::script::{File, Files};
use crate::shard::rules::names::Names;
use crate::shard::rules::networks::Networks;
use crate::tls::CaStores;

/// The draft under construction, shared by all functions; gone when the evaluation is over.
#[derive(Clone, Debug)]
pub(super) struct Context(Rc<RefCell<Option<Build>>>);

#[derive(Debug, Default)]
struct Build {
    draft: Draft,
    functions: Vec<Function>,
    texts: Files,
    objects: Objects,
    authorities: CaStores,
}

/// What has been put into the sets of the draft, in their order.
#[derive(Debug, Default)]
struct Objects {
    names: Vec<Rc<RefCell<NameContent>>>,
    networks: Vec<Rc<RefCell<NetworkContent>>>,
}

/// Members of a set in a rule itself that are its identity one by one; of more, a hash is.
const LITERALS_TOLD: usize = 20;

impl Objects {
    /// Says what the sets are called, with what is in them so far.
    fn describe(&self, draft: &mut Draft) {
        let names = draft.name_sets.iter().map(Names::key).zip(&self.names);
        for (at, (key, content)) in names.enumerate() {
            let content = Some(content.borrow().shown());
            draft.rules.texts.insert(key, SetText { identity: format!("set {}", at + 1), content });
        }
        let networks = draft.networks.iter().map(Networks::key).zip(&self.networks);
        for (at, (key, content)) in networks.enumerate() {
            let content = Some(content.borrow().shown());
            draft.rules.texts.insert(key, SetText { identity: format!("networks {}", at + 1), content });
        }
    }

    /// Fills the sets with what has been put into them.
    fn fill(&self, draft: &Draft) {
        for (set, content) in draft.name_sets.iter().zip(&self.names) {
            set.fill(content.borrow_mut().take());
        }
        for (set, content) in draft.networks.iter().zip(&self.networks) {
            set.fill(content.borrow().set());
        }
    }
}

impl Default for Context {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(Some(Build::default()))))
    }
}

/// One running call of one of our functions.
pub(super) struct Call<'a> {
    /// The Lua state.
    pub(super) lua: &'a Lua,
    /// The draft.
    pub(super) draft: &'a mut Draft,
    /// Where the call stands.
    pub(super) origin: Origin,
    /// The function called.
    pub(super) function: &'a str,
    functions: &'a mut Vec<Function>,
    objects: &'a mut Objects,
    authorities: &'a mut CaStores,
}

impl Call<'_> {
    /// A set that is filled at the end of the evaluation, and what is put into it until then.
    pub(super) fn new_names(&mut self) -> (Names, Rc<RefCell<NameContent>>) {
        let (names, content) = (Names::default(), Rc::default());
        self.draft.name_sets.push(Names::clone(&names));
        self.objects.names.push(Rc::clone(&content));
        (names, content)
    }

    /// The same for networks.
    pub(super) fn new_networks(&mut self) -> (Networks, Rc<RefCell<NetworkContent>>) {
        let (networks, content) = (Networks::default(), Rc::default());
        self.draft.networks.push(Networks::clone(&networks));
        self.objects.networks.push(Rc::clone(&content));
        (networks, content)
    }

    /// The set of names that a rule itself lists.
    pub(super) fn literal_names(&mut self, list: Vec<Vec<u8>>, quiet: bool) -> Names {
        let names = Names::default();
        let text = sets::shown(list.iter().map(Vec::as_slice).collect());
        self.draft.rules.texts.insert(names.key(), literal(text, list.len(), "names", quiet));
        names.fill(list.into_iter().collect());
        names
    }

    /// The set of networks that a rule itself lists.
    pub(super) fn literal_networks(&mut self, list: Vec<networks::Entry>, quiet: bool) -> Networks {
        let networks = Networks::default();
        let text = networks::shown(&list);
        self.draft.rules.texts.insert(networks.key(), literal(text, list.len(), "networks", quiet));
        networks.fill(networks::set_of(&list));
        networks
    }

    /// Brings up to date what the sets are called.
    pub(super) fn describe_sets(&mut self) {
        self.objects.describe(self.draft);
    }

    /// The authorities that servers' certificates are checked by; each file is read once.
    pub(super) fn authorities(&mut self) -> &mut CaStores {
        self.authorities
    }

    /// Records an error of this call; the call goes on.
    pub(super) fn fail(&mut self, fault: Fault) {
        self.draft.errors.push(ConfigError::new(&self.origin, self.function, fault));
    }

    /// Records what is odd in this call, but no error.
    pub(super) fn warn(&mut self, fault: Fault) {
        self.draft.warnings.push(ConfigError::new(&self.origin, self.function, fault));
    }

    /// Keeps a Lua function for the time after evaluation.
    pub(super) fn keep(&mut self, function: Function) -> LuaFunction {
        self.functions.push(function);
        LuaFunction(u32::try_from(self.functions.len() - 1).unwrap_or(u32::MAX))
    }
}

impl Context {
    /// Defines a global function. An error that `body` returns is recorded, and nil returned.
    pub(super) fn define<F>(&self, lua: &Lua, name: &'static str, body: F) -> mlua::Result<()>
    where
        F: Fn(&mut Call<'_>, &[Value]) -> Result<Value, Fault> + 'static,
    {
        let context = self.clone();
        let function = lua.create_function(move |lua, arguments: MultiValue| {
            let arguments: Vec<Value> = arguments.into_iter().collect();
            context.call(lua, name, |call| body(call, &arguments))
        })?;
        lua.globals().raw_set(name, function)
    }

    /// Runs the body of a function or method within the context.
    ///
    /// # Errors
    /// Once the evaluation is over.
    pub(super) fn call<F>(&self, lua: &Lua, function: &str, body: F) -> mlua::Result<Value>
    where
        F: FnOnce(&mut Call<'_>) -> Result<Value, Fault>,
    {
        // Taken already: a function of the configuration that runs within another of ours.
        let mut build = self.0.try_borrow_mut().map_err(mlua::Error::external)?;
        let Some(Build { draft, functions, objects, authorities, .. }) = build.as_mut() else {
            let message = format!("{function} can be called only while the configuration is evaluated");
            return Err(mlua::Error::runtime(message));
        };
        let mut call = Call { lua, draft, origin: caller(lua), function, functions, objects, authorities };
        Ok(body(&mut call).unwrap_or_else(|fault| {
            call.fail(fault);
            Value::Nil
        }))
    }

    /// Notes a file that is evaluated: the configuration itself, or one of a directory.
    pub(super) fn reads(&self, directory: Option<&str>, file: File) {
        let mut build = self.0.borrow_mut();
        let Some(Build { texts, .. }) = build.as_mut() else { return };
        match directory {
            None => texts.main = Some(file),
            Some(path) => match texts.directories.iter_mut().find(|(p, _)| p == path) {
                // A directory that is included twice has its files once.
                Some((_, files)) if files.iter().any(|f| f.name == file.name) => {}
                Some((_, files)) => files.push(file),
                None => texts.directories.push((path.to_owned(), vec![file])),
            },
        }
    }

    /// Ends the evaluation, and fills the sets: the draft, the functions kept, the files read.
    pub(super) fn finish(&self) -> (Draft, Vec<Function>, Files) {
        let mut build = self.0.borrow_mut().take().unwrap_or_default();
        build.objects.describe(&mut build.draft);
        build.objects.fill(&build.draft);
        (build.draft, build.functions, build.texts)
    }
}

/// What a set in a rule itself is called.
fn literal(text: String, count: usize, what: &str, quiet: bool) -> SetText {
    if count <= LITERALS_TOLD && !quiet {
        return SetText { identity: text, content: None };
    }
    let identity = format!("{count} {what} #{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()));
    SetText { identity, content: Some(format!("{count} {what}")) }
}

/// The place of the nearest Lua code on the stack: where the running function was called.
pub(super) fn caller(lua: &Lua) -> Origin {
    /// Deeper than any configuration nests its own functions.
    const LEVELS: usize = 64;
    for level in 1..LEVELS {
        let place = lua.inspect_stack(level, place);
        match place {
            Some(Some(origin)) => return origin,
            Some(None) => {}
            None => break,
        }
    }
    Origin::file("(unknown place)")
}

/// The place of a stack level; none for one that is not Lua code, or Lua code of the library
/// (whose names begin with `=`).
pub(super) fn place(debug: &mlua::Debug<'_>) -> Option<Origin> {
    let line = debug.current_line().and_then(|l| u32::try_from(l).ok())?;
    let source = debug.source().source.filter(|s| !s.starts_with('='))?.into_owned();
    Some(Origin::line(source.strip_prefix('@').unwrap_or("(a string)"), line))
}
