//! What every receiver says, whatever it hears: plain rows, their kinds, and why some are dropped.
//!
//! How: a receiver fills in what it was told; [`crate::Intake`] adds the component of the fabric, where the name is one
//! the mapping knows, and passes the row on.
//! Invariants: every text is bounded by `limit` before it is here; times are Unix nanoseconds.
//! Absent on purpose: tables, columns and SQL, which are the hub's.

use wire::{Component, ComponentObservation, Nanos};

/// How long things may be. What is longer is cut at a character.
pub(crate) mod limit {
    /// Bytes of a name: device, interface, metric, key of a label.
    pub const NAME: usize = 200;
    /// Bytes of a label's value.
    pub const VALUE: usize = 256;
    /// Bytes of a log record's text.
    pub const TEXT: usize = 1_024;
    /// Labels of one row, and bytes of them together; more are left out.
    pub const LABELS: usize = 24;
    /// See [`LABELS`].
    pub const LABELS_BYTES: usize = 2_048;
}

/// A text of at most so many bytes, cut at a character; control characters become spaces.
pub(crate) fn bounded(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or("").chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Which receiver heard it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Receiver {
    /// A gNMI subscription.
    Gnmi = 0,
    /// OpenTelemetry.
    Otlp = 1,
    /// A scraped exporter.
    Scrape = 2,
    /// Syslog.
    Syslog = 3,
}

impl Receiver {
    /// All of them, by number.
    pub const ALL: [Receiver; 4] = [Receiver::Gnmi, Receiver::Otlp, Receiver::Scrape, Receiver::Syslog];
    /// Its word in tables and counters.
    pub const fn name(self) -> &'static str {
        match self {
            Receiver::Gnmi => "gnmi",
            Receiver::Otlp => "otlp",
            Receiver::Scrape => "scrape",
            Receiver::Syslog => "syslog",
        }
    }
}

/// Why something was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Dropped {
    /// The hub did not take rows fast enough.
    HubSlow = 0,
    /// Bytes that are no message of the protocol.
    Malformed = 1,
    /// A message, body or line above its limit.
    TooLarge = 2,
    /// More at a time than the limit: connections, requests, series of one target.
    TooMany = 3,
    /// A value that is no number, or no finite one.
    NoNumber = 4,
    /// A kind of value or instrument nobody here keeps.
    Unsupported = 5,
    /// Not on the list of what is wanted.
    NotWanted = 6,
    /// A log message of a severity that is not kept.
    Severity = 7,
    /// More messages of one device than its rate.
    Rate = 8,
    /// Datagrams the kernel had no room for before they could be read.
    SocketBuffer = 9,
}

impl Dropped {
    /// All of them, by number.
    pub const ALL: [Dropped; 10] = [
        Dropped::HubSlow,
        Dropped::Malformed,
        Dropped::TooLarge,
        Dropped::TooMany,
        Dropped::NoNumber,
        Dropped::Unsupported,
        Dropped::NotWanted,
        Dropped::Severity,
        Dropped::Rate,
        Dropped::SocketBuffer,
    ];
    /// Its word in tables and counters.
    pub const fn name(self) -> &'static str {
        match self {
            Dropped::HubSlow => "hub_slow",
            Dropped::Malformed => "malformed",
            Dropped::TooLarge => "too_large",
            Dropped::TooMany => "too_many",
            Dropped::NoNumber => "no_number",
            Dropped::Unsupported => "unsupported",
            Dropped::NotWanted => "not_wanted",
            Dropped::Severity => "severity",
            Dropped::Rate => "rate",
            Dropped::SocketBuffer => "socket_buffer",
        }
    }
    /// Whether it was left out because the settings say so, and is no loss.
    pub const fn is_chosen(self) -> bool {
        matches!(self, Dropped::NotWanted | Dropped::Severity)
    }
}

/// What a number is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EntityKind {
    /// A port.
    Interface = 0,
    /// A queue of a port, `Ethernet8/queue3`.
    Queue = 1,
    /// A transceiver.
    Optic = 2,
    /// The device as a whole.
    Host = 3,
    /// A program.
    Process = 4,
    /// Anything else.
    Other = 5,
}

impl EntityKind {
    /// Its word in tables.
    pub const fn name(self) -> &'static str {
        match self {
            EntityKind::Interface => "interface",
            EntityKind::Queue => "queue",
            EntityKind::Optic => "optic",
            EntityKind::Host => "host",
            EntityKind::Process => "process",
            EntityKind::Other => "other",
        }
    }
}

