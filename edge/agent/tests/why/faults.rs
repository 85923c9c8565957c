//! The faults: how each is made, with what parameters, and which answers are right.

use crate::endpoint::Endpoint;
use crate::world::{Dice, Quota, World};
use agent::why::{Answer, Cause, EndFacts, Facts, Look, Question, Verdict, collect};
use kernel::netns;
use selvedge_agent as agent;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PORT: u16 = 7_007;
/// Traffic runs this long before anybody looks.
const WARM: Duration = Duration::from_millis(1_200);

/// A kind of fault.
pub struct Kind {
    pub name: &'static str,
    causes: &'static [Cause],
    make: fn(&mut Dice) -> (Facts, String),
}

impl Kind {
    pub fn run(&self, seed: u64) -> (Facts, String) {
        let name = self.name.bytes().fold(0u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
        (self.make)(&mut Dice(seed ^ name << 20))
    }
    pub fn harmless(&self) -> bool {
        self.causes.iter().any(|c| c.harmless())
    }
    pub fn right(&self, answer: &Answer) -> bool {
        match answer.verdict {
            Verdict::Slowed(cause) | Verdict::NotSlowed(cause) => self.causes.contains(&cause),
            // of a healthy connection it is no mistake to know nothing
            Verdict::NotKnown => self.harmless(),
            Verdict::NothingFound => false,
        }
    }
}

/// Every kind.
pub const KINDS: [Kind; 12] = [
    Kind { name: "slow-reader", causes: &[Cause::SlowReader], make: slow_reader },
    Kind { name: "starved-receiver", causes: &[Cause::StarvedReceiver], make: starved_receiver },
    Kind { name: "lossy", causes: &[Cause::LossyLink], make: lossy },
    Kind { name: "congested", causes: &[Cause::CongestedLink], make: congested },
    Kind { name: "mtu", causes: &[Cause::WrongMtu], make: mtu },
    Kind { name: "conntrack", causes: &[Cause::FullConntrack], make: conntrack },
    Kind { name: "listen-queue", causes: &[Cause::FullListenQueue], make: listen_queue },
    Kind { name: "flapping", causes: &[Cause::FlappingLink], make: flapping },
    Kind { name: "unreachable", causes: &[Cause::Unreachable], make: unreachable },
    Kind { name: "starved-sender", causes: &[Cause::StarvedSender], make: starved_sender },
    Kind { name: "nothing-to-send", causes: &[Cause::NothingToSend, Cause::RunsWell], make: nothing_to_send },
    Kind { name: "healthy-bulk", causes: &[Cause::RunsWell, Cause::NothingToSend], make: healthy_bulk },
];

fn in_ns<T>(ns: &str, inside: impl FnOnce() -> T) -> T {
    let _in = netns::enter(ns).unwrap();
    inside()
}

struct Server<'a> {
    wrap: &'a [&'a str],
    settings: Vec<(&'a str, String)>,
}

impl Server<'_> {
    /// Reads as fast as it can.
    fn eager() -> Server<'static> {
        Server {
            wrap: &[],
            settings: vec![("BACKLOG", "64".into()), ("ACCEPT", "1".into()), ("CHUNK", "65536".into())],
        }
    }
    fn set(mut self, name: &'static str, value: impl ToString) -> Self {
        self.settings.retain(|(n, _)| *n != name);
        self.settings.push((name, value.to_string()));
        self
    }
    fn start(mut self, w: &World) -> Endpoint {
        self.settings.push(("AT", SocketAddr::new(w.address_b(), PORT).to_string()));
        let mut end = in_ns(&w.b, || Endpoint::start(self.wrap, "server", &self.settings));
        assert_eq!(end.said().as_deref(), Some("ready"));
        end
    }
}

struct Client<'a> {
    wrap: &'a [&'a str],
    to: SocketAddr,
    settings: Vec<(&'a str, String)>,
}

