//! Rings of both layouts against drivers that know the specification and nothing of the device's code.
//!
//! `driver` is the guest's side of a split ring and its memory, with canaries around every region. `transmit` and `receive` run random
//! operations and compare everything the driver can see with a trivial model; `hostile` breaks the rules. `packed` has the same for packed
//! rings.

mod driver;
mod hostile;
mod log;
mod packed;
mod receive;
mod transmit;
