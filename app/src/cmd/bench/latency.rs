//! `selvedge bench latency`: how long a small message takes there and back, beside plain UDP in the same run; or beside
//! bulk traffic between the same two hosts, and then beside TCP beside TCP's bulk traffic.
//!
//! How: one message at a time goes to the other end and comes back. Alone, the peer is two threads with blocking UDP
//! sockets, which is the least the kernel asks for: no protocol, no cipher; the first row is two threads that block
//! likewise, the second two tasks of an async runtime. Beside bulk, both sides have a connection that is kept full by
//! threads that block and one for the small messages. Rounds of all alternate, so that whatever else the machine does
//! meets all. The peers' sockets are on the same hosts, in the first plane.
//!
//! Absent on purpose: polling without end, which would leave nothing of a small machine for anybody else.

use super::ends::{self, Host, Pair};
use crate::out;
use anyhow::{Context, anyhow, ensure};
use clap::ValueEnum;
use comfy_table::{Table, presets};
use endpoint::Connection;
use std::io::{Read, Write};
use std::net::{SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Alternations between the two.
const ROUNDS: u64 = 10;
/// A datagram that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// One way, to plain UDP's.
const GOAL_ALONE: f64 = 1.3;
/// Of TCP's 99th percentile to ours, beside bulk.
const GOAL_BESIDE: f64 = 7.0;
/// Bytes of a bulk message, and of a write into a TCP socket.
const BULK_BYTES: usize = 256 << 10;
/// Threads that send bulk messages: one is sealed while another is on its way.
const BULK_THREADS: u64 = 2;
/// Bulk traffic runs for so long before it counts.
const BULK_BEGINS: Duration = Duration::from_millis(300);
/// Whose messages are whose.
const SMALL: u64 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Beside {
    /// A transfer that never ends
    Bulk,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Messages there and back, of each kind; 2,000 beside bulk
    #[arg(long, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    messages: Option<u64>,
    /// Bytes of a message
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    bytes: u64,
    /// What else runs between the two hosts
    #[arg(long, value_enum)]
    beside: Option<Beside>,
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
    /// To the peer's.
    ratio_p50: f64,
    ratio_p99: f64,
    /// What the bulk traffic beside it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    bulk_gbit_per_s: Option<f64>,
}

#[derive(serde::Serialize)]
struct Goal {
    what: &'static str,
    got: f64,
    wanted: f64,
    met: bool,
}

/// Ways there and back.
#[derive(Default)]
struct Times {
    all: Vec<Duration>,
    bulk_bytes: u64,
    bulk_time: Duration,
}

impl Times {
    fn one_way_us(&mut self, share: f64) -> f64 {
        self.all.sort_unstable();
        let at = ((self.all.len() as f64 - 1.0) * share) as usize;
        self.all.get(at).map_or(0.0, |t| t.as_secs_f64() * 1e6 / 2.0)
    }

    fn bulk(&mut self, bytes: u64, time: Duration) {
        self.bulk_bytes += bytes;
        self.bulk_time += time;
    }

    fn bulk_gbit_per_s(&self) -> Option<f64> {
        let seconds = self.bulk_time.as_secs_f64();
        (seconds > 0.0).then(|| self.bulk_bytes as f64 * 8e-9 / seconds)
    }
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

// ---- plain UDP

struct Udp {
    socket: UdpSocket,
    thread: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

impl Udp {
    fn new(hosts: &[Host; 2]) -> anyhow::Result<Udp> {
        let open = |h: &Host| h.inside(|| Ok(UdpSocket::bind((h.address(), 0))?));
        let [a, b] = hosts;
        let (socket, other) = (open(a)?, open(b)?);
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
            self.socket.recv(&mut buf).context("a datagram was lost")?;
            times.all.push(begin.elapsed());
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

// ---- ours

/// Two threads that block, as plain UDP's do.
fn blocking(pair: &Pair, messages: u64, payload: &[u8], times: &mut Times) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            for _ in 0..messages {
                let got = pair.server.receive_blocking(SMALL)?;
                pair.server.post(SMALL, got)?;
            }
            anyhow::Ok(())
        });
        for _ in 0..messages {
            let message = payload.to_vec();
            let begin = Instant::now();
            pair.client.post(SMALL, message)?;
            let back = pair.client.receive_blocking(SMALL)?;
            times.all.push(begin.elapsed());
            ensure!(back == payload, "{} bytes came back, of {}, or others", back.len(), payload.len());
        }
        joined(echo)
    })
}

