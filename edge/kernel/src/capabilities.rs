//! What this kernel and this user can do, found out by looking, so that what is missing is said before the work
//! starts and not in the middle of it.

use crate::caps::{self, Capability};
use crate::{genl, netns, sysctl};
use std::path::Path;

/// One thing the product can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Namespaces, links and routes may be changed.
    Configure,
    /// Namespaces may be entered and named.
    Namespaces,
    /// BPF programs may be loaded.
    Bpf,
    /// SRv6 forwarding.
    Srv6,
    /// In-band telemetry for IPv6.
    Ioam,
    /// TUN/TAP devices.
    Tap,
    /// Features of links can be set over generic netlink.
    Ethtool,
}

impl Feature {
    /// Every feature.
    pub const ALL: [Feature; 7] = [
        Feature::Configure,
        Feature::Namespaces,
        Feature::Bpf,
        Feature::Srv6,
        Feature::Ioam,
        Feature::Tap,
        Feature::Ethtool,
    ];

    /// Whether it is there.
    pub fn present(self) -> bool {
        match self {
            Feature::Configure => caps::has(Capability::CAP_NET_ADMIN),
            Feature::Namespaces => {
                caps::has(Capability::CAP_SYS_ADMIN) && Path::new("/proc/thread-self/ns/net").exists()
            }
            Feature::Bpf => {
                caps::has(Capability::CAP_SYS_ADMIN)
                    || (caps::has(Capability::CAP_BPF) && caps::has(Capability::CAP_NET_ADMIN))
            }
            Feature::Srv6 => sysctl::exists("net/ipv6/conf/all/seg6_enabled"),
            Feature::Ioam => sysctl::exists("net/ipv6/ioam6_id"),
            Feature::Tap => Path::new("/dev/net/tun").exists(),
            Feature::Ethtool => genl::Genl::open("ethtool").is_ok(),
        }
    }

    /// What is missing where it is not, in words for people.
    pub fn need(self) -> &'static str {
        match self {
            Feature::Configure => "CAP_NET_ADMIN to make links and routes (run it as root or with sudo)",
            Feature::Namespaces => {
                "CAP_SYS_ADMIN to make and enter network namespaces (run it as root or with sudo)"
            }
            Feature::Bpf => "CAP_BPF or root to load the fault element",
            Feature::Srv6 => "a kernel with CONFIG_IPV6_SEG6_LWTUNNEL for the srv6 mode",
            Feature::Ioam => "a kernel with CONFIG_IPV6_IOAM6 (Linux 5.15) for in-band telemetry",
            Feature::Tap => "/dev/net/tun (CONFIG_TUN) for delay, jitter and reordering",
            Feature::Ethtool => "a kernel with ethtool netlink (Linux 5.6) to switch offloads off",
        }
    }
}

/// The features of `wanted` that are not there.
pub fn missing(wanted: &[Feature]) -> Vec<Feature> {
    wanted.iter().copied().filter(|f| !f.present()).collect()
}

/// Whether names of namespaces can be kept: `/run/netns` can be made and written.
pub fn can_name_namespaces() -> bool {
    std::fs::create_dir_all(netns::DIR).is_ok()
}
