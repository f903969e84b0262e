//! Routes of network virtualization.
//!
//! A change is planned with the switch locked. With the embedded store it is made at once; with a store that hosts share it is written there
//! while nothing is locked, and the answer waits until it came back and is in force.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;
use vswitch::nv::model::{NextHop, Record};
use vswitch::refusal::{NvRefusal, Object as About, Refusal, Refused};

use super::Shared;
use super::body::{ApiError, Body, Bulk, ErrorBody, Name, Query};
use super::routes::Answer;
use crate::control::nv::check::{self, Spec};
use crate::control::nv::document;
use crate::control::nv::object::{Change, Hop, Key, RecordKey};
use crate::control::types::{
    Applied, GatewaySpec, NetworkSpec, NvDocument, PolicyStoreView, ProviderSpec, RecordChange, RecordSpec,
    ResolutionView, RouteSpec, SubnetSpec,
};
use crate::control::{Switch, check as value};

/// Longest document. A million records are under 256 MiB.
const DOCUMENT_LIMIT: usize = 256 << 20;

type Added<S> = Result<(StatusCode, Json<Vec<S>>), ApiError>;
type Done = Result<StatusCode, ApiError>;

fn refused(why: NvRefusal) -> ApiError {
    ApiError(Refusal::Nv(why).of(About::Nv { noun: "policy store", key: String::new() }))
}

fn starting() -> ApiError {
    refused(NvRefusal::StoreLost { reason: "the switch is starting".into() })
}

/// What the store that hosts share has of a record, or of all of them, that this host may not hold; `None` = what is here is all.
async fn stored(s: &Shared, key: Option<RecordKey>) -> Result<Option<Vec<Record>>, ApiError> {
    let store = s.with(move |switch| switch.nv_lacks(key.as_ref()).then(|| switch.policy_store())).await?;
    let Some(store) = store else { return Ok(None) };
    let store = store.ok_or_else(starting)?;
    let read = match key {
        Some(key) => store.find(vec![key]),
        None => store.all(),
    };
    read.await.map(Some).map_err(refused)
}

/// Makes the changes that `plan` finds.
async fn make(
    s: &Shared,
    plan: impl FnOnce(&mut Switch) -> Result<Vec<Change>, Refused> + Send + 'static,
) -> Result<Vec<Change>, ApiError> {
    make_knowing(s, None, plan).await
}

/// Makes the changes that `plan` finds with these records, which this host may not hold.
async fn make_knowing(
    s: &Shared,
    records: Option<Vec<Record>>,
    plan: impl FnOnce(&mut Switch) -> Result<Vec<Change>, Refused> + Send + 'static,
) -> Result<Vec<Change>, ApiError> {
    let planned = move |switch: &mut Switch| {
        let changes = switch.nv_knowing(records, plan)?;
        let shared = switch.nv_shared(&changes);
        if !shared {
            switch.nv_commit(&changes)?;
        }
        Ok::<_, Refused>((changes, switch.policy_store().filter(|_| shared), shared))
    };
    let (changes, store, shared) = s.with(planned).await??;
    if shared {
        let store = store.ok_or_else(starting)?;
        let (own, common): (Vec<_>, Vec<_>) = changes.iter().cloned().partition(|it| it.key.is_local());
        store.commit(common).await.map_err(refused)?;
        s.with(move |switch| switch.nv_commit(&own)).await??;
    }
    Ok(changes)
}

/// Adds the objects that are said.
async fn add<S>(s: &Shared, specs: Vec<S>) -> Added<S>
where
    S: Spec + Serialize + DeserializeOwned + Send + 'static,
{
    let changes = make(s, move |switch| switch.nv_create(&specs)).await?;
    let added = changes.iter().filter_map(|change| S::said(change.after.as_ref()?)).collect();
    Ok((StatusCode::CREATED, Json(added)))
}

/// Removes the object of a key.
async fn remove(s: &Shared, noun: &'static str, name: String, key: Result<Key, Refusal>) -> Done {
    let key = key.map_err(|why| why.of(About::Nv { noun, key: name }))?;
    let records = match &key {
        Key::Record(key) => stored(s, Some(*key)).await?,
        _ => None,
    };
    make_knowing(s, records, move |switch| switch.nv_remove(&key)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the customer networks.
#[utoipa::path(get, path = "/v1/nv/networks", tag = "nv", responses(
    (status = 200, description = "The networks, by name", body = Vec<NetworkSpec>),
))]
pub(super) async fn list_networks(State(s): State<Shared>) -> Answer<Vec<NetworkSpec>> {
    Ok(Json(s.with(|switch| switch.nv_networks()).await?))
}

