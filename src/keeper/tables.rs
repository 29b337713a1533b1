//! The two tables of a keeper: descriptors that outlive a supervisor, and exits that none has acknowledged.
//!
//! A descriptor's name is sixteen bytes that nobody here reads, but for the kinds "pidfd", in the end, and "lock". Names of a
//! later release are kept like any other. Exits are numbered from 1 without gaps, so that telling one twice does no harm
//! and none can be missed.
//!
//! Invariants
//! - Neither holds more than its limit, and memory for that is set aside at the start. While the table of exits is full
//!   nothing is reaped: what ended waits as a zombie, with its status, until a supervisor acknowledges.
//! - Descriptors lie in the order of their names, so that a hand-over can go on after any name, whatever changed meanwhile.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::protocol::{Exit, RawName};

/// The most exits that are held.
pub(super) const EXITS: usize = 4096;

/// Named descriptors, one copy of each.
#[derive(Debug)]
pub(super) struct Store {
    entries: Vec<(RawName, OwnedFd)>,
    limit: usize,
}

/// The store takes no further name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Store {
    /// An empty store for `limit` descriptors.
    pub fn new(limit: usize) -> Store {
        Store { entries: Vec::with_capacity(limit), limit }
    }

    /// Holds a descriptor; one of the same name is replaced and closed, which also a full store does.
    pub fn put(&mut self, name: RawName, descriptor: OwnedFd) -> Result<(), Full> {
        match self.place(&name) {
            Ok(place) => self.entries[place].1 = descriptor,
            Err(_) if self.entries.len() >= self.limit => return Err(Full),
            Err(place) => self.entries.insert(place, (name, descriptor)),
        }
        Ok(())
    }

    /// Closes the descriptor of this name, if there is one.
    pub fn remove(&mut self, name: &RawName) {
        if let Ok(place) = self.place(name) {
            self.entries.remove(place);
        }
    }

    /// What follows this name, in order; everything for `None`.
    pub fn after(&self, name: Option<&RawName>) -> impl Iterator<Item = (RawName, BorrowedFd<'_>)> {
        let first = match name.map(|name| self.place(name)) {
            None => 0,
            Some(Ok(place)) => place + 1,
            Some(Err(place)) => place,
        };
        self.entries[first..].iter().map(|(name, descriptor)| (*name, descriptor.as_fd()))
    }

    fn place(&self, name: &RawName) -> Result<usize, usize> {
        self.entries.binary_search_by(|(entry, _)| entry.cmp(name))
    }
}

/// Exits in the order of their numbers.
#[derive(Debug)]
pub(super) struct Exits {
    table: VecDeque<Exit>,
    last: u64,
}

impl Exits {
    /// Goes on after `last`, with those that were left unacknowledged.
    pub fn new(last: u64, left: Vec<Exit>) -> Exits {
        let mut table = VecDeque::with_capacity(EXITS);
        table.extend(left);
        Exits { table, last }
    }

    pub fn is_full(&self) -> bool {
        self.table.len() >= EXITS
    }

    /// Gives an exit its number.
    pub fn record(&mut self, exit: Exit) {
        self.last += 1;
        self.table.push_back(Exit { sequence: self.last, ..exit });
    }

    /// The number of the last one.
    pub fn last(&self) -> u64 {
        self.last
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
    use std::fs::File;
    use std::time::Duration;

    use super::*;
    use crate::keeper::protocol::ExitStatus;

    fn with_exits(count: usize) -> Exits {
        let mut exits = Exits::new(0, Vec::new());
        for pid in 1..=count {
            exits.record(Exit {
                sequence: 0,
                pid: pid as u32,
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
        let mut exits = with_exits(EXITS);
        assert!(exits.is_full());
        exits.acknowledge(1);
        assert!(!exits.is_full());
    }

    #[test]
    fn an_heir_counts_on() {
        let mut before = with_exits(3);
        before.acknowledge(1);
        let left = [before.after(0), before.after(2)].map(|exit| *exit.unwrap()).to_vec();
        let mut exits = Exits::new(before.last(), left);
        exits.record(*before.after(0).unwrap());
        assert_eq!(told(&exits, 0), [2, 3, 4]);
    }

    fn name(number: u8) -> RawName {
        [number; 16]
    }

    fn descriptor() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    fn names(store: &Store, after: Option<u8>) -> Vec<u8> {
        store.after(after.map(name).as_ref()).map(|(name, _)| name[0]).collect()
    }

    fn filled(limit: usize, numbers: &[u8]) -> Store {
        let mut store = Store::new(limit);
        for number in numbers {
            store.put(name(*number), descriptor()).unwrap();
        }
        store
    }

    #[test]
    fn a_hand_over_goes_on_after_a_name_even_when_that_one_is_gone() {
        let mut store = filled(9, &[5, 1, 3, 7]);
        assert_eq!(names(&store, None), [1, 3, 5, 7]);
        assert_eq!(names(&store, Some(3)), [5, 7]);
        store.remove(&name(3));
        assert_eq!(names(&store, Some(3)), [5, 7]);
        assert_eq!(names(&store, Some(7)), [0; 0]);
    }

    #[test]
    fn a_full_store_takes_no_new_name_but_replaces() {
        let mut store = filled(2, &[1, 2]);
        assert_eq!(store.put(name(3), descriptor()), Err(Full));
        assert_eq!(store.put(name(2), descriptor()), Ok(()));
        store.remove(&name(1));
        assert_eq!(store.put(name(3), descriptor()), Ok(()));
        assert_eq!(names(&store, None), [2, 3]);
    }
}
