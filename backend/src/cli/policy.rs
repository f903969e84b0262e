//! POLICY options of `port add` and `port set`, and a policy as it is shown.

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

use super::value::{Count, OnOff, OrDefault, Text};
use crate::control::types::{LinkState, Policy, PolicyChange};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UpDown {
    Up,
    Down,
    Default,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MirrorMode {
    None,
    Source,
    Destination,
    Default,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Policy (the value 'default' restores the default)")]
pub(super) struct PolicyArgs {
    /// VLAN mode: none, access:ID, trunk:LIST[/NATIVE], isolated:PRI/SEC, community:PRI/SEC or
    /// promiscuous:PRI/SEC[,SEC…]; lists are such as 1-100,200 [default: none].
    #[arg(long, value_name = "MODE")]
    vlan: Option<Text>,

    /// Virtual subnet, 4096 to 16777214, or none; excludes a VLAN mode [default: none].
    #[arg(long, value_name = "VSID")]
    vsid: Option<Vsid>,

    /// Guest port: let the guest send with source addresses other than its own [default: off].
    #[arg(long, value_enum, value_name = "on|off", hide_possible_values = true)]
    mac_spoofing: Option<OnOff>,

    /// Guest port: the virtual machine it belongs to, by a name of your choice [default: not known].
    #[arg(long, value_name = "NAME")]
    vm: Option<Text>,

    /// Guest port: let the guest use the addresses of the other teaming ports of its virtual machine; needs --vm
    /// [default: off].
    #[arg(long, value_enum, value_name = "on|off", hide_possible_values = true)]
    teaming: Option<OnOff>,

    /// Drop what a DHCP server would send [default: off].
    #[arg(long, value_enum, value_name = "on|off", hide_possible_values = true)]
    dhcp_guard: Option<OnOff>,

    /// Drop router advertisements and redirects that the port sends [default: off].
    #[arg(long, value_enum, value_name = "on|off", hide_possible_values = true)]
    router_guard: Option<OnOff>,

    /// IP addresses or prefixes the port owns: it cannot send from others, nor claim them in ARP and neighbour
    /// discovery [default: any].
    #[arg(long, value_name = "IP[,IP…]|any", value_delimiter = ',')]
    addresses: Option<Vec<String>>,

    /// IP addresses it may use at most beside those it owns, 1 to 1024, or none [default: none].
    #[arg(long, value_name = "N")]
    address_limit: Option<Count>,

    /// Broadcast, multicast and unknown unicast frames it may send in a second, or none [default: none].
    #[arg(long, value_name = "PPS")]
    storm_limit: Option<Count>,

    /// Extensions without which the port has no connectivity, or none [default: none].
    #[arg(long, value_name = "NAME[,NAME…]|none", value_delimiter = ',')]
    require_extension: Option<Vec<String>>,

    /// Copy every frame of a source to every destination [default: none].
    #[arg(long, value_enum, value_name = "none|source|destination", hide_possible_values = true)]
    mirror: Option<MirrorMode>,

    /// Keep the 802.1p priority that the port sends; it is reset to 0 otherwise [default: off].
    #[arg(long, value_enum, value_name = "on|off", hide_possible_values = true)]
    priority_tag: Option<OnOff>,

    /// Administrative link state: while down, the port neither sends nor receives [default: up].
    #[arg(long, value_enum, value_name = "up|down", hide_possible_values = true)]
    link: Option<UpDown>,
}

/// A number, `none` or `default`, which are the same.
#[derive(Clone, Copy, Debug)]
struct Vsid(Option<u64>);

impl std::str::FromStr for Vsid {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let s = if s == "none" { "default" } else { s };
        s.parse::<OrDefault>().map(|n| Self(n.0)).map_err(|_| "write a number, 'none' or 'default'".into())
    }
}

impl PolicyArgs {
    pub(super) fn change(&self) -> PolicyChange {
        let on_off = |given: Option<OnOff>| given.map(OnOff::change);
        let text = |given: &Option<Text>| given.as_ref().map(|text| text.0.clone());
        PolicyChange {
            vlan: text(&self.vlan),
            vsid: self.vsid.map(|id| id.0),
            mac_spoofing: on_off(self.mac_spoofing),
            vm: text(&self.vm),
            teaming: on_off(self.teaming),
            dhcp_guard: on_off(self.dhcp_guard),
            router_guard: on_off(self.router_guard),
            addresses: self
                .addresses
                .clone()
                .map(|list| (list != ["any"] && list != ["default"]).then_some(list)),
            address_limit: self.address_limit.map(|n| n.0),
            storm_limit: self.storm_limit.map(|n| n.0),
            mirror: self.mirror.map(|mode| match mode {
                MirrorMode::None => Some("none".into()),
                MirrorMode::Source => Some("source".into()),
                MirrorMode::Destination => Some("destination".into()),
                MirrorMode::Default => None,
            }),
            require_extension: self
                .require_extension
                .clone()
                .map(|list| (list != ["none"] && list != ["default"]).then_some(list)),
            priority_tag: on_off(self.priority_tag),
            link: self.link.map(|v| match v {
                UpDown::Up => Some(LinkState::Up),
                UpDown::Down => Some(LinkState::Down),
                UpDown::Default => None,
            }),
        }
    }
}

/// Every setting of a policy by its option's name, as its option's value.
pub(super) fn settings(policy: &Policy) -> Vec<(String, String)> {
    let shown = |key: &str, value: &Value| match (key, value) {
        ("addresses", Value::Null) => "any".to_owned(),
        (_, Value::Null) => "none".into(),
        ("require_extension", Value::Array(names)) if names.is_empty() => "none".into(),
        ("address_limit" | "storm_limit", limit) if *limit == 0 => "none".into(),
        (_, Value::Bool(on)) => if *on { "on" } else { "off" }.into(),
        (_, Value::String(text)) => text.clone(),
        (_, Value::Array(items)) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        (_, other) => other.to_string(),
    };
    keys(policy).iter().map(|(key, value)| (key.replace('_', "-"), shown(key, value))).collect()
}

/// The settings that are not at their default, in one line.
pub(super) fn summary(policy: &Policy) -> String {
    let default = settings(&Policy::default());
    let other: Vec<_> = settings(policy).into_iter().filter(|setting| !default.contains(setting)).collect();
    if other.is_empty() {
        return "every setting is at its default".into();
    }
    other.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ")
}

fn keys(policy: &Policy) -> Map<String, Value> {
    match serde_json::to_value(policy) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}
