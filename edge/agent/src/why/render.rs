//! One page of text.
//!
//! Invariants: no line is longer than [`WIDTH`] characters; colours are left to whoever prints, who knows each line's
//! [`Kind`]. Control characters from outside (names of processes and hosts) do not reach the terminal.

use super::judge::{Answer, Place, SURE, Verdict};
use serde::{Deserialize, Serialize};

/// Characters a line.
pub const WIDTH: usize = 100;

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The answer in one sentence, where something slows the connection and that is sure.
    Bad,
    /// The same, where it is not sure.
    Unsure,
    /// The same, where nothing slows it.
    Good,
    /// A heading.
    Heading,
    /// A cause.
    Cause,
    /// A number that speaks for it.
    Evidence,
    /// What to do.
    Advice,
    /// Everything else.
    Plain,
}

/// A line of the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What it is.
    pub kind: Kind,
    /// Its text, without a line end.
    pub text: String,
}

/// The page.
pub fn page(answer: &Answer) -> Vec<Line> {
    const SUBJECTS_MAX: usize = 8;
    let mut page = Page(Vec::new());
    let (kind, headline) = headline(answer);
    page.put(kind, "", &headline);
    for subject in answer.subjects.iter().take(SUBJECTS_MAX) {
        page.put(Kind::Plain, "  ", subject);
    }
    if answer.subjects.len() > SUBJECTS_MAX {
        page.put(Kind::Plain, "  ", &format!("and {} more", answer.subjects.len() - SUBJECTS_MAX));
    }
    if !answer.causes.is_empty() {
        page.put(Kind::Heading, "", "what the numbers say");
    }
    for cause in &answer.causes {
        let seen = match cause.connections.len() {
            n if n > 1 => format!(", {n} connections"),
            _ => String::new(),
        };
        let place = if matches!(cause.place, Place::Unknown | Place::Path) || cause.cause.harmless() {
            String::new()
        } else {
            format!(" at {}", cause.place)
        };
        let text = format!("{:>3.0} %  {}{place}{seen}", cause.confidence * 100.0, cause.cause.title());
        page.put(Kind::Cause, "  ", &text);
        for line in &cause.evidence {
            page.put(Kind::Evidence, "           ", line);
        }
    }
    if let Some(first) = answer.causes.first() {
        page.put(Kind::Heading, "", "what to do");
        page.put(Kind::Advice, "  ", &first.advice);
    }
    if !answer.ruled_out.is_empty() {
        page.put(Kind::Heading, "", "ruled out");
        for r in &answer.ruled_out {
            page.put(Kind::Plain, "  ", &format!("{}: {}", r.cause.title(), r.because));
        }
    }
    if !answer.missing.is_empty() {
        page.put(Kind::Heading, "", "not looked at");
        for m in &answer.missing {
            page.put(Kind::Plain, "  ", m);
        }
    }
    page.0
}

fn headline(answer: &Answer) -> (Kind, String) {
    let place = answer.causes.first().map(|c| &c.place);
    let at = match place {
        None | Some(Place::Unknown) => String::new(),
        Some(Place::Path) => String::new(),
        Some(place) => format!(", at {place}"),
    };
    match answer.verdict {
        Verdict::Slowed(cause) if answer.confidence() >= SURE => {
            (Kind::Bad, format!("{}{at}", cause.title()))
        }
        Verdict::Slowed(cause) => (Kind::Unsure, format!("probably {}{at}", cause.title())),
        Verdict::NotSlowed(cause) => {
            let text = format!("nothing of host, path or peer slows it: {}", cause.title());
            (if answer.confidence() >= SURE { Kind::Good } else { Kind::Unsure }, text)
        }
        Verdict::NotKnown => (Kind::Unsure, "not known: the facts do not decide".to_string()),
        Verdict::NothingFound => (Kind::Unsure, "there is no such connection here".to_string()),
    }
}

struct Page(Vec<Line>);

impl Page {
    /// Adds a text, broken between words where it is too long.
    fn put(&mut self, kind: Kind, indent: &str, text: &str) {
        let clean: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let mut line = String::from(indent);
        let mut empty = true;
        // spaces at the start belong to the text's shape
        let lead = clean.len() - clean.trim_start().len();
        line.push_str(clean.get(..lead).unwrap_or(""));
        for word in clean.trim_start().split(' ') {
            let mut word = word;
            loop {
                let room = WIDTH.saturating_sub(line.chars().count() + usize::from(!empty));
                let length = word.chars().count();
                if length <= room {
                    if !empty {
                        line.push(' ');
                    }
                    line.push_str(word);
                    empty = false;
                    break;
                }
                if !empty {
                    self.0.push(Line { kind, text: std::mem::take(&mut line) });
                    line = format!("{indent}  ");
                    empty = true;
                    continue;
                }
                // a word longer than a line is cut
                let cut = word.char_indices().nth(room.max(1)).map_or(word.len(), |(at, _)| at);
                line.push_str(&word[..cut]);
                word = &word[cut..];
                self.0.push(Line { kind, text: std::mem::take(&mut line) });
                line = format!("{indent}  ");
            }
        }
        self.0.push(Line { kind, text: line });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::why::judge::{Cause, Ranked, RuledOut};

    fn answer() -> Answer {
        Answer {
            verdict: Verdict::Slowed(Cause::WrongMtu),
            subjects: vec!["192.0.2.1:5000 to 192.0.2.2:80 (process 7)".into()],
            causes: vec![Ranked {
                cause: Cause::WrongMtu,
                place: Place::Path,
                confidence: 0.95,
                evidence: vec![
                    "8 of 8 echo requests of 84 bytes were answered, 0 of 8 of 1500 bytes; \u{1b}[31mred"
                        .into(),
                ],
                advice: Cause::WrongMtu.advice().into(),
                connections: vec!["a".into()],
            }],
            ruled_out: vec![RuledOut {
                cause: Cause::Unreachable,
                because: "small packets are answered".into(),
            }],
            missing: vec!["x".repeat(250)],
        }
    }

    #[test]
    fn a_page_has_the_answer_first_and_no_line_too_long() {
        let lines = page(&answer());
        assert_eq!((lines[0].kind, lines[0].text.as_str()), (Kind::Bad, "wrong MTU on the path"));
        for l in &lines {
            assert!(l.text.chars().count() <= WIDTH && !l.text.contains('\u{1b}'), "{l:?}");
        }
        let text = lines.iter().map(|l| l.text.as_str()).collect::<Vec<_>>().join("\n");
        assert!(text.contains(" 95 %  wrong MTU on the path"), "{text}");
        assert!(text.contains("unreachable peer: small packets are answered"), "{text}");
        let crosses: usize =
            text.split_whitespace().filter(|w| w.chars().all(|c| c == 'x')).map(str::len).sum();
        assert_eq!(crosses, 250, "a word longer than a line is whole on several: {text}");
    }

    #[test]
    fn json_reads_back_as_the_same_answer() {
        let read: Answer = serde_json::from_str(&serde_json::to_string(&answer()).unwrap()).unwrap();
        assert_eq!(read, answer());
    }
}
