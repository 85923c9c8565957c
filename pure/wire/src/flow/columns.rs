//! Flow records as columns: what a decoder fills and a table is made of, without a row ever being a thing of its own.
//!
//! How: each field is a vector of the type its table column has. A template either has a field or not, so what is absent
//! is absent for a run of rows: [`Maybe`] keeps the runs, and a row of such a run holds a zero nobody reads.
//! Invariants: after a set was taken every column has [`FlowColumns::rows`] values; runs are in order and do not overlap.

use alloc::vec::Vec;

/// A column that a template may lack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maybe<T> {
    /// One value a row; a default where it is absent.
    pub values: Vec<T>,
    /// Rows that have none: first and count.
    pub absent: Vec<(usize, usize)>,
}

impl<T: Copy + Default> Maybe<T> {
    /// `n` rows without a value.
    pub fn lack(&mut self, n: usize) {
        if n == 0 {
            return;
        }
        let at = self.values.len();
        self.values.resize(at + n, T::default());
        match self.absent.last_mut() {
            Some((first, count)) if *first + *count == at => *count += n,
            _ => self.absent.push((at, n)),
        }
    }

    /// One row with a value, or without.
    pub fn push(&mut self, value: Option<T>) {
        match value {
            Some(v) => self.values.push(v),
            None => self.lack(1),
        }
    }

    /// The value of a row.
    pub fn get(&self, row: usize) -> Option<T> {
        let after = self.absent.partition_point(|&(first, _)| first <= row);
        let run = after.checked_sub(1).and_then(|i| self.absent.get(i));
        let lacks = run.is_some_and(|&(first, count)| row < first + count);
        self.values.get(row).copied().filter(|_| !lacks)
    }

    fn clear(&mut self) {
        self.values.clear();
        self.absent.clear();
    }
}

/// An IP address, IPv4 as `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2).
pub type Address = [u8; 16];

