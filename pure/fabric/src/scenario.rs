//! A scenario: a fabric, how it is probed, what breaks, and what must be found (or that nothing must be). The
//! simulator and the lab run the same files.
//!
//! ```toml
//! name = "gray-link"
//! description = "One link loses one packet in a hundred."
//! seed = 1
//! duration = "60s"
//! [fabric]
//! planes = 2                            # and everything else of `spec`
//! leaves = 4
//! spines = 4
//! hosts = 16
//! [probe]
//! packets_per_second = 400              # of each host, over all its planes
//! window = "500ms"
//! [[fault]]
//! target = "random-link"
//! kind = "drop 1%"
//! at = "10s"
//! until = "40s"
//! [expect]
//! within = "10s"
//! ```
//!
//! A plain fabric is a scenario in which nothing breaks. Invariants: the seed decides everything random, once, in
//! [`Scenario::resolve`]; what is expected follows from the faults unless the file says otherwise.
//! Absent on purpose: commands to run, and anything only one of simulator and lab could do.

use crate::error::{Problem, SpecError};
use crate::fault::{Direction, Fault, FaultKind, Target};
use crate::read::{self, Field, Table};
use crate::shape::Fabric;
use crate::{spec, unit};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use wire::{Component, Nanos};

/// The words a verdict's kind can be.
pub const VERDICT_KINDS: &[&str] = &[
    "loss",
    "blackhole",
    "selective_loss",
    "corruption",
    "reorder",
    "ecn_marking",
    "delay",
    "congestion",
    "flap",
    "host_stall",
    "agent_stopped",
];

const KEYS: &[&str] = &["name", "description", "seed", "duration", "fabric", "probe", "fault", "expect"];
/// Keys by which a plain fabric is known ...
const FABRIC_ONLY: &[&str] = &["mode", "planes", "leaves", "spines", "hosts", "hosts_per_leaf"];
/// ... and a scenario.
const SCENARIO_ONLY: &[&str] = &["description", "seed", "duration", "fabric", "probe", "fault", "expect"];
const FAULT_KEYS: &[&str] = &["target", "kind", "direction", "at", "until", "expect"];
const PROBE_KEYS: &[&str] = &["packets_per_second", "window", "train", "size"];
const EXPECT_KEYS: &[&str] = &["nothing", "within", "kinds"];

/// A fabric, and what happens to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// For people and files.
    pub name: String,
    /// One sentence.
    pub description: String,
    /// The seed where the caller has no other.
    pub seed: u64,
    /// How long it runs.
    pub duration: Nanos,
    /// Where.
    pub fabric: Fabric,
    /// How it is probed.
    pub probe: ProbeSpec,
    /// What breaks, in the order of the file.
    pub faults: Vec<Fault>,
    /// What must be found.
    pub expect: Expect,
}

/// How every host probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeSpec {
    /// Probes a host sends each second, over all its planes, `1 ..= 1_000_000`.
    pub packets_per_second: u32,
    /// Length of a window of observations, 100 ms to 1 s.
    pub window: Nanos,
    /// Probes sent back to back on one path, `1 ..= 64`.
    pub train: u32,
    /// Bytes of a probe's UDP payload, `44 ..= 8192` (44: a STAMP packet without TLVs, RFC 8762).
    pub size: u32,
}

impl Default for ProbeSpec {
    fn default() -> Self {
        ProbeSpec { packets_per_second: 400, window: Nanos::from_millis(500), train: 2, size: 128 }
    }
}

/// What a run must come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Expect {
    /// No verdict at all, whatever breaks. Always true where nothing breaks.
    pub nothing: bool,
    /// From a fault's beginning to its verdict, at most.
    pub within: Nanos,
    /// Words right for the verdict's kind, for every fault; empty: they follow from each fault.
    pub kinds: Vec<&'static str>,
}

/// The verdict one fault must lead to.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// Number of the fault in [`Scenario::faults`].
    pub fault: usize,
    /// Any of these is a right answer, the most exact first.
    pub components: Vec<Component>,
    /// Any of these words is a right kind, the best first.
    pub kinds: Vec<&'static str>,
    /// From the fault's beginning, at most.
    pub within: Nanos,
}

impl Scenario {
    /// Reads a scenario, or a plain fabric.
    pub fn parse(text: &str) -> Result<Scenario, SpecError> {
        let document = read::document(text)?;
        let document = document.get_ref();
        let has = |known: &[&str]| document.keys().any(|key| known.contains(&&**key.get_ref()));
        if has(FABRIC_ONLY) && !has(SCENARIO_ONLY) {
            return Ok(Scenario::of(Fabric::parse(text)?));
        }
        let table = Table::root(text, document, "the scenario", KEYS)?;
        let name = table.get("name").map(|f| f.read(NAME, spec::name_text)).transpose()?;
        let fabric = table.need("fabric", "a fabric")?.table("the fabric", spec::KEYS)?;
        let mut scenario = Scenario::of(Fabric::from_table(fabric, name.as_deref())?);
        if let Some(name) = name {
            scenario.name = name;
        }
        if let Some(field) = table.get("description") {
            scenario.description = field.text("a sentence")?.to_string();
        }
        if let Some(field) = table.get("seed") {
            scenario.seed = field.number(0, i64::MAX as u64)?;
        }
        if let Some(field) = table.get("probe") {
            scenario.probe = probe(field)?;
        }
        if let Some(field) = table.get("fault") {
            for entry in field.list("a list of tables, written `[[fault]]`")? {
                scenario.faults.push(fault(&scenario.fabric, entry)?);
            }
        }
        scenario.expect.nothing = scenario.faults.is_empty();
        if let Some(field) = table.get("expect") {
            expect(&mut scenario.expect, field.table("`[expect]`", EXPECT_KEYS)?)?;
        }
        let ends = scenario.faults.iter().map(|f| f.until.unwrap_or(f.at));
        let end = ends.max().unwrap_or(Nanos::from_secs(30));
        scenario.duration = match table.get("duration") {
            Some(field) => field.read(unit::TIME, unit::parse_time)?,
            None => end + Nanos::from_secs(30),
        };
        Ok(scenario)
    }

