//! Tasks: what a hub asks an agent to do once, and the pieces in which the agent hands over what came of it.
//!
//! How: a task is checked where it is made and again where it is carried out, by the same functions, which also put the
//! usual values where a number is 0. A [`Gate`] on the agent's side decides about a whole list: what begins, what is refused
//! and in which words, what is stopped. An [`Assembly`] on the hub's side takes pieces in their order.
//!
//! Invariants: no task is begun twice, after its end, or as a fifth beside four others; no field of either message can ask
//! for more than the limits here; a piece out of order or too large is an outcome.
//! Absent on purpose: carrying anything out, and who may ask for it.

use crate::proto::{CaptureTask, LookTask, Task, TaskOutput, TraceTask, task::Kind};
use crate::time::Nanos;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Tasks of one agent at a time.
pub const RUNNING_MAX: usize = 4;
/// Tasks of a list that are looked at.
pub const LISTED_MAX: usize = 64;
/// Pieces of a task under way without an acknowledgement.
pub const UNACKNOWLEDGED_MAX: usize = 8;
/// Bytes of a piece.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;
/// Bytes of all pieces of a task.
pub const OUTPUT_BYTES_MAX: u64 = 65 << 20;
/// Bytes of the words of an error.
pub const WORDS_MAX: usize = 1_024;
/// A task expires at most so long after it is looked at.
pub const LIFE_MAX: Nanos = Nanos::from_secs(3_600);
/// Ids that are remembered. More than can expire within [`LIFE_MAX`] at four at a time would need a hub that floods; the
/// oldest are forgotten then, and they are the first to have expired.
pub const REMEMBERED_MAX: usize = 4_096;

/// Seconds of a capture.
pub const CAPTURE_SECONDS_MAX: u32 = 300;
/// Packets of a capture.
pub const CAPTURE_PACKETS_MAX: u64 = 1_000_000;
/// Bytes of a capture's file.
pub const CAPTURE_BYTES_MAX: u64 = 64 << 20;
/// Filters of a capture.
pub const CAPTURE_FILTERS_MAX: usize = 16;
/// Seconds of a look.
pub const LOOK_SECONDS_MAX: u32 = 30;
/// Bytes of a look's question.
pub const QUESTION_BYTES_MAX: usize = 1_024;

/// Interfaces of a capture.
pub const CAPTURE_INTERFACES_MAX: usize = 64;

/// Why a task, or a piece of one, is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// An id of 0.
    #[error("a task needs an id that is not 0")]
    NoId,
    /// Its time is over.
    #[error("the task expired {late} ago: ask again")]
    Expired {
        /// How long ago.
        late: Nanos,
    },
    /// It would live too long.
    #[error("the task expires in {left}: at most {LIFE_MAX} from now")]
    TooLong {
        /// How long it would have.
        left: Nanos,
    },
    /// There are [`RUNNING_MAX`] at work.
    #[error("{RUNNING_MAX} tasks are at work already: wait for one to end")]
    Busy,
    /// A kind of a later version.
    #[error("this agent does not know tasks of this kind: it is older than the hub")]
    UnknownKind,
    /// A number out of its range.
    #[error("{field} of {got}: at most {most}")]
    TooMuch {
        /// What it is about.
        field: &'static str,
        /// What was asked.
        got: u64,
        /// The limit.
        most: u64,
    },
    /// A value that means nothing.
    #[error("{field}: expected {expected}")]
    Value {
        /// What it is about.
        field: &'static str,
        /// What would be right.
        expected: &'static str,
    },
    /// A piece of another task.
    #[error("a piece of task {got} among those of {expected}")]
    OtherTask {
        /// The task at hand.
        expected: u64,
        /// The piece's.
        got: u64,
    },
    /// A piece is missing.
    #[error("piece {got} where {expected} is due")]
    Gap {
        /// The next one's number.
        expected: u64,
        /// The piece's.
        got: u64,
    },
    /// A piece of another life of the agent: it was started again, and began anew.
    #[error("the agent was started again in the middle of the task")]
    OtherLife,
    /// A piece after the last one.
    #[error("a piece after the last one")]
    Over,
}

