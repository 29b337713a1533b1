//! What a stand-in has in hand: bytes that came and are not done yet, frames that are to go, and how far it has read.
//!
//! Lies in memory that outlives the supervisor, so that the next one goes on at the very byte. Everything of it is
//! ours: no client and no participant ever sees it.
//!
//! ```text
//! 0      magic, bytes of one incoming half, which copy of the books counts
//! 4096   books, two copies; one word says which of them counts
//! 12288  incoming, two halves: what is behind the last byte is 0
//! ...    outgoing: entries, a header of 48 bytes and what belongs to it
//! ```
//!
//! Invariants
//! - A death at any instruction leaves the books as they were or as they are now, with all that they speak of.
//! - Bytes that were taken from the socket are here from the same moment on: they are received into place, and where they
//!   end shows by what follows being 0, which no frame contains.
//! - Nothing is written over that the books which count speak of.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use herdwire_ipc::layout::{MAX_SLOTS, RING_MAX};
use herdwire_ipc::{Delivery, Slot, Tag};
use nix::fcntl::{FallocateFlags, fallocate};

use super::frame::Kept;
use super::memory::{self, Memory};

const MAGIC: u64 = u64::from_le_bytes(*b"HWSTASH1");
const HALF_BYTES_AT: usize = 8;
const CURRENT_AT: usize = 16;
const BOOKS: [usize; 2] = [4096, 8192];
const INCOMING: usize = 12_288;

/// Numbers of the books that come before the cursors.
const FIELDS: usize = 8;
const BOOK_BYTES: usize = 8 * (FIELDS + MAX_SLOTS);

/// Bytes beyond one line that a half has: what one call may bring.
const READ: usize = 64 << 10;
/// A half is left when it has less room than this.
const LITTLE: usize = 16 << 10;

/// From so many bytes on that wait to go, nothing is added but what answers.
const ENOUGH: usize = 256 << 10;
/// All that may wait: enough, one message of the largest size, and answers.
const OUTGOING: usize = ENOUGH + (RING_MAX / 8) as usize + ENOUGH;
const ENTRY_HEADER: usize = 48;
/// Memory that was used once is given back beyond this.
const KEPT: usize = 512 << 10;

const GREETED: u64 = 1;
const PAUSED: u64 = 2;
const DISCARDING: u64 = 4;
const ENDED: u64 = 8;
const PUBLISHED: u64 = 16;

/// What is committed at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Books {
    flags: u64,
    half: u64,
    taken: u64,
    out_end: u64,
    out_sent: u64,
    /// Number of the first frame that is not known to be sent.
    number: u64,
    /// Where the own ring stood when all that counts as done was done, and whose ring that is.
    pub head: u64,
    pub incarnation: u64,
    cursors: Box<[u64]>,
}

/// The line that is next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// It stands here in [`Stash::incoming`], without its end.
    Whole(Range<usize>),
    /// It is longer than any may be: what is there of it is dropped, the rest will be.
    TooLong,
    /// Its end has yet to come.
    Partial,
}

