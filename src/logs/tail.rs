//! The last lines of a file, read backwards.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The longest line that is handed out whole, in bytes.
pub const LINE_LIMIT: usize = 64 * 1024;

/// The most that is read of a file to find its last lines: 16 MiB.
pub(super) const READ_LIMIT: u64 = 16 * 1024 * 1024;
const BLOCK: u64 = 64 * 1024;

/// The last `lines` lines, oldest first, without their newlines; one that is not finished yet counts, too. Of a line
/// longer than [`LINE_LIMIT`] only its end is handed out. Reads backwards, and stops at 16 MiB.
///
/// # Errors
/// The file cannot be read.
pub fn tail(path: &Path, lines: usize) -> io::Result<Vec<Vec<u8>>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let start = start_of_last(&file, size, lines)?;
    let mut bytes = vec![0; (size - start) as usize];
    let read = read_up_to(&file, &mut bytes, start)?;
    bytes.truncate(read);
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    } else if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let shorten = |line: &[u8]| line[line.len().saturating_sub(LINE_LIMIT)..].to_vec();
    Ok(bytes.split(|byte| *byte == b'\n').map(shorten).collect())
}

/// Where the last `lines` lines before `end` begin.
fn start_of_last(file: &File, end: u64, lines: usize) -> io::Result<u64> {
    last_lines(file, end, lines, READ_LIMIT).map(|(start, _)| start)
}

/// Where the last `lines` lines before `end` begin, and how many there are, as far as `limit` bytes before it.
pub(super) fn last_lines(file: &File, end: u64, lines: usize, limit: u64) -> io::Result<(u64, usize)> {
    if lines == 0 || end == 0 {
        return Ok((end, 0));
    }
    let floor = end.saturating_sub(limit);
    let mut block = vec![0; BLOCK as usize];
    let mut at = end;
    let mut newlines = 0;
    while at > floor {
        let from = at.saturating_sub(BLOCK).max(floor);
        let part = &mut block[..(at - from) as usize];
        let read = read_up_to(file, part, from)?;
        for (place, _) in part[..read].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = from + place as u64 + 1;
            // The one that ends the last line begins none.
            if after == end {
                continue;
            }
            newlines += 1;
            if newlines == lines {
                return Ok((after, lines));
            }
        }
        at = from;
    }
    Ok((floor, newlines + 1))
}

/// Fills the buffer, or less at the end of a file that shrank meanwhile.
pub(super) fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(content: &[u8], lines: usize) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let lines = tail(file.path(), lines).unwrap();
        lines.into_iter().map(|line| String::from_utf8_lossy(&line).into_owned()).collect()
    }

    #[test]
    fn the_last_lines_come_oldest_first() {
        assert_eq!(last(b"a\nb\nc\n", 2), ["b", "c"]);
        assert_eq!(last(b"a\nb\nc\n", 9), ["a", "b", "c"]);
        assert_eq!(last(b"a\n\n\n", 2), ["", ""]);
        assert_eq!(last(b"a\nb\n", 0), [""; 0]);
        assert_eq!(last(b"", 3), [""; 0]);
    }

    #[test]
    fn a_line_without_an_end_counts() {
        assert_eq!(last(b"a\nb\nc", 2), ["b", "c"]);
        assert_eq!(last(b"a", 1), ["a"]);
    }

    #[test]
    fn lines_across_blocks_are_found_and_a_huge_one_is_shortened() {
        let many: String = (0..40_000).map(|n| format!("line {n}\n")).collect();
        let found = last(many.as_bytes(), 20_000);
        assert_eq!((found.len(), found[0].as_str()), (20_000, "line 20000"));
        let huge = [vec![b'x'; 300_000], b"\nlast\n".to_vec()].concat();
        let found = last(&huge, 2);
        assert_eq!((found[0].len(), found[1].as_str()), (LINE_LIMIT, "last"));
    }

    #[test]
    fn a_file_without_newlines_is_read_to_the_limit_only() {
        let found = last(&vec![b'x'; READ_LIMIT as usize + 1000], 1);
        assert_eq!((found.len(), found[0].len()), (1, LINE_LIMIT));
    }
}
