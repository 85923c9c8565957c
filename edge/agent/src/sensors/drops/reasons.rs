//! Names of the reasons for which this kernel throws packets away, from its own types.
//!
//! How: `/sys/kernel/btf/vmlinux` holds every type of the kernel (BTF, Documentation/bpf/btf.rst); the enumeration
//! `skb_drop_reason` is looked for by its name.
//! Invariants: bytes that are no BTF are refused, never read past their end.

use crate::sensors::SensorError;
use std::collections::BTreeMap;

const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const ENUM: u32 = 6;
const PREFIX: &str = "SKB_DROP_REASON_";

/// Numbers and names, without what all names begin with.
pub(super) fn of_this_kernel() -> Result<BTreeMap<u32, String>, SensorError> {
    let wrong = |reason: String| SensorError::File { path: PATH.to_owned(), reason };
    let bytes = std::fs::read(PATH).map_err(|e| wrong(e.to_string()))?;
    let found =
        read(&bytes, "skb_drop_reason").ok_or_else(|| wrong("it is no BTF of version 1".to_owned()))?;
    if found.is_empty() {
        return Err(wrong("this kernel names no reasons for drops (Linux 5.17 does)".to_owned()));
    }
    Ok(found)
}

/// The values of an enumeration; empty where there is none of that name.
fn read(bytes: &[u8], wanted: &str) -> Option<BTreeMap<u32, String>> {
    let word = |at: usize| -> Option<u32> {
        bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
    };
    if bytes.get(..2)?.try_into().map(u16::from_ne_bytes).ok()? != MAGIC {
        return None;
    }
    let header = word(4)? as usize;
    let (type_at, type_len) = (header + word(8)? as usize, word(12)? as usize);
    let (text_at, text_len) = (header + word(16)? as usize, word(20)? as usize);
    let texts = bytes.get(text_at..text_at.checked_add(text_len)?)?;
    let text = |at: u32| -> Option<&str> {
        let rest = texts.get(at as usize..)?;
        let end = rest.iter().position(|&b| b == 0)?;
        std::str::from_utf8(rest.get(..end)?).ok()
    };
    let (mut at, end) = (type_at, type_at.checked_add(type_len)?);
    while at < end {
        let (name, info) = (word(at)?, word(at + 4)?);
        let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        at += 12;
        // bytes behind the first three words, kind by kind
        let behind = match kind {
            1 | 14 | 17 => 4,
            3 => 12,
            4 | 5 | 15 | 19 => 12 * members,
            6 | 13 => 8 * members,
            2 | 7..=12 | 16 | 18 => 0,
            _ => return None,
        };
        if kind == ENUM && text(name) == Some(wanted) {
            let mut out = BTreeMap::new();
            for i in 0..members {
                let name = text(word(at + 8 * i)?)?;
                // A value of the enumeration is its number, but for marks at the end and masks.
                let short = name.strip_prefix(PREFIX).or_else(|| name.strip_prefix("SKB_"));
                out.insert(word(at + 8 * i + 4)?, short.unwrap_or(name).to_owned());
            }
            return Some(out);
        }
        at += behind;
    }
    Some(BTreeMap::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernels_reasons_have_names() {
        let reasons = match of_this_kernel() {
            Ok(reasons) => reasons,
            Err(e) => {
                eprintln!("skip: {e}");
                return;
            }
        };
        let names: Vec<&str> = reasons.values().map(String::as_str).collect();
        for wanted in ["NOT_SPECIFIED", "NO_SOCKET", "UDP_CSUM", "SOCKET_RCVBUFF", "NETFILTER_DROP"] {
            assert!(names.contains(&wanted), "{wanted} is not among {names:?}");
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        assert_eq!(read(b"", "x"), None);
        assert_eq!(read(&[0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9], "x"), None);
        let bytes = std::fs::read(PATH).unwrap_or_default();
        for cut in [10, 24, 100, 1_000, 100_000] {
            if let Some(part) = bytes.get(..cut) {
                assert_eq!(read(part, "no_such_enumeration"), None);
            }
        }
    }
}
