//! Templates of IPFIX (RFC 7011) and NetFlow v9 (RFC 3954), and data sets by them, straight into columns.
//!
//! How: a template becomes a [`Plan`] once: for each column the place of its field in a record. A set of records of one
//! length is then taken column by column in tight loops over all its records; where fields have variable lengths, one
//! pass finds every field's place first and the same loops run over those.
//! Invariants: no read outside of the set; a set that does not hold whole records, but for its padding, is refused and
//! leaves the columns as they were; a template's size is bounded by the message it came in.
//! Absent on purpose: lists and other structured data (RFC 6313): they are stepped over by their length.

use super::columns::{Address, FlowColumns, Maybe, Reverse, mapped};
use alloc::vec::Vec;

/// Fields of a template.
pub(crate) const FIELDS_MAX: usize = 512;
/// Elements of the other direction have this enterprise (RFC 5103).
const REVERSE: u32 = 29_305;
/// A field whose length stands before each value.
const VARIABLE: u16 = 0xffff;

/// One field, as the template says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    /// 0: the registry of IANA (or NetFlow v9's own numbers, which are the same).
    pub enterprise: u32,
    pub element: u16,
    pub length: u16,
}

/// Times and counters that several elements can tell, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeForm {
    Milliseconds,
    Seconds,
    /// Since the exporter started, milliseconds.
    Uptime,
    /// NTP's 64 bits (RFC 5905).
    Ntp,
    /// Microseconds before the message was sent.
    Before,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    SrcPort,
    DstPort,
    Protocol,
    TcpFlags,
    TrafficClass,
    SrcPrefix,
    DstPrefix,
    Vlan,
    Direction,
    TtlMin,
    TtlMax,
    EndReason,
    Forwarding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wide {
    InIf,
    OutIf,
    SrcAs,
    DstAs,
    FlowLabel,
    Mpls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Src,
    Dst,
    NextHop,
    Srv6,
}

/// A field's place among the fields of the template.
type At = usize;

/// What to take from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    start: Option<(At, TimeForm)>,
    end: Option<(At, TimeForm)>,
    /// Milliseconds.
    duration: Option<At>,
    /// When the exporter started, milliseconds since 1970.
    booted: Option<At>,
    packets: [Option<At>; 2],
    bytes: [Option<At>; 2],
    numbers: Vec<(Number, At)>,
    wides: Vec<(Wide, At)>,
    /// IPv4 and IPv6 where a template has both.
    places: Vec<(Place, At, Option<At>)>,
    /// ICMP's type, or both: what is to be shifted left by so many bits.
    icmp: Vec<(At, u32)>,
    reverse: Backward,
    pub selector: Option<At>,
    /// What an options record says of sampling: `(what, field)`.
    pub sampling: Vec<(SamplingWord, At)>,
}

/// Fields of the other direction of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Backward {
    packets: Option<At>,
    bytes: Option<At>,
    tcp_flags: Option<At>,
    traffic_class: Option<At>,
}

/// What options say of sampling (RFC 5477, RFC 3954).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SamplingWord {
    Interval,
    PacketInterval,
    PacketSpace,
    Probability,
}

/// A template and how records are read by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    pub fields: Vec<Field>,
    /// Fields of the scope, which come first; above 0 the records are options.
    pub scope: usize,
    pub plan: Plan,
    /// Smallest length of a record: variable fields count one byte.
    pub record_min: usize,
    offsets: Vec<usize>,
    variable: bool,
}

fn time_form(element: u16) -> Option<(bool, TimeForm)> {
    Some(match element {
        152 => (true, TimeForm::Milliseconds),
        153 => (false, TimeForm::Milliseconds),
        150 => (true, TimeForm::Seconds),
        151 => (false, TimeForm::Seconds),
        22 => (true, TimeForm::Uptime),
        21 => (false, TimeForm::Uptime),
        154 | 156 => (true, TimeForm::Ntp),
        155 | 157 => (false, TimeForm::Ntp),
        158 => (true, TimeForm::Before),
        159 => (false, TimeForm::Before),
        // when a single packet was seen
        323 => (true, TimeForm::Milliseconds),
        322 => (true, TimeForm::Seconds),
        324 | 325 => (true, TimeForm::Ntp),
        _ => return None,
    })
}

