//! Surveys over a network made of one closure: which directed links lose which packets.

use super::*;
use crate::trace::{Hop as TraceHop, path_of_hops};
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use wire::proto::HopConfidence as Confidence;

fn fabric(mode: &str) -> Arc<Fabric> {
    let text = format!(
        "name = 't'\nmode = '{mode}'\nplanes = 2\nleaves = 2\nspines = 2\nhosts = 4\n\
         access = {{ rate = '100Gbit/s', latency = '1us' }}\ntrunk = {{ rate = '100Gbit/s', latency = '1us' }}\n"
    );
    Arc::new(Fabric::parse(&text).unwrap())
}

struct Network<'a> {
    fabric: &'a Fabric,
    /// Whether a packet is lost on a directed link; called in the order packets cross.
    loses: &'a mut dyn FnMut(wire::LinkId) -> bool,
    /// Whether a switch answers.
    answers: &'a mut dyn FnMut(SwitchId) -> bool,
    in_band: bool,
    counts: BTreeMap<u16, u32>,
}

impl Network<'_> {
    fn crosses(&mut self, links: &[wire::LinkId]) -> bool {
        links.iter().all(|l| !(self.loses)(*l))
    }

    fn carry(&mut self, survey: &mut Survey, p: &SurveyProbe, now: Nanos) {
        let f = self.fabric;
        let probe = &p.probe;
        let path = match f.mode {
            Mode::Srv6 => probe.path,
            // the network's own choice
            Mode::Ecmp => {
                let lane = mix(probe.flow_label.into()) % u64::from(f.lanes());
                f.path(probe.from, probe.to, lane as u32).unwrap()
            }
        };
        let links = f.path_links(path).unwrap();
        let back: Vec<_> = links.iter().rev().map(|l| l.reverse()).collect();
        let switches: Vec<SwitchId> = links
            .iter()
            .filter_map(|l| match f.link_ends(*l).unwrap().1 {
                Node::Switch(s) => Some(s),
                Node::Nic(_) => None,
            })
            .collect();
        let at = now + Nanos::from_micros(50);
        match p.kind {
            Kind::Whole => {
                if !self.crosses(&links) {
                    return;
                }
                let count = self.counts.entry(probe.ssid).or_default();
                *count += 1;
                let reflector_sequence = *count - 1;
                if !self.crosses(&back) {
                    return;
                }
                let hops: Vec<TraceHop> =
                    switches.iter().map(|s| TraceHop { node: s.0 + 1, ..TraceHop::default() }).collect();
                let known = self.in_band.then(|| path_of_hops(f, probe.from, probe.to, &hops)).flatten();
                let reply = Reply {
                    ssid: probe.ssid,
                    from: probe.to,
                    sequence: probe.sequence,
                    reflector_sequence,
                    t1: probe.t1,
                    t2: now + Nanos::from_micros(20),
                    t3: now + Nanos::from_micros(25),
                    t4: at,
                    forward_ecn: None,
                    backward_ecn: 0,
                    synchronized: true,
                    forward_path: known,
                    backward_path: None,
                };
                survey.handle_reply(&reply).unwrap();
                assert!(survey.handle_reply(&reply).is_err(), "an answer counts once");
            }
            Kind::Limited { hop_limit } => {
                let n = usize::from(hop_limit);
                let Some(switch) = switches.get(n - 1) else { return };
                let back: Vec<_> = links[..n].iter().rev().map(|l| l.reverse()).collect();
                if !self.crosses(&links[..n]) || !(self.answers)(*switch) || !self.crosses(&back) {
                    return;
                }
                let nodes: Vec<NodeData> = switches[..n]
                    .iter()
                    .zip(1u32..)
                    .filter(|_| self.in_band)
                    .map(|(s, i)| NodeData {
                        node: s.0 + 1,
                        ingress: 3,
                        egress: 0xffff,
                        seconds: (now.0 / 1_000_000_000) as u32,
                        fraction: (now.0 % 1_000_000_000 / 1_000) as u32 + 10 * i,
                        ..NodeData::default()
                    })
                    .collect();
                let by = f.switch_addr(*switch);
                let number = probe.sequence;
                survey.handle_time_exceeded(at, probe.ssid, number, by, &nodes).unwrap();
            }
            Kind::Turned { container } => {
                assert_eq!(probe.from, probe.to);
                let hop = (1..4).find(|h| turn_container(f, path, *h) == Some(container)).unwrap();
                let mut way = links[..hop].to_vec();
                way.extend(links[..hop].iter().rev().map(|l| l.reverse()));
                if self.crosses(&way) {
                    survey.handle_returned(at, probe.ssid, probe.sequence).unwrap();
                }
            }
        }
    }

    fn run(&mut self, config: SurveyConfig) -> TraceReport {
        self.run_to(HostId(3), config)
    }

    fn run_to(&mut self, to: HostId, config: SurveyConfig) -> TraceReport {
        let fabric = Arc::new(self.fabric.clone());
        let mut now = Nanos::from_secs(1_000);
        let mut survey = Survey::new(fabric, HostId(0), to, now, config).unwrap();
        let (mut steps, start) = (0, now);
        while let Some(at) = survey.next_timeout() {
            now = now.max(at);
            while let Some(p) = survey.poll_output(now) {
                self.carry(&mut survey, &p, now);
            }
            survey.handle_timeout(now);
            steps += 1;
            assert!(steps < 200_000, "it ends");
        }
        let took = now.since(start).0 as f64 / 1e9;
        let report = survey.report();
        assert!(report.packets_sent as f64 <= took * f64::from(config.packets_per_second) + 20.0, "{took}");
        report
    }
}

