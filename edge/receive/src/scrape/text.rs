//! The Prometheus text format 0.0.4, and OpenMetrics 1.0 where an exporter speaks only that.
//!
//! How: line by line; a sample is handed over as soon as it is read, so that a long answer costs no memory twice.
//! Invariants: any text is an outcome, and lines that are none are counted; labels are unescaped and keep their order;
//! what follows `# EOF` is not read; an exemplar behind a value is passed over.
//! Absent on purpose: gathering histograms and summaries: their buckets are numbers like others here, with a label.

use std::borrow::Cow;
use std::collections::HashMap;
use wire::Nanos;

/// What is asked for.
pub const ACCEPT: &str =
    "text/plain;version=0.0.4;q=1,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1";

/// Labels of one sample; a line with more is none.
const LABELS_MAX: usize = 64;
/// Metrics whose kind is remembered.
const KINDS_MAX: usize = 20_000;

/// Which of the two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Time stamps are milliseconds.
    Prometheus,
    /// Time stamps are seconds.
    OpenMetrics,
}

/// What a metric says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A running total, also of a histogram's or summary's parts.
    Counter,
    /// A state.
    Gauge,
    /// It does not say.
    Unknown,
}

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Its metric.
    pub name: &'a str,
    /// Its labels.
    pub labels: Vec<(&'a str, Cow<'a, str>)>,
    /// Its value; may be infinite or not a number.
    pub value: f64,
    /// Its time, where told.
    pub at: Option<Nanos>,
    /// What its metric says it is.
    pub kind: Kind,
}

impl Sample<'_> {
    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| *k == key).map(|(_, v)| &**v)
    }
}

/// Reads a text; `each` gets every sample. How many lines were none.
pub fn parse<'a>(text: &'a str, form: Form, mut each: impl FnMut(Sample<'a>)) -> u64 {
    let mut kinds: HashMap<&str, Kind> = HashMap::new();
    let mut malformed = 0;
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        if let Some(comment) = line.strip_prefix('#') {
            let mut words = comment.split_ascii_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("TYPE"), Some(name), Some(kind)) if kinds.len() < KINDS_MAX => {
                    let kind = match kind {
                        "counter" | "histogram" | "summary" => Kind::Counter,
                        "gauge" | "info" | "stateset" => Kind::Gauge,
                        _ => Kind::Unknown,
                    };
                    kinds.insert(name, kind);
                }
                (Some("EOF"), None, _) => break,
                _ => {}
            }
            continue;
        }
        match sample(line, form, &kinds) {
            Some(sample) => each(sample),
            None => malformed += 1,
        }
    }
    malformed
}

fn is_name(c: u8, first: bool) -> bool {
    c.is_ascii_alphabetic() || c == b'_' || c == b':' || (!first && c.is_ascii_digit())
}

/// A name at the beginning of a text, and what follows.
fn name(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().enumerate().take_while(|(n, c)| is_name(*c, *n == 0)).count();
    (end > 0).then(|| text.split_at(end))
}

fn sample<'a>(line: &'a str, form: Form, kinds: &HashMap<&str, Kind>) -> Option<Sample<'a>> {
    let (name, mut rest) = name(line)?;
    let mut labels = Vec::new();
    if let Some(inside) = rest.trim_start().strip_prefix('{') {
        rest = read_labels(inside, &mut labels)?;
    } else if !rest.starts_with([' ', '\t']) {
        return None;
    }
    // An exemplar: ` # {...} value`. It cannot be in a label, which is behind us.
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let mut words = rest.split_ascii_whitespace();
    let value = number(words.next()?)?;
    let at = match (words.next(), form) {
        (None, _) => None,
        (Some(ms), Form::Prometheus) => {
            Some(Nanos::from_millis(u64::try_from(ms.parse::<i64>().ok()?).ok()?))
        }
        (Some(s), Form::OpenMetrics) => {
            Some(Nanos::from_secs_f64(s.parse::<f64>().ok().filter(|s| s.is_finite() && *s >= 0.0)?))
        }
    };
    if words.next().is_some() {
        return None;
    }
    // OpenMetrics names the family; a counter's sample ends in `_total`, a histogram's in what it is.
    let family = ["_total", "_bucket", "_count", "_sum"].iter().find_map(|s| name.strip_suffix(s));
    let kind = kinds.get(name).or_else(|| kinds.get(family?)).copied().unwrap_or(Kind::Unknown);
    Some(Sample { name, labels, value, at, kind })
}

/// Reads labels up to their closing brace; what follows it.
fn read_labels<'a>(mut text: &'a str, labels: &mut Vec<(&'a str, Cow<'a, str>)>) -> Option<&'a str> {
    loop {
        text = text.trim_start();
        if let Some(rest) = text.strip_prefix('}') {
            return Some(rest);
        }
        let (key, rest) = name(text)?;
        let rest = rest.trim_start().strip_prefix('=')?.trim_start().strip_prefix('"')?;
        let (value, rest) = quoted(rest)?;
        if labels.len() >= LABELS_MAX {
            return None;
        }
        labels.push((key, value));
        text = rest.trim_start();
        match text.strip_prefix(',') {
            Some(rest) => text = rest,
            None if text.starts_with('}') => {}
            None => return None,
        }
    }
}

