//! Which global names a function uses where, and which members of the objects that it gets, as far as
//! it gets there.
//!
//! ```text
//!  if newThing then newThing() end         newThing is not there: the call is not reached
//!  if not dnslob then newPool() end        nor is this one
//!  pcall(function() newThing() end)        errors are expected, as in a coroutine
//! ```
//!
//! Registers are followed from instruction to instruction as long as they hold a global name's
//! value; where two ways meet, what differs is forgotten. A test of a known value has one outcome.

use std::collections::{BTreeMap, BTreeSet};

use crate::lua::code::dump::{Chunk, Instruction, Prototype};
use crate::lua::code::op;
use crate::lua::code::shape::Shape;

/// Returns the lines in which a function ends by the call of another one.
pub(crate) fn tail_calls(function: &Prototype) -> impl Iterator<Item = u32> {
    let ends = |op: u8| matches!(op, op::CALLMT | op::CALLT);
    function.instructions.iter().filter(move |(i, _)| ends(i.op)).map(|(_, line)| *line)
}

/// Returns in how many places a function ends.
pub(crate) fn ends(function: &Prototype) -> usize {
    let ends = |op: u8| matches!(op, op::CALLMT | op::CALLT | op::RETM | op::RET | op::RET0 | op::RET1);
    function.instructions.iter().filter(|(i, _)| ends(i.op)).count()
}

/// What is known of a global name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is a function or table.
    There,
    /// It may be anything.
    Open,
    /// It is nil.
    Lacking,
    /// It is a function that works only while the configuration is evaluated.
    Configures,
}

/// When a function runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum When {
    /// That cannot be seen: the configuration, or what runs later, may call it.
    Unknown,
    /// A shard calls it.
    Shard,
    /// A health check calls it.
    Check,
}

/// A use of a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Use {
    /// The name of the chunk, and the line.
    pub(crate) place: (String, u32),
    /// The name.
    pub(crate) name: String,
    /// What is done with it.
    pub(crate) kind: Kind,
    /// When.
    pub(crate) when: When,
}

/// What is done with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// It is called, or a member of it is accessed.
    Call,
    /// It is a function of the LuaFFI family.
    Ffi,
    /// It is a text that reads as a type of that family.
    FfiType,
    /// It is a member of such an object, which is read.
    Member(Shape),
    /// It is a member of such an object, which is written.
    Written(Shape),
    /// It is one of the decisions of a function (`DNSAction`).
    Decision,
    /// It is a member of a table whose members are fixed (`DNSQType.A`, `string.format`).
    Fixed,
    /// It is the metric that a function changes or reads.
    Metric,
    /// It is a metric that a function declares; empty for one whose name is not known.
    Declared,
}

/// The tables of decisions.
pub(crate) const DECISIONS: [&str; 2] = ["DNSAction", "DNSResponseAction"];

/// The tables of Lua itself.
pub(crate) const LIBRARIES: [&str; 9] =
    ["bit", "coroutine", "debug", "io", "jit", "math", "os", "string", "table"];

/// Functions that return objects of the configuration at any time.
const MAKERS: [(&str, Shape); 2] = [("getPool", Shape::Pool), ("getServer", Shape::Server)];
/// Those that return lists of them, and those that go through a list.
const LISTS: [(&str, Shape); 2] = [("getPoolServers", Shape::Server), ("getServers", Shape::Server)];
const GO_THROUGH: [&str; 2] = ["ipairs", "pairs"];

/// The function that declares a metric, and those that change or read one.
pub(crate) const DECLARES: &str = "declareMetric";
pub(crate) const METRICS: [&str; 5] = ["incMetric", "decMetric", "setMetric", "observeMetric", "getMetric"];

/// How the names of functions of the LuaFFI family begin.
pub(crate) const FFI: &str = "dnsdist_ffi_";
/// The object that the function at a place (chunk, first line) gets, and as which of its arguments.
pub(crate) type Takes<'w> = &'w dyn Fn(&str, u32) -> Option<(u8, Shape)>;

