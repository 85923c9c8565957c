//! The rules: what each cause looks like in the facts of one connection.
//!
//! How: rules of the state first (not connected yet; connected and not accepted; nothing acknowledged any more), since
//! each state has its own near-misses; then those of a connection that flows. Each number in a rule stands beside the
//! reason for it.
//!
//! Invariants: pure; a rule that lacks its source is silent. A rule gives 0.8 and more only where the facts exclude what
//! looks alike.

use super::facts::*;
use super::judge::{Cause, Found, Place, RuledOut, WORTH};
use super::signs::{Connection, End, Running, Sending};
use kernel::net_state::Resolution;
use kernel::sock_diag::State;
use std::net::IpAddr;

/// What speaks for and against, collected.
struct Case<'a> {
    facts: &'a Facts,
    found: Vec<Found>,
    ruled_out: Vec<RuledOut>,
}

impl Case<'_> {
    fn found(&mut self, cause: Cause, place: Place, confidence: f64, evidence: Vec<String>) {
        if confidence >= WORTH {
            self.found.push(Found { cause, place, confidence, evidence });
        }
    }
    fn not(&mut self, cause: Cause, because: impl Into<String>) {
        self.ruled_out.push(RuledOut { cause, because: because.into() });
    }
    fn has(&self, cause: Cause, confidence: f64) -> bool {
        self.found.iter().any(|f| f.cause == cause && f.confidence >= confidence)
    }
    fn hosts(&self) -> Vec<&EndFacts> {
        std::iter::once(&self.facts.local).chain(self.facts.peer.as_ref()).collect()
    }
}

fn at(host: &EndFacts) -> Place {
    Place::Host(host.host.clone())
}

/// Judges a connection.
pub(super) fn connection(facts: &Facts, c: &Connection<'_>) -> (Vec<Found>, Vec<RuledOut>) {
    let mut case = Case { facts, found: Vec::new(), ruled_out: Vec::new() };
    let Some(socket) = c.own.socket else { return way_only(facts) };
    let remote = socket.remote.ip();
    flapping(&mut case, c, remote);
    tables(&mut case, c, socket);
    if socket.state == State::SynSent {
        unanswered_begin(&mut case, socket, remote);
    } else {
        let sending = c.sender.and_then(Sending::of);
        let stuck = c.sender.zip(sending).is_some_and(|(end, s)| stuck(&mut case, c, end, &s));
        if !stuck {
            flowing(&mut case, c, sending);
        }
    }
    path(&mut case);
    (case.found, case.ruled_out)
}

/// Judges the way to the other end where there is no connection to look at.
pub(super) fn way_only(facts: &Facts) -> (Vec<Found>, Vec<RuledOut>) {
    let mut case = Case { facts, found: Vec::new(), ruled_out: Vec::new() };
    for way in &facts.local.ways {
        if let Some((confidence, evidence)) = no_way(&facts.local, way.to) {
            case.found(Cause::Unreachable, Place::Path, confidence, evidence);
        } else if let Some(e) = echo_to(&facts.local, way.to) {
            if silent(e) {
                let line = format!("none of {} echo requests to {} was answered", e.small_sent, e.to);
                case.found(Cause::Unreachable, Place::Path, 0.6, vec![line]);
            } else if e.small_answered > 0 {
                let line =
                    format!("{} answers echo requests: {} of {}", e.to, e.small_answered, e.small_sent);
                case.not(Cause::Unreachable, line);
            }
        }
    }
    (case.found, case.ruled_out)
}

