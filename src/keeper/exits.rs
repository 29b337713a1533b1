//! The exits that a supervisor has not acknowledged.
//!
//! Numbered from 1 without gaps, so that telling one twice does no harm and none can be missed.
//!
//! Invariant: never more than [`LIMIT`]. When it is full nothing is reaped; what ended waits as a zombie, with its
//! status, until a supervisor acknowledges.

use std::collections::VecDeque;

use super::protocol::Exit;
use super::sys::Ended;

/// The most exits that are held.
pub(super) const LIMIT: usize = 4096;

/// Exits in the order of their numbers.
#[derive(Debug)]
pub(super) struct Exits {
    table: VecDeque<Exit>,
    last: u64,
}

impl Exits {
    pub fn new() -> Exits {
        Exits { table: VecDeque::with_capacity(LIMIT), last: 0 }
    }

    pub fn is_full(&self) -> bool {
        self.table.len() >= LIMIT
    }

    /// Gives an exit its number.
    pub fn record(&mut self, ended: Ended) {
        self.last += 1;
        self.table.push_back(Exit {
            sequence: self.last,
            pid: ended.pid,
            pidfd_inode: ended.pidfd_inode,
            status: ended.status,
            user_time: ended.user_time,
            system_time: ended.system_time,
        });
    }

    /// Forgets all up to and including this number.
    pub fn acknowledge(&mut self, sequence: u64) {
        while self.table.front().is_some_and(|exit| exit.sequence <= sequence) {
            self.table.pop_front();
        }
    }

    /// The first one after this number.
    pub fn after(&self, sequence: u64) -> Option<&Exit> {
        let first = self.table.front()?.sequence;
        self.table.get(usize::try_from((sequence + 1).saturating_sub(first)).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::keeper::protocol::ExitStatus;

    fn with_exits(count: u32) -> Exits {
        let mut exits = Exits::new();
        for pid in 1..=count {
            exits.record(Ended {
                pid,
                pidfd_inode: 0,
                status: ExitStatus::Code(0),
                user_time: Duration::ZERO,
                system_time: Duration::ZERO,
            });
        }
        exits
    }

    fn told(exits: &Exits, mut after: u64) -> Vec<u64> {
        let mut told = Vec::new();
        while let Some(exit) = exits.after(after) {
            after = exit.sequence;
            told.push(after);
        }
        told
    }

    #[test]
    fn exits_are_told_in_order_until_acknowledged() {
        let mut exits = with_exits(4);
        assert_eq!(told(&exits, 0), [1, 2, 3, 4]);
        assert_eq!(told(&exits, 3), [4]);
        exits.acknowledge(2);
        assert_eq!(told(&exits, 0), [3, 4]);
        exits.acknowledge(99);
        assert_eq!(told(&exits, 0), [0; 0]);
    }

    #[test]
    fn a_full_table_says_so_until_one_is_acknowledged() {
        let mut exits = with_exits(LIMIT as u32);
        assert!(exits.is_full());
        exits.acknowledge(1);
        assert!(!exits.is_full());
    }
}