impl<'a> Client<'a> {
    /// Writes without end.
    fn bulk(w: &World, dice: &mut Dice) -> Client<'a> {
        let message = dice.spread(2_000, 200_000);
        let congestion = dice.pick(&["cubic", "bbr", "reno"]);
        Client { wrap: &[], to: SocketAddr::new(w.address_b(), PORT), settings: Vec::new() }
            .set("MESSAGE", message)
            .set("CONGESTION", congestion)
    }
    /// Writes messages with a pause after each, about so many megabit a second.
    fn paced(self, mbit: u64, dice: &mut Dice) -> Client<'a> {
        let message = dice.spread(1_000, 40_000);
        let pause_us = message * 8 / mbit.max(1);
        self.set("MESSAGE", message).set("PAUSE", pause_us.max(1))
    }
    fn set(mut self, name: &'static str, value: impl ToString) -> Self {
        self.settings.retain(|(n, _)| *n != name);
        self.settings.push((name, value.to_string()));
        self
    }
    fn say(&self) -> String {
        self.settings.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" ")
    }
    fn start(mut self, w: &World) -> Endpoint {
        self.settings.push(("TO", self.to.to_string()));
        let mut end = in_ns(&w.a, || Endpoint::start(self.wrap, "client", &self.settings));
        assert_eq!(end.said().as_deref(), Some("connecting"));
        end
    }
}

/// The own end of a connection, once it is there.
fn connected(client: &mut Endpoint) -> SocketAddr {
    let said = client.said().unwrap();
    said.strip_prefix("connected ").unwrap_or_else(|| panic!("{said}")).parse().unwrap()
}

/// Both hosts look at once. With no peer, only host a.
fn look(w: &World, question: Question, peer: bool) -> Facts {
    let theirs = if peer { question.from_the_other_end(&[w.address_a()]) } else { None };
    let (local, peer) = std::thread::scope(|s| {
        let at = |ns: &str, name: &str, question: Question| {
            let (ns, name) = (ns.to_string(), name.to_string());
            s.spawn(move || in_ns(&ns, || collect(&Look::new(question, &name)).unwrap()))
        };
        let theirs = theirs.map(|q| at(&w.b, "b", q));
        let ours = at(&w.a, "a", question.clone());
        let local: EndFacts = ours.join().unwrap();
        (local, theirs.map(|t| t.join().unwrap()))
    });
    Facts { question, local, peer, path: None }
}

/// Asks for the connection in one of the ways a user might.
fn ask(w: &World, dice: &mut Dice, own: SocketAddr) -> Facts {
    let remote = SocketAddr::new(w.address_b(), PORT);
    let question = match dice.between(0, 2) {
        0 => Question::Connection { local: Some(own), remote: Some(remote) },
        1 => Question::Connection { local: None, remote: Some(remote) },
        _ => Question::Host(vec![remote.ip()]),
    };
    look(w, question, true)
}

fn warm(since: Instant) {
    std::thread::sleep(WARM.saturating_sub(since.elapsed()));
}

fn slow_reader(dice: &mut Dice) -> (Facts, String) {
    let w = World::up(dice.chance(50));
    let mut server = Server::eager();
    let stopped = dice.chance(15);
    if !stopped {
        server = server.set("CHUNK", dice.spread(1_000, 60_000)).set("PAUSE", dice.spread(4_000, 300_000));
    }
    if dice.chance(30) {
        server = server.set("BUFFER", dice.spread(16_000, 500_000));
    }
    let what = format!("{:?} stopped {stopped}", server.settings);
    let server = server.start(&w);
    let client = Client::bulk(&w, dice);
    let what = format!("{what} {}", client.say());
    let mut client = client.start(&w);
    let (start, own) = (Instant::now(), connected(&mut client));
    if stopped {
        kernel::process::Process::find(server.pid()).unwrap().signal(kernel::process::Signal::Stop).unwrap();
    }
    warm(start);
    (ask(&w, dice, own), what)
}

