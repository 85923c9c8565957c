//! What to capture, as a classic BPF program the kernel runs for every packet.
//!
//! How: first the program finds the innermost header it understands: IPv4, IPv6, IPv6 behind a hop-by-hop header, and any
//! of these inside IPv6 (as probes and the transport travel along chosen paths). It keeps protocol, place of the ports and
//! place of the inner addresses in its scratch memory. Then filter after filter is tried; the first that fits takes the
//! packet.
//!
//! Invariants: a filter whose field a packet does not have does not fit, and the next one is tried; a host fits by its
//! outer or its inner address; the program's length is bounded by the numbers of filters and interfaces.
//! Absent on purpose: checking the program, which the kernel does, and extension headers beyond hop-by-hop.

use kernel::packet::Instruction;
use wire::proto::CaptureFilter;

/// Loads relative to the network header begin here (SKF_NET_OFF, linux/filter.h).
const NET: u32 = 0xfff0_0000;
/// What the kernel knows beside the packet's bytes (SKF_AD_OFF): its protocol and its interface.
const PROTOCOL: u32 = 0xffff_f000;
const INTERFACE: u32 = 0xffff_f000 + 8;

const LD_W: u16 = 0x20;
const LD_H: u16 = 0x28;
const LD_B: u16 = 0x30;
const LD_W_IND: u16 = 0x40;
const LD_H_IND: u16 = 0x48;
const LD_IMM: u16 = 0x00;
const LD_MEM: u16 = 0x60;
const LDX_MEM: u16 = 0x61;
const ST: u16 = 0x02;
const ADD: u16 = 0x04;
const AND: u16 = 0x54;
const LSH: u16 = 0x64;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JSET: u16 = 0x45;
const RET: u16 = 0x06;
const TAX: u16 = 0x07;

/// Places in scratch memory.
const M_PROTOCOL: u32 = 0;
const M_PORTS: u32 = 1;
const M_FAMILY: u32 = 2;
const M_INNER: u32 = 3;

/// Where no ports are.
const NOWHERE: u32 = 0xffff;
/// No protocol has this number.
const NO_PROTOCOL: u32 = 0x100;

/// A place to jump to, not known yet.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Label(usize);

/// Writes a program with labels.
#[derive(Default)]
struct Assembler {
    code: Vec<Instruction>,
    /// Where each label is.
    labels: Vec<Option<usize>>,
    /// Far jumps that wait for their label.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }
    fn here(&mut self, label: Label) {
        if let Some(at) = self.labels.get_mut(label.0) {
            *at = Some(self.code.len());
        }
    }
    fn put(&mut self, code: u16, k: u32) {
        self.code.push(Instruction { code, jt: 0, jf: 0, k });
    }
    fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.put(JA, 0);
    }
    /// Goes on where the accumulator equals `k`, else jumps. However far: a conditional jump alone reaches 255.
    fn must_equal(&mut self, k: u32, or: Label) {
        self.code.push(Instruction { code: JEQ, jt: 1, jf: 0, k });
        self.jump(or);
    }
    fn if_equal(&mut self, k: u32, to: Label) {
        self.code.push(Instruction { code: JEQ, jt: 0, jf: 1, k });
        self.jump(to);
    }
    fn if_set(&mut self, k: u32, to: Label) {
        self.code.push(Instruction { code: JSET, jt: 0, jf: 1, k });
        self.jump(to);
    }
    fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in &self.jumps {
            let target = self.labels.get(label.0).copied().flatten().unwrap_or(self.code.len());
            if let Some(jump) = self.code.get_mut(*at) {
                jump.k = (target.saturating_sub(at + 1)) as u32;
            }
        }
        self.code
    }
}

