//! An independent reader: tshark decodes what this switch puts on the wire as what it is meant to be, with nothing to complain about.

use std::io::Write;
use std::process::{Command, Stdio};

use vswitch::frame::offload::Offload;
use vswitch::frame::protocol;
use vswitch::nv::answer::{
    Advertised, arp_reply, arp_request, echo_reply, neighbour_advertisement, neighbour_solicitation,
    time_exceeded, too_big,
};
use vswitch::nv::model::Encap;
use vswitch::nv::wire::Outer;
use vswitch::nv::wire::rewrite::apply;

use super::reference::{carried, complete, example, outer};
use crate::packets::{arp, framed, icmp, ip, neighbour, tagged, tcp, udp, v4, v6};
use crate::support::{mac_of, stranger};

/// What tshark is asked for, and in front of which values an empty one is left out.
const FIELDS: [&str; 28] = [
    "vlan.id",
    "ipv6.hlim",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "ip.ttl",
    "ip.flags.df",
    "ip.dsfield.dscp",
    "ip.dsfield.ecn",
    "gre.key",
    "vxlan.vni",
    "udp.dstport",
    "tcp.dstport",
    "arp.opcode",
    "arp.src.proto_ipv4",
    "icmp.type",
    "icmp.mtu",
    "icmpv6.type",
    "icmpv6.mtu",
    "icmpv6.nd.na.flag",
    "ip.checksum.status",
    "tcp.checksum.status",
    "udp.checksum.status",
    "icmp.checksum.status",
    "icmpv6.checksum.status",
    "_ws.malformed",
    "_ws.expert.message",
];

/// What tshark says of each frame: layers, then `field=value`, values of several layers separated by commas, outermost first. `None` if there is
/// no tshark.
fn decode(frames: &[Vec<u8>]) -> Option<Vec<String>> {
    let mut capture = Vec::new();
    for word in [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 65_535, 1] {
        capture.extend(word.to_le_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            capture.extend(word.to_le_bytes());
        }
        capture.extend(frame);
    }
    let mut tshark = Command::new("tshark");
    tshark.args(["-r", "-", "-n", "-T", "fields", "-E", "separator=;", "-e", "frame.protocols"]);
    // Zero is no UDP checksum in a tunnel over IPv6 either (RFC 6935); packets are single ones here, not streams.
    let settings = ["ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE"];
    let tolerant = ["udp.ignore_ipv6_zero_checksum:TRUE", "tcp.analyze_sequence_numbers:FALSE"];
    for setting in settings.into_iter().chain(tolerant) {
        tshark.args(["-o", setting]);
    }
    for field in FIELDS {
        tshark.args(["-e", field]);
    }
    let pipes = tshark.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = pipes.spawn().ok()?;
    child.stdin.take().expect("a pipe").write_all(&capture).expect("tshark reads");
    let output = child.wait_with_output().expect("tshark ends");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let mut values = line.split(';');
            let layers = values.next().unwrap_or_default().to_owned();
            let known = FIELDS.iter().zip(values).filter(|(_, value)| !value.is_empty());
            known.fold(layers, |line, (field, value)| format!("{line} {field}={value}"))
        })
        .collect();
    assert_eq!(lines.len(), frames.len(), "{text}");
    Some(lines)
}

fn check(test: &str, frames: &[(Vec<u8>, &str)]) {
    let (bytes, expected): (Vec<Vec<u8>>, Vec<&str>) = frames.iter().cloned().unzip();
    let Some(lines) = decode(&bytes) else {
        // Past the test harness, which keeps what a passing test prints to itself.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: {test}: no tshark; apt-get install -y --no-install-recommends tshark"
        );
        return;
    };
    for (line, expected) in lines.iter().zip(expected) {
        assert_eq!(line, expected);
    }
}

