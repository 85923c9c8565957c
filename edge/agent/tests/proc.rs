//! The `proc` sensor on a tree of files made here, and on this machine.
// A test may unwrap: a panic there is the report.
#![allow(clippy::unwrap_used)]

use agent::sensors::measure::{Place, Reading};
use agent::sensors::proc::{Device, Proc, Roots};
use kernel::netlink::{Batch, Netlink};
use kernel::{link, netns};
use selvedge_agent as agent;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use wire::{Counter, Nanos};

const SECOND: Nanos = Nanos::from_secs(1);

/// A tree of files, gone when dropped.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Tree {
        Tree(std::env::temp_dir().join(format!("selvedge-proc-{name}-{}", std::process::id())))
    }
    fn write(&self, files: &[(&str, &str)]) {
        for (path, text) in files {
            let at = self.0.join(path);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, text).unwrap();
        }
    }
    fn roots(&self) -> Roots {
        let at = |p: &str| self.0.join(p);
        Roots { proc: at("proc"), net: at("proc/thread-self/net"), sys: at("sys"), cgroup: None }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn found(reading: &Reading) -> Vec<(Counter, u64, u64)> {
    assert!(reading.findings.iter().all(|f| f.place == Place::Host));
    reading.findings.iter().map(|f| (f.counter, f.delta, f.of)).collect()
}

fn value(reading: &Reading, entity: &str, name: &str) -> i64 {
    reading.get(entity, name).unwrap_or_else(|| panic!("no {name} of {entity:?}")).value
}

fn grew(reading: &Reading, entity: &str, name: &str) -> u64 {
    let it = reading.get(entity, name).unwrap_or_else(|| panic!("no {name} of {entity:?}"));
    it.delta.unwrap_or_else(|| panic!("{name} of {entity:?} has no difference"))
}

#[test]
fn a_tree_of_files_becomes_exact_numbers() {
    let tree = Tree::new("exact");
    let device = "sys/bus/pci/devices/0000:65:00.0";
    tree.write(&[
        ("proc/stat", "cpu  100 0 50 800 10 1 20 5\ncpu0 100 0 50 800 10 1 20 5\nctxt 1000\nprocesses 10\nprocs_running 2\nprocs_blocked 1\n"),
        ("proc/loadavg", "1.50 0.75 0.10 2/300 4000\n"),
        ("proc/meminfo", "MemTotal:       1000 kB\nMemAvailable:    400 kB\n"),
        ("proc/pressure/cpu", "some avg10=12.50 avg60=1.00 avg300=0.10 total=1000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
        ("proc/self/cgroup", "4:memory:/app\n2:cpu,cpuacct:/app\n0::/app\n"),
        ("sys/fs/cgroup/app/cpu.stat", "usage_usec 5\nnr_periods 10\nnr_throttled 3\nthrottled_usec 7000\n"),
        ("sys/fs/cgroup/app/memory.current", "2048\n"),
        ("sys/fs/cgroup/app/memory.max", "4096\n"),
        ("sys/fs/cgroup/app/memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=11\n"),
        ("sys/devices/system/node/node0/cpulist", "0-3,8-11\n"),
        ("sys/devices/system/node/node0/numastat", "numa_hit 5\nnuma_miss 2\nnuma_foreign 3\n"),
        ("sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:  100 kB\nNode 0 MemFree:   10 kB\n"),
        ("proc/thread-self/net/softnet_stat", "00000064 00000002 00000001 0 0 0 0 0 0 0 00000001\n0000000a 0 0 0 0 0 0 0 0 0 0\n"),
        ("proc/interrupts", "      CPU0  CPU1\n 40:   30   10  IR-PCI-MSIX mlx5_comp0\n 41:    0   60  IR-PCI-MSIX mlx5_comp1\n 42:  999    0  other\n"),
        (&format!("{device}/current_link_speed"), "16.0 GT/s PCIe\n"),
        (&format!("{device}/max_link_speed"), "32.0 GT/s PCIe\n"),
        (&format!("{device}/current_link_width"), "8\n"),
        (&format!("{device}/max_link_width"), "16\n"),
        (&format!("{device}/numa_node"), "-1\n"),
        (&format!("{device}/aer_dev_correctable"), "RxErr 3\nTOTAL_ERR_COR 4\n"),
        (&format!("{device}/msi_irqs/40"), "msix\n"),
        (&format!("{device}/msi_irqs/41"), "msix\n"),
        ("proc/thread-self/net/snmp", "Tcp: InSegs OutSegs InCsumErrors\nTcp: 100 90 1\nUdp: InDatagrams RcvbufErrors InCsumErrors\nUdp: 50 5 0\n"),
        ("proc/thread-self/net/netstat", "TcpExt: ListenOverflows ListenDrops TCPTimeouts\nTcpExt: 1 2 3\n"),
        ("proc/thread-self/net/snmp6", "Ip6OutNoRoutes   \t4\nUdp6RcvbufErrors 9\n"),
        ("proc/sys/net/netfilter/nf_conntrack_count", "17\n"),
        ("proc/sys/net/netfilter/nf_conntrack_max", "100\n"),
        ("proc/thread-self/net/stat/nf_conntrack", "entries insert_failed drop\n11 1 0\n11 a 0\n"),
    ]);
    let nic = Device { interface: "eth2".into(), bus: "pci".into(), device: "0000:65:00.0".into() };
    let (mut host, mut space) = (Proc::new(tree.roots()), Proc::new(tree.roots()));
    assert_eq!(found(&host.host(SECOND, std::slice::from_ref(&nic))), []);
    assert_eq!(found(&space.namespace(SECOND)), []);
    tree.write(&[
        ("proc/stat", "cpu  130 0 60 850 10 2 27 8\ncpu0 130 0 60 850 10 2 27 8\nctxt 1500\nprocesses 11\nprocs_running 2\nprocs_blocked 1\n"),
        ("proc/pressure/cpu", "some avg10=13.00 avg60=1.00 avg300=0.10 total=1200000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
        ("sys/fs/cgroup/app/cpu.stat", "nr_throttled 5\nthrottled_usec 9000\n"),
        ("proc/thread-self/net/softnet_stat", "000000c8 00000005 00000003 0 0 0 0 0 0 0 00000002\n00000014 0 0 0 0 0 0 0 0 0 0\n"),
        (&format!("{device}/aer_dev_correctable"), "RxErr 3\nTOTAL_ERR_COR 9\n"),
        ("proc/thread-self/net/snmp", "Tcp: InSegs OutSegs InCsumErrors\nTcp: 300 200 3\nUdp: InDatagrams RcvbufErrors InCsumErrors\nUdp: 60 12 1\n"),
        ("proc/thread-self/net/netstat", "TcpExt: ListenOverflows ListenDrops TCPTimeouts\nTcpExt: 1 6 5\n"),
        ("proc/thread-self/net/snmp6", "Ip6OutNoRoutes   \t6\nUdp6RcvbufErrors 90\n"),
        ("proc/thread-self/net/stat/nf_conntrack", "entries insert_failed drop\n11 1 0\n11 c 0\n"),
    ]);
    let it = host.host(SECOND + SECOND, &[nic]);
    assert_eq!(
        found(&it),
        [
            (Counter::CpuPressure, 200_000, 1_000_000),
            // 110 taken, 3 dropped, 1 limited
            (Counter::HostQueueDrop, 4, 114),
        ]
    );
    assert_eq!((grew(&it, "", "cpu_softirq"), grew(&it, "cpu0", "cpu_steal")), (70_000_000, 30_000_000));
    assert_eq!(grew(&it, "cpu0", "cpu_busy"), 480_000_000);
    assert_eq!((grew(&it, "", "context_switches"), value(&it, "", "load_5m")), (500, 750));
    assert_eq!((value(&it, "", "memory_available"), value(&it, "", "pressure_cpu_some_10s")), (409_600, 130));
    assert_eq!((grew(&it, "own", "throttled"), grew(&it, "own", "throttled_time")), (2, 2_000_000));
    assert_eq!((value(&it, "own", "memory_used"), value(&it, "own", "memory_limit")), (2_048, 4_096));
    assert_eq!((value(&it, "node0", "processors"), value(&it, "node0", "memory_free")), (8, 10_240));
    assert_eq!(grew(&it, "node0", "numa_miss"), 0);
    assert_eq!(grew(&it, "", "backlog_squeezed"), 2);
    assert_eq!((value(&it, "eth2", "pcie_speed"), value(&it, "eth2", "pcie_speed_max")), (16_000, 32_000));
    assert_eq!((value(&it, "eth2", "pcie_width"), value(&it, "eth2", "numa_node")), (8, -1));
    assert_eq!(grew(&it, "eth2", "pcie_correctable_errors"), 5);
    assert_eq!((value(&it, "eth2", "interrupts"), value(&it, "eth2", "interrupt_busiest_share")), (100, 700));

    let it = space.namespace(SECOND + SECOND);
    assert_eq!(
        found(&it),
        [
            // 7 datagrams and 4 connections; what UDP over IPv6 lost is the prober's to tell
            (Counter::SocketDrop, 11, 210),
            (Counter::ChecksumError, 3, 210),
        ]
    );
    assert_eq!((grew(&it, "", "tcp_listen_drops"), grew(&it, "", "tcp_timeouts")), (4, 2));
    assert_eq!((grew(&it, "", "ip6_out_no_routes"), grew(&it, "", "udp6_receive_buffer_errors")), (2, 81));
    assert_eq!((value(&it, "", "conntrack_used"), value(&it, "", "conntrack_max")), (17, 100));
    assert_eq!(grew(&it, "", "conntrack_insert_failed"), 2);
}

#[test]
fn missing_and_senseless_files_cost_only_themselves() {
    let tree = Tree::new("odd");
    let none = |mut p: Proc| (p.host(SECOND, &[]).metrics.len(), p.namespace(SECOND).metrics.len());
    assert_eq!(none(Proc::new(tree.roots())), (0, 0));
    tree.write(&[
        ("proc/stat", "cpu\ncpu99999999999 1\n\u{0}\u{fffd}\nctxt x\n"),
        ("proc/pressure/cpu", "some avg10=1 total=99999999999999999999\n"),
        ("proc/thread-self/net/softnet_stat", "zz\n\n"),
        ("proc/thread-self/net/snmp", "Tcp: InSegs\nUdp: 5\nTcp: 7\n"),
        ("proc/interrupts", ": : :\n"),
    ]);
    let bad = Device { interface: "e".into(), bus: "..".into(), device: "../../etc".into() };
    let reading = Proc::new(tree.roots()).host(SECOND, &[bad]);
    assert_eq!(reading.findings, []);
    assert!(reading.get("", "pressure_cpu_some").is_none());
}

fn is_root() -> bool {
    let root = kernel::caps::has(kernel::caps::Capability::CAP_SYS_ADMIN);
    if !root {
        println!("skipped: needs root to make network namespaces");
    }
    root
}

#[test]
fn what_a_namespaces_sockets_could_not_take_is_counted_exactly() {
    if !is_root() {
        return;
    }
    netns::anonymous()
        .unwrap()
        .run(|| {
            let mut batch = Batch::new();
            link::set_up(&mut batch, link::LOOPBACK, true);
            Netlink::route().unwrap().apply(batch).unwrap();
            let mut sensor = Proc::new(Roots::default());
            let full = UdpSocket::bind("127.0.0.1:0").unwrap();
            let from = UdpSocket::bind("127.0.0.1:0").unwrap();
            sensor.namespace(SECOND);
            for _ in 0..2_000 {
                from.send_to(&[7; 1_000], full.local_addr().unwrap()).unwrap();
            }
            full.set_nonblocking(true).unwrap();
            let mut buffer = [0; 2_000];
            let got = std::iter::from_fn(|| full.recv(&mut buffer).ok()).count() as u64;
            let it = sensor.namespace(SECOND + SECOND);
            assert!(got < 2_000, "the buffer should not have held them all");
            let drop = it.findings.iter().find(|f| f.counter == Counter::SocketDrop).unwrap();
            assert_eq!(drop.delta, 2_000 - got);
            assert_eq!(grew(&it, "", "udp_receive_buffer_errors"), 2_000 - got);
            let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            from.send_to(&[1], nobody).unwrap();
            assert_eq!(grew(&sensor.namespace(SECOND + SECOND + SECOND), "", "udp_no_ports"), 1);
        })
        .unwrap();
}

#[test]
fn more_work_than_processors_is_pressure() {
    if !Path::new("/proc/pressure/cpu").exists() {
        println!("skipped: this kernel tells no pressure");
        return;
    }
    let stop = AtomicBool::new(false);
    let threads = 2 * std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let mut sensor = Proc::new(Roots::default());
        let begun = Instant::now();
        let now = || Nanos::from_secs(1) + Nanos(begun.elapsed().as_nanos() as u64);
        sensor.host(now(), &[]);
        let mut waited = 0;
        while waited < 200_000 && begun.elapsed() < Duration::from_secs(30) {
            std::thread::yield_now();
            let it = sensor.host(now(), &[]);
            waited += it
                .findings
                .iter()
                .filter(|f| f.counter == Counter::CpuPressure)
                .map(|f| f.delta)
                .sum::<u64>();
        }
        stop.store(true, Relaxed);
        assert!(waited >= 200_000, "only {waited} µs of waiting were told");
    });
}

#[test]
fn this_machine_says_what_it_is() {
    let mut sensor = Proc::new(Roots::default());
    let it = sensor.host(SECOND, &[]);
    assert!(value(&it, "", "memory_total") > value(&it, "", "memory_available"));
    assert!(it.get("cpu0", "cpu_busy").is_some() && it.get("", "backlog_taken").is_some());
    println!("{} metrics of the host", it.metrics.len());
    for missing in sensor.missing() {
        println!("missing: {missing}");
    }
    assert!(sensor.namespace(SECOND).get("", "tcp_in_segments").is_some());
}
