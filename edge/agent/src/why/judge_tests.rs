//! Made-up facts: one case for each cause, and its near-misses; and laws that hold for any facts.

use super::*;
use kernel::net_state::{Resolution, Way};
use kernel::sock_diag::{State, TcpInfo};

const MS: u64 = 1_000_000;

fn tcp() -> TcpInfo {
    TcpInfo {
        bytes: 248,
        send_mss: 1_448,
        path_mtu: 1_500,
        rtt_us: 300,
        min_rtt_us: 100,
        peer_window: 500_000,
        congestion_window: 20,
        ..TcpInfo::default()
    }
}

/// A connection that sends 10,000 segments in three seconds, with data always waiting and nothing wrong.
fn sender() -> SocketFacts {
    let last = TcpInfo {
        data_segments_out: 10_000,
        delivered: 10_000,
        bytes_acked: 14_480_000,
        busy_us: 3_000_000,
        unacked: 10,
        ..tcp()
    };
    let sample = |n: u32| Sample {
        at_ms: n * 100,
        send_queue: 50_000,
        not_sent: 20_000,
        unacked: 10,
        window: 20,
        peer_window: 500_000,
        rtt_us: 300,
        acked: u64::from(n) * 482_000,
        ..Sample::default()
    };
    SocketFacts {
        local: "192.0.2.1:5000".parse().unwrap(),
        remote: "192.0.2.2:80".parse().unwrap(),
        state: State::Established,
        inode: 7,
        pid: Some(10),
        uid: 0,
        cgroup: None,
        congestion: Some("cubic".into()),
        memory: None,
        timer: 1,
        timer_tries: 0,
        first: tcp(),
        last,
        gone: false,
        samples: (0..=30).map(sample).collect(),
    }
}

fn process(pid: u32, ran: u64, waited: u64) -> ProcessFacts {
    ProcessFacts {
        pid,
        name: "program".into(),
        state: 'S',
        threads: 1,
        cpu_ns: ran * MS,
        waiter_cpu_ns: ran * MS,
        waiter_delay_ns: waited * MS,
        ..ProcessFacts::default()
    }
}

fn end(host: &str, socket: SocketFacts, process: ProcessFacts) -> EndFacts {
    let to = socket.remote.ip();
    EndFacts {
        host: host.into(),
        interval_ms: 3_000,
        sockets: vec![socket],
        processes: vec![process],
        ways: vec![WayFacts {
            to,
            way: Some(Way { index: 2, via: None, source: None, mtu: None }),
            refused: None,
            link: Some("eth0".into()),
            link_mtu: 1_500,
            next_hop: Some(Resolution::Known),
        }],
        links: vec![LinkFacts {
            name: "eth0".into(),
            index: 2,
            running: true,
            looks: 6,
            ..LinkFacts::default()
        }],
        echoes: vec![EchoFacts {
            to,
            small_bytes: 56,
            small_sent: 9,
            small_answered: 9,
            full_bytes: 1_500,
            full_sent: 9,
            full_answered: 9,
            refused: None,
        }],
        ..EndFacts::default()
    }
}

/// Both ends of a connection that runs well.
fn well() -> Facts {
    let sender = sender();
    let receiver = SocketFacts {
        local: sender.remote,
        remote: sender.local,
        pid: Some(20),
        first: tcp(),
        last: TcpInfo { bytes_received: 14_480_000, ..tcp() },
        samples: (0..=30).map(|n| Sample { at_ms: n * 100, ..Sample::default() }).collect(),
        ..sender.clone()
    };
    Facts {
        question: Question::Host(vec![sender.remote.ip()]),
        local: end("a", sender, process(10, 600, 30)),
        peer: Some(end("b", receiver, process(20, 500, 30))),
        path: None,
    }
}

fn socket(facts: &mut Facts) -> &mut SocketFacts {
    &mut facts.local.sockets[0]
}
fn peer(facts: &mut Facts) -> &mut EndFacts {
    facts.peer.as_mut().unwrap()
}

#[track_caller]
fn surely(facts: &Facts, cause: Cause) {
    let answer = judge(facts);
    assert_eq!(answer.verdict, Verdict::Slowed(cause), "{answer:#?}");
    assert!(answer.confidence() >= SURE, "{answer:#?}");
    assert!(!answer.causes[0].evidence.is_empty());
}

