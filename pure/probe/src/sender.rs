//! The asking side: a STAMP Session-Sender for all slots of a host (RFC 8762, section 4.1).
//!
//! How: trains of probes leave at even distances in time, slot after slot; which one is a formula of the plan, and where
//! in time the host begins is a formula of its id, so that hosts do not march in step. Every slot has a session of its
//! own (an SSID). Answers are matched in [`crate::session`], delays judged by [`crate::baseline`], windows tallied in
//! [`crate::collect`].
//!
//! A host that stalls is no network that is slow: a train that leaves late is counted as the sender's stall, the time
//! the other side held a probe (T3 − T2) as the responder's, and neither is in any delay.
//!
//! Invariants: no burst after a stall (missed trains are skipped and counted); an answer moves nothing unless session,
//! peer, sequence number and time stamp all agree; memory is bounded by [`SLOTS_MAX`].
//! Absent on purpose: sockets and bytes. Whoever calls must take in all that was received before it calls
//! [`Sender::handle_timeout`], or late reading looks like loss.

use crate::Error;
use crate::baseline::{Baseline, Noise};
use crate::clock::Offset;
use crate::collect::{Frame, Observation, Tally, Way, Windows};
use crate::counters::{Counters, Dropped};
use crate::packet::PROBE_BYTES_MIN;
use crate::plan::{Plan, Slot};
use crate::session::{Limits, Match, Session, Settled};
use crate::stall::Stalls;
use crate::trace::{PathKnowledge, Track};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use fabric::{Fabric, Mode};
use wire::{ClockQuality, Counter, HostId, Known, Leg, Nanos, NicId, PathId, Window};

/// Most slots of one sender.
pub const SLOTS_MAX: usize = 2_048;
/// Observations waiting to be taken.
const EVENTS_MAX: usize = 16_384;
/// Sessions of older plans and labels whose answers are still recognised.
const OLD_MAX: usize = 512;
/// Trace probes waiting: few at a time, for switches answer few.
const TRACES_MAX: usize = 12;
/// Flow labels a slot goes through in srv6 mode, one a window.
const LABELS: u64 = 8;

/// How a sender works, apart from its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderConfig {
    /// Whose probes these are.
    pub host: HostId,
    /// Changes SSIDs, first sequence numbers and flow labels.
    pub seed: u64,
    /// How well the clocks of all hosts agree, where that is known; else what the time stamps' error estimates say.
    pub clock: Option<ClockQuality>,
    /// A probe overtaken so long ago is lost, not late.
    pub grace: Nanos,
    /// A train later than this, or a probe held longer than this over what is usual, is a stall.
    pub stall: Nanos,
}

impl SenderConfig {
    /// The usual values for a host.
    pub fn new(host: HostId, seed: u64) -> Self {
        SenderConfig { host, seed, clock: None, grace: Nanos::from_millis(30), stall: Nanos::from_millis(20) }
    }
}

/// A probe to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Index of the slot in the plan.
    pub slot: u32,
    /// Session.
    pub ssid: u16,
    /// Sequence number within the session.
    pub sequence: u32,
    /// When it leaves: the `now` it was polled with.
    pub t1: Nanos,
    /// From which NIC.
    pub from: NicId,
    /// To which NIC.
    pub to: NicId,
    /// The path it must take (srv6 mode), or should (ecmp mode).
    pub path: PathId,
    /// The path the answer must take (srv6 mode).
    pub back: Option<PathId>,
    /// Flow label, 20 bits, never 0.
    pub flow_label: u32,
    /// DSCP.
    pub class: u8,
    /// Bytes of the STAMP packet.
    pub size: u16,
}

/// An answer that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Session.
    pub ssid: u16,
    /// From which NIC.
    pub from: NicId,
    /// Sequence number of the probe it answers.
    pub sequence: u32,
    /// The reflector's own sequence number.
    pub reflector_sequence: u32,
    /// When the probe left, as echoed.
    pub t1: Nanos,
    /// When the probe arrived there.
    pub t2: Nanos,
    /// When the answer left there.
    pub t3: Nanos,
    /// When the answer arrived here.
    pub t4: Nanos,
    /// ECN bits the probe arrived with, where the answer tells (class-of-service TLV).
    pub forward_ecn: Option<u8>,
    /// ECN bits the answer arrived with.
    pub backward_ecn: u8,
    /// Whether the reflector says its clock follows an outside source, and ours does too.
    pub synchronized: bool,
    /// The path the probe took, where the network said (ecmp mode).
    pub forward_path: Option<PathId>,
    /// The path the answer took, where the network said (ecmp mode).
    pub backward_path: Option<PathId>,
}

