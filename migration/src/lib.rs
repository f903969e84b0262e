//! What a port takes along when its guest migrates.
