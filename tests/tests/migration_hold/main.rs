//! A guest on the move, as the data path sees it: frames wait for it, or follow it.

mod hold;
mod rig;
mod uplink;
