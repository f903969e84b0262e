//! virtio-net features by name.

const NAMES: [(&str, u32); 14] = [
    ("csum", 0),
    ("guest-csum", 1),
    ("mtu", 3),
    ("guest-tso4", 7),
    ("guest-tso6", 8),
    ("guest-ecn", 9),
    ("tso4", 11),
    ("tso6", 12),
    ("ecn", 13),
    ("mrg-rxbuf", 15),
    ("guest-announce", 21),
    ("mq", 22),
    ("indirect", 28),
    ("event-idx", 29),
];

/// Every feature a port may offer.
pub const DEFAULT: u64 = {
    let (mut bits, mut i) = (0, 0);
    while i < NAMES.len() {
        bits |= 1 << NAMES[i].1;
        i += 1;
    }
    bits
};

/// Reads a comma-separated list of feature names.
pub fn parse_list(list: &str) -> Result<u64, String> {
    list.split(',').map(str::trim).filter(|n| !n.is_empty()).try_fold(0, |bits, name| {
        let (_, bit) =
            NAMES.iter().find(|(n, _)| *n == name).ok_or_else(|| format!("'{name}' is not known"))?;
        Ok(bits | 1 << bit)
    })
}

/// The names of the features in `bits`.
pub fn names(bits: u64) -> Vec<&'static str> {
    NAMES.iter().filter(|(_, bit)| bits >> bit & 1 != 0).map(|(name, _)| *name).collect()
}