fn at_most(field: &'static str, got: u64, most: u64) -> Result<(), TaskError> {
    if got > most { Err(TaskError::TooMuch { field, got, most }) } else { Ok(()) }
}

fn or<T: Default + PartialEq>(value: T, usual: T) -> T {
    if value == T::default() { usual } else { value }
}

/// The trace with the usual values where it has none.
pub fn check_trace(task: &TraceTask) -> Result<TraceTask, TaskError> {
    let t = TraceTask {
        to_host: task.to_host,
        rounds: or(task.rounds, 10),
        packets_per_second: or(task.packets_per_second, 500),
        class: task.class,
        size_bytes: or(task.size_bytes, 128),
    };
    at_most("rounds", t.rounds.into(), 1_000)?;
    at_most("packets_per_second", t.packets_per_second.into(), 5_000)?;
    at_most("class", t.class.into(), 63)?;
    at_most("size_bytes", t.size_bytes.into(), 9_000)?;
    if t.size_bytes < 80 {
        return Err(TaskError::Value { field: "size_bytes", expected: "at least 80" });
    }
    Ok(t)
}

/// The look with the usual values where it has none. What the question means is for whoever looks.
pub fn check_look(task: &LookTask) -> Result<LookTask, TaskError> {
    let t = LookTask { seconds: or(task.seconds, 3), ..task.clone() };
    at_most("seconds", t.seconds.into(), LOOK_SECONDS_MAX.into())?;
    at_most("bytes of the question", t.question.len() as u64, QUESTION_BYTES_MAX as u64)?;
    if t.question.is_empty() {
        return Err(TaskError::Value {
            field: "question",
            expected: "a process, an address or a connection",
        });
    }
    Ok(t)
}

/// The capture with the usual values where it has none.
pub fn check_capture(task: &CaptureTask) -> Result<CaptureTask, TaskError> {
    at_most("interfaces", task.interfaces.len() as u64, CAPTURE_INTERFACES_MAX as u64)?;
    at_most("filters", task.filters.len() as u64, CAPTURE_FILTERS_MAX as u64)?;
    let t = CaptureTask {
        seconds: or(task.seconds, 10),
        packets: or(task.packets, 100_000),
        bytes: or(task.bytes, 16 << 20),
        ..task.clone()
    };
    at_most("seconds", t.seconds.into(), CAPTURE_SECONDS_MAX.into())?;
    at_most("packets", t.packets, CAPTURE_PACKETS_MAX)?;
    at_most("bytes", t.bytes, CAPTURE_BYTES_MAX)?;
    // a name has at most 15 bytes (IFNAMSIZ), and neither a slash nor a space
    let name = |n: &String| {
        (1..=15).contains(&n.len()) && !n.bytes().any(|b| b == b'/' || b == 0 || b.is_ascii_whitespace())
    };
    if !t.interfaces.iter().all(name) {
        return Err(TaskError::Value {
            field: "interfaces",
            expected: "names of 1 to 15 bytes without slash or space",
        });
    }
    for f in &t.filters {
        at_most("ip_protocol", f.ip_protocol.into(), 255)?;
        at_most("port", f.port.into(), 65_535)?;
        if !matches!(f.host.len(), 0 | 4 | 16) {
            return Err(TaskError::Value { field: "host", expected: "an address of 4 or 16 bytes" });
        }
        if f.port != 0 && !matches!(f.ip_protocol, 0 | 6 | 17 | 132) {
            return Err(TaskError::Value { field: "port", expected: "TCP, UDP or SCTP beside it" });
        }
    }
    if t.keep > 1 {
        return Err(TaskError::Value { field: "keep", expected: "0 (headers) or 1 (payload zeroed)" });
    }
    if !matches!(t.pseudonym_key.len(), 0 | 32) {
        return Err(TaskError::Value { field: "pseudonym_key", expected: "32 bytes, or none" });
    }
    Ok(t)
}