/// Two tasks that await.
async fn awaiting(pair: &Pair, messages: u64, payload: &[u8], times: &mut Times) -> anyhow::Result<()> {
    let Pair { client, server, .. } = pair;
    let there_and_back = async {
        for _ in 0..messages {
            let message = payload.to_vec();
            let begin = Instant::now();
            client.post(SMALL, message)?;
            let back = client.receive(SMALL).await?;
            times.all.push(begin.elapsed());
            ensure!(back == payload, "{} bytes came back, of {}, or others", back.len(), payload.len());
        }
        Ok(())
    };
    let echo = async {
        for _ in 0..messages {
            server.post(SMALL, server.receive(SMALL).await?)?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(there_and_back, echo).map(drop)
}

/// Like [`blocking`], while the other connection is kept full.
fn blocking_beside(
    pair: &Pair,
    bulk: &(Connection, Connection),
    messages: u64,
    payload: &[u8],
    times: &mut Times,
) -> anyhow::Result<()> {
    let (sends, receives) = bulk;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for tag in 0..BULK_THREADS {
            let over = &over;
            threads.push(scope.spawn(move || {
                let mut sent = 0u64;
                while !over.load(Ordering::Relaxed) {
                    sends.send_blocking(tag, vec![7; BULK_BYTES])?;
                    sent += BULK_BYTES as u64;
                }
                // a short one is the end
                sends.send_blocking(tag, vec![7])?;
                anyhow::Ok(sent)
            }));
            scope.spawn(move || while receives.receive_blocking(tag).is_ok_and(|got| got.len() > 1) {});
        }
        let begin = Instant::now();
        std::thread::sleep(BULK_BEGINS);
        let done = blocking(pair, messages, payload, times);
        // whatever happened, the bulk threads have to hear of the end
        over.store(true, Ordering::Relaxed);
        let mut bytes = 0;
        for thread in threads {
            bytes += joined(thread)?;
        }
        times.bulk(bytes, begin.elapsed());
        done
    })
}

// ---- TCP

struct Tcp {
    small: [TcpStream; 2],
    bulk: [TcpStream; 2],
}

impl Tcp {
    fn new(hosts: &[Host; 2]) -> anyhow::Result<Tcp> {
        let [a, b] = hosts;
        let listener = b.inside(|| Ok(TcpListener::bind((b.address(), 0))?))?;
        let to = SocketAddrV6::new(b.address(), listener.local_addr()?.port(), 0, 0);
        let pair = || {
            let one = a.inside(|| Ok(TcpStream::connect(to)?))?;
            let (two, _) = listener.accept()?;
            one.set_nodelay(true)?;
            two.set_nodelay(true)?;
            anyhow::Ok([one, two])
        };
        Ok(Tcp { small: pair()?, bulk: pair()? })
    }

    fn round(&self, messages: u64, payload: &[u8], times: &mut Times) -> anyhow::Result<()> {
        let over = AtomicBool::new(false);
        let [sends, receives] = &self.bulk;
        let [one, two] = &self.small;
        std::thread::scope(|scope| {
            let over = &over;
            let writer = scope.spawn(move || {
                let (bytes, mut sent) = (vec![7; BULK_BYTES], 0u64);
                while !over.load(Ordering::Relaxed) {
                    (&mut &*sends).write_all(&bytes)?;
                    sent += BULK_BYTES as u64;
                }
                // another byte is the end
                (&mut &*sends).write_all(&[1])?;
                anyhow::Ok(sent)
            });
            scope.spawn(move || {
                let mut bytes = vec![0; BULK_BYTES];
                while let Ok(n @ 1..) = (&mut &*receives).read(&mut bytes) {
                    if bytes.get(n - 1) == Some(&1) {
                        break;
                    }
                }
            });
            let echo = scope.spawn(move || {
                let mut bytes = vec![0; payload.len()];
                for _ in 0..messages {
                    (&mut &*two).read_exact(&mut bytes)?;
                    (&mut &*two).write_all(&bytes)?;
                }
                anyhow::Ok(())
            });
            let begin = Instant::now();
            std::thread::sleep(BULK_BEGINS);
            let mut back = vec![0; payload.len()];
            let mut small = || {
                for _ in 0..messages {
                    let begin = Instant::now();
                    (&mut &*one).write_all(payload)?;
                    (&mut &*one).read_exact(&mut back)?;
                    times.all.push(begin.elapsed());
                }
                anyhow::Ok(())
            };
            let done = small();
            over.store(true, Ordering::Relaxed);
            let bytes = joined(writer)?;
            times.bulk(bytes, begin.elapsed());
            joined(echo)?;
            done
        })
    }
}

