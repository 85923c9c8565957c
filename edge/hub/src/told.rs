//! What exporters tell, as rows of the tables: flows, drops, counters, and who tells.
//!
//! How: the decoder's columns become Arrow columns without a copy; runs of absent fields become the nulls. Addresses are
//! replaced by pseudonyms on the way, except those of the fabric itself, which are nobody's secret.
//! Invariants: rows of a part = rows of the columns; an address that was told never reaches a table as it was, unless
//! the receivers file says so.

use crate::guard::Guard;
use crate::rows::{Part, part, times};
use fabric::{Fabric, Node};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use tables::arrow::array::{
    ArrayRef, BinaryArray, BinaryBuilder, BooleanBufferBuilder, Float64Array, Int32Array, Int64Array,
    PrimitiveArray, StringArray, TimestampMicrosecondArray, new_null_array,
};
use tables::arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use tables::arrow::datatypes::{ArrowPrimitiveType, DataType, Int32Type, Int64Type};
use tables::schema;
use wire::flow::{Address, DropRow, Exporter, FlowColumns, Maybe, SampledCounter, drop_reason};

/// What stands for addresses, with a memory: making a pseudonym takes some hundred steps of a cipher, and most
/// addresses come again.
pub(crate) struct Addresses {
    /// `None`: addresses are written as they are.
    guard: Option<Arc<Guard>>,
    fabric: Arc<Fabric>,
    /// Sets of [`WAYS`] places; the newest address of a set stands first.
    remembered: Vec<[(Address, Address); WAYS]>,
}

/// Addresses that share a place and are remembered beside each other.
const WAYS: usize = 4;

impl Addresses {
    /// Remembers so many, a power of two and [`WAYS`] at least. No guard: addresses are written as they are.
    pub(crate) fn new(fabric: Arc<Fabric>, guard: Option<Arc<Guard>>, remembered: usize) -> Self {
        // No place holds an address that belongs elsewhere, so that this is never taken for one: see `place`.
        let nothing = ([0xff; 16], [0; 16]);
        let sets = (remembered / WAYS).max(1).next_power_of_two();
        Addresses { guard, fabric, remembered: vec![[nothing; WAYS]; sets] }
    }

    fn place(&self, address: &Address) -> usize {
        let (a, b) = address.split_at(8);
        let word = |w: &[u8]| w.try_into().map_or(0, u64::from_be_bytes);
        let mixed = (word(a) ^ word(b).rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 40) as usize & (self.remembered.len() - 1)
    }

    /// What stands for an address.
    pub(crate) fn of(&mut self, address: Address) -> Address {
        let Some(guard) = &self.guard else { return address };
        let at = self.place(&address);
        let set = self.remembered.get(at);
        if let Some(&(_, known)) = set.and_then(|s| s.iter().find(|(a, _)| *a == address)) {
            return known;
        }
        let ip = Ipv6Addr::from(address);
        let own = self.fabric.nic_by_addr(ip).is_some() || self.fabric.switch_by_addr(ip).is_some();
        let stands = if own || ip.is_unspecified() {
            address
        } else {
            match guard.audit.pseudonyms.for_address(ip.to_canonical()) {
                IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                IpAddr::V6(a) => a.octets(),
            }
        };
        if let Some(set) = self.remembered.get_mut(at) {
            set.rotate_right(1);
            set[0] = (address, stands);
        }
        stands
    }

    /// Replaces the addresses in the beginning of a packet, from its network header on. What is no IP header, or is cut
    /// before its addresses, is left as it is: it names nobody.
    pub(crate) fn cover_header(&mut self, header: &mut [u8]) {
        if self.guard.is_none() {
            return;
        }
        match header.first().map(|b| b >> 4) {
            Some(4) => {
                for at in [12, 16] {
                    let Some(place) = header.get_mut(at..at + 4) else { return };
                    let mut address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
                    address[12..].copy_from_slice(place);
                    place.copy_from_slice(&self.of(address)[12..]);
                }
            }
            Some(6) => {
                for at in [8, 24] {
                    let Some(place) = header.get_mut(at..at + 16) else { return };
                    let Ok(address) = <Address>::try_from(&*place) else { return };
                    place.copy_from_slice(&self.of(address));
                }
            }
            _ => {}
        }
    }

