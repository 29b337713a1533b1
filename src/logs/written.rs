//! Which bytes of a log are one stream's, so that its last lines can be told from others' in the same file.
//!
//! Owns the places of the last bytes alone; the bytes are in the log. Costs a number or two for a stream that has its
//! file for itself.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::tail::{LINE_LIMIT, read_up_to};

/// Pieces that are remembered; of a file that is shared there may be one for each few lines.
const MOST: usize = 64;

/// The places.
#[derive(Debug, Clone, Default)]
pub struct Written {
    pieces: VecDeque<Piece>,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Device and inode of the log.
    identity: (u64, u64),
    from: u64,
    to: u64,
}

impl Written {
    /// Takes note of bytes that were written to a file.
    pub fn note(&mut self, identity: (u64, u64), from: u64, bytes: u64) {
        let to = from + bytes;
        match self.pieces.back_mut() {
            Some(last) if last.identity == identity && last.to == from => last.to = to,
            _ => {
                if self.pieces.len() == MOST {
                    self.pieces.pop_front();
                }
                self.pieces.push_back(Piece { identity, from, to });
            }
        }
    }

    /// Forgets all: the file was cut.
    pub fn clear(&mut self) {
        self.pieces.clear();
    }

    /// The last lines of what was written and is still in the file at `path`, oldest first, without their newlines.
    /// Reads [`LINE_LIMIT`] bytes at most.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn last_lines(&self, path: &Path, lines: usize) -> io::Result<Vec<Vec<u8>>> {
        if self.pieces.is_empty() || lines == 0 {
            return Ok(Vec::new());
        }
        let file = File::open(path)?;
        let found = file.metadata()?;
        let mut parts = Vec::new();
        let mut room = LINE_LIMIT as u64;
        for piece in self.pieces.iter().rev().filter(|piece| piece.identity == (found.dev(), found.ino())) {
            let from = piece.from.max(piece.to.saturating_sub(room));
            let mut bytes = vec![0; (piece.to - from) as usize];
            let read = read_up_to(&file, &mut bytes, from)?;
            bytes.truncate(read);
            room -= piece.to - from;
            parts.push(bytes);
            if room == 0 {
                break;
            }
        }
        parts.reverse();
        let text = parts.concat();
        let text = text.strip_suffix(b"\n").unwrap_or(&text);
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let all: Vec<Vec<u8>> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        Ok(all[all.len().saturating_sub(lines)..].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(written: &Written, path: &Path, lines: usize) -> Vec<String> {
        let lines = written.last_lines(path, lines).unwrap();
        lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn ones_own_lines_are_told_from_those_of_others_between_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a\nX\nb\nY\nZ\nc").unwrap();
        let found = file.as_file().metadata().unwrap();
        let identity = (found.dev(), found.ino());
        let mut written = Written::default();
        assert_eq!(last(&written, file.path(), 9), [""; 0]);
        for (from, bytes) in [(0, 2), (4, 1), (5, 1), (10, 1)] {
            written.note(identity, from, bytes);
        }
        assert_eq!(last(&written, file.path(), 9), ["a", "b", "c"]);
        assert_eq!(last(&written, file.path(), 2), ["b", "c"]);
        // Emptied since by somebody else.
        file.as_file().set_len(3).unwrap();
        assert_eq!(last(&written, file.path(), 9), ["a"]);
        written.note((0, 0), 0, 100);
        assert_eq!(last(&written, file.path(), 9), ["a"]);
    }

    #[test]
    fn little_is_remembered_and_little_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let many: String = (0..100_000).map(|number| format!("{number:05}\n")).collect();
        std::fs::write(file.path(), &many).unwrap();
        let found = file.as_file().metadata().unwrap();
        let mut written = Written::default();
        for piece in 0..1000 {
            written.note((found.dev(), found.ino()), piece * 600, 6);
        }
        assert_eq!(last(&written, file.path(), 1000).len(), MOST);
        written.note((found.dev(), found.ino()), 0, many.len() as u64);
        assert!(last(&written, file.path(), 1_000_000).len() < 20_000);
    }
}
