//! What each fuzz target does with its bytes. Included by the fuzz targets and by the plain test that runs their
//! corpora (`xtask/tests/fuzz_corpus.rs`), so that both always mean the same.
//!
//! Each entry must return for any bytes at all; where decoding succeeds it also checks a law.

use fabric::{Fabric, Scenario};
use prost::Message;
use wire::stamp::{ReflectorPacket, SenderPacket};
use wire::transport::{CloseReason, ConnectionId, Ev, Seen, Target};
use wire::{Epoch, HostId, Nanos, NicId};

/// What a target does with its bytes.
pub type Entry = fn(&[u8]);

/// Name and function of every target.
pub const ENTRIES: &[(&str, Entry)] = &[
    ("batch", batch),
    ("report", report),
    ("record", record),
    ("task", task),
    ("flow", flow),
    ("sensor", sensor),
    ("syslog", syslog),
    ("scrape", scrape),
    ("names", names),
    ("otlp", otlp),
    ("gnmi", gnmi),
    ("spec", spec),
    ("stamp", stamp),
    ("ioam", ioam),
    ("reflector", reflector),
    ("transport", transport_packets),
    ("transport_machine", transport_machine),
];

/// Datagrams of exporters, one after the other, each with its length before it: one decoder that learns as it goes.
pub fn flow(data: &[u8]) {
    use wire::flow::{Beside, Decoder, FlowColumns, Limits};
    let limits = Limits { exporters: 8, templates: 16, parked_bytes: 4_096, sampling: 1 };
    let mut decoder = Decoder::new(limits);
    let (mut flows, mut beside) = (FlowColumns::default(), Beside::default());
    let mut rest = data;
    while let [a, b, tail @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*a, *b])).min(tail.len());
        let (datagram, next) = tail.split_at(length);
        rest = next;
        let _ = decoder.datagram(Nanos::from_secs(1_000), [1; 16], datagram, &mut flows, &mut beside);
        let rows = flows.rows();
        assert!(flows.packets.len() == rows && flows.bytes.len() == rows && flows.sampling.len() == rows);
        assert!(flows.src.values.len() == rows && flows.duration_us.values.len() == rows);
        assert!(flows.sampling.iter().all(|&rate| rate >= 1));
        let gone = decoder.counts();
        assert!(gone.parked >= gone.replayed + gone.parked_dropped);
    }
    let kept = decoder.to_bytes();
    let again = Decoder::from_bytes(limits, &kept).map(|d| d.to_bytes());
    assert_eq!(again.as_ref(), Ok(&kept));
    let _ = Decoder::from_bytes(limits, data);
}

/// A reading of sensors, as an agent takes it.
pub fn sensor(data: &[u8]) {
    let Ok(reading) = wire::proto::SensorReading::decode(data) else { return };
    use wire::sensor as s;
    if let Some(Ok(rows)) = reading.tcp.as_ref().map(s::tcp) {
        let mut back = wire::proto::TcpColumns::default();
        rows.for_each(|row| s::push_tcp(&mut back, row));
        assert_eq!(Some(&back), reading.tcp.as_ref());
    }
    if let Some(Ok(rows)) = reading.drops.as_ref().map(s::drops) {
        assert_eq!(rows.count(), reading.drops.as_ref().map_or(0, s::drop_rows));
    }
    if let Some(Ok(rows)) = reading.metrics.as_ref().map(s::metrics) {
        assert_eq!(rows.count(), reading.metrics.as_ref().map_or(0, s::metric_rows));
    }
    if let Some(Ok(rows)) = reading.sensors.as_ref().map(s::sensors) {
        assert_eq!(rows.count(), reading.sensors.as_ref().map_or(0, s::sensor_rows));
    }
}

/// A fabric of two leaves for receivers, by which everything is called as in the fabric.
fn received() -> std::sync::Arc<Fabric> {
    const FABRIC: &str = "name = \"fuzz\"\nplanes = 1\nleaves = 2\nspines = 2\nhosts = 4\n\
        access = { rate = \"1Gbit/s\", latency = \"1us\" }\ntrunk = { rate = \"1Gbit/s\", latency = \"1us\" }\n";
    static PARSED: std::sync::OnceLock<Option<std::sync::Arc<Fabric>>> = std::sync::OnceLock::new();
    let parsed = PARSED.get_or_init(|| Fabric::parse(FABRIC).ok().map(std::sync::Arc::new));
    parsed.clone().expect("the fabric is one")
}