/// A number somebody told.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// When it was measured, by the device's clock where that can be believed, else when it was heard; the end of the
    /// window where there is one.
    pub at: Nanos,
    /// The length of time a difference covers; `None` for a running total or a state.
    pub window: Option<Nanos>,
    /// Who heard it.
    pub source: Receiver,
    /// The device, as told.
    pub device: String,
    /// What it is of.
    pub entity_kind: EntityKind,
    /// Of what, as told: `Ethernet8`, `Ethernet8/queue3`; empty for the device as a whole.
    pub entity: String,
    /// A name of [`crate::vocabulary`] where the path is known, else as told.
    pub name: String,
    /// The number; finite.
    pub value: f64,
    /// A total that only grows, until a restart.
    pub cumulative: bool,
    /// What else was told of it.
    pub labels: Vec<(String, String)>,
    /// What it is in the fabric, where the mapping knows.
    pub component: Option<Component>,
}

/// A port that went up or down, as a message told.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkEvent {
    /// When, by the device's clock where it can be believed.
    pub at: Nanos,
    /// Who heard it.
    pub source: Receiver,
    /// The device, as told.
    pub device: String,
    /// The port, as told.
    pub interface: String,
    /// Whether it is up now.
    pub up: bool,
    /// The message.
    pub text: String,
    /// The link into the device there.
    pub component: Option<Component>,
}

/// A log record worth keeping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRow {
    /// When, by the sender's clock where it can be believed.
    pub at: Nanos,
    /// Who heard it.
    pub source: Receiver,
    /// The device or service, as told.
    pub device: String,
    /// Severity by RFC 5424: 0 emergency to 7 debug; its word is [`severity_name`].
    pub severity: u8,
    /// The message.
    pub text: String,
    /// The trace it belongs to, where told.
    pub trace: Option<[u8; 16]>,
    /// The span it belongs to, where told.
    pub span: Option<[u8; 8]>,
    /// What else was told; the program under `app`.
    pub labels: Vec<(String, String)>,
}

/// The word of a severity in tables (RFC 5424, section 6.2.1).
pub const fn severity_name(severity: u8) -> &'static str {
    match severity {
        0 => "emergency",
        1 => "alert",
        2 => "critical",
        3 => "error",
        4 => "warning",
        5 => "notice",
        6 => "info",
        _ => "debug",
    }
}

/// A span of a trace somebody told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanRow {
    /// Its beginning.
    pub at: Nanos,
    /// Its length.
    pub length: Nanos,
    /// The service.
    pub service: String,
    /// What was done.
    pub name: String,
    /// Its kind, a word: internal, server, client, producer or consumer.
    pub kind: &'static str,
    /// How it ended, a word: ok, error or unset.
    pub status: &'static str,
    /// The trace.
    pub trace: [u8; 16],
    /// The span.
    pub span: [u8; 8],
    /// The span it is part of, where it is of one.
    pub parent: Option<[u8; 8]>,
    /// What else was told; the host first, under `host.name`.
    pub labels: Vec<(String, String)>,
}

/// What LLDP or somebody else says is at the other end of a port.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbour {
    /// When.
    pub at: Nanos,
    /// Who heard it.
    pub source: Receiver,
    /// The device, as told.
    pub device: String,
    /// Its port, as told.
    pub interface: String,
    /// The neighbour, as told.
    pub neighbour: String,
    /// The neighbour's port, as told; empty where it was not.
    pub neighbour_interface: String,
    /// Whether the fabric has the same cable there.
    pub verdict: Cabling,
    /// The device's link there by the mapping.
    pub component: Option<Component>,
}

/// What the fabric says to a told neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cabling {
    /// The same.
    Same,
    /// Another cable: wrong mapping or wrong cabling. The name is what the fabric has there.
    Other(String),
    /// Device, port or neighbour is not in the mapping.
    Unknown,
}

impl Cabling {
    /// Its word in tables.
    pub fn name(&self) -> &'static str {
        match self {
            Cabling::Same => "same",
            Cabling::Other(_) => "other",
            Cabling::Unknown => "unknown",
        }
    }
}

/// One row for the hub.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// A number.
    Metric(Metric),
    /// A port that went up or down.
    LinkEvent(LinkEvent),
    /// A log record.
    Log(LogRow),
    /// A span.
    Span(SpanRow),
    /// A neighbour that is not where the fabric has it, or one whose verdict changed.
    Neighbour(Neighbour),
    /// What the numbers mean to the diagnosis.
    Observation(ComponentObservation),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_a_character() {
        assert_eq!(bounded("aä", 2), "a");
        assert_eq!(bounded("aä", 3), "aä");
        assert_eq!(bounded("a\nb\0", 9), "a b ");
        assert_eq!(bounded("", 0), "");
    }

    #[test]
    fn receivers_and_reasons_stand_by_their_numbers() {
        assert!(Receiver::ALL.iter().enumerate().all(|(n, r)| *r as usize == n));
        assert!(Dropped::ALL.iter().enumerate().all(|(n, r)| *r as usize == n));
    }
}
