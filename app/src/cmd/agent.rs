//! `selvedge agent`: the daemon of a host.

use super::hub::{asked_to_stop, text};
use crate::log;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const AFTER: &str = "Examples:
  selvedge agent --hub https://hub.example:7443 --cert host12.pem --key host12.key --ca ca.pem
  selvedge agent --hub https://127.0.0.1:7443 --netns demo-host12 --cert host12.pem --key host12.key --ca ca.pem

Which host it is, is the common name of its certificate (`selvedge cert host host12`). It asks the hub for the fabric and
its plan, opens its probe sockets (for which it needs root, or CAP_NET_RAW, CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, and with
--netns CAP_SYS_ADMIN), and then gives up every capability. When the hub has another fabric the agent ends with
exit code 1, to be started again by whoever watches over it (systemd: Restart=always).
SIGTERM stops it in order.
The log goes to standard error; SELVEDGE_LOG=debug says more, SELVEDGE_LOG_FORMAT=json says it for machines.
Exit codes: 0 stopped in order, 1 it could not start or go on.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// Where the hub takes agents; several times where a second hub stands by
    #[arg(long = "hub", value_name = "URL", required = true)]
    hubs: Vec<String>,
    /// This host's certificate
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Its key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The authority the hub's certificate comes from
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// Probe from this network namespace; the connection to the hub stays in the current one
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// UDP port of STAMP (RFC 8762), the same on every host
    #[arg(long, value_name = "PORT", default_value_t = 862)]
    stamp_port: u16,
    /// Authenticate probes and answers with the key in this file (32 to 256 hexadecimal digits), the same on every host
    #[arg(long, value_name = "FILE")]
    stamp_key: Option<PathBuf>,
    /// Where processes that use the transport tell what became of their packets; the group may write to it
    #[arg(long, value_name = "PATH", default_value = "/run/selvedge/transport.sock")]
    transport_socket: PathBuf,
    /// Where `selvedge sensors` of this machine is asked
    #[arg(long, value_name = "PATH", default_value = "/run/selvedge/sensors.sock")]
    sensors_socket: PathBuf,
    /// Record everything that goes into probing to a new file, for a report of a fault: `selvedge replay` plays it again
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Stop recording after so many MiB; a busy agent writes about 300 kB a second
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    record_mib: u64,
}

/// A key in hexadecimal. What is wrong with it is said without a word of it.
pub(super) fn key(path: &Path) -> anyhow::Result<Vec<u8>> {
    let text = text(path)?;
    let digits: Option<Vec<u8>> = text.trim().chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    match digits {
        Some(d) if (32..=256).contains(&d.len()) && d.len().is_multiple_of(2) => {
            Ok(d.chunks(2).map(|d| d[0] << 4 | d[1]).collect())
        }
        _ => anyhow::bail!(
            "{} is no key, expected an even number of 32 to 256 hexadecimal digits (`openssl rand -hex 32`)",
            path.display()
        ),
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    log::begin("info");
    let config = agent::Config {
        hubs: args.hubs,
        cert_pem: text(&args.cert)?,
        key_pem: text(&args.key)?,
        ca_pem: text(&args.ca)?,
        netns: args.netns,
        stamp_port: args.stamp_port,
        stamp_key: args.stamp_key.as_deref().map(key).transpose()?,
        transport_socket: Some(args.transport_socket),
        sensors_socket: Some(args.sensors_socket),
        record: args.record.map(|path| agent::RecordTo { path, bytes_max: args.record_mib << 20 }),
        ..agent::Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(agent::run(config, asked_to_stop()))?;
    Ok(ExitCode::SUCCESS)
}
