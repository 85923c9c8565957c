//! Signing in at an identity provider (OpenID Connect Core 1.0, authorization code flow with PKCE, RFC 7636).
//!
//! How: the browser is sent to the provider with a state, a nonce and a challenge, of which the hub keeps its half; it
//! comes back with a code, which the hub changes for an ID token over its own connection. The library checks signature,
//! issuer, audience, time and nonce; a claim of it says which role, by the access file.
//! Invariants: a sign-in ends in the browser it began in (a cookie binds them) and within [`FLOW_MAX`], once; at most
//! [`FLOWS_MAX`] are under way; the browser is sent on only to a path of this hub.

use super::access::{Oidc, Role, random};
use super::login::{CALLBACK, set_cookie};
use super::session::COOKIE;
use super::{By, Peer, cookie};
use crate::api::{Api, Problem};
use crate::serve::chain;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreAuthenticationFlow, CoreErrorResponseType, CoreGenderClaim,
    CoreJsonWebKey, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreProviderMetadata,
    CoreRevocableToken, CoreRevocationErrorResponse, CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AdditionalClaims, AuthorizationCode, Client, ClientId, ClientSecret, CsrfToken, EmptyExtraTokenFields,
    EndpointMaybeSet, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, IdTokenFields, IssuerUrl,
    Nonce, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope, StandardErrorResponse,
    StandardTokenResponse,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use utoipa::IntoParams;

/// Binds a sign-in to the browser it began in.
const BINDING: &str = "__Host-selvedge-sign-in";
const FLOW_MAX: Duration = Duration::from_secs(600);
const FLOWS_MAX: usize = 1_000;
/// What a provider says of itself is asked again so often.
const PROVIDER_MAX: Duration = Duration::from_secs(3_600);
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Claims besides the standard's own.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claims {
    #[serde(flatten)]
    all: BTreeMap<String, Value>,
}
impl AdditionalClaims for Claims {}

type Fields = IdTokenFields<
    Claims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;
type TokenResponse = StandardTokenResponse<Fields, CoreTokenType>;
type Party = Client<
    Claims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    TokenResponse,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// A sign-in that is under way.
struct Flow {
    nonce: Nonce,
    verifier: PkceCodeVerifier,
    next: String,
    binding: String,
    begun: Instant,
}

#[derive(Default)]
pub(crate) struct Flows {
    /// By state.
    open: Mutex<HashMap<String, Flow>>,
    provider: Mutex<Option<(CoreProviderMetadata, Instant)>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flows {
    /// Asks the provider again next time: the access file may name another.
    pub(crate) fn forget_provider(&self) {
        *lock(&self.provider) = None;
    }
}

/// Asks the provider, which is named in the access file and may be nobody else: redirects are not followed.
struct Http(ureq::Agent);

impl Http {
    fn new(ca: Option<&str>) -> Result<Http, String> {
        let mut tls = ureq::tls::TlsConfig::builder();
        if let Some(pem) = ca {
            let certs: Result<Vec<_>, _> = ureq::tls::parse_pem(pem.as_bytes())
                .filter_map(|item| match item {
                    Ok(ureq::tls::PemItem::Certificate(c)) => Some(Ok(c)),
                    Ok(_) => None,
                    Err(e) => Some(Err(e.to_string())),
                })
                .collect();
            tls = tls.root_certs(certs?.into_iter().collect::<Vec<_>>().into());
        } else {
            tls = tls.root_certs(ureq::tls::RootCerts::PlatformVerifier);
        }
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_WITHIN))
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(tls.build())
            .build();
        Ok(Http(config.into()))
    }

    fn call(&self, request: HttpRequest) -> Result<HttpResponse, ureq::Error> {
        let answer = self.0.run(request)?;
        let (head, mut body) = answer.into_parts();
        let bytes = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        Ok(HttpResponse::from_parts(head, bytes))
    }
}

fn unreachable(reason: impl std::fmt::Display) -> Problem {
    let error = format!("the identity provider cannot be used: {reason}; a local user can still log in");
    Problem::new(StatusCode::BAD_GATEWAY, error)
}

/// What a provider says of itself, asked at most once an hour.
async fn provider(api: &Api, oidc: &Oidc, ca: Option<String>) -> Result<CoreProviderMetadata, Problem> {
    let kept = lock(&api.guard.oidc.provider).clone();
    if let Some((known, at)) = kept
        && at.elapsed() < PROVIDER_MAX
    {
        return Ok(known);
    }
    let issuer = IssuerUrl::new(oidc.issuer.clone()).map_err(unreachable)?;
    let asked = tokio::task::spawn_blocking(move || {
        let http = Http::new(ca.as_deref())?;
        CoreProviderMetadata::discover(&issuer, &|r| http.call(r)).map_err(|e| chain(&e))
    });
    let found = asked.await.map_err(unreachable)?.map_err(unreachable)?;
    *lock(&api.guard.oidc.provider) = Some((found.clone(), Instant::now()));
    Ok(found)
}

