//! How much was observed in all, by time: what a single moment or a span of time is compared with.

use alloc::vec;
use alloc::vec::Vec;
use wire::Nanos;

const UNIT_NS: u64 = 100_000_000;
/// 102.4 s at 100 ms; older spans are summed in the coarse ring.
const FINE: usize = 1024;
/// 1,024 s at 1 s.
const COARSE: usize = 1024;
const FINE_PER_COARSE: u64 = 10;

#[derive(Clone, Copy, Default)]
struct Cell {
    unit: u64,
    observations: u64,
    exposure: u64,
}

/// Observations, and packets times links, of the whole fabric.
pub(crate) struct Moments {
    fine: Vec<Cell>,
    coarse: Vec<Cell>,
}

fn add(cells: &mut [Cell], unit: u64, exposure: u64) {
    let index = unit as usize % cells.len().max(1);
    let Some(c) = cells.get_mut(index) else { return };
    if c.unit != unit {
        if c.unit > unit {
            return; // older than the ring
        }
        *c = Cell { unit, observations: 0, exposure: 0 };
    }
    c.observations += 1;
    c.exposure = c.exposure.saturating_add(exposure);
}

fn sum(cells: &[Cell], from: u64, to: u64) -> (f64, f64) {
    let mut out = (0.0, 0.0);
    for c in cells.iter().filter(|c| c.unit >= from && c.unit < to) {
        out.0 += c.observations as f64;
        out.1 += c.exposure as f64;
    }
    out
}

impl Moments {
    pub(crate) fn new() -> Self {
        Moments { fine: vec![Cell::default(); FINE], coarse: vec![Cell::default(); COARSE] }
    }
    /// One observation that ended at `at`.
    #[inline]
    pub(crate) fn add(&mut self, at: Nanos, exposure: u64) {
        let unit = at.0 / UNIT_NS;
        add(&mut self.fine, unit, exposure);
        add(&mut self.coarse, unit / FINE_PER_COARSE, exposure);
    }
    /// Observations and exposure from `from` to before `to`.
    pub(crate) fn between(&self, from: Nanos, to: Nanos) -> (f64, f64) {
        let (from, to) = (from.0 / UNIT_NS, to.0.div_ceil(UNIT_NS));
        if to.saturating_sub(from) < FINE as u64 {
            sum(&self.fine, from, to)
        } else {
            sum(&self.coarse, from / FINE_PER_COARSE, to.div_ceil(FINE_PER_COARSE))
        }
    }
}
