//! A piece of a ring in private memory, and which of its records are for us.
//!
//! Rings are copied in pieces and not record by record: addresses that do not depend on what was just loaded let the
//! processor fetch many lines at once, one look makes sure that the whole piece was not overtaken, and what is checked
//! and handed over lies in the nearest cache. A record that goes on behind the piece is completed behind it.

use super::delivery::Delivery;
use crate::layout::{RECORD_ALIGN, RECORD_HEADER, WORD};
use crate::record::{Header, is_plain, next_third, size_of};
use crate::slots::Slot;

/// Bytes of a piece. Half of the smallest first-level cache that matters.
pub(super) const PIECE: usize = 16 << 10;

/// What the next message must be like to follow the last one without a careful look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// The third word of its header: channel, whom it is for, and its number.
    pub(super) third: u64,
    /// The position of the piece.
    pub(super) start: u64,
    /// The most that one record may carry.
    pub(super) limit: u64,
}

/// The piece in hand.
pub(super) struct Chunk {
    words: Vec<u64>,
    /// Where the records stand that are for us, in bytes.
    found: Vec<u32>,
    from: Slot,
    incarnation: u32,
}

impl Chunk {
    pub(super) fn new() -> Chunk {
        let found = Vec::with_capacity(PIECE / RECORD_ALIGN as usize);
        Chunk { words: vec![0; PIECE / WORD], found, from: 0, incarnation: 0 }
    }

    /// Begins with a piece of another ring.
    pub(super) fn begin(&mut self, from: Slot, incarnation: u32) {
        self.found.clear();
        self.from = from;
        self.incarnation = incarnation;
    }

    /// Room for the first `bytes` of the piece, or for what of a record that ends at `bytes` stands behind `from`.
    /// Grows to the largest record that came; the caller has checked how large one may be.
    pub(super) fn room(&mut self, from: u64, bytes: u64) -> &mut [u64] {
        let (from, to) = (from as usize / WORD, bytes as usize / WORD);
        if to > self.words.len() {
            self.words.resize(to, 0);
        }
        &mut self.words[from..to]
    }

    /// The header at a multiple of [`RECORD_ALIGN`] within the piece.
    #[inline]
    pub(super) fn header(&self, at: u64) -> Header {
        let at = at as usize / WORD;
        Header::from_words(self.words[at..at + 4].try_into().expect("four words"))
    }

    /// Goes on from `at` for as long as what follows is just like the last message: plain, for all subscribers of the same
    /// channel, the next number, whole within the first `taken` bytes, and not more than `most` records in all. Where it
    /// ends. Nothing is checked here that a careful look would not have found in order as well.
    pub(super) fn run(&mut self, row: Row, mut at: u64, taken: u64, most: usize) -> u64 {
        let Chunk { words, found, .. } = self;
        let mut third = row.third;
        while at < taken && found.len() < most {
            let header = words.get(at as usize / WORD..).and_then(<[u64]>::first_chunk);
            let Some(&[first, position, found_third, _]) = header else { break };
            let length = first & u64::from(u32::MAX);
            let end = at + size_of(length);
            let alike = found_third == third && position == row.start + at && is_plain(first);
            if !alike || end > taken || length > row.limit {
                break;
            }
            found.push(at as u32);
            third = next_third(third);
            at = end;
        }
        at
    }

    /// The record there is for us.
    #[inline]
    pub(super) fn add(&mut self, at: u64) {
        self.found.push(at as u32);
    }

    /// How many records are for us.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    /// Nothing of it counts.
    pub(super) fn discard(&mut self) {
        self.found.clear();
    }

    /// What is for us.
    #[inline]
    pub(super) fn deliveries(&self) -> impl Iterator<Item = Delivery<'_>> {
        self.found.iter().filter_map(|at| {
            let header = self.header(u64::from(*at));
            let payload = (*at as usize + RECORD_HEADER as usize) / WORD;
            Delivery::new(self.from, self.incarnation, &header, &self.words[payload..])
        })
    }
}
