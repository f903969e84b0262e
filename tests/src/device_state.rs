//! The state of a guest's port, as its front end takes it from one switch and gives it to another.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::guest::Guest;
use crate::message::{self, Channel, Message};

/// Direction of a transfer: from the switch.
pub const SAVE: u32 = 0;
/// Direction of a transfer: to the switch.
pub const LOAD: u32 = 1;

/// A pipe, its reading end first. No switch that another test starts meanwhile may inherit it: its end would never come.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

impl Channel {
    /// Hands over a descriptor for a transfer of state; whether the switch took it.
    pub fn device_state_fd(&self, direction: u32, fd: impl AsFd) -> io::Result<()> {
        let reply =
            self.ask(&Message::new(message::SET_DEVICE_STATE_FD).words32(&[direction, 0]).fd(fd))?.word64(0);
        // The switch goes on with the descriptor it got: none comes back.
        if reply == message::NO_FD {
            Ok(())
        } else {
            Err(io::Error::other("a transfer of state was refused"))
        }
    }

    /// Asks how the transfer went.
    pub fn check_device_state(&self) -> io::Result<()> {
        match self.ask_u64(message::CHECK_DEVICE_STATE)? {
            0 => Ok(()),
            code => Err(io::Error::other(format!("the transfer of state failed: {code}"))),
        }
    }

    /// The state of the port.
    pub fn save_state(&self) -> io::Result<Vec<u8>> {
        let (reader, writer) = pipe()?;
        self.device_state_fd(SAVE, &writer)?;
        drop(writer);
        let mut bytes = Vec::new();
        File::from(reader).read_to_end(&mut bytes)?;
        self.check_device_state().map(|()| bytes)
    }

    /// Gives the port a state.
    pub fn load_state(&self, bytes: &[u8]) -> io::Result<()> {
        let (reader, writer) = pipe()?;
        self.device_state_fd(LOAD, &reader)?;
        drop(reader);
        // A switch that refuses does not read on.
        let _ = File::from(writer).write_all(bytes);
        self.check_device_state()
    }
}

impl Guest {
    /// Stops the rings and takes the state of the port.
    pub fn leave(&mut self) -> io::Result<Vec<u8>> {
        self.stop()?;
        self.channel().save_state()
    }
}