/// Links at either end whose carrier came or went.
fn flapping(case: &mut Case<'_>, c: &Connection<'_>, remote: IpAddr) {
    let mut seen = Vec::new();
    let own = &case.facts.local;
    let used = own.ways.iter().find(|w| w.to == remote).and_then(|w| w.way.as_ref()).map(|w| w.index);
    for host in case.hosts() {
        for link in &host.links {
            let is_used = !std::ptr::eq(host, own) || used.is_none_or(|index| index == link.index);
            if is_used && link.carrier_changes > 0 {
                seen.push((at(host), link.clone(), host.interval_ms));
            }
        }
    }
    if seen.is_empty() {
        case.not(Cause::FlappingLink, "no carrier at either host's link came or went");
    }
    for (place, link, interval_ms) in seen {
        // one change can be the end or the start of a long outage; two are a flap
        let confidence = if link.carrier_changes >= 2 { 0.95 } else { 0.75 };
        let line = format!(
            "the carrier of {} changed {} times in {:.1} s ({} since it was made)",
            link.name,
            link.carrier_changes,
            f64::from(interval_ms) / 1_000.0,
            link.carrier_changes_total
        );
        let mut evidence = vec![line];
        if let Some(s) = c.sender.and_then(Sending::of) {
            evidence.push(format!(
                "{} time-outs, {} segments sent again, longest silence {} ms",
                s.timeouts, s.lost, s.stall_ms
            ));
        }
        case.found(Cause::FlappingLink, place, confidence, evidence);
    }
    let down =
        case.facts.local.links.iter().find(|l| used == Some(l.index) && !l.running && l.carrier_changes == 0);
    if let Some(link) = down {
        let line = format!("{} has no carrier", link.name);
        case.found(Cause::Unreachable, at(&case.facts.local), 0.95, vec![line]);
    }
}

/// Full tables and queues at either host.
fn tables(case: &mut Case<'_>, c: &Connection<'_>, socket: &SocketFacts) {
    let beginning = socket.state == State::SynSent;
    let tables: Vec<_> = case.hosts().iter().filter_map(|h| Some((at(h), h.conntrack?))).collect();
    let mut full = false;
    for (place, table) in tables {
        let line = format!(
            "{} of {} entries, {} packets dropped for want of room, {} insertions failed",
            table.count, table.max, table.dropped, table.insert_failed
        );
        if table.full() {
            full = true;
            // a connection that is in the table already is not held up by it
            let confidence = match (beginning, table.dropped) {
                (true, 1..) => 0.97,
                (true, 0) => 0.9,
                (false, 1..) => 0.3,
                (false, 0) => 0.0,
            };
            case.found(Cause::FullConntrack, place, confidence, vec![line]);
        }
    }
    if !full && case.facts.peer.is_some() {
        case.not(Cause::FullConntrack, "neither host's table is full");
    }
    let mut queue = false;
    let own = &case.facts.local;
    let same_host = |a: &EndFacts| {
        own.ways.iter().any(|w| w.to == socket.remote.ip() && w.way.as_ref().is_some_and(|w| w.index == 1))
            && std::ptr::eq(a, own)
    };
    let servers: Vec<&EndFacts> = case.facts.peer.iter().chain(same_host(own).then_some(own)).collect();
    for host in servers {
        let listener = host.listeners.iter().find(|l| l.local.port() == socket.remote.port());
        let Some(listener) = listener else { continue };
        let overflows = host.counter("TcpExt.ListenOverflows");
        let theirs = host.sockets.iter().find(|s| s.local == socket.remote && s.remote == socket.local);
        let half_open = theirs.is_none_or(|s| {
            !matches!(s.state, State::Established | State::CloseWait | State::FinWait1 | State::FinWait2)
        });
        let not_accepted = theirs.is_some_and(|s| s.inode == 0 && s.state == State::Established);
        let line = format!(
            "{} connections wait to be accepted on {}, {} fit; {} were turned away in the interval",
            listener.waiting_max,
            listener.local,
            u64::from(listener.limit) + 1,
            overflows
        );
        if listener.full() && (beginning || half_open) {
            queue = true;
            case.found(Cause::FullListenQueue, at(host), 0.96, vec![line]);
        } else if not_accepted && listener.waiting_max > 0 {
            queue = true;
            let own = "the connection itself waits there: no process has accepted it".to_string();
            let confidence = if listener.full() { 0.95 } else { 0.7 };
            case.found(Cause::FullListenQueue, at(host), confidence, vec![line, own]);
        } else if listener.full() {
            case.found(Cause::FullListenQueue, at(host), 0.3, vec![line]);
            queue = true;
        }
    }
    // the own end may be the one that was not accepted
    if let (Some(s), true) = (c.own.socket, !queue) {
        let listener = own.listeners.iter().find(|l| l.local.port() == s.local.port());
        if let (0, State::Established, Some(l)) = (s.inode, s.state, listener) {
            let line =
                format!("{} connections wait to be accepted on {}, this one too", l.waiting_max, l.local);
            case.found(Cause::FullListenQueue, at(own), if l.full() { 0.95 } else { 0.7 }, vec![line]);
            queue = true;
        }
    }
    if !queue && case.facts.peer.is_some() {
        case.not(Cause::FullListenQueue, "the listener's queue has room");
    }
}

