//! `selvedge bench ingest`: a real hub in a process of its own, a crowd of agents in this one, and an account of every
//! observation at the end.
//!
//! How: the crowd speaks the real protocol over TLS. Each second the hub's memory and processor time are read. With
//! `--kills` the hub is ended by SIGKILL at random moments and started again on the same tables. At the end the crowd
//! falls quiet, everything held is acknowledged, and the tables are asked: each host's observations are numbered, so
//! stored once means as many rows as distinct numbers, and made = stored + lost in the agents' own buffers.

use crate::client::Client;
use crate::out;
use agent::crowd::{self, Tally};
use anyhow::{Context, bail, ensure};
use fabric::Scenario;
use hub::QueryView;
use indicatif::ProgressBar;
use serde_json::json;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Rows whose numbers are told apart in one question.
const TOGETHER: u64 = 6_000_000;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Agents, one a host
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    agents: u32,
    /// Observations a second, all agents together
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// How long they are made
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// End the hub by SIGKILL so often, at random moments
    #[arg(long, default_value_t = 0)]
    kills: u32,
    /// Have a second hub stand by on the same tables, and take over at each kill
    #[arg(long)]
    standby: bool,
    /// Observations an agent keeps while nothing is acknowledged
    #[arg(long, default_value_t = 65_536)]
    buffer_rows: usize,
    /// Where the hub keeps its tables; a temporary directory, removed at the end, if not given
    #[arg(long, value_name = "DIR|URL")]
    data: Option<hub::Place>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The hub, ended with whatever ends this.
struct Hub {
    child: Child,
    dir: PathBuf,
    ready: PathBuf,
    grpc: String,
    http: String,
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Addresses nobody listens on at the moment.
fn free_addresses() -> anyhow::Result<(String, String)> {
    let some = || -> anyhow::Result<(std::net::TcpListener, String)> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?.to_string();
        Ok((listener, addr))
    };
    let (_first, grpc) = some()?;
    let (_second, http) = some()?;
    Ok((grpc, http))
}

/// Starts a hub, which may have to wait for its turn: see [`serving`].
fn start(
    dir: &Path,
    data: &hub::Place,
    (grpc, http): &(String, String),
    standby: bool,
) -> anyhow::Result<Hub> {
    let ready = dir.join(format!("ready-{}.json", grpc.replace(':', "-")));
    let _ = std::fs::remove_file(&ready);
    let log = std::fs::File::options().create(true).append(true).open(dir.join("hub.log"))?;
    let child = Command::new(std::env::current_exe()?)
        .arg("hub")
        .args(standby.then_some("--standby"))
        .arg("--fabric")
        .arg(dir.join("fabric.toml"))
        .arg("--data")
        .arg(data.to_string())
        .arg("--address-key")
        .arg(dir.join("address.key"))
        .args(["--grpc", grpc, "--http", http])
        .arg("--cert")
        .arg(dir.join("hub.pem"))
        .arg("--key")
        .arg(dir.join("hub.key"))
        .arg("--ca")
        .arg(dir.join("ca.pem"))
        .arg("--ready-file")
        .arg(&ready)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("the hub does not start")?;
    Ok(Hub { child, dir: dir.to_owned(), ready, grpc: grpc.clone(), http: http.clone() })
}

