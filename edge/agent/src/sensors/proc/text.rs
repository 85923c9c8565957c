//! The texts of `/proc` and `/sys`, read.
//!
//! How: one function a form of text. Invariants: any text gives what could be read of it, never a panic; numbers that do
//! not fit are left out; at most [`LINES_MAX`] lines are looked at. Absent on purpose: files.

use crate::sensors::measure::number;

/// Lines of one text that are looked at: more than the processors of any machine.
pub const LINES_MAX: usize = 16_384;

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take(LINES_MAX)
}

/// Times of one processor, or of all, in ticks of a hundredth of a second (`proc_stat(5)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Programs, those at low priority too.
    pub user: u64,
    /// The kernel for programs.
    pub system: u64,
    /// Nothing to do, or waiting for a disk.
    pub idle: u64,
    /// Hardware interrupts.
    pub irq: u64,
    /// Soft interrupts.
    pub softirq: u64,
    /// Taken by the hypervisor.
    pub steal: u64,
}

/// `/proc/stat`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// All processors together.
    pub all: Times,
    /// Each, by its number.
    pub each: Vec<(u32, Times)>,
    /// Context switches.
    pub switches: u64,
    /// Processes made.
    pub forks: u64,
    /// Runnable now.
    pub running: u64,
    /// Waiting for a disk now.
    pub blocked: u64,
}

/// Reads `/proc/stat`.
pub fn stat(text: &str) -> Stat {
    let mut stat = Stat::default();
    for line in lines(text) {
        let mut words = line.split_ascii_whitespace();
        let Some(name) = words.next() else { continue };
        if let Some(cpu) = name.strip_prefix("cpu") {
            let mut next = || words.next().and_then(number).unwrap_or(0);
            let (user, nice, system) = (next(), next(), next());
            let (idle, wait) = (next(), next());
            let times = Times {
                user: user.saturating_add(nice),
                system,
                idle: idle.saturating_add(wait),
                irq: next(),
                softirq: next(),
                steal: next(),
            };
            match cpu.parse() {
                Ok(cpu) => stat.each.push((cpu, times)),
                Err(_) if cpu.is_empty() => stat.all = times,
                Err(_) => {}
            }
            continue;
        }
        let Some(value) = words.next().and_then(number) else { continue };
        match name {
            "ctxt" => stat.switches = value,
            "processes" => stat.forks = value,
            "procs_running" => stat.running = value,
            "procs_blocked" => stat.blocked = value,
            _ => {}
        }
    }
    stat
}

/// Runnable tasks over 1, 5 and 15 minutes, thousandths (`/proc/loadavg`).
pub fn load(text: &str) -> Option<[u64; 3]> {
    let mut words = text.split_ascii_whitespace();
    let mut next = || thousandths(words.next()?);
    Some([next()?, next()?, next()?])
}

/// A number such as `12.34`, in thousandths.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = part.bytes().take(3).map(|b| b.is_ascii_digit().then(|| u64::from(b - b'0')));
    let mut value = number(whole)?;
    let mut left = 3;
    for digit in digits {
        value = value.checked_mul(10)?.checked_add(digit?)?;
        left -= 1;
    }
    value.checked_mul(10u64.pow(left))
}

/// One line of pressure (Documentation/accounting/psi.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stalled {
    /// Share of the last 10 seconds, thousandths of a percent.
    pub avg10: u64,
    /// Of the last minute.
    pub avg60: u64,
    /// Since the start, microseconds.
    pub total_us: u64,
}

/// What `some` or `full` says in a file of pressure.
pub fn pressure(text: &str, which: &str) -> Option<Stalled> {
    let line = lines(text).find_map(|l| l.strip_prefix(which)?.strip_prefix(' '))?;
    let value =
        |name: &str| line.split_ascii_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
    Some(Stalled {
        avg10: thousandths(value("avg10")?)?,
        avg60: thousandths(value("avg60")?)?,
        total_us: number(value("total")?)?,
    })
}

/// Lines of a name and a number, with or without a colon and a unit: `MemTotal: 12 kB`, `nr_throttled 3`.
pub fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    lines(text).filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?.trim_end_matches(':');
        Some((name, number(words.next()?)?))
    })
}

