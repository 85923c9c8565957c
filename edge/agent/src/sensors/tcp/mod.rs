//! `tcp`: every connection, open or ended, in every interval.
//!
//! How: an iterator over the kernel's sockets is read once an interval and namespace; what the numbers were at the reading
//! before is kept here, by the socket's cookie, so that rows hold differences. Why segments were sent again, sampled round
//! trips, and sums over connections that ended come from maps that rare events fill (see `prog.bpf.c`). Which process has
//! a socket is found by its inode in `/proc`, looked for once and only when new sockets came.
//! Invariants: a connection that was there at a reading is in that reading; what was sent again is counted whole whatever
//! its cause; at most [`CONNECTIONS_MAX`] connections are told of in one reading, the busiest first.

mod metrics;
pub use metrics::METRICS;

use super::{Readings, Sensor, SensorError, Span, Watched};
use kernel::bpf::{KernelTypes, Object};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read as _;
use std::time::Duration;
use wire::sensor::{TcpRow, push_tcp};

static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tcp.bpf.o"));

/// Connections of one namespace in one reading.
const CONNECTIONS_MAX: usize = 4_096;
/// Bytes of a row as the program writes it.
const ROW_BYTES: usize = 9 * 8 + 2 * 16 + 36 * 4;
/// Jiffies a second: every kernel says 100 to user space, and counts this by its own.
const BUCKETS: usize = 48;
/// Processes are looked through at most so often.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A row as the program writes it.
#[derive(Clone, Copy, Debug, Default)]
struct Raw {
    sock: u64,
    cookie: u64,
    inode: u64,
    cgroup: u64,
    bytes_acked: u64,
    bytes_received: u64,
    pacing_rate: u64,
    local: [u8; 16],
    remote: [u8; 16],
    local_port: u32,
    remote_port: u32,
    state: u32,
    ca_state: u32,
    srtt_us: u32,
    cwnd: u32,
    mss: u32,
    snd_wnd: u32,
    rcv_wnd: u32,
    unacked: u32,
    unsent: u32,
    unread: u32,
    segs_in: u32,
    segs_out: u32,
    total_retrans: u32,
    dsack_dups: u32,
    rcv_ooopack: u32,
    delivered: u32,
    delivered_ce: u32,
    rate_delivered: u32,
    rate_interval_us: u32,
    chrono: [u32; 3],
}

impl Raw {
    fn read(bytes: &[u8]) -> Option<Raw> {
        let long = |i: usize| -> Option<u64> {
            bytes.get(8 * i..8 * i + 8)?.try_into().ok().map(u64::from_ne_bytes)
        };
        let word = |i: usize| -> Option<u32> {
            let at = 72 + 32 + 4 * i;
            bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
        };
        Some(Raw {
            sock: long(0)?,
            cookie: long(1)?,
            inode: long(2)?,
            cgroup: long(3)?,
            bytes_acked: long(4)?,
            bytes_received: long(5)?,
            pacing_rate: long(8)?,
            local: bytes.get(72..88)?.try_into().ok()?,
            remote: bytes.get(88..104)?.try_into().ok()?,
            local_port: word(0)?,
            remote_port: word(1)?,
            state: word(3)?,
            ca_state: word(4)?,
            srtt_us: word(6)? >> 3,
            cwnd: word(8)?,
            mss: word(9)?,
            snd_wnd: word(10)?,
            rcv_wnd: word(11)?,
            unacked: word(12)?,
            unsent: word(13)?,
            unread: word(14)?,
            segs_in: word(16)?,
            segs_out: word(17)?,
            total_retrans: word(20)?,
            dsack_dups: word(21)?,
            rcv_ooopack: word(23)?,
            delivered: word(24)?,
            delivered_ce: word(25)?,
            rate_delivered: word(27)?,
            rate_interval_us: word(28)?,
            chrono: [word(29)?, word(30)?, word(31)?],
        })
    }
}

/// What a connection had at the reading before.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    raw: Raw,
    causes: [u64; 3],
    seen: u64,
}

/// What the programs counted of sockets, by the kernel's address of each: of all namespaces together.
struct Counted {
    /// Segments sent again: fast, after a time-out, by a probe.
    causes: HashMap<u64, [u64; 3]>,
    /// Sampled round trips since the last reading.
    times: HashMap<u64, [u64; 26]>,
}

