//! The two tables of a keeper: descriptors that outlive a supervisor, and exits that none has acknowledged.
//!
//! A descriptor's name is sixteen bytes that nobody here reads. Names of a later release are kept like any other. Exits are numbered from 1 without gaps, so that telling one twice does no harm
//! and none can be missed.
//!
//! Invariants
//! - Neither holds more than its limit, and memory for that is set aside at the start. While the table of exits is full
//!   nothing is reaped: what ended waits as a zombie, with its status, until a supervisor acknowledges.
//! - Descriptors lie in the order of their names, so that a hand-over can go on after any name, whatever changed meanwhile.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::protocol::exit::SEQUENCE;
use super::protocol::{RawName, Words};

/// The most exits that are held.
pub(super) const EXITS: usize = 4096;

/// Named descriptors, one copy of each.
#[derive(Debug, Default)]
pub(super) struct Store {
    entries: Vec<(RawName, OwnedFd)>,
    limit: usize,
}

impl Store {
    /// An empty store for `limit` descriptors.
    pub fn new(limit: usize) -> Store {
        Store { entries: Vec::with_capacity(limit), limit }
    }

    /// Holds a descriptor; one of the same name is replaced and closed, also where the store is full. It then takes no
    /// further name, and answers false.
    pub fn put(&mut self, name: RawName, descriptor: OwnedFd) -> bool {
        match self.place(&name) {
            Ok(place) => self.entries[place].1 = descriptor,
            Err(_) if self.entries.len() >= self.limit => return false,
            Err(place) => self.entries.insert(place, (name, descriptor)),
        }
        true
    }

    /// Lets go of the descriptor of this name, if there is one.
    pub fn remove(&mut self, name: &RawName) -> Option<OwnedFd> {
        Some(self.entries.remove(self.place(name).ok()?).1)
    }

    pub fn get(&self, name: &RawName) -> Option<BorrowedFd<'_>> {
        Some(self.entries[self.place(name).ok()?].1.as_fd())
    }

    /// What follows this name, in order. No name is before one of zeroes.
    pub fn after(&self, name: &RawName) -> impl Iterator<Item = (RawName, BorrowedFd<'_>)> {
        let first = self.entries.partition_point(|(entry, _)| entry <= name);
        self.entries[first..].iter().map(|(name, descriptor)| (*name, descriptor.as_fd()))
    }

    fn place(&self, name: &RawName) -> Result<usize, usize> {
        self.entries.binary_search_by(|(entry, _)| entry.cmp(name))
    }
}

/// Exits in the order of their numbers.
#[derive(Debug)]
pub(super) struct Exits {
    table: VecDeque<Words>,
    /// The number of the last one that is not held any more.
    pub acknowledged: u64,
}

impl Exits {
    /// Goes on after the number `acknowledged`.
    pub fn new(acknowledged: u64) -> Exits {
        // Two more than it takes: supervisors are reaped also while it is full.
        Exits { table: VecDeque::with_capacity(EXITS + 2), acknowledged }
    }

    pub fn is_full(&self) -> bool {
        self.table.len() >= EXITS
    }

    /// Gives an exit its number.
    pub fn record(&mut self, mut exit: Words) {
        exit[SEQUENCE] = self.acknowledged + self.table.len() as u64 + 1;
        self.table.push_back(exit);
    }

    /// Forgets all up to and including this number.
    pub fn acknowledge(&mut self, sequence: u64) {
        while self.acknowledged < sequence && self.table.pop_front().is_some() {
            self.acknowledged += 1;
        }
    }

    /// The first one after this number.
    pub fn after(&self, sequence: u64) -> Option<&Words> {
        self.table.get(sequence.saturating_sub(self.acknowledged) as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn with_exits(count: u64) -> Exits {
        let mut exits = Exits::new(0);
        (1..=count).for_each(|_| exits.record(Words::default()));
        exits
    }

    fn told(exits: &Exits, mut after: u64) -> Vec<u64> {
        let mut told = Vec::new();
        while let Some(exit) = exits.after(after) {
            after = exit[SEQUENCE];
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
        let mut exits = with_exits(EXITS as u64);
        assert!(exits.is_full());
        exits.acknowledge(1);
        assert!(!exits.is_full());
    }

    #[test]
    fn an_heir_counts_on() {
        let mut before = with_exits(3);
        before.acknowledge(1);
        let mut exits = Exits::new(before.acknowledged);
        [before.after(0), before.after(2)].into_iter().for_each(|exit| exits.record(*exit.unwrap()));
        exits.record(Words::default());
        assert_eq!(told(&exits, 0), [2, 3, 4]);
    }

    fn name(number: u8) -> RawName {
        [number; 16]
    }

    fn descriptor() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    fn names(store: &Store, after: u8) -> Vec<u8> {
        store.after(&name(after)).map(|(name, _)| name[0]).collect()
    }

    fn filled(limit: usize, numbers: &[u8]) -> Store {
        let mut store = Store::new(limit);
        for number in numbers {
            assert!(store.put(name(*number), descriptor()));
        }
        store
    }

    #[test]
    fn a_hand_over_goes_on_after_a_name_even_when_that_one_is_gone() {
        let mut store = filled(9, &[5, 1, 3, 7]);
        assert_eq!(names(&store, 0), [1, 3, 5, 7]);
        assert_eq!(names(&store, 3), [5, 7]);
        store.remove(&name(3));
        assert_eq!(names(&store, 3), [5, 7]);
        assert_eq!(names(&store, 7), [0; 0]);
    }

    #[test]
    fn a_full_store_takes_no_new_name_but_replaces() {
        let mut store = filled(2, &[1, 2]);
        assert!(!store.put(name(3), descriptor()));
        assert!(store.put(name(2), descriptor()));
        store.remove(&name(1));
        assert!(store.put(name(3), descriptor()));
        assert_eq!(names(&store, 0), [2, 3]);
    }
}
