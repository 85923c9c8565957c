//! What a survey found, in numbers and words.

use super::{Hop, PathState, Survey};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use fabric::{Device, Mode, Node};
use wire::proto::{HopConfidence, HopReport, PathReport, TraceReport};

/// Smallest, median and largest.
fn three<T: Copy + Ord + Into<i64>>(of: &[T]) -> (i64, i64, i64) {
    let mut sorted: Vec<T> = of.to_vec();
    sorted.sort_unstable();
    let at = |i: usize| sorted.get(i).map_or(0, |v| (*v).into());
    (at(0), at(sorted.len() / 2), at(sorted.len().saturating_sub(1)))
}

fn share(part: u32, of: u32) -> Option<f64> {
    (of > 0).then(|| f64::from(part) / f64::from(of))
}

/// What came as far as a hop, and how that is known.
#[derive(Clone, Copy, Debug)]
struct Came {
    share: f64,
    /// Probes that says so.
    of: u32,
    confidence: HopConfidence,
}

/// How much came as far as each switch, and to the other end.
fn came(p: &PathState, turning: bool) -> Vec<Came> {
    use HopConfidence::{HopBounded, HopMeasured, HopSilent, HopUnknown};
    // what never came back and was sent after the last answer is lost one way or the other
    let forward = share(p.counted.min(p.known), p.sent).unwrap_or(0.0);
    if turning {
        let end =
            Came { share: share(p.answered, p.sent).unwrap_or(0.0), of: p.sent, confidence: HopMeasured };
        let turned = p.hops.iter().map(|h| match share(h.turned.1, h.turned.0) {
            Some(share) => Came { share, of: h.turned.0, confidence: HopMeasured },
            None => Came { share: 0.0, of: 0, confidence: HopUnknown },
        });
        return turned.chain([end]).collect();
    }
    let own: Vec<(f64, u32)> = p
        .hops
        .iter()
        .map(|h| (share(h.limited.1, h.limited.0).unwrap_or(0.0), h.limited.0))
        .chain([(forward, p.sent)])
        .collect();
    let nothing_at_all = own.iter().all(|(s, _)| *s == 0.0);
    let mut out: Vec<Came> = Vec::with_capacity(own.len());
    let (mut later, mut by) = (0.0f64, 0);
    for (i, (s, of)) in own.iter().enumerate().rev() {
        let end = i + 1 == own.len();
        let confidence = match () {
            () if nothing_at_all => HopUnknown,
            // the far end counts what arrives
            () if end && *s > 0.0 => HopMeasured,
            () if *s < later => HopSilent,
            () => HopBounded,
        };
        if *s >= later {
            (later, by) = (*s, *of);
        }
        out.push(Came { share: later, of: by, confidence });
    }
    out.reverse();
    out
}

/// What was lost between two hops, and how far that may be off.
fn lost(before: Came, came: Came) -> (f64, f64) {
    if before.share <= 0.0 {
        return (0.0, 1.0);
    }
    let ratio = came.share / before.share;
    // relative variances of two shares add up in their quotient
    let variance = |c: Came| match c.share > 0.0 {
        true => (1.0 - c.share) / (c.share * f64::from(c.of.max(1))),
        false => 0.0,
    };
    let spread = 1.96 * ratio * libm::sqrt(variance(before) + variance(came));
    // none among n may still be three in n
    let least = 3.0 / f64::from(came.of.max(1));
    ((1.0 - ratio).clamp(0.0, 1.0), spread.max(least).min(1.0))
}

impl Survey {
    /// Turning probes are believed where any came back at all.
    fn turning(&self) -> bool {
        self.fabric.mode == Mode::Srv6 && self.paths.iter().flat_map(|p| &p.hops).any(|h| h.turned.1 > 0)
    }

