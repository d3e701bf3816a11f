//! The state that the Lua functions share while a file is evaluated: the draft, and the origin of
//! the running call.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mlua::{Function, Lua, MultiValue, RegistryKey, Value};

use crate::config::chains::uuids;
use crate::config::draft::Draft;
use crate::config::error::{ConfigError, Fault, Origin, counted};
use crate::config::functions::signature::Signature;
use crate::config::functions::{Entry, functions};
use crate::config::ruleset::{ChainKey, SetText, SetTexts};
use crate::config::web::{ACL_FILE, CHANGES_FILE};
use crate::lua::code::flow::When;
use crate::lua::front_end::arguments::Arguments;
use crate::lua::front_end::caught::{Before, Calls};
use crate::lua::front_end::command::Session;
use crate::lua::front_end::missing::Inert;
use crate::lua::front_end::names::Code;
use crate::lua::front_end::networks::NetworkContent;
use crate::lua::front_end::sets::NameContent;
use crate::lua::front_end::stack::caller;
use crate::lua::front_end::{networks, printing, sets};
use crate::lua::limits::is_caught;
use crate::lua::state::{File, Files};
use crate::model::LuaFunction;
use crate::rules::names::Names;
use crate::rules::networks::Networks;
use crate::rules::text::Sets;
use crate::tls::CaStores;

/// What all functions of a state share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context(pub(super) Rc<Inner>);

#[derive(Debug, Default)]
pub(super) struct Inner {
    /// The draft under construction; `None` outside of an evaluation.
    pub(super) build: RefCell<Option<Build>>,
    /// The console's command that is running.
    pub(super) session: RefCell<Option<Session>>,
}

/// A configuration under construction.
#[derive(Debug, Default)]
pub(crate) struct Build {
    /// What is written so far.
    pub(crate) draft: Draft,
    /// Functions of health checks. In the registry, which can hold any number; Rust can hold few
    /// values.
    pub(crate) functions: Vec<RegistryKey>,
    /// The files that were evaluated.
    pub(crate) texts: Files,
    /// Their code.
    pub(crate) code: Code,
    /// The calls of the file or command that is evaluated.
    pub(crate) calls: Calls,
    /// A function was called that may have changed the draft.
    pub(crate) touched: bool,
    objects: Objects,
    authorities: CaStores,
}

/// The size of what commands add to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    functions: usize,
    names: usize,
    networks: usize,
}

impl Build {
    /// Returns the size of what commands add to.
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            functions: self.functions.len(),
            names: self.objects.names.len(),
            networks: self.objects.networks.len(),
        }
    }

    /// Removes what was added since, with `draft` as it was then.
    pub(crate) fn restore(&mut self, draft: Draft, sizes: Sizes) {
        self.draft = draft;
        self.functions.truncate(sizes.functions);
        self.objects.names.truncate(sizes.names);
        self.objects.networks.truncate(sizes.networks);
    }
}

/// The contents of the draft's sets, in their order.
#[derive(Debug, Default)]
struct Objects {
    names: Vec<Rc<RefCell<NameContent>>>,
    networks: Vec<Rc<RefCell<NetworkContent>>>,
    by_key: HashMap<usize, Content>,
}

/// The contents of one set.
#[derive(Debug)]
enum Content {
    Names(Rc<RefCell<NameContent>>),
    Networks(Rc<RefCell<NetworkContent>>),
}

impl Content {
    fn shown(&self) -> String {
        match self {
            Self::Names(content) => content.borrow().shown(),
            Self::Networks(content) => content.borrow().shown(),
        }
    }
}

/// The text of sets while the file is evaluated, with their present contents.
struct PresentTexts<'a> {
    texts: &'a SetTexts,
    objects: &'a Objects,
}

impl PresentTexts<'_> {
    fn of(&self, key: usize) -> String {
        match self.objects.by_key.get(&key) {
            Some(content) => content.shown(),
            None => self.texts.shown_by_key(key),
        }
    }
}

impl Sets for PresentTexts<'_> {
    fn names(&self, names: &Names) -> String {
        self.of(names.key())
    }

    fn networks(&self, networks: &Networks) -> String {
        self.of(networks.key())
    }
}

/// The text of sets in identities of rules, those of the present evaluation too.
struct Identities<'a> {
    texts: &'a SetTexts,
    names: HashMap<usize, usize>,
    networks: HashMap<usize, usize>,
}

