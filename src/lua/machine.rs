//! What a configuration asks of the machine: its network interfaces with their addresses, and the
//! resolvers of a file.

use std::net::IpAddr;
use std::path::Path;

use mlua::{Lua, Table};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::socket::SockaddrStorage;

use crate::base::files::{self, LIST_BYTES_MAX};
use crate::base::prefix::Prefix;

/// Resolvers of a file that are read.
const RESOLVERS_MAX: usize = 1_000;

/// A function of an argument, which may be missing: what the functions are called, and what they do.
pub(crate) type Asks = fn(&str) -> Result<Vec<String>, String>;

/// The functions, by name.
pub(crate) const FUNCTIONS: [(&str, Asks); 4] = [
    ("getListOfNetworkInterfaces", |_| interfaces()),
    ("getListOfAddressesOfNetworkInterface", addresses),
    ("getListOfRangesOfNetworkInterface", ranges),
    ("getResolvers", resolvers),
];

/// Adds them to a table of functions, each with its list or why there is none.
pub(crate) fn define(lua: &Lua, table: &Table) -> mlua::Result<()> {
    for (name, asks) in FUNCTIONS {
        let function = lua.create_function(move |_, about: Option<String>| {
            let asked = asks(&about.unwrap_or_default());
            Ok((asked.as_ref().ok().cloned(), asked.err()))
        })?;
        table.raw_set(name, function)?;
    }
    Ok(())
}

fn all() -> Result<impl Iterator<Item = InterfaceAddress>, String> {
    getifaddrs().map_err(|e| format!("the network interfaces: {e}"))
}

fn interfaces() -> Result<Vec<String>, String> {
    let mut names: Vec<String> = Vec::new();
    for one in all()? {
        if !names.contains(&one.interface_name) {
            names.push(one.interface_name);
        }
    }
    Ok(names)
}

fn addresses(name: &str) -> Result<Vec<String>, String> {
    let of = all()?.filter(|one| one.interface_name == name);
    Ok(of.filter_map(|one| ip(one.address.as_ref())).map(|ip| ip.to_string()).collect())
}

fn ranges(name: &str) -> Result<Vec<String>, String> {
    let of = all()?.filter(|one| one.interface_name == name);
    let range = |one: InterfaceAddress| {
        let (address, mask) = (ip(one.address.as_ref())?, ip(one.netmask.as_ref())?);
        let bits = match mask {
            IpAddr::V4(mask) => mask.to_bits().count_ones(),
            IpAddr::V6(mask) => mask.to_bits().count_ones(),
        };
        // The parser clears what is beyond the network.
        format!("{address}/{bits}").parse::<Prefix>().ok().map(|network| network.to_string())
    };
    Ok(of.filter_map(range).collect())
}

fn ip(address: Option<&SockaddrStorage>) -> Option<IpAddr> {
    let address = address?;
    let v4 = || address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
    let v6 = || address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip()));
    v4().or_else(v6)
}

/// Returns the name servers of a file as /etc/resolv.conf.
fn resolvers(path: &str) -> Result<Vec<String>, String> {
    let content = files::read(Path::new(path), LIST_BYTES_MAX);
    let content = content.map_err(|e| format!("cannot read \"{path}\": {e}"))?;
    Ok(servers(&String::from_utf8_lossy(&content)))
}

fn servers(text: &str) -> Vec<String> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        words.next().filter(|_| is_server).map(str::to_owned)
    };
    text.lines().filter_map(server).take(RESOLVERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_its_address_and_network() {
        assert!(interfaces().expect("a list").contains(&"lo".to_owned()));
        assert!(addresses("lo").expect("a list").contains(&"127.0.0.1".to_owned()));
        assert!(ranges("lo").expect("a list").contains(&"127.0.0.0/8".to_owned()));
        assert_eq!((addresses("none"), ranges("none")), (Ok(Vec::new()), Ok(Vec::new())));
    }

    #[test]
    fn resolvers_are_the_lines_that_name_them() {
        let text = "# nameserver 192.0.2.9\nsearch example\nnameserver 192.0.2.1\n  nameserver\t2001:db8::1 # b\n\
                    nameservers 192.0.2.2\nnameserver\n";
        assert_eq!(servers(text), ["192.0.2.1", "2001:db8::1"]);
        assert!(resolvers("/nowhere/resolv.conf").is_err_and(|why| why.contains("/nowhere/resolv.conf")));
    }
}
