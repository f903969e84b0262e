//! Writes fields in ascending order, those of newer versions in their places.

use crate::state::UnknownField;

/// An entry of a list, as bytes. The other half is [`super::read::Record`].
pub(super) trait Bytes {
    /// Appends it.
    fn write(&self, out: &mut Vec<u8>);
}

/// The fields of one group.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    all_unknown: &'a [UnknownField],
    group: u16,
    /// Fields of this group below have been written.
    below: u32,
}

impl<'a> Writer<'a> {
    /// Writes the fields of a group (0 = top level) at the end of `out`.
    pub(super) fn new(out: &'a mut Vec<u8>, all_unknown: &'a [UnknownField], group: u16) -> Self {
        Self { out, all_unknown, group, below: 0 }
    }

    /// A field and what `content` appends.
    pub(super) fn put(&mut self, number: u16, content: impl FnOnce(&mut Vec<u8>)) {
        self.unknown_below(u32::from(number));
        field(self.out, number, content);
    }

    /// A field with the fields of a group in it.
    pub(super) fn group(&mut self, number: u16, content: impl FnOnce(&mut Writer<'_>)) {
        let all_unknown = self.all_unknown;
        self.put(number, |out| {
            let mut group = Writer::new(out, all_unknown, number);
            content(&mut group);
            group.finish();
        });
    }

    /// A field with a list in it.
    pub(super) fn list(&mut self, number: u16, list: &[impl Bytes]) {
        self.put(number, |out| list.iter().for_each(|entry| entry.write(out)));
    }

    /// A truth value.
    pub(super) fn flag(&mut self, number: u16, value: bool) {
        self.put(number, |out| out.push(u8::from(value)));
    }

    /// A number.
    pub(super) fn u32(&mut self, number: u16, value: u32) {
        self.put(number, |out| out.extend_from_slice(&value.to_le_bytes()));
    }

    /// A text.
    pub(super) fn text(&mut self, number: u16, text: &str) {
        self.put(number, |out| out.extend_from_slice(text.as_bytes()));
    }

    /// To be called last.
    pub(super) fn finish(mut self) {
        self.unknown_below(1 << 16);
    }

    /// Writes what newer versions have below a number. They ascend, as `decode` left them; if not, `encode` finds out.
    fn unknown_below(&mut self, number: u32) {
        let due = self.below..number;
        for UnknownField { group, number, bytes } in self.all_unknown {
            if *group == self.group && due.contains(&u32::from(*number)) {
                field(self.out, *number, |out| out.extend_from_slice(bytes));
            }
        }
        self.below = number;
    }
}

fn field(out: &mut Vec<u8>, number: u16, content: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&number.to_le_bytes());
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    content(out);
    // A length that does not fit is found by `encode`: the whole is too large then.
    let length = (out.len() - at - 4) as u32;
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&length.to_le_bytes());
    }
}