#[track_caller]
fn unsure(facts: &Facts) -> Answer {
    let answer = judge(facts);
    assert!(answer.confidence() < SURE, "{answer:#?}");
    answer
}

/// The window is shut and data lies unread.
fn unread(facts: &mut Facts) {
    let s = socket(facts);
    s.last.window_limited_us = 2_900_000;
    s.samples.iter_mut().for_each(|m| m.peer_window = 0);
    for m in &mut peer(facts).sockets[0].samples {
        m.receive_queue = 400_000;
    }
}

#[test]
fn a_connection_that_runs_well_is_blamed_on_nobody() {
    let answer = judge(&well());
    assert_eq!(answer.verdict, Verdict::NotSlowed(Cause::RunsWell), "{answer:#?}");
    let ruled: Vec<Cause> = answer.ruled_out.iter().map(|r| r.cause).collect();
    for cause in [Cause::FlappingLink, Cause::LossyLink, Cause::CongestedLink, Cause::FullListenQueue] {
        assert!(ruled.contains(&cause), "{cause:?} is not said to be ruled out: {ruled:?}");
    }
}

#[test]
fn a_sender_with_nothing_to_send_is_limited_by_its_program() {
    let mut facts = well();
    let s = socket(&mut facts);
    s.last.busy_us = 100_000;
    s.samples.iter_mut().for_each(|m| (m.not_sent, m.send_queue, m.unacked) = (0, 0, 0));
    assert_eq!(judge(&facts).verdict, Verdict::NotSlowed(Cause::NothingToSend));
    // the same silence with a program that wanted to run and could not
    facts.local.processes = vec![process(10, 100, 2_800)];
    surely(&facts, Cause::StarvedSender);
}

#[test]
fn a_reader_that_sleeps_is_slow_and_one_that_waits_for_a_processor_is_starved() {
    let mut facts = well();
    unread(&mut facts);
    surely(&facts, Cause::SlowReader);
    peer(&mut facts).processes = vec![process(20, 90, 2_800)];
    surely(&facts, Cause::StarvedReceiver);
    // half of each: nobody can be sure
    peer(&mut facts).processes = vec![process(20, 500, 1_150)];
    unsure(&facts);
    // a quota keeps it from running as well
    let held = ProcessFacts { throttled_ns: 2_700 * MS, throttled_periods: (58, 60), ..process(20, 90, 10) };
    peer(&mut facts).processes = vec![held];
    surely(&facts, Cause::StarvedReceiver);
    // without the other host's facts it is the reader, but not known why
    facts.peer = None;
    let answer = unsure(&facts);
    assert!([Cause::SlowReader, Cause::StarvedReceiver].contains(&answer.causes[0].cause));
}

#[test]
fn loss_with_a_queue_is_congestion_and_without_one_a_lossy_link() {
    let mut facts = well();
    let s = socket(&mut facts);
    s.last.total_retransmits = 100;
    s.samples.iter_mut().enumerate().for_each(|(n, m)| m.retransmits = n as u32 * 3);
    surely(&facts, Cause::LossyLink);
    // With time-outs, and from this end alone, it may as well be a link at the other that comes and goes.
    let mut alone = Facts { peer: None, ..facts.clone() };
    socket(&mut alone).last.timeouts += 5;
    assert!(judge(&alone).confidence() < 0.8);
    let s = socket(&mut facts);
    s.samples.iter_mut().for_each(|m| m.rtt_us = 20_000);
    surely(&facts, Cause::CongestedLink);
    // marks say it too
    let s = socket(&mut facts);
    s.samples.iter_mut().for_each(|m| m.rtt_us = 300);
    s.last.delivered_ce = 1_000;
    surely(&facts, Cause::CongestedLink);
    // repeats that were not needed are no loss
    let s = socket(&mut facts);
    (s.last.delivered_ce, s.last.duplicates) = (0, 100);
    assert_ne!(judge(&facts).verdict, Verdict::Slowed(Cause::LossyLink));
}

#[test]
fn drops_of_the_own_queue_are_congestion_at_this_host() {
    let mut facts = well();
    facts.local.links[0].queue_drops = 50;
    socket(&mut facts).last.total_retransmits = 50;
    surely(&facts, Cause::CongestedLink);
    assert_eq!(judge(&facts).causes[0].place, Place::Host("a".into()));
}

