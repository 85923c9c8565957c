//! A capture: packets of a host's interfaces, without what is in them, as a pcapng file in pieces.
//!
//! How: [`run`] checks the request, enters the namespace, opens the kernel's ring with a program made of the filters
//! ([`filter`]), cuts or zeroes what is behind each packet's headers ([`headers`]), and writes. Whoever holds the privileges
//! calls it; the limits of [`wire::task`] are enforced here, on the privileged side, whatever was asked.
//!
//! - *Headers* (the default): a packet ends where its payload begins. The kernel itself copies at most
//!   [`SNAP_BYTES`] of it.
//! - *Zeroed*: as long as it was, up to [`ZEROED_BYTES`], with zeroes for payload.
//! - With a key addresses are replaced by others, the same for the same key, and two that share a prefix go on sharing one;
//!   MAC addresses and the checksums that cover addresses are zero then.
//!
//! Invariants: no byte of payload is ever handed over; seconds, packets and bytes are bounded; a packet that fitted is in the
//! file or counted as lost. On the loopback interface each packet is taken once, as it arrives.
//! Absent on purpose: promiscuous mode, and any file on disk.

pub mod filter;
pub mod headers;

use headers::{Link, layers};
use ipcrypt_rs::IpcryptPfx;
use kernel::netns;
use kernel::packet::{Packet, PacketRing, Statistics, interface_index, interface_name};
use kernel::timestamp::{clock_synchronized, unix_ns};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, Endianness, PcapError};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use wire::proto::CaptureTask;
use wire::task::{CHUNK_BYTES_MAX, TaskError, check_capture};

/// Bytes the kernel copies of a packet of which only headers are kept.
pub const SNAP_BYTES: u32 = 256;
/// Bytes kept of a packet whose payload is zeroed.
pub const ZEROED_BYTES: u32 = 9_216;
/// Bytes of the ring.
const RING_BYTES: usize = 8 << 20;
/// The loop looks around at least so often.
const IDLE: Duration = Duration::from_millis(100);
/// Bytes left at the end of the file for the interfaces' statistics.
const TAIL_BYTES: u64 = 96;
/// Interfaces one file tells of.
const INTERFACES_MAX: usize = 256;
/// `keep` of a request: payload zeroed.
const ZEROED: u32 = 1;
/// ARPHRD_* of links whose packets are understood.
const ETHERNET: u16 = 1;
const LOOPBACK: u16 = 772;
const NO_HEADER: u16 = 65_534;

/// Where a capture is made, which the request does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The host's name, for the file.
    pub host: String,
    /// Network namespace; `None` for this thread's.
    pub netns: Option<String>,
}

/// What a capture gave, beside the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Packets in the file.
    pub packets: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Packets that fitted and for which the kernel had no room.
    pub lost: u64,
    /// Packets of links of a kind that is not understood; they count as lost too.
    pub foreign: u64,
    /// A limit of packets or bytes ended it early.
    pub full: bool,
}

/// Why there is no capture, or not a whole one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// The request asks for something that is not given.
    #[error("capture refused: {0}")]
    Task(#[from] TaskError),
    /// An interface does not exist.
    #[error("there is no interface {name} on this host")]
    NoInterface {
        /// Its name.
        name: String,
    },
    /// The kernel refused.
    #[error("{what}: {error} (it needs CAP_NET_RAW and, for another namespace, CAP_SYS_ADMIN)")]
    Kernel {
        /// What was wanted.
        what: &'static str,
        /// What the kernel said.
        error: kernel::Error,
    },
    /// The file could not be written.
    #[error("the capture file cannot be written: {reason}")]
    File {
        /// What the library said.
        reason: String,
    },
    /// Whoever takes the file has gone.
    #[error("nobody takes the capture any more")]
    Gone,
}

impl From<PcapError> for CaptureError {
    fn from(e: PcapError) -> Self {
        CaptureError::File { reason: e.to_string() }
    }
}

/// Takes the pieces of the file. `false`: it wants no more.
pub type Sink<'a> = dyn FnMut(Vec<u8>) -> bool + 'a;

