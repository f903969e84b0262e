//! Routes of a port's ACL and extended rules.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Shared;
use super::body::{ApiError, Bulk, ErrorBody, Name, Query};
use super::routes::Answer;
use crate::control::types::{AclSpec, AclView, RuleKey, RuleSpec, RuleView};

/// List a port's ACL with what its entries counted.
#[utoipa::path(get, path = "/v1/ports/{name}/acls", tag = "policy", params(("name" = String, Path, description = "The port's name")), responses(
    (status = 200, description = "The entries", body = Vec<AclView>),
    (status = 404, description = "There is no such port", body = ErrorBody),
))]
pub(super) async fn list_acl(State(s): State<Shared>, Name(name): Name) -> Answer<Vec<AclView>> {
    Ok(Json(s.with(move |switch| switch.list_acl(&name)).await??))
}

/// Add an entry to a port's ACL, or a list of entries: all of them or none.
#[utoipa::path(post, path = "/v1/ports/{name}/acls", tag = "policy", params(("name" = String, Path, description = "The port's name")), request_body(content = AclSpec, description = "An entry or an array of entries"), responses(
    (status = 201, description = "What was added, two entries for direction `both`; every later frame is judged by it", body = Vec<AclView>),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such port", body = ErrorBody),
    (status = 409, description = "The entry is there already, or there are too many", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn add_acl(
    State(s): State<Shared>,
    Name(name): Name,
    Bulk(specs): Bulk<AclSpec>,
) -> Result<(StatusCode, Json<Vec<AclView>>), ApiError> {
    let added = s.with(move |switch| switch.add_acl(&name, &specs)).await??;
    Ok((StatusCode::CREATED, Json(added)))
}

/// Remove an entry from a port's ACL; the arguments are those it was added with.
#[utoipa::path(delete, path = "/v1/ports/{name}/acls", tag = "policy", params(("name" = String, Path, description = "The port's name"), AclSpec), responses(
    (status = 204, description = "The entry is gone"),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such port or entry", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn remove_acl(
    State(s): State<Shared>,
    Name(name): Name,
    Query(spec): Query<AclSpec>,
) -> Result<StatusCode, ApiError> {
    s.with(move |switch| switch.remove_acl(&name, &spec)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// List a port's extended rules, in the order in which they are asked, with what they counted.
#[utoipa::path(get, path = "/v1/ports/{name}/rules", tag = "policy", params(("name" = String, Path, description = "The port's name")), responses(
    (status = 200, description = "The rules", body = Vec<RuleView>),
    (status = 404, description = "There is no such port", body = ErrorBody),
))]
pub(super) async fn list_rules(State(s): State<Shared>, Name(name): Name) -> Answer<Vec<RuleView>> {
    Ok(Json(s.with(move |switch| switch.list_rules(&name)).await??))
}

/// How to add rules.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AddRules {
    /// Let each rule take the place of the one with its direction and weight (default: such a rule is refused).
    replace: Option<bool>,
}

/// Add an extended rule to a port, or a list of rules: all of them or none.
#[utoipa::path(post, path = "/v1/ports/{name}/rules", tag = "policy", params(("name" = String, Path, description = "The port's name"), AddRules), request_body(content = RuleSpec, description = "A rule or an array of rules"), responses(
    (status = 201, description = "What was added; every later frame is judged by it", body = Vec<RuleView>),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such port", body = ErrorBody),
    (status = 409, description = "The weight is taken, or there are too many", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn add_rules(
    State(s): State<Shared>,
    Name(name): Name,
    Query(how): Query<AddRules>,
    Bulk(specs): Bulk<RuleSpec>,
) -> Result<(StatusCode, Json<Vec<RuleView>>), ApiError> {
    let replace = how.replace == Some(true);
    let added = s.with(move |switch| switch.add_rules(&name, &specs, replace)).await??;
    Ok((StatusCode::CREATED, Json(added)))
}

/// Remove an extended rule from a port.
#[utoipa::path(delete, path = "/v1/ports/{name}/rules", tag = "policy", params(("name" = String, Path, description = "The port's name"), RuleKey), responses(
    (status = 204, description = "The rule is gone"),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such port or rule", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn remove_rule(
    State(s): State<Shared>,
    Name(name): Name,
    Query(key): Query<RuleKey>,
) -> Result<StatusCode, ApiError> {
    s.with(move |switch| switch.remove_rule(&name, &key)).await??;
    Ok(StatusCode::NO_CONTENT)
}
