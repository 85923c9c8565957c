//! Quantities as people write them: `100Gbit/s`, `1.5ms`, `2:1`, `1%`.
//!
//! Invariant: what is written by the functions here reads back as the same number, exactly.
//! Absent on purpose: binary prefixes, and units that could be taken for another (`GB/s`, `m`).

use alloc::format;
use alloc::string::String;
use wire::Nanos;

/// How a rate is written, for error messages.
pub const RATE: &str = "a rate such as \"100Gbit/s\" (bit/s, kbit/s, Mbit/s, Gbit/s, Tbit/s)";
/// How a length of time is written, for error messages.
pub const TIME: &str = "a time such as \"1us\" or \"2.5s\" (ns, us, ms, s, min)";
/// How a share is written, for error messages.
pub const SHARE: &str = "a share from 0.0001 to 1, such as \"1%\" or 0.01";

const RATES: [(&str, u64); 5] = [
    ("Tbit/s", 1_000_000_000_000),
    ("Gbit/s", 1_000_000_000),
    ("Mbit/s", 1_000_000),
    ("kbit/s", 1_000),
    ("bit/s", 1),
];
const TIMES: [(&str, u64); 5] =
    [("min", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("ns", 1)];

/// Bits a second.
pub fn parse_rate(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    exact(number, RATES.iter().find(|(name, _)| *name == unit)?.1)
}
/// The shortest text of a rate in the largest unit that divides it.
pub fn rate(bps: u64) -> String {
    whole(bps, &RATES)
}
/// A length of time.
pub fn parse_time(text: &str) -> Option<Nanos> {
    let (number, unit) = split(text)?;
    let unit = if unit == "µs" { "us" } else { unit };
    exact(number, TIMES.iter().find(|(name, _)| *name == unit)?.1).map(Nanos)
}
/// The shortest text of a length of time in the largest unit that divides it.
pub fn time(t: Nanos) -> String {
    whole(t.0, &TIMES[1..])
}
/// `a:b`, both at least 1.
pub fn parse_ratio(text: &str) -> Option<(u32, u32)> {
    let (a, b) = text.split_once(':')?;
    let (a, b) = (a.trim().parse().ok()?, b.trim().parse().ok()?);
    (a > 0 && b > 0).then_some((a, b))
}
/// `1%` or `0.01`, from 0.0001 to 1.
pub fn parse_share(text: &str) -> Option<f64> {
    let share: f64 = match text.strip_suffix('%') {
        // moved by the exponent, so that the nearest double to the decimal is found, not one beside it
        Some(percent) if !percent.contains(['e', 'E']) => format!("{percent}e-2").parse().ok()?,
        Some(_) => return None,
        None => text.parse().ok()?,
    };
    (1e-4..=1.0).contains(&share).then_some(share)
}
/// A share in percent where that reads back the same, else as a number.
pub fn share(share: f64) -> String {
    let percent = format!("{}%", share * 100.0);
    if percent.len() <= 8 && parse_share(&percent) == Some(share) { percent } else { format!("{share}") }
}

fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(at);
    Some((number, unit.trim_start()))
}

/// A decimal times a unit, where that is a whole number that fits.
fn exact(number: &str, unit: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && part.is_empty()) || part.len() > 18 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if part.is_empty() {
        return Some(whole);
    }
    let scaled = part.parse::<u128>().ok()? * u128::from(unit);
    let ten = 10u128.pow(part.len() as u32);
    if scaled % ten != 0 {
        return None;
    }
    whole.checked_add(u64::try_from(scaled / ten).ok()?)
}

fn whole(n: u64, units: &[(&str, u64)]) -> String {
    let (name, unit) =
        units.iter().find(|(_, u)| n != 0 && n.is_multiple_of(*u)).or(units.last()).unwrap_or(&("", 1));
    format!("{}{name}", n / unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_reads_and_what_does_not() {
        assert_eq!(parse_rate("100Gbit/s"), Some(100_000_000_000));
        assert_eq!(parse_rate("2.5 Gbit/s"), Some(2_500_000_000));
        assert_eq!(parse_rate("0.5bit/s"), None);
        for bad in ["", "100", "100G", "Gbit/s", "1.Gbit/s", "-1Gbit/s", "1e3bit/s", "99999999999Tbit/s"] {
            assert_eq!(parse_rate(bad), None, "{bad}");
        }
        assert_eq!(parse_time("1us"), Some(Nanos(1_000)));
        assert_eq!(parse_time("1µs"), Some(Nanos(1_000)));
        assert_eq!(parse_time("2min"), Some(Nanos::from_secs(120)));
        assert_eq!(parse_time("0s"), Some(Nanos::ZERO));
        assert_eq!(parse_ratio("2:1"), Some((2, 1)));
        assert_eq!(parse_ratio("2:0"), None);
        assert_eq!(parse_share("1%"), Some(0.01));
        assert_eq!(parse_share("0.07%"), Some(0.0007));
        for bad in ["0", "0%", "101%", "1.1", "nan", "inf", "1e-2%", "-1%", "0.00009"] {
            assert_eq!(parse_share(bad), None, "{bad}");
        }
        assert_eq!(share(0.01), "1%");
        assert_eq!(share(0.0001), "0.01%");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(n: u64, s in 1e-4..=1.0f64) {
            prop_assert_eq!(parse_rate(&rate(n)), Some(n));
            prop_assert_eq!(parse_time(&time(Nanos(n))), Some(Nanos(n)));
            prop_assert_eq!(parse_share(&share(s)), Some(s));
        }
        #[test]
        fn any_text_is_read_or_refused(text in "[-0-9.a-zµ%:/ ]{0,12}") {
            let _ = (parse_rate(&text), parse_time(&text), parse_ratio(&text), parse_share(&text));
        }
    }
}
