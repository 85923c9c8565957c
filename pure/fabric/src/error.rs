//! What can be wrong with a specification: one comparable enum, and where in the text it is.
//!
//! Invariants: a message says what was found and what was expected, and suggests a repair where one is obvious;
//! `line` and `column` count from 1, in characters. The file's name is the caller's to give, as reading is.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::ops::Range;

/// A problem and its place in the text.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct SpecError {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The same place as bytes of the text.
    pub span: Range<usize>,
    /// What is wrong.
    pub problem: Problem,
}

impl SpecError {
    pub(crate) fn new(text: &str, span: Range<usize>, problem: Problem) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        SpecError {
            line: 1 + before.matches('\n').count() as u32,
            column: 1 + before[line_start..].chars().count() as u32,
            span,
            problem,
        }
    }
    /// `file:line:column: what is wrong`, as compilers say it.
    pub fn located(&self, file: &str) -> String {
        format!("{file}:{}:{}: {}", self.line, self.column, self.problem)
    }
    /// The line of the text with a caret under the place; empty where the text is not the one that was parsed.
    pub fn excerpt(&self, text: &str) -> String {
        let Some(line) = text.lines().nth(self.line as usize - 1) else { return String::new() };
        let room = line.chars().count() + 1 - (self.column as usize).min(line.chars().count() + 1);
        let marked =
            text.get(self.span.clone()).map_or(1, |s| s.lines().next().unwrap_or("").chars().count());
        let carets = "^".repeat(marked.min(room).max(1));
        let gutter = format!("{}", self.line);
        let pad = " ".repeat(gutter.len());
        format!("{pad} |\n{gutter} | {line}\n{pad} | {}{carets}", " ".repeat(self.column as usize - 1))
    }
}

