//! What an interface says of itself: ethtool over generic netlink (Linux 5.6 and later).
//!
//! How: one question, one answer of one interface of this thread's namespace. Each answer has a type with a `decode` from
//! the bytes after the generic netlink header, so that recorded bytes are read by the same code as a live answer.
//!
//! Invariants: a driver that does not know a question is no error but `None` in what is returned
//! ([`Ethtool::ask`]); a value the driver does not count (all ones) is absent; hostile bytes give fewer values, never
//! a panic.
//! Absent on purpose: changing anything (see [`crate::offload`] for the one thing that is changed).

use crate::genl::Genl;
use crate::netlink::{attributes, ne32};
use crate::{Error, Result};

const LINKMODES_GET: u8 = 4;
const LINKSTATE_GET: u8 = 6;
const RINGS_GET: u8 = 15;
const CHANNELS_GET: u8 = 17;
const PAUSE_GET: u8 = 21;
const FEC_GET: u8 = 29;
const MODULE_EEPROM_GET: u8 = 31;
const STATS_GET: u8 = 32;

/// `ETHTOOL_A_*_HEADER` of every question but the one for statistics.
const HEADER: u16 = 1;
const STATS_HEADER: u16 = 2;
const STATS_GROUPS: u16 = 3;
const STATS_GRP: u16 = 4;
const HEADER_DEV_INDEX: u16 = 1;
const HEADER_FLAGS: u16 = 3;
/// `ETHTOOL_FLAG_STATS`: the answer includes counters.
const WITH_STATS: u32 = 4;
const BITSET_NOMASK: u16 = 1;
const BITSET_SIZE: u16 = 2;
const BITSET_VALUE: u16 = 4;
const NESTED: u16 = 0x8000;
/// `ETHTOOL_STAT_NOT_SET`: the driver does not count it.
const NOT_COUNTED: u64 = u64::MAX;
/// `SPEED_UNKNOWN`.
const SPEED_UNKNOWN: u32 = u32::MAX;

/// Where a module's memory is on its bus (SFF-8636, CMIS, and the first of SFF-8472).
pub const MODULE: u8 = 0x50;
/// Where an SFP module has its measures (SFF-8472).
pub const MODULE_MEASURES: u8 = 0x51;

/// What is asked of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// [`Modes`].
    Modes,
    /// [`State`].
    State,
    /// [`Pause`], with its counters.
    Pause,
    /// [`Fec`], with its counters.
    Fec,
    /// [`Rings`].
    Rings,
    /// [`Channels`].
    Channels,
    /// [`Groups`] of standard counters.
    Groups,
}

/// A socket for questions to interfaces. It belongs to the namespace the thread was in when it was opened.
#[derive(Debug)]
pub struct Ethtool {
    genl: Genl,
}

impl Ethtool {
    /// Opens a socket in this thread's namespace.
    pub fn open() -> Result<Ethtool> {
        Genl::open("ethtool").map(|genl| Ethtool { genl })
    }

    /// The answer's bytes after the generic netlink header; `None` where the driver (or the kernel) has no answer to
    /// this question.
    pub fn ask(&mut self, index: u32, question: Question) -> Result<Option<Vec<u8>>> {
        let (command, flags) = match question {
            Question::Modes => (LINKMODES_GET, 0),
            Question::State => (LINKSTATE_GET, 0),
            Question::Pause => (PAUSE_GET, WITH_STATS),
            Question::Fec => (FEC_GET, WITH_STATS),
            Question::Rings => (RINGS_GET, 0),
            Question::Channels => (CHANNELS_GET, 0),
            Question::Groups => (STATS_GET, 0),
        };
        let header = if question == Question::Groups { STATS_HEADER } else { HEADER };
        let mut got = None;
        let asked = self.genl.ask(
            "ethtool question",
            index,
            command,
            |m| {
                m.nest(header | NESTED, |m| {
                    m.attr(HEADER_DEV_INDEX, &index.to_ne_bytes());
                    if flags != 0 {
                        m.attr(HEADER_FLAGS, &flags.to_ne_bytes());
                    }
                });
                if question == Question::Groups {
                    m.nest(STATS_GROUPS | NESTED, |m| {
                        let all = (1u32 << Group::ALL.len()) - 1;
                        m.attr(BITSET_NOMASK, &[])
                            .attr(BITSET_SIZE, &(Group::ALL.len() as u32).to_ne_bytes())
                            .attr(BITSET_VALUE, &all.to_ne_bytes());
                    });
                }
            },
            |body| got = Some(body.to_vec()),
        );
        unless_unknown(asked)?;
        Ok(got)
    }

