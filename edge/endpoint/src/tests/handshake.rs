//! The handshake over a link that loses, repeats, reorders and corrupts, by seed; and everything that must fail.

use super::certificates::Authority;
use crate::door::{Door, Event, Outcome, Refused};
use crate::error::{HandshakeError, IdentityError};
use crate::handshake::{Dropped, Established, Handshake, Timing};
use crate::{COOKIE_BYTES, COOKIE_LIFE, Identity, Ring, preferred};
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::AlertDescription;
use std::net::{Ipv6Addr, SocketAddrV6};
use wire::Nanos;
use wire::transport::hello::{DATAGRAM_MAX, Hello, Parameters, Retry};
use wire::transport::packet::Kind;
use wire::transport::protection::{Cipher, Protection};
use wire::transport::{ConnectionId, Credit, Packet};

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): enough to decide what a link does.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.next().is_multiple_of(n)
    }
}

/// What a link does, each one in so many; 0 is never.
#[derive(Clone, Copy, Default)]
struct Weather {
    loss: u64,
    twice: u64,
    late: u64,
    flip: u64,
}

const CLIENT: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1000, 0, 0);

fn parameters(id: u32, ciphers: Vec<Cipher>) -> Parameters {
    Parameters {
        connection: ConnectionId(id),
        datagram_bytes_max: 1_448,
        evs: 64,
        ciphers,
        addresses: vec![],
    }
}

fn door(identity: Identity) -> Door {
    Door::new(identity, Timing::default(), 4, [9; 32])
}

fn begin(identity: &Identity, peer: &str) -> Handshake {
    Handshake::initiate(Nanos(0), identity, peer, parameters(1, preferred(false)), 77, Timing::default())
        .unwrap()
}

/// A world of one initiator and one door, and the time in it.
struct World {
    now: Nanos,
    rng: Rng,
    weather: Weather,
    client: Handshake,
    door: Door,
    ciphers: Vec<Cipher>,
    /// When, to the door, what.
    link: Vec<(Nanos, bool, Vec<u8>)>,
    events: Vec<Event>,
    /// Datagrams sent: `[by the client, by the door]`.
    sent: [u32; 2],
    /// What the client sent.
    seen: Vec<Vec<u8>>,
}

impl World {
    fn new(client: Handshake, door: Door, seed: u64, weather: Weather) -> Self {
        Self {
            now: Nanos(0),
            rng: Rng(seed),
            weather,
            client,
            door,
            ciphers: preferred(false),
            link: vec![],
            events: vec![],
            sent: [0; 2],
            seen: vec![],
        }
    }

    fn carry(&mut self, to_door: bool, datagram: Vec<u8>) {
        assert!(datagram.len() <= DATAGRAM_MAX);
        self.sent[usize::from(!to_door)] += 1;
        let Weather { loss, twice, late, flip } = self.weather;
        let copies = if self.rng.one_in(loss) { 0 } else { 1 + u32::from(self.rng.one_in(twice)) };
        for _ in 0..copies {
            let mut datagram = datagram.clone();
            if self.rng.one_in(flip) {
                let at = self.rng.next() as usize % datagram.len();
                datagram[at] ^= 1 << (self.rng.next() % 8);
            }
            let way = 100_000 + if self.rng.one_in(late) { self.rng.next() % 60_000_000 } else { 0 };
            self.link.push((self.now + Nanos(way), to_door, datagram));
        }
    }

    fn pump(&mut self) {
        let mut out = Vec::new();
        while self.client.poll_output(&mut out) {
            self.seen.push(out.clone());
            self.carry(true, std::mem::take(&mut out));
        }
        while let Some(to) = self.door.poll_output(&mut out) {
            assert_eq!(to, CLIENT);
            self.carry(false, std::mem::take(&mut out));
        }
        self.events.extend(std::iter::from_fn(|| self.door.poll_event()));
    }

    /// One event of the world. False where nothing is left to happen.
    fn step(&mut self) -> bool {
        self.pump();
        let first = self.link.iter().enumerate().min_by_key(|(_, d)| d.0).map(|(i, d)| (d.0, i));
        let timers = [self.client.next_timeout(), self.door.next_timeout()];
        let Some(next) = timers.into_iter().flatten().chain(first.map(|f| f.0)).min() else { return false };
        self.now = self.now.max(next);
        if let Some((at, i)) = first
            && at <= self.now
        {
            let (_, to_door, datagram) = self.link.swap_remove(i);
            if to_door {
                let ciphers = self.ciphers.clone();
                self.door.handle_input(self.now, CLIENT, &datagram, || Some(parameters(2, ciphers)));
            } else {
                let _ = self.client.handle_input(self.now, &datagram);
            }
        } else {
            self.client.handle_timeout(self.now);
            self.door.handle_timeout(self.now);
        }
        true
    }

