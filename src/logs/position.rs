//! How far a rendered log has got: committed after every batch, so that a successor goes on exactly there.
//!
//! A position says how long the log is and how much of every stream's spool stands in it. It is written after the batch
//! that it describes. So a log that is longer than its position says ends with a batch that was not committed: it is cut
//! back, and rendered again from the spools, which have not moved. A log that is shorter was truncated by somebody
//! else, and goes on from its end. One that is another file than the position says was put aside by a supervisor that
//! died before it could say so: that is only done between two batches, so the one that was put aside is whole.
//!
//! The one way to a line that stands there twice: somebody else renames the log, and the supervisor is killed in the
//! middle of a batch, within the second in which it has not noticed.
//!
//! Format: two slots of [`SLOT`] bytes, written in turn; each has a sequence number and a checksum, and the valid one
//! with the higher number counts, so that a commit that was not finished leaves the one before it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const MAGIC: [u8; 8] = *b"HWPLACE1";
const SLOT: u64 = 256 * 1024;
const HEADER: usize = 48;
const ENTRY: usize = 32;
/// Streams that one log can have at once.
pub const MOST: usize = (SLOT as usize - HEADER) / ENTRY;

/// Which spool, by the stream's numbers and its pipe's inode: neither is used again in one life of a keeper, and both
/// together in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpoolId {
    pub instance: u32,
    pub incarnation: u32,
    pub error: bool,
    pub pipe: u64,
}

/// What is committed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// Device and inode of the log.
    pub identity: (u64, u64),
    /// Its length.
    pub length: u64,
    /// How much of each spool stands in it or in those that were put aside.
    pub spools: BTreeMap<SpoolId, u64>,
}

/// The file of a log's positions.
#[derive(Debug)]
pub struct PositionFile {
    file: File,
    sequence: u64,
}

impl PositionFile {
    /// Opens or creates it, and says what was committed last.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn open(path: &Path) -> io::Result<(PositionFile, Position)> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let slots = [0, 1].map(|slot| read_slot(&file, slot));
        let newest = slots.into_iter().flatten().max_by_key(|(sequence, _)| *sequence);
        let (sequence, position) = newest.unwrap_or_default();
        Ok((PositionFile { file, sequence }, position))
    }

    /// Commits a position.
    ///
    /// # Errors
    /// It cannot be written, or has more than [`MOST`] spools: the one before still counts.
    pub fn commit(&mut self, position: &Position) -> io::Result<()> {
        if position.spools.len() > MOST {
            return Err(io::Error::other("too many streams write into one log"));
        }
        let sequence = self.sequence + 1;
        self.file.write_all_at(&encode(sequence, position), (sequence % 2) * SLOT)?;
        self.sequence = sequence;
        Ok(())
    }
}

fn encode(sequence: u64, position: &Position) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + position.spools.len() * ENTRY);
    bytes.extend_from_slice(&MAGIC);
    for word in [sequence, position.identity.0, position.identity.1, position.length] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&(position.spools.len() as u32).to_le_bytes());
    // The checksum's place.
    bytes.extend_from_slice(&[0; 4]);
    for (id, at) in &position.spools {
        for word in [id.instance, id.incarnation, u32::from(id.error), 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&id.pipe.to_le_bytes());
        bytes.extend_from_slice(&at.to_le_bytes());
    }
    let sum = crc32fast::hash(&bytes);
    bytes[HEADER - 4..HEADER].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn read_slot(file: &File, slot: u64) -> Option<(u64, Position)> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, slot * SLOT).ok()?;
    let count = u32::from_le_bytes(header[40..44].try_into().expect("four bytes")) as usize;
    if header[..8] != MAGIC || count > MOST {
        return None;
    }
    let mut bytes = vec![0; HEADER + count * ENTRY];
    file.read_exact_at(&mut bytes, slot * SLOT).ok()?;
    let told = u32::from_le_bytes(bytes[HEADER - 4..HEADER].try_into().expect("four bytes"));
    bytes[HEADER - 4..HEADER].fill(0);
    if crc32fast::hash(&bytes) != told {
        return None;
    }
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let entry = |at: usize| {
        let id =
            SpoolId { instance: short(at), incarnation: short(at + 4), error: short(at + 8) != 0, pipe: long(at + 16) };
        (id, long(at + 24))
    };
    let spools = (0..count).map(|number| entry(HEADER + number * ENTRY)).collect();
    Some((long(8), Position { identity: (long(16), long(24)), length: long(32), spools }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(length: u64) -> Position {
        let id = |instance| SpoolId { instance, incarnation: 2, error: instance == 1, pipe: 77 };
        Position { identity: (1, 2), length, spools: BTreeMap::from([(id(0), length), (id(1), 9)]) }
    }

    #[test]
    fn the_last_commit_is_found_and_one_that_is_damaged_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        let (mut file, none) = PositionFile::open(&path).unwrap();
        assert_eq!(none, Position::default());
        for length in 1..=5 {
            file.commit(&position(length)).unwrap();
            assert_eq!(PositionFile::open(&path).unwrap().1, position(length));
        }
        // The fifth stands in the second slot.
        for place in [SLOT, SLOT + 33, SLOT + 45, SLOT + HEADER as u64 + 60] {
            let (mut file, _) = PositionFile::open(&path).unwrap();
            file.commit(&position(4)).unwrap();
            file.commit(&position(5)).unwrap();
            let slot = (file.sequence % 2) * SLOT;
            let mut byte = [0];
            file.file.read_exact_at(&mut byte, slot + place - SLOT).unwrap();
            file.file.write_all_at(&[byte[0] ^ 0x10], slot + place - SLOT).unwrap();
            assert_eq!(PositionFile::open(&path).unwrap().1, position(4), "byte {place}");
        }
    }
}
