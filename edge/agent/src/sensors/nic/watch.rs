//! `nic` among the sensors: one [`Nic`] in each watched namespace.
//!
//! How: the sockets are opened in the namespace once and kept. RDMA devices are those sysfs shows this process, so they are
//! told in its own namespace only.
//! Invariants: a namespace that cannot be read costs its own reading only.

use super::Nic;
use crate::sensors::measure::{Told, add};
use crate::sensors::{Readings, Sensor, SensorError, Span, Watched};
use kernel::netns::Netns;
use std::collections::BTreeMap;
use std::time::Duration;

/// The sensor.
#[derive(Default)]
pub struct Nics {
    by_netns: BTreeMap<u32, (Nic, Told)>,
    left_out: u64,
}

impl Sensor for Nics {
    fn read(&mut self, span: Span, watched: &Watched, out: &mut Readings) -> Result<(), SensorError> {
        self.by_netns.retain(|number, _| watched.contains_key(number));
        let own = Netns::current()?.number()?;
        let mut first = None;
        for (number, netns) in watched {
            let Some(to) = out.get_mut(number) else { continue };
            let mut read = || -> kernel::Result<()> {
                if !self.by_netns.contains_key(number) {
                    let sys = (*number == own).then(|| "/sys".into());
                    let nic = netns.run(|| Nic::open(sys))??;
                    for missing in nic.missing() {
                        tracing::info!(netns = number, missing, "a part of the sensor `nic` is missing");
                    }
                    self.by_netns.insert(*number, (nic, Told::default()));
                }
                let Some((nic, told)) = self.by_netns.get_mut(number) else { return Ok(()) };
                let reading = netns.run(|| nic.read(span.end()))??;
                self.left_out += reading.left_out;
                add(reading.rows("nic", span, told), to);
                to.findings.extend(reading.found(span));
                Ok(())
            };
            if let Err(e) = read() {
                first.get_or_insert(e);
            }
        }
        first.map_or(Ok(()), |e| Err(e.into()))
    }

    fn kernel_cost(&self) -> (Duration, u64) {
        (Duration::ZERO, 0)
    }

    fn lost(&self) -> u64 {
        self.left_out
    }
}
