//! Captures of other people's exporters, decoded here and by others: every field must agree.
//!
//! The captures are small and made by softflowd, pmacctd and nfpcapd from the same synthetic packets; the edge cases no
//! exporter at hand sends are made by hand ([`edges`]). The crates `netflow_parser` and `sflow-parser` are always asked,
//! nfdump and tshark where they are installed.
// A test may unwrap: a panic there is the report.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use wire::Nanos;
use wire::flow::{Address, Beside, Counts, Decoder, FlowColumns, Maybe};

#[path = "flow_peers/captures.rs"]
mod captures;
#[path = "flow_peers/edges.rs"]
mod edges;

use captures::{captures, datagrams};

fn decode(datagrams: &[Vec<u8>]) -> (FlowColumns, Counts) {
    let (mut decoder, mut flows) = (Decoder::default(), FlowColumns::default());
    for datagram in datagrams {
        let now = Nanos::from_secs(1_790_000_000);
        decoder.datagram(now, [1; 16], datagram, &mut flows, &mut Beside::default()).unwrap();
    }
    (flows, decoder.counts())
}

/// Big-endian bytes as a number.
fn number(bytes: &[u8]) -> i64 {
    bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b)) as i64
}

fn address(bytes: &[u8]) -> Address {
    match *bytes {
        [a, b, c, d] => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d],
        _ => bytes.try_into().unwrap(),
    }
}

/// Our value of an element in a row, where it is a number that is kept as it comes.
fn ours(f: &FlowColumns, row: usize, element: u16) -> Option<Option<i64>> {
    let int = |c: &Maybe<i32>| c.get(row).map(i64::from);
    let sampled = |c: &Vec<i64>| c.get(row).map(|v| v / i64::from(f.sampling[row]));
    Some(match element {
        1 => sampled(&f.bytes),
        2 => sampled(&f.packets),
        4 => int(&f.protocol),
        5 => int(&f.traffic_class),
        6 => int(&f.tcp_flags),
        7 => int(&f.src_port),
        9 | 29 => int(&f.src_prefix_len),
        10 => f.in_if.get(row),
        11 => int(&f.dst_port),
        13 | 30 => int(&f.dst_prefix_len),
        14 => f.out_if.get(row),
        16 => f.src_as.get(row),
        17 => f.dst_as.get(row),
        31 => f.flow_label.get(row),
        52 => int(&f.ttl_min),
        53 => int(&f.ttl_max),
        58 => int(&f.vlan),
        61 => int(&f.direction),
        70 => f.mpls_label.get(row),
        136 => int(&f.end_reason),
        _ => return None,
    })
}

/// A record as a peer read it: element and bytes.
type Record = Vec<(u16, Vec<u8>)>;

