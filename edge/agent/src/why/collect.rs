//! One look at a host: readings at the start and at the end of an interval, and samples in between.
//!
//! How: everything is asked in the calling thread's network namespace. Sockets are found by one filtered dump, followed one
//! by one by cookie at each step, and looked for once more at the end, so that connections begun meanwhile are seen too. Echo
//! requests, small and full, go out while samples are taken.
//!
//! Invariants: what cannot be read is written into [`EndFacts::missing`] and the look goes on; only a host whose sockets
//! cannot be listed at all is an error.

use super::facts::*;
use super::{host, read};
use kernel::echo::{Echo, PACKET_MIN};
use kernel::net_state::{self, LinkState, Queue};
use kernel::netlink::Netlink;
use kernel::sock_diag::{Diag, Filter, Socket, State};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How to look.
#[derive(Clone, Debug)]
pub struct Look {
    /// What was asked.
    pub question: Question,
    /// Name of this host, for the page.
    pub host: String,
    /// How long, 0.2 s to a minute.
    pub interval: Duration,
    /// Between two samples, at least 10 ms.
    pub step: Duration,
    /// Whether to send echo requests to the other ends.
    pub echo: bool,
}

impl Look {
    /// Three seconds, ten samples a second, with echo requests.
    pub fn new(question: Question, host: &str) -> Look {
        Look {
            question,
            host: host.to_string(),
            interval: Duration::from_secs(3),
            step: Duration::from_millis(100),
            echo: true,
        }
    }
}

/// Between two pairs of echo requests.
const ECHO_STEP_MS: u32 = 300;
/// An answer later than this does not count: no request is sent in the last part of the interval.
const ECHO_WAIT_MS: u32 = 500;

/// Looks, for as long as asked, at the namespace this thread is in.
pub fn collect(look: &Look) -> kernel::Result<EndFacts> {
    let interval = look.interval.clamp(Duration::from_millis(200), Duration::from_secs(60));
    let step = look.step.max(Duration::from_millis(10)).max(interval / SAMPLES_MAX as u32);
    let mut facts = EndFacts { host: look.host.clone(), ..EndFacts::default() };
    let mut diag = Diag::open()?;
    let mut route = Netlink::route()?;
    let start = Instant::now();

    let mut followed = Followed::default();
    followed.find(&mut diag, &look.question, 0)?;
    let peers = followed.peers(&look.question);
    let owners = host::owners(&followed.inodes());
    let processes_before: BTreeMap<u32, host::Moment> = followed
        .pids(&owners, &look.question)
        .into_iter()
        .filter_map(|pid| Some((pid, host::look(pid)?)))
        .collect();
    let counters_before = read::counters(&mut facts.missing);
    let conntrack_before = read::conntrack();
    let ticks_before = read::ticks();
    let mut listeners = Listeners::default();
    let mut ways = Ways::default();
    let mut links = Links::default();
    ways.look(&mut route, &peers, &mut facts.missing);
    links.look(&mut route, &mut facts.missing);
    let mut echoes = Echoes::open(look.echo, &peers, &ways, &links, &followed, &mut facts.missing);

    let mut conntrack_count = conntrack_before.map_or(0, |c| c[0]);
    let mut next = start + step;
    for n in 1u32.. {
        let left = next.saturating_duration_since(Instant::now());
        std::thread::sleep(left);
        let at_ms = start.elapsed().as_millis() as u32;
        followed.sample(&mut diag, at_ms)?;
        echoes.turn(at_ms, interval.as_millis() as u32);
        if n.is_multiple_of(5) {
            listeners.look(&mut diag, &look.question, &followed)?;
            links.look(&mut route, &mut facts.missing);
            ways.look(&mut route, &peers, &mut facts.missing);
            conntrack_count = conntrack_count.max(read::conntrack().map_or(0, |c| c[0]));
        }
        next += step;
        if start.elapsed() >= interval {
            break;
        }
    }

    followed.find(&mut diag, &look.question, start.elapsed().as_millis() as u32)?;
    listeners.look(&mut diag, &look.question, &followed)?;
    links.look(&mut route, &mut facts.missing);
    ways.look(&mut route, &peers, &mut facts.missing);
    echoes.receive();
    let elapsed = start.elapsed();
    facts.interval_ms = elapsed.as_millis() as u32;
    facts.counters = read::moved(&counters_before, &read::counters(&mut facts.missing));
    facts.cpu = read::cpu(ticks_before, read::ticks(), elapsed.as_micros() as u64);
    facts.conntrack = conntrack_before.zip(read::conntrack()).map(|(before, now)| ConntrackFacts {
        count: conntrack_count.max(now[0]),
        max: now[1],
        dropped: now[2].saturating_sub(before[2]),
        insert_failed: now[3].saturating_sub(before[3]),
        early_dropped: now[4].saturating_sub(before[4]),
    });
    facts.processes = processes_before
        .iter()
        .filter_map(|(pid, before)| Some(host::between(*pid, before, &host::look(*pid)?)))
        .collect();
    let used: BTreeSet<u32> = ways.0.values().filter_map(|w| Some(w.way.as_ref()?.index)).collect();
    facts.links = links.facts(&used);
    facts.ways = ways.facts(&facts.links);
    facts.echoes = echoes.facts();
    facts.listeners = listeners.facts();
    (facts.sockets, facts.sockets_left_out) = followed.facts(&owners);
    if diag.unreadable() > 0 {
        facts.missing.push(format!("{} messages about sockets that could not be read", diag.unreadable()));
    }
    facts.missing.sort();
    facts.missing.dedup();
    Ok(facts)
}

