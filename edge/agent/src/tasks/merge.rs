//! Captures of several hosts as one, by time.
//!
//! How: each file is read once and its packets' times and places are kept; the index is sorted by time (packets of one
//! moment keep the order of files and of packets); then interfaces, packets and statistics are written. An interface is
//! called `host:name`, so that it is known where each packet was seen. What the hosts said of their clocks goes into the
//! file's comment: the order among hosts is as good as that.
//!
//! Invariants: a packet of a file is in the result or counted; a file that is damaged or cut gives what is whole before the
//! damage, and that is said; any bytes are an outcome; times in the result never go back.
//! Absent on purpose: changing any time.

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{Block, PcapNgParser, PcapNgWriter};
use pcap_file::{Endianness, PcapError};
use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

/// Files of one merge.
pub const FILES_MAX: usize = 4_096;
/// Packets of one merge: the index takes 32 bytes for each.
pub const PACKETS_MAX: usize = 16_000_000;
/// Interfaces of one file.
const INTERFACES_MAX: usize = 4_096;

/// One host's capture.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The host's name.
    pub host: &'a str,
    /// The pcapng file.
    pub bytes: &'a [u8],
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Packets in the result.
    pub packets: u64,
    /// Packets the hosts' kernels had dropped.
    pub dropped: u64,
    /// What of which file is not in it, in words.
    pub left_out: Vec<String>,
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Too many files.
    #[error("{got} files to merge: at most {FILES_MAX}")]
    TooManyFiles {
        /// How many there were.
        got: usize,
    },
    /// The result could not be written.
    #[error("the merged capture cannot be written: {reason}")]
    Write {
        /// What the system said.
        reason: String,
    },
}

impl From<PcapError> for MergeError {
    fn from(e: PcapError) -> Self {
        use std::error::Error;
        let reason = e.source().map_or_else(|| e.to_string(), ToString::to_string);
        MergeError::Write { reason }
    }
}

/// What is kept of a packet: when, and in which block of which file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at_ns: u64,
    file: u32,
    /// Order within the file; packets of one moment keep it.
    number: u32,
    offset: u32,
    interface: u32,
}

/// What a file says beside its packets.
#[derive(Default)]
struct Read {
    endianness: Option<Endianness>,
    clock: String,
    /// Number in the result, nanoseconds of a time's unit.
    interfaces: Vec<(u32, Unit)>,
    described: Vec<InterfaceDescriptionBlock<'static>>,
    statistics: Vec<InterfaceStatisticsBlock<'static>>,
}

/// How long a file's unit of time is.
#[derive(Clone, Copy)]
struct Unit {
    multiply: u64,
    divide: u64,
}

