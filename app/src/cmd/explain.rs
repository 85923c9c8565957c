//! `selvedge explain`: why a verdict was reached, as a story.

use super::incidents::{ago, percent};
use crate::client::{Client, HubArgs};
use crate::out;
use hub::{IncidentDetail, TallyView};
use std::process::ExitCode;

const AFTER: &str = "Examples:
  selvedge explain inc-3
  selvedge explain inc-3 --json
  selvedge explain latest                       the most confident open incident, or else the last one

Exit codes: 0 explained, 1 there is no such incident or the hub did not answer.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// The incident, such as inc-3, or latest
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    hub: HubArgs,
}

fn tally(t: &TallyView) -> String {
    format!("{} observations, {} packets, {} hurt", t.observations, t.sent, t.hurt)
}

/// What a person would do about it.
fn advice(d: &IncidentDetail) -> String {
    let i = &d.incident;
    let name = &i.component.name;
    if i.state == "closed" {
        return format!(
            "It has healed by itself or was mended. If it comes back, {name} is the first to replace. \
             Say whether this verdict was right: selvedge incidents label {} right|wrong|partly.",
            i.id
        );
    }
    let look = match (i.component.kind.as_str(), i.fault.kind.as_str()) {
        ("link", "loss" | "corruption") => format!(
            "Take {name} out of service, then look at its optics and cable: receive power at the far end, \
             FEC and CRC counters at both ends. Clean, reseat, replace."
        ),
        ("link", "blackhole") => {
            format!("{name} carries nothing: check that both ports are up and cabled as planned.")
        }
        ("link" | "switch", "selective_loss") => format!(
            "Some flows are lost wholly over {name}, others not at all: look for a bad entry in a forwarding or \
             hash table, or a sick member of a bundle. Draining it helps at once; a reboot of the line card often mends it."
        ),
        ("link" | "switch", "delay" | "congestion" | "ecn_marking") => format!(
            "Packets wait at {name}: look at its queues and at who sends through it; if its rate is lower than planned, \
             at the negotiated speed."
        ),
        (_, "pfc_storm") => format!(
            "{name} asks its neighbours to pause nearly all the time, and what is held up waits for it: take it out of \
             service, then look at its host, its NIC's firmware and its receive buffers."
        ),
        (_, "incast") => format!(
            "Many hosts send to the one behind {name} at the same moment: nothing is broken. Look at which job does so, and \
             spread it in time or give it another collective."
        ),
        (_, "wearing") => format!(
            "Packets still arrive over {name}, but ever more of them damaged and corrected: plan to clean or change its \
             optics and cable before they do not."
        ),
        ("link", "flap") => {
            format!("{name} goes up and down: take it out of service and look at its optics and cable.")
        }
        ("switch", _) => format!(
            "Many ports of {name} suffer: drain the switch, then look at its fabric counters, memory errors and power."
        ),
        ("nic", _) => format!(
            "Both directions of {name} suffer: look at the NIC's and the leaf port's counters, then at cable, NIC and PCIe."
        ),
        ("host", "agent_stopped") => {
            format!("The agent of {name} is not heard: is the machine up, and the agent running?")
        }
        ("host", _) => format!(
            "The network around {name} is fine; the machine is slow: look at its CPU, interrupts and memory."
        ),
        _ => format!("Look at {name}."),
    };
    let also = if i.alternatives.is_empty() {
        String::new()
    } else {
        " If that finds nothing, look at the alternatives above: the evidence fits them as well.".to_owned()
    };
    format!("{look}{also}")
}

