//! Checks of every message of every sibling: it arrives once, in order and unharmed. What is not so goes into the account.

use crate::account::{Account, Figure, Gap, PUBLISHERS};
use crate::message;

/// Checks one process's messages.
#[derive(Debug)]
pub struct Verifier<'a> {
    account: &'a Account,
    size: usize,
    me: usize,
    start: u64,
    /// Whose messages this process has been handed already.
    heard: [bool; PUBLISHERS],
}

impl<'a> Verifier<'a> {
    /// Goes on where the account stands. Messages have `size` bytes.
    pub fn new(account: &'a Account, size: usize, me: usize) -> Verifier<'a> {
        Verifier { account, size, me, start: account.figure(Figure::Starts), heard: [false; PUBLISHERS] }
    }

    /// Takes one message.
    pub fn take(&mut self, payload: &[u8]) {
        let stamp = message::read(payload, self.size).filter(|stamp| {
            let publisher = stamp.publisher as usize;
            // One's own messages come from nobody else.
            publisher < PUBLISHERS && publisher != self.me && stamp.sequence > 0
        });
        let Some(stamp) = stamp else { return self.account.add(Figure::Corrupt, 1) };
        let (publisher, sequence) = (stamp.publisher as usize, stamp.sequence);
        let next = self.account.next(publisher);
        if sequence < next {
            return self.account.add(self.late(publisher, sequence), 1);
        }
        let first = !std::mem::replace(&mut self.heard[publisher], true);
        if sequence > next {
            self.account.skipped(Gap { publisher, from: next, to: sequence, start: self.start, first });
        }
        self.account.handed(publisher, sequence);
    }

    /// A message that was skipped comes late; any other has been here before.
    fn late(&self, publisher: usize, sequence: u64) -> Figure {
        let skipped = |gap: &Gap| gap.publisher == publisher && (gap.from..gap.to).contains(&sequence);
        match self.account.gaps().iter().any(skipped) {
            true => Figure::Reordered,
            false => Figure::Doubled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Stamp;

    const SIZE: usize = 64;

    fn message(publisher: u32, sequence: u64) -> Vec<u8> {
        let mut buffer = vec![0; SIZE];
        message::write(&mut buffer, Stamp { publisher, incarnation: 1, sequence });
        buffer
    }

    /// What the account of worker 0 says of [doubled, reordered, corrupt] and of gaps after these messages of worker 1.
    fn faults(sequences: &[u64]) -> ([u64; 3], Vec<Gap>) {
        let folder = tempfile::tempdir().unwrap();
        let account = Account::resume(folder.path(), 0).unwrap();
        let mut verifier = Verifier::new(&account, SIZE, 0);
        for sequence in sequences {
            verifier.take(&message(1, *sequence));
        }
        let figures = [Figure::Doubled, Figure::Reordered, Figure::Corrupt];
        (figures.map(|figure| account.figure(figure)), account.gaps())
    }

    #[test]
    fn messages_that_arrive_once_and_in_order_are_no_fault() {
        assert_eq!(faults(&[1, 2, 3, 4]), ([0, 0, 0], vec![]));
    }

    #[test]
    fn a_message_that_arrives_again_is_doubled() {
        assert_eq!(faults(&[1, 2, 2, 3, 1]).0, [2, 0, 0]);
    }

    #[test]
    fn a_message_that_does_not_arrive_is_a_gap() {
        let gap = Gap { publisher: 1, from: 2, to: 4, start: 1, first: false };
        assert_eq!(faults(&[1, 4, 5]), ([0, 0, 0], vec![gap]));
    }

    #[test]
    fn a_message_that_arrives_behind_a_later_one_is_reordered() {
        assert_eq!(faults(&[1, 3, 2, 4]).0, [0, 1, 0]);
    }

    #[test]
    fn a_harmed_message_a_foreign_one_and_ones_own_are_corrupt() {
        let folder = tempfile::tempdir().unwrap();
        let account = Account::resume(folder.path(), 0).unwrap();
        let mut verifier = Verifier::new(&account, SIZE, 0);
        let mut harmed = message(1, 1);
        harmed[40] ^= 1;
        verifier.take(&harmed);
        verifier.take(b"hello");
        verifier.take(&message(0, 1));
        assert_eq!(account.figure(Figure::Corrupt), 3);
        assert_eq!(account.next(1), 1);
    }

    #[test]
    fn a_successor_goes_on_where_its_predecessor_stood() {
        let folder = tempfile::tempdir().unwrap();
        let account = Account::resume(folder.path(), 0).unwrap();
        Verifier::new(&account, SIZE, 0).take(&message(1, 1));
        drop(account);
        let account = Account::resume(folder.path(), 0).unwrap();
        let mut verifier = Verifier::new(&account, SIZE, 0);
        verifier.take(&message(1, 3));
        verifier.take(&message(1, 5));
        let gap = |from, to, first| Gap { publisher: 1, from, to, start: 2, first };
        assert_eq!(account.gaps(), [gap(2, 3, true), gap(4, 5, false)]);
    }
}
