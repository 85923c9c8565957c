//! `selvedge timeline`: what a traced connection did, read from the event file of `selvedge bench … --trace`.
//!
//! How: samples are gathered into as many lines as fit a page, the events between them stand between the lines. A
//! character for each EV says what it carried: the taller, the more; `x` where it lost something, `!` where nothing
//! comes back. A file that was cut off is read as far as it goes, and that is said.
//! Absent on purpose: pictures; the file is one JSON object a line for whoever draws them.

use crate::out;
use anyhow::{Context, ensure};
use endpoint::trace::{FORMAT, Header, PathName, Record, Sample, TraceEvent};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;

/// Lines of one connection, where nothing else is asked for.
const LINES: f64 = 40.0;
/// Events of one kind told between two lines.
const EVENTS_TOLD: usize = 4;

const AFTER: &str = "Examples:
  selvedge bench transfer --between host0 host9 --trace run.jsonl
  selvedge timeline run.jsonl
  selvedge timeline run.jsonl --connection host0/3f1c0000 --every-ms 1

A character for each EV says what it carried in that time: the taller, the more; x: it lost a packet, !: nothing comes
back and it carries probes only, D: denied. Queue is the longest of the EVs, above the shortest way ever seen.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// What `--trace` wrote
    file: PathBuf,
    /// Only connections whose name begins so, such as host0 or host0/3f1c0000
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,
    /// Milliseconds of a line; by default so many that a connection takes about 40 lines
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    every_ms: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What one end of a connection did.
#[derive(Default)]
struct Connection {
    chunk_bytes: u16,
    evs: u16,
    events: Vec<(f64, TraceEvent)>,
    samples: Vec<(f64, Sample)>,
}

/// A line: everything between two moments.
#[derive(Default, serde::Serialize)]
struct Line {
    /// Where it ends, milliseconds from the connection's first event.
    until_ms: f64,
    /// Payload acknowledged and placed, Mbit/s.
    sends_mbit_s: f64,
    receives_mbit_s: f64,
    window_bytes: u64,
    in_flight_bytes: u64,
    rtt_us: f64,
    /// The longest queue of its EVs.
    queue_us: f64,
    sent: u64,
    lost: u64,
    again: u64,
    marked: u64,
    /// By EV.
    paths: Vec<Ev>,
    events: Vec<String>,
}

#[derive(Clone, Default, serde::Serialize)]
struct Ev {
    sent: u64,
    lost: u64,
    state: PathName,
}

/// The file's connections, and what was wrong with it.
fn read(args: &Args) -> anyhow::Result<(BTreeMap<String, Connection>, Vec<String>)> {
    let name = args.file.display();
    let file = std::fs::File::open(&args.file).with_context(|| format!("cannot read {name}"))?;
    let mut lines = BufReader::new(file).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let header: Header = serde_json::from_str(&first).with_context(|| {
        format!("{name} is no event file of Selvedge: its first line should be an object with \"format\":\"{FORMAT}\"")
    })?;
    ensure!(
        header.format == FORMAT,
        "{name} is of format {:?}; this program reads {FORMAT:?}",
        header.format
    );
    let (mut all, mut notes) = (BTreeMap::<String, Connection>::new(), Vec::new());
    for (i, line) in lines.enumerate() {
        let record: Record =
            match line.map_err(anyhow::Error::from).and_then(|l| Ok(serde_json::from_str(&l)?)) {
                Ok(record) => record,
                Err(e) => {
                    notes.push(format!(
                        "line {} of {name} cannot be read ({e}); nothing after it is shown",
                        i + 2
                    ));
                    break;
                }
            };
        if let TraceEvent::Dropped { records } = record.event {
            notes.push(format!(
                "{records} records were dropped when it was written: the disk did not keep up"
            ));
            continue;
        }
        if args.connection.as_ref().is_some_and(|c| !record.group_id.starts_with(c)) {
            continue;
        }
        let c = all.entry(record.group_id).or_default();
        match record.event {
            TraceEvent::Sample(sample) => c.samples.push((record.time, *sample)),
            event => {
                if let TraceEvent::Opened { evs, chunk_bytes, .. } = &event {
                    (c.evs, c.chunk_bytes) = (*evs, *chunk_bytes);
                }
                c.events.push((record.time, event));
            }
        }
    }
    Ok((all, notes))
}

