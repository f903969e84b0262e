//! Routes that show frames for as long as somebody reads.

use std::time::Duration;

use axum::body::{Body as HttpBody, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::sync::{mpsc, watch};
use vswitch::PortId;
use vswitch::refusal::{Object, Refusal};

use super::Shared;
use super::body::{ApiError, ErrorBody, Query};
use super::pcapng::Capture;
use super::routes::Lines;
use crate::control::types::{CaptureSpec, TraceSpec, TraceView};
use crate::control::watch::told;
use crate::events::EventLog;
use crate::watch::{Record, Watching};

/// How long a reader that was just served is left alone, so that the frames of that time come to it at once: waking it for each of them
/// would cost the workers more than looking at the frames does.
const PACE: Duration = Duration::from_millis(10);

/// Show what happens to frames: one JSON object per line for each, as long as the connection is open.
#[utoipa::path(get, path = "/v1/trace", tag = "seeing", params(TraceSpec), responses(
    (status = 200, description = "Frames, as they come", content_type = "application/x-ndjson", body = TraceView),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such port", body = ErrorBody),
    (status = 409, description = "Too many watch", body = ErrorBody),
))]
pub(super) async fn trace(
    State(s): State<Shared>,
    Query(spec): Query<TraceSpec>,
) -> Result<Response, ApiError> {
    let count = spec.count;
    let watching = s.with(move |switch| switch.trace(&spec)).await??;
    let events = s.events.clone();
    let write = move |record, missed| {
        let Record::Way(way) = record else { return Some(Vec::new()) };
        let mut line = serde_json::to_vec(&told(*way, missed, |id| name(&events, id))).ok()?;
        line.push(b'\n');
        Some(line)
    };
    Ok(stream("application/x-ndjson", Vec::new(), watching, count, write, s.stopping))
}

/// Capture frames: a pcapng file that grows as long as the connection is open. Each port is an interface; a packet's flags say whether its port
/// sent it (outbound) or got it (inbound), its comment why it was dropped.
#[utoipa::path(get, path = "/v1/capture", tag = "seeing", params(CaptureSpec), responses(
    (status = 200, description = "Frames, as they come", content_type = "application/x-pcapng", body = Vec<u8>),
    (status = 400, description = "A value is not valid", body = ErrorBody),
    (status = 404, description = "There is no such port", body = ErrorBody),
    (status = 409, description = "Too many watch", body = ErrorBody),
))]
pub(super) async fn capture(
    State(s): State<Shared>,
    Query(spec): Query<CaptureSpec>,
) -> Result<Response, ApiError> {
    let (count, snaplen) = (spec.count, spec.snaplen);
    let (watching, ports) = s.with(move |switch| switch.capture(&spec)).await??;
    let mut file = Capture::new(snaplen, &ports).map_err(|e| {
        let (what, reason) = ("capture".to_owned(), e.to_string());
        ApiError(Refusal::System { what, reason }.of(Object::Request))
    })?;
    let head = file.take();
    let events = s.events.clone();
    let write = move |record, missed| {
        let Record::Sighting(frame) = record else { return Some(Vec::new()) };
        file.add(&frame, missed, |id| name(&events, id)).ok()?;
        Some(file.take())
    };
    Ok(stream("application/x-pcapng", head, watching, count, write, s.stopping))
}

fn name(events: &EventLog, id: PortId) -> String {
    events.port_name(id).unwrap_or_else(|| format!("#{id}"))
}

/// An answer of `head` and what `write` makes of records, up to `count` of them.
fn stream(
    kind: &'static str,
    head: Vec<u8>,
    watching: Watching,
    count: Option<u64>,
    write: impl FnMut(Record, u64) -> Option<Vec<u8>> + Send + 'static,
    stopping: watch::Receiver<bool>,
) -> Response {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let watching = show(head, watching, count, write, stopping, sender).await;
        // Its end waits for the workers.
        tokio::task::spawn_blocking(move || drop(watching));
    });
    ([(header::CONTENT_TYPE, kind)], HttpBody::new(Lines(receiver))).into_response()
}

/// Sends what is seen until the reader goes away, `count` is reached, or the switch stops. A slow reader is waited for; what does not fit
/// meanwhile is counted.
async fn show(
    head: Vec<u8>,
    mut watching: Watching,
    count: Option<u64>,
    mut write: impl FnMut(Record, u64) -> Option<Vec<u8>>,
    mut stopping: watch::Receiver<bool>,
    sender: mpsc::Sender<Bytes>,
) -> Watching {
    let mut left = count.unwrap_or(u64::MAX);
    if !head.is_empty() && sender.send(head.into()).await.is_err() {
        return watching;
    }
    while left > 0 {
        let next = tokio::select! {
            next = watching.records.next() => next,
            () = sender.closed() => return watching,
            _ = stopping.wait_for(|stopping| *stopping) => return watching,
        };
        let Some((records, mut missed)) = next else { return watching };
        let mut text = Vec::new();
        for record in records {
            if left == 0 {
                break;
            }
            let Some(piece) = write(record, std::mem::take(&mut missed)) else { return watching };
            text.extend(piece);
            left -= 1;
        }
        if sender.send(text.into()).await.is_err() {
            return watching;
        }
        if left > 0 {
            tokio::time::sleep(PACE).await;
        }
    }
    watching
}