impl Sets for Identities<'_> {
    fn names(&self, names: &Names) -> String {
        let number = self.names.get(&names.key()).map(|at| names_identity(*at));
        number.unwrap_or_else(|| self.texts.identities().names(names))
    }

    fn networks(&self, networks: &Networks) -> String {
        let number = self.networks.get(&networks.key()).map(|at| networks_identity(*at));
        number.unwrap_or_else(|| self.texts.identities().networks(networks))
    }
}

fn names_identity(at: usize) -> String {
    format!("set {}", at + 1)
}

fn networks_identity(at: usize) -> String {
    format!("networks {}", at + 1)
}

/// Members of a literal set that form its identity; for larger sets, a hash does.
const LITERALS_MAX: usize = 20;

impl Objects {
    /// Describes the sets with their present contents.
    fn describe(&self, draft: &mut Draft) {
        // Those of earlier commands are described.
        let names = draft.name_sets.iter().zip(&self.names).enumerate();
        let new = names.filter(|(_, (set, _))| set.set().is_none()).map(|(at, (set, c))| (at, set.key(), c));
        for (at, key, content) in new {
            let content = Some(content.borrow().shown());
            draft.rules.texts.insert(key, SetText { identity: names_identity(at), content });
        }
        let networks = draft.networks.iter().zip(&self.networks).enumerate();
        let new =
            networks.filter(|(_, (set, _))| set.set().is_none()).map(|(at, (set, c))| (at, set.key(), c));
        for (at, key, content) in new {
            let content = Some(content.borrow().shown());
            draft.rules.texts.insert(key, SetText { identity: networks_identity(at), content });
        }
    }

    /// Fills the sets with their contents.
    fn fill(&self, draft: &Draft) {
        for (set, content) in draft.name_sets.iter().zip(&self.names).filter(|(set, _)| set.set().is_none()) {
            set.fill(content.borrow_mut().take());
        }
        for (set, content) in draft.networks.iter().zip(&self.networks).filter(|(set, _)| set.set().is_none())
        {
            set.fill(content.borrow().set());
        }
    }
}

/// A running call of one of our functions.
pub(crate) struct Call<'a> {
    /// The Lua state.
    pub(crate) lua: &'a Lua,
    /// The draft.
    pub(crate) draft: &'a mut Draft,
    /// The origin of the call.
    pub(crate) origin: Origin,
    /// The function called.
    pub(crate) function: &'a str,
    /// The depth of the deepest rule among its arguments.
    pub(crate) depth: u8,
    /// The code of the configuration.
    pub(crate) code: &'a mut Code,
    /// The console's command that is running.
    pub(crate) session: Option<&'a mut Session>,
    functions: &'a mut Vec<RegistryKey>,
    objects: &'a mut Objects,
    authorities: &'a mut CaStores,
}

