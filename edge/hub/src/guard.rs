//! Who is asking, and whether they may.
//!
//! How: every request passes [`door`], which looks at the host it names, where it comes from, how many came before it,
//! who sends it (a session's cookie or a token), and what it asks for; [`need`] says what that takes. Who may ask is in
//! the access file (`access`), who is logged in in memory (`session`), what happened in the audit table (`audit`).
//! Invariants: an address of the API that [`need`] does not know takes a viewer to read and an operator to change; what
//! is refused is counted and written down; a session's change carries its token against forged requests; a name, role
//! or token taken out of the access file ends what rests on it within seconds.
//! Absent on purpose: users of the hub of a lab. Without an access file everybody who reaches the hub is its operator,
//! and it listens on loopback addresses only.

pub mod access;
mod address;
mod audit;
pub(crate) mod hook;
pub(crate) mod login;
pub(crate) mod oidc;
pub(crate) mod reveal;
mod session;

use crate::api::{Api, Problem};
use crate::config::Config;
use crate::error::HubError;
use crate::metrics::Metrics;
use access::{InForce, Role, Scope};
use address::Pseudonyms;
pub(crate) use audit::{Audit, By};
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use fabric::Fabric;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
pub(crate) use hook::hook;
pub use login::MeView;
pub(crate) use login::{login, logout, me};
pub(crate) use oidc::{callback, sign_in};
pub(crate) use reveal::reveal;
use session::Sessions;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;
use tables::{Sight, Tables};

/// Requests of one address a second, and how many may come at once.
const REQUESTS: (u32, u32) = (200, 1_000);
/// Logins tried by one address, or for one name, a minute.
const LOGINS: u32 = 10;
/// Addresses and names remembered for limits before idle ones are forgotten.
const KEYS_MAX: usize = 50_000;
/// Goes with every change of a session.
pub(crate) const CSRF: &str = "x-selvedge-csrf";

/// What a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nobody in particular.
    Nothing,
    Metrics,
    Read,
    Query,
    Act,
    Reveal,
}

impl Need {
    fn takes(self) -> Option<(Role, Scope)> {
        Some(match self {
            Need::Nothing => return None,
            Need::Metrics => (Role::Viewer, Scope::Metrics),
            Need::Read => (Role::Viewer, Scope::Read),
            Need::Query => (Role::Viewer, Scope::Query),
            Need::Act => (Role::Operator, Scope::Act),
            Need::Reveal => (Role::Admin, Scope::Reveal),
        })
    }
}

/// What a request takes, by its method and path.
fn need(method: &Method, path: &str) -> Need {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match path {
        "/metrics" => Need::Metrics,
        "/healthz" | "/readyz" => Need::Nothing,
        "/api/v1/login" | login::OIDC | login::CALLBACK => Need::Nothing,
        crate::ask::QUERY => Need::Query,
        "/api/v1/schema" if reads => Need::Query,
        "/api/v1/logout" => Need::Read,
        "/api/v1/reveal" => Need::Reveal,
        // It is signed, which is looked at where it is read.
        p if p.starts_with(hook::HOOKS) => Need::Nothing,
        p if p.starts_with("/api/") => {
            if reads {
                Need::Read
            } else {
                Need::Act
            }
        }
        // The pages themselves hold nothing of the fabric.
        _ => Need::Nothing,
    }
}

/// What a tenant's people may ask for: what is shown of it is cut to their sight.
fn is_for_tenants(path: &str) -> bool {
    matches!(
        path,
        crate::ask::QUERY
            | "/api/v1/schema"
            | "/api/v1/me"
            | "/api/v1/logout"
            | "/api/v1/incidents"
            | "/api/v1/matrix"
            | "/api/v1/fabric"
            | "/api/v1/openapi.json"
    ) || path.starts_with("/api/v1/docs/")
}

/// Somebody, and what they may.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    pub name: String,
    pub role: Role,
    /// `session`, `token` or `none`.
    pub auth: &'static str,
    /// What a token is for; `None`: whatever the role allows.
    pub scope: Option<BTreeSet<Scope>>,
    pub tenant: Option<String>,
    pub sight: Sight,
    pub csrf: String,
    pub address: Option<IpAddr>,
    /// Of the session, to end it.
    pub session: Option<String>,
    /// What is kept of the token.
    pub token: Option<String>,
}

