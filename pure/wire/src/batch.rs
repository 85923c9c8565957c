//! Observations to columns and back: the body of a [`Batch`] between agent and hub.
//!
//! How: [`push_path`] and [`push_component`] append one row to every column; [`paths`] and [`components`] check that
//! the columns are of one length and then yield row by row. Who counted and in which fabric is said once for the
//! whole batch, so both are arguments of the decoder.
//!
//! Invariants: what was pushed comes out equal (window lengths rounded to the microsecond); any columns at all are
//! answered with rows or with a [`BatchError`] that says what was expected, never with a panic; a row that is refused
//! does not take the other rows with it.
//! Absent on purpose: numbering and acknowledging of batches (that is the agent's and the hub's), and any check
//! against a fabric.

use crate::id::{Component, Epoch, HostId, LinkId, NicId, PathId, SwitchId};
use crate::observation::{
    ClockQuality, ComponentObservation, Counter, DelaySummary, Known, Leg, PathObservation, PathRef, Source,
    Window,
};
use crate::proto::{Batch, ComponentColumns, PathColumns};
use crate::time::Nanos;

/// Version of the agent-hub protocol this code speaks.
pub const PROTOCOL_VERSION: u32 = 1;
/// Oldest version it understands: the one before, once there is one.
pub const PROTOCOL_VERSION_OLDEST: u32 = 1;

/// Why columns, or one row of them, are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A column is longer or shorter than the first one.
    #[error("column {column} has {got} rows, expected {expected} as in the first column")]
    UnequalColumns {
        /// Name of the column.
        column: &'static str,
        /// Rows of the first column.
        expected: usize,
        /// Rows of this one.
        got: usize,
    },
    /// A value is not one that the column may hold.
    #[error("row {row}: {column} is {got}, expected {expected}")]
    OutOfRange {
        /// Name of the column.
        column: &'static str,
        /// Row, from 0.
        row: usize,
        /// What was expected, in words.
        expected: &'static str,
        /// What was there.
        got: u64,
    },
    /// A part is larger than the whole it is taken from.
    #[error("row {row}: {column} is {got}, expected at most {limit} ({of})")]
    Exceeds {
        /// Name of the column.
        column: &'static str,
        /// Row, from 0.
        row: usize,
        /// Largest value possible here.
        limit: u64,
        /// Where the limit comes from.
        of: &'static str,
        /// What was there.
        got: u64,
    },
}

/// Whether a peer that says it speaks `version` is understood.
pub const fn version_is_understood(version: u32) -> bool {
    version >= PROTOCOL_VERSION_OLDEST && version <= PROTOCOL_VERSION
}

/// Rows of a batch, of all kinds together, going by the first columns.
pub fn rows(batch: &Batch) -> u64 {
    let counts = [
        batch.paths.as_ref().map_or(0, |p| p.window_start_ns.len()),
        batch.components.as_ref().map_or(0, |c| c.window_start_ns.len()),
        batch.tcp.as_ref().map_or(0, |c| c.window_start_ns.len()),
        batch.drops.as_ref().map_or(0, |c| c.window_start_ns.len()),
        batch.metrics.as_ref().map_or(0, |c| c.window_start_ns.len()),
        batch.sensors.as_ref().map_or(0, |c| c.window_start_ns.len()),
    ];
    counts.iter().fold(0, |sum, n| sum.saturating_add(*n as u64))
}

fn micros(length: Nanos) -> u32 {
    u32::try_from((length.0.saturating_add(500)) / 1_000).unwrap_or(u32::MAX)
}

/// Appends one observation. Its producer and epoch are the batch's and are not written.
pub fn push_path(to: &mut PathColumns, o: &PathObservation) {
    to.window_start_ns.push(o.window.start.0);
    to.window_length_us.push(micros(o.window.length));
    to.sequence.push(o.sequence);
    let (kind, path, back) = match o.path {
        PathRef::OneWay(leg) => (leg.known as u32, leg.path.0, 0),
        PathRef::RoundTrip { forward, backward } => {
            (forward.known as u32 | 4 | (backward.known as u32) << 3, forward.path.0, backward.path.0)
        }
    };
    to.path_kind.push(kind);
    to.path.push(path);
    to.path_back.push(back);
    to.class.push(o.class.into());
    to.size_log2.push(o.size_log2.into());
    to.entropy.push(o.entropy.into());
    to.sent.push(o.sent);
    to.lost.push(o.lost);
    to.reordered.push(o.reordered);
    to.ecn_marked.push(o.ecn_marked);
    to.source.push(o.source as u32);
    to.delay_clock.push(o.delay.map_or(0, |d| 1 + d.clock as u32));
    to.delay_count.push(o.delay.map_or(0, |d| d.count));
    to.delay_over.push(o.delay.map_or(0, |d| d.over));
    to.delay_excess_ns.push(o.delay.map_or(0, |d| d.excess_ns));
    to.delay_min_ns.push(o.delay.map_or(0, |d| d.min_ns));
    to.delay_p50_ns.push(o.delay.map_or(0, |d| d.p50_ns));
    to.delay_max_ns.push(o.delay.map_or(0, |d| d.max_ns));
}

