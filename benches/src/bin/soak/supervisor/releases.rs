//! Releases that a supervisor is replaced by: good ones, and bad ones of every kind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use measure::place;

/// A program that may be a release.
#[derive(Debug)]
pub struct Release {
    pub path: PathBuf,
    pub is_good: bool,
}

/// Where an ELF file says for which machine it is.
const MACHINE: usize = 18;

/// Copies of the real program, which are good, and what is bad, in a folder of their own.
///
/// # Errors
/// They cannot be made.
pub fn make(folder: &Path) -> anyhow::Result<Vec<Release>> {
    let folder = folder.join("releases");
    fs::create_dir(&folder)?;
    let real = place::built("herdwire")?;
    let copy = |from: &Path, name: &str| -> anyhow::Result<PathBuf> {
        let path = folder.join(name);
        fs::copy(from, &path).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(path)
    };
    let foreign = copy(&real, "of-another-machine")?;
    let mut bytes = fs::read(&foreign)?;
    // EM_S390, which nobody of ours is.
    bytes[MACHINE..MACHINE + 2].copy_from_slice(&22_u16.to_le_bytes());
    fs::write(&foreign, bytes)?;
    let locked = copy(&real, "not-executable")?;
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o644))?;
    let text = folder.join("a-text");
    fs::write(&text, "this is no program\n")?;
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755))?;

    let good = [copy(&real, "herdwire-a")?, copy(&real, "herdwire-b")?];
    let mut bad = vec![
        copy(Path::new("/bin/true"), "exits-at-once")?,
        copy(Path::new("/bin/false"), "fails-at-once")?,
        foreign,
        locked,
        text,
        folder.clone(),
        folder.join("missing"),
    ];
    let misbehaving = place::built("examples/standby")?;
    for how in ["refuses", "dies-before", "dies-after", "silent-before", "silent-after"] {
        bad.push(copy(&misbehaving, how)?);
    }
    let release = |is_good| move |path| Release { path, is_good };
    // As many good ones as bad ones would be few.
    let good = good.into_iter().cycle().take(6).map(release(true));
    Ok(good.chain(bad.into_iter().map(release(false))).collect())
}
