//! The request by which a successor takes over: HTTP up to the answer, then the protocol of [`crate::takeover`] on the same connection.

use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use utoipa::ToSchema;
use vswitch::refusal::{Object, Refusal};

use super::Shared;
use super::body::{ApiError, Body, ErrorBody};
use super::serve::Peer;
use crate::takeover::Turn;

/// Where a successor asks.
pub(crate) const PATH: &str = "/v1/take-over";
/// What the connection is upgraded to.
pub(crate) const PROTOCOL: &str = "turnpike-take-over";

/// Who asks.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TakeOverSpec {
    /// Version of the protocol that is spoken after the answer.
    version: u32,
}

/// Hand the running switch over to the process that asks; used by `turnpike serve --take-over`.
#[utoipa::path(post, path = "/v1/take-over", tag = "switch", request_body = TakeOverSpec, responses(
    (status = 101, description = "The connection goes on as turnpike-take-over"),
    (status = 400, description = "It is no request to upgrade", body = ErrorBody),
    (status = 403, description = "The caller may not", body = ErrorBody),
    (status = 409, description = "Another take-over is under way, or the versions do not fit", body = ErrorBody),
))]
pub(super) async fn take_over(State(s): State<Shared>, mut request: Request) -> Result<Response, ApiError> {
    let wanted = request.headers().get(header::UPGRADE).is_some_and(|name| name == PROTOCOL);
    let peer = request.extensions().get::<Peer>().map(|peer| peer.uid);
    let upgrade = hyper::upgrade::on(&mut request);
    let Body(TakeOverSpec { version }) = Body::<TakeOverSpec>::from_request(request, &s).await?;
    if !wanted {
        let reason = format!("the connection must be upgraded to {PROTOCOL}");
        return Err(Refusal::Malformed { reason }.of(Object::Request).into());
    }
    let turn = s.giver.admit(peer, version)?;
    tokio::spawn(hand_over(upgrade, turn, s));
    let names = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(PROTOCOL)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, names).into_response())
}

async fn hand_over(upgrade: OnUpgrade, turn: Turn, shared: Shared) {
    let Ok(Some(stream)) = upgrade.await.map(plain) else {
        return log::warn!("a take-over ended before it began");
    };
    let thread = std::thread::Builder::new().name("take-over".into());
    if let Err(e) = thread.spawn(move || turn.give(stream, &shared.switch, &shared.migrations)) {
        log::error!("a take-over failed: {e}");
    }
}

/// The socket under an upgraded connection; `None` if the peer has said something that only HTTP has read.
fn plain(upgraded: Upgraded) -> Option<std::os::unix::net::UnixStream> {
    let parts = upgraded.downcast::<TokioIo<UnixStream>>().ok()?;
    if !parts.read_buf.is_empty() {
        return None;
    }
    parts.io.into_inner().into_std().ok()
}
