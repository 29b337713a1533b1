//! Writing into the own ring.

use crate::layout::{self, MARKS};
use crate::record::{Header, size_of};
use crate::slots::Slot;
use crate::sync::Ordering::Release;
use crate::sync::{OwnWords, fence};

/// The bytes that one record needs: what is left of the ring if it does not fit there, then itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) pad: u64,
    pub(crate) size: u64,
}

impl Need {
    #[inline]
    pub(crate) fn total(self) -> u64 {
        self.pad + self.size
    }
}

/// The writing end of a ring. Knows the memory's words only by the offsets of `slot`.
#[derive(Debug)]
pub(crate) struct RingWriter {
    slot: Slot,
    /// Where the words stand that every record moves; worked out once.
    head_word: usize,
    intent_word: usize,
    incarnation: u16,
    ring: u64,
    /// Where the next record goes. Shown to the readers by [`RingWriter::commit`].
    head: u64,
    /// The private limit: nothing from here on may be overwritten.
    gate: u64,
    /// Bits of a position within its eighth of the ring.
    part: u32,
    marked: u64,
    /// How far records follow each other with nothing else to do: there is room, no padding, and no new mark.
    straight: u64,
}

impl RingWriter {
    pub(crate) fn new(slot: Slot, incarnation: u32, ring: u64, base: u64) -> RingWriter {
        let part = ring.trailing_zeros() - MARKS.trailing_zeros();
        RingWriter {
            slot,
            head_word: layout::head(slot),
            intent_word: layout::intent(slot),
            incarnation: incarnation as u16,
            ring,
            head: base,
            gate: base,
            part,
            marked: u64::MAX,
            straight: base,
        }
    }

    #[inline]
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    #[inline]
    pub(crate) fn need(&self, payload: u64) -> Need {
        let size = size_of(payload);
        let left = self.ring - (self.head & (self.ring - 1));
        Need { pad: if size > left { left } else { 0 }, size }
    }

    #[inline]
    pub(crate) fn fits(&self, need: Need) -> bool {
        self.fits_behind(need, self.gate)
    }

    #[inline]
    pub(crate) fn fits_behind(&self, need: Need, gate: u64) -> bool {
        self.head + need.total() - gate <= self.ring
    }

    pub(crate) fn set_gate(&mut self, gate: u64) {
        self.gate = gate.min(self.head);
        self.look_straight();
    }

    /// The cursor that its slowest reader must reach for half a ring to be free.
    pub(crate) fn wanted(&self) -> u64 {
        self.head - self.ring / 2
    }

    /// Writes a record that [`RingWriter::fits`]; nobody sees it before [`RingWriter::commit`]. `header` is complete
    /// but for its position and incarnation. Its position.
    #[inline]
    pub(crate) fn write(
        &mut self,
        words: &impl OwnWords,
        need: Need,
        header: Header,
        prefix: Option<u128>,
        payload: &[u8],
    ) -> u64 {
        let (position, end) = (self.head + need.pad, self.head + need.total());
        self.announce(words, end);
        if need.pad > 0 {
            self.pad(words, need.pad);
        }
        let header = Header { position, incarnation: self.incarnation, ..header }.to_words();
        let at = layout::ring(position, self.ring);
        match prefix {
            None => words.store_all(at, header, payload),
            Some(prefix) => {
                let [a, b, c, d] = header;
                words.store_all(at, [a, b, c, d, prefix as u64, (prefix >> 64) as u64], payload);
            }
        }
        self.mark(words, position);
        self.head = end;
        self.look_straight();
        position
    }

    /// Writes a record like [`RingWriter::write`] if it follows straight on the last one; its position. The header is
    /// that of [`RingWriter::straight_header`] with the length, the tag and the number put in.
    #[inline(always)] // The one place where all of it comes together.
    pub(crate) fn write_straight(
        &mut self,
        words: &impl OwnWords,
        first: u64,
        third: u64,
        payload: &[u8],
    ) -> Option<u64> {
        let position = self.head;
        let end = position + size_of(payload.len() as u64);
        if end > self.straight {
            return None;
        }
        let at = layout::ring(position, self.ring);
        self.announce(words, end);
        words.store_all(at, [first, position, third, 0], payload);
        self.head = end;
        Some(position)
    }