/// A task that can be carried out, with the usual values where it has none.
pub fn check(now: Nanos, task: &Task) -> Result<Task, TaskError> {
    if task.id == 0 {
        return Err(TaskError::NoId);
    }
    let expires = Nanos(task.expires_ns);
    if expires <= now {
        return Err(TaskError::Expired { late: now.since(expires) });
    }
    if expires.since(now) > LIFE_MAX {
        return Err(TaskError::TooLong { left: expires.since(now) });
    }
    let kind = match &task.kind {
        Some(Kind::Trace(t)) => Kind::Trace(check_trace(t)?),
        Some(Kind::Capture(t)) => Kind::Capture(check_capture(t)?),
        Some(Kind::Look(t)) => Kind::Look(check_look(t)?),
        None => return Err(TaskError::UnknownKind),
    };
    Ok(Task { id: task.id, expires_ns: task.expires_ns, kind: Some(kind) })
}

/// What is to be done about a list of tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// To be begun, checked.
    pub begin: Vec<Task>,
    /// Refused, and why. Said once for each id.
    pub refuse: Vec<(u64, TaskError)>,
    /// At work and to be stopped.
    pub stop: Vec<u64>,
}

/// Which tasks were seen and which are at work.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// In the order of their expiry, so that the first to go is the first to be refused for its age anyway.
    remembered: BTreeSet<(u64, u64)>,
    ids: BTreeMap<u64, u64>,
    running: BTreeMap<u64, Nanos>,
}

impl Gate {
    /// The whole list in force.
    pub fn list(&mut self, now: Nanos, tasks: &[Task]) -> Decision {
        let mut decision = Decision::default();
        let listed: BTreeSet<u64> = tasks.iter().take(LISTED_MAX).map(|t| t.id).collect();
        decision.stop = self.running.keys().copied().filter(|id| !listed.contains(id)).collect();
        for task in tasks.iter().take(LISTED_MAX) {
            if self.ids.contains_key(&task.id) {
                continue;
            }
            let checked = match check(now, task) {
                Ok(_) if self.running.len() >= RUNNING_MAX => Err(TaskError::Busy),
                other => other,
            };
            self.remember(task);
            match checked {
                Ok(task) => {
                    self.running.insert(task.id, Nanos(task.expires_ns));
                    decision.begin.push(task);
                }
                Err(why) => decision.refuse.push((task.id, why)),
            }
        }
        decision
    }

    fn remember(&mut self, task: &Task) {
        self.ids.insert(task.id, task.expires_ns);
        self.remembered.insert((task.expires_ns, task.id));
        while self.remembered.len() > REMEMBERED_MAX {
            if let Some((_, id)) = self.remembered.pop_first() {
                self.ids.remove(&id);
            }
        }
    }

    /// A task has ended by itself.
    pub fn ended(&mut self, id: u64) {
        self.running.remove(&id);
    }

    /// Tasks whose time is over while they are at work.
    pub fn overdue(&self, now: Nanos) -> impl Iterator<Item = u64> + '_ {
        self.running.iter().filter(move |(_, at)| **at <= now).map(|(id, _)| *id)
    }

    /// Tasks at work, `0 ..= RUNNING_MAX`.
    pub fn running(&self) -> usize {
        self.running.len()
    }
}

/// Words of an error, cut to [`WORDS_MAX`] at a whole character.
pub fn words(of: &dyn core::fmt::Display) -> String {
    let mut all = of.to_string();
    if all.len() > WORDS_MAX {
        let end = (0..=WORDS_MAX).rev().find(|&i| all.is_char_boundary(i)).unwrap_or(0);
        all.truncate(end);
    }
    all
}

