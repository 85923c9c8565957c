//! What can be broken, where and how: one type for scenarios, the simulator, the lab and the command line, and one
//! text for it.
//!
//! A kind is written `drop 1%`, `delay 5ms jitter 1ms`, `flap period 2s duty 30% rate 100%` (see
//! [`FaultKind::FORMS`]); a target is the name of a link, switch, NIC or host, `p0-spine1/2` for two of a switch's
//! ports, or `random-link` and the like, which a seed decides.
//!
//! Invariants: `text.parse() == Ok(kind)` for every `text = kind.to_string()`; rates are within `1e-4 ..= 1`;
//! after [`Fault::resolve`] a target is never random. A rate is per packet on the wire (per segment), not per
//! offloaded burst.

use crate::error::Problem;
use crate::shape::{Fabric, Tier};
use crate::unit;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;
use wire::{Component, HostId, LinkId, Nanos, NicId, SwitchId};

/// What happens to packets, or to a host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FaultKind {
    /// Packets are lost at random.
    Drop {
        /// Share of packets, `1e-4 ..= 1`.
        rate: f64,
    },
    /// Some flows lose everything, by a hash of their headers.
    Blackhole {
        /// Share of flows, `1e-4 ..= 1`.
        share: f64,
    },
    /// Bits flip in packets.
    Corrupt {
        /// Share of packets, `1e-4 ..= 1`.
        rate: f64,
    },
    /// Packets are held back so that later ones overtake them.
    Reorder {
        /// Share of packets held back, `1e-4 ..= 1`.
        rate: f64,
        /// How long.
        delay: Nanos,
    },
    /// ECN-capable packets get CE (RFC 3168).
    EcnMark {
        /// Share of packets, `1e-4 ..= 1`.
        rate: f64,
    },
    /// The link passes no more than this; what queues is late, what overflows is lost.
    RateLimit {
        /// Bits a second.
        bps: u64,
    },
    /// Every packet is late.
    Delay {
        /// By this much ...
        delay: Nanos,
        /// ... plus up to this much, evenly distributed.
        jitter: Nanos,
    },
    /// The link is down.
    Down,
    /// Bad and good in turns.
    Flap {
        /// From one beginning of a bad spell to the next.
        period: Nanos,
        /// Share of the period that is bad, `1e-4 ..= 1`; the bad spell comes first.
        duty: f64,
        /// Share of packets lost in a bad spell, `1e-4 ..= 1`.
        rate: f64,
    },
    /// A host's processor does not run its agent for some of the time.
    CpuStall {
        /// Length of a stall; less than the period.
        stopped: Nanos,
        /// From one stall's beginning to the next.
        period: Nanos,
    },
    /// A host's agent stands still (`SIGSTOP`): it answers nobody and is not started again.
    AgentStop,
}

impl FaultKind {
    /// The first word of each kind, and how the kind is written.
    pub const FORMS: [(&str, &str); 11] = [
        ("drop", "`drop RATE` (0.01% to 100%), for instance `drop 1%`"),
        ("blackhole", "`blackhole SHARE` (of flows, 0.01% to 100%), for instance `blackhole 25%`"),
        ("corrupt", "`corrupt RATE` (0.01% to 100%), for instance `corrupt 1%`"),
        ("reorder", "`reorder RATE [delay TIME]`, for instance `reorder 5% delay 1ms`"),
        ("ecn", "`ecn RATE` (0.01% to 100%), for instance `ecn 10%`"),
        ("rate-limit", "`rate-limit RATE` (8kbit/s or more), for instance `rate-limit 10Mbit/s`"),
        ("delay", "`delay TIME [jitter TIME]`, for instance `delay 5ms jitter 1ms`"),
        ("down", "`down`"),
        ("flap", "`flap period TIME duty SHARE [rate RATE]`, for instance `flap period 2s duty 30%`"),
        (
            "cpu-stall",
            "`cpu-stall stopped TIME period TIME`, for instance `cpu-stall stopped 50ms period 200ms`",
        ),
        ("agent-stop", "`agent-stop`"),
    ];