/// Who has a socket.
#[derive(Clone, Debug, Default)]
struct Owner {
    pid: u32,
    process: String,
    container: String,
}

/// The sensor.
pub struct Tcp {
    object: Object,
    before: HashMap<(u32, u64), Before>,
    ended: HashMap<[u64; 3], [u64; 6]>,
    owners: HashMap<u64, Owner>,
    looked: Option<std::time::Instant>,
    turn: u64,
    left_out: u64,
    hz: u64,
}

impl Tcp {
    /// Loads its programs.
    pub fn load(types: &KernelTypes) -> Result<Tcp, SensorError> {
        let mut object = Object::load_traced(PROGRAM, types)?;
        object.load_iterator("dump", "tcp", types)?;
        for point in ["tcp_retransmit_skb", "tcp_probe", "inet_sock_set_state"] {
            object.trace(point, point, types)?;
        }
        Ok(Tcp {
            object,
            before: HashMap::new(),
            ended: HashMap::new(),
            owners: HashMap::new(),
            looked: None,
            turn: 0,
            left_out: 0,
            hz: kernel::process::kernel_ticks(),
        })
    }

    /// Every process's sockets, where there are any whose owner is not known.
    fn look_for_owners(&mut self, wanted: &HashSet<u64>) {
        if wanted.is_empty() || self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(std::time::Instant::now());
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
                continue;
            };
            let fds = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
            for fd in fds {
                // What a descriptor is, is its link's text: socket:[12345].
                let Ok(target) = std::fs::read_link(fd.path()) else { continue };
                let inode =
                    target.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
                let Some(inode) = inode.filter(|i| wanted.contains(i)) else { continue };
                self.owners.entry(inode).or_insert_with(|| owner(pid));
            }
        }
        for &inode in wanted {
            // Nobody has it: a socket that is being closed. It is not looked for again.
            self.owners.entry(inode).or_default();
        }
    }

    fn rows(
        &mut self,
        netns: u32,
        span: Span,
        all: &[Raw],
        counted: &Counted,
        reading: &mut wire::proto::SensorReading,
    ) {
        let Counted { causes, times } = counted;
        let mut rows = Vec::with_capacity(all.len());
        for raw in all {
            let key = (netns, raw.cookie);
            let known = self.before.get(&key).copied();
            let was = known.unwrap_or_default();
            let now = causes.get(&raw.sock).copied().unwrap_or_default();
            self.before.insert(key, Before { raw: *raw, causes: now, seen: self.turn });
            let since = |now: u32, before: u32| u64::from(now.wrapping_sub(before));
            let cause = |i: usize| now.get(i).zip(was.causes.get(i)).map_or(0, |(n, b)| n.saturating_sub(*b));
            let jiffies = |i: usize| {
                let (n, b) = (raw.chrono.get(i), was.raw.chrono.get(i));
                n.zip(b).map_or(0, |(n, b)| since(*n, *b) * 1_000_000 / self.hz)
            };
            let (rtt, samples) = times.get(&raw.sock).map_or(([0; 3], 0), round_trips);
            let owner = self.owners.get(&raw.inode).cloned().unwrap_or_default();
            let rate = match raw.rate_interval_us {
                0 => 0,
                us => u64::from(raw.rate_delivered) * u64::from(raw.mss) * 1_000_000 / u64::from(us),
            };
            let closed = u32::from(raw.snd_wnd == 0 && raw.unsent > 0) | u32::from(raw.rcv_wnd == 0) << 1;
            rows.push(TcpRow {
                window_start_ns: span.start.0,
                window_length_us: span.length_us(),
                local: raw.local.to_vec(),
                remote: raw.remote.to_vec(),
                local_port: raw.local_port,
                remote_port: raw.remote_port,
                pid: owner.pid,
                process: owner.process,
                cgroup: raw.cgroup,
                container: owner.container,
                state: raw.state,
                ca_state: raw.ca_state,
                rtt_min_us: rtt[0],
                rtt_p50_us: rtt[1],
                rtt_max_us: rtt[2],
                rtt_samples: samples,
                srtt_us: raw.srtt_us,
                retrans: since(raw.total_retrans, was.raw.total_retrans),
                retrans_fast: cause(0),
                retrans_timeout: cause(1),
                retrans_probe: cause(2),
                retrans_spurious: since(raw.dsack_dups, was.raw.dsack_dups),
                out_of_order: since(raw.rcv_ooopack, was.raw.rcv_ooopack),
                zero_window: closed,
                bytes_acked: raw.bytes_acked.saturating_sub(was.raw.bytes_acked),
                bytes_received: raw.bytes_received.saturating_sub(was.raw.bytes_received),
                segs_out: since(raw.segs_out, was.raw.segs_out),
                segs_in: since(raw.segs_in, was.raw.segs_in),
                delivered: since(raw.delivered, was.raw.delivered),
                delivered_ce: since(raw.delivered_ce, was.raw.delivered_ce),
                delivery_rate: rate,
                pacing_rate: raw.pacing_rate,
                cwnd: raw.cwnd,
                unacked: raw.unacked,
                unsent: raw.unsent,
                unread: raw.unread,
                busy_us: jiffies(0) + jiffies(1) + jiffies(2),
                rwnd_limited_us: jiffies(1),
                sndbuf_limited_us: jiffies(2),
                ..TcpRow::default()
            });
        }
        if rows.len() > CONNECTIONS_MAX {
            rows.sort_by_key(|r| std::cmp::Reverse((r.retrans, r.segs_out + r.segs_in)));
            self.left_out += (rows.len() - CONNECTIONS_MAX) as u64;
            rows.truncate(CONNECTIONS_MAX);
        }
        let to = reading.tcp.get_or_insert_default();
        rows.into_iter().for_each(|r| push_tcp(to, r));
    }

    /// Connections that ended since the last reading, together by peer and port.
    fn ended(&mut self, span: Span, out: &mut Readings) -> Result<(), SensorError> {
        for (key, now) in self.object.summed::<3, 6>("ended")? {
            let before = self.ended.insert(key, now).unwrap_or_default();
            let since = |i: usize| now.get(i).zip(before.get(i)).map_or(0, |(n, b)| n.wrapping_sub(*b));
            if since(0) == 0 {
                // Idle entries make room; one that ends in this very moment is lost, and it is one of thousands.
                if self.turn.is_multiple_of(60) {
                    self.ended.remove(&key);
                    let _ = self.object.remove_summed::<3, 6>("ended", &key);
                }
                continue;
            }
            let [a, b, ports] = key.map(u64::to_ne_bytes);
            let (netns, port) = ports.split_at(4);
            let word = |b: &[u8]| b.try_into().map_or(0, u32::from_ne_bytes);
            let Some(reading) = out.get_mut(&word(netns)) else { continue };
            push_tcp(
                reading.tcp.get_or_insert_default(),
                TcpRow {
                    window_start_ns: span.start.0,
                    window_length_us: span.length_us(),
                    local: vec![0; 16],
                    remote: [a, b].concat(),
                    remote_port: word(port),
                    connections: u32::try_from(since(0)).unwrap_or(u32::MAX),
                    failed: u32::try_from(since(1)).unwrap_or(u32::MAX),
                    state: 7,
                    bytes_acked: since(2),
                    bytes_received: since(3),
                    segs_out: since(4),
                    retrans: since(5),
                    ..TcpRow::default()
                },
            );
        }
        Ok(())
    }
}

