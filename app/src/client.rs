//! How the commands reach a hub: which one, and what it answers.
//!
//! Which one: `--hub URL`, else `--lab NAME`, else `SELVEDGE_HUB`, else the one lab that is up on this machine.
//! Invariants: a hub that does not answer, or answers with an error, becomes an error that says what to do.

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::time::Duration;

/// The hub gives up a question in SQL after a minute, and everything else sooner.
const ANSWER_WITHIN: Duration = Duration::from_secs(75);

/// Arguments every command that asks a hub takes.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct HubArgs {
    /// The hub's address, such as https://hub.example:7480; else SELVEDGE_HUB, or the hub of the one lab that is up
    #[arg(long, value_name = "URL", global = true)]
    hub: Option<String>,
    /// The lab whose hub to ask, where several are up
    #[arg(long, value_name = "NAME", global = true, conflicts_with = "hub")]
    lab: Option<String>,
    /// File with a token made by `selvedge access token`; else SELVEDGE_TOKEN_FILE, or the token itself in SELVEDGE_TOKEN
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Authority the hub's certificate comes from; else SELVEDGE_CA, or the ones this system trusts
    #[arg(long, value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
}

/// A variable of the environment that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// What a hub says instead of an answer.
#[derive(serde::Deserialize)]
struct Refused {
    error: String,
}

pub(crate) struct Client {
    base: String,
    http: ureq::Agent,
    bearer: Option<String>,
}

/// Whether an address stays on this machine.
fn is_loopback(base: &str) -> bool {
    let host = base.split("://").nth(1).unwrap_or_default().split('/').next().unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback())
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
        if !base.starts_with("http://") && !base.starts_with("https://") {
            bail!("{base} is no address of a hub, expected such as https://hub.example:7480");
        }
        let token = self.token()?;
        if token.is_some() && base.starts_with("http://") && !is_loopback(&base) {
            bail!("a token would go to {base} in the clear; use an address that begins with https://");
        }
        let ca = self.ca.clone().or_else(|| variable("SELVEDGE_CA").map(PathBuf::from));
        let ca = ca.map(|path| crate::cmd::hub::text(&path)).transpose()?;
        Client::new(&base, token, ca.as_deref())
    }

    /// What shows the hub who asks. Not an argument: those are seen by everybody on the machine.
    fn token(&self) -> anyhow::Result<Option<String>> {
        let file = self.token_file.clone().or_else(|| variable("SELVEDGE_TOKEN_FILE").map(PathBuf::from));
        let token = match file {
            Some(path) => Some(crate::cmd::hub::text(&path)?),
            None => variable("SELVEDGE_TOKEN"),
        };
        Ok(token.map(|t| t.trim().to_owned()))
    }
}

impl Client {
    /// A client of the hub at this address.
    pub(crate) fn at(base: &str) -> anyhow::Result<Client> {
        Client::new(base, None, None)
    }

    fn new(base: &str, token: Option<String>, ca: Option<&str>) -> anyhow::Result<Client> {
        let roots = match ca {
            None => ureq::tls::RootCerts::PlatformVerifier,
            Some(pem) => {
                let mut certs = Vec::new();
                for item in ureq::tls::parse_pem(pem.as_bytes()) {
                    if let ureq::tls::PemItem::Certificate(cert) =
                        item.context("the authority cannot be read")?
                    {
                        certs.push(cert);
                    }
                }
                if certs.is_empty() {
                    bail!("the file of the authority has no certificate, expected PEM such as ca.pem");
                }
                certs.into()
            }
        };
        if base.starts_with("https://") {
            // An error says only that one was chosen before.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_WITHIN))
            .http_status_as_error(false)
            // A token is for this hub and nobody it may point to.
            .max_redirects(0)
            .tls_config(ureq::tls::TlsConfig::builder().root_certs(roots).build())
            .build();
        let bearer = token.map(|t| format!("Bearer {t}"));
        Ok(Client { base: base.to_owned(), http: config.into(), bearer })
    }

    fn sending(&self, path: &str) -> ureq::RequestBuilder<ureq::typestate::WithBody> {
        let request = self.http.post(format!("{}{path}", self.base));
        match &self.bearer {
            Some(bearer) => request.header("authorization", bearer),
            None => request,
        }
    }

    /// Asks for a page of the API.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.read(self.getting(path).call())
    }

    /// Fetches a file.
    pub(crate) fn get_file(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        Ok(self.bytes(self.getting(path).call())?.0)
    }

    fn getting(&self, path: &str) -> ureq::RequestBuilder<ureq::typestate::WithoutBody> {
        let request = self.http.get(format!("{}{path}", self.base));
        match &self.bearer {
            Some(bearer) => request.header("authorization", bearer),
            None => request,
        }
    }

    /// Sends JSON.
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> anyhow::Result<T> {
        let answer = self.sending(path).send_json(body);
        self.read(answer)
    }

    /// Sends JSON, and takes a file for an answer. Whether rows were left out of it.
    pub(crate) fn post_file(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> anyhow::Result<(Vec<u8>, bool)> {
        let answer = self.sending(path).send_json(body);
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
                Ok(refused) if answer.status() == 401 && self.bearer.is_none() => {
                    bail!(
                        "{}: give a token with --token-file; `selvedge access token` makes one",
                        refused.error
                    )
                }
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
