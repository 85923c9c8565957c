//! Which messages say that a port went up or down: a table of the texts of usual systems.
//!
//! How: a template has literal text, `{if}` for the port and `{*}` for anything; case does not matter. The first that fits
//! counts. Invariants: a port is letters, digits and `/ . _ : -`, a digit among them, at most 64 bytes; any text is an
//! outcome.
//! Absent on purpose: regular expressions: what is here can be read, and costs a search each.

/// A known text.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Whose it is.
    pub system: &'static str,
    /// Its template, lower case.
    pub template: &'static str,
    /// What it says.
    pub up: bool,
}

const fn down(system: &'static str, template: &'static str) -> Known {
    Known { system, template, up: false }
}
const fn up(system: &'static str, template: &'static str) -> Known {
    Known { system, template, up: true }
}

/// The table.
pub const KNOWN: &[Known] = &[
    // Arista EOS, Cisco IOS and IOS XR; Arista may have the port's description between.
    down("eos, ios, ios-xr", "interface {if}{*}changed state to down"),
    down("ios", "interface {if}{*}changed state to administratively down"),
    up("eos, ios, ios-xr", "interface {if}{*}changed state to up"),
    // Cisco NX-OS: %ETHPORT-5-IF_DOWN_LINK_FAILURE and its siblings, %ETHPORT-5-IF_UP.
    down("nx-os", "interface {if} is down ("),
    up("nx-os", "interface {if} is up in "),
    // Nokia SR Linux.
    down("sr-linux", "interface {if} is now down"),
    up("sr-linux", "interface {if} is now up"),
    // SONiC.
    down("sonic", "port {if} oper state set from {*}to down"),
    up("sonic", "port {if} oper state set from {*}to up"),
    // Juniper Junos.
    down("junos", "snmp_trap_link_down{*}ifname {if}"),
    up("junos", "snmp_trap_link_up{*}ifname {if}"),
    // Linux drivers, as on hosts, Cumulus and SONiC: Intel's and Broadcom's, the PHY library, Mellanox.
    down("linux", "{if} nic link is down"),
    up("linux", "{if} nic link is up"),
    down("linux", "{if}: link is down"),
    up("linux", "{if}: link is up"),
    down("linux", "{if}: link down"),
    up("linux", "{if}: link up"),
    up("linux", "{if}: link becomes ready"),
    // systemd-networkd and bonding.
    down("networkd", "{if}: lost carrier"),
    up("networkd", "{if}: gained carrier"),
    down("bonding", "(slave {if}): link status definitely down"),
    up("bonding", "(slave {if}): link status definitely up"),
];

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The port, as told.
    pub interface: &'a str,
    /// Whether it is up.
    pub up: bool,
    /// Whose text it is.
    pub system: &'static str,
}

/// Longest name of a port; an IPv6 address would be shorter, and words of prose are not ports.
const PORT_MAX: usize = 64;

/// The port a message says went up or down, if it says so.
pub fn recognise(text: &str) -> Option<Found<'_>> {
    let lower = text.to_ascii_lowercase();
    // What nearly every message is spared.
    if !["down", "up", "carrier", "ready"].iter().any(|w| lower.contains(w)) {
        return None;
    }
    KNOWN.iter().find_map(|known| {
        let (from, to) = fit(&lower, known.template)?;
        // Every system numbers its ports; a word without a number is prose.
        let interface = text.get(from..to).filter(|port| port.bytes().any(|c| c.is_ascii_digit()))?;
        Some(Found { interface, up: known.up, system: known.system })
    })
}

fn of_port(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"/._:-".contains(&c)
}

/// Where the port of a template is in a text, lower case.
fn fit(text: &str, template: &str) -> Option<(usize, usize)> {
    let (front, behind) = template.split_once("{if}")?;
    let bytes = text.as_bytes();
    if front.is_empty() {
        // The port is before a text that is found first.
        let end = bytes.get(..text.find(behind)?)?.iter().rposition(|c| of_port(*c) && *c != b':')? + 1;
        let from = bytes.get(..end)?.iter().rposition(|c| !of_port(*c)).map_or(0, |i| i + 1);
        // Between the port and the text there may be a colon and a blank, and nothing else.
        let between = text.get(end..text.find(behind)?)?;
        return (between.chars().all(|c| c == ':' || c == ' ')).then_some(port(from, end)?);
    }
    let mut from = 0;
    for literal in front.split("{*}") {
        from += text.get(from..)?.find(literal)? + literal.len();
    }
    let length = bytes.get(from..)?.iter().take_while(|c| of_port(**c)).count();
    let mut end = from + length;
    while end > from && matches!(bytes.get(end - 1), Some(b':' | b'.' | b'-')) && !behind.starts_with(':') {
        end -= 1;
    }
    if behind.starts_with(':') || behind.starts_with(")") {
        while end > from && bytes.get(end - 1) == Some(&b':') {
            end -= 1;
        }
    }
    let mut at = end;
    for (n, literal) in behind.split("{*}").enumerate() {
        let rest = text.get(at..)?;
        // Text right behind the port, unless a star comes first.
        let found = if n == 0 { rest.starts_with(literal).then_some(0)? } else { rest.find(literal)? };
        at += found + literal.len();
    }
    port(from, end)
}

