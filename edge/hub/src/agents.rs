//! The agents: who is connected, what number is expected next, and who has fallen silent.
//!
//! How: a table by host, changed by what arrives on the streams. A stream is known by a number; the newest stream of
//! a host is the one that counts, an older one is told to go.
//! Invariants: within one life of an agent (its producer epoch) a batch number is accepted at most once; what an agent
//! says it lost is counted once; at most one entry a host of the fabric.
//! Absent on purpose: any clock (`now` is an argument) and any IO.

use std::collections::BTreeMap;
use std::time::Duration;
use tables::{Mark, Marks};
use wire::proto::{Batch, Hello};
use wire::{HostId, Nanos};

/// Most counters of its own an agent may report; further ones are left out.
const COUNTERS_MAX: usize = 64;

/// A host about which nothing is known may have had no agent for so long.
const UNKNOWN: Nanos = Nanos::from_secs(60);

/// What changed about a host's agent: it cannot be heard of (`away`), or it was not there from `since` to `until`, which
/// are the same where it was there all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Presence {
    pub away: bool,
    pub since: Nanos,
    pub until: Nanos,
}

/// A stream of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamId(pub u64);

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// Diagnose it. `batches_missing` numbers before it never came, `newly_lost` observations were dropped by the
    /// agent since its batch before.
    Accept { batches_missing: u64, newly_lost: u64 },
    /// It was accepted before: acknowledge it again, count nothing.
    Duplicate,
    /// It belongs to another life of the agent than its Hello said.
    OtherLife { expected: u64, got: u64 },
    /// A newer stream of this host has taken over.
    Superseded,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Agent {
    /// The stream that counts, while it is open.
    pub stream: Option<StreamId>,
    /// Its life, once it has said Hello to this hub.
    pub producer_epoch: Option<u64>,
    pub software: String,
    pub stamp_port: u32,
    /// Last sign of life, or the moment until which it is excused.
    pub last_heard: Nanos,
    last_sequence: Option<u64>,
    lost_before: u64,
    /// Observations it lost by its own account, all its lives together.
    pub lost: u64,
    pub batches: u64,
    pub observations: u64,
    pub counters: BTreeMap<String, u64>,
    /// It left in order: silence is no fault.
    left: bool,
}