/// What keeps a program from running.
struct Starving {
    wrap: Vec<String>,
    quota: Option<Quota>,
    hogs: Vec<Endpoint>,
    what: String,
}

impl Starving {
    fn of(dice: &mut Dice) -> Starving {
        let percent = dice.spread(2, 12);
        if dice.chance(50)
            && let Some(quota) = Quota::new(percent)
        {
            return Starving {
                wrap: Vec::new(),
                quota: Some(quota),
                hogs: Vec::new(),
                what: format!("quota {percent} %"),
            };
        }
        let cpu = "0";
        let idle = dice.chance(30);
        let mut wrap: Vec<String> = ["taskset", "-c", cpu].map(String::from).to_vec();
        let more: &[&str] = if idle { &["chrt", "-i", "0"] } else { &["nice", "-n", "19"] };
        wrap.extend(more.iter().map(|s| s.to_string()));
        let hogs = dice.between(1, 3);
        let start = |_| {
            let mut hog = Endpoint::start(&["taskset", "-c", cpu], "hog", &[]);
            assert_eq!(hog.said().as_deref(), Some("ready"));
            hog
        };
        Starving {
            wrap,
            quota: None,
            hogs: (0..hogs).map(start).collect(),
            what: format!("{hogs} hogs, idle {idle}"),
        }
    }
}

fn starved_receiver(dice: &mut Dice) -> (Facts, String) {
    let w = World::up(dice.chance(50));
    let starving = Starving::of(dice);
    let wrap: Vec<&str> = starving.wrap.iter().map(String::as_str).collect();
    let mut server =
        Server::eager().set("CHUNK", dice.spread(2_000, 60_000)).set("WORK", dice.spread(2_000, 30_000));
    server.wrap = &wrap;
    let what = format!("{} {:?}", starving.what, server.settings);
    let server = server.start(&w);
    if let Some(quota) = &starving.quota {
        quota.take(server.pid());
    }
    let client = Client::bulk(&w, dice);
    let what = format!("{what} {}", client.say());
    let mut client = client.start(&w);
    let (start, own) = (Instant::now(), connected(&mut client));
    warm(start);
    let facts = ask(&w, dice, own);
    drop((server, client));
    drop(starving.hogs);
    (facts, what)
}

fn starved_sender(dice: &mut Dice) -> (Facts, String) {
    let w = World::up(dice.chance(50));
    let starving = Starving::of(dice);
    let wrap: Vec<&str> = starving.wrap.iter().map(String::as_str).collect();
    let server = Server::eager().start(&w);
    let mut client = Client::bulk(&w, dice).set("WORK", dice.spread(5_000, 40_000));
    client.wrap = &wrap;
    let what = format!("{} {}", starving.what, client.say());
    let mut client = client.start(&w);
    let (start, own) = (Instant::now(), connected(&mut client));
    if let Some(quota) = &starving.quota {
        quota.take(client.pid());
    }
    warm(start);
    let facts = ask(&w, dice, own);
    drop((server, client));
    drop(starving.hogs);
    (facts, what)
}

/// Drops so many of a million packets to host b at the router.
fn drop_some(w: &World, per_million: u64) {
    w.nft(
        &w.r,
        &format!(
            "table inet wg {{ chain c {{ type filter hook forward priority 0; oifname \"rb\" numgen random mod 1000000 < {per_million} drop; }} }}\n"
        ),
    );
}

fn lossy(dice: &mut Dice) -> (Facts, String) {
    let w = World::up(dice.chance(50));
    let server = Server::eager().start(&w);
    let mut client = Client::bulk(&w, dice);
    let loss = dice.spread(3_000, 50_000);
    if dice.chance(60) {
        let mbit = dice.spread(15, 200);
        client = client.paced(mbit, dice);
    }
    let what = format!("loss {loss} of a million, {}", client.say());
    let mut client = client.start(&w);
    let (start, own) = (Instant::now(), connected(&mut client));
    drop_some(&w, loss);
    warm(start);
    let facts = ask(&w, dice, own);
    drop(server);
    (facts, what)
}

