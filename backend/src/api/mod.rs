//! The API: HTTP/1.1 and JSON on a UNIX socket, described by `GET /v1/openapi.json`.
//!
//! `routes` says what there is (`lists`: a port's ACL and rules, `live`: meters
//! and sessions, `config`: all as one document, `extensions`, `nv`: network virtualization, `handover` and `migrations`: ports on the move), `body` how requests are read and refusals written, `serve` how connections are
//! accepted and bounded, `auth` who may call, `metrics` the Prometheus text,
//! `frames` what they do, as lines or as `pcapng`. Handlers only translate: they run
//! methods of [`crate::control::Switch`] on a thread that may block.

mod auth;
mod body;
mod config;
mod extensions;
mod frames;
mod handover;
mod lists;
mod live;
mod metrics;
mod migrations;
mod nv;
mod pcapng;
mod routes;
mod serve;
mod takeover;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use vswitch::refusal::{Object, Refusal, Refused};

use crate::control::Switch;
use crate::events::EventLog;
use crate::migrate::Migrations;
use crate::takeover::Giver;

pub use self::auth::Callers;
pub use self::body::{ErrorBody, ErrorDetail};
pub(crate) use self::body::{distance, explain};
pub use self::routes::{document, metrics_router, router};
pub use self::serve::{bind, serve_metrics, serve_unix};
pub(crate) use self::takeover::{PATH as TAKE_OVER_PATH, PROTOCOL as TAKE_OVER_PROTOCOL};

/// What every handler can reach.
#[derive(Clone)]
pub struct Shared {
    /// The switch; locked on threads that may block only.
    pub switch: Arc<Mutex<Switch>>,
    /// Ports that move from switch to switch.
    pub migrations: Migrations,
    /// What happened.
    pub events: Arc<EventLog>,
    /// What a successor asks.
    pub giver: Arc<Giver>,
    /// Becomes `true` when the switch stops: followers end.
    pub stopping: watch::Receiver<bool>,
}

impl Shared {
    /// Runs `call` with the switch locked, on a thread that may block.
    async fn with<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Switch) -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let switch = self.switch.clone();
        tokio::task::spawn_blocking(move || {
            // A change is applied to the model in single steps, so a panic in between leaves it usable.
            call(&mut switch.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await
        .map_err(|e| {
            log::error!("a request ended in a panic: {e}");
            Refusal::System { what: "request".into(), reason: "internal error, see the log".into() }
                .of(Object::Switch)
        })
    }
}