/// Captures until a limit is reached, the time is over or `stop` says so. The file is whole in every case but an error.
/// Needs CAP_NET_RAW, and CAP_SYS_ADMIN for another namespace.
pub fn run(
    task: &CaptureTask,
    place: &Place,
    stop: &dyn Fn() -> bool,
    sink: &mut Sink<'_>,
) -> Result<Summary, CaptureError> {
    let task = check_capture(task)?;
    let wrap = |what| move |error| CaptureError::Kernel { what, error };
    // the thread comes back when the guard goes
    let _inside = match &place.netns {
        Some(name) => Some(netns::enter(name).map_err(wrap("cannot enter the network namespace"))?),
        None => None,
    };
    let index =
        |name: &String| interface_index(name).ok_or_else(|| CaptureError::NoInterface { name: name.clone() });
    let interfaces = task.interfaces.iter().map(index).collect::<Result<Vec<u32>, _>>()?;
    let snap = if task.keep == ZEROED { ZEROED_BYTES } else { SNAP_BYTES };
    let program = filter::compile(&task.filters, &interfaces, snap);
    let only = if let [one] = interfaces.as_slice() { *one } else { 0 };
    let mut ring = PacketRing::open(only, &program, RING_BYTES).map_err(wrap("cannot capture"))?;
    let mut file = File::new(&task, place)?;
    let end = Instant::now() + Duration::from_secs(task.seconds.into());
    loop {
        let mut failed = None;
        let there = ring.next_block(&mut |packet| match file.take(&packet) {
            Ok(more) => more,
            Err(e) => {
                failed = Some(e);
                false
            }
        });
        if let Some(e) = failed {
            return Err(e);
        }
        if !file.hand_over(CHUNK_BYTES_MAX, sink) {
            return Err(CaptureError::Gone);
        }
        let left = end.saturating_duration_since(Instant::now());
        if file.summary.full || left.is_zero() || stop() {
            break;
        }
        if !there {
            kernel::poll::readable(&[ring.as_fd()], Some(left.min(IDLE))).map_err(wrap("cannot wait"))?;
        }
    }
    let statistics = ring.statistics().map_err(wrap("cannot ask for losses"))?;
    drop(ring);
    file.end(statistics)?;
    if !file.hand_over(1, sink) {
        return Err(CaptureError::Gone);
    }
    Ok(file.summary)
}

/// An interface in the file.
struct Interface {
    number: u32,
    link: Link,
    packets: u64,
}

/// The file being written.
struct File {
    writer: PcapNgWriter<Vec<u8>>,
    interfaces: BTreeMap<u32, Option<Interface>>,
    numbers: u32,
    snap: u32,
    zeroed: bool,
    pseudonyms: Option<IpcryptPfx>,
    packets_max: u64,
    bytes_max: u64,
    started_ns: u64,
    handed: u64,
    summary: Summary,
    scratch: Vec<u8>,
}

impl File {
    fn new(task: &CaptureTask, place: &Place) -> Result<File, CaptureError> {
        let zeroed = task.keep == ZEROED;
        let key = <[u8; 32]>::try_from(task.pseudonym_key.as_slice()).ok();
        let comment = format!(
            "host: {}\nclock: {}\nfilter: {}\nkept: {}{}",
            place.host,
            if clock_synchronized() { "synchronized" } else { "free" },
            filter::describe(&task.filters),
            if zeroed { "headers, payload zeroed" } else { "headers" },
            if key.is_some() { ", addresses replaced" } else { "" },
        );
        let section = SectionHeaderBlock {
            // the library writes 64-bit times of statistics right in this order only
            endianness: Endianness::Big,
            options: vec![
                SectionHeaderOption::Comment(comment.into()),
                SectionHeaderOption::OS("Linux".into()),
                SectionHeaderOption::UserApplication(concat!("selvedge ", env!("CARGO_PKG_VERSION")).into()),
            ],
            ..SectionHeaderBlock::default()
        };
        Ok(File {
            writer: PcapNgWriter::with_section_header(Vec::new(), section)?,
            interfaces: BTreeMap::new(),
            numbers: 0,
            snap: if zeroed { ZEROED_BYTES } else { SNAP_BYTES },
            zeroed,
            pseudonyms: key.map(IpcryptPfx::new),
            packets_max: task.packets,
            bytes_max: task.bytes,
            started_ns: unix_ns(),
            handed: 0,
            summary: Summary::default(),
            scratch: Vec::new(),
        })
    }

    fn written(&self) -> u64 {
        self.handed + self.writer.get_ref().len() as u64
    }

    /// The interface, announced in the file with its first packet. `None` for a kind that is not understood.
    fn interface(&mut self, packet: &Packet<'_>) -> Result<Option<&mut Interface>, CaptureError> {
        if !self.interfaces.contains_key(&packet.ifindex) && self.interfaces.len() < INTERFACES_MAX {
            let known = match packet.hardware {
                ETHERNET | LOOPBACK => Some((Link::Ethernet, DataLink::ETHERNET)),
                NO_HEADER => Some((Link::Raw, DataLink::RAW)),
                _ => None,
            };
            let made = match known {
                Some((link, data_link)) => {
                    let name = interface_name(packet.ifindex)
                        .unwrap_or_else(|| format!("interface {}", packet.ifindex));
                    let block = InterfaceDescriptionBlock {
                        options: vec![
                            InterfaceDescriptionOption::IfName(name.into()),
                            // nanoseconds
                            InterfaceDescriptionOption::IfTsResol(9),
                            InterfaceDescriptionOption::IfOs("Linux".into()),
                        ],
                        ..InterfaceDescriptionBlock::new(data_link, self.snap)
                    };
                    self.writer.write_pcapng_block(block)?;
                    self.numbers += 1;
                    Some(Interface { number: self.numbers - 1, link, packets: 0 })
                }
                None => None,
            };
            self.interfaces.insert(packet.ifindex, made);
        }
        Ok(self.interfaces.get_mut(&packet.ifindex).and_then(Option::as_mut))
    }

