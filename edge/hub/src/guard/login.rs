//! Logging in and out with a local password, and who one is.
//!
//! How: a password is looked at on a thread of its own, two at a time, for it is slow on purpose; a name that does not
//! exist takes as long as one that does.
//! Invariants: what was wrong, name or password, is not said; a login is written down before its session begins.

use super::session::COOKIE;
use super::{By, Guard, Peer, Principal, access};
use crate::api::{Api, Problem};
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cookie::{Cookie, SameSite};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, LazyLock};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

/// Where a sign-in elsewhere begins.
pub(crate) const OIDC: &str = "/api/v1/login/oidc";
/// Where it comes back to.
pub(crate) const CALLBACK: &str = "/api/v1/login/callback";

/// Passwords looked at together: each takes 19 MiB for some 20 ms.
static HASHING: Semaphore = Semaphore::const_new(2);
/// What a name that does not exist is compared with.
static NOBODY: LazyLock<String> =
    LazyLock::new(|| access::hash_password("nobody has this one").unwrap_or_default());

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MeView {
    /// Name; empty where the hub has no users.
    pub name: String,
    /// `viewer`, `operator` or `admin`.
    pub role: String,
    /// Whose hosts may be seen; none where all may.
    pub tenant: Option<String>,
    /// `none`, `session` or `token`.
    pub auth: String,
    /// Goes with every change as x-selvedge-csrf; empty where none is needed.
    pub csrf: String,
    /// How to log in: `none`, `local` or `oidc`.
    pub login: String,
}

fn view(guard: &Guard, who: &Principal) -> MeView {
    MeView {
        name: who.name.clone(),
        role: who.role.word().to_owned(),
        tenant: who.tenant.clone(),
        auth: who.auth.to_owned(),
        csrf: who.csrf.clone(),
        login: guard.login_word().to_owned(),
    }
}

/// Who is asking. A hub without an access file takes everybody who reaches it for its operator.
#[utoipa::path(get, path = "/api/v1/me", responses((status = 200, body = MeView), (status = 401, description = "log in first")))]
pub(crate) async fn me(State(api): State<Api>, who: Principal) -> Json<MeView> {
    api.metrics.requests.inc();
    Json(view(&api.guard, &who))
}

/// A cookie that only this host gets, only over TLS, and no script sees.
pub(crate) fn set_cookie(name: &'static str, value: &str, strict: bool) -> Result<HeaderValue, Problem> {
    let mut cookie = Cookie::build((name, value))
        .path("/")
        .secure(true)
        .http_only(true)
        .same_site(if strict { SameSite::Strict } else { SameSite::Lax });
    if value.is_empty() {
        cookie = cookie.max_age(cookie::time::Duration::ZERO);
    }
    HeaderValue::from_str(&cookie.build().to_string())
        .map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the cookie cannot be written"))
}

impl Guard {
    /// Begins a session, written down first.
    pub(crate) async fn begin(
        &self,
        by: By,
        said: &str,
        role: access::Role,
        tenant: Option<String>,
        local: Option<access::User>,
    ) -> Result<String, Problem> {
        self.audit.done(&by, "login", "hub", said).await?;
        let begun = self.sessions().begin(by.who, role, tenant, local);
        begun.map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e))
    }

    /// Logs in with a name and a password.
    pub(crate) async fn log_in(
        &self,
        name: &str,
        password: String,
        address: Option<std::net::IpAddr>,
    ) -> Result<String, Problem> {
        let by = |role| By { who: name.chars().take(64).collect(), role, auth: "none", address };
        if !self.may_try(address, name) {
            self.audit.refused(by(""), "login", "hub", "too_many_logins");
            let error = "too many logins were tried; wait a minute";
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, error));
        }
        let user = self.force().users.get(name).cloned();
        let hash = user.as_ref().map_or_else(|| NOBODY.clone(), |u| u.password.clone());
        let busy = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the hub ends");
        let _turn = HASHING.acquire().await.map_err(|_| busy())?;
        let checked = tokio::task::spawn_blocking(move || access::is_password(&password, &hash)).await;
        let Some(user) = user.filter(|_| checked.unwrap_or(false)) else {
            self.audit.refused(by(""), "login", "hub", "password");
            let problem = Problem::new(StatusCode::UNAUTHORIZED, "name or password is wrong");
            return Err(problem.wanting(self.login_word()));
        };
        self.begin(by(user.role.word()), "with a password", user.role, user.tenant.clone(), Some(user)).await
    }

    /// The answer to a login: who one is now, and the cookie that says so.
    fn welcome(&self, id: &str, address: Option<std::net::IpAddr>) -> Result<Response, Problem> {
        let who = self.by_session(id, address);
        let who = who.ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "the access file has changed"))?;
        let cookie = set_cookie(COOKIE, id, false)?;
        Ok(([(header::SET_COOKIE, cookie)], Json(view(self, &who))).into_response())
    }
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct LoginRequest {
    /// Name.
    name: String,
    /// Password.
    password: String,
}

/// Log in. The answer sets the session's cookie.
#[utoipa::path(post, path = "/api/v1/login", request_body = LoginRequest,
    responses((status = 200, body = MeView), (status = 401, description = "name or password is wrong"),
        (status = 429, description = "too many were tried")))]
pub(crate) async fn login(
    State(api): State<Api>,
    Peer(address): Peer,
    body: Result<Json<LoginRequest>, JsonRejection>,
) -> Result<Response, Problem> {
    api.metrics.requests.inc();
    let Json(LoginRequest { name, password }) = body?;
    let guard: &Arc<Guard> = &api.guard;
    if !guard.is_closed() {
        let error = "this hub has no users: everybody who reaches it is its operator";
        return Err(Problem::new(StatusCode::CONFLICT, error));
    }
    let id = guard.log_in(&name, password, address).await?;
    guard.welcome(&id, address)
}

/// Log out.
#[utoipa::path(post, path = "/api/v1/logout", responses((status = 204, description = "logged out")))]
pub(crate) async fn logout(State(api): State<Api>, who: Principal) -> Result<Response, Problem> {
    api.metrics.requests.inc();
    if let Some(id) = &who.session {
        api.guard.sessions().end(id);
        api.guard.audit.done(&who.by(), "logout", "hub", "").await?;
    }
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, set_cookie(COOKIE, "", false)?)]).into_response())
}
