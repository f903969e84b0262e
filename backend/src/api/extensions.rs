//! Routes of extensions.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::IntoParams;

use super::Shared;
use super::body::{ApiError, Body, ErrorBody, ModuleBody, Name, Query};
use super::routes::Answer;
use crate::control::types::{AvailableExtension, ExtensionMove, ExtensionView, NewExtension};

/// A configuration of the longest allowed length, and what is around it.
const LIMIT: usize = 256 * 1024;

/// List the enabled extensions, in the order of the stack.
#[utoipa::path(get, path = "/v1/extensions", tag = "extensions", responses(
    (status = 200, description = "The enabled extensions, the one nearest to the guests first", body = Vec<ExtensionView>),
))]
pub(super) async fn list_extensions(State(s): State<Shared>) -> Answer<Vec<ExtensionView>> {
    Ok(Json(s.with(|switch| switch.list_extensions()).await?))
}

/// Enable an extension: a new instance, which hears of everything that exists.
#[utoipa::path(post, path = "/v1/extensions", tag = "extensions", request_body = NewExtension, responses(
    (status = 201, description = "The extension; every later frame is shown to it", body = ExtensionView),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such extension", body = ErrorBody),
    (status = 409, description = "It is enabled, or not together with those that are", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn enable_extension(
    State(s): State<Shared>,
    Body(new): Body<NewExtension, LIMIT>,
) -> Result<(StatusCode, Json<ExtensionView>), ApiError> {
    let view = s.with(move |switch| switch.enable_extension(&new)).await??;
    Ok((StatusCode::CREATED, Json(view)))
}

/// List the extensions that can be enabled.
#[utoipa::path(get, path = "/v1/available-extensions", tag = "extensions", responses(
    (status = 200, description = "Those that are built in and those that were loaded, by name", body = Vec<AvailableExtension>),
))]
pub(super) async fn available_extensions(State(s): State<Shared>) -> Answer<Vec<AvailableExtension>> {
    Ok(Json(s.with(|switch| switch.available_extensions()).await?))
}

/// Which part of an extension.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Part {
    /// Only what is about this port (default: the switch).
    port: Option<String>,
}

/// Show an extension.
#[utoipa::path(get, path = "/v1/extensions/{name}", tag = "extensions", params(("name" = String, Path, description = "The extension's name"), Part), responses(
    (status = 200, description = "The extension", body = ExtensionView),
    (status = 404, description = "There is no such extension or port", body = ErrorBody),
    (status = 409, description = "A port was asked for, and the extension is not running", body = ErrorBody),
))]
pub(super) async fn show_extension(
    State(s): State<Shared>,
    Name(name): Name,
    Query(part): Query<Part>,
) -> Answer<ExtensionView> {
    Ok(Json(s.with(move |switch| switch.show_extension(&name, part.port.as_deref())).await??))
}

/// Give an extension another place among those of its kind.
#[utoipa::path(patch, path = "/v1/extensions/{name}", tag = "extensions", params(("name" = String, Path, description = "The extension's name")), request_body = ExtensionMove, responses(
    (status = 200, description = "The extension; no frame meets a mix of the two orders", body = ExtensionView),
    (status = 400, description = "The place is not one of its kind", body = ErrorBody),
    (status = 404, description = "There is no such extension", body = ErrorBody),
    (status = 409, description = "It is not enabled", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn move_extension(
    State(s): State<Shared>,
    Name(name): Name,
    Body(to): Body<ExtensionMove>,
) -> Answer<ExtensionView> {
    Ok(Json(s.with(move |switch| switch.move_extension(&name, &to)).await??))
}

/// Disable an extension. Its settings are kept.
#[utoipa::path(delete, path = "/v1/extensions/{name}", tag = "extensions", params(("name" = String, Path, description = "The extension's name")), responses(
    (status = 204, description = "No later frame is shown to it"),
    (status = 404, description = "There is no such extension", body = ErrorBody),
    (status = 409, description = "It is not enabled", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn disable_extension(
    State(s): State<Shared>,
    Name(name): Name,
) -> Result<StatusCode, ApiError> {
    s.with(move |switch| switch.disable_extension(&name)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Give an extension settings of its own, for the switch or for one port. They take the place of those there were; an extension that is not
/// enabled gets them when it is.
#[utoipa::path(put, path = "/v1/extensions/{name}/settings", tag = "extensions", params(("name" = String, Path, description = "The extension's name"), Part), request_body(content = Value, description = "An object with the keys that the extension has"), responses(
    (status = 204, description = "They are in force, or kept"),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such port", body = ErrorBody),
    (status = 409, description = "The extension refuses them", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn set_extension(
    State(s): State<Shared>,
    Name(name): Name,
    Query(part): Query<Part>,
    Body(settings): Body<Map<String, Value>, LIMIT>,
) -> Result<StatusCode, ApiError> {
    let settings = Value::Object(settings);
    let set = move |switch: &mut crate::control::Switch| {
        switch.set_extension(&name, part.port.as_deref(), Some(&settings))
    };
    s.with(set).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Forget an extension's own settings, for the switch or for one port.
#[utoipa::path(delete, path = "/v1/extensions/{name}/settings", tag = "extensions", params(("name" = String, Path, description = "The extension's name"), Part), responses(
    (status = 204, description = "There are none"),
    (status = 404, description = "There is no such port", body = ErrorBody),
    (status = 409, description = "The extension refuses it", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn unset_extension(
    State(s): State<Shared>,
    Name(name): Name,
    Query(part): Query<Part>,
) -> Result<StatusCode, ApiError> {
    s.with(move |switch| switch.set_extension(&name, part.port.as_deref(), None)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Load the module of an extension, which can be enabled then. It is kept in the state directory.
#[utoipa::path(put, path = "/v1/extensions/{name}/module", tag = "extensions", params(("name" = String, Path, description = "The extension's name")), request_body(content = Vec<u8>, content_type = "application/wasm"), responses(
    (status = 204, description = "The module is loaded"),
    (status = 400, description = "The module is not valid", body = ErrorBody),
    (status = 409, description = "The extension is enabled or built in", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn load_extension(
    State(s): State<Shared>,
    Name(name): Name,
    ModuleBody(bytes): ModuleBody,
) -> Result<StatusCode, ApiError> {
    s.with(move |switch| switch.load_extension(&name, bytes.to_vec())).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Forget the module of an extension.
#[utoipa::path(delete, path = "/v1/extensions/{name}/module", tag = "extensions", params(("name" = String, Path, description = "The extension's name")), responses(
    (status = 204, description = "The module is gone"),
    (status = 404, description = "There is no such module", body = ErrorBody),
    (status = 409, description = "The extension is enabled or built in", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn unload_extension(
    State(s): State<Shared>,
    Name(name): Name,
) -> Result<StatusCode, ApiError> {
    s.with(move |switch| switch.unload_extension(&name)).await??;
    Ok(StatusCode::NO_CONTENT)
}