    /// The same of an Ethernet frame.
    fn cover_frame(&mut self, frame: &mut [u8]) {
        let mut at = 12;
        while let Some([0x81 | 0x88 | 0x91, 0x00 | 0xa8]) = frame.get(at..at + 2) {
            at += 4;
        }
        if let Some(header) = frame.get_mut(at + 2..) {
            self.cover_header(header);
        }
    }

    fn cover(&mut self, column: &mut Maybe<Address>) {
        if self.guard.is_none() || all_absent(column) {
            return;
        }
        for address in &mut column.values {
            *address = self.of(*address);
        }
    }
}

fn nulls(absent: &[(usize, usize)], rows: usize) -> Option<NullBuffer> {
    if absent.is_empty() {
        return None;
    }
    let mut valid = BooleanBufferBuilder::new(rows);
    for &(first, count) in absent {
        valid.append_n(first.saturating_sub(valid.len()), true);
        valid.append_n(count, false);
    }
    valid.append_n(rows.saturating_sub(valid.len()), true);
    Some(NullBuffer::new(valid.finish()))
}

fn all_absent<T>(column: &Maybe<T>) -> bool {
    column.absent.first() == Some(&(0, column.values.len()))
}

/// Moves a column's values out and leaves room for as many, and a few more: the next ones would else move once again.
fn moved<T>(values: &mut Vec<T>) -> Vec<T> {
    let room = Vec::with_capacity(values.len() + values.len() / 8);
    std::mem::replace(values, room)
}

fn maybe<P: ArrowPrimitiveType>(column: &mut Maybe<P::Native>) -> ArrayRef {
    let rows = column.values.len();
    if all_absent(column) {
        return new_null_array(&P::DATA_TYPE, rows);
    }
    let nulls = nulls(&column.absent, rows);
    Arc::new(PrimitiveArray::<P>::new(ScalarBuffer::from(moved(&mut column.values)), nulls))
}

fn addresses(column: &mut Maybe<Address>) -> ArrayRef {
    let rows = column.values.len();
    if all_absent(column) {
        return new_null_array(&DataType::Binary, rows);
    }
    let offsets: Vec<i32> = (0..=rows).map(|i| i32::try_from(16 * i).unwrap_or(i32::MAX)).collect();
    let bytes = Buffer::from_vec(moved(&mut column.values).into_flattened());
    let nulls = nulls(&column.absent, rows);
    let made = BinaryArray::try_new(OffsetBuffer::new(offsets.into()), bytes, nulls);
    // More than 128 million records at once, which no receiver hands over.
    Arc::new(made.unwrap_or_else(|_| BinaryArray::new_null(rows)))
}

