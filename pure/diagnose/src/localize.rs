//! The localizer on an abstract map: which links or devices explain the losses best, and how well.
//!
//! How. Every link has a small hazard that is estimated from the data ([`crate::fit`]). A component is a suspect by
//! the likelihood ratio of "it has a hazard of its own" against "it is as healthy as the others may be". What
//! crossed a link loss-free is only a count, so a suspect costs as much as the hurt observations that cross it. The
//! best suspect is added (lazy heap), everything is fitted again, what no longer pays is dropped, until nothing
//! pays. At the end links are exchanged for their device where naming the device is cheaper.
//!
//! Paths: a hurt observation has one path or several candidates; one that was fine on an unknown path is counted by
//! candidate weight and size, so that it is never taken for a fraction of itself on each.
//!
//! Flows that count what they send again see losses too, and more than there are. They have an [`Origin`] of their own:
//! a bias a packet and a noise at the ends that are fitted beside the links' hazards, and a component is suspected by
//! their account only where it is clearly worse than that bias.
//!
//! Invariants: one set of [`Params`] for every kind of data; the result depends on nothing but the counts. Order of
//! the input does not matter beyond rounding.
//! Absent on purpose: time. The engine decides which span of time goes in.

use crate::fit::Fit;
use crate::likelihood::{dead, ln_choose};
use alloc::vec;
use alloc::vec::Vec;

/// What can be named besides single links: a switch, a NIC, a host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// Links of the group. A path crosses the group when it has one of them.
    pub links: Vec<u32>,
    /// How many of its links a packet crosses on its way through: 2 for a switch, 1 for a NIC.
    pub links_crossed: f64,
    /// Cost of naming it beyond `ln(components)`, nats.
    pub cost: f64,
    /// Whether naming it can be the shorter way to name several links of it (a switch with part of its ports).
    pub ports: bool,
}

/// Links, the cable each belongs to, and groups of links.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    links: usize,
    groups: Vec<Group>,
    /// The other direction of the same cable.
    reverse: Vec<u32>,
    /// Groups of link `l`: `member[first[l]..first[l + 1]]`.
    first: Vec<u32>,
    member: Vec<u32>,
}

impl Map {
    /// A map of `links` links. `reverse` gives the other direction of each link, itself where it has none.
    pub fn new(links: usize, reverse: impl Fn(u32) -> u32, groups: Vec<Group>) -> Map {
        let mut count = vec![0u32; links + 1];
        for l in groups.iter().flat_map(|g| &g.links) {
            if let Some(c) = count.get_mut(*l as usize + 1) {
                *c += 1;
            }
        }
        for i in 0..links {
            count[i + 1] += count[i];
        }
        let first = count.clone();
        let mut member = vec![0u32; first.last().map_or(0, |&n| n as usize)];
        for (g, group) in groups.iter().enumerate() {
            for &l in &group.links {
                if let Some(at) = count.get_mut(l as usize).filter(|_| (l as usize) < links) {
                    member[*at as usize] = g as u32;
                    *at += 1;
                }
            }
        }
        let reverse = (0..links as u32).map(|l| reverse(l).min(links.max(1) as u32 - 1)).collect();
        Map { links, groups, reverse, first, member }
    }
    /// Number of links.
    pub fn links(&self) -> usize {
        self.links
    }
    /// The groups.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }
    /// Links and groups together: component `c` is link `c`, or group `c - links()`.
    pub fn components(&self) -> usize {
        self.links + self.groups.len()
    }
    /// The group behind a component.
    pub fn group_of(&self, component: u32) -> Option<&Group> {
        self.groups.get((component as usize).checked_sub(self.links)?)
    }
    /// The groups a link belongs to.
    pub fn groups_of(&self, link: u32) -> &[u32] {
        let at = |i: usize| self.first.get(i).map_or(0, |&n| n as usize);
        self.member.get(at(link as usize)..at(link as usize + 1)).unwrap_or(&[])
    }
    pub(crate) fn reverse(&self, link: u32) -> u32 {
        self.reverse.get(link as usize).copied().unwrap_or(link)
    }
}