/// The socket a question is about?
fn wanted(question: &Question, inodes: &BTreeSet<u32>, socket: &Socket) -> bool {
    let end = |asked: &Option<SocketAddr>, is: SocketAddr| match asked {
        None => true,
        Some(a) => {
            (a.port() == 0 || a.port() == is.port())
                && (a.ip().is_unspecified() || a.ip().to_canonical() == is.ip())
        }
    };
    match question {
        Question::Connection { local, remote } => end(local, socket.local) && end(remote, socket.remote),
        Question::Process(_) => inodes.contains(&socket.inode),
        Question::Host(addresses) => addresses.iter().any(|a| a.to_canonical() == socket.remote.ip()),
    }
}

/// Sockets, from first to last sight.
#[derive(Default)]
struct Followed {
    sockets: Vec<(Socket, SocketFacts)>,
    left_out: u32,
}

impl Followed {
    fn find(&mut self, diag: &mut Diag, question: &Question, at_ms: u32) -> kernel::Result<()> {
        // everything that can be slow: not those that are over, and not listeners
        let states = [
            State::Established,
            State::SynSent,
            State::SynReceived,
            State::NewSynReceived,
            State::FinWait1,
            State::CloseWait,
            State::LastAck,
            State::Closing,
        ];
        let mut filter = Filter { states: states.to_vec(), ..Filter::default() };
        let mut inodes = BTreeSet::new();
        match question {
            Question::Connection { local, remote } => {
                let port = |end: &Option<SocketAddr>| end.map(|e| e.port()).filter(|p| *p != 0);
                (filter.local_port, filter.remote_port) = (port(local), port(remote));
            }
            Question::Process(pid) => inodes = host::sockets_of(*pid).collect(),
            Question::Host(addresses) => {
                // the kernel's filter takes one address
                if let [one] = addresses.as_slice() {
                    filter.remote = Some((*one, 128));
                }
            }
        }
        let found = diag.tcp(&filter)?;
        let mut wanted: Vec<Socket> = found.into_iter().filter(|s| wanted(question, &inodes, s)).collect();
        // those in trouble first, in case there is no room for all
        wanted.sort_by_key(|s| {
            let lost = s.tcp.map_or(0, |t| u32::from(t.backoff) + t.lost);
            std::cmp::Reverse((s.state == State::SynSent, lost, s.receive_queue.max(s.send_queue)))
        });
        for socket in wanted {
            if self.sockets.iter().any(|(known, _)| known.id == socket.id) {
                continue;
            }
            if self.sockets.len() >= SOCKETS_MAX {
                self.left_out += 1;
                continue;
            }
            let facts = SocketFacts {
                local: socket.local,
                remote: socket.remote,
                state: socket.state,
                inode: socket.inode,
                pid: None,
                uid: socket.uid,
                cgroup: socket.cgroup,
                congestion: socket.congestion.clone(),
                memory: socket.memory,
                timer: socket.timer,
                timer_tries: socket.timer_tries,
                first: socket.tcp.unwrap_or_default(),
                last: socket.tcp.unwrap_or_default(),
                gone: false,
                samples: vec![sample(&socket, at_ms)],
            };
            self.sockets.push((socket, facts));
        }
        Ok(())
    }

