//! Which frames a filter is true of: against a reference that knows what it built, and against input that is no expression.

use std::net::IpAddr;

use proptest::prelude::*;
use vswitch::trace::filter::{DEEPEST, Filter, LONGEST};
use vswitch::{HEAD_LEN, Mac};

use crate::packets::*;

/// A frame, and what it was made of.
#[derive(Clone, Debug)]
struct Made {
    src: u8,
    dst: u8,
    tag: Option<u16>,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    /// Of hosts, a protocol, and ports where it is TCP or UDP.
    Packet {
        from: u8,
        to: u8,
        v6: bool,
        protocol: u8,
        ports: (u16, u16),
    },
    Arp {
        from: u8,
        to: u8,
    },
    Other,
}

fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

fn host(number: u8, v6: bool) -> String {
    if v6 { format!("fd00::{number:x}") } else { format!("10.0.0.{number}") }
}

impl Made {
    fn bytes(&self) -> Vec<u8> {
        let (ethertype, payload) = match &self.body {
            Body::Packet { from, to, v6: is_v6, protocol, ports } => {
                let (from, to) = (host(*from, *is_v6), host(*to, *is_v6));
                let upper = match protocol {
                    6 => tcp(ports.0, ports.1, 2, b"x"),
                    17 => udp(ports.0, ports.1, b"x"),
                    _ => vec![8; 8],
                };
                let packet = if *is_v6 {
                    v6(&from, &to, *protocol, &upper)
                } else {
                    v4(&from, &to, *protocol, &upper)
                };
                (ethertype_of(&packet), packet)
            }
            Body::Arp { from, to } => {
                let mut message = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, *from];
                message.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, *to]);
                (0x806, message)
            }
            Body::Other => (0x88cc, vec![1; 40]),
        };
        let tags: Vec<_> = self.tag.iter().map(|tag| (0x8100, *tag)).collect();
        ethernet(mac(self.dst), mac(self.src), &tags, ethertype, &payload)
    }
}

/// An expression as a tree.
#[derive(Clone, Debug)]
enum Tree {
    /// 0 = either side, 1 = source, 2 = destination.
    Host(u8, u8, bool),
    Net(u8),
    Ether(u8, u8),
    Port(u8, u16, u16),
    Vlan(Option<u16>),
    Proto(u8),
    Type(&'static str),
    Not(Box<Tree>),
    All(Vec<Tree>),
    Any(Vec<Tree>),
}

const SIDES: [&str; 3] = ["", "src ", "dst "];

impl Tree {
    fn text(&self) -> String {
        let list = |all: &[Tree], join| all.iter().map(Tree::inner).collect::<Vec<_>>().join(join);
        match self {
            Tree::Host(side, number, v6) => {
                format!("{}host {}", SIDES[usize::from(*side)], host(*number, *v6))
            }
            Tree::Net(side) => format!("{}host 10.0.0.0/30", SIDES[usize::from(*side)]),
            Tree::Ether(side, number) => format!("ether {}host {}", SIDES[usize::from(*side)], mac(*number)),
            Tree::Port(side, first, last) if first == last => {
                format!("{}port {first}", SIDES[usize::from(*side)])
            }
            Tree::Port(side, first, last) => format!("{}port {first}-{last}", SIDES[usize::from(*side)]),
            Tree::Vlan(None) => "vlan".into(),
            Tree::Vlan(Some(id)) => format!("vlan {id}"),
            Tree::Proto(6) => "tcp".into(),
            Tree::Proto(17) => "proto udp".into(),
            Tree::Proto(number) => format!("proto {number}"),
            Tree::Type(name) => (*name).into(),
            Tree::Not(tree) => format!("not {}", tree.inner()),
            Tree::All(all) => list(all, " and "),
            Tree::Any(all) => list(all, "||"),
        }
    }

    fn inner(&self) -> String {
        if matches!(self, Tree::All(_) | Tree::Any(_)) { format!("({})", self.text()) } else { self.text() }
    }

