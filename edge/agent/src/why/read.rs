//! Files of the kernel's, read into numbers: counters of a namespace, the tracking table, processors.
//!
//! Invariants: paths under `/proc/thread-self/net` show the namespace of the calling thread; text that makes no sense is
//! left out.

use super::facts::CpuFacts;
use std::collections::BTreeMap;
use std::fs::read_to_string;

/// Counters by name, since the namespace was made.
pub(super) type Counters = BTreeMap<String, u64>;

/// Every counter of the namespace's IP, ICMP, TCP and UDP, and the kernel's own backlog. What cannot be read is named.
pub(super) fn counters(missing: &mut Vec<String>) -> Counters {
    let mut all = Counters::new();
    for file in ["snmp", "netstat"] {
        match read_to_string(format!("/proc/thread-self/net/{file}")) {
            Ok(text) => paired(&text, &mut all),
            Err(e) => missing.push(format!("counters of /proc/net/{file}: {e}")),
        }
    }
    // a kernel without IPv6 has no such file
    if let Ok(text) = read_to_string("/proc/thread-self/net/snmp6") {
        single(&text, &mut all);
    }
    if let Ok(text) = read_to_string("/proc/net/softnet_stat") {
        softnet(&text, &mut all);
    }
    all
}

/// Pairs of lines: names, then numbers, both after the same prefix.
fn paired(text: &str, to: &mut Counters) {
    let mut lines = text.lines();
    while let (Some(names), Some(numbers)) = (lines.next(), lines.next()) {
        let (Some((prefix, names)), Some((same, numbers))) = (names.split_once(':'), numbers.split_once(':'))
        else {
            continue;
        };
        if prefix != same {
            continue;
        }
        for (name, number) in names.split_whitespace().zip(numbers.split_whitespace()) {
            // some are signed (-1 for "no limit") and never move
            if let Ok(number) = number.parse() {
                to.insert(format!("{prefix}.{name}"), number);
            }
        }
    }
}

/// One name and number a line.
fn single(text: &str, to: &mut Counters) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(Ok(number))) = (words.next(), words.next().map(str::parse)) {
            to.insert(name.to_string(), number);
        }
    }
}

/// A line a processor, hexadecimal: processed, dropped, time squeezed.
fn softnet(text: &str, to: &mut Counters) {
    for (column, name) in [(1, "Softnet.Dropped"), (2, "Softnet.TimeSqueezed")] {
        let sum = text.lines().filter_map(|l| hex(l.split_whitespace().nth(column)?)).sum();
        to.insert(name.to_string(), sum);
    }
}

fn hex(word: &str) -> Option<u64> {
    u64::from_str_radix(word, 16).ok()
}

/// What moved, by how much.
pub(super) fn moved(before: &Counters, after: &Counters) -> Counters {
    let by = |(name, now): (&String, &u64)| {
        let by = now.saturating_sub(before.get(name).copied().unwrap_or(0));
        (by > 0).then(|| (name.clone(), by))
    };
    after.iter().filter_map(by).collect()
}

/// The tracking table now: entries, room, dropped, not inserted, thrown out. None where there is none.
pub(super) fn conntrack() -> Option<[u64; 5]> {
    let number = |key: &str| kernel::sysctl::read(key).ok()?.parse().ok();
    let count = number("net/netfilter/nf_conntrack_count")?;
    let max = number("net/netfilter/nf_conntrack_max")?;
    let text = read_to_string("/proc/thread-self/net/stat/nf_conntrack").unwrap_or_default();
    let [dropped, failed, early] = ["drop", "insert_failed", "early_drop"].map(|name| column(&text, name));
    Some([count, max, dropped, failed, early])
}

/// The sum of a named column of hexadecimal numbers.
fn column(text: &str, name: &str) -> u64 {
    let mut lines = text.lines();
    let Some(at) = lines.next().and_then(|head| head.split_whitespace().position(|n| n == name)) else {
        return 0;
    };
    lines.filter_map(|l| hex(l.split_whitespace().nth(at)?)).fold(0, u64::saturating_add)
}

/// The processors' time so far, in ticks of all together: total, idle, softirq, steal; and how many they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ticks {
    total: u64,
    idle: u64,
    softirq: u64,
    steal: u64,
    count: u32,
    /// Pressure, µs.
    pressure_us: Option<u64>,
}