    fn sample(&mut self, diag: &mut Diag, at_ms: u32) -> kernel::Result<()> {
        for (socket, facts) in self.sockets.iter_mut().filter(|(_, f)| !f.gone) {
            let Some(now) = diag.again(&socket.id)? else {
                facts.gone = true;
                continue;
            };
            facts.state = now.state;
            facts.inode = now.inode;
            facts.memory = now.memory;
            (facts.timer, facts.timer_tries) = (now.timer, now.timer_tries);
            facts.last = now.tcp.unwrap_or(facts.last);
            if facts.samples.len() < SAMPLES_MAX {
                facts.samples.push(sample(&now, at_ms));
            }
        }
        Ok(())
    }

    fn inodes(&self) -> BTreeSet<u32> {
        self.sockets.iter().map(|(s, _)| s.inode).filter(|inode| *inode != 0).collect()
    }

    fn pids(&self, owners: &BTreeMap<u32, u32>, question: &Question) -> BTreeSet<u32> {
        let mut pids: BTreeSet<u32> = owners.values().copied().collect();
        if let Question::Process(pid) = question {
            pids.insert(*pid);
        }
        pids
    }

    fn peers(&self, question: &Question) -> Vec<IpAddr> {
        let mut peers: Vec<IpAddr> = match question {
            Question::Connection { remote: Some(r), .. } if !r.ip().is_unspecified() => {
                vec![r.ip().to_canonical()]
            }
            Question::Host(addresses) => addresses.iter().map(IpAddr::to_canonical).collect(),
            _ => Vec::new(),
        };
        for (s, _) in &self.sockets {
            if !peers.contains(&s.remote.ip()) {
                peers.push(s.remote.ip());
            }
        }
        peers.truncate(PEERS_MAX);
        peers
    }

    fn facts(self, owners: &BTreeMap<u32, u32>) -> (Vec<SocketFacts>, u32) {
        let with_owner = |(_, facts): (Socket, SocketFacts)| SocketFacts {
            pid: owners.get(&facts.inode).copied(),
            ..facts
        };
        (self.sockets.into_iter().map(with_owner).collect(), self.left_out)
    }
}

fn sample(socket: &Socket, at_ms: u32) -> Sample {
    let tcp = socket.tcp.unwrap_or_default();
    Sample {
        at_ms,
        receive_queue: socket.receive_queue,
        send_queue: socket.send_queue,
        not_sent: tcp.not_sent_bytes,
        unacked: tcp.unacked,
        sacked: tcp.sacked,
        window: tcp.congestion_window,
        peer_window: tcp.peer_window,
        rtt_us: tcp.rtt_us,
        acked: tcp.bytes_acked,
        received: tcp.bytes_received,
        retransmits: tcp.total_retransmits,
        congestion_state: tcp.congestion_state,
        backoff: tcp.backoff,
    }
}

/// Listeners by address.
#[derive(Default)]
struct Listeners(BTreeMap<SocketAddr, (ListenerFacts, u32)>);

impl Listeners {
    fn look(&mut self, diag: &mut Diag, question: &Question, followed: &Followed) -> kernel::Result<()> {
        let mut ports: BTreeSet<u16> = followed.sockets.iter().map(|(s, _)| s.local.port()).collect();
        let mut inodes = BTreeSet::new();
        match question {
            Question::Connection { local, .. } => ports.extend(local.map(|l| l.port())),
            Question::Process(pid) => inodes = host::sockets_of(*pid).collect(),
            Question::Host(_) => {}
        }
        let filter = Filter { states: vec![State::Listen], ..Filter::default() };
        // A question about a host has no port of ours where the connection is not there yet: every listener that has
        // somebody waiting is looked at.
        let about = |s: &Socket| {
            ports.contains(&s.local.port())
                || inodes.contains(&s.inode)
                || (matches!(question, Question::Host(_)) && s.receive_queue > 0)
        };
        for s in diag.tcp(&filter)?.into_iter().filter(about) {
            if self.0.len() >= LISTENERS_MAX && !self.0.contains_key(&s.local) {
                continue;
            }
            let facts = ListenerFacts { local: s.local, waiting_max: 0, limit: s.send_queue, pid: None };
            let entry = self.0.entry(s.local).or_insert((facts, s.inode));
            entry.0.waiting_max = entry.0.waiting_max.max(s.receive_queue);
        }
        Ok(())
    }