    /// Bytes of a pluggable module's memory at one of its two addresses ([`MODULE`], [`MODULE_MEASURES`]): `page` of bank
    /// 0, from `offset` (`0 ..= 127` is the lower memory, where the page is 0; `128 ..= 255` the page itself), at most 128
    /// of them. Needs CAP_NET_ADMIN. `None` where there is no module or the driver cannot read it.
    pub fn module_memory(
        &mut self,
        index: u32,
        address: u8,
        page: u8,
        offset: u8,
        bytes: u8,
    ) -> Result<Option<Vec<u8>>> {
        const DATA: u16 = 7;
        let mut got = None;
        let asked = self.genl.ask(
            "module memory",
            index,
            MODULE_EEPROM_GET,
            |m| {
                m.nest(HEADER | NESTED, |m| {
                    m.attr(HEADER_DEV_INDEX, &index.to_ne_bytes());
                })
                .attr(2, &u32::from(offset).to_ne_bytes())
                .attr(3, &u32::from(bytes).to_ne_bytes())
                .attr(4, &[page])
                .attr(5, &[0])
                .attr(6, &[address]);
            },
            |body| got = attributes(body).find(|(kind, _)| *kind == DATA).map(|(_, v)| v.to_vec()),
        );
        unless_unknown(asked)?;
        Ok(got)
    }
}

