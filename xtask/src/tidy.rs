//! `cargo xtask tidy`: the house rules no compiler checks.
//!
//! The table of allowed edges is the law of ARCHITECTURE.md: a room may use another only if the pair is here.

use crate::root;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Rooms of the pure floor.
pub const PURE: &[&str] = &["wire", "fabric", "probe", "diagnose", "transport", "sim"];

/// Room -> rooms it may depend on.
const EDGES: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("fabric", &["wire"]),
    ("probe", &["wire", "fabric"]),
    ("diagnose", &["wire", "fabric"]),
    ("transport", &["wire", "fabric"]),
    ("sim", &["wire", "fabric", "probe", "diagnose", "transport"]),
    ("kernel", &[]),
    ("endpoint", &["wire", "fabric", "transport", "kernel"]),
    ("agent", &["wire", "fabric", "probe", "kernel"]),
    ("tables", &["wire", "fabric"]),
    ("receive", &["wire", "fabric", "kernel"]),
    ("hub", &["wire", "fabric", "probe", "diagnose", "tables", "receive"]),
    ("lab", &["wire", "fabric", "kernel"]),
    (
        "app",
        &[
            "wire",
            "fabric",
            "probe",
            "diagnose",
            "transport",
            "sim",
            "kernel",
            "endpoint",
            "agent",
            "hub",
            // `bench tables` opens them without a hub.
            "tables",
            "lab",
        ],
    ),
    ("xtask", &["wire", "fabric", "diagnose"]),
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "misc"];

/// Longest file, lines.
const LINES_MAX: usize = 900;

struct Rule {
    /// Text that must not stand in a file.
    text: &'static str,
    /// Where it is allowed.
    allowed: fn(&str) -> bool,
    why: &'static str,
}

fn rules() -> Vec<Rule> {
    // Written in two halves so that this file does not trip over itself.
    vec![
        Rule {
            text: concat!("TO", "DO"),
            allowed: |_| false,
            why: "do it, or write the reason it is not done",
        },
        Rule {
            text: concat!("FIX", "ME"),
            allowed: |_| false,
            why: "do it, or write the reason it is not done",
        },
        Rule {
            text: concat!("uns", "afe "),
            allowed: |p| p.starts_with("edge/kernel/") || p == "xtask/src/tidy.rs",
            why: "only edge/kernel may be unsafe",
        },
        Rule {
            text: concat!("../sha", "red"),
            allowed: |p| !p.ends_with(".rs") || p.starts_with("xtask/"),
            why: "the product does not depend on data outside the repository",
        },
        Rule { text: concat!("/wo", "rk/"), allowed: |_| false, why: "no path of one machine" },
        Rule {
            text: concat!("std::", "time::"),
            // a test may time what it runs
            allowed: |p| !p.starts_with("pure/") || p.contains("/tests/"),
            why: "the pure floor has no clock",
        },
        Rule {
            text: concat!("Hash", "Map"),
            allowed: |p| !p.starts_with("pure/"),
            why: "its order is not repeatable",
        },
    ]
}

pub fn run() -> anyhow::Result<()> {
    let root = root();
    let mut found = Vec::new();
    edges(&root, &mut found)?;
    let files = files(&root)?;
    for path in &files {
        let rel = path.strip_prefix(&root).unwrap_or(path).to_string_lossy().replace('\\', "/");
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        file(&rel, &text, &mut found);
    }
    for f in &found {
        eprintln!("tidy: {f}");
    }
    anyhow::ensure!(found.is_empty(), "tidy found {} thing(s) to mend", found.len());
    println!("tidy: {} files are in order", files.len());
    Ok(())
}

/// Tracked files, and those git does not ignore.
fn files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let list = crate::output("git", &["ls-files", "--cached", "--others", "--exclude-standard"])?;
    Ok(list.lines().map(|l| root.join(l)).filter(|p| p.is_file()).collect())
}