/// An intake; what it heard must be what it kept and dropped.
fn intake(by: receive::Receiver, then: impl FnOnce(std::sync::Arc<receive::Intake>)) {
    let names = receive::Names::identity(received());
    let (intake, mut rows) = receive::Intake::new(names, Default::default(), 64);
    then(intake.clone());
    let counted = intake.counted(by);
    assert_eq!(counted.heard, counted.kept + counted.dropped.iter().sum::<u64>());
    while let Ok(row) = rows.try_recv() {
        if let receive::Row::Observation(o) = row {
            assert!(o.of == 0 || o.delta <= o.of);
        }
    }
}

/// A connection's bytes as syslog: the first says where it is cut in two, which must change nothing.
pub fn syslog(data: &[u8]) {
    use receive::syslog::{Config, Desk, framing::Framing};
    const MOST: usize = 200;
    let Some((&cut, stream)) = data.split_first() else { return };
    let messages = |pieces: &[&[u8]]| {
        let (mut framing, mut out) = (Framing::new(MOST), Vec::new());
        let mut put = |m: &[u8]| out.push(m.to_vec());
        pieces.iter().for_each(|p| framing.feed(p, &mut put));
        framing.end(&mut put);
        (out, framing.too_long, framing.broken)
    };
    let whole = messages(&[stream]);
    let (a, b) = stream.split_at(usize::from(cut).min(stream.len()));
    assert_eq!(whole, messages(&[a, b]));
    intake(receive::Receiver::Syslog, |intake| {
        let desk = Desk::new(Config::default(), intake);
        for m in &whole.0 {
            assert!(!m.is_empty() && m.len() <= MOST);
            desk.take(Nanos::from_secs(1_000), std::net::Ipv6Addr::LOCALHOST.into(), m);
        }
    });
}

/// An exporter's answer.
pub fn scrape(data: &[u8]) {
    use receive::scrape::text::{Form, parse};
    let text = String::from_utf8_lossy(data);
    for form in [Form::Prometheus, Form::OpenMetrics] {
        let mut samples = 0;
        let malformed = parse(&text, form, |s| {
            assert!(!s.name.is_empty() && s.labels.iter().all(|(key, _)| !key.is_empty()));
            samples += 1;
        });
        assert!(samples + malformed <= text.lines().count() as u64);
    }
}

/// A file of names; a port it knows is one of its device's.
pub fn names(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    let fabric = received();
    let Ok((names, _)) = receive::Names::parse(text, fabric.clone()) else { return };
    for word in text.split(['\'', '"', '\n']).take(64) {
        let Some(device) = names.device(word) else { continue };
        for port in text.split(['\'', '"', '\n']).take(64) {
            let link = names.port(word, port);
            assert!(link.is_none_or(|l| fabric.link_device(l) == Some(device)));
        }
    }
}

/// A request of OpenTelemetry; the first byte says of what.
pub fn otlp(data: &[u8]) {
    use receive::otlp::{Config, Desk, Export, Signal};
    let Some((&signal, body)) = data.split_first() else { return };
    let signal = [Signal::Metrics, Signal::Logs, Signal::Traces][usize::from(signal) % 3];
    let Ok(export) = Export::decode(signal, body) else { return };
    intake(receive::Receiver::Otlp, |intake| {
        Desk::new(Config::default(), intake).take(None, export);
    });
}

/// What a gNMI device tells.
pub fn gnmi(data: &[u8]) {
    use receive::gnmi::{proto::Notification, session::Desk};
    let Ok(told) = Notification::decode(data) else { return };
    intake(receive::Receiver::Gnmi, |intake| {
        let desk = Desk::new("p0-leaf0", core::time::Duration::from_secs(30), intake);
        desk.take(Nanos::from_secs(1_000), &told);
        desk.take(Nanos::from_secs(1_010), &told);
    });
}

/// A list of tasks as an agent takes it, and a piece of one as a hub does.
pub fn task(data: &[u8]) {
    let now = Nanos::from_secs(1_000);
    if let Ok(list) = wire::proto::Tasks::decode(data) {
        let mut gate = wire::task::Gate::default();
        let first = gate.list(now, &list.tasks);
        assert!(first.begin.len() <= wire::task::RUNNING_MAX && gate.running() == first.begin.len());
        assert!(first.begin.iter().all(|t| wire::task::check(now, t).as_ref() == Ok(t)));
        assert_eq!(gate.list(now, &list.tasks), wire::task::Decision::default());
    }
    if let Ok(piece) = wire::proto::TaskOutput::decode(data) {
        let mut assembly = wire::task::Assembly::new(piece.task);
        let taken = assembly.take(&piece);
        assert!(taken.is_err() || piece.sequence == 1 && assembly.bytes() == piece.chunk.len() as u64);
    }
}