fn owner(pid: u32) -> Owner {
    let read = |what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
    let process: String = read("comm").trim_end().chars().take(16).collect();
    Owner { pid, process, container: container(&read("cgroup")).unwrap_or_default() }
}

/// The container a process is in, by the path of its cgroup: 64 hexadecimal digits, as containerd, CRI-O and Docker name
/// them, whatever stands around.
fn container(cgroup: &str) -> Option<String> {
    cgroup.split(['/', '-', '.', ':', '\n']).rev().find_map(|part| {
        let hex = part.len() == 64 && part.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| part.chars().take(12).collect())
    })
}

/// Smallest, median and largest of sampled round trips, and how many there were.
fn round_trips(words: &[u64; 26]) -> ([u32; 3], u32) {
    let half = |i: usize| -> u32 {
        let word = words.get(i / 2).copied().unwrap_or(0).to_ne_bytes();
        let part = word.get(4 * (i % 2)..4 * (i % 2) + 4);
        part.and_then(|p| p.try_into().ok()).map_or(0, u32::from_ne_bytes)
    };
    let (min, max, count) = (half(0), half(1), half(2));
    let (mut sum, mut p50) = (0, max);
    for b in 0..BUCKETS {
        sum += half(4 + b);
        if sum * 2 >= count {
            p50 = middle(b as u32);
            break;
        }
    }
    ([min, p50.clamp(min, max), max], count)
}