    fn holds(&self, made: &Made) -> bool {
        let either = |side: u8, source: bool, destination: bool| match side {
            0 => source || destination,
            1 => source,
            _ => destination,
        };
        match (self, &made.body) {
            (Tree::Host(side, number, v6), Body::Packet { from, to, v6: is, .. }) => {
                v6 == is && either(*side, from == number, to == number)
            }
            (Tree::Host(side, number, false), Body::Arp { from, to }) => {
                either(*side, from == number, to == number)
            }
            (Tree::Net(side), Body::Packet { from, to, v6: false, .. } | Body::Arp { from, to }) => {
                either(*side, *from < 4, *to < 4)
            }
            (Tree::Ether(side, number), _) => either(*side, made.src == *number, made.dst == *number),
            (Tree::Port(side, first, last), Body::Packet { protocol: 6 | 17, ports, .. }) => {
                either(*side, (*first..=*last).contains(&ports.0), (*first..=*last).contains(&ports.1))
            }
            (Tree::Vlan(id), _) => made.tag.is_some_and(|tag| id.is_none_or(|id| id == tag)),
            (Tree::Proto(number), Body::Packet { protocol, .. }) => number == protocol,
            (Tree::Type("ip"), Body::Packet { v6, .. }) => !v6,
            (Tree::Type("ip6"), Body::Packet { v6, .. }) => *v6,
            (Tree::Type("arp"), Body::Arp { .. }) => true,
            (Tree::Not(tree), _) => !tree.holds(made),
            (Tree::All(all), _) => all.iter().all(|tree| tree.holds(made)),
            (Tree::Any(all), _) => all.iter().any(|tree| tree.holds(made)),
            _ => false,
        }
    }
}

fn made() -> impl Strategy<Value = Made> {
    let number = || 1u8..7;
    let port = || 50u16..56;
    let body = prop_oneof![
        4 => (number(), number(), any::<bool>(), prop::sample::select(vec![6u8, 17, 47, 132]), (port(), port()))
            .prop_map(|(from, to, v6, protocol, ports)| Body::Packet { from, to, v6, protocol, ports }),
        1 => (number(), number()).prop_map(|(from, to)| Body::Arp { from, to }),
        1 => Just(Body::Other),
    ];
    (number(), number(), prop::option::of(0u16..4), body).prop_map(|(src, dst, tag, body)| Made {
        src,
        dst,
        tag,
        body,
    })
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        (0u8..3, 1u8..7, any::<bool>()).prop_map(|(side, number, v6)| Tree::Host(side, number, v6)),
        (0u8..3).prop_map(Tree::Net),
        (0u8..3, 1u8..7).prop_map(|(side, number)| Tree::Ether(side, number)),
        (0u8..3, 50u16..56, 0u16..3).prop_map(|(side, first, more)| Tree::Port(side, first, first + more)),
        prop::option::of(0u16..4).prop_map(Tree::Vlan),
        prop::sample::select(vec![6u8, 17, 47, 132]).prop_map(Tree::Proto),
        prop::sample::select(vec!["ip", "ip6", "arp"]).prop_map(Tree::Type),
    ];
    leaf.prop_recursive(5, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|tree| Tree::Not(Box::new(tree))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Tree::All),
            prop::collection::vec(inner, 2..4).prop_map(Tree::Any),
        ]
    })
}