/// What the localizer goes by. One set for all data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Evidence asked for beyond the price of choosing among the components, nats.
    pub margin: f64,
    /// More of it where all that is hurt is hurt by noise at the ends, in proportion where some is, nats: the law of
    /// that noise is only fitted, so evidence among it is worth less than it looks.
    pub noise_margin: f64,
    /// A link is taken to be healthy up to this many times the mean hazard of all.
    pub healthy_spread: f64,
    /// … and in any case up to this hazard.
    pub healthy_min: f64,
    /// Hazard of a path assumed before anything is known, and the least the background is taken to be.
    pub background_min: f64,
    /// Share of observations hurt by something at an end that is assumed before anything is known.
    pub noise_min: f64,
    /// Hazard of a link that is not at fault, where it is known from before, as a strong prior.
    pub background: Option<f64>,
    /// Share of observations hurt at an end, where it is known from before, as a strong prior.
    pub noise: Option<f64>,
    /// Bias of [`Origin::Resent`], where it is known from elsewhere: then it is not fitted.
    pub resent_bias: Option<f64>,
    /// Share of observations of [`Origin::Resent`] hurt at an end, where it is known from before, as a strong prior.
    pub resent_noise: Option<f64>,
    /// By their account a link is taken to be healthy up to this many times their mean bias.
    pub resent_spread: f64,
    /// Price of blaming a noise class, nats.
    pub class_price: f64,
    /// Most components named.
    pub findings_max: usize,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            margin: 1.0,
            noise_margin: 4.0,
            healthy_spread: 2.0,
            healthy_min: 0.0,
            background_min: 1e-5,
            noise_min: 1e-5,
            background: None,
            noise: None,
            resent_bias: None,
            resent_noise: None,
            resent_spread: 3.0,
            class_price: 5.0,
            findings_max: 512,
        }
    }
}

/// How what was lost is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Counted at both ends.
    #[default]
    Counted = 0,
    /// Told from what a flow sent again: an upper estimate, since packets are sent again that were only late or
    /// overtaken. Such observations have a bias and a noise of their own, estimated apart.
    Resent = 1,
}

/// Loss-free traffic over a link.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Crossing {
    /// Packets.
    pub packets: f64,
    /// Observations they came in.
    pub observations: f64,
}

/// Loss-free observations whose path is not known, seen from one link: `count` of them, of `packets` packets each,
/// crossed it with probability `weight`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Perhaps {
    pub(crate) weight: f64,
    pub(crate) origin: Origin,
    /// Half octaves of the size.
    pub(crate) size: u16,
    pub(crate) packets: f64,
    pub(crate) count: f64,
}

/// One hurt observation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hurt {
    pub(crate) sent: f64,
    pub(crate) lost: f64,
    pub(crate) ln_choose: f64,
    pub(crate) dead: f64,
    pub(crate) origin: Origin,
    /// Its candidate paths: `paths[first..first + count]`.
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// Noise classes it belongs to besides the common one; see [`Problem::noise_class`].
    pub(crate) noise: [u32; 3],
}

/// One candidate path of one hurt observation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) hurt: u32,
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) weight: f64,
}

/// What is peculiar to observations of [`Origin::Resent`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resent {
    /// Hazard of a packet to be sent again though nothing on its path lost it.
    pub bias: f64,
    /// Share of observations in which an end sent several again.
    pub noise: f64,
}

/// No noise class.
pub const NO_CLASS: u32 = u32::MAX;

/// The counts to explain.
#[derive(Clone, Debug)]
pub struct Problem<'m> {
    pub(crate) map: &'m Map,
    pub(crate) crossing: Vec<Crossing>,
    /// The same of [`Origin::Resent`]; empty where there is none.
    pub(crate) resent: Vec<Crossing>,
    pub(crate) perhaps: Vec<Vec<Perhaps>>,
    pub(crate) hurt: Vec<Hurt>,
    pub(crate) paths: Vec<Candidate>,
    pub(crate) path_links: Vec<u32>,
    /// Observations in all, loss-free ones included.
    pub(crate) observations: f64,
    /// Observations of [`Origin::Resent`] in all, and packets in them.
    pub(crate) resent_observations: f64,
    pub(crate) resent_packets: f64,
    /// Observations of each noise class.
    pub(crate) classes: Vec<f64>,
    /// Packets times links of everything, where counted elsewhere.
    pub(crate) exposure: Option<f64>,
}

