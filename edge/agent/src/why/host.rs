//! Processes: who owns a socket, and whether they got the processor when they wanted it.
//!
//! How: `/proc/PID/fd` names sockets by inode; `/proc/PID/task/TID/schedstat` tells, for each thread, time on a processor
//! and time it could have run and had none; the control group's `cpu.stat` tells how long a quota held it back, looked up
//! in both hierarchies and in every group above, since a quota there holds it back too.
//!
//! Invariants: a process that is gone in between is left out; at most [`THREADS_MAX`] threads of each are read.

use super::facts::ProcessFacts;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{read_dir, read_link, read_to_string};

/// Threads read of one process.
const THREADS_MAX: usize = 512;

/// The owners of these inodes; of several that share one, that with the lowest number. A host's every descriptor is looked
/// at until all are found.
pub(super) fn owners(inodes: &BTreeSet<u32>) -> BTreeMap<u32, u32> {
    let mut found = BTreeMap::new();
    let mut pids: Vec<u32> = numbers("/proc").collect();
    pids.sort_unstable();
    for pid in pids {
        if found.len() == inodes.len() {
            break;
        }
        for inode in sockets_of(pid).filter(|inode| inodes.contains(inode)) {
            found.entry(inode).or_insert(pid);
        }
    }
    found
}

/// Inodes of the sockets a process has.
pub(super) fn sockets_of(pid: u32) -> impl Iterator<Item = u32> {
    let entries = read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    entries.filter_map(|e| {
        let to = read_link(e.ok()?.path()).ok()?;
        to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

fn numbers(dir: &str) -> impl Iterator<Item = u32> {
    read_dir(dir).into_iter().flatten().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
}

/// A process at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Moment {
    name: String,
    state: char,
    /// Time on a processor and time waiting for one, ns, by thread.
    threads: BTreeMap<u32, (u64, u64)>,
    cgroup: String,
    /// ns held back, and periods with that of all periods, by group from the process's own upwards.
    throttled: Vec<(u64, u64, u64)>,
}

/// Looks at a process; none where there is none.
pub(super) fn look(pid: u32) -> Option<Moment> {
    let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, after) = stat.rsplit_once(')')?;
    let mut moment = Moment {
        name: before.split_once('(')?.1.chars().take(16).collect(),
        state: after.trim_start().chars().next()?,
        ..Moment::default()
    };
    for tid in numbers(&format!("/proc/{pid}/task")).take(THREADS_MAX) {
        let text = read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).unwrap_or_default();
        let mut words = text.split_whitespace().map_while(|w| w.parse().ok());
        if let (Some(cpu), Some(delay)) = (words.next(), words.next()) {
            moment.threads.insert(tid, (cpu, delay));
        }
    }
    let groups = read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    (moment.cgroup, moment.throttled) = throttled(&groups);
    Some(moment)
}

/// The group's name and what its quotas and those above held back.
fn throttled(groups: &str) -> (String, Vec<(u64, u64, u64)>) {
    const ROOTS_V2: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    const ROOTS_V1: [&str; 2] = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"];
    let (mut name, mut all) = (String::new(), Vec::new());
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let roots = match controllers {
            "" => ROOTS_V2,
            c if c.split(',').any(|c| c == "cpu") => ROOTS_V1,
            _ => continue,
        };
        if path.len() > name.len() {
            name = path.to_string();
        }
        let mut at = path;
        // from the group upwards; the root has no quota
        while at.len() > 1 {
            let stat = roots.iter().find_map(|root| read_to_string(format!("{root}{at}/cpu.stat")).ok());
            all.extend(stat.as_deref().map(parse_cpu_stat));
            at = at.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }
    (name, all)
}

/// Both the spelling of version 1 (ns) and that of version 2 (µs).
fn parse_cpu_stat(text: &str) -> (u64, u64, u64) {
    let mut out = (0, 0, 0);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(Ok(n))) = (words.next(), words.next().map(str::parse::<u64>)) else { continue };
        match name {
            "throttled_time" => out.0 = n,
            "throttled_usec" => out.0 = n.saturating_mul(1_000),
            "nr_throttled" => out.1 = n,
            "nr_periods" => out.2 = n,
            _ => {}
        }
    }
    out
}

/// What happened to a process between two looks.
pub(super) fn between(pid: u32, before: &Moment, after: &Moment) -> ProcessFacts {
    let mut facts = ProcessFacts {
        pid,
        name: after.name.clone(),
        state: after.state,
        threads: after.threads.len() as u32,
        cgroup: after.cgroup.clone(),
        ..ProcessFacts::default()
    };
    for (tid, (cpu, delay)) in &after.threads {
        let (cpu_before, delay_before) = before.threads.get(tid).copied().unwrap_or_default();
        let (cpu, delay) = (cpu.saturating_sub(cpu_before), delay.saturating_sub(delay_before));
        facts.cpu_ns = facts.cpu_ns.saturating_add(cpu);
        if delay >= facts.waiter_delay_ns {
            (facts.waiter_cpu_ns, facts.waiter_delay_ns) = (cpu, delay);
        }
    }
    for (now, was) in after.throttled.iter().zip(&before.throttled) {
        let by = (now.0.saturating_sub(was.0), now.1.saturating_sub(was.1), now.2.saturating_sub(was.2));
        if by.0 >= facts.throttled_ns {
            facts.throttled_ns = by.0;
            facts.throttled_periods = (by.1, by.2);
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_process_is_found_by_its_socket() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode: u32 = link
            .to_str()
            .unwrap()
            .strip_prefix("socket:[")
            .unwrap()
            .strip_suffix(']')
            .unwrap()
            .parse()
            .unwrap();
        let own = std::process::id();
        assert!(sockets_of(own).any(|i| i == inode));
        assert_eq!(owners(&BTreeSet::from([inode])), BTreeMap::from([(inode, own)]));
        let moment = look(own).unwrap();
        assert!(!moment.threads.is_empty() && !moment.name.is_empty(), "{moment:?}");
        assert!(look(u32::MAX).is_none());
    }

    #[test]
    fn both_spellings_of_a_quota_are_read() {
        let v1 = "nr_periods 10\nnr_throttled 4\nthrottled_time 5000\n";
        let v2 = "usage_usec 9\nnr_periods 10\nnr_throttled 4\nthrottled_usec 5\n";
        assert_eq!(parse_cpu_stat(v1), (5_000, 4, 10));
        assert_eq!(parse_cpu_stat(v2), (5_000, 4, 10));
        assert_eq!(parse_cpu_stat("nonsense"), (0, 0, 0));
        assert_eq!(throttled("0::/\n1:cpu:/\n").1, []);
    }

    #[test]
    fn the_thread_that_waits_longest_speaks_for_its_process() {
        let moment =
            |a, b| Moment { threads: BTreeMap::from([(1, a), (2, b)]), state: 'R', ..Moment::default() };
        let facts = between(1, &moment((10, 5), (0, 0)), &moment((30, 6), (5, 90)));
        assert_eq!((facts.cpu_ns, facts.waiter_cpu_ns, facts.waiter_delay_ns), (25, 5, 90));
    }
}