fn ask(filter: &Filter, frame: &[u8]) -> bool {
    filter.matches(&frame[..frame.len().min(HEAD_LEN)], frame.len() as u32)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn s19_a_filter_is_true_of_the_frames_it_describes(tree in tree(), frames in prop::collection::vec(made(), 1..8)) {
        let filter = Filter::parse(&tree.text()).expect("an expression");
        for made in frames {
            prop_assert_eq!(ask(&filter, &made.bytes()), tree.holds(&made), "{} of {:?}", tree.text(), made);
        }
    }

    #[test]
    fn s19_a_filter_that_is_written_down_is_the_same_filter(tree in tree()) {
        let filter = Filter::parse(&tree.text()).expect("an expression");
        prop_assert_eq!(Filter::parse(&filter.to_string()), Ok(filter));
    }

    #[test]
    fn s19_whatever_is_written_is_an_expression_or_an_error_that_says_what_would_be(text in "\\PC{0,200}") {
        if let Err(error) = Filter::parse(&text) {
            prop_assert!(!error.valid.is_empty());
        }
    }

    #[test]
    fn s19_words_of_the_language_in_any_order_are_an_expression_or_an_error(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "host", "src", "dst", "ether", "port", "vlan", "proto", "tcp", "ip6", "arp", "not", "!", "and", "or", "&&",
                "||", "(", ")", "10.0.0.1", "fd00::/8", "02:00:00:00:00:01", "7", "80-90", "4095", "70000",
            ]),
            0..40,
        ),
        frame in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let text = words.join(" ");
        match Filter::parse(&text) {
            Ok(filter) => {
                // Whatever the frame is.
                let _ = ask(&filter, &frame);
                prop_assert_eq!(Filter::parse(&filter.to_string()), Ok(filter));
            }
            Err(error) => prop_assert!(error.word.is_empty() || text.contains(&error.word), "{error}: {text}"),
        }
    }
}

#[test]
fn s19_an_error_names_the_word_and_what_would_be_valid() {
    let error = |text: &str| Filter::parse(text).expect_err(text);
    for (text, word, valid) in [
        ("hots 10.0.0.1", "hots", "host, src, dst"),
        ("host 10.0.0", "10.0.0", "an IPv4 or IPv6 address"),
        ("host 10.0.0.1/33", "10.0.0.1/33", "an IPv4 or IPv6 address"),
        ("ether host 02:00:00:00:00", "02:00:00:00:00", "six hexadecimal bytes"),
        ("ether port 5", "port", "host, src host or dst host"),
        ("port http", "http", "a port or a range"),
        ("port 90-80", "90-80", "a port or a range"),
        ("src vlan 5", "vlan", "host or port"),
        ("vlan 4095", "4095", "0 (priority tag) to 4094"),
        ("proto 256", "256", "tcp, udp"),
        ("tcp udp", "udp", "and, or, or the end"),
        ("(tcp", "", ")"),
        ("tcp)", ")", "and, or, or the end"),
        ("tcp and", "", "host, src, dst"),
        ("tcp and or udp", "or", "host, src, dst"),
        ("tcp or udp and port 5", "and", "parentheses"),
        ("tcp & udp", "&", "and, or, or the end"),
    ] {
        let error = error(text);
        assert_eq!(error.word, word, "{text}");
        assert!(error.valid.starts_with(valid), "{text}: {error}");
    }
}

#[test]
fn s19_expressions_are_bounded() {
    let nested = |depth: usize| format!("{}tcp{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Filter::parse(&nested(DEEPEST)).is_ok());
    assert!(Filter::parse(&nested(DEEPEST + 1)).expect_err("too deep").valid.contains("at most"));
    assert!(Filter::parse(&"not ".repeat(LONGEST / 4)).expect_err("too deep").valid.contains("at most"));
    assert!(Filter::parse(&"!".repeat(LONGEST + 1)).expect_err("too long").valid.contains("bytes"));
}

#[test]
fn s19_no_expression_is_true_of_everything_and_tests_only_of_frames() {
    let all = Filter::parse("  ").expect("nothing");
    assert!(all.is_empty() && ask(&all, &[]) && ask(&all, &[1; 60]));
    for text in ["tcp", "not tcp", "vlan", "not vlan"] {
        assert!(!ask(&Filter::parse(text).expect(text), &[1; 10]), "{text}: this is no frame");
    }
    let address: IpAddr = ip("10.0.0.1");
    let later = v4_piece("10.0.0.1", "10.0.0.2", 17, 64, true, &[0; 64]);
    let later = framed(&later);
    assert!(ask(&Filter::parse(&format!("host {address} and udp")).expect("valid"), &later));
    assert!(!ask(&Filter::parse("port 0").expect("valid"), &later), "a later fragment has no ports");
}
