//! Who drives an endpoint: whoever waits for it.
//!
//! How: the engine lies behind a lock that is held for one turn. A wish is carried out, and what comes of it sent, by
//! who has it, without another thread; where the lock is taken, the wish is left in a queue that its holder looks into
//! before it goes. Waiting for the socket is one role, the lead, that only one has: a caller that blocks takes it, and
//! hands it on when it has its answer. Where nobody blocks, a thread of the endpoint's own has it. It stands back while
//! callers come again and again, because taking the lead back and forth would cost more than all the rest, and looks only
//! whether something is due.
//!
//! Invariants: no wish stays in the queue while nobody holds the lock; who sleeps on the socket is woken when something
//! becomes due sooner, or its own answer comes from elsewhere; an engine that ended refuses everything.
//! Absent on purpose: what a turn does ([`crate::engine`]).

use crate::endpoint::Command;
use crate::engine::{Engine, RECEIVE_BATCH, Step, now};
use crate::error::EndpointError;
use crate::slot::Reply;
use kernel::poll::{Waker, readable};
use kernel::udp::{Received, UdpSocket};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::Duration;
use tokio::sync::oneshot;
use wire::Nanos;

/// Wishes that wait for the engine.
const COMMANDS_MAX: usize = 65_536;
/// A caller that leads waits in one system call, which nothing but a packet can end, where nothing is due for so long:
/// what becomes due meanwhile the endpoint's thread finds when it looks.
const UNDISTURBED: Nanos = Nanos(20_000);
/// It waits so for one tick of the kernel's at most, and then so that it can be woken.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1);
/// How often the endpoint's thread looks whether it is needed, while callers lead: at least, and at most.
const LOOK: [Nanos; 2] = [Nanos(200_000), Nanos(1_000_000)];
/// Packets a caller that leads takes in at a time.
const FEW: usize = 4;
/// Nothing is due.
const NEVER: u64 = u64::MAX;

#[derive(Default)]
struct Queue {
    wishes: VecDeque<Command>,
    ended: bool,
}

/// What handles and threads share.
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    /// None once it has ended.
    engine: Mutex<Option<Engine>>,
    /// Whoever holds it waits for the socket.
    lead: Mutex<Received>,
    /// Ends the sleep of who has the lead.
    waker: Waker,
    /// Until when who has the lead sleeps, if it can be woken; else 0. Changed under the engine's lock only, but for
    /// waking up.
    asleep_until: AtomicU64,
    /// When something is due. Changed under the engine's lock only.
    due: AtomicU64,
    /// Those that wait for the lead or for their answer.
    followers: Mutex<Vec<Thread>>,
    following: AtomicUsize,
    /// Callers that blocked, so far.
    calls: AtomicU64,
    /// The endpoint's thread has the lead.
    own_leads: AtomicBool,
    /// Who has the lead looks after what is due itself, so that the endpoint's thread need not.
    kept: AtomicBool,
    /// The endpoint's thread sleeps until it is woken.
    deep: AtomicBool,
    thread: OnceLock<Thread>,
}

/// Ends the sleep on the socket where an answer comes from elsewhere.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        if self.asleep_until.load(SeqCst) != 0 {
            self.waker.wake();
        }
    }
}