/// What is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    /// The inside of a frame of our own.
    Control(&'a [u8]),
    Message(Kept<'a>),
}

#[derive(Debug)]
pub(super) struct Stash {
    descriptor: OwnedFd,
    memory: Memory,
    books: Books,
    half_bytes: usize,
    /// End of what has come, in the half in use.
    came: usize,
    /// Up to here there is no end of a line.
    searched: usize,
}

impl Stash {
    /// Makes the memory for lines of at most `line` bytes. Costs what is used of it.
    pub(super) fn create(line: usize) -> io::Result<OwnedFd> {
        let half = (line + READ + LITTLE).next_multiple_of(4096);
        let fd = memory::create(c"herdwire-stash", INCOMING + 2 * half + OUTGOING)?;
        let mut memory = Memory::map(fd.as_fd())?;
        put(memory.bytes_mut(), HALF_BYTES_AT, half as u64);
        memory.commit(0, MAGIC);
        Ok(fd)
    }

    /// Opens what [`Stash::create`] made, perhaps in the hands of a predecessor that is dead.
    ///
    /// # Errors
    /// It cannot be mapped, or is not what this version understands.
    pub(super) fn open(descriptor: OwnedFd) -> io::Result<Stash> {
        let memory = Memory::map(descriptor.as_fd())?;
        let not_ours = || io::Error::new(io::ErrorKind::InvalidData, "what the stand-in had in hand is not understood");
        let bytes = memory.bytes();
        if bytes.len() < INCOMING + OUTGOING || get(bytes, 0) != MAGIC {
            return Err(not_ours());
        }
        let half_bytes = get(bytes, HALF_BYTES_AT) as usize;
        let whole = half_bytes.checked_mul(2).and_then(|both| both.checked_add(INCOMING + OUTGOING));
        let current = get(bytes, CURRENT_AT) as usize;
        if whole != Some(bytes.len()) || current > 1 {
            return Err(not_ours());
        }
        let books = Books::read(&bytes[BOOKS[current]..][..BOOK_BYTES]);
        if !books.is_possible(half_bytes as u64) {
            return Err(not_ours());
        }
        let mut stash = Stash { descriptor, memory, books, half_bytes, came: 0, searched: 0 };
        stash.recover();
        Ok(stash)
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Finds where what has come ends, and clears the half that is not in use: a predecessor may have died over it.
    fn recover(&mut self) {
        let half = self.half();
        let last = self.memory.bytes()[half].iter().rposition(|byte| *byte != 0);
        self.came = last.map_or(0, |last| last + 1).max(self.books.taken as usize);
        self.searched = self.books.taken as usize;
        let (half, other) = (self.half(), self.half_at(1 - self.books.half));
        // The look has touched what there is no need of.
        self.clear((half.start + self.came).next_multiple_of(4096)..half.end);
        self.clear(other);
    }

    fn half(&self) -> Range<usize> {
        self.half_at(self.books.half)
    }

    fn half_at(&self, half: u64) -> Range<usize> {
        let start = INCOMING + half as usize * self.half_bytes;
        start..start + self.half_bytes
    }

    fn outgoing_at(&self) -> usize {
        INCOMING + 2 * self.half_bytes
    }

    // --- what has come ---

    /// Where to receive into, once [`Stash::line`] has said that there is no whole one: never empty then, since a half has
    /// room for more than the longest line.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let taken = self.books.taken as usize;
        if (taken == self.came && taken > 0) || self.half_bytes - self.came < LITTLE {
            self.turn_over();
        }
        let (half, came) = (self.half(), self.came);
        let end = half.end.min(half.start + came + READ);
        let space = &mut self.memory.bytes_mut()[half.start + came..end];
        // Every page is there before the kernel copies, so that a death finds it done or not begun.
        space.iter_mut().step_by(1024).for_each(|byte| *byte = 0);
        space
    }

    /// So many bytes were received into [`Stash::space`].
    pub(super) fn received(&mut self, bytes: usize) {
        self.came += bytes;
    }

    /// Moves what is not done into the other half, and clears this one.
    fn turn_over(&mut self) {
        let (old, new) = (self.half(), self.half_at(1 - self.books.half));
        let rest = old.start + self.books.taken as usize..old.start + self.came;
        let (length, used) = (rest.len(), self.came);
        self.memory.bytes_mut().copy_within(rest, new.start);
        self.searched -= self.books.taken as usize;
        self.books.half = 1 - self.books.half;
        self.books.taken = 0;
        self.came = length;
        self.commit();
        self.clear(old.start..old.start + used);
    }

    fn clear(&mut self, range: Range<usize>) {
        let whole = range.start.is_multiple_of(4096) && range.len() > LITTLE;
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let punched = whole && fallocate(&self.descriptor, hole, range.start as i64, range.len() as i64).is_ok();
        if !punched {
            self.memory.bytes_mut()[range].fill(0);
        }
    }

    /// The next line, of at most `limit` bytes.
    pub(super) fn line(&mut self, limit: usize) -> Line {
        let (half, taken) = (self.half(), self.books.taken as usize);
        let unsearched = &self.memory.bytes()[half.start + self.searched..half.start + self.came];
        let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.came;
            if self.books.is(DISCARDING) {
                self.books.taken = self.came as u64;
                return Line::Partial;
            }
            if self.came - taken <= limit {
                return Line::Partial;
            }
            self.books.set(DISCARDING, true);
            self.books.taken = self.came as u64;
            return Line::TooLong;
        };
        let end = self.searched + end;
        if self.books.is(DISCARDING) {
            self.books.set(DISCARDING, false);
            self.take(end + 1);
            return self.line(limit);
        }
        if end - taken > limit {
            self.take(end + 1);
            return Line::TooLong;
        }
        Line::Whole(half.start + taken..half.start + end)
    }

    /// The bytes of a line.
    pub(super) fn bytes(&self, line: &Range<usize>) -> &[u8] {
        &self.memory.bytes()[line.clone()]
    }

    /// The line is done. Counts with the next commit.
    pub(super) fn done(&mut self, line: &Range<usize>) {
        let start = self.half().start;
        self.take(line.end + 1 - start);
    }

    fn take(&mut self, to: usize) {
        self.books.taken = to as u64;
        self.searched = to;
    }

    // --- what is to go ---

    /// Whether messages may be added.
    pub(super) fn takes_messages(&self) -> bool {
        (self.books.out_end as usize) < ENOUGH
    }

    /// Whether answers may be added.
    pub(super) fn takes_answers(&self) -> bool {
        (self.books.out_end as usize) < 2 * ENOUGH
    }

    /// Adds the inside of a frame; false where there is no room. Counts with the next commit.
    #[must_use]
    pub(super) fn add_control(&mut self, inside: &[u8]) -> bool {
        let header = [0; ENTRY_HEADER];
        self.add(header, inside)
    }

    /// Adds a message; false where there is no room. Counts with the next commit.
    #[must_use]
    pub(super) fn add_message(&mut self, delivery: &Delivery<'_>) -> bool {
        let mut header = [0; ENTRY_HEADER];
        let flags = u8::from(delivery.session.is_some()) | u8::from(delivery.to_me_alone) << 1;
        header[..4].copy_from_slice(&[1, delivery.tag as u8, flags, 0]);
        header[4..6].copy_from_slice(&delivery.channel.0.to_le_bytes());
        header[6..8].copy_from_slice(&delivery.from.to_le_bytes());
        header[8..12].copy_from_slice(&delivery.from_incarnation.to_le_bytes());
        header[24..40].copy_from_slice(&delivery.session.unwrap_or(0).to_le_bytes());
        self.add(header, delivery.payload)
    }

    fn add(&mut self, mut header: [u8; ENTRY_HEADER], inside: &[u8]) -> bool {
        let end = self.books.out_end as usize;
        let size = entry_size(inside.len());
        if inside.len() > OUTGOING || end + size > OUTGOING {
            return false;
        }
        header[40..48].copy_from_slice(&(inside.len() as u64).to_le_bytes());
        let at = self.outgoing_at() + end;
        let bytes = self.memory.bytes_mut();
        bytes[at..at + ENTRY_HEADER].copy_from_slice(&header);
        bytes[at + ENTRY_HEADER..][..inside.len()].copy_from_slice(inside);
        self.books.out_end += size as u64;
        true
    }

    /// Bytes that wait to go.
    pub(super) fn waiting(&self) -> u64 {
        self.books.out_end - self.books.out_sent
    }

    /// What is to go, with its numbers, after the first `skip`.
    pub(super) fn entries(&self, skip: usize) -> impl Iterator<Item = (u64, Entry<'_>)> {
        let outgoing = &self.memory.bytes()[self.outgoing_at()..][..self.books.out_end as usize];
        let (mut at, mut number) = (self.books.out_sent as usize, self.books.number);
        std::iter::from_fn(move || {
            let (entry, size) = read_entry(outgoing.get(at..)?)?;
            at += size;
            number += 1;
            Some((number - 1, entry))
        })
        .skip(skip)
    }

    /// So many entries have gone.
    pub(super) fn sent(&mut self, count: usize) {
        let outgoing = &self.memory.bytes()[self.outgoing_at()..][..self.books.out_end as usize];
        let mut at = self.books.out_sent as usize;
        for _ in 0..count {
            let Some((_, size)) = outgoing.get(at..).and_then(read_entry) else { break };
            at += size;
            self.books.number += 1;
        }
        let used = self.books.out_end as usize;
        self.books.out_sent = at as u64;
        if at == used {
            (self.books.out_sent, self.books.out_end) = (0, 0);
        }
        // At once: what comes next is written over what has gone.
        self.commit();
        if at == used && used > KEPT {
            let start = self.outgoing_at();
            self.clear(start..start + used);
        }
    }

    // --- books ---

    pub(super) fn is_greeted(&self) -> bool {
        self.books.is(GREETED)
    }

    pub(super) fn set_greeted(&mut self) {
        self.books.set(GREETED, true);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.books.is(PAUSED)
    }

    pub(super) fn set_paused(&mut self, paused: bool) {
        self.books.set(PAUSED, paused);
    }

    /// Whether this client was given up.
    pub(super) fn is_ended(&self) -> bool {
        self.books.is(ENDED)
    }

    pub(super) fn set_ended(&mut self) {
        self.books.set(ENDED, true);
    }

    /// Whether what the next line wants published is published: its supervisor died before it could say so.
    pub(super) fn is_published(&self) -> bool {
        self.books.is(PUBLISHED)
    }

    pub(super) fn set_published(&mut self, published: bool) {
        self.books.set(PUBLISHED, published);
    }

    pub(super) fn books(&mut self) -> &mut Books {
        &mut self.books
    }

    /// How far each ring was read, with all that was read of it in hand here or gone.
    pub(super) fn cursors(&self) -> impl Iterator<Item = (Slot, u64)> {
        (0..).zip(self.books.cursors.iter().copied())
    }

    pub(super) fn set_cursor(&mut self, slot: Slot, cursor: u64) {
        if let Some(known) = self.books.cursors.get_mut(usize::from(slot)) {
            *known = cursor;
        }
    }

    /// Makes all changes since the last commit count at once.
    pub(super) fn commit(&mut self) {
        let next = usize::from(get(self.memory.bytes(), CURRENT_AT) == 0);
        let place = BOOKS[next];
        self.books.write(&mut self.memory.bytes_mut()[place..place + BOOK_BYTES]);
        self.memory.commit(CURRENT_AT, next as u64);
    }
}