/// The pieces of one task, in their order.
#[derive(Clone, Debug)]
pub struct Assembly {
    task: u64,
    /// The agent's life, from the first piece on.
    life: Option<u64>,
    next: u64,
    bytes: u64,
    over: bool,
}

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is new: keep it.
    New,
    /// It is new, and the last one.
    Last,
    /// It was there already, as after a break of the stream: acknowledge it and do no more.
    Again,
}

impl Assembly {
    /// Nothing of this task yet.
    pub fn new(task: u64) -> Self {
        Assembly { task, life: None, next: 1, bytes: 0, over: false }
    }
    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
    /// Takes a piece.
    pub fn take(&mut self, piece: &TaskOutput) -> Result<Taken, TaskError> {
        if piece.task != self.task {
            return Err(TaskError::OtherTask { expected: self.task, got: piece.task });
        }
        at_most("bytes of a piece", piece.chunk.len() as u64, CHUNK_BYTES_MAX as u64)?;
        at_most("bytes of an error", piece.error.len() as u64, WORDS_MAX as u64)?;
        if self.life.is_some_and(|life| life != piece.producer_epoch) {
            return Err(TaskError::OtherLife);
        }
        if piece.sequence != 0 && piece.sequence < self.next {
            return Ok(Taken::Again);
        }
        if self.over {
            return Err(TaskError::Over);
        }
        if piece.sequence != self.next {
            return Err(TaskError::Gap { expected: self.next, got: piece.sequence });
        }
        let bytes = self.bytes.saturating_add(piece.chunk.len() as u64);
        at_most("bytes of a task", bytes, OUTPUT_BYTES_MAX)?;
        self.life = Some(piece.producer_epoch);
        self.bytes = bytes;
        self.next += 1;
        self.over = piece.done;
        Ok(if piece.done { Taken::Last } else { Taken::New })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::CaptureFilter;
    use alloc::vec;

    const NOW: Nanos = Nanos::from_secs(1_000);

    fn task(id: u64) -> Task {
        Task {
            id,
            expires_ns: (NOW + Nanos::from_secs(60)).0,
            kind: Some(Kind::Trace(TraceTask { to_host: 3, ..TraceTask::default() })),
        }
    }

    #[test]
    fn a_task_is_begun_once_and_four_at_a_time() {
        let mut gate = Gate::default();
        let list: Vec<Task> = (1..=5).map(task).collect();
        let d = gate.list(NOW, &list);
        assert_eq!(d.begin.iter().map(|t| t.id).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(d.refuse, [(5, TaskError::Busy)]);
        let Some(Kind::Trace(t)) = d.begin[0].kind else { panic!("a trace") };
        assert_eq!((t.rounds, t.packets_per_second, t.size_bytes), (10, 500, 128), "the usual values");
        assert_eq!(gate.list(NOW, &list), Decision::default(), "the same list changes nothing");
        gate.ended(2);
        assert_eq!(gate.list(NOW, &list), Decision::default(), "what has ended does not begin again");
        let d = gate.list(NOW, &[task(1), task(6)]);
        assert_eq!((d.begin.len(), d.stop), (1, vec![3, 4]));
    }

    #[test]
    fn what_cannot_be_done_is_refused_in_words() {
        let with = |expires: u64, kind| Task { id: 9, expires_ns: expires, kind };
        let trace = || Some(Kind::Trace(TraceTask::default()));
        let soon = (NOW + Nanos::from_secs(5)).0;
        assert_eq!(check(NOW, &Task { id: 0, ..task(1) }), Err(TaskError::NoId));
        let late = check(NOW, &with(Nanos::from_secs(998).0, trace())).unwrap_err();
        assert_eq!(late.to_string(), "the task expired 2.0 s ago: ask again");
        assert!(matches!(check(NOW, &with(u64::MAX, trace())), Err(TaskError::TooLong { .. })));
        assert_eq!(check(NOW, &with(soon, None)), Err(TaskError::UnknownKind));
        let many = TraceTask { rounds: 5_000, ..TraceTask::default() };
        assert!(check(NOW, &with(soon, Some(Kind::Trace(many)))).is_err());
        let filter = |f: CaptureFilter| CaptureTask { filters: vec![f], ..CaptureTask::default() };
        let none = CaptureFilter::default;
        let bad = [
            CaptureTask { seconds: 301, ..CaptureTask::default() },
            CaptureTask { bytes: u64::MAX, ..CaptureTask::default() },
            CaptureTask { packets: u64::MAX, ..CaptureTask::default() },
            CaptureTask { keep: 2, ..CaptureTask::default() },
            CaptureTask { pseudonym_key: vec![1], ..CaptureTask::default() },
            CaptureTask { interfaces: vec!["../x".into()], ..CaptureTask::default() },
            CaptureTask { interfaces: vec!["a".into(); 65], ..CaptureTask::default() },
            filter(CaptureFilter { host: vec![1; 5], ..none() }),
            filter(CaptureFilter { port: 70_000, ..none() }),
            filter(CaptureFilter { port: 53, ip_protocol: 58, ..none() }),
            filter(CaptureFilter { ip_protocol: 256, ..none() }),
        ];
        for task in bad {
            assert!(check_capture(&task).is_err(), "{task:?}");
        }
        assert!(
            check_capture(&filter(CaptureFilter { host: vec![1; 16], port: 53, ip_protocol: 17 })).is_ok()
        );
    }

    #[test]
    fn a_flood_of_ids_costs_bounded_memory() {
        let mut gate = Gate::default();
        for id in 1..20_000u64 {
            let d = gate.list(NOW, &[Task { expires_ns: 5, ..task(id) }]);
            assert!(d.begin.is_empty());
        }
        assert!(gate.ids.len() <= REMEMBERED_MAX && gate.remembered.len() <= REMEMBERED_MAX);
    }

    #[test]
    fn pieces_come_in_their_order_and_within_the_limits() {
        let piece = |sequence, bytes, done| TaskOutput {
            task: 7,
            sequence,
            chunk: vec![0; bytes],
            done,
            ..TaskOutput::default()
        };
        let mut a = Assembly::new(7);
        assert_eq!(a.take(&piece(2, 1, false)), Err(TaskError::Gap { expected: 1, got: 2 }));
        assert_eq!(a.take(&piece(1, 10, false)), Ok(Taken::New));
        assert_eq!(a.take(&piece(1, 10, false)), Ok(Taken::Again));
        let reborn = TaskOutput { producer_epoch: 2, ..piece(1, 10, false) };
        assert_eq!(a.take(&reborn), Err(TaskError::OtherLife));
        assert!(a.take(&piece(2, CHUNK_BYTES_MAX + 1, false)).is_err());
        assert!(a.take(&TaskOutput { task: 8, ..piece(2, 1, false) }).is_err());
        assert_eq!(a.take(&piece(2, 5, true)), Ok(Taken::Last));
        assert_eq!(a.take(&piece(3, 5, true)), Err(TaskError::Over));
        assert_eq!(a.bytes(), 15);
        let mut b = Assembly::new(7);
        let full = OUTPUT_BYTES_MAX / CHUNK_BYTES_MAX as u64;
        (1..=full).for_each(|i| assert_eq!(b.take(&piece(i, CHUNK_BYTES_MAX, false)), Ok(Taken::New)));
        assert!(b.take(&piece(full + 1, 1, false)).is_err());
    }

    #[test]
    fn words_are_cut_at_a_whole_character() {
        let long: String = "ä".repeat(2_000);
        assert_eq!(words(&long).len(), WORDS_MAX);
        assert_eq!(words(&"short"), "short");
    }
}