/// Nothing came back to the first packet of a connection.
fn unanswered_begin(case: &mut Case<'_>, socket: &SocketFacts, remote: IpAddr) {
    let local = &case.facts.local;
    let tries = socket.timer_tries.max(socket.last.retransmits);
    let told = unreachable_told(local);
    let echo = echo_to(local, remote);
    // one that was told so at once ends before its second try; its program may try again with another
    if tries == 0 && !(told > 0 && echo.is_some_and(silent)) && no_way(local, remote).is_none() {
        return;
    }
    let tried = format!("the first packet was sent {} times and never answered", u32::from(tries) + 1);
    if let Some((confidence, mut evidence)) = no_way(local, remote) {
        evidence.push(tried);
        case.found(Cause::Unreachable, Place::Path, confidence, evidence);
        return;
    }
    match echo {
        Some(e) if e.small_answered > 0 => {
            let line = format!("{} answers echo requests: {} of {}", e.to, e.small_answered, e.small_sent);
            case.not(Cause::Unreachable, line.clone());
            case.found(Cause::Unanswered, Place::Peer, 0.7, vec![tried, line]);
        }
        _ => {
            let mut evidence = vec![tried];
            let mut confidence: f64 = 0.6;
            if let Some(e) = echo.filter(|e| silent(e)) {
                evidence.push(format!("none of {} echo requests was answered", e.small_sent));
                confidence = 0.7;
            }
            if told > 0 && echo.is_some_and(silent) {
                evidence.push(format!("{told} ICMP messages said that it cannot be reached"));
                confidence = 0.92;
            }
            confidence = confidence.max(silent_both_ways(case, socket, &mut evidence));
            case.found(Cause::Unreachable, Place::Path, confidence, evidence);
        }
    }
}

/// The peer's host could be asked by another way: it hears nothing of us either, and turns nobody away.
fn silent_both_ways(case: &Case<'_>, socket: &SocketFacts, evidence: &mut Vec<String>) -> f64 {
    let Some(peer) = &case.facts.peer else { return 0.0 };
    let back = echo_to(peer, socket.local.ip());
    if back.is_some_and(silent) || no_way(peer, socket.local.ip()).is_some() {
        evidence.push("the peer's host gets no answer from here either".to_string());
        return 0.93;
    }
    0.0
}

fn echo_to(host: &EndFacts, to: IpAddr) -> Option<&EchoFacts> {
    host.echoes.iter().find(|e| e.to == to)
}

/// Enough was asked and nothing came: one lost request in a thousand networks is no silence.
fn silent(e: &EchoFacts) -> bool {
    e.small_sent + e.full_sent >= 6 && e.small_answered + e.full_answered == 0
}

fn unreachable_told(host: &EndFacts) -> u64 {
    host.counter("Icmp.InDestUnreachs") + host.counter("Icmp6InDestUnreachs")
}

/// The own host knows that there is no way.
fn no_way(host: &EndFacts, to: IpAddr) -> Option<(f64, Vec<String>)> {
    let way = host.ways.iter().find(|w| w.to == to)?;
    if let Some(refused) = &way.refused {
        return Some((0.96, vec![format!("no way to {to}: {refused}")]));
    }
    if matches!(way.next_hop, Some(Resolution::Failed | Resolution::Incomplete))
        && echo_to(host, to).is_none_or(|e| e.small_answered == 0)
    {
        let hop = way.way.as_ref().and_then(|w| w.via).unwrap_or(to);
        return Some((0.95, vec![format!("nobody on the link answers for {hop}, the next hop to {to}")]));
    }
    None
}