/// The number of a name in such lines.
pub fn value(text: &str, name: &str) -> Option<u64> {
    pairs(text).find(|(n, _)| *n == name).map(|(_, v)| v)
}

/// One processor's row of `/proc/net/softnet_stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Softnet {
    /// Which processor.
    pub cpu: u64,
    /// Packets taken.
    pub taken: u64,
    /// Thrown away, because the backlog was full.
    pub dropped: u64,
    /// Times a run ended with work left, because its time or budget was up.
    pub squeezed: u64,
    /// Thrown away by the limit for one flow.
    pub flow_limited: u64,
}

/// Reads `/proc/net/softnet_stat`: columns of hexadecimal numbers, a row for each processor.
pub fn softnet(text: &str) -> Vec<Softnet> {
    let row = |(n, line): (usize, &str)| {
        let mut columns = [0u64; 13];
        // before Linux 5.10 the processor's number is not there, and rows are in its order
        columns[12] = n as u64;
        for (to, word) in columns.iter_mut().zip(line.split_ascii_whitespace()) {
            *to = u64::from_str_radix(word, 16).ok()?;
        }
        let [taken, dropped, squeezed, _, _, _, _, _, _, _, flow_limited, _, cpu] = columns;
        Some(Softnet { cpu, taken, dropped, squeezed, flow_limited })
    };
    lines(text).enumerate().filter_map(row).collect()
}

impl Softnet {
    /// By how much these grew since `before`. The kernel's are 32 bits wide and go round.
    pub fn since(&self, before: &Softnet) -> Softnet {
        let grown = |now: u64, before: u64| u64::from((now as u32).wrapping_sub(before as u32));
        Softnet {
            cpu: self.cpu,
            taken: grown(self.taken, before.taken),
            dropped: grown(self.dropped, before.dropped),
            squeezed: grown(self.squeezed, before.squeezed),
            flow_limited: grown(self.flow_limited, before.flow_limited),
        }
    }
}

/// The counters of `/proc/net/snmp` or `/proc/net/netstat`: a line of names and one of numbers for each protocol. Gives the
/// protocol with its colon, the name, the number. Numbers may be negative there, and are then left out.
pub fn tables(text: &str) -> Vec<(&str, &str, u64)> {
    let mut found = Vec::new();
    let mut names: Option<(&str, &str)> = None;
    for line in lines(text) {
        let Some((protocol, rest)) = line.split_once(' ') else { continue };
        match names.take() {
            Some((of, header)) if of == protocol => {
                let both = header.split_ascii_whitespace().zip(rest.split_ascii_whitespace());
                found.extend(both.filter_map(|(name, n)| Some((of, name, number(n)?))));
            }
            _ => names = Some((protocol, rest)),
        }
    }
    found
}

/// The sums of the columns of `/proc/net/stat/nf_conntrack`: names, then a row of hexadecimal numbers for each processor.
pub fn columns(text: &str) -> Vec<(&str, u64)> {
    let mut rows = lines(text);
    let names: Vec<&str> = rows.next().unwrap_or("").split_ascii_whitespace().collect();
    let mut sums = vec![0u64; names.len()];
    for row in rows {
        for (sum, word) in sums.iter_mut().zip(row.split_ascii_whitespace()) {
            *sum = sum.saturating_add(u64::from_str_radix(word, 16).unwrap_or(0));
        }
    }
    names.into_iter().zip(sums).collect()
}

/// The interrupts of `/proc/interrupts` with a number: number, and how often on each processor.
pub fn interrupts(text: &str) -> Vec<(u32, Vec<u64>)> {
    let mut rows = lines(text);
    let processors =
        rows.next().unwrap_or("").split_ascii_whitespace().filter(|w| w.starts_with("CPU")).count();
    let row = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let irq = name.trim().parse().ok()?;
        Some((irq, rest.split_ascii_whitespace().take(processors).map_while(number).collect()))
    };
    rows.filter_map(row).collect()
}

/// How many numbers a list such as `0-3,8` has.
pub fn listed(text: &str) -> u64 {
    let of = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(number(to)?.checked_sub(number(from)?)?.saturating_add(1))
    };
    text.trim().split(',').take(LINES_MAX).filter_map(of).fold(0, u64::saturating_add)
}

