//! States made by hand, by nothing but the format's documentation: what the crate reads and writes is held against this.

/// Bytes before the first field.
const HEADER: usize = 20;

/// Number and content of each field of a group.
pub(crate) type Fields = Vec<(u16, Vec<u8>)>;

/// The fields of a group.
pub(crate) fn fields(mut bytes: &[u8]) -> Fields {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let number = u16::from_le_bytes([bytes[0], bytes[1]]);
        let length = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]) as usize;
        fields.push((number, bytes[6..6 + length].to_vec()));
        bytes = &bytes[6 + length..];
    }
    fields
}

/// The bytes of a group.
pub(crate) fn group(fields: &Fields) -> Vec<u8> {
    let field = |(number, content): &(u16, Vec<u8>)| {
        [&number.to_le_bytes()[..], &(content.len() as u32).to_le_bytes(), content].concat()
    };
    fields.iter().flat_map(field).collect()
}

/// The top-level fields of a state.
pub(crate) fn top(state: &[u8]) -> Fields {
    fields(&state[HEADER..])
}

/// The state of a version with these bytes for its fields.
pub(crate) fn state(version: (u16, u16), content: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x89TPST\r\n\x1a".to_vec();
    bytes.extend_from_slice(&version.0.to_le_bytes());
    bytes.extend_from_slice(&version.1.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(content);
    repair(&mut bytes);
    bytes
}

/// Sets length and checksum to what they should be.
pub(crate) fn repair(state: &mut [u8]) {
    let length = state.len() as u32;
    state[12..16].copy_from_slice(&length.to_le_bytes());
    let sum = crc32(state[..16].iter().chain(&state[HEADER..]));
    state[16..20].copy_from_slice(&sum.to_le_bytes());
}

/// CRC-32 (IEEE 802.3), bit by bit.
fn crc32<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    })
}

/// The state after a change to the fields at the top level (group 0) or in a group.
pub(crate) fn edited(bytes: &[u8], in_group: u16, edit: impl FnOnce(&mut Fields)) -> Vec<u8> {
    let mut all = top(bytes);
    if in_group == 0 {
        edit(&mut all);
    } else {
        let (_, content) = all.iter_mut().find(|(number, _)| *number == in_group).unwrap();
        let mut inner = fields(content);
        edit(&mut inner);
        *content = group(&inner);
    }
    state((1, 0), &group(&all))
}

/// The state with this content of a field, which is added in its place if it is not there.
pub(crate) fn with(bytes: &[u8], in_group: u16, number: u16, content: &[u8]) -> Vec<u8> {
    edited(bytes, in_group, |fields| {
        fields.retain(|(other, _)| *other != number);
        fields.push((number, content.to_vec()));
        fields.sort();
    })
}

/// The state with a change to the content of a field.
pub(crate) fn changed(
    bytes: &[u8],
    in_group: u16,
    number: u16,
    change: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    edited(bytes, in_group, |fields| {
        change(&mut fields.iter_mut().find(|(other, _)| *other == number).unwrap().1);
    })
}

/// The state without a field.
pub(crate) fn without(bytes: &[u8], in_group: u16, number: u16) -> Vec<u8> {
    edited(bytes, in_group, |fields| fields.retain(|(other, _)| *other != number))
}
