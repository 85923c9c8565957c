//! `selvedge sensors`: the one process of a machine that counts in its kernel, and tells agents and people of it.

use crate::log;
use agent::sensors::serve::{Config, serve};
use agent::sensors::{Kind, chosen};
use kernel::caps::{Capability, keep_only};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const AFTER: &str = "Examples:
  selvedge sensors
  selvedge sensors --socket /run/selvedge/sensors.sock --every 1s

Programs are loaded into the kernel once, however many agents run on it; an agent asks on the socket and hears of its own
network namespace only. It needs root, or CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN (to enter network
namespaces), CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (to name the processes of sockets) and CAP_SYSLOG (to name functions of
the kernel); everything else it gives up. What this kernel does not allow is said at the start, with what it costs. SIGTERM
stops it in order.
Exit codes: 0 stopped in order, 1 it could not start.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// Where agents ask; the group of its directory may
    #[arg(long, value_name = "PATH", default_value = "/run/selvedge/sensors.sock")]
    socket: PathBuf,
    /// How often sensors are read
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = every)]
    every: Duration,
    /// Which sensors run, such as tcp,drops, or all. delay and flows look at packets one by one, which a saturated
    /// connection feels; they run where they are named
    #[arg(long, value_name = "LIST", default_value = "tcp,drops,nic,proc", value_parser = sensors)]
    sensors: Chosen,
    /// Write the names of the sensors that run here once serving, as JSON
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// The sensors of a list.
#[derive(Clone)]
struct Chosen(Vec<&'static Kind>);

fn sensors(list: &str) -> Result<Chosen, String> {
    chosen(list).map(Chosen)
}

fn every(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(d) if (Duration::from_millis(200)..=Duration::from_secs(60)).contains(&d) => Ok(d),
        _ => Err("expected a time between 200ms and 60s".to_owned()),
    }
}

/// To load programs and read their maps; to enter network namespaces and have programs measured; to capture; to name
/// the processes of sockets, and the functions of the kernel.
const NEEDED: [Capability; 8] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_SYSLOG,
];

static STOP: AtomicBool = AtomicBool::new(false);

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    log::begin("info");
    // Before there is another thread: each would keep its own.
    keep_only(&NEEDED)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(super::hub::asked_to_stop());
        STOP.store(true, Ordering::Relaxed);
    });
    let config = Config { socket: args.socket.clone(), interval: args.every, sensors: args.sensors.0 };
    serve(
        &config,
        |names| {
            tracing::info!(sensors = names.join(" "), socket = %args.socket.display(), "sensors run");
            if let Some(file) = &args.ready_file
                && let Err(e) = std::fs::write(file, format!("{}\n", serde_json::json!({ "sensors": names })))
            {
                tracing::error!("cannot write {}: {e}", file.display());
            }
        },
        &|| STOP.load(Ordering::Relaxed),
    )?;
    Ok(ExitCode::SUCCESS)
}