impl<'m> Problem<'m> {
    /// Nothing seen yet.
    pub fn new(map: &'m Map) -> Self {
        Problem {
            map,
            crossing: vec![Crossing::default(); map.links],
            resent: Vec::new(),
            perhaps: Vec::new(),
            hurt: Vec::new(),
            paths: Vec::new(),
            path_links: Vec::new(),
            observations: 0.0,
            resent_observations: 0.0,
            resent_packets: 0.0,
            classes: Vec::new(),
            exposure: None,
        }
    }
    /// A loss-free observation of `sent` packets over these links.
    pub fn fine(&mut self, sent: u64, links: &[u32]) {
        self.observations += 1.0;
        for &l in links {
            if let Some(c) = self.crossing.get_mut(l as usize) {
                c.packets += sent as f64;
                c.observations += 1.0;
            }
        }
    }
    /// Loss-free traffic already counted for a link.
    pub fn set_crossing(&mut self, link: u32, crossing: Crossing) {
        if let Some(c) = self.crossing.get_mut(link as usize) {
            *c = crossing;
        }
    }
    /// Loss-free traffic of [`Origin::Resent`] already counted for a link.
    pub fn set_resent_crossing(&mut self, link: u32, crossing: Crossing) {
        if self.resent.is_empty() {
            self.resent = vec![Crossing::default(); self.map.links];
        }
        if let Some(c) = self.resent.get_mut(link as usize) {
            *c = crossing;
        }
    }
    /// Number of observations of [`Origin::Resent`] in all, hurt or not, and packets in them.
    pub fn set_resent(&mut self, observations: f64, packets: f64) {
        self.resent_observations = observations;
        self.resent_packets = packets;
    }
    /// Number of observations of [`Origin::Counted`] in all, where they were counted elsewhere.
    pub fn set_observations(&mut self, observations: f64) {
        self.observations = observations;
    }
    /// Packets times links of everything, hurt or not, where they were counted elsewhere.
    pub fn set_exposure(&mut self, exposure: f64) {
        self.exposure = Some(exposure);
    }
    pub(crate) fn counted_exposure(&self) -> f64 {
        let fine: f64 = self.crossing.iter().chain(&self.resent).map(|c| c.packets).sum();
        let perhaps: f64 = self.perhaps.iter().flatten().map(|p| p.weight * p.packets * p.count).sum();
        let hurt: f64 =
            self.paths.iter().map(|p| self.hurt[p.hurt as usize].sent * p.weight * f64::from(p.count)).sum();
        fine + perhaps + hurt
    }
    /// `count` loss-free observations of about equal size, `packets` in all, each of which crossed `link` with
    /// probability `weight`. The caller counts them in [`Problem::add_observations`], once for all the links.
    pub fn fine_perhaps(&mut self, link: u32, weight: f64, count: f64, packets: f64) {
        self.fine_perhaps_of(Origin::Counted, link, weight, count, packets);
    }
    /// [`Problem::fine_perhaps`] of observations of either origin.
    pub fn fine_perhaps_of(&mut self, origin: Origin, link: u32, weight: f64, count: f64, packets: f64) {
        if weight >= 1.0 {
            if origin == Origin::Resent && self.resent.is_empty() {
                self.resent = vec![Crossing::default(); self.map.links];
            }
            let list = if origin == Origin::Resent { &mut self.resent } else { &mut self.crossing };
            if let Some(c) = list.get_mut(link as usize) {
                c.packets += packets;
                c.observations += count;
            }
            return;
        }
        if self.perhaps.is_empty() {
            self.perhaps = vec![Vec::new(); self.map.links];
        }
        let Some(list) = self.perhaps.get_mut(link as usize) else { return };
        // Sizes within half an octave are merged: within it the likelihood hardly bends.
        let size = (2.0 * libm::log2((packets / count).max(1.0))) as u16;
        match list.iter_mut().find(|p| p.origin == origin && p.size == size && p.weight == weight) {
            Some(p) => {
                p.packets = (p.packets * p.count + packets) / (p.count + count);
                p.count += count;
            }
            None => list.push(Perhaps { weight, origin, size, packets: packets / count, count }),
        }
    }
    /// More observations that were fine.
    pub fn add_observations(&mut self, count: f64) {
        self.observations += count;
    }
    /// A new noise class of `observations` observations (hurt and fine): a moment, or a host at a moment. Its share
    /// of observations hurt by something at an end is estimated by itself.
    pub fn noise_class(&mut self, observations: f64) -> u32 {
        self.classes.push(observations.max(1.0));
        self.classes.len() as u32 - 1
    }
    /// An observation in which `lost` of `sent` packets were lost, on one of these paths, equally likely.
    pub fn hurt(&mut self, sent: u64, lost: u64, paths: &[&[u32]], noise: [u32; 3]) {
        self.hurt_of(Origin::Counted, sent, lost, paths, noise);
    }
    /// [`Problem::hurt`] of either origin.
    pub fn hurt_of(&mut self, origin: Origin, sent: u64, lost: u64, paths: &[&[u32]], noise: [u32; 3]) {
        match origin {
            Origin::Counted => self.observations += 1.0,
            Origin::Resent => {
                self.resent_observations += 1.0;
                self.resent_packets += sent as f64;
            }
        }
        if lost == 0 || paths.is_empty() {
            return;
        }
        let (n, k) = (sent as f64, lost.min(sent) as f64);
        let index = self.hurt.len() as u32;
        let first = self.paths.len() as u32;
        for links in paths {
            let at = self.path_links.len() as u32;
            for (i, &l) in links.iter().enumerate() {
                if (l as usize) < self.map.links && !links[..i].contains(&l) {
                    self.path_links.push(l);
                }
            }
            let count = self.path_links.len() as u32 - at;
            self.paths.push(Candidate { hurt: index, first: at, count, weight: 1.0 / paths.len() as f64 });
        }
        self.hurt.push(Hurt {
            sent: n,
            lost: k,
            ln_choose: ln_choose(n, k),
            dead: dead(n, k),
            origin,
            first,
            count: paths.len() as u32,
            noise,
        });
    }
    pub(crate) fn links_of(&self, path: usize) -> &[u32] {
        let c = &self.paths[path];
        &self.path_links[c.first as usize..(c.first + c.count) as usize]
    }