fn congested(dice: &mut Dice) -> (Facts, String) {
    let w = World::up(dice.chance(50));
    let server = Server::eager().start(&w);
    let mbit = dice.spread(5, 120);
    // a queue of 4 to 80 ms
    let limit = (mbit * 125 * dice.spread(4, 80)).max(8_000);
    let burst = (mbit * 125).max(4_000);
    let own_link = dice.chance(20);
    let (ns, link) = if own_link { (&w.a, "eth0") } else { (&w.r, "rb") };
    let mut client = Client::bulk(&w, dice);
    let others = dice.between(0, 2);
    let what = format!("{mbit} Mbit/s, queue {limit}, own {own_link}, {others} others, {}", client.say());
    if others > 0 {
        client = client.set("COUNT", 1);
    }
    let mut client = client.start(&w);
    let (start, own) = (Instant::now(), connected(&mut client));
    let mut crowd: Vec<Endpoint> = (0..others).map(|_| Client::bulk(&w, dice).start(&w)).collect();
    for other in &mut crowd {
        connected(other);
    }
    w.tc(ns, &format!("qdisc add dev {link} root tbf rate {mbit}mbit burst {burst} limit {limit}"));
    warm(start);
    let remote = SocketAddr::new(w.address_b(), PORT);
    let facts = look(&w, Question::Connection { local: Some(own), remote: Some(remote) }, true);
    drop(server);
    (facts, what)
}

fn mtu(dice: &mut Dice) -> (Facts, String) {
    let v6 = dice.chance(50);
    let w = World::up(v6);
    let mtu = dice.between(if v6 { 1_280 } else { 800 }, 1_430);
    w.nft(
        &w.r,
        "table inet wg { chain o { type filter hook output priority 0; icmp type destination-unreachable drop; \
         icmpv6 type packet-too-big drop; } }\n",
    );
    w.ip(&w.r, &format!("link set rb mtu {mtu}\n"));
    let server = Server::eager().start(&w);
    let mut client = Client::bulk(&w, dice);
    let kind = dice.between(0, 2);
    match kind {
        // small messages pass at first, then a large one
        0 => client = client.set("MESSAGE", dice.between(3_000, 100_000)).set("LIMIT", 200_000),
        1 => client = client.paced(5, dice).set("MESSAGE", dice.between(1_500, 9_000)),
        _ => {}
    }
    let what = format!("mtu {mtu}, {}", client.say());
    let mut client = client.start(&w);
    let (start, own) = (Instant::now(), connected(&mut client));
    warm(start);
    let facts = ask(&w, dice, own);
    drop(server);
    (facts, what)
}

/// The room of the tracking table, which all namespaces share; as it was when dropped.
struct Room(String);

impl Room {
    const KEY: &str = "net/netfilter/nf_conntrack_max";
    fn set(max: u64) -> Room {
        let before = kernel::sysctl::read(Self::KEY).unwrap();
        kernel::sysctl::write(Self::KEY, max).unwrap();
        Room(before)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        kernel::sysctl::write(Self::KEY, &self.0).unwrap();
    }
}