impl Call<'_> {
    /// Creates a set of names that is filled at the end of the evaluation, and its contents until
    /// then.
    pub(crate) fn new_names(&mut self) -> (Names, Rc<RefCell<NameContent>>) {
        let (names, content) = (Names::default(), Rc::default());
        self.draft.name_sets.push(Names::clone(&names));
        self.objects.names.push(Rc::clone(&content));
        self.objects.by_key.insert(names.key(), Content::Names(Rc::clone(&content)));
        (names, content)
    }

    /// Creates the same for networks.
    pub(crate) fn new_networks(&mut self) -> (Networks, Rc<RefCell<NetworkContent>>) {
        let (networks, content) = (Networks::default(), Rc::default());
        self.draft.networks.push(Networks::clone(&networks));
        self.objects.networks.push(Rc::clone(&content));
        self.objects.by_key.insert(networks.key(), Content::Networks(Rc::clone(&content)));
        (networks, content)
    }

    /// Creates the set of names that a rule lists.
    pub(crate) fn literal_names(&mut self, list: Vec<Vec<u8>>, quiet: bool) -> Names {
        let names = Names::default();
        let text = sets::shown(list.iter().map(Vec::as_slice).collect());
        self.draft.rules.texts.insert(names.key(), literal(text, list.len(), "name", quiet));
        names.fill(list.into_iter().collect());
        names
    }

    /// Creates the set of networks that a rule lists.
    pub(crate) fn literal_networks(&mut self, list: Vec<networks::Entry>, quiet: bool) -> Networks {
        let networks = Networks::default();
        let text = networks::shown(&list);
        self.draft.rules.texts.insert(networks.key(), literal(text, list.len(), "network", quiet));
        networks.fill(networks::set_of(&list));
        networks
    }

    /// Returns the texts of sets, for display.
    pub(crate) fn sets(&self) -> impl Sets {
        PresentTexts { texts: &self.draft.rules.texts, objects: self.objects }
    }

    /// Returns the UUIDs that the rules of a chain will have, in their order.
    pub(crate) fn uuids(&self, key: ChainKey) -> Vec<[u8; 16]> {
        let numbers =
            |keys: &mut dyn Iterator<Item = usize>| keys.enumerate().map(|(at, key)| (key, at)).collect();
        let sets = Identities {
            texts: &self.draft.rules.texts,
            names: numbers(&mut self.draft.name_sets.iter().map(|set| set.key())),
            networks: numbers(&mut self.draft.networks.iter().map(|set| set.key())),
        };
        let all = uuids(&self.draft.rules, &sets);
        all.into_iter().filter(|(of, _)| *of == key).map(|(_, uuid)| uuid).collect()
    }

    /// Returns the authorities for servers' certificates; each file is read once.
    pub(crate) fn authorities(&mut self) -> &mut CaStores {
        self.authorities
    }

    /// Records an error of this call, which continues.
    pub(crate) fn fail(&mut self, fault: Fault) {
        self.draft.errors.push(ConfigError::new(&self.origin, self.function, fault));
    }

    /// Records a warning of this call.
    pub(crate) fn warn(&mut self, fault: Fault) {
        self.draft.warnings.push(ConfigError::new(&self.origin, self.function, fault));
    }

    /// Records that an option, or an argument by name, is not among the known ones. As in dnsdist,
    /// it is ignored with a warning.
    pub(crate) fn unknown<'k>(
        &mut self,
        what: &'static str,
        name: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) {
        self.warn(Fault::unknown(what, name, known.into_iter()));
    }

    /// Keeps a Lua function beyond the evaluation.
    pub(crate) fn keep(&mut self, function: Function) -> Result<LuaFunction, Fault> {
        self.code.function(self.lua, &function, When::Check)?;
        self.functions.push(self.lua.create_registry_value(function)?);
        Ok(LuaFunction(u32::try_from(self.functions.len() - 1).unwrap_or(u32::MAX)))
    }
}

