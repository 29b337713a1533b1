//! Reading a peer's ring, which is foreign memory: copied word by word, checked, never believed.

use crate::layout::{self, MARKS, POSITION_LIMIT, RECORD_ALIGN, WORD};
use crate::record::{Header, Kind};
use crate::rule::Rule;
use crate::slots::Slot;
use crate::sync::Ordering::Acquire;
use crate::sync::{Words, fence};

/// The reading end of one peer's ring.
#[derive(Debug)]
pub(crate) struct RingReader {
    publisher: Slot,
    reader: Slot,
    /// Where the words stand that every look needs; worked out once.
    head_word: usize,
    intent_word: usize,
    ring: u64,
    limit: u64,
    /// Position of the next record.
    cursor: u64,
    /// The highest head believed so far.
    head: u64,
}

/// What was copied from a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Nothing lies before the head that was taken over last.
    Empty,
    /// So many bytes from the cursor on, whole. The last record in them may go on behind them.
    Bytes(u64),
    /// The writer overwrote what stood at the cursor.
    Overtaken,
}

/// The jump that a reader made because its writer had overtaken it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lap {
    /// Bytes never read.
    pub(crate) bytes: u64,
    /// Whether the writer left word of our first kept record: nothing that was kept for us lies before it.
    pub(crate) resumed: bool,
}

impl RingReader {
    /// A reader that starts at `cursor`, which is at or beyond the writer's base.
    pub(crate) fn new(publisher: Slot, reader: Slot, ring: u64, limit: u64, cursor: u64) -> RingReader {
        let (head_word, intent_word) = (layout::head(publisher), layout::intent(publisher));
        RingReader { publisher, reader, head_word, intent_word, ring, limit, cursor, head: cursor }
    }

    #[inline]
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The most that one record may carry.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether the writer has moved since. One load.
    #[inline]
    pub(crate) fn has_news(&self, words: &impl Words) -> bool {
        words.load(self.head_word) != self.cursor
    }

    /// Whether records lie between the cursor and the head that was taken over last. No load.
    pub(crate) fn is_behind(&self) -> bool {
        self.cursor != self.head
    }

    /// Takes over the writer's head; false when there is nothing new.
    pub(crate) fn look_ahead(&mut self, words: &impl Words) -> Result<bool, Rule> {
        let head = words.load(self.head_word);
        // Acquire: pairs with the Release in `RingWriter::commit`; everything below the head is there.
        fence(Acquire);
        if head < self.head || head >= POSITION_LIMIT || !head.is_multiple_of(RECORD_ALIGN) {
            return Err(Rule::Head);
        }
        self.head = head;
        Ok(head != self.cursor)
    }

    /// Copies what follows the cursor into private memory, as much as that holds, and makes sure that the writer has
    /// not overtaken it. In one go and not record by record, so that one load need not wait for another.
    pub(crate) fn take(&self, words: &impl Words, into: &mut [u64]) -> Result<Taken, Rule> {
        let to_end = self.ring - (self.cursor & (self.ring - 1));
        let room = (into.len() * WORD) as u64 / RECORD_ALIGN * RECORD_ALIGN;
        let bytes = (self.head - self.cursor).min(to_end).min(room);
        if bytes == 0 {
            return Ok(Taken::Empty);
        }
        words.copy(layout::ring(self.cursor, self.ring), &mut into[..bytes as usize / WORD]);
        Ok(if self.overtaken(words, self.cursor)? { Taken::Overtaken } else { Taken::Bytes(bytes) })
    }

    /// Copies the rest of a record at `at`, of which `taken` bytes were copied before; false when it was overtaken.
    pub(crate) fn take_rest(&self, words: &impl Words, at: u64, taken: u64, rest: &mut [u64]) -> Result<bool, Rule> {
        words.copy(layout::ring(at + taken, self.ring), rest);
        Ok(!self.overtaken(words, at)?)
    }

    /// What a copied and confirmed header says: what the record at `at` is, and how many bytes it takes.
    #[inline]
    pub(crate) fn check(&self, header: &Header, at: u64) -> Result<(Kind, u64), Rule> {
        header.check(at, self.head, self.ring, self.limit)
    }

    /// Moves the cursor past records that are done with.
    pub(crate) fn advance(&mut self, cursor: u64) {
        debug_assert!(cursor >= self.cursor && cursor <= self.head);
        self.cursor = cursor;
    }

    /// Goes on where something is still whole, after the writer has overtaken us: at our first kept record if the
    /// writer left word of it, else at the oldest border in the newer half of the ring, else at the head.
    pub(crate) fn lap(&mut self, words: &impl Words) -> Result<Lap, Rule> {
        self.look_ahead(words)?;
        let resume = words.load(layout::resume(self.reader));
        let resumed = self.is_whole(words, resume)?;
        let target = if resumed { resume } else { self.oldest_mark(words)? };
        let bytes = target - self.cursor;
        self.cursor = target;
        Ok(Lap { bytes, resumed })
    }

    fn oldest_mark(&self, words: &impl Words) -> Result<u64, Rule> {
        let mut target = self.head;
        for index in 0..MARKS {
            let mark = words.load(layout::mark(self.publisher, index));
            if mark < target && mark + self.ring / 2 > self.head && self.is_whole(words, mark)? {
                target = mark;
            }
        }
        Ok(target)
    }

    /// Whether `position` is one to go on from: ahead of us, a border, not beyond the head and not overtaken.
    fn is_whole(&self, words: &impl Words, position: u64) -> Result<bool, Rule> {
        let possible = position > self.cursor && position <= self.head && position.is_multiple_of(RECORD_ALIGN);
        Ok(possible && !self.overtaken(words, position)?)
    }

    /// Whether the writer may have overwritten what stood at `at`; asked after the words were loaded.
    #[inline]
    fn overtaken(&self, words: &impl Words, at: u64) -> Result<bool, Rule> {
        // Acquire: pairs with the Release fence in `RingWriter::write`. If any word loaded before was a newer one,
        // this load sees the intent that announced it.
        fence(Acquire);
        let intent = words.load(self.intent_word);
        if intent < self.head || intent >= POSITION_LIMIT {
            return Err(Rule::Intent);
        }
        if intent - at <= self.ring {
            return Ok(false);
        }
        self.check_far(words, intent)?;
        Ok(true)
    }

    /// A writer that claims to be far ahead must at least have come that far.
    #[cold]
    fn check_far(&self, words: &impl Words, intent: u64) -> Result<(), Rule> {
        let head = words.load(self.head_word);
        if head < self.head || head >= POSITION_LIMIT {
            return Err(Rule::Head);
        }
        if intent.saturating_sub(head) > 2 * self.ring { Err(Rule::Intent) } else { Ok(()) }
    }
}