/// The program that keeps `snap` bytes of what fits one of the filters (of everything, where there are none) on one of these
/// interfaces (on all, where there are none).
pub fn compile(filters: &[CaptureFilter], interfaces: &[u32], snap: u32) -> Vec<Instruction> {
    let mut a = Assembler::default();
    let accept = a.label();
    let reject = a.label();
    if !interfaces.is_empty() {
        let on = a.label();
        a.put(LD_W, INTERFACE);
        interfaces.iter().for_each(|i| a.if_equal(*i, on));
        a.jump(reject);
        a.here(on);
    }
    if filters.is_empty() {
        a.jump(accept);
    } else {
        find_headers(&mut a);
        for filter in filters {
            let next = a.label();
            one(&mut a, filter, next);
            a.jump(accept);
            a.here(next);
        }
    }
    a.here(reject);
    a.put(RET, 0);
    a.here(accept);
    a.put(RET, snap);
    a.finish()
}

/// Fills the scratch memory.
fn find_headers(a: &mut Assembler) {
    let (v4, v6, tunnel, found) = (a.label(), a.label(), a.label(), a.label());
    for (at, value) in [(M_PROTOCOL, NO_PROTOCOL), (M_PORTS, NOWHERE), (M_FAMILY, 0), (M_INNER, 0)] {
        a.put(LD_IMM, value);
        a.put(ST, at);
    }
    a.put(LD_W, PROTOCOL);
    a.if_equal(0x0800, v4);
    a.if_equal(0x86dd, v6);
    a.jump(found);
    a.here(v4);
    a.put(LD_IMM, 4);
    a.put(ST, M_FAMILY);
    a.put(LD_B, NET + 9);
    a.put(ST, M_PROTOCOL);
    // ports are in the first fragment only
    a.put(LD_H, NET + 6);
    a.if_set(0x1fff, found);
    a.put(LD_B, NET);
    a.put(AND, 0xf);
    a.put(LSH, 2);
    a.put(ST, M_PORTS);
    a.jump(found);
    a.here(v6);
    a.put(LD_IMM, 6);
    a.put(ST, M_FAMILY);
    behind(a, 0, Some(tunnel));
    a.jump(found);
    a.here(tunnel);
    a.put(LD_IMM, 40);
    a.put(ST, M_INNER);
    behind(a, 40, None);
    a.here(found);
}

/// Protocol and ports behind the IPv6 header at `base`. Where another IPv6 header follows it directly, jumps.
fn behind(a: &mut Assembler, base: u32, tunnel: Option<Label>) {
    let done = a.label();
    a.put(LD_B, NET + base + 6);
    a.put(ST, M_PROTOCOL);
    if let Some(tunnel) = tunnel {
        a.if_equal(41, tunnel);
    }
    let hop_by_hop = a.label();
    a.if_equal(0, hop_by_hop);
    a.put(LD_IMM, base + 40);
    a.put(ST, M_PORTS);
    a.jump(done);
    a.here(hop_by_hop);
    a.put(LD_B, NET + base + 40);
    a.put(ST, M_PROTOCOL);
    a.put(LD_B, NET + base + 41);
    a.put(ADD, 1);
    a.put(LSH, 3);
    a.put(ADD, base + 40);
    a.put(ST, M_PORTS);
    a.here(done);
}