impl Context {
    /// Defines a global function of the tables. An error of `body` is recorded, and nil returned.
    pub(crate) fn define<F>(&self, lua: &Lua, name: &'static str, body: F) -> mlua::Result<()>
    where
        F: Fn(&mut Call<'_>, Arguments<'_>) -> Result<Value, Fault> + 'static,
    {
        self.define_entry(lua, entry(name)?, body)
    }

    /// Defines the global function of an entry.
    pub(crate) fn define_entry<F>(&self, lua: &Lua, entry: &'static Entry, body: F) -> mlua::Result<()>
    where
        F: Fn(&mut Call<'_>, Arguments<'_>) -> Result<Value, Fault> + 'static,
    {
        self.define_as(lua, entry.name, entry.signature(), entry.form(), body)
    }

    /// Defines a global function with this signature, which messages show as `form`. Surplus
    /// arguments are recorded; the result then accepts any further use.
    pub(crate) fn define_as<F>(
        &self,
        lua: &Lua,
        name: &'static str,
        signature: Signature,
        form: Cow<'static, str>,
        body: F,
    ) -> mlua::Result<()>
    where
        F: Fn(&mut Call<'_>, Arguments<'_>) -> Result<Value, Fault> + 'static,
    {
        let context = self.clone();
        let function = bounded(lua, name, move |lua, values| {
            let arguments = Arguments::new(signature, values);
            context.call(lua, name, |call| match arguments.surplus(&form) {
                Some(fault) => {
                    call.fail(fault);
                    Ok(Value::UserData(call.lua.create_userdata(Inert)?))
                }
                None => body(call, arguments),
            })
        })?;
        lua.globals().raw_set(name, function)
    }

    /// Defines a global function of any number of arguments.
    pub(crate) fn define_any<F>(&self, lua: &Lua, name: &'static str, body: F) -> mlua::Result<()>
    where
        F: Fn(&mut Call<'_>, &[Value]) -> Result<Value, Fault> + 'static,
    {
        let context = self.clone();
        let function =
            bounded(lua, name, move |lua, values| context.call(lua, name, |call| body(call, values)))?;
        lua.globals().raw_set(name, function)
    }

    /// Defines the global function of an entry that prints what `body` returns.
    pub(crate) fn define_printing<F>(&self, lua: &Lua, entry: &'static Entry, body: F) -> mlua::Result<()>
    where
        F: Fn(&mut Call<'_>, Arguments<'_>) -> Result<String, Fault> + 'static,
    {
        let own = self.clone();
        let function = bounded(lua, entry.name, move |lua, values| {
            let arguments = Arguments::new(entry.signature(), values);
            let text = own.call(lua, entry.name, |call| {
                if let Some(fault) = arguments.surplus(entry.arguments) {
                    return Err(fault);
                }
                let text = body(call, arguments)?;
                Ok(Value::String(call.lua.create_string(text.trim_end())?))
            })?;
            printing::print(&own, lua, text)
        })?;
        lua.globals().raw_set(entry.name, function)
    }

    /// Runs the body of a function or method within the context.
    ///
    /// # Errors
    /// After the evaluation.
    pub(crate) fn call<F>(&self, lua: &Lua, function: &str, body: F) -> mlua::Result<Value>
    where
        F: FnOnce(&mut Call<'_>) -> Result<Value, Fault>,
    {
        self.run(lua, function, !is_reading(function), body)
    }

    /// Does the same with a body that changes nothing.
    ///
    /// # Errors
    /// After the evaluation.
    pub(crate) fn look<F>(&self, lua: &Lua, function: &str, body: F) -> mlua::Result<Value>
    where
        F: FnOnce(&mut Call<'_>) -> Result<Value, Fault>,
    {
        self.run(lua, function, false, body)
    }

    fn run<F>(&self, lua: &Lua, function: &str, touches: bool, body: F) -> mlua::Result<Value>
    where
        F: FnOnce(&mut Call<'_>) -> Result<Value, Fault>,
    {
        // Already borrowed: a function of the configuration runs within another call of ours.
        let mut build = self.0.build.try_borrow_mut().map_err(mlua::Error::external)?;
        let Some(build) = build.as_mut() else {
            let message = format!("{function} can be called only while the configuration is evaluated");
            return Err(mlua::Error::runtime(message));
        };
        let Build { draft, functions, objects, authorities, code, touched, calls, texts } = build;
        *touched |= touches;
        let number = calls.number(function);
        let before = Before::of(draft);
        let mut session = self.0.session.borrow_mut();
        let (session, origin) = (session.as_mut(), caller(lua));
        let mut call =
            Call { lua, draft, origin, function, depth: 0, code, session, functions, objects, authorities };
        let value = body(&mut call).unwrap_or_else(|fault| {
            call.fail(fault);
            Value::Nil
        });
        let Call { origin, draft, objects, .. } = call;
        if !before.has_failed(draft) || !is_caught(lua) {
            return Ok(value);
        }
        let error = before.undo(draft, &origin, function);
        objects.names.truncate(draft.name_sets.len());
        objects.networks.truncate(draft.networks.len());
        texts.raised.push(calls.raised(function, number, &error));
        Err(mlua::Error::external(error))
    }

    /// Begins an evaluation that adds to `build`, of a console's command if there is a session.
    pub(crate) fn begin(&self, build: Build, session: Option<Session>) {
        self.0.build.replace(Some(build));
        self.0.session.replace(session);
    }

    /// Ends the console's command.
    pub(crate) fn take_session(&self) -> Option<Session> {
        self.0.session.take()
    }

    /// Adds a line to the output of the running command; returns whether there is one.
    pub(crate) fn prints(&self, line: &[u8]) -> bool {
        // Already borrowed: within another call of ours, which prints nothing itself.
        let Ok(mut session) = self.0.session.try_borrow_mut() else { return false };
        session.as_mut().map(|session| session.print(line)).is_some()
    }

    /// Records a file that is evaluated: the configuration itself, or one of a directory.
    pub(crate) fn reads(&self, directory: Option<&str>, file: File) {
        let mut build = self.0.build.borrow_mut();
        let Some(Build { texts, calls, .. }) = build.as_mut() else { return };
        match directory {
            None => {
                calls.enter(&file.name);
                texts.main = Some(file);
            }
            Some(path) => match texts.directories.iter_mut().find(|(p, _)| p == path) {
                // A directory that is included twice has its files listed once.
                Some((_, files)) if files.iter().any(|f| f.name == file.name) => {}
                Some((_, files)) => files.push(file),
                None => texts.directories.push((path.to_owned(), vec![file])),
            },
        }
    }

    /// Records a file that the API has written, which is evaluated after the configuration.
    pub(crate) fn reads_kept(&self, file: File) {
        if let Some(Build { texts, calls, .. }) = self.0.build.borrow_mut().as_mut() {
            calls.enter(&file.name);
            texts.commands.push(file);
        }
    }

    /// Returns the files that the API may have written and nothing has read yet.
    pub(crate) fn kept_files(&self) -> Vec<PathBuf> {
        let build = self.0.build.borrow();
        let Some(Build { draft, texts, .. }) = build.as_ref() else { return Vec::new() };
        let Some(directory) = draft.web.directory.as_ref().filter(|_| draft.web.writable) else {
            return Vec::new();
        };
        let read = texts.directories.iter().flat_map(|(_, files)| files);
        let read: Vec<PathBuf> = read.filter_map(|file| Path::new(&file.name).canonicalize().ok()).collect();
        let files = [ACL_FILE, CHANGES_FILE].map(|name| directory.join(name));
        // One that does not exist has not been written yet.
        let is_new = |path: &PathBuf| path.canonicalize().is_ok_and(|path| !read.contains(&path));
        files.into_iter().filter(is_new).collect()
    }

    /// Keeps the code of a file that is evaluated.
    pub(crate) fn has_code(&self, chunk: &Function) {
        if let Some(Build { code, .. }) = self.0.build.borrow_mut().as_mut() {
            code.file(chunk);
        }
    }

    /// Ends the evaluation and fills the sets. Returns all that was built.
    pub(crate) fn finish(&self) -> Build {
        let mut build = self.0.build.borrow_mut().take().unwrap_or_default();
        build.objects.describe(&mut build.draft);
        build.objects.fill(&build.draft);
        build.objects.by_key.clear();
        build
    }
}

/// Returns whether a function only reads, by its name.
fn is_reading(function: &str) -> bool {
    const BEGINNINGS: [&str; 9] = ["show", "get", "top", "dump", "is", "has", "purge", "expunge", "print"];
    const NAMES: [&str; 13] = [
        "benchRule",
        "clearQueryCounters",
        "delta",
        "grepq",
        "help",
        "reload",
        "shutdown",
        "makeKey",
        "toString",
        "testCrypto",
        "clearConsoleHistory",
        "requestTCPStatesDump",
        "statNodeRespRing",
    ];
    BEGINNINGS.iter().any(|begin| function.starts_with(begin)) || NAMES.contains(&function)
}

/// Returns the entry of a function.
pub(crate) fn entry(name: &str) -> mlua::Result<&'static Entry> {
    let found = functions().find(|e| e.name == name);
    found.ok_or_else(|| mlua::Error::runtime(format!("the function {name} is in no table")))
}

/// Creates a function of any number of arguments. Excessive numbers are refused within Lua: each
/// would be a value that Rust holds.
pub(crate) fn bounded<F>(lua: &Lua, name: &'static str, body: F) -> mlua::Result<Function>
where
    F: Fn(&Lua, &[Value]) -> mlua::Result<Value> + 'static,
{
    const BOUND: &str = "dnslob.bound";
    let bound = match lua.named_registry_value::<Option<Function>>(BOUND)? {
        Some(bound) => bound,
        None => {
            // Chunk names that begin with "=" are no origins of calls.
            let bound: Function = lua.load(include_str!("bound.lua")).set_name("=bound").eval()?;
            lua.set_named_registry_value(BOUND, &bound)?;
            bound
        }
    };
    let function = lua.create_function(move |lua, arguments: MultiValue| {
        let arguments: Vec<Value> = arguments.into_iter().collect();
        body(lua, &arguments)
    })?;
    bound.call((name, function))
}

/// Returns the text of a literal set.
fn literal(text: String, count: usize, what: &str, quiet: bool) -> SetText {
    if count <= LITERALS_MAX && !quiet {
        return SetText { identity: text, content: None };
    }
    // Always in the plural: the UUIDs of rules are derived from it.
    let identity = format!("{count} {what}s #{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()));
    SetText { identity, content: Some(counted(count, what)) }
}