    /// The first word of its text.
    pub const fn word(&self) -> &'static str {
        match self {
            FaultKind::Drop { .. } => "drop",
            FaultKind::Blackhole { .. } => "blackhole",
            FaultKind::Corrupt { .. } => "corrupt",
            FaultKind::Reorder { .. } => "reorder",
            FaultKind::EcnMark { .. } => "ecn",
            FaultKind::RateLimit { .. } => "rate-limit",
            FaultKind::Delay { .. } => "delay",
            FaultKind::Down => "down",
            FaultKind::Flap { .. } => "flap",
            FaultKind::CpuStall { .. } => "cpu-stall",
            FaultKind::AgentStop => "agent-stop",
        }
    }

    /// Whether it happens to a host rather than to links.
    pub const fn on_host(&self) -> bool {
        matches!(self, FaultKind::CpuStall { .. } | FaultKind::AgentStop)
    }

    /// The words for a verdict's kind that are right for this fault, the best first.
    pub fn verdict_kinds(&self) -> &'static [&'static str] {
        match self {
            FaultKind::Drop { rate } | FaultKind::Blackhole { share: rate } if *rate >= 1.0 => {
                &["blackhole", "loss"]
            }
            FaultKind::Drop { .. } => &["loss"],
            FaultKind::Blackhole { .. } => &["selective_loss", "loss"],
            FaultKind::Corrupt { .. } => &["corruption", "loss"],
            FaultKind::Reorder { .. } => &["reorder", "delay"],
            FaultKind::EcnMark { .. } => &["ecn_marking"],
            FaultKind::RateLimit { .. } => &["congestion", "delay", "loss"],
            FaultKind::Delay { .. } => &["delay", "reorder"],
            FaultKind::Down => &["blackhole", "loss"],
            FaultKind::Flap { .. } => &["flap", "blackhole", "loss"],
            FaultKind::CpuStall { .. } => &["host_stall"],
            FaultKind::AgentStop => &["agent_stopped"],
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word();
        match *self {
            FaultKind::Drop { rate } | FaultKind::Corrupt { rate } | FaultKind::EcnMark { rate } => {
                write!(f, "{word} {}", unit::share(rate))
            }
            FaultKind::Blackhole { share } => write!(f, "{word} {}", unit::share(share)),
            FaultKind::Reorder { rate, delay } => {
                write!(f, "{word} {} delay {}", unit::share(rate), unit::time(delay))
            }
            FaultKind::RateLimit { bps } => write!(f, "{word} {}", unit::rate(bps)),
            FaultKind::Delay { delay, jitter: Nanos::ZERO } => write!(f, "{word} {}", unit::time(delay)),
            FaultKind::Delay { delay, jitter } => {
                write!(f, "{word} {} jitter {}", unit::time(delay), unit::time(jitter))
            }
            FaultKind::Flap { period, duty, rate } => {
                write!(f, "{word} period {} duty {}", unit::time(period), unit::share(duty))?;
                if rate < 1.0 { write!(f, " rate {}", unit::share(rate)) } else { Ok(()) }
            }
            FaultKind::CpuStall { stopped, period } => {
                write!(f, "{word} stopped {} period {}", unit::time(stopped), unit::time(period))
            }
            FaultKind::Down | FaultKind::AgentStop => f.write_str(word),
        }
    }
}

/// The arguments after a fault's first word: perhaps one bare value, then pairs of name and value.
struct Words<'a> {
    bare: Option<&'a str>,
    named: Vec<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    fn split(words: &[&'a str], bare: bool, names: &[&str]) -> Option<Self> {
        let (first, rest) =
            if bare { words.split_first().map(|(w, r)| (Some(*w), r))? } else { (None, words) };
        let mut named = Vec::new();
        for pair in rest.chunks(2) {
            let &[name, value] = pair else { return None };
            if !names.contains(&name) || named.iter().any(|(n, _)| *n == name) {
                return None;
            }
            named.push((name, value));
        }
        Some(Words { bare: first, named })
    }
    fn value(&self, name: &str) -> Option<&'a str> {
        self.named.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }
    fn share(&self, name: &str) -> Option<f64> {
        unit::parse_share(self.value(name)?)
    }
    /// A time of at least a nanosecond.
    fn time(&self, name: &str) -> Option<Nanos> {
        unit::parse_time(self.value(name)?).filter(|t| t.0 > 0)
    }
    fn time_or(&self, name: &str, default: Nanos) -> Option<Nanos> {
        match self.value(name) {
            Some(text) => unit::parse_time(text),
            None => Some(default),
        }
    }
}

