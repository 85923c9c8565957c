//! The packet network: links with two queues each, and the packets in them.
//!
//! How: a link sends one packet at a time, to the end. Control packets and trimmed headers wait in a queue of their own
//! that goes first; data that finds its queue full is trimmed to its header or dropped. A packet is marked when it
//! leaves, by a ramp over the bytes queued. When it has left, it is on the wire for the link's latency: packets of one
//! latency arrive in the order they left, so a plain queue a latency holds them all, and only "when is this link done"
//! needs a calendar.
//!
//! Invariants: given = delivered + dropped by reason + inside; packets of one path and class are never reordered; no
//! allocation a packet once the tables have grown.
//! Absent on purpose: hosts, and what a packet means.

use super::calendar::Calendar;
use super::topology::{Route, Topology};
use crate::rng::Rng;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

const NONE: u32 = u32::MAX;

/// Settings of the queues.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Queues {
    /// Bytes a data queue holds, the packet being sent included.
    pub data_bytes: u32,
    /// Bytes the queue of control packets and headers holds.
    pub control_bytes: u32,
    /// Bytes queued from which packets are marked at all.
    pub mark_from_bytes: u32,
    /// Bytes queued from which all are marked.
    pub mark_all_bytes: u32,
    /// Is data that does not fit trimmed, or dropped?
    pub trim: bool,
    /// Is the last hop marked?
    pub mark_last_hop: bool,
    /// Size of a trimmed header, bytes.
    pub header_bytes: u32,
}

#[derive(Clone, Debug)]
struct Link {
    ps_per_byte: u32,
    line: u8,
    marks: bool,
    host: bool,
    down: bool,
    current: u32,
    data: (u32, u32),
    control: (u32, u32),
    data_bytes: u32,
    control_bytes: u32,
    limit: u32,
    mark_from: u32,
    mark_all: u32,
    loss: f64,
}

/// What travels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parcel {
    pub route: Route,
    pub hop: u8,
    pub control: bool,
    pub marked: bool,
    pub trimmed: bool,
    pub bytes: u32,
    next: u32,
}

/// What the network does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// This parcel reached its host.
    Delivered(u32),
    /// The port of this host is free.
    Free(u32),
    /// Nothing the owner has to act on.
    Inside,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets hosts gave.
    pub given: u64,
    /// Packets that reached a host, trimmed ones included.
    pub delivered: u64,
    /// Packets trimmed on the way.
    pub trimmed: u64,
    /// Packets marked on the way.
    pub marked: u64,
    /// Dropped: a data queue was full and nothing is trimmed.
    pub dropped_full: u64,
    /// Dropped: a control queue was full.
    pub dropped_control: u64,
    /// Dropped: a link's random loss.
    pub dropped_loss: u64,
    /// Dropped: a link was down.
    pub dropped_down: u64,
    /// Times a packet was sent over a link.
    pub hops: u64,
}

impl Counts {
    /// Dropped for any reason.
    pub const fn dropped(&self) -> u64 {
        self.dropped_full + self.dropped_control + self.dropped_loss + self.dropped_down
    }
}

pub(crate) struct Network {
    links: Vec<Link>,
    queues: Queues,
    pub parcels: Vec<Parcel>,
    free: Vec<u32>,
    calendar: Calendar,
    /// Packets on the wire, by latency.
    lines: Vec<(u64, VecDeque<(u64, u32)>)>,
    pub now: u64,
    pub counts: Counts,
}

impl Network {
    pub fn new(topology: &Topology, queues: Queues) -> Self {
        let mut lines: Vec<(u64, VecDeque<(u64, u32)>)> = Vec::new();
        let links = (0..topology.links())
            .map(|l| {
                let kind = topology.kind(l);
                let latency = topology.latency_ps[kind.tier()];
                let line = lines.iter().position(|(t, _)| *t == latency).unwrap_or_else(|| {
                    lines.push((latency, VecDeque::new()));
                    lines.len() - 1
                });
                let last = matches!(kind, super::topology::Kind::LeafDown);
                let host = matches!(kind, super::topology::Kind::HostUp);
                Link {
                    ps_per_byte: (8_000_000_000_000 / topology.rate_bps[kind.tier()].max(1)) as u32,
                    line: line as u8,
                    marks: !host && (queues.mark_last_hop || !last),
                    host,
                    down: false,
                    current: NONE,
                    data: (NONE, NONE),
                    control: (NONE, NONE),
                    data_bytes: 0,
                    control_bytes: 0,
                    limit: queues.data_bytes,
                    mark_from: queues.mark_from_bytes,
                    mark_all: queues.mark_all_bytes,
                    loss: 0.0,
                }
            })
            .collect();
        Self {
            links,
            queues,
            parcels: Vec::new(),
            free: Vec::new(),
            calendar: Calendar::new(topology.links() as usize),
            lines,
            now: 0,
            counts: Counts::default(),
        }
    }

    /// Makes a link as fast as this share of itself, its queue and marks included.
    pub fn slow(&mut self, link: u32, share: f64) {
        if let Some(l) = self.links.get_mut(link as usize) {
            let scale = |b: u32| (f64::from(b) * share) as u32;
            l.ps_per_byte = (f64::from(l.ps_per_byte) / share) as u32;
            (l.limit, l.mark_from, l.mark_all) = (scale(l.limit), scale(l.mark_from), scale(l.mark_all));
        }
    }

    /// Lets a link lose packets at random.
    pub fn lossy(&mut self, link: u32, loss: f64) {
        if let Some(l) = self.links.get_mut(link as usize) {
            l.loss = loss;
        }
    }