#[derive(Clone, Debug)]
struct SlotState {
    slot: Slot,
    from: NicId,
    to: NicId,
    ssid: u16,
    session: Session,
    windows: Windows,
    forward: Baseline,
    backward: Baseline,
    offset: Offset,
    paths: PathKnowledge,
    clock: ClockQuality,
}

/// Sends probes and makes observations of what comes back. See the module.
#[derive(Debug)]
pub struct Sender {
    fabric: Arc<Fabric>,
    config: SenderConfig,
    plan: Plan,
    slots: Vec<SlotState>,
    by_ssid: BTreeMap<u16, u32>,
    old: VecDeque<u16>,
    next_ssid: u16,
    /// Distance of two trains.
    step: Nanos,
    next_train: Nanos,
    cursor: u32,
    /// Slot and probes left of the train under way.
    train: Option<(u32, u32)>,
    next_check: Nanos,
    /// No tail is given up before this: this host stalled, and so may have the kernel.
    patience: Nanos,
    noise_forward: Noise,
    noise_backward: Noise,
    usual_hold_ns: i64,
    /// Stalls of other hosts and of this one by window.
    stalls: Stalls,
    /// When any slot last saw its path change (ecmp mode).
    last_change: Nanos,
    events: VecDeque<Observation>,
    sequence: u64,
    counters: Counters,
    settled: Vec<Settled>,
    /// Slots and hop limits to trace.
    traces: VecDeque<(u32, u8)>,
}

/// A number that looks random and is not (splitmix64).
pub(crate) fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A flow label, 20 bits and not 0 (RFC 6437, section 2).
fn label(x: u64) -> u32 {
    (mix(x) % 0xf_ffff) as u32 + 1
}

impl Sender {
    /// A sender without a plan: it sends nothing.
    pub fn new(fabric: Arc<Fabric>, config: SenderConfig) -> Self {
        Sender {
            fabric,
            config,
            plan: Plan::default(),
            slots: Vec::new(),
            by_ssid: BTreeMap::new(),
            old: VecDeque::new(),
            next_ssid: mix(config.seed ^ 0x5e55) as u16,
            step: Nanos::MAX,
            next_train: Nanos::MAX,
            cursor: 0,
            train: None,
            next_check: Nanos::MAX,
            patience: Nanos::ZERO,
            noise_forward: Noise::default(),
            noise_backward: Noise::default(),
            usual_hold_ns: 0,
            stalls: Stalls::default(),
            last_change: Nanos::ZERO,
            events: VecDeque::new(),
            sequence: 0,
            counters: Counters::default(),
            settled: Vec::new(),
            traces: VecDeque::new(),
        }
    }

    /// Replaces the plan. Slots that are in both keep what they learned; what is unsettled of the others is given up.
    pub fn set_plan(&mut self, now: Nanos, plan: Plan) -> Result<(), Error> {
        self.check(&plan)?;
        let mut before: BTreeMap<Slot, Vec<SlotState>> = BTreeMap::new();
        if plan.window == self.plan.window {
            for s in self.slots.drain(..) {
                before.entry(s.slot).or_default().push(s);
            }
        }
        self.retire_all(before.values().flatten().map(|s| s.ssid).collect());
        self.slots.clear();
        self.train = None;
        self.traces.clear();
        for &slot in &plan.slots {
            let kept = before.get_mut(&slot).and_then(Vec::pop);
            let index = self.slots.len() as u32;
            let state = match kept {
                Some(s) => {
                    self.old.retain(|&o| o != s.ssid);
                    s
                }
                None => self.fresh(slot, index)?,
            };
            self.by_ssid.insert(state.ssid, index);
            self.slots.push(state);
        }
        let given_up: usize = before.values().flatten().map(|s| s.session.unsettled()).sum();
        self.counters.add("unsettled_at_plan_change", given_up as u64);
        self.step = Nanos(
            1_000_000_000u64.saturating_mul(u64::from(plan.train))
                / u64::from(plan.packets_per_second.max(1)),
        );
        let phase = mix(u64::from(self.config.host.0)) % self.step.0.max(1);
        self.next_train = if plan.slots.is_empty() { Nanos::MAX } else { now + Nanos(phase) };
        self.next_check = now;
        self.cursor = 0;
        self.plan = plan;
        Ok(())
    }