/// Drivers answer what they do not know with one of these.
fn unless_unknown(asked: Result<()>) -> Result<()> {
    match asked {
        Err(Error::Netlink { errno, .. })
            if [libc::EOPNOTSUPP, libc::EINVAL, libc::ENOENT, libc::EIO].contains(&errno.0) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// The values of every attribute of a kind.
fn inside(bytes: &[u8], wanted: u16) -> impl Iterator<Item = &[u8]> {
    attributes(bytes).filter(move |(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn u32_of(body: &[u8], kind: u16) -> Option<u32> {
    inside(body, kind).find(|v| v.len() >= 4).map(|v| ne32(v, 0))
}

fn u8_of(body: &[u8], kind: u16) -> Option<u8> {
    inside(body, kind).find_map(|v| v.first().copied())
}

/// An unsigned number of 4 or 8 bytes, absent where the driver does not count it.
fn counted(value: &[u8]) -> Option<u64> {
    let n = match *value {
        [a, b, c, d] => u64::from(u32::from_ne_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        _ => return None,
    };
    (n != NOT_COUNTED).then_some(n)
}

/// Speed and duplex as negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// Mbit/s; absent while the link is down or where there is no such thing.
    pub speed_mbit: Option<u32>,
    /// Whether both ends may send at once; absent where unknown.
    pub full_duplex: Option<bool>,
    /// Lanes of the link.
    pub lanes: Option<u32>,
    /// Whether the ends agree on it by themselves.
    pub negotiates: Option<bool>,
}

impl Modes {
    /// From the bytes of an answer.
    pub fn decode(body: &[u8]) -> Modes {
        Modes {
            speed_mbit: u32_of(body, 5).filter(|s| *s != SPEED_UNKNOWN && *s != 0),
            full_duplex: u8_of(body, 6).and_then(|d| [false, true].get(usize::from(d)).copied()),
            lanes: u32_of(body, 9),
            negotiates: u8_of(body, 2).map(|a| a != 0),
        }
    }
}

/// Whether there is a link, and why not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Whether there is one.
    pub link: Option<bool>,
    /// Why there is none (`ETHTOOL_LINK_EXT_STATE_*`): 0 negotiation, 1 training, 2 no agreement of the ends' logic, 3 bad
    /// signal, 4 no cable, 5 cable trouble, 6 EEPROM trouble, 7 calibration, 8 power budget, 9 overheat, 10 module.
    pub reason: Option<u8>,
    /// Signal quality, `0 ..= quality_max`.
    pub quality: Option<u32>,
    /// Best signal quality.
    pub quality_max: Option<u32>,
}

impl State {
    /// From the bytes of an answer.
    pub fn decode(body: &[u8]) -> State {
        State {
            link: u8_of(body, 2).map(|l| l != 0),
            reason: u8_of(body, 5),
            quality: u32_of(body, 3),
            quality_max: u32_of(body, 4),
        }
    }
}

/// Link-level flow control (IEEE 802.3 annex 31B).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    /// Whether pause frames from the neighbour are obeyed.
    pub obeys: Option<bool>,
    /// Whether pause frames may be sent.
    pub sends: Option<bool>,
    /// Pause frames sent.
    pub frames_sent: Option<u64>,
    /// Pause frames received.
    pub frames_received: Option<u64>,
}

impl Pause {
    /// From the bytes of an answer.
    pub fn decode(body: &[u8]) -> Pause {
        let stats = inside(body, 5).next().unwrap_or(&[]);
        let stat = |kind| inside(stats, kind).next().and_then(counted);
        Pause {
            obeys: u8_of(body, 3).map(|v| v != 0),
            sends: u8_of(body, 4).map(|v| v != 0),
            frames_sent: stat(2),
            frames_received: stat(3),
        }
    }
}

/// Forward error correction (IEEE 802.3 clauses 74, 91, 108, 134).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fec {
    /// Kind in use, as a number of a link mode; see [`Fec::mode`].
    pub active: Option<u32>,
    /// Blocks that were damaged and mended.
    pub corrected_blocks: Option<u64>,
    /// Blocks that were lost.
    pub uncorrectable_blocks: Option<u64>,
    /// Bits mended.
    pub corrected_bits: Option<u64>,
    /// Blocks mended by lane, where they are counted so.
    pub corrected_by_lane: Vec<u64>,
}

impl Fec {
    /// From the bytes of an answer.
    pub fn decode(body: &[u8]) -> Fec {
        let stats = inside(body, 5).next().unwrap_or(&[]);
        // the first number is the sum over the lanes
        let all = |kind| -> Vec<Option<u64>> {
            inside(stats, kind).next().unwrap_or(&[]).chunks_exact(8).map(counted).collect()
        };
        let sum = |kind| all(kind).first().copied().flatten();
        Fec {
            active: u32_of(body, 4),
            corrected_blocks: sum(2),
            uncorrectable_blocks: sum(3),
            corrected_bits: sum(4),
            corrected_by_lane: all(2).into_iter().skip(1).flatten().collect(),
        }
    }

    /// The kind in use: `off`, `rs`, `baser`, `llrs`; absent where unknown.
    pub fn mode(&self) -> Option<&'static str> {
        match self.active? {
            49 => Some("off"),
            50 => Some("rs"),
            51 => Some("baser"),
            74 => Some("llrs"),
            _ => None,
        }
    }
}

/// Descriptors of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rings {
    /// To receive, now.
    pub receive: Option<u32>,
    /// To receive, at most.
    pub receive_max: Option<u32>,
    /// To send, now.
    pub send: Option<u32>,
    /// To send, at most.
    pub send_max: Option<u32>,
}

impl Rings {
    /// From the bytes of an answer.
    pub fn decode(body: &[u8]) -> Rings {
        let n = |kind| u32_of(body, kind);
        Rings { receive: n(6), receive_max: n(2), send: n(9), send_max: n(5) }
    }
}

