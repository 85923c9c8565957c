//! What a host's sensors count, as rows and as the columns of a [`Batch`](crate::proto::Batch).
//!
//! How: one row type for each of the columns' messages, made from one list, so that a column is named once here and once
//! in `selvedge.proto`, which says what each means.
//! Invariants: what was pushed comes out equal; columns of unequal length are refused whole and never read past an end.
//! Absent on purpose: what a sensor is (that is the agent's), and whether a value makes sense.

use crate::batch::BatchError;
use crate::proto::{DropColumns, MetricColumns, PassingColumns, SensorColumns, TcpColumns};
use alloc::string::String;
use alloc::vec::Vec;

macro_rules! rows {
    ($(#[$doc:meta])* $row:ident, $columns:ident, $push:ident, $read:ident, $count:ident, [$($field:ident: $kind:ty,)*]) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        #[allow(missing_docs)]
        pub struct $row {
            $(pub $field: $kind,)*
        }

        /// Appends a row.
        pub fn $push(to: &mut $columns, row: $row) {
            $(to.$field.push(row.$field);)*
        }

        /// Rows there are, going by the first column.
        pub fn $count(c: &$columns) -> usize {
            c.window_start_ns.len()
        }

        /// The rows. Refused where the columns are of different lengths.
        pub fn $read(c: &$columns) -> Result<impl Iterator<Item = $row> + '_, BatchError> {
            let expected = c.window_start_ns.len();
            $(if c.$field.len() != expected {
                return Err(BatchError::UnequalColumns {
                    column: stringify!($field),
                    expected,
                    got: c.$field.len(),
                });
            })*
            Ok((0..expected).map(|at| $row {
                // The lengths were just checked, so the default is never seen.
                $($field: c.$field.get(at).cloned().unwrap_or_default(),)*
            }))
        }
    };
}

rows!(
    /// A TCP connection in one interval, or those that ended in it together. Its fields are the columns of `TcpColumns`.
    TcpRow,
    TcpColumns,
    push_tcp,
    tcp,
    tcp_rows,
    [
        window_start_ns: u64,
        window_length_us: u32,
        local: Vec<u8>,
        remote: Vec<u8>,
        local_port: u32,
        remote_port: u32,
        connections: u32,
        failed: u32,
        pid: u32,
        process: String,
        cgroup: u64,
        container: String,
        state: u32,
        ca_state: u32,
        rtt_min_us: u32,
        rtt_p50_us: u32,
        rtt_max_us: u32,
        rtt_samples: u32,
        srtt_us: u32,
        retrans: u64,
        retrans_fast: u64,
        retrans_timeout: u64,
        retrans_probe: u64,
        retrans_spurious: u64,
        out_of_order: u64,
        zero_window: u32,
        bytes_acked: u64,
        bytes_received: u64,
        segs_out: u64,
        segs_in: u64,
        delivered: u64,
        delivered_ce: u64,
        delivery_rate: u64,
        pacing_rate: u64,
        cwnd: u32,
        unacked: u32,
        unsent: u32,
        unread: u32,
        busy_us: u64,
        rwnd_limited_us: u64,
        sndbuf_limited_us: u64,
    ]
);

rows!(
    /// Packets the kernel threw away, of one kind. Its fields are the columns of `DropColumns`.
    DropRow,
    DropColumns,
    push_drop,
    drops,
    drop_rows,
    [
        window_start_ns: u64,
        window_length_us: u32,
        reason: String,
        place: String,
        device: String,
        protocol: u32,
        packets: u64,
        bytes: u64,
        exemplar: Vec<u8>,
    ]
);

rows!(
    /// A number of a host. Its fields are the columns of `MetricColumns`.
    MetricRow,
    MetricColumns,
    push_metric,
    metrics,
    metric_rows,
    [
        window_start_ns: u64,
        window_length_us: u32,
        sensor: String,
        entity_kind: String,
        entity: String,
        name: String,
        value: f64,
        form: u32,
    ]
);

rows!(
    /// Packets of a flow that passed an interface. Its fields are the columns of `PassingColumns`.
    PassingRow,
    PassingColumns,
    push_passing,
    passing,
    passing_rows,
    [
        window_start_ns: u64,
        window_length_us: u32,
        device: String,
        way: u32,
        from: Vec<u8>,
        to: Vec<u8>,
        from_port: u32,
        to_port: u32,
        protocol: u32,
        packets: u64,
        bytes: u64,
        marked: u64,
        hops_left_min: u32,
        hops_left_max: u32,
        one_in: u32,
    ]
);

rows!(
    /// How a sensor is. Its fields are the columns of `SensorColumns`.
    SensorRow,
    SensorColumns,
    push_sensor,
    sensors,
    sensor_rows,
    [
        window_start_ns: u64,
        window_length_us: u32,
        sensor: String,
        state: u32,
        cost_us: u64,
        lost: u64,
        text: String,
    ]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_as_they_went_in_and_columns_must_be_level() {
        let mut c = TcpColumns::default();
        let row = |n: u32| TcpRow {
            window_start_ns: n.into(),
            local: [7; 16].to_vec(),
            process: "trainer".into(),
            retrans_probe: 3,
            unread: n,
            ..TcpRow::default()
        };
        (0..3).for_each(|n| push_tcp(&mut c, row(n)));
        assert_eq!(tcp(&c).unwrap().collect::<Vec<_>>(), (0..3).map(row).collect::<Vec<_>>());
        c.unread.pop();
        let refused = tcp(&c).map(|_| ()).unwrap_err();
        assert_eq!(refused, BatchError::UnequalColumns { column: "unread", expected: 3, got: 2 });
    }
}
