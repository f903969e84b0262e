//! One request of the API at a time, over its UNIX socket.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use vswitch::refusal::{self, Object, Refused};

use super::{Failure, Outcome};
use crate::api::{ErrorBody, ErrorDetail};
use crate::control::check;

/// Longest wait for an answer. Changes wait for workers and for the disk, which takes milliseconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// Longest wait for a look at how a long request fares.
const LOOK: Duration = Duration::from_millis(800);

/// A client of one switch.
#[derive(Debug)]
pub(super) struct Client {
    api: PathBuf,
}

impl Client {
    pub(super) fn new(api: PathBuf) -> Self {
        Self { api }
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, path, None::<&()>)
    }

    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.call(Method::POST, path, Some(body))
    }

    /// A request whose answer may take long. Every second meanwhile `watched` is looked at, and `tell` is given what is there, or nothing
    /// where that has no time to answer either.
    pub(super) fn post_long<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        watched: &str,
        tell: impl Fn(Option<Bytes>),
    ) -> Result<T, Failure> {
        let body: Bytes = serde_json::to_vec(body).map_err(|e| broken(&e))?.into();
        let answer = Self::blocking(async {
            let talk = async { whole(self.send(Method::POST, path, body).await?).await };
            tokio::pin!(talk);
            let mut second = tokio::time::interval(Duration::from_secs(1));
            loop {
                tokio::select! {
                    answer = &mut talk => return answer,
                    _ = second.tick() => {}
                }
                let look = async { whole(self.send(Method::GET, watched, Bytes::new()).await?).await };
                tokio::select! {
                    answer = &mut talk => return answer,
                    seen = tokio::time::timeout(LOOK, look) => tell(seen.ok().and_then(Result::ok)),
                }
            }
        });
        serde_json::from_slice(&answer?).map_err(|e| broken(&e))
    }

    /// An answer that is not JSON.
    pub(super) fn get_bytes(&self, path: &str) -> Result<Bytes, Failure> {
        self.exchange(Method::GET, path, Bytes::new())
    }

    /// Sends bytes that are not JSON.
    pub(super) fn post_bytes<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Result<T, Failure> {
        serde_json::from_slice(&self.exchange(Method::POST, path, body.into())?).map_err(|e| broken(&e))
    }

    pub(super) fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.call(Method::PATCH, path, Some(body))
    }

    pub(super) fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.call(Method::PUT, path, Some(body))
    }

    /// Puts bytes, or JSON, where no answer is expected.
    pub(super) fn put_bytes(&self, path: &str, body: Vec<u8>) -> Outcome {
        self.exchange(Method::PUT, path, body.into()).map(|_| ())
    }

    pub(super) fn delete_with_answer<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::DELETE, path, None::<&()>)
    }

    pub(super) fn delete(&self, path: &str) -> Outcome {
        Self::blocking(async {
            let response = self.send(Method::DELETE, path, Bytes::new()).await?;
            whole(response).await.map(|_| ())
        })
    }

    /// Deletes the elements of a list that `filter` describes.
    pub(super) fn delete_where(&self, path: &str, filter: &impl Serialize) -> Outcome {
        let query = serde_urlencoded::to_string(filter).map_err(|e| broken(&e))?;
        self.delete(&format!("{path}?{query}"))
    }

    /// Hands each line of the answer to `line` as it arrives, until the switch ends it, `line` fails or says that it wants no more, or the user
    /// interrupts. `begun` is called when the switch has begun to answer.
    pub(super) fn lines(
        &self,
        path: &str,
        begun: impl FnOnce(),
        mut line: impl FnMut(&str) -> Result<ControlFlow<()>, Failure>,
    ) -> Outcome {
        let mut rest: Vec<u8> = Vec::new();
        let begun = || {
            begun();
            Ok(())
        };
        self.pieces(path, begun, |data| {
            rest.extend_from_slice(data);
            let mut from = 0;
            while let Some(end) = rest[from..].iter().position(|b| *b == b'\n') {
                if line(&String::from_utf8_lossy(&rest[from..from + end]))?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                from += end + 1;
            }
            rest.drain(..from);
            Ok(ControlFlow::Continue(()))
        })
    }

    /// The same for an answer that is not lines: hands over its bytes as they arrive.
    pub(super) fn pieces(
        &self,
        path: &str,
        begun: impl FnOnce() -> Outcome,
        mut piece: impl FnMut(&[u8]) -> Result<ControlFlow<()>, Failure>,
    ) -> Outcome {
        Self::blocking(async {
            let mut response = self.send(Method::GET, path, Bytes::new()).await?;
            if !response.status().is_success() {
                return whole(response).await.map(|_| ());
            }
            begun()?;
            // Once, not for each piece: what comes between two pieces would be missed.
            let mut interrupted = signal(SignalKind::interrupt()).map_err(|e| broken(&e))?;
            let mut terminated = signal(SignalKind::terminate()).map_err(|e| broken(&e))?;
            loop {
                let frame = tokio::select! {
                    frame = response.body_mut().frame() => frame,
                    _ = interrupted.recv() => return Ok(()),
                    _ = terminated.recv() => return Ok(()),
                };
                let Some(frame) = frame else { return Ok(()) };
                let Ok(data) = frame.map_err(|e| broken(&e))?.into_data() else { continue };
                if piece(&data)?.is_break() {
                    return Ok(());
                }
            }
        })
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|e| broken(&e))?.unwrap_or_default();
        serde_json::from_slice(&self.exchange(method, path, body.into())?).map_err(|e| broken(&e))
    }

    fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        Self::blocking(async {
            let talk = async { whole(self.send(method, path, body).await?).await };
            tokio::time::timeout(PATIENCE, talk).await.map_err(|_| self.silent())?
        })
    }

    fn blocking<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|e| broken(&e))?.block_on(work)
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.api).await.map_err(|e| self.unreachable(&e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "turnpike")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| broken(&e))?;
        sender.send_request(request).await.map_err(|e| broken(&e))
    }

    fn unreachable(&self, e: &std::io::Error) -> Failure {
        let path = self.api.display();
        match e.kind() {
            ErrorKind::PermissionDenied => Failure(format!(
                "permission denied for uid {} to use {path}; valid: root, the switch's own user or a member of \
                 the group given with 'serve --api-group'",
                nix::unistd::geteuid()
            )),
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure(format!(
                "no switch answers at {path} (is 'turnpike serve' running? another socket: --api or $TURNPIKE_API)"
            )),
            _ => Failure(format!(
                "cannot connect to {path}: {e}; valid: the API socket of a switch (--api or $TURNPIKE_API)"
            )),
        }
    }

    fn silent(&self) -> Failure {
        Failure(format!(
            "the switch at {} did not answer within {} s",
            self.api.display(),
            PATIENCE.as_secs()
        ))
    }
}

