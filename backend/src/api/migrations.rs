//! Ports that move from switch to switch, and what they need.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use migration::check;

use super::Shared;
use super::body::{ApiError, Body, ErrorBody, Name};
use super::routes::Answer;
use crate::migrate::view::{CheckView, ListenView, ManifestView, MigrationView, NewListener, NewMigration};

/// List the last migration of each port.
#[utoipa::path(get, path = "/v1/migrations", tag = "migration", responses(
    (status = 200, description = "The migrations, by port", body = Vec<MigrationView>),
))]
pub(super) async fn list(State(s): State<Shared>) -> Answer<Vec<MigrationView>> {
    Ok(Json(s.migrations.list()))
}

/// Begin to send a port to another switch. The guest is moved by its VMM: the port follows it.
#[utoipa::path(post, path = "/v1/migrations", tag = "migration", request_body = NewMigration, responses(
    (status = 201, description = "The migration, which has begun", body = MigrationView),
    (status = 400, description = "A value is not valid, or a file of the certificate cannot be used", body = ErrorBody),
    (status = 404, description = "There is no such port", body = ErrorBody),
    (status = 409, description = "It is not a guest port, or is part of another migration", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn send(
    State(s): State<Shared>,
    Body(new): Body<NewMigration>,
) -> Result<(StatusCode, Json<MigrationView>), ApiError> {
    Ok((StatusCode::CREATED, Json(s.migrations.send(new).await?)))
}

/// Show the last migration of a port.
#[utoipa::path(get, path = "/v1/migrations/{name}", tag = "migration", params(("name" = String, Path, description = "The port's name")), responses(
    (status = 200, description = "The migration", body = MigrationView),
    (status = 404, description = "There is none", body = ErrorBody),
))]
pub(super) async fn show(State(s): State<Shared>, Name(name): Name) -> Answer<MigrationView> {
    Ok(Json(s.migrations.show(&name)?))
}

/// End the migration of a port. The source is as it was before; a guest that runs at the destination already stays there.
#[utoipa::path(delete, path = "/v1/migrations/{name}", tag = "migration", params(("name" = String, Path, description = "The port's name")), responses(
    (status = 200, description = "The migration; it has ended when it has an outcome", body = MigrationView),
    (status = 404, description = "There is none", body = ErrorBody),
))]
pub(super) async fn cancel(State(s): State<Shared>, Name(name): Name) -> Answer<MigrationView> {
    Ok(Json(s.migrations.cancel(&name).await?))
}

/// Show where ports of other switches are taken.
#[utoipa::path(get, path = "/v1/migration-listener", tag = "migration", responses(
    (status = 200, description = "Where", body = ListenView),
    (status = 404, description = "Nowhere", body = ErrorBody),
))]
pub(super) async fn show_listener(State(s): State<Shared>) -> Answer<ListenView> {
    Ok(Json(s.migrations.listening()?))
}

/// Take ports of other switches from now on, until the switch ends.
#[utoipa::path(post, path = "/v1/migration-listener", tag = "migration", request_body = NewListener, responses(
    (status = 201, description = "Where; with TCP port 0, which one it became", body = ListenView),
    (status = 400, description = "A value is not valid, or a file of the certificate cannot be used", body = ErrorBody),
    (status = 409, description = "They are taken already", body = ErrorBody),
    (status = 503, description = "It is not possible to listen there", body = ErrorBody),
))]
pub(super) async fn listen(
    State(s): State<Shared>,
    Body(new): Body<NewListener>,
) -> Result<(StatusCode, Json<ListenView>), ApiError> {
    Ok((StatusCode::CREATED, Json(s.migrations.listen(new).await?)))
}

/// Take no more ports of other switches; migrations under way go on.
#[utoipa::path(delete, path = "/v1/migration-listener", tag = "migration", responses(
    (status = 204, description = "No more are taken"),
    (status = 404, description = "None were taken", body = ErrorBody),
))]
pub(super) async fn stop_listening(State(s): State<Shared>) -> Result<StatusCode, ApiError> {
    s.migrations.stop_listening()?;
    Ok(StatusCode::NO_CONTENT)
}

/// Say what a port needs at its destination.
#[utoipa::path(get, path = "/v1/ports/{name}/manifest", tag = "migration", params(("name" = String, Path, description = "The port's name")), responses(
    (status = 200, description = "What it needs", body = ManifestView),
    (status = 404, description = "There is no such port", body = ErrorBody),
    (status = 400, description = "It is not a guest port", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn manifest(State(s): State<Shared>, Name(name): Name) -> Answer<ManifestView> {
    Ok(Json(ManifestView(s.with(move |switch| switch.manifest(&name)).await??)))
}

/// Say everything that hinders a port from coming here in its front end's own stream; changes nothing.
#[utoipa::path(post, path = "/v1/migration-check", tag = "migration", request_body = ManifestView, responses(
    (status = 200, description = "What does not fit", body = CheckView),
    (status = 400, description = "It is not a manifest", body = ErrorBody),
))]
pub(super) async fn check(
    State(s): State<Shared>,
    Body(ManifestView(manifest)): Body<ManifestView>,
) -> Answer<CheckView> {
    let under_way = s.migrations.under_way(&manifest.name);
    let judged = move |switch: &mut crate::control::Switch| {
        check::check(&manifest, &switch.offer(&manifest, false, under_way))
    };
    let problems = s.with(judged).await?;
    Ok(Json(CheckView { ok: check::passes(&problems), problems: problems.iter().map(Into::into).collect() }))
}