    fn over(&self) -> bool {
        (self.client.is_done() || self.client.failure().is_some()) && !self.events.is_empty()
    }

    fn run(&mut self) {
        while !self.over() && self.step() {}
    }

    fn both(&mut self) -> (Established, Established) {
        self.run();
        let ours = self.client.take().unwrap_or_else(|| panic!("{:?} {:?}", self.client, self.events));
        let Some(Event::Established { from: CLIENT, established }) = self.events.pop() else {
            panic!("{:?}", self.events)
        };
        (ours, *established)
    }
}

/// Both ends have the same secret, and use it.
fn agree(client: &Established, server: &Established) {
    assert_eq!((client.pair, client.cipher), (server.pair, server.cipher));
    assert_eq!((&client.ours, &client.theirs), (&server.theirs, &server.ours));
    let [mut a, mut b] = [client, server].map(|e| {
        let (ours, theirs) = (e.ours.connection, e.theirs.connection);
        let (first, second) = if e.initiator { (ours, theirs) } else { (theirs, ours) };
        Protection::of_connection(Ring, e.cipher, &e.pair, first, second, e.initiator)
    });
    let packet = Packet::Credit(Credit { connection: ConnectionId(2), granted: 1 });
    let mut out = Vec::new();
    a.seal(Nanos(0), &packet, &[], &mut out).unwrap();
    assert_eq!(b.open(Nanos(0), &mut out).unwrap().packet, packet);
}

#[test]
fn two_hosts_agree_in_a_few_datagrams() {
    let authority = Authority::new();
    let client = begin(&authority.host("host1"), "host2");
    let mut world = World::new(client, door(authority.host("host2")), 0, Weather::default());
    let (c, s) = world.both();
    agree(&c, &s);
    assert_eq!((c.peer.as_str(), s.peer.as_str()), ("host2", "host1"));
    assert_eq!((c.ours.connection, c.theirs.connection), (ConnectionId(1), ConnectionId(2)));
    assert_eq!(world.now, Nanos(600_000), "three round trips: cookie, hello, certificate");
    assert!(world.sent[0] <= 5 && world.sent[1] <= 5, "{:?}", world.sent);
    // the first answer was a cookie, and nothing was kept for it
    assert_eq!((world.door.counters().challenged, world.door.counters().opened), (1, 1));
    // a responder that is done lets go after a while
    let end = world.now + Timing::default().give_up;
    world.door.handle_timeout(end);
    assert_eq!(world.door.handshakes(), 0);
}

#[test]
fn any_weather_ends_in_agreement() {
    let authority = Authority::new();
    let (one, two) = (authority.host("host1"), authority.host("host2"));
    let weathers = [
        Weather { loss: 3, ..Weather::default() },
        Weather { twice: 2, late: 2, ..Weather::default() },
        Weather { loss: 4, twice: 4, late: 3, flip: 0 },
        Weather { loss: 5, twice: 5, late: 4, flip: 12 },
    ];
    let (mut agreed, mut failed) = (0, 0);
    for seed in 0..400 {
        let weather = weathers[seed as usize % weathers.len()];
        let mut world = World::new(begin(&one, "host2"), door(two.clone()), seed, weather);
        world.run();
        let client = world.client.take();
        let server = world.events.iter().find_map(|e| match e {
            Event::Established { established, .. } => Some(established),
            Event::Failed { .. } => None,
        });
        match (client, server) {
            (Some(client), Some(server)) => {
                agree(&client, server);
                agreed += 1;
            }
            // a bit flipped in a message in the clear ends TLS; a new handshake mends that
            _ if weather.flip > 0 => failed += 1,
            other => panic!("seed {seed}: {other:?} {:?} {:?}", world.client, world.events),
        }
        let c = world.door.counters();
        assert_eq!(c.datagrams, c.taken + c.challenged + c.dropped);
    }
    assert!(agreed >= 340 && failed <= 60, "{agreed} {failed}");
}

