//! Networks and addresses: `newNMG`, `newNetmask`, `newCA`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use mlua::{Lua, MetaMethod, UserData, UserDataMethods, Value};

use crate::base::addr::mapped;
use crate::base::prefix::{Prefix, PrefixSet};
use crate::config::error::{Fault, counted};
use crate::config::functions::{ADDRESS_METHODS, NETMASK_METHODS, NETWORK_SET_METHODS};
use crate::config::value;
use crate::lua::front_end::anytime::define_anytime;
use crate::lua::front_end::argument::wrong;
use crate::lua::front_end::arguments::items;
use crate::lua::front_end::context::{Call, Context};

use crate::lua::front_end::declared::{Methods, raised};
use crate::lua::front_end::selectors::stand_in;
use crate::lua::front_end::sets::in_force;
use crate::rules::networks;
use crate::rules::networks::Networks;

/// Networks of a set that are shown.
const NETWORKS_SHOWN: usize = 20;
/// The form of a network.
const NETWORK: &str = "a network, as \"192.0.2.0/24\"";
/// The form of an address.
pub(crate) const ADDRESS: &str = "an address, as \"192.0.2.1\" or newCA(\"192.0.2.1\")";

/// A network as written: its address and prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    ip: IpAddr,
    length: u8,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        // The common parser decides what is a network.
        text.parse::<Prefix>().ok()?;
        let (ip, length) = text.split_once('/').map_or((text, None), |(ip, length)| (ip, Some(length)));
        let ip: IpAddr = ip.parse().ok()?;
        let width = if ip.is_ipv4() { 32 } else { 128 };
        Some(Self { ip, length: length.map_or(Some(width), |l| l.parse().ok())? })
    }

    /// Returns the address as written.
    pub(crate) const fn ip(self) -> IpAddr {
        self.ip
    }

    /// Returns the prefix length, bits.
    pub(crate) const fn length(self) -> u8 {
        self.length
    }

    fn text(self) -> String {
        format!("{}/{}", self.ip, self.length)
    }

    fn prefix(self) -> Option<Prefix> {
        self.text().parse().ok()
    }

    /// Returns the address without host bits.
    fn first(self) -> IpAddr {
        let kept = |width: u32| u32::from(self.length).min(width);
        match self.ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - kept(32)).unwrap_or(0);
                IpAddr::V4((u32::from(ip) & mask).into())
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - kept(128)).unwrap_or(0);
                IpAddr::V6((u128::from(ip) & mask).into())
            }
        }
    }

    fn contains(self, ip: IpAddr) -> bool {
        let set: PrefixSet = self.prefix().into_iter().collect();
        self.ip.is_ipv4() == ip.is_ipv4() && set.contains(&mapped(ip))
    }
}

/// Reads a network: a string, or an object.
pub(crate) fn network(what: &str, value: &Value) -> Result<Network, Fault> {
    let object = value.as_userdata().and_then(|u| {
        let network = u.borrow::<Netmask>().ok().map(|n| n.0);
        network.or_else(|| u.borrow::<Address>().ok().map(|a| alone(a.0.ip())))
    });
    let written = || value.as_string().and_then(|s| Network::parse(&s.to_string_lossy()));
    object.or_else(written).ok_or_else(|| wrong(what, value, NETWORK))
}

fn alone(ip: IpAddr) -> Network {
    Network { ip, length: if ip.is_ipv4() { 32 } else { 128 } }
}

/// Reads an address: a string, or an object.
pub(crate) fn address(what: &str, value: &Value, expected: &str) -> Result<SocketAddr, Fault> {
    let object = value.as_userdata().and_then(|u| u.borrow::<Address>().ok().map(|a| a.0));
    let written = || value::endpoint(&value.as_string()?.to_string_lossy()).ok();
    object.or_else(written).ok_or_else(|| wrong(what, value, expected))
}

/// A network of a set, included or, as an exception, excluded.
pub(crate) type Entry = (Network, bool);

fn entry(what: &str, value: &Value) -> Result<Entry, Fault> {
    let text = value.as_string().map(|s| s.to_string_lossy());
    match text.as_deref().and_then(|t| t.strip_prefix('!')) {
        Some(text) => Network::parse(text).map(|n| (n, false)).ok_or_else(|| wrong(what, value, NETWORK)),
        None => network(what, value).map(|n| (n, true)),
    }
}

/// Reads one network or a list. An empty list has none.
pub(crate) fn prefixes(what: &str, value: &Value) -> Result<Vec<Entry>, Fault> {
    const NETWORKS: &str = "networks, as \"192.0.2.0/24\", a list of them, or newNMG()";
    let items = items(value).map_err(|_| wrong(what, value, NETWORKS))?;
    items.map(|item| entry(what, &item?)).collect()
}