fn conntrack(dice: &mut Dice) -> (Facts, String) {
    let w = World::up(dice.chance(50));
    let at_server = dice.chance(70);
    let (ns, hook) = if at_server { (&w.b, "input") } else { (&w.a, "output") };
    w.nft(ns, &format!("table inet wg {{ chain c {{ type filter hook {hook} priority 0; ct state invalid counter; }} }}\n"));
    let server = Server::eager().start(&w);
    let entries = dice.between(10, 60);
    let mut crowd = Client::bulk(&w, dice).set("COUNT", entries).set("LIMIT", 1).start(&w);
    connected(&mut crowd);
    let count: u64 =
        in_ns(ns, || kernel::sysctl::read("net/netfilter/nf_conntrack_count").unwrap()).parse().unwrap();
    assert!(count >= entries, "{count} entries");
    let room = Room::set(count);
    let client = Client::bulk(&w, dice).set("AGAIN", 1).start(&w);
    let what = format!("at server {at_server}, {count} entries");
    let start = Instant::now();
    warm(start);
    let remote = SocketAddr::new(w.address_b(), PORT);
    let question = if dice.chance(50) {
        Question::Process(client.pid())
    } else {
        Question::Connection { local: None, remote: Some(remote) }
    };
    let facts = ask_new(&w, question, remote);
    drop(room);
    drop(server);
    (facts, what)
}

/// A question about a connection that is not there yet. The peer is asked for the port.
fn ask_new(w: &World, question: Question, remote: SocketAddr) -> Facts {
    let own = SocketAddr::new(w.address_a(), 0);
    let theirs = Question::Connection { local: Some(remote), remote: Some(own) };
    std::thread::scope(|s| {
        let peer = s.spawn(|| in_ns(&w.b, || collect(&Look::new(theirs, "b")).unwrap()));
        let local = in_ns(&w.a, || collect(&Look::new(question.clone(), "a")).unwrap());
        Facts { question, local, peer: Some(peer.join().unwrap()), path: None }
    })
}

fn listen_queue(dice: &mut Dice) -> (Facts, String) {
    let w = World::up(dice.chance(50));
    let backlog = dice.between(1, 6);
    let server = Server::eager().set("ACCEPT", 0).set("BACKLOG", backlog).start(&w);
    let fill = backlog + 1 + dice.between(1, 3);
    let mut crowd: Vec<Endpoint> = Vec::new();
    for _ in 0..fill {
        crowd.push(Client::bulk(&w, dice).paced(1, dice).start(&w));
    }
    // the queue is full when its length says so
    let listening = kernel::sock_diag::Filter { local_port: Some(PORT), ..Default::default() };
    in_ns(&w.b, || {
        let mut diag = kernel::sock_diag::Diag::open().unwrap();
        let full = |diag: &mut kernel::sock_diag::Diag| {
            let all = diag.tcp(&listening).unwrap();
            all.iter().any(|s| s.state == kernel::sock_diag::State::Listen && s.receive_queue > s.send_queue)
        };
        let end = Instant::now() + Duration::from_secs(10);
        while !full(&mut diag) {
            assert!(Instant::now() < end, "the queue never filled");
            std::thread::yield_now();
        }
    });
    let client = Client::bulk(&w, dice).start(&w);
    let start = Instant::now();
    warm(start);
    let remote = SocketAddr::new(w.address_b(), PORT);
    let question = if dice.chance(60) {
        Question::Process(client.pid())
    } else {
        Question::Connection { local: None, remote: Some(remote) }
    };
    let facts = ask_new(&w, question, remote);
    drop(server);
    (facts, format!("backlog {backlog}, {fill} before"))
}

fn flapping(dice: &mut Dice) -> (Facts, String) {
    let w = World::up(dice.chance(50));
    let server = Server::eager().start(&w);
    let mut client = Client::bulk(&w, dice);
    if dice.chance(60) {
        let mbit = dice.spread(2, 100);
        client = client.paced(mbit, dice);
    }
    let near = dice.chance(50);
    let link = if near { "ra" } else { "rb" };
    let (down, up) = (dice.between(60, 500), dice.between(200, 900));
    let what = format!("{link} down {down} ms, up {up} ms, {}", client.say());
    let mut client = client.start(&w);
    let (start, own) = (Instant::now(), connected(&mut client));
    let done = AtomicBool::new(false);
    let facts = std::thread::scope(|s| {
        s.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                w.ip(&w.r, &format!("link set {link} down\n"));
                std::thread::sleep(Duration::from_millis(down));
                w.ip(&w.r, &format!("link set {link} up\n"));
                std::thread::sleep(Duration::from_millis(up));
            }
        });
        warm(start);
        let facts = ask(&w, dice, own);
        done.store(true, Ordering::Relaxed);
        facts
    });
    drop(server);
    (facts, what)
}