impl Books {
    fn read(bytes: &[u8]) -> Books {
        let cursors = (FIELDS..FIELDS + MAX_SLOTS).map(|field| get(bytes, 8 * field)).collect();
        Books {
            flags: get(bytes, 0),
            half: get(bytes, 8),
            taken: get(bytes, 16),
            out_end: get(bytes, 24),
            out_sent: get(bytes, 32),
            number: get(bytes, 40),
            head: get(bytes, 48),
            incarnation: get(bytes, 56),
            cursors,
        }
    }

    fn write(&self, bytes: &mut [u8]) {
        let fields =
            [self.flags, self.half, self.taken, self.out_end, self.out_sent, self.number, self.head, self.incarnation];
        for (field, value) in fields.iter().chain(&self.cursors).enumerate() {
            put(bytes, 8 * field, *value);
        }
    }

    fn is_possible(&self, half_bytes: u64) -> bool {
        self.half <= 1
            && self.taken <= half_bytes
            && self.out_sent <= self.out_end
            && self.out_end <= OUTGOING as u64
            && self.number < u64::MAX / 2
    }

    fn is(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    fn set(&mut self, flag: u64, on: bool) {
        if on { self.flags |= flag } else { self.flags &= !flag }
    }
}

fn entry_size(inside: usize) -> usize {
    (ENTRY_HEADER + inside).next_multiple_of(8)
}

/// The first entry of what is to go, and how many bytes it takes.
fn read_entry(bytes: &[u8]) -> Option<(Entry<'_>, usize)> {
    let header = bytes.get(..ENTRY_HEADER)?;
    let length = usize::try_from(get(header, 40)).ok()?;
    let inside = bytes.get(ENTRY_HEADER..ENTRY_HEADER.checked_add(length)?)?;
    let size = entry_size(length);
    if header[0] == 0 {
        return Some((Entry::Control(inside), size));
    }
    let session = u128::from_le_bytes(header[24..40].try_into().ok()?);
    let kept = Kept {
        channel: u16::from_le_bytes([header[4], header[5]]),
        from: u16::from_le_bytes([header[6], header[7]]),
        from_incarnation: u32::from_le_bytes([header[8], header[9], header[10], header[11]]),
        tag: Tag::from_number(header[1])?,
        session: (header[2] & 1 != 0).then_some(session),
        alone: header[2] & 2 != 0,
        payload: inside,
    };
    Some((Entry::Message(kept), size))
}

fn get(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    word.map_or(0, u64::from_le_bytes)
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use herdwire_ipc::ChannelId;
    use proptest::prelude::*;

    use super::*;

    const LINE: usize = 200;

    fn stash() -> Stash {
        Stash::open(Stash::create(LINE).unwrap()).unwrap()
    }

    /// A supervisor dies, and the next one goes on from the same memory.
    fn successor(stash: Stash) -> Stash {
        let descriptor = stash.descriptor().try_clone_to_owned().unwrap();
        drop(stash);
        Stash::open(descriptor).unwrap()
    }

    fn receive(stash: &mut Stash, bytes: &[u8]) -> usize {
        let space = stash.space();
        let received = bytes.len().min(space.len());
        space[..received].copy_from_slice(&bytes[..received]);
        stash.received(received);
        received
    }

    fn take_line(stash: &mut Stash) -> Option<Vec<u8>> {
        let Line::Whole(range) = stash.line(LINE) else { return None };
        let line = stash.bytes(&range).to_vec();
        stash.done(&range);
        stash.commit();
        Some(line)
    }

    fn controls(stash: &Stash) -> Vec<(u64, Vec<u8>)> {
        let inside = |entry| match entry {
            Entry::Control(inside) => inside.to_vec(),
            Entry::Message(kept) => kept.payload.to_vec(),
        };
        stash.entries(0).map(|(number, entry)| (number, inside(entry))).collect()
    }

    #[test]
    fn what_was_received_and_not_done_is_there_for_a_successor_even_if_nobody_said_so() {
        let mut stash = stash();
        receive(&mut stash, b"one\ntwo\nthr");
        assert_eq!(take_line(&mut stash), Some(b"one".to_vec()));
        // Received, and dead before a single word of it was written down.
        let space = stash.space();
        space[..3].copy_from_slice(b"ee\n");
        let mut stash = successor(stash);
        assert_eq!(take_line(&mut stash), Some(b"two".to_vec()));
        assert_eq!(take_line(&mut stash), Some(b"three".to_vec()));
        assert_eq!(take_line(&mut stash), None);
    }

    #[test]
    fn a_line_that_is_too_long_is_said_once_and_skipped_to_its_end() {
        let mut stash = stash();
        receive(&mut stash, &[b'x'; LINE + 1]);
        assert_eq!(stash.line(LINE), Line::TooLong);
        stash.commit();
        for _ in 0..10 {
            receive(&mut stash, &[b'y'; 50_000]);
            assert_eq!(stash.line(LINE), Line::Partial);
            stash = successor(stash);
            assert_eq!(stash.line(LINE), Line::Partial);
        }
        receive(&mut stash, b"end\nnext\n");
        assert_eq!(take_line(&mut stash), Some(b"next".to_vec()));
    }

    #[test]
    fn what_is_to_go_keeps_its_numbers_and_what_went_is_not_said_again() {
        let mut stash = stash();
        let delivery = Delivery {
            from: 3,
            from_incarnation: 9,
            channel: ChannelId(7),
            tag: Tag::Msgpack,
            session: Some(1 << 100),
            to_me_alone: true,
            sequence: 1,
            position: 64,
            payload: b"payload",
        };
        assert!(stash.add_control(b"a") && stash.add_message(&delivery) && stash.add_control(b"c"));
        stash.commit();
        assert!(stash.add_control(b"never committed"));
        let mut stash = successor(stash);
        let kept = Kept {
            channel: 7,
            from: 3,
            from_incarnation: 9,
            tag: Tag::Msgpack,
            session: Some(1 << 100),
            alone: true,
            payload: b"payload",
        };
        assert_eq!(stash.entries(1).next(), Some((1, Entry::Message(kept))));
        stash.sent(2);
        let mut stash = successor(stash);
        assert_eq!(controls(&stash), [(2, b"c".to_vec())]);
        stash.sent(1);
        assert!(stash.add_control(b"d"));
        stash.commit();
        assert_eq!(controls(&successor(stash)), [(3, b"d".to_vec())]);
    }

    #[test]
    fn it_takes_the_largest_message_while_it_takes_any_and_then_no_more() {
        let mut stash = stash();
        let large = vec![1; (RING_MAX / 8) as usize];
        while stash.takes_messages() {
            assert!(stash.add_control(&large));
        }
        assert!(!stash.add_control(&large));
        let entries = stash.entries(0).count();
        stash.sent(entries);
        assert!(stash.takes_messages() && stash.takes_answers());
    }

    #[test]
    fn memory_of_another_version_is_refused() {
        let descriptor = Stash::create(LINE).unwrap();
        let mut memory = Memory::map(descriptor.as_fd()).unwrap();
        memory.commit(0, MAGIC + 1);
        drop(memory);
        assert!(Stash::open(descriptor).is_err());
    }

    proptest! {
        /// Against plain queues: whatever comes in whatever pieces, and however often supervisors die, every line is
        /// handed out once and in order, and every frame goes once and in order.
        #[test]
        fn nothing_is_lost_or_doubled_over_any_deaths(steps in prop::collection::vec((0u8..6, 0usize..150), 1..120)) {
            let mut stash = stash();
            let (mut sent_lines, mut got_lines) = (Vec::new(), Vec::new());
            let (mut pending, mut counter): (Vec<u8>, usize) = (Vec::new(), 0);
            let (mut added, mut gone) = (Vec::new(), Vec::new());
            for (what, amount) in steps {
                match what {
                    0 | 1 => {
                        counter += 1;
                        let line = format!("{counter}{}", "x".repeat(amount));
                        pending.extend_from_slice(line.as_bytes());
                        pending.push(b'\n');
                        sent_lines.push(line.into_bytes());
                        let part = pending.len() - amount / 3;
                        let received = receive(&mut stash, &pending[..part]);
                        pending.drain(..received);
                    }
                    2 => got_lines.extend(take_line(&mut stash)),
                    3 => {
                        let frame = format!("frame-{}", added.len()).into_bytes();
                        prop_assert!(stash.add_control(&frame));
                        stash.commit();
                        added.push(frame);
                    }
                    4 => {
                        let going: Vec<_> = controls(&stash).into_iter().take(amount % 4).collect();
                        stash.sent(going.len());
                        gone.extend(going);
                    }
                    _ => stash = successor(stash),
                }
            }
            while !pending.is_empty() {
                let received = receive(&mut stash, &pending);
                pending.drain(..received);
                while let Some(line) = take_line(&mut stash) {
                    got_lines.push(line);
                }
            }
            while let Some(line) = take_line(&mut stash) {
                got_lines.push(line);
            }
            gone.extend(controls(&stash));
            prop_assert_eq!(got_lines, sent_lines);
            prop_assert!(gone.iter().map(|(number, _)| *number).eq(0..added.len() as u64));
            prop_assert!(gone.into_iter().map(|(_, frame)| frame).eq(added));
        }
    }
}
