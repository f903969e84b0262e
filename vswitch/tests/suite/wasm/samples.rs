//! The extensions of examples/extensions, compiled as their first comments say. Where there is no compiler they are skipped.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use vswitch::extension::wasm::{Limits, Module};
use vswitch::extension::{Answer, Change, Effects, Extension, Judgement, Reason, Scope, Sight};
use vswitch::port::PortKind;
use vswitch::{Direction, PortId};

use crate::support::{SECOND, mac_of};

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/extensions")
}

/// Compiles a sample with the build line in its own first comment.
fn compiled(name: &str) -> Option<Vec<u8>> {
    let text = std::fs::read_to_string(samples().join(format!("{name}.c"))).expect("the sample");
    let line = text.lines().find_map(|line| line.strip_prefix(" *   clang ")).expect("its build line");
    let clang = ["clang", "clang-19", "clang-16", "clang-14"];
    let works = |clang: &&&str| Command::new(clang).arg("--version").output().is_ok();
    let Some(clang) = clang.iter().find(works) else {
        let say = format!("skipped: {name}: no clang; apt-get install -y --no-install-recommends clang lld");
        let _ = writeln!(std::io::stderr(), "{say}");
        return None;
    };
    let out = std::env::temp_dir().join(format!("turnpike-{}-{name}.wasm", std::process::id()));
    let words = line.split(' ').map(|word| match word {
        word if word.ends_with(".wasm") => out.display().to_string(),
        word => word.to_owned(),
    });
    let done =
        Command::new(clang).args(words).args(["-Wall", "-Wextra", "-Werror"]).current_dir(samples()).output();
    let done = done.expect("clang ran");
    let errors = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() && errors.contains("wasm-ld") && errors.contains("unable to execute") {
        let _ = writeln!(std::io::stderr(), "skipped: {name}: no linker; apt-get install -y lld");
        return None;
    }
    assert!(done.status.success(), "{errors}");
    let bytes = std::fs::read(&out).expect("the module");
    let _ = std::fs::remove_file(&out);
    Some(bytes)
}

/// A UDP or TCP frame of 64 bytes to a port; with a VLAN tag, over IPv6, or as a later fragment.
fn frame(protocol: u8, port: u16, how: &str) -> Vec<u8> {
    let mut frame = [mac_of(2).0, mac_of(1).0].concat();
    if how == "tagged" {
        frame.extend([0x81, 0, 0, 7]);
    }
    if how == "ipv6" {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol, 64]);
        frame.extend([0xfd; 32]);
    } else {
        let offset = u8::from(how == "fragment");
        frame.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0, offset, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    }
    frame.extend([0x9c, 0x40]);
    frame.extend(port.to_be_bytes());
    frame.resize(frame.len().max(60) + 4, 0);
    frame
}

fn judge(extension: &dyn Extension, from: u16, now: u64, frame: &[u8]) -> Answer {
    let sight = Sight::new(now, Direction::Out, PortId(from), frame, frame.len() as u32);
    extension.judge(&sight, &mut Effects::default())
}