/// The agent's message as the hub decodes it: protobuf, then columns.
pub fn batch(data: &[u8]) {
    let Ok(batch) = wire::proto::Batch::decode(data) else { return };
    if let Some(columns) = &batch.paths
        && let Ok(rows) = wire::batch::paths(columns, HostId(1), Epoch(batch.fabric_epoch))
    {
        for o in rows.flatten() {
            assert!(o.lost <= o.sent);
        }
    }
    if let Some(columns) = &batch.components
        && let Ok(rows) = wire::batch::components(columns, HostId(1), Epoch(batch.fabric_epoch))
    {
        rows.for_each(drop);
    }
}

/// What a process of this host says to its agent: a datagram of columns.
pub fn report(data: &[u8]) {
    let Ok(read) = wire::report::read(data, HostId(1)) else { return };
    assert!(read.rows.len() <= wire::report::ROWS_MAX);
    // what is good in it is written and read again as it was
    let mut again = wire::report::Report::new(read.epoch);
    let good: Vec<_> = read.rows.into_iter().flatten().collect();
    for row in &good {
        assert!(row.lost <= row.sent);
        again.push(row);
    }
    let again = wire::report::read(&again.write(), HostId(1)).map(|r| r.rows.into_iter().flatten().collect());
    assert_eq!(again, Ok(good));
}

/// A recording, as `selvedge diagnose` reads it.
pub fn record(data: &[u8]) {
    let Ok(reader) = wire::record::Reader::new(data) else { return };
    let _ = Fabric::parse(reader.fabric_toml());
    reader.take(1000).for_each(drop);
}

/// A fabric or scenario file. What parses says itself again.
pub fn spec(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    if let Ok(fabric) = Fabric::parse(text) {
        let again = Fabric::parse(&fabric.to_toml());
        assert_eq!(again.as_ref(), Ok(&fabric));
    }
    let _ = Scenario::parse(text);
}

/// STAMP in both directions, with and without a key, every TLV decoded. What was read writes back to what is read.
pub fn stamp(data: &[u8]) {
    let (key, bytes) = match data.split_first() {
        Some((k, rest)) if k & 1 == 1 => (Some(&b"fuzzing key"[..]), rest),
        Some((_, rest)) => (None, rest),
        None => return,
    };
    if let Ok(p) = SenderPacket::new_checked(bytes, key) {
        p.tlvs().for_each(|t| {
            if let Ok(t) = t {
                let _ = t.value();
            }
        });
        let mut again = Vec::new();
        p.repr().write(key, &mut again);
        assert_eq!(SenderPacket::new_checked(&again[..], key).map(|p| p.repr()), Ok(p.repr()));
    }
    if let Ok(p) = ReflectorPacket::new_checked(bytes, key) {
        p.tlvs().for_each(drop);
        let mut again = Vec::new();
        p.repr().write(key, &mut again);
        assert_eq!(ReflectorPacket::new_checked(&again[..], key).map(|p| p.repr()), Ok(p.repr()));
    }
}

/// Hop-by-hop headers with trace options of both kinds, and what comes back in ICMPv6 errors.
pub fn ioam(data: &[u8]) {
    if let Ok(trace) = wire::ioam::Trace::new_checked(data) {
        // An option has 255 bytes, and a node at least a word.
        assert!(trace.nodes().count() <= 63);
    }
    let _ = wire::ipv6::time_exceeded(data);
}

