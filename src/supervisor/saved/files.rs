//! Where the document lies: `saved` in the home, and the two before it.
//!
//! Invariants
//! - Under each name lies a whole document or nothing: it is written aside, synced, and renamed, the folder synced.
//! - A failure to write leaves what was there.
//! - Nothing is read that is not a plain file of our own.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::{BadText, Document, MAX_BYTES};

/// Documents kept, the newest included.
pub const GENERATIONS: usize = 3;

/// Files of one name that are kept though they cannot be used.
const BROKEN: u32 = 99;

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest whole one.
    pub document: Option<Document>,
    /// The file that it is in.
    pub used: Option<PathBuf>,
    /// Files that could not be used, newest first, and why.
    pub refused: Vec<(PathBuf, Unusable)>,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it belongs to user {0}")]
    Foreign(u32),
    #[error("it is not a plain file")]
    NotAFile,
    #[error("it is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error(transparent)]
    Text(#[from] BadText),
}

/// The file of a generation: `saved`, `saved.1`, ...
pub fn name(path: &Path, generation: usize) -> PathBuf {
    match generation {
        0 => path.to_owned(),
        n => path.with_extension(n.to_string()),
    }
}

/// Reads the newest whole document.
pub fn read(path: &Path) -> Found {
    let mut found = Found::default();
    for file in (0..GENERATIONS).map(|generation| name(path, generation)) {
        match read_one(&file) {
            Ok(document) => {
                (found.document, found.used) = (Some(document), Some(file));
                break;
            }
            Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(why) => found.refused.push((file, why)),
        }
    }
    found
}

fn read_one(path: &Path) -> Result<Document, Unusable> {
    // Without O_NONBLOCK a FIFO would wait for a writer.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
        match error.raw_os_error() {
            // A link, or a socket.
            Some(nix::libc::ELOOP | nix::libc::ENXIO) => Unusable::NotAFile,
            _ => Unusable::Io(error),
        }
    })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Unusable::NotAFile);
    }
    if metadata.uid() != geteuid().as_raw() {
        return Err(Unusable::Foreign(metadata.uid()));
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Unusable::TooLarge);
    }
    Ok(Document::from_text(&text)?)
}

/// Puts a file that cannot be used out of the way, under a name that no other has: `saved.1.broken`, `saved.1.broken.2`, ...
///
/// # Errors
/// It cannot be renamed, or so many lie there that somebody should have looked.
pub fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let named = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let mut names = std::iter::once(named(".broken")).chain((2..=BROKEN).map(|n| named(&format!(".broken.{n}"))));
    let free = names.find(|name| name.symlink_metadata().is_err());
    let aside = free.ok_or_else(|| io::Error::other(format!("{BROKEN} of its kind lie there already")))?;
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Writes a document; the one before it becomes `saved.1`. Blocks until it is on the disk.
///
/// # Errors
/// No room, no rights, a dead disk: the old ones are as they were.
pub fn write(path: &Path, document: &Document) -> io::Result<()> {
    let text = document.to_text().map_err(io::Error::other)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "what is to be saved is too large"));
    }
    let aside = path.with_extension("new");
    if is_being_written(&aside) {
        return Err(io::Error::new(io::ErrorKind::WouldBlock, "the supervisor before this one is still writing"));
    }
    let written = write_aside(&aside, &text).and_then(|file| {
        shift(path)?;
        // Locked until it is in its place.
        fs::rename(&aside, path).map(|()| drop(file))
    });
    if written.is_err() {
        // What could not be written whole is of no use; and if it cannot be removed, the next try writes over it.
        let _ = fs::remove_file(&aside);
    }
    written?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder)?.sync_all()
}

/// Whether another process writes: a supervisor that has frozen is not waited for when its disk hangs.
fn is_being_written(aside: &Path) -> bool {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(aside);
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Writes the text into a new file, which is locked.
fn write_aside(aside: &Path, text: &[u8]) -> io::Result<File> {
    match fs::remove_file(aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(aside)?;
    // On a file system without locks nobody can be asked to wait.
    let _ = file.try_lock();
    file.write_all(text)?;
    file.sync_all()?;
    Ok(file)
}

/// Moves the older ones on. The newest keeps its name until the next takes it: there is never none.
fn shift(path: &Path) -> io::Result<()> {
    let missing_is_fine = |done: io::Result<()>| match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    };
    for generation in (2..GENERATIONS).rev() {
        missing_is_fine(fs::rename(name(path, generation - 1), name(path, generation)))?;
    }
    missing_is_fine(fs::hard_link(path, name(path, 1)))
}