// ---- both

fn row(name: &'static str, times: &mut Times, peer: [f64; 2]) -> Row {
    let (a, b) = (times.one_way_us(0.5), times.one_way_us(0.99));
    let bulk_gbit_per_s = times.bulk_gbit_per_s();
    let ([p50, p99], one_way_p50_us, one_way_p99_us) = (peer, a, b);
    Row { name, one_way_p50_us, one_way_p99_us, ratio_p50: a / p50, ratio_p99: b / p99, bulk_gbit_per_s }
}

fn percentiles(times: &mut Times) -> [f64; 2] {
    [times.one_way_us(0.5), times.one_way_us(0.99)]
}

fn measure(args: &Args) -> anyhow::Result<(Vec<Row>, Goal)> {
    let runtime = ends::runtime()?;
    let hosts: [Host; 2] = ends::hosts(&args.ends, 2)?
        .try_into()
        .map_err(|h: Vec<_>| anyhow!("two hosts are needed, {} were named", h.len()))?;
    let pair = runtime.block_on(ends::pair(&args.ends))?;
    let payload = vec![7u8; args.bytes as usize];
    let [mut peer, mut ours, mut awaited] = [0; 3].map(|_| Times::default());
    if args.beside.is_some() {
        let messages = args.messages.unwrap_or(2_000).div_ceil(ROUNDS);
        let bulk = runtime.block_on(pair.another())?;
        let tcp = Tcp::new(&hosts)?;
        for _ in 0..ROUNDS {
            tcp.round(messages, &payload, &mut peer)?;
            blocking_beside(&pair, &bulk, messages, &payload, &mut ours)?;
        }
        let base = percentiles(&mut peer);
        let rows = vec![row("selvedge", &mut ours, base), row("tcp", &mut peer, base)];
        let got = base[1] / ours.one_way_us(0.99);
        let what = "TCP's p99 to ours, beside bulk, at least";
        return Ok((rows, Goal { what, got, wanted: GOAL_BESIDE, met: got >= GOAL_BESIDE }));
    }
    let messages = args.messages.unwrap_or(20_000).div_ceil(ROUNDS);
    let udp = Udp::new(&hosts)?;
    for _ in 0..ROUNDS {
        udp.round(messages, &payload, &mut peer)?;
        blocking(&pair, messages, &payload, &mut ours)?;
        runtime.block_on(awaiting(&pair, messages, &payload, &mut awaited))?;
    }
    let base = percentiles(&mut peer);
    let rows = vec![
        row("selvedge", &mut ours, base),
        row("selvedge-async", &mut awaited, base),
        row("udp-plain", &mut peer, base),
    ];
    let got = ours.one_way_us(0.5) / base[0];
    Ok((rows, Goal { what: "p50 to plain UDP's, at most", got, wanted: GOAL_ALONE, met: got <= GOAL_ALONE }))
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (rows, goal) = measure(&args)?;
    if args.json {
        out::json(&serde_json::json!({ "rows": rows, "goal": goal }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let peer = if args.beside.is_some() { "TCP's" } else { "UDP's" };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut header = vec!["".to_owned(), "One way p50, µs".to_owned(), "p99, µs".to_owned()];
    header.extend([format!("p50 to {peer}"), format!("p99 to {peer}")]);
    if args.beside.is_some() {
        header.push("Bulk, Gbit/s".to_owned());
    }
    table.set_header(header);
    for r in rows {
        let mut cells = vec![
            r.name.to_owned(),
            format!("{:.1}", r.one_way_p50_us),
            format!("{:.1}", r.one_way_p99_us),
            format!("{:.2}", r.ratio_p50),
            format!("{:.2}", r.ratio_p99),
        ];
        cells.extend(r.bulk_gbit_per_s.map(|b| format!("{b:.2}")));
        table.add_row(cells);
    }
    println!("{table}");
    let met = if goal.met { "met" } else { "MISSED" };
    println!("{:.2} ({} {}): {met}", goal.got, goal.what, goal.wanted);
    Ok(ExitCode::SUCCESS)
}