/// Finds the uses of names in a chunk that are not there; of functions that shards call, those of
/// names that work only while the configuration is evaluated, too.
pub(crate) struct Walk<'w> {
    /// What is known of a name, for a function that runs then.
    pub(crate) standing: &'w dyn Fn(&str, When) -> Standing,
    /// Whether an object lacks a member, or a member that can be written, or the LuaFFI family a name.
    pub(crate) lacks: &'w dyn Fn(Kind, &str) -> bool,
    /// Whether a table whose members are fixed lacks one.
    pub(crate) table_lacks: &'w dyn Fn(&str, &str) -> bool,
    /// When the function at a place (chunk, first line) runs.
    pub(crate) when: &'w dyn Fn(&str, u32) -> When,
    /// The object that the function at a place gets, and as which of its arguments, from 0.
    pub(crate) takes: Takes<'w>,
    /// The object of the configuration that a global name has.
    pub(crate) global: &'w dyn Fn(&str) -> Option<Shape>,
    /// The objects that the function at a place shares with the configuration, by their numbers; none
    /// of a function that is not known to run later.
    pub(crate) shares: &'w dyn Fn(&str, u32) -> Option<Shares>,
    /// What was found.
    pub(crate) found: BTreeSet<Use>,
}

/// The objects that a function shares with others, by their numbers.
pub(crate) type Shares = Vec<Option<Shape>>;

