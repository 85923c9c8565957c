//! `selvedge guide`: what to do about an incident, step by step.

use super::explain::find;
use crate::client::HubArgs;
use crate::out;
use hub::GuideView;
use std::process::ExitCode;

const AFTER: &str = "Examples:
  selvedge guide inc-3
  selvedge guide latest                         the most confident open incident, or else the last one
  selvedge guide inc-3 > inc-3.md               as Markdown

The pages it is made of are in docs/guides/.
Exit codes: 0 printed, 1 there is no such incident or the hub did not answer.";

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

/// Headings in bold, what is to be typed in another colour.
fn coloured(markdown: &str) -> String {
    let mut out = String::new();
    for line in markdown.lines() {
        let styled = match line.trim_start_matches('#') {
            heading if heading.len() < line.len() => format!("\x1b[1m{}\x1b[0m", heading.trim_start()),
            _ if line.starts_with("    ") => format!("\x1b[36m{line}\x1b[0m"),
            _ => {
                let parts = line.split('`').enumerate();
                parts
                    .map(
                        |(n, part)| {
                            if n % 2 == 1 { format!("\x1b[36m{part}\x1b[0m") } else { part.to_owned() }
                        },
                    )
                    .collect()
            }
        };
        out.push_str(&styled);
        out.push('\n');
    }
    out
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.hub.client()?;
    let id = find(&client, args.id)?;
    let guide: GuideView = client.get(&format!("/api/v1/incidents/{id}/guide"))?;
    if args.json {
        out::json(&guide)?;
    } else if out::coloured() {
        print!("{}", coloured(&guide.markdown));
    } else {
        print!("{}", guide.markdown);
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_sees_no_marks_of_markdown() {
        let text = coloured("# One\n\nsay `this`\n    and that\n");
        assert_eq!(text, "\x1b[1mOne\x1b[0m\n\nsay \x1b[36mthis\x1b[0m\n\x1b[36m    and that\x1b[0m\n");
    }
}
