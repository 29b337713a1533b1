//! The descriptors that outlive a supervisor.
//!
//! Owns one copy of each. Does not know what they are: a name is sixteen bytes, of which only the kind "pidfd" is ever
//! looked at, by the sweep at the very end (`keeper::sweep`). Names of a later release are kept like any other.
//!
//! Invariants
//! - Never more than `limit` entries, and memory for all of them is set aside at the start.
//! - Entries lie in the order of their names, so that a hand-over can go on after any name, whatever changed meanwhile.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::protocol::RawName;

/// Named descriptors.
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

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