#[test]
fn s14_12_tshark_reads_tunnels() {
    let inner6 = framed(&complete(v6("fd0a::3", "fd0a::7", protocol::UDP, &udp(40_000, 7777, b"query"))));
    let mut marked = example();
    marked[15] = 0xb9;
    let packet = complete(marked[14..].to_vec());
    marked.splice(14.., packet);
    let arp = tagged(&[], 0x0806, &arp(1, mac_of(1), "10.16.1.3", "10.16.1.7"));
    let tagged_outer = Outer { vlan: Some(77), vsid: 16_777_214, ttl: 9, ..outer(Encap::Vxlan, true) };
    let nvgre = |frame: &[u8]| carried(&outer(Encap::Nvgre, false), frame);
    check(
        "s14_12_tshark_reads_tunnels",
        &[
            (
                nvgre(&example()),
                "eth:ethertype:ip:gre:eth:ethertype:ip:tcp:data ip.src=192.168.34.8,10.16.1.3 \
             ip.dst=192.168.42.12,10.16.1.7 ip.ttl=64,64 ip.flags.df=1,0 ip.dsfield.dscp=0,0 \
             ip.dsfield.ecn=0,0 gre.key=0x00138962 tcp.dstport=7777 ip.checksum.status=1,1 \
             tcp.checksum.status=1",
            ),
            (
                carried(&outer(Encap::Nvgre, true), &inner6),
                "eth:ethertype:ipv6:gre:eth:ethertype:ipv6:udp:data ipv6.hlim=64,255 \
             ipv6.src=fd00:1::1,fd0a::3 ipv6.dst=fd00:2::2,fd0a::7 gre.key=0x0013896f \
             udp.dstport=7777 udp.checksum.status=1",
            ),
            (
                carried(&outer(Encap::Vxlan, false), &inner6),
                "eth:ethertype:ip:udp:vxlan:eth:ethertype:ipv6:udp:data ipv6.hlim=255 \
             ip.src=192.168.34.8 ip.dst=192.168.42.12 ipv6.src=fd0a::3 ipv6.dst=fd0a::7 \
             ip.ttl=64 ip.flags.df=1 ip.dsfield.dscp=0 ip.dsfield.ecn=0 vxlan.vni=5001 \
             udp.dstport=4789,7777 ip.checksum.status=1 udp.checksum.status=3,1",
            ),
            (
                carried(&tagged_outer, &example()),
                "eth:ethertype:vlan:ethertype:ipv6:udp:vxlan:eth:ethertype:ip:tcp:data vlan.id=77 \
             ipv6.hlim=9 ip.src=10.16.1.3 ip.dst=10.16.1.7 ipv6.src=fd00:1::1 \
             ipv6.dst=fd00:2::2 ip.ttl=64 ip.flags.df=0 ip.dsfield.dscp=0 ip.dsfield.ecn=0 \
             vxlan.vni=16777214 udp.dstport=4789 tcp.dstport=7777 ip.checksum.status=1 \
             tcp.checksum.status=1 udp.checksum.status=3",
            ),
            (
                nvgre(&marked),
                "eth:ethertype:ip:gre:eth:ethertype:ip:tcp:data ip.src=192.168.34.8,10.16.1.3 \
             ip.dst=192.168.42.12,10.16.1.7 ip.ttl=64,64 ip.flags.df=1,0 \
             ip.dsfield.dscp=46,46 ip.dsfield.ecn=1,1 gre.key=0x00138962 tcp.dstport=7777 \
             ip.checksum.status=1,1 tcp.checksum.status=1",
            ),
            (
                nvgre(&arp),
                "eth:ethertype:ip:gre:eth:ethertype:arp ip.src=192.168.34.8 ip.dst=192.168.42.12 \
             ip.ttl=64 ip.flags.df=1 ip.dsfield.dscp=0 ip.dsfield.ecn=0 gre.key=0x0013894f \
             arp.opcode=1 arp.src.proto_ipv4=10.16.1.3 ip.checksum.status=1",
            ),
        ],
    );
}