/// Reads them.
pub(super) fn ticks() -> Ticks {
    let mut ticks = parse_ticks(&read_to_string("/proc/stat").unwrap_or_default());
    ticks.pressure_us = read_to_string("/proc/pressure/cpu").ok().and_then(|text| pressure(&text));
    ticks
}

fn parse_ticks(text: &str) -> Ticks {
    let mut ticks = Ticks::default();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("cpu") else { break };
        if !rest.starts_with(' ') {
            ticks.count += 1;
            continue;
        }
        // user nice system idle iowait irq softirq steal; guest times are in the first two already
        let n: Vec<u64> = rest.split_whitespace().take(8).filter_map(|w| w.parse().ok()).collect();
        let at = |i: usize| n.get(i).copied().unwrap_or(0);
        ticks.total = n.iter().sum();
        (ticks.idle, ticks.softirq, ticks.steal) = (at(3) + at(4), at(5) + at(6), at(7));
    }
    ticks
}

fn pressure(text: &str) -> Option<u64> {
    text.lines().find(|l| l.starts_with("some"))?.rsplit_once("total=")?.1.trim().parse().ok()
}

/// Shares between two readings.
pub(super) fn cpu(before: Ticks, after: Ticks, interval_us: u64) -> CpuFacts {
    let total = after.total.saturating_sub(before.total).max(1) as f64;
    let share = |a: u64, b: u64| (a.saturating_sub(b) as f64 / total).clamp(0.0, 1.0);
    let pressure = after
        .pressure_us
        .zip(before.pressure_us)
        .map(|(a, b)| (a.saturating_sub(b) as f64 / interval_us.max(1) as f64).clamp(0.0, 1.0));
    CpuFacts {
        count: after.count,
        idle: share(after.idle, before.idle),
        softirq: share(after.softirq, before.softirq),
        steal: share(after.steal, before.steal),
        pressure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_by_their_group() {
        let mut all = Counters::new();
        paired("Tcp: A MaxConn\nTcp: 5 -1\nIcmp: B\nUdp: 3\nTcpExt: C D\nTcpExt: 1", &mut all);
        single("Ip6InReceives   7\nbroken\nIp6X y", &mut all);
        softnet("0000000a 00000002 00000001\n0000000a 00000003 00000000\nzz", &mut all);
        let expected = [
            ("Ip6InReceives", 7),
            ("Softnet.Dropped", 5),
            ("Softnet.TimeSqueezed", 1),
            ("Tcp.A", 5),
            ("TcpExt.C", 1),
        ];
        assert_eq!(all.iter().map(|(n, v)| (n.as_str(), *v)).collect::<Vec<_>>(), expected);
        let mut later = all.clone();
        later.insert("Tcp.A".into(), 9);
        later.insert("New".into(), 2);
        let by = moved(&all, &later);
        assert_eq!(by.into_iter().collect::<Vec<_>>(), [("New".to_string(), 2), ("Tcp.A".to_string(), 4)]);
    }

    #[test]
    fn columns_are_found_by_name() {
        let text = "entries  drop early_drop\n00000001 0000000f 00000001\n00000001 00000001 00000000\n";
        assert_eq!((column(text, "drop"), column(text, "early_drop"), column(text, "none")), (16, 1, 0));
        assert_eq!(column("", "drop"), 0);
    }

    #[test]
    fn shares_of_the_processors() {
        let before = parse_ticks("cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1 1\ncpu1 1 1\nintr 5");
        let after = parse_ticks("cpu  20 0 10 120 0 0 40 10 0 0\ncpu0 1 1\ncpu1 1 1\nintr 5");
        let facts = cpu(before, after, 1_000_000);
        assert_eq!((facts.count, facts.idle, facts.softirq, facts.steal), (2, 0.4, 0.4, 0.1));
        assert_eq!(pressure("some avg10=1.25 avg60=2.86 total=55\nfull avg10=0.00 total=0"), Some(55));
        assert_eq!(facts.pressure, None);
        assert!(ticks().count > 0 && !counters(&mut Vec::new()).is_empty());
    }
}