/// What is wrong with a specification, a scenario, or the text of a fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Problem {
    /// Not TOML at all; the words are the parser's.
    #[error("this is not TOML: {0}")]
    Syntax(String),
    /// A key nobody reads.
    #[error(
        "unknown key `{key}` in {table}{}; expected one of {}",
        DidYouMean(closest(key, known)),
        List(known)
    )]
    UnknownKey {
        /// The key found.
        key: String,
        /// Where it was found, in words.
        table: &'static str,
        /// The keys there are.
        known: &'static [&'static str],
    },
    /// A key that has to be there.
    #[error("{table} has no `{key}`; expected {expected}")]
    Missing {
        /// The key that is missing.
        key: &'static str,
        /// Where, in words.
        table: &'static str,
        /// What its value would be.
        expected: &'static str,
    },
    /// A value of another type.
    #[error("`{key}` is {}; expected {expected}", Article(found))]
    WrongType {
        /// The key.
        key: String,
        /// TOML's name of the type found.
        found: &'static str,
        /// What was expected, in words.
        expected: &'static str,
    },
    /// A number outside its range.
    #[error("`{key}` is {found}; expected {low} to {high}")]
    OutOfRange {
        /// The key.
        key: String,
        /// The number as written.
        found: String,
        /// Smallest allowed.
        low: u64,
        /// Largest allowed.
        high: u64,
    },
    /// A word that is not one of those allowed.
    #[error("`{key}` is \"{found}\"{}; expected one of {}", DidYouMean(closest(found, known)), List(known))]
    NotOneOf {
        /// The key.
        key: String,
        /// The word found.
        found: String,
        /// The words allowed.
        known: &'static [&'static str],
    },
    /// A text that does not read as what it should be.
    #[error("`{key}` is \"{found}\"; expected {expected}")]
    BadValue {
        /// The key.
        key: String,
        /// The text found.
        found: String,
        /// What was expected, with an example.
        expected: &'static str,
    },
    /// The text of a fault that does not read as one.
    #[error("\"{found}\" is not a fault; expected {expected}")]
    BadFault {
        /// The text found.
        found: String,
        /// How the fault is written.
        expected: &'static str,
    },
    /// A fault on something that cannot have it.
    #[error("`{kind}` cannot happen to {target}; expected {expected}")]
    WrongTarget {
        /// The fault's first word.
        kind: &'static str,
        /// The kind of target, in words.
        target: &'static str,
        /// What it can happen to.
        expected: &'static str,
    },
    /// Rails that do not share the leaves evenly.
    #[error("{leaves} leaves do not divide by {rails} rails; expected `leaves` to be a multiple of `rails`, for instance {}", leaves.div_ceil(*rails) * rails)]
    UnevenRails {
        /// Leaves of a plane.
        leaves: u32,
        /// Rails.
        rails: u32,
    },
    /// More hosts than ports.
    #[error(
        "{hosts} hosts do not fit; expected at most {room}: {leaves} leaves / {rails} rails * {hosts_per_leaf} hosts per leaf"
    )]
    NoRoom {
        /// Hosts wanted.
        hosts: u32,
        /// Hosts that fit.
        room: u64,
        /// Leaves of a plane.
        leaves: u32,
        /// Rails.
        rails: u32,
        /// Host ports of a leaf.
        hosts_per_leaf: u32,
    },
    /// A count past what the address plan or the ids can number.
    #[error("{found} {what}; expected at most {most}")]
    TooMany {
        /// What is counted, in words.
        what: &'static str,
        /// How many there would be.
        found: u64,
        /// How many there can be.
        most: u64,
    },
    /// An oversubscription the counts contradict.
    #[error(
        "oversubscription {}:{} contradicts the rest: {down} Gbit/s of host ports against {up} Gbit/s of spine ports on each leaf{}",
        stated.0, stated.1, SpinesWouldDo(spines)
    )]
    Oversubscription {
        /// The ratio as written.
        stated: (u32, u32),
        /// Rate of a leaf's host ports, Gbit/s rounded down.
        down: u64,
        /// Rate of a leaf's spine ports, Gbit/s rounded down; of one spine's where spines are to be derived.
        up: u64,
        /// How many spines the ratio asks for, where it is a whole number.
        spines: Option<u64>,
    },
    /// A name that names nothing here.
    #[error(
        "there is no {what} \"{name}\"; this fabric has planes p0 to p{}, leaf0 to leaf{}, spine0 to spine{}, host0 to host{}, and names like {example}",
        size.0 - 1, size.1 - 1, size.2 - 1, size.3 - 1
    )]
    NoSuch {
        /// What should have been named, in words.
        what: &'static str,
        /// The name found.
        name: String,
        /// Planes, leaves, spines (of a plane) and hosts.
        size: (u32, u32, u32, u32),
        /// A name that would do.
        example: &'static str,
    },
    /// Removed a second time.
    #[error("\"{0}\" is removed twice; expected each cable at most once")]
    RemovedTwice(String),
    /// Added and removed.
    #[error("\"{0}\" is added and removed; expected neither")]
    AddedAndRemoved(String),
    /// One of several keys has to be there, and one only.
    #[error("{table} has {found} of {}; expected exactly one", List(keys))]
    ExactlyOne {
        /// Where, in words.
        table: &'static str,
        /// How many were found.
        found: u32,
        /// The keys.
        keys: &'static [&'static str],
    },
    /// A fault that ends before it begins.
    #[error("`until` is {until} and `at` is {at}; expected `until` to be later")]
    EndsEarly {
        /// Beginning.
        at: wire::Nanos,
        /// End.
        until: wire::Nanos,
    },
}

/// The known word closest to a wrong one, where it is close enough to be meant.
fn closest<'a>(found: &str, known: &'a [&'a str]) -> Option<&'a str> {
    let letters = found.chars().count();
    let most = if letters <= 3 { 1 } else { (letters / 3).max(2) };
    known.iter().map(|k| (distance(found, k), *k)).filter(|(d, _)| *d <= most).min().map(|(_, k)| k)
}

/// Edits between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: alloc::vec::Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = core::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.chars().count()]
}

struct DidYouMean<'a>(Option<&'a str>);
impl fmt::Display for DidYouMean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |word| write!(f, " (did you mean `{word}`?)"))
    }
}

struct List<'a>(&'a [&'a str]);
impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, word) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "`" } else { ", `" })?;
            write!(f, "{word}`")?;
        }
        Ok(())
    }
}

struct Article<'a>(&'a str);
impl fmt::Display for Article<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vowel = self.0.starts_with(['a', 'e', 'i', 'o']);
        write!(f, "{} {}", if vowel { "an" } else { "a" }, self.0)
    }
}

struct SpinesWouldDo<'a>(&'a Option<u64>);
impl fmt::Display for SpinesWouldDo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(n) => write!(f, "; expected spines = {n}, or no `oversubscription`"),
            None => write!(f, "; expected a ratio that a whole number of spines gives"),
        }
    }
}