impl Unit {
    /// From the option if_tsresol: a negative power of ten, or of two where the first bit is set.
    fn of(resolution: u8) -> Option<Unit> {
        match (resolution & 0x80 != 0, resolution & 0x7f) {
            (false, n @ 0..=9) => Some(Unit { multiply: 10u64.pow(9 - u32::from(n)), divide: 1 }),
            (false, n @ 10..=18) => Some(Unit { multiply: 1, divide: 10u64.pow(u32::from(n) - 9) }),
            (true, n @ 0..=62) => Some(Unit { multiply: 1_000_000_000, divide: 1 << n }),
            _ => None,
        }
    }
    fn ns(self, raw: u64) -> u64 {
        let ns = u128::from(raw) * u128::from(self.multiply) / u128::from(self.divide);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

/// Merges the files into one.
pub fn merge(inputs: &[Input<'_>], out: impl Write) -> Result<Merged, MergeError> {
    if inputs.len() > FILES_MAX {
        return Err(MergeError::TooManyFiles { got: inputs.len() });
    }
    let mut merged = Merged::default();
    let mut entries = Vec::new();
    let mut files = Vec::new();
    let mut interfaces = 0;
    for (number, input) in inputs.iter().enumerate() {
        let mut file = Read::default();
        let more = read(input, number as u32, &mut interfaces, &mut file, &mut entries);
        merged.left_out.extend(more.err().map(|why| format!("{}: {why}", input.host)));
        files.push(file);
    }
    entries.sort_unstable();
    let clocks: Vec<String> = inputs
        .iter()
        .zip(&files)
        .map(|(i, f)| format!("{} {}", i.host, if f.clock.is_empty() { "unknown" } else { &f.clock }))
        .collect();
    let mut comment = format!(
        "captures of {} hosts in the order of their own clocks; clocks: {}",
        inputs.len(),
        clocks.join(", ")
    );
    for words in &merged.left_out {
        comment.push_str("\nnot whole: ");
        comment.push_str(words);
    }
    // an option's length is 16 bits
    let end = (0..=comment.len().min(60_000)).rev().find(|&i| comment.is_char_boundary(i)).unwrap_or(0);
    comment.truncate(end);
    let section = SectionHeaderBlock {
        endianness: Endianness::Big,
        options: vec![
            SectionHeaderOption::Comment(comment.into()),
            SectionHeaderOption::UserApplication(concat!("selvedge ", env!("CARGO_PKG_VERSION")).into()),
        ],
        ..SectionHeaderBlock::default()
    };
    let mut writer = PcapNgWriter::with_section_header(out, section)?;
    for block in files.iter().flat_map(|f| &f.described) {
        writer.write_pcapng_block(block.clone())?;
    }
    for entry in &entries {
        let Some(input) = inputs.get(entry.file as usize) else { continue };
        let little = files.get(entry.file as usize).is_some_and(|f| f.endianness == Some(Endianness::Little));
        let Some((data, original_len)) = packet(input.bytes, entry.offset as usize, little) else { continue };
        let block = EnhancedPacketBlock {
            interface_id: entry.interface,
            timestamp: Duration::from_nanos(entry.at_ns),
            original_len,
            data: Cow::Borrowed(data),
            options: Vec::new(),
        };
        writer.write_pcapng_block(block)?;
        merged.packets += 1;
    }
    for block in files.iter().flat_map(|f| &f.statistics) {
        for option in &block.options {
            if let InterfaceStatisticsOption::IsbOsDrop(n) = option {
                merged.dropped = merged.dropped.saturating_add(*n);
            }
        }
        writer.write_pcapng_block(block.clone())?;
    }
    writer.get_mut().flush().map_err(|e| MergeError::Write { reason: e.to_string() })?;
    Ok(merged)
}

/// Reads a file's blocks. An error says in words what is missing.
fn read(
    input: &Input<'_>,
    file: u32,
    interfaces: &mut u32,
    out: &mut Read,
    entries: &mut Vec<Entry>,
) -> Result<(), String> {
    if u32::try_from(input.bytes.len()).is_err() {
        return Err("a file of 4 GiB or more is not read".to_owned());
    }
    let damaged = |e: PcapError, at: usize| format!("damaged at byte {at} ({e}), what follows is left out");
    let (mut rest, mut parser) =
        PcapNgParser::new(input.bytes).map_err(|e| format!("not a pcapng file ({e})"))?;
    out.endianness = Some(parser.section().endianness);
    for option in &parser.section().options {
        if let SectionHeaderOption::Comment(text) = option {
            let said = text.lines().find_map(|l| l.strip_prefix("clock: "));
            out.clock = said.unwrap_or_default().chars().take(40).collect();
        }
    }
    let little = out.endianness == Some(Endianness::Little);
    let mut number = 0;
    while !rest.is_empty() {
        let at = input.bytes.len() - rest.len();
        let (after, block) = parser.next_block(rest).map_err(|e| damaged(e, at))?;
        rest = after;
        match block {
            Block::SectionHeader(_) => {
                return Err(format!("a second section at byte {at} is left out"));
            }
            Block::InterfaceDescription(block) => {
                if out.interfaces.len() >= INTERFACES_MAX {
                    return Err(format!("more than {INTERFACES_MAX} interfaces, what follows is left out"));
                }
                let (described, unit) = describe(input.host, &block)?;
                out.interfaces.push((*interfaces, unit));
                out.described.push(described);
                *interfaces += 1;
            }
            Block::EnhancedPacket(block) => {
                let (interface, unit) = out
                    .interfaces
                    .get(block.interface_id as usize)
                    .ok_or_else(|| format!("a packet at byte {at} of an unknown interface"))?;
                if entries.len() >= PACKETS_MAX {
                    return Err(format!("more than {PACKETS_MAX} packets, what follows is left out"));
                }
                // the library takes every unit for a nanosecond
                let raw = u64::try_from(block.timestamp.as_nanos()).unwrap_or(u64::MAX);
                entries.push(Entry {
                    at_ns: unit.ns(raw),
                    file,
                    number,
                    offset: at as u32,
                    interface: *interface,
                });
                number += 1;
            }
            Block::InterfaceStatistics(block) => {
                let Some((interface, unit)) = out.interfaces.get(block.interface_id as usize) else {
                    continue;
                };
                // in little endian the library swaps the halves
                let time = |raw: u64| unit.ns(if little { raw.rotate_left(32) } else { raw });
                let options = block.options.iter().map(|option| match option {
                    InterfaceStatisticsOption::IsbStartTime(t) => {
                        InterfaceStatisticsOption::IsbStartTime(time(*t))
                    }
                    InterfaceStatisticsOption::IsbEndTime(t) => {
                        InterfaceStatisticsOption::IsbEndTime(time(*t))
                    }
                    other => other.clone(),
                });
                out.statistics.push(
                    InterfaceStatisticsBlock {
                        interface_id: *interface,
                        timestamp: time(block.timestamp),
                        options: options.collect(),
                    }
                    .into_owned(),
                );
            }
            // names, secrets, journals: of no use here
            _ => {}
        }
    }
    Ok(())
}

/// An interface under its host's name, with times in nanoseconds.
fn describe(
    host: &str,
    block: &InterfaceDescriptionBlock<'_>,
) -> Result<(InterfaceDescriptionBlock<'static>, Unit), String> {
    let mut unit = Unit { multiply: 1_000, divide: 1 };
    let mut options = vec![InterfaceDescriptionOption::IfTsResol(9)];
    let mut name = "?".to_owned();
    for option in &block.options {
        match option {
            InterfaceDescriptionOption::IfTsResol(r) => {
                unit = Unit::of(*r).ok_or_else(|| format!("times in units of {r:#x} are not understood"))?;
            }
            InterfaceDescriptionOption::IfTsOffset(0) => {}
            InterfaceDescriptionOption::IfTsOffset(_) => {
                return Err("times with an offset are not understood".to_owned());
            }
            InterfaceDescriptionOption::IfName(n) => name = n.chars().take(64).collect(),
            InterfaceDescriptionOption::IfFilter(f) => {
                options.push(InterfaceDescriptionOption::IfFilter(f.clone()));
            }
            _ => {}
        }
    }
    let host: String = host.chars().take(64).collect();
    options.push(InterfaceDescriptionOption::IfName(format!("{host}:{name}").into()));
    let block = InterfaceDescriptionBlock { linktype: block.linktype, snaplen: block.snaplen, options };
    Ok((block.into_owned(), unit))
}

/// Data and original length of the enhanced packet block there.
fn packet(bytes: &[u8], offset: usize, little: bool) -> Option<(&[u8], u32)> {
    let word = |at: usize| {
        let raw = bytes.get(offset + at..offset + at + 4)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(raw) } else { u32::from_be_bytes(raw) })
    };
    // type, length, interface, time (2), captured, original, data
    let captured = word(20)? as usize;
    Some((bytes.get(offset + 28..offset.checked_add(28)?.checked_add(captured)?)?, word(24)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file with packets at these times, in the given unit and order of bytes.
    fn file(endianness: Endianness, resolution: u8, times: &[u64]) -> Vec<u8> {
        let section = SectionHeaderBlock {
            endianness,
            options: vec![SectionHeaderOption::Comment("host: x\nclock: free".into())],
            ..SectionHeaderBlock::default()
        };
        let mut w = PcapNgWriter::with_section_header(Vec::new(), section).unwrap();
        let options = vec![
            InterfaceDescriptionOption::IfName("eth0".into()),
            InterfaceDescriptionOption::IfTsResol(resolution),
        ];
        let described = InterfaceDescriptionBlock::new(pcap_file::DataLink::ETHERNET, 64);
        w.write_pcapng_block(InterfaceDescriptionBlock { options, ..described }).unwrap();
        for t in times {
            let packet = EnhancedPacketBlock {
                interface_id: 0,
                timestamp: Duration::from_nanos(*t),
                original_len: 100,
                data: Cow::Owned(t.to_be_bytes().to_vec()),
                options: Vec::new(),
            };
            w.write_pcapng_block(packet).unwrap();
        }
        let options = vec![InterfaceStatisticsOption::IsbOsDrop(4)];
        w.write_pcapng_block(InterfaceStatisticsBlock { interface_id: 0, timestamp: 0, options }).unwrap();
        w.into_inner()
    }

    /// Interface, time and data of each packet.
    fn packets(bytes: &[u8]) -> Vec<(u32, u64, u64)> {
        let (mut rest, mut parser) = PcapNgParser::new(bytes).unwrap();
        let mut out = Vec::new();
        while !rest.is_empty() {
            let (after, block) = parser.next_block(rest).unwrap();
            if let Block::EnhancedPacket(p) = block {
                let data = u64::from_be_bytes(p.data[..].try_into().unwrap());
                out.push((p.interface_id, p.timestamp.as_nanos() as u64, data));
            }
            rest = after;
        }
        out
    }

    #[test]
    fn units_and_orders_of_bytes_become_one() {
        // microseconds out of order, and nanoseconds
        let micro = file(Endianness::Little, 6, &[5, 2, 9]);
        let nano = file(Endianness::Big, 9, &[3_000, 5_000, 9_000]);
        let inputs = [Input { host: "a", bytes: &micro }, Input { host: "b", bytes: &nano }];
        let mut out = Vec::new();
        let merged = merge(&inputs, &mut out).unwrap();
        assert_eq!((merged.packets, merged.dropped, merged.left_out.len()), (6, 8, 0));
        let want = [
            (0, 2_000, 2),
            (1, 3_000, 3_000),
            (0, 5_000, 5),
            (1, 5_000, 5_000),
            (0, 9_000, 9),
            (1, 9_000, 9_000),
        ];
        assert_eq!(packets(&out), want);
        let words = String::from_utf8_lossy(&out);
        assert!(words.contains("a:eth0") && words.contains("b:eth0") && words.contains("a free, b free"));
        assert_eq!(merge(&[], Vec::new()), Ok(Merged::default()));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let nano = file(Endianness::Big, 9, &[1, 2, 3]);
        let odd = file(Endianness::Big, 0xff, &[1]);
        let twice = [nano.clone(), nano.clone()].concat();
        let cut = &nano[..nano.len() - 70];
        let inputs = [&nano[..], b"odd", &odd, &twice, cut].map(|bytes| Input { host: "h", bytes });
        let merged = merge(&inputs, std::io::sink()).unwrap();
        assert_eq!(merged.left_out.len(), 4, "{:?}", merged.left_out);
        assert!(merged.packets >= 6, "{merged:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_outcome(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
            little: bool,
        ) {
            let order = if little { Endianness::Little } else { Endianness::Big };
            let mut bytes = file(order, 9, &[1, 2, 3]);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = merge(&[Input { host: "h", bytes: &bytes }], Vec::new());
        }
    }
}