    /// The components that explain the losses, most evident first, and what was estimated on the way.
    pub fn localize(&self, params: &Params) -> Located {
        let mut fit = Fit::new(self, *params);
        fit.run();
        Located {
            findings: fit.findings(),
            background: fit.background,
            noise: fit.noise[0],
            resent: Resent { bias: fit.bias, noise: fit.noise[1] },
            noisy: (0..fit.classes.share.len() as u32)
                .filter(|&c| fit.classes.share[c as usize] > 0.0)
                .collect(),
        }
    }
}

/// What the localizer found.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// Components to blame, most evident first.
    pub findings: Vec<Finding>,
    /// Hazard of a link that is not at fault.
    pub background: f64,
    /// Share of observations that were hurt at an end.
    pub noise: f64,
    /// The same of [`Origin::Resent`], and their bias.
    pub resent: Resent,
    /// Noise classes that were blamed.
    pub noisy: Vec<u32>,
}

/// A component that explains losses.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// A link, or `links() + group`; see [`Map::group_of`].
    pub component: u32,
    /// Share of packets lost at it.
    pub rate: f64,
    /// 95 % interval of the rate, from the likelihood.
    pub rate_low: f64,
    /// Upper end of it.
    pub rate_high: f64,
    /// Share of observations it killed altogether, beyond the rate.
    pub dead_share: f64,
    /// What the likelihood loses without it, nats.
    pub score: f64,
    /// What naming it cost, nats: `score > price`.
    pub price: f64,
    /// Other single components that could explain the same losses, and how much worse they do, nats; nearest first,
    /// at most [`Finding::RIVALS`].
    pub rivals: Vec<(u32, f64)>,
    /// Its links that are hurt: itself, or part of a group's.
    pub links: Vec<u32>,
    /// Hurt observations that cross it, by number in the order they were given, with the share of each that is
    /// charged to it.
    pub charged: Vec<(u32, f64)>,
}

impl Finding {
    /// Most rivals kept.
    pub const RIVALS: usize = 64;
    /// How much worse the nearest rival does; infinite where there is none.
    pub fn lead(&self) -> f64 {
        self.rivals.first().map_or(f64::INFINITY, |r| r.1)
    }
}
