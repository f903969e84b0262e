//! The states of ports as files: opaque bytes, so that whoever keeps them need not understand them.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::body::{ApiError, ErrorBody, Name, StateBody};
use super::routes::Answer;
use crate::control::types::{Imported, PortView};

/// Export a port's state.
#[utoipa::path(get, path = "/v1/ports/{name}/state", tag = "migration", params(("name" = String, Path, description = "The port's name")), responses(
    (status = 200, description = "The state, for import into a port of the same name and address", content_type = "application/octet-stream", body = Vec<u8>),
    (status = 404, description = "There is no such port", body = ErrorBody),
    (status = 409, description = "It is not a guest port", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn export(State(s): State<Shared>, Name(name): Name) -> Result<Response, ApiError> {
    let bytes = s.with(move |switch| switch.export_port(&name)).await??;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// Make a port, whose guest does not run, what an exported state says.
#[utoipa::path(post, path = "/v1/states", tag = "migration", request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
    (status = 200, description = "The port", body = Imported),
    (status = 404, description = "There is no such port", body = ErrorBody),
    (status = 409, description = "The state is not one of this port, or its guest runs", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn import(State(s): State<Shared>, StateBody(bytes): StateBody) -> Answer<Imported> {
    let taken = move |switch: &mut crate::control::Switch| {
        let name = switch.import_port(&bytes)?;
        let view: PortView = switch.show_port(&name)?;
        Ok::<_, vswitch::refusal::Refused>(Imported { port: view })
    };
    Ok(Json(s.with(taken).await??))
}
