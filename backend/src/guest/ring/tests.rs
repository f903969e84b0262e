//! The split ring against a driver that knows the specification and nothing of the device's code.
//!
//! `driver` is the guest's side and its memory, with canaries around every region. `transmit` and `receive` run random
//! operations and compare everything the driver can see with a trivial model; `hostile` breaks the rules.

mod driver;
mod hostile;
mod log;
mod receive;
mod transmit;