impl Principal {
    /// For the audit table.
    pub(crate) fn by(&self) -> By {
        By { who: self.name.clone(), role: self.role.word(), auth: self.auth, address: self.address }
    }

    /// As people see it.
    pub(crate) fn shown(&self) -> &str {
        if self.name.is_empty() { "somebody" } else { &self.name }
    }

    pub(crate) fn may(&self, need: Need) -> Result<(), String> {
        let Some((role, scope)) = need.takes() else { return Ok(()) };
        if self.role < role {
            return Err(format!("this takes the role {}, and you are {}", role.word(), self.role.word()));
        }
        match &self.scope {
            Some(scopes) if !scopes.contains(&scope) => {
                Err(format!("this takes a token with the scope {}", scope.word()))
            }
            _ => Ok(()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Put there by the door.
        let known = parts.extensions.get::<Principal>().cloned();
        known.ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "expected somebody who is logged in"))
    }
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub Option<IpAddr>);

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let from = parts.extensions.get::<ConnectInfo<crate::http::From>>();
        Ok(Peer(from.map(|c| c.0.0.ip().to_canonical())))
    }
}

/// Everything that decides who may what.
pub(crate) struct Guard {
    fabric: Arc<Fabric>,
    file: Option<PathBuf>,
    /// Names browsers may reach the hub by.
    names: BTreeSet<String>,
    force: RwLock<Arc<InForce>>,
    sessions: Mutex<Sessions>,
    oidc: oidc::Flows,
    requests: DefaultKeyedRateLimiter<IpAddr>,
    logins: DefaultKeyedRateLimiter<String>,
    hooks_seen: Mutex<hook::Seen>,
    pub audit: Audit,
}

fn limiter<K: std::hash::Hash + Eq + Clone>(quota: Quota) -> DefaultKeyedRateLimiter<K> {
    RateLimiter::keyed(quota)
}

fn many(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN)
}

/// Names a certificate is for, PEM.
fn certified_names(pem: &str) -> Vec<String> {
    let Some(Ok(pem)) = x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()).next() else {
        return Vec::new();
    };
    let Ok(cert) = pem.parse_x509() else { return Vec::new() };
    let Ok(Some(names)) = cert.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter();
    let of = |n: &x509_parser::extensions::GeneralName<'_>| match n {
        x509_parser::extensions::GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    names.filter_map(of).collect()
}

impl Guard {
    pub(crate) fn new(
        config: &Config,
        web_cert: Option<&str>,
        tables: Arc<Tables>,
        metrics: Arc<Metrics>,
    ) -> Result<Guard, HubError> {
        let beside = || config.data.directory().map(|d| d.join("address.key"));
        let key = config.address_key.clone().or_else(beside).ok_or(HubError::NoAddressKey)?;
        let force = match &config.access {
            Some(path) => InForce::read(path, &config.fabric)?,
            None => InForce::default(),
        };
        let mut names: BTreeSet<String> = config.http_names.iter().map(|n| n.to_ascii_lowercase()).collect();
        names.insert("localhost".to_owned());
        names.extend(web_cert.into_iter().flat_map(certified_names));
        Ok(Guard {
            fabric: Arc::clone(&config.fabric),
            file: config.access.clone(),
            names,
            force: RwLock::new(Arc::new(force)),
            sessions: Mutex::default(),
            oidc: oidc::Flows::default(),
            requests: limiter(Quota::per_second(many(REQUESTS.0)).allow_burst(many(REQUESTS.1))),
            logins: limiter(Quota::per_minute(many(LOGINS))),
            hooks_seen: Mutex::default(),
            audit: Audit::new(tables, metrics, Pseudonyms::open(&key)?),
        })
    }

