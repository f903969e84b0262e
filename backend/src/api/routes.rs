//! What the API offers. A route is declared once, at its handler; server and description are made from that.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body as HttpBody, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::mpsc;
use utoipa::openapi::OpenApi;
use utoipa::{IntoParams, OpenApi as _};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use vswitch::refusal::{Object, Refusal};

use super::body::{ApiError, Body, ErrorBody, Name, Query};
use super::{Shared, config, extensions, frames, handover, lists, live, metrics, migrations, nv, takeover};
use crate::control::types::{
    ExplainSpec, ExplainView, FdbView, NewPort, NewUplink, PortChange, PortView, SwitchChange, SwitchView,
    WorkerView,
};
use crate::events::EventLog;

pub(super) type Answer<T> = Result<Json<T>, ApiError>;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Turnpike", description = "The network card and the switch of many virtual machines.\n\nServed as HTTP/1.1 on a UNIX socket (default /run/turnpike/api.sock). Callers are authorised by peer credentials: root, the switch's own user, and members of --api-group. A refused change leaves everything as it was."),
    components(schemas(ErrorBody)),
    tags(
        (name = "switch", description = "Switch-wide settings"),
        (name = "ports", description = "Guest ports, host ports and their policy"),
        (name = "policy", description = "Lists of a port: its ACL and its extended rules"),
        (name = "metering", description = "What the meters of ports counted"),
        (name = "uplinks", description = "The physical network"),
        (name = "extensions", description = "What others add to the switch"),
        (name = "nv", description = "Network virtualization: customer networks over the physical one"),
        (name = "migration", description = "Ports on the move"),
        (name = "seeing", description = "What the switch does"),
    )
)]
struct Description;

fn routes() -> (Router<Shared>, OpenApi) {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(show_switch, set_switch))
        .routes(routes!(takeover::take_over))
        .routes(routes!(list_ports, add_port))
        .routes(routes!(show_port, set_port, remove_port))
        .routes(routes!(lists::list_acl, lists::add_acl, lists::remove_acl))
        .routes(routes!(lists::list_rules, lists::add_rules, lists::remove_rule))
        .routes(routes!(list_uplinks, add_uplink))
        .routes(routes!(show_uplink, remove_uplink))
        .routes(routes!(config::save, config::apply))
        .routes(routes!(extensions::list_extensions, extensions::enable_extension))
        .routes(routes!(extensions::available_extensions))
        .routes(routes!(
            extensions::show_extension,
            extensions::move_extension,
            extensions::disable_extension
        ))
        .routes(routes!(extensions::set_extension, extensions::unset_extension))
        .routes(routes!(extensions::load_extension, extensions::unload_extension))
        .routes(routes!(live::list_meters, live::enable_meters, live::disable_meters))
        .routes(routes!(live::total_meters))
        .routes(routes!(live::reset_meters))
        .routes(routes!(live::show_meter, live::enable_meter, live::disable_meter))
        .routes(routes!(live::reset_meter))
        .routes(routes!(live::list_sessions))
        .routes(routes!(live::port_sessions, live::flush_sessions))
        .routes(routes!(nv::list_networks, nv::add_networks))
        .routes(routes!(nv::remove_network))
        .routes(routes!(nv::list_subnets, nv::add_subnets))
        .routes(routes!(nv::remove_subnet))
        .routes(routes!(nv::list_records, nv::add_records, nv::set_record, nv::remove_record))
        .routes(routes!(nv::list_routes, nv::add_routes, nv::remove_route))
        .routes(routes!(nv::list_providers, nv::add_providers))
        .routes(routes!(nv::remove_provider))
        .routes(routes!(nv::list_gateways, nv::add_gateways))
        .routes(routes!(nv::remove_gateway))
        .routes(routes!(nv::export_policy))
        .routes(routes!(nv::import_policy))
        .routes(routes!(nv::resolve_address))
        .routes(routes!(nv::show_policy_store))
        .routes(routes!(handover::export))
        .routes(routes!(handover::import))
        .routes(routes!(migrations::list, migrations::send))
        .routes(routes!(migrations::show, migrations::cancel))
        .routes(routes!(migrations::show_listener, migrations::listen, migrations::stop_listening))
        .routes(routes!(migrations::manifest))
        .routes(routes!(migrations::check))
        .routes(routes!(show_fdb))
        .routes(routes!(explain))
        .routes(routes!(list_workers))
        .routes(routes!(show_events))
        .routes(routes!(frames::trace))
        .routes(routes!(frames::capture))
        .routes(routes!(show_metrics))
        .routes(routes!(describe))
        .split_for_parts()
}