/// Add a customer network, or a list of them: all or none.
#[utoipa::path(post, path = "/v1/nv/networks", tag = "nv", request_body(content = NetworkSpec, description = "A network or an array of networks"), responses(
    (status = 201, description = "What was added", body = Vec<NetworkSpec>),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 409, description = "Not together with what exists", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn add_networks(
    State(s): State<Shared>,
    Bulk(specs): Bulk<NetworkSpec>,
) -> Added<NetworkSpec> {
    add(&s, specs).await
}

/// Remove a customer network that nothing needs.
#[utoipa::path(delete, path = "/v1/nv/networks/{name}", tag = "nv", params(("name" = String, Path, description = "The network's name")), responses(
    (status = 204, description = "The network is gone"),
    (status = 404, description = "There is no such network", body = ErrorBody),
    (status = 409, description = "Something needs it", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn remove_network(State(s): State<Shared>, Name(name): Name) -> Done {
    remove(&s, "network", name.clone(), Ok(Key::Network(name))).await
}

/// List the virtual subnets, each with the addresses of its router.
#[utoipa::path(get, path = "/v1/nv/subnets", tag = "nv", responses(
    (status = 200, description = "The subnets, by identifier", body = Vec<SubnetSpec>),
))]
pub(super) async fn list_subnets(State(s): State<Shared>) -> Answer<Vec<SubnetSpec>> {
    Ok(Json(s.with(|switch| switch.nv_subnets()).await?))
}

/// Add a virtual subnet, or a list of them: all or none.
#[utoipa::path(post, path = "/v1/nv/subnets", tag = "nv", request_body(content = SubnetSpec, description = "A subnet or an array of subnets"), responses(
    (status = 201, description = "What was added", body = Vec<SubnetSpec>),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such network", body = ErrorBody),
    (status = 409, description = "Not together with what exists", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn add_subnets(State(s): State<Shared>, Bulk(specs): Bulk<SubnetSpec>) -> Added<SubnetSpec> {
    add(&s, specs).await
}

/// Remove a virtual subnet that nothing needs.
#[utoipa::path(delete, path = "/v1/nv/subnets/{vsid}", tag = "nv", params(("vsid" = String, Path, description = "The subnet's identifier")), responses(
    (status = 204, description = "The subnet is gone"),
    (status = 404, description = "There is no such subnet", body = ErrorBody),
    (status = 409, description = "Something needs it", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn remove_subnet(State(s): State<Shared>, Name(vsid): Name) -> Done {
    let key = number(&vsid).and_then(check::vsid).map(Key::Subnet);
    remove(&s, "subnet", vsid, key).await
}

fn number(text: &str) -> Result<u64, Refusal> {
    value::decimal(text).ok_or_else(|| Refusal::BadValue {
        setting: "vsid".into(),
        value: text.to_owned(),
        valid: "4096 to 16777214".into(),
    })
}

/// Which records to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RecordsQuery {
    /// Only those of this virtual subnet.
    vsid: Option<u64>,
}

/// List the lookup records that this host holds, learned ones included. With a policy store that hosts share these are the records of the
/// customer networks that it has ports or gateways in.
#[utoipa::path(get, path = "/v1/nv/records", tag = "nv", params(RecordsQuery), responses(
    (status = 200, description = "The records, by subnet and address", body = Vec<RecordSpec>),
    (status = 400, description = "A value is not valid", body = ErrorBody),
))]
pub(super) async fn list_records(
    State(s): State<Shared>,
    Query(query): Query<RecordsQuery>,
) -> Answer<Vec<RecordSpec>> {
    let vsid = query.vsid.map(check::vsid).transpose().map_err(|why| why.of(About::Request))?;
    Ok(Json(s.with(move |switch| switch.nv_records(vsid)).await?))
}