    /// A scenario in which nothing breaks for a minute.
    pub fn of(fabric: Fabric) -> Scenario {
        Scenario {
            name: fabric.name.clone(),
            description: String::new(),
            seed: 1,
            duration: Nanos::from_secs(60),
            fabric,
            probe: ProbeSpec::default(),
            faults: Vec::new(),
            expect: Expect { nothing: true, within: Nanos::from_secs(10), kinds: Vec::new() },
        }
    }

    /// The same scenario with every random choice made. The same seed makes the same; no two faults get the same
    /// target while there is another.
    pub fn resolve(&self, seed: u64) -> Scenario {
        let mut out = Scenario { seed, faults: Vec::new(), ..self.clone() };
        for (i, fault) in self.faults.iter().enumerate() {
            let mut resolved = fault.clone();
            for attempt in 0..16u64 {
                let salt = (i as u64) << 32 | attempt;
                resolved = fault.resolve(&self.fabric, seed ^ salt.wrapping_mul(0xa076_1d64_78bd_642f));
                if !out.faults.iter().any(|other| other.target == resolved.target) {
                    break;
                }
            }
            out.faults.push(resolved);
        }
        out
    }

    /// The verdicts that must come, one for each fault; none where nothing must be found. Ask a resolved scenario.
    pub fn expected(&self) -> Vec<Expected> {
        if self.expect.nothing {
            return Vec::new();
        }
        let one = |(fault, f): (usize, &Fault)| Expected {
            fault,
            components: f.answers(&self.fabric),
            kinds: match self.expect.kinds.as_slice() {
                [] => f.kind.verdict_kinds().to_vec(),
                kinds => kinds.to_vec(),
            },
            within: self.expect.within,
        };
        self.faults.iter().enumerate().map(one).collect()
    }
}

const NAME: &str = "a name of 1 to 40 letters, digits, `-` or `_`";

fn probe(field: Field<'_>) -> Result<ProbeSpec, SpecError> {
    let table = field.table("`[probe]`", PROBE_KEYS)?;
    let mut probe = ProbeSpec::default();
    if let Some(field) = table.get("packets_per_second") {
        probe.packets_per_second = field.number(1, 1_000_000)? as u32;
    }
    if let Some(field) = table.get("window") {
        let bounds = Nanos::from_millis(100)..=Nanos::from_secs(1);
        let read = |t: &str| unit::parse_time(t).filter(|t| bounds.contains(t));
        probe.window = field.read("a time from \"100ms\" to \"1s\"", read)?;
    }
    if let Some(field) = table.get("train") {
        probe.train = field.number(1, 64)? as u32;
    }
    if let Some(field) = table.get("size") {
        probe.size = field.number(44, 8192)? as u32;
    }
    Ok(probe)
}

fn fault(fabric: &Fabric, entry: Field<'_>) -> Result<Fault, SpecError> {
    let table = entry.table("a `[[fault]]`", FAULT_KEYS)?;
    let field = table.need("target", Target::FORM)?;
    let target = Target::parse(fabric, field.text(Target::FORM)?).map_err(|p| field.error(p))?;
    let field = table.need("kind", "a fault such as \"drop 1%\"")?;
    let kind: FaultKind = field.text("a fault such as \"drop 1%\"")?.parse().map_err(|p| field.error(p))?;
    let direction = match table.get("direction") {
        Some(field) => {
            let word = field.text("\"forward\", \"backward\" or \"both\"")?;
            Some(word.parse::<Direction>().map_err(|p| field.error(p))?)
        }
        None => None,
    };
    let mut fault = Fault::new(target, direction, kind).map_err(|p| field.error(p))?;
    if let Some(field) = table.get("at") {
        fault.at = field.read(unit::TIME, unit::parse_time)?;
    }
    if let Some(field) = table.get("until") {
        let until = field.read(unit::TIME, unit::parse_time)?;
        if until <= fault.at {
            return Err(field.error(Problem::EndsEarly { at: fault.at, until }));
        }
        fault.until = Some(until);
    }
    if let Some(field) = table.get("expect") {
        for name in field.list("a list of names of components")? {
            let text = name.text("the name of a component")?;
            let component = fabric.component_by_name(text).ok_or_else(|| {
                name.error(fabric.no_such("component", text, "p0-leaf0:p0-spine0, p0-leaf0, host0-p0, host0"))
            })?;
            fault.expect.push(component);
        }
    }
    Ok(fault)
}

fn expect(expect: &mut Expect, table: Table<'_>) -> Result<(), SpecError> {
    if let Some(field) = table.get("nothing") {
        expect.nothing = field.flag()?;
    }
    if let Some(field) = table.get("within") {
        expect.within = field.read(unit::TIME, unit::parse_time)?;
    }
    if let Some(field) = table.get("kinds") {
        for kind in field.list("a list of words")? {
            let found = kind.text("a word")?;
            let known = VERDICT_KINDS.iter().find(|word| **word == found).ok_or_else(|| {
                let key = "kinds".to_string();
                kind.error(Problem::NotOneOf { key, found: found.to_string(), known: VERDICT_KINDS })
            })?;
            expect.kinds.push(known);
        }
    }
    Ok(())
}