    /// What was found so far; final once [`Survey::is_done`].
    pub fn report(&self) -> TraceReport {
        let exact = self.fabric.mode == Mode::Srv6;
        let turning = self.turning();
        let mut notes = Vec::new();
        if exact && !turning && self.sent > 0 {
            notes.push(String::from(
                "no probe that turned at a switch came back: losses per hop rest on the switches' own answers",
            ));
        }
        let lost = self.paths.iter().filter(|p| p.flow_label.is_none()).count();
        if lost > 0 {
            let why = match self.fabric.shape.cables > 1 {
                true => {
                    ", and parallel cables are told apart only where the network writes in-band telemetry"
                }
                false => "",
            };
            notes.push(format!("{lost} paths: no flow label that was tried leads along them{why}"));
        }
        if self.left_out > 0 {
            notes.push(format!("{} more paths exist and were left out", self.left_out));
        }
        if self.strayed > 0 {
            notes.push(format!(
                "{} probes were seen on another path than theirs: paths changed meanwhile",
                self.strayed
            ));
        }
        TraceReport {
            from_host: self.hosts.0.0,
            to_host: self.hosts.1.0,
            fabric_epoch: self.fabric.epoch.0,
            exact,
            rounds: self.config.rounds,
            started_ns: self.started.0,
            took_ns: self.ended.since(self.started).0,
            packets_sent: self.sent,
            paths: self.paths.iter().map(|p| self.path_report(p, turning)).collect(),
            notes,
        }
    }

    fn path_report(&self, p: &PathState, turning: bool) -> PathReport {
        let (rtt_min_ns, rtt_p50_ns, rtt_max_ns) = three(&p.rtts_ns);
        let mut hops = Vec::new();
        if p.flow_label.is_some() {
            let came = came(p, turning);
            let mut before = Came { share: 1.0, of: u32::MAX, confidence: HopConfidence::HopMeasured };
            for (i, came) in came.into_iter().enumerate() {
                hops.push(self.hop_report(p, i, came, before, turning));
                before = came;
            }
        }
        PathReport {
            path: p.path.0,
            plane: u32::from(self.fabric.nic_parts(p.from).0.0),
            from_nic: p.from.0,
            to_nic: p.to.0,
            flow_label: p.flow_label.unwrap_or(0),
            found: p.flow_label.is_some(),
            sent: p.sent,
            answered: p.answered,
            lost_forward: p.known.saturating_sub(p.counted),
            lost_backward: p.counted.min(p.known).saturating_sub(p.answered),
            rtt_min_ns,
            rtt_p50_ns,
            rtt_max_ns,
            hops,
        }
    }

    fn hop_report(&self, p: &PathState, i: usize, came: Came, before: Came, turning: bool) -> HopReport {
        let link = p.links.get(i).copied().unwrap_or_default();
        let node = match self.fabric.link_ends(link).map(|(_, to)| to) {
            Some(Node::Switch(switch)) => self.fabric.device_name(Device::Switch(switch)),
            Some(Node::Nic(nic)) => self.fabric.device_name(Device::Host(self.fabric.nic_parts(nic).1)),
            None => String::new(),
        };
        let end = i >= p.hops.len();
        let none = Hop::default();
        let hop = p.hops.get(i).unwrap_or(&none);
        let (sent, answered) = match (end, turning) {
            (true, _) => (p.sent, p.answered),
            (false, true) => hop.turned,
            (false, false) => hop.limited,
        };
        let (rtt_min_ns, rtt_p50_ns, rtt_max_ns) = three(if end { &p.rtts_ns } else { &hop.rtts_ns });
        let (_, ioam_delta_p50_ns, ioam_delta_max_ns) = three(&hop.deltas_ns);
        let (here, doubt) = lost(before, came);
        HopReport {
            hop: i as u32 + 1,
            node,
            link: link.0,
            link_name: self.fabric.link_name(link),
            seen: if end { p.answered > 0 } else { hop.seen },
            sent,
            answered,
            loss_before: 1.0 - came.share,
            loss_here: here,
            confidence: match came.confidence {
                // nothing came as far as the hop before: what happens here cannot be seen
                _ if before.share <= 0.0 => HopConfidence::HopUnknown.into(),
                known => known.into(),
            },
            rtt_min_ns,
            rtt_p50_ns,
            rtt_max_ns,
            ioam_count: hop.deltas_ns.len() as u32,
            ioam_delta_p50_ns,
            ioam_delta_max_ns,
            ingress: hop.ingress.into(),
            egress: hop.egress.into(),
            loss_here_doubt: doubt,
        }
    }
}