/// Speed of a PCIe link, megatransfers a second, of a text such as `16.0 GT/s PCIe`.
pub fn transfers(text: &str) -> Option<u64> {
    thousandths(text.split_ascii_whitespace().next()?)
}

/// Where the process is in the unified hierarchy of control groups, of `/proc/<pid>/cgroup`.
pub fn unified(text: &str) -> Option<&str> {
    lines(text).find_map(|l| l.strip_prefix("0::"))
}

/// Where it is in the hierarchy of one controller of the old kind.
pub fn controlled<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    lines(text).find_map(|l| {
        let mut parts = l.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        controllers.split(',').any(|c| c == controller).then(|| parts.next())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn processors_and_their_times() {
        let it = stat(
            "cpu  10 5 20 100 7 3 4 1 0 0\ncpu12 1 2 3 4 5 6 7 8\nctxt 99\nprocs_running 3\nprocesses 7\n",
        );
        assert_eq!(it.all, Times { user: 15, system: 20, idle: 107, irq: 3, softirq: 4, steal: 1 });
        assert_eq!(it.each, [(12, Times { user: 3, system: 3, idle: 9, irq: 6, softirq: 7, steal: 8 })]);
        assert_eq!((it.switches, it.running, it.forks), (99, 3, 7));
    }

    #[test]
    fn pressure_and_load_in_thousandths() {
        let text = "some avg10=1.25 avg60=0.50 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(pressure(text, "some"), Some(Stalled { avg10: 1_250, avg60: 500, total_us: 42 }));
        assert_eq!(pressure(text, "full").map(|s| s.total_us), Some(7));
        assert_eq!(pressure("", "some"), None);
        assert_eq!(load("0.23 12.5 3 1/345 6"), Some([230, 12_500, 3_000]));
        assert_eq!(transfers("16.0 GT/s PCIe"), Some(16_000));
        assert_eq!(transfers("Unknown"), None);
    }

    #[test]
    fn packets_of_each_processor() {
        let text = "0000000a 00000001 00000002 0 0 0 0 0 0 0 00000003 00000004\nzz\n";
        let one = Softnet { cpu: 0, taken: 10, dropped: 1, squeezed: 2, flow_limited: 3 };
        assert_eq!(softnet(text), [one]);
        let high = Softnet { taken: 0xffff_fffe, ..one };
        assert_eq!(one.since(&high), Softnet { taken: 12, dropped: 0, squeezed: 0, flow_limited: 0, cpu: 0 });
        assert_eq!(softnet("1 0 0 0 0 0 0 0 0 0 0 0 7")[0].cpu, 7);
    }

    #[test]
    fn two_lines_make_a_table() {
        let text = "Tcp: A B\nTcp: 1 -1\nUdp: C\nTcp: 5\nUdp: D E\nUdp: 6 7\n";
        assert_eq!(tables(text), [("Tcp:", "A", 1), ("Udp:", "D", 6), ("Udp:", "E", 7)]);
        assert_eq!(columns("entries drop\n1 a\n1 b\n"), [("entries", 2), ("drop", 21)]);
    }

    #[test]
    fn interrupts_lists_and_groups() {
        let text = "      CPU0 CPU1\n 24:  5  6  PCI-MSIX eth0\nNMI: 1 2\n 25: 7 x\n";
        assert_eq!(interrupts(text), [(24, vec![5, 6]), (25, vec![7])]);
        assert_eq!((listed("0-3,8"), listed(""), listed("5-1")), (5, 0, 0));
        let groups = "4:memory:/a/b\n3:cpu,cpuacct:/c:d\n0::/e\n";
        assert_eq!((unified(groups), controlled(groups, "cpuacct")), (Some("/e"), Some("/c:d")));
        assert_eq!(controlled(groups, "cpuset"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,200}", digits in "[0-9a-f :.,\n=-]{0,200}") {
            for t in [text, digits] {
                let _ = (stat(&t), load(&t), pressure(&t, "some"), value(&t, "a"), softnet(&t));
                let _ = (tables(&t), columns(&t), interrupts(&t), listed(&t), transfers(&t));
                let _ = (unified(&t), controlled(&t, "cpu"));
            }
        }
    }
}
