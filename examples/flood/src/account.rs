//! A worker's account of what it published and what it was handed: words in a mapped file.
//!
//! One worker writes it, one process after the other; anybody may read it at any time. Each fact is one word, stored
//! once, so a SIGKILL between any two stores leaves an account that a successor can go on from.
//!
//! Invariants
//! - `intent` is `committed` or one more: what lies between them may or may not have been published.
//! - The publishers' `next` is stored last of all that a message changes: a message counts as handed over only then.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Release};

use crate::words::Words;

/// Publishers of a run at most.
pub const PUBLISHERS: usize = 64;
/// Room for sequence numbers of which it is not known whether they were published.
const DOUBTFUL: usize = 4096;
/// Room for exits.
const EXITS: usize = 4096;
/// Room for gaps.
const GAPS: usize = 8192;
const GAP_WORDS: usize = 4;

const NEXT: usize = 64;
const DOUBTFUL_AT: usize = NEXT + PUBLISHERS;
const EXITS_AT: usize = DOUBTFUL_AT + DOUBTFUL;
const GAPS_AT: usize = EXITS_AT + EXITS;
const WORDS: NonZeroUsize = NonZeroUsize::new(GAPS_AT + GAPS * GAP_WORDS).expect("a sum of what is not zero");

/// A single number of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Figure {
    /// Processes that have opened the account to write it.
    Starts,
    /// The pid of the newest of them.
    Pid,
    /// Sequence number of the message that is being published.
    Intent,
    /// Sequence number of the last message whose publish has returned.
    Committed,
    /// 1 when the newest process will publish nothing more.
    Finished,
    /// The longest time in which nothing arrived while the others were to publish, in microseconds.
    LongestPause,
    /// The longest time that one publish took, in microseconds.
    LongestPublish,
    /// Messages that arrived again.
    Doubled,
    /// Messages that arrived after a later one.
    Reordered,
    /// Messages that did not arrive as they were written.
    Corrupt,
    /// Messages that the wire says it could not keep for this worker.
    Lagged,
    /// Publishes that were refused for want of room and tried again.
    Refused,
    /// Missing messages that found no room among the gaps.
    Unlisted,
    /// Numbered lines that were written.
    Lines,
    DoubtfulCount,
    ExitCount,
    GapCount,
}

/// Messages of one publisher that were skipped: from the first to before the last number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub publisher: usize,
    pub from: u64,
    pub to: u64,
    /// Which start of the worker noticed it.
    pub start: u64,
    /// Whether the message after the gap was the first of this publisher that this start was handed.
    pub first: bool,
}

/// How one process of a worker ended, by its own choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub incarnation: u32,
    pub code: u8,
}

/// The account of one worker.
#[derive(Debug)]
pub struct Account {
    words: Words,
}

impl Account {
    /// Opens the account of the worker with this index, to read it.
    ///
    /// # Errors
    /// The file cannot be opened or mapped.
    pub fn read(folder: &Path, index: usize) -> io::Result<Account> {
        Ok(Account { words: Words::open(&folder.join(format!("account-{index}")), WORDS)? })
    }

    /// Opens it to go on from where the worker's last process left it.
    ///
    /// # Errors
    /// As [`Account::read`].
    pub fn resume(folder: &Path, index: usize) -> io::Result<Account> {
        let account = Account::read(folder, index)?;
        account.set(Figure::Finished, 0);
        account.settle_intent();
        account.settle_gap();
        account.set(Figure::Pid, u64::from(std::process::id()));
        account.add(Figure::Starts, 1);
        Ok(account)
    }

    /// One of its numbers.
    pub fn figure(&self, figure: Figure) -> u64 {
        self.load(figure as usize)
    }

    /// The sequence number that is expected next of a publisher, from 1.
    pub fn next(&self, publisher: usize) -> u64 {
        self.load(NEXT + publisher) + 1
    }

    /// Sequence numbers that were to be published when the worker died.
    pub fn doubtful(&self) -> Vec<u64> {
        self.list(Figure::DoubtfulCount, DOUBTFUL).map(|at| self.load(DOUBTFUL_AT + at)).collect()
    }

    /// The exits that the worker chose.
    pub fn exits(&self) -> Vec<Exit> {
        let exit = |word: u64| Exit { incarnation: (word >> 32) as u32, code: word as u8 };
        self.list(Figure::ExitCount, EXITS).map(|at| exit(self.load(EXITS_AT + at))).collect()
    }

    /// What was skipped, in the order in which it was noticed.
    pub fn gaps(&self) -> Vec<Gap> {
        self.list(Figure::GapCount, GAPS).map(|at| self.gap(at)).collect()
    }

    /// The message with the next number is about to be published. Returns the number.
    pub fn intend(&self) -> u64 {
        let sequence = self.figure(Figure::Intent) + 1;
        self.set(Figure::Intent, sequence);
        sequence
    }

    /// The message that was intended is published.
    pub fn commit(&self, sequence: u64) {
        self.set(Figure::Committed, sequence);
    }