/// Appends one observation. Its producer and epoch are the batch's and are not written.
pub fn push_component(to: &mut ComponentColumns, o: &ComponentObservation) {
    to.window_start_ns.push(o.window.start.0);
    to.window_length_us.push(micros(o.window.length));
    let (kind, id) = match o.component {
        Component::Link(l) => (0, l.0),
        Component::Switch(s) => (1, s.0),
        Component::Nic(n) => (2, n.0),
        Component::Host(h) => (3, h.0),
    };
    to.component_kind.push(kind);
    to.component.push(id);
    to.counter.push(o.counter as u32);
    to.delta.push(o.delta);
    to.of.push(o.of);
    to.size_ns.push(o.size_ns);
}

fn same_length(expected: usize, columns: &[(&'static str, usize)]) -> Result<(), BatchError> {
    match columns.iter().find(|(_, got)| *got != expected) {
        Some(&(column, got)) => Err(BatchError::UnequalColumns { column, expected, got }),
        None => Ok(()),
    }
}

/// One column of one row; the lengths were checked before, so the fallback is never seen.
fn at<T: Copy + Default>(column: &[T], row: usize) -> T {
    column.get(row).copied().unwrap_or_default()
}

fn known(row: usize, bits: u32, whole: u32) -> Result<Known, BatchError> {
    match bits & 3 {
        0 => Ok(Known::Exact),
        1 => Ok(Known::Discovered),
        2 => Ok(Known::Mixture),
        _ => Err(BatchError::OutOfRange {
            column: "path_kind",
            row,
            expected: "0 exact, 1 discovered or 2 mixture for each leg",
            got: whole.into(),
        }),
    }
}

/// The path observations of a batch, row by row. `producer` is the host of the certificate, `epoch` the batch's.
pub fn paths(
    c: &PathColumns,
    producer: HostId,
    epoch: Epoch,
) -> Result<impl Iterator<Item = Result<PathObservation, BatchError>>, BatchError> {
    let n = c.window_start_ns.len();
    same_length(
        n,
        &[
            ("window_length_us", c.window_length_us.len()),
            ("sequence", c.sequence.len()),
            ("path_kind", c.path_kind.len()),
            ("path", c.path.len()),
            ("path_back", c.path_back.len()),
            ("class", c.class.len()),
            ("size_log2", c.size_log2.len()),
            ("entropy", c.entropy.len()),
            ("sent", c.sent.len()),
            ("lost", c.lost.len()),
            ("reordered", c.reordered.len()),
            ("ecn_marked", c.ecn_marked.len()),
            ("source", c.source.len()),
            ("delay_clock", c.delay_clock.len()),
            ("delay_count", c.delay_count.len()),
            ("delay_over", c.delay_over.len()),
            ("delay_excess_ns", c.delay_excess_ns.len()),
            ("delay_min_ns", c.delay_min_ns.len()),
            ("delay_p50_ns", c.delay_p50_ns.len()),
            ("delay_max_ns", c.delay_max_ns.len()),
        ],
    )?;
    Ok((0..n).map(move |row| path_row(c, row, producer, epoch)))
}

fn path_row(
    c: &PathColumns,
    row: usize,
    producer: HostId,
    epoch: Epoch,
) -> Result<PathObservation, BatchError> {
    let out_of_range =
        |column, expected, got: u32| BatchError::OutOfRange { column, row, expected, got: got.into() };
    let at_most = |column, got: u32, limit: u32, of| {
        if got <= limit {
            Ok(got)
        } else {
            Err(BatchError::Exceeds { column, row, limit: limit.into(), of, got: got.into() })
        }
    };

    let kind = at(&c.path_kind, row);
    let forward = Leg { path: PathId(at(&c.path, row)), known: known(row, kind, kind)? };
    let path = match kind {
        0..=3 => PathRef::OneWay(forward),
        4..=31 if kind & 4 != 0 => PathRef::RoundTrip {
            forward,
            backward: Leg { path: PathId(at(&c.path_back, row)), known: known(row, kind >> 3, kind)? },
        },
        _ => {
            return Err(out_of_range("path_kind", "bits 3-4 only together with bit 2, nothing above", kind));
        }
    };
    let class = at(&c.class, row);
    let class = u8::try_from(class).ok().filter(|&c| c <= 63).ok_or(out_of_range(
        "class",
        "a DSCP of 0 to 63",
        class,
    ))?;
    let size = at(&c.size_log2, row);
    let size_log2 = u8::try_from(size).map_err(|_| out_of_range("size_log2", "0 to 255", size))?;
    let entropy = at(&c.entropy, row);
    let entropy = u16::try_from(entropy).map_err(|_| out_of_range("entropy", "0 to 65535", entropy))?;
    let source = match at(&c.source, row) {
        0 => Source::Probe,
        1 => Source::Transport,
        2 => Source::Flow,
        got => return Err(out_of_range("source", "0 probe, 1 transport or 2 flow", got)),
    };
    let sent = at(&c.sent, row);
    let lost = at_most("lost", at(&c.lost, row), sent, "sent")?;
    let arrived = sent.saturating_sub(lost);
    let reordered = at_most("reordered", at(&c.reordered, row), arrived, "sent - lost")?;
    let ecn_marked = at_most("ecn_marked", at(&c.ecn_marked, row), arrived, "sent - lost")?;
    let clock = match at(&c.delay_clock, row) {
        0 => None,
        1 => Some(ClockQuality::Free),
        2 => Some(ClockQuality::Synchronized),
        3 => Some(ClockQuality::Same),
        got => {
            return Err(out_of_range("delay_clock", "0 none, 1 free, 2 synchronized or 3 same", got));
        }
    };
    let delay = match clock {
        None => None,
        Some(clock) => {
            let count = at_most("delay_count", at(&c.delay_count, row), arrived, "sent - lost")?;
            Some(DelaySummary {
                clock,
                count,
                over: at_most("delay_over", at(&c.delay_over, row), count, "delay_count")?,
                excess_ns: at(&c.delay_excess_ns, row),
                min_ns: at(&c.delay_min_ns, row),
                p50_ns: at(&c.delay_p50_ns, row),
                max_ns: at(&c.delay_max_ns, row),
            })
        }
    };
    Ok(PathObservation {
        window: window(at(&c.window_start_ns, row), at(&c.window_length_us, row)),
        producer,
        sequence: at(&c.sequence, row),
        epoch,
        path,
        class,
        size_log2,
        entropy,
        sent,
        lost,
        reordered,
        ecn_marked,
        delay,
        source,
    })
}

fn window(start_ns: u64, length_us: u32) -> Window {
    Window { start: Nanos(start_ns), length: Nanos::from_micros(length_us.into()) }
}

/// The component observations of a batch, row by row.
pub fn components(
    c: &ComponentColumns,
    producer: HostId,
    epoch: Epoch,
) -> Result<impl Iterator<Item = Result<ComponentObservation, BatchError>>, BatchError> {
    let n = c.window_start_ns.len();
    same_length(
        n,
        &[
            ("window_length_us", c.window_length_us.len()),
            ("component_kind", c.component_kind.len()),
            ("component", c.component.len()),
            ("counter", c.counter.len()),
            ("delta", c.delta.len()),
            ("of", c.of.len()),
            ("size_ns", c.size_ns.len()),
        ],
    )?;
    Ok((0..n).map(move |row| {
        let out_of_range =
            |column, expected, got: u32| BatchError::OutOfRange { column, row, expected, got: got.into() };
        let id = at(&c.component, row);
        let component = match at(&c.component_kind, row) {
            0 => Component::Link(LinkId(id)),
            1 => Component::Switch(SwitchId(id)),
            2 => Component::Nic(NicId(id)),
            3 => Component::Host(HostId(id)),
            got => {
                return Err(out_of_range("component_kind", "0 link, 1 switch, 2 nic or 3 host", got));
            }
        };
        let number = at(&c.counter, row);
        let counter = Counter::ALL
            .get(number as usize)
            .copied()
            .ok_or_else(|| out_of_range("counter", "the number of a counter this release knows", number))?;
        Ok(ComponentObservation {
            window: window(at(&c.window_start_ns, row), at(&c.window_length_us, row)),
            producer,
            epoch,
            component,
            counter,
            delta: at(&c.delta, row),
            of: at(&c.of, row),
            size_ns: at(&c.size_ns, row),
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec::Vec;
    use proptest::prelude::*;
    use prost::Message;

    fn a_leg() -> impl Strategy<Value = Leg> {
        (any::<u64>(), prop_oneof![Just(Known::Exact), Just(Known::Discovered), Just(Known::Mixture)])
            .prop_map(|(p, known)| Leg { path: PathId(p), known })
    }
    fn a_window() -> impl Strategy<Value = Window> {
        (any::<u64>(), any::<u32>())
            .prop_map(|(s, us)| Window { start: Nanos(s), length: Nanos::from_micros(us.into()) })
    }
    fn a_delay(arrived: u32) -> impl Strategy<Value = Option<DelaySummary>> {
        let clock =
            prop_oneof![Just(ClockQuality::Free), Just(ClockQuality::Synchronized), Just(ClockQuality::Same)];
        proptest::option::of((clock, 0..=arrived, any::<(u64, i64, i64, i64)>()).prop_flat_map(
            |(clock, count, rest)| {
                (0..=count).prop_map(move |over| DelaySummary {
                    clock,
                    count,
                    over,
                    excess_ns: rest.0,
                    min_ns: rest.1,
                    p50_ns: rest.2,
                    max_ns: rest.3,
                })
            },
        ))
    }
    fn a_path_observation() -> impl Strategy<Value = PathObservation> {
        let path = prop_oneof![
            a_leg().prop_map(PathRef::OneWay),
            (a_leg(), a_leg()).prop_map(|(forward, backward)| PathRef::RoundTrip { forward, backward }),
        ];
        let source = prop_oneof![Just(Source::Probe), Just(Source::Transport), Just(Source::Flow)];
        let counts = any::<u32>()
            .prop_flat_map(|sent| (Just(sent), 0..=sent))
            .prop_flat_map(|(s, l)| (Just(s), Just(l), 0..=s - l, 0..=s - l, a_delay(s - l)));
        (a_window(), any::<u64>(), path, 0u8..64, any::<(u8, u16)>(), counts, source).prop_map(
            |(window, sequence, path, class, (size_log2, entropy), c, source)| PathObservation {
                window,
                producer: HostId(7),
                sequence,
                epoch: Epoch(9),
                path,
                class,
                size_log2,
                entropy,
                sent: c.0,
                lost: c.1,
                reordered: c.2,
                ecn_marked: c.3,
                delay: c.4,
                source,
            },
        )
    }
    fn a_component_observation() -> impl Strategy<Value = ComponentObservation> {
        let component = any::<(u32, u32)>().prop_map(|(k, id)| match k % 4 {
            0 => Component::Link(LinkId(id)),
            1 => Component::Switch(SwitchId(id)),
            2 => Component::Nic(NicId(id)),
            _ => Component::Host(HostId(id)),
        });
        let counter = prop::sample::select(Counter::ALL.to_vec());
        (a_window(), component, counter, any::<(u64, u64, u64)>()).prop_map(
            |(window, component, counter, (delta, of, size_ns))| ComponentObservation {
                window,
                producer: HostId(7),
                epoch: Epoch(9),
                component,
                counter,
                delta,
                of,
                size_ns,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_pushed_comes_out_after_the_wire(
            p in proptest::collection::vec(a_path_observation(), 0..20),
            c in proptest::collection::vec(a_component_observation(), 0..20),
        ) {
            let mut batch = Batch { paths: Some(PathColumns::default()), components: Some(ComponentColumns::default()), ..Batch::default() };
            for o in &p {
                push_path(batch.paths.as_mut().unwrap(), o);
            }
            for o in &c {
                push_component(batch.components.as_mut().unwrap(), o);
            }
            let batch = Batch::decode(batch.encode_to_vec().as_slice()).unwrap();
            let got: Result<Vec<_>, _> = paths(batch.paths.as_ref().unwrap(), HostId(7), Epoch(9)).unwrap().collect();
            prop_assert_eq!(got.unwrap(), p);
            let got: Result<Vec<_>, _> = components(batch.components.as_ref().unwrap(), HostId(7), Epoch(9)).unwrap().collect();
            prop_assert_eq!(got.unwrap(), c);
        }

        #[test]
        fn any_bytes_are_an_outcome(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_all(&bytes);
        }

        /// Valid columns with arbitrary numbers in them reach every check, which arbitrary bytes hardly do.
        #[test]
        fn any_numbers_are_an_outcome(mut o in a_path_observation(), column in 0usize..13, value in any::<u32>(), short in any::<bool>()) {
            o.sequence = 1;
            let mut c = PathColumns::default();
            push_path(&mut c, &o);
            let columns = [
                &mut c.path_kind, &mut c.class, &mut c.size_log2, &mut c.entropy, &mut c.sent, &mut c.lost,
                &mut c.reordered, &mut c.ecn_marked, &mut c.source, &mut c.delay_clock, &mut c.delay_count,
                &mut c.delay_over, &mut c.window_length_us,
            ];
            columns.into_iter().nth(column).unwrap()[0] = value;
            if short {
                c.delay_max_ns.clear();
                prop_assert!(paths(&c, HostId(7), Epoch(9)).is_err());
            } else {
                for row in paths(&c, HostId(7), Epoch(9)).unwrap().flatten() {
                    prop_assert!(row.lost <= row.sent && row.class <= 63);
                }
            }
        }
    }

    fn decode_all(bytes: &[u8]) -> usize {
        let Ok(batch) = Batch::decode(bytes) else { return 0 };
        let p = batch.paths.as_ref().and_then(|c| Some(paths(c, HostId(0), Epoch(0)).ok()?.count()));
        let c =
            batch.components.as_ref().and_then(|c| Some(components(c, HostId(0), Epoch(0)).ok()?.count()));
        p.unwrap_or(0) + c.unwrap_or(0)
    }

    #[test]
    fn a_refusal_says_what_was_expected() {
        let mut rows = Vec::new();
        let mut check = |spoil: &dyn Fn(&mut PathColumns)| {
            let o = PathObservation {
                window: Window { start: Nanos(1), length: Nanos::from_millis(500) },
                producer: HostId(7),
                sequence: 1,
                epoch: Epoch(9),
                path: PathRef::OneWay(Leg { path: PathId(3), known: Known::Exact }),
                class: 0,
                size_log2: 7,
                entropy: 0,
                sent: 10,
                lost: 1,
                reordered: 0,
                ecn_marked: 0,
                delay: None,
                source: Source::Probe,
            };
            let mut c = PathColumns::default();
            push_path(&mut c, &o);
            push_path(&mut c, &o);
            spoil(&mut c);
            let outcome = match paths(&c, HostId(7), Epoch(9)) {
                Err(e) => e.to_string(),
                Ok(rows) => {
                    rows.filter_map(|r| r.err()).map(|e| e.to_string()).collect::<Vec<_>>().join("; ")
                }
            };
            rows.push(outcome);
        };
        check(&|c| c.sent.truncate(1));
        check(&|c| c.lost[1] = 11);
        check(&|c| c.path_kind[0] = 3);
        check(&|c| c.path_kind[0] = 8);
        check(&|c| c.class[0] = 64);
        check(&|c| c.source[0] = 9);
        check(&|c| c.delay_clock[1] = 4);
        check(&|c| {
            c.delay_clock[1] = 1;
            c.delay_count[1] = 10;
        });
        insta::assert_snapshot!(rows.join("\n"), @r"
        column sent has 1 rows, expected 2 as in the first column
        row 1: lost is 11, expected at most 10 (sent)
        row 0: path_kind is 3, expected 0 exact, 1 discovered or 2 mixture for each leg
        row 0: path_kind is 8, expected bits 3-4 only together with bit 2, nothing above
        row 0: class is 64, expected a DSCP of 0 to 63
        row 0: source is 9, expected 0 probe, 1 transport or 2 flow
        row 1: delay_clock is 4, expected 0 none, 1 free, 2 synchronized or 3 same
        row 1: delay_count is 10, expected at most 9 (sent - lost)
        ");
    }

    #[test]
    fn this_version_and_the_one_before_are_understood() {
        assert!(version_is_understood(PROTOCOL_VERSION));
        assert!(!version_is_understood(PROTOCOL_VERSION + 1));
        assert!(!version_is_understood(0));
    }
}
