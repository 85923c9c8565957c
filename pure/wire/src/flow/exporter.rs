//! One exporter: its templates, its sampling, its numbering, and what waits for a template.

use super::columns::Address;
use super::template::{Field, SamplingWord, Template, Told};
use super::{Bytes, Decoder, Limits, Refused};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

/// How an exporter speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// RFC 7011.
    Ipfix = 10,
    /// RFC 3954.
    NetFlow9 = 9,
    /// Cisco's version 5.
    NetFlow5 = 5,
    /// sflow.org's version 5.
    Sflow = 1,
}

impl Protocol {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Ipfix => "ipfix",
            Protocol::NetFlow9 => "netflow9",
            Protocol::NetFlow5 => "netflow5",
            Protocol::Sflow => "sflow",
        }
    }

    fn of(number: u8) -> Option<Protocol> {
        [Protocol::Ipfix, Protocol::NetFlow9, Protocol::NetFlow5, Protocol::Sflow]
            .into_iter()
            .find(|p| *p as u8 == number)
    }
}

/// What makes an exporter one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Where its datagrams come from; of sFlow the agent's own address.
    pub address: Address,
    /// Observation domain, source id, engine, or sub-agent.
    pub domain: u32,
    /// How it speaks.
    pub protocol: Protocol,
}

/// An exporter and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exporter {
    /// Its number in columns: counted from 0 in the order of meeting, kept over [`Decoder::to_bytes`].
    pub number: u32,
    /// Who it is.
    pub key: Key,
}

/// A set without its template.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    pub id: u16,
    pub set: Vec<u8>,
    pub told: Told,
}

/// Sampling rates an exporter told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rates {
    all: Option<u32>,
    by_selector: BTreeMap<u64, u32>,
}

/// Selectors remembered.
const SELECTORS_MAX: usize = 256;

impl Rates {
    pub(super) fn of(&self, selector: Option<u64>) -> Option<u32> {
        let named = selector.and_then(|s| self.by_selector.get(&s));
        named.copied().or(self.all)
    }

    fn set(&mut self, selector: Option<u64>, rate: u32) -> bool {
        let rate = rate.max(1);
        match selector {
            None => self.all.replace(rate) != Some(rate),
            Some(s) if self.by_selector.len() < SELECTORS_MAX || self.by_selector.contains_key(&s) => {
                // Flows that name none are most likely of the only one there is.
                self.all = Some(rate);
                self.by_selector.insert(s, rate) != Some(rate)
            }
            Some(_) => false,
        }
    }
}

/// What an exporter numbers: what comes next, and how much of it never came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sequence {
    expected: Option<u32>,
    /// Counted as missing and not come since.
    owed: u32,
}

/// A jump by more than this is no loss but a new beginning.
const JUMP_MAX: u32 = 1 << 22;

impl Sequence {
    /// Takes the number of a message and how many it counts; `(missing, begun anew)`. Missing is negative where a message
    /// came late that was counted before.
    pub(super) fn take(&mut self, number: u32, count: u32, whole: bool) -> (i64, bool) {
        let next = whole.then(|| number.wrapping_add(count));
        let Some(expected) = self.expected else {
            self.expected = next;
            return (0, false);
        };
        let ahead = number.wrapping_sub(expected);
        let behind = expected.wrapping_sub(number);
        if ahead < JUMP_MAX {
            self.expected = next;
            self.owed = self.owed.saturating_add(ahead);
            return (ahead.into(), false);
        }
        if behind <= self.owed.min(JUMP_MAX) {
            // overtaken on the way: what it brings was counted as missing
            let back = count.min(self.owed);
            self.owed -= back;
            return (-i64::from(back), false);
        }
        self.expected = next;
        self.owed = 0;
        (0, true)
    }
}

/// Everything known of one exporter.
#[derive(Debug)]
pub(super) struct Known {
    pub number: u32,
    pub templates: BTreeMap<u16, Template>,
    pub rates: Rates,
    pub sequence: Sequence,
    pub parked: VecDeque<Parked>,
    /// A set of the message at hand could not be read, so how many records it holds is not known.
    pub unread: bool,
}

impl Known {
    pub(super) fn new(number: u32) -> Self {
        Known {
            number,
            templates: BTreeMap::new(),
            rates: Rates::default(),
            sequence: Sequence::default(),
            parked: VecDeque::new(),
            unread: false,
        }
    }