fn told(event: &TraceEvent) -> Option<String> {
    Some(match event {
        TraceEvent::Opened { peer, remote, evs, cipher, .. } => {
            format!("opened to {peer} at {remote}, {evs} EVs, {cipher}")
        }
        TraceEvent::Closed { reason } => format!("closed: {reason}"),
        TraceEvent::PathDown { ev } => format!("EV {ev}: nothing comes back"),
        TraceEvent::PathUp { ev } => format!("EV {ev}: answers again"),
        // the rates say it
        TraceEvent::MessageSent { .. } | TraceEvent::MessageReceived { .. } => return None,
        TraceEvent::Sample(_) | TraceEvent::Dropped { .. } => return None,
    })
}

/// What happened between two lines, few of a kind.
fn gathered(all: &[(f64, TraceEvent)], begin: f64) -> Vec<String> {
    let mut kinds: Vec<(std::mem::Discriminant<TraceEvent>, usize)> = Vec::new();
    let mut lines = Vec::new();
    for (at, event) in all {
        let Some(text) = told(event) else { continue };
        let kind = std::mem::discriminant(event);
        let n = match kinds.iter_mut().find(|(k, _)| *k == kind) {
            Some((_, n)) => n,
            None => {
                kinds.push((kind, 0));
                let Some((_, n)) = kinds.last_mut() else { continue };
                n
            }
        };
        *n += 1;
        if *n <= EVENTS_TOLD {
            lines.push(format!("{:.1} ms {text}", at - begin));
        }
    }
    let more: usize = kinds.iter().map(|(_, n)| n.saturating_sub(EVENTS_TOLD)).sum();
    if more > 0 {
        lines.push(format!("and {more} more of these"));
    }
    lines
}

fn lines(c: &Connection, every_ms: Option<u32>) -> Vec<Line> {
    let times = || c.samples.iter().map(|s| s.0).chain(c.events.iter().map(|e| e.0));
    let begin = times().fold(f64::INFINITY, f64::min);
    let end = times().fold(begin, f64::max);
    let every = every_ms.map_or(((end - begin) / LINES).ceil().max(1.0), f64::from);
    let evs = c.samples.iter().flat_map(|s| s.1.paths.iter().map(|p| p.ev + 1)).max().unwrap_or(0).max(c.evs);
    let (mut all, mut samples, mut events) = (Vec::new(), &c.samples[..], &c.events[..]);
    let mut last = Line::default();
    while !samples.is_empty() || !events.is_empty() {
        let next = samples.first().map(|s| s.0).into_iter().chain(events.first().map(|e| e.0));
        let next = next.fold(f64::INFINITY, f64::min);
        // times without anything have no line
        let until = begin + (((next - begin) / every).floor() + 1.0) * every;
        let (now, rest) = samples.split_at(samples.partition_point(|s| s.0 < until));
        samples = rest;
        let (between, rest) = events.split_at(events.partition_point(|e| e.0 < until));
        events = rest;
        let rate = |chunks: u64| chunks as f64 * f64::from(c.chunk_bytes) * 8.0 / 1000.0 / every;
        let sum = |of: fn(&Sample) -> u64| now.iter().map(|(_, s)| of(s)).sum::<u64>();
        let mut line = Line {
            until_ms: until - begin,
            sends_mbit_s: rate(sum(|s| s.acknowledged)),
            receives_mbit_s: rate(sum(|s| s.placed)),
            window_bytes: now.last().map_or(last.window_bytes, |s| s.1.congestion_window),
            in_flight_bytes: now.last().map_or(last.in_flight_bytes, |s| s.1.bytes_in_flight),
            rtt_us: now.last().map_or(last.rtt_us, |s| s.1.smoothed_rtt_us),
            sent: sum(|s| s.sent),
            lost: sum(|s| s.lost_gap + s.lost_late + s.lost_trimmed),
            again: sum(|s| s.again),
            paths: vec![Ev::default(); usize::from(evs)],
            events: gathered(between, begin),
            ..Line::default()
        };
        for p in now.iter().flat_map(|(_, s)| &s.paths) {
            let Some(ev) = line.paths.get_mut(usize::from(p.ev)) else { continue };
            ev.sent += u64::from(p.sent);
            ev.lost += u64::from(p.lost);
            ev.state = p.state;
            line.marked += u64::from(p.marked);
            if p.arrived > 0 {
                line.queue_us = line.queue_us.max(p.queue_us);
            }
        }
        last = Line { window_bytes: line.window_bytes, rtt_us: line.rtt_us, ..Line::default() };
        all.push(line);
    }
    all
}

