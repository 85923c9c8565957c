//! Where the daemons' log goes: standard error, one line an event, for people or as JSON.
//!
//! `SELVEDGE_LOG` says how much (`error`, `warn`, `info`, `debug`, `trace`, or per room such as
//! `info,selvedge_agent=debug`), `SELVEDGE_LOG_FORMAT=json` how. Commands that answer and end log nothing below a
//! warning.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Libraries that tell more than anybody on call wants to know.
const QUIET: &str = "buoyant_kernel=warn,buoyant_kernel_engine=warn,delta_kernel=warn,deltalake_core=warn,\
    datafusion=warn,object_store=warn";

/// Begins logging at `default` unless the environment says otherwise. A filter that cannot be read is said and
/// replaced by the default.
pub(crate) fn begin(default: &str) {
    let asked = std::env::var("SELVEDGE_LOG").unwrap_or_default();
    let filter = if asked.is_empty() { default } else { &asked };
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}")).unwrap_or_else(|e| {
        eprintln!(
            "SELVEDGE_LOG is {asked:?}, expected such as info or selvedge_hub=debug ({e}); using {default}"
        );
        EnvFilter::new(format!("{QUIET},{default}"))
    });
    let out = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    // A second call changes nothing, which is fine.
    let _ = if std::env::var("SELVEDGE_LOG_FORMAT").is_ok_and(|f| f == "json") {
        out.json().try_init()
    } else {
        out.try_init()
    };
}