/// Data is under way and nothing is acknowledged any more. Whether it is so.
fn stuck(case: &mut Case<'_>, c: &Connection<'_>, sender: End<'_>, s: &Sending) -> bool {
    let Some(socket) = sender.socket else { return false };
    // two time-outs in a row are more than a bad moment
    let tries = socket.last.backoff.max(socket.timer_tries);
    if socket.timer == 4 || socket.last.unacked == 0 || tries < 2 || !s.stalled_now {
        return false;
    }
    let peer = socket.remote.ip();
    let what = format!(
        "nothing was acknowledged for {} ms; the same data was sent again {} times in vain, {} bytes each at most",
        s.stall_ms, tries, socket.last.send_mss
    );
    if let Some((confidence, mut evidence)) = no_way(sender.host, peer) {
        evidence.push(what);
        case.found(Cause::Unreachable, Place::Path, confidence, evidence);
        return true;
    }
    let echo = echo_to(sender.host, peer);
    let back = c.receiver.and_then(|r| echo_to(r.host, socket.local.ip()));
    // segments as large as the path is taken for: the smaller ones of a black hole would have passed
    let full_size = socket.last.send_mss + 60 + 40 >= socket.last.path_mtu;
    let small_pass = echo.is_some_and(|e| e.small_answered * 2 > e.small_sent);
    if let Some(e) = echo.filter(|e| full_vanish(e)) {
        let confidence = if full_size { 0.96 } else { 0.75 };
        case.not(Cause::Unreachable, "small packets are answered");
        case.found(Cause::WrongMtu, Place::Path, confidence, vec![sizes(e), what]);
        return true;
    }
    if small_pass {
        case.not(Cause::Unreachable, "echo requests are answered");
        case.not(Cause::WrongMtu, "full-size packets are answered");
        case.found(Cause::Unanswered, Place::Peer, 0.6, vec![what]);
        return true;
    }
    // no echo to go by: what the peer acknowledges out of order must have reached it
    let heard = socket.last.sacked > 0 || socket.samples.iter().any(|m| m.sacked > 0);
    if heard && full_size {
        let line =
            format!("later, smaller segments arrived: {} acknowledged out of order", socket.last.sacked);
        case.found(Cause::WrongMtu, Place::Path, 0.75, vec![line, what]);
        return true;
    }
    let mut evidence = vec![what];
    let mut confidence: f64 = 0.55;
    if let Some(e) = echo.filter(|e| silent(e)) {
        evidence.push(format!("none of {} echo requests was answered", e.small_sent));
        confidence = 0.75;
    }
    let told = unreachable_told(sender.host);
    if told > 0 && echo.is_some_and(silent) {
        evidence.push(format!("{told} ICMP messages said that it cannot be reached"));
        confidence = 0.92;
    }
    if echo.is_some_and(silent) && back.is_some_and(silent) {
        evidence.push("the peer's host gets no answer from here either".to_string());
        confidence = 0.93;
    }
    case.found(Cause::Unreachable, Place::Path, confidence, evidence);
    true
}

/// A connection that flows, however slowly.
fn flowing(case: &mut Case<'_>, c: &Connection<'_>, sending: Option<Sending>) {
    readers(case, c, sending.as_ref());
    let Some(s) = sending else { return };
    losses(case, c, &s);
    starved_sender(case, c, &s);
    let quiet = !case.found.iter().any(|f| f.confidence >= 0.4);
    if !quiet {
        return;
    }
    if s.backlog < 0.1 && s.by_buffer < 0.2 {
        idle(case, c, &s);
        return;
    }
    if s.by_buffer > 0.5 {
        let line = format!("the own buffer held it up {:.0} % of the time", s.by_buffer * 100.0);
        case.found(Cause::SmallSendBuffer, c.sender.map_or(Place::Unknown, |e| at(e.host)), 0.7, vec![line]);
    }
    let line = format!(
        "{:.1} Mbit/s got through; {} of {} segments lost, round trip {:.2} ms (at least {:.2} ms)",
        s.rate * 8.0 / 1e6,
        s.lost,
        s.segments,
        s.rtt_ms,
        s.rtt_min_ms
    );
    case.found(Cause::RunsWell, Place::Unknown, 0.7, vec![line]);
}