impl Agent {
    /// Whether observations came from it in this life.
    pub(crate) fn is_reporting(&self) -> bool {
        self.stream.is_some() && self.last_sequence.is_some()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Agents {
    hosts: BTreeMap<HostId, Agent>,
    streams: u64,
    /// Changes nobody has been told of yet, at most one a host.
    presence: BTreeMap<HostId, Presence>,
    /// How far each host's batches are in the tables, or on their way there.
    stored: Marks,
}

impl Agents {
    /// Agents known from before a restart, excused until `until`.
    pub(crate) fn excuse(&mut self, hosts: &[HostId], until: Nanos) {
        for &h in hosts {
            self.hosts.insert(h, Agent { last_heard: until, ..Agent::default() });
        }
    }

    /// None of so many hosts has an agent that this hub has heard of, yet.
    pub(crate) fn none_yet(&mut self, now: Nanos, hosts: u32) {
        for host in (0..hosts).map(HostId) {
            self.changed(host, true, now.since(UNKNOWN), now);
        }
    }

    fn changed(&mut self, host: HostId, away: bool, since: Nanos, until: Nanos) {
        let since = self.presence.get(&host).map_or(since, |p| p.since.min(since));
        let since = since.max(until.since(UNKNOWN)).min(until);
        self.presence.insert(host, Presence { away, since, until });
    }

    /// The changes since the last call.
    pub(crate) fn take_presence(&mut self) -> BTreeMap<HostId, Presence> {
        std::mem::take(&mut self.presence)
    }

    /// A Hello. Returns its stream, and whether this host was never heard of before (or had left).
    pub(crate) fn hello(&mut self, now: Nanos, host: HostId, hello: &Hello) -> (StreamId, bool) {
        self.streams = self.streams.saturating_add(1);
        let stream = StreamId(self.streams);
        let new = !self.hosts.contains_key(&host);
        let agent = self.hosts.entry(host).or_default();
        let first = new || agent.left;
        // A life this hub has not seen: the one before ended some time after it was last heard. What counts is since when
        // it lives, not since when it can be heard.
        let another = agent.producer_epoch != Some(hello.producer_epoch);
        let alive = Nanos::from_millis(hello.alive_ms).0.min(UNKNOWN.0);
        let born = now.since(Nanos(alive));
        let since = if another { agent.last_heard.min(born) } else { born };
        if agent.producer_epoch != Some(hello.producer_epoch) {
            agent.producer_epoch = Some(hello.producer_epoch);
            agent.last_sequence = None;
            agent.lost_before = 0;
        }
        agent.stream = Some(stream);
        agent.software = hello.software.chars().take(100).collect();
        agent.stamp_port = hello.stamp_port;
        agent.left = false;
        agent.last_heard = now;
        self.changed(host, false, since, born);
        (stream, first)
    }

    /// A sign of life. `false` where a newer stream has taken over.
    pub(crate) fn heard(&mut self, now: Nanos, host: HostId, stream: StreamId) -> bool {
        match self.hosts.get_mut(&host) {
            Some(agent) if agent.stream == Some(stream) => {
                agent.last_heard = agent.last_heard.max(now);
                true
            }
            _ => false,
        }
    }

    /// A batch.
    pub(crate) fn batch(&mut self, now: Nanos, host: HostId, stream: StreamId, batch: &Batch) -> Take {
        if !self.heard(now, host, stream) {
            return Take::Superseded;
        }
        let Some(agent) = self.hosts.get_mut(&host) else { return Take::Superseded };
        let expected = agent.producer_epoch.unwrap_or(0);
        if batch.producer_epoch != expected {
            return Take::OtherLife { expected, got: batch.producer_epoch };
        }
        if agent.last_sequence.is_some_and(|last| batch.sequence <= last) {
            return Take::Duplicate;
        }
        // The first batch this hub sees of a life may have any number: earlier ones went to the hub before.
        let batches_missing =
            agent.last_sequence.map_or(0, |last| batch.sequence.saturating_sub(last).saturating_sub(1));
        let newly_lost = batch.lost_before.saturating_sub(agent.lost_before);
        agent.last_sequence = Some(batch.sequence);
        agent.lost_before = agent.lost_before.max(batch.lost_before);
        agent.lost = agent.lost.saturating_add(newly_lost);
        agent.batches = agent.batches.saturating_add(1);
        agent.observations = agent.observations.saturating_add(wire::batch::rows(batch));
        agent.counters =
            batch.counters.iter().take(COUNTERS_MAX).map(|(name, n)| (name.clone(), *n)).collect();
        Take::Accept { batches_missing, newly_lost }
    }

    /// How far hosts were stored before this hub started.
    pub(crate) fn were_stored(&mut self, marks: Marks) {
        self.stored = marks;
    }

    /// Whether a batch is still to be stored, and how many observations its agent lost since the one stored before.
    pub(crate) fn is_to_store(&self, host: HostId, batch: &Batch) -> Option<u64> {
        match self.stored.get(&host.0).filter(|m| m.epoch == batch.producer_epoch) {
            Some(m) if batch.sequence <= m.sequence => None,
            Some(m) => Some(batch.lost_before.saturating_sub(m.lost)),
            None => Some(batch.lost_before),
        }
    }

    /// A batch is on its way into the tables.
    pub(crate) fn is_stored(&mut self, host: HostId, mark: Mark) {
        self.stored.insert(host.0, mark);
    }

    /// An orderly stop. `true` where the stream was the one that counts.
    pub(crate) fn goodbye(&mut self, now: Nanos, host: HostId, stream: StreamId) -> bool {
        match self.hosts.get_mut(&host) {
            Some(agent) if agent.stream == Some(stream) => {
                agent.left = true;
                agent.stream = None;
                self.changed(host, true, now, now);
                true
            }
            _ => false,
        }
    }

    /// The stream has ended, in whatever way.
    pub(crate) fn ended(&mut self, now: Nanos, host: HostId, stream: StreamId) {
        if let Some(agent) = self.hosts.get_mut(&host)
            && agent.stream == Some(stream)
        {
            agent.stream = None;
            self.changed(host, true, now, now);
        }
    }

    /// Hosts not heard of for longer than `after`, and for how many whole seconds.
    pub(crate) fn silent(&self, now: Nanos, after: Duration) -> Vec<(HostId, u64)> {
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        self.hosts
            .iter()
            .filter(|(_, a)| !a.left)
            .map(|(&h, a)| (h, now.since(a.last_heard).0))
            .filter(|&(_, ns)| ns > after)
            .map(|(h, ns)| (h, ns / 1_000_000_000))
            .collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (HostId, &Agent)> {
        self.hosts.iter().map(|(&h, a)| (h, a))
    }

    pub(crate) fn connected(&self) -> u64 {
        self.hosts.values().filter(|a| a.stream.is_some()).count() as u64
    }

    pub(crate) fn reporting(&self) -> u64 {
        self.hosts.values().filter(|a| a.is_reporting()).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: HostId = HostId(3);

    fn hello(epoch: u64) -> Hello {
        Hello { version: 1, host: 3, producer_epoch: epoch, ..Hello::default() }
    }
    fn batch(epoch: u64, sequence: u64, lost_before: u64) -> Batch {
        Batch { version: 1, producer_epoch: epoch, sequence, lost_before, ..Batch::default() }
    }
    fn accept(batches_missing: u64, newly_lost: u64) -> Take {
        Take::Accept { batches_missing, newly_lost }
    }

    #[test]
    fn numbers_are_taken_once_and_gaps_are_counted() {
        let mut agents = Agents::default();
        let (s, first) = agents.hello(Nanos(1), H, &hello(10));
        assert!(first);
        let mut take = |epoch, sequence, lost| agents.batch(Nanos(2), H, s, &batch(epoch, sequence, lost));
        assert_eq!(take(10, 5, 0), accept(0, 0), "the first number of a life may be any");
        assert_eq!(take(10, 6, 0), accept(0, 0));
        assert_eq!(take(10, 6, 0), Take::Duplicate);
        assert_eq!(take(10, 5, 0), Take::Duplicate);
        assert_eq!(take(10, 9, 40), accept(2, 40));
        assert_eq!(take(10, 10, 40), accept(0, 0), "a loss is counted once");
        assert_eq!(take(11, 11, 40), Take::OtherLife { expected: 10, got: 11 });
    }

    #[test]
    fn a_reconnect_keeps_the_numbers_and_a_new_life_does_not() {
        let mut agents = Agents::default();
        let (s, _) = agents.hello(Nanos(1), H, &hello(10));
        assert_eq!(agents.batch(Nanos(2), H, s, &batch(10, 1, 7)), accept(0, 7));
        agents.ended(Nanos(2), H, s);
        assert_eq!(agents.connected(), 0);
        let (s2, first) = agents.hello(Nanos(3), H, &hello(10));
        assert!(!first);
        assert_eq!(agents.batch(Nanos(4), H, s2, &batch(10, 1, 7)), Take::Duplicate);
        assert_eq!(agents.batch(Nanos(4), H, s, &batch(10, 2, 7)), Take::Superseded);
        let (s3, _) = agents.hello(Nanos(5), H, &hello(20));
        assert_eq!(agents.batch(Nanos(6), H, s3, &batch(20, 1, 2)), accept(0, 2));
        assert_eq!(agents.iter().next().unwrap().1.lost, 9);
    }

    #[test]
    fn comings_and_goings_are_told_once() {
        let at = Nanos::from_secs;
        let lived = |epoch, seconds: u64| Hello { alive_ms: 1_000 * seconds, ..hello(epoch) };
        let told = |agents: &mut Agents| agents.take_presence().get(&H).copied();
        let mut agents = Agents::default();
        agents.none_yet(at(100), 4);
        let (s, _) = agents.hello(at(101), H, &lived(1, 0));
        assert_eq!(agents.presence.len(), 4);
        assert_eq!(agents.presence[&HostId(0)], Presence { away: true, since: at(40), until: at(100) });
        assert_eq!(told(&mut agents), Some(Presence { away: false, since: at(41), until: at(101) }));
        assert!(agents.heard(at(110), H, s));
        assert_eq!(told(&mut agents), None);
        // The stream breaks, and the same life is heard of again: it was never away.
        agents.ended(at(111), H, s);
        assert_eq!(told(&mut agents), Some(Presence { away: true, since: at(111), until: at(111) }));
        let (s, _) = agents.hello(at(112), H, &lived(1, 11));
        assert_eq!(told(&mut agents), Some(Presence { away: false, since: at(101), until: at(101) }));
        assert!(agents.heard(at(120), H, s));
        // Another life takes over, and the end of the first was not seen.
        agents.hello(at(125), H, &lived(2, 2));
        assert_eq!(told(&mut agents), Some(Presence { away: false, since: at(120), until: at(123) }));
        // A hub that has just started hears of one that lived all along.
        let mut agents = Agents::default();
        agents.none_yet(at(200), 4);
        agents.take_presence();
        agents.hello(at(203), H, &lived(2, 80));
        assert_eq!(told(&mut agents), Some(Presence { away: false, since: at(83), until: at(143) }));
    }

    #[test]
    fn silence_is_noticed_unless_it_was_announced_or_is_excused() {
        let s = Duration::from_secs(2);
        let at = Nanos::from_secs;
        let mut agents = Agents::default();
        let (stream, _) = agents.hello(at(10), H, &hello(1));
        assert_eq!(agents.silent(at(12), s), []);
        assert_eq!(agents.silent(at(14), s), [(H, 4)]);
        assert!(agents.heard(at(14), H, stream));
        assert_eq!(agents.silent(at(15), s), []);
        agents.ended(at(15), H, stream);
        assert_eq!(agents.silent(at(20), s), [(H, 6)], "a broken stream is not a goodbye");
        let (stream, _) = agents.hello(at(20), H, &hello(1));
        assert!(agents.goodbye(at(20), H, stream));
        assert_eq!(agents.silent(at(99), s), []);
        agents.excuse(&[HostId(5)], at(100));
        assert_eq!(agents.silent(at(101), s), []);
        assert_eq!(agents.silent(at(103), s), [(HostId(5), 3)]);
    }
}