/// Nothing is acknowledged any more.
fn stuck(facts: &mut Facts) {
    let s = socket(facts);
    (s.last.backoff, s.timer_tries, s.last.total_retransmits) = (4, 4, 5);
    s.samples.iter_mut().for_each(|m| m.acked = 1_000);
    for e in [&mut facts.local.echoes[0], &mut facts.peer.as_mut().unwrap().echoes[0]] {
        (e.small_answered, e.full_answered) = (0, 0);
    }
}

#[test]
fn full_packets_that_vanish_while_small_ones_pass_are_a_wrong_mtu() {
    let mut facts = well();
    stuck(&mut facts);
    facts.local.echoes[0].small_answered = 9;
    surely(&facts, Cause::WrongMtu);
    facts.peer = None;
    surely(&facts, Cause::WrongMtu);
    // both sizes answered: neither the MTU nor the way
    facts.local.echoes[0].full_answered = 9;
    let answer = unsure(&facts);
    assert_eq!(answer.causes[0].cause, Cause::Unanswered);
}

#[test]
fn a_connection_without_any_answer_is_unreachable_and_sure_only_with_a_witness() {
    let mut facts = well();
    stuck(&mut facts);
    surely(&facts, Cause::Unreachable);
    facts.peer = None;
    let answer = unsure(&facts);
    assert_eq!(answer.verdict, Verdict::Slowed(Cause::Unreachable));
    facts.local.counters.insert("Icmp.InDestUnreachs".into(), 3);
    surely(&facts, Cause::Unreachable);
    facts.local.counters.clear();
    facts.local.ways[0].next_hop = Some(Resolution::Failed);
    surely(&facts, Cause::Unreachable);
}

#[test]
fn without_a_connection_the_way_is_judged() {
    let mut facts = well();
    facts.peer = None;
    facts.local.sockets.clear();
    assert_eq!(judge(&facts).verdict, Verdict::NothingFound);
    facts.local.ways[0].refused = Some("no route".into());
    surely(&facts, Cause::Unreachable);
}

/// A connection that does not come about.
fn beginning() -> Facts {
    let mut facts = well();
    let s = socket(&mut facts);
    (s.state, s.timer_tries) = (State::SynSent, 2);
    (s.first, s.last) =
        (TcpInfo::default(), TcpInfo { bytes: 248, retransmits: 2, unacked: 1, ..TcpInfo::default() });
    peer(&mut facts).sockets.clear();
    facts
}

#[test]
fn a_first_packet_without_answer_is_told_by_the_tables_of_both_hosts() {
    let listener = |waiting_max| ListenerFacts {
        local: "0.0.0.0:80".parse().unwrap(),
        waiting_max,
        limit: 4,
        pid: Some(20),
    };
    let mut facts = beginning();
    peer(&mut facts).listeners = vec![listener(0)];
    let answer = unsure(&facts);
    assert_eq!(answer.causes[0].cause, Cause::Unanswered);
    peer(&mut facts).listeners = vec![listener(5)];
    surely(&facts, Cause::FullListenQueue);
    peer(&mut facts).listeners = vec![listener(0)];
    peer(&mut facts).conntrack =
        Some(ConntrackFacts { count: 100, max: 100, dropped: 3, ..ConntrackFacts::default() });
    surely(&facts, Cause::FullConntrack);
    peer(&mut facts).conntrack = Some(ConntrackFacts { count: 10, max: 100, ..ConntrackFacts::default() });
    unsure(&facts);
}

#[test]
fn a_connection_nobody_accepted_waits_in_the_listen_queue() {
    let mut facts = well();
    let p = peer(&mut facts);
    p.sockets[0].inode = 0;
    p.sockets[0].pid = None;
    p.sockets[0].samples.iter_mut().for_each(|m| m.receive_queue = 50_000);
    p.listeners =
        vec![ListenerFacts { local: "0.0.0.0:80".parse().unwrap(), waiting_max: 5, limit: 4, pid: Some(20) }];
    surely(&facts, Cause::FullListenQueue);
}

#[test]
fn a_carrier_that_comes_and_goes_explains_the_loss() {
    let mut facts = well();
    peer(&mut facts).links[0].carrier_changes = 6;
    let s = socket(&mut facts);
    s.last.total_retransmits = 200;
    s.samples.iter_mut().enumerate().for_each(|(n, m)| m.retransmits = n as u32 * 6);
    surely(&facts, Cause::FlappingLink);
    assert_eq!(judge(&facts).causes[0].place, Place::Host("b".into()));
}