/// Falls through where the filter fits, else jumps.
fn one(a: &mut Assembler, filter: &CaptureFilter, next: Label) {
    if filter.ip_protocol != 0 {
        a.put(LD_MEM, M_PROTOCOL);
        a.must_equal(filter.ip_protocol, next);
    }
    if !filter.host.is_empty() {
        let words: Vec<u32> = filter
            .host
            .chunks_exact(4)
            .map(|c| c.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)))
            .collect();
        let (family, places): (u32, &[u32]) = if words.len() == 1 { (4, &[12, 16]) } else { (6, &[8, 24]) };
        a.put(LD_MEM, M_FAMILY);
        a.must_equal(family, next);
        let fits = a.label();
        // the outer addresses, then the inner ones; without a tunnel they are the same
        for inner in [false, true] {
            if inner && family == 4 {
                break;
            }
            for place in places {
                let other = a.label();
                for (i, word) in words.iter().enumerate() {
                    let at = NET + place + 4 * i as u32;
                    match inner {
                        false => a.put(LD_W, at),
                        true => {
                            a.put(LDX_MEM, M_INNER);
                            a.put(LD_W_IND, at);
                        }
                    }
                    a.must_equal(*word, other);
                }
                a.jump(fits);
                a.here(other);
            }
        }
        a.jump(next);
        a.here(fits);
    }
    if filter.port != 0 {
        let (ports, fits) = (a.label(), a.label());
        a.put(LD_MEM, M_PROTOCOL);
        [6, 17, 132].into_iter().for_each(|p| a.if_equal(p, ports));
        a.jump(next);
        a.here(ports);
        a.put(LD_MEM, M_PORTS);
        a.if_equal(NOWHERE, next);
        a.put(TAX, 0);
        a.put(LD_H_IND, NET);
        a.if_equal(filter.port, fits);
        a.put(LD_H_IND, NET + 2);
        a.must_equal(filter.port, next);
        a.here(fits);
    }
}