fn story(d: &IncidentDetail) -> String {
    let i = &d.incident;
    let mut out = String::new();
    let mut line = |label: &str, text: String| out.push_str(&format!("{label:<14}{text}\n"));
    line("Incident", format!("{}, {}", i.id, i.state));
    line("What", i.summary.clone());
    let f = &i.fault;
    let interval =
        format!("{} (95 % interval {} to {})", percent(f.rate), percent(f.rate_low), percent(f.rate_high));
    match f.kind.as_str() {
        "delay" => line("Size", format!("{:.1} µs above usual", f.delay_excess_ns as f64 / 1e3)),
        "host_stall" | "agent_stopped" | "pfc_storm" | "wearing" => {}
        _ => line("Size", format!("{interval} of the packets that cross it")),
    }
    if let Some(flap) = &f.flap {
        line("Rhythm", format!("every {:.1} s, bad {} of the time", flap.period_s, percent(flap.duty)));
    }
    line("Where", format!("{} {}", i.component.kind, i.component.name));
    if !i.link_names.is_empty() && i.component.kind != "link" {
        line("Links", i.link_names.join(", "));
    }
    line("Since", format!("{} ({})", i.first_seen, ago(&i.first_seen)));
    match &i.closed_at {
        Some(t) => line("Until", format!("{} (found healed {t})", i.last_seen)),
        None => line("Last seen", format!("{} ({})", i.last_seen, ago(&i.last_seen))),
    }
    line("How sure", format!("{:.0} %", i.confidence * 100.0));
    let e = &d.evidence;
    line("For", format!("crossed it and suffered: {}, in {} moments", tally(&e.crossing_hurt), e.moments));
    line("Against", format!("crossed it and were fine: {}", tally(&e.crossing_fine)));
    line("", format!("suffered elsewhere meanwhile: {}", tally(&e.elsewhere_hurt)));
    for c in &e.counters {
        let side = if c.weight >= 0.0 { "For" } else { "Against" };
        let of = if c.of > 0 { format!(" of {}", c.of) } else { String::new() };
        line(side, format!("counted at {}: {} {}{of}", c.component, c.events, c.counter.replace('_', " ")));
    }
    if e.senders > 0 {
        line("Senders", format!("{} hosts at once", e.senders));
    }
    if !e.victims.is_empty() {
        line("Held up", e.victims.join(", "));
    }
    if !e.exemplars.is_empty() {
        let some: Vec<String> =
            e.exemplars.iter().take(4).map(|x| format!("{} #{}", x.producer, x.sequence)).collect();
        line("For example", format!("{} of {}", some.join(", "), e.exemplars.len()));
    }
    line(
        "Alternatives",
        if i.alternatives.is_empty() {
            "none: nothing else explains it as well".to_owned()
        } else {
            format!("{} (the evidence cannot tell them apart)", i.alternatives.join(", "))
        },
    );
    for (n, entry) in d.timeline.iter().enumerate() {
        line(if n == 0 { "History" } else { "" }, format!("{}  {}", entry.at, entry.text));
    }
    if let Some(l) = &i.label {
        line("Judged", format!("{:?} {}", l.judgement, l.note).to_lowercase());
    }
    line("What to do", advice(d));
    line("Step by step", format!("selvedge guide {}", i.id));
    out
}

/// The incident that is meant: `latest` is the most confident open one, or else the one seen last.
pub(crate) fn find(client: &Client, id: String) -> anyhow::Result<String> {
    if id != "latest" {
        return Ok(id);
    }
    let mut all: Vec<hub::IncidentView> = client.get("/api/v1/incidents")?;
    // Open ones come first, most confident first; of closed ones the newest is meant.
    if all.first().is_some_and(|i| i.state == "closed") {
        all.sort_by(|a, b| b.last_seen.cmp(&a.last_seen));
    }
    match all.first() {
        Some(i) => Ok(i.id.clone()),
        None => anyhow::bail!("the hub knows no incident"),
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.hub.client()?;
    let id = find(&client, args.id)?;
    let detail: IncidentDetail = client.get(&format!("/api/v1/incidents/{id}"))?;
    if args.json {
        out::json(&detail)?;
    } else {
        print!("{}", story(&detail));
    }
    Ok(ExitCode::SUCCESS)
}