/// The description of the API.
pub fn document() -> OpenApi {
    routes().1
}

/// The whole API.
pub fn router(shared: Shared) -> Router {
    routes().0.fallback(unknown).method_not_allowed_fallback(unknown).with_state(shared)
}

/// `/metrics` alone, for `--metrics`.
pub fn metrics_router(shared: Shared) -> Router {
    Router::new()
        .route("/metrics", axum::routing::get(show_metrics))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(0))
        .with_state(shared)
}

async fn unknown(method: Method, uri: Uri) -> ApiError {
    let (method, path) = (method.to_string(), uri.path().to_owned());
    ApiError(Refusal::UnknownRoute { method, path }.of(Object::Request))
}

/// Show the switch.
#[utoipa::path(get, path = "/v1/switch", tag = "switch", responses(
    (status = 200, description = "The switch", body = SwitchView),
    (status = 403, description = "The caller may not", body = ErrorBody),
))]
async fn show_switch(State(s): State<Shared>) -> Answer<SwitchView> {
    Ok(Json(s.with(|switch| switch.show()).await?))
}

/// Change switch-wide settings.
#[utoipa::path(patch, path = "/v1/switch", tag = "switch", request_body = SwitchChange, responses(
    (status = 200, description = "The switch after the change", body = SwitchView),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 409, description = "Ports contradict the kind", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
async fn set_switch(State(s): State<Shared>, Body(change): Body<SwitchChange>) -> Answer<SwitchView> {
    Ok(Json(s.with(move |switch| switch.set_switch(&change).map(|()| switch.show())).await??))
}

/// List all ports, the uplink included.
#[utoipa::path(get, path = "/v1/ports", tag = "ports", responses(
    (status = 200, description = "The ports, by name", body = Vec<PortView>),
))]
async fn list_ports(State(s): State<Shared>) -> Answer<Vec<PortView>> {
    Ok(Json(s.with(|switch| switch.list()).await?))
}

/// Add a guest port or a host port.
#[utoipa::path(post, path = "/v1/ports", tag = "ports", request_body = NewPort, responses(
    (status = 201, description = "The new port", body = PortView),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 409, description = "Not together with what exists", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
async fn add_port(
    State(s): State<Shared>,
    Body(new): Body<NewPort>,
) -> Result<(StatusCode, Json<PortView>), ApiError> {
    let vsid = new.policy.vsid.flatten().and_then(|vsid| u32::try_from(vsid).ok());
    if let Some(vsid) = vsid
        && let Some(records) = s.with(move |switch| switch.nv_expect(vsid, true)).await?
    {
        let until = tokio::time::Instant::now() + RECORDS;
        while !records.is_whole(vsid) && tokio::time::Instant::now() < until {
            tokio::time::sleep(RECORDS / 200).await;
        }
    }
    let added = move |switch: &mut crate::control::Switch| {
        let added = switch.add_port(&new);
        if let Some(vsid) = vsid {
            switch.nv_expect(vsid, false);
        }
        added?;
        switch.show_port(&new.name)
    };
    Ok((StatusCode::CREATED, Json(s.with(added).await??)))
}

/// How long a new port waits for the records of its virtual subnet. It is made without them then, and has them later.
const RECORDS: std::time::Duration = std::time::Duration::from_secs(1);