#[test]
fn s14_12_tshark_reads_rewritten_packets() {
    let rewritten = |packet: Vec<u8>, src: &str, dst: &str| {
        let mut frame = framed(&complete(packet));
        apply(&mut frame, ip(src), ip(dst), &Offload::None).expect("a plain packet");
        frame
    };
    let quoted = [&[0, 0, 5, 0xa0], &example()[14..]].concat();
    check(
        "s14_12_tshark_reads_rewritten_packets",
        &[
            (
                rewritten(
                    v4("10.1.1.2", "10.1.1.1", protocol::TCP, &tcp(1, 2, 0x18, b"data")),
                    "192.168.1.12",
                    "192.168.1.10",
                ),
                "eth:ethertype:ip:tcp:data ip.src=192.168.1.12 ip.dst=192.168.1.10 ip.ttl=64 \
             ip.flags.df=0 ip.dsfield.dscp=0 ip.dsfield.ecn=0 tcp.dstport=2 \
             ip.checksum.status=1 tcp.checksum.status=1",
            ),
            (
                rewritten(
                    v6("fd0a::2", "fd0a::1", protocol::UDP, &udp(1, 2, b"data")),
                    "fd00::12",
                    "fd00::10",
                ),
                "eth:ethertype:ipv6:udp:data ipv6.hlim=255 ipv6.src=fd00::12 ipv6.dst=fd00::10 \
             udp.dstport=2 udp.checksum.status=1",
            ),
            (
                rewritten(
                    v4("10.16.1.7", "10.16.1.3", protocol::ICMP, &icmp(11, &quoted)),
                    "192.168.1.12",
                    "192.168.1.10",
                ),
                "eth:ethertype:ip:icmp:ip:tcp:data ip.src=192.168.1.12,192.168.1.10 \
             ip.dst=192.168.1.10,192.168.1.12 ip.ttl=64,64 ip.flags.df=0,0 \
             ip.dsfield.dscp=0,0 ip.dsfield.ecn=0,0 tcp.dstport=7777 icmp.type=11 \
             ip.checksum.status=1,1 tcp.checksum.status=1 icmp.checksum.status=1",
            ),
        ],
    );
}