    fn check(&self, plan: &Plan) -> Result<(), Error> {
        if plan.window < Nanos::from_millis(100) || plan.window > Nanos::from_secs(1) {
            return Err(Error::Window(plan.window));
        }
        if plan.slots.len() > SLOTS_MAX {
            return Err(Error::TooManySlots { got: plan.slots.len(), most: SLOTS_MAX });
        }
        if plan.packets_per_second == 0 || plan.train == 0 {
            return Err(Error::Rate { packets_per_second: plan.packets_per_second, train: plan.train });
        }
        for (i, s) in plan.slots.iter().enumerate() {
            let bad = Error::Path { slot: i, path: s.path };
            let (from, to, _) = self.fabric.path_parts(s.path).ok_or(bad)?;
            let mine = self.fabric.nic_parts(from).1 == self.config.host;
            if !mine || self.fabric.path_links(s.path).is_none() {
                return Err(bad);
            }
            if let Some(back) = s.back {
                let bad = Error::Path { slot: i, path: back };
                let (f, t, _) = self.fabric.path_parts(back).ok_or(bad)?;
                if (f, t) != (to, from) || self.fabric.path_links(back).is_none() {
                    return Err(bad);
                }
            } else if self.fabric.mode == Mode::Srv6 {
                return Err(bad);
            }
            if !(PROBE_BYTES_MIN..=9_000).contains(&s.size) {
                return Err(Error::Size { slot: i, size: s.size, least: PROBE_BYTES_MIN });
            }
        }
        Ok(())
    }

    fn fresh(&mut self, slot: Slot, index: u32) -> Result<SlotState, Error> {
        let bad = Error::Path { slot: index as usize, path: slot.path };
        let (from, to, _) = self.fabric.path_parts(slot.path).ok_or(bad)?;
        let ssid = self.new_ssid();
        Ok(SlotState {
            slot,
            from,
            to,
            ssid,
            session: Session::new(mix(self.config.seed ^ u64::from(ssid)) as u32),
            windows: Windows::default(),
            forward: Baseline::default(),
            backward: Baseline::default(),
            offset: Offset::default(),
            paths: PathKnowledge::new(label(self.config.seed ^ slot.path.0 ^ u64::from(index) << 48)),
            clock: self.config.clock.unwrap_or(ClockQuality::Free),
        })
    }

    /// An SSID no session has. There are 65,535 and fewer than 2,600 are taken.
    fn new_ssid(&mut self) -> u16 {
        loop {
            self.next_ssid = self.next_ssid.wrapping_add(1);
            let s = self.next_ssid;
            if s != 0 && !self.by_ssid.contains_key(&s) && !self.old.contains(&s) {
                return s;
            }
        }
    }

    fn retire_all(&mut self, ssids: Vec<u16>) {
        self.by_ssid.clear();
        ssids.into_iter().for_each(|s| self.retire(s));
    }

    fn retire(&mut self, ssid: u16) {
        self.by_ssid.remove(&ssid);
        self.old.push_back(ssid);
        if self.old.len() > OLD_MAX {
            self.old.pop_front();
        }
    }

    /// The plan in force.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The next probe that is due, if one is.
    pub fn poll_output(&mut self, now: Nanos) -> Option<Probe> {
        let (index, left) = match self.train {
            Some(train) => train,
            None => self.next_train(now)?,
        };
        self.train = (left > 1).then_some((index, left - 1));
        let window = now.0 / self.plan.window.0.max(1);
        let srv6 = self.fabric.mode == Mode::Srv6;
        let seed = self.config.seed;
        let s = self.slots.get_mut(index as usize)?;
        let flow_label = if srv6 {
            label(seed ^ (u64::from(index) << 32) ^ ((window + u64::from(index)) % LABELS))
        } else {
            s.paths.search.flow_label
        };
        let sequence = s.session.sent(now, &mut self.settled);
        s.windows.at(window, flow_label);
        self.tally_settled(index);
        self.counters.add("probes_sent", 1);
        let s = self.slots.get(index as usize)?;
        Some(self.probe(index, s, now, sequence, flow_label))
    }