/// Nothing waits to be sent.
fn idle(case: &mut Case<'_>, c: &Connection<'_>, s: &Sending) {
    // An end that neither sends nor receives says nothing of what the other one tries in vain.
    let silent = s.segments == 0 && c.receiver.and_then(|r| r.socket).is_none();
    if silent
        && let Some(socket) = c.own.socket
        && let Some(e) = echo_to(c.own.host, socket.remote.ip())
        && full_vanish(e)
    {
        case.found(Cause::WrongMtu, Place::Path, 0.7, vec![sizes(e)]);
        return;
    }
    let line = format!(
        "nothing waited to be sent in {:.0} % of the samples; data was under way {:.0} % of the time",
        (1.0 - s.backlog) * 100.0,
        s.busy * 100.0
    );
    let confidence = match (silent, s.lost == 0 && s.by_window < 0.05) {
        (true, _) => 0.5,
        (false, true) => 0.9,
        (false, false) => 0.6,
    };
    case.found(Cause::NothingToSend, c.sender.map_or(Place::Unknown, |e| at(e.host)), confidence, vec![line]);
}

/// Small echo requests are answered, full-size ones never.
fn full_vanish(e: &EchoFacts) -> bool {
    e.small_answered * 2 > e.small_sent && e.full_sent >= 4 && e.full_answered == 0
}

fn sizes(e: &EchoFacts) -> String {
    format!(
        "{} of {} echo requests of {} bytes were answered, {} of {} of {} bytes",
        e.small_answered, e.small_sent, e.small_bytes, e.full_answered, e.full_sent, e.full_bytes
    )
}

/// The receiving end holds it up.
fn readers(case: &mut Case<'_>, c: &Connection<'_>, s: Option<&Sending>) {
    let receiver = c.receiver.filter(|r| r.socket.is_some());
    let unread = receiver.and_then(|r| r.socket);
    // what the sender felt of it
    let held = s.map_or(0.0, |s| s.by_window.max(s.shut));
    // a buffer that is full all the time is a sign even where the sender is not known
    let piled = unread.map_or(0.0, SocketFacts::piled);
    let strength = match (s, unread) {
        // the sender waits for the window, and data lies unread
        (Some(_), Some(_)) => held.min(0.3 + piled),
        (Some(_), None) => held,
        (None, Some(_)) => piled * 0.9,
        (None, None) => 0.0,
    };
    if strength < 0.25 {
        if s.is_some() {
            case.not(
                Cause::SlowReader,
                format!("the peer's window held it up {:.0} % of the time", held * 100.0),
            );
        }
        return;
    }
    let mut evidence = Vec::new();
    if let Some(s) = s {
        evidence.push(format!(
            "the peer's window held it up {:.0} % of the busy time, and was shut in {:.0} % of the samples",
            s.by_window * 100.0,
            s.shut * 100.0
        ));
    }
    if let Some(socket) = unread {
        evidence.push(format!(
            "data lay unread in {:.0} % of the samples, {} bytes in the middle one: its buffer was {:.0} % full",
            socket.share(|m| m.receive_queue > 0) * 100.0,
            socket.median(|m| m.receive_queue),
            piled * 100.0
        ));
    }
    let base = (0.55 + strength * 0.45).min(0.97);
    let Some((running, process)) = receiver.and_then(Running::of) else {
        // the reader's processor is only known at its host
        case.found(Cause::SlowReader, Place::Peer, base.min(0.6), evidence.clone());
        case.found(Cause::StarvedReceiver, Place::Peer, base.min(0.6) * 0.5, evidence);
        return;
    };
    let place = receiver.map_or(Place::Peer, |r| at(r.host));
    let line = format!(
        "its reader {} ({}) ran {:.0} % of the time and was kept from running {:.0} % ({:.0} % by a quota)",
        process.name,
        process.pid,
        running.ran * 100.0,
        running.kept_waiting * 100.0,
        running.throttled * 100.0
    );
    evidence.push(line);
    if running.stopped {
        evidence.push("it is stopped by a signal or a debugger".to_string());
    }
    // of the time it wanted to run, how much it was kept from it; a program that sleeps wants little
    let starved = if running.stopped { 0.0 } else { ramp(running.kept_waiting, 0.2, 0.6) };
    // On a busy host a reader is late also where something else holds the connection up; only the sender feels which.
    let felt = if s.is_some() { 1.0 } else { 0.75 / 0.97 };
    case.found(Cause::StarvedReceiver, place.clone(), base * starved * felt, evidence.clone());
    case.found(Cause::SlowReader, place, base * (1.0 - starved), evidence);
}

