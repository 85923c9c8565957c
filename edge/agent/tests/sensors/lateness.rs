//! A host that is late, seen from the outside: threads that packets wake, soft interrupts, queues, and sockets nobody reads.

use crate::pair::{Pair, Watch, can_run, sh};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wire::Counter;

/// The number of this thread.
fn me() -> String {
    let link = std::fs::read_link("/proc/thread-self").unwrap();
    link.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Threads that do nothing but use the first processor; ended when dropped.
struct Hogs(Arc<AtomicBool>, Vec<JoinHandle<()>>);

impl Hogs {
    fn start(n: usize) -> Hogs {
        let stop = Arc::new(AtomicBool::new(false));
        let hog = |_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                sh(&format!("taskset -pc 0 {} >/dev/null", me()));
                while !stop.load(Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        Hogs(Arc::clone(&stop), (0..n).map(hog).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
        for hog in self.1.drain(..) {
            let _ = hog.join();
        }
    }
}

/// Receives, whatever interrupts it: with a time-out nothing begins it anew.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> usize {
    loop {
        match socket.recv(buffer) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other.unwrap(),
        }
    }
}

/// Late and all wake-ups of an echoing thread on side 1 over some round trips, and the median of the late ones.
fn wakes(pair: &Pair, watch: &mut Watch, rank: &str) -> (u64, u64, u64) {
    let inside = pair.inside(1);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let rank = rank.to_owned();
    let echo = std::thread::spawn(move || {
        inside
            .run(|| {
                sh(&rank.replace("ME", &me()));
                let socket = UdpSocket::bind("10.9.0.2:7100").unwrap();
                ready.send(()).unwrap();
                let mut buffer = [0; 8];
                loop {
                    let (n, from) = socket.recv_from(&mut buffer).unwrap();
                    if n == 0 {
                        return;
                    }
                    socket.send_to(&buffer[..n], from).unwrap();
                }
            })
            .unwrap();
    });
    is_ready.recv().unwrap();
    watch.next();
    watch.findings.clear();
    let socket = pair.inside(0).run(|| UdpSocket::bind("10.9.0.1:0")).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Of the whole kernel's wake-ups not each may be looked at.
    for n in 0..500u32 {
        socket.send_to(&n.to_be_bytes(), "10.9.0.2:7100").unwrap();
        assert_eq!(receive(&socket, &mut [0; 8]), 4);
        if n % 4 == 0 {
            watch.next();
            if watch.found(Counter::RunQueueLate).1 >= 16 {
                break;
            }
        }
    }
    socket.send_to(&[], "10.9.0.2:7100").unwrap();
    echo.join().unwrap();
    let of = watch.findings.iter().filter(|f| f.counter == Counter::RunQueueLate as u32);
    of.fold((0, 0, 0), |(late, all, size), f| (late + f.delta, all + f.of, size.max(f.size_ns)))
}

#[test]
fn a_receiver_beside_hogs_is_late_and_a_free_one_is_not() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("late");
    let mut watch = pair.watch(1);
    let free = wakes(&pair, &mut watch, "renice -n -20 -p ME >/dev/null");
    let starved = {
        let _hogs = Hogs::start(4);
        // One that mostly sleeps is let before hogs of its own rank.
        wakes(&pair, &mut watch, "taskset -pc 0 ME >/dev/null; renice -n 19 -p ME >/dev/null")
    };
    println!("late, woken, median of the late (ns): free {free:?}, beside hogs {starved:?}");
    // A thread that was awake already when the packet came is not woken.
    assert!(free.1 >= 10 && starved.1 >= 10, "{free:?} {starved:?}");
    let share = |(late, all, _): (u64, u64, u64)| late as f64 / all as f64;
    // Other programs of this machine may let it run early now and then.
    assert!(share(starved) > 0.2, "{starved:?}");
    assert!(share(free) < share(starved) / 2.0, "{free:?} {starved:?}");
    assert!(starved.2 >= 1_000_000 && starved.2 < 1_000_000_000);
}

