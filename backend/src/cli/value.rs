//! Values that several options share.

use std::str::FromStr;

use clap::ValueEnum;

/// A switch that can be put back to its default.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum OnOff {
    On,
    Off,
    Default,
}

impl OnOff {
    /// As a change in the API's sense: `None` restores the default.
    pub(super) fn change(self) -> Option<bool> {
        match self {
            Self::On => Some(true),
            Self::Off => Some(false),
            Self::Default => None,
        }
    }
}

/// A number, or `default`.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrDefault(pub(super) Option<u64>);

impl FromStr for OrDefault {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == "default" {
            return Ok(Self(None));
        }
        s.parse().map(|n| Self(Some(n))).map_err(|_| "write a number or 'default'".into())
    }
}

/// A count such as `500`, `64k`, `10M` or `1G`; `none` is 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count(pub(super) Option<u64>);

impl FromStr for Count {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        const WRONG: &str = "write a number such as 500, 64k or 10M, 'none' or 'default'";
        let factor = match s.as_bytes().last() {
            Some(b'k') => 1_000,
            Some(b'M') => 1_000_000,
            Some(b'G') => 1_000_000_000,
            _ => 1,
        };
        match s {
            "default" => Ok(Self(None)),
            "none" => Ok(Self(Some(0))),
            _ => {
                let digits = if factor == 1 { s } else { &s[..s.len() - 1] };
                let number: u64 = digits.parse().map_err(|_| WRONG)?;
                Ok(Self(Some(number.checked_mul(factor).ok_or(WRONG)?)))
            }
        }
    }
}

/// A text that the switch judges, or `default`.
#[derive(Clone, Debug)]
pub(super) struct Text(pub(super) Option<String>);

impl FromStr for Text {
    type Err = std::convert::Infallible;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(Self((s != "default").then(|| s.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_units_of_a_thousand() {
        let count = |s: &str| s.parse::<Count>().map(|c| c.0);
        assert_eq!(count("500"), Ok(Some(500)));
        assert_eq!(count("64k"), Ok(Some(64_000)));
        assert_eq!(count("10M"), Ok(Some(10_000_000)));
        assert_eq!((count("none"), count("default")), (Ok(Some(0)), Ok(None)));
        for wrong in ["", "k", "1kk", "-1", "1.5k", "99999999999999999999", "99999999999999999G"] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
    }
}