#[test]
fn the_hubs_verdict_on_a_link_of_the_path_counts_where_the_connection_feels_it() {
    let mut facts = well();
    let link = PathLink { name: "leaf1:spine2".into(), sickness: Sickness::Loss, confidence: 0.9 };
    facts.path =
        Some(PathFacts { links: vec![link], probes_sent: 5_000, probes_lost: 50, ..PathFacts::default() });
    unsure(&facts);
    let s = socket(&mut facts);
    s.last.total_retransmits = 6;
    facts.path.as_mut().unwrap().links[0].confidence = 0.0;
    let alone = judge(&facts).confidence();
    facts.path.as_mut().unwrap().links[0].confidence = 0.9;
    let answer = judge(&facts);
    assert_eq!(answer.verdict, Verdict::Slowed(Cause::LossyLink), "{answer:#?}");
    assert!(answer.confidence() > alone);
    assert!(answer.causes[0].evidence.iter().any(|e| e.contains("leaf1:spine2")));
}

#[test]
fn many_connections_make_one_page() {
    let mut facts = well();
    facts.peer = None;
    let mut sick = sender();
    sick.local.set_port(6_000);
    sick.last.total_retransmits = 100;
    facts.local.sockets.push(sick.clone());
    sick.local.set_port(6_001);
    facts.local.sockets.push(sick);
    let answer = judge(&facts);
    assert_eq!(answer.verdict, Verdict::Slowed(Cause::LossyLink), "{answer:#?}");
    assert_eq!((answer.subjects.len(), answer.causes[0].connections.len()), (3, 2));
}

#[test]
fn two_that_contradict_each_other_are_both_less_sure() {
    let found = |cause, confidence| Found { cause, place: Place::Path, confidence, evidence: Vec::new() };
    let alone = settle(vec![found(Cause::LossyLink, 0.9)]);
    let both = settle(vec![found(Cause::LossyLink, 0.9), found(Cause::SlowReader, 0.9)]);
    assert!(both[0].confidence < 0.6 && alone[0].confidence == 0.9, "{both:?}");
    let explained = settle(vec![found(Cause::LossyLink, 0.9), found(Cause::FlappingLink, 0.95)]);
    assert_eq!((explained[0].cause, explained[0].confidence), (Cause::FlappingLink, 0.95));
    assert!(explained[1].confidence < 0.3);
}

#[test]
fn any_facts_give_an_answer() {
    // zeros, the largest numbers, and empty lists in every place
    let big = TcpInfo {
        bytes: u16::MAX,
        total_retransmits: u32::MAX,
        bytes_acked: u64::MAX,
        busy_us: u64::MAX,
        ..tcp()
    };
    for (first, last) in [(TcpInfo::default(), big), (big, TcpInfo::default()), (big, big)] {
        for state in [State::Unknown, State::SynSent, State::Established, State::LastAck] {
            for samples in [Vec::new(), vec![Sample::default()], sender().samples] {
                for interval_ms in [0, 3_000, u32::MAX] {
                    let mut facts = well();
                    let s = socket(&mut facts);
                    (s.first, s.last, s.state, s.samples) = (first, last, state, samples.clone());
                    (s.last.backoff, s.last.unacked, s.timer_tries) = (255, u32::MAX, 255);
                    facts.local.interval_ms = interval_ms;
                    facts.local.conntrack = Some(ConntrackFacts {
                        count: u64::MAX,
                        max: u64::MAX,
                        dropped: 1,
                        ..ConntrackFacts::default()
                    });
                    for peer in [facts.peer.clone(), None] {
                        let answer = judge(&Facts { peer, ..facts.clone() });
                        assert!(
                            answer.causes.iter().all(|c| (0.0..=1.0).contains(&c.confidence)),
                            "{answer:#?}"
                        );
                        assert!(!super::super::page(&answer).is_empty());
                    }
                }
            }
        }
    }
    let empty = Facts { question: Question::Process(1), local: EndFacts::default(), peer: None, path: None };
    assert_eq!(judge(&empty).verdict, Verdict::NothingFound);
}