#[test]
fn data_waits_in_a_socket_until_it_is_read() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("unread");
    let mut watch = pair.watch(1);
    let into = pair.inside(1).run(|| UdpSocket::bind("10.9.0.2:7101")).unwrap().unwrap();
    let from = pair.inside(0).run(|| UdpSocket::bind("10.9.0.1:0")).unwrap().unwrap();
    let told = |w: &Watch| w.metrics.iter().find(|m| m.name == "unread_max_ns").map(|m| m.value);
    // Of what comes for all the kernel's sockets not each may be looked at.
    for _ in 0..50 {
        from.send_to(&[1], "10.9.0.2:7101").unwrap();
        let begun = Instant::now();
        into.peek(&mut [0]).unwrap();
        watch.next();
        let waited = begun.elapsed();
        into.recv(&mut [0]).unwrap();
        let longest = begun.elapsed();
        watch.next();
        watch.next();
        let Some(max) = told(&watch) else { continue };
        // It came a little before it was looked at; the largest is rounded up to its bucket's end, a quarter of an octave.
        assert!(max >= waited.as_nanos() as f64, "{max} of {waited:?}");
        assert!(max <= 1.3 * (longest + Duration::from_millis(50)).as_nanos() as f64, "{max} of {longest:?}");
        assert_eq!(watch.grew("", "unread_runs"), 1.0);
        return;
    }
    panic!("none of fifty was seen");
}

#[test]
fn packets_wait_in_a_queue_that_is_too_slow() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("queue");
    let mut watch = pair.watch(0);
    // 1,042 bytes at 1 Mbit/s are 8.3 ms; the bucket holds two.
    sh(&format!("tc -n {} qdisc add dev eth0 root tbf rate 1mbit burst 2100 limit 100000", pair.names[0]));
    let into = pair.inside(1).run(|| UdpSocket::bind("10.9.0.2:7102")).unwrap().unwrap();
    let from = pair.inside(0).run(|| UdpSocket::bind("10.9.0.1:0")).unwrap().unwrap();
    into.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let max = |w: &Watch| {
        let told = w.metrics.iter().filter(|m| m.name == "qdisc_max_ns").map(|m| m.value);
        told.fold(0.0, f64::max)
    };
    // Of all the kernel's packets not each may be looked at, and it is the last that wait longest.
    for _ in 0..20 {
        let begun = Instant::now();
        for _ in 0..20 {
            from.send_to(&[1; 1_000], "10.9.0.2:7102").unwrap();
        }
        for _ in 0..20 {
            receive(&into, &mut [0; 1_000]);
        }
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(140), "{took:?}");
        watch.next();
        watch.next();
        assert!(max(&watch) <= 1.3 * took.as_nanos() as f64, "{} of {took:?}", max(&watch));
        if max(&watch) >= 100e6 {
            return;
        }
        watch.metrics.clear();
    }
    panic!("none of four hundred waited 100 ms");
}

#[test]
fn packets_are_soft_interrupts() {
    if !can_run() {
        return;
    }
    let pair = Pair::up("softirq");
    let mut watch = pair.watch(1);
    let into = pair.inside(1).run(|| UdpSocket::bind("10.9.0.2:7103")).unwrap().unwrap();
    let from = pair.inside(0).run(|| UdpSocket::bind("10.9.0.1:0")).unwrap().unwrap();
    for n in 0..500u32 {
        from.send_to(&n.to_be_bytes(), "10.9.0.2:7103").unwrap();
        into.recv(&mut [0; 8]).unwrap();
    }
    let late = |w: &Watch| w.found(Counter::SoftirqLate);
    watch.until(|w| late(w).1 >= 100);
    let (late, all, told) = late(&watch);
    assert!(all >= 100 && late <= all && told > 0, "{late} of {all} in {told}");
    assert!(watch.grew("", "softirq_run_time_ns") > 0.0 && watch.grew("", "softirq_late_time_ns") > 0.0);
}
