//! The accounts of a run, held against one another: what was sent, what arrived, and how each loss is explained.

use std::collections::{BTreeMap, BTreeSet};

use crate::account::{Account, Figure};

/// Messages that a worker can have in hand when it dies: one turn of the wire.
pub const IN_HAND: u64 = 256;

/// The sums over all accounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Messages whose publish has returned.
    pub sent: u64,
    /// Messages that were handed over, over all receivers; each once.
    pub received: u64,
    /// Messages that should have been handed over and were not.
    pub lost: u64,
    /// Of these: a worker had them in hand when it died.
    pub lost_in_hand: u64,
    /// Of these: their publisher died over them, so that they were never published.
    pub lost_uncommitted: u64,
    /// Of these: all others.
    pub lost_unexplained: u64,
    pub doubled: u64,
    pub reordered: u64,
    pub corrupt: u64,
    /// What the wire itself has reported as not kept.
    pub lagged: u64,
    pub longest_pause_us: u64,
    pub longest_publish_us: u64,
}

/// Adds the accounts of all workers up; their order is that of their indices.
pub fn of(accounts: &[Account]) -> Verdict {
    let doubtful: Vec<BTreeSet<u64>> =
        accounts.iter().map(|account| account.doubtful().into_iter().collect()).collect();
    let mut verdict = Verdict::default();
    for (index, account) in accounts.iter().enumerate() {
        verdict.sent += account.figure(Figure::Committed) - doubtful[index].len() as u64;
        verdict.doubled += account.figure(Figure::Doubled);
        verdict.reordered += account.figure(Figure::Reordered);
        verdict.corrupt += account.figure(Figure::Corrupt);
        verdict.lagged += account.figure(Figure::Lagged);
        verdict.longest_pause_us = verdict.longest_pause_us.max(account.figure(Figure::LongestPause));
        verdict.longest_publish_us = verdict.longest_publish_us.max(account.figure(Figure::LongestPublish));
        verdict.receiver(index, account, accounts, &doubtful);
    }
    verdict.lost = verdict.lost_in_hand + verdict.lost_uncommitted + verdict.lost_unexplained;
    verdict
}

/// Whether nobody publishes any more and everybody has been handed everything.
pub fn is_quiet(accounts: &[Account]) -> bool {
    let has_all = |index: usize, account: &Account| {
        let others = accounts.iter().enumerate().filter(|(other, _)| *other != index);
        others.into_iter().all(|(other, publisher)| account.next(other) > publisher.figure(Figure::Committed))
    };
    accounts.iter().all(|account| account.figure(Figure::Finished) == 1)
        && accounts.iter().enumerate().all(|(index, account)| has_all(index, account))
}

impl Verdict {
    fn receiver(&mut self, index: usize, account: &Account, accounts: &[Account], doubtful: &[BTreeSet<u64>]) {
        let mut missing = account.figure(Figure::Unlisted);
        self.lost_unexplained += missing;
        // By the start that noticed them: what its predecessor had in hand.
        let mut in_hand: BTreeMap<u64, u64> = BTreeMap::new();
        for gap in account.gaps() {
            let doubtful = doubtful.get(gap.publisher);
            let uncommitted = doubtful.map_or(0, |doubtful| doubtful.range(gap.from..gap.to).count() as u64);
            let rest = gap.to - gap.from - uncommitted;
            missing += gap.to - gap.from;
            self.lost_uncommitted += uncommitted;
            match gap.first && gap.start > 1 {
                true => *in_hand.entry(gap.start).or_default() += rest,
                false => self.lost_unexplained += rest,
            }
        }
        for count in in_hand.into_values() {
            self.lost_in_hand += count.min(IN_HAND);
            self.lost_unexplained += count.saturating_sub(IN_HAND);
        }
        for (other, publisher) in accounts.iter().enumerate().filter(|(other, _)| *other != index) {
            let (next, last) = (account.next(other), publisher.figure(Figure::Committed));
            self.received += next - 1;
            // What is missing at the end has no gap behind it.
            let tail = next..last.max(next - 1) + 1;
            let uncommitted = doubtful[other].range(tail.clone()).count() as u64;
            self.lost_uncommitted += uncommitted;
            self.lost_unexplained += tail.end - tail.start - uncommitted;
        }
        self.received -= missing;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::account::Gap;

    fn accounts(folder: &Path) -> Vec<Account> {
        (0..2).map(|index| Account::read(folder, index).unwrap()).collect()
    }

    /// Worker 0 publishes so many, the last of them left doubtful if so wished.
    fn publish(folder: &Path, count: u64, die_over_last: bool) {
        let account = Account::resume(folder, 0).unwrap();
        for _ in 0..count {
            let sequence = account.intend();
            if sequence < count || !die_over_last {
                account.commit(sequence);
            }
        }
        drop(account);
        if die_over_last {
            drop(Account::resume(folder, 0).unwrap());
        }
    }

    #[test]
    fn without_faults_everything_sent_is_received_by_all_others() {
        let folder = tempfile::tempdir().unwrap();
        publish(folder.path(), 5, false);
        Account::resume(folder.path(), 1).unwrap().handed(0, 5);
        let expected = Verdict { sent: 5, received: 5, ..Verdict::default() };
        assert_eq!(of(&accounts(folder.path())), expected);
    }

    #[test]
    fn what_a_dead_worker_had_in_hand_is_explained_up_to_one_turn() {
        let folder = tempfile::tempdir().unwrap();
        publish(folder.path(), 1000, false);
        let account = Account::resume(folder.path(), 1).unwrap();
        account.handed(0, 100);
        drop(account);
        let account = Account::resume(folder.path(), 1).unwrap();
        account.skipped(Gap { publisher: 0, from: 101, to: 401, start: 2, first: true });
        account.handed(0, 1000);
        let verdict = of(&accounts(folder.path()));
        assert_eq!((verdict.lost, verdict.lost_in_hand, verdict.lost_unexplained), (300, 256, 44));
        assert_eq!(verdict.received, 700);
    }

    #[test]
    fn what_a_publisher_died_over_is_explained_wherever_it_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        publish(folder.path(), 5, true);
        let receiver = Account::resume(folder.path(), 1).unwrap();
        receiver.handed(0, 4);
        let verdict = of(&accounts(folder.path()));
        assert_eq!((verdict.sent, verdict.received), (4, 4));
        assert_eq!((verdict.lost, verdict.lost_uncommitted), (1, 1), "at the end");
        receiver.skipped(Gap { publisher: 0, from: 5, to: 6, start: 1, first: false });
        receiver.handed(0, 6);
        let verdict = of(&accounts(folder.path()));
        assert_eq!((verdict.lost, verdict.lost_uncommitted), (1, 1), "in the middle");
    }

    #[test]
    fn a_gap_in_the_middle_and_a_missing_end_are_unexplained() {
        let folder = tempfile::tempdir().unwrap();
        publish(folder.path(), 9, false);
        let receiver = Account::resume(folder.path(), 1).unwrap();
        receiver.skipped(Gap { publisher: 0, from: 3, to: 5, start: 1, first: false });
        receiver.handed(0, 6);
        let verdict = of(&accounts(folder.path()));
        assert_eq!((verdict.lost, verdict.lost_unexplained, verdict.received), (5, 5, 4));
    }
}