/// What a register holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Held<'c> {
    /// The value of a global name.
    Global(&'c str),
    /// A member that a table with fixed members lacks: nil.
    Lacking(&'c str, &'c str),
    /// The same on one of the ways that have met, where nothing has asked for it since.
    Perhaps(&'c str, &'c str),
    /// The type of the value of a global name, as text; of none, that of nil.
    TypeOf(Option<&'c str>),
    /// The function of a constant.
    Function(usize),
    /// A function that keeps the errors of what it is given from whoever calls that.
    Catches,
    /// A text.
    Text(&'c str),
    /// A function that returns an object of ours.
    Gives(Shape),
    /// An object of ours.
    Object(Shape),
    /// A list of such.
    List(Shape),
    /// A function that goes through such a list.
    GoesThrough(Shape),
}

type Registers<'c> = BTreeMap<u8, Held<'c>>;

impl Walk<'_> {
    /// Walks through the functions of a chunk; `within` says that its outermost function is one of
    /// the configuration, not the file, and when it runs.
    pub(crate) fn chunk(&mut self, chunk: &Chunk, within: Option<When>) {
        let when = within.unwrap_or(When::Unknown);
        self.function(&chunk.name, &chunk.root, (when, None), within.is_some());
    }

    /// Walks through one function; of a file itself, only what is in its functions is noted: it has
    /// run. `shares`: the objects that it shares; none if it is not known to run later.
    fn function(
        &mut self,
        chunk: &str,
        function: &Prototype,
        (when, shares): (When, Option<&Shares>),
        noted: bool,
    ) {
        let mut own_shares = (self.shares)(chunk, function.first_line).filter(|_| noted);
        // What is replaced later may be anything.
        for at in sets(function) {
            own_shares.iter_mut().filter_map(|shares| shares.get_mut(at)).for_each(|shape| *shape = None);
        }
        let shares = own_shares.as_ref().or(shares);
        // The registers at the beginnings of pieces of code, and those that are to be done.
        let taken = (self.takes)(chunk, function.first_line);
        let begins = taken.map(|(register, shape)| (register, Held::Object(shape))).into_iter().collect();
        let mut known: BTreeMap<usize, Registers<'_>> = BTreeMap::from([(0, begins)]);
        let mut waiting = BTreeSet::from([0]);
        let starts = starts(function);
        let targets = targets(function);
        let (mut within, mut guarded) = (BTreeSet::new(), BTreeSet::new());
        while let Some(start) = waiting.pop_first() {
            let mut registers = known.get(&start).cloned().unwrap_or_default();
            let mut at = start;
            while let Some((i, line)) = function.instructions.get(at) {
                if noted {
                    let place = (chunk, *line, targets.contains(&(at + 2)));
                    self.note(place, function, *i, &registers, when);
                }
                if let Some(Held::Function(of)) = pcalled(*i, &registers) {
                    guarded.insert(*of);
                }
                if i.op == op::FNEW {
                    within.insert(i.d());
                }
                let next = self.next(function, at, *i, &registers, when);
                self.step(function, *i, &mut registers, shares);
                if let [only] = next[..]
                    && only == at + 1
                    && !starts.contains(&only)
                {
                    at = only;
                    continue;
                }
                for to in next {
                    let met = known.get(&to);
                    let joined = match met {
                        None => registers.clone(),
                        Some(met) => joined(met, &registers),
                    };
                    if met != Some(&joined) {
                        known.insert(to, joined);
                        waiting.insert(to);
                    }
                }
                break;
            }
        }
        for inner in within.difference(&guarded).filter_map(|at| function.function(*at)) {
            let own = (self.when)(chunk, inner.first_line);
            let when = if own == When::Unknown { when } else { own };
            let passed: Option<Shares> = shares
                .map(|shares| inner.outer().map(|outer| shares.get(outer?).copied().flatten()).collect());
            self.function(chunk, inner, (when, passed.as_ref()), true);
        }
    }

    /// Notes what an instruction does with a name that is not there. `is_target`: what follows it and a
    /// jump is where another jump leads.
    fn note(
        &mut self,
        (chunk, line, is_target): (&str, u32, bool),
        function: &Prototype,
        i: Instruction,
        registers: &Registers<'_>,
        when: When,
    ) {
        let mut add = |name: &str, kind| {
            let place = (chunk.to_owned(), line);
            self.found.insert(Use { place, name: name.to_owned(), kind, when });
        };
        for (_, held) in registers.iter().filter(|(register, _)| needs(i, **register, registers)) {
            if let Held::Lacking(table, member) | Held::Perhaps(table, member) = held
                && !LIBRARIES.contains(table)
            {
                add(&format!("{table}.{member}"), Kind::Fixed);
            }
        }
        // In `x and DNSQType.A or y` it is no question whether there is one, as in `DNSQType.A or y`.
        if is_target
            && matches!(i.op, op::IST | op::ISTC)
            && let Some(Held::Lacking(table, member)) =
                u8::try_from(i.d()).ok().and_then(|second| registers.get(&second))
            && !LIBRARIES.contains(table)
        {
            add(&format!("{table}.{member}"), Kind::Fixed);
        }
        let (text, kind) = match i.op {
            op::TGETS => (function.text(i.c.into()), Kind::Ffi),
            op::KSTR => (function.text(i.d()), Kind::FfiType),
            _ => (None, Kind::Ffi),
        };
        if let Some(text) = text.filter(|text| text.contains(FFI) && (self.lacks)(kind, text)) {
            add(text, kind);
        }
        let (register, is_call) = match i.op {
            op::CALLM..=op::CALLT => (i.a, true),
            op::TGETV..=op::TGETR | op::TSETV..=op::TSETB => (i.b, false),
            _ => return,
        };
        let accessed = function.text(i.c.into()).filter(|_| matches!(i.op, op::TGETS | op::TSETS));
        match (registers.get(&register), accessed) {
            (Some(Held::Object(shape)), Some(member)) => {
                let kind = if i.op == op::TGETS { Kind::Member(*shape) } else { Kind::Written(*shape) };
                if (self.lacks)(kind, member) {
                    add(member, kind);
                }
            }
            (Some(Held::Global(table)), Some(member)) if i.op == op::TGETS && DECISIONS.contains(table) => {
                let is_ours = (self.standing)(table, when) == Standing::There;
                if is_ours && (self.lacks)(Kind::Decision, member) {
                    add(member, Kind::Decision);
                }
            }
            _ => {}
        }
        if is_call && let Some((name, kind)) = metric(i, registers) {
            add(name, kind);
        }
        if let Some(Held::Lacking(table, member)) = registers.get(&register) {
            add(&format!("{table}.{member}"), Kind::Fixed);
        }
        if let Some(Held::Global(name)) = registers.get(&register) {
            match (self.standing)(name, when) {
                Standing::Lacking => add(name, Kind::Call),
                Standing::Configures if is_call => add(name, Kind::Call),
                Standing::Configures | Standing::There | Standing::Open => {}
            }
        }
    }

    /// Returns the instructions that may follow one.
    fn next(
        &self,
        function: &Prototype,
        at: usize,
        i: Instruction,
        registers: &Registers<'_>,
        when: When,
    ) -> Vec<usize> {
        match i.op {
            // A comparison, and the jump that it decides about.
            0..=op::ISF => {
                let jump = function.instructions.get(at + 1).and_then(|(jump, _)| target(at + 1, *jump));
                match (self.outcome(function, i, registers, when), jump) {
                    (Some(true), Some(to)) => vec![to],
                    (Some(false), _) => vec![at + 2],
                    (_, to) => to.into_iter().chain([at + 2]).collect(),
                }
            }
            op::JMP | op::UCLO | op::ISNEXT => target(at, i).into_iter().collect(),
            op::FORI | op::FORL | op::ITERL => target(at, i).into_iter().chain([at + 1]).collect(),
            op::CALLMT | op::CALLT | op::RETM..=op::RET1 => Vec::new(),
            _ => vec![at + 1],
        }
    }

    /// Returns whether a comparison is true, if that is known.
    fn outcome(
        &self,
        function: &Prototype,
        i: Instruction,
        registers: &Registers<'_>,
        when: When,
    ) -> Option<bool> {
        let standing = |register: u8| match registers.get(&register)? {
            Held::Global(name) => Some((self.standing)(name, when)),
            Held::Lacking(..) => Some(Standing::Lacking),
            Held::Catches => Some(Standing::There),
            Held::Perhaps(..) | Held::TypeOf(_) | Held::Function(_) | Held::Text(_) | Held::Gives(_) => None,
            Held::Object(_) | Held::List(_) | Held::GoesThrough(_) => None,
        };
        let is_nil = |register| match standing(register)? {
            Standing::There => Some(false),
            Standing::Lacking => Some(true),
            Standing::Open | Standing::Configures => None,
        };
        // Beyond the range of registers there is none.
        let second = u8::try_from(i.d()).unwrap_or(u8::MAX);
        match i.op {
            op::IST | op::ISTC => Some(!is_nil(second)?),
            op::ISF | op::ISFC => is_nil(second),
            // With nil, false or true.
            op::ISEQP | op::ISNEP => {
                let equal = match (is_nil(i.a)?, i.d()) {
                    (is_nil, 0) => is_nil,
                    (false, 2) => return None,
                    _ => false,
                };
                Some(equal == (i.op == op::ISEQP))
            }
            op::ISEQS | op::ISNES => {
                let Held::TypeOf(name) = registers.get(&i.a)? else { return None };
                let is_lacking = name.is_none_or(|name| (self.standing)(name, when) == Standing::Lacking);
                is_lacking.then_some((function.text(i.d())? == "nil") == (i.op == op::ISEQS))
            }
            _ => None,
        }
    }

    /// Changes the registers as an instruction does.
    fn step<'c>(
        &self,
        function: &'c Prototype,
        i: Instruction,
        registers: &mut Registers<'c>,
        shares: Option<&Shares>,
    ) {
        let held = match i.op {
            op::MOV => u8::try_from(i.d()).ok().and_then(|from| registers.get(&from).cloned()),
            op::GGET => function.text(i.d()).map(|name| {
                let object = shares.and_then(|_| (self.global)(name));
                object.map_or(Held::Global(name), Held::Object)
            }),
            op::UGET => shares.and_then(|shares| *shares.get(i.d())?).map(|shape| {
                if let Shape::Table(name) = shape { Held::Global(name) } else { Held::Object(shape) }
            }),
            op::FNEW => Some(Held::Function(i.d())),
            op::KSTR => function.text(i.d()).map(Held::Text),
            op::TGETS => match registers.get(&i.b) {
                Some(Held::Global("_G")) => function.text(i.c.into()).map(Held::Global),
                Some(Held::Global("coroutine"))
                    if matches!(function.text(i.c.into()), Some("create" | "wrap")) =>
                {
                    Some(Held::Catches)
                }
                Some(Held::Global(table)) => function
                    .text(i.c.into())
                    .filter(|member| (self.table_lacks)(table, member))
                    .map(|member| Held::Lacking(table, member)),
                Some(Held::Object(shape)) => function.text(i.c.into()).and_then(|name| {
                    let member = shape.member(name).map(Held::Object);
                    member.or_else(|| shape.returned(name).map(Held::Gives))
                }),
                _ => None,
            },
            op::TGETV | op::TGETB => match registers.get(&i.b) {
                Some(Held::List(shape)) => Some(Held::Object(*shape)),
                _ => None,
            },
            op::CALL | op::CALLM => match (registers.get(&i.a), registers.get(&i.a.saturating_add(2))) {
                (Some(Held::Global(name)), Some(Held::List(shape))) if GO_THROUGH.contains(name) => {
                    Some(Held::GoesThrough(*shape))
                }
                (Some(Held::Global(name)), _) if shares.is_some() && made(&LISTS, name).is_some() => {
                    made(&LISTS, name).map(Held::List)
                }
                // With one argument.
                (Some(Held::Global("type")), Some(Held::Global(name))) if i.c == 2 => {
                    Some(Held::TypeOf(Some(name)))
                }
                (Some(Held::Global("type")), Some(Held::Lacking(..))) if i.c == 2 => Some(Held::TypeOf(None)),
                // With one result.
                (Some(Held::Gives(shape)), _) if i.b == 2 => Some(Held::Object(*shape)),
                (Some(Held::Global(name)), _) if i.b == 2 && shares.is_some() => {
                    made(&MAKERS, name).map(Held::Object)
                }
                _ => None,
            },
            _ => None,
        };
        // Who asks for it, or for its type, knows that it may be nil, in whichever register it is.
        let asked = match i.op {
            op::ISTC | op::ISFC | op::IST | op::ISF => u8::try_from(i.d()).ok(),
            op::ISEQP | op::ISNEP => Some(i.a),
            op::CALL if matches!(registers.get(&i.a), Some(Held::Global("type"))) => i.a.checked_add(2),
            _ => None,
        };
        if let Some(perhaps @ Held::Perhaps(..)) =
            asked.and_then(|register| registers.get(&register).cloned())
        {
            registers.retain(|_, held| *held != perhaps);
        }
        // What a loop gets of a list: its number, and the object.
        let member = match (i.op, registers.get(&i.a.saturating_sub(3))) {
            (op::ITERC | op::ITERN, Some(Held::GoesThrough(shape))) => Some((i.a.saturating_add(1), *shape)),
            _ => None,
        };
        let first_of_many = match i.op {
            op::CALLM | op::CALL | op::ITERC | op::ITERN | op::VARG | op::FORI | op::FORL => Some(i.a),
            op::CAT => Some(i.a.min(i.b)),
            op::KNIL => Some(i.a),
            _ => None,
        };
        if let Some(first) = first_of_many {
            registers.split_off(&first);
        }
        let one = matches!(i.op, op::ISTC | op::ISFC | op::MOV..=op::KPRI | op::UGET)
            || matches!(i.op, op::FNEW..=op::GGET | op::TGETV..=op::TGETR);
        if one {
            registers.remove(&i.a);
        }
        if i.op == op::ITERL {
            registers.remove(&i.a.saturating_sub(1));
        }
        if let Some((register, shape)) = member {
            registers.insert(register, Held::Object(shape));
        }
        if let Some(held) = held {
            registers.insert(i.a, held);
        }
    }
}

