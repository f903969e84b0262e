//! Routes of meters and sessions.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::Shared;
use super::body::{ApiError, ErrorBody, Name};
use super::routes::Answer;
use crate::control::types::{Flushed, MeterView, SessionView};

/// Show what the meters of all metered ports counted.
#[utoipa::path(get, path = "/v1/meters", tag = "metering", responses(
    (status = 200, description = "The metered ports, by name", body = Vec<MeterView>),
))]
pub(super) async fn list_meters(State(s): State<Shared>) -> Answer<Vec<MeterView>> {
    Ok(Json(s.with(|switch| switch.meters()).await?))
}

/// Show the sum over all metered ports: meters of the same direction and address are added up.
#[utoipa::path(get, path = "/v1/meters/total", tag = "metering", responses(
    (status = 200, description = "The sum", body = MeterView),
))]
pub(super) async fn total_meters(State(s): State<Shared>) -> Answer<MeterView> {
    Ok(Json(s.with(|switch| switch.meter_total()).await?))
}

/// Meter all guest ports and host ports; those that are metered already go on counting.
#[utoipa::path(put, path = "/v1/meters", tag = "metering", responses(
    (status = 200, description = "The metered ports", body = Vec<MeterView>),
    (status = 409, description = "There are too many entries", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn enable_meters(State(s): State<Shared>) -> Answer<Vec<MeterView>> {
    Ok(Json(s.with(|switch| switch.enable_meters(None)).await??))
}

/// End metering of all ports; the numbers are gone.
#[utoipa::path(delete, path = "/v1/meters", tag = "metering", responses(
    (status = 204, description = "No port is metered"),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn disable_meters(State(s): State<Shared>) -> Result<StatusCode, ApiError> {
    s.with(|switch| switch.disable_meters(None)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Set the numbers and the duration of all metered ports to zero.
#[utoipa::path(post, path = "/v1/meters/reset", tag = "metering", responses(
    (status = 200, description = "The metered ports", body = Vec<MeterView>),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn reset_meters(State(s): State<Shared>) -> Answer<Vec<MeterView>> {
    Ok(Json(s.with(|switch| switch.reset_meters(None)).await??))
}

/// Show what a port's meters counted.
#[utoipa::path(get, path = "/v1/ports/{name}/meter", tag = "metering", params(("name" = String, Path, description = "The port's name")), responses(
    (status = 200, description = "The report", body = MeterView),
    (status = 404, description = "There is no such port, or it is not metered", body = ErrorBody),
))]
pub(super) async fn show_meter(State(s): State<Shared>, Name(name): Name) -> Answer<MeterView> {
    Ok(Json(s.with(move |switch| switch.meter(&name)).await??))
}

/// Meter a port. Without any ACL entry it gets meters for all traffic; one that is metered already goes on counting.
#[utoipa::path(put, path = "/v1/ports/{name}/meter", tag = "metering", params(("name" = String, Path, description = "The port's name")), responses(
    (status = 200, description = "The report", body = MeterView),
    (status = 400, description = "It is an uplink", body = ErrorBody),
    (status = 404, description = "There is no such port", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn enable_meter(State(s): State<Shared>, Name(name): Name) -> Answer<MeterView> {
    let enable = move |switch: &mut crate::control::Switch| {
        switch.enable_meters(Some(&name))?;
        switch.meter(&name)
    };
    Ok(Json(s.with(enable).await??))
}

/// End metering of a port: the numbers are gone, and so are the meters that metering added.
#[utoipa::path(delete, path = "/v1/ports/{name}/meter", tag = "metering", params(("name" = String, Path, description = "The port's name")), responses(
    (status = 204, description = "It is not metered any more"),
    (status = 404, description = "There is no such port, or it is not metered", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn disable_meter(State(s): State<Shared>, Name(name): Name) -> Result<StatusCode, ApiError> {
    s.with(move |switch| switch.disable_meters(Some(&name))).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Set the numbers and the duration of a port to zero.
#[utoipa::path(post, path = "/v1/ports/{name}/meter/reset", tag = "metering", params(("name" = String, Path, description = "The port's name")), responses(
    (status = 200, description = "The report", body = MeterView),
    (status = 404, description = "There is no such port, or it is not metered", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn reset_meter(State(s): State<Shared>, Name(name): Name) -> Answer<MeterView> {
    let reset = move |switch: &mut crate::control::Switch| {
        switch.reset_meters(Some(&name))?;
        switch.meter(&name)
    };
    Ok(Json(s.with(reset).await??))
}

/// List the sessions of stateful rules.
#[utoipa::path(get, path = "/v1/sessions", tag = "seeing", responses(
    (status = 200, description = "The sessions, by port, the most recently used first", body = Vec<SessionView>),
))]
pub(super) async fn list_sessions(State(s): State<Shared>) -> Answer<Vec<SessionView>> {
    Ok(Json(s.with(|switch| switch.sessions(None)).await??))
}

/// List a port's sessions.
#[utoipa::path(get, path = "/v1/ports/{name}/sessions", tag = "seeing", params(("name" = String, Path, description = "The port's name")), responses(
    (status = 200, description = "The sessions, the most recently used first", body = Vec<SessionView>),
    (status = 404, description = "There is no such port", body = ErrorBody),
))]
pub(super) async fn port_sessions(State(s): State<Shared>, Name(name): Name) -> Answer<Vec<SessionView>> {
    Ok(Json(s.with(move |switch| switch.sessions(Some(&name))).await??))
}

/// End a port's sessions: its next packets are judged by the rules alone.
#[utoipa::path(delete, path = "/v1/ports/{name}/sessions", tag = "seeing", params(("name" = String, Path, description = "The port's name")), responses(
    (status = 200, description = "How many there were", body = Flushed),
    (status = 404, description = "There is no such port", body = ErrorBody),
))]
pub(super) async fn flush_sessions(State(s): State<Shared>, Name(name): Name) -> Answer<Flushed> {
    Ok(Json(s.with(move |switch| switch.flush_sessions(&name)).await??))
}