/// Show a port.
#[utoipa::path(get, path = "/v1/ports/{name}", tag = "ports", params(("name" = String, Path, description = "The port's name")), responses(
    (status = 200, description = "The port", body = PortView),
    (status = 404, description = "There is no such port", body = ErrorBody),
))]
async fn show_port(State(s): State<Shared>, Name(name): Name) -> Answer<PortView> {
    Ok(Json(s.with(move |switch| switch.show_port(&name)).await??))
}

/// Change a port's policy.
#[utoipa::path(patch, path = "/v1/ports/{name}", tag = "ports", params(("name" = String, Path, description = "The port's name")), request_body = PortChange, responses(
    (status = 200, description = "The port after the change; every later frame is judged by it", body = PortView),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such port", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
async fn set_port(
    State(s): State<Shared>,
    Name(name): Name,
    Body(change): Body<PortChange>,
) -> Answer<PortView> {
    let set = move |switch: &mut crate::control::Switch| {
        switch.set_port(&name, &change)?;
        switch.show_port(&name)
    };
    Ok(Json(s.with(set).await??))
}

/// Remove a guest port or a host port.
#[utoipa::path(delete, path = "/v1/ports/{name}", tag = "ports", params(("name" = String, Path, description = "The port's name")), responses(
    (status = 204, description = "The port is gone"),
    (status = 404, description = "There is no such port", body = ErrorBody),
    (status = 409, description = "It is an uplink", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
async fn remove_port(State(s): State<Shared>, Name(name): Name) -> Result<StatusCode, ApiError> {
    s.with(move |switch| switch.remove_port(&name)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// List the uplinks.
#[utoipa::path(get, path = "/v1/uplinks", tag = "uplinks", responses(
    (status = 200, description = "The uplink, if there is one", body = Vec<PortView>),
))]
async fn list_uplinks(State(s): State<Shared>) -> Answer<Vec<PortView>> {
    Ok(Json(s.with(|switch| switch.list_uplinks()).await?))
}

/// Add the uplink.
#[utoipa::path(post, path = "/v1/uplinks", tag = "uplinks", request_body = NewUplink, responses(
    (status = 201, description = "The new uplink", body = PortView),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such interface", body = ErrorBody),
    (status = 409, description = "Not together with what exists", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
async fn add_uplink(
    State(s): State<Shared>,
    Body(new): Body<NewUplink>,
) -> Result<(StatusCode, Json<PortView>), ApiError> {
    let added = move |switch: &mut crate::control::Switch| {
        switch.add_uplink(&new)?;
        switch.show_uplink(&new.name)
    };
    Ok((StatusCode::CREATED, Json(s.with(added).await??)))
}

/// Show an uplink.
#[utoipa::path(get, path = "/v1/uplinks/{name}", tag = "uplinks", params(("name" = String, Path, description = "The uplink's name")), responses(
    (status = 200, description = "The uplink", body = PortView),
    (status = 404, description = "There is no such uplink", body = ErrorBody),
))]
async fn show_uplink(State(s): State<Shared>, Name(name): Name) -> Answer<PortView> {
    Ok(Json(s.with(move |switch| switch.show_uplink(&name)).await??))
}

/// Remove an uplink.
#[utoipa::path(delete, path = "/v1/uplinks/{name}", tag = "uplinks", params(("name" = String, Path, description = "The uplink's name")), responses(
    (status = 204, description = "The uplink is gone"),
    (status = 404, description = "There is no such uplink", body = ErrorBody),
    (status = 409, description = "It is not an uplink", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
async fn remove_uplink(State(s): State<Shared>, Name(name): Name) -> Result<StatusCode, ApiError> {
    s.with(move |switch| switch.remove_uplink(&name)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Which addresses to show.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct FdbQuery {
    /// Only those behind this port.
    port: Option<String>,
}

/// Show the known addresses.
#[utoipa::path(get, path = "/v1/fdb", tag = "seeing", params(FdbQuery), responses(
    (status = 200, description = "The known addresses", body = Vec<FdbView>),
    (status = 404, description = "There is no such port", body = ErrorBody),
))]
async fn show_fdb(State(s): State<Shared>, Query(query): Query<FdbQuery>) -> Answer<Vec<FdbView>> {
    Ok(Json(s.with(move |switch| switch.fdb(query.port.as_deref())).await??))
}