/// 0 below `from`, 1 above `to`, straight between.
fn ramp(x: f64, from: f64, to: f64) -> f64 {
    ((x - from) / (to - from)).clamp(0.0, 1.0)
}

/// Losses, and whether a queue stands behind them.
fn losses(case: &mut Case<'_>, c: &Connection<'_>, s: &Sending) {
    let link = c.sender.and_then(|e| {
        let way = e.host.ways.iter().find(|w| Some(w.to) == e.socket.map(|s| s.remote.ip()))?;
        e.host.links.iter().find(|l| Some(l.index) == way.way.as_ref().map(|w| w.index))
    });
    let own_drops = link.map_or(0, |l| l.queue_drops);
    let own_queue = link.is_some_and(|l| l.looks > 0 && l.queue_busy_looks * 2 > l.looks);
    let queueing_ms = s.queueing_ms();
    let line = format!(
        "{} of {} segments lost ({:.2} %), {} time-outs; losses in {:.0} % of the samples",
        s.lost,
        s.segments,
        s.loss * 100.0,
        s.timeouts,
        s.loss_spread * 100.0
    );
    let delay = format!(
        "round trip {:.2} ms, {:.2} to {:.2}, at least {:.2}: {:.2} ms of queueing",
        s.rtt_ms, s.rtt_low_ms, s.rtt_high_ms, s.rtt_min_ms, queueing_ms
    );
    let marks = format!("{:.1} % of the segments marked as congested", s.marked * 100.0);
    // a queue: the round trip stands well above its least, and stays there
    let standing = (s.rtt_low_ms - s.rtt_min_ms).max(0.0);
    let queue = ramp(standing, 0.5, 2.0).min(ramp(s.rtt_ms / s.rtt_min_ms.max(0.01), 1.5, 3.0));
    // while the peer's window holds it up, nothing of it queues on the path, and its few round trips tell nothing
    let queue = queue * (1.0 - ramp(s.by_window.max(s.shut), 0.2, 0.5));
    let full = queue.max(ramp(s.marked, 0.002, 0.02)).max(if own_queue || own_drops > 0 { 0.9 } else { 0.0 });
    let busy = ramp(s.busy, 0.2, 0.6).max(ramp(s.backlog, 0.2, 0.6));
    let lossy = s.lost >= 3 && s.loss >= 0.000_5;
    if !lossy {
        case.not(Cause::LossyLink, line.clone());
    }
    if own_queue || own_drops > 0 {
        let l = link.map(|l| {
            format!(
                "the queue of {} dropped {} packets and held up to {} bytes",
                l.name, l.queue_drops, l.queue_bytes_max
            )
        });
        let mut evidence = vec![line, delay, marks];
        evidence.extend(l);
        let place = c.sender.map_or(Place::Path, |e| at(e.host));
        case.found(Cause::CongestedLink, place, if own_drops > 0 { 0.9 } else { 0.8 } * busy, evidence);
        return;
    }
    if full < 0.3 {
        case.not(Cause::CongestedLink, format!("no queue: {delay}"));
    }
    if s.silences >= 2 && s.timeouts >= 2 && s.loss_spread < 0.6 {
        let evidence = vec![
            line.clone(),
            format!(
                "{} silences, the longest {} ms: all was lost for a while, then nothing",
                s.silences, s.stall_ms
            ),
        ];
        case.found(Cause::FlappingLink, Place::Path, 0.6, evidence);
    }
    if lossy {
        // enough losses to tell: five are a hint, thirty are plenty
        let enough = 0.5 + 0.5 * ramp(s.lost as f64, 3.0, 20.0);
        let mut evidence = vec![line.clone(), delay.clone(), marks.clone()];
        let mut confidence = 0.95 * enough * (1.0 - full);
        // Losses at random seldom take a whole window. A carrier at the other host that comes and goes does, and only
        // that host sees it.
        if case.facts.peer.is_none() && s.timeouts >= 3 {
            confidence = confidence.min(0.75);
            evidence.push(
                "a link of the other host that comes and goes would look the same from here".to_owned(),
            );
        }
        case.found(Cause::LossyLink, Place::Path, confidence, evidence);
    }
    // a queue without loss is congestion too, only less sure
    let loss_part = if lossy { 0.95 } else { 0.85 };
    case.found(Cause::CongestedLink, Place::Path, loss_part * full * busy, vec![line.clone(), delay, marks]);
    if s.reordered > 0 && s.needless >= 5 && s.needless * 2 > s.lost + s.needless {
        let line = format!(
            "{} of {} repeats were not needed, packets overtook each other {} times",
            s.needless,
            s.lost + s.needless,
            s.reordered
        );
        case.found(Cause::Reordering, Place::Path, 0.6, vec![line]);
    }
}