#[test]
fn wrong_certificates_are_refused_and_the_other_end_is_told() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let refuse = |client: Handshake, host: Identity| {
        let mut world = World::new(client, door(host), 1, Weather::default());
        world.run();
        (world.client.failure(), world.events.pop())
    };
    // somebody else's host asks
    let (client, server) = refuse(begin(&authority.host("host1"), "host2"), stranger.host("host2"));
    assert!(matches!(client, Some(HandshakeError::Tls(rustls::Error::InvalidCertificate(_)))), "{client:?}");
    let told = HandshakeError::Refused { alert: AlertDescription::DecryptError };
    assert_eq!(server, Some(Event::Failed { from: CLIENT, connection: ConnectionId(2), error: told }));
    // the right authority, another host
    let (client, server) = refuse(begin(&authority.host("host1"), "host3"), authority.host("host2"));
    assert!(matches!(client, Some(HandshakeError::Tls(rustls::Error::InvalidCertificate(_)))), "{client:?}");
    assert!(
        matches!(server, Some(Event::Failed { error: HandshakeError::Refused { .. }, .. })),
        "{server:?}"
    );
    // a certificate that is good for servers only is no host's
    let hub =
        authority.host_with("hub", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let (client, _) = refuse(begin(&authority.host("host1"), "hub"), hub.clone());
    assert!(matches!(client, Some(HandshakeError::Tls(_))), "{client:?}");
    let (client, server) = refuse(begin(&hub, "host2"), authority.host("host2"));
    assert!(matches!(server, Some(Event::Failed { error: HandshakeError::Tls(_), .. })), "{server:?}");
    assert!(matches!(client, Some(HandshakeError::Refused { .. }) | None), "{client:?}");
    // one that is out of date
    let old = authority.host_with("host1", |p| {
        p.not_before = rcgen::date_time_ymd(2001, 1, 1);
        p.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let (_, server) = refuse(begin(&old, "host2"), authority.host("host2"));
    assert!(matches!(server, Some(Event::Failed { error: HandshakeError::Tls(_), .. })), "{server:?}");
    // what is no name, and what are no certificates
    let bad = Handshake::initiate(
        Nanos(0),
        &authority.host("host1"),
        "no name",
        parameters(1, preferred(false)),
        1,
        Timing::default(),
    );
    assert_eq!(bad.unwrap_err(), HandshakeError::Name { name: "no name".to_owned() });
    assert_eq!(Identity::from_pem("", "", "").unwrap_err(), IdentityError::Pem { what: "authority" });
}

#[test]
fn no_common_cipher_ends_it_and_trust_takes_two() {
    let authority = Authority::new();
    let (one, two) = (authority.host("host1"), authority.host("host2"));
    let with = |ciphers: [Vec<Cipher>; 2]| {
        let [ours, theirs] = ciphers;
        let client =
            Handshake::initiate(Nanos(0), &one, "host2", parameters(1, ours), 5, Timing::default()).unwrap();
        let mut world = World::new(client, door(two.clone()), 1, Weather::default());
        world.ciphers = theirs;
        world
    };
    let mut world = with([vec![Cipher::Aes128Gcm], vec![Cipher::ChaCha20Poly1305]]);
    world.run();
    assert_eq!(world.client.failure(), Some(HandshakeError::NoCipher));
    assert!(matches!(world.events.pop(), Some(Event::Failed { .. })));
    for (ciphers, want) in [
        ([preferred(true), preferred(true)], Cipher::Trusted),
        ([preferred(true), preferred(false)], preferred(false)[0]),
        ([preferred(false), preferred(true)], preferred(false)[0]),
    ] {
        let (c, s) = with(ciphers).both();
        agree(&c, &s);
        assert_eq!(c.cipher, want);
    }
}

#[test]
fn a_cookie_that_expired_or_is_another_address_s_opens_nothing() {
    let authority = Authority::new();
    let mut world = World::new(
        begin(&authority.host("host1"), "host2"),
        door(authority.host("host2")),
        0,
        Weather::default(),
    );
    while world.seen.len() < 2 && world.step() {}
    let hello = world.seen.last().unwrap().clone();
    assert_eq!(Hello::read(&hello).unwrap().0.cookie.len(), COOKIE_BYTES);
    let mut fresh = door(authority.host("host2"));
    let mut show = |now: Nanos, from: SocketAddrV6| {
        let outcome = fresh.handle_input(now, from, &hello, || Some(parameters(2, preferred(false))));
        let mut out = Vec::new();
        let to = fresh.poll_output(&mut out);
        (outcome, to, Kind::of(&out).ok(), fresh.handshakes())
    };
    let challenged = |to| (Outcome::Challenged, Some(to), Some(Kind::Retry), 0);
    let other = SocketAddrV6::new("2001:db8::1".parse().unwrap(), 1000, 0, 0);
    let port = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1001, 0, 0);
    let late = world.now + COOKIE_LIFE + Nanos::from_millis(1);
    assert_eq!(show(world.now, other), challenged(other));
    assert_eq!(show(world.now, port), challenged(port));
    assert_eq!(show(late, CLIENT), challenged(CLIENT));
    let (outcome, to, kind, handshakes) = show(world.now, CLIENT);
    assert_eq!((outcome, to, kind, handshakes), (Outcome::Taken, Some(CLIENT), Some(Kind::Hello), 1));
}

#[test]
fn a_cookie_that_expired_on_the_way_is_asked_for_again() {
    let authority = Authority::new();
    let client = begin(&authority.host("host1"), "host2");
    let mut world = World::new(client, door(authority.host("host2")), 0, Weather::default());
    world.pump();
    let first = world.link.pop().unwrap().2;
    world.door.handle_input(Nanos(0), CLIENT, &first, || Some(parameters(2, preferred(false))));
    // the answer takes longer than a cookie lives
    let mut retry = Vec::new();
    world.door.poll_output(&mut retry).unwrap();
    world.client = Handshake::initiate(
        COOKIE_LIFE,
        &authority.host("host1"),
        "host2",
        parameters(1, preferred(false)),
        77,
        Timing::default(),
    )
    .unwrap();
    world.now = COOKIE_LIFE + Nanos::from_millis(2);
    world.client.handle_input(world.now, &retry).unwrap();
    let (c, s) = world.both();
    agree(&c, &s);
    assert_eq!(world.door.counters().challenged, 2);
}

#[test]
fn garbage_is_dropped_with_a_reason_and_costs_nothing() {
    let authority = Authority::new();
    let mut world = World::new(
        begin(&authority.host("host1"), "host2"),
        door(authority.host("host2")),
        0,
        Weather::default(),
    );
    let mut rng = Rng(1);
    for i in 0..20_000u32 {
        let len = rng.next() as usize % 200;
        let mut datagram: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
        if let Some(first) = datagram.first_mut() {
            *first = [Kind::Hello, Kind::Retry, Kind::Data][i as usize % 3].first_byte();
        }
        let from = SocketAddrV6::new(Ipv6Addr::LOCALHOST, (i % 50_000) as u16, 0, 0);
        let outcome =
            world.door.handle_input(Nanos(0), from, &datagram, || unreachable!("no cookie was shown"));
        assert_ne!(outcome, Outcome::Taken);
        let mut out = Vec::new();
        while let Some(to) = world.door.poll_output(&mut out) {
            assert_eq!(to, from);
            assert!(out.len() <= 3 * datagram.len(), "amplification");
        }
        assert!(world.client.handle_input(Nanos(0), &datagram).is_err());
    }
    assert_eq!(world.door.handshakes(), 0);
    let c = *world.door.counters();
    assert_eq!(c.datagrams, c.taken + c.challenged + c.dropped);
    world.door = door(authority.host("host2"));
    let (c, s) = world.both();
    agree(&c, &s);
}

#[test]
fn what_is_forged_in_the_middle_changes_nothing() {
    let authority = Authority::new();
    let mut world = World::new(
        begin(&authority.host("host1"), "host2"),
        door(authority.host("host2")),
        0,
        Weather::default(),
    );
    // until the client has keys
    while world.seen.len() < 3 && world.step() {}
    let sealed = world.seen.iter().find(|d| d[1] & 2 != 0).unwrap().clone();
    for at in [1, 5, 12, 15, 20, sealed.len() - 1] {
        let mut bad = sealed.clone();
        bad[at] ^= 4;
        let outcome =
            world.door.handle_input(world.now, CLIENT, &bad, || Some(parameters(2, preferred(false))));
        assert!(matches!(outcome, Outcome::Dropped(_) | Outcome::Challenged), "{at} {outcome:?}");
    }
    // a refusal in the clear is a hint and no more
    let hello = Hello {
        answer: true,
        level: wire::transport::hello::Level::Plain,
        refusal: true,
        id: 77,
        number: 0,
        arrived: [0; 2],
        offset: 0,
        cookie: &[],
    };
    let mut out = Vec::new();
    hello.write(&mut out);
    out.push(40);
    assert_eq!(world.client.handle_input(world.now, &out), Ok(()));
    out[2] ^= 1;
    assert_eq!(world.client.handle_input(world.now, &out), Err(Dropped::NotOurs));
    let (c, s) = world.both();
    agree(&c, &s);
}

#[test]
fn a_flight_longer_than_a_stream_is_an_error_and_a_long_one_is_not() {
    let authority = Authority::new();
    let wide = |names: usize| {
        authority.host_with("host2", |p| {
            for i in 0..names {
                let name = format!("{i:03}{}", "x".repeat(50));
                p.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
            }
        })
    };
    let meet = |names: usize| {
        let client = begin(&authority.host("host1"), "host2");
        let mut world = World::new(client, door(wide(names)), 3, Weather { loss: 6, ..Weather::default() });
        world.run();
        (world.client.take().is_some(), world.events.pop(), world.sent[1])
    };
    let (done, event, datagrams) = meet(200);
    assert!(
        done && matches!(event, Some(Event::Established { .. })) && datagrams > 10,
        "{event:?} {datagrams}"
    );
    let (done, event, _) = meet(400);
    assert!(!done);
    assert!(
        matches!(event, Some(Event::Failed { error: HandshakeError::Oversize { bytes: 16_385.. }, .. })),
        "{event:?}"
    );
}

#[test]
fn handshakes_are_bounded_and_end_by_themselves() {
    let authority = Authority::new();
    let (one, mut door) = (authority.host("host1"), door(authority.host("host2")));
    let mut opened = 0;
    for i in 0..10u64 {
        let from = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 2000 + i as u16, 0, 0);
        let ours = parameters(i as u32, preferred(false));
        let mut client = Handshake::initiate(Nanos(0), &one, "host2", ours, i, Timing::default()).unwrap();
        let mut out = Vec::new();
        for _ in 0..2 {
            out.clear();
            assert!(client.poll_output(&mut out));
            let outcome = door.handle_input(Nanos(0), from, &out, || Some(parameters(2, preferred(false))));
            out.clear();
            match outcome {
                Outcome::Challenged => {
                    assert_eq!(door.poll_output(&mut out), Some(from));
                    assert!(Retry::read(&out).is_ok());
                    client.handle_input(Nanos(0), &out).unwrap();
                }
                Outcome::Taken => {
                    opened += 1;
                    while door.poll_output(&mut out).is_some() {}
                }
                other => assert_eq!((other, opened), (Outcome::Dropped(Refused::Full), 4)),
            }
        }
    }
    assert_eq!((door.handshakes(), door.counters().dropped_full), (4, 6));
    let mut now = Nanos(0);
    let mut sent = 0;
    while let Some(at) = door.next_timeout() {
        now = at;
        door.handle_timeout(now);
        let mut out = Vec::new();
        while door.poll_output(&mut out).is_some() {
            sent += 1;
        }
    }
    assert_eq!((door.handshakes(), now), (0, Timing::default().give_up));
    assert_eq!(std::iter::from_fn(|| door.poll_event()).count(), 4, "each is told");
    assert!(sent < 4 * 2 * 20, "{sent} datagrams for nobody");
}

#[test]
fn handshakes_that_are_over_make_room() {
    let authority = Authority::new();
    let (one, two) = (authority.host("host1"), authority.host("host2"));
    let mut kept = door(two);
    for id in 0..20 {
        let ours = parameters(1, preferred(false));
        let client = Handshake::initiate(Nanos(0), &one, "host2", ours, id, Timing::default()).unwrap();
        let mut world = World::new(client, kept, id, Weather::default());
        let (c, s) = world.both();
        agree(&c, &s);
        kept = world.door;
        assert!(kept.handshakes() <= 4);
    }
    assert_eq!(kept.counters().established, 20);
}

#[test]
fn silence_ends_in_a_time_out() {
    let authority = Authority::new();
    let mut client = begin(&authority.host("host1"), "host2");
    let (mut now, mut sent) = (Nanos(0), 0);
    while client.failure().is_none() {
        let mut out = Vec::new();
        while client.poll_output(&mut out) {
            sent += 1;
        }
        now = client.next_timeout().unwrap();
        client.handle_timeout(now);
    }
    assert_eq!(client.failure(), Some(HandshakeError::TimedOut { hint: None }));
    assert_eq!(now, Timing::default().give_up);
    assert!((10..20).contains(&sent), "{sent}");
}