/// Add a lookup record, or a list of them: all or none.
#[utoipa::path(post, path = "/v1/nv/records", tag = "nv", request_body(content = RecordSpec, description = "A record or an array of records"), responses(
    (status = 201, description = "What was added", body = Vec<RecordSpec>),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such subnet", body = ErrorBody),
    (status = 409, description = "Not together with what exists", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn add_records(State(s): State<Shared>, Bulk(specs): Bulk<RecordSpec>) -> Added<RecordSpec> {
    add(&s, specs).await
}

/// Change where a record says that its guest is, or how its packets are carried.
#[utoipa::path(patch, path = "/v1/nv/records", tag = "nv", request_body = RecordChange, responses(
    (status = 200, description = "The record after the change", body = Vec<RecordSpec>),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such record", body = ErrorBody),
    (status = 409, description = "Not together with what exists", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn set_record(
    State(s): State<Shared>,
    Body(change): Body<RecordChange>,
) -> Answer<Vec<RecordSpec>> {
    // One that is wrong is refused below.
    let records = match check::record_key(change.vsid, change.ca.as_deref(), change.mac.as_deref()) {
        Ok(key) => stored(&s, Some(key)).await?,
        Err(_) => None,
    };
    let changes = make_knowing(&s, records, move |switch| switch.nv_set_record(&change)).await?;
    Ok(Json(changes.iter().filter_map(|change| RecordSpec::said(change.after.as_ref()?)).collect()))
}

/// Which record is meant.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RecordQuery {
    /// Its virtual subnet.
    vsid: u64,
    /// Its customer address.
    ca: Option<String>,
    /// Kind `l2-only`: its MAC address.
    mac: Option<String>,
}

/// Remove a lookup record.
#[utoipa::path(delete, path = "/v1/nv/records", tag = "nv", params(RecordQuery), responses(
    (status = 204, description = "The record is gone"),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such record", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn remove_record(State(s): State<Shared>, Query(query): Query<RecordQuery>) -> Done {
    let RecordQuery { vsid, ca, mac } = query;
    let key = check::record_key(vsid, ca.as_deref(), mac.as_deref()).map(Key::Record);
    remove(&s, "record", format!("{vsid}/{}", ca.or(mac).unwrap_or_default()), key).await
}

/// List the customer routes.
#[utoipa::path(get, path = "/v1/nv/routes", tag = "nv", responses(
    (status = 200, description = "The routes, by network and prefix", body = Vec<RouteSpec>),
))]
pub(super) async fn list_routes(State(s): State<Shared>) -> Answer<Vec<RouteSpec>> {
    Ok(Json(s.with(|switch| switch.nv_routes()).await?))
}

/// Add a customer route, or a list of them: all or none.
#[utoipa::path(post, path = "/v1/nv/routes", tag = "nv", request_body(content = RouteSpec, description = "A route or an array of routes"), responses(
    (status = 201, description = "What was added", body = Vec<RouteSpec>),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such network", body = ErrorBody),
    (status = 409, description = "Not together with what exists", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn add_routes(State(s): State<Shared>, Bulk(specs): Bulk<RouteSpec>) -> Added<RouteSpec> {
    add(&s, specs).await
}

/// Which route is meant.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RouteQuery {
    /// Its network.
    network: String,
    /// What it is for.
    prefix: String,
    /// Its next hop: a customer address, or `gateway`.
    next_hop: String,
}

/// Remove a customer route.
#[utoipa::path(delete, path = "/v1/nv/routes", tag = "nv", params(RouteQuery), responses(
    (status = 204, description = "The route is gone"),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such route", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn remove_route(State(s): State<Shared>, Query(query): Query<RouteQuery>) -> Done {
    let RouteQuery { network, prefix, next_hop } = query;
    let name = format!("{network}/{prefix}/{next_hop}");
    let key = || {
        let hop = next_hop.parse::<NextHop>().map_err(|_| Refusal::BadValue {
            setting: "next-hop".into(),
            value: next_hop.clone(),
            valid: "a customer address, or 'gateway'".into(),
        })?;
        Ok(Key::Route(network.clone(), value::prefix(&prefix)?, Hop(hop)))
    };
    remove(&s, "route", name, key()).await
}

/// List the provider addresses of this host.
#[utoipa::path(get, path = "/v1/nv/providers", tag = "nv", responses(
    (status = 200, description = "The addresses", body = Vec<ProviderSpec>),
))]
pub(super) async fn list_providers(State(s): State<Shared>) -> Answer<Vec<ProviderSpec>> {
    Ok(Json(s.with(|switch| switch.nv_providers()).await?))
}

/// Add a provider address of this host, or a list of them: all or none.
#[utoipa::path(post, path = "/v1/nv/providers", tag = "nv", request_body(content = ProviderSpec, description = "A provider address or an array of them"), responses(
    (status = 201, description = "What was added", body = Vec<ProviderSpec>),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such uplink", body = ErrorBody),
    (status = 409, description = "Not together with what exists", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn add_providers(
    State(s): State<Shared>,
    Bulk(specs): Bulk<ProviderSpec>,
) -> Added<ProviderSpec> {
    add(&s, specs).await
}

/// Remove a provider address of this host.
#[utoipa::path(delete, path = "/v1/nv/providers/{address}", tag = "nv", params(("address" = String, Path, description = "The address")), responses(
    (status = 204, description = "The address is gone"),
    (status = 400, description = "It is not an address", body = ErrorBody),
    (status = 404, description = "There is no such address", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn remove_provider(State(s): State<Shared>, Name(address): Name) -> Done {
    let key = check::address(&address).map(Key::Provider);
    remove(&s, "provider", address, key).await
}

/// List the gateways at this host.
#[utoipa::path(get, path = "/v1/nv/gateways", tag = "nv", responses(
    (status = 200, description = "The gateways, by network", body = Vec<GatewaySpec>),
))]
pub(super) async fn list_gateways(State(s): State<Shared>) -> Answer<Vec<GatewaySpec>> {
    Ok(Json(s.with(|switch| switch.nv_gateways()).await?))
}