    /// A message of `publisher` was handed over, and the next one is expected.
    pub fn handed(&self, publisher: usize, sequence: u64) {
        self.store(NEXT + publisher, sequence);
    }

    /// Messages are missing. Takes effect with [`Account::handed`] of the message behind them.
    pub fn skipped(&self, gap: Gap) {
        let at = self.figure(Figure::GapCount) as usize;
        if at >= GAPS {
            return self.add(Figure::Unlisted, gap.to - gap.from);
        }
        let words = [(gap.publisher as u64) << 1 | u64::from(gap.first), gap.from, gap.to, gap.start];
        for (offset, word) in words.into_iter().enumerate() {
            self.store(GAPS_AT + at * GAP_WORDS + offset, word);
        }
        self.add(Figure::GapCount, 1);
    }

    /// This process is about to exit with this code.
    pub fn exiting(&self, exit: Exit) {
        let at = self.figure(Figure::ExitCount) as usize;
        if at < EXITS {
            self.store(EXITS_AT + at, u64::from(exit.incarnation) << 32 | u64::from(exit.code));
        }
        // Beyond its room the count alone goes on, which whoever compares it with the list will notice.
        self.add(Figure::ExitCount, 1);
    }

    /// Sets a number. One writer, so a load and a store are an addition.
    pub fn set(&self, figure: Figure, value: u64) {
        self.store(figure as usize, value);
    }

    /// Adds to a number.
    pub fn add(&self, figure: Figure, value: u64) {
        self.set(figure, self.figure(figure) + value);
    }

    /// Raises a number, if it is lower.
    pub fn raise(&self, figure: Figure, value: u64) {
        if value > self.figure(figure) {
            self.set(figure, value);
        }
    }

    /// A predecessor died between intent and commit: the number is never used again.
    fn settle_intent(&self) {
        let intent = self.figure(Figure::Intent);
        if intent == self.figure(Figure::Committed) {
            return;
        }
        let known = self.doubtful().last() == Some(&intent);
        let at = self.figure(Figure::DoubtfulCount) as usize;
        if !known && at < DOUBTFUL {
            self.store(DOUBTFUL_AT + at, intent);
            self.add(Figure::DoubtfulCount, 1);
        }
        self.set(Figure::Committed, intent);
    }

    /// A predecessor died over the message behind a gap: the gap ends with the next message that is handed over.
    fn settle_gap(&self) {
        let Some(last) = self.gaps().last().copied() else { return };
        if self.next(last.publisher) <= last.from {
            self.set(Figure::GapCount, self.figure(Figure::GapCount) - 1);
        }
    }

    fn gap(&self, at: usize) -> Gap {
        let word = |offset| self.load(GAPS_AT + at * GAP_WORDS + offset);
        let (who, from, to, start) = (word(0), word(1), word(2), word(3));
        Gap { publisher: (who >> 1) as usize % PUBLISHERS, from, to, start, first: who & 1 == 1 }
    }

    fn list(&self, count: Figure, room: usize) -> std::ops::Range<usize> {
        0..(self.figure(count) as usize).min(room)
    }

    fn load(&self, at: usize) -> u64 {
        // Acquire: pairs with the Release in `store`, so that a count covers what it counts.
        self.words.all()[at].load(Acquire)
    }

    fn store(&self, at: usize, value: u64) {
        self.words.all()[at].store(value, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_between_intent_and_commit_leaves_one_doubtful_number_that_is_not_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let account = Account::resume(folder.path(), 0).unwrap();
        let first = account.intend();
        account.commit(first);
        assert_eq!(account.intend(), 2);
        drop(account);
        let account = Account::resume(folder.path(), 0).unwrap();
        assert_eq!(account.doubtful(), [2]);
        assert_eq!(account.figure(Figure::Starts), 2);
        assert_eq!(account.intend(), 3);
    }

    #[test]
    fn a_death_over_the_message_behind_a_gap_leaves_the_gap_open() {
        let folder = tempfile::tempdir().unwrap();
        let account = Account::resume(folder.path(), 0).unwrap();
        account.handed(1, 1);
        account.skipped(Gap { publisher: 1, from: 2, to: 5, start: 1, first: false });
        drop(account);
        let account = Account::resume(folder.path(), 0).unwrap();
        assert_eq!(account.gaps(), []);
        assert_eq!(account.next(1), 2);
    }

    #[test]
    fn a_gap_and_an_exit_are_kept_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let account = Account::resume(folder.path(), 0).unwrap();
        let gap = Gap { publisher: 5, from: 2, to: 5, start: 3, first: true };
        account.skipped(gap);
        account.handed(5, 5);
        account.exiting(Exit { incarnation: 4, code: 77 });
        drop(account);
        let account = Account::resume(folder.path(), 0).unwrap();
        assert_eq!(account.gaps(), [gap]);
        assert_eq!(account.exits(), [Exit { incarnation: 4, code: 77 }]);
    }
}