impl FromStr for FaultKind {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let form = words.first().and_then(|first| FaultKind::FORMS.iter().find(|(word, _)| word == first));
        let Some((word, form)) = form else {
            const WORDS: &[&str] = &[
                "drop",
                "blackhole",
                "corrupt",
                "reorder",
                "ecn",
                "rate-limit",
                "delay",
                "down",
                "flap",
                "cpu-stall",
                "agent-stop",
            ];
            let found = words.first().unwrap_or(&"").to_string();
            return Err(Problem::NotOneOf { key: "kind".to_string(), found, known: WORDS });
        };
        let parsed = parse_kind(word, &words[1..]);
        parsed.ok_or_else(|| Problem::BadFault { found: text.to_string(), expected: form })
    }
}

fn parse_kind(word: &str, rest: &[&str]) -> Option<FaultKind> {
    let share = || unit::parse_share(Words::split(rest, true, &[])?.bare?);
    Some(match word {
        "drop" => FaultKind::Drop { rate: share()? },
        "blackhole" => FaultKind::Blackhole { share: share()? },
        "corrupt" => FaultKind::Corrupt { rate: share()? },
        "ecn" => FaultKind::EcnMark { rate: share()? },
        "reorder" => {
            let words = Words::split(rest, true, &["delay"])?;
            let delay = words.time_or("delay", Nanos::from_millis(1)).filter(|d| d.0 > 0)?;
            FaultKind::Reorder { rate: unit::parse_share(words.bare?)?, delay }
        }
        "rate-limit" => {
            let bps = unit::parse_rate(Words::split(rest, true, &[])?.bare?).filter(|&bps| bps >= 8_000)?;
            FaultKind::RateLimit { bps }
        }
        "delay" => {
            let words = Words::split(rest, true, &["jitter"])?;
            let delay = unit::parse_time(words.bare?)?;
            let jitter = words.time_or("jitter", Nanos::ZERO)?;
            if delay == Nanos::ZERO && jitter == Nanos::ZERO {
                return None;
            }
            FaultKind::Delay { delay, jitter }
        }
        "flap" => {
            let words = Words::split(rest, false, &["period", "duty", "rate"])?;
            let rate = if words.value("rate").is_some() { words.share("rate")? } else { 1.0 };
            FaultKind::Flap { period: words.time("period")?, duty: words.share("duty")?, rate }
        }
        "cpu-stall" => {
            let words = Words::split(rest, false, &["stopped", "period"])?;
            let (stopped, period) = (words.time("stopped")?, words.time("period")?);
            if stopped >= period {
                return None;
            }
            FaultKind::CpuStall { stopped, period }
        }
        "down" if rest.is_empty() => FaultKind::Down,
        "agent-stop" if rest.is_empty() => FaultKind::AgentStop,
        _ => return None,
    })
}

/// Which way packets that suffer are going. For a link: along it or against it; for a switch, NIC or host: out of
/// it or into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Along the link as named; leaving the device.
    Forward,
    /// Against it; entering the device.
    Backward,
    /// Both ways.
    Both,
}

impl Direction {
    /// The words of [`Direction`]'s text.
    pub const WORDS: &'static [&'static str] = &["forward", "backward", "both"];
}

impl FromStr for Direction {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        Ok(match text {
            "forward" => Direction::Forward,
            "backward" => Direction::Backward,
            "both" => Direction::Both,
            _ => {
                let found = text.to_string();
                return Err(Problem::NotOneOf { key: "direction".to_string(), found, known: Self::WORDS });
            }
        })
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Forward => "forward",
            Direction::Backward => "backward",
            Direction::Both => "both",
        })
    }
}

/// Which of a switch's ports.
#[derive(Clone, Debug, PartialEq)]
pub enum Ports {
    /// So many, at least 1, as a seed decides.
    Count(u32),
    /// Such a share of them, at least one, as a seed decides.
    Share(f64),
    /// These: the links that leave the switch through them.
    List(Vec<LinkId>),
}

/// What is broken.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A directed link.
    Link(LinkId),
    /// All of a switch's ports.
    Switch(SwitchId),
    /// Some of a switch's ports.
    Ports(SwitchId, Ports),
    /// A NIC's access cable.
    Nic(NicId),
    /// A host: its processor, or the cables of all its NICs.
    Host(HostId),
    /// Any directed link.
    RandomLink,
    /// Any directed link between a leaf and a spine.
    RandomTrunk,
    /// Any switch.
    RandomSwitch,
    /// Some ports of any switch; never [`Ports::List`].
    RandomPorts(Ports),
    /// Any NIC.
    RandomNic,
    /// Any host.
    RandomHost,
}

