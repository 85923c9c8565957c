//! What exporters send, made by hand: every message here is written byte by byte as its RFC has it.

use super::*;
use alloc::vec;
use proptest::prelude::*;

const FROM: Address = mapped(0x7f00_0001);
const SENT: u32 = 1_770_000_000;
const SENT_US: i64 = SENT as i64 * 1_000_000;

fn put(out: &mut Vec<u8>, n: u64, bytes: usize) {
    out.extend_from_slice(&n.to_be_bytes()[8 - bytes..]);
}

fn set(id: u16, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, id.into(), 2);
    put(&mut out, 4 + body.len() as u64, 2);
    out.extend_from_slice(body);
    out
}

/// Fields as `(element, length)`, an enterprise's with the element's top bit set and the enterprise behind.
fn template(id: u16, scope: Option<u16>, fields: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, id.into(), 2);
    put(&mut out, fields.len() as u64, 2);
    if let Some(scope) = scope {
        put(&mut out, scope.into(), 2);
    }
    for &(element, length, enterprise) in fields {
        put(&mut out, u64::from(element) | if enterprise > 0 { 0x8000 } else { 0 }, 2);
        put(&mut out, length.into(), 2);
        if enterprise > 0 {
            put(&mut out, enterprise.into(), 4);
        }
    }
    out
}

fn plain(fields: &[(u16, u16)]) -> Vec<(u16, u16, u32)> {
    fields.iter().map(|&(e, l)| (e, l, 0)).collect()
}

fn ipfix(sequence: u32, sets: &[Vec<u8>]) -> Vec<u8> {
    let body = sets.concat();
    let mut out = Vec::new();
    put(&mut out, 10, 2);
    put(&mut out, 16 + body.len() as u64, 2);
    put(&mut out, SENT.into(), 4);
    put(&mut out, sequence.into(), 4);
    put(&mut out, 7, 4);
    out.extend(body);
    out
}

fn netflow9(sequence: u32, sets: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, 9, 2);
    put(&mut out, sets.len() as u64, 2);
    put(&mut out, 60_000, 4);
    put(&mut out, SENT.into(), 4);
    put(&mut out, sequence.into(), 4);
    put(&mut out, 7, 4);
    out.extend(sets.concat());
    out
}

struct Taker {
    decoder: Decoder,
    flows: FlowColumns,
    beside: Beside,
}

impl Taker {
    fn new() -> Taker {
        Taker {
            decoder: Decoder::new(Limits::default()),
            flows: FlowColumns::default(),
            beside: Beside::default(),
        }
    }
    fn take(&mut self, bytes: &[u8]) -> Result<Outcome, Refused> {
        self.decoder.datagram(Nanos(SENT_US as u64 * 1_000), FROM, bytes, &mut self.flows, &mut self.beside)
    }
}

