//! Logs that instances write themselves (`log_mode = "file"`): nothing is lost of a program that hands over late.
//!
//! Owns how such a file is opened. It is put aside only when an instance is about to be started, since whoever writes to
//! it has it open; and never compressed, since a process that is about to end may still write to it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use super::file::{born_ms, wall_ms};
use super::{place, rotate};
use crate::config::spec::Rotation;

/// Opens a log for an instance to append to, after putting aside one that is due.
///
/// # Errors
/// Those of `open(2)` and `mkdir(2)`.
pub fn open_for_instance(path: &Path, rotation: &Rotation) -> io::Result<OwnedFd> {
    let found = path.metadata().ok().filter(|found| found.is_file());
    if let Some(found) = found {
        let age = Duration::from_millis(wall_ms().saturating_sub(born_ms(path)));
        if rotate::is_due(rotation, found.len(), age)
            && let Err(error) = rotate::put_aside(path, rotation.keep)
        {
            tracing::warn!("the log {} cannot be put aside: {error}", path.display());
        }
    }
    let open = || {
        let flags = libc::O_NOCTTY | place::follow(path);
        OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)
    };
    let opened: io::Result<File> = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Only the folder itself: a home that was removed must stay gone.
            DirBuilder::new().mode(0o700).create(path.parent().ok_or(error)?)?;
            open()
        }
        opened => opened,
    };
    opened.map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn an_instances_own_file_is_appended_to_and_put_aside_before_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/a.log");
        let rotation = Rotation { max_bytes: Some(8), ..Rotation::default() };
        for _ in 0..3 {
            File::from(open_for_instance(&path, &rotation).unwrap()).write_all(b"hello\n").unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello\n");
        let aside = &rotate::asides(&path)[0];
        assert_eq!(std::fs::read_to_string(&aside.path).unwrap(), "hello\nhello\n");
    }
}