/// Returns the metric that a call is about, and how: of a change only one whose name is written there.
fn metric<'c>(i: Instruction, registers: &Registers<'c>) -> Option<(&'c str, Kind)> {
    let Some(Held::Global(function)) = registers.get(&i.a) else { return None };
    let name = match registers.get(&i.a.checked_add(2)?) {
        Some(Held::Text(name)) => Some(*name),
        _ => None,
    };
    match *function {
        DECLARES => Some((name.unwrap_or_default(), Kind::Declared)),
        function if METRICS.contains(&function) => Some((name?, Kind::Metric)),
        _ => None,
    }
}

/// Returns what a function of such a list makes.
fn made(makers: &[(&str, Shape)], function: &str) -> Option<Shape> {
    makers.iter().find(|(maker, _)| *maker == function).map(|(_, shape)| *shape)
}

/// Returns whether an instruction does something with the value of a register, which does not ask
/// whether there is one: compares it, calculates, stores it, passes it on.
fn needs(i: Instruction, register: u8, registers: &Registers<'_>) -> bool {
    let second = u8::try_from(i.d()).ok() == Some(register);
    match i.op {
        0..=op::ISNEV => i.a == register || second,
        op::ISEQS..=op::ISNEN | op::RET1 => i.a == register,
        op::ADDVN..=op::MODNV => i.b == register,
        op::ADDVV..=op::POW => i.b == register || i.c == register,
        op::CAT => (i.b..=i.c).contains(&register),
        op::USETV => second,
        op::TGETV => i.c == register,
        op::TSETV => i.a == register || i.c == register,
        op::TSETS | op::TSETB => i.a == register,
        op::CALL..=op::CALLT if matches!(registers.get(&i.a), Some(Held::Global("type"))) => false,
        // Its arguments follow it and a free register.
        op::CALL | op::CALLT => {
            let first = i.a.saturating_add(2);
            register >= first && register - first < i.c.saturating_sub(1)
        }
        op::CALLM | op::CALLMT => {
            let first = i.a.saturating_add(2);
            register >= first && register - first < i.c
        }
        _ => false,
    }
}

