//! Reads log files from their last lines on, and goes on reading as they grow.
//!
//! A file may be truncated, replaced or missing at any moment; none of it is an error. What is held of a file is at
//! most [`LONGEST_LINE`]; a longer line is handed out in pieces.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Bytes of a line that are handed out as one.
pub const LONGEST_LINE: usize = 64 * 1024;
/// How far back the last lines are looked for.
const FURTHEST_BACK: u64 = 16 << 20;
const BLOCK: usize = 64 * 1024;

/// The last `count` lines of a file, without their line breaks.
///
/// # Errors
/// The file cannot be read.
pub fn tail(path: &Path, count: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    let mut reader = LogReader::open(path, count)?;
    let mut keep = |line: &[u8]| {
        lines.push(line.to_vec());
        Ok(())
    };
    reader.read(&mut keep)?;
    reader.finish(&mut keep)?;
    Ok(lines.split_off(lines.len().saturating_sub(count)))
}

/// One file that is read on and on.
pub struct LogReader {
    path: PathBuf,
    /// `None` while there is no file.
    file: Option<File>,
    position: u64,
    /// What was read of a line that has not ended yet.
    begun: Vec<u8>,
}

/// Where lines go.
type Emit<'e> = &'e mut dyn FnMut(&[u8]) -> io::Result<()>;

impl LogReader {
    /// Begins at the last `count` lines of what is there now.
    ///
    /// # Errors
    /// There is a file that cannot be read.
    pub fn open(path: &Path, count: usize) -> io::Result<LogReader> {
        let mut reader = LogReader { path: path.to_owned(), file: open(path)?, position: 0, begun: Vec::new() };
        if let Some(file) = &mut reader.file {
            reader.position = beginning_of_last(file, count)?;
        }
        Ok(reader)
    }

    /// Hands out every line that has ended by now.
    ///
    /// # Errors
    /// A read fails, or `emit` does.
    pub fn read(&mut self, emit: Emit<'_>) -> io::Result<()> {
        self.read_to_end(emit)?;
        if self.was_replaced()? {
            // What the old file still had was read above; its last line will not go on.
            self.finish(emit)?;
            self.file = open(&self.path)?;
            self.position = 0;
            self.read_to_end(emit)?;
        }
        Ok(())
    }

    /// Hands out the line that has not ended, if there is one.
    ///
    /// # Errors
    /// `emit` does not take it.
    pub fn finish(&mut self, emit: Emit<'_>) -> io::Result<()> {
        let begun = std::mem::take(&mut self.begun);
        if begun.is_empty() { Ok(()) } else { emit(&begun) }
    }

    fn read_to_end(&mut self, emit: Emit<'_>) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if file.metadata()?.len() < self.position {
            // Truncated: what is in it now is new.
            self.position = 0;
            self.begun.clear();
        }
        file.seek(SeekFrom::Start(self.position))?;
        let mut block = [0; BLOCK];
        loop {
            let read = match file.read(&mut block)? {
                0 => return Ok(()),
                read => read,
            };
            self.position += read as u64;
            hand_out(&mut self.begun, &block[..read], emit)?;
        }
    }

    fn was_replaced(&self) -> io::Result<bool> {
        let Ok(there) = fs::metadata(&self.path) else { return Ok(false) };
        let Some(file) = &self.file else { return Ok(true) };
        let ours = file.metadata()?;
        Ok((ours.dev(), ours.ino()) != (there.dev(), there.ino()))
    }
}

/// Cuts what was read into lines.
fn hand_out(begun: &mut Vec<u8>, mut bytes: &[u8], emit: Emit<'_>) -> io::Result<()> {
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        begun.extend_from_slice(&bytes[..end]);
        emit(begun)?;
        begun.clear();
        bytes = &bytes[end + 1..];
    }
    begun.extend_from_slice(bytes);
    if begun.len() >= LONGEST_LINE {
        emit(begun)?;
        begun.clear();
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the last `count` lines begin, as far back as is looked.
fn beginning_of_last(file: &File, count: usize) -> io::Result<u64> {
    let end = file.metadata()?.len();
    let furthest = end.saturating_sub(FURTHEST_BACK);
    if count == 0 {
        return Ok(end);
    }
    let mut block = vec![0; BLOCK];
    let (mut at, mut seen) = (end, 0);
    while at > furthest {
        let size = (BLOCK as u64).min(at - furthest) as usize;
        at -= size as u64;
        // A file that shrinks meanwhile ends the search; reading it notices.
        if file.read_exact_at(&mut block[..size], at).is_err() {
            return Ok(0);
        }
        for (offset, _) in block[..size].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = at + offset as u64 + 1;
            // The line break at the very end ends the last line and begins none.
            if after == end {
                continue;
            }
            seen += 1;
            if seen == count {
                return Ok(after);
            }
        }
    }
    Ok(furthest)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    fn texts(lines: Vec<Vec<u8>>) -> Vec<String> {
        lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
    }

    fn read(reader: &mut LogReader) -> Vec<String> {
        let mut lines = Vec::new();
        reader
            .read(&mut |line| {
                lines.push(line.to_vec());
                Ok(())
            })
            .unwrap();
        texts(lines)
    }

    fn append(path: &Path, text: &str) {
        OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn the_last_lines_are_found_whatever_the_file_ends_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for (text, count, last) in [
            ("", 3, vec![]),
            ("a\nb\nc\n", 2, vec!["b", "c"]),
            ("a\nb\nc", 2, vec!["b", "c"]),
            ("a\n\n", 5, vec!["a", ""]),
            ("a\nb\n", 0, vec![]),
            ("a\nb", 0, vec![]),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(texts(tail(&path, count).unwrap()), last, "{text:?}");
        }
        assert_eq!(tail(&folder.path().join("none"), 3).unwrap(), Vec::<Vec<u8>>::new());
        let many: String = (0..50_000).map(|number| format!("line {number}\n")).collect();
        fs::write(&path, many).unwrap();
        let last = texts(tail(&path, 20_000).unwrap());
        assert_eq!((last.len(), last[0].as_str(), last[19_999].as_str()), (20_000, "line 30000", "line 49999"));
    }

    #[test]
    fn a_line_is_handed_out_when_it_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut reader = LogReader::open(&path, 0).unwrap();
        assert_eq!(read(&mut reader), Vec::<String>::new());
        append(&path, "one\ntw");
        assert_eq!(read(&mut reader), ["one"]);
        append(&path, "o\n");
        assert_eq!(read(&mut reader), ["two"]);
    }

    #[test]
    fn truncation_and_replacement_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        append(&path, "a long first line\n");
        let mut reader = LogReader::open(&path, 5).unwrap();
        assert_eq!(read(&mut reader), ["a long first line"]);
        fs::write(&path, "b\n").unwrap();
        assert_eq!(read(&mut reader), ["b"]);
        append(&path, "rest of the old file");
        fs::rename(&path, folder.path().join("old")).unwrap();
        append(&path, "new\n");
        assert_eq!(read(&mut reader), ["rest of the old file", "new"]);
    }

    #[test]
    fn a_line_without_end_comes_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        append(&path, &"x".repeat(3 * LONGEST_LINE));
        let mut reader = LogReader::open(&path, 1).unwrap();
        let pieces = read(&mut reader);
        assert!(pieces.len() >= 3 && pieces.concat().len() == 3 * LONGEST_LINE, "{}", pieces.len());
    }
}
