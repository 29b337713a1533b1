//! Numbers of a herd: slots, channels, and sets of slots.

use crate::layout::MAX_SLOTS;

/// A participant's place in its herd; it outlives incarnations.
pub type Slot = u16;

/// The supervisor's own slot.
pub const SUPERVISOR: Slot = 0;

/// A channel's number in its herd; it never changes and is never used again while the herd lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u16);

const WORDS: usize = MAX_SLOTS / 64;

/// A set of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct SlotSet(pub(crate) [u64; WORDS]);

impl SlotSet {
    /// The empty set.
    pub const EMPTY: SlotSet = SlotSet([0; WORDS]);

    /// The set of one slot; empty when there is no such slot.
    pub fn of(slot: Slot) -> SlotSet {
        let mut set = SlotSet::EMPTY;
        set.set(slot, true);
        set
    }

    /// Whether `slot` is in the set.
    #[inline]
    pub fn contains(&self, slot: Slot) -> bool {
        self.0.get(usize::from(slot) / 64).is_some_and(|word| word & bit(slot) != 0)
    }

    /// Puts `slot` in or takes it out; a number beyond the last slot is ignored.
    pub fn set(&mut self, slot: Slot, member: bool) {
        if let Some(word) = self.0.get_mut(usize::from(slot) / 64) {
            *word = if member { *word | bit(slot) } else { *word & !bit(slot) };
        }
    }

    /// Whether nobody is in the set.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    /// How many slots are in the set.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Adds every slot of `other`.
    #[inline]
    pub(crate) fn add_all(&mut self, other: &SlotSet) {
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    /// The slots in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + use<> {
        let words = self.0;
        (0..WORDS).flat_map(move |index| Bits(words[index]).map(move |bit| (index * 64) as Slot + bit))
    }

    /// Calls `each` for every slot in ascending order; what the hot path uses.
    #[inline]
    pub(crate) fn for_each(&self, mut each: impl FnMut(Slot)) {
        for (index, &word) in self.0.iter().enumerate() {
            let mut left = word;
            while left != 0 {
                each((index * 64) as Slot + left.trailing_zeros() as Slot);
                left &= left - 1;
            }
        }
    }
}

fn bit(slot: Slot) -> u64 {
    1 << (slot % 64)
}

struct Bits(u64);

impl Iterator for Bits {
    type Item = Slot;

    fn next(&mut self) -> Option<Slot> {
        let bit = (self.0 != 0).then(|| self.0.trailing_zeros() as Slot)?;
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_tells_its_slots_in_order_and_ignores_numbers_beyond_the_last() {
        let mut set = SlotSet::EMPTY;
        for slot in [255, 0, 64, 63, 256, 9999] {
            set.set(slot, true);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 255]);
        let mut seen = Vec::new();
        set.for_each(|slot| seen.push(slot));
        assert_eq!(seen, [0, 63, 64, 255]);
        set.set(64, false);
        assert!(!set.contains(64) && set.contains(63) && set.len() == 3 && !set.contains(9999));
    }
}
