//! `flows`: packets by five-tuple, with bytes, ECN marks and hops left, on the interfaces of watched namespaces.
//!
//! How: see `prog.bpf.c`. Programs are put on both hooks of each Ethernet interface, and taken off when nobody watches its
//! namespace. Packets are counted each, as long as there are some [`EXACT_MAX`] a second; beyond, one in so many is looked at
//! and counts for as many, which is told (`one_in`). A reading tells of the busiest [`FLOWS_MAX`] flows of a namespace one by
//! one, and of the others together.
//!
//! A run costs some 120 ns by the kernel's own measure (which is some 30 ns of it), where one packet in eight is looked at:
//! 4 ms a second at 8 Gbit/s in 64 KiB bursts through both ends of a cable.
//!
//! Invariants: at most [`INTERFACES_MAX`] interfaces of a namespace; a packet for which the table has no room is counted as
//! lost; a flow that was idle for a reading makes room.
//! Absent on purpose: rows for the hub, whose tables keep no addresses as they are; who asks on the socket is told. And path
//! observations. What was seen at one end says what was sent or what arrived, and not what was lost
//! in between; of TCP the sensor `tcp` knows it.

mod metrics;
pub use metrics::METRICS;

use super::{Readings, Sensor, SensorError, Span, Watched, halves};
use kernel::bpf::{Attachment, KernelTypes, Object};
use kernel::interface;
use kernel::netlink::Netlink;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use wire::proto::PassingColumns;
use wire::sensor::{PassingRow, push_passing};

static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/flows.bpf.o"));

/// Interfaces of one namespace.
const INTERFACES_MAX: usize = 16;
/// Flows of one namespace that are told of one by one in a reading.
const FLOWS_MAX: usize = 200;
/// Packets a second that are looked at, about.
const EXACT_MAX: f64 = 5_000.0;
const ONE_IN_MAX: u64 = 1 << 12;
/// New interfaces are looked for every so many readings.
const LOOK_EVERY: u64 = 10;
/// Hardware of Ethernet, as the kernel numbers it (ARPHRD_ETHER).
const ETHER: u16 = 1;

const KEY: usize = 6;
const COUNTS: usize = 4;
type Key = [u64; KEY];
type Counts = [u64; COUNTS];

/// The sensor.
pub struct Flows {
    object: Object,
    on: BTreeMap<u32, BTreeMap<u32, On>>,
    before: HashMap<Key, Counts>,
    turn: u64,
    one_in: u64,
}

/// An interface the programs are on.
struct On {
    name: String,
    _hooks: [Attachment; 2],
}

impl Flows {
    /// Loads its programs. They are on no interface yet.
    pub fn load(types: &KernelTypes) -> Result<Flows, SensorError> {
        let mut object = Object::load_traced(PROGRAM, types)?;
        for program in ["flows_in", "flows_out"] {
            object.classifier(program)?;
        }
        Ok(Flows { object, on: BTreeMap::new(), before: HashMap::new(), turn: 0, one_in: 1 })
    }

    /// Puts the programs where they are to be, and takes them off elsewhere.
    fn attach(&mut self, watched: &Watched) -> Result<(), SensorError> {
        self.on.retain(|number, _| watched.contains_key(number));
        let due = self.turn.is_multiple_of(LOOK_EVERY);
        for (number, netns) in watched {
            if !due && self.on.contains_key(number) {
                continue;
            }
            let on = self.on.entry(*number).or_default();
            let object = &mut self.object;
            netns.run(|| -> kernel::Result<()> {
                let mut all = interface::list(&mut Netlink::route()?)?;
                all.retain(|it| it.up && it.hardware == ETHER);
                all.truncate(INTERFACES_MAX);
                on.retain(|index, at| all.iter().any(|it| it.index == *index && it.name == at.name));
                for it in all {
                    if on.contains_key(&it.index) {
                        continue;
                    }
                    let hooks = [
                        object.attach_tcx("flows_in", &it.name, true)?,
                        object.attach_tcx("flows_out", &it.name, false)?,
                    ];
                    on.insert(it.index, On { name: it.name, _hooks: hooks });
                }
                Ok(())
            })??;
        }
        Ok(())
    }