    pub(crate) fn force(&self) -> Arc<InForce> {
        Arc::clone(&self.force.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there are users at all.
    pub(crate) fn is_closed(&self) -> bool {
        self.file.is_some()
    }

    fn sight(&self, role: Role, tenant: Option<&String>) -> Sight {
        let force = self.force();
        // A tenant that is no longer in the file sees nothing.
        let hosts = tenant.map(|t| force.tenants.get(t).map_or_else(Arc::default, Arc::clone));
        Sight { sensitive: role == Role::Admin && tenant.is_none(), hosts }
    }

    fn everybody(&self, address: Option<IpAddr>) -> Principal {
        Principal {
            name: String::new(),
            role: Role::Operator,
            auth: "none",
            scope: None,
            tenant: None,
            sight: Sight { sensitive: true, hosts: None },
            csrf: String::new(),
            address,
            session: None,
            token: None,
        }
    }

    fn by_digest(&self, digest: &str, address: Option<IpAddr>) -> Result<Principal, &'static str> {
        let force = self.force();
        let (t, until) = force.tokens.get(digest).ok_or("unknown_token")?;
        if *until <= SystemTime::now() {
            return Err("expired_token");
        }
        Ok(Principal {
            name: t.name.clone(),
            role: t.role,
            auth: "token",
            scope: Some(t.scope.clone()),
            tenant: t.tenant.clone(),
            sight: self.sight(t.role, t.tenant.as_ref()),
            csrf: String::new(),
            address,
            session: None,
            token: Some(digest.to_owned()),
        })
    }

    pub(crate) fn by_session(&self, id: &str, address: Option<IpAddr>) -> Option<Principal> {
        let force = self.force();
        let session = self.sessions().get(id, &force)?;
        Some(Principal {
            sight: self.sight(session.role, session.tenant.as_ref()),
            name: session.name,
            role: session.role,
            auth: "session",
            scope: None,
            tenant: session.tenant,
            csrf: session.csrf,
            address,
            session: Some(id.to_owned()),
            token: None,
        })
    }

    /// Who sends it, by what it carries.
    pub(crate) fn known(
        &self,
        authorization: Option<&str>,
        cookie: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<Principal, &'static str> {
        if !self.is_closed() {
            return Ok(self.everybody(address));
        }
        if let Some(value) = authorization {
            let token = value.strip_prefix("Bearer ").map(str::trim).ok_or("no_bearer")?;
            // A session's id is taken as well: Flight has no cookies.
            return match self.by_session(token, address) {
                Some(known) => Ok(known),
                None => self.by_digest(&access::digest(token), address),
            };
        }
        cookie.and_then(|id| self.by_session(id, address)).ok_or("not_logged_in")
    }

    /// Whether somebody who was let in would be let in again, for what goes on for long.
    pub(crate) fn still_knows(&self, who: &Principal) -> bool {
        match (&who.session, &who.token) {
            (Some(id), _) => self.by_session(id, who.address).is_some_and(|now| now.tenant == who.tenant),
            (None, Some(digest)) => self.by_digest(digest, who.address).is_ok(),
            (None, None) => !self.is_closed(),
        }
    }

    /// Whether one more request, or login, of an address or name is one too many.
    pub(crate) fn is_too_fast(&self, address: Option<IpAddr>) -> bool {
        address.is_some_and(|a| self.requests.check_key(&a).is_err())
    }

    pub(crate) fn may_try(&self, address: Option<IpAddr>, name: &str) -> bool {
        let from = address.is_none_or(|a| self.logins.check_key(&format!("from {a}")).is_ok());
        let of = self.logins.check_key(&format!("name {name}")).is_ok();
        from && of
    }

    /// Looks after what is kept: the access file as it is now, refusals into the audit table, limits forgotten.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut seen = self.file.as_deref().map(stamp);
        let mut seconds = 0u64;
        let mut every = tokio::time::interval(std::time::Duration::from_secs(1));
        loop {
            every.tick().await;
            seconds += 1;
            self.audit.write();
            if seconds.is_multiple_of(60) || self.requests.len() + self.logins.len() > KEYS_MAX {
                self.requests.retain_recent();
                self.logins.retain_recent();
            }
            if !seconds.is_multiple_of(access::LOOK_EVERY.as_secs()) {
                continue;
            }
            if let Some(path) = &self.file {
                let now = Some(stamp(path));
                if now != seen {
                    seen = now;
                    self.reload(path).await;
                }
            }
        }
    }