    /// Takes a packet. Whether more is wanted.
    fn take(&mut self, packet: &Packet<'_>) -> Result<bool, CaptureError> {
        if self.summary.full {
            return Ok(false);
        }
        if packet.hardware == LOOPBACK && packet.outgoing {
            return Ok(true);
        }
        let Some(interface) = self.interface(packet)? else {
            self.summary.foreign += 1;
            return Ok(true);
        };
        interface.packets += 1;
        let (number, link) = (interface.number, interface.link);
        let mut data = std::mem::take(&mut self.scratch);
        let added = self.clean(packet, link, &mut data);
        // block, times, lengths and one option: 48 bytes beside the data
        let cost = 48 + data.len() as u64 + TAIL_BYTES * self.interfaces.len() as u64;
        if self.written() + cost > self.bytes_max {
            self.summary.full = true;
        } else {
            let block = EnhancedPacketBlock {
                interface_id: number,
                timestamp: Duration::from_nanos(packet.at_ns),
                original_len: packet.length.saturating_add(added),
                data: Cow::Borrowed(&data),
                // bits 0 and 1 of epb_flags: 1 inbound, 2 outbound
                options: vec![EnhancedPacketOption::Flags(if packet.outgoing { 2 } else { 1 })],
            };
            self.writer.write_pcapng_block(block)?;
            self.summary.packets += 1;
            self.summary.full = self.summary.packets >= self.packets_max;
        }
        data.clear();
        self.scratch = data;
        Ok(!self.summary.full)
    }

    /// The packet without payload, with its VLAN tag back in its place. How many bytes that added.
    fn clean(&self, packet: &Packet<'_>, link: Link, data: &mut Vec<u8>) -> u32 {
        data.clear();
        let mut added = 0;
        match (packet.vlan, link, packet.bytes.split_at_checked(12)) {
            (Some((protocol, tag)), Link::Ethernet, Some((addresses, rest))) => {
                data.extend_from_slice(addresses);
                data.extend_from_slice(&protocol.to_be_bytes());
                data.extend_from_slice(&tag.to_be_bytes());
                data.extend_from_slice(rest);
                added = 4;
            }
            _ => data.extend_from_slice(packet.bytes),
        }
        let layers = layers(data, link);
        match (self.zeroed, data.get_mut(layers.end..)) {
            (true, Some(payload)) => payload.fill(0),
            _ => data.truncate(layers.end),
        }
        if let Some(pseudonyms) = &self.pseudonyms {
            for &(at, length) in &layers.addresses {
                replace(data, at, length, pseudonyms);
            }
            for &at in &layers.checksums {
                data.iter_mut().skip(at).take(2).for_each(|byte| *byte = 0);
            }
            if link == Link::Ethernet {
                data.iter_mut().take(12).for_each(|byte| *byte = 0);
            }
        }
        added
    }

    /// Hands over what was written, in pieces, where at least `least` bytes are there.
    fn hand_over(&mut self, least: usize, sink: &mut Sink<'_>) -> bool {
        let buffer = self.writer.get_mut();
        if buffer.len() < least {
            return true;
        }
        let all = std::mem::take(buffer);
        self.handed += all.len() as u64;
        all.chunks(CHUNK_BYTES_MAX).all(|piece| sink(piece.to_vec()))
    }

    /// Writes each interface's statistics.
    fn end(&mut self, statistics: Statistics) -> Result<(), CaptureError> {
        self.summary.lost = statistics.dropped + self.summary.foreign;
        let now = unix_ns();
        let several = self.numbers > 1;
        let mut known: Vec<&Interface> = self.interfaces.values().flatten().collect();
        known.sort_by_key(|i| i.number);
        for interface in known {
            let mut options = vec![
                InterfaceStatisticsOption::IsbStartTime(self.started_ns),
                InterfaceStatisticsOption::IsbEndTime(now),
                InterfaceStatisticsOption::IsbUsrDeliv(interface.packets),
            ];
            // the kernel counts drops by ring, and all interfaces share one
            if interface.number == 0 {
                options.push(InterfaceStatisticsOption::IsbOsDrop(statistics.dropped));
                if several {
                    let words = "drops are those of all interfaces of this host together";
                    options.push(InterfaceStatisticsOption::Comment(words.into()));
                }
            }
            let block = InterfaceStatisticsBlock { interface_id: interface.number, timestamp: now, options };
            self.writer.write_pcapng_block(block)?;
        }
        self.summary.bytes = self.written();
        Ok(())
    }
}

