//! The mapping's file: read, checked against the fabric, and its rules enumerated.
//!
//! Invariants: every rule fits at least one device, and every interface named is on a port of each device it fits;
//! errors and findings have the place of the rule they are about.

use crate::error::{FileError, Problem};
use crate::setting;
use fabric::{Device, Fabric};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use toml::Spanned;
use wire::LinkId;

/// Neighbours listed in a message.
const LISTED: usize = 6;
/// Findings of one file; what a pattern leaves open on every host is known after the first hundred.
const FINDINGS_MAX: usize = 100;

/// A text in which at most one `*` stands for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    before: String,
    /// What follows the star, where there is one.
    behind: Option<String>,
}

impl Pattern {
    fn new(text: &str) -> Option<Pattern> {
        match text.split_once('*') {
            None => Some(Pattern { before: text.to_owned(), behind: None }),
            Some((_, behind)) if behind.contains('*') => None,
            Some((before, behind)) => {
                Some(Pattern { before: before.to_owned(), behind: Some(behind.to_owned()) })
            }
        }
    }
    /// The text, where it has no star.
    pub(super) fn plain(&self) -> Option<&str> {
        self.behind.is_none().then_some(&*self.before)
    }
    /// What the star stands for in a text; nothing where there is none.
    pub(super) fn captured<'a>(&self, text: &'a str) -> Option<&'a str> {
        match &self.behind {
            None => (text == self.before).then_some(""),
            Some(behind) => {
                text.strip_prefix(&*self.before)?.strip_suffix(&**behind).filter(|star| !star.is_empty())
            }
        }
    }
    /// The text with something for the star.
    pub(super) fn filled(&self, star: &str) -> String {
        match &self.behind {
            None => self.before.clone(),
            Some(behind) => format!("{}{star}{behind}", self.before),
        }
    }
}

/// How a rule's interfaces lie on ports.
#[derive(Clone, Debug)]
enum Lies {
    /// By neighbour, or by the fabric's own name of the port.
    To(Pattern),
    /// By number.
    Port { port: u64, first: u64, step: u64 },
}

#[derive(Clone, Debug)]
struct InterfaceRule {
    interface: Pattern,
    lies: Lies,
    span: std::ops::Range<usize>,
}

/// A device, or devices alike.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// Names and addresses as told.
    pub(super) matches: Vec<Pattern>,
    /// The fabric's name.
    pub(super) is: Pattern,
    interfaces: Vec<InterfaceRule>,
}

/// An interface a rule has for a device.
pub(super) struct Interface {
    pub(super) name: String,
    /// The link that leaves by it.
    pub(super) link: LinkId,
    /// Which of the device's interface rules said so.
    rule: usize,
}

/// What a link's far end is called.
fn neighbour(fabric: &Fabric, link: LinkId) -> String {
    let name = fabric.link_name(link);
    name.split_once(':').map_or(name.clone(), |(_, to)| to.to_owned())
}

