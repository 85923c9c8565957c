//! Flows as exporters tell of them: IPFIX (RFC 7011), NetFlow v9 (RFC 3954) and v5, sFlow v5; bytes in, columns out.
//!
//! How: [`Decoder::datagram`] tells the protocols apart by their version, finds the exporter (its address, and its
//! observation domain, source id or agent), and takes every data set whose template is known straight into
//! [`FlowColumns`]. A set whose template has not come yet is parked, and taken when it does. Sampling rates come from the
//! exporter's own options, its headers, or the caller's default. What an exporter numbered and did not arrive is counted.
//! Invariants: any bytes are answered with an [`Outcome`], and never a panic; memory is bounded by [`Limits`]; what was
//! thrown away is counted with its reason in [`Counts`]; templates outlive the process by [`Decoder::to_bytes`].
//! Absent on purpose: sockets, and who an exporter is in the fabric.

mod columns;
mod exporter;
mod sflow;
mod template;

pub use columns::{Address, FlowColumns, Maybe, mapped};
pub use exporter::{Exporter, Key, Protocol};
pub use sflow::{DropRow, SampledCounter, drop_reason};

use crate::time::Nanos;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use exporter::{Known, Parked};
use template::{BadSet, Field, Template, Told, long, uint};

/// How much a decoder may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Exporters, default 4,096. Datagrams of further ones are refused.
    pub exporters: usize,
    /// Templates of one exporter, default 1,024.
    pub templates: usize,
    /// Bytes of parked sets, all exporters together, default 32 MiB. The oldest go first.
    pub parked_bytes: usize,
    /// Packets one packet stands for where the exporter says nothing, default 1.
    pub sampling: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { exporters: 4_096, templates: 1_024, parked_bytes: 32 << 20, sampling: 1 }
    }
}

/// Why a datagram, or what is left of it, was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refused {
    /// Neither of the versions known.
    #[error("neither NetFlow v5 or v9, nor IPFIX, nor sFlow v5")]
    UnknownVersion,
    /// Its lengths and its size do not agree.
    #[error("cut off, or longer than it says")]
    Cut,
    /// There are [`Limits::exporters`] already.
    #[error("too many exporters")]
    TooManyExporters,
}

/// What was counted since the start. Records and sets that are neither taken nor parked stand under a reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams taken, at least in part.
    pub datagrams: u64,
    /// Datagrams refused whole: an unknown version, or one too many exporters.
    pub refused: u64,
    /// Datagrams whose lengths contradict each other; what stood before that was taken.
    pub cut: u64,
    /// Flow records taken; one of both directions (RFC 5103) counts twice if something went back.
    pub records: u64,
    /// Records of options, which say something of the exporter.
    pub options: u64,
    /// Templates learned or changed.
    pub templates: u64,
    /// Templates refused: no fields, or [`Limits::templates`] reached.
    pub templates_refused: u64,
    /// Sets parked because their template was not there.
    pub parked: u64,
    /// Of those, taken since.
    pub replayed: u64,
    /// Of those, given up for want of room.
    pub parked_dropped: u64,
    /// Sets that do not hold whole records of their template.
    pub bad_sets: u64,
    /// Flow records (v5, IPFIX), or datagrams (v9, sFlow), that exporters numbered and that never came.
    pub missing: u64,
    /// Exporters that began to count anew.
    pub restarts: u64,
    /// sFlow samples of a kind not known here.
    pub samples_unknown: u64,
}

/// What a datagram gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Flow records.
    pub records: usize,
    /// Its exporter's number.
    pub exporter: u32,
}

/// What is not a flow.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beside {
    /// Packets switches say they threw away.
    pub drops: Vec<DropRow>,
    /// Counters of interfaces.
    pub counters: Vec<SampledCounter>,
}

/// Decoder of everything exporters send, with what it knows of them.
#[derive(Debug, Default)]
pub struct Decoder {
    limits: Limits,
    exporters: BTreeMap<Key, Known>,
    next: u32,
    parked_bytes: usize,
    /// Whose sets are parked, oldest first; an entry may be stale.
    parked_order: VecDeque<Key>,
    counts: Counts,
    /// Templates changed since they were last asked for.
    changed: bool,
    met: Vec<Exporter>,
}

/// The next bytes of a datagram.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Refused> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Refused::Cut)?;
        self.0 = tail;
        Ok(head)
    }
    fn u16(&mut self) -> Result<u16, Refused> {
        self.take(2).map(|b| uint(b) as u16)
    }
    fn u32(&mut self) -> Result<u32, Refused> {
        self.take(4).map(|b| uint(b) as u32)
    }
    fn u64(&mut self) -> Result<u64, Refused> {
        self.take(8).map(uint)
    }
}