/// Returns the numbers of what a function shares with others and replaces, itself or within.
fn sets(function: &Prototype) -> BTreeSet<usize> {
    let code = function.instructions.iter();
    let own = code.filter(|(i, _)| matches!(i.op, op::USETV..=op::USETP)).map(|(i, _)| usize::from(i.a));
    let within = function.functions().flat_map(|inner| {
        let replaced = sets(inner);
        let outer: Vec<_> = inner.outer().collect();
        replaced.into_iter().filter_map(move |at| *outer.get(at)?)
    });
    own.chain(within).collect()
}

/// Returns what is known where two ways meet.
fn joined<'c>(one: &Registers<'c>, other: &Registers<'c>) -> Registers<'c> {
    let lacks = |held: Option<&Held<'c>>| match held {
        Some(Held::Lacking(table, member) | Held::Perhaps(table, member)) => {
            Some(Held::Perhaps(table, member))
        }
        _ => None,
    };
    let all: BTreeSet<u8> = one.keys().chain(other.keys()).copied().collect();
    let known = all.into_iter().filter_map(|register| {
        let (held, met) = (one.get(&register), other.get(&register));
        let same = held.filter(|_| held == met).cloned();
        Some((register, same.or_else(|| lacks(held)).or_else(|| lacks(met))?))
    });
    known.collect()
}

