//! Reading a peer's ring, which is foreign memory: copied word by word, checked, never believed.

use crate::layout::{self, MARKS, POSITION_LIMIT, RECORD_ALIGN, RECORD_HEADER};
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
    ring: u64,
    limit: u64,
    /// Position of the next record.
    cursor: u64,
    /// The highest head believed so far.
    head: u64,
}

/// What one look at the next record found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing before the head that was taken over last.
    Empty,
    /// A record; it is not to be used before [`RingReader::confirm`] has said that nothing was overtaken.
    Record(Kind, Header, u64),
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
        RingReader { publisher, reader, ring, limit, cursor, head: cursor }
    }

    #[inline]
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Whether the writer has moved since. One load.
    #[inline]
    pub(crate) fn has_news(&self, words: &impl Words) -> bool {
        words.load(layout::head(self.publisher)) != self.cursor
    }

    /// Whether records lie between the cursor and the head that was taken over last. No load.
    pub(crate) fn is_behind(&self) -> bool {
        self.cursor != self.head
    }

    /// Takes over the writer's head; false when there is nothing new.
    pub(crate) fn look_ahead(&mut self, words: &impl Words) -> Result<bool, Rule> {
        let head = words.load(layout::head(self.publisher));
        // Acquire: pairs with the Release in `RingWriter::commit`; everything below the head is there.
        fence(Acquire);
        if head < self.head || head >= POSITION_LIMIT || !head.is_multiple_of(RECORD_ALIGN) {
            return Err(Rule::Head);
        }
        self.head = head;
        Ok(head != self.cursor)
    }

    /// Looks at the record at `at`, which is the cursor or follows records already looked at.
    #[inline]
    pub(crate) fn look(&self, words: &impl Words, at: u64) -> Result<Look, Rule> {
        if at == self.head {
            return Ok(Look::Empty);
        }
        let header = Header::from_words(words.four(layout::ring(at, self.ring)));
        match header.check(at, self.head, self.ring, self.limit) {
            Ok((kind, size)) => Ok(Look::Record(kind, header, size)),
            // An overtaken header may hold anything; only one that was not is a lie.
            Err(rule) if self.overtaken(words, at)?.is_none() => Err(rule),
            Err(_) => Ok(Look::Overtaken),
        }
    }

    /// Copies the payload of a record just looked at.
    #[inline]
    pub(crate) fn copy(&self, words: &impl Words, at: u64, header: &Header, into: &mut Vec<u64>) {
        let first = layout::ring(at + RECORD_HEADER, self.ring);
        words.append(first, (header.length as usize).div_ceil(8), into);
    }

    /// Whether everything looked at and copied from the cursor on was whole.
    pub(crate) fn confirm(&self, words: &impl Words) -> Result<bool, Rule> {
        Ok(self.overtaken(words, self.cursor)?.is_none())
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
        Ok(possible && self.overtaken(words, position)?.is_none())
    }

    /// By how much the writer may have overwritten what stood at `at`; asked after the words were loaded.
    #[inline]
    fn overtaken(&self, words: &impl Words, at: u64) -> Result<Option<u64>, Rule> {
        // Acquire: pairs with the Release fence in `RingWriter::write`. If any word loaded before was a newer one,
        // this load sees the intent that announced it.
        fence(Acquire);
        let intent = words.load(layout::intent(self.publisher));
        if intent < self.head || intent >= POSITION_LIMIT {
            return Err(Rule::Intent);
        }
        if intent - at <= self.ring {
            return Ok(None);
        }
        self.check_far(words, intent)?;
        Ok(Some(intent - at - self.ring))
    }

    /// A writer that claims to be far ahead must at least have come that far.
    #[cold]
    fn check_far(&self, words: &impl Words, intent: u64) -> Result<(), Rule> {
        let head = words.load(layout::head(self.publisher));
        if head < self.head || head >= POSITION_LIMIT {
            return Err(Rule::Head);
        }
        if intent.saturating_sub(head) > 2 * self.ring { Err(Rule::Intent) } else { Ok(()) }
    }
}