    fn facts(self) -> Vec<ListenerFacts> {
        let owners = host::owners(&self.0.values().map(|(_, inode)| *inode).collect());
        self.0
            .into_values()
            .map(|(l, inode)| ListenerFacts { pid: owners.get(&inode).copied(), ..l })
            .collect()
    }
}

/// The way to each other end, at its worst.
#[derive(Default)]
struct Ways(BTreeMap<IpAddr, WayFacts>);

impl Ways {
    fn look(&mut self, route: &mut Netlink, peers: &[IpAddr], missing: &mut Vec<String>) {
        let neighbours = net_state::neighbours(route).unwrap_or_else(|e| {
            missing.push(format!("neighbours: {e}"));
            Vec::new()
        });
        for to in peers {
            let entry = self.0.entry(*to).or_insert_with(|| WayFacts {
                to: *to,
                way: None,
                refused: None,
                link: None,
                link_mtu: 0,
                next_hop: None,
            });
            match net_state::way(route, *to, None) {
                Ok(way) => {
                    let hop = way.via.unwrap_or(*to);
                    let known = neighbours.iter().find(|n| n.address == hop && n.index == way.index);
                    // as it is now: an address being asked for at the first look may be known at the last
                    entry.next_hop = known.map(|n| n.resolution);
                    entry.refused = None;
                    entry.way = Some(way);
                }
                Err(e) => entry.refused = Some(e.to_string()),
            }
        }
    }

    fn facts(self, links: &[LinkFacts]) -> Vec<WayFacts> {
        let named = |mut way: WayFacts| {
            let link = way.way.as_ref().and_then(|w| links.iter().find(|l| l.index == w.index));
            (way.link, way.link_mtu) = (link.map(|l| l.name.clone()), link.map_or(0, |l| l.mtu));
            way
        };
        self.0.into_values().map(named).collect()
    }
}

/// Links and their queues, from first to last sight.
#[derive(Default)]
struct Links(BTreeMap<u32, (LinkState, LinkState, Waiting)>);

#[derive(Clone, Debug, Default)]
struct Waiting {
    kind: String,
    drops: (u64, u64),
    over_limits: (u64, u64),
    bytes_max: u32,
    busy: u32,
    looks: u32,
}

impl Links {
    fn look(&mut self, route: &mut Netlink, missing: &mut Vec<String>) {
        let links = net_state::links(route).unwrap_or_else(|e| {
            missing.push(format!("links: {e}"));
            Vec::new()
        });
        let mut queues: BTreeMap<u32, Vec<Queue>> = BTreeMap::new();
        match net_state::queues(route) {
            Ok(all) => all.into_iter().for_each(|q| queues.entry(q.index).or_default().push(q)),
            Err(e) => missing.push(format!("queueing disciplines: {e}")),
        }
        for link in links {
            let of = queues.get(&link.index).map_or(&[][..], Vec::as_slice);
            let entry =
                self.0.entry(link.index).or_insert_with(|| (link.clone(), link.clone(), Waiting::default()));
            let sum = |f: fn(&Queue) -> u32| of.iter().map(|q| u64::from(f(q))).max().unwrap_or(0);
            let waiting = &mut entry.2;
            if let Some(first) = of.first() {
                waiting.kind.clone_from(&first.kind);
            }
            let now = (sum(|q| q.drops), sum(|q| q.over_limits), sum(|q| q.waiting_bytes));
            if waiting.looks == 0 {
                (waiting.drops.0, waiting.over_limits.0) = (now.0, now.1);
            }
            (waiting.drops.1, waiting.over_limits.1) = (now.0, now.1);
            waiting.bytes_max = waiting.bytes_max.max(now.2 as u32);
            waiting.busy += u32::from(now.2 > 0);
            waiting.looks += 1;
            entry.1 = link;
        }
    }

    fn mtu(&self, index: u32) -> u32 {
        self.0.get(&index).map_or(0, |(_, l, _)| l.mtu)
    }