    /// Begins the next slot's train if it is time.
    fn next_train(&mut self, now: Nanos) -> Option<(u32, u32)> {
        if now < self.next_train || self.slots.is_empty() {
            return None;
        }
        let late = now.since(self.next_train);
        let window = now.0 / self.plan.window.0.max(1);
        let stalled = late > self.config.stall;
        let host = self.config.host;
        self.stalls.add(window, host, Counter::SenderStall, stalled.then_some(late));
        if late > Nanos::from_millis(100) {
            self.patience = now + Nanos::from_millis(200);
        }
        // trains missed are not made up for, or the stall would end in a burst
        let missed = if stalled { late.0 / self.step.0.max(1) } else { 0 };
        self.counters.add("trains_skipped", missed);
        self.next_train += Nanos(self.step.0.saturating_mul(missed + 1));
        let n = self.slots.len() as u32;
        let index = self.cursor % n;
        self.cursor = ((u64::from(self.cursor) + stride(n) + missed * stride(n)) % u64::from(n)) as u32;
        if let Some(s) = self.slots.get_mut(index as usize) {
            s.session.begin_train();
        }
        Some((index, self.plan.train))
    }

    /// An answer arrived.
    pub fn handle_input(&mut self, now: Nanos, reply: &Reply) -> Result<(), Dropped> {
        self.take(now, reply).map_err(|reason| self.counters.drop(reason))
    }

    fn take(&mut self, now: Nanos, reply: &Reply) -> Result<(), Dropped> {
        let Some(&index) = self.by_ssid.get(&reply.ssid) else {
            return Err(if self.old.contains(&reply.ssid) {
                Dropped::OldSession
            } else {
                Dropped::WrongSession
            });
        };
        let s = self.slots.get_mut(index as usize).ok_or(Dropped::WrongSession)?;
        if reply.from != s.to {
            return Err(Dropped::WrongPeer);
        }
        let matched = s.session.handle_answer(
            now,
            reply.sequence,
            reply.reflector_sequence,
            reply.t1,
            &mut self.settled,
        );
        let host = self.fabric.nic_parts(s.to).1;
        let outcome = match matched {
            Match::Taken { .. } => Ok(()),
            Match::NeverSent => Err(Dropped::NeverSent),
            Match::Replayed => Err(Dropped::Replayed),
            Match::Duplicate => Err(Dropped::Duplicate),
            Match::Late => Err(Dropped::Late),
        };
        // a late answer still says that the other host was the one that was slow
        if matches!(outcome, Ok(()) | Err(Dropped::Late)) {
            self.note_hold(reply, host);
        }
        outcome?;
        self.counters.add("replies_taken", 1);
        self.note_delays(index, reply);
        self.note_path(index, reply);
        self.tally_settled(index);
        if let Some(s) = self.slots.get(index as usize)
            && s.session.has_gap()
        {
            self.next_check = self.next_check.min(now + self.config.grace);
        }
        Ok(())
    }

    /// Counts how long the other host held the probe.
    fn note_hold(&mut self, reply: &Reply, host: HostId) {
        let held = reply.t3.since(reply.t2);
        let usual = Nanos(self.usual_hold_ns.max(0) as u64);
        let stalled = held > self.config.stall + usual;
        let held_ns = i64::try_from(held.0).unwrap_or(i64::MAX);
        self.usual_hold_ns += (held_ns - self.usual_hold_ns).clamp(-1_000, 1_000);
        let window = reply.t4.0 / self.plan.window.0.max(1);
        if !self.stalls.add(window, host, Counter::ResponderStall, stalled.then_some(held)) {
            self.counters.add("stalls_not_counted", 1);
        }
    }

    fn note_delays(&mut self, index: u32, reply: &Reply) {
        let window = reply.t1.0 / self.plan.window.0.max(1);
        let Some(s) = self.slots.get_mut(index as usize) else { return };
        let raw = |a: Nanos, b: Nanos| (b.0 as i64).saturating_sub(a.0 as i64);
        let (forward, backward) = (raw(reply.t1, reply.t2), raw(reply.t3, reply.t4));
        s.clock = self.config.clock.unwrap_or(if reply.synchronized {
            ClockQuality::Synchronized
        } else {
            ClockQuality::Free
        });
        let (forward, backward) = match s.clock {
            ClockQuality::Same => (forward, backward),
            ClockQuality::Synchronized => s.offset.correct(forward, backward, reply.t4, 5),
            ClockQuality::Free => s.offset.correct(forward, backward, reply.t4, 50),
        };
        let judged = (
            s.forward.judge(forward, &mut self.noise_forward),
            s.backward.judge(backward, &mut self.noise_backward),
        );
        let tally = s.windows.at(window, s.paths.search.flow_label);
        if let Some(j) = judged.0 {
            tally.forward.delays.add(forward, j);
        }
        if let Some(j) = judged.1 {
            tally.backward.delays.add(backward, j);
        }
        tally.forward.ecn_marked += u32::from(reply.forward_ecn == Some(3));
        tally.backward.ecn_marked += u32::from(reply.backward_ecn == 3);
    }

