//! What hosts' sensors count, as rows of the tables: connections, drops, numbers, and how the sensors are.
//!
//! Invariants: rows of a batch = rows of its parts + rows refused, by reason; text is cut to what a table should hold.

use crate::rows::{Part, int, ints, is_of_now, longs, micros, part, texts, times};
use crate::told::Addresses;
use std::sync::Arc;
use tables::arrow::array::{ArrayRef, BinaryArray, Float64Array, Int8Array, new_null_array};
use tables::arrow::datatypes::DataType;
use tables::schema;
use wire::proto::Batch;
use wire::sensor::{DropRow, MetricRow, SensorRow, TcpRow};
use wire::{HostId, Nanos, Window};

/// Bytes of a text a host tells.
const TEXT_MAX: usize = 256;
/// Bytes of a packet's example.
const EXEMPLAR_MAX: usize = 64;

fn cut(text: &str) -> &str {
    let end = (0..=TEXT_MAX.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

fn long(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Rows of one kind that are of now; the others are counted.
fn of_now<R>(
    now: Nanos,
    rows: Option<Result<impl Iterator<Item = R>, wire::batch::BatchError>>,
    count: usize,
    window: impl Fn(&R) -> (u64, u32),
    refuse: &mut impl FnMut(&'static str, u64),
) -> Vec<R> {
    match rows {
        None => Vec::new(),
        Some(Err(_)) => {
            refuse("unequal_columns", count as u64);
            Vec::new()
        }
        Some(Ok(rows)) => {
            let (taken, late): (Vec<R>, Vec<R>) = rows.partition(|r| {
                let (start, length_us) = window(r);
                is_of_now(now, &Window { start: Nanos(start), length: Nanos(u64::from(length_us) * 1_000) })
            });
            refuse("wrong_time", late.len() as u64);
            taken
        }
    }
}

/// Everything of a batch that sensors counted.
pub(crate) fn parts(
    now: Nanos,
    producer: HostId,
    batch: &Batch,
    addresses: &mut Addresses,
    refuse: &mut impl FnMut(&'static str, u64),
) -> Vec<Part> {
    use wire::sensor as s;
    let mut parts = Vec::new();
    if let Some(c) = &batch.tcp {
        let rows =
            of_now(now, Some(s::tcp(c)), s::tcp_rows(c), |r| (r.window_start_ns, r.window_length_us), refuse);
        if !rows.is_empty() {
            parts.push(tcp(producer, &rows, addresses));
        }
    }
    if let Some(c) = &batch.drops {
        let rows = of_now(
            now,
            Some(s::drops(c)),
            s::drop_rows(c),
            |r| (r.window_start_ns, r.window_length_us),
            refuse,
        );
        if !rows.is_empty() {
            parts.push(drops(producer, &rows, addresses));
        }
    }
    if let Some(c) = &batch.metrics {
        let rows = of_now(
            now,
            Some(s::metrics(c)),
            s::metric_rows(c),
            |r| (r.window_start_ns, r.window_length_us),
            refuse,
        );
        if !rows.is_empty() {
            parts.push(metrics(producer, &rows));
        }
    }
    if let Some(c) = &batch.sensors {
        let rows = of_now(
            now,
            Some(s::sensors(c)),
            s::sensor_rows(c),
            |r| (r.window_start_ns, r.window_length_us),
            refuse,
        );
        if !rows.is_empty() {
            parts.push(sensors(producer, &rows));
        }
    }
    parts
}

fn state(number: u32) -> &'static str {
    match number {
        1 => "established",
        2 => "syn_sent",
        3 => "syn_recv",
        4 => "fin_wait1",
        5 => "fin_wait2",
        6 => "time_wait",
        7 => "close",
        8 => "close_wait",
        9 => "last_ack",
        10 => "listen",
        11 => "closing",
        12 => "new_syn_recv",
        _ => "unknown",
    }
}

fn congestion(number: u32) -> &'static str {
    match number {
        0 => "open",
        1 => "disorder",
        2 => "cwr",
        3 => "recovery",
        4 => "loss",
        _ => "unknown",
    }
}

fn tcp(producer: HostId, rows: &[TcpRow], addresses: &mut Addresses) -> Part {
    let r = || rows.iter();
    let mut address = |of: fn(&TcpRow) -> &[u8]| -> ArrayRef {
        let stands: Vec<Option<[u8; 16]>> =
            rows.iter().map(|row| of(row).try_into().ok().map(|a| addresses.of(a))).collect();
        Arc::new(stands.iter().map(|a| a.as_ref().map(|a| a.as_slice())).collect::<BinaryArray>())
    };
    let (local, remote) = (address(|r| &r.local), address(|r| &r.remote));
    let n = |of: fn(&TcpRow) -> u32| ints(rows.iter().map(|r| int(of(r))));
    let l = |of: fn(&TcpRow) -> u64| longs(rows.iter().map(|r| long(of(r))));
    let bit = |bit: u32| -> ArrayRef {
        Arc::new(Int8Array::from_iter_values(rows.iter().map(|r| i8::from(r.zero_window & bit != 0))))
    };
    part(
        &schema::TCP_INTERVAL,
        vec![
            times(r().map(|r| micros(Nanos(r.window_start_ns)))),
            n(|r| r.window_length_us),
            ints(r().map(|_| int(producer.0))),
            local,
            remote,
            n(|r| r.local_port),
            n(|r| r.remote_port),
            n(|r| r.connections),
            n(|r| r.failed),
            n(|r| r.pid),
            texts(r().map(|r| cut(&r.process))),
            texts(r().map(|r| cut(&r.container))),
            longs(r().map(|r| r.cgroup.cast_signed())),
            texts(r().map(|r| state(r.state))),
            texts(r().map(|r| congestion(r.ca_state))),
            n(|r| r.rtt_min_us),
            n(|r| r.rtt_p50_us),
            n(|r| r.rtt_max_us),
            n(|r| r.rtt_samples),
            n(|r| r.srtt_us),
            l(|r| r.retrans),
            l(|r| r.retrans_fast),
            l(|r| r.retrans_timeout),
            l(|r| r.retrans_probe),
            l(|r| r.retrans_spurious),
            l(|r| r.out_of_order),
            bit(1),
            bit(2),
            l(|r| r.bytes_acked),
            l(|r| r.bytes_received),
            l(|r| r.segs_out),
            l(|r| r.segs_in),
            l(|r| r.delivered),
            l(|r| r.delivered_ce),
            l(|r| r.delivery_rate),
            l(|r| r.pacing_rate),
            n(|r| r.cwnd),
            n(|r| r.unacked),
            n(|r| r.unsent),
            n(|r| r.unread),
            l(|r| r.busy_us),
            l(|r| r.rwnd_limited_us),
            l(|r| r.sndbuf_limited_us),
        ],
    )
}

fn drops(producer: HostId, rows: &[DropRow], addresses: &mut Addresses) -> Part {
    let r = || rows.iter();
    let veiled = |row: &DropRow| {
        let mut bytes = row.exemplar.get(..row.exemplar.len().min(EXEMPLAR_MAX)).unwrap_or_default().to_vec();
        addresses.cover_header(&mut bytes);
        (!bytes.is_empty()).then_some(bytes)
    };
    let exemplar: Vec<Option<Vec<u8>>> = rows.iter().map(veiled).collect();
    part(
        &schema::DROP_EVENT,
        vec![
            times(r().map(|r| micros(Nanos(r.window_start_ns)))),
            ints(r().map(|r| int(r.window_length_us))),
            ints(r().map(|_| int(producer.0))),
            new_null_array(&DataType::Int32, rows.len()),
            texts(r().map(|r| cut(&r.reason))),
            texts(r().map(|r| cut(&r.place))),
            texts(r().map(|r| cut(&r.device))),
            ints(r().map(|r| int(r.protocol))),
            longs(r().map(|r| long(r.packets))),
            longs(r().map(|r| long(r.bytes))),
            Arc::new(exemplar.iter().map(|e| e.as_deref()).collect::<BinaryArray>()),
        ],
    )
}

fn metrics(producer: HostId, rows: &[MetricRow]) -> Part {
    let r = || rows.iter();
    let form = |n: u32| match n {
        0 => "gauge",
        1 => "counter",
        _ => "delta",
    };
    part(
        &schema::METRIC,
        vec![
            times(r().map(|r| micros(Nanos(r.window_start_ns)))),
            ints(r().map(|r| int(r.window_length_us))),
            texts(r().map(|r| cut(&r.sensor))),
            ints(r().map(|_| int(producer.0))),
            texts(r().map(|_| "")),
            texts(r().map(|r| cut(&r.entity_kind))),
            texts(r().map(|r| cut(&r.entity))),
            texts(r().map(|r| cut(&r.name))),
            Arc::new(Float64Array::from_iter_values(r().map(|r| r.value))),
            texts(r().map(|r| form(r.form))),
            new_null_array(&DataType::Utf8, rows.len()),
            new_null_array(&DataType::Utf8, rows.len()),
        ],
    )
}

fn sensors(producer: HostId, rows: &[SensorRow]) -> Part {
    let r = || rows.iter();
    let state = |n: u32| match n {
        0 => "runs",
        1 => "shed",
        _ => "missing",
    };
    part(
        &schema::SENSOR,
        vec![
            times(r().map(|r| micros(Nanos(r.window_start_ns)))),
            ints(r().map(|r| int(r.window_length_us))),
            ints(r().map(|_| int(producer.0))),
            texts(r().map(|r| cut(&r.sensor))),
            texts(r().map(|r| state(r.state))),
            longs(r().map(|r| long(r.cost_us))),
            longs(r().map(|r| long(r.lost))),
            texts(r().map(|r| cut(&r.text))),
        ],
    )
}