/// Wakes a follower.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_locked<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl Shared {
    pub fn new(engine: Engine) -> Result<Shared, EndpointError> {
        Ok(Shared {
            queue: Mutex::default(),
            engine: Mutex::new(Some(engine)),
            lead: Mutex::new(Received::with(RECEIVE_BATCH, 65_535)),
            waker: Waker::new()?,
            asleep_until: AtomicU64::new(0),
            due: AtomicU64::new(NEVER),
            followers: Mutex::default(),
            following: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            own_leads: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            deep: AtomicBool::new(false),
            thread: OnceLock::new(),
        })
    }

    // ---- turns

    /// Carries out what waits in the queue, then `what`, and sends what comes of it. How to go on where the lead is
    /// `lead`. None where the engine has ended.
    fn turn<R>(
        &self,
        mut guard: MutexGuard<'_, Option<Engine>>,
        lead: Option<Lead>,
        what: impl FnOnce(&mut Engine, Nanos) -> R,
    ) -> Option<(R, Sleep)> {
        let engine = guard.as_mut()?;
        let now = now();
        if self.queue_waits() {
            let queued = std::mem::take(&mut locked(&self.queue).wishes);
            queued.into_iter().for_each(|command| engine.obey(now, command));
        }
        let result = what(engine, now);
        let Step { again, due } = engine.flush(now);
        if engine.is_stopped() {
            self.bury(guard);
            return None;
        }
        let due = if again { now.0 } else { due.map_or(NEVER, |at| at.0) };
        self.due.store(due, SeqCst);
        let sleep = match lead {
            _ if again => Sleep::Not,
            Some(Lead { undisturbed: true }) if due > now.0 + UNDISTURBED.0 => Sleep::Undisturbed,
            Some(_) => {
                self.asleep_until.store(due.max(1), SeqCst);
                Sleep::Until(due)
            }
            None => {
                // it would sleep for too long
                if due < self.asleep_until.load(SeqCst) {
                    self.asleep_until.store(0, SeqCst);
                    self.waker.wake();
                }
                Sleep::Not
            }
        };
        drop(guard);
        if again && lead.is_none() && self.asleep_until.load(SeqCst) == 0 {
            self.rouse();
        }
        Some((result, sleep))
    }

    /// The endpoint's thread looks whether something is due.
    fn rouse(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn queue_waits(&self) -> bool {
        !locked(&self.queue).wishes.is_empty()
    }

    /// To be called after the engine's lock was let go: somebody may have found it taken.
    fn look_back(&self) {
        while self.queue_waits() {
            let Some(guard) = try_locked(&self.engine) else { return };
            if self.turn(guard, None, |_, _| ()).is_none() {
                return;
            }
        }
    }

    /// The end: everybody who waits is told.
    fn bury(&self, mut guard: MutexGuard<'_, Option<Engine>>) {
        if let Some(engine) = guard.take() {
            engine.farewell();
        }
        drop(guard);
        let left = {
            let mut queue = locked(&self.queue);
            queue.ended = true;
            std::mem::take(&mut queue.wishes)
        };
        left.into_iter().for_each(Command::refuse);
        self.waker.wake();
        self.rouse();
        locked(&self.followers).iter().for_each(Thread::unpark);
    }

    // ---- wishes

    /// Carries out a wish now, or leaves it to whoever has the engine.
    pub fn ask(&self, command: Command) {
        match try_locked(&self.engine) {
            Some(guard) if guard.is_none() => return command.refuse(),
            Some(guard) => drop(self.turn(guard, None, |engine, now| engine.obey(now, command))),
            None => {
                let mut queue = locked(&self.queue);
                // what ends something is always taken
                if queue.ended || (queue.wishes.len() >= COMMANDS_MAX && !command.ends()) {
                    drop(queue);
                    return command.refuse();
                }
                queue.wishes.push_back(command);
            }
        }
        self.look_back();
    }

    /// Does something with the engine now, and waits for it where it must.
    pub fn with<R>(&self, what: impl FnOnce(&mut Engine, Nanos) -> R) -> Result<R, EndpointError> {
        let done = self.turn(locked(&self.engine), None, what);
        self.look_back();
        done.map(|(result, _)| result).ok_or(EndpointError::Ended)
    }

    /// Asks and awaits the answer, on any executor.
    pub async fn request<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, EndpointError> {
        let (reply, answer) = oneshot::channel();
        self.ask(command(reply));
        answer.await.unwrap_or(Err(EndpointError::Ended))
    }

    /// Asks and waits for the answer, driving the endpoint meanwhile where nobody else does.
    pub fn block<T>(self: &Arc<Self>, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, EndpointError> {
        self.calls.fetch_add(1, SeqCst);
        let (reply, answer) = oneshot::channel();
        self.ask(command(reply));
        let mut answer = pin!(answer);
        let mut poll = |waker: &std::task::Waker| match answer.as_mut().poll(&mut Context::from_waker(waker))
        {
            Poll::Ready(got) => Some(got.unwrap_or(Err(EndpointError::Ended))),
            Poll::Pending => None,
        };
        let waker = std::task::Waker::from(self.clone());
        let result = loop {
            if let Some(got) = poll(&waker) {
                break got;
            }
            match try_locked(&self.lead) {
                Some(received) => {
                    let mut got = None;
                    self.drive(received, true, || {
                        got = poll(&waker);
                        got.is_some()
                    });
                    break got.unwrap_or(Err(EndpointError::Ended));
                }
                None => {
                    let me = std::thread::current();
                    if let Some(got) = self.follow(&me, || poll(&Arc::new(Unpark(me.clone())).into())) {
                        break got;
                    }
                }
            }
        };
        self.hand_on();
        result
    }

    // ---- the lead

    /// Waits until it is this thread's turn to lead, or its answer may be there.
    fn follow<T>(&self, me: &Thread, mut answered: impl FnMut() -> Option<T>) -> Option<T> {
        locked(&self.followers).push(me.clone());
        self.following.fetch_add(1, SeqCst);
        // the endpoint's own thread gives way at once
        if self.own_leads.load(SeqCst) && self.asleep_until.load(SeqCst) != 0 {
            self.waker.wake();
        }
        let got = answered();
        if got.is_none() && try_locked(&self.lead).is_none() {
            std::thread::park();
        }
        self.following.fetch_sub(1, SeqCst);
        let mut followers = locked(&self.followers);
        if let Some(i) = followers.iter().position(|f| f.id() == me.id()) {
            followers.swap_remove(i);
        }
        got
    }

    /// Lets somebody who waits for the lead know that it is free.
    fn hand_on(&self) {
        if self.following.load(SeqCst) > 0
            && let Some(one) = locked(&self.followers).first()
        {
            one.unpark();
        }
    }

    /// Drives the endpoint until `done`, or its end.
    fn drive(&self, mut received: MutexGuard<'_, Received>, caller: bool, mut done: impl FnMut() -> bool) {
        let Some(socket) = locked(&self.engine).as_ref().map(Engine::socket) else { return };
        let mut undisturbed = caller;
        let mut arrived = Arrived::Nothing;
        loop {
            let lead = Lead { undisturbed };
            let turn = self.turn(locked(&self.engine), Some(lead), |engine, now| match arrived {
                Arrived::Nothing => {}
                Arrived::Unknown => engine.input(now, &mut received),
                Arrived::Here => engine.take_in(now, &mut received),
            });
            let Some(((), sleep)) = turn else { break };
            if done() {
                break;
            }
            arrived = match sleep {
                Sleep::Not => Arrived::Unknown,
                _ if self.queue_waits() => Arrived::Nothing,
                Sleep::Undisturbed => match socket.wait(&mut received, FEW) {
                    Ok(0) => {
                        undisturbed = false;
                        Arrived::Nothing
                    }
                    Ok(_) => Arrived::Here,
                    Err(error) => {
                        tracing::error!(%error, "an endpoint cannot read its socket");
                        undisturbed = false;
                        Arrived::Nothing
                    }
                },
                Sleep::Until(due) => {
                    self.kept.store(caller, SeqCst);
                    let some = self.sleep(&socket, due);
                    self.no_longer_kept();
                    match some {
                        Some(true) => {
                            undisturbed = caller;
                            Arrived::Unknown
                        }
                        Some(false) => Arrived::Nothing,
                        None => break,
                    }
                }
            };
        }
        self.asleep_until.store(0, SeqCst);
        drop(received);
    }

    fn no_longer_kept(&self) {
        self.kept.store(false, SeqCst);
        if self.deep.swap(false, SeqCst) {
            self.rouse();
        }
    }

    /// Sleeps until a packet is there (true), somebody wakes it, or something is due. None where that cannot be.
    fn sleep(&self, socket: &UdpSocket, due: u64) -> Option<bool> {
        // with nothing due it sleeps until it is woken
        let wait = (due != NEVER).then(|| Duration::from_nanos(Nanos(due).since(now()).0));
        let bits = readable(&[socket.as_fd(), self.waker.as_fd()], wait);
        self.asleep_until.store(0, SeqCst);
        match bits {
            Ok(bits) => {
                if bits & 2 != 0 {
                    self.waker.clear();
                }
                Some(bits & 1 != 0)
            }
            Err(error) => {
                tracing::error!(%error, "an endpoint cannot wait for its socket");
                self.bury(locked(&self.engine));
                None
            }
        }
    }

    /// What the endpoint's own thread does, until the end.
    pub fn tend(&self) {
        // nobody else sets it
        let _ = self.thread.set(std::thread::current());
        let mut seen = self.calls.load(SeqCst);
        while !locked(&self.queue).ended {
            let calls = self.calls.load(SeqCst);
            match try_locked(&self.lead) {
                // nobody came for a while
                Some(received) if calls == seen => {
                    self.own_leads.store(true, SeqCst);
                    self.drive(received, false, || self.following.load(SeqCst) > 0);
                    self.own_leads.store(false, SeqCst);
                    self.hand_on();
                    continue;
                }
                Some(_) => {}
                None if self.kept.load(SeqCst) => {
                    self.deep.store(true, SeqCst);
                    // it may have gone meanwhile, and seen nobody sleep
                    if self.kept.load(SeqCst) {
                        std::thread::park();
                    }
                    self.deep.store(false, SeqCst);
                    continue;
                }
                None => {}
            }
            seen = calls;
            if self.due.load(SeqCst) <= now().0
                && let Some(guard) = try_locked(&self.engine)
            {
                let _ = self.turn(guard, None, |_, _| ());
                self.look_back();
            }
            let [least, most] = LOOK;
            let wait = Nanos(self.due.load(SeqCst)).since(now()).clamp(least, most);
            std::thread::park_timeout(Duration::from_nanos(wait.0));
        }
    }
}

/// Who asks how to go on.
#[derive(Clone, Copy)]
struct Lead {
    /// It may wait where nothing but a packet reaches it.
    undisturbed: bool,
}

/// How who has the lead waits.
#[derive(Clone, Copy)]
enum Sleep {
    Not,
    Undisturbed,
    Until(u64),
}

/// What is known of the socket.
#[derive(Clone, Copy)]
enum Arrived {
    Nothing,
    /// It may hold something.
    Unknown,
    /// It was read.
    Here,
}
