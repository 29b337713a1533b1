//! Writing into the own ring.

use crate::layout::{self, MARKS};
use crate::record::{Header, size_of};
use crate::slots::Slot;
use crate::sync::Ordering::Release;
use crate::sync::{OwnWords, fence};

/// How far ahead the lines of the ring are fetched for writing: the full fence behind each record waits for them.
const AHEAD: u64 = 512;
const LINE: u64 = 64;

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
        // Taken out of memory before the fence, behind which it would be looked at anew.
        let (ring, head) = (self.ring, self.head);
        let position = head + need.pad;
        let header = Header { position, incarnation: self.incarnation, ..header }.to_words();
        let (at, end) = (layout::ring(position, ring), position + need.size);
        words.expect_store(layout::ring(end + AHEAD, ring));
        words.expect_store(layout::ring(end + AHEAD + LINE, ring));
        words.store(self.intent_word, end);
        // Release: pairs with the Acquire fence in `RingReader::overtaken`. A reader that sees any byte written from
        // here on sees the intent as well.
        fence(Release);
        if need.pad > 0 {
            self.pad(words, need.pad);
        }
        match prefix {
            None => words.store_all(at, header, payload),
            Some(prefix) => put_with_prefix(words, at, header, prefix, payload),
        }
        self.mark(words, position);
        self.head = end;
        position
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
    #[inline]
    fn mark(&mut self, words: &impl OwnWords, position: u64) {
        let part = (position & (self.ring - 1)) >> self.part;
        if self.marked != part {
            self.marked = part;
            words.store(layout::mark(self.slot, part as usize), position);
        }
    }
}

#[cold]
fn put_with_prefix(words: &impl OwnWords, at: usize, header: [u64; 4], prefix: u128, payload: &[u8]) {
    let [a, b, c, d] = header;
    words.store_all(at, [a, b, c, d, prefix as u64, (prefix >> 64) as u64], payload);
}
