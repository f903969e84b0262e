//! The fleet key: 32 random bytes in a file that only its owner reads, the same on every host of the fleet.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use migration::seal::FleetKey;
use vswitch::refusal::{Object, Refusal, Refused};

/// Bytes of a key.
const LENGTH: usize = FleetKey::LENGTH;

/// Reads a key. A file that others may read or write is no secret, and is refused.
pub fn read_key(path: &Path) -> Result<FleetKey, Refused> {
    let refuse = |reason: String| Refusal::BadFleetKey { reason }.of(object(path));
    let io = |e: std::io::Error| refuse(format!("it cannot be read: {e}"));
    let mut file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(refuse(format!("its mode {mode:o} lets others than its owner use it")));
    }
    let own = nix::unistd::geteuid().as_raw();
    if metadata.uid() != own && metadata.uid() != 0 {
        return Err(refuse(format!("it belongs to uid {}", metadata.uid())));
    }
    // One more than a key has, so that a longer file is seen as one.
    let mut bytes = Vec::new();
    Read::take(&mut file, LENGTH as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    FleetKey::from_bytes(&bytes).map_err(|e| refuse(e.to_string()))
}

/// Makes a new key in a file that does not exist yet.
pub fn new_key(path: &Path) -> Result<(), Refused> {
    let io = |e: std::io::Error| {
        Refusal::BadFleetKey { reason: format!("it cannot be made: {e}") }.of(object(path))
    };
    let mut bytes = [0; LENGTH];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).map_err(io)?;
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io)
}

fn object(path: &Path) -> Object {
    Object::File { path: path.to_string_lossy().into_owned(), line: None }
}