fn paths_with<'a>(report: &'a TraceReport, link: &'a str) -> impl Iterator<Item = (&'a PathReport, usize)> {
    report.paths.iter().filter_map(move |p| Some((p, p.hops.iter().position(|h| h.link_name == link)?)))
}

use wire::proto::{PathReport, TraceReport};

#[test]
fn the_link_that_loses_is_found_on_every_path_over_it_and_on_no_other() {
    let f = fabric("srv6");
    let sick = f.link_by_name("p1-leaf0:p1-spine1").unwrap();
    for direction in [sick, sick.reverse()] {
        let mut n = 0;
        let mut loses = |l| {
            n += u64::from(l == direction);
            l == direction && mix(n).is_multiple_of(2)
        };
        let mut network = Network {
            fabric: &f,
            loses: &mut loses,
            answers: &mut |_| true,
            in_band: false,
            counts: BTreeMap::new(),
        };
        let report = network.run(SurveyConfig { rounds: 200, ..SurveyConfig::default() });
        assert_eq!((report.paths.len(), report.exact), (4, true), "two planes, two spines");
        let name = f.link_name(sick);
        for p in &report.paths {
            let sick_hop = p.hops.iter().position(|h| h.link_name == name);
            assert_eq!(p.hops.len(), 4);
            for (i, h) in p.hops.iter().enumerate() {
                assert!(h.seen, "{h:?}");
                assert_eq!(h.confidence(), Confidence::HopMeasured);
                let loses_here = Some(i) == sick_hop;
                assert!((h.loss_here - h.loss_here_doubt > 0.1) == loses_here, "{h:?}");
            }
            let (forward, backward) = (p.lost_forward, p.lost_backward);
            match (sick_hop, direction == sick) {
                (None, _) => assert_eq!((forward, backward), (0, 0)),
                (_, true) => assert!(forward > 10 && backward == 0, "{forward} {backward}"),
                (_, false) => assert!(backward > 10 && forward == 0, "{forward} {backward}"),
            }
        }
    }
}

#[test]
fn a_dead_link_leaves_what_is_behind_it_unknown() {
    let f = fabric("srv6");
    let dead = f.link_by_name("p0-spine0:p0-leaf1").unwrap();
    let mut network = Network {
        fabric: &f,
        loses: &mut |l| l == dead,
        answers: &mut |_| true,
        in_band: false,
        counts: BTreeMap::new(),
    };
    let report = network.run(SurveyConfig::default());
    let (p, at) = paths_with(&report, "p0-spine0:p0-leaf1").next().unwrap();
    assert_eq!((at, p.answered, p.hops[2].loss_here), (2, 0, 1.0));
    assert_eq!(p.hops[1].loss_before, 0.0);
    assert_eq!(p.hops[3].confidence(), Confidence::HopUnknown);
}

fn ecmp(in_band: bool, loses: &mut dyn FnMut(wire::LinkId) -> bool, silent: Option<&str>) -> TraceReport {
    let f = fabric("ecmp");
    let silent = silent.and_then(|name| f.switch_by_addr(f.switch_addr(switch(&f, name))));
    let mut asked = 0u32;
    let mut answers = |s: SwitchId| {
        asked += u32::from(Some(s) == silent);
        // one in four: a router that answers seldom
        Some(s) != silent || asked.is_multiple_of(4)
    };
    let mut network = Network { fabric: &f, loses, answers: &mut answers, in_band, counts: BTreeMap::new() };
    network.run(SurveyConfig { rounds: 200, ..SurveyConfig::default() })
}

fn switch(f: &Fabric, name: &str) -> SwitchId {
    (0..f.switches()).map(SwitchId).find(|s| f.device_name(fabric::Device::Switch(*s)) == name).unwrap()
}

