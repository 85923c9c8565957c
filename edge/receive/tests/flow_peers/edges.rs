//! Edge cases no exporter at hand sends, written byte by byte: options templates, fields of enterprises, fields of variable
//! length, padding, templates that change and are withdrawn, MPLS, SRv6, sampling, microseconds.

const SENT: u32 = 1_770_000_000;

fn set(id: u16, body: &[u8], padding: usize) -> Vec<u8> {
    let mut out = Vec::from(id.to_be_bytes());
    out.extend(((4 + body.len() + padding) as u16).to_be_bytes());
    out.extend(body);
    out.resize(out.len() + padding, 0);
    out
}

/// Fields as element, length and enterprise, where 0 is none.
fn template(id: u16, fields: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = Vec::from(id.to_be_bytes());
    out.extend((fields.len() as u16).to_be_bytes());
    fields.iter().for_each(|f| field(&mut out, *f));
    out
}

fn field(out: &mut Vec<u8>, (element, length, enterprise): (u16, u16, u32)) {
    out.extend((element | if enterprise > 0 { 0x8000 } else { 0 }).to_be_bytes());
    out.extend(length.to_be_bytes());
    if enterprise > 0 {
        out.extend(enterprise.to_be_bytes());
    }
}

fn ipfix(sequence: u32, sets: &[Vec<u8>]) -> Vec<u8> {
    let body = sets.concat();
    let mut out = vec![0, 10];
    out.extend((16 + body.len() as u16).to_be_bytes());
    for n in [SENT, sequence, 7] {
        out.extend(n.to_be_bytes());
    }
    out.extend(body);
    out
}

fn netflow9(sequence: u32, records: u16, sets: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![0, 9];
    out.extend(records.to_be_bytes());
    for n in [60_000, SENT, sequence, 7] {
        out.extend(n.to_be_bytes());
    }
    out.extend(sets.concat());
    out
}

/// Addresses and ports of a TCP flow, its packets and bytes.
const FIVE: [(u16, u16, u32); 7] =
    [(8, 4, 0), (12, 4, 0), (7, 2, 0), (11, 2, 0), (4, 1, 0), (2, 8, 0), (1, 8, 0)];

fn five(n: u8) -> Vec<u8> {
    let mut out = vec![10, 0, 0, n, 10, 0, 1, n];
    out.extend((40_000 + u16::from(n)).to_be_bytes());
    out.extend(443u16.to_be_bytes());
    out.push(6);
    out.extend((u64::from(n) + 1).to_be_bytes());
    out.extend((u64::from(n) * 1_000 + 60).to_be_bytes());
    out
}

/// Fields of an enterprise, of variable length short and long, and padding behind the records.
fn odd_lengths() -> Vec<Vec<u8>> {
    let mut fields = Vec::from(FIVE);
    fields.extend([(1_001, 4, 29_305), (82, 65_535, 0), (96, 65_535, 0)]);
    let record = |n: u8| {
        let mut r = five(n);
        r.extend([1, 2, 3, 4]);
        r.push(4);
        r.extend(b"eth7");
        // from 255 bytes on the length takes three
        r.push(255);
        r.extend(300u16.to_be_bytes());
        r.extend([b'a' + n; 300]);
        r
    };
    vec![
        ipfix(0, &[set(2, &template(256, &fields), 0)]),
        ipfix(0, &[set(256, &[record(1), record(2)].concat(), 3)]),
    ]
}

/// The same number means another template, is withdrawn, and means the first again.
fn changing_templates() -> Vec<Vec<u8>> {
    let short: Vec<_> = FIVE.iter().copied().filter(|(e, ..)| *e != 4).collect();
    let without = |n: u8| {
        let mut r = five(n);
        r.remove(12);
        r
    };
    vec![
        ipfix(0, &[set(2, &template(300, &FIVE), 0), set(300, &five(1), 0)]),
        ipfix(1, &[set(2, &template(300, &short), 0), set(300, &without(2), 0)]),
        ipfix(2, &[set(2, &template(300, &[]), 0)]),
        ipfix(2, &[set(2, &template(300, &FIVE), 0), set(300, &five(3), 0)]),
    ]
}

/// IPv6 with a flow label, the top MPLS label, hop limits and a direction; times in milliseconds.
fn six() -> Vec<Vec<u8>> {
    let fields = [
        (27, 16, 0),
        (28, 16, 0),
        (31, 4, 0),
        (7, 2, 0),
        (11, 2, 0),
        (4, 1, 0),
        (2, 4, 0),
        (1, 4, 0),
        (52, 1, 0),
        (53, 1, 0),
        (61, 1, 0),
        (152, 8, 0),
        (153, 8, 0),
    ];
    let record = |n: u8| {
        let mut r = vec![0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n];
        r.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, n]);
        r.extend(0x000a_bcdeu32.to_be_bytes());
        r.extend(4_791u16.to_be_bytes());
        r.extend(53u16.to_be_bytes());
        r.push(17);
        r.extend(9u32.to_be_bytes());
        r.extend(9_000u32.to_be_bytes());
        r.extend([61, 64, 1]);
        r.extend((u64::from(SENT) * 1_000 - 500).to_be_bytes());
        r.extend((u64::from(SENT) * 1_000).to_be_bytes());
        r
    };
    vec![
        ipfix(0, &[set(2, &template(400, &fields), 0)]),
        ipfix(0, &[set(400, &[record(1), record(2), record(3)].concat(), 0)]),
    ]
}

/// NetFlow v9: an options template that names a sampling rate, and a set padded to four bytes.
fn sampled() -> Vec<Vec<u8>> {
    // scope: system (1), four bytes; sampling interval (34) and algorithm (35)
    let mut options = Vec::from(257u16.to_be_bytes());
    options.extend([0, 4, 0, 8]);
    options.extend([0, 1, 0, 4, 0, 34, 0, 4, 0, 35, 0, 1]);
    let told = [0, 0, 0, 0, 0, 0, 0, 100, 2];
    let records = [five(1), five(2)].concat();
    vec![
        netflow9(0, 2, &[set(1, &options, 2), set(257, &told, 3)]),
        netflow9(1, 3, &[set(0, &template(256, &FIVE), 0), set(256, &records, (4 - records.len() % 4) % 4)]),
    ]
}

/// Every edge case with its name.
pub fn all() -> Vec<(String, Vec<Vec<u8>>)> {
    let named = |name: &str, datagrams| (format!("by-hand-{name}"), datagrams);
    vec![
        named("odd-lengths", odd_lengths()),
        named("changing-templates", changing_templates()),
        named("six", six()),
        named("v9-sampled", sampled()),
    ]
}