    /// In ecmp mode: which paths probe and answer took, and whether to look for another flow label.
    fn note_path(&mut self, index: u32, reply: &Reply) {
        if self.fabric.mode == Mode::Srv6 {
            return;
        }
        let window = reply.t1.0 / self.plan.window.0.max(1);
        let Some(s) = self.slots.get_mut(index as usize) else { return };
        let tally = s.windows.at(window, s.paths.search.flow_label);
        tally.forward.took(reply.forward_path);
        tally.backward.took(reply.backward_path);
        if s.paths.answered(reply.t1, reply.forward_path, reply.backward_path) {
            self.last_change = self.last_change.max(reply.t1);
            self.counters.add("path_changes", 1);
        }
        if let Some(path) = reply.forward_path {
            self.seek(index, path);
        }
    }

    /// Tries another flow label where this one leads by another lane than the slot wants.
    fn seek(&mut self, index: u32, found: PathId) {
        let lane = |p: PathId| self.fabric.path_parts(p).map(|(_, _, lane)| lane);
        let Some(s) = self.slots.get_mut(index as usize) else { return };
        let fits = lane(found) == lane(s.slot.path);
        if fits || s.session.unsettled() > 0 || !s.paths.search.next(self.fabric.lanes()) {
            return;
        }
        let tries = s.paths.search.tries;
        let flow_label =
            label(self.config.seed ^ s.slot.path.0 ^ u64::from(index) << 48 ^ u64::from(tries) << 32);
        let ssid = self.new_ssid();
        if let Some(old) = self.slots.get(index as usize).map(|s| s.ssid) {
            self.retire(old);
        }
        self.by_ssid.insert(ssid, index);
        self.counters.add("flow_labels_tried", 1);
        let first = mix(self.config.seed ^ u64::from(ssid)) as u32;
        let Some(s) = self.slots.get_mut(index as usize) else { return };
        s.ssid = ssid;
        s.session = Session::new(first);
        s.paths = PathKnowledge::new(flow_label);
        s.paths.search.tries = tries;
        s.forward = Baseline::default();
        s.backward = Baseline::default();
    }

    /// In ecmp mode without in-band telemetry: the next probe to send with a small hop limit, so that the switch it
    /// ends at says its name.
    pub fn poll_trace(&mut self, now: Nanos) -> Option<(Probe, u8)> {
        let (index, hop_limit) = self.traces.pop_front()?;
        let s = self.slots.get(index as usize)?;
        self.counters.add("trace_probes_sent", 1);
        let flow_label = s.paths.search.flow_label;
        Some((self.probe(index, s, now, 0, flow_label), hop_limit))
    }

    /// A switch said that a probe of this session, sent with this hop limit, ended at it.
    pub fn handle_time_exceeded(&mut self, now: Nanos, ssid: u16, hop_limit: u8, by: core::net::Ipv6Addr) {
        let Some(&index) = self.by_ssid.get(&ssid) else {
            self.counters.drop(Dropped::WrongSession);
            return;
        };
        let Some(s) = self.slots.get_mut(index as usize) else { return };
        let Some((begun, path)) = s.paths.heard(&self.fabric, hop_limit, by) else { return };
        self.counters.add("paths_traced", 1);
        // known from the moment the trace began: what the hops said was so then at the earliest
        if s.paths.forward.confirm(begun, path) {
            self.last_change = self.last_change.max(now);
            self.counters.add("path_changes", 1);
        }
        self.seek(index, path);
    }

    fn probe(&self, index: u32, s: &SlotState, now: Nanos, sequence: u32, flow_label: u32) -> Probe {
        Probe {
            slot: index,
            ssid: s.ssid,
            sequence,
            t1: now,
            from: s.from,
            to: s.to,
            path: s.slot.path,
            back: s.slot.back,
            flow_label,
            class: s.slot.class,
            size: s.slot.size,
        }
    }

    /// Moves what the session just settled into its windows.
    fn tally_settled(&mut self, index: u32) {
        let length = self.plan.window.0.max(1);
        if let Some(s) = self.slots.get_mut(index as usize) {
            for settled in &self.settled {
                s.windows.at(settled.t1.0 / length, s.paths.search.flow_label).settle(settled.fate);
            }
        }
        self.settled.clear();
    }