/// The middle of a bucket, microseconds: below 4 each number is one, then there are four an octave.
fn middle(bucket: u32) -> u32 {
    if bucket < 4 {
        return bucket;
    }
    let octave = bucket / 4 + 1;
    let width = 1u32 << (octave - 2);
    (1 << octave) + (bucket % 4) * width + width / 2
}

impl Sensor for Tcp {
    fn read(&mut self, span: Span, watched: &Watched, out: &mut Readings) -> Result<(), SensorError> {
        self.turn += 1;
        let mut raws: BTreeMap<u32, Vec<Raw>> = BTreeMap::new();
        let mut wanted = HashSet::new();
        for (&number, netns) in watched {
            let mut bytes = Vec::new();
            let file = netns.run(|| self.object.iterate("dump"))??;
            let read = std::io::Read::take(file, 64 << 20).read_to_end(&mut bytes);
            read.map_err(|e| SensorError::File {
                path: "iterator over TCP".to_owned(),
                reason: e.to_string(),
            })?;
            let all: Vec<Raw> = bytes.chunks_exact(ROW_BYTES).filter_map(Raw::read).collect();
            wanted.extend(all.iter().map(|r| r.inode).filter(|i| *i > 0 && !self.owners.contains_key(i)));
            raws.insert(number, all);
        }
        self.look_for_owners(&wanted);
        let causes = self.object.entries::<1, 4>("retransmits")?;
        let times = self.object.drain::<1, 26>("round_trips")?;
        let counted = Counted {
            causes: causes
                .into_iter()
                .map(|([sock], [fast, timeout, probe, _])| (sock, [fast, timeout, probe]))
                .collect(),
            times: times.into_iter().map(|([sock], t)| (sock, t)).collect(),
        };
        for (number, all) in &raws {
            if let Some(reading) = out.get_mut(number) {
                self.rows(*number, span, all, &counted, reading);
            }
        }
        self.ended(span, out)?;
        let (turn, inodes): (u64, HashSet<u64>) =
            (self.turn, raws.values().flatten().map(|r| r.inode).collect());
        self.before.retain(|_, b| b.seen == turn);
        self.owners.retain(|inode, _| inodes.contains(inode));
        Ok(())
    }

    fn kernel_cost(&self) -> (Duration, u64) {
        self.object.cost()
    }

    fn lost(&self) -> u64 {
        self.object.total("lost").unwrap_or(0) + self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_found_in_the_buckets() {
        // as the program sorts them
        let bucket = |us: u32| if us < 4 { us } else { (us.ilog2() - 1) * 4 + (us >> (us.ilog2() - 2) & 3) };
        for us in [0, 1, 3, 4, 5, 7, 8, 100, 1_000, 33_333, 1_000_000] {
            let m = middle(bucket(us));
            assert!(m.abs_diff(us) * 8 <= us.max(1), "{us} is taken for {m}");
        }
        let mut words = [0u32; 52];
        words[0] = 90;
        words[1] = 2_000;
        words[2] = 3;
        for us in [90, 100, 2_000] {
            words[4 + bucket(us) as usize] += 1;
        }
        let mut packed = [0u64; 26];
        for (i, w) in words.iter().enumerate() {
            let mut b = packed[i / 2].to_ne_bytes();
            b[4 * (i % 2)..4 * (i % 2) + 4].copy_from_slice(&w.to_ne_bytes());
            packed[i / 2] = u64::from_ne_bytes(b);
        }
        let ([min, p50, max], n) = round_trips(&packed);
        assert_eq!((min, max, n), (90, 2_000, 3));
        assert!((90..=112).contains(&p50), "{p50}");
    }

    #[test]
    fn containers_are_known_by_their_cgroup() {
        let id = "0123456789abcdef".repeat(4);
        for text in [
            format!("0::/system.slice/docker-{id}.scope\n"),
            format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope\n"),
            format!("0::/docker/{id}\n"),
        ] {
            assert_eq!(container(&text).as_deref(), Some("0123456789ab"), "{text}");
        }
        assert_eq!(container("0::/user.slice/session-3.scope\n"), None);
    }
}
