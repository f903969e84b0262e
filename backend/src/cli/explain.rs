//! `turnpike explain`

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use clap::Args;
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use vswitch::HEAD_LEN;

use super::client::Client;
use super::{Answer, Failure, Outcome};
use crate::control::check;
use crate::control::types::{DestinationView, ExplainSpec, ExplainView, StepView};

/// What would happen to a frame.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The port or uplink that would send it.
    #[arg(long, value_name = "PORT")]
    from: String,

    /// The frame as hexadecimal bytes, or a capture file (pcap), of which every frame is explained.
    #[arg(long, value_name = "HEX|FILE.pcap")]
    frame: String,
}

impl Explain {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        let ask = |frame: String, len| {
            let spec = ExplainSpec { from: self.from.clone(), frame, len };
            client.post::<ExplainView>("/v1/explain", &spec)
        };
        if check::hexadecimal(&self.frame).is_some() {
            return answer.print(&ask(self.frame.clone(), None)?, show);
        }
        let all: Vec<ExplainView> = frames(Path::new(&self.frame))?
            .into_iter()
            .map(|(head, len)| ask(hex(&head), Some(len)))
            .collect::<Result<_, _>>()?;
        answer.print(&all, |all| {
            let one = |(number, view)| format!("frame {number}\n{}", show(view));
            (1..).zip(all).map(one).collect::<Vec<_>>().join("\n\n")
        })
    }
}

/// The frames of a capture file: what policy looks at of each, and its whole length.
fn frames(path: &Path) -> Result<Vec<(Vec<u8>, u64)>, Failure> {
    let fail = |what: String| {
        Failure(format!(
            "frame '{}': {what}; valid: hexadecimal bytes, or a pcap file of Ethernet frames (tcpdump -w)",
            path.display()
        ))
    };
    let file = File::open(path)
        .map_err(|e| fail(format!("these are not hexadecimal bytes, and the file cannot be read: {e}")))?;
    read(BufReader::new(file)).map_err(fail)
}

fn read(source: impl Read) -> Result<Vec<(Vec<u8>, u64)>, String> {
    let mut reader = PcapReader::new(source).map_err(|e| format!("this is not a pcap file: {e}"))?;
    let link = reader.header().datalink;
    if link != DataLink::ETHERNET {
        return Err(format!("it holds frames of {link:?}, not Ethernet"));
    }
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(|e| format!("frame {} cannot be read: {e}", frames.len() + 1))?;
        let head = packet.data.iter().copied().take(HEAD_LEN).collect();
        frames.push((head, packet.orig_len.into()));
    }
    if frames.is_empty() { Err("it holds no frame".into()) } else { Ok(frames) }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|d| char::from_digit(d.into(), 16))
        .collect()
}

fn show(view: &ExplainView) -> String {
    let mut lines: Vec<String> = view.steps.iter().map(|step| line(step, "  ")).collect();
    let reason = view.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    lines.push(format!("verdict: {}{reason}", view.verdict));
    lines.extend(view.meaning.iter().map(|meaning| format!("  {meaning}")));
    for destination in &view.destinations {
        let DestinationView { port, tag, verdict, reason, copy, steps } = destination;
        let reason = reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let copy = if *copy { ", a monitor's copy" } else { "" };
        let tag = if tag == "kept" { String::new() } else { format!(", tag {tag}") };
        lines.push(format!("to port '{port}': {verdict}{reason}{tag}{copy}"));
        lines.extend(steps.iter().map(|step| line(step, "    ")));
    }
    lines.join("\n")
}

fn line(StepView { step, outcome, notes }: &StepView, indent: &str) -> String {
    let notes = if notes.is_empty() { String::new() } else { format!(": {}", notes.join("; ")) };
    format!("{indent}{step:<20} {outcome}{notes}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pcap file in memory: magic, version 2.4, snap length, link type; then frames with their whole lengths.
    fn capture(link: u32, frames: &[(&[u8], u32)]) -> Vec<u8> {
        let mut file = 0xa1b2_c3d4_u32.to_be_bytes().to_vec();
        file.extend([0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255]);
        file.extend(link.to_be_bytes());
        for (data, whole) in frames {
            file.extend([0; 8]);
            file.extend((data.len() as u32).to_be_bytes());
            file.extend(whole.to_be_bytes());
            file.extend(*data);
        }
        file
    }

    #[test]
    fn every_frame_of_a_capture_is_read_with_its_whole_length() {
        let file = capture(1, &[(&[1; 60], 60), (&[2; 300], 1514)]);
        assert_eq!(read(&file[..]), Ok(vec![(vec![1; 60], 60), (vec![2; HEAD_LEN], 1514)]));
    }

    #[test]
    fn what_is_no_capture_of_ethernet_frames_is_refused() {
        let failure = |bytes: &[u8]| read(bytes).expect_err("refused");
        assert!(failure(b"hello, this is a text of some length").starts_with("this is not a pcap file"));
        assert_eq!(failure(&capture(1, &[])), "it holds no frame");
        assert!(failure(&capture(113, &[(&[1; 60], 60)])).ends_with("not Ethernet"));
        let whole = capture(1, &[(&[1; 60], 60)]);
        assert!(failure(&whole[..whole.len() - 1]).starts_with("frame 1 cannot be read"));
    }
}