    fn facts(&self, used: &BTreeSet<u32>) -> Vec<LinkFacts> {
        let of_use = self.0.values().filter(|(_, l, _)| used.contains(&l.index)).take(LINKS_MAX);
        let facts = of_use.map(|(before, now, waiting)| {
            let by = |f: fn(&LinkState) -> u64| f(now).saturating_sub(f(before));
            LinkFacts {
                name: now.name.clone(),
                index: now.index,
                mtu: now.mtu,
                running: now.running,
                carrier_changes: now.carrier_changes.saturating_sub(before.carrier_changes),
                carrier_changes_total: now.carrier_changes,
                rx_packets: by(|l| l.rx_packets),
                tx_packets: by(|l| l.tx_packets),
                rx_errors: by(|l| l.rx_errors),
                tx_errors: by(|l| l.tx_errors),
                rx_dropped: by(|l| l.rx_dropped),
                tx_dropped: by(|l| l.tx_dropped),
                queue: waiting.kind.clone(),
                queue_drops: waiting.drops.1.saturating_sub(waiting.drops.0),
                queue_over_limits: waiting.over_limits.1.saturating_sub(waiting.over_limits.0),
                queue_bytes_max: waiting.bytes_max,
                queue_busy_looks: waiting.busy,
                looks: waiting.looks,
            }
        });
        facts.collect()
    }
}

/// Echo requests under way.
struct Echoes {
    all: Vec<(Option<Echo>, EchoFacts, BTreeSet<u16>)>,
    next_ms: u32,
    number: u16,
}

impl Echoes {
    fn open(
        wanted: bool,
        peers: &[IpAddr],
        ways: &Ways,
        links: &Links,
        followed: &Followed,
        missing: &mut Vec<String>,
    ) -> Echoes {
        let mut all = Vec::new();
        for to in peers.iter().filter(|_| wanted) {
            let way = ways.0.get(to).and_then(|w| w.way.as_ref());
            // what TCP sends, at most what the link takes
            let link = way.map_or(0, |w| links.mtu(w.index));
            let path =
                followed.sockets.iter().filter(|(s, _)| s.remote.ip() == *to && s.state != State::SynSent);
            let path = path.map(|(_, f)| f.last.path_mtu).max().filter(|mtu| *mtu > 0);
            let learnt = path.or(way.and_then(|w| w.mtu)).unwrap_or(link);
            let full =
                learnt.min(if link > 0 { link } else { learnt }).clamp(u32::from(PACKET_MIN), 65_535) as u16;
            let from = followed.sockets.iter().find(|(s, _)| s.remote.ip() == *to).map(|(s, _)| s.local.ip());
            let facts = EchoFacts {
                to: *to,
                small_bytes: PACKET_MIN,
                small_sent: 0,
                small_answered: 0,
                full_bytes: full,
                full_sent: 0,
                full_answered: 0,
                refused: None,
            };
            match Echo::open(*to, from) {
                Ok(echo) => all.push((Some(echo), facts, BTreeSet::new())),
                Err(e) => missing.push(format!("echo requests to {to}: {e}")),
            }
        }
        Echoes { all, next_ms: 0, number: 0 }
    }

    /// Takes in answers, and sends the next pair when it is time. Even numbers are small, odd ones full.
    fn turn(&mut self, at_ms: u32, interval_ms: u32) {
        self.receive();
        if at_ms < self.next_ms || at_ms + ECHO_WAIT_MS > interval_ms {
            return;
        }
        self.next_ms = at_ms + ECHO_STEP_MS;
        for (echo, facts, _) in &mut self.all {
            let Some(echo) = echo else { continue };
            for (odd, bytes) in [(0, facts.small_bytes), (1, facts.full_bytes)] {
                match echo.send(self.number + odd, bytes) {
                    Ok(()) if odd == 0 => facts.small_sent += 1,
                    Ok(()) => facts.full_sent += 1,
                    Err(e) => facts.refused = Some(e.to_string()),
                }
            }
        }
        self.number = self.number.wrapping_add(2);
    }

    fn receive(&mut self) {
        for (echo, facts, seen) in &mut self.all {
            let Some(socket) = echo else { continue };
            loop {
                match socket.receive() {
                    // a duplicate is no second answer
                    Ok(Some(number)) if !seen.insert(number) => {}
                    Ok(Some(number)) if number % 2 == 0 => facts.small_answered += 1,
                    Ok(Some(_)) => facts.full_answered += 1,
                    Ok(None) => break,
                    Err(e) => {
                        facts.refused = Some(e.to_string());
                        *echo = None;
                        break;
                    }
                }
            }
        }
    }

    fn facts(self) -> Vec<EchoFacts> {
        self.all.into_iter().map(|(_, facts, _)| facts).collect()
    }
}
