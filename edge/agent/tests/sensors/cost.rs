//! What sensors cost: each program's time a run, and a connection's throughput with and without them. Run by hand on a quiet
//! machine: `--ignored --nocapture cost`. The figures of record are those of `cargo xtask bench agent`.

use crate::pair::{Pair, can_run, sh};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// Gbit/s of one connection over so long.
fn throughput(pair: &Pair, long: Duration) -> f64 {
    let listener = pair.inside(1).run(|| TcpListener::bind("10.9.0.2:0")).unwrap().unwrap();
    let to = listener.local_addr().unwrap();
    let mut out = pair.inside(0).run(|| TcpStream::connect(to)).unwrap().unwrap();
    let (mut into, _) = listener.accept().unwrap();
    let taker = std::thread::spawn(move || {
        let (mut buffer, mut all) = (vec![0; 1 << 20], 0u64);
        loop {
            match into.read(&mut buffer).unwrap() {
                0 => return all,
                n => all += n as u64,
            }
        }
    });
    let (piece, begun) = (vec![7; 1 << 20], Instant::now());
    while begun.elapsed() < long {
        out.write_all(&piece).unwrap();
    }
    drop(out);
    taker.join().unwrap() as f64 * 8.0 / begun.elapsed().as_secs_f64() / 1e9
}

/// Nanoseconds and runs of each program of this process, so far.
fn programs() -> Vec<(String, u64, u64)> {
    let out = Command::new("bpftool").args(["prog", "show"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let word = |line: &str, name: &str| {
        let mut words = line.split_whitespace().skip_while(|w| *w != name);
        words.nth(1).map(str::to_owned)
    };
    let of = |line: &str| {
        let number = |name| word(line, name).and_then(|w| w.parse::<u64>().ok());
        Some((word(line, "name")?, number("run_time_ns")?, number("run_cnt")?))
    };
    text.lines().filter_map(of).collect()
}

#[test]
#[ignore = "measures; by hand"]
fn cost() {
    if !can_run() {
        return;
    }
    let pair = Pair::without_sensors("cost");
    for n in &pair.names {
        sh(&format!("ip netns exec {n} ethtool -K eth0 tx on rx on tso on gso on gro on >/dev/null"));
    }
    let long = Duration::from_secs(2);
    let (mut off, mut on) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        off.push(throughput(&pair, long));
        let serving = pair.serve(Duration::from_secs(1));
        let watches = [pair.watch(0), pair.watch(1)];
        on.push(throughput(&pair, long));
        drop((watches, serving));
    }
    let middle = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (off, on) = (middle(off), middle(on));
    println!("{off:.2} Gbit/s without, {on:.2} with them: {:+.2} %", (on / off - 1.0) * 100.0);

    let _serving = pair.serve(Duration::from_secs(1));
    let mut watches = [pair.watch(0), pair.watch(1)];
    // One reading in ten is measured.
    for seconds in [2, 10] {
        let used = kernel::process::cpu_ns();
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            std::thread::park_timeout(until - Instant::now());
        }
        let us = (kernel::process::cpu_ns() - used) / 1_000 / seconds;
        println!("{us} µs of processor a second, idle, in {seconds} s");
    }
    watches[0].next();
    println!("µs a second, idle, two namespaces: {:?}", watches[0].costs);
    println!("{} rows of metrics in 12 s, of one of them", watches[0].metrics.len());
    let mut by_sensor = std::collections::BTreeMap::<String, usize>::new();
    watches[0].metrics.iter().for_each(|m| *by_sensor.entry(m.sensor.clone()).or_default() += 1);
    println!("{by_sensor:?}");
    let _measuring = kernel::bpf::measure_programs().unwrap();
    let before = programs();
    let begun = Instant::now();
    let rate = throughput(&pair, Duration::from_secs(8));
    let seconds = begun.elapsed().as_secs_f64();
    println!("measured, at {rate:.2} Gbit/s:");
    for (name, ns, runs) in programs() {
        let was = before.iter().find(|(n, _, _)| *n == name).map_or((0, 0), |(_, ns, runs)| (*ns, *runs));
        let (ns, runs) = (ns - was.0, runs - was.1);
        let Some(each) = ns.checked_div(runs) else { continue };
        let (a_second, us) = (runs as f64 / seconds, ns as f64 / seconds / 1e3);
        println!("{name:24} {each:6} ns, {a_second:9.0} runs and {us:7.0} µs a second");
    }
}
