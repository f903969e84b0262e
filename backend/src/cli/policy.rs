//! POLICY options of `port add` and `port set`.

use clap::{Args, ValueEnum};

use crate::control::types::{LinkState, PolicyChange};

/// A switch that can be put back to its default.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnOff {
    On,
    Off,
    Default,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UpDown {
    Up,
    Down,
    Default,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Policy (the value 'default' restores the default)")]
pub(super) struct PolicyArgs {
    /// Let the guest send with source addresses other than its own [default: off].
    #[arg(long, value_enum, value_name = "on|off", hide_possible_values = true)]
    mac_spoofing: Option<OnOff>,

    /// Administrative link state: while down, the port neither sends nor receives [default: up].
    #[arg(long, value_enum, value_name = "up|down", hide_possible_values = true)]
    link: Option<UpDown>,
}

impl PolicyArgs {
    pub(super) fn change(&self) -> PolicyChange {
        PolicyChange {
            mac_spoofing: self.mac_spoofing.map(|v| match v {
                OnOff::On => Some(true),
                OnOff::Off => Some(false),
                OnOff::Default => None,
            }),
            link: self.link.map(|v| match v {
                UpDown::Up => Some(LinkState::Up),
                UpDown::Down => Some(LinkState::Down),
                UpDown::Default => None,
            }),
            ..PolicyChange::default()
        }
    }
}
