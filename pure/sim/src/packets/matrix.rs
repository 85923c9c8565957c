//! Connection matrices: who sends how much to whom, and when.
//!
//! The text is a line `Nodes N`, perhaps `Connections N` and `Triggers N`, then one flow a line: `FROM->TO` followed by
//! pairs of words: `id N`, `start US`, `size BYTES`, `trigger N` (starts when trigger N fires), `send_done_trigger N`
//! and `recv_done_trigger N` (fires it), and the word `msg` for a message of the connection of the same id. A trigger
//! line is `trigger id N oneshot|multishot|barrier [count N]`.
//!
//! Invariants: every host is below `nodes`; every trigger that starts a flow exists or is fired by one.
//! Absent on purpose: failures; they are the run's own.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// What is wrong with a matrix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: expected {expected}, found {found:?}")]
pub struct MatrixError {
    /// Counted from 1; 0 for the text as a whole.
    pub line: usize,
    /// What should stand there.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

/// One flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Sending host.
    pub from: u32,
    /// Receiving host.
    pub to: u32,
    /// As in the file; 0 where it says none.
    pub id: u32,
    /// When it starts, picoseconds. Ignored where a trigger starts it.
    pub start_ps: u64,
    /// Bytes to send.
    pub bytes: u64,
    /// A message of the connection of the same id and hosts.
    pub message: bool,
    /// The trigger that starts it.
    pub starts_on: Option<u32>,
    /// The trigger fired when everything was acknowledged.
    pub fires_sent: Option<u32>,
    /// The trigger fired when everything arrived.
    pub fires_received: Option<u32>,
}

/// When a trigger acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Its number.
    pub id: u32,
    /// Times it must be fired before it starts what waits for it. 1 unless it is a barrier.
    pub count: u32,
}

/// A whole matrix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matrix {
    /// Hosts.
    pub nodes: u32,
    /// Flows in the order of the file.
    pub flows: Vec<Flow>,
    /// Triggers declared.
    pub triggers: Vec<Trigger>,
}

/// Most hosts and flows a matrix may have.
const COUNT_MAX: u64 = 1 << 20;
/// Longest flow, bytes.
const BYTES_MAX: u64 = 4_000_000_000;

impl Matrix {
    /// Reads a matrix.
    pub fn parse(text: &str) -> Result<Self, MatrixError> {
        let mut m = Matrix::default();
        for (i, raw) in text.lines().enumerate() {
            let line = i + 1;
            let bad = |expected: &str, found: &str| MatrixError {
                line,
                expected: expected.to_string(),
                found: found.to_string(),
            };
            let words: Vec<&str> = raw.split_whitespace().collect();
            let Some(&first) = words.first() else { continue };
            let number = |i: usize, what: &str, most: u64| -> Result<u64, MatrixError> {
                let word = words.get(i).copied().unwrap_or("");
                word.parse().ok().filter(|&n| n <= most).ok_or_else(|| bad(what, word))
            };
            match first.to_ascii_lowercase().as_str() {
                "nodes" => m.nodes = number(1, "a number of hosts, at most 1048576", COUNT_MAX)? as u32,
                "connections" => drop(number(1, "a number of connections", COUNT_MAX)?),
                "triggers" => drop(number(1, "a number of triggers", COUNT_MAX)?),
                "trigger" => {
                    let id = number(2, "`trigger id N oneshot|multishot|barrier`", COUNT_MAX)? as u32;
                    let count = match words.get(3).copied() {
                        Some("oneshot" | "multishot") => 1,
                        Some("barrier") => number(5, "`count N` after barrier", COUNT_MAX)?.max(1) as u32,
                        other => return Err(bad("oneshot, multishot or barrier", other.unwrap_or(""))),
                    };
                    m.triggers.push(Trigger { id, count });
                }
                w if w.starts_with('#') => {}
                _ => m.flows.push(flow(&words, m.nodes, &bad)?),
            }
        }
        let whole =
            |expected: &str, found: String| MatrixError { line: 0, expected: expected.to_string(), found };
        if m.nodes == 0 {
            return Err(whole("a line `Nodes N`", String::new()));
        }
        if m.flows.is_empty() {
            return Err(whole("at least one flow, like `0->1 start 0 size 2000000`", String::new()));
        }
        let fired = |id| m.flows.iter().any(|f| f.fires_sent == Some(id) || f.fires_received == Some(id));
        if let Some(id) = m.flows.iter().filter_map(|f| f.starts_on).find(|&id| !fired(id)) {
            return Err(whole("a flow that fires the trigger another waits for", id.to_string()));
        }
        Ok(m)
    }
}

