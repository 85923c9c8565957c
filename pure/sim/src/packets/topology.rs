//! Fat trees and leaf-spine fabrics, as the experiments describe them, and the links of a path through one.
//!
//! How: hosts hang on leaves, leaves of a pod on its middle switches, these on cores; with two tiers there is one pod
//! and no core. A path is two numbers: which uplink a leaf takes, and which uplink a middle switch takes. The way down
//! has no choice. Links are numbered by tier and direction, so a path is arithmetic.
//!
//! Invariants: every link has one number below [`Topology::links`]; a path between hosts of one leaf has two links, of
//! one pod four, else six. Paths are ordered so that neighbours begin on different links.
//! Absent on purpose: switches with a latency of their own, bundles of parallel links.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Longest path, links.
pub const HOPS_MAX: usize = 6;

/// What is wrong with a topology file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// A line that cannot be read.
    #[error("line {line}: expected {expected}, found {found:?}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What should stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The values do not make a fabric.
    #[error("expected {expected}, found {found}")]
    Shape {
        /// What should hold.
        expected: &'static str,
        /// What the file says.
        found: String,
    },
}

/// A fabric of two or three tiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Hosts.
    pub hosts: u32,
    /// Hosts of one leaf.
    pub hosts_per_leaf: u32,
    /// Leaves of one pod.
    pub leaves_per_pod: u32,
    /// Middle switches of one pod; with two tiers, spines.
    pub mids_per_pod: u32,
    /// Uplinks of a middle switch; 0 with two tiers.
    pub cores_per_mid: u32,
    /// Pods.
    pub pods: u32,
    /// Speed of a link by the tier of its lower end (host, leaf, middle), bits a second.
    pub rate_bps: [u64; 3],
    /// Length of a link by the tier of its lower end, picoseconds.
    pub latency_ps: [u64; 3],
}

/// Which way a link goes, and between which tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Host to leaf.
    HostUp,
    /// Leaf to host.
    LeafDown,
    /// Leaf to middle.
    LeafUp,
    /// Middle to leaf.
    MidDown,
    /// Middle to core.
    MidUp,
    /// Core to middle.
    CoreDown,
}

impl Kind {
    /// The tier of the lower end: 0 host, 1 leaf, 2 middle.
    pub const fn tier(self) -> usize {
        match self {
            Kind::HostUp | Kind::LeafDown => 0,
            Kind::LeafUp | Kind::MidDown => 1,
            Kind::MidUp | Kind::CoreDown => 2,
        }
    }
}

/// The links of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The first `len` of it.
    pub links: [u32; HOPS_MAX],
    /// `2 ..= 6`.
    pub len: u8,
}

impl Topology {
    /// The smallest three-tier fat tree of equal switches that holds this many hosts, 100 Gb/s and 1 us a link.
    pub fn fat_tree(nodes: u32) -> Self {
        let mut k = 2;
        while k * k * k / 4 < nodes {
            k += 2;
        }
        let half = k / 2;
        Self {
            hosts: k * half * half,
            hosts_per_leaf: half,
            leaves_per_pod: half,
            mids_per_pod: half,
            cores_per_mid: half,
            pods: k,
            rate_bps: [100_000_000_000; 3],
            latency_ps: [1_000_000; 3],
        }
    }

