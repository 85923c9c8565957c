//! The routes of one node of the lab, as the kernel takes them.
use crate::wiring::{Member, Owner, Wiring};
use fabric::{Fabric, Mode, Node, Tier};
use kernel::route::{Action, Hop, Route, TABLE_LOCAL};
use std::net::Ipv6Addr;
use wire::{LinkId, PlaneId};

impl Wiring {
    fn hop(&self, out: LinkId) -> Hop {
        Hop { via: link_local(out.reverse()), index: self.index(out) }
    }

    pub(crate) fn routes(&self, fabric: &Fabric, member: &Member) -> Vec<Route> {
        let srv6 = fabric.mode == Mode::Srv6;
        let mut out = Vec::new();
        let mut add = |to, prefix_len, source, action| out.push(Route { to, prefix_len, source, action });
        match member.owner {
            Owner::Host(_) => {
                for port in &member.ports {
                    let Ok(nic) = fabric.cable_of(port.link) else { continue };
                    let plane = fabric.nic_parts(nic).0;
                    let via = || Action::Via(vec![self.hop(port.link)]);
                    let source = Some(fabric.nic_addr(nic));
                    add(
                        Ipv6Addr::new(fabric::addr::NIC_NET, plane.0.into(), 0, 0, 0, 0, 0, 0),
                        32,
                        source,
                        via(),
                    );
                    if srv6 {
                        let [a, b] = fabric.block(plane);
                        add(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), 32, source, via());
                        let action = Action::EndDt6 { table: TABLE_LOCAL, index: port.index };
                        add(fabric.nic_sid(nic), 128, None, action);
                    }
                }
            }
            Owner::Switch(switch) => {
                let (plane, tier, number) = fabric.switch_parts(switch);
                let source = Some(fabric.switch_addr(switch));
                let s = &fabric.shape;
                let first = member.ports.first().map_or(0, |p| p.index);
                let usid = |usid: u16| {
                    let [a, b] = fabric.block(plane);
                    Ipv6Addr::new(a, b, usid, 0, 0, 0, 0, 0)
                };
                if srv6 {
                    for cable in 0..s.cables {
                        let action = Action::EndNextCsid { block_bits: 32, node_bits: 16, index: first };
                        add(usid(fabric.switch_usid(switch, cable)), 48, None, action);
                    }
                }
                for port in &member.ports {
                    let via = || Action::Via(vec![self.hop(port.link)]);
                    match (fabric.link_ends(port.link), fabric.cable_of(port.link)) {
                        (Some((_, Node::Nic(nic))), _) => {
                            let (leaf, at) = fabric.nic_leaf_port(nic);
                            add(net(plane, leaf as u16, at as u16), 64, source, via());
                            if srv6 {
                                add(usid(fabric.nic_usid(nic)), 48, None, via());
                            }
                        }
                        (Some((_, Node::Switch(to))), Err((_, _, cable))) => {
                            if srv6 {
                                add(usid(fabric.switch_usid(to, cable)), 48, None, via());
                            }
                        }
                        _ => {}
                    }
                }
                let trunks = |leaf: u32, spine: u32| {
                    (0..s.cables)
                        .map(move |c| fabric.trunk_link(plane, leaf, spine, c))
                        .filter(|&l| fabric.exists(l))
                };
                for leaf in 0..s.leaves {
                    let hops: Vec<Hop> = match tier {
                        Tier::Spine => trunks(leaf, number).map(|l| self.hop(l.reverse())).collect(),
                        Tier::Leaf if leaf == number => continue,
                        Tier::Leaf => (0..s.spines)
                            .filter(|&spine| trunks(leaf, spine).next().is_some())
                            .flat_map(|spine| trunks(number, spine))
                            .map(|l| self.hop(l))
                            .collect(),
                    };
                    if !hops.is_empty() {
                        add(net(plane, leaf as u16, 0), 48, source, Action::Via(hops));
                    }
                }
            }
        }
        out
    }
}

fn net(plane: PlaneId, leaf: u16, port: u16) -> Ipv6Addr {
    Ipv6Addr::new(fabric::addr::NIC_NET, plane.0.into(), leaf, port, 0, 0, 0, 0)
}

pub(crate) fn link_local(link: LinkId) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, (link.0 >> 16) as u16 | 0x8000, link.0 as u16)
}
pub(crate) fn mac(link: LinkId) -> [u8; 6] {
    let [a, b, c, d] = link.0.to_be_bytes();
    [0x02, 0x5e, a, b, c, d]
}
pub(crate) fn ifname(fabric: &Fabric, link: LinkId) -> String {
    match (fabric.cable_of(link), fabric.link_ends(link)) {
        (Ok(nic), Some((Node::Nic(_), _))) => {
            fabric.nic_name(nic).split_once('-').map_or(String::new(), |x| x.1.to_string())
        }
        (Err((_, _, cable)), Some((_, Node::Switch(to)))) => {
            let name = fabric.switch_name(to);
            let name = name.split_once('-').map_or("", |x| x.1);
            if cable == 0 { name.to_string() } else { format!("{name}-{cable}") }
        }
        (_, Some((_, to))) => fabric.node_name(to),
        _ => String::new(),
    }
}