impl Decoder {
    /// Nothing known yet.
    pub fn new(limits: Limits) -> Self {
        Decoder { limits, ..Decoder::default() }
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Exporters met since this was last asked.
    pub fn met(&mut self) -> Vec<Exporter> {
        core::mem::take(&mut self.met)
    }

    /// Whether a template or a sampling rate changed since this was last asked: time to keep [`Decoder::to_bytes`].
    pub fn has_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// Takes a datagram.
    pub fn datagram(
        &mut self,
        now: Nanos,
        from: Address,
        bytes: &[u8],
        flows: &mut FlowColumns,
        beside: &mut Beside,
    ) -> Result<Outcome, Refused> {
        let done = match bytes {
            [0, 10, ..] => self.ipfix(from, bytes, flows),
            [0, 9, ..] => self.netflow9(from, bytes, flows),
            [0, 5, ..] => self.netflow5(from, bytes, flows),
            [0, 0, 0, 5, ..] => self.sflow(now, from, bytes, flows, beside),
            _ => Err(Refused::UnknownVersion),
        };
        match done {
            Ok(_) => self.counts.datagrams += 1,
            Err(Refused::Cut) => self.counts.cut += 1,
            Err(_) => self.counts.refused += 1,
        }
        flows.level();
        done
    }

    fn known(&mut self, key: Key) -> Result<&mut Known, Refused> {
        if !self.exporters.contains_key(&key) {
            if self.exporters.len() >= self.limits.exporters {
                return Err(Refused::TooManyExporters);
            }
            let number = self.next;
            self.next += 1;
            self.met.push(Exporter { number, key });
            self.exporters.insert(key, Known::new(number));
        }
        self.exporters.get_mut(&key).ok_or(Refused::TooManyExporters)
    }

    fn ipfix(&mut self, from: Address, bytes: &[u8], flows: &mut FlowColumns) -> Result<Outcome, Refused> {
        let mut b = Bytes(bytes);
        b.take(2)?;
        let length = usize::from(b.u16()?);
        let (sent, sequence, domain) = (b.u32()?, b.u32()?, b.u32()?);
        let body = bytes.get(16..length).ok_or(Refused::Cut)?;
        let key = Key { address: from, domain, protocol: Protocol::Ipfix };
        let told = Told { sent_us: i64::from(sent) * 1_000_000, booted_us: None };
        let number = self.known(key)?.number;
        let done = self.sets(key, body, told, flows);
        let records = match done {
            Ok(n) | Err((n, _)) => n,
        };
        // Records of sets that could not be read are not known, so the count begins anew behind them.
        let whole = done.is_ok_and(|_| !self.known(key).is_ok_and(|k| k.unread));
        self.numbered(key, sequence, records.all as u32, whole);
        match done {
            Ok(n) => Ok(Outcome { records: n.flows, exporter: number }),
            Err((_, refused)) => Err(refused),
        }
    }

    fn netflow9(&mut self, from: Address, bytes: &[u8], flows: &mut FlowColumns) -> Result<Outcome, Refused> {
        let mut b = Bytes(bytes);
        b.take(4)?;
        let (uptime, sent, sequence, domain) = (b.u32()?, b.u32()?, b.u32()?, b.u32()?);
        let key = Key { address: from, domain, protocol: Protocol::NetFlow9 };
        let sent_us = i64::from(sent) * 1_000_000;
        let told = Told { sent_us, booted_us: Some(sent_us - i64::from(uptime) * 1_000) };
        let number = self.known(key)?.number;
        self.numbered(key, sequence, 1, true);
        match self.sets(key, b.0, told, flows) {
            Ok(n) => Ok(Outcome { records: n.flows, exporter: number }),
            Err((_, refused)) => Err(refused),
        }
    }

    /// What an exporter's own number says of what went missing before.
    fn numbered(&mut self, key: Key, sequence: u32, count: u32, whole: bool) {
        let Ok(known) = self.known(key) else { return };
        let (missing, restart) = known.sequence.take(sequence, count, whole);
        // A datagram that was overtaken takes back what was counted for it.
        self.counts.missing = self.counts.missing.saturating_add_signed(missing);
        self.counts.restarts += u64::from(restart);
    }

    /// Takes the sets of a message.
    fn sets(
        &mut self,
        key: Key,
        body: &[u8],
        told: Told,
        flows: &mut FlowColumns,
    ) -> Result<Taken, (Taken, Refused)> {
        let mut taken = Taken::default();
        if let Ok(known) = self.known(key) {
            known.unread = false;
        }
        let mut rest = body;
        while rest.len() >= 4 {
            let (id, length) = match rest {
                [a, b, c, d, ..] => (u16::from_be_bytes([*a, *b]), usize::from(u16::from_be_bytes([*c, *d]))),
                _ => break,
            };
            let Some(set) = rest.get(4..length) else { return Err((taken, Refused::Cut)) };
            rest = rest.get(length..).unwrap_or_default();
            let ipfix = key.protocol == Protocol::Ipfix;
            match (id, ipfix) {
                (2, true) | (0, false) => self.templates(key, set, false, flows),
                (3, true) | (1, false) => self.templates(key, set, true, flows),
                (256.., _) => self.data(key, id, set, told, flows, &mut taken),
                // Reserved.
                _ => self.counts.bad_sets += 1,
            }
        }
        // v9 pads its packets; anything else is a message that lies about its length.
        if rest.iter().any(|&b| b != 0) { Err((taken, Refused::Cut)) } else { Ok(taken) }
    }

    fn data(
        &mut self,
        key: Key,
        id: u16,
        set: &[u8],
        told: Told,
        flows: &mut FlowColumns,
        taken: &mut Taken,
    ) {
        let sampling = self.limits.sampling;
        let Some(known) = self.exporters.get_mut(&key) else { return };
        let Some(template) = known.templates.get(&id) else {
            known.unread = true;
            self.park(key, id, set, told);
            return;
        };
        if template.scope > 0 {
            match template.count(set) {
                Ok(n) => {
                    taken.all += n;
                    self.counts.options += n as u64;
                    if known.learn(id, set) {
                        self.changed = true;
                    }
                }
                Err(BadSet::Cut) => {
                    known.unread = true;
                    self.counts.bad_sets += 1;
                }
            }
            return;
        }
        let rate = |selector| known.rates.of(selector).unwrap_or(sampling);
        let before = flows.rows();
        match template.take(set, told, known.number.cast_signed(), rate, flows) {
            Ok(n) => {
                let rows = flows.rows() - before;
                taken.all += n;
                taken.flows += rows;
                self.counts.records += rows as u64;
            }
            Err(BadSet::Cut) => {
                known.unread = true;
                self.counts.bad_sets += 1;
            }
        }
    }

    fn park(&mut self, key: Key, id: u16, set: &[u8], told: Told) {
        if set.len() > self.limits.parked_bytes {
            self.counts.parked += 1;
            self.counts.parked_dropped += 1;
            return;
        }
        while self.parked_bytes + set.len() > self.limits.parked_bytes {
            let Some(oldest) = self.parked_order.pop_front() else { break };
            if let Some(gone) = self.exporters.get_mut(&oldest).and_then(|k| k.parked.pop_front()) {
                self.parked_bytes -= gone.set.len();
                self.counts.parked_dropped += 1;
            }
        }
        if let Some(known) = self.exporters.get_mut(&key) {
            known.parked.push_back(Parked { id, set: set.to_vec(), told });
            self.parked_order.push_back(key);
            self.parked_bytes += set.len();
            self.counts.parked += 1;
        }
    }

    /// Takes what was parked for a template that has come.
    fn replay(&mut self, key: Key, id: u16, flows: &mut FlowColumns) {
        let Some(known) = self.exporters.get_mut(&key) else { return };
        let (ripe, rest): (VecDeque<Parked>, VecDeque<Parked>) =
            core::mem::take(&mut known.parked).into_iter().partition(|p| p.id == id);
        known.parked = rest;
        if ripe.is_empty() {
            return;
        }
        // One entry for each set that is still parked: as many as went leave, the oldest first.
        let mut gone = ripe.len();
        self.parked_order.retain(|k| {
            let leaves = *k == key && gone > 0;
            gone -= usize::from(leaves);
            !leaves
        });
        for parked in ripe {
            self.parked_bytes -= parked.set.len();
            self.counts.replayed += 1;
            self.data(key, id, &parked.set, parked.told, flows, &mut Taken::default());
        }
    }

    /// Learns the templates of a set.
    fn templates(&mut self, key: Key, set: &[u8], options: bool, flows: &mut FlowColumns) {
        let mut b = Bytes(set);
        // Less than the shortest template is padding.
        while b.0.len() >= 4 {
            match self.template(key, &mut b, options) {
                Ok(Some(id)) => self.replay(key, id, flows),
                Ok(None) => {}
                Err(_) => {
                    self.counts.templates_refused += 1;
                    return;
                }
            }
        }
    }

    /// One template; its id where there is data to be read by it now.
    fn template(&mut self, key: Key, b: &mut Bytes<'_>, options: bool) -> Result<Option<u16>, Refused> {
        let ipfix = key.protocol == Protocol::Ipfix;
        let id = b.u16()?;
        let count = usize::from(b.u16()?);
        let limit = self.limits.templates;
        if ipfix && count == 0 {
            // withdrawn (RFC 7011, section 8.1); the id of the set itself means all of its kind
            if let Ok(known) = self.known(key) {
                known.templates.retain(|&i, t| match id {
                    2 | 3 => (t.scope > 0) != (id == 3),
                    _ => i != id,
                });
            }
            self.changed = true;
            return Ok(None);
        }
        if id < 256 {
            // Zeros behind the last template of v9.
            return if b.0.iter().all(|&x| x == 0) && id == 0 && count == 0 {
                b.0 = &[];
                Ok(None)
            } else {
                Err(Refused::Cut)
            };
        }
        let (count, scope) = match (options, ipfix) {
            (false, _) => (count, 0),
            (true, true) => (count, usize::from(b.u16()?)),
            (true, false) => {
                // v9 gives lengths in bytes, and `count` was that of the scope
                let rest = usize::from(b.u16()?);
                (count / 4 + rest / 4, count / 4)
            }
        };
        let mut fields = Vec::with_capacity(count.min(template::FIELDS_MAX));
        for at in 0..count {
            let (element, length) = (b.u16()?, b.u16()?);
            let enterprise = if ipfix && element & 0x8000 != 0 { b.u32()? } else { 0 };
            // v9 numbers its scopes apart (RFC 3954, section 6.1): not elements of flows
            let enterprise = if !ipfix && at < scope { u32::MAX } else { enterprise };
            let element = if ipfix { element & 0x7fff } else { element };
            if fields.len() < template::FIELDS_MAX {
                fields.push(Field { enterprise, element, length });
            }
        }
        let scope = if options { scope.max(1) } else { scope };
        let template = (scope < count || !options).then(|| Template::new(fields, scope)).flatten();
        let known = self.known(key)?;
        let fits = known.templates.len() < limit || known.templates.contains_key(&id);
        let Some(template) = template.filter(|t| fits && t.fields.len() == count) else {
            self.counts.templates_refused += 1;
            return Ok(None);
        };
        if known.templates.get(&id) != Some(&template) {
            known.templates.insert(id, template);
            self.changed = true;
            self.counts.templates += 1;
        }
        Ok(Some(id))
    }

    fn netflow5(&mut self, from: Address, bytes: &[u8], flows: &mut FlowColumns) -> Result<Outcome, Refused> {
        let mut b = Bytes(bytes);
        b.take(2)?;
        let count = usize::from(b.u16()?);
        let (uptime, secs, nanos, sequence) = (b.u32()?, b.u32()?, b.u32()?, b.u32()?);
        let engine = b.u16()?;
        let sampling = b.u16()?;
        let records = b.take(count * 48)?;
        let key = Key { address: from, domain: engine.into(), protocol: Protocol::NetFlow5 };
        let default = self.limits.sampling;
        let number = self.known(key)?.number;
        self.numbered(key, sequence, count as u32, true);
        // two bits of mode, 14 of interval
        let rate = match u32::from(sampling & 0x3fff) {
            0 => default,
            n => n,
        };
        let sent_us = i64::from(secs) * 1_000_000 + i64::from(nanos / 1_000);
        let booted = sent_us - i64::from(uptime) * 1_000;
        for r in records.chunks_exact(48) {
            let at = |from: usize, n: usize| uint(r.get(from..from + n).unwrap_or_default());
            let v4 = |from: usize| mapped(at(from, 4) as u32);
            let start = booted + at(24, 4) as i64 * 1_000;
            let end = booted + at(28, 4) as i64 * 1_000;
            flows.ts_us.push(start);
            flows.exporter.push(number.cast_signed());
            flows.packets.push(long(at(16, 4) * u64::from(rate)));
            flows.bytes.push(long(at(20, 4) * u64::from(rate)));
            flows.sampling.push(i32::try_from(rate).unwrap_or(i32::MAX));
            flows.duration_us.push(Some((end - start).max(0)));
            flows.src.push(Some(v4(0)));
            flows.dst.push(Some(v4(4)));
            flows.next_hop.push(Some(v4(8)));
            flows.in_if.push(Some(at(12, 2) as i64));
            flows.out_if.push(Some(at(14, 2) as i64));
            flows.src_port.push(Some(at(32, 2) as i32));
            flows.dst_port.push(Some(at(34, 2) as i32));
            flows.tcp_flags.push(Some(at(37, 1) as i32));
            flows.protocol.push(Some(at(38, 1) as i32));
            flows.traffic_class.push(Some(at(39, 1) as i32));
            flows.src_as.push(Some(at(40, 2) as i64));
            flows.dst_as.push(Some(at(42, 2) as i64));
            flows.src_prefix_len.push(Some(at(44, 1) as i32));
            flows.dst_prefix_len.push(Some(at(45, 1) as i32));
        }
        flows.level();
        self.counts.records += count as u64;
        Ok(Outcome { records: count, exporter: number })
    }
}

/// Records of a message.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    flows: usize,
    /// Options as well: what IPFIX counts.
    all: usize,
}

#[cfg(test)]
mod tests;
