//! How connections are accepted: bounded in number, in time and in what a caller who may not call can hold.
//!
//! The peer is judged before anything is read. Callers who may not get the refusal and nothing else, out of a small
//! allowance of their own, so that they cannot keep others out.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use vswitch::refusal::{Object, Refusal, Refused};

use super::auth::Callers;
use super::body::ApiError;
use crate::control::host::{self, AtPath};

/// Connections of callers who may call.
const CONNECTIONS: usize = 128;
/// Connections of callers who are being refused.
const REFUSALS: usize = 16;
/// Time for a request's head.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Time for a refused caller to take the answer.
const REFUSAL_TIME: Duration = Duration::from_secs(2);
/// Time for one scrape of the metrics port.
const SCRAPE_TIME: Duration = Duration::from_secs(30);
/// Time for open requests to end when the switch stops.
const FAREWELL: Duration = Duration::from_secs(1);

/// Who is at the other end of a connection, for the requests that come by it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Its user.
    pub(super) uid: u32,
}

/// Makes the API socket: its directory if missing, in place of an abandoned socket but not of a live one.
pub fn bind(path: &Path, callers: &Callers) -> Result<UnixListener, Refused> {
    let refuse = |why: Refusal| why.of(Object::Api(path.to_string_lossy().into_owned()));
    let unusable =
        |what: &str, e: &std::io::Error| refuse(Refusal::ApiUnusable { reason: format!("{what}: {e}") });
    if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty() && !d.exists()) {
        std::fs::create_dir_all(directory).map_err(|e| unusable("its directory cannot be created", &e))?;
    }
    match host::at_path(path) {
        AtPath::Nothing => {}
        AtPath::Listener => return Err(refuse(Refusal::ApiInUse)),
        AtPath::Other(what) => {
            return Err(refuse(Refusal::ApiUnusable { reason: format!("this is {what}") }));
        }
        AtPath::Abandoned => {
            std::fs::remove_file(path).map_err(|e| unusable("the abandoned socket cannot be removed", &e))?;
        }
    }
    let listener = UnixListener::bind(path).map_err(|e| unusable("cannot listen", &e))?;
    let mode = match &callers.group {
        Some((_, gid)) => {
            std::os::unix::fs::chown(path, None, Some(*gid))
                .map_err(|e| unusable("cannot give it to the group", &e))?;
            0o660
        }
        None => 0o600,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|e| unusable("cannot set its mode", &e))?;
    Ok(listener)
}

/// Serves the API until `stopping` becomes `true`; then open requests get a moment to end.
pub async fn serve_unix(
    listener: UnixListener,
    callers: Callers,
    router: Router,
    mut paused: watch::Receiver<bool>,
    mut stopping: watch::Receiver<bool>,
) {
    let (allowed, refused) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Semaphore::new(REFUSALS)));
    let mut open = JoinSet::new();
    loop {
        if *paused.borrow_and_update() {
            tokio::select! {
                changed = paused.changed() => if changed.is_err() { break },
                _ = stopping.wait_for(|s| *s) => break,
            }
            continue;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|s| *s) => break,
            changed = paused.changed() => if changed.is_err() { break } else { continue },
            Some(_) = open.join_next() => continue,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors: waiting is all that helps.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(peer) = stream.peer_cred() else { continue };
        match callers.judge(&peer) {
            Ok(()) => match allowed.clone().try_acquire_owned() {
                Ok(permit) => {
                    let peer = Peer { uid: peer.uid() };
                    let connection = connection(stream, router.clone(), Some(peer), stopping.clone());
                    open.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(_) => log::warn!("API: more than {CONNECTIONS} connections; one was closed"),
            },
            Err(denied) => {
                log::warn!("API: {denied}");
                if let Ok(permit) = refused.clone().try_acquire_owned() {
                    open.spawn(async move {
                        let _ = tokio::time::timeout(REFUSAL_TIME, refuse(stream, denied)).await;
                        drop(permit);
                    });
                }
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(FAREWELL, async { while open.join_next().await.is_some() {} }).await;
}

/// Serves `router` on a TCP port (`--metrics`), to anybody who can reach it.
pub async fn serve_metrics(listener: TcpListener, router: Router, mut stopping: watch::Receiver<bool>) {
    let allowed = Arc::new(Semaphore::new(REFUSALS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|s| *s) => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if let Ok(permit) = allowed.clone().try_acquire_owned() {
            let connection = connection(stream, router.clone(), None, stopping.clone());
            tokio::spawn(async move {
                // One scrape per connection is plenty; nobody may sit on the few there are.
                let _ = tokio::time::timeout(SCRAPE_TIME, connection).await;
                drop(permit);
            });
        }
    }
}

async fn connection<S>(stream: S, router: Router, peer: Option<Peer>, mut stopping: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        hyper::service::Service::call(&service, request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopping.wait_for(|s| *s) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Answers the first request with the refusal, whatever it is.
async fn refuse(stream: UnixStream, denied: Refused) {
    let router = Router::new().fallback(move || async move { ApiError(denied) });
    let (_keep, never) = watch::channel(false);
    connection(stream, router, None, never).await;
}
