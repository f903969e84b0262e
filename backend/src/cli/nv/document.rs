//! `turnpike nv export`, `import`, `resolve` and `store`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use vswitch::refusal::{Object, Refusal};

use crate::cli::client::Client;
use crate::cli::table::{count, pairs};
use crate::cli::{Answer, Failure, Outcome, apply};
use crate::control::types::{Applied, NvDocument, PolicyStoreView, ResolutionView};

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The document, as `export` prints it; - is standard input.
    file: PathBuf,

    /// Only say what would change.
    #[arg(long)]
    dry_run: bool,
}

impl Import {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        let path = self.file.to_string_lossy().into_owned();
        let refuse = |why: Refusal, line| Failure::from(why.of(Object::File { path: path.clone(), line }));
        let text = if self.file == Path::new("-") {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(&self.file)
        };
        let text = text.map_err(|e| refuse(Refusal::FileUnusable { reason: e.to_string() }, None))?;
        let document: NvDocument = serde_json::from_str(&text).map_err(|e| {
            let reason = format!("it is not a document of 'turnpike nv export': {e}");
            refuse(Refusal::Malformed { reason }, u32::try_from(e.line()).ok())
        })?;
        let objects = document.network.len() + document.subnet.len() + document.route.len();
        let objects = objects + document.provider.len() + document.gateway.len() + document.record.len();
        let url = format!("/v1/nv/import?dry_run={}", self.dry_run);
        let progress = Progress::new(objects);
        let applied = client.post_long::<Applied>(&url, &document, "/v1/nv/store", |seen| {
            progress.tell(seen.and_then(|bytes| serde_json::from_slice(&bytes).ok()).as_ref());
        });
        progress.end();
        answer.print(&applied?, |applied| match (applied.changes.len(), self.dry_run) {
            (0, _) => "nothing to change".into(),
            _ => apply::lines(applied).join("\n"),
        })
    }
}

/// Objects of a document from which on it says that it is working.
const LONG: usize = 10_000;

/// Says on a terminal that a long import goes on.
struct Progress {
    objects: usize,
    start: std::time::Instant,
    is_shown: bool,
}

impl Progress {
    fn new(objects: usize) -> Self {
        let is_shown = objects >= LONG && std::io::IsTerminal::is_terminal(&std::io::stderr());
        Self { objects, start: std::time::Instant::now(), is_shown }
    }

    fn tell(&self, store: Option<&PolicyStoreView>) {
        if self.is_shown {
            eprint!("\r{} ", self.words(store));
        }
    }

    /// How far it is: only a store that hosts share is written to in many steps.
    fn words(&self, store: Option<&PolicyStoreView>) -> String {
        let (objects, seconds) = (count(self.objects as u64), self.start.elapsed().as_secs());
        match store.filter(|store| store.to_write > 0) {
            Some(store) => {
                let (written, all) = (store.written, store.to_write);
                let share = 100 * written / all;
                format!("{share} %: {} of {} changes written ({seconds} s)", count(written), count(all))
            }
            None => format!("{objects} objects are being judged and stored ({seconds} s)"),
        }
    }

    fn end(&self) {
        if self.is_shown {
            eprintln!();
        }
    }
}

/// Prints everything as a document.
pub(super) fn export(client: &Client, answer: &Answer) -> Outcome {
    let document: NvDocument = client.get("/v1/nv/export")?;
    let text = serde_json::to_string_pretty(&document);
    let text = text.map_err(|e| Failure(format!("the document is not JSON: {e}")))?;
    answer.print(&document, |_| text)
}

#[derive(Debug, Args)]
pub(crate) struct Resolve {
    /// The virtual subnet of the guest that sends.
    #[arg(long, value_name = "N")]
    vsid: u64,
    /// The customer address that it sends to.
    #[arg(long, value_name = "IP")]
    ca: std::net::IpAddr,
}

impl Resolve {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        let path = format!("/v1/nv/resolve?vsid={}&ca={}", self.vsid, self.ca);
        answer.print(&client.get::<ResolutionView>(&path)?, |found| {
            let mut lines = found.steps.clone();
            lines.extend(found.dropped.as_ref().map(|reason| format!("dropped: {reason}")));
            lines.join("\n")
        })
    }
}

/// Shows the policy store.
pub(super) fn store(client: &Client, answer: &Answer) -> Outcome {
    answer.print(&client.get::<PolicyStoreView>("/v1/nv/store")?, show)
}

fn show(store: &PolicyStoreView) -> String {
    if store.kind == "embedded" {
        return "embedded: in this switch's state directory".into();
    }
    let state = if store.up { format!("yes, {}", store.member) } else { format!("no: {}", store.reason) };
    let in_force = if store.from_memory {
        "what was known when the switch ended".into()
    } else {
        format!("revision {} of {}", store.revision, store.newest)
    };
    let mut text = pairs(&[
        ("kind", store.kind.clone()),
        ("answers", state),
        ("heard", format!("{} ms ago", store.silent_ms)),
        ("in force", in_force),
        ("lost", format!("{} times", store.losses)),
        ("read again", format!("{} times", store.reloads)),
        ("subnets", format!("{} followed, {} being read", store.subnets, store.reading)),
        ("hosts", store.hosts.join(", ")),
        ("wrong keys", store.skipped.to_string()),
    ]);
    for (key, reason) in &store.skipped_keys {
        // Writing to a string does not fail.
        let _ = write!(text, "\n  {key}: {reason}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_import_says_its_share_where_it_is_written_in_steps() {
        let progress = Progress { objects: 20_000, start: std::time::Instant::now(), is_shown: false };
        let store = |written, to_write| PolicyStoreView { to_write, written, ..PolicyStoreView::default() };
        assert_eq!(progress.words(Some(&store(4800, 20_000))), "24 %: 4.80k of 20.0k changes written (0 s)");
        let judged = "20.0k objects are being judged and stored (0 s)";
        assert_eq!(progress.words(Some(&store(0, 0))), judged);
        assert_eq!(progress.words(None), judged);
    }
}
