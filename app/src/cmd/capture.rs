//! `selvedge capture`: packets of several hosts at once, without what is in them, as one file ordered by time.

use super::trace::{bar, ended};
use crate::client::HubArgs;
use crate::out;
use agent::tasks::merge::{Input, merge};
use anyhow::{Context, bail};
use hub::GivenView;
use serde_json::json;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const AFTER: &str = "Examples:
  selvedge capture host0 host9 --reason 'inc-12: who resets?' --out both.pcapng
  selvedge capture host0 --reason inc-12 --protocol tcp --port 443 --seconds 30 --out host0.pcapng
  selvedge capture host0 host9 --reason inc-12 --address fd00:0:1::9 --pseudonyms --out share.pcapng

The hosts begin within a second of each other. Headers up to the transport's are kept, never a payload; with --pseudonyms
addresses are replaced by others that keep their networks. A capture ends by itself at its limits, or when the hub asks no
more for it. Who captured what and why stands in table audit. It takes the role operator, and a helper with privileges on
each host (`selvedge sensors`).
Exit codes: 0 every packet that fitted is in the file, 3 some are not, and it says how many, 1 it could not be done.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// Hosts, such as host0 host9
    #[arg(required = true)]
    hosts: Vec<String>,
    /// Where the packets go, a pcapng file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Why; it is written down
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// How long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=300))]
    seconds: u32,
    /// Packets of each host at most
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    packets: u64,
    /// MiB of each host's file at most
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=64))]
    mib: u64,
    /// Only this interface; may be repeated
    #[arg(long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
    /// Only this protocol: tcp, udp, icmp, icmp6, or its number
    #[arg(long, value_parser = protocol)]
    protocol: Option<u32>,
    /// Only packets from or to this address
    #[arg(long, value_name = "ADDRESS")]
    address: Option<std::net::IpAddr>,
    /// Only packets from or to this port
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Replace addresses by pseudonyms that keep their networks
    #[arg(long)]
    pseudonyms: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    hub: HubArgs,
}

fn protocol(text: &str) -> Result<u32, String> {
    match text {
        "icmp" => Ok(1),
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "icmp6" => Ok(58),
        number => match number.parse() {
            Ok(n @ 1..=255) => Ok(n),
            _ => Err("expected tcp, udp, icmp, icmp6, or a number of 1 to 255".to_owned()),
        },
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.hub.client()?;
    // A place that cannot be written is known before anybody captures.
    let beside = args.out.with_extension("partial");
    let file =
        std::fs::File::create(&beside).with_context(|| format!("cannot write {}", beside.display()))?;
    let filtered = args.protocol.is_some() || args.address.is_some() || args.port.is_some();
    let filter = json!({ "protocol": args.protocol.unwrap_or(0), "address": args.address, "port": args.port.unwrap_or(0) });
    let asked = json!({
        "hosts": args.hosts, "reason": args.reason, "seconds": args.seconds, "packets": args.packets,
        "bytes": args.mib << 20, "interfaces": args.interfaces, "pseudonyms": args.pseudonyms,
        "filters": if filtered { vec![filter] } else { Vec::new() },
    });
    let outcome = (|| -> anyhow::Result<_> {
        let given: GivenView = client.post("/api/v1/captures", &asked)?;
        let bar = bar(args.json);
        let tasks = ended(&client, &given.ids, Duration::from_secs(u64::from(args.seconds) + 100), &bar);
        bar.finish_and_clear();
        let (mut files, mut failed, mut lost) = (Vec::new(), Vec::new(), 0);
        for task in tasks? {
            lost += task.lost_packets;
            if task.state == "failed" {
                failed.push(format!("{}: {}", task.host, task.error));
            }
            if task.bytes > 0 {
                files.push((
                    task.host.clone(),
                    client.get_file(&format!("/api/v1/tasks/{}/outcome", task.id))?,
                ));
            }
        }
        if files.is_empty() {
            bail!("nothing was captured: {}", failed.join("; "));
        }
        let inputs: Vec<Input<'_>> = files.iter().map(|(host, bytes)| Input { host, bytes }).collect();
        let mut out = std::io::BufWriter::new(file);
        let merged = merge(&inputs, &mut out)?;
        out.flush().and_then(|()| std::fs::rename(&beside, &args.out)).context("cannot finish the file")?;
        Ok((merged, failed, lost))
    })();
    let (merged, failed, lost) = match outcome {
        Ok(done) => done,
        Err(e) => {
            let _ = std::fs::remove_file(&beside);
            return Err(e);
        }
    };
    let lost = lost.max(merged.dropped);
    if args.json {
        out::json(&json!({
            "file": args.out, "packets": merged.packets, "lost": lost, "left_out": merged.left_out, "failed": failed,
        }))?;
    } else {
        println!("{}: {} packets of {} hosts", args.out.display(), merged.packets, args.hosts.len());
        if lost > 0 {
            println!(
                "{lost} packets that fitted are not in it: the hosts could not keep up, or a limit was reached"
            );
        }
        for what in merged.left_out.iter().chain(&failed) {
            println!("left out: {what}");
        }
    }
    let whole = lost == 0 && failed.is_empty() && merged.left_out.is_empty();
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(out::NOT_WELL) })
}
