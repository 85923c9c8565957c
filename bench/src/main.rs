//! Peers of the transport, one at a time: how many gigabits a CPU-second they carry over loopback.
//!
//! How: one process holds both ends, sends `--bytes` through one stream, and counts the processor time of the whole
//! process, the kernel's share for it included. So a noisy machine changes the seconds, and hardly the figure.
//! `iperf3` runs as two child processes, whose time is counted likewise.
//!
//! Absent on purpose: our own transport, which `cargo xtask bench transport` measures beside these by `selvedge bench
//! transfer`; tuning of peers beyond the packet size, windows large enough not to matter, and what each recommends by itself.

mod ceiling;
mod quic;
mod s2n;
mod tcp;
mod tls;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;
use std::time::Instant;

/// Gigabits a CPU-second of other transports over loopback.
#[derive(Parser)]
struct Args {
    /// Which; all of them if not given
    peers: Vec<Peer>,
    /// UDP payload of a packet, bytes; TCP takes no notice
    #[arg(long, default_value_t = 1448)]
    packet_bytes: u16,
    /// Bytes to send
    #[arg(long, default_value_t = 1 << 30)]
    bytes: u64,
}

/// A transport to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// quinn: QUIC
    Quinn,
    /// noq: QUIC, multipath
    Noq,
    /// s2n-quic: QUIC
    S2nQuic,
    /// iperf3 over kernel TCP, no encryption
    Tcp,
    /// Sockets, copies and cipher of our transport, without the protocol
    Ceiling,
}

/// One line of JSON on standard output.
#[derive(Serialize)]
struct Row {
    name: String,
    bytes: u64,
    seconds: f64,
    cpu_s: f64,
    gbit_per_s: f64,
    gbit_per_cpu_s: f64,
}

fn cpu_s(who: UsageWho) -> Result<f64> {
    let u = getrusage(who)?;
    let s = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Ok(s(u.user_time()) + s(u.system_time()))
}

fn main() -> Result<()> {
    let args = Args::parse();
    let peers = if args.peers.is_empty() { Peer::value_variants().to_vec() } else { args.peers.clone() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    for peer in peers {
        let who = if peer == Peer::Tcp { UsageWho::RUSAGE_CHILDREN } else { UsageWho::RUSAGE_SELF };
        let (begin, before) = (Instant::now(), cpu_s(who)?);
        let (packet, bytes) = (args.packet_bytes, args.bytes);
        match peer {
            Peer::Quinn => runtime.block_on(quic::quinn(packet, bytes))?,
            Peer::Noq => runtime.block_on(quic::noq(packet, bytes))?,
            Peer::S2nQuic => runtime.block_on(s2n::run(packet, bytes))?,
            Peer::Tcp => tcp::run(bytes)?,
            Peer::Ceiling => ceiling::run(packet, bytes)?,
        }
        let (seconds, cpu) = (begin.elapsed().as_secs_f64(), cpu_s(who)? - before);
        let gbit = bytes as f64 * 8.0 / 1e9;
        let name = match peer {
            Peer::Quinn => format!("quinn-{packet}"),
            Peer::Noq => format!("noq-{packet}"),
            Peer::S2nQuic => format!("s2n-quic-{packet}"),
            Peer::Tcp => "tcp-plain".to_owned(),
            Peer::Ceiling => format!("ceiling-{packet}"),
        };
        let row = Row {
            name,
            bytes,
            seconds,
            cpu_s: cpu,
            gbit_per_s: gbit / seconds,
            gbit_per_cpu_s: gbit / cpu.max(1e-9),
        };
        println!("{}", serde_json::to_string(&row)?);
    }
    Ok(())
}