fn unreachable(dice: &mut Dice) -> (Facts, String) {
    let w = World::up(dice.chance(50));
    let b = w.address_b();
    let remote = SocketAddr::new(b, PORT);
    let kind = dice.between(0, 4);
    // the management network may still reach the peer's host, or not
    let peer = dice.chance(50);
    let server = Server::eager().start(&w);
    let new = |to: SocketAddr, dice: &mut Dice| {
        let mut client = Client::bulk(&w, dice).set("AGAIN", 1);
        client.to = to;
        let client = client.start(&w);
        warm(Instant::now());
        client
    };
    let question = Question::Connection { local: None, remote: Some(remote) };
    let ask =
        |question: Question| if peer { ask_new(&w, question, remote) } else { look(&w, question, false) };
    let cut =
        || w.nft(&w.r, "table inet wg { chain c { type filter hook forward priority 0; policy drop; } }\n");
    let facts = match kind {
        // swallowed on the way, a new connection
        0 => {
            cut();
            let _client = new(remote, dice);
            ask(question)
        }
        // swallowed on the way, in the middle of a connection
        1 => {
            let mut client = Client::bulk(&w, dice);
            if dice.chance(50) {
                client = client.paced(5, dice);
            }
            let mut client = client.start(&w);
            let own = connected(&mut client);
            cut();
            warm(Instant::now());
            let question = Question::Connection { local: Some(own), remote: Some(remote) };
            look(&w, question, peer)
        }
        // the router says so
        2 => {
            w.ip(&w.r, &format!("route add unreachable {b}\n"));
            let _client = new(remote, dice);
            ask(question)
        }
        // nobody there on the own link
        3 => {
            let nobody: IpAddr = if w.v6 { "fd77:1::99" } else { "10.77.1.99" }.parse().unwrap();
            let to = SocketAddr::new(nobody, PORT);
            let _client = new(to, dice);
            look(&w, Question::Connection { local: None, remote: Some(to) }, false)
        }
        // no route here
        _ => {
            w.ip(
                &w.a,
                if w.v6 {
                    "route del default via fd77:1::254\n"
                } else {
                    "route del default via 10.77.1.254\n"
                },
            );
            let _client = new(remote, dice);
            look(&w, Question::Host(vec![b]), false)
        }
    };
    drop(server);
    (facts, format!("kind {kind}, peer {peer}"))
}

fn nothing_to_send(dice: &mut Dice) -> (Facts, String) {
    let w = World::up(dice.chance(50));
    let server = Server::eager().start(&w);
    let client = Client::bulk(&w, dice)
        .set("MESSAGE", dice.spread(10, 20_000))
        .set("PAUSE", dice.spread(3_000, 500_000));
    let what = client.say();
    let mut client = client.start(&w);
    let (start, own) = (Instant::now(), connected(&mut client));
    warm(start);
    let facts = ask(&w, dice, own);
    drop(server);
    (facts, what)
}

fn healthy_bulk(dice: &mut Dice) -> (Facts, String) {
    let w = World::up(dice.chance(50));
    let server = Server::eager().start(&w);
    // without a limit two processors are the limit, and a program that waits for one of them is no healthy case
    let mbit = dice.spread(20, 300);
    let client = Client::bulk(&w, dice).paced(mbit, dice);
    let what = client.say();
    let mut client = client.start(&w);
    let (start, own) = (Instant::now(), connected(&mut client));
    warm(start);
    let facts = ask(&w, dice, own);
    drop(server);
    (facts, what)
}
