//! Where the programs lie that cargo has built.

use std::path::PathBuf;

use anyhow::{Context, bail};

/// The folder that this program was built into: `target/debug` or `target/release`.
pub fn build_folder() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("this program's own path is unknown")?;
    Ok(program.parent().context("this program has no folder")?.to_path_buf())
}

/// A program built beside this one.
pub fn built(name: &str) -> anyhow::Result<PathBuf> {
    let path = build_folder()?.join(name);
    if !path.exists() {
        bail!("{} is not there: build the workspace first (`cargo build -p herdwire -p flood`)", path.display());
    }
    Ok(path)
}