/// Elements of the IANA registry that have a column. The first field that fills one counts.
impl Plan {
    fn of(fields: &[Field]) -> Plan {
        let mut plan = Plan::default();
        for (at, f) in fields.iter().enumerate() {
            match f.enterprise {
                0 => plan.take(f.element, at),
                REVERSE => plan.take_reverse(f.element, at),
                _ => {}
            }
        }
        plan
    }

    fn take(&mut self, element: u16, at: At) {
        if let Some((is_start, form)) = time_form(element) {
            let slot = if is_start { &mut self.start } else { &mut self.end };
            // Uptimes are the least exact.
            if slot.is_none_or(|(_, had)| had == TimeForm::Uptime && form != TimeForm::Uptime) {
                *slot = Some((at, form));
            }
            return;
        }
        let number = match element {
            7 | 180 | 182 => Number::SrcPort,
            11 | 181 | 183 => Number::DstPort,
            4 => Number::Protocol,
            6 => Number::TcpFlags,
            5 => Number::TrafficClass,
            9 | 29 => Number::SrcPrefix,
            13 | 30 => Number::DstPrefix,
            58 | 243 => Number::Vlan,
            61 => Number::Direction,
            52 => Number::TtlMin,
            53 => Number::TtlMax,
            192 => {
                self.number(Number::TtlMin, at);
                Number::TtlMax
            }
            136 => Number::EndReason,
            89 => Number::Forwarding,
            _ => return self.take_others(element, at),
        };
        self.number(number, at);
    }

    fn take_reverse(&mut self, element: u16, at: At) {
        let slot = match element {
            2 | 86 => &mut self.reverse.packets,
            1 | 85 => &mut self.reverse.bytes,
            6 => &mut self.reverse.tcp_flags,
            5 => &mut self.reverse.traffic_class,
            _ => return,
        };
        first(slot, at);
    }

    fn number(&mut self, number: Number, at: At) {
        if !self.numbers.iter().any(|(n, _)| *n == number) {
            self.numbers.push((number, at));
        }
    }

    fn take_others(&mut self, element: u16, at: At) {
        let wide = match element {
            10 | 252 => Wide::InIf,
            14 | 253 => Wide::OutIf,
            16 => Wide::SrcAs,
            17 => Wide::DstAs,
            31 => Wide::FlowLabel,
            70 => Wide::Mpls,
            _ => return self.take_rest(element, at),
        };
        if !self.wides.iter().any(|(w, _)| *w == wide) {
            self.wides.push((wide, at));
        }
    }

    fn take_rest(&mut self, element: u16, at: At) {
        let place = match element {
            8 | 27 => Place::Src,
            12 | 28 => Place::Dst,
            15 | 62 => Place::NextHop,
            // only where nothing better tells of the next hop
            18 | 63 if !self.places.iter().any(|(p, ..)| *p == Place::NextHop) => Place::NextHop,
            495 => Place::Srv6,
            2 | 86 => return first(&mut self.packets[0], at),
            // what left the exporter, where that is all it tells; of a flow in two directions the initiator's
            24 | 298 => return first(&mut self.packets[1], at),
            1 | 85 => return first(&mut self.bytes[0], at),
            23 | 231 => return first(&mut self.bytes[1], at),
            161 => return first(&mut self.duration, at),
            160 => return first(&mut self.booted, at),
            299 => return first(&mut self.reverse.packets, at),
            232 => return first(&mut self.reverse.bytes, at),
            // type and code together, then each alone
            32 | 139 | 177 | 179 => return self.icmp.push((at, 0)),
            176 | 178 => return self.icmp.push((at, 8)),
            48 | 302 => return first(&mut self.selector, at),
            34 | 50 => return self.sampling.push((SamplingWord::Interval, at)),
            305 => return self.sampling.push((SamplingWord::PacketInterval, at)),
            306 => return self.sampling.push((SamplingWord::PacketSpace, at)),
            311 => return self.sampling.push((SamplingWord::Probability, at)),
            _ => return,
        };
        match self.places.iter_mut().find(|(p, ..)| *p == place) {
            Some((_, _, other)) => first(other, at),
            None => self.places.push((place, at, None)),
        }
    }
}

