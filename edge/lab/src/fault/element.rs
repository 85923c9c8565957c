//! The fault element on one directed link: what it is to do, as words of its map, and what it counted.
//!
//! It sits at the ingress hook of the receiving interface. The sending interface has its offloads switched off
//! meanwhile, so one packet there is one segment on the wire, and a corrupted one fails its checksum.

use crate::Result;
use kernel::bpf::{Object, Words};
use kernel::netlink::Netlink;
use kernel::{netns, tc};
use serde::{Deserialize, Serialize};

/// The compiled `fault.bpf.c`.
const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fault.bpf.o"));
const CONFIG: &str = "fault_config";
const COUNTERS: &str = "fault_counters";
/// Words of the configuration, in the order of `enum config`.
const CONFIG_WORDS: usize = 12;
/// Words of the counters, in the order of `enum counter`.
const COUNTER_WORDS: usize = 8;

/// What the element does to each packet. All zero: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Program {
    /// Chance to drop, `0 ..= 1`.
    pub drop: f64,
    /// Share of flows dropped, `0 ..= 1`.
    pub flows: f64,
    /// Which flows those are.
    pub flows_seed: u32,
    /// Chance to flip bits, `0 ..= 1`.
    pub corrupt: f64,
    /// Chance to mark congestion, `0 ..= 1`.
    pub ecn: f64,
    /// Length of a flap's period, nanoseconds; 0: none.
    pub flap_period_ns: u64,
    /// Bad nanoseconds at the beginning of each period.
    pub flap_bad_ns: u64,
    /// Chance to drop in these.
    pub flap_rate: f64,
    /// Chance to go through the delay line, `0 ..= 1`.
    pub divert: f64,
    /// Interface of the delay line.
    pub divert_to: u32,
}

/// A chance as the program compares it with a random 32-bit number.
fn threshold(chance: f64) -> u64 {
    (chance.clamp(0.0, 1.0) * 4_294_967_296.0) as u64
}

impl Program {
    /// Whether it does anything.
    pub fn acts(&self) -> bool {
        self.drop > 0.0
            || self.flows > 0.0
            || self.corrupt > 0.0
            || self.ecn > 0.0
            || self.flap_period_ns > 0
            || self.divert > 0.0
    }

    fn words(&self, since_ns: u64, back_to: u32) -> [u64; CONFIG_WORDS] {
        [
            threshold(self.drop),
            threshold(self.flows),
            self.flows_seed.into(),
            threshold(self.corrupt),
            threshold(self.ecn),
            self.flap_period_ns,
            self.flap_bad_ns,
            threshold(self.flap_rate),
            since_ns,
            threshold(self.divert),
            self.divert_to.into(),
            back_to.into(),
        ]
    }
}

/// What an element counted since it was put there. Packets, each one segment on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Came over the link.
    pub seen: u64,
    /// Dropped at random.
    pub dropped: u64,
    /// Dropped for the flow they belong to.
    pub flow_dropped: u64,
    /// Had bits flipped.
    pub corrupted: u64,
    /// Were marked congested.
    pub marked: u64,
    /// Dropped in a bad spell of a flap.
    pub flap_dropped: u64,
    /// Sent through the delay line.
    pub diverted: u64,
    /// Came back from it.
    pub returned: u64,
}

/// Where an element is and how to reach it: kernel numbers of its maps, recorded so that any later process can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Element {
    /// Interface number it sits on.
    pub index: u32,
    /// Number of the configuration map.
    pub config_map: u32,
    /// Number of the counter map.
    pub counter_map: u32,
}

impl Element {
    /// Puts a new element onto an interface of a namespace, doing what `program` says. `relay` is the interface of a
    /// delay line in the same namespace, whose frames come back behind the element.
    pub fn attach(netns: &str, index: u32, program: &Program, relay: Option<u32>) -> Result<Element> {
        let mut object = Object::load(OBJECT)?;
        let (config_map, counter_map) = (object.map_id(CONFIG)?, object.map_id(COUNTERS)?);
        let element = Element { index, config_map, counter_map };
        element.set(program)?;
        let _inside = netns::enter(netns)?;
        let mut socket = Netlink::route()?;
        if let Some(relay) = relay {
            tc::attach_ingress(&mut socket, relay, object.classifier("reinject")?, "selvedge-reinject")?;
        }
        tc::attach_ingress(&mut socket, index, object.classifier("fault")?, "selvedge-fault")?;
        Ok(element)
    }

    /// Changes what it does. A flap begins its first period now, with the bad spell.
    pub fn set(&self, program: &Program) -> Result<()> {
        let words = program.words(kernel::process::monotonic_ns(), self.index);
        Ok(Words::<CONFIG_WORDS>::open(self.config_map)?.set(words)?)
    }

    /// What it counted.
    pub fn counters(&self) -> Result<Counters> {
        let w = Words::<COUNTER_WORDS>::open(self.counter_map)?.get()?;
        let [seen, dropped, flow_dropped, corrupted, marked, flap_dropped, diverted, returned] = w;
        Ok(Counters { seen, dropped, flow_dropped, corrupted, marked, flap_dropped, diverted, returned })
    }

    /// Takes it off. It is not there: nothing to do.
    pub fn detach(&self, netns: &str) -> Result<()> {
        let _inside = netns::enter(netns)?;
        Ok(tc::detach_ingress(&mut Netlink::route()?, self.index)?)
    }
}