    /// Settles what is due and hands out complete windows. Everything received before `now` must have been taken in.
    pub fn handle_timeout(&mut self, now: Nanos) {
        if now < self.next_check {
            return;
        }
        let length = self.plan.window.0.max(1);
        let interval = self.step.0.saturating_mul(self.slots.len() as u64);
        let hold = Nanos(interval.saturating_mul(2)) + self.config.grace + self.config.grace;
        let limits = Limits {
            timeout: if now < self.patience { Nanos::MAX } else { self.plan.timeout },
            grace: self.config.grace,
            hold: hold.min(Nanos::from_millis(1_500)),
        };
        let current = now.0 / length;
        let srv6 = self.fabric.mode == Mode::Srv6;
        let mut soon = false;
        for index in 0..self.slots.len() as u32 {
            let Some(s) = self.slots.get_mut(index as usize) else { break };
            s.session.handle_timeout(now, &limits, &mut self.settled);
            soon |= s.session.has_gap();
            let before = s.session.front().map_or(current, |t1| current.min(t1.0 / length));
            self.tally_settled(index);
            if !srv6
                && self.traces.len() < TRACES_MAX
                && let Some(s) = self.slots.get_mut(index as usize)
            {
                let hops = s.paths.ask(now, &self.fabric, s.from, s.to);
                self.traces.extend(hops.into_iter().map(|h| (index, h)));
            }
            while let Some(tally) =
                self.slots.get_mut(index as usize).and_then(|s| s.windows.complete(before))
            {
                self.hand_out(index, tally);
            }
        }
        let (host, epoch) = (self.config.host, self.fabric.epoch);
        while let Some(o) = self.stalls.complete(current, self.plan.window, host, epoch) {
            self.push(Observation::Component(o));
        }
        let boundary = Nanos((current + 1).saturating_mul(length)) + Nanos::from_millis(2);
        let pause = if soon { Nanos::from_millis(10) } else { Nanos::from_millis(100) };
        self.next_check = boundary.min(now + pause);
    }

    /// When to call [`Sender::poll_output`] and [`Sender::handle_timeout`] next.
    pub fn next_timeout(&self) -> Option<Nanos> {
        if self.slots.is_empty() {
            return None;
        }
        Some(self.next_train.min(self.next_check))
    }

    /// The next observation.
    pub fn poll_event(&mut self) -> Option<Observation> {
        self.events.pop_front()
    }

    /// What was sent, taken and dropped.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn push(&mut self, observation: Observation) {
        if self.events.len() >= EVENTS_MAX {
            self.counters.drop(Dropped::Overflow);
            return;
        }
        self.events.push_back(observation);
    }

    fn window(&self, index: u64) -> Window {
        Window { start: Nanos(index.saturating_mul(self.plan.window.0)), length: self.plan.window }
    }

    fn hand_out(&mut self, index: u32, tally: Tally) {
        let window = self.window(tally.index);
        let Some(s) = self.slots.get(index as usize) else { return };
        let (slot, clock) = (s.slot, s.clock);
        let srv6 = self.fabric.mode == Mode::Srv6;
        let any_back = self.fabric.path_reverse(slot.path).unwrap_or(slot.path);
        let last_change = self.last_change;
        let learned = |track: &Track, way: &Way, any: PathId| match track.known(window, way, last_change) {
            Some(path) => Leg { path, known: Known::Discovered },
            None => Leg { path: any, known: Known::Mixture },
        };
        let (forward, backward) = if srv6 {
            let back = slot.back.unwrap_or(any_back);
            (Leg { path: slot.path, known: Known::Exact }, Leg { path: back, known: Known::Exact })
        } else {
            (
                learned(&s.paths.forward, &tally.forward, slot.path),
                learned(&s.paths.backward, &tally.backward, any_back),
            )
        };
        let frame = Frame {
            window,
            producer: self.config.host,
            epoch: self.fabric.epoch,
            slot,
            encapsulated: srv6,
            forward,
            backward,
            clock,
        };
        for mut o in tally.observations(&frame).into_iter().flatten() {
            o.sequence = self.sequence;
            self.sequence += 1;
            self.push(Observation::Path(o));
        }
    }
}

/// A step through `n` slots that visits each once and puts neighbours far apart.
fn stride(n: u32) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let n = u64::from(n);
    // near the golden ratio, so that consecutive trains leave by different planes and spines
    (1..=n).map(|d| (n * 618 / 1_000 + d) % n).find(|&s| s > 0 && gcd(s, n) == 1).unwrap_or(1)
}