    /// Reads a `.topo` file.
    pub fn parse(text: &str) -> Result<Self, TopologyError> {
        let (mut nodes, mut tiers, mut pod) = (0u32, 0u32, 0u32);
        let mut tier = None;
        let mut down = [0u32; 3];
        let mut up = [0u32; 3];
        let mut speed = [0u32; 3];
        let mut latency = [0u32; 3];
        for (i, raw) in text.lines().enumerate() {
            let words: Vec<&str> = raw.split_whitespace().collect();
            let (Some(&key), value) = (words.first(), words.get(1)) else { continue };
            if key.starts_with('#') {
                continue;
            }
            let bad = |expected| TopologyError::Line { line: i + 1, expected, found: raw.trim().to_string() };
            let number: u32 = value.and_then(|v| v.parse().ok()).ok_or(bad("a word and a whole number"))?;
            let key = key.to_ascii_lowercase();
            if key == "tier" {
                tier =
                    Some(usize::try_from(number).ok().filter(|&t| t < 3).ok_or(bad("a tier of 0, 1 or 2"))?);
                continue;
            }
            let Some(t) = tier else {
                match key.as_str() {
                    "nodes" => nodes = number,
                    "tiers" => tiers = number,
                    "podsize" => pod = number,
                    _ => return Err(bad("Nodes, Tiers, Podsize or Tier")),
                }
                continue;
            };
            match key.as_str() {
                "downlink_speed_gbps" => speed[t] = number,
                "radix_down" => down[t] = number,
                "radix_up" => up[t] = number,
                "downlink_latency_ns" => latency[t] = number,
                // said by the radices already
                "oversubscribed" => {}
                "switch_latency_ns" if number == 0 => {}
                "bundle" if number == 1 => {}
                _ => {
                    return Err(bad(
                        "Downlink_speed_Gbps, Radix_Down, Radix_Up, Downlink_Latency_ns, Oversubscribed, \
                         Switch_Latency_ns 0 or Bundle 1",
                    ));
                }
            }
        }
        let shape = |expected, found: u32| TopologyError::Shape { expected, found: found.to_string() };
        if tiers != 2 && tiers != 3 {
            return Err(shape("Tiers 2 or 3", tiers));
        }
        let used = tiers as usize;
        if let Some(t) = (0..used).find(|&t| down[t] == 0 || speed[t] == 0 || (t + 1 < used && up[t] == 0)) {
            return Err(shape(
                "Radix_Down, Radix_Up and Downlink_speed_Gbps in every tier; missing in tier",
                t as u32,
            ));
        }
        let pod = if tiers == 2 { nodes } else { pod };
        if nodes == 0
            || !nodes.is_multiple_of(down[0])
            || pod == 0
            || !pod.is_multiple_of(down[0])
            || !nodes.is_multiple_of(pod)
        {
            return Err(shape(
                "Nodes a multiple of Podsize, both of tier 0's Radix_Down; found Nodes",
                nodes,
            ));
        }
        let leaves_per_pod = pod / down[0];
        if down[1] != leaves_per_pod {
            return Err(shape("tier 1's Radix_Down to be the leaves of a pod; found", down[1]));
        }
        if nodes > 1 << 20 || up[0] > 1 << 12 || up[1] > 1 << 12 {
            return Err(shape("at most 1048576 nodes and 4096 uplinks; found", nodes));
        }
        let rate = |t: usize| u64::from(speed[t.min(used - 1)]) * 1_000_000_000;
        let length = |t: usize| u64::from(latency[t.min(used - 1)]) * 1000;
        Ok(Self {
            hosts: nodes,
            hosts_per_leaf: down[0],
            leaves_per_pod,
            mids_per_pod: up[0],
            cores_per_mid: if tiers == 3 { up[1] } else { 0 },
            pods: nodes / pod,
            rate_bps: [rate(0), rate(1), rate(2)],
            latency_ps: [length(0), length(1), length(2)],
        })
    }

    /// Leaves in all.
    pub const fn leaves(&self) -> u32 {
        self.pods * self.leaves_per_pod
    }

    const fn mids(&self) -> u32 {
        self.pods * self.mids_per_pod
    }

    /// First number of each kind of link, and the end, in the order of [`Kind`].
    const fn bounds(&self) -> [u32; 7] {
        let between = self.leaves() * self.mids_per_pod;
        let above = self.mids() * self.cores_per_mid;
        let h = self.hosts;
        [
            0,
            h,
            2 * h,
            2 * h + between,
            2 * h + 2 * between,
            2 * h + 2 * between + above,
            2 * h + 2 * between + 2 * above,
        ]
    }

    /// Directed links.
    pub const fn links(&self) -> u32 {
        self.bounds()[6]
    }

    /// What a link is.
    pub fn kind(&self, link: u32) -> Kind {
        let b = self.bounds();
        match link {
            l if l < b[1] => Kind::HostUp,
            l if l < b[2] => Kind::LeafDown,
            l if l < b[3] => Kind::LeafUp,
            l if l < b[4] => Kind::MidDown,
            l if l < b[5] => Kind::MidUp,
            _ => Kind::CoreDown,
        }
    }

    /// The `n`-th link downward from the top tier, in the order the experiments slow them: those of the first middle
    /// switch first. With two tiers the downlinks of the first spine.
    pub fn downlink(&self, n: u32) -> Option<u32> {
        let b = self.bounds();
        if self.cores_per_mid == 0 {
            return (n < b[4] - b[3]).then_some(b[3] + n);
        }
        let (mid, up) = (n / self.cores_per_mid, n % self.cores_per_mid);
        if mid >= self.mids() {
            return None;
        }
        let (pod, index) = (mid / self.mids_per_pod, mid % self.mids_per_pod);
        Some(b[5] + (index * self.cores_per_mid + up) * self.pods + pod)
    }

    /// Paths between hosts of different pods (leaves, with two tiers).
    pub const fn paths(&self) -> u32 {
        self.mids_per_pod * if self.cores_per_mid == 0 { 1 } else { self.cores_per_mid }
    }

