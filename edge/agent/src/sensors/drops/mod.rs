//! `drops`: every packet the kernel throws away, by its reason, place and device, with the header of one of each kind.
//!
//! How: a program at the tracepoint where packets are freed for a reason counts in a map (see `prog.bpf.c`); here the
//! counts of the reading before are subtracted. Reasons have other numbers in every kernel, so their names are read from the
//! running kernel's own types; places are addresses, named from `/proc/kallsyms` when they are met first.
//! Invariants: counts only grow and are subtracted, so that reading loses none; a packet of a namespace nobody watches is
//! nobody's.

mod metrics;
mod reasons;
pub use metrics::METRICS;

use super::{Readings, Sensor, SensorError, Span, Watched, halves};
use kernel::bpf::{KernelTypes, Object};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead as _, BufReader};
use std::time::Duration;
use wire::sensor::{DropRow, push_drop};

static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/drops.bpf.o"));

/// Entries that were idle for so many readings make room.
const IDLE_READINGS: u64 = 300;

/// The sensor.
pub struct Drops {
    object: Object,
    reasons: BTreeMap<u32, String>,
    places: HashMap<u64, String>,
    /// Counts at the reading before, and when they last grew.
    before: HashMap<[u64; 3], ([u64; 2], u64)>,
    devices: HashMap<(u32, u32), String>,
    /// Headers of packets that were dropped after the counts were read: of the next reading.
    early: HashMap<[u64; 3], [u64; 9]>,
    turn: u64,
}

impl Drops {
    /// Loads its program.
    pub fn load(types: &KernelTypes) -> Result<Drops, SensorError> {
        let reasons = reasons::of_this_kernel()?;
        let mut object = Object::load_traced(PROGRAM, types)?;
        if let Err(error) = object.trace("kfree_skb_at_socket", "kfree_skb", types) {
            tracing::info!(%error, "drops at sockets whose device is forgotten are of no namespace (Linux 6.11 tells it)");
            object.trace("kfree_skb", "kfree_skb", types)?;
        }
        let mut drops = Drops {
            object,
            reasons,
            places: HashMap::new(),
            before: HashMap::new(),
            devices: HashMap::new(),
            early: HashMap::new(),
            turn: 0,
        };
        // What was dropped before anybody watched is of no interval.
        drops.before = drops.object.summed("counts")?.into_iter().map(|(k, v)| (k, (v, 0))).collect();
        Ok(drops)
    }

    fn name_places(&mut self, of: &[[u64; 3]]) {
        let new: BTreeSet<u64> = of.iter().map(|k| k[0]).filter(|p| !self.places.contains_key(p)).collect();
        if new.is_empty() {
            return;
        }
        for (place, name) in symbols(&new) {
            self.places.insert(place, name);
        }
        for place in new {
            // Where the kernel hides its addresses from us.
            self.places.entry(place).or_insert_with(|| "unknown".to_owned());
        }
    }
}

/// The functions some addresses lie in.
fn symbols(of: &BTreeSet<u64>) -> Vec<(u64, String)> {
    let Ok(file) = std::fs::File::open("/proc/kallsyms") else { return Vec::new() };
    // For each address the nearest symbol at or below it; the file is not sorted.
    let mut nearest: BTreeMap<u64, (u64, String)> = BTreeMap::new();
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
        let mut words = line.split_ascii_whitespace();
        let at = words.next().and_then(|a| u64::from_str_radix(a, 16).ok()).unwrap_or(0);
        let code = words.next().is_some_and(|k| k.eq_ignore_ascii_case("t"));
        if let (true, true, Some(name)) = (at > 0, code, words.next()) {
            for &place in of.range(at..=at.saturating_add(1 << 20)) {
                let best = nearest.entry(place).or_default();
                if at >= best.0 {
                    *best = (at, name.to_owned());
                }
            }
        }
        line.clear();
    }
    nearest.into_iter().map(|(place, (_, name))| (place, name)).collect()
}

impl Sensor for Drops {
    fn read(&mut self, span: Span, watched: &Watched, out: &mut Readings) -> Result<(), SensorError> {
        self.turn += 1;
        let counts = self.object.summed::<3, 2>("counts")?;
        let mut news = Vec::new();
        for (key, now) in counts {
            let before = self.before.entry(key).or_insert(([0; 2], self.turn));
            let since = [now[0].wrapping_sub(before.0[0]), now[1].wrapping_sub(before.0[1])];
            if since[0] > 0 {
                *before = (now, self.turn);
                news.push((key, since));
            } else if self.turn.saturating_sub(before.1) > IDLE_READINGS {
                self.before.remove(&key);
                let _ = self.object.remove_summed::<3, 2>("counts", &key);
            }
        }
        if news.is_empty() {
            return Ok(());
        }
        let keys: Vec<[u64; 3]> = news.iter().map(|(k, _)| *k).collect();
        self.name_places(&keys);
        let mut headers = std::mem::take(&mut self.early);
        headers.extend(self.object.drain::<3, 9>("headers")?);
        for (key, [packets, bytes]) in news {
            let [place, second, third] = key;
            let ((netns, reason), (ifindex, protocol)) = (halves(second), halves(third));
            let Some(reading) = out.get_mut(&netns) else { continue };
            let device = self.devices.entry((netns, ifindex)).or_insert_with(|| match watched.get(&netns) {
                Some(ns) if ifindex > 0 => {
                    let name = ns.run(|| kernel::link::name_of(ifindex)).ok().flatten();
                    name.unwrap_or_else(|| format!("if{ifindex}"))
                }
                _ => String::new(),
            });
            let header = headers.remove(&key).map(|words| {
                let bytes: Vec<u8> = words.iter().take(8).flat_map(|w| w.to_ne_bytes()).collect();
                let length = usize::try_from(words[8]).unwrap_or(64).min(64);
                bytes.get(..length).unwrap_or_default().to_vec()
            });
            let named = self.reasons.get(&reason).cloned();
            push_drop(
                reading.drops.get_or_insert_default(),
                DropRow {
                    window_start_ns: span.start.0,
                    window_length_us: span.length_us(),
                    reason: named.unwrap_or_else(|| format!("reason {reason}")),
                    place: self.places.get(&place).cloned().unwrap_or_default(),
                    device: device.clone(),
                    protocol,
                    packets,
                    bytes,
                    exemplar: header.unwrap_or_default(),
                },
            );
        }
        // Those of kinds without a count yet: it comes with the next reading.
        let told: BTreeSet<[u64; 3]> = keys.into_iter().collect();
        headers.retain(|key, _| !told.contains(key));
        self.early = headers;
        Ok(())
    }

    fn kernel_cost(&self) -> (Duration, u64) {
        self.object.cost()
    }

    fn lost(&self) -> u64 {
        self.object.total("lost").unwrap_or(0)
    }
}