fn long(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Flow records, their columns taken out of `f`.
pub(crate) fn flows(f: &mut FlowColumns, known: &mut Addresses) -> Part {
    for column in [&mut f.src, &mut f.dst, &mut f.next_hop, &mut f.srv6_segment] {
        known.cover(column);
    }
    let ints = |v: &mut Vec<i32>| -> ArrayRef { Arc::new(Int32Array::from(moved(v))) };
    let longs = |v: &mut Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(moved(v))) };
    let columns = vec![
        Arc::new(TimestampMicrosecondArray::from(moved(&mut f.ts_us)).with_timezone("UTC")) as ArrayRef,
        maybe::<Int64Type>(&mut f.duration_us),
        ints(&mut f.exporter),
        addresses(&mut f.src),
        addresses(&mut f.dst),
        maybe::<Int32Type>(&mut f.src_port),
        maybe::<Int32Type>(&mut f.dst_port),
        maybe::<Int32Type>(&mut f.protocol),
        maybe::<Int32Type>(&mut f.tcp_flags),
        maybe::<Int32Type>(&mut f.traffic_class),
        longs(&mut f.packets),
        longs(&mut f.bytes),
        ints(&mut f.sampling),
        maybe::<Int64Type>(&mut f.in_if),
        maybe::<Int64Type>(&mut f.out_if),
        addresses(&mut f.next_hop),
        maybe::<Int64Type>(&mut f.src_as),
        maybe::<Int64Type>(&mut f.dst_as),
        maybe::<Int32Type>(&mut f.src_prefix_len),
        maybe::<Int32Type>(&mut f.dst_prefix_len),
        maybe::<Int32Type>(&mut f.vlan),
        maybe::<Int32Type>(&mut f.direction),
        maybe::<Int32Type>(&mut f.ttl_min),
        maybe::<Int32Type>(&mut f.ttl_max),
        maybe::<Int64Type>(&mut f.flow_label),
        maybe::<Int32Type>(&mut f.end_reason),
        maybe::<Int64Type>(&mut f.mpls_label),
        addresses(&mut f.srv6_segment),
        maybe::<Int32Type>(&mut f.forwarding_status),
        maybe::<Int64Type>(&mut f.ecn_marked),
    ];
    part(&schema::FLOW, columns)
}

/// The switch or host of the fabric that has an address.
fn component(fabric: &Fabric, address: Address) -> Option<String> {
    let ip = Ipv6Addr::from(address);
    let nic = fabric.nic_by_addr(ip).map(|n| fabric.host_name(fabric.nic_parts(n).1));
    nic.or_else(|| fabric.switch_by_addr(ip).map(|s| fabric.node_name(Node::Switch(s))))
}

/// Who tells.
pub(crate) fn exporters(fabric: &Fabric, at_us: i64, met: &[Exporter]) -> Part {
    let text = |e: &Exporter| Ipv6Addr::from(e.key.address).to_canonical().to_string();
    part(
        &schema::EXPORTER,
        vec![
            times(met.iter().map(|_| at_us)),
            Arc::new(Int32Array::from_iter_values(met.iter().map(|e| e.number.cast_signed()))),
            Arc::new(StringArray::from_iter_values(met.iter().map(text))),
            Arc::new(Int64Array::from_iter_values(met.iter().map(|e| e.key.domain.into()))),
            Arc::new(StringArray::from_iter_values(met.iter().map(|e| e.key.protocol.name()))),
            Arc::new(met.iter().map(|e| component(fabric, e.key.address)).collect::<StringArray>()),
        ],
    )
}

/// What switches threw away.
pub(crate) fn drops(rows: &[DropRow], known: &mut Addresses) -> Part {
    let n = rows.len();
    let mut exemplar = BinaryBuilder::new();
    for d in rows {
        let mut frame = d.header.clone();
        known.cover_frame(&mut frame);
        exemplar.append_value(&frame);
    }
    let place = |d: &DropRow| d.queue.map_or(String::new(), |q| format!("queue{q}"));
    let device = |d: &DropRow| if d.in_if == 0 { String::new() } else { format!("if{}", d.in_if) };
    part(
        &schema::DROP_EVENT,
        vec![
            times(rows.iter().map(|d| d.ts_us)),
            Arc::new(Int32Array::from(vec![0; n])),
            new_null_array(&DataType::Int32, n),
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|d| d.exporter.cast_signed()))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|d| drop_reason(d.reason)))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(place))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(device))),
            new_null_array(&DataType::Int32, n),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|d| long(d.packets)))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|d| long(d.bytes)))),
            Arc::new(exemplar.finish()),
        ],
    )
}