/// What `netflow_parser` makes of datagrams, with its uptime clock where there is one: Unix ms at uptime 0.
fn peer_records(datagrams: &[Vec<u8>]) -> Vec<(Option<i64>, Record)> {
    use netflow_parser::{NetflowPacket, NetflowParser};
    let mut parser = NetflowParser::default();
    let (mut all, mut templates) = (Vec::new(), BTreeMap::<u16, Vec<(u16, bool)>>::new());
    for datagram in datagrams {
        let result = parser.parse_bytes(datagram);
        assert!(result.error.is_none(), "{:?}", result.error);
        for packet in result.packets {
            match packet {
                NetflowPacket::V9(p) => {
                    use netflow_parser::variable_versions::v9::FlowSetBody;
                    let boot = i64::from(p.header.unix_secs) * 1_000 - i64::from(p.header.sys_up_time);
                    for set in p.flowsets {
                        match set.body {
                            FlowSetBody::Template(t) => templates.extend(t.templates.into_iter().map(|t| {
                                (
                                    t.template_id,
                                    t.fields.iter().map(|f| (f.field_type_number, true)).collect(),
                                )
                            })),
                            FlowSetBody::Data(d) => {
                                for r in d.fields {
                                    let values = r.iter().map(|(_, v)| v);
                                    all.push((
                                        Some(boot),
                                        record(&templates[&set.header.flowset_id], values),
                                    ));
                                }
                            }
                            _ => {}
                        }
                    }
                }
                NetflowPacket::IPFix(p) => {
                    use netflow_parser::variable_versions::ipfix::FlowSetBody;
                    for set in p.flowsets {
                        let told = match set.body {
                            FlowSetBody::Template(t) => vec![t],
                            FlowSetBody::Templates(t) => t,
                            FlowSetBody::Data(d) => {
                                for r in d.fields {
                                    let values = r.iter().map(|(_, v)| v);
                                    all.push((None, record(&templates[&set.header.header_id], values)));
                                }
                                continue;
                            }
                            _ => continue,
                        };
                        templates.extend(told.into_iter().map(|t| {
                            let fields = t.fields.iter();
                            let fields =
                                fields.map(|f| (f.field_type_number & 0x7fff, f.enterprise_number.is_none()));
                            (t.template_id, fields.collect())
                        }));
                    }
                }
                NetflowPacket::V5(p) => {
                    let h = &p.header;
                    let sent = i64::from(h.unix_secs) * 1_000 + i64::from(h.unix_nsecs / 1_000_000);
                    let boot = sent - i64::from(h.sys_up_time);
                    all.extend(p.flowsets.iter().map(|r| {
                        let n = |n: u32| n.to_be_bytes().to_vec();
                        let record = vec![
                            (8, r.src_addr.octets().to_vec()),
                            (12, r.dst_addr.octets().to_vec()),
                            (15, r.next_hop.octets().to_vec()),
                            (10, n(r.input.into())),
                            (14, n(r.output.into())),
                            (2, n(r.d_pkts)),
                            (1, n(r.d_octets)),
                            (22, n(r.first)),
                            (21, n(r.last)),
                            (7, n(r.src_port.into())),
                            (11, n(r.dst_port.into())),
                            (6, n(r.tcp_flags.into())),
                            (4, n(r.protocol_number.into())),
                            (5, n(r.tos.into())),
                            (16, n(r.src_as.into())),
                            (17, n(r.dst_as.into())),
                            (9, n(r.src_mask.into())),
                            (13, n(r.dst_mask.into())),
                        ];
                        (Some(boot), record)
                    }));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    all
}

fn record<'a>(
    template: &[(u16, bool)],
    values: impl Iterator<Item = &'a netflow_parser::FieldValue>,
) -> Record {
    template
        .iter()
        .zip(values)
        .filter(|((_, iana), _)| *iana)
        .map(|((element, _), value)| {
            let mut bytes = Vec::new();
            value.write_be_bytes(&mut bytes).unwrap();
            (*element, bytes)
        })
        .collect()
}

#[test]
fn netflow_parser_agrees_on_every_field() {
    let mut compared = BTreeMap::<u16, usize>::new();
    for (name, datagrams) in captures().into_iter().filter(|(n, _)| !n.contains("sflow")) {
        let (f, counts) = decode(&datagrams);
        let (f, peer) = (&f, peer_records(&datagrams));
        assert_eq!(f.rows(), peer.len(), "{name}: rows");
        assert!(f.rows() > 0 && counts.parked == 0, "{name}");
        for (row, (boot, record)) in peer.iter().enumerate() {
            for (element, bytes) in record {
                let place = format!("{name}, row {row}, element {element}");
                let same = match element {
                    8 | 27 => Some(f.src.get(row) == Some(address(bytes))),
                    12 | 28 => Some(f.dst.get(row) == Some(address(bytes))),
                    15 | 62 => Some(f.next_hop.get(row) == Some(address(bytes))),
                    152 => Some(f.ts_us[row] == number(bytes) * 1_000),
                    150 => Some(f.ts_us[row] == number(bytes) * 1_000_000),
                    153 => Some((f.ts_us[row] + f.duration_us.get(row).unwrap()) == number(bytes) * 1_000),
                    22 if boot.is_some() => Some(f.ts_us[row] / 1_000 == boot.unwrap() + number(bytes)),
                    21 if boot.is_some() => {
                        let end_us = f.ts_us[row] + f.duration_us.get(row).unwrap();
                        Some(end_us / 1_000 == boot.unwrap() + number(bytes))
                    }
                    // ICMP has its type and code there
                    11 if matches!(f.protocol.get(row), Some(1 | 58)) => None,
                    _ => ours(f, row, *element).map(|ours| {
                        assert_eq!(ours, Some(number(bytes)), "{place}");
                        true
                    }),
                };
                assert_ne!(same, Some(false), "{place}: {bytes:02x?}");
                *compared.entry(*element).or_default() += usize::from(same.is_some());
            }
        }
    }
    for element in [1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 14, 21, 22, 27, 28, 152, 153] {
        assert!(
            compared.get(&element).is_some_and(|n| *n > 0),
            "no capture has element {element}: {compared:?}"
        );
    }
    println!("values compared by element: {compared:?}");
}

#[test]
fn sflow_parser_agrees_on_every_sample() {
    use sflow_parser::models::{FlowData, FlowRecord, SampleData};
    let datagrams = datagrams("pmacctd-sflow");
    let (f, mut row) = (decode(&datagrams).0, 0);
    let check = |row: usize, rate: u32, records: &[FlowRecord]| {
        assert_eq!(f.sampling[row], rate as i32);
        for r in records {
            if let FlowData::SampledHeader(h) = &r.flow_data {
                assert_eq!(f.bytes[row], i64::from(h.frame_length) * i64::from(rate));
                // the addresses where they lie in an Ethernet frame without tags
                match h.header.get(12..14) {
                    Some([0x08, 0x00]) => {
                        assert_eq!(f.src.get(row), Some(address(&h.header[26..30])));
                        assert_eq!(f.dst.get(row), Some(address(&h.header[30..34])));
                        assert_eq!(f.protocol.get(row), Some(i32::from(h.header[23])));
                    }
                    Some([0x86, 0xdd]) => {
                        assert_eq!(f.src.get(row), Some(address(&h.header[22..38])));
                        assert_eq!(f.dst_port.get(row), Some(number(&h.header[56..58]) as i32));
                    }
                    _ => {}
                }
            }
        }
    };
    for datagram in &datagrams {
        for sample in sflow_parser::parse_datagram(datagram).unwrap().samples {
            match sample.sample_data {
                SampleData::FlowSample(s) => check(row, s.sampling_rate, &s.flow_records),
                SampleData::FlowSampleExpanded(s) => check(row, s.sampling_rate, &s.flow_records),
                _ => continue,
            }
            row += 1;
        }
    }
    assert_eq!(row, f.rows());
    assert!(row > 20, "{row} samples");
}

/// The output of a program, or `None` and why where it is not there.
fn run(program: &str, args: &[&str]) -> Option<String> {
    match Command::new(program).args(args).output() {
        Ok(out) => Some(String::from_utf8_lossy(&out.stdout).into_owned()),
        Err(e) => {
            println!("skipped: {program}: {e}");
            None
        }
    }
}

fn text(a: Address) -> String {
    let a = std::net::Ipv6Addr::from(a);
    a.to_ipv4_mapped().map_or(a.to_string(), |v4| v4.to_string())
}

#[test]
fn tshark_agrees_on_what_it_reads() {
    for (name, datagrams) in captures() {
        // It keeps the first template of a number, and drops what comes by the next; the others are asked.
        if name == "by-hand-changing-templates" {
            continue;
        }
        let sflow = name.contains("sflow");
        let dir = std::env::temp_dir().join(format!("selvedge-tshark-{}", std::process::id()));
        let path = captures::file(&name, &datagrams, &dir);
        let of = |field: &str| {
            let decode = if sflow { "udp.port==4010,sflow" } else { "udp.port==4010,cflow" };
            let args =
                ["-r", path.to_str()?, "-d", decode, "-T", "fields", "-E", "occurrence=a", "-e", field];
            let out = run("tshark", &args)?;
            // options templates list no values; those of all frames in one list
            Some(out.split([',', '\n']).filter(|v| !v.is_empty()).map(str::to_owned).collect::<Vec<_>>())
        };
        // In one datagram the header counts fewer sets than there are, and it stops there. nfdump goes on, as we do.
        let told_wrong = if name == "softflowd-v9-vlan-sampled" { 1 } else { 0 };
        let left_out = decode(&datagrams[..told_wrong]).0.rows();
        let f = &decode(&datagrams).0;
        let rows = || left_out..f.rows();
        let all = |c: &Maybe<i32>| rows().filter_map(|r| c.get(r).map(|v| v.to_string())).collect::<Vec<_>>();
        let numbers = |c: &Vec<i64>| {
            c.iter()
                .zip(&f.sampling)
                .skip(left_out)
                .map(|(v, s)| (v / i64::from(*s)).to_string())
                .collect::<Vec<_>>()
        };
        if sflow {
            let Some(ports) = of("tcp.dstport") else { return };
            let tcp = rows().filter(|r| f.protocol.get(*r) == Some(6));
            assert_eq!(
                tcp.filter_map(|r| f.dst_port.get(r)).map(|p| p.to_string()).collect::<Vec<_>>(),
                ports,
                "{name}"
            );
            continue;
        }
        let Some(ports) = of("cflow.srcport") else { return };
        assert_eq!(all(&f.src_port), ports, "{name}");
        // ICMP's type and code are no port to it in some of the formats, and 0 or left out in others
        let theirs = of("cflow.dstport").unwrap_or_default();
        let all_told = theirs.len() == rows().len();
        let ours = rows().filter(|r| all_told || !is_icmp(f, *r));
        let ours: Vec<_> = ours.map(|r| (is_icmp(f, r), f.dst_port.get(r).map(|p| p.to_string()))).collect();
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for ((icmp, ours), theirs) in ours.into_iter().zip(theirs) {
            assert!(icmp || ours.as_ref() == Some(&theirs), "{name}: {ours:?} and {theirs}");
        }
        assert_eq!(Some(all(&f.protocol)), of("cflow.protocol"), "{name}");
        // it lists both directions of a flow, of which one may be empty
        let full = |field| of(field).map(|v| v.into_iter().filter(|n| n != "0").collect::<Vec<_>>());
        assert_eq!(Some(numbers(&f.packets)), full("cflow.packets"), "{name}");
        assert_eq!(Some(numbers(&f.bytes)), full("cflow.octets"), "{name}");
        let v4: Vec<_> = rows().filter_map(|r| f.src.get(r)).map(text).filter(|a| a.contains('.')).collect();
        assert_eq!(Some(v4), of("cflow.srcaddr"), "{name}");
        let v6: Vec<_> = rows().filter_map(|r| f.dst.get(r)).map(text).filter(|a| a.contains(':')).collect();
        assert_eq!(Some(v6), of("cflow.dstaddrv6"), "{name}");
    }
}

fn is_icmp(f: &FlowColumns, row: usize) -> bool {
    matches!(f.protocol.get(row), Some(1 | 58))
}

/// nfdump reads ICMP's type and code, but not where NetFlow v9 has them as two elements (176, 177).
fn port_counts(capture: &str, f: &FlowColumns, row: usize) -> bool {
    capture != "pmacctd-v9" || !is_icmp(f, row)
}

#[test]
fn nfdump_keeps_the_same_flows() {
    for (name, datagrams) in captures().into_iter().filter(|(n, _)| !n.contains("sflow")) {
        let dir: PathBuf =
            std::env::temp_dir().join(format!("selvedge-nfdump-{}-{name}", std::process::id()));
        let Some(dump) = captures::nfdump(&dir, &datagrams) else { return };
        let f = &decode(&datagrams).0;
        let mut ours: Vec<_> = (0..f.rows())
            .map(|r| {
                // times are left out: those of NetFlow v9 and v5 are compared with the other peers
                let flags = f.tcp_flags.get(r).unwrap_or(0);
                format!(
                    "{} {} {} {} {} {} {} {}",
                    f.src.get(r).map(text).unwrap_or_default(),
                    f.dst.get(r).map(text).unwrap_or_default(),
                    f.src_port.get(r).unwrap_or(0),
                    if port_counts(&name, f, r) { f.dst_port.get(r).unwrap_or(0) } else { 0 },
                    f.protocol.get(r).unwrap_or(0),
                    if f.protocol.get(r) == Some(6) { flags } else { 0 },
                    f.packets[r] / i64::from(f.sampling[r]),
                    f.bytes[r] / i64::from(f.sampling[r]),
                )
            })
            .collect();
        let mut theirs = dump;
        // It takes the flags of the other direction (RFC 5103), which are none, for those of the first.
        if name.contains("bidirectional") {
            let without = |line: &String| {
                let mut words: Vec<&str> = line.split(' ').collect();
                words.remove(5);
                words.join(" ")
            };
            ours = ours.iter().map(without).collect();
            theirs = theirs.iter().map(without).collect();
        }
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{name}");
    }
}
