//! The mapping tried on a small fabric: what it knows, what it refuses, and with which place.

use super::*;

fn fabric() -> Arc<Fabric> {
    let text = "name='t'\nplanes=1\nleaves=2\nspines=2\nhosts=4\naccess={rate='1Gbit/s',latency='1us'}\n\
                trunk={rate='1Gbit/s',latency='1us'}";
    Arc::new(Fabric::parse(text).unwrap())
}

fn link(f: &Fabric, name: &str) -> Option<LinkId> {
    Some(f.link_by_name(name).unwrap_or_else(|| panic!("{name}")))
}

fn error(text: &str) -> String {
    Names::parse(text, fabric()).map(|_| ()).unwrap_err().located("names.toml")
}

const LEAF: &str = "[[device]]\nmatch=['sw1','10.0.0.1']\nis='p0-leaf1'\n";

#[test]
fn without_a_file_names_and_addresses_are_the_fabrics() {
    let f = fabric();
    let names = Names::identity(Arc::clone(&f));
    assert_eq!(names.port("p0-leaf0", "spine1"), link(&f, "p0-leaf0:p0-spine1"));
    assert_eq!(names.port("host3", "p0"), link(&f, "host3:p0-leaf1"));
    let spine = f.switch_by_name("p0-spine1").unwrap();
    assert_eq!(names.device(&f.switch_addr(spine).to_string()), Some(Device::Switch(spine)));
    assert_eq!(names.device("p0-leaf7"), None);
    assert_eq!(names.port("p0-leaf0", "Ethernet0"), None);
}

#[test]
fn interfaces_by_neighbour_by_number_and_by_pattern() {
    let f = fabric();
    let text = format!(
        "{LEAF}[[device.interface]]\nmatch='Ethernet0'\nto='host2'\n[[device.interface]]\nmatch='Ethernet*'\nfirst=8\nstep=8\n\
         port=1\n[[device]]\nmatch=['gpu-*.example']\nis='host*'\n[[device.interface]]\nmatch='rdma*'\nto='p*'\n"
    );
    let (names, findings) = Names::parse(&text, Arc::clone(&f)).unwrap();
    assert_eq!(findings, []);
    for (interface, name) in [("Ethernet0", "host2"), ("Ethernet8", "host3"), ("Ethernet16", "p0-spine0")] {
        assert_eq!(names.port("sw1", interface), link(&f, &format!("p0-leaf1:{name}")), "{interface}");
        assert_eq!(names.port("10.0.0.1", interface), link(&f, &format!("p0-leaf1:{name}")));
    }
    assert_eq!(names.port("sw1", "Ethernet1"), None);
    assert_eq!(names.port("sw1", "Ethernet32"), None);
    assert_eq!(names.port("gpu-3.example", "rdma0"), link(&f, "host3:p0-leaf1"));
    assert_eq!(names.device("gpu-9.example"), None);
}

#[test]
fn both_directions_of_a_port() {
    let f = fabric();
    let names = Names::identity(Arc::clone(&f));
    let of = |kind, entity, name| names.component("p0-leaf0", kind, entity, name);
    let out = link(&f, "p0-leaf0:p0-spine1").unwrap();
    assert_eq!(of(EntityKind::Interface, "spine1", "out_discards"), Some(Component::Link(out)));
    assert_eq!(of(EntityKind::Interface, "spine1", "fcs_errors"), Some(Component::Link(out.reverse())));
    assert_eq!(of(EntityKind::Interface, "spine1", "pfc_in_frames_3"), Some(Component::Link(out)));
    assert_eq!(of(EntityKind::Interface, "spine1", "pfc_out_frames_3"), Some(Component::Link(out)));
    assert_eq!(of(EntityKind::Queue, "spine1/queue3", "queue_drop_packets"), Some(Component::Link(out)));
    assert_eq!(of(EntityKind::Optic, "spine1", "rx_power_dbm"), Some(Component::Link(out.reverse())));
    let leaf = f.switch_by_name("p0-leaf0").unwrap();
    assert_eq!(of(EntityKind::Host, "", "up"), Some(Component::Switch(leaf)));
    assert_eq!(of(EntityKind::Interface, "mgmt0", "in_errors"), None);
    // A NIC's overruns are the NIC's; a switch has none.
    assert_eq!(of(EntityKind::Interface, "host0", "in_overruns"), None);
    let nic = f.nic_by_name("host0-p0").unwrap();
    assert_eq!(
        names.component("host0", EntityKind::Interface, "p0", "in_overruns"),
        Some(Component::Nic(nic))
    );
}