fn edges(root: &Path, found: &mut Vec<String>) -> anyhow::Result<()> {
    let allowed: BTreeMap<_, _> = EDGES.iter().copied().collect();
    for (room, may) in &allowed {
        let dir = match *room {
            r if PURE.contains(&r) => root.join("pure").join(r),
            "app" | "xtask" => root.join(room),
            r => root.join("edge").join(r),
        };
        let manifest: toml::Table = std::fs::read_to_string(dir.join("Cargo.toml"))?.parse()?;
        let dependencies =
            manifest.get("dependencies").and_then(|d| d.as_table()).cloned().unwrap_or_default();
        for name in dependencies.keys().filter(|n| allowed.contains_key(n.as_str())) {
            if !may.contains(&name.as_str()) {
                found.push(format!(
                    "room `{room}` must not know room `{name}` (table of edges in xtask/src/tidy.rs)"
                ));
            }
        }
    }
    for floor in ["pure", "edge"] {
        for entry in std::fs::read_dir(root.join(floor))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !allowed.contains_key(name.as_str()) {
                found
                    .push(format!("room `{floor}/{name}` is not in the table of edges in xtask/src/tidy.rs"));
            }
        }
    }
    Ok(())
}

fn file(rel: &str, text: &str, found: &mut Vec<String>) {
    if rel.ends_with(".rs") {
        let first = text.lines().next().unwrap_or("");
        if !first.starts_with("//!") && !rel.starts_with("fuzz/") {
            found.push(format!(
                "{rel}: open with a `//!` comment: what it does, how, its invariants, what is absent"
            ));
        }
        let stem = Path::new(rel).file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        if EMPTY_NAMES.contains(&stem.as_str()) {
            found.push(format!("{rel}: a module is named after a noun of the field, not `{stem}`"));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            found.push(format!("{rel}: {lines} lines; split it (at most {LINES_MAX})"));
        }
        if rel.starts_with("pure/") && rel.ends_with("src/lib.rs") {
            for needed in ["#![no_std]", "#![forbid(unsafe_code)]"] {
                if !text.contains(needed) {
                    found.push(format!("{rel}: the pure floor says `{needed}`"));
                }
            }
        }
    }
    let prose =
        rel.ends_with(".md") || rel.ends_with(".rs") || rel.ends_with(".toml") || rel.ends_with(".proto");
    if !prose {
        return;
    }
    for rule in rules() {
        if (rule.allowed)(rel) {
            continue;
        }
        for (n, line) in text.lines().enumerate() {
            let code_only = rule.text.contains("safe") || rule.text.contains("Map");
            let is_comment = line.trim_start().starts_with("//") || !rel.ends_with(".rs");
            if line.contains(rule.text) && !(code_only && is_comment) {
                found.push(format!("{rel}:{}: `{}`: {}", n + 1, rule.text.trim(), rule.why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rel: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        file(rel, text, &mut found);
        found
    }

    #[test]
    fn finds_what_it_should() {
        assert_eq!(check("pure/x/src/a.rs", "//! x\n"), Vec::<String>::new());
        assert_eq!(check("pure/x/src/a.rs", "fn f() {}\n").len(), 1, "no opening comment");
        assert_eq!(check("pure/x/src/util.rs", "//! x\n").len(), 1, "an empty name");
        assert_eq!(
            check("pure/x/src/a.rs", "//! x\nuse std::time::Instant;\n").len(),
            1,
            "a clock in the pure floor"
        );
        assert_eq!(
            check("edge/hub/src/a.rs", "//! x\nuns\u{61}fe { f() }\n").len(),
            1,
            "unsafe outside the kernel room"
        );
        assert_eq!(check("edge/kernel/src/a.rs", "//! x\nuns\u{61}fe { f() }\n").len(), 0);
        assert_eq!(check("docs/a.md", concat!("TO", "DO")).len(), 1);
    }
}