/// Two machines against arbitrary packets: a reflector that must never send more than it got nor to anybody but the
/// asker, and a sender with a plan that must keep its books.
pub fn reflector(data: &[u8]) {
    const FABRIC: &str = "name = \"fuzz\"\nplanes = 2\nleaves = 2\nspines = 2\nhosts_per_leaf = 2\n\
        access = { rate = \"1Gbit/s\", latency = \"1us\" }\ntrunk = { rate = \"1Gbit/s\", latency = \"1us\" }\n";
    let Ok(fabric) = Fabric::parse(FABRIC) else { return };
    let fabric = std::sync::Arc::new(fabric);
    let codec = probe::packet::Codec::new(fabric.clone(), None, true);
    let mut machine =
        probe::Reflector::new(fabric.clone(), probe::ReflectorConfig { sessions_max: 4, fabric_only: true });
    let mut sender = probe::Sender::new(fabric.clone(), probe::SenderConfig::new(HostId(0), 7));
    let plan = probe::Plan {
        slots: probe::plan::slots(&fabric, HostId(0), &Default::default()),
        ..Default::default()
    };
    let _ = sender.set_plan(Nanos(0), plan);
    let mut now = Nanos(0);
    // records: one byte of NIC, one of length, then so many bytes
    let mut rest = data;
    while let [nic, length, tail @ ..] = rest {
        let (packet, next) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = next;
        now += Nanos::from_millis(u64::from(*length));
        while sender.poll_output(now).is_some() {}
        let arrival = probe::packet::Arrival {
            from: fabric.nic_addr(NicId(u32::from(*nic) % fabric.nics())),
            port: 862,
            to: fabric.nic_addr(NicId(u32::from(*nic >> 4) % fabric.nics())),
            at: now,
            traffic_class: *nic,
            flow_label: u32::from(*length),
            hop_limit: 60,
            hop_by_hop: packet,
        };
        if let Ok(request) = codec.read_request(packet, &arrival)
            && let Ok(answer) = machine.handle_input(now, &request)
        {
            let mut out = Vec::new();
            codec.write_answer(packet, &answer, now, 64, &mut out);
            assert!(out.len() <= packet.len(), "an answer longer than the question");
        }
        assert!(machine.sessions() <= 4);
        if let Ok(reply) = codec.read_reply(packet, &arrival) {
            let _ = sender.handle_input(now, &reply);
        }
        sender.handle_timeout(now);
        while let Some(o) = sender.poll_event() {
            if let probe::Observation::Path(o) = o {
                assert!(o.lost <= o.sent);
            }
        }
    }
}

/// Transport packets and handshake datagrams: what decodes writes back to the same bytes.
pub fn transport_packets(data: &[u8]) {
    use wire::transport::hello::{Hello, Parameters, Retry, Stranger};
    use wire::transport::packet;
    let Some((&tag_bytes, bytes)) = data.split_first() else { return };
    if let Ok(p) = packet::decode(bytes, usize::from(tag_bytes % 17)) {
        let mut again = Vec::new();
        assert_eq!(packet::encode(&p.packet, p.number, p.phase, &mut again), Ok(()));
        assert_eq!(again.get(..), bytes.get(..p.header_bytes));
    }
    if let Ok(p) = packet::decode_trimmed(bytes) {
        assert!(p.header_bytes <= packet::DATA_HEADER_MAX);
    }
    let mut again = Vec::new();
    if let Ok((hello, header)) = Hello::read(bytes) {
        hello.write(&mut again);
        assert_eq!(again.get(..), bytes.get(..header));
    } else if let Ok(retry) = Retry::read(bytes) {
        retry.write(&mut again);
        assert_eq!(again, bytes);
    } else if let Ok(stranger) = Stranger::read(bytes) {
        stranger.write(&mut again);
        assert_eq!(again, bytes);
    }
    if let Some(stranger) = Stranger::to(bytes) {
        again.clear();
        stranger.write(&mut again);
        assert!(again.len() < bytes.len());
    }
    if let Ok(parameters) = Parameters::read(bytes) {
        again.clear();
        parameters.write(&mut again);
        assert_eq!(Parameters::read(&again), Ok(parameters));
    }
}

