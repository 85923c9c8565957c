//! Recordings of machines that run without sockets, whole, cut, damaged and made up.

use super::*;
use crate::machines::{Head, Machines, Output, Packet, Udp6};
use fabric::Fabric;
use probe::packet::{Arrival, Codec};
use probe::{Plan, PlanConfig};
use proptest::prelude::*;
use std::sync::{Arc, Mutex};
use wire::{HostId, Nanos};

/// A file in memory that several can hold.
#[derive(Clone, Default)]
struct File(Arc<Mutex<Vec<u8>>>);

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn head(key: Option<&[u8]>) -> Head {
    let text = "name = 't'\nmode = 'srv6'\nplanes = 1\nleaves = 2\nspines = 2\nhosts = 2\nhosts_per_leaf = 1\n\
        access = { rate = '100Gbit/s', latency = '1us' }\ntrunk = { rate = '100Gbit/s', latency = '1us' }\n";
    Head {
        fabric: Arc::new(Fabric::parse(text).unwrap()),
        host: HostId(0),
        key: key.map(<[u8]>::to_vec),
        clock: None,
        seed: 42,
        synchronized: true,
        sender_port: 5_000,
        udp6: Udp6::default(),
    }
}

/// Two machines that probe each other for three seconds; every ninth answer is lost. What the first one saw.
fn live(key: Option<&[u8]>, bytes_max: u64) -> (Vec<u8>, Vec<Vec<u8>>) {
    let file = File::default();
    let mut a = Machines::new(head(key), Some(Recorder::new(file.clone(), bytes_max)));
    let mut b = Machines::new(Head { host: HostId(1), ..head(key) }, None);
    let (fabric, codec) =
        (a.head.fabric.clone(), Codec::new(a.head.fabric.clone(), a.head.key.clone(), true));
    let start = Nanos::from_secs(1_000);
    for (m, host) in [(&mut a, HostId(0)), (&mut b, HostId(1))] {
        let slots = probe::plan::slots(&fabric, host, &PlanConfig::default());
        let plan = Plan { slots, packets_per_second: 1_000, ..Plan::default() };
        assert!(matches!(m.take(&Input::Plan(start, plan)), Output::Plan(Ok(()))));
    }
    let mut seen = Vec::new();
    let mut lost = 0u32;
    for step in 0..3_000u64 {
        let now = start + Nanos::from_millis(step);
        for from_a in [true, false] {
            let (one, other) = if from_a { (&mut a, &mut b) } else { (&mut b, &mut a) };
            while let Output::Probe(Some(probe)) = one.take(&Input::Probe(now)) {
                let mut bytes = Vec::new();
                codec.write_probe(&probe, &mut bytes);
                let mut arrival = Arrival {
                    from: fabric.nic_addr(probe.from),
                    port: 5_000,
                    to: fabric.nic_addr(probe.to),
                    at: now + Nanos::from_micros(20),
                    traffic_class: 2,
                    flow_label: probe.flow_label,
                    hop_limit: 60,
                    hop_by_hop: &[],
                };
                let packet = Packet { arrival, payload: &bytes, truncated: false };
                let Output::Answer(answer) = other.take(&Input::Request(now, packet)) else { panic!() };
                let mut back = Vec::new();
                let t3 = now + Nanos::from_micros(30);
                codec.write_answer(&bytes, &answer, t3, 60, &mut back);
                (arrival.from, arrival.to) = (arrival.to, arrival.from);
                arrival.at = now + Nanos::from_micros(50);
                lost += 1;
                if !lost.is_multiple_of(9) {
                    one.take(&Input::Reply(now, Packet { arrival, payload: &back, truncated: false }));
                }
            }
            assert!(matches!(one.take(&Input::Trace(now)), Output::Trace(None)));
        }
        a.take(&Input::TimeExceeded(now, std::net::Ipv6Addr::LOCALHOST, b"odd"));
        for m in [&mut a, &mut b] {
            m.take(&Input::Passed(now));
        }
        if a.wants_counters(now) {
            a.take(&Input::Counters(now, Udp6 { received: step * 10, no_room: step, ..Udp6::default() }));
        }
        a.drain(&mut |o| seen.push(bytes_of(&o)));
        b.drain(&mut drop);
    }
    a.end();
    let bytes = file.0.lock().unwrap().clone();
    (bytes, seen)
}

fn played(bytes: &[u8], key: Option<&[u8]>) -> (Replayed, Vec<Vec<u8>>) {
    let mut seen = Vec::new();
    let replayed = replay(bytes, key, &mut |o| seen.push(bytes_of(&o))).unwrap();
    (replayed, seen)
}

#[test]
fn a_replay_sees_what_the_agent_saw() {
    let (bytes, seen) = live(None, u64::MAX);
    assert!(seen.len() > 50, "{}", seen.len());
    for _ in 0..2 {
        let (replayed, again) = played(&bytes, None);
        assert_eq!(again, seen);
        assert_eq!((replayed.ended, replayed.diverged), (Ended::WithTheAgent, None));
        assert_eq!((replayed.host, replayed.observations), (HostId(0), seen.len() as u64));
        assert!(replayed.counters["probes_sent"] > 1_000 && replayed.counters["malformed"] == 3_000);
        assert!(replayed.software.starts_with("selvedge "));
    }
}

#[test]
fn the_key_is_not_in_the_file_and_is_needed() {
    let key = b"a key nobody is to know";
    let (bytes, seen) = live(Some(key), u64::MAX);
    assert!(!bytes.windows(key.len()).any(|w| w == key));
    assert_eq!(played(&bytes, Some(key)).1, seen);
    assert_eq!(replay(&bytes, None, &mut drop).err(), Some(RecordError::Key));
    let (wrong, _) = played(&bytes, Some(b"another"));
    assert!(wrong.diverged.is_some(), "a replay that goes another way says so");
}

#[test]
fn a_file_is_no_longer_than_asked_for_and_a_cut_one_gives_what_is_whole() {
    let (whole, seen) = live(None, u64::MAX);
    for most in [2_000, 50_000, 300_000] {
        let (bytes, _) = live(None, most);
        assert!(bytes.len() as u64 <= most && bytes.len() as u64 + 1_000 > most, "{}", bytes.len());
        let (replayed, again) = played(&bytes, None);
        assert_eq!((replayed.ended, replayed.diverged), (Ended::Full, None));
        assert_eq!(again, seen[..again.len()]);
    }
    let cut = &whole[..whole.len() / 2];
    let (replayed, again) = played(cut, None);
    assert!(matches!(replayed.ended, Ended::Cut { .. }) && replayed.diverged.is_none());
    assert!(!again.is_empty() && again == seen[..again.len()]);
}

#[test]
fn another_file_is_refused_in_words() {
    let (bytes, _) = live(None, 5_000);
    let err = |b: &[u8]| replay(b, None, &mut drop).unwrap_err();
    assert_eq!(err(b"hello"), RecordError::NotARecording);
    let mut newer = bytes.clone();
    newer[9] = 9;
    assert_eq!(err(&newer), RecordError::Version { got: 9 });
    assert!(matches!(err(&bytes[..30]), RecordError::Head { .. }));
    let mut odd = bytes;
    odd.splice(14..20, *b"\xff\xff\xff\xff\xff\xff");
    assert!(matches!(err(&odd), RecordError::Head { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_damage_is_an_outcome(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        static BYTES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let mut bytes = BYTES.get_or_init(|| live(None, 60_000).0).clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = replay(&bytes, None, &mut drop);
    }
}
