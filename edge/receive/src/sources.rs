//! Which sources there are besides flows, as a file says it, and the one start of all of them.
//!
//! Invariants: nothing runs before every section was checked; files a section names are beside the file it stands in.
//! Absent on purpose: reading that file, which is whose file it is.

use crate::door::Running;
use crate::error::ReceiveError;
use crate::intake::Intake;
use crate::names::Names;
use crate::rows::Row;
use crate::{gnmi, observe, otlp, scrape, setting, syslog};
use fabric::Fabric;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Rows that may wait for the hub.
pub const ROOM: usize = 65_536;

/// Where the names of devices and ports are said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamesSection {
    /// The file, TOML; see [`crate::names`].
    pub file: PathBuf,
}

/// The sources of a receivers file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sources {
    /// What devices and ports are called; left out: as in the fabric.
    pub names: Option<NamesSection>,
    /// Devices that are asked by gNMI.
    pub gnmi: Vec<gnmi::Config>,
    /// OpenTelemetry.
    pub otlp: Option<otlp::Config>,
    /// Exporters that are scraped.
    pub scrape: Vec<scrape::Config>,
    /// Syslog.
    pub syslog: Option<syslog::Config>,
}

/// What runs, until it is dropped.
#[derive(Debug)]
pub struct Receiving {
    /// What was heard and dropped so far.
    pub intake: Arc<Intake>,
    /// Where it listens: receiver, door, address.
    pub bound: Vec<(&'static str, &'static str, std::net::SocketAddr)>,
    _running: Vec<Running>,
}

/// The mapping of a section; what it leaves open is logged.
fn names(section: Option<&NamesSection>, base: &Path, fabric: Arc<Fabric>) -> Result<Names, ReceiveError> {
    let Some(section) = section else { return Ok(Names::identity(fabric)) };
    let path = base.join(&section.file);
    let wrong = |reason: String| ReceiveError::File { path: path.clone(), reason };
    let text = std::fs::read_to_string(&path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let (names, findings) = Names::parse(&text, fabric).map_err(|e| wrong(e.to_string()))?;
    for finding in findings {
        tracing::warn!("{}", finding.located(&path.display().to_string()));
    }
    Ok(names)
}

impl Sources {
    /// Reads them from a text.
    pub fn parse(text: &str) -> Result<Sources, crate::FileError> {
        setting::parse(text)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.gnmi.is_empty() && self.scrape.is_empty() && self.otlp.is_none() && self.syslog.is_none()
    }

    /// Begins to receive. `base` is the directory of relative paths; rows come out at the second value, at most `room`
    /// waiting. To be awaited within a runtime whose other tasks then do the work.
    pub async fn start(
        &self,
        base: &Path,
        fabric: Arc<Fabric>,
        room: usize,
    ) -> Result<(Receiving, mpsc::Receiver<Row>), ReceiveError> {
        // An error says only that one was chosen before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let names = names(self.names.as_ref(), base, fabric)?;
        let (intake, rows) = Intake::new(names, observe::Config::default(), room);
        let (mut bound, mut running) = (Vec::new(), Vec::new());
        let mut add = |receiver: &'static str, r: Running| {
            bound.extend(r.addresses.iter().map(|(door, at)| (receiver, *door, *at)));
            running.push(r);
        };
        if let Some(config) = &self.syslog {
            add("syslog", syslog::start(config.clone(), Arc::clone(&intake)).await?);
        }
        if let Some(config) = &self.otlp {
            add("otlp", otlp::start(config.clone(), base, Arc::clone(&intake)).await?);
        }
        for config in &self.gnmi {
            add("gnmi", gnmi::start(config, base, &intake)?);
        }
        for config in &self.scrape {
            add("scrape", scrape::start(config, base, &intake)?);
        }
        Ok((Receiving { intake, bound, _running: running }, rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fabric() -> Arc<Fabric> {
        let text = "name='t'\nplanes=1\nleaves=2\nspines=2\nhosts=4\naccess={rate='1Gbit/s',latency='1us'}\n\
                    trunk={rate='1Gbit/s',latency='1us'}";
        Arc::new(Fabric::parse(text).unwrap())
    }

    #[tokio::test]
    async fn one_file_starts_everything_and_its_names_are_checked() {
        let dir = std::env::temp_dir().join(format!("selvedge-sources-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let text = "[names]\nfile='names.toml'\n[syslog]\nudp='127.0.0.1:0'\n[otlp]\nhttp='127.0.0.1:0'\n[[gnmi]]\ninsecure=true\n[gnmi.targets]\np0-leaf0='127.0.0.1:1'\n[[scrape]]\nevery='1min'\n[scrape.targets]\nhost0='http://127.0.0.1:1/'";
        let sources = Sources::parse(text).unwrap();
        assert_eq!(Sources::parse(&toml::to_string(&sources).unwrap()).as_ref(), Ok(&sources));
        std::fs::write(dir.join("names.toml"), "[[device]]\nmatch=['sw']\nis='p0-leaf9'\n").unwrap();
        let wrong = sources.start(&dir, fabric(), 8).await.map(|_| ()).unwrap_err().to_string();
        assert!(wrong.contains("names.toml: line 3, column 4: there is no device \"p0-leaf9\""), "{wrong}");
        std::fs::write(dir.join("names.toml"), "[[device]]\nmatch=['sw']\nis='p0-leaf1'\n").unwrap();
        let (receiving, mut rows) = sources.start(&dir, fabric(), 8).await.unwrap();
        let Some(("syslog", "udp", at)) = receiving.bound.first().copied() else { panic!("{receiving:?}") };
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(b"<187>1 - sw app - - - spine1: link is down", at).await.unwrap();
        let event = loop {
            if let Row::LinkEvent(event) = rows.recv().await.unwrap() {
                break event;
            }
        };
        let f = receiving.intake.names().fabric();
        assert_eq!(event.component.map(|c| f.component_name(c)).as_deref(), Some("p0-spine1:p0-leaf1"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_pages_examples_are_files_that_work() {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/receivers.md")).unwrap();
        let examples: Vec<&str> =
            page.split("```toml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect();
        let mut sections = 0;
        for example in examples.iter().filter(|e| !e.starts_with("[flows]")) {
            if example.starts_with("[[device]]") {
                let (names, _) = Names::parse(example, fabric()).unwrap();
                assert!(names.port("gpu-3.example", "rdma0").is_some());
                assert_eq!(names.port("sw-a1.example", "Ethernet0"), names.port("p0-leaf1", "host2"));
                continue;
            }
            Sources::parse(example).unwrap_or_else(|e| panic!("{e}: {example}"));
            sections += 1;
        }
        assert_eq!(sections, 5);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let wrong = Sources::parse("[syslog]\nudp='127.0.0.1:0'\ntsl=true").unwrap_err();
        assert_eq!((wrong.line, wrong.column), (3, 1));
        assert!(Sources::parse("").unwrap().is_empty());
    }
}