fn first(slot: &mut Option<At>, at: At) {
    if slot.is_none() {
        *slot = Some(at);
    }
}

/// An unsigned number of up to 8 bytes, as IPFIX may shorten any (RFC 7011, section 6.2).
pub(crate) fn uint(bytes: &[u8]) -> u64 {
    match bytes {
        [a] => u64::from(*a),
        [a, b] => u64::from(u16::from_be_bytes([*a, *b])),
        [a, b, c, d] => u64::from(u32::from_be_bytes([*a, *b, *c, *d])),
        [a, b, c, d, e, f, g, h] => u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
        longer => longer.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b)),
    }
}

pub(crate) fn long(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn int(n: u64) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn address(bytes: &[u8]) -> Address {
    match bytes {
        [a, b, c, d] => mapped(u32::from_be_bytes([*a, *b, *c, *d])),
        longer => longer.try_into().unwrap_or_default(),
    }
}

/// Microseconds since 1970 of a time of NTP's 64 bits, of the era 1968 to 2104.
fn ntp_us(n: u64) -> i64 {
    let seconds = (n >> 32) as i64 - 2_208_988_800;
    let seconds = if seconds < 0 { seconds + (1 << 32) } else { seconds };
    seconds * 1_000_000 + (((n & 0xffff_ffff) * 1_000_000) >> 32) as i64
}

/// What a message says beside its sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// When it was sent, microseconds since 1970.
    pub sent_us: i64,
    /// When the exporter started, microseconds since 1970; `None` where the message does not say.
    pub booted_us: Option<i64>,
}

/// Why a set was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadSet {
    /// It ends within a record.
    Cut,
}