    async fn reload(&self, path: &Path) {
        let by = By { who: "access file".to_owned(), ..By::default() };
        match InForce::read(path, &self.fabric) {
            Ok(read) => {
                let said = format!(
                    "{} users, {} tokens, {} tenants",
                    read.users.len(),
                    read.tokens.len(),
                    read.tenants.len()
                );
                *self.force.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
                self.oidc.forget_provider();
                tracing::info!(path = %path.display(), said, "the access file is read again");
                let _ = self.audit.done(&by, "change", "access", &said).await;
            }
            Err(e) => {
                tracing::error!(error = %e, "the access file is wrong; the one before stays in force");
                self.audit.refused(by, "change", "access", "access_file");
            }
        }
    }
}

/// What shows that a file was changed.
pub(crate) fn stamp(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

/// Done when a file is another one than it was; the first time at once.
pub(crate) async fn changed(path: &Path, seen: &mut Option<Option<(SystemTime, u64, u64)>>) {
    loop {
        let now = Some(stamp(path));
        if now != *seen {
            *seen = now;
            return;
        }
        tokio::time::sleep(access::LOOK_EVERY).await;
    }
}

/// A host a request may name: an address, which nobody can point elsewhere, or one of our names.
fn is_ours(names: &BTreeSet<String>, host: &str) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    bare.parse::<IpAddr>().is_ok() || names.contains(&bare.to_ascii_lowercase())
}

/// Whether a path goes up, plainly or percent-encoded. Nothing of ours does.
fn climbs(path: &str) -> bool {
    let plain = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
    plain.split('/').any(|part| part == "..")
}

fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// The session a request's cookie names.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(';')).find_map(|c| c.trim().strip_prefix(name)?.strip_prefix('='))
}

/// Whether a browser says that another site made it send this.
fn is_foreign(headers: &HeaderMap) -> bool {
    if let Some(site) = text(headers, "sec-fetch-site") {
        return !matches!(site, "same-origin" | "none");
    }
    let (Some(origin), Some(host)) = (text(headers, header::ORIGIN), text(headers, header::HOST)) else {
        return false;
    };
    origin.split_once("://").is_none_or(|(_, at)| at != host)
}

/// Lets a request in, or not.
pub(crate) async fn door(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let address = request
        .extensions()
        .get::<ConnectInfo<crate::http::From>>()
        .map(|c: &ConnectInfo<crate::http::From>| c.0.0.ip().to_canonical());
    match api.guard.enter(&mut request, address) {
        Ok(()) => {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let known = request.extensions().get::<Principal>().map(Principal::by);
            let response = next.run(request).await;
            if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
                let by = known.unwrap_or(By { address, ..By::default() });
                api.guard.audit.refused(by, "request", &format!("{method} {path}"), "too_large");
            }
            response
        }
        Err(refusal) => *refusal,
    }
}