fn port(from: usize, end: usize) -> Option<(usize, usize)> {
    (end > from && end - from <= PORT_MAX).then_some((from, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_of_usual_systems() {
        for (text, interface, up, system) in [
            (
                "%LINEPROTO-5-UPDOWN: Line protocol on Interface Ethernet28, changed state to down",
                "Ethernet28",
                false,
                "eos",
            ),
            (
                "Line protocol on Interface Ethernet5/1 (to spine1), changed state to up",
                "Ethernet5/1",
                true,
                "eos",
            ),
            (
                "%LINK-3-UPDOWN: Interface GigabitEthernet0/1, changed state to down",
                "GigabitEthernet0/1",
                false,
                "eos",
            ),
            (
                "%LINK-5-CHANGED: Interface Vlan1, changed state to administratively down",
                "Vlan1",
                false,
                "ios",
            ),
            (
                "%PKT_INFRA-LINK-3-UPDOWN : Interface HundredGigE0/0/0/1, changed state to Down",
                "HundredGigE0/0/0/1",
                false,
                "eos",
            ),
            (
                ": 2018 Apr 22 10:27:53 CDT: %ETHPORT-5-IF_DOWN_LINK_FAILURE: Interface Ethernet1/4 is down (Link failure)",
                "Ethernet1/4",
                false,
                "nx-os",
            ),
            ("%ETHPORT-5-IF_UP: Interface Ethernet1/1 is up in mode trunk", "Ethernet1/1", true, "nx-os"),
            (
                "chassis|1170|1170|00138|W: Interface ethernet-1/1 is now down for reason: port-admin-disabled",
                "ethernet-1/1",
                false,
                "sr-linux",
            ),
            (
                ":- updatePortOperStatus: Port Ethernet8 oper state set from up to down",
                "Ethernet8",
                false,
                "sonic",
            ),
            (
                ":- updatePortOperStatus: Port Ethernet8 oper state set from down to up",
                "Ethernet8",
                true,
                "sonic",
            ),
            (
                "SNMP_TRAP_LINK_DOWN: ifIndex 515, ifAdminStatus up(1), ifOperStatus down(2), ifName ge-0/0/2",
                "ge-0/0/2",
                false,
                "junos",
            ),
            ("[ 12.5] igb 0000:02:00.0 eth0: igb: eth0 NIC Link is Down", "eth0", false, "linux"),
            ("ice 0000:3b:00.0 ens1f0: NIC Link is up 100 Gbps Full Duplex", "ens1f0", true, "linux"),
            ("mlx5_core 0000:3b:00.0 eth2: Link down", "eth2", false, "linux"),
            ("swp51: Link is Up - 10Gbps/Full", "swp51", true, "linux"),
            ("IPv6: ADDRCONF(NETDEV_CHANGE): swp1s0: link becomes ready", "swp1s0", true, "linux"),
            ("swp3: Lost carrier", "swp3", false, "networkd"),
            ("bond0: (slave eth0): link status definitely down, disabling slave", "eth0", false, "bonding"),
        ] {
            let found = recognise(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((found.interface, found.up), (interface, up), "{text}");
            assert!(found.system.starts_with(system), "{text}: {}", found.system);
        }
    }

    #[test]
    fn other_messages_are_not_taken_for_it() {
        for text in [
            "%BGP-5-ADJCHANGE: neighbor 10.0.0.2 Down",
            "BGP session 10.0.0.2 is now down",
            "SNMP_TRAP_LINK_DOWN: ifIndex 533",
            "system is going down",
            "the interface is up to you: link is down",
            "nic link is down",
            "Port Ethernet8 oper state set from up",
            "",
        ] {
            assert_eq!(recognise(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_outcome(a in "\\PC{0,20}", b in "\\PC{0,20}", n in 0usize..KNOWN.len()) {
            let _ = recognise(&a);
            let template = KNOWN[n].template.replace("{if}", &a).replace("{*}", &b);
            let _ = recognise(&template);
        }
        #[test]
        fn every_template_finds_its_port(n in 0usize..KNOWN.len(), port in "[a-z]{2,8}[0-9]{1,3}(/[0-9]{1,2}){0,2}") {
            let text = KNOWN[n].template.replace("{if}", &port).replace("{*}", " x ");
            let found = recognise(&text);
            prop_assert_eq!(found.map(|f| (f.interface, f.up)), Some((&*port, KNOWN[n].up)));
        }
    }
}
