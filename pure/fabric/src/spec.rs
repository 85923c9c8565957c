//! The specification: a TOML text becomes a [`Fabric`], and a fabric becomes its canonical text again.
//!
//! ```toml
//! name = "demo"
//! mode = "srv6"                # or "ecmp"
//! planes = 2
//! leaves = 4                   # of each plane
//! spines = 4                   # of each plane; or give `oversubscription` and they are derived
//! hosts = 16                   # or hosts_per_leaf, or both
//! rails = 1                    # NICs of a host in a plane, each on a leaf of its own
//! parallel = 1                 # cables between each leaf and each spine
//! oversubscription = "1:1"     # host ports against spine ports of a leaf
//! access = { rate = "100Gbit/s", latency = "1us" }
//! trunk = { rate = "100Gbit/s", latency = "1us" }
//!
//! [[add]]                      # one more parallel cable
//! link = "p0-leaf1:p0-spine0"
//! [[remove]]                   # a cable left out ...
//! link = "p0-leaf2:p0-spine3"
//! [[remove]]                   # ... or a host's port
//! nic = "host3-p1"
//! ```
//!
//! Invariants: `parse(to_toml(f)) == f`; the epoch is a hash of the canonical text, so comments, order and
//! formatting do not change it and everything else does; whatever parses keeps within [`limit`].
//! Absent on purpose: what a fabric lacks to be useful (a leaf without spines) is for [`crate::check`] to say.

use crate::error::{Problem, SpecError};
use crate::read::{self, Field, Table};
use crate::shape::{Fabric, LinkParams, Mode, Shape};
use crate::unit;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;
use core::hash::Hasher;
use wire::{Epoch, LinkId, Nanos};

/// What ids and addresses can number.
pub mod limit {
    /// Planes: the plane is the last byte of the block.
    pub const PLANES: u64 = 256;
    /// uSIDs of a plane's switches (leaves + spines, each once per parallel cable): the rest is local to leaves.
    pub const USIDS: u64 = 0xdfff;
    /// Host ports of a leaf: local uSIDs `0xe000 ..= 0xffff`.
    pub const PORTS: u64 = 0x2000;
    /// Hosts: an IOAM node id has 24 bits (RFC 9197), of which one says "host", and all ones says "none".
    pub const HOSTS: u64 = 0x7f_ffff;
    /// Switches, for the same reason.
    pub const SWITCHES: u64 = 0x7f_fffe;
    /// NICs of a host in one plane.
    pub const RAILS: u64 = 64;
    /// Parallel cables between one leaf and one spine.
    pub const CABLES: u64 = 64;
    /// Directed links: ids, and their upper bound, have 32 bits.
    pub const LINKS: u64 = u32::MAX as u64;
    /// Characters of a name: it is part of file and namespace names.
    pub const NAME: usize = 40;
}

/// The keys of a fabric's table.
pub(crate) const KEYS: &[&str] = &[
    "name",
    "mode",
    "planes",
    "leaves",
    "spines",
    "hosts",
    "hosts_per_leaf",
    "rails",
    "parallel",
    "oversubscription",
    "access",
    "trunk",
    "add",
    "remove",
];
const CABLE_KEYS: &[&str] = &["rate", "latency"];
const MODES: &[&str] = &["srv6", "ecmp"];
const NAME: &str = "a name of 1 to 40 letters, digits, `-` or `_`";
const LINK: &str = "the name of a link such as \"p0-leaf1:p0-spine0\"";
const NIC: &str = "the name of a NIC such as \"host3-p1\"";

impl Fabric {
    /// Reads a specification.
    pub fn parse(text: &str) -> Result<Fabric, SpecError> {
        let document = read::document(text)?;
        Fabric::from_table(Table::root(text, document.get_ref(), "the fabric", KEYS)?, None)
    }

