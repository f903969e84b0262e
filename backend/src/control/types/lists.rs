//! Entries of a port's ACL and its extended rules: as they are asked for (`…Spec`) and as they are shown (`…View`).

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

/// An entry of a port's ACL. Exactly one of `local` and `remote` is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AclSpec {
    /// `allow`, `deny` or `meter`.
    pub action: String,
    /// `in`, `out` or `both`, which stands for two entries; out = the guest sends.
    pub direction: String,
    /// The guest's own address: an IP address, an IP prefix, a MAC address, `any` (IPv4 and IPv6) or `any-mac`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// Its peer's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
}

/// An entry of a port's ACL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AclView {
    /// `allow`, `deny` or `meter`.
    pub action: String,
    /// `in` or `out`.
    pub direction: String,
    /// The guest's own address, if the entry is about that.
    pub local: Option<String>,
    /// Its peer's address, if the entry is about that.
    pub remote: Option<String>,
    /// Packets that were denied or metered; `null` for `allow`, which does not count.
    pub packets: Option<u64>,
    /// Bytes of those packets.
    pub bytes: Option<u64>,
}

/// An extended rule; what is left out matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// `allow` or `deny`.
    pub action: String,
    /// `in` or `out`; out = the guest sends.
    pub direction: String,
    /// 1 to 2147483647, unique in its direction; the heaviest rule that matches decides.
    pub weight: u64,
    /// The guest's own IP address or prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// Its peer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The guest's own TCP or UDP port, or ports such as `8000-8100`.
    #[serde(default, deserialize_with = "text_or_number", skip_serializing_if = "Option::is_none")]
    pub local_port: Option<String>,
    /// Its peer's.
    #[serde(default, deserialize_with = "text_or_number", skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<String>,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    #[serde(default, deserialize_with = "text_or_number", skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Allow with TCP or UDP only: the answers pass as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stateful: bool,
    /// Stateful only: for how long nothing may pass before the answers are no longer expected, `1s` to `24h` (default
    /// `30s`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
    /// The one VLAN (1 to 4094) or virtual subnet (4096 to 16777214) it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation_id: Option<u64>,
}

/// Which of a port's rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RuleKey {
    /// `in` or `out`.
    pub direction: String,
    /// Its weight.
    pub weight: u64,
}

/// An extended rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuleView {
    /// `allow` or `deny`.
    pub action: String,
    /// `in` or `out`.
    pub direction: String,
    /// Its weight.
    pub weight: u32,
    /// The guest's own IP address or prefix; `null` = any.
    pub local: Option<String>,
    /// Its peer's; `null` = any.
    pub remote: Option<String>,
    /// The guest's own ports; `null` = any.
    pub local_port: Option<String>,
    /// Its peer's ports; `null` = any.
    pub remote_port: Option<String>,
    /// Protocol; `null` = any.
    pub protocol: Option<String>,
    /// Whether the answers pass as well.
    pub stateful: bool,
    /// Stateful only: for how long nothing may pass before the answers are no longer expected.
    pub idle_timeout: Option<String>,
    /// The one VLAN or virtual subnet it is about; `null` = all.
    pub isolation_id: Option<u32>,
    /// Packets it decided.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
}

/// A text, or a number that stands for its text: `80` beside `"80-90"`, `6` beside `"tcp"`.
fn text_or_number<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    struct Either;
    impl serde::de::Visitor<'_> for Either {
        type Value = Option<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a text or a number")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(text.to_owned()))
        }

        fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
            Ok(Some(number.to_string()))
        }

        fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
            Ok(Some(number.to_string()))
        }
    }
    d.deserialize_any(Either)
}
