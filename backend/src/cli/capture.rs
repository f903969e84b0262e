//! `turnpike capture`

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use pcap_file::PcapError;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgParser};

use super::client::Client;
use super::{Failure, NoJson, Outcome};
use crate::control::types::CaptureSpec;

/// Which frames are written, and where.
#[derive(Debug, Args)]
pub(super) struct Capture {
    /// Only frames at this port or uplink.
    #[arg(long, value_name = "NAME")]
    port: Option<String>,

    /// What ports send (out), what they get (in), or both.
    #[arg(long, value_name = "in|out|both", default_value = "both")]
    direction: String,

    /// Only the first N bytes of each frame.
    #[arg(long, value_name = "N")]
    snaplen: Option<u64>,

    /// Only frames that were dropped: at the port that sent them, or at the one that was to get them.
    #[arg(long)]
    drops: bool,

    /// Only frames of which this is true; see `turnpike trace --help`.
    #[arg(long, value_name = "EXPR")]
    filter: Option<String>,

    /// End after N frames.
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    /// The pcapng file, which is replaced; `-` = standard output.
    #[arg(short, value_name = "FILE.pcapng|-")]
    write: PathBuf,

    #[command(flatten)]
    pub(super) no_json: NoJson,
}

impl Capture {
    pub(super) fn run(self, client: &Client) -> Outcome {
        let Self { port, direction, snaplen, drops, filter, count, write, no_json: _ } = self;
        let drops = drops.then_some(true);
        let spec = CaptureSpec { port, direction: Some(direction), snaplen, drops, filter, count };
        let query = serde_urlencoded::to_string(&spec)
            .map_err(|e| Failure(format!("the request cannot be written: {e}")))?;
        let mut out: Option<Box<dyn Write>> = None;
        let slot = std::cell::RefCell::new(&mut out);
        let mut blocks = Blocks::default();
        let begun = || {
            // Not before: a capture that is refused leaves an older file as it is.
            **slot.borrow_mut() = Some(open(&write)?);
            eprintln!("turnpike: watching");
            Ok(())
        };
        let result = client.pieces(&format!("/v1/capture?{query}"), begun, |piece| {
            let whole = blocks.take(piece)?;
            let mut slot = slot.borrow_mut();
            let Some(out) = slot.as_mut() else { return Ok(ControlFlow::Break(())) };
            match out.write_all(&whole).and_then(|()| out.flush()) {
                Ok(()) => Ok(ControlFlow::Continue(())),
                Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
                Err(e) => Err(Failure(format!("cannot write to '{}': {e}", write.display()))),
            }
        });
        if out.is_some() {
            let Blocks { frames, missed, .. } = blocks;
            eprintln!("turnpike: {frames} frames captured, {missed} could not be");
        }
        result
    }
}

fn open(path: &Path) -> Result<Box<dyn Write>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdout()));
    }
    // What guests say to each other is not everybody's business.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    match file {
        Ok(file) => Ok(Box::new(file)),
        Err(e) => Err(Failure(format!("cannot write to '{}': {e}", path.display()))),
    }
}

/// Cuts what arrives where a block ends, so that the file is whole whenever the command ends.
#[derive(Default)]
struct Blocks {
    rest: Vec<u8>,
    parser: Option<PcapNgParser>,
    frames: u64,
    missed: u64,
}

impl Blocks {
    /// Adds a piece; returns the blocks that are whole by now.
    fn take(&mut self, piece: &[u8]) -> Result<Vec<u8>, Failure> {
        self.rest.extend_from_slice(piece);
        let mut left = &self.rest[..];
        let bad = |e: PcapError| Failure(format!("the switch sent a bad capture: {e}"));
        loop {
            let Some(parser) = &mut self.parser else {
                match PcapNgParser::new(left) {
                    Ok((behind, parser)) => (left, self.parser) = (behind, Some(parser)),
                    Err(PcapError::IncompleteBuffer) => break,
                    Err(e) => return Err(bad(e)),
                }
                continue;
            };
            match parser.next_block(left) {
                Ok((behind, block)) => {
                    if let Block::EnhancedPacket(packet) = block {
                        self.frames += 1;
                        for option in packet.options {
                            self.missed +=
                                if let EnhancedPacketOption::DropCount(missed) = option { missed } else { 0 };
                        }
                    }
                    left = behind;
                }
                Err(PcapError::IncompleteBuffer) => break,
                Err(e) => return Err(bad(e)),
            }
        }
        let whole = self.rest.len() - left.len();
        let rest = self.rest.split_off(whole);
        Ok(std::mem::replace(&mut self.rest, rest))
    }
}
