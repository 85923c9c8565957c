//! Specifications: what reads, what is refused and how it is said.
// A test may unwrap: a panic is the report.
#![allow(missing_docs, clippy::unwrap_used)]

use selvedge_fabric::{Fabric, Mode, Scenario};

const SMALL: &str = "name = 'demo'\nplanes = 2\nleaves = 4\nspines = 2\nhosts = 16\n";

#[test]
fn a_small_fabric_is_what_it_says() {
    let f = Fabric::parse(SMALL).unwrap();
    assert_eq!(
        (f.mode, f.shape.planes, f.shape.leaves, f.shape.spines, f.shape.hosts, f.shape.hosts_per_leaf),
        (Mode::Srv6, 2, 4, 2, 16, 4)
    );
    insta::assert_snapshot!(f.to_toml(), @r#"
name = "demo"
mode = "srv6"
planes = 2
leaves = 4
spines = 2
hosts = 16
hosts_per_leaf = 4
rails = 1
parallel = 1
access = { rate = "100Gbit/s", latency = "1us" }
trunk = { rate = "100Gbit/s", latency = "1us" }
"#);
    assert_eq!(Fabric::parse(&f.to_toml()), Ok(f));
}

#[test]
fn comments_order_and_format_do_not_change_the_epoch_and_everything_else_does() {
    let f = Fabric::parse(SMALL).unwrap();
    let same = "# a comment\nspines = 0x2\nplanes = 2 # two\nhosts_per_leaf = 4\nname = \"demo\"\n\nleaves = 4\nmode='srv6'\n[trunk]\nrate='100 Gbit/s'\n";
    assert_eq!(Fabric::parse(same).unwrap(), f);
    for change in [
        SMALL.replace("demo", "other"),
        SMALL.replace("16", "15"),
        format!("{SMALL}mode = 'ecmp'\n"),
        format!("{SMALL}trunk.latency = '2us'\n"),
        format!("{SMALL}[[remove]]\nlink = 'p0-leaf0:p0-spine0'\n"),
        format!("{SMALL}[[add]]\nlink = 'p0-leaf0:p0-spine0'\n"),
    ] {
        assert_ne!(Fabric::parse(&change).unwrap().epoch, f.epoch, "{change}");
    }
}

#[test]
fn oversubscription_derives_the_spines_or_checks_them() {
    let f = |more: &str| Fabric::parse(&format!("name='x'\nplanes=1\nleaves=4\nhosts_per_leaf=8\n{more}"));
    assert_eq!(f("oversubscription = '1:1'").unwrap().shape.spines, 8);
    assert_eq!(f("oversubscription = '2:1'").unwrap().shape.spines, 4);
    assert_eq!(f("oversubscription = '2:1'\ntrunk.rate = '400Gbit/s'").unwrap().shape.spines, 1);
    assert_eq!(f("oversubscription = '2:1'\nspines = 4").unwrap().shape.spines, 4);
    assert_eq!(f("oversubscription = '2:1'\nparallel = 2").unwrap().shape.spines, 2);
}

/// One error: its place and its words.
fn refused(text: &str) -> String {
    let e = Scenario::parse(text).unwrap_err();
    format!("{}\n{}", e.located("fabric.toml"), e.excerpt(text))
}

#[test]
fn every_error_says_where_what_and_what_instead() {
    let cases = [
        "name = 'demo'\nplanes = 2\nleafs = 4\n".to_string(),
        "name = 'demo'\nplanes = \n".to_string(),
        "planes = 2\n".to_string(),
        SMALL.replace("planes = 2", "planes = 257"),
        SMALL.replace("planes = 2", "planes = \"two\""),
        SMALL.replace("planes = 2", "planes = -1"),
        SMALL.replace("spines = 2\n", ""),
        SMALL.replace("hosts = 16\n", ""),
        SMALL.replace("demo", "de mo"),
        format!("{SMALL}hosts_per_leaf = 3\n"),
        format!("{SMALL}rails = 3\n"),
        format!("{SMALL}mode = 'srv5'\n"),
        format!("{SMALL}oversubscription = '3:1'\n"),
        format!("{SMALL}oversubscription = '1:1'\n"),
        format!("{SMALL}oversubscription = 2\n"),
        format!("{SMALL}trunk = {{ rate = '100G' }}\n"),
        format!("{SMALL}[access]\nlatency = '1'\nspeed = 3\n"),
        format!("{SMALL}[access]\nlatency = '1'\n"),
        format!("{SMALL}[[remove]]\nlink = 'p0-leaf9:p0-spine0'\n"),
        format!("{SMALL}[[remove]]\nnic = 'host3-p7'\n"),
        format!("{SMALL}[[remove]]\nlink = 'host3:p0-leaf0'\n[[remove]]\nnic = 'host3-p0'\n"),
        format!("{SMALL}[[remove]]\n"),
        format!("{SMALL}[[add]]\nlink = 'host3:p0-leaf0'\n"),
        format!("{SMALL}[[add]]\nlink = 'p0-leaf0:p0-spine0'\n[[remove]]\nlink = 'p0-leaf0:p0-spine0#1'\n"),
        SMALL.replace("spines = 2", "spines = 57341"),
        SMALL.replace("hosts = 16", "hosts = 40000"),
        "name = 'demo'\nplanes = 256\nleaves = 20000\nspines = 20000\nhosts = 1\n".to_string(),
        format!("planes = 2\nplanes = 3\n{SMALL}"),
    ];
    let said: Vec<String> = cases.iter().map(|text| refused(text)).collect();
    insta::assert_snapshot!(said.join("\n\n"), @r#"
fabric.toml:3:1: unknown key `leafs` in the fabric (did you mean `leaves`?); expected one of `name`, `mode`, `planes`, `leaves`, `spines`, `hosts`, `hosts_per_leaf`, `rails`, `parallel`, `oversubscription`, `access`, `trunk`, `add`, `remove`
  |
3 | leafs = 4
  | ^^^^^

fabric.toml:2:10: this is not TOML: string values must be quoted, expected literal string
  |
2 | planes = 
  |          ^

fabric.toml:1:1: the fabric has no `name`; expected a name of 1 to 40 letters, digits, `-` or `_`
  |
1 | planes = 2
  | ^

fabric.toml:2:10: `planes` is 257; expected 1 to 256
  |
2 | planes = 257
  |          ^^^

fabric.toml:2:10: `planes` is a string; expected a whole number
  |
2 | planes = "two"
  |          ^^^^^

fabric.toml:2:10: `planes` is -1; expected 1 to 256
  |
2 | planes = -1
  |          ^^

fabric.toml:1:1: the fabric has no `spines`; expected the number of spines in each plane, or `oversubscription = "1:1"` to derive it
  |
1 | name = 'demo'
  | ^

fabric.toml:1:1: the fabric has no `hosts`; expected the number of hosts in all, or `hosts_per_leaf`
  |
1 | name = 'demo'
  | ^

fabric.toml:1:8: `name` is "de mo"; expected a name of 1 to 40 letters, digits, `-` or `_`
  |
1 | name = 'de mo'
  |        ^^^^^^^

fabric.toml:5:9: 16 hosts do not fit; expected at most 12: 4 leaves / 1 rails * 3 hosts per leaf
  |
5 | hosts = 16
  |         ^^

fabric.toml:6:9: 4 leaves do not divide by 3 rails; expected `leaves` to be a multiple of `rails`, for instance 6
  |
6 | rails = 3
  |         ^

fabric.toml:6:8: `mode` is "srv5" (did you mean `srv6`?); expected one of `srv6`, `ecmp`
  |
6 | mode = 'srv5'
  |        ^^^^^^

fabric.toml:6:20: oversubscription 3:1 contradicts the rest: 400 Gbit/s of host ports against 200 Gbit/s of spine ports on each leaf; expected a ratio that a whole number of spines gives
  |
6 | oversubscription = '3:1'
  |                    ^^^^^

fabric.toml:6:20: oversubscription 1:1 contradicts the rest: 400 Gbit/s of host ports against 200 Gbit/s of spine ports on each leaf; expected spines = 4, or no `oversubscription`
  |
6 | oversubscription = '1:1'
  |                    ^^^^^

fabric.toml:6:20: `oversubscription` is an integer; expected a ratio such as "2:1" (host ports to spine ports of a leaf)
  |
6 | oversubscription = 2
  |                    ^

fabric.toml:6:18: `rate` is "100G"; expected a rate such as "100Gbit/s" (bit/s, kbit/s, Mbit/s, Gbit/s, Tbit/s)
  |
6 | trunk = { rate = '100G' }
  |                  ^^^^^^

fabric.toml:8:1: unknown key `speed` in the cables of hosts (`access`); expected one of `rate`, `latency`
  |
8 | speed = 3
  | ^^^^^

fabric.toml:7:11: `latency` is "1"; expected a time such as "1us" or "2.5s" (ns, us, ms, s, min)
  |
7 | latency = '1'
  |           ^^^

fabric.toml:7:8: there is no link to leave out "p0-leaf9:p0-spine0"; this fabric has planes p0 to p1, leaf0 to leaf3, spine0 to spine1, host0 to host15, and names like p0-leaf0:p0-spine0 or host0:p0-leaf0
  |
7 | link = 'p0-leaf9:p0-spine0'
  |        ^^^^^^^^^^^^^^^^^^^^

fabric.toml:7:7: there is no NIC to leave out "host3-p7"; this fabric has planes p0 to p1, leaf0 to leaf3, spine0 to spine1, host0 to host15, and names like host0-p0
  |
7 | nic = 'host3-p7'
  |       ^^^^^^^^^^

fabric.toml:9:7: "host3:p0-leaf0" is removed twice; expected each cable at most once
  |
9 | nic = 'host3-p0'
  |       ^^^^^^^^^^

fabric.toml:6:1: a `[[remove]]` has 0 of `link`, `nic`; expected exactly one
  |
6 | [[remove]]
  | ^

fabric.toml:7:8: there is no leaf and spine to add a cable between "host3:p0-leaf0"; this fabric has planes p0 to p1, leaf0 to leaf3, spine0 to spine1, host0 to host15, and names like p0-leaf0:p0-spine0
  |
7 | link = 'host3:p0-leaf0'
  |        ^^^^^^^^^^^^^^^^

fabric.toml:9:8: "p0-leaf0:p0-spine0#1" is added and removed; expected neither
  |
9 | link = 'p0-leaf0:p0-spine0#1'
  |        ^^^^^^^^^^^^^^^^^^^^^^

fabric.toml:1:1: 57345 uSIDs for the switches of a plane; expected at most 57343
  |
1 | name = 'demo'
  | ^

fabric.toml:5:9: 10000 hosts on each leaf; expected at most 8192
  |
5 | hosts = 40000
  |         ^^^^^

fabric.toml:1:1: 10240000 switches; expected at most 8388606
  |
1 | name = 'demo'
  | ^

fabric.toml:2:1: this is not TOML: duplicate key
  |
2 | planes = 3
  | ^^^^^^
"#);
}

const FAULTY: &str = "name = 'test'\n[fabric]\nplanes = 2\nleaves = 4\nspines = 2\nhosts = 16\n";

#[test]
fn every_error_in_a_scenario_says_the_same() {
    let fault = |target: &str, kind: &str, more: &str| {
        format!("{FAULTY}[[fault]]\ntarget = '{target}'\nkind = '{kind}'\n{more}\n")
    };
    let link = "p0-leaf1:p0-spine0";
    let cases = [
        FAULTY.replace("name = 'test'\n", ""),
        FAULTY.replace("[fabric]", "[fabrics]"),
        format!("{FAULTY}[[faults]]\n"),
        format!("{FAULTY}[[fault]]\nkind = 'drop 1%'\n"),
        fault("p0-leaf1:p0-leaf2", "drop 1%", ""),
        fault("p0-leaf1/9000%", "drop 1%", ""),
        fault("host3/2", "drop 1%", ""),
        fault(link, "dorp 1%", ""),
        fault(link, "drop", ""),
        fault(link, "drop 0.001%", ""),
        fault(link, "delay 5", ""),
        fault(link, "flap period 2s", ""),
        fault(link, "cpu-stall stopped 50ms period 200ms", ""),
        fault("host3", "cpu-stall stopped 200ms period 200ms", ""),
        fault(link, "drop 1%", "at = '5s'\nuntil = '5s'"),
        fault(link, "drop 1%", "direction = 'backwards'"),
        fault(link, "drop 1%", "expect = ['host3', 'host99']"),
        format!("{FAULTY}[probe]\nwindow = '2s'\n"),
        format!("{FAULTY}[expect]\nkinds = ['losses']\n"),
        format!("{FAULTY}[expect]\nnothing = 'yes'\n"),
    ];
    let said: Vec<String> = cases.iter().map(|text| refused(text)).collect();
    insta::assert_snapshot!(said.join("\n\n"), @r#"
fabric.toml:1:1: the fabric has no `name`; expected a name of 1 to 40 letters, digits, `-` or `_`
  |
1 | [fabric]
  | ^

fabric.toml:2:2: unknown key `fabrics` in the scenario (did you mean `fabric`?); expected one of `name`, `description`, `seed`, `duration`, `fabric`, `probe`, `fault`, `expect`
  |
2 | [fabrics]
  |  ^^^^^^^

fabric.toml:7:3: unknown key `faults` in the scenario (did you mean `fault`?); expected one of `name`, `description`, `seed`, `duration`, `fabric`, `probe`, `fault`, `expect`
  |
7 | [[faults]]
  |   ^^^^^^

fabric.toml:7:1: a `[[fault]]` has no `target`; expected the name of a link (p0-leaf1:p0-spine0), switch (p0-spine1), some of a switch's ports (p0-spine1/2, p0-spine1/50% or p0-spine1/p0-leaf0,p0-leaf3), NIC (host3-p1) or host (host3), or random-link, random-trunk, random-switch, random-nic or random-host
  |
7 | [[fault]]
  | ^

fabric.toml:8:10: there is no component "p0-leaf1:p0-leaf2"; this fabric has planes p0 to p1, leaf0 to leaf3, spine0 to spine1, host0 to host15, and names like p0-leaf0:p0-spine0, p0-leaf0, p0-leaf0/2, host0-p0, host0, random-link
  |
8 | target = 'p0-leaf1:p0-leaf2'
  |          ^^^^^^^^^^^^^^^^^^^

fabric.toml:8:10: there is no port of that switch "p0-leaf1/9000%"; this fabric has planes p0 to p1, leaf0 to leaf3, spine0 to spine1, host0 to host15, and names like p0-leaf0:p0-spine0, p0-leaf0, p0-leaf0/2, host0-p0, host0, random-link
  |
8 | target = 'p0-leaf1/9000%'
  |          ^^^^^^^^^^^^^^^^

fabric.toml:8:10: there is no switch whose ports to break "host3/2"; this fabric has planes p0 to p1, leaf0 to leaf3, spine0 to spine1, host0 to host15, and names like p0-leaf0:p0-spine0, p0-leaf0, p0-leaf0/2, host0-p0, host0, random-link
  |
8 | target = 'host3/2'
  |          ^^^^^^^^^

fabric.toml:9:8: `kind` is "dorp" (did you mean `down`?); expected one of `drop`, `blackhole`, `corrupt`, `reorder`, `ecn`, `rate-limit`, `delay`, `down`, `flap`, `cpu-stall`, `agent-stop`
  |
9 | kind = 'dorp 1%'
  |        ^^^^^^^^^

fabric.toml:9:8: "drop" is not a fault; expected `drop RATE` (0.01% to 100%), for instance `drop 1%`
  |
9 | kind = 'drop'
  |        ^^^^^^

fabric.toml:9:8: "drop 0.001%" is not a fault; expected `drop RATE` (0.01% to 100%), for instance `drop 1%`
  |
9 | kind = 'drop 0.001%'
  |        ^^^^^^^^^^^^^

fabric.toml:9:8: "delay 5" is not a fault; expected `delay TIME [jitter TIME]`, for instance `delay 5ms jitter 1ms`
  |
9 | kind = 'delay 5'
  |        ^^^^^^^^^

fabric.toml:9:8: "flap period 2s" is not a fault; expected `flap period TIME duty SHARE [rate RATE]`, for instance `flap period 2s duty 30%`
  |
9 | kind = 'flap period 2s'
  |        ^^^^^^^^^^^^^^^^

fabric.toml:9:8: `cpu-stall` cannot happen to a link; expected a host such as host3
  |
9 | kind = 'cpu-stall stopped 50ms period 200ms'
  |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

fabric.toml:9:8: "cpu-stall stopped 200ms period 200ms" is not a fault; expected `cpu-stall stopped TIME period TIME`, for instance `cpu-stall stopped 50ms period 200ms`
  |
9 | kind = 'cpu-stall stopped 200ms period 200ms'
  |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

fabric.toml:11:9: `until` is 5.0 s and `at` is 5.0 s; expected `until` to be later
   |
11 | until = '5s'
   |         ^^^^

fabric.toml:10:13: `direction` is "backwards" (did you mean `backward`?); expected one of `forward`, `backward`, `both`
   |
10 | direction = 'backwards'
   |             ^^^^^^^^^^^

fabric.toml:10:20: there is no component "host99"; this fabric has planes p0 to p1, leaf0 to leaf3, spine0 to spine1, host0 to host15, and names like p0-leaf0:p0-spine0, p0-leaf0, host0-p0, host0
   |
10 | expect = ['host3', 'host99']
   |                    ^^^^^^^^

fabric.toml:8:10: `window` is "2s"; expected a time from "100ms" to "1s"
  |
8 | window = '2s'
  |          ^^^^

fabric.toml:8:10: `kinds` is "losses" (did you mean `loss`?); expected one of `loss`, `blackhole`, `selective_loss`, `corruption`, `reorder`, `ecn_marking`, `delay`, `congestion`, `flap`, `host_stall`, `agent_stopped`
  |
8 | kinds = ['losses']
  |          ^^^^^^^^

fabric.toml:8:11: `nothing` is a string; expected true or false
  |
8 | nothing = 'yes'
  |           ^^^^^
"#);
}

#[test]
fn a_scenario_in_full() {
    let text = format!(
        "{FAULTY}[probe]\npackets_per_second = 100\nwindow = '250ms'\ntrain = 4\nsize = 1000\n\
         [[fault]]\ntarget = 'p0-spine1/p0-leaf0,p0-leaf3'\nkind = 'reorder 5%'\nat = '2s'\nuntil = '10s'\ndirection = 'backward'\n\
         [[fault]]\ntarget = 'host3'\nkind = 'agent-stop'\nexpect = ['host3']\n[expect]\nwithin = '4s'\n"
    );
    let s = Scenario::parse(&text).unwrap();
    assert_eq!((s.name.as_str(), s.fabric.name.as_str(), s.duration.0), ("test", "test", 40_000_000_000));
    let (probe, f) = (s.probe, &s.fabric);
    assert_eq!(
        (probe.packets_per_second, probe.window.as_millis(), probe.train, probe.size),
        (100, 250, 4, 1000)
    );
    let names: Vec<String> = s.faults[0].links(f).into_iter().map(|l| f.link_name(l)).collect();
    assert_eq!(names, ["p0-leaf0:p0-spine1", "p0-leaf3:p0-spine1"]);
    let expected = s.expected();
    let right: Vec<String> = expected[0].components.iter().map(|&c| f.component_name(c)).collect();
    assert_eq!(right, ["p0-spine1", "p0-leaf0:p0-spine1", "p0-leaf3:p0-spine1"]);
    assert_eq!((expected[0].kinds[0], expected[1].kinds[0]), ("reorder", "agent_stopped"));
    assert_eq!(expected[1].within.0, 4_000_000_000);
}

#[test]
fn a_plain_fabric_is_a_scenario_in_which_nothing_breaks() {
    let s = Scenario::parse(SMALL).unwrap();
    assert_eq!(s.fabric, Fabric::parse(SMALL).unwrap());
    assert!(s.faults.is_empty() && s.expected().is_empty() && s.expect.nothing);
}

#[test]
fn what_is_amiss_is_found_though_it_reads() {
    let found = |more: &str| -> Vec<String> {
        let f = Fabric::parse(&format!("{SMALL}{more}")).unwrap();
        f.check().iter().map(|finding| finding.sentence(&f)).collect()
    };
    let cut = |names: &[&str]| names.iter().map(|n| format!("[[remove]]\nlink='{n}'\n")).collect::<String>();
    assert_eq!(found(""), [""; 0]);
    assert_eq!(found(&cut(&["host3:p0-leaf0"])), ["host3 has 1 of 2 NICs"]);
    assert_eq!(found(&cut(&["host3:p0-leaf0", "p1-leaf0:host3"])), ["host3 has no NIC at all"]);
    assert_eq!(
        found(&cut(&["p0-leaf1:p0-spine0", "p0-leaf1:p0-spine1"])),
        ["p0-leaf1 has no cable to any spine: its hosts reach only each other"]
    );
    assert_eq!(
        found(&cut(&["p0-leaf1:p0-spine0", "p0-leaf2:p0-spine1"])),
        ["p0-leaf1 and p0-leaf2 have no spine in common: their hosts do not reach each other in this plane"]
    );
    assert_eq!(
        found(&cut(&[
            "p0-leaf0:p0-spine0",
            "p0-leaf1:p0-spine0",
            "p0-leaf2:p0-spine0",
            "p0-leaf3:p0-spine0"
        ])),
        ["p0-spine0 has no cable to any leaf"]
    );
}
