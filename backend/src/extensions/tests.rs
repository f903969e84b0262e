//! Streams against real sockets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vswitch::extension::stream::Tls;
use vswitch::extension::{Extension, FailMode, Kind, Peer, Slot, Stack};

use super::streams::{MOST_WAITING, News, Streams, Wake, check};

/// It has one peer.
#[derive(Debug)]
struct Caller(Peer);

impl Extension for Caller {
    fn kind(&self) -> Kind {
        Kind::Capture
    }

    fn peers(&self) -> Vec<Peer> {
        vec![self.0.clone()]
    }
}

struct Scene {
    streams: Streams,
    stack: Stack,
    wake: Wake,
    listener: TcpListener,
}

impl Scene {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let caller = Arc::new(Caller(Peer { address, tls: None }));
        let stack = Stack::new(vec![Slot::new("caller", caller, FailMode::Open, &[])]).expect("one");
        let mut streams = Streams::default();
        streams.follow(&stack);
        Self { streams, stack, wake: Wake::new().expect("a descriptor"), listener }
    }

    /// Serves until something is heard.
    fn news(&mut self) -> Vec<News> {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if let Some((_, 0, news)) = self.streams.serve(0) {
                return news;
            }
            self.streams.sleep(&self.wake, Some(Duration::from_millis(100)));
        }
        panic!("nothing was heard");
    }

    fn opened(&mut self) -> TcpStream {
        let news = self.news();
        assert!(matches!(news.as_slice(), [News::Opened]), "{news:?}");
        self.listener.accept().expect("a caller").0
    }
}

#[test]
fn s15_a_peer_is_dialled_heard_answered_and_dialled_again() {
    let mut scene = Scene::new();
    let mut peer = scene.opened();
    peer.write_all(b"hello").expect("said");
    let news = scene.news();
    assert!(matches!(news.as_slice(), [News::Bytes(bytes)] if bytes == b"hello"), "{news:?}");
    assert!(scene.streams.say("caller", 0, b"you too", false));
    assert!(!scene.streams.say("nobody", 0, b"", false) && !scene.streams.say("caller", 1, b"", false));
    assert!(scene.streams.serve(0).is_none());
    let mut said = [0; 7];
    peer.read_exact(&mut said).expect("an answer");
    assert_eq!(&said, b"you too");
    drop(peer);
    let news = scene.news();
    assert!(matches!(news.as_slice(), [News::Closed(_)]), "{news:?}");
    assert!(!scene.streams.say("caller", 0, b"lost", false), "nobody is there");
    let began = Instant::now();
    let mut again = scene.opened();
    assert!(began.elapsed() > Duration::from_millis(900), "after {:?}", began.elapsed());
    assert!(scene.streams.say("caller", 0, b"bye", true));
    let news = scene.news();
    assert!(matches!(news.as_slice(), [News::Closed(why)] if why == "hung up"), "{news:?}");
    let mut all = Vec::new();
    again.read_to_end(&mut all).expect("its end");
    assert_eq!(all, b"bye", "what was said before the end arrives, and nothing of before");
}

#[test]
fn h21_a_peer_that_does_not_read_costs_no_more_than_its_share() {
    let mut scene = Scene::new();
    let _peer = scene.opened();
    let much = vec![7; 1 << 20];
    let mut taken = 0;
    while scene.streams.say("caller", 0, &much, false) {
        taken += much.len();
        assert!(taken <= MOST_WAITING + (64 << 20), "{taken} bytes wait");
    }
    let news = scene.news();
    assert!(matches!(news.as_slice(), [News::Closed(why)] if why.contains("does not read")), "{news:?}");
    scene.streams.follow(&Stack::default());
    assert_eq!(scene.streams.len(), 0, "the extension is gone, and so is the stream");
    scene.streams.follow(&scene.stack);
    assert_eq!(scene.streams.len(), 1);
}

#[test]
fn s15_files_that_are_no_certificates_are_refused_by_name() {
    let address = "192.0.2.1:6653".parse().expect("an address");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let tls = |path: &std::path::Path| Tls {
        ca: path.to_owned(),
        certificate: path.to_owned(),
        key: path.to_owned(),
        server_name: None,
    };
    for path in [std::path::Path::new("/nowhere/switch.pem"), file.path()] {
        let why = check(&[Peer { address, tls: Some(tls(path)) }]).expect_err("refused");
        assert!(why.contains(&path.display().to_string()) && why.contains("PEM"), "{why}");
    }
    assert_eq!(check(&[Peer { address, tls: None }]), Ok(()));
}