fn flow(words: &[&str], nodes: u32, bad: &dyn Fn(&str, &str) -> MatrixError) -> Result<Flow, MatrixError> {
    let ends = words.first().copied().unwrap_or("");
    let host = |s: &str| s.parse::<u32>().ok().filter(|&h| h < nodes);
    let (from, to) = ends
        .split_once("->")
        .and_then(|(a, b)| Some((host(a)?, host(b)?)))
        .filter(|(a, b)| a != b)
        .ok_or_else(|| bad("`FROM->TO`, two different hosts below Nodes", ends))?;
    let mut f = Flow { from, to, ..Flow::default() };
    let mut i = 1;
    while let Some(&key) = words.get(i) {
        i += 1;
        if key == "msg" {
            f.message = true;
            continue;
        }
        let word = words.get(i).copied().unwrap_or("");
        i += 1;
        let value = |most: u64, what: &str| -> Result<u64, MatrixError> {
            word.parse().ok().filter(|&n| n <= most).ok_or_else(|| bad(what, word))
        };
        match key {
            "id" => f.id = value(u64::from(u32::MAX), "a number after `id`")? as u32,
            "start" => {
                let us: f64 = word
                    .parse()
                    .ok()
                    .filter(|t| (0.0..1e9).contains(t))
                    .ok_or_else(|| bad("microseconds after `start`", word))?;
                f.start_ps = (us * 1e6) as u64;
            }
            "size" => f.bytes = value(BYTES_MAX, "bytes after `size`, at most 4000000000")?,
            "trigger" => f.starts_on = Some(value(COUNT_MAX, "a trigger's number")? as u32),
            "send_done_trigger" => f.fires_sent = Some(value(COUNT_MAX, "a trigger's number")? as u32),
            "recv_done_trigger" => f.fires_received = Some(value(COUNT_MAX, "a trigger's number")? as u32),
            "prio" => drop(value(u64::from(u32::MAX), "a number after `prio`")?),
            _ => {
                return Err(bad(
                    "id, msg, start, size, trigger, send_done_trigger or recv_done_trigger",
                    key,
                ));
            }
        }
    }
    if f.bytes == 0 {
        return Err(bad("`size BYTES`, not zero", ends));
    }
    Ok(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_experiments_use() {
        let m = Matrix::parse(
            "Nodes 4\nConnections 2\nTriggers 1\n0->1 id 1 start 1.5 size 10 send_done_trigger 7\n\
                               2->3 id 2 msg trigger 7 size 20\ntrigger id 7 barrier count 2\n",
        )
        .unwrap();
        assert_eq!(m.nodes, 4);
        assert_eq!((m.flows[0].start_ps, m.flows[0].fires_sent), (1_500_000, Some(7)));
        assert!(m.flows[1].message);
        assert_eq!(m.triggers, [Trigger { id: 7, count: 2 }]);
    }

    #[test]
    fn errors_name_the_line_and_what_was_expected() {
        let say = |t: &str| Matrix::parse(t).unwrap_err().to_string();
        assert_eq!(
            say("Nodes 4\n0->4 start 0 size 1"),
            "line 2: expected `FROM->TO`, two different hosts below Nodes, found \"0->4\""
        );
        assert_eq!(
            say("Nodes 4\n0->1 start 0 size x"),
            "line 2: expected bytes after `size`, at most 4000000000, found \"x\""
        );
        assert!(say("0->1 size 1").contains("line 1"));
        assert!(say("Nodes 4").contains("at least one flow"));
        assert!(say("Nodes 4\n0->1 size 5 trigger 3").contains("found \"3\""));
    }
}
