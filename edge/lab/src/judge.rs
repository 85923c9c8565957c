//! Was a verdict right? Pure: what was broken against what was found.
//!
//! An incident is right for a fault where it names one of the components that are right answers for it, as the first
//! component or among those that cannot be told from it ([`fabric::Expected`]). Its kind is judged apart: naming the
//! sick link but taking corruption for loss is right, and worth saying.

use crate::hub::Incident;
use fabric::{Expected, Fabric};

/// How one fault was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The right component, or one of its class, is first in the incident.
    pub component: bool,
    /// The verdict's kind is one of the right words.
    pub kind: bool,
}

/// Judges one incident as an answer to one fault.
pub fn judge(fabric: &Fabric, expected: &Expected, incident: &Incident) -> Judgement {
    let right = |name: &str| expected.components.iter().any(|&c| fabric.component_name(c) == name);
    Judgement {
        component: incident.names().any(right),
        kind: expected.kinds.contains(&incident.fault.kind.as_str()),
    }
}

/// What a whole run comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For each expected verdict the number of the incident that answers it.
    pub answers: Vec<Option<usize>>,
    /// Incidents that answer nothing that was broken.
    pub wrong: Vec<usize>,
}

impl Outcome {
    /// Every fault found, and nothing else.
    pub fn right(&self) -> bool {
        self.answers.iter().all(Option::is_some) && self.wrong.is_empty()
    }
}

/// Matches incidents, most confident first, with the verdicts that must come. An incident answers at most one fault.
pub fn outcome(fabric: &Fabric, expected: &[Expected], incidents: &[Incident]) -> Outcome {
    let mut answers = vec![None; expected.len()];
    let mut wrong = Vec::new();
    for (number, incident) in incidents.iter().enumerate() {
        let fits = |e: &Expected| judge(fabric, e, incident).component;
        let open = expected.iter().zip(&answers).position(|(e, a)| a.is_none() && fits(e));
        match open {
            Some(fault) => answers[fault] = Some(number),
            // a second incident about something that is broken is no false one
            None if expected.iter().any(fits) => {}
            None => wrong.push(number),
        }
    }
    Outcome { answers, wrong }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{Blamed, Found};
    use fabric::Scenario;

    const TWO: &str = r#"
        name = "two"
        [fabric]
        mode = "srv6"
        planes = 1
        leaves = 2
        spines = 2
        hosts = 4
        [[fault]]
        target = "p0-leaf0:p0-spine1"
        kind = "drop 1%"
        [[fault]]
        target = "p0-spine0"
        kind = "drop 1%"
    "#;

    fn incident(name: &str, alternatives: &[&str], kind: &str) -> Incident {
        Incident {
            id: "inc-1".into(),
            state: "open".into(),
            component: Blamed { kind: "link".into(), name: name.into() },
            alternatives: alternatives.iter().map(|s| s.to_string()).collect(),
            fault: Found { kind: kind.into(), rate: 0.01 },
            confidence: 0.99,
            first_seen: String::new(),
            closed_at: None,
            summary: String::new(),
        }
    }

    #[test]
    fn one_answer_for_each_fault() {
        let scenario = Scenario::parse(TWO).unwrap().resolve(1);
        let (fabric, expected) = (&scenario.fabric, scenario.expected());
        let link = incident("p0-leaf0:p0-spine1", &[], "loss");
        let switch = incident("p0-spine0", &[], "loss");
        let other = incident("p0-leaf1:p0-spine1", &[], "loss");
        let class = incident("p0-leaf1:p0-spine1", &["p0-leaf0:p0-spine1"], "delay");

        assert!(outcome(fabric, &expected, &[switch.clone(), link.clone()]).right());
        assert_eq!(outcome(fabric, &expected, std::slice::from_ref(&link)).answers, [Some(0), None]);
        assert_eq!(outcome(fabric, &expected, &[link.clone(), other, switch]).wrong, [1]);
        assert_eq!(judge(fabric, &expected[0], &class), Judgement { component: true, kind: false });
        assert_eq!(judge(fabric, &expected[0], &link), Judgement { component: true, kind: true });
        assert!(outcome(fabric, &[], &[]).right());
    }
}