/// The path of one object of the API. Names need no escaping because of what a name may be.
pub(super) fn object(
    collection: &str,
    name: &str,
    object: impl FnOnce(String) -> Object,
) -> Result<String, Failure> {
    match check::name(name) {
        Ok(()) => Ok(format!("/v1/{collection}/{name}")),
        Err(why) => Err(Refused { object: object(name.to_owned()), why }.into()),
    }
}

/// The path of one element of a collection, whatever its name is.
pub(super) fn below(collection: &str, name: &str) -> String {
    let mut path = format!("{collection}/");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

/// The path of a port's list.
pub(super) fn port_list(port: &str, list: &str) -> Result<String, Failure> {
    Ok(format!("{}/{list}", object("ports", port, Object::Port)?))
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let status = response.status();
    let bytes = response.into_body().collect().await.map_err(|e| broken(&e))?.to_bytes();
    if status.is_success() {
        return Ok(bytes);
    }
    Err(match serde_json::from_slice(&bytes) {
        Ok(ErrorBody { error: ErrorDetail { object, message, reason, hint, problems, .. } }) => {
            let mut text = refusal::line(&object, &message, reason, &hint);
            for ErrorDetail { object, message, reason, hint, .. } in problems {
                text.push_str("\n  ");
                text.push_str(&refusal::line(&object, &message, reason, &hint));
            }
            Failure(text)
        }
        Err(_) => Failure(format!("the switch answered {status}")),
    })
}

fn broken(e: &dyn std::error::Error) -> Failure {
    Failure(format!("the switch broke off: {e}"))
}