impl Rule {
    /// Every interface of a device, those named without a star first. A name comes once.
    pub(super) fn interfaces(&self, fabric: &Fabric, device: Device) -> Vec<Interface> {
        let ports = fabric.ports(device);
        let mut out: Vec<Interface> = Vec::new();
        let mut named: BTreeSet<String> = BTreeSet::new();
        for plain in [true, false] {
            for (rule, i) in self.interfaces.iter().enumerate() {
                if i.interface.plain().is_some() != plain {
                    continue;
                }
                for (n, &link) in ports.iter().enumerate() {
                    let star = match &i.lies {
                        Lies::To(to) => {
                            // The own name first: `p*` is meant for `p0`, not for the `p0-leaf1` behind it.
                            let (own, far) = (fabric.ifname(link), neighbour(fabric, link));
                            to.captured(&own).or_else(|| to.captured(&far)).map(str::to_owned)
                        }
                        Lies::Port { port, .. } if plain => (*port == n as u64).then(String::new),
                        Lies::Port { port, first, step } => (n as u64)
                            .checked_sub(*port)
                            .and_then(|k| first.checked_add(k.checked_mul(*step)?))
                            .map(|number| number.to_string()),
                    };
                    let Some(star) = star else { continue };
                    let name = i.interface.filled(&star);
                    if named.insert(name.clone()) {
                        out.push(Interface { name, link, rule });
                    }
                }
            }
        }
        out
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InterfaceTable {
    r#match: Spanned<String>,
    to: Option<Spanned<String>>,
    port: Option<Spanned<u64>>,
    first: Option<u64>,
    step: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceTable {
    r#match: Vec<Spanned<String>>,
    is: Spanned<String>,
    #[serde(default)]
    interface: Vec<InterfaceTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    device: Vec<DeviceTable>,
}

/// Reads a file and checks it; the second value is what is left open.
pub(super) fn read(text: &str, fabric: &Fabric) -> Result<(Vec<Rule>, Vec<FileError>), FileError> {
    let file: File = setting::parse(text)?;
    let mut seen = BTreeSet::new();
    let mut rules = Vec::new();
    let mut findings = Vec::new();
    for table in file.device {
        let is_span = table.is.span();
        for m in &table.r#match {
            if !seen.insert(m.get_ref().clone()) {
                let problem = Problem::MatchTwice(m.get_ref().clone());
                return Err(FileError::new(text, m.span(), problem));
            }
        }
        let rule = rule(text, table)?;
        for device in devices(text, fabric, &rule, is_span.clone())? {
            findings.extend(check(text, fabric, &rule, device, &is_span)?);
        }
        rules.push(rule);
    }
    findings.truncate(FINDINGS_MAX);
    Ok((rules, findings))
}

fn expected(text: &str, at: &Spanned<String>, found: String, expected: &'static str) -> FileError {
    FileError::new(text, at.span(), Problem::Expected { found, expected })
}

fn pattern(text: &str, at: &Spanned<String>) -> Result<Pattern, FileError> {
    Pattern::new(at.get_ref()).filter(|_| !at.get_ref().is_empty()).ok_or_else(|| {
        expected(text, at, format!("{:?}", at.get_ref()), "a name, or a pattern with one `*` in it")
    })
}

fn rule(text: &str, table: DeviceTable) -> Result<Rule, FileError> {
    let is = pattern(text, &table.is)?;
    let mut matches = Vec::new();
    for m in &table.r#match {
        let p = pattern(text, m)?;
        if is.plain().is_none() && p.plain().is_some() {
            let found = format!("{:?} has no `*` but {:?} has", m.get_ref(), table.is.get_ref());
            return Err(expected(text, m, found, "a pattern, whose star is put in the device's name"));
        }
        matches.push(p);
    }
    if matches.is_empty() {
        return Err(expected(text, &table.is, "`match` is empty".to_owned(), "a name or an address"));
    }
    let mut interfaces = Vec::new();
    let mut seen = BTreeSet::new();
    for i in table.interface {
        if !seen.insert(i.r#match.get_ref().clone()) {
            return Err(FileError::new(text, i.r#match.span(), Problem::MatchTwice(i.r#match.into_inner())));
        }
        let interface = pattern(text, &i.r#match)?;
        let starred = interface.plain().is_none();
        let lies = match (i.to, i.port) {
            (Some(to), None) if i.first.is_none() && i.step.is_none() => {
                let to_pattern = pattern(text, &to)?;
                if to_pattern.plain().is_some() == starred {
                    let found = format!("{:?} is on {:?}", i.r#match.get_ref(), to.get_ref());
                    return Err(expected(text, &to, found, "a `*` in both or in neither"));
                }
                Lies::To(to_pattern)
            }
            (None, Some(port)) if starred || (i.first.is_none() && i.step.is_none()) => {
                let (first, step) = (i.first.unwrap_or(0), i.step.unwrap_or(1));
                if step == 0 {
                    return Err(expected(text, &i.r#match, "`step` is 0".to_owned(), "at least 1"));
                }
                Lies::Port { port: *port.get_ref(), first, step }
            }
            _ => {
                let found = format!("interface {:?}", i.r#match.get_ref());
                let want = "either `to`, or `port` (with `first` and `step` where the name has a `*`)";
                return Err(expected(text, &i.r#match, found, want));
            }
        };
        interfaces.push(InterfaceRule { interface, lies, span: i.r#match.span() });
    }
    Ok(Rule { matches, is, interfaces })
}

/// The devices a rule is about.
fn devices(
    text: &str,
    fabric: &Fabric,
    rule: &Rule,
    span: std::ops::Range<usize>,
) -> Result<Vec<Device>, FileError> {
    let example = fabric.devices().last().map(|d| fabric.device_name(d)).unwrap_or_default();
    match rule.is.plain() {
        Some(name) => match fabric.device_by_name(name) {
            Some(device) => Ok(vec![device]),
            None => Err(FileError::new(text, span, Problem::NoDevice { name: name.to_owned(), example })),
        },
        None => {
            let fits = |d: &Device| rule.is.captured(&fabric.device_name(*d)).is_some();
            let all: Vec<Device> = fabric.devices().filter(fits).collect();
            if all.is_empty() {
                let name = rule.is.filled("*");
                return Err(FileError::new(text, span, Problem::FitsNone { name, example }));
            }
            Ok(all)
        }
    }
}

/// Checks a rule's interfaces on one device; what is left open of it.
fn check(
    text: &str,
    fabric: &Fabric,
    rule: &Rule,
    device: Device,
    span: &std::ops::Range<usize>,
) -> Result<Option<FileError>, FileError> {
    if rule.interfaces.is_empty() {
        return Ok(None);
    }
    let name = fabric.device_name(device);
    let ports = fabric.ports(device);
    let interfaces = rule.interfaces(fabric, device);
    for (n, i) in rule.interfaces.iter().enumerate() {
        if interfaces.iter().any(|found| found.rule == n) {
            continue;
        }
        // A name that another rule has already is no mistake of this one, if it has a port at all.
        let problem = match &i.lies {
            Lies::To(to) => {
                let mut known: Vec<String> =
                    ports.iter().take(LISTED).map(|l| neighbour(fabric, *l)).collect();
                if ports.len() > LISTED {
                    known.push("...".to_owned());
                }
                let known = known.join(", ");
                Problem::NoNeighbour { device: name, name: to.filled("*"), known }
            }
            Lies::Port { port, .. } => {
                let most = (ports.len() as u64).saturating_sub(1);
                Problem::NoPort { device: name, port: *port, most }
            }
        };
        return Err(FileError::new(text, i.span.clone(), problem));
    }
    let mut on: HashMap<LinkId, &Interface> = HashMap::new();
    for i in &interfaces {
        if let Some(first) = on.insert(i.link, i) {
            let problem = Problem::PortTwice {
                first: first.name.clone(),
                second: i.name.clone(),
                neighbour: neighbour(fabric, i.link),
            };
            let at = rule.interfaces.get(i.rule).map_or(0..0, |r| r.span.clone());
            return Err(FileError::new(text, at, problem));
        }
    }
    let left: Vec<LinkId> = ports.into_iter().filter(|l| !on.contains_key(l)).collect();
    Ok(left.first().map(|first| {
        let neighbour = neighbour(fabric, *first);
        FileError::new(text, span.clone(), Problem::PortsLeft { device: name, count: left.len(), neighbour })
    }))
}
