//! `selvedge bench transfer`: messages from one endpoint to another, how fast and at what cost.
//!
//! How: both endpoints are in this process and talk over the loopback, with certificates made for this run. The
//! processor time is the whole process's, the kernel's share included: both ends, cipher, copies and the protocol. So
//! another busy program changes the seconds and hardly the gigabits a CPU-second.
//!
//! Absent on purpose: other transports, which `cargo xtask bench transport` measures beside this.

use super::ends::{self, Pair};
use crate::out;
use anyhow::ensure;
use comfy_table::{Table, presets};
use kernel::process::cpu_ns;
use std::process::ExitCode;
use std::time::Instant;

/// Messages on their way at once: enough that the sender never waits for the application.
const UNDER_WAY: usize = 8;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// MiB to send
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    mebibytes: u64,
    /// KiB of a message
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    message_kibibytes: u64,
    #[command(flatten)]
    ends: ends::Args,
    /// Print figures as JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Row {
    name: String,
    bytes: u64,
    seconds: f64,
    cpu_s: f64,
    gbit_per_s: f64,
    gbit_per_cpu_s: f64,
    packets: u64,
    packets_lost: u64,
    cipher: String,
}

async fn transfer(args: &Args) -> anyhow::Result<Row> {
    let Pair { client, server, .. } = &ends::pair(&args.ends).await?;
    let size = (args.message_kibibytes << 10) as usize;
    let messages = (args.mebibytes << 20).div_ceil(size as u64);
    let payload: Vec<u8> = (0..size).map(|i| (i * 7 + i / 251) as u8).collect();
    let (begin, before) = (Instant::now(), cpu_ns());
    // Lane `l` sends messages l, l + UNDER_WAY, … one after the other, each under its own number as tag.
    let lane = async |l: u64| -> anyhow::Result<()> {
        for tag in (l..messages).step_by(UNDER_WAY) {
            client.send(tag, payload.clone()).await?;
        }
        Ok(())
    };
    let receive = async {
        for tag in 0..messages {
            let got = server.receive(tag).await?;
            ensure!(got.len() == size, "message {tag} arrived with {} of {size} bytes", got.len());
            // one look a message: comparing every byte would be measured too
            ensure!(
                got.first() == payload.first() && got.last() == payload.last(),
                "message {tag} arrived damaged"
            );
        }
        Ok(())
    };
    let lanes = async {
        tokio::try_join!(lane(0), lane(1), lane(2), lane(3), lane(4), lane(5), lane(6), lane(7)).map(|_| ())
    };
    tokio::try_join!(lanes, receive)?;
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), (cpu_ns() - before) as f64 / 1e9);
    let counters = client.counters().await?;
    let bytes = messages * size as u64;
    let gbit = bytes as f64 * 8.0 / 1e9;
    let kind = if args.ends.trusted { "selvedge-trusted" } else { "selvedge" };
    Ok(Row {
        name: format!("{kind}-{}", args.ends.packet_bytes),
        bytes,
        seconds,
        cpu_s: cpu,
        gbit_per_s: gbit / seconds,
        gbit_per_cpu_s: gbit / cpu,
        packets: counters.machine.sent,
        packets_lost: counters.machine.lost,
        cipher: format!("{:?}", client.cipher()),
    })
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let row = ends::runtime()?.block_on(transfer(&args))?;
    if args.json {
        out::json(&serde_json::json!({ "rows": [row] }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "Gbit/s", "Gbit per CPU second", "CPU s", "Packets", "Lost", "Cipher"]);
    table.add_row([
        row.name,
        format!("{:.2}", row.gbit_per_s),
        format!("{:.2}", row.gbit_per_cpu_s),
        format!("{:.2} of {:.2}", row.cpu_s, row.seconds),
        row.packets.to_string(),
        row.packets_lost.to_string(),
        row.cipher,
    ]);
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}
