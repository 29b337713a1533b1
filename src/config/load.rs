//! A configuration file from disk.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Problem};
use super::file::File;
use super::resolve::{Resolved, Surroundings, resolve};

/// Bytes of the largest file.
pub const MAX_FILE: u64 = 1 << 20;

/// A file that was read and resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The file, absolute.
    pub origin: PathBuf,
    /// What it says.
    pub resolved: Resolved,
}

/// Reads and resolves a `herdwire.toml`. Relative paths in it count from its folder, whatever `surroundings` says.
///
/// # Errors
/// Anything from a missing file to a script that is not there; the error names the file as it was given.
pub fn load(path: &Path, surroundings: &Surroundings) -> Result<Loaded, ConfigError> {
    try_load(path, surroundings).map_err(|error| error.in_file(path))
}

fn try_load(path: &Path, surroundings: &Surroundings) -> Result<Loaded, ConfigError> {
    let origin = std::path::absolute(surroundings.folder.join(path)).map_err(unreadable)?;
    let text = read(&origin)?;
    let folder = origin.parent().unwrap_or(Path::new("/")).to_owned();
    let file = File::parse(&text)?;
    if file.is_empty() {
        return Err(ConfigError::whole(Problem::Nothing));
    }
    let resolved = resolve(&file, &Surroundings { folder, ..surroundings.clone() })?;
    Ok(Loaded { origin, resolved })
}

fn read(path: &Path) -> Result<String, ConfigError> {
    // Without O_NONBLOCK a FIFO would wait for a writer.
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(ConfigError::whole(Problem::NotAFile));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ConfigError::whole(Problem::TooLong { limit: MAX_FILE }));
    }
    String::from_utf8(bytes).map_err(|_| ConfigError::whole(Problem::NotText))
}

fn unreadable(error: std::io::Error) -> ConfigError {
    ConfigError::whole(Problem::Unreadable(error))
}