    /// Reads the table of a fabric; `name` stands in where the table has none.
    pub(crate) fn from_table(table: Table<'_>, name: Option<&str>) -> Result<Fabric, SpecError> {
        let name = match (table.get("name"), name) {
            (None, Some(name)) => name.to_string(),
            _ => name_of(table.need("name", NAME)?)?,
        };
        let mode = match table.get("mode") {
            None => Mode::Srv6,
            Some(field) => {
                let known = |word: &str| match word {
                    "srv6" => Ok(Mode::Srv6),
                    "ecmp" => Ok(Mode::Ecmp),
                    _ => Err(Problem::NotOneOf { key: field.key(), found: word.to_string(), known: MODES }),
                };
                known(field.text("\"srv6\" or \"ecmp\"")?).map_err(|p| field.error(p))?
            }
        };
        let count = |key, most| match table.get(key) {
            Some(field) => field.number(1, most).map(|n| Some(n as u32)),
            None => Ok(None),
        };
        let need = |key, expected, most| Ok(table.need(key, expected)?.number(1, most)? as u32);
        let planes = need("planes", "the number of planes, 1 to 256", limit::PLANES)?;
        let leaves = need("leaves", "the number of leaves in each plane", limit::USIDS)?;
        let rails = count("rails", limit::RAILS)?.unwrap_or(1);
        let parallel = count("parallel", limit::CABLES)?.unwrap_or(1);
        if leaves % rails != 0 {
            let at = table.get("rails").unwrap_or(table.need("leaves", "")?);
            return Err(at.error(Problem::UnevenRails { leaves, rails }));
        }
        let (hosts, hosts_per_leaf) = hosts(&table, leaves, rails)?;
        let access = cable(&table, "access", "the cables of hosts (`access`)")?;
        let trunk = cable(&table, "trunk", "the cables of spines (`trunk`)")?;
        let spines = spines(&table, hosts_per_leaf, parallel, access, trunk)?;

        let shape = Shape { planes, leaves, spines, hosts, hosts_per_leaf, rails, cables: parallel };
        let mut fabric = Fabric {
            name,
            mode,
            shape,
            epoch: Epoch(0),
            access,
            trunk,
            parallel,
            removed: Vec::new(),
            added: Vec::new(),
        };
        within_limits(&fabric).map_err(|p| table.error(p))?;
        fabric.add_cables(&table)?;
        fabric.remove_cables(&table)?;
        fabric.epoch = fabric.hash();
        Ok(fabric)
    }

    fn add_cables(&mut self, table: &Table<'_>) -> Result<(), SpecError> {
        let Some(field) = table.get("add") else { return Ok(()) };
        // numbers of the pairs that get more: plane, leaf, spine -> cables added
        let mut more: BTreeMap<(u8, u32, u32), u32> = BTreeMap::new();
        for entry in field.list("a list of tables, each with `link`")? {
            let entry = entry.table("an `[[add]]`", &["link"])?;
            let field = entry.need("link", LINK)?;
            let name = field.text(LINK)?;
            let pair = self.link_by_name(name).filter(|_| !name.contains('#'));
            let Some((link, Err((leaf, spine, _)))) = pair.map(|l| (l, self.cable_of(l))) else {
                let what = "leaf and spine to add a cable between";
                return Err(field.error(self.no_such(what, name, "p0-leaf0:p0-spine0")));
            };
            let added = more.entry((self.link_plane(link).0, leaf, spine)).or_default();
            *added += 1;
            let cables = self.parallel + *added;
            if u64::from(cables) > limit::CABLES {
                let problem = Problem::TooMany {
                    what: "parallel cables between one leaf and one spine",
                    found: cables.into(),
                    most: limit::CABLES,
                };
                return Err(field.error(problem));
            }
        }
        self.shape.cables = self.parallel + more.values().copied().max().unwrap_or(0);
        within_limits(self).map_err(|p| field.error(p))?;
        for ((plane, leaf, spine), added) in more {
            for cable in self.parallel..self.parallel + added {
                self.added.push(self.trunk_link(wire::PlaneId(plane), leaf, spine, cable));
            }
        }
        self.added.sort_unstable();
        Ok(())
    }

