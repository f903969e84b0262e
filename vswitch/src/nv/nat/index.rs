//! A chained hash index over slots that somebody else keeps: never grows, is never rehashed.

/// The end of a chain.
const NIL: u32 = u32::MAX;

/// Chains of slots.
#[derive(Debug)]
pub(super) struct Index {
    heads: Box<[u32]>,
    next: Box<[u32]>,
}

impl Index {
    /// An index of `slots` slots, which are numbers below that.
    pub(super) fn new(slots: usize) -> Self {
        let chains = slots.next_power_of_two();
        Self { heads: vec![NIL; chains].into_boxed_slice(), next: vec![NIL; slots].into_boxed_slice() }
    }

    fn chain(&self, hash: u64) -> usize {
        hash as usize & (self.heads.len() - 1)
    }

    /// The slot in a hash's chain that `is` says is the one.
    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = *self.heads.get(self.chain(hash))?;
        while at != NIL && !is(at) {
            at = *self.next.get(at as usize)?;
        }
        (at != NIL).then_some(at)
    }

    /// Adds a slot that is in no chain.
    pub(super) fn insert(&mut self, hash: u64, slot: u32) {
        let chain = self.chain(hash);
        if let (Some(head), Some(next)) = (self.heads.get_mut(chain), self.next.get_mut(slot as usize)) {
            *next = std::mem::replace(head, slot);
        }
    }

    /// Takes a slot out of its hash's chain.
    pub(super) fn remove(&mut self, hash: u64, slot: u32) {
        let chain = self.chain(hash);
        let Some(after) = self.next.get(slot as usize).copied() else { return };
        let Some(mut at) = self.heads.get(chain).copied() else { return };
        if at == slot {
            if let Some(head) = self.heads.get_mut(chain) {
                *head = after;
            }
            return;
        }
        while let Some(next) = self.next.get_mut(at as usize) {
            if *next == slot {
                *next = after;
                return;
            }
            at = *next;
        }
    }
}