    /// The links from one host to another on path `path % paths()`.
    pub fn route(&self, from: u32, to: u32, path: u32) -> Route {
        let b = self.bounds();
        let (leaf_from, leaf_to) = (from / self.hosts_per_leaf, to / self.hosts_per_leaf);
        let mut r = Route::default();
        let mut add = |link: u32| {
            if let Some(l) = r.links.get_mut(usize::from(r.len)) {
                *l = link;
                r.len += 1;
            }
        };
        add(from);
        if leaf_from != leaf_to {
            let mid = path % self.mids_per_pod;
            let (pod_from, pod_to) = (leaf_from / self.leaves_per_pod, leaf_to / self.leaves_per_pod);
            add(b[2] + leaf_from * self.mids_per_pod + mid);
            if pod_from != pod_to {
                let up = (path / self.mids_per_pod) % self.cores_per_mid.max(1);
                add(b[4] + (pod_from * self.mids_per_pod + mid) * self.cores_per_mid + up);
                add(b[5] + (mid * self.cores_per_mid + up) * self.pods + pod_to);
            }
            add(b[3]
                + (pod_to * self.mids_per_pod + mid) * self.leaves_per_pod
                + leaf_to % self.leaves_per_pod);
        }
        add(b[1] + to);
        r
    }

    /// Links of the longest path.
    pub const fn diameter(&self) -> u32 {
        if self.cores_per_mid == 0 { 4 } else { 6 }
    }

    /// Round trip of a packet and its answer over the longest path with nothing else on it, picoseconds.
    pub fn rtt_ps(&self, packet_bytes: u32, ack_bytes: u32) -> u64 {
        let tiers = self.diameter() as usize / 2;
        let bytes = u64::from(packet_bytes + ack_bytes);
        (0..tiers)
            .map(|t| 2 * (2 * self.latency_ps[t] + bytes * 8_000_000_000_000 / self.rate_bps[t].max(1)))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_fat_trees() {
        for (nodes, k) in [(2, 2), (16, 4), (17, 6), (128, 8), (1024, 16)] {
            let t = Topology::fat_tree(nodes);
            assert_eq!((t.pods, t.hosts), (k, k * k * k / 4), "{nodes}");
            assert_eq!(t.paths(), k * k / 4);
        }
    }

    /// Every link of a route begins where the one before it ends, so each appears once and in tier order.
    #[test]
    fn routes_go_up_and_down() {
        use Kind::*;
        let t = Topology::fat_tree(128);
        for (from, to, kinds) in [
            (0, 1, &[HostUp, LeafDown][..]),
            (0, 5, &[HostUp, LeafUp, MidDown, LeafDown]),
            (0, 127, &[HostUp, LeafUp, MidUp, CoreDown, MidDown, LeafDown]),
        ] {
            for path in 0..t.paths() {
                let r = t.route(from, to, path);
                let got: Vec<Kind> = r.links.iter().take(usize::from(r.len)).map(|&l| t.kind(l)).collect();
                assert_eq!(got, kinds);
                assert!(r.links.iter().all(|&l| l < t.links()));
            }
        }
    }

    #[test]
    fn slow_links_are_those_of_the_first_middle_switch() {
        let t = Topology::fat_tree(1024);
        let slow: Vec<u32> = (0..8).filter_map(|n| t.downlink(n)).collect();
        let crossing = (0..64).filter(|&p| slow.contains(&t.route(900, 0, p).links[3])).count();
        assert_eq!(crossing, 8);
        assert!((0..64).all(|p| !slow.contains(&t.route(0, 900, p).links[3])));
    }

    #[test]
    fn errors_name_the_line() {
        let e = Topology::parse("Nodes 4\nTiers x\n").unwrap_err();
        assert_eq!(e.to_string(), "line 2: expected a word and a whole number, found \"Tiers x\"");
        assert!(Topology::parse("Nodes 4\nTiers 2\n").is_err());
    }

    #[test]
    fn leaf_spine_file() {
        let text = "Nodes 8\nTiers 2\nPodsize 8\n\nTier 0\nDownlink_speed_Gbps 100\nRadix_Down 4\nRadix_Up 2\n\
                    Downlink_Latency_ns 1000\n\nTier 1\nDownlink_speed_Gbps 100\nRadix_Down 2\nDownlink_Latency_ns 500\n";
        let t = Topology::parse(text).unwrap();
        assert_eq!((t.leaves(), t.paths(), t.diameter(), t.pods), (2, 2, 4, 1));
        let r = t.route(0, 7, 1);
        assert_eq!(r.len, 4);
    }
}
