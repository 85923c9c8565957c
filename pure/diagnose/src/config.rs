//! The few numbers a person may set, and what they mean. Everything else is estimated from the data.

use wire::Nanos;

/// Settings of the engine. `Default` is what the product ships with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Verdicts a day that nothing caused, over the whole fabric: sets the evidence asked for. `> 0`, default 1.
    pub false_alarms_per_day: f64,
    /// How often the evidence is weighed, `10 ms ..= 10 s`, default 100 ms.
    pub evaluate_every: Nanos,
    /// Length of the windows the producers report in, default 500 ms. Only used to tell one moment from the next.
    pub window: Nanos,
    /// Longest span of time the engine looks back over, default 600 s.
    pub look_back: Nanos,
    /// A loss rate below this is not reported however sure it is, default 2e-5.
    pub rate_min: f64,
    /// A delay excess below this is not reported, nanoseconds, default 50 µs.
    pub delay_excess_ns_min: u64,
    /// Loss rate of a whole path that is assumed healthy before anything is known, default 1e-5. The background is
    /// estimated and never taken to be below this.
    pub background_floor: f64,
    /// A part of the fabric that has never been seen well is not blamed before it has been watched this long,
    /// default 10 s: agents do not all start at once.
    pub grace: Nanos,
    /// A fault of the same component within this time of its end is the same verdict again, default 600 s.
    pub reopen_within: Nanos,
    /// Most hurt observations kept, default 200,000. The oldest go first.
    pub hurt_max: usize,
    /// Most verdicts kept (open, or closed and still reopenable), default 4,096.
    pub verdicts_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            false_alarms_per_day: 1.0,
            evaluate_every: Nanos::from_millis(100),
            window: Nanos::from_millis(500),
            look_back: Nanos::from_secs(600),
            rate_min: 2e-5,
            delay_excess_ns_min: 50_000,
            background_floor: 1e-5,
            grace: Nanos::from_secs(10),
            reopen_within: Nanos::from_secs(600),
            hurt_max: 200_000,
            verdicts_max: 4_096,
        }
    }
}
