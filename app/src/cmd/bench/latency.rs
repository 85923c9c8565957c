//! `selvedge bench latency`: how long a small message takes there and back, beside plain UDP in the same run.
//!
//! How: one message at a time goes to the other end and comes back. The peer is two threads with blocking UDP sockets,
//! which is the least the kernel asks for: no protocol, no cipher. Rounds of both alternate, so that whatever else the
//! machine does meets both.
//!
//! Absent on purpose: bulk traffic beside it, and TCP.

use super::ends::{self, Pair};
use crate::out;
use anyhow::Context;
use comfy_table::{Table, presets};
use std::net::{Ipv6Addr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Alternations between the two.
const ROUNDS: u64 = 10;
/// A datagram that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Messages there and back, of each kind
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    messages: u64,
    /// Bytes of a message
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    bytes: u64,
    #[command(flatten)]
    ends: ends::Args,
    /// Print figures as JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Row {
    name: &'static str,
    /// Half of the way there and back.
    one_way_p50_us: f64,
    one_way_p99_us: f64,
    /// To plain UDP's.
    ratio_p50: f64,
    ratio_p99: f64,
}

/// Ways there and back, sorted.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn one_way_us(&mut self, share: f64) -> f64 {
        self.0.sort_unstable();
        let at = ((self.0.len() as f64 - 1.0) * share) as usize;
        self.0.get(at).map_or(0.0, |t| t.as_secs_f64() * 1e6 / 2.0)
    }
}

struct Udp {
    socket: UdpSocket,
    thread: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

impl Udp {
    fn new() -> anyhow::Result<Udp> {
        let [socket, other] =
            [UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?, UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?];
        socket.connect(other.local_addr()?)?;
        other.connect(socket.local_addr()?)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let thread = std::thread::spawn(move || {
            let mut buf = [0; 2_048];
            // an empty datagram is the end
            loop {
                match other.recv(&mut buf)? {
                    0 => return Ok(()),
                    n => other.send(&buf[..n])?,
                };
            }
        });
        Ok(Udp { socket, thread: Some(thread) })
    }

    fn round(&self, messages: u64, payload: &[u8], times: &mut Times) -> anyhow::Result<()> {
        let mut buf = [0; 2_048];
        for _ in 0..messages {
            let begin = Instant::now();
            self.socket.send(payload)?;
            self.socket.recv(&mut buf).context("a datagram was lost on the loopback")?;
            times.0.push(begin.elapsed());
        }
        Ok(())
    }
}

impl Drop for Udp {
    fn drop(&mut self) {
        let ended = self.socket.send(&[]).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| ended) {
            // what it could not send back was reported by the waiting end
            let _ = thread.join();
        }
    }
}

async fn measure(args: &Args) -> anyhow::Result<[Row; 2]> {
    let Pair { client, server, .. } = &ends::pair(&args.ends).await?;
    let udp = Udp::new()?;
    let payload = vec![7u8; args.bytes as usize];
    let (mut plain, mut ours) = (Times::default(), Times::default());
    let messages = args.messages.div_ceil(ROUNDS);
    for _ in 0..ROUNDS {
        udp.round(messages, &payload, &mut plain)?;
        let there_and_back = async {
            for _ in 0..messages {
                let begin = Instant::now();
                let (_, back) = tokio::try_join!(client.send(0, payload.clone()), client.receive(0))?;
                ours.0.push(begin.elapsed());
                anyhow::ensure!(back.len() == payload.len(), "{} bytes came back", back.len());
            }
            Ok(())
        };
        let echo = async {
            for _ in 0..messages {
                let got = server.receive(0).await?;
                server.send(0, got).await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(there_and_back, echo)?;
    }
    let (p50, p99) = (plain.one_way_us(0.5), plain.one_way_us(0.99));
    let row = |name, times: &mut Times| {
        let (a, b) = (times.one_way_us(0.5), times.one_way_us(0.99));
        Row { name, one_way_p50_us: a, one_way_p99_us: b, ratio_p50: a / p50, ratio_p99: b / p99 }
    };
    Ok([row("selvedge", &mut ours), row("udp-plain", &mut plain)])
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let rows = ends::runtime()?.block_on(measure(&args))?;
    if args.json {
        out::json(&serde_json::json!({ "rows": rows }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "One way p50, µs", "p99, µs", "p50 to UDP's", "p99 to UDP's"]);
    for r in rows {
        table.add_row([
            r.name.to_owned(),
            format!("{:.1}", r.one_way_p50_us),
            format!("{:.1}", r.one_way_p99_us),
            format!("{:.2}", r.ratio_p50),
            format!("{:.2}", r.ratio_p99),
        ]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}
