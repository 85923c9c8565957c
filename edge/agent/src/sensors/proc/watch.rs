//! `proc` among the sensors: the kernel's facts once, each watched namespace's counters once.
//!
//! How: every watcher is told the kernel's facts, since its host has this kernel. Where several namespaces are watched, each
//! a host of its own to a fabric, what the whole kernel lacked is no finding about any one of them, and only the metrics
//! are told. The devices looked at are those of this process's own namespace.
//! Invariants: a namespace that cannot be entered costs its own reading only.

use super::{Device, Proc, Roots};
use crate::sensors::measure::{Told, add};
use crate::sensors::{Readings, Sensor, SensorError, Span, Watched, nic};
use kernel::interface;
use kernel::netlink::Netlink;
use std::collections::BTreeMap;
use std::time::Duration;

/// The sensor.
pub struct Procs {
    host: (Proc, Told),
    by_netns: BTreeMap<u32, (Proc, Told)>,
    netlink: Netlink,
    left_out: u64,
}

impl Procs {
    /// Reads nothing yet.
    pub fn open() -> kernel::Result<Procs> {
        let host = Proc::new(Roots::default());
        for missing in host.missing() {
            tracing::info!(missing, "a part of the sensor `proc` is missing");
        }
        let (host, netlink) = ((host, Told::default()), Netlink::route()?);
        Ok(Procs { host, by_netns: BTreeMap::new(), netlink, left_out: 0 })
    }

    fn devices(&mut self) -> Vec<Device> {
        let interfaces = interface::list(&mut self.netlink).unwrap_or_default();
        let hardware = interfaces.into_iter().filter(|it| !it.device.is_empty()).take(nic::INTERFACES_MAX);
        hardware.map(|it| Device { interface: it.name, bus: it.bus, device: it.device }).collect()
    }
}

impl Sensor for Procs {
    fn read(&mut self, span: Span, watched: &Watched, out: &mut Readings) -> Result<(), SensorError> {
        self.by_netns.retain(|number, _| watched.contains_key(number));
        if watched.is_empty() {
            return Ok(());
        }
        let devices = self.devices();
        let (host, told) = &mut self.host;
        let reading = host.host(span.end(), &devices);
        let mut left_out = reading.left_out;
        let rows = reading.rows("proc", span, told);
        for to in out.values_mut() {
            add(rows.iter().cloned(), to);
            if watched.len() == 1 {
                to.findings.extend(reading.found(span));
            }
        }
        let mut first = None;
        for (number, netns) in watched {
            let Some(to) = out.get_mut(number) else { continue };
            let new = || (Proc::new(Roots::default()), Told::default());
            let (space, told) = self.by_netns.entry(*number).or_insert_with(new);
            match netns.run(|| space.namespace(span.end())) {
                Ok(reading) => {
                    left_out += reading.left_out;
                    add(reading.rows("proc", span, told), to);
                    to.findings.extend(reading.found(span));
                }
                Err(e) => {
                    first.get_or_insert(e);
                }
            }
        }
        self.left_out += left_out;
        first.map_or(Ok(()), |e| Err(e.into()))
    }

    fn kernel_cost(&self) -> (Duration, u64) {
        (Duration::ZERO, 0)
    }

    fn lost(&self) -> u64 {
        self.left_out
    }
}
