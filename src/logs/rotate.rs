//! When a log is put aside, under which name, and which go.
//!
//! `app-out.log` becomes `app-out.log.000001`, the next one `.000002`: the highest number is the newest, and a number is
//! never another file's, so that whoever compresses or reads one need not fear that it is renamed meanwhile. Putting
//! aside is one `rename`: before it or after it, whenever the supervisor dies, every byte is in one file. The index of
//! times goes along (`app-out.log.000001.times`).
//!
//! Owns the names. Does not compress (`compress`) and does not open the next file (`target`).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::index;
use crate::config::spec::Rotation;

/// Digits of the number, so that names sort as they follow each other for a good while.
const DIGITS: usize = 6;

/// A log that was put aside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Aside {
    pub number: u64,
    pub path: PathBuf,
    pub compressed: bool,
}

impl Aside {
    /// Its path before it was compressed, beside which its index lies.
    pub fn plain(&self) -> PathBuf {
        match self.compressed {
            true => self.path.with_extension(""),
            false => self.path.clone(),
        }
    }
}

/// Whether a log of this size, with its first byte of that age, is put aside.
pub fn is_due(rotation: &Rotation, size: u64, age: Duration) -> bool {
    let by_size = rotation.max_bytes.is_some_and(|most| size >= most);
    let by_age = rotation.max_age.is_some_and(|most| age >= most);
    size > 0 && (by_size || by_age)
}

/// Everything that was put aside of a log, oldest first. One that is there plain and compressed was being compressed
/// when the supervisor died; the compressed one is whole.
pub fn asides(log: &Path) -> Vec<Aside> {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found: Vec<Aside> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let rest = name.to_str()?.strip_prefix(&prefix)?;
            let (digits, compressed) = match rest.strip_suffix(".gz") {
                Some(digits) => (digits, true),
                None => (rest, false),
            };
            Some(Aside { number: number(digits)?, path: entry.path(), compressed })
        })
        .collect();
    found.sort_by_key(|aside| (aside.number, !aside.compressed));
    found.dedup_by_key(|aside| aside.number);
    found
}

/// The logs in a folder of which something was put aside that is not compressed. One look through the folder.
pub fn plain_asides_in(folder: &Path) -> HashSet<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let log = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let (log, digits) = name.to_str()?.rsplit_once('.')?;
        number(digits).map(|_| folder.join(log))
    };
    entries.filter_map(log).collect()
}

/// The number at the end of the name of what was put aside.
fn number(digits: &str) -> Option<u64> {
    let is_number = digits.len() >= DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

/// Puts a log aside and removes what is too much. The log is gone from its place afterwards.
///
/// # Errors
/// It cannot be renamed: nothing has changed.
pub fn put_aside(log: &Path, keep: u32) -> io::Result<()> {
    let known = asides(log);
    if keep == 0 {
        fs::remove_file(log)?;
        // There may be none.
        let _ = fs::remove_file(index::path_of(log));
    } else {
        let number = known.last().map_or(1, |last| last.number + 1);
        let mut name = log.as_os_str().to_owned();
        name.push(format!(".{number:0DIGITS$}"));
        let aside = PathBuf::from(name);
        fs::rename(log, &aside)?;
        // A death in between costs the times of this file, not a line.
        let _ = fs::rename(index::path_of(log), index::path_of(&aside));
    }
    let too_many = (known.len() + 1).saturating_sub(keep.max(1) as usize).min(known.len());
    let surplus = if keep == 0 { known.len() } else { too_many };
    for old in &known[..surplus] {
        remove(old);
    }
    Ok(())
}

fn remove(old: &Aside) {
    let plain = old.plain();
    let mut compressed = plain.as_os_str().to_owned();
    compressed.push(".gz");
    for path in [index::path_of(&plain), plain, PathBuf::from(compressed)] {
        // What cannot be removed is tried again at the next rotation.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(log: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(log.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_log_is_due_by_size_or_by_age_but_never_when_it_is_empty() {
        let rotation = Rotation { max_bytes: Some(100), max_age: Some(Duration::from_secs(60)), ..Rotation::default() };
        let due = |size, age| is_due(&rotation, size, Duration::from_secs(age));
        assert_eq!([due(99, 59), due(100, 0), due(1, 60), due(0, 60)], [false, true, true, false]);
        let never = Rotation { max_bytes: None, max_age: None, ..Rotation::default() };
        assert!(!is_due(&never, u64::MAX, Duration::MAX));
    }

    #[test]
    fn numbers_grow_the_oldest_go_and_a_compressed_one_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        for turn in 1..=5 {
            fs::write(&log, turn.to_string()).unwrap();
            fs::write(index::path_of(&log), "").unwrap();
            put_aside(&log, 3).unwrap();
        }
        fs::write(folder.path().join("a.log.000004.gz"), "").unwrap();
        fs::write(folder.path().join("a.log.000004.gz.new"), "").unwrap();
        fs::write(folder.path().join("a.log.notes"), "").unwrap();
        let numbers: Vec<(u64, bool)> = asides(&log).iter().map(|aside| (aside.number, aside.compressed)).collect();
        assert_eq!(numbers, [(3, false), (4, true), (5, false)]);
        assert_eq!(fs::read_to_string(folder.path().join("a.log.000005")).unwrap(), "5");
        fs::write(&log, "6").unwrap();
        put_aside(&log, 1).unwrap();
        assert_eq!(names(&log), ["a.log.000004.gz.new", "a.log.000006", "a.log.notes"]);
    }

    #[test]
    fn with_nothing_to_keep_all_goes() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        fs::write(folder.path().join("a.log.000001.gz"), "").unwrap();
        fs::write(&log, "x").unwrap();
        put_aside(&log, 0).unwrap();
        assert_eq!(names(&log), [""; 0]);
        assert!(put_aside(&log, 3).is_err());
    }
}