impl Target {
    /// How targets are written.
    pub const FORM: &'static str = "the name of a link (p0-leaf1:p0-spine0), switch (p0-spine1), some of a switch's \
        ports (p0-spine1/2, p0-spine1/50% or p0-spine1/p0-leaf0,p0-leaf3), NIC (host3-p1) or host (host3), or \
        random-link, random-trunk, random-switch, random-nic or random-host";

    /// Reads a target's name.
    pub fn parse(fabric: &Fabric, text: &str) -> Result<Target, Problem> {
        let (name, ports) = match text.split_once('/') {
            Some((name, ports)) => (name, Some(ports)),
            None => (text, None),
        };
        let none = |what| {
            fabric.no_such(
                what,
                text,
                "p0-leaf0:p0-spine0, p0-leaf0, p0-leaf0/2, host0-p0, host0, random-link",
            )
        };
        // a whole number counts ports; a share has a `%` or a point
        let chosen = |ports: &str| match ports.parse() {
            Ok(n) => Some(Ports::Count(n)).filter(|_| n > 0),
            Err(_) => unit::parse_share(ports).map(Ports::Share),
        };
        Ok(match (name, ports) {
            ("random-link", None) => Target::RandomLink,
            ("random-trunk", None) => Target::RandomTrunk,
            ("random-switch", None) => Target::RandomSwitch,
            ("random-nic", None) => Target::RandomNic,
            ("random-host", None) => Target::RandomHost,
            ("random-switch", Some(ports)) => {
                Target::RandomPorts(chosen(ports).ok_or_else(|| none("number or share of ports"))?)
            }
            (name, Some(ports)) => {
                let switch =
                    fabric.switch_by_name(name).ok_or_else(|| none("switch whose ports to break"))?;
                let list = || {
                    let peers = ports.split(',').map(|peer| port_to(fabric, switch, name, peer.trim()));
                    peers.collect::<Option<Vec<_>>>().map(Ports::List)
                };
                let ports = chosen(ports).or_else(list).ok_or_else(|| none("port of that switch"))?;
                Target::Ports(switch, ports)
            }
            (name, None) => match fabric.component_by_name(name) {
                Some(Component::Link(link)) => Target::Link(link),
                Some(Component::Switch(switch)) => Target::Switch(switch),
                Some(Component::Nic(nic)) if fabric.exists(fabric.access_link(nic)) => Target::Nic(nic),
                Some(Component::Host(host)) => Target::Host(host),
                _ => return Err(none("component")),
            },
        })
    }

    /// The name [`Target::parse`] reads.
    pub fn name(&self, fabric: &Fabric) -> String {
        let ports = |ports: &Ports| match ports {
            Ports::Count(n) => n.to_string(),
            Ports::Share(s) => unit::share(*s),
            Ports::List(links) => {
                let peer = |l: &LinkId| {
                    let name = fabric.link_name(*l);
                    name.split_once(':').map_or(String::new(), |(_, peer)| peer.to_string())
                };
                links.iter().map(peer).collect::<Vec<_>>().join(",")
            }
        };
        match self {
            Target::Link(link) => fabric.link_name(*link),
            Target::Switch(switch) => fabric.switch_name(*switch),
            Target::Ports(switch, p) => fabric.switch_name(*switch) + "/" + &ports(p),
            Target::Nic(nic) => fabric.nic_name(*nic),
            Target::Host(host) => fabric.host_name(*host),
            Target::RandomLink => "random-link".to_string(),
            Target::RandomTrunk => "random-trunk".to_string(),
            Target::RandomSwitch => "random-switch".to_string(),
            Target::RandomPorts(p) => String::from("random-switch/") + &ports(p),
            Target::RandomNic => "random-nic".to_string(),
            Target::RandomHost => "random-host".to_string(),
        }
    }

    /// Whether a seed is still needed to say which.
    pub fn is_random(&self) -> bool {
        !matches!(
            self,
            Target::Link(_)
                | Target::Switch(_)
                | Target::Nic(_)
                | Target::Host(_)
                | Target::Ports(_, Ports::List(_))
        )
    }