/// A character for each EV.
fn strip(paths: &[Ev]) -> String {
    const TALL: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = paths.iter().map(|p| p.sent).max().unwrap_or(0).max(1);
    let one = |p: &Ev| match p.state {
        PathName::Denied => 'D',
        PathName::AssumedBad => '!',
        _ if p.lost > 0 => 'x',
        _ if p.sent == 0 => ' ',
        _ => TALL[((p.sent * 8).div_ceil(most) as usize).clamp(1, 8) - 1],
    };
    paths.iter().map(one).collect()
}

fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{} kB", n / 1_000),
        _ => format!("{} MB", n / 1_000_000),
    }
}

fn print(name: &str, lines: &[Line]) {
    let sends = lines.iter().any(|l| l.sent > 0 && l.sends_mbit_s > 0.0);
    println!("{name}");
    println!(
        "{:>9} {:>9} {:>9} {:>8} {:>9} {:>9} {:>9} {:>6} {:>6} {:>6}{}",
        "until ms",
        "sends",
        "receives",
        "window",
        "in flight",
        "RTT",
        "queue",
        "sent",
        "lost",
        "again",
        if sends { "  EVs" } else { "" }
    );
    for l in lines {
        for event in &l.events {
            println!("          · {event}");
        }
        let strip = if sends { strip(&l.paths) } else { String::new() };
        println!(
            "{:>9.0} {:>9} {:>9} {:>8} {:>9} {:>9} {:>9} {:>6} {:>6} {:>6}  {strip}",
            l.until_ms,
            format!("{:.0} Mb/s", l.sends_mbit_s),
            format!("{:.0} Mb/s", l.receives_mbit_s),
            bytes(l.window_bytes),
            bytes(l.in_flight_bytes),
            format!("{:.0} µs", l.rtt_us),
            format!("{:.0} µs", l.queue_us),
            l.sent,
            l.lost,
            l.again,
        );
    }
    println!();
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (all, notes) = read(&args)?;
    ensure!(
        !all.is_empty(),
        "{} has no connection{}",
        args.file.display(),
        args.connection.as_ref().map_or(String::new(), |c| format!(" whose name begins with {c:?}"))
    );
    let all: BTreeMap<&String, Vec<Line>> = all.iter().map(|(n, c)| (n, lines(c, args.every_ms))).collect();
    if args.json {
        out::json(&all)?;
    } else {
        all.iter().for_each(|(name, lines)| print(name, lines));
    }
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use endpoint::trace::PathSample;

    fn sample(acknowledged: u64, paths: Vec<PathSample>) -> Sample {
        Sample { acknowledged, sent: acknowledged, paths, ..Sample::default() }
    }

    #[test]
    fn a_line_says_what_each_path_carried_and_what_happened() {
        let path = |ev, sent, lost, state| PathSample { ev, sent, lost, state, ..PathSample::default() };
        let c = Connection {
            chunk_bytes: 1_000,
            evs: 4,
            events: vec![(0.0, TraceEvent::PathDown { ev: 2 })],
            samples: vec![
                (0.5, sample(10, vec![path(0, 8, 0, PathName::Good), path(1, 1, 1, PathName::Suspect)])),
                (1.5, sample(20, vec![path(2, 1, 0, PathName::AssumedBad)])),
            ],
        };
        let lines = lines(&c, Some(1));
        assert_eq!(lines.len(), 2);
        assert_eq!(strip(&lines[0].paths), "█x  ");
        assert_eq!(strip(&lines[1].paths), "  ! ");
        assert!((lines[0].sends_mbit_s - 80.0).abs() < 1e-9, "{}", lines[0].sends_mbit_s);
        assert_eq!(lines[0].events, ["0.0 ms EV 2: nothing comes back"]);
    }
}
