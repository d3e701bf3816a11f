//! The most frequent names, domains and clients, each in fixed memory.

use std::net::{IpAddr, Ipv6Addr};

use crate::base::addr;
use crate::control::traffic::sketch::Sketch;
use crate::stats::traffic_ring::ShortName;
use crate::tools::report::findings::{Table, TableRow};
use crate::wire::name;

/// Keys of a list, of which the most frequent are shown.
const PLACES: usize = 2_048;

/// A list of names.
#[derive(Debug)]
pub(super) struct Names(Sketch<ShortName>);

/// A list of clients.
#[derive(Debug)]
pub(super) struct Clients(Sketch<[u8; 16]>);

impl Names {
    pub(super) fn new() -> Self {
        Self(Sketch::new(PLACES))
    }

    /// Counts a name in wire format.
    #[inline]
    pub(super) fn add(&mut self, hash: u64, name: &[u8]) {
        self.0.add(hash, 1, || ShortName::new(name));
    }

    /// Counts a name that is stored.
    pub(super) fn add_short(&mut self, hash: u64, name: ShortName) {
        self.0.add(hash, 1, || name);
    }

    pub(super) fn table(&self, id: &'static str, title: &'static str, rows: u16) -> Table {
        table(&self.0, id, title, rows, ShortName::to_string)
    }
}

impl Clients {
    pub(super) fn new() -> Self {
        Self(Sketch::new(PLACES))
    }

    #[inline]
    pub(super) fn add(&mut self, hash: u64, client: IpAddr) {
        self.0.add(hash, 1, || addr::mapped(client));
    }

    pub(super) fn table(&self, id: &'static str, title: &'static str, rows: u16) -> Table {
        table(&self.0, id, title, rows, |ip| Ipv6Addr::from(*ip).to_canonical().to_string())
    }
}

fn table<K: Copy + Default>(
    sketch: &Sketch<K>,
    id: &'static str,
    title: &'static str,
    rows: u16,
    label: impl Fn(&K) -> String,
) -> Table {
    let merged = Sketch::merge(std::iter::once(sketch));
    let row = |item: &crate::control::traffic::sketch::Item<K>| TableRow {
        label: label(&item.key),
        count: item.count,
        error: item.error,
    };
    let mut listed: Vec<TableRow> = merged.items.iter().map(row).collect();
    // Whatever the tables are hashed with, the same capture gives the same list.
    listed.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.label.cmp(&b.label)));
    listed.truncate(rows.into());
    Table { id, title, total: merged.total, rows: listed }
}

/// Returns the last two labels of a name.
#[inline]
pub(super) fn domain(name: &[u8]) -> &[u8] {
    name::zone(name, 2)
}
