//! Sketches of delays: percentiles of many rows from a hundred bytes a row.
//!
//! How: a DDSketch (Masson, Rim, Lee: "DDSketch", VLDB 2019) counts values in bins whose width is 2 % of the value, so
//! a percentile is within 1 % of the value that really stands at its rank, however many sketches were merged. The crate
//! `sketches-ddsketch` keeps and merges them; a sketch is stored in the bytes Datadog's own libraries write, so others
//! can read it. [`percentile`] and [`merge`] are what SQL sees.
//! Invariants: merging is exact, in any order: bins are added; all sketches have the same bins ([`empty`]); bytes that
//! are no such sketch are an error of the question.

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, ColumnarValue, ScalarUDF, Volatility, create_udaf, create_udf,
};
use sketches_ddsketch::{Config, DDSketch};
use std::sync::Arc;

/// A sketch of nothing. Its bins reach from 10^-9 to more than 10^9 times that, in nanoseconds both ways of zero.
pub(crate) fn empty() -> DDSketch {
    DDSketch::new(Config::defaults())
}

/// A sketch from its bytes.
pub(crate) fn read(bytes: &[u8]) -> Option<DDSketch> {
    // In a question the bytes may be anything, and the crate's arithmetic on bins far apart can overflow.
    let read = std::panic::catch_unwind(|| {
        let sketch = DDSketch::from_java_bytes(bytes).ok()?;
        let mut same = empty();
        same.merge(&sketch).ok()?;
        same.quantile(0.5).ok()?;
        Some(same)
    });
    read.ok().flatten()
}

fn no_sketch() -> DataFusionError {
    DataFusionError::Execution("expected a sketch, such as delay_sketch of path_minute".to_owned())
}

/// Values of a column of bytes, whichever way they are held.
fn values(column: &ArrayRef) -> Result<Vec<Option<&[u8]>>, DataFusionError> {
    if let Some(bytes) = column.as_binary_view_opt() {
        return Ok(bytes.iter().collect());
    }
    let bytes = column.as_binary_opt::<i32>().ok_or_else(no_sketch)?;
    Ok(bytes.iter().collect())
}

/// `sketch_percentile(sketch, q)`.
pub(crate) fn percentile() -> ScalarUDF {
    let run = |args: &[ColumnarValue]| {
        let constant = args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let args = ColumnarValue::values_to_arrays(args)?;
        let [sketches, qs] = args.as_slice() else { return Err(no_sketch()) };
        let qs = qs.as_primitive_opt::<Float64Type>().ok_or_else(no_sketch)?;
        let mut out = Vec::with_capacity(sketches.len());
        for (sketch, q) in values(sketches)?.into_iter().zip(qs) {
            let (Some(sketch), Some(q)) = (sketch, q) else {
                out.push(None);
                continue;
            };
            let found = read(sketch).ok_or_else(no_sketch)?.quantile(q);
            out.push(found.map_err(|_| {
                DataFusionError::Execution(format!("{q} is no percentile, expected 0 to 1, such as 0.99"))
            })?);
        }
        let out: ArrayRef = Arc::new(Float64Array::from(out));
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&out, 0)?));
        }
        Ok(ColumnarValue::Array(out))
    };
    let takes = vec![DataType::BinaryView, DataType::Float64];
    create_udf("sketch_percentile", takes, DataType::Float64, Volatility::Immutable, Arc::new(run))
}

/// `sketch_merge(sketch)`, over many rows.
pub(crate) fn merge() -> AggregateUDF {
    let bytes = Arc::new(DataType::Binary);
    create_udaf(
        "sketch_merge",
        vec![DataType::BinaryView],
        bytes,
        Volatility::Immutable,
        Arc::new(|_| Ok(Box::new(Merged::default()))),
        Arc::new(vec![DataType::Binary]),
    )
}

#[derive(Default)]
struct Merged(Option<DDSketch>);

impl std::fmt::Debug for Merged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sketch of {} values", self.0.as_ref().map_or(0, DDSketch::count))
    }
}

impl Accumulator for Merged {
    fn update_batch(&mut self, columns: &[ArrayRef]) -> Result<(), DataFusionError> {
        let Some(column) = columns.first() else { return Ok(()) };
        for sketch in values(column)?.into_iter().flatten() {
            let sketch = read(sketch).ok_or_else(no_sketch)?;
            match &mut self.0 {
                Some(all) => all.merge(&sketch).map_err(|_| no_sketch())?,
                none => *none = Some(sketch),
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<(), DataFusionError> {
        self.update_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>, DataFusionError> {
        Ok(vec![self.evaluate()?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue, DataFusionError> {
        Ok(ScalarValue::Binary(self.0.as_ref().map(DDSketch::to_java_bytes)))
    }

    fn size(&self) -> usize {
        // Bins are 8 bytes each.
        size_of_val(self) + self.0.as_ref().map_or(0, |s| 8 * s.length())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that are the same at every run.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        }
    }

    #[test]
    fn percentiles_are_within_one_percent_of_the_exact_ones_however_they_were_merged() {
        type Law = fn(f64) -> f64;
        let laws: [(&str, Law); 4] = [
            ("even", |x| 1_000.0 + 9_000.0 * x),
            ("long tail", |x| 5_000.0 / (1.0 - x).powf(0.7)),
            ("two humps", |x| if x < 0.9 { 12_000.0 + 500.0 * x } else { 2_000_000.0 * x }),
            ("clocks apart", |x| -40_000_000.0 + 30_000.0 * x),
        ];
        for (name, law) in laws {
            let mut numbers = Numbers(7);
            let mut exact: Vec<f64> = (0..60_000).map(|_| law(numbers.next()).round()).collect();
            let mut merged = empty();
            for part in exact.chunks(997) {
                let mut sketch = empty();
                part.iter().for_each(|&v| sketch.add(v));
                // As it is stored.
                merged.merge(&read(&sketch.to_java_bytes()).unwrap()).unwrap();
            }
            let mut whole = empty();
            exact.iter().for_each(|&v| whole.add(v));
            assert_eq!(merged.to_java_bytes().len(), whole.to_java_bytes().len(), "{name}");
            exact.sort_by(f64::total_cmp);
            for q in [0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0] {
                let at = (q * (exact.len() - 1) as f64) as usize;
                let (want, got) = (exact[at], merged.quantile(q).unwrap().unwrap());
                assert!((got - want).abs() <= 0.010_001 * want.abs(), "{name} {q}: {got}, exact {want}");
                assert_eq!(whole.quantile(q).unwrap(), Some(got), "{name} {q}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_sketch_are_refused_and_never_panic() {
        let mut sketch = empty();
        [3.0, -8.0, 0.0, 1e9].iter().for_each(|&v| sketch.add(v));
        let whole = sketch.to_java_bytes();
        assert_eq!(read(&whole).unwrap().count(), 4);
        assert!(read(b"").is_none() && read(b"what is this").is_none());
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                let _ = read(&bytes);
            }
            let _ = read(&whole[..at]);
        }
        // Other bins.
        let mut coarse = DDSketch::new(Config::new(0.05, 2048, 1e-9));
        coarse.add(3.0);
        assert!(read(&coarse.to_java_bytes()).is_none());
    }
}
