//! Routes of the whole switch as one document.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Shared;
use super::body::{BULK_LIMIT, Body, ErrorBody, Query};
use super::routes::Answer;
use crate::control::types::{Applied, Config};

/// Show the switch as a document.
#[utoipa::path(get, path = "/v1/config", tag = "switch", responses(
    (status = 200, description = "What is not at its default; applying it changes nothing", body = Config),
))]
pub(super) async fn save(State(s): State<Shared>) -> Answer<Config> {
    Ok(Json(s.with(|switch| switch.save()).await?))
}

/// How to apply a document.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct How {
    /// Only say what would change (default: change it).
    dry_run: Option<bool>,
}

/// Make the switch equal to a document: all of it or nothing. Ports keep their counters and connections unless their device or
/// address changes; what the document does not say goes to its default, and ports that it does not name are removed.
#[utoipa::path(put, path = "/v1/config", tag = "switch", params(How), request_body = Config, responses(
    (status = 200, description = "What was changed; every later frame is judged by it", body = Applied),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such interface", body = ErrorBody),
    (status = 409, description = "Not all of it together", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn apply(
    State(s): State<Shared>,
    Query(how): Query<How>,
    Body(config): Body<Config, BULK_LIMIT>,
) -> Answer<Applied> {
    let dry_run = how.dry_run == Some(true);
    Ok(Json(s.with(move |switch| switch.apply(&config, dry_run)).await??))
}
