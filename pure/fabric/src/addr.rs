//! The address plan: IPv6 addresses of NICs and switches, and compressed SRv6 segments (uSIDs, RFC 9800).
//!
//! - A plane has a block of 32 bits: `fcbb:bb00::/32` plus the plane. The plane is in the block, so the same 16-bit
//!   numbers serve every plane.
//! - A switch has one global uSID per parallel cable that may lead to it: `1 + number * cables + cable`, leaves
//!   first (`0x0001 ..= 0xdfff`).
//! - A host has a segment that is local to its leaf: `0xe000 | port` (`0xe000 ..= 0xffff`, 8,192 ports). 65,536
//!   global numbers would not do for 131,072 hosts.
//! - A NIC's address is `fd5e:<plane>:<leaf>:<port>::1`, so one /48 route leads to a leaf and one /64 to a host.
//! - A switch answers (ICMP, traces) as `fd5e:<plane>:ffff:<number in plane>::1`.

use crate::shape::{Fabric, Tier};
use core::net::Ipv6Addr;
use wire::{NicId, PathId, PlaneId, SwitchId};

/// First 16 bits of every NIC and switch address.
pub const NIC_NET: u16 = 0xfd5e;
/// First 32 bits of plane 0's segment block.
pub const BLOCK: [u16; 2] = [0xfcbb, 0xbb00];
/// First uSID that is local to a leaf.
pub const LOCAL: u16 = 0xe000;
/// Leaf number that stands for "switches" in the address plan.
pub const SWITCHES: u16 = 0xffff;

impl Fabric {
    /// Address of a NIC.
    pub fn nic_addr(&self, nic: NicId) -> Ipv6Addr {
        let (plane, _, _) = self.nic_parts(nic);
        let (leaf, port) = self.nic_leaf_port(nic);
        Ipv6Addr::new(NIC_NET, plane.0.into(), leaf as u16, port as u16, 0, 0, 0, 1)
    }
    /// The NIC with this address.
    pub fn nic_by_addr(&self, addr: Ipv6Addr) -> Option<NicId> {
        let s = addr.segments();
        let plane = PlaneId(u8::try_from(s[1]).ok()?);
        let nic = self.nic_at(plane, s[2].into(), s[3].into())?;
        (self.nic_addr(nic) == addr).then_some(nic)
    }
    /// Address of a switch.
    pub fn switch_addr(&self, switch: SwitchId) -> Ipv6Addr {
        let plane = switch.0 / self.switches_per_plane();
        let number = switch.0 % self.switches_per_plane();
        Ipv6Addr::new(NIC_NET, plane as u16, SWITCHES, number as u16, 0, 0, 0, 1)
    }
    /// The switch with this address.
    pub fn switch_by_addr(&self, addr: Ipv6Addr) -> Option<SwitchId> {
        let s = addr.segments();
        if u32::from(s[1]) >= self.shape.planes || u32::from(s[3]) >= self.switches_per_plane() {
            return None;
        }
        let switch = SwitchId(u32::from(s[1]) * self.switches_per_plane() + u32::from(s[3]));
        (self.switch_addr(switch) == addr).then_some(switch)
    }
    /// The plane's block, as its two first 16-bit groups.
    pub fn block(&self, plane: PlaneId) -> [u16; 2] {
        [BLOCK[0], BLOCK[1] + u16::from(plane.0)]
    }
    /// Global uSID of a switch, as reached over parallel cable `cable`.
    pub fn switch_usid(&self, switch: SwitchId, cable: u32) -> u16 {
        (1 + (switch.0 % self.switches_per_plane()) * self.shape.cables + cable) as u16
    }
    /// uSID of a NIC, local to its leaf.
    pub fn nic_usid(&self, nic: NicId) -> u16 {
        LOCAL | self.nic_leaf_port(nic).1 as u16
    }
    /// The address under which a NIC terminates SRv6 (End.DT6).
    pub fn nic_sid(&self, nic: NicId) -> Ipv6Addr {
        let [a, b] = self.block(self.nic_parts(nic).0);
        Ipv6Addr::new(a, b, self.nic_usid(nic), 0, 0, 0, 0, 0)
    }
    /// The outer destination that takes a packet along a path: block, spine, leaf, host. `None` where the path does
    /// not exist.
    pub fn path_container(&self, path: PathId) -> Option<Ipv6Addr> {
        let links = self.path_links(path)?;
        let (_, to, lane) = self.path_parts(path)?;
        let (plane, _, _) = self.nic_parts(to);
        let [a, b] = self.block(plane);
        let leaf = self.switch(plane, Tier::Leaf, self.nic_leaf_port(to).0)?;
        if links.len() == 2 {
            return Some(Ipv6Addr::new(a, b, self.switch_usid(leaf, 0), self.nic_usid(to), 0, 0, 0, 0));
        }
        let (spine, up, down) = self.lane_parts(lane);
        let spine = self.switch(plane, Tier::Spine, spine)?;
        Some(Ipv6Addr::new(
            a,
            b,
            self.switch_usid(spine, up),
            self.switch_usid(leaf, down),
            self.nic_usid(to),
            0,
            0,
            0,
        ))
    }
    /// The path a container leads along from a NIC, where it is one of the NIC's paths.
    pub fn path_by_container(&self, from: NicId, container: Ipv6Addr) -> Option<PathId> {
        let s = container.segments();
        let (plane, _, _) = self.nic_parts(from);
        if s[..2] != self.block(plane) {
            return None;
        }
        let c = self.shape.cables;
        let leaves = self.shape.leaves;
        let (switch, cable) = (u32::from(s[2]).checked_sub(1)? / c, u32::from(s[2]).checked_sub(1)? % c);
        let (leaf, port, lane) = if switch >= leaves {
            let l = u32::from(s[3]).checked_sub(1)?;
            (l / c, s[4], ((switch - leaves) * c + cable) * c + l % c)
        } else {
            (switch, s[3], 0)
        };
        let to = self.nic_at(plane, leaf, u32::from(port.checked_sub(LOCAL)?))?;
        let path = self.path(from, to, lane)?;
        (self.path_container(path)? == container).then_some(path)
    }
}
