//! Identities: one newtype each, so that a host is never taken for a link.
//!
//! All but [`Epoch`] are formulas of a fabric (see the `fabric` room): they mean something only together with
//! the epoch of the fabric they were computed from.

use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
        impl $name {
            /// As an index into a table.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

id!(/** One of the parallel, disjoint networks of a multi-plane fabric. `0 <= id < planes`. */ PlaneId(u8), "plane ");
id!(/** A leaf (T0) or spine (T1) of one plane: plane by plane, leaves first. */ SwitchId(u32), "switch ");
id!(/** A machine. `0 <= id < hosts`. */ HostId(u32), "host ");
id!(/** One port of a host into one plane (and one rail): plane by plane. */ NicId(u32), "nic ");
id!(/** One direction of one cable. The other direction is `id ^ 1`. */ LinkId(u32), "link ");
id!(/** One way from one NIC to another: a number from which the links are computed, never looked up. */ PathId(u64), "path ");
id!(/** Which version of a fabric's specification the other ids were computed from: a hash of it. */ Epoch(u64), "epoch ");

impl LinkId {
    /// The same cable, the other direction.
    pub const fn reverse(self) -> LinkId {
        LinkId(self.0 ^ 1)
    }
}

/// What can be sick. The kinds a verdict can name, and the places a counter is read at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// One direction of one cable, its optics and the port at either end.
    Link(LinkId),
    /// A whole switch, or enough of its ports that the switch is the shorter explanation.
    Switch(SwitchId),
    /// A host's port: both directions of its access cable.
    Nic(NicId),
    /// A machine: its CPU, its memory, its PCIe, or all its NICs at once.
    Host(HostId),
}

impl Component {
    /// The kind as one lower-case word: `link`, `switch`, `nic` or `host`.
    pub const fn kind(self) -> &'static str {
        match self {
            Component::Link(_) => "link",
            Component::Switch(_) => "switch",
            Component::Nic(_) => "nic",
            Component::Host(_) => "host",
        }
    }
}