/// Waits until a hub serves.
fn serving(mut hub: Hub) -> anyhow::Result<Hub> {
    let begun = Instant::now();
    while !hub.ready.exists() {
        if let Some(status) = hub.child.try_wait()? {
            let log = std::fs::read_to_string(hub.dir.join("hub.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(5).collect();
            bail!("the hub ended ({status}): {}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        ensure!(begun.elapsed() < Duration::from_secs(120), "the hub does not serve within two minutes");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(hub)
}

/// Resident bytes and processor seconds of a process.
fn usage(pid: u32) -> Option<(u64, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let pages: u64 = fields.get(21)?.parse().ok()?;
    // Linux says 100 ticks a second and 4 KiB pages on every machine this runs on.
    Some((pages * 4_096, ticks as f64 / 100.0))
}

fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below.max(1)
}

fn bytes_under(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => bytes_under(&e.path()),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dir = std::env::temp_dir().join(format!("selvedge-ingest-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let outcome = measure(&args, &dir);
    if args.data.is_none() {
        let _ = std::fs::remove_dir_all(&dir);
    }
    outcome
}

fn measure(args: &Args, dir: &Path) -> anyhow::Result<ExitCode> {
    let per_leaf = 32.min(args.agents);
    let fabric = format!(
        "name = \"ingest\"\n[fabric]\nname = \"ingest\"\nplanes = 2\nleaves = {}\nspines = 8\nhosts = {}\n\
         hosts_per_leaf = {per_leaf}\n",
        args.agents.div_ceil(per_leaf),
        args.agents
    );
    let scenario = Scenario::parse(&fabric).map_err(|e| anyhow::anyhow!("{e}"))?;
    std::fs::write(dir.join("fabric.toml"), &fabric)?;
    let names: Vec<String> = (0..args.agents).map(|h| scenario.fabric.host_name(wire::HostId(h))).collect();
    super::super::cert::all(dir, &names)?;
    let data = args.data.clone().unwrap_or_else(|| dir.join("data").into());
    let (first, second) = (free_addresses()?, free_addresses()?);
    let mut hub = serving(start(dir, &data, &first, false)?)?;
    let mut waiting = if args.standby { Some(start(dir, &data, &second, true)?) } else { None };
    let mut urls = vec![format!("https://{}", first.0)];
    urls.extend(args.standby.then(|| format!("https://{}", second.0)));

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let tally = Arc::new(Tally::default());
    let (stop, stopping) = watch::channel(false);
    let text = |name: String| std::fs::read_to_string(dir.join(&name)).with_context(|| name);
    let ca_pem = text("ca.pem".to_owned())?;
    let mut crowd = Vec::new();
    for name in &names {
        let config = agent::Config {
            hubs: urls.clone(),
            cert_pem: text(format!("{name}.pem"))?,
            key_pem: text(format!("{name}.key"))?,
            ca_pem: ca_pem.clone(),
            drop_capabilities: false,
            transport_socket: None,
            buffer_rows: args.buffer_rows,
            ..agent::Config::default()
        };
        let rate = args.rate as f64 / f64::from(args.agents);
        let mut stopping = stopping.clone();
        let tally = Arc::clone(&tally);
        crowd.push(runtime.spawn(async move {
            let until = async move {
                let _ = stopping.wait_for(|&s| s).await;
            };
            crowd::run(config, rate, 10_000, tally, until).await
        }));
    }

    let bar = if args.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    let begun = Instant::now();
    let span = Duration::from_secs(args.seconds);
    let mut kills: Vec<Duration> =
        (0..args.kills).map(|_| Duration::from_millis(random(args.seconds * 1_000))).collect();
    kills.sort();
    let mut kills = kills.into_iter().peekable();
    let (mut rss_max, mut hub_cpu, mut killed) = (0, 0.0, 0);
    // Seconds from a kill until a hub serves, and until every agent reports to it.
    let (mut serve_s, mut follow_s) = (0.0f64, 0.0f64);
    let mut last = usage(hub.child.id()).unwrap_or_default();
    while begun.elapsed() < span {
        std::thread::sleep(Duration::from_millis(100));
        if let Some(now) = usage(hub.child.id()) {
            rss_max = rss_max.max(now.0);
            hub_cpu += now.1 - last.1;
            last = now;
        }
        if kills.next_if(|&at| begun.elapsed() >= at).is_some() {
            hub.child.kill()?;
            hub.child.wait()?;
            killed += 1;
            let dead = Instant::now();
            let place = (hub.grpc.clone(), hub.http.clone());
            hub = serving(match waiting.take() {
                None => start(dir, &data, &place, false)?,
                Some(next) => next,
            })?;
            serve_s = serve_s.max(dead.elapsed().as_secs_f64());
            if args.standby {
                let client = Client::at(&format!("http://{}", hub.http))?;
                while client.get::<serde_json::Value>("/readyz?agents=all").is_err() {
                    ensure!(
                        dead.elapsed() < Duration::from_secs(60),
                        "the agents did not follow within a minute"
                    );
                    std::thread::sleep(Duration::from_millis(20));
                }
                follow_s = follow_s.max(dead.elapsed().as_secs_f64());
                waiting = Some(start(dir, &data, &place, true)?);
            }
            last = (0, 0.0);
        }
        let made = tally.made.load(Relaxed);
        bar.set_message(format!(
            "{:.0} s: {made} observations made, hub {:.0} MiB, {:.2} cores, {killed} kills",
            begun.elapsed().as_secs_f64(),
            last.0 as f64 / 1_048_576.0,
            hub_cpu / begun.elapsed().as_secs_f64(),
        ));
        bar.tick();
    }
    tally.quiet.store(true, Relaxed);
    let making_s = begun.elapsed().as_secs_f64();
    // What an agent is in the middle of is still made.
    std::thread::sleep(Duration::from_secs(1));
    let made = tally.made.load(Relaxed);
    let made_per_s = made as f64 / making_s;

    // What is held goes out now; the account is complete when nothing grows any more.
    let client = Client::at(&format!("http://{}", hub.http))?;
    let asked = |sql: &str| -> anyhow::Result<QueryView> {
        client.post("/api/v1/query", &json!({ "sql": sql, "limit": 100_000 }))
    };
    let number = |view: &QueryView, column: usize| -> u64 {
        let value = view.rows.first().and_then(|r| r.get(column)).cloned().unwrap_or_default();
        value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
    };
    let draining = Instant::now();
    let (mut stored, mut lost);
    loop {
        let all = asked("select count(*) from path_observation")?;
        let gone = asked("select coalesce(sum(rows), 0) from loss_ledger where stage <> 'diagnosis'")?;
        (stored, lost) = (number(&all, 0), number(&gone, 0));
        bar.set_message(format!("draining: {stored} of {made} stored, {lost} lost"));
        bar.tick();
        if stored + lost >= made || draining.elapsed() > Duration::from_secs(180) {
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let drain_s = draining.elapsed().as_secs_f64();
    if let Some(now) = usage(hub.child.id()) {
        rss_max = rss_max.max(now.0);
        hub_cpu += now.1 - last.1;
    }
    // A few producers at a time: to know every number of millions takes memory.
    let each = asked("select producer, count(*) from path_observation group by 1 order by 1")?;
    let (mut rows, mut distinct) = (0, 0);
    let (mut from, mut together) = (None, 0);
    for (i, row) in each.rows.iter().enumerate() {
        let field = |c: usize| row.get(c).and_then(serde_json::Value::as_u64).unwrap_or(0);
        together += field(1);
        let first = *from.get_or_insert(field(0));
        if together >= TOGETHER || i + 1 == each.rows.len() {
            let exact = asked(&format!(
                "select sum(n), sum(d) from (select producer, producer_epoch, count(*) as n, count(distinct sequence) as d \
                 from path_observation where producer between {first} and {} group by 1, 2)",
                field(0)
            ))?;
            rows += number(&exact, 0);
            distinct += number(&exact, 1);
            (from, together) = (None, 0);
        }
    }
    let by_reason = asked("select stage, reason, sum(rows) from loss_ledger group by 1, 2 order by 1, 2")?;
    let once = rows == distinct && rows == stored;
    let complete = stored + lost == made;
    let _ = stop.send(true);
    runtime.block_on(async {
        for agent in crowd {
            match agent.await {
                Ok(Ok(())) => {}
                other => eprintln!("warning: an agent of the crowd ended otherwise: {other:?}"),
            }
        }
    });
    // The one that waits must not take over from the one that stops.
    drop(waiting);
    // Stopped in order it folds what is left, so that the tables are whole.
    let _ = Command::new("kill").arg(hub.child.id().to_string()).status();
    let stopping = Instant::now();
    while hub.child.try_wait()?.is_none() && stopping.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let log = std::fs::read_to_string(hub.dir.join("hub.log")).unwrap_or_default();
    // When a file cannot be finished, the tables' library aborts it in a task of its own, twice, and the second time the
    // object store's writer panics: that task ends, and nothing else. It is told, and is no failure of the hub.
    let (mut panics, mut aborts) = (0, 0);
    let mut lines = log.lines();
    while let Some(line) = lines.next() {
        if line.contains("panicked at") {
            let twice = line.contains("/object_store-") && lines.next() == Some("Already shut down");
            if twice { aborts += 1 } else { panics += 1 }
        }
    }
    drop(hub);
    bar.finish_and_clear();
    // Merged files stay for a day. A bucket is not counted.
    let on_disk = data.directory().map(|d| bytes_under(&d.join("tables/path_observation")));
    let per_cpu_s = stored as f64 / hub_cpu.max(1e-9);
    if args.json {
        out::json(&json!({
            "agents": args.agents, "seconds": making_s, "made": made, "made_per_s": made_per_s, "stored": stored,
            "lost": lost, "stored_once": once, "made_is_stored_and_lost": complete, "drain_s": drain_s,
            "hub_rss_max_bytes": rss_max, "hub_cpu_s": hub_cpu, "stored_per_hub_cpu_s": per_cpu_s, "kills": killed,
            "table_bytes": on_disk, "bytes_a_row": on_disk.map(|b| b as f64 / stored.max(1) as f64), "panics": panics, "library_aborts": aborts,
            "ledger": by_reason.rows, "serve_after_kill_s_max": serve_s, "follow_after_kill_s_max": follow_s,
        }))?;
    } else {
        println!(
            "{made} observations of {} agents in {making_s:.1} s ({made_per_s:.0} a second), {killed} kills",
            args.agents
        );
        println!(
            "stored {stored}, lost and counted {lost}, everything there {drain_s:.1} s after the last one was made"
        );
        for row in &by_reason.rows {
            println!("  ledger: {row}");
        }
        println!(
            "the hub used {hub_cpu:.1} CPU seconds ({per_cpu_s:.0} observations each) and at most {:.0} MiB",
            rss_max as f64 / 1_048_576.0
        );
        if killed > 0 {
            println!("a hub served at most {serve_s:.2} s after a kill");
        }
        if follow_s > 0.0 {
            println!("every agent reported to the other hub at most {follow_s:.2} s after a kill");
        }
        if let Some(bytes) = on_disk {
            println!("{bytes} bytes of tables, {:.1} a row", bytes as f64 / stored.max(1) as f64);
        }
        println!("made = stored + lost: {complete}; stored once: {once}; panics: {panics}");
    }
    ensure!(panics == 0, "the hub panicked {panics} times; see {}", dir.join("hub.log").display());
    Ok(if once && complete { ExitCode::SUCCESS } else { ExitCode::from(out::NOT_WELL) })
}