/// Where the fields of the records of a set are.
enum Records<'a> {
    Even { data: &'a [u8], stride: usize },
    Uneven { data: &'a [u8], spots: Vec<(u32, u16)>, fields: usize },
}

/// Runs a block with `$each`, an iterator over the bytes of one field in every record.
macro_rules! with_field {
    ($records:expr, $template:expr, $at:expr, |$each:ident| $body:expr) => {
        match $records {
            Records::Even { data, stride } => {
                let from = $template.offsets.get($at).copied().unwrap_or(0);
                let to = from + usize::from($template.fields.get($at).map_or(0, |f| f.length));
                let $each = data.chunks_exact(*stride).map(|r| r.get(from..to).unwrap_or_default());
                $body
            }
            Records::Uneven { data, spots, fields } => {
                let $each = spots.chunks_exact(*fields).map(|r| {
                    let (from, length) = r.get($at).copied().unwrap_or_default();
                    data.get(from as usize..).and_then(|d| d.get(..length.into())).unwrap_or_default()
                });
                $body
            }
        }
    };
}

/// Appends a number of every record, the loop made for its length.
macro_rules! numbers {
    ($records:expr, $template:expr, $at:expr, $to:expr, $make:expr) => {{
        let length = $template.fields.get($at).map_or(0, |f| f.length);
        with_field!($records, $template, $at, |each| match length {
            1 => $to.extend(each.map(|b| $make(b.first().map_or(0, |&b| u64::from(b))))),
            2 =>
                $to.extend(each.map(|b| $make(b.try_into().map_or(0, |b| u64::from(u16::from_be_bytes(b)))))),
            4 =>
                $to.extend(each.map(|b| $make(b.try_into().map_or(0, |b| u64::from(u32::from_be_bytes(b)))))),
            8 => $to.extend(each.map(|b| $make(b.try_into().map_or(0, u64::from_be_bytes)))),
            _ => $to.extend(each.map(|b| $make(uint(b)))),
        })
    }};
}

impl Template {
    /// A template of these fields, the first `scope` of them the scope of options. `None` where a record would be empty.
    pub(crate) fn new(fields: Vec<Field>, scope: usize) -> Option<Template> {
        let mut offsets = Vec::with_capacity(fields.len());
        let (mut at, mut variable) = (0usize, false);
        for f in &fields {
            offsets.push(at);
            variable |= f.length == VARIABLE;
            at += if f.length == VARIABLE { 1 } else { usize::from(f.length) };
        }
        let plan = Plan::of(fields.get(scope..).unwrap_or_default());
        let plan = plan.moved(scope);
        (at > 0 && fields.len() <= FIELDS_MAX).then_some(Template {
            plan,
            record_min: at,
            offsets,
            variable,
            scope,
            fields,
        })
    }

    /// Finds the records of a set; what is left behind the last one is padding, shorter than a record.
    fn records<'a>(&self, data: &'a [u8]) -> Result<(Records<'a>, usize), BadSet> {
        if !self.variable {
            let n = data.len() / self.record_min;
            return Ok((Records::Even { data, stride: self.record_min }, n));
        }
        let mut spots = Vec::new();
        let (mut at, mut n) = (0usize, 0);
        while data.len() - at >= self.record_min {
            let before = spots.len();
            let mut here = at;
            for f in &self.fields {
                let mut length = usize::from(f.length);
                if f.length == VARIABLE {
                    let short = *data.get(here).ok_or(BadSet::Cut)?;
                    here += 1;
                    length = short.into();
                    if short == 255 {
                        let long = data.get(here..here + 2).ok_or(BadSet::Cut)?;
                        length = uint(long) as usize;
                        here += 2;
                    }
                }
                if data.len() < here + length {
                    // Zeros behind the last record may look like the beginning of one.
                    spots.truncate(before);
                    let padding = data.get(at..).is_some_and(|rest| rest.iter().all(|&b| b == 0));
                    let done = Records::Uneven { data, spots, fields: self.fields.len() };
                    return if padding { Ok((done, n)) } else { Err(BadSet::Cut) };
                }
                spots.push((here as u32, u16::try_from(length).unwrap_or(u16::MAX)));
                here += length;
            }
            at = here;
            n += 1;
        }
        Ok((Records::Uneven { data, spots, fields: self.fields.len() }, n))
    }

    /// Records of a set, without taking them.
    pub(crate) fn count(&self, data: &[u8]) -> Result<usize, BadSet> {
        self.records(data).map(|r| r.1)
    }

    /// Every record's value of one field, for options.
    pub(crate) fn values(&self, data: &[u8], at: At) -> Vec<u64> {
        let Ok((records, _)) = self.records(data) else { return Vec::new() };
        let mut out = Vec::new();
        // A probability is a float; its bits are handed on.
        with_field!(&records, self, at, |each| out.extend(each.map(uint)));
        out
    }

    /// How long one field is.
    pub(crate) fn length(&self, at: At) -> u16 {
        self.fields.get(at).map_or(0, |f| f.length)
    }

    /// Takes all records of a data set; how many. One that tells of both directions of a flow becomes two rows.
    pub(crate) fn take(
        &self,
        data: &[u8],
        told: Told,
        exporter: i32,
        rate: impl Fn(Option<u64>) -> u32,
        out: &mut FlowColumns,
    ) -> Result<usize, BadSet> {
        let (records, n) = self.records(data)?;
        if n == 0 {
            return Ok(0);
        }
        let rows = out.rows();
        self.times(&records, n, told, out);
        out.exporter.resize(rows + n, exporter);
        for (places, to) in [(self.plan.packets, &mut out.packets), (self.plan.bytes, &mut out.bytes)] {
            match places[0].or(places[1]) {
                Some(at) => numbers!(&records, self, at, to, long),
                None => to.resize(rows + n, 0),
            }
        }
        self.rates(&records, n, rate, out);
        for &(what, at) in &self.plan.numbers {
            let to = match what {
                Number::SrcPort => &mut out.src_port,
                Number::DstPort => &mut out.dst_port,
                Number::Protocol => &mut out.protocol,
                Number::TcpFlags => &mut out.tcp_flags,
                Number::TrafficClass => &mut out.traffic_class,
                Number::SrcPrefix => &mut out.src_prefix_len,
                Number::DstPrefix => &mut out.dst_prefix_len,
                Number::Vlan => &mut out.vlan,
                Number::Direction => &mut out.direction,
                Number::TtlMin => &mut out.ttl_min,
                Number::TtlMax => &mut out.ttl_max,
                Number::EndReason => &mut out.end_reason,
                Number::Forwarding => &mut out.forwarding_status,
            };
            numbers!(&records, self, at, to.values, int);
        }
        self.icmp(&records, n, &mut out.dst_port);
        for &(what, at) in &self.plan.wides {
            let to = match what {
                Wide::InIf => &mut out.in_if,
                Wide::OutIf => &mut out.out_if,
                Wide::SrcAs => &mut out.src_as,
                Wide::DstAs => &mut out.dst_as,
                Wide::FlowLabel => &mut out.flow_label,
                Wide::Mpls => {
                    // 20 bits of label, then traffic class and bottom of stack (RFC 3032)
                    numbers!(&records, self, at, out.mpls_label.values, |n: u64| long(n >> 4));
                    continue;
                }
            };
            numbers!(&records, self, at, to.values, long);
        }
        for &(what, at, other) in &self.plan.places {
            let to = match what {
                Place::Src => &mut out.src,
                Place::Dst => &mut out.dst,
                Place::NextHop => &mut out.next_hop,
                Place::Srv6 => &mut out.srv6_segment,
            };
            self.addresses(&records, at, other, to);
        }
        out.level();
        self.turn(&records, n, out);
        Ok(n)
    }

    /// ICMP's type and code where a port would be.
    fn icmp(&self, records: &Records<'_>, n: usize, to: &mut Maybe<i32>) {
        if self.plan.icmp.is_empty() {
            return;
        }
        let from = if self.plan.numbers.iter().any(|(what, _)| *what == Number::DstPort) {
            to.values.len() - n
        } else {
            to.values.len()
        };
        to.values.resize(from + n, 0);
        for &(at, shift) in &self.plan.icmp {
            let mut told = Vec::new();
            numbers!(records, self, at, told, |n: u64| int(n & 0xffff) << shift);
            let ports = to.values.iter_mut().skip(from);
            ports.zip(told).filter(|(_, t)| *t != 0).for_each(|(port, t)| *port |= t & 0xffff);
        }
    }

    /// Rows for the other directions of the last `n` rows, where something went that way.
    fn turn(&self, records: &Records<'_>, n: usize, out: &mut FlowColumns) {
        let plan = &self.plan.reverse;
        let Some(counted) = plan.packets.or(plan.bytes) else { return };
        let column = |at: Option<At>| {
            let mut values = Vec::new();
            if let Some(at) = at {
                numbers!(records, self, at, values, long);
            }
            values
        };
        let counted = column(Some(counted));
        let (packets, bytes) = (column(plan.packets), column(plan.bytes));
        let (flags, class) = (column(plan.tcp_flags), column(plan.traffic_class));
        let small = |column: &[i64], i: usize| column.get(i).and_then(|v| i32::try_from(*v).ok());
        let from = out.rows() - n;
        for (i, _) in counted.iter().enumerate().filter(|(_, c)| **c > 0) {
            let reverse = Reverse {
                packets: packets.get(i).copied().unwrap_or(0),
                bytes: bytes.get(i).copied().unwrap_or(0),
                tcp_flags: small(&flags, i),
                traffic_class: small(&class, i),
            };
            out.turn(from + i, reverse);
        }
        out.level();
    }

    fn addresses(&self, records: &Records<'_>, at: At, other: Option<At>, to: &mut Maybe<Address>) {
        let from = to.values.len();
        let length = self.length(at);
        with_field!(records, self, at, |each| match length {
            4 => to
                .values
                .extend(each.map(|b| b.try_into().map_or([0; 16], |b| mapped(u32::from_be_bytes(b))))),
            _ => to.values.extend(each.map(address)),
        });
        let Some(other) = other else { return };
        // One of the two families is zero.
        let mut second = Vec::new();
        with_field!(records, self, other, |each| second.extend(each.map(address)));
        let none = |a: &Address| *a == [0; 16] || *a == mapped(0);
        for (first, second) in to.values.iter_mut().skip(from).zip(second) {
            if none(first) && !none(&second) {
                *first = second;
            }
        }
    }

    fn moment(&self, records: &Records<'_>, (at, form): (At, TimeForm), told: Told) -> Vec<i64> {
        let mut out = Vec::new();
        let booted = told.booted_us.unwrap_or(told.sent_us);
        match form {
            TimeForm::Milliseconds => {
                numbers!(records, self, at, out, |n: u64| long(n).saturating_mul(1_000))
            }
            TimeForm::Seconds => numbers!(records, self, at, out, |n: u64| long(n).saturating_mul(1_000_000)),
            TimeForm::Uptime => {
                let mut boots = Vec::new();
                if let Some(at) = self.plan.booted {
                    numbers!(records, self, at, boots, |n: u64| long(n).saturating_mul(1_000));
                }
                numbers!(records, self, at, out, |n: u64| long(n).saturating_mul(1_000));
                for (i, t) in out.iter_mut().enumerate() {
                    *t = t.saturating_add(boots.get(i).copied().unwrap_or(booted));
                }
            }
            TimeForm::Ntp => numbers!(records, self, at, out, ntp_us),
            TimeForm::Before => {
                numbers!(records, self, at, out, |n: u64| told.sent_us.saturating_sub(long(n)));
            }
        }
        out
    }

    fn times(&self, records: &Records<'_>, n: usize, told: Told, out: &mut FlowColumns) {
        let start = self.plan.start.map(|s| self.moment(records, s, told));
        let end = self.plan.end.map(|e| self.moment(records, e, told));
        match (start, end) {
            (Some(start), Some(end)) => {
                out.duration_us
                    .values
                    .extend(start.iter().zip(&end).map(|(s, e)| e.saturating_sub(*s).max(0)));
                out.ts_us.extend(start);
            }
            (Some(one), None) | (None, Some(one)) => {
                if let Some(at) = self.plan.duration {
                    numbers!(records, self, at, out.duration_us.values, |n: u64| long(n)
                        .saturating_mul(1_000));
                }
                out.ts_us.extend(one);
            }
            (None, None) => out.ts_us.resize(out.ts_us.len() + n, told.sent_us),
        }
    }

    /// Notes each record's sampling rate and makes up for it.
    fn rates(
        &self,
        records: &Records<'_>,
        n: usize,
        rate: impl Fn(Option<u64>) -> u32,
        out: &mut FlowColumns,
    ) {
        let from = out.sampling.len();
        // The rate may stand in the record itself, as some routers have it.
        if let Some(&(_, at)) = self.plan.sampling.iter().find(|(w, _)| *w == SamplingWord::Interval) {
            numbers!(records, self, at, out.sampling, |n: u64| int(n).max(1));
        } else if let Some(at) = self.plan.selector {
            numbers!(records, self, at, out.sampling, |n: u64| int(rate(Some(n)).into()).max(1));
        } else {
            out.sampling.resize(from + n, int(rate(None).into()).max(1));
        }
        let rates = out.sampling.get(from..).unwrap_or_default();
        if rates.iter().all(|&r| r == 1) {
            return;
        }
        for column in [&mut out.packets, &mut out.bytes] {
            for (value, &rate) in column.iter_mut().skip(from).zip(rates) {
                *value = value.saturating_mul(i64::from(rate));
            }
        }
    }
}

impl Plan {
    /// The same with every field so many places later.
    fn moved(mut self, by: usize) -> Plan {
        let moved = |at: &mut At| *at += by;
        if by == 0 {
            return self;
        }
        self.start.iter_mut().chain(self.end.iter_mut()).for_each(|(at, _)| moved(at));
        let r = &mut self.reverse;
        [&mut r.packets, &mut r.bytes, &mut r.tcp_flags, &mut r.traffic_class]
            .into_iter()
            .flatten()
            .for_each(moved);
        self.icmp.iter_mut().for_each(|(at, _)| moved(at));
        let singles = [&mut self.duration, &mut self.booted, &mut self.selector];
        singles.into_iter().flatten().for_each(moved);
        self.packets.iter_mut().chain(self.bytes.iter_mut()).flatten().for_each(moved);
        self.numbers.iter_mut().for_each(|(_, at)| moved(at));
        self.wides.iter_mut().for_each(|(_, at)| moved(at));
        self.sampling.iter_mut().for_each(|(_, at)| moved(at));
        self.places.iter_mut().for_each(|(_, at, other)| {
            moved(at);
            other.iter_mut().for_each(moved);
        });
        self
    }
}