/// In words, for people.
pub fn describe(filters: &[CaptureFilter]) -> String {
    let address = |host: &[u8]| match (<[u8; 4]>::try_from(host), <[u8; 16]>::try_from(host)) {
        (Ok(v4), _) => std::net::Ipv4Addr::from(v4).to_string(),
        (_, Ok(v6)) => std::net::Ipv6Addr::from(v6).to_string(),
        _ => String::new(),
    };
    let one = |f: &CaptureFilter| {
        let mut words = Vec::new();
        if f.ip_protocol != 0 {
            words.push(format!("protocol {}", f.ip_protocol));
        }
        if !f.host.is_empty() {
            words.push(format!("host {}", address(&f.host)));
        }
        if f.port != 0 {
            words.push(format!("port {}", f.port));
        }
        if words.is_empty() { "everything".to_owned() } else { words.join(" and ") }
    };
    match filters {
        [] => "everything".to_owned(),
        _ => filters.iter().map(one).collect::<Vec<_>>().join(", or "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the kernel does with a program; `None` where it would end for want of bytes. Network header at 0.
    fn run(program: &[Instruction], packet: &[u8], ethertype: u32, ifindex: u32) -> Option<u32> {
        let (mut a, mut x, mut m, mut pc) = (0u32, 0u32, [0u32; 16], 0usize);
        let load = |at: u32, n: usize| -> Option<u32> {
            let at = at.wrapping_sub(NET) as usize;
            Some(packet.get(at..at.checked_add(n)?)?.iter().fold(0, |v, b| v << 8 | u32::from(*b)))
        };
        for _ in 0..10_000 {
            let i = program[pc];
            pc += 1;
            match i.code {
                LD_W if i.k == PROTOCOL => a = ethertype,
                LD_W if i.k == INTERFACE => a = ifindex,
                LD_W => a = load(i.k, 4)?,
                LD_H => a = load(i.k, 2)?,
                LD_B => a = load(i.k, 1)?,
                LD_W_IND => a = load(x.wrapping_add(i.k), 4)?,
                LD_H_IND => a = load(x.wrapping_add(i.k), 2)?,
                LD_IMM => a = i.k,
                LD_MEM => a = m[i.k as usize],
                LDX_MEM => x = m[i.k as usize],
                ST => m[i.k as usize] = a,
                ADD => a = a.wrapping_add(i.k),
                AND => a &= i.k,
                LSH => a <<= i.k,
                TAX => x = a,
                JA => pc += i.k as usize,
                JEQ => pc += usize::from(if a == i.k { i.jt } else { i.jf }),
                JSET => pc += usize::from(if a & i.k != 0 { i.jt } else { i.jf }),
                RET => return Some(i.k),
                other => panic!("no such instruction: {other}"),
            }
        }
        panic!("no end");
    }

    fn v6(next: u8, from: u8, to: u8, rest: &[u8]) -> Vec<u8> {
        let mut p = vec![0x60, 0, 0, 0, 0, rest.len() as u8, next, 64];
        p.extend([[from; 16], [to; 16]].concat());
        p.extend(rest);
        p
    }

    const PORTS: [u8; 8] = [0, 53, 0x13, 0x88, 0, 0, 0, 0];

    fn filter(ip_protocol: u32, host: &[u8], port: u32) -> CaptureFilter {
        CaptureFilter { ip_protocol, host: host.to_vec(), port }
    }

    #[test]
    fn ports_and_hosts_are_found_wherever_they_are() {
        let mut v4 = vec![0x46, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 1];
        v4.extend(PORTS);
        let mut fragment = v4.clone();
        fragment[7] = 9;
        let plain = v6(17, 1, 2, &PORTS);
        let traced = v6(0, 1, 2, &[&[17, 1][..], &[0; 14], &PORTS].concat());
        let inside = v6(41, 8, 9, &plain);
        let traced_inside = v6(41, 8, 9, &traced);
        let v6_packets = [&plain, &traced, &inside, &traced_inside];
        let fits = |f: &CaptureFilter, packet: &[u8], kind| {
            run(&compile(std::slice::from_ref(f), &[], 128), packet, kind, 1) == Some(128)
        };
        for p in v6_packets {
            for port in [53, 5_000] {
                assert!(fits(&filter(17, &[2; 16], port), p, 0x86dd), "{p:?}");
            }
            assert!(fits(&filter(0, &[1; 16], 0), p, 0x86dd));
            assert!(!fits(&filter(0, &[3; 16], 0), p, 0x86dd));
            assert!(!fits(&filter(6, &[], 0), p, 0x86dd));
            assert!(!fits(&filter(0, &[], 54), p, 0x86dd));
            assert!(!fits(&filter(0, &[1; 4], 0), p, 0x86dd));
        }
        assert!(fits(&filter(0, &[9; 16], 53), &inside, 0x86dd), "the outer address too");
        assert!(fits(&filter(17, &[10, 0, 0, 2], 5_000), &v4, 0x0800));
        assert!(!fits(&filter(17, &[10, 0, 0, 3], 0), &v4, 0x0800));
        assert!(!fits(&filter(0, &[], 53), &fragment, 0x0800), "a later fragment has no ports");
        assert!(fits(&filter(17, &[], 0), &fragment, 0x0800));
        assert!(!fits(&filter(1, &[], 0), &[0; 40], 0x0806) && fits(&filter(0, &[], 0), &[0; 40], 0x0806));
    }

    #[test]
    fn one_of_several_filters_and_interfaces_is_enough() {
        let many: Vec<_> = (1..=16u8).map(|i| filter(17, &[i; 16], 53)).collect();
        let interfaces: Vec<u32> = (1..=64).collect();
        let program = compile(&many, &interfaces, 96);
        assert!(program.len() < kernel::packet::INSTRUCTIONS_MAX, "{}", program.len());
        let to_last = v6(17, 40, 16, &PORTS);
        assert_eq!(run(&program, &to_last, 0x86dd, 64), Some(96));
        assert_eq!(run(&program, &to_last, 0x86dd, 65), Some(0));
        assert_eq!(run(&program, &v6(17, 40, 41, &PORTS), 0x86dd, 1), Some(0));
        assert_eq!(run(&compile(&[], &[], 5), &[], 1, 1), Some(5));
        assert_eq!(describe(&many[..1]), "protocol 17 and host 101:101:101:101:101:101:101:101 and port 53");
        assert_eq!(describe(&[]), "everything");
    }

    proptest! {
        #[test]
        fn every_program_ends(packet in proptest::collection::vec(any::<u8>(), 0..120), kind in 0u32..3) {
            let program = compile(&[filter(6, &[1; 16], 80), filter(0, &[1; 4], 80)], &[1], 9);
            let _ = run(&program, &packet, [0x0800, 0x86dd, 0x0806][kind as usize], 1);
        }
    }
}
