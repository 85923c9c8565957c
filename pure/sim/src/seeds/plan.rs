//! What a seed draws: parameters, messages, and everything that goes wrong.
//!
//! How: each kind of trouble is absent from half of the seeds, so that most combinations are met. Messages are short and
//! few: what is looked for hides in edges, not in length.
//!
//! Invariants: the same seed gives the same plan; whatever is drawn, all messages can be delivered: EVs that all die come
//! back, and an EV that never does leaves others.
//! Absent on purpose: anything that depends on how the exchange goes.

use crate::rng::Rng;
use alloc::vec::Vec;
use transport::{Balancing, Config, Control};
use wire::Nanos;

/// EVs below a number swallow everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// EVs `0 .. evs`.
    pub evs: u16,
    /// From when.
    pub from: Nanos,
    /// Until when; [`Nanos::MAX`] where they stay dead.
    pub until: Nanos,
    /// What end 0 sends, and what end 1 sends.
    pub ways: [bool; 2],
}

/// What happens to datagrams on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    /// Share that is lost.
    pub loss: f64,
    /// Share that arrives twice.
    pub duplicate: f64,
    /// Share of chunks that is cut to the header.
    pub trim: f64,
    /// Share that is marked.
    pub mark: f64,
    /// Share that is damaged, and chance that a stranger adds one.
    pub damage: f64,
    /// Share that falls behind others of its own EV.
    pub disorder: f64,
    /// Shortest way.
    pub delay: Nanos,
    /// What may come on top, drawn for each packet.
    pub spread: Nanos,
    /// What dies, and when.
    pub deaths: Vec<Death>,
}

/// A message an application has to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// When it is there, after its connection began.
    pub at: Nanos,
    /// How long it is, bytes.
    pub bytes: u64,
    /// A one-sided write, or a tagged message.
    pub write: bool,
}

/// An end forgets everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Which.
    pub end: usize,
    /// When, after the connection began.
    pub at: Nanos,
    /// For how long nobody is there.
    pub away: Nanos,
    /// The connection that follows has the same ids, and other keys.
    pub same_ids: bool,
}

/// A connection from its beginning to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// What each end sends.
    pub orders: [Vec<Order>; 2],
    /// How it ends early.
    pub restart: Option<Restart>,
    /// When end 0 changes its keys, if it does.
    pub update_at: Option<Nanos>,
    /// When an end takes no new message: which, from when, until when.
    pub unready: Option<(usize, Nanos, Nanos)>,
    /// When an end forbids EV 0 to itself, and allows it again.
    pub denied: Option<(usize, Nanos, Nanos)>,
}

/// An exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Parameters of both ends.
    pub config: Config,
    /// Most packets in a row on one EV.
    pub burst: usize,
    /// The network.
    pub trouble: Trouble,
    /// One connection after the other.
    pub lives: Vec<Life>,
    /// Who says the end when all is done, if anybody.
    pub closes: Option<usize>,
    /// When to give up waiting.
    pub end: Nanos,
}

/// Nothing in half of the cases, otherwise evenly below `most`.
fn share(rng: &mut Rng, most: f64) -> f64 {
    if rng.chance(0.5) { 0.0 } else { most * rng.unit() }
}

fn one_of<T: Copy>(rng: &mut Rng, list: &[T], default: T) -> T {
    list.get(rng.below(list.len() as u64) as usize).copied().unwrap_or(default)
}

fn orders(rng: &mut Rng, config: &Config, span: Nanos) -> Vec<Order> {
    let chunk = u64::from(config.chunk_bytes);
    let late = rng.chance(0.3);
    (0..rng.below(5))
        .map(|_| {
            let bytes = match rng.below(6) {
                0 => 1,
                1 => chunk,
                2 => chunk + 1,
                3 => 1 + rng.below(chunk * 40),
                _ => 1 + rng.below(chunk * 6),
            };
            let at = if late { Nanos(rng.below(span.0)) } else { Nanos::ZERO };
            Order { at, bytes, write: rng.chance(0.4) }
        })
        .collect()
}

fn death(rng: &mut Rng, evs: u16, span: Nanos) -> Death {
    let from = Nanos(rng.below(span.0));
    let ways = one_of(rng, &[[true, true], [true, false], [false, true]], [true; 2]);
    let all = evs == 1 || rng.chance(0.3);
    if all || rng.chance(0.5) {
        let dead = if all { evs } else { 1 + rng.below(u64::from(evs)) as u16 };
        return Death { evs: dead, from, until: from + Nanos(rng.below(span.0 * 3)), ways };
    }
    Death { evs: 1 + rng.below(u64::from(evs) - 1) as u16, from, until: Nanos::MAX, ways }
}

