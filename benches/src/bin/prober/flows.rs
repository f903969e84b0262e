//! Many conversations begun: one datagram to each of many ports, so that a switch which follows connections has as many to remember.

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::Words;

/// Sends one datagram to each of `--count` ports of `--to` from `--from`, at about 10,000 a second; its report.
pub(crate) fn run(options: &Words) -> Result<String, String> {
    let (to, from): (IpAddr, IpAddr) = (options.get("to")?, options.get("from")?);
    let count: u16 = options.get("count")?;
    let socket = UdpSocket::bind((from, 0)).map_err(|e| format!("cannot bind: {e}"))?;
    for n in 0..count {
        // Refusals of an earlier one are reported here and mean nothing; a second attempt is not refused for that.
        if socket.send_to(b"flow", (to, 20_000 + n)).is_err() {
            socket.send_to(b"flow", (to, 20_000 + n)).map_err(|e| format!("flow {n}: {e}"))?;
        }
        if n % 16 == 15 {
            thread::sleep(Duration::from_micros(1600));
        }
    }
    Ok(format!(r#"{{"flows":{count}}}"#))
}