/// Returns where jumps lead.
fn targets(function: &Prototype) -> BTreeSet<usize> {
    let code = function.instructions.iter().enumerate();
    code.filter_map(|(at, (i, _))| (i.op == op::JMP).then(|| target(at, *i)).flatten()).collect()
}

/// Returns where pieces of code begin: behind and at the end of jumps.
fn starts(function: &Prototype) -> BTreeSet<usize> {
    let code = function.instructions.iter().enumerate();
    let jumps = code.filter_map(|(at, (i, _))| match i.op {
        op::JMP | op::UCLO | op::ISNEXT | op::FORI | op::FORL | op::ITERL => Some([target(at, *i)?, at + 1]),
        _ => None,
    });
    jumps.flatten().collect()
}

/// Returns where a jump leads.
fn target(at: usize, i: Instruction) -> Option<usize> {
    /// A jump of no distance.
    const NONE: usize = 0x8000;
    (at + 1 + i.d()).checked_sub(NONE)
}

/// Returns what a call gives to a function that catches its errors.
fn pcalled<'r, 'c>(i: Instruction, registers: &'r Registers<'c>) -> Option<&'r Held<'c>> {
    let is_call = matches!(i.op, op::CALLM..=op::CALLT);
    match registers.get(&i.a) {
        Some(Held::Global("pcall" | "xpcall") | Held::Catches) if is_call => {
            registers.get(&i.a.checked_add(2)?)
        }
        _ => None,
    }
}