/// Queues of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// That receive only.
    pub receive: Option<u32>,
    /// That send only.
    pub send: Option<u32>,
    /// That do both.
    pub both: Option<u32>,
    /// That could do both.
    pub both_max: Option<u32>,
}

impl Channels {
    /// From the bytes of an answer.
    pub fn decode(body: &[u8]) -> Channels {
        let n = |kind| u32_of(body, kind);
        Channels { receive: n(6), send: n(7), both: n(9), both_max: n(5) }
    }
}

/// A group of counters that mean the same with every driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Group {
    /// IEEE 802.3 clause 30.3.2, the PHY's.
    Phy = 0,
    /// Clause 30.3.1, the MAC's.
    Mac = 1,
    /// Clause 30.3.3, MAC control.
    Control = 2,
    /// RFC 2819, the parts the others lack.
    Rmon = 3,
}

impl Group {
    /// Every group, by its number.
    pub const ALL: [Group; 4] = [Group::Phy, Group::Mac, Group::Control, Group::Rmon];

    /// Our name of a counter of this group; `None` where this release knows none.
    pub fn name(self, counter: u16) -> Option<&'static str> {
        const PHY: &[&str] = &["symbol_errors"];
        const MAC: &[&str] = &[
            "frames_sent",
            "single_collisions",
            "multiple_collisions",
            "frames_received",
            "fcs_errors",
            "alignment_errors",
            "bytes_sent",
            "frames_deferred",
            "late_collisions",
            "excess_collisions",
            "mac_send_errors",
            "carrier_sense_errors",
            "bytes_received",
            "mac_receive_errors",
            "multicast_sent",
            "broadcast_sent",
            "excess_deferrals",
            "multicast_received",
            "broadcast_received",
            "length_in_range_errors",
            "length_out_of_range",
            "frames_too_long",
        ];
        const CONTROL: &[&str] = &["control_sent", "control_received", "control_unknown_received"];
        const RMON: &[&str] = &["undersize_received", "oversize_received", "fragments", "jabbers"];
        let names = match self {
            Group::Phy => PHY,
            Group::Mac => MAC,
            Group::Control => CONTROL,
            Group::Rmon => RMON,
        };
        names.get(usize::from(counter)).copied()
    }
}

/// Frames by their length (RFC 2819).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Shortest, bytes.
    pub from: u32,
    /// Longest, bytes.
    pub to: u32,
    /// Frames of such a length.
    pub frames: u64,
}

/// The standard counters a driver has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// Group, number of the counter in it, value.
    pub counters: Vec<(Group, u16, u64)>,
    /// Frames received by length.
    pub received: Vec<Lengths>,
    /// Frames sent by length.
    pub sent: Vec<Lengths>,
}

impl Groups {
    /// From the bytes of an answer.
    pub fn decode(body: &[u8]) -> Groups {
        const GRP_ID: u16 = 2;
        const GRP_STAT: u16 = 4;
        const GRP_HIST_RX: u16 = 5;
        const GRP_HIST_TX: u16 = 6;
        let mut groups = Groups::default();
        for group in inside(body, STATS_GRP) {
            let Some(id) = u32_of(group, GRP_ID).and_then(|id| Group::ALL.get(id as usize).copied()) else {
                continue;
            };
            for (kind, value) in attributes(group) {
                match kind {
                    GRP_STAT => groups.counters.extend(
                        attributes(value).filter_map(|(counter, n)| Some((id, counter, counted(n)?))),
                    ),
                    GRP_HIST_RX => groups.received.extend(lengths(value)),
                    GRP_HIST_TX => groups.sent.extend(lengths(value)),
                    _ => {}
                }
            }
        }
        groups
    }
}

fn lengths(bucket: &[u8]) -> Option<Lengths> {
    const LOW: u16 = 7;
    const HIGH: u16 = 8;
    const VALUE: u16 = 9;
    Some(Lengths {
        from: u32_of(bucket, LOW)?,
        to: u32_of(bucket, HIGH)?,
        frames: inside(bucket, VALUE).next().and_then(counted)?,
    })
}
