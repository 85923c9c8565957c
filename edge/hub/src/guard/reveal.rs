//! The address behind a pseudonym, for an administrator who says why.

use super::Principal;
use crate::api::{Api, Problem};
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
pub(crate) struct RevealRequest {
    /// What stands in a table instead of an address.
    address: String,
    /// Id of the key beside it, where there is one.
    #[serde(default)]
    address_key: Option<String>,
    /// Why it has to be known; written down.
    reason: String,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevealView {
    /// The address.
    pub address: String,
}

/// The address behind a pseudonym. That it was revealed, to whom and why, is written down first.
#[utoipa::path(post, path = "/api/v1/reveal", request_body = RevealRequest,
    responses((status = 200, body = RevealView), (status = 403, description = "for administrators")))]
pub(crate) async fn reveal(
    State(api): State<Api>,
    who: Principal,
    body: Result<Json<RevealRequest>, JsonRejection>,
) -> Result<Json<RevealView>, Problem> {
    api.metrics.requests.inc();
    let Json(asked) = body?;
    let bad = |text: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text);
    let pseudonym: IpAddr = asked.address.parse().map_err(|_| {
        bad(format!("{:?} is no address, expected one as it stands in a table", asked.address))
    })?;
    let reason = asked.reason.trim();
    if reason.is_empty() || reason.chars().count() > 1_000 {
        return Err(bad("expected a reason of 1 to 1000 characters".to_owned()));
    }
    let pseudonyms = &api.guard.audit.pseudonyms;
    if let Some(key) = asked.address_key.filter(|k| k != pseudonyms.key_id()) {
        return Err(bad(format!("it was made with key {key}, and this hub has {}", pseudonyms.key_id())));
    }
    api.guard.audit.done(&who.by(), "reveal", &asked.address, reason).await?;
    Ok(Json(RevealView { address: pseudonyms.behind(pseudonym).to_string() }))
}