fn callback_url(oidc: &Oidc) -> Result<RedirectUrl, Problem> {
    RedirectUrl::new(format!("{}{CALLBACK}", oidc.public_url.trim_end_matches('/'))).map_err(unreachable)
}

/// Where to go after a sign-in: a path of this hub, whatever was asked.
fn own_path(next: Option<String>) -> String {
    let own = |n: &String| {
        n.starts_with('/')
            && !n.starts_with("//")
            && !n.starts_with("/\\")
            && n.bytes().all(|b| (0x21..0x7f).contains(&b))
            && n.len() <= 2_000
    };
    next.filter(own).unwrap_or_else(|| "/".to_owned())
}

fn to(place: &str, cookies: &[HeaderValue]) -> Result<Response, Problem> {
    let place = HeaderValue::from_str(place).map_err(unreachable)?;
    let mut response = StatusCode::SEE_OTHER.into_response();
    response.headers_mut().insert(header::LOCATION, place);
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie.clone());
    }
    Ok(response)
}

fn none() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "this hub has no identity provider; log in with a local password")
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SignIn {
    /// Path of this hub to go to afterwards.
    next: Option<String>,
}

/// Sign in at the identity provider: sends the browser there.
#[utoipa::path(get, path = "/api/v1/login/oidc", params(SignIn),
    responses((status = 303, description = "to the provider"), (status = 404, description = "there is none")))]