    /// Looks at as many in the next interval as would have been right for the last.
    fn sample(&mut self, packets: u64, span: Span) -> Result<(), SensorError> {
        let a_second = packets as f64 / span.length.as_secs_f64().max(1e-3);
        self.one_in = ((a_second / EXACT_MAX) as u64).clamp(1, ONE_IN_MAX).next_power_of_two();
        Ok(self.object.set_words("mask", [self.one_in - 1])?)
    }

    fn tell(&self, netns: u32, mut flows: Vec<(Key, Counts, Counts)>, span: Span, to: &mut PassingColumns) {
        flows.sort_by_key(|(_, since, _)| std::cmp::Reverse(since[0]));
        let others = flows.split_off(flows.len().min(FLOWS_MAX));
        let row = |[packets, bytes, marked, _]: Counts| PassingRow {
            window_start_ns: span.start.0,
            window_length_us: span.length_us(),
            packets,
            bytes,
            marked: marked.min(packets),
            one_in: u32::try_from(self.one_in).unwrap_or(u32::MAX),
            ..PassingRow::default()
        };
        for (key, since, now) in flows {
            let ((_, ports), (ifindex, how)) = (halves(key[4]), halves(key[5]));
            let on = self.on.get(&netns).and_then(|on| on.get(&ifindex));
            let octets = |a: u64, b: u64| [a.to_ne_bytes(), b.to_ne_bytes()].concat();
            let (hops_left_min, hops_left_max) = halves(now[3]);
            let told = PassingRow {
                device: on.map_or_else(|| format!("if{ifindex}"), |on| on.name.clone()),
                way: how >> 9 & 1 | how >> 7 & 2,
                from: octets(key[0], key[1]),
                to: octets(key[2], key[3]),
                from_port: ports >> 16,
                to_port: ports & 0xffff,
                protocol: how & 0xff,
                hops_left_min,
                hops_left_max,
                ..row(since)
            };
            push_passing(to, told);
        }
        if !others.is_empty() {
            let add = |sum: Counts, (_, since, _): &(Key, Counts, Counts)| {
                std::array::from_fn(|i| sum[i].saturating_add(since[i]))
            };
            push_passing(to, row(others.iter().fold([0; COUNTS], add)));
        }
    }
}

impl Sensor for Flows {
    fn read(&mut self, span: Span, watched: &Watched, out: &mut Readings) -> Result<(), SensorError> {
        let attached = self.attach(watched);
        self.turn += 1;
        let mut by_netns: BTreeMap<u32, Vec<(Key, Counts, Counts)>> = BTreeMap::new();
        let (mut packets, mut grown) = (0u64, Vec::new());
        for (key, now) in self.object.entries::<KEY, COUNTS>("flows")? {
            let was = self.before.get(&key).copied();
            let since: Counts = std::array::from_fn(|i| match i {
                // The words with hops do not grow.
                3 => 0,
                i => now[i].saturating_sub(was.map_or(0, |w| w[i])),
            });
            packets = packets.saturating_add(since[0]);
            let netns = halves(key[4]).0;
            if since[0] == 0 || !watched.contains_key(&netns) {
                self.before.remove(&key);
                self.object.remove::<KEY, COUNTS>("flows", &key);
                continue;
            }
            by_netns.entry(netns).or_default().push((key, since, now));
            grown.push((key, now));
        }
        for (netns, flows) in by_netns {
            if let Some(to) = out.get_mut(&netns) {
                self.tell(netns, flows, span, to.passing.get_or_insert_default());
            }
        }
        self.before.extend(grown);
        self.sample(packets, span)?;
        attached
    }

    fn kernel_cost(&self) -> (Duration, u64) {
        self.object.cost()
    }

    fn lost(&self) -> u64 {
        self.object.total("lost").unwrap_or(0)
    }
}