impl Guard {
    fn enter(&self, request: &mut Request, address: Option<IpAddr>) -> Result<(), Box<Response>> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let nobody = || By { address, auth: "none", ..By::default() };
        let refuse = |by: By, why: &'static str, problem: Problem| {
            self.audit.refused(by, "request", &format!("{method} {path}"), why);
            Err(Box::new(problem.into_response()))
        };
        let headers = request.headers();
        let host = text(headers, header::HOST).or_else(|| request.uri().host()).unwrap_or_default();
        if !is_ours(&self.names, host) {
            let error = format!(
                "{host:?} is no name of this hub; where it is one, start the hub with --http-name {}",
                host.split(':').next().unwrap_or_default()
            );
            return refuse(nobody(), "host", Problem::new(StatusCode::MISDIRECTED_REQUEST, error));
        }
        if self.is_too_fast(address) {
            let error = format!("more than {} requests a second; wait a second", REQUESTS.0);
            return refuse(nobody(), "too_fast", Problem::new(StatusCode::TOO_MANY_REQUESTS, error));
        }
        let need = need(&method, &path);
        let changes = !matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
        if changes && is_foreign(headers) {
            let error = "another site made your browser send this";
            return refuse(nobody(), "foreign_site", Problem::new(StatusCode::FORBIDDEN, error));
        }
        if climbs(&path) {
            let error = "a path with .. in it is not served";
            return refuse(nobody(), "path_traversal", Problem::new(StatusCode::BAD_REQUEST, error));
        }
        if need == Need::Nothing {
            return Ok(());
        }
        let known =
            self.known(text(headers, header::AUTHORIZATION), cookie(headers, session::COOKIE), address);
        let known = match known {
            Ok(known) => known,
            Err(why) => {
                let error = match why {
                    "expired_token" => "the token has expired; ask for a new one",
                    "unknown_token" => "the token is not known here; it may have been taken back",
                    "no_bearer" => "expected `authorization: Bearer TOKEN`",
                    _ => "log in first",
                };
                let problem = Problem::new(StatusCode::UNAUTHORIZED, error).wanting(self.login_word());
                return match why {
                    // A page that finds out whether one is logged in is no attempt of anything.
                    "not_logged_in" if path == "/api/v1/me" => Err(Box::new(problem.into_response())),
                    why => refuse(nobody(), why, problem),
                };
            }
        };
        if let Err(error) = known.may(need) {
            return refuse(known.by(), "role", Problem::new(StatusCode::FORBIDDEN, error));
        }
        if known.tenant.is_some() && !is_for_tenants(&path) {
            let error = "this is about the whole fabric, and you may see what is of your tenant: \
                         /api/v1/incidents, /api/v1/matrix and /api/v1/query";
            return refuse(known.by(), "tenant", Problem::new(StatusCode::FORBIDDEN, error));
        }
        if changes && known.auth == "session" {
            let sent = text(headers, CSRF).unwrap_or_default();
            // Digests, so that the time it takes says nothing of the token.
            if access::digest(sent) != access::digest(&known.csrf) {
                let error = format!("expected the header {CSRF} with the value /api/v1/me gives");
                return refuse(known.by(), "csrf", Problem::new(StatusCode::FORBIDDEN, error));
            }
        }
        request.extensions_mut().insert(known);
        Ok(())
    }

    /// How to log in here.
    pub(crate) fn login_word(&self) -> &'static str {
        match (self.is_closed(), self.force().oidc.is_some()) {
            (false, _) => "none",
            (true, true) => "oidc",
            (true, false) => "local",
        }
    }
}

/// The address a stream of an agent or a Flight client comes from.
pub(crate) fn address_of(addr: Option<SocketAddr>) -> Option<IpAddr> {
    addr.map(|a| a.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_thought_of_takes_somebody() {
        for (method, path, takes) in [
            (Method::GET, "/api/v1/whatever", Need::Read),
            (Method::POST, "/api/v1/whatever", Need::Act),
            (Method::DELETE, "/api/v2/x", Need::Act),
            (Method::POST, "/api/v1/incidents/inc-1/close", Need::Act),
            (Method::POST, "/api/v1/query", Need::Query),
            (Method::POST, "/api/v1/reveal", Need::Reveal),
            (Method::GET, "/metrics", Need::Metrics),
            (Method::GET, "/incidents/inc-1", Need::Nothing),
            (Method::GET, "/assets/x.js", Need::Nothing),
        ] {
            assert_eq!(need(&method, path), takes, "{method} {path}");
        }
    }

    #[test]
    fn a_name_somebody_else_can_point_here_is_not_ours() {
        let names = ["localhost".to_owned(), "hub.example".to_owned()].into();
        for host in ["localhost:8080", "127.0.0.1", "127.0.0.1:80", "[::1]:8080", "[::1]", "HUB.example:443"]
        {
            assert!(is_ours(&names, host), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example"] {
            assert!(!is_ours(&names, host), "{host}");
        }
    }

    #[test]
    fn a_path_that_goes_up_is_seen_however_it_is_written() {
        for path in ["/../etc", "/assets/..", "/a/%2e%2e/b", "/a/.%2E/b", "/a/..%2Fetc", "/a/..%5cetc"] {
            assert!(climbs(path), "{path}");
        }
        for path in ["/", "/api/v1/query", "/assets/a..b.js", "/docs/..."] {
            assert!(!climbs(path), "{path}");
        }
    }

    #[test]
    fn the_session_is_found_among_other_cookies() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "a=1; __Host-selvedge=abc; __Host-selvedge2=no".parse().unwrap());
        assert_eq!(cookie(&headers, "__Host-selvedge"), Some("abc"));
        assert_eq!(cookie(&headers, "b"), None);
    }
}