    fn kind(&self) -> &'static str {
        match self {
            Target::Link(_) | Target::RandomLink | Target::RandomTrunk => "a link",
            Target::Switch(_) | Target::RandomSwitch => "a switch",
            Target::Ports(..) | Target::RandomPorts(_) => "some ports of a switch",
            Target::Nic(_) | Target::RandomNic => "a NIC",
            Target::Host(_) | Target::RandomHost => "a host",
        }
    }
}

/// The link that leaves a switch towards a named neighbour.
fn port_to(fabric: &Fabric, switch: SwitchId, name: &str, peer: &str) -> Option<LinkId> {
    let link = fabric.link_by_name(&alloc::format!("{name}:{peer}"))?;
    fabric.switch_links(switch).contains(&link).then_some(link)
}

/// Something broken for some time.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Beginning, after the start of the scenario.
    pub at: Nanos,
    /// End, where it heals; later than `at`.
    pub until: Option<Nanos>,
    /// What.
    pub target: Target,
    /// Which way.
    pub direction: Direction,
    /// How.
    pub kind: FaultKind,
    /// The components that are right answers, where the scenario says so; else [`Fault::answers`] follow from the
    /// target.
    pub expect: Vec<Component>,
}

impl Fault {
    /// A fault from the beginning on, checked: a host's fault needs a host. Without a direction a link suffers
    /// along its name (both ways where it is down), and a device both ways.
    pub fn new(target: Target, direction: Option<Direction>, kind: FaultKind) -> Result<Fault, Problem> {
        if kind.on_host() && !matches!(target, Target::Host(_) | Target::RandomHost) {
            let target = target.kind();
            return Err(Problem::WrongTarget { kind: kind.word(), target, expected: "a host such as host3" });
        }
        let link = matches!(target, Target::Link(_) | Target::RandomLink | Target::RandomTrunk);
        let direction = direction.unwrap_or(match kind {
            FaultKind::Down => Direction::Both,
            _ if link => Direction::Forward,
            _ => Direction::Both,
        });
        Ok(Fault { at: Nanos::ZERO, until: None, target, direction, kind, expect: Vec::new() })
    }