#[test]
fn told_neighbours_are_compared() {
    let names = Names::identity(fabric());
    assert_eq!(names.cabling("p0-leaf0", "spine1", "p0-spine1", "leaf0"), Cabling::Same);
    assert_eq!(names.cabling("p0-leaf0", "spine1", "p0-spine1", "somewhere"), Cabling::Same);
    let other = Cabling::Other("p0-leaf0:p0-spine1".to_owned());
    assert_eq!(names.cabling("p0-leaf0", "spine1", "p0-spine0", "leaf0"), other);
    assert_eq!(names.cabling("p0-leaf0", "spine1", "p0-spine1", "leaf1"), other);
    assert_eq!(names.cabling("p0-leaf0", "spine1", "printer", ""), Cabling::Unknown);
}

#[test]
fn mistakes_are_said_with_their_place() {
    let on = |rest: &str| error(&format!("{LEAF}{rest}"));
    for (said, begins) in [
        (error("[[device]]\nmatch=['a']\nis='p0-leaf9'"), "names.toml:3:4: there is no device \"p0-leaf9\""),
        (error("[[device]]\nmatch=['a*']\nis='x*'"), "names.toml:3:4: \"x*\" fits no device"),
        (error("[[device]]\nmatch=['a']\nis='host*'"), "names.toml:2:8: \"a\" has no `*`"),
        (error("[[device]]\nmatch=['a**']\nis='host1'"), "names.toml:2:8: \"a**\""),
        (error("[[device]]\nmatch=['a']\nsi='host1'"), "names.toml:3:1: unknown field `si`"),
        (error("[[device]]\nmatch=['a','a']\nis='host1'"), "names.toml:2:12: \"a\" is matched twice"),
        (
            on("[[device.interface]]\nmatch='e1'\nto='host0'"),
            "names.toml:5:7: p0-leaf1 has no cable to \"host0\"",
        ),
        (
            on("[[device.interface]]\nmatch='e1'\nport=4"),
            "names.toml:5:7: p0-leaf1 has no port 4; expected 0 to 3",
        ),
        (
            on("[[device.interface]]\nmatch='e1'\nport=0\n[[device.interface]]\nmatch='e2'\nto='host2'"),
            "names.toml:8:7: interface e2 is on the port of e1, to host2",
        ),
        (on("[[device.interface]]\nmatch='e1'"), "names.toml:5:7: interface \"e1\"; expected either"),
        (on("[[device.interface]]\nmatch='e*'\nto='host2'"), "names.toml:6:4: \"e*\" is on \"host2\""),
    ] {
        assert!(said.starts_with(begins), "{said}");
    }
}

#[test]
fn ports_without_an_interface_are_said() {
    let text = format!("{LEAF}[[device.interface]]\nmatch='e1'\nto='host2'\n");
    let (_, findings) = Names::parse(&text, fabric()).unwrap();
    let said: Vec<String> = findings.iter().map(|f| f.to_string()).collect();
    assert_eq!(
        said,
        [
            "line 3, column 4: p0-leaf1: no interface is named for 3 of its ports, the first to host3; expected one for each"
        ]
    );
}

#[test]
fn invented_names_are_forgotten() {
    let names = Names::identity(fabric());
    for n in 0..=HEARD_MAX {
        assert_eq!(names.device(&format!("no-{n}")), None);
    }
    assert!(names.heard.read().unwrap().len() <= HEARD_MAX);
    assert!(names.device("host0").is_some());
}