impl Plan {
    /// What a seed says.
    pub fn draw(seed: u64) -> Plan {
        let rng = &mut Rng::new(seed, 1);
        let rtt_base = one_of(rng, &[Nanos(14_023), Nanos(200_000)], Nanos(14_023));
        let chunk_bytes = one_of(rng, &[40, 160, 500, 1400], 160);
        let balancing = [Balancing::Oblivious, Balancing::Bitmap, Balancing::Reps, Balancing::Mixed];
        let config = Config {
            rate_bps: one_of(rng, &[1_000_000_000, 25_000_000_000, 100_000_000_000], 25_000_000_000),
            rtt_base,
            chunk_bytes,
            control: one_of(rng, &[Control::Sender, Control::Receiver, Control::Both], Control::Both),
            balancing: one_of(rng, &balancing, Balancing::Mixed),
            evs: one_of(rng, &[1, 2, 3, 7, 16, 64], 16),
            window_initial_bytes: one_of(rng, &[None, None, Some(1), Some(3_000)], None),
            ack_every_bytes: one_of(rng, &[1, 1_000, 16_384], 16_384),
            queue_target: Nanos(rtt_base.0 / 2),
            blind_short_bytes: one_of(rng, &[0, 2_000, 41_500], 41_500),
            packets_max: one_of(rng, &[1, 4, 32, 64, 100, 4096], 64),
            messages_max: one_of(rng, &[1, 2, 16], 16),
            message_bytes_max: u64::from(chunk_bytes) * 40,
            ..Config::default()
        };
        let span = Nanos(rtt_base.0 * 6);
        let mut deaths = Vec::new();
        while deaths.len() < 2 && rng.chance(0.4) {
            deaths.push(death(rng, config.evs, span));
        }
        // two at once must leave a way: one that never ends may not meet another
        if deaths.iter().any(|d| d.until == Nanos::MAX) {
            deaths.truncate(1);
        }
        // where hardly a way is left, finding it takes its time
        let hardly = |d: &Death| d.until == Nanos::MAX && (config.evs - d.evs) * 8 <= config.evs;
        let give_up_rtts = if deaths.iter().any(hardly) { 1 << 16 } else { config.give_up_rtts };
        let config = Config { give_up_rtts, ..config };
        let trim = if rng.chance(0.3) { 0.3 * rng.unit() } else { 0.0 };
        let trouble = Trouble {
            loss: share(rng, 0.25),
            duplicate: share(rng, 0.2),
            trim,
            mark: share(rng, 0.6),
            damage: share(rng, 0.1),
            disorder: share(rng, 0.1),
            delay: Nanos(rtt_base.0 * 3 / 7),
            spread: Nanos(1 + rng.below(rtt_base.0 * 2)),
            deaths,
        };
        let mut lives = Vec::new();
        loop {
            let restart = (lives.len() < 2 && rng.chance(0.35)).then(|| Restart {
                end: rng.below(2) as usize,
                at: Nanos(1 + rng.below(span.0)),
                away: Nanos(rng.below(rtt_base.0 * 4)),
                // a trimmed header cannot be authenticated: that of an old connection would be believed
                same_ids: trim == 0.0 && rng.chance(0.3),
            });
            let mut spell = |chance: f64| {
                rng.chance(chance).then(|| {
                    let from = Nanos(rng.below(span.0));
                    (rng.below(2) as usize, from, from + Nanos(rng.below(span.0)))
                })
            };
            let (unready, denied) = (spell(0.1), spell(0.2).filter(|_| config.evs > 1));
            let update_at = rng.chance(0.3).then(|| Nanos(rng.below(span.0)));
            let orders = [orders(rng, &config, span), orders(rng, &config, span)];
            lives.push(Life { orders, restart, update_at, unready, denied });
            if restart.is_none() {
                break;
            }
        }
        let closes = rng.chance(0.5).then(|| rng.below(2) as usize);
        let burst = 1 + rng.below(16) as usize;
        Plan { config, burst, trouble, lives, closes, end: Nanos(rtt_base.0 * 2_000_000) }
    }
}