/// Replaces an address by its pseudonym. One that is cut off is zeroed.
fn replace(data: &mut [u8], at: usize, length: usize, pseudonyms: &IpcryptPfx) {
    let end = at.saturating_add(length).min(data.len());
    let Some(place) = data.get_mut(at..end) else { return };
    let address = match (<[u8; 4]>::try_from(&*place), <[u8; 16]>::try_from(&*place)) {
        (Ok(v4), _) => IpAddr::V4(Ipv4Addr::from(v4)),
        (_, Ok(v6)) => IpAddr::V6(Ipv6Addr::from(v6)),
        _ => return place.fill(0),
    };
    match pseudonyms.encrypt_ipaddr(address) {
        IpAddr::V4(a) if length == 4 => place.copy_from_slice(&a.octets()),
        IpAddr::V6(a) if length == 16 => place.copy_from_slice(&a.octets()),
        // one form became the other: an address that begins like one that holds the other form
        _ => place.fill(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_refused_before_anything_is_opened() {
        let task = CaptureTask { seconds: 10_000, ..CaptureTask::default() };
        let got = run(&task, &Place::default(), &|| true, &mut |_| true);
        assert!(
            matches!(got, Err(CaptureError::Task(TaskError::TooMuch { field: "seconds", .. }))),
            "{got:?}"
        );
        let nowhere = Place { netns: Some("no such namespace".into()), ..Place::default() };
        let got = run(&CaptureTask::default(), &nowhere, &|| true, &mut |_| true);
        assert!(matches!(got, Err(CaptureError::Kernel { .. })), "{got:?}");
    }

    /// A packet of 100 bytes of payload, as the ring gives it.
    fn taken(task: &CaptureTask, n: usize) -> (Vec<u8>, Summary) {
        let mut bytes = vec![2; 12];
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 108, 17, 64]);
        bytes.extend([0xfd; 32]);
        bytes.extend([0, 53, 0, 99, 0, 108, 1, 2]);
        bytes.extend(b"secret".repeat(20).iter().take(100));
        let packet = Packet {
            bytes: &bytes,
            length: bytes.len() as u32,
            at_ns: 1_700_000_000_123_456_789,
            ifindex: 1,
            hardware: 1,
            outgoing: false,
            vlan: Some((0x8100, 7)),
        };
        let mut file = File::new(&check_capture(task).unwrap(), &Place::default()).unwrap();
        for _ in 0..n {
            file.take(&packet).unwrap();
        }
        file.end(Statistics { passed: n as u64, dropped: 3 }).unwrap();
        let mut out = Vec::new();
        assert!(file.hand_over(1, &mut |piece| {
            assert!(piece.len() <= CHUNK_BYTES_MAX);
            out.extend(piece);
            true
        }));
        (out, file.summary)
    }

    #[test]
    fn no_byte_of_payload_and_no_address_gets_out() {
        let has = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|w| w == what);
        let (headers, summary) = taken(&CaptureTask::default(), 1);
        assert!(!has(&headers, b"secret") && has(&headers, &[0xfd; 32]));
        assert_eq!((summary.packets, summary.lost, summary.bytes), (1, 3, headers.len() as u64));
        let (zeroed, _) = taken(&CaptureTask { keep: 1, ..CaptureTask::default() }, 1);
        assert!(!has(&zeroed, b"secret") && has(&zeroed, &[0; 100]));
        assert_eq!(zeroed.len() - headers.len() - b", payload zeroed".len(), 100);
        let key = CaptureTask { pseudonym_key: (0..32).collect(), ..CaptureTask::default() };
        let (hidden, _) = taken(&key, 1);
        assert!(!has(&hidden, &[0xfd; 4]) && !has(&hidden, &[2; 6]));
        assert_eq!(hidden, hidden.clone());
        let addresses = |b: &[u8]| {
            let at = b.windows(4).position(|w| w == [0x81, 0, 0, 7]).unwrap();
            b[at + 6 + 8..][..32].to_vec()
        };
        let replaced = addresses(&hidden);
        assert_eq!(replaced[..16], replaced[16..], "the same address has the same pseudonym");
    }

    #[test]
    fn the_limits_hold_whatever_comes() {
        let few = CaptureTask { packets: 5, ..CaptureTask::default() };
        let (_, summary) = taken(&few, 50);
        assert!(summary.full && summary.packets == 5);
        let small = CaptureTask { bytes: 3_000, ..CaptureTask::default() };
        let (file, summary) = taken(&small, 500);
        assert!(summary.full && file.len() <= 3_000 && file.len() > 2_500, "{} {summary:?}", file.len());
    }
}