/// Formats networks.
pub(crate) fn shown(entries: &[Entry]) -> String {
    let text = |(network, is_in): &Entry| format!("{}{}", if *is_in { "" } else { "!" }, network.text());
    let texts: Vec<String> = entries.iter().map(text).collect();
    texts.join(", ")
}

/// Builds the set that the shards search.
pub(crate) fn set_of(entries: &[Entry]) -> networks::NetworkSet {
    entries.iter().filter_map(|(network, is_in)| Some((network.prefix()?, *is_in))).collect()
}

/// The contents of a set.
#[derive(Debug, Default)]
pub(crate) struct NetworkContent {
    entries: Vec<Entry>,
    /// The index of each network.
    places: HashMap<(IpAddr, u8), usize>,
    quiet: bool,
}

impl NetworkContent {
    /// Returns a part of the contents, for lists of rules.
    pub(crate) fn shown(&self) -> String {
        if self.quiet || self.entries.len() > NETWORKS_SHOWN {
            return counted(self.entries.len(), "network");
        }
        shown(&self.entries)
    }

    /// Builds the set.
    pub(crate) fn set(&self) -> networks::NetworkSet {
        set_of(&self.entries)
    }

    fn add(&mut self, (network, is_in): Entry) {
        let place = *self.places.entry((network.first(), network.length)).or_insert(self.entries.len());
        match self.entries.get_mut(place) {
            Some(old) => old.1 = is_in,
            None => self.entries.push((network, is_in)),
        }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        let width = if ip.is_ipv4() { 32 } else { 128 };
        // The longest network decides; each may be one of very many.
        let place =
            (0..=width).rev().find_map(|length| self.places.get(&(Network { ip, length }.first(), length)));
        place.is_some_and(|place| self.entries[*place].1)
    }
}

/// A set of networks as a Lua object.
#[derive(Clone, Debug)]
pub(crate) struct NetworkSet {
    context: Context,
    networks: Networks,
    content: Rc<RefCell<NetworkContent>>,
}

impl NetworkSet {
    /// Returns the set of a value, if it is one.
    pub(crate) fn of(value: &Value, quiet: bool) -> Option<Networks> {
        let set = value.as_userdata()?.borrow::<Self>().ok()?;
        set.content.borrow_mut().quiet |= quiet;
        Some(set.networks.clone())
    }
}

/// A method that changes a set while the file is evaluated.
type Change = fn(&mut Call<'_>, &NetworkSet, &Value) -> Result<(), Fault>;

const CHANGES: [(&str, Change); 4] = [
    ("addMask", |call, set, v| {
        let entries = prefixes("", v)?;
        if entries.is_empty() {
            call.warn_empty_list("", "nothing is added");
        }
        entries.into_iter().for_each(|e| set.content.borrow_mut().add(e));
        Ok(())
    }),
    ("addMasks", |_, set, v| {
        // dnsdist's tables have addresses as keys; a plain list is accepted too.
        let entries: Vec<Entry> = match v {
            Value::Table(table) if table.raw_len() == 0 => {
                let pairs = table.pairs::<Value, Value>();
                pairs.map(|pair| entry("", &pair?.0)).collect::<Result<_, Fault>>()?
            }
            _ => items(v)?.map(|item| entry("", &item?)).collect::<Result<_, _>>()?,
        };
        entries.into_iter().for_each(|e| set.content.borrow_mut().add(e));
        Ok(())
    }),
    ("addNMG", |_, set, v| {
        const SET: &str = "a set of newNMG";
        let other =
            v.as_userdata().and_then(|u| u.borrow::<NetworkSet>().ok().map(|s| Rc::clone(&s.content)));
        let other = other.ok_or_else(|| wrong("", v, SET))?;
        let entries = other.borrow().entries.clone();
        entries.into_iter().for_each(|e| set.content.borrow_mut().add(e));
        Ok(())
    }),
    ("clear", |_, set, _| {
        let quiet = set.content.borrow().quiet;
        *set.content.borrow_mut() = NetworkContent { quiet, ..NetworkContent::default() };
        Ok(())
    }),
];

impl UserData for NetworkSet {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let mut all = Methods::new(methods, NETWORK_SET_METHODS);
        for (name, change) in CHANGES {
            all.add_recorded(
                name,
                |set| &set.context,
                move |call, set, a| {
                    if set.networks.set().is_some() {
                        return Err(in_force());
                    }
                    change(call, set, a.at(0)).map(|()| Value::Nil)
                },
            );
        }
        all.add("match", |lua, set, a| {
            let ip = address("", a.at(0), ADDRESS).map_err(|fault| raised(lua, "match", &fault))?.ip();
            Ok(set.content.borrow().contains(ip))
        });
        for name in ["size", "len"] {
            all.add(name, |_, set, _| Ok(set.content.borrow().entries.len()));
        }
        all.add("empty", |_, set, _| Ok(set.content.borrow().entries.is_empty()));
        all.add("toString", |_, set, _| Ok(set.content.borrow().shown()));
        methods.add_meta_method(MetaMethod::ToString, |_, set, ()| Ok(set.content.borrow().shown()));
    }
}

