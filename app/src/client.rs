//! How the commands reach a hub: which one, and what it answers.
//!
//! Which one: `--hub URL`, else `--lab NAME`, else `SELVEDGE_HUB`, else the one lab that is up on this machine.
//! Invariants: a hub that does not answer, or answers with an error, becomes an error that says what to do.

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The hub gives up a question in SQL after a minute, and everything else sooner.
const ANSWER_WITHIN: Duration = Duration::from_secs(75);

/// Arguments every command that asks a hub takes.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct HubArgs {
    /// The hub's HTTP address, such as http://127.0.0.1:7480; else SELVEDGE_HUB, or the hub of the one lab that is up
    #[arg(long, value_name = "URL", global = true)]
    hub: Option<String>,
    /// The lab whose hub to ask, where several are up
    #[arg(long, value_name = "NAME", global = true, conflicts_with = "hub")]
    lab: Option<String>,
}

/// What a hub says instead of an answer.
#[derive(serde::Deserialize)]
struct Refused {
    error: String,
}

pub(crate) struct Client {
    base: String,
    http: ureq::Agent,
}

/// The HTTP address of a lab's hub.
fn lab_hub(name: &str) -> anyhow::Result<Option<String>> {
    let dir = lab::state::Dir::of(name)?;
    let state: Option<lab::state::LabState> = dir.read("lab.json")?;
    let state =
        state.with_context(|| format!("there is no lab {name} here; `selvedge lab list` lists them"))?;
    Ok(state.hub.map(|h| format!("http://{}", h.http)))
}

impl HubArgs {
    /// The hub's address.
    fn url(&self) -> anyhow::Result<String> {
        let typed = |url: &str| {
            let url = url.trim_end_matches('/');
            if url.contains("://") { url.to_owned() } else { format!("http://{url}") }
        };
        if let Some(url) = &self.hub {
            return Ok(typed(url));
        }
        if let Some(name) = &self.lab {
            return lab_hub(name)?
                .with_context(|| format!("lab {name} was started with --bare: it has no hub"));
        }
        if let Some(url) = std::env::var("SELVEDGE_HUB").ok().filter(|url| !url.is_empty()) {
            return Ok(typed(&url));
        }
        let mut found = Vec::new();
        for name in lab::state::list() {
            // A lab that is just being taken down is no candidate.
            if let Ok(Some(url)) = lab_hub(&name) {
                found.push((name, url));
            }
        }
        match found.as_slice() {
            [(_, url)] => Ok(url.clone()),
            [] => bail!("no lab with a hub is up on this machine; say which hub with --hub http://HOST:PORT"),
            several => {
                let names: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
                bail!("several labs are up ({}); say which with --lab NAME", names.join(", "))
            }
        }
    }

    /// A client of the hub.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let base = self.url()?;
        if !base.starts_with("http://") {
            bail!("{base} is no address of a hub, expected such as http://127.0.0.1:7480");
        }
        Ok(Client::at(&base))
    }
}

impl Client {
    /// A client of the hub at this address.
    pub(crate) fn at(base: &str) -> Client {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_WITHIN))
            .http_status_as_error(false)
            .build();
        Client { base: base.to_owned(), http: config.into() }
    }

    /// Asks for a page of the API.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let answer = self.http.get(format!("{}{path}", self.base)).call();
        self.read(answer)
    }

    /// Sends JSON.
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> anyhow::Result<T> {
        let answer = self.http.post(format!("{}{path}", self.base)).send_json(body);
        self.read(answer)
    }

    /// Sends JSON, and takes a file for an answer. Whether rows were left out of it.
    pub(crate) fn post_file(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> anyhow::Result<(Vec<u8>, bool)> {
        let answer = self.http.post(format!("{}{path}", self.base)).send_json(body);
        let (bytes, headers) = self.bytes(answer)?;
        let truncated = headers.get("x-selvedge-truncated").is_some_and(|v| v.as_bytes() == b"true");
        Ok((bytes, truncated))
    }

    /// The body of a good answer, or what the hub said instead.
    fn bytes(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> anyhow::Result<(Vec<u8>, ureq::http::HeaderMap)> {
        let mut answer = answer.with_context(|| format!("the hub at {} does not answer", self.base))?;
        // A list of ten thousand incidents is some ten megabytes.
        let bytes = answer
            .body_mut()
            .with_config()
            .limit(512 << 20)
            .read_to_vec()
            .with_context(|| format!("the answer of {} cannot be read", self.base))?;
        if !answer.status().is_success() {
            match serde_json::from_slice::<Refused>(&bytes) {
                Ok(refused) => bail!("{}", refused.error),
                Err(_) => bail!("the hub at {} answered {}", self.base, answer.status()),
            }
        }
        Ok((bytes, answer.headers().clone()))
    }

    fn read<T: DeserializeOwned>(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> anyhow::Result<T> {
        let (bytes, _) = self.bytes(answer)?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no hub of this release: its answer is another one", self.base))
    }
}