/// IPv4 as an [`Address`].
pub const fn mapped(v4: u32) -> Address {
    let [a, b, c, d] = v4.to_be_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

macro_rules! columns {
    ($($(#[$doc:meta])* $name:ident: $kind:ty,)*) => {
        /// Flow records, column by column.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct FlowColumns {
            /// When the flow began, else ended, else was told of; microseconds since 1970.
            pub ts_us: Vec<i64>,
            /// Who tells: a number the decoder gave.
            pub exporter: Vec<i32>,
            /// Packets, sampling made up for.
            pub packets: Vec<i64>,
            /// Bytes, sampling made up for.
            pub bytes: Vec<i64>,
            /// One packet in so many was looked at, 1 or more.
            pub sampling: Vec<i32>,
            $($(#[$doc])* pub $name: Maybe<$kind>,)*
        }

        impl FlowColumns {
            /// Records in it.
            pub fn rows(&self) -> usize {
                self.ts_us.len()
            }

            /// Forgets the records and keeps the room.
            pub fn clear(&mut self) {
                self.ts_us.clear();
                self.exporter.clear();
                self.packets.clear();
                self.bytes.clear();
                self.sampling.clear();
                $(self.$name.clear();)*
            }

            /// Makes every optional column as long as the others: what was not given is absent.
            pub(crate) fn level(&mut self) {
                let rows = self.ts_us.len();
                $(self.$name.lack(rows - self.$name.values.len().min(rows));)*
            }
        }
    };
}

columns! {
    /// From the first packet to the last, microseconds.
    duration_us: i64,
    /// Source address.
    src: Address,
    /// Destination address.
    dst: Address,
    /// Source port.
    src_port: i32,
    /// Destination port; of ICMP, type times 256 and code.
    dst_port: i32,
    /// IP protocol.
    protocol: i32,
    /// TCP flags seen, together.
    tcp_flags: i32,
    /// DSCP and ECN.
    traffic_class: i32,
    /// Interface it came in by.
    in_if: i64,
    /// Interface it left by.
    out_if: i64,
    /// Address of the next hop.
    next_hop: Address,
    /// Autonomous system of the source.
    src_as: i64,
    /// Autonomous system of the destination.
    dst_as: i64,
    /// Length of the source's prefix.
    src_prefix_len: i32,
    /// Length of the destination's prefix.
    dst_prefix_len: i32,
    /// VLAN.
    vlan: i32,
    /// 0 in, 1 out.
    direction: i32,
    /// Smallest TTL or hop limit.
    ttl_min: i32,
    /// Largest TTL or hop limit.
    ttl_max: i32,
    /// IPv6 flow label.
    flow_label: i64,
    /// Why it ended (RFC 5102, section 5.11.3).
    end_reason: i32,
    /// Top MPLS label.
    mpls_label: i64,
    /// Active SRv6 segment (RFC 9487).
    srv6_segment: Address,
    /// Status and reason (RFC 7270, section 4.12).
    forwarding_status: i32,
    /// Packets with ECN CE set.
    ecn_marked: i64,
}

/// What a record tells of the other direction of its flow (RFC 5103). Sampling is not made up for yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reverse {
    pub packets: i64,
    pub bytes: i64,
    pub tcp_flags: Option<i32>,
    pub traffic_class: Option<i32>,
}

impl FlowColumns {
    /// Adds a row for the other direction of a row's flow. What is said of the way alone, such as labels and hop limits, is
    /// of the first direction. The caller levels the columns.
    pub(crate) fn turn(&mut self, row: usize, reverse: Reverse) {
        let (Some(&ts), Some(&exporter)) = (self.ts_us.get(row), self.exporter.get(row)) else { return };
        let rate = self.sampling.get(row).copied().unwrap_or(1);
        self.ts_us.push(ts);
        self.exporter.push(exporter);
        self.sampling.push(rate);
        self.packets.push(reverse.packets.saturating_mul(rate.into()));
        self.bytes.push(reverse.bytes.saturating_mul(rate.into()));
        self.duration_us.push(self.duration_us.get(row));
        let (src, dst) = (self.src.get(row), self.dst.get(row));
        self.src.push(dst);
        self.dst.push(src);
        let protocol = self.protocol.get(row);
        self.protocol.push(protocol);
        let (src, dst) = (self.src_port.get(row), self.dst_port.get(row));
        // ICMP's type and code are no port of one end.
        let (src, dst) = if matches!(protocol, Some(1 | 58)) { (dst, src) } else { (src, dst) };
        self.src_port.push(dst);
        self.dst_port.push(src);
        self.tcp_flags.push(reverse.tcp_flags);
        self.traffic_class.push(reverse.traffic_class);
        let (inward, outward) = (self.in_if.get(row), self.out_if.get(row));
        self.in_if.push(outward);
        self.out_if.push(inward);
        let (src, dst) = (self.src_as.get(row), self.dst_as.get(row));
        self.src_as.push(dst);
        self.dst_as.push(src);
        let (src, dst) = (self.src_prefix_len.get(row), self.dst_prefix_len.get(row));
        self.src_prefix_len.push(dst);
        self.dst_prefix_len.push(src);
        self.vlan.push(self.vlan.get(row));
        self.end_reason.push(self.end_reason.get(row));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn absence_is_kept_in_runs() {
        let mut m = Maybe::default();
        m.push(Some(5));
        m.lack(2);
        m.lack(3);
        m.push(Some(7));
        m.push(None);
        assert_eq!(m.absent, [(1, 5), (7, 1)]);
        assert_eq!((m.get(0), m.get(3), m.get(6), m.get(7), m.get(8)), (Some(5), None, Some(7), None, None));
    }

    #[test]
    fn a_column_nobody_filled_is_absent() {
        let mut c = FlowColumns { ts_us: vec![1, 2], ..FlowColumns::default() };
        c.level();
        assert_eq!((c.src.absent.clone(), c.ecn_marked.values.len()), (vec![(0, 2)], 2));
    }
}
