//! Configuration for Linux: per device the settings it needs (`sysctl -p FILE`) and a batch for iproute2
//! (`ip -6 -force -batch FILE`), to be run in the device's namespace or on a switch that runs Linux. `-force` lets a
//! batch be run again: a rule or an IOAM namespace that is there already is not a reason to stop. Settings that older
//! kernels lack begin with `-`, which makes `sysctl` pass over them.
//!
//! Invariants: rendering the same fabric gives the same text; interfaces are expected to
//! bear the names of [`Fabric::ifname`]; the text of one device is made at a time.
//! Absent on purpose: making interfaces, queues, and anything a vendor's own system wants instead.

use crate::route::{Action, BLOCK_BITS, Device, Route, TABLE_LOCAL, TABLE_MAIN, USID_BITS};
use crate::shape::{Fabric, Mode};
use alloc::string::String;
use core::fmt::{self, Write};
use wire::LinkId;

/// The IOAM namespace (RFC 9197) in which probes carry their traces.
pub const IOAM_NAMESPACE: u16 = 123;

impl Fabric {
    /// The IOAM node id of a device, 24 bits: switches count from 1, hosts from `0x800000`.
    pub fn ioam_id(&self, device: Device) -> u32 {
        match device {
            Device::Switch(switch) => switch.0 + 1,
            Device::Host(host) => 0x80_0000 | host.0,
        }
    }

    /// The kernel settings of a device, one `key = value` a line, for `sysctl -p`.
    pub fn render_sysctls(&self, device: Device) -> String {
        let mut out = String::new();
        // writing to a string cannot fail
        let _ = self.write_sysctls(&mut out, device);
        out
    }

    fn write_sysctls(&self, out: &mut String, device: Device) -> fmt::Result {
        writeln!(out, "# {} of fabric {}, {}", self.device_name(device), self.name, self.epoch)?;
        let switch = matches!(device, Device::Switch(_));
        if switch {
            writeln!(out, "net/ipv6/conf/all/forwarding = 1")?;
            writeln!(out, "# equal routes are chosen by addresses and flow label")?;
            writeln!(out, "net/ipv6/fib_multipath_hash_policy = 0")?;
            writeln!(
                out,
                "# each switch by its own seed, so that parallel cables up and down are chosen apart"
            )?;
            writeln!(out, "-net/ipv4/fib_multipath_hash_seed = {}", self.ioam_id(device))?;
            writeln!(out, "# a trace asks every hop and wants an answer from each")?;
            writeln!(out, "net/ipv6/icmp/ratelimit = 0")?;
        }
        writeln!(out, "-net/ipv6/ioam6_id = {}", self.ioam_id(device))?;
        let scopes = ["all", "default"].into_iter().map(String::from);
        let ports = self.ports(device).into_iter().map(|link| self.ifname(link));
        for (number, scope) in scopes.chain(ports).enumerate() {
            // slashes, since a name such as `spine1.2` has a dot in it
            writeln!(out, "net/ipv6/conf/{scope}/accept_ra = 0")?;
            writeln!(out, "net/ipv6/conf/{scope}/accept_dad = 0")?;
            writeln!(out, "-net/ipv6/conf/{scope}/ioam6_enabled = 1")?;
            if number >= 2 {
                writeln!(out, "-net/ipv6/conf/{scope}/ioam6_id = {}", number - 1)?;
            }
            if self.mode == Mode::Srv6 {
                writeln!(out, "net/ipv6/conf/{scope}/seg6_enabled = 1")?;
            }
        }
        Ok(())
    }

    /// The addresses and routes of a device as lines for `ip -6 -batch`.
    pub fn render_batch(&self, device: Device) -> String {
        let mut out = String::new();
        // writing to a string cannot fail
        let _ = self.write_batch(&mut out, device);
        out
    }

    fn write_batch(&self, out: &mut String, device: Device) -> fmt::Result {
        writeln!(out, "# {} of fabric {}, {}", self.device_name(device), self.name, self.epoch)?;
        writeln!(out, "link set dev lo up")?;
        for link in self.ports(device) {
            let dev = self.ifname(link);
            let [a, b, c, d, e, f] = self.link_mac(link);
            writeln!(out, "\n# {}", self.link_name(link))?;
            writeln!(out, "link set dev {dev} address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")?;
            writeln!(out, "link set dev {dev} addrgenmode none")?;
            writeln!(out, "link set dev {dev} up")?;
            writeln!(out, "address replace {}/64 dev {dev} nodad", self.link_local(link))?;
        }
        writeln!(out)?;
        for (link, addr) in self.addresses(device) {
            let dev = link.map_or(String::from("lo"), |l| self.ifname(l));
            writeln!(out, "address replace {addr}/128 dev {dev} nodad")?;
        }
        writeln!(out)?;
        for route in self.routes(device) {
            self.write_route(out, &route)?;
        }
        if let Device::Host(host) = device {
            for rule in self.host_rules(host) {
                writeln!(out, "rule add from {} lookup {} priority {}", rule.from, rule.table, rule.table)?;
            }
        }
        writeln!(out, "ioam namespace add {IOAM_NAMESPACE}")
    }

    fn write_route(&self, out: &mut String, route: &Route) -> fmt::Result {
        let hop = |out: &mut String, link: LinkId| {
            write!(out, " via {} dev {}", self.link_local(link.reverse()), self.ifname(link))
        };
        let kind = if route.action == Action::Unreachable { "unreachable " } else { "" };
        write!(out, "route replace {kind}{}", route.to)?;
        match &route.action {
            Action::Via(links) => {
                for &link in links {
                    out.push_str(if links.len() > 1 { " nexthop" } else { "" });
                    hop(out, link)?;
                }
            }
            Action::End { on } => write!(
                out,
                " encap seg6local action End flavors next-csid lblen {BLOCK_BITS} nflen {USID_BITS} dev {}",
                self.ifname(*on)
            )?,
            Action::Decapsulate { on } => {
                write!(out, " encap seg6local action End.DT6 table {TABLE_LOCAL} dev {}", self.ifname(*on))?;
            }
            Action::Unreachable => {}
        }
        if let Some(source) = route.source {
            write!(out, " src {source}")?;
        }
        if route.table != TABLE_MAIN {
            write!(out, " table {}", route.table)?;
        }
        writeln!(out)
    }
}