    fn remove_cables(&mut self, table: &Table<'_>) -> Result<(), SpecError> {
        let Some(field) = table.get("remove") else { return Ok(()) };
        let mut removed: Vec<(LinkId, Field<'_>)> = Vec::new();
        for entry in field.list("a list of tables, each with `link` or `nic`")? {
            const EITHER: &[&str] = &["link", "nic"];
            let entry = entry.table("a `[[remove]]`", EITHER)?;
            let (field, link) = match (entry.get("link"), entry.get("nic")) {
                (Some(field), None) => (field, self.link_by_name(field.text(LINK)?)),
                (None, Some(field)) => {
                    (field, self.nic_by_name(field.text(NIC)?).map(|nic| self.access_link(nic)))
                }
                (link, nic) => {
                    let found = u32::from(link.is_some()) + u32::from(nic.is_some());
                    let problem = Problem::ExactlyOne { table: "a `[[remove]]`", found, keys: EITHER };
                    return Err(entry.error(problem));
                }
            };
            let name = field.text(LINK)?;
            let Some(link) = link else {
                let (what, example) = match entry.get("nic") {
                    Some(_) => {
                        ("NIC to leave out", if self.shape.rails == 1 { "host0-p0" } else { "host0-p0r0" })
                    }
                    None => ("link to leave out", "p0-leaf0:p0-spine0 or host0:p0-leaf0"),
                };
                return Err(field.error(self.no_such(what, name, example)));
            };
            let even = LinkId(link.0 & !1);
            if self.added.binary_search(&even).is_ok() {
                return Err(field.error(Problem::AddedAndRemoved(name.to_string())));
            }
            removed.push((even, field));
        }
        // stable: of two that are the same, the later one in the text comes second
        removed.sort_by_key(|(link, _)| *link);
        if let Some(twice) = removed.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err(twice[1].1.error(Problem::RemovedTwice(self.cable_name(twice[1].0))));
        }
        self.removed = removed.into_iter().map(|(link, _)| link).collect();
        Ok(())
    }

    pub(crate) fn no_such(&self, what: &'static str, name: &str, example: &'static str) -> Problem {
        let s = &self.shape;
        Problem::NoSuch {
            what,
            name: name.to_string(),
            size: (s.planes, s.leaves, s.spines, s.hosts),
            example,
        }
    }

    /// The canonical specification: reads back as the same fabric, with the same epoch.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        // writing to a string cannot fail
        let _ = self.write_toml(&mut out);
        out
    }

    fn write_toml(&self, out: &mut String) -> core::fmt::Result {
        let s = &self.shape;
        let mode = match self.mode {
            Mode::Srv6 => "srv6",
            Mode::Ecmp => "ecmp",
        };
        writeln!(out, "name = \"{}\"\nmode = \"{mode}\"", self.name)?;
        writeln!(out, "planes = {}\nleaves = {}\nspines = {}", s.planes, s.leaves, s.spines)?;
        writeln!(out, "hosts = {}\nhosts_per_leaf = {}", s.hosts, s.hosts_per_leaf)?;
        writeln!(out, "rails = {}\nparallel = {}", s.rails, self.parallel)?;
        for (key, params) in [("access", self.access), ("trunk", self.trunk)] {
            let (rate, latency) = (unit::rate(params.rate_bps), unit::time(Nanos(params.latency_ns)));
            writeln!(out, "{key} = {{ rate = \"{rate}\", latency = \"{latency}\" }}")?;
        }
        for &link in &self.added {
            let name = self.link_name(link);
            // which number the cable gets follows from its being one more
            writeln!(out, "\n[[add]]\nlink = \"{}\"", name.split('#').next().unwrap_or(&name))?;
        }
        for &link in &self.removed {
            match self.cable_of(link) {
                Ok(nic) => writeln!(out, "\n[[remove]]\nnic = \"{}\"", self.nic_name(nic))?,
                Err(_) => writeln!(out, "\n[[remove]]\nlink = \"{}\"", self.cable_name(link))?,
            }
        }
        Ok(())
    }

    /// FNV-1a of the canonical text: the same on every machine and in every release.
    fn hash(&self) -> Epoch {
        let mut hasher = fnv::FnvHasher::default();
        hasher.write(b"selvedge fabric 1\n");
        hasher.write(self.to_toml().as_bytes());
        Epoch(hasher.finish())
    }
}

fn name_of(field: Field<'_>) -> Result<String, SpecError> {
    field.read(NAME, name_text)
}