/// The transport's machine between an honest peer whose bytes are lost, repeated, reordered and changed, and packets
/// that nobody sent, at any times. It must not panic, hold more than its parameters say, miscount, or be due for ever.
pub fn transport_machine(data: &[u8]) {
    let mut rest = data;
    let mut next = || {
        let (&b, tail) = rest.split_first()?;
        rest = tail;
        Some(u64::from(b))
    };
    let Some(shape) = next() else { return };
    let config = transport::Config {
        control: [transport::Control::Sender, transport::Control::Receiver, transport::Control::Both]
            [shape as usize % 3],
        evs: [1, 2, 5, 16][shape as usize / 3 % 4],
        packets_max: [1, 8, 64][shape as usize / 12 % 3],
        messages_max: 1 + (shape as u32 / 36) % 4,
        message_bytes_max: 20_000,
        chunk_bytes: 400,
        give_up_rtts: 64,
        ..transport::Config::default()
    };
    let mut ends = [1, 0].map(|peer| transport::Connection::new(config, ConnectionId(peer), shape));
    let mut pacers = [transport::Pacer::new(&config), transport::Pacer::new(&config)];
    // what is on the way to each end, as bytes without payload and tag; the second is the machine that is tested
    let mut way: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
    let mut now = Nanos(1);
    while let Some(op) = next() {
        let to = (op >> 7) as usize;
        match op % 12 {
            0 => now += Nanos(next().unwrap_or(0) * 40),
            1 => now += Nanos(next().unwrap_or(0) << (next().unwrap_or(0) % 24)),
            2 => {
                let bytes = next().unwrap_or(0) * next().unwrap_or(0);
                let target = Target::Tagged { tag: op };
                let _ = ends[to].send(now, target, bytes);
            }
            3 => drop((!way[to].is_empty()).then(|| way[to].remove(0))),
            4 => {
                if let Some(again) = way[to].get(next().unwrap_or(0) as usize).cloned() {
                    way[to].insert(0, again);
                }
            }
            5 => {
                // a peer's packet, changed: only the second end gets such
                let (at, with) = (next().unwrap_or(0) as usize, next().unwrap_or(0));
                if let Some(b) = way[1].first_mut().and_then(|p| p.get_mut(at)) {
                    *b ^= with as u8;
                }
            }
            6 => {
                // a packet nobody sent
                let len = next().unwrap_or(0) as usize % 160;
                let made: Vec<u8> = (0..len).map_while(|_| next()).map(|b| b as u8).collect();
                way[1].insert(0, made);
            }
            7 => ends[to].deny(now, Ev(next().unwrap_or(0) as u16), op & 64 != 0),
            8 if op & 96 == 96 => ends[to].close(CloseReason::Aborted),
            _ => {
                if way[to].is_empty() {
                    continue;
                }
                let bytes = way[to].remove(0);
                let Ok(packet) = read(&bytes) else { continue };
                let seen = Seen { marked: op & 16 != 0, trimmed: op & 32 != 0 && op & 64 != 0 };
                let _ = ends[to].handle_input(now, &packet, seen);
                pacers[to].handle_input(0, &mut ends[to]);
            }
        }
        for end in 0..2 {
            drive(now, end, &config, &mut ends[end], &mut pacers[end], &mut way);
        }
    }
}

/// Reads a packet whose payload was left out.
fn read(bytes: &[u8]) -> Result<wire::transport::Packet, wire::transport::packet::Reject> {
    use wire::transport::packet::{decode, decode_trimmed};
    decode(bytes, 0).or_else(|_| decode_trimmed(bytes)).map(|p| p.packet)
}

/// Everything that can go out goes out, and what must hold is looked at.
fn drive(
    now: Nanos,
    end: usize,
    config: &transport::Config,
    machine: &mut transport::Connection,
    pacer: &mut transport::Pacer,
    way: &mut [Vec<Vec<u8>>; 2],
) {
    /// Packets kept on the way to an end; more are lost.
    const WAY_MAX: usize = 64;
    if machine.next_timeout().is_some_and(|at| at <= now) {
        machine.handle_timeout(now);
    }
    let mut idle = 0;
    loop {
        let mut grants = 0;
        while let Some(slot) = pacer.poll_slot(now) {
            pacer.grant(now, slot, machine);
            grants += 1;
            assert!(grants < 10_000, "grants without end");
        }
        let (mut sink, mut polls) = (Vec::new(), 0);
        while machine.poll_output(now, 4, &mut sink).is_some() {
            polls += 1;
            assert!(polls < 10_000, "output without end");
        }
        for packet in &sink {
            let mut bytes = Vec::new();
            assert_eq!(wire::transport::packet::encode(packet, 0, false, &mut bytes), Ok(()));
            if way[1 - end].len() < WAY_MAX {
                way[1 - end].push(bytes);
            }
        }
        while machine.poll_event().is_some() {}
        if machine.next_timeout().is_none_or(|at| at > now) {
            break;
        }
        idle += 1;
        assert!(idle < 8, "due at {:?}, it is {now:?}, and nothing comes of it", machine.next_timeout());
        machine.handle_timeout(now);
    }
    let c = machine.counters();
    assert_eq!(c.sent, c.acknowledged + c.lost + machine.in_flight(), "{c:?}");
    assert_eq!(c.sent, c.chunks_new + c.chunks_again + c.probes, "{c:?}");
    assert!(machine.memory_bytes() as u64 <= config.memory_bytes_max(), "{}", machine.memory_bytes());
}
