//! How requests are read and refusals are written.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use vswitch::refusal::{Object, Refusal, Refused};

/// Largest request body in bytes. A port with every key, 1,024 owned addresses among them, is under 64 KiB.
const BODY_LIMIT: usize = 64 * 1024;

/// Largest request body that is a list. 10,000 rules with every key are under 4 MiB.
pub(super) const BULK_LIMIT: usize = 32 * 1024 * 1024;

/// Time for a request body to arrive. What the switch then does with it has no limit: a change that was begun is finished.
const BODY_TIME: Duration = Duration::from_secs(20);

/// A refusal as it goes over the wire.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The refusal.
    pub error: ErrorDetail,
}

/// What was refused, why, and what would be valid.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// Stable name of the refusal.
    pub code: String,
    /// What it is about.
    pub object: String,
    /// Number of the same refusal in the Hyper-V switch, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<u16>,
    /// What is wrong, with the offending value.
    pub message: String,
    /// What would be valid.
    pub hint: String,
    /// A document: everything that is wrong with it, up to a hundred problems.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub problems: Vec<ErrorDetail>,
}

impl From<&Refused> for ErrorBody {
    fn from(refused: &Refused) -> Self {
        fn detail(Refused { object, why }: &Refused) -> ErrorDetail {
            let (object, message) = (object.to_string(), why.to_string());
            let (code, reason) = (why.code().to_owned(), why.reason());
            let problems = why.problems().iter().map(detail).collect();
            ErrorDetail { code, object, reason, message, hint: why.hint(), problems }
        }
        Self { error: detail(refused) }
    }
}

/// A refusal as an answer.
#[derive(Debug)]
pub(super) struct ApiError(pub(super) Refused);

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        Self(refused)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.why.class().status()).unwrap_or(StatusCode::BAD_REQUEST);
        (status, Json(ErrorBody::from(&self.0))).into_response()
    }
}

/// A JSON object as request body.
pub(super) struct Body<T, const LIMIT: usize = BODY_LIMIT>(pub(super) T);

/// One JSON object or an array of them as request body.
pub(super) struct Bulk<T>(pub(super) Vec<T>);

impl<S: Send + Sync, T: DeserializeOwned, const LIMIT: usize> FromRequest<S> for Body<T, LIMIT> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        parse(&read(request, LIMIT).await?).map(Body).map_err(ApiError)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Bulk<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        parse_bulk(&read(request, BULK_LIMIT).await?).map(Bulk).map_err(ApiError)
    }
}

/// A port's state as request body.
pub(super) struct StateBody(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for StateBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        read(request, migration::format::MAX_SIZE).await.map(StateBody)
    }
}

/// A module as request body.
pub(super) struct ModuleBody(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for ModuleBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        read(request, crate::control::extension::MOST_MODULE).await.map(ModuleBody)
    }
}

async fn read(request: Request, limit: usize) -> Result<Bytes, ApiError> {
    let whole = axum::body::to_bytes(request.into_body(), limit);
    let refuse = |why: Refusal| ApiError(why.of(Object::Request));
    let read = tokio::time::timeout(BODY_TIME, whole).await;
    let read = read.map_err(|_| refuse(Refusal::TooSlow { seconds: BODY_TIME.as_secs() }))?;
    read.map_err(|e| {
        refuse(if e.into_inner().is::<http_body_util::LengthLimitError>() {
            Refusal::TooLarge { limit }
        } else {
            Refusal::Malformed { reason: "the body did not arrive".into() }
        })
    })
}

/// The name in the path.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let name = axum::extract::Path::from_request_parts(parts, state).await;
        name.map(|path| Self(path.0)).map_err(|_| {
            ApiError(Refusal::Malformed { reason: "the name is not UTF-8".into() }.of(Object::Request))
        })
    }
}

/// Query parameters.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        axum::extract::Query::try_from_uri(&parts.uri).map(|q| Self(q.0)).map_err(|rejection| {
            let text = rejection.body_text();
            let text = text.rsplit("query string: ").next().unwrap_or_default();
            let why = match text.split_once(": ") {
                // A known key whose value is not of its type.
                Some((key, valid)) if !valid.starts_with("unknown field") => {
                    let query = parts.uri.query().unwrap_or_default();
                    let pair = query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
                    let value = pair.unwrap_or_default().to_owned();
                    Refusal::BadValue {
                        setting: key.to_owned(),
                        value,
                        valid: format!("another value ({valid})"),
                    }
                }
                Some((_, text)) => explain("query", text),
                None => explain("query", text),
            };
            ApiError(why.of(Object::Request))
        })
    }
}