    /// Learns what records of options say of sampling; whether that is new.
    pub(super) fn learn(&mut self, id: u16, set: &[u8]) -> bool {
        let Some(template) = self.templates.get(&id) else { return false };
        if template.plan.sampling.is_empty() {
            return false;
        }
        // The selector stands in the scope, or beside.
        let in_scope = template.fields.iter().take(template.scope);
        let selector = in_scope
            .enumerate()
            .find(|(_, f)| f.enterprise == 0 && matches!(f.element, 48 | 302))
            .map(|(at, _)| at)
            .or(template.plan.selector);
        let selectors = selector.map(|at| template.values(set, at));
        let column = |word| {
            let found = template.plan.sampling.iter().find(|(w, _)| *w == word);
            found.map(|&(_, at)| (template.values(set, at), template.length(at)))
        };
        let (interval, packets) = (column(SamplingWord::Interval), column(SamplingWord::PacketInterval));
        let (space, share) = (column(SamplingWord::PacketSpace), column(SamplingWord::Probability));
        let rows = template.count(set).unwrap_or(0);
        let mut changed = false;
        for row in 0..rows {
            let at = |c: &Option<(Vec<u64>, u16)>| c.as_ref().and_then(|(v, _)| v.get(row).copied());
            let rate = match (at(&interval), at(&packets), at(&space), at(&share)) {
                (Some(n), ..) => n,
                // so many packets taken, so many left out
                (_, Some(taken @ 1..), Some(left), _) => (taken.saturating_add(left)) / taken,
                (_, _, _, Some(bits)) => {
                    let four = share.as_ref().is_some_and(|(_, length)| *length == 4);
                    let p = if four { f64::from(f32::from_bits(bits as u32)) } else { f64::from_bits(bits) };
                    if p > 0.0 && p <= 1.0 { (1.0 / p + 0.5) as u64 } else { 1 }
                }
                _ => continue,
            };
            let selector = selectors.as_ref().and_then(|s| s.get(row).copied());
            changed |= self.rates.set(selector, u32::try_from(rate).unwrap_or(u32::MAX));
        }
        changed
    }
}

const MAGIC: &[u8; 8] = b"SLVTPL1\n";

fn put(out: &mut Vec<u8>, n: u64, bytes: usize) {
    out.extend_from_slice(n.to_be_bytes().get(8 - bytes..).unwrap_or_default());
}

impl Decoder {
    /// Exporters, their templates and sampling rates, to be kept over a restart. What is parked is not in it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put(&mut out, self.next.into(), 4);
        put(&mut out, self.exporters.len() as u64, 4);
        for (key, known) in &self.exporters {
            out.extend_from_slice(&key.address);
            put(&mut out, key.domain.into(), 4);
            out.push(key.protocol as u8);
            put(&mut out, known.number.into(), 4);
            put(&mut out, known.rates.all.unwrap_or(0).into(), 4);
            put(&mut out, known.rates.by_selector.len() as u64, 4);
            for (&selector, &rate) in &known.rates.by_selector {
                put(&mut out, selector, 8);
                put(&mut out, rate.into(), 4);
            }
            put(&mut out, known.templates.len() as u64, 4);
            for (&id, t) in &known.templates {
                put(&mut out, id.into(), 2);
                put(&mut out, t.scope as u64, 2);
                put(&mut out, t.fields.len() as u64, 2);
                for f in &t.fields {
                    put(&mut out, f.enterprise.into(), 4);
                    put(&mut out, f.element.into(), 2);
                    put(&mut out, f.length.into(), 2);
                }
            }
        }
        out
    }

    /// A decoder that knows what [`Decoder::to_bytes`] kept. Bytes that are something else are refused; limits hold here
    /// as well.
    pub fn from_bytes(limits: Limits, bytes: &[u8]) -> Result<Decoder, Refused> {
        let mut b = Bytes(bytes);
        if b.take(MAGIC.len())? != MAGIC {
            return Err(Refused::UnknownVersion);
        }
        let mut decoder = Decoder::new(limits);
        decoder.next = b.u32()?;
        for _ in 0..b.u32()? {
            let address: Address = b.take(16)?.try_into().map_err(|_| Refused::Cut)?;
            let domain = b.u32()?;
            let protocol =
                b.take(1)?.first().copied().and_then(Protocol::of).ok_or(Refused::UnknownVersion)?;
            let mut known = Known::new(b.u32()?);
            known.rates.all = Some(b.u32()?).filter(|&r| r > 0);
            for _ in 0..b.u32()? {
                let (selector, rate) = (b.u64()?, b.u32()?);
                if known.rates.by_selector.len() < SELECTORS_MAX {
                    known.rates.by_selector.insert(selector, rate.max(1));
                }
            }
            for _ in 0..b.u32()? {
                let (id, scope, count) = (b.u16()?, usize::from(b.u16()?), usize::from(b.u16()?));
                let mut fields = Vec::new();
                for _ in 0..count {
                    fields.push(Field { enterprise: b.u32()?, element: b.u16()?, length: b.u16()? });
                }
                let template = Template::new(fields, scope).ok_or(Refused::Cut)?;
                if known.templates.len() < limits.templates {
                    known.templates.insert(id, template);
                }
            }
            if decoder.exporters.len() >= limits.exporters {
                return Err(Refused::TooManyExporters);
            }
            decoder.next = decoder.next.max(known.number.saturating_add(1));
            let key = Key { address, domain, protocol };
            decoder.met.push(Exporter { number: known.number, key });
            decoder.exporters.insert(key, known);
        }
        Ok(decoder)
    }
}