/// The sender wants to write and gets no processor.
fn starved_sender(case: &mut Case<'_>, c: &Connection<'_>, s: &Sending) {
    let Some((running, process)) = c.sender.and_then(Running::of) else { return };
    // what waits in the socket needs no program to be sent
    let idle = 1.0 - s.backlog.max(s.by_window);
    let starved = ramp(running.kept_waiting, 0.25, 0.7) * ramp(idle, 0.3, 0.8);
    let line = format!(
        "{} ({}) ran {:.0} % of the time and was kept from running {:.0} % ({:.0} % by a quota)",
        process.name,
        process.pid,
        running.ran * 100.0,
        running.kept_waiting * 100.0,
        running.throttled * 100.0
    );
    if starved < WORTH {
        case.not(Cause::StarvedSender, line);
        return;
    }
    let waits = format!("nothing waited in its socket in {:.0} % of the samples", (1.0 - s.backlog) * 100.0);
    case.found(
        Cause::StarvedSender,
        c.sender.map_or(Place::Unknown, |e| at(e.host)),
        0.9 * starved,
        vec![line, waits],
    );
}

/// What the hub knows of the path.
fn path(case: &mut Case<'_>) {
    let Some(path) = case.facts.path.clone() else { return };
    for link in &path.links {
        let cause = match link.sickness {
            Sickness::Loss => Cause::LossyLink,
            Sickness::Congestion => Cause::CongestedLink,
            Sickness::Down => Cause::Unreachable,
            Sickness::Flapping => Cause::FlappingLink,
        };
        let line =
            format!("link {} of the path has a verdict, {:.0} % sure", link.name, link.confidence * 100.0);
        match case.found.iter_mut().find(|f| f.cause == cause) {
            // two that saw it apart
            Some(f) => {
                f.confidence = 1.0 - (1.0 - f.confidence) * (1.0 - 0.7 * link.confidence.clamp(0.0, 1.0));
                f.evidence.push(line);
            }
            // a sick link this connection does not feel is no cause of its trouble
            None => case.found(cause, Place::Path, 0.3 * link.confidence, vec![line]),
        }
    }
    let clean = path.probes_sent >= 1_000 && path.probes_lost == 0 && path.links.is_empty();
    if clean && !case.has(Cause::LossyLink, 0.5) {
        case.not(Cause::LossyLink, format!("none of {} probes of the path was lost", path.probes_sent));
    }
}