/// A name fit for files and namespaces.
pub(crate) fn name_text(text: &str) -> Option<String> {
    let fits = (1..=limit::NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !text.starts_with('-');
    fits.then(|| text.to_string())
}

fn cable(table: &Table<'_>, key: &'static str, name: &'static str) -> Result<LinkParams, SpecError> {
    let mut params = LinkParams { rate_bps: 100_000_000_000, latency_ns: 1_000 };
    let Some(field) = table.get(key) else { return Ok(params) };
    let table = field.table(name, CABLE_KEYS)?;
    if let Some(field) = table.get("rate") {
        params.rate_bps = field.read(unit::RATE, |t| unit::parse_rate(t).filter(|&r| r > 0))?;
    }
    if let Some(field) = table.get("latency") {
        params.latency_ns = field.read(unit::TIME, unit::parse_time)?.0;
    }
    Ok(params)
}

/// Hosts, and host ports of a leaf.
fn hosts(table: &Table<'_>, leaves: u32, rails: u32) -> Result<(u32, u32), SpecError> {
    let groups = u64::from(leaves / rails);
    let hosts = table.get("hosts");
    let ports = table.get("hosts_per_leaf").map(|f| f.number(1, limit::PORTS)).transpose()?;
    let Some(field) = hosts else {
        let Some(ports) = ports else {
            return Err(table.error(Problem::Missing {
                key: "hosts",
                table: "the fabric",
                expected: "the number of hosts in all, or `hosts_per_leaf`",
            }));
        };
        let hosts = groups * ports;
        if hosts > limit::HOSTS {
            let problem = Problem::TooMany { what: "hosts", found: hosts, most: limit::HOSTS };
            return Err(table.error(problem));
        }
        return Ok((hosts as u32, ports as u32));
    };
    let hosts = field.number(1, limit::HOSTS)?;
    let ports = ports.unwrap_or(hosts.div_ceil(groups));
    if ports > limit::PORTS {
        let problem = Problem::TooMany { what: "hosts on each leaf", found: ports, most: limit::PORTS };
        return Err(field.error(problem));
    }
    let room = groups * ports;
    let (hosts, hosts_per_leaf) = (hosts as u32, ports as u32);
    if u64::from(hosts) > room {
        return Err(field.error(Problem::NoRoom { hosts, room, leaves, rails, hosts_per_leaf }));
    }
    Ok((hosts, hosts_per_leaf))
}

/// Spines of a plane, as given or as the oversubscription asks for.
fn spines(
    table: &Table<'_>,
    hosts_per_leaf: u32,
    parallel: u32,
    access: LinkParams,
    trunk: LinkParams,
) -> Result<u32, SpecError> {
    let given = table.get("spines").map(|f| f.number(1, limit::USIDS)).transpose()?;
    let Some(field) = table.get("oversubscription") else {
        return match given {
            Some(n) => Ok(n as u32),
            None => Err(table.error(Problem::Missing {
                key: "spines",
                table: "the fabric",
                expected: "the number of spines in each plane, or `oversubscription = \"1:1\"` to derive it",
            })),
        };
    };
    let stated =
        field.read("a ratio such as \"2:1\" (host ports to spine ports of a leaf)", unit::parse_ratio)?;
    let down = u128::from(hosts_per_leaf) * u128::from(access.rate_bps);
    let per_spine = u128::from(parallel) * u128::from(trunk.rate_bps);
    let (wanted, by) = (down * u128::from(stated.1), per_spine * u128::from(stated.0));
    let whole = (by > 0 && wanted.is_multiple_of(by)).then(|| wanted / by);
    let whole = whole.and_then(|n| u64::try_from(n).ok()).filter(|n| (1..=limit::USIDS).contains(n));
    match (given, whole) {
        (Some(n), Some(m)) if n == m => Ok(n as u32),
        (None, Some(m)) => Ok(m as u32),
        (given, spines) => {
            let up = per_spine * u128::from(given.unwrap_or(1)) / 1_000_000_000;
            let (down, up) = ((down / 1_000_000_000) as u64, up as u64);
            Err(field.error(Problem::Oversubscription { stated, down, up, spines }))
        }
    }
}

fn within_limits(fabric: &Fabric) -> Result<(), Problem> {
    let s = &fabric.shape;
    let [planes, leaves, spines, hosts, rails, cables] =
        [s.planes, s.leaves, s.spines, s.hosts, s.rails, s.cables].map(u128::from);
    let links = planes * 2 * (hosts * rails + leaves * spines * cables);
    let paths = planes * (hosts * rails) * (hosts * rails) * spines * cables * cables;
    let checks = [
        ("uSIDs for the switches of a plane", (leaves + spines) * cables, limit::USIDS),
        ("switches", planes * (leaves + spines), limit::SWITCHES),
        ("directed links", links, limit::LINKS),
        ("paths", paths, u64::MAX),
    ];
    for (what, found, most) in checks {
        if found > u128::from(most) {
            return Err(Problem::TooMany { what, found: found.min(u64::MAX.into()) as u64, most });
        }
    }
    Ok(())
}