/// Counters switches sample of their interfaces.
pub(crate) fn counters(rows: &[SampledCounter], name: impl Fn(u32) -> String) -> Part {
    let n = rows.len();
    let texts = |f: &dyn Fn(&SampledCounter) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(f)))
    };
    part(
        &schema::METRIC,
        vec![
            times(rows.iter().map(|c| c.ts_us)),
            new_null_array(&DataType::Int32, n),
            texts(&|_| "sflow".to_owned()),
            new_null_array(&DataType::Int32, n),
            texts(&|c| name(c.exporter)),
            texts(&|_| "interface".to_owned()),
            texts(&|c| format!("if{}", c.if_index)),
            texts(&|c| c.name.to_owned()),
            Arc::new(Float64Array::from_iter_values(rows.iter().map(|c| c.value as f64))),
            texts(&|c| if c.cumulative { "counter" } else { "gauge" }.to_owned()),
            new_null_array(&DataType::Utf8, n),
            new_null_array(&DataType::Utf8, n),
        ],
    )
}

/// What a receiver is to know after the next start.
pub(crate) fn state(at_us: i64, receiver: &str, bytes: &[u8]) -> Part {
    let mut state = BinaryBuilder::new();
    state.append_value(bytes);
    part(
        &schema::RECEIVER_STATE,
        vec![
            times([at_us].into_iter()),
            Arc::new(StringArray::from(vec![receiver])),
            Arc::new(state.finish()),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::flow::{Key, Protocol, mapped};

    fn a_fabric() -> Fabric {
        Fabric::parse("name = \"t\"\nplanes = 2\nleaves = 2\nspines = 2\nhosts = 4\n").unwrap()
    }

    #[test]
    fn columns_become_rows_with_nulls_where_a_field_was_absent() {
        let fabric = a_fabric();
        let mut f = FlowColumns {
            ts_us: vec![5, 6, 7],
            exporter: vec![1; 3],
            packets: vec![2; 3],
            bytes: vec![3; 3],
            sampling: vec![1; 3],
            ..FlowColumns::default()
        };
        let rows = |m: &mut Maybe<i32>| m.lack(3);
        f.src_port.push(None);
        f.src_port.push(Some(443));
        f.src_port.push(None);
        f.src.lack(1);
        f.src.push(Some(mapped(0x0a00_0001)));
        f.src.push(Some([0x20; 16]));
        for m in [
            &mut f.dst_port,
            &mut f.protocol,
            &mut f.tcp_flags,
            &mut f.traffic_class,
            &mut f.src_prefix_len,
            &mut f.dst_prefix_len,
            &mut f.vlan,
            &mut f.direction,
            &mut f.ttl_min,
            &mut f.ttl_max,
            &mut f.end_reason,
            &mut f.forwarding_status,
        ] {
            rows(m);
        }
        for m in [
            &mut f.duration_us,
            &mut f.in_if,
            &mut f.out_if,
            &mut f.src_as,
            &mut f.dst_as,
            &mut f.flow_label,
            &mut f.mpls_label,
            &mut f.ecn_marked,
        ] {
            m.lack(3);
        }
        for m in [&mut f.dst, &mut f.next_hop, &mut f.srv6_segment] {
            m.lack(3);
        }
        let (table, batch) = flows(&mut f, &mut Addresses::new(Arc::new(fabric), None, 16));
        assert_eq!((table.name, batch.num_rows()), ("flow", 3));
        let nulls = |name: &str| batch.column_by_name(name).unwrap().null_count();
        assert_eq!((nulls("src_port"), nulls("src"), nulls("dst"), nulls("packets")), (2, 1, 3, 0));
    }

    #[test]
    fn exporters_are_named_where_the_fabric_has_them() {
        let fabric = a_fabric();
        let of = |address| Exporter { number: 3, key: Key { address, domain: 0, protocol: Protocol::Ipfix } };
        let switch = fabric.switch_addr(wire::SwitchId(0)).octets();
        let (_, batch) = exporters(&fabric, 0, &[of(switch), of(mapped(0x0a00_0001))]);
        let names = batch.column_by_name("component").unwrap();
        let names = names.as_any().downcast_ref::<StringArray>().unwrap();
        let name = fabric.node_name(Node::Switch(wire::SwitchId(0)));
        assert_eq!(names.iter().collect::<Vec<_>>(), [Some(name.as_str()), None]);
    }
}