pub(crate) async fn sign_in(
    State(api): State<Api>,
    Peer(address): Peer,
    query: Result<Query<SignIn>, QueryRejection>,
) -> Result<Response, Problem> {
    api.metrics.requests.inc();
    let Query(SignIn { next }) = query?;
    let force = api.guard.force();
    let (oidc, secret) = force.oidc.as_ref().ok_or_else(none)?;
    if !api.guard.may_try(address, "") {
        api.guard.audit.refused(By { address, ..By::default() }, "login", "hub", "too_many_logins");
        return to("/login?error=too_many_logins", &[]);
    }
    let metadata = match provider(&api, oidc, force.oidc_ca.clone()).await {
        Ok(metadata) => metadata,
        Err(e) => {
            tracing::error!(error = e.said(), "nobody can sign in");
            return to("/login?error=provider", &[]);
        }
    };
    let party = Party::from_provider_metadata(
        metadata,
        ClientId::new(oidc.client_id.clone()),
        secret.clone().map(ClientSecret::new),
    )
    .set_redirect_uri(callback_url(oidc)?);
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let begun = party
        .authorize_url(CoreAuthenticationFlow::AuthorizationCode, CsrfToken::new_random, Nonce::new_random)
        .add_scope(Scope::new("profile".to_owned()))
        .set_pkce_challenge(challenge);
    let (url, state, nonce) = begun.url();
    let binding = random().map_err(unreachable)?;
    {
        let mut open = lock(&api.guard.oidc.open);
        open.retain(|_, f| f.begun.elapsed() < FLOW_MAX);
        if open.len() >= FLOWS_MAX {
            let error = "too many sign-ins are under way; wait a minute";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, error));
        }
        let flow =
            Flow { nonce, verifier, next: own_path(next), binding: binding.clone(), begun: Instant::now() };
        open.insert(state.secret().clone(), flow);
    }
    to(url.as_str(), &[set_cookie(BINDING, &binding, false)?])
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CameBack {
    state: Option<String>,
    code: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

/// Values of a claim: a text, or a list of texts.
fn values(claims: &BTreeMap<String, Value>, name: &str) -> Vec<String> {
    match claims.get(name) {
        Some(Value::String(s)) => vec![s.clone()],
        Some(Value::Array(all)) => all.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

/// Who somebody is, by the access file: name, role and tenant.
fn who(oidc: &Oidc, claims: &BTreeMap<String, Value>) -> Result<(String, Role, Option<String>), String> {
    let name = values(claims, &oidc.name_claim).into_iter().next().unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    if name.is_empty() {
        return Err(format!("the ID token has no claim {:?}", oidc.name_claim));
    }
    let groups = values(claims, &oidc.role_claim);
    let role = groups.iter().filter_map(|g| oidc.roles.get(g)).max().copied();
    let role = role.ok_or_else(|| format!("{name} has no role here: none of {groups:?} means one"))?;
    let tenant = groups.iter().find_map(|g| oidc.tenants.get(g)).cloned();
    Ok((name, role, tenant))
}

/// Where the identity provider sends the browser back to.
#[utoipa::path(get, path = "/api/v1/login/callback", params(CameBack),
    responses((status = 303, description = "logged in, or refused: /login?error=WHY"), (status = 404, description = "there is no provider")))]
pub(crate) async fn callback(
    State(api): State<Api>,
    Peer(address): Peer,
    headers: HeaderMap,
    query: Result<Query<CameBack>, QueryRejection>,
) -> Result<Response, Problem> {
    api.metrics.requests.inc();
    let Query(back) = query?;
    let force = api.guard.force();
    let (oidc, secret) = force.oidc.as_ref().ok_or_else(none)?;
    // The page says what it means; a text of the provider's is for the log.
    let refuse = |why: &'static str, error: String| {
        tracing::warn!(why, error, "a sign-in is refused");
        let by = By { auth: "none", address, ..By::default() };
        api.guard.audit.refused(by, "login", "hub", why);
        to(&format!("/login?error={why}"), &[set_cookie(BINDING, "", false)?])
    };
    let flow = back.state.as_ref().and_then(|s| lock(&api.guard.oidc.open).remove(s));
    let bound = cookie(&headers, BINDING).unwrap_or_default();
    let flow = flow.filter(|f| f.begun.elapsed() < FLOW_MAX && f.binding == bound && !bound.is_empty());
    let Some(flow) = flow else {
        return refuse("sign_in_state", "it did not begin in this browser, or took too long".to_owned());
    };
    let Some(code) = back.code.filter(|_| back.error.is_none()) else {
        let said = back.error_description.or(back.error).unwrap_or_default();
        let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
        return refuse("sign_in_refused", said);
    };
    let metadata = provider(&api, oidc, force.oidc_ca.clone()).await?;
    let party = Party::from_provider_metadata(
        metadata,
        ClientId::new(oidc.client_id.clone()),
        secret.clone().map(ClientSecret::new),
    )
    .set_redirect_uri(callback_url(oidc)?);
    let ca = force.oidc_ca.clone();
    let (nonce, verifier) = (flow.nonce, flow.verifier);
    let exchanged = tokio::task::spawn_blocking(move || -> Result<BTreeMap<String, Value>, String> {
        let http = Http::new(ca.as_deref())?;
        let request = party.exchange_code(AuthorizationCode::new(code)).map_err(|e| chain(&e))?;
        let tokens = request.set_pkce_verifier(verifier).request(&|r| http.call(r)).map_err(|e| chain(&e))?;
        let token = tokens.extra_fields().id_token().ok_or("the answer has no ID token")?;
        let claims = token.claims(&party.id_token_verifier(), &nonce).map_err(|e| chain(&e))?;
        let mut all = claims.additional_claims().all.clone();
        // The standard's own claims, by the names they have on the wire.
        let text = |v: Option<String>| v.map(Value::String);
        for (name, value) in [
            ("sub", text(Some(claims.subject().to_string()))),
            ("email", text(claims.email().map(|e| e.to_string()))),
            ("preferred_username", text(claims.preferred_username().map(|n| n.to_string()))),
        ] {
            if let Some(value) = value {
                all.insert(name.to_owned(), value);
            }
        }
        Ok(all)
    });
    let claims = match exchanged.await.map_err(unreachable)? {
        Ok(claims) => claims,
        Err(e) => return refuse("id_token", e),
    };
    let (name, role, tenant) = match who(oidc, &claims) {
        Ok(known) => known,
        Err(e) => return refuse("no_role", e),
    };
    let by = By { who: name, role: role.word(), auth: "none", address };
    let id = api.guard.begin(by, &format!("at {}", oidc.issuer), role, tenant, None).await?;
    let mut response = to(&flow.next, &[set_cookie(COOKIE, &id, false)?, set_cookie(BINDING, "", false)?])?;
    response
        .headers_mut()
        .insert(HeaderName::from_static("cache-control"), HeaderValue::from_static("no-store"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_sent_on_to_a_path_of_this_hub_only() {
        for (asked, goes) in [
            (None, "/"),
            (Some("/incidents/inc-1?x=2"), "/incidents/inc-1?x=2"),
            (Some("//evil.example"), "/"),
            (Some("/\\evil.example"), "/"),
            (Some("https://evil.example"), "/"),
            (Some("/a\r\nset-cookie: x"), "/"),
        ] {
            assert_eq!(own_path(asked.map(str::to_owned)), goes, "{asked:?}");
        }
    }

    #[test]
    fn the_highest_role_of_the_groups_counts() {
        let oidc: Oidc = toml::from_str(
            "issuer='https://x'\nclient_id='x'\npublic_url='https://x'\n\
             roles={staff='viewer', oncall='operator'}\ntenants={blue='blue'}",
        )
        .unwrap();
        let claims = |groups: Value| {
            BTreeMap::from([("preferred_username".to_owned(), "ada".into()), ("groups".to_owned(), groups)])
        };
        let of = |groups: Value| who(&oidc, &claims(groups));
        assert_eq!(of(serde_json::json!(["staff", "oncall"])), Ok(("ada".into(), Role::Operator, None)));
        assert_eq!(of("staff".into()), Ok(("ada".into(), Role::Viewer, None)));
        assert_eq!(
            of(serde_json::json!(["staff", "blue"])),
            Ok(("ada".into(), Role::Viewer, Some("blue".into())))
        );
        assert!(of(serde_json::json!(["other"])).is_err());
        assert!(who(&oidc, &BTreeMap::new()).unwrap_err().contains("preferred_username"));
    }
}
