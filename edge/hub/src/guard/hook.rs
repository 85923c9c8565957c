//! Programs that tell of changes: deployments, cabling, drained switches. "What changed?" is the first question of every
//! incident, and the hub cannot see most of it.
//!
//! How: `POST /api/v1/hooks/NAME` with a signature: `x-selvedge-signature: t=UNIX_SECONDS,v1=HEX`, where HEX is
//! HMAC-SHA256 with the hook's secret over the seconds, a full stop, and the body as it is sent.
//! Invariants: nothing is read of a body before its signature is right; a message is taken once, and only within
//! [`AGE_MAX`] of when it was signed.

use super::{By, Peer};
use crate::api::{Api, Problem};
use crate::rows::{self, ChangeRow};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use ring::hmac;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::PoisonError;
use tables::Rows;
use utoipa::ToSchema;
use wire::Nanos;

/// Beginning of every hook's path.
pub(crate) const HOOKS: &str = "/api/v1/hooks/";
const SIGNATURE: &str = "x-selvedge-signature";
/// How far the clocks of both may be apart, and how long a signature is remembered, seconds.
const AGE_MAX: u64 = 300;
const SEEN_MAX: usize = 10_000;
const WORD_MAX: usize = 100;
const TEXT_MAX: usize = 4_000;

/// Signatures taken, and when they were made.
pub(crate) type Seen = BTreeMap<[u8; 32], u64>;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HookRequest {
    /// What kind of change, such as deploy.
    kind: String,
    /// What changed, such as p0-leaf3.
    subject: String,
    /// What happened to it, such as began or ended.
    what: String,
    /// How, in words.
    #[serde(default)]
    text: String,
}

fn read_signature(text: &str) -> Option<(u64, [u8; 32])> {
    let (t, v1) = text.split_once(',')?;
    let seconds = t.trim().strip_prefix("t=")?.parse().ok()?;
    let hex = v1.trim().strip_prefix("v1=")?;
    let mut mac = [0u8; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (i, byte) in mac.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some((seconds, mac))
}

/// Checks a signature; says what is wrong with it.
fn check(secret: &[u8], header: &str, body: &[u8], now: u64, seen: &mut Seen) -> Result<(), &'static str> {
    let (at, mac) = read_signature(header).ok_or("no_signature")?;
    let mut signed = at.to_string().into_bytes();
    signed.push(b'.');
    signed.extend_from_slice(body);
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), &signed, &mac).map_err(|_| "signature")?;
    if at.abs_diff(now) > AGE_MAX {
        return Err("old_signature");
    }
    seen.retain(|_, at| at.abs_diff(now) <= AGE_MAX);
    if seen.len() >= SEEN_MAX {
        return Err("too_fast");
    }
    match seen.insert(mac, at) {
        Some(_) => Err("replayed"),
        None => Ok(()),
    }
}

/// Tell of a change. Signed; see docs/access.md.
#[utoipa::path(post, path = "/api/v1/hooks/{name}", request_body = HookRequest,
    params(("name" = String, Path, description = "name of the hook in the access file")),
    responses((status = 200, description = "written down"), (status = 401, description = "the signature is wrong, old, or was used")))]
pub(crate) async fn hook(
    State(api): State<Api>,
    Path(name): Path<String>,
    Peer(address): Peer,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<serde_json::Value>, Problem> {
    api.metrics.requests.inc();
    let body = body.map_err(|e| Problem::new(e.status(), e.body_text()))?;
    let by = By { who: name.chars().take(64).collect(), role: "", auth: "signature", address };
    let header = headers.get(SIGNATURE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let now = crate::wall().0 / 1_000_000_000;
    let force = api.guard.force();
    let checked = match force.hooks.get(&name) {
        None => Err("unknown_hook"),
        Some(secret) => {
            let mut seen = api.guard.hooks_seen.lock().unwrap_or_else(PoisonError::into_inner);
            check(secret, header, &body, now, &mut seen)
        }
    };
    if let Err(why) = checked {
        api.guard.audit.refused(By { auth: "none", ..by }, "change", "hook", why);
        let error = format!(
            "{why}: expected {SIGNATURE}: t=UNIX_SECONDS,v1=HEX, the HMAC-SHA256 of the seconds, a full stop and the \
             body with the secret of a hook of that name, made within {AGE_MAX} s and not used before"
        );
        return Err(Problem::new(StatusCode::UNAUTHORIZED, error));
    }
    let asked: HookRequest =
        serde_json::from_slice(&body).map_err(|e| Problem::new(StatusCode::BAD_REQUEST, e.to_string()))?;
    for (of, text, max) in [
        ("kind", &asked.kind, WORD_MAX),
        ("subject", &asked.subject, WORD_MAX),
        ("what", &asked.what, WORD_MAX),
        ("text", &asked.text, TEXT_MAX),
    ] {
        if text.chars().count() > max
            || text.chars().any(char::is_control)
            || (of != "text" && text.is_empty())
        {
            let error = format!("{of}: expected 1 to {max} characters in one line");
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error));
        }
    }
    api.guard.audit.done(&by, "change", &asked.subject, &format!("{} {}", asked.kind, asked.what)).await?;
    let change = ChangeRow {
        at: Nanos(crate::wall().0),
        kind: asked.kind.into(),
        subject: asked.subject,
        what: asked.what.into(),
        text: asked.text,
    };
    let ticket = api.tables.append(Rows { producer: None, parts: vec![rows::changes(&[change])] })?;
    api.tables.durable(ticket).await?;
    Ok(Json(serde_json::json!({ "stored": true })))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"a secret of a hook";

    fn signed(at: u64, body: &[u8]) -> String {
        let mut text = format!("{at}.").into_bytes();
        text.extend_from_slice(body);
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), &text);
        let hex: String = mac.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        format!("t={at},v1={hex}")
    }

    #[test]
    fn a_message_is_taken_once_and_only_as_it_was_signed() {
        let mut seen = Seen::new();
        let header = signed(1_000, b"body");
        let mut checked = |header: &str, body: &[u8], now| check(SECRET, header, body, now, &mut seen);
        assert_eq!(checked("", b"body", 1_000), Err("no_signature"));
        assert_eq!(checked("t=1000,v1=zz", b"body", 1_000), Err("no_signature"));
        assert_eq!(checked(&header, b"bodY", 1_000), Err("signature"));
        assert_eq!(checked(&header.replace("t=1000", "t=1001"), b"body", 1_000), Err("signature"));
        assert_eq!(checked(&header, b"body", 1_301), Err("old_signature"));
        assert_eq!(checked(&header, b"body", 1_200), Ok(()));
        assert_eq!(checked(&header, b"body", 1_201), Err("replayed"));
        assert_eq!(checked(&signed(1_001, b"body"), b"body", 1_201), Ok(()), "signed anew");
    }
}