/// A value up to its closing quote, unescaped, and what follows.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut escaped = false;
    let mut any = false;
    let end = text.bytes().position(|c| {
        if escaped {
            escaped = false;
            return false;
        }
        escaped = c == b'\\';
        any |= escaped;
        c == b'"'
    })?;
    let (raw, rest) = (text.get(..end)?, text.get(end + 1..)?);
    if !any {
        return Some((Cow::Borrowed(raw), rest));
    }
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                // A backslash or quote stands for itself; before anything else both are kept.
                Some(c @ ('\\' | '"')) => out.push(c),
                Some(c) => out.extend(['\\', c]),
                None => out.push('\\'),
            },
            _ => out.push(c),
        }
    }
    Some((Cow::Owned(out), rest))
}

/// A value as Go writes it.
fn number(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        _ if text.bytes().all(|c| c.is_ascii_digit() || b"+-.eE".contains(&c)) => text.parse().ok(),
        _ => text.parse::<f64>().ok().filter(|n| !n.is_finite()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(text: &str, form: Form) -> (Vec<Sample<'_>>, u64) {
        let mut out = Vec::new();
        let malformed = parse(text, form, |s| out.push(s));
        (out, malformed)
    }

    #[test]
    fn labels_with_everything_in_them() {
        let text = r#"m{a="x,y=\"z\"}",b="c:\\d\n",} 1.5e3 1700000000123"#;
        let (got, malformed) = all(text, Form::Prometheus);
        assert_eq!(malformed, 0);
        let labels: Vec<_> = got[0].labels.iter().map(|(k, v)| (*k, &**v)).collect();
        assert_eq!(labels, [("a", "x,y=\"z\"}"), ("b", "c:\\d\n")]);
        assert_eq!((got[0].value, got[0].at), (1500.0, Some(Nanos(1_700_000_000_123_000_000))));
    }

    #[test]
    fn values_go_writes() {
        let (got, malformed) = all("a NaN\nb +Inf\nc -Inf\nd 1e-3\ne:f 7\ng{} 8", Form::Prometheus);
        assert_eq!(malformed, 0);
        assert!(got[0].value.is_nan());
        let rest: Vec<_> = got[1..].iter().map(|s| (s.name, s.value)).collect();
        let inf = f64::INFINITY;
        assert_eq!(rest, [("b", inf), ("c", -inf), ("d", 0.001), ("e:f", 7.0), ("g", 8.0)]);
    }

    #[test]
    fn openmetrics_has_exemplars_and_an_end() {
        let text = "# TYPE c counter\n# TYPE h histogram\n# TYPE g gauge\nc_total 5 1700000000.5\n\
                    h_bucket{le=\"1\"} 2 # {trace_id=\"a\"} 0.6 1.0\ng 1\n# EOF\nnot read";
        let (got, malformed) = all(text, Form::OpenMetrics);
        assert_eq!(malformed, 0);
        let said: Vec<_> = got.iter().map(|s| (s.name, s.value, s.kind, s.at.map(|n| n.0))).collect();
        let want = [
            ("c_total", 5.0, Kind::Counter, Some(1_700_000_000_500_000_000)),
            ("h_bucket", 2.0, Kind::Counter, None),
            ("g", 1.0, Kind::Gauge, None),
        ];
        assert_eq!(said, want);
    }

    #[test]
    fn lines_that_are_none_are_counted() {
        let text = "1a 2\nm\nm {a=} 1\nm{a=\"b\" 1\nm{a=\"b\"c=\"d\"} 1\nm x\nm 1 2 3\nm{a=\"\\\"} 1\n\u{e4} 1\nok 1";
        let (got, malformed) = all(text, Form::Prometheus);
        assert_eq!((got.len(), malformed), (1, 9));
    }

    proptest! {
        #[test]
        fn any_text_is_an_outcome(text in "[-a-z0-9{}=\",\\\\# .:\n\u{e4}]{0,120}") {
            all(&text, Form::Prometheus);
            all(&text, Form::OpenMetrics);
        }

        #[test]
        fn what_is_written_is_read(key in "[a-z_][a-z0-9_]{0,8}", value in "\\PC{0,20}", number: f64) {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let text = format!("m{{{key}=\"{escaped}\"}} {number:e}");
            let (got, malformed) = all(&text, Form::Prometheus);
            if number.is_finite() {
                prop_assert_eq!(malformed, 0, "{}", text);
                prop_assert_eq!(got[0].label(&key), Some(&*value));
                prop_assert_eq!(got[0].value, number);
            }
        }
    }
}