    /// First and third word of the headers of a channel's messages, as far as they are always the same.
    pub(crate) fn straight_header(&self, header: Header) -> (u64, u64) {
        let [first, _, third, _] = Header { incarnation: self.incarnation, ..header }.to_words();
        (first, third)
    }

    #[inline]
    fn announce(&self, words: &impl OwnWords, end: u64) {
        words.store(self.intent_word, end);
        // Release: pairs with the Acquire fence in `RingReader::overtaken`. A reader that sees any byte written from
        // here on sees the intent as well.
        fence(Release);
    }

    /// Makes everything that was written exist.
    #[inline]
    pub(crate) fn commit(&self, words: &impl OwnWords) {
        // Release: pairs with the Acquire fence after a reader's load of the head.
        words.publish(self.head_word, self.head);
    }

    #[cold]
    fn pad(&mut self, words: &impl OwnWords, bytes: u64) {
        let header = Header::pad(self.head, bytes, self.incarnation).to_words();
        words.store_all(layout::ring(self.head, self.ring), header, &[]);
        self.mark(words, self.head);
    }

    /// Leaves word of the first border in each eighth of the ring.
    fn mark(&mut self, words: &impl OwnWords, position: u64) {
        let part = self.part_of(position);
        if self.marked != part {
            self.marked = part;
            words.store(layout::mark(self.slot, part as usize), position);
        }
    }

    fn part_of(&self, position: u64) -> u64 {
        (position & (self.ring - 1)) >> self.part
    }

    fn look_straight(&mut self) {
        let begun = self.part_of(self.head) == self.marked;
        let end_of_part = ((self.head >> self.part) + 1) << self.part;
        self.straight = if begun { end_of_part.min(self.gate + self.ring) } else { self.head };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;
    use crate::layout::RING_MIN;
    use crate::sync::Words;

    const RING: u64 = RING_MIN;

    /// An outbox of plain words.
    struct Plain(RefCell<Vec<u64>>);

    impl Plain {
        fn new() -> Plain {
            Plain(RefCell::new(vec![0; (layout::OUTBOX_HEAD + RING) as usize / 8]))
        }
    }

    impl Words for Plain {
        fn load(&self, word: usize) -> u64 {
            self.0.borrow()[word]
        }
    }

    impl OwnWords for Plain {
        fn store(&self, word: usize, value: u64) {
            self.0.borrow_mut()[word] = value;
        }
        fn publish(&self, word: usize, value: u64) {
            self.store(word, value);
        }
    }

    fn header(length: usize) -> Header {
        let header =
            Header { length: length as u32, kind: Header::KIND_MESSAGE, channel: 7, to: 0xffff, ..Header::default() };
        Header { sequence: 9, tag: 2, ..header }
    }

    proptest! {
        /// A record that is written straight on leaves the same memory as one that is written with all care.
        #[test]
        fn the_straight_way_writes_what_the_careful_way_writes(lengths in prop::collection::vec(0usize..5000, 1..200)) {
            let (careful, straight) = (Plain::new(), Plain::new());
            let mut writers = [RingWriter::new(3, 5, RING, RING), RingWriter::new(3, 5, RING, RING)];
            let mut ways = 0;
            for length in lengths {
                let payload: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
                let head = writers[0].head();
                writers.iter_mut().for_each(|writer| writer.set_gate(head));
                let [one, other] = &mut writers;
                let need = one.need(length as u64);
                one.write(&careful, need, header(length), None, &payload);
                one.commit(&careful);
                let (first, third) = other.straight_header(header(length));
                if other.write_straight(&straight, first, third, &payload).is_some() {
                    ways += 1;
                } else {
                    let need = other.need(length as u64);
                    other.write(&straight, need, header(length), None, &payload);
                }
                other.commit(&straight);
                prop_assert_eq!(one.head(), other.head());
            }
            prop_assert!(*careful.0.borrow() == *straight.0.borrow(), "after {} straight ones", ways);
        }
    }
}