/// A network as a Lua object.
#[derive(Clone, Copy, Debug)]
struct Netmask(Network);

impl UserData for Netmask {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let mut all = Methods::new(methods, NETMASK_METHODS);
        all.add("getBits", |_, n, _| Ok(n.0.length));
        all.add("getNetwork", |_, n, _| Ok(Address(SocketAddr::new(n.0.ip, 0))));
        all.add("getMaskedNetwork", |_, n, _| Ok(Address(SocketAddr::new(n.0.first(), 0))));
        all.add("isIPv4", |_, n, _| Ok(n.0.ip.is_ipv4()));
        all.add("isIPv6", |_, n, _| Ok(n.0.ip.is_ipv6()));
        all.add("empty", |_, _, _| Ok(false));
        all.add("match", |lua, n, a| {
            let ip = address("", a.at(0), ADDRESS).map_err(|fault| raised(lua, "match", &fault))?.ip();
            Ok(n.0.contains(ip))
        });
        all.add("toString", |_, n, _| Ok(n.0.text()));
        methods.add_meta_method(MetaMethod::ToString, |_, n, ()| Ok(n.0.text()));
    }
}

/// An address as a Lua object (dnsdist's ComboAddress); port 0 is none.
#[derive(Clone, Copy, Debug)]
struct Address(SocketAddr);

impl Address {
    fn v4_inside(self) -> Option<IpAddr> {
        match self.0.ip() {
            IpAddr::V6(ip) => ip.to_ipv4_mapped().map(IpAddr::V4),
            IpAddr::V4(_) => None,
        }
    }
}

/// Creates the object of an address.
pub(crate) fn address_object(lua: &Lua, ip: IpAddr) -> mlua::Result<Value> {
    Ok(Value::UserData(lua.create_userdata(Address(SocketAddr::new(ip, 0)))?))
}

impl UserData for Address {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let mut all = Methods::new(methods, ADDRESS_METHODS);
        for name in ["toString", "tostring"] {
            all.add(name, |_, a, _| Ok(a.0.ip().to_string()));
        }
        for name in ["toStringWithPort", "tostringWithPort"] {
            all.add(name, |_, a, _| Ok(a.0.to_string()));
        }
        all.add("getPort", |_, a, _| Ok(a.0.port()));
        all.add("getRaw", |lua, a, _| match a.0.ip() {
            IpAddr::V4(ip) => lua.create_string(ip.octets()),
            IpAddr::V6(ip) => lua.create_string(ip.octets()),
        });
        all.add("isIPv4", |_, a, _| Ok(a.0.is_ipv4()));
        all.add("isIPv6", |_, a, _| Ok(a.0.is_ipv6()));
        all.add("isMappedIPv4", |_, a, _| Ok(a.v4_inside().is_some()));
        all.add("mapToIPv4", |_, a, _| {
            Ok(Self(SocketAddr::new(a.v4_inside().unwrap_or_else(|| a.0.ip()), a.0.port())))
        });
        all.add_mut("truncate", |lua, own, a| {
            let length = a.byte(0, u8::MAX).map_err(|fault| raised(lua, "truncate", &fault))?;
            let first = Network { ip: own.0.ip(), length }.first();
            own.0.set_ip(first);
            Ok(Value::Nil)
        });
        methods.add_meta_method(MetaMethod::ToString, |_, a, ()| Ok(a.0.ip().to_string()));
        methods.add_meta_function(MetaMethod::Eq, |_, (a, b): (Value, Value)| {
            let same = address("", &a, ADDRESS).ok().zip(address("", &b, ADDRESS).ok());
            Ok(same.is_some_and(|(a, b)| a == b))
        });
    }
}

/// Defines the constructors; `newNetmask` and `newCA` work at any time.
pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    let own = context.clone();
    context.define(lua, "newNMG", move |call, _| {
        let (networks, content) = call.new_networks();
        stand_in(call, Ok(NetworkSet { context: own.clone(), networks, content }))
    })?;
    define_anytime(lua, context, "newNetmask", |lua, a| {
        let made = match a.given(1) {
            None => network("", a.at(0)),
            Some(_) => address("the address", a.at(0), ADDRESS).and_then(|address| {
                let ip = address.ip();
                Ok(Network { ip, length: a.byte(1, if ip.is_ipv4() { 32 } else { 128 })? })
            }),
        };
        let made = made.map(Netmask).map_err(|fault| raised(lua, "newNetmask", &fault))?;
        Ok(Value::UserData(lua.create_userdata(made)?))
    })?;
    define_anytime(lua, context, "newCA", |lua, a| {
        let made = address("", a.at(0), value::ADDRESS).map(Address);
        let made = made.map_err(|fault| raised(lua, "newCA", &fault))?;
        Ok(Value::UserData(lua.create_userdata(made)?))
    })
}
