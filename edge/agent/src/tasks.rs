//! What the hub asks for once: traces, captures and looks, carried out beside the probing and handed over in pieces.
//!
//! How: a [`Desk`] belongs to the connection. It decides about each list by [`wire::task::Gate`], starts a thread for each
//! task, and takes the pieces the threads make: few at a time, so that a thread waits while the hub does not acknowledge.
//! What was not acknowledged when the stream broke goes out again, as batches do.
//!
//! Invariants: at most [`RUNNING_MAX`](wire::task::RUNNING_MAX) threads; at most
//! [`UNACKNOWLEDGED_MAX`](wire::task::UNACKNOWLEDGED_MAX) pieces of a task under way and one waiting; a task ends with exactly
//! one last piece, which says what was wrong where something was; one that is not listed any more, or has expired, stops.
//! Absent on purpose: privileges. A trace has its sockets from the start; captures and looks are made by whoever
//! has them ([`Helper`]).

pub mod capture;
pub mod merge;
pub mod trace;

use capture::Summary;
use prost::Message;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use trace::Tracer;
use wire::Nanos;
use wire::proto::task::Kind;
use wire::proto::{CaptureTask, LookTask, Task, TaskAck, TaskOutput, Tasks};
use wire::task::{CHUNK_BYTES_MAX, Gate, UNACKNOWLEDGED_MAX, words};

/// Last pieces of refused tasks that wait for the hub. The oldest go first: whoever is refused so often floods.
const REFUSALS_MAX: usize = 64;

/// Makes captures and looks: the one who has the privileges for it.
pub trait Helper: Send + Sync + std::fmt::Debug {
    /// Captures until the task's limits, or `stop`. `sink` takes pieces of any size and says whether it wants more. An error
    /// is words for people.
    fn capture(
        &self,
        task: &CaptureTask,
        stop: &dyn Fn() -> bool,
        sink: &mut dyn FnMut(Vec<u8>) -> bool,
    ) -> Result<Summary, String>;

    /// Looks at connections for as long as the task says; facts of this end as JSON ([`crate::why::EndFacts`]). An error is
    /// words for people. Blocks.
    fn look(&self, task: &LookTask) -> Result<Vec<u8>, String>;
}

/// Does it in this process, which then needs the privileges.
#[derive(Clone, Debug, Default)]
pub struct Here(pub capture::Place);

impl Helper for Here {
    fn capture(
        &self,
        task: &CaptureTask,
        stop: &dyn Fn() -> bool,
        sink: &mut dyn FnMut(Vec<u8>) -> bool,
    ) -> Result<Summary, String> {
        capture::run(task, &self.0, stop, sink).map_err(|e| e.to_string())
    }

    fn look(&self, task: &LookTask) -> Result<Vec<u8>, String> {
        let _in = self.0.netns.as_deref().map(kernel::netns::enter).transpose().map_err(|e| e.to_string())?;
        crate::why::look(task, &self.0.host)
    }
}

/// Who carries out what.
#[derive(Clone, Debug, Default)]
pub struct Crew {
    /// Traces; none before the fabric is known.
    pub tracer: Option<Arc<Tracer>>,
    /// Captures and looks; none where the host gives nobody the privileges.
    pub helper: Option<Arc<dyn Helper>>,
}

/// A piece on its way from a task's thread.
#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Last { error: String, lost_packets: u64 },
}

/// A task that is at work or has pieces under way.
#[derive(Debug)]
struct Work {
    pieces: Option<Receiver<Piece>>,
    stop: Arc<AtomicBool>,
    /// Not acknowledged, in their order.
    held: VecDeque<TaskOutput>,
    /// How many of them were sent.
    sent: usize,
    next: u64,
}

/// The agent's tasks.
#[derive(Debug, Default)]
pub struct Desk {
    producer_epoch: u64,
    gate: Gate,
    crew: Crew,
    work: BTreeMap<u64, Work>,
    begun: u64,
    refused: u64,
    refusals_lost: u64,
}

impl Desk {
    /// No tasks yet, in this life of the agent.
    pub fn new(producer_epoch: u64) -> Desk {
        let mut desk = Desk::default();
        desk.producer_epoch = producer_epoch;
        desk
    }

    /// From now on there is somebody to do it.
    pub fn hire(&mut self, crew: Crew) {
        self.crew = crew;
    }

    /// The whole list in force.
    pub fn list(&mut self, now: Nanos, tasks: &Tasks) {
        let decision = self.gate.list(now, &tasks.tasks);
        for id in decision.stop {
            self.stop(id);
        }
        for (id, why) in decision.refuse {
            self.refuse(id, words(&why));
        }
        for task in decision.begin {
            if let Err(why) = self.begin(&task) {
                self.gate.ended(task.id);
                self.refuse(task.id, words(&why));
            }
        }
    }

