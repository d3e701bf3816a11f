//! DNS objects of health check functions: a name, a header to change, an answer to judge.

use std::cell::Cell;
use std::rc::Rc;

use mlua::{FromLua, Lua, MetaMethod, Table, UserData, UserDataMethods, UserDataRef, Value};

use crate::config::error::Fault;
use crate::config::functions::{HEADER_METHODS, NAME_METHODS};
use crate::config::value;
use crate::lua::front_end::anytime::define_anytime;
use crate::lua::front_end::argument;
use crate::lua::front_end::context::Context;
use crate::lua::front_end::declared::{Methods, raised};

/// A domain name (dnsdist's `DNSName`), absolute, in presentation format.
#[derive(Clone, Debug)]
pub(crate) struct Name(String);

impl Name {
    /// Creates a name; an invalid one is kept as it is.
    pub(crate) fn new(text: &str) -> Self {
        Self(value::qname(text).unwrap_or_else(|_| text.to_owned()))
    }

    fn wire(&self) -> Vec<u8> {
        value::wire_name(&self.0).unwrap_or_default()
    }

    fn labels(&self) -> Vec<&str> {
        // Escaped dots are rare in probe names; here they count as separators.
        self.0.split('.').filter(|l| !l.is_empty()).collect()
    }
}

impl UserData for Name {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let mut all = Methods::new(methods, NAME_METHODS);
        for method in ["toString", "tostring"] {
            all.add(method, |_, name, _| Ok(name.0.clone()));
        }
        all.add("wirelength", |_, name, _| Ok(name.wire().len()));
        all.add("toDNSString", |lua, name, _| lua.create_string(name.wire()));
        all.add_mut("chopOff", |_, name, _| {
            let wire = name.wire();
            let rest =
                wire.first().filter(|length| **length > 0).and_then(|l| wire.get(1 + usize::from(*l)..));
            let rest = rest.map(|rest| crate::wire::name::Text(rest).to_string());
            let chopped = rest.is_some();
            name.0 = rest.unwrap_or_else(|| name.0.clone());
            Ok(chopped)
        });
        all.add("toStringNoDot", |_, name, _| Ok(name.0.trim_end_matches('.').to_owned()));
        all.add("countLabels", |_, name, _| Ok(name.labels().len()));
        all.add("isPartOf", |lua, name, a| {
            let suffix = UserDataRef::<Self>::from_lua(a.at(0).clone(), lua)?;
            let (name, suffix) = (name.labels(), suffix.labels());
            let tail = name.len().checked_sub(suffix.len()).map(|from| &name[from..]);
            Ok(tail.is_some_and(|t| t.iter().zip(&suffix).all(|(a, b)| a.eq_ignore_ascii_case(b))))
        });
        methods.add_meta_method(MetaMethod::ToString, |_, name, ()| Ok(name.0.clone()));
        methods.add_meta_function(MetaMethod::Eq, |_, (a, b): (Value, Value)| {
            Ok(matches!((name(&a), name(&b)), (Some(a), Some(b)) if a.eq_ignore_ascii_case(&b)))
        });
    }
}

/// Reads a name: a string, or a `DNSName`.
pub(crate) fn name(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.to_string_lossy()),
        Value::UserData(u) => u.borrow::<Name>().ok().map(|n| n.0.clone()),
        _ => None,
    }
}

/// Reads a name, in lower-case wire format.
pub(crate) fn wire(what: &str, value: &Value) -> Result<Vec<u8>, Fault> {
    parsed(what, value, value::wire_name)
}

/// Reads a name, in presentation format.
fn text(what: &str, value: &Value) -> Result<String, Fault> {
    parsed(what, value, value::qname)
}

fn parsed<T>(what: &str, value: &Value, parse: impl Fn(&str) -> Result<T, &'static str>) -> Result<T, Fault> {
    let parsed = match value {
        Value::String(s) => s.to_str().map_err(|_| value::ASCII_NAME).and_then(|s| parse(&s)),
        Value::UserData(u) => u.borrow::<Name>().map_err(|_| value::QNAME).and_then(|n| parse(&n.0)),
        _ => Err(value::QNAME),
    };
    parsed.map_err(|expected| argument::wrong(what, value, expected))
}

/// The header of a probe (dnsdist's `dh`).
#[derive(Clone, Debug)]
pub(crate) struct Header(Rc<Cell<[u8; 12]>>);

impl Header {
    pub(crate) fn new(bytes: [u8; 12]) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }

    pub(crate) fn bytes(&self) -> [u8; 12] {
        self.0.get()
    }
}

/// The header's flags (RFC 1035, 4.1.1; RFC 4035, 3): getter, setter, byte, bit.
const FLAGS: [(&str, &str, usize, u8); 7] = [
    ("getQR", "setQR", 2, 0x80),
    ("getAA", "setAA", 2, 0x04),
    ("getTC", "setTC", 2, 0x02),
    ("getRD", "setRD", 2, 0x01),
    ("getRA", "setRA", 3, 0x80),
    ("getAD", "setAD", 3, 0x20),
    ("getCD", "setCD", 3, 0x10),
];

impl UserData for Header {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let mut all = Methods::new(methods, HEADER_METHODS);
        all.add("getID", |_, header, _| {
            let bytes = header.bytes();
            Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
        });
        for (get, set, byte, bit) in FLAGS {
            all.add(get, move |_, header, _| Ok(header.bytes()[byte] & bit != 0));
            all.add(set, move |lua, header, a| {
                let on = bool::from_lua(a.at(0).clone(), lua)?;
                let mut bytes = header.bytes();
                bytes[byte] = if on { bytes[byte] | bit } else { bytes[byte] & !bit };
                header.0.set(bytes);
                Ok(Value::Nil)
            });
        }
    }
}

/// Describes an answer as a table: rcode, id, flags and counts. Missing bytes read as zeros.
pub(crate) fn describe(lua: &Lua, message: &[u8]) -> mlua::Result<Table> {
    let byte = |at: usize| message.get(at).copied().unwrap_or(0);
    let word = |at: usize| u16::from_be_bytes([byte(at), byte(at + 1)]);
    let table = lua.create_table()?;
    table.raw_set("id", word(0))?;
    table.raw_set("rcode", byte(3) & 0x0f)?;
    table.raw_set("size", message.len())?;
    for (get, _, at, bit) in FLAGS {
        table.raw_set(get.trim_start_matches("get").to_ascii_lowercase(), byte(at) & bit != 0)?;
    }
    for (name, at) in [("qdcount", 4), ("ancount", 6), ("nscount", 8), ("arcount", 10)] {
        table.raw_set(name, word(at))?;
    }
    Ok(table)
}

/// Defines `newDNSName`, which check functions return; it works at any time.
pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    define_anytime(lua, context, "newDNSName", |lua, a| {
        let made = text("", a.at(0)).map_err(|fault| raised(lua, "newDNSName", &fault))?;
        Ok(Value::UserData(lua.create_userdata(Name(made))?))
    })
}