/// Say what would happen to a frame now, and why; nothing is sent.
#[utoipa::path(post, path = "/v1/explain", tag = "seeing", request_body = ExplainSpec, responses(
    (status = 200, description = "The steps, the verdict and who would get it", body = ExplainView),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such port", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
async fn explain(State(s): State<Shared>, Body(spec): Body<ExplainSpec>) -> Answer<ExplainView> {
    Ok(Json(s.with(move |switch| switch.explain(&spec)).await??))
}

/// List the workers and their load.
#[utoipa::path(get, path = "/v1/workers", tag = "seeing", responses(
    (status = 200, description = "The workers", body = Vec<WorkerView>),
))]
async fn list_workers(State(s): State<Shared>) -> Answer<Vec<WorkerView>> {
    Ok(Json(s.with(|switch| switch.workers()).await?))
}

/// Which events to show.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventsQuery {
    /// Only those after this sequence number (default 0: all that are kept).
    since: Option<u64>,
    /// Keep the answer open and send what happens.
    follow: Option<bool>,
}

/// Show what happened: one JSON object per line with `seq`, `time`, `kind` and the fields of that kind.
#[utoipa::path(get, path = "/v1/events", tag = "seeing", params(EventsQuery), responses(
    (status = 200, description = "Events, oldest first", content_type = "application/x-ndjson", body = String),
))]
async fn show_events(State(s): State<Shared>, Query(query): Query<EventsQuery>) -> Response {
    let since = query.since.unwrap_or(0);
    let body = if query.follow == Some(true) {
        let (lines, receiver) = mpsc::channel(1);
        tokio::spawn(follow(s.events.clone(), since, s.stopping.clone(), lines));
        HttpBody::new(Lines(receiver))
    } else {
        HttpBody::from(lines_since(&s.events, since).0)
    };
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// The events after `since` as lines, and the number of the last one.
fn lines_since(events: &EventLog, since: u64) -> (Bytes, u64) {
    let records = events.since(since);
    let mut text = Vec::new();
    for record in &records {
        if serde_json::to_writer(&mut text, &**record).is_ok() {
            text.push(b'\n');
        }
    }
    (text.into(), records.last().map_or(since, |r| r.seq))
}

/// Sends events as they happen until the reader goes away or the switch stops. A slow reader is waited for; it misses what
/// falls off the list meanwhile, and sees that in the numbers.
async fn follow(
    events: Arc<EventLog>,
    mut since: u64,
    mut stopping: tokio::sync::watch::Receiver<bool>,
    lines: mpsc::Sender<Bytes>,
) {
    let mut newest = events.follow();
    loop {
        newest.mark_unchanged();
        let (text, last) = lines_since(&events, since);
        since = last;
        if !text.is_empty() && lines.send(text).await.is_err() {
            return;
        }
        tokio::select! {
            grew = newest.changed() => if grew.is_err() { return },
            () = lines.closed() => return,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// A response body fed by a channel.
pub(super) struct Lines(pub(super) mpsc::Receiver<Bytes>);

impl axum::body::HttpBody for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|b| Ok(hyper::body::Frame::data(b))))
    }
}

/// Counters for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "seeing", responses(
    (status = 200, description = "Prometheus text", content_type = "text/plain", body = String),
))]
async fn show_metrics(State(s): State<Shared>) -> Result<Response, ApiError> {
    let text = s
        .with(|switch| {
            let (addresses, store) = (switch.fdb(None).map_or(0, |f| f.len()), switch.policy_store_view());
            let mut text = metrics::text(&switch.list(), &switch.workers(), addresses, &store);
            metrics::extensions(&mut text, &switch.list_extensions());
            text
        })
        .await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "seeing", responses(
    (status = 200, description = "The description of the API", content_type = "application/json"),
))]
async fn describe() -> Json<OpenApi> {
    Json(document())
}