#[test]
fn every_path_of_a_hashing_network_is_found_and_its_lossy_hop() {
    let sick = fabric("ecmp").link_by_name("p0-spine1:p0-leaf1").unwrap();
    for in_band in [true, false] {
        let mut n = 0;
        let mut loses = |l| {
            n += u64::from(l == sick);
            l == sick && mix(n).is_multiple_of(2)
        };
        let report = ecmp(in_band, &mut loses, None);
        assert_eq!((report.paths.len(), report.notes.len()), (4, 0), "{:?}", report.notes);
        for p in &report.paths {
            assert!(p.found && p.flow_label > 0);
            for h in &p.hops {
                let here = h.link_name == "p0-spine1:p0-leaf1";
                assert!((h.loss_here - h.loss_here_doubt > 0.1) == here, "{in_band} {h:?}");
                if in_band && h.hop < 4 {
                    assert_eq!((h.ioam_delta_p50_ns, h.ingress), (10_000, 3));
                }
            }
        }
    }
}

#[test]
fn a_switch_that_answers_seldom_loses_nothing() {
    for who in ["p0-leaf0", "p0-leaf1"] {
        let report = ecmp(true, &mut |_| false, Some(who));
        for h in report.paths.iter().flat_map(|p| &p.hops) {
            assert_eq!(h.loss_here, 0.0, "{h:?}");
            let silent = h.node == who;
            let want = match h.hop {
                4 => Confidence::HopMeasured,
                _ if silent => Confidence::HopSilent,
                _ => Confidence::HopBounded,
            };
            assert_eq!(h.confidence(), want, "{h:?}");
        }
    }
}

#[test]
fn a_network_that_says_nothing_is_said_to_be_unknown() {
    let report = ecmp(false, &mut |_| true, None);
    assert!(report.paths.iter().all(|p| !p.found && p.hops.is_empty()));
    assert!(report.notes[0].starts_with("4 paths: no flow label"), "{:?}", report.notes);
}

#[test]
fn a_large_fabric_is_seen_whole_at_the_rate_asked_for() {
    let text = "name = 'l'\nmode = 'ecmp'\nplanes = 4\nleaves = 4\nspines = 32\nhosts = 64\n\
        access = { rate = '100Gbit/s', latency = '1us' }\ntrunk = { rate = '100Gbit/s', latency = '1us' }\n";
    for text in [text.to_string(), text.replace("ecmp", "srv6")] {
        let f = Fabric::parse(&text).unwrap();
        let mut network = Network {
            fabric: &f,
            loses: &mut |_| false,
            answers: &mut |_| true,
            in_band: true,
            counts: BTreeMap::new(),
        };
        let to = HostId(63);
        let config = SurveyConfig { rounds: 2, packets_per_second: 5_000, ..SurveyConfig::default() };
        let report = network.run_to(to, config);
        assert_eq!((report.paths.len(), report.notes.len()), (128, 0), "{:?}", report.notes);
        assert!(report.paths.iter().all(|p| p.found && p.answered == 2 && p.hops.len() == 4));
        assert!(report.took_ns < 10_000_000_000, "{}", report.took_ns);
    }
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let f = fabric("srv6");
    let new = |to, rounds| {
        let config = SurveyConfig { rounds, ..SurveyConfig::default() };
        Survey::new(f.clone(), HostId(0), HostId(to), Nanos::from_secs(1), config).err()
    };
    assert_eq!(new(9, 1), Some(SurveyError::NoSuchHost { host: HostId(9) }));
    assert_eq!(new(0, 1), Some(SurveyError::Itself { host: HostId(0) }));
    let many = new(3, 100_000).unwrap().to_string();
    assert!(many.contains("ask for fewer rounds"), "{many}");
    assert_eq!(new(3, 1), None);
    let mut survey =
        Survey::new(f.clone(), HostId(0), HostId(3), Nanos::from_secs(1), SurveyConfig::default()).unwrap();
    let p = survey.poll_output(Nanos::from_secs(1)).unwrap().probe;
    let now = Nanos::from_secs(1);
    assert_eq!(survey.handle_returned(now, p.ssid, p.sequence + 5), Err(Dropped::NeverSent));
    assert_eq!(survey.handle_returned(now, p.ssid ^ 1, p.sequence), Err(Dropped::WrongSession));
    let nobody = Ipv6Addr::LOCALHOST;
    assert_eq!(survey.handle_time_exceeded(now, p.ssid, p.sequence, nobody, &[]), Err(Dropped::WrongPeer));
    let far = vec![NodeData { node: 77, seconds: u32::MAX, ..NodeData::default() }];
    let by = f.switch_addr(SwitchId(0));
    assert!(survey.handle_time_exceeded(now, p.ssid, p.sequence, by, &far).is_err());
}
