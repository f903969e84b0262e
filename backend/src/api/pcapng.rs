//! A capture as a pcapng file: one interface for each port, and of each frame its direction, nanoseconds, and why it was dropped.
//!
//! The direction is the port's (its guest's) own: what it sent is outbound, what it got inbound. A drop reason is the packet's comment; how many
//! frames could not be captured before a packet is its drop count.

use std::borrow::Cow;
use std::collections::HashMap;

use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgBlock;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{Endianness, PcapResult};
use vswitch::PortId;

use crate::control::watch::{SNAPLEN, direction_flags};
use crate::watch::Sighting;

/// Time stamps are nanoseconds.
const NANOSECONDS: u8 = 9;

/// A file that grows.
pub(super) struct Capture {
    writer: PcapNgWriter<Vec<u8>>,
    snaplen: u32,
    /// The interface of each port, and the name the port had then.
    interfaces: HashMap<PortId, (u32, String)>,
    count: u32,
}

impl Capture {
    /// A file with interfaces for these ports.
    pub(super) fn new(snaplen: Option<u64>, ports: &[(PortId, String)]) -> PcapResult<Self> {
        let application = concat!("turnpike ", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            endianness: Endianness::Little,
            options: vec![SectionHeaderOption::UserApplication(Cow::Borrowed(application))],
            ..SectionHeaderBlock::default()
        };
        let mut capture = Self {
            writer: PcapNgWriter::with_section_header(Vec::new(), section)?,
            snaplen: snaplen.unwrap_or(SNAPLEN) as u32,
            interfaces: HashMap::new(),
            count: 0,
        };
        for (id, name) in ports {
            capture.interface(*id, name)?;
        }
        Ok(capture)
    }

    fn interface(&mut self, port: PortId, name: &str) -> PcapResult<u32> {
        if let Some((number, known)) = self.interfaces.get(&port)
            && known == name
        {
            return Ok(*number);
        }
        let options = vec![
            InterfaceDescriptionOption::IfName(name.into()),
            InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
        ];
        let block =
            InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: self.snaplen, options };
        self.writer.write_block(&block.into_block())?;
        let number = self.count;
        self.count += 1;
        self.interfaces.insert(port, (number, name.to_owned()));
        Ok(number)
    }

    /// Adds a frame, before which `missed` could not be captured; `name` knows what ports are called.
    pub(super) fn add(
        &mut self,
        frame: &Sighting,
        missed: u64,
        name: impl Fn(PortId) -> String,
    ) -> PcapResult<()> {
        let interface_id = self.interface(frame.port, &name(frame.port))?;
        let mut options = vec![EnhancedPacketOption::Flags(direction_flags(frame.direction))];
        if missed > 0 {
            options.push(EnhancedPacketOption::DropCount(missed));
        }
        if let Some((reason, at)) = frame.lost {
            let at = at.map(|port| format!(" at {}", name(port))).unwrap_or_default();
            options.push(EnhancedPacketOption::Comment(format!("dropped{at}: {reason}").into()));
        }
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: frame.time,
            original_len: frame.len,
            data: Cow::Borrowed(&frame.bytes),
            options,
        };
        self.writer.write_block(&block.into_block())?;
        Ok(())
    }

    /// What was added since the last call, in whole blocks.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.writer.get_mut())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pcap_file::pcapng::{Block, PcapNgReader};
    use vswitch::Direction;
    use vswitch::trace::DropReason;

    use super::*;

    #[test]
    fn s19_a_capture_reads_back_with_interfaces_directions_reasons_and_what_is_missing() {
        let (a, b) = (PortId(1), PortId(7));
        let name = |id: PortId| format!("p{id}");
        let mut capture = Capture::new(Some(9000), &[(a, name(a))]).unwrap();
        let time = Duration::new(1_700_000_000, 123_456_789);
        let sent = Sighting {
            time,
            port: b,
            direction: Direction::Out,
            bytes: vec![1, 2, 3, 4, 5].into(),
            len: 70_000,
            lost: Some((DropReason::AclDenied, Some(a))),
        };
        let got = Sighting { port: a, direction: Direction::In, lost: None, ..sent.clone() };
        let mut bytes = capture.take();
        capture.add(&sent, 3, name).unwrap();
        bytes.extend(capture.take());
        capture.add(&got, 0, name).unwrap();
        // The port was renamed, or is another one by now: it is another interface.
        capture.add(&got, 0, |_| "new".to_owned()).unwrap();
        bytes.extend(capture.take());
        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let mut seen = Vec::new();
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block.unwrap().into_owned() {
                assert_eq!((packet.timestamp, packet.original_len, packet.data.len()), (time, 70_000, 5));
                seen.push((packet.interface_id, packet.options));
            }
        }
        let flags = EnhancedPacketOption::Flags;
        let comment = EnhancedPacketOption::Comment("dropped at p1: acl-denied".into());
        assert_eq!(seen[0], (1, vec![flags(2), EnhancedPacketOption::DropCount(3), comment]));
        assert_eq!(seen[1..], [(0, vec![flags(1)]), (2, vec![flags(1)])]);
        let names: Vec<_> = reader
            .interfaces()
            .iter()
            .map(|interface| match &interface.options[0] {
                InterfaceDescriptionOption::IfName(name) => name.clone().into_owned(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["p1", "p7", "new"]);
    }
}