    /// Takes a link down or up: a link that is down swallows what is sent over it.
    pub fn set_down(&mut self, link: u32, down: bool) {
        if let Some(l) = self.links.get_mut(link as usize) {
            l.down = down;
        }
    }

    fn drop_parcel(&mut self, parcel: u32) {
        self.free.push(parcel);
    }

    /// Gives a parcel back after it was delivered.
    pub fn release(&mut self, parcel: u32) {
        self.free.push(parcel);
    }

    /// Parcels inside.
    pub fn inside(&self) -> u64 {
        (self.parcels.len() - self.free.len()) as u64
    }

    /// Is the host's port sending, or has control to send first?
    pub fn busy(&self, host: u32) -> bool {
        self.links.get(host as usize).is_none_or(|l| l.current != NONE)
    }

    /// Takes a packet from a host. Gives its number, by which the owner finds what it carries.
    pub fn give(&mut self, route: Route, bytes: u32, control: bool, rng: &mut Rng) -> u32 {
        self.counts.given += 1;
        let parcel = Parcel { route, hop: 0, control, marked: false, trimmed: false, bytes, next: NONE };
        let number = match self.free.pop() {
            Some(n) => {
                self.parcels[n as usize] = parcel;
                n
            }
            None => {
                self.parcels.push(parcel);
                self.parcels.len() as u32 - 1
            }
        };
        self.enqueue(route.links[0], number, rng);
        number
    }

    fn enqueue(&mut self, link: u32, number: u32, rng: &mut Rng) {
        let l = &mut self.links[link as usize];
        let p = &mut self.parcels[number as usize];
        if l.down {
            self.counts.dropped_down += 1;
            return self.drop_parcel(number);
        }
        if l.loss > 0.0 && rng.chance(l.loss) {
            self.counts.dropped_loss += 1;
            return self.drop_parcel(number);
        }
        if !p.control && !l.host && l.data_bytes + p.bytes > l.limit {
            // what is as small as a header is not made smaller
            if !self.queues.trim || p.bytes <= self.queues.header_bytes {
                self.counts.dropped_full += 1;
                return self.drop_parcel(number);
            }
            self.counts.trimmed += 1;
            p.bytes = self.queues.header_bytes;
            p.trimmed = true;
            p.control = true;
        }
        if p.control {
            if l.control_bytes + p.bytes > self.queues.control_bytes && !l.host {
                self.counts.dropped_control += 1;
                return self.drop_parcel(number);
            }
            l.control_bytes += p.bytes;
        } else {
            l.data_bytes += p.bytes;
        }
        if l.current == NONE {
            l.current = number;
            let done = self.now + u64::from(p.bytes) * u64::from(l.ps_per_byte);
            self.calendar.push(done, link);
            return;
        }
        p.next = NONE;
        let queue = if p.control { &mut l.control } else { &mut l.data };
        let tail = queue.1;
        queue.1 = number;
        if tail == NONE {
            queue.0 = number;
        } else {
            self.parcels[tail as usize].next = number;
        }
    }

    /// When the network does something next, picoseconds.
    pub fn peek(&mut self) -> Option<u64> {
        let wire = self.lines.iter().filter_map(|(_, q)| q.front()).map(|&(t, _)| t).min();
        match (wire, self.calendar.peek()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Does the next thing. Only after [`Network::peek`] gave its time.
    pub fn step(&mut self, rng: &mut Rng) -> Step {
        let mut first: Option<(u64, usize)> = None;
        for (i, (_, q)) in self.lines.iter().enumerate() {
            if let Some(&(t, _)) = q.front()
                && first.is_none_or(|(at, _)| t < at)
            {
                first = Some((t, i));
            }
        }
        let done = self.calendar.peek();
        if let Some((t, i)) = first
            && done.is_none_or(|d| t <= d)
        {
            self.now = t;
            let Some((_, number)) = self.lines[i].1.pop_front() else { return Step::Inside };
            let p = &mut self.parcels[number as usize];
            p.hop += 1;
            if p.hop == p.route.len {
                self.counts.delivered += 1;
                return Step::Delivered(number);
            }
            let link = p.route.links[usize::from(p.hop)];
            self.enqueue(link, number, rng);
            return Step::Inside;
        }
        let Some(at) = done else { return Step::Inside };
        self.now = at;
        let link = self.calendar.pop();
        self.done(link, rng)
    }

    fn done(&mut self, link: u32, rng: &mut Rng) -> Step {
        let l = &mut self.links[link as usize];
        let number = l.current;
        let p = &mut self.parcels[number as usize];
        self.counts.hops += 1;
        if p.control {
            l.control_bytes -= p.bytes;
        } else {
            if l.marks && l.data_bytes > l.mark_from && !p.marked {
                let over = f64::from(l.data_bytes - l.mark_from);
                let ramp = f64::from((l.mark_all - l.mark_from).max(1));
                if rng.chance(over / ramp) {
                    p.marked = true;
                    self.counts.marked += 1;
                }
            }
            l.data_bytes -= p.bytes;
        }
        let line = &mut self.lines[usize::from(l.line)];
        line.1.push_back((self.now + line.0, number));
        let queue = if l.control.0 != NONE { &mut l.control } else { &mut l.data };
        let next = queue.0;
        l.current = next;
        if next != NONE {
            let p = &self.parcels[next as usize];
            queue.0 = p.next;
            if p.next == NONE {
                queue.1 = NONE;
            }
            let done = self.now + u64::from(p.bytes) * u64::from(l.ps_per_byte);
            self.calendar.push(done, link);
            return Step::Inside;
        }
        if l.host { Step::Free(link) } else { Step::Inside }
    }
}