    /// Every directed link that suffers, sorted. None for a host's fault, nor before a random target is resolved.
    pub fn links(&self, fabric: &Fabric) -> Vec<LinkId> {
        let mut out = Vec::new();
        if self.kind.on_host() {
            return out;
        }
        let mut add = |leaving: LinkId| {
            if self.direction != Direction::Backward {
                out.push(leaving);
            }
            if self.direction != Direction::Forward {
                out.push(leaving.reverse());
            }
        };
        match &self.target {
            Target::Link(link) => add(*link),
            // the links that leave come first of each two
            Target::Switch(s) => fabric.switch_links(*s).iter().step_by(2).for_each(|&l| add(l)),
            Target::Ports(_, Ports::List(links)) => links.iter().for_each(|&l| add(l)),
            Target::Nic(nic) => add(fabric.access_link(*nic)),
            Target::Host(host) => fabric.host_nics(*host).for_each(|nic| add(fabric.access_link(nic))),
            _ => {}
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// Every component that is a right name for this fault, the most exact first: the target itself, and what
    /// cannot be told apart from it or is it in other words (an access cable is also its NIC's).
    pub fn answers(&self, fabric: &Fabric) -> Vec<Component> {
        if !self.expect.is_empty() {
            return self.expect.clone();
        }
        let links = self.links(fabric);
        let mut out = Vec::new();
        match self.target {
            Target::Switch(s) | Target::Ports(s, _) => out.push(Component::Switch(s)),
            Target::Nic(nic) => out.push(Component::Nic(nic)),
            Target::Host(host) => out.push(Component::Host(host)),
            _ => {}
        }
        let whole = matches!(self.target, Target::Switch(_) | Target::Host(_));
        let one_nic = fabric.shape.planes * fabric.shape.rails == 1;
        if !whole || links.len() <= 2 {
            out.extend(links.iter().map(|&l| Component::Link(l)));
        }
        for nic in links.iter().filter_map(|&l| fabric.cable_of(l).ok()) {
            if matches!(self.target, Target::Link(_) | Target::Nic(_)) || (one_nic && whole) {
                out.push(Component::Nic(nic));
                if one_nic {
                    out.push(Component::Host(fabric.nic_parts(nic).1));
                }
            }
        }
        let mut seen = Vec::new();
        out.retain(|c| {
            !seen.contains(c) && {
                seen.push(*c);
                true
            }
        });
        out
    }

    /// The same fault with its random choices made by the seed; the same seed makes the same.
    pub fn resolve(&self, fabric: &Fabric, seed: u64) -> Fault {
        let mut dice = Dice(seed);
        let target = match &self.target {
            Target::RandomLink => dice.link(fabric, |_| true).map(Target::Link),
            Target::RandomTrunk => dice.link(fabric, |l| fabric.cable_of(l).is_err()).map(Target::Link),
            Target::RandomSwitch => dice.switch(fabric).map(Target::Switch),
            Target::RandomPorts(ports) => {
                dice.switch(fabric).map(|s| Target::Ports(s, dice.ports(fabric, s, ports)))
            }
            Target::Ports(s, ports) => Some(Target::Ports(*s, dice.ports(fabric, *s, ports))),
            Target::RandomNic => {
                dice.pick(fabric.nics(), |n| fabric.nic_exists(NicId(n))).map(|n| Target::Nic(NicId(n)))
            }
            Target::RandomHost => dice
                .pick(fabric.shape.hosts, |h| fabric.host_nics(HostId(h)).next().is_some())
                .map(|h| Target::Host(HostId(h))),
            decided => Some(decided.clone()),
        };
        // a fabric without a single such thing leaves the target as it is: nothing suffers
        Fault { target: target.unwrap_or_else(|| self.target.clone()), ..self.clone() }
    }
}

/// SplitMix64: a few good bits from a seed, for choices only.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * u128::from(sides)) >> 64) as u32
    }
    /// A number below `bound` that will do: tried at random first, then one by one so that it always ends.
    fn pick(&mut self, bound: u32, fits: impl Fn(u32) -> bool) -> Option<u32> {
        (0..64).map(|_| self.roll(bound)).find(|&n| fits(n)).or_else(|| (0..bound).find(|&n| fits(n)))
    }
    fn link(&mut self, fabric: &Fabric, fits: impl Fn(LinkId) -> bool) -> Option<LinkId> {
        self.pick(fabric.link_bound(), |l| fabric.exists(LinkId(l)) && fits(LinkId(l))).map(LinkId)
    }
    fn switch(&mut self, fabric: &Fabric) -> Option<SwitchId> {
        self.pick(fabric.switches(), |s| !fabric.switch_links(SwitchId(s)).is_empty()).map(SwitchId)
    }
    fn ports(&mut self, fabric: &Fabric, switch: SwitchId, ports: &Ports) -> Ports {
        let mut all: Vec<LinkId> = fabric.switch_links(switch).into_iter().step_by(2).collect();
        let wanted = match ports {
            Ports::Count(n) => *n as usize,
            Ports::Share(share) => ((all.len() as f64 * share + 0.5) as usize).max(1),
            Ports::List(links) => return Ports::List(links.clone()),
        };
        let wanted = wanted.min(all.len());
        // the beginning of a Fisher-Yates shuffle
        for i in 0..wanted {
            let j = i + self.roll((all.len() - i) as u32) as usize;
            all.swap(i, j);
        }
        all.truncate(wanted);
        all.sort_unstable();
        Ports::List(all)
    }
}

impl Fabric {
    /// Whether a NIC has its cable.
    pub fn nic_exists(&self, nic: NicId) -> bool {
        nic.0 < self.nics() && self.exists(self.access_link(nic))
    }
    /// The NICs of a host that have their cable: plane by plane, rail by rail.
    pub fn host_nics(&self, host: HostId) -> impl Iterator<Item = NicId> + '_ {
        let s = self.shape;
        (0..s.planes)
            .flat_map(move |p| (0..s.rails).map(move |r| (wire::PlaneId(p as u8), r)))
            .filter_map(move |(p, r)| self.nic(p, host, r))
            .filter(|&nic| self.nic_exists(nic))
    }
    /// The leaf a NIC is on.
    pub fn nic_leaf(&self, nic: NicId) -> Option<SwitchId> {
        self.switch(self.nic_parts(nic).0, Tier::Leaf, self.nic_leaf_port(nic).0)
    }
}