fn json(bytes: &[u8]) -> Result<Value, Refused> {
    serde_json::from_slice(bytes)
        .map_err(|e| Refusal::Malformed { reason: format!("the body is not JSON: {e}") }.of(Object::Request))
}

fn parse_bulk<T: DeserializeOwned>(bytes: &[u8]) -> Result<Vec<T>, Refused> {
    match json(bytes)? {
        Value::Array(items) if items.is_empty() => {
            let valid = "one object, or an array of one or more".into();
            Err(Refusal::Missing { what: "something to add".into(), valid }.of(Object::Request))
        }
        Value::Array(items) => items.into_iter().map(parse_object).collect(),
        object => Ok(vec![parse_object(object)?]),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refused> {
    parse_object(json(bytes)?)
}

fn parse_object<T: DeserializeOwned>(value: Value) -> Result<T, Refused> {
    if !value.is_object() {
        return Err(Refusal::Malformed { reason: "the body is not a JSON object".into() }.of(Object::Request));
    }
    let object = match value.get("name").and_then(Value::as_str) {
        Some(name) => Object::Port(name.to_owned()),
        None => Object::Request,
    };
    serde_path_to_error::deserialize(value)
        .map_err(|e| explain(&e.path().to_string(), &e.inner().to_string()).of(object))
}

/// Turns serde's words into a refusal that names the key and what would be valid.
pub(crate) fn explain(path: &str, text: &str) -> Refusal {
    let mut quoted = text.split('`').skip(1).step_by(2).map(str::to_owned);
    if text.starts_with("unknown field") {
        let key = quoted.next().unwrap_or_default();
        let mut known: Vec<String> = quoted.collect();
        known.sort_by_cached_key(|k| distance(k, &key));
        return Refusal::UnknownKey { key, known };
    }
    if text.starts_with("unknown variant") {
        let value = quoted.next().unwrap_or_default();
        let valid = quoted.collect::<Vec<_>>().join(", ");
        return Refusal::BadValue { setting: path.to_owned(), value, valid };
    }
    if text.starts_with("missing field") {
        let what = quoted.next().unwrap_or_default();
        return Refusal::Missing { what, valid: "a body with this key, see GET /v1/openapi.json".into() };
    }
    let mismatch = ["invalid type: ", "invalid value: "].iter().find_map(|p| text.strip_prefix(p));
    if let Some((given, expected)) = mismatch.and_then(|rest| rest.split_once(", expected ")) {
        let (value, valid) = (given.replace('`', ""), expected.replace('`', ""));
        return Refusal::BadValue { setting: path.to_owned(), value, valid };
    }
    Refusal::Malformed { reason: format!("{path}: {text}") }
}

/// Number of single-character changes between two words (Levenshtein), for "the nearest known key".
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::types::{NewPort, PortChange, SwitchChange};

    fn refusal<T: DeserializeOwned>(json: &str) -> String {
        parse::<T>(json.as_bytes()).err().expect("refused").to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_known_one_first() {
        let line = refusal::<NewPort>(r#"{"name":"a","queue":2}"#);
        assert!(line.starts_with("port 'a': 'queue' is not known here; valid: queues, "), "{line}");
        let line = refusal::<PortChange>(r#"{"policy":{"lnk":"up"}}"#);
        assert!(line.starts_with("request: 'lnk' is not known here; valid: link, "), "{line}");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key_and_the_valid_ones() {
        let line = refusal::<SwitchChange>(r#"{"kind":"public"}"#);
        assert_eq!(line, "request: 'public' is not a value of kind; valid: external, internal, private");
        let line = refusal::<NewPort>(r#"{"name":"a","queues":"two"}"#);
        assert_eq!(line, "port 'a': 'string \"two\"' is not a value of queues; valid: u64");
        assert!(refusal::<NewPort>("{").starts_with("request: the body is not JSON"));
        assert!(refusal::<NewPort>("{}").starts_with("request: name is missing"));
    }
}