/// addresses, ports, protocol, packets, bytes, start and end
const SIMPLE: [(u16, u16); 9] =
    [(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (2, 4), (1, 4), (152, 8), (153, 8)];

fn simple(n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let ms = SENT_US as u64 / 1_000;
    for (value, bytes) in [
        (0x0a00_0001 + n, 4),
        (0x0a00_0100 + n, 4),
        (1_000 + n, 2),
        (443, 2),
        (6, 1),
        (10 + n, 4),
        (1_000 + n, 4),
        (ms - 500, 8),
        (ms - 100, 8),
    ] {
        put(&mut out, value, bytes);
    }
    out
}

fn simple_template() -> Vec<u8> {
    set(2, &template(256, None, &plain(&SIMPLE)))
}

#[test]
fn records_become_columns() {
    let mut t = Taker::new();
    let data = set(256, &[simple(0), simple(1), simple(2)].concat());
    let done = t.take(&ipfix(0, &[simple_template(), data])).unwrap();
    assert_eq!((done.records, t.flows.rows()), (3, 3));
    assert_eq!(t.flows.ts_us, [SENT_US - 500_000; 3]);
    assert_eq!(t.flows.duration_us.get(1), Some(400_000));
    assert_eq!(t.flows.src.get(2), Some(mapped(0x0a00_0003)));
    assert_eq!((t.flows.src_port.get(1), t.flows.dst_port.get(1)), (Some(1_001), Some(443)));
    assert_eq!((t.flows.packets[2], t.flows.bytes[2]), (12, 1_002));
    assert_eq!(t.flows.vlan.get(0), None);
    assert_eq!(t.flows.vlan.values.len(), 3);
    assert_eq!(t.decoder.counts(), Counts { datagrams: 1, records: 3, templates: 1, ..Counts::default() });
    assert_eq!(
        t.decoder.met(),
        [Exporter { number: 0, key: Key { address: FROM, domain: 7, protocol: Protocol::Ipfix } }]
    );
}

#[test]
fn netflow9_has_the_same_and_its_own_clock() {
    let mut t = Taker::new();
    let fields = plain(&[(8, 4), (2, 4), (22, 4), (21, 4)]);
    let mut record = Vec::new();
    for (n, bytes) in [(0x0a00_0001, 4), (9, 4), (50_000, 4), (59_000, 4)] {
        put(&mut record, n, bytes);
    }
    // three bytes of padding behind the record
    record.extend([0; 3]);
    t.take(&netflow9(0, &[set(0, &template(300, None, &fields)), set(300, &record)])).unwrap();
    assert_eq!((t.flows.rows(), t.flows.ts_us[0], t.flows.packets[0]), (1, SENT_US - 10_000_000, 9));
    assert_eq!(t.flows.duration_us.get(0), Some(9_000_000));
}

#[test]
fn what_comes_before_its_template_waits_for_it() {
    let mut t = Taker::new();
    t.take(&ipfix(0, &[set(256, &[simple(0), simple(1)].concat())])).unwrap();
    t.take(&ipfix(2, &[set(257, &[1, 2, 3, 4])])).unwrap();
    assert_eq!((t.flows.rows(), t.decoder.counts().parked), (0, 2));
    t.take(&ipfix(9, &[simple_template()])).unwrap();
    let c = t.decoder.counts();
    assert_eq!((t.flows.rows(), c.replayed, c.records, c.missing), (2, 1, 2, 0));
    // The other one is given up once there is no room.
    let mut small = Taker::new();
    small.decoder = Decoder::new(Limits { parked_bytes: 100, ..Limits::default() });
    for n in 0..5 {
        small.take(&ipfix(n, &[set(256, &simple(n.into()))])).unwrap();
    }
    small.take(&ipfix(9, &[simple_template()])).unwrap();
    let c = small.decoder.counts();
    assert_eq!((c.parked, c.replayed, c.parked_dropped, small.flows.rows()), (5, 2, 3, 2));
    assert_eq!(small.flows.packets, [13, 14], "the newest");
}

#[test]
fn templates_change_and_are_withdrawn() {
    let mut t = Taker::new();
    t.take(&ipfix(0, &[simple_template(), set(256, &simple(0))])).unwrap();
    // Now 256 means something else.
    let other = set(2, &template(256, None, &plain(&[(1, 8), (27, 16)])));
    let mut record = vec![0, 0, 0, 0, 0, 0, 1, 0];
    record.extend([0x20; 16]);
    t.take(&ipfix(1, &[other, set(256, &record)])).unwrap();
    assert_eq!((t.flows.bytes[1], t.flows.src.get(1)), (256, Some([0x20; 16])));
    // Withdrawn, its data waits; all of them at once likewise.
    t.take(&ipfix(2, &[set(2, &template(256, None, &[])), set(256, &record)])).unwrap();
    assert_eq!((t.flows.rows(), t.decoder.counts().parked), (2, 1));
    t.take(&ipfix(3, &[simple_template(), set(2, &template(2, None, &[])), set(256, &record)])).unwrap();
    assert_eq!(t.decoder.counts().parked, 2);
}

#[test]
fn fields_of_any_length_and_of_enterprises_are_stepped_over() {
    let mut t = Taker::new();
    // source, a text of variable length, an enterprise's field, packets in three bytes, destination port
    let fields = [(8, 4, 0), (82, 0xffff, 0), (5, 4, 29_305), (2, 3, 0), (7, 0xffff, 9), (11, 2, 0)];
    let mut body = Vec::new();
    for (name, blob) in [(b"eth0".to_vec(), vec![1; 3]), (vec![b'x'; 300], vec![]), (vec![], vec![2; 255])] {
        body.extend([10, 0, 0, 1]);
        for text in [&name, &vec![]].into_iter().take(1) {
            if text.len() < 255 {
                body.push(text.len() as u8);
            } else {
                body.push(255);
                put(&mut body, text.len() as u64, 2);
            }
            body.extend(text);
        }
        body.extend([9, 9, 9, 9, 0, 1, 2]);
        body.push(255);
        put(&mut body, blob.len() as u64, 2);
        body.extend(&blob);
        body.extend([1, 187]);
    }
    body.extend([0, 0, 0]);
    t.take(&ipfix(0, &[set(2, &template(256, None, &fields)), set(256, &body)])).unwrap();
    assert_eq!((t.flows.rows(), t.flows.packets.clone()), (3, vec![258; 3]));
    assert_eq!(
        (t.flows.dst_port.get(2), t.flows.src_port.get(2)),
        (Some(443), None),
        "an enterprise's 7 is no port"
    );
    // Cut within a record.
    let cut = set(256, &body[..body.len() - 9]);
    t.take(&ipfix(3, &[cut])).unwrap();
    assert_eq!((t.flows.rows(), t.decoder.counts().bad_sets), (3, 1));
}

#[test]
fn options_tell_sampling_rates() {
    let mut t = Taker::new();
    // scope: selector; then one packet taken and 99 left out
    let options = set(3, &template(300, Some(1), &plain(&[(302, 4), (305, 4), (306, 4)])));
    let mut rates = Vec::new();
    for (selector, left) in [(1u64, 99u64), (2, 999)] {
        put(&mut rates, selector, 4);
        put(&mut rates, 1, 4);
        put(&mut rates, left, 4);
    }
    let fields = set(2, &template(256, None, &plain(&[(2, 4), (1, 4), (302, 4)])));
    let mut data = Vec::new();
    for selector in [1u64, 2, 3] {
        put(&mut data, 5, 4);
        put(&mut data, 60, 4);
        put(&mut data, selector, 4);
    }
    t.take(&ipfix(0, &[options, set(300, &rates), fields, set(256, &data)])).unwrap();
    assert_eq!(t.flows.sampling, [100, 1_000, 1_000], "a selector nobody told of: the newest rate");
    assert_eq!((t.flows.packets.clone(), t.flows.bytes[0]), (vec![500, 5_000, 5_000], 6_000));
    assert_eq!((t.decoder.counts().options, t.decoder.counts().missing), (2, 0));
    // v9: scopes are numbered apart, and lengths are of bytes.
    let mut v9 = Taker::new();
    let mut options = Vec::new();
    for n in [301u64, 4, 8, 1, 4, 34, 4, 35, 1] {
        put(&mut options, n, 2);
    }
    let mut data = Vec::new();
    put(&mut data, 0, 4);
    put(&mut data, 512, 4);
    data.extend([2, 0, 0, 0]);
    let flow = set(0, &template(256, None, &plain(&[(2, 4), (1, 4)])));
    v9.take(&netflow9(0, &[set(1, &options), set(301, &data), flow, set(256, &[0, 0, 0, 1, 0, 0, 0, 2])]))
        .unwrap();
    assert_eq!((v9.flows.sampling[0], v9.flows.packets[0], v9.flows.bytes[0]), (512, 512, 1_024));
}

#[test]
fn what_was_numbered_and_never_came_is_counted() {
    let mut t = Taker::new();
    let data = |n: u64| set(256, &simple(n));
    t.take(&ipfix(0, &[simple_template(), data(0)])).unwrap();
    t.take(&ipfix(4, &[data(1)])).unwrap();
    assert_eq!(t.decoder.counts().missing, 3);
    t.take(&ipfix(2, &[data(2)])).unwrap();
    assert_eq!(t.decoder.counts().missing, 2, "it was only late");
    t.take(&ipfix(5, &[data(3)])).unwrap();
    t.take(&ipfix(0x8000_0000, &[data(4)])).unwrap();
    assert_eq!((t.decoder.counts().missing, t.decoder.counts().restarts), (2, 1));
    // A set nobody can read hides how many records it holds: no guess.
    t.take(&ipfix(0x8000_0001, &[set(999, &[1; 40])])).unwrap();
    t.take(&ipfix(0x8000_0051, &[data(5)])).unwrap();
    assert_eq!(t.decoder.counts().missing, 2);
    // v9 counts its packets.
    let mut v9 = Taker::new();
    for n in [0, 1, 5] {
        v9.take(&netflow9(n, &[])).unwrap();
    }
    assert_eq!(v9.decoder.counts().missing, 3);
}

#[test]
fn what_is_known_of_exporters_outlives_the_process() {
    let mut t = Taker::new();
    let options = set(3, &template(300, Some(1), &plain(&[(302, 4), (34, 4)])));
    t.take(&ipfix(0, &[options, set(300, &[0, 0, 0, 1, 0, 0, 0, 7]), simple_template()])).unwrap();
    assert!(t.decoder.has_changed() && !t.decoder.has_changed());
    let kept = t.decoder.to_bytes();
    let mut again = Taker::new();
    again.decoder = Decoder::from_bytes(Limits::default(), &kept).unwrap();
    assert_eq!(again.decoder.to_bytes(), kept);
    again.take(&ipfix(1, &[set(256, &simple(0))])).unwrap();
    assert_eq!((again.flows.rows(), again.flows.sampling[0], again.flows.exporter[0]), (1, 7, 0));
    again.take(&netflow9(0, &[])).unwrap();
    assert_eq!(again.decoder.met().last().map(|e| e.number), Some(1), "numbers are not given twice");
    for at in 0..kept.len() {
        assert!(Decoder::from_bytes(Limits::default(), &kept[..at]).is_err());
    }
}

#[test]
fn netflow5_is_read() {
    let mut t = Taker::new();
    let mut d = Vec::new();
    for (n, bytes) in [
        (5u64, 2),
        (1, 2),
        (60_000, 4),
        (SENT.into(), 4),
        (500_000_000, 4),
        (100, 4),
        (1, 1),
        (2, 1),
        (0x4064, 2),
    ] {
        put(&mut d, n, bytes);
    }
    for (n, bytes) in [
        (0x0a00_0001u64, 4),
        (0x0a00_0002, 4),
        (0x0a00_00fe, 4),
        (3, 2),
        (4, 2),
        (7, 4),
        (700, 4),
        (50_000, 4),
        (55_000, 4),
        (1_234, 2),
        (80, 2),
        (0, 1),
        (0x12, 1),
        (6, 1),
        (8, 1),
        (65_001, 2),
        (65_002, 2),
        (24, 1),
        (16, 1),
        (0, 2),
    ] {
        put(&mut d, n, bytes);
    }
    t.take(&d).unwrap();
    let f = &t.flows;
    assert_eq!((f.packets[0], f.bytes[0], f.sampling[0]), (700, 70_000, 100));
    assert_eq!(f.ts_us[0], SENT_US + 500_000 - 10_000_000);
    assert_eq!((f.in_if.get(0), f.src_as.get(0), f.dst_prefix_len.get(0)), (Some(3), Some(65_001), Some(16)));
    assert_eq!((f.tcp_flags.get(0), f.next_hop.get(0)), (Some(0x12), Some(mapped(0x0a00_00fe))));
    assert_eq!(t.take(&d[..60]), Err(Refused::Cut));
}

fn xdr(words: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    words.iter().for_each(|&w| put(&mut out, w, 4));
    out
}

fn sample(kind: u64, body: Vec<u8>) -> Vec<u8> {
    [xdr(&[kind, body.len() as u64]), body].concat()
}

fn sflow(sequence: u64, samples: &[Vec<u8>]) -> Vec<u8> {
    let head = xdr(&[5, 1, 0x0a00_0063, 2, sequence, 1_000, samples.len() as u64]);
    [head, samples.concat()].concat()
}

/// A VLAN tag, IPv6, a segment routing header, TCP with CE set.
fn a_frame() -> Vec<u8> {
    let mut h = vec![0; 12];
    h.extend([0x81, 0, 0, 42, 0x86, 0xdd]);
    h.extend([0x60 | 0x0b, 0x31, 0x23, 0x45, 0, 60, 43, 61]);
    h.extend([0x20; 16]);
    h.extend([0x30; 16]);
    h.extend([6, 2, 4, 0, 0, 0, 0, 0]);
    h.extend([0x40; 16]);
    h.extend([0x1f, 0x90, 1, 187, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 0, 0, 0, 0, 0, 0]);
    h
}

fn raw(header: &[u8]) -> Vec<u8> {
    let padding = vec![0; header.len().next_multiple_of(4) - header.len()];
    sample(1, [xdr(&[1, 1_518, 4, header.len() as u64]), header.to_vec(), padding].concat())
}

#[test]
fn sflow_samples_are_flows_of_so_many_packets() {
    let mut t = Taker::new();
    let flow = sample(
        1,
        [xdr(&[9, 3, 512, 5_120, 0, 7, 8, 2]), raw(&a_frame()), sample(1_001, xdr(&[42, 0, 43, 0]))].concat(),
    );
    let ipv4 = sample(3, xdr(&[200, 17, 0x0a00_0001, 0x0a00_0002, 53, 4_000, 0, 0]));
    let expanded = sample(3, [xdr(&[9, 0, 3, 64, 640, 0, 0, 70_000, 1, 258, 1]), ipv4].concat());
    t.take(&sflow(1, &[flow, expanded])).unwrap();
    let f = &t.flows;
    assert_eq!((f.packets.clone(), f.bytes.clone()), (vec![512, 64], vec![512 * 1_518, 64 * 200]));
    assert_eq!(
        (f.in_if.get(0), f.out_if.get(0), f.in_if.get(1), f.out_if.get(1)),
        (Some(7), Some(8), Some(70_000), None)
    );
    assert_eq!((f.vlan.get(0), f.src.get(0), f.protocol.get(0)), (Some(42), Some([0x20; 16]), Some(6)));
    assert_eq!(
        (f.src_port.get(0), f.dst_port.get(0), f.tcp_flags.get(0)),
        (Some(8_080), Some(443), Some(0x18))
    );
    assert_eq!((f.traffic_class.get(0), f.flow_label.get(0)), (Some(0xb3), Some(0x1_2345)));
    assert_eq!((f.ecn_marked.get(0), f.srv6_segment.get(0)), (Some(512), Some([0x30; 16])));
    assert_eq!(
        (f.src.get(1), f.dst_port.get(1), f.ttl_min.get(1)),
        (Some(mapped(0x0a00_0001)), Some(4_000), None)
    );
    assert_eq!(t.decoder.met()[0].key.address, mapped(0x0a00_0063), "the agent's own address");
}

#[test]
fn both_directions_of_a_flow_are_two_rows_and_icmp_has_type_and_code_for_a_port() {
    let mut t = Taker::new();
    let mut fields = plain(&[(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (32, 2), (2, 4), (1, 4)]);
    fields.extend([(2, 4, 29_305), (1, 4, 29_305)]);
    let record = |protocol: u8, icmp: u16, back: u32| {
        let mut r = vec![10, 0, 0, 1, 10, 0, 0, 2];
        let port = if protocol == 1 { 0 } else { 443 };
        put(&mut r, port * 100, 2);
        put(&mut r, port, 2);
        r.push(protocol);
        put(&mut r, icmp.into(), 2);
        for n in [3, 300, back, back * 100] {
            put(&mut r, n.into(), 4);
        }
        r
    };
    let records = [record(6, 0, 2), record(17, 0, 0), record(1, 0x0800, 1)].concat();
    t.take(&ipfix(0, &[set(2, &template(256, None, &fields)), set(256, &records)])).unwrap();
    let rows: Vec<_> = (0..t.flows.rows())
        .map(|r| {
            let f = &t.flows;
            let last = |a: Option<Address>| a.map(|a| a[15]);
            (last(f.src.get(r)), f.src_port.get(r), f.dst_port.get(r), f.packets[r], f.bytes[r])
        })
        .collect();
    let (one, two) = (Some(1), Some(2));
    assert_eq!(
        rows,
        [
            (one, Some(44_300), Some(443), 3, 300),
            (one, Some(44_300), Some(443), 3, 300),
            (one, Some(0), Some(0x0800), 3, 300),
            (two, Some(443), Some(44_300), 2, 200),
            (two, Some(0), Some(0x0800), 1, 100),
        ]
    );
    // the exporter counts three records
    t.take(&ipfix(3, &[set(256, &record(17, 0, 0))])).unwrap();
    assert_eq!((t.decoder.counts().missing, t.decoder.counts().records), (0, 6));
}

#[test]
fn sflow_counters_and_drops_stand_beside() {
    let mut t = Taker::new();
    let mut generic = xdr(&[12, 6]);
    put(&mut generic, 100_000_000_000, 8);
    generic.extend(xdr(&[1, 3]));
    put(&mut generic, 5_000_000_000, 8);
    generic.extend(xdr(&[10, 11, 12, 13, 14, 0]));
    put(&mut generic, 7, 8);
    generic.extend(xdr(&[20, 21, 22, 23, 24, 0]));
    let counters = sample(2, [xdr(&[1, 12, 1]), sample(1, generic)].concat());
    let dropped =
        sample(5, [xdr(&[1, 0, 3, 4, 12, 13, 258, 2]), raw(&a_frame()), sample(1_036, xdr(&[3]))].concat());
    t.take(&sflow(1, &[counters, dropped, sample(4_194_311, vec![1, 2, 3, 4])])).unwrap();
    let find = |name| t.beside.counters.iter().find(|c| c.name == name).map(|c| (c.if_index, c.value));
    assert_eq!(find("speed_bps"), Some((12, 100_000_000_000)));
    assert_eq!(
        (find("in_octets"), find("in_discards"), find("in_errors")),
        (Some((12, 5_000_000_000)), Some((12, 13)), Some((12, 14)))
    );
    assert_eq!(
        (find("out_discards"), find("out_errors"), find("oper_status")),
        (Some((12, 23)), Some((12, 24)), Some((12, 1)))
    );
    let [d] = t.beside.drops.as_slice() else { panic!("one drop: {:?}", t.beside.drops) };
    assert_eq!((drop_reason(d.reason), d.in_if, d.out_if, d.queue, d.packets), ("acl", 12, 13, Some(3), 5));
    assert_eq!((d.bytes, d.header.len()), (1_518, 64));
    assert_eq!((t.flows.rows(), t.decoder.counts().samples_unknown), (0, 1));
}

proptest! {
    #[test]
    fn any_bytes_are_an_outcome_and_columns_stay_level(
        head in prop::sample::select(vec![vec![0u8, 10], vec![0, 9], vec![0, 5], vec![0, 0, 0, 5], vec![]]),
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..4),
    ) {
        let mut t = Taker::new();
        for body in bodies {
            let _ = t.take(&[head.clone(), body].concat());
        }
        prop_assert_eq!(t.flows.packets.len(), t.flows.rows());
        prop_assert_eq!(t.flows.src.values.len(), t.flows.rows());
        prop_assert_eq!(t.flows.ecn_marked.values.len(), t.flows.rows());
        let _ = Decoder::from_bytes(Limits::default(), &t.decoder.to_bytes()).unwrap();
    }

    #[test]
    fn a_message_with_a_bit_turned_is_an_outcome(at in 0usize..400, bit in 0u8..8) {
        let mut t = Taker::new();
        let mut m = ipfix(0, &[simple_template(), set(256, &[simple(0), simple(1), simple(2)].concat())]);
        let at = at % m.len();
        m[at] ^= 1 << bit;
        let _ = t.take(&m);
        let _ = t.take(&ipfix(3, &[set(256, &simple(0))]));
        prop_assert_eq!(t.flows.duration_us.values.len(), t.flows.rows());
    }
}
