//! OTLP over HTTP: `POST /v1/metrics`, `/v1/logs` and `/v1/traces`, protobuf, gzip or not.
//!
//! Invariants: a body is read only up to its limit, and unpacked only up to the same; a sender that may try again is told so by 503, and one that must not by 4xx.

use super::convert::Outcome;
use super::{Desk, Export, Signal, peer_of};
use crate::rows::{Dropped, Receiver};
use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message;
use std::io::Read as _;
use std::sync::Arc;

/// The three addresses.
pub(super) fn router(desk: Arc<Desk>) -> Router {
    let of = |signal| {
        post(move |State(desk): State<Arc<Desk>>, request: Request| async move {
            answer(&desk, signal, request).await
        })
    };
    Router::new()
        .route("/v1/metrics", of(Signal::Metrics))
        .route("/v1/logs", of(Signal::Logs))
        .route("/v1/traces", of(Signal::Traces))
        .with_state(desk)
}

fn is_protobuf(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    kind.is_some_and(|k| k.split(';').next().unwrap_or("").trim() == "application/x-protobuf")
}

/// Unpacks a body, no further than its limit.
fn unpacked(headers: &HeaderMap, body: Bytes, most: usize) -> Result<Bytes, (StatusCode, String)> {
    match headers.get(header::CONTENT_ENCODING).map(|v| v.as_bytes()) {
        None | Some(b"identity") => Ok(body),
        Some(b"gzip") => {
            let mut out = Vec::new();
            let mut limited = GzDecoder::new(&*body).take(most as u64 + 1);
            let read = limited.read_to_end(&mut out);
            read.map_err(|e| (StatusCode::BAD_REQUEST, format!("the body is no gzip: {e}")))?;
            if out.len() > most {
                return Err((
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("expected at most {most} bytes, unpacked"),
                ));
            }
            Ok(out.into())
        }
        Some(_) => {
            Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected content-encoding gzip or none".to_owned()))
        }
    }
}

async fn answer(desk: &Desk, signal: Signal, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let refuse = |status: StatusCode, why: Dropped, text: String| {
        desk.intake.dropped(Receiver::Otlp, why, 1);
        (status, text).into_response()
    };
    if !is_protobuf(&parts.headers) {
        let text = "expected content-type application/x-protobuf".to_owned();
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, Dropped::Unsupported, text);
    }
    let most = desk.config.body_bytes_max;
    let Ok(body) = to_bytes(body, most).await else {
        return refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            Dropped::TooLarge,
            format!("expected a whole body of at most {most} bytes"),
        );
    };
    let body = match unpacked(&parts.headers, body, most) {
        Ok(body) => body,
        Err((status, text)) => {
            let large = status == StatusCode::PAYLOAD_TOO_LARGE;
            return refuse(status, if large { Dropped::TooLarge } else { Dropped::Malformed }, text);
        }
    };
    match Export::decode(signal, &body) {
        Ok(export) => {
            let peer = peer_of(parts.extensions.get(), parts.extensions.get());
            said(signal, &desk.take(peer, export))
        }
        Err(e) => {
            refuse(StatusCode::BAD_REQUEST, Dropped::Malformed, format!("the body does not decode: {e}"))
        }
    }
}

/// The answer to a request that was taken.
fn said(signal: Signal, out: &Outcome) -> Response {
    let (n, text) = (out.rejected, out.message.to_owned());
    let body = match signal {
        Signal::Metrics => {
            let p = ExportMetricsPartialSuccess { rejected_data_points: n, error_message: text };
            ExportMetricsServiceResponse { partial_success: (n > 0).then_some(p) }.encode_to_vec()
        }
        Signal::Logs => {
            let p = ExportLogsPartialSuccess { rejected_log_records: n, error_message: text };
            ExportLogsServiceResponse { partial_success: (n > 0).then_some(p) }.encode_to_vec()
        }
        Signal::Traces => {
            let p = ExportTracePartialSuccess { rejected_spans: n, error_message: text };
            ExportTraceServiceResponse { partial_success: (n > 0).then_some(p) }.encode_to_vec()
        }
    };
    ([(header::CONTENT_TYPE, "application/x-protobuf")], body).into_response()
}