#[test]
fn s15_the_port_filter_drops_what_its_settings_list() {
    let Some(bytes) = compiled("port-filter") else { return };
    let module = Module::new(&bytes).expect("a module");
    let start = || module.start(&json!({"ports": [25, 53, 65535]}), &Limits::default()).expect("it starts");
    let one = start();
    assert_eq!(one.reasons(), ["listed-port"]);
    assert!(one.judges(Direction::Out) && !one.judges(Direction::In));
    for how in ["plain", "tagged", "ipv6"] {
        for (protocol, port, drops) in [
            (6, 25, true),
            (17, 53, true),
            (17, 65535, true),
            (6, 26, false),
            (17, 54, false),
            (1, 53, false),
        ] {
            let answer = judge(&*one, 1, 5, &frame(protocol, port, how));
            let expected = if drops { Answer::drop(Reason(0)) } else { Answer::PASS };
            assert_eq!(answer, expected, "{how} {protocol} {port}");
        }
    }
    assert_eq!(judge(&*one, 1, 5, &frame(17, 53, "fragment")), Answer::PASS);
    assert_eq!(judge(&*one, 1, 5, &[0; 14]), Answer::PASS);
    assert_eq!(one.status(Some(PortId(1))), json!({"dropped-flows": 9}));
    assert_eq!(one.status(None), json!({"dropped-flows": 9}));

    let saved = one.save(9, PortId(1)).expect("a state");
    let other = start();
    assert_eq!(other.restore(9, PortId(4), &saved), Ok(()));
    assert_eq!(other.status(Some(PortId(4))), json!({"dropped-flows": 9}));
    for foreign in [&saved[1..], &b"PFLT0002\0\0\0\0\0\0\0\0"[..], b""] {
        let refused = other.restore(9, PortId(4), foreign).expect_err("foreign").to_string();
        assert_eq!(refused, "this is no state of port-filter");
    }
    other
        .change(9, &Change::PortCreate { port: PortId(4), name: "new", kind: PortKind::Guest })
        .expect("no veto");
    assert_eq!(other.status(Some(PortId(4))), json!({"dropped-flows": 0}));

    for wrong in [
        json!({"ports": [65536]}),
        json!({"ports": "25"}),
        json!({"ports": [1.5]}),
        json!({"ports": [-1]}),
        json!({"port": [25]}),
        json!({"ports": [[25]]}),
        json!({"ports": vec![1; 65]}),
        json!([]),
        Value::from(7),
    ] {
        let refused = one.set(None, Some(&wrong)).expect_err("wrong").to_string();
        assert_eq!(refused, "'ports' has to be a list of at most 64 numbers, each 0 to 65535", "{wrong}");
        assert_eq!(
            judge(&*one, 1, 5, &frame(17, 53, "plain")),
            Answer::drop(Reason(0)),
            "the earlier ones stay"
        );
    }
    let refused = one.set(Some(PortId(1)), Some(&json!({}))).expect_err("of a port").to_string();
    assert_eq!(refused, "the list is the switch's; a port has no settings");
    let mut effects = Effects::default();
    one.set(None, None).expect("none any more");
    let head = frame(17, 53, "plain");
    assert_eq!(one.judge(&Sight::new(5, Direction::Out, PortId(1), &head, 64), &mut effects), Answer::PASS);
    assert!(effects.take_refresh(), "answers of the old list stand no longer");
}

#[test]
fn s15_the_frame_limit_lets_so_many_frames_a_second_pass() {
    let Some(bytes) = compiled("frame-limit") else { return };
    let module = Module::new(&bytes).expect("a module");
    let config = json!({"frames-per-second": 1000});
    let one = module.start(&config, &Limits::default()).expect("it starts");
    one.set(Some(PortId(2)), Some(&json!({"frames-per-second": 5}))).expect("settings");
    let head = frame(17, 9, "plain");
    let passed = |port, frames: u64| {
        let each = 10 * SECOND / frames;
        let pass = |n: &u64| judge(&*one, port, SECOND + n * each, &head) == Answer::PASS_ONE;
        (0..frames).filter(pass).count()
    };
    assert_eq!(passed(1, 5000), 5000, "half of what it may");
    let (fast, slow) = (passed(3, 100_000), passed(2, 1000));
    assert!((10_000..=10_110).contains(&fast), "{fast}");
    assert!((50..=52).contains(&slow), "{slow}");
    assert_eq!(one.status(Some(PortId(3))), json!({"dropped": 100_000 - fast}));
    let drop = Answer { judgement: Judgement::Drop(Reason(0)), scope: Scope::Frame };
    let mut storm = (0..200).map(|_| judge(&*one, 4, 100 * SECOND, &head));
    assert_eq!(storm.by_ref().take_while(|answer| *answer == Answer::PASS_ONE).count(), 101);
    assert!(storm.all(|answer| answer == drop));
    let refused = one.set(None, Some(&json!({"frames-per-second": 0}))).expect_err("none").to_string();
    assert_eq!(refused, "'frames-per-second' has to be 1 to 100000000");
}
