//! The guide to an incident: what to do, step by step, with its names, rates and times filled in.
//!
//! How: a page of `docs/guides/` for the kind of fault, one for the kind of component, and what to do afterwards, put
//! together; `{{word}}` stands for something of the incident. The pages are part of the program, so that a hub that
//! cannot reach anything still has them.
//!
//! Invariants: every kind of fault and of component has a page; every word in them is filled in.
//! Absent on purpose: running any of it.

use crate::view::{GuideView, IncidentView};

macro_rules! pages {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../../docs/guides/", $name, ".md")))),+]
    };
}

/// Pages by kind of fault.
const KINDS: &[(&str, &str)] = pages![
    "loss",
    "blackhole",
    "selective_loss",
    "corruption",
    "reorder",
    "ecn_marking",
    "delay",
    "congestion",
    "flap",
    "host_stall",
    "agent_stopped",
    "incast",
    "pfc_storm",
    "wearing",
];
/// Pages by kind of component.
const PLACES: &[(&str, &str)] = pages!["at_link", "at_switch", "at_nic", "at_host"];
const AFTER: &str = include_str!("../../../docs/guides/after.md");
/// Their pages say where to look themselves.
const WHOLE: [&str; 2] = ["host_stall", "agent_stopped"];

fn page<'a>(pages: &[(&str, &'a str)], name: &str) -> &'a str {
    pages.iter().find(|(n, _)| *n == name).map_or("", |(_, text)| text)
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p >= 10.0 => format!("{p:.0} %"),
        p if p >= 1.0 => format!("{p:.1} %"),
        p if p >= 0.1 => format!("{p:.2} %"),
        p => format!("{p:.4} %"),
    }
}

fn list(names: &[String], none: &str) -> String {
    if names.is_empty() { none.to_owned() } else { names.join(", ") }
}

/// What a word stands for.
fn word(i: &IncidentView, word: &str) -> Option<String> {
    let (f, name) = (&i.fault, &i.component.name);
    let ends = name.split_once(':');
    Some(match word {
        "id" => i.id.clone(),
        "component" => name.clone(),
        "from" => ends.map_or(name.as_str(), |(from, _)| from).to_owned(),
        "to" => ends.map_or(name.as_str(), |(_, to)| to).to_owned(),
        // a NIC is called by its host and its plane
        "host" if i.component.kind == "nic" => {
            name.rsplit_once('-').map_or(name.as_str(), |(h, _)| h).to_owned()
        }
        "host" => name.clone(),
        "rate" => percent(f.rate),
        "interval" => {
            format!("{} (95 % interval {} to {})", percent(f.rate), percent(f.rate_low), percent(f.rate_high))
        }
        "delay" => format!("{:.0} µs", f.delay_excess_ns as f64 / 1e3),
        "flap" => match &f.flap {
            Some(flap) => format!("every {:.1} s, bad {} of the time", flap.period_s, percent(flap.duty)),
            None => "without a rhythm so far".to_owned(),
        },
        "since" => i.first_seen.clone(),
        "confidence" => format!("{:.0} %", i.confidence * 100.0),
        "alternatives" => list(&i.alternatives, "nothing else"),
        "links" => list(&i.link_names, "none by themselves"),
        _ => return None,
    })
}

/// Fills in the words; one that nobody knows stays as it is.
fn fill(page: &str, i: &IncidentView) -> String {
    let mut out = String::with_capacity(page.len());
    let mut rest = page;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        match after.split_once("}}") {
            Some((name, after)) if word(i, name).is_some() => {
                out.push_str(&word(i, name).unwrap_or_default());
                rest = after;
            }
            _ => {
                out.push_str("{{");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// The guide to an incident, as Markdown.
pub(crate) fn guide(i: &IncidentView) -> GuideView {
    let kind = i.fault.kind.as_str();
    let place = if WHOLE.contains(&kind) { "" } else { page(PLACES, &format!("at_{}", i.component.kind)) };
    let pages: Vec<String> = [page(KINDS, kind), place, AFTER]
        .into_iter()
        .filter(|p| !p.is_empty())
        .map(|p| fill(p.trim_end(), i))
        .collect();
    GuideView { id: i.id.clone(), markdown: pages.join("\n\n") + "\n" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{ComponentView, FaultView};
    use diagnose::FaultKind;

    fn incident(kind: &str, component: &str, name: &str) -> IncidentView {
        IncidentView {
            id: "inc-7".into(),
            state: "open".into(),
            component: ComponentView { kind: component.into(), name: name.into(), id: 4 },
            alternatives: vec!["p0-leaf1:p0-spine1".into()],
            links: vec![4],
            link_names: vec![name.into()],
            fault: FaultView {
                kind: kind.into(),
                rate: 0.001,
                rate_low: 0.0008,
                rate_high: 0.0012,
                delay_excess_ns: 85_000,
                flap: None,
            },
            confidence: 0.97,
            first_seen: "2026-01-02T03:12:00.000Z".into(),
            last_seen: "2026-01-02T03:13:00.000Z".into(),
            opened_at: "2026-01-02T03:12:01.000Z".into(),
            closed_at: None,
            times_reopened: 0,
            summary: String::new(),
            label: None,
            care: crate::view::CareView::default(),
        }
    }

    #[test]
    fn every_kind_has_a_page_and_every_word_is_filled_in() {
        for kind in FaultKind::ALL {
            assert!(!page(KINDS, kind.as_str()).is_empty(), "docs/guides/{}.md is missing", kind.as_str());
            for component in ["link", "switch", "nic", "host"] {
                assert!(
                    !page(PLACES, &format!("at_{component}")).is_empty(),
                    "docs/guides/at_{component}.md"
                );
                let text = guide(&incident(kind.as_str(), component, "p0-leaf1:p0-spine0")).markdown;
                assert!(!text.contains("{{") && !text.contains("}}"), "{kind:?} at a {component}: {text}");
                assert!(text.contains("selvedge incidents label inc-7 right"));
            }
        }
    }

    #[test]
    fn names_rates_and_times_are_those_of_the_incident() {
        let text = guide(&incident("loss", "link", "p0-leaf1:p0-spine0")).markdown;
        for says in [
            "# p0-leaf1:p0-spine0 loses 0.10 % of its packets",
            "95 % interval 0.0800 % to 0.12 %",
            "since 2026-01-02T03:12:00.000Z",
            "at p0-spine0 towards p0-leaf1",
            "p0-leaf1:p0-spine1",
        ] {
            assert!(text.contains(says), "{says:?} is missing in {text}");
        }
        let text = guide(&incident("agent_stopped", "host", "host3")).markdown;
        assert!(text.contains("ping host3") && !text.contains("All its ports"), "{text}");
        let text = guide(&incident("loss", "nic", "host12-p1")).markdown;
        assert!(text.contains("Both directions of host12's port"), "{text}");
    }

    #[test]
    fn a_word_nobody_knows_stays() {
        let i = incident("loss", "link", "a:b");
        assert_eq!(fill("{{id}} {{what}} {{ and {{to}}", &i), "inc-7 {{what}} {{ and b");
    }
}