#[test]
fn s14_7_tshark_reads_answers() {
    let made = |make: &dyn Fn(&mut Vec<u8>) -> bool| {
        let mut out = Vec::new();
        assert!(make(&mut out));
        out
    };
    let request = tagged(&[], 0x0806, &arp(1, mac_of(1), "10.0.0.1", "10.0.0.254"));
    let solicitation = framed(&complete(v6(
        "fd00::1",
        "ff02::1:ff00:2",
        protocol::ICMPV6,
        &neighbour(135, "fd00::2", None),
    )));
    let ping =
        framed(&complete(v4("10.0.0.7", "10.0.0.1", protocol::ICMP, &icmp(8, b"\x12\x34\0\x07ping!"))));
    let ping6 =
        framed(&complete(v6("fd00::7", "fd00::1", protocol::ICMPV6, &icmp(128, b"\x12\x34\0\x07ping!"))));
    let mut large = v4("10.0.0.7", "10.1.0.9", protocol::TCP, &tcp(1, 2, 0x10, &[7; 400]));
    large[6] |= 0x40;
    let large = framed(&complete(large));
    let large6 = framed(&complete(v6("fd00::7", "fd01::9", protocol::TCP, &tcp(1, 2, 0x10, &[7; 400]))));
    let (mac, says) = (stranger(9), Advertised { router: true, certain: true });
    let address = |text: &str| text.parse().expect("an address");
    check(
        "s14_7_tshark_reads_answers",
        &[
            (
                made(&|out| arp_reply(&request, mac, [10, 0, 0, 254].into(), out)),
                "eth:ethertype:arp arp.opcode=2 arp.src.proto_ipv4=10.0.0.254",
            ),
            (
                made(&|out| {
                    arp_request(mac, [192, 168, 34, 8].into(), [192, 168, 34, 1].into(), Some(9), out);
                    true
                }),
                "eth:ethertype:vlan:ethertype:arp vlan.id=9 arp.opcode=1 \
             arp.src.proto_ipv4=192.168.34.8",
            ),
            (
                made(&|out| neighbour_advertisement(&solicitation, mac, address("fd00::2"), says, out)),
                "eth:ethertype:ipv6:icmpv6 ipv6.hlim=255 ipv6.src=fd00::2 ipv6.dst=fd00::1 \
             icmpv6.type=136 icmpv6.nd.na.flag=0xe0000000 icmpv6.checksum.status=1",
            ),
            (
                made(&|out| {
                    neighbour_solicitation(mac, address("fd00::1"), address("fd00::2"), None, out);
                    true
                }),
                "eth:ethertype:ipv6:icmpv6 ipv6.hlim=255 ipv6.src=fd00::1 ipv6.dst=ff02::1:ff00:2 \
             icmpv6.type=135 icmpv6.checksum.status=1",
            ),
            (
                made(&|out| echo_reply(&ping, out)),
                "eth:ethertype:ip:icmp:data ip.src=10.0.0.1 ip.dst=10.0.0.7 ip.ttl=64 \
             ip.flags.df=1 ip.dsfield.dscp=0 ip.dsfield.ecn=0 icmp.type=0 \
             ip.checksum.status=1 icmp.checksum.status=1",
            ),
            (
                made(&|out| echo_reply(&ping6, out)),
                "eth:ethertype:ipv6:icmpv6:data ipv6.hlim=64 ipv6.src=fd00::1 ipv6.dst=fd00::7 \
             icmpv6.type=129 icmpv6.checksum.status=1",
            ),
            (
                made(&|out| time_exceeded(&large, ip("10.0.0.1"), mac, out)),
                "eth:ethertype:ip:icmp:ip:tcp:data ip.src=10.0.0.1,10.0.0.7 \
             ip.dst=10.0.0.7,10.1.0.9 ip.ttl=64,64 ip.flags.df=1,1 ip.dsfield.dscp=48,0 \
             ip.dsfield.ecn=0,0 tcp.dstport=2 icmp.type=11 ip.checksum.status=1,1 \
             tcp.checksum.status=1 icmp.checksum.status=1",
            ),
            (
                made(&|out| time_exceeded(&large6, ip("fd00::1"), mac, out)),
                "eth:ethertype:ipv6:icmpv6:ipv6:tcp:data ipv6.hlim=64,255 \
             ipv6.src=fd00::1,fd00::7 ipv6.dst=fd00::7,fd01::9 tcp.dstport=2 icmpv6.type=3 \
             tcp.checksum.status=1 icmpv6.checksum.status=1",
            ),
            (
                made(&|out| too_big(&large, ip("10.0.0.1"), mac, 1458, out)),
                "eth:ethertype:ip:icmp:ip:tcp:data ip.src=10.0.0.1,10.0.0.7 \
             ip.dst=10.0.0.7,10.1.0.9 ip.ttl=64,64 ip.flags.df=1,1 ip.dsfield.dscp=48,0 \
             ip.dsfield.ecn=0,0 tcp.dstport=2 icmp.type=3 icmp.mtu=1458 \
             ip.checksum.status=1,1 tcp.checksum.status=1 icmp.checksum.status=1",
            ),
            (
                made(&|out| too_big(&large6, ip("fd00::1"), mac, 1438, out)),
                "eth:ethertype:ipv6:icmpv6:ipv6:tcp:data ipv6.hlim=64,255 \
             ipv6.src=fd00::1,fd00::7 ipv6.dst=fd00::7,fd01::9 tcp.dstport=2 icmpv6.type=2 \
             icmpv6.mtu=1438 tcp.checksum.status=1 icmpv6.checksum.status=1",
            ),
        ],
    );
}