/// Add a gateway at this host, or a list of them: all or none.
#[utoipa::path(post, path = "/v1/nv/gateways", tag = "nv", request_body(content = GatewaySpec, description = "A gateway or an array of gateways"), responses(
    (status = 201, description = "What was added", body = Vec<GatewaySpec>),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such network or uplink", body = ErrorBody),
    (status = 409, description = "Not together with what exists", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn add_gateways(
    State(s): State<Shared>,
    Bulk(specs): Bulk<GatewaySpec>,
) -> Added<GatewaySpec> {
    add(&s, specs).await
}

/// Remove a network's gateway at this host.
#[utoipa::path(delete, path = "/v1/nv/gateways/{network}", tag = "nv", params(("network" = String, Path, description = "The network")), responses(
    (status = 204, description = "The gateway is gone"),
    (status = 404, description = "There is no such gateway", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn remove_gateway(State(s): State<Shared>, Name(network): Name) -> Done {
    remove(&s, "gateway", network.clone(), Ok(Key::Gateway(network))).await
}

/// Show all that is configured, as one document.
#[utoipa::path(get, path = "/v1/nv/export", tag = "nv", responses(
    (status = 200, description = "The document; importing it changes nothing", body = NvDocument),
    (status = 503, description = "The policy store that hosts share does not answer", body = ErrorBody),
))]
pub(super) async fn export_policy(State(s): State<Shared>) -> Answer<NvDocument> {
    let records = stored(&s, None).await?;
    Ok(Json(s.with(move |switch| switch.nv_knowing(records, |switch| switch.nv_export())).await?))
}

/// How to import a document.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct How {
    /// Only say what would change (default: change it).
    dry_run: Option<bool>,
}

/// Make everything equal to a document. It is judged whole, with all that is wrong in it, before anything changes. In an embedded store it
/// is one transaction; in one that hosts share it is as many as needed, and what breaks off goes on when it is repeated.
#[utoipa::path(post, path = "/v1/nv/import", tag = "nv", params(How), request_body = NvDocument, responses(
    (status = 200, description = "What was changed", body = Applied),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such network, subnet or uplink", body = ErrorBody),
    (status = 409, description = "Not all of it together", body = ErrorBody),
    (status = 503, description = "Not possible now", body = ErrorBody),
))]
pub(super) async fn import_policy(
    State(s): State<Shared>,
    Query(how): Query<How>,
    Body(document): Body<NvDocument, DOCUMENT_LIMIT>,
) -> Answer<Applied> {
    let dry_run = how.dry_run == Some(true);
    let records = stored(&s, None).await?;
    let plan = move |switch: &mut Switch| switch.nv_import(&document);
    let changes = if dry_run {
        s.with(move |switch| switch.nv_knowing(records, plan)).await??
    } else {
        make_knowing(&s, records, plan).await?
    };
    Ok(Json(Applied { dry_run, changes: document::lines(&changes) }))
}

/// Which address is asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ResolveQuery {
    /// The virtual subnet of the guest that sends.
    vsid: u64,
    /// The customer address that it sends to.
    ca: String,
}

/// Say where packets for a customer address go, and why; nothing is sent.
#[utoipa::path(get, path = "/v1/nv/resolve", tag = "nv", params(ResolveQuery), responses(
    (status = 200, description = "What was found, step by step", body = ResolutionView),
    (status = 400, description = "A value is not valid", body = ErrorBody),
))]
pub(super) async fn resolve_address(
    State(s): State<Shared>,
    Query(query): Query<ResolveQuery>,
) -> Answer<ResolutionView> {
    Ok(Json(s.with(move |switch| switch.nv_resolve(query.vsid, &query.ca)).await??))
}

/// Show the policy store and how it fares.
#[utoipa::path(get, path = "/v1/nv/store", tag = "nv", responses(
    (status = 200, description = "The store", body = PolicyStoreView),
))]
pub(super) async fn show_policy_store(State(s): State<Shared>) -> Answer<PolicyStoreView> {
    Ok(Json(s.with(|switch| switch.policy_store_view()).await?))
}