    fn refuse(&mut self, id: u64, error: String) {
        self.refused += 1;
        let refusals = self.work.iter().filter(|(_, w)| w.pieces.is_none());
        if refusals.clone().count() >= REFUSALS_MAX
            && let Some((&oldest, _)) = refusals.clone().next()
        {
            self.work.remove(&oldest);
            self.refusals_lost += 1;
        }
        let last = TaskOutput {
            task: id,
            sequence: 1,
            done: true,
            error,
            producer_epoch: self.producer_epoch,
            ..TaskOutput::default()
        };
        let stop = Arc::new(AtomicBool::new(true));
        let work = Work { pieces: None, stop, held: VecDeque::from([last]), sent: 0, next: 2 };
        self.work.insert(id, work);
    }

    fn begin(&mut self, task: &Task) -> Result<(), String> {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, pieces) = sync_channel(1);
        let out = Out { sender, stop: stop.clone() };
        let job: Box<dyn FnOnce(Out) + Send> = match &task.kind {
            Some(Kind::Trace(trace)) => {
                let tracer = self.crew.tracer.clone().ok_or("this agent has no sockets for traces yet")?;
                let trace = *trace;
                Box::new(move |out| {
                    let (bytes, error) = match tracer.run(&trace, &|| out.stopped()) {
                        Ok(report) => (report.encode_to_vec(), String::new()),
                        Err(why) => (Vec::new(), words(&why)),
                    };
                    if bytes.chunks(CHUNK_BYTES_MAX).all(|piece| out.piece(piece.to_vec())) {
                        out.last(error, 0);
                    }
                })
            }
            Some(Kind::Capture(capture)) => {
                let helper = self.crew.helper.clone().ok_or(
                    "nobody on this host may capture: start `selvedge sensors` beside the agent, and give it CAP_NET_RAW",
                )?;
                let capture = capture.clone();
                Box::new(move |out| {
                    let mut sink =
                        |bytes: Vec<u8>| bytes.chunks(CHUNK_BYTES_MAX).all(|piece| out.piece(piece.to_vec()));
                    match helper.capture(&capture, &|| out.stopped(), &mut sink) {
                        Ok(summary) => out.last(String::new(), summary.lost),
                        Err(why) => out.last(words(&why), 0),
                    }
                })
            }
            Some(Kind::Look(look)) => {
                let helper = self.crew.helper.clone().ok_or(
                    "nobody on this host may look at its connections: start `selvedge sensors` beside the agent",
                )?;
                let look = look.clone();
                Box::new(move |out| {
                    let (bytes, error) = match helper.look(&look) {
                        Ok(facts) => (facts, String::new()),
                        Err(why) => (Vec::new(), words(&why)),
                    };
                    if bytes.chunks(CHUNK_BYTES_MAX).all(|piece| out.piece(piece.to_vec())) {
                        out.last(error, 0);
                    }
                })
            }
            None => return Err("this agent does not know tasks of this kind".to_owned()),
        };
        std::thread::Builder::new()
            .name(format!("task {}", task.id))
            .stack_size(1 << 20)
            .spawn(move || job(out))
            .map_err(|e| format!("no thread for the task: {e}"))?;
        self.begun += 1;
        let work = Work { pieces: Some(pieces), stop, held: VecDeque::new(), sent: 0, next: 1 };
        self.work.insert(task.id, work);
        Ok(())
    }

    fn stop(&mut self, id: u64) {
        if let Some(work) = self.work.get(&id) {
            work.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Stops what has expired.
    pub fn handle_timeout(&mut self, now: Nanos) {
        let late: Vec<u64> = self.gate.overdue(now).collect();
        late.into_iter().for_each(|id| self.stop(id));
    }

    /// The next piece to send, where one is there and the hub can take it.
    pub fn poll_output(&mut self) -> Option<TaskOutput> {
        for (&id, work) in &mut self.work {
            while work.held.len() < UNACKNOWLEDGED_MAX {
                let Some(pieces) = &work.pieces else { break };
                let (mut piece, mut done) = (TaskOutput { task: id, ..TaskOutput::default() }, false);
                match pieces.try_recv() {
                    Ok(Piece::Bytes(bytes)) => piece.chunk = bytes,
                    Ok(Piece::Last { error, lost_packets }) => {
                        done = true;
                        (piece.error, piece.lost_packets) = (error, lost_packets);
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        done = true;
                        piece.error = "the task ended without saying why".to_owned();
                    }
                }
                (piece.sequence, piece.done, piece.producer_epoch) = (work.next, done, self.producer_epoch);
                work.next += 1;
                work.held.push_back(piece);
                if done {
                    work.pieces = None;
                    self.gate.ended(id);
                }
            }
            if let Some(piece) = work.held.get(work.sent) {
                work.sent += 1;
                return Some(piece.clone());
            }
        }
        None
    }

    /// The hub has a piece and all before it, or wants no more of the task.
    pub fn acknowledge(&mut self, ack: &TaskAck) {
        let Some(work) = self.work.get_mut(&ack.task) else { return };
        if !ack.refused.is_empty() {
            tracing::warn!(task = ack.task, reason = ack.refused, "the hub wants no more of a task");
            work.stop.store(true, Ordering::Relaxed);
            self.gate.ended(ack.task);
            self.work.remove(&ack.task);
            return;
        }
        while work.held.front().is_some_and(|p| p.sequence <= ack.sequence) {
            work.held.pop_front();
            work.sent = work.sent.saturating_sub(1);
        }
        if work.held.is_empty() && work.pieces.is_none() {
            self.work.remove(&ack.task);
        }
    }

    /// A new connection: everything that was not acknowledged goes out again.
    pub fn rewind(&mut self) {
        self.work.values_mut().for_each(|w| w.sent = 0);
    }

    /// Nothing at work and nothing under way.
    pub fn is_idle(&self) -> bool {
        self.work.is_empty()
    }

    /// Adds its counters.
    pub fn count_into(&self, counters: &mut BTreeMap<String, u64>) {
        counters.insert("tasks_begun".to_owned(), self.begun);
        counters.insert("tasks_refused".to_owned(), self.refused);
        counters.insert("task_refusals_lost".to_owned(), self.refusals_lost);
        counters.insert("tasks_running".to_owned(), self.gate.running() as u64);
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.work.values().for_each(|w| w.stop.store(true, Ordering::Relaxed));
    }
}

/// Where a task's thread puts what it makes.
struct Out {
    sender: SyncSender<Piece>,
    stop: Arc<AtomicBool>,
}

impl Out {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
    /// Waits for room. Whether somebody takes it: nobody does once the hub has refused the task or the agent ends.
    fn piece(&self, bytes: Vec<u8>) -> bool {
        self.sender.send(Piece::Bytes(bytes)).is_ok()
    }
    /// The last piece; nobody may be there to take it.
    fn last(&self, error: String, lost_packets: u64) {
        let _ = self.sender.send(Piece::Last { error, lost_packets });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use wire::proto::TraceTask;
    use wire::task::RUNNING_MAX;

    const NOW: Nanos = Nanos::from_secs(1_000);

    /// Makes pieces until told to stop, or as many as asked for.
    #[derive(Debug)]
    struct Puppet {
        pieces: usize,
        begun: Barrier,
    }

    impl Helper for Puppet {
        fn capture(
            &self,
            task: &CaptureTask,
            stop: &dyn Fn() -> bool,
            sink: &mut dyn FnMut(Vec<u8>) -> bool,
        ) -> Result<Summary, String> {
            if task.seconds == 7 {
                return Err("no".repeat(1_000));
            }
            if task.seconds == 8 {
                panic!("a helper that dies");
            }
            for i in 0..self.pieces {
                if !sink(vec![i as u8; CHUNK_BYTES_MAX + 1]) {
                    return Err("nobody takes it".into());
                }
            }
            if self.pieces == 0 {
                self.begun.wait();
                while !stop() {
                    std::thread::yield_now();
                }
            }
            Ok(Summary { lost: 5, ..Summary::default() })
        }

        fn look(&self, task: &LookTask) -> Result<Vec<u8>, String> {
            if task.question == "1" { Err("no such process".to_owned()) } else { Ok(b"{}".to_vec()) }
        }
    }

    fn desk(pieces: usize, waits: usize) -> (Desk, Arc<Puppet>) {
        let puppet = Arc::new(Puppet { pieces, begun: Barrier::new(waits + 1) });
        let mut desk = Desk::new(9);
        desk.hire(Crew { tracer: None, helper: Some(puppet.clone()) });
        (desk, puppet)
    }

    fn capture(id: u64, seconds: u32) -> Task {
        let kind = Some(Kind::Capture(CaptureTask { seconds, ..CaptureTask::default() }));
        Task { id, expires_ns: (NOW + Nanos::from_secs(60)).0, kind }
    }

    fn list(tasks: &[Task]) -> Tasks {
        Tasks { tasks: tasks.to_vec() }
    }

    /// The next piece, however long its thread takes.
    fn next(desk: &mut Desk) -> TaskOutput {
        loop {
            if let Some(piece) = desk.poll_output() {
                return piece;
            }
            std::thread::yield_now();
        }
    }

    fn ack(desk: &mut Desk, task: u64, sequence: u64) {
        desk.acknowledge(&TaskAck { task, sequence, ..TaskAck::default() });
    }

    #[test]
    fn pieces_come_in_order_few_at_a_time_and_again_after_a_break() {
        let (mut desk, _) = desk(6, 0);
        desk.list(NOW, &list(&[capture(3, 1)]));
        // six pieces of one byte too many are twelve
        let first: Vec<u64> = (0..UNACKNOWLEDGED_MAX).map(|_| next(&mut desk).sequence).collect();
        assert_eq!(first, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(desk.poll_output(), None, "no more before an acknowledgement");
        ack(&mut desk, 3, 2);
        assert_eq!(next(&mut desk).sequence, 9);
        desk.rewind();
        assert_eq!((0..7).map(|_| next(&mut desk).sequence).collect::<Vec<_>>(), [3, 4, 5, 6, 7, 8, 9]);
        let mut last = next(&mut desk);
        while !last.done {
            ack(&mut desk, 3, last.sequence);
            last = next(&mut desk);
        }
        assert_eq!((last.sequence, last.lost_packets, last.error.as_str()), (13, 5, ""));
        assert!(!desk.is_idle());
        ack(&mut desk, 3, 13);
        assert!(desk.is_idle());
        desk.list(NOW, &list(&[capture(3, 1)]));
        assert!(desk.is_idle(), "it is not done twice");
    }

    #[test]
    fn what_is_not_listed_any_more_or_has_expired_stops() {
        let (mut desk, puppet) = desk(0, RUNNING_MAX);
        let four: Vec<Task> = (1..=4).map(|id| capture(id, 1)).collect();
        desk.list(NOW, &list(&four));
        puppet.begun.wait();
        assert_eq!(desk.poll_output(), None);
        desk.list(NOW, &list(&four[1..]));
        let piece = next(&mut desk);
        assert_eq!((piece.task, piece.done), (1, true));
        desk.handle_timeout(NOW + Nanos::from_secs(60));
        let mut ended: Vec<u64> = (0..3).map(|_| next(&mut desk).task).collect();
        ended.sort_unstable();
        assert_eq!(ended, [2, 3, 4]);
    }

    #[test]
    fn a_task_that_cannot_be_done_says_why() {
        let (mut desk, _) = desk(1, 0);
        let late = Task { expires_ns: NOW.0 - 1, ..capture(1, 1) };
        let trace = Task { kind: Some(Kind::Trace(TraceTask::default())), ..capture(2, 1) };
        desk.list(
            NOW,
            &list(&[late, trace, capture(3, 7), capture(4, 8), Task { kind: None, ..capture(5, 1) }]),
        );
        let mut said = BTreeMap::new();
        while said.len() < 5 {
            let piece = next(&mut desk);
            assert!(piece.done && piece.error.len() <= wire::task::WORDS_MAX);
            said.insert(piece.task, piece.error);
        }
        assert!(said[&1].contains("expired") && said[&2].contains("no sockets"), "{said:?}");
        assert!(said[&3].starts_with("nono") && said[&4].contains("without saying why"));
        assert!(said[&5].contains("older than the hub"));
        (1..=5).for_each(|id| ack(&mut desk, id, 1));
        assert!(desk.is_idle());
    }

    #[test]
    fn a_look_is_one_answer_or_words() {
        let (mut desk, _) = desk(0, 0);
        let look = |id, question: &str| {
            let look = LookTask { question: question.to_owned(), seconds: 1 };
            Task { kind: Some(Kind::Look(look)), ..capture(id, 1) }
        };
        desk.list(NOW, &list(&[look(1, "1"), look(2, "2"), look(3, "")]));
        let mut all: Vec<TaskOutput> = (0..4).map(|_| next(&mut desk)).collect();
        all.sort_by_key(|p| (p.task, p.sequence));
        assert_eq!((all[0].done, all[0].error.as_str()), (true, "no such process"));
        assert_eq!((all[1].chunk.as_slice(), all[2].done, all[2].error.as_str()), (&b"{}"[..], true, ""));
        assert!(all[3].error.contains("expected a process"), "{}", all[3].error);
    }

    #[test]
    fn a_hub_that_wants_no_more_ends_the_task_and_a_flood_of_refusals_is_bounded() {
        let (mut desk, _) = desk(100, 0);
        desk.list(NOW, &list(&[capture(1, 1)]));
        next(&mut desk);
        desk.acknowledge(&TaskAck { task: 1, sequence: 0, refused: "too much".into() });
        assert!(desk.is_idle());
        for id in 10..200 {
            desk.list(NOW, &list(&[Task { expires_ns: 1, ..capture(id, 1) }]));
        }
        assert_eq!((desk.work.len(), desk.refusals_lost), (REFUSALS_MAX, 190 - REFUSALS_MAX as u64));
    }
}
